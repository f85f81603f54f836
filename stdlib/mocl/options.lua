--- mocl.options: tables of options for functions: unknown keys are refused with the nearest known one, and missing
-- ones are named.

local core = require "mocl.options.core"

local options = { nearest = core.nearest }

--- options.check(what, given, required, optional, level) -> given. Lists of names; raises at the caller of the function
-- that calls it, or `level` calls further up.
function options.check(what, given, required, optional, level)
  level = 3 + (level or 0)
  if type(given) ~= "table" then
    error(("%s: a table of options expected, got %s"):format(what, type(given)), level)
  end
  local known, names = {}, {}
  for _, list in ipairs { required, optional or {} } do
    for _, name in ipairs(list) do
      known[name], names[#names + 1] = true, name
    end
  end
  for key in pairs(given) do
    if not known[key] then
      local near = type(key) == "string" and core.nearest(key, names)
      error(("%s: unknown option '%s'%s"):format(what, tostring(key), near and (" (did you mean '%s'?)"):format(near)
        or " (known: " .. table.concat(names, ", ") .. ")"), level)
    end
  end
  for _, name in ipairs(required) do
    if given[name] == nil then
      error(("%s: option '%s' is missing"):format(what, name), level)
    end
  end
  return given
end

local function texts_at(level, what, texts)
  if type(texts) ~= "table" then
    error(("%s: a list of texts expected, got a %s%s"):format(what, type(texts),
      type(texts) == "string" and "; for one text write { text }" or ""), level)
  elseif #texts == 0 then
    error(("%s: the list of texts is empty"):format(what), level)
  end
  for i = 1, #texts do
    if type(texts[i]) ~= "string" then
      error(("%s: text %d is a %s, not a string"):format(what, i, type(texts[i])), level)
    end
  end
end

--- options.texts(what, texts). Raises, at the caller of the function that calls it, unless it is a list of strings
-- that is not empty.
function options.texts(what, texts)
  texts_at(4, what, texts)
end

--- options.answers(what, prompts, responses). Raises, at the caller of the function that calls it, unless they are lists of strings, not
-- empty, with a response to each prompt.
function options.answers(what, prompts, responses)
  texts_at(4, what .. ", prompts", prompts)
  texts_at(4, what .. ", responses", responses)
  if #prompts ~= #responses then
    error(("%s: %d prompts, but %d responses"):format(what, #prompts, #responses), 3)
  end
end

--- options.callable(v) -> whether v is a function, or an object with __call.
function options.callable(v)
  local meta = debug.getmetatable(v)
  return type(v) == "function" or type(meta) == "table" and rawget(meta, "__call") ~= nil
end

local function before(a, b)
  local a_number, b_number = type(a) == "number", type(b) == "number"
  if a_number and b_number then
    return a < b
  elseif a_number ~= b_number then
    return a_number
  end
  return tostring(a) < tostring(b)
end

--- options.sorted_keys(t) -> the keys of a table: numbers by their size, then all others by what tostring makes of them.
function options.sorted_keys(t)
  local keys = {}
  for k in pairs(t) do
    keys[#keys + 1] = k
  end
  table.sort(keys, before)
  return keys
end

--- A value in a message, by a format for numbers or as tostring has it; nan without its sign, which depends on the machine.
function options.shown(v, format)
  if v ~= v then
    return "nan"
  end
  if type(v) == "number" and format then
    return format:format(v)
  end
  local plain = type(v) == "number" or type(v) == "string" or type(v) == "boolean" or v == nil
  return plain and tostring(v) or "a " .. type(v) -- no address, which differs from run to run
end

return options
