-- the one list of keys of config.json and generation_config.json, against all that transformers 4.57 and 5.24 know and save
-- (fixtures/keys/make_keys.py runs both)

local T = require "t"
local classifier = require "mocl.lm.classifier"
local families = require "mocl.lm.families"
local fs = require "mocl.fs"
local json = require "mocl.json"
local model_keys = require "mocl.lm.model_keys"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local noted = assert(json.load(fs.dirname(debug.getinfo(1, "S").source:sub(2)) .. "/fixtures/keys/keys.json"))
local VERSIONS = { "4.57.6", "5.24.0" }

local function knows(lists, key)
  for _, one in ipairs(lists.honoured) do
    if one == key then
      return true
    end
  end
  return lists.neutral[key] ~= nil or lists.without_effect[key] ~= nil
end

T.test("every key that a version of transformers knows is honoured, neutral or without effect, in each family", function()
  local unknown, n = {}, 0
  for _, version in ipairs(VERSIONS) do
    for name, family in pairs(noted[version]) do
      for _, key in ipairs(family.attributes) do
        n = n + 1
        if not knows(T.ok(families.by_type[name], name).keys, key) then
          unknown[#unknown + 1] = ("%s %s: %s"):format(version, name, key)
        end
      end
    end
    for _, key in ipairs(noted[version .. " generation"]) do
      n = n + 1
      if not knows(model_keys.GENERATION, key) then
        unknown[#unknown + 1] = ("%s generation_config.json: %s"):format(version, key)
      end
    end
  end
  T.eq(unknown, {})
  T.ok(n > 1000, n)
end)

-- the directory that a version saves of a class
local function saved(files)
  local dir, tensors, i = T.tmpdir() .. "/model", {}, 0
  for name, shape in pairs(files.tensors) do
    i = i + 1
    tensors[name] = tensor.randn(shape, { key = 3, stream = i, std = .1 })
  end
  assert(fs.mkdir(dir))
  for _, name in ipairs { "config.json", "generation_config.json" } do
    if files[name] and files[name] ~= json.null then
      assert(fs.write(fs.join(dir, name), json.encode(files[name])))
    end
  end
  assert(safetensors.save(fs.join(dir, "model.safetensors"), tensors))
  return dir
end

for _, version in ipairs(VERSIONS) do
  T.test("what transformers " .. version .. " saves of each class of each family loads", function()
    local left, n = {}, 0
    for name, family in pairs(families.by_type) do
      for class in pairs(family.classes) do
        left[class] = name
      end
    end
    for name, family in pairs(noted[version]) do
      for class, files in pairs(family.classes) do
        local dir = saved(files)
        if class:find "Classification" then
          local c = T.ok(classifier.load(dir))
          T.eq(c.labels, 3, class)
        else
          local model, config = transformer.load(dir)
          T.ok(model, ("%s: %s"):format(class, config))
          T.eq(config.model_type, name, class)
          -- and what mocl writes of it is the same model
          assert(transformer.save(model, dir .. "/again"))
          T.eq(T.ok(transformer.load(dir .. "/again")):hash(), model:hash(), class)
        end
        left[class], n = nil, n + 1
      end
    end
    left.LLaMAForCausalLM, left.LlamaForCausalLM = nil, nil -- an old name, and one that Mistral's files had
    T.eq(left, {}, "classes without a case")
    T.eq(n, 19)
  end)
end

T.test("a key that would change the answers is refused by name, in either file", function()
  local files = noted["5.24.0"].llama.classes.LlamaForCausalLM
  for key, value in pairs { forced_bos_token_id = 5, forced_eos_token_id = 2, exponential_decay_length_penalty = { 3, 1.5 }, dola_layers = "high",
    watermarking_config = { bias = 2 }, num_beams = 4 } do
    for _, name in ipairs { "config.json", "generation_config.json" } do
      local dir = saved(files)
      local all = assert(json.load(fs.join(dir, name)))
      all[key] = value
      assert(fs.write(fs.join(dir, name), json.encode(all)))
      T.fails(("%s: %s = .* is not supported"):format(name, key), transformer.load, dir)
    end
  end
end)
