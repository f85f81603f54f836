--- bench.lua device=cuda:0 shape=tiny|smollm2|1b|7b dtype=f32|bf16 out=FILE - times the parts of a MOC iteration with random weights and
-- writes one JSON. run.sh calls it; seconds are medians, rates are derived here and nowhere else.
--
-- The shapes are Llama's. dtype is that of weights and activations, as transformer.new takes it.

local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local minnorm = require "mocl.minnorm"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local ppo = require "mocl.method.ppo"
local segments = require "mocl.segments"
local value_heads = require "mocl.train.value_heads"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local o = dofile((arg[0]:gsub("[^/]*$", "arguments.lua"))) { device = "cuda:0", shape = "tiny", dtype = "f32", out = "bench.json" }

-- prompt, answer: tokens of each in decode and in the iteration, of answers rows; update: { rows, prompt, answer } each
-- (of the 7B shape 16,384 tokens, at sequences of 256 and of 512); copy, matrix: sizes of the two yardsticks; tokens: rows
-- of the kernels that are bound by memory
local SHAPES = {
  tiny = { config = { vocab_size = 96, hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 48,
    max_position_embeddings = 64 }, prompt = 6, answer = 5, decode = { 2, 1 }, answers = 2, update = { { 2, 6, 5 }, { 1, 8, 8 } },
    rank = 8, copy = 1 << 14, matrix = 96, tokens = 16, repeats = 2 },
  smollm2 = { config = { vocab_size = 49152, hidden_size = 576, num_hidden_layers = 30, num_attention_heads = 9,
    num_key_value_heads = 3, intermediate_size = 1536, max_position_embeddings = 8192, rope_theta = 100000.0,
    tie_word_embeddings = true }, prompt = 64, answer = 48, decode = { 64, 16, 1 }, answers = 32, update = { { 16, 64, 48 } },
    rank = 16, copy = 1 << 28, matrix = 8192, tokens = 16384, repeats = 3 },
  ["1b"] = { config = { vocab_size = 32000, hidden_size = 2048, num_hidden_layers = 22, num_attention_heads = 32,
    num_key_value_heads = 4, intermediate_size = 5632, max_position_embeddings = 2048 }, prompt = 128, answer = 64,
    decode = { 64, 8, 1 }, answers = 8, update = { { 8, 128, 64 } }, rank = 64, copy = 1 << 28, matrix = 8192, tokens = 16384,
    repeats = 3 },
  ["7b"] = { config = { vocab_size = 32000, hidden_size = 4096, num_hidden_layers = 32, num_attention_heads = 32,
    intermediate_size = 11008, max_position_embeddings = 2048 }, prompt = 128, answer = 128, decode = { 64, 1 }, answers = 64,
    update = { { 64, 128, 128 }, { 32, 256, 256 } }, rank = 64, copy = 1 << 28, matrix = 8192, tokens = 16384, repeats = 1 },
}
local shape = assert(SHAPES[o.shape], "shape: tiny, smollm2, 1b or 7b")

