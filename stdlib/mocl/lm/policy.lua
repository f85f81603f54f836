--- mocl.lm.policy: a model with its tokenizer, answering texts, and the measurement of such answers under a grid
-- of preferences.

local comm = require "mocl.comm"
local fluency = require "mocl.lm.fluency"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local metrics = require "mocl.metrics"
local mixture = require "mocl.lm.mixture"
local options = require "mocl.options"
local preference = require "mocl.preference"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local running = require "mocl.method.running"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local policy = { normalize = running.normalize }

local Policy = {}
Policy.__index = Policy

--- policy.new{model=, tokenizer=, max_new_tokens=, temperature=1, top_p=1, top_k=0}
function policy.new(o)
  options.check("policy.new", o, { "model", "tokenizer", "max_new_tokens" }, { "temperature", "top_p", "top_k" })
  if math.type(o.max_new_tokens) ~= "integer" or o.max_new_tokens < 1 then
    error(("policy.new: max_new_tokens is an integer of at least 1, got %s"):format(tostring(o.max_new_tokens)), 2)
  end
  return setmetatable({
    model = o.model, tokenizer = o.tokenizer, max_new_tokens = o.max_new_tokens, temperature = o.temperature or 1,
    top_p = o.top_p or 1, top_k = o.top_k or 0,
  }, Policy)
end

--- Token ids of prompts (lm.prompt).
function Policy:encode(texts)
  options.texts("encode", texts)
  local prompts = {}
  for i, text in ipairs(texts) do
    prompts[i] = lm.prompt(self.tokenizer, text)
  end
  return prompts
end

