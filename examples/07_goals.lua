--- 07_goals: goals beyond weighted sums, each a function of a line or two: weights that follow the state of the
-- training (a schedule, the worst objective, a threshold, hypervolume), and rewards that count only where another is
-- met.
--
--   mocl examples/07_goals.lua                  some seconds

local Agent, Control, world = require "mocl.world.agent", require "mocl.method.control", require "mocl.world"
local metrics, ppo = require "mocl.metrics", require "mocl.method.ppo"
local rollout, trainer, world_actor = require "mocl.world.rollout", require "mocl.train.trainer", require "mocl.train.world_actor"

-- ten hours a day: an hour of fishing brings a fish, an hour in the woods .8 of a log
local village = world.new { name = "village", objectives = { "fish", "logs" }, actions = 2, states = 1, time_limit = 10,
  reset = function() return 0 end,
  step = function(s, a) return s, { a == 0 and 1 or 0, a == 1 and 0.8 or 0 } end }

-- A goal has hooks: weights(state) -> weights in place of the preference, and rewards(row) -> row. The preferences are
-- those it trains.
local HALF = { { 0.5, 0.5 } }
local goals = {
  { "weighted sum", HALF, {} },
  { "max-min", HALF, { weights = function(s) -- the worst objective has all the weight
    return s.mean[1] < s.mean[2] and { 1, 0 } or { 0, 1 }
  end } },
  { "threshold", HALF, { weights = function(s) -- three logs first, then fish
    return s.mean[2] < 3 and { 0, 1 } or { 1, 0 }
  end } },
  { "schedule", { { 0.9, 0.1 }, { 0.1, 0.9 } }, { weights = function(s) -- from equal weights to the preference
    local a = s.iteration / s.total
    return { (1 - a) / 2 + a * s.preference[1], (1 - a) / 2 + a * s.preference[2] }
  end } },
  { "hypervolume", { { 0.3, 0.7 }, { 0.5, 0.5 }, { 0.7, 0.3 } }, { weights = function(s) -- what a little more of each would add
    local x, y = s.mean[1], s.mean[2]
    local function add(dx, dy) return metrics.hypervolume({ { x + dx, y + dy } }, { 0, 0 }) end
    local more, p = { add(0.1, 0) - add(0, 0), add(0, 0.1) - add(0, 0) }, s.preference
    local sum = p[1] * more[1] + p[2] * more[2]
    return sum > 0 and { p[1] * more[1] / sum, p[2] * more[2] / sum } or p
  end } },
  { "condition", { { 0, 1 } }, { rewards = function(row) -- logs count where there are four fish
    return { row[1], row[1] >= 4 and row[2] or 0 }
  end } },
}

for _, goal in ipairs(goals) do
  local name, preferences, hooks = table.unpack(goal)
  local agent, updates = Agent.new { world = village, hidden = { 16 }, critic = false, key = 1 }, 150
  local t <close> = trainer.new { actor = world_actor.new(agent), seed = 1, total = updates, rewards_hook = hooks.rewards,
    options = { baseline = "group", episodes = 16, ppo_epochs = 2, lr = 1e-2, warmup = 0, normalize = "rms", average = 0.9 } }
  local control = Control.new({ c = "one", factor = 0.0, interior = 0 }, 2, #preferences, nil, { weights = hooks.weights, total = updates })
  for _ in t:iterations() do
    local batch = t:rollout(preferences)
    control:observe(t:score(batch), batch.places)
    local problem = control:problem(t:advantages(batch), batch, batch.prefs, batch.places)
    t:update(batch, function(e)
      return (ppo.clip(e.logp, batch.old, problem:solve(e.ratio, 0.2).advantage, 0.2):mean())
    end)
  end
  local means = rollout.statistics(rollout.episodes(agent, preferences, { episodes = 200, seed = 2, purpose = "evaluation", averaged = true }))
  for k, r in ipairs(means) do
    print(("%-12s preference %.1f %.1f   fish %4.1f logs %4.1f"):format(name, preferences[k][1], preferences[k][2], r[1], r[2]))
  end
end
