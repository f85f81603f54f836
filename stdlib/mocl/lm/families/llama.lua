--- mocl.lm.families.llama: Llama and the decoders that differ from it in a few places: Mistral, Qwen2, Qwen3, SmolLM3. Their
-- tensors have the names of mocl's parameters.

local json = require "mocl.json"
local keys = require "mocl.keys"
local model_keys = require "mocl.lm.model_keys"
local rope = require "mocl.lm.families.rope"

local given = keys.given
local NOT_READ = model_keys.NOT_READ

local QKV, QKVO, MLP = { "q_proj", "k_proj", "v_proj" }, { "q_proj", "k_proj", "v_proj", "o_proj" }, { "gate_proj", "up_proj", "down_proj" }

-- transformer.new's key -> the file's
local SHAPE = {}
for _, key in ipairs { "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
  "intermediate_size", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings" } do
  SHAPE[key] = key
end

local function lists(own)
  local honoured = { "original_max_position_embeddings", "rope_parameters", "rope_scaling", "rope_theta", "sliding_window" }
  honoured[#honoured + 1] = not (own.without_effect or {}).layer_types and "layer_types" or nil
  for key in pairs(SHAPE) do
    honoured[#honoured + 1] = key
  end
  table.move(own.honoured or {}, 1, #(own.honoured or {}), #honoured + 1, honoured)
  return model_keys.lists { honoured = honoured, neutral = own.neutral, without_effect = own.without_effect }
end

local function joined(a, b)
  local out = table.move(a, 1, #a, 1, {})
  return table.move(b, 1, #b, #out + 1, out)
end

-- What all of them share: rotary positions.
local function rotary(r, config)
  local theta, scaling, code = rope.read(r.path, r.all, r.defaults.rope_theta, config.max_position_embeddings)
  if not theta then
    r.fail(nil, scaling, code)
  end
  config.rope_theta = theta
  if scaling then
    r.scaling = scaling
  end
  config.hidden_act = r:act "hidden_act"
end

-- The window that a key asks for: an integer, or nil where there is none or the context fits into it.
local function window_of(r, config, key)
  local window = r:value(key)
  if r.all[key] == json.null or window == nil then
    return nil
  elseif math.type(window) ~= "integer" or window < 1 then
    r:refuse(key, window, "null, or an integer of at least 1")
  end
  return window < config.max_position_embeddings and window or nil
end

-- A window in the layers l, from 0, of which windowed(l) is true.
local function set_windows(config, window, windowed)
  local list, any = {}, false
  for l = 1, config.num_hidden_layers do
    list[l] = windowed(l - 1) and window or 0
    any = any or list[l] > 0
  end
  config.attention_windows = any and list or nil
end

-- layer_types as a function of the layer, from 0, that is true where its attention has a window; nil where the key is missing.
local function types_of(r, config)
  local types = r.all.layer_types
  if not given(types) then
    return nil
  end
  for l = 1, config.num_hidden_layers do
    local kind = type(types) == "table" and types[l]
    if kind ~= "full_attention" and kind ~= "sliding_attention" then
      r:refuse("layer_types", types, ("full_attention or sliding_attention, one for each of %d layers"):format(config.num_hidden_layers))
    end
  end
  return function(l)
    return types[l + 1] == "sliding_attention"
  end
end

-- A family that has no windows.
local function no_windows(r, config)
  local window, windowed = r.all.sliding_window, types_of(r, config)
  if given(window) and not (math.type(window) == "integer" and window >= config.max_position_embeddings) then
    r:refuse("sliding_window", window, "null, or at least max_position_embeddings")
  end
  for l = 0, windowed and config.num_hidden_layers - 1 or -1 do
    if windowed(l) then
      r:refuse("layer_types", r.all.layer_types, "full_attention in every layer")
    end
  end
end

-- A window that use_sliding_window turns on, in the layers that layer_types names; without it those of which by_default(l) is true.
local function late_window(r, config, by_default)
  local windowed = types_of(r, config)
  if r:boolean "use_sliding_window" then
    local window = window_of(r, config, "sliding_window")
    if window then
      set_windows(config, window, windowed or by_default)
    end
    return
  end
  for l = 0, windowed and config.num_hidden_layers - 1 or -1 do
    if windowed(l) then
      r:refuse("layer_types", r.all.layer_types, "full_attention in every layer where use_sliding_window is false")
    end
  end
end

local function qwen_window(r, config)
  local first = r:integer("max_window_layers", 0)
  late_window(r, config, function(l)
    return l >= first
  end)
end

local CLASSIFIER = { pool = "last", layers = { { "score", bias = false } } }

local llama = {
  model_type = "llama", shape = SHAPE, keys = lists { honoured = { "attention_bias", "mlp_bias" } },
  classes = { LlamaForCausalLM = "lm", LLaMAForCausalLM = "lm", LlamaForSequenceClassification = CLASSIFIER },
  defaults = {
    vocab_size = 32000, hidden_size = 4096, intermediate_size = 11008, num_hidden_layers = 32, num_attention_heads = 32,
    max_position_embeddings = 2048, rms_norm_eps = 1e-6, rope_theta = 10000.0, tie_word_embeddings = false, hidden_act = "silu",
    attention_bias = false, mlp_bias = false,
  },
}

function llama.spec(r, config)
  rotary(r, config)
  no_windows(r, config)
  local biases = joined(r:boolean "attention_bias" and QKVO or {}, r:boolean "mlp_bias" and MLP or {})
  config.biases = biases[1] and biases
end

local mistral = {
  model_type = "mistral", shape = SHAPE, keys = lists { without_effect = { attention_bias = NOT_READ, mlp_bias = NOT_READ, layer_types = NOT_READ } },
  classes = { MistralForCausalLM = "lm", LlamaForCausalLM = "lm", MistralForSequenceClassification = CLASSIFIER },
  defaults = {
    vocab_size = 32000, hidden_size = 4096, intermediate_size = 14336, num_hidden_layers = 32, num_attention_heads = 32,
    num_key_value_heads = 8, max_position_embeddings = 131072, rms_norm_eps = 1e-6, rope_theta = 10000.0,
    tie_word_embeddings = false, sliding_window = 4096, hidden_act = "silu",
  },
}

function mistral.spec(r, config)
  rotary(r, config)
  local window = window_of(r, config, "sliding_window")
  if window then
    set_windows(config, window, function()
      return true
    end)
  end
end

local QWEN = {
  vocab_size = 151936, hidden_size = 4096, intermediate_size = 22016, num_hidden_layers = 32, num_attention_heads = 32,
  num_key_value_heads = 32, max_position_embeddings = 32768, rms_norm_eps = 1e-6, rope_theta = 10000.0, tie_word_embeddings = false,
  use_sliding_window = false, sliding_window = 4096, max_window_layers = 28, hidden_act = "silu",
}

local qwen2 = {
  model_type = "qwen2", shape = SHAPE, defaults = QWEN,
  keys = lists {
    honoured = { "use_sliding_window", "max_window_layers" },
    without_effect = { attention_bias = NOT_READ, mlp_bias = NOT_READ },
  },
  classes = { Qwen2ForCausalLM = "lm", Qwen2ForSequenceClassification = CLASSIFIER },
  written = { class = "Qwen2ForCausalLM", keys = { rope_theta = "rope_theta", hidden_act = "hidden_act", use_sliding_window = false } },
}

function qwen2.spec(r, config)
  rotary(r, config)
  qwen_window(r, config)
  config.biases = QKV
end

local qwen3 = {
  model_type = "qwen3", shape = SHAPE, defaults = model_keys.merged(QWEN, { head_dim = 128, attention_bias = false }),
  keys = lists {
    honoured = { "use_sliding_window", "max_window_layers", "attention_bias" }, without_effect = { mlp_bias = NOT_READ },
  },
  classes = { Qwen3ForCausalLM = "lm", Qwen3ForSequenceClassification = CLASSIFIER },
  written = {
    class = "Qwen3ForCausalLM",
    keys = { rope_theta = "rope_theta", hidden_act = "hidden_act", use_sliding_window = false, attention_bias = false },
  },
}

function qwen3.spec(r, config)
  rotary(r, config)
  qwen_window(r, config)
  config.qk_norm = true
  config.biases = r:boolean "attention_bias" and QKVO or nil
end

local smollm3 = {
  model_type = "smollm3", shape = SHAPE,
  keys = lists {
    honoured = { "use_sliding_window", "attention_bias", "mlp_bias", "no_rope_layers", "no_rope_layer_interval" },
  },
  classes = { SmolLM3ForCausalLM = "lm", SmolLM3ForSequenceClassification = CLASSIFIER },
  defaults = {
    vocab_size = 128256, hidden_size = 2048, intermediate_size = 11008, num_hidden_layers = 36, num_attention_heads = 16,
    num_key_value_heads = 4, max_position_embeddings = 32768, rms_norm_eps = 1e-6, rope_theta = 2000000.0, tie_word_embeddings = true,
    use_sliding_window = false, no_rope_layer_interval = 4, hidden_act = "silu", attention_bias = false, mlp_bias = false,
  },
}

-- Which layers rotate: no_rope_layers has 1 for those that do; without it each no_rope_layer_interval-th does not.
local function rotating(r, layers)
  local list, out = r.all.no_rope_layers, {}
  if not given(list) then
    local interval = r:integer("no_rope_layer_interval", 1)
    for l = 1, layers do
      out[l] = l % interval ~= 0
    end
    return out
  end
  for l = 1, layers do
    local v = type(list) == "table" and list[l]
    if v ~= 0 and v ~= 1 then
      r:refuse("no_rope_layers", list, ("a list of 0 and 1, one for each of %d layers"):format(layers))
    end
    out[l] = v == 1
  end
  return out
end

function smollm3.spec(r, config)
  rotary(r, config)
  config.rope_layers = rotating(r, config.num_hidden_layers)
  late_window(r, config, function(l)
    return not config.rope_layers[l + 1]
  end)
  local biases = joined(r:boolean "attention_bias" and QKVO or {}, r:boolean "mlp_bias" and MLP or {})
  config.biases = biases[1] and biases
end

return { llama, mistral, qwen2, qwen3, smollm3 }
