-- The table of seeded defects: each can be made, by a text that stands once in its file, and names a test that there
-- is. `make defects` makes them (defects.lua).

local T = require "t"
local defects = require "defects_page"

T.test("each defect has its place in the files, and says something of its own", function()
  T.ok(#defects.rows >= 40)
  local seen = {}
  for _, row in ipairs(defects.rows) do
    local text, changed, why = defects.change(".", row)
    T.ok(changed, ("%s: %s: %s"):format(row.file, row.what, why or ""))
    T.ok(changed ~= text and load(changed), row.what .. ": another program that can be read")
    local key = row.file .. row.what
    T.eq(seen[key], nil, key)
    seen[key] = true
  end
end)

T.test("the tests that catch them are there", function()
  local list, current, names, loaded = T.list, T.current_file, {}, {}
  for _, row in ipairs(defects.rows) do
    local file = row.test:match "^[%w_]+"
    if not loaded[file] then
      loaded[file], T.list, T.current_file = true, {}, file
      local ok, why = pcall(dofile, ("tests/%s.lua"):format(file))
      for _, t in ipairs(T.list) do
        names[file .. ": " .. t.name] = true
      end
      T.list, T.current_file = list, current
      T.ok(ok, why)
    end
    T.ok(names[row.test], "there is no test called " .. row.test)
  end
end)

T.test("docs/defects.md has the table; ./mocl tests/defects.lua --page docs/defects.md writes it", function()
  local now, text = defects.page "docs/defects.md"
  T.ok(text == now, "the table of docs/defects.md is not that of tests/defects_table.lua")
end)
