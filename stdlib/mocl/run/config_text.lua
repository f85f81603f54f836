--- mocl.run.config_text: configurations as text: Lua source, command line values, differences.
-- The parts of mocl.run.config that know no schema. Tables are nested by group; lists count as values.

local options = require "mocl.options"

local sorted_keys = options.sorted_keys

local M = { shown = options.shown, sorted_keys = sorted_keys }

-- Numbers as Lua source: the shortest of 15, 16, 17 digits that reads back as the same value.
local function number_text(v)
  if math.type(v) == "integer" then
    return tostring(v)
  elseif v ~= v then
    return "0/0"
  elseif v == math.huge or v == -math.huge then
    return v > 0 and "1e999" or "-1e999"
  end
  for digits = 15, 17 do
    local s = ("%%.%dg"):format(digits):format(v)
    if tonumber(s) == v then
      return s:find("[.e]") and s or s .. ".0"
    end
  end
end

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ['"'] = '\\"', ["\\"] = "\\\\" }

local function string_text(s)
  return '"' .. s:gsub('[%c"\\]', function(c)
    return ESCAPES[c] or ("\\%03d"):format(c:byte())
  end) .. '"'
end

local function value_text(v)
  if type(v) == "table" then
    local parts = {}
    for i, x in ipairs(v) do
      parts[i] = value_text(x)
    end
    return #parts == 0 and "{}" or "{ " .. table.concat(parts, ", ") .. " }"
  elseif type(v) == "string" then
    return string_text(v)
  elseif type(v) == "number" then
    return number_text(v)
  end
  return tostring(v)
end

--- A value as written on the command line: no quotes, lists with commas, "unset" for nil.
local function plain_text(v)
  if v == nil then
    return "unset"
  elseif type(v) == "table" then
    local parts = {}
    for i, x in ipairs(v) do
      parts[i] = plain_text(x)
    end
    return table.concat(parts, ",")
  elseif math.type(v) == "float" then
    return (number_text(v):gsub("%.0$", ""))
  end
  return tostring(v)
end

--- Equal values; lists by their elements.
function M.same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b
  end
  if #a ~= #b then
    return false
  end
  for i = 1, #a do
    if a[i] ~= b[i] then
      return false
    end
  end
  return true
end

local RESERVED = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat
  return then true until while]]):gmatch("%a+") do
  RESERVED[word] = true
end

local function key_text(k)
  if type(k) == "string" and k:match("^[%a_][%w_]*$") and not RESERVED[k] then
    return k
  end
  return "[" .. value_text(k) .. "]"
end

local function is_list(t)
  return #t > 0 or next(t) == nil
end

local function dump_into(out, t, indent)
  for _, k in ipairs(sorted_keys(t)) do
    local v = t[k]
    if type(v) == "table" and not is_list(v) then
      out[#out + 1] = indent .. key_text(k) .. " = {"
      dump_into(out, v, indent .. "  ")
      out[#out + 1] = indent .. "},"
    else
      out[#out + 1] = indent .. key_text(k) .. " = " .. value_text(v) .. ","
    end
  end
end

--- A configuration as Lua source that returns it, keys sorted, numbers exact.
function M.dump(cfg)
  local out = { "return {" }
  dump_into(out, cfg, "  ")
  out[#out + 1] = "}\n"
  return table.concat(out, "\n")
end

--- Nested tables to { ["a.b"] = value }; lists count as values.
function M.flatten(cfg)
  local flat = {}
  local function walk(t, prefix)
    for k, v in pairs(t) do
      if type(v) == "table" and not is_list(v) then
        walk(v, prefix .. k .. ".")
      else
        flat[prefix .. k] = v
      end
    end
  end
  walk(cfg, "")
  return flat
end

-- A group without set options is an empty table and counts as absent.
local function set(v)
  if type(v) == "table" and next(v) == nil then
    return nil
  end
  return v
end

--- Where two configurations differ: list of {key, a, b}, sorted by key.
function M.diff(a, b)
  local fa, fb, keys = M.flatten(a), M.flatten(b), {}
  for k in pairs(fa) do
    keys[k] = true
  end
  for k in pairs(fb) do
    keys[k] = true
  end
  local list = {}
  for _, key in ipairs(sorted_keys(keys)) do
    local x, y = set(fa[key]), set(fb[key])
    if not M.same(x, y) then
      list[#list + 1] = { key = key, a = x, b = y }
    end
  end
  return list
end

M.text = plain_text

return M
