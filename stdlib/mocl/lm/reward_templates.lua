--- mocl.lm.reward_templates: how a reward model with a head for classification reads a prompt and an answer: which
-- texts in which order, from which token's state the score comes, and which label it is. The names are those that the
-- reward models of Rewards-in-Context have there, which the paper's experiments use.
--
-- An entry: parts(prompt, answer, bos) -> text, pair or nil; labels, the number that the head must have; the score is
-- the last one as it is. pool: the rule of classifier.pooled in place of the model's own. limit: the most tokens,
-- with those that go around the texts. alone: the prompt is not read.

local prefs = require "mocl.data.prefs"

local templates = {}

local strip = prefs.strip

--- templates.post(prompt) -> text: what is between "### Input:" and "### Response:", without white space at its ends;
-- of a prompt without these marks all of it.
function templates.post(prompt)
  local _, first = prompt:find("### Input:", 1, true)
  local last = first and prompt:find("### Response:", first + 1, true)
  return strip(last and prompt:sub(first + 1, last - 1) or prompt)
end

local function dialogue(prompt, answer)
  return prompt, strip(answer)
end

local function answer_alone(_, answer)
  return strip(answer)
end

local function answer_first(prompt, answer)
  return strip(answer), templates.post(prompt)
end

-- One text: the answer, the token that begins a text, the post.
local function answer_bos_post(prompt, answer, bos)
  return strip(answer) .. " " .. bos .. " " .. templates.post(prompt)
end

local LIMIT = 1024 -- tokens, or the tokenizer's model_max_length where that is less

--- name -> entry
templates.BY_NAME = {
  helpful = { parts = dialogue, labels = 1, limit = LIMIT, doc = "the prompt and the answer behind it" },
  harmless = { parts = dialogue, labels = 1, limit = LIMIT, doc = "the prompt and the answer behind it" },
  humor = { parts = answer_alone, labels = 2, alone = true, limit = LIMIT, doc = "the answer alone, the second of two labels" },
  summary = { parts = answer_bos_post, labels = 1, limit = LIMIT, bos = true, pool = "before_pad",
    doc = "answer, BOS, post; pooled before the first pad, as transformers 4.35 to 4.45 do" },
  summary_counted = { parts = answer_bos_post, labels = 1, limit = LIMIT, bos = true, pool = "counted",
    doc = "the same, pooled by the count of other tokens than pads, as up to transformers 4.34" },
  summary_last = { parts = answer_bos_post, labels = 1, limit = LIMIT, bos = true, pool = "last",
    doc = "the same, pooled at the last token that is no pad, as transformers do today" },
  faithful = { parts = answer_first, labels = 2, limit = LIMIT, doc = "the answer and the post as a pair, the second of two labels" },
}

local names = require "mocl.options".sorted_keys(templates.BY_NAME)

--- templates.names() -> the known names, sorted, in words.
function templates.names()
  return table.concat(names, ", ")
end

--- templates.list() -> a sorted list of the names.
function templates.list()
  return table.move(names, 1, #names, 1, {})
end

return templates
