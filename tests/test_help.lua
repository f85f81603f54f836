-- mocl.help, mocl.show and the words of the interactive mode

local T = require "t"
local child = require "child"
local help = require "mocl.help"
local show = require "mocl.show"
local tensor = require "mocl.tensor"

T.test("help: by name, by value, by object", function()
  local matmul = "a:matmul(b) -> y\n    docs/tensor.md, Products\n"
  for _, what in ipairs { "mocl.tensor.matmul", "tensor.matmul", "matmul", "x:matmul", " matmul(a) ", tensor.matmul } do
    local text = help.text(what)
    T.ok(text and text:find(matmul, 1, true) == 1, tostring(what) .. ": " .. tostring(text))
  end
  local x <close> = tensor.ones { 1 }
  T.ok(help.text(x):find("a:matmul(b) -> y", 1, true))
  T.ok(help.text(x.matmul):find(matmul, 1, true))
  T.ok(help.text("mocl.fs"):find("fs.write(path, text) -> true | fail", 1, true))
  T.ok(help.text(require "mocl.fs"):find("fs.write(path, text) -> true | fail", 1, true))
  T.ok(help.text("sys.now"):find("a clock that never goes back", 1, true), "a row of a table")
  T.ok(help.text("mocl.lm.model.load"):find("transformer.load(dir, opts)", 1, true), "the section says whose `load` it is")
  T.ok(help.text("ppo.lr"):find("Adam step size", 1, true), "an option")
  T.ok(help.text(string.rep):find("manual.html#pdf-string.rep", 1, true))
  T.ok(help.text(function() end):find("tests/test_help.lua:", 1, true))
  T.ok(help.text("mocl.lm.model_files"):find("parts of mocl.lm.model", 1, true))
  T.ok(help.text():find("docs/cli.md", 1, true))
end)

T.test("help: the functions of mocl itself are those of their module, not Lua's load", function()
  local mocl = require "mocl"
  for name, f in pairs { load = mocl.load, load_run = mocl.load_run, compare = mocl.compare } do
    for _, what in ipairs { f, "mocl." .. name } do
      local text = help.text(what)
      T.ok(text:find("^loaded%." .. name .. "%(") and text:find("docs/talk.md", 1, true), text)
    end
  end
  T.ok(help.text(load):find("load is of Lua's own library", 1, true))
end)

T.test("help: a class in Lua", function()
  local kl = require "mocl.method.kl_controller"
  local c = kl.adaptive { target = 6 }
  T.ok(help.text(c.update):find("update", 1, true))
  T.ok(help.text(c):find("kl_controller", 1, true), help.text(c))
end)

T.test("help: what is unknown gives its nearest", function()
  T.fails("no entry 'matmull' %(did you mean 'matmul'%?%); apropos \"matmull\"", help.text, "matmull")
  T.fails("no entry 'zzzzqqqq'; apropos", help.text, "zzzzqqqq")
  T.fails("knows nothing of this table", help.text, {})
end)

