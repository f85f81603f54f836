-- the command line: as lua 5.4, plus the long options; exit status, signals, interactive mode

local T = require "t"
local child = require "child"
local sys = require "mocl.sys"

local mocl = arg[-1] -- the program under test

local quote = child.quote

--- Runs a shell command with $MOCL set; returns stdout, stderr, exit status, signal.
local function shell(command, program)
  local dir = T.tmpdir()
  local setup = "unset LUA_INIT LUA_INIT_5_4; export MOCL_HISTORY=-; MOCL=%s; cd %s; "
  local p = assert(io.popen((setup .. "{ %s\n} >%s/out 2>%s/err"):format(quote(program or mocl),
    quote(dir), command, dir, dir)))
  local _, how, code = p:close()
  local function text(name)
    local f = assert(io.open(dir .. "/" .. name, "rb"))
    local s = f:read("a")
    f:close()
    return s
  end
  return text("out"), text("err"), how == "exit" and code or -code
end

if not mocl:find("^/") and mocl:find("/") then -- the commands run in another directory
  local p = assert(io.popen("pwd"))
  mocl = p:read("l") .. "/" .. mocl
  p:close()
end

T.test("-e runs a string", function()
  local out, err, status = shell([["$MOCL" -e 'print(1 + 1)' -e'print "x"']])
  T.eq(out, "2\nx\n")
  T.eq(err, "")
  T.eq(status, 0)
end)

T.test("-v shows the version, --version is one line", function()
  local out, _, status = shell([["$MOCL" -v]])
  T.ok(out:find("^mocl %d+%.%d+%.%d+  Lua 5%.4"), out)
  T.ok(out:find("PUC%-Rio\n$"), out)
  T.eq(status, 0)
  out = shell([["$MOCL" --version]])
  T.eq(out, "mocl " .. require("mocl")._VERSION .. "\n")
end)

T.test("-l requires into a global", function()
  T.eq((shell([["$MOCL" -lmocl -e 'print(mocl._VERSION)']])), require("mocl")._VERSION .. "\n")
  T.eq((shell([["$MOCL" -l s=mocl.sys -e 'print(math.type(s.getpid()))']])), "integer\n")
  local _, err, status = shell([["$MOCL" -l no.such.module]])
  T.ok(err:find("module 'no.such.module' not found", 1, true), err)
  T.eq(status, 1)
end)

T.test("unknown options end with usage and status 1", function()
  for _, option in ipairs { "-h", "-vv", "-iv", "-Ex", "---", "--hlep", "-" .. "ve" } do
    local out, err, status = shell('"$MOCL" ' .. option)
    T.ok(err:find("mocl: unrecognized option '" .. option .. "'\nusage: ", 1, true), err)
    T.eq(out, "", option)
    T.eq(status, 1, option)
  end
  local _, err, status = shell([["$MOCL" -e]])
  T.ok(err:find("'-e' needs argument", 1, true), err)
  T.eq(status, 1)
end)

T.test("--help shows the options", function()
  local out, err, status = shell([["$MOCL" --help]])
  T.ok(out:find("--env", 1, true), out)
  T.eq(err, "")
  T.eq(status, 0)
end)

T.test("--env tells of the kernels and why cuda is off", function()
  local out, err, status = shell([["$MOCL" --env]])
  T.ok(out:find("\nblas +[^\n]*built%-in kernels %(%w+%)"), out)
  T.ok(out:find("\ncuda +%S"), out)
  T.ok(out:find("\nthreads +%d"), out)
  T.eq(err, "")
  T.eq(status, 0)
end)

T.test("scripts: file, arguments, stdin, first line", function()
  local out, _, status = shell([[
printf '#!/usr/bin/env mocl\nprint(arg[0], arg[1], arg[-1] ~= nil, #arg, ...)' > s.lua
"$MOCL" s.lua a b]])
  T.eq(out, "s.lua\ta\ttrue\t2\ta\tb\n")
  T.eq(status, 0)
  out = shell([[echo 'print(arg[0], ...)' | "$MOCL" - x]])
  T.eq(out, "-\tx\n")
  out = shell([[echo 'print(...)' | "$MOCL"]])
  T.eq(out, "\n")
  out = shell([[printf 'print(7)' > ./-x; "$MOCL" -- -x]])
  T.eq(out, "7\n")
  out = shell([[printf 'print(arg[-3], arg[-2], arg[-1])' > s.lua; "$MOCL" -W -e 'x = 1' s.lua]])
  T.eq(out, "-W\t-e\tx = 1\n")
  local _, err
  _, err, status = shell([["$MOCL" missing.lua]])
  T.ok(err:find("mocl: cannot open missing.lua", 1, true), err)
  T.eq(status, 1)
end)

