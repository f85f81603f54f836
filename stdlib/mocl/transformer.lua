--- mocl.transformer: Llama-style decoders: making, loading and saving them (Hugging Face directories).
-- The model object, ragged batches and generation are C (mocl.transformer.core).
--
--   local transformer = require "mocl.transformer"
--   local m = assert(transformer.load("path/to/llama"))
--   local hidden = m:forward(transformer.batch { { 1, 403, 407 } })   -- [T, D]

local core = require "mocl.transformer.core"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local json = require "mocl.json"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

local transformer = { check = core.check, new = core.new, batch = core.batch, pack = core.pack }

-- config.json keys that decide the architecture: name -> default where it may be missing
local KEYS = {
  "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads", "head_dim",
  "intermediate_size", "max_position_embeddings", "rms_norm_eps", "rope_theta", "tie_word_embeddings",
}

--- The part of a Hugging Face config.json that mocl uses; nil, message where it asks for something mocl
-- does not compute.
local function read_config(path)
  local text, message, code = fs.read(path)
  if not text then
    return nil, message, code
  end
  local all, bad = json.decode(text)
  if type(all) ~= "table" then
    return nil, path .. ": " .. (bad or "not a JSON object"), "FORMAT"
  end
  local function refuse(key, value, supported)
    return nil, ("%s: %s = %s is not supported (%s)"):format(path, key, tostring(value), supported), "FORMAT"
  end
  if all.model_type ~= "llama" then
    return refuse("model_type", all.model_type, "llama")
  elseif all.hidden_act and all.hidden_act ~= "silu" then
    return refuse("hidden_act", all.hidden_act, "silu")
  elseif all.attention_bias or all.mlp_bias then
    return refuse("attention_bias or mlp_bias", true, "false")
  elseif all.rope_scaling and all.rope_scaling ~= json.null then
    return refuse("rope_scaling", "a table", "null")
  end
  local config = {}
  for _, key in ipairs(KEYS) do
    local v = all[key]
    if v ~= nil and v ~= json.null then
      config[key] = v
    end
  end
  local ok, why = pcall(core.check, config)
  if not ok then
    return nil, path .. ": " .. why, "FORMAT"
  end
  return config, all
end

