--- mocl.on_error: words that are added to an error on its way, and error values as text.
--
--   local words <close> = on_error.words(function(text) return path .. ": " .. text end)
--   return f(...) -- an error in here leaves with the words
--
-- The error is not caught: whoever handles it outside sees the stack where it was raised, and a value that is no text
-- stays what it is. The handler of a protected call has run before the variable is closed, so the text may have a
-- traceback behind it; that stays behind the words. An interruption leaves as it is.

local on_error = {}

local TRACE = "\nstack traceback:"

local Words = {}

--- Raises an error again with the text that change(text) gives, where that is another one (on_error.words); for code that learns of
-- an error as a closing value does.
function on_error.change(err, change)
  if type(err) ~= "string" then
    return
  end
  local at = err:find(TRACE, 1, true) or #err + 1
  local text = err:sub(1, at - 1)
  if text:find "interrupted!$" then
    return
  end
  local words, is_all = change(text)
  if words ~= text then
    error(is_all and words or words .. err:sub(at), 0)
  end
end

function Words:__close(err)
  on_error.change(err, self.change)
end

--- on_error.words(change) -> a value for a `<close>` variable. change(text) -> the text with which an error leaves the
-- block, and true if it says all that its reader needs, who gave an option or has a disk that is full: then there is no
-- traceback.
function on_error.words(change)
  return setmetatable({ change = change }, Words)
end

--- An error value in words, as the program mocl shows one that nobody catches.
function on_error.text(err)
  local meta = debug.getmetatable(err)
  if type(err) == "string" or type(err) == "number" then
    return tostring(err)
  elseif type(meta) == "table" and rawget(meta, "__tostring") ~= nil then
    local ok, text = pcall(tostring, err)
    if ok then
      return text
    end
  end
  local text = ("(error object is a %s value)"):format(type(err))
  local fields = {}
  for _, name in ipairs(type(err) == "table" and { "code", "message" } or {}) do
    local v = rawget(err, name)
    if type(v) == "string" then
      fields[#fields + 1] = ('%s = "%s"'):format(name, #v > 200 and v:sub(1, 200) .. "..." or v)
    elseif type(v) == "number" or type(v) == "boolean" then
      fields[#fields + 1] = ("%s = %s"):format(name, v)
    end
  end
  return #fields > 0 and text .. ": " .. table.concat(fields, ", ") or text
end

return on_error
