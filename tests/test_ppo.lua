-- the pieces of PPO with several objectives, each against a known truth

local T = require "t"
local fs = require "mocl.fs"
local lm_actor = require "mocl.train.lm_actor"
local lora = require "mocl.lm.lora"
local minnorm = require "mocl.minnorm"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local ppo = require "mocl.method.ppo"
local segments = require "mocl.segments"
local value_heads = require "mocl.train.value_heads"
local optimizer = require "mocl.optim_files"
local running = require "mocl.method.running"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local trainer = require "mocl.train.trainer"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1
local NEAR = is_double and 1e-12 or 5e-6 -- sums of at most 40 products of numbers of size 1 to 3

local function draw(shape, stream, options)
  options = options or {}
  options.key, options.stream = 77, stream
  return tensor.randn(shape, options)
end

-- ---- advantages ----

T.test("gae is the double sum of its definition", function()
  local offsets, N, gamma, lam = { 0, 5, 6, 17 }, 3, .97, .9
  local rewards, values = draw({ 17, N }, 1), draw({ 17, N }, 2)
  local adv, returns = ppo.gae(rewards, values, offsets, { gamma = gamma, lam = lam })
  local r, v, want, want_returns = rewards:totable(), values:totable(), {}, {}
  for b = 1, #offsets - 1 do
    local last = offsets[b + 1]
    for t = offsets[b] + 1, last do
      want[t], want_returns[t] = {}, {}
      for j = 1, N do
        local sum = 0
        for s = t, last do
          sum = sum + (gamma * lam) ^ (s - t) * (r[s][j] + gamma * (s < last and v[s + 1][j] or 0) - v[s][j])
        end
        want[t][j], want_returns[t][j] = sum, sum + v[t][j]
      end
    end
  end
  T.near(adv:totable(), want, NEAR)
  T.near(returns:totable(), want_returns, NEAR)
  T.near(ppo.gae(rewards, values, offsets):totable(), ppo.gae(rewards, values, offsets, { gamma = 1, lam = .95 }):totable(), 0)
end)

local function pack()
  return transformer.pack({ { 1, 5 }, { 2 }, { 4, 4, 4 } }, { { 8, 9, 2 }, { 7 }, { 3, 2 } })
end

T.test("a reward lies on the answer's last token; spread puts a row on each", function()
  local batch = pack()
  T.eq(segments.terminal({ { 1, -1 }, { 2, -2 }, { 3, -3 } }, batch):totable(),
    { { 0.0, 0.0 }, { 0.0, 0.0 }, { 1.0, -1.0 }, { 2.0, -2.0 }, { 0.0, 0.0 }, { 3.0, -3.0 } })
  T.eq(segments.spread({ { 1, -1 }, { 2, -2 }, { 3, -3 } }, batch):totable(),
    { { 1.0, -1.0 }, { 1.0, -1.0 }, { 1.0, -1.0 }, { 2.0, -2.0 }, { 3.0, -3.0 }, { 3.0, -3.0 } })
  T.raises("sequence 2 is empty", segments.terminal, { { 1 }, { 2 } }, transformer.pack({ { 1 }, { 2 } }, { { 3 }, {} }))
  T.raises("B %+ 1 offsets", segments.terminal, { { 1 } }, batch)
end)

T.test("running means per group", function()
  local means = { false, { 1.0, 2.0 }, { 5.0, 5.0 } }
  running.update_means(means, { 2, 1, 2, 1 }, { { 3, 4 }, { 10, 20 }, { 5, 6 }, { 30, 40 } }, .75)
  T.near(means, { { 20, 30 }, { 1 * .75 + 4 * .25, 2 * .75 + 5 * .25 }, { 5, 5 } }, 1e-15)
end)

