-- from=RUN, which takes stages of another run, and init=, tokenizer=, prompts=, sft.data=: a model of one's own in
-- recipes/moc_hh.lua

local T = require "t"
local checkpoint = require "mocl.run.checkpoint"
local child = require "child"
local config = require "mocl.run.config"
local failures = require "failures"
local fs = require "mocl.fs"
local hh = require "fixtures.hh"
local json = require "mocl.json"
local Run = require "mocl.run"
local small = require "fixtures.llama.small"
local stages = require "mocl.train.stages"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local function run(dir, ...)
  local list = failures.arguments(dir)
  table.insert(list, 1, "recipes/moc_hh.lua")
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return child.mocl(list)
end

local function must(dir, ...)
  local out, err, status = run(dir, ...)
  T.eq(status, 0, err)
  return out
end

-- Refused, with all of the texts and no traceback, and without a directory.
local function refused(texts, ...)
  local dir = T.tmpdir() .. "/run"
  local out, err, status = run(dir, ...)
  T.eq(status, 1, out .. err)
  for _, text in ipairs(type(texts) == "table" and texts or { texts }) do
    T.ok(err:find(text, 1, true), err)
  end
  T.ok(not err:find("traceback", 1, true), err)
  T.eq(fs.exists(dir), nil, err)
end

local function fresh()
  return T.tmpdir() .. "/run"
end

-- A whole run, made once per set of options.
local made = {}
local function whole(...)
  local key = table.concat({ ... }, " ")
  if not made[key] then
    made[key] = fresh()
    must(made[key], ...)
  end
  return made[key]
end

-- ---- from= ----

