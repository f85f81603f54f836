--- child: runs the program under test as a process of its own.

local T = require "t"

local child = {}

function child.quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

function child.read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read("a")
  f:close()
  return s
end

--- Runs a shell command in the directory the tests run in, with $MOCL set; returns stdout, stderr, exit
-- status (or minus the signal).
function child.shell(command)
  local dir = T.tmpdir()
  local p = assert(io.popen(("unset LUA_INIT LUA_INIT_5_4; MOCL=%s; { %s\n} >%s/out 2>%s/err"):format(
    child.quote(arg[-1]), command, dir, dir)))
  local _, how, code = p:close()
  return child.read(dir .. "/out"), child.read(dir .. "/err"), how == "exit" and code or -code
end

--- The program with arguments (a list); before: what stands in front of it, such as "taskset -c 0".
function child.mocl(arguments, before)
  local words = { before or "", '"$MOCL"' }
  for _, a in ipairs(arguments) do
    words[#words + 1] = child.quote(a)
  end
  return child.shell(table.concat(words, " "))
end

--- Runs Lua source; what it prints.
function child.lua(source, before)
  return child.mocl({ "-e", source }, before)
end

--- For shell commands: await COMMAND... runs it until it succeeds or the program, $pid, is gone. What follows depends on no clock.
child.AWAIT = [[
await() {
  until "$@" >/dev/null 2>&1; do
    kill -0 $pid 2>/dev/null || break
    sleep 0.01
  done
}
]]

--- Starts the program, sends it a signal (default INT) as soon as a file (default: what it writes itself) holds
-- the text `mark`, and waits; returns what it wrote (both streams) and its exit status.
function child.interrupted(arguments, mark, o)
  local log, words = T.tmpdir() .. "/log", {}
  for i, a in ipairs(arguments) do
    words[i] = child.quote(a)
  end
  local _, _, status = child.shell((child.AWAIT .. [["$MOCL" %s >%s 2>&1 &
pid=$!
await grep -e %s %s
kill -%s $pid
wait $pid]]):format(table.concat(words, " "), log, child.quote(mark), child.quote(o and o.file or log),
    o and o.signal or "INT"))
  return child.read(log), status
end

return child
