--- mocl.report.html: the style, tables and texts of a report.

local results = require "mocl.report.results"
local svg = require "mocl.report.svg"

local html = { escape = svg.escape }

local escape = svg.escape
local is_number, number_text = results.is_number, results.number_text

html.css = [[
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1b1b;--soft:#5c5c5c;--rule:#ddd;--mark:#fff3d6;
--tint:#0072b2}
@media (prefers-color-scheme:dark){:root{--bg:#16181b;--fg:#e6e6e6;--soft:#a5a5a5;--rule:#3a3d42;
--mark:#4a3b12;--tint:#3b9fe0}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:2rem auto;
max-width:1320px;padding:0 1rem}
h1{margin:0}h2{border-bottom:1px solid var(--rule);margin-top:2.4rem}h3{margin-bottom:.4rem}
p.sub,figcaption span,td.note{color:var(--soft)}p.sub{margin-top:.2rem;max-width:60rem}p.lead{font-size:1.1rem;max-width:60rem;margin:.8rem 0}
nav a{margin-right:1rem;white-space:nowrap}a{color:var(--tint)}
.tiles{display:flex;flex-wrap:wrap;gap:.7rem;margin:1rem 0}
.tiles div{border:1px solid var(--rule);border-radius:4px;padding:.4rem .9rem}
.tiles b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.banner{background:var(--mark);padding:.5rem .9rem;border-radius:4px}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;margin:.6rem 0}
caption{white-space:nowrap;text-align:left;font-weight:600;padding-bottom:.2rem}
th,td{border-bottom:1px solid var(--rule);padding:.22rem .7rem;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
td.tint{background:color-mix(in srgb,var(--tint) var(--t),transparent)}
td.text{white-space:pre-wrap;overflow-wrap:anywhere;min-width:14rem;max-width:46rem;
unicode-bidi:isolate}
td.name{white-space:nowrap}
td.code,td.long{overflow-wrap:anywhere}td.code{font-family:ui-monospace,monospace;font-size:.9em}
tr.mark td{background:var(--mark)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;border:1px solid var(--rule);padding:.6rem;
unicode-bidi:isolate}
.charts{display:flex;flex-wrap:wrap;gap:1.2rem 1rem;align-items:flex-start}.charts>div{max-width:100%}
figure{margin:0;max-width:100%}figcaption{font-weight:600;max-width:26rem}
figcaption span{display:block;font-weight:400;font-size:.87em;overflow-wrap:anywhere}
summary{cursor:pointer;margin:.4rem 0}
.pair{display:flex;flex-wrap:wrap;gap:0 2.5rem;align-items:flex-start}.pair>*{max-width:100%}
.phone{display:none}@media screen and (max-width:640px){.desk{display:none}.phone{display:block}.tiles div{flex:1 1 40%}}
@media screen{figure.wide{overflow-x:auto}figure.wide svg{min-width:35rem}}
@media print{body{max-width:none;margin:0}nav{display:none}figure,tr,.tiles div{break-inside:avoid}
.charts .scroll{break-inside:avoid}h2,h3,summary,h2+p{break-after:avoid}.scroll{overflow:visible}
details::details-content{content-visibility:visible;display:block}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}}
]]

local MAX_TEXT = 1200 -- bytes of a text that are shown; the rest can be unfolded
local MAX_REST = 20000 -- bytes that are kept at all

-- the first n bytes of s, or fewer so that no character is cut
local function head(s, n)
  while n > 0 and s:byte(n + 1) and s:byte(n + 1) & 0xC0 == 0x80 do
    n = n - 1
  end
  return s:sub(1, n)
end