T.test("a tool stands in place of a script; its earlier path works and says so once", function()
  local out, err, status = shell [["$MOCL" tokenize --help]]
  T.ok(out:find("usage: mocl tokenize [key=value ...]", 1, true), out)
  T.eq({ err, status }, { "", 0 })
  for _, path in ipairs { "recipes/tokenize.lua", "/no/such/recipes/tokenize.lua", "tokenize.lua" } do
    local moved, note = shell(([["$MOCL" %s --help]]):format(path))
    T.eq(moved, out)
    T.ok(note:find(("^[^\n]*mocl: %s is `mocl tokenize` now; the old path goes with the next version\n$"):format(path:gsub("%p", "%%%0"))), note)
  end
  -- a file of that name goes first, a directory does not; a recipe has its own name
  out = shell [[mkdir tokenize; "$MOCL" tokenize --help | head -n 1; rmdir tokenize
echo 'print "own"' > tokenize; "$MOCL" tokenize; "$MOCL" ./tokenize; mkdir r
echo 'print "recipe"' > r/tokenize.lua; MOCL_RECIPES=r "$MOCL" tokenize.lua; "$MOCL" r/tokenize.lua]]
  T.eq(out, "tokenize: print the token ids of a text\nown\nown\nrecipe\nrecipe\n")
  out, err, status = shell [["$MOCL" x/tokenize.lua; "$MOCL" -E tokenizer; "$MOCL" -e 'require "mocl.tools.tokenize"']]
  T.ok(err:find("cannot open x/tokenize.lua", 1, true) and err:find("cannot open tokenizer", 1, true)
    and err:find("there is no module 'mocl.tools.tokenize'", 1, true), err)
  T.eq({ out, status }, { "", 1 })
end)

T.test("a name without a directory is looked up among the recipes", function()
  local out, _, status = shell([[
mkdir r; echo 'print("recipe", arg[0], ...)' > r/thing.lua
MOCL_RECIPES=$PWD/r "$MOCL" thing 1; MOCL_RECIPES=r "$MOCL" thing.lua 2
echo 'print("local")' > thing; MOCL_RECIPES=r "$MOCL" thing]])
  T.ok(out:find("^recipe\t/[^\n]*/r/thing.lua\t1\nrecipe\tr/thing.lua\t2\nlocal\n$"), out)
  T.eq(status, 0)
  local _, err
  _, err, status = shell([[mkdir r; echo 'print(1)' > r/thing.lua; MOCL_RECIPES=r "$MOCL" -E thing]])
  T.ok(err:find("cannot open thing", 1, true), err)
  T.eq(status, 1)
end)

T.test("errors go to stderr with a traceback, status 1", function()
  local out, err, status = shell([[printf 'local function f() error "bad" end\nf()' > s.lua; "$MOCL" s.lua]])
  T.eq(out, "")
  T.ok(err:find("mocl: s.lua:1: bad\nstack traceback:\n", 1, true), err)
  T.ok(err:find("s.lua:2: in main chunk", 1, true), err)
  T.eq(status, 1)
  out, err, status = shell([["$MOCL" -e 'x = = 1']])
  T.eq(out, "")
  T.ok(err:find("mocl: (command line):1: unexpected symbol near '='", 1, true), err)
  T.eq(status, 1)
  -- a place in a file that was read is no place in the code
  out, err, status = shell [[printf '{"a": [1,\n2' > x.json; printf 'local _, m = require("mocl.json").load("x.json") error(m, 0)' > s.lua
    "$MOCL" s.lua]]
  T.ok(err:find "^[^\n]*mocl: x.json: line 2[^\n]*\n$" or err:find "^[^\n]*mocl: x.json:2[^\n]*\n$", err)
  out, err, status = shell [[echo 'error("a.csv:2: the columns are wrong", 0)' > s.lua; "$MOCL" s.lua]]
  T.ok(err:find "^[^\n]*mocl: a.csv:2: the columns are wrong\n$", err)
  T.eq(status, 1)
  -- one in a function that has ended, and in mocl's own code
  out, err = shell [[echo 'local ok, m = pcall(function() error "bad" end) error(m, 0)' > s.lua; "$MOCL" s.lua]]
  T.ok(err:find("s.lua:1: bad\nstack traceback:", 1, true), err)
  out, err = shell [["$MOCL" -e 'error("stdlib/mocl/x.lua:3: bad", 0)']]
  T.ok(err:find("stdlib/mocl/x.lua:3: bad\nstack traceback:", 1, true), err)
  out, err, status = shell([["$MOCL" -e 'error {}']])
  T.eq(out, "")
  T.ok(err:find("(error object is a table value)", 1, true), err)
  T.eq(status, 1)
end)

