--- mocl.report: one self-contained HTML file for a run's directory.
-- No link, no script, no date: it opens from disk, and the same run gives the same bytes. What the
-- directory lacks is left out; everything that comes from a file is escaped.

local config = require "mocl.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local report_env = require "mocl.report_env"
local results = require "mocl.report_results"
local svg = require "mocl.svg"

local report = { summary = results.summary }

local MAX_POINTS = 1000 -- per curve
local MAX_PROMPTS = 3 -- in the table of samples

local escape = svg.escape
local as_table, is_number, number_text = results.as_table, results.is_number, results.number_text
local preference_text, methods = results.preference_text, results.methods
local objectives_of, result_table = results.objectives, results.rows
local figures = results.figures

local CSS = [[
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1b1b;--soft:#666;--rule:#ddd;--mark:#fff3d6}
@media (prefers-color-scheme:dark){:root{--bg:#16181b;--fg:#e6e6e6;--soft:#a0a0a0;--rule:#3a3d42;
--mark:#4a3b12}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;margin:2rem auto;
max-width:1340px;padding:0 1rem}
h1{margin-bottom:0}h2{border-bottom:1px solid var(--rule);margin-top:2.2rem}
p.sub{color:var(--soft);margin-top:.2rem}
table{border-collapse:collapse;margin:.8rem 0}
th,td{border-bottom:1px solid var(--rule);padding:.22rem .7rem;text-align:left;vertical-align:top}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
td.text{white-space:pre-wrap;max-width:46rem}
tr.mark td{background:var(--mark)}
pre{white-space:pre-wrap;border:1px solid var(--rule);padding:.6rem}
.charts{display:flex;flex-wrap:wrap;gap:1rem}figure{margin:0}figcaption{font-weight:600}
summary{cursor:pointer}
@media print{details{display:block}body{max-width:none}}
]]

-- HTML of a table; `kinds` names the class of a column ("n" for numbers, "text" for answers).
local function html_table(header, rows, kinds, marked)
  local out = { "<table>\n<tr>" }
  local function cell(tag, j, v)
    local class = kinds[j] and (' class="%s"'):format(kinds[j]) or ""
    return ("<%s%s>%s</%s>"):format(tag, class, escape(v), tag)
  end
  for j, name in ipairs(header) do
    out[#out + 1] = cell("th", kinds[j] == "n" and j or 0, name)
  end
  out[#out + 1] = "</tr>\n"
  for i, row in ipairs(rows) do
    out[#out + 1] = marked and marked[i] and '<tr class="mark">' or "<tr>"
    for j = 1, #header do
      local v = row[j]
      out[#out + 1] = cell("td", j, is_number(v) and number_text(v) or v == nil and "" or v)
    end
    out[#out + 1] = "</tr>\n"
  end
  out[#out + 1] = "</table>\n"
  return table.concat(out)
end

local function numeric_from(first, last)
  local kinds = {}
  for j = first, last do
    kinds[j] = "n"
  end
  return kinds
end

-- Which points (lists of rewards, larger is better) no other point dominates.
local function non_dominated(points)
  local free = {}
  for i, p in ipairs(points) do
    free[i] = true
    for _, q in ipairs(points) do
      local all, one = true, false
      for j = 1, #p do
        all = all and q[j] >= p[j]
        one = one or q[j] > p[j]
      end
      if all and one then
        free[i] = false
        break
      end
    end
  end
  return free
end

local function numbers(list, n)
  for j = 1, n do
    if not (as_table(list) and is_number(list[j])) then
      return false
    end
  end
  return true
end

-- One chart of two objectives a, b (indices).
local function front_chart(result, objectives, a, b)
  local points, front, rays = {}, {}, {}
  for k, m in ipairs(methods(result)) do
    local pairs_of, which = {}, {}
    for i, r in ipairs(m.part.rewards) do
      if numbers(r, #objectives) then
        pairs_of[#pairs_of + 1] = { r[a], r[b] }
        which[#which + 1] = i
      end
    end
    local free = non_dominated(pairs_of)
    local preferences = as_table(m.part.preferences) or as_table(result.preferences) or {}
    for n, xy in ipairs(pairs_of) do
      local p = as_table(preferences[which[n]])
      local label = p and (#objectives == 2 and preference_text { p[1] } or preference_text(p))
      points[#points + 1] = { x = xy[1], y = xy[2], label = k == 1 and label or nil,
        title = ("%s (%s): %s, %s"):format(m.name, preference_text(p), number_text(xy[1] + 0.0),
          number_text(xy[2] + 0.0)),
        shape = k == 1 and "circle" or "square", hollow = not free[n], series = (k - 1) % 7 + 1 }
      if k == 1 then
        if free[n] then
          front[#front + 1] = xy
        end
        if p and #objectives == 2 and numbers(p, 2) then
          rays[#rays + 1] = { p[1], p[2] }
        end
      end
    end
  end
  table.sort(front, function(p, q)
    return p[1] < q[1] or p[1] == q[1] and p[2] > q[2]
  end)
  local unseen = as_table(result.unseen) and as_table(result.unseen.groups) or {}
  for _, group in ipairs(unseen) do
    for i, r in ipairs(as_table(group.rewards) or {}) do
      if numbers(r, #objectives) then
        points[#points + 1] = { x = r[a], y = r[b], shape = "triangle", hollow = true, series = 5,
          title = "unseen " .. preference_text((as_table(group.preferences) or {})[i]) }
      end
    end
  end
  local sft = as_table(result.sft)
  if sft and numbers(sft.rewards, #objectives) then
    points[#points + 1] = { x = sft.rewards[a], y = sft.rewards[b], label = "SFT",
      title = "SFT model", shape = "square", series = 7 }
  end
  local ref = numbers(result.reference_point, #objectives)
    and { result.reference_point[a], result.reference_point[b] } or nil
  return svg.front { title = objectives[a] .. " and " .. objectives[b], xlabel = objectives[a],
    ylabel = objectives[b], points = points, front = front, rays = rays, reference = ref,
    height = 480 }
end

local function result_section(result)
  local out, objectives, list = {}, objectives_of(result), methods(result)
  if #list == 0 then
    return ""
  end
  if #objectives == 2 or #objectives == 3 then
    out[#out + 1] = "<h2>Front</h2>\n<div class=\"charts\">\n"
    for a = 1, #objectives - 1 do
      for b = a + 1, #objectives do
        out[#out + 1] = "<figure>\n" .. front_chart(result, objectives, a, b) .. "</figure>\n"
      end
    end
    local note = #objectives == 2 and "Labels are the weight of " .. objectives[1]
      .. "; rays are the preferences, from the reference point. " or ""
    out[#out + 1] = "</div>\n<p class=\"sub\">" .. escape(note) .. "Hollow circles are dominated, "
      .. "triangles are unseen preferences, squares are the SFT model or other methods.</p>\n"
  end
  out[#out + 1] = "<h2>Results</h2>\n"
  for _, m in ipairs(list) do
    if #list > 1 then
      out[#out + 1] = "<h3>" .. escape(m.name) .. "</h3>\n"
    end
    local header, rows = result_table(result, m.part)
    out[#out + 1] = html_table(header, rows, numeric_from(2, #header))
    local rows_of = figures(m.part)
    if #rows_of > 0 then
      out[#out + 1] = html_table({ "figure", "value" }, rows_of, { [2] = "n" })
    end
  end
  local groups = as_table(result.unseen) and as_table(result.unseen.groups) or {}
  for i, group in ipairs(groups) do
    out[#out + 1] = ("<h3>Unseen preferences, group %d</h3>\n"):format(i)
    if as_table(group.rewards) then
      local header, rows = result_table({ objectives = objectives }, group)
      out[#out + 1] = html_table(header, rows, numeric_from(2, #header))
    end
    out[#out + 1] = html_table({ "figure", "value" }, figures(group), { [2] = "n" })
  end
  return table.concat(out)
end

-- Calls f(row) for each line of a .jsonl file that is an object; the last line of an interrupted
-- run may be cut.
local function each_row(path, f)
  local file = io.open(path, "rb")
  if not file then
    return
  end
  for line in file:lines() do
    local row = json.decode(line)
    if as_table(row) then
      f(row)
    end
  end
  file:close()
end

-- Measures of the machine rather than of the method: they differ between equal runs.
local function is_timing(key)
  return key == "time" or key == "eta" or key == "step" or key:find("^timing/")
    or key:find("per_second") or key:find("bytes") or key:find("memory")
end

-- The chart and the curve that a key of metrics.jsonl belongs to: objectives share a chart, and so
-- do the shares of c.
local function chart_of(key, objectives)
  local dir, last = key:match("^(.*)/([^/]*)$")
  if dir == "c" or dir and dir:find("/c$") then
    return dir, last
  elseif (last or key):find("^c_") then
    return (dir and dir .. "/" or "") .. "c", (last or key):sub(3)
  elseif dir and last:find("^%d+$") then
    return dir, last
  end
  for _, name in ipairs(objectives) do
    local head = key:sub(1, -#name - 2)
    if #head > 0 and key:sub(-#name) == name and key:sub(#head + 1, #head + 1):find("[/_]") then
      return head, name
    end
  end
  return key, key
end

local RANKS = { "reward", "kl", "beta", "^c$", "/c$", "clip", "v[af]", "loss" }

local function rank(chart)
  for i, pattern in ipairs(RANKS) do
    if chart:find(pattern) then
      return i
    end
  end
  return #RANKS + 1
end

local function curves_section(dir, objectives)
  local stages, by_name = {}, {}
  each_row(fs.join(dir, "metrics.jsonl"), function(row)
    local name = type(row.stage) == "string" and row.stage or ""
    local stage = by_name[name]
    if not stage then
      stage = { name = name, charts = {}, order = {}, rows = 0 }
      by_name[name] = stage
      stages[#stages + 1] = stage
    end
    stage.rows = stage.rows + 1
    local x = is_number(row.step) and row.step or stage.rows
    for key, v in pairs(row) do
      if (is_number(v) or v == json.null) and not is_timing(key) then
        local chart, curve = chart_of(key, objectives)
        local c = stage.charts[chart]
        if not c then
          c = {}
          stage.charts[chart] = c
          stage.order[#stage.order + 1] = chart
        end
        c[curve] = c[curve] or {}
        table.insert(c[curve], { x, is_number(v) and v or 0 / 0 })
      end
    end
  end)
  local out = {}
  for _, stage in ipairs(stages) do
    table.sort(stage.order, function(a, b)
      local ra, rb = rank(a), rank(b)
      return ra < rb or ra == rb and a < b
    end)
    if #stage.order > 0 then
      out[#out + 1] = ("<h2>Training%s</h2>\n<div class=\"charts\">\n"):format(
        stage.name ~= "" and ": " .. escape(stage.name) or "")
      for _, chart in ipairs(stage.order) do
        local series, names = {}, {}
        for name in pairs(stage.charts[chart]) do
          names[#names + 1] = name
        end
        table.sort(names)
        for i, name in ipairs(names) do
          series[i] = { name = name,
            points = svg.downsample(stage.charts[chart][name], MAX_POINTS) }
        end
        out[#out + 1] = ("<figure><figcaption>%s</figcaption>\n%s</figure>\n"):format(escape(chart),
          svg.lines { title = chart, xlabel = "step", series = series, width = 420, height = 260 })
      end
      out[#out + 1] = "</div>\n"
    end
  end
  return table.concat(out)
end

-- What samples.jsonl holds of the last evaluation and, before it, of the SFT model: rewards per
-- objective and the rows of the first prompts. A new stage or step begins a new evaluation.
local function read_samples(dir)
  local function empty()
    return { rewards = {}, prompts = {}, order = {}, rows = 0 }
  end
  local before, after, current = empty(), empty(), nil
  each_row(fs.join(dir, "samples.jsonl"), function(row)
    local to = before
    if row.model ~= "sft" and row.stage ~= "sft" then
      local key = tostring(row.stage) .. "\0" .. tostring(row.step)
      if key ~= current then
        after, current = empty(), key
      end
      to = after
    end
    to.rows = to.rows + 1
    for j, r in ipairs(as_table(row.rewards) or {}) do
      to.rewards[j] = to.rewards[j] or {}
      if is_number(r) then
        table.insert(to.rewards[j], r)
      end
    end
    local prompt = row.prompt
    if type(prompt) == "string" then
      if not to.prompts[prompt] and #to.order < 500 then
        to.prompts[prompt] = { text = prompt, index = #to.order + 1, rows = {}, seen = {}, n = 0 }
        to.order[#to.order + 1] = to.prompts[prompt]
      end
      local p, preference = to.prompts[prompt], preference_text(row.preference)
      if p and not p.seen[preference] then -- one answer for each preference
        p.seen[preference] = true
        p.n = p.n + 1
        p.rows[p.n] = row
      end
    end
  end)
  return before, after
end

local function histogram_section(before, after, objectives)
  local out = {}
  for j = 1, #after.rewards do
    local series = {}
    if before.rewards[j] then
      series[1] = { name = "before", values = before.rewards[j] }
    end
    series[#series + 1] = { name = "after", values = after.rewards[j] }
    local name = objectives[j] or "objective " .. j
    out[#out + 1] = ("<figure><figcaption>%s</figcaption>\n%s</figure>\n"):format(escape(name),
      svg.histogram { title = "reward " .. name, xlabel = "reward", ylabel = "share",
        series = series, width = 420, height = 260 })
  end
  if #out == 0 then
    return ""
  end
  return "<h2>Rewards of answers</h2>\n<div class=\"charts\">\n" .. table.concat(out) .. "</div>\n"
end

local function preference_less(a, b)
  local p, q = as_table(a.preference) or {}, as_table(b.preference) or {}
  for i = 1, math.min(#p, #q) do
    if p[i] ~= q[i] and is_number(p[i]) and is_number(q[i]) then
      return p[i] < q[i]
    end
  end
  return #p < #q
end

local function samples_section(before, after, objectives)
  local prompts = table.move(after.order, 1, #after.order, 1, {})
  table.sort(prompts, function(a, b)
    return a.n > b.n or a.n == b.n and a.index < b.index
  end)
  if #prompts == 0 then
    return ""
  end
  local out = { "<h2>Samples</h2>\n" }
  local header = { "preference", "answer" }
  for j = 1, math.max(#objectives, #after.rewards) do
    header[#header + 1] = objectives[j] or "objective " .. j
  end
  local kinds = numeric_from(3, #header)
  kinds[2] = "text"
  for i = 1, math.min(MAX_PROMPTS, #prompts) do
    local p, rows = prompts[i], {}
    local function add(label, row)
      local cells = { label, tostring(row.response or "") }
      for j, r in ipairs(as_table(row.rewards) or {}) do
        cells[2 + j] = is_number(r) and r + 0.0 or nil
      end
      rows[#rows + 1] = cells
    end
    local sft = before.prompts[p.text]
    if sft and sft.rows[1] then
      add("SFT", sft.rows[1])
    end
    table.sort(p.rows, preference_less)
    for _, row in ipairs(p.rows) do
      add(preference_text(row.preference), row)
    end
    out[#out + 1] = ("<details%s><summary>Prompt %d</summary>\n<pre>%s</pre>\n%s</details>\n")
      :format(i == 1 and " open" or "", i, escape(p.text), html_table(header, rows, kinds))
  end
  return table.concat(out)
end

local function decode_file(path)
  local text = fs.read(path)
  return text and as_table(json.decode(text)) or nil
end

local function provenance_section(dir, env)
  local out = {}
  local cfg = config.load(fs.join(dir, "config.lua"))
  if cfg then
    local flat, keys, rows, marked = config.flatten(cfg), {}, {}, {}
    local changed = env and as_table(env.changed) or {}
    for key in pairs(flat) do
      keys[#keys + 1] = key
    end
    table.sort(keys)
    for i, key in ipairs(keys) do
      local c = as_table(changed[key])
      rows[i] = { key, config.text(flat[key]), c and "default " .. tostring(c.default) or "" }
      marked[i] = c ~= nil
    end
    out[#out + 1] = "<h2>Configuration</h2>\n"
      .. html_table({ "option", "value", "" }, rows, {}, marked)
  end
  local rows = {}
  if env then
    local flat = config.flatten(env)
    local keys = {}
    for key in pairs(flat) do
      if not key:find("^changed%.") then
        keys[#keys + 1] = key
      end
    end
    table.sort(keys)
    for i, key in ipairs(keys) do
      rows[i] = { key, config.text(flat[key]) }
    end
  end
  local cmdline = fs.read(fs.join(dir, "cmdline.txt"))
  if cmdline then
    table.insert(rows, 1, { "command", (cmdline:gsub("%s+$", "")) })
  end
  if #rows > 0 then
    out[#out + 1] = "<h2>Provenance</h2>\n" .. html_table({ "fact", "value" }, rows, {})
  end
  return table.concat(out)
end

--- The report of a run's directory as HTML. opts.result is used in place of result.json.
function report.html(dir, opts)
  local result = opts and opts.result or decode_file(fs.join(dir, "result.json"))
  local env = decode_file(fs.join(dir, "env.json"))
  local title = tostring(result and result.recipe or env and env.recipe or "run")
  local sub = {}
  for _, key in ipairs { "method", "seed", "device", "training_samples" } do
    local v = result and result[key]
    if type(v) == "string" or is_number(v) then
      sub[#sub + 1] = key:gsub("_", " ") .. " " .. config.text(v)
    end
  end
  if not result then
    sub[1] = "this run has no result yet"
  end
  local objectives = result and objectives_of(result) or {}
  local before, after = read_samples(dir)
  return table.concat {
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n',
    '<meta name="viewport" content="width=device-width">\n',
    "<title>", escape(title), "</title>\n<style>\n", CSS, svg.css, "</style>\n</head>\n<body>\n",
    "<h1>", escape(title), '</h1>\n<p class="sub">', escape(table.concat(sub, ", ")), "</p>\n",
    result and report_env.section(result) or "",
    result and result_section(result) or "",
    curves_section(dir, objectives),
    histogram_section(before, after, objectives),
    samples_section(before, after, objectives),
    provenance_section(dir, env),
    "</body>\n</html>\n",
  }
end

--- Writes report.html in a run's directory: its path, or nil, message, code.
function report.write(dir)
  local found = false
  for _, name in ipairs { "config.lua", "result.json", "metrics.jsonl", "samples.jsonl" } do
    found = found or fs.exists(fs.join(dir, name))
  end
  if not found then
    return nil, dir .. ": holds no run", "IO"
  end
  local path = fs.join(dir, "report.html")
  local ok, err, code = fs.write(path, report.html(dir))
  if not ok then
    return nil, err, code
  end
  return path
end

return report
