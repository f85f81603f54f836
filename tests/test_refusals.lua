-- refusals: run directories, checkpoints and adapters that are not what they should be, and directories that cannot
-- be written; each is refused in words, with the difference, and nothing is lost

local T = require "t"
local child = require "child"
local digest = require "mocl.run.digest"
local failures = require "failures"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local safetensors = require "mocl.safetensors"
local tokenizer = require "mocl.tokenizer"
local small = require "fixtures.llama.small"
local transformer = require "mocl.lm.model"

local function arguments(dir, ...)
  local list = failures.arguments(dir, true)
  table.insert(list, 1, "recipes/moc_hh.lua")
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return list
end

local function copy(dir)
  local to = T.tmpdir() .. "/run"
  assert(os.execute(("cp -a '%s' '%s'"):format(dir, to)))
  return to
end

-- Runs as a process that was stopped after its last checkpoint leaves them; made once per set of options.
local made = {}
local function stopped(...)
  local key = table.concat({ ... }, " ")
  if not made[key] then
    local dir = T.tmpdir() .. "/run"
    local _, err, status = child.mocl(arguments(dir, ...))
    T.eq(status, 0, err)
    for _, name in ipairs { "result.json", "timing.json", "report.html" } do
      assert(fs.remove(dir .. "/" .. name))
    end
    local stages = assert(json.load(dir .. "/stages.json"))
    stages.moc, stages.evaluation = nil, nil
    assert(fs.write(dir .. "/stages.json", json.encode(stages)))
    made[key] = dir
  end
  return copy(made[key])
end

local function refused(dir, texts, ...)
  local out, err, status = child.mocl(arguments(dir, ...))
  T.eq(status, 1, out .. err)
  for _, text in ipairs(texts) do
    T.ok(err:find(text, 1, true), err)
  end
  return err
end

local function edit(path, f)
  assert(fs.write(path, f(assert(fs.read(path)))))
end