T.test("os.exit gives the status", function()
  T.eq(select(3, shell([["$MOCL" -e 'os.exit(7)']])), 7)
  T.eq(select(3, shell([["$MOCL" -e 'os.exit(true, true)']])), 0)
  T.eq(select(3, shell([["$MOCL" -e 'require "mocl.sys" os.exit(3, true)']])), 3)
end)

T.test("environment: LUA_INIT, -E, -W", function()
  T.eq((shell([[LUA_INIT='x = 5' "$MOCL" -e 'print(x)']])), "5\n")
  T.eq((shell([[LUA_INIT_5_4='x = 6' LUA_INIT='x = 5' "$MOCL" -e 'print(x)']])), "6\n")
  T.eq((shell([[LUA_INIT='x = 5' "$MOCL" -E -e 'print(x)']])), "nil\n")
  T.eq((shell([[echo 'x = 8' > i.lua; LUA_INIT=@i.lua "$MOCL" -e 'print(x)']])), "8\n")
  T.eq(select(2, shell([["$MOCL" -W -e 'warn "hear"']])), "Lua warning: hear\n")
  T.eq(select(2, shell([["$MOCL" -e 'warn "hear"']])), "")
  T.eq((shell([[LUA_PATH='/p/?.lua;;' "$MOCL" -e 'print(package.path:sub(1, 8))']])), "/p/?.lua\n")
end)

T.test("MOCL_STDLIB overrides the embedded modules, -E ignores it", function()
  local make = [[mkdir -p d/mocl; echo 'return {_VERSION = "own"}' > d/mocl/init.lua
    MOCL_STDLIB=d "$MOCL" ]]
  T.eq((shell(make .. [[-e 'print(require"mocl"._VERSION)']])), "own\n")
  T.eq((shell(make .. [[-E -e 'print(require"mocl"._VERSION)']])), require("mocl")._VERSION .. "\n")
end)

local READY = 'io.open("ready", "w"):close() '

--- Runs code in the program; `steps` are shell commands that run beside it, with its number in $pid. By default they send
-- a signal as soon as the code has run READY. (The shell starts background processes deaf to SIGINT; the program listens
-- all the same.)
local function beside(code, steps)
  return shell(('%s"$MOCL" -e %s & pid=$!\n%s\nwait $pid'):format(child.AWAIT, quote(code), steps))
end

local function stopped(signal, code)
  return beside(code, "await test -e ready; kill -" .. signal .. " $pid")
end

T.test("signals end a script with 130 and 143", function()
  local loops = {
    READY .. "while true do end",
    "coroutine.wrap(function() " .. READY .. "while true do end end)()",
    "io.stdout:write('') " .. READY .. "while true do os.time() end",
  }
  for _, code in ipairs(loops) do
    local _, err, status = stopped("INT", code)
    T.ok(err:find("interrupted!\nstack traceback:", 1, true), err)
    T.eq(status, 130, code)
  end
  T.eq(select(3, stopped("TERM", loops[1])), 143)
  -- asleep in a read, of a pipe that nobody writes to
  local _, err, status = shell(("mkfifo in\n" .. child.AWAIT .. [["$MOCL" -e %s < in & pid=$!
exec 9> in
await test -e ready; await grep '^State:.S' /proc/$pid/status; kill -INT $pid; wait $pid]]):format(quote(READY .. "io.read()")))
  T.ok(err:find("interrupted!", 1, true), err)
  T.eq(status, 130)
end)

T.test("pcall catches an interruption", function()
  local out, err, status = stopped("INT", "print(pcall(function() " .. READY .. [[while true do end end))
print(require "mocl.sys".interrupted())]])
  T.eq(out, "false\t(command line):1: interrupted!\nSIGINT\n")
  T.eq(err, "")
  T.eq(status, 0)
end)

