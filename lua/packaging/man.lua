--- man.lua DIR - writes the manual pages: mocl.1 from docs/cli.md and the program's own usage, and one page for each tool from
-- the schema that its --help shows. They are written in mdoc, and `mandoc -Tlint` has nothing to say of them.

local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/../../tests/?.lua;" .. package.path
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local options_page = require "options_page"
local sys = require "mocl.sys"

local root, dir = here .. "/../..", assert(arg[1], "man.lua: a directory for the pages is needed")

local function read(path)
  local f = assert(io.open(root .. "/" .. path, "rb"))
  local text = f:read "a"
  f:close()
  return text
end

-- Text as lines of mdoc: marks of Markdown go, each sentence begins a line, nothing begins a line as a request would.
local function text(s)
  s = s:gsub("%[([^%]]*)%]%([^)]*%)", "%1"):gsub("`", ""):gsub("%*%*", ""):gsub("\\|", "|"):gsub("%s+", " ")
  s = s:gsub("^ ", ""):gsub(" $", ""):gsub("\\", "\\e"):gsub("%-", "\\-"):gsub("([%.:%?!]%)?) ", "%1\n")
  local lines = {}
  for sentence in s:gmatch "[^\n]+" do
    local line = ""
    for word in sentence:gmatch "%S+" do
      if #line + #word > 76 and line ~= "" then
        lines[#lines + 1], line = line, ""
      end
      line = line == "" and word or line .. " " .. word
    end
    lines[#lines + 1] = line
  end
  return (("\n" .. table.concat(lines, "\n")):gsub("\n([%.'])", "\n\\&%1"):sub(2))
end

-- An argument of a request.
local function argument(s)
  return '"' .. s:gsub("\\", "\\e"):gsub('"', '""'):gsub("%-", "\\-") .. '"'
end

local MONTHS = { January = true, February = true, March = true, April = true, May = true, June = true, July = true, August = true,
  September = true, October = true, November = true, December = true }

-- of the last release in CHANGELOG.md
local function date()
  for day, month, year in read "CHANGELOG.md":gmatch "\n## [%d.]+, (%d+) (%a+) (%d%d%d%d)" do
    if MONTHS[month] then
      return ("%s %d, %s"):format(month, day, year)
    end
  end
  error "CHANGELOG.md names no release with a date"
end

local function head(name, what)
  return { ".Dd " .. date(), ".Dt " .. name:upper():gsub("%-", "\\-") .. " 1", ".Os", ".Sh NAME", ".Nm " .. name,
    ".Nd " .. text(what) }
end

local function put(lines, ...)
  for _, line in ipairs { ... } do
    lines[#lines + 1] = line
  end
end

local function write(name, lines)
  assert(fs.write(("%s/%s.1"):format(dir, name), table.concat(lines, "\n") .. "\n"))
end

-- the rows of the table behind a heading or a text of docs/cli.md: list of cells
local function rows(page, after)
  local list, from = {}, select(2, assert(page:find(after, 1, true)))
  local started
  for line in page:sub(from + 1):gmatch "\n([^\n]*)" do
    if line:find "^|" then
      started = true
      local first, rest = line:match "^| *(.-) *| *(.*) *|$"
      if first and first:find "^%-+$" then
        list = {} -- what stood above was the heading
      elseif first then
        list[#list + 1] = { first, rest }
      end
    elseif started then
      break
    end
  end
  return list
end

local function tools()
  local list = {}
  for _, name in ipairs(assert(fs.list(root .. "/stdlib/mocl/tools"))) do
    local tool = name:match "^(.*)%.lua$"
    if tool then
      list[#list + 1] = tool
    end
  end
  table.sort(list)
  return list
end

-- ---- mocl.1 ----

local cli = read "docs/cli.md"
local page = head("mocl", "an interpreter of Lua for multi-objective control of language models")
put(page, ".Sh SYNOPSIS", ".Nm", ".Op Ar options", ".Op Ar script Op Ar args", ".Nm", ".Ar tool | recipe",
  ".Op Ar key Ns = Ns Ar value ...", ".Sh DESCRIPTION", ".Nm",
  "runs a script of Lua 5.4, one of its tools, or a recipe that trains a", "language model on several rewards at once.",
  "Without a script it is interactive on a terminal.", "The options are those of lua5.4, and some long ones:", ".Bl -tag -width Ds")
for _, row in ipairs(rows(cli, "| option | what it does")) do
  put(page, ".It " .. argument((row[1]:gsub("`", ""))), text(row[2]))
end
put(page, ".El", ".Pp", "The tools are:", ".Bl -tag -width Ds")
for _, tool in ipairs(tools()) do
  put(page, ".It Nm mocl Cm " .. tool, "see", (".Xr mocl-%s 1"):format(tool))
end
put(page, ".El", ".Pp", "The recipes, and the options of one of them, are shown by", ".Dl mocl RECIPE \\-\\-help", ".Sh ENVIRONMENT",
  ".Bl -tag -width Ds")
for _, row in ipairs(rows(cli, "| variable | meaning")) do
  for name in row[1]:gmatch "`([^`]+)`" do
    put(page, ".It Ev " .. name)
  end
  put(page, text(row[2]))
end
put(page, ".El", ".Sh EXIT STATUS", ".Bl -tag -width Ds")
for _, row in ipairs(rows(cli, "## Exit status")) do
  put(page, ".It " .. argument((row[1]:gsub("`", ""))), text(row[2]))
end
put(page, ".El", ".Sh SEE ALSO")
local list = tools()
for i, tool in ipairs(list) do
  put(page, (".Xr mocl-%s 1%s"):format(tool, i < #list and " ," or ""))
end
write("mocl", page)

-- ---- mocl-TOOL.1 ----

local function value_text(v)
  if v == nil or type(v) == "table" and #v == 0 or v == "" then
    return nil
  end
  return config.text(v)
end

for _, tool in ipairs(tools()) do
  local path = root .. "/stdlib/mocl/tools/" .. tool .. ".lua"
  local schema, _, doc = options_page.schema(path)
  local what = doc or read("stdlib/mocl/tools/" .. tool .. ".lua"):match "^%-%-%-? *[%w_]+: ([^\n.]*)" or "a tool of mocl"
  local out = head("mocl-" .. tool, what)
  put(out, ".Sh SYNOPSIS", ".Nm mocl", ".Cm " .. tool, ".Op Ar key Ns = Ns Ar value ...", ".Sh DESCRIPTION",
    "The options are written as", ".Ar key Ns = Ns Ar value .", "They can also stand in a file of Lua or JSON, named by",
    ".Pf @ Ar file .", ".Pp", ".Fl \\-help", "shows them with their defaults, and", ".Fl \\-print\\-config",
    "what the given ones come to.", ".Bl -tag -width Ds")
  for _, row in ipairs(schema) do
    local default = value_text(row[2])
    put(out, ".It " .. argument(row[1] .. (default and "=" .. default or "=")), text(row[3] or row.doc or ""))
    if row.choices then
      put(out, text("One of " .. table.concat(row.choices, ", ") .. "."))
    end
  end
  put(out, ".El", ".Sh SEE ALSO", ".Xr mocl 1")
  write("mocl-" .. tool, out)
end
print(("%s: manual pages of mocl %s"):format(dir, sys.version))
