-- directories of models as other programs write them: configurations key by key, indexes, weights, and saves that
-- replace

local T = require "t"
local child = require "child"
local families = require "mocl.lm.families"
local fs = require "mocl.fs"
local json = require "mocl.json"
local parameters = require "mocl.parameters"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local BATCH = transformer.batch { { 1, 5, 9, 28, 3, 14 } }

local function states(model)
  return model:forward(BATCH):totable()
end

local function saved(options)
  local dir = T.tmpdir() .. "/model"
  assert(transformer.save(small.model(options), dir, { bos_token_id = 1, eos_token_id = 2 }))
  return dir
end

-- config.json of dir with changes; a value of DROP takes the key out
local DROP = {}
local function edit(dir, change, name)
  local path = fs.join(dir, name or "config.json")
  local config = fs.exists(path) and assert(json.load(path)) or {}
  for k, v in pairs(change) do
    config[k] = v
    if v == DROP then
      config[k] = nil
    end
  end
  assert(fs.write(path, json.encode(config)))
end

-- the same model with another base of the rotary embedding, or other keys of transformer.new
local function with(change, options)
  local model, config = small.model(options), small.model():config()
  for k, v in pairs(change) do
    config[k] = v
  end
  local other, from = transformer.new(config), {}
  for _, pair in ipairs(model:named_parameters()) do
    from[pair[1]] = pair[2]
  end
  assert(parameters.copy(other:named_parameters(), from, "test"))
  return other
end

-- ---- transformers' own files ----

local FAMILIES = "families/"

local function golden(case)
  return assert(json.load(T.shared(FAMILIES .. case .. "/golden.json")))
end

