--- mocl.lm.classifier: models with a head for classification, as transformers saves them: scores of a text, from the state of one of
-- its tokens. Llama's kind and GPT-2 take the last token that is no pad, BERT's kind the first, BART its decoder's at the last end.
--
--   local classifier = require "mocl.lm.classifier"
--   local c = assert(classifier.load("path/to/model"))
--   local scores = c:scores { { 17, 76, 49 }, { 59, 28 } }   -- [2, labels], nothing is squashed

local families = require "mocl.lm.families"
local keys = require "mocl.keys"
local model_config = require "mocl.lm.model_config"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local classifier = {}

local Classifier = {}
Classifier.__index = Classifier

--- classifier.head_names(read, bare) -> names of the head's tensors in a file, by layer: {weight =, bias =}. read: as
-- model_config.read gives it.
function classifier.head_names(read, bare)
  local list = {}
  for i, layer in ipairs(read.class.layers) do
    local base = (layer.inside and not bare and read.family.prefix or "") .. layer[1]
    list[i] = { weight = base .. ".weight", bias = layer.bias ~= false and base .. ".bias" or nil }
  end
  return list
end

-- The tensors of the head as layers, or nil, message, code where they do not follow each other.
local function head_of(read, tensors, bare, dir)
  local width, layers = read.config.hidden_size, {}
  for i, names in ipairs(classifier.head_names(read, bare)) do
    local w, b = tensors[names.weight], names.bias and tensors[names.bias]
    local missing = not w and names.weight or names.bias and not b and names.bias
    if missing then
      return nil, ("%s: tensor '%s' is missing, which %s needs"):format(dir, missing, read.class_name), "FORMAT"
    elseif w.ndim ~= 2 or w.shape[2] ~= width then
      return nil, ("%s: tensor '%s' is (%s), the model needs (labels,%d)"):format(dir, names.weight, table.concat(w.shape, ","), width), "FORMAT"
    elseif b and (b.ndim ~= 1 or b.shape[1] ~= w.shape[1]) then
      return nil, ("%s: tensor '%s' is (%s), the model needs (%d)"):format(dir, names.bias, table.concat(b.shape, ","), w.shape[1]), "FORMAT"
    end
    -- copies: the file's tensors are the file itself, which somebody may change
    layers[i] = { weight = w:to "f32":clone(), bias = b and b:to "f32":clone() or nil, act = read.class.layers[i].act }
    width = w.shape[1]
  end
  return layers, width
end

-- The rows of the head's weight are the labels; what config.json says of their number must agree. transformers writes
-- neither key for two labels.
local function check_labels(read, labels, path)
  local all, named = read.all, nil
  if keys.given(all.id2label) and type(all.id2label) == "table" then
    named = 0
    for _ in pairs(all.id2label) do
      named = named + 1
    end
  end
  for key, n in pairs { num_labels = keys.given(all.num_labels) and all.num_labels or nil, id2label = named } do
    if n ~= labels then
      return keys.refuse(path, key, all[key], ("the head's weight has %d rows"):format(labels))
    end
  end
  return true
end

--- classifier.load(dir, {device="cpu", quantization=nil}) -> c | fail: a directory of a class with a head for classification (mocl.lm.families lists
-- them). c.model is the model without the head, c.labels how many scores there are, c.pad_id the id of pads or nil, c.pool "last",
-- "first" or "eos", c.eos_id with that the id of the end. Everything is held in f32, but for
-- the linear layers of blocks where there is a quantization (transformer.load).
function classifier.load(dir, opts)
  options.check("classifier.load", opts or {}, {}, { "device", "quantization" })
  local model, read, tensors = transformer.from_files(dir, opts or {}, { classifier = true },
    function(found, all, bare)
      local mine = {}
      for _, names in ipairs(classifier.head_names(found, bare)) do
        mine[names.weight] = true
        mine[names.bias or names.weight] = true
      end
      return all and mine
    end)
  if not model then
    return nil, read, tensors
  end
  local bare = families.is_bare(read.family, tensors)
  local layers, labels, code = head_of(read, tensors, bare, dir)
  if not layers then
    return nil, labels, code
  end
  local ok, message
  ok, message, code = check_labels(read, labels, dir .. "/config.json")
  if not ok then
    return nil, message, code
  end
  return setmetatable({
    model = model, layers = layers, labels = labels, pool = read.class.pool, pad_id = model_config.value(read, "pad_token_id"),
    eos_id = read.class.pool == "eos" and model_config.value(read, "eos_token_id") or nil,
    pads_have_no_position = not read.decoder and read.config.position_offset ~= nil, read = read, bare = bare,
  }, Classifier)
