--- moc_hh: Multi-Objective Control of a language model, from text to one policy that follows a preference.
--
--   mocl recipes/moc_hh.lua                                   the embedded task, humor against helpful
--   mocl recipes/moc_hh.lua objectives=harmless,helpful       or all three
--   mocl recipes/moc_hh.lua data=../shared/data/prefs/hh-rlhf objectives=harmless,helpful
--   mocl recipes/moc_hh.lua preset=smoke out=/tmp/x           every stage, tiny, in seconds
--
-- Stages: tokenizer, base model, reward models, SFT, MOC, evaluation; each is kept in the run directory and
-- reused. The MOC stage is Algorithm 1 of the paper, read as docs/algorithm.md section 3 says.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local config = require "mocl.run.config"
local Control = require "mocl.method.control"
local control_log = require "mocl.method.control_log"
local data_sources = require "mocl.data.sources"
local deck = require "mocl.data.deck"
local finite = require "mocl.finite"
local kl_controller = require "mocl.method.kl_controller"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local own_model = require "mocl.lm.own_model"
local policy = require "mocl.lm.policy"
local ppo = require "mocl.train.ppo"
local preference = require "mocl.method.preference"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local Run = require "mocl.run"
local stages = require "mocl.train.stages"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local training = require "mocl.train.loop"
local transformer = require "mocl.lm.model"

