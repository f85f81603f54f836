--- compare_hh: MOC and every other method side by side: the same base model, SFT model, reward models, prompts and training samples,
-- over any number of seeds; tables 2, 3, 4, 8, 9 and 10 of the paper, the CSV of its listing 1, and report.html.
--
--   mocl recipes/compare_hh.lua                                     all methods, humor against helpful, one seed
--   mocl recipes/compare_hh.lua settings=humor+helpful,harmless+helpful     both pairs of the paper
--   mocl recipes/compare_hh.lua methods=moc,grpo seeds=0,1,2        some methods, three seeds
--   mocl recipes/compare_hh.lua methods=moc,moc:upgrad,moc_gdpo:pcgrad      other solvers (docs/solvers.md) in algorithm 2's place
--   mocl recipes/compare_hh.lua seeds=0,1,2,3,4                     more seeds: what is there is kept
--   mocl recipes/compare_hh.lua tune=0.25,0.5,1,2 seeds=70,71       each method with its step size times these: which is best
--   mocl recipes/compare_hh.lua settings=harmless+humor+helpful     three objectives; humor+helpful/diminishing: another shape
--   mocl recipes/compare_hh.lua preset=quick                        a quarter of the samples, smaller models of the rewards
--   mocl recipes/compare_hh.lua preset=smoke out=/tmp/x             every method, tiny, in a minute
--
-- docs/comparison.md says what is compared and how.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local comm = require "mocl.comm"
local compare = require "mocl.train.compare"
local comparison = require "mocl.report.comparison"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local page = require "mocl.report.comparison_page"
local Run = require "mocl.run"
local stages = require "mocl.train.stages"
local sys = require "mocl.sys"

-- ---- the methods: a row each; mocl.train.compare says what is in it ----

-- Training steps of a method whose recipe takes k of them on 40960 samples, on n.
local function steps(k, n)
  return math.max(1, math.floor(k * n / 40960 + 0.5))
end

-- Steps have the length of v, so that solvers differ in directions alone.
local SOLVERS = { "control.solver=%s", "control.solver_scale=mean" }

local METHODS = {
  { name = "moc", label = "MOC", recipe = "moc_hh", group = "moc", solvers = SOLVERS },
  { name = "linear", label = "MOC with c = 1", recipe = "moc_hh", group = "moc", words = { "control.c=one" } },
  { name = "morlhf", label = "MORLHF", recipe = "morlhf", group = "morlhf", policies = "preference" },
  { name = "rewarded_soups", label = "Rewarded Soups", recipe = "rewarded_soups", group = "soup", policies = "objective" },
  { name = "bone_soups", label = "Bone Soups", recipe = "rewarded_soups", group = "soup", policies = "objective",
    words = { "soup.beta=0.7", "soup.kind=products" } },
  { name = "mod", label = "MOD", recipe = "mod", group = "mod", policies = "objective" },
  { name = "modpo", label = "MODPO", recipe = "modpo", group = "modpo", policies = "preference" },
  { name = "ric", label = "RiC", recipe = "ric", knobs = { "ric.offline_learning_rate", "ric.learning_rate" }, budget = function(n)
    return { "ric.num_samples=" .. n - n // 2, "ric.num_generation_samples=" .. n // 2, "ric.training_steps=" .. steps(4000, n),
      "ric.online_training_steps=" .. steps(1000, n), "ric.num_origin_samples=" .. steps(10000, n) }
  end },
  { name = "metaaligner", label = "MetaAligner", recipe = "metaaligner", knobs = { "metaaligner.learning_rate" },
    words = { "lora.layers=0" }, budget = function(n) -- the editor reads more than a policy does
    return { "metaaligner.num_samples=" .. n, "metaaligner.training_steps=" .. steps(4000, n) }
  end },
  { name = "clp", label = "CLP", recipe = "clp", group = "clp" },
  { name = "grpo", label = "GRPO", recipe = "grpo", group = "grpo" },
  { name = "rloo", label = "RLOO", recipe = "grpo", group = "grpo", words = { "grpo.method=rloo" } },
  { name = "gdpo", label = "GDPO", recipe = "grpo", group = "grpo", words = { "grpo.method=gdpo" } },
  { name = "moc_gdpo", label = "MOC on GDPO's groups", recipe = "grpo", group = "grpo", solvers = SOLVERS,
    words = { "grpo.method=gdpo", "control.c=minnorm" } },
}

-- ---- options: the comparison's own, those of the models, and further ones of each method ----

