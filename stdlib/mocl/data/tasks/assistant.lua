--- mocl.data.tasks.assistant: a small world of prompts and answers in which control can be measured.
-- Sixteen topics, 640 prompts (192 held out) and answers of four six-word clauses; a hidden rule
-- says how humorous, helpful and harmless an answer is. Made from a seed, without files. It holds
-- no model and trains none; docs/task.md describes it in full.
--
--   local task = assistant.new { seed = 0, objectives = { "humor", "helpful" } }
--   for _, pair in ipairs(task:pairs(rng.new(0, "pairs"), "humor", 4096)) do ... end

local preference = require "mocl.preference"
local rng = require "mocl.rng"
local nearest = require "mocl.options".nearest
local pairs_of = require "mocl.data.tasks.assistant.pairs"
local rule = require "mocl.data.tasks.assistant.rule"
local texts = require "mocl.data.tasks.assistant.texts"
local words = require "mocl.data.tasks.assistant.words"

local assistant = {}

local HELD_OUT = 12 -- of the 40 prompts of each topic

local task_methods = {}
task_methods.__index = task_methods

local function check_name(what, name, names, level)
  for _, known in ipairs(names) do
    if name == known then
      return
    end
  end
  local near = type(name) == "string" and nearest(name, names)
  error(("unknown %s '%s' (%s)"):format(what, tostring(name),
    near and "did you mean '" .. near .. "'?" or "known: " .. table.concat(names, ", ")), level + 1)
end

local OPTIONS = { "objectives", "seed", "trade_off", "weights" }

local function check_options(options)
  if type(options) ~= "table" then
    error("new: a table of options expected, got " .. type(options), 3)
  end
  for key in next, options do
    check_name("option", key, OPTIONS, 3)
  end
  local seed = options.seed or 0
  if math.type(seed) ~= "integer" then
    error(("seed must be an integer, got %s"):format(tostring(seed)), 3)
  end
  local trade_off = options.trade_off or "rising"
  check_name("trade_off", trade_off, rule.trade_offs, 3)
  local objectives = options.objectives or { "humor", "helpful" }
  if type(objectives) ~= "table" or #objectives == 0 then
    error("objectives must be a list of names such as {\"humor\", \"helpful\"}", 3)
  end
  local seen = {}
  for _, name in ipairs(objectives) do
    check_name("objective", name, rule.objectives, 3)
    if seen[name] then
      error(("objective '%s' is listed twice"):format(name), 3)
    end
    seen[name] = true
  end
  local weights = options.weights or #objectives
  if math.type(weights) ~= "integer" or weights < 1 or weights > #words.symbols then
    error(("weights must be an integer from 1 to %d, got %s"):format(#words.symbols, tostring(weights)), 3)
  end
  return seed, trade_off, table.move(objectives, 1, #objectives, 1, {}), weights
end

--- new { seed = 0, trade_off = "rising", objectives = { "humor", "helpful" }, weights = #objectives } -> task.
-- weights is the number of weights in the tags, where other rewards than the task's are in use too.
function assistant.new(options)
  local seed, trade_off, objectives, weights = check_options(options or {})
  local task = setmetatable({
    seed = seed, trade_off = trade_off, objectives = objectives, weights = weights,
    train_prompts = {}, test_prompts = {},
    topic_of = {}, -- prompt -> index of its topic
  }, task_methods)
  local r = rng.new(seed, "assistant.split")
  for topic, t in ipairs(words.topics) do
    local prompts = {}
    for _, template in ipairs(words.templates) do
      for _, modifier in ipairs(words.modifiers) do
        local prompt = template:gsub("%u+", { TOPIC = t.name, MORE = modifier })
        prompts[#prompts + 1] = prompt
        task.topic_of[prompt] = topic
      end
    end
    r:shuffle(prompts)
    for i, prompt in ipairs(prompts) do
      local list = i <= HELD_OUT and task.test_prompts or task.train_prompts
      list[#list + 1] = prompt
    end
  end
  r:shuffle(task.train_prompts)
  r:shuffle(task.test_prompts)
  return task
end

--- task:topic(prompt) -> index of the prompt's topic; tags in front do not matter.
function task_methods:topic(prompt)
  local topic = self.topic_of[prompt] or self.topic_of[preference.strip(tostring(prompt))]
  if not topic then
    error(("'%s' is not a prompt of this task"):format(tostring(prompt)), 2)
  end
  return topic
end

--- task:score(prompt, answer) -> { humor =, helpful =, harmless = }, malformed. For audits.
-- malformed is the number of the four slots that are no known clause; words too many count too.
function task_methods:score(prompt, answer)
  return rule.score(answer, self:topic(prompt), self.trade_off)
end

--- task:describe(answer, prompt) -> list of kinds, one for each slot.
-- tip, off_topic, joke, caution, unsafe, filler, repeat or malformed.
function task_methods:describe(answer, prompt)
  return rule.kinds(answer, self:topic(prompt))
end

--- task:pretrain_texts(rng, n) -> n documents for the tokenizer and the base model.
function task_methods:pretrain_texts(r, n)
  return texts.pretrain(r, self, n)
end

--- task:sft_examples(rng, n) -> n examples { prompt =, response = }; the prompt has random tags.
-- A response begins with a space: prompt .. response is the text. A quarter of them read the numbers back.
function task_methods:sft_examples(r, n)
  return texts.sft(r, self, n)
end

--- task:pairs(rng, objective, n [, split]) -> n pairs { prompt =, chosen =, rejected = }, no tags.
-- split "test" takes the held-out prompts, to see how a reward model generalises.
function task_methods:pairs(r, objective, n, split)
  check_name("objective", objective, rule.objectives, 2)
  check_name("split", split or "train", { "train", "test" }, 2)
  return pairs_of.draw(r, self, objective, n, self[(split or "train") .. "_prompts"])
end

--- task:comparisons(rng, objective, n, k) -> n rows { prompt =, responses =, comparisons = }: k answers to a prompt
-- for training, and their pairs as { index of the chosen, index of the rejected }.
function task_methods:comparisons(r, objective, n, k)
  check_name("objective", objective, rule.objectives, 2)
  if math.type(k) ~= "integer" or k < 2 then
    error(("comparisons: at least 2 answers to a prompt are needed, got %s"):format(tostring(k)), 2)
  end
  return pairs_of.compare(r, self, objective, n, k, self.train_prompts)
end

return assistant
