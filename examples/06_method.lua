--- 06_method: a method of one's own on a language model, without value heads: docs/guide/write-a-method.md explains it.
--
--   mocl examples/06_method.lua preset=smoke out=/tmp/x     every stage, tiny, in seconds
--   mocl examples/06_method.lua                             the embedded task, in minutes

local group, ppo, preference = require "mocl.method.group", require "mocl.method.ppo", require "mocl.preference"
local metrics, rng, segments = require "mocl.metrics", require "mocl.rng", require "mocl.segments"
local stages, trainer = require "mocl.train.stages", require "mocl.train.trainer"

local CRITIC = { "vf_coef", "gamma", "lam", "baseline", "scale_rewards", "normalize", "entropy", "kl_in_reward" }
local schema = stages.schema(CRITIC, { { "mine.iterations", 200, "iterations", min = 1 }, { "mine.beta", 0.1, "weight of the KL", min = 0 } })
local ctx <close> = stages.open { recipe = "mine", doc = "the method of docs/guide/write-a-method.md", schema = schema, arg = arg,
  presets = stages.presets { smoke = { ["mine.iterations"] = 3 } }, method = "mine", depends = { "mine" } }
if ctx.complete then
  return
end
stages.models(ctx)
local actor = stages.actor(ctx, { heads = 0 })
stages.sft_answers(ctx)

local cfg = ctx.cfg
ctx.run:stage("mine", function(stage)
  local deck = preference.deck(rng.new(cfg.seed, "preferences"), ctx.grid)
  local t <close> = trainer.new { run = ctx.run, stage = stage, label = "mine", total = cfg.mine.iterations, save_every = 20,
    seed = cfg.seed, actor = actor, options = cfg.ppo, lr_name = "ppo.lr", prompts = ctx.source.train_prompts, rewards = ctx.rewards,
    state = { deck = deck } }
  for _ in t:iterations() do
    local prompts, prefs = group.repeated(t:prompts(cfg.ppo.batch_size // 4), 4), group.repeated(deck:deal(cfg.ppo.batch_size // 4), 4)
    local batch = t:rollout(preference.tagged(prompts, prefs)) -- four answers to each prompt, all with one preference
    local raw, rows = t:score(batch, prompts), {}
    for first = 1, #raw, 4 do
      for i = first, first + 3 do
        rows[i] = 0
        for j, p in ipairs(prefs[i]) do -- sum_j p_j (r_ij - mean of the group) / deviation in the group
          local mean, std = metrics.mean_std { raw[first][j], raw[first + 1][j], raw[first + 2][j], raw[first + 3][j] }
          rows[i] = rows[i] + (std > 0 and p * (raw[i][j] - mean) / std or 0)
        end
      end
    end
    local adv = segments.spread(rows, batch)
    t:log(t:update(batch, function(e)
      local loss = ppo.clip(e.logp, batch.old, adv, cfg.ppo.cliprange):mean()
      return loss + e.kl_penalty:mean() * cfg.mine.beta, { ["ppo/loss/policy"] = loss }
    end))
  end
end)
stages.finish(ctx, stages.evaluation(ctx, cfg.mine.iterations), { method = "mine", training_samples = cfg.mine.iterations * cfg.ppo.batch_size })
