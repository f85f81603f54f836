--- mocl.lm: training a language model on text: pretraining and supervised fine-tuning.
-- The loss is the mean of -log p over the response tokens of a batch; a document is a response to BOS.

local deck = require "mocl.deck"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local optim = require "mocl.optim.core"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local transformer = require "mocl.transformer"

local lm = {}

--- Token ids of {prompt=, response=} rows: prompts with what the options `front` of tok:encode put there ({bos=true}: BOS),
-- responses with EOS behind.
function lm.encode(tok, rows, front)
  local prompts, responses = {}, {}
  for i, row in ipairs(rows) do
    if type(row) ~= "table" or type(row.response) ~= "string" or type(row.prompt or "") ~= "string" then
      error(("lm.encode: row %d is not {prompt =, response =} with texts"):format(i), 2)
    end
    prompts[i] = tok:encode(row.prompt or "", front or { bos = true })
    responses[i] = tok:encode(row.response, { eos = true })
  end
  return prompts, responses
end

--- Mean -log p of the response tokens (a scalar tensor) and their number. opts are those of model:forward.
function lm.loss(model, prompts, responses, opts)
  local batch = transformer.pack(prompts, responses, { device = model:device() })
  local with = { rows = batch.rows }
  for key, v in pairs(opts or {}) do
    with[key] = v
  end
  local hidden = model:forward(batch, with)
  local logp = nn.lm_head(hidden, model:head(), batch.targets, { entropy = false })
  return -logp:mean(), batch.response_total
end

--- Mean -log p per token over a whole set, without gradients.
function lm.evaluate(model, prompts, responses, batch_size)
  local sum, count = 0, 0
  for first = 1, #prompts, batch_size do
    local scope <close> = tensor.scope()
    local last = math.min(#prompts, first + batch_size - 1)
    local loss, n = tensor.no_grad(lm.loss, model, table.move(prompts, first, last, 1, {}),
      table.move(responses, first, last, 1, {}), { adapter = true })
    sum, count = sum + loss:item() * n, count + n
  end
  return sum / count
end

--- Warm-up to 1, then linear to 0 at `total`: the factor of step (from 1).
function lm.schedule(step, warmup, total)
  if step <= warmup then
    return step / warmup
  end
  return math.max(0, (total - step + 1) / math.max(1, total - warmup))
end

--- lm.train{model=, parameters=, prompts=, responses=, steps=, batch_size=, lr=, seed=, purpose=,
-- weight_decay=0, max_grad_norm=1, max_tokens=nil, on_step=function(step, loss)} -> mean loss of the last tenth.
-- Batches are drawn from reshuffled epochs; rows longer than max_tokens (prompt and response) are cut there.
function lm.train(o)
  options.check("lm.train", o, { "model", "parameters", "prompts", "responses", "steps", "batch_size", "lr", "seed", "purpose" },
    { "weight_decay", "max_grad_norm", "max_tokens", "on_step" })
  local rows = {}
  local key = rng.key(o.seed, o.purpose .. " dropout")
  local opt <close> = optim.adamw(o.parameters, { lr = o.lr, weight_decay = o.weight_decay or 0, betas = { .9, .99 } })
  for i = 1, #o.prompts do
    rows[i] = i
  end
  local order = deck.new(rng.new(o.seed, o.purpose), rows)
  local warmup, tail, tail_n = math.max(1, o.steps // 20), 0, 0
  for step = 1, o.steps do
    local scope <close> = tensor.scope()
    local prompts, responses = {}, {}
    for i, row in ipairs(order:deal(o.batch_size)) do
      prompts[i], responses[i] = o.prompts[row], o.responses[row]
      if o.max_tokens and #prompts[i] + #responses[i] > o.max_tokens then
        responses[i] = table.move(responses[i], 1, math.max(1, o.max_tokens - #prompts[i]), 1, {})
      end
    end
    local loss = lm.loss(o.model, prompts, responses, { train = true, key = key, stream = step })
    opt:zero_grad()
    loss:backward()
    opt:step { lr = o.lr * lm.schedule(step, warmup, o.steps), max_grad_norm = o.max_grad_norm or 1 }
    local value = loss:item()
    if step > o.steps * .9 then
      tail, tail_n = tail + value, tail_n + 1
    end
    if o.on_step then
      o.on_step(step, value)
    end
  end
  opt:zero_grad()
  return tail / math.max(1, tail_n)
end

return lm
