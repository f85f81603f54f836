--- iteration: one iteration of MOC with the pieces and the defaults of recipes/moc_hh.lua, lines 2 to 10 of Algorithm 1,
-- without its log and checkpoints. Weights are random; both low-rank factors and the heads are, so that no term vanishes.

local Control = require "mocl.method.control"
local inputs = require "inputs"
local kl_controller = require "mocl.method.kl_controller"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local policy = require "mocl.lm.policy"
local ppo = require "mocl.train.ppo"
local preference = require "mocl.method.preference"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local iteration = {}

local N, ITERATIONS, EPOCHS = 2, 4, 4
local LR, CLIP, VF, BETA, GAMMA, LAM = 4e-3, .2, .25, .2, 1, .95

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
    local heads = ppo.value_heads(N, task.config.hidden_size, { key = rng.key(0, "heads") })
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

    local parameters = lora.parameters(model)
    table.move(heads:parameters(), 1, 4 * N, #parameters + 1, parameters)
    local start = {}
    for i = 1, 64 do
      start[i] = { i % 7 - 3, i % 5 - 2 }
    end
    local s = {
      model = model, heads = heads, rewards = rewards, draws = draws, at = 0, seconds = {}, task = task,
      actor = policy.new { model = model, tokenizer = task.tok, max_new_tokens = size.new_tokens },
      control = Control.new(control_options(), N, grid, start), beta = kl_controller.adaptive { init_kl_coef = BETA, target = 6, horizon = 1200 },
      opt = optim.adamw(parameters, { lr = LR }),
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

--- One iteration. `seen` (or nil) receives what the peer needs to compute the first epoch's loss itself.
function iteration.once(s, seen)
  local scope <close> = tensor.scope()
  local from = sys.now()
  s.at = s.at + 1
  local draw, model, heads = s.draws[(s.at - 1) % #s.draws + 1], s.model, s.heads
  local texts = {}
  for i, prompt in ipairs(draw.plain) do
    texts[i] = preference.relabel(prompt, draw.prefs[i])
  end
  local responses, ids, old = s.actor:answer(texts, { key = rng.key(0, "rollout " .. s.at) })
  from = clock(s, "rollout", from)

  local raw = {}
  for j, r in ipairs(s.rewards) do
    for i, score in ipairs(reward.call(r.f, r.name, draw.plain, responses)) do
      raw[i] = raw[i] or {}
      raw[i][j] = score
    end
  end
  local R = s.control:observe(raw, draw.places)
  from = clock(s, "scoring", from)

  local batch = transformer.pack(ids.prompts, ids.tokens)
  local frozen = model:config().num_hidden_layers - 1
  local stem = tensor.no_grad(model.forward, model, batch, { stop = frozen })
  local function states(adapter)
    return model:forward(batch, { adapter = adapter, rows = batch.rows, hidden = stem, start = frozen })
  end
  local reference = tensor.no_grad(states, false)
  local first_states = states(true)
  local values = heads:forward(first_states:detach()):detach()
  local adv, returns = ppo.gae(ppo.terminal(R, batch), values, batch.response_offsets, { gamma = GAMMA, lam = LAM })
  adv = adv - adv:mean(1, true)
  local solved = s.control:solve(adv, batch, draw.prefs, draw.places)
  local combined = (adv * solved.w):sum(2)
  from = clock(s, "advantages", from)

  local last_kl
  for epoch = 1, EPOCHS do
    local hidden = epoch == 1 and first_states or states(true)
    local logp, entropy, kl = nn.lm_head(hidden, model:head(), batch.targets, { hidden_ref = reference })
    local surrogate, ratio, clipped = ppo.clip(logp, old, combined, CLIP)
    local value_error = ppo.value_loss(heads:forward(hidden), returns)
    local loss = surrogate:mean() + value_error * VF + (kl * solved.c):mean() * s.beta:value()
    s.opt:zero_grad()
    loss:backward()
    local norm = s.opt:step { lr = LR, max_grad_norm = 1 }
    last_kl = kl:sum():item() / #draw.plain
    local shown = { surrogate:mean():item(), value_error:item(), clipped:mean():item(), (logp - old):square():mean():item(),
      entropy:mean():item(), (ratio - 1):abs():max():item() }
    if seen and epoch == 1 then
      local scores = tensor.no_grad(s.rewards[1].f.forward, s.rewards[1].f, draw.plain_ids, ids.tokens)
      seen.tokens, seen.old, seen.combined, seen.returns, seen.c = ids.tokens, old:totable(), combined:totable(), returns:totable(), solved.c:totable()
      seen.numbers = { shown[1], shown[2], shown[5], last_kl, loss:item(), norm, scores:mean():item(), scores[1]:item() }
    end
  end
  s.beta:update(last_kl, #draw.plain)
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
