--- fruit_tree: one policy for every mixture of six nutrients, by MOC and by Linear PPO (table 12 and figure 8 of the paper).
--
--   mocl recipes/fruit_tree.lua                           288,000 environment steps a method, some seconds each
--   mocl recipes/fruit_tree.lua preset=weak seeds=5       a plain network and little training, five seeds
--   mocl recipes/fruit_tree.lua methods=linear_ppo,moc_grpo,pcgrad,cagrad,upgrad
--   mocl recipes/fruit_tree.lua preset=paper              the paper's settings (table 13)
--   mocl recipes/fruit_tree.lua preset=smoke out=/tmp/x   every stage, tiny
--
-- Prompts are nodes here and answers are ways to a leaf. All 64 leaves are non-dominated, and each is the best one for
-- some preference, by linear scalarisation as by direction. Hypervolume has three readings, all at reference 0 and over
-- n preferences from Dirichlet(1): the leaves of the likeliest actions (12575.87 at most), exact expected returns of the
-- stochastic policy (mixtures of leaves may lie above), and means of sampled episodes as in the paper. Expected (n 500):
-- at least 16500 and 35 leaves; preset=weak: at least 13000.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local Agent = require "mocl.world.agent"
local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local control_log = require "mocl.method.control_log"
local group = require "mocl.method.group"
local world = require "mocl.world"
local fruit_tree = require "mocl.world.worlds.fruit_tree"
local metrics = require "mocl.metrics"
local open_device = require "mocl.run.device".open
local ppo = require "mocl.method.ppo"
local report = require "mocl.report"
local rng = require "mocl.rng"
local rollout = require "mocl.world.rollout"
local Run = require "mocl.run"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local text_table = require "mocl.run.text_table"
local trainer = require "mocl.train.trainer"
local world_actor = require "mocl.train.world_actor"
local world_methods = require "mocl.train.world_methods"

local N = #fruit_tree.OBJECTIVES
local OF_ANSWERS = { "batch_size", "init_kl_coef", "target", "horizon", "min_kl_coef", "kl_penalty", "kl_in_reward" }

local schema = config.join { world_methods.OPTIONS, {
  { "seeds", 1, "runs with the seeds seed, seed + 1, ...; all are listed", min = 1 },
  { "steps", 288000, "environment steps of one method with one seed", min = 1 },
  { "save_every", 25, "updates between checkpoints", min = 1 },
  { "depth", 6, "rows of inner nodes: 5, 6 or 7", min = 5, max = 7 },
  { "agent.hidden", { 128, 128 }, "hidden layers of the policy" },
  { "agent.activation", "relu", "between the layers", choices = { "tanh", "relu" } },
  { "agent.input", "heads", "what the policy is: a head per node on the preference, or one network on [node, preference]",
    choices = { "heads", "one_hot", "row_column" } },
  { "agent.init", "pytorch", "initial weights: PyTorch's, or He's with a last layer near zero", choices = { "pytorch", "he" } },
  { "agent.scale", 10.0, "the networks see scale (p - shift)" },
  { "agent.shift", 1 / 6, "see agent.scale" },
  { "eval.n", 500, "preferences of the figures", min = 2 },
  { "eval.n_large", 2400, "and of a second set of figures; 0 leaves it out", min = 0 },
  { "eval.episodes", 10, "episodes per preference of the sampled reading", min = 1 },
},
  -- docs/algorithm.md section 9: R is the mean return of this batch, as shares; one c per batch and epoch
  config.rows(Control.OPTIONS, "control.", { share = true, factor = 0.0, pool = "batch", solve = "epoch", phi = 1e-4, scale = 3.0,
    floor = 0.0, negative = true, interior = 0.0 }, Control.OF_A_GRID),
  config.rows(group.OPTIONS, "grpo.", { num_generations = 20, method = "gdpo" }),
  config.rows(world_actor.OPTIONS, "ppo.", { preferences = 24, episodes = 20 }),
  config.rows(trainer.OPTIONS, "ppo.", { ppo_epochs = 12, lr = 5e-3, warmup = 0, vf_coef = 0.5, gamma = 0.99, baseline = "group",
    normalize = "rms", entropy = 0.1, max_grad_norm = 0.0 }, OF_ANSWERS),
}

local WEAK = { ["agent.hidden"] = { 64, 64 }, ["agent.activation"] = "tanh", ["agent.input"] = "one_hot", ["agent.init"] = "he",
  ["agent.scale"] = 4.0, ["agent.shift"] = 0.0, ["ppo.preferences"] = 16, ["ppo.ppo_epochs"] = 6, ["ppo.entropy"] = 1e-3, ["control.scale"] = 1.0 }

