-- quantization= of the recipes: the base of a policy, of an SFT model and of reward models in 8 or 4 bits under what is trained.
-- The truth of such a run is one on the numbers that the codes stand for, in a directory with floats.

local T = require "t"
local child = require "child"
local failures = require "failures"
local fs = require "mocl.fs"
local hh = require "fixtures.hh"
local json = require "mocl.json"
local loaded = require "mocl.lm.loaded"
local lora = require "mocl.lm.lora"
local memory_plan = require "mocl.lm.memory_plan"
local reward_directory = require "mocl.lm.reward_directory"
local rewards = require "fixtures.rewards.rewards"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local FORMATS = { "int8", "nf4" }
local LINEAR = "_proj%.weight$"

-- ---- files ----

local home = T.tmpdir()
local made = {}

local function once(name, make)
  if not made[name] then
    made[name] = home .. "/" .. name
    make(made[name])
  end
  return made[name]
end

-- a model with its tokenizer
local function floats()
  return once("floats", function(dir)
    local tok = tokenizer.train({ "a question and its answer" }, { vocab_size = 300, special_tokens = { "<s>", "</s>" } })
    local model = small.model { config = { vocab_size = tok:vocab_size(), hidden_size = 128, intermediate_size = 256, max_position_embeddings = 96 } }
    assert(transformer.save(model, dir, { bos_token_id = 0, eos_token_id = 1 }))
    assert(tok:save(dir))
  end)
end

-- the same with the numbers that the codes of a format stand for
local function rounded(format)
  return once("rounded-" .. format, function(dir)
    local model = assert(transformer.load(floats(), { quantization = format }))
    model:dequantize()
    assert(transformer.save(model, dir, { bos_token_id = 0, eos_token_id = 1 }))
    assert(fs.copy(floats() .. "/tokenizer.json", dir .. "/tokenizer.json"))
  end)
end

-- the same as bitsandbytes saves it in 8 bits
local function codes()
  return once("codes", function(dir)
    local model, tensors = assert(transformer.load(floats(), { quantization = "int8" })), {}
    for _, pair in ipairs(model:named_parameters()) do
      tensors[pair[1]] = pair[2]
    end
    local config = assert(json.load(floats() .. "/config.json"))
    config.quantization_config = { quant_method = "bitsandbytes", load_in_8bit = true, load_in_4bit = false }
    assert(fs.mkdir(dir))
    assert(json.save(dir .. "/config.json", config))
    assert(safetensors.save(dir .. "/model.safetensors", tensors))
    assert(fs.copy(floats() .. "/tokenizer.json", dir .. "/tokenizer.json"))
  end)
end

-- the same in two shards
local function shards()
  return once("shards", function(dir)
    local tensors, parts, map = assert(safetensors.load(floats() .. "/model.safetensors")), { {}, {} }, {}
    for name, t in pairs(tensors) do
      local i = name:find "layers%.0" and 1 or 2
      parts[i][name], map[name] = t, ("model-%05d-of-00002.safetensors"):format(i)
    end
    assert(fs.mkdir(dir))
    for i, part in ipairs(parts) do
      assert(safetensors.save(("%s/model-%05d-of-00002.safetensors"):format(dir, i), part))
    end
    assert(json.save(dir .. "/model.safetensors.index.json", { weight_map = map }))
    for _, name in ipairs { "config.json", "tokenizer.json" } do
      assert(fs.copy(floats() .. "/" .. name, dir .. "/" .. name))
    end
  end)
end

local function words()
  local path = once("files", function(dir)
    local prompts, rows = {}, {}
    for i = 1, 20 do
      prompts[i] = "a question " .. i
      rows[i] = json.encode { prompt = prompts[i], response = "its answer " .. i }
    end
    assert(fs.mkdir(dir))
    assert(fs.write(dir .. "/prompts.txt", table.concat(prompts, "\n") .. "\n"))
    assert(fs.write(dir .. "/rows.jsonl", table.concat(rows, "\n") .. "\n"))
    assert(fs.write(dir .. "/rewards.lua", [[
local function count(pattern)
  return function(_, responses)
    local scores = {}
    for i, text in ipairs(responses) do
      scores[i] = select(2, text:gsub(pattern, ""))
    end
    return scores
  end
end
return { a = count "%l", b = count "%A" }
]]))
  end)
  return path
