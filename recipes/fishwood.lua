--- fishwood: one policy for every trade-off of wood and fish, by MOC and by Linear PPO (figure 1 of the paper).
--
--   mocl recipes/fishwood.lua                           108,000 environment steps a method, about a second each
--   mocl recipes/fishwood.lua seeds=5 out=runs/five     seeds 0 to 4, all listed
--   mocl recipes/fishwood.lua methods=linear_ppo,moc_grpo,pcgrad,cagrad,upgrad
--   mocl recipes/fishwood.lua preset=paper              the paper's settings (table 6)
--   mocl recipes/fishwood.lua preset=smoke out=/tmp/x   every stage, tiny
--
-- Prompts are states here and answers are episodes. With both probabilities .5 every policy has wood + fish = 100 in
-- expectation, so the front says nothing; what counts is the share of wood, which is to be p. Figures are exact: the
-- expected returns of the policy's Markov chain. Expected: share error at most .06, mean at most .03 (MOC).

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local Agent = require "mocl.world.agent"
local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local control_log = require "mocl.method.control_log"
local group = require "mocl.method.group"
local fishwood = require "mocl.world.worlds.fishwood"
local metrics = require "mocl.metrics"
local open_device = require "mocl.run.device".open
local ppo = require "mocl.method.ppo"
local preference = require "mocl.preference"
local report = require "mocl.report"
local rng = require "mocl.rng"
local rollout = require "mocl.world.rollout"
local Run = require "mocl.run"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local trainer = require "mocl.train.trainer"
local world_actor = require "mocl.train.world_actor"
local world_methods = require "mocl.train.world_methods"

local OF_ANSWERS = { "batch_size", "init_kl_coef", "target", "horizon", "min_kl_coef", "kl_penalty", "kl_in_reward" }

local schema = config.join { world_methods.OPTIONS, {
  { "seeds", 1, "runs with the seeds seed, seed + 1, ...; all are listed", min = 1 },
  { "steps", 108000, "environment steps of one method with one seed", min = 200 },
  { "save_every", 30, "updates between checkpoints", min = 1 },
  { "wood", 0.5, "probability of wood in the woods", min = 1e-3, max = 1 },
  { "fish", 0.5, "probability of fish at the lake", min = 1e-3, max = 1 },
  { "target", "return", "R: the episode's return, or the critic's mean value (the paper's)", choices = { "return", "value" } },
  { "agent.hidden", { 64, 64 }, "hidden layers of policy and critic" },
  { "agent.activation", "tanh", "between the layers", choices = { "tanh", "relu" } },
  { "eval.episodes", 100, "sampled episodes per preference, beside the exact figures", min = 1 },
},
  -- docs/algorithm.md section 9: R is the mean return of this batch, as shares; one c per batch and epoch
  config.rows(Control.OPTIONS, "control.", { share = true, factor = 0.0, pool = "batch", solve = "epoch", phi = 1e-3,
    scale = 1.0, floor = 0.0, negative = true, interior = 0.0 }, Control.OF_A_GRID),
  config.rows(group.OPTIONS, "grpo.", { num_generations = 3, method = "gdpo" }),
  config.rows(world_actor.OPTIONS, "ppo.", { average = 0.9 }),
  config.rows(trainer.OPTIONS, "ppo.", { ppo_epochs = 8, lr = 1e-2, warmup = 0, vf_coef = 0.5, gamma = 0.99, lam = 0.8,
    normalize = "rms", max_grad_norm = 0.0 }, OF_ANSWERS),
}

local cfg, info = config.parse(config.common(schema), arg, {
  recipe = "fishwood", doc = "MOC and Linear PPO on fishwood (figure 1)", presets = {
    default = {},
    paper = { steps = 200000, target = "value", ["agent.hidden"] = { 256, 256, 256 }, ["agent.activation"] = "relu", ["ppo.lr"] = 1e-4,
      ["ppo.lam"] = 0.95, ["ppo.ppo_epochs"] = 4, ["ppo.preferences"] = 3, ["ppo.epsilon"] = 0.1, ["ppo.average"] = 0.0, ["control.phi"] = 0.1,
      ["control.pool"] = "sample" },
    smoke = { steps = 3600, save_every = 1, ["agent.hidden"] = { 8 }, ["eval.episodes"] = 2, ["ppo.preferences"] = 3, ["ppo.ppo_epochs"] = 1 },
  },
})
open_device(cfg)

