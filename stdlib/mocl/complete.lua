--- mocl.complete: what Tab offers in the interactive mode. It looks at what is there and runs none of it: no metamethod,
-- no function of the program; only modules of mocl are loaded, as a use of theirs would.

local complete = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true until
while]]):gmatch "%a+" do
  KEYWORDS[word] = true
end

local DEPTH = 16 -- tables behind tables that __index names

-- Where in the text a string begins that is still open at its end: its quote's position; "comment" in a comment.
local function open_string(text)
  local quote, from, i = nil, nil, 1
  while i <= #text do
    local c = text:sub(i, i)
    if quote then
      if c == "\\" then
        i = i + 1
      elseif c == quote then
        quote = nil
      end
    elseif c == "'" or c == '"' then
      quote, from = c, i
    elseif text:sub(i, i + 1) == "--" then
      return "comment"
    end
    i = i + 1
  end
  return quote and from
end

-- The tables that fields of v are looked up in, one after the other. A metatable of ours with an __index in C has its
-- methods in `methods` and the names of what it computes as keys of `fields`.
local function places(v)
  local list = {}
  for _ = 1, DEPTH do
    local meta = debug.getmetatable(v)
    if type(v) == "table" then
      list[#list + 1] = v
    end
    if type(meta) ~= "table" then
      break
    end
    for _, key in ipairs { "methods", "fields" } do
      local t = type(v) == "userdata" and rawget(meta, key)
      list[#list + 1] = type(t) == "table" and t or nil
    end
    v = rawget(meta, "__index")
    if v == nil or type(v) == "function" then
      break
    end
  end
  return list
end

-- Where v is mocl or a room of it, the set of the names that its fields may have; else nil.
local function modules(v)
  local meta = debug.getmetatable(package.loaded.mocl)
  local prefix = type(v) == "table" and meta and meta.rooms[v]
  if not prefix then
    return nil
  end
  local set = {}
  for key in next, package.preload do
    if type(key) == "string" and key:sub(1, #prefix) == prefix and not key:find "%.core$" then
      set[key:match("^[^.]*", #prefix + 1)] = true
    end
  end
  return set
end

local function field(v, name)
  for _, t in ipairs(places(v)) do
    local found = rawget(t, name)
    if found ~= nil then
      return found
    end
  end
  if (modules(v) or {})[name] then
    local ok, module = pcall(function()
      return v[name]
    end)
    return ok and module or nil
  end
end

-- Those of the keys that begin with `word`, sorted; names with a leading underscore when one is typed.
local function matching(sets, word, accept)
  local list, seen = {}, {}
  for _, set in ipairs(sets) do
    for key, value in next, set do
      if type(key) == "string" and not seen[key] and key:sub(1, #word) == word and accept(key, value)
        and (word ~= "" or key:sub(1, 1) ~= "_") then
        seen[key] = true
        list[#list + 1] = key
      end
    end
  end
  table.sort(list)
  return list
end

local function is_name(key)
  return key:find "^[%a_][%w_]*$" ~= nil and not KEYWORDS[key]
end

local function callable(key, value)
  local meta = type(value) == "table" and debug.getmetatable(value)
  return is_name(key) and (type(value) == "function" or type(meta) == "table" and rawget(meta, "__call") ~= nil)
end

--- complete.words(text, globals=_G): what could stand in place of the last word of the text, a line up to the cursor: names of globals
-- and keywords, fields after a dot, methods after a colon, modules in require "...". A sorted list; nil in other strings,
-- where files are meant.
function complete.words(text, globals)
  local from = open_string(text)
  if from == "comment" then
    return {}
  elseif from then
    if text:sub(1, from - 1):find "%f[%w_]require%s*%(?%s*$" then
      return matching({ package.loaded, package.preload }, text:sub(from + 1), function() return true end)
    end
    return nil
  end
  local chain = text:match "[%w_.:]*$":gsub("^.*%.%.", "")
  local before, mark, word = chain:match "^(.-)([.:]?)([%w_]*)$"
  if word:find "^%d" then
    return {}
  elseif mark == "" then
    return matching({ globals or _G, KEYWORDS }, word, function(key) return is_name(key) or KEYWORDS[key] end)
  end
  local v = globals or _G
  for name in (before .. "."):gmatch "([^.:]*)[.:]" do
    v = is_name(name) and field(v, name) -- nothing is known of what a call or an index returns
    if v == nil or v == false then
      return {}
    end
  end
  local sets = places(v)
  sets[#sets + 1] = modules(v)
  return matching(sets, word, mark == ":" and callable or is_name)
end

return complete
