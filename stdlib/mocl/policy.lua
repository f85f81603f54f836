--- mocl.policy: a model with its tokenizer, answering texts, and the measurement of such answers under a grid
-- of preferences.

local metrics = require "mocl.metrics"
local options = require "mocl.options"
local preference = require "mocl.preference"
local reward = require "mocl.reward"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local transformer = require "mocl.transformer"

local policy = {}

local Policy = {}
Policy.__index = Policy

--- policy.new{model=, tokenizer=, max_new_tokens=, temperature=1, top_p=1, top_k=0}
function policy.new(o)
  options.check("policy.new", o, { "model", "tokenizer", "max_new_tokens" }, { "temperature", "top_p", "top_k" })
  return setmetatable({
    model = o.model, tokenizer = o.tokenizer, max_new_tokens = o.max_new_tokens, temperature = o.temperature or 1,
    top_p = o.top_p or 1, top_k = o.top_k or 0,
  }, Policy)
end

--- Token ids of prompts, BOS in front.
function Policy:encode(texts)
  local prompts = {}
  for i, text in ipairs(texts) do
    prompts[i] = self.tokenizer:encode(text, { bos = true })
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

--- policy:answer(texts, {key=, adapter=true}) -> responses (texts), {prompts=, tokens=} (ids), logp (flat tensor)
function Policy:answer(texts, o)
  options.check("answer", o, { "key" }, { "adapter" })
  local prompts = self:encode(texts)
  local g, logp = self.model:generate(prompts, {
    max_new_tokens = self.max_new_tokens, temperature = self.temperature, top_p = self.top_p, top_k = self.top_k,
    eos = ends(self), vocab_size = math.min(self.tokenizer:vocab_size(), self.model:config().vocab_size), key = o.key,
    adapter = o.adapter ~= false,
  })
  local responses = {}
  for i, ids in ipairs(g.tokens) do
    responses[i] = self.tokenizer:decode(ids)
  end
  return responses, { prompts = prompts, tokens = g.tokens, finished = g.finished }, logp
end

local BATCH = 256 -- rows generated at a time while measuring

--- Answers under one preference: o: prompts (plain), p, n (answers; the prompts are gone through again as
-- often as needed), seed, purpose, adapter, rewards (list of {name=, f=}), audit. Returns {raw = means per
-- objective, std =, rows = raw rewards per answer, rule =, malformed =, sample = first answers}.
function Policy:measure(o)
  local rows, rule, rule_n, malformed, sample, length = {}, {}, 0, 0, {}, 0
  for first = 1, o.n, BATCH do
    local scope <close> = tensor.scope()
    local plain, texts = {}, {}
    for i = first, math.min(o.n, first + BATCH - 1) do
      plain[#plain + 1] = o.prompts[(i - 1) % #o.prompts + 1]
      texts[#texts + 1] = preference.relabel(plain[#plain], o.p)
    end
    local responses, ids = self:answer(texts, { key = rng.key(o.seed, o.purpose .. " " .. first), adapter = o.adapter })
    local scores = {}
    for j, r in ipairs(o.rewards) do
      scores[j] = reward.call(r.f, r.name, plain, responses)
    end
    for i, response in ipairs(responses) do
      local row = {}
      for j = 1, #scores do
        row[j] = scores[j][i]
      end
      rows[#rows + 1] = row
      length = length + #ids.tokens[i]
      if #sample < (o.samples or 3) then
        sample[#sample + 1] = { prompt = plain[i], response = response, rewards = row }
      end
      local values, bad = o.audit(plain[i], response)
      if values then
        rule_n, malformed = rule_n + 1, malformed + bad
        for j, r in ipairs(o.rewards) do
          rule[j] = (rule[j] or 0) + (values[r.name] or 0)
        end
      end
    end
  end
  local out = { rows = rows, raw = {}, std = {}, sample = sample, length = length / #rows }
  for j = 1, #o.rewards do
    local column = {}
    for i, row in ipairs(rows) do
      column[i] = row[j]
    end
    out.raw[j], out.std[j] = metrics.mean_std(column)
  end
  if rule_n > 0 then
    for j = 1, #rule do
      rule[j] = rule[j] / rule_n
    end
    out.rule, out.malformed = rule, malformed / rule_n
  end
  return out
end

--- Measures every preference of a list. o as in measure, with on_step(i, n). Returns a list of its results.
-- All of them answer the same prompts with the same random numbers, so that their differences are those of the
-- preferences and much less those of chance (common random numbers).
function Policy:measure_all(preferences, o)
  local list = {}
  for i, p in ipairs(preferences) do
    list[i] = self:measure(setmetatable({ p = p }, { __index = o }))
    if o.on_step then
      o.on_step(i, #preferences)
    end
  end
  return list
end

--- Equation 18 with fixed statistics {mean=, std=} per objective: 1 is the mean they were taken at.
function policy.normalize(row, statistics)
  local out = {}
  for j, x in ipairs(row) do
    out[j] = (x - statistics.mean[j]) / (2 * math.max(statistics.std[j], 1e-6)) + 1
  end
  return out
end

--- The figures of result.json for a list of measurements: normalised rewards, hypervolume at 0, tau at -2,
-- pairwise distance, and the rule's audit where there is one.
function policy.figures(preferences, measured, statistics)
  local n = #preferences[1]
  local f = { preferences = preferences, rewards = {}, rewards_raw = {}, rewards_std = {}, reference_point = {},
    tau_reference = {}, lengths = {} }
  for j = 1, n do
    f.reference_point[j], f.tau_reference[j] = 0, -2
  end
  for i, m in ipairs(measured) do
    f.rewards[i], f.rewards_raw[i], f.lengths[i] = policy.normalize(m.raw, statistics), m.raw, m.length
    f.rewards_std[i] = {}
    for j = 1, n do
      f.rewards_std[i][j] = m.std[j] / (2 * math.max(statistics.std[j], 1e-6))
    end
  end
  f.hypervolume = metrics.hypervolume(f.rewards, f.reference_point)
  f.mean_pairwise_distance = #measured > 1 and metrics.mean_pairwise_distance(f.rewards) or 0
  if #measured > 1 then
    local c = metrics.controllability(preferences, f.rewards, { reference = f.tau_reference })
    f.kendall_tau, f.kendall_p, f.kendall_tau_per_objective = c.kendall_tau, c.kendall_p, c.kendall_tau_per_objective
    f.beyond_reference = c.beyond
  end
  if measured[1].rule then
    local points, malformed = {}, {}
    for i, m in ipairs(measured) do
      points[i], malformed[i] = m.rule, m.malformed
    end
    f.rule = { rewards = points, malformed = malformed, hypervolume = metrics.hypervolume(points, f.reference_point) }
  end
  return f
end

return policy
