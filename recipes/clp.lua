--- clp: one policy that follows the preference in its prompt, trained by PPO on the sum of the objectives' advantages
-- weighted by it (conditioned linear scalarisation).
--
--   mocl recipes/clp.lua                                 the embedded task, humor against helpful
--   mocl recipes/clp.lua preferences=1:0,0.5:0.5,0:1     other preferences to train on
--   mocl recipes/clp.lua preset=smoke out=/tmp/x         every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local scalar = require "mocl.train.scalar"
local stages = require "mocl.train.stages"

local schema = stages.schema(scalar.WITHOUT, stages.PREFERENCES, config.rows(scalar.OPTIONS, "clp.", {}))

local presets = stages.presets {
  smoke = { ["clp.iterations"] = 2, ["clp.save_every"] = 2 },
  hh = { ["ppo.min_kl_coef"] = 0.01, ["clp.iterations"] = 100 },
}

local ctx <close> = stages.open { recipe = "clp", doc = "One policy, linear scalarisation by the preference in the prompt (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "clp", depends = { "preferences", "clp" } }
if ctx.complete then
  return
end

stages.models(ctx)
stages.actor(ctx)
stages.sft_answers(ctx)
local kl = scalar.train(ctx, { stage = "clp", preferences = ctx.grid, options = ctx.cfg.clp }).kl

stages.finish(ctx, stages.evaluation(ctx, ctx.cfg.clp.iterations), { method = "clp", policies = 1,
  training_samples = ctx.cfg.clp.iterations * ctx.cfg.ppo.batch_size, kl = kl }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
