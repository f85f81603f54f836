--- options_page: the options of recipes and tools as tables of docs/recipes.md. They are written from the schema that
-- config.parse gets, the one that --help shows. In the page a table stands between two marks; behind the file's name the
-- first one lists presets that get a column:
--
--   <!-- options of recipes/moc_hh.lua: hh (written by make options) -->
--   <!-- end of options -->

local config = require "mocl.run.config"
local sys = require "mocl.sys"

local M = {}

local function get(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

--- The schema, the presets and what it is in words of a script, which ends where it asks config.parse for its options.
function M.schema(path)
  local parse, caught = config.parse, {}
  local known = arg
  local mode = sys.on_interrupt "raise" -- a recipe sets it for its own process
  config.parse = function(schema, _, meta)
    caught.schema, caught.presets, caught.doc = schema, meta and meta.presets or {}, meta and meta.doc
    error(caught, 0)
  end
  _G.arg = { [0] = path }
  local ok, err = pcall(assert(loadfile(path)))
  config.parse, _G.arg = parse, known
  sys.on_interrupt(mode)
  if ok or err ~= caught then
    error(("%s: did not ask for its options: %s"):format(path, tostring(err)), 0)
  end
  return caught.schema, caught.presets, caught.doc
end

local function group_of(key)
  return key:match "^([^.]+)%." or "general"
end

-- A value in a cell.
local function cell(value)
  if value == "" or type(value) == "table" and #value == 0 then
    return "empty"
  elseif value == nil then
    return "unset"
  end
  local text = config.text(value)
  return type(value) == "number" and text or type(value) == "boolean" and text or "`" .. text .. "`"
end

-- Rows in groups, as --help has them.
local function grouped(schema)
  local groups, order = {}, {}
  for _, row in ipairs(schema) do
    local name = group_of(row[1])
    if not groups[name] then
      groups[name], order[#order + 1] = {}, name
    end
    table.insert(groups[name], row)
  end
  local list = {}
  for _, name in ipairs(order) do
    table.move(groups[name], 1, #groups[name], #list + 1, list)
  end
  return list
end

--- The table of a script, with a column for each preset of a list.
function M.table(path, presets)
  local schema, known = M.schema(path)
  local head, rule = "| option | default |", "|---|---|"
  for _, name in ipairs(presets) do
    if not known[name] then
      error(("%s: there is no preset '%s'"):format(path, name), 0)
    end
    head, rule = head .. (" `preset=%s` |"):format(name), rule .. "---|"
  end
  local lines = { head .. " meaning |", rule .. "---|" }
  for _, row in ipairs(grouped(schema)) do
    local doc = row[3]
    if row.choices then
      doc = ("%s (%s)"):format(doc, config.text(row.choices):gsub(",", ", "))
    end
    local line = ("| `%s`%s | %s |"):format(row[1], row.alias and (", or `%s`"):format(row.alias) or "", cell(row[2]))
    for _, name in ipairs(presets) do
      local value = config.flatten(known[name])[row[1]]
      line = line .. (" %s |"):format(value ~= nil and cell(value) or "")
    end
    lines[#lines + 1] = ("%s %s |"):format(line, doc:gsub("|", "\\|"))
  end
  return table.concat(lines, "\n") .. "\n"
end

local PATTERN = "(<!%-%- options of (%S+):([%w_ ,]*)%(written by make options%) %-%->\n)(.-)(<!%-%- end of options %-%->\n)"

--- The text of a page with its tables as they are now, and as it stands; third, how many tables. root: where scripts lie.
function M.page(path, root)
  local text, n = get(path), nil
  local now
  now, n = text:gsub(PATTERN, function(first, script, presets, _, last)
    local names = {}
    for name in presets:gmatch "[%w_]+" do
      names[#names + 1] = name
    end
    return first .. M.table(root .. script, names) .. last
  end)
  return now, text, n
end

return M