-- the ids of a row that its mask leaves
local function real(probe, row)
  local ids, mask = {}, probe.attention_mask and probe.attention_mask[row]
  for i, id in ipairs(probe.input_ids[row]) do
    if not mask or mask[i] == 1 then
      ids[#ids + 1] = id
    end
  end
  return ids
end

for _, case in ipairs { "llama2", "llama3", "llama31", "llama-bias", "rope-linear", "rope-yarn", "smollm2", "smollm3", "mistral-full",
  "mistral", "qwen2", "qwen2-window", "qwen3", "gpt2", "gpt2-scaled" } do
  T.test(case .. " as transformers 4.57 and 5.24 save it: their logits and greedy tokens", function()
    for _, how in ipairs { "4.57", "5.24", "saved" } do
      local saved_again = how == "saved" -- what mocl writes of it is the same model again
      local dir = fs.dirname(T.shared(("%s%s/%s/config.json"):format(FAMILIES, case, saved_again and "5.24" or how)))
      local model = assert(transformer.load(dir))
      if saved_again then
        dir = T.tmpdir() .. "/again"
        assert(transformer.save(model, dir))
        model = assert(transformer.load(dir))
      end
      local n = 0
      for _, probe in ipairs(golden(case).probes) do
        local rows = {}
        for row = 1, #probe.input_ids do
          rows[row] = real(probe, row)
        end
        -- positions from 0 in rows that begin with pads: rotary models do not care
        local shifted = case:find "^gpt2" and probe.name == "left"
        if probe.logits and not shifted then
          local batch = transformer.batch(rows)
          local logits, at = model:forward(batch):matmul(model:head():t()):totable(), 0
          for row, ids in ipairs(rows) do
            local want = probe.logits[row]
            if type(want[1]) == "number" then -- of the last token
              T.near(logits[at + #ids], want, 5e-5, probe.name)
            else
              for i, values in ipairs(want) do
                T.near(logits[at + (probe.logits_at and probe.logits_at[i] + 1 or i)], values, 5e-5, probe.name)
              end
            end
            at = at + #ids
            n = n + 1
          end
        end
        if probe.tokens then
          local made = model:generate(rows, { temperature = 0, max_new_tokens = #probe.tokens[1], eos = transformer.eos_ids(model) })
          for row, ids in ipairs(made.tokens) do -- behind the end there are pads
            T.eq(ids, table.move(probe.tokens[row], 1, #ids, 1, {}), probe.name)
            T.eq(made.finished[row], #ids < #probe.tokens[row], probe.name)
            n = n + 1
          end
        end
      end
      T.eq(n, case:find "^gpt2" and 12 or 15)
    end
  end)
end

T.test("what transformers saves and mocl does not compute is refused by the name of a key", function()
  local refused = {
    ["rope-dynamic"] = "rope_type = dynamic",
    ["llama-cls"] = 'architectures = %["LlamaForSequenceClassification"%]', ["bert-cls"] = "architectures = .*",
    ["gpt2-cls"] = "architectures = .*", ["bart-cls"] = "architectures = .*", ["roberta-cls"] = "architectures = .*",
    ["distilbert-cls"] = "architectures = .*",
  }
  for case, pattern in pairs(refused) do
    for _, version in ipairs { "4.57", "5.24" } do
      T.fails("config.json: .*" .. pattern .. " is not supported", transformer.load,
        fs.dirname(T.shared(("%s%s/%s/config.json"):format(FAMILIES, case, version))))
    end
  end
end)

-- ---- the rotary embedding in all its forms ----

T.test("the base of the rotary embedding, wherever it stands", function()
  local dir = saved()
  local base, far = states(with { rope_theta = 10000 }), states(with { rope_theta = 500000 })
  T.ok(math.abs(base[6][1] - far[6][1]) > 1e-4)
  for _, case in ipairs {
    { far, { rope_theta = DROP, rope_parameters = { rope_type = "default", rope_theta = 500000.0 } } },
    { far, { rope_theta = DROP, rope_parameters = { type = "default", rope_theta = 500000 } } },
    { far, { rope_theta = DROP, rope_parameters = { rope_theta = 500000.0 } } },
    { far, { rope_theta = 500000, rope_parameters = { rope_type = "default", rope_theta = 500000.0 } } },
    { far, { rope_theta = 500000, rope_parameters = { rope_type = "default" } } },
    { far, { rope_theta = 500000, rope_parameters = {} } },
    { far, { rope_theta = 500000, rope_parameters = json.null, rope_scaling = {} } },
    { far, { rope_theta = 500000, rope_scaling = json.null } },
    { far, { rope_theta = 500000, rope_scaling = { rope_type = "default" } } },
    { far, { rope_theta = 500000, rope_scaling = { type = "default", rope_type = "default", factor = 1.0 } } },
    { far, { rope_theta = 500000, rope_scaling = { rope_type = "default", rope_theta = 500000 } } },
    { far, { rope_theta = json.null, rope_parameters = { rope_type = "default", rope_theta = 500000, partial_rotary_factor = 1.0 } } },
    { far, { rope_theta = DROP, rope_parameters = { rope_type = "default", rope_theta = 500000, original_max_position_embeddings = 20 },
      original_max_position_embeddings = 20 } },
    { base, { rope_theta = DROP } },
    { base, { rope_theta = json.null, rope_parameters = {}, rope_scaling = {} } },
    { base, { rope_theta = DROP, rope_parameters = { rope_type = "default" } } },
    { base, { rope_theta = DROP, rope_scaling = { rope_type = "default", rope_theta = 10000 } } },
  } do
    edit(dir, { rope_theta = DROP, rope_parameters = DROP, rope_scaling = DROP, original_max_position_embeddings = DROP })
    edit(dir, case[2])
    T.eq(states(assert(transformer.load(dir))), case[1], json.encode(case[2].rope_parameters or case[2].rope_scaling or json.null))
  end
end)

T.test("rotary embeddings that are others, or that two versions read as two, are refused", function()
  local dir = saved()
  for pattern, change in pairs {
    ["rope_parameters.low_freq_factor is missing, which rope_type = llama3 needs"] =
      { rope_parameters = { rope_type = "llama3", factor = 8.0, rope_theta = 10000 } },
    ["rope_parameters.low_freq_factor = 4 contradicts rope_parameters.high_freq_factor = 2"] =
      { rope_parameters = { rope_type = "llama3", factor = 8.0, low_freq_factor = 4, high_freq_factor = 2 } },
    ["rope_parameters.factor is missing, which rope_type = linear needs"] = { rope_parameters = { rope_type = "linear" } },
    ["rope_parameters.factor = 0 is not supported %(a positive number%)"] = { rope_parameters = { rope_type = "linear", factor = 0 } },
    ["rope_scaling.factor = \"2\" is not supported %(a positive number%)"] = { rope_scaling = { rope_type = "yarn", factor = "2" } },
    ["rope_scaling.truncate = 1 is not supported %(true or false%)"] = { rope_scaling = { rope_type = "yarn", factor = 2, truncate = 1 } },
    ["rope_parameters.rope_type = dynamic is not supported %(default, linear, llama3, yarn; the base of dynamic grows"] =
      { rope_parameters = { type = "dynamic", factor = 2.0 } },
    ["original_max_position_embeddings = 20 contradicts max_position_embeddings = 40; transformers 4 takes the second"] =
      { original_max_position_embeddings = 20, rope_parameters = { rope_type = "yarn", factor = 2.0 } },
    ["rope_scaling.rope_type = longrope"] = { rope_scaling = { type = "longrope" } },
    ["rope_parameters = {.*} contradicts rope_scaling = {.*}; transformers 4 takes the second"] =
      { rope_parameters = { rope_type = "default" }, rope_scaling = { type = "linear", factor = 1.0 } },
    ["rope_scaling.rope_type = 1 "] = { rope_scaling = { type = 1 } },
    ["rope_scaling.factor = 2 is not supported %(1%)"] = { rope_scaling = { factor = 2 } },
    ["rope_scaling has no rope_type, which factor needs"] = { rope_scaling = { factor = 1.0 } },
    ["rope_parameters.factor = 4 "] = { rope_parameters = { rope_type = "default", factor = 4 } },
    ["rope_parameters.partial_rotary_factor = 0.5 "] = { rope_parameters = { rope_type = "default", partial_rotary_factor = .5 } },
    ["rope_parameters.full_attention = {"] = { rope_parameters = { full_attention = { rope_type = "default" } } },
    ["rope_parameters.mrope_section = %["] = { rope_parameters = { rope_type = "default", mrope_section = { 1, 1 } } },
    ["rope_scaling.type = linear contradicts rope_scaling.rope_type = default"] =
      { rope_scaling = { type = "linear", rope_type = "default" } },
    ["rope_parameters.rope_theta = 500000 contradicts rope_theta = 10000"] =
      { rope_theta = 10000, rope_parameters = { rope_type = "default", rope_theta = 500000 } },
    ["rope_scaling.rope_theta = 500000 contradicts rope_theta = 10000"] =
      { rope_theta = 10000, rope_scaling = { rope_type = "default", rope_theta = 500000 } },
    ["rope_scaling.rope_theta = 500000 contradicts the rope_theta that is missing = 10000"] =
      { rope_theta = DROP, rope_scaling = { rope_type = "default", rope_theta = 500000 } },
    ["rope_parameters.rope_theta = 5 contradicts rope_scaling.rope_theta = 6"] =
      { rope_theta = DROP, rope_parameters = { rope_theta = 5 }, rope_scaling = { rope_theta = 6 } },
    ["original_max_position_embeddings = 20 contradicts rope_parameters.original_max_position_embeddings = 40"] =
      { original_max_position_embeddings = 20, rope_parameters = { rope_type = "default", original_max_position_embeddings = 40 } },
    ["rope_scaling = linear is not supported %(an object or null%)"] = { rope_scaling = "linear" },
    ["rope_parameters = 500000 is not supported"] = { rope_parameters = 500000 },
    ["rope_parameters.rope_theta = \"5e5\" is not supported %(a number%)"] = { rope_parameters = { rope_theta = "5e5" } },
    ["rope_theta = %[1%] is not supported %(a number%)"] = { rope_theta = { 1 } },
    ["rope_theta must be positive"] = { rope_theta = 0 },
  } do
    edit(dir, { rope_theta = 10000, rope_parameters = DROP, rope_scaling = DROP, original_max_position_embeddings = DROP })
    edit(dir, change)
    T.fails("config.json: .*" .. pattern, transformer.load, dir)
  end
end)

-- ---- keys ----

T.test("no key of config.json is passed over: others are refused by name", function()
  local dir = saved()
  local before = assert(fs.read(dir .. "/config.json"))
  for key, value in pairs {
    partial_rotary_factor = .5, sliding_window = 4, quantization_config = "gptq", attention_multiplier = .0625,
    embedding_multiplier = 12.0, logits_scaling = 4, residual_multiplier = .5, no_rope_layers = { 1, 0 }, attention_bias = 1, layer_types = { "sliding_attention" },
    attn_logit_softcapping = 50.0, final_logit_softcapping = 30, clip_qkv = 8, qk_layernorm = true, alibi = true, rotary_pct = .25,
    a_new_key = "x", another = false, mlp_bias = "yes", num_local_experts = 8, repetition_penalty = 1.1,
    num_beams = 4, is_encoder_decoder = true, pruned_heads = { ["0"] = { 1 } }, architectures = { "LlamaForCausalLMEagle3" },
    hidden_act = "quick_gelu", model_type = json.null, eos_token_id = "2", suppress_tokens = { 3 }, compression_config = {},
  } do
    edit(dir, { [key] = value })
    T.fails("config.json: " .. key .. " = .* is not supported %(", transformer.load, dir)
    T.eq(select(3, transformer.load(dir)), "FORMAT")
    assert(fs.write(dir .. "/config.json", before))
  end
end)

T.test("keys that change nothing, neutral values and null load, and give the same states", function()
  local dir = saved()
  local want = states(small.model())
  edit(dir, {
    attention_bias = false, attention_dropout = 0.1, pretraining_tp = 2, use_cache = true, initializer_range = .02, hidden_act = "swish",
    dtype = "bfloat16", torch_dtype = DROP, transformers_version = "5.24.0", id2label = { ["0"] = "LABEL_0" }, label2id = { LABEL_0 = 0 },
    chunk_size_feed_forward = 0, return_dict = true, output_attentions = false, output_hidden_states = false, is_decoder = false,
    is_encoder_decoder = false, add_cross_attention = false, cross_attention_hidden_size = json.null, pruned_heads = {}, top_k = 50,
    top_p = 1.0, temperature = 1.0, num_beams = 1, typical_p = 1.0, min_length = 0, max_length = 20, do_sample = false,
    repetition_penalty = 1.0, length_penalty = 1.0, no_repeat_ngram_size = 0, diversity_penalty = 0.0, num_beam_groups = 1,
    tie_encoder_decoder = false, torchscript = false, use_bfloat16 = false, tf_legacy_loss = false, bad_words_ids = json.null,
    suppress_tokens = json.null, exponential_decay_length_penalty = json.null, quantization_config = json.null,
    sliding_window = 40, layer_types = { "full_attention", "full_attention" }, partial_rotary_factor = 1.0, attention_multiplier = json.null,
    rope_interleaved = true, is_llama_config = true, ["transformers.js_config"] = { dtype = "q4" }, a_new_key = json.null,
    _name_or_path = "/x", auto_map = { AutoModel = "modeling.X" }, max_sequence_length = 7, use_sliding_window = false,
    max_window_layers = 1, logits_scaling = 1, residual_multiplier = 1.0, head_dim = 4, unknown_to_nobody = json.null,
  })
  T.eq(states(assert(transformer.load(dir))), want)
end)

T.test("defaults are the family's", function()
  local dir = saved()
  edit(dir, { rms_norm_eps = DROP })
  local model = assert(transformer.load(dir))
  T.eq(model:config().rms_norm_eps, 1e-6)
  T.eq(states(model), states(with { rms_norm_eps = 1e-6 }))
  edit(dir, { max_position_embeddings = DROP, tie_word_embeddings = DROP, head_dim = DROP, hidden_act = DROP, model_type = "llama" })
  T.fails("config.json: model config: head_dim 3 must be even", transformer.load, dir) -- 12 / 4 heads
  edit(dir, { head_dim = json.null })
  T.fails("config.json: model config: head_dim 3 must be even", transformer.load, dir)
  edit(dir, { head_dim = 4 })
  T.eq(assert(transformer.load(dir)):config().max_position_embeddings, 2048)
  edit(dir, { vocab_size = DROP })
  T.fails("the model needs %(32000,12%)", transformer.load, dir)
  edit(dir, { vocab_size = 29, num_key_value_heads = DROP })
  T.fails("k_proj.weight' is %(8,12%), the model needs %(16,12%)", transformer.load, dir)
  edit(dir, { model_type = "mistral", num_key_value_heads = DROP, sliding_window = json.null })
  T.fails("num_attention_heads 4 is no multiple of num_key_value_heads 8", transformer.load, dir)
  edit(dir, { num_key_value_heads = 2 })
  T.eq(assert(transformer.load(dir)):config().max_position_embeddings, 131072)
end)

T.test("mistral without a window is the same decoder; a window hides what is before it", function()
  local dir = saved()
  local want = states(small.model())
  local function of(change)
    edit(dir, { model_type = "mistral", architectures = { "MistralForCausalLM" }, sliding_window = DROP, max_position_embeddings = 40 })
    edit(dir, change)
    return transformer.load(dir)
  end
  for _, change in ipairs { { sliding_window = json.null }, { sliding_window = 40 }, {}, { sliding_window = json.null, use_sliding_window = true },
    { sliding_window = json.null, attention_bias = true, mlp_bias = true }, -- the family does not read the last ones
    { sliding_window = json.null, layer_types = { "full_attention", "sliding_attention" } } } do
    T.eq(states(assert(of(change))), want)
  end
  T.eq(assert(of { sliding_window = 39 }):config().attention_windows, { 39, 39 })
  local seen = assert(of { sliding_window = 4, use_sliding_window = false }) -- which the family does not read
  T.eq(seen:config().attention_windows, { 4, 4 })
  local windowed = states(seen)
  for i = 1, 6 do
    T.ok((windowed[i][1] == want[i][1]) == (i <= 4), i)
  end
  T.eq(assert(of { max_position_embeddings = 8192 }):config().attention_windows, { 4096, 4096 }, "what a missing key means")
  T.fails("sliding_window = 0 is not supported %(null, or an integer of at least 1%)", of, { sliding_window = 0 })
  T.fails("sliding_window = 40.5 is", of, { sliding_window = 40.5 })
end)

T.test("the lists of keys do not contradict each other, and the page on compatibility has them", function()
  local page = assert(require("docs_coverage").read("docs/reference/compatibility.md"))
  for kind, family in pairs(families.by_type) do
    local seen, lists = {}, family.keys
    T.ok(page:find("`" .. kind .. "`", 1, true), kind .. " is not on the page")
    for class in pairs(family.classes) do
      T.ok(page:find("`" .. class .. "`", 1, true), class .. " is not on the page")
    end
    for _, key in ipairs(lists.honoured) do
      T.ok(not seen[key], kind .. " " .. key)
      seen[key] = true
    end
    for _, list in ipairs { lists.neutral, lists.without_effect } do
      for key in pairs(list) do
        T.ok(not seen[key], kind .. " " .. key)
        seen[key] = true
        T.ok(list ~= lists.neutral or page:find("`" .. key .. "`", 1, true), key .. " is not on the page")
      end
    end
    for _, key in ipairs(lists.honoured) do
      T.ok(key == "original_max_position_embeddings" or page:find("`" .. key .. "`", 1, true), key .. " is not on the page")
    end
  end
end)

T.test("a byte order mark, UTF-16 and long integers in the files of a model", function()
  local dir = saved()
  local text = assert(fs.read(dir .. "/config.json"))
  assert(fs.write(dir .. "/config.json", "\xEF\xBB\xBF" .. text))
  T.ok(transformer.load(dir))
  assert(fs.write(dir .. "/config.json", (text:gsub("^{", '{"max_length": 1000000000000000019884624838656, "top_k": 1e999,'))))
  T.ok(transformer.load(dir))
  assert(fs.write(dir .. "/config.json", "\xFF\xFE" .. text:gsub(".", "%0\0")))
  T.fails("config.json: the text is UTF%-16", transformer.load, dir)
  for value, pattern in pairs { ["1e999"] = "rope_theta must be positive and finite", ["99999999999999999999999"] = "^config" } do
    assert(fs.write(dir .. "/config.json", (text:gsub('"rope_theta": [^,\n]*', '"rope_theta": ' .. value))))
    local model, message = transformer.load(dir)
    T.ok(model and value ~= "1e999" or message and message:find(pattern), message)
  end
  assert(fs.write(dir .. "/config.json", (text:gsub('"vocab_size": %d+', '"vocab_size": 99999999999999999999'))))
  T.fails("config.json: .*vocab_size", transformer.load, dir)
end)

-- ---- ends of answers ----

T.test("eos_token_id is an id or a list, and generation_config.json replaces config.json's", function()
  local dir = saved()
  local function ids(config, generation)
    edit(dir, { eos_token_id = config })
    fs.remove(dir .. "/generation_config.json")
    if generation then
      assert(fs.write(dir .. "/generation_config.json", generation))
    end
    return transformer.eos_ids((assert(transformer.load(dir))))
  end
  T.eq(ids(2), { 2 })
  T.eq(ids { 1, 28 }, { 1, 28 })
  T.eq(ids { 1, 29, -1 }, { 1 }) -- ids that the model does not have end nothing
  T.eq(ids(json.null), {})
  T.eq(ids(DROP), nil)
  T.eq(ids(2, '{"eos_token_id": [5, 7]}'), { 5, 7 })
  T.eq(ids(2, '\xEF\xBB\xBF{"eos_token_id": 5, "do_sample": true, "temperature": 0.6, "top_p": 0.9, "transformers_version": "5.24.0"}'), { 5 })
  T.eq(ids(2, "{}"), {}) -- replaced by none, as in transformers
  T.eq(ids(DROP, '{"eos_token_id": null}'), {})
  T.eq(transformer.eos_ids(small.model()), nil)
  for text, pattern in pairs {
    ['{"eos_token_id": "2"}'] = 'eos_token_id = "2" is not supported %(an id or a list of ids%)',
    ['{"eos_token_id": [2, null]}'] = "eos_token_id = %[2,null%] is not",
    ['{"eos_token_id": [2.5]}'] = "eos_token_id = %[2.5%] is not",
    ['{"eos_token_id": {"a": 2}}'] = 'eos_token_id = {"a":2} is not', ["[1]"] = "a list", ["{"] = "line 1",
    ['{"repetition_penalty": 1.1}'] = "repetition_penalty = 1.1 is not supported %(1%)", ['{"num_beams": 4}'] = "num_beams = 4",
    ['{"min_new_tokens": 3}'] = "min_new_tokens = 3", ['{"forced_eos_token_id": 2}'] = "forced_eos_token_id = 2",
    ['{"bad_words_ids": [[3]]}'] = "bad_words_ids = ", ['{"a_new_key": 1}'] = "a_new_key = 1", ['{"stop_strings": ["x"]}'] = "stop_strings = ",
  } do
    assert(fs.write(dir .. "/generation_config.json", text))
    T.fails("generation_config.json: " .. pattern, transformer.load, dir)
  end
end)

-- ---- weights ----

local function tensors_of(model, change)
  local out = {}
  for _, pair in ipairs(model:named_parameters()) do
    out[pair[1]] = change and change(pair[1], pair[2]) or pair[2]:detach()
  end
  return out
end

-- shards of a model beside config.json: file -> list of patterns of its tensors' names, and an index
local function shard(dir, model, files)
  local map, parts = {}, {}
  for name, t in pairs(tensors_of(model)) do
    for file, patterns in pairs(files) do
      for _, pattern in ipairs(patterns) do
        if name:find(pattern) then
          parts[file] = parts[file] or {}
          parts[file][name], map[name] = t, file
        end
      end
    end
  end
  for file, part in pairs(parts) do
    assert(fs.mkdir(fs.dirname(fs.join(dir, file))))
    assert(safetensors.save(fs.join(dir, file), part, { format = "pt" }))
  end
  local index = { metadata = { total_size = 1 }, weight_map = map }
  assert(fs.write(dir .. "/model.safetensors.index.json", json.encode(index)))
  return index
end

local SPLIT = { ["model-00001-of-00002.safetensors"] = { "embed", "layers.0" },
  ["model-00002-of-00002.safetensors"] = { "layers.1", "^model.norm", "lm_head" } }

local function sharded(model, files)
  local dir = saved()
  assert(fs.remove(dir .. "/model.safetensors"))
  return dir, shard(dir, model or small.model(), files or SPLIT)
end

T.test("an index: shards inside the directory, each tensor in the one that is named", function()
  local dir, index = sharded()
  local want = states(small.model())
  T.eq(states(assert(transformer.load(dir))), want)
  local path = dir .. "/model.safetensors.index.json"
  assert(fs.write(path, "\xEF\xBB\xBF" .. json.encode(index)))
  T.eq(states(assert(transformer.load(dir))), want)
  local function fails(pattern, change)
    local map = {}
    for name, file in pairs(index.weight_map) do
      map[name] = file
    end
    local other = { metadata = index.metadata, weight_map = map }
    assert(fs.write(path, change(other, map) or json.encode(other)))
    T.fails(pattern, transformer.load, dir)
    T.eq(select(3, transformer.load(dir)), pattern:find "No such" and "IO" or "FORMAT")
  end
  local name = "model.norm.weight"
  assert(fs.mkdir(dir .. "/../m"))
  assert(safetensors.save(dir .. "/../m/model.safetensors", tensors_of(small.model { key = 9 })))
  for _, file in ipairs { "../m/model.safetensors", "/tmp/model.safetensors", "a/../../m/model.safetensors", "..", "./x.safetensors", "",
    "a\\b.safetensors" } do
    fails("index.json: tensor 'model.norm.weight' is in .* which is no file inside the directory", function(_, map)
      map[name] = file
    end)
  end
  fails("index.json: tensor 'model.norm.weight' is in 3, which is no file", function(_, map) map[name] = 3 end)
  fails("index.json: tensor 'model.norm.weight' is not in model%-00001.* but in model%-00002", function(_, map)
    map[name] = "model-00001-of-00002.safetensors"
  end)
  fails("index.json: tensor 'model.extra.weight' is not in model%-00001%-of%-00002.safetensors$", function(_, map)
    map["model.extra.weight"] = "model-00001-of-00002.safetensors"
  end)
  fails("model%-00003%-of%-00003.safetensors: No such file", function(_, map) map[name] = "model-00003-of-00003.safetensors" end)
  fails("index.json: no weight_map", function(other) other.weight_map = nil end)
  fails("index.json: no weight_map", function(other) other.weight_map = {} end)
  fails("index.json: no weight_map", function(other) other.weight_map = { "a" } end)
  fails("index.json: a_new_key = 1 is not supported", function(other) other.a_new_key = 1 end)
  fails("index.json: line 1", function() return "{" end)
  fails("index.json: a list", function() return "[]" end)

  local first = dir .. "/model-00001-of-00002.safetensors"
  local twice = assert(safetensors.load(first))
  twice[name] = small.model():named_parameters()[1][2]
  assert(safetensors.save(first, twice))
  assert(fs.write(path, json.encode(index)))
  T.fails("tensor 'model.norm.weight' is in model%-00001.* and in model%-00002.*; keep one", transformer.load, dir)
  dir = sharded(nil, { ["a/model-1.safetensors"] = { "." } }) -- folders inside are fine
  T.eq(states(assert(transformer.load(dir))), want)
  local other = small.model { key = 9 } -- beside a single file the index is not read, as in transformers
  assert(safetensors.save(dir .. "/model.safetensors", tensors_of(other)))
  T.eq(states(assert(transformer.load(dir))), states(other))
end)

T.test("weights that are no numbers are named with the file, the tensor, how many and where", function()
  local name = "model.layers.1.mlp.up_proj.weight"
  local function damaged(dtype, values)
    local dir = saved()
    assert(safetensors.save(dir .. "/model.safetensors", tensors_of(small.model(), function(n, t)
      t = t:detach():to("f32"):clone()
      if n == name then
        for at, value in pairs(values) do
          t[at // 100][at % 100]:fill_(value)
        end
      end
      return t:to(dtype)
    end)))
    return dir
  end
  for _, dtype in ipairs { "f32", "bf16", "f16" } do
    T.ok(transformer.load(damaged(dtype, { [101] = 3.0 })))
    for value, text in pairs { [1 / 0] = "inf", [-1 / 0] = "%-inf" } do
      T.fails(("model.safetensors: tensor '%s' is not finite: 1 of 240 values are nan or infinite, the first is %s at %%[3,7%%]"):format(
        (name:gsub("%.", "%%.")), text), transformer.load, damaged(dtype, { [307] = value }))
    end
    T.fails("not finite: 3 of 240 values .* the first is nan at %[2,12%]", transformer.load,
      damaged(dtype, { [212] = 0 / 0, [1301] = 1 / 0, [2012] = 0 / 0 }))
  end
  T.fails("not finite: 1 of 240", transformer.load, damaged("f16", { [101] = 1e30 })) -- beyond f16
  T.eq(select(3, transformer.load(damaged("f32", { [101] = 0 / 0 }))), "FORMAT")
  local model, dir = small.model(), nil
  model:named_parameters()[1][2][1]:fill_(0 / 0)
  dir = sharded(model)
  T.fails("of%-00002.safetensors: tensor 'model.[a-z_.]+weight' is not finite: %d+ of %d+ values", transformer.load, dir)
end)

T.test("a head beside a tied embedding loads where it is the embedding, and is refused where it is another", function()
  local dir = saved { config = { tie_word_embeddings = true } }
  local model = assert(transformer.load(dir))
  local tensors = tensors_of(model)
  tensors["lm_head.weight"] = model:head():detach():clone()
  assert(safetensors.save(dir .. "/model.safetensors", tensors))
  T.ok(transformer.load(dir))
  tensors["lm_head.weight"][1][1]:fill_(9)
  assert(safetensors.save(dir .. "/model.safetensors", tensors))
  T.fails("tensor 'lm_head.weight' belongs to no layer of this model", transformer.load, dir)
  for _, name in ipairs { "model.rotary_emb_scale.weight", "model.layers.0.self_attn.q_proj.bias", "score.weight" } do
    tensors = tensors_of(model)
    tensors[name] = tensor.zeros { 4 }
    assert(safetensors.save(dir .. "/model.safetensors", tensors))
    T.fails("belongs to no layer", transformer.load, dir)
  end
end)

-- ---- saves that replace ----

T.test("after a save into a directory with an index, load gives what was saved", function()
  local old, new = small.model(), small.model { key = 9 }
  local dir = sharded(old)
  assert(transformer.save(new, dir))
  T.eq(states(assert(transformer.load(dir))), states(new))
  T.eq(fs.list(dir), { "config.json", "model.safetensors" })
  dir = sharded(old) -- an adapter, merged where the base lies
  local model = small.adapter(assert(transformer.load(dir)))
  model:merge_lora()
  assert(transformer.save(model, dir))
  T.eq(states(assert(transformer.load(dir))), states(model))
  T.eq(transformer.eos_ids(assert(transformer.load(dir))), { 2 })
  dir = sharded(old) -- an index that cannot be read
  assert(fs.write(dir .. "/model.safetensors.index.json", "{"))
  assert(transformer.save(new, dir))
  T.eq(states(assert(transformer.load(dir))), states(new))
  dir = sharded(old, { ["model.safetensors"] = { "layers" }, ["../m.safetensors"] = { "embed", "norm.weight$", "lm_head" } })
  assert(transformer.save(new, dir)) -- files that the index names elsewhere stay
  T.eq(states(assert(transformer.load(dir))), states(new))
  T.eq(fs.exists(dir .. "/../m.safetensors"), "file")
  local wide = small.model { config = { hidden_size = 20 } } -- another shape
  dir = sharded(old)
  assert(transformer.save(wide, dir))
  T.eq(states(assert(transformer.load(dir))), states(wide))
  T.eq(fs.list(dir), { "config.json", "model.safetensors" })
end)

T.test("what ends an answer is saved too, and generation_config.json brought into line", function()
  local dir = saved()
  edit(dir, { eos_token_id = { 1, 28 } })
  local model = assert(transformer.load(dir))
  local other = T.tmpdir() .. "/other"
  assert(transformer.save(model, other))
  T.eq(transformer.eos_ids(assert(transformer.load(other))), { 1, 28 })
  T.eq(transformer.eos_ids(transformer.clone(model)), { 1, 28 })
  edit(other, { eos_token_id = 3, temperature = .5 }, "generation_config.json")
  assert(transformer.save(model, other, { eos_token_id = { 4, 5 } }))
  T.eq(transformer.eos_ids(assert(transformer.load(other))), { 4, 5 })
  T.eq(assert(json.load(other .. "/generation_config.json")), { eos_token_id = { 4, 5 }, temperature = .5 })
  assert(transformer.save(model, other, { eos_token_id = json.null }))
  T.eq(transformer.eos_ids(assert(transformer.load(other))), {})
  edit(other, { repetition_penalty = 2 }, "generation_config.json")
  T.fails("repetition_penalty = 2", transformer.save, model, other) -- which load would refuse
  T.raises("these extra keys the files would not be this model: hidden_size differs", transformer.save, model, T.tmpdir() .. "/n",
    { hidden_size = 24, num_attention_heads = 6 })
  T.raises("rope_scaling.rope_type = dynamic is not", transformer.save, model, T.tmpdir() .. "/n", { rope_scaling = { rope_type = "dynamic" } })
  T.raises("rope_frequencies differs", transformer.save, model, T.tmpdir() .. "/n", { rope_scaling = { rope_type = "linear", factor = 2.0 } })
  T.eq(fs.exists(T.tmpdir() .. "/n"), nil)
end)

-- Runs transformer.save and ends it at the nth of the calls that change files, as a kill would.
local function save_stopped_at(n, model, dir, extra)
  local count, real_calls = 0, {}
  local function guard(module, name)
    local f = module[name]
    real_calls[#real_calls + 1] = { module, name, f }
    module[name] = function(...)
      count = count + 1
      if count == n then
        error("killed", 0)
      end
      return f(...)
    end
  end
  guard(fs, "write")
  guard(fs, "remove")
  guard(fs, "rename")
  guard(safetensors, "save")
  local ok, why = pcall(transformer.save, model, dir, extra)
  for _, call in ipairs(real_calls) do
    call[1][call[2]] = call[3]
  end
  T.ok(ok or why == "killed", why)
  return not ok
end

T.test("a save that is killed leaves the old model, the new one or a directory that does not load, never a mix", function()
  local old, before = small.model(), states(small.model())
  local function check(new, layout, eos)
    local want, n, refused, killed = states(new), 0, 0, true
    while killed do
      n = n + 1
      local dir = layout == "single" and saved() or sharded(old)
      edit(dir, { eos_token_id = 3 }, "generation_config.json")
      killed = save_stopped_at(n, new, dir, { eos_token_id = eos })
      local model, message = transformer.load(dir)
      if model then
        local got, ends = states(model), transformer.eos_ids(model)
        T.ok(pcall(T.eq, { got, ends }, { before, { 3 } }) or pcall(T.eq, { got, ends }, { want, eos }),
          ("%s, stopped at %d"):format(layout, n))
      else
        T.ok(message:find("config.json: No such file", 1, true), message)
        refused = refused + 1
      end
      T.ok(killed or model, message)
      assert(transformer.save(new, dir, { eos_token_id = eos })) -- saved again, it is whole
      T.eq(states(assert(transformer.load(dir))), want)
    end
    T.ok(n >= 3 and refused <= n - 2, n)
  end
  for _, layout in ipairs { "single", "shards" } do
    for _, eos in ipairs { { 3 }, { 4, 5 } } do
      check(small.model { key = 9 }, layout, eos)
      check(with({ rope_theta = 77 }, { key = 9 }), layout, eos) -- the same shapes: nothing but the numbers would tell
      check(small.model { config = { hidden_size = 20 } }, layout, eos)
    end
  end
end)

T.test("a save that fails leaves what was there", function()
  local dir, new = sharded(), small.model { config = { hidden_size = 20 } }
  local save = safetensors.save
  safetensors.save = function() return nil, "disk full", "IO" end
  T.fails("disk full", transformer.save, new, dir)
  safetensors.save = save
  T.eq(states(assert(transformer.load(dir))), states(small.model()))
end)

-- ---- memory ----

T.test("a model stands in memory once while it loads, from a directory and from a GGUF file", function()
  if arg[-1]:find "asan" or arg[-1]:find "tsan" or not fs.exists "/proc/self/status" then
    T.skip "the peak of a process's memory means something without a sanitizer, on Linux"
  end
  local dir = T.tmpdir()
  local model = small.model { config = { vocab_size = 500, hidden_size = 512, intermediate_size = 2048, num_hidden_layers = 4, head_dim = 128 } }
  local bytes = 0
  for _, p in ipairs(transformer.parameters(model)) do
    bytes = bytes + p:numel() * 4
  end
  assert(transformer.save(model, dir))
  assert(transformer.save_gguf(model, dir .. "/x.gguf"))
  model = nil
  collectgarbage()
  for _, path in ipairs { dir, dir .. "/x.gguf" } do
    local out, err = child.lua(([[
      local transformer = require "mocl.lm.model"
      local function status(key)
        for line in io.lines "/proc/self/status" do
          if line:find("^" .. key) then
            return tonumber(line:match "%%d+") * 1024
          end
        end
      end
      collectgarbage()
      local before = status "VmRSS"
      local model = assert(transformer.load(%q))
      print(status "VmHWM" - before)
    ]]):format(path))
    T.eq(err, "")
    local peak = tonumber(out) / bytes
    T.ok(peak > .9 and peak < 1.15, ("%s: the peak is %.2f times the weights' %d MB"):format(path, peak, bytes >> 20))
  end
end)