local cfg, info = config.parse(config.common(schema), arg, {
  recipe = "fruit_tree", doc = "MOC and Linear PPO on fruit-tree (table 12, figure 8)", presets = {
    strong = {},
    weak = WEAK,
    paper = { ["agent.hidden"] = { 256, 256, 256 }, ["agent.input"] = "row_column", ["agent.scale"] = 1.0, ["agent.shift"] = 0.0,
      ["ppo.preferences"] = 1, ["ppo.ppo_epochs"] = 3, ["ppo.lr"] = 3e-4, ["ppo.cliprange"] = 1e-3, ["ppo.entropy"] = 1e-3,
      ["control.phi"] = 0.1, ["control.scale"] = 1.0, save_every = 400 },
    smoke = { steps = 3600, save_every = 1, depth = 5, ["agent.hidden"] = { 16 }, ["ppo.preferences"] = 8, ["ppo.ppo_epochs"] = 2,
      ["eval.n"] = 20, ["eval.n_large"] = 30 },
  },
})
open_device(cfg)

local environment = fruit_tree.new(cfg.depth)

local function new_agent(seed, critic)
  local input = cfg.agent.input
  return Agent.new { world = environment, hidden = cfg.agent.hidden, activation = cfg.agent.activation, device = cfg.device,
    key = rng.key(seed, "agent"), init = cfg.agent.init, output_scale = cfg.agent.init == "he" and 0.01 or 1,
    critic = critic and cfg.ppo.baseline == "critic", layout = input == "heads" and "heads" or "concat",
    observe = input == "one_hot" and world.one_hot(environment.states) or nil,
    see = function(p)
      local seen = {}
      for j, w in ipairs(p) do
        seen[j] = cfg.agent.scale * (w - cfg.agent.shift)
      end
      return seen
    end }
end

local function draw(stream, n)
  local list = {}
  for i = 1, n do
    list[i] = stream:dirichlet(N)
  end
  return list
end

-- a list to read: each nutrient a little in front of the others, well in front, and alone
local listed = {}
for j = 1, N do
  for _, w in ipairs { 0.25, 0.5, 1 } do
    local p = {}
    for k = 1, N do
      p[k] = k == j and w or (1 - w) / (N - 1)
    end
    listed[#listed + 1] = p
  end
end

-- what does not go together fails before there is a directory
local methods = world_methods.open(cfg, N, cfg.depth, listed, function(m)
  return world_actor.new(new_agent(cfg.seed, m.critic))
end)

-- what each stage depends on (mocl.run.options)
local TRAINING = { "steps", "save_every", "depth", "agent", "control", "ppo" }
local DEPENDS = { ["evaluation-*"] = { "eval" } }
for _, m in ipairs(methods) do
  DEPENDS[m.name .. "-*"] = m.group and { "grpo", table.unpack(TRAINING) } or TRAINING
end

local run <close> = Run.open { recipe = "fruit_tree", cfg = cfg, info = info, main = "moc-" .. cfg.seed, platform = sys.env(),
  depends = DEPENDS }

-- the table at the end: the readings of each seed
local function show(result)
  local header = { "seed", "method", "greedy", "expected", "sampled", "leaves", "cosine", "c", "expected, n " .. cfg.eval.n_large }
  local rows = {}
  for _, s in ipairs(result.seeds) do
    for _, method in ipairs(methods) do
      local f, large = s[method.name], s[method.name].large
      local h = f.hypervolume
      rows[#rows + 1] = { s.seed, method.name, h.greedy, h.expected, h.sampled, f.greedy_leaves, f.mean_cosine, f.c.mean,
        large and large.hypervolume.expected or "" }
    end
  end
  io.write(("hypervolume of %d preferences, reference 0; all %d leaves: %.4f\n\n"):format(cfg.eval.n, 1 << cfg.depth, result.front_hypervolume),
    text_table.plain(header, rows), "\nreport: ", run:path "report.html", "\n")
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
    local control = Control.new(method.control, N, K, nil, { seed = seed, weights = method.hooks.weights, total = method.updates })
    local stream, log = rng.new(seed, "preferences"), control_log.new(environment.objectives)
    local t <close> = trainer.new { run = run, stage = stage, label = method.name .. " " .. seed, unit = "update", total = method.updates,
      save_every = cfg.save_every, seed = seed, actor = world_actor.new(new_agent(seed, method.critic)), options = method.ppo,
      lr_name = "ppo.lr", rewards_hook = method.hooks.rewards, state = { preferences = stream, control = control, log = log } }
    for _ in t:iterations() do -- line 1
      local prefs = draw(stream, K) -- lines 2 and 3
      local batch = t:rollout(prefs) -- lines 4 and 5: pi(a | node, p)
      control:observe(t:score(batch), batch.places) -- line 6
      local adv, alike = method:advantages(t, batch) -- line 7
      local problem = control:problem(adv, batch, batch.prefs, batch.places, t:gram_of(batch)) -- line 8: equation 12, algorithm 2
      local m = t:update(batch, function(e) -- lines 9 and 10: equation 7
        local s = problem:solve(e.ratio, cfg.ppo.cliprange)
        local surrogate, _, clipped = ppo.clip(e.logp, batch.old, s.advantage, cfg.ppo.cliprange)
        local policy_loss = surrogate:mean()
        return policy_loss - e.entropy * (cfg.ppo.entropy * e.left) + e.value_error * cfg.ppo.vf_coef,
          { ["ppo/loss/policy"] = policy_loss, ["ppo/policy/clipfrac"] = clipped:mean() }
      end)
      m.frac_reward_zero_std = alike
      t:log(log:row(m, problem:answers(), batch.raw))
    end
    return { c = log:summary().c }
  end) -- lines 11 and 12