-- median seconds of f() over the repeats, after one that is not counted; f ends by reading a number, which waits
local function seconds(f, repeats)
  f()
  local t = {}
  for i = 1, repeats or shape.repeats do
    local start = sys.now()
    f()
    t[i] = sys.now() - start
  end
  table.sort(t)
  return t[(#t + 1) // 2]
end

local size = o.dtype == "bf16" and 2 or 4 -- bytes of a weight
local result = { shape = o.shape, device = o.device, env = sys.env(), dtype = o.dtype }
local function note(key, values) -- writes all there is: what comes before a step that is cut off is kept
  result[key] = values
  io.stderr:write(("%-12s %s\n"):format(key, json.encode(values)))
  local f = assert(io.open(o.out, "w"))
  f:write(json.encode(result, { indent = 2 }), "\n")
  f:close()
end

-- ---- the device's own limits, as these kernels see them ----

do
  local scope <close> = tensor.scope()
  local x, y = tensor.zeros({ shape.copy }, { device = o.device }), tensor.zeros({ shape.copy }, { device = o.device })
  local last = y:narrow(1, 1, 1)
  local s = seconds(function()
    y:copy_(x)
    return last:item()
  end, 5)
  note("copy", { bytes = 8 * shape.copy, seconds = s, bytes_per_second = 8 * shape.copy / s })
end
do
  local scope <close> = tensor.scope()
  local n = shape.matrix
  local a = tensor.randn({ n, n }, { key = 1, device = o.device })
  local b = tensor.randn({ n, n }, { key = 2, device = o.device })
  if o.dtype == "bf16" then
    a, b = a:to "bf16", b:to "bf16"
  end
  local s = seconds(function()
    local inner <close> = tensor.scope()
    local c = o.dtype == "bf16" and nn.linear(a, b) or a:matmul(b)
    return c:narrow(1, 1, 1):narrow(2, 1, 1):to("f32"):item()
  end)
  note("matrix", { n = n, seconds = s, flops = 2 * n ^ 3 / s })
end

-- ---- a model ----

local model = transformer.new(shape.config, { device = o.device, dtype = o.dtype, key = 3 })
local parameters = 0
for _, p in ipairs(transformer.parameters(model)) do
  parameters = parameters + p:numel()
end
model:add_lora { r = shape.rank, alpha = shape.rank, key = 4 }
note("model", { parameters = parameters, weights_bytes = size * parameters })

local function prompts(n, length)
  local list = {}
  for i = 1, n do
    list[i] = {}
    for t = 1, length or shape.prompt do
      list[i][t] = (i * 7919 + t * 104729) % shape.config.vocab_size
    end
  end
  return list
end

local decode = {}
for i, rows in ipairs(shape.decode) do
  local function run(n)
    return seconds(function()
      model:generate(prompts(rows), { max_new_tokens = n, key = 5 })
    end, 1)
  end
  local before = tensor.memory().waits
  local short, long = run(1), run(shape.answer + 1)
  local per_token = (long - short) / shape.answer
  decode[i] = { batch = rows, prefill_seconds = short, step_seconds = per_token, tokens_per_second = rows / per_token,
    waits = tensor.memory().waits - before,
    -- each step reads every weight once
    share_of_copy = size * parameters / per_token / (result.copy.bytes_per_second) }
  note("decode", decode)
end

for i, u in ipairs(shape.update) do
  local rows, prompt, answer = table.unpack(u)
  local tokens = rows * (prompt + answer)
  local asked, answered = prompts(rows, prompt), prompts(rows, answer)
  local function timed(key, flops_per_parameter, f)
    local s = seconds(f)
    local list = result[key] or {}
    list[i] = { tokens = tokens, sequence = prompt + answer, seconds = s, tokens_per_second = tokens / s,
      share_of_matrix = flops_per_parameter * parameters * tokens / s / result.matrix.flops, peak_bytes = tensor.memory().peak }
    note(key, list)
  end
  local opt <close> = optim.adamw(lora.parameters(model), { lr = 1e-5 })
  timed("lora_update", 4, function()
    local scope <close> = tensor.scope()
    local loss = lm.loss(model, asked, answered, { train = true, key = 6 })
    opt:zero_grad()
    loss:backward()
    opt:step { max_grad_norm = 1 }
    return loss:item()
  end)
  opt:zero_grad()
  timed("logprob", 2, function()
    local scope <close> = tensor.scope()
    return tensor.no_grad(lm.loss, model, asked, answered, { adapter = true }):item()
  end)
end

-- ---- kernels beside the copy: what each must read and write, at the copy's rate ----

local c = shape.config
local heads, groups = c.num_attention_heads, c.num_key_value_heads or c.num_attention_heads
local width = c.hidden_size // heads

local function numbers(dims, key)
  local t = tensor.randn(dims, { key = key, device = o.device })
  return o.dtype == "bf16" and t:to "bf16" or t
end

do
  local scope <close> = tensor.scope()
  local T, D, F = shape.tokens, c.hidden_size, c.intermediate_size
  local x, y, gate, up = numbers({ T, D }, 11), numbers({ T, D }, 12), numbers({ T, F }, 13), numbers({ T, F }, 14)
  local ones, positions = tensor.ones({ D }, { device = o.device }), {}
  for t = 1, T do
    positions[t] = (t - 1) % c.max_position_embeddings
  end
  local q, at = numbers({ T, heads, width }, 15), tensor.new(positions, { dtype = "i32", device = o.device })
  local plain = tensor.randn({ T, D }, { key = 16, device = o.device })
  local moved = {
    { "rms_norm", 2 * T * D * size, function() return nn.rms_norm(x, ones) end },
    { "swiglu", 3 * T * F * size, function() return nn.swiglu(gate, up) end },
    { "rope", 2 * T * heads * width * size, function() return nn.rope(q, at, c.rope_theta or 10000) end },
    { "add", 3 * T * D * size, function() return x + y end },
    { "cast", T * D * (4 + size), function() return o.dtype == "bf16" and plain:to "bf16" or plain:clone() end },
  }
  local list = {}
  for i, k in ipairs(moved) do
    local times = 10
    local s = seconds(function() -- several in a row, so that the reading at the end does not count
      local last
      for _ = 1, times do
        local inner <close> = tensor.scope()
        local out = k[3]()
        last = inner:keep(out)
      end
      return last:reshape { -1 }:narrow(1, 1, 1):to("f32"):item()
    end, 3) / times
    list[i] = { name = k[1], bytes = k[2], seconds = s, share_of_copy = k[2] / s / result.copy.bytes_per_second }
  end
  note("kernels", list)
end

do
  local list = {}
  for i, u in ipairs(shape.update) do
    local scope <close> = tensor.scope()
    local rows, S = u[1], u[2] + u[3]
    local T, offsets = rows * S, {}
    for r = 0, rows do
      offsets[r + 1] = r * S
    end
    offsets = tensor.new(offsets, { dtype = "i32", device = o.device })
    local leaves = {}
    for n, shape_of in ipairs { { T, heads, width }, { T, groups, width }, { T, groups, width } } do
      leaves[n] = tensor.randn(shape_of, { key = 20 + n, device = o.device }):requires_grad_()
    end
    local function run(backward)
      local inner <close> = tensor.scope()
      local a = {}
      for n, t in ipairs(leaves) do
        a[n] = o.dtype == "bf16" and t:to "bf16" or t
      end
      local out = nn.attention(a[1], a[2], a[3], offsets)
      if o.dtype == "bf16" then
        out = out:to "f32"
      end
      local sum = out:sum()
      if backward then
        sum:backward()
        for _, t in ipairs(leaves) do
          t:zero_grad()
        end
      end
      return sum:item()
    end
    local forward = seconds(function() return tensor.no_grad(run, false) end)
    local both = seconds(function() return run(true) end)
    -- causal: half of two products of S x S x width forward, of five backward; conversions and the sum are in the seconds
    local flops = 2 * rows * heads * S * S * width
    list[i] = { sequence = S, tokens = T, forward_seconds = forward, forward_flops = flops / forward,
      backward_seconds = both - forward, backward_flops = 2.5 * flops / (both - forward) }
  end
  note("attention", list)
end

-- ---- one iteration of MOC with two objectives: rollout, reference, advantages, c, one epoch of PPO ----

do
  local rows, N = shape.answers, 2
  local heads = value_heads.new(N, shape.config.hidden_size, { key = 8, device = o.device })
  local list = lora.parameters(model)
  table.move(heads:parameters(), 1, 4 * N, #list + 1, list)
  local opt <close> = optim.adamw(list, { lr = 1e-5 })
  local phases = { rollout = 0, scoring = 0, control = 0, update = 0 }
  local ratio_error
  local function iteration(rows)
    local scope <close> = tensor.scope()
    local start = sys.now()
    local function phase(name)
      phases[name] = sys.now() - start
      start = sys.now()
    end
    local ids = prompts(rows)
    local generated, old = model:generate(ids, { max_new_tokens = shape.answer, key = 9 })
    phase "rollout"
    local batch = transformer.pack(ids, generated.tokens, { device = o.device })
    local function states(opts)
      return nn.rows(model:forward(batch, opts), batch.rows)
    end
    local reference = tensor.no_grad(states, { adapter = false })
    local values = tensor.no_grad(function() return heads:forward(states()) end)
    local R, prefs = {}, {}
    for i = 1, rows do
      R[i], prefs[i] = { math.sin(i), math.cos(i) }, { .5, .5 }
    end
    local adv, returns = ppo.gae(segments.terminal(R, batch), values, batch.response_offsets, { gamma = 1, lam = .95 })
    adv = adv - adv:mean(1, true)
    adv:sum():item()
    phase "scoring"
    local p, b = segments.spread(prefs, batch), segments.spread(R, batch)
    local v, w = (adv * p):sum(2), (adv * b):sum(2)
    local c = minnorm.two((v * v):sum():item(), (v * w):sum():item(), (w * w):sum():item())
    local combined = v * c + w * (1 - c)
    phase "control"
    local hidden = states()
    local logp, _, kl = nn.lm_head(hidden, model:head(), batch.targets, { hidden_ref = reference })
    local surrogate, ratio = ppo.clip(logp, old, combined, .2)
    ratio_error = (ratio - 1):abs():max():item()
    local loss = surrogate:mean() + ppo.value_loss(heads:forward(hidden), returns) * .1 + kl:mean() * .1
    opt:zero_grad()
    loss:backward()
    opt:step { max_grad_norm = 1 }
    loss:item()
    phase "update"
    opt:zero_grad()
  end
  iteration(math.min(rows, 4)) -- what the first one of a kind costs is not counted
  assert(ratio_error == 0, "the ratio is not 1 at the first minibatch: off by " .. tostring(ratio_error))
  local start = sys.now()
  iteration(rows)
  assert(ratio_error == 0, "the ratio is not 1 at the first minibatch: off by " .. tostring(ratio_error))
  note("moc", { answers = rows, prompt_tokens = shape.prompt, answer_tokens = shape.answer, seconds = sys.now() - start,
    phases = phases })
end

note("memory", tensor.memory())
