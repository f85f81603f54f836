--- mocl.lm.reward_directory: a reward from a directory of Hugging Face's: a model with a head for classification,
-- which reads prompt and answer as a template of mocl.lm.reward_templates says, or an encoder of sentences
-- (mocl.lm.sentence), whose reward is the cosine of the answer to the prompt. Which of them it is its files say.
--
--   local f = assert(reward_directory.load("path/to/gpt2-large-helpful-reward_model", { template = "helpful" }))
--   local scores = f(prompts, responses)

local classifier = require "mocl.lm.classifier"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local framing = require "mocl.lm.framing"
local gguf_model = require "mocl.lm.gguf_model"
local json = require "mocl.json"
local keys = require "mocl.keys"
local options = require "mocl.options"
local sentence = require "mocl.lm.sentence"
local templates = require "mocl.lm.reward_templates"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"

local reward_directory = {}

local Judge = {}
Judge.__index = Judge

-- What a directory may say of itself: the template that its model was trained with.
local OWN = "mocl_reward.json"

--- reward_directory.note(dir, template) -> true | fail: writes down by which template the model of a directory reads.
function reward_directory.note(dir, template)
  return json.save(fs.join(dir, OWN), { template = template }, { indent = 2 })
end

-- The template's name: what was asked for, what the directory says, or the objective's name.
local function template_of(dir, asked, objective)
  local name, where = asked, "template"
  local path = fs.join(dir, OWN)
  if not name and fs.exists(path) then
    local all, message, code = keys.load(path)
    if not all then
      return nil, message, code
    end
    name, where = all.template, path .. ": template"
  end
  if not name and templates.BY_NAME[objective or ""] then
    name = objective
  end
  if not name then
    return nil, ("%s: how its model reads a prompt and an answer is not known; template= names one of %s"):format(dir, templates.names()),
      "FORMAT"
  elseif not templates.BY_NAME[name] then
    local near = options.nearest(tostring(name), templates.list())
    return nil, ("%s: no template '%s'%s; known: %s"):format(where, tostring(name), near and (" (did you mean '%s'?)"):format(near) or "",
      templates.names()), "FORMAT"
  end
  return name
end

-- Why a directory cannot have a head for classification, in words, or nil.
local function headless(dir)
  if gguf_model.names(dir) or fs.exists(dir) == "file" then
    return dir .. ": is a file; the directory of a model with a head for classification, or of an encoder of sentences, is expected"
  elseif not fs.exists(dir) then
    return dir .. ": No such file or directory"
  elseif fs.exists(fs.join(dir, "score_head.safetensors")) then
    return dir .. ": holds a reward model of a run, which from=RUN takes; a directory of Hugging Face's is expected"
  end
  local all = keys.load(fs.join(dir, "config.json"))
  local list = all and all.architectures
  local class = type(list) == "table" and type(list[1]) == "string" and list[1] or ""
  if class:find "ForCausalLM$" or class:find "LMHeadModel$" then
    return ("%s: holds a language model (%s), which has no head for classification; recipes/reward_model.lua trains one from it"):format(dir, class)
  end
end

-- The shape of a classifier's model; of an encoder with a decoder the encoder's.
local function shape_of(c)
  return (type(c.model) == "table" and c.model.encoder or c.model):config()
end

local function load_tokenizer(dir, vocab_size)
  local tok, message, code = tokenizer.load(dir)
  if not tok then
    return nil, message .. "; a reward model needs the files of its tokenizer in its directory", code
  elseif tok:vocab_size() > vocab_size then
    return nil, ("%s: the tokenizer has %d ids, the model only %d: they do not belong together"):format(dir, tok:vocab_size(),
      vocab_size), "FORMAT"
  end
  return tok
end