end

-- ---- runs ----

local function fresh()
  return T.tmpdir() .. "/run"
end

local function run(recipe, dir, ...)
  local list = { "recipes/" .. recipe .. ".lua", "preset=smoke", "out=" .. dir, ... }
  return child.mocl(list)
end

local function must(recipe, dir, ...)
  local out, err, status = run(recipe, dir, ...)
  T.eq(status, 0, out .. err)
  return err
end

local function refused(recipe, text, ...)
  local dir = fresh()
  local out, err, status = run(recipe, dir, ...)
  T.eq(status, 1, out .. err)
  T.ok(err:find(text, 1, true), err)
  T.ok(not err:find("traceback", 1, true), err)
  T.eq(fs.exists(dir), nil, "no directory is left: " .. text)
end

local function policy_of(init, ...)
  return "model=" .. init, "prompts=" .. words() .. "/prompts.txt", "rewards=" .. words() .. "/rewards.lua", "objectives=a,b", "lora.layers=0",
    "ppo.batch_size=4", "ppo.ppo_epochs=2", "ppo.lr=1e-2", "moc.iterations=3", "moc.save_every=1", "ppo.max_new_tokens=4", "eval.answers=2",
    "eval.unseen_answers=0", ...
end

local function quantised(format)
  return once("run-" .. format, function(dir)
    must("moc_hh", dir, policy_of(floats(), "quantization=" .. format, "quiet=true"))
  end)
end

-- what does not say the path of the run or of its model
local SAME = { "metrics.jsonl", "samples.jsonl", "result.json", "last/value_heads.safetensors" }

local function adapter(dir)
  local list = {}
  for name, t in pairs(assert(safetensors.load(dir .. "/last/adapter_model.safetensors"))) do
    list[name] = t:totable()
  end
  return list
end

local function same(a, b)
  for _, name in ipairs(SAME) do
    T.ok(assert(fs.read(a .. "/" .. name)) == assert(fs.read(b .. "/" .. name)), name)
  end
  T.eq(adapter(a), adapter(b))
end

for _, format in ipairs(FORMATS) do
  T.test(format .. ": a run is, to the bit, that on the numbers the codes stand for, and its first ratio is 1", function()
    local dir, plain = quantised(format), fresh()
    must("moc_hh", plain, policy_of(rounded(format), "quiet=true"))
    same(dir, plain)
    local rows = 0
    for line in io.lines(dir .. "/metrics.jsonl") do
      local row = assert(json.decode(line))
      if row.stage == "moc" then
        rows = rows + 1
        T.eq(row["ppo/first_ratio_error"], 0.0)
        T.ok(rows == 1 or row["objective/kl"] > 0, "the adapter moves, the reference does not")
      end
    end
    T.eq(rows, 3)
  end)

  T.test(format .. ": stopped and continued, the run has the bytes of a whole one", function()
    local dir = fresh()
    assert(os.execute(("cp -a '%s' '%s'"):format(quantised(format), dir)))
    for _, name in ipairs { "result.json", "timing.json", "report.html", "front.svg" } do
      fs.remove(dir .. "/" .. name)
    end
    local stages = assert(json.load(dir .. "/stages.json"))
    stages.moc, stages.evaluation = nil, nil
    assert(fs.write(dir .. "/stages.json", json.encode(stages)))
    assert(os.execute(("rm -rf '%s'/last '%s'/checkpoint-000003"):format(dir, dir)))
    must("moc_hh", dir, policy_of(floats(), "quantization=" .. format, "quiet=true", "resume=auto"))
    same(dir, quantised(format))
    -- and it stays what it was
    local _, err, status = run("moc_hh", dir, policy_of(floats(), "quiet=true", "resume=auto"))
    T.eq(status, 1)
    T.ok(err:find(("quantization: %s there, none now"):format(format), 1, true), err)
  end)

  T.test(format .. ": mocl.load_run and mocl export take the base that the adapter was trained on", function()
    local dir, out = quantised(format), T.tmpdir() .. "/out"
    local policy = assert(loaded.load_run(dir)).model
    T.eq(policy:quantization(), format)
    local _, err, status = child.mocl { "-e", "", "export", dir, "out=" .. out }
    T.eq(status, 0, err)
    local batch = transformer.batch { { 5, 70, 100, 9, 201 } }
    local function states(model)
      return tensor.no_grad(model.forward, model, batch)
    end
    local function distance(a, b)
      return (states(a) - states(b)):abs():max():item()
    end
    local merged = assert(transformer.load(out))
    T.eq(merged:quantization(), nil)
    T.ok(distance(policy, merged) < 1e-5, "merged into the numbers that the codes stand for")
    local truth = assert(transformer.load(rounded(format)))
    T.ok(distance(truth, merged) > 1e-4, "with the adapter")
    T.ok(distance(assert(transformer.load(floats())), truth) > 1e-3, "which are not those of the floats")
    T.fails("belongs to another base", lora.load, assert(transformer.load(floats())), dir .. "/last")
    -- the adapter alone, and what takes it
    local alone = T.tmpdir() .. "/adapter"
    _, err, status = child.mocl { "-e", "", "export", dir, "out=" .. alone, "merge=false" }
    T.eq(status, 0, err)
    T.ok(distance(policy, assert(loaded.load(floats(), { adapter = alone, quantization = format })).model) == 0)
    _, err, status = child.mocl { "-e", "", "export", "model=" .. floats(), "adapter=" .. alone, "out=" .. out, "quantization=" .. format }
    T.eq(status, 0, err)
    T.ok(distance(merged, assert(transformer.load(out))) == 0)
    _, err, status = child.mocl { "-e", "", "export", "model=" .. floats(), "adapter=" .. alone, "out=" .. out }
    T.eq(status, 1)
    T.ok(err:find("belongs to another base", 1, true), err)
  end)
