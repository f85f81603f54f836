--- modpo: one policy for each preference, trained on pairs of answers without a critic (MODPO); at a corner of the simplex, where one
-- objective has all the weight, it is DPO on that objective.
--
--   mocl recipes/modpo.lua preferences=0.5:0.5                one policy
--   mocl recipes/modpo.lua preferences=1:0                    DPO on the first objective
--   mocl recipes/modpo.lua preset=smoke out=/tmp/x            every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local dpo = require "mocl.method.dpo"
local group = require "mocl.method.group"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local scalar = require "mocl.train.scalar"
local stages = require "mocl.train.stages"
local trainer = require "mocl.train.trainer"

local OF_PPO = { "cliprange", "vf_coef", "gamma", "lam", "baseline", "scale_rewards", "normalize", "entropy", "init_kl_coef", "target",
  "horizon", "min_kl_coef", "kl_penalty", "kl_in_reward" }

local schema = stages.schema(OF_PPO, stages.PREFERENCES,
  config.rows(scalar.OPTIONS, "modpo.", {}), {
    { "ppo.lr", 2e-3, "Adam step size", min = 0 }, -- half of the others': the pairs are the SFT model's, and nothing holds answers far from them
    { "modpo.beta", 0.1, "beta: how close the policy stays to the SFT model", min = 1e-6 } })

local presets = stages.presets {
  smoke = { ["modpo.iterations"] = 2, ["modpo.save_every"] = 2,
    preferences = { "1:0", "0.4:0.6" } },
  hh = { ["modpo.iterations"] = 100 },
}

local ctx <close> = stages.open { recipe = "modpo", doc = "One policy for each preference from pairs of answers (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "modpo-*", depends = { "preferences", "modpo" },
  check = function(cfg)
    if cfg.ppo.batch_size % 2 ~= 0 then
      error(("ppo.batch_size=%d: answers come in pairs; take an even number"):format(cfg.ppo.batch_size), 0)
    end
  end }
if ctx.complete then
  return
end
local cfg = ctx.cfg

stages.models(ctx)
stages.actor(ctx, { heads = 0 })
stages.sft_answers(ctx)

-- The objective with the greatest weight labels the pairs, the first of equal ones, and the weights of the others.
local function parts(p)
  local k, others = 1, {}
  for j = 2, #p do
    k = p[j] > p[k] and j or k
  end
  for j = 1, #p do
    others[j] = j ~= k and p[j] or 0
  end
  return k, others
end

-- sum_j w_j r_j of each answer, a list of numbers
local function sums(rows, weights)
  local list = scalar.sums(rows, weights)
  for i, row in ipairs(list) do
    list[i] = row[1]
  end
  return list
end

local function train(i, p)
  ctx.run:stage("modpo-" .. i, function(stage)
    local actor, k, others = stages.actor(ctx, { heads = 0 }), parts(p)
    local labels, only_k = rng.new(cfg.seed, "labels"), scalar.only(k, #p)
    local t <close> = trainer.new { run = ctx.run, stage = stage, label = "modpo-" .. i, total = cfg.modpo.iterations,
      save_every = cfg.modpo.save_every, seed = cfg.seed, actor = actor, options = cfg.ppo, lr_name = "ppo.lr",
      prompts = ctx.source.train_prompts, rewards = ctx.rewards, state = { labels = labels } }
    for _ in t:iterations() do
      local plain = group.repeated((t:prompts(cfg.ppo.batch_size // 2)), 2)
      local batch = t:rollout(preference.tagged(plain, p), { adapter = false }) -- two answers of the SFT model to each prompt
      batch.old = nil
      local rewards = scalar.rewards(ctx, t:score(batch, plain), cfg.modpo.rewards)
      local signs = dpo.label(labels, sums(rewards, only_k))
      local o = { beta = cfg.modpo.beta, weight = p[k], margins = sums(rewards, others) }
      local m = t:update(batch, function(e)
        local loss, accuracy = dpo.loss(e.logp, actor:logp_ref(batch), batch, signs, o)
        return loss, { ["ppo/loss/policy"] = loss:detach(), ["rewards/accuracies"] = accuracy }
      end)
      m["objective/kl"] = nil -- it would be on the SFT model's answers, not on the policy's
      t:log(m, ("loss %.3f accuracy %.2f"):format(m["ppo/loss/policy"], m["rewards/accuracies"]))
    end
  end, "spread")
end

local trained = {}
for i, p in ipairs(ctx.grid) do
  trained[i] = "modpo-" .. i
  train(i, p)
end
local figures = stages.evaluation(ctx, cfg.modpo.iterations, { name = "modpo", unseen = false, trained = trained, before = function(_, i)
  stages.load_policy(ctx, trained[i])
end })
stages.finish(ctx, figures, { method = "modpo", policies = #ctx.grid,
  training_samples = #ctx.grid * cfg.modpo.iterations * cfg.ppo.batch_size }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
