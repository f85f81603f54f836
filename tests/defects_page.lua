--- defects_page: the rows of defects_table.lua with names, the change that each makes, and their table in
-- docs/defects.md.

local M = { rows = {} }

for i, row in ipairs(require "defects_table") do
  M.rows[i] = { what = row[1], file = row[2], old = row[3], new = row[4], test = row[5] }
end

local function get(path)
  local file = assert(io.open(path, "rb"))
  local text = file:read("a")
  file:close()
  return text
end

--- Writes a file.
function M.put(path, text)
  local file = assert(io.open(path, "wb"))
  assert(file:write(text))
  assert(file:close())
end

--- The text of a row's file below root, and the text with the defect; nil for the latter and a reason where the old
-- text does not stand there exactly once.
function M.change(root, row)
  local text = get(root .. "/" .. row.file)
  local first, last = text:find(row.old, 1, true)
  if not first then
    return text, nil, "the text of the defect does not stand there: " .. row.old
  elseif text:find(row.old, first + 1, true) then
    return text, nil, "the text of the defect stands there more than once: " .. row.old
  end
  return text, text:sub(1, first - 1) .. row.new .. text:sub(last + 1)
end

local BEGIN, END = "<!-- defects: written by tests/defects.lua -->\n", "<!-- end of defects -->\n"

-- a cell: the texts have no line breaks, and a bar would end it
local function cell(text)
  return (text:gsub("|", "\\|"))
end

local function table_text()
  local lines = { "| file | defect | caught by |", "|---|---|---|" }
  for _, row in ipairs(M.rows) do
    lines[#lines + 1] = ("| %s | %s | %s |"):format(row.file:gsub("^stdlib/mocl/", ""), cell(row.what), cell(row.test))
  end
  return table.concat(lines, "\n") .. "\n"
end

--- The text of the page with the table as it is now.
function M.page(path)
  local text = get(path)
  local _, first = text:find(BEGIN, 1, true)
  local last = text:find(END, 1, true)
  if not first or not last then
    error(path .. ": the marks of the table are not there", 0)
  end
  return text:sub(1, first) .. table_text() .. text:sub(last), text
end

--- Writes the table into the page.
function M.write(path)
  M.put(path, (M.page(path)))
end

return M
