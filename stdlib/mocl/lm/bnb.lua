--- mocl.lm.bnb: weights that bitsandbytes quantised, as transformers saves them: what quantization_config of config.json asks for, and
-- the tensors beside a weight from which its numbers are made. What the format itself is: kernels/kernels.h.

local core = require "mocl.transformer.core"
local json = require "mocl.json"
local keys = require "mocl.keys"
local sorted_keys = require "mocl.options".sorted_keys
local tensor = require "mocl.tensor"

local bnb = {}

local OWN_PRODUCT = "of bitsandbytes' own product, which rounds activations; here numbers are those the codes stand for"

--- The keys inside quantization_config.
bnb.KEYS = {
  honoured = { "quant_method", "load_in_4bit", "load_in_8bit", "_load_in_4bit", "_load_in_8bit", "bnb_4bit_quant_type",
    "llm_int8_skip_modules" },
  neutral = { bnb_4bit_quant_storage = { "uint8" }, llm_int8_has_fp16_weight = { false } },
  without_effect = {
    bnb_4bit_compute_dtype = "the option dtype says in what mocl computes", llm_int8_threshold = OWN_PRODUCT,
    bnb_4bit_use_double_quant = "the tensors of each weight say so", llm_int8_enable_fp32_cpu_offload = "where transformers keeps what",
  },
}

local STATE = { honoured = { "quant_type", "blocksize", "dtype", "shape", "nested_offset" },
  neutral = { nested_blocksize = { 256 }, nested_dtype = { "float32" } } }
local DTYPES = { float32 = "f32", bfloat16 = "bf16", float16 = "f16" }
local BLOCKS = { [32] = true, [64] = true, [128] = true, [256] = true, [512] = true, [1024] = true, [2048] = true, [4096] = true }

--- bnb.config(path, all) -> {format = "int8", "nf4" or "fp4", skip = list or nil}, or false where config.json (`all`) has no
-- quantization_config | fail. skip: names of modules that are not quantised.
function bnb.config(path, all)
  local q, prefix = all.quantization_config, "quantization_config."
  if not keys.given(q) then
    return false
  elseif type(q) ~= "table" then
    return keys.refuse(path, "quantization_config", q, "an object")
  elseif q.quant_method ~= "bitsandbytes" then
    return keys.refuse(path, prefix .. "quant_method", q.quant_method, "bitsandbytes")
  end
  local ok, message, code = keys.check(path, q, bnb.KEYS, prefix)
  if not ok then
    return nil, message, code
  end
  local four, eight = q.load_in_4bit or q._load_in_4bit, q.load_in_8bit or q._load_in_8bit
  if (four == true) == (eight == true) then
    return keys.refuse(path, prefix .. "load_in_4bit", q.load_in_4bit, "one of load_in_4bit and load_in_8bit is true")
  end
  local kind = q.bnb_4bit_quant_type
  if four == true and kind ~= "nf4" and kind ~= "fp4" then
    return keys.refuse(path, prefix .. "bnb_4bit_quant_type", kind, "nf4, fp4")
  end
  local skip = q.llm_int8_skip_modules
  if not keys.given(skip) then
    skip = nil
  elseif type(skip) ~= "table" then
    return keys.refuse(path, prefix .. "llm_int8_skip_modules", skip, "a list of names")
  end
  for _, name in pairs(skip or {}) do
    if type(name) ~= "string" or not name:find "^[%w_.]+$" then
      return keys.refuse(path, prefix .. "llm_int8_skip_modules", name, "names of modules; regular expressions are not read")
    end
  end
  return { format = eight == true and "int8" or kind, skip = skip }
end

