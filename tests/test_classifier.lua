-- models with a head for classification, and encoders: the scores and states of transformers 4.57 and 5.24

local T = require "t"
local classifier = require "mocl.lm.classifier"
local classifier_files = require "mocl.lm.classifier_files"
local fs = require "mocl.fs"
local json = require "mocl.json"
local nn = require "mocl.nn.core"
local small = require "fixtures.llama.small"
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
local LEFT = { ["gpt2-cls"] = true, ["bert-cls"] = true, ["roberta-cls"] = true, ["distilbert-cls"] = true, ["bart-cls"] = true }

for case, count in pairs { ["llama-cls"] = 11, ["gpt2-cls"] = 11, ["bert-cls"] = 11, ["roberta-cls"] = 7, ["distilbert-cls"] = 10,
  ["bart-cls"] = 10 } do
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

-- ---- BART ----

local bart = assert(json.load(fs.dirname(debug.getinfo(1, "S").source:sub(2)) .. "/fixtures/bart/bart.json"))

-- the directory that transformers saves of a case
local function bart_directory(case)
  local dir, tensors = T.tmpdir() .. "/bart", {}
  for name, shape in pairs(case.shapes) do
    local n = 1
    for _, size in ipairs(shape) do
      n = n * size
    end
    local values, is_norm = small.weight(name, n), name:find "norm" and name:find "weight$"
    for i, v in ipairs(values) do
      v = name:find "norm" and (v - 1) * 2 or v -- small.weight makes 1 plus half of it
      values[i] = is_norm and 1 + v / 2 or v
    end
    tensors[name] = tensor.new(values):reshape(shape)
  end
  assert(fs.mkdir(dir))
  assert(fs.write(dir .. "/config.json", json.encode(case.config)))
  assert(safetensors.save(dir .. "/model.safetensors", tensors))
  return dir
end

local function theirs(case, name)
  local side, rest = name:match "^(%a+)%.(.*)$"
  local layer, inner = rest:match "^model%.layers%.(%d+)%.(.*)$"
  if rest == "model.embed_tokens.weight" then
    return "model.shared.weight"
  end
  inner = (inner or rest:gsub("^model%.", "")):gsub("^mlp%.up_proj", "fc1"):gsub("^mlp%.down_proj", "fc2"):gsub("o_proj", "out_proj")
    :gsub("^input_layernorm", "self_attn_layer_norm"):gsub("^post_attention_layernorm", "final_layer_norm")
    :gsub("^encoder_attn_layernorm", "encoder_attn_layer_norm"):gsub("^embed_norm", "layernorm_embedding")
  return ("model.%s.%s%s"):format(side, layer and ("layers.%s."):format(layer) or "", inner)
end

T.test("BART saved again has the tensors that it was read from", function()
  local dir, out = bart_directory(bart[1]), T.tmpdir() .. "/saved"
  assert(classifier_files.save(assert(classifier.load(dir)), out))
  local want, got = assert(safetensors.load(dir .. "/model.safetensors")), assert(safetensors.load(out .. "/model.safetensors"))
  for name, t in pairs(got) do
    T.eq(t:totable(), want[name]:totable(), name)
  end
  T.eq(assert(classifier.load(out)):scores(bart[1].rows):totable(), assert(classifier.load(dir)):scores(bart[1].rows):totable())
end)

