--- mocl.lm.fluency: whether answers are still language, by two measures that no reward knows: how likely they are to the model that
-- the policy started from, and how many of their pairs of words are different ones.

local lm = require "mocl.lm.sft"

local fluency = {}

local ROWS = 32

--- fluency.losses(policy, prompts, tokens) -> list of {sum, n} as lm.losses gives it: of answers, an object of rows of ids, behind
-- prompts without tags, by the policy's model with its adapter off.
function fluency.losses(policy, prompts, tokens)
  return lm.losses(policy.model, lm.prompts(policy.tokenizer, prompts):totable(), tokens:totable(), ROWS, false)
end

--- fluency.distinct(texts, n) -> number: the share of different runs of n words among all of them, in all texts together (distinct-n,
-- Li et al. 2016, arXiv 1510.03055). Words are what white space parts. nan where no text has n words.
function fluency.distinct(texts, n)
  local seen, different, all = {}, 0, 0
  for _, text in ipairs(texts) do
    local words = {}
    for word in text:gmatch "%S+" do
      words[#words + 1] = word
    end
    for i = 1, #words - n + 1 do
      local key = table.concat(words, " ", i, i + n - 1)
      different, all = different + (seen[key] and 0 or 1), all + 1
      seen[key] = true
    end
  end
  return different / all
end

--- fluency.of(losses, texts) -> {perplexity=, distinct_2=}.
function fluency.of(losses, texts)
  return { perplexity = lm.perplexity(losses).perplexity, distinct_2 = fluency.distinct(texts, 2) }
end

--- fluency.mean(list) -> the means over such tables, of the perplexity the geometric one.
function fluency.mean(list)
  local sum, distinct = 0, 0
  for _, f in ipairs(list) do
    sum, distinct = sum + math.log(f.perplexity), distinct + f.distinct_2
  end
  return { perplexity = math.exp(sum / #list), distinct_2 = distinct / #list }
end

return fluency
