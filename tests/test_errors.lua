-- errors: whatever was raised, the user's file, line and frames are shown, error values arrive as they were raised, and
-- messages name the option, the name or the cure

local T = require "t"
local child = require "child"
local checkpoint = require "mocl.run.checkpoint"
local env = require "mocl.world"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local nn = require "mocl.nn"
local optim = require "mocl.optim.core"
local options = require "mocl.options"
local reward = require "mocl.lm.reward"
local Run = require "mocl.run"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local trainer = require "mocl.lm.supervised"
local transformer = require "mocl.lm.model"

local quote = child.quote

local function callable(f)
  return setmetatable({}, { __call = function(_, ...) return f(...) end })
end

-- ---- error values through the library ----

local function new_run()
  return Run.open { recipe = "errors", cfg = {}, out = T.tmpdir() .. "/run", quiet = true }
end

local WALK = { name = "walk", objectives = { "left", "right" }, actions = 2, states = 5, time_limit = 20,
  reset = function() return 2 end, step = function() return 2, { 0, 1 }, false end }

local function walk_with(key, f)
  local spec = {}
  for k, v in pairs(WALK) do
    spec[k] = v
  end
  spec[key] = f
  return env.new(spec)
end

-- Functions of the library that call a function of the caller's: each with the call of one that raises.
local CALLERS = {
  ["reward.call"] = function(f) reward.call(f, "x", { "p" }, { "a" }) end,
  ["reward.try"] = function(f) reward.try({ x = f }, { "x" }, { "p" }) end,
  ["finite.within"] = function(f) finite.within("here", "lower lr", f) end,
  ["checkpoint.write"] = function(f) checkpoint.write(T.tmpdir(), 1, f, {}) end,
  ["run:stage"] = function(f)
    local run <close> = new_run()
    run:stage("a", f)
  end,
  ["run:checkpoint in a stage"] = function(f)
    local run <close> = new_run()
    run:stage("a", function(stage) stage:checkpoint(1, f, {}) end)
  end,
  ["trainer:step"] = function(f)
    local t <close> = trainer.new { name = "t", parameters = { tensor.zeros({ 2 }):requires_grad_() }, rows = { 1, 2 }, steps = 3,
      batch_size = 1, lr = 0.1, seed = 1, purpose = "test", loss = f }
    t:step()
  end,
  ["tensor.no_grad"] = function(f) tensor.no_grad(f) end,
  ["model:generate"] = function(f) small.model():generate({ { 1, 2 }, { 3 } }, { max_new_tokens = 4, on_token = f }) end,
  ["safetensors.load"] = function(f)
    local path = T.tmpdir() .. "/x.safetensors"
    assert(safetensors.save(path, { x = tensor.ones { 2 } }))
    safetensors.load(path, { only = f })
  end,
  ["nn.Linear"] = function(f) nn.Linear(2, 2, { init = f, seed = 1 }) end,
  ["nn.Sequential"] = function(f) nn.Sequential(f)(tensor.ones { 2 }) end,
  ["env reset"] = function(f) env.batch(walk_with("reset", f), 2, { seed = 0 }):reset() end,
  ["env step"] = function(f)
    local copies = env.batch(walk_with("step", f), 2, { seed = 0 })
    copies:reset()
    copies:step { 0, 1 }
  end,
}

local function each_caller(f)
  local names = {}
  for name in pairs(CALLERS) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    f(name, CALLERS[name])
  end
end

T.test("error values arrive as they were raised", function()
  local values = { setmetatable({ code = 2 }, { __tostring = function() return "own" end }), {}, io.stdout, print, false, 7, 0.5,
    coroutine.create(print) }
  each_caller(function(name, call)
    for _, value in ipairs(values) do
      local ok, err = pcall(call, function() error(value) end)
      T.ok(not ok and rawequal(err, value), ("%s: %s became %s"):format(name, tostring(value), tostring(err)))
    end
    local result = table.pack(pcall(call, function() error(nil) end))
    T.eq({ result[1], result[2] }, { false }, name)
  end)
end)

