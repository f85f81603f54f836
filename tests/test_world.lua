-- mocl.world, its environments, mocl.world.rollout, mocl.world.agent, mocl.train.trainer with mocl.train.world_actor

local T = require "t"
local Agent = require "mocl.world.agent"
local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local deep_sea_treasure = require "mocl.world.worlds.deep_sea_treasure"
local world = require "mocl.world"
local world_replay = require "world_replay"
local fishwood = require "mocl.world.worlds.fishwood"
local fruit_tree = require "mocl.world.worlds.fruit_tree"
local json = require "mocl.json"
local metrics = require "mocl.metrics"
local minnorm = require "mocl.minnorm"
local ppo = require "mocl.method.ppo"
local segments = require "mocl.segments"
local rng = require "mocl.rng"
local rollout = require "mocl.world.rollout"
local tensor = require "mocl.tensor"
local trainer = require "mocl.train.trainer"
local world_actor = require "mocl.train.world_actor"

-- a line of five places; action 1 goes right, 0 left; it pays at the ends, which end it
local function line(change)
  local spec = { name = "line", objectives = { "left", "right" }, actions = 2, states = 5,
    reset = function()
      return 2
    end,
    step = function(s, a)
      local to = s + 2 * a - 1
      return to, { to == 0 and 1 or 0, to == 4 and 1 or 0 }, to == 0 or to == 4
    end }
  for k, v in pairs(change or {}) do
    spec[k] = v or nil
  end
  return spec
end

-- the same without numbered states
local function dots()
  return world.new(line { name = "dots", states = false, observation = 2, time_limit = 30, observe = function(s)
    return { s / 4, 1 - s / 4 }
  end })
end

-- ---- environments ----

T.test("world: MO-Gymnasium's traces, step by step", function()
  local counts = world_replay.all(assert(json.load("tests/fixtures/worlds.json")))
  T.eq(counts.fishwood, { episodes = 2, steps = 400 })
  T.eq(counts.fruit_tree.episodes, 9)
  T.ok(counts.deep_sea_treasure.episodes == 6 and counts.deep_sea_treasure.steps > 100)
end)

