--- mocl: the modules, loaded on first use.
-- `local mocl = require "mocl"; mocl.tensor.randn({2, 3})`

local mocl = { _VERSION = require "mocl.sys".version }

return setmetatable(mocl, {
  __index = function(t, name)
    local full = "mocl." .. name
    local ok, module = true, nil
    if package.preload[full] then
      module = require(full)
    else -- there may be no such module, which is the caller's mistake
      ok, module = pcall(require, full)
    end
    if not ok then
      error(module, 2)
    end
    rawset(t, name, module)
    return module
  end,
})
