--- mocl.train.trainer: the iterations of a policy-gradient method, once for all methods: rollout, scores, advantages, epochs,
-- metrics, checkpoints, and the way back from the newest one. What makes a method, how preferences are drawn, what the reward
-- is, how advantages become one number per token and the loss, stays in the recipe:
--
--   for iteration in t:iterations() do
--     local plain = t:prompts(128)
--     local batch = t:rollout(plain)
--     local adv = t:advantages(batch, segments.terminal(t:score(batch, plain), batch))
--     local m = t:update(batch, function(e)
--       local surrogate = ppo.clip(e.logp, batch.old, adv:sum(2), 0.2)
--       return surrogate:mean() + e.value_error, { ["ppo/loss/policy"] = surrogate:mean() }
--     end)
--     t:log(m, "a line of status")
--   end
--
-- It trains an actor: mocl.train.lm_actor, a language model, or mocl.train.world_actor, a policy for a small environment. An actor
-- has rollout(inputs, {seed=, purpose=, options=}) -> batch; values(batch) -> [T, N] or nil; begin(batch), before
-- the epochs; evaluate(batch, epoch) -> {logp = [T], entropy =
-- a scalar, kl = [T] or nil, values = [T, N] or nil}; updated(options), after the epochs; named_parameters(); save(dir) and load(dir), which
-- raise; OPTIONS; has_values; optionally backward(batch, e, loss), where the gradients of a loss take more than loss:backward(); and words.value_loss, what errors call the loss of its values.

local check = require "mocl.failure".check
local comm = require "mocl.comm"
local deck = require "mocl.deck"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local hooks = require "mocl.method.hooks"
local metrics = require "mocl.metrics"
local nn = require "mocl.nn.core"
local on_error = require "mocl.on_error"
local optim = require "mocl.optim"
local optimizer = require "mocl.optim_files"
local options = require "mocl.options"
local pieces = require "mocl.train.pieces"
local ppo = require "mocl.method.ppo"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local loop = require "mocl.train.loop"
local watchdog = require "mocl.train.watchdog"

local trainer = {}

--- Rows for a recipe's schema (config.rows), under TRL's names. The trainer itself reads ppo_epochs, lr, warmup, lr_scheduler_type,
-- max_grad_norm, gamma, lam, baseline, scale_rewards and normalize; the others are for the loss in the recipe.
trainer.OPTIONS = {
  { "batch_size", 128, "answers an iteration", min = 1 },
  { "ppo_epochs", 4, "passes over a batch", min = 1 },
  { "lr", 4e-3, "Adam step size", min = 0 },
  { "warmup", 5, "iterations of linear warm-up", min = 0 },
  { "lr_scheduler_type", "linear", "after the warm-up; linear: to 0 after the last iteration", choices = { "constant", "linear" } },
  { "cliprange", 0.2, "range of the clipped surrogate", min = 1e-4 },
  { "vf_coef", 0.25, "weight of the mean squared value error", min = 0 },
  { "gamma", 1.0, "discount", min = 0, max = 1 },
  { "lam", 0.95, "GAE lambda", min = 0, max = 1 },
  { "baseline", "critic", "advantages: GAE with the critic, or return minus the mean of the other episodes", choices = { "critic", "group" } },
  { "scale_rewards", false, "rewards of each objective are divided by the deviation of its returns in the batch" },
  { "normalize", "mean", "advantages lose their mean, or are divided by their root mean square", choices = { "mean", "rms" } },
  { "entropy", 0.0, "weight of the entropy at the start; it falls to 0 on a straight line", min = 0 },
  { "init_kl_coef", 0.2, "weight beta of the exact KL to the SFT model", min = 0 },
  { "target", 6.0, "KL per answer that beta adapts to", min = 1e-6 },
  { "horizon", 1200.0, "answers over which beta adapts", min = 1 },
  { "min_kl_coef", 0.05, "beta does not fall below", min = 0 },
  { "kl_penalty", "full", "KL in the loss: exact over the vocabulary, or the k2 estimate", choices = { "full", "k2" } },
  { "kl_in_reward", false, "TRL's way instead: -beta (logp - logp_ref) per token inside each reward" },
  { "max_grad_norm", 1.0, "clip of the gradient norm; 0: none", min = 0 },
  { "pieces", 1, "a power of 2: gradients are sums over so many pieces of the batch, which ranks share out under mpirun (docs/guide/many-machines.md); 1: "
    .. "every rank makes the whole update", min = 1, max = 1024 },
}

