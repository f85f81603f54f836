--- mocl.lm.model: transformers as a specification says: making, loading and saving them (Hugging Face directories of the
-- families in mocl.lm.families; GGUF files of the Llama family).
-- The model object, ragged batches and generation are C (mocl.transformer.core).
--
--   local transformer = require "mocl.lm.model"
--   local m = assert(transformer.load("path/to/llama"))
--   local hidden = m:forward(transformer.batch { { 1, 403, 407 } })   -- [T, D]

local bnb = require "mocl.lm.bnb"
local core = require "mocl.transformer.core"
local encoder_decoder = require "mocl.lm.encoder_decoder"
local families = require "mocl.lm.families"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local gguf_model = require "mocl.lm.gguf_model"
local json = require "mocl.json"
local model_config = require "mocl.lm.model_config"
local model_files = require "mocl.lm.model_files"
local options = require "mocl.options"
local parameters = require "mocl.parameters"
local tensor = require "mocl.tensor"

local transformer = { check = core.check, new = core.new, batch = core.batch, pack = core.pack, rows = core.rows }

-- model -> list of the ids that end its answers, where its files say so
local ends = setmetatable({}, { __mode = "k" })
-- model -> {family =, all =, bare =} of the files that it was loaded from
local sources = setmetatable({}, { __mode = "k" })
-- model -> the id that texts begin with, of a GGUF file that names it
local begins = setmetatable({}, { __mode = "k" })

local ANY = { lm = true, encoder = true, classifier = true }
local LOADS = { lm = true, encoder = true }
local DTYPES = { f32 = true, f16 = true, bf16 = true } -- of files

local function shape_text(t)
  return table.concat(t.shape, ",")
end

-- Before a model is made: a few tensors that tell its size, so that a wrong number in config.json does not ask for more
-- memory than the files can fill.
local function check_sizes(config, family, tensors, dir, bare, groups, dtype)
  local last = ("model.layers.%d."):format(config.num_hidden_layers - 1)
  local wanted = {
    { "model.embed_tokens.weight", config.vocab_size, config.hidden_size },
    { last .. "self_attn.q_proj.weight", config.num_attention_heads * config.head_dim, config.hidden_size },
    { last .. (config.mlp == "plain" and "mlp.up_proj.weight" or "mlp.gate_proj.weight"), config.intermediate_size, config.hidden_size },
  }
  if config.positions == "learned" then
    wanted[#wanted + 1] = { "model.embed_positions.weight", config.max_position_embeddings + (config.position_offset or 0),
      config.hidden_size }
  end
  for _, w in ipairs(wanted) do
    local t, name = families.tensor(family, tensors, w[1], bare)
    t = groups[name] or t
    if not t then
      return nil, ("%s: tensor '%s' is missing"):format(dir, name), "FORMAT"
    elseif t.ndim ~= 2 or t.shape[1] ~= w[2] or t.shape[2] ~= w[3] then
      return nil, ("%s: tensor '%s' is (%s), the model needs (%s)"):format(dir, name, shape_text(groups[name] or tensors[name]),
        families.shape(family, w[1], { w[2], w[3] })), "FORMAT"
    end
  end
  local fits, why = pcall(core.check, config, dtype)
  if not fits then
    return nil, dir .. ": " .. why, "FORMAT"
  end
  return true
end

-- Whether a tensor that no parameter took may be in the file: buffers of old checkpoints, parts that a class without
-- them passes over, and the head once more where it is the embedding.
local function may_be_left(read, tensors, bare, name, t)
  local copies = false
  for _, one in ipairs(read.family.copies or {}) do
    copies = copies or name == one
  end
  if copies or name == "lm_head.weight" and read.config.tie_word_embeddings then
    local embedding = families.tensor(read.family, tensors, "model.embed_tokens.weight", bare)
    return shape_text(t) == shape_text(embedding)
      and tensor.no_grad(function() return (t:to("f32") - embedding:to("f32")):abs():max():item() end) == 0
  end
  for _, list in ipairs { { "%.rotary_emb%.inv_freq$" }, read.family.left_over or {},
    read.class == "encoder" and read.family.left_over_of_encoder or {} } do
    for _, pattern in ipairs(list) do
      if name:find(pattern) then
        return true
      end
    end
  end
  return false
