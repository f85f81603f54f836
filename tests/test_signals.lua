--- Signals that reach code which does not poll, and what libraries beside mocl do to signals.

local T = require "t"
local child = require "child"

local READY = 'io.open("ready", "w"):close() '

--- Runs code in the program, and the shell commands `steps` beside it, with its number in $pid.
local function beside(code, steps)
  return child.shell(('MOCL=$(readlink -f "$MOCL"); cd "$(mktemp -d)"\n%s"$MOCL" -e %s & pid=$!\nawait test -e ready\n%s\nwait $pid'):format(child.AWAIT,
    child.quote(code), steps))
end

--- Two signals, far enough from each other not to count as one, and a third that must find nobody.
local function pressed_twice(code, signal)
  return beside(code, ([[
kill -%s $pid; sleep 0.25; kill -0 $pid && echo "alive after one"; kill -%s $pid
tries=0; while kill -0 $pid 2>/dev/null && [ $tries -lt 100 ]; do sleep 0.05; tries=$((tries + 1)); done
kill -KILL $pid 2>/dev/null && echo "alive after two"]]):format(signal, signal))
end

local function has(name)
  return select(3, child.mocl { "-e", ("require %q"):format(name) }) == 0
end

-- each runs for ever, or for minutes, and no hook of Lua is called meanwhile
local DEAF = {
  ["a match that backtracks"] = READY .. '; ("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(40))',
  ["a finalizer"] = "setmetatable({}, { __gc = function() " .. READY .. "while true do end end }) collectgarbage()",
  ["a hook"] = "debug.sethook(function() debug.sethook() " .. READY .. "while true do end end, 'c') print(1)",
}
local DEAF_FLAG = 'require "mocl.sys".on_interrupt "flag" ' .. DEAF["a match that backtracks"]

T.test("a second signal ends what the first has not reached", function()
  for what, code in pairs(DEAF) do
    local out, _, status = pressed_twice(code, "INT")
    T.eq({ out, status }, { "alive after one\n", 130 }, what)
  end
  local out, _, status = pressed_twice(DEAF["a match that backtracks"], "TERM")
  T.eq({ out, status }, { "alive after one\n", 143 })
end)

T.test("in flag mode too, also where a script has stopped to poll", function()
  local out, _, status = pressed_twice(DEAF_FLAG, "TERM")
  T.eq({ out, status }, { "alive after one\n", 143 })
  out, _, status = pressed_twice(DEAF_FLAG, "INT")
  T.eq({ out, status }, { "alive after one\n", 130 })
end)

T.test("an interruption of an operation inside a finalizer reaches the script", function()
  local _, err, status = beside("setmetatable({}, { __gc = function() " .. READY .. [[
    local tensor = require "mocl.tensor"
    for i = 1, 1e9 do tensor.ones({ 64, 64 }):exp() end end }) collectgarbage() while true do end]], "kill -INT $pid")
  T.ok(err:find("interrupted!", 1, true), err)
  T.eq(status, 130)
end)

T.test("a coroutine that another library resumes is interrupted", function()
  if not has "cqueues" then
    T.skip "no cqueues (Debian: lua-cqueues)"
  end
  local out, _, status = beside('local cq = require "cqueues".new() cq:wrap(function() ' .. READY .. [[
    while true do end end) print((select(2, cq:loop())))]], "kill -INT $pid")
  T.ok(out:find("interrupted!", 1, true), out)
  T.eq(status, 0) -- the loop returns the error
end)

T.test("a handler that a library took away comes back at the next checkpoint", function()
  if not has "luv" then
    T.skip "no luv (Debian: lua-luv)"
  end
  local out, err, status = beside([[
    local uv, sys = require "luv", require "mocl.sys"
    sys.on_interrupt "flag"
    local watch = uv.new_signal()
    watch:start "sigint" watch:stop() watch:close() uv.run()
    sys.interrupted() sys.interrupted() ]] .. READY .. [[
    while not sys.interrupted() do end
    print(sys.interrupted()) os.exit(0)]], "kill -INT $pid")
  T.eq({ out, status }, { "SIGINT\n", 0 }, err)
  T.eq(select(2, err:gsub("a library took the handler of a signal away", "")), 1, err)
end)

T.test("a closed pipe ends a run although a library has SIGPIPE ignored", function()
  if not has "socket" then
    T.skip "no socket (Debian: lua-socket)"
  end
  local code = child.quote [[require "socket" local sys = require "mocl.sys"
    for i = 1, math.huge do print(i) if sys.interrupted() then break end end]]
  T.eq(child.shell('( "$MOCL" -e ' .. code .. '; echo $? >&2 ) | head -n 1'), "1\n")
  T.eq(select(2, child.shell('( "$MOCL" -e ' .. code .. '; echo $? >&2 ) | head -n 1')), "141\n")
  -- who started the program had it ignored: then it goes on, as any program does
  local _, err = child.shell("trap '' PIPE; ( \"$MOCL\" -e " .. child.quote [[local sys = require "mocl.sys"
    for i = 1, 20000 do print(i) sys.interrupted() end]] .. "; echo $? >&2 ) | head -n 1")
  T.eq(err, "0\n")
end)
