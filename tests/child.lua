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

--- The program on a terminal of its own; `typed` are shell commands that type: seen TEXT N waits until N lines match TEXT.
-- history: its history file; nil keeps none. arguments: a shell text, put behind the program; environment: in front of it
-- (default TERM=dumb). Returns what the terminal showed, and the line "status N". Skips where no terminal can be made.
function child.terminal(typed, history, arguments, environment)
  if not os.execute "command -v script >/dev/null 2>&1" then
    T.skip "no program 'script' to make a terminal"
  end
  local program = arg[-1]:find "^/" and arg[-1] or io.popen "pwd":read "l" .. "/" .. arg[-1]
  local dir = T.tmpdir()
  return (child.shell(([[
cd %s
export MOCL_HISTORY=%s MOCL=%s
: > typescript
seen() { # TEXT N
  for i in $(seq 3000); do
    [ "$(grep -a -c -e "$1" typescript)" -ge "$2" ] && return
    sleep 0.01
  done
}
{ %s
  printf '\004'; seen 'Script done' 1; } | %s SHELL=/bin/sh script -q -f -e -c "exec '$MOCL' %s" typescript; echo "status $?"]])
    :format(child.quote(dir), child.quote(history or "-"), child.quote(program), typed, environment or "TERM=dumb", arguments or "")))
end

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
