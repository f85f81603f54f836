--- mocl.train.loop: what surrounds the updates of a training loop: its status line, metrics, checkpoints when they are due
-- and at an interruption, and the way back from the newest one. The loop itself stays in the recipe.
--
--   local t <close> = loop.new { run = run, stage = stage, label = "moc", total = 60, save_every = 20,
--     save = function(dir) ... end, state = function() return { ... } end }
--   for update = t.done + 1, 60 do
--     ...
--     t:step(update, row, "reward 1.2")
--   end
--   t:finish()

local comm = require "mocl.comm"
local progress = require "mocl.run.progress"
local repl = require "mocl.repl"
local sys = require "mocl.sys"

local loop = {}

local Loop = {}
Loop.__index = Loop

-- What a signal does is one setting of the process, and trainings in several coroutines may end in any order.
local n_open, mode_before = 0, nil

local function take_signals()
  if n_open == 0 then
    mode_before = sys.on_interrupt "flag"
  end
  n_open = n_open + 1
  return true
end

--- loop.new{run=, stage=, label=, total=, save_every=, save=function(dir), state=function() -> table, unit="update"} -> t.
-- t.dir and t.state are the newest checkpoint of the stage, t.done its step (0 without one). From here on to t:finish, or
-- to the end of a `<close>` variable, a signal ends the run after the update it comes in; unit is what messages call one.
function loop.new(o)
  local dir, state = o.stage:latest()
  local done = state and state.step or 0
  return setmetatable({ run = o.run, stage = o.stage, total = o.total, save_every = o.save_every, save = o.save, describe = o.state,
    unit = o.unit or "update", dir = dir, state = state, done = done, open = take_signals(),
    line = progress.new { label = o.label, total = o.total, start = done, quiet = o.run.quiet } }, Loop)
end

local function stop_here(self, signal, n)
  self.run:close()
  io.stderr:write(("\n%s after %s %d; continue with resume=auto\n"):format(signal, self.unit, n))
  if repl.is_open and signal == "SIGINT" then -- the session goes on
    sys.on_interrupt "raise"
    error("interrupted!", 0)
  end
  os.exit(signal == "SIGTERM" and 143 or 130, true)
end

--- Ends update number n: row goes to metrics.jsonl, text to the status line. Ends the process after a signal.
function Loop:step(n, row, text)
  row.step = n
  self.stage:metrics(row)
  self.line:update(n, text)
  local stop = comm.signal(sys.interrupted()) -- of any rank: all end here
  if n % self.save_every == 0 or n == self.total or stop then
    self.stage:checkpoint(n, self.save, self.describe())
  end
  if stop then
    stop_here(self, stop, n)
  end
end

--- Ends the loop. A signal that came behind the last update's look for one ends the process now.
function Loop:finish()
  local stop = comm.signal(sys.interrupted())
  if stop then
    stop_here(self, stop, self.total)
  end
  self.line:done()
  self:close()
end

-- Back to what a signal did before the first of those that are open. Twice is fine. A signal that has raised the error on its
-- way is not forgotten.
function Loop:close(err)
  if self.open then
    self.open = false
    n_open = n_open - 1
    if n_open == 0 then
      sys.on_interrupt(mode_before, err ~= nil)
    end
  end
end

Loop.__close = Loop.close
Loop.__gc = Loop.close

return loop
