--- random_model.lua DIR SHAPE [dtype=bf16] - writes a Llama of random weights as a sharded directory, one shard for each block, so that
-- no more than a block stands in memory. Matrices of one shape are the same in all blocks. SHAPE: tiny, 1.1B (TinyLlama's) 7B (Llama 2's), or
-- SmolLM2 (the 135M one's, whose head is its embedding).

local fs = require "mocl.fs"
local json = require "mocl.json"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

local SHAPES = {
  tiny = { 256, 64, 192, 2, 4, 2 },
  ["1.1B"] = { 32000, 2048, 5632, 22, 32, 4 },
  ["7B"] = { 32000, 4096, 11008, 32, 32, 32 },
  SmolLM2 = { 49152, 576, 1536, 30, 9, 3, true },
}

local dir, shape, dtype = arg[1], SHAPES[arg[2]], (arg[3] or "dtype=bf16"):match "^dtype=(.*)$"
if not shape or not dtype then
  io.stderr:write "random_model.lua DIR tiny|1.1B|7B|SmolLM2 [dtype=bf16]\n"
  os.exit(2)
end
local V, D, F, L, H, G, tied = table.unpack(shape)
local K = D // H
assert(fs.mkdir(dir))

local map, shards, drawn = {}, 0, {}

-- a matrix of this size; or a vector of ones
local function numbers(rows, columns)
  local key = rows * 65536 + (columns or 0)
  drawn[key] = drawn[key] or (columns and tensor.randn({ rows, columns }, { key = key, std = 1 / (3 * columns) ^ .5 })
    or tensor.ones { rows }):to(dtype)
  return drawn[key]
end

local function write(list)
  local tensors, file = {}, ("model-%05d.safetensors"):format(shards)
  shards = shards + 1
  for _, row in ipairs(list) do
    tensors[row[1]], map[row[1]] = numbers(row[2], row[3]), file
  end
  assert(safetensors.save(dir .. "/" .. file, tensors, { format = "pt" }))
end

write { { "model.embed_tokens.weight", V, D }, { "model.norm.weight", D }, not tied and { "lm_head.weight", V, D } or nil }
for l = 0, L - 1 do
  local p = ("model.layers.%d."):format(l)
  write {
    { p .. "self_attn.q_proj.weight", H * K, D }, { p .. "self_attn.k_proj.weight", G * K, D }, { p .. "self_attn.v_proj.weight", G * K, D },
    { p .. "self_attn.o_proj.weight", D, H * K }, { p .. "mlp.gate_proj.weight", F, D }, { p .. "mlp.up_proj.weight", F, D },
    { p .. "mlp.down_proj.weight", D, F }, { p .. "input_layernorm.weight", D }, { p .. "post_attention_layernorm.weight", D },
  }
end
assert(fs.write(dir .. "/model.safetensors.index.json", json.encode { metadata = {}, weight_map = map }))
assert(fs.write(dir .. "/config.json", json.encode({
  architectures = { "LlamaForCausalLM" }, model_type = "llama", vocab_size = V, hidden_size = D, intermediate_size = F,
  num_hidden_layers = L, num_attention_heads = H, num_key_value_heads = G, head_dim = K, max_position_embeddings = 2048,
  rms_norm_eps = 1e-5, rope_theta = 10000.0, tie_word_embeddings = tied or false, hidden_act = "silu", torch_dtype = dtype == "bf16" and "bfloat16"
    or "float32", eos_token_id = json.null,
}, { indent = 2 })))
