--- mocl.lm.reward: rewards as functions (prompts, responses) -> list of numbers.
-- A reward model is a decoder with a linear score head; its score of an answer is the mean of the head over
-- the states of the answer's tokens (pool="mean"; "last" takes the last token's). It is trained on pairs by
-- the Bradley-Terry loss -log sigmoid(score(chosen) - score(rejected)), the L_RM of the paper's section 2.

local comm = require "mocl.comm"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local functions = require "mocl.functions"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local metrics = require "mocl.metrics"
local nn = require "mocl.nn.core"
local on_error = require "mocl.on_error"
local options = require "mocl.options"
local parameters = require "mocl.parameters"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local trainer = require "mocl.lm.supervised"
local transformer = require "mocl.lm.model"

local reward = {}

local Model = {}
Model.__index = Model

local POOLS = { mean = true, last = true }

--- reward.model{trunk=, tokenizer=, pool="mean", max_tokens=} -> a model whose head is zero.
function reward.model(o)
  options.check("reward.model", o, { "trunk", "tokenizer" }, { "pool", "max_tokens" })
  local width = o.trunk:config().hidden_size
  if not POOLS[o.pool or "mean"] then
    error(("reward.model: pool is 'mean' or 'last', got '%s'"):format(tostring(o.pool)), 2)
  end
  return setmetatable({
    trunk = o.trunk, tokenizer = o.tokenizer, pool = o.pool or "mean",
    max_tokens = o.max_tokens or o.trunk:config().max_position_embeddings,
    head = tensor.zeros({ 1, width }, { device = o.trunk:device() }),
  }, Model)
end

