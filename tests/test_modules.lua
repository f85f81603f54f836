-- modules: each required alone and first, in mocl and in a stock Lua, and what makes tensors makes whole ones

local T = require "t"
local child = require "child"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local quote = child.quote

-- every module of the program, in order
local function names()
  local list = {}
  for name in pairs(package.preload) do
    list[#list + 1] = name
  end
  table.sort(list)
  T.ok(#list > 60, #list)
  return list
end

-- The command of a stock Lua that finds mocl.so and nothing else; skips where there is none.
local function stock()
  local module = arg[-1]:gsub("mocl$", "mocl.so")
  local f = io.open(module, "rb")
  if not f or not os.execute "command -v lua5.4 >/dev/null 2>&1" then
    T.skip "no mocl.so beside the program, or no lua5.4"
  end
  local binary = f:read "a"
  f:close()
  if binary:find("__asan_init", 1, true) then
    T.skip "a library with the address sanitizer cannot be loaded by lua5.4"
  end
  return ("env LUA_PATH= LUA_CPATH=%s/?.so lua5.4"):format(quote(module:match "^(.*)/" or "."))
end

-- A process for each module that requires it alone; what went wrong.
local function alone(program)
  return (child.shell(([[for m in %s; do %s -e "assert(type(require '$m') == 'table')" 2>&1 || echo "$m failed"; done]])
    :format(table.concat(names(), " "), program)))
end

-- Code that makes a tensor with one module alone; "tensor" is what it must be and what it must be freed as.
local function makers()
  local dir = T.tmpdir()
  assert(safetensors.save(dir .. "/x.safetensors", { x = tensor.ones { 3 } }))
  assert(transformer.save(small.model(), dir .. "/model", {}))
  return {
    ["mocl.safetensors"] = ("m.load(%q).x"):format(dir .. "/x.safetensors"),
    ["mocl.tensor"] = "m.ones { 3 }",
    ["mocl.transformer.core"] = "m.new { vocab_size = 5, hidden_size = 4, num_hidden_layers = 1, num_attention_heads = 1, "
      .. "intermediate_size = 4, max_position_embeddings = 8 }:head()",
    ["mocl.lm.model"] = ("m.load(%q):head()"):format(dir .. "/model"),
    ["mocl.nn"] = "m.Linear(2, 3, { seed = 1 }):parameters()[1]",
  }
end

local function whole_tensors(program)
  for name, code in pairs(makers()) do
    local out, err = child.shell(("%s -e %s"):format(program, quote(([[
      local m = require %q
      local t = %s
      local kind = tostring(t):match "^%%a+"
      t = nil
      collectgarbage() collectgarbage()
      print(kind, require "mocl.tensor".ones { 2 }:sum():item())]]):format(name, code))))
    T.eq(out, "tensor\t2.0\n", name .. ": " .. err)
  end
  -- twenty loads of which one is kept at a time
  local path = T.tmpdir() .. "/x.safetensors"
  assert(safetensors.save(path, { x = tensor.ones { 1024 } }))
  local out, err = child.shell(("%s -e %s"):format(program, quote(([[
    local safetensors = require "mocl.safetensors"
    for _ = 1, 20 do safetensors.load(%q) end
    collectgarbage() collectgarbage()
    print(require "mocl.tensor".memory().tensors)]]):format(path))))
  T.eq(out, "0\n", err)
end

T.test("each module can be required alone", function()
  T.eq(alone '"$MOCL"', "")
end)

T.test("each module can be required alone, first, in a stock lua5.4", function()
  T.eq(alone(stock()), "")
end)

T.test("a module that makes tensors, required alone, makes tensors that are freed", function()
  whole_tensors '"$MOCL"'
end)

T.test("a module that makes tensors, required alone in a stock lua5.4", function()
  whole_tensors(stock())
end)

T.test("every C module that makes tensors opens their class", function()
  local files = assert(io.popen "ls lua/l*.c")
  local n = 0
  for path in files:lines() do
    local text = child.read(path)
    if path ~= "lua/ltensor.c" and text:find("moclL_pushtensor", 1, true) and text:find("int moclL_open_", 1, true) then
      n = n + 1
      T.ok(text:find("moclL_opentensors(", 1, true), path)
    end
  end
  files:close()
  T.ok(n >= 4, n)
end)

-- For each name of an earlier version and the one it has now, a line of what require says to the old one.
local function old_names(program)
  local pairs_of, script = {}, T.tmpdir() .. "/old.lua"
  for was, now in child.read("lua/moved.h"):gmatch 'X%("([%w_.]+)", "([%w_.]+)"%)' do
    pairs_of[#pairs_of + 1] = { was = was, now = now }
  end
  T.ok(#pairs_of > 60, #pairs_of)
  for _, p in ipairs(pairs_of) do
    local f = assert(io.open(script, "w"))
    f:write(("local m = require %q\nprint(m)\n"):format(p.was))
    f:close()
    local out, err, status = child.shell(("%s %s"):format(program, quote(script)))
    T.eq({ out, status }, { "", 1 })
    T.ok(err:find(("%s:1: the module %s is called %s now\n"):format(script, p.was, p.now), 1, true), err)
    T.ok(package.preload[p.now] and not package.preload[p.was], p.now)
  end
end

T.test("a recipe of the earlier layout is told what its modules are called now", function()
  old_names '"$MOCL"'
end)

T.test("so is one in a stock lua5.4, also by the first require", function()
  old_names(stock())
end)

T.test("a module that a program has put in place of an old name stays", function()
  local out, err = child.shell [["$MOCL" -e 'package.preload["mocl.control"] = function() return "own" end print((require "mocl.control"))']]
  T.eq(out, "own\n", err)
end)

T.test("a room without a module is a table of its modules", function()
  local mocl = require "mocl"
  T.ok(mocl.lm.model == transformer and mocl.lm == mocl.lm)
  T.ok(mocl.run == require "mocl.run" and mocl.run.digest == nil, "a room with a module is that module")
  T.raises("there is no module 'mocl.lm.no_such'", function() return mocl.lm.no_such end)
  T.raises("test_modules.lua:%d+: the module mocl.transformer is called mocl.lm.model now", function() return mocl.transformer end)
end)

T.test("a stock lua5.4 has all of mocl, whatever it required first", function()
  local out, err = child.shell(stock() .. " -e " .. quote [[
local nn = require "mocl.nn"
local mocl = require "mocl"
print(mocl._VERSION, mocl == package.loaded.mocl, mocl.nn == nn, mocl.sys.on_interrupt("flag"), mocl.sys.interrupted())
package.preload["mocl.report.svg_front"] = function() return "own" end -- stays, whatever is opened later
require "mocl.fs"
print(require "mocl.report.svg_front")]])
  T.eq(out, require("mocl")._VERSION .. "\ttrue\ttrue\traise\tnil\nown\t:preload:\n", err)
  -- the first example needs no change there
  out, err = child.shell(stock() .. " examples/01_tensor.lua")
  T.eq(out, (child.shell '"$MOCL" examples/01_tensor.lua'), err)
end)
