--- mocl.train.scalar: PPO on a weighted sum of the rewards. With fixed weights it has one value head: MORLHF is one
-- such policy for each preference, Rewarded Soups begin with one for each objective. With weights that are dealt anew
-- for each prompt it has one for each objective: CLP.

local kl_controller = require "mocl.method.kl_controller"
local policy = require "mocl.lm.policy"
local ppo = require "mocl.method.ppo"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local segments = require "mocl.segments"
local stages = require "mocl.train.stages"
local trainer = require "mocl.train.trainer"

local scalar = {}

--- Rows for a recipe's schema.
scalar.OPTIONS = {
  { "iterations", 320, "PPO iterations of each policy", min = 1 },
  { "save_every", 20, "iterations between checkpoints", min = 1 },
  { "rewards", "normalized", "what is summed: rewards in deviations of the SFT model's, or as they are (RiC)", choices = { "normalized", "raw" } },
}

--- Names in trainer.OPTIONS that such a policy does not have.
scalar.WITHOUT = { "baseline", "scale_rewards", "normalize", "entropy", "kl_in_reward" }

--- scalar.only(j, n) -> n weights, that of objective j 1 and those of the others 0.
function scalar.only(j, n)
  local weights = {}
  for k = 1, n do
    weights[k] = k == j and 1 or 0
  end
  return weights
end

--- scalar.equal(n) -> n weights of 1 / n: tags with them say nothing.
function scalar.equal(n)
  local weights = {}
  for j = 1, n do
    weights[j] = 1 / n
  end
  return weights
end

--- scalar.sums(rows, weights) -> list of {sum_j w_j r_j}, one per answer; weights of all answers, or a list of those of
-- each.
function scalar.sums(rows, weights)
  local list, one = {}, type(weights[1]) == "number"
  for i, row in ipairs(rows) do
    local sum, w = 0, one and weights or weights[i]
    for j, x in ipairs(row) do
      sum = sum + w[j] * x
    end
    list[i] = { sum }
  end
  return list
end

--- scalar.rewards(ctx, raw, kind) -> rows: raw rewards, or ("normalized") in deviations of the SFT model's answers.
function scalar.rewards(ctx, raw, kind)
  local rows = {}
  for i, row in ipairs(raw) do
    rows[i] = kind == "normalized" and policy.normalize(row, ctx.sft.statistics) or row
  end
  return rows
end

-- The KL of the last iteration, as a piece of the trainer's state: a run that is continued behind it still says it.
local function last_kl()
  return {
    state = function(self) return { kl = self.kl } end,
    restore = function(self, state) self.kl = state.kl end,
  }
end

--- scalar.train(ctx, {stage=, weights=, tag=, options=}) -> {kl=}: trains a policy on sum_j weights_j r_j as a stage of
-- the run, from the SFT model on; prompts show the preference `tag`. options: those of scalar.OPTIONS. With
-- preferences=, a list, in place of weights and tag each prompt shows one of them, which are its weights. The adapter
-- is in ctx.run:latest(stage).
function scalar.train(ctx, o)
  local cfg, own, conditioned = ctx.cfg, o.options, o.preferences ~= nil
  return ctx.run:stage(o.stage, function(stage)
    local actor = stages.actor(ctx, { heads = not conditioned and 1 or nil })
    local beta, last = kl_controller.from_options(cfg.ppo), last_kl()
    local preferences = conditioned and preference.deck(rng.new(cfg.seed, "preferences"), o.preferences) or nil
    local t <close> = trainer.new { run = ctx.run, stage = stage, label = o.stage, total = own.iterations, save_every = own.save_every,
      seed = cfg.seed, actor = actor, options = cfg.ppo, lr_name = "ppo.lr", prompts = ctx.source.train_prompts, rewards = ctx.rewards,
      state = { beta = beta, last = last, preferences = preferences } }
    for _ in t:iterations() do
      local plain = t:prompts(cfg.ppo.batch_size)
      local weights = conditioned and preferences:deal(#plain) or o.weights
      local batch = t:rollout(preference.tagged(plain, conditioned and weights or o.tag))
      local rows = scalar.rewards(ctx, t:score(batch, plain), own.rewards)
      local sums = scalar.sums(rows, weights)
      local adv = t:advantages(batch, segments.terminal(conditioned and rows or sums, batch)) -- one for each value head
      adv = (conditioned and adv * segments.spread(weights, batch) or adv):sum(2)
      local m = t:update(batch, function(e)
        local surrogate, _, clipped = ppo.clip(e.logp, batch.old, adv, cfg.ppo.cliprange)
        local loss = surrogate:mean()
        return loss + e.value_error * cfg.ppo.vf_coef + e.kl_penalty:mean() * beta:value(),
          { ["ppo/loss/policy"] = loss, ["ppo/policy/clipfrac"] = clipped:mean() }
      end)
      m["objective/kl_coef"], last.kl = beta:value(), m["objective/kl"]
      beta:update(last.kl, #plain)
      local mean = 0
      for _, row in ipairs(sums) do
        mean = mean + row[1] / #sums
      end
      m["env/reward_mean"] = mean
      t:log(m, ("reward %.2f kl %.2f"):format(mean, last.kl))
    end
    return { kl = last.kl }
  end, "spread")
end

return scalar