--- Token ids of prompts and responses, responses with EOS; what is over max_tokens is cut: prompts lose their
-- beginning, responses their end.
function Model:encode(prompts, responses)
  options.answers("reward model", prompts, responses)
  local p, r = {}, {}
  for i = 1, #prompts do
    local response = self.tokenizer:encode(lm.answer(self.tokenizer, responses[i]), { eos = true })
    local prompt = lm.prompt(self.tokenizer, prompts[i])
    local room = self.max_tokens - #response
    if #prompt > math.max(1, room) then
      prompt = table.move(prompt, #prompt - math.max(1, room) + 1, #prompt, 1, {})
    end
    r[i] = #response >= self.max_tokens and table.move(response, 1, self.max_tokens - 1, 1, {}) or response
    p[i] = prompt
  end
  return p, r
end

-- Scores [n] (a tensor with history) of a batch that transformer.pack made.
local function scores_of(self, batch)
  local scores = nn.linear(self.trunk:forward(batch, { rows = batch.token_rows }), self.head)
  if self.pool == "mean" then
    return nn.segment_mean(scores, batch.response_offsets):flatten()
  end
  local last, offsets = {}, batch.response_offsets:totable()
  for i = 1, batch.n do
    last[i] = offsets[i + 1]
  end
  return scores:index_select(last):flatten()
end

--- Scores [n] (a tensor with history) of encoded pairs.
function Model:forward(prompts, responses)
  return scores_of(self, transformer.pack(prompts, responses, { device = self.trunk:device() }))
end

-- The ids of Model:encode as objects of rows; lists are made only where something is to be cut.
local function encode_rows(self, prompts, responses)
  options.texts("reward model, prompts", prompts)
  options.texts("reward model, responses", responses)
  if #prompts == #responses then
    local p = lm.prompts(self.tokenizer, prompts)
    local r = self.tokenizer:encode_batch(lm.answers(self.tokenizer, responses), { eos = true, ragged = true })
    local lengths, fits = r:lengths(), true
    for i, n in ipairs(p:lengths()) do
      fits = fits and n + lengths[i] <= self.max_tokens
    end
    if fits then
      return p, r
    end
  end
  local p, r = self:encode(prompts, responses)
  return transformer.rows(p), transformer.rows(r)
end

-- Texts as the packed batches a model reads: at most batch_size answers each. The answers are encoded from their texts, since the
-- ids that a policy drew need not be those of the text: the same text can be cut in several ways.
local function batches_of(self, prompts, responses, batch_size)
  local p, r = encode_rows(self, prompts, responses)
  local list, step = {}, batch_size or 64
  for first = 1, #p, step do
    local last = math.min(#p, first + step - 1)
    list[#list + 1] = transformer.pack(p:slice(first, last), r:slice(first, last), { device = self.trunk:device() })
  end
  return list
end

--- model:read(prompts, responses) -> batches, which model:judge scores, and so does a model that reads_as this one.
function Model:read(prompts, responses)
  return batches_of(self, prompts, responses)
end

function Model:reads_as(other)
  return getmetatable(other) == Model and other.tokenizer == self.tokenizer and other.max_tokens == self.max_tokens
    and other.trunk:device() == self.trunk:device()
end

--- Scores of such batches, as numbers.
function Model:judge(batches)
  local out = {}
  for _, batch in ipairs(batches) do
    local scope <close> = tensor.scope()
    for _, score in ipairs(tensor.no_grad(scores_of, self, batch):totable()) do
      out[#out + 1] = finite.number(score, ("reward model: the score of answer %d"):format(#out + 1))
    end
  end
  return out
end

--- Scores of texts, as numbers. Called like a function too: model(prompts, responses).
function Model:score(prompts, responses, batch_size)
  local scope <close> = tensor.scope()
  return self:judge(batches_of(self, prompts, responses, batch_size))
end

Model.__call = Model.score

-- A row's prompt once per answer, its answers, and its comparisons as pairs of indices of answers.
local function expand(row)
  local responses = row.responses or { row.chosen, row.rejected }
  local prompts = {}
  for i = 1, #responses do
    prompts[i] = row.prompt
  end
  return prompts, responses, row.comparisons or { { 1, 2 } }
end

--- A batch of rows as token ids: {prompts=, responses=, chosen=, rejected=}; the last two are indices of responses, one
-- of each per comparison. A row is {prompt=, chosen=, rejected=}, or {prompt=, responses=, comparisons=}: answers to
-- one prompt and a list of {index of the chosen, index of the rejected}. cache[row] keeps a row's ids for the next time.
function Model:collate(rows, cache)
  local out = { prompts = {}, responses = {}, chosen = {}, rejected = {} }
  for _, row in ipairs(rows) do
    local ids = cache and cache[row]
    if not ids then
      local prompts, responses, comparisons = expand(row)
      ids = { comparisons = comparisons }
      ids.prompts, ids.responses = self:encode(prompts, responses)
      if cache then
        cache[row] = ids
      end
    end
    local first = #out.prompts
    table.move(ids.prompts, 1, #ids.prompts, first + 1, out.prompts)
    table.move(ids.responses, 1, #ids.responses, first + 1, out.responses)
    for _, c in ipairs(ids.comparisons) do
      table.insert(out.chosen, first + c[1])
      table.insert(out.rejected, first + c[2])
    end
  end
  return out
end

--- The Bradley-Terry loss of a collated batch, a mean over its comparisons, and their margins [C]. An answer is
-- computed once however often it is compared. scores: those of its answers, where they are known.
function Model:loss(batch, scores)
  scores = scores or self:forward(batch.prompts, batch.responses)
  local margin = scores:index_select(batch.chosen) - scores:index_select(batch.rejected)
  return -margin:logsigmoid():mean(), margin
end

-- a key for two lists of ids to be compared by
local function ids_key(ids)
  return table.concat(ids, " ")
end

--- model:comparable(rows, cache) -> rows, count: without the comparisons whose answers are the same once they are cut
-- to max_tokens, from which nothing can be learnt (their loss is log 2 for ever); count says how many there were. A row
-- that has none of them is handed on as it is. cache as in model:collate.
function Model:comparable(rows, cache)
  local kept, left_out = {}, 0
  for _, row in ipairs(rows) do
    local ids, keys, comparisons = self:collate({ row }, cache), {}, {}
    for i, response in ipairs(ids.responses) do
      keys[i] = ids_key(response)
    end
    for c = 1, #ids.chosen do
      if keys[ids.chosen[c]] ~= keys[ids.rejected[c]] then
        comparisons[#comparisons + 1] = { ids.chosen[c], ids.rejected[c] }
      end
    end
    local n = #ids.chosen - #comparisons
    left_out = left_out + n
    if n == 0 then
      kept[#kept + 1] = row
    elseif #comparisons > 0 then
      kept[#kept + 1] = { prompt = row.prompt, responses = row.responses, comparisons = comparisons }
    end
  end
  return kept, left_out
end

local NEEDED = { "pairs", "steps", "batch_size", "lr", "seed", "purpose" }

--- A mocl.lm.supervised of trunk and head; its second figure is the accuracy on the batch. o: pairs (rows as for model:collate),
-- steps, batch_size (rows), lr, seed, purpose, and optionally weight_decay, pieces and lr_name, which errors call the step size.
-- Comparisons of answers that are the same once they are cut are left out (model:comparable); trainer.left_out is
-- their number.
function Model:trainer(o)
  options.check("trainer", o, NEEDED, { "weight_decay", "lr_name", "pieces" })
  local cache = {}
  local rows, left_out = self:comparable(o.pairs, cache)
  if #rows == 0 then
    error(("trainer: none of %d comparisons says anything: their answers are the same once cut to max_tokens=%d"):format(
      left_out, self.max_tokens), 2)
  end
  transformer.train_base(self.trunk)
  local parameters = self.trunk:named_parameters()
  parameters[#parameters + 1] = { "score.weight", self.head:requires_grad_() }
  local t = trainer.new {
    name = o.purpose, parameters = parameters, rows = rows, steps = o.steps, batch_size = o.batch_size, lr = o.lr, seed = o.seed,
    purpose = o.purpose, weight_decay = o.weight_decay, lr_name = o.lr_name,
    loss = function(batch)
      local loss, margin = self:loss(self:collate(batch, cache))
      return loss, margin:gt(0):mean()
    end,
    pieces = o.pieces,
    outputs = function(some)
      local batch = self:collate(some, cache)
      return self:forward(batch.prompts, batch.responses)
    end,
    loss_of = function(scores, some)
      local loss, margin = self:loss(self:collate(some, cache), scores)
      return loss, margin:gt(0):mean()
    end,
  }
  t.left_out = left_out
  return t
end

--- Marks the weights as no longer trained.
function Model:freeze()
  transformer.train_base(self.trunk, false)
  self.head:requires_grad_(false)
end

--- Trains trunk and head; o: as for model:trainer, and on_step(step, loss, accuracy). The first loss, gradient or weight that
-- is not finite raises. Returns trainer.left_out.
function Model:train(o)
  options.check("train", o, NEEDED, { "weight_decay", "lr_name", "on_step" })
  local plain = {}
  for key, v in pairs(o) do
    plain[key] = key ~= "on_step" and v or nil
  end
  local t <close> = self:trainer(plain)
  for step = 1, o.steps do
    local loss, accuracy = t:step()
    if o.on_step then
      o.on_step(step, loss, accuracy)
    end
  end
  t:finish()
  self:freeze()
  return t.left_out
end

--- Share of pairs whose chosen answer scores higher, with Wilson's 95 % interval: {accuracy, low, high, n}.
function Model:accuracy(pairs_list)
  local p, a = {}, {}
  for i, pair in ipairs(pairs_list) do
    p[i], a[i], p[#pairs_list + i], a[#pairs_list + i] = pair.prompt, pair.chosen, pair.prompt, pair.rejected
  end
  local s, right = self:score(p, a), 0
  for i = 1, #pairs_list do
    right = right + (s[i] > s[#pairs_list + i] and 1 or 0)
  end
  local low, high = metrics.wilson(right, #pairs_list)
  return { accuracy = right / #pairs_list, low = low, high = high, n = #pairs_list }
end

--- model:save(dir) -> true | fail: the trunk as a Hugging Face directory and score_head.safetensors.
function Model:save(dir)
  local file = fs.join(dir, "score_head.safetensors")
  local ok, message, code = finite.tensors({ { "score.weight", self.head } }, file)
  if ok then
    ok, message, code = transformer.save(self.trunk, dir)
  end
  if ok then
    ok, message, code = safetensors.save(file, { ["score.weight"] = self.head },
      { pool = self.pool, max_tokens = tostring(self.max_tokens) })
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- reward.load(dir, tokenizer, {device=}) -> model | fail.
function reward.load(dir, tokenizer, opts)
  local trunk, message, code = transformer.load(dir, opts)
  if not trunk then
    return nil, message, code
  end
  local file = fs.join(dir, "score_head.safetensors")
  local tensors, meta, kind = safetensors.load(file, opts)
  if not tensors then
    return nil, meta, kind
  end
  local sound, bad_tensor, format = finite.tensors(tensors, file)
  if not sound then
    return nil, bad_tensor, format
  end
  if not POOLS[meta.pool] or not math.tointeger(tonumber(meta.max_tokens)) then
    return nil, file .. ": no pool or max_tokens in its metadata", "FORMAT"
  end
  local model = reward.model { trunk = trunk, tokenizer = tokenizer, pool = meta.pool,
    max_tokens = math.tointeger(tonumber(meta.max_tokens)) }
  local ok, bad, why = parameters.copy({ { "score.weight", model.head } }, tensors, file)
  if not ok then
    return nil, bad, why
  end
  return model
end

--- reward.functions(path) -> {name = function} | fail: a Lua file that returns such a table, run here.
function reward.functions(path)
  return functions.load(path, "reward")
end

-- ---- calling rewards of any kind ----

local LARGEST = 1e150 -- the square of a reward must be a finite number, for its deviation

local function copy(list)
  return table.move(list, 1, #list, 1, {})
end

-- a value that is no number, in words
local function in_words(v)
  if v == nil then
    return "nil"
  elseif type(v) == "string" then
    return "the string " .. json.encode(#v > 60 and v:sub(1, 60) .. "..." or v, { replace_invalid = true })
  elseif type(v) == "boolean" then
    return "the boolean " .. tostring(v)
  end
  return "a " .. (tensor.is_tensor(v) and "tensor" or type(v))
end

-- why a number cannot be a reward, as words for what it is; or nil
local function not_usable(s)
  if s ~= s then
    return "nan"
  elseif math.type(s) == "integer" then
    -- 2.0^63 itself has no integer, and math.maxinteger rounds to it
    return math.tointeger(s + 0.0) ~= s and ("%d, an integer that no floating point number equals"):format(s) or nil
  elseif math.abs(s) == math.huge then
    return tostring(s)
  end
  return math.abs(s) > LARGEST and ("%g, whose square is above every floating point number"):format(s) or nil
end

-- what a reward gave for n answers, as a list of values that need not be numbers; raises where it is none
local function as_list(scores, name, n)
  local got
  if tensor.is_tensor(scores) then
    local shape = scores.shape
    if #shape == 1 and shape[1] == n then
      return scores:totable()
    end
    got = ("a tensor of shape (%s)"):format(table.concat(shape, ","))
  elseif type(scores) ~= "table" then
    got = "a " .. type(scores)
  elseif #scores ~= n then
    got = #scores .. " values"
  else
    return scores
  end
  error(("reward '%s' returned %s for %d answers; it must return a list with one number each"):format(name, got, n), 0)
end

-- f(...); the text of an error leaves with the reward's name
local function named(f, name, ...)
  local words <close> = on_error.words(function(text)
    return ("reward '%s': %s"):format(name, text)
  end)
  return f(...)
end

-- What a reward returned as a list of finite numbers, one per answer.
local function checked(scores, name, responses)
  local list, out = as_list(scores, name, #responses), {}
  for i = 1, #responses do
    local s = list[i]
    if type(s) ~= "number" then
      error(("reward '%s' returned %s for answer %d; it must return a number"):format(name, in_words(s), i), 0)
    end
    local why = not_usable(s)
    if why then
      error(("reward '%s' returned %s for answer %d (%s)"):format(name, why, i, json.encode(responses[i],
        { replace_invalid = true })), 0)
    end
    out[i] = s
  end
  return out
end

-- Whether a reward reads texts before it judges them (read, judge and reads_as: reward models, mocl.lm.probe).
local function is_reader(f)
  local meta = type(f) == "table" and getmetatable(f)
  return type(meta) == "table" and rawget(meta, "reads_as") ~= nil
end

-- The scores of such a reward; what another one with the same reading has read is in `shared`.
local function score_shared(f, prompts, responses, shared)
  for _, s in ipairs(shared) do
    if f:reads_as(s.f) then
      return f:judge(s.read)
    end
  end
  local read = f:read(prompts, responses)
  shared[#shared + 1] = { f = f, read = read }
  return f:judge(read)
end

--- Calls a reward of any kind and checks what comes back: one finite number per answer. The reward gets lists of its
-- own, and so does the caller, so that neither can change what the other goes on with.
function reward.call(f, name, prompts, responses)
  return checked(named(f, name, copy(prompts), copy(responses)), name, responses)
end

-- Scores of a reward that each rank gives its own answers: those of models, whose rows do not see each other.
local function spread(prompts, responses, score)
  local first, last = comm.range(#responses)
  local scores = last >= first and score(table.move(prompts, first, last, 1, {}), table.move(responses, first, last, 1, {})) or {}
  return comm.numbers("rewards", scores)
end

-- Scores of a function of the user's, which may look at all answers at once, and do anything else: rank 0 calls it, alone.
local function asked(f, name, prompts, responses)
  return comm.numbers("rewards", comm.rank() == 0 and comm.alone(reward.call, f, name, prompts, responses) or {})
end

--- reward.table(rewards, prompts, responses) -> raw: raw[i][j] is what reward j, of a list of {name=, f=}, gives answer i. Reward
-- models with one tokenizer read texts that are encoded and packed once, and heads on one trunk (mocl.lm.probe) its states.
function reward.table(rewards, prompts, responses)
  local raw = {}
  for i = 1, #responses do
    raw[i] = {}
  end
  local shared = {}
  for j, r in ipairs(rewards) do
    local scores = not is_reader(r.f) and asked(r.f, r.name, prompts, responses) or spread(prompts, responses, function(some, of)
      return checked(named(score_shared, r.name, r.f, some, of, shared), r.name, of)
    end)
    for i, score in ipairs(scores) do
      raw[i][j] = score
    end
  end
  return raw
end

-- An answer as a policy may give it, and the empty one, which a policy gives now and then.
local TRIAL = { " Yes, gladly: begin with small steps, and ask again.", "" }

--- Calls each reward once, on answers to two prompts (one is used twice if it is alone), so that a mistake in it costs
-- no training. functions: a table by name; names: those that a run uses.
function reward.try(functions, names, prompts)
  local words <close> = on_error.words(function(text)
    return text .. "\nfound by calling it on two answers before anything is trained"
  end)
  for _, name in ipairs(names) do
    if functions[name] then
      reward.call(functions[name], name, { prompts[1], prompts[2] or prompts[1] }, TRIAL)
    end
  end
end

return reward
