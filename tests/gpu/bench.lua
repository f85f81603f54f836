--- bench.lua device=cuda:0 shape=tiny|1b|7b dtype=f32|bf16 out=FILE - times the parts of a MOC iteration with random weights and
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

local SHAPES = {
  tiny = { config = { vocab_size = 96, hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 48,
    max_position_embeddings = 64 }, prompt = 6, answer = 5, decode = { 1, 2 }, update = 2, copy = 1 << 14, matrix = 96,
    repeats = 2 },
  ["1b"] = { config = { vocab_size = 32000, hidden_size = 2048, num_hidden_layers = 22, num_attention_heads = 32,
    num_key_value_heads = 4, intermediate_size = 5632, max_position_embeddings = 2048 }, prompt = 128, answer = 64,
    decode = { 1, 8, 64 }, update = 8, copy = 1 << 28, matrix = 8192, repeats = 3 },
  ["7b"] = { config = { vocab_size = 32000, hidden_size = 4096, num_hidden_layers = 32, num_attention_heads = 32,
    intermediate_size = 11008, max_position_embeddings = 2048 }, prompt = 32, answer = 32, decode = { 1, 8, 64 },
    update = 8, copy = 1 << 28, matrix = 8192, repeats = 1 },
}
local shape = assert(SHAPES[o.shape], "shape: tiny, 1b or 7b")

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
model:add_lora { r = 64, alpha = 64, key = 4 }
note("model", { parameters = parameters, weights_bytes = size * parameters })

local function prompts(n)
  local list = {}
  for i = 1, n do
    list[i] = {}
    for t = 1, shape.prompt do
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
  local short, long = run(1), run(shape.answer + 1)
  local per_token = (long - short) / shape.answer
  decode[i] = { batch = rows, prefill_seconds = short, step_seconds = per_token, tokens_per_second = rows / per_token,
    -- each step reads every weight once
    share_of_copy = size * parameters / per_token / (result.copy.bytes_per_second) }
end
note("decode", decode)

local function answers(n)
  local list = {}
  for i, p in ipairs(prompts(n)) do
    list[i] = table.move(p, 1, math.min(#p, shape.answer), 1, {})
  end
  return list
end

do
  local rows = shape.update
  local tokens = rows * (shape.prompt + math.min(shape.prompt, shape.answer))
  local s = seconds(function()
    local scope <close> = tensor.scope()
    return tensor.no_grad(lm.loss, model, prompts(rows), answers(rows), { adapter = true }):item()
  end)
  note("logprob", { tokens = tokens, seconds = s, tokens_per_second = tokens / s,
    share_of_matrix = 2 * parameters * tokens / s / result.matrix.flops })
  local opt <close> = optim.adamw(lora.parameters(model), { lr = 1e-5 })
  s = seconds(function()
    local scope <close> = tensor.scope()
    local loss = lm.loss(model, prompts(rows), answers(rows), { train = true, key = 6 })
    opt:zero_grad()
    loss:backward()
    opt:step { max_grad_norm = 1 }
    return loss:item()
  end)
  note("lora_update", { tokens = tokens, seconds = s, tokens_per_second = tokens / s,
    share_of_matrix = 4 * parameters * tokens / s / result.matrix.flops, peak_bytes = tensor.memory().peak })
  opt:zero_grad()
end

-- ---- one iteration of MOC with two objectives: rollout, reference, advantages, c, one epoch of PPO ----

do
  local rows, N = shape.update, 2
  local heads = value_heads.new(N, shape.config.hidden_size, { key = 8, device = o.device })
  local list = lora.parameters(model)
  table.move(heads:parameters(), 1, 4 * N, #list + 1, list)
  local opt <close> = optim.adamw(list, { lr = 1e-5 })
  local phases = { rollout = 0, scoring = 0, control = 0, update = 0 }
  local ratio_error
  local function iteration()
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
  iteration()
  assert(ratio_error == 0, "the ratio is not 1 at the first minibatch: off by " .. tostring(ratio_error))
  local start = sys.now()
  iteration()
  note("moc", { answers = rows, answer_tokens = shape.answer, seconds = sys.now() - start, phases = phases })
end

note("memory", tensor.memory())
