--- mocl.module_names: what is said of a module of mocl that is not there: one line, with the names that come nearest.

local options = require "mocl.options"

local function last_of(name)
  return name:match "[^.]*$"
end

local module_names = {}

--- module_names.words(name, known) -> text
function module_names.words(name, known)
  table.sort(known)
  local near, seen = {}, {}
  local function add(found)
    if found and not seen[found] and #near < 3 and not found:find "%.core$" then
      seen[found], near[#near + 1] = true, found
    end
  end
  local lasts, by_last = {}, {}
  for _, module in ipairs(known) do
    local last = last_of(module)
    by_last[last] = by_last[last] or {}
    table.insert(by_last[last], module)
    lasts[#lasts + 1] = last
  end
  local last = last_of(name)
  for _, module in ipairs(by_last[last] or by_last[options.nearest(last, lasts) or ""] or {}) do
    add(module)
  end
  return ("there is no module '%s'%s"):format(name, #near > 0 and "; near it: " .. table.concat(near, ", ") or "")
end

return module_names