T.test("apropos: names first, then signatures, then texts", function()
  local list = help.search "KL"
  T.ok(#list > 20)
  local function has(e)
    for _, n in ipairs(e.names) do
      if n[2]:find "kl" then
        return 1
      end
    end
    return e.signature:lower():find("kl", 1, true) and 2 or 3
  end
  for i = 2, #list do
    T.ok(has(list[i - 1]) <= has(list[i]), list[i].signature)
  end
  local _, lines = help.apropos("kl", 5):gsub("\n", "")
  T.eq(lines, 5)
  T.ok(help.apropos("kl", 5):find "\nand %d+ more: apropos%(\"kl\", %d+%)$")
  T.ok(help.apropos "hypervolume":find("metrics.hypervolume(points", 1, true))
  T.eq(help.apropos "zzzzqqqq", "the documentation has nothing with 'zzzzqqqq'")
  T.raises("a word expected", help.apropos, "")
  help.search "%w+("; help.search "[" -- no patterns
end)

T.test("show: tables in Lua's syntax, within limits", function()
  T.eq(show.value { 1, 2.5, "a\"b", true }, '{1, 2.5, "a\\"b", true}')
  T.eq(show.value { b = 1, a = { x = 1 }, [3] = 2, ["not a name"] = 4, ["end"] = 5 },
    '{ [3] = 2, a = { x = 1 }, b = 1, ["end"] = 5, ["not a name"] = 4 }')
  T.eq(show.value {}, "{}")
  T.eq(show.value { { { { 1 } } } }, "{{{{ --[[ deeper ]] }}}}")
  T.eq(show.value({ { 1 } }, { depth = 1 }), "{{ --[[ deeper ]] }}")
  local list = {}
  for i = 1, 100 do
    list[i] = i
  end
  T.ok(show.value(list):find("20,\n  --[[ 80 more ]]\n}", 1, true), show.value(list))
  T.ok(not show.value(list):find "[^\n]" or not show.value(list):find(("[^\n]"):rep(81)))
  T.eq(show.value({ 1, 2, 3 }, { items = 2 }), "{1, 2, --[[ 1 more ]]}")
  T.eq(show.value { 0 / 0, 1 / 0, -1 / 0, 1e300, 3.0, math.mininteger }, "{0/0, math.huge, -math.huge, 1e+300, 3.0, " .. math.mininteger .. "}")
  T.eq(show.value { "\n\0\127" }, '{"\\n\\x00\\x7f"}')
  T.eq(show.value { "é", "\xff" }, '{"é", "\\xff"}')
  T.eq(show.value({ ("é"):rep(6) }, { text = 5 }), '{"éé" --[[ 8 more bytes ]]}')
  local round = { 1 }
  round.self = round
  T.eq(show.value(round), "{ 1, self = { --[[ a table around it ]] } }")
  T.eq(show.value(setmetatable({ 1 }, { __tostring = function() return "own" end })), "own")
  T.eq(show.value { setmetatable({ 1 }, { __tostring = error }) }, "{<table with a faulty __tostring>}")
  T.eq(show.value(setmetatable({ 1 }, { __pairs = error, __index = error, __len = error })), "{1}")
  T.ok(show.value(show.value):find "^<function stdlib/mocl/show.lua:%d+>$")
  -- what is shown reads back
  local v = { 1, { a = "x\n", b = { 2.5, -0.0 } }, ["k k"] = false }
  T.eq(load("return " .. show.value(v))(), v)
  T.ok(show.value({ a = "x" }, { colour = true }):find("\27[", 1, true) and not show.value { a = "x" }:find "\27")
  T.raises("unknown option 'deep'", show.value, {}, { deep = 1 })
  local a, b, c = show.results(nil, "text", { 1 })
  T.eq({ a == nil, b, c }, { true, "text", "{1}" })
end)

-- ---- tensors as text ----

for _, device in ipairs(T.devices) do
  T.test("tensors as text: sizes, corners, range on " .. device, function()
    local small = tensor.new({ { { 1, 2 }, { 3, 4 } }, { { 5, 6 }, { 7, 8.5 } } }, { device = device })
    T.eq(tostring(small), ("tensor (2,2,2) f32 %s\n{{{1, 2},\n  {3, 4}},\n\n {{5, 6},\n  {7, 8.5}}}"):format(small.device))
    local long = tensor.arange(100, { device = device, dtype = "i32" })
    T.eq(tostring(long), ("tensor (100) i32 %s, 0 .. 99\n{0, 1, 2, ..., 97, 98, 99}"):format(long.device))
    local grid = tensor.arange(200, { device = device }):reshape(10, 20)
    T.eq(tostring(grid), ("tensor (10,20) f32 %s, 0 .. 199\n{{0, 1, 2, ..., 17, 18, 19},\n {20, 21, 22, ..., 37, 38, 39},\n " ..
      "{40, 41, 42, ..., 57, 58, 59},\n ...,\n {140, 141, 142, ..., 157, 158, 159},\n {160, 161, 162, ..., 177, 178, 179},\n "
      .. "{180, 181, 182, ..., 197, 198, 199}}"):format(grid.device))
    T.ok(tostring(grid:t()):find("{{0, 20, 40, ..., 140, 160, 180}", 1, true), "a view that is not contiguous")
    local bad = tensor.zeros({ 50 }, { device = device })
    bad:narrow(1, 20, 2):fill_(0 / 0)
    T.ok(tostring(bad):find(", 0 .. 0, 2 nan or infinite\n", 1, true), tostring(bad))
    T.eq(tostring(tensor.zeros({ 0, 3 }, { device = device })), ("tensor (0,3) f32 %s\n{}"):format(bad.device))
    local wide = tensor.zeros({ 9, 9, 9, 9, 2, 2, 2, 2 }, { device = device })
    T.ok(#tostring(wide) < 20000, #tostring(wide))
    local tracked = tensor.zeros({ 30 }, { device = device, requires_grad = true }) * 2
    T.ok(tostring(tracked):find("0 .. 0", 1, true))
  end)
end

T.test("a large tensor as text reads little of it", function()
  local x = tensor.zeros { 2048, 2048 }
  x:narrow(1, 1, 1):fill_(3)
  local text = tostring(x)
  T.ok(text:find("tensor (2048,2048) f32 cpu, 0 .. 3 (of 65536 entries)\n{{3, 3, 3, ..., 3, 3, 3},\n {0,", 1, true), text)
  local before = tensor.memory().peak
  local y = tensor.zeros { 4096, 4096 }
  local own = tensor.memory().live
  for _ = 1, 3 do
    tostring(y)
    tostring(y:t())
  end
  T.ok(tensor.memory().peak - math.max(before, own) < 1 << 21, "memory of a copy")
end)

T.test("an order of tensors names the method", function()
  local x, y = tensor.ones { 2 }, tensor.ones { 2 }
  for words, f in pairs {
    ["x:gt%(5%) for x > 5"] = function() return x > 5 end,
    ["x:ge%(5%) for x >= 5"] = function() return x >= 5 end,
    ["x:lt%(5%) for x < 5"] = function() return x < 5 end,
    ["x:le%(y%) for x <= y"] = function() return x <= y end,
    ["x:lt%(y%) for x < y"] = function() return y > x end,
  } do
    T.raises(words, f)
  end
end)

-- ---- the interactive mode ----

local function typed(...)
  local lines = {}
  for i, line in ipairs { ... } do
    lines[i] = child.quote(line)
  end
  return child.shell(("printf '%%s\\n' %s | \"$MOCL\" -i"):format(table.concat(lines, " ")))
end

T.test("results: tables, nil and a message, help", function()
  local out, err = typed("x = mocl.tensor.ones { 2, 3 }", "x.shape", "{ a = { 1 }, \"b\" }", 'y = mocl.lm.model.load "/nowhere"', "y",
    "?tensor.matmul", "help(x.matmul)", 'apropos "zzzz"', "t = nil, 'x'", "z = (function() return nil, 'gone' end)() -- why", "?zzzz",
    "a, b = nil, 'x'", "v = 1 w = 2", "v + w", "help(nil)")
  T.eq(err, "")
  for _, want in ipairs { "> x.shape\n{2, 3}\n", '{ "b", a = {1} }\n', "nil\t/nowhere/config.json: No such file or directory\n> y\nnil\n",
    "a:matmul(b) -> y\n    docs/tensor.md", "nothing with 'zzzz'", "\nnil\tgone\n> ?zzzz\n", "> v + w\n3\n", "no entry 'zzzz'",
    "help: the value is nil" } do
    T.ok(out:find(want, 1, true), want .. " in:\n" .. out)
  end
  local _, twice = out:gsub("a:matmul%(b%) %-> y", "")
  T.eq(twice, 2)
  T.ok(not out:find "\27", "no colours in a pipe")
  -- what a user has made stays
  out = child.shell([[echo 'help' | "$MOCL" -e 'help = "own" mocl = 1' -i]])
  T.ok(out:find("> help\nown\n", 1, true), out)
end)

T.test("errors: the argument's name, a module in place of a global, one line for what is mistyped", function()
  local _, err = typed("mocl.tensor.ones({2}):matmul(3)", "tensor.ones { 2 }", 'require "mocl.tensr"', "mocl.tensr", 'require "tensor"',
    "mocl.tensor.zeros(1)")
  for _, want in ipairs { "bad argument #1 to 'matmul' (mocl.tensor expected, got number)\nargument 1 is `b` of a:matmul(b) -> y\nstack traceback",
    "(global 'tensor')\ntensor is a module: tensor = mocl.tensor\n", "stdin:1: there is no module 'mocl.tensr'; near it: mocl.tensor\n",
    "stdin:1: module 'tensor' not found; there is 'mocl.tensor'\n", "argument 1 is `shape` of tensor.zeros(shape, options)" } do
    T.ok(err:find(want, 1, true), want .. " in:\n" .. err)
  end
  T.ok(not err:find("no file", 1, true), err)
  -- in a script too, where a module of one's own of such a name is still found
  local _, words, status = child.shell([["$MOCL" -e 'require "mocl.metric"']])
  T.ok(words:find("there is no module 'mocl.metric'; near it: mocl.metrics\n", 1, true), words)
  T.eq(status, 1)
  local out = child.shell([[mkdir -p own/mocl; echo 'return "mine"' > own/mocl/x.lua; LUA_PATH='own/?.lua;;' "$MOCL" -e 'print((require "mocl.x"))'; rm -r own]])
  T.eq(out, "mine\n")
  -- a module of another kind is not found in Lua's words
  _, words = child.shell([["$MOCL" -e 'require "nosuch"']])
  T.ok(words:find("no field package.preload['nosuch']", 1, true), words)
end)

T.test("on a terminal: banner, colours, NO_COLOR", function()
  local code = "seen '> ' 1; printf '{ a = \"x\" }\\n'; seen 'a.* = ' 2; printf 'error(\"bad\")\\n'; seen 'stack traceback' 1; printf '?gt\\n'; seen Elementwise 1"
  local out = child.terminal(code, nil, nil, "TERM=xterm")
  T.ok(out:find("?name explains", 1, true) and out:find('apropos "kl"', 1, true), out)
  T.ok(out:find('{ \27[36ma\27[0m = \27[32m"x"\27[0m }', 1, true), out)
  T.ok(out:find("\27[31mstdin:1: bad\27[0m", 1, true), out)
  T.ok(out:find("\27[1ma:eq(b)", 1, true), out)
  for _, environment in ipairs { "TERM=xterm NO_COLOR=1", "TERM=dumb" } do
    out = child.terminal(code, nil, nil, environment)
    T.ok(out:find('{ a = "x" }', 1, true) and not out:find("\27[3", 1, true) and not out:find("\27[1m", 1, true), environment .. ": " .. out)
  end
end)

-- (two signals within a tenth of a second count as one, hence the sleeps)
T.test("on a terminal: Ctrl-C ends a coroutine, an operation, and never the session", function()
  local out = child.terminal [[
  seen '^> ' 1; printf 'coroutine.wrap(function() print("be" .. "gin") while true do end end)()\n'; seen '^begin' 1; printf '\003'
  seen 'interrupted!' 1; printf 'x = mocl.tensor.randn({ 600, 600 }, { seed = 1 }) print("op" .. "s") while true do x:matmul(x) end\n'
  seen '^ops' 1; sleep 0.2; printf '\003'; seen 'interrupted!' 2
  printf 'for i = 1, 3 do\n'; seen '^>> ' 1; sleep 0.2; printf '\003'; seen '\^C' 3
  printf 'pcall(function() print("de" .. "ep") while true do end end) print("af" .. "ter")\n'; seen '^deep' 1; sleep 0.2; printf '\003'; seen 'after' 1
  printf '#x + 42\n'; seen '^642' 1]]
  T.ok(out:find("642", 1, true) and out:find("status 0\n", 1, true), out)
end)

T.test("on a terminal: a pasted block is one statement and one entry of the history", function()
  if not package.loadlib("libreadline.so.8", "*") then
    T.skip "no GNU readline"
  end
  local path = T.tmpdir() .. "/history"
  local out = child.terminal([[
  seen '> ' 1; printf '\033[200~local a = 20\nlocal b = 22\nprint("=" .. a + b)\033[201~\n'; seen '=42' 1
  printf 'for i = 1, 2 do\n'; seen '>> ' 1; printf 'print("=" .. i)\nend\n'; seen '=2' 1
  printf '\033[A\n'; seen '=2' 2]], path, nil, "TERM=xterm")
  T.ok(out:find("=42", 1, true), out)
  local text = child.read(path)
  T.ok(text:find("local a = 20\nlocal b = 22\n", 1, true), text)
  T.ok(text:find('for i = 1, 2 do\nprint("=" .. i)\nend\n', 1, true), text)
end)
