-- one mocl.so in several threads of a process, each with a state of its own, and what is handed from one to another:
-- with luv and cqueues, where they are installed for this Lua

local T = require "t"
local child = require "child"

local program = arg[-1]
local library = (program:match "^(.*)/[^/]*$" or ".") .. "/mocl.so"

-- the programs that can load it: the one under test, and a stock Lua where the library has no sanitizer
local function hosts()
  local f = io.open(library, "rb")
  if not f then
    T.skip("no " .. library)
  end
  local sanitized = f:read "a":find "__[at]san_init"
  f:close()
  return sanitized and { '"$MOCL"' } or { '"$MOCL"', "lua5.4" }
end

-- Runs a script that needs the module `needs` in each host, with `pool` threads in luv's pool; what it prints.
local function run(needs, source, pool)
  local results = {}
  local file = T.tmpdir() .. "/x.lua"
  local f = assert(io.open(file, "w"))
  f:write(source)
  f:close()
  for _, host in ipairs(hosts()) do
    local _, _, status = child.shell(("%s -e %s"):format(host, child.quote(("require %q"):format(needs))))
    if status ~= 0 then
      T.skip("no " .. needs .. " for this Lua, or no lua5.4")
    end
    local out, err, code = child.shell(("LUA_CPATH='%s/?.so;;' UV_THREADPOOL_SIZE=%d timeout 120 %s %s"):format(
      library:match "^(.*)/", pool or 4, host, child.quote(file)))
    T.eq(code, 0, err)
    results[#results + 1] = out
  end
  return results
end

-- what each thread does: the module that it requires first differs
local task = [==[
local code = [[
  local first = ...
  require(first)
  local T = require "mocl.tensor"
  local scope <close> = T.scope()
  local a = T.randn({ 64, 64 }, { seed = 1 })
  return ("%.6g"):format((a:matmul(a):softmax():sum() + a:exp():mean()):item())
]]
local firsts = { "mocl.tensor", "mocl.nn", "mocl.lm.model", "mocl.tensor" }
]==]

local function all_same(out, n)
  local seen, lines = nil, 0
  for line in out:gmatch "[^\n]+" do
    seen = seen or line
    T.eq(line, seen)
    T.ok(tonumber(line), line)
    lines = lines + 1
  end
  T.eq(lines, n, out)
end

T.test("luv: threads and work of the pool require a module first, several at once", function()
  local source = task .. [[
    local uv = require "luv"
    local threads = {}
    for i, first in ipairs(firsts) do -- small functions: luv 1.44 reads larger ones after it freed them
      threads[i] = uv.new_thread(function(text, name)
        io.write(tostring(select(2, pcall(load(text), name))) .. "\n")
      end, code, first)
    end
    for _, thread in ipairs(threads) do
      thread:join()
    end
    local work = uv.new_work(function(text, name)
      return tostring(select(2, pcall(load(text), name)))
    end, print)
    for _, first in ipairs(firsts) do
      work:queue(code, first)
    end
    uv.run()]]
  for _, out in ipairs(run("luv", source)) do
    all_same(out, 8)
  end
end)

T.test("cqueues: threads require a module first, several at once", function()
  local source = task .. [[
    local thread = require "cqueues.thread"
    local sockets = {}
    for i, first in ipairs(firsts) do
      local _, socket = thread.start(function(con, text, name)
        con:write(tostring(select(2, pcall(load(text), name))), "\n")
      end, code, first)
      sockets[i] = socket
    end
    for _, socket in ipairs(sockets) do
      print(socket:read "*l")
    end]]
  for _, out in ipairs(run("cqueues", source)) do
    all_same(out, 4)
  end
end)

T.test("luv: the bytes of an object in another state, and back, are none: functions refuse them, the collector leaves them", function()
  local source = [==[
    local uv = require "luv"
    local T, rng = require "mocl.tensor", require "mocl.rng"
    local core = require "mocl.transformer.core"
    local model = core.new({ vocab_size = 8, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2,
      intermediate_size = 8 }, { key = 1 })
    local tokenizer = require("mocl.tokenizer").train({ "ab" }, { vocab_size = 258 })
    local w = T.ones({ 3 }, { requires_grad = true })
    local optimiser = require("mocl.optim.core").sgd({ w }, {})
    local code = [[
      local x, what = ...
      local T, optim = require "mocl.tensor", require "mocl.optim.core"
      require "mocl.transformer.core"
      require "mocl.tokenizer"
      require "mocl.rng"
      if not x then
        return "ready"
      end
      local lines = {}
      local function note(f, ...)
        local ok, message = pcall(f, ...)
        lines[#lines + 1] = tostring(not ok and message:find("copy of the bytes", 1, true) ~= nil)
      end
      if what == "tensor" then
        for _, f in ipairs { T.sum, T.add, T.neg, x.exp } do
          note(f, x, x)
        end
        note(T.cat, { x, x })
        note(T.index_select, T.ones { 3 }, x)
        note(optim.sgd, { x })
        note(function() return x.shape end)
        note(function() return #x end)
        note(function() return x + 1 end)
        lines[#lines + 1] = tostring(T.is_tensor(x)) .. " " .. tostring(x)
      elseif what == "scope" then
        note(x.keep, x, T.ones { 1 })
        note(x.close, x)
      elseif what == "model" then
        note(x.config, x)
        note(x.generate, x, { { 1 } })
      elseif what == "tokenizer" then
        note(x.encode, x, "a")
        lines[#lines + 1] = tostring(x)
      elseif what == "stream" then
        note(x.push, x, 1)
      elseif what == "optimiser" then
        note(x.step, x)
      elseif what == "rng" then
        note(x.uniform, x)
      end
      if x.release then
        x:release()
      end
      local result = x
      x = nil
      collectgarbage()
      return what .. ": " .. table.concat(lines, " "), result
    ]]
    local back = {}
    local work = uv.new_work(function(text, ...)
      return load(text)(...)
    end, function(line, copy)
      print(line)
      back[#back + 1] = copy
    end)
    local function run(...)
      work:queue(code, ...)
      uv.run()
    end
    run()
    local scope = T.scope()
    local t = T.ones { 3 }
    run(t, "tensor")
    print(type(back[1]), pcall(T.sum, back[1]) and "taken" or "refused")
    run(scope, "scope")
    run(model, "model")
    run(tokenizer, "tokenizer")
    run(tokenizer:decode_stream(), "stream")
    run(optimiser, "optimiser")
    run(rng.new(1, "x"), "rng")
    back = nil
    collectgarbage()
    collectgarbage()
    print(t:sum():item(), model:config().vocab_size, #tokenizer, optimiser:steps())
    scope:close()]==]
  local want = [[
ready
tensor: true true true true true true true true true true false tensor (a copy of bytes)
userdata	refused
scope: true true
model: true true
tokenizer: true tokenizer (a copy of bytes)
stream: true
optimiser: true
rng: true
3.0	8	258	0
]]
  for _, out in ipairs(run("luv", source, 1)) do
    T.eq(out, want)
  end
end)
