-- mocl.method.running and mocl.method.kl_controller against their formulas, and through a file and back

local T = require "t"
local json = require "mocl.json"
local kl_controller = require "mocl.method.kl_controller"
local rng = require "mocl.rng"
local running = require "mocl.method.running"

local function rows_of(r, n, shift)
  local rows = {}
  for i = 1, n do
    rows[i] = { 3 * r:normal() + shift, 0.1 * r:normal() - 5 }
  end
  return rows
end

local function moments(rows, k)
  local mean, var = 0, 0
  for _, row in ipairs(rows) do
    mean = mean + row[k] / #rows
  end
  for _, row in ipairs(rows) do
    var = var + (row[k] - mean) ^ 2 / #rows
  end
  return mean, var
end

T.test("count: one batch worked by hand", function()
  -- prior mean 0, variance 1, weight 1e-4; batch 1, 3: mean 2, variance 1, weight 2
  local s = running.new { n = 1 }
  T.eq(s:mean(), { 0.0 })
  T.eq(s:var(), { 1.0 })
  s:update { { 1 }, { 3 } }
  local total = 2.0001
  T.near(s:mean(), { 4 / total }, 1e-15)
  T.near(s:var(), { (1e-4 + 2 + 4 * 1e-4 * 2 / total) / total }, 1e-15)
  T.near(s:state().count, total, 1e-15)
end)

