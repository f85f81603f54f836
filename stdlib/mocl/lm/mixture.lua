--- mocl.lm.mixture: one answer from several policies, which are adapters of one model: each token is drawn from the product of what
-- they make of it, p(y) ~ prod_j pi_j(y)^w_j, the weighted sum of their log-probabilities, normalised. Multi-Objective Decoding (Shi et
-- al. 2024, arXiv 2406.18853) with the reverse KL, to which each policy was held while it was trained.
--
-- All policies read all prompts in one session, a row for each pair of them, and take the drawn tokens together.

local finite = require "mocl.finite"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local mixture = {}

local function fail(level, fmt, ...)
  error("mixture.generate: " .. fmt:format(...), level + 1)
end

-- Weights of each of n prompts, a list of lists; one list is those of all. They are 0 or more and sum to 1.
local function weights_of(weights, n, adapters)
  local one = type(weights) ~= "table" or type(weights[1]) ~= "table"
  local list = {}
  for i = 1, n do
    local w = one and weights or weights[i]
    if type(w) ~= "table" or #w ~= adapters then
      fail(3, "prompt %d: a list of %d weights expected, one for each adapter", i, adapters)
    end
    local sum = 0
    for k, x in ipairs(w) do
      if type(x) ~= "number" or not (x >= 0 and x <= 1) then
        fail(3, "prompt %d: weight %d is %s; expected 0 to 1", i, k, options.shown(x, "%g"))
      end
      sum = sum + x
    end
    if math.abs(sum - 1) > 1e-6 then
      fail(3, "prompt %d: the weights sum to %s, not 1", i, options.shown(sum, "%.7g"))
    end
    list[i] = w
  end
  return list
end

-- The adapters that have a weight for one of n prompts at least: places in the list.
local function used(weights, n, adapters)
  local list = {}
  for k = 1, adapters do
    for i = 1, n do
      if weights[i][k] > 0 then
        list[#list + 1] = k
        break
      end
    end
  end
  return list
end

-- Rows of the session that belong to these prompts, all of the first adapter first.
local function rows_of(prompts, n, adapters)
  local rows = {}
  for a = 0, adapters - 1 do
    for _, i in ipairs(prompts) do
      rows[#rows + 1] = a * n + i
    end
  end
  return rows
end

--- mixture.logits(logits, weights) -> [n, V]: logits of the mixture. logits [A n, V], those of the first of A adapters for n rows, then
-- those of the second; weights [A, n, 1]. Their weighted sum has the softmax of the weighted sum of log-probabilities: what normalises
-- each adapter's row is one number for all tokens.
function mixture.logits(logits, weights)
  return (logits:reshape { weights.shape[1], weights.shape[2], logits.shape[2] } * weights):sum(1)
end

local NEEDED = { "adapters", "weights", "max_new_tokens", "key" }
local OPTIONAL = { "temperature", "top_k", "top_p", "eos", "vocab_size" }

--- mixture.generate(model, prompts, o) -> generated, logp: as model:generate with ragged rows. o: adapters (names), weights (a list of one for
-- each adapter, or a list of such lists for each prompt; 0 or more, of sum 1), and max_new_tokens, key, temperature, top_k, top_p, eos
-- and vocab_size of model:generate. An adapter without weight is not run.
function mixture.generate(model, prompts, o)
  options.check("mixture.generate", o, NEEDED, OPTIONAL)
  prompts = transformer.rows(prompts)
  local n, lists, lengths = #prompts, prompts:totable(), prompts:lengths()
  if #o.adapters == 0 then
    fail(2, "at least one adapter is needed")
  end
  local weights = weights_of(o.weights, n, #o.adapters)
  local places, eos = used(weights, n, #o.adapters), {}
  for _, id in ipairs(type(o.eos) == "table" and o.eos or { o.eos }) do
    eos[id] = true
  end
  local config, longest, names, all, mix = model:config(), 0, {}, {}, {}
  for i = 1, n do
    longest = math.max(longest, lengths[i])
  end
  for a, k in ipairs(places) do
    mix[a] = {}
    for i = 1, n do
      names[#names + 1], all[#all + 1], mix[a][i] = o.adapters[k], lists[i], { weights[i][k] }
    end
  end
  local room = math.min(longest + o.max_new_tokens, config.max_position_embeddings)
  local vocab, temperature = math.min(o.vocab_size or config.vocab_size, config.vocab_size), o.temperature or 1
  local answers, logps, finished, active = {}, {}, {}, {}
  for i = 1, n do
    answers[i], logps[i], finished[i], active[i] = {}, {}, false, i
  end

  local function step(session, at)
    local scope <close> = tensor.scope()
    local ids, part = {}, {}
    for a = 1, #places do
      part[a] = {}
      for k, i in ipairs(active) do
        part[a][k], ids[k] = mix[a][i], i - 1
      end
    end
    local logits = mixture.logits(session:logits(rows_of(active, n, #places)), tensor.new(part, { device = model:device() }))
    local drawn = nn.sample(logits:narrow(2, 1, vocab), { rows = ids, key = o.key, step = at, temperature = temperature, top_k = o.top_k,
      top_p = o.top_p })
    local picked = (temperature > 0 and logits / temperature or logits):log_softmax():pick(drawn):totable()
    local tokens, kept = drawn:totable(), {}
    for k, i in ipairs(active) do
      finite.number(picked[k], ("mixture.generate: the log-probability of token %d of answer %d"):format(#answers[i] + 1, i))
      table.insert(answers[i], tokens[k])
      table.insert(logps[i], picked[k])
      finished[i] = eos[tokens[k]] == true
      if not finished[i] and #answers[i] < o.max_new_tokens and lengths[i] + #answers[i] <= config.max_position_embeddings then
        kept[#kept + 1] = i
      end
    end
    active = kept
  end

  local function append(session)
    local last, rows = {}, rows_of(active, n, #places)
    for k, row in ipairs(rows) do
      local answer = answers[(row - 1) % n + 1]
      last[k] = { answer[#answer] }
    end
    session:append(last, rows)
  end

  local session <close> = model:session { rows = n * #places, max_tokens = room, adapter = names }
  session:append(all)
  for at = 0, o.max_new_tokens - 1 do
    tensor.no_grad(step, session, at)
    if #active == 0 then
      break
    end
    append(session)
  end
  local flat = {}
  for i = 1, n do
    table.move(logps[i], 1, #logps[i], #flat + 1, flat)
  end
  return { tokens = transformer.rows(answers), finished = finished }, tensor.new(flat, { device = model:device() })
end

return mixture
