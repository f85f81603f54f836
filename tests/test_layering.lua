-- the arrows between the files of the program: which room may name which, and that there are no circles

local T = require "t"
local arrows = require "arrows"

local ROOT = (arg[0]:match("^(.*)/[^/]*$") or ".") .. "/.."

-- what is wrong where one more line stands at the end of a file, or where a file is there
local function seeded(path, line)
  local files = arrows.files(ROOT)
  files[path] = (files[path] or "") .. "\n" .. line .. "\n"
  return table.concat(arrows.check(files), "\n")
end

local function finds(path, line, text)
  local wrong = seeded(path, line)
  T.ok(wrong:find(text, 1, true), ("%s: %s: %s"):format(path, line, wrong))
end

T.test("no room names one above it, and no files name each other in a circle", function()
  local files = arrows.files(ROOT)
  T.eq(arrows.check(files), {})
  local n, all = 0, arrows.arrows(files)
  for _, list in pairs(all) do
    n = n + #list
  end
  T.ok(n > 600, "arrows found: " .. n)
end)

T.test("no C files call each other in a circle", function()
  local circles = arrows.calls(arrows.files(ROOT), ROOT .. "/build")
  if not circles then
    T.skip "no objects in build/, or no nm"
  end
  T.eq(circles, {})
end)

T.test("an arrow up is found, whatever its spelling", function()
  finds("stdlib/mocl/options.lua", 'local x = require "mocl.run"', "stdlib/mocl/options.lua names stdlib/mocl/run/init.lua: ground stands below run")
  finds("stdlib/mocl/run/init.lua", "local x = require('mocl.report')", "stdlib/mocl/run/init.lua names stdlib/mocl/report/init.lua")
  finds("stdlib/mocl/lm/model.lua", "require[[x]] local y = require ( 'mocl.train.loop' )", "lm stands below train")
  finds("recipes/fishwood.lua", 'require "mocl.tools.generate"', "recipes/fishwood.lua names stdlib/mocl/tools/generate.lua")
  T.eq(seeded("stdlib/mocl/tools/x.lua", 'require "mocl.run"'), "")
  finds("stdlib/mocl/kitchen/x.lua", "", "stdlib/mocl/kitchen/x.lua: a room that tests/arrows.lua does not know")
  finds("runtime/base.h", '#include "io/file.h"', "runtime/base.h names runtime/io/file.h: runtime stands below runtime/io")
  finds("runtime/io/csv.c", '# include "tok/tokenizer.h"', "runtime/io stands below runtime/tok")
  finds("runtime/tok/unicode.c", '#include "maths/stats.h"', "runtime/tok stands below runtime/maths")
  finds("kernels/cpu/rows.c", '#include "tensor.h"', "kernels/cpu stands below runtime")
end)

T.test("a circle is found, in Lua, in C, and through a header without a source", function()
  finds("stdlib/mocl/run/digest.lua", 'require "mocl.run"', "a circle of requires: stdlib/mocl/run/checkpoint.lua stdlib/mocl/run/digest.lua")
  finds("runtime/tensor.h", '#include "autograd.h"', "a circle of includes: runtime/autograd runtime/tensor")
  local files = arrows.files(ROOT)
  files["runtime/x.h"] = '#include "autograd.h"\n'
  files["runtime/tensor.c"] = files["runtime/tensor.c"] .. '\n#include "x.h"\n'
  T.ok(table.concat(arrows.check(files), "\n"):find("a circle of includes: runtime/autograd runtime/tensor", 1, true))
  T.eq(arrows.circles { a = { "b" }, b = { "c" }, c = { "b", "d" } }, { "b c" })
  T.eq(seeded("stdlib/mocl/run/digest.lua", '-- require "mocl.run"'), "")
end)
