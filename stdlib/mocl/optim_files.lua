--- mocl.optim_files: the state of an optimiser (mocl.optim) as a file of a checkpoint.

local parameters = require "mocl.parameters"

local optimizer = {}

-- the moments as {name, tensor}, sorted
local function named(opt)
  local list = {}
  for which, tensors in pairs(opt:state()) do
    for i, t in ipairs(tensors) do
      list[#list + 1] = { ("%s.%05d"):format(which, i), t }
    end
  end
  table.sort(list, function(a, b)
    return a[1] < b[1]
  end)
  return list
end

--- Moments and step count of an optimiser as optimizer.safetensors; optimizer.load puts them back.
function optimizer.save(opt, path)
  return parameters.save(named(opt), path, { steps = tostring(opt:steps()) })
end

function optimizer.load(opt, path)
  local ok, meta, code = parameters.load(named(opt), path)
  if not ok then
    return nil, meta, code
  end
  local steps = math.tointeger(tonumber(meta.steps))
  if not steps or steps < 0 then
    return nil, path .. ": no count of steps", "FORMAT"
  end
  opt:steps(steps)
  return true
end

return optimizer
