--- mocl.train.stage_options: the options of the stages of a language-model run: their rows, presets and defaults, what
-- each stage depends on, and in which of them a run may differ from another whose stages it takes. It makes no model.
-- `stages` is here the part of mocl.train.stages that this file has; mocl.train.stages exports what recipes use of it.

local config = require "mocl.run.config"
local data_sources = require "mocl.data.sources"
local from_run = require "mocl.run.from_run"
local lm_actor = require "mocl.train.lm_actor"
local own_model = require "mocl.lm.own_model"
local run_options = require "mocl.run.options"
local POLICY_GRADIENT = require("mocl.train.trainer").OPTIONS

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
--- The shape of the model that the options describe, for mocl.lm.model.
function stages.shape(cfg, vocab_size)
  return {
    vocab_size = vocab_size, hidden_size = cfg.model.hidden_size, num_hidden_layers = cfg.model.layers,
    num_attention_heads = cfg.model.heads, intermediate_size = cfg.model.intermediate_size,
    max_position_embeddings = cfg.model.positions, tie_word_embeddings = true,
  }
end

return stages
