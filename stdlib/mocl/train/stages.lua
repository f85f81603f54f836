--- mocl.train.stages: the stages a language-model run goes through before and after the training loop of its method.
-- Each runs once in the life of a run directory; what it made is read from there. This file opens, checks and finishes a
-- run. stage_options.lua has the options, stage_inputs.lua what is read, stage_models.lua what is trained, and
-- stage_measures.lua what is measured; a recipe finds the functions of all of them here.
--
-- A context table is shared by them: run, cfg, info, source (mocl.data.sources), functions (rewards from a file), hooks
-- (mocl.method.hooks), grid (preferences) from stages.open, and, as they come to be, tok (tokenizer), rewards (list of
-- {name=, f=}), policy (mocl.lm.policy), sft (statistics and figures). What the method of a recipe is they do not know.

local config = require "mocl.run.config"
local estimate = require "mocl.train.estimate"
local fs = require "mocl.fs"
local lm_actor = require "mocl.train.lm_actor"
local open_device = require "mocl.run.device".open
local own_model = require "mocl.lm.own_model"
local piecewise = require "mocl.piecewise"
local preference = require "mocl.preference"
local report = require "mocl.report"
local sorted_keys = require "mocl.options".sorted_keys
local reward = require "mocl.lm.reward"
local Run = require "mocl.run"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"
local stage_inputs = require "mocl.train.stage_inputs"
local stage_measures = require "mocl.train.stage_measures"
local stage_models = require "mocl.train.stage_models"
local stage_options = require "mocl.train.stage_options"

local reward_functions, rewarded_objectives = stage_inputs.reward_functions, stage_inputs.rewarded_objectives
local reward_directories, blind_judge = stage_inputs.reward_directories, stage_inputs.blind_judge
local source_of = stage_inputs.source_of
local shape, say, reward_path = stage_options.shape, stage_models.say, own_model.reward_path

local stages = {
  -- options
  OPTIONS = stage_options.OPTIONS,
  PREFERENCES = stage_options.PREFERENCES,
  NO_POLICY_GRADIENT = stage_options.NO_POLICY_GRADIENT,
  NO_TRAINING = stage_options.NO_TRAINING,
  VOLATILE = stage_options.VOLATILE,
  schema = stage_options.schema,
  models_only = stage_options.models_only,
  presets = stage_options.presets,
  depends = stage_options.depends,
  arguments = stage_options.arguments,
  from_run = stage_options.from_run,
  -- inputs
  hash_inputs = stage_inputs.hash_inputs,
  say_changed = stage_inputs.say_changed,
  check_data = stage_inputs.check_data,
  -- models
  bar = stage_models.bar,
  tokenizer = stage_models.tokenizer,
  memory_plan = stage_models.memory_plan,
  fit_prompts = stage_models.fit_prompts,
  steps = stage_models.steps,
  new_model = stage_models.new_model,
  save_tokenizer = stage_models.save_tokenizer,
  language_model = stage_models.language_model,
  base_and_sft = stage_models.base_and_sft,
  rewards = stage_models.rewards,
  models = stage_models.models,
  actor = stage_models.actor,
  adapt = stage_models.adapt,
  load_policy = stage_models.load_policy,
  -- measures
  sft_answers = stage_measures.sft_answers,
  answers = stage_measures.answers,
  evaluation = stage_measures.evaluation,
}

-- A context is closed as its run is.
local Context = { __close = function(ctx, err)
  getmetatable(ctx.run).__close(ctx.run, err)
end }

--- stages.options(o) -> cfg, info of config.parse, for what a recipe gives stages.open; raises where options do not go together.
function stages.options(o)
  local meta, schema = { recipe = o.recipe, doc = o.doc, presets = o.presets }, config.common(o.schema)
  local cfg, info = config.parse(schema, stages.arguments(schema, o.arg, meta, o.small), meta)
  own_model.fill(cfg, info.given)
  rewarded_objectives(cfg, info)
  stages.check(cfg)
  if o.check then
    o.check(cfg)
  end
  return cfg, info
end

