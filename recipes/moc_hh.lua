--- moc_hh: Multi-Objective Control of a language model, from text to one policy that follows a preference.
--
--   mocl recipes/moc_hh.lua                                   the embedded task, humor against helpful
--   mocl recipes/moc_hh.lua objectives=harmless,helpful       or all three
--   mocl recipes/moc_hh.lua data=../shared/data/prefs/hh-rlhf objectives=harmless,helpful
--   mocl recipes/moc_hh.lua preset=smoke out=/tmp/x           every stage, tiny, in seconds
--
-- Stages: tokenizer, base model, reward models, SFT, MOC, evaluation; each is kept in the run directory and
-- reused. The MOC stage is Algorithm 1 of the paper, read as docs/algorithm.md section 3 says (reading A).

local config = require "mocl.config"
local data_sources = require "mocl.sources"
local deck = require "mocl.deck"
local kl_controller = require "mocl.kl_controller"
local lm = require "mocl.lm"
local lora = require "mocl.lora"
local metrics = require "mocl.metrics"
local minnorm = require "mocl.minnorm"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local policy = require "mocl.policy"
local ppo = require "mocl.ppo"
local preference = require "mocl.preference"
local progress = require "mocl.progress"
local report = require "mocl.report"
local reward = require "mocl.reward"
local rng = require "mocl.rng"
local Run = require "mocl.run"
local running = require "mocl.running"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.transformer"

