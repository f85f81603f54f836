--- Another version of Lua in the process, whose functions go before those mocl was built with.

local T = require "t"
local child = require "child"

-- the program with a library in front that has some functions of Lua
local function with(source)
  if arg[-1]:find("san/", 1, true) then
    T.skip "a sanitizer wants to be the first library itself"
  elseif select(3, child.shell "command -v cc") ~= 0 then
    T.skip "no C compiler"
  end
  local dir = T.tmpdir()
  local _, err, status = child.shell(("cd %s; printf '%%s' %s > x.c; cc -shared -fPIC -o x.so x.c"):format(dir, child.quote(source)))
  T.eq(status, 0, err)
  return child.mocl({ "-e", "print(1)" }, "LD_PRELOAD=" .. dir .. "/x.so")
end

T.test("a Lua that lacks functions of 5.4 is refused before any is called", function()
  local out, err, status = with "void *luaL_newstate(void) { return 0; }"
  T.eq({ out, status }, { "", 1 })
  T.ok(err:find "^[^\n]*mocl: two versions of Lua are in this process, [^\n]*RTLD_GLOBAL\n$", err)
end)

T.test("a Lua of another version is refused with its words", function()
  local out, err, status = with [[int luaL_error(void *L, const char *fmt, ...);
void luaL_checkversion_(void *L, double v, unsigned long n) { (void)v, (void)n; luaL_error(L, "core provides 505"); }]]
  T.eq({ out, status }, { "", 1 })
  T.ok(err:find "is not the one mocl was built with, Lua 5.4 %(core provides 505%); load [^\n]*\n$", err)
end)