local Trainer = {}
Trainer.__index = Trainer

--- trainer.options(given, actor) -> the options of a trainer and its actor with their defaults. Raises for those that there are not,
-- and for those that do not go together; a recipe that asks here fails before it has a directory.
function trainer.options(given, actor)
  local o, names = {}, {}
  for _, rows in ipairs { trainer.OPTIONS, actor.OPTIONS } do
    for _, row in ipairs(rows) do
      names[#names + 1] = row[1]
      o[row[1]] = given[row[1]] == nil and row[2] or given[row[1]]
    end
  end
  options.check("trainer.options", given, {}, names)
  if given.baseline == nil and not actor.has_values then
    o.baseline = "none" -- the recipe has advantages of its own
  elseif o.baseline == "critic" and not actor.has_values then
    error("trainer.options: baseline=critic needs an actor with a critic", 2)
  elseif o.baseline == "group" and (o.episodes or 1) < 2 then
    error("trainer.options: baseline=group needs at least 2 episodes for each preference", 2)
  end
  return o
end

-- What goes into state.json under a name: an object with state() and restore(table), or a stream of mocl.rng.
local function check_piece(name, piece)
  local function has(method)
    local ok, f = pcall(function() return piece[method] end)
    return ok and options.callable(f)
  end
  if not (has "state" and has "restore") and not (has "position" and has "seek") then
    error(("trainer.new: the piece of state '%s' has no methods state() and restore(), nor position() and seek()"):format(name), 3)
  end
end

local function state_of(piece)
  return piece.position and piece:position() or piece:state()
end

local function restore(piece, state)
  if piece.position then
    piece:seek(state)
  else
    piece:restore(state)
  end
end

-- The pieces of a checkpoint's state and those of this trainer must be the same.
local function check_state(self, dir, state)
  local known, extra, missing = { step = true, offsets = true, recipe = true }, {}, {}
  for name in pairs(self.pieces) do
    known[name] = true
    missing[#missing + 1] = state[name] == nil and name or nil
  end
  for name in pairs(state) do
    extra[#extra + 1] = not known[name] and name or nil
  end
  if #extra + #missing > 0 then
    table.sort(extra)
    table.sort(missing)
    local env = self.run.env or {}
    error(("%s: its state.json is not of this recipe: %s%s%s; the run began with mocl %s. Run the stage again: resume=auto redo=%s"):format(dir,
      #missing > 0 and "it lacks " .. table.concat(missing, ", ") or "", #missing > 0 and #extra > 0 and ", " or "",
      #extra > 0 and "it has " .. table.concat(extra, ", ") or "", tostring(env.mocl),
      self.stage.name), 0)
  end
end

--- trainer.new(o) -> t, for a `<close>` variable. o: actor; options (those of trainer.OPTIONS and of the actor, by name); seed; total,
-- the iterations; and optionally run and stage of mocl.run with save_every (without them nothing is kept on disk), label and unit
-- (what the status line and errors call the training and one of its iterations), purpose ("rollout": of the random stream),
-- lr_name ("lr": what errors call the step size), prompts (a list, dealt by t:prompts), rewards (a list of {name=, f=}), rewards_hook (mocl.method.hooks: f(row, prompt, response) -> row), and state,
-- a table of the recipe's own pieces of state by name: objects with state() and restore(table), or streams of mocl.rng. A
-- checkpoint of the stage is taken back here, into actor, optimiser and pieces.
function trainer.new(o)
  options.check("trainer.new", o, { "actor", "options", "seed", "total" }, { "run", "stage", "save_every", "label", "unit", "purpose",
    "lr_name", "prompts", "rewards", "rewards_hook", "state" })
  local c, state = trainer.options(o.options, o.actor), {}
  for name, piece in pairs(o.state or {}) do
    check_piece(name, piece)
    state[name] = piece
  end
  if o.prompts then
    if state.prompts then
      error("trainer.new: 'prompts' is the trainer's own piece of state; give yours another name", 2)
    end
    state.prompts = deck.new(rng.new(o.seed, "prompts"), o.prompts)
  end
  if o.rewards_hook and not o.rewards and c.baseline == "critic" then
    error("a hook on rewards makes new returns of whole episodes, which baseline=critic does not see: take baseline=group", 0)
  end
  local linear = c.lr_scheduler_type == "linear"
  local self = setmetatable({ actor = pieces.actor(o.actor, c.pieces), options = c, seed = o.seed, total = o.total, purpose = o.purpose or "rollout", run = o.run,
    stage = o.stage, label = o.label or "training", unit = o.unit or "iteration", rewards = o.rewards, rewards_hook = o.rewards_hook, pieces = state, done = 0,
    lr_name = o.lr_name or "lr", pending = {},
    factor = optim.schedule[linear and "linear" or "constant"] { warmup = c.warmup, total = linear and math.max(o.total, c.warmup) or nil,
      from_zero = false } }, Trainer)
  self.watchdog = watchdog.new { total = o.total, options = c, label = self.label, unit = self.unit, prefix = self.lr_name:match "^(.*%.)lr$",
    solves_c = state.control and state.control.solves_c or false, say = o.stage and function(text)
      self.loop.line:note("warning: " .. text)
    end or nil }
  if o.stage then
    self.loop = loop.new { run = o.run, stage = o.stage, label = self.label, unit = self.unit, total = o.total, save_every = o.save_every,
      save = function(dir) self:save(dir) end, state = function() return self:state() end }
    self.done = self.loop.done
  end
  if self.loop and self.loop.dir then
    self:load(self.loop.dir, self.loop.state)
  else
    self.optimizer = optim.adamw(o.actor:named_parameters(), { lr = c.lr })
  end
  return self
end

--- The pieces of state as they go into state.json.
function Trainer:state()
  local all = {}
  for name, piece in pairs(self.pieces) do
    all[name] = state_of(piece)
  end
  return all
end

--- The files of a checkpoint: those of the actor, and optimizer.safetensors; failures raise.
function Trainer:save(dir)
  self.actor:save(dir)
  check(optimizer.save(self.optimizer, fs.join(dir, "optimizer.safetensors")))
end

--- Takes back what save and state wrote. A state with other pieces raises, with the version of mocl that wrote it.
function Trainer:load(dir, state)
  check_state(self, dir, state)
  self.actor:load(dir) -- may make new tensors
  self.optimizer = optim.adamw(self.actor:named_parameters(), { lr = self.options.lr })
  check(optimizer.load(self.optimizer, fs.join(dir, "optimizer.safetensors")))
  for name, piece in pairs(self.pieces) do
    restore(piece, state[name])
  end
end

-- ---- iterations ----

local function place(self)
  return ("%s: %s %d"):format(self.label, self.unit, self.iteration), ("lower %s, which is %g"):format(self.lr_name, self.options.lr)
end

-- Closes what an iteration has open. An error leaves with the iteration's name; where a number that is not finite was seen before
-- it, that is the error.
local function leave(self, err)
  local scope <close> = self.scope
  if err == nil then
    self.iteration = nil
    return
  end
  local where, cure = place(self)
  self.iteration = nil
  on_error.change(err, function(text)
    local ok, first = pcall(self.read, self)
    if not ok and finite.is_error(first) then
      text = first
    end
    return finite.text(text, where, cure)
  end)
end

local function step(self)
  if not self.updated then
    error(("%s: %s %d ended without t:update(batch, loss): a method needs a loss"):format(self.label, self.unit, self.iteration), 0)
  end
  local n, row, text = self.iteration, self.row, self.text
  leave(self)
  row.step = n
  self.watchdog:see(row, self.spread)
  if self.loop then
    self.loop:step(n, row, text)
  end
  self.done = n
end

--- `for n in t:iterations() do`: the iterations that are still to come; with a number, the next so many of them. What an iteration
-- makes is released at its end; its metrics are written then, a checkpoint where one is due, and a signal ends the program behind
-- it. Errors that something is not finite say which iteration it was, and the option that helps.
function Trainer:iterations(n)
  local last = math.min(self.total, self.done + (n or self.total))
  local guard = setmetatable({}, { __close = function(_, err)
    if self.iteration then
      leave(self, err)
    end
  end })
  return function()
    if self.iteration then
      step(self)
    end
    if self.done < last then
      comm.place(("%s: %s %d"):format(self.label, self.unit, self.done + 1))
      self.iteration, self.scope, self.updated, self.pending, self.row, self.text = self.done + 1, tensor.scope(), false, {}, nil, nil
      return self.iteration
    elseif self.done >= self.total then
      if self.loop then
        self.loop:finish()
      end
      self.optimizer:release()
    end
  end, nil, nil, guard
end

--- n prompts from the deck, and their places in the list.
function Trainer:prompts(n)
  return self.pieces.prompts:deal(n)
end

--- Answers or episodes for a list of texts or preferences: a batch of the actor's, from the stream of this iteration.
-- o: adapter=false, answers of a language model without its adapter.
function Trainer:rollout(inputs, o)
  return self.actor:rollout(inputs, { seed = self.seed, purpose = ("%s %d"):format(self.purpose, self.iteration),
    options = self.options, adapter = o and o.adapter })
end

--- Raw rewards, a row per answer and a number per objective: those of the rewards for answers to prompts, or the returns of episodes.
-- batch.raw holds them too. What a hook on rewards makes of them takes their place; of episodes that of the returns too, so that it comes
-- before t:advantages.
function Trainer:score(batch, prompts)
  batch.raw = self.rewards and reward.table(self.rewards, prompts, batch.responses) or batch.returns
  if self.rewards_hook then
    batch.raw = hooks.rewards(self.rewards_hook, batch.raw, prompts, batch.responses)
    batch.returns = batch.returns and batch.raw
  end
  return batch.raw
end

-- ---- advantages ----

-- What the rewards of each objective are divided by: the deviation of its returns in the batch, or, where they do not
-- vary, their size.
local function deviations(returns)
  local scale = {}
  for j = 1, #returns[1] do
    local mean, std = metrics.mean_std(metrics.column(returns, j))
    local size = math.abs(mean)
    scale[j] = std > 1e-6 * size and std or size > 0 and size or 1.0
  end
  return scale
end

-- Return minus the mean of the other episodes of the same preference, at each step.
local function against_group(batch, returns)
  local N, E = #batch.returns[1], batch.n // #batch.preferences
  local by_preference = returns:reshape(batch.n // E, E, N)
  local rows = (by_preference - by_preference:mean(2):unsqueeze(2)) * (E / (E - 1))
  return nn.segment_expand(rows:reshape(batch.n, N), batch.response_offsets)
end

-- The variance of each head's values over the batch, for the watchdog.
local SPREAD = "watchdog/value_spread/"
local function watch_values(self, values)
  local spread = (values - values:mean(1, true)):square():mean(1)
  for j = 1, spread:numel() do
    self:watch(nil, spread:select(1, j), SPREAD .. j)
  end
end

--- Advantages [T, N] of rewards [T, N] per token (nil: those of the episodes), one per objective, by GAE with the actor's values or
-- against the other episodes; without their mean over tokens, or divided by their common root mean square. What the critic
-- learns is left in batch.value_targets, its values now in batch.values.
function Trainer:advantages(batch, rewards)
  local o, adv = self.options, nil
  if o.baseline == "none" then
    error("t:advantages: the actor has no critic; set baseline=group, or make advantages of your own, such as mocl.method.group's", 2)
  end
  local device = batch.tokens.device
  local scale = o.scale_rewards and tensor.new(deviations(batch.returns), { device = device }):unsqueeze(1)
  local function scaled(x)
    x = tensor.is_tensor(x) and x or tensor.new(x, { device = device })
    return scale and x / scale or x
  end
  if o.baseline == "group" then
    adv = against_group(batch, scaled(batch.returns))
  else
    local values = self.actor:values(batch)
    batch.values = scale and values * scale or values
    watch_values(self, values)
    adv, batch.value_targets = ppo.gae(scaled(rewards or batch.rewards), values, batch.response_offsets, { gamma = o.gamma, lam = o.lam })
  end
  if o.normalize == "rms" then
    adv = adv * (adv:square():mean() + 1e-12):rsqrt()
  else
    adv = adv - adv:mean(1, true)
  end
  self:watch("the mean square of the advantages", adv:square():mean())
  return adv
end

-- ---- gradients ----

-- The gradients of a loss of epoch e, by the actor's own way where it has one.
local function backward(self, batch, e, loss)
  if self.actor.backward then
    self.actor:backward(batch, e, loss)
  else
    loss:backward()
  end
end

-- Copies of the gradients of the surrogate's mean for an advantage per token, at the parameters as they are.
local function gradients_of(self, batch, advantage)
  local e = self.actor:evaluate(batch, 2) -- not the first epoch's graph, which is still to be used
  local old = batch.old or e.logp:detach()
  self.optimizer:zero_grad()
  local loss = ppo.clip(e.logp, old, advantage, self.options.cliprange):mean()
  backward(self, batch, e, loss)
  local list = {}
  for i, pair in ipairs(self.actor:named_parameters()) do
    list[i] = pair[2].grad and pair[2].grad:clone() or false
  end
  return list
end

--- t:gram_of(batch) -> function(list) -> G: for a list of advantages [T] the inner products of the gradients of their surrogates over all
-- parameters, a matrix of numbers. One forward and backward pass each, one read. The gradients of the parameters are zero after it.
function Trainer:gram_of(batch)
  return function(list)
    local scope <close> = tensor.scope()
    self.actor:begin(batch)
    local all, products, places = {}, {}, {}
    for i, advantage in ipairs(list) do
      all[i] = gradients_of(self, batch, advantage)
    end
    self.optimizer:zero_grad()
    local G = {}
    for i = 1, #all do
      G[i] = {}
      for k = 1, #all do
        G[i][k] = 0.0
      end
      for k = 1, i do
        for p, g in ipairs(all[i]) do
          if g and all[k][p] then
            products[#products + 1], places[#places + 1] = (g * all[k][p]):sum(), { i, k }
          end
        end
      end
    end
    for n, x in ipairs(#products > 0 and tensor.stack(products):totable() or {}) do
      local i, k = places[n][1], places[n][2]
      G[i][k] = G[i][k] + x
    end
    for i = 1, #all do
      for k = 1, i - 1 do -- rounding may take a product of parallel gradients beyond the product of their lengths
        local most = (G[i][i] * G[k][k]) ^ 0.5
        G[i][k] = math.max(-most, math.min(most, G[i][k]))
        G[k][i] = G[i][k]
      end
    end
    return G
  end
end

-- ---- epochs ----

-- A scalar of this iteration, to be read at its end; what: what it is called where it is not finite.
function Trainer:watch(what, scalar, key)
  self.pending[#self.pending + 1] = { what = what, scalar = scalar, key = key }
end

-- Reads the scalars of the iteration at once: a table by key, the last one of a key. The first that is not finite raises. A norm
-- of gradients comes in three parts (opt:step), whose sum is exact.
function Trainer:read()
  local parts, m, at = {}, {}, 0
  for _, p in ipairs(self.pending) do
    parts[#parts + 1] = p.scalar:flatten()
  end
  local numbers = #parts > 0 and tensor.no_grad(tensor.cat, parts):totable() or {}
  for _, p in ipairs(self.pending) do
    local n = p.scalar:numel()
    local value = numbers[at + 1]
    for k = 2, n do
      value = value + numbers[at + k]
    end
    at = at + n
    if p.what then
      finite.number(value, p.what)
    elseif p.norm then
      self.optimizer:check(value, { max_grad_norm = self.options.max_grad_norm })
    end
    if p.key then
      m[p.key] = value
    end
  end
  self.pending = {}
  return m
end

-- What an epoch's table has on request.
local LAZY = {
  ratio = function(e)
    return e.epoch > 1 and (e.logp:detach() - e.batch.old):exp() or nil
  end,
  kl_penalty = function(e)
    return e.trainer.options.kl_penalty == "full" and e.kl or ppo.kl_estimate(e.logp, e.trainer.actor:logp_ref(e.batch), "k2")
  end,
  value_error = function(e)
    return e.values and e.batch.value_targets and ppo.value_loss(e.values, e.batch.value_targets) or 0.0
  end,
}
local EPOCH = { __index = function(e, key)
  local f = LAZY[key]
  local value = f and f(e)
  e[key] = value
  return value
end }

local function check_loss(loss)
  if not tensor.is_tensor(loss) or loss:numel() ~= 1 or not loss.requires_grad then
    error(("t:update: the loss is %s; its function must return a scalar tensor that depends on the parameters"):format(
      tensor.is_tensor(loss) and ("a tensor of shape (%s)%s"):format(table.concat(loss.shape, ","),
        loss.requires_grad and "" or " without gradient") or "a " .. type(loss)), 3)
  end
end

-- The metrics of an epoch that every method has. Those that only the last epoch's row shows are left out of the others.
local function watch_epoch(self, scope, e, shown, last)
  local function keep(what, scalar, key)
    if scalar then
      self:watch(what, scope:keep(scalar:detach()), key)
    end
  end
  local old = e.batch.old
  if e.epoch == 1 then
    keep(nil, ((e.logp:detach() - old):exp() - 1):abs():max(), "ppo/first_ratio_error")
  end
  keep("the policy's loss", shown["ppo/loss/policy"], "ppo/loss/policy")
  local value_error = rawget(e, "value_error")
  keep(self.actor.words.value_loss, tensor.is_tensor(value_error) and value_error, "ppo/loss/value")
  keep("the KL", e.kl and e.kl:detach():sum(), "objective/kl")
  keep("the entropy", e.entropy, "objective/entropy")
  for key, scalar in pairs(last and shown or {}) do
    if key ~= "ppo/loss/policy" then
      keep(nil, scalar, key)
    end
  end
  if last and e.kl then
    keep(nil, (e.logp:detach() - old):square():mean(), "ppo/policy/approxkl")
  end
end

-- All ranks have computed the same update; a processor or library that makes other bits of it would part them.
local function agree(self, m)
  if comm.size() == 1 then
    return
  end
  local words = {}
  for _, key in ipairs(options.sorted_keys(m)) do
    words[#words + 1] = ("%s=%a"):format(key, m[key])
  end
  comm.agree(("figures of %s %d"):format(self.unit, self.iteration), table.concat(words, " "),
    "their processors or builds differ: run on machines of one kind")
end

--- The epochs over a batch: loss_of(e) -> loss, {name = scalar} is called in each, with e.logp [T], e.entropy (its mean), e.kl [T]
-- (exact, to the reference; nil where there is none), e.kl_penalty [T] (e.kl, or the estimate that the option kl_penalty asks for), e.values [T, N], e.value_error (mean squared, a scalar; 0 without a critic), e.ratio [T]
-- (without gradient; nil in the first epoch, where it is 1), e.epoch and e.left (the share of the iterations that is left). The loss is a
-- scalar tensor; the named scalars go to the metrics, and ppo/loss/policy must be finite. Returns the metrics, numbers by name, of the
-- last epoch, read from the device at once. The first loss or gradient that is not finite raises.
function Trainer:update(batch, loss_of)
  if not options.callable(loss_of) then
    error("t:update: a function (epoch) -> loss expected as second argument: a method needs a loss", 2)
  end
  local o = self.options
  local lr = o.lr * self.factor(self.iteration - 1)
  self.actor:begin(batch)
  for epoch = 1, o.ppo_epochs do
    local scope <close> = tensor.scope()
    local e = self.actor:evaluate(batch, epoch)
    e.trainer, e.batch, e.epoch, e.left = self, batch, epoch, (self.total - self.iteration + 1) / self.total
    batch.old = batch.old or scope:keep(e.logp:detach())
    local loss, shown = loss_of(setmetatable(e, EPOCH))
    check_loss(loss)
    self.optimizer:zero_grad()
    backward(self, batch, e, loss)
    watch_epoch(self, scope, e, shown or {}, epoch == o.ppo_epochs)
    local norm = scope:keep(self.optimizer:step { lr = lr, max_grad_norm = o.max_grad_norm, ahead = true })
    self.pending[#self.pending + 1] = { scalar = norm, key = "ppo/grad_norm", norm = true }
  end
  self.actor:updated(o)
  local m = self:read()
  self.spread = {}
  while m[SPREAD .. #self.spread + 1] do
    local key = SPREAD .. #self.spread + 1
    self.spread[#self.spread + 1], m[key] = m[key], nil
  end
  m.step, m["ppo/learning_rate"] = self.iteration, lr
  if m["objective/kl"] then
    m["objective/kl"], m["ppo/policy/approxkl"] = m["objective/kl"] / batch.n, m["ppo/policy/approxkl"] / 2
  end
  for key, v in pairs(batch.metrics or {}) do
    m[key] = v
  end
  agree(self, m)
  self.updated, self.row, self.text = true, m, ""
  return m
end

--- The row of metrics of this iteration and the text of the status line, in place of what t:update returned.
function Trainer:log(row, text)
  self.row, self.text = row, text
end

--- Gives the signals back to the program; also <close>. Twice is fine.
function Trainer:close(err)
  if self.loop then
    self.loop:close(err)
  end
end

Trainer.__close = Trainer.close

return trainer