T.test("a handler outside of the library sees the stack where the error was raised", function()
  each_caller(function(name, call)
    local function deep()
      error("deep down", 0)
    end
    local ok, trace = xpcall(call, debug.traceback, function() deep() end)
    T.ok(not ok and trace:find("deep down", 1, true), name)
    T.ok(trace:find("in upvalue 'deep'", 1, true), name .. ": " .. trace)
    local _, at = xpcall(call, function(e) return { e, debug.getinfo(2, "f").func, debug.getinfo(3, "f").func } end, function() deep() end)
    T.ok(at[1] == "deep down" and at[2] == error and at[3] == deep, name)
  end)
end)

T.test("words are added to a text and stay in front of its traceback", function()
  T.raises("^reward 'x': [^\n]*test_errors.lua:%d+: deep$", reward.call, function() error "deep" end, "x", { "p" }, { "a" })
  local _, trace = xpcall(reward.call, debug.traceback, function() error "deep" end, "x", { "p" }, { "a" })
  T.ok(trace:find "^reward 'x': [^\n]*test_errors.lua:%d+: deep\nstack traceback:\n", trace)
  T.raises("^here: the loss is not finite; lower lr$", finite.within, "here", "lower lr", function() error "the loss is not finite" end)
  T.raises("^x: interrupted!$", finite.within, "here", "lower lr", function() error("x: interrupted!", 0) end)
  local dir = T.tmpdir()
  T.raises("^no$", checkpoint.write, dir, 1, function() error("no", 0) end, {})
  T.eq(fs.list(dir), {}) -- nothing is left of it
end)

T.test("after an error in a stage the run goes on, also after one that a dead coroutine left open", function()
  local run <close> = new_run()
  T.raises("stage a: stage b is still open", run.stage, run, "b", function()
    run:stage("a", function() end)
  end)
  pcall(run.stage, run, "a", function() error {} end)
  T.eq(run:stage("a", function() return { x = 1 } end).x, 1)
  local co = coroutine.create(function() run:stage("c", function() error {} end) end)
  T.eq(coroutine.resume(co), false)
  T.eq(run:stage("d", function()
    coroutine.close(co)
    return { x = run.stage_name }
  end).x, "d")
end)

-- ---- what the program shows ----

-- Runs the script s.lua in a directory with these files; its standard error without the program's name, its status and
-- what it printed.
local function script(text, files, arguments)
  local dir = T.tmpdir()
  for name, content in pairs(files or {}) do
    assert(fs.write(dir .. "/" .. name, content))
  end
  assert(fs.write(dir .. "/s.lua", text))
  local out, err, status = child.shell(("P=$(realpath \"$MOCL\"); cd %s; \"$P\" %s"):format(quote(dir), arguments or "s.lua"))
  return err:gsub("^[^\n]-mocl: ", ""), status, out
end

local function shows(text, wanted, files, arguments)
  local err, status = script(text, files, arguments)
  for _, part in ipairs(wanted) do
    T.ok(err:find(part, 1, true), ("no %s in:\n%s"):format(T.show(part), err))
  end
  T.eq(status, 1)
  return err
end

local FRAMES = [[
local function three() RAISE end
local function two() three() return 1 end
local function one() two() return 1 end
]]

