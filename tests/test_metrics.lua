-- mocl.metrics: Kendall's tau against scipy's values, the rest against hand-worked figures. Literals marked scipy come from
-- scipy 1.17.1 (scipy.stats.kendalltau, pearsonr) on the lists below. test_hypervolume has hypervolume and dominance.

local T = require "t"
local metrics = require "mocl.metrics"
local rng = require "mocl.rng"

-- the C library's classic generator, the same in any language: integers in 0 .. 999
local function lcg(seed)
  local x = seed
  return function()
    x = (1103515245 * x + 12345) % (1 << 31)
    return (x >> 16) % 1000
  end
end

local function constant(d, value)
  local list = {}
  for k = 1, d do
    list[k] = value
  end
  return list
end

T.test("kendall_tau: R's values without ties", function()
  local json = require "mocl.json"
  local f = assert(io.open(T.shared("conformance/kendall/scipy_kendalltau_no_ties.json")))
  local cases = json.decode(f:read("a")).cases
  f:close()
  T.ok(#cases >= 10)
  for i, c in ipairs(cases) do
    local tau, p = metrics.kendall_tau(c.x, c.y)
    T.near(tau, c.tau_b, 1e-10, "case " .. i)
    if type(c.p_two_sided_exact) == "number" and #c.x <= 33 then
      T.near(p, c.p_two_sided_exact, 1e-10, "case " .. i)
    end
  end
end)

local function range(n)
  local list = {}
  for i = 1, n do
    list[i] = i
  end
  return list
end

local function close(got, want, msg) -- relative, also for tiny p
  T.ok(math.abs(got - want) <= 1e-11 * math.abs(want) + 1e-15 * math.min(1, math.abs(want)),
    ("%s: got %.17g, want %.17g"):format(msg, got, want))
end

T.test("kendall_tau: scipy's values", function()
  local function case(msg, x, y, tau, p)
    local t, q = metrics.kendall_tau(x, y)
    close(t, tau, msg)
    close(q, p, msg)
  end
  case("ties", { 12, 2, 1, 12, 2 }, { 1, 4, 7, 1, 0 }, -0.4714045207910316, 0.28274545993277467)
  case("ties, tau 0", { 1, 1, 2, 2, 3, 3 }, { 1, 2, 3, 3, 2, 1 }, 0, 1)
  case("one swap of 11", range(11), { 0, 1, 2, 3, 5, 4, 6, 7, 8, 9, 10 }, 0.9636363636363636,
    5.511463844797178e-07)
  case("two", { 1, 2 }, { 2, 1 }, -1, 1)
  case("three", { 1, 2, 3 }, { 1, 3, 2 }, 1 / 3, 1)
  case("three, tie", { 1, 1, 2 }, { 1, 2, 3 }, 0.816496580927726, 0.22067136191984693)

  local next, x, y = lcg(77), {}, {}
  for i = 1, 60 do
    x[i] = next() % 20
  end
  for i = 1, 60 do
    y[i] = next() % 7 + x[i] // 4
  end
  case("60 with ties", x, y, 0.38165394645334433, 6.462988107623127e-05)
  next, y = lcg(78), {}
  for i = 1, 40 do
    y[i] = next()
  end
  case("40 without", range(40), y, 0.023076923076923078, 0.8338872904063295)
  next, y = lcg(79), {}
  for i = 1, 33 do
    y[i] = next()
  end
  case("33 with ties in y", range(33), y, -0.00379507324599999, 0.9752725161422712)
  y = range(100)
  y[4], y[5] = y[5], y[4]
  case("100, one swap: exact", range(100), y, 0.9995959595959597, 2.1430205762509337e-156)
  y = range(100)
  y[4], y[6] = y[6], y[4]
  case("100, three swaps: normal", range(100), y, 0.998787878787879, 4.533843396511429e-49)
  y = {}
  for i = 1, 100 do
    y[i] = -i
  end
  case("100, reversed", range(100), y, -1, 2.143020576250934e-158)
  T.eq({ metrics.kendall_tau(range(200), range(200)) }, { 1.0, 0.0 }, "2 / 200! underflows")
  next, x, y = lcg(80), {}, {}
  for i = 1, 3000 do
    x[i] = next() % 300
  end
  for i = 1, 3000 do
    y[i] = next() % 50 + x[i] // 3
  end
  close(metrics.kendall_tau(x, y), 0.7106198606256893, "3000 with ties")
  for _, c in ipairs { { {}, {} }, { { 1 }, { 1 } }, { { 1, 1, 1 }, { 1, 2, 3 } } } do
    local tau, p = metrics.kendall_tau(c[1], c[2])
    T.ok(tau ~= tau and p ~= p, "NaN where there is no order")
  end
  T.raises("x has 2 entries, y has 1", metrics.kendall_tau, { 1, 2 }, { 1 })
  T.raises("pair 2 is %(2, .*nan%)", metrics.kendall_tau, { 1, 2 }, { 1, 0 / 0 })
  T.raises("entry 1 is a string", metrics.kendall_tau, { "a" }, { 1 })
end)

T.test("kendall_tau: scipy's p-values by either method", function()
  local y = {}
  for i = 1, 60 do -- from 0: 37 i mod 61, a permutation
    y[i] = 37 * i % 61
  end
  local function p_of(x, z, method)
    return (select(2, metrics.kendall_tau(x, z, { method = method })))
  end
  local few = { 3, 1, 2, 5, 4, 8, 6, 7 }
  close(p_of(range(60), y, "exact"), 0.5461705542960704, "60 exact")
  close(p_of(range(60), y, "asymptotic"), 0.5403517973839636, "60 normal")
  close(p_of(range(60), y, "auto"), 0.5403517973839636, "60: normal is the choice")
  close(p_of(range(8), few, "exact"), 0.03115079365079365, "8 exact")
  close(p_of(range(8), few), 0.03115079365079365, "8: exact is the choice")
  close(p_of(range(8), few, "asymptotic"), 0.02595245602237448, "8 normal")
  T.raises("there are ties, and method=exact needs lists without", metrics.kendall_tau, { 1, 1, 2 }, { 1, 2, 3 }, { method = "exact" })
  T.raises("unknown method 'normal' %(auto, exact, asymptotic%)", metrics.kendall_tau, { 1, 2 }, { 1, 2 }, { method = "normal" })
end)

T.test("kendall_tau: p sums over all permutations", function()
  -- n = 5: the exact distribution of the number of inversions, by enumeration
  local n, count, total = 5, {}, 0
  local function permute(prefix, used)
    if #prefix == n then
      local inversions = 0
      for i = 1, n do
        for j = i + 1, n do
          inversions = inversions + (prefix[i] > prefix[j] and 1 or 0)
        end
      end
      count[inversions] = (count[inversions] or 0) + 1
      total = total + 1
      return
    end
    for v = 1, n do
      if not used[v] then
        used[v] = true
        prefix[#prefix + 1] = v
        permute(prefix, used)
        prefix[#prefix] = nil
        used[v] = nil
      end
    end
  end
  permute({}, {})
  for _, c in ipairs { { { 1, 2, 3, 4, 5 }, 0 }, { { 2, 1, 3, 4, 5 }, 1 }, { { 3, 2, 1, 4, 5 }, 3 },
    { { 4, 3, 2, 1, 5 }, 6 }, { { 5, 4, 3, 1, 2 }, 9 } } do
    local tail = 0
    for k, m in pairs(count) do
      if math.abs(k - 5) >= math.abs(c[2] - 5) then
        tail = tail + m
      end
    end
    local tau, p = metrics.kendall_tau(range(5), c[1])
    T.near(tau, 1 - c[2] / 5, 1e-15)
    T.near(p, tail / total, 1e-14, c[2] .. " inversions")
  end
end)

T.test("projection: an angle that does not wrap", function()
  local s, beyond = metrics.projection({ { 1, 0 }, { 0, 1 }, { 1, 1 }, { -3, 1 }, { 1, -3 } },
    { -2, -2 })
  T.eq(beyond, 2)
  for i, p in ipairs { { 3, 2 }, { 2, 3 }, { 3, 3 } } do
    T.near(s[i], math.pi / 2 - math.atan(p[2] / p[1]), 1e-15, "equation 24 as printed")
  end
  T.ok(s[4] < s[2] and s[5] > s[1], "end points beyond the reference stay at the ends")
  T.raises("point 1 needs 2 objectives", metrics.projection, { { 1, 2, 3 } }, { 0, 0 })
  T.raises("reference needs 2", metrics.projection, { { 1, 2 } }, { 0, 0, 0 })
end)

T.test("controllability", function()
  local preferences, rewards = {}, {}
  for i = 0, 10 do
    preferences[i + 1] = { i / 10, 1 - i / 10 }
    rewards[i + 1] = { 1 + 0.2 * i, 3 - 0.1 * i }
  end
  local c = metrics.controllability(preferences, rewards)
  T.eq({ c.kendall_tau, c.beyond }, { 1.0, 0 })
  T.eq(c.kendall_tau_per_objective, { 1.0, 1.0 })
  T.near(c.kendall_p / 5.010421677088344e-08, 1, 1e-12, "2 / 11!, the paper's 5.0e-8")

  rewards[1] = { -2.5, 3.5 } -- the wrap of the printed formula would put this end last
  c = metrics.controllability(preferences, rewards)
  T.eq({ c.kendall_tau, c.beyond }, { 1.0, 1 })
  c = metrics.controllability(preferences, rewards, { reference = { -3, -3 } })
  T.eq({ c.kendall_tau, c.beyond }, { 1.0, 0 })

  local three = { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 }, { 0.5, 0.3, 0.2 } }
  c = metrics.controllability(three, { { 3, 1, 1 }, { 1, 3, 1 }, { 1, 1, -3 }, { 2, 2, 2 } })
  T.eq(c.kendall_p, nil)
  T.eq(c.beyond, 1)
  T.near(c.kendall_tau, (c.kendall_tau_per_objective[1] + c.kendall_tau_per_objective[2] +
    c.kendall_tau_per_objective[3]) / 3, 1e-15)
  T.near(c.kendall_tau_per_objective[1], 1, 1e-15)

  T.raises("2 preferences and 1 rewards", metrics.controllability,
    { { 1, 0 }, { 0, 1 } }, { { 1, 1 } })
  T.raises("preference 1 has 3 entries, 2 expected", metrics.controllability, { { 1, 0, 0 } },
    { { 1, 1 } })
  T.raises("unknown option 'ref'", metrics.controllability, { { 1, 0 } }, { { 1, 1 } }, { ref = 1 })
  T.raises("reference needs 2", metrics.controllability, { { 1, 0 } }, { { 1, 1 } },
    { reference = { 1 } })
end)

T.test("distances", function()
  T.near(metrics.mean_pairwise_distance { { 0, 0 }, { 3, 4 }, { 0, 8 } }, (5 + 8 + 5) / 3, 1e-15)
  T.eq(metrics.mean_pairwise_distance { { 1, 2 } }, 0.0)
  T.eq(metrics.mean_pairwise_distance {}, 0.0)
  T.near(metrics.amvs({ 1.5, 0 }, { 0.5, 0.5 }), 1.25, 1e-15)
  T.near(metrics.nvd({ 2, 0 }, { 0, 5 }), 2 ^ 0.5, 1e-15)
  T.near(metrics.nvd({ 1, 1 }, { -3, -3 }), 2, 1e-15)
  T.near(metrics.nvd({ 1e-200, 1e-200 }, { 1e200, 1e200 }), 0, 1e-15, "length does not matter")
  T.raises("vector b has no direction", metrics.nvd, { 1, 0 }, { 0, 0 })
  T.near(metrics.igd({ { 0, 0 }, { 1, 1 } }, { { 0, 3 }, { 1, 1 } }), 5 ^ 0.5 / 2, 1e-15)
  T.eq(metrics.igd({ { 2, 2 } }, { { 2, 2 } }), 0.0)
  T.raises("front has no points", metrics.igd, { { 1 } }, {})
  T.raises("no points", metrics.igd, {}, { { 1 } })
  T.raises("point 1 has 1 objectives, 2 expected", metrics.igd, { { 1, 2 } }, { { 1 } })
  for _, f in ipairs { metrics.igd, metrics.epsilon } do
    T.raises("point 2, objective 1 is .*nan, not finite", f, { { 1, 2 }, { 0 / 0, 1 } }, { { 1, 2 } })
    T.raises("front point 1, objective 2 is inf, not finite", f, { { 1, 2 } }, { { 1, math.huge } })
  end
end)

T.test("epsilon: the least shift that dominates", function()
  T.eq(metrics.epsilon({ { 1, 3 }, { 3, 1 } }, { { 2, 2 } }), 1.0)
  T.eq(metrics.epsilon({ { 3, 3 } }, { { 2, 2 }, { 1, 3 } }), 0.0)
  T.eq(metrics.epsilon({ { 3, 3 } }, { { 2, 1 } }), -1.0)
  T.eq(metrics.epsilon({ { 3, 3 } }, { { 2, 1 } }, { minimize = true }), 2.0)
  local r = rng.new(6, "epsilon")
  for _ = 1, 20 do
    local a, b = {}, {}
    for i = 1, 10 do
      a[i] = { r:normal(), r:normal(), r:normal() }
      b[i] = { r:normal(), r:normal(), r:normal() }
    end
    local e = metrics.epsilon(a, b)
    local function dominated(shift)
      for _, f in ipairs(b) do
        local ok = false
        for _, p in ipairs(a) do
          ok = ok or (p[1] + shift >= f[1] and p[2] + shift >= f[2] and p[3] + shift >= f[3])
        end
        if not ok then
          return false
        end
      end
      return true
    end
    T.ok(dominated(e + 1e-12) and not dominated(e - 1e-9))
  end
end)

T.test("fixtures: values of pymoo, moocore and SciPy", function()
  local json = require "mocl.json"
  local f = assert(io.open((arg[0]:match("^(.*)/[^/]*$") or ".") .. "/fixtures/metrics.json"))
  local cases = assert(json.decode(f:read("a")))
  f:close()
  T.eq(#cases, 108)
  local function same(got, want, i, what)
    if want == json.null then
      T.ok(got ~= got, ("case %d, %s: got %s, want NaN"):format(i, what, got))
    else
      T.ok(math.abs(got - want) <= 1e-12 * math.max(math.abs(want), 1e-3),
        ("case %d, %s: got %.17g, want %.17g"):format(i, what, got, want))
    end
  end
  for i, c in ipairs(cases) do
    if c.x then
      local tau, p = metrics.kendall_tau(c.x, c.y)
      same(tau, c.tau, i, "tau")
      same(p, c.p, i, "p")
    else
      local d = #c.points[1]
      same(metrics.hypervolume(c.points, constant(d, c.reference)), c.hypervolume, i, "hypervolume")
      same(metrics.igd(c.points, c.front), c.igd, i, "igd")
      same(metrics.epsilon(c.points, c.front), c.epsilon, i, "epsilon")
      same(metrics.epsilon(c.points, c.front, { minimize = true }), c.epsilon_minimize, i, "epsilon down")
      same(metrics.mean_pairwise_distance(c.points), c.mean_pairwise_distance, i, "distance")
      T.eq(metrics.nondominated(c.points), c.nondominated, "case " .. i)
    end
  end
end)

T.test("histogram: counts, edges, what lies outside", function()
  local h = metrics.histogram({ 0, 0.25, 0.5, 0.99, 1, -0.1, 7 }, 0, 1, 4)
  T.eq(h, { low = 0.0, width = 0.25, counts = { 1, 1, 1, 1 }, below = 1, above = 2, n = 7,
    mean = 9.64 / 7 })
  h = metrics.histogram({}, -1, 1, 2)
  T.eq({ h.counts, h.n, h.mean }, { { 0, 0 }, 0, nil })
  T.eq(metrics.histogram({ math.huge, -math.huge }, 0, 1, 1).above, 1)
  local r = rng.new(8, "histogram")
  local list, n = {}, 0
  for i = 1, 1000 do
    list[i] = r:normal()
  end
  h = metrics.histogram(list, -2, 2, 40)
  for b, count in ipairs(h.counts) do
    local want = 0
    for _, v in ipairs(list) do
      want = want + (v >= -2 + 0.1 * (b - 1) and v < -2 + 0.1 * b and 1 or 0)
    end
    T.ok(math.abs(count - want) <= 1, "bin " .. b) -- an edge may round either way
    n = n + count
  end
  T.eq(n + h.below + h.above, 1000)
  T.raises("bins is 0", metrics.histogram, { 1 }, 0, 1, 0)
  T.raises("the range 1 to 1 is empty", metrics.histogram, { 1 }, 1, 1, 3)
  T.raises("entry 2 is .*nan", metrics.histogram, { 1, 0 / 0 }, 0, 1, 3)
end)

T.test("mean_rows", function()
  T.eq(metrics.mean_rows { { 1, 4 }, { 3, 8 } }, { 2.0, 6.0 })
  T.raises("not empty", metrics.mean_rows, {})
  T.raises("row 2", metrics.mean_rows, { { 1, 2 }, { 3 } })
end)

T.test("mean_std, pearson, wilson", function()
  T.eq({ metrics.mean_std { 1, 3 } }, { 2.0, 1.0 })
  T.eq({ metrics.mean_std { 5 } }, { 5.0, 0.0 })
  local _, std = metrics.mean_std { 1e9 + 1, 1e9 + 2, 1e9 + 3 }
  T.near(std, (2 / 3) ^ 0.5, 1e-12, "no cancellation")
  T.raises("not empty", metrics.mean_std, {})
  T.near(metrics.pearson({ 1, 2, 3, 4, 5 }, { 2, 1, 4, 3, 7 }), 0.824163383692134, 1e-14, "scipy")
  T.near(metrics.pearson({ 1, 2, 3 }, { -2, -4, -6 }), -1, 1e-15)
  local flat = metrics.pearson({ 1, 1 }, { 1, 2 })
  T.ok(flat ~= flat)
  T.raises("x has 1 entries, y has 2", metrics.pearson, { 1 }, { 1, 2 })
  local lo, hi = metrics.wilson(15, 20) -- the roots of (share - p)^2 = z^2 p (1 - p) / n
  for _, p in ipairs { lo, hi } do
    T.near((0.75 - p) ^ 2, 1.959963984540054 ^ 2 * p * (1 - p) / 20, 1e-14)
  end
  T.ok(lo < 0.75 and 0.75 < hi)
  T.eq({ metrics.wilson(0, 0) }, { 0.0, 1.0 })
  T.eq((metrics.wilson(0, 10)), 0.0)
  T.eq(select(2, metrics.wilson(10, 10)), 1.0)
  T.raises("11 successes among 10", metrics.wilson, 11, 10)
  T.raises("n is a count", metrics.wilson, 1, 2.5)
end)
