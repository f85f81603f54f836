--- options.lua PAGE - writes the tables of options into a page (options_page.lua). make options runs it on docs/recipes.md.

local dir = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = dir .. "/?.lua;" .. package.path
local page = require "options_page"

local path = assert(arg[1], "options.lua: which page?")
local now, before, n = page.page(path, dir .. "/../")
if now ~= before then
  local file = assert(io.open(path, "wb"))
  assert(file:write(now))
  assert(file:close())
end
print(("%s: %d tables, %s"):format(path, n, now == before and "as they were" or "written"))