-- files of HH-RLHF come with a model of their own size
local args = table.move(arg, 1, #arg, 1, {})
if table.concat(args, " "):find("data=[^%s]") and not table.concat(args, " "):find("preset=") then
  table.insert(args, 1, "preset=hh")
end

local cfg, info = config.parse(config.common {
  { "data", "", "directory of HH-RLHF files; empty: the embedded task" },
  { "objectives", { "humor", "helpful" }, "names of the rewards, in the order of the weights" },
  { "trade_off", "rising", "embedded task: worth of the k-th joke or tip", choices = { "rising", "equal", "diminishing" } },
  { "rewards", "", "Lua file that returns {name = function(prompts, responses) -> numbers}, used in place of models" },
  { "documents", 8000, "texts for tokenizer and base model (embedded task)", min = 10 },
  { "tokenizer.vocab_size", 900, "entries of the byte-level BPE", min = 300 },
  { "model.hidden_size", 64, "width D", min = 8 },
  { "model.layers", 2, "blocks", min = 1 },
  { "model.heads", 4, "attention heads", min = 1 },
  { "model.intermediate_size", 176, "width of the SwiGLU layer", min = 8 },
  { "model.positions", 96, "context in tokens", min = 16 },
  { "base.steps", 1500, "pretraining steps", min = 1 },
  { "base.batch_size", 32, "documents a step", min = 1 },
  { "base.lr", 6e-3, "peak step size", min = 0 },
  { "reward.pairs", 12000, "training pairs per objective (embedded task)", min = 10 },
  { "reward.steps", 1200, "steps per reward model", min = 1 },
  { "reward.batch_size", 32, "pairs a step", min = 1 },
  { "reward.lr", 2e-3, "peak step size", min = 0 },
  { "sft.examples", 8000, "examples (embedded task)", min = 10 },
  { "sft.steps", 400, "steps", min = 1 },
  { "sft.batch_size", 32, "examples a step", min = 1 },
  { "sft.lr", 2e-3, "peak step size", min = 0 },
  { "lora.r", 16, "rank of the adapter on all linear layers", min = 1 },
  { "lora.alpha", 32, "its scale is alpha / r", min = 0 },
  { "ppo.batch_size", 64, "answers an iteration", min = 1 },
  { "ppo.ppo_epochs", 4, "passes over a batch", min = 1 },
  { "ppo.learning_rate", 4e-3, "Adam step size", min = 0 },
  { "ppo.warmup", 5, "iterations of linear warm-up", min = 0 },
  { "ppo.cliprange", 0.2, "range of the clipped surrogate", min = 1e-3 },
  { "ppo.vf_coef", 0.25, "weight of the mean squared value error", min = 0 },
  { "ppo.gamma", 1.0, "discount", min = 0, max = 1 },
  { "ppo.lam", 0.95, "GAE lambda", min = 0, max = 1 },
  { "ppo.init_kl_coef", 0.2, "weight beta of the exact KL to the SFT model", min = 0 },
  { "ppo.target", 6.0, "KL per answer that beta adapts to", min = 0 },
  { "ppo.horizon", 1200.0, "answers over which beta adapts", min = 1 },
  { "ppo.max_grad_norm", 1.0, "clip of the gradient norm", min = 0 },
  { "ppo.max_new_tokens", 26, "tokens of an answer", min = 1 },
  { "ppo.temperature", 1.0, "sampling temperature, also that of the log-probabilities", min = 1e-3 },
  { "moc.iterations", 160, "PPO iterations", min = 1 },
  { "moc.save_every", 20, "iterations between checkpoints", min = 1 },
  { "control.c", "minnorm", "how c is found: the min-norm problem, or 1 always (linear scalarisation)", choices = { "minnorm", "one" } },
  { "control.phi", 0.02, "tolerated mean squared error, phi of equation 4", min = 0 },
  { "control.scale", 1.0, "factor on vbar (2/N is the exact derivative)", min = 0 },
  { "control.factor", 0.8, "memory of the mean reward per preference", min = 0, max = 1 },
  { "control.statistics_factor", 0.95, "memory of equation 18's mean and variance", min = 0, max = 1 },
  { "eval.answers", 1024, "answers per preference", min = 1 },
  { "eval.unseen_answers", 512, "answers per unseen preference; 0 leaves them out", min = 0 },
  { "hh.prompt_chars", 260, "HH-RLHF: longer prompts are left out", min = 20 },
}, args, {
  recipe = "moc_hh", doc = "Multi-Objective Control of a language model (docs/algorithm.md)", presets = {
    smoke = { documents = 300, ["tokenizer.vocab_size"] = 400, ["model.hidden_size"] = 16, ["model.heads"] = 2,
      ["model.intermediate_size"] = 32, ["model.positions"] = 256, ["base.steps"] = 4, ["reward.pairs"] = 60, ["reward.steps"] = 4,
      ["sft.examples"] = 60, ["sft.steps"] = 4, ["ppo.batch_size"] = 16, ["moc.iterations"] = 3, ["moc.save_every"] = 2,
      ["eval.answers"] = 8, ["eval.unseen_answers"] = 4, ["ppo.max_new_tokens"] = 8 },
    hh = { ["tokenizer.vocab_size"] = 2048, ["model.hidden_size"] = 128, ["model.layers"] = 4, ["model.heads"] = 4,
      ["model.intermediate_size"] = 344, ["model.positions"] = 192, ["base.steps"] = 1200, ["base.batch_size"] = 16,
      ["base.lr"] = 3e-3, ["reward.steps"] = 250, ["reward.batch_size"] = 16, ["reward.lr"] = 5e-4, ["sft.steps"] = 300, ["sft.batch_size"] = 16,
      ["sft.lr"] = 1e-3, ["ppo.max_new_tokens"] = 40, ["ppo.learning_rate"] = 1e-3, ["moc.iterations"] = 100, ["eval.answers"] = 256,
      ["eval.unseen_answers"] = 128 },
  },
})

-- ---- what the run is about ----

local N, seed, device = #cfg.objectives, cfg.seed, cfg.device
local functions = cfg.rewards ~= "" and assert(dofile(cfg.rewards), cfg.rewards .. ": must return a table") or {}
local embedded = cfg.data == ""
local source = embedded and data_sources.assistant {
  seed = seed, trade_off = cfg.trade_off, objectives = cfg.objectives, documents = cfg.documents,
  sft = cfg.sft.examples, pairs = cfg.reward.pairs, test_pairs = math.max(50, cfg.reward.pairs // 20),
} or data_sources.hh_rlhf {
  path = cfg.data, seed = seed, objectives = cfg.objectives, prompt_chars = cfg.hh.prompt_chars, held_out = 0.1,
}
data_sources.check_objectives(cfg.objectives, source.known, functions)

local run <close> = Run.open { recipe = "moc_hh", cfg = cfg, info = info, main = "moc", platform = sys.env(),
  out = not cfg.out and not embedded and "runs/moc_hh/hh-rlhf" or nil }
if run.complete then
  io.write(run.out, " holds this run, complete:\n\n", report.summary(run.result), "\n")
  return
end
if not embedded then
  run:hash_input(cfg.data)
end

local function bar(label, total, start)
  return progress.new { label = label, total = total, start = start, quiet = run.quiet }
end

-- ---- tokenizer, base model, reward models, SFT ----

run:stage("tokenizer", function()
  local texts = source.documents(rng.new(seed, "tokenizer texts"))
  local tok = tokenizer.train(texts, { vocab_size = cfg.tokenizer.vocab_size, special_tokens = { "<s>", "</s>" } })
  assert(tok:save(run:path "tokenizer.json"))
  return { vocab_size = tok:vocab_size() }
end)
local tok = assert(tokenizer.load(run:path "tokenizer.json"))

local function language_model(name, from, options, rows)
  return run:stage(name, function(stage)
    local model = from and assert(transformer.load(run:path(from), { device = device }))
      or transformer.new({
        vocab_size = tok:vocab_size(), hidden_size = cfg.model.hidden_size, num_hidden_layers = cfg.model.layers,
        num_attention_heads = cfg.model.heads, intermediate_size = cfg.model.intermediate_size,
        max_position_embeddings = cfg.model.positions, tie_word_embeddings = true,
      }, { device = device, key = rng.key(seed, "model") })
    local prompts, responses = lm.encode(tok, rows())
    local line = bar(name, options.steps)
    local loss = lm.train {
      model = model, parameters = transformer.train_base(model), prompts = prompts, responses = responses, seed = seed,
      purpose = name, steps = options.steps, batch_size = options.batch_size, lr = options.lr, max_tokens = cfg.model.positions,
      on_step = function(step, value)
        stage:metrics { step = step, ["loss/" .. name] = value }
        line:update(step, ("loss %.3f"):format(value))
      end,
    }
    line:done()
    assert(transformer.save(model, run:path(name), { bos_token_id = tok:bos_id(), eos_token_id = tok:eos_id() }))
    return { loss = loss }
  end)
end

language_model("base", nil, cfg.base, function()
  local rows = {}
  for i, text in ipairs(source.documents(rng.new(seed, "documents"))) do
    rows[i] = { response = text }
  end
  return rows
end)
language_model("sft", "base", cfg.sft, function()
  return source.sft(rng.new(seed, "sft"))
end)

local rewards, checks = {}, {}
for j, name in ipairs(cfg.objectives) do
  if functions[name] then
    rewards[j] = { name = name, f = functions[name] }
  else
    checks[name] = run:stage("reward-" .. name, function(stage)
      local pairs_train, pairs_test = source.pairs(name)
      local model = reward.model { trunk = assert(transformer.load(run:path "sft", { device = device })), tokenizer = tok }
      local line = bar("reward " .. name, cfg.reward.steps)
      model:train {
        pairs = pairs_train, steps = cfg.reward.steps, batch_size = cfg.reward.batch_size, lr = cfg.reward.lr, seed = seed,
        purpose = "reward " .. name,
        on_step = function(step, loss, accuracy)
          stage:metrics { step = step, ["loss/reward_" .. name] = loss, ["accuracy/" .. name] = accuracy }
          line:update(step, ("loss %.3f accuracy %.2f"):format(loss, accuracy))
        end,
      }
      local held_out = model:accuracy(pairs_test)
      line:done(("held-out accuracy %.3f (%.3f to %.3f, n %d)"):format(held_out.accuracy, held_out.low, held_out.high, held_out.n))
      assert(model:save(run:path("reward-" .. name)))
      return held_out
    end)
    rewards[j] = { name = name, f = assert(reward.load(run:path("reward-" .. name), tok, { device = device })) }
  end
end

-- ---- the policy: SFT model + adapter + N value heads ----

local model = assert(transformer.load(run:path "sft", { device = device }))
local width = model:config().hidden_size
model:add_lora { r = cfg.lora.r, alpha = cfg.lora.alpha, key = rng.key(seed, "lora") }
local heads = ppo.value_heads(N, width, { key = rng.key(seed, "value heads"), device = device })
local actor = policy.new { model = model, tokenizer = tok, max_new_tokens = cfg.ppo.max_new_tokens, temperature = cfg.ppo.temperature }
local grid = preference.grid(N)

local function measure(preferences, purpose, prompts, n, adapter, label)
  local line = bar(label, #preferences)
  local list = actor:measure_all(preferences, { prompts = prompts, n = n, seed = seed, purpose = purpose, adapter = adapter,
    rewards = rewards, audit = source.audit, on_step = function(i) line:update(i) end })
  line:done()
  return list
end

-- The SFT model's own answers: the units of every figure (equation 18 with these frozen statistics; 1 = SFT
-- mean), and what the running statistics start from.
local sft = run:stage("sft-answers", function()
  local start = measure(grid, "statistics", source.train_prompts, math.ceil(512 / #grid), false, "sft statistics")
  local rows, frozen = {}, measure(grid, "sft evaluation", source.test_prompts, cfg.eval.answers, false, "sft evaluation")
  for _, m in ipairs(start) do
    table.move(m.rows, 1, #m.rows, #rows + 1, rows)
  end
  local all = {}
  for _, m in ipairs(frozen) do
    table.move(m.rows, 1, #m.rows, #all + 1, all)
  end
  local stats = { mean = {}, std = {} }
  for j = 1, N do
    local column = {}
    for i, row in ipairs(all) do
      column[i] = row[j]
    end
    stats.mean[j], stats.std[j] = metrics.mean_std(column)
  end
  for i, m in ipairs(frozen) do
    for _, s in ipairs(m.sample) do
      run:sample { model = "sft", step = 0, preference = grid[i], prompt = s.prompt, response = s.response,
        rewards = policy.normalize(s.rewards, stats) }
    end
  end
  return { statistics = stats, start = rows, figures = policy.figures(grid, frozen, stats) }
end)

-- ---- Algorithm 1 ----

-- Algorithm 2 on equation 12's two vectors, pooled over the answers of each preference (docs/algorithm.md
-- section 3): v_t = sum_j p_j I(A_jt), vbar_t = -1[MSE > phi] sum_j b_j I(A_jt) with b = Rbar - p.
-- Returns per place of the grid {c =, indicator =, w = weight of each objective}.
local function solve_c(batch, places, prefs, gated, mean_reward)
  local p_rows, b_rows, violated = {}, {}, {}
  for i, p in ipairs(prefs) do
    local b, mse = {}, 0
    for j = 1, N do
      b[j] = mean_reward[places[i]][j] - p[j]
      mse = mse + b[j] ^ 2 / N -- equation 2
    end
    violated[places[i]] = mse > cfg.control.phi -- the indicator of equation 5
    for j = 1, N do
      b[j] = violated[places[i]] and -cfg.control.scale * b[j] or 0.0
    end
    p_rows[i], b_rows[i] = p, b
  end
  local v = (gated * ppo.spread(p_rows, batch)):sum(2)
  local vbar = (gated * ppo.spread(b_rows, batch)):sum(2)
  local vv, vw, ww = ppo.per_answer(v * v, batch), ppo.per_answer(v * vbar, batch), ppo.per_answer(vbar * vbar, batch)
  local groups = {}
  for i, place in ipairs(places) do
    local g = groups[place] or { vv = 0, vw = 0, ww = 0, n = 0, p = prefs[i], b = b_rows[i] }
    g.vv, g.vw, g.ww, g.n = g.vv + vv[i], g.vw + vw[i], g.ww + ww[i], g.n + 1
    groups[place] = g
  end
  for place, g in pairs(groups) do
    g.indicator = violated[place]
    g.c = cfg.control.c == "one" and 1 or not g.indicator and 1 or minnorm.two(g.vv, g.vw, g.ww)
    g.w = {}
    for j = 1, N do
      g.w[j] = g.c * g.p[j] + (1 - g.c) * g.b[j]
    end
  end
  return groups
end

local outcome = run:stage("moc", function(stage)
  local prompts = deck.new(rng.new(seed, "prompts"), source.train_prompts)
  local preferences = preference.deck(rng.new(seed, "preferences"), grid)
  local stats = running.new { n = N, kind = "ema", factor = cfg.control.statistics_factor }
  stats:start(sft.start)
  local beta = kl_controller.adaptive { init_kl_coef = cfg.ppo.init_kl_coef, target = cfg.ppo.target, horizon = cfg.ppo.horizon }
  local mean_reward, log, done = {}, { n = 0, c = 0, zero = 0, one = 0, indicator = 0, negative_w = 0, kl = 0 }, 0
  for k = 1, #grid do
    mean_reward[k] = false
  end

  local dir, state = stage:latest()
  if dir then
    done = state.step
    assert(lora.load(model, dir))
    assert(heads:load(dir .. "/value_heads.safetensors"))
    prompts:restore(state.prompts)
    preferences:restore(state.preferences)
    stats, beta, mean_reward, log = running.restore(state.stats), kl_controller.restore(state.beta), state.mean_reward, state.log
  end
  local parameters = lora.parameters(model)
  table.move(heads:parameters(), 1, 4 * N, #parameters + 1, parameters)
  local opt <close> = optim.adamw(parameters, { lr = cfg.ppo.learning_rate })
  if dir then
    assert(ppo.load_optimizer(opt, dir .. "/optimizer.safetensors"))
  end
  local line = bar("moc", cfg.moc.iterations, done)

  for iteration = done + 1, cfg.moc.iterations do -- line 1
    local scope <close> = tensor.scope()
    local plain = prompts:deal(cfg.ppo.batch_size) -- line 2
    local prefs, places = preferences:deal(cfg.ppo.batch_size) -- line 3
    local texts = {}
    for i, prompt in ipairs(plain) do
      texts[i] = preference.relabel(prompt, prefs[i]) -- line 4, equation 3
    end
    local responses, ids, old = actor:answer(texts, { key = rng.key(seed, "rollout " .. iteration) }) -- line 5

    -- line 6: rewards, normalised by equation 18's running statistics around 1/N
    local raw, R = {}, {}
    for j, r in ipairs(rewards) do
      for i, score in ipairs(reward.call(r.f, r.name, plain, responses)) do
        raw[i] = raw[i] or {}
        raw[i][j] = score
      end
    end
    stats:update(raw)
    for i, row in ipairs(raw) do
      R[i] = stats:normalize(row, { offset = 1 / N })
    end

    -- line 7: one advantage per objective and token; A minus its mean over tokens
    local batch = transformer.pack(ids.prompts, ids.tokens, { device = device })
    local function states(opts)
      return nn.rows(model:forward(batch, opts), batch.rows)
    end
    local reference = tensor.no_grad(states, { adapter = false })
    local values = tensor.no_grad(function() return heads:forward(states()) end)
    local adv, returns = ppo.gae(ppo.terminal(R, batch), values, batch.response_offsets, { gamma = cfg.ppo.gamma, lam = cfg.ppo.lam })
    adv = adv - adv:mean(1, true)

    -- line 8: Rbar per preference, then c at z = 1, where I(A) = A
    local sums = {}
    for i, place in ipairs(places) do
      local s = sums[place] or { n = 0 }
      s.n = s.n + 1
      for j = 1, N do
        s[j] = (s[j] or 0) + R[i][j]
      end
      sums[place] = s
    end
    for place, s in pairs(sums) do
      local before, now = mean_reward[place], {}
      for j = 1, N do
        local m = s[j] / s.n
        now[j] = before and cfg.control.factor * before[j] + (1 - cfg.control.factor) * m or m
      end
      mean_reward[place] = now
    end
    local groups = solve_c(batch, places, prefs, adv, mean_reward)
    local w_rows, c_rows = {}, {}
    for i, place in ipairs(places) do
      w_rows[i], c_rows[i] = groups[place].w, { groups[place].c }
    end
    local combined = (adv * ppo.spread(w_rows, batch)):sum(2) -- sum_j w_j A_j: combine first, then clip
    local c_tokens = ppo.spread(c_rows, batch):flatten()

    -- lines 9 and 10: equation 7's scalarised clipped loss, the KL inside J and so weighted by c, value heads
    local lr = cfg.ppo.learning_rate * math.min(1, iteration / math.max(1, cfg.ppo.warmup))
    local first_ratio, m = nil, {}
    for epoch = 1, cfg.ppo.ppo_epochs do
      local hidden = states()
      local logp, entropy, kl = nn.lm_head(hidden, model:head(), batch.targets, { temperature = cfg.ppo.temperature, hidden_ref = reference })
      local surrogate, ratio, clipped = ppo.clip(logp, old, combined, cfg.ppo.cliprange)
      local value_error = (heads:forward(hidden) - returns):square():mean()
      local penalty = (kl * c_tokens):mean()
      local loss = surrogate:mean() + value_error * cfg.ppo.vf_coef + penalty * beta:value()
      opt:zero_grad()
      loss:backward()
      local norm = opt:step { lr = lr, max_grad_norm = cfg.ppo.max_grad_norm }
      first_ratio = first_ratio or (ratio - 1):abs():max():item()
      m = { kl = kl:sum():item() / #plain, entropy = entropy:mean():item(), clipfrac = clipped:mean():item(), norm = norm,
        policy = surrogate:mean():item(), value = value_error:item(), approxkl = (logp - old):square():mean():item() / 2 }
    end
    beta:update(m.kl, #plain)

    local row = {
      step = iteration, ["objective/kl"] = m.kl, ["objective/kl_coef"] = beta:value(), ["objective/entropy"] = m.entropy,
      ["ppo/policy/clipfrac"] = m.clipfrac, ["ppo/policy/approxkl"] = m.approxkl, ["ppo/loss/policy"] = m.policy,
      ["ppo/loss/value"] = m.value, ["ppo/grad_norm"] = m.norm, ["ppo/first_ratio_error"] = first_ratio,
      ["ppo/learning_rate"] = lr, ["tokens/responses_len_mean"] = batch.response_total / #plain,
    }
    local shares = { c = 0, zero = 0, one = 0, indicator = 0, negative_w = 0 }
    for _, place in ipairs(places) do
      local g = groups[place]
      shares.c, shares.zero, shares.one = shares.c + g.c, shares.zero + (g.c == 0 and 1 or 0), shares.one + (g.c == 1 and 1 or 0)
      shares.indicator = shares.indicator + (g.indicator and 1 or 0)
      shares.negative_w = shares.negative_w + (math.min(table.unpack(g.w)) < 0 and 1 or 0)
    end
    for k, v in pairs(shares) do
      row["moc/" .. (k == "c" and "c" or "share_" .. k)] = v / #places
      log[k] = log[k] + v / #places
    end
    log.n, log.kl = log.n + 1, log.kl + m.kl
    local text = {}
    for j, name in ipairs(cfg.objectives) do
      local column = {}
      for i = 1, #raw do
        column[i] = policy.normalize(raw[i], sft.statistics)[j]
      end
      row["env/reward_mean/" .. name] = metrics.mean_std(column)
      text[j] = ("%s %.2f"):format(name, row["env/reward_mean/" .. name])
    end
    stage:metrics(row)
    line:update(iteration, ("%s kl %.2f c %.2f"):format(table.concat(text, " "), m.kl, row["moc/c"]))

    local stop = sys.interrupted()
    if iteration % cfg.moc.save_every == 0 or iteration == cfg.moc.iterations or stop then
      stage:checkpoint(iteration, function(path)
        assert(lora.save(model, path, { base_model_name_or_path = run:path "sft" }))
        assert(heads:save(path .. "/value_heads.safetensors"))
        assert(ppo.save_optimizer(opt, path .. "/optimizer.safetensors"))
      end, { prompts = prompts:state(), preferences = preferences:state(), stats = stats:state(), beta = beta:state(),
        mean_reward = mean_reward, log = log })
    end
    if stop then
      run:close()
      io.stderr:write(("\n%s after iteration %d; continue with resume=auto\n"):format(stop, iteration))
      os.exit(stop == "SIGTERM" and 143 or 130, true)
    end
  end
  line:done()
  local summary = { kl = log.kl / log.n, c = { mean = log.c / log.n } }
  for _, k in ipairs { "zero", "one", "indicator", "negative_w" } do
    summary.c[k] = log[k] / log.n
  end
  return summary
end) -- lines 11 and 12

-- ---- evaluation: the grid, unseen preferences, samples, the table ----

assert(lora.load(model, assert(run:latest(), "no checkpoint of the policy")))
local evaluation = run:stage("evaluation", function()
  local list = measure(grid, "evaluation", source.test_prompts, cfg.eval.answers, true, "evaluation")
  local figures = policy.figures(grid, list, sft.statistics)
  for i, m in ipairs(list) do
    for _, s in ipairs(m.sample) do
      run:sample { model = "moc", step = cfg.moc.iterations, preference = grid[i], prompt = s.prompt, response = s.response,
        rewards = policy.normalize(s.rewards, sft.statistics) }
    end
    local s = m.sample[1]
    figures.shown = figures.shown or {}
    figures.shown[i] = { prompt = s.prompt, response = s.response }
  end
  figures.unseen = { groups = {} }
  for g, group in ipairs(cfg.eval.unseen_answers > 0 and N > 1 and preference.unseen_groups(N) or {}) do
    local unseen = measure(group, "unseen " .. g, source.test_prompts, cfg.eval.unseen_answers, true, "unseen " .. g)
    local f = policy.figures(group, unseen, sft.statistics)
    figures.unseen.groups[g] = { preferences = group, rewards = f.rewards, hypervolume = f.hypervolume, kendall_tau = f.kendall_tau }
  end
  return figures
end)

local result = { recipe = "moc_hh", method = cfg.control.c == "one" and "conditioned_linear" or "moc", seed = seed, device = device,
  training_samples = cfg.moc.iterations * cfg.ppo.batch_size, objectives = cfg.objectives, sft = sft.figures, kl = outcome.kl,
  c = outcome.c, reward_models = checks, trade_off = embedded and cfg.trade_off or nil }
for k, v in pairs(evaluation) do
  if k ~= "shown" then
    result[k] = v
  end
end
run:finish(result, { peak_bytes = tensor.memory().peak })

io.write("\nanswers of the trained policy\n")
for i, p in ipairs(grid) do
  local weights = {}
  for j = 1, N do
    weights[j] = ("%.2f"):format(p[j])
  end
  io.write(("  %s  %s ->%s\n"):format(table.concat(weights, " "), evaluation.shown[i].prompt:gsub("\n", " "),
    (evaluation.shown[i].response:gsub("\n", " "))))
end
io.write("\n", report.summary(run.result), "\nreport: ", run:path "report.html", "\n")
