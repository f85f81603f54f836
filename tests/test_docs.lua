-- the documentation against the program: every function has an entry, every entry a function, the examples
-- print what the pages say, links and file names lead somewhere, the options of the recipes are described

local T = require "t"
local docs = require "docs_coverage"
local help = require "mocl.help"
local options_page = require "options_page"

local function list_of(pages)
  return type(pages) == "table" and pages or { pages }
end

local function has_entry(pages, name)
  for _, p in ipairs(list_of(pages)) do
    local page = docs.page(p)
    if page and page.entries[name] then
      return true
    end
  end
  return false
end

local function missing_from(pages, set, what)
  local missing = {}
  for name in pairs(set) do
    if not docs.exceptions[what .. "." .. name] and not has_entry(pages, name) then
      missing[#missing + 1] = name
    end
  end
  table.sort(missing)
  return missing
end

local function pages_of(module)
  return docs.pages[module] or module:match("[^.]*$")
end

local function check(pages, set, what)
  local found = false
  for _, p in ipairs(list_of(pages)) do
    found = found or docs.page(p) ~= nil
  end
  T.ok(found or next(set) == nil, ("docs/%s.md is not there; it documents %s"):format(list_of(pages)[1], what))
  local missing = missing_from(pages, set, what)
  T.ok(#missing == 0, ("%s: no entry in docs/%s.md for %s"):format(what, table.concat(list_of(pages), ".md, docs/"),
    table.concat(missing, ", ")))
end

for _, module in ipairs(docs.modules()) do
  if not docs.undocumented[module] then
    T.test(module .. " is documented", function()
      local functions, methods = docs.names(module)
      check(pages_of(module), functions, module)
      check(pages_of(module), methods, "the objects of " .. module)
    end)
  end
end

T.test("methods of objects made in C are documented", function()
  for _, module in ipairs(docs.modules()) do
    require(module)
  end
  local seen = 0
  for name, set in pairs(docs.c_classes()) do
    if not docs.hidden_classes[name] then
      seen = seen + 1
      T.ok(docs.classes[name], "docs_coverage.lua: no page for the class " .. name)
      check(docs.classes[name], set, name)
    end
  end
  T.ok(seen >= 5, "classes found: " .. seen)
end)

T.test("help has the entry of every public function, and it is the right one", function()
  local missing, seen = {}, 0
  local function look(module, set)
    for name in pairs(set) do
      local e = help.entry(module, name)
      seen = seen + 1
      if not docs.exceptions[module .. "." .. name] and not (e and (e.signature .. "\n" .. e.text):find("%f[%w_]" .. name .. "%f[^%w_]")) then
        missing[#missing + 1] = module .. "." .. name
      end
    end
  end
  for _, module in ipairs(docs.modules()) do
    if not docs.undocumented[module] then
      local functions, methods = docs.names(module)
      look(module, functions)
      look(module, methods)
    end
  end
  for class, set in pairs(docs.c_classes()) do
    if not docs.hidden_classes[class] then
      look(class, set)
    end
  end
  table.sort(missing)
  T.eq(missing, {})
  T.ok(seen > 400, seen)
  T.eq(help.entry("mocl.tensor", "no_such_function"), nil)
end)

T.test("every heading with a function names one that exists", function()
  local known = {}
  local function add(pages, set)
    for _, p in ipairs(list_of(pages)) do
      known[p] = known[p] or {}
      for name in pairs(set) do
        known[p][name] = true
      end
    end
  end
  for _, module in ipairs(docs.modules()) do
    local functions, methods = docs.names(module)
    if not docs.undocumented[module] then
      add(pages_of(module), functions)
      add(pages_of(module), methods)
    end
  end
  for name, set in pairs(docs.c_classes()) do
    set.release = true
    add(docs.classes[name] or {}, set)
  end
  known.task = known.task or {}
  local checked, unknown = 0, {}
  for _, p in ipairs(docs.all_pages()) do
    for _, heading in ipairs(known[p] and docs.page(p).headings or {}) do
      for name in heading:gsub("%->.*", ""):gmatch("[%a_][%w_]*[.:]([%a_][%w_]*)%s*[%({]") do
        checked = checked + 1
        if not known[p][name] then
          unknown[#unknown + 1] = ("docs/%s.md: %s"):format(p, heading)
        end
      end
    end
  end
  T.eq(unknown, {})
  T.ok(checked > 100, "headings checked: " .. checked)
end)

for _, name in ipairs(docs.all_pages()) do
  local page = docs.page(name)
  for i, example in ipairs(docs.examples(page.text)) do
    T.test(("%s.md, example %d (line %d)"):format(name:gsub("^%.%./", ""), i, example.line), function()
      local got = docs.run(example, name .. ".md")
      if example.want then
        T.eq(docs.trimmed(got), docs.trimmed(example.want))
      end
    end)
  end
end

T.test("links and file names lead somewhere", function()
  local bad, checked = {}, 0
  for _, name in ipairs(docs.all_pages()) do
    local text = docs.page(name).text
    local dir = name:match("^%.%./") and "" or "docs/" .. (name:match "^.*/" or "")
    for target in text:gmatch("%]%(([^)#]+)[^)]*%)") do
      checked = checked + 1
      if not target:match("^%a+://") and not docs.read(dir .. target) then
        bad[#bad + 1] = ("%s.md: (%s)"):format(name, target)
      end
    end
    for _, top in ipairs { "runtime", "kernels", "lua", "stdlib", "recipes", "tests", "examples", "docs", "tools" } do
      for file in text:gmatch("%f[%w/.]" .. top .. "/[%w_/.-]*%.%l+%f[^%w]") do
        checked = checked + 1
        if not docs.read(file) then
          bad[#bad + 1] = ("%s.md: %s"):format(name, file)
        end
      end
    end
  end
  T.eq(bad, {})
  T.ok(checked > 50, "names checked: " .. checked)
end)

T.test("recipes.md has the options of each recipe and tool, as --help has them", function()
  local now, text, n = options_page.page(docs.path "docs/recipes.md", docs.path "")
  T.ok(now == text, "the tables of options are not those of the schemas: make options writes them")
  local scripts = 0
  for _, place in ipairs { "recipes", "stdlib/mocl/tools" } do
    local ls = assert(io.popen("ls '" .. docs.path(place) .. "'"))
    for file in ls:lines() do
      if file:find "%.lua$" and docs.read(place .. "/" .. file):find("config.parse", 1, true) or place == "recipes" then
        scripts = scripts + 1
        T.ok(text:find(("<!-- options of %s/%s:"):format(place, file), 1, true), "recipes.md: no table of " .. file)
      end
    end
    ls:close()
  end
  T.eq(n, scripts)
  local _, rows = text:gsub("\n| `[%l%d_.]+`", "")
  T.ok(rows > 150, "options: " .. rows)
end)

T.test("the comparison notices what is missing", function()
  local page = docs.page "rng"
  T.ok(page.entries.shuffle and page.entries.philox)
  T.ok(not page.entries.no_such_function)
  T.eq(missing_from("rng", { shuffle = true, no_such_function = true }, "x"), { "no_such_function" })
  local found = docs.examples("<!-- run -->\n```lua\nprint(1)\n```\n\n```text\n2\n```\n\n```lua\nx()\n```\n")
  T.eq(#found, 1)
  T.eq(found[1].want, "2")
  T.eq(docs.run(found[1], "x"), "1\n")
  T.eq(docs.examples("```lua\nprint(1)\n```\n\nprints\n\n    1\n")[1].want, "1")
end)
