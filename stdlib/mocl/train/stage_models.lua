--- mocl.train.stage_models: the stages of a language-model run that train its models: tokenizer, base, SFT and reward
-- models, adapters on answers; and the policy as an actor, with a fresh adapter or with that of a stage. What its answers
-- are worth is measured in mocl.train.stage_measures.
-- `stages` is here the part of mocl.train.stages that this file has; mocl.train.stages exports what recipes use of it.

local comm = require "mocl.comm"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local lm = require "mocl.lm.sft"
local lm_actor = require "mocl.train.lm_actor"
local lora = require "mocl.lm.lora"
local memory_plan = require "mocl.lm.memory_plan"
local own_model = require "mocl.lm.own_model"
local policy = require "mocl.lm.policy"
local probe = require "mocl.lm.probe"
local probe_stage = require "mocl.train.probe_stage"
local preference = require "mocl.preference"
local progress = require "mocl.run.progress"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local loop = require "mocl.train.loop"
local transformer = require "mocl.lm.model"
local value_heads = require "mocl.train.value_heads"
local shape = require "mocl.train.stage_options".shape

local stages = {}

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

--- A line on stderr, unless the run is quiet.
function stages.say(ctx, text)
  if not ctx.run.quiet then
    io.stderr:write(text, "\n")
  end
end
local say = stages.say

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

--- What training a policy takes of the device at most, as memory_plan.of has it. o: config, dtype and quantization of the model, trained,
-- rows and prompt; the rest is the options'.
function stages.plan(cfg, o)
  return memory_plan.of { config = o.config, dtype = o.dtype, quantization = o.quantization, trained = o.trained, rows = o.rows, prompt = o.prompt,
    rank = cfg.lora.r, answer = cfg.ppo.max_new_tokens, microbatch = cfg.ppo.microbatch, gradient_checkpointing = cfg.ppo.gradient_checkpointing }
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
  local list, total = stages.plan(o, { config = model:config(), dtype = model:dtype(), quantization = model:quantization(),
    trained = ctx.trained, rows = rows or o.ppo.batch_size, prompt = ctx.longest_prompt })
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

return stages