for _, case in ipairs(bart) do
  T.test("BART, " .. case.name .. ": the scores and gradients of transformers", function()
    local c = assert(classifier.load(bart_directory(case)))
    T.eq(c.labels, #case.scores[1])
    for _, pair in ipairs(c.model:named_parameters()) do
      pair[2]:requires_grad_()
    end
    local scores = c:scores(case.rows)
    for row, want in ipairs(case.scores) do
      T.near(scores:totable()[row], want, 5e-5, "row " .. row)
      T.near(c:scores({ case.rows[row] }):totable()[1], want, 5e-5, "row " .. row .. " alone")
    end
    scores:sum():backward()
    local sums, n = {}, 0
    for _, pair in ipairs(c.model:named_parameters()) do -- the embedding is one tensor of both models
      local name = theirs(case, pair[1])
      T.eq(sums[name], nil, name)
      sums[name] = pair[2].grad
    end
    for name, sum in pairs(sums) do
      local want = T.ok(case.gradients[name], name)
      T.near(sum:abs():sum():item(), want, 1e-3 * (1 + math.abs(want)), name)
      n = n + 1
    end
    T.eq(n, (function() local k = 0 for name in pairs(case.gradients) do k = name:find "^model" and k + 1 or k end return k end)())
  end)
end

T.test("which token is pooled", function()
  T.eq(classifier.pooled({ 7, 8, 9 }, "first", 0), 1)
  T.eq(classifier.pooled({ 7, 8, 0, 9, 0, 0 }, "last", 0), 4)
  T.eq(classifier.pooled({ 0, 0 }, "last", 0), 1)
  T.eq(classifier.pooled({ 7, 8, 0 }, "last", nil), 3)
  T.eq(classifier.pooled({ 7, 8, 0 }, "last", -1), 3)
  T.eq(classifier.pooled({ 7, 2, 8, 2, 9 }, "eos", 0, 2), 4)
  T.eq(classifier.pooled({ 7, 8 }, "eos", 0, 2), nil)
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

-- the same, where each tensor of the file is named anew
local function renamed(case, rename, more)
  local from, tensors = directory(case, "5.24"), {}
  for name, t in pairs(assert(safetensors.load(from .. "/model.safetensors"))) do
    tensors[name] = tensors[name] or false
    tensors[rename(name)] = t
  end
  for name, t in pairs(more or {}) do
    tensors[name] = t
  end
  return changed(case, {}, tensors)
end

T.test("names of old files, and buffers that they hold", function()
  local rows = { { 3, 5, 7 } }
  local want = assert(classifier.load(directory("bert-cls", "5.24"))):scores(rows):totable()
  local dir = renamed("bert-cls", function(name)
    return (name:gsub("LayerNorm%.weight$", "LayerNorm.gamma"):gsub("LayerNorm%.bias$", "LayerNorm.beta"))
  end, { ["bert.embeddings.position_ids"] = tensor.arange(40):to "i64":reshape { 1, 40 }, ["cls.predictions.bias"] = tensor.zeros { 96 } })
  T.eq(assert(classifier.load(dir)):scores(rows):totable(), want)

  local function bare(name)
    return (name:gsub("^transformer%.", ""))
  end
  want = assert(classifier.load(directory("gpt2-cls", "5.24"))):scores(rows):totable()
  T.eq(assert(classifier.load(renamed("gpt2-cls", bare, { ["h.0.attn.bias"] = tensor.ones { 1, 1, 40, 40 } }))):scores(rows):totable(), want)
  local model = assert(transformer.load(directory("gpt2", "5.24")))
  local batch = transformer.batch(rows)
  local again = assert(transformer.load(renamed("gpt2", bare)))
  T.eq(again:forward(batch):totable(), model:forward(batch):totable())
  dir = T.tmpdir() .. "/saved"
  assert(transformer.save(again, dir))
  T.ok(safetensors.load(dir .. "/model.safetensors")["wte.weight"], "saved under the names it came with")
  T.eq(assert(transformer.load(dir)):forward(batch):totable(), model:forward(batch):totable())
end)

T.test("what transformers passes over or draws at random is refused", function()
  local load = transformer.load
  T.fails("1 of %d+ tensors are missing, the first is 'lm_head.weight'", load, changed("qwen3", {}, { ["lm_head.weight"] = false }))
  T.fails("1 of %d+ tensors are missing, the first is 'model.layers.1.self_attn.k_norm.weight'", load,
    changed("qwen3", {}, { ["model.layers.1.self_attn.k_norm.weight"] = false }))
  T.fails("tensor 'model.layers.2.self_attn.q_proj.weight' is missing", load, changed("qwen2", { num_hidden_layers = 3, layer_types = json.null }))
  T.fails("tensor 'model.layers.1.[%a_.]+' belongs to no layer", load, changed("qwen2", { num_hidden_layers = 1, layer_types = json.null }))
  T.fails("tensor 'transformer.h.1.[%a_%d.]+' belongs to no layer", load, changed("gpt2", { n_layer = 1 }))
  T.fails("tensor 'model.layers.%d.[%a_.]+bias' belongs to no layer", load, changed("llama-bias", { mlp_bias = false }))
  T.fails("no_rope_layers = %[1,0%] is not supported %(a list of 0 and 1, one for each of 3 layers%)", load,
    changed("smollm3", { no_rope_layers = { 1, 0 } }))
  T.fails("tensor 'transformer.h.1.attn.c_attn.weight' is %(32,95%), the model needs %(32,96%)", load,
    changed("gpt2", {}, { ["transformer.h.1.attn.c_attn.weight"] = tensor.zeros { 32, 95 } }))
  T.fails("tensor 'lm_head.weight' belongs to no layer", load, changed("gpt2", {}, { ["lm_head.weight"] = tensor.zeros { 96, 32 } }))
end)

T.test("which layers have a window", function()
  local function windows(case, change)
    return assert(transformer.load(changed(case, change))):config().attention_windows
  end
  local late = { use_sliding_window = true, sliding_window = 4, layer_types = json.null }
  local function with(change)
    local all = {}
    for _, t in ipairs { late, change } do
      for k, v in pairs(t) do
        all[k] = v
      end
    end
    return all
  end
  T.eq(windows("qwen2", with { max_window_layers = 1 }), { 0, 4 })
  T.eq(windows("qwen3", with { max_window_layers = 0 }), { 4, 4 })
  T.eq(windows("qwen3", with { max_window_layers = 2 }), nil)
  T.eq(windows("qwen3", with { max_window_layers = 0, use_sliding_window = false }), nil)
  T.eq(windows("qwen3", with { max_window_layers = 0, layer_types = { "sliding_attention", "full_attention" } }), { 4, 0 })
  T.eq(windows("smollm3", with {}), { 0, 4, 0 }) -- those without rotation
  T.eq(windows("smollm3", with { sliding_window = json.null }), nil)
  T.fails("layer_types = %[.*%] is not supported %(full_attention in every layer where use_sliding_window is false%)", transformer.load,
    changed("qwen2", { layer_types = { "full_attention", "sliding_attention" } }))
  T.fails("layer_types = %[.*%] is not supported %(full_attention or sliding_attention, one for each of 2 layers%)", transformer.load,
    changed("qwen2", { layer_types = { "full_attention" } }))
end)

T.test("layers without rotation, and what a scaling leaves out", function()
  local rows = transformer.batch { { 3, 5, 7, 11, 13 } }
  local function states(dir)
    return assert(transformer.load(dir)):forward(rows):totable()
  end
  T.eq(states(changed("smollm3", { no_rope_layers = json.null, no_rope_layer_interval = 2 })), states(directory("smollm3", "5.24")))
  T.eq(states(changed("smollm3", { no_rope_layers = json.null })), states(changed("smollm3", { no_rope_layers = { 1, 1, 1 } })))
  local function yarn(change)
    local t = { rope_type = "yarn", rope_theta = 20000.0, factor = 4.0, original_max_position_embeddings = 256 }
    for k, v in pairs(change) do
      t[k] = v
    end
    return states(changed("rope-yarn", { rope_parameters = t }))
  end
  local want = yarn {}
  T.eq(yarn { factor = json.null }, want) -- the context / the old one
  T.eq(yarn { beta_fast = 32, beta_slow = 1.0, truncate = true, attention_factor = .1 * math.log(4) + 1 }, want)
  T.eq(yarn { mscale = 1.0 }, want) -- without mscale_all_dim it is not read
  T.ok(yarn { mscale = .5, mscale_all_dim = 1.0 }[5][1] ~= want[5][1])
  T.eq(states(changed("rope-yarn", { rope_parameters = { rope_type = "yarn", rope_theta = 20000.0, factor = 4.0 } })),
    yarn { original_max_position_embeddings = 1024 })
end)

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

T.test("BART: what is not understood is refused by name", function()
  local function refused(text, change, tensors)
    T.fails(text, classifier.load, changed("bart-cls", change, tensors))
  end
  local null = json.null
  refused("1 of 56 tensors are missing, the first is 'model.decoder.layers.1.encoder_attn.q_proj.weight'", {}, { ["model.decoder.layers.1.encoder_attn.q_proj.weight"] = false })
  refused("tensor 'model.encoder.layers.1.[%a%d_.]+' belongs to no layer", { encoder_layers = 1 })
  refused("tensor 'model.decoder.layers.1.[%a%d_.]+' belongs to no layer", { decoder_layers = 1 })
  refused("tensor 'model.decoder.layers.2.self_attn.q_proj.weight' is missing", { decoder_layers = 3 })
  refused("tensor 'model.encoder.layers.1.self_attn.q_proj.weight' is %(32,32%), the model needs %(30,32%)", { encoder_attention_heads = 3 })
  refused("tensor 'model.decoder.layers.1.fc1.weight' is %(48,32%), the model needs %(49,32%)", { decoder_ffn_dim = 49 })
  refused("tensor 'model.encoder.embed_positions.weight' is %(42,32%), the model needs %(41,32%)", { max_position_embeddings = 39 })
  refused("tensor 'classification_head.out_proj.weight' is missing, which BartForSequenceClassification needs", {},
    { ["classification_head.out_proj.weight"] = false })
  refused("tensor 'lm_head.weight' belongs to no layer", {}, { ["lm_head.weight"] = tensor.zeros { 96, 32 } })
  refused("num_labels = 5 is not supported %(the head's weight has 3 rows%)", { num_labels = 5 })
  refused("tie_word_embeddings = false is not supported %(true%)", { tie_word_embeddings = false })
  refused("normalize_before = true is not supported %(false%)", { normalize_before = true })
  refused("is_encoder_decoder = false is not supported %(true%)", { is_encoder_decoder = false })
  refused("eos_token_id = %[2,3%] is not supported %(an id of the vocabulary%)", { eos_token_id = { 2, 3 } })
  refused("eos_token_id = null is not supported %(an id of the vocabulary%)", { eos_token_id = null })
  refused("decoder_start_token_id = 96 is not supported %(an id of the vocabulary%)", { decoder_start_token_id = 96 })
  refused("decoder_start_token_id = null is not supported", { decoder_start_token_id = null })
  refused("scale_embedding = yes is not supported %(true or false%)", { scale_embedding = "yes" })
  refused("num_hidden_layers = 3 is not supported %(2, as encoder_layers says%)", { num_hidden_layers = 3 })
  refused("activation_function = quick_gelu is not supported", { activation_function = "quick_gelu" })
  refused("encoder_window", { encoder_window = 3 })
  refused("architectures = %[\"BartForConditionalGeneration\"%] is not supported %(BartForSequenceClassification%)",
    { architectures = { "BartForConditionalGeneration" } })
  refused("architectures = null is not supported %(BartForSequenceClassification%)", { architectures = null })
  T.fails("architectures = %[\"BartForSequenceClassification\"%] is not supported", transformer.load, directory("bart-cls", "5.24"))
  -- the embedding once more, as old files have it, must be the same; keys of generation change no score
  local embedding = assert(safetensors.load(directory("bart-cls", "5.24") .. "/model.safetensors"))["model.shared.weight"]
  refused("tensor 'model.decoder.embed_tokens.weight' belongs to no layer", {}, { ["model.decoder.embed_tokens.weight"] = embedding + 1 })
  local dir = changed("bart-cls", { num_beams = 4, no_repeat_ngram_size = 3, forced_bos_token_id = 0, min_length = 56, num_hidden_layers = 2 },
    { ["model.encoder.embed_tokens.weight"] = embedding })
  assert(fs.write(dir .. "/generation_config.json", '{"num_beams": 4}'))
  local rows, c = { { 0, 5, 2, 7, 2, 9 } }, assert(classifier.load(dir))
  T.eq(c:scores(rows):totable(), assert(classifier.load(directory("bart-cls", "4.57"))):scores(rows):totable())
  T.raises("scores: row 2 holds no end %(id 2%), from whose state this family scores", c.scores, c, { { 0, 2 }, { 0, 5 } })
  T.raises("scores: row 1 is empty", c.scores, c, { {} })
  local long = { 2 }
  for i = 2, 41 do
    long[i] = 5
  end
  T.raises("forward: positions of the context: index 40 %(entry 41%) is outside 0 .. 39", c.scores, c, { long })
end)

T.test("bart-cls: the states of transformers' decoder", function()
  local c = assert(classifier.load(directory("bart-cls", "5.24")))
  local probe = golden("bart-cls").probes[1]
  T.near(c.model:forward(transformer.batch(probe.input_ids)):totable(), probe.last_hidden[1], 5e-5)
end)
