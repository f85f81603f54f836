--- mocl.report.comparison_page: a comparison (mocl.report.comparison) as one self-contained HTML file: tables, fronts of all methods,
-- rewards against weights, hypervolume over training samples, one prompt under all preferences and methods.

local comparison = require "mocl.report.comparison"
local fs = require "mocl.fs"
local front = require "mocl.report.front"
local html = require "mocl.report.html"
local json = require "mocl.json"
local metrics = require "mocl.metrics"
local svg = require "mocl.report.svg"
local svg_front = require "mocl.report.svg_front"

local page = {}

local SHAPES = { "circle", "diamond", "square", "triangle" }
local UNIT = { reward = "mean reward, SFT model = 1", rule = "value by the hidden rule" }

-- The mark of the k-th method: two methods may share a colour or a shape, and do not share both.
local function mark_of(k)
  return (k - 1) % svg.COLORS + 1, SHAPES[(k - 1) // svg.COLORS % #SHAPES + 1]
end

-- A name in a legend. Capitals are wider than the letters that places in a legend are counted in; spaces, which are not drawn, make room.
local function legend_text(m)
  return m.label .. (" "):rep((select(2, m.label:gsub("%u", "")) + 2) // 3)
end

-- Mean points of a method by a judge: list of {r, p, free}.
local function points_of(method, judge)
  local rows, list = comparison.mean_rewards(method, judge), {}
  for i, r in ipairs(rows or {}) do
    list[i] = { r = r, p = method.runs[1].preferences[i] }
  end
  for _, i in ipairs(rows and metrics.nondominated(rows) or {}) do
    list[i].free = true
  end
  return list
end

local function title_of(m, point)
  local values = {}
  for j, v in ipairs(point.r) do
    values[j] = ("%.3f"):format(v)
  end
  return ("%s (%s): %s"):format(m.label, front.preference_text(point.p), table.concat(values, ", "))
end

-- The fronts of methods in the plane of objectives a and b. shown: list of {k, method}; label: whether points have labels; rays.
local function fronts(setting, judge, shown, a, b, o)
  local n = #setting.objectives
  local points, lines, legend, rays, seen = {}, {}, {}, {}, {}
  for _, s in ipairs(shown) do
    local k, m = s[1], s[2]
    local series, shape = mark_of(k)
    local list = points_of(m, judge)
    for _, point in ipairs(list) do
      points[#points + 1] = { x = point.r[a], y = point.r[b], series = series, shape = shape, hollow = not point.free,
        label = s.labels and front.label_of(point.p, n) or nil, color = s.colors and front.color_of(point.p, n) or nil,
        title = title_of(m, point) }
      local key = ("%.3f"):format(point.p[a] / math.max(point.p[a] + point.p[b], 1e-9))
      if s.labels and point.p[a] + point.p[b] > 0 and not seen[key] then
        seen[key] = true
        rays[#rays + 1] = { point.p[a], point.p[b], label = n == 2 and front.label_of(point.p, n) or nil,
          color = n == 2 and front.color_of(point.p, n) or nil, series = n > 2 and 8 or nil }
      end
    end
    if n == 2 and #list > 0 then
      lines[#lines + 1] = front.line(list, a, b, series)
    end
    legend[#legend + 1] = #list > 0 and { text = legend_text(m), series = series, shape = shape, kind = n == 2 and "front" or nil } or nil
  end
  if #points == 0 then
    return nil
  elseif judge == "reward" then -- the unit of all figures
    points[#points + 1] = { x = 1, y = 1, shape = "square", series = 7, label = "SFT", title = "SFT model" }
    legend[#legend + 1] = { text = "SFT model", shape = "square", series = 7 }
  end
  legend[#legend + 1] = #rays > 0 and { text = "rays: reference + t·p", kind = "ray" } or nil
  return svg_front.draw { title = ("fronts of %s and %s, %s%s"):format(setting.objectives[a], setting.objectives[b], UNIT[judge], o.title or ""),
    xlabel = ("%s (%s)"):format(setting.objectives[a], UNIT[judge]), ylabel = ("%s (%s)"):format(setting.objectives[b], UNIT[judge]),
    width = o.width, height = o.height, points = points, fronts = lines, rays = #rays > 0 and rays or nil, reference = { 0, 0 },
    legend = legend, enlarged = true }
end

local function each_pair(n, f)
  for a = 1, n - 1 do
    for b = a + 1, n do
      f(a, b)
    end
  end
end

-- All methods in one chart, then each with its own labels and rays, beside MOC's.
local function fronts_section(setting)
  local out, all, moc = { '<div class="charts">\n' }, {}, nil
  for k, m in ipairs(setting.methods) do
    all[k] = { k, m }
    moc = m.name == "moc" and { k, m } or moc
  end
  local function put(title, chart, wide)
    out[#out + 1] = chart and html.figure(title, nil, chart, wide) or ""
  end
  local n = #setting.objectives
  each_pair(n, function(a, b)
    for _, j in ipairs(comparison.JUDGES) do
      put(("All methods, by the %s"):format(j[2]), fronts(setting, j[1], all, a, b, { width = 620, height = 540 }), true)
    end
  end)
  out[#out + 1] = '</div>\n<p class="sub">' .. html.escape(("A point is the mean over the seeds of a preference's mean rewards; hollow, where "
    .. "another point of its method dominates it. Below, each method with the weight of %s at its points and the rays of its preferences "
    .. "from the reference point%s."):format(setting.objectives[1], moc and ", and MOC's front beside it" or "")) .. '</p>\n<div class="charts">\n'
  if n == 2 then
    for k, m in ipairs(setting.methods) do
      local shown = { { k, m, labels = true, colors = true } }
      if moc and m ~= moc[2] then
        table.insert(shown, 1, moc)
      end
      put(m.label, fronts(setting, "reward", shown, 1, 2, { width = 420, height = 400, title = ": " .. m.label }))
    end
  end
  out[#out + 1] = "</div>\n"
  return table.concat(out)
end

-- Rewards of each objective against its weight, for each method.
local function control_section(setting)
  local out = { '<div class="charts">\n' }
  for _, judge in ipairs(comparison.JUDGES) do
    for j, name in ipairs(setting.objectives) do
      local points, lines, legend = {}, {}, {}
      for k, m in ipairs(setting.methods) do
        local series, shape = mark_of(k)
        local course, list = { series = series }, points_of(m, judge[1])
        for _, point in ipairs(list) do
          points[#points + 1] = { x = point.p[j], y = point.r[j], series = series, shape = shape, title = title_of(m, point) }
          course[#course + 1] = { point.p[j], point.r[j] }
        end
        table.sort(course, function(p, q)
          return p[1] < q[1]
        end)
        lines[#lines + 1] = #setting.objectives == 2 and #course > 1 and course or nil
        legend[#legend + 1] = #list > 0 and { text = legend_text(m), series = series, shape = shape, kind = "front" } or nil
      end
      if #points > 0 then
        out[#out + 1] = html.figure(("%s, by the %s"):format(name, judge[2]), nil, svg_front.draw { width = 560, height = 400,
          title = ("%s against its weight, by the %s"):format(name, judge[2]), xlabel = "weight of " .. name, ylabel = UNIT[judge[1]],
          points = points, fronts = lines, legend = legend })
      end
    end
  end
  out[#out + 1] = '</div>\n<p class="sub">A reward that rises with its weight is controlled. Means over the seeds.</p>\n'
  return table.concat(out)
end

-- Hypervolume and tau over the training samples, means over the seeds; each method begins at the SFT model.
local function samples_section(setting)
  local out, charts = { '<div class="charts">\n' }, 0
  for _, f in ipairs { { "hypervolume", "hypervolume" }, { "rule_hypervolume", "hypervolume by the hidden rule" }, { "kendall_tau", "Kendall's tau" } } do
    local series, any = {}, false
    for k, m in ipairs(setting.methods) do
      local points, start = {}, setting.sft and setting.sft[f[1]]
      points[1] = start and { 0, start } or nil
      for i, c in ipairs(m.runs[1].curve or {}) do
        local sum = 0
        for _, run in ipairs(m.runs) do
          local v = (run.curve or {})[i] and run.curve[i][f[1]]
          sum = sum + (type(v) == "number" and v or 0 / 0) / #m.runs
        end
        points[#points + 1], any = { c.samples, sum }, true
      end
      series[k] = { name = legend_text(m), points = points }
    end
    if any then
      charts = charts + 1
      out[#out + 1] = html.figure(f[2], nil, svg.lines { title = f[2] .. " over training samples", xlabel = "training samples", ylabel = f[2],
        width = 560, height = 400, series = series })
    end
  end
  out[#out + 1] = '</div>\n<p class="sub">From the checkpoints of each method, with fewer answers than the tables. A method that keeps none has '
    .. "no curve. The first point is the SFT model.</p>\n"
  return charts > 0 and table.concat(out) or ""
end

-- One prompt: a row for each preference, a column for each method.
local function answers_section(setting)
  local shown, columns, rows, at = setting.shown, { { "preference", "name" } }, {}, {}
  if not shown then
    return ""
  end
  for i, p in ipairs(shown.preferences) do
    rows[i] = { front.preference_text(p) }
    at[rows[i][1]] = i
  end
  for _, m in ipairs(setting.methods) do
    local answers = shown.methods[m.name]
    if answers then
      columns[#columns + 1] = { m.label, "text" }
      for _, a in ipairs(answers) do
        local i = at[front.preference_text(a.preference)]
        if i then
          rows[i][#columns] = a.response
        end
      end
      for _, row in ipairs(rows) do
        row[#columns] = row[#columns] or ""
      end
    end
  end
  return '<p>Prompt: <b dir="auto">' .. html.escape(shown.prompt) .. "</b></p>\n" .. html.table(columns, rows)
    .. ('<p class="sub">Seed %d. Preferences are the weights of %s; an empty cell is a preference for which the method has no policy.</p>\n')
    :format(shown.seed, html.escape(table.concat(setting.objectives, ", ")))
end

-- Tables, those of one figure by both judges side by side.
local function tables_section(tables)
  local out, before = {}, nil
  for i, t in ipairs(tables) do
    local columns = {}
    for j, name in ipairs(t.header) do
      columns[j] = { name, (name == "method" or name == "setting") and "name" or "n" }
    end
    local figure = t.title:gsub(", by the .*", "")
    out[i] = (i == 1 and '<div class="charts">\n' or figure ~= before and '</div>\n<div class="charts">\n' or "") .. "<div>\n" .. html.table(columns, t.rows, { caption = t.title })
      .. (t.note and '<p class="sub">' .. html.escape(t.note) .. "</p>\n" or "") .. "</div>\n"
    before = figure
  end
  return table.concat(out) .. "</div>\n"
end

--- page.html(data, costs) -> text. costs: the table of comparison.costs, or nil.
function page.html(data, costs)
  local seeds, sections = {}, {}
  for i, s in ipairs(data.seeds) do
    seeds[i] = tostring(s)
  end
  local tables = comparison.tables(data)
  tables[#tables + 1] = costs
  local function add(id, name, body)
    sections[#sections + 1] = { id, name, html.section(id, name, body) }
  end
  add("tables", "Tables", tables_section(tables))
  for i, setting in ipairs(data.settings) do
    local suffix, of = #data.settings > 1 and "-" .. i or "", #data.settings > 1 and ": " .. setting.name or ""
    add("fronts" .. suffix, "Fronts" .. of, fronts_section(setting))
    add("control" .. suffix, "Control" .. of, control_section(setting))
    add("samples" .. suffix, "Over samples" .. of, samples_section(setting))
    add("answers" .. suffix, "Answers" .. of, answers_section(setting))
  end
  return html.page("Comparison of methods", ("%d training samples for each method%s; seed%s %s"):format(data.budget,
    data.unequal and ", or for each of its policies" or "", #seeds == 1 and "" or "s", table.concat(seeds, ", ")), "", sections)
end

--- page.of(dir) -> the page of a comparison's directory, from its comparison.json and timing.json; or nil, message.
function page.of(dir)
  local path = fs.join(dir, "comparison.json")
  local data, message = json.load(path)
  if not data then
    return nil, message
  end
  local ok, text = pcall(function()
    return page.html(data, comparison.costs(data, json.load(fs.join(dir, "timing.json")) or {}))
  end)
  if not ok then
    return nil, ("%s: is not what a comparison writes there (%s)"):format(path, tostring(text))
  end
  return text
end

return page
