--- metaaligner: the SFT model's answers, edited by a model that reads in its prompt which objectives to improve
-- (MetaAligner).
--
--   mocl recipes/metaaligner.lua                                 the embedded task, humor against helpful
--   mocl recipes/metaaligner.lua metaaligner.n_objectives=1      one edit for each objective, one after the other
--   mocl recipes/metaaligner.lua preset=smoke out=/tmp/x         every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local Control = require "mocl.method.control"
local lm = require "mocl.lm.sft"
local metaaligner = require "mocl.method.metaaligner"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local stages = require "mocl.train.stages"
local transformer = require "mocl.lm.model"

local schema = stages.schema(stages.NO_POLICY_GRADIENT, stages.PREFERENCES, {
  { "lora.layers", 0, "the last blocks, this many, get the adapter, which has an answer to read beside the prompt; 0: all", min = 0 },
  { "metaaligner.num_samples", 40960, "answers of the SFT model to train on, two to each prompt", min = 2 },
  { "metaaligner.training_steps", 4000, "steps", min = 1 },
  { "metaaligner.learning_rate", 5e-3, "peak step size, which falls to 0", min = 0 },
  { "metaaligner.batch_size", 32, "edits a step", min = 1 },
  { "metaaligner.template", "{aspects} |{answer} | {prompt}", "what the editor is shown" },
  { "metaaligner.aspects", {}, "what the prompt calls the objectives, in their order; empty: their names", list_of = "string" },
  { "metaaligner.n_objectives", 0, "objectives an edit; what is asked for takes as many edits as it needs; 0: one edit", min = 0 },
})

local presets = stages.presets({
  smoke = { ["metaaligner.num_samples"] = 64, ["metaaligner.training_steps"] = 4, ["metaaligner.batch_size"] = 8 },
  hh = { ["metaaligner.num_samples"] = 6400, ["metaaligner.training_steps"] = 1200, ["metaaligner.batch_size"] = 16,
    ["metaaligner.learning_rate"] = 1e-3 },
}, stages.NO_POLICY_GRADIENT)

local own, aspects, max_new_tokens -- options, and what the prompt calls the objectives

local ctx <close> = stages.open { recipe = "metaaligner", doc = "The SFT model's answers, edited towards objectives (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "metaaligner",
  depends = { "metaaligner" }, grid = metaaligner.subsets,
  check = function(cfg)
    own, aspects = cfg.metaaligner, #cfg.metaaligner.aspects > 0 and cfg.metaaligner.aspects or cfg.objectives
    max_new_tokens = cfg.ppo.max_new_tokens
    metaaligner.check(own.template)
    if #aspects ~= #cfg.objectives then
      error(("metaaligner.aspects: %d for %d objectives"):format(#aspects, #cfg.objectives), 0)
    elseif own.num_samples % 2 ~= 0 then
      error(("metaaligner.num_samples=%d: answers come in pairs; take an even number"):format(own.num_samples), 0)
    end
  end,
  longest = function(prompt) -- the answer that is edited stands in the prompt
    return metaaligner.text(own.template, aspects, prompt, ""), max_new_tokens
  end }
if ctx.complete then
  return
end
local cfg, equal = ctx.cfg, {}
for j = 1, #aspects do
  equal[j] = 1 / #aspects -- the tags that the SFT model is shown, which say nothing
end

stages.models(ctx)
stages.actor(ctx, { heads = 0, rows = own.batch_size })
stages.sft_answers(ctx)

local pairs_of = stages.answers(ctx, "metaaligner-data", { n = own.num_samples, each = 2, adapter = false, text = function(prompt)
  return preference.relabel(prompt, equal)
end })
stages.adapt(ctx, "metaaligner", nil, { steps = own.training_steps, batch_size = own.batch_size, lr = own.learning_rate,
  lr_name = "metaaligner.learning_rate" }, function()
  return metaaligner.examples(rng.new(cfg.seed, "aspects"), pairs_of, own.template, aspects)
end)

-- ---- evaluation: the SFT model answers, then the editor does ----

-- Edits answers in place, towards aspects. One whose text has become too long for the context stays as it is.
local function edit(prompts, responses, tokens, named, key)
  local texts, places = {}, {}
  for i, prompt in ipairs(prompts) do
    local text = metaaligner.text(own.template, named, prompt, responses[i])
    if #lm.prompt(ctx.tok, text) + cfg.ppo.max_new_tokens <= cfg.model.positions then
      texts[#texts + 1], places[#places + 1] = text, i
    end
  end
  local new, ids = {}, nil
  if #texts > 0 then
    new, ids = ctx.policy:answer(texts, { key = key })
  end
  for k, i in ipairs(places) do
    responses[i], tokens[i] = new[k], ids.tokens[k]
  end
end

local function answer(prompts, p, key)
  local responses, ids = ctx.policy:answer(preference.tagged(prompts, equal), { key = key, adapter = false })
  local tokens, wanted = table.move(ids.tokens, 1, #prompts, 1, {}), metaaligner.wanted(p, aspects)
  local size = own.n_objectives == 0 and #wanted or own.n_objectives
  for first = 1, #wanted, size do
    edit(prompts, responses, tokens, table.move(wanted, first, math.min(#wanted, first + size - 1), 1, {}), rng.key(key, "edit " .. first))
  end
  return responses, { rows = { tokens = transformer.rows(tokens) } }
end

stages.load_policy(ctx, "metaaligner")
local figures = stages.evaluation(ctx, own.training_steps, { name = "metaaligner", unseen = false, answer = answer })
stages.finish(ctx, figures, { method = "metaaligner", policies = 2, training_samples = own.num_samples }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
