--- mocl.train.learner: PPO with a vector of rewards for a mocl.world.agent: rollouts, advantages per objective, and the update by
-- one weighted advantage. Where the weights come from (mocl.method.control, or the preference itself) is the caller's.
--
--   local ppo = learner.new(agent, cfg.ppo, { seed = 0, updates = 60 })
--   for update = 1, 60 do
--     local batch = ppo:rollout(preferences, update)
--     local adv, returns = ppo:advantages(batch)
--     local m = ppo:update(batch, control:problem(adv, batch, ...), returns, update)
--   end

local finite = require "mocl.finite"
local fs = require "mocl.fs"
local metrics = require "mocl.metrics"
local nn = require "mocl.nn"
local optim = require "mocl.optim.core"
local ppo = require "mocl.train.ppo"
local rollout = require "mocl.world.rollout"
local tensor = require "mocl.tensor"

local learner = {}

--- Rows for a recipe's schema (training.options).
learner.OPTIONS = {
  { "preferences", 9, "preferences an update", min = 1 },
  { "episodes", 1, "episodes for each of them", min = 1 },
  { "ppo_epochs", 4, "passes over the steps of an update, one minibatch each", min = 1 },
  { "lr", 5e-3, "Adam step size at the start; it falls to 0 on a straight line", min = 0 },
  { "cliprange", 0.2, "range of the clipped surrogate", min = 1e-4 },
  { "vf_coef", 0.5, "weight of the mean squared value error", min = 0 },
  { "gamma", 0.99, "discount of the advantages", min = 0, max = 1 },
  { "lam", 0.95, "GAE lambda", min = 0, max = 1 },
  { "baseline", "critic", "advantages: GAE with the critic, or return minus the mean of the other episodes", choices = { "critic", "group" } },
  { "scale_rewards", true, "rewards of each objective are divided by the deviation of its returns in the batch" },
  { "entropy", 0.0, "weight of the entropy at the start; it falls to 0 on a straight line", min = 0 },
  { "epsilon", 0.0, "share of actions drawn uniformly while training", min = 0, max = 1 },
  { "max_grad_norm", 0.0, "clip of the gradient norm; 0: none", min = 0 },
  { "average", 0.0, "memory of the average of the actor's weights, which is what is evaluated", min = 0, max = 1 },
}

local Learner = {}
Learner.__index = Learner

--- learner.new(agent, options, {seed=, updates=, purpose="rollout", lr_name="lr"}): options by the names above; lr_name is
-- what errors call the step size.
function learner.new(agent, options, run)
  local o = {}
  for _, row in ipairs(learner.OPTIONS) do
    o[row[1]] = options[row[1]] == nil and row[2] or options[row[1]]
  end
  for key in pairs(options) do
    if o[key] == nil then
      error(("learner: unknown option '%s'"):format(tostring(key)), 2)
    end
  end
  if o.baseline == "critic" and not agent.critic then
    error("learner: baseline=critic needs an agent with a critic", 2)
  elseif o.baseline == "group" and o.episodes < 2 then
    error("learner: baseline=group needs at least 2 episodes for each preference", 2)
  end
  agent:average(0)
  return setmetatable({ agent = agent, o = o, seed = run.seed, updates = run.updates, purpose = run.purpose or "rollout",
    lr_name = run.lr_name or "lr", optimizer = optim.adamw(agent:named_parameters(), { lr = o.lr }) }, Learner)
end

--- Episodes under preferences, for an update (a number, from 1): rollout.episodes' batch with what training needs.
function Learner:rollout(preferences, update)
  return self:prepare(rollout.episodes(self.agent, preferences, { episodes = self.o.episodes, seed = self.seed,
    epsilon = self.o.epsilon, purpose = self.purpose .. " " .. update }))
end

--- Adds to a batch of rollout.episodes what training needs, and returns it.
function Learner:prepare(batch)
  local a, actions = self.agent, batch.actions
  local rows, steps = a:visited(batch)
  local ids, counts, shares, A = {}, {}, {}, a.env.actions
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

-- What the rewards of each objective are divided by: the deviation of its returns in the batch, or, where they do not
-- vary, their size.
local function deviations(batch)
  local scale = {}
  for j = 1, #batch.returns[1] do
    local column = {}
    for i, row in ipairs(batch.returns) do
      column[i] = row[j]
    end
    local mean, std = metrics.mean_std(column)
    local size = math.abs(mean)
    scale[j] = std > 1e-6 * size and std or size > 0 and size or 1.0
  end
  return scale
end

