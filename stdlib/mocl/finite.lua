--- mocl.finite: a NaN or an infinity where there must be none is an error that says where and what to do. All such
-- messages, those of the C core too, hold the words "not finite".

local on_error = require "mocl.on_error"

local finite = {}

--- The value, if it is a finite number; else raises "WHAT is not finite (nan)".
function finite.number(value, what)
  if value ~= value or value == math.huge or value == -math.huge then
    error(("%s is not finite (%s)"):format(what, value ~= value and "nan" or tostring(value)), 0)
  end
  return value
end

--- true if all entries of some tensors are finite; else nil, 
-- "WHERE: tensor 'NAME' is not finite: 2 of 64 values are nan or infinite, the first is nan at [3,5]", "FORMAT".
-- named: a list of {name, tensor}, or a table of tensors by name.
function finite.tensors(named, where)
  local list = {}
  for key, v in pairs(named) do
    list[#list + 1] = type(key) == "string" and { key, v } or v
  end
  table.sort(list, function(a, b)
    return a[1] < b[1]
  end)
  for _, pair in ipairs(list) do
    local place, value, count = pair[2]:nonfinite()
    if place then
      return nil, ("%s: tensor '%s' is not finite: %d of %d values are nan or infinite, the first is %s at [%s]"):format(where, pair[1],
        count, pair[2]:numel(), value ~= value and "nan" or tostring(value), table.concat(place, ",")), "FORMAT"
    end
  end
  return true
end

--- Whether an error says that something is not finite.
function finite.is_error(err)
  return type(err) == "string" and err:find("not finite", 1, true) ~= nil
end

--- The text of an error that something is not finite as "WHERE: error; CURE", and true; any other text as it is.
function finite.text(text, where, cure)
  if finite.is_error(text) then
    return ("%s: %s; %s"):format(where, text:gsub("^[^\n:]*:%d+: ", ""), cure), true
  end
  return text
end

--- f(...); an error that something is not finite leaves as "WHERE: error; CURE".
function finite.within(where, cure, f, ...)
  local words <close> = on_error.words(function(text)
    return finite.text(text, where, cure)
  end)
  return f(...)
end

return finite
