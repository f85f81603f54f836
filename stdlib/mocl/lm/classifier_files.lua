--- mocl.lm.classifier_files: directories of models with a head for classification, as transformers loads them: made
-- of a language model or an encoder, with a head that is drawn; and written after a training.

local classifier = require "mocl.lm.classifier"
local families = require "mocl.lm.families"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local json = require "mocl.json"
local keys = require "mocl.keys"
local model_config = require "mocl.lm.model_config"
local model_files = require "mocl.lm.model_files"
local tensor = require "mocl.tensor"

local classifier_files = {}

-- The class with a head of a family, by its name.
local function class_of(family)
  local names = {}
  for name, what in pairs(family.classes) do
    names[#names + 1] = type(what) == "table" and name or nil
  end
  table.sort(names)
  return names[1], family.classes[names[1]]
end

local function write_config(dir, all)
  return fs.write(fs.join(dir, "config.json"), json.encode(all, { indent = 2 }) .. "\n")
end

-- config.json with the class, and a name for each label.
local function with_labels(read, class, labels, pad)
  local all, out = read.all, {}
  for key, value in pairs(all) do
    out[key] = value
  end
  out.architectures, out.num_labels, out.id2label, out.label2id = json.array { class }, nil, {}, {}
  for i = 0, labels - 1 do
    out.id2label[tostring(i)], out.label2id["LABEL_" .. i] = "LABEL_" .. i, i
  end
  if not keys.given(out.pad_token_id) and not read.family.defaults.pad_token_id then
    out.pad_token_id = pad
  end
  return out
end

--- classifier_files.has_head(dir) -> boolean: whether config.json names a class with a head for classification that
-- mocl loads.
function classifier_files.has_head(dir)
  local read = model_config.read(dir, { classifier = true })
  return read ~= nil and type(read.class) == "table"
end

local DEVIATION = 0.02 -- of a new layer's weights, as transformers draws them

--- classifier_files.convert(from, to, {labels=, key=, pad_id=}) -> true | fail: a directory `to` of the class with a
-- head, with the weights of the language model or encoder in the directory `from` and layers of the head that are
-- drawn from `key` where the file has none; the head of a language model is left out. pad_id: pad_token_id where
-- config.json has none; transformers needs one for batches.
function classifier_files.convert(from, to, o)
  local read, message, code = model_config.read(from, { lm = true, encoder = true })
  local tensors = read
  if read then
    tensors, message, code = model_files.load(from, {})
  end
  if not tensors then
    return nil, message, code
  end
  local class_name, class = class_of(read.family)
  if not class then
    return nil, ("%s: model_type %s has no class with a head for classification"):format(from, read.family.model_type), "FORMAT"
  end
  tensors = families.rename(read.family, tensors)
  local bare, out, n = families.is_bare(read.family, tensors), {}, 0
  for name, t in pairs(tensors) do
    out[name] = not name:find "^lm_head%." and t or nil
  end
  local width, layers = read.config.hidden_size, class.layers
  for i, names in ipairs(classifier.head_names({ class = class, family = read.family }, bare)) do
    local rows = i == #layers and o.labels or width
    if not out[names.weight] then
      out[names.weight], n = tensor.randn({ rows, width }, { key = o.key, stream = n }) * DEVIATION, n + 1
      out[names.bias or ""] = names.bias and tensor.zeros { rows } or nil
    end
  end
  local ok
  ok, message, code = fs.mkdir(to)
  if ok then
    ok, message, code = model_files.save(to, out)
  end
  if ok then
    ok, message, code = write_config(to, with_labels(read, class_name, o.labels, o.pad_id))
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- classifier_files.save(c, dir) -> true | fail: config.json and model.safetensors under the names that the model was
-- loaded with. An adapter must be merged before.
function classifier_files.save(c, dir)
  if #c.model:adapters() > 0 then
    error("classifier_files.save: the model has an adapter; merge it first", 2)
  elseif not c.read.decoder and c.model:quantization() then
    error(("classifier_files.save: the linear layers are %s; model:dequantize() makes f32 of them"):format(c.model:quantization()), 2)
  end
  local tensors = {}
  local sides = c.read.decoder and { { c.model.encoder, c.read.family }, { c.model.decoder, c.read.family.decoder } } or { { c.model, c.read.family } }
  for _, side in ipairs(sides) do -- an embedding that both sides share has one name in the file
    for name, t in pairs(tensor.no_grad(families.back, side[2], side[1]:named_parameters(), c.bare)) do
      tensors[name] = t
    end
  end
  for i, names in ipairs(classifier.head_names(c.read, c.bare)) do
    tensors[names.weight] = c.layers[i].weight
    tensors[names.bias or ""] = names.bias and c.layers[i].bias or nil
  end
  local ok, message, code = finite.tensors(tensors, dir)
  if ok then
    ok, message, code = fs.mkdir(dir)
  end
  if ok then
    ok, message, code = model_files.save(dir, tensors)
  end
  if ok then
    local all = {}
    for key, value in pairs(c.read.all) do
      all[key] = value
    end
    all.quantization_config = nil
    all.dtype, all.torch_dtype = all.dtype and "float32" or nil, all.torch_dtype and "float32" or nil
    ok, message, code = write_config(dir, all)
  end
  if not ok then
    return nil, message, code
  end
  return true
end

return classifier_files