--- Whether a module of this name is left as it is: it begins with an entry, up to a dot, or ends with one.
function bnb.is_skipped(config, module)
  for _, key in pairs(config.skip or {}) do
    local rest = module:sub(1, #key) == key and module:sub(#key + 1)
    if rest == "" or rest and (rest:find "^%." or key:find "%.$") or module:sub(-#key) == key then
      return true
    end
  end
  return false
end

-- The sixteen numbers of a format, which a file repeats.
local function table_of(kind)
  local codes = {}
  for i = 0, 7 do
    codes[i + 1] = 34 * i + 1
  end
  return core.dequantize(kind, 1, 16, { weight = tensor.new(codes, { dtype = "u8" }):reshape(-1, 1), absmax = tensor.ones { 1 } })
end

local function same(a, b)
  return table.concat(a.shape, ",") == table.concat(b.shape, ",") and a.dtype == b.dtype
    and tensor.no_grad(function() return (a:to "cpu" - b):abs():max():item() end) == 0
end

--- bnb.is_format(format, asked) -> boolean: whether a directory of `format` can be loaded as `asked`. Codes of int8 are those of w8a8 too.
function bnb.is_format(format, asked)
  return asked == format or format == "int8" and asked == "w8a8"
end

-- A weight of int8 beside whose tensor lie these, by the last part of their names.
local function eight_bits(where, name, weight, beside)
  local row = beside.weight_format
  if row and (row:numel() ~= 1 or row:flatten():totable()[1] ~= 0) then
    return nil, ("%s: tensor '%s_format' is not 0, the order of rows"):format(where, name), "FORMAT"
  end
  if weight.ndim ~= 2 then
    return nil, ("%s: tensor '%s' is (%s), not a matrix"):format(where, name, table.concat(weight.shape, ",")), "FORMAT"
  end
  return { format = "int8", shape = weight.shape, parts = { weight = weight, SCB = beside.SCB }, options = {} }
end

-- The object of a quant_state, checked.
local function read_state(where, name, t, kind)
  local bytes = t.dtype == "u8" and t.ndim == 1 and t:numel() <= 4096 and t:to("cpu"):totable()
  local state = bytes and json.decode(string.char(table.unpack(bytes)))
  local path = ("%s: tensor '%s'"):format(where, name)
  if type(state) ~= "table" then
    return nil, path .. ": no JSON object", "FORMAT"
  end
  local ok, message, code = keys.check(path, state, STATE)
  if not ok then
    return nil, message, code
  elseif state.quant_type ~= kind then
    return keys.refuse(path, "quant_type", state.quant_type, kind)
  elseif not BLOCKS[state.blocksize] or math.type(state.blocksize) ~= "integer" then
    return keys.refuse(path, "blocksize", state.blocksize, "a power of two, 32 .. 4096")
  elseif not DTYPES[state.dtype] then
    return keys.refuse(path, "dtype", state.dtype, "float32, bfloat16, float16")
  end
  local shape = state.shape
  if type(shape) ~= "table" or #shape ~= 2 or math.type(shape[1]) ~= "integer" or math.type(shape[2]) ~= "integer" or shape[1] < 1
    or shape[2] < 1 or shape[1] > 1 << 30 or shape[2] > 1 << 30 then
    return keys.refuse(path, "shape", shape, "[out, in]")
  end
  return state
end

-- A weight of four bits.
local function four_bits(where, name, weight, beside, kind)
  local state, message, code = read_state(where, ("%s.quant_state.bitsandbytes__%s"):format(name, kind), beside.state, kind)
  if not state then
    return nil, message, code
  end
  local function fault(part, text)
    return nil, ("%s: tensor '%s%s' %s"):format(where, name, part, text), "FORMAT"
  end
  local n = state.shape[1] * state.shape[2]
  local absmax, blocks = beside.absmax, (n + state.blocksize - 1) // state.blocksize
  local nested = beside.nested_absmax ~= nil
  if weight.ndim ~= 2 or weight.shape[1] ~= (n + 1) // 2 or weight.shape[2] ~= 1 then
    return fault("", ("is (%s), %d x %d numbers of four bits need (%d,1)"):format(table.concat(weight.shape, ","), state.shape[1],
      state.shape[2], (n + 1) // 2))
  elseif not absmax then
    return fault(".absmax", "is missing")
  elseif absmax.dtype ~= (nested and "u8" or "f32") or absmax.ndim ~= 1 or absmax.shape[1] ~= blocks then
    return fault(".absmax", ("is %s (%s), %s (%d) is needed; bitsandbytes writes bf16 in another order after an inference on the cpu, and "
      .. "what it wrote is another model: quantise the original again, and save before anything is generated"):format(absmax.dtype,
      table.concat(absmax.shape, ","), nested and "u8" or "f32", blocks))
  elseif beside.quant_map and not same(beside.quant_map, table_of(kind):flatten()) then
    return fault(".quant_map", "is not the table of " .. kind)
  elseif nested ~= (state.nested_offset ~= nil) or nested ~= (beside.nested_quant_map ~= nil) then
    return fault(".nested_absmax", "goes with nested_quant_map and nested_offset of quant_state")
  end
  if nested and (type(state.nested_offset) ~= "number" or state.nested_offset ~= state.nested_offset
    or math.abs(state.nested_offset) > 3e38) then
    return fault(".quant_state.bitsandbytes__" .. kind, "has nested_offset = " .. keys.show(state.nested_offset))
  end
  return { format = kind, shape = state.shape, options = { blocksize = state.blocksize, dtype = DTYPES[state.dtype] }, parts = {
    weight = weight, absmax = absmax, nested_absmax = beside.nested_absmax, nested_quant_map = beside.nested_quant_map,
    nested_offset = nested and tensor.new { state.nested_offset } or nil } }
end

--- bnb.collect(config, tensors, where) -> name of a weight -> {format, shape, parts, options}, tensors | fail: the quantised weights among a
-- file's tensors, and the tensors without what lies beside them. parts, options: as model:set_parts takes them.
function bnb.collect(config, tensors, where)
  local beside, rest, found = {}, {}, {}
  for name, t in pairs(tensors) do
    local weight, part = name:match "^(.*%.weight)%.(.*)$"
    if not weight and (name:find "%.SCB$" or name:find "%.weight_format$") then
      weight, part = name:gsub("%.[^.]*$", ".weight"), name:match "[^.]*$"
    end
    if weight and tensors[weight] then
      beside[weight] = beside[weight] or {}
      beside[weight][part] = t
    else
      rest[name] = t
    end
  end
  for _, name in ipairs(sorted_keys(beside)) do
    local parts, group, message, code = beside[name], nil, nil, nil
    local known = config.format == "int8" and { SCB = true, weight_format = true }
      or { absmax = true, quant_map = true, nested_absmax = true, nested_quant_map = true, ["quant_state.bitsandbytes__" .. config.format] = true }
    for part in pairs(parts) do
      if not known[part] then
        return nil, ("%s: tensor '%s' belongs to no weight of %s"):format(where,
          part:find "^SCB$" and name:gsub("weight$", "SCB") or name .. "." .. part, config.format), "FORMAT"
      end
    end
    if config.format == "int8" then
      group, message, code = eight_bits(where, name, rest[name], parts)
    else
      parts.state = parts["quant_state.bitsandbytes__" .. config.format]
      if not parts.state then
        return nil, ("%s: tensor '%s.quant_state.bitsandbytes__%s' is missing"):format(where, name, config.format), "FORMAT"
      end
      group, message, code = four_bits(where, name, rest[name], parts, config.format)
    end
    if not group then
      return nil, message, code
    end
    group.ndim, found[name] = 2, group
  end
  return found, rest
end

return bnb