T.test("flag mode: the first signal is polled, the next one raises", function()
  local poll = [[
local sys = require "mocl.sys"
assert(sys.on_interrupt("flag") == "raise")
]] .. READY .. [[
while not sys.interrupted() do end
print(sys.interrupted())]]
  local out, err, status = stopped("TERM", poll)
  T.eq(out, "SIGTERM\n")
  T.eq(err, "")
  T.eq(status, 143)
  out, err, status = stopped("INT", poll .. " os.exit(0)")
  T.eq(out, "SIGINT\n")
  T.eq(err, "")
  T.eq(status, 0)
  out, err, status = beside(poll .. " io.stdout:flush() while true do end", [[
await test -e ready; kill -TERM $pid; await grep SIGTERM out; kill -0 $pid && echo alive
sleep 0.2; kill -TERM $pid]]) -- two within 0.1 s count as one
  T.eq(out, "SIGTERM\nalive\n")
  T.ok(err:find("interrupted!", 1, true), err)
  T.eq(status, 143)
end)

T.test("message mode: an interruption without place and traceback, the second one after a flag too", function()
  local _, err, status = stopped("INT", 'require("mocl.sys").on_interrupt "message" ' .. READY .. "while true do end")
  T.eq({ status, err:match "[^/]*$" }, { 130, "mocl: interrupted!\n" })
  local code = [[local sys = require "mocl.sys" sys.on_interrupt "message" assert(sys.on_interrupt "flag" == "message") ]] .. READY
    .. [[while not sys.interrupted() do end print "noted" io.stdout:flush() while true do end]]
  _, err, status = beside(code, "await test -e ready; kill -TERM $pid; await grep noted out\nsleep 0.2; kill -TERM $pid")
  T.eq({ status, err:match "[^/]*$" }, { 143, "mocl: interrupted!\n" })
  local out = child.lua [[local sys = require "mocl.sys" print(sys.on_interrupt "message", sys.on_interrupt "raise", sys.on_interrupt "flag")]]
  T.eq(out, "raise\tmessage\traise\n")
end)

T.test("a second signal ends what catches all errors", function()
  local out, _, status = beside("while true do pcall(function() " .. READY .. [[while true do end end)
io.stdout:write("caught\n"):flush() end]], [[
await test -e ready; kill -INT $pid; await grep caught out
while kill -INT $pid 2>/dev/null; do sleep 0.2; done]])
  T.ok(out:find("^caught\n"), out)
  T.eq(status, 130) -- the shell's word for death by SIGINT
end)

T.test("interactive mode on a pipe", function()
  local out, err, status = shell([[printf '%s\n' 'x = 5' '=x' 'x, nil, 3' 'for i = 1, 2 do' 'print(i)' 'end' 'error "oops"' \
'mocl._VERSION' '_PROMPT = "? "' '"last"' | "$MOCL" -i]])
  T.ok(out:find("> =x\n5\n> x, nil, 3\n5\tnil\t3\n> for i = 1, 2 do\n>> print(i)\n>> end\n1\n2\n", 1, true), out)
  T.ok(out:find("\n" .. require("mocl")._VERSION .. "\n", 1, true), out)
  T.ok(out:find('\n? "last"\nlast\n? \n', 1, true), out)
  T.ok(err:find("stdin:1: oops\nstack traceback:", 1, true), err)
  T.eq(status, 0)
  out, err = shell([[printf '%s\n' 'x = = 1' 'for' | "$MOCL" -i]])
  T.ok(err:find("stdin:1: unexpected symbol near '='", 1, true), err)
  T.ok(err:find("<name> expected near <eof>", 1, true), err)
end)

local on_terminal = child.terminal

T.test("interactive mode on a terminal: Ctrl-C keeps the session", function()
  local out = on_terminal [[
  seen '^> ' 1; printf 'x = 40\n'; seen '^> ' 2; printf 'print("lo" .. "op") while true do end\n'
  seen '^loop' 1; printf '\003'; seen '^> ' 3; printf 'garbage ('; seen 'garbage (' 1; printf '\003'
  seen '^> ' 4; printf 'x + 2\n'; seen '^> ' 5]]
  T.ok(out:find("interrupted!", 1, true), out)
  T.ok(out:find("42", 1, true), out)
  T.ok(out:find("status 0\n", 1, true), out)
end)

