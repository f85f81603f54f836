--- mocl.repl: the words of the interactive mode: what it says of results, assignments and errors. lua/repl.c reads the lines and
-- calls these.

local help = require "mocl.help"
local show = require "mocl.show"
local sys = require "mocl.sys"

local repl = {
  is_open = false, -- while the mode runs: what would end the program at a Ctrl-C ends its statement then
}

--- The mode begins, or ends.
function repl.open(on)
  repl.is_open = on
end

local function out(text)
  io.stdout:write(text, "\n")
end

-- The first line of a help text stands out.
local function show_text(text)
  local first, rest = text:match "^([^\n]*)(.*)$"
  out(show.paint(first, "bold", show.colour(1)) .. rest)
end

--- The globals `help` and `apropos`, which print.
function repl.help(...)
  local what = ...
  if select("#", ...) > 0 and what == nil then
    out "help: the value is nil; for what has a name, write it in quotes: help \"tensor.matmul\""
    return
  end
  local text, message = help.text(what)
  if text then
    show_text(text)
  else
    out(message)
  end
end

function repl.apropos(word, most)
  out(help.apropos(word, most))
end

--- A line that begins with "?".
function repl.ask(line)
  local what = line:gsub("^%?+%s*", ""):gsub("%s+$", "")
  if what == "" then
    repl.help()
  else
    repl.help(what)
  end
end

repl.results = show.results

local noted_local = false

--- The code of an assignment to one name, changed so that what a function returns as nil and a message is shown: else it would be lost.
-- nil for any other code.
function repl.checked(code)
  local target, value = code:match "^%s*([%a_][%w_.]*)%s*=%s*([^=].*)$"
  local is_local = false
  if not target then
    target, value = code:match "^%s*(local%s+[%a_][%w_]*)%s*=%s*([^=].*)$"
    is_local = target ~= nil
  end
  if not target or not load("return " .. value .. "\n") then
    return nil
  end
  if is_local and not noted_local and sys.isatty(0) then
    noted_local = true
    out(show.paint("a local ends with its line; write it without `local` to keep it", "note", show.colour(1)))
  end
  return target .. " = (...)(" .. value .. "\n)"
end

--- The values of an assignment on their way, unchanged; nil and a message are shown.
function repl.assigned(...)
  local first, message = ...
  if first == nil and type(message) == "string" then
    out(show.paint("nil", "bad", show.colour(1)) .. "\t" .. message)
  end
  return ...
end

-- ---- errors ----

-- The name of the n-th argument in a signature: "a:matmul(b) -> y", 1 is b.
local function argument(signature, name, n)
  local list = signature:match("%f[%w_]" .. name .. "%s*%(([^()]*)%)") or signature:match("%f[%w_]" .. name .. "%s*%((.-)%)%s*%->")
  if not list then
    return nil
  end
  local i = 0
  for word in list:gsub("[%[%]{}]", ""):gmatch "[^,]+" do
    i = i + 1
    if i == n then
      return word:match "[%a_][%w_]*"
    end
  end
end

local function argument_hint(message)
  local n, name = message:match "bad argument #(%d+) to '([^']*)'"
  if not n then
    return nil
  end
  local module, last = name:match "^(.*)[.:]([%w_]+)$"
  for _, e in ipairs(help.search(last or name)) do
    for _, names in ipairs(e.names) do
      if names[2] == (last or name) and (not module or names[1] == module:match "[^.]*$") then
        local word = argument(e.signature, names[2], math.tointeger(n))
        return word and ("argument %s is `%s` of %s"):format(n, word, e.signature) or e.signature
      end
    end
  end
end

local function is_module(name)
  return package.preload["mocl." .. name] ~= nil or package.loaded["mocl." .. name] ~= nil
end

local function global_hint(message)
  local name = message:match "a nil value %(global '([%w_]+)'%)"
  if name and is_module(name) then
    return ("%s is a module: %s = mocl.%s"):format(name, name, name)
  end
end

-- Lua's list of the places where a module is not, as one line.
local function module_message(message)
  local before, name, rest = message:match "^(.-)module '([^']*)' not found:\n\tno (.*)$"
  if not name then
    return message
  end
  local trace = rest:match "\nstack traceback:.*" or ""
  local near = is_module(name) and ("; there is 'mocl.%s'"):format(name) or ""
  return ("%smodule '%s' not found%s%s"):format(before, name, near, trace)
end

--- An error's text as the mode shows it: with a word on what helps, and the message in colour on a terminal.
function repl.explain(text)
  text = module_message(text)
  local message, trace = text:match "^(.-)(\nstack traceback:.*)$"
  message, trace = message or text, trace or ""
  local hint = argument_hint(message) or global_hint(message)
  local colour = show.colour(2)
  return show.paint(message, "bad", colour) .. (hint and "\n" .. hint or "") .. show.paint(trace, "note", colour)
end

function repl.banner()
  out "?name explains (?matmul, ?mocl.tensor), apropos \"kl\" searches, Tab completes; `?` alone says more, docs/ has the pages"
end

return repl
