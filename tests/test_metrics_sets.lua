-- Figures of sets of points and bootstrap intervals: the shared table of ten fronts, hand-worked cases, identities that
-- hold on random fronts, and what is refused. Literals marked moocore come from moocore 0.3.2.

local T = require "t"
local metrics = require "mocl.metrics"
local json = require "mocl.json"
local fs = require "mocl.fs"
local rng = require "mocl.rng"

local function from_zero(list)
  for k, i in ipairs(list) do
    list[k] = math.tointeger(i - 1)
  end
  return list
end

local function integers(list)
  for k, i in ipairs(list) do
    list[k] = math.tointeger(i)
  end
  return list
end

local function negated(points)
  local list = {}
  for i, p in ipairs(points) do
    list[i] = {}
    for j, v in ipairs(p) do
      list[i][j] = -v
    end
  end
  return list
end

T.test("the shared table: ten fronts within 1e-12, either way round", function()
  local fronts, count = json.decode(assert(fs.read(T.shared "metrics/fronts.json"))), 0
  for name, f in pairs(fronts) do
    count = count + 1
    for _, minimize in ipairs { false, true } do
      local turn = minimize and negated or function(x) return x end
      local points, known, o, want = turn(f.points), turn(f.known), { minimize = minimize }, f.want
      local reference, ideal = turn { f.reference }[1], turn { f.ideal }[1]
      local function near(figure, got, expected)
        T.ok(math.abs(got - expected) <= 1e-12 * math.max(1, math.abs(expected)),
          ("%s, %s: got %.17g, want %.17g"):format(name, figure, got, expected))
      end
      near("hypervolume", metrics.hypervolume(points, reference, o), want.hypervolume)
      near("igd", metrics.igd(points, known, o), want.igd)
      near("igd_plus", metrics.igd_plus(points, known, o), want.igd_plus)
      near("epsilon", metrics.epsilon(points, known, o), want.epsilon)
      near("r2", metrics.r2(points, ideal, { weights = f.weights, minimize = minimize }),
        want.r2_tchebycheff_of_weights)
      if want.r2_exact then
        near("exact r2", metrics.r2(points, ideal, o), want.r2_exact)
      else
        T.raises("r2: " .. #ideal .. " objectives need weights", metrics.r2, points, ideal, o)
      end
      near("eum", metrics.eum(points, f.weights, o), want.eum)
      near("mul", metrics.mul(points, known, f.weights, o), want.mul)
      near("sparsity", metrics.sparsity(points, o), want.sparsity_nondominated_distinct)
      near("sparsity of all", metrics.sparsity(points, { all = true, minimize = minimize }), want.sparsity_all_points)
      T.eq(metrics.cardinality(points, o), want.cardinality_nondominated_distinct, name)
      T.eq(metrics.cardinality(points, { all = true }), #points, name)
      T.eq(from_zero(metrics.nondominated(points, o)), integers(want.nondominated_0based), name)
      T.eq(from_zero(metrics.supported(points, o)), integers(want.supported_0based), name)
      local list, info = metrics.hypervolume_contributions(points, reference, o)
      local without = metrics.hypervolume_contributions(points, reference,
        { minimize = minimize, ignore_dominated = true })
      T.eq(info.beyond, want.beyond, name)
      for i = 1, #points do
        near("contribution " .. i, list[i], want.contributions[i])
        near("contribution without dominated " .. i, without[i], f.contributions.moocore[i])
      end
    end
  end
  T.eq(count, 10)
end)

T.test("igd_plus: hand-worked, and at the ends of the range of floats", function()
  T.eq(metrics.igd_plus({ { 3, 4 } }, { { 6, 8 } }), 5.0)
  T.eq(metrics.igd_plus({ { 9, 4 } }, { { 6, 8 } }), 4.0, "being better in one objective is no distance")
  T.eq(metrics.igd_plus({ { 9, 9 } }, { { 6, 8 } }), 0.0)
  T.eq(metrics.igd_plus({ { 3, 4 } }, { { 0, 0 } }, { minimize = true }), 5.0)
  T.eq(metrics.igd_plus({ { 0, 0 }, { 1, 0 } }, { { 1, 0 }, { 0, 2 } }), 1.0)
  T.near(metrics.igd_plus({ { 0, 0 } }, { { 3e200, 4e200 } }) / 5e200, 1, 1e-14)
  T.near(metrics.igd_plus({ { 0, 0 } }, { { 3e-200, 4e-200 } }) / 5e-200, 1, 1e-14)
  T.eq(metrics.igd_plus({ { 1.7e308, 0 } }, { { -1.7e308, 1 } }), 1.0, "what is better does not count, however far")
  T.near(metrics.igd_plus({ { 0 } }, { { 1.5e308 }, { 1.5e308 } }) / 1.5e308, 1, 1e-14, "a sum beyond the range")
  T.raises("igd_plus: the result is beyond the range of a float", metrics.igd_plus, { { -1.7e308 } }, { { 1.7e308 } })
end)

T.test("r2: the integral, which fine weights approach, and distances beyond the ideal", function()
  -- one point at distance (1, 1): the mean of max(w, 1 - w)
  T.near(metrics.r2({ { 0, 0 } }, { 1, 1 }), 0.75, 1e-15)
  T.near(metrics.r2({ { 2, 2 } }, { 1, 1 }), 0.75, 1e-15, "points beyond the ideal add their distance")
  T.eq(metrics.r2({ { 1, 1 }, { 0, 0 } }, { 1, 1 }), 0.0)
  T.near(metrics.r2({ { 1, 0 } }, { 1, 3 }), 1.5, 1e-15, "one objective at its ideal: the mean of 3 (1 - w)")
  T.near(metrics.r2({ { 0, 0 } }, { 1e308, 1e308 }) / 1e308, 0.75, 1e-15)
  -- moocore.r2_exact([[5, 5], [4, 6], [2, 7], [7, 4]], ref=[0, 0]), the example of its documentation
  local costs = { { 5, 5 }, { 4, 6 }, { 2, 7 }, { 7, 4 } }
  T.near(metrics.r2(costs, { 0, 0 }, { minimize = true }), 2.5941919191919194, 1e-14)
  local r, points, weights = rng.new(3, "r2"), {}, {}
  for i = 1, 20 do
    points[i] = { r:normal(), r:normal() }
  end
  for i = 1, 20000 do -- midpoints
    weights[i] = { (i - 0.5) / 20000, 1 - (i - 0.5) / 20000 }
  end
  T.near(metrics.r2(points, { 4, 3 }, { weights = weights }), metrics.r2(points, { 4, 3 }), 1e-8)
  T.eq(metrics.r2({ { 1, 2, 3 } }, { 2, 4, 6 }, { weights = { { 0, 0.5, 0.5 } } }), 1.5)
  T.raises("r2: 3 objectives need weights, .* exact for two only", metrics.r2, { { 1, 2, 3 } }, { 2, 4, 6 })
  T.raises("r2: 1 objectives need weights", metrics.r2, { { 1 } }, { 2 })
  T.raises("r2: the result is beyond the range", metrics.r2, { { -1.7e308, 0 } }, { 1.7e308, 0 })
end)

T.test("eum and mul: hand-worked", function()
  local points, weights = { { 4, 0 }, { 0, 2 }, { 1, 1 } }, { { 1, 0 }, { 0, 1 }, { 0.5, 0.5 } }
  T.near(metrics.eum(points, weights), (4 + 2 + 2) / 3, 1e-15)
  T.near(metrics.eum(negated(points), weights, { minimize = true }), (4 + 2 + 2) / 3, 1e-15)
  T.eq(metrics.mul(points, { { 4, 3 } }, weights), 1.5)
  T.eq(metrics.mul(points, { { 3, 1 } }, weights), 0.0)
  T.eq(metrics.mul(points, { { 1, 1 } }, weights), -1.0, "better than the front for all weights")
  T.near(metrics.eum({ { 1.5e308 } }, { { 1 }, { 1 } }) / 1.5e308, 1, 1e-14)
  T.raises("mul: the result is beyond the range", metrics.mul, { { -1.7e308 } }, { { 1.7e308 } }, { { 1 } })
  for name, call in pairs {
    eum = function(w) return metrics.eum(points, w) end,
    mul = function(w) return metrics.mul(points, points, w) end,
    r2 = function(w) return metrics.r2(points, { 5, 5 }, { weights = w }) end,
  } do
    T.raises(name .. ": weight vector 1: {1, 1} sums to 2, not 1", call, { { 1, 1 } })
    T.raises(name .. ": weight vector 2: {1.5, %-0.5} has a negative weight", call, { { 1, 0 }, { 1.5, -0.5 } })
    T.raises(name .. ": weight vector 1: {nan, 1}", call, { { 0 / 0, 1 } })
    T.raises(name .. ": weight vector 1 has 1 entries, 2 objectives expected", call, { { 1 } })
    T.raises(name .. ": weight vector 1: a preference is a list of numbers", call, { 1 })
    T.raises(name .. ": a list of weight vectors that is not empty expected, got none", call, {})
    T.raises(name .. ": a list of weight vectors that is not empty expected, got a number", call, 3)
  end
  T.raises("eum: a list of weight vectors that is not empty expected, got a nil", metrics.eum, points)
end)

T.test("sparsity and cardinality: of the front, or of all rows", function()
  local points = { { 0, 4 }, { 1, 2 }, { 1, 2 }, { 0, 1 }, { 3, 0 } }
  local front, n = metrics.sparsity(points) -- (1 + 4 + 4 + 4) / 2
  T.eq({ front, n }, { 6.5, 3 })
  T.eq({ metrics.sparsity(points, { all = true }) }, { (0 + 0 + 1 + 0 + 4 + 1 + 1 + 0 + 4) / 4, 5 })
  T.eq({ metrics.cardinality(points), metrics.cardinality(points, { all = true }) }, { 3, 5 })
  T.eq(metrics.cardinality(points, { minimize = true }), 2)
  T.eq({ metrics.sparsity { { 1, 2 } } }, { 0.0, 1 })
  T.eq({ metrics.sparsity { { 1, 2 }, { 1, 2 } } }, { 0.0, 1 })
  T.eq(metrics.cardinality {}, 0)
  T.eq(metrics.cardinality { { 0.0, 1 }, { -0.0, 1 } }, 1, "zeros of both signs are one number")
  T.near(metrics.sparsity({ { 0, 1e-100 }, { 1e154, 0 } }) / 1e308, 1, 1e-14)
  T.near(metrics.sparsity({ { 0, 1e-154 }, { 1e-154, 0 } }) / 2e-308, 1, 1e-14)
  T.raises("sparsity: the result is beyond the range", metrics.sparsity, { { 0, 1 }, { 1e200, 0 } })
  T.raises("sparsity: the result is below the range", metrics.sparsity, { { 0, 1e-200 }, { 1e-200, 0 } })
end)

T.test("hypervolume_contributions: what the volume loses, on random fronts with ties", function()
  local r = rng.new(5, "contributions")
  for trial = 1, 120 do
    local d, n, points, reference = r:integer(1, 5), r:integer(1, 9), {}, {}
    for j = 1, d do
      reference[j] = r:integer(0, 1)
    end
    for i = 1, n do
      points[i] = {}
      for j = 1, d do
        points[i][j] = r:integer(0, 4)
      end
    end
    local whole, info = metrics.hypervolume(points, reference)
    local list, found = metrics.hypervolume_contributions(points, reference)
    T.eq(found.beyond, info.beyond)
    for i = 1, n do
      local rest = table.move(points, 1, n, 1, {})
      table.remove(rest, i)
      T.eq(list[i], whole - metrics.hypervolume(rest, reference), ("trial %d, point %d"):format(trial, i))
    end
    T.eq(metrics.hypervolume_contributions(negated(points), negated({ reference })[1], { minimize = true }), list)
  end
  T.eq((metrics.hypervolume_contributions({}, { 0, 0 })), {})
  T.eq({ metrics.hypervolume_contributions({ { 2, 2 }, { 1, 2 }, { 5, -1 } }, { 0, 0 }) },
    { { 2.0, 0.0, 0.0 }, { beyond = 1 } })
  T.eq((metrics.hypervolume_contributions({ { 2, 2 }, { 1, 2 } }, { 0, 0 }, { ignore_dominated = true })), { 4.0, 0.0 })
  -- beside a volume of 1e16 that of the small step is still exact
  T.eq((metrics.hypervolume_contributions({ { 1e16, 1 }, { 1, 1.5 } }, { 0, 0 }))[2], 0.5)
end)

T.test("supported: the only best for some weights", function()
  local function is(want, points, options)
    T.eq(metrics.supported(points, options), want)
  end
  is({}, {})
  is({ 1 }, { { 1, 2, 3 } })
  is({ 2 }, { { 1 }, { 3 }, { 3 }, { 2 } })
  is({ 1, 3 }, { { 0, 2 }, { 1, 1 }, { 2, 0 } }) -- on the segment: never the only best
  is({ 1, 2, 3 }, { { 0, 2 }, { 1.001, 1 }, { 2, 0 } })
  is({ 1, 3 }, { { 0, 2 }, { 0.9, 0.9 }, { 2, 0 } })
  is({ 1, 3 }, { { 0, 10 }, { 0, 10 }, { 10, 0 }, { 1, 1 }, { 4, 4 } }) -- of copies the first
  is({ 1 }, { { 1, 1 }, { 1, 0 }, { 0, 1 } })
  is({ 2, 3 }, { { 1, 1 }, { 1, 0 }, { 0, 1 } }, { minimize = true })
  is({ 1, 2, 3 }, { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 }, { 1 / 3, 1 / 3, 1 / 3 } })
  is({ 1, 2, 3, 4 }, { { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 }, { 0.34, 0.34, 0.34 } })
  -- ahead by a hundred-millionth of the size, and by less than the default margin
  is({ 1, 2, 3 }, { { 0, 2 }, { 1 + 1e-8, 1 }, { 2, 0 } })
  is({ 1, 3 }, { { 0, 2 }, { 1 + 1e-10, 1 }, { 2, 0 } })
  is({ 1, 2, 3 }, { { 0, 2 }, { 1 + 1e-10, 1 }, { 2, 0 } }, { tolerance = 0 })
  is({ 1, 3 }, { { 0, 2 }, { 1, 1 }, { 2, 0 } }, { tolerance = 0 })
  is({ 1, 2, 3 }, { { 0, 2e-9 }, { 1.1e9, 1e-9 }, { 2e9, 0 } }, { tolerance = 0 }) -- no margin, no scales
  is({ 1 }, { { 5, 5 }, { 5 - 1e-12, 5 } }) -- a dominated neighbour takes nothing away
  T.raises("supported: the result is beyond the range", metrics.supported, { { -1.7e308, 1 }, { 1.7e308, 0 } })
  T.raises("supported: tolerance is %-1", metrics.supported, {}, { tolerance = -1 })
end)

-- In two objectives the supported points are the corners of the upper hull, here by the sign of exact cross products.
T.test("supported: the hull of integer points, and weights that show it in three objectives", function()
  local r = rng.new(9, "supported")
  for trial = 1, 150 do
    local points, n = {}, r:integer(1, 14)
    for i = 1, n do
      points[i] = { r:integer(0, 12), r:integer(0, 12) }
    end
    local order, want = metrics.nondominated(points), {}
    table.sort(order, function(i, k)
      return points[i][1] < points[k][1] or points[i][1] == points[k][1] and i < k
    end)
    for _, i in ipairs(order) do
      local c = points[i]
      if #want == 0 or points[want[#want]][1] ~= c[1] then
        while #want >= 2 do
          local a, b = points[want[#want - 1]], points[want[#want]]
          if (b[1] - a[1]) * (c[2] - a[2]) - (b[2] - a[2]) * (c[1] - a[1]) < 0 then
            break
          end
          want[#want] = nil
        end
        want[#want + 1] = i
      end
    end
    table.sort(want)
    T.eq(metrics.supported(points), want, "trial " .. trial)
    T.eq(metrics.supported(points, { tolerance = 0 }), want, "trial " .. trial)
  end
  for _ = 1, 20 do -- whoever is best for random weights is supported
    local points, is = {}, {}
    for i = 1, 30 do
      points[i] = { r:normal(), r:normal(), r:normal(), r:normal() }
    end
    for _, i in ipairs(metrics.supported(points)) do
      is[i] = true
    end
    for _ = 1, 50 do
      local w, most, first = r:dirichlet(4, 0.5), -math.huge, nil
      for i, p in ipairs(points) do
        local u = w[1] * p[1] + w[2] * p[2] + w[3] * p[3] + w[4] * p[4]
        if u > most then
          most, first = u, i
        end
      end
      T.ok(is[first])
    end
  end
end)

T.test("bootstrap: all resamples of few seeds, draws of many", function()
  -- two seeds: 1 with 1/4, 2 with 1/2, 3 with 1/4
  local low, high, info = metrics.bootstrap({ 1, 3 }, { confidence_level = 0.4 })
  T.eq({ low, high, info }, { 2.0, 2.0, { n = 2, estimate = 2.0, exact = true, resamples = 3 } })
  T.eq({ metrics.bootstrap({ 1, 3 }, { confidence_level = 0.5 }) }, { 1.0, 3.0, info })
  -- five seeds by all 5^5 ordered resamples
  local values, means = { 0.3, 1, 2.5, 7, 7.25 }, {}
  for k = 0, 5 ^ 5 - 1 do
    local s, code = 0, math.tointeger(k)
    for _ = 1, 5 do
      s, code = s + values[code % 5 + 1], code // 5
    end
    means[#means + 1] = s / 5
  end
  table.sort(means)
  for _, level in ipairs { 0.5, 0.8, 0.9, 0.95, 0.99 } do
    local k = math.ceil((1 - level) / 2 * 3125)
    low, high, info = metrics.bootstrap(values, { confidence_level = level })
    T.near({ low, high }, { means[k], means[3126 - k] }, 1e-14)
  end
  T.eq({ info.resamples, info.exact }, { 126, true })

  local many, r = {}, rng.new(1, "values")
  for i = 1, 40 do
    many[i] = r:normal()
  end
  low, high, info = metrics.bootstrap(many)
  T.eq({ info.n, info.exact, info.resamples }, { 40, false, 9999 })
  local mean, std = metrics.mean_std(many)
  local half = 1.96 * std / 40 ^ 0.5
  T.near({ low, high }, { mean - half, mean + half }, 0.02, "the normal approximation")
  T.eq({ metrics.bootstrap(many) }, { low, high, info })
  T.ok(metrics.bootstrap(many, { seed = 1 }) ~= low)
end)

T.test("bootstrap: of a figure of each seed, and of another statistic", function()
  local fronts = { { { 1, 1 } }, { { 2, 1 } }, { { 1, 4 }, { 2, 1 } } }
  local calls = 0
  local function volume(front)
    calls = calls + 1
    return metrics.hypervolume(front, { 0, 0 })
  end
  local low, high, info = metrics.bootstrap(fronts, { figure = volume })
  T.eq({ low, high, info }, { metrics.bootstrap { 1, 2, 5 } })
  T.eq(calls, 3)
  local pooled = function(list)
    local all = {}
    for _, front in ipairs(list) do
      table.move(front, 1, #front, #all + 1, all)
    end
    return metrics.hypervolume(all, { 0, 0 })
  end
  low, high, info = metrics.bootstrap(fronts, { statistic = pooled })
  T.eq({ low, high, info.estimate }, { 1.0, 5.0, 5.0 })
  low, high, info = metrics.bootstrap { 1.5e308, 1.5e308 }
  T.eq({ low, high, info.estimate }, { 1.5e308, 1.5e308, 1.5e308 })
  T.raises("bootstrap: 1 entries say nothing", metrics.bootstrap, { 1 })
  T.raises("bootstrap: entry 2 is nan, not finite", metrics.bootstrap, { 1, 0 / 0 })
  T.raises("bootstrap: entry 2 is a table, not a number", metrics.bootstrap, { 1, {} })
  T.raises("bootstrap: entry 1 is 9007199254740993, an integer beyond", metrics.bootstrap, { 9007199254740993, 1 })
  T.raises("bootstrap: the figure of entry 1 is inf, not finite", metrics.bootstrap, { 1, 2 },
    { figure = function() return 1 / 0 end })
  T.raises("bootstrap: the statistic is a nil", metrics.bootstrap, { 1, 2 }, { statistic = function() end })
  T.raises("bootstrap: the statistic of a resample is nan", metrics.bootstrap, { 1, 2 },
    { statistic = function(list) return list[1] == list[2] and 0 / 0 or 1 end })
  T.raises("bootstrap: confidence_level is 95", metrics.bootstrap, { 1, 2 }, { confidence_level = 95 })
  T.raises("bootstrap: n_resamples is 0", metrics.bootstrap, { 1, 2 }, { n_resamples = 0 })
  T.raises("bootstrap: seed is x", metrics.bootstrap, { 1, 2 }, { seed = "x" })
  T.raises("bootstrap: unknown option 'level'", metrics.bootstrap, { 1, 2 }, { level = 0.9 })
  T.raises("bootstrap: figure is a string", metrics.bootstrap, { 1, 2 }, { figure = "igd" })
  T.raises("bootstrap: a list with one entry for each seed expected, got a nil", metrics.bootstrap)
end)

-- every figure of points, called with points first; in brackets, since a tail call leaves no caller to place errors at
local FIGURES = {
  cardinality = function(p, o) return (metrics.cardinality(p, o)) end,
  eum = function(p, o) return (metrics.eum(p, { { 0.5, 0.5 } }, o)) end,
  hypervolume_contributions = function(p, o) return (metrics.hypervolume_contributions(p, { 0, 0 }, o)) end,
  igd_plus = function(p, o) return (metrics.igd_plus(p, { { 1, 1 } }, o)) end,
  mul = function(p, o) return (metrics.mul(p, { { 1, 1 } }, { { 0.5, 0.5 } }, o)) end,
  r2 = function(p, o) return (metrics.r2(p, { 1, 1 }, o)) end,
  sparsity = function(p, o) return (metrics.sparsity(p, o)) end,
  supported = function(p, o) return (metrics.supported(p, o)) end,
}

T.test("what is no set of points is refused by every figure, with its name and place", function()
  for name, f in pairs(FIGURES) do
    local function is(text, p, o)
      T.raises(name .. ": " .. text, f, p, o)
    end
    is("a list of points expected, got a number", 3)
    is("point 2 is a number, not a list of numbers", { { 1, 2 }, 3 })
    is("point 2 has 3 objectives, 2 expected", { { 1, 2 }, { 1, 2, 3 } })
    is("point 1 has 0 objectives", { {} })
    is("point 1, objective 2 is a string, not a number", { { 1, "2" } })
    is("point 2, objective 1 is nan, not finite", { { 1, 2 }, { 0 / 0, 1 } })
    for _, minimize in ipairs { false, true } do
      is("point 1, objective 1 is %-inf, not finite", { { -math.huge, 1 } }, { minimize = minimize })
      is("point 1, objective 1 is inf, not finite", { { math.huge, 1 } }, { minimize = minimize })
      is("point 1, objective 2 is 9007199254740993, an integer beyond 2%^53", { { 1, 9007199254740993 } },
        { minimize = minimize })
    end
    is("unknown option 'maximise'", { { 1, 2 } }, { maximise = true })
    is("minimize is a number %(true or false expected%)", { { 1, 2 } }, { minimize = 1 })
    is("a table of options expected, got number", { { 1, 2 } }, 3)
    local ok, reason = pcall(f, { { 1, 0 / 0 } })
    T.ok(not ok and reason:find("test_metrics_sets", 1, true), "placed at the caller: " .. tostring(reason))
  end
  for _, name in ipairs { "eum", "igd_plus", "mul", "r2", "sparsity" } do
    T.raises(name .. ": there are no points", FIGURES[name], {})
    T.raises(name .. ": there are no points", FIGURES[name], setmetatable({}, { __len = function() return -3 end }))
  end
  T.eq({ FIGURES.cardinality {}, FIGURES.supported {}, (FIGURES.hypervolume_contributions {}) }, { 0, {}, {} })
  local pair = { { 0.5, 0.5 } }
  for name, f in pairs {
    igd_plus = function(front) return metrics.igd_plus({ { 1, 1 } }, front) end,
    mul = function(front) return metrics.mul({ { 1, 1 } }, front, pair) end,
  } do
    T.raises(name .. ": there are no front points", f, {})
    T.raises(name .. ": a list of front points expected, got a nil", f)
    T.raises(name .. ": front point 1 has 1 objectives, 2 expected", f, { { 1 } })
    T.raises(name .. ": front point 1, objective 1 is nan", f, { { 0 / 0, 1 } })
  end
  T.raises("r2: ideal 1, objective 1 is inf", metrics.r2, { { 1, 1 } }, { math.huge, 1 })
  T.raises("r2: the ideal is a nil %(a list of 2 numbers", metrics.r2, { { 1, 1 } })
  local contributions = metrics.hypervolume_contributions
  T.raises("contributions: reference 1, objective 2 is nan", contributions, { { 1, 1 } }, { 0, 0 / 0 })
  T.raises("contributions: the reference is a nil", contributions, { { 1, 1 } })
  T.raises("contributions: point 1 has 3 objectives, 2 expected", contributions, { { 1, 1, 1 } }, { 0, 0 })
  T.raises("all is a number", metrics.sparsity, { { 1, 1 } }, { all = 1 })
end)
