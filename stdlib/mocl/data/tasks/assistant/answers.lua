--- mocl.data.tasks.assistant.answers: composes answers, good and bad, from the known clauses.
-- An answer in the making is a list of four clauses; "kind" is as in the rule, seen from the topic
-- of the prompt. Nothing here looks at what an answer is worth.

local words = require "mocl.data.tasks.assistant.words"
local rule = require "mocl.data.tasks.assistant.rule"

local answers = {}

answers.kinds = { "tip", "joke", "caution", "filler", "off_topic", "unsafe" }
-- share of each kind among the well-formed clauses of a mixture, in the order above
local SHARES = { 0.30, 0.20, 0.15, 0.20, 0.10, 0.05 }
-- A kind that has been drawn becomes likelier for the rest of the answer (an urn: each draw adds
-- this much to its kind), so that answers of one kind occur; the shares over all answers stay.
local URN = 0.3

local LISTS = {
  joke = words.jokes, caution = words.cautions, unsafe = words.unsafe, filler = words.fillers,
}

--- clause(rng, kind, topic, used) -> a clause of that kind; `used` is a set it avoids and joins.
function answers.clause(rng, kind, topic, used)
  local clause
  repeat
    local list = LISTS[kind]
    if kind == "tip" then
      list = words.topics[topic].tips
    elseif kind == "off_topic" then
      local other = rng:integer(1, #words.topics - 1)
      list = words.topics[other < topic and other or other + 1].tips
    end
    clause = rng:choice(list)
  until not used[clause]
  used[clause] = true
  return clause
end

--- mixture(rng, topic [, without]) -> four different clauses of kinds drawn by the shares.
function answers.mixture(rng, topic, without)
  local weights, used, list = {}, {}, {}
  for i, kind in ipairs(answers.kinds) do
    weights[i] = kind == without and 0 or SHARES[i]
  end
  for slot = 1, rule.SLOTS do
    local i = rng:weighted(weights)
    weights[i] = weights[i] + URN
    list[slot] = answers.clause(rng, answers.kinds[i], topic, used)
  end
  return list
end

--- focused(rng, topic, kind, n) -> n different clauses of one kind among others, in any order.
function answers.focused(rng, topic, kind, n)
  local list, used = answers.mixture(rng, topic, kind), {}
  for slot = 1, n do
    list[slot] = answers.clause(rng, kind, topic, used)
  end
  return rng:shuffle(list)
end

local function split(text)
  local list = {}
  for word in text:gmatch("%S+") do
    list[#list + 1] = word
  end
  return list
end

local all_clauses, all_words = {}, {}
do
  local seen = {}
  local function add(list)
    for _, clause in ipairs(list) do
      all_clauses[#all_clauses + 1] = clause
      for word in clause:gmatch("%S+") do
        if not seen[word] then
          seen[word] = true
          all_words[#all_words + 1] = word
        end
      end
    end
  end
  for _, topic in ipairs(words.topics) do
    add(topic.tips)
  end
  for _, list in ipairs { words.jokes, words.cautions, words.unsafe, words.fillers } do
    add(list)
  end
end

local corruptions = {
  function(rng, list) -- the words in another order
    return rng:shuffle(list)
  end,
  function(rng, list) -- the end of another clause
    local other = split(rng:choice(all_clauses))
    return table.move(other, rng:integer(2, 5), rule.WORDS, rng:integer(2, 5), list)
  end,
  function(rng, list) -- two halves
    return table.move(split(rng:choice(all_clauses)), 4, rule.WORDS, 4, list)
  end,
  function(rng, list) -- one wrong word
    list[rng:integer(1, rule.WORDS)] = rng:choice(all_words)
    return list
  end,
  function(rng, list) -- one word said twice, another left out
    local at = rng:integer(2, rule.WORDS)
    list[at] = list[at - 1]
    return list
  end,
}

--- corrupt(rng, clause) -> six words made from it that are no known clause.
function answers.corrupt(rng, clause)
  local text
  repeat
    local list = rng:choice(corruptions)(rng, split(clause))
    text = table.concat(list, " ", 1, rule.WORDS)
  until not rule.is_known(text)
  return text
end

--- scramble(rng, text) -> its words in another order.
function answers.scramble(rng, text)
  return table.concat(rng:shuffle(split(text)), " ")
end

--- cut(rng, text) -> without its last words, or without one word.
function answers.cut(rng, text)
  local list = split(text)
  if rng:uniform() < 0.5 then
    return table.concat(list, " ", 1, rng:integer(rule.WORDS, #list - 1))
  end
  table.remove(list, rng:integer(1, #list))
  return table.concat(list, " ")
end

--- run_on(rng, text) -> with one to eight words too many at its end.
function answers.run_on(rng, text)
  local list = split(rng:choice(all_clauses) .. " " .. rng:choice(all_clauses))
  return text .. " " .. table.concat(list, " ", 1, rng:integer(1, 8))
end

return answers