end

-- ---- figures ----

local CHUNK = 200 -- preferences evaluated at a time
local ZERO, STRICT = { 0, 0, 0, 0, 0, 0 }, { strict = true } -- returns below 0 would count for nothing
local leaves = fruit_tree.leaves(cfg.depth)

-- expected returns under preferences, and the leaves of the likeliest actions
local function expected(agent, preferences)
  local points, reached = {}, {}
  for first = 1, #preferences, CHUNK do
    local some = table.move(preferences, first, math.min(first + CHUNK - 1, #preferences), 1, {})
    for _, probabilities in ipairs(agent:probabilities(some, true)) do
      points[#points + 1] = fruit_tree.expected_return(cfg.depth, probabilities)
      reached[#reached + 1] = fruit_tree.greedy_leaf(cfg.depth, probabilities)
    end
  end
  return points, reached
end

-- the three readings for n preferences, the same ones for every seed and method
local function readings(agent, seed, n)
  local preferences = draw(rng.new(0, "fruit tree evaluation"), n)
  local points, reached = expected(agent, preferences)
  local sampled, greedy, seen, cosine = {}, {}, {}, 0.0
  for first = 1, n, CHUNK do
    local some = table.move(preferences, first, math.min(first + CHUNK - 1, n), 1, {})
    local means = rollout.statistics(rollout.episodes(agent, some, { episodes = cfg.eval.episodes, seed = seed, averaged = true,
      purpose = ("evaluation %d %d"):format(n, first) }))
    table.move(means, 1, #means, #sampled + 1, sampled)
  end
  for i, leaf in ipairs(reached) do
    if not seen[leaf] then
      seen[leaf], greedy[#greedy + 1] = true, leaves[leaf]
    end
    cosine = cosine + (1 - metrics.nvd(points[i], preferences[i]) ^ 2 / 2) / n -- equation 20
  end
  return { greedy_leaves = #greedy, mean_cosine = cosine, hypervolume = { n = n, reference = 0, episodes = cfg.eval.episodes,
    greedy = metrics.hypervolume(greedy, ZERO, STRICT), expected = metrics.hypervolume(points, ZERO, STRICT),
    sampled = metrics.hypervolume(sampled, ZERO, STRICT) } }, points
end

local function evaluate(method, seed)
  local trained = train(method, seed)
  return run:stage("evaluation-" .. method.name .. "-" .. seed, function()
    local agent = new_agent(seed, method.critic)
    assert(agent:load(assert(run:latest(method.name .. "-" .. seed), "no checkpoint of the policy")))
    local f, points = readings(agent, seed, cfg.eval.n)
    f.large = cfg.eval.n_large > 0 and readings(agent, seed, cfg.eval.n_large) or nil
    f.c, f.preferences, f.rewards = trained.c, listed, expected(agent, listed)
    f.points = seed == cfg.seed and points or nil -- of figure 8
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

local result = { recipe = "fruit_tree", method = Control.name(cfg.control), seed = cfg.seed, device = cfg.device, objectives = environment.objectives,
  training_samples = methods[1].updates * methods[1].samples, methods = world_methods.others(cfg), front_hypervolume = metrics.hypervolume(leaves, ZERO, STRICT),
  reference_point = ZERO, true_front = leaves, seeds = {} }
for key, v in pairs(all[1].moc) do
  result[key] = v
end
world_methods.add(result, methods, all[1])
for i, s in ipairs(all) do -- without the points
  result.seeds[i] = { seed = s.seed }
  for _, m in ipairs(methods) do
    local f = s[m.name]
    result.seeds[i][m.name] = { hypervolume = f.hypervolume, greedy_leaves = f.greedy_leaves, mean_cosine = f.mean_cosine, large = f.large, c = f.c }
  end
end
local seconds = 0.0
for name, stage in pairs(run.stages) do
  seconds = seconds + (name:find "^evaluation" and 0 or stage.seconds)
end
run:finish(result, { peak_bytes = tensor.memory().peak, steps_per_second = world_methods.samples(methods) * cfg.seeds / seconds }, report.PAGES)
show(result)