T.test("whiten: mean 0 and unbiased variance 1 over all entries", function()
  local x = draw({ 7, 3 }, 3, { mean = 4, std = 3 })
  local function moments(y)
    local sum, square, n = 0, 0, y:numel()
    for _, v in ipairs(small.flat(y)) do
      sum = sum + v
    end
    for _, v in ipairs(small.flat(y)) do
      square = square + (v - sum / n) ^ 2
    end
    return sum / n, square / (n - 1)
  end
  local mean, var = moments(ppo.whiten(x))
  T.near(mean, 0, 1e-5)
  T.near(var, 1, 1e-5)
  mean, var = moments(ppo.whiten(x, { shift_mean = false }))
  T.near(mean, (moments(x)), 1e-5)
  T.near(var, 1, 1e-5)
  T.raises("1 entries have no variance", ppo.whiten, tensor.new { 1 })
end)

-- ---- the clipped surrogate ----

T.test("at ratio 1 the clipped loss has the policy gradient, through the whole model", function()
  local model = small.adapter(small.model())
  local g, old = model:generate({ { 1, 2 }, { 3 }, { 9, 9, 9 } }, { max_new_tokens = 9, key = 5, eos = 4 })
  local batch = transformer.pack({ { 1, 2 }, { 3 }, { 9, 9, 9 } }, g.tokens)
  local adv = draw({ batch.response_total }, 4)
  local function logp()
    return (nn.lm_head(nn.rows(model:forward(batch), batch.rows), model:head(), batch.targets))
  end
  local function gradients(loss)
    for _, p in ipairs(lora.parameters(model)) do
      p:zero_grad()
    end
    loss:backward()
    local list = {}
    for i, p in ipairs(lora.parameters(model)) do
      list[i] = small.flat(p.grad)
    end
    return list
  end
  local loss, ratio, clipped = ppo.clip(logp(), old, adv, .2)
  T.eq(ratio:totable(), tensor.ones({ batch.response_total }):totable()) -- to the bit
  T.eq(clipped:sum():item(), 0.0)
  T.eq(loss:totable(), (-adv):totable())
  local got = gradients(loss:mean())
  T.near(got, gradients(-(logp() * adv):mean()), NEAR)
  local largest = 0
  for _, list in ipairs(got) do
    for _, x in ipairs(list) do
      largest = math.max(largest, math.abs(x))
    end
  end
  T.ok(largest > .01, "gradients that are not zero")
end)