T.test("world: a replay notices one wrong reward, observation or end", function()
  local traces = assert(json.load("tests/fixtures/worlds.json"))
  local last = #traces[#traces].steps
  for _, change in ipairs {
    function(step) step[4][1] = step[4][1] + 1e-4 end,
    function(step) step[3][1] = step[3][1] + 1 end,
    function(step) step[5] = not step[5] end,
  } do
    local trace = json.decode(json.encode(traces[#traces]))
    change(trace.steps[last])
    T.raises("MO%-Gymnasium has", world_replay.run, trace)
  end
end)

T.test("world: copies step together, each by its own stream", function()
  local e = fishwood.new()
  local function play(n)
    local copies, sums = world.batch(e, n, { seed = 3 }), {}
    local first = copies:reset()
    T.eq(#first, n)
    T.eq(first[1], { 1 })
    for i = 1, n do
      sums[i] = { 0, 0 }
    end
    local actions = {}
    for t = 1, 200 do
      for i = 1, n do
        actions[i] = (t + i) % 2
      end
      local observations, rewards, done = copies:step(actions)
      for i = 1, n do
        T.eq(observations[i], { actions[i] })
        T.eq(done[i], t == 200)
        sums[i][1], sums[i][2] = sums[i][1] + rewards[i][1], sums[i][2] + rewards[i][2]
      end
    end
    T.eq(copies.truncated[1], true)
    return sums, copies
  end
  local three, copies = play(3)
  T.eq((play(1))[1], three[1], "the first copy does not depend on the others")
  T.ok(three[1][1] ~= three[2][1] or three[1][2] ~= three[3][2], "copies differ")
  T.raises("copy 2 is done; reset it", copies.step, copies, { false, 1, false })
  T.eq(copies:reset(2), { 1 })
  local observations, rewards, done = copies:step { false, 1, false }
  T.eq({ observations[1], rewards[1], done[1], done[2] }, { false, false, true, false })
end)

T.test("world: mistakes in an environment are named with environment, episode and step", function()
  local function stepped(change, action)
    local copies = world.batch(world.new(line(change)), 1, { seed = 0 })
    copies:reset()
    return copies:step { action or 1 }
  end
  local function pays(reward)
    return { step = function() return 3, reward, false end }
  end
  T.raises("^environment line, episode 1, step 1: the reward has 1 entries, 2 expected %(left, right%)$", stepped, pays { 1 })
  T.raises("^environment line, episode 1, step 1: the reward has 3 entries", stepped, pays { 1, 2, 3 })
  T.raises("^environment line, episode 1, step 1: the reward of right is nan, a finite number expected$", stepped, pays { 1, 0 / 0 })
  T.raises("the reward of left is inf", stepped, pays { math.huge, 0 })
  T.raises("the reward of left is one", stepped, pays { "one", 0 })
  T.raises("the reward of right is 1, a finite number expected", stepped, pays { 0, "1" })
  T.raises("the reward has 0 entries, 2 expected", stepped, pays(setmetatable({}, { __index = { 0, 0 } })))
  T.raises("the reward is a number, a list of 2 numbers expected", stepped, pays(1))
  T.raises("^environment line, episode 1, step 1: state 9 is not one of 0 .. 4$", stepped, { step = function() return 9, { 0, 0 } end })
  T.raises("^environment line, episode 1, step 0: state 2.5 is not one of", stepped, { reset = function() return 2.5 end })
  T.raises("step 1: action 2 is not one of 0 .. 1$", stepped, nil, 2)
  T.raises("the observation has 1 entries, 2 expected", stepped, { observation = 2, observe = function() return { 1 } end })
  T.raises("entry 1 of the observation is nan", stepped, { observation = 1, observe = function() return { 0 / 0 } end })
  T.raises("reset returned no state", stepped, { states = false, observation = 1, observe = function() return { 1 } end,
    reset = function() end })
  T.raises("step returned no state", stepped, { states = false, observation = 1, observe = function() return { 1 } end,
    step = function() return nil, { 0, 0 } end })
end)

T.test("world: an episode without an end", function()
  local e = world.new(line { step = function(s) return s, { 0, 0 }, false end, max_steps = 25 })
  local copies = world.batch(e, 1, { seed = 0 })
  copies:reset()
  for _ = 1, 24 do
    copies:step { 0 }
  end
  T.raises("^environment line: episode 1 has not ended after 25 steps: return true as third value of step", copies.step, copies, { 0 })
  local agent = Agent.new { world = e, hidden = { 4 }, key = 1 }
  T.raises("has not ended after 25 steps", rollout.episodes, agent, { { .5, .5 } }, { episodes = 1, seed = 0, purpose = "x" })
  T.eq(world.new(line()).max_steps, 10000)
end)

T.test("world.new: bad fields", function()
  T.raises("needs a name", world.new, { objectives = { "a" } })
  T.raises("environment line: unknown option 'actoins' %(did you mean 'actions'%?%)", world.new, line { actoins = 3 })
  T.raises("environment line: actions is their number, got 0", world.new, line { actions = 0 })
  T.raises("objectives is a list of names", world.new, line { objectives = {} })
  T.raises("objective 2 is a number", world.new, line { objectives = { "a", 2 } })
  T.raises("time_limit is a positive integer, got 1.5", world.new, line { time_limit = 1.5 })
  T.raises("step is a function, got nil", world.new, line { step = false })
  T.raises("give states=", world.new, line { states = false })
  T.raises("give observation=", world.new, line { observe = function() return {} end })
  T.raises("has 5 entries, not 2", world.new, line { observation = 2 })
  T.raises("give seed=N", world.batch, world.new(line()), 1, {})
  T.raises("number of copies", world.batch, world.new(line()), 0, { seed = 1 })
  T.raises("an environment of world.new expected", world.batch, line(), 1, { seed = 1 })
  T.ok(world.is_world(world.new(line())) and not world.is_world(line()))
  T.raises("fishwood: wood is a probability, got 2", fishwood.new, { wood = 2 })
  T.raises("depth is 5, 6 or 7, got 4", fruit_tree.new, 4)
  T.raises("map is 'convex' or 'concave', got 'flat'", deep_sea_treasure.new, { map = "flat" })
end)

T.test("fruit_tree: the tables, their hypervolume, and exact figures of policies", function()
  for depth, want in pairs { [5] = 8808.4187, [6] = 12575.8733, [7] = 17665.2844 } do
    local leaves = fruit_tree.leaves(depth)
    T.eq(#leaves, 1 << depth)
    T.near(metrics.hypervolume(leaves, { 0, 0, 0, 0, 0, 0 }), want, 1e-3 / want)
    T.eq(#metrics.nondominated(leaves), #leaves)
  end
  -- the policy that follows the bits of leaf 10 (from 0), 001010
  local greedy, uniform = {}, {}
  for node = 1, 63 do
    greedy[node], uniform[node] = { 1.0, 0.0 }, { 0.5, 0.5 }
  end
  local node = 0
  for _, bit in ipairs { 0, 0, 1, 0, 1, 0 } do
    greedy[node + 1] = { 1.0 - bit, bit + 0.0 }
    node = 2 * node + 1 + bit
  end
  T.eq(fruit_tree.greedy_leaf(6, greedy), 11)
  T.eq(fruit_tree.expected_return(6, greedy), fruit_tree.leaves(6)[11])
  T.near(fruit_tree.expected_return(6, uniform), { 3.3252, 3.1469, 3.6015, 3.8196, 3.0598, 3.3856 }, 5e-5)
  T.near(fruit_tree.leaf_probabilities(6, uniform)[64], 1 / 64, 1e-12)
end)

T.test("fruit_tree: the shared tables are the ones in the program", function()
  for _, depth in ipairs { 5, 6, 7 } do
    local path, i = T.shared("fruit-tree/fruit_tree_d" .. depth .. ".csv"), 0
    for row in io.lines(path) do
      i = i + 1
      local numbers = {}
      for x in row:gmatch "[^,]+" do
        numbers[#numbers + 1] = tonumber(x)
      end
      T.eq(fruit_tree.leaves(depth)[i], numbers)
    end
    T.eq(i, 1 << depth)
  end
end)

T.test("fishwood: exact returns against the closed form and against episodes", function()
  -- a policy that ignores the state: of 200 states the first is the woods, of the others a share q
  for _, q in ipairs { 0, 0.3, 1 } do
    local pi = { { 1 - q, q }, { 1 - q, q } }
    T.near(fishwood.expected_return(pi), { 0.5 * (1 + 199 * q), 0.5 * 199 * (1 - q) }, 1e-12)
    T.near(fishwood.expected_return(pi, { wood = 0.9, fish = 0.1 }), { 0.9 * (1 + 199 * q), 0.1 * 199 * (1 - q) }, 1e-12)
  end
  T.eq(fishwood.front(), { { 0.5, 99.5 }, { 100.0, 0.0 } })
  local agent = Agent.new { world = fishwood.new(), hidden = { 8 }, key = 5 }
  agent:average(0)
  local p = { { 0.2, 0.8 } }
  local exact = fishwood.expected_return(agent:probabilities(p)[1])
  local mean, std = rollout.statistics(rollout.episodes(agent, p, { episodes = 400, seed = 1, purpose = "x" }))
  for j = 1, 2 do -- four standard errors
    T.ok(math.abs(mean[1][j] - exact[j]) < 4 * std[1][j] / 20, ("%g, exact %g"):format(mean[1][j], exact[j]))
  end
end)

T.test("deep_sea_treasure: the shortest ways give its front, and it is non-dominated", function()
  for _, map in ipairs { "convex", "concave" } do
    local e, front = deep_sea_treasure.new { map = map }, deep_sea_treasure.front(map)
    for c, want in ipairs(front) do
      local copies, sum = world.batch(e, 1, { seed = 0 }), { 0, 0 }
      copies:reset()
      local ended
      for step = 1, -want[2] do
        local _, rewards, done = copies:step { step < c and 3 or 1 }
        sum, ended = { sum[1] + rewards[1][1], sum[2] + rewards[1][2] }, done[1]
      end
      T.eq({ sum, ended }, { want, true })
    end
    T.eq(#metrics.nondominated(front), #front)
  end
  -- a wall: the submarine stays and time goes on
  local copies = world.batch(deep_sea_treasure.new(), 1, { seed = 0 })
  copies:reset()
  local observations, rewards = copies:step { 2 }
  T.eq({ observations[1], rewards[1] }, { { 0, 0 }, { 0, -1 } })
end)

-- ---- rollouts ----

T.test("rollout: the same seed gives the same episodes, each by itself", function()
  local agent = Agent.new { world = world.new(line()), hidden = { 4 }, key = 7 }
  agent:average(0)
  local P = { { 1, 0 }, { 0.25, 0.75 }, { 0, 1 } }
  local a = rollout.episodes(agent, P, { episodes = 4, seed = 1, purpose = "x" })
  local b = rollout.episodes(agent, P, { episodes = 4, seed = 1, purpose = "x" })
  T.eq(b, a)
  T.eq({ a.n, a.total, #a.states, #a.actions, #a.rewards }, { 12, a.offsets[13], a.total, a.total, a.total })
  T.eq(a.places, { 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3 })
  T.eq(a.prefs[5], P[2])
  for i = 1, a.n do -- the laws of the environment, and the sums
    local sum = { 0, 0 }
    for t = a.offsets[i] + 1, a.offsets[i + 1] do
      local to = a.states[t] + 2 * a.actions[t] - 1
      sum = { sum[1] + a.rewards[t][1], sum[2] + a.rewards[t][2] }
      T.ok(t == a.offsets[i + 1] and (to == 0 or to == 4) or a.states[t + 1] == to)
    end
    T.eq(sum, a.returns[i])
  end
  local one = rollout.episodes(agent, { P[1] }, { episodes = 4, seed = 1, purpose = "x" })
  T.eq(one.returns, table.move(a.returns, 1, 4, 1, {}))
  local other = rollout.episodes(agent, P, { episodes = 4, seed = 2, purpose = "x" })
  T.ok(T.show(other.actions) ~= T.show(a.actions))
end)

T.test("rollout: actions have the policy's probabilities, with epsilon mixed with uniform ones", function()
  local e = world.new { name = "bandit", objectives = { "a", "b", "c" }, actions = 3, states = 1,
    reset = function() return 0 end,
    step = function(_, a) return 0, { a == 0 and 1 or 0, a == 1 and 1 or 0, a == 2 and 1 or 0 }, true end }
  local agent = Agent.new { world = e, hidden = { 4 }, key = 3 }
  agent:average(0)
  local p, n = { 0.1, 0.2, 0.7 }, 20000
  local pi = agent:probabilities({ p })[1][1]
  for _, epsilon in ipairs { 0, 0.4 } do
    local mean = rollout.statistics(rollout.episodes(agent, { p }, { episodes = n, seed = 1, purpose = "x", epsilon = epsilon }))[1]
    for j = 1, 3 do
      local want = (1 - epsilon) * pi[j] + epsilon / 3
      T.ok(math.abs(mean[j] - want) < 4.5 * math.sqrt(want * (1 - want) / n), ("%g, want %g"):format(mean[j], want))
    end
  end
end)

T.test("rollout: states without numbers", function()
  local agent = Agent.new { world = dots(), hidden = { 8 }, key = 2 }
  agent:average(0)
  local o = { episodes = 3, seed = 4, purpose = "x", epsilon = 0.2 }
  local a = rollout.episodes(agent, { { 1, 0 }, { 0, 1 } }, o)
  T.eq(rollout.episodes(agent, { { 1, 0 }, { 0, 1 } }, o), a)
  T.eq({ a.n, #a.observations, a.states }, { 6, a.total, nil })
  for i = 1, 6 do
    T.eq(a.observations[a.offsets[i] + 1], { 0.5, 0.5 })
    T.eq(a.returns[i][1] + a.returns[i][2], 1)
  end
end)

-- ---- agent ----

T.test("agent: heads and concat see the preference; averaged weights; save and load", function()
  local e = fruit_tree.new(5)
  for _, layout in ipairs { "heads", "concat" } do
    local o = { world = e, hidden = { 6 }, layout = layout, key = 9, observe = layout == "concat" and world.one_hot(31) or nil }
    local agent = Agent.new(o)
    agent:average(0)
    local P = { { 1, 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0, 1 } }
    local probabilities = agent:probabilities(P)
    T.eq({ #probabilities, #probabilities[1], #probabilities[1][31] }, { 2, 31, 2 })
    T.ok(math.abs(probabilities[1][1][1] - probabilities[2][1][1]) > 1e-6, "the preference counts")
    T.ok(math.abs(probabilities[1][1][1] - probabilities[1][2][1]) > 1e-6, "so does the state")
    T.near(probabilities[1][7][1] + probabilities[1][7][2], 1, 1e-6)
    -- move the actor: the average follows by half
    local w = agent.actor:parameters()[1]
    local before = w:clone()
    tensor.no_grad(function() w:copy_(w + 1) end)
    agent:average(0.5)
    T.near(agent.mean:parameters()[1]:totable(), (before + 0.5):totable(), 1e-6)
    local dir = T.tmpdir()
    assert(agent:save(dir))
    local again = Agent.new { world = e, hidden = { 6 }, layout = layout, key = 10, observe = o.observe }
    assert(again:load(dir))
    T.eq(again:probabilities(P), agent:probabilities(P))
    T.eq(again:probabilities(P, true), agent:probabilities(P, true))
    T.fails("the model needs %(7,", (Agent.new { world = e, hidden = { 7 }, layout = layout, key = 1, observe = o.observe }).load,
      (Agent.new { world = e, hidden = { 7 }, layout = layout, key = 1, observe = o.observe }), dir)
  end
  T.raises("heads needs states that are numbered", Agent.new, { world = dots(), layout = "heads", key = 1 })
  T.raises("init is 'he' or 'pytorch', got 'she'", Agent.new, { world = e, init = "she", key = 1 })
  local he = Agent.new { world = e, hidden = { 400 }, layout = "heads", init = "he", output_scale = 0, key = 1 }
  T.eq(he:probabilities({ { 1, 0, 0, 0, 0, 0 } })[1][9], { 0.5, 0.5 })
  T.eq(Agent.new({ world = e, key = 1 }).actor:parameters()[3].shape, { 64, 64 })
  local w = he.actor:parameters()[1]
  T.near(w:square():mean():item(), 2 / 6, 0.03)
  T.raises("'concat' or 'heads', got 'wide'", Agent.new, { world = e, layout = "wide", key = 1 })
end)

-- ---- mocl.train.trainer with a mocl.train.world_actor ----

local function new_trainer(agent, options, total)
  local o = { warmup = 0, gamma = 0.99, vf_coef = 0.5, max_grad_norm = 0.0, normalize = "rms" }
  for key, v in pairs(options) do
    o[key] = v
  end
  return trainer.new { actor = world_actor.new(agent), options = o, seed = 1, total = total or 1 }
end

-- The loss with the preference as weights.
local function linear(t, batch, adv)
  local o = t.options
  local combined = (adv * segments.spread(batch.prefs, batch)):sum(2)
  return function(e)
    local surrogate, _, clipped = ppo.clip(e.logp, batch.old, combined, o.cliprange)
    return surrogate:mean() - e.entropy * (o.entropy * e.left) + e.value_error * o.vf_coef,
      { ["ppo/loss/policy"] = surrogate:mean(), ["ppo/policy/clipfrac"] = clipped:mean() }
  end
end

-- f(t, iteration) inside iteration n of a trainer, which ends there
local function inside(t, n, f)
  t.done = n - 1
  for iteration in t:iterations(1) do
    f(iteration)
    t.updated, t.row = true, t.row or {} -- where f looks at advantages alone
  end
  T.eq(t.done, n)
end

T.test("world actor: networks on distinct states give what networks on all steps give", function()
  -- the same weights, the same steps: by table of states, and row by row
  local e = world.new(line { observation = 2, observe = function(s) return { s / 4, 1 - s / 4 } end })
  local a, b = Agent.new { world = e, hidden = { 8 }, key = 2 }, Agent.new { world = dots(), hidden = { 8 }, key = 2 }
  local P = { { 0.3, 0.7 }, { 0.8, 0.2 } }
  local o = { episodes = 5, lr = 1e-2, gamma = 0.9, entropy = 0.01, ppo_epochs = 3 }
  local ta, tb, same = new_trainer(a, o, 4), new_trainer(b, o, 4), {}
  inside(ta, 1, function()
    local batch = ta:rollout(P)
    for k, v in pairs(batch) do
      same[k] = v
    end
    same.states, same.observations = nil, {}
    for t, s in ipairs(batch.states) do
      same.observations[t] = { s / 4, 1 - s / 4 }
    end
    ta:update(batch, linear(ta, batch, ta:advantages(batch)))
  end)
  inside(tb, 1, function()
    same.old = nil
    local batch = tb.actor:prepare(same)
    tb:update(batch, linear(tb, batch, tb:advantages(batch)))
  end)
  for i, w in ipairs(a:parameters()) do
    T.near(b:parameters()[i]:totable(), w:totable(), 2e-5)
  end
end)

T.test("trainer: advantages against the plain formulas, one scale for all objectives", function()
  local agent = Agent.new { world = world.new(line()), hidden = { 8 }, key = 2 }
  local P = { { 0.3, 0.7 }, { 0.8, 0.2 } }
  local function scaled(rows)
    local sum, n = 0, 0
    for _, row in ipairs(rows) do
      for _, x in ipairs(row) do
        sum, n = sum + x * x, n + 1
      end
    end
    for _, row in ipairs(rows) do
      for j, x in ipairs(row) do
        row[j] = x / math.sqrt(sum / n)
      end
    end
    return rows
  end
  local group = new_trainer(agent, { episodes = 3, baseline = "group" })
  inside(group, 1, function()
    local batch, rows = group:rollout(P), {}
    for i = 1, batch.n do
      local k, first = batch.places[i], (batch.places[i] - 1) * 3
      for t = batch.offsets[i] + 1, batch.offsets[i + 1] do
        rows[t] = {}
        for j = 1, 2 do -- return minus the mean of the two other episodes of the preference
          local others = 0
          for o = first + 1, first + 3 do
            others = others + (o ~= i and batch.returns[o][j] / 2 or 0)
          end
          rows[t][j] = batch.returns[i][j] - others
        end
      end
      T.eq(batch.prefs[i], P[k])
    end
    T.near(group:advantages(batch):totable(), scaled(rows), 1e-5)
    T.eq(group:score(batch), batch.returns)
  end)

  local critic = new_trainer(agent, { episodes = 3, gamma = 0.9, lam = 0.5 })
  inside(critic, 1, function()
    local batch = critic:rollout(P)
    local adv = critic:advantages(batch)
    local V, want, targets = batch.values:totable(), {}, {}
    for i = 1, batch.n do
      local A = { 0, 0 }
      for t = batch.offsets[i + 1], batch.offsets[i] + 1, -1 do
        want[t], targets[t] = {}, {}
        for j = 1, 2 do
          local after = t < batch.offsets[i + 1] and V[t + 1][j] or 0
          A[j] = batch.rewards[t][j] + 0.9 * after - V[t][j] + 0.9 * 0.5 * A[j]
          want[t][j], targets[t][j] = A[j], A[j] + V[t][j]
        end
      end
    end
    T.near(batch.value_targets:totable(), targets, 1e-5)
    local plain, mean = {}, { 0, 0 }
    for t, row in ipairs(want) do
      plain[t] = { row[1], row[2] }
      mean[1], mean[2] = mean[1] + row[1] / #want, mean[2] + row[2] / #want
    end
    T.near(adv:totable(), scaled(want), 1e-5)
    local means, sum = world_actor.mean_values(batch), 0
    for t = 1, batch.offsets[2] do
      sum = sum + math.max(0, V[t][2]) / batch.offsets[2]
    end
    T.near(means[1][2], sum, 1e-5)
    critic.options.normalize = "mean" -- without their mean over the steps, and no more
    for t, row in ipairs(critic:advantages(batch):totable()) do
      T.near(row, { plain[t][1] - mean[1], plain[t][2] - mean[2] }, 1e-5)
    end
  end)
  T.raises("mean_values: there are values after t:advantages with baseline=critic", world_actor.mean_values, {})
  local without = world_actor.new(Agent.new { world = world.new(line()), hidden = { 4 }, key = 1, critic = false })
  T.raises("baseline=critic needs an actor with a critic", trainer.options, { baseline = "critic" }, without)
  T.eq(trainer.options({}, without).baseline, "none") -- its advantages are the recipe's own
  T.raises("trainer.options: unknown option 'epochs'", trainer.options, { epochs = 1 }, without)
  T.raises("needs at least 2 episodes", trainer.options, { episodes = 1, baseline = "group" }, without)
end)

T.test("trainer: with scale_rewards the size of an objective does not matter", function()
  local function advantages(size, offset, baseline)
    local spec = line()
    local step = spec.step
    spec.step = function(s, a, stream)
      local after, reward, done = step(s, a, stream)
      return after, { reward[1] * size, reward[2] * 1.0 + (offset or 0) }, done
    end
    local agent = Agent.new { world = world.new(spec), hidden = { 8 }, key = 2 }
    local t, rows = new_trainer(agent, { episodes = 3, baseline = baseline, scale_rewards = true }), nil
    inside(t, 1, function()
      rows = t:advantages(t:rollout { { 0.3, 0.7 }, { 0.8, 0.2 } }):totable()
    end)
    return rows
  end
  for _, baseline in ipairs { "group", "critic" } do
    local plain = advantages(1, 0, baseline)
    T.near(advantages(1000, 0, baseline), plain, 1e-4)
    T.near(advantages(1e-6, 0, baseline), plain, 1e-4)
  end
  for _, row in ipairs(advantages(0, 0, "group")) do -- one that is always 0
    T.eq(row[1], 0.0)
  end
end)

T.test("trainer: the ratio is 1 in the first epoch, and one objective is learned", function()
  local agent = Agent.new { world = world.new(line()), hidden = { 16 }, key = 2 }
  local t, n = new_trainer(agent, { episodes = 8, lr = 2e-2, max_grad_norm = 1 }, 40), 0
  for update in t:iterations() do
    local batch = t:rollout { { 1, 0 }, { 0, 1 } }
    local m = t:update(batch, linear(t, batch, t:advantages(batch)))
    n = n + 1
    T.eq({ m["ppo/first_ratio_error"], m.step, update }, { 0, n, n })
  end
  T.eq(n, 40)
  local p = agent:probabilities { { 1, 0 }, { 0, 1 } }
  T.ok(p[1][3][1] > 0.9 and p[2][3][2] > 0.9, ("left %.2f, right %.2f"):format(p[1][3][1], p[2][3][2]))
end)

-- one update of a fresh agent, whose advantages are multiplied by `size`: its metrics, the agent, what each weight moved by
local function updated(options, size, update, updates)
  local agent = Agent.new { world = world.new(line()), hidden = { 8 }, key = 2 }
  local t, before, moved, m = new_trainer(agent, options, updates), {}, {}, nil
  for i, w in ipairs(agent:parameters()) do
    before[i] = w:flatten():totable()
  end
  inside(t, update or 1, function()
    local batch = t:rollout { { 1, 0 }, { 0, 1 } }
    m = t:update(batch, linear(t, batch, t:advantages(batch) * size))
  end)
  for i, w in ipairs(agent:parameters()) do
    for k, x in ipairs(w:flatten():totable()) do
      moved[#moved + 1] = math.abs(x - before[i][k])
    end
  end
  return m, agent, moved
end

T.test("trainer: the step size falls to 0 on a straight line, after a warm-up", function()
  for update, left in pairs { [1] = 1, [2] = 0.75, [4] = 0.25 } do -- the first step of Adam is of lr, along the sign of the gradient
    local m, _, moved = updated({ lr = 0.01, ppo_epochs = 1, episodes = 4 }, 1, update, 4)
    T.near(math.max(table.unpack(moved)), 0.01 * left, 1e-6)
    T.near(m["ppo/learning_rate"], 0.01 * left, 1e-12)
  end
  for update, lr in pairs { [1] = 0.005, [2] = 0.01, [3] = 0.01, [6] = 0.0025 } do
    T.near(updated({ lr = 0.01, ppo_epochs = 1, warmup = 2 }, 1, update, 6)["ppo/learning_rate"], lr, 1e-12)
  end
  T.near(updated({ lr = 0.01, ppo_epochs = 1, lr_scheduler_type = "constant" }, 1, 6, 6)["ppo/learning_rate"], 0.01, 1e-12)
  T.near(updated({ lr = 0.01, ppo_epochs = 1, warmup = 8 }, 1, 2, 6)["ppo/learning_rate"], 0.0025, 1e-12) -- longer than the training
end)

T.test("trainer: the gradient is that of the surrogate, the entropy and vf_coef times the value error", function()
  local function norm(vf_coef, entropy, size)
    return (updated({ vf_coef = vf_coef, entropy = entropy, ppo_epochs = 1, episodes = 4 }, size))["ppo/grad_norm"]
  end
  -- actor and critic share no weights, so that the squares of their norms add up
  local actor, both = norm(0, 0, 1), norm(1, 0, 1)
  T.ok(both > 1.01 * actor and actor > 0)
  T.near(norm(0.5, 0, 1) ^ 2 - actor ^ 2, 0.25 * (both ^ 2 - actor ^ 2), 1e-5)
  T.near(norm(0, 0, 2), 2 * actor, 1e-5)
  T.near(norm(0, 0, 0), 0, 1e-9)
  T.near(norm(0, 2, 0), 2 * norm(0, 1, 0), 1e-5)
end)

T.test("trainer: the entropy is raised, and the surrogate's ratio is taken against the rollout's probabilities", function()
  local first = updated({ entropy = 1, ppo_epochs = 1, lr = 0.02, episodes = 4 }, 0)
  local last = updated({ entropy = 1, ppo_epochs = 20, lr = 0.02, episodes = 4 }, 0)
  T.ok(last["objective/entropy"] > first["objective/entropy"] + 1e-3 and first["objective/entropy"] > 0)
  -- far from the rollout's probabilities the clip is active
  T.ok(updated({ ppo_epochs = 20, lr = 0.05, episodes = 4 }, 1)["ppo/policy/clipfrac"] > 0.1)
end)

T.test("trainer: inner products of gradients are those of the softmax by hand", function()
  -- one layer without a hidden one: logits = W [one-hot state, p] + bias, so that d log pi(a) / d logit_k = 1[k = a] - pi_k
  local agent = Agent.new { world = world.new(line()), hidden = {}, key = 3, critic = false }
  local t = new_trainer(agent, { baseline = "group", episodes = 4 })
  inside(t, 1, function()
    local P = { { 0.3, 0.7 }, { 0.8, 0.2 } }
    local batch = t:rollout(P)
    local probabilities, list, by_hand = agent:probabilities(P), {}, {}
    for l = 1, 3 do
      local a, g = {}, {}
      for k = 1, 2 * (5 + 2 + 1) do
        g[k] = 0
      end
      for i = 1, batch.n do
        for step = batch.offsets[i] + 1, batch.offsets[i + 1] do
          a[step] = math.sin(l * step) + 0.1 * l
          local s, pi = batch.states[step], probabilities[batch.places[i]][batch.states[step] + 1]
          local x = { 0, 0, 0, 0, 0, batch.prefs[i][1], batch.prefs[i][2], 1 }
          x[s + 1] = 1
          for action = 0, 1 do
            for k, y in ipairs(x) do
              local at = action * 8 + k
              g[at] = g[at] + a[step] * ((batch.actions[step] == action and 1 or 0) - pi[action + 1]) * y / batch.total
            end
          end
        end
      end
      list[l], by_hand[l] = tensor.new(a), g
    end
    local G = t:gram_of(batch)(list)
    for i = 1, 3 do
      for k = 1, 3 do
        local want = 0
        for at, x in ipairs(by_hand[i]) do
          want = want + x * by_hand[k][at]
        end
        T.near(G[i][k], want, 1e-6)
      end
      T.ok(G[i][i] > 1e-4, "gradients that are not zero")
    end
    local double = t:gram_of(batch) { list[1], list[1] * 2 } -- parallel ones: a solver takes them
    T.near(minnorm.solve(double), { 1, 0 }, 1e-9)
    for _, pair in ipairs(agent:named_parameters()) do
      T.ok(not pair[2].grad or pair[2].grad:abs():max():item() == 0, "no gradient is left")
    end
  end)
end)

T.test("trainer: what a method leaves out, or returns in place of a loss", function()
  local function in_update(f, options)
    local agent = Agent.new { world = world.new(line()), hidden = { 4 }, key = 2 }
    local t = new_trainer(agent, options or {}, 2)
    for _ in t:iterations() do
      local batch = t:rollout { { 1, 0 } }
      f(t, batch, t:advantages(batch))
    end
  end
  T.raises("training: iteration 1 ended without t:update%(batch, loss%): a method needs a loss", in_update, function() end)
  T.raises("t:update: a function %(epoch%) %-> loss expected as second argument: a method needs a loss", in_update, function(t, batch)
    t:update(batch)
  end)
  T.raises("t:update: the loss is a nil; its function must return a scalar tensor", in_update, function(t, batch)
    t:update(batch, function() end)
  end)
  T.raises("t:update: the loss is a tensor of shape %(%) without gradient", in_update, function(t, batch)
    t:update(batch, function(e) return e.logp:detach():mean() end)
  end)
  T.raises("t:update: the loss is a tensor of shape %(2%); its", in_update, function(t, batch)
    t:update(batch, function(e) return e.logp:narrow(1, 1, 2) end)
  end)
  local actor = world_actor.new(Agent.new { world = world.new(line()), hidden = { 4 }, key = 2 })
  T.raises("trainer.new: the piece of state 'deck' has no methods state%(%) and restore%(%), nor position%(%) and seek%(%)", trainer.new,
    { actor = actor, options = {}, seed = 1, total = 1, state = { deck = {} } })
  T.raises("trainer.new: unknown option 'reward' %(did you mean 'rewards'%?%)", trainer.new,
    { actor = actor, options = {}, seed = 1, total = 1, reward = {} })
  T.raises("'prompts' is the trainer's own piece of state", trainer.new,
    { actor = actor, options = {}, seed = 1, total = 1, prompts = { "x" }, state = { prompts = rng.new(1, "x") } })
end)

T.test("trainer: what is not finite, with the iteration and the cure; nothing of it is kept", function()
  local function run(poison, options)
    local agent = Agent.new { world = world.new(line()), hidden = { 4 }, key = 2 }
    local t, seen = new_trainer(agent, options or {}, 3), {}
    for iteration in t:iterations() do
      local batch = t:rollout { { 1, 0 } }
      local adv = t:advantages(batch)
      local loss = linear(t, batch, iteration == 2 and poison.adv and adv * (0 / 0) or adv)
      t:update(batch, function(e)
        local value, shown = loss(e)
        seen.epoch = e.epoch
        if iteration == 2 and poison.shown and e.epoch == 1 then
          shown["ppo/loss/policy"] = shown["ppo/loss/policy"] * (1 / 0)
        elseif iteration == 2 and poison.value then
          e.value_error = e.value_error * (1 / 0)
        end
        return value, shown
      end)
    end
  end
  -- the gradient is at fault, the loss is what is said
  T.raises("^training: iteration 2: the policy's loss is not finite %(nan%); lower lr, which is 0.004$", run, { adv = true })
  -- seen in the first of four epochs, told at the end of the iteration, before a checkpoint
  T.raises("^training: iteration 2: the policy's loss is not finite %(%-?inf%); lower lr, which is 0.004$", run, { shown = true })
  T.raises("^training: iteration 2: the critic's loss is not finite %(inf%); lower lr, which is 0.004$", run, { value = true })
end)

T.test("control: shares of the raw rewards in place of equation 18", function()
  local control = Control.new({ share = true, factor = 0.0, pool = "batch", phi = 1e-3, scale = 1.0, floor = 0.0, negative = true,
    interior = 0.0 }, 2, 2)
  T.raises("unknown option 'shares'", Control.new, { shares = true }, 2, 2)
  local raw = { { 30, 10 }, { 10, 30 }, { 5, 0 }, { 5, 10 } }
  T.eq(control:observe(raw, { 1, 1, 2, 2 }), raw)
  local P = { { 0.75, 0.25 }, { 0.75, 0.25 }, { 0.5, 0.5 }, { 0.5, 0.5 } }
  P[2], P[4] = P[1], P[3]
  local offsets = tensor.new({ 0, 1, 2, 3, 4 }, { dtype = "i32" })
  local batch = { response_offsets = offsets, tokens = offsets }
  local adv = tensor.new { { 1, -1 }, { -1, 2 }, { 0.5, 1 }, { 1, 1 } }
  local problem = control:problem(adv, batch, P, { 1, 1, 2, 2 })
  local s = { w = problem:solve().w, answers = problem:answers() }
  -- group 1: mean (20, 20), shares (.5, .5), b = (-.25, .25), mean square .0625; group 2: shares are p
  T.eq({ s.answers[1].indicator, s.answers[3].indicator }, { true, false })
  local v = { 0.75 - 0.25, -0.75 + 0.5, 0.75, 1 }
  local w = { 0.25 * 1 - 0.25 * -1, 0.25 * -1 - 0.25 * 2, 0, 0 }
  local vv, vw, ww = 0, 0, 0
  for t = 1, 4 do
    vv, vw, ww = vv + v[t] ^ 2, vw + v[t] * w[t], ww + w[t] ^ 2
  end
  local c = (ww - vw) / (vv - 2 * vw + ww)
  T.near(s.answers[4].c, c, 1e-6)
  T.near(s.w:totable()[1], { c * 0.75 + (1 - c) * 0.25, c * 0.25 - (1 - c) * 0.25 }, 1e-6)
  T.near(s.w:totable()[3], { c * 0.5, c * 0.5 }, 1e-6)
  T.near(s.answers[2].w, { c * 0.75 + (1 - c) * 0.25, c * 0.25 - (1 - c) * 0.25 }, 1e-6)
  control:observe({ { 0, 0 }, { 0, 0 }, { 1, 1 }, { 1, 1 } }, { 1, 1, 2, 2 }) -- nothing to share: equal shares
  T.eq(control:problem(adv, batch, P, { 1, 1, 2, 2 }):answers()[1].indicator, true)
  control:observe({ { -3, 1 }, { 1, 1 }, { 1, 1 }, { 1, 1 } }, { 1, 1, 2, 2 })
  T.raises("control.share: the mean reward of objective 1 is %-1, and shares need rewards that are not negative", control.problem, control,
    adv, batch, P, { 1, 1, 2, 2 })
end)

T.test("config.rows: a recipe's own defaults", function()
  local rows = config.rows({ { "a", 1, "x", min = 0 }, { "b", true, "y" } }, "ppo.", { b = false })
  T.eq(rows, { { "ppo.a", 1, "x", min = 0 }, { "ppo.b", false, "y" } })
  T.eq(config.rows({ { "a", 1, "x" }, { "b", true, "y" }, { "c", 2, "z" } }, "", {}, { "b" }), { { "a", 1, "x" }, { "c", 2, "z" } })
  T.raises("there is no option 'ppo.c'", config.rows, {}, "ppo.", { c = 1 })
  T.eq(config.join { { { "a" } }, {}, { { "b" }, { "c" } } }, { { "a" }, { "b" }, { "c" } })
end)