--- Advantages [T, N], one per objective and step, divided by their common root mean square; and the returns that the
-- critic learns (nil without one).
function Learner:advantages(batch)
  local o, adv, returns = self.o, nil, nil
  local scale = o.scale_rewards and tensor.new(deviations(batch), { device = self.agent.device }):unsqueeze(1)
  local function rewards_of(rows)
    local r = tensor.new(rows, { device = self.agent.device })
    return scale and r / scale or r
  end
  if o.baseline == "group" then
    local n, N = batch.n // o.episodes, self.agent.env.n
    local by_preference = rewards_of(batch.returns):reshape(n, o.episodes, N)
    local rows = (by_preference - by_preference:mean(2):unsqueeze(2)) * (o.episodes / (o.episodes - 1)) -- mean of the others
    adv = nn.segment_expand(rows:reshape(batch.n, N), batch.response_offsets)
  else
    local values = tensor.no_grad(function()
      return values_of(self.agent, batch)
    end)
    batch.values = scale and values * scale or values
    adv, returns = ppo.gae(rewards_of(batch.rewards), values, batch.response_offsets,
      { gamma = o.gamma, lam = o.lam })
  end
  return adv * (adv:square():mean() + 1e-12):rsqrt(), returns
end

--- The critic's mean value over the steps of each episode, what is below 0 taken as 0: the paper's stand-in for the return
-- in its toy experiment (appendix E.3). After advantages.
function learner.mean_values(batch)
  if not batch.values then
    error("mean_values: there are values after learner:advantages with baseline=critic", 2)
  end
  return nn.segment_mean(batch.values:clamp(0, nil), batch.response_offsets):totable()
end

local function epochs(self, batch, problem, returns, left)
  local o, a, m, solved, old = self.o, self.agent, {}, nil, nil
  for epoch = 1, o.ppo_epochs do
    local scope <close> = tensor.scope()
    local all = nn.rows(a:logits(batch.input), batch.rows):log_softmax():reshape(-1, 1)
    local logp = nn.rows(all, batch.step_actions):flatten()
    old = old or scope:keep(logp:detach()) -- the rollout's: z = 1 in the first epoch
    solved = problem:solve(epoch > 1 and (logp:detach() - old):exp() or nil, o.cliprange)
    local surrogate, ratio, clipped = ppo.clip(logp, old, solved.advantage, o.cliprange)
    local all_of = all:flatten()
    local entropy = -(all_of:exp() * all_of * batch.shares):sum()
    local loss = surrogate:mean() - entropy * (o.entropy * left)
    if returns then
      local error_of = ppo.value_loss(values_of(a, batch), returns)
      loss = loss + error_of * o.vf_coef
      m["ppo/loss/value"] = epoch == o.ppo_epochs and finite.number(error_of:item(), "the critic's loss") or nil
    end
    self.optimizer:zero_grad()
    loss:backward()
    if epoch == o.ppo_epochs then
      m["ppo/loss/policy"] = finite.number(surrogate:mean():item(), "the policy's loss")
      m["objective/entropy"] = finite.number(entropy:item(), "the entropy")
      m["ppo/policy/clipfrac"] = clipped:mean():item()
    end
    m["ppo/grad_norm"] = self.optimizer:step { lr = o.lr * left, max_grad_norm = o.max_grad_norm > 0 and o.max_grad_norm or nil }
    if epoch == 1 then
      m["ppo/first_ratio_error"] = (ratio - 1):abs():max():item()
    end
  end
  a:average(o.average)
  m["ppo/learning_rate"] = o.lr * left
  return m, solved
end

--- The epochs of update number `update`. problem:solve(ratio, cliprange) gives {advantage = [T], ...}, the weighted
-- advantage of each step with the gate of equation 10 at that ratio [T] (nil in the first epoch, where it is 1); the loss
-- is its clipped surrogate, the value error and the entropy. Returns metrics of the last epoch, and what solve gave in it.
-- The first loss or gradient that is not finite raises.
function Learner:update(batch, problem, returns, update)
  return finite.within("update " .. update, ("lower %s, which is %g"):format(self.lr_name, self.o.lr), epochs, self, batch, problem,
    returns, 1 - (update - 1) / self.updates)
end

local function check(ok, message)
  if not ok then
    error(message, 0)
  end
end

--- agent.safetensors and optimizer.safetensors in a directory, and back; failures raise.
function Learner:save(dir)
  check(self.agent:save(dir))
  check(ppo.save_optimizer(self.optimizer, fs.join(dir, "optimizer.safetensors")))
end

function Learner:load(dir)
  check(self.agent:load(dir))
  check(ppo.load_optimizer(self.optimizer, fs.join(dir, "optimizer.safetensors")))
end

return learner
