--- mocl.run.text_table: a table of rows as aligned plain text or as Markdown.
-- Numbers go right, text left; floats get a fixed number of digits.

local text_table = {}

--- A cell as text. Floats with `digits` decimals, or 3 significant digits where that would show
-- only zeros or a very long number; nil is empty.
function text_table.cell(v, digits)
  if v == nil then
    return ""
  elseif math.type(v) ~= "float" then
    return tostring(v)
  elseif v ~= v then
    return "nan"
  end
  local size = math.abs(v)
  if size ~= 0 and (size < 0.5 * 10.0 ^ -digits or size >= 1e7) then
    return ("%.3g"):format(v)
  end
  return (("%%.%df"):format(digits):format(v):gsub("^%-(0%.?0*)$", "%1")) -- no minus zero
end

local function width(s)
  return utf8.len(s) or #s
end

local function pad(s, n, right)
  local space = (" "):rep(n - width(s))
  return right and space .. s or s .. space
end

-- Cells as text, the width of each column, and which columns hold only numbers.
local function lay_out(header, rows, opts, escape)
  local digits = opts and opts.digits or 3
  local cells, widths, numeric = {}, {}, {}
  for j, name in ipairs(header) do
    widths[j], numeric[j] = width(escape(name)), #rows > 0
  end
  for i, row in ipairs(rows) do
    cells[i] = {}
    for j = 1, #header do
      cells[i][j] = escape(text_table.cell(row[j], digits))
      widths[j] = math.max(widths[j], width(cells[i][j]))
      if row[j] ~= nil and type(row[j]) ~= "number" then
        numeric[j] = false
      end
    end
  end
  return cells, widths, numeric
end

local function one_line(s)
  return (s:gsub("%s*[\r\n]+%s*", " "))
end

--- Plain text: a header, a rule, one line a row. opts: digits (3).
function text_table.plain(header, rows, opts)
  local cells, widths, numeric = lay_out(header, rows, opts, one_line)
  local lines = {}
  local function add(row)
    local parts = {}
    for j = 1, #header do
      parts[j] = pad(row[j], widths[j], numeric[j])
    end
    lines[#lines + 1] = (table.concat(parts, "  "):gsub("%s+$", ""))
  end
  add(header)
  local rule = {}
  for j = 1, #header do
    rule[j] = ("-"):rep(widths[j])
  end
  lines[#lines + 1] = table.concat(rule, "  ")
  for _, row in ipairs(cells) do
    add(row)
  end
  return table.concat(lines, "\n") .. "\n"
end

--- A Markdown table. opts: digits (3).
function text_table.markdown(header, rows, opts)
  local function escape(s)
    return (one_line(s):gsub("|", "\\|"))
  end
  local cells, widths, numeric = lay_out(header, rows, opts, escape)
  local lines = {}
  local function add(row)
    local parts = {}
    for j = 1, #header do
      parts[j] = pad(row[j], math.max(widths[j], 3), numeric[j])
    end
    lines[#lines + 1] = "| " .. table.concat(parts, " | ") .. " |"
  end
  local names, rule = {}, {}
  for j, name in ipairs(header) do
    names[j] = escape(name)
    local dashes = ("-"):rep(math.max(widths[j], 3) - 1)
    rule[j] = dashes .. (numeric[j] and ":" or "-")
  end
  add(names)
  add(rule)
  for _, row in ipairs(cells) do
    add(row)
  end
  return table.concat(lines, "\n") .. "\n"
end

local LATEX = { ["\\"] = "\\textbackslash{}", ["~"] = "\\textasciitilde{}", ["^"] = "\\textasciicircum{}", ["±"] = "$\\pm$",
  ["†"] = "$^{\\dagger}$", ["·"] = "$\\cdot$" }

--- Text for LaTeX: what has a meaning there is escaped.
function text_table.latex_text(s)
  return (one_line(s):gsub("[\\~^&%%$#_{}]", function(c)
    return LATEX[c] or "\\" .. c
  end):gsub("[\xC2-\xF4][\x80-\xBF]+", LATEX))
end

--- A LaTeX table of booktabs: a tabular in a table with its caption. opts: digits (3), caption, label.
function text_table.latex(header, rows, opts)
  local escape = text_table.latex_text
  local cells, _, numeric = lay_out(header, rows, opts, escape)
  local columns, names, lines = {}, {}, {}
  for j, name in ipairs(header) do
    columns[j], names[j] = numeric[j] and "r" or "l", escape(name)
  end
  for i, row in ipairs(cells) do
    for j = 1, #header do
      row[j] = row[j] or ""
    end
    lines[i] = table.concat(row, " & ") .. " \\\\"
  end
  local caption = opts and opts.caption and ("\\caption{%s}\n"):format(escape(opts.caption)) or ""
  local label = opts and opts.label and ("\\label{%s}\n"):format(opts.label) or ""
  return ("\\begin{table}\n\\centering\n%s%s\\begin{tabular}{%s}\n\\toprule\n%s \\\\\n\\midrule\n%s\n\\bottomrule\n\\end{tabular}\n\\end{table}\n")
    :format(caption, label, table.concat(columns), table.concat(names, " & "), table.concat(lines, "\n"))
end

return text_table
