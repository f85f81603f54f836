-- mocl as an interpreter of Lua: Lua's own tests, where they are; and sources that stay within what Lua 5.5 accepts too

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local lua55 = require "lua55"

T.test("Lua's own tests (LUA_TESTS=DIR)", function()
  local dir = os.getenv "LUA_TESTS"
  if not dir or dir == "" then
    T.skip "no LUA_TESTS=DIR, the folder testes/ of the repository lua/lua"
  end
  local out, err, status = child.shell(('"$MOCL" tests/lua_suite.lua %s'):format(child.quote(dir)))
  T.eq(status, 0, out .. err)
  T.ok(out:find("\nok       main.lua", 1, true), out)
end)

T.test("the runner of Lua's tests tells a file that fails from one that the library fails", function()
  local dir = T.tmpdir()
  local files = {
    ["libs/makefile"] = "all:\n",
    ["main.lua"] = [[print "\n >>> testC not active"]],
    ["all.lua"] = "",
    ["bad.lua"] = 'error "here"',
    ["own.lua"] = "assert(not STOCK)",
    ["foreign.lua"] = "assert(STOCK)",
    lua = '#!/bin/sh\nexec "$MOCL" -e "STOCK = true" "$@"\n',
  }
  assert(fs.mkdir(dir .. "/libs"))
  for name, text in pairs(files) do
    assert(fs.write(dir .. "/" .. name, text))
  end
  local out, err, status = child.shell(([[export MOCL=$(realpath "$MOCL"); chmod +x %s/lua; "$MOCL" tests/lua_suite.lua %s "$MOCL" %s/lua]])
    :format(dir, dir, dir))
  T.ok(out:find("ok       main.lua         1 parts left out", 1, true), out .. err)
  T.ok(out:find("as lua   bad.lua          bad.lua:1: this library fails there", 1, true), out)
  T.ok(out:find("FAILED   foreign.lua      foreign.lua:1", 1, true), out)
  T.ok(out:find("\n3 files passed, 1 fail as in [^\n]*, 1 failed\n$"), out)
  T.eq(status, 1)
  out, err, status = child.shell(([["$MOCL" tests/lua_suite.lua %s/libs]]):format(dir))
  T.ok(err:find("has no main.lua", 1, true), err)
  T.eq(status, 1)
end)

-- ---- Lua 5.5 ----

T.test("what Lua 5.5 refuses is found in a source, and nothing else is", function()
  for source, want in pairs {
    ["for i = 1, 3 do i = i + 1 end"] = { "1: the loop variable 'i' is assigned to" },
    ["for k, v in pairs(t) do\nif k then v, k = 1, 2 end end"] = { "2: the loop variable 'k' is assigned to" },
    ["for i = 1, 3 do local f = { g = function() i = 2 end } end"] = { "1: the loop variable 'i' is assigned to" },
    ["for i = 1, 3 do a[i].b, i = 1, 2 end"] = { "1: the loop variable 'i' is assigned to" },
    ["for i = 1, 3 do local i = i i = 2 end"] = {},
    ["for i = 1, 3 do local function i() end i = 2 end"] = {},
    ["for i = 1, 3 do f { i = 2 } t.i = 1 t[i] = 2 end i = 5"] = {},
    ["for i = 1, 3 do local g = function(i) i = 2 end end"] = {},
    ["for i = 1, 3 do while i do end repeat until i if i then elseif i == 1 then else end end i = 1"] = {},
    ["for _, x in ipairs { function() return { 1 } end } do y = x end"] = {},
    ["local global = 1"] = { "1: the name `global`" },
    ["return t.global -- global\n, 'global', [[global]], 0x1p-4, 1e-3, .5"] = { "1: the name `global`" },
  } do
    assert(load(source))
    T.eq(lua55.refused(source), want, source)
  end
end)

T.test("no source uses what Lua 5.5 refuses", function()
  local list = child.shell "find recipes stdlib examples tests docs README.md -name '*.lua' -o -name '*.md'"
  local have = os.execute "command -v lua5.5 >/dev/null 2>&1"
  local n = 0
  for path in list:gmatch "[^\n]+" do
    local text = child.read(path)
    local sources = { text }
    if path:find "%.md$" then
      sources = {}
      for code in text:gmatch "\n```lua\n(.-)\n```" do
        sources[#sources + 1] = code
      end
    end
    for _, source in ipairs(sources) do
      if load(source:gsub("^#[^\n]*", "")) then -- a page may show what is no whole chunk
        n = n + 1
        T.eq(lua55.refused(source), {}, path)
      end
    end
    if have and path:find "%.lua$" then
      local _, err, status = child.shell(("lua5.5 -e 'assert(loadfile(arg[1]))' - %s </dev/null"):format(child.quote(path)))
      T.eq({ err, status }, { "", 0 })
    end
  end
  T.ok(n > 200, n)
end)
