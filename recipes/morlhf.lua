--- morlhf: one policy for each preference, each trained by PPO on the rewards' sum weighted by it (linear scalarisation).
--
--   mocl recipes/morlhf.lua preferences=1:0,0.5:0.5,0:1     three policies; without it one for each of the grid
--   mocl recipes/morlhf.lua preset=smoke out=/tmp/x         every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local scalar = require "mocl.train.scalar"
local stages = require "mocl.train.stages"

local schema = stages.schema(scalar.WITHOUT, stages.PREFERENCES,
  config.rows(scalar.OPTIONS, "morlhf.", {}))

local presets = stages.presets {
  smoke = { ["morlhf.iterations"] = 2, ["morlhf.save_every"] = 2,
    preferences = { "1:0", "0:1" } },
  hh = { ["ppo.min_kl_coef"] = 0.01, ["morlhf.iterations"] = 100 },
}

local ctx <close> = stages.open { recipe = "morlhf", doc = "One policy for each preference, linear scalarisation (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "morlhf-*", policies = "preference", depends = { "preferences", "morlhf" } }
if ctx.complete then
  return
end
local cfg = ctx.cfg

stages.models(ctx)
stages.actor(ctx, { heads = 1 })
stages.sft_answers(ctx)

local kl, trained = 0, {}
for i, p in ipairs(ctx.grid) do
  trained[i] = "morlhf-" .. i
  kl = kl + scalar.train(ctx, { stage = trained[i], weights = p, tag = p, options = cfg.morlhf }).kl / #ctx.grid
end

local figures = stages.evaluation(ctx, cfg.morlhf.iterations, { name = "morlhf", unseen = false, trained = trained, before = function(_, i)
  stages.load_policy(ctx, trained[i])
end })
stages.finish(ctx, figures, { method = "morlhf", policies = #ctx.grid,
  training_samples = #ctx.grid * cfg.morlhf.iterations * cfg.ppo.batch_size, kl = kl }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