T.test("the gate I(A, z) of equation 10, and the clip's gradient where it is open", function()
  local rows = { -- z, A, open
    { .5, 1, true }, { .5, -1, false }, { .79, -2, false }, { .79, 2, true }, { .81, -2, true }, { 1, 3, true }, { 1, -3, true },
    { 1.19, 2, true }, { 1.21, 2, false }, { 1.21, -2, true }, { 3, -1, true }, { 3, 1, false }, { 3, 0, true }, { .1, 0, true },
  }
  local z, a, gated, want_grad = {}, {}, {}, {}
  for i, row in ipairs(rows) do
    z[i], a[i] = row[1], { row[2], -row[2] }
    local mirrored = row[1] > 1.2 and row[2] < 0 or row[1] < .8 and row[2] > 0 -- of the second column
    gated[i] = { row[3] and row[2] or 0, mirrored and 0 or -row[2] }
    want_grad[i] = row[3] and -row[1] * row[2] or 0 -- d loss / d logp = -z I(A, z)
  end
  T.near(ppo.gate(tensor.new(a), tensor.new(a):relu(), tensor.new(z):unsqueeze(2), .2):totable(), gated, 0)
  local adv = tensor.new(a):narrow(2, 1, 1):flatten()
  local logp = tensor.new(z):log():requires_grad_()
  local loss, ratio, clipped = ppo.clip(logp, tensor.zeros { #rows }, adv, .2)
  T.near(ratio:totable(), z, 1e-6)
  loss:sum():backward()
  T.near(logp.grad:totable(), want_grad, 1e-6)
  for i, row in ipairs(rows) do
    T.eq(clipped:totable()[i], row[3] and 0.0 or 1.0, "clipped " .. i)
  end
end)

T.test("the clipped value loss is TRL's, without its factor 1/2", function()
  local values, returns, old = tensor.new { 1, 1, 1, 1 }, tensor.new { 2, .5, 1.05, 0 }, tensor.new { .5, .5, 1, 3 }
  T.near(ppo.value_loss(values, returns):item(), (1 + .25 + .0025 + 1) / 4, 1e-6)
  -- kept within .2 of old: .7, .7, 1, 2.8; errors 1.69, .04, .0025, 7.84
  local loss, share = ppo.value_loss(values, returns, { old_values = old, cliprange_value = .2 })
  T.near(loss:item(), (1.69 + .25 + .0025 + 7.84) / 4, 1e-6)
  T.eq(share, .5)
end)

-- ---- KL ----

local function kl_case()
  local hidden, reference = draw({ 6, 12 }, 5), draw({ 6, 12 }, 6)
  local head = draw({ 29, 12 }, 7, { std = .5 })
  return hidden:requires_grad_(), reference, head:requires_grad_()
end

T.test("the exact KL and its gradient are those of basic operations", function()
  for _, temperature in ipairs { 1, .7 } do
    local weights = tensor.new { 1, 2, 0, .5, -1, 3 }
    local hidden, reference, head = kl_case()
    local _, _, kl = nn.lm_head(hidden, head, { 0, 1, 2, 3, 28, 5 }, { temperature = temperature, hidden_ref = reference })
    ;(kl * weights):sum():backward()
    local got, grad = kl:totable(), hidden.grad:totable()
    hidden:zero_grad()
    local q = (reference:matmul(head:detach():t()) / temperature):log_softmax(2)
    local p = (hidden:matmul(head:detach():t()) / temperature):log_softmax(2)
    local want = (p:exp() * (p - q)):sum(2)
    ;(want * weights):sum():backward()
    T.near(got, want:totable(), NEAR)
    T.near(grad, hidden.grad:totable(), NEAR)
    T.ok(math.min(table.unpack(got)) > .1, "a KL that is not zero")
  end
end)

T.test("KL estimates: what the mean over the vocabulary of each gradient is", function()
  -- the expectation over the policy's own tokens, exactly: all of them, weighted by p
  local hidden, reference, head = kl_case()
  head = head:detach()
  local q = reference:matmul(head:t()):log_softmax(2)
  local function mean(kind)
    hidden:zero_grad()
    local p = hidden:matmul(head:t()):log_softmax(2)
    local x = (p:detach():exp() * ppo.kl_estimate(p, q, kind)):sum()
    x:backward()
    return x:item(), hidden.grad:totable()
  end
  local function exact()
    hidden:zero_grad()
    local p = hidden:matmul(head:t()):log_softmax(2)
    local x = (p:exp() * (p - q)):sum()
    x:backward()
    return x:item(), hidden.grad:totable()
  end
  local kl, grad = exact()
  local k1, grad_k1 = mean "k1"
  local _, grad_k2 = mean "k2"
  local k3 = mean "k3"
  T.near(k1, kl, NEAR * 10, "k1 is unbiased")
  T.near(k3, kl, NEAR * 10, "k3 is unbiased")
  T.near(grad_k1, tensor.zeros({ 6, 12 }):totable(), NEAR, "k1's gradient is zero on average")
  T.near(grad_k2, grad, NEAR * 4, "k2's gradient is that of the KL")
  T.raises("unknown kind 'k4' %(k1, k2, k3%)", ppo.kl_estimate, hidden, hidden, "k4")
end)

-- ---- equation 12 ----

-- One preference group on a small model at z = 1: per-objective policy gradients by backpropagation, the
-- min-norm problem of equation 8 on them, and equation 12 on the advantages alone.
local function surrogate_case(seed, p, b)
  local model = small.adapter(small.model(), { key = seed })
  local prompts = {}
  for i = 1, 12 do
    prompts[i] = { i, 3 }
  end
  local g, old = model:generate(prompts, { max_new_tokens = 8, key = seed, eos = 4 })
  local batch = transformer.pack(prompts, g.tokens)
  -- what the objectives like: tokens below 10; tokens above 18. Noise, so that they are not quite opposed
  local rows, noise = {}, rng.new(seed, "noise")
  for i, ids in ipairs(g.tokens) do
    rows[i] = { noise:normal() * .3, noise:normal() * .3 }
    for _, id in ipairs(ids) do
      rows[i][1] = rows[i][1] + (id < 10 and 1 or 0)
      rows[i][2] = rows[i][2] + (id > 18 and 1 or 0)
    end
  end
  local adv = ppo.gae(segments.terminal(rows, batch), tensor.zeros { batch.response_total, 2 }, batch.response_offsets)
  adv = adv - adv:mean(1, true)

  local gradient, dot = {}, {}
  for j = 1, 2 do
    for _, x in ipairs(lora.parameters(model)) do
      x:zero_grad()
    end
    local logp = nn.lm_head(nn.rows(model:forward(batch), batch.rows), model:head(), batch.targets)
    local loss, ratio = ppo.clip(logp, old, adv:narrow(2, j, 1):flatten(), .2)
    T.eq((ratio - 1):abs():max():item(), 0.0)
    ;(-loss:mean()):backward() -- J is maximised
    gradient[j] = {}
    for _, x in ipairs(lora.parameters(model)) do
      table.move(small.flat(x.grad), 1, x:numel(), #gradient[j] + 1, gradient[j])
    end
  end
  local function product(x, y)
    local sum = 0
    for i = 1, #x do
      sum = sum + x[i] * y[i]
    end
    return sum
  end
  local function combine(weights)
    local out = {}
    for i = 1, #gradient[1] do
      out[i] = weights[1] * gradient[1][i] + weights[2] * gradient[2][i]
    end
    return out
  end
  local v8, vbar8 = combine(p), combine { -b[1], -b[2] }
  dot.vv, dot.vw, dot.ww = product(v8, v8), product(v8, vbar8), product(vbar8, vbar8)
  local c8 = minnorm.two(dot.vv, dot.vw, dot.ww)
  -- and as a trainer computes them, with its actor's adapter and value heads
  local t = trainer.new { seed = 0, total = 1, options = {}, actor = lm_actor.new { policy = { model = model, temperature = 1 },
    heads = value_heads.new(2, 12, { key = 1 }) } }
  batch.old = old
  local G = t:gram_of(batch) { (adv * tensor.new { p }):sum(2), (adv * tensor.new { { -b[1], -b[2] } }):sum(2) }
  for _, pair in ipairs { { G[1][1], dot.vv }, { G[1][2], dot.vw }, { G[2][1], dot.vw }, { G[2][2], dot.ww } } do
    T.near(pair[1], pair[2], 1e-5 * math.sqrt(dot.vv * dot.ww) + 1e-5 * math.abs(pair[2]))
  end
  T.near(minnorm.solve(G)[1], c8, 1e-4)

  local gated = ppo.gate(adv, adv:relu(), tensor.ones { batch.response_total, 1 }, .2)
  T.eq(gated:totable(), adv:totable()) -- I(A) = A at z = 1
  local v, vbar = (gated * tensor.new { p }):sum(2), (gated * tensor.new { { -b[1], -b[2] } }):sum(2)
  local c12 = minnorm.two((v * v):sum():item(), (v * vbar):sum():item(), (vbar * vbar):sum():item())

  local function direction(c)
    return combine { c * p[1] - (1 - c) * b[1], c * p[2] - (1 - c) * b[2] }
  end
  local d8, d12 = direction(c8), direction(c12)
  return c8, c12, product(d8, d12) / math.sqrt(product(d8, d8) * product(d12, d12))
end

T.test("c of equation 12 against the gradients of equation 8", function()
  local lines = {}
  for _, case in ipairs { { 1, { .3, .7 }, { .4, -.2 } }, { 2, { .8, .2 }, { -.1, .5 } }, { 3, { .5, .5 }, { -.3, -.3 } } } do
    local c8, c12, cosine = surrogate_case(table.unpack(case))
    for _, c in ipairs { c8, c12 } do
      T.ok(c >= 0 and c <= 1, ("c = %g"):format(c))
    end
    T.ok(cosine > 0 and cosine <= 1 + 1e-6, ("cosine %g"):format(cosine))
    lines[#lines + 1] = ("p {%g, %g} b {%g, %g}: c %.3f (equation 8) %.3f (equation 12), cosine of the directions %.3f"):format(
      case[2][1], case[2][2], case[3][1], case[3][2], c8, c12, cosine)
  end
  print("     " .. table.concat(lines, "\n     "))
end)

-- ---- value heads ----

T.test("value heads start at zero and are separate", function()
  local heads = value_heads.new(3, 12, { key = 4 })
  local hidden = draw({ 5, 12 }, 8):requires_grad_()
  T.eq(heads:forward(hidden):totable(), tensor.zeros({ 5, 3 }):totable())
  T.eq(#heads:parameters(), 12)
  for i, pair in ipairs(heads.named) do -- last layers that do something
    tensor.no_grad(pair[2].copy_, pair[2], draw(pair[2].shape, 20 + i))
  end
  local values = heads:forward(hidden)
  for j = 1, 3 do
    -- head j by hand
    local w = { table.unpack(heads:parameters(), 4 * j - 3, 4 * j) }
    local want = (hidden:matmul(w[1]:t()) + w[2]):relu():matmul(w[3]:t()) + w[4]
    T.near(values:narrow(2, j, 1):totable(), want:totable(), NEAR)
  end
  ;(values:narrow(2, 2, 1):square():mean()):backward()
  for i, pair in ipairs(heads.named) do
    local own = i > 4 and i <= 8
    T.eq(pair[2].grad ~= nil and pair[2].grad:abs():sum():item() > 0, own, pair[1])
  end
  T.ok(hidden.grad:abs():sum():item() > 0, "the gradient goes on to the states")
  local other = value_heads.new(3, 12, { key = 5 })
  T.ok(not pcall(T.eq, other:parameters()[1]:totable(), value_heads.new(3, 12, { key = 4 }):parameters()[1]:totable()))
end)

T.test("value heads: save and load", function()
  local heads, path = value_heads.new(2, 6, { key = 4 }), T.tmpdir() .. "/v.safetensors"
  assert(heads:save(path))
  local other = value_heads.new(2, 6, { key = 9 })
  T.eq(other:load(path), true)
  for i, p in ipairs(heads:parameters()) do
    T.eq(other:parameters()[i]:totable(), p:totable())
    T.ok(other:parameters()[i].requires_grad)
  end
  T.fails("'v_head.1.0.weight' belongs to no layer", function()
    local ok, e = value_heads.new(1, 6, { key = 1 }):load(path)
    return ok, e and e:gsub("v_head%.1%.[^']*", "v_head.1.0.weight")
  end)
  T.fails("4 of 12 tensors are missing", function()
    return value_heads.new(3, 6, { key = 1 }):load(path)
  end)
  T.fails("is %(6,6%), the model needs %(7,7%)", function()
    return value_heads.new(2, 7, { key = 1 }):load(path)
  end)
  T.fails("No such file", function()
    return heads:load(path .. "x")
  end)
end)

T.test("value heads on the device of the model", function()
  local heads = value_heads.new(2, 6, { key = 4, device = "fake" })
  local path = T.tmpdir() .. "/v.safetensors"
  assert(value_heads.new(2, 6, { key = 8 }):save(path))
  assert(heads:load(path))
  T.eq(heads:forward(tensor.ones({ 2, 6 }, { device = "fake" })).device, "fake")
end)

-- ---- optimiser state ----

T.test("a saved optimiser goes on as if it had not stopped, to the bit", function()
  local function start()
    local model = small.adapter(small.model())
    local heads = value_heads.new(2, 12, { key = 4 })
    local parameters = lora.parameters(model)
    table.move(heads:parameters(), 1, 8, #parameters + 1, parameters)
    return { model = model, heads = heads, optimizer = optim.adamw(parameters, { lr = .01 }) }
  end
  local function steps(o, first, last)
    for i = first, last do
      local batch = transformer.pack({ { i % 29, 2 } }, { { 3, 4, i * 7 % 29 } })
      local hidden = nn.rows(o.model:forward(batch), batch.rows)
      local logp = nn.lm_head(hidden, o.model:head(), batch.targets)
      local loss = -logp:mean() + o.heads:forward(hidden):add(-1):square():mean()
      o.optimizer:zero_grad()
      loss:backward()
      o.optimizer:step { max_grad_norm = 1 }
    end
  end
  local function bytes(o)
    local dir = T.tmpdir()
    lm_actor.new({ policy = { model = o.model }, heads = o.heads, base = "sft" }):save(dir)
    assert(optimizer.save(o.optimizer, dir .. "/optimizer.safetensors"))
    local sums = {}
    for _, name in ipairs { "adapter_model.safetensors", "value_heads.safetensors", "optimizer.safetensors" } do
      sums[name] = fs.sha256(dir .. "/" .. name)
    end
    return sums, dir
  end
  local whole = start()
  steps(whole, 1, 6)
  local half = start()
  steps(half, 1, 3)
  local _, dir = bytes(half)
  local again = start()
  assert(lora.load(again.model, dir))
  assert(again.heads:load(dir .. "/value_heads.safetensors"))
  local parameters = lora.parameters(again.model)
  table.move(again.heads:parameters(), 1, 8, #parameters + 1, parameters)
  again.optimizer = optim.adamw(parameters, { lr = .01 })
  T.eq(optimizer.load(again.optimizer, dir .. "/optimizer.safetensors"), true)
  T.eq(again.optimizer:steps(), 3)
  T.eq(bytes(again), bytes(half))
  steps(again, 4, 6)
  T.eq(bytes(again), bytes(whole))
  T.ok(not pcall(T.eq, bytes(half), bytes(whole)))
end)

T.test("an actor needs a model with an adapter", function()
  T.raises("lm_actor.new: the policy's model has no adapter; call model:add_lora first", lm_actor.new,
    { policy = { model = small.model() }, heads = value_heads.new(1, 12, { key = 1 }) })
  T.raises("lm_actor.new: option 'policy' is missing", lm_actor.new, { heads = value_heads.new(1, 12, { key = 1 }) })
end)

T.test("an optimiser file of other parameters, or none", function()
  local path = T.tmpdir() .. "/o.safetensors"
  local function of(...)
    local list = {}
    for i, n in ipairs { ... } do
      list[i] = tensor.zeros({ n }, { requires_grad = true })
    end
    return optim.adamw(list, {})
  end
  local opt = of(3, 2)
  assert(optimizer.save(opt, path))
  T.fails("2 of 6 tensors are missing", optimizer.load, of(3, 2, 2), path)
  T.fails("is %(3%), the model needs %(4%)", optimizer.load, of(4, 2), path)
  T.fails("No such file", optimizer.load, opt, path .. "x")
  local heads_path = T.tmpdir() .. "/v.safetensors"
  assert(value_heads.new(1, 4, { key = 1 }):save(heads_path))
  T.fails("tensors are missing", optimizer.load, opt, heads_path)
  for _, steps in ipairs { "x", "-1", "1.5" } do
    assert(safetensors.save(path, assert(safetensors.load(path)), { steps = steps }))
    T.fails("no count of steps", optimizer.load, opt, path)
  end
end)
