--- mocl.run.progress: one status line on stderr with bar, step, elapsed time, ETA and a text.
-- On a terminal the line is rewritten in place; elsewhere a plain line comes after every tenth of
-- the way or ten seconds, so that log files stay short. It never writes to stdout.
--
--   local bar = progress.new { label = "moc", total = 160, quiet = cfg.quiet }
--   bar:update(step, "reward 1.23 kl 2.1")
--   bar:done()

local comm = require "mocl.comm"
local sys = require "mocl.sys"

local progress = {}

local Bar = {}
Bar.__index = Bar

local REDRAW_S = 0.1 -- on a terminal, seconds between two drawings
local LINE_S = 10 -- elsewhere, seconds between two lines
local CELLS = 20 -- characters of the bar

local function is_terminal()
  local term = os.getenv("TERM")
  return term ~= nil and term ~= "dumb" and sys.isatty(2)
end

-- Of the terminal, now: a window may be resized at any time. COLUMNS is for terminals that do not say.
local function terminal_columns()
  return sys.columns(2) or math.tointeger(tonumber(os.getenv "COLUMNS")) or 80
end

--- opts: label, total (steps), start (0: the step a continued run begins after), quiet; and for
-- tests write (function of a string), terminal (boolean), now (function, seconds), columns (function, width).
function progress.new(opts)
  local terminal = opts.terminal
  if terminal == nil then
    terminal = is_terminal()
  end
  local now = opts.now or sys.now
  return setmetatable({
    label = opts.label or "", total = opts.total, first = opts.start or 0, quiet = opts.quiet,
    terminal = terminal, now = now, began = now(), step = opts.start or 0,
    write = opts.write or function(s)
      io.stderr:write(s)
      io.stderr:flush()
    end,
    columns = opts.columns or terminal_columns,
  }, Bar)
end

--- Seconds as m:ss or h:mm:ss.
function progress.duration(seconds)
  local s = math.floor(seconds + 0.5)
  if s >= 3600 then
    return ("%d:%02d:%02d"):format(s // 3600, s // 60 % 60, s % 60)
  end
  return ("%d:%02d"):format(s // 60, s % 60)
end

-- The first n characters; bytes where the text is not UTF-8.
local function cut(s, n)
  local length = utf8.len(s)
  if length and length > n then
    return s:sub(1, utf8.offset(s, n + 1) - 1)
  end
  return length and s or s:sub(1, n)
end

local function line_of(bar, text)
  local elapsed = bar.now() - bar.began
  local parts = { bar.label }
  if bar.terminal then
    local full = math.floor(CELLS * math.min(1, bar.step / math.max(1, bar.total)))
    parts[2] = "[" .. ("#"):rep(full) .. ("-"):rep(CELLS - full) .. "]"
  end
  parts[#parts + 1] = ("%d/%d"):format(bar.step, bar.total)
  parts[#parts + 1] = progress.duration(elapsed)
  if bar.step > bar.first and bar.step < bar.total then
    local left = elapsed / (bar.step - bar.first) * (bar.total - bar.step)
    parts[#parts + 1] = "eta " .. progress.duration(left)
  end
  if text and text ~= "" then
    parts[#parts + 1] = (text:gsub("%c+", " "))
  end
  return table.concat(parts, " ")
end

local function draw(bar, text)
  local line = line_of(bar, text)
  bar.drawn_at, bar.drawn_step = bar.now(), bar.step
  if bar.terminal then
    bar.write("\r" .. cut(line, math.max(2, bar.columns()) - 1) .. "\27[K")
  else
    bar.write(line .. "\n")
  end
end

--- The state after a step; draws if it is time to.
function Bar:update(step, text)
  self.step, self.text = step, text
  comm.alive()
  if self.quiet or self.closed then
    return
  end
  local due = not self.drawn_at or step >= self.total
  if not due and self.terminal then
    due = self.now() - self.drawn_at >= REDRAW_S
  elseif not due then
    due = self.now() - self.drawn_at >= LINE_S
      or (step - self.drawn_step) * 10 >= self.total
  end
  if due then
    draw(self, text)
  end
end

--- A line of its own that stays, also where the bar is quiet: for warnings.
function Bar:note(text)
  self.write((self.terminal and not self.quiet and "\r\27[K" or "") .. text .. "\n")
  self.drawn_at = nil
end

--- Draws the last state and ends the line. Twice is fine.
function Bar:done(text)
  if self.closed then
    return
  end
  self.closed = true
  if self.quiet then
    return
  end
  if self.terminal then
    draw(self, text or self.text)
    self.write("\n")
  elseif text or self.drawn_step ~= self.step then
    draw(self, text or self.text)
  end
end

Bar.__close = function(bar)
  bar:done()
end

return progress
