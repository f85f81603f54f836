-- mocl.load and mocl chat: a finished run, a Hugging Face directory and a GGUF file, by the library, by the tool and on a terminal

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local loaded = require "mocl.lm.loaded"
local lm = require "mocl.lm.sft"
local mocl = require "mocl"
local nn = require "mocl.nn.core"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local talk = require "mocl.lm.talk"
local transformer = require "mocl.lm.model"

local run = require "talk_run"

-- a directory as the hub has them: the run's supervised model and its tokenizer
local function hub(o)
  local to = T.tmpdir() .. "/hub"
  assert(fs.mkdir(to))
  if o then
    assert(transformer.save(transformer.new(o, { key = 3 }), to))
  else
    for _, name in ipairs { "config.json", "model.safetensors" } do
      assert(fs.copy(run() .. "/sft/" .. name, to .. "/" .. name))
    end
  end
  assert(fs.copy(run() .. "/tokenizer.json", to .. "/tokenizer.json"))
  return to
end

T.test("a run: an answer is what the policy gives for the tags and the prompt", function()
  local m = assert(mocl.load(run()))
  T.eq(m.objectives, { "humor", "helpful" })
  T.eq(#m.rewards, 2)
  local answer = m:ask("how do i knit?", { humor = .9, seed = 5 })
  local ids = lm.prompt(m.tokenizer, preference.relabel("how do i knit?", { .9, .1 }))
  local made = m.model:generate({ ids }, { max_new_tokens = 6, eos = m.tokenizer:eos_id(), key = rng.key(5, "ask"),
    vocab_size = m.tokenizer:vocab_size() })
  T.eq(answer, m.tokenizer:decode(made.tokens[1], { skip_special = true }))
  T.eq(m("how do i knit?", { p = { .9, .1 }, seed = 5 }), answer)
  T.eq(mocl.load_run(run()):ask("how do i knit?", { helpful = .1, seed = 5 }), answer)
  -- pieces as they come
  local pieces = {}
  T.eq(m:ask("x", { on_text = function(s) pieces[#pieces + 1] = s end }), table.concat(pieces))
  T.ok(#pieces > 1, #pieces)
  T.ok(tostring(m):find("objectives humor helpful", 1, true))
end)

T.test("preferences: names, lists, the rest in equal parts, what is refused", function()
  local m = assert(mocl.load(run()))
  T.eq(m:preference(), { .5, .5 })
  T.eq(m:preference { humor = .75 }, { .75, .25 })
  T.eq(m:preference { helpful = 1 }, { 0, 1 })
  T.eq(m:preference { .25, .75 }, { .25, .75 })
  T.raises("no objective 'humr', did you mean 'humor'%? %(there are humor, helpful%)", m.preference, m, { humr = 1 })
  T.raises("weight of humor is to be in 0 .. 1, got 1.5", m.preference, m, { humor = 1.5 })
  T.raises("the weights sum to 1.2, not 1", m.preference, m, { humor = .6, helpful = .6 })
  T.raises("the weights sum to 0.2, not 1", m.preference, m, { humor = .1, helpful = .1 })
  T.raises("has 2 weights, got 3", m.preference, m, { .2, .3, .5 })
  T.raises("such as { humor = .7 } or a list of 2 weights expected, got a number", m.preference, m, .5)
  T.raises("ask: a text expected", m.ask, m, 5)
  local p = { .5, .5 }
  T.raises("ask: p has the weights, and 'humor' is one more", m.ask, m, "x", { p = p, humor = .3 })
  T.eq(p, { .5, .5 })
  T.raises("ask: a table of weights and settings expected, got a number", m.ask, m, "x", 3)
  T.raises("ask: on_text is a number, not a function", m.ask, m, "x", { on_text = 3 })
  T.raises("ask: messages is a number, not a list", m.ask, m, "x", { messages = 3 })
  T.raises("compare: 'humor' is no setting of answers", m.compare, m, "x", { {} }, { humor = .3 })
  T.raises("compare: a list of preferences expected, got a number", m.compare, m, "x", 3)
  for _, n in ipairs { 0, 1.5, "x" } do
    T.raises("top: a number of tokens of at least 1 expected, got " .. n, m.top, m, "x", n)
  end
  T.raises("hidden: the text has %d+ tokens, the context holds %d+; shorten it", m.hidden, m, ("knit "):rep(2000))
  T.raises("hidden: '3' is none of embedding", m.hidden, m, "x", 3)
  local plain = assert(mocl.load(hub()))
  T.eq(plain:preference(), nil)
  T.raises("has no objectives", plain.ask, plain, "x", { humor = 1 })
  T.raises("has no objectives", plain.compare, plain, "x")
end)

T.test("compare: the answers of ask, with the rewards of the run's models", function()
  local m = assert(mocl.load(run()))
  local rows = mocl.compare(m, "how?", { { humor = 1 }, {} }, { seed = 2 })
  T.eq(#rows, 2)
  for i, p in ipairs { { 1, 0 }, { .5, .5 } } do
    T.eq(rows[i].p, p)
    T.eq(rows[i].answer, m:ask("how?", { p = p, seed = 2 }))
    for _, r in ipairs(m.rewards) do
      T.eq(rows[i].rewards[r.name], r.model:score({ "how?" }, { rows[i].answer })[1])
    end
  end
  T.ok(tostring(rows):find("[humor 1.00, helpful 0.00]  rewards: humor ", 1, true), tostring(rows))
  T.eq(#m:compare "how?", #preference.grid(2))
end)

T.test("top, norms, hidden: against the model's own figures", function()
  local m = assert(mocl.load(run()))
  local list = m:top("how", 4)
  local hidden = m.model:forward(transformer.batch { m:ids "how" })
  local n = hidden.shape[1]
  local total = 0
  for id = 0, m.model:config().vocab_size - 1 do
    local logp = nn.lm_head(hidden:narrow(1, n, 1), m.model:head(), { id }, { entropy = false }):item()
    total = total + math.exp(logp)
    if id == list[1].id then
      T.near(list[1].p, math.exp(logp), 1e-5)
    else
      T.ok(math.exp(logp) <= list[1].p + 1e-7)
    end
  end
  T.near(total, 1, 1e-4)
  for i = 2, 4 do
    T.ok(list[i].p <= list[i - 1].p)
  end
  T.eq(list[1].token, m.tokenizer:decode { list[1].id })
  T.eq(m:hidden("how"):totable(), hidden:totable())
  T.eq(m:hidden("how", "layers.1").shape, hidden.shape)
  T.raises("none of embedding, layers.1 .. layers.1, final", m.hidden, m, "how", "layers.2")
  -- what a merge changes is what the norms measure
  local norms = m:norms()
  T.eq(#norms, 7)
  local before = {}
  for _, p in ipairs(m.model:named_parameters()) do
    before[p[1]] = p[2]:clone()
  end
  m.model:merge_lora()
  local changed = 0
  for _, p in ipairs(m.model:named_parameters()) do
    for _, row in ipairs(norms) do
      if p[1] == row.layer .. ".weight" then
        T.near(row.norm, (p[2]:detach() - before[p[1]]:detach()):square():sum():sqrt():item(), 1e-5, row.layer)
        changed = changed + 1
      end
    end
  end
  T.eq(changed, 7)
  T.eq(m:norms(), {})
end)

T.test("a directory of the hub and a GGUF file: a text goes on", function()
  local at = hub()
  local m = assert(mocl.load(at))
  T.eq(m.objectives, nil)
  local text = m:ask("how", { max_new_tokens = 5, temperature = 0 })
  local made = m.model:generate({ lm.prompt(m.tokenizer, "how") }, { max_new_tokens = 5, temperature = 0, eos = m.tokenizer:eos_id(),
    vocab_size = m.tokenizer:vocab_size() })
  T.eq(text, m.tokenizer:decode(made.tokens[1], { skip_special = true }))
  assert(transformer.save_gguf(m.model, at .. "/m.gguf"))
  local g = assert(mocl.load(at .. "/m.gguf", { tokenizer = at .. "/tokenizer.json" }))
  T.eq(g:ask("how", { max_new_tokens = 5, temperature = 0 }), text)
  local adapted = assert(mocl.load(at, { adapter = run() .. "/last" }))
  T.eq(#adapted:norms(), 7)
end)

T.test("what cannot be loaded says why", function()
  T.fails("nowhere: no such file", loaded.load, "nowhere")
  T.raises("path of a directory", loaded.load, 5)
  T.raises("load_run: the path of a directory", loaded.load_run)
  T.raises("load: adapter is a number, not a path", loaded.load, "x", { adapter = 3 })
  T.raises("unknown option 'devise'", loaded.load, "nowhere", { devise = "cpu" })
  T.fails("nowhere is no directory of a run", loaded.load_run, "nowhere")
  local at = T.tmpdir() .. "/early"
  assert(fs.mkdir(at))
  assert(fs.copy(run() .. "/config.lua", at .. "/config.lua"))
  T.fails("the run has no supervised model %(sft/%) yet: run its recipe to the end", loaded.load, at)
  T.fails("early2", loaded.load, at .. "2")
end)

T.test("a finished run without one policy says what it has, and that of metaaligner that it takes no prompts", function()
  local at = T.tmpdir() .. "/done"
  assert(os.execute(("cp -a '%s' '%s'; cd '%s' && mkdir mod-humor && cp -a last/. mod-humor/last && cp -a last/. sft-adapter && rm last"):format(run(),
    at, at)))
  local _, message = loaded.load(at)
  T.eq(message, ("%s: a finished run without one policy for all preferences; its supervised model is %s/sft, with tokenizer=%s/tokenizer.json, "
    .. "and adapter= may be checkpoint-000002, mod-humor/last in the run's directory"):format(at, at, at))
  assert(fs.remove_tree(at .. "/sft"))
  T.fails("done: a finished run without a policy of a language model$", loaded.load, at)
  local editor = T.tmpdir() .. "/editor"
  assert(os.execute(("cp -a '%s' '%s'"):format(run(), editor)))
  local config = assert(io.open(editor .. "/config.lua")):read "a"
  assert(fs.write(editor .. "/config.lua", (config:gsub("return {", "return { metaaligner = {},", 1))))
  T.fails("the policy of this run edits the answers of another model", loaded.load, editor)
end)

-- ---- conversations ----

local function conversation(m, o)
  local out = {}
  o = o or {}
  o.write = function(s) out[#out + 1] = s end
  local t = talk.new(m, o)
  return t, function(line)
    out = {}
    local ended = t:line(line)
    return table.concat(out), ended
  end
end

T.test("a conversation: messages and every command", function()
  local m = assert(mocl.load(run()))
  local t, say = conversation(m)
  T.eq(say "/compare", "there is no prompt yet: type a text first\n")
  T.eq(say "how do i knit?", m:ask "how do i knit?" .. "\n")
  T.eq(say "/pref humor=.75", "humor 0.75, helpful 0.25\n")
  T.eq(say "/pref", "humor 0.75, helpful 0.25\n")
  T.eq(say "how?", m:ask("how?", { humor = .75, seed = 1 }) .. "\n")
  T.eq(#t.messages, 4)
  T.ok(say("/pref humr=1"):find("no objective 'humr'", 1, true))
  T.ok(say("/pref humor"):find("'humor' is no weight such as humor=.7", 1, true))
  T.eq(t.p, { .75, .25 }, "what was refused changed nothing")
  T.eq(say "/compare humor=1 humor=0", tostring(m:compare("how?", { { 1, 0 }, { 0, 1 } })) .. "\n")
  T.eq(say "/compare", tostring(m:compare("how?", { { 1, 0 }, {}, { 0, 1 } })) .. "\n")
  T.eq(say "/sweep", tostring(m:compare "how?") .. "\n")
  T.eq(say "/sweep what?", tostring(m:compare "what?") .. "\n")
  local top = say "/top 3"
  T.eq(select(2, top:gsub("%%  \"", "")), 3, top)
  T.ok(say("/top x"):find("a number of at least 1 expected, got 'x'", 1, true))
  T.eq(say "/undo", "1 exchanges left\n")
  T.eq(#t.messages, 2)
  T.eq(say "/seed 7" .. say "/temp 0", "")
  T.eq(say "how?", m:ask("how?", { humor = .75, seed = 8, temperature = 0 }) .. "\n")
  local file = T.tmpdir() .. "/c.json"
  T.eq(say("/save " .. file), "saved " .. file .. "\n")
  local saved = assert(json.load(file))
  T.eq({ saved.model, saved.preference, saved.seed, saved.temperature, #saved.messages }, { run(), { .75, .25 }, 7, 0, 4 })
  T.eq(saved.messages[3], { role = "user", content = "how?" })
  T.ok(say("/save " .. T.tmpdir() .. "/no/such/c.json"):find("No such file", 1, true))
  T.ok(say("/save"):find("name a file", 1, true))
  T.ok(say("/help"):find("/sweep", 1, true))
  T.eq(say "/seeed", "there is no /seeed, did you mean /seed?; /help lists the commands\n")
  T.eq({ say "" }, { "", false })
  T.eq(select(2, say "/quit"), true)
end)

T.test("a conversation with a model that has no objectives", function()
  local m = assert(mocl.load(hub()))
  m.max_new_tokens = 3
  local _, say = conversation(m)
  T.eq(say "how", m:ask "how" .. "\n")
  for _, command in ipairs { "/pref", "/pref humor=1", "/compare", "/sweep" } do
    T.ok(say(command):find("has no objectives that a preference could weigh", 1, true), command)
  end
  T.raises("has no objectives", talk.new, m, { p = { humor = 1 } })
end)

T.test("a text that the context does not hold is refused, and the conversation goes on", function()
  local m = assert(mocl.load(run()))
  local t, say = conversation(m)
  local long = ("knit "):rep(2000)
  for _, line in ipairs { long, "/sweep " .. long } do
    local answer, ended = say(line)
    T.ok(answer:find("^generate: prompt 1 has %d+ tokens, the context holds %d+; shorten it\n$"), answer)
    T.eq({ ended, #t.messages }, { false, 0 })
  end
  T.eq(say "how?", m:ask "how?" .. "\n")
end)

T.test("a chat model sees the turns before", function()
  local m = assert(mocl.load(hub()))
  local seen = {}
  m.template = function(messages)
    seen[#seen + 1] = #messages
    return "x"
  end
  m.max_new_tokens = 2
  local _, say = conversation(m)
  say "one"
  say "two"
  say "/undo"
  say "three"
  T.eq(seen, { 1, 3, 3 })
end)

T.test("mocl chat in a pipe, and what it refuses", function()
  local out, err, status = child.shell(([[printf 'how?\n/pref\n/quit\nnever' | "$MOCL" chat %s preference=humor=.75 temperature=0]]):format(run()))
  local m = assert(mocl.load(run()))
  T.eq(out, m:ask("how?", { humor = .75, temperature = 0 }) .. "\nhumor 0.75, helpful 0.25\n")
  T.eq({ err, status }, { "", 0 })
  for command, words in pairs { ["chat"] = "name a model: mocl chat DIR|FILE.gguf|RUN", ["chat nowhere"] = "nowhere: no such file",
    [("chat %s tokenizer=nowhere"):format(run())] = "option tokenizer: nowhere: No such file or directory",
    [("chat %s adapter=nowhere"):format(run())] = "option adapter: nowhere/adapter_config.json",
    [("chat %s device=x"):format(run())] = "mocl: unknown device 'x' (cpu, cuda or cuda:N)\n",
    [("chat %s preference=humor"):format(run())] = "'humor' is no weight", [("chat %s preference=humr=1"):format(run())] = "no objective 'humr'" } do
    out, err, status = child.shell('"$MOCL" ' .. command .. " </dev/null")
    T.ok(err:find(words, 1, true), command .. ": " .. err)
    T.eq({ out, status }, { "", 1 }, command)
  end
end)

T.test("mocl chat says that nobody can read what it writes", function()
  local out, err, status = child.shell(([[printf 'how?\n' | "$MOCL" chat %s >/dev/full]]):format(run()))
  T.eq({ out, err:match ": (standard output: .*)", status }, { "", "standard output: No space left on device\n", 1 })
end)

T.test("on a terminal: Ctrl-C stops an answer, and the conversation goes on", function()
  local at = hub { vocab_size = 400, hidden_size = 128, num_hidden_layers = 4, num_attention_heads = 4, intermediate_size = 256,
    max_position_embeddings = 8192 }
  local out = child.terminal([[
  seen 'you> ' 1; printf 'how\n'; sleep 1; printf '\003'; seen 'you> ' 2; printf '/help\n'; seen '/sweep' 1
  printf 'ha'; sleep 0.2; printf '\003'; seen 'you> ' 4; printf '/temp 0\n'; seen 'you> ' 5]], nil,
    ("chat %s max_new_tokens=8000"):format(at))
  T.ok(out:find("/help lists the commands; Ctrl-D leaves", 1, true), out)
  T.ok(out:find("status 0\n", 1, true), out:sub(-500))
end)

T.test("in the interactive mode: two lines, and Ctrl-C in a generation and in a training keeps the session", function()
  local at = hub { vocab_size = 400, hidden_size = 128, num_hidden_layers = 4, num_attention_heads = 4, intermediate_size = 256,
    max_position_embeddings = 8192 }
  local to = T.tmpdir() .. "/trained"
  local root = io.popen "pwd":read "l"
  local out = child.terminal(([[
  seen '^> ' 1; printf 'm = mocl.load "%s"\n'; seen '^> ' 2; printf 'm("how", { max_new_tokens = 8000, on_text = function() print "tok" end })\n'
  seen '^tok' 3; printf '\003'; seen 'interrupted!' 1; printf '6 * 7\n'; seen '^42' 1
  printf 'arg = { [0] = "%s/recipes/moc_hh.lua", "preset=smoke", "moc.iterations=100000", "out=%s" } dofile(arg[0])\n'
  seen 'interrupt\|moc .*[0-9]/100000\|iteration' 2; sleep 2; printf '\003'; seen 'interrupted' 2; sleep 1; printf '6 * 9\n'; seen '^54' 1]])
    :format(at, root, to))
  T.ok(out:find("\n54", 1, true) and out:find("status 0\n", 1, true), out:sub(-1500))
end)
