--- mocl.data.tasks.assistant.texts: documents for the tokenizer and the base model, examples for SFT.
-- The preferences in their tags are random and no answer depends on them, so that neither model
-- shows any control. A share of the documents teaches what the numbers mean, in words of their own
-- that occur in no prompt and no clause.

local preference = require "mocl.preference"
local answers = require "mocl.data.tasks.assistant.answers"
local words = require "mocl.data.tasks.assistant.words"

local texts = {}

local NUMBERS = 0.4 -- share of documents about the numbers
local PLAIN = 0.25 -- share of the other documents without tags, as reward models see prompts
local MALFORMED = 0.03 -- share of clauses that are spoiled
local READ_BACK = 0.25 -- share of SFT examples that read the numbers in the tags back
local FRONT = 0.7 -- share of these that say so in front of the prompt

--- answer(rng, topic) -> a mixture of four clauses, a few of them malformed; 24 words.
local function answer(rng, topic)
  local list = answers.mixture(rng, topic)
  for slot, clause in ipairs(list) do
    if rng:uniform() < MALFORMED then
      list[slot] = answers.corrupt(rng, clause)
    end
  end
  return table.concat(list, " ")
end

-- "red blue blue ...": 10 to 20 symbols, each drawn with the weights as probabilities.
local function symbols(rng, p)
  local list = {}
  for i = 1, rng:integer(10, 20) do
    list[i] = words.symbols[rng:weighted(p)]
  end
  return table.concat(list, " ")
end

local function meter(rng, p)
  return "meter " .. symbols(rng, p)
end

-- "spell red zero three seven blue zero six three": the digits of the tags.
local function spell(_, p)
  local list = { "spell" }
  for j, w in ipairs(p) do
    list[#list + 1] = words.symbols[j]
    for digit in ("%.2f"):format(w):gmatch("%d") do
      list[#list + 1] = words.digits[tonumber(digit)]
    end
  end
  return table.concat(list, " ")
end

-- "larger blue" or "larger equal": which of the weights is the largest.
local function compare(_, p)
  local best, ties = 1, 0
  for j = 2, #p do
    if p[j] > p[best] then
      best, ties = j, 0
    elseif p[j] == p[best] then
      ties = ties + 1
    end
  end
  return "larger " .. (ties > 0 and "equal" or words.symbols[best])
end

local lines, line_weights = { meter, spell, compare }, { 0.7, 0.2, 0.1 }

-- A line about the numbers straight behind the tags, behind the prompt or behind the answer: the
-- policy has to read its tags at all these distances.
local function number_document(rng, task, p)
  local line = lines[rng:weighted(line_weights)](rng, p)
  local place = rng:weighted { 0.4, 0.35, 0.25 }
  if place == 1 then
    return preference.relabel(line, p)
  end
  local prompt = rng:choice(task.train_prompts)
  if place == 3 then
    prompt = prompt .. " " .. answer(rng, task:topic(prompt))
  end
  return preference.relabel(prompt .. " " .. line, p)
end

--- pretrain(rng, task, n) -> n documents.
function texts.pretrain(rng, task, n)
  local list = {}
  for i = 1, n do
    local p = preference.random(rng, task.weights, preference.EDGE)
    if rng:uniform() < NUMBERS then
      list[i] = number_document(rng, task, p)
    else
      local prompt = rng:choice(task.train_prompts)
      local text = prompt .. " " .. answer(rng, task:topic(prompt))
      list[i] = rng:uniform() < PLAIN and text or preference.relabel(text, p)
    end
  end
  return list
end

-- The word that asks for the symbols belongs to the prompt, so that no answer learns to contain it. It mostly stands in
-- front, and then the symbols begin where an answer or one of its clauses does: there the policy will have to read its tags.
local function read_back(rng, task, p)
  local prompt = rng:choice(task.train_prompts)
  local front, clauses = rng:uniform() < FRONT, rng:uniform() < 0.5 and 0 or rng:integer(1, 4)
  if clauses > 0 then
    prompt = prompt .. " " .. table.concat(answers.mixture(rng, task:topic(prompt)), " ", 1, clauses)
  end
  return { prompt = preference.relabel(front and "meter " .. prompt or prompt .. " meter", p), response = " " .. symbols(rng, p) }
end

--- sft(rng, task, n) -> n examples { prompt =, response = }. Fine-tuning on answers alone would wear off what
-- the base model knows about the numbers; the read-back lines among them keep it.
function texts.sft(rng, task, n)
  local list = {}
  for i = 1, n do
    local p = preference.random(rng, task.weights, preference.EDGE)
    if rng:uniform() < READ_BACK then
      list[i] = read_back(rng, task, p)
    else
      local prompt = rng:choice(task.train_prompts)
      list[i] = { prompt = preference.relabel(prompt, p), response = " " .. answer(rng, task:topic(prompt)) }
    end
  end
  return list
end

return texts