--- reward_directory.judge(c, tok, name, opts) -> judge | fail: a classifier as a reward by the template of a name.
-- opts: dir, which messages and model_max_length come from; decimals, to which scores are rounded (nil: not at all).
function reward_directory.judge(c, tok, name, opts)
  local template, dir = templates.BY_NAME[name], opts.dir
  if c.labels ~= template.labels then
    return nil, ("%s: the template '%s' takes %s of %d, the head has %d"):format(dir, name,
      template.labels == 1 and "the label" or "the last label", template.labels, c.labels), "FORMAT"
  elseif template.pool and c.pool ~= "last" then
    return nil, ("%s: the template '%s' is for classes that pool the last token, such as GPT2ForSequenceClassification"):format(dir, name), "FORMAT"
  elseif template.bos and not tok:bos_id() then
    return nil, ("%s: the template '%s' has BOS between answer and post, and this tokenizer has none"):format(dir, name), "FORMAT"
  end
  local shape = shape_of(c)
  local limit, message, code = framing.limit(dir, template.limit, shape.max_position_embeddings)
  if not limit then
    return nil, message, code
  end
  local types = shape.type_vocab_size
  return setmetatable({ classifier = c, tokenizer = tok, template = template, name = name, limit = limit, framing = framing.new(tok, limit),
    types = types and types > 1, bos = template.bos and tok:id_to_token(tok:bos_id()), decimals = opts.decimals }, Judge)
end

--- reward_directory.load(dir, {device="cpu", template=, objective=, decimals=, quantization=}) -> reward | fail. The template is
-- `template`, or what mocl_reward.json in the directory says, or `objective` where that is the name of one. The
-- weights are hashed as they are read.
function reward_directory.load(dir, opts)
  opts = options.check("reward_directory.load", opts or {}, {}, { "device", "template", "objective", "decimals", "quantization" })
  local how = { device = opts.device, quantization = opts.quantization }
  local without = headless(dir)
  if without then
    return nil, without, "FORMAT"
  elseif sentence.is(dir) then
    if opts.template then
      return nil, ("%s: an encoder of sentences compares answer and prompt; it has no template"):format(dir), "FORMAT"
    end
    return digest.in_passing(sentence.load, dir, how)
  end
  local name, message, code = template_of(dir, opts.template, opts.objective)
  if not name then
    return nil, message, code
  end
  local c
  c, message, code = digest.in_passing(classifier.load, dir, how)
  local tok = c
  if c then
    tok, message, code = load_tokenizer(dir, shape_of(c).vocab_size)
  end
  if not tok then
    return nil, message, code
  end
  return reward_directory.judge(c, tok, name, { dir = dir, decimals = opts.decimals })
end

--- Token ids of a prompt and an answer, and their types: what is too long is cut as framing.lengths says, at the end.
function Judge:row(prompt, answer)
  return self.framing:row(self.template.parts(prompt, answer, self.bos))
end

--- What the head gives for rows, [n, labels] with history.
function Judge:logits(rows, types)
  return self.classifier:scores(rows, { types = self.types and types or nil, pool = self.template.pool })
end

--- Scores [n] of rows, with history: the last label's, as the head gives it.
function Judge:forward(rows, types)
  return self:logits(rows, types):narrow(2, self.classifier.labels, 1):flatten()
end

-- Half of the last decimal goes to the even neighbour, as numpy.round has it.
local function rounded(x, decimals)
  local scaled = x * 10 ^ decimals
  local low = math.floor(scaled)
  local above = scaled - low > .5 or scaled - low == .5 and low % 2 == 1
  return (above and low + 1 or low) / 10 ^ decimals
end

local TOKENS, ROWS = 16384, 64 -- of a batch, at most

--- judge:score(prompts, responses) -> list of numbers. Called like a function too: judge(prompts, responses).
function Judge:score(prompts, responses)
  options.texts("reward model, prompts", prompts)
  options.texts("reward model, responses", responses)
  local out, rows, types, tokens = {}, {}, {}, 0
  local function flush()
    local scope <close> = tensor.scope()
    for _, score in ipairs(#rows > 0 and tensor.no_grad(self.forward, self, rows, types):totable() or {}) do
      out[#out + 1] = self.decimals and rounded(score, self.decimals) or score
    end
    rows, types, tokens = {}, {}, 0
  end
  for i, prompt in ipairs(prompts) do
    local ids, kinds = self:row(prompt, responses[i])
    if #ids == 0 then
      error(("reward model: prompt %d and its answer have no tokens"):format(i), 0)
    elseif #rows == ROWS or tokens + #ids > TOKENS then
      flush()
    end
    rows[#rows + 1], types[#types + 1], tokens = ids, kinds, tokens + #ids
  end
  flush()
  return out
end

Judge.__call = Judge.score

return reward_directory
