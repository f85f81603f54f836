--- mod: one policy for each objective, trained by PPO on its reward alone; an answer to a preference is drawn token by
-- token from the product of what all of them make of it, each to the power of its weight (Multi-Objective Decoding).
--
--   mocl recipes/mod.lua                                 the embedded task, humor against helpful
--   mocl recipes/mod.lua preset=smoke out=/tmp/x         every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local preference = require "mocl.preference"
local scalar = require "mocl.train.scalar"
local stages = require "mocl.train.stages"

local schema = stages.schema(scalar.WITHOUT, stages.PREFERENCES, config.rows(scalar.OPTIONS, "mod.", {}))

local presets = stages.presets {
  smoke = { ["mod.iterations"] = 2, ["mod.save_every"] = 2 },
  hh = { ["ppo.min_kl_coef"] = 0.01, ["mod.iterations"] = 100 },
}

local ctx <close> = stages.open { recipe = "mod", doc = "One policy for each objective, mixed while they answer (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "mod-*", policies = "objective", depends = { "mod" } }
if ctx.complete then
  return
end
local cfg, names = ctx.cfg, ctx.cfg.objectives

stages.models(ctx)
stages.actor(ctx, { heads = 1 })
stages.sft_answers(ctx)

-- The tags of all prompts, here and below, are those of equal weights: they say nothing.
local equal, kl, trained = scalar.equal(#names), 0, {}
for j, name in ipairs(names) do
  trained[j] = "mod-" .. name
  kl = kl + scalar.train(ctx, { stage = trained[j], weights = scalar.only(j, #names), tag = equal, options = cfg.mod }).kl / #names
end

local figures = stages.evaluation(ctx, cfg.mod.iterations, { name = "mod", trained = trained, load = function()
  for j, name in ipairs(names) do
    stages.load_policy(ctx, trained[j], { name = name })
  end
end, answer = function(prompts, p, key)
  return ctx.policy:answer(preference.tagged(prompts, equal), { key = key, mixture = { adapters = names, weights = p } })
end })
stages.finish(ctx, figures, { method = "mod", policies = #names,
  training_samples = #names * cfg.mod.iterations * cfg.ppo.batch_size, kl = kl }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
