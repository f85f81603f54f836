--- mocl.train.stages: the stages a language-model run goes through before and after the training loop of its method.
-- Each runs once in the life of a run directory; what it made is read from there.
--
-- A context table is shared by them: run, cfg, info, source (mocl.data.sources), functions (rewards from a file), hooks
-- (mocl.method.hooks), grid (preferences) from stages.open, and, as they come to be, tok (tokenizer), rewards (list of {name=, f=}), policy (mocl.lm.policy), sft
-- (statistics and figures). What the method of a recipe is they do not know.

local comm = require "mocl.comm"
local config = require "mocl.run.config"
local data = require "mocl.data"
local data_sources = require "mocl.data.sources"
local digest = require "mocl.run.digest"
local estimate = require "mocl.train.estimate"
local fluency = require "mocl.lm.fluency"
local from_run = require "mocl.run.from_run"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lm_actor = require "mocl.train.lm_actor"
local lora = require "mocl.lm.lora"
local memory_plan = require "mocl.lm.memory_plan"
local metrics = require "mocl.metrics"
local open_device = require "mocl.run.device".open
local own_model = require "mocl.lm.own_model"
local piecewise = require "mocl.piecewise"
local policy = require "mocl.lm.policy"
local probe = require "mocl.lm.probe"
local probe_stage = require "mocl.train.probe_stage"
local preference = require "mocl.preference"
local progress = require "mocl.run.progress"
local report = require "mocl.report"
local nearest = require "mocl.options".nearest
local sorted_keys = require "mocl.options".sorted_keys
local reward = require "mocl.lm.reward"
local reward_directory = require "mocl.lm.reward_directory"
local rng = require "mocl.rng"
local Run = require "mocl.run"
local run_options = require "mocl.run.options"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local loop = require "mocl.train.loop"
local POLICY_GRADIENT = require("mocl.train.trainer").OPTIONS
local transformer = require "mocl.lm.model"
local value_heads = require "mocl.train.value_heads"

local stages = {}

local PIECES = "pieces of a batch, a power of 2, that ranks share out; 1: rank 0 trains alone (docs/guide/many-machines.md)"

--- Rows for a recipe's schema: what is trained before the method begins, and what is measured behind it.
stages.OPTIONS = {
  { "from", nil, "directory of a run whose tokenizer, base, SFT and reward models are taken", type = "string" },
  { "rewards", "", "Lua file that returns {name = function(prompts, responses) -> numbers}, used in place of models" },
  { "template", {}, "how the models of reward.NAME read prompt and answer: a template's name, or NAME:TEMPLATE for one of them; empty: as the "
    .. "objective's name says", list_of = "string" },
  { "save_every", 200, "steps between checkpoints of the base, SFT and reward models", min = 1 },
  { "tokenizer.vocab_size", 900, "entries of the byte-level BPE", min = 300 },
  { "model.hidden_size", 64, "width D", min = 8 },
  { "model.layers", 2, "blocks", min = 1 },
  { "model.heads", 4, "attention heads", min = 1 },
  { "model.intermediate_size", 176, "width of the SwiGLU layer", min = 8 },
  { "model.positions", 96, "context in tokens", min = 16 },
  { "base.steps", 1500, "pretraining steps", min = 1 },
  { "base.batch_size", 32, "documents a step", min = 1 },
  { "base.lr", 6e-3, "peak step size", min = 0 },
  { "base.pieces", 1, PIECES, min = 1, max = 1024 },
  { "reward.NAME", nil, "reward of the objective NAME: directory of a model with a head for classification, or of an encoder of sentences",
    type = "string", named = true },
  { "reward.decimals", -1, "decimals that the scores of such models are rounded to, 1 in published code; -1: not rounded", min = -1, max = 12 },
  { "reward.quantization", "none", "keep the linear layers of such models in 8 or 4 bits", choices = { "none", "int8", "w8a8", "nf4" } },
  { "reward.trunk", "trained", "a reward model of a run's own is trained with all its weights, or is a linear head on the states of the frozen "
    .. "model, which all rewards share", choices = { "trained", "frozen" } },
  { "reward.tokens", 64, "frozen trunk: so many of a prompt's last tokens, and of an answer's first, are read", min = 1 },
  { "reward.prompts", 10000, "prompts with answers to compare, per objective (embedded task); frozen trunk: pairs to train on, at most, "
    .. "and three times those to test with", min = 10 },
  { "reward.answers", 8, "answers to each of them, all compared with each other (embedded task)", min = 2 },
  { "reward.steps", 4000, "steps per reward model", min = 1 },
  { "reward.batch_size", 8, "prompts a step; of files: pairs", min = 1 },
  { "reward.lr", 2e-3, "peak step size", min = 0 },
  { "reward.pieces", 1, PIECES, min = 1, max = 1024 },
  { "reward.min_accuracy", 0.85, "held-out accuracy under which the run warns", min = 0, max = 1 },
  { "reward.min_correlation", 0.95, "embedded task: the same for the correlation with the rule", min = -1, max = 1 },
  { "sft.examples", 8000, "examples (embedded task)", min = 10 },
  { "sft.steps", 1000, "steps; 0: the model as it is", min = 0 },
  { "sft.batch_size", 32, "examples a step", min = 1 },
  { "sft.lr", 2e-3, "peak step size", min = 0 },
  { "sft.pieces", 1, PIECES, min = 1, max = 1024 },
  { "eval.statistics", 512, "answers of the SFT model that the running statistics of rewards start from", min = 2 },
  { "eval.answers", 1024, "answers per preference", min = 1 },
  { "eval.unseen_answers", 512, "answers per unseen preference; 0 leaves them out", min = 0 },
  { "eval.fluency", false, "how likely the answers are to the model that the policy starts from, without tags, and how many of their pairs of "
    .. "words are different ones" },
  { "eval.blind", "", "directory of an encoder of sentences, or of a model that recipes/reward_model.lua trained: its mean score of the answers is "
    .. "reported, and nothing is trained on it" },
  { "eval.curve_answers", 0, "answers per preference to each checkpoint that keep= left, for figures over samples; 0: none", min = 0 },
}

--- Rows for a recipe whose preferences may be chosen.
stages.PREFERENCES = {
  { "preferences", {}, "those that are trained and evaluated, such as 1:0,0.5:0.5,0:1; empty: the grid", list_of = "string" },
}

-- Rows in which a later one of the same key stands in the place of the earlier.
local function replaced(rows)
  local list, at = {}, {}
  for _, row in ipairs(rows) do
    at[row[1]] = at[row[1]] or #list + 1
    list[at[row[1]]] = row
  end
  return list
end

