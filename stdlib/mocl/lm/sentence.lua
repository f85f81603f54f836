--- mocl.lm.sentence: encoders of sentences: a vector for each text, made from the states of its tokens. A directory
-- of sentence-transformers 5 or 6 (modules.json) is read as it says; of a plain directory of BertModel's kind the
-- mean of all states is taken.
--
--   local encoder = assert(sentence.load("path/to/all-MiniLM-L6-v2"))
--   local vectors = encoder:embed { "a text", "another" }   -- [2, D]
--   local scores = encoder(prompts, responses)              -- a reward: the cosine of each answer to its prompt

local fs = require "mocl.fs"
local framing = require "mocl.lm.framing"
local json = require "mocl.json"
local keys = require "mocl.keys"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local reward_templates = require "mocl.lm.reward_templates"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local sentence = {}

local Encoder = {}
Encoder.__index = Encoder

-- ---- the files of sentence-transformers ----

local POOLS = { mean = true, cls = true }

-- Names of pooling in 5's files, by the word that 6's have.
local FLAGS = {
  pooling_mode_mean_tokens = "mean", pooling_mode_cls_token = "cls", pooling_mode_max_tokens = "max",
  pooling_mode_mean_sqrt_len_tokens = "mean_sqrt_len", pooling_mode_weightedmean_tokens = "weightedmean", pooling_mode_lasttoken = "lasttoken",
}

local POOLING_KEYS = {
  honoured = { "pooling_mode", "word_embedding_dimension", "embedding_dimension", table.unpack(options.sorted_keys(FLAGS)) },
  neutral = {}, without_effect = { include_prompt = "there are no prompts in front of the texts" },
}