T.test("interactive mode on a terminal: every line is in the history, however the session ends", function()
  if not package.loadlib("libreadline.so.8", "*") then
    T.skip "no GNU readline"
  end
  local path = T.tmpdir() .. "/new/history"
  local ends = { "os.exit(3)", "os.exit(true, true)", 'os.execute("kill -9 $PPID")', "x = 1" }
  for i, last in ipairs(ends) do
    on_terminal(("seen '^> ' 1; printf 'y = %d\\n'; seen '^> ' 2; printf '%s\\n'"):format(i, last)
      .. (i == #ends and "; seen '^> ' 3" or "; seen 'Script done' 1"), path)
    local text = child.read(path)
    for k = 1, i do
      T.ok(text:find(("\ny = %d\n"):format(k), 1, true) and text:find("\n" .. ends[k] .. "\n", 1, true), text)
    end
  end
  local p = assert(io.popen(("stat -c %%a '%s'"):format(path)))
  T.eq(p:read "l", "600")
  p:close()
end)

T.test("interactive mode on a terminal: Tab completes, a second one lists, files in strings", function()
  if not package.loadlib("libreadline.so.8", "*") then
    T.skip("no GNU readline")
  end
  local out = on_terminal [[
  : > a-file
  seen '^> ' 1; printf 'print(string.rep\t("tab", 2))\n'; seen '^> ' 2; printf 'string.re\t\t'
  seen '^rep ' 1; printf 'v\t("pu")\n'; seen '^> ' 4; printf 'print("a-f\t .. "end")\n'; seen '^> ' 5]]
  T.ok(out:find("\ntabtab", 1, true), out)
  T.ok(out:find("rep      reverse", 1, true) and out:find("\nup", 1, true), out)
  T.ok(out:find("\na-fileend", 1, true), out)
  T.ok(out:find("status 0\n", 1, true), out)
end)

T.test("the width of a terminal, and a status line that takes it", function()
  if not os.execute "command -v script >/dev/null 2>&1" then
    T.skip "no program 'script' to make a terminal"
  end
  local code = [[
    local sys = require "mocl.sys"
    print(sys.columns(2))
    local bar = require "mocl.run.progress".new { label = "x", total = 2 }
    bar:update(2, ("y"):rep(500))
    bar:done()
    os.execute "stty cols 60"
    print(sys.columns(2))]]
  local out = shell(("cat > s.lua <<'E'\n%s\nE\nTERM=xterm SHELL=/bin/sh script -q -e -c \"stty cols 150; '$MOCL' s.lua\" t </dev/null")
    :format(code))
  T.ok(out:find("^150\r?\n"), out)
  T.eq(#out:match "\r(x [^\27]*y)\27", 149)
  T.ok(out:find("\n60\r?\n"), out)
  -- elsewhere there is none
  T.eq((shell [["$MOCL" -e 'print(require "mocl.sys".columns(2))']]), "nil\n")
end)

T.test("same output as lua5.4", function()
  if not os.execute("command -v lua5.4 >/dev/null 2>&1") then
    T.skip("no lua5.4 to compare with")
  end
  local commands = {
    [["$MOCL" -e 'print(arg[0] ~= nil, #arg, ...)']],
    [["$MOCL" -e 'print(select("#", ...))' - a b < /dev/null]],
    [[printf 'local t <close> = setmetatable({}, {__close = print}) print(...)' > s; "$MOCL" s 1 | sed 's/0x.*//']],
    [["$MOCL" -e 'print(pcall(coroutine.resume, 1))']],
    [["$MOCL" -e 'print(coroutine.resume(coroutine.create(function(...) error({}) end)) )' | sed 's/0x.*//']],
    [["$MOCL" -e 'local co = coroutine.create(print) coroutine.resume(co, 1, 2) print(coroutine.resume(co))']],
    [["$MOCL" -e 'local w = coroutine.wrap(function() error("e") end) print(pcall(w)) print(pcall(w))']],
    [["$MOCL" -e 'local w = coroutine.wrap(function(a) local b = coroutine.yield(a + 1) return b, nil end) print(w(1)) print(w(5))']],
    [["$MOCL" -e 'print(pcall(coroutine.close, coroutine.running()))']],
    [["$MOCL" -e 'local co co = coroutine.create(function() print(pcall(coroutine.close, co)) end) coroutine.resume(co) print(coroutine.close(co), coroutine.status(co))']],
    [["$MOCL" -e 'local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = function() error("c") end}) coroutine.yield() end) coroutine.resume(co) print(coroutine.close(co))']],
    [["$MOCL" -e 'local function f() return coroutine.wrap(f)() end print(pcall(f))' | cut -c 1-40]],
    [["$MOCL" -e 'print(pcall(coroutine.wrap, 1)) print(pcall(coroutine.close))']],
    [["$MOCL" -e 'print(coroutine.wrap(function() return coroutine.isyieldable(), pcall(coroutine.yield, 3) end)())']],
    [[printf 'return 1,' | "$MOCL" -; echo $?]],
    [["$MOCL" nosuch/file; echo $?]],
    [["$MOCL" -l string -e 'print(string.rep("a", 3))']],
    [["$MOCL" -e 'error(setmetatable({}, { __tostring = function() return debug.getinfo(4).currentline .. "" end }))' 2>&1 | sed 's/.*: //; q']],
    [["$MOCL" -eprint'(1)' -lm=math -W -e 'print(m.pi) warn "x"' -- /dev/null a; echo $?]],
    [[LUA_INIT='error "here"' "$MOCL" -e 'print(1)'; echo $?]],
    [[LUA_INIT=@nowhere.lua "$MOCL" -e 'print(1)'; echo $?]],
    [[echo 'print(...)' | LUA_INIT='arg[1] = 7' "$MOCL" - 8; echo $?]],
    [[echo 'print(#arg, arg[0], arg[1], arg[-1] ~= nil, ...)' > s; "$MOCL" -- s - -v; "$MOCL" - s < s; "$MOCL" -E s -i]],
    [[for o in -h --- -Ex -vv -e -l '-e -l'; do "$MOCL" $o 2>&1 | sed 's/.*: //; q'; done; "$MOCL" -h 2>/dev/null; echo $?]],
    [["$MOCL" -e 'arg = 1' s; echo $?; "$MOCL" -e 'x = ' s; echo $?]],
    [["$MOCL" -l nosuch.module 2>/dev/null; echo $?; "$MOCL" -e 'os.exit(false)'; echo $?]],
    [["$MOCL" -e 'io.stderr:write(tostring(_PROMPT))' -e 'print(_VERSION)' -e 'local x <close> = setmetatable({}, {__close = print}) error "y"' | sed 's/0x.*//']],
    [["$MOCL" -W -e 'setmetatable({}, {__gc = function() error "z" end}) collectgarbage()']],
    [["$MOCL" -e 'setmetatable({}, {__gc = function() print "closed" end}) os.exit(true, true)'; "$MOCL" -e 'setmetatable({}, {__gc = function() print "end" end})']],
  }
  for _, command in ipairs(commands) do
    local function run(program)
      local out, err, status = shell(command, program)
      err = err:gsub("%f[^\n\0][^\n]*mocl: ", "P: "):gsub("%f[^\n\0][^\n]*lua5%.4: ", "P: ")
      return { out, err, status }
    end
    T.eq(run(mocl), run("lua5.4"), command)
  end
end)

T.test("the collector is the incremental one, which frees tensors of some age soon", function()
  T.eq((shell [["$MOCL" -e 'print(collectgarbage "generational")']]), "incremental\n")
  local out = shell(([["$MOCL" -e %s]]):format(quote [[
    local tensor, ring = require "mocl.tensor", {}
    for i = 1, 2000 do
      ring[i % 64 + 1] = tensor.zeros { 1 << 14 }
      for j = 1, 50 do local _ = { i, j } end
    end
    print(tensor.memory().peak // 2 ^ 20 < 16)]]))
  T.eq(out, "true\n") -- 4 MiB are in the ring
end)

T.test("mocl.sys", function()
  local t = sys.now()
  T.eq(math.type(t), "float")
  T.ok(sys.now() >= t)
  T.eq(math.type(sys.getpid()), "integer")
  T.ok(sys.cpu_count() >= 1)
  T.ok(sys.rss_bytes() > 1 << 20)
  T.ok(sys.peak_rss_bytes() >= sys.rss_bytes() // 2)
  T.raises("isatty' %(file descriptor expected", sys.isatty, -1)
  T.raises("columns' %(file descriptor expected", sys.columns, -1)
  T.raises("invalid option 'sometimes'", sys.on_interrupt, "sometimes")
  local env = sys.env()
  for _, key in ipairs { "mocl", "lua", "os", "cpu", "cpu_features", "blas", "cuda", "devices", "real", "stdlib", "recipes" } do
    T.eq(type(env[key]), "string", key)
  end
  T.eq(env.mocl, require("mocl")._VERSION)
  T.ok(env.threads >= 1)
end)