T.test("an uncaught error of any type is shown with the frames of the script", function()
  local frames = { "\nstack traceback:\n", "s.lua:1: in upvalue 'three'\n", "s.lua:2: in upvalue 'two'\n", "s.lua:4: in main chunk" }
  for raise, first in pairs {
    ["error { code = 2 }"] = "(error object is a table value): code = 2\n",
    ["error { code = 'E', message = 'disk full', other = 1 }"] = "(error object is a table value): code = \"E\", message = \"disk full\"\n",
    ["error { message = ('x'):rep(300) }"] = "(error object is a table value): message = \"" .. ("x"):rep(200) .. "...\"\n",
    ["error { code = {} }"] = "(error object is a table value)\n",
    ["error(setmetatable({}, { __index = error }))"] = "(error object is a table value)\n",
    ["error(setmetatable({}, { __tostring = function() return 'own words' end }))"] = "own words\n",
    ["error(setmetatable({}, { __tostring = function() error 'worse' end }))"] = "s.lua:1: worse\n",
    ["error(setmetatable({}, { __tostring = function() return {} end }))"] = "(error object is a table value)\n",
    ["error(setmetatable({}, { __tostring = 7, __name = 'x' }))"] = "attempt to call a number value\n",
    ["error(nil)"] = "(error object is a nil value)\n",
    ["error(false)"] = "(error object is a boolean value)\n",
    ["error(2)"] = "2\n",
    ["error(print)"] = "(error object is a function value)\n",
    ["error(io.stdout)"] = "file (0x",
    ["error 'text'"] = "s.lua:1: text\n",
    ["table.sort { 1, 'x' }"] = "attempt to compare string with number\n", -- Lua raises it in a C function: without a place
    ["dofile 'nowhere.lua'"] = "cannot open nowhere.lua",
  } do
    local err = shows(FRAMES:gsub("RAISE", (raise:gsub("%%", "%%%%"))) .. "one()", frames)
    T.eq(err:sub(1, #first), first, raise)
  end
  -- one that raises itself again goes through the handler until the C stack ends, as in lua
  T.eq((script "error(setmetatable({}, { __tostring = error }))"):match "^[^\n]*", "C stack overflow")
  -- what is complete says no more
  T.eq((script 'error("out=: choose another", 0)'), "out=: choose another\n")
  T.eq((script('require "lib"', { ["lib.lua"] = 'error("x.json:3: is not a list", 0)' })):match "^[^\n]*", "x.json:3: is not a list")
end)

T.test("one traceback, however often words were added", function()
  local err = shows([[
    local reward = require "mocl.lm.reward"
    local run <close> = require "mocl.run".open { recipe = "r", cfg = {}, out = "run", quiet = true }
    run:stage("a", function()
      reward.try({ x = function() error { code = 3 } end }, { "x" }, { "p" })
    end)]], { "reward 'x': (error object is a table value): code = 3\nfound by calling it on two answers", "s.lua:4: in local 'f'",
    "s.lua:3: in main chunk" })
  T.eq(select(2, err:gsub("stack traceback", "")), 1, err)
end)

T.test("a stripped chunk", function()
  local make = 'local f = assert(io.open("s.bin", "wb")) f:write(string.dump(load(%q, "=s"), true)) f:close()'
  for _, raise in ipairs { 'error "bad"', "local t = nil; t.x = 1", 'error("bad", 0)' } do
    shows(make:format(("local function f() %s end f()"):format(raise)), { "\nstack traceback:\n", "?: in main chunk" }, nil,
      's.lua && "$P" s.bin')
  end
end)

T.test("a coroutine's frames, with wrap and with resume, one in another", function()
  local body = 'local function deep() %s end\nlocal function body() deep() return 1 end\n'
  for _, raise in ipairs { "error 'bad'", "error { code = 3 }", "error()", "local t = nil; t.x = 1" } do
    for _, resume in ipairs {
      "coroutine.wrap(body)()", "assert(coroutine.resume(coroutine.create(body)))",
      "local ok, e = coroutine.resume(coroutine.create(body)) error(e, 0)",
      "coroutine.wrap(function() coroutine.wrap(body)() return 1 end)()",
      "local ok, e = pcall(coroutine.wrap(body)) error(e, 0)",
    } do
      if not (raise == "error()" and resume:find "assert") then -- assert has a message of its own then
        shows(body:format(raise) .. resume, { "s.lua:1: in upvalue 'deep'\n\ts.lua:2: in function", "\n\t(a coroutine, resumed by)\n",
          "s.lua:3: in main chunk" })
      end
    end
  end
  local err = shows([[
    pcall(coroutine.wrap(function() error "first" end))
    local function other() error "second" end
    other()]], { "s.lua:2: in local 'other'" })
  T.ok(not err:find("coroutine", 1, true), err)
  -- what died is not kept alive
  T.eq((select(3, script [[
    local tensor = require "mocl.tensor"
    local function die() local t = tensor.ones { 2 } error { t } end
    coroutine.resume(coroutine.create(die))
    pcall(coroutine.wrap(die))
    collectgarbage() collectgarbage()
    print(tensor.memory().tensors)]])), "0\n")
end)

T.test("an interruption in a C function names the line", function()
  for _, loop in ipairs { "while true do local s = table.concat(t) end", "while true do string.rep('x', 1e6) end",
    "table.sort(t, function() while true do end end)" } do
    local path = T.tmpdir() .. "/s.lua"
    assert(fs.write(path, ("local t = {}\nfor i = 1, 1e5 do t[i] = 'xxxxxxxx' end\nlocal function work()\n%s\nend\n"):format(loop)
      .. "print 'ready' io.stdout:flush()\nwork()"))
    local log, status = child.interrupted({ path }, "ready")
    T.ok(log:find("s.lua:4: interrupted!\nstack traceback:\n", 1, true) and log:find("s.lua:7: in main chunk", 1, true), log)
    T.eq(status, 130)
  end
end)

T.test("interactive mode, -e, -l and a warning of a finalizer", function()
  local _, err = child.shell([[printf 'function f() error { code = 2 } end\nf()\n' | "$MOCL" -i >/dev/null]])
  T.ok(err:find("(error object is a table value): code = 2\nstack traceback:\n", 1, true) and err:find("stdin:1: in function 'f'", 1, true), err)
  shows("", { "(error object is a table value): code = 5\nstack traceback:\n", "(command line):1: in main chunk" }, nil, '-e "error { code = 5 }"')
  shows("", { "(error object is a table value): code = 6\nstack traceback:\n", "./lib.lua:1: in main chunk" }, { ["lib.lua"] = "error { code = 6 }" },
    "-l lib")
  local _, text = child.shell([["$MOCL" -W -e 'setmetatable({}, { __gc = function() error "in gc" end })']])
  T.eq(text, "Lua warning: error in __gc ((command line):1: in gc)\n")
end)

-- a rewards file and what moc_hh shows of it
T.test("a reward's error has the frames of its file, whatever it raises", function()
  local recipe = quote(fs.realpath "recipes/moc_hh.lua")
  local function told(source, wanted)
    return shows("", wanted, { ["r.lua"] = source }, recipe .. " preset=smoke out=run rewards=r.lua objectives=brief")
  end
  for raise, first in pairs {
    ["error { code = 2 }"] = "reward 'brief': (error object is a table value): code = 2\nfound by calling it",
    ["error 'deep'"] = "reward 'brief': r.lua:1: deep\nfound by calling it",
    ["error('deep', 0)"] = "reward 'brief': deep\nfound by calling it",
    ["local t = nil; t.x = 1"] = "reward 'brief': r.lua:1: attempt to index a nil value",
  } do
    local err = told(FRAMES:gsub("RAISE", raise) .. "return { brief = function() one() return {} end }", { first, "r.lua:1: in upvalue 'three'",
      "r.lua:2: in upvalue 'two'", "r.lua:4: in " })
    T.eq(select(2, err:gsub("stack traceback", "")), 1, err)
  end
  -- the file itself
  told(FRAMES:gsub("RAISE", "error { code = 2 }") .. "one()", { "rewards: r.lua: (error object is a table value): code = 2\nstack traceback:\n",
    "r.lua:1: in upvalue 'three'", "r.lua:4: in main chunk", "moc_hh.lua:" })
  -- a mistake in what it returns has no place in the code
  local err = told("return { brief = function() return { '7', '8' } end }", { "reward 'brief' returned the string \"7\" for answer 1" })
  T.ok(not err:find("traceback", 1, true), err)
end)

-- ---- messages ----

T.test("options that are wrong are named", function()
  local m, x, w = small.model(), tensor.zeros { 2, 4 }, tensor.zeros { 3, 4 }
  local p = { tensor.zeros({ 2 }):requires_grad_() }
  for _, case in ipairs {
    { "bad option 'on_token' %(function expected, got number%)", m.generate, m, { { 1 } }, { on_token = 5 } },
    { "bad option 'on_token' %(function expected, got table%)", m.generate, m, { { 1 } }, { on_token = {} } },
    { "bad option 'betas' %(table expected, got number%)", optim.adamw, p, { betas = 1 } },
    { "bad option 'betas' %(two numbers expected, number 1 is a string%)", optim.adamw, p, { betas = { "x", 0.9 } } },
    { "bad option 'betas' %(two numbers expected, number 2 is a nil%)", optim.adamw, p, { betas = { 0.9 } } },
    { "bad option 'target_modules' %(table expected, got string%)", m.add_lora, m, { target_modules = "q_proj" } },
    { "target_modules: entry 2 is a boolean, not a name", m.add_lora, m, { target_modules = { "q_proj", true } } },
    { "bad option 'layers_to_transform' %(table expected, got number%)", m.add_lora, m, { layers_to_transform = 0 } },
    { "bad option 'modules' %(table expected, got string%)", m.add_lora, m, { modules = "all" } },
    { "modules: 'model.layers.0.self_attn.q_proj' is a number, not a table", m.add_lora, m,
      { modules = { ["model.layers.0.self_attn.q_proj"] = 4 } } },
    { "bad option 'hidden_ref' %(tensor expected, got number%)", nn.lm_head, x, w, { 1, 2 }, { hidden_ref = 3 } },
    { "bad option 'only' %(function expected, got string%)", safetensors.load, "x", { only = "w" } },
    { "bad argument #2 to [^\n]*entry 2 is a number, not a name", require("mocl.lora.core").find_names, "x", { "a", 2 } },
  } do
    T.raises(case[1], table.unpack(case, 2))
  end
  local gone = tensor.zeros { 2, 4 }
  gone:release()
  T.raises("bad option 'hidden_ref' %(tensor was released%)", nn.lm_head, x, w, { 1, 2 }, { hidden_ref = gone })
end)

T.test("objects with __call are taken where functions are", function()
  T.eq({ options.callable(print), options.callable(callable(print)), options.callable {}, options.callable "x", options.callable(nil) },
    { true, true, false, false, false })
  local hidden = setmetatable({}, { __call = function() return { 1 } end, __metatable = false })
  T.eq(reward.call(hidden, "x", { "p" }, { "a" }), { 1 })
  local path = T.tmpdir() .. "/r.lua"
  assert(fs.write(path, "return { x = setmetatable({}, { __call = function() return { 1 } end, __metatable = false }) }"))
  T.eq(reward.call(assert(reward.functions(path)).x, "x", { "p" }, { "a" }), { 1 })
  -- on_token: each token, in order, and a row that it ends
  local m, seen = small.model(), {}
  local made = m:generate({ { 1, 2 }, { 3 } }, { max_new_tokens = 4, key = 3, on_token = callable(function(row, id)
    seen[#seen + 1] = { row, id }
    return row == 2 and #seen > 2
  end) })
  T.eq({ #made.tokens[1], #made.tokens[2], made.finished }, { 4, 2, { false, true } })
  T.eq(seen, { { 1, made.tokens[1][1] }, { 2, made.tokens[2][1] }, { 1, made.tokens[1][2] }, { 2, made.tokens[2][2] },
    { 1, made.tokens[1][3] }, { 1, made.tokens[1][4] } })
  T.eq(m:generate({ { 1, 2 } }, { max_new_tokens = 4, key = 3, on_token = function() end }).tokens,
    m:generate({ { 1, 2 } }, { max_new_tokens = 4, key = 3 }).tokens)
  local file = T.tmpdir() .. "/x.safetensors"
  assert(safetensors.save(file, { x = tensor.ones { 2 }, y = tensor.ones { 2 } }))
  local loaded = safetensors.load(file, { only = callable(function(name) return name == "x" end) })
  T.ok(loaded.x and not loaded.y)
  T.eq(nn.Linear(1, 1, { bias = false, seed = 1, init = callable(function(shape) return tensor.full(shape, 3) end) }).weight:item(), 3)
  local two = nn.Sequential(callable(function(x) return x + 1 end), nn.Linear(1, 1, { seed = 1, init = "zeros" }))
  T.eq({ two(tensor.ones { 1, 1 }):item(), #two:parameters() }, { 0, 2 })
  local copies = env.batch(walk_with("step", callable(WALK.step)), 1, { seed = 0 })
  copies:reset()
  copies:step { 0 }
  T.raises("step is a function, got table", walk_with, "step", {})
end)

-- the command of a stock Lua that finds mocl.so, or none
local function stock()
  local module = arg[-1]:gsub("mocl$", "mocl.so")
  local f = io.open(module, "rb")
  local binary = f and f:read "a" or "__asan_init"
  if f then
    f:close()
  end
  if binary:find("__asan_init", 1, true) or not os.execute "command -v lua5.4 >/dev/null 2>&1" then
    return nil
  end
  return ("env LUA_PATH= LUA_CPATH=%s/?.so lua5.4"):format(quote(module:match "^(.*)/" or "."))
end

T.test("a finalizer that runs after the context was closed is told so", function()
  -- what is made before mocl is opened is finalized after it was closed
  local code = [[
    warn "@on"
    local t
    for i = 1, 3 do
      keep = { keep, setmetatable({}, { __gc = function()
        if i == 1 then require "mocl.tensor".zeros { 3 }
        elseif i == 2 then local s = t + t
        else require "mocl.rng".new(1, "x") end
      end }) }
    end
    t = require "mocl.tensor".ones { 2 }]]
  local lua = stock()
  if not lua then
    T.skip "no mocl.so beside the program, or no lua5.4"
  end
  local path = T.tmpdir() .. "/s.lua"
  assert(fs.write(path, code))
  local out, err, status = child.shell(("%s %s"):format(lua, path))
  T.eq({ out, status }, { "", 0 })
  T.ok(err:find("(" .. path .. ":5: mocl is closed: this state is ending)", 1, true), err)
  T.ok(err:find(path .. ":6: ", 1, true), err)
  T.ok(not err:find("require 'mocl'", 1, true), err)
  -- in the program it is opened before any script runs, so that finalizers find it open
  out, err, status = child.mocl { "-W", path }
  T.eq({ out, status }, { "", 0 })
  T.ok(err:find("s.lua:6: bad argument #1 to 'add' (tensor was released)", 1, true) and not err:find("s.lua:5", 1, true), err)
end)

T.test("a stock Lua sees the frames too", function()
  local lua = stock()
  if not lua then
    T.skip "no mocl.so beside the program, or no lua5.4"
  end
  local path = T.tmpdir() .. "/s.lua"
  assert(fs.write(path, [[
    local function deep() error "bad" end
    require("mocl.lm.reward").call(function() deep() end, "x", { "p" }, { "a" })]]))
  local _, err = child.shell(("%s %s"):format(lua, path))
  T.ok(err:find("reward 'x': " .. path .. ":1: bad\nstack traceback:\n", 1, true) and err:find(path .. ":1: in upvalue 'deep'", 1, true), err)
end)
