--- mocl.lm.gguf_model: a model in a GGUF file: its configuration from the metadata, and its weights, which become f32 one
-- tensor at a time. What llama.cpp would compute otherwise than mocl is refused by name.

local core = require "mocl.transformer.core"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local gguf_keys = require "mocl.lm.gguf_keys"
local keys = require "mocl.keys"
local tensor = require "mocl.tensor"

local gguf_model = {}

local refuse = keys.refuse

-- ---- metadata ----

local function has_prefix(key)
  for prefix in pairs(gguf_keys.PREFIXES) do
    if key:sub(1, #prefix) == prefix then
      return true
    end
  end
  return false
end

--- gguf_model.described(file) -> the values of the metadata that the lists of mocl.lm.gguf_keys speak of, by key.
function gguf_model.described(file)
  local all = {}
  for _, key in ipairs(file.keys) do
    if not has_prefix(key) then
      all[key] = file.metadata[key]
    end
  end
  return all
end

-- A float of the file as the shortest decimal that rounds to it: 1e-05 for 9.9999997473788e-06.
local function shortest(v)
  local short = tonumber(("%.7g"):format(v)) -- nil for a NaN or an infinity
  return short and string.unpack("<f", string.pack("<f", short)) == v and short + 0.0 or v
end

-- Of a number for each layer only one is left where all are the same.
local function of_layers(path, key, value)
  if type(value) ~= "table" then
    return value
  elseif #value == 0 then
    return refuse(path, key, value, "a number, or one for each layer")
  end
  for _, v in ipairs(value) do
    if v ~= value[1] then
      return refuse(path, key, value, "the same number in all layers")
    end
  end
  return value[1]
end

-- llama.cpp's name, the name in the configuration, and what a missing key means: nil, that the file is refused
local NUMBERS = {
  { "context_length", "max_position_embeddings", "integer" },
  { "embedding_length", "hidden_size", "integer" },
  { "block_count", "num_hidden_layers", "integer" },
  { "feed_forward_length", "intermediate_size", "integer" },
  { "attention.head_count", "num_attention_heads", "integer" },
}
local ROTARY = {
  { "attention.head_count_kv", "num_key_value_heads", "integer", "num_attention_heads" },
  { "attention.layer_norm_rms_epsilon", "rms_norm_eps", "float" },
  { "rope.freq_base", "rope_theta", "float", 10000.0 },
}
local LAYER_NORM = { "attention.layer_norm_epsilon", "layer_norm_eps", "float" }
local QKV, ALL = { "q_proj", "k_proj", "v_proj" }, { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" }

-- What the architectures are as a specification, beside the sizes. halves: the rows of q and k are in llama.cpp's order;
-- factors: rope_freqs.weight divides the rotary frequencies; joined: q, k and v are one tensor; encoder: no head, and norms
-- behind each sum; such a model is read and not written.
local ARCHITECTURES = {
  llama = { numbers = ROTARY, spec = {}, halves = true, factors = true },
  qwen2 = { numbers = ROTARY, spec = { biases = QKV } },
  qwen3 = { numbers = ROTARY, spec = { qk_norm = true } },
  gpt2 = {
    numbers = { LAYER_NORM }, joined = true,
    spec = { norm = "layer", positions = "learned", mlp = "plain", hidden_act = "gelu_tanh", biases = ALL },
  },
  bert = { -- transformers' gelu is erf's, whatever llama.cpp takes
    numbers = { LAYER_NORM }, encoder = true,
    spec = { norm = "layer", norm_place = "post", embedding_norm = true, positions = "learned", mlp = "plain", hidden_act = "gelu", causal = false,
      head = "none", biases = ALL },
  },
}
local ORDER = { "llama", "qwen2", "qwen3", "gpt2" } -- to look for one that a model is, to be written
local READ = { "llama", "qwen2", "qwen3", "gpt2", "bert" }

-- A list as text, a set of names in their order, or a value as it is.
local function flat(v)
  if type(v) ~= "table" then
    return v
  end
  local list = {}
  for i, one in ipairs(v) do
    list[i] = tostring(one)
  end
  if type(v[1]) == "string" then
    table.sort(list)
  end
  return table.concat(list, " ")
end

-- What a configuration of transformer.new says where it says nothing.
local PLAIN = { norm = "rms", norm_place = "pre", positions = "rope", mlp = "gated", hidden_act = "silu", head = "lm", rope_factor = 1,
  causal = true, position_offset = 0, type_vocab_size = 0, embedding_norm = false, qk_norm = false, final_norm = true, cross_attention = false,
  embedding_multiplier = 1 }
local SPECIFIES = { "norm", "norm_place", "positions", "mlp", "hidden_act", "head", "rope_factor", "causal", "position_offset",
  "type_vocab_size", "embedding_norm", "qk_norm", "final_norm", "cross_attention", "embedding_multiplier", "biases", "attention_scales", "rope_layers", "attention_windows" }

local function is_of(architecture, config)
  local spec = ARCHITECTURES[architecture].spec
  for _, key in ipairs(SPECIFIES) do
    local a, b = config[key], spec[key]
    a, b = a == nil and PLAIN[key] or a, b == nil and PLAIN[key] or b
    if flat(a or nil) ~= flat(b or nil) then
      return false
    end
  end
  return not config.rope_frequencies or ARCHITECTURES[architecture].factors == true
end

--- gguf_model.architectures(read) -> the names of the architectures that are written, or with `read` of those that are read, in words
function gguf_model.architectures(read)
  return table.concat(read and READ or ORDER, ", ")
end

--- gguf_model.architecture(config) -> llama.cpp's name of the architecture of a model with this configuration, or nil where it
-- is none of those that mocl knows.
function gguf_model.architecture(config)
  for _, name in ipairs(ORDER) do
    if is_of(name, config) then
      return name
    end
  end
end

local function read_numbers(path, all, architecture)
  local config, rows = {}, table.move(NUMBERS, 1, #NUMBERS, 1, {})
  for _, row in ipairs(table.move(ARCHITECTURES[architecture].numbers, 1, 9, #rows + 1, rows)) do
    local key, name, kind, default = architecture .. "." .. row[1], row[2], row[3], row[4]
    local value, message, code = of_layers(path, key, all[key])
    if message then
      return nil, message, code
    elseif value == nil and default == nil then
      return nil, ("%s: %s is missing"):format(path, key), "FORMAT"
    elseif value == nil then
      value = config[default] or default
    elseif math.type(value) ~= kind then
      return refuse(path, key, value, kind == "integer" and "an integer" or "a number of type f32")
    end
    config[name] = kind == "float" and shortest(value) or value
  end
  return config
end

-- Sizes of a head, which must agree.
local function read_head(path, all, architecture, config)
  local width, heads = config.hidden_size, config.num_attention_heads
  if heads < 1 then
    return refuse(path, architecture .. ".attention.head_count", heads, "at least 1")
  end
  config.head_dim = all[architecture .. ".attention.key_length"] or width // heads
  for key, value in pairs(ARCHITECTURES[architecture].spec) do
    config[key] = value
  end
  for _, name in ipairs { "attention.key_length", "attention.value_length", "rope.dimension_count" } do
    local key = architecture .. "." .. name
    if all[key] ~= nil and all[key] ~= config.head_dim then
      return refuse(path, key, all[key], ("%s, the size of a head"):format(keys.show(config.head_dim)))
    end
  end
  return true
end

-- The ids that end an answer, nil where the file names none.
local function eos_ids(path, file, vocab)
  local list, seen = nil, {}
  for _, name in ipairs { "eos_token_id", "eot_token_id", "eom_token_id" } do
    local key = "tokenizer.ggml." .. name
    local id = file.metadata[key]
    if id ~= nil and (math.type(id) ~= "integer" or id < 0 or id >= vocab) then
      return refuse(path, key, id, ("an id below %d, the rows of token_embd.weight"):format(vocab))
    elseif id and not seen[id] then
      list = list or {}
      list[#list + 1], seen[id] = id, true
    end
  end
  return list or false
end

-- Version 2 is the only one whose blocks are those of today; without quantised tensors it says nothing.
local function check_quantization(file)
  local version = file.metadata["general.quantization_version"]
  for _, t in ipairs(file.tensors) do
    if version ~= nil and version ~= 2 and not t.type:find "^B?F%d+$" then
      return refuse(file.path, "general.quantization_version", version,
        "2; write the file anew with a current llama.cpp")
    end
  end
  return true
end

-- ---- tensors ----

-- HF's name within a layer, llama.cpp's, and the sizes; what a model has none of is left out
local LAYER = {
  { "input_layernorm", "attn_norm", { "width" } },
  { "self_attn.q_proj", "attn_q", { "q", "width" }, "num_attention_heads" },
  { "self_attn.k_proj", "attn_k", { "kv", "width" }, "num_key_value_heads" },
  { "self_attn.v_proj", "attn_v", { "kv", "width" } },
  { "self_attn.q_norm", "attn_q_norm", { "head" } },
  { "self_attn.k_norm", "attn_k_norm", { "head" } },
  { "self_attn.o_proj", "attn_output", { "width", "q" } },
  { "post_attention_layernorm", "ffn_norm", { "width" } },
  { "mlp.gate_proj", "ffn_gate", { "ffn", "width" } },
  { "mlp.up_proj", "ffn_up", { "ffn", "width" } },
  { "mlp.down_proj", "ffn_down", { "width", "ffn" } },
}
-- the same of an encoder, whose norms stand behind its parts
local ENCODER_LAYER = {
  { "self_attn.q_proj", "attn_q", { "width", "width" } }, { "self_attn.k_proj", "attn_k", { "width", "width" } },
  { "self_attn.v_proj", "attn_v", { "width", "width" } }, { "self_attn.o_proj", "attn_output", { "width", "width" } },
  { "input_layernorm", "attn_output_norm", { "width" } }, { "mlp.up_proj", "ffn_up", { "ffn", "width" } },
  { "mlp.down_proj", "ffn_down", { "width", "ffn" } }, { "post_attention_layernorm", "layer_output_norm", { "width" } },
}
local PARTS = { ["self_attn.q_proj"] = 1, ["self_attn.k_proj"] = 2, ["self_attn.v_proj"] = 3 } -- of gpt2's attn_qkv

--- gguf_model.tensors(config, architecture) -> HF's name -> {name =, shape =, heads =, part =} of the tensor in the file of a model with this
-- configuration. heads above 0: its rows are in llama.cpp's order; part: the parameter is so many a third of its rows.
function gguf_model.tensors(config, architecture)
  local kind = ARCHITECTURES[architecture]
  local sizes = {
    width = config.hidden_size, q = config.num_attention_heads * config.head_dim,
    kv = (config.num_key_value_heads or config.num_attention_heads) * config.head_dim, head = config.head_dim,
    ffn = config.intermediate_size, vocab = config.vocab_size, positions = config.max_position_embeddings, types = config.type_vocab_size,
  }
  local layers, biased, out = config.norm == "layer", {}, {}
  for _, linear in ipairs(config.biases or {}) do
    biased[linear] = true
  end
  local function add(hf, name, shape, heads, part)
    local list = {}
    for i, size in ipairs(shape) do
      list[i] = sizes[size] * (part and i == 1 and 3 or 1)
    end
    local bias = biased[hf:match "[^.]*$"] or layers and hf:find "norm$"
    out[hf .. ".weight"] = { name = name .. ".weight", shape = list, heads = kind.halves and heads and config[heads] or 0, part = part }
    if bias then
      out[hf .. ".bias"] = { name = name .. ".bias", shape = { list[1] }, heads = 0, part = part }
    end
  end
  add("model.embed_tokens", "token_embd", { "vocab", "width" })
  if config.positions == "learned" then
    add("model.embed_positions", "position_embd", { "positions", "width" })
  end
  if kind.encoder then
    add("model.embed_norm", "token_embd_norm", { "width" })
  else
    add("model.norm", "output_norm", { "width" })
  end
  if (config.type_vocab_size or 0) > 0 then
    add("model.embed_types", "token_types", { "types", "width" })
  end
  if not config.tie_word_embeddings and not kind.encoder then
    add("lm_head", "output", { "vocab", "width" })
  end
  for l = 0, config.num_hidden_layers - 1 do
    for _, row in ipairs(kind.encoder and ENCODER_LAYER or LAYER) do
      local absent = row[1]:find "_norm$" and not config.qk_norm or row[1] == "mlp.gate_proj" and config.mlp == "plain"
      local part = kind.joined and PARTS[row[1]]
      if not absent then
        add(("model.layers.%d.%s"):format(l, row[1]), ("blk.%d.%s"):format(l, part and "attn_qkv" or row[2]), row[3], row[4], part)
      end
    end
  end
  return out
end

-- How many types of tokens an encoder has: the rows of their table, of which the key must say the same.
local function read_types(file, config)
  local table_of, key = file:info "token_types.weight", "tokenizer.ggml.token_type_count"
  local rows, count = table_of and table_of.shape[1] or 0, file.metadata[key]
  if count ~= nil and count ~= rows and not (rows == 0 and count == 1) then
    return refuse(file.path, key, count, ("%d, the rows of token_types.weight"):format(rows))
  end
  config.type_vocab_size = rows > 0 and rows or nil
  return true
end

local FACTORS = "rope_freqs.weight"

-- Divisors of the rotary frequencies: what Llama 3.1 does to them is in this tensor, and no key says so. Sets
-- config.rope_frequencies where they change anything.
local function read_factors(file, config)
  local path, half = file.path, config.head_dim // 2
  if not file:info(FACTORS) then
    return true
  end
  local t, message, code = file:tensor(FACTORS)
  if not t then
    return nil, message, code
  elseif t:numel() ~= half or t.ndim ~= 1 then
    return nil, ("%s: tensor '%s' is (%s), the model needs (%d)"):format(path, FACTORS, table.concat(t.shape, ","), half), "FORMAT"
  end
  local list, changes = t:totable(), false
  for i, divisor in ipairs(list) do
    if not (divisor > 0 and divisor < math.huge) then
      return nil, ("%s: tensor '%s' is %g at [%d], and divides a frequency; the file is damaged"):format(path, FACTORS, divisor, i), "FORMAT"
    end
    changes = changes or divisor ~= 1
    list[i] = config.rope_theta ^ (-2 * (i - 1) / config.head_dim) / divisor
  end
  config.rope_frequencies = changes and list or nil
  return true
end

-- The tensor that read_factors would read, or nil.
local function factors_of(config)
  local list = {}
  for i, frequency in ipairs(config.rope_frequencies or {}) do
    list[i] = config.rope_theta ^ (-2 * (i - 1) / config.head_dim) / frequency
  end
  return list[1] and tensor.new(list)
end

local function check_tensors(file, wanted, factors)
  local known = { [FACTORS] = factors or nil }
  for hf, w in pairs(wanted) do
    known[w.name] = hf
  end
  for _, t in ipairs(file.tensors) do
    local w = wanted[known[t.name]]
    if not known[t.name] then
      return nil, ("%s: tensor '%s' belongs to no layer of this model"):format(file.path, t.name), "FORMAT"
    elseif w and table.concat(t.shape, ",") ~= table.concat(w.shape, ",") then
      return nil, ("%s: tensor '%s' is (%s), the model needs (%s)"):format(file.path, t.name,
        table.concat(t.shape, ","), table.concat(w.shape, ",")), "FORMAT"
    end
  end
  local missing = {}
  for _, w in pairs(wanted) do
    if not file:info(w.name) then
      missing[#missing + 1] = w.name
    end
  end
  table.sort(missing)
  if #missing > 0 then
    return nil, ("%s: %d tensors are missing, the first is '%s'"):format(file.path, #missing, missing[1]), "FORMAT"
  end
  return true
end

-- ---- the whole file ----

--- gguf_model.read(file) -> {config =, all =, eos =} | fail. config: all keys of transformer.new; all: the same and
-- what config.json of Hugging Face would say besides; eos: list of the ids that end an answer, or nil where the file
-- does not say.
function gguf_model.read(file)
  local path, m = file.path, file.metadata
  local architecture = m["general.architecture"]
  local lists = gguf_keys.ARCHITECTURES[architecture]
  if m["general.type"] ~= nil and m["general.type"] ~= "model" then
    return refuse(path, "general.type", m["general.type"], "model; this file is not a whole one")
  elseif architecture == nil then
    return nil, path .. ": general.architecture is missing", "FORMAT"
  elseif not lists then
    return refuse(path, "general.architecture", architecture, gguf_model.architectures(true))
  end
  local all = gguf_model.described(file)
  local config = nil
  local ok, message, code = keys.check(path, all, lists)
  if ok then
    config, message, code = read_numbers(path, all, architecture)
  end
  if config then
    ok, message, code = read_head(path, all, architecture, config)
  end
  if not ok or not config then
    return nil, message, code
  end
  local embedding = file:info "token_embd.weight"
  if not embedding or #embedding.shape ~= 2 then
    local what = embedding and "has not two dimensions" or "is missing"
    return nil, ("%s: tensor 'token_embd.weight' %s"):format(path, what), "FORMAT"
  end
  config.vocab_size = embedding.shape[1]
  if ARCHITECTURES[architecture].encoder then
    ok, message, code = read_types(file, config)
    if not ok then
      return nil, message, code
    end
  else
    config.tie_word_embeddings = file:info "output.weight" == nil
  end
  local vocab = all[architecture .. ".vocab_size"]
  if vocab ~= nil and vocab ~= config.vocab_size then
    return refuse(path, architecture .. ".vocab_size", vocab,
      ("%d, the rows of token_embd.weight"):format(config.vocab_size))
  end
  if ARCHITECTURES[architecture].factors then
    ok, message, code = read_factors(file, config)
    if not ok then
      return nil, message, code
    end
  end
  local fits, why = pcall(core.check, config)
  if not fits then
    return nil, path .. ": " .. why, "FORMAT"
  end
  ok, message, code = check_quantization(file)
  local eos = nil
  if ok then
    eos, message, code = eos_ids(path, file, config.vocab_size)
    eos = eos and not ARCHITECTURES[architecture].encoder and eos -- an encoder gives no answers
  end
  if eos == nil then
    return nil, message, code
  end
  local out = { model_type = architecture, eos_token_id = eos and (#eos == 1 and eos[1] or eos) or nil,
    bos_token_id = m["tokenizer.ggml.bos_token_id"] }
  for key, value in pairs(config) do
    out[key] = value
  end
  return { config = config, all = out, eos = eos or nil }
end

--- gguf_model.names(path) -> boolean: whether a model at this path is a GGUF file and no directory: a file, or one by its
-- name that is not there.
function gguf_model.names(path)
  local kind = fs.exists(path)
  return kind == "file" or kind == nil and path:find "%.gguf$" ~= nil
end

--- gguf_model.describe(path) -> what gguf_model.read returns | fail, without the weights.
function gguf_model.describe(path)
  local file, message, code = gguf.open(path)
  if not file then
    return nil, message, code
  end
  local read
  read, message, code = gguf_model.read(file)
  file:close()
  return read, message, code
end

-- Values of a tensor whose memory goes back to the system once it has been copied: no other one will take its place.
local LARGE = 1 << 22

local function copy_weights(file, model, wanted, device)
  for _, pair in ipairs(model:named_parameters()) do
    local w = wanted[pair[1]]
    local t, message, code = file:tensor(w.name, { device = device, heads = w.heads })
    local ok = t
    if ok then
      ok, message, code = finite.tensors({ [w.name] = t }, file.path)
      message = message and message .. "; the file is damaged, or comes from a training that diverged"
    end
    if not ok then
      return nil, message, code
    end
    local from = w.part and t:narrow(1, (w.part - 1) * pair[2].shape[1] + 1, pair[2].shape[1]) or t
    tensor.no_grad(pair[2].copy_, pair[2], from)
    local is_large = t:numel() >= LARGE
    t:release()
    if is_large then
      tensor.flush()
    end
  end
  return true
end

--- gguf_model.load(path, {device=, dtype=}) -> model, read | fail, read as of gguf_model.read. All that is wrong with
-- metadata and shapes is told before the model is made.
function gguf_model.load(path, opts)
  local file, message, code = gguf.open(path)
  if not file then
    return nil, message, code
  end
  local read, model, ok = nil, nil, nil
  read, message, code = gguf_model.read(file)
  if read then
    local wanted = gguf_model.tensors(read.config, read.all.model_type)
    ok, message, code = check_tensors(file, wanted, ARCHITECTURES[read.all.model_type].factors)
    local fits, why = pcall(core.check, read.config, opts.dtype)
    if ok and not fits then
      ok, message, code = nil, path .. ": " .. why, "FORMAT"
    end
    if ok then
      model = core.new(read.config, { device = opts.device, dtype = opts.dtype, init = false })
      ok, message, code = copy_weights(file, model, wanted, opts.device)
    end
  end
  file:close()
  if not ok then
    return nil, message, code
  end
  return model, read
end

-- ---- saving ----

--- The types that matrices are written in, with llama.cpp's numbers of whole files.
gguf_model.FILE_TYPES = { F32 = 0, F16 = 1, Q8_0 = 7, BF16 = 32 }

local function metadata_of(model, architecture, kind, eos, more)
  local c = model:config()
  local list = {
    { "general.architecture", "string", architecture }, { "general.type", "string", "model" },
    { "general.alignment", "u32", 32 },
    { "general.file_type", "u32", gguf_model.FILE_TYPES[kind] }, { "general.quantization_version", "u32", 2 },
    { architecture .. ".vocab_size", "u32", c.vocab_size },
  }
  for _, name in ipairs(c.positions == "learned" and {} or { "rope.dimension_count", "attention.key_length", "attention.value_length" }) do
    list[#list + 1] = { architecture .. "." .. name, "u32", c.head_dim }
  end
  for _, rows in ipairs { NUMBERS, ARCHITECTURES[architecture].numbers } do
    for _, row in ipairs(rows) do
      list[#list + 1] = { architecture .. "." .. row[1], row[3] == "float" and "f32" or "u32", c[row[2]] }
    end
  end
  local given = {}
  for _, key in ipairs(more) do
    given[key[1]] = true
    list[#list + 1] = key
  end
  if not given["tokenizer.ggml.model"] then
    list[#list + 1] = { "tokenizer.ggml.model", "string", "none" }
  end
  for i, name in ipairs { "eos_token_id", "eot_token_id", "eom_token_id" } do
    if eos and eos[i] and not given["tokenizer.ggml." .. name] then
      list[#list + 1] = { "tokenizer.ggml." .. name, "u32", eos[i] }
    end
  end
  return list
end

--- gguf_model.fits(t, name, kind, path) -> true | fail: whether the type holds the values of a tensor. The largest f16 is
-- 65504, and what is at least half a step above becomes an infinity; Q8_0 has blocks of 32 in a row.
function gguf_model.fits(t, name, kind, path)
  if kind == "Q8_0" and t.shape[t.ndim] % 32 ~= 0 then
    return nil, ("%s: tensor '%s' has rows of %d values, and Q8_0 needs a multiple of 32; use type = \"F16\""):format(path,
      name, t.shape[t.ndim]), "FORMAT"
  elseif kind ~= "F16" then
    return true
  end
  local most = tensor.no_grad(function() return t:to("f32"):abs():max():item() end)
  if most >= 65520 then
    return nil, ("%s: tensor '%s' has the value %g, which f16 does not hold; use type = \"BF16\""):format(path, name,
      most), "FORMAT"
  end
  return true
end

--- gguf_model.save(model, path, {type="F32", eos=, metadata=}) -> true | fail. type: of matrices; vectors stay F32.
-- eos: ids that end an answer; metadata: further keys, as in gguf.save.
function gguf_model.save(model, path, opts)
  local kind, list = opts.type or "F32", {}
  if not gguf_model.FILE_TYPES[kind] then
    error(("save: type '%s' is not one of F32, F16, BF16, Q8_0"):format(tostring(kind)), 3)
  elseif #model:adapters() > 0 then
    error("save: the model has an adapter, which the file would not hold; model:merge_lora() puts it into the weights, and "
      .. "lora.save_gguf writes it as a file of its own",
      3)
  elseif opts.eos and #opts.eos > 3 then
    return nil, ("%s: %d ids end an answer, and the metadata names at most 3"):format(path, #opts.eos), "FORMAT"
  end
  local architecture = gguf_model.architecture(model:config())
  if not architecture then
    return nil, ("%s: no architecture of llama.cpp's that mocl writes has this specification (%s)"):format(path,
      gguf_model.architectures()), "FORMAT"
  end
  local named, wanted, parts = model:named_parameters(), gguf_model.tensors(model:config(), architecture), {}
  local ok, message, code = finite.tensors(named, path)
  if not ok then
    return nil, message, code
  end
  for _, pair in ipairs(named) do
    local w, t = wanted[pair[1]], pair[2]
    if w.part then -- q, k and v are one tensor
      parts[w.name] = parts[w.name] or {}
      parts[w.name][w.part] = t
      t = #parts[w.name] == 3 and tensor.no_grad(tensor.cat, parts[w.name], 1) or nil
    end
    if t then
      local one = { name = w.name, tensor = t, type = t.ndim > 1 and w.name ~= "position_embd.weight" and kind or "F32", heads = w.heads }
      list[#list + 1] = one
      ok, message, code = gguf_model.fits(t, w.name, one.type, path)
    end
    if not ok then
      return nil, message, code
    end
  end
  local factors = factors_of(model:config())
  if factors then
    list[#list + 1] = { name = FACTORS, tensor = factors }
  end
  return gguf.save(path, { metadata = metadata_of(model, architecture, kind, opts.eos, opts.metadata or {}), tensors = list })
end

return gguf_model
