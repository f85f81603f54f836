--- mocl.functions: a Lua file of a user's own that returns a table of functions.

local fs = require "mocl.fs"
local on_error = require "mocl.on_error"
local options = require "mocl.options"
local text_core = require "mocl.data.core"

local functions = {}

-- message handler: the error in words with the stack where it was raised
local function with_stack(err)
  return debug.traceback(on_error.text(err), 2)
end

--- functions.load(path, what) -> {name = function} | fail: runs the file here. what: what messages call one of the
-- functions.
function functions.load(path, what)
  local text = fs.read(path)
  local mark, wide = text_core.mark(text or "")
  if not mark then
    return nil, ("%s: %s"):format(path, wide), "FORMAT"
  end
  local chunk, why = loadfile(path)
  if not chunk then
    return nil, why, why:find("^cannot ") and "IO" or "FORMAT"
  end
  local ok, list = xpcall(chunk, with_stack)
  if not ok and list:find "^[^\n]*interrupted!\n" then
    error(list, 0)
  elseif not ok then
    return nil, path .. ": " .. list, "FORMAT"
  elseif type(list) ~= "table" then
    return nil, ("%s: returns a %s, not a table of functions"):format(path, type(list)), "FORMAT"
  end
  for name, f in pairs(list) do
    if type(name) ~= "string" or not options.callable(f) then
      return nil, ("%s: %s '%s' is a %s, not a function"):format(path, what, tostring(name), type(f)), "FORMAT"
    end
  end
  return list
end

return functions
