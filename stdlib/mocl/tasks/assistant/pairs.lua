--- mocl.tasks.assistant.pairs: preference pairs for the reward models.
-- Two candidate answers to one prompt, the better one chosen by a logistic draw on the hidden
-- rule's difference. Candidates go beyond what the SFT model writes: whatever a policy may find to
-- please a reward model (one joke four times, half a joke, shuffled words, run-on text) is there.

local answers = require "mocl.tasks.assistant.answers"
local rule = require "mocl.tasks.assistant.rule"
local words = require "mocl.tasks.assistant.words"

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
    local difference = task:score(prompt, a)[objective] - task:score(prompt, b)[objective]
    local tie = math.abs(difference) < 1e-9
    if a ~= b and (not tie or rng:uniform() < TIES) then
      if rng:uniform() >= 1 / (1 + math.exp(-SHARPNESS * difference)) then
        a, b = b, a
      end
      list[#list + 1] = { prompt = prompt, chosen = " " .. a, rejected = " " .. b }
    end
  end
  return list
end

return M