local environment = fishwood.new { wood = cfg.wood, fish = cfg.fish }
local grid, unseen = {}, {} -- of the weight of wood: .1 to .9, and between them
for i = 1, 9 do
  grid[i] = { i / 10, (10 - i) / 10 }
  unseen[i] = i < 9 and { (2 * i + 1) / 20, (19 - 2 * i) / 20 } or nil
end

local function new_agent(seed, critic)
  return Agent.new { world = environment, critic = critic, hidden = cfg.agent.hidden, activation = cfg.agent.activation, device = cfg.device,
    key = rng.key(seed, "agent"), see = function(p) return { p[1] } end } -- the networks see [state, p_wood]
end

local methods = world_methods.open(cfg, 2, fishwood.STEPS, grid, function(m) -- what does not go together fails before there is a directory
  return world_actor.new(new_agent(cfg.seed, m.critic))
end)
if cfg.target == "value" and cfg.ppo.baseline ~= "critic" then
  error("target=value needs ppo.baseline=critic", 0)
end

-- what each stage depends on (mocl.run.options)
local TRAINING = { "steps", "save_every", "wood", "fish", "target", "agent", "control", "ppo" }
local DEPENDS = { ["evaluation-*"] = { "eval" } }
for _, m in ipairs(methods) do
  DEPENDS[m.name .. "-*"] = m.group and { "grpo", table.unpack(TRAINING) } or TRAINING
end

local run <close> = Run.open { recipe = "fishwood", cfg = cfg, info = info, main = "moc-" .. cfg.seed, platform = sys.env(),
  depends = DEPENDS }

-- the tables at the end, and how well each seed's shares follow the preference
local function show(result)
  io.write(report.summary(result), "\n")
  for _, s in ipairs(result.seeds) do
    local words = {}
    for i, m in ipairs(methods) do
      local f = s[m.name]
      words[i] = ("%s %.3f%s, %.3f%s"):format(m.label, f.share_error.max, i == 1 and " at most" or "", f.share_error.mean,
        i > 1 and "" or f.monotone and " mean, in order" or " mean, not in order")
    end
    io.write(("seed %d  share error: %s\n"):format(s.seed, table.concat(words, ";  ")))
  end
  io.write("\nreport: ", run:path "report.html", "\n")
end
if run.complete then
  io.write(run.out, " holds this run, complete:\n\n")
  return show(run.result)
end

if cfg.control.hooks ~= "" then
  run:hash_input(cfg.control.hooks, "control.hooks")
end

-- ---- Algorithm 1; Linear PPO is the same with c = 1, that is, w = p ----

