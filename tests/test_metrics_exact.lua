-- mocl.metrics at the ends of what numbers hold: integers beyond 2^53, infinities, sizes whose squares are beyond a float;
-- and what counts as dominated beyond noise

local T = require "t"
local metrics = require "mocl.metrics"

local function constant(d, value)
  local list = {}
  for k = 1, d do
    list[k] = value
  end
  return list
end

T.test("integers beyond 2^53 are compared exactly or refused", function()
  local B = 1 << 53
  T.eq((metrics.kendall_tau({ B, B + 1, B + 2, B + 3 }, { 1, 2, 3, 4 })), 1.0)
  T.eq((metrics.kendall_tau({ 1, 2, 3, 4 }, { B + 3, B + 2, B + 1, B })), -1.0)
  T.eq({ metrics.kendall_tau({ B + 1, B, B + 2, B, B + 3 }, { 2, 1, 5, 3, 3.5 }) },
    { metrics.kendall_tau({ 2, 1, 3, 1, 4 }, { 2, 1, 5, 3, 3.5 }) })
  -- integers beside floats that are near them, and beyond all integers
  T.near((metrics.kendall_tau({ math.mininteger, -2.0 ^ 63, math.maxinteger - 1, math.maxinteger, 2.0 ^ 63 }, { 0, 0, 1, 2, 3 })), 1, 1e-15)
  T.near((metrics.kendall_tau({ B + 1, B - 1.0, B, 0.5, -.5, 0 }, { 6, 4, 5, 3, 1, 2 })), 1, 1e-15)
  T.near(metrics.controllability({ { 1, 0, 0 }, { 0, 1, 0 }, { 0, 0, 1 } }, { { B + 1, 0, 0 }, { B, 1, 0 }, { B, 0, 1 } })
    .kendall_tau_per_objective[1], 1, 1e-15)
  T.eq(metrics.nondominated { { B, 1 }, { B + 1, 1 }, { B + 1, 0 } }, { 2 })
  T.eq(metrics.nondominated({ { B, 1 }, { B + 1, 1 }, { B + 1, 0 } }, { minimize = true }), { 1, 3 })
  T.eq(metrics.nondominated { { B, 1, 1 }, { B + 1, 1, 1 }, { 2.0 ^ 53, 1, 1 } }, { 2 })
  local one = { { 1, 1 } }
  for _, f in ipairs {
    function() metrics.hypervolume({ { B + 1, 1 } }, { 0, 0 }) end, function() metrics.hypervolume(one, { -B - 1, 0 }) end,
    function() metrics.igd({ { B + 1, 1 } }, one) end, function() metrics.igd(one, { { 1, B + 1 } }) end,
    function() metrics.epsilon({ { B + 1, 1 } }, one) end, function() metrics.mean_pairwise_distance { { B + 1, 1 }, { 0, 0 } } end,
    function() metrics.projection({ { B + 1, 1 } }, { 0, 0 }) end, function() metrics.amvs({ B + 1 }, { 0 }) end,
    function() metrics.nvd({ B + 1, 0 }, { 0, 1 }) end, function() metrics.mean_std { B + 1 } end,
    function() metrics.mean_rows { { B + 1 } } end, function() metrics.histogram({ B + 1 }, 0, 1, 2) end,
    function() metrics.pearson({ 1, B + 1 }, { 1, 2 }) end,
  } do
    T.raises("9007199254740993, an integer beyond 2%^53 that is not exact as a float: shift or scale", f)
  end
  T.eq(metrics.hypervolume({ { B + 2, 1 } }, { 0, 0 }), 2.0 ^ 53 + 2, "one that a float holds")
  T.eq((metrics.mean_std { math.maxinteger // 2 + 1, math.maxinteger // 2 + 1, math.maxinteger // 2 + 1 }), 2.0 ^ 62, "sums do not wrap")
end)

T.test("what is not finite is told with its own sign, whichever way is better", function()
  local inf = math.huge
  for _, sign in ipairs { 1, -1 } do
    local word = sign > 0 and "inf" or "%-inf"
    for _, minimize in ipairs { false, true } do
      local o = { minimize = minimize }
      T.raises("^point 1, objective 2 is " .. word .. ", not finite", metrics.hypervolume, { { 1, sign * inf } }, { 0, 0 }, o)
      T.raises("reference 1 is " .. word .. ", not finite", metrics.hypervolume, { { 1, 1 } }, { sign * inf, 0 }, o)
      T.raises("^point 2, objective 1 is " .. word .. ", not finite", metrics.nondominated, { { 1, 1 }, { sign * inf, 0 } }, o)
      T.raises("^point 1, objective 1 is " .. word .. ", not finite", metrics.epsilon, { { sign * inf, 1 } }, { { 1, 1 } }, o)
      T.raises("^front point 1, objective 1 is " .. word .. ", not finite", metrics.epsilon, { { 1, 1 } }, { { sign * inf, 1 } }, o)
      T.raises("^point 1, objective 1 is " .. word .. ", not finite", metrics.igd, { { sign * inf, 1 } }, { { 1, 1 } }, o)
      T.raises("objective 1 the reference " .. (minimize and "%-4 is better than point 1, 3" or "3 is better than point 1, %-4"),
        metrics.hypervolume, { { minimize and 3 or -4, 1 } }, { minimize and -4 or 3, 1 }, { minimize = minimize, strict = true })
    end
    T.raises("^point 1, objective 1 is " .. word, metrics.mean_pairwise_distance, { { sign * inf } })
  end
  T.raises("^point 1, objective 1 is nan, not finite", metrics.nondominated, { { 0 / 0, 1 } }, { minimize = true })
end)

T.test("the range of floats: distances are scaled, what is beyond it is told", function()
  local near = function(got, want) T.near(got / want, 1, 1e-14) end
  near(metrics.igd({ { 1e200, 0 } }, { { 0, 1e200 } }), 2 ^ .5 * 1e200)
  near(metrics.igd({ { 1e-200, 0 } }, { { 0, 1e-200 } }), 2 ^ .5 * 1e-200)
  near(metrics.igd({ { 1.5e308, 0 } }, { { 0, 0 }, { 0, 0 }, { 0, 0 } }), 1.5e308)
  near(metrics.mean_pairwise_distance { { 3e200, 0 }, { 0, 4e200 } }, 5e200)
  near(metrics.mean_pairwise_distance { { 1e308, 0 }, { 0, 0 }, { -.5e308, 0 }, { .5e308, 0 } }, 5 / 6 * 1e308)
  T.near({ metrics.mean_std { 1e200, 3e200 } }, { 2e200, 1e200 }, 1e186)
  T.near(metrics.pearson({ 1e200, 2e200, 3e200 }, { 1, 2, 4 }), metrics.pearson({ 1, 2, 3 }, { 1, 2, 4 }), 1e-14)
  T.raises("igd: the result is beyond the range of a float", metrics.igd, { { 1.7e308 } }, { { -1.7e308 } })
  T.raises("epsilon: the result is beyond the range", metrics.epsilon, { { -1.7e308 } }, { { 1.7e308 } })
  T.raises("mean_pairwise_distance: the result is beyond the range", metrics.mean_pairwise_distance, { { -1.7e308 }, { 1.7e308 } })
  near(select(2, metrics.mean_std { 1e-200, 3e-200 }), 1e-200)
  near(metrics.pearson({ 1e-200, 2e-200, 4e-200 }, { 1, 2, 3 }), metrics.pearson({ 1, 2, 4 }, { 1, 2, 3 }))
  near(metrics.histogram({ 1.7e308, 1.7e308, -1e307 }, 0, 1, 2).mean, 1.1e308)
  T.eq(metrics.histogram({ math.huge, 1 }, 0, 1, 2).mean, math.huge)
  T.raises("amvs: the result is beyond the range", metrics.amvs, { 1e200 }, { 0 })
  T.raises("amvs: preference 1 is nan", metrics.amvs, { 1 }, { 0 / 0 })
  T.raises("nvd: vector b, entry 2 is nan", metrics.nvd, { 1, 0 }, { 1, 0 / 0 })
  T.raises("projection: second objective of point 2 is nan", metrics.projection, { { 1, 1 }, { 1, 0 / 0 } }, { 0, 0 })
  T.raises("contributions: point 2 is too far from the reference", metrics.hypervolume_contributions, { { 1, 1 }, { 1e308, 1 } }, { -1e308, 0 })
  T.raises("test_metrics_exact[^:]*:%d+: hypervolume: the volume is beyond", function()
    local list = metrics.hypervolume_contributions({ { 1e200, 1e200 } }, { 0, 0 })
    return list
  end)
  for d = 2, 4 do
    T.raises("hypervolume: the volume is beyond the range of a float: scale", metrics.hypervolume, { constant(d, 1e200) }, constant(d, 0))
    T.raises("hypervolume: the volume is below the range of a float: scale", metrics.hypervolume, { constant(d, 1e-200) }, constant(d, 0))
  end
  for _, f in ipairs { metrics.igd, metrics.epsilon } do
    T.raises("unknown option 'ref'", f, { { 1 } }, { { 1 } }, { ref = 1 })
    T.eq(f({ { 1 } }, { { 1 } }, { minimize = true }), 0.0)
  end
  T.raises("unknown option 'minimize'", metrics.mean_pairwise_distance, { { 1 } }, { minimize = true })
  T.raises("entry 1 is a string", metrics.igd, { { "1" } }, { { 1 } }) -- not read as a number
end)

T.test("what is near the range of floats, or beyond 2^53, is not compared as another number", function()
  local big = (1 << 53) + 1
  -- angles of differences that a float does not hold
  local scores, beyond = metrics.projection({ { 1e308, .5e308 }, { 1e308, 1e308 }, { 1, 2 } }, { -1e308, -1e308 })
  T.near(scores, { math.atan(2, 1.5), math.pi / 4, math.pi / 4 }, 1e-15)
  T.eq(beyond, 0)
  T.eq(metrics.projection({ { 3, 4 } }, { 1, 1 })[1], math.atan(2, 3))
  T.raises("dominated: objective 1 of point 2 is 9007199254740993, an integer beyond 2%^53", metrics.dominated, { { 1, 1 }, { big, 1 } })
  T.raises("dominated: the result is beyond the range", metrics.dominated, { { 1e308, 1 }, { -1e308, 0 } })
  for _, e in ipairs { 0 / 0, -1, math.huge, "1" } do
    T.raises("dominated: the error of point 1, objective 2 is .* %(a number from 0 expected%)", metrics.dominated, { { 1, 1 }, { 0, 0 } },
      { errors = { { 1, e }, { 1, 1 } } })
  end
  T.raises("histogram: end 2 is 9007199254740993, an integer beyond 2%^53", metrics.histogram, { 1 }, 0, big, 2)
  T.raises("histogram: end 1 is a string", metrics.histogram, { 1 }, "0", 1, 2)
  -- refused at the caller of the figure, by its own name
  for _, case in ipairs {
    { "pearson: entry of x 1 is 9007199254740993", function() return (metrics.pearson({ big, 1 }, { 1, 2 })) end },
    { "pearson: entry of y 2 is a string", function() return (metrics.pearson({ 1, 2 }, { 1, "2" })) end },
    { "controllability: objective 1 of reward 1 is 9007199254740993", function()
      return (metrics.controllability({ { 0, 1 }, { 1, 0 } }, { { big, 1 }, { 1, 2 } }))
    end },
    { "controllability: reference 2 is nan", function()
      return (metrics.controllability({ { 0, 1 }, { 1, 0 } }, { { 1, 1 }, { 1, 2 } }, { reference = { 0, 0 / 0 } }))
    end },
  } do
    T.raises("test_metrics_exact[^:]*:%d+: " .. case[1], case[2])
  end
end)

T.test("dominated: beyond a share of the range and beyond noise", function()
  local points = { { 6.7, 1.2 }, { 34, 21 }, { 0, 39 }, { 33.9, 20.9 } }
  T.eq(metrics.dominated(points), { { index = 1, by = 2 } })
  T.eq(metrics.dominated(points, { margin = 0 }), { { index = 1, by = 2 }, { index = 4, by = 2 } })
  T.eq(metrics.dominated(points, { errors = { { 9, 9 }, { 9, 9 }, { 1, 1 }, { 1, 1 } } }), { { index = 1, by = 4 } })
  T.eq(metrics.dominated { { 1, 2 }, { 1, 2 }, { 2, 1 } }, {})
  T.eq(metrics.dominated { { 1, 1, 5 }, { 1, 2, 5 } }, { { index = 1, by = 2 } })
  T.eq(metrics.dominated {}, {})
  T.raises("dominated: unknown option 'noise'", metrics.dominated, points, { noise = 1 })
  T.raises("point 2, objective 1 is .*nan", metrics.dominated, { { 1, 2 }, { 0 / 0, 1 } })
  T.raises("errors needs a row for each of 4 points", metrics.dominated, points, { errors = {} })
end)