end

-- The parameters of a model that are no part of a quantised layer, and the names of those layers.
local function split(model)
  local plain, layers, quantized = {}, {}, {}
  local named = model:named_parameters()
  for _, pair in ipairs(named) do
    local layer = pair[1]:match "^(.*)%.weight$"
    if layer and (pair[2].dtype == "i8" or pair[2].dtype == "u8") then
      layers[#layers + 1], quantized[layer] = layer, true
    end
  end
  for _, pair in ipairs(named) do
    local layer, part = pair[1]:match "^(.*)%.(weight)%..*$"
    layer = layer or pair[1]:match "^(.*)%.[^.]*$"
    if not quantized[layer] or not part and pair[1]:find "%.bias$" then
      plain[#plain + 1] = pair
    end
  end
  return plain, layers
end

-- Puts one tensor of a file, or one of its quantised weights, into a quantised layer. true, or false and why not.
local function fill_layer(model, layer, t, group, skipped)
  if group then
    local format = group.format == "int8" and model:quantization() or group.format
    return pcall(model.set_parts, model, layer, format, group.parts, group.options)
  elseif skipped then
    return pcall(model.set_parts, model, layer, model:dtype(), { weight = t })
  elseif skipped == false then
    return false, ("it is %s; quantization_config asks for %s, unless llm_int8_skip_modules names the layer"):format(t.dtype,
      model:quantization())
  end
  return pcall(model.set_weight, model, layer, t)
end

-- What a model's parameters get of a family's tensors: {named =, from =}, as parameters.copy takes them, or fail. Quantised layers are
-- filled at once. file: {config, groups, tensors, bare}, what bnb.config says, quantised weights by name, and the others; used: gets the
-- names in the file.
local function assign(model, family, file, dir, used)
  local tensors, groups, bare = file.tensors, file.groups, file.bare
  local from, missing = {}, {}
  local named, layers = split(model)
  for _, layer in ipairs(layers) do
    local t, theirs = families.tensor(family, tensors, layer .. ".weight", bare)
    local group, skipped = groups[theirs], nil
    if file.config and not group then
      skipped = bnb.is_skipped(file.config, (theirs:gsub("%.weight$", "")))
    end
    used[theirs] = true
    if not t then
      return nil, ("%s: tensor '%s' is missing"):format(dir, theirs), "FORMAT"
    elseif group and (group.shape[1] .. "," .. group.shape[2]) ~= table.concat(model:linear_shape(layer), ",") then
      return nil, ("%s: tensor '%s' is (%s), the model needs (%s)"):format(dir, theirs, table.concat(group.shape, ","),
        table.concat(model:linear_shape(layer), ",")), "FORMAT"
    elseif group and not families.is_plain(family, layer .. ".weight") then
      return nil, ("%s: tensor '%s' is quantised as this family's files have it, transposed or with others as one, which is not read; "
        .. "save the model dequantised"):format(dir, theirs), "FORMAT"
    end
    local set, why = fill_layer(model, layer, t, group, skipped)
    if not set then
      return nil, ("%s: tensor '%s': %s"):format(dir, theirs, why), "FORMAT"
    end
    for _, part in pairs(group and group.parts or { t == tensors[theirs] and t or nil }) do
      part:release() -- its bytes are not needed any more
    end
  end
  for _, pair in ipairs(named) do
    local t, theirs = families.tensor(family, tensors, pair[1], bare)
    used[theirs] = true
    if groups[theirs] then -- a head, say, which is kept in the model's dtype
      local group = groups[theirs]
      t = core.dequantize(group.format, group.shape[1], group.shape[2], group.parts, group.options)
    end
    if not t then
      missing[#missing + 1] = theirs
    elseif shape_text(t) ~= shape_text(pair[2]) then
      return nil, ("%s: tensor '%s' is (%s), the model needs (%s)"):format(dir, theirs, shape_text(groups[theirs] or tensors[theirs]),
        families.shape(family, pair[1], pair[2].shape)), "FORMAT"
    end
    from[pair[1]] = t
  end
  if #missing > 0 then
    return nil, ("%s: %d of %d tensors are missing, the first is '%s'"):format(dir, #missing, #named, missing[1]), "FORMAT"
  end
  return { named = named, from = from }
end

-- Copies the tensors of a file, as assign takes it, into models, a list of {model, family} pairs. others: names of further tensors that
-- somebody else takes.
local function fill(models, read, file, dir, others)
  local used, lists, tensors, bare = {}, {}, file.tensors, file.bare
  for i, pair in ipairs(models) do
    local list, message, code = assign(pair[1], pair[2], file, dir, used)
    if not list then
      return nil, message, code
    end
    lists[i] = list
  end
  for name, t in pairs(tensors) do
    if not used[name] and not others[name] and not may_be_left(read, tensors, bare, name, t) then
      return nil, ("%s: tensor '%s' belongs to no layer of this model"):format(dir, name), "FORMAT"
    end
  end
  for _, list in ipairs(lists) do
    local ok, message, code = parameters.copy(list.named, list.from, dir)
    if not ok then
      return nil, message, code
    end
  end
  return true
end

-- The format of linear layers that the options of load ask for, or nil.
local function quantization_of(opts)
  if opts.load_in_8bit and opts.quantization and opts.quantization ~= "int8" then
    error(("load: load_in_8bit and quantization = '%s' contradict each other"):format(tostring(opts.quantization)), 4)
  end
  return opts.load_in_8bit and "int8" or opts.quantization
end

-- Raises where the model's files would not be its weights.
local function refuse_quantized(model, what)
  if model:quantization() then
    error(("%s: the linear layers are %s; model:dequantize() makes %s of them"):format(what, model:quantization(), model:dtype()), 3)
  end
end

--- transformer.from_files(dir, opts, wanted, others) -> model, read, tensors | fail: what load does with a directory. wanted: as
-- model_config.check's. others(read, tensors, bare) -> name -> true: tensors that the caller takes.
function transformer.from_files(dir, opts, wanted, others)
  local read, message, code = model_config.read(dir, wanted)
  if not read then
    return nil, message, code
  end
  local tensors
  local groups, format = {}, quantization_of(opts)
  -- what is made of codes, or of which codes are made, goes to the device tensor by tensor
  tensors, message, code = model_files.load(dir, { device = not (format or read.quantized) and opts.device or nil })
  if not tensors then
    return nil, message, code
  end
  tensors = families.rename(read.family, tensors)
  if read.quantized then
    if format and not bnb.is_format(read.quantized.format, format) then
      return nil, ("%s: its weights are %s; leave out quantization = '%s'"):format(dir, read.quantized.format, format), "FORMAT"
    end
    format, groups, tensors = format or read.quantized.format, bnb.collect(read.quantized, tensors, dir)
    if not groups then
      return nil, tensors, "FORMAT"
    end
  end
  local bare = families.is_bare(read.family, tensors)
  local models, ok = { { read.config, read.family }, read.decoder and { read.decoder, read.family.decoder } }, nil
  for _, side in ipairs(models) do
    ok, message, code = check_sizes(side[1], side[2], tensors, dir, bare, groups, opts.dtype)
    if not ok then
      return nil, message, code
    end
  end
  for i, side in ipairs(models) do
    local model = core.new(side[1], { device = opts.device, dtype = opts.dtype, init = false, quantization = format })
    models[i] = { model, side[2] }
  end
  ok, message, code = fill(models, read, { config = read.quantized, groups = groups, tensors = tensors, bare = bare }, dir,
    others and others(read, tensors, bare) or {})
  if not ok then
    return nil, message, code
  end
  local model = models[1][1]
  if models[2] then
    return encoder_decoder.new(model, models[2][1], model_config.value(read, "decoder_start_token_id")), read, tensors
  end
  ends[model], sources[model] = read.eos, { family = read.family, all = read.all, bare = bare }
  return model, read, tensors
end

--- transformer.load(dir, {device="cpu", dtype="f32", quantization=nil, load_in_8bit=false}) -> model, config | fail. Weights in f32, bf16 or f16 become
-- dtype, which may be "bf16" on cuda. In place of a directory, a GGUF file, in any of the types that mocl.lm.gguf reads.
function transformer.load(dir, opts)
  opts = options.check("load", opts or {}, {}, { "device", "dtype", "quantization", "load_in_8bit" })
  if gguf_model.names(dir) then
    if quantization_of(opts) then
      error(("%s: quantization is for directories; leave it out, or save the model as one with transformer.save"):format(dir), 2)
    end
    local model, found, code = gguf_model.load(dir, opts)
    if not model then
      return nil, found, code
    end
    local begin = found.all.bos_token_id
    ends[model], begins[model] = found.eos, math.type(begin) == "integer" and begin or nil
    return model, found.all
  end
  local model, read, code = transformer.from_files(dir, opts, LOADS)
  if not model then
    return nil, read, code
  end
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

local function same_value(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b
  end
  for k, v in pairs(a) do
    if b[k] ~= v then
      return false
    end
  end
  return #a == #b
end

-- Whether two configurations are the same, or false and the first key by name that differs.
local function same_config(a, b)
  local names, seen = {}, {}
  for _, t in ipairs { a, b } do
    for key in pairs(t) do
      names[#names + 1] = not seen[key] and key or nil
      seen[key] = true
    end
  end
  table.sort(names)
  for _, key in ipairs(names) do
    if not same_value(a[key], b[key]) then
      return false, key
    end
  end
  return true
end

-- The config.json of a Llama for a specification, or nil where it is no Llama: with some of its biases, say.
local function as_llama(shape)
  local config, biases = {}, {}
  for key, value in pairs(shape) do
    config[key] = value
  end
  for _, name in ipairs(shape.biases or {}) do
    biases[name] = true
  end
  config.biases = nil
  config.model_type, config.architectures = "llama", { "LlamaForCausalLM" }
  config.hidden_act = ({ gelu_tanh = "gelu_new" })[shape.hidden_act] or shape.hidden_act or "silu"
  config.attention_bias, config.mlp_bias = biases.q_proj or false, biases.gate_proj or false
  local read = model_config.check("config.json", json.decode(json.encode(config)))
  return read and same_config(read.config, shape) and config or nil
end

-- The config.json of another family for a specification, and the family; nil where none is that model.
local function as_family(shape)
  for _, family in ipairs(families.written()) do
    local config = families.describe(family, shape)
    local read = model_config.check("config.json", json.decode(json.encode(config)), LOADS)
    if read and same_config(read.config, shape) then
      return config, family
    end
  end
end

-- The text of config.json for a model, the ids that end its answers or nil, its family, and whether names have no prefix. Raises where `extra` would make
-- the files another model.
local function config_text(model, path, extra, dtype)
  local shape, source = model:config(), sources[model]
  local config, family = as_llama(shape), families.by_type.llama
  if not config and not source then
    config, family = as_family(shape)
  end
  if not config and not source then
    error("transformer.save: no family of Hugging Face's is known that has this specification" .. (shape.rope_frequencies
      and "; its rotary frequencies are a list of their own, as a GGUF file has them in rope_freqs.weight, for which config.json has no key" or ""), 3)
  elseif not config then
    config, family = {}, source.family
    for key, value in pairs(source.all) do
      config[key] = value
    end
    config.dtype, config.quantization_config = nil, nil
  end
  config.torch_dtype = ({ f16 = "float16", bf16 = "bfloat16" })[dtype or model:dtype()] or "float32"
  if config.bos_token_id == nil then
    config.bos_token_id = begins[model]
  end
  if ends[model] then
    local list = ends[model]
    config.eos_token_id = #list == 1 and list[1] or #list > 1 and list or json.null
  end
  for k, v in pairs(extra or {}) do
    config[k] = v
  end
  local text = json.encode(config, { indent = 2 }) .. "\n"
  local again, message = model_config.check(path, json.decode(text), ANY)
  local same, key = false, nil
  if again then
    same, key = same_config(again.config, shape)
  end
  if not same then
    error("transformer.save: with these extra keys the files would not be this model: " .. (message or key .. " differs"), 3)
  end
  local bare = source and source.bare
  if not source then
    bare = family.written and family.written.bare
  end
  return text, again.eos, family, bare
end

-- generation_config.json would replace the ids that end an answer, so an old one is brought into line.
local function update_generation(dir, generation, eos)
  if not generation or not eos or same_list(generation.eos, eos) then
    return true
  end
  generation.all.eos_token_id = #eos == 1 and eos[1] or #eos > 1 and json.array(eos) or json.null
  return fs.write(model_config.generation_path(dir), json.encode(generation.all, { indent = 2 }) .. "\n")
end

-- Tensors in another type, which is to hold their values | fail
local function rounded(tensors, dtype, dir)
  local out = {}
  for name, t in pairs(tensors) do
    out[name] = tensor.no_grad(t.to, t, dtype)
    if out[name]:nonfinite() then
      return nil, ("%s: tensor '%s' has the value %g, which %s does not hold; use dtype = \"bf16\""):format(dir, name,
        tensor.no_grad(function() return t:to("f32"):abs():max():item() end), dtype), "FORMAT"
    end
  end
  return out
end

--- transformer.save(model, dir, extra, {dtype=}) -> true | fail: config.json and model.safetensors under Hugging Face's names;
-- `extra` are further keys of config.json (bos_token_id, ...); dtype: "f32", "f16" or "bf16", the model's own without it. A model that is there is replaced, with its index and
-- shards. Stopped at any point, the directory loads as the old model or as the new one, or config.json is missing.
-- Weights that are not finite are refused before anything is written.
function transformer.save(model, dir, extra, opts)
  refuse_quantized(model, "transformer.save")
  opts = options.check("transformer.save", opts or {}, {}, { "dtype" })
  if opts.dtype and not DTYPES[opts.dtype] then
    error(("transformer.save: dtype '%s' is not one of f32, f16, bf16"):format(tostring(opts.dtype)), 2)
  end
  local path = fs.join(dir, "config.json")
  local text, eos, family, bare = config_text(model, path, extra, opts.dtype)
  local tensors = tensor.no_grad(families.back, family, model:named_parameters(), bare)
  local ok, message, code = finite.tensors(tensors, dir)
  if ok and opts.dtype then
    tensors, message, code = rounded(tensors, opts.dtype, dir)
    ok = tensors
  end
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
    local old = model_config.read(dir, ANY)
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
  refuse_quantized(model, "save_gguf")
  opts = options.check("save_gguf", opts or {}, {}, { "type", "metadata" })
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

--- transformer.family(model) -> family, bare: a table of mocl.lm.families whose names of layers are not mocl's, as the files of the model
-- have them or as its specification says; bare: as PEFT sees it, its names have no prefix. nil: Llama's names.
function transformer.family(model)
  local source = sources[model]
  local family = source and source.family
  if not source then
    family = select(2, as_family(model:config()))
  end
  if family and family.names then
    return family, model:config().head == "none"
  end
end

-- A second model in dtype with copies of the base weights; linear: of the linear layers in their formats.
local function copied(model, dtype, linear)
  local copy = core.new(model:config(), { device = model:device(), dtype = dtype, init = false, quantization = model:quantization() })
  local from = {}
  local function parts(m)
    return linear and split(m) or m:named_parameters()
  end
  if linear then
    copy:copy_linear(model)
  end
  for _, pair in ipairs(parts(model)) do
    from[pair[1]] = pair[2]
  end
  assert(parameters.copy(parts(copy), from, "clone"))
  ends[copy], sources[copy], begins[copy] = ends[model], sources[model], begins[model]
  return copy
end

--- transformer.widen(model) -> model: one in f32 with the numbers of a model in bf16, without its adapters.
function transformer.widen(model)
  return copied(model, "f32", model:quantization() ~= nil)
end

--- A second model with the same configuration and copies of the base weights.
function transformer.clone(model)
  return copied(model, model:dtype(), true)
end

return transformer