end

-- The place of the last token that is no pad.
local function last_token(ids, pad_id)
  for i = #ids, 1, -1 do
    if ids[i] ~= pad_id then
      return i
    end
  end
  return 1
end

-- The place in front of the first pad; the last one where there is none, or in front of it nothing.
local function before_pad(ids, pad_id)
  for i, id in ipairs(ids) do
    if id == pad_id then
      return i > 1 and i - 1 or #ids
    end
  end
  return #ids
end

-- The place whose number is that of the tokens which are no pads; the last one where all are.
local function counted(ids, pad_id)
  local n = 0
  for _, id in ipairs(ids) do
    n = n + (id ~= pad_id and 1 or 0)
  end
  return n > 0 and n or #ids
end

-- The place of the last end, or nil.
local function last_end(ids, eos_id)
  for i = #ids, 1, -1 do
    if ids[i] == eos_id then
      return i
    end
  end
end

local BY_PAD = { last = last_token, before_pad = before_pad, counted = counted }

--- classifier.pooled(ids, pool, pad_id, eos_id) -> place, from 1, or nil: the token of a row from whose state the scores come. "first"; or "last": the
-- last id that is not pad_id, the first token where all are pads, and the last token where pad_id is nil or negative. Where the pad is
-- the end of the answer too, that end is passed over: "answer" and "answer end" score alike. Or "eos": the last
-- eos_id, nil where there is none. Two rules of older versions of transformers, which differ where a pad stands
-- inside the text: "before_pad" (4.35 to 4.45), the token in front of the first pad, and "counted" (up to 4.34), the
-- one whose place is the number of tokens that are no pads; the last token without pads, or without pad_id.
function classifier.pooled(ids, pool, pad_id, eos_id)
  if pool == "eos" then
    return last_end(ids, eos_id)
  elseif pool == "first" or #ids == 0 then
    return 1
  elseif not pad_id or pad_id < 0 then
    return #ids
  end
  return BY_PAD[pool](ids, pad_id)
end

local ACTS = { tanh = tensor.tanh, relu = tensor.relu }

--- c:scores(rows, {types=, adapter=true, pool=}) -> tensor [n, labels]: of rows of ids, which hold no padding that is
-- not to be read. types: lists of the tokens' types, for models that have them; all 0 without. pool: a rule of
-- classifier.pooled in place of c.pool. Differentiable.
function Classifier:scores(rows, opts)
  opts = options.check("scores", opts or {}, {}, { "types", "adapter", "pool" })
  local device = self.model:device()
  local batch, at, places, types = transformer.batch(rows, { device = device }), 0, {}, nil
  for i, ids in ipairs(rows) do
    if #ids == 0 then
      error(("scores: row %d is empty"):format(i), 2)
    end
    for _, id in ipairs(self.pads_have_no_position and ids or {}) do
      if id == self.pad_id then
        error(("scores: row %d holds the pad id %d, which has no position in this family; leave pads out"):format(i, id), 2)
      end
    end
    local place = classifier.pooled(ids, opts.pool or self.pool, self.pad_id, self.eos_id)
    if not place then
      error(("scores: row %d holds no end (id %d), from whose state this family scores; encode with special tokens"):format(i, self.eos_id), 2)
    end
    places[i] = at + place - 1
    at = at + #ids
  end
  if opts.types then
    types = {}
    for i, ids in ipairs(rows) do
      local list = opts.types[i]
      if type(list) ~= "table" or #list ~= #ids then
        error(("scores: row %d has %d tokens and %s types"):format(i, #ids, type(list) == "table" and #list or "no"), 2)
      end
      table.move(list, 1, #list, #types + 1, types)
    end
    batch.types = tensor.new(types, { dtype = "i32", device = device })
  end
  local x = self.model:forward(batch, { adapter = opts.adapter, rows = tensor.new(places, { dtype = "i32", device = device }) })
  for _, layer in ipairs(self.layers) do
    x = nn.linear(x, layer.weight, layer.bias)
    x = layer.act and ACTS[layer.act](x) or x
  end
  return x
end

--- c:parameters() -> list of {name, tensor}: the head's.
function Classifier:parameters()
  local list = {}
  for i, layer in ipairs(self.layers) do
    list[#list + 1] = { ("head.%d.weight"):format(i), layer.weight }
    list[#list + 1] = layer.bias and { ("head.%d.bias"):format(i), layer.bias } or nil
  end
  return list
end

return classifier
