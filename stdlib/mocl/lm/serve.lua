--- mocl.lm.serve: OpenAI-style chat completions over HTTP on loopback, with a preference. One process and one thread:
-- between two tokens it looks at the sockets (mocl.httpd), so that a client that has left is noticed, and each answer
-- under way gets one token in turn (mocl.lm.answer), so that none waits for another one's end. docs/serve.md has the
-- protocol.

local answer = require "mocl.lm.answer"
local chat_request = require "mocl.lm.chat_request"
local httpd = require "mocl.httpd"
local json = require "mocl.json"
local options = require "mocl.options"
local preference = require "mocl.preference"
local sys = require "mocl.sys"

local serve = {}

local Server = {}
Server.__index = Server

local NAME = "mocl" -- of the model, for clients
local OPTIONS = { "port", "parallel", "waiting", "keep_alive", "log" }
local EVENTS = { ["content-type"] = "text/event-stream; charset=utf-8", ["cache-control"] = "no-cache" }
local JSON = { ["content-type"] = "application/json" }

--- serve.new(m, o) -> s | fail. m: a loaded model. o: port (8080; 0 is any that is free), parallel (4): answers that
-- are computed at once, waiting (32): requests that wait for one to end before others are sent away with 503,
-- keep_alive (15): seconds of silence before a client gets a comment or a blank, log (nothing): a function that gets
-- a line on each answer.
function serve.new(m, o)
  o = options.check("serve.new", o or {}, {}, OPTIONS)
  local http, message, code = httpd.open { port = o.port or 8080 }
  if not http then
    return nil, message, code
  end
  return setmetatable({ m = m, http = http, parallel = o.parallel or 4, waiting_most = o.waiting or 32, keep_alive = o.keep_alive or 15,
    log = o.log or function() end, running = {}, waiting = {}, n_requests = 0, created = os.time() }, Server)
end

function Server:port()
  return self.http:port()
end

-- A line for the log. What a client has sent stands there too, so that it must neither begin a line of its own nor
-- command the terminal.
local function note(self, format, ...)
  self.log((format:format(...):gsub("%c", function(c)
    return ("\\x%02x"):format(c:byte())
  end)))
end

-- ---- answers to anything but a chat ----

-- A host name that a browser or a client may use for this machine; a page of another site may not ask here.
local function is_loopback(host)
  local name = host:gsub(":%d+$", "")
  return name == "localhost" or name:find "%.localhost$" or name:find "^127%.[%d.]+$" or name == "[::1]"
end

-- The headers of an answer, with `more` of them: for a page that another program on this machine shows, those that let
-- the browser hand it on.
local function with_origin(base, r, more)
  local h = {}
  for _, part in ipairs { base, more } do
    for name, value in pairs(part) do
      h[name] = value
    end
  end
  if r.headers.origin then
    h["access-control-allow-origin"], h["vary"] = r.headers.origin, "origin"
  end
  return h
end

local function send(self, r, status, value)
  self.http:respond(r.id, status, with_origin(JSON, r), json.encode(value, { replace_invalid = true }) .. "\n")
end

local function refuse(self, r, e, more)
  self.http:respond(r.id, e.status, with_origin(JSON, r, more), chat_request.error_body(e) .. "\n")
  note(self, "%s %s: %d %s", r.method, r.path, e.status, e.message)
end

