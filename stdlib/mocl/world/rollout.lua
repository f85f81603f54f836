--- mocl.world.rollout: episodes of an environment under several preferences, laid out as a batch of sequences: a step is
-- what a token is in an answer. All that is per step is flat over the same offsets.
--
-- Episode i draws from the stream (seed, "purpose i") alone, its actions as well as what the environment draws.

local nn = require "mocl.nn"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"

local rollout = {}

-- One episode. `flat` holds probabilities for each state and action, those of state 0 from place `first` on. Appends to the
-- lists of the batch.
local function walk(e, flat, first, epsilon, stream, episode, out)
  local states, actions, rewards, n, objectives, last = out.states, out.actions, out.rewards, out.total, e.n, e.actions - 1
  local advance, uniform = e.advance, stream.uniform
  local s, t, done, reward = e:start(stream, episode), 0, false, nil
  local sums = {}
  for j = 1, objectives do
    sums[j] = 0.0
  end
  repeat
    t = t + 1
    local a = 0
    if epsilon > 0 and uniform(stream) < epsilon then
      a = stream:integer(0, last)
    else -- one uniform number spent; what rounding leaves goes to the last action
      local u, place = uniform(stream), first + s * (last + 1)
      while a < last do
        u = u - flat[place + a]
        if u < 0 then
          break
        end
        a = a + 1
      end
    end
    states[n + t], actions[n + t] = s, a
    s, reward, done = advance(e, s, a, stream, episode, t)
    rewards[n + t] = reward
    for j = 1, objectives do
      sums[j] = sums[j] + reward[j]
    end
  until done
  out.total = n + t
  return sums
end

-- All episodes step by step, for environments without numbered states: act(rows, episodes, t) -> actions.
local function together(e, n, act, streams, out)
  local live, parts = {}, {}
  for i = 1, n do
    parts[i] = { state = e:start(streams[i], i), observations = {}, actions = {}, rewards = {} }
    live[i] = i
  end
  for t = 1, e.max_steps do
    local rows, left = {}, {}
    for k, i in ipairs(live) do
      rows[k] = e:look(parts[i].state, i, t)
    end
    local actions = act(rows, live, t)
    for k, i in ipairs(live) do
      local p, done = parts[i], nil
      p.observations[t], p.actions[t] = rows[k], actions[k]
      p.state, p.rewards[t], done = e:advance(p.state, actions[k], streams[i], i, t)
      if not done then
        left[#left + 1] = i
      end
    end
    live = left
    if #live == 0 then
      break
    end
  end
  local returns = {}
  for i, p in ipairs(parts) do
    local steps, sums = #p.actions, {}
    for j = 1, e.n do
      sums[j] = 0.0
      for t = 1, steps do
        sums[j] = sums[j] + p.rewards[t][j]
      end
    end
    for _, name in ipairs { "observations", "actions", "rewards" } do
      table.move(p[name], 1, steps, out.total + 1, out[name])
    end
    out.total, returns[i] = out.total + steps, sums
    out.offsets[i + 1] = out.total
  end
  return returns
end

--- rollout.episodes(agent, preferences, {episodes=, seed=, purpose=, averaged=false, epsilon=0}) -> batch; docs/world.md
-- lists the fields. The agent (mocl.world.agent) brings the environment; episodes is their number for each preference; epsilon is
-- the share of actions drawn uniformly.
function rollout.episodes(agent, preferences, o)
  local e, n = agent.world, #preferences * o.episodes
  local batch = { preferences = preferences, places = {}, prefs = {}, n = n, total = 0, offsets = { 0 },
    states = e.states and {} or nil, observations = not e.states and {} or nil, actions = {}, rewards = {}, returns = {} }
  local streams = {}
  for i = 1, n do
    local k = (i - 1) // o.episodes + 1
    batch.places[i], batch.prefs[i] = k, preferences[k]
    streams[i] = rng.new(o.seed, o.purpose .. " " .. i)
  end
  if e.states then
    local flat, width = agent:flat_probabilities(preferences, o.averaged), e.states * e.actions
    for i = 1, n do
      batch.returns[i] = walk(e, flat, (batch.places[i] - 1) * width + 1, o.epsilon or 0, streams[i], i, batch)
      batch.offsets[i + 1] = batch.total
    end
  else
    local key = rng.key(o.seed, o.purpose .. " actions")
    batch.returns = together(e, n, function(rows, live, t)
      local scope <close> = tensor.scope()
      local seen = {}
      for k, i in ipairs(live) do
        seen[k] = batch.prefs[i]
      end
      local actions = nn.sample_of(agent:logits_of(rows, seen, o.averaged), { key = key, stream = t }):totable()
      for k, i in ipairs((o.epsilon or 0) > 0 and live or {}) do
        if streams[i]:uniform() < o.epsilon then
          actions[k] = streams[i]:integer(0, e.actions - 1)
        end
      end
      return actions
    end, streams, batch)
  end
  return batch
end

--- The mean and the standard deviation of the returns of a batch, and the standard error of the mean, one row per preference.
function rollout.statistics(batch)
  local means, stds, errors, episodes = {}, {}, {}, batch.n // #batch.preferences
  for k = 1, #batch.preferences do
    means[k], stds[k], errors[k] = {}, {}, {}
    for j = 1, #batch.returns[1] do
      local sum, squares = 0.0, 0.0
      for i = (k - 1) * episodes + 1, k * episodes do
        sum = sum + batch.returns[i][j] / episodes
      end
      for i = (k - 1) * episodes + 1, k * episodes do
        squares = squares + (batch.returns[i][j] - sum) ^ 2 / episodes
      end
      means[k][j], stds[k][j], errors[k][j] = sum, squares ^ 0.5, (squares / episodes) ^ 0.5
    end
  end
  return means, stds, errors
end

return rollout
