--- mocl.parameters: tensors by name, as files have them, into the parameters of a network, and files of them.

local finite = require "mocl.finite"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

local parameters = {}

--- Copies the tensors of `from` (name -> tensor) into the parameters of the same names; every parameter must be there
-- with its shape, and no tensor may be left over but those of which may_stay(name, tensor) is true. Returns true, or
-- nil, message.
function parameters.copy(named, from, where, may_stay)
  local missing, used = {}, {}
  for _, pair in ipairs(named) do
    local name, to = pair[1], pair[2]
    local source = from[name]
    if not source then
      missing[#missing + 1] = name
    else
      local a, b = table.concat(source.shape, ","), table.concat(to.shape, ",")
      if a ~= b then
        return nil, ("%s: tensor '%s' is (%s), the model needs (%s)"):format(where, name, a, b), "FORMAT"
      end
      tensor.no_grad(to.copy_, to, source)
      used[name] = true
    end
  end
  if #missing > 0 then
    return nil, ("%s: %d of %d tensors are missing, the first is '%s'"):format(where, #missing, #named, missing[1]), "FORMAT"
  end
  for name, t in pairs(from) do
    if not used[name] and not (may_stay and may_stay(name, t)) then
      return nil, ("%s: tensor '%s' belongs to no layer of this model"):format(where, name), "FORMAT"
    end
  end
  return true
end

--- Saves a list of {name, tensor} as a safetensors file with `meta`, a table of texts. Returns true | fail; a tensor that is not finite
-- is refused before anything is written.
function parameters.save(named, path, meta)
  local ok, message, code = finite.tensors(named, path)
  if not ok then
    return nil, message, code
  end
  local tensors = {}
  for _, pair in ipairs(named) do
    tensors[pair[1]] = pair[2]
  end
  return safetensors.save(path, tensors, meta)
end

--- Takes back what save wrote, into a list of {name, tensor}. Returns true, meta | fail; nothing is copied where a tensor is not
-- finite.
function parameters.load(named, path)
  local tensors, meta, code = safetensors.load(path)
  if not tensors then
    return nil, meta, code
  end
  local ok, message, kind = finite.tensors(tensors, path)
  if ok then
    ok, message, kind = parameters.copy(named, tensors, path)
  end
  if not ok then
    return nil, message, kind
  end
  return true, meta
end

return parameters