-- stages that were run here and not taken
local function trained_here(err)
  local list = {}
  for name in err:gmatch "%f[^\n\0](%S[%w ]*) %d+/" do
    list[#list + 1] = name
  end
  return list
end

T.test("from: the bytes of a whole run with these options, and env.json says what was taken", function()
  local first, other = whole(), whole "control.c=one"
  local dir = fresh()
  local _, err, status = run(dir, "control.c=one", "from=" .. first, "quiet=false")
  T.eq(status, 0, err)
  T.eq(trained_here(err)[1], "sft statistics", err)
  failures.same(dir, other)
  local env = assert(json.load(dir .. "/env.json"))
  T.eq({ env.from.run, env.from.mocl }, { fs.realpath(first), require("mocl")._VERSION })
  T.eq(env.from.stages.sft.sft["model.safetensors"], fs.sha256(first .. "/sft/model.safetensors"))
  T.ok(env.from.stages["reward-humor"] and env.from.stages.base and env.from.stages.tokenizer)
  -- run again it is complete, with from= or without
  for _, more in ipairs { {}, { "from=" .. first } } do
    T.ok(must(dir, "control.c=one", table.unpack(more)):find("holds this run, complete", 1, true))
  end
end)

T.test("from: a run that stopped after it took its stages goes on, from a directory that was moved", function()
  local moved = T.tmpdir() .. "/moved"
  assert(os.execute(("cp -a '%s' '%s'"):format(whole(), moved)))
  local dir = fresh()
  must(dir, "from=" .. moved)
  for _, name in ipairs { "result.json", "timing.json", "report.html", "front.svg" } do
    fs.remove(dir .. "/" .. name)
  end
  local stages = assert(json.load(dir .. "/stages.json"))
  for name in pairs(stages) do
    stages[name] = name:find "^[tbs]" and name ~= "sft-answers" and stages[name] or nil
  end
  assert(fs.write(dir .. "/stages.json", json.encode(stages)))
  assert(os.execute(("rm -rf '%s'/checkpoint-* '%s/last'"):format(dir, dir)))
  must(dir, "resume=auto", "from=" .. moved)
  failures.same(dir, whole())
  -- one that had begun to train its SFT model takes a finished one, and keeps no checkpoint of its own
  assert(os.execute(("rm -rf '%s'; cp -a '%s' '%s'"):format(dir, moved, dir)))
  for _, name in ipairs { "result.json", "timing.json", "report.html", "front.svg" } do
    fs.remove(dir .. "/" .. name)
  end
  stages.sft, stages["reward-humor"], stages["reward-helpful"] = nil, nil, nil
  assert(fs.write(dir .. "/stages.json", json.encode(stages)))
  assert(os.execute(("rm -rf '%s'/checkpoint-* '%s/last'"):format(dir, dir)))
  local metrics = assert(fs.read(dir .. "/metrics.jsonl")):sub(1, stages.base.offsets.metrics) .. '{"stage":"sft","step":1}\n'
  assert(fs.write(dir .. "/metrics.jsonl", metrics))
  checkpoint.write(dir .. "/sft", 1, function(to)
    return fs.write(to .. "/config.lua", assert(fs.read(dir .. "/config.lua")))
  end, { step = 1, recipe = "moc_hh", offsets = { metrics = #metrics, samples = stages.base.offsets.samples } }, 2)
  must(dir, "resume=auto", "from=" .. moved)
  failures.same(dir, whole())
end)

T.test("from: refused where options of its stages differ, with names and both values", function()
  local first = whole()
  refused({ "from=" .. first .. " made stages tokenizer, base, sft, reward-humor, reward-helpful with other options:",
    "  base.steps: 1 there, 2 now", "  seed: 0 there, 3 now", "  reward.lr: 0.002 there, 0.5 now", "  tokenizer.vocab_size: 300 there, 310 now",
    "leave from= out" }, "from=" .. first, "base.steps=2", "seed=3", "reward.lr=0.5", "tokenizer.vocab_size=310")
  refused("  objectives: humor,helpful there, helpful,humor now", "from=" .. first, "objectives=helpful,humor")
  -- options of later stages, and those that are only said, may differ
  must(fresh(), "from=" .. first, "ppo.lr=1e-3", "eval.answers=2", "reward.min_accuracy=0.9", "lora.r=2")
  -- reward models that are not needed may have been made with other options
  local path = T.tmpdir() .. "/r.lua"
  assert(fs.write(path, [[local function f(p, r) local s = {} for i, x in ipairs(r) do s[i] = #x end return s end
    return { humor = f, helpful = f }]]))
  must(fresh(), "from=" .. first, "reward.lr=0.5", "rewards=" .. path)
  -- and a run without them cannot give them
  refused({ ": stage 'reward-humor' is not finished there (finished: base, evaluation, moc, sft, sft-answers, tokenizer)",
    "that run did not need it" }, "from=" .. whole("rewards=" .. path))
end)

T.test("from: a run of another recipe with these stages gives them, and is refused with names where their options differ", function()
  local first = whole()
  local small = {}
  for _, a in ipairs(failures.arguments("", false)) do
    small[#small + 1] = not a:find "^moc%." and not a:find "^out=" and a or nil
  end
  local function grpo(dir, ...)
    local words = { "recipes/grpo.lua", "grpo.iterations=2", "grpo.num_generations=2", "out=" .. dir }
    for _, list in ipairs { small, { ... } } do
      table.move(list, 1, #list, #words + 1, words)
    end
    return child.mocl(words)
  end
  local own, taken = fresh(), fresh()
  T.eq(select(3, grpo(own)), 0)
  local _, err, status = grpo(taken, "from=" .. first, "quiet=false")
  T.eq(status, 0, err)
  T.eq(trained_here(err)[1], "sft statistics", err)
  failures.same(taken, own)
  T.eq(assert(json.load(taken .. "/env.json")).from.run, fs.realpath(first))
  _, err, status = grpo(fresh(), "from=" .. first, "base.steps=2", "reward.lr=0.5", "sft.examples=30")
  T.eq(status, 1)
  for _, text in ipairs { "made stages tokenizer, base, sft, reward-humor, reward-helpful with other options:", "  base.steps: 1 there, 2 now",
    "  reward.lr: 0.002 there, 0.5 now", "  sft.examples: 20 there, 30 now" } do
    T.ok(err:find(text, 1, true), err)
  end
  T.ok(not err:find("grpo.", 1, true) and not err:find("moc.", 1, true), "options of the methods do not matter: " .. err)
  -- and a run of the models alone, which trains no policy
  local models, words = fresh(), { "recipes/models.lua" }
  table.move(small, 1, #small, 2, words)
  for i = #words, 1, -1 do
    if words[i]:find "^ppo%.ppo_epochs" then
      table.remove(words, i)
    end
  end
  words[#words + 1] = "out=" .. models
  T.eq(select(3, child.mocl(words)), 0)
  taken = fresh()
  T.eq(select(3, grpo(taken, "from=" .. models)), 0)
  failures.same(taken, own)
end)

T.test("from: what holds no such run, and files that changed", function()
  local first = whole()
  refused({ "from=/nowhere: holds no run", "leave from= out" }, "from=/nowhere")
  refused("option from: is empty", "from=")
  local dir = T.tmpdir() .. "/copy"
  local function copy()
    assert(os.execute(("rm -rf '%s'; cp -a '%s' '%s'"):format(dir, first, dir)))
  end
  local function edit(name, f)
    assert(fs.write(dir .. "/" .. name, f(assert(fs.read(dir .. "/" .. name)))))
  end
  copy()
  edit("env.json", function(s) return (s:gsub('"moc_hh"', '"fishwood"')) end)
  edit("config.lua", function() return 'return { seed = 0, device = "cpu", n_preferences = 9 }\n' end)
  refused("from=" .. dir .. " holds a run of fishwood, not of moc_hh, and it has no stages in common with it", "from=" .. dir)
  copy()
  edit("env.json", function(s) return (s:gsub('"mocl": "[^"]*"', '"mocl": "0.0.9"')) end)
  refused({ "was made by mocl 0.0.9, this is " .. require("mocl")._VERSION, "leave from= out" }, "from=" .. dir)
  copy()
  edit("sft/model.safetensors", function(s) return s:sub(1, -2) .. string.char(s:byte(-1) ~ 1) end)
  refused({ "sft/model.safetensors: is not what stage 'sft' of the run of from= wrote", "(sha256 " }, "from=" .. dir)
  copy()
  assert(fs.remove(dir .. "/stages.json"))
  assert(fs.remove(dir .. "/result.json"))
  refused({ ": stage 'tokenizer' is not finished there (finished: )", "finish it with resume=auto first" }, "from=" .. dir)
end)

local function hh_files(rejected)
  return hh.write(T.tmpdir(), { rejected = rejected })
end

T.test("from: HH-RLHF's files are compared by what is in them", function()
  local function same(dir)
    return "objectives=harmless,helpful", "data=" .. dir
  end
  local data, moved = hh_files(), hh_files()
  local first, dir = fresh(), fresh()
  must(first, same(data))
  must(dir, "from=" .. first, same(moved))
  for _, name in ipairs { "result.json", "metrics.jsonl", "samples.jsonl", "reward-helpful/model.safetensors" } do
    T.eq(fs.sha256(dir .. "/" .. name), fs.sha256(first .. "/" .. name), name)
  end
  local changed = hh_files "never"
  refused({ "data: " .. changed .. "/harmless-base.test.jsonl is not the file that run read" }, "from=" .. first, same(changed))
  refused({ "  data: " .. data .. " there, empty now" }, "from=" .. first)
end)

-- ---- a model of one's own ----

local own
-- {init =, tokenizer =, prompts =, rewards =, sft =}: paths; a vocabulary that is padded, and two tokens that end an
-- answer
local function mine()
  if own then
    return own
  end
  local dir = T.tmpdir()
  own = { init = dir .. "/model", tokenizer = dir .. "/tok/tokenizer.json", prompts = dir .. "/prompts.txt", rewards = dir .. "/r.lua",
    sft = dir .. "/sft.jsonl" }
  assert(fs.mkdir(dir .. "/tok"))
  local texts, lines, rows = {}, {}, {}
  for i = 1, 40 do
    texts[i] = ("question %d about the sea? an answer of %d words"):format(i, i)
    lines[i] = ("question %d about the sea?"):format(i % 30) -- some come twice
    rows[i] = json.encode { prompt = lines[i], response = "an answer of some words" }
  end
  local tok = tokenizer.train(texts, { vocab_size = 290, special_tokens = { "<s>", "</s>" } })
  assert(tok:save(own.tokenizer))
  local model = small.model { config = { vocab_size = tok:vocab_size() + 14, max_position_embeddings = 80 } }
  assert(transformer.save(model, own.init, { eos_token_id = { tok:eos_id(), 7 } }))
  assert(fs.write(own.prompts, table.concat(lines, "\n") .. "\n\n"))
  assert(fs.write(own.sft, table.concat(rows, "\n") .. "\n"))
  assert(fs.write(own.rewards, [[local function of(f) return function(p, r) local s = {} for i, x in ipairs(r) do s[i] = f(x) end return s end end
    return { long = of(function(x) return #x end), vowels = of(function(x) return select(2, x:gsub("[aeiou]", "")) end) }]]))
  return own
end

-- The options of a run with it; those of failures.arguments that speak of a base model are left out.
local function own_arguments(dir, ...)
  local m, list = mine(), { "recipes/moc_hh.lua", "preset=smoke", "quiet=true", "out=" .. dir, "sft.steps=2", "sft.batch_size=2",
    "ppo.batch_size=4", "ppo.ppo_epochs=2", "moc.iterations=2", "moc.save_every=1", "eval.answers=2", "eval.unseen_answers=0",
    "ppo.max_new_tokens=3", "objectives=long,vowels" }
  for _, key in ipairs { "init", "tokenizer", "prompts", "rewards" } do
    list[#list + 1] = key .. "=" .. m[key]
  end
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return list
end

local function own_run(dir, ...)
  local out, err, status = child.mocl(own_arguments(dir, ...))
  T.eq(status, 0, err)
  return out
end

local function own_refused(text, ...)
  local dir = fresh()
  local out, err, status = child.mocl(own_arguments(dir, ...))
  T.eq(status, 1, out .. err)
  T.ok(err:find(text, 1, true), err)
  T.ok(not err:find("traceback", 1, true), err)
  T.eq(fs.exists(dir), nil)
end

-- The stages that load init=, in this process; sft: what a stage of that name trains on.
local function loaded(dir, init, sft)
  local cfg = { out = dir, resume = "auto", quiet = true, seed = 0, device = "cpu", data = "", prompts = "", init = init, save_every = 0,
    tokenizer = { path = "" }, chat = "auto", sft = { data = "", steps = 1 } }
  local run <close> = Run.open { recipe = "demo", cfg = cfg, main = "moc" }
  local ok, message = pcall(function()
    stages.hash_inputs(run, cfg)
    local first = run.env.inputs[init .. "/model.safetensors"]
    stages.base_and_sft { run = run, cfg = cfg, source = { sft = sft } }
    return first or false
  end)
  return run.env.inputs[init .. "/model.safetensors"], message, ok
end

T.test("init: its weights are recorded when they are loaded, and must be what they were", function()
  local weights = mine().init .. "/model.safetensors"
  local hash = fs.sha256(weights)
  local function other()
    local copy = T.tmpdir()
    local size = transformer.load(mine().init):config()
    assert(transformer.save(small.model { config = size, key = 6 }, copy))
    assert(fs.write(weights, assert(fs.read(copy .. "/model.safetensors"))))
  end
  local whole = assert(fs.read(weights))
  local dir, unfinished = fresh(), fresh()
  local recorded, before = loaded(dir, mine().init)
  T.eq({ recorded, before }, { hash, false })
  recorded, before = loaded(dir, mine().init)
  T.eq({ recorded, before }, { hash, hash }, "with the stage finished they are not loaded")
  local function stop()
    error("stopped", 0)
  end
  local _, message = loaded(unfinished, mine().init, stop)
  T.ok(message:find "stopped", message)
  other()
  for _, case in ipairs { { dir }, { unfinished, stop } } do
    local was, refusal, ok = loaded(case[1], mine().init, case[2])
    T.eq({ was, ok }, { hash, false })
    T.ok(refusal:find(weights .. ": is not the file this run began with (sha256 ", 1, true), refusal)
  end
  assert(fs.write(weights, whole))
end)

T.test("init= one GGUF file with its tokenizer: the policy of the same model in a directory", function()
  local m, from, dir = mine(), fresh(), fresh()
  local tok, tokens, types = assert(tokenizer.load(m.tokenizer)), {}, {}
  for id = 0, #tok - 1 do
    tokens[id + 1], types[id + 1] = tok:id_to_token(id), id < 2 and 3 or 1
  end
  local path = T.tmpdir() .. "/model.gguf"
  assert(transformer.save_gguf(assert(transformer.load(m.init)), path, { metadata = {
    { "tokenizer.ggml.model", "string", "gpt2" }, { "tokenizer.ggml.pre", "string", "smollm" },
    { "tokenizer.ggml.tokens", "array of string", tokens }, { "tokenizer.ggml.token_type", "array of i32", types },
    { "tokenizer.ggml.merges", "array of string", assert(json.load(m.tokenizer)).model.merges },
    { "tokenizer.ggml.bos_token_id", "u32", 0 }, { "tokenizer.ggml.add_bos_token", "bool", true },
  } }))
  own_run(from)
  own_run(dir, "init=" .. path, "tokenizer=")
  for _, name in ipairs { "sft/model.safetensors", "last/adapter_model.safetensors" } do
    T.eq(fs.sha256(fs.join(dir, name)), fs.sha256(fs.join(from, name)), name)
  end
  own_refused("init=/nowhere/x.gguf: No such file or directory", "init=/nowhere/x.gguf", "tokenizer=")
end)

T.test("init, tokenizer, prompts: a whole run with Lua rewards, without a base or an SFT stage", function()
  local m, dir = mine(), fresh()
  local out = own_run(dir)
  T.ok(out:find("<R1> 0.30 <R2> 0.70 question ", 1, true), out)
  local before, after = assert(transformer.load(m.init)), assert(transformer.load(dir .. "/sft"))
  T.eq(after:hash(), before:hash(), "the model as it is")
  T.eq(transformer.eos_ids(after), transformer.eos_ids(before))
  T.eq(fs.exists(dir .. "/base"), nil)
  T.eq(fs.read(dir .. "/tokenizer/tokenizer.json"), fs.read(m.tokenizer))
  local options = assert(config.load(dir .. "/config.lua"))
  T.eq({ options.model.hidden_size, options.model.layers, options.model.positions, options.tokenizer.path },
    { before:config().hidden_size, before:config().num_hidden_layers, 80, m.tokenizer })
  local inputs = assert(json.load(dir .. "/env.json")).inputs
  for _, path in ipairs { m.init .. "/model.safetensors", m.tokenizer, m.prompts, m.rewards } do
    T.eq(inputs[path], fs.sha256(path), path)
  end
  T.ok(out:find "vowels", out)
  -- the policy answers in generate.lua
  local text, err, status = child.mocl { "generate", "model=" .. dir .. "/sft", "adapter=" .. dir .. "/last",
    "tokenizer=" .. dir .. "/tokenizer", "prompt=<R1> 0.30 <R2> 0.70 question 3", "max_new_tokens=3", "quiet=true" }
  T.eq(status, 0, err)
  T.ok(text:find("question 3", 1, true), text)
  -- the same bytes again, with the stages of this one, and with resume=auto after it
  local again = fresh()
  own_run(again, "from=" .. dir)
  failures.same(dir, again)
end)

T.test("init with sft.data: the SFT model learns from its rows, not from held-out prompts", function()
  local m, dir = mine(), fresh()
  own_run(dir, "sft.data=" .. m.sft, "model.positions=64")
  T.ok(assert(transformer.load(dir .. "/sft")):hash() ~= assert(transformer.load(m.init)):hash())
  T.eq(assert(config.load(dir .. "/config.lua")).model.positions, 64)
  -- sft.data= is not data=, which would bring the preset of HH-RLHF
  local file = T.tmpdir() .. "/o.json"
  assert(fs.write(file, '{"data": "x"}'))
  for argument, positions in pairs { ["sft.data=x"] = 96, ["data=x"] = 192, ["@" .. file] = 192 } do
    local shown = child.mocl { "recipes/moc_hh.lua", argument, "--print-config" }
    T.eq(shown:match "positions = (%d+)", tostring(positions), argument)
  end
  local own_model = require "mocl.lm.own_model"
  local source = own_model.prompts { path = m.prompts, seed = 0, held_out = 0.1 }
  T.eq({ #source.train_prompts, #source.test_prompts }, { 27, 3 }) -- 30 different ones
  local held = {}
  for _, prompt in ipairs(source.test_prompts) do
    held[prompt] = true
  end
  local rows = own_model.answers(m.sft, 2, source.is_held_out)(require "mocl.rng".new(0, "sft"))
  T.ok(#rows >= 30 and #rows < 40)
  for _, row in ipairs(rows) do
    local prompt = row.prompt:match "^<R1> %d%.%d%d <R2> %d%.%d%d (.*)$"
    T.ok(prompt and not held[prompt], row.prompt)
    T.eq(row.response, " an answer of some words")
  end
end)

T.test("prompts that differ in white space alone are one prompt, in prompts= and in sft.data=", function()
  local own_model = require "mocl.lm.own_model"
  local dir, lines, rows = T.tmpdir(), {}, {}
  for i = 1, 30 do
    for _, form in ipairs { "ask me %d", "ask me %d ", "ask  me %d", "\task me\u{A0}%d" } do
      lines[#lines + 1] = form:format(i)
      rows[#rows + 1] = json.encode { prompt = form:format(i), response = "well" }
    end
  end
  assert(fs.write(dir .. "/p.txt", table.concat(lines, "\n")))
  assert(fs.write(dir .. "/a.jsonl", table.concat(rows, "\n")))
  local source = own_model.prompts { path = dir .. "/p.txt", seed = 0, held_out = 0.1 }
  T.eq({ #source.train_prompts, #source.test_prompts }, { 27, 3 })
  T.eq(#own_model.answers(dir .. "/a.jsonl", 2, source.is_held_out)(require "mocl.rng".new(0, "sft")), 4 * 27)
  -- lines of a file of another kind are no prompts
  for _, name in ipairs { "p.json", "p.csv", "p.JSON.gz" } do
    assert(fs.write(dir .. "/" .. name, table.concat(lines, "\n")))
    T.raises(name .. ": .%a+ is not read; give the lines of a text file, or a .jsonl with one object a line", own_model.prompts,
      { path = dir .. "/" .. name, seed = 0, held_out = 0.1 })
  end
end)

T.test("tokenizer= a file: what lies beside it belongs to it, in the run, for resume=auto and for from=", function()
  local m, dir, first = mine(), T.tmpdir(), fresh()
  local whole_of = tokenizer.load(m.tokenizer)
  -- by whatever name it is a tokenizer.json; the file beside it adds a token and names another BOS token
  local file, beside = dir .. "/words", dir .. "/tokenizer_config.json"
  assert(whole_of:save(dir))
  assert(fs.rename(dir .. "/tokenizer.json", file))
  local function write(bos)
    assert(fs.write(beside, json.encode { bos_token = bos, eos_token = "</s>", add_bos_token = true }))
  end
  write "</s>"
  own_run(first, "tokenizer=" .. file)
  local got, want = assert(tokenizer.load(first .. "/tokenizer")), assert(tokenizer.load(file))
  T.eq({ got:bos_id(), got:encode("a", { add_special_tokens = true }) }, { want:bos_id(), want:encode("a", { add_special_tokens = true }) })
  T.ok(got:bos_id() ~= whole_of:bos_id())
  T.eq(assert(json.load(first .. "/env.json")).inputs[beside], fs.sha256(beside))
  own_run(fresh(), "tokenizer=" .. file, "from=" .. first)
  write "<s>"
  own_refused("  tokenizer.path: " .. beside .. " is not the file that run read", "tokenizer=" .. file, "from=" .. first)
  assert(fs.remove(first .. "/result.json"))
  local arguments = own_arguments(first, "tokenizer=" .. file, "resume=auto")
  local _, err, status = child.mocl(arguments)
  T.eq(status, 1, err)
  T.ok(err:find(beside .. ": is not the file this run began with", 1, true), err)
end)

T.test("init with the embedded task and with prompts in a .jsonl", function()
  local m, dir = mine(), fresh()
  local path = T.tmpdir() .. "/p.jsonl"
  local lines = {}
  for i = 1, 12 do
    lines[i] = json.encode { prompt = ("line\nbreak %d"):format(i) }
  end
  assert(fs.write(path, table.concat(lines, "\n")))
  own_run(dir, "prompts=" .. path)
  T.ok(assert(fs.read(dir .. "/samples.jsonl")):find("line\\nbreak", 1, true))
  local list = { "recipes/moc_hh.lua", "preset=smoke", "quiet=true", "out=" .. fresh(), "init=" .. m.init, "tokenizer=" .. m.tokenizer,
    "model.positions=80", "sft.examples=20", "sft.steps=1", "reward.prompts=20", "reward.steps=1", "moc.iterations=1", "eval.answers=1",
    "eval.unseen_answers=0", "ppo.batch_size=4", "ppo.max_new_tokens=2" }
  local out, err, status = child.mocl(list)
  T.eq(status, 0, err)
  T.ok(out:find("humor", 1, true))
end)

T.test("options of one's own model that cannot go together cost nothing", function()
  local m = mine()
  own_refused("base.steps: with init= there is no base model to train; leave it out", "base.steps=3")
  own_refused("model.layers: with init= there is no base model to train; leave it out", "model.layers=3")
  own_refused("tokenizer.vocab_size: with init=", "tokenizer.vocab_size=300")
  own_refused("model.positions=100: the model of init= has a context of 80", "model.positions=100")
  own_refused("both say where prompts come from", "data=" .. hh_files())
  own_refused("prompts= needs init=", "init=")
  own_refused("prompts= needs rewards=FILE.lua", "rewards=")
  own_refused("objective 'humor'", "objectives=long,humor")
  own_refused("init=/nowhere/config.json: No such file or directory", "init=/nowhere")
  own_refused("option init: " .. m.init .. ": holds no tokenizer", "tokenizer=")
  own_refused("; tokenizer= names one that lies elsewhere", "tokenizer=")
  own_refused("option tokenizer: /nowhere: No such file or directory", "tokenizer=/nowhere")
  own_refused("prompts=/nowhere: No such file or directory", "prompts=/nowhere")
  own_refused("prompts=" .. T.tmp_root .. ": ", "prompts=" .. T.tmp_root)
  own_refused("sft.data=/nowhere: No such file or directory", "sft.data=/nowhere")
  own_refused(('sft.data=%s:1: an object with the texts "prompt" and "response" expected'):format(m.prompts), "sft.data=" .. m.prompts)
  local path = T.tmpdir() .. "/few.txt"
  assert(fs.write(path, ("again\n"):rep(20) .. "other\n"))
  own_refused("prompts=" .. path .. ": holds 2 different prompts; at least 10 are needed", "prompts=" .. path)
  assert(fs.write(path .. ".jsonl", '{"prompt": "a"}\n{"text": "b"}\n'))
  own_refused(('prompts=%s.jsonl:2: an object with a text "prompt" expected'):format(path), "prompts=" .. path .. ".jsonl")
  refused("tokenizer= needs init=", "tokenizer=" .. m.tokenizer)
  local wide = T.tmpdir() .. "/wide.json"
  local tok = tokenizer.train({ child.read "README.md" }, { vocab_size = 400, special_tokens = { "<s>", "</s>" } })
  assert(tok:save(wide))
  own_refused(("the tokenizer has %d ids, the model of init= only 302: they do not belong together"):format(tok:vocab_size()),
    "tokenizer=" .. wide)
end)

T.test("stories260K as one's own model", function()
  local dir, out = T.shared("weights/stories260K/hf-derived/config.json"):match "^(.*)/", fresh()
  local prompts = T.tmpdir() .. "/p.txt"
  local lines = {}
  for i = 1, 20 do
    lines[i] = ("Once upon a time, %d children"):format(i)
  end
  assert(fs.write(prompts, table.concat(lines, "\n")))
  own_run(out, "init=" .. dir, "tokenizer=" .. T.shared "weights/stories260K/tok512.bin", "prompts=" .. prompts, "ppo.max_new_tokens=12")
  local answer = assert(json.load(out .. "/stages.json")).evaluation.result.shown[1].response
  T.ok(answer:find "%l%l%l" and utf8.len(answer), answer)
end)
