--- Signals that reach code which does not poll, and what libraries beside mocl do to signals.

local T = require "t"
local child = require "child"

local READY = 'io.open("ready", "w"):close() '

--- Runs code in the program, and the shell commands `steps` beside it, with its number in $pid.
local function beside(code, steps)
  return child.shell(([[MOCL=$(readlink -f "$MOCL"); cd %s
%s"$MOCL" -e %s 2>err & pid=$!
await test -e ready
%s
wait $pid; s=$?; cat err >&2; exit $s]]):format(T.tmpdir(), child.AWAIT, child.quote(code), steps))
end

local function has(name)
  return select(3, child.mocl { "-e", ("require %q"):format(name) }) == 0
end

--- Runs all of a table of codes side by side. Each gets two signals, `gap` seconds (1.1) from each other, and must be
-- there after the first and gone after the second. Returns what happened to each: a line, and the exit status.
local function pressed_twice(codes, signal, gap)
  local dir, parts, got = T.tmpdir(), { child.AWAIT, "MOCL=$(readlink -f \"$MOCL\")\n" }, {}
  for name, code in pairs(codes) do
    parts[#parts + 1] = ([[
( mkdir -p %s/%s; cd %s/%s; "$MOCL" -e %s 2>err & pid=$!
await test -e ready
sleep 0.2 # from the file to what runs for ever
kill -%s $pid; sleep %s; kill -0 $pid && echo "alive after one" >out; kill -%s $pid
tries=0; while kill -0 $pid 2>/dev/null && [ $tries -lt 200 ]; do sleep 0.05; tries=$((tries + 1)); done
kill -KILL $pid 2>/dev/null && echo "alive after two" >>out
wait $pid; echo $? >>out ) &
]]):format(dir, name, dir, name, child.quote(code), signal, gap or 1.1, signal)
  end
  child.shell(table.concat(parts) .. "wait")
  for name in pairs(codes) do
    got[name] = child.read(("%s/%s/out"):format(dir, name))
  end
  return got
end

local function all_end(codes, signal, gap)
  local want = "alive after one\n" .. (signal == "INT" and 130 or 143) .. "\n"
  for name, got in pairs(pressed_twice(codes, signal, gap)) do
    T.eq(got, want, name .. ", SIG" .. signal)
  end
end

