--- mocl: the modules, loaded on first use. A room without a module of its own is a table of those in it.
-- `local mocl = require "mocl"; mocl.tensor.randn({2, 3}); mocl.lm.model.load(dir)`

-- the tables whose fields are modules -> how the names of these begin; mocl.complete reads it
local rooms = {}

-- mocl.lora.core and its like, the C sides of modules in other rooms, make no room
local function holds_modules(prefix)
  for name in next, package.preload do
    if type(name) == "string" and name:sub(1, #prefix) == prefix and name ~= prefix .. "core" then
      return true
    end
  end
end

-- functions of mocl itself -> the module that has them
local FUNCTIONS = { load = "mocl.lm.loaded", load_run = "mocl.lm.loaded", compare = "mocl.lm.loaded" }

local function room(t, prefix)
  rooms[t] = prefix
  return setmetatable(t, {
    rooms = rooms,
    functions = prefix == "mocl." and FUNCTIONS or nil, -- mocl.help reads it
    __index = function(_, name)
      local full = prefix .. name
      local ok, module = true, nil
      if prefix == "mocl." and FUNCTIONS[name] then
        module = require(FUNCTIONS[name])[name]
      elseif package.preload[full] then
        module = require(full)
      elseif holds_modules(full .. ".") then
        module = room({}, full .. ".")
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
end

return room({ _VERSION = require "mocl.sys".version }, "mocl.")