-- The ids that end an answer: the tokenizer's, behind which the answers of a training end, and those of the model's files.
local function ends(self)
  local list, eos = transformer.eos_ids(self.model) or {}, self.tokenizer:eos_id()
  for _, id in ipairs(list) do
    if id == eos then
      return list
    end
  end
  list[#list + 1] = eos
  return list
end

-- ids of answers as lists, made where somebody reads the field
local IDS = { __index = function(ids, key)
  local rows = (key == "prompts" or key == "tokens") and ids.rows[key]
  if rows then
    ids[key] = rows:totable()
    return ids[key]
  end
end }

-- The answers of this rank's rows, and then of all ranks: g and logp of model:generate. Rows do not see each other and draw by their
-- number, so that it is the same who makes them.
local function generate_all(model, prompts, how)
  if comm.size() == 1 then
    return model:generate(prompts, how)
  end
  local first, last = comm.range(#prompts)
  local mine, lengths, finished, logp = {}, {}, {}, nil
  if last >= first then
    local own = {}
    for key, v in pairs(how) do
      own[key] = v
    end
    own.first_row, own.stem = first, nil
    local g
    g, logp = model:generate(prompts:slice(first, last), own)
    for i, row in ipairs(g.tokens:totable()) do
      table.move(row, 1, #row, #mine + 1, mine)
      lengths[i], finished[i] = #row, g.finished[i] and 1 or 0
    end
  end
  local tokens = comm.integers("tokens", mine)
  lengths, finished = comm.integers("lengths", lengths), comm.integers("ends", finished)
  local rows, at = {}, 0
  for i, n in ipairs(lengths) do
    rows[i], finished[i] = table.move(tokens, at + 1, at + n, 1, {}), finished[i] == 1
    at = at + n
  end
  return { tokens = transformer.rows(rows), finished = finished, total = at },
    comm.gather("log-probabilities", logp or tensor.zeros({ 0 }, { device = model:device() }))
end

--- policy:answer(texts, {key=, adapter=true, mixture=nil, stem=0, period=0}) -> responses (texts), ids, logp (flat tensor). mixture, in
-- place of adapter: {adapters=, weights=} of mocl.lm.mixture. With a period text i + period draws with the numbers of text i. ids.rows.prompts and ids.rows.tokens
-- are objects of rows, for transformer.pack; ids.prompts and ids.tokens are lists of the same ids, and ids.finished says which
-- answers came to their end. ids.stem is what generate gives for stem, or nil.
function Policy:answer(texts, o)
  options.texts("answer", texts)
  options.check("answer", o, { "key" }, { "adapter", "mixture", "stem", "period" })
  if math.type(o.key) ~= "integer" then
    error(("answer: key is an integer such as rng.key gives, got a %s"):format(type(o.key)), 2)
  end
  local prompts = lm.prompts(self.tokenizer, texts)
  local how = { max_new_tokens = self.max_new_tokens, temperature = self.temperature, top_p = self.top_p, top_k = self.top_k,
    eos = ends(self), vocab_size = math.min(self.tokenizer:vocab_size(), self.model:config().vocab_size), key = o.key }
  local g, logp
  if o.mixture then
    how.adapters, how.weights = o.mixture.adapters, o.mixture.weights
    g, logp = mixture.generate(self.model, prompts, how)
  else
    how.adapter, how.ragged, how.stem, how.period = o.adapter, true, o.stem, o.period
    g, logp = generate_all(self.model, prompts, how)
  end
  local ids = setmetatable({ rows = { prompts = prompts, tokens = g.tokens }, finished = g.finished, stem = g.stem }, IDS)
  return self.tokenizer:decode_batch(g.tokens), ids, logp
end

local function is_number(x)
  return type(x) == "number"
end

local BATCH = 256 -- rows generated and scored at a time while measuring

-- Answers to one preference are added up in a tally, in their order. losses, blind: of all answers, or empty.
local function add(tally, o, plain, responses, raw, lengths, at, losses, blind)
  for i, prompt in ipairs(plain) do
    local response, row = responses[at + i], raw[at + i]
    tally.rows[#tally.rows + 1] = row
    tally.length, tally.texts[#tally.texts + 1] = tally.length + lengths[at + i], response
    tally.losses[#tally.losses + 1] = losses[at + i]
    tally.blind = tally.blind + (blind[at + i] or 0)
    if #tally.sample < (o.samples or 3) then
      tally.sample[#tally.sample + 1] = { prompt = prompt, response = response, rewards = row }
    end
    local values, bad
    if o.audit then
      values, bad = o.audit(prompt, response)
    end
    if values then
      tally.rule_n, tally.malformed = tally.rule_n + 1, tally.malformed + bad
      for j, r in ipairs(o.rewards) do -- the rule knows nothing of rewards of the user's own
        tally.rule[j] = values[r.name] and (tally.rule[j] or 0) + values[r.name] or json.null
      end
    end
  end
end

local function figures_of(tally, o)
  local rows, rule = tally.rows, tally.rule
  local out = { rows = rows, raw = {}, std = {}, sample = tally.sample, length = tally.length / #rows,
    fluency = o.fluency and fluency.of(tally.losses, tally.texts), blind = o.blind and tally.blind / #rows or nil }
  for j = 1, #o.rewards do
    out.raw[j], out.std[j] = metrics.mean_std(metrics.column(rows, j))
  end
  if tally.rule_n > 0 then
    for j, sum in ipairs(rule) do
      rule[j] = is_number(sum) and sum / tally.rule_n or sum
    end
    out.rule, out.malformed = rule, tally.malformed / tally.rule_n
  end
  return out
end

-- Answers under several preferences, which are generated and scored as one batch; a list of what measure returns.
local function measured(self, preferences, o)
  local tallies, list = {}, {}
  for g in ipairs(preferences) do
    tallies[g] = { rows = {}, rule = {}, rule_n = 0, malformed = 0, sample = {}, length = 0, texts = {}, losses = {}, blind = 0 }
  end
  for first = 1, o.n, BATCH do
    local scope <close> = tensor.scope()
    local key, plain, all, texts = rng.key(o.seed, o.purpose .. " " .. first), {}, {}, {}
    for i = first, math.min(o.n, first + BATCH - 1) do
      plain[#plain + 1] = o.prompts[(i - 1) % #o.prompts + 1]
    end
    local responses, ids
    if o.answer then -- of one preference
      all, responses, ids = plain, o.answer(plain, preferences[1], key)
    else
      for _, p in ipairs(preferences) do
        table.move(plain, 1, #plain, #all + 1, all)
        table.move(preference.tagged(plain, p), 1, #plain, #texts + 1, texts)
      end
      responses, ids = self:answer(texts, { key = key, adapter = o.adapter, period = #plain })
    end
    local raw, lengths = reward.table(o.rewards, all, responses), ids.rows.tokens:lengths()
    local losses = o.fluency and fluency.losses(self, all, ids.rows.tokens) or {}
    local blind = o.blind and reward.call(o.blind, "eval.blind", all, responses) or {}
    for g, tally in ipairs(tallies) do
      add(tally, o, plain, responses, raw, lengths, (g - 1) * #plain, losses, blind)
    end
  end
  for g, tally in ipairs(tallies) do
    list[g] = figures_of(tally, o)
  end
  return list
end

--- Answers under one preference: o: prompts (plain), p, n (answers; the prompts are gone through again as
-- often as needed), seed, purpose, adapter, rewards (list of {name=, f=}), audit, answer (function(prompts, p, key) -> responses, ids
-- of a method that answers in its own way: policy:answer's, of prompts with the tags of p). Returns {raw = means per objective, std =, rows = raw rewards per answer, rule = per objective (json.null where the rule does not know it),
-- malformed =, sample = first answers}, and with fluency=true {perplexity=, distinct_2=} of mocl.lm.fluency as fluency. blind: a reward that
-- nothing was trained on; the table has the mean of its scores as blind.
function Policy:measure(o)
  options.check("measure", o, { "p", "prompts", "n", "seed", "purpose", "rewards" }, { "adapter", "audit", "samples", "answer", "fluency", "blind" })
  return measured(self, { o.p }, o)[1]
end

--- Measures every preference of a list. o as in measure, with on_step(i, n) and before(p, i), which may change the model and return a
-- preference that the tags show in place of p. Returns a list of its results.
-- All of them answer the same prompts with the same random numbers, so that their differences are those of the
-- preferences and much less those of chance (common random numbers).
-- As many preferences as fit a batch are generated and scored together, where they have one policy.
function Policy:measure_all(preferences, o)
  options.check("measure_all", o, { "prompts", "n", "seed", "purpose", "rewards" }, { "adapter", "audit", "samples", "answer", "fluency", "blind", "before",
    "on_step" })
  local list, size = {}, (o.before or o.answer) and 1 or math.max(1, BATCH // math.max(1, o.n))
  for first = 1, #preferences, size do
    local some = table.move(preferences, first, math.min(#preferences, first + size - 1), 1, {})
    if o.before then
      some[1] = o.before(some[1], first) or some[1]
    end
    table.move(measured(self, some, o), 1, #some, #list + 1, list)
    if o.on_step then
      o.on_step(#list, #preferences)
    end
  end
  return list
end

--- policy.constant(statistics) -> list of false, or true for objectives that did not vary; nil where all did.
function policy.constant(statistics)
  local list, any = {}, false
  for j, mean in ipairs(statistics.mean) do
    local _, varies = running.unit(mean, statistics.std[j])
    list[j] = not varies
    any = any or not varies
  end
  return any and list or nil
end

-- The rule's values of a list of measurements: null for objectives it does not know, and no rewards where it knows
-- none.
local function audit(measured, n)
  local rule, points = { malformed = {} }, {}
  for i, m in ipairs(measured) do
    rule.malformed[i], points[i] = m.malformed, {}
    for j = 1, n do
      if is_number(m.rule[j]) then
        table.insert(points[i], m.rule[j])
      end
    end
  end
  if #points[1] > 0 then
    rule.rewards = {}
    for i, m in ipairs(measured) do
      rule.rewards[i] = m.rule
    end
    local origin = {}
    for k = 1, #points[1] do
      origin[k] = 0
    end
    rule.hypervolume = metrics.hypervolume(points, origin)
  end
  return rule
end

-- whether some objective varied among the answers that the statistics are of, or differs from their constant now
local function measured_any(measured, statistics)
  for j, mean in ipairs(statistics.mean) do
    local _, varies = running.unit(mean, statistics.std[j])
    for _, m in ipairs(measured) do
      local _, spread = running.unit(mean, m.std[j])
      local _, moved = running.unit(mean, math.abs(m.raw[j] - mean))
      if varies or spread or moved then
        return true
      end
    end
  end
  return false
end

--- The figures of result.json for a list of measurements: normalised rewards, hypervolume at 0, tau at -2,
-- pairwise distance, and the rule's audit where there is one. Both references are 1 and 3 units below the mean of the
-- statistics; of an objective whose rewards stay as they are (policy.normalize) in its own unit.
-- Where no objective varied and none does now there is no hypervolume, and `unmeasured` says why.
function policy.figures(preferences, measured, statistics)
  local n = #preferences[1]
  local f = { preferences = preferences, rewards = {}, rewards_raw = {}, rewards_std = {}, reference_point = {},
    tau_reference = {}, lengths = {} }
  local units = {}
  for j = 1, n do
    local unit, varies = running.unit(statistics.mean[j], statistics.std[j])
    units[j] = unit
    f.reference_point[j] = varies and 0 or statistics.mean[j] - 1
    f.tau_reference[j] = varies and -2 or statistics.mean[j] - 3
  end
  for i, m in ipairs(measured) do
    f.rewards[i], f.rewards_raw[i], f.lengths[i] = policy.normalize(m.raw, statistics), m.raw, m.length
    f.rewards_std[i] = {}
    for j = 1, n do
      f.rewards_std[i][j] = m.std[j] / units[j]
    end
  end
  if measured_any(measured, statistics) then
    f.hypervolume = metrics.hypervolume(f.rewards, f.reference_point)
  else -- each objective would add a factor of 1, its distance from its reference
    f.unmeasured = "no reward of any answer differs from the SFT model's, which is the same for all of its answers"
  end
  f.mean_pairwise_distance = #measured > 1 and metrics.mean_pairwise_distance(f.rewards) or 0
  if #measured > 1 then
    local c = metrics.controllability(preferences, f.rewards, { reference = f.tau_reference })
    f.kendall_tau, f.kendall_p, f.kendall_tau_per_objective = c.kendall_tau, c.kendall_p, c.kendall_tau_per_objective
    f.beyond_reference = c.beyond
  end
  if measured[1].malformed then
    f.rule = audit(measured, n)
  end
  return f
end

return policy
