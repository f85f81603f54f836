-- optimisers against PyTorch's (fixtures/optim.json), clipping, state, schedules

local T = require "t"
local ops = require "fixtures.ops"
local json = require "mocl.json"
local optim = require "mocl.optim"
local tensor = require "mocl.tensor"

-- f32: six steps of a few roundings each; Adam divides by a square root that may be near eps
local TOL = ops.is_double and 2e-8 or 2e-6

local function parameters(case, device)
  local list = {}
  for i, p in ipairs(case.params) do
    list[i] = tensor.new(p.data, { device = device }):reshape(p.shape):requires_grad_()
  end
  return list
end

-- the gradient of p becomes g
local function give(p, g)
  p:zero_grad()
  p:backward(tensor.new(g, { device = p.device }):reshape(p.shape))
end

local function near(got, want, what)
  local d, at = ops.distance(got, want)
  T.ok(#got == #want and d <= TOL, ("%s: entry %d is %.9g, not %.9g"):format(what, at, got[at] or 0, want[at] or 0))
end

for _, device in ipairs(T.devices) do
  T.test("a step ahead is the same step, and its norm comes in parts, on " .. device, function()
    for _, kind in ipairs { "adamw", "sgd" } do
      for _, clip in ipairs { 0, 1, 100 } do
        local pair, norms = {}, {}
        for i = 1, 2 do
          local p, q = tensor.randn({ 40, 70 }, { key = 1, device = device }):requires_grad_(), tensor.randn({ 5 }, { key = 2, device = device }):requires_grad_()
          local opt = optim[kind]({ p, q }, { lr = .1 })
          norms[i] = {}
          for n = 1, 3 do
            give(p, tensor.randn({ 40 * 70 }, { key = 10 * n }):totable())
            give(q, { n, 2, 3, 4, 5 })
            norms[i][n] = opt:step { max_grad_norm = clip, ahead = i == 2 }
          end
          pair[i] = { p:totable(), q:totable(), opt:steps() }
        end
        T.eq(pair[1], pair[2])
        for n = 1, 3 do
          local a, b, c = table.unpack(norms[2][n]:totable())
          T.eq({ norms[2][n].shape, norms[2][n].device, a + b + c }, { { 3 }, device, norms[1][n] })
        end
      end
    end
    local p = tensor.new({ 1, 2 }, { device = device }):requires_grad_()
    local opt = optim.adamw { { "first", p } }
    give(p, { 1, 0 / 0 })
    if device:find "cuda" then -- which learns of it later
      opt:step { ahead = true }
      T.eq({ p:totable(), opt:steps(0) }, { { 1, 2 }, 0 })
    else
      T.raises("step: the gradient of first %(2%) is not finite %(%-?nan at %[2%]%); nothing was changed", opt.step, opt, { ahead = true })
    end
    T.raises("step: the gradient of first %(2%) is not finite %(%-?nan at %[2%]%); nothing was changed", opt.check, opt, 0 / 0)
    T.raises("the square of a gradient of norm 1e%+20 is not finite", opt.check, opt, 1e20)
    opt:check(1e20, { max_grad_norm = 1 })
    opt:check(3)
    T.eq(opt:steps(), 0)
  end)
end

for number, case in ipairs(ops.load("optim")) do
  for _, device in ipairs(T.devices) do
    local label = ("%s %s%s on %s"):format(case.kind, json.encode(case.options),
      case.clip ~= json.null and " clip " .. case.clip or "", device)
    T.test(label, function()
      local list = parameters(case, device)
      local opt = optim[case.kind](list, case.options)
      for n, step in ipairs(case.steps) do
        for i, p in ipairs(list) do
          give(p, step.grads[i])
        end
        local norm = opt:step { max_grad_norm = case.clip ~= json.null and case.clip or nil }
        T.near(norm, step.norm, TOL, "norm before clipping")
        for i, p in ipairs(list) do
          near(ops.flat(p), step.params[i], ("step %d parameter %d"):format(n, i))
        end
      end
      T.eq(opt:steps(), #case.steps)
      local state = opt:state()
      for which, want in ipairs(case.state) do
        for i, values in ipairs(want) do
          near(ops.flat(state[which == 1 and "first" or "second"][i]), values, "state " .. which)
        end
      end
      collectgarbage()
      collectgarbage()
      T.eq(tensor.memory().broken_guards, 0)
    end)
  end
  if number == 1 then
    T.test("state round trip: two halves are one run", function()
      local function run(list, opt, first, last)
        for n = first, last do
          for i, p in ipairs(list) do
            give(p, case.steps[n].grads[i])
          end
          opt:step()
        end
      end
      local whole = parameters(case, "cpu")
      run(whole, optim.adamw(whole, case.options), 1, 6)
      local first = parameters(case, "cpu")
      local opt = optim.adamw(first, case.options)
      run(first, opt, 1, 3)
      local saved = { steps = opt:steps(), state = opt:state(), params = {} }
      local second = parameters(case, "cpu")
      for i, p in ipairs(first) do
        tensor.no_grad(second[i].copy_, second[i], p)
      end
      local other = optim.adamw(second, case.options)
      local state = other:state()
      for _, which in ipairs { "first", "second" } do
        for i, t in ipairs(state[which]) do
          t:copy_(saved.state[which][i])
        end
      end
      T.eq(other:steps(saved.steps), 3)
      run(second, other, 4, 6)
      for i, p in ipairs(whole) do
        T.eq(ops.flat(second[i]), ops.flat(p), "bit for bit")
      end
    end)
  end
end

local function one(v)
  local p = tensor.new({ v }, { requires_grad = true })
  return p, { p }
end

-- kernels take them some at a time
for _, device in ipairs(T.devices) do
  T.test("70 parameters of many sizes: each as by itself, one norm, on " .. device, function()
    local together, alone = {}, {}
    for i = 1, 70 do
      local n = i == 33 and 5000 or i == 50 and 4096 or i * 37 % 300 + 1
      for _, list in ipairs { together, alone } do
        list[i] = tensor.randn({ n }, { seed = i }):to(list == together and device or "cpu"):requires_grad_()
      end
    end
    local opt, squares = optim.adamw(together, { lr = .1 }), 0
    for i, p in ipairs(alone) do
      local one, g = optim.adamw({ p }, { lr = .1 }), tensor.randn(p.shape, { seed = 100 + i })
      if i ~= 40 then -- which has no gradient
        p:backward(g)
        together[i]:backward(g:to(device))
        squares = squares + g:square():sum():item()
      end
      one:step()
    end
    T.near(opt:step() / math.sqrt(squares), 1, 1e-6)
    for i, p in ipairs(alone) do
      T.near(together[i]:to("cpu"):totable(), p:totable(), 1e-6, "parameter " .. i)
    end
  end)
end

T.test("a step skips parameters without a gradient", function()
  local p, q = one(1), one(2)
  local opt = optim.adamw({ p, q }, { lr = .1, weight_decay = .5 })
  T.eq(opt:step(), 0)
  T.eq({ p:item(), q:item() }, { 1, 2 }, "not even decayed")
  give(q, { 3 })
  T.eq(opt:step(), 3)
  T.eq(p:item(), 1)
  T.ok(q:item() < 2)
end)

T.test("lr holds for one step", function()
  local p, list = one(1)
  local opt = optim.sgd(list, { lr = .5 })
  give(p, { 1 })
  opt:step { lr = .25 }
  T.eq(p:item(), .75)
  opt:step()
  T.eq(p:item(), .25)
  opt:step { lr = 0 }
  T.eq(p:item(), .25)
end)

T.test("clipping by the common norm", function()
  local p, q = tensor.new({ 0, 0 }, { requires_grad = true }), one(0)
  local function grads()
    give(p, { 3, 0 })
    give(q, { 4 })
  end
  grads()
  local opt = optim.sgd({ p, q }, { lr = 1 })
  T.eq(opt:step { max_grad_norm = 1 }, 5)
  T.near(p:totable(), { -.6, 0 }, 1e-6)
  T.near(q:item(), -.8, 1e-6)
  T.eq(p.grad:totable(), { 3, 0 }, "the gradient itself is left alone")
  T.near(optim.clip_grad_norm({ p, q }, 1), 5, 1e-6)
  T.near(p.grad:totable(), { .6, 0 }, 1e-6)
  T.near(q.grad:item(), .8, 1e-6)
  local before = q.grad:item()
  T.near(optim.clip_grad_norm({ p, q }, 10), 1, 1e-5)
  T.eq(q.grad:item(), before, "a short gradient stays")
  p:zero_grad()
  q:zero_grad()
  T.eq(optim.clip_grad_norm({ p, q }, 1), 0)
  T.raises("clip_grad_norm: max_norm must be positive, got 0", optim.clip_grad_norm, { p }, 0)
end)

T.test("zero_grad, release, and what is refused", function()
  local p, list = one(1)
  local opt = optim.adamw(list)
  give(p, { 1 })
  opt:zero_grad()
  T.eq(p.grad, nil)
  T.raises("a list of at least one parameter is needed", optim.adamw, {})
  T.raises("entry 1 is a number, not a tensor", optim.sgd, { 3 })
  T.raises("optimiser: parameter 1 is not a contiguous f32 leaf that requires grad", optim.adamw,
    { tensor.zeros { 2 } })
  T.raises("parameter 2 is not a contiguous", optim.adamw, { p, p * 2 })
  T.raises("parameter 1 is not a contiguous", optim.adamw, { tensor.zeros({ 2, 3 }):t():requires_grad_() })
  T.raises("unknown option 'beta' %(did you mean 'betas'%?%)", optim.adamw, list, { beta = .9 })
  T.raises("bad option 'lr' %(%-1.0 must be 0 or more%)", optim.adamw, list, { lr = -1 })
  T.raises("bad option 'eps' %(0.0 must be positive%)", optim.adamw, list, { eps = 0 })
  T.raises("bad option 'betas' %(1.0 is outside %[0, 1%)%)", optim.adamw, list, { betas = { .9, 1 } })
  T.raises("unknown option 'betas'", optim.sgd, list, { betas = { 0, 0 } })
  T.raises("steps must be 0 or more", opt.steps, opt, -1)
  opt:release()
  T.raises("was released", opt.step, opt)
end)

T.test("the optimiser keeps its parameters alive", function()
  local opt
  do
    local p, list = one(1)
    opt = optim.sgd(list, { lr = 1 })
    give(p, { 1 })
    p:release()
  end
  collectgarbage()
  T.eq(opt:step(), 1)
end)

T.test("AdamW finds the minimum of a quadratic", function()
  local p, list = one(5)
  local opt = optim.adamw(list, { lr = .1 })
  for _ = 1, 300 do
    local scope <close> = tensor.scope()
    opt:zero_grad();
    (p - 2):square():sum():backward()
    opt:step()
  end
  T.near(p:item(), 2, 1e-3)
end)

-- ---- schedules ----

local function values(f, ...)
  local list = {}
  for i, step in ipairs { ... } do
    list[i] = f(step)
  end
  return list
end

T.test("schedules", function()
  local s = optim.schedule
  T.near(values(s.linear { total = 10 }, 0, 1, 5, 10, 11), { 1, .9, .5, 0, 0 }, 1e-12)
  T.near(values(s.linear { warmup = 4, total = 12 }, 0, 1, 3, 4, 8, 12, 20), { 0, .25, .75, 1, .5, 0, 0 }, 1e-12)
  T.near(values(s.linear { total = 10, final = .2 }, 0, 5, 10, 99), { 1, .6, .2, .2 }, 1e-12)
  T.near(values(s.cosine { total = 8 }, 0, 2, 4, 6, 8, 9), { 1, (1 + math.sqrt(.5)) / 2, .5,
    (1 - math.sqrt(.5)) / 2, 0, 0 }, 1e-12)
  T.near(values(s.cosine { warmup = 2, total = 4, final = .1 }, 0, 1, 2, 3, 4, 5), { 0, .5, 1, .55, .1, .1 }, 1e-12)
  T.near(values(s.constant(), 0, 1, 1000), { 1, 1, 1 }, 0)
  T.near(values(s.constant { warmup = 2 }, 0, 1, 2, 3), { 0, .5, 1, 1 }, 0)
  T.near(values(s.linear { warmup = 3, total = 3 }, 0, 3, 4), { 0, 0, 0 }, 0)
  -- from_zero = false: the step that is about to be taken counts
  local f = s.linear { warmup = 2, total = 6, from_zero = false }
  T.near({ f(0), f(1), f(2), f(3), f(5), f(6), f(9) }, { 1 / 2, 1, 1, 3 / 4, 1 / 4, 0, 0 }, 1e-15)
  f = s.constant { warmup = 4, from_zero = false }
  T.eq({ f(0), f(3), f(4), f(99) }, { 0.25, 1.0, 1, 1 })
  T.raises("schedule.linear: give total=, the number of steps", s.linear, {})
  T.raises("schedule.cosine: warmup 5 is longer than the total 4", s.cosine, { warmup = 5, total = 4 })
  T.raises("schedule.linear: unknown option 'steps' %(known: warmup, total, final, from_zero%)", s.linear, { steps = 4 })
  T.raises("schedule.linear: total must be a number, 0 or more", s.linear, { total = "4" })
end)