--- stages.schema(without, ...) -> the schema of a recipe that trains a language model: the options of its data, of these stages, of
-- the policy and, as ppo.NAME, of the trainer but for the names in the list `without`; then the rows of the recipe's own lists, of which
-- one with the key of an earlier row takes its place.
function stages.schema(without, ...)
  return replaced(config.join { data_sources.OPTIONS, own_model.OPTIONS, stages.OPTIONS, lm_actor.MODEL_OPTIONS,
    config.rows(POLICY_GRADIENT, "ppo.", {}, without), config.rows(lm_actor.OPTIONS, "ppo.", {}),
    config.rows(lm_actor.MEMORY_OPTIONS, "ppo.", {}, without), ... })
end

--- Names in trainer.OPTIONS and lm_actor.MEMORY_OPTIONS, all of them: for a recipe that trains by supervised steps alone.
-- stages.NO_TRAINING are those without the number of answers: for one that trains no policy itself.
stages.NO_POLICY_GRADIENT, stages.NO_TRAINING = {}, {}
for _, rows in ipairs { POLICY_GRADIENT, lm_actor.MEMORY_OPTIONS } do
  for _, row in ipairs(rows) do
    table.insert(stages.NO_POLICY_GRADIENT, row[1])
    stages.NO_TRAINING[#stages.NO_TRAINING + 1] = row[1] ~= "batch_size" and row[1] or nil
  end
end

--- stages.models_only(own, ...) -> schema, presets of a recipe that trains no policy itself: as stages.schema and stages.presets, and
-- of the trainer's options the number of answers alone.
function stages.models_only(own, ...)
  return stages.schema(stages.NO_TRAINING, ...), stages.presets(own, stages.NO_TRAINING)
end

-- What the presets of all recipes have in common: a run of seconds, one on files of HH-RLHF, and one with a model of
-- one's own on them.
local PRESETS = {
  smoke = { documents = 300, ["tokenizer.vocab_size"] = 400, ["model.hidden_size"] = 16, ["model.heads"] = 2,
    ["model.intermediate_size"] = 32, ["model.positions"] = 256, save_every = 2, ["base.steps"] = 4, ["reward.prompts"] = 30, ["reward.steps"] = 4,
    ["reward.min_accuracy"] = 0.0, ["reward.min_correlation"] = -1.0, ["reward.batch_size"] = 4,
    ["sft.examples"] = 60, ["sft.steps"] = 4, ["ppo.batch_size"] = 16, ["ppo.max_new_tokens"] = 8, ["eval.answers"] = 8, ["eval.unseen_answers"] = 4 },
  hh = { ["tokenizer.vocab_size"] = 2048, ["model.hidden_size"] = 128, ["model.layers"] = 4, ["model.heads"] = 4, ["lora.layers"] = 0,
    ["model.intermediate_size"] = 344, ["model.positions"] = 192, ["base.steps"] = 1200, ["base.batch_size"] = 16,
    ["base.lr"] = 3e-3, ["reward.steps"] = 200, ["reward.batch_size"] = 16, ["reward.lr"] = 3e-4,
    ["reward.min_accuracy"] = 0.55, ["sft.steps"] = 300, ["sft.batch_size"] = 16, ["sft.lr"] = 1e-3,
    ["ppo.batch_size"] = 64, ["ppo.max_new_tokens"] = 40, ["ppo.lr"] = 1e-3, ["ppo.lr_scheduler_type"] = "constant", ["eval.answers"] = 256, ["eval.unseen_answers"] = 128 },
  -- what the paper's table 7 says of models of 7 billion parameters, and Rewards-in-Context, whose data and reward
  -- models it takes
  large = { ["sft.steps"] = 0, ["hh.prompt_chars"] = 1000, ["lora.r"] = 64, ["lora.alpha"] = 128, ["lora.layers"] = 0, ["ppo.batch_size"] = 64,
    ["ppo.max_new_tokens"] = 128, ["ppo.lr"] = 1.41e-5, ["ppo.lr_scheduler_type"] = "constant", ["eval.answers"] = 256, ["eval.unseen_answers"] = 128 },
  -- a real instruct model on two cores within hours (docs/guide/real-model.md)
  smollm2 = { init = own_model.REAL, ["hh.prompt_chars"] = 120, ["sft.steps"] = 0,
    ["reward.trunk"] = "frozen", ["reward.prompts"] = 1800, ["reward.min_accuracy"] = 0.6, ["lora.r"] = 16, ["lora.alpha"] = 32, ["lora.layers"] = 0,
    ["ppo.batch_size"] = 16, ["ppo.max_new_tokens"] = 48, ["ppo.temperature"] = 0.7, ["ppo.ppo_epochs"] = 2, ["ppo.lr"] = 3e-4, ["ppo.lr_scheduler_type"] = "constant",
    ["eval.statistics"] = 128, ["eval.answers"] = 64, ["eval.unseen_answers"] = 32, ["eval.fluency"] = true },
}

--- stages.presets(own, without, schema, more) -> a recipe's presets, with what those named smoke, hh and large have in all
-- recipes but for the options ppo.NAME of the list `without`. schema, more: nil; or the schema of a recipe on other data,
-- whose presets get no option that it lacks, and what it has beside or in place of these: name -> options, false for none.
function stages.presets(own, without, schema, more)
  local known, left_out, presets = schema and {}, {}, own
  for _, row in ipairs(schema or {}) do
    known[row[1]] = true
  end
  for _, option in ipairs(without or {}) do
    left_out["ppo." .. option] = true
  end
  for name, common in pairs(PRESETS) do
    local all = {}
    for i, part in ipairs { common, own[name] or {}, more and more[name] or {} } do
      for k, v in pairs(part) do
        if (not known or known[k]) and not (i == 1 and left_out[k]) then
          all[k] = v
        end
      end
    end
    presets[name] = all
  end
  for name, options in pairs(more or {}) do
    presets[name] = options and (presets[name] or options) or nil
  end
  return presets
end

-- What each stage depends on (mocl.run.options). What comes before a stage is not repeated: it is finished by then.
local function answers(...) -- of a stage that measures a policy's answers
  return { "preferences", "rewards", "reward", "template", "dtype", "quantization", "ppo.max_new_tokens", "ppo.temperature", ... }
end
local DEPENDS = {
  tokenizer = { "seed", "data", "init", "chat", "prompts", "trade_off", "objectives", "hh", "reddit", "documents", "tokenizer" },
  base = { "documents", "model", "base" },
  sft = { "model", "sft" },
  ["reward-*"] = { "reward.trunk", "reward.tokens", "reward.prompts", "reward.answers", "reward.steps", "reward.batch_size", "reward.lr", "reward.pieces",
    "reward.min_accuracy",
    "reward.min_correlation" },
  ["sft-answers"] = answers("eval.statistics", "eval.answers", "eval.fluency", "eval.blind"),
  curve = answers "eval.curve_answers",
  evaluation = answers "eval",
}
local TRAINS = { "rewards", "dtype", "quantization", "lora", "ppo" } -- of a stage that trains a policy, beside the method's own

--- What the stages here and those of `more` depend on, for Run.open.
function stages.depends(more)
  local all = {}
  for _, part in ipairs { DEPENDS, more } do
    for name, keys in pairs(part) do
      all[name] = keys
    end
  end
  return all
end

--- stages.arguments(schema, args, meta) -> args as config.parse takes them: files of HH-RLHF (data=, also in an @file) come with
-- a model of their own size, so that preset=hh goes in front where no preset is named; with a model of one's own
-- preset=large. small: the name in place of hh, where the recipe has another.
function stages.arguments(schema, args, meta, small)
  local list, plain = table.move(args, 0, #args, 0, {}), { [0] = args[0] }
  for _, a in ipairs(args) do
    plain[#plain + 1] = a ~= "--help" and a ~= "--print-config" and a or nil
  end
  local ok, cfg, info = pcall(config.parse, schema, plain, meta) -- what is wrong is told by the caller's own parse
  if ok and cfg.data ~= "" and not info.preset then
    table.insert(list, 1, "preset=" .. (cfg.init ~= "" and "large" or small or "hh"))
  end
  return list
end

--- Options that may differ between the two halves of a run and between runs that share stages: no result depends on them.
stages.VOLATILE = { "from", "save_every", "ppo.microbatch", "ppo.gradient_checkpointing" }

local PATHS = { "data", "init", "tokenizer.path", "prompts", "sft.data" } -- options that name files
local ONLY_SAID = { "reward.min_accuracy", "reward.min_correlation" } -- in the groups above, but no stage depends on them

--- The run that from= names, which can give the tokenizer, the base and SFT model and the reward models of the objectives that
-- have no function; raises in words where it cannot (mocl.run.from_run).
function stages.from_run(recipe, cfg, info, functions, depends)
  local names = { "tokenizer", cfg.init == "" and "base" or "sft", cfg.init == "" and "sft" or nil }
  for _, objective in ipairs(cfg.objectives) do
    names[#names + 1] = not functions[objective] and "reward-" .. objective or nil
  end
  local volatile = table.move(stages.VOLATILE, 1, #stages.VOLATILE, 1, {})
  table.move(run_options.VOLATILE, 1, #run_options.VOLATILE, #volatile + 1, volatile)
  return from_run.open(cfg.from, { recipe = recipe, cfg = cfg, depends = depends, stages = names, volatile = volatile, paths = PATHS,
    beside = { ["tokenizer.path"] = own_model.beside }, set = run_options.set(info), neutral = ONLY_SAID })
end

local reward_path = own_model.reward_path

--- Records the files that options name (mocl.run); but the weights of init= when they are loaded, if that is still to come.
function stages.hash_inputs(run, cfg)
  local function later(path)
    return not run.stages.sft and path:find "%.safetensors$" ~= nil
  end
  local paths = { cfg.data, cfg.init, cfg.tokenizer.path, cfg.prompts, cfg.sft.data, cfg.eval and cfg.eval.blind or "" }
  for _, name in ipairs(cfg.objectives or {}) do
    paths[#paths + 1] = reward_path(cfg, name)
  end
  for _, path in ipairs(paths) do
    if path ~= "" then
      run:hash_input(path, nil, path == cfg.init and later or nil)
    end
  end
  for _, path in ipairs(own_model.beside(cfg.tokenizer.path)) do
    if fs.exists(path) == "file" then
      run:hash_input(path)
    end
  end
end

--- Says on stderr where a complete run shows what it made of a file that has changed since.
function stages.say_changed(run)
  local change = run:changed_input()
  if change then
    io.stderr:write(("warning: %s\nwhat follows was made before; another out= makes all anew, resume=auto redo=STAGE what used a changed rewards file\n")
      :format(change))
  end
end

-- The rewards file as a table of functions; empty without one. Raises where none of them is a reward of the run, which would train on
-- others.
local function reward_functions(cfg)
  if cfg.rewards == "" then
    return {}
  end
  local functions, message = reward.functions(cfg.rewards)
  local used = not functions and error("rewards: " .. message, 0)
  for _, name in ipairs(cfg.objectives) do
    used = used or functions[name]
  end
  if used then
    return functions
  end
  local names = sorted_keys(functions)
  return error(("rewards=%s: has no function for %s (it has %s); objectives= names the rewards of a run"):format(cfg.rewards,
    table.concat(cfg.objectives, ", "), #names > 0 and table.concat(names, ", ") or "none"), 0)
end

-- template= as a table: objective -> template, and that of all others as [1].
local function templates_of(cfg, names)
  local by_name = {}
  for _, word in ipairs(cfg.template) do
    local name, template = word:match "^([^:]*):(.*)$"
    if name and not reward_path(cfg, name) then
      error(("template=%s: there is no reward.%s=DIR"):format(word, name), 0)
    elseif #names == 0 then
      error(("template=%s: there is no reward.NAME=DIR that it could be for; leave it out"):format(word), 0)
    elseif by_name[name or 1] then
      error(("template=%s: two for %s"):format(table.concat(cfg.template, ","), name or "all reward models"), 0)
    end
    by_name[name or 1] = template or word
  end
  return by_name
end

-- Without objectives= the names of the rewards that have a directory are the objectives.
local function rewarded_objectives(cfg, info)
  local names = info.named["reward.NAME"] or {}
  if #names > 0 and not run_options.covers(info.given, "objectives") then
    cfg.objectives = table.move(names, 1, #names, 1, {})
  end
end

-- The directories of reward.NAME beside the functions of a rewards file; raises in words, with the option's name in
-- front.
local function reward_directories(cfg, info, functions)
  local names = info.named["reward.NAME"] or {}
  local templates, known = templates_of(cfg, names), {}
  for _, name in ipairs(cfg.objectives) do
    known[name] = true
  end
  for _, name in ipairs(names) do
    if not known[name] then
      local all = table.move(cfg.objectives, 1, #cfg.objectives, 1, {})
      for key in pairs(cfg.reward) do
        all[#all + 1] = key ~= name and key or nil
      end
      table.sort(all)
      local near = nearest(name, all)
      error(("reward.%s=%s: there is no objective '%s'%s; objectives=%s"):format(name, cfg.reward[name], name,
        near and (" (did you mean 'reward.%s'?)"):format(near) or "", table.concat(cfg.objectives, ",")), 0)
    elseif functions[name] then
      error(("reward.%s=%s: rewards=%s has a function '%s' too; leave one out"):format(name, cfg.reward[name], cfg.rewards, name), 0)
    end
  end
  for _, name in ipairs(names) do
    local decimals = cfg.reward.decimals
    local f, message = reward_directory.load(cfg.reward[name], { device = cfg.device, objective = name,
      template = templates[name] or templates[1], decimals = decimals >= 0 and decimals or nil,
      quantization = own_model.format(cfg.reward) })
    functions[name] = f or error(("reward.%s=%s"):format(name, message), 0)
  end
end

-- The model of eval.blind; nil without it.
local function blind_judge(cfg)
  if cfg.eval.blind == "" then
    return nil
  end
  local f, message = reward_directory.load(cfg.eval.blind, { device = cfg.device })
  return f or error("eval.blind=" .. message, 0)
end

-- Where prompts, answers and pairs come from, by the options.
local function source_of(cfg, functions, make)
  local embedded = cfg.data == "" and cfg.prompts == ""
  local source = cfg.prompts ~= "" and own_model.prompts { path = cfg.prompts, seed = cfg.seed, held_out = 0.1 }
    or make and make(cfg) or embedded
    and data_sources.assistant { seed = cfg.seed, trade_off = cfg.trade_off, objectives = cfg.objectives, documents = cfg.documents,
      sft = cfg.sft.examples, comparisons = cfg.reward.prompts, answers = cfg.reward.answers,
      test_pairs = math.max(50, cfg.reward.prompts // 5) }
    or data_sources.hh_rlhf { path = cfg.data, seed = cfg.seed, objectives = cfg.objectives, prompt_chars = cfg.hh.prompt_chars,
      held_out = 0.1 }
  if cfg.sft.data ~= "" then
    source.sft = own_model.answers(cfg.sft.data, #cfg.objectives, source.is_held_out)
  end
  data_sources.check_objectives(cfg.objectives, source.known, functions)
  for _, name in ipairs(cfg.objectives) do
    if not functions[name] then
      source.check(name)
    end
  end
  own_model.check_trains(cfg, source.sft ~= nil and cfg.sft.steps > 0, functions)
  return source
end

--- stages.check_data(cfg): raises where there are no prompts, pairs or functions for the objectives, as stages.open does before it has a
-- directory.
function stages.check_data(cfg)
  local functions = reward_functions(cfg)
  for _, name in ipairs(cfg.objectives) do
    functions[name] = functions[name] or reward_path(cfg, name)
  end
  source_of(cfg, functions)
end

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

-- the shape of the model, for mocl.lm.model
local function shape(cfg, vocab_size)
  return {
    vocab_size = vocab_size, hidden_size = cfg.model.hidden_size, num_hidden_layers = cfg.model.layers,
    num_attention_heads = cfg.model.heads, intermediate_size = cfg.model.intermediate_size,
    max_position_embeddings = cfg.model.positions, tie_word_embeddings = true,
  }
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
  local rows, total = memory_plan.of { config = s, dtype = cfg.dtype, quantization = cfg.quantization ~= "none" and cfg.quantization or nil,
    trained = trained, rank = cfg.lora.r, rows = cfg.ppo.batch_size, prompt = math.min(longest, cfg.model.positions - cfg.ppo.max_new_tokens),
    answer = cfg.ppo.max_new_tokens }
  local own = o.method and cfg[o.method:gsub("%-%*$", "")]
  local list = estimate.stages(cfg, { speed = estimate.speed(s, cfg.device), models = models, grid = #grid, iterations = own and own.iterations,
    unseen = o.policies ~= "preference" and 20 or 0, policies = o.policies == "preference" and #grid or o.policies == "objective" and N or 1,
    -- the context of a model of one's own is far longer than prompts are
    row = cfg.init ~= "" and math.min(longest + cfg.ppo.max_new_tokens, cfg.model.positions) or nil })
  return estimate.text(list, { rows, total })
end

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

-- The model of a directory that this run made, or, as it was when this run began, that of init=.
local function load(ctx, dir, quantization)
  local options = { device = ctx.cfg.device, quantization = quantization }
  if dir ~= ctx.cfg.init then
    return assert(transformer.load(dir, options))
  end
  local model, message = digest.in_passing(transformer.load, dir, options)
  if not model then -- such as weights that are not finite, which only the reading of all of them shows
    error("init=" .. message, 0)
  end
  ctx.run:hash_input(dir)
  return model
end

-- Saves a model, whose files a stage then names as its output.
local function save(save_to, ...)
  assert(digest.in_passing(save_to, ...))
end

--- A status line for a stage of the run.
function stages.bar(ctx, label, total, start)
  return progress.new { label = label, total = total, start = start, quiet = ctx.run.quiet }
end

-- A line on stderr, unless the run is quiet.
local function say(ctx, text)
  if not ctx.run.quiet then
    io.stderr:write(text, "\n")
  end
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

--- Trains (or reads) the tokenizer: tokenizer.json. Options: tokenizer.vocab_size. Of a model of one's own (init=) the files of its
-- tokenizer are copied into the directory tokenizer. Sets ctx.tok.
function stages.tokenizer(ctx)
  if ctx.cfg.init ~= "" then
    ctx.run:stage("tokenizer", function(stage)
      own_model.copy_tokenizer(ctx.cfg, ctx.run:path "tokenizer")
      stage:output "tokenizer"
    end)
    ctx.tok = assert(tokenizer.load(ctx.run:path "tokenizer"))
    lm.write_as_chat(ctx.tok, own_model.chat(ctx.cfg, ctx.tok))
    return
  end
  local path = ctx.run:path "tokenizer.json"
  ctx.run:stage("tokenizer", function(stage)
    local texts = ctx.source.documents(rng.new(ctx.cfg.seed, "tokenizer texts"))
    local tok = tokenizer.train(texts, { vocab_size = ctx.cfg.tokenizer.vocab_size, special_tokens = { "<s>", "</s>" } })
    assert(tok:save(path))
    stage:output "tokenizer.json"
    return { vocab_size = tok:vocab_size() }
  end)
  ctx.tok = assert(tokenizer.load(path))
end

-- The bytes that a run on the cpu may take in all: what is free now beside what it holds; nil where that is not known.
local function room_of(cfg)
  local free = cfg.device == "cpu" and memory_plan.available()
  return free and free + tensor.memory().live or nil
end

--- Says on stderr what the policy's training will take of the device at most (mocl.lm.memory_plan), and refuses what there is no room
-- for; rows of a step are ppo.batch_size unless given. Sets ctx.trained, the number of parameters that a policy trains: adapter and value heads.
function stages.memory_plan(ctx, model, heads, rows)
  local o = ctx.cfg
  ctx.trained = 0
  for _, p in ipairs(heads and heads:parameters() or {}) do
    ctx.trained = ctx.trained + p:numel()
  end
  for _, p in ipairs(transformer.parameters(model, true)) do
    ctx.trained = ctx.trained + p:numel()
  end
  local list, total = memory_plan.of { config = model:config(), dtype = model:dtype(), quantization = model:quantization(),
    trained = ctx.trained, rank = o.lora.r, rows = rows or o.ppo.batch_size, prompt = ctx.longest_prompt, answer = o.ppo.max_new_tokens,
    microbatch = o.ppo.microbatch, gradient_checkpointing = o.ppo.gradient_checkpointing }
  memory_plan.refuse(list, total, room_of(o))
  say(ctx, memory_plan.text(list, total))
end

--- Leaves out prompts that, with tags and an answer of full length, do not fit the context; says how many.
function stages.fit_prompts(ctx)
  local cfg, n = ctx.cfg, #ctx.cfg.objectives
  local p = preference.grid(n)[1]
  local function length(prompt)
    local text, more = preference.relabel(prompt, p), 0
    local tokens = #lm.prompt(ctx.tok, text)
    if ctx.longest then
      text, more = ctx.longest(prompt, n)
      tokens = math.max(tokens, #lm.prompt(ctx.tok, text) + more)
    end
    return tokens
  end
  for _, list in ipairs { "train_prompts", "test_prompts" } do
    local kept = {}
    for _, prompt in ipairs(ctx.source[list]) do
      local tokens = length(prompt)
      if tokens + cfg.ppo.max_new_tokens <= cfg.model.positions then
        kept[#kept + 1] = prompt
        ctx.longest_prompt = math.max(ctx.longest_prompt or 0, tokens)
      end
    end
    local left = #ctx.source[list] - #kept
    if #kept == 0 then
      error(("no prompt fits: tags, prompt and ppo.max_new_tokens=%d answer tokens need more than model.positions=%d")
        :format(cfg.ppo.max_new_tokens, cfg.model.positions), 0)
    elseif left > 0 and not ctx.run.quiet then
      io.stderr:write(("%d of %d %s are longer than the context allows and are left out\n"):format(left, left + #kept,
        (list:gsub("_", " "))))
    end
    ctx.source[list] = kept
  end
end

-- What a saved model says of its tokenizer; one's own says it itself.
local function ids_of(ctx)
  return ctx.cfg.init == "" and { bos_token_id = ctx.tok:bos_id(), eos_token_id = ctx.tok:eos_id() } or {}
end

--- The steps of a mocl.lm.supervised as those of a stage of its name, with a checkpoint every cfg.save_every of them and at an
-- interruption; row(...) are the metrics, text(...) the status line of what a step gives; actor, if given, is saved beside it. Returns
-- the mean of the last losses.
function stages.steps(ctx, stage, label, trainer, row, text, actor)
  local t <close> = loop.new {
    run = ctx.run, stage = stage, label = label, unit = "step", total = trainer.steps, save_every = ctx.cfg.save_every,
    save = function(dir)
      trainer:save(dir)
      if actor then
        actor:save(dir)
      end
    end,
    state = function() return { trainer = trainer:state() } end,
  }
  if t.dir then
    trainer:load(t.dir, t.state.trainer)
  end
  for step = t.done + 1, trainer.steps do
    local loss, accuracy = trainer:step()
    t:step(step, row(loss, accuracy), text(loss, accuracy))
  end
  local mean = trainer:finish()
  t:finish()
  return mean
end

--- A model of the configured size with random weights; dir: a directory that it is saved in, or nil.
function stages.new_model(ctx, dir)
  local cfg = ctx.cfg
  local model = transformer.new(shape(cfg, ctx.tok:vocab_size()), { device = cfg.device, key = rng.key(cfg.seed, "model") })
  if dir then
    save(transformer.save, model, dir, ids_of(ctx))
  end
  return model
end

-- How a stage whose training goes by pieces is run (Run:stage).
local function spread(n)
  return n and n > 1 and "spread" or nil
end

--- Puts the files of the run's tokenizer into a directory that is a model's, where AutoTokenizer looks for them.
function stages.save_tokenizer(ctx, dir)
  local from = ctx.run:path "tokenizer"
  if ctx.cfg.init == "" then
    save(ctx.tok.save, ctx.tok, dir)
    return
  end
  for _, name in ipairs(assert(fs.list(from))) do
    save(fs.copy, fs.join(from, name), fs.join(dir, name))
  end
end

--- Trains a language model and saves it as directory `name`, with the run's tokenizer: from the model in the directory `from`, or from random
-- weights of the configured size; options {steps, batch_size, lr, weight_decay}; rows() gives {prompt, response}. o:
-- adapter, {r =, alpha =}, where an adapter is trained in place of all weights, saved as directory name-adapter
-- (PEFT) and merged into what is saved as `name`; quantization, of the frozen base below it.
function stages.language_model(ctx, name, from, options, rows, o)
  local cfg, run, adapter = ctx.cfg, ctx.run, o and o.adapter
  run:stage(name, function(stage)
    local model = from and load(ctx, from, o and o.quantization) or stages.new_model(ctx)
    local prompts, responses = lm.encode(ctx.tok, rows())
    if adapter then
      model:add_lora { r = adapter.r, alpha = adapter.alpha, key = rng.key(cfg.seed, name .. " lora") }
    else
      transformer.train_base(model)
    end
    local trainer <close> = lm.trainer {
      model = model, parameters = model:named_parameters(adapter and true or nil), prompts = prompts, responses = responses, seed = cfg.seed,
      purpose = name, steps = options.steps, batch_size = options.batch_size, lr = options.lr, max_tokens = cfg.model.positions,
      weight_decay = options.weight_decay, lr_name = name .. ".lr", pieces = options.pieces,
    }
    local loss = stages.steps(ctx, stage, name, trainer, function(value)
      return { ["loss/" .. name] = value }
    end, function(value)
      return ("loss %.3f"):format(value)
    end)
    if adapter then
      comm.lead("saving of " .. name .. "-adapter", save, lora.save, model, run:path(name .. "-adapter"), { base_model_name_or_path = from })
      stage:output(name .. "-adapter")
      model:merge_lora()
      if model:quantization() then
        model:dequantize() -- what the adapter was not on, if anything
      end
    end
    comm.lead("saving of " .. name, function()
      save(transformer.save, model, run:path(name), ids_of(ctx))
      stages.save_tokenizer(ctx, run:path(name))
    end)
    stage:clear()
    stage:output(name)
    return { loss = loss }
  end, spread(options.pieces))
end

--- The base model from the source's documents, or one's own (init=); the SFT model from that and the source's examples, where
-- it has some.
function stages.base_and_sft(ctx)
  local cfg, source = ctx.cfg, ctx.source
  local from = cfg.init
  if from == "" then
    from = ctx.run:path "base"
    stages.language_model(ctx, "base", nil, cfg.base, function()
      local rows = {}
      for i, text in ipairs(source.documents(rng.new(cfg.seed, "documents"))) do
        rows[i] = { response = text }
      end
      return rows
    end)
  end
  if source.sft and cfg.sft.steps > 0 then
    stages.language_model(ctx, "sft", from, cfg.sft, function()
      return source.sft(rng.new(cfg.seed, "sft"))
    end)
    return
  end
  ctx.run:stage("sft", function(stage) -- nothing to train on: the model as it is
    if own_model.format(cfg) and own_model.has_files(cfg) then -- loaded it would be as large as its floats
      own_model.copy_model(cfg, ctx.run:path "sft")
      ctx.run:hash_input(cfg.init)
    else
      save(transformer.save, load(ctx, from), ctx.run:path "sft", ids_of(ctx))
    end
    stage:output "sft"
  end)
end

-- A line on stderr about a reward model's held-out accuracy.
local function say_accuracy(ctx, name, held)
  say(ctx, ("reward %s: held-out accuracy %.3f (95%%: %.3f to %.3f, n %d)%s"):format(name, held.accuracy, held.low,
    held.high, held.n, held.rule_correlation and (", correlation with the rule %.3f"):format(held.rule_correlation) or ""))
end

local function train_reward_model(ctx, name)
  local cfg, run = ctx.cfg, ctx.run
  return run:stage("reward-" .. name, function(stage)
    local pairs_train, pairs_test = ctx.source.pairs(name)
    local trunk = assert(transformer.load(run:path "sft", { device = cfg.device }))
    local model = reward.model { trunk = trunk, tokenizer = ctx.tok }
    local compared, ties = model:comparable(pairs_test)
    if #compared == 0 then
      error(("reward model '%s': no held-out pair is left to test it with:\n"
        .. "the answers of all %d are the same once they are cut to model.positions=%d tokens"):format(name, ties, model.max_tokens), 0)
    end
    local trainer <close> = model:trainer {
      pairs = pairs_train, steps = cfg.reward.steps, batch_size = cfg.reward.batch_size, lr = cfg.reward.lr, seed = cfg.seed,
      purpose = "reward " .. name, lr_name = "reward.lr", pieces = cfg.reward.pieces,
    }
    if trainer.left_out + ties > 0 then
      say(ctx, ("reward model '%s': %d comparisons to train on and %d held-out ones are left out:\n"
        .. "their two answers are the same once they are cut to model.positions=%d tokens"):format(name, trainer.left_out, ties, model.max_tokens))
    end
    stages.steps(ctx, stage, "reward " .. name, trainer, function(loss, accuracy)
      return { ["loss/reward_" .. name] = loss, ["accuracy/" .. name] = accuracy }
    end, function(loss, accuracy)
      return ("loss %.3f accuracy %.2f"):format(loss, accuracy)
    end)
    model:freeze()
    local held = model:accuracy(compared)
    held.rule_correlation = ctx.source.rule_correlation(name, model)
    say_accuracy(ctx, name, held)
    comm.lead("saving of a reward model", save, model.save, model, run:path("reward-" .. name))
    stage:clear()
    stage:output("reward-" .. name)
    return held
  end, spread(cfg.reward.pieces))
end

-- The frozen model that all heads share: what the policy starts from.
local function trunk_of(ctx)
  ctx.trunk = ctx.trunk or assert(transformer.load(ctx.run:path "sft", { device = ctx.cfg.device }))
  return ctx.trunk
end

-- A head on the frozen model, of which the stage leaves the head alone.
local function fit_probe(ctx, name)
  local cfg, run = ctx.cfg, ctx.run
  return run:stage("reward-" .. name, function(stage)
    local pairs_train, pairs_test = ctx.source.pairs(name)
    pairs_train = table.move(pairs_train, 1, math.min(#pairs_train, cfg.reward.prompts), 1, {})
    pairs_test = table.move(pairs_test, 1, math.min(#pairs_test, math.max(10, cfg.reward.prompts // 3)), 1, {})
    local model = probe.new { trunk = trunk_of(ctx), tokenizer = ctx.tok, tokens = cfg.reward.tokens }
    local held = probe_stage.train(run, stage, name, model, pairs_train, pairs_test)
    held.rule_correlation = ctx.source.rule_correlation(name, model)
    say_accuracy(ctx, name, held)
    save(model.save, model, run:path("reward-" .. name))
    stage:clear()
    stage:output("reward-" .. name)
    return held
  end)
end

-- Whether a reward model is good enough to train a policy on; a warning where it is not, since a policy learns
-- to please a weak model sooner than to do well.
local function check_reward_model(ctx, name, held)
  local o, low = ctx.cfg.reward, {}
  if held.accuracy < o.min_accuracy then
    low[1] = ("held-out accuracy %.3f is below reward.min_accuracy=%g"):format(held.accuracy, o.min_accuracy)
  end
  if held.rule_correlation and held.rule_correlation < o.min_correlation then
    low[#low + 1] = ("correlation with the rule %.3f is below reward.min_correlation=%g"):format(held.rule_correlation, o.min_correlation)
  end
  held.passed = #low == 0
  if #low > 0 and not ctx.run.quiet then
    io.stderr:write(("warning: reward model '%s': %s; its figures may reward what is not meant. More reward.steps or reward.prompts help.\n")
      :format(name, table.concat(low, "; ")))
  end
end

local function load_probe(ctx, dir)
  return probe.load(dir, { trunk = trunk_of(ctx), tokenizer = ctx.tok })
end

local function load_reward_model(ctx, dir)
  return reward.load(dir, ctx.tok, { device = ctx.cfg.device })
end

--- One reward per objective: a function of the table `functions`, or a reward model started from the SFT model.
-- Sets ctx.rewards, and ctx.checks: held-out accuracy of the models, and whether it is what was asked (passed).
-- Options: reward.min_accuracy, reward.min_correlation.
function stages.rewards(ctx, functions)
  ctx.rewards, ctx.checks = {}, {}
  for j, name in ipairs(ctx.cfg.objectives) do
    local f = functions[name]
    if not f then
      local dir, frozen = ctx.run:path("reward-" .. name), ctx.cfg.reward.trunk == "frozen"
      ctx.checks[name] = (frozen and fit_probe or train_reward_model)(ctx, name)
      check_reward_model(ctx, name, ctx.checks[name])
      f = assert((frozen and load_probe or load_reward_model)(ctx, dir))
    end
    ctx.rewards[j] = { name = name, f = f }
  end
end

--- Tokenizer, base model, SFT model and rewards: all that a method starts from.
function stages.models(ctx)
  stages.tokenizer(ctx)
  stages.fit_prompts(ctx)
  stages.base_and_sft(ctx)
  stages.rewards(ctx, ctx.functions)
end

--- The policy as an actor of mocl.train.trainer: the SFT model, in the format of quantization=, with a fresh adapter, and a value head
-- per objective. Says on stderr what
-- its training will take of the device at most (mocl.lm.memory_plan). o: heads, the number of value heads in place of one per
-- objective; 0: no critic; rows, of a step, in place of ppo.batch_size. Sets ctx.policy.
function stages.actor(ctx, o)
  local cfg = ctx.cfg
  local n = o and o.heads or #cfg.objectives
  local model = assert(transformer.load(ctx.run:path "sft", { device = cfg.device, dtype = cfg.dtype,
    quantization = own_model.format(cfg) }))
  model:add_lora { r = cfg.lora.r, alpha = cfg.lora.alpha, layers_to_transform = lora.last_layers(model, cfg.lora.layers),
    key = rng.key(cfg.seed, "lora") }
  local heads = n > 0 and value_heads.new(n, model:config().hidden_size, { key = rng.key(cfg.seed, "value heads"), device = cfg.device }) or nil
  ctx.policy = policy.new { model = model, tokenizer = ctx.tok, max_new_tokens = cfg.ppo.max_new_tokens, temperature = cfg.ppo.temperature }
  if not ctx.planned then
    stages.memory_plan(ctx, model, heads, o and o.rows)
    ctx.planned = true
  end
  return lm_actor.new { policy = ctx.policy, heads = heads, base = ctx.run:path "sft", microbatch = cfg.ppo.microbatch,
    gradient_checkpointing = cfg.ppo.gradient_checkpointing }
end

local JUDGED = { ["sft evaluation"] = true, evaluation = true } -- purposes of measure that eval.fluency and eval.blind are about

-- answers of the policy under each preference
local function measure(ctx, preferences, purpose, prompts, n, adapter, o)
  local line = stages.bar(ctx, purpose, #preferences)
  local list = ctx.policy:measure_all(preferences, {
    prompts = prompts, n = n, seed = ctx.cfg.seed, purpose = purpose, adapter = adapter, rewards = ctx.rewards,
    audit = ctx.source.audit, before = o and o.before, answer = o and o.answer, fluency = JUDGED[purpose] and ctx.cfg.eval.fluency,
    blind = JUDGED[purpose] and ctx.blind or nil,
    on_step = function(i)
      line:update(i)
    end,
  })
  line:done()
  return list
end

local function keep_samples(ctx, name, step, list)
  for i, m in ipairs(list) do
    for _, s in ipairs(m.sample) do
      ctx.run:sample { model = name, step = step, preference = ctx.grid[i],
        prompt = s.prompt, response = s.response, rewards = policy.normalize(s.rewards, ctx.sft.statistics) }
    end
  end
end

-- how the normalised rewards of raw rows are distributed, per objective; 12 deviations of the SFT model either way, or
-- as many units of a reward that did not vary
local function histograms(rows, statistics)
  local out, constant, normalized = {}, policy.constant(statistics), {}
  for i, row in ipairs(rows) do
    normalized[i] = policy.normalize(row, statistics)
  end
  for j = 1, #statistics.mean do
    local middle = constant and constant[j] and statistics.mean[j] or 1
    local half = math.max(6, 1e-6 * math.abs(middle)) -- 6 is nothing beside 1e17
    out[j] = metrics.histogram(metrics.column(normalized, j), middle - half, middle + half, 120)
  end
  return out
end

-- What eval.fluency says of answers under each preference, their mean; nil without it.
local function fluency_of(list)
  local all = {}
  for i, m in ipairs(list) do
    all[i] = m.fluency or nil
  end
  return #all > 0 and fluency.mean(all) or nil
end

-- The mean over the preferences of what eval.blind says; nil without it.
local function blind_of(list)
  local sum = list[1].blind and 0
  for _, m in ipairs(sum and list or {}) do
    sum = sum + m.blind / #list
  end
  return sum or nil
end

-- Means over the preferences, null where the rule does not know the objective.
local function rule_means(rows)
  local out = {}
  for j, first in ipairs(rows[1]) do
    out[j] = first
    if first ~= json.null then
      out[j] = 0
      for _, row in ipairs(rows) do
        out[j] = out[j] + row[j] / #rows
      end
    end
  end
  return out
end

-- The names of objectives whose reward was the same for every answer of the SFT model, which is said; nil where none
-- was.
local function constant_objectives(ctx, statistics)
  local names, flags = {}, policy.constant(statistics)
  for j, r in ipairs(flags and ctx.rewards or {}) do
    if flags[j] then
      names[#names + 1] = r.name
      say(ctx, ("warning: reward '%s' is %g for every answer of the SFT model: there is no deviation to normalise by, so its "
        .. "figures stay raw,\nand what no answer earns is hard to learn"):format(r.name, statistics.mean[j]))
    end
  end
  return #names > 0 and names or nil
end

--- The SFT model's own answers: the statistics that every figure is given in (equation 18, frozen; 1 = the SFT
-- mean), what the running statistics start from, and the SFT model's figures. Sets ctx.sft.
function stages.sft_answers(ctx)
  ctx.sft = ctx.run:stage("sft-answers", function()
    local start, all, stats = {}, {}, { mean = {}, std = {} }
    for _, m in ipairs(measure(ctx, ctx.grid, "sft statistics", ctx.source.train_prompts, math.ceil(ctx.cfg.eval.statistics / #ctx.grid), false)) do
      table.move(m.rows, 1, #m.rows, #start + 1, start)
    end
    local list = measure(ctx, ctx.grid, "sft evaluation", ctx.source.test_prompts, ctx.cfg.eval.answers, false)
    for _, m in ipairs(list) do
      table.move(m.rows, 1, #m.rows, #all + 1, all)
    end
    for j = 1, #ctx.rewards do
      stats.mean[j], stats.std[j] = metrics.mean_std(metrics.column(all, j))
    end
    ctx.sft = { statistics = stats }
    local constant = constant_objectives(ctx, stats)
    keep_samples(ctx, "sft", 0, list)
    local f = policy.figures(ctx.grid, list, stats)
    local figures = {
      rewards = metrics.mean_rows(f.rewards), rewards_raw = stats.mean, rewards_std = metrics.mean_rows(f.rewards_std), hypervolume = f.hypervolume,
      mean_pairwise_distance = f.mean_pairwise_distance, kendall_tau = f.kendall_tau, per_preference = f.rewards,
      fluency = fluency_of(list), blind = blind_of(list),
    }
    if f.rule then
      figures.rule = { rewards = f.rule.rewards and rule_means(f.rule.rewards), malformed = metrics.mean_std(f.rule.malformed),
        hypervolume = f.rule.hypervolume }
    end
    return { statistics = stats, constant = constant, start = start, figures = figures, histograms = histograms(all, stats) }
  end, "spread")
end

local BATCH = 256 -- answers generated at a time

--- Answers of the policy with their rewards, as a stage of the run that leaves the file NAME.jsonl: a list of {prompt=, response=,
-- rewards=}. o: n answers to prompts drawn from those to train on, with replacement; text(prompt, i), what the policy is shown for the
-- i-th answer; each (1), how many answers in a row are to one prompt; adapter false: answers of the SFT model.
function stages.answers(ctx, name, o)
  local path = ctx.run:path(name .. ".jsonl")
  ctx.run:stage(name, function(stage)
    local r, rows, line, prompt = rng.new(ctx.cfg.seed, name), {}, stages.bar(ctx, name, o.n), nil
    for first = 1, o.n, BATCH do
      local scope <close> = tensor.scope()
      local prompts, texts = {}, {}
      for i = first, math.min(o.n, first + BATCH - 1) do
        prompt = (i - 1) % (o.each or 1) == 0 and r:choice(ctx.source.train_prompts) or prompt
        prompts[#prompts + 1], texts[#texts + 1] = prompt, o.text(prompt, i)
      end
      local responses = ctx.policy:answer(texts, { key = rng.key(ctx.cfg.seed, name .. " " .. first), adapter = o.adapter })
      for i, rewards in ipairs(reward.table(ctx.rewards, prompts, responses)) do
        rows[#rows + 1] = { prompt = prompts[i], response = responses[i], rewards = rewards }
      end
      line:update(#rows)
    end
    line:done()
    assert(data.write_jsonl(path, rows, { replace_invalid = true }))
    stage:output(name .. ".jsonl")
  end)
  return assert(data.read_jsonl(path)) -- always from the file, where bytes that are no text have been replaced
end

--- Trains the adapter of a policy on answers by maximum likelihood, as a stage of the run: from the adapter of the stage `from`, or
-- where that is nil from a fresh one. rows() -> list of {prompt=, response=}; options {steps, batch_size, lr, lr_scheduler_type, lr_name}.
-- The loss is the mean of -log p of the answers' tokens. Returns {loss=, rows=, their number, example=, the first of them}.
function stages.adapt(ctx, name, from, options, rows)
  return ctx.run:stage(name, function(stage)
    local actor = stages.actor(ctx, { heads = 0, rows = options.batch_size })
    if from then
      stages.load_policy(ctx, from)
    end
    local model = ctx.policy.model
    local list = rows()
    local prompts, responses = lm.encode(ctx.tok, list)
    local trainer <close> = lm.trainer { model = model, parameters = model:named_parameters(true), prompts = prompts, responses = responses,
      seed = ctx.cfg.seed, purpose = name, steps = options.steps, batch_size = options.batch_size, lr = options.lr,
      lr_name = options.lr_name, lr_scheduler_type = options.lr_scheduler_type, max_tokens = ctx.cfg.model.positions }
    return { loss = stages.steps(ctx, stage, name, trainer, function(value)
      return { ["loss/" .. name] = value }
    end, function(value)
      return ("loss %.3f"):format(value)
    end, actor), rows = #list, example = list[1] }
  end)
end

--- Puts the adapter of a stage's last checkpoint into the policy, or, while stages.evaluation measures earlier ones, that of their
-- step; o: name= of lora.load.
function stages.load_policy(ctx, stage, o)
  assert(lora.load(ctx.policy.model, assert(ctx.run:latest(stage, ctx.at), "no checkpoint of the policy"), o))
end

-- The figures of each checkpoint that is left of the stages `trained`, which go forward together: a list of {samples, hypervolume,
-- kendall_tau, mean_pairwise_distance, rule_hypervolume}.
local function curve(ctx, trained, o)
  return ctx.run:stage("curve", function()
    local cfg, points = ctx.cfg, json.array()
    for _, step in ipairs(ctx.run:steps(trained[1])) do
      ctx.at = step
      o.load()
      local f = policy.figures(ctx.grid, measure(ctx, ctx.grid, "curve", ctx.source.test_prompts, cfg.eval.curve_answers, true, o),
        ctx.sft.statistics)
      points[#points + 1] = { samples = step * #trained * cfg.ppo.batch_size, hypervolume = f.hypervolume, kendall_tau = f.kendall_tau,
        mean_pairwise_distance = f.mean_pairwise_distance, rule_hypervolume = f.rule and f.rule.hypervolume }
    end
    ctx.at = nil
    return { points = points }
  end, "spread").points
end

--- The policy with the adapter of the method's last checkpoint, under the grid and under unseen preferences: the figures of
-- result.json, and one answer per preference in `shown`. steps is the number of steps that samples.jsonl gives its answers. o:
-- load(), which puts the policy of ctx.at's step, or the last one, into ctx.policy (the method's checkpoint; nothing, with before);
-- before(p, i), which makes the adapter of a preference the active one in place of that of the checkpoint, and may return a
-- preference that the tags show in place of p; answer(prompts, p, key), of a method that answers in its own way (Policy:measure); name, of
-- the policy in samples.jsonl; unseen=false, where only those of the grid have a policy; trained, the stages whose checkpoints together are
-- a policy (the method's), or false where there are no checkpoints of it to measure over samples (eval.curve_answers).
function stages.evaluation(ctx, steps, o)
  o = setmetatable({}, { __index = o })
  o.load = o.load or function()
    if not o.before and not o.answer then
      stages.load_policy(ctx, ctx.method)
    end
  end
  local trained = o.trained
  if trained == nil then
    trained = not o.before and not o.answer and { ctx.method }
  end
  local points = trained and ctx.cfg.eval.curve_answers > 0 and curve(ctx, trained, o) or nil
  o.load()
  return ctx.run:stage("evaluation", function()
    local cfg, n = ctx.cfg, #ctx.rewards
    local list = measure(ctx, ctx.grid, "evaluation", ctx.source.test_prompts, cfg.eval.answers, true, o)
    local figures = policy.figures(ctx.grid, list, ctx.sft.statistics)
    figures.curve = points
    figures.shown, figures.unseen = {}, { groups = {} }
    for i, m in ipairs(list) do
      figures.shown[i] = { prompt = m.sample[1].prompt, response = m.sample[1].response }
    end
    keep_samples(ctx, o.name or ctx.method, steps, list)
    local rows = {}
    for _, m in ipairs(list) do
      table.move(m.rows, 1, #m.rows, #rows + 1, rows)
    end
    figures.constant, figures.fluency = ctx.sft.constant, fluency_of(list)
    figures.blind, figures.sft_blind = blind_of(list), ctx.sft.figures.blind
    if figures.fluency then
      figures.fluency.sft_perplexity, figures.fluency.sft_distinct_2 = ctx.sft.figures.fluency.perplexity, ctx.sft.figures.fluency.distinct_2
    end
    figures.histograms = { before = ctx.sft.histograms, after = histograms(rows, ctx.sft.statistics) }
    for g, group in ipairs(cfg.eval.unseen_answers > 0 and o.unseen ~= false and n > 1 and preference.unseen_groups(n) or {}) do
      local unseen = measure(ctx, group, "unseen " .. g, ctx.source.test_prompts, cfg.eval.unseen_answers, true, o)
      local f = policy.figures(group, unseen, ctx.sft.statistics)
      figures.unseen.groups[g] = { preferences = group, rewards = f.rewards, hypervolume = f.hypervolume,
        kendall_tau = f.kendall_tau }
    end
    return figures
  end, "spread")
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
