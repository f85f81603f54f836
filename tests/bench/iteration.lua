--- iteration: one iteration of MOC with the pieces and the defaults of recipes/moc_hh.lua, lines 2 to 10 of Algorithm 1,
-- without its log and checkpoints. Weights are random; both low-rank factors and the heads are, so that no term vanishes.

local Control = require "mocl.method.control"
local inputs = require "inputs"
local kl_controller = require "mocl.method.kl_controller"
local lm_actor = require "mocl.train.lm_actor"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim"
local policy = require "mocl.lm.policy"
local ppo = require "mocl.method.ppo"
local preference = require "mocl.preference"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local segments = require "mocl.segments"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local trainer = require "mocl.train.trainer"
local transformer = require "mocl.lm.model"
local value_heads = require "mocl.train.value_heads"

local iteration = {}

local N, ITERATIONS, EPOCHS = 2, 4, 4
local LR, CLIP, VF, BETA, GAMMA, LAM = 4e-3, .2, .25, .2, 1, .95
local ENDLESS = 1 << 30 -- iterations

local function control_options()
  local o = {}
  for _, row in ipairs(Control.OPTIONS) do
    o[row[1]] = row[2]
  end
  return o
end

local function randomize(t, key, std)
  tensor.no_grad(t.copy_, t, tensor.randn(t.shape, { key = key, std = std }))
end

-- the ids of the draws, which is all a peer without a tokenizer needs
local function token_ids(draws)
  local list = {}
  for i, d in ipairs(draws) do
    list[i] = { ids = d.ids, plain_ids = d.plain_ids, prefs = d.prefs, places = d.places }
  end
  return list
end

-- the first iteration: its first loss is what the peer repeats from the same answers and weights
local function first(s)
  local seen = {}
  iteration.once(s, seen)
  s.numbers = seen.numbers
  seen.numbers = nil
  return seen
end

function iteration.setup(task, size)
  return function(dir)
    local draws, grid = inputs.iterations(task, size, ITERATIONS)
    local model = transformer.new(task.config, { key = rng.key(0, "policy") })
    model:add_lora { r = 16, alpha = 32, layers_to_transform = lora.last_layers(model, 1), key = rng.key(0, "lora") }
    local heads = value_heads.new(N, task.config.hidden_size, { key = rng.key(0, "heads") })
    local tensors, rewards = {}, {}
    for i, pair in ipairs(model:named_parameters(true)) do
      if pair[1]:find("lora_B", 1, true) then
        randomize(pair[2], rng.key(i, "B"), .02)
      end
      tensors["policy." .. pair[1]] = pair[2]
    end
    for _, pair in ipairs(model:named_parameters()) do
      tensors["policy." .. pair[1]] = pair[2]
    end
    for i, pair in ipairs(heads.named) do
      randomize(pair[2], rng.key(i, "head"), .1)
      tensors["heads." .. pair[1]] = pair[2]
    end
    for j = 1, N do
      local trunk = transformer.new(task.config, { key = rng.key(j, "reward model") })
      local f = reward.model { trunk = trunk, tokenizer = task.tok }
      randomize(f.head, rng.key(j, "score"), 1)
      for _, pair in ipairs(trunk:named_parameters()) do
        tensors[("reward%d.%s"):format(j, pair[1])] = pair[2]
      end
      tensors[("reward%d.score.weight"):format(j)] = f.head
      rewards[j] = { name = "reward " .. j, f = f }
    end
    local path = dir .. "/moc.safetensors"
    assert(safetensors.save(path, tensors))

    local start = {}
    for i = 1, 64 do
      start[i] = { i % 7 - 3, i % 5 - 2 }
    end
    local actor = lm_actor.new { heads = heads,
      policy = policy.new { model = model, tokenizer = task.tok, max_new_tokens = size.new_tokens } }
    local s = {
      rewards = rewards, draws = draws, seconds = {}, actor = actor, control = Control.new(control_options(), N, grid, start),
      beta = kl_controller.adaptive { init_kl_coef = BETA, target = 6, horizon = 1200 },
      trainer = trainer.new { actor = actor, seed = 0, total = ENDLESS, rewards = rewards, options = { ppo_epochs = EPOCHS, lr = LR,
        warmup = 0, lr_scheduler_type = "constant", gamma = GAMMA, lam = LAM } },
    }
    return { kind = "moc", config = model:config(), weights = path, rank = 16, alpha = 32, new_tokens = size.new_tokens,
      eos = task.tok:eos_id(), n_grid = #grid, draws = token_ids(draws), lr = LR, clip = CLIP, vf = VF, beta = BETA, gamma = GAMMA, lam = LAM,
      epochs = EPOCHS, start = start, given = first(s) }, s
  end
