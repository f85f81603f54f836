--- mocl.lm.model_config: config.json and generation_config.json of a model's directory. What would ask for another model
-- than mocl computes is refused by name, and so is what two living versions of transformers read as two models.

local bnb = require "mocl.lm.bnb"
local core = require "mocl.transformer.core"
local fs = require "mocl.fs"
local json = require "mocl.json"
local keys = require "mocl.keys"
local families = require "mocl.lm.families"
local model_keys = require "mocl.lm.model_keys"
local reader = require "mocl.lm.families.reader"
local rope = require "mocl.lm.families.rope"

local model_config = {}

local given, refuse = keys.given, keys.refuse

-- ---- classes ----

-- What the class in `architectures` is, of those that are wanted: "lm" where none is named.
local function class_of(r, family, wanted)
  local list = r.all.architectures
  local unnamed = not given(list) and (wanted.lm and "lm" or wanted.encoder and "encoder")
  if unnamed then
    return unnamed, family.classes
  end
  local names, kind, name = {}, nil, nil
  for known, what in pairs(family.classes) do
    local word = type(what) == "table" and "classifier" or what
    if wanted[word] then
      names[#names + 1] = known
    end
  end
  table.sort(names)
  for _, one in pairs(type(list) == "table" and list or {}) do
    local what = family.classes[one]
    local word = type(what) == "table" and "classifier" or what
    if not what or not wanted[word] then
      local cure = table.concat(names, ", ")
      if word == "classifier" then
        cure = cure .. (cure ~= "" and "; " or "") .. "mocl.lm.classifier loads models with a head for classification"
      end
      r:refuse("architectures", list, cure ~= "" and cure or "no class of this family")
    end
    kind, name = what, one
  end
  if not kind then
    r:refuse("architectures", list, table.concat(names, ", "))
  end
  return kind, name
end

-- ---- ends of answers ----

-- The ids of eos_token_id, a number or a list of numbers; ids that the model does not have end nothing. nil where the
-- key is missing; false, message, code where it holds something else.
local function eos_ids(path, all, vocab)
  local value = all.eos_token_id
  if value == nil then
    return nil
  end
  local list, out = value == json.null and {} or type(value) == "table" and value or { value }, {}
  for key, id in pairs(list) do
    if math.type(key) ~= "integer" or math.type(id) ~= "integer" then
      return false, select(2, refuse(path, "eos_token_id", value, "an id or a list of ids")), "FORMAT"
    end
  end
  for _, id in ipairs(list) do
    if id >= 0 and id < vocab then
      out[#out + 1] = id
    end
  end
  return out
end

--- model_config.generation_path(dir) -> path
function model_config.generation_path(dir)
  return fs.join(dir, "generation_config.json")
end

-- ---- the files ----

local LM = { lm = true }

-- The sizes of a family's config.json under the names of transformer.new.
local function shape_of(r, family)
  local config = {}
  for key, theirs in pairs(family.shape) do
    local value = r.all[theirs]
    if given(value) then
      config[key] = value
    elseif value == nil or key ~= "num_key_value_heads" then -- null: as many as there are heads
      config[key] = r.defaults[theirs]
    end
  end
  return config
end

-- What the tables of families count with; sizes that are integers and cannot be are named by core.check.
local function check_counts(r, family, config)
  for _, key in ipairs { "max_position_embeddings", "num_hidden_layers", "hidden_size", "num_attention_heads" } do
    if math.type(config[key]) ~= "integer" then
      r:refuse(family.shape[key], config[key], "an integer")
    end
  end
  for _, key in ipairs { "num_hidden_layers", "num_attention_heads" } do
    if config[key] < 1 or config[key] > 4096 then
      r:refuse(family.shape[key], config[key], "1 .. 4096")
    end
  end
end

-- All keys of transformer.new for a family's table, or one side of it.
local function spec_of(r, family)
  local config = shape_of(r, family)
  check_counts(r, family, config)
  family.spec(r, config)
  return config
end

-- What transformer.new makes of them.
local function normal_of(r, config)
  local fits, normal = pcall(core.check, config)
  if fits and r.scaling then
    rope.apply(config, r.scaling)
    fits, normal = pcall(core.check, config)
  end
  if not fits and normal:find("not enough memory", 1, true) then
    error(normal, 0) -- which says nothing of the file: transformer.save would take it for a model that is no Llama
  elseif not fits then
    r.fail(nil, r.path .. ": " .. normal)
  end
  return normal
end

-- What check does, where a value that is refused ends it.
local function check(path, all, wanted)
  local family = families.by_type[all.model_type]
  local r = reader.new(path, all, family and family.defaults)
  if not family then
    r:refuse("model_type", all.model_type, families.names())
  end
  local ok, message, code = keys.check(path, all, family.keys)
  if not ok then
    r.fail(nil, message, code)
  end
  local quantized
  quantized, message, code = bnb.config(path, all)
  if quantized == nil then
    r.fail(nil, message, code)
  end
  local config = spec_of(r, family)
  local class, name = class_of(r, family, wanted)
  if type(class) == "table" then
    config.head, config.tie_word_embeddings = "none", nil
  end
  local decoder = family.decoder and normal_of(r, spec_of(r, family.decoder))
  return { config = normal_of(r, config), decoder = decoder, all = all, family = family, class = class, class_name = name,
    quantized = quantized }
end

--- model_config.check(path, all, wanted) -> {config =, all =, eos =, family =, class =, class_name =, decoder =} | fail: what config.json at
-- `path`, decoded as `all`, asks for. config: the keys of transformer.new, as model:config() gives them; eos: list of the ids that
-- end an answer, or nil where it does not say; decoder: the keys of an encoder-decoder's other side; class: "lm", "encoder" or a head
-- (mocl.lm.families); quantized: of bnb.config. wanted: {lm=, encoder=, classifier=}, the kinds of classes that are not refused; nil: lm
-- alone.
function model_config.check(path, all, wanted)
  local read, message, code = reader.try(check, path, all, wanted or LM)
  if not read then
    return nil, message, code
  end
  local eos
  eos, message, code = eos_ids(path, all, read.config.vocab_size)
  if eos == false then
    return nil, message, code
  end
  read.eos = eos
  return read
end

--- model_config.value(read, key) -> the value of a key of config.json, or the family's default; nil where it is null or neither is there
function model_config.value(read, key)
  local value = read.all[key]
  if value == nil then
    value = read.family.defaults[key]
  end
  return value ~= json.null and value or nil
end

--- model_config.generation(dir, vocab) -> {all =, eos =} or false where there is no generation_config.json | fail.
-- vocab: how many ids the model has.
function model_config.generation(dir, vocab)
  local path = model_config.generation_path(dir)
  if fs.exists(path) ~= "file" then
    return false
  end
  local all, message, code = keys.read(path, model_keys.GENERATION)
  if not all then
    return nil, message, code
  end
  local eos
  eos, message, code = eos_ids(path, all, vocab)
  if eos == false then
    return nil, message, code
  end
  return { all = all, eos = eos or {} }
end

--- model_config.read(dir, wanted) -> {config =, all =, eos =, ...} | fail, as model_config.check. generation_config.json, where it
-- exists, replaces what config.json says of the ends of answers, also where it names none, as in transformers.
function model_config.read(dir, wanted)
  local path = fs.join(dir, "config.json")
  local all, message, code = keys.load(path)
  local read = nil
  if all then
    read, message, code = model_config.check(path, all, wanted)
  end
  if not read then
    return nil, message, code
  end
  if read.family.generates == false then
    return read
  end
  local generation
  generation, message, code = model_config.generation(dir, read.config.vocab_size)
  if generation == nil then
    return nil, message, code
  end
  read.eos = generation and generation.eos or read.eos
  return read
end

return model_config