--- A text of a run as HTML: escaped, a long one folded after its beginning, a very long one cut.
function html.text(s)
  if #s <= MAX_TEXT then
    return escape(s)
  end
  local first = head(s, MAX_TEXT)
  local rest = head(s:sub(#first + 1), MAX_REST)
  local cut = #s - #first - #rest
  return ("%s<details><summary>%d more bytes</summary>%s%s</details>"):format(escape(first),
    #s - #first, escape(rest), cut > 0 and (" [%d bytes are left out]"):format(cut) or "")
end

--- A table. columns = list of {name, kind}: kind is "n" for numbers, "tint" for numbers on a
-- background by their size within the column, "text" for answers, "name", which is not wrapped, "code", "long" or "note". rows =
-- lists of cells, marked = true for rows in another colour. opts: caption.
function html.table(columns, rows, opts)
  local out = { '<div class="scroll"><table>\n' }
  local function put(...)
    out[#out + 1] = (...):format(select(2, ...))
  end
  if opts and opts.caption then
    put("<caption>%s</caption>\n", escape(opts.caption))
  end
  put "<tr>"
  local least, most = {}, {}
  for j, c in ipairs(columns) do
    put(c[2] == "n" and '<th class="n">%s</th>' or c[2] == "tint" and '<th class="n">%s</th>'
      or "<th>%s</th>", escape(c[1]))
    for _, row in ipairs(rows) do
      local v = row[j]
      if svg.finite(v) then
        least[j], most[j] = math.min(least[j] or v, v), math.max(most[j] or v, v)
      end
    end
  end
  put "</tr>\n"
  for _, row in ipairs(rows) do
    put(row.marked and '<tr class="mark">' or "<tr>")
    for j, c in ipairs(columns) do
      local v, kind = row[j], c[2]
      local text = is_number(v) and number_text(v) or v == nil and "" or tostring(v)
      if kind == "tint" then
        local spread = svg.finite(v) and most[j] - least[j] or 0
        local size = spread > 0 and spread > 1e-9 * math.max(math.abs(most[j]), math.abs(least[j]))
          and (v - least[j]) / spread
        put(size and '<td class="n tint" style="--t:%.0f%%">%s</td>' or '<td class="n">%s%s</td>',
          size and 45 * size or "", escape(text))
      elseif kind == "text" then
        put('<td class="text" dir="auto">%s</td>', html.text(text))
      elseif kind then
        put('<td class="%s">%s</td>', kind, escape(text))
      else
        put("<td>%s</td>", escape(text))
      end
    end
    put "</tr>\n"
  end
  put "</table></div>\n"
  return table.concat(out)
end

--- A chart with its title, and a note below it. A wide one is not made smaller than its text can be read. narrow: the chart as
-- it is drawn for a phone.
function html.figure(title, note, chart, wide, narrow)
  if narrow then
    chart = ('<div class="desk">%s</div>\n<div class="phone">%s</div>\n'):format(chart, narrow)
  end
  return ("<figure%s><figcaption>%s%s</figcaption>\n%s</figure>\n"):format(
    wide and ' class="wide"' or "", escape(title),
    note and note ~= "" and "<span>" .. escape(note) .. "</span>" or "", chart)
end

--- A section with its heading; nothing for an empty body.
function html.section(id, title, body)
  return body ~= "" and ('<section id="%s">\n<h2>%s</h2>\n%s</section>\n'):format(id, escape(title),
    body) or ""
end

--- The page: title, a line below it, sections as a list of {id, name, html} of which empty ones are left out, what stands in
-- front of them, and what to conclude, as text, above all.
function html.page(title, sub, front, sections, lead)
  local links, body = {}, {}
  for _, s in ipairs(sections) do
    if s[3] ~= "" then
      links[#links + 1] = ('<a href="#%s">%s</a>'):format(s[1], escape(s[2]))
      body[#body + 1] = s[3]
    end
  end
  return table.concat {
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n',
    -- whatever a sample may smuggle in: the page loads nothing and runs nothing
    '<meta http-equiv="Content-Security-Policy" ',
    'content="default-src \'none\'; style-src \'unsafe-inline\'">\n',
    "<title>", escape(title), "</title>\n<style>\n", html.css, svg.css, "</style>\n</head>\n<body>\n",
    "<h1>", escape(title), '</h1>\n<p class="sub">', escape(sub), "</p>\n",
    lead and lead ~= "" and '<p class="lead">' .. escape(lead) .. "</p>\n" or "",
    #links > 1 and "<nav>" .. table.concat(links, "\n") .. "</nav>\n" or "",
    front,
    table.concat(body),
    "</body>\n</html>\n",
  }
end

return html