end

local METHODS = { "grpo", "clp", "morlhf", "rewarded_soups", "mod", "modpo", "ric", "metaaligner" }

T.test("every method stands on the quantised base: its adapters belong to it, and no other", function()
  local base = assert(transformer.load(floats(), { quantization = "nf4" })):hash()
  for _, recipe in ipairs(METHODS) do
    local dir, found = fresh(), 0
    must(recipe, dir, "model=" .. floats(), "prompts=" .. words() .. "/prompts.txt", "rewards=" .. words() .. "/rewards.lua", "objectives=a,b",
      "eval.answers=2", "eval.unseen_answers=0", "ppo.max_new_tokens=3", "quantization=nf4", "quiet=true")
    local pipe = assert(io.popen("find " .. child.quote(dir) .. " -name adapter_model.safetensors"))
    for path in pipe:lines() do
      local _, meta = assert(safetensors.load(path))
      found = found + 1
      T.eq(meta.base_sha256, base, path)
    end
    pipe:close()
    T.ok(found > 0, recipe)
  end
end)

local function first_ratio(device, before)
  for format, dtype in pairs { int8 = "bf16", nf4 = device == "cpu" and "bf16" or "f32" } do
    local dir, list = fresh(), { policy_of(floats(), "quantization=" .. format, "dtype=" .. dtype, "device=" .. device, "quiet=true") }
    for _, word in ipairs { "out=" .. dir, "preset=smoke", "recipes/moc_hh.lua" } do
      table.insert(list, 1, word)
    end
    for _, word in ipairs { "lora.layers=1", "moc.iterations=1", "ppo.batch_size=2", "ppo.max_new_tokens=2", "eval.answers=1" } do
      list[#list + 1] = word
    end
    local out, err, status = child.mocl(list, before)
    T.eq(status, 0, out .. err)
    local seen = false
    for line in io.lines(dir .. "/metrics.jsonl") do
      T.eq(assert(json.decode(line))["ppo/first_ratio_error"], 0.0, format .. " " .. dtype)
      seen = true
    end
    T.ok(seen)
  end
end

T.test("in bf16 on the cpu the first ratio is 1 too", function()
  first_ratio "cpu"
end)

T.test("on a GPU's emulator, in f32 and bf16, the first ratio is 1 too", function()
  first_ratio("cuda", "env MOCL_CUDA=" .. child.quote(T.emulator()))
end)

T.test("the memory plan of a run has the weights in their format", function()
  local err = must("moc_hh", fresh(), policy_of(floats(), "quantization=int8"))
  local model = assert(transformer.load(floats(), { quantization = "int8" }))
  local plan = memory_plan.of { config = model:config(), quantization = "int8", trained = 0, rows = 1, prompt = 1, answer = 1 }
  local words_of = memory_plan.text({ plan[1] }, 0):match "weights of the model [%d.]+ MiB"
  T.ok(err:find(words_of, 1, true), err)
  local more = memory_plan.of { config = model:config(), trained = 0, rows = 1, prompt = 1, answer = 1 }
  T.ok(memory_plan.text({ more[1] }, 0):match "weights of the model [%d.]+ MiB" ~= words_of)
end)

T.test("without an SFT stage the files of the model are the base, as they are: shards, and codes of bitsandbytes", function()
  for _, init in ipairs { shards(), codes() } do
    local dir = fresh()
    must("moc_hh", dir, policy_of(init, "quantization=int8", "quiet=true"))
    for _, name in ipairs(assert(fs.list(dir .. "/sft"))) do
      T.eq(fs.sha256(dir .. "/sft/" .. name), fs.sha256(init .. "/" .. name), name)
    end
    T.eq(#fs.list(dir .. "/sft"), init == shards() and 4 or 2)
    same(dir, quantised "int8")
    local inputs = assert(json.load(dir .. "/env.json")).inputs
    for _, name in ipairs(assert(fs.list(init))) do
      T.eq(inputs[init .. "/" .. name], fs.sha256(init .. "/" .. name), name)
    end
  end
  -- an SFT model that is trained is floats, and what the policy stands on is its codes
  local dir = fresh()
  must("moc_hh", dir, policy_of(floats(), "quantization=nf4", "quiet=true", "sft.data=" .. words() .. "/rows.jsonl", "sft.steps=2", "sft.batch_size=2"))
  local meta = select(2, assert(safetensors.load(dir .. "/last/adapter_model.safetensors")))
  T.eq(meta.base_sha256, assert(transformer.load(dir .. "/sft", { quantization = "nf4" })):hash())
  T.ok(assert(transformer.load(dir .. "/sft")):hash() ~= assert(transformer.load(floats())):hash())
end)

T.test("what cannot be quantised is refused before there is a directory", function()
  local int8 = "its weights are int8 already, and quantization=%s asks for others; take quantization=int8"
  refused("moc_hh", int8:format "none", policy_of(codes()))
  refused("moc_hh", int8:format "nf4", policy_of(codes(), "quantization=nf4"))
  refused("moc_hh", "its weights are int8, and an SFT model is trained from floats; take sft.steps=0",
    policy_of(codes(), "quantization=int8", "sft.data=" .. words() .. "/rows.jsonl"))
  refused("moc_hh", "option quantization: expected one of none, int8, w8a8, nf4", policy_of(floats(), "quantization=int7"))
  refused("moc_hh", "lora.r", policy_of(floats(), "quantization=int8", "lora.r=0"))
  -- of files in the format of HH-RLHF there are pairs, and reward models would be trained
  refused("moc_hh", "the reward model of 'helpful' is trained from floats; give reward.helpful=DIR or a function in rewards=", "model=" .. codes(),
    "data=" .. hh.write(T.tmpdir()), "objectives=helpful,harmless", "quantization=int8", "sft.steps=0", "ppo.max_new_tokens=4")
  local data = "data=" .. words() .. "/rows.jsonl"
  refused("sft", "quantization=int8 needs model=", data, "quantization=int8")
  refused("sft", "quantization=nf4 with lora.r=0: all weights are trained", data, "model=" .. floats(), "quantization=nf4", "lora.r=0")
  refused("sft", int8:format "nf4", data, "model=" .. codes(), "quantization=nf4")
  local gguf = T.tmpdir() .. "/m.gguf"
  local _, err, status = child.mocl { "-e", "", "export", "model=" .. floats(), "out=" .. gguf }
  T.eq(status, 0, err)
  refused("sft", "is a GGUF file, whose numbers have their own types", data, "model=" .. gguf, "quantization=nf4")
  _, err, status = child.mocl { "-e", "", "export", "model=" .. gguf, "out=" .. gguf, "quantization=nf4" }
  T.eq(status, 1)
  T.ok(err:find("option quantization: is for directories", 1, true), err)
end)

T.test("sft: an adapter on codes, merged into the numbers that they stand for", function()
  for _, format in ipairs(FORMATS) do
    local dir, plain = fresh(), fresh()
    local data = "data=" .. words() .. "/rows.jsonl"
    must("sft", dir, data, "model=" .. floats(), "quantization=" .. format, "quiet=true")
    must("sft", plain, data, "model=" .. rounded(format), "quiet=true")
    for _, name in ipairs { "metrics.jsonl", "result.json", "sft/model.safetensors" } do
      T.ok(assert(fs.read(dir .. "/" .. name)) == assert(fs.read(plain .. "/" .. name)), name)
    end
  end
end)

T.test("reward_model: an adapter on codes, merged into the numbers that they stand for", function()
  local lines = {}
  for i = 1, 30 do
    lines[i] = json.encode { prompt = "a question " .. i, chosen = "its answer " .. i % 7, rejected = "no " .. i % 5 }
  end
  local data = words() .. "/pairs.jsonl"
  assert(fs.write(data, table.concat(lines, "\n") .. "\n"))
  local dir, plain, from_codes = fresh(), fresh(), fresh()
  must("reward_model", dir, "data=" .. data, "model=" .. floats(), "quantization=int8", "min_accuracy=0", "quiet=true")
  must("reward_model", plain, "data=" .. data, "model=" .. rounded "int8", "min_accuracy=0", "quiet=true")
  must("reward_model", from_codes, "data=" .. data, "model=" .. codes(), "quantization=int8", "min_accuracy=0", "quiet=true")
  for _, other in ipairs { plain, from_codes } do
    for _, name in ipairs { "metrics.jsonl", "result.json", "reward_model/model.safetensors" } do
      T.ok(assert(fs.read(dir .. "/" .. name)) == assert(fs.read(other .. "/" .. name)), name)
    end
  end
  refused("reward_model", "quantization=nf4 with lora.r=0", "data=" .. data, "model=" .. floats(), "quantization=nf4", "lora.r=0")
  refused("reward_model", "its weights are int8 already", "data=" .. data, "model=" .. codes(), "quantization=nf4")
end)

T.test("reward.quantization: the rewards are those of the directories in that format", function()
  local golden, dir = rewards.load(), fresh()
  local judge, sentences = rewards.directory(golden, "gpt2", T.tmpdir() .. "/gpt2"), rewards.directory(golden, "encoder", T.tmpdir() .. "/encoder")
  must("moc_hh", dir, "model=" .. floats(), "prompts=" .. words() .. "/prompts.txt", "reward.helpful=" .. judge, "reward.on_topic=" .. sentences,
    "reward.quantization=nf4", "ppo.batch_size=4", "moc.iterations=1", "ppo.max_new_tokens=4", "eval.answers=2", "eval.unseen_answers=0", "quiet=true")
  local statistics = assert(json.load(dir .. "/stages.json"))["sft-answers"].result.statistics
  local sample = assert(json.decode((assert(fs.read(dir .. "/samples.jsonl")):match "^[^\n]*")))
  local raw = {}
  for i, path in ipairs { judge, sentences } do
    local f = assert(reward_directory.load(path, { objective = "helpful", quantization = "nf4" }))
    raw[i] = f({ sample.prompt }, { sample.response })[1]
    T.ok(raw[i] ~= assert(reward_directory.load(path, { objective = "helpful" }))({ sample.prompt }, { sample.response })[1])
  end
  T.near(sample.rewards, require("mocl.lm.policy").normalize(raw, statistics), 1e-5)
  -- the option is no objective
  refused("moc_hh", "needs rewards=FILE.lua or reward.NAME=DIR", "model=" .. floats(), "prompts=" .. words() .. "/prompts.txt", "reward.quantization=nf4")
  refused("moc_hh", "reward.quantization", "model=" .. floats(), "prompts=" .. words() .. "/prompts.txt", "reward.helpful=" .. judge,
    "reward.quantization=int7")
end)
