--- 05_environment: an environment of one's own with three objectives, one policy for every preference, and its picture.
--
--   mocl examples/05_environment.lua            a second or two; writes runs/05_environment.svg

local Agent, Control, world = require "mocl.world.agent", require "mocl.method.control", require "mocl.world"
local fs, ppo, preference = require "mocl.fs", require "mocl.method.ppo", require "mocl.preference"
local trainer, world_actor = require "mocl.train.trainer", require "mocl.train.world_actor"
local rollout, svg_front = require "mocl.world.rollout", require "mocl.report.svg_front"

-- a courier between three towns, 30 rides: a ride to another town brings a parcel there more often than waiting does
local courier = world.new { name = "courier", objectives = { "north", "east", "west" }, actions = 3, states = 3, time_limit = 30,
  reset = function() return 0 end,
  step = function(at, to, rng)
    local reward = { 0, 0, 0 }
    reward[to + 1] = rng:uniform() < (to == at and 0.6 or 0.8) and 1 or 0
    return to, reward
  end }

local environment, options = courier, { solve = "epoch" } -- of mocl.method.control: the defaults suit rewards of any sign and size
local N, updates = #environment.objectives, 160
local grid, agent = preference.grid(N), Agent.new { world = environment, hidden = { 32, 32 }, key = 1 }
local t <close> = trainer.new { actor = world_actor.new(agent), seed = 1, total = updates, options = { episodes = 6, lr = 1e-2, warmup = 0,
  gamma = 0.99, vf_coef = 0.5, scale_rewards = true, normalize = "rms", max_grad_norm = 0.0, average = 0.9 } }
local control = Control.new(options, N, grid)
for _ in t:iterations() do -- Algorithm 1 with episodes in place of answers
  local batch = t:rollout(grid)
  control:observe(t:score(batch), batch.places)
  local problem = control:problem(t:advantages(batch), batch, batch.prefs, batch.places)
  t:update(batch, function(e)
    local surrogate = ppo.clip(e.logp, batch.old, problem:solve(e.ratio, 0.2).advantage, 0.2)
    return surrogate:mean() - e.entropy * (5e-3 * e.left) + e.value_error * 0.5
  end)
end

local means, _, errors = rollout.statistics(rollout.episodes(agent, grid, { episodes = 200, seed = 2, purpose = "evaluation", averaged = true }))
local points = {}
for k, r in ipairs(means) do
  print(("preference %.2f %.2f %.2f   parcels %5.2f %5.2f %5.2f"):format(grid[k][1], grid[k][2], grid[k][3], r[1], r[2], r[3]))
  points[k] = { x = r[1], y = r[2], label = ("%.1f"):format(grid[k][1]) }
end
local warning = Control.warning(options, grid, means, errors)
if warning then
  print("warning: " .. warning)
end
assert(fs.mkdir "runs")
local picture = svg_front.draw { title = "north and east", xlabel = "north", ylabel = "east", points = points, reference = { 0, 0 } }
assert(fs.write("runs/05_environment.svg", (picture:gsub("^<svg", '<svg xmlns="http://www.w3.org/2000/svg"'))))