local FLAG = 'require "mocl.sys".on_interrupt "flag" '
-- each runs for ever, or for minutes, and no hook of Lua is called meanwhile, or its error is swallowed
local FOREVER = {
  backtracking = READY .. '; ("a"):rep(40):find(("a?"):rep(40) .. ("a"):rep(40))',
  finalizer = "setmetatable({}, { __gc = function() " .. READY .. "while true do end end }) collectgarbage()",
  hook = "debug.sethook(function() debug.sethook() " .. READY .. "while true do end end, 'c') print(1)",
  message_handler = "xpcall(error, function() " .. READY .. "while true do end end)",
  pcalls = "while true do pcall(function() " .. READY .. "while true do end end) end",
  pcalls_in_a_coroutine = "coroutine.wrap(function() while true do pcall(function() " .. READY
    .. "while true do end end) end end)()",
}
-- the same inside libraries
local LIBRARIES = {
  { "socket", codes = {
    accept = 'local s = require "socket".bind("127.0.0.1", 0) ' .. READY .. "s:accept()",
    sleep = READY .. 'require "socket".sleep(600)',
  } },
  { "luv", codes = {
    timer = 'local uv = require "luv" uv.new_timer():start(600000, 0, print) ' .. READY .. "uv.run()",
    thread = 'local t = require "luv".new_thread(function() require "luv".sleep(600000) end) ' .. READY .. "t:join()",
    pcalls_in_callbacks = [[local uv = require "luv" uv.new_idle():start(function() pcall(function() ]] .. READY
      .. "while true do end end) end) uv.run()",
  } },
  { "cqueues", codes = {
    pcalls_in_a_loop = [[local cq = require "cqueues".new() cq:wrap(function() while true do pcall(function() ]]
      .. READY .. "while true do end end) end end) cq:loop()",
  } },
  { "luasql.sqlite3", codes = {
    query = 'local c = require "luasql.sqlite3".sqlite3():connect ":memory:" ' .. READY .. [[c:execute(
      "with recursive n(x) as (select 1 union all select x + 1 from n) select count(*) from n")]],
  } },
  { "lpeg", codes = {
    match = 'local l = require "lpeg" local p = l.P { l.P "a" * l.V(1) * "b" + l.P "a" * l.V(1) * "c" + "a" } '
      .. READY .. 'p:match(("a"):rep(60))',
  } },
}

local function in_flag_mode(codes)
  local flagged = {}
  for name, code in pairs(codes) do
    flagged[name] = FLAG .. code
  end
  return flagged
end

T.test("a second signal ends what the first has not reached, or what has swallowed it", function()
  all_end(FOREVER, "INT")
end)

T.test("in flag mode too, also where a script has stopped to poll", function()
  all_end(in_flag_mode(FOREVER), "TERM", 0.25)
end)

T.test("a second signal ends what a library does", function()
  local there, missing = {}, {}
  for _, library in ipairs(LIBRARIES) do
    if has(library[1]) then
      for name, code in pairs(library.codes) do
        there[name] = code
      end
    else
      missing[#missing + 1] = library[1]
    end
  end
  all_end(there, "INT")
  if #missing > 0 then
    T.skip("no " .. table.concat(missing, ", "))
  end
end)

T.test("a script that has caught an interruption and says so is interrupted again", function()
  local out, err, status = beside([[local sys = require "mocl.sys"
    for i = 1, 2 do
      print(pcall(function()
        io.open("ready" .. i, "w"):close() if i == 1 then ]] .. READY .. [[end while true do end
      end))
      sys.on_interrupt "raise"
    end]], "kill -INT $pid; await test -e ready2; sleep 0.2; kill -INT $pid")
  T.eq({ out, status }, { ("false\t(command line):4: interrupted!\n"):rep(2), 0 }, err)
end)

T.test("each statement of the interactive mode is interrupted for itself; a second signal ends the mode", function()
  local dir = T.tmpdir()
  local loop = 'io.open("ready%d", "w"):close() while true do end\n'
  local f <close> = assert(io.open(dir .. "/in", "w"))
  f:write(loop:format(1), loop:format(2), 'print "here"\n',
    'pcall(function() io.open("ready3", "w"):close() while true do end end) ',
    'io.open("ready4", "w"):close() while true do pcall(function() while true do end end) end\n')
  f:flush()
  local out, err, status = child.shell(child.AWAIT .. ([[MOCL=$(readlink -f "$MOCL"); cd %s; "$MOCL" -i <in & pid=$!
for i in 1 2 3 4; do await test -e ready$i; sleep 0.2; kill -INT $pid; done
wait $pid]]):format(dir))
  T.eq(status, 130, err)
  T.ok(out:find("\nhere\n", 1, true), out)
  T.eq(select(2, err:gsub("stdin:1: interrupted!", "")), 2, err)
end)

T.test("a second signal in an update of a training loop: its status, and how to go on", function()
  for signal, status in pairs { INT = 130, TERM = 143 } do
    local out, err, got = beside([[
      local config, Run, training = require "mocl.run.config", require "mocl.run", require "mocl.train.loop"
      local cfg, info = config.parse(config.common {}, { "out=run", "quiet=true" }, { recipe = "x" })
      local run <close> = Run.open { recipe = "x", cfg = cfg, info = info, main = "main" }
      run:stage("main", function(stage)
        local t <close> = training.new { run = run, stage = stage, label = "main", total = 9, save_every = 1 }
        ]] .. READY .. [[while true do end
      end)]], ([[kill -%s $pid; sleep 0.2; kill -%s $pid
wait $pid; s=$?; ls run; cat err >&2; exit $s]]):format(signal, signal))
    T.eq(got, status, err)
    T.ok(err:find("SIG" .. signal .. " in stage main; continue with resume=auto", 1, true), err)
    T.ok(not out:find "lock", out)
  end
end)

T.test("a signal that is only noted cuts no read; the next one does", function()
  local code = FLAG .. [[local p = io.popen "exec 2>/dev/null; while ! test -e go; do sleep 0.01; done; echo whole" ]]
    .. READY .. [[local text = p:read "a" print(text == "whole\n", p:close(), require "mocl.sys".interrupted()) ]]
  local out, err, status = beside(code, "kill -TERM $pid; sleep 0.2; touch go")
  T.eq({ out, status }, { "true\ttrue\tSIGTERM\n", 143 }, err)
  out, err, status = beside(code, "kill -TERM $pid; sleep 0.2; kill -TERM $pid; await grep interrupted err; touch go")
  T.eq({ out, status }, { "", 143 }, err)
  T.ok(err:find("in method 'read'", 1, true), err)
end)

T.test("a Ctrl-C that ended a command of os.execute reaches the script, in flag mode as a note", function()
  local _, err, status = child.lua [[os.execute "kill -INT $$" print "not here"]]
  T.eq(status, 130, err)
  T.ok(err:find("interrupted!\nstack traceback:", 1, true), err)
  local out, _, noted = child.lua(FLAG .. [[print(os.execute "kill -INT $$") print(require "mocl.sys".interrupted())]])
  T.eq({ out, noted }, { "nil\tsignal\t2\nSIGINT\n", 130 })
  T.eq(child.lua [[print(os.execute(), os.execute "exit 130") print(os.execute "kill -TERM $$")]],
    "true\tnil\texit\t130\nnil\tsignal\t15\n")
end)

if T.slow then
  T.test("a single SIGTERM ends what it does not reach, after five seconds", function()
    local _, err, status = beside(FOREVER.backtracking, "sleep 0.2; kill -TERM $pid")
    T.eq(status, 143, err)
    _, err, status = beside(READY .. [[io.popen "sleep 60 >/dev/null 2>&1":read "a"]], "kill -TERM $pid")
    T.eq(status, 143, err)
  end)
end

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
