--- mocl.lm.sft: training a language model on text: pretraining and supervised fine-tuning.
-- The loss is the mean of -log p over the response tokens of a batch; a document is a response to BOS.

local chat = require "mocl.lm.chat"
local finite = require "mocl.finite"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local preference = require "mocl.preference"
local prefs = require "mocl.data.prefs"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local trainer = require "mocl.lm.supervised"
local transformer = require "mocl.lm.model"

local lm = {}

-- tokenizer -> the chat template in which its prompts are written
local chats = setmetatable({}, { __mode = "k" })

--- lm.write_as_chat(tok, template): from now on prompts of this tokenizer are chats of a template of mocl.lm.chat: a
-- dialogue's turns are its messages (mocl.data.messages), another text is one of the user's, and tags stand in front
-- of the user's first. Answers lose the blank that they begin with elsewhere. nil: prompts as they are.
function lm.write_as_chat(tok, template)
  chats[tok] = template
end

local function chat_ids(tok, text)
  local plain = preference.strip(text)
  local messages, tags = prefs.messages(plain), text:sub(1, #text - #plain)
  local first = messages[1].role == "system" and 2 or 1
  messages[first].content = tags .. messages[first].content
  return chat.encode(tok, chat.apply(chats[tok], messages, { add_generation_prompt = true }))
end

--- Token ids of a prompt: with what the tokenizer's files put around a text, or where that is nothing at all, BOS; a
-- chat where the tokenizer's prompts are chats.
function lm.prompt(tok, text)
  if chats[tok] then
    return chat_ids(tok, text)
  end
  local ids = tok:encode(text, { add_special_tokens = true })
  if #ids == 0 then
    ids[1] = tok:bos_id() or error("the prompt is empty and this tokenizer has no BOS token to begin with", 0)
  end
  return ids
end

--- The same of a list of texts, as one object of rows (transformer.rows).
function lm.prompts(tok, texts)
  if chats[tok] then
    local list = {}
    for i, text in ipairs(texts) do
      list[i] = chat_ids(tok, text)
    end
    return transformer.rows(list)
  end
  local rows = tok:encode_batch(texts, { add_special_tokens = true, ragged = true })
  for i, n in ipairs(rows:lengths()) do
    if n == 0 then
      local list = rows:totable()
      for k = i, #list do
        list[k] = lm.prompt(tok, texts[k])
      end
      return transformer.rows(list)
    end
  end
  return rows
end

--- The text of an answer as it follows its prompt.
function lm.answer(tok, text)
  return chats[tok] and text:gsub("^ ", "") or text
end

--- The same of a list of texts.
function lm.answers(tok, texts)
  local list = texts
  if chats[tok] then
    list = {}
    for i, text in ipairs(texts) do
      list[i] = lm.answer(tok, text)
    end
  end
  return list
end

--- Token ids of {prompt=, response=} rows: prompts as lm.prompt gives them, responses with EOS behind.
function lm.encode(tok, rows)
  local prompts, responses = {}, {}
  for i, row in ipairs(rows) do
    if type(row) ~= "table" or type(row.response) ~= "string" or type(row.prompt or "") ~= "string" then
      error(("lm.encode: row %d is not {prompt =, response =} with texts"):format(i), 2)
    end
    prompts[i] = lm.prompt(tok, row.prompt or "")
    responses[i] = tok:encode(lm.answer(tok, row.response), { eos = true })
  end
  return prompts, responses
end

-- log p of the response tokens [T], and their number
local function logp_of(model, prompts, responses, opts)
  local batch = transformer.pack(prompts, responses, { device = model:device() })
  local with = { rows = batch.rows }
  for key, v in pairs(opts or {}) do
    with[key] = v
  end
  local hidden = model:forward(batch, with)
  local logp = nn.lm_head(hidden, model:head(), batch.targets, { entropy = false })
  return logp, batch.response_total
end

--- Mean -log p of the response tokens (a scalar tensor) and their number. opts are those of model:forward.
function lm.loss(model, prompts, responses, opts)
  local logp, n = logp_of(model, prompts, responses, opts)
  return -logp:mean(), n
end

--- lm.losses(model, prompts, responses, batch_size, adapter) -> list of {sum, n}: -log p of each response's tokens in all, and
-- their number, with the adapter unless `adapter` is false, without gradients. Raises where one is not finite.
function lm.losses(model, prompts, responses, batch_size, adapter)
  local out = {}
  for first = 1, #prompts, batch_size do
    local scope <close> = tensor.scope()
    local last = math.min(#prompts, first + batch_size - 1)
    local some = table.move(responses, first, last, 1, {})
    local means = tensor.no_grad(function()
      local batch = transformer.pack(table.move(prompts, first, last, 1, {}), some, { device = model:device() })
      local hidden = model:forward(batch, { rows = batch.rows, adapter = adapter ~= false })
      return nn.segment_mean(nn.lm_head(hidden, model:head(), batch.targets, { entropy = false }):unsqueeze(2), batch.response_offsets)
    end)
    for i, mean in ipairs(means:flatten():totable()) do
      out[#out + 1] = { finite.number(-mean * #some[i], ("lm.losses: the loss of row %d"):format(#out + 1)), #some[i] }
    end
  end
  return out
end

--- lm.perplexity(losses) -> {perplexity, low, high, rows, tokens} of lm.losses' list: exp of the mean loss of a
-- token, and of the ends of its 95 % interval. The interval is that of a ratio of sums over rows (Cochran, Sampling
-- Techniques, section 2.11), since the tokens of one answer are not independent; of one row it is not known, and low
-- and high are nan.
function lm.perplexity(losses)
  local sum, tokens, squares = 0, 0, 0
  for _, row in ipairs(losses) do
    sum, tokens = sum + row[1], tokens + row[2]
  end
  local mean, n = sum / tokens, #losses
  for _, row in ipairs(losses) do
    squares = squares + (row[1] - mean * row[2]) ^ 2
  end
  local half = 1.959963984540054 * math.sqrt(n / (n - 1) * squares) / tokens
  local p = { perplexity = math.exp(mean), rows = n, tokens = tokens }
  if n > 1 then
    p.low, p.high = math.exp(mean - half), math.exp(mean + half)
  end
  return p
end

--- Mean -log p per token over a whole set, without gradients. Raises where it is not finite.
function lm.evaluate(model, prompts, responses, batch_size)
  local sum, count = 0, 0
  for first = 1, #prompts, batch_size do
    local scope <close> = tensor.scope()
    local last = math.min(#prompts, first + batch_size - 1)
    local loss, n = tensor.no_grad(lm.loss, model, table.move(prompts, first, last, 1, {}),
      table.move(responses, first, last, 1, {}), { adapter = true })
    local value = finite.number(loss:item(), ("lm.evaluate: the loss of rows %d to %d"):format(first, last))
    sum, count = sum + value * n, count + n
  end
  return sum / count
end

-- The rows of a batch as lists of prompts and responses; rows longer than max_tokens (prompt and response) are cut there.
local function batch_of(rows, o)
  local prompts, responses = {}, {}
  for i, row in ipairs(rows) do
    prompts[i], responses[i] = o.prompts[row], o.responses[row]
    if o.max_tokens and #prompts[i] + #responses[i] > o.max_tokens then
      responses[i] = table.move(responses[i], 1, math.max(1, o.max_tokens - #prompts[i]), 1, {})
    end
  end
  return prompts, responses
end

local NEEDED = { "model", "parameters", "prompts", "responses", "steps", "batch_size", "lr", "seed", "purpose" }
local OPTIONAL = { "weight_decay", "max_grad_norm", "max_tokens", "lr_name", "lr_scheduler_type", "pieces" }

--- lm.trainer{...} -> a mocl.lm.supervised of the loss; options as lm.train, without on_step.
function lm.trainer(o)
  options.check("lm.trainer", o, NEEDED, OPTIONAL)
  local rows, key = {}, rng.key(o.seed, o.purpose .. " dropout")
  for i = 1, #o.prompts do
    rows[i] = i
  end
  return trainer.new {
    name = o.purpose, parameters = o.parameters, rows = rows, steps = o.steps, batch_size = o.batch_size, lr = o.lr, seed = o.seed,
    purpose = o.purpose, weight_decay = o.weight_decay, max_grad_norm = o.max_grad_norm, lr_name = o.lr_name,
    lr_scheduler_type = o.lr_scheduler_type,
    loss = function(some, step)
      local prompts, responses = batch_of(some, o)
      return (lm.loss(o.model, prompts, responses, { train = true, key = key, stream = step }))
    end,
    pieces = o.pieces,
    outputs = function(some, stream)
      local prompts, responses = batch_of(some, o)
      return (logp_of(o.model, prompts, responses, { train = true, key = key, stream = stream }))
    end,
    loss_of = function(logp)
      return -logp:mean()
    end,
  }
end

--- lm.train{model=, parameters=, prompts=, responses=, steps=, batch_size=, lr=, seed=, purpose=, weight_decay=0,
-- max_grad_norm=1, max_tokens=nil, lr_name="lr", lr_scheduler_type="linear", pieces=1, on_step=function(step, loss)} -> mean loss of
-- the last tenth.
-- Batches are drawn from reshuffled epochs; rows longer than max_tokens (prompt and response) are cut there. The first
-- loss, gradient or weight that is not finite raises; purpose and lr_name are what the error calls the training and lr.
function lm.train(o)
  options.check("lm.train", o, NEEDED, { "on_step", table.unpack(OPTIONAL) })
  local plain = {}
  for key, v in pairs(o) do
    plain[key] = key ~= "on_step" and v or nil
  end
  local t <close> = lm.trainer(plain)
  for step = 1, o.steps do
    local loss = t:step()
    if o.on_step then
      o.on_step(step, loss)
    end
  end
  return t:finish()
end

return lm
