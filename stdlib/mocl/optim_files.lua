--- mocl.optim_files: the state of an optimiser (mocl.optim) as a file of a checkpoint.

local finite = require "mocl.finite"
local parameters = require "mocl.parameters"
local safetensors = require "mocl.safetensors"

local optimizer = {}

-- as safetensors.load, for tensors that must be finite
local function load(path)
  local tensors, meta, code = safetensors.load(path)
  local ok, message, kind = tensors ~= nil, meta, code
  if ok then
    ok, message, kind = finite.tensors(tensors, path)
  end
  if not ok then
    return nil, message, kind
  end
  return tensors, meta
end

--- Moments and step count of an optimiser as optimizer.safetensors; optimizer.load puts them back.
function optimizer.save(opt, path)
  local tensors = {}
  for which, list in pairs(opt:state()) do
    for i, t in ipairs(list) do
      tensors[("%s.%05d"):format(which, i)] = t
    end
  end
  local ok, message, code = finite.tensors(tensors, path)
  if not ok then
    return nil, message, code
  end
  return safetensors.save(path, tensors, { steps = tostring(opt:steps()) })
end

function optimizer.load(opt, path)
  local tensors, meta, code = load(path)
  if not tensors then
    return nil, meta, code
  end
  local named = {}
  for which, list in pairs(opt:state()) do
    for i, t in ipairs(list) do
      named[#named + 1] = { ("%s.%05d"):format(which, i), t }
    end
  end
  table.sort(named, function(a, b)
    return a[1] < b[1]
  end)
  local ok, message, why = parameters.copy(named, tensors, path)
  if not ok then
    return nil, message, why
  end
  local steps = math.tointeger(tonumber(meta.steps))
  if not steps or steps < 0 then
    return nil, path .. ": no count of steps", "FORMAT"
  end
  opt:steps(steps)
  return true
end

return optimizer
