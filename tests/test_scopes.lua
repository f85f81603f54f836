-- scopes and no_grad belong to the coroutine that began them: several in turn, suspended, dead and abandoned ones

local T = require "t"
local tensor = require "mocl.tensor"

local function live()
  collectgarbage()
  collectgarbage()
  return tensor.memory().tensors
end

local function is_live(t)
  return not tostring(t):find "released"
end

-- ---- in turn ----

T.test("coroutines that have scopes open in turn each release their own", function()
  local before = live()
  local kept, seen = {}, {}
  local function worker(i)
    local s <close> = tensor.scope()
    local mine = {}
    for step = 1, 4 do
      mine[step] = tensor.full({ 2 }, i) * step
      coroutine.yield()
      local inner <close> = tensor.scope()
      mine[#mine + 1] = inner:keep(tensor.ones { 2 })
      coroutine.yield()
      for _, t in ipairs(mine) do
        seen[#seen + 1] = is_live(t)
      end
    end
    kept[i] = s:keep(mine[4])
    return "done"
  end
  local list = {}
  for i = 1, 3 do
    list[i] = coroutine.create(worker)
  end
  local mine = {}
  while #list > 0 do
    for i = #list, 1, -1 do
      local ok, result = coroutine.resume(list[i], i)
      T.ok(ok, result)
      mine[#mine + 1] = tensor.ones { 1 } -- of main: in no scope
      if coroutine.status(list[i]) == "dead" then
        table.remove(list, i)
      end
    end
  end
  for _, ok in ipairs(seen) do
    T.eq(ok, true)
  end
  for i, t in ipairs(mine) do
    T.ok(is_live(t), i)
  end
  for i = 1, 3 do
    T.eq(kept[i]:totable(), { 4.0 * i, 4.0 * i })
  end
  mine, kept = nil, nil
  T.eq(live(), before)
end)

T.test("three coroutines of cqueues that sleep in turn, each in a scope", function()
  local ok, cqueues = pcall(require, "cqueues")
  if not ok then
    T.skip "no cqueues for this Lua"
  end
  local before = live()
  local queue, order, between = cqueues.new(), {}, {}
  for i = 1, 3 do
    queue:wrap(function()
      local s <close> = tensor.scope()
      local x = tensor.full({ 4 }, i)
      cqueues.sleep(.002 * i)
      x = x + 1
      cqueues.sleep(.002 * (4 - i))
      tensor.no_grad(function()
        T.eq(tensor.is_grad_enabled(), false)
        cqueues.sleep(.001)
        T.eq(tensor.is_grad_enabled(), false)
      end)
      T.eq((x * 2):totable()[1], 2.0 * (i + 1))
      order[#order + 1] = i
    end)
  end
  while not queue:empty() do
    assert(queue:step(.01))
    T.eq(tensor.is_grad_enabled(), true)
    between[#between + 1] = tensor.ones { 2 }
  end
  table.sort(order)
  T.eq(order, { 1, 2, 3 })
  for _, t in ipairs(between) do
    T.ok(is_live(t))
  end
  between = nil
  T.eq(live(), before)
end)

T.test("a scope holds for the coroutines that run inside it, as long as they do", function()
  local before = live()
  local co = coroutine.wrap(function()
    local first = tensor.ones { 2 }
    coroutine.yield(first)
    local second = tensor.ones { 2 }
    coroutine.yield(second)
  end)
  local outside = co() -- made with no scope open
  local inside
  do
    local s <close> = tensor.scope()
    inside = co()
    T.ok(is_live(inside))
  end
  T.ok(is_live(outside))
  T.ok(not is_live(inside))
  outside:release()
  co()
  T.eq(live(), before)
end)

T.test("keep hands a tensor to the scope around, also to one of the coroutine that resumed", function()
  local before = live()
  local x, y
  do
    local outer <close> = tensor.scope()
    local co = coroutine.wrap(function()
      do
        local inner <close> = tensor.scope()
        x = inner:keep(tensor.ones { 2 })
      end
      coroutine.yield(is_live(x))
      local inner <close> = tensor.scope()
      y = inner:keep(tensor.ones { 3 })
    end)
    T.eq(co(), true)
    co()
    T.ok(is_live(x) and is_live(y))
  end
  T.ok(not is_live(x) and not is_live(y))
  T.eq(live(), before)
end)

T.test("a scope that is closed by another coroutine than its own", function()
  local before = live()
  local s, x, y
  local co = coroutine.wrap(function()
    s = tensor.scope()
    x = tensor.ones { 2 }
    coroutine.yield()
    y = tensor.ones { 2 }
    coroutine.yield()
  end)
  co()
  local mine = tensor.ones { 2 }
  s:close()
  T.ok(not is_live(x) and is_live(mine))
  co()
  T.ok(is_live(y))
  mine:release()
  y:release()
  T.eq(live(), before)
end)

-- ---- the ends of coroutines ----

-- Ends that leave a scope and a no_grad open. Each gets a function to run in the coroutine.
local ends = {
  error = function(f)
    local co = coroutine.create(function()
      f()
      error "on purpose"
    end)
    T.eq(coroutine.resume(co), false)
    return co
  end,
  close = function(f)
    local co = coroutine.create(function()
      f()
      coroutine.yield()
    end)
    coroutine.resume(co)
    coroutine.close(co)
  end,
  wrap = function(f)
    pcall(coroutine.wrap(function()
      f()
      error "on purpose"
    end))
  end,
  collected = function(f)
    coroutine.wrap(function()
      f()
      coroutine.yield()
    end)()
    collectgarbage()
  end,
  suspended = function(f)
    local co = coroutine.create(function()
      f()
      coroutine.yield()
    end)
    coroutine.resume(co)
    return co
  end,
  returned = function(f)
    local co = coroutine.create(f)
    coroutine.resume(co)
    return co
  end,
}

T.test("what follows a coroutine that ended or waits with a scope open is not in that scope", function()
  local before = live()
  for name, finish in pairs(ends) do
    local left = {}
    local co = finish(function()
      left[1] = tensor.scope()
      tensor.ones { 2 }
    end)
    local x = tensor.ones { 3 }
    local y
    do
      local s <close> = tensor.scope() -- not inside the one that is left
      y = s:keep(tensor.ones { 3 })
    end
    left[1]:close()
    T.ok(is_live(x) and is_live(y), name)
    x:release()
    y:release()
    co = co and nil
  end
  T.eq(live(), before)
end)

T.test("<close> in a coroutine ends its scope when the coroutine is closed, not the one around", function()
  local before = live()
  local x
  local s <close> = tensor.scope()
  local y = tensor.ones { 2 }
  local co = coroutine.create(function()
    local inner <close> = tensor.scope()
    x = tensor.ones { 2 }
    coroutine.yield()
  end)
  coroutine.resume(co)
  T.ok(coroutine.close(co))
  T.ok(not is_live(x) and is_live(y))
  s:close()
  T.eq(live(), before)
end)

T.test("an abandoned coroutine and the tensors of its scope are collected", function()
  local before = live()
  for _ = 1, 20 do
    local co = coroutine.wrap(function()
      local s <close> = tensor.scope()
      local x = tensor.ones { 100 }
      coroutine.yield(x + 1)
    end)
    co()
  end
  T.eq(live(), before)
  local weak = setmetatable({ coroutine.create(function()
    local s <close> = tensor.scope()
    tensor.no_grad(coroutine.yield)
  end) }, { __mode = "v" })
  coroutine.resume(weak[1])
  collectgarbage()
  collectgarbage()
  T.eq(weak[1], nil)
end)

-- ---- no_grad ----

T.test("no_grad holds while its coroutine runs: not for others in between, not once the coroutine is dead", function()
  local w = tensor.ones({ 2 }, { requires_grad = true })
  local function recorded()
    local y <close> = w * 2
    return y.requires_grad
  end
  local function worker()
    tensor.no_grad(function()
      for _ = 1, 3 do
        T.eq(recorded(), false)
        coroutine.yield(recorded())
      end
    end)
    return recorded()
  end
  local a, b = coroutine.wrap(worker), coroutine.wrap(worker)
  for _ = 1, 3 do
    T.eq(a(), false)
    T.eq(recorded(), true)
    T.eq(b(), false)
    T.eq(tensor.is_grad_enabled(), true)
  end
  T.eq({ a(), b() }, { true, true })
  for name, finish in pairs(ends) do
    local co
    if name == "close" then
      co = coroutine.create(function()
        tensor.no_grad(coroutine.yield)
      end)
      coroutine.resume(co)
      T.eq(recorded(), true, name)
      T.ok(coroutine.close(co))
    else
      co = finish(function()
        pcall(tensor.no_grad, error, "inside")
      end)
    end
    T.eq(recorded(), true, name)
    T.eq(co and recorded() or true, true)
  end
  local died = coroutine.create(function()
    tensor.no_grad(error, "on purpose")
  end)
  T.eq(coroutine.resume(died), false)
  T.eq(recorded(), true)
  tensor.no_grad(function()
    T.eq(coroutine.wrap(recorded)(), false) -- resumed inside
    T.eq(coroutine.wrap(function()
      return tensor.no_grad(recorded), recorded()
    end)(), false)
  end)
  T.eq(recorded(), true)
end)

T.test("no_grad passes on arguments, results and errors, also across yields", function()
  local co = coroutine.create(function(...)
    return tensor.no_grad(function(a, b)
      local c = coroutine.yield(a + b)
      return c, c + 1, nil
    end, ...)
  end)
  T.eq({ coroutine.resume(co, 1, 2) }, { true, 3 })
  T.eq(table.pack(coroutine.resume(co, 5)), { true, 5, 6, nil, n = 4 })
  co = coroutine.create(function()
    return pcall(tensor.no_grad, function()
      coroutine.yield()
      error({ code = 7 })
    end)
  end)
  coroutine.resume(co)
  local _, ok, e = coroutine.resume(co)
  T.eq({ ok, e }, { false, { code = 7 } })
  T.eq(tensor.is_grad_enabled(), true)
end)

-- ---- the other setting that is begun and ended ----

T.test("trainings in several coroutines: what a signal does is as before once the last has ended, in whatever order", function()
  local sys, training = require "mocl.sys", require "mocl.train.loop"
  local function start()
    return training.new { run = { quiet = true }, stage = { latest = function() end }, label = "x", total = 1 }
  end
  local function mode()
    local now = sys.on_interrupt "raise"
    sys.on_interrupt(now)
    return now
  end
  local before = mode()
  T.eq(before, "raise")
  local a, b = start(), start()
  T.eq(mode(), "flag")
  a:close()
  a:close()
  T.eq(mode(), "flag")
  b:close()
  T.eq(mode(), before)
  start() -- nobody closes it
  collectgarbage()
  collectgarbage()
  T.eq(mode(), before)
end)

-- ---- scopes and operations ----

T.test("a scope that is closed in the middle of an operation leaves what the operation works on and makes", function()
  local before = live()
  local s = tensor.scope()
  local x, y = tensor.ones { 2 }, tensor.ones { 3 }
  local result = tensor.reshape(x, setmetatable({}, {
    __len = function()
      s:close()
      return 2
    end,
    __index = function(_, i)
      return i
    end,
  }))
  T.eq(result:totable(), { { 1.0, 1.0 } })
  T.ok(not is_live(x) and not is_live(y))
  result:release()
  T.eq(live(), before)
end)
