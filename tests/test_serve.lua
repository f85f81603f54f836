-- mocl serve: chat completions over HTTP with a preference, asked by a client of raw sockets

local T = require "t"
local child = require "child"
local chat_request = require "mocl.lm.chat_request"
local fs = require "mocl.fs"
local json = require "mocl.json"
local mocl = require "mocl"
local run = require "talk_run"
local serve = require "mocl.lm.serve"
local serving = require "serving"
local transformer = require "mocl.lm.model"

local last = serving.last
local chat, response, responses, events, joined = serving.chat, serving.response, serving.responses, serving.events, serving.joined

-- A server on any port, of the policy of the run or of m; its log is the second result.
local function server(o, m)
  serving.client()
  o = o or {}
  local log = {}
  o.port, o.log = 0, function(line)
    log[#log + 1] = line
  end
  return assert(serve.new(m or assert(mocl.load(run())), o)), log
end

-- A model with room for long answers, which begin with one token after the other and end late.
local dir
local function long_model()
  if not dir then
    dir = T.tmpdir()
    assert(transformer.save(transformer.new({ vocab_size = mocl.load(run()).tokenizer:vocab_size(), hidden_size = 16, num_hidden_layers = 1,
      num_attention_heads = 2, intermediate_size = 16, max_position_embeddings = 8192 }, { key = 3 }), dir))
    assert(fs.copy(run() .. "/tokenizer.json", dir .. "/tokenizer.json"))
  end
  local m = assert(mocl.load(dir))
  m.ends = function() -- none: an answer has its number of tokens
    return {}
  end
  return m
end

T.test("the models are a list, a page, and a slider; other paths are refused with words", function()
  local s <close> = server()
  local script = "open 0\n"
  for _, r in ipairs { { "GET", "/v1/models?q=1" }, { "GET", "/models/mocl%3Ahumor=0.3" }, { "GET", "/v1/models/x%2Fy" }, { "POST", "/v1/responses", "{}" },
    { "GET", "/v1/chat/completions" }, { "OPTIONS", "/v1/chat/completions" }, { "GET", "/" } } do
    script = script .. serving.request(r[1], r[2], r[3])
  end
  script = script .. last(serving.request("HEAD", "/v1/models")) .. "rest\n"
  local got = responses(serving.talk(s, script)[1][2]) -- all on one connection
  local status = {}
  for i, r in ipairs(got) do
    status[i] = r.status
    T.ok(r.whole or i == 8)
  end
  T.eq(status, { 200, 200, 404, 404, 405, 204, 200, 200 })
  local list = json.decode(got[1].body)
  T.eq({ list.object, #list.data, list.data[1].id, list.data[4].id }, { "list", 12, "mocl", "mocl:humor=0.2" })
  T.eq(json.decode(got[2].body).id, "mocl:humor=0.3")
  for i = 3, 5 do
    local e = json.decode(got[i].body).error
    T.ok(e.message:find(i == 5 and "takes POST, not GET" or "here", 1, true) and e.type == "invalid_request_error", got[i].body)
  end
  T.eq(got[5].headers.allow, "POST")
  T.eq(json.decode(got[7].body).objectives, { "humor", "helpful" })
end)

T.test("an answer is that of m:ask, whole and streamed, by field, header and name", function()
  local policy = assert(mocl.load(run()))
  local s <close> = server({}, policy)
  local want = policy:ask("how do i knit?", { humor = .9, seed = 5 })
  local script = "open 0\n" .. chat({ seed = 5, preference = { humor = .9 }, rewards = true, frobnicate = 1, temperature = json.null })
  .. chat({ seed = 5, model = "mocl:humor=.9" }) .. chat({ seed = 5, stream = false }, { ["X-Mocl-Preference"] = "humor=.9,helpful=.1" })
    .. chat({ seed = 5, preference = "helpful=.1", stream = true, stream_options = { include_usage = true } })
    .. chat({ seed = 5, preference = { .9, .1 }, stream = true, messages = { { role = "system", content = "x" }, { role = "user", content =
      { { type = "text", text = "how do " }, { type = "text", text = "i knit?" } } } } }) .. last(chat { preference = {} }) .. "rest\n"
  local got = responses(serving.talk(s, script)[1][2])
  T.eq(#got, 6)
  for i = 1, 3 do
    local a = json.decode(got[i].body)
    -- what is no UTF-8 comes as U+FFFD
    T.eq(a.choices[1].message, json.decode(json.encode({ role = "assistant", content = want }, { replace_invalid = true })))
    T.eq({ a.object, a.choices[1].index, a.model }, { "chat.completion", 0, i == 2 and "mocl:humor=.9" or "mocl" })
    T.ok(a.id:find "^chatcmpl%-" and math.type(a.created) == "integer" and a.usage.total_tokens == a.usage.prompt_tokens + a.usage.completion_tokens)
    T.ok(a.choices[1].finish_reason == "stop" or a.choices[1].finish_reason == "length")
    T.near(a.preference.humor, .9, 1e-12)
  end
  T.eq(json.decode(got[1].body).rewards, { policy:score("how do i knit?", want) })
  for i = 4, 5 do
    T.eq({ got[i].status, got[i].headers["content-type"], got[i].whole }, { 200, "text/event-stream; charset=utf-8", true })
    local list = events(got[i].body)
    local texts, finish, roles = joined(list)
    T.eq({ #texts, texts[1], roles }, { 1, json.decode(json.encode(want, { replace_invalid = true })), 1 })
    T.eq(finish[1], json.decode(got[1].body).choices[1].finish_reason)
    T.eq(list[#list], "[DONE]")
    T.near(list[1].preference.humor, .9, 1e-12)
    T.eq({ list[1].object, list[1].choices[1].delta.role }, { "chat.completion.chunk", "assistant" })
    local last = list[#list - 1]
    T.eq(#last.choices, i == 4 and 0 or 1)
    T.eq(last.usage and last.usage.total_tokens, i == 4 and json.decode(got[1].body).usage.total_tokens or nil)
  end
  T.eq(json.decode(got[6].body).preference, { humor = .5, helpful = .5 })
end)

T.test("several answers, their log-probabilities, and texts that end them", function()
  local m = assert(mocl.load(run()))
  local s <close> = server({}, m)
  local made, logp = m.model:generate({ m:ids("how do i knit?"), m:ids("how do i knit?"), m:ids("how do i knit?") }, { max_new_tokens = 20,
    eos = m:ends(), key = m:key(3), vocab_size = m:vocab_size() })
  local texts = {}
  for i = 1, 3 do
    texts[i] = json.decode(json.encode(m.tokenizer:decode(made.tokens[i], { skip_special = true }), { replace_invalid = true }))
  end
  local whole = m.tokenizer:decode(made.tokens[1], { skip_special = true })
  local from, stop = 0, nil
  for i = 5, #whole - 1 do -- two characters of the first answer that stand nowhere before
    local two = whole:sub(i, i + 1)
    if not stop and two:find "^[%w ]+$" and whole:find(two, 1, true) == i then
      from, stop = i, two
    end
  end
  T.ok(stop, whole)
  local same = { seed = 3, max_completion_tokens = 20, max_tokens = 400, n = 3, logprobs = true, top_logprobs = 3 }
  local streamed = { stream = true, seed = 3, max_tokens = 20, stop = { "\n\n\n\n", stop }, logprobs = true }
  local script = "open 0\n" .. chat(same) .. chat(streamed) .. last(chat { seed = 3, max_tokens = 20, temperature = 0, top_p = 0 })
    .. "rest\n"
  local got = responses(serving.talk(s, script)[1][2])
  local a, all, at = json.decode(got[1].body), logp:totable(), 0
  T.eq(#a.choices, 3)
  for i = 1, 3 do
    local c = a.choices[i]
    T.eq({ c.index, c.message.content }, { i - 1, texts[i] })
    local bytes = {}
    for k, place in ipairs(c.logprobs.content) do
      bytes[k] = string.char(table.unpack(place.bytes))
      T.near(place.logprob, all[at + k], 1e-5) -- temperature 1 and all tokens: what is drawn from
      T.ok(#place.top_logprobs == 3 and place.top_logprobs[1].logprob >= place.top_logprobs[2].logprob)
    end
    T.eq(table.concat(bytes), m.tokenizer:decode(made.tokens[i], { skip_special = true }))
    T.eq(c.logprobs.refusal, json.null)
    at = at + #made.tokens[i]
  end
  local first = m:top("how do i knit?", 3)
  for j, t in ipairs(a.choices[1].logprobs.content[1].top_logprobs) do
    T.near(math.exp(t.logprob), first[j].p, 1e-6)
  end
  local list = events(got[2].body)
  local cut, finish = joined(list)
  T.eq({ cut[1], finish[1] }, { json.decode(json.encode(whole:sub(1, from - 1), { replace_invalid = true })), "stop" })
  local bytes = {}
  for _, e in ipairs(list) do
    local lp = e ~= "[DONE]" and e.choices[1].logprobs
    for _, place in ipairs(lp and lp ~= json.null and lp.content or {}) do
      bytes[#bytes + 1] = string.char(table.unpack(place.bytes))
    end
  end
  T.eq(table.concat(bytes):sub(1, from - 1), whole:sub(1, from - 1))
  local n, length = 0, 0 -- tokens that begin before the cut
  for _, id in ipairs(made.tokens[1]) do
    n, length = n + (length < from - 1 and 1 or 0), length + #m.tokenizer:decode { id }
  end
  T.eq(#bytes, n)
  T.eq(json.decode(got[3].body).choices[1].message.content, json.decode(json.encode(m:ask("how do i knit?", { temperature = 0,
    max_new_tokens = 20 }), { replace_invalid = true })))
end)

T.test("what is wrong is refused before anything is computed, with the field's name", function()
  local policy = assert(mocl.load(run()))
  local messages = { { role = "user", content = "x" } }
  local function refused(fields, status, param, pattern, headers)
    local body = fields
    if type(fields) == "table" then
      fields.model, fields.messages = fields.model or "mocl", fields.messages or messages
      body = json.encode(fields)
    end
    local q, e = chat_request.read(body, headers or {}, policy, "mocl")
    T.eq(q, nil, body)
    T.eq({ e.status, e.param }, { status, param }, e.message)
    T.ok(e.message:find(pattern), e.message)
    T.eq(e.message:find "%.lua:", nil, e.message)
    local t = json.decode(chat_request.error_body(e)).error
    T.eq({ t.message, t.type, t.param }, { e.message, "invalid_request_error", param or json.null })
  end
  refused("{", 400, nil, "no JSON object: line 1")
  refused("", 400, nil, "no JSON object")
  refused("null", 400, nil, "no JSON object")
  refused("[]", 400, "messages", "not empty expected")
  refused({ model = "gpt-4o" }, 404, "model", "'gpt%-4o' is not here: this server has 'mocl', and 'mocl:humor=.7'")
  refused({ model = 5 }, 400, "model", "a text expected")
  refused({ model = "mocl:humr=.7" }, 400, "preference", "no objective 'humr', did you mean 'humor'")
  refused({ model = "mocl:humor" }, 400, "model", "no weight such as humor=.7")
  refused({ model = "mocl:humor=.2,humor=.3" }, 400, "model", "humor stands there twice")
  refused({ preference = { humor = 2 } }, 400, "preference", "weight of humor")
  refused({ preference = { .5, "x" } }, 400, "preference", "entry 2 is a string")
  refused({ preference = { humor = {} } }, 400, "preference", "got a table$")
  refused({ preference = { { 1 }, 1 } }, 400, "preference", "preference {a table, 1}")
  refused({ preference = 5 }, 400, "preference", "got 5")
  refused({ preference = { humor = json.null } }, 400, "preference", "weight of humor")
  refused({ preference = { humor = .5 }, model = "mocl:humor=.5" }, 400, "preference", "the field preference and the name of the model both")
  refused({ preference = { humor = .5 } }, 400, "preference", "and the header", { ["x-mocl-preference"] = "humor=.5" })
  refused({}, 400, "x-mocl-preference", "no weight", { ["x-mocl-preference"] = "humor" })
  refused({ messages = {} }, 400, "messages", "not empty")
  refused({ messages = { 5 } }, 400, "messages", "messages%[0%]: an object")
  refused({ messages = { { role = "tool", content = "x" } } }, 400, "messages", 'role "tool" is none of')
  refused({ messages = { { content = "x" } } }, 400, "messages", "the role is missing")
  refused({ messages = { { role = "user" } } }, 400, "messages", "content is to be a text or a list of parts, got none")
  refused({ messages = { { role = "user", content = { { type = "image_url" } } } } }, 400, "messages", "part 1 is no")
  refused({ messages = { { role = "user", content = { type = "text", text = "x" } } } }, 400, "messages", "a list of parts, got an object")
  refused({ messages = { messages[1], { role = "assistant", content = "x" } } }, 400, "messages", "the last one is to be the user's")
  refused({ messages = { { role = "user", content = ("word "):rep(500) } } }, 400, "messages", "shorten the messages")
  refused({ tools = { { type = "function" } } }, 400, "tools", "tools are not supported")
  refused({ response_format = { type = "json_object" } }, 400, "response_format", '"json_object" is not supported')
  refused({ response_format = "json_object" }, 400, "response_format", '"json_object" is not supported')
  refused({ stop = { x = "y" } }, 400, "stop", "a list of texts expected, got an object")
  refused({ presence_penalty = .5 }, 400, "presence_penalty", "leave it out, or say 0")
  refused({ logit_bias = { ["5"] = 1 } }, 400, "logit_bias", "not supported")
  refused({ temperature = -1 }, 400, "temperature", "a number from 0 to 1e%+06 expected, got %-1")
  refused({ temperature = 1e-300 }, 400, "temperature", "0, for the likeliest token, or at least 1e%-06 expected")
  refused({ temperature = 1e300 }, 400, "temperature", "to 1e%+06 expected")
  refused('{"model":"mocl","messages":[{"role":"user","content":"x"}],"temperature":1e400}', 400, "temperature", "a number from 0 to 1e%+06 expected")
  refused({ top_p = 1.5 }, 400, "top_p", "from 0 to 1")
  refused({ n = 17 }, 400, "n", "a whole number from 1 to 16")
  refused({ n = 1.5 }, 400, "n", "a whole number")
  refused({ seed = "x" }, 400, "seed", "a whole number")
  refused({ max_tokens = 0 }, 400, "max_tokens", "from 1 expected, got 0")
  refused({ stop = { "" } }, 400, "stop", "not empty")
  refused({ stop = 5 }, 400, "stop", "a text or a list")
  refused({ stream = "yes" }, 400, "stream", 'true or false expected, got "yes"')
  refused({ top_logprobs = 2 }, 400, "top_logprobs", "needs logprobs")
  refused({ logprobs = true, top_logprobs = 21 }, 400, "top_logprobs", "0 to 20")
  -- what clients send and nobody minds
  local q = assert(chat_request.read(json.encode { model = "mocl", messages = { { role = "developer", content = "x" }, messages[1] }, tools = json.array(),
    tool_choice = "auto", response_format = { type = "text" }, presence_penalty = 0, user = "me", stop = json.null, seed = -3, n = 1.0,
    max_tokens = 7, max_completion_tokens = 9 }, {}, policy, "mocl"))
  T.eq({ q.max_tokens, q.seed, q.n, q.text }, { 7, -3, 1, "x" })
  q = assert(chat_request.read(json.encode { messages = messages }, {}, policy, "mocl"))
  T.eq({ q.max_tokens, q.requested, q.p }, { policy.max_new_tokens, "mocl", { .5, .5 } })
end)

T.test("a request neither writes lines of its own into the log nor commands the terminal", function()
  local s <close>, log = server()
  serving.talk(s, "open 0\n" .. last(serving.request("GET", "/%1b[31mred%0aforged: 5 tokens%7f")) .. "rest\n")
  T.eq(log, { [[GET /\x1b[31mred\x0aforged: 5 tokens\x7f: 404 there is no /\x1b[31mred\x0aforged: 5 tokens\x7f here; ]]
    .. "this server has POST /v1/chat/completions and GET /v1/models" })
end)

T.test("a client that hangs up in mid-stream stops its answer, and the next request is served", function()
  local s <close>, log = server({}, long_model())
  for _, way in ipairs { "close", "reset", "half" } do
    local count = #log
    local fields = { stream = true, max_tokens = 8000, n = 4, temperature = 1 }
    local got = serving.talk(s, "open 0\n" .. chat(fields) .. 'until "content":"\n' .. way .. "\n"
      .. "open 1\n" .. last(chat { max_tokens = 3 }) .. "rest\n")
    T.eq(response(got[2][2]).status, 200)
    local left = table.concat(log, "\n", count + 1):match "the client has left after (%d+) tokens"
    T.ok(left and tonumber(left) < 4 * 8000, way .. ": " .. table.concat(log, "\n", count + 1))
  end
  -- one that is asked whole, and one that has not been begun
  local count = #log
  local script = "open 0\n" .. chat { max_tokens = 8000, n = 4 } .. "open 1\n" .. chat { max_tokens = 2 } .. 'until "choices"\nuse 0\nclose\n'
  serving.talk(s, script)
  for _ = 1, 50 do
    s:round(0)
  end
  T.ok(table.concat(log, "\n", count + 1):find "has left after", table.concat(log, "\n"))
  T.eq({ #s.running, #s.waiting }, { 0, 0 })
end)

T.test("no answer waits for another's end, and a request above the bound is sent away", function()
  local m = long_model()
  local s <close>, log = server({ parallel = 2, waiting = 1 }, m)
  local got = serving.talk(s, "open 0\n" .. last(chat { stream = true, max_tokens = 1500 }) .. 'until "content":"\nopen 1\n'
    .. last(chat { max_tokens = 3 }) .. "rest\nuse 0\nrest\n")
  T.eq(#got, 3)
  T.ok(log[1]:find "+ 3 tokens" and log[2]:find "+ 1500 tokens", table.concat(log, "\n"))
  local begin = { stream = true, max_tokens = 3000 }
  -- the streams have begun once their first event is there, in whichever order they are computed
  got = serving.talk(s, "open 0\n" .. chat(begin) .. "until assistant\nopen 1\n" .. chat(begin) .. "until assistant\nopen 2\n" .. chat(begin)
    .. "until assistant\nopen 3\n" .. last(chat {}) .. 'rest\nuse 0\nclose\nuse 1\nclose\nuse 2\nuntil "content":"\nclose\n')
  local r = response(got[4][2])
  T.eq({ r.status, r.headers["retry-after"] }, { 503, "1" })
  T.ok(json.decode(r.body).error.message:find "3 requests are being answered or wait; ask again")
end)

T.test("who waits gets comments in a stream and blanks before JSON", function()
  local s <close> = server({ keep_alive = 0 }, long_model())
  local got = serving.talk(s, "open 0\n" .. last(chat { stream = true, max_tokens = 5, seed = 1 }) .. "rest\nopen 1\n"
    .. last(chat { max_tokens = 5, seed = 1 }) .. "rest\n")
  local stream, whole = response(got[1][2]), response(got[2][2])
  local list, comments = events(stream.body)
  T.ok(comments >= 1, stream.body)
  T.ok(whole.whole and whole.chunks and whole.body:find "^ +{", whole.body)
  T.eq(joined(list)[1], json.decode(whole.body).choices[1].message.content)
end)

T.test("large bodies, slow ones, and those that are cut off", function()
  local s <close> = server()
  local long_text = ("x"):rep(2 ^ 21 // 1)
  local got = serving.talk(s, "open 0\n" .. chat({ messages = { { role = "system", content = long_text }, { role = "user", content = "hi" } } })
    .. last(chat({ seed = 1 }, nil, "slow")) .. "rest\n")
  local list = responses(got[1][2])
  T.eq({ list[1].status, list[2].status }, { 200, 200 }, list[1].body:sub(1, 300))
  local big = ("x"):rep(17 * 2 ^ 20 // 1)
  got = serving.talk(s, "open 0\n" .. last(serving.request("POST", "/v1/chat/completions", big)) .. "rest\n")
  local r = response(got[1][2])
  T.eq(r.status, 413)
  T.ok(json.decode(r.body).error.message:find "16 MiB")
  got = serving.talk(s, "open 0\nsend 70\n" .. ("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5"):sub(1, 70) .. "\nclose\n"
    .. "open 1\nsend 16\nno HTTP at all\r\n\nhalf\nrest\nopen 2\n" .. last(chat {}) .. "rest\n")
  T.ok(got[1][2]:find "^HTTP/1.[01] 400" or got[1][2] == "", got[1][2])
  T.eq(response(got[2][2]).status, 200)
end)

T.test("a page of another site may not ask, one of this machine may", function()
  local s <close> = server()
  local ask = serving.request("GET", "/v1/models", nil, { Origin = "http://evil.example" }) .. serving.request("GET", "/v1/models", nil,
    { Origin = "http://localhost:3000" })
  local evil = "GET /v1/models HTTP/1.1\r\nHost: evil.example:80\r\n\r\n"
  local got = responses(serving.talk(s, "open 0\n" .. ask .. ("send %d\n%s\n"):format(#evil, evil) .. "half\nrest\n")[1][2])
  T.eq({ got[1].status, got[2].status, got[3].status }, { 403, 200, 403 })
  T.eq({ got[1].headers["access-control-allow-origin"], got[2].headers["access-control-allow-origin"] }, { nil, "http://localhost:3000" })
end)

T.test("an answer that fails says so once: 500 that is not asked again, an error in the stream", function()
  local m = assert(mocl.load(run()))
  local s <close> = server({}, m)
  local model = m.model
  m.model = setmetatable({}, { __index = function(_, key)
    return key == "session" and function()
      error("no memory for a session", 0)
    end or function(_, ...)
      return model[key](model, ...)
    end
  end })
  local got = responses(serving.talk(s, "open 0\n" .. chat {} .. chat { stream = true } .. last(serving.request("GET", "/health")) .. "rest\n")[1][2])
  T.eq({ got[1].status, got[1].headers["x-should-retry"] }, { 500, "false" })
  T.ok(json.decode(got[1].body).error.message:find "no memory for a session")
  T.ok(got[2].whole)
  local list = events(got[2].body)
  T.eq(list[#list].error.message, "no memory for a session")
  T.eq(got[3].status, 200)
end)

T.test("a port that is taken, and none", function()
  local s <close> = server()
  T.fails(("port %d: Address already in use; another program has it: choose another port"):format(s:port()), serve.new, s.m, { port = s:port() })
  T.raises("port = 70000 is outside", serve.new, s.m, { port = 70000 })
  local _, err, status = child.mocl { "serve", run(), "port=" .. s:port() }
  T.eq(status, 1)
  T.ok(err:find("option port: httpd: port", 1, true), err)
  _, err, status = child.mocl { "serve" }
  T.ok(status == 1 and err:find("name a model: mocl serve DIR|FILE.gguf|RUN", 1, true), err)
end)

T.test("mocl serve: Ctrl-C tells who waits, and ends with 130", function()
  local client = serving.client()
  local to, model = T.tmpdir(), long_model().path
  assert(fs.write(to .. "/script", "open 0\n" .. chat { stream = true, max_tokens = 8000, n = 16 } .. 'until "content":"\nrest\n'))
  local _, err, status = child.shell((child.AWAIT .. [[
"$MOCL" serve %s port=0 > %s/log 2> %s/err & pid=$!
await grep http %s/log
port=$(sed -n 's|.*127.0.0.1:\([0-9]*\)/.*|\1|p' %s/log)
%s $port < %s/script > %s/got & client=$!
await grep -a content %s/got
kill -INT $pid
wait $client || exit 9
wait $pid]]):format(model, to, to, to, to, child.quote(client), to, to, to))
  T.eq(status, 130, err)
  local got = child.read(to .. "/got")
  T.ok(got:find('data: {"error":{"code":null,"message":"the server was stopped"', 1, true) and got:find "\r\n0\r\n\r\n$", got:sub(-300))
  T.ok(child.read(to .. "/log"):find " as the model mocl; Ctrl%-C ends it\n$", child.read(to .. "/log"))
end)
