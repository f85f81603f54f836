--- mocl.lm.memory_plan: what a run will hold on its device, said before the first step, so that a size that cannot
-- fit is seen at once and not after an hour.
--
-- Counted from shapes: weights, what is trained (with gradients and Adam's moments), the rollout's cache, and what one
-- update keeps for its backward pass. Numbers are f32; in a bf16 model weights, cache and kept activations take half.
-- Kernels' scratch memory and the driver's own come on top.

local plan = {}

local F32, BF16 = 4, 2
local HEAD_ROWS, KEPT = 256, 32 << 20 -- rows of logits made at a time, and logits that wait for backward (runtime/ops_lm.c)

-- Bytes of a block's linear layers in a quantised format: numbers of the matrices and their rows (docs/transformer.md).
local function quantized_bytes(format, numbers, rows, matrices)
  if format == "int8" or format == "w8a8" then
    return numbers + rows * F32
  end
  return numbers / 2 + numbers / 64 + numbers / (64 * 256) * F32 + matrices * (256 + 1) * F32
end

--- memory_plan.of{config=, dtype="f32", quantization=nil, trained=, rank=, rows=, prompt=, answer=, microbatch=0,
-- gradient_checkpointing=false} -> list of {what, bytes}, total in bytes.
-- config as model:config() gives it, quantization as model:quantization(); trained: numbers in the adapter and the value heads; rank of the adapter; rows, prompt,
-- answer: answers of a batch and the most tokens of each part; the last two as mocl.train.lm_actor takes them.
function plan.of(o)
  local c = o.config
  local D, L, V, F = c.hidden_size, c.num_hidden_layers, c.vocab_size, c.intermediate_size
  local H, G = c.num_attention_heads, c.num_key_value_heads or c.num_attention_heads
  local K = c.head_dim or D // H
  local T = o.rows * (o.prompt + o.answer)
  local block = D * H * K * 2 + D * G * K * 2 + (c.mlp == "plain" and 2 or 3) * D * F
  local matrices = c.mlp == "plain" and 6 or 7
  local ends, norms = V * D * (c.tie_word_embeddings and 1 or 2), (2 * L + 1) * D
  local size = o.dtype == "bf16" and BF16 or F32 -- of a weight or an activation
  local linear = o.quantization and quantized_bytes(o.quantization, block, (H + 2 * G) * K + 2 * D + (matrices - 5) * F, matrices)
    or block * size
  -- of a block: its input and the sum after attention with their norms, q, k, v, the attention and its sums,
  -- gate, up and their product, seven products with the adapter's A
  local kept = 4 * D + 2 * H * K + 2 * G * K + 3 * F + 7 * (o.rank or 0)
  local answers = o.rows * o.answer
  local made = math.min(HEAD_ROWS, answers)
  -- a part of the batch, or one block of it, has its activations at a time; then no logits wait for backward, and head and blocks are
  -- not at work together
  local some = o.microbatch and o.microbatch > 0 and math.min(o.microbatch, o.rows) or nil
  local states = (some or o.gradient_checkpointing) and 6 or 4 -- matrices [answers, D] behind the last block
  local parts, tokens, layers = some or o.gradient_checkpointing, T, o.gradient_checkpointing and 1 or L
  if some then
    tokens = some * (o.prompt + o.answer)
  end
  -- with parts: the sums over rows that are still open, two for each number of the adapter
  local open = some and 2 * o.trained * F32 or 0
  -- of the policy and of the reference, and gradients
  local head = 2 * (answers * V <= KEPT and not parts and answers or made) + made
  -- for all tokens: states in front of the first adapter with their q, k and v, and with checkpointing the streams between blocks
  local waiting = parts and T * (D + H * K + 2 * G * K + (o.gradient_checkpointing and (L - 1) * D or 0)) * size or 0
  local list = {
    { "weights of the model", ends * size + L * linear + norms * F32 },
    { "adapter and value heads, gradients, moments", 4 * o.trained * F32 },
    { "cache of the rollout", 2 * L * o.rows * (o.prompt + o.answer) * G * K * size },
    -- gradients are f32 always; a bf16 model rounds copies of the adapter and of a gradient for its products
    { "activations of one update", waiting + open + tokens * layers * (kept * size + H * F32) + (tokens * 2 * F + answers * states * D) * F32
      + (size == BF16 and (o.trained + tokens * F) * BF16 or 0) },
    { "logits of the head", head * V * F32 },
  }
  -- the cache is given back before the update begins
  local update = parts and math.max(list[4][2], waiting + answers * states * D * F32 + list[5][2]) or list[4][2] + list[5][2]
  local total = list[1][2] + list[2][2] + math.max(list[3][2], update)
  return list, total
end

local function show(bytes)
  local unit = bytes >= 2 ^ 30 and { 2 ^ 30, "GiB" } or { 2 ^ 20, "MiB" }
  return ("%.1f %s"):format(bytes / unit[1], unit[2])
end

--- memory_plan.available(path) -> bytes that processes may still take, as Linux says (MemAvailable of /proc/meminfo, or of another
-- file); nil where nothing says it.
function plan.available(path)
  local file = io.open(path or "/proc/meminfo", "r")
  local text = file and file:read "a" or ""
  if file then
    file:close()
  end
  local kib = math.tointeger(tonumber(("\n" .. text):match "\nMemAvailable:%s*(%d+) kB"))
  return kib and kib * 1024
end

--- memory_plan.refuse(list, total, room): raises, for a user, where a plan needs more than `room` bytes (nil: not known); with the plan.
function plan.refuse(list, total, room)
  if room and total > room then
    error(("%s\nand only %s are free: lower ppo.batch_size or ppo.max_new_tokens, or leave out long prompts (hh.prompt_chars)"):format(
      plan.text(list, total), show(room)), 0)
  end
end

--- memory_plan.text(list, total) -> one line of words.
function plan.text(list, total)
  local parts = {}
  for i, row in ipairs(list) do
    parts[i] = ("%s %s"):format(row[1], show(row[2]))
  end
  return ("memory: about %s at most (%s)"):format(show(total), table.concat(parts, ", "))
end

return plan