local schema = {
  { "data", "", "directory of HH-RLHF files; empty: the embedded task" },
  { "objectives", { "humor", "helpful" }, "names of the rewards, in the order of the weights" },
  { "trade_off", "rising", "embedded task: worth of the k-th joke or tip", choices = { "rising", "equal", "diminishing" } },
  { "rewards", "", "Lua file that returns {name = function(prompts, responses) -> numbers}, used in place of models" },
  { "from", nil, "directory of a run whose tokenizer, base, SFT and reward models are taken", type = "string" },
  { "init", "", "Hugging Face directory or GGUF file of a model in place of the base model that is trained" },
  { "tokenizer.path", "", "with init: its tokenizer, a file or directory; empty: the model's own", alias = "tokenizer" },
  { "prompts", "", "with init and rewards: file of prompts, one a line, or objects with a \"prompt\" in a .jsonl" },
  { "documents", 8000, "texts for tokenizer and base model (embedded task)", min = 10 },
  { "tokenizer.vocab_size", 900, "entries of the byte-level BPE", min = 300 },
  { "model.hidden_size", 64, "width D", min = 8 },
  { "model.layers", 2, "blocks", min = 1 },
  { "model.heads", 4, "attention heads", min = 1 },
  { "model.intermediate_size", 176, "width of the SwiGLU layer", min = 8 },
  { "model.positions", 96, "context in tokens", min = 16 },
  { "save_every", 200, "steps between checkpoints of the base, SFT and reward models", min = 1 },
  { "base.steps", 1500, "pretraining steps", min = 1 },
  { "base.batch_size", 32, "documents a step", min = 1 },
  { "base.lr", 6e-3, "peak step size", min = 0 },
  { "reward.prompts", 10000, "prompts with answers to compare, per objective (embedded task)", min = 10 },
  { "reward.answers", 8, "answers to each of them, all compared with each other (embedded task)", min = 2 },
  { "reward.steps", 4000, "steps per reward model", min = 1 },
  { "reward.batch_size", 8, "prompts a step; of files: pairs", min = 1 },
  { "reward.lr", 2e-3, "peak step size", min = 0 },
  { "reward.min_accuracy", 0.85, "held-out accuracy under which the run warns", min = 0, max = 1 },
  { "reward.min_correlation", 0.95, "embedded task: the same for the correlation with the rule", min = -1, max = 1 },
  { "sft.data", "", "a .jsonl file of {prompt, response} to train the SFT model on; with prompts and without it none is trained" },
  { "sft.examples", 8000, "examples (embedded task)", min = 10 },
  { "sft.steps", 1000, "steps", min = 1 },
  { "sft.batch_size", 32, "examples a step", min = 1 },
  { "sft.lr", 2e-3, "peak step size", min = 0 },
  { "dtype", "f32", "of the policy's base and its activations in the MOC stage; bf16 needs device=cuda", choices = { "f32", "bf16" } },
  { "lora.r", 16, "rank of the adapter on all linear layers", min = 1 },
  { "lora.alpha", 32, "its scale is alpha / r", min = 0 },
  { "lora.layers", 1, "the last blocks, this many, get the adapter; 0: all", min = 0 },
  { "ppo.batch_size", 128, "answers an iteration", min = 1 },
  { "ppo.ppo_epochs", 4, "passes over a batch", min = 1 },
  { "ppo.lr", 4e-3, "Adam step size", min = 0 },
  { "ppo.warmup", 5, "iterations of linear warm-up", min = 0 },
  { "ppo.lr_scheduler_type", "linear", "after the warm-up; linear: to 0 after the last iteration", choices = { "constant", "linear" } },
  { "ppo.cliprange", 0.2, "range of the clipped surrogate", min = 1e-3 },
  { "ppo.vf_coef", 0.25, "weight of the mean squared value error", min = 0 },
  { "ppo.gamma", 1.0, "discount", min = 0, max = 1 },
  { "ppo.lam", 0.95, "GAE lambda", min = 0, max = 1 },
  { "ppo.init_kl_coef", 0.2, "weight beta of the exact KL to the SFT model", min = 0 },
  { "ppo.target", 6.0, "KL per answer that beta adapts to", min = 1e-6 },
  { "ppo.horizon", 1200.0, "answers over which beta adapts", min = 1 },
  { "ppo.min_kl_coef", 0.05, "beta does not fall below", min = 0 },
  { "ppo.kl_penalty", "full", "KL in the loss: exact over the vocabulary, or the k2 estimate", choices = { "full", "k2" } },
  { "ppo.kl_in_reward", false, "TRL's way instead: -beta (logp - logp_ref) per token inside each reward" },
  { "ppo.max_grad_norm", 1.0, "clip of the gradient norm", min = 0 },
  { "ppo.max_new_tokens", 26, "tokens of an answer", min = 1 },
  { "ppo.temperature", 1.0, "sampling temperature, also that of the log-probabilities", min = 1e-3 },
  { "moc.iterations", 320, "PPO iterations", min = 1 },
  { "moc.tag_noise", 0.04, "half of the tags of line 4 differ from p by up to this", min = 0, max = 0.5 },
  { "moc.save_every", 20, "iterations between checkpoints", min = 1 },
  { "eval.answers", 1024, "answers per preference", min = 1 },
  { "eval.unseen_answers", 512, "answers per unseen preference; 0 leaves them out", min = 0 },
  { "hh.prompt_chars", 260, "HH-RLHF: longer prompts are left out", min = 20 },
}
table.move(training.options(Control.OPTIONS, "control.", { range = true, phi = 1e-3, floor = 0.25, scale = 3.0, negative = true, interior = 0.0 }), 1, #Control.OPTIONS, #schema + 1, schema)

local meta = {
  recipe = "moc_hh", doc = "Multi-Objective Control of a language model (docs/algorithm.md)", presets = {
    smoke = { documents = 300, ["tokenizer.vocab_size"] = 400, ["model.hidden_size"] = 16, ["model.heads"] = 2,
      ["model.intermediate_size"] = 32, ["model.positions"] = 256, save_every = 2, ["base.steps"] = 4, ["reward.prompts"] = 30, ["reward.steps"] = 4,
      ["reward.min_accuracy"] = 0.0, ["reward.min_correlation"] = -1.0, ["reward.batch_size"] = 4,
      ["sft.examples"] = 60, ["sft.steps"] = 4, ["ppo.batch_size"] = 16, ["moc.iterations"] = 3, ["moc.save_every"] = 2,
      ["eval.answers"] = 8, ["eval.unseen_answers"] = 4, ["ppo.max_new_tokens"] = 8 },
    reading_a = Control.READING_A,
    reading_b = Control.READING_B,
    paper = Control.PAPER,
    hh = { ["tokenizer.vocab_size"] = 2048, ["model.hidden_size"] = 128, ["model.layers"] = 4, ["model.heads"] = 4, ["lora.layers"] = 0,
      ["model.intermediate_size"] = 344, ["model.positions"] = 192, ["base.steps"] = 1200, ["base.batch_size"] = 16,
      ["base.lr"] = 3e-3, ["reward.steps"] = 200, ["reward.batch_size"] = 16, ["reward.lr"] = 3e-4,
      ["reward.min_accuracy"] = 0.55, ["sft.steps"] = 300, ["sft.batch_size"] = 16, ["sft.lr"] = 1e-3,
      ["ppo.batch_size"] = 64, ["ppo.max_new_tokens"] = 40, ["ppo.lr"] = 1e-3, ["ppo.lr_scheduler_type"] = "constant", ["ppo.min_kl_coef"] = 0.01,
      ["moc.iterations"] = 100, ["control.scale"] = 1.0, ["control.least_range"] = 1.0,
      ["eval.answers"] = 256, ["eval.unseen_answers"] = 128 },
  },
}
schema = config.common(schema)
local cfg, info = config.parse(schema, stages.arguments(schema, arg, meta), meta)

-- ---- what the run is about ----

local N, seed, device = #cfg.objectives, cfg.seed, cfg.device
own_model.fill(cfg, info.given)
stages.check(cfg)
stages.open_device(cfg)
local functions, no_functions = {}, nil
if cfg.rewards ~= "" then
  functions, no_functions = reward.functions(cfg.rewards)
  if not functions then
    error("rewards: " .. no_functions, 0)
  end
end
local embedded = cfg.data == "" and cfg.prompts == ""
local source = cfg.prompts ~= "" and own_model.prompts { path = cfg.prompts, seed = seed, held_out = 0.1 } or embedded and data_sources.assistant {
  seed = seed, trade_off = cfg.trade_off, objectives = cfg.objectives, documents = cfg.documents,
  sft = cfg.sft.examples, comparisons = cfg.reward.prompts, answers = cfg.reward.answers, test_pairs = math.max(50, cfg.reward.prompts // 5),
} or data_sources.hh_rlhf {
  path = cfg.data, seed = seed, objectives = cfg.objectives, prompt_chars = cfg.hh.prompt_chars, held_out = 0.1,
}
if cfg.sft.data ~= "" then
  source.sft = own_model.answers(cfg.sft.data, N, source.is_held_out)
end
data_sources.check_objectives(cfg.objectives, source.known, functions)
for _, name in ipairs(cfg.objectives) do
  if not functions[name] then
    source.check(name)
  end
end
reward.try(functions, cfg.objectives, source.train_prompts)

local depends = stages.depends { moc = { "rewards", "dtype", "lora", "ppo", "moc", "control" } }
local given = cfg.from and stages.from_run(cfg, info, functions, depends)

local run <close> = Run.open { recipe = "moc_hh", cfg = cfg, info = info, main = "moc", platform = sys.env(),
  depends = depends, volatile_keys = stages.VOLATILE,
  out = not cfg.out and cfg.data ~= "" and "runs/moc_hh/hh-rlhf" or nil }
if run.complete then
  io.write(run.out, " holds this run, complete:\n")
  stages.say_changed(run)
  return stages.show(run)
end
stages.hash_inputs(run, cfg)
if cfg.rewards ~= "" then
  run:hash_input(cfg.rewards, "rewards")
end

if given then
  given:give(run)
end

local ctx = { run = run, cfg = cfg, source = source, grid = preference.grid(N) }
stages.tokenizer(ctx)
stages.fit_prompts(ctx)
stages.base_and_sft(ctx)
stages.rewards(ctx, functions)
local rewards, grid = ctx.rewards, ctx.grid

-- the policy: the SFT model with an adapter, and N value heads; with the adapter off it is the reference
local model = assert(transformer.load(run:path "sft", { device = device, dtype = cfg.dtype }))
model:add_lora { r = cfg.lora.r, alpha = cfg.lora.alpha, layers_to_transform = lora.last_layers(model, cfg.lora.layers),
  key = rng.key(seed, "lora") }
local frozen = cfg.lora.layers > 0 and cfg.model.layers - cfg.lora.layers or 0
local heads = ppo.value_heads(N, model:config().hidden_size, { key = rng.key(seed, "value heads"), device = device })
local actor = policy.new { model = model, tokenizer = ctx.tok, max_new_tokens = cfg.ppo.max_new_tokens, temperature = cfg.ppo.temperature }
ctx.actor = actor
stages.memory_plan(ctx, model, heads)
stages.sft_answers(ctx)

-- ---- Algorithm 1 ----

local outcome = run:stage("moc", function(stage)
  local prompts = deck.new(rng.new(seed, "prompts"), source.train_prompts)
  local preferences = preference.deck(rng.new(seed, "preferences"), grid)
  local control = Control.new(cfg.control, N, grid, ctx.sft.start)
  local beta = kl_controller.adaptive { init_kl_coef = cfg.ppo.init_kl_coef, target = cfg.ppo.target, horizon = cfg.ppo.horizon,
    min = cfg.ppo.min_kl_coef }
  local log, opt = nil, nil
  local t <close> = training.new { -- Ctrl-C and SIGTERM finish the iteration, save and end the run
    run = run, stage = stage, label = "moc", unit = "iteration", total = cfg.moc.iterations, save_every = cfg.moc.save_every,
    save = function(dir) ppo.save(dir, { model = model, heads = heads, optimizer = opt, base = run:path "sft" }) end,
    state = function()
      return { prompts = prompts:state(), preferences = preferences:state(), control = control:state(), beta = beta:state(), log = log.totals }
    end,
  }
  if t.dir then
    assert(lora.load(model, t.dir))
    assert(heads:load(t.dir .. "/value_heads.safetensors"))
    prompts:restore(t.state.prompts)
    preferences:restore(t.state.preferences)
    control:restore(t.state.control)
    beta = kl_controller.restore(t.state.beta)
  end
  log = control_log.new(cfg.objectives, ctx.sft.statistics, t.state and t.state.log)
  local parameters = model:named_parameters(true)
  table.move(heads:named_parameters(), 1, 4 * N, #parameters + 1, parameters)
  opt = optim.adamw(parameters, { lr = cfg.ppo.lr })
  if t.dir then
    assert(ppo.load_optimizer(opt, t.dir .. "/optimizer.safetensors"))
  end

  local function update(iteration) -- lines 2 to 10; returns a row of metrics and the status line
    local scope <close> = tensor.scope()
    local plain = prompts:deal(cfg.ppo.batch_size) -- line 2
    local prefs, places = preferences:deal(cfg.ppo.batch_size) -- line 3
    local texts, noise = {}, rng.new(seed, "tags " .. iteration)
    for i, prompt in ipairs(plain) do -- line 4, equation 3; docs/algorithm.md says why with noise
      texts[i] = preference.relabel(prompt, noise:uniform() < 0.5 and prefs[i] or preference.jitter(noise, prefs[i], cfg.moc.tag_noise))
    end
    local responses, ids, old = actor:answer(texts, { key = rng.key(seed, "rollout " .. iteration) }) -- line 5

    -- line 6: rewards; R is their normalisation by equation 18's running statistics
    local raw = {}
    for j, r in ipairs(rewards) do
      for i, score in ipairs(reward.call(r.f, r.name, plain, responses)) do
        raw[i] = raw[i] or {}
        raw[i][j] = score
      end
    end
    local R = control:observe(raw, places)

    -- line 7: one advantage per objective and token; A minus its mean over tokens
    local batch = transformer.pack(ids.prompts, ids.tokens, { device = device })
    -- blocks in front of the first adapter compute the same for policy and reference in every epoch: once
    local stem = tensor.no_grad(model.forward, model, batch, { stop = frozen })
    local function states(adapter)
      return model:forward(batch, { adapter = adapter, rows = batch.rows, hidden = stem, start = frozen })
    end
    local reference = tensor.no_grad(states, false)
    local first = states(true) -- the first epoch's, and what the values see
    local values = heads:forward(first:detach()):detach()
    local token_rewards = ppo.terminal(R, batch)
    local logp_ref = nn.lm_head(reference, model:head(), batch.targets, { temperature = cfg.ppo.temperature, entropy = false })
    if cfg.ppo.kl_in_reward then
      token_rewards = token_rewards - ppo.kl_estimate(old, logp_ref, "k1"):unsqueeze(2) * beta:value()
    end
    local adv, returns = ppo.gae(token_rewards, values, batch.response_offsets, { gamma = cfg.ppo.gamma, lam = cfg.ppo.lam })
    adv = adv - adv:mean(1, true)
    finite.number(adv:square():mean():item(), "the mean square of the advantages")

    -- line 8: c from the surrogate problem (equation 12) at z = 1, where I(A) = A; mocl.method.control
    local solved = control:solve(adv, batch, prefs, places)
    local combined = (adv * solved.w):sum(2) -- sum_j w_j A_j: combine first, then clip

    -- lines 9 and 10: equation 7's scalarised clipped loss, the KL inside J and so weighted by c, value heads
    local lr = cfg.ppo.lr * math.min(1, iteration / math.max(1, cfg.ppo.warmup),
      cfg.ppo.lr_scheduler_type == "linear" and (cfg.moc.iterations - iteration + 1) / math.max(1, cfg.moc.iterations - cfg.ppo.warmup) or 1)
    local m = { step = iteration, ["ppo/learning_rate"] = lr, ["objective/kl_coef"] = beta:value(),
      ["tokens/responses_len_mean"] = batch.response_total / #plain }
    for epoch = 1, cfg.ppo.ppo_epochs do
      local hidden = epoch == 1 and first or states(true)
      local logp, entropy, kl = nn.lm_head(hidden, model:head(), batch.targets,
        { temperature = cfg.ppo.temperature, hidden_ref = reference })
      if cfg.control.solve == "epoch" and epoch > 1 then -- again, with the gate of equation 10
        local gated = ppo.gate(adv, (logp:detach() - old):exp(), cfg.ppo.cliprange)
        solved = control:solve(gated, batch, prefs, places)
        combined = (adv * solved.w):sum(2)
      end
      local surrogate, ratio, clipped = ppo.clip(logp, old, combined, cfg.ppo.cliprange)
      local value_error = ppo.value_loss(heads:forward(hidden), returns)
      local penalty = cfg.ppo.kl_penalty == "full" and kl or ppo.kl_estimate(logp, logp_ref, "k2")
      local loss = surrogate:mean() + value_error * cfg.ppo.vf_coef
      if not cfg.ppo.kl_in_reward then
        loss = loss + (penalty * solved.c):mean() * beta:value()
      end
      opt:zero_grad()
      loss:backward()
      m["ppo/first_ratio_error"] = m["ppo/first_ratio_error"] or (ratio - 1):abs():max():item()
      m["ppo/loss/policy"] = finite.number(surrogate:mean():item(), "the policy's loss")
      m["ppo/loss/value"] = finite.number(value_error:item(), "the loss of the value heads")
      m["objective/kl"] = finite.number(kl:sum():item() / #plain, "the KL")
      m["objective/entropy"] = finite.number(entropy:mean():item(), "the entropy")
      m["ppo/policy/clipfrac"], m["ppo/policy/approxkl"] = clipped:mean():item(), (logp - old):square():mean():item() / 2
      m["ppo/grad_norm"] = opt:step { lr = lr, max_grad_norm = cfg.ppo.max_grad_norm }
    end
    beta:update(m["objective/kl"], #plain)

    return log:row(m, solved.answers, raw)
  end

  for iteration = t.done + 1, cfg.moc.iterations do -- line 1
    t:step(iteration, finite.within("moc: iteration " .. iteration, ("lower ppo.lr, which is %g"):format(cfg.ppo.lr), update, iteration))
  end
  t:finish()
  opt:release()
  return log:summary()
end) -- lines 11 and 12

-- ---- evaluation: the grid, unseen preferences, samples, the table ----

local trained = assert(run:latest(), "no checkpoint of the policy")
assert(lora.load(model, trained))
local figures = stages.evaluation(ctx)
local errors = {} -- standard errors of the mean rewards
for i, row in ipairs(figures.rewards_std) do
  errors[i] = {}
  for j, std in ipairs(row) do
    errors[i][j] = std / cfg.eval.answers ^ 0.5
  end
end
figures.warning = Control.warning(cfg.control, figures.preferences, figures.rewards, errors)
local result = { recipe = "moc_hh", method = cfg.control.c == "one" and "conditioned_linear" or "moc", seed = seed, device = device,
  training_samples = cfg.moc.iterations * cfg.ppo.batch_size, objectives = cfg.objectives, sft = ctx.sft.figures, kl = outcome.kl,
  c = outcome.c, reward_models = ctx.checks, trade_off = embedded and cfg.trade_off or nil }
for k, v in pairs(figures) do
  result[k] = k ~= "shown" and v or nil
end
run:finish(result, { peak_bytes = tensor.memory().peak })
stages.show(run)
