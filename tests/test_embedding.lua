-- the programs of examples/ that have mocl inside, and the modules that a sandbox has; tests/c/test_embed.c has the rest

local T = require "t"
local child = require "child"

local mocl = arg[-1]
local build = mocl:find "build/" and mocl:match "^(.*)/" or (mocl:match "^(.*)/" or ".") .. "/build"

local function run(name, ...)
  local path = build .. "/examples/" .. name
  local f = io.open(path)
  if not f then
    T.skip("no " .. path .. ": make programs")
  end
  f:close()
  local words = { child.quote(path) }
  for i, a in ipairs { ... } do
    words[i + 1] = child.quote(a)
  end
  return child.shell(table.concat(words, " "))
end

T.test("minimal.c", function()
  local out, err, status = run "minimal"
  T.eq({ out, err, status }, { "weight 0.10\n", "", 0 })
end)

T.test("reward.c: a run whose rewards are the host's", function()
  local dir = T.tmpdir()
  local out, err, status = run("reward", dir)
  T.eq(status, 0, err)
  T.ok(out:find("preference  +reward brief +reward calm") or out:find("brief", 1, true), out)
  local answers, calls, same, same_calls = out:match "\nbrief scored (%d+) answers in (%d+) calls, calm (%d+) in (%d+)\n$"
  T.ok(tonumber(answers) > 100 and tonumber(calls) > 5, out)
  T.eq({ same, same_calls }, { answers, calls })
  T.ok(io.open(dir .. "/run/report.html"), "the run's report")
end)

T.test("sandbox.c: what scripts of strangers get", function()
  local out, err, status = run "sandbox"
  T.eq({ err, status }, { "", 0 })
  T.eq(out, [[
script says: -0.05
a reward: done
script says: 6.0
tensors: done
a file: failed
  script:1: attempt to index a nil value (global 'io')
a module that opens files: failed
  script:1: the module 'mocl.fs' is not among the libraries of this context
bytecode: failed
  script:1: attempt to load a binary chunk (mode is 't')
the process: exited
  script:1: os.exit with status 7 has ended the script
a loop that catches all errors: limited
  script:1: stopped: the limit of 10000000 instructions is reached
all the memory: limited
  script:1: stopped: the limit of 67108864 bytes is reached, and 1000000 more were wanted
half of 120: 60
]])
end)

T.test("embed.cpp", function()
  local out, err, status = run "embed_cpp"
  T.eq({ out, err, status }, { "weight 0.5\nweight 0.5\ncaught: script:1: the function of the host has failed\n", "", 0 })
end)

-- the list in lua/sandbox.c
local function maths()
  local list = {}
  for name in child.read("lua/sandbox.c"):match("maths%[%] = (%b{})"):gmatch '"(mocl[%w._]*)"' do
    list[#list + 1] = name
  end
  return list
end

T.test("each module of a sandbox loads there, and reaches nothing outside", function()
  local path = T.tmpdir() .. "/all.lua"
  local list = maths()
  T.ok(#list > 20)
  local f = assert(io.open(path, "w"))
  for _, name in ipairs(list) do
    f:write(("assert(require %q, %q)\n"):format(name, name))
  end
  -- whatever can be reached from the globals by plain fields
  f:write [[
local seen, bad = {}, { open = 1, popen = 1, execute = 1, getenv = 1, remove = 1, rename = 1, tmpname = 1, save = 1, load = 1, write = 1,
  read = 1, lines = 1, dump = 1, loadlib = 1, searchers = 1, gethook = 1, sethook = 1, getinfo = 1, getregistry = 1 }
local function walk(t, name)
  if seen[t] then return end
  seen[t] = true
  for k, v in next, t do
    local full = name .. "." .. tostring(k)
    if bad[k] and full ~= "_G.load" and full ~= "_G.table.remove" then error("reached " .. full, 0) end
    if type(v) == "table" then walk(v, full) end
    local m = getmetatable(v)
    if type(m) == "table" then walk(m, full .. ":metatable") end
  end
end
walk(_G, "_G")
]]
  for _, name in ipairs(list) do
    f:write(("walk({ require %q }, %q)\n"):format(name, name))
  end
  f:close()
  local out, err, status = run("sandbox", path)
  T.eq({ err, status }, { "", 0 }, out)
end)

T.test("every function of mocl.h has a line in docs/embedding.md", function()
  local page, n = child.read "docs/embedding.md", 0
  for name in child.read("runtime/mocl.h"):gmatch "\nMOCL_API [^;()]-([%w_]+)%(" do
    n = n + 1
    T.ok(page:find(name, 1, true), name)
  end
  T.ok(n > 15, n)
end)
