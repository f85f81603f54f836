--- mocl.lm.talk: a conversation with a model, line by line: texts, and commands that begin with "/".

local fs = require "mocl.fs"
local json = require "mocl.json"
local options = require "mocl.options"
local preference = require "mocl.preference"
local show = require "mocl.show"
local sys = require "mocl.sys"

local talk = {}

local Talk = {}
Talk.__index = Talk

local HELP = [[
/pref humor=.7        the preference from here on (/pref shows it; the rest goes to the others in equal parts)
/compare humor=0 humor=.5 humor=1    the last prompt under these preferences, with rewards
/sweep [TEXT]         the last prompt, or this one, under all preferences of the grid
/top [N]              the likeliest next tokens behind the last prompt
/undo                 takes the last exchange back
/save FILE.json       writes the conversation
/seed N, /temp T      seed and temperature of the answers
/help, /quit          this text; Ctrl-C stops an answer, Ctrl-D leaves]]

--- talk.new(m, o) -> t. o: write(text) (default: standard output, at once), p (a preference), seed, temperature.
function talk.new(m, o)
  o = options.check("talk.new", o or {}, {}, { "write", "p", "seed", "temperature" })
  local function write(text)
    local ok, message = io.stdout:write(text)
    if ok then
      ok, message = io.stdout:flush()
    end
    if not ok then
      error("standard output: " .. message, 0)
    end
  end
  local t = setmetatable({ m = m, write = o.write or write, messages = {}, seed = o.seed or m.seed, temperature = o.temperature or m.temperature },
    Talk)
  t.p = m:preference(o.p)
  return t
end

function Talk:line_out(text)
  self.write(text .. "\n")
end

function Talk:last_prompt()
  for i = #self.messages, 1, -1 do
    if self.messages[i].role == "user" then
      return self.messages[i].content
    end
  end
  error("there is no prompt yet: type a text first", 0)
end

-- What a text is asked with. A chat model sees the turns before; the policy of a run, which was trained on single prompts,
-- does not.
function Talk:settings()
  return { p = self.p, seed = self.seed + #self.messages // 2, temperature = self.temperature, messages = self.m.template and self.messages }
end

local function assignment(words, many)
  local list, p = {}, {}
  for word in words:gmatch "%S+" do
    local name, value = preference.weight(word)
    if not name then
      error(value, 0)
    end
    if many then
      list[#list + 1] = { [name] = value }
    end
    p[name] = value
  end
  return many and list or p
end

local function number(text, what, lowest)
  local v = tonumber(text)
  if not v or v < lowest then
    error(("%s: a number of at least %d expected, got '%s'"):format(what, lowest, text), 0)
  end
  return v
end

local COMMANDS = {}

function COMMANDS.help(t)
  t:line_out(HELP)
end

function COMMANDS.pref(t, rest)
  if rest ~= "" then
    t.p = t.m:preference(assignment(rest))
  elseif not t.p then
    t.m:preference {}
  end
  t:line_out(t.m:preference_text(t.p))
end

local function side_by_side(t, prompt, list)
  t:line_out(tostring(t.m:compare(prompt, list, { seed = t.seed, temperature = t.temperature })))
end

function COMMANDS.compare(t, rest)
  local list = assignment(rest, true)
  if #list == 0 and t.m.objectives then -- each objective alone, and all alike
    for _, name in ipairs(t.m.objectives) do
      list[#list + 1] = { [name] = 1 }
    end
    table.insert(list, 2, {})
  end
  side_by_side(t, t:last_prompt(), list)
end

function COMMANDS.sweep(t, rest)
  side_by_side(t, rest ~= "" and rest or t:last_prompt(), nil)
end

function COMMANDS.top(t, rest)
  local n = rest == "" and 10 or math.tointeger(number(rest, "/top", 1)) or 10
  for _, row in ipairs(t.m:top(t:last_prompt(), n, t.p)) do
    t:line_out(("%6.2f %%  %s"):format(100 * row.p, show.value(row.token)))
  end
end

function COMMANDS.undo(t)
  t:last_prompt()
  t.messages[#t.messages], t.messages[#t.messages - 1] = nil, nil
  t:line_out(("%d exchanges left"):format(#t.messages // 2))
end

function COMMANDS.save(t, rest)
  if rest == "" then
    error("/save FILE.json: name a file", 0)
  end
  local ok, message = fs.write(rest, json.encode({ model = t.m.path, preference = t.p, objectives = t.m.objectives, seed = t.seed,
    temperature = t.temperature, messages = json.array(t.messages) },
    { indent = 2, replace_invalid = true }) .. "\n")
  if not ok then
    error(message, 0)
  end
  t:line_out("saved " .. rest)
end

function COMMANDS.seed(t, rest)
  t.seed = math.tointeger(number(rest, "/seed", 0)) or error("/seed: an integer expected", 0)
end

function COMMANDS.temp(t, rest)
  t.temperature = number(rest, "/temp", 0)
end

function COMMANDS.quit()
  return true
end

local function message(t, text)
  local settings = t:settings()
  settings.on_text = t.write
  local answer = t.m:ask(text, settings)
  t.write "\n"
  table.insert(t.messages, { role = "user", content = text })
  table.insert(t.messages, { role = "assistant", content = answer })
  return false
end

--- t:line(text) -> true where the conversation is to end. A message, which is answered as the tokens come, or a command.
-- What is refused, such as a text that the context does not hold, is said, and the conversation goes on.
function Talk:line(text)
  text = text:gsub("%s+$", "")
  if text == "" then
    return false
  end
  local name, rest = text:match "^/(%S*)%s*(.*)$"
  if name and not COMMANDS[name] then
    local known = { "pref", "compare", "undo", "save", "seed", "temp", "sweep", "top", "help", "quit" }
    local near = options.nearest(name, known)
    self:line_out(("there is no /%s%s; /help lists the commands"):format(name, near and (", did you mean /%s?"):format(near) or ""))
    return false
  end
  local ok, result = pcall(name and COMMANDS[name] or message, self, name and rest or text)
  if not ok then
    if type(result) ~= "string" or result:find("interrupted!", 1, true) or result:find("^standard output: ") then
      error(result, 0)
    end
    self:line_out((result:gsub("^[^\n:]+%.lua:%d+: ", ""))) -- the place in the library says nothing to a reader
    return false
  end
  return result == true
end

--- talk.run(m, o) -> nothing. Reads lines of standard input until it ends. Ctrl-C stops an answer, or drops a line; the
-- conversation goes on.
function talk.run(m, o)
  local t = talk.new(m, o)
  local terminal = sys.isatty(0)
  if terminal then
    t:line_out(tostring(m) .. "\n/help lists the commands; Ctrl-D leaves")
  end
  local was = sys.on_interrupt "raise"
  while true do
    local ok, done = pcall(function()
      if terminal then
        t.write "you> "
      end
      local line = io.read "l"
      return line == nil or t:line(line)
    end)
    if not ok and type(done) == "string" and done:find("interrupted!", 1, true) and sys.interrupted() ~= "SIGTERM" then
      t:line_out ""
      sys.on_interrupt "raise" -- the next one is a first one again
      if not terminal then
        error(done, 0)
      end
    elseif not ok then
      sys.on_interrupt(was, true)
      error(done, 0)
    elseif done then
      break
    end
  end
  sys.on_interrupt(was)
end

return talk
