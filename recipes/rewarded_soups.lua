--- rewarded_soups: one policy for each objective, trained by PPO on its reward alone; the policy of a preference is
-- their adapters' sum weighted by it. With soup.beta below 1 each is trained on some of the other rewards too (Bone
-- Soups).
--
--   mocl recipes/rewarded_soups.lua                                 A and B are averaged apart, as RiC does
--   mocl recipes/rewarded_soups.lua soup.kind=products              the exact weighted sum of the products B A
--   mocl recipes/rewarded_soups.lua soup.beta=0.7 soup.kind=products    Bone Soups
--   mocl recipes/rewarded_soups.lua preset=smoke out=/tmp/x         every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local scalar = require "mocl.train.scalar"
local soup = require "mocl.lm.soup"
local stages = require "mocl.train.stages"

local schema = stages.schema(scalar.WITHOUT, stages.PREFERENCES,
  config.rows(scalar.OPTIONS, "soup.", {}),
  { { "soup.kind", "apart", "A and B are averaged apart, or the sum of the products B A is exact", choices = soup.KINDS },
    { "soup.beta", 1.0, "weight of its own reward in what each policy is trained on, the rest is the others' (Bone Soups); 1: Rewarded Soups" } })

local presets = stages.presets {
  smoke = { ["soup.iterations"] = 2, ["soup.save_every"] = 2 },
  hh = { ["ppo.min_kl_coef"] = 0.01, ["soup.iterations"] = 100 },
}

local ctx <close> = stages.open { recipe = "rewarded_soups", doc = "One policy for each objective, mixed by preference (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "soup-*", policies = "objective",
  depends = { "soup.iterations", "soup.save_every", "soup.rewards", "soup.beta" },
  check = function(cfg)
    soup.backbone(#cfg.objectives, cfg.soup.beta)
  end }
if ctx.complete then
  return
end
local cfg, names = ctx.cfg, ctx.cfg.objectives

stages.models(ctx)
stages.actor(ctx, { heads = 1 })
stages.sft_answers(ctx)

-- The tags of all prompts, here and below, are those of equal weights: they say nothing.
local equal, kl, beta = scalar.equal(#names), 0, cfg.soup.beta
for j, name in ipairs(names) do
  kl = kl + scalar.train(ctx, { stage = "soup-" .. name, weights = soup.backbone(#names, beta)[j], tag = equal, options = cfg.soup }).kl / #names
end

local trained = {}
for j, name in ipairs(names) do
  trained[j] = "soup-" .. name
end
local figures = stages.evaluation(ctx, cfg.soup.iterations, { name = "rewarded_soups", trained = trained, load = function()
  for _, name in ipairs(names) do
    stages.load_policy(ctx, "soup-" .. name, { name = name })
  end
end, before = function(p)
  soup.mix(ctx.policy.model, names, soup.coefficients(p, beta), { kind = cfg.soup.kind, name = "_soup" })
  return equal
end })
stages.finish(ctx, figures, { method = beta < 1 and "bone_soups" or "rewarded_soups", soup = cfg.soup.kind, policies = #names,
  training_samples = #names * cfg.soup.iterations * cfg.ppo.batch_size, kl = kl }, function(...)
  return Control.warning({ c = "one" }, ...)
end)