end

local function clock(s, phase, from)
  local now = sys.now()
  s.seconds[phase] = (s.seconds[phase] or 0) + now - from
  return now
end

-- Euclidean norm of the gradients as they are
local function norm_of(actor)
  local list = {}
  for i, pair in ipairs(actor:named_parameters()) do
    list[i] = pair[2]
  end
  return optim.clip_grad_norm(list, math.huge)
end

-- What the peer needs to compute the first epoch's loss itself.
local function keep(s, seen, e, batch, draw, combined, c, loss, policy_loss)
  if e.epoch == 1 then
    local f = s.rewards[1].f
    local scores = tensor.no_grad(f.forward, f, draw.plain_ids, batch.ids)
    seen.tokens, seen.old, seen.combined, seen.returns, seen.c = batch.ids:totable(), batch.old:totable(), combined:totable(), batch.value_targets:totable(),
      c:totable()
    seen.numbers = { policy_loss:item(), e.value_error:item(), e.entropy:item(), e.kl:sum():item() / batch.n, loss:item(), false,
      scores:mean():item(), scores[1]:item() }
  elseif e.epoch == 2 then -- the first epoch's gradients are still there
    seen.numbers[6] = norm_of(s.actor)
  end
end

--- One iteration. `seen` (or nil) receives what the peer needs to compute the first epoch's loss itself.
function iteration.once(s, seen)
  local t, from = s.trainer, sys.now()
  for n in t:iterations(1) do
    local draw, texts = s.draws[(n - 1) % #s.draws + 1], {}
    for i, prompt in ipairs(draw.plain) do
      texts[i] = preference.relabel(prompt, draw.prefs[i])
    end
    local batch = t:rollout(texts)
    from = clock(s, "rollout", from)

    local R = s.control:observe(t:score(batch, draw.plain), draw.places)
    from = clock(s, "scoring", from)

    local adv = t:advantages(batch, segments.terminal(R, batch))
    local problem = s.control:problem(adv, batch, draw.prefs, draw.places)
    from = clock(s, "advantages", from)

    local m = t:update(batch, function(e)
      local solved = problem:solve(e.ratio, CLIP)
      local surrogate, _, clipped = ppo.clip(e.logp, batch.old, solved.advantage, CLIP)
      local policy_loss = surrogate:mean()
      local loss = policy_loss + e.value_error * VF + (e.kl * solved.c):mean() * s.beta:value()
      if seen then
        keep(s, seen, e, batch, draw, solved.advantage, solved.c, loss, policy_loss)
      end
      return loss, { ["ppo/loss/policy"] = policy_loss, ["ppo/policy/clipfrac"] = clipped:mean() }
    end)
    s.beta:update(m["objective/kl"], batch.n)
  end
  clock(s, "update", from)
end

function iteration.run(s, n)
  s.seconds = {}
  for _ = 1, n do
    iteration.once(s)
  end
end

--- Surrogate, value error, entropy, KL per answer, loss, gradient norm of the first epoch; a reward model's scores.
function iteration.check(s)
  return s.numbers
end

--- Seconds per phase of the last run.
function iteration.phases(s)
  return s.seconds
end

return iteration
