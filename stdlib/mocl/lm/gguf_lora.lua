--- mocl.lm.gguf_lora: adapters as GGUF files, as llama.cpp loads them beside a base (--lora). The file has two tensors for
-- each linear layer that has an adapter, the name of the base's tensor with .lora_a [r, in] and .lora_b [out, r].
-- Its one key for scales, adapter.lora.alpha, means alpha / r for all layers alike, and cannot say that alphas differ or
-- that the scale is alpha / sqrt(r). So mocl writes B times its layer's scale and leaves the key out: the scale is 1 then.

local finite = require "mocl.finite"
local gguf = require "mocl.lm.gguf"
local gguf_keys = require "mocl.lm.gguf_keys"
local gguf_model = require "mocl.lm.gguf_model"
local keys = require "mocl.keys"
local lora_join = require "mocl.lm.lora_join"
local tensor = require "mocl.tensor"

local gguf_lora = {}

-- ---- writing ----

--- gguf_lora.save(model, path, {type="F32", name=}) -> true | fail. name: of the adapter; the active one by default. type: of both matrices, F32, F16, BF16, or Q8_0, for which
-- the rank is a multiple of 32. The base's hash goes into mocl.base_sha256, which llama.cpp does not read.
function gguf_lora.save(model, path, opts)
  local kind, tensors = opts.type or "F32", {}
  if not gguf_model.FILE_TYPES[kind] then
    error(("save_gguf: type '%s' is not one of F32, F16, BF16, Q8_0"):format(tostring(kind)), 3)
  end
  local adapter = opts.name or true
  local ok, message, code = finite.tensors(model:named_parameters(adapter), path)
  if not ok then
    return nil, message, code
  end
  local architecture = gguf_model.architecture(model:config())
  if not architecture then
    return nil, ("%s: no architecture of llama.cpp's that mocl writes has this specification (%s)"):format(path,
      gguf_model.architectures()), "FORMAT"
  end
  local wanted, heads = gguf_model.tensors(model:config(), architecture), {}
  local list, stranger = lora_join.pairs(model, adapter, function(module)
    local w = wanted[module .. ".weight"]
    heads[w.name] = w.heads
    return w.name, w.part or 1, w.part and 3 or 1
  end)
  if not list then
    return nil, ("%s: the adapter trains '%s', and a LoRA GGUF holds low-rank pairs alone; merge it into the model and "
      .. "write that with transformer.save_gguf"):format(path, stranger), "FORMAT"
  end
  for _, one in ipairs(list) do
    local a, b = one.A, tensor.no_grad(function() return one.B:to("f32") * one.scale end)
    for _, t in ipairs { { name = one.name .. ".lora_a", tensor = a, heads = 0 }, { name = one.name .. ".lora_b", tensor = b, heads = heads[one.name] } } do
      ok, message, code = gguf_model.fits(t.tensor, t.name, kind, path)
      if ok then
        ok, message, code = finite.tensors({ [t.name] = t.tensor }, path) -- the scale may be large
      end
      if not ok then
        return nil, message, code
      end
      t.type = kind
      tensors[#tensors + 1] = t
    end
  end
  return gguf.save(path, { tensors = tensors, metadata = {
    { "general.architecture", "string", architecture }, { "general.type", "string", "adapter" },
    { "general.alignment", "u32", 32 }, { "general.file_type", "u32", gguf_model.FILE_TYPES[kind] },
    { "general.quantization_version", "u32", 2 }, { "adapter.type", "string", "lora" },
    { "mocl.base_sha256", "string", model:hash() },
  } })
end

-- ---- reading ----

-- What the metadata says must be so, for a model of this architecture | fail
local function check_metadata(file, architecture)
  local path, m = file.path, file.metadata
  for _, row in ipairs { { "general.type", "adapter" }, { "adapter.type", "lora" }, { "general.architecture", architecture } } do
    local key, value = row[1], row[2]
    if m[key] == nil then
      return nil, ("%s: %s is missing"):format(path, key), "FORMAT"
    elseif m[key] ~= value then
      return keys.refuse(path, key, m[key], key == "general.architecture" and "the adapter is of a base like this model, "
        .. value or value)
    end
  end
  local alpha = m["adapter.lora.alpha"]
  if alpha ~= nil and (math.type(alpha) ~= "float" or alpha ~= alpha or math.abs(alpha) == math.huge) then
    return keys.refuse(path, "adapter.lora.alpha", alpha, "a number of type f32")
  end
  return keys.check(path, gguf_model.described(file), gguf_keys.ADAPTER)
end

-- HF's name of a module -> {a =, b =, heads =, part =}, the names of its tensors in the file; part: its B is so many a third of b's rows | fail
local function modules_of(file, config, architecture)
  local modules, module_of, wanted = {}, {}, gguf_model.tensors(config, architecture)
  for hf, w in pairs(wanted) do
    local module = hf:match "^(.*)%.weight$"
    if module then
      module_of[w.name] = module_of[w.name] or {}
      table.insert(module_of[w.name], { hf = module, heads = w.heads, part = w.part })
    end
  end
  for _, t in ipairs(file.tensors) do
    local base, which = t.name:match "^(.*)%.lora_([ab])$"
    local found = base and module_of[base]
    if not found then
      return nil, ("%s: tensor '%s' is no .lora_a or .lora_b of a tensor of this model"):format(file.path, t.name), "FORMAT"
    elseif #t.shape ~= 2 then
      return nil, ("%s: tensor '%s' has not two dimensions"):format(file.path, t.name), "FORMAT"
    end
    for _, m in ipairs(found) do
      local one = modules[m.hf] or { heads = m.heads, part = m.part }
      modules[m.hf], one[which] = one, t
    end
  end
  for hf, one in pairs(modules) do
    local there = one.a or one.b
    if not one.a or not one.b then
      return nil, ("%s: tensor '%s' has no %s beside it"):format(file.path, there.name, one.a and ".lora_b" or ".lora_a"), "FORMAT"
    elseif one.a.shape[1] ~= one.b.shape[2] then
      return nil, ("%s: tensors '%s' (%s) and '%s' (%s) are of different ranks"):format(file.path, one.a.name,
        table.concat(one.a.shape, ","), one.b.name, table.concat(one.b.shape, ",")), "FORMAT"
    end
    modules[hf].r = one.a.shape[1]
  end
  if not next(modules) then
    return nil, file.path .. ": it holds no adapter: there are no tensors", "FORMAT"
  end
  return modules
end

local function read_tensors(file, modules, device)
  local tensors = {}
  for hf, one in pairs(modules) do
    for _, row in ipairs { { one.a.name, ".lora_A.weight", 0 }, { one.b.name, ".lora_B.weight", one.heads } } do
      local rows = row[3] > 0 and one.b.shape[1] or 0
      if rows > 0 and rows % (2 * row[3]) ~= 0 then
        return nil, ("%s: tensor '%s' has %d rows, which are not those of %d heads"):format(file.path, row[1], rows, row[3]), "FORMAT"
      end
      local t, message, code = file:tensor(row[1], { device = device, heads = row[3] })
      local ok = t
      if ok then
        ok, message, code = finite.tensors({ [row[1]] = t }, file.path)
      end
      if not ok then
        return nil, message, code
      end
      local parts = row[2]:find "B" and one.part and 3 or 1
      if t.shape[1] % parts ~= 0 then
        return nil, ("%s: tensor '%s' has %d rows, which are not those of q, k and v"):format(file.path, row[1], t.shape[1]), "FORMAT"
      end
      tensors[hf .. row[2]] = lora_join.part(t, one.part or 1, parts)
    end
  end
  return tensors
end

--- gguf_lora.read(path, model) -> {modules =, tensors =, base_sha256 =} | fail. modules: as add_lora takes them; tensors: A
-- and B under the names of the model's parameters, B as the file has it, for the alpha of its module.
function gguf_lora.read(path, model)
  local file, message, code = gguf.open(path)
  if not file then
    return nil, message, code
  end
  local ok, modules, tensors = nil, nil, nil
  local architecture = gguf_model.architecture(model:config())
  if architecture then
    ok, message, code = check_metadata(file, architecture)
  else
    message, code = ("%s: an adapter of a GGUF file is on one of %s, and this model is none of them"):format(path,
      gguf_model.architectures()), "FORMAT"
  end
  if ok then
    modules, message, code = modules_of(file, model:config(), architecture)
  end
  if modules then
    tensors, message, code = read_tensors(file, modules, model:device())
  end
  local alpha, base = file.metadata["adapter.lora.alpha"], file.metadata["mocl.base_sha256"]
  file:close()
  if not tensors then
    return nil, message, code
  end
  local plan = {}
  for hf, one in pairs(modules) do
    plan[hf] = { r = one.r, alpha = alpha and alpha ~= 0 and alpha or one.r } -- 0 means 1 to llama.cpp, as none does
  end
  return { modules = plan, tensors = tensors, base_sha256 = base }
end

return gguf_lora
