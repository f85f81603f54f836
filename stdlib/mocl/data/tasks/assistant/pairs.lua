--- mocl.data.tasks.assistant.pairs: preference pairs for the reward models.
-- Two candidate answers to one prompt, the better one chosen by a logistic draw on the hidden
-- rule's difference. Candidates go beyond what the SFT model writes: whatever a policy may find to
-- please a reward model (one joke four times, half a joke, shuffled words, run-on text) is there.
-- `draw` makes single pairs, `compare` several answers to a prompt with all their pairs.

local answers = require "mocl.data.tasks.assistant.answers"
local rule = require "mocl.data.tasks.assistant.rule"
local words = require "mocl.data.tasks.assistant.words"

local M = {}

local SHARPNESS = 5 -- P(a is chosen) = sigmoid(SHARPNESS * (value a - value b))
local EDITS = 0.4 -- share of pairs that differ in one clause only
local TIES = 0.1 -- share of the pairs of equal value that is kept, to be labelled by a coin

-- Candidates: functions (rng, topic, kind) -> four clauses, kind being what the objective counts.

local function mixture(rng, topic)
  return answers.mixture(rng, topic)
end

-- each count from none to four alike often, so that the worth of every further clause shows
local function counted(rng, topic, kind)
  return answers.focused(rng, topic, kind, rng:integer(0, rule.SLOTS))
end

local function pure(rng, topic)
  return answers.focused(rng, topic, rng:choice(answers.kinds), rule.SLOTS)
end

local function either(rng, topic, kind)
  return (rng:uniform() < 0.5 and mixture or counted)(rng, topic, kind)
end

-- one clause in two, three or all four slots
local function repeated(rng, topic, kind)
  local list = answers.focused(rng, topic, kind, rng:integer(1, 3))
  local clause = rng:uniform() < 0.7 and answers.clause(rng, kind, topic, {}) or rng:choice(list)
  local slots = rng:shuffle { 1, 2, 3, 4 }
  for i = 1, rng:integer(2, rule.SLOTS) do
    list[slots[i]] = clause
  end
  return list
end

local function corrupted(rng, topic, kind)
  local list = either(rng, topic, kind)
  local slots = rng:shuffle { 1, 2, 3, 4 }
  for i = 1, rng:integer(1, rule.SLOTS) do
    list[slots[i]] = answers.corrupt(rng, list[slots[i]])
  end
  return list
end

-- a good answer, but to another prompt
local function elsewhere(rng, topic)
  local other = rng:integer(1, #words.topics - 1)
  return answers.focused(rng, other < topic and other or other + 1, "tip", rng:integer(1, 4))
end

-- the three that follow give back a text that is not four slots of six words, as one element
local function scrambled(rng, topic, kind)
  return { answers.scramble(rng, table.concat(either(rng, topic, kind), " ")) }
end

local function cut(rng, topic, kind)
  return { answers.cut(rng, table.concat(either(rng, topic, kind), " ")) }
end

local function run_on(rng, topic, kind)
  return { answers.run_on(rng, table.concat(either(rng, topic, kind), " ")) }
end

local composed = { mixture, counted, pure, repeated, corrupted, elsewhere }
local composed_weights = { 0.22, 0.34, 0.08, 0.12, 0.16, 0.08 }
local spoiled = { scrambled, cut, run_on }
local SPOILED = 0.06

local function candidate(rng, topic, kind)
  if rng:uniform() < SPOILED then
    return rng:choice(spoiled)(rng, topic, kind)
  end
  return composed[rng:weighted(composed_weights)](rng, topic, kind)
end

-- Edits of one slot: what each kind of clause is worth at the margin.
local edits = {
  function(rng, list, slot, topic) -- any kind
    return answers.clause(rng, rng:choice(answers.kinds), topic, { [list[slot]] = true })
  end,
  function(rng, list, slot, topic, kind) -- the kind that counts
    local used = {}
    for _, clause in ipairs(list) do
      used[clause] = true
    end
    return answers.clause(rng, kind, topic, used)
  end,
  function(rng, list, slot) -- a clause that is there already
    return list[slot % rule.SLOTS + 1]
  end,
  function(rng, list, slot) -- the same clause, spoiled
    return answers.corrupt(rng, list[slot])
  end,
}
local edit_weights = { 0.3, 0.25, 0.15, 0.3 }

local function edited(rng, list, topic, kind)
  local slot = rng:integer(1, rule.SLOTS)
  local out = table.move(list, 1, #list, 1, {})
  out[slot] = edits[rng:weighted(edit_weights)](rng, list, slot, topic, kind)
  return out
end

-- whether a pair of answers with this difference in value is used: of ties a share, and which one is chosen
local function label(rng, difference)
  if math.abs(difference) < 1e-9 and rng:uniform() >= TIES then
    return false
  end
  return true, rng:uniform() < 1 / (1 + math.exp(-SHARPNESS * difference))
end

--- draw(rng, task, objective, n, prompts) -> n pairs { prompt =, chosen =, rejected = }.
function M.draw(rng, task, objective, n, prompts)
  local kind, list = rule.earns[objective], {}
  while #list < n do
    local prompt = rng:choice(prompts)
    local topic = task:topic(prompt)
    local a, b
    if rng:uniform() < EDITS then
      a = composed[rng:weighted(composed_weights)](rng, topic, kind)
      b = edited(rng, a, topic, kind)
    else
      a, b = candidate(rng, topic, kind), candidate(rng, topic, kind)
    end
    a, b = table.concat(a, " "), table.concat(b, " ")
    if a ~= b then
      local used, first = label(rng, task:score(prompt, a)[objective] - task:score(prompt, b)[objective])
      if used then
        list[#list + 1] = { prompt = prompt, chosen = " " .. (first and a or b), rejected = " " .. (first and b or a) }
      end
    end
  end
  return list
end

-- k different answers to one prompt; EDITS of them are another one edited
local function candidates(rng, topic, kind, k)
  local texts, seen, lists = {}, {}, {}
  while #texts < k do
    local list
    if #lists > 0 and rng:uniform() < EDITS then
      list = edited(rng, rng:choice(lists), topic, kind)
    else
      list = candidate(rng, topic, kind)
    end
    if #list == rule.SLOTS then
      lists[#lists + 1] = list
    end
    local text = table.concat(list, " ")
    if not seen[text] then
      seen[text] = true
      texts[#texts + 1] = text
    end
  end
  return texts
end

--- compare(rng, task, objective, n, k, prompts) -> n rows { prompt =, responses = k texts, comparisons = list of
-- { index of the chosen, index of the rejected } }: the pairs of a row are labelled one by one, so they need not
-- agree on an order.
function M.compare(rng, task, objective, n, k, prompts)
  local kind, list = rule.earns[objective], {}
  while #list < n do
    local prompt = rng:choice(prompts)
    local row = { prompt = prompt, responses = candidates(rng, task:topic(prompt), kind, k), comparisons = {} }
    local values = {}
    for i, text in ipairs(row.responses) do
      values[i] = task:score(prompt, text)[objective]
      row.responses[i] = " " .. text
    end
    for i = 1, k do
      for j = i + 1, k do
        local used, first = label(rng, values[i] - values[j])
        if used then
          table.insert(row.comparisons, first and { i, j } or { j, i })
        end
      end
    end
    if #row.comparisons > 0 then
      list[#list + 1] = row
    end
  end
  return list
end

return M
