--- mocl.lm.model: Llama-style decoders: making, loading and saving them (Hugging Face directories; GGUF files are
-- loaded alone).
-- The model object, ragged batches and generation are C (mocl.transformer.core).
--
--   local transformer = require "mocl.lm.model"
--   local m = assert(transformer.load("path/to/llama"))
--   local hidden = m:forward(transformer.batch { { 1, 403, 407 } })   -- [T, D]

local core = require "mocl.transformer.core"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local gguf_model = require "mocl.lm.gguf_model"
local json = require "mocl.json"
local model_config = require "mocl.lm.model_config"
local model_files = require "mocl.lm.model_files"
local model_keys = require "mocl.lm.model_keys"
local options = require "mocl.options"
local tensor = require "mocl.tensor"

local transformer = { check = core.check, new = core.new, batch = core.batch, pack = core.pack }

-- model -> list of the ids that end its answers, where its files say so
local ends = setmetatable({}, { __mode = "k" })

--- Copies the tensors of `from` (name -> tensor) into the parameters of the same names; every parameter must be there
-- with its shape, and no tensor may be left over but those of which may_stay(name, tensor) is true. Returns true, or
-- nil, message.
function transformer.copy_parameters(named, from, where, may_stay)
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
  for name, t in pairs(from) do
    if not used[name] and not (may_stay and may_stay(name, t)) then
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

-- What a file may hold besides the parameters: buffers of old checkpoints, and the head once more where it is the
-- embedding.
local function is_known_extra(config, tensors)
  return function(name, t)
    if name == "lm_head.weight" and config.tie_word_embeddings then
      local embedding = tensors["model.embed_tokens.weight"]
      return table.concat(t.shape, ",") == table.concat(embedding.shape, ",")
        and tensor.no_grad(function() return (t:to("f32") - embedding:to("f32")):abs():max():item() end) == 0
    end
    return name:find "%.rotary_emb%.inv_freq$" ~= nil
  end
end

-- The format of linear layers that the options of load ask for, or nil.
local function quantization_of(opts)
  if opts.load_in_8bit and opts.quantization and opts.quantization ~= "int8" then
    error(("load: load_in_8bit and quantization = '%s' contradict each other"):format(tostring(opts.quantization)), 3)
  end
  return opts.load_in_8bit and "int8" or opts.quantization
end