-- The pooling of a file, a word of POOLS, or fail.
local function read_pooling(path, width)
  local all, message, code = keys.read(path, POOLING_KEYS)
  if not all then
    return nil, message, code
  end
  for _, key in ipairs { "word_embedding_dimension", "embedding_dimension" } do
    if keys.given(all[key]) and all[key] ~= width then
      return keys.refuse(path, key, all[key], ("the model's states have %d"):format(width))
    end
  end
  local modes = {}
  for _, flag in ipairs(options.sorted_keys(FLAGS)) do
    modes[#modes + 1] = all[flag] == true and FLAGS[flag] or nil
  end
  if keys.given(all.pooling_mode) then
    local named = all.pooling_mode
    modes = type(named) == "table" and named or { named }
  end
  if #modes ~= 1 or not POOLS[modes[1]] then
    for i, mode in ipairs(modes) do
      modes[i] = tostring(mode)
    end
    return keys.refuse(path, "pooling_mode", table.concat(modes, "+"), "mean or cls, one of them")
  end
  return modes[1]
end

local TRANSFORMER_KEYS = {
  honoured = { "max_seq_length" },
  neutral = {
    do_lower_case = { false }, transformer_task = { "feature-extraction" }, module_output_name = { "token_embeddings" },
    unpad_inputs = { false },
  },
  without_effect = {
    modality_config = "the state of each token", model_args = "how weights are loaded", tokenizer_args = "how the tokenizer is loaded",
    config_args = "how the configuration is loaded", processing_kwargs = "texts are cut by max_seq_length",
  },
}

-- max_seq_length, or false where the file names none.
local function read_transformer(dir)
  local path = fs.join(dir, "sentence_bert_config.json")
  if not fs.exists(path) then
    return false
  end
  local all, message, code = keys.read(path, TRANSFORMER_KEYS)
  if not all then
    return nil, message, code
  end
  local n = keys.given(all.max_seq_length) and all.max_seq_length
  if n and (math.type(n) ~= "integer" or n < 1) then
    return keys.refuse(path, "max_seq_length", n, "a number of tokens")
  end
  return n
end

-- {pool =, normalize =, limit =, dir = of the model} by modules.json. A module is told by the last part of its type,
-- since the versions have different names in front.
local function read_modules(dir, width_of)
  local path = fs.join(dir, "modules.json")
  local text, message, code = fs.read(path)
  if not text then
    return nil, message, code
  end
  local list, bad = json.decode(text)
  if type(list) ~= "table" or #list == 0 then
    return nil, ("%s: %s"):format(path, bad or "not a list of modules"), "FORMAT"
  end
  local out = { normalize = false }
  for i, module in ipairs(list) do
    local kind = type(module) == "table" and type(module.type) == "string" and module.type:match "([^.]*)$"
    local at = kind and type(module.path) == "string" and not ("/" .. module.path .. "/"):find("/../", 1, true) and not module.path:find "^/"
      and fs.join(dir, module.path)
    if kind and not at then
      return keys.refuse(path, "path", module.path, "a directory below this one")
    elseif kind == "Transformer" and i == 1 then
      out.dir = at
      out.limit, message, code = read_transformer(at)
      if out.limit == nil then
        return nil, message, code
      end
    elseif kind == "Pooling" and out.dir and not out.pool then
      out.pool_file = fs.join(at, "config.json")
    elseif kind == "Normalize" and out.pool_file then
      out.normalize = true
    else
      return keys.refuse(path, "type", type(module) == "table" and module.type or module,
        "Transformer, then Pooling, then perhaps Normalize")
    end
  end
  if not out.pool_file then
    return nil, path .. ": no Pooling among the modules", "FORMAT"
  end
  return out
end

-- A prompt that would be put in front of each text changes every vector.
local function check_prompt(dir)
  local path = fs.join(dir, "config_sentence_transformers.json")
  if not fs.exists(path) then
    return true
  end
  local all, message, code = keys.load(path)
  if not all then
    return nil, message, code
  end
  local name = all.default_prompt_name
  if keys.given(name) and type(all.prompts) == "table" and all.prompts[name] ~= "" then
    return keys.refuse(path, "default_prompt_name", name, "null: no text is put in front of the texts")
  end
  return true
end

--- sentence.is(dir) -> boolean: whether a directory holds such an encoder: modules.json, or a config.json that names
-- a class without a head.
function sentence.is(dir)
  if fs.exists(fs.join(dir, "modules.json")) then
    return true
  end
  local all = keys.load(fs.join(dir, "config.json"))
  local list = all and all.architectures
  return type(list) == "table" and type(list[1]) == "string" and list[1]:find "Model$" ~= nil and not list[1]:find "LMHeadModel$"
end

--- sentence.load(dir, {device="cpu", quantization=nil}) -> encoder | fail. encoder.pool "mean" or "cls", encoder.normalize,
-- encoder.limit (tokens).
function sentence.load(dir, opts)
  opts = options.check("sentence.load", opts or {}, {}, { "device", "quantization" })
  local modules, ok, message, code = { dir = dir, pool = "mean", normalize = false, limit = false }, nil, nil, nil
  if fs.exists(fs.join(dir, "modules.json")) then
    modules, message, code = read_modules(dir)
    ok = modules
    if ok then
      ok, message, code = check_prompt(dir)
    end
    if not ok then
      return nil, message, code
    end
  end
  local model
  model, message, code = transformer.load(modules.dir, { device = opts.device, quantization = opts.quantization })
  if not model then
    return nil, message, code
  end
  local shape = model:config()
  if shape.head ~= "none" then
    return nil, ("%s: a language model, no encoder of sentences"):format(modules.dir), "FORMAT"
  elseif modules.pool_file then
    modules.pool, message, code = read_pooling(modules.pool_file, shape.hidden_size)
    if not modules.pool then
      return nil, message, code
    end
  end
  local tok
  tok, message, code = tokenizer.load(modules.dir)
  if not tok then
    return nil, message, code
  elseif tok:vocab_size() > shape.vocab_size then
    return nil, ("%s: the tokenizer has %d ids, the model only %d: they do not belong together"):format(modules.dir, tok:vocab_size(),
      shape.vocab_size), "FORMAT"
  end
  -- max_seq_length stands in place of model_max_length
  local limit = modules.limit and math.min(modules.limit, shape.max_position_embeddings)
  if not limit then
    limit, message, code = framing.limit(modules.dir, shape.max_position_embeddings)
    if not limit then
      return nil, message, code
    end
  end
  return setmetatable({ model = model, framing = framing.new(tok, limit), pool = modules.pool, normalize = modules.normalize, limit = limit },
    Encoder)
end

local BATCH = 64 -- texts at a time

local function states_of(self, texts)
  local rows, types, flat = {}, {}, {}
  for i, text in ipairs(texts) do
    rows[i], types[i] = self.framing:row(text)
    if #rows[i] == 0 then
      error(("embed: text %d has no tokens"):format(i), 3)
    end
    table.move(types[i], 1, #types[i], #flat + 1, flat)
  end
  local device = self.model:device()
  local batch = transformer.batch(rows, { device = device })
  if (self.model:config().type_vocab_size or 0) > 1 then
    batch.types = tensor.new(flat, { dtype = "i32", device = device })
  end
  local states = self.model:forward(batch)
  if self.pool == "mean" then
    return nn.segment_mean(states, batch.offsets)
  end
  local first, offsets = {}, batch.offsets:totable()
  for i = 1, #rows do
    first[i] = offsets[i] + 1
  end
  return states:index_select(first)
end

--- encoder:embed(texts) -> tensor [n, D] without history; of length 1 each where encoder.normalize is true.
function Encoder:embed(texts)
  options.texts("embed", texts)
  local parts = {}
  for first = 1, #texts, BATCH do
    local scope <close> = tensor.scope()
    local v = tensor.no_grad(states_of, self, table.move(texts, first, math.min(#texts, first + BATCH - 1), 1, {}))
    if self.normalize then
      v = v / tensor.no_grad(function() return (v * v):sum(2, true):sqrt():maximum(1e-12) end)
    end
    parts[#parts + 1] = scope:keep(v)
  end
  return tensor.cat(parts, 1)
end

--- encoder:score(prompts, responses) -> list of numbers in -1 to 1: the cosine of each answer's vector to that of its
-- prompt. Of a prompt with the marks of the summary task its post counts (reward_templates.post). Called like a
-- function too.
function Encoder:score(prompts, responses)
  local scope <close> = tensor.scope()
  local posts, places, different = {}, {}, {}
  for i, prompt in ipairs(prompts) do
    local post = reward_templates.post(prompt)
    if not places[post] then
      different[#different + 1] = post
      places[post] = #different
    end
    posts[i] = places[post]
  end
  if #prompts == 0 then
    return {}
  end
  local a, b = self:embed(different):index_select(posts), self:embed(responses)
  local dot, norms = (a * b):sum(2), ((a * a):sum(2) * (b * b):sum(2)):sqrt()
  return (dot / norms):totable()
end

Encoder.__call = Encoder.score

return sentence
