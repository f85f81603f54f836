--- mocl.keys: JSON files of other programs, read key by key. A reader of such a file has one list of the keys that it
-- honours, one of the keys with the values that ask for nothing it lacks, and one of the keys that change nothing. Any
-- other key is refused by name, since a key that is passed over in silence may change what the file means.
--
--   local all, message, code = keys.load(path)
--   local ok, message, code = keys.check(path, all, {
--     honoured = { "vocab_size", "rope_theta" },
--     neutral = { mlp_bias = { false }, hidden_act = { "silu", "swish" }, rope_scaling = { keys.EMPTY } },
--     without_effect = { use_cache = "how generate of transformers works" },
--   })

local fs = require "mocl.fs"
local json = require "mocl.json"

local keys = {}

--- Stands for a list or an object without entries among the values of `neutral`.
keys.EMPTY = setmetatable({}, { __name = "mocl.keys.EMPTY" })

local LIST = getmetatable(json.array()) -- of a decoded list

--- Whether a decoded value is there: neither nil nor null.
function keys.given(value)
  return value ~= nil and value ~= json.null
end

--- A value for messages: as it stands in JSON, a string without its quotes where it could be nothing else; cut where it
-- is long.
function keys.show(value)
  local plain = type(value) == "string" and value:find "^%a" and value ~= "true" and value ~= "false" and value ~= "null"
  local ok, text = pcall(json.encode, value)
  if plain and ok then
    text = text:sub(2, -2)
  end
  text = ok and text or tostring(value)
  return #text > 80 and text:sub(1, 77) .. "..." or text
end

--- keys.load(path) -> the object in the file | fail. A file that holds another kind of value is refused.
function keys.load(path)
  local text, message, code = fs.read(path)
  if not text then
    return nil, message, code
  end
  local all, bad = json.decode(text)
  if type(all) ~= "table" or bad then
    return nil, path .. ": " .. (bad or "not a JSON object"), "FORMAT"
  elseif getmetatable(all) == LIST then
    return nil, path .. ": a list, where a JSON object is expected", "FORMAT"
  end
  return all
end

local function same(a, b)
  if b == keys.EMPTY then
    return type(a) == "table" and next(a) == nil
  end
  return a == b
end

--- The failure of a key whose value is not supported: nil, message, code. `cure` says what is, or what to do.
function keys.refuse(path, key, value, cure)
  return nil, ("%s: %s = %s is not supported (%s)"):format(path, key, keys.show(value), cure), "FORMAT"
end

-- The key that is refused first is the first by name, so that the message does not depend on the order of a table.
local function sorted(all)
  local list = {}
  for key in pairs(all) do
    list[#list + 1] = tostring(key)
  end
  table.sort(list)
  return list
end

--- keys.read(path, lists) -> the object in the file, its keys checked | fail: keys.load and keys.check.
function keys.read(path, lists)
  local all, message, code = keys.load(path)
  if not all then
    return nil, message, code
  end
  local ok
  ok, message, code = keys.check(path, all, lists)
  if not ok then
    return nil, message, code
  end
  return all
end

--- keys.check(path, all, lists, prefix) -> true | fail. lists: honoured, a list of names the reader looks at itself;
-- neutral, name -> list of the values that ask for nothing, which may be empty; without_effect, name -> the reason.
-- null asks for nothing, whatever the key. prefix stands before the key in messages: "rope_scaling." for an object
-- inside.
function keys.check(path, all, lists, prefix)
  local honoured = {}
  for _, key in ipairs(lists.honoured or {}) do
    honoured[key] = true
  end
  local neutral, without_effect = lists.neutral or {}, lists.without_effect or {}
  for _, key in ipairs(sorted(all)) do
    local value, name = all[key], (prefix or "") .. key
    if keys.given(value) and not honoured[key] and not without_effect[key] then
      local values = neutral[key]
      if not values then
        return keys.refuse(path, name, value, "mocl does not know this key; take it out if the model is the same without it")
      end
      local fits, shown = false, {}
      for i, plain in ipairs(values) do
        fits = fits or same(value, plain)
        shown[i] = plain == keys.EMPTY and "empty" or keys.show(plain)
      end
      if not fits then
        return keys.refuse(path, name, value, #values > 0 and table.concat(shown, ", ") or "null")
      end
    end
  end
  return true
end

return keys
