--- mocl.lm.families: families of models in Hugging Face's files, each a table: the keys of its config.json and what they mean as a
-- specification (the keys of transformer.new), the names of its tensors, its classes. To add one is to write such a table.
--
--   model_type, shape (key of transformer.new -> key of config.json), defaults, keys (lists of mocl.keys)
--   classes: name -> "lm" (a language-model head), "encoder" (states alone), or a head for classification: pool "last" (the last
--     token that is no pad), "first" or "eos" (the last end), layers a list of {name, act=, bias=, inside=}; inside: its name has the prefix
--   spec(r, config): sets the other keys of transformer.new; r reads values (families/reader.lua)
--   prefix, names, layer, layer_names: names of tensors by mocl's; without names they are the same. An entry is {name, transposed=,
--     part=, parts=, plain=}: the matrix lies the other way round, or is one of several along the outputs; plain: no prefix
--   left_over, left_over_of_encoder: patterns of tensors that a file may hold besides; copies: names under which it may hold the
--     embedding once more; old_norms: gamma and beta are read too
--   decoder: of an encoder-decoder, whose table describes the encoder: shape, spec, prefix, names, layer, layer_names of the other side
--   lora_targets: the layers that an adapter of PEFT is on where its configuration names none
--   written: of a family whose config.json is made from a specification: {class =, keys =, bare =}, the class in it, the keys beside those of
--     shape, of which a string takes the specification's value of that name, and whether names have no prefix in this class
--   generates: false: keys of generation and generation_config.json are not looked at

local families = {}

local by_type = {}
for _, list in ipairs { require "mocl.lm.families.llama", require "mocl.lm.families.gpt2", require "mocl.lm.families.bert",
  require "mocl.lm.families.bart" } do
  for _, family in ipairs(list) do
    by_type[family.model_type] = family
  end
end

--- model_type -> family
families.by_type = by_type

local ACTS = { gelu_tanh = "gelu_new" } -- where transformers has another name

--- families.describe(family, config) -> a config.json as a table: what the family's files say of a model with this configuration, if it
-- is one of the family. Whether it is, model_config.check of it tells.
function families.describe(family, config)
  local all = { model_type = family.model_type, architectures = { family.written.class } }
  for key, theirs in pairs(family.shape) do
    all[theirs] = config[key]
  end
  for key, value in pairs(family.written.keys) do
    local own = type(value) == "string" and config[value]
    all[key] = type(value) ~= "string" and value or ACTS[own] or own
    if value == "hidden_act" and own == nil then
      all[key] = "silu"
    end
  end
  return all
end

--- families.written(...) -> the families whose config.json describe makes, in the order in which they are tried.
function families.written()
  local list = {}
  for _, name in ipairs { "qwen2", "qwen3", "gpt2", "bert" } do
    list[#list + 1] = by_type[name]
  end
  return list
end

--- The known values of model_type, in words.
function families.names()
  local list = {}
  for name in pairs(by_type) do
    list[#list + 1] = name
  end
  table.sort(list)
  return table.concat(list, ", ")
end

local function begins(text, prefix)
  return text:sub(1, #prefix) == prefix
end

--- families.rename(family, tensors) -> tensors: old names of norms as today's.
function families.rename(family, tensors)
  if not family.old_norms then
    return tensors
  end
  local out = {}
  for name, t in pairs(tensors) do
    out[name:gsub("LayerNorm%.gamma$", "LayerNorm.weight"):gsub("LayerNorm%.beta$", "LayerNorm.bias")] = t
  end
  return out
end

--- Whether the names of a file lack the family's prefix: of a class without a head.
function families.is_bare(family, tensors)
  for name in pairs(family.prefix and tensors or {}) do
    if begins(name, family.prefix) then
      return false
    end
  end
  return family.prefix ~= nil
end

-- The name in the file of one of mocl's parameters, and its entry.
local function locate(family, name, bare)
  if not family.names then
    return name, {}
  end
  local base, kind = name:match "^(.*)%.(%a+)$"
  local layer, inner = base:match "^model%.layers%.(%d+)%.(.*)$"
  local entry = layer and family.layer_names[inner] or family.names[base]
  local prefix = (bare or entry.plain) and "" or family.prefix
  return prefix .. (layer and family.layer:format(layer) or "") .. entry[1] .. "." .. kind, entry, kind
end

--- families.module(family, name, bare) -> name, part, parts: what the family calls the linear layer of a block that mocl calls `name`; parts
-- above 1: it is so many a part of that one's outputs.
function families.module(family, name, bare)
  local theirs, entry = locate(family, name .. ".weight", bare)
  return theirs:match "^(.*)%.weight$", entry.part or 1, entry.parts or 1
end

--- families.tensor(family, tensors, name, bare) -> tensor or nil, name in the file: the values of a parameter of mocl's as they lie
-- in the file's tensors, a view.
function families.tensor(family, tensors, name, bare)
  local theirs, entry, kind = locate(family, name, bare)
  local t = tensors[theirs]
  if t and entry.transposed and kind == "weight" and t.ndim == 2 then
    t = t:t()
  end
  if t and entry.parts and t.ndim > 0 and t.shape[1] % entry.parts == 0 then
    local rows = t.shape[1] // entry.parts
    t = t:narrow(1, (entry.part - 1) * rows + 1, rows)
  end
  return t, theirs
end

--- families.is_plain(family, name) -> whether the file has this parameter of mocl's as it is: not transposed, nor as a part of another.
function families.is_plain(family, name)
  local _, entry = locate(family, name)
  return not (entry.transposed or entry.parts)
end

--- families.shape(family, name, shape) -> text: what the file's tensor of a parameter has to be, in words.
function families.shape(family, name, shape)
  local _, entry, kind = locate(family, name)
  local out = table.move(shape, 1, #shape, 1, {})
  out[1] = out[1] * (entry.parts or 1)
  if entry.transposed and kind == "weight" then
    out[1], out[2] = out[2], out[1]
  end
  return table.concat(out, ",")
end

--- families.back(family, named, bare) -> name -> tensor: parameters as the family's files have them.
function families.back(family, named, bare)
  local tensor = require "mocl.tensor"
  local out, parts = {}, {}
  for _, pair in ipairs(named) do
    local theirs, entry, kind = locate(family, pair[1], bare)
    local t = pair[2]
    if entry.parts then
      parts[theirs] = parts[theirs] or { n = entry.parts, transposed = entry.transposed and kind == "weight" }
      parts[theirs][entry.part] = t
    else
      out[theirs] = entry.transposed and kind == "weight" and t:t():contiguous() or t
    end
  end
  for theirs, list in pairs(parts) do
    local whole = tensor.cat(table.move(list, 1, list.n, 1, {}), 1)
    out[theirs] = list.transposed and whole:t():contiguous() or whole
  end
  return out
end

return families