-- A model whose linear layers are quantised one by one as they are read: no more than one of them is there in floats. (The
-- first read takes what is no linear layer, and those by which check_sizes knows the model's.)
local function load_quantized(dir, config, opts, quantization)
  local linear = {}
  local function is_linear(name)
    return name:find "^model%.layers%.%d+%.[%w_]+%.[%w_]+_proj%.weight$" ~= nil
  end
  local last = ("model.layers.%d."):format(config.num_hidden_layers - 1)
  local sizes = { [last .. "self_attn.q_proj.weight"] = true, [last .. "mlp.gate_proj.weight"] = true }
  local tensors, message, code = model_files.load(dir, { device = opts.device, only = function(name)
    linear[name] = is_linear(name) or nil
    return not linear[name] or sizes[name] == true
  end })
  if not tensors then
    return nil, message, code
  end
  local ok
  ok, message, code = check_sizes(config, tensors, dir)
  if not ok then
    return nil, message, code
  end
  local model = core.new(config, { device = opts.device, dtype = opts.dtype, quantization = quantization, empty = true })
  local may_stay, plain = is_known_extra(config, tensors), {}
  local parts = {} -- names of linear layers, in order
  for _, pair in ipairs(model:named_parameters()) do
    local layer = pair[1]:match "^(model%.layers%.%d+%.[%w_]+%.[%w_]+_proj)%."
    if not layer or pair[1]:find "%.bias$" then
      plain[#plain + 1] = pair
    elseif parts[#parts] ~= layer then
      parts[#parts + 1] = layer
    end
  end
  for name in pairs(sizes) do
    tensors[name] = nil
  end
  ok, message, code = transformer.copy_parameters(plain, tensors, dir, may_stay)
  if not ok then
    return nil, message, code
  end
  tensors = nil
  for _, layer in ipairs(parts) do
    local name = layer .. ".weight"
    local one, reason, kind = model_files.load(dir, { device = opts.device, only = function(other) return other == name end })
    if not one then
      return nil, reason, kind
    elseif not one[name] then
      return nil, ("%s: tensor '%s' is missing"):format(dir, name), "FORMAT"
    end
    local set, why = pcall(model.set_weight, model, layer, one[name])
    if not set then
      return nil, ("%s: tensor '%s': %s"):format(dir, name, why), "FORMAT"
    end
    one[name]:release()
    linear[name] = nil
  end
  local left = next(linear)
  if left then
    return nil, ("%s: tensor '%s' belongs to no layer of this model"):format(dir, left), "FORMAT"
  end
  return model
end

-- Raises where the model's files would not be its weights.
local function refuse_quantized(model, what)
  if model:quantization() then
    error(("%s: the linear layers are %s; model:dequantize() makes %s of them"):format(what, model:quantization(), model:dtype()), 3)
  end
end

--- transformer.load(dir, {device="cpu", dtype="f32", quantization=nil, load_in_8bit=false}) -> model, config | fail. Weights in f32, bf16 or f16 become
-- dtype, which may be "bf16" on cuda. In place of a directory, a GGUF file, in any of the types that mocl.lm.gguf reads.
function transformer.load(dir, opts)
  opts = opts or {}
  if gguf_model.names(dir) then
    if quantization_of(opts) then
      error("load: quantization is for directories; the numbers of a GGUF file have their own types", 2)
    end
    local model, found, code = gguf_model.load(dir, opts)
    if not model then
      return nil, found, code
    end
    ends[model] = found.eos
    return model, found.all
  end
  local read, message, code = model_config.read(dir)
  if not read then
    return nil, message, code
  end
  local quantization = quantization_of(opts)
  if quantization then
    local model, reason, kind = load_quantized(dir, read.config, opts, quantization)
    if not model then
      return nil, reason, kind
    end
    ends[model] = read.eos
    return model, read.all
  end
  local tensors
  tensors, message, code = model_files.load(dir, { device = opts.device })
  if not tensors then
    return nil, message, code
  end
  local ok
  ok, message, code = check_sizes(read.config, tensors, dir)
  if not ok then
    return nil, message, code
  end
  local model = core.new(read.config, { device = opts.device, dtype = opts.dtype })
  local may_stay = is_known_extra(read.config, tensors)
  ok, message, code = transformer.copy_parameters(model:named_parameters(), tensors, dir, may_stay)
  if not ok then
    return nil, message, code
  end
  ends[model] = read.eos
  return model, read.all
end

--- The ids that end an answer of a model that was loaded: those of generation_config.json or config.json; nil where the
-- files do not say.
function transformer.eos_ids(model)
  return ends[model] and table.move(ends[model], 1, #ends[model], 1, {})
end

local function same_list(a, b)
  return (a and table.concat(a, ",")) == (b and table.concat(b, ","))
end

-- Whether two configurations are the same, or false and the first key that differs.
local function same_config(a, b)
  for _, key in ipairs(model_keys.SHAPE) do
    if a[key] ~= b[key] then
      return false, key
    end
  end
  return true
end

-- The text of config.json for a model, and the ids that end its answers or nil. Raises where `extra` would make the
-- files another model.
local function config_text(model, path, extra)
  local shape = model:config()
  local config = model:config()
  config.model_type = "llama"
  config.architectures = { "LlamaForCausalLM" }
  config.hidden_act = "silu"
  config.attention_bias = false
  config.mlp_bias = false
  config.torch_dtype = model:dtype() == "bf16" and "bfloat16" or "float32"
  if ends[model] then
    local list = ends[model]
    config.eos_token_id = #list == 1 and list[1] or #list > 1 and list or json.null
  end
  for k, v in pairs(extra or {}) do
    config[k] = v
  end
  local text = json.encode(config, { indent = 2 }) .. "\n"
  local again, message = model_config.check(path, json.decode(text))
  local same, key = false, nil
  if again then
    same, key = same_config(again.config, shape)
  end
  if not same then
    error("transformer.save: with these extra keys the files would not be this model: " .. (message or key .. " differs"), 3)
  end
  return text, again.eos
end

-- generation_config.json would replace the ids that end an answer, so an old one is brought into line.
local function update_generation(dir, generation, eos)
  if not generation or not eos or same_list(generation.eos, eos) then
    return true
  end
  generation.all.eos_token_id = #eos == 1 and eos[1] or #eos > 1 and json.array(eos) or json.null
  return fs.write(model_config.generation_path(dir), json.encode(generation.all, { indent = 2 }) .. "\n")
end

--- transformer.save(model, dir, extra) -> true | fail: config.json and model.safetensors under Hugging Face's names;
-- `extra` are further keys of config.json (bos_token_id, ...). A model that is there is replaced, with its index and
-- shards. Stopped at any point, the directory loads as the old model or as the new one, or config.json is missing.
-- Weights that are not finite are refused before anything is written.
function transformer.save(model, dir, extra)
  refuse_quantized(model, "transformer.save")
  local path = fs.join(dir, "config.json")
  local text, eos = config_text(model, path, extra)
  local tensors = {}
  for _, pair in ipairs(model:named_parameters()) do
    tensors[pair[1]] = pair[2]
  end
  local ok, message, code = finite.tensors(tensors, dir)
  if not ok then
    return nil, message, code
  end
  ok, message, code = fs.mkdir(dir)
  local generation
  if ok then
    generation, message, code = model_config.generation(dir, model:config().vocab_size)
  end
  if generation == nil then
    return nil, message, code
  end
  -- the old config.json may stay until the end only where it says the same of the new weights
  local before = nil
  if fs.exists(path) then
    local old = model_config.read(dir)
    if not old or not same_config(old.config, model:config()) or eos and not same_list(old.eos, eos) then
      before = function()
        return fs.remove(path)
      end
    end
  end
  ok, message, code = model_files.save(dir, tensors, before)
  if ok then
    ok, message, code = update_generation(dir, generation, eos)
  end
  if ok then
    ok, message, code = fs.write(path, text)
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- transformer.save_gguf(model, path, {type="F32", metadata=}) -> true | fail: one file for llama.cpp, matrices as F32, F16,
-- BF16 or Q8_0. metadata: a list of further keys as in gguf.save, such as those of a tokenizer. A model with an adapter
-- raises: it must be merged first.
function transformer.save_gguf(model, path, opts)
  opts = options.check("save_gguf", opts or {}, {}, { "type", "metadata" })
  refuse_quantized(model, "save_gguf")
  return gguf_model.save(model, path, { type = opts.type, metadata = opts.metadata, eos = ends[model] })
end

--- The tensors of the model, in a fixed order: the base's; where lora is true the active adapter's, where it is a name that one's.
function transformer.parameters(model, lora)
  local list = {}
  for i, pair in ipairs(model:named_parameters(lora)) do
    list[i] = pair[2]
  end
  return list
end

--- Marks all base parameters as trainable (or not) and returns them.
function transformer.train_base(model, on)
  refuse_quantized(model, "train_base")
  local list = transformer.parameters(model)
  for _, p in ipairs(list) do
    p:requires_grad_(on ~= false)
  end
  return list
end

--- A second model with the same configuration and copies of the base weights.
function transformer.clone(model)
  local copy = core.new(model:config(), {
    device = model:device(), dtype = model:dtype(), quantization = model:quantization(), empty = true,
  })
  local from = {}
  for _, pair in ipairs(model:named_parameters()) do
    from[pair[1]] = pair[2]
  end
  assert(transformer.copy_parameters(copy:named_parameters(), from, "clone"))
  ends[copy] = ends[model]
  return copy
end

return transformer
