--- lua_suite.lua DIR [PROGRAM [LUA]] - Lua's own tests, file by file, and all of them as all.lua runs them.
-- DIR: the folder testes/ of the repository lua/lua, or that repository. PROGRAM: mocl (default: the one that runs
-- this). LUA: the stock interpreter of the same library (default lua5.4): where a file of another version's suite fails
-- in it too, at the same place, the library is what differs. Works on a copy of DIR; builds the C libraries of the
-- tests where there are a compiler and Lua's headers. The last line counts the files; exit status 1 if one failed.

local fs = require "mocl.fs"

local dir, program, stock = arg[1], arg[2] or arg[-1], arg[3] or os.getenv "LUA" or "lua5.4"
assert(dir, "usage: mocl tests/lua_suite.lua DIR [PROGRAM [LUA]]")

local function quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

local function output(command)
  local p = assert(io.popen(command))
  local text = p:read "a"
  p:close()
  return text
end

local function absolute(path)
  return path:find "/" and output("realpath -- " .. quote(path)):gsub("\n$", "") or path
end

if not fs.read(dir .. "/main.lua") then
  dir = dir .. "/testes"
end
if not fs.read(dir .. "/main.lua") then
  io.stderr:write(("lua_suite: %s has no main.lua: it is to be the folder testes/ of Lua's repository, or that repository\n"):format(dir))
  os.exit(1)
end
program = absolute(program)
local work = output "mktemp -d":gsub("\n$", "")
local log = work .. "/log"
assert(os.execute(("cp -r %s/. %s/testes"):format(quote(dir), quote(work))))
local headers = output "pkg-config --cflags-only-I lua5.4 2>/dev/null":match "%-I(%S+)" or "/usr/include"
local has_libraries = os.execute(("make -s -C %s/testes/libs CC='%s' LUA_DIR=%s >%s 2>&1"):format(quote(work), os.getenv "CC" or "cc",
  quote(headers), quote(log)))

-- all.lua runs big.lua as a coroutine. A few tests look at a standard input in which nobody can seek.
local OPTIONS = {
  ["big.lua"] = [[-e 'local f = coroutine.wrap(assert(loadfile "big.lua")) assert(f() == "b" and f() == "a")']],
}
local NO_TEST = { ["heavy.lua"] = "takes all memory", ["tracegc.lua"] = "a module of the others" }
-- main.lua sends signals to a program that may not be there yet: lua itself fails it now and then
local TRIES = 4

-- Runs a file; returns whether it passed, what it wrote, and the place where it failed.
local function run(with, name)
  local ok, text, how, code
  for _ = 1, TRIES do
    ok, how, code = os.execute(("cd %s/testes && true | timeout 600 %s %s >%s 2>&1"):format(quote(work), quote(with), OPTIONS[name] or name,
      quote(log)))
    text = fs.read(log) or ""
    if ok then
      return true, text
    elseif not text:find "main.lua:%d" then
      break
    end
  end
  local place
  for at in text:gmatch "\t(%S+%.lua:%d+): in main chunk" do
    place = place or at
  end
  local number = how == "signal" and code or code - 128
  return false, text, number > 0 and "killed by signal " .. number or place or text:match "[^\n]*\n?$"
end

local function version_of(path)
  return (fs.read(path) or ""):match "Lua 5%.%d" or "?"
end

local have_stock = os.execute(("command -v %s >/dev/null 2>&1"):format(quote(stock)))
local names = {}
for name in output(("cd %s && ls *.lua"):format(quote(dir))):gmatch "[^\n]+" do
  names[#names + 1] = name
end
print(("%s, %s, the suite in %s (%s)"):format(program, output(quote(program) .. " -v"):gsub("\n$", ""), dir, version_of(dir .. "/all.lua")))
if not has_libraries then
  print "without the C libraries of attrib.lua and main.lua: they need a compiler and Lua's headers"
end
table.sort(names, function(a, b) -- all.lua last: where it ends is judged by the file that ends it
  if (a == "all.lua") ~= (b == "all.lua") then
    return b == "all.lua"
  end
  return a < b
end)
local count = { ["ok"] = 0, ["as lua"] = 0, ["FAILED"] = 0 }
local verdicts = {}

local function judge(name)
  local ok, text, place = run(program, name)
  if ok then
    local _, left_out = text:gsub("\n >>>", "")
    return "ok", left_out > 0 and ("%d parts left out: they need Lua built for its tests"):format(left_out) or ""
  end
  local last = name == "all.lua" and text:gsub("^.*FILE '([^']*)'.*$", "%1")
  if last and verdicts[last] == "as lua" then
    return "as lua", ("ends in %s, as above"):format(last)
  end
  if have_stock and not last then
    local stock_ok, _, stock_place = run(stock, name)
    if not stock_ok and stock_place == place then
      return "as lua", ("%s: this library fails there in %s too"):format(place, stock)
    end
  end
  return "FAILED", place .. "\n" .. text:sub(-600)
end

for _, name in ipairs(names) do
  local verdict, words
  if NO_TEST[name] then
    verdict, words = "-", NO_TEST[name]
  else
    verdict, words = judge(name)
    verdicts[name], count[verdict] = verdict, count[verdict] + 1
  end
  print(("%-8s %-16s %s"):format(verdict, name, words):match "^(.-) *$")
end
os.execute("rm -rf " .. quote(work))
print(("%d files passed, %d fail as in %s, %d failed"):format(count["ok"], count["as lua"], stock, count["FAILED"]))
os.exit(count["FAILED"] == 0 and count["ok"] > 0)
