-- the control problem: R, the vectors of equation 12, c and the weights, by hand on small batches

local T = require "t"
local Control = require "mocl.method.control"
local config = require "mocl.run.config"
local minnorm = require "mocl.minnorm"
local ppo = require "mocl.method.ppo"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1
local NEAR = is_double and 1e-12 or 1e-5 -- sums of 9 products of size 1 in f32

local START = { { 0, 10 }, { 2, 14 }, { 4, 6 }, { -2, 10 } } -- means 1 and 10

-- four answers of 3, 2, 1 and 3 tokens under preferences 1, 2, 1, 3 of the grid
local GRID = { { .2, .8 }, { .5, .5 }, { .9, .1 } }

-- equation 12 as printed, reading A, where options do not say otherwise
local AS_PRINTED = { range = false, phi = .02, floor = 0, scale = 1, negative = true, interior = 0 }

local function new(options, grid)
  local schema = {}
  for i, row in ipairs(Control.OPTIONS) do
    schema[i] = row
  end
  local words, all = {}, {}
  for k, v in pairs(AS_PRINTED) do
    all[k] = v
  end
  for k, v in pairs(options or {}) do
    all[k] = v
  end
  for k, v in pairs(all) do
    words[#words + 1] = k .. "=" .. tostring(v)
  end
  return Control.new((config.parse(schema, words)), 2, grid or GRID, START)
end

local PLACES = { 1, 2, 1, 3 }
local PREFS = { GRID[1], GRID[2], GRID[1], GRID[3] }
local RAW = { { 1, 12 }, { 5, 10 }, { 0, 7 }, { 2, 9 } }

local function batch()
  return transformer.pack({ { 1 }, { 1 }, { 1 }, { 1 } }, { { 1, 2, 3 }, { 4, 5 }, { 6 }, { 7, 8, 9 } })
end

local A = {}
for t = 1, 9 do
  A[t] = { math.sin(3 * t), math.cos(5 * t) - .3 }
end

-- what a problem gives at z = 1, with what it says of each answer
local function solved(control, ...)
  local problem = control:problem(...)
  local s = problem:solve()
  return { advantage = s.advantage, w = s.w, c = s.c, answers = problem:answers() }
end

local function solve(control, gated)
  return solved(control, gated or tensor.new(A), batch(), PREFS, PLACES)
end

-- minus b of answers of one token each, under these preferences
local function minus_b(control, prefs, places)
  local one, adv = {}, {}
  for i = 1, #prefs do
    one[i], adv[i] = { 1 }, { 1, 1 }
  end
  return control:problem(tensor.new(adv), transformer.pack(one, one), prefs, places).lists.minus_b
end

-- I(A, z) by the function that equation 10 is
local function gate(adv, z)
  return ppo.gate(adv, adv:relu(), z:unsqueeze(2), .2)
end

local FIRST, LAST = { 1, 4, 6, 7 }, { 3, 5, 6, 9 }

-- algorithm 2 on equation 12 over the tokens of the answers in list, b being the same for all of them
local function c_by_hand(answers, b, a)
  local vv, vw, ww = 0, 0, 0
  for _, i in ipairs(answers) do
    for t = FIRST[i], LAST[i] do
      local v, w = 0, 0
      for j = 1, 2 do
        v, w = v + PREFS[i][j] * a[t][j], w - b[i][j] * a[t][j]
      end
      vv, vw, ww = vv + v * v, vw + v * w, ww + w * w
    end
  end
  return (minnorm.two(vv, vw, ww))
end

local function b_of(R)
  local b = {}
  for i, row in ipairs(R) do
    b[i] = { row[1] - PREFS[i][1], row[2] - PREFS[i][2] }
  end
  return b
end

T.test("R is equation 18 with the running statistics, around 1/N", function()
  for _, case in ipairs { { "1/N", .5 }, { "1", 1 } } do
    local control = new { offset = case[1], statistics_factor = .75 }
    local R = control:observe(RAW, PLACES)
    local mean, std = control.stats:mean(), control.stats:std()
    T.near(mean, { .75 * 1 + .25 * 2, .75 * 10 + .25 * 9.5 }, 1e-12)
    for i, row in ipairs(RAW) do
      for j = 1, 2 do
        T.near(R[i][j], (row[j] - mean[j]) / (2 * std[j]) + case[2], 1e-12)
      end
    end
    T.near(control.mean, { { (R[1][1] + R[3][1]) / 2, (R[1][2] + R[3][2]) / 2 }, R[2], R[4] }, 1e-12)
  end
end)

T.test("c and w per preference, from the pooled sums", function()
  local control = new { phi = 0 }
  control:observe(RAW, PLACES)
  local b = b_of { control.mean[1], control.mean[2], control.mean[1], control.mean[3] }
  local s = solve(control)
  local want = { c_by_hand({ 1, 3 }, b, A), c_by_hand({ 2 }, b, A), 0, c_by_hand({ 4 }, b, A) }
  want[3] = want[1]
  local inside, tokens, weights = 0, s.c:totable(), s.w:totable()
  for i, a in ipairs(s.answers) do
    T.near(a.c, want[i], NEAR, "answer " .. i)
    T.eq(a.indicator, true)
    inside = inside + (a.c > 0 and a.c < 1 and 1 or 0)
    for j = 1, 2 do
      T.near(a.w[j], a.c * PREFS[i][j] - (1 - a.c) * b[i][j], 1e-12)
      for t = FIRST[i], LAST[i] do
        T.near(tokens[t], a.c, NEAR)
        T.near(weights[t][j], a.w[j], NEAR)
      end
    end
  end
  T.ok(inside > 0, "a case with c between 0 and 1")
end)

T.test("other pools: the batch, each answer, each token", function()
  local function c_of(pool)
    local control = new { phi = 0, statistic = "sample", pool = pool }
    local b = b_of(control:observe(RAW, PLACES))
    return solve(control).c:totable(), b
  end
  local c, b = c_of "batch"
  T.near(c, (function()
    local one, list = c_by_hand({ 1, 2, 3, 4 }, b, A), {}
    for t = 1, 9 do
      list[t] = one
    end
    return list
  end)(), NEAR)
  c, b = c_of "sample"
  for i = 1, 4 do
    T.near(c[FIRST[i]], c_by_hand({ i }, b, A), NEAR)
  end
  c, b = c_of "token"
  for i = 1, 4 do
    for t = FIRST[i], LAST[i] do
      local v, w = 0, 0
      for j = 1, 2 do
        v, w = v + PREFS[i][j] * A[t][j], w - b[i][j] * A[t][j]
      end
      T.near(c[t], (minnorm.two(v * v, v * w, w * w)), NEAR * 10)
    end
  end
end)

T.test("statistic: what R stands for in the comparison", function()
  local function first(statistic)
    local control = new { phi = 0, statistic = statistic, pool = "sample" }
    local R = control:observe(RAW, PLACES)
    local mean = { 0, 0 }
    for _, row in ipairs(R) do
      mean[1], mean[2] = mean[1] + row[1] / 4, mean[2] + row[2] / 4
    end
    local rows = statistic == "sample" and R or statistic == "batch" and { mean, mean, mean, mean }
      or { control.mean[1], control.mean[2], control.mean[1], control.mean[3] }
    local b, s = b_of(rows), solve(control)
    for i, a in ipairs(s.answers) do
      T.near(a.c, c_by_hand({ i }, b, A), NEAR, statistic)
    end
  end
  first "sample"
  first "batch"
  first "group"
end)

T.test("a constraint that holds gives c = 1 and w = p", function()
  local control = new { phi = 100 }
  control:observe(RAW, PLACES)
  local s = solve(control)
  for i, a in ipairs(s.answers) do
    T.eq({ a.c, a.indicator }, { 1.0, false })
    T.eq(a.w, PREFS[i])
  end
  -- phi between the errors of the groups: some hold, some do not
  control = new { phi = 0 }
  local function error_of(i)
    local b = b_of { control.mean[1], control.mean[2], control.mean[1], control.mean[3] }[i]
    return (b[1] ^ 2 + b[2] ^ 2) / 2
  end
  control:observe(RAW, PLACES)
  control.o.phi = (error_of(1) + error_of(4)) / 2
  s = solve(control)
  T.eq(s.answers[1].indicator, error_of(1) > control.o.phi)
  T.eq(s.answers[4].indicator, error_of(4) > control.o.phi)
  T.ok(s.answers[1].indicator ~= s.answers[4].indicator)
end)

T.test("c = one, the floor, the scale", function()
  local function c_of(options)
    options.phi = 0
    local control = new(options)
    control:observe(RAW, PLACES)
    local s, c = solve(control), {}
    for i, a in ipairs(s.answers) do
      c[i] = a.c
    end
    return c, s, control
  end
  T.eq(c_of { c = "one" }, { 1.0, 1.0, 1.0, 1.0 })
  local plain = c_of {}
  for i, c in ipairs((c_of { floor = .9 })) do
    T.near(c, math.max(.9, plain[i]), 1e-12)
  end
  local scaled, s, control = c_of { scale = 2 }
  local b = b_of { control.mean[1], control.mean[2], control.mean[1], control.mean[3] }
  for i = 1, 4 do
    b[i] = { 2 * b[i][1], 2 * b[i][2] }
  end
  T.near(scaled[4], c_by_hand({ 4 }, b, A), NEAR)
  T.near(s.answers[4].w[1], scaled[4] * .9 - (1 - scaled[4]) * b[4][1], 1e-9)
end)

T.test("the gate of equation 10 enters the sums", function()
  local control = new { phi = 0 }
  control:observe(RAW, PLACES)
  local open = solve(control).answers
  local ratio = tensor.new { 1.5, .5, 1.5, .5, 1.5, .5, 1.5, .5, 1.5 }
  local gated = gate(tensor.new(A), ratio)
  local b = b_of { control.mean[1], control.mean[2], control.mean[1], control.mean[3] }
  local s = solve(control, gated)
  T.near(s.answers[4].c, c_by_hand({ 4 }, b, gated:totable()), NEAR)
  local changed = false
  for i = 1, 4 do
    changed = changed or math.abs(s.answers[i].c - open[i].c) > 1e-3
  end
  T.ok(changed, "a case in which the gate matters")
  T.eq(solve(control, gate(tensor.new(A), tensor.ones { 9 })).c:totable(), solve(control).c:totable())
end)

T.test("a problem at z is that of I(A, z), for every pool, gate and kind of R", function()
  local ratio, seen = tensor.new { 1.5, .5, 1.1, .5, 1.5, .95, 1.5, .5, .7 }, {}
  for _, pool in ipairs { "batch", "preference", "sample", "token" } do
    for _, change in ipairs { {}, { statistic = "sample" }, { statistic = "batch" }, { floor = .4, scale = 2 }, { c = "one" }, { phi = 1e6 },
      { negative = false, floor = .3, scale = 3 }, { negative = false, interior = .1, range = true } } do
      local options = { phi = 0, pool = pool, solve = "epoch" }
      for k, v in pairs(change) do
        options[k] = v
      end
      local control, adv = new(options), tensor.new(A)
      control:observe(RAW, PLACES)
      local problem = control:problem(adv, batch(), PREFS, PLACES)
      for _, z in ipairs { false, ratio } do
        local want = solved(control, z and gate(adv, z) or adv, batch(), PREFS, PLACES)
        local got = problem:solve(z or nil, .2)
        T.near(got.advantage:totable(), (adv * want.w):sum(2):totable(), 1e-5, pool)
        local answers = problem:answers()
        for i, a in ipairs(want.answers) do
          T.near(answers[i].c, a.c, 1e-5, pool)
          T.near(answers[i].w, a.w, 1e-5, pool)
          T.eq(answers[i].indicator, a.indicator)
          seen[a.c > 0 and a.c < 1 and "inside" or a.c] = true
        end
      end
    end
  end
  T.ok(seen.inside and seen[1.0], "cases inside and at the end")
end)

-- A model of three parameters whose surrogate has the gradient sum_t a_t M_t for advantages a: the inner products of such
-- gradients, as t:gram_of of a trainer gives them.
local M = { { 1, .5, 0 }, { -1, 2, .3 }, { .2, .2, 1 }, { 0, 1, -1 }, { 2, -1, .5 }, { .7, .1, .1 }, { -.4, .4, 2 }, { 1, 1, 1 }, { .3, -2, 1 } }
local function gradient(a)
  local g = { 0, 0, 0 }
  for t, x in ipairs(a) do
    for i = 1, 3 do
      g[i] = g[i] + x * M[t][i]
    end
  end
  return g
end
local function gram_of(list)
  local G, g = {}, {}
  for i, a in ipairs(list) do
    g[i] = gradient(a:totable())
  end
  for i = 1, #g do
    G[i] = {}
    for k = 1, #g do
      G[i][k] = g[i][1] * g[k][1] + g[i][2] * g[k][2] + g[i][3] * g[k][3]
    end
  end
  return G
end

T.test("equation 8: c of the gradients of a pool's part of v and vbar, by brute force", function()
  local inside, other = 0, 0
  for _, pool in ipairs { "preference", "batch" } do
    local control = new { phi = 0, gradients = "parameters", pool = pool }
    control:observe(RAW, PLACES)
    local b = b_of { control.mean[1], control.mean[2], control.mean[1], control.mean[3] }
    local problem = control:problem(tensor.new(A), batch(), PREFS, PLACES, gram_of)
    local s, answers = problem:solve(), problem:answers()
    for _, answers_of in ipairs(pool == "batch" and { { 1, 2, 3, 4 } } or { { 1, 3 }, { 2 }, { 4 } }) do
      local v, vbar = {}, {}
      for t = 1, 9 do
        v[t], vbar[t] = 0, 0
      end
      for _, i in ipairs(answers_of) do
        for t = FIRST[i], LAST[i] do
          for j = 1, 2 do
            v[t], vbar[t] = v[t] + PREFS[i][j] * A[t][j], vbar[t] - b[i][j] * A[t][j]
          end
        end
      end
      local g, h, best, least = gradient(v), gradient(vbar), nil, math.huge
      for step = 0, 10000 do
        local c, square = step / 10000, 0
        for k = 1, 3 do
          square = square + (c * g[k] + (1 - c) * h[k]) ^ 2
        end
        if square < least then
          best, least = c, square
        end
      end
      inside = inside + (best > 0 and best < 1 and 1 or 0)
      other = other + (math.abs(best - c_by_hand(answers_of, b, A)) > .01 and 1 or 0)
      for _, i in ipairs(answers_of) do
        T.near(answers[i].c, best, 2e-4, pool)
        for t = FIRST[i], LAST[i] do
          T.near(s.w:totable()[t][1], answers[i].c * PREFS[i][1] - (1 - answers[i].c) * b[i][1], 1e-5)
        end
      end
    end
    T.eq(problem:solve(tensor.ones { 9 } * 2, .2), s, "solved once")
  end
  T.ok(inside > 0 and other > 0, "c between 0 and 1, and other ones than equation 12's")
  local holds = new { phi = 100, gradients = "parameters" }
  holds:observe(RAW, PLACES)
  T.eq(holds:problem(tensor.new(A), batch(), PREFS, PLACES, error):solve().c:totable(), { 1, 1, 1, 1, 1, 1, 1, 1, 1 }) -- not asked for
  T.raises("needs gram_of, such as t:gram_of%(batch%)", holds.problem, holds, tensor.new(A), batch(), PREFS, PLACES)
  T.raises("control.gradients=parameters does not go with control.pool=token: each pool costs two backward passes", new,
    { gradients = "parameters", pool = "token" })
  T.raises("does not go with control.solve=epoch: it is solved once an iteration", new, { gradients = "parameters", solve = "epoch" })
  T.raises("does not go with control.c=one: there is no c to solve for", new, { gradients = "parameters", c = "one" })
end)

T.test("one objective: c = 1", function()
  local schema = {}
  for i, row in ipairs(Control.OPTIONS) do
    schema[i] = row
  end
  local control = Control.new((config.parse(schema, { "phi=0" })), 1, { { 1 } }, { { 0 }, { 1 } })
  local one = transformer.pack({ { 1 }, { 1 } }, { { 1, 2 }, { 3 } })
  control:observe({ { 5 }, { -5 } }, { 1, 1 })
  local s = solved(control, tensor.new { { 1 }, { -1 }, { 2 } }, one, { { 1 }, { 1 } }, { 1, 1 })
  T.eq(s.c:totable(), { 1.0, 1.0, 1.0 })
  T.eq(s.w:totable(), { { 1.0 }, { 1.0 }, { 1.0 } })
end)

T.test("range: Rbar on the grid's own range, from the mean where an objective has least weight to where it has most", function()
  local seen = {}
  for _, least in ipairs { 0.1, 3 } do
    local control = new { range = true, least_range = least, phi = 0, scale = 2, floor = 1 } -- so that c = 1 and w = p
    control:observe(RAW, PLACES)
    local R, b = control.mean, {}
    for k, p in ipairs(GRID) do
      b[k] = {}
      for j = 1, 2 do
        local lo, hi = R[j == 1 and 1 or 3][j], R[j == 1 and 3 or 1][j]
        seen[hi - lo > least] = true
        b[k][j] = (R[k][j] - (lo + hi) / 2) / math.max(hi - lo, least) + .5 - p[j]
      end
      b[k] = { (b[k][1] - b[k][2]) / 2, (b[k][2] - b[k][1]) / 2 }
    end
    local got = minus_b(control, PREFS, PLACES)
    for i, place in ipairs(PLACES) do
      T.near(got[i], { -2 * b[place][1], -2 * b[place][2] }, 1e-12)
    end
    T.near(solve(control).w:totable()[4], PREFS[2], 1e-6)
  end
  T.ok(seen[true] and seen[false], "ranges wider and narrower than the least")
  -- of the preferences dealt so far
  local control = new { range = true, phi = 0 }
  control:observe({ { 1, 12 }, { 5, 10 } }, { 1, 2 })
  local R = control.mean
  local half = math.max(R[2][1] - R[1][1], .5)
  local d = (R[1][1] - (R[1][1] + R[2][1]) / 2) / half - (R[1][2] - (R[1][2] + R[2][2]) / 2) / math.max(R[1][2] - R[2][2], .5)
  T.near(minus_b(control, { GRID[1] }, { 1 })[1][1], -(d - (.2 - .8)) / 2, 1e-12)
  T.raises("the option range needs the grid's preferences", Control.new, { range = true }, 2, 3)
  T.eq(Control.new({}, 2, 3).o.range, false) -- by default only where it can be
  T.eq(Control.new({}, 2, GRID).o.range, true)
end)

T.test("range of shares: what the grid reaches of each objective's share", function()
  local control = Control.new({ share = true, phi = 0, factor = 0, least_range = .1, scale = 1 }, 2, GRID)
  control:observe({ { 20, 60 }, { 30, 30 }, { 24, 16 } }, { 1, 2, 3 }) -- shares of the first: .25, .5, .6
  local got = minus_b(control, GRID, { 1, 2, 3 })
  for k, share in ipairs { .25, .5, .6 } do
    local want = GRID[k][1] - ((share - .425) / .35 + .5) -- the second share is 1 minus it
    T.near(got[k], { want, -want }, 1e-12)
  end
end)

T.test("no weight falls below floor p_j, and the weights sum to c", function()
  local r, raised = rng.new(3, "weights"), 0
  for trial = 1, 120 do
    local n, floor, interior = r:integer(2, 4), trial % 3 * .25, trial % 2 * .1
    local grid = { r:dirichlet(n), r:dirichlet(n), {} }
    for j = 1, n do
      grid[3][j] = j == 1 and 1 or 0 -- a corner
    end
    local share = trial % 5 == 0
    local control = Control.new({ share = share, phi = 0, floor = floor, interior = interior, scale = r:uniform() * 6,
      pool = ({ "preference", "batch", "sample", "token" })[1 + trial % 4], statistic = trial % 7 == 0 and "sample" or "group" }, n, grid)
    local raw, gated = {}, {}
    for i = 1, 4 do
      raw[i] = {}
      for j = 1, n do
        raw[i][j] = share and r:uniform() or 10 ^ r:integer(-2, 3) * r:normal()
      end
    end
    for t = 1, 9 do
      gated[t] = {}
      for j = 1, n do
        gated[t][j] = r:normal()
      end
    end
    local prefs = { grid[1], grid[2], grid[1], grid[3] }
    control:observe(raw, PLACES)
    local s = solved(control, tensor.new(gated), batch(), prefs, PLACES)
    local c, weights = s.c:totable(), s.w:totable()
    for i, answer in ipairs(s.answers) do
      raised = raised + (answer.c > floor and answer.c < 1 and 1 or 0)
      for t = FIRST[i], LAST[i] do
        local sum = 0
        for j, p in ipairs(prefs[i]) do
          local least = floor * ((1 - interior) * p + interior / n)
          T.ok(weights[t][j] >= least - 1e-5, ("trial %d: weight %g of objective %d, at least %g"):format(trial, weights[t][j], j, least))
          sum = sum + weights[t][j]
        end
        T.near(sum, c[t], 1e-4)
        T.ok(c[t] >= floor - 1e-6 and c[t] > 0 and c[t] <= 1)
      end
    end
  end
  T.ok(raised > 100, raised .. " cases between")
end)

T.test("without negative weights a share out of reach does not push every reward down", function()
  -- two objectives that both want action 1: the share of the first is .5 whatever is done, and p asks for 1
  local function weights(options)
    options.share, options.factor, options.pool, options.phi, options.scale = true, 0.0, "batch", 1e-3, 3.0
    local p = { 1, 0 }
    local control = Control.new(options, 2, 1)
    control:observe({ { 3, 3 }, { 1, 1 }, { 2, 2 }, { 2, 2 } }, { 1, 1, 1, 1 })
    local adv = {}
    for t = 1, 9 do
      adv[t] = { t <= 3 and 1 or -1, t <= 3 and 1.5 or -1.5 } -- the first answer is the better one in both
    end
    return solved(control, tensor.new(adv), batch(), { p, p, p, p }, { 1, 1, 1, 1 }).w:totable()[1]
  end
  local w = weights { negative = true, floor = 0.0, interior = 0.0 }
  T.ok(w[1] * 1 + w[2] * 1.5 < 1e-6, "as printed the better answer is not made likelier")
  w = weights {}
  T.ok(w[1] * 1 + w[2] * 1.5 > .5 and w[1] > 0 and w[2] > 0, "by default it is")
end)

T.test("a warning where a preference is dominated names the option", function()
  local grid = { { 1, 0 }, { .5, .5 }, { 0, 1 } }
  local old = { { 6.7, 1.2 }, { 34, 21 }, { 0, 39 } }
  local text = Control.warning({ negative = true, floor = 0.0 }, grid, old)
  T.ok(text:find("preference 1, 0 (6.7, 1.2) are dominated by those under 0.5, 0.5 (34, 21): ", 1, true), text)
  T.ok(text:find("control.scale=3, control.floor=0", 1, true) and text:find("set control.negative=false", 1, true), text)
  T.ok(Control.warning({}, grid, old):find("raise control.floor %(0.5%)"))
  T.ok(Control.warning({ c = "one" }, grid, old):find("train longer$"))
  T.ok(Control.warning({}, grid, { { 1, 1 }, { 34, 21 }, { 0, 0 } }):find("and under 1 more preferences too"))
  T.eq(Control.warning({}, grid, { { 34, 21 }, { 20, 30 }, { 0, 39 } }), nil)
  T.eq(Control.warning({}, grid, { { 33.9, 21 }, { 34, 21.1 }, { 0, 39 } }), nil, "less than the margin")
  T.eq(Control.warning({}, grid, old, { { 30, 20 }, { 30, 20 }, { 1, 1 } }), nil, "less than the noise")
  local results = require "mocl.report.results"
  T.ok(results.summary({ objectives = { "a", "b" }, preferences = grid, rewards = old, warning = text }):find("\nwarning: the rewards under", 1, true))
end)

T.test("state and restore: the second half is that of one whole", function()
  for _, spread in ipairs { "total", "within" } do
    local whole, half = new { spread = spread, range = spread == "within" }, new { spread = spread, range = spread == "within" }
    whole:observe(RAW, PLACES)
    half:observe(RAW, PLACES)
    local json = require "mocl.json"
    local again = new { spread = spread, range = spread == "within" }
    again:restore(json.decode(json.encode(half:state())))
    local more = { { 3, 3 }, { 1, 20 }, { -4, 8 }, { 0, 0 } }
    T.eq(again:observe(more, PLACES), whole:observe(more, PLACES))
    T.eq(solve(again).w:totable(), solve(whole).w:totable())
  end
end)