local function cut(text)
  return text:sub(1, #text // 2)
end

local function flip(text)
  local at = #text - 9
  return text:sub(1, at - 1) .. string.char(text:byte(at) ~ 1) .. text:sub(at + 1)
end

-- so that a checkpoint that was changed looks as if it had been written so
local function sum_again(dir)
  assert(fs.remove(dir .. "/SHA256SUMS"))
  assert(fs.write(dir .. "/SHA256SUMS", digest.text(digest.of(dir))))
end

T.test("a stopped run can be continued (the others of these tests break it first)", function()
  local _, err, status = child.mocl(arguments(stopped()))
  T.eq(status, 0, err)
end)

T.test("each file of a checkpoint, cut, changed by a bit, or missing", function()
  local dir = stopped()
  local last = dir .. "/checkpoint-000002"
  for _, name in ipairs { "state.json", "adapter_model.safetensors", "optimizer.safetensors", "value_heads.safetensors",
    "adapter_config.json", "config.lua" } do
    local whole = assert(fs.read(last .. "/" .. name))
    for _, change in ipairs { cut, flip } do
      assert(fs.write(last .. "/" .. name, change(whole)))
      refused(dir, { last .. "/" .. name .. ": is not the file that was written (sha256 ", ", was " .. assert(
        digest.parse(assert(fs.read(last .. "/SHA256SUMS"))))[name],
        "this checkpoint is damaged: delete " .. last .. " to go on from the one before it" })
    end
    assert(fs.remove(last .. "/" .. name))
    refused(dir, { name .. ": No such file or directory", "this checkpoint is damaged" })
    assert(fs.write(last .. "/" .. name, whole))
  end
  -- the cure works
  assert(fs.remove_tree(last))
  local _, err, status = child.mocl(arguments(dir))
  T.eq(status, 0, err)
end)

T.test("the checkpoint of a run with other objectives or options", function()
  for option, text in pairs {
    ["objectives=helpful,humor"] = "objectives: helpful,humor there, humor,helpful now",
    ["ppo.lr=0.001"] = "ppo.lr: 0.001 there, 0.004 now",
    ["model.hidden_size=16"] = "model.hidden_size: 16 there, 8 now",
  } do
    local dir, other = stopped(), stopped(option)
    local last = dir .. "/checkpoint-000002"
    assert(fs.remove_tree(last))
    assert(os.execute(("cp -a '%s/checkpoint-000002' '%s'"):format(other, last)))
    refused(dir, { last .. " is a checkpoint of a run with other options:", text, "delete it if it does not belong to " .. dir })
    -- the same options for the run itself
    refused(dir, { dir .. " holds a run with other options:", "choose another directory with out=, or delete it" }, option)
  end
end)

T.test("options that a run of an earlier version did not have", function()
  local dir, data = stopped(), T.shared "prefs/hh-rlhf/LICENSE":match "^(.*)/"
  edit(dir .. "/config.lua", function(s)
    local out, n = s:gsub('\n  trade_off = "rising",', "")
    T.eq(n, 1)
    return out
  end)
  refused(dir, { "  trade_off: unset there, equal now" }, "trade_off=equal")
  refused(dir, { "  data: empty there, " .. data .. " now" }, "data=" .. data, "objectives=harmless,helpful")
  local _, err, status = child.mocl(arguments(dir))
  T.eq(status, 0, err)
end)

T.test("tensors of another model under the right names", function()
  local other = stopped "model.hidden_size=16"
  for name, text in pairs {
    ["adapter_model.safetensors"] = "adapter_model.safetensors: tensor 'model.layers.0.self_attn.q_proj.lora_A.weight' is (16,16), "
      .. "the model needs (16,8)",
    ["value_heads.safetensors"] = "value_heads.safetensors: tensor 'v_head.0.0.weight' is (16,16), the model needs (8,8)",
    ["optimizer.safetensors"] = "optimizer.safetensors: tensor 'first.00001' is (16,16), the model needs (16,8)",
  } do
    local dir = stopped()
    local last = dir .. "/checkpoint-000002"
    assert(fs.write(last .. "/" .. name, assert(fs.read(other .. "/checkpoint-000002/" .. name))))
    sum_again(last)
    refused(dir, { text })
    assert(fs.write(last .. "/" .. name, "nonsense"))
    sum_again(last)
    refused(dir, { last .. "/" .. name .. ": " })
  end
end)

T.test("a state of another shape", function()
  local dir = stopped()
  local last = dir .. "/checkpoint-000002"
  local whole = assert(fs.read(last .. "/state.json"))
  local function told(text, change)
    local state = json.decode(whole)
    change(state)
    assert(fs.write(last .. "/state.json", json.encode(state)))
    sum_again(last)
    refused(dir, { text })
  end
  told("checkpoint-000002/state.json: is not the state of step 2", function(s) s.step = 3 end)
  told("checkpoint-000002/state.json: is not the state of step 2", function(s) s.offsets = nil end)
  told("checkpoint-000002 is a checkpoint of sft, not of moc_hh", function(s) s.recipe = "sft" end)
  told("restore: the state is of a deck of", function(s)
    s.prompts.order, s.prompts.dealt = { 2, 1 }, 0
  end)
  told("restore: the state is not one of a deck", function(s) s.prompts.order[1] = "x" end)
  told("checkpoint-000002: its state.json is not of this recipe: it lacks beta, preferences, it has deck; the run began with mocl "
    .. require "mocl"._VERSION .. ". Run the stage again: resume=auto redo=moc", function(s) s.deck, s.preferences, s.beta = s.preferences end)
  told("running.restore: mean needs 2 numbers", function(s) s.control.stats.mean = { 1 } end)
  told("running.restore: a table expected, got nil", function(s) s.control.stats = nil end)
  told("Control.restore: ", function(s) s.control.mean[1] = { 1, "x" } end)
  told("Control.restore: ", function(s) s.control.mean = {} end)
  told("kl_controller.restore: ", function(s) s.beta.value = -1 end)
  told("control_log: the total 'kl' is not a number", function(s) s.log.kl = "x" end)
end)

T.test("files of finished stages that are not what the stage wrote", function()
  local dir = stopped()
  for name, stage in pairs { ["tokenizer.json"] = "tokenizer", ["sft/model.safetensors"] = "sft", ["base/config.json"] = "base",
    ["reward-humor/score_head.safetensors"] = "reward-humor" } do
    local path = dir .. "/" .. name
    local whole = assert(fs.read(path))
    assert(fs.write(path, flip(whole)))
    refused(dir, { ("%s: is not what stage '%s' of this run wrote"):format(path, stage), "(sha256 ", "put it back" })
    assert(fs.remove(path))
    refused(dir, { path .. ": No such file or directory" })
    assert(fs.write(path, whole))
  end
  local ends = dir .. "/sft/generation_config.json" -- which would change what ends an answer
  assert(fs.write(ends, '{"eos_token_id": 7}'))
  refused(dir, { ends .. ": is beside what stage 'sft' of this run wrote" })
  assert(fs.remove(ends))
end)

T.test("the run's own files, cut or nonsense", function()
  local dir = stopped()
  local function told(name, text, f)
    local whole = assert(fs.read(dir .. "/" .. name))
    edit(dir .. "/" .. name, f)
    refused(dir, { text })
    assert(fs.write(dir .. "/" .. name, whole))
  end
  told("stages.json", "stages.json: line ", cut)
  for _, text in ipairs { "3", '{"sft": 3}', '{"sft": {}}', '{"sft": {"offsets": {"metrics": 1}, "seconds": 1}}',
    '{"sft": {"offsets": {"metrics": 1, "samples": 0}}}' } do
    told("stages.json", "is not what a run writes there", function() return text end)
  end
  told("env.json", "env.json: line ", cut)
  told("env.json", "holds a run of nil, not of moc_hh", function() return "[]" end)
  told("config.lua", "config.lua", cut)
  told("config.lua", "expected a table of options, got 3", function() return "return 3" end)
  told("config.lua", "ppo.lr: 0.5 there, 0.004 now", function(s) return (s:gsub("lr = 0.004", "lr = 0.5")) end)
  told("metrics.jsonl", "bytes, had", cut)
  T.eq(fs.exists(dir .. "/lock"), nil)
end)

T.test("an adapter of another base", function()
  local dir = T.tmpdir() .. "/adapter"
  local model = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  assert(lora.save(model, dir, { base_model_name_or_path = "the/right/one" }))
  local same = transformer.clone(model)
  T.eq(same:hash(), model:hash())
  assert(lora.load(same, dir))
  local other = transformer.new(model:config(), { key = 99 })
  local ok, message, code = lora.load(other, dir)
  T.eq({ ok, code }, { nil, "FORMAT" })
  T.eq(message, ("%s/adapter_model.safetensors: belongs to another base (the/right/one): its weights have sha256 %s, this "
    .. "model's %s; load that base"):format(dir, model:hash(), other:hash()))
  T.eq(other:lora(), nil)
  assert(lora.load(other, dir, { any_base = true }))
  local wide = model:config()
  wide.hidden_size, wide.head_dim = 24, 12
  ok, message = lora.load(transformer.new(wide), dir)
  T.eq(ok, nil)
  T.ok(message:find("adapter_model.safetensors: tensor 'model.layers.0.self_attn.q_proj.lora_A.weight' is (3,12), the model needs (3,24)",
    1, true), message)
  T.raises("lora.load: unknown option 'anybase' %(did you mean 'any_base'%?%)", lora.load, other, dir, { anybase = true })
  -- PEFT's own files do not say
  local tensors = assert(safetensors.load(dir .. "/adapter_model.safetensors"))
  assert(safetensors.save(dir .. "/adapter_model.safetensors", tensors))
  assert(lora.load(other, dir))
end)

T.test("hash() changes with the weights, not with the adapter", function()
  local model = small.model { config = { num_hidden_layers = 1 } }
  local before = model:hash()
  T.ok(#before == 64 and before:find "^%x+$")
  small.adapter(model)
  T.eq(model:hash(), before)
  local w = transformer.parameters(model)[3]
  w:copy_(w * 2)
  local after = model:hash()
  T.ok(after ~= before)
  model:merge_lora()
  T.ok(model:hash() ~= after)
end)

-- ---- directories ----

T.test("out= is a file; a directory that cannot be written", function()
  local path = T.tmpdir() .. "/file"
  assert(fs.write(path, "mine"))
  refused(path, { path .. ": Not a directory", "choose another out=" })
  T.eq(fs.read(path), "mine")
  refused(path .. "/below", { "Not a directory", "choose another out=" })
  local dir = T.tmpdir()
  assert(os.execute(("chmod 555 '%s'"):format(dir)))
  local user = ""
  if fs.write(dir .. "/x", "") then -- root writes everywhere
    assert(fs.remove(dir .. "/x"))
    user = "setpriv --reuid=65534 --regid=65534 --clear-groups "
    assert(os.execute(("chmod 711 '%s'"):format(T.tmp_root)))
    if not os.execute(user .. "test -r recipes/moc_hh.lua -a -r '" .. dir .. "' 2>/dev/null") then
      T.skip("cannot become a user who may not write")
    end
  end
  local out, err, status = child.mocl(arguments(dir .. "/run"), user)
  T.eq(status, 1, out .. err)
  T.ok(err:find(dir .. "/run: Permission denied", 1, true) and err:find("make " .. dir .. "/run writable", 1, true), err)
end)

T.test("a run directory that is removed while the run goes on", function()
  local dir = T.tmpdir() .. "/run"
  local list = arguments(dir, "base.steps=1000000", "save_every=1000000")
  for i, a in ipairs(list) do
    list[i] = child.quote(a)
  end
  local _, err, status = child.shell((child.AWAIT .. [["$MOCL" %s &
pid=$!
await grep '"step":3}' %s/metrics.jsonl
mv %s %s.gone
kill -TERM $pid
wait $pid]]):format(table.concat(list, " "), dir, dir, dir))
  T.eq(status, 1, err) -- the checkpoint that a signal asks for cannot be written
  T.ok(err:find(": No such file or directory\nthe run's directory is gone: start again", 1, true), err)
  T.ok(not err:find("traceback", 1, true), err)
  T.eq(fs.exists(dir), nil)
  -- in the stage that saves
  local run = stopped()
  edit(run .. "/stages.json", function(s)
    local stages = json.decode(s)
    stages["sft-answers"] = nil
    return json.encode(stages)
  end)
  local rewards = T.tmpdir() .. "/r.lua"
  assert(fs.write(rewards, ([[local function f(p, r) os.execute "mv '%s' '%s.gone' 2>/dev/null"
    local s = {} for i, x in ipairs(r) do s[i] = #x end return s end return { humor = f, helpful = f }]]):format(dir, dir)))
  local out, e, code = child.mocl(arguments(dir, "rewards=" .. rewards))
  T.eq(code, 1, out .. e)
  T.ok(e:find(": No such file or directory", 1, true) and e:find("the run's directory is gone: start again", 1, true), e)
  T.eq(fs.exists(dir), nil, "nothing was made in its place")
end)

T.test("out= and resume= that can be no directory name the option", function()
  for _, recipe in ipairs { "moc_hh", "fishwood", "fruit_tree" } do
    local function told(text, ...)
      local out, err, status = child.mocl { "recipes/" .. recipe .. ".lua", "preset=smoke", "quiet=true", ... }
      T.eq(status, 1, out .. err)
      T.eq(err:match ": (.*)\n$", text)
    end
    told("option out: is empty; give it a value, or leave it out", "out=")
    told("option resume: is empty; give it a value, or leave it out", "resume=")
    told("resume=/nowhere holds no run to continue", "resume=/nowhere")
    told("/proc/x: No such file or directory\n/proc/x cannot be made: choose another out=", "out=/proc/x")
    told("option threads: 100000 is above the maximum 256", "threads=100000")
  end
end)

T.test("mocl generate, tokenize and report name the option of a path that is wrong", function()
  local dir = T.tmpdir()
  local model, file = dir .. "/model", dir .. "/file"
  assert(transformer.save(small.model { config = { vocab_size = 257 } }, model, {}))
  assert(fs.write(file, "hello"))
  assert(fs.write(dir .. "/bad.json", '{"a":'))
  local tok = "tokenizer=" .. model .. "/tokenizer.json"
  assert(tokenizer.train({ "hello" }, { vocab_size = 257, special_tokens = { "<s>" } }):save(model .. "/tokenizer.json"))
  local function told(recipe, key, path, ...)
    local out, err, status = child.mocl { "recipes/" .. recipe .. ".lua", key .. "=" .. path, ... }
    T.eq(status, 1, out .. err)
    T.ok(err:find(("option %s: "):format(key), 1, true), err)
    T.ok(path == "" or err:find(path, 1, true), err)
    T.ok(not err:find("traceback", 1, true), err)
  end
  for _, path in ipairs { "", dir .. "/nowhere", file .. "/below", dir .. "/bad.json" } do
    told("generate", "model", path)
    told("generate", "tokenizer", path, "model=" .. model)
    told("generate", "adapter", path, "model=" .. model)
    told("tokenize", "tokenizer", path, "file=" .. file)
    told("report", "run", path)
  end
  for _, path in ipairs { "", dir .. "/nowhere", dir } do
    told("tokenize", "file", path, tok)
  end
  local run = stopped()
  assert(select(3, child.mocl(arguments(run))) == 0)
  told("report", "front", dir .. "/nowhere/x.svg", "run=" .. run)
end)

T.test("text that standard output does not take ends with status 1", function()
  local dir = T.tmpdir()
  assert(transformer.save(small.model { config = { vocab_size = 257 } }, dir, {}))
  assert(tokenizer.train({ "hello" }, { vocab_size = 257, special_tokens = { "<s>" } }):save(dir .. "/tokenizer.json"))
  for _, arguments in ipairs { "tokenize file=README.md tokenizer=", "generate quiet=true max_new_tokens=2 model=" } do
    local _, err, status = child.shell(('"$MOCL" %s%s > /dev/full'):format(arguments, dir))
    T.eq(status, 1)
    T.ok(err:find(": standard output: No space left on device\n$"), err)
  end
end)

-- ---- options ----

T.test("options that cannot go together cost nothing", function()
  local dir = T.tmpdir() .. "/run"
  local function told(text, ...)
    refused(dir, { text }, ...)
    T.eq(fs.exists(dir), nil, "no directory is left behind: " .. text)
  end
  told("model.heads=3 does not divide model.hidden_size=8", "model.heads=3")
  told("model.hidden_size=8 / model.heads=8 = 1 must be even, for the rotary embedding", "model.heads=8")
  told("ppo.max_new_tokens=300 answer tokens leave no room for a prompt in model.positions=256", "ppo.max_new_tokens=300")
  told("model config: num_hidden_layers = 5000 is outside 1 .. 4096", "model.layers=5000")
  told("option ppo.target: 0 is below the minimum", "ppo.target=0")
  told("option control.statistics_factor: 1 is above the maximum", "control.statistics_factor=1")
end)

T.test("unknown and missing options of functions", function()
  local lm, policy, reward = require "mocl.lm.sft", require "mocl.lm.policy", require "mocl.lm.reward"
  T.raises("lm.train: unknown option 'learning_rate' %(known: model, ", lm.train, { learning_rate = 1 })
  T.raises("lm.train: unknown option 'step' %(did you mean 'steps'%?%)", lm.train, { step = 1 })
  T.raises("lm.train: option 'model' is missing", lm.train, {})
  T.raises("policy.new: unknown option 'max_new_token' %(did you mean 'max_new_tokens'%?%)", policy.new, { max_new_token = 1 })
  T.raises("policy.new: a table of options expected, got nil", policy.new)
  -- each function checks its own arguments, and not what it calls
  local model = small.model { config = { vocab_size = 260 } }
  local tok = tokenizer.train({ "hello" }, { vocab_size = 258, special_tokens = { "<s>", "</s>" } })
  local pol = policy.new { model = model, tokenizer = tok, max_new_tokens = 2 }
  T.raises("policy.new: max_new_tokens is an integer of at least 1, got 0", policy.new, { model = model, tokenizer = tok,
    max_new_tokens = 0 })
  T.raises("^tests/[^ ]+ answer: a list of texts expected, got a string; for one text write { text }", function()
    pol:answer("hello", { key = 1 })
  end)
  T.raises("answer: the list of texts is empty", pol.answer, pol, {}, { key = 1 })
  T.raises("answer: text 2 is a number, not a string", pol.answer, pol, { "a", 3 }, { key = 1 })
  T.raises("answer: option 'key' is missing", pol.answer, pol, { "a" }, {})
  T.raises("answer: key is an integer such as rng.key gives, got a string", pol.answer, pol, { "a" }, { key = "x" })
  T.raises("encode: a list of texts expected, got a string", pol.encode, pol, "a")
  T.raises("measure: option 'p' is missing", pol.measure, pol, {})
  T.raises("measure_all: unknown option 'prompt' %(did you mean 'prompts'%?%)", pol.measure_all, pol, { { 1 } }, { prompt = {} })
  local judge = reward.model { trunk = model, tokenizer = tok }
  T.raises("reward model, prompts: a list of texts expected, got a string", judge, "a", "b")
  T.raises("reward model: 1 prompts, but 2 responses", judge, { "a" }, { "b", "c" })
  T.raises("lm.encode: row 1 is not {prompt =, response =} with texts", lm.encode, tok, { "a" })
  T.raises("model config: missing: hidden_size, num_hidden_layers, num_attention_heads, intermediate_size$", transformer.new,
    { vocab_size = 10 })
  T.raises("reward.model: unknown option 'tokeniser' %(did you mean 'tokenizer'%?%)", reward.model, { tokeniser = 1 })
  T.raises("unknown option '1'", reward.model, { 1 })
end)

T.test("token ids and sizes are numbers, not text that reads as one", function()
  local nn, tensor = require "mocl.nn.core", require "mocl.tensor"
  T.raises("entry 2 of row 1 is no token id", transformer.batch, { { 1, "2" } })
  T.raises("entry 1 of row 1 is no token id", transformer.batch, { { 1.5 } })
  T.raises("entry 1 is not an integer", nn.embedding, tensor.ones { 3, 2 }, { "1" })
  T.raises("sizes must be integers", tensor.zeros, { "3" })
  T.eq(transformer.batch { { 1.0, 2 } }.tokens:totable(), { 1, 2 })
end)

T.test("asking for the platform opens no device", function()
  T.eq(child.lua [[local env = require("mocl.sys").env()
    require("mocl.sys").set_threads(3) -- raises once a device is open
    print(env.devices, require("mocl.tensor").memory().cached)]]:match "^cpu", "cpu")
end)
