-- gradients: every differentiable operation by central differences, and what the graph promises.
-- The differences mean most in the build where f32 tensors hold doubles (make VARIANT=f64); in the plain
-- build the same file runs with a step and a tolerance that suit f32.

local T = require "t"
local ops = require "fixtures.ops"
local json = require "mocl.json"
local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"

local double = ops.is_double

-- Double: the step's own error is eps^2 f''' / 6 = 1e-12, rounding |f| 1e-16 / eps. Float: differences
-- with steps h and h / 2 are combined so that the h^2 term cancels; what is left is h^4 and rounding.
local EPS = double and 1e-6 or 1 / 32
local TOL = double and 2e-7 or 2e-2
local COORDS = 12 -- per argument, spread over its entries

local function evaluate(case, args)
  local scope <close> = tensor.scope()
  local outs = ops.rows[case.op].call(args, case.p)
  local sum, size = 0, 0
  for _, out in ipairs(outs) do
    if out.requires_grad then
      local values = ops.flat(out)
      for i, v in ipairs(values) do
        local term = v * math.sin(1.7 * i)
        sum, size = sum + term, size + math.abs(term)
      end
    end
  end
  return sum, size
end

local function set(leaf, i, v)
  tensor.no_grad(function()
    leaf:flatten():narrow(1, i, 1):fill_(v)
  end)
end

local function difference(case, args, leaf, i, at, h)
  set(leaf, i, at + h)
  local above, size = evaluate(case, args)
  set(leaf, i, at - h)
  local below = evaluate(case, args)
  set(leaf, i, at)
  return (above - below) / (2 * h), size
end

-- the slope of the weighted sum in entry i of leaf, and the rounding that the difference carries
local function slope(case, args, leaf, i)
  local at = leaf:flatten():narrow(1, i, 1):item()
  local d, size = difference(case, args, leaf, i, at, EPS)
  if double then
    return d, size * 1e-9
  end
  return (4 * difference(case, args, leaf, i, at, EPS / 2) - d) / 3, size * 4e-5
end

local function check(case)
  local args, leaves = ops.arguments(case, "cpu")
  local loss = ops.loss(ops.rows[case.op].call(args, case.p))
  loss:backward()
  local checked = 0
  for a, leaf in ipairs(leaves) do
    local n = leaf and leaf:numel() or 0
    if case.op == "lm_head" and a == 2 and args[4] then
      n = 0 -- moving the head moves the reference too, through which no gradient flows
    end
    for k = 1, math.min(n, COORDS) do
      local i = n <= COORDS and k or 1 + (k - 1) * (n - 1) // (COORDS - 1)
      local got = leaf.grad:flatten():narrow(1, i, 1):item()
      local want, noise = slope(case, args, leaf, i)
      local allowed = TOL * math.max(1, math.abs(want)) + noise
      if not (math.abs(got - want) <= allowed) then
        error(("%s: gradient %d entry %d is %.9g, differences give %.9g (allowed %.2g)"):format(ops.describe(case), a,
          i, got, want, allowed), 0)
      end
      checked = checked + 1
    end
  end
  return checked
end

-- Cases left to the f64 build, because a step of 1/32 is too long for them: the value curves too much ...
local function too_steep(case)
  local largest, smallest = 0, 1
  for _, a in ipairs(case.args) do
    for _, v in ipairs(type(a) == "table" and not a.ids and a.data or {}) do
      largest, smallest = math.max(largest, math.abs(v)), math.min(smallest, math.abs(v))
    end
  end
  local singular = { sqrt = true, rsqrt = true, log = true, reciprocal = true, pow = true, div = true }
  if case.op == "rms_norm" or case.op == "layer_norm" then
    return true
  end
  return largest > 10 or singular[case.op] and smallest < .5
end

-- ... or it bends within the step
local bends = { abs = true, relu = true, sign = true, floor = true, clamp = true, maximum = true, minimum = true,
  max = true, min = true, ppo_clip = true }

