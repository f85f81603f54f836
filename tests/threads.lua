--- threads: what tests/c/test_threads.c runs with one thread and with three, and in two states at once: every kind of
-- kernel that is cut into pieces, large enough for several. Leaves the digits of what came out in the global `result`.

local lm = require "mocl.lm.sft"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local ppo = require "mocl.method.ppo"
local segments = require "mocl.segments"
local value_heads = require "mocl.train.value_heads"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local parts = {}
local function note(t)
  parts[#parts + 1] = type(t) == "number" and ("%.17g"):format(t) or ("%.17g %.17g"):format(t:sum():item(), t:abs():max():item())
end

local function random(shape, stream)
  return tensor.randn(shape, { seed = 3, stream = stream })
end

do -- element by element, reductions, products, copies
  local scope <close> = tensor.scope()
  local a, b = random({ 160, 300 }, 1), random({ 300, 170 }, 2)
  note(a:matmul(b))
  note((a * 2 + 1):exp():clamp(0, 5))
  note(a:transpose(1, 2):contiguous())
  note(a:sum(1))
  note(a:mean(2))
  note(a:softmax())
  note(tensor.cat({ a, a }, 1))
  note(a:index_select({ 5, 1, 160 }))
end

-- a decoder: embedding, norms, rotary embedding, attention, SwiGLU, the head, their gradients, adapters, Adam
local model = transformer.new({ vocab_size = 600, hidden_size = 64, num_hidden_layers = 1, num_attention_heads = 4,
  intermediate_size = 96, max_position_embeddings = 64 }, { key = 1 })
local prompts, responses = {}, {}
for i = 1, 8 do
  prompts[i], responses[i] = {}, {}
  for k = 1, 20 do
    prompts[i][k], responses[i][k] = (i * 37 + k * 11) % 600, (i * 53 + k * 7) % 600
  end
end
do
  local parameters = transformer.train_base(model)
  local opt <close> = optim.adamw(parameters, { lr = 1e-2 })
  for _ = 1, 2 do
    local scope <close> = tensor.scope()
    local loss = lm.loss(model, prompts, responses)
    opt:zero_grad()
    loss:backward()
    note(opt:step { max_grad_norm = 1 })
    note(loss:item())
  end
  opt:zero_grad()
  transformer.train_base(model, false)
end

do -- rollout, advantages, the clipped loss
  model:add_lora { r = 4, key = 2 }
  local scope <close> = tensor.scope()
  local g, old = model:generate(prompts, { max_new_tokens = 12, key = 3 })
  local batch = transformer.pack(prompts, g.tokens)
  local rewards = {}
  for i = 1, #prompts do
    rewards[i] = { i % 3, i % 5 }
  end
  local hidden = nn.rows(model:forward(batch), batch.rows)
  local logp, entropy, kl = nn.lm_head(hidden, model:head(), batch.targets, { hidden_ref = hidden:detach() })
  local heads = value_heads.new(2, 64, { key = 4 })
  local values = heads:forward(hidden)
  local adv, returns = ppo.gae(segments.terminal(rewards, batch), values:detach(), batch.response_offsets)
  local loss = ppo.clip(logp, old, adv:sum(2), .2):mean() + kl:mean() + ppo.value_loss(values, returns)
  loss:backward()
  note(logp)
  note(entropy)
  note(loss:item())
  for _, p in ipairs(require("mocl.lm.lora").parameters(model)) do
    note(p.grad)
    p:zero_grad()
  end
end
model:release()

_G.result = table.concat(parts, "\n")
