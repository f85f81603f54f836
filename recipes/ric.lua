--- ric: one policy that reads in its prompt what its answer is to earn, trained by supervised steps alone
-- (Rewards-in-Context).
--
--   mocl recipes/ric.lua                                 the embedded task, humor against helpful
--   mocl recipes/ric.lua ric.num_online_iterations=2     two online stages; 0: the offline one alone
--   mocl recipes/ric.lua ric.method=linf                 another way from preferences to scores
--   mocl recipes/ric.lua preset=smoke out=/tmp/x         every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local Control = require "mocl.method.control"
local preference = require "mocl.preference"
local ric = require "mocl.method.ric"
local rng = require "mocl.rng"
local stages = require "mocl.train.stages"

local schema = stages.schema(stages.NO_POLICY_GRADIENT, stages.PREFERENCES, {
  { "ric.num_samples", 20480, "answers of the SFT model that the offline stage is trained on", min = 2 },
  { "ric.training_steps", 4000, "steps of the offline stage", min = 1 },
  { "ric.offline_learning_rate", 5e-3, "its peak step size, which falls to 0", min = 0 },
  { "ric.num_online_iterations", 1, "online stages", min = 0 },
  { "ric.num_generation_samples", 20480, "answers of each of them", min = 2 },
  { "ric.num_origin_samples", 10000, "answers of the offline stage that each is trained on too", min = 0 },
  { "ric.quantile_threshold", 0.7, "an answer is kept where one of its scores reaches this quantile of the objective's", min = 0, max = 1 },
  { "ric.online_training_steps", 1000, "steps of each online stage", min = 1 },
  { "ric.learning_rate", 2e-3, "their constant step size", min = 0 },
  { "ric.batch_size", 32, "answers a step", min = 1 },
  { "ric.method", "l2", "from a preference to the scores that are asked for", choices = ric.MAPS },
  { "ric.reference", "gaussian", "range of the scores that are asked for: extremes of N(0, 1), or those of the offline stage's answers",
    choices = { "gaussian", "data" } },
})

local presets = stages.presets({
  smoke = { ["ric.num_samples"] = 32, ["ric.training_steps"] = 4, ["ric.num_generation_samples"] = 16, ["ric.num_origin_samples"] = 8,
    ["ric.online_training_steps"] = 2, ["ric.batch_size"] = 8 },
  hh = { ["ric.num_samples"] = 3200, ["ric.num_generation_samples"] = 3200, ["ric.num_origin_samples"] = 1600, ["ric.training_steps"] = 1200,
    ["ric.online_training_steps"] = 300, ["ric.batch_size"] = 16, ["ric.offline_learning_rate"] = 1e-3, ["ric.learning_rate"] = 4e-4 },
}, stages.NO_POLICY_GRADIENT)

local ctx <close> = stages.open { recipe = "ric", doc = "Rewards-in-Context: supervised training on prompts with scores (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "ric-*",
  depends = { "preferences", "ric" },
  longest = function(prompt, n)
    return ric.tagged(prompt, { -9.9, n > 1 and -9.9 or nil, n > 2 and -9.9 or nil }), 0
  end }
if ctx.complete then
  return
end
local cfg, own, names = ctx.cfg, ctx.cfg.ric, ctx.cfg.objectives

stages.models(ctx)
stages.actor(ctx, { heads = 0, rows = own.batch_size })
stages.sft_answers(ctx)

-- ---- the offline stage ----

local dealt = preference.deck(rng.new(cfg.seed, "preferences"), ctx.grid)
local offline = stages.answers(ctx, "ric-data-0", { n = own.num_samples, adapter = false, text = function(prompt)
  return preference.relabel(prompt, dealt:deal(1)[1]) -- the SFT model knows prompts with tags
end })
local statistics = ric.statistics(offline, names)
local scores = ric.normalize(offline, statistics)
local range = own.reference == "data" and ric.range(scores) or ric.gaussian(rng.new(cfg.seed, "reference"), #names)

stages.adapt(ctx, "ric-0", nil, { steps = own.training_steps, batch_size = own.batch_size, lr = own.offline_learning_rate,
  lr_name = "ric.offline_learning_rate" }, function()
  return ric.examples(offline, scores)
end)

-- ---- the online stages ----

local online = {} -- examples of all of them so far
for k = 1, own.num_online_iterations do
  stages.load_policy(ctx, "ric-" .. k - 1)
  local goals = ric.goals(rng.new(cfg.seed, "goals " .. k), #names, own.num_generation_samples)
  local rows = stages.answers(ctx, "ric-data-" .. k, { n = own.num_generation_samples, text = function(prompt, i)
    return ric.tagged(prompt, goals[i])
  end })
  local obtained = ric.normalize(rows, statistics)
  local kept = ric.examples(rows, obtained, ric.select(obtained, own.quantile_threshold))
  table.move(kept, 1, #kept, #online + 1, online)
  stages.adapt(ctx, "ric-" .. k, "ric-" .. k - 1, { steps = own.online_training_steps, batch_size = own.batch_size,
    lr = own.learning_rate, lr_name = "ric.learning_rate", lr_scheduler_type = "constant" }, function()
    local places = rng.new(cfg.seed, "origin " .. k):shuffle(ric.select(scores, own.quantile_threshold))
    local list = ric.examples(offline, scores, table.move(places, 1, own.num_origin_samples, 1, {}))
    return table.move(online, 1, #online, #list + 1, list)
  end)
end

-- ---- evaluation ----

stages.load_policy(ctx, "ric-" .. own.num_online_iterations)
local asked = {}
for i, p in ipairs(ctx.grid) do
  asked[i] = ric.scores(p, range, own.method)
end
local figures = stages.evaluation(ctx, own.training_steps + own.num_online_iterations * own.online_training_steps, { name = "ric",
  answer = function(prompts, p, key)
    local texts = {}
    for i, prompt in ipairs(prompts) do
      texts[i] = ric.tagged(prompt, ric.scores(p, range, own.method))
    end
    return ctx.policy:answer(texts, { key = key })
  end })
stages.finish(ctx, figures, { method = "ric", map = own.method, asked = asked, policies = 1,
  training_samples = own.num_samples + own.num_online_iterations * own.num_generation_samples }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