local own = {
  { "seed", nil, "not for a comparison: seeds", type = "integer" },
  { "methods", {}, "those that are compared, such as moc,grpo,moc:upgrad, with a solver behind the colon; empty: all", list_of = "string" },
  { "tune", {}, "each method is trained with its step sizes times each of these, and what is best by the reward models is named", list_of = "number" },
  { "seeds", { 0 }, "seeds; more of them can be added to a comparison later", list_of = "integer" },
  { "settings", { "humor+helpful" }, "objectives, and behind a / the shape of the trade-off (rising)", list_of = "string" },
  { "iterations", 320, "the budget of a method: iterations of ppo.batch_size answers", min = 1 },
  { "budget", "total", "total: the budget is that of all policies of a method together; policy: of each, so that samples are unequal", choices = { "total", "policy" } },
  { "policies", {}, "preferences of methods with a policy for each, such as 1:0,0.5:0.5,0:1; empty: five", list_of = "string" },
  { "points", 5, "checkpoints of each method that are measured, for figures over samples; 0: none", min = 0 },
  { "curve_answers", 128, "answers per preference to each of them", min = 1 },
}
for _, row in ipairs(METHODS) do
  own[#own + 1] = { "options." .. row.name, "", "further options of its recipe, key=value with spaces between" }
end

local presets
do
  local all
  all, presets = stages.models_only { smoke = { iterations = 10, points = 2, curve_answers = 4 },
    quick = { iterations = 80, curve_answers = 64, ["base.steps"] = 800, ["sft.steps"] = 500, ["reward.prompts"] = 3000, ["reward.steps"] = 800,
      ["reward.min_accuracy"] = 0.8, ["reward.min_correlation"] = 0.9, ["eval.answers"] = 256, ["eval.unseen_answers"] = 128 },
    hh = { iterations = 100, settings = { "harmless+helpful" } } }
  for _, row in ipairs(all) do
    local left_out = row[1] == "from" or row[1] == "objectives" or row[1] == "trade_off" or row[1] == "eval.curve_answers"
    own[#own + 1] = not left_out and row or nil
  end
end

local meta = { recipe = "compare_hh", doc = "MOC and every other method side by side (docs/comparison.md)", presets = presets }
local schema = config.common(own)
local cfg, info = config.parse(schema, stages.arguments(schema, arg, meta), meta)

if cfg.seed then
  error(("seed=%d: a comparison has a list, seeds=%d"):format(cfg.seed, cfg.seed), 0)
end
local rows, settings, seen = compare.trials(compare.chosen(METHODS, cfg.methods), cfg.tune), {}, {}
compare.seeds(cfg.seeds)
for i, text in ipairs(cfg.settings) do
  settings[i] = compare.setting(text)
  if seen[text] then
    error(("settings: '%s' stands there twice"):format(text), 0)
  end
  seen[text] = true
end
if #settings == 0 then
  error("settings: the list is empty; give one at least, such as settings=humor+helpful", 0)
end
local out = cfg.out or fs.join("runs", "compare_hh", "default")
local plan = compare.plan(rows, settings, cfg, { preset = info.preset, recipes = fs.dirname(arg[0]), out = out })

-- ---- the runs: a stage for each, so that a comparison that is stopped goes on where it was ----

local depends = { ["models-*"] = {} }
for _, row in ipairs(METHODS) do
  for _, stage in ipairs(compare.stages(row)) do
    depends[stage] = { "options." .. row.name, row.policies == "preference" and "policies" or nil }
  end
end
local had = fs.exists(fs.join(out, "comparison.json"))
local run <close> = Run.open { recipe = "compare_hh", cfg = cfg, info = info, out = out, resume = cfg.resume or had and "auto" or nil,
  platform = sys.env(), depends = depends, volatile_keys = { "methods", "seeds", "settings", "save_every", "tune" } }
if cfg.redo then
  compare.forget(plan, run)
end

local function say(part, what)
  if not run.quiet then
    io.stderr:write(("-- %s, seed %d: %s\n"):format(part.setting.name, part.seed, what))
  end
end

local results = {}
local function write(name, text)
  local ok, message = comm.rank() > 0 or fs.write(run:path(name), text)
  return ok or error(message, 0)
end

-- The files of the comparison so far; nil before a seed is complete.
local function report()
  local data, seconds = compare.gather(rows, settings, cfg, results)
  if not data then
    return nil
  end
  local tables, costs = comparison.tables(data), comparison.costs(data, seconds)
  write("tables.md", comparison.markdown(tables))
  write("tables.tex", comparison.latex(tables))
  write("costs.md", comparison.markdown { costs })
  write("costs.tex", comparison.latex { costs })
  for i, setting in ipairs(data.settings) do
    write(settings[i].slug .. ".csv", comparison.csv(setting))
    for k, seed in ipairs(data.seeds) do
      write(("%s-seed-%d.csv"):format(settings[i].slug, seed), comparison.csv(setting, k))
    end
  end
  write("timing.json", json.encode(seconds, { indent = 2 }) .. "\n")
  write("comparison.json", json.encode(data, { indent = 2 }) .. "\n")
  write("report.html", page.html(data, costs))
  tables[#tables + 1] = costs
  return tables
end

compare.spread(plan, run)
for _, part in ipairs(plan) do
  local of = results[part.setting.name] or {}
  results[part.setting.name] = of
  local function stage(name, f)
    return run:stage(compare.stage(name, part), f)
  end
  say(part, "models")
  local got = { models = stage("models", function()
    return compare.models(part.models)
  end) }
  for _, job in ipairs(part.methods) do
    say(part, job.row.label)
    got[job.row.name] = stage(job.row.name, function()
      return compare.method(job, got.models)
    end)
  end
  of[part.seed] = got
  report()
end
io.write("\n", comparison.plain(report()), "\nreport: ", run:path "report.html", "\n")
