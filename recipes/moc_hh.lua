--- moc_hh: Multi-Objective Control of a language model, from text to one policy that follows a preference.
--
--   mocl recipes/moc_hh.lua                                   the embedded task, humor against helpful
--   mocl recipes/moc_hh.lua objectives=harmless,helpful       or all three
--   mocl recipes/moc_hh.lua data=../shared/data/prefs/hh-rlhf objectives=harmless,helpful
--   mocl recipes/moc_hh.lua control.solver=upgrad             another way to join the objectives (docs/solvers.md)
--   mocl recipes/moc_hh.lua model=DIR reward.helpful=DIR reward.harmless=DIR data=DIR    a model and reward models of your own
--   mocl recipes/moc_hh.lua preset=smollm2 data=../shared/data    a real instruct model, in hours (docs/guide/real-model.md)
--   mocl recipes/moc_hh.lua preset=smoke out=/tmp/x           every stage, tiny, in seconds
--
-- Stages: tokenizer, base model, reward models, SFT, MOC, evaluation; each is kept in the run directory and
-- reused. The MOC stage is Algorithm 1 of the paper, read as docs/algorithm.md section 3 says.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local control_log = require "mocl.method.control_log"
local kl_controller = require "mocl.method.kl_controller"
local ppo = require "mocl.method.ppo"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local segments = require "mocl.segments"
local stages = require "mocl.train.stages"
local trainer = require "mocl.train.trainer"

-- What recipes/moc_reddit.lua, the same loop on other data, calls this with; the arguments of a program are texts.
local own = ...
own = type(own) == "table" and own or { recipe = "moc_hh", schema = function(rows) return rows end, presets = {},
  doc = "Multi-Objective Control of a language model (docs/algorithm.md)" }

-- ---- options: those of the modules, and the method's own ----

local schema = own.schema(stages.schema({ "baseline", "scale_rewards", "normalize", "entropy" },
  { { "moc.iterations", 320, "PPO iterations", min = 1 },
    { "moc.tag_noise", 0.04, "half of the tags of line 4 differ from p by up to this", min = 0, max = 0.5 },
    { "moc.save_every", 20, "iterations between checkpoints", min = 1 } },
  config.rows(Control.OPTIONS, "control.", { range = true, phi = 1e-3, floor = 0.25, scale = 3.0, negative = true, interior = 0.0 })))

local presets = stages.presets({
  smoke = { ["moc.iterations"] = 3, ["moc.save_every"] = 2 },
  reading_a = Control.READING_A,
  reading_b = Control.READING_B,
  paper = Control.PAPER,
  hh = { ["ppo.min_kl_coef"] = 0.01, ["moc.iterations"] = 100,
    ["control.scale"] = 1.0, ["control.least_range"] = 1.0 },
  smollm2 = { ["ppo.min_kl_coef"] = 0.01, ["moc.iterations"] = 360, ["control.scale"] = 1.0, ["control.least_range"] = 1.0 },
  large = { ["ppo.horizon"] = 10000, ["ppo.min_kl_coef"] = 0.0, ["moc.iterations"] = 200, ["control.scale"] = 1.0, ["control.least_range"] = 1.0 },
}, nil, schema, own.presets)

local function hooks_of(cfg, grid) -- what does not go together fails before there is a directory
  return Control.check(cfg.control, #cfg.objectives, grid)
end

local ctx <close> = stages.open { recipe = own.recipe, doc = own.doc, source = own.source, small = own.small,
  schema = schema, presets = presets, arg = arg, method = "moc", hooks = hooks_of,
  depends = { "moc", "control" } }
if ctx.complete then
  return
end
local cfg, N = ctx.cfg, #ctx.cfg.objectives

stages.models(ctx)
local actor = stages.actor(ctx) -- the SFT model with an adapter, and N value heads; with the adapter off it is the reference
stages.sft_answers(ctx)

-- ---- Algorithm 1 ----

local outcome = ctx.run:stage("moc", function(stage)
  local preferences = preference.deck(rng.new(cfg.seed, "preferences"), ctx.grid)
  local control = Control.new(cfg.control, N, ctx.grid, ctx.sft.start,
    { seed = cfg.seed, weights = ctx.hooks.weights, total = cfg.moc.iterations })
  local beta = kl_controller.from_options(cfg.ppo)
  local log = control_log.new(cfg.objectives, ctx.sft.statistics)
  local t <close> = trainer.new { run = ctx.run, stage = stage, label = "moc", total = cfg.moc.iterations, save_every = cfg.moc.save_every,
    seed = cfg.seed, actor = actor, options = cfg.ppo, lr_name = "ppo.lr", prompts = ctx.source.train_prompts, rewards = ctx.rewards,
    rewards_hook = ctx.hooks.rewards, state = { preferences = preferences, control = control, beta = beta, log = log } }

  -- equation 3: the prompts with tags; docs/algorithm.md says why half of them are a little off
  local function tagged(iteration, plain, prefs)
    local texts, noise = {}, rng.new(cfg.seed, "tags " .. iteration)
    for i, prompt in ipairs(plain) do
      texts[i] = preference.relabel(prompt, noise:uniform() < 0.5 and prefs[i] or preference.jitter(noise, prefs[i], cfg.moc.tag_noise))
    end
    return texts
  end

  for iteration in t:iterations() do -- line 1
    local plain = t:prompts(cfg.ppo.batch_size) -- line 2
    local prefs, places = preferences:deal(#plain) -- line 3
    local batch = t:rollout(tagged(iteration, plain, prefs)) -- lines 4 and 5
    local R = control:observe(t:score(batch, plain), places) -- line 6, equation 18
    local rewards = segments.terminal(R, batch)
    if cfg.ppo.kl_in_reward then
      rewards = rewards - ppo.kl_estimate(batch.old, actor:logp_ref(batch), "k1"):unsqueeze(2) * beta:value()
    end
    local adv = t:advantages(batch, rewards) -- line 7: one per objective and token
    local problem = control:problem(adv, batch, prefs, places, t:gram_of(batch)) -- line 8: c by equation 12

    local m = t:update(batch, function(e) -- lines 9 and 10: equation 7, the KL inside J and so weighted by c, value heads
      local s = problem:solve(e.ratio, cfg.ppo.cliprange)
      local surrogate, _, clipped = ppo.clip(e.logp, batch.old, s.advantage, cfg.ppo.cliprange)
      local policy_loss = surrogate:mean()
      local loss = policy_loss + e.value_error * cfg.ppo.vf_coef
      if not cfg.ppo.kl_in_reward then
        loss = loss + (e.kl_penalty * s.c):mean() * beta:value()
      end
      return loss, { ["ppo/loss/policy"] = policy_loss, ["ppo/policy/clipfrac"] = clipped:mean() }
    end)
    m["objective/kl_coef"] = beta:value()
    beta:update(m["objective/kl"], #plain)
    t:log(log:row(m, problem:answers(), batch.raw))
  end
  return log:summary()
end, "spread") -- lines 11 and 12

-- ---- evaluation: the grid, unseen preferences, samples, the table ----

stages.finish(ctx, stages.evaluation(ctx, cfg.moc.iterations), { method = Control.name(cfg.control),
  training_samples = cfg.moc.iterations * cfg.ppo.batch_size, kl = outcome.kl, c = outcome.c }, function(...)
  return Control.warning(cfg.control, ...)
end)
