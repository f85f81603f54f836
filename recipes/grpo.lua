--- grpo: one policy that follows the preference in its prompt, without value heads: each prompt is answered several times, and
-- an answer is compared with the others of its group. GRPO, RLOO and GDPO by option, with weights per prompt.
--
--   mocl recipes/grpo.lua                                   GRPO on the embedded task, humor against helpful
--   mocl recipes/grpo.lua grpo.method=gdpo                  each reward divided by its deviation in the group, then summed
--   mocl recipes/grpo.lua grpo.method=gdpo control.c=minnorm    MOC's weights on these advantages
--   mocl recipes/grpo.lua control.c=minnorm control.solver=upgrad    or those of another solver (docs/solvers.md)
--   mocl recipes/grpo.lua preset=smoke out=/tmp/x           every stage, tiny, in seconds
--
-- docs/baselines.md has the method and its sources.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local control_log = require "mocl.method.control_log"
local group = require "mocl.method.group"
local kl_controller = require "mocl.method.kl_controller"
local ppo = require "mocl.method.ppo"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local segments = require "mocl.segments"
local stages = require "mocl.train.stages"
local trainer = require "mocl.train.trainer"

-- ---- options ----

local CRITIC = { "vf_coef", "gamma", "lam", "baseline", "scale_rewards", "normalize", "entropy", "kl_in_reward" }

local schema = stages.schema(CRITIC, stages.PREFERENCES,
  config.rows(group.OPTIONS, "grpo.", {}),
  { { "grpo.iterations", 320, "iterations", min = 1 }, { "grpo.save_every", 20, "iterations between checkpoints", min = 1 } },
  config.rows(Control.OPTIONS, "control.", { c = "one", range = true, phi = 1e-3, floor = 0.25, negative = true, interior = 0.0 }))

local presets = stages.presets {
  smoke = { ["grpo.num_generations"] = 4, ["grpo.iterations"] = 3,
    ["grpo.save_every"] = 2 },
  hh = { ["ppo.min_kl_coef"] = 0.01, ["grpo.iterations"] = 100,
    ["control.scale"] = 1.0, ["control.least_range"] = 1.0 },
}

local function groups_of(cfg) -- the options of mocl.method.group
  local o = {}
  for _, row in ipairs(group.OPTIONS) do
    o[row[1]] = cfg.grpo[row[1]]
  end
  return group.options(o, cfg.ppo.batch_size)
end

local function hooks_of(cfg, grid) -- what does not go together fails before there is a directory
  return Control.check(cfg.control, #cfg.objectives, grid)
end

local ctx <close> = stages.open { recipe = "grpo", doc = "GRPO, RLOO and GDPO with weights per prompt (docs/baselines.md)",
  schema = schema, presets = presets, arg = arg, method = "grpo", check = groups_of, hooks = hooks_of,
  depends = { "preferences", "grpo", "control" } }
if ctx.complete then
  return
end
local cfg, N, o = ctx.cfg, #ctx.cfg.objectives, groups_of(ctx.cfg)

stages.models(ctx)
local actor = stages.actor(ctx, { heads = 0 }) -- the SFT model with an adapter; with the adapter off it is the reference
stages.sft_answers(ctx)

-- ---- the iterations ----

local outcome = ctx.run:stage("grpo", function(stage)
  local preferences = preference.deck(rng.new(cfg.seed, "preferences"), ctx.grid)
  local control = Control.new(cfg.control, N, ctx.grid, ctx.sft.start,
    { seed = cfg.seed, weights = ctx.hooks.weights, total = cfg.grpo.iterations })
  local beta = kl_controller.from_options(cfg.ppo)
  local log, alike = control_log.new(cfg.objectives, ctx.sft.statistics), group.alike()
  local t <close> = trainer.new { run = ctx.run, stage = stage, label = "grpo", total = cfg.grpo.iterations, save_every = cfg.grpo.save_every,
    seed = cfg.seed, actor = actor, options = cfg.ppo, lr_name = "ppo.lr", prompts = ctx.source.train_prompts, rewards = ctx.rewards,
    rewards_hook = ctx.hooks.rewards, state = { preferences = preferences, control = control, beta = beta, log = log, alike = alike } }

  for _ in t:iterations() do
    local n, size = cfg.ppo.batch_size // o.num_generations, o.num_generations
    local plain, prefs, places = t:prompts(n), preferences:deal(n) -- one preference for each prompt
    plain, prefs, places = group.repeated(plain, size), group.repeated(prefs, size), group.repeated(places, size)
    local batch = t:rollout(preference.tagged(plain, prefs))
    local raw = t:score(batch, plain)
    local rows, share = group.advantages(raw, prefs, o)
    control:observe(raw, places)
    local adv = segments.spread(rows, batch)
    local s = control:problem(adv, batch, prefs, places, t:gram_of(batch)) -- with control.c=one sum_j p_j A_j

    local m = t:update(batch, function(e)
      local now = s:solve(e.ratio, cfg.ppo.cliprange)
      local surrogate, _, clipped = ppo.clip(e.logp, batch.old, now.advantage, cfg.ppo.cliprange)
      local loss = surrogate:mean()
      return loss + (e.kl_penalty * now.c):mean() * beta:value(), { ["ppo/loss/policy"] = loss, ["ppo/policy/clipfrac"] = clipped:mean() }
    end)
    m["objective/kl_coef"], m.frac_reward_zero_std = beta:value(), alike:add(share)
    beta:update(m["objective/kl"], #plain)
    t:log(log:row(m, s:answers(), raw))
  end
  local summary = log:summary()
  summary.alike = alike:share()
  return summary
end, "spread")

-- ---- evaluation ----

stages.finish(ctx, stages.evaluation(ctx, cfg.grpo.iterations), { method = (cfg.control.c == "one" and "" or Control.name(cfg.control) .. "_") .. o.method,
  training_samples = cfg.grpo.iterations * cfg.ppo.batch_size, kl = outcome.kl, c = outcome.c, frac_reward_zero_std = outcome.alike },
  function(...)
    return group.warning(outcome.alike) or Control.warning(cfg.control, ...)
  end)
