--- gguf_file: GGUF files as bytes, for tests: any mistake that a file can have can be written.

local gguf_file = {}

local IDS = { u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6, bool = 7, string = 8, array = 9, u64 = 10,
  i64 = 11, f64 = 12 }
local PACK = { u8 = "<I1", i8 = "<i1", u16 = "<I2", i16 = "<i2", u32 = "<I4", i32 = "<i4", f32 = "<f", u64 = "<I8",
  i64 = "<i8",
  f64 = "<d", string = "<s8" }

--- Ids of the types of tensors, and bytes of a block and values in it.
gguf_file.TYPES = { F32 = { 0, 4, 1 }, F16 = { 1, 2, 1 }, Q4_0 = { 2, 18, 32 }, Q8_0 = { 8, 34, 32 },
  IQ2_XXS = { 16, 66, 256 },
  I8 = { 24, 1, 1 }, I16 = { 25, 2, 1 }, I32 = { 26, 4, 1 }, I64 = { 27, 8, 1 }, F64 = { 28, 8, 1 },
    BF16 = { 30, 2, 1 } }

--- The bytes of a value: type "u32", or "[u32]" for an array of such.
function gguf_file.value(kind, v)
  local element = kind:match "^%[(.*)%]$"
  if element then
    local parts = { string.pack("<I4I8", IDS[element:match "^%[" and "array" or element], #v) }
    for i, x in ipairs(v) do
      parts[i + 1] = gguf_file.value(element, x)
    end
    return table.concat(parts)
  elseif kind == "bool" then
    return v and "\1" or "\0"
  end
  return string.pack(PACK[kind], v)
end

--- A key: name, type, value.
function gguf_file.key(name, kind, v)
  return string.pack("<s8I4", name, IDS[kind:match "^%[" and "array" or kind]) .. gguf_file.value(kind, v)
end

--- A description of a tensor: name, sizes (outermost first), type by name or id, offset in the data.
function gguf_file.tensor(name, shape, kind, offset)
  local parts = { string.pack("<s8I4", name, #shape) }
  for i = #shape, 1, -1 do
    parts[#parts + 1] = string.pack("<I8", shape[i])
  end
  local id = type(kind) == "number" and kind or gguf_file.TYPES[kind][1]
  return table.concat(parts) .. string.pack("<I4I8", id, offset)
end

--- The bytes of a file: keys and tensors as lists of their bytes, then the data on the alignment (32 if nil).
-- head: version, number of tensors, number of keys, where they are to be other ones.
function gguf_file.raw(keys, tensors, data, alignment, head)
  head = head or {}
  local text = "GGUF" .. string.pack("<I4I8I8", head[1] or 3, head[2] or #tensors, head[3] or #keys)
    .. table.concat(keys)
    .. table.concat(tensors)
  return data and text .. ("\0"):rep(-#text % (alignment or 32)) .. data or text
end

--- f32 values as bytes
function gguf_file.floats(list)
  local parts = {}
  for i, v in ipairs(list) do
    parts[i] = string.pack("<f", v)
  end
  return table.concat(parts)
end

--- The bytes of a file: keys a list of {name, type, value}, tensors a list of {name, shape, type, bytes}.
function gguf_file.bytes(keys, tensors)
  local k, t, data, at = {}, {}, {}, 0
  for i, key in ipairs(keys) do
    k[i] = gguf_file.key(table.unpack(key, 1, 3))
  end
  for i, x in ipairs(tensors or {}) do
    t[i] = gguf_file.tensor(x[1], x[2], x[3], at)
    data[i] = x[4] .. ("\0"):rep(-#x[4] % 32)
    at = at + #data[i]
  end
  return gguf_file.raw(k, t, tensors and table.concat(data))
end

local LAYER = { ["input_layernorm"] = "attn_norm", ["self_attn.q_proj"] = "attn_q", ["self_attn.k_proj"] = "attn_k",
  ["self_attn.v_proj"] = "attn_v", ["self_attn.o_proj"] = "attn_output", ["post_attention_layernorm"] = "ffn_norm",
  ["mlp.gate_proj"] = "ffn_gate", ["mlp.up_proj"] = "ffn_up", ["mlp.down_proj"] = "ffn_down" }
local TOP = { ["model.embed_tokens"] = "token_embd", ["model.norm"] = "output_norm", ["lm_head"] = "output" }

-- Rows of heads as llama.cpp has them: the halves of a head alternate.
local function interleaved(rows, heads)
  local size, out = #rows // heads, {}
  for h = 0, heads - 1 do
    for i = 0, size // 2 - 1 do
      out[#out + 1] = rows[h * size + i + 1]
      out[#out + 1] = rows[h * size + size // 2 + i + 1]
    end
  end
  return out
end

--- Keys and tensors, lists as for bytes(), of a model of mocl.lm.model as llama.cpp would have it, in f32.
function gguf_file.model(model)
  local c, tensors = model:config(), {}
  for _, pair in ipairs(model:named_parameters()) do
    local module, values = pair[1]:match "^(.*)%.weight$", pair[2]:totable()
    local layer, rest = module:match "^model%.layers%.(%d+)%.(.*)$"
    local name = layer and ("blk.%s.%s"):format(layer, LAYER[rest]) or TOP[module]
    if name:find "attn_[qk]$" then
      values = interleaved(values, name:find "q$" and c.num_attention_heads or c.num_key_value_heads)
    end
    for i, row in ipairs(values) do
      values[i] = type(row) == "table" and gguf_file.floats(row) or string.pack("<f", row)
    end
    tensors[#tensors + 1] = { name .. ".weight", pair[2].shape, "F32", table.concat(values) }
  end
  local keys = {
    { "general.architecture", "string", "llama" }, { "llama.context_length", "u32", c.max_position_embeddings },
    { "llama.embedding_length", "u32", c.hidden_size }, { "llama.block_count", "u32", c.num_hidden_layers },
    { "llama.feed_forward_length", "u32", c.intermediate_size }, { "llama.attention.head_count", "u32",
      c.num_attention_heads },
    { "llama.attention.head_count_kv", "u32", c.num_key_value_heads },
      { "llama.rope.dimension_count", "u32", c.head_dim },
    { "llama.attention.key_length", "u32", c.head_dim }, { "llama.attention.value_length", "u32", c.head_dim },
    { "llama.attention.layer_norm_rms_epsilon", "f32", c.rms_norm_eps },
      { "llama.rope.freq_base", "f32", c.rope_theta },
    { "llama.vocab_size", "u32", c.vocab_size },
  }
  return keys, tensors
end

--- Sets a key of such a list, or takes it out where kind is nil.
function gguf_file.set(keys, name, kind, value)
  for i, key in ipairs(keys) do
    if key[1] == name then
      table.remove(keys, i)
      break
    end
  end
  if kind then
    keys[#keys + 1] = { name, kind, value }
  end
end

return gguf_file