-- The model as a list of models: its name, and with each preference of the grid, so that the list of a chat program
-- is a slider.
local function models_of(self)
  local list, names = { NAME }, self.m.objectives
  for _, p in ipairs(names and #names <= 3 and preference.grid(#names) or {}) do
    local words = {}
    for j = 1, math.max(1, #names - 1) do
      words[j] = ("%s=%g"):format(names[j], p[j])
    end
    list[#list + 1] = NAME .. ":" .. table.concat(words, ",")
  end
  return list
end

local function model_object(self, id)
  return { id = id, object = "model", created = self.created, owned_by = "mocl" }
end

-- ---- a chat ----

-- What an answer's JSON and a stream's chunks have in front.
local function envelope(e, object)
  return { id = e.name, object = object, created = e.created, model = e.q.requested }
end

local function weights(m, p)
  local t = {}
  for j, name in ipairs(m.objectives or {}) do
    t[name] = p[j]
  end
  return t
end

local function bytes_of(text)
  return json.array { text:byte(1, -1) }
end

local function logprobs(places)
  if not places then
    return json.null
  end
  local content = json.array()
  for i, place in ipairs(places) do
    local top = json.array()
    for j, t in ipairs(place.top) do
      top[j] = { token = t.bytes, logprob = t.logprob, bytes = bytes_of(t.bytes) }
    end
    content[i] = { token = place.bytes, logprob = place.logprob, bytes = bytes_of(place.bytes), top_logprobs = top }
  end
  return { content = content, refusal = json.null }
end

local function usage(e)
  local n = e.answer and e.answer.n_tokens or 0
  return { prompt_tokens = #e.q.ids, completion_tokens = n, total_tokens = #e.q.ids + n }
end

local function say(self, e, text)
  self.http:write(e.id, text)
  e.said = sys.now()
end

-- One event of a stream.
local function emit(self, e, value)
  say(self, e, "data: " .. json.encode(value, { replace_invalid = true }) .. "\n\n")
end

local function chunk(self, e, choice, delta, finish, places)
  local c = envelope(e, "chat.completion.chunk")
  c.choices = { { index = choice - 1, delta = delta, finish_reason = finish or json.null, logprobs = logprobs(places) } }
  return c
end

local function chat(self, r)
  local q, refusal = chat_request.read(r.body, r.headers, self.m, NAME)
  if not q then
    return refuse(self, r, refusal)
  elseif #self.running + #self.waiting >= self.parallel + self.waiting_most then
    return refuse(self, r, chat_request.refusal(503, ("%d requests are being answered or wait; ask again"):format(#self.running + #self.waiting)),
      { ["retry-after"] = "1" })
  end
  self.n_requests = self.n_requests + 1
  local e = { id = r.id, request = r, q = q, created = os.time(), began = sys.now(), said = sys.now(), texts = {}, finish = {}, places = {},
    name = ("chatcmpl-%x-%x-%d"):format(self.created, sys.getpid(), self.n_requests), seed = q.seed or self.m.seed + self.n_requests - 1 }
  for i = 1, q.n do
    e.texts[i], e.places[i] = {}, {}
  end
  if q.stream then -- at once, so that nobody asks twice
    self.http:begin(r.id, 200, with_origin(EVENTS, r))
    e.open = true
    for i = 1, q.n do
      local c = chunk(self, e, i, { role = "assistant", content = "" })
      c.preference, c.seed = q.p and weights(self.m, q.p), e.seed
      emit(self, e, c)
    end
  end
  table.insert(self.waiting, e)
end

-- The rewards of the answers that are wanted, one table for each.
local function rewards_of(self, e)
  local list = json.array()
  for i, parts in ipairs(e.q.rewards and e.texts or {}) do
    list[i] = self.m:score(e.q.text, table.concat(parts))
  end
  return e.q.rewards and list or nil
end

local function complete(self, e)
  local u, rewards = usage(e), rewards_of(self, e)
  local p = e.q.p and weights(self.m, e.q.p)
  if e.q.stream then
    if e.q.include_usage or rewards then
      local c = envelope(e, "chat.completion.chunk")
      c.choices, c.usage = json.array(), u
      u.preference, u.rewards = p, rewards
      emit(self, e, c)
    end
    say(self, e, "data: [DONE]\n\n")
  else
    local a = envelope(e, "chat.completion")
    a.usage, a.preference, a.rewards, a.seed, a.choices = u, p, rewards, e.seed, {}
    for i, parts in ipairs(e.texts) do
      a.choices[i] = { index = i - 1, message = { role = "assistant", content = table.concat(parts) }, finish_reason = e.finish[i],
        logprobs = logprobs(e.q.logprobs and e.places[i] or nil) }
    end
    if e.open then
      say(self, e, json.encode(a, { replace_invalid = true }) .. "\n")
    else
      send(self, e.request, 200, a)
    end
  end
  if e.open then
    self.http:finish(e.id)
  end
  self.log(("%s: %d + %d tokens, %.1f s%s"):format(e.name, #e.q.ids, u.completion_tokens, sys.now() - e.began,
    p and ", " .. self.m:preference_text(e.q.p) or ""))
end

-- One step of an answer; what it gives is sent or kept.
local function step(self, e)
  e.answer = e.answer or answer.new(self.m, e.q.ids, { max_new_tokens = e.q.max_tokens, seed = e.seed, temperature = e.q.temperature,
    top_p = e.q.top_p, top_k = e.q.top_k, n = e.q.n, stop = e.q.stop, logprobs = e.q.logprobs, top_logprobs = e.q.top_logprobs })
  for _, event in ipairs(e.answer:step()) do
    local i = event.choice
    if not e.q.stream then
      table.insert(e.texts[i], event.text)
      table.move(event.logprobs or {}, 1, #(event.logprobs or {}), #e.places[i] + 1, e.places[i])
      e.finish[i] = event.finish
    else
      if e.q.rewards then
        table.insert(e.texts[i], event.text)
      end
      if event.text ~= "" or event.logprobs and #event.logprobs > 0 then
        emit(self, e, chunk(self, e, i, { content = event.text }, nil, event.logprobs))
      end
      if event.finish then
        emit(self, e, chunk(self, e, i, {}, event.finish))
      end
    end
  end
  if e.answer.done then
    complete(self, e)
  end
  return e.answer.done
end

-- ---- ends that nobody wanted ----

local function forget(e)
  if e.answer then
    e.answer:close()
  end
end

local function leave(self, e)
  self.log(("%s: the client has left after %d tokens"):format(e.name, e.answer and e.answer.n_tokens or 0))
  forget(e)
  self.http:drop(e.id)
end

-- An answer that was accepted and cannot be finished. A client is told in the way that it does not ask again for.
local function fail(self, e, status, message)
  forget(e)
  local refusal = chat_request.refusal(status, message)
  if e.q.stream then
    say(self, e, "data: " .. chat_request.error_body(refusal) .. "\n\n")
    self.http:finish(e.id)
    note(self, "%s: %s", e.name, message)
  elseif e.open then -- the status was sent: only a cut says that something is wrong
    self.http:drop(e.id)
    note(self, "%s: %s", e.name, message)
  else
    refuse(self, e.request, refusal, { ["x-should-retry"] = "false" })
  end
end

-- Something for those who wait, so that no read of theirs runs out: a comment in a stream, a blank in front of JSON.
local function keep(self, e)
  if sys.now() - e.said < self.keep_alive then
    return
  end
  if not e.open then
    self.http:begin(e.id, 200, with_origin(JSON, e.request))
    e.open = true
  end
  say(self, e, e.q.stream and ": ok\n" or " ")
end

-- ---- requests ----

local ALLOWED = { ["/chat/completions"] = "POST", ["/models"] = "GET", ["/"] = "GET", ["/health"] = "GET" }

local function handle(self, r)
  local origin = r.headers.origin and r.headers.origin:match "^https?://([^/]*)$"
  if r.headers.host and not is_loopback(r.headers.host) or r.headers.origin and not (origin and is_loopback(origin)) then
    r.headers.origin = nil
    return refuse(self, r, chat_request.refusal(403, "this server answers programs on its own machine alone, by 127.0.0.1 or localhost"))
  end
  local path = r.path:gsub("^/v1%f[/\0]", ""):gsub("/+$", "")
  path = path == "" and "/" or path
  local model = path:match "^/models/(.+)$"
  local method = model and "GET" or ALLOWED[path]
  if not method then
    return refuse(self, r, chat_request.refusal(404, ("there is no %s here; this server has POST /v1/chat/completions and GET /v1/models"):format(r.path)))
  elseif r.method == "OPTIONS" then
    local h = with_origin({ allow = method, ["access-control-allow-methods"] = method, ["access-control-allow-headers"] =
      r.headers["access-control-request-headers"] or "*" }, r)
    return self.http:respond(r.id, 204, h, "")
  elseif r.method ~= method and not (method == "GET" and r.method == "HEAD") then
    return refuse(self, r, chat_request.refusal(405, ("%s takes %s, not %s"):format(r.path, method, r.method)), { allow = method })
  elseif r.too_large then
    return refuse(self, r, chat_request.refusal(413, "the body is larger than 16 MiB"))
  elseif path == "/chat/completions" then
    return chat(self, r)
  elseif path == "/models" then
    local list = {}
    for i, id in ipairs(models_of(self)) do
      list[i] = model_object(self, id)
    end
    return send(self, r, 200, { object = "list", data = list })
  elseif model then
    for _, id in ipairs(models_of(self)) do
      if id == model then
        return send(self, r, 200, model_object(self, id))
      end
    end
    return refuse(self, r, chat_request.refusal(404, ("the model '%s' is not here: this server has '%s'"):format(model, NAME), "model", "model_not_found"))
  end
  return send(self, r, 200, { status = "ok", model = NAME, path = self.m.path, objectives = self.m.objectives })
end

-- The list without the entries whose client is gone, or which f(e) says are done.
local function still(list, f)
  local rest = {}
  for _, e in ipairs(list) do
    if not f(e) then
      rest[#rest + 1] = e
    end
  end
  return rest
end

--- s:round(seconds) -> boolean: takes what clients have sent, and gives each answer under way one token. With none
-- under way it waits so long (0) for a request. Whether an answer is under way.
function Server:round(seconds)
  for _, r in ipairs(self.http:run(#self.running == 0 and seconds or 0)) do
    handle(self, r)
  end
  self.waiting = still(self.waiting, function(e)
    local gone = self.http:gone(e.id)
    if gone then
      leave(self, e)
    end
    return gone
  end)
  while #self.running < self.parallel and #self.waiting > 0 do
    table.insert(self.running, table.remove(self.waiting, 1))
  end
  self.running = still(self.running, function(e)
    if self.http:gone(e.id) then
      leave(self, e)
      return true
    end
    local ok, done = pcall(step, self, e)
    if not ok and tostring(done):find("interrupted!", 1, true) then
      error(done, 0)
    elseif not ok then
      fail(self, e, 500, tostring(done))
    end
    return not ok or done
  end)
  for _, list in ipairs { self.running, self.waiting } do
    for _, e in ipairs(list) do
      keep(self, e)
    end
  end
  return #self.running > 0
end

--- s:run() -> nothing. Answers until the process is interrupted; with sys.on_interrupt "flag" it then tells those who
-- wait.
function Server:run()
  while not sys.interrupted() do
    self:round(.5)
  end
  self:close()
end

--- s:close(), local s <close>: whoever still waits for an answer is told so, and the port is free again.
function Server:close()
  if not self.http then
    return
  end
  for _, list in ipairs { self.running, self.waiting } do
    for _, e in ipairs(list) do
      fail(self, e, 503, "the server was stopped")
    end
  end
  self.running, self.waiting = {}, {}
  self.http:run(0)
  self.http:release()
  self.http = nil
end

Server.__close = Server.close

return serve
