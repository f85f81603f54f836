--- mocl.run.lock: one process at a time writes the directory of a run. It has a file `lock` meanwhile, with the process id
-- and start time of the writer. One left by a killed process does not count, and neither does one where processes cannot be
-- told apart (no /proc).

local check = require "mocl.failure".check
local fs = require "mocl.fs"

local run_lock = {}

-- Process id and start time as text, which together name a process; nil where there is no /proc.
local function process(pid)
  local f = io.open("/proc/" .. pid .. "/stat", "rb")
  local stat = f and f:read("a")
  if f then
    f:close()
  end
  if not stat then
    return nil
  end
  local id, rest = stat:match("^(%d+) .*%) (.*)$")
  local fields = {}
  for field in rest:gmatch("%S+") do
    fields[#fields + 1] = field
  end
  if fields[1] == "Z" or fields[1] == "X" then -- it has ended, and nobody has asked how: a rank whose launcher was killed
    return nil
  end
  return id, id .. " " .. fields[20] -- the fields after the name begin with the third
end

--- Raises where another process that is alive writes the directory.
function run_lock.check(out)
  local held = fs.read(fs.join(out, "lock"))
  local pid = held and held:match("^(%d+) ")
  if pid and pid ~= process("self") then
    local _, other = process(pid)
    if other and other .. "\n" == held then
      error(("%s: in use by process %s"):format(out, pid), 0)
    end
  end
end

--- Takes the lock of a directory for this process: an object that holds it until it is released, closed or collected, none of
-- which needs memory (mocl.fs.lock); nil where there is no /proc.
function run_lock.take(out)
  local _, me = process("self")
  return me and check(fs.lock(fs.join(out, "lock"), me .. "\n"))
end

return run_lock
