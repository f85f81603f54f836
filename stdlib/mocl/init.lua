--- mocl: the modules, loaded on first use.
-- `local mocl = require "mocl"; mocl.tensor.randn({2, 3})`

local mocl = { _VERSION = require "mocl.sys".version }

return setmetatable(mocl, {
  __index = function(t, name)
    local ok, module = pcall(require, "mocl." .. name)
    if not ok then
      error(module, 2)
    end
    rawset(t, name, module)
    return module
  end,
})