local function shards(dir)
  local index = fs.join(dir, "model.safetensors.index.json")
  if fs.exists(index) ~= "file" then
    return { "model.safetensors" }
  end
  local text, message, code = fs.read(index)
  if not text then
    return nil, message, code
  end
  local map = json.decode(text)
  if type(map) ~= "table" or type(map.weight_map) ~= "table" then
    return nil, index .. ": no weight_map", "FORMAT"
  end
  local seen, list = {}, {}
  for _, file in pairs(map.weight_map) do
    if not seen[file] then
      seen[file] = true
      list[#list + 1] = file
    end
  end
  table.sort(list)
  return list
end

--- Copies the tensors of `from` (name -> tensor) into the parameters of the same names; every parameter
-- must be there with its shape. Returns true, or nil, message.
function transformer.copy_parameters(named, from, where)
  local missing, used = {}, {}
  for _, pair in ipairs(named) do
    local name, to = pair[1], pair[2]
    local source = from[name]
    if not source then
      missing[#missing + 1] = name
    else
      local a, b = table.concat(source.shape, ","), table.concat(to.shape, ",")
      if a ~= b then
        return nil, ("%s: tensor '%s' is (%s), the model needs (%s)"):format(where, name, a, b), "FORMAT"
      end
      tensor.no_grad(to.copy_, to, source)
      used[name] = true
    end
  end
  if #missing > 0 then
    return nil, ("%s: %d of %d tensors are missing, the first is '%s'"):format(where, #missing, #named, missing[1]), "FORMAT"
  end
  for name in pairs(from) do
    if not used[name] and not name:find("rotary_emb", 1, true) and name ~= "lm_head.weight" then
      return nil, ("%s: tensor '%s' belongs to no layer of this model"):format(where, name), "FORMAT"
    end
  end
  return true
end

-- Before a model is made: a few tensors that tell its size, so that a wrong number in config.json does not ask for more
-- memory than the files can fill.
local function check_sizes(config, tensors, dir)
  local heads, width = config.num_attention_heads, config.hidden_size
  local last = ("model.layers.%d."):format(config.num_hidden_layers - 1)
  local wanted = {
    { "model.embed_tokens.weight", config.vocab_size, width },
    { last .. "self_attn.q_proj.weight", heads * (config.head_dim or width // heads), width },
    { last .. "mlp.gate_proj.weight", config.intermediate_size, width },
  }
  for _, w in ipairs(wanted) do
    local t = tensors[w[1]]
    if not t then
      return nil, ("%s: tensor '%s' is missing"):format(dir, w[1]), "FORMAT"
    elseif t.ndim ~= 2 or t.shape[1] ~= w[2] or t.shape[2] ~= w[3] then
      return nil, ("%s: tensor '%s' is (%s), the model needs (%d,%d)"):format(dir, w[1], table.concat(t.shape, ","), w[2],
        w[3]), "FORMAT"
    end
  end
  return true
end

--- transformer.load(dir, {device="cpu", dtype="f32"}) -> model, config | fail. Weights in f32, bf16 or f16 become
-- dtype, which may be "bf16" on cuda.
function transformer.load(dir, opts)
  opts = opts or {}
  local config, all, code = read_config(fs.join(dir, "config.json"))
  if not config then
    return nil, all, code
  end
  local files, message, why = shards(dir)
  if not files then
    return nil, message, why
  end
  local tensors = {}
  for _, file in ipairs(files) do
    local part, bad, kind = safetensors.load(fs.join(dir, file), { device = opts.device })
    if not part then
      return nil, bad, kind
    end
    for name, t in pairs(part) do
      tensors[name] = t
    end
  end
  local fits, reason, which = check_sizes(config, tensors, dir)
  if not fits then
    return nil, reason, which
  end
  local model = core.new(config, { device = opts.device, dtype = opts.dtype })
  local ok, bad, kind = transformer.copy_parameters(model:named_parameters(), tensors, dir)
  if not ok then
    return nil, bad, kind
  end
  return model, all
end

--- transformer.save(model, dir, extra) -> true | fail: config.json and model.safetensors under Hugging Face's
-- names; `extra` are further keys of config.json (bos_token_id, ...). Weights that are not finite are refused before
-- anything is written.
function transformer.save(model, dir, extra)
  local config = model:config()
  config.model_type = "llama"
  config.architectures = { "LlamaForCausalLM" }
  config.hidden_act = "silu"
  config.attention_bias = false
  config.mlp_bias = false
  config.torch_dtype = model:dtype() == "bf16" and "bfloat16" or "float32"
  for k, v in pairs(extra or {}) do
    config[k] = v
  end
  local tensors = {}
  for _, pair in ipairs(model:named_parameters()) do
    tensors[pair[1]] = pair[2]
  end
  local ok, message, code = finite.tensors(tensors, dir)
  if ok then
    ok, message, code = fs.mkdir(dir)
  end
  if ok then
    ok, message, code = safetensors.save(fs.join(dir, "model.safetensors"), tensors, { format = "pt" })
  end
  if ok then
    ok, message, code = fs.write(fs.join(dir, "config.json"), json.encode(config, { indent = 2 }) .. "\n")
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- The tensors of the model, in a fixed order: the base's, or the adapter's.
function transformer.parameters(model, lora)
  local list = {}
  for i, pair in ipairs(model:named_parameters(lora)) do
    list[i] = pair[2]
  end
  return list
end

--- Marks all base parameters as trainable (or not) and returns them.
function transformer.train_base(model, on)
  local list = transformer.parameters(model)
  for _, p in ipairs(list) do
    p:requires_grad_(on ~= false)
  end
  return list
end

--- A second model with the same configuration and copies of the base weights.
function transformer.clone(model)
  local copy = core.new(model:config(), { device = model:device(), dtype = model:dtype() })
  local from = {}
  for _, pair in ipairs(model:named_parameters()) do
    from[pair[1]] = pair[2]
  end
  assert(transformer.copy_parameters(copy:named_parameters(), from, "clone"))
  return copy
end

return transformer