T.test("count: batches of any size give the moments of all rows", function()
  local r = rng.new(1, "running")
  local s, all = running.new { n = 2, kind = "count" }, {}
  for i = 1, 40 do
    local rows = rows_of(r, r:integer(1, 64), i / 10)
    s:update(rows)
    table.move(rows, 1, #rows, #all + 1, all)
  end
  for k = 1, 2 do
    local mean, var = moments(all, k)
    T.near(s:mean()[k], mean, 1e-5, "up to the prior of weight 1e-4")
    T.near(s:var()[k], var, 1e-4)
    T.near(s:std()[k], s:var()[k] ^ 0.5, 1e-15)
  end
  s:start(all)
  for k = 1, 2 do
    local mean, var = moments(all, k)
    T.near({ s:mean()[k], s:var()[k] }, { mean, var }, 1e-12, "start has no prior")
  end
end)

T.test("ema: the moments of the exponentially weighted mixture", function()
  local r, f = rng.new(2, "running"), 0.95
  local s = running.new { n = 2, kind = "ema", factor = f }
  local batches = { rows_of(r, 512, 1) }
  s:start(batches[1])
  for i = 1, 30 do
    batches[#batches + 1] = rows_of(r, 64, i / 5)
    s:update(batches[#batches])
  end
  for k = 1, 2 do
    local mean, square, weight_left = 0, 0, 1
    for b = #batches, 1, -1 do
      local weight = b == 1 and weight_left or weight_left * (1 - f)
      for _, row in ipairs(batches[b]) do
        mean = mean + weight * row[k] / #batches[b]
        square = square + weight * row[k] ^ 2 / #batches[b]
      end
      weight_left = weight_left * f
    end
    T.near(s:mean()[k], mean, 1e-12)
    T.near(s:var()[k], square - mean ^ 2, 1e-10)
  end
  local unstarted = running.new { n = 2, kind = "ema" }
  unstarted:update(batches[1])
  T.eq(unstarted:mean(), running.new({ n = 2, kind = "ema" }):start(batches[1]):mean())
end)

T.test("normalize is equation 18", function()
  local s = running.new { n = 2, kind = "ema" }
  s:start { { 0, 10 }, { 4, 10 } }
  T.eq(s:normalize { 2, 10 }, { 1.0, 1.0 }, "a reward that never varies: the offset")
  T.eq(s:normalize({ 6, 10 }, { offset = 0.5 }), { 1.5, 0.5 })
  -- a reward that did not vary: differences in its own units, nothing is divided by next to nothing
  T.eq(s:normalize { 2, 12 }, { 1.0, 3.0 })
  T.near(running.new({ n = 1 }):start({ { .1 }, { .1 }, { .1 } }):normalize { .9 }, { 1.8 }, 1e-15)
  T.near(running.new({ n = 1 }):start({ { 0 }, { 2e-12 } }):normalize { 2e-12 }, { 1.5 }, 1e-12, "small is not constant")
  T.eq({ running.unit(5, 0) }, { 1.0, false })
  T.eq({ running.unit(5, 2) }, { 4, true })
  T.eq({ running.unit(1e6, 1e-4) }, { 1.0, false }, "what is left of a constant by rounding")
  local row = { 1, 2 }
  T.ok(not rawequal(s:normalize(row), row) and row[1] == 1, "a new list")
  s:mean()[1] = 99
  T.eq(s:mean()[1], 2.0, "mean() is a copy")
end)

T.test("a state through JSON continues with the same digits", function()
  local r = rng.new(3, "running")
  for _, kind in ipairs { "count", "ema" } do
    local s = running.new { n = 2, kind = kind, factor = 0.9 }
    for _ = 1, 5 do
      s:update(rows_of(r, 7, 1 / 3))
    end
    local copy = running.restore(json.decode(json.encode(s:state())))
    T.eq(copy:state(), s:state())
    for _ = 1, 5 do
      local rows = rows_of(r, 7, 1 / 3)
      s:update(rows)
      copy:update(rows)
    end
    T.eq(copy:state(), s:state())
    T.eq(copy:normalize { 1, 2 }, s:normalize { 1, 2 })
  end
end)

T.test("running: mistakes are told", function()
  local s = running.new { n = 2 }
  T.raises("row 2 has 1 numbers, 2 expected", s.update, s, { { 1, 2 }, { 1 } })
  T.raises("row 1, number 2 is .*nan", s.update, s, { { 1, 0 / 0 } })
  T.raises("row 1, number 1 is inf", s.start, s, { { math.huge, 0 } })
  T.eq(s:state(), running.new({ n = 2 }):state(), "nothing was taken in")
  T.raises("not empty", s.update, s, {})
  T.raises("a list of 2 numbers", s.normalize, s, { 1 })
  T.raises("unknown option 'center'", s.normalize, s, { 1, 2 }, { center = 1 })
  T.raises("running.new: unknown option 'N' %(did you mean 'n'%?%)", running.new, { N = 2 })
  T.raises("n is a count", running.new, { n = 0 })
  T.raises("kind is 'count' or 'ema', got 'mean'", running.new, { n = 1, kind = "mean" })
  T.raises("factor is in %[0, 1%), got 1", running.new, { n = 1, kind = "ema", factor = 1 })
  local state = s:state()
  state.var = { 1, -1 }
  T.raises("var 2 is %-1", running.restore, state)
  state.var = { 1 }
  T.raises("var needs 2 numbers", running.restore, state)
end)

T.test("kl_controller: TRL's rule by hand", function()
  local c = kl_controller.adaptive { init_kl_coef = 0.2, target = 6, horizon = 10000 }
  T.eq(c:value(), 0.2)
  T.near(c:update(6, 64), 0.2, 1e-15, "on target")
  T.near(c:update(600, 64), 0.2 * (1 + 0.2 * 64 / 10000), 1e-15, "clipped above")
  T.near(c:update(0, 64), 0.2 * (1 + 0.00128) * (1 - 0.00128), 1e-15, "clipped below")
  T.near(c:update(6.6, 100), 0.2 * (1 + 0.00128) * (1 - 0.00128) * 1.001, 1e-15, "e = 0.1")
  c = kl_controller.adaptive { horizon = 10000 }
  for _ = 1, 200 do
    c:update(1000, 64)
  end
  T.near(c:value(), 0.2 * 1.00128 ^ 200, 1e-12, "at most .128 % a step")
end)

T.test("kl_controller: the floor, and fixed", function()
  local c = kl_controller.adaptive { target = 6, horizon = 600, min = 0.04 }
  for _ = 1, 2000 do
    c:update(0, 64)
  end
  T.eq(c:value(), 0.04)
  T.near(kl_controller.adaptive({ horizon = 1 }):update(0, 64), 0.02, 1e-15, "a tenth of beta at least")
  local f = kl_controller.fixed { init_kl_coef = 0.3 }
  T.eq(f:update(100, 64), 0.3)
  T.eq(kl_controller.fixed():value(), 0.2)
  T.eq(kl_controller.fixed({ init_kl_coef = 0 }):value(), 0.0)
end)

T.test("kl_controller: with many answers a step beta stays positive and comes back", function()
  -- TRL's rule where it holds: up to 4.5 horizons a step
  T.near(kl_controller.adaptive({ horizon = 100 }):update(0, 400), 0.2 * (1 - 0.2 * 4), 1e-15)
  for _, n in ipairs { 500, 501, 1000, 1e6 } do
    local c = kl_controller.adaptive { horizon = 100 }
    for _ = 1, 400 do -- beyond the smallest number, if nothing held it
      c:update(0, n)
      T.ok(c:value() > 0, n)
    end
    for _ = 1, 2000 do -- and beyond the greatest
      c:update(1e9, n)
      T.ok(c:value() < math.huge, n)
    end
    T.ok(c:value() > 1, n)
  end
end)

T.test("kl_controller: a state through JSON", function()
  local c = kl_controller.adaptive { target = 5, horizon = 777, min = 0.01 }
  c:update(7.7, 63)
  local copy = kl_controller.restore(json.decode(json.encode(c:state())))
  T.eq(copy:state(), c:state())
  T.eq(copy:update(1 / 3, 64), c:update(1 / 3, 64))
  local f = kl_controller.restore(kl_controller.fixed({ init_kl_coef = 0.7 }):state())
  T.eq(f:update(9, 9), 0.7)
end)

T.test("kl_controller: mistakes are told", function()
  T.raises("unknown option 'horizn'", kl_controller.adaptive, { horizn = 1 })
  T.raises("unknown option 'target'", kl_controller.fixed, { target = 1 })
  T.raises("horizon is a finite number above 0, got 0", kl_controller.adaptive, { horizon = 0 })
  T.raises("init_kl_coef is a finite number of at least 0", kl_controller.fixed,
    { init_kl_coef = -1 })
  local c = kl_controller.adaptive()
  T.raises("kl is .*nan", c.update, c, 0 / 0, 64)
  T.raises("n_steps is a count, got nil", c.update, c, 1)
  T.raises("kind 'adaptive' or 'fixed'", kl_controller.restore, { kind = "other" })
  T.raises("value is nil", kl_controller.restore, { kind = "fixed" })
end)
