--- models: what every method starts from, once: tokenizer, base model, SFT model, its answers, a reward model per objective.
--
--   mocl recipes/models.lua out=runs/models                   the embedded task, humor against helpful
--   mocl recipes/grpo.lua from=runs/models                    a method that starts there; any other one too
--   mocl recipes/models.lua preset=smoke out=/tmp/x           every stage, tiny, in seconds
--
-- A method with from= ends with the bytes that it ends with when it runs these stages itself (mocl.run.from_run).

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local stages = require "mocl.train.stages"

local schema, presets = stages.models_only({ smoke = {}, hh = {} }, stages.PREFERENCES)

local ctx <close> = stages.open { recipe = "models", doc = "The models that methods start from (docs/comparison.md)", schema = schema,
  presets = presets, arg = arg }
if ctx.complete then
  return
end

stages.models(ctx)
stages.actor(ctx, { heads = 0 })
stages.sft_answers(ctx)
stages.finish_models(ctx)
