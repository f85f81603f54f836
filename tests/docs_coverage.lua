--- docs_coverage: what test_docs.lua needs to compare the documentation with the program: pages and what is in
-- them, the functions of every module, the examples. It changes nothing and knows no test.

local places = require "mocl.help_places"

local M = {}

local ROOT = (debug.getinfo(1, "S").source:match("^@(.*)/[^/]*$") or ".") .. "/.."

local function lines_of(command)
  local p = assert(io.popen(command))
  local list = {}
  for line in p:lines() do
    list[#list + 1] = line
  end
  p:close()
  return list
end

function M.path(name)
  return ROOT .. "/" .. name
end

function M.read(name)
  local f = io.open(M.path(name), "rb")
  if not f then
    return nil
  end
  local text = f:read("a")
  f:close()
  return text
end

-- ---- where what is documented ----

M.undocumented, M.exceptions, M.pages = places.undocumented, places.exceptions, places.pages
M.classes, M.hidden_classes = places.classes, places.hidden_classes

-- ---- pages ----

--- Names of the pages, without docs/ and .md, README as ../README.
function M.all_pages()
  local list = { "../README" }
  for _, file in ipairs(lines_of("cd '" .. M.path "docs" .. "' && find . -name '*.md' | LC_ALL=C sort")) do
    list[#list + 1] = file:match("^%./(.*)%.md$")
  end
  return list
end

local cache = {}

--- A page: text, headings (list of strings), entries (set of words in headings and code spans), or nil.
function M.page(name)
  if cache[name] == nil then
    local text = M.read("docs/" .. name .. ".md")
    cache[name] = false
    if text then
      local page = { text = text, headings = {}, entries = {} }
      local function add(span)
        for word in span:gmatch("[%a_][%w_]*") do
          page.entries[word] = true
        end
      end
      local prose = text:gsub("\n```.-\n```", "\n") -- examples document nothing
      for line in (prose .. "\n"):gmatch("(.-)\n") do
        local heading = line:match("^##+ (.*)")
        if heading then
          page.headings[#page.headings + 1] = heading
          add(heading)
        end
        for span in line:gmatch("`([^`]+)`") do
          add(span)
        end
      end
      cache[name] = page
    end
  end
  return cache[name] or nil
end

-- ---- modules ----

--- Names of all modules that require finds in the program.
function M.modules()
  local list = {}
  for _, file in ipairs(lines_of("cd '" .. M.path "stdlib" .. "' && find . -name '*.lua' | LC_ALL=C sort")) do
    local name = file:gsub("^%./", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
    if not name:find "^mocl%.tools%." then -- these are programs
      list[#list + 1] = name
    end
  end
  for name in (M.read "lua/modules.h"):gmatch('X%("([%w_.]+)"') do
    list[#list + 1] = name
  end
  return list
end

local function is_public(name)
  return type(name) == "string" and name:sub(1, 1) ~= "_"
end

local function add_functions(set, t)
  for k, v in pairs(t) do
    if is_public(k) and (type(v) == "function" or type(v) == "table" and getmetatable(v) and getmetatable(v).__call) then
      set[k] = true
    end
  end
end

-- Lua classes are upvalues of the functions of their module: tables that are their own __index.
local function add_classes(set, f, seen)
  if seen[f] then
    return
  end
  seen[f] = true
  for i = 1, 255 do
    local name, v = debug.getupvalue(f, i)
    if not name then
      break
    elseif type(v) == "table" and rawget(v, "__index") == v then
      add_functions(set, v)
    elseif type(v) == "function" and debug.getinfo(v, "S").source == debug.getinfo(f, "S").source then
      add_classes(set, v, seen)
    end
  end
end

--- Functions of a module, and methods of its Lua classes, as sets of names.
function M.names(module)
  local t, functions, methods, seen = require(module), {}, {}, {}
  if type(t) == "table" then
    add_functions(functions, t)
    for k in pairs(functions) do
      if package.loaded[module .. "." .. k] == t[k] then -- a module below it that can be called, once something has loaded it
        functions[k] = nil
      end
    end
    for _, v in pairs(t) do
      if type(v) == "function" and debug.getinfo(v, "S").what == "Lua" then
        add_classes(methods, v, seen)
      end
    end
  end
  return functions, methods
end

--- Methods of the C classes in the registry: name -> set.
function M.c_classes()
  local classes = {}
  for name, meta in pairs(debug.getregistry()) do
    if type(name) == "string" and name:match("^mocl%.") and type(meta) == "table" and rawget(meta, "__name") == name then
      local set, index = {}, rawget(meta, "__index")
      add_functions(set, type(index) == "table" and index or rawget(meta, "methods") or {})
      set.release = nil -- every object has it; memory.md
      classes[name] = set
    end
  end
  return classes
end

-- ---- examples ----

--- The examples of a page that are to be run: { line=, code=, want= or nil }. Marked ones (<!-- run --> in front;
-- a ```text block behind is the output), and ones followed by "prints" and an indented block.
function M.examples(text)
  local lines, list, i = {}, {}, 1
  for line in (text .. "\n"):gmatch("(.-)\r?\n") do
    lines[#lines + 1] = line
  end
  local function block(first) -- the lines of a fenced block that starts at `first`, and the line after it
    local last = first + 1
    while lines[last] and lines[last] ~= "```" do
      last = last + 1
    end
    return table.concat(lines, "\n", first + 1, last - 1), last + 1
  end
  local function skip_blank(at)
    while lines[at] == "" do
      at = at + 1
    end
    return at
  end
  while lines[i] do
    if lines[i] == "```lua" then
      local marked = lines[i - 1] == "<!-- run -->"
      local example = { line = i }
      example.code, i = block(i)
      local at = skip_blank(i)
      if marked and lines[at] == "```text" then
        example.want, i = block(at)
      elseif not marked and lines[at] == "prints" then
        at = skip_blank(at + 1)
        local out = {}
        while lines[at] and (lines[at]:match("^    ") or lines[at] == "" and (lines[at + 1] or ""):match("^    ")) do
          out[#out + 1] = lines[at]:sub(5)
          at = at + 1
        end
        example.want, i = table.concat(out, "\n"), at
      end
      if marked or example.want then
        list[#list + 1] = example
      end
    else
      i = i + 1
    end
  end
  return list
end

--- Runs an example by itself; returns what it printed. Errors raise.
function M.run(example, name)
  local out = {}
  local env = setmetatable({ arg = {} }, { __index = _G })
  function env.print(...)
    local parts = table.pack(...)
    for k = 1, parts.n do
      parts[k] = tostring(parts[k])
    end
    out[#out + 1] = table.concat(parts, "\t") .. "\n"
  end
  env.io = setmetatable({
    write = function(...)
      out[#out + 1] = table.concat({ ... })
      return io.stdout
    end,
  }, { __index = io })
  local chunk = assert(load(("\n"):rep(example.line) .. example.code, "@" .. name, "t", env))
  chunk()
  return table.concat(out)
end

--- Text without white space at the ends of lines and of the whole.
function M.trimmed(text)
  return (text:gsub("[ \t]+\n", "\n"):gsub("%s+$", ""))
end

return M
