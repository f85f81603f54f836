-- examples/05_environment.lua with an environment of one's own: no preference is worse than another in everything, and
-- what is asked for alone is reached as linear scalarisation reaches it

local T = require "t"
local Control = require "mocl.method.control"
local child = require "child"
local world = require "mocl.world"
local metrics = require "mocl.metrics"

-- comfort where the temperature is 5 to 7, saving where the heating is off: who is comfortable all the time still saves half of it
local function thermostat(rewards, names)
  return world.new { name = "thermostat", objectives = names or { "comfort", "saving" }, actions = 2, states = 11, time_limit = 20,
    reset = function() return 4 end,
    step = function(t, heat, rng)
      local change = heat == 1 and (rng:uniform() < 0.9 and 1 or 0) or (rng:uniform() < 0.7 and -1 or 0)
      t = math.max(0, math.min(10, t + change))
      local comfort, saving = t >= 5 and t <= 7 and 1 or 0, 1 - heat
      return t, rewards and rewards(comfort, saving) or { comfort, saving }
    end }
end

-- eight things worth something to two people; room for four
local THINGS = { { 5, 1 }, { 1, 5 }, { 4, 3 }, { 3, 4 }, { 2, 2 }, { 6, 0 }, { 0, 6 }, { 3, 3 } }
local function knapsack()
  return world.new { name = "knapsack", objectives = { "ann", "bob" }, actions = 2, states = 40, time_limit = 8,
    reset = function() return 4 end,
    step = function(s, take)
      local i, room, reward = s // 5 + 1, s % 5, { 0, 0 }
      if take == 1 and room > 0 then
        room, reward = room - 1, { THINGS[i][1], THINGS[i][2] }
      end
      return i < 8 and i * 5 + room or 0, reward, i == 8
    end }
end

-- either arm pays both objectives, so that no share below .3 or above .73 is reached
local function bandit(scale)
  return world.new { name = "bandit", objectives = { "x", "y" }, actions = 2, states = 1, time_limit = 10,
    reset = function() return 0 end,
    step = function(s, arm, rng)
      local px, py = arm == 0 and 0.8 or 0.3, arm == 0 and 0.3 or 0.7
      return s, { rng:uniform() < px and (scale or 1) or 0, rng:uniform() < py and 1 or 0 }
    end }
end

-- The example with its environment and options replaced -> grid, mean rewards, their standard errors, the warning
local SOURCE = child.read "examples/05_environment.lua"
local function train(environment, options, seed)
  local function swap(text, old, new)
    local at, stop = text:find(old, 1, true)
    T.ok(at, "the example has " .. old)
    return text:sub(1, at - 1) .. new .. text:sub(stop + 1)
  end
  local text = swap(SOURCE, [[environment, options = courier, { solve = "epoch" }]], "environment, options = ENVIRONMENT, OPTIONS")
  text = swap(text, "updates = #environment.objectives, 160", "updates = #environment.objectives, 90") -- for time
  text = swap(text, "key = 1 }", "key = SEED }")
  text = swap(text, "seed = 1, total", "seed = SEED, total")
  text = text:sub(1, text:find("local points = {}", 1, true) - 1) .. "return grid, means, errors"
  options.solve = "epoch" -- as the example has it
  local run = assert(load(text, "=example", "t", setmetatable({ ENVIRONMENT = environment, OPTIONS = options, SEED = seed or 1 }, { __index = _G })))
  local grid, means, errors = run()
  return grid, means, errors, Control.warning(options, grid, means, errors)
end

-- the reward of each objective where it is asked for alone
local function ends(grid, means)
  local list = {}
  for k, p in ipairs(grid) do
    for j, w in ipairs(p) do
      list[j] = w == 1 and means[k][j] or list[j]
    end
  end
  return list
end

local function check_case(name, environment, seed)
  local grid, means, _, warning = train(environment, {}, seed)
  T.eq(warning, nil, name)
  local got, want = ends(grid, means), ends(train(environment, { c = "one" }, seed))
  for j = 1, #want do
    T.ok(got[j] >= want[j] - 0.1 * math.abs(want[j]) - 0.05, ("%s, objective %d: got %g, linear scalarisation %g"):format(name, j, got[j], want[j]))
  end
  return means, grid
end

T.test("a thermostat, a knapsack, a bandit: nothing dominated, the ends as c = one reaches them", function()
  for name, new in pairs { thermostat = thermostat, knapsack = knapsack, bandit = bandit } do
    local means, grid = check_case(name, new(), 4)
    T.ok(metrics.controllability(grid, means).kendall_tau > 0.85, name .. ": what is asked for is followed")
  end
end)

T.test("rewards below zero, of other sizes, that cannot be traded", function()
  for name, e in pairs {
    negative = thermostat(function(c, s) return { c - 1, s - 1 } end),
    scales = bandit(1000),
    constant = thermostat(function(c) return { c, 1 } end),
    correlated = thermostat(function(c, s) return { c, 0.7 * c + 0.3 * s } end),
  } do
    check_case(name, e)
  end
end)

T.test("equation 12 as printed asks for shares out of reach, and the warning says which option mends it", function()
  local printed = { share = true, range = false, factor = 0.0, pool = "batch", scale = 3.0, floor = 0.0, negative = true, interior = 0.0 }
  local e = thermostat(function(c, s) return { c, 0.7 * c + 0.3 * s } end)
  local _, _, _, warning = train(e, printed)
  T.ok(warning and warning:find("set control.negative=false", 1, true), warning)
  printed.negative = false
  T.eq((select(4, train(e, printed))), nil)
end)
