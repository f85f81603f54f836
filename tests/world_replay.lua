--- world_replay: traces of MO-Gymnasium's environments (fixtures/make_worlds.py) step by step in mocl's.
--
--   mocl tests/world_replay.lua FILE.json      prints what was compared, or fails at the first difference

local world = require "mocl.world"
local json = require "mocl.json"

local replay = {}

-- an environment of a trace, and the order of MO-Gymnasium's rewards in it
local make = {
  fishwood = function(o)
    return require("mocl.world.worlds.fishwood").new(o), { 2, 1 }
  end,
  fruit_tree = function(o)
    return require("mocl.world.worlds.fruit_tree").new(o.depth), { 1, 2, 3, 4, 5, 6 }
  end,
  deep_sea_treasure = function(o)
    return require("mocl.world.worlds.deep_sea_treasure").new(o), { 1, 2 }
  end,
}

local function differ(trace, t, what, got, want)
  error(("%s, step %d: %s is %s, MO-Gymnasium has %s"):format(trace.env, t, what, got, want), 0)
end

local function compare(trace, t, what, got, want, tolerance)
  for i, w in ipairs(want) do
    -- rewards are in single precision there
    if #got ~= #want or math.abs(got[i] - w) > tolerance * math.max(1, math.abs(w)) then
      differ(trace, t, what, table.concat(got, " "), table.concat(want, " "))
    end
  end
end

--- Replays one trace; returns the number of steps.
function replay.run(trace)
  local e, order = make[trace.env](trace.options)
  local t = 0
  local stream = { -- the numbers that MO-Gymnasium drew, in turn
    uniform = function()
      return trace.steps[t][2]
    end,
  }
  local copy = world.batch(e, 1, { rng = function()
    return stream
  end })
  compare(trace, 0, "the observation", copy:reset(1), trace.start, 0)
  for k, step in ipairs(trace.steps) do
    t = k
    local observations, rewards, done = copy:step { step[1] }
    local reordered = {}
    for j, i in ipairs(order) do
      reordered[j] = rewards[1][i]
    end
    compare(trace, t, "the observation", observations[1], step[3], 0)
    compare(trace, t, "the reward", reordered, step[4], 1e-6)
    if done[1] ~= step[5] then
      differ(trace, t, "done", tostring(done[1]), tostring(step[5]))
    end
  end
  return #trace.steps
end

--- Replays a list of traces: per environment {episodes=, steps=}.
function replay.all(traces)
  local counts = {}
  for _, trace in ipairs(traces) do
    local c = counts[trace.env] or { episodes = 0, steps = 0 }
    counts[trace.env] = c
    c.episodes, c.steps = c.episodes + 1, c.steps + replay.run(trace)
  end
  return counts
end

if arg and arg[0] and arg[0]:find "world_replay%.lua$" then
  for name, c in pairs(replay.all(assert(json.load(arg[1])))) do
    print(("%-18s %5d episodes %7d steps agree"):format(name, c.episodes, c.steps))
  end
end

return replay