local function train(method, seed)
  return run:stage(method.name .. "-" .. seed, function(stage)
    local K = method.preferences
    local control = Control.new(method.control, 2, K, nil, { seed = seed, weights = method.hooks.weights, total = method.updates })
    local preferences = preference.deck(rng.new(seed, "preferences"), grid)
    local log = control_log.new(environment.objectives)
    local t <close> = trainer.new { run = run, stage = stage, label = method.name .. " " .. seed, unit = "update", total = method.updates,
      save_every = cfg.save_every, seed = seed, actor = world_actor.new(new_agent(seed, method.critic)), options = method.ppo,
      lr_name = "ppo.lr", rewards_hook = method.hooks.rewards, state = { preferences = preferences, control = control, log = log } }
    for _ in t:iterations() do -- line 1
      local prefs = preferences:deal(K) -- lines 2 and 3
      local batch = t:rollout(prefs) -- lines 4 and 5: pi(a | state, p)
      local raw = t:score(batch)
      local adv, alike = method:advantages(t, batch) -- line 7
      control:observe(batch.values and cfg.target == "value" and world_actor.mean_values(batch) or raw, batch.places) -- line 6
      local problem = control:problem(adv, batch, batch.prefs, batch.places, t:gram_of(batch)) -- line 8: equation 12, algorithm 2
      local m = t:update(batch, function(e) -- lines 9 and 10: equation 7
        local s = problem:solve(e.ratio, cfg.ppo.cliprange)
        local surrogate, _, clipped = ppo.clip(e.logp, batch.old, s.advantage, cfg.ppo.cliprange)
        local policy_loss = surrogate:mean()
        return policy_loss - e.entropy * (cfg.ppo.entropy * e.left) + e.value_error * cfg.ppo.vf_coef,
          { ["ppo/loss/policy"] = policy_loss, ["ppo/policy/clipfrac"] = clipped:mean() }
      end)
      m.frac_reward_zero_std = alike
      t:log(log:row(m, problem:answers(), raw))
    end
    return { c = log:summary().c }
  end) -- lines 11 and 12
end

-- ---- figures of a policy under a list of preferences ----

local function exact(agent, preferences, options)
  local f = { preferences = preferences, rewards = {}, share_error = { max = 0.0, mean = 0.0 }, monotone = true }
  for k, probabilities in ipairs(agent:probabilities(preferences, true)) do
    local r = fishwood.expected_return(probabilities, cfg)
    local off = math.abs(r[1] / (r[1] + r[2]) - preferences[k][1])
    f.rewards[k] = r
    f.share_error.max = math.max(f.share_error.max, off)
    f.share_error.mean = f.share_error.mean + off / #preferences
    f.monotone = f.monotone and (k == 1 or r[1] > f.rewards[k - 1][1])
  end
  f.reference_point, f.tau_reference, f.warning = { 0, 0 }, { -2, -2 }, Control.warning(options, preferences, f.rewards)
  f.hypervolume = metrics.hypervolume(f.rewards, f.reference_point, { strict = true })
  f.mean_pairwise_distance = metrics.mean_pairwise_distance(f.rewards)
  local c = metrics.controllability(preferences, f.rewards, { reference = f.tau_reference })
  f.kendall_tau, f.kendall_p, f.kendall_tau_per_objective = c.kendall_tau, c.kendall_p, c.kendall_tau_per_objective
  return f
end

local function evaluate(method, seed)
  local trained = train(method, seed)
  return run:stage("evaluation-" .. method.name .. "-" .. seed, function()
    local agent = new_agent(seed, method.critic)
    assert(agent:load(assert(run:latest(method.name .. "-" .. seed), "no checkpoint of the policy")))
    local f = exact(agent, grid, method.control)
    f.c, f.unseen = trained.c, { groups = { exact(agent, unseen, method.control) } }
    f.rewards_sampled, f.rewards_std = rollout.statistics(rollout.episodes(agent, grid, { episodes = cfg.eval.episodes, seed = seed,
      purpose = "evaluation", averaged = true }))
    return f
  end)
end

local all = {}
for i = 1, cfg.seeds do
  local seed = cfg.seed + i - 1
  all[i] = { seed = seed }
  for _, m in ipairs(methods) do
    all[i][m.name] = evaluate(m, seed)
  end
end

local result = { recipe = "fishwood", method = Control.name(cfg.control), seed = cfg.seed, device = cfg.device, objectives = environment.objectives,
  training_samples = methods[1].updates * methods[1].samples, methods = world_methods.others(cfg), seeds = all,
  true_front = fishwood.front(cfg) }
for key, v in pairs(all[1].moc) do
  result[key] = v
end
world_methods.add(result, methods, all[1])
local trained = 0.0
for name, stage in pairs(run.stages) do
  trained = trained + (name:find "^evaluation" and 0 or stage.seconds)
end
run:finish(result, { peak_bytes = tensor.memory().peak, steps_per_second = world_methods.samples(methods) * cfg.seeds / trained }, report.PAGES)
show(result)
