--- mocl.train.compare: methods side by side as runs of their recipes: what each run is, checked before any of them begins, and what is
-- taken from it. A method is a row:
--
--   { name = "morlhf", label = "MORLHF", recipe = "morlhf", group = "morlhf", policies = "preference", words = { "morlhf.rewards=raw" } }
--
-- group is the group of its options iterations and save_every; policies what there is a policy for: "preference", "objective", or nil
-- for one policy in all; words are further options of its recipe. A method that has no iterations has budget(n) in place of group: the
-- words with which it draws n training samples. solvers: what takes a solver of docs/solvers.md in algorithm 2's place, as words with %s
-- for its name. knobs: the options that tuning multiplies ({ "ppo.lr" }).

local check = require "mocl.failure".check
local comm = require "mocl.comm"
local comparison = require "mocl.report.comparison"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local nearest = require "mocl.options".nearest
local preference = require "mocl.preference"
local recipe = require "mocl.train.recipe"
local solvers = require "mocl.method.solvers"

local compare = {}

local function fail(fmt, ...)
  error(fmt:format(...), 0)
end

-- A row like another, with changes; options.NAME are those of the other.
local function variant(row, changes)
  changes.base = row.base or row.name
  return setmetatable(changes, { __index = row })
end

-- The row of an entry such as moc:upgrad, a method with another solver.
local function with_solver(entry, row, solver)
  local known = solvers.list()
  local near = nearest(solver, known)
  if not row.solvers then
    fail("methods: '%s': %s joins no gradients that a solver could weigh", entry, row.name)
  end
  for _, name in ipairs(known) do
    if name == solver then
      local words = table.move(row.words or {}, 1, #(row.words or {}), 1, {})
      for _, word in ipairs(row.solvers) do
        words[#words + 1] = word:format(solver)
      end
      return variant(row, { name = row.name .. "_" .. solver, label = row.label:gsub("^MOC", solvers.label(solver), 1), words = words })
    end
  end
  return fail("methods: '%s': unknown solver '%s'%s", entry, solver, near and (" (did you mean '%s'?)"):format(near) or "; there are "
    .. table.concat(known, ", "))
end

--- compare.stages(row) -> patterns (Run.open's depends) of the stages that runs of a method may have: its own, with each solver, and trials.
function compare.stages(row)
  local names, list = { row.name }, {}
  for i, solver in ipairs(row.solvers and solvers.list() or {}) do
    names[i + 1] = row.name .. "_" .. solver
  end
  for _, name in ipairs(names) do
    list[#list + 1] = name .. "-*"
    list[#list + 1] = "trial-" .. name .. "-*"
  end
  return list
end

--- compare.chosen(methods, names) -> the rows of these names, in their order; of an empty list all. A name may have a solver behind it,
-- moc:upgrad, whose row is named moc_upgrad. Raises for an unknown name or solver, for a method that has none, and for a name that
-- stands there twice.
function compare.chosen(methods, names)
  local by_name, known, list, seen = {}, {}, {}, {}
  for i, row in ipairs(methods) do
    by_name[row.name], known[i] = row, row.name
  end
  for i, entry in ipairs(#names > 0 and names or known) do
    local name, solver = entry:match "^([^:]*):(.*)$"
    name = name or entry
    local near = not by_name[name] and nearest(name, known)
    if not by_name[name] then
      fail("methods: unknown method '%s'%s", name, near and (" (did you mean '%s'?)"):format(near) or "; there are " .. table.concat(known, ", "))
    elseif seen[entry] then
      fail("methods: '%s' stands there twice", entry)
    end
    list[i], seen[entry] = solver and with_solver(entry, by_name[name], solver) or by_name[name], true
  end
  return list
end

--- compare.trials(rows, factors) -> a row for each of the rows and factors, in which the step sizes of its recipe (knobs; ppo.lr) are
-- multiplied by the factor: what equal tuning tries. Without factors the rows. Raises for a factor that is not above 0, or is there twice
-- in the six digits that name its directory.
function compare.trials(rows, factors)
  local list, seen = {}, {}
  for _, factor in ipairs(factors) do
    local written = ("%g"):format(factor)
    if not (factor > 0 and factor < math.huge) or seen[written] then
      fail("tune: %s %s", written, seen[written] and "stands there twice" or "is no factor of a step size; take numbers above 0")
    end
    seen[written] = true
  end
  for _, row in ipairs(#factors > 0 and rows or {}) do
    for _, factor in ipairs(factors) do
      list[#list + 1] = variant(row, { name = ("trial-%s-%g"):format(row.name, factor):gsub("[^%w_-]", "_"), label = ("%s, steps x %g"):format(row.label, factor),
        factor = factor, of = row.name })
    end
  end
  return #factors > 0 and list or rows
end

--- compare.seeds(list) -> list. Raises where it is empty, has a negative one, or one twice.
function compare.seeds(list)
  local seen = {}
  if #list == 0 then
    fail "seeds: the list is empty; give one seed at least, such as seeds=0,1,2"
  end
  for _, seed in ipairs(list) do
    if seed < 0 or seen[seed] then
      fail("seeds: %d %s", seed, seed < 0 and "is negative" or "stands there twice")
    end
    seen[seed] = true
  end
  return list
end

--- compare.setting(text) -> {name, objectives, trade_off, slug} of "humor+helpful" or "humor+helpful/diminishing".
function compare.setting(text)
  local objectives, shape = {}, text:match "/(.*)$"
  for name in (text:gsub("/.*$", "") .. "+"):gmatch "([^+]*)%+" do
    objectives[#objectives + 1] = name
  end
  for _, name in ipairs(objectives) do
    if name == "" then
      fail("settings: '%s' names no objectives; write them as humor+helpful, with a shape of the trade-off as humor+helpful/diminishing", text)
    end
  end
  if #objectives < 2 then
    fail("settings: '%s' has one objective; a comparison needs two or three", text)
  end
  return { name = text, objectives = objectives, trade_off = shape or "rising", slug = (text:gsub("[^%w]", "_")) }
end

-- Preferences of methods that train a policy for each: five, as the paper's MORLHF has them.
local FIVE = { [2] = { "1:0", "0.7:0.3", "0.5:0.5", "0.3:0.7", "0:1" }, [3] = { "1:0:0", "0:1:0", "0:0:1", "0.4:0.4:0.2", "0.2:0.4:0.4" } }

-- How many policies a row trains in a setting.
local function policies_of(row, setting, preferences)
  return row.policies == "objective" and #setting.objectives or row.policies == "preference" and #preferences or 1
end

-- Options of a comparison that its runs do not get as they are.
local OWN = { out = true, resume = true, redo = true, seed = true, keep = true, from = true, objectives = true, trade_off = true,
  preferences = true }

-- The words that give the recipe the comparison's values of the options that both have, but for those that the method's row sets.
local function shared(r, words, cfg, row)
  local theirs, flat, keys, set = config.flatten((r:options(words))), config.flatten(cfg), {}, {}
  for _, word in ipairs(row and row.words or {}) do
    set[word:match "^([^=]*)="] = true
  end
  for key, value in pairs(flat) do
    if not OWN[key] and not set[key] and theirs[key] ~= nil and config.text(theirs[key]) ~= config.text(value) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys)
  for i, key in ipairs(keys) do
    keys[i] = ("%s=%s"):format(key, config.text(flat[key]))
  end
  return keys
end

local function split(text)
  local words = {}
  for word in text:gmatch "%S+" do
    words[#words + 1] = word
  end
  return words
end

local function joined(...)
  local list = {}
  for _, part in ipairs { ... } do
    table.move(part, 1, #part, #list + 1, list)
  end
  return list
end

-- Of an option that a comparison sets itself the user's words say nothing; set: the words in which it does.
local function refuse_own(name, words, set)
  local taken = { ["ppo.batch_size"] = true, preset = true }
  for _, word in ipairs(set) do
    taken[word:match "^([^=]*)="] = true
  end
  for _, word in ipairs(words) do
    local key = word:match "^([^=]*)="
    if not key or OWN[key] or taken[key] then
      fail("options.%s: '%s' is for the comparison to say: all methods have the same models, seeds and samples", name, word)
    end
  end
end

-- The words that multiply a row's step sizes by its factor, of those that these words give it.
local function knobs_of(r, words, row)
  local flat, list = row.factor and config.flatten((r:options(words))) or {}, {}
  for i, key in ipairs(row.factor and (row.knobs or { "ppo.lr" }) or {}) do
    list[i] = ("%s=%s"):format(key, config.text(flat[key] * row.factor))
  end
  return list
end

-- Iterations of each policy so that the method draws as many samples as the budget; raises where that is not a whole number.
local function share(row, cfg, policies)
  if cfg.budget == "policy" then
    return cfg.iterations
  elseif cfg.iterations % policies ~= 0 then
    local below = cfg.iterations - cfg.iterations % policies
    fail("budget: %s trains %d policies, which do not share iterations=%d equally: %d samples would be left over; take iterations=%d or %d, or "
      .. "budget=policy for unequal budgets", row.name, policies, cfg.iterations, cfg.iterations % policies * cfg.ppo.batch_size, math.max(below, policies),
      below + policies)
  end
  return cfg.iterations // policies
end

--- compare.plan(rows, settings, cfg, given) -> a list of jobs for each setting and seed: {setting, seed, models = job, methods = {job}}; a
-- job is {recipe, words, dir, row, samples, policies}. cfg: the comparison's options; given: preset and directory of the recipes
-- ({preset=, recipes=}); cfg.options[NAME] are further words of a method. Raises what the recipes would say of their options, and where
-- budgets are unequal; nothing is written.
function compare.plan(rows, settings, cfg, given)
  local recipes, plan = {}, {}
  local function recipe_of(name)
    recipes[name] = recipes[name] or recipe.open(fs.join(given.recipes, name .. ".lua"))
    return recipes[name]
  end
  local function job(name, setting, seed, dir, words, row)
    local r = recipe_of(name)
    local first = { given.preset and r.said.presets[given.preset] and "preset=" .. given.preset or nil }
    words = joined(first, { "objectives=" .. table.concat(setting.objectives, ","), "trade_off=" .. setting.trade_off, "seed=" .. seed }, words)
    words = joined(words, shared(r, words, cfg, row))
    r:options(words)
    return { recipe = r, dir = dir, words = joined(words, { "out=" .. dir, "resume=auto" }) }
  end
  for _, seed in ipairs(cfg.seeds) do
    for _, setting in ipairs(settings) do
      local dir = fs.join(given.out, setting.slug, "seed-" .. seed)
      local part = { setting = setting, seed = seed, methods = {}, models = job("models", setting, seed, fs.join(dir, "models"), {}) }
      if seed == cfg.seeds[1] then
        part.models.recipe:check_data(part.models.words)
      end
      for i, row in ipairs(rows) do
        local preferences = #cfg.policies > 0 and cfg.policies or FIVE[#setting.objectives]
        preference.list(preferences, #setting.objectives)
        local name = row.base or row.name
        local policies, own = policies_of(row, setting, preferences), split(cfg.options[name])
        local iterations = share(row, cfg, policies)
        local set = row.budget and row.budget(iterations * cfg.ppo.batch_size) or { ("%s.iterations=%d"):format(row.group, iterations) }
        if row.policies == "preference" then
          set[#set + 1] = "preferences=" .. table.concat(preferences, ",")
        end
        if cfg.points > 0 and row.group then
          set = joined(set, { ("%s.save_every=%d"):format(row.group, math.max(1, iterations // cfg.points)), "keep=100000",
            "eval.curve_answers=" .. cfg.curve_answers })
        end
        refuse_own(name, own, set)
        local words = joined(set, row.words or {}, own)
        local ok, j = pcall(function()
          words = joined(words, knobs_of(recipe_of(row.recipe), words, row))
          return job(row.recipe, setting, seed, fs.join(dir, row.name), words, row)
        end)
        if not ok then
          fail("%s: %s", row.name, tostring(j))
        end
        j.row, j.samples, j.policies = row, iterations * policies * cfg.ppo.batch_size, policies
        table.insert(j.words, "from=" .. part.models.dir)
        part.methods[i] = j
      end
      plan[#plan + 1] = part
    end
  end
  return plan
end

local function read(dir, name)
  return check(json.load(fs.join(dir, name)))
end

-- The answers of the last evaluation to its first prompt: prompt, list of {preference, response}.
local function shown(dir)
  local prompt, list = nil, json.array()
  for line in io.lines(fs.join(dir, "samples.jsonl")) do
    local row = json.decode(line)
    if row.stage == "evaluation" then
      prompt = prompt or row.prompt
      if row.prompt == prompt then
        list[#list + 1] = { preference = row.preference, response = row.response }
      end
    end
  end
  return prompt, list
end

--- compare.spread(plan, run): under mpirun every rank runs the settings and seeds that are its own, each run alone and in the directory
-- that it has in any case, so that the comparison then finds them complete.
function compare.spread(plan, run)
  if comm.size() == 1 or run.complete then
    return
  end
  for i, part in ipairs(plan) do
    if (i - 1) % comm.size() == comm.rank() then
      comm.alone(function()
        part.models.recipe:run(part.models.words)
        for _, job in ipairs(part.methods) do
          job.recipe:run(job.words)
        end
      end)
    end
  end
  comm.barrier "the seeds of the comparison"
end

--- compare.forget(plan, run): takes away the directories of runs whose stages the comparison's run, begun with redo=, no longer has.
function compare.forget(plan, run)
  for _, part in ipairs(comm.rank() == 0 and plan or {}) do
    for name, job in pairs(compare.jobs(part)) do
      if not run.stages[compare.stage(name, part)] and fs.exists(job.dir) then
        check(fs.remove_tree(job.dir))
      end
    end
  end
end

--- compare.stage(name, part) -> the name of the stage of a method, or of "models", for a setting and seed.
function compare.stage(name, part)
  return ("%s-%s-%d"):format(name, part.setting.slug, part.seed)
end

--- compare.jobs(part) -> {models = job, [method] = job}.
function compare.jobs(part)
  local jobs = { models = part.models }
  for _, job in ipairs(part.methods) do
    jobs[job.row.name] = job
  end
  return jobs
end

local SHARED = { "^tokenizer$", "^base$", "^sft$", "^sft%-answers$", "^reward%-", "^curve$", "^evaluation$" }

-- Seconds of the stages that are the method's own.
local function seconds_of(timing)
  local sum = 0
  for name, s in pairs(timing.phases or {}) do
    local own = true
    for _, pattern in ipairs(SHARED) do
      own = own and not name:find(pattern)
    end
    sum = sum + (own and s or 0)
  end
  return sum
end

local function same(a, b)
  for j, x in ipairs(a) do
    if x ~= b[j] then
      return false
    end
  end
  return #a == #b
end

--- compare.models(job) -> {statistics, sft}: runs the recipe of the models and gives what the methods are measured by.
function compare.models(job)
  job.recipe:run(job.words)
  local result = read(job.dir, "result.json")
  local rule = result.sft.rule
  return { statistics = result.statistics, preferences = result.preferences, sft = { hypervolume = result.sft.hypervolume,
    kendall_tau = result.sft.kendall_tau, rule_hypervolume = rule and rule.hypervolume } }
end

--- compare.method(job, models) -> the run's figures (comparison.figures) with training_samples, models, trained_parameters, seconds and
-- shown, its answers to one prompt: runs the recipe. Raises where it drew other training samples than the budget has.
function compare.method(job, models)
  local fresh, started = not fs.exists(job.dir), os.clock()
  job.recipe:run(job.words)
  local processor = fresh and os.clock() - started or nil -- a run that was continued took more than this process saw
  local result, timing = read(job.dir, "result.json"), read(job.dir, "timing.json")
  if result.training_samples ~= job.samples then
    fail("%s: %s drew %s training samples, and its part of the budget is %d", job.dir, job.row.name, tostring(result.training_samples), job.samples)
  end
  local own = read(job.dir, "stages.json")["sft-answers"].result.statistics
  if not same(own.mean, models.statistics.mean) or not same(own.std, models.statistics.std) then
    result.unseen = nil -- of other preferences, and so in another unit, and there are no raw rewards to measure anew
  end
  local f = comparison.figures(result, models.statistics)
  f.training_samples, f.models = result.training_samples, result.policies or 1
  f.trained_parameters = timing.trained_parameters and timing.trained_parameters // f.models * job.policies
  f.seconds, f.processor, f.shown = seconds_of(timing), processor, {}
  f.shown.prompt, f.shown.answers = shown(job.dir)
  return f
end

-- Takes a method's own fields out of a run and leaves what differs between seeds.
local function method_entry(row, runs)
  local list = {}
  for k, run in ipairs(runs) do
    list[k] = {}
    for key, v in pairs(run) do
      list[k][key] = v
    end
    for _, key in ipairs { "training_samples", "models", "trained_parameters", "seconds", "processor", "shown" } do
      list[k][key] = nil
    end
  end
  return { name = row.name, label = row.label, recipe = row.recipe, of = row.of, factor = row.factor, models = runs[1].models, training_samples = runs[1].training_samples,
    trained_parameters = runs[1].trained_parameters, runs = list }
end

local function mean_sft(list)
  local out = {}
  for _, key in ipairs { "hypervolume", "kendall_tau", "rule_hypervolume" } do
    for _, m in ipairs(list) do
      local v = m.sft[key]
      out[key] = type(v) == "number" and out[key] ~= false and (out[key] or 0) + v / #list or false
    end
    out[key] = out[key] or nil
  end
  return out
end

--- compare.gather(rows, settings, cfg, results) -> data, seconds: the comparison (mocl.report.comparison) of the seeds that are complete
-- in every setting, and the times for comparison.costs. results[setting.name][seed] is {models = of compare.models, [method] = of
-- compare.method}.
function compare.gather(rows, settings, cfg, results)
  local seeds = json.array()
  for _, seed in ipairs(cfg.seeds) do
    local complete = true
    for _, s in ipairs(settings) do
      local got = results[s.name] and results[s.name][seed] or {}
      for _, row in ipairs(rows) do
        complete = complete and got[row.name] ~= nil
      end
    end
    seeds[#seeds + 1] = complete and seed or nil
  end
  if #seeds == 0 then
    return nil
  end
  local data = { recipe = "compare_hh", budget = cfg.iterations * cfg.ppo.batch_size, unequal = cfg.budget == "policy", seeds = seeds, settings = {} }
  local seconds = {}
  for i, s in ipairs(settings) do
    local entry = { name = s.name, objectives = s.objectives, trade_off = s.trade_off, methods = {} }
    local models = {}
    seconds[s.name] = {}
    for k, seed in ipairs(seeds) do
      models[k] = results[s.name][seed].models
    end
    entry.sft = mean_sft(models)
    local first = results[s.name][seeds[1]]
    entry.shown = { seed = seeds[1], preferences = first.models.preferences, prompt = first[rows[1].name].shown.prompt, methods = {} }
    for m, row in ipairs(rows) do
      local runs, times = {}, { wall = {}, processor = {} }
      for k, seed in ipairs(seeds) do
        runs[k] = results[s.name][seed][row.name]
        runs[k].seed, times.wall[k] = seed, runs[k].seconds
        times.processor[#times.processor + 1] = runs[k].processor
      end
      entry.methods[m], seconds[s.name][row.name] = method_entry(row, runs), times
      entry.shown.methods[row.name] = first[row.name].shown.answers
    end
    data.settings[i] = entry
  end
  return data, seconds
end

return compare
