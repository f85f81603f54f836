-- models with a head for classification, and encoders: the scores and states of transformers 4.57 and 5.24

local T = require "t"
local classifier = require "mocl.lm.classifier"
local fs = require "mocl.fs"
local json = require "mocl.json"
local nn = require "mocl.nn.core"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local function directory(case, version)
  return fs.dirname(T.shared(("families/%s/%s/config.json"):format(case, version)))
end

local function golden(case)
  return assert(json.load(T.shared("families/" .. case .. "/golden.json")))
end

-- a list of a probe without what the mask hides
local function real(probe, name, row)
  local out, mask = {}, probe.attention_mask and probe.attention_mask[row]
  for i, v in ipairs(probe[name][row]) do
    if not mask or mask[i] == 1 then
      out[#out + 1] = v
    end
  end
  return out
end

local function rows_of(probe, name)
  local rows = {}
  for row = 1, #probe.input_ids do
    rows[row] = real(probe, name, row)
  end
  return rows
end

-- Rows that begin with pads: transformers counts positions from the pads on, or reads the state of a pad. A ragged row has
-- what it has alone, which is what the same texts padded on the right give.
local LEFT = { ["gpt2-cls"] = true, ["bert-cls"] = true, ["roberta-cls"] = true, ["distilbert-cls"] = true }

for case, count in pairs { ["llama-cls"] = 11, ["gpt2-cls"] = 11, ["bert-cls"] = 11, ["roberta-cls"] = 7, ["distilbert-cls"] = 10 } do
  T.test(case .. ": the scores of transformers", function()
    for _, version in ipairs { "4.57", "5.24" } do
      local c, n, right = assert(classifier.load(directory(case, version))), 0, nil
      for _, probe in ipairs(golden(case).probes) do
        local padded = probe.name == "right-without-mask" and case == "roberta-cls" -- pads as tokens, whose position is another
        if not padded then
          local rows = rows_of(probe, "input_ids")
          local scores = c:scores(rows, { types = probe.token_type_ids and rows_of(probe, "token_type_ids") }):totable()
          right = probe.name == "right" and probe.scores or right
          local want = probe.name == "left" and LEFT[case] and right or probe.scores
          for row, values in ipairs(want) do
            T.near(scores[row], values, 5e-5, probe.name .. " " .. row)
            n = n + 1
          end
        end
      end
      T.eq(n, count)
    end
  end)
end

T.test("bert-mean: states, their mean over the tokens, and types", function()
  for _, version in ipairs { "4.57", "5.24" } do
    local model = assert(transformer.load(directory("bert-mean", version)))
    local right
    for _, probe in ipairs(golden("bert-mean").probes) do
      local batch = transformer.batch(rows_of(probe, "input_ids"))
      if probe.token_type_ids then
        batch.types = tensor.new(probe.token_type_ids[1], { dtype = "i32" })
      end
      local states = model:forward(batch)
      local mean = nn.segment_mean(states, batch.offsets):totable()
      right = probe.name == "right" and probe.mean or right
      for row, want in ipairs(probe.name == "left" and right or probe.mean) do
        T.near(mean[row], want, 5e-5, probe.name .. " " .. row)
      end
    end
    T.raises("session: this model looks both ways", model.session, model)
    T.raises("head: this model has no language%-model head", model.head, model)
    T.raises("generate: this model has no language%-model head", model.generate, model, { { 1 } })
    local dir = T.tmpdir() .. "/again"
    assert(transformer.save(model, dir))
    local again = assert(transformer.load(dir))
    local batch = transformer.batch { { 3, 5, 7 } }
    T.eq(again:forward(batch):totable(), model:forward(batch):totable())
  end
end)

T.test("which token is pooled", function()
  T.eq(classifier.pooled({ 7, 8, 9 }, "first", 0), 1)
  T.eq(classifier.pooled({ 7, 8, 0, 9, 0, 0 }, "last", 0), 4)
  T.eq(classifier.pooled({ 0, 0 }, "last", 0), 1)
  T.eq(classifier.pooled({ 7, 8, 0 }, "last", nil), 3)
  T.eq(classifier.pooled({ 7, 8, 0 }, "last", -1), 3)
end)

-- a copy of a directory with changes of config.json and of the tensors
local function changed(case, change, tensors)
  local from, dir = directory(case, "5.24"), T.tmpdir() .. "/model"
  local config, all = assert(json.load(from .. "/config.json")), assert(safetensors.load(from .. "/model.safetensors"))
  for k, v in pairs(change or {}) do
    config[k] = v
  end
  for k, v in pairs(tensors or {}) do
    all[k] = v or nil
  end
  assert(fs.mkdir(dir))
  assert(fs.write(dir .. "/config.json", json.encode(config)))
  assert(safetensors.save(dir .. "/model.safetensors", all))
  return dir
end

T.test("heads that do not fit, and files that lack one, are refused", function()
  local load = classifier.load
  T.fails("config.json: num_labels = 5 is not supported %(the head's weight has 3 rows%)", load, changed("bert-cls", { num_labels = 5 }))
  T.fails("tensor 'classifier.weight' is missing, which BertForSequenceClassification needs", load,
    changed("bert-cls", {}, { ["classifier.weight"] = false }))
  T.fails("tensor 'score.weight' is %(1,8%), the model needs %(labels,32%)", load,
    changed("llama-cls", {}, { ["score.weight"] = tensor.zeros { 1, 8 } }))
  T.fails("tensor 'score.bias' belongs to no layer", load, changed("llama-cls", {}, { ["score.bias"] = tensor.zeros { 1 } }))
  T.fails("architectures = %[\"LlamaForCausalLM\"%] is not supported %(LlamaForSequenceClassification%)", load, directory("llama2", "5.24"))
  T.fails("position_embedding_type = relative_key is not supported %(absolute%)", load,
    changed("bert-cls", { position_embedding_type = "relative_key" }))
  T.fails("tensor 'bert.embeddings.position_embeddings.weight' is %(40,32%), the model needs %(41,32%)", load,
    changed("bert-cls", { max_position_embeddings = 41 }))
  T.fails("activation_function = quick_gelu is not supported", load, changed("gpt2-cls", { activation_function = "quick_gelu" }))
  local c = assert(load(directory("roberta-cls", "5.24")))
  T.raises("scores: row 1 holds the pad id 1, which has no position", c.scores, c, { { 0, 5, 1 } })
  T.raises("scores: row 2 is empty", c.scores, c, { { 0, 5 }, {} })
  local long = {}
  for i = 1, 41 do
    long[i] = 5
  end
  T.raises("forward: positions of the context: index 40 %(entry 41%) is outside 0 .. 39", c.scores, assert(load(directory("bert-cls", "5.24"))),
    { long })
  local b = assert(load(directory("bert-cls", "5.24")))
  T.raises("scores: row 1 has 2 tokens and 1 types", b.scores, b, { { 3, 4 } }, { types = { { 0 } } })
  T.raises("scores: row 1 has 2 tokens and no types", b.scores, b, { { 3, 4 } }, { types = {} })
  local g = assert(load(directory("gpt2-cls", "5.24")))
  T.raises("forward: the batch has types of tokens, the model has no table of them", g.scores, g, { { 3 } }, { types = { { 0 } } })
end)