local by_op, order = {}, {}
for _, name in ipairs(ops.files) do
  for _, case in ipairs(ops.load("ops_" .. name)) do
    local wanted = false
    for _, g in ipairs(case.grads) do
      wanted = wanted or g ~= json.null and #g > 0
    end
    if wanted and not case.kink and (double or not (bends[case.op] or too_steep(case))) then
      if not by_op[case.op] then
        by_op[case.op] = {}
        order[#order + 1] = case.op
      end
      table.insert(by_op[case.op], case)
    end
  end
end

for _, op in ipairs(order) do
  T.test("central differences: " .. op, function()
    local checked = 0
    for _, case in ipairs(by_op[op]) do
      checked = checked + check(case)
    end
    T.ok(checked > 0)
  end)
end

-- ---- the graph ----

local function leaf(data)
  return tensor.new(data, { requires_grad = true })
end

T.test("gradients add up over backward calls", function()
  local x = leaf { 1, 2, 3 }
  for n = 1, 3 do
    (x * x):sum():backward()
    T.eq(x.grad:totable(), { 2 * n, 4 * n, 6 * n })
  end
  x:zero_grad()
  T.eq(x.grad, nil)
  x:sum():backward()
  T.eq(x.grad:totable(), { 1, 1, 1 })
end)

T.test("a tensor used many times", function()
  local x = leaf { 3 }
  local y = x * x + x * 2 + x
  y:backward()
  T.eq(x.grad:item(), 9)
  x:zero_grad()
  local z = x
  for _ = 1, 20 do
    z = z + z
  end
  z:backward()
  T.eq(x.grad:item(), 2 ^ 20)
  local m = leaf { { 1, 2 }, { 3, 4 } }
  m:matmul(m):sum():backward() -- d sum(m m) / d m = 1 m^T + m^T 1
  T.eq(m.grad:totable(), { { 4 + 3, 4 + 7 }, { 6 + 3, 6 + 7 } })
  m:zero_grad()
  tensor.cat({ m, m }, 1):sum():backward()
  T.eq(m.grad:totable(), { { 2, 2 }, { 2, 2 } })
end)

T.test("a leaf used through overlapping views", function()
  local x = leaf { 1, 2, 3, 4 }
  local a, b = x:narrow(1, 1, 3), x:narrow(1, 2, 3);
  (a * b):sum():backward()
  T.eq(x.grad:totable(), { 2, 1 + 3, 2 + 4, 3 })
  local m = leaf { { 1, 2, 3 }, { 4, 5, 6 } }
  local y = m:t():reshape(6) * tensor.arange(6) + m:flatten()
  y:sum():backward()
  T.eq(m.grad:totable(), { { 1, 3, 5 }, { 2, 4, 6 } })
  m:zero_grad();
  (m[1] * m[2]):sum():backward()
  T.eq(m.grad:totable(), { { 4, 5, 6 }, { 1, 2, 3 } })
  m:zero_grad()
  m:reshape(2, 1, 3):expand(2, 5, 3):sum():backward()
  T.eq(m.grad:totable(), { { 5, 5, 5 }, { 5, 5, 5 } })
end)

T.test("a gradient is its own memory", function()
  local x, seed = leaf { 1, 2 }, tensor.new { 5, 6 }
  x:backward(seed)
  seed:fill_(0)
  T.eq(x.grad:totable(), { 5, 6 })
  local a, b = leaf { 1 }, leaf { 1 };
  (a + b):backward()
  a.grad:fill_(9)
  T.eq(b.grad:item(), 1)
end)

T.test("gradients that share memory on the way are not added into", function()
  local q, x = leaf { 1, 2 }, leaf { 1, 2 }
  local a, p = q * 1, x * 1
  local c = p * 3 -- older than b: its gradient reaches p after that of b, which is a view of that of a
  local b = p:reshape(2);
  ((a + b):sum() + c:sum()):backward()
  T.eq({ q.grad:totable(), x.grad:totable() }, { { 1, 1 }, { 4, 4 } })
end)

T.test("retain_graph, and a graph that was used up", function()
  local x = leaf { 2 }
  local y = x * x
  y:backward { retain_graph = true }
  y:backward { retain_graph = true }
  T.eq(x.grad:item(), 8)
  y:backward()
  T.eq(x.grad:item(), 12)
  T.raises("backward of mul: the graph was used before; pass retain_graph=true the first time", y.backward, y)
  T.eq(x.grad:item(), 12, "a refused backward adds nothing")
  local shared = x:exp()
  local a, b = shared:sum(), (shared * 2):sum()
  a:backward()
  T.raises("the graph was used before", b.backward, b)
end)

T.test("a change in place after use is refused", function()
  local x, w = leaf { 1, 2 }, tensor.new { 3, 4 }
  local y = (x * w):sum()
  w:add_(1)
  T.raises("backward of mul: a tensor it needs was modified in place after it was used; clone it before", y.backward, y)
  T.eq(x.grad, nil)
  for _, change in ipairs {
    function(t) t:fill_(0) end,
    function(t) t:zero_() end,
    function(t) t:copy_(tensor.new { 0, 0 }) end,
    function(t) t:narrow(1, 1, 1):fill_(0) end, -- through a view
    function(t) t:detach():add_(1) end,
  } do
    local z = (x * w):sum()
    change(w)
    T.raises("modified in place", z.backward, z)
  end
  local kept = (x + w):sum() -- a sum needs no values
  w:fill_(7)
  kept:backward()
  T.eq(x.grad:totable(), { 1, 1 })
  local e = x:exp() -- needs its own output
  tensor.no_grad(function() e:mul(1); e:add_(1) end)
  local s = e:sum()
  T.raises("backward of elementwise operation: a tensor it needs was modified", s.backward, s)
end)

T.test("a tensor with history is not changed in place while recording", function()
  local x = leaf { 1, 2 }
  local y = x * 2
  for _, t in ipairs { x, y } do
    T.raises("add_: a tensor with gradient history cannot be changed in place while recording; use no_grad or detach",
      t.add_, t, 1)
    T.raises("fill_: a tensor with gradient history", t.fill_, t, 1)
    T.raises("copy_: a tensor with gradient history", t.copy_, t, tensor.new { 0, 0 })
  end
  tensor.no_grad(function() x:add_(1) end)
  T.eq(x:totable(), { 2, 3 })
  T.eq(x.requires_grad, true)
end)

T.test("no_grad records nothing and ends on errors", function()
  local x = leaf { 1, 2 }
  local a, b = tensor.no_grad(function(p, q)
    T.eq(tensor.is_grad_enabled(), false)
    return x * p, q
  end, 3, "q")
  T.eq(a.requires_grad, false)
  T.eq(b, "q")
  T.eq(tensor.is_grad_enabled(), true)
  T.raises("^oops$", tensor.no_grad, function() error("oops", 0) end)
  T.eq(tensor.is_grad_enabled(), true)
  tensor.no_grad(function()
    pcall(tensor.no_grad, function() error("inner") end)
    T.eq(tensor.is_grad_enabled(), false)
  end)
  T.raises("does not depend on anything that requires grad", a.backward, a:sum())
  T.raises("bad argument #1 to '.-' %(function expected", tensor.no_grad, 5)
end)

T.test("detach cuts the graph, memory is shared", function()
  local x = leaf { 1, 2 }
  local d = x:detach()
  T.eq(d.requires_grad, false);
  (x * d):sum():backward()
  T.eq(x.grad:totable(), { 1, 2 })
  d:fill_(5)
  T.eq(x:totable(), { 5, 5 })
end)

T.test("only leaves that were used have gradients", function()
  local x, unused, y = leaf { 1 }, leaf { 1 }, leaf { 1 }
  local _ = unused * 2;
  (x * y:detach()):backward()
  T.eq(x.grad:item(), 1)
  T.eq(unused.grad, nil)
  T.eq(y.grad, nil)
  local mid = x * 2
  mid:backward()
  T.eq(mid.grad, nil, "what was computed keeps none")
end)

T.test("backward of a leaf, and with a gradient given", function()
  local s = leaf(3)
  s:backward()
  T.eq(s.grad:item(), 1)
  local x = leaf { { 1, 2 }, { 3, 4 } }
  local y = x * x
  y:backward(tensor.new { { 1, 0 }, { 0, 10 } })
  T.eq(x.grad:totable(), { { 2, 0 }, { 0, 80 } })
  x:zero_grad()
  x:t():backward(tensor.new({ { 1, 2 }, { 3, 4 } }):t()) -- neither is contiguous
  T.eq(x.grad:totable(), { { 1, 2 }, { 3, 4 } })
  x:zero_grad()
  local z = x * x
  z:backward(tensor.ones { 2, 2 }, { retain_graph = true })
  z:backward(tensor.ones { 2, 2 })
  T.eq(x.grad:totable(), { { 4, 8 }, { 12, 16 } })
end)

T.test("backward: errors", function()
  local x = leaf { { 1, 2 } }
  local y = x * 2
  T.raises("backward: a scalar is needed, this has shape %(1,2%); reduce it or pass a gradient", y.backward, y)
  T.raises("backward: gradient %(3%) does not fit the tensor %(1,2%)", y.backward, y, tensor.zeros { 3 })
  T.raises("backward: the gradient is i32 on cpu, the tensor f32 on cpu", y.backward, y,
    tensor.new({ { 1, 2 } }, { dtype = "i32" }))
  T.raises("backward: the gradient is f32 on fake, the tensor f32 on cpu", y.backward, y,
    tensor.ones({ 1, 2 }, { device = "fake" }))
  T.raises("unknown option 'retain_grap' %(did you mean 'retain_graph'%?%)", y.backward, y:sum(),
    { retain_grap = true })
  T.raises("backward: this tensor does not depend on anything that requires grad", y.backward, tensor.ones { 1 })
  T.raises("requires_grad_: the tensor was computed from others; detach it first", y.requires_grad_, y)
  T.raises("requires_grad_: only f32 tensors, not i32", x.requires_grad_, tensor.zeros({ 2 }, { dtype = "i32" }))
  T.raises("only f32 tensors can require grad, not i8", tensor.zeros, { 2 }, { dtype = "i8", requires_grad = true })
end)

T.test("requires_grad_ turns it off again", function()
  local x = leaf { 1 }
  T.eq(x:requires_grad_(false).requires_grad, false)
  T.eq((x * 2).requires_grad, false)
  T.eq(x:requires_grad_().requires_grad, true)
end)

T.test("a chain 5000 operations deep, and one of 100000 views", function()
  local x = leaf { 1 }
  local y = x
  for _ = 1, 5000 do
    y = y * 1.0001
  end
  y:backward()
  T.near(x.grad:item(), 1.0001 ^ 5000, double and 1e-9 or 1e-3)
  y = x
  for _ = 1, 100000 do
    y = y:reshape(1)
  end
  x:zero_grad()
  y:backward()
  T.eq(x.grad:item(), 1)
  y = nil -- the runner's check of live tensors shows that it is all gone
end)

T.test("an abandoned deep graph is freed", function()
  local start = tensor.memory().tensors
  do
    local y = leaf { 1 }
    for _ = 1, 20000 do
      y = y:tanh()
    end
    T.ok(tensor.memory().tensors > start + 20000)
  end
  collectgarbage()
  collectgarbage()
  T.eq(tensor.memory().tensors, start)
end)

T.test("some outputs of lm_head used, others not", function()
  local h = tensor.randn({ 4, 3 }, { seed = 1, requires_grad = true })
  local w = tensor.randn({ 6, 3 }, { seed = 2, requires_grad = true })
  local ref = tensor.randn({ 4, 3 }, { seed = 3 })
  local options = { hidden_ref = ref, temperature = .7 }
  local function grads(pick)
    h:zero_grad()
    w:zero_grad()
    local logp, entropy, kl = nn.lm_head(h, w, { 0, 5, 2, 2 }, options)
    pick(logp, entropy, kl):sum():backward()
    return ops.flat(h.grad), ops.flat(w.grad)
  end
  local all_h, all_w = grads(function(a, b, c) return a + b * 2 + c * 3 end)
  local sum_h, sum_w = {}, {}
  for i, scale in ipairs { 1, 2, 3 } do
    local gh, gw = grads(function(...) return (select(i, ...)) * scale end)
    for k, v in ipairs(gh) do sum_h[k] = (sum_h[k] or 0) + v end
    for k, v in ipairs(gw) do sum_w[k] = (sum_w[k] or 0) + v end
  end
  T.near(sum_h, all_h, double and 1e-12 or 1e-5)
  T.near(sum_w, all_w, double and 1e-12 or 1e-5)
  T.eq(ref.grad, nil)
  -- a reference that was computed before gives the same bits, with its logits and without
  local reference = nn.lm_reference(ref, w, { 0, 5, 2, 2 }, { temperature = .7 })
  for _ = 1, 2 do
    options = { reference = reference, temperature = .7 }
    local gh, gw = grads(function(a, b, c) return a + b * 2 + c * 3 end)
    T.eq({ gh, gw }, { all_h, all_w })
    reference.logits = nil
  end
  local logp, entropy, kl = nn.lm_head(h, w, { 0, 5, 2, 2 }, { entropy = false })
  T.eq({ logp.shape, entropy, kl }, { { 4 } })
end)

-- few logits wait for backward (runtime/ops_lm.c), many are made again there
T.test("lm_head: gradients are the same whether logits were kept or made again", function()
  local rows, vocab, few = 280, 120000, 256 -- 33.6 million logits, and at most 30.7 million
  local x, w = tensor.randn({ rows, 3 }, { seed = 1 }), tensor.randn({ vocab, 3 }, { seed = 2 })
  local ref, ids = tensor.randn({ rows, 3 }, { seed = 3 }), {}
  for i = 1, rows do
    ids[i] = i * 37 % vocab
  end
  local function grads(first, n)
    local h, u = x:narrow(1, first, n):clone():requires_grad_(), w:clone():requires_grad_()
    local logp, entropy, kl = nn.lm_head(h, u, table.move(ids, first, first + n - 1, 1, {}), { hidden_ref = ref:narrow(1, first, n) })
    local loss = logp + entropy * 2 + kl * 3
    loss:sum():backward()
    return ops.flat(h.grad), u.grad
  end
  local all_h, all_w = grads(1, rows)
  local sum
  for first = 1, rows, few do
    local n = math.min(few, rows - first + 1)
    local gh, gw = grads(first, n)
    sum = sum and sum + gw or gw
    T.eq(gh, table.move(all_h, (first - 1) * 3 + 1, (first + n - 1) * 3, 1, {}))
  end
  T.near((sum - all_w):abs():max():item() / all_w:abs():max():item(), 0, double and 1e-14 or 1e-6) -- other orders of sums
end)

T.test("dropout: backward uses the mask of forward", function()
  local x = tensor.randn({ 7, 11 }, { seed = 1, requires_grad = true })
  local y = nn.dropout(x, .3, { key = 5, stream = 2 })
  y:sum():backward()
  local kept = 0
  for i, g in ipairs(ops.flat(x.grad)) do
    local before, after = ops.flat(x)[i], ops.flat(y)[i]
    T.near(after, before * g, 1e-6)
    kept = kept + (g > 0 and 1 or 0)
    T.ok(g == 0 or math.abs(g - 1 / .7) < 1e-6)
  end
  T.ok(kept > 35 and kept < 70, "about 70% are kept: " .. kept .. " of 77")
end)

T.test("lora_linear with dropout is its parts", function()
  local function make(seed, ...)
    return tensor.randn({ ... }, { seed = seed, requires_grad = true })
  end
  local x, w, a, b = make(1, 6, 5), make(2, 4, 5), make(3, 2, 5), make(4, 4, 2)
  local all = { x, w, a, b }
  local function grads(y)
    for _, t in ipairs(all) do t:zero_grad() end
    local values = ops.flat(y);
    (y * y):sum():backward()
    local list = { values }
    for i, t in ipairs(all) do list[i + 1] = ops.flat(t.grad) end
    return list
  end
  local fused = grads(nn.lora_linear(x, w, a, b, { scale = 1.5, dropout = .4, key = 9, stream = 3 }))
  local dropped = nn.dropout(x, .4, { key = 9, stream = 3 })
  local parts = grads(nn.linear(x, w) + nn.linear(nn.linear(dropped, a), b) * 1.5)
  T.near(fused, parts, double and 1e-12 or 2e-5)
end)

-- `pass` is run with 0, 1, 2 ... allocations allowed until it succeeds: each time a clean error, nothing left
local function starve(leaves, pass)
  local function grads()
    local list = {}
    for i, t in ipairs(leaves) do
      list[i] = ops.flat(t.grad)
      t:zero_grad()
    end
    return list
  end
  local function live()
    collectgarbage()
    collectgarbage()
    return tensor.memory().tensors
  end
  pass():backward()
  local want, start, n, ok = grads(), live(), 0, false
  while not ok do
    local e
    tensor.fail_after(n)
    ok, e = pcall(function() pass():backward() end)
    tensor.fail_after(-1)
    T.ok(ok or tostring(e):find("out of", 1, true), e)
    T.eq(tensor.is_grad_enabled(), true)
    n = n + 1
    if not ok then
      for _, t in ipairs(leaves) do t:zero_grad() end
      T.eq(live(), start, "live tensors after failure " .. n)
    end
  end
  T.ok(n > 100, "failure points: " .. n)
  T.eq(grads(), want)
end

local function random(seed, ...)
  return tensor.randn({ ... }, { seed = seed, requires_grad = true })
end

T.test("memory runs out at every point of a pass: general operations", function()
  local x, w, b = random(1, 3, 4), random(2, 5, 4), random(3, 5)
  starve({ x, w, b }, function()
    local h = nn.linear(x:t():t(), w, b):gelu()
    local q = tensor.cat({ h, h:narrow(2, 1, 3) }, 2):transpose(1, 2)
    local s = nn.layer_norm(q, nil, nil):softmax(1) ^ 2 / (q:square():sum(2, true) + 1)
    local m = tensor.maximum(s, q:mean(1, true)):max(2) + s:logsumexp(2)
    local p = (x:abs() + 1) ^ (x * .5)
    local c = tensor.where(x:gt(0), p, x:expand(3, 4)):cumsum(2):index_select { 3, 1, 3 }
    return m:sum() + tensor.stack({ c, p }):mean() + x:matmul(w:t()):pick({ 1, 0, 4 }):sum()
  end)
end)

T.test("memory runs out at every point of a pass: sequences and the language model", function()
  local x, w, a, b = random(1, 5, 4), random(2, 8, 4), random(3, 2, 4), random(4, 8, 2)
  local g = random(5, 8)
  local offsets = { 0, 2, 5 }
  starve({ x, w, a, b, g }, function()
    local h = nn.rms_norm(nn.lora_linear(x:t():t(), w, a, b, { scale = 2, dropout = .2, key = 3 }), g)
    local q = nn.rope(h:reshape(5, 2, 4), { 0, 1, 0, 1, 2 })
    local k = q:narrow(2, 1, 1)
    local y = nn.attention(q, k, h:reshape(5, 2, 4):narrow(2, 2, 1), offsets):reshape(5, 8)
    y = nn.dropout(nn.swiglu(y, h), .1, { key = 4 })
    local logp, entropy, kl = nn.lm_head(x, w, { 0, 1, 2, 7, 3 }, { hidden_ref = x:detach() + 1 })
    local adv = nn.gae(y:detach(), h:detach(), offsets)
    local loss = nn.ppo_clip(logp, logp:detach(), adv:select(2, 1), .2)
    return loss:sum() + (entropy * kl):sum() + nn.segment_mean(y, offsets):sum() + nn.embedding(y, { 4, 4 }):sum()
  end)
end)
