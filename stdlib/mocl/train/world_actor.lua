--- mocl.train.world_actor: a mocl.world.agent, a policy for a small environment, as an actor of mocl.train.trainer: episodes are its answers,
-- steps its tokens. There is no reference, and so no KL.

local check = require "mocl.failure".check
local nn = require "mocl.nn"
local rollout = require "mocl.world.rollout"
local tensor = require "mocl.tensor"

local world_actor = {}

--- Rows for a recipe's schema, beside those of the trainer.
world_actor.OPTIONS = {
  { "preferences", 9, "preferences an update", min = 1 },
  { "episodes", 1, "episodes for each of them", min = 1 },
  { "epsilon", 0.0, "share of actions drawn uniformly while training", min = 0, max = 1 },
  { "average", 0.0, "memory of the average of the actor's weights, which is what is evaluated", min = 0, max = 1 },
}

local Actor = {}
Actor.__index = Actor

--- world_actor.new(agent) -> actor. The average of the agent's weights begins with them as they are.
function world_actor.new(agent)
  agent:average(0)
  return setmetatable({ agent = agent, OPTIONS = world_actor.OPTIONS, has_values = agent.critic ~= nil,
    words = { value_loss = "the critic's loss" } }, Actor)
end

--- Episodes under preferences: the batch of rollout.episodes with what training needs.
function Actor:rollout(preferences, o)
  return self:prepare(rollout.episodes(self.agent, preferences, { episodes = o.options.episodes, epsilon = o.options.epsilon,
    seed = o.seed, purpose = o.purpose }))
end

--- Adds to a batch of rollout.episodes what training needs, and returns it.
function Actor:prepare(batch)
  local a, actions = self.agent, batch.actions
  local rows, steps = a:visited(batch)
  local ids, counts, shares, A = {}, {}, {}, a.world.actions
  for v = 1, #rows do
    counts[v] = 0
  end
  for t, place in ipairs(steps) do
    ids[t] = place * A + actions[t]
    counts[place + 1] = counts[place + 1] + 1
  end
  for v, n in ipairs(counts) do
    for k = (v - 1) * A + 1, v * A do
      shares[k] = n / batch.total
    end
  end
  local function integers(list)
    return tensor.new(list, { dtype = "i32", device = a.device })
  end
  batch.input = a:input(batch.preferences, batch)
  batch.rows = integers(rows) -- of the networks' output, from 0, that there are steps of
  batch.step_rows = integers(steps) -- of these rows
  batch.step_actions = integers(ids) -- of their log-probabilities, flat
  batch.shares = tensor.new(shares, { device = a.device }) -- of the steps: those of each row, once per action
  batch.response_offsets, batch.tokens = integers(batch.offsets), batch.step_actions
  return batch
end

-- values [T, N] of the steps
local function values_of(agent, batch)
  return nn.rows(nn.rows(agent:values(batch.input), batch.rows), batch.step_rows)
end

--- The critic's values [T, N] of the steps, without gradient.
function Actor:values(batch)
  return tensor.no_grad(values_of, self.agent, batch)
end

--- What the trainer's epochs see: logp [T], the mean entropy of the steps, values [T, N] where there is a critic.
function Actor:evaluate(batch)
  local a = self.agent
  local all = nn.rows(a:logits(batch.input), batch.rows):log_softmax():reshape(-1, 1)
  local flat = all:flatten()
  return { logp = nn.rows(all, batch.step_actions):flatten(), entropy = -(flat:exp() * flat * batch.shares):sum(),
    values = batch.values and values_of(a, batch) or nil }
end

--- Called before the epochs; nothing is left to do.
function Actor:begin()
end

--- Moves the averaged weights.
function Actor:updated(o)
  self.agent:average(o.average)
end

function Actor:named_parameters()
  return self.agent:named_parameters()
end

--- agent.safetensors in a directory, and back; failures raise.
function Actor:save(dir)
  check(self.agent:save(dir))
end

function Actor:load(dir)
  check(self.agent:load(dir))
end

--- The critic's mean value over the steps of each episode, what is below 0 taken as 0: the paper's stand-in for the return
-- in its toy experiment (appendix E.3). After t:advantages.
function world_actor.mean_values(batch)
  if not batch.values then
    error("mean_values: there are values after t:advantages with baseline=critic", 2)
  end
  return nn.segment_mean(batch.values:clamp(0, nil), batch.response_offsets):totable()
end

return world_actor