-- What --check says of memory and time.
local function estimated(o, cfg, source, functions, given, grid)
  local vocab, N, models, longest = cfg.tokenizer.vocab_size, #cfg.objectives, {}, 0
  for _, name in ipairs(cfg.objectives) do
    models[#models + 1] = not functions[name] and not reward_path(cfg, name) and not given and name or nil
  end
  for _, prompt in ipairs(source.train_prompts) do
    longest = math.max(longest, #prompt)
  end
  local s, D = shape(cfg, vocab), cfg.model.hidden_size
  local layers = cfg.lora.layers == 0 and cfg.model.layers or math.min(cfg.lora.layers, cfg.model.layers)
  -- the adapter on seven matrices of a block, and a head of two layers for each objective
  local trained = layers * cfg.lora.r * (4 * 2 * D + 3 * (D + cfg.model.intermediate_size)) + N * (D * D + 2 * D)
  local own = o.method and cfg[o.method:gsub("%-%*$", "")]
  local rows, total = stage_models.plan(cfg, { config = s, dtype = cfg.dtype, quantization = cfg.quantization ~= "none" and cfg.quantization or nil,
    trained = trained, rows = cfg.ppo.batch_size or own.batch_size, prompt = math.min(longest, cfg.model.positions - cfg.ppo.max_new_tokens) })
  local list = estimate.stages(cfg, { speed = estimate.speed(s, cfg.device), models = models, grid = #grid, iterations = own and own.iterations,
    unseen = o.policies ~= "preference" and 20 or 0, policies = o.policies == "preference" and #grid or o.policies == "objective" and N or 1,
    -- the context of a model of one's own is far longer than prompts are
    row = cfg.init ~= "" and math.min(longest + cfg.ppo.max_new_tokens, cfg.model.positions) or nil })
  return estimate.text(list, { rows, total })
end

local TRAINS = { "rewards", "dtype", "quantization", "lora", "ppo" } -- of a stage that trains a policy, beside the method's own

--- stages.open(o) -> ctx, for a `<close>` variable: options, data and the run directory of a language-model run. o: recipe, doc,
-- schema, presets, arg (the program's), source (nil, or function(cfg) that gives the data in place of HH-RLHF and the embedded task)
-- and small (of stages.arguments), method (the name of its stage, nil where it has none), depends (the options that this stage
-- depends on beside those of every policy), check(cfg), which raises where the method's options do not go together, and hooks(cfg, grid), whose result is ctx.hooks;
-- longest(prompt, N) -> text, n where a method of N objectives shows a policy more than a prompt with tags: the longest text, and n tokens
-- behind it; grid(N) -> the preferences where the user names none and they are not the grid's; policies: "preference" or "objective" where there is
-- one for each. What cannot go together fails before there is a directory. Of a run that is complete the tables are shown, and ctx.complete is true.
function stages.open(o)
  local cfg, info = stages.options(o)
  open_device(cfg)
  local functions = reward_functions(cfg)
  reward_directories(cfg, info, functions)
  local blind = blind_judge(cfg)
  local source = source_of(cfg, functions, o.source)
  local grid = o.grid and #cfg.preferences == 0 and o.grid(#cfg.objectives) or preference.list(cfg.preferences or {}, #cfg.objectives)
  local hooks = o.hooks and o.hooks(cfg, grid) or {}
  reward.try(functions, cfg.objectives, source.train_prompts)
  local depends = stages.depends(o.method and { [o.method] = table.move(o.depends, 1, #o.depends, #TRAINS + 1, { table.unpack(TRAINS) }) }
    or {})
  local given = cfg.from and stages.from_run(o.recipe, cfg, info, functions, depends)
  local run = Run.open { recipe = o.recipe, cfg = cfg, info = info, main = o.method, platform = sys.env(), depends = depends,
    estimate = function() return estimated(o, cfg, source, functions, given, grid) end,
    volatile_keys = stages.VOLATILE, out = not cfg.out and cfg.data ~= "" and not o.source and fs.join("runs", o.recipe, "hh-rlhf") or nil }
  local ctx = setmetatable({ run = run, cfg = cfg, info = info, source = source, functions = functions, method = o.method,
    grid = grid, hooks = hooks, longest = o.longest, blind = blind, complete = run.complete }, Context)
  if run.complete then
    stages.say_changed(run)
    stages.show(run, " holds this run, complete:\n")
    return ctx
  end
  stages.hash_inputs(run, cfg)
  for _, file in ipairs { { cfg.rewards, "rewards" }, { cfg.control and cfg.control.hooks or "", "control.hooks" } } do
    if file[1] ~= "" then
      run:hash_input(table.unpack(file))
    end
  end
  if given then
    given:give(run)
  end
  return ctx
end

local function fail(fmt, ...)
  error(fmt:format(...), 0)
end

-- The shape of a model that is made here.
local function check_heads(cfg)
  local m = cfg.model
  if cfg.init ~= "" then -- its shape is what it is
    return
  elseif m.hidden_size % m.heads ~= 0 then
    fail("model.heads=%d does not divide model.hidden_size=%d", m.heads, m.hidden_size)
  elseif m.hidden_size // m.heads % 2 ~= 0 then
    fail("model.hidden_size=%d / model.heads=%d = %d must be even, for the rotary embedding", m.hidden_size, m.heads,
      m.hidden_size // m.heads)
  end
end

local function check_size(cfg)
  local ok, message = pcall(transformer.check, shape(cfg, cfg.tokenizer.vocab_size))
  if cfg.init == "" and not ok then
    error(message, 0)
  end
end

--- Fails now where the model that the options describe cannot be made.
function stages.check_model(cfg)
  check_heads(cfg)
  check_size(cfg)
end

--- Fails now, before there is a run directory, where options cannot go together.
function stages.check(cfg)
  local m = cfg.model
  check_heads(cfg)
  if cfg.ppo.max_new_tokens + 2 > m.positions then
    fail("ppo.max_new_tokens=%d answer tokens leave no room for a prompt in model.positions=%d", cfg.ppo.max_new_tokens, m.positions)
  end
  if cfg.lora.layers > m.layers then
    fail("lora.layers=%d: the model has model.layers=%d", cfg.lora.layers, m.layers)
  end
  if #cfg.objectives > 3 then
    fail("objectives: there are grids of preferences and tags of at most 3 weights, got %d (%s)", #cfg.objectives,
      table.concat(cfg.objectives, ","))
  end
  for _, group in ipairs { "base", "sft", "reward", "ppo" } do
    if cfg[group] and cfg[group].pieces then
      piecewise.check(group .. ".pieces", cfg[group].pieces, cfg[group].batch_size)
    end
  end
  lm_actor.check(cfg.dtype, cfg.ppo.microbatch)
  if cfg.reward.trunk == "frozen" and cfg.data == "" and cfg.prompts == "" then
    fail "reward.trunk=frozen needs data=DIR: the embedded task's answers are compared many times each, by models of all weights"
  end
  check_size(cfg)
end

-- standard errors of the mean rewards
local function errors_of(figures, answers)
  local errors = {}
  for i, row in ipairs(figures.rewards_std) do
    errors[i] = {}
    for j, std in ipairs(row) do
      errors[i][j] = std / answers ^ 0.5
    end
  end
  return errors
end

-- One line: the seconds of each stage in the order they ran, and the most that tensors took.
local function times(run, peak)
  local names, parts, all = sorted_keys(run.stages), {}, 0
  table.sort(names, function(a, b) return run.stages[a].order < run.stages[b].order end)
  for i, name in ipairs(names) do
    parts[i] = ("%s %.0f s"):format(name, run.stages[name].seconds)
    all = all + run.stages[name].seconds
  end
  return ("time: %.0f s (%s); tensors took %.2f GiB at most"):format(all, table.concat(parts, ", "), peak / 2 ^ 30)
end

-- Ends the run with a result of what all recipes say and of the parts, later ones over earlier ones.
local function finish(ctx, parts, timing)
  local cfg = ctx.cfg
  local result = { recipe = ctx.run.recipe, seed = cfg.seed, device = cfg.device, objectives = cfg.objectives, sft = ctx.sft.figures,
    reward_models = ctx.checks, trade_off = cfg.data == "" and cfg.prompts == "" and cfg.trade_off or nil }
  for _, part in ipairs(parts) do
    for k, v in pairs(part) do
      result[k] = k ~= "shown" and v or nil
    end
  end
  timing.peak_bytes = tensor.memory().peak
  ctx.run:finish(result, timing, report.PAGES)
  say(ctx, times(ctx.run, timing.peak_bytes))
  stages.show(ctx.run)
end

--- Ends the run with the figures of stages.evaluation and what the recipe adds, a table (method, and kl, c or what else its stage
-- left); warning(preferences, rewards, errors) -> text or nil is the method's and may be left out. Shows the tables.
function stages.finish(ctx, figures, own, warning)
  figures.warning = warning and warning(figures.preferences, figures.rewards, errors_of(figures, ctx.cfg.eval.answers))
  finish(ctx, { own, figures }, { trained_parameters = ctx.trained and ctx.trained * (own.policies or 1) })
end

--- Ends a run that prepares models and trains no policy: the SFT model's figures and the statistics that all figures are in units of.
function stages.finish_models(ctx)
  finish(ctx, { { preferences = ctx.grid, statistics = ctx.sft.statistics, constant = ctx.sft.constant } }, {})
end

local function one_line(text) -- an untrained model's bytes need not be text
  return (utf8.len(text) and text or text:gsub("[\x80-\xff]", "?")):gsub("%c", " ")
end

local silent = 0 -- calls of stages.without_tables that are open

--- stages.without_tables(f, ...) -> what f(...) returns; runs that end meanwhile do not print their tables, which their directories hold.
function stages.without_tables(f, ...)
  local _ <close> = setmetatable({}, { __close = function()
    silent = silent - 1
  end })
  silent = silent + 1
  return f(...)
end

--- What a complete run has to say, on standard output: its directory and a text, if there is one, an answer per preference, the
-- tables, the name of the report.
function stages.show(run, text)
  if silent > 0 then
    return
  end
  io.write(text and run.out .. text or "")
  local evaluation = run.stages.evaluation
  local shown = evaluation and evaluation.result.shown
  io.write(shown and "\nanswers of the trained policy\n" or "")
  for i, p in ipairs(shown and run.result.preferences or {}) do
    io.write(("  %s ->%s\n"):format(one_line(preference.relabel(shown[i].prompt, p)), (one_line(shown[i].response))))
  end
  io.write("\n", report.summary(run.result), "\nreport: ", run:path "report.html", "\n")
end

return stages
