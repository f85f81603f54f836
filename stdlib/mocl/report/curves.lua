--- mocl.report.curves: metrics.jsonl as charts, one section per stage.
-- Keys that belong together share a chart; what never changes is a line of text. Names that the
-- recipes use (TRL's) get a title and a unit, any other key is its own title.

local fs = require "mocl.fs"
local html = require "mocl.report.html"
local json = require "mocl.json"
local results = require "mocl.report.results"
local svg = require "mocl.report.svg"

local report_curves = {}

local MAX_POINTS = 400 -- per curve: about two for each pixel of a chart
local MAX_CHARTS, MAX_CURVES = 40, 12 -- per stage, per chart
local MIN_SMOOTH = 60 -- points from which on a moving average is drawn too
local MAX_RAW = 3 -- curves in a chart up to which what was averaged is drawn behind

local is_number, as_table = results.is_number, results.as_table

--- Calls f(row) for each line of a .jsonl file that is an object; the last line of an interrupted
-- run may be cut.
function report_curves.each_row(path, f)
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
-- do c and its shares.
local function chart_of(key, objectives)
  local dir, last = key:match("^(.*)/([^/]*)$")
  local head, name = dir and dir .. "/" or "", last or key
  if dir == "c" or dir and dir:find("/c$") then
    return dir, last
  elseif name == "c" then
    return head .. "c", "mean"
  elseif name:find("^c_") then
    return head .. "c", name:sub(3)
  elseif name:find("^share_") then
    return head .. "c", name:sub(7)
  elseif dir and last:find("^%d+$") then
    return dir, last
  end
  for _, objective in ipairs(objectives) do
    local stem = key:sub(1, -#objective - 2)
    if #stem > 0 and key:sub(-#objective) == objective
      and key:sub(#stem + 1, #stem + 1):find("[/_]") then
      return stem, objective
    end
  end
  return key, key
end

-- Charts in the order in which they are shown: name, title, unit, note.
local KNOWN = {
  { "env/reward_mean", "Rewards", "mean reward", "per objective, mean over the answers of a step" },
  { "objective/kl", "KL to the SFT model", "nats per answer" },
  { "objective/kl_coef", "beta", "weight of the KL", "adapts to the target of the KL" },
  { "ppo/beta", "beta", "weight of the KL" },
  { "moc/c", "c and its shares", "mean, share of answers",
    "mean: c itself; one, zero: c = 1 or 0; indicator: constraint violated; negative_w: an "
      .. "objective got a negative weight" },
  { "ppo/policy/clipfrac", "Clip fraction", "share of tokens",
    "ratio beyond the clip range, last epoch" },
  { "ppo/policy/approxkl", "KL of an update", "nats per token",
    "to the policy that answered, estimated" },
  { "ppo/loss/value", "Value error", "mean squared error", "of the value heads, in rewards" },
  { "ppo/val/error", "Value errors", "mean squared error", "per objective" },
  { "ppo/loss/policy", "Policy loss", "clipped surrogate" },
  { "objective/entropy", "Entropy", "nats per token" },
  { "ppo/grad_norm", "Gradient norm", "norm", "before it is clipped" },
  { "ppo/learning_rate", "Step size", "learning rate" },
  { "tokens/responses_len_mean", "Length of answers", "tokens" },
  { "ppo/first_ratio_error", "Ratio of the first minibatch", "|ratio - 1|" },
  { "loss/base", "Loss", "nats per token" },
  { "loss/sft", "Loss", "nats per token of the answers" },
  { "loss/reward", "Loss", "nats per pair" },
  { "accuracy", "Accuracy", "share of pairs" },
}
local RANK = {}
for i, known in ipairs(KNOWN) do
  RANK[known[1]] = i
end
local PATTERNS = { "reward", "kl", "beta", "/c$", "^c$", "clip", "v[af]", "loss" }

local function rank(chart)
  if RANK[chart] then
    return RANK[chart]
  end
  for i, pattern in ipairs(PATTERNS) do
    if chart:find(pattern) then
      return #KNOWN + i
    end
  end
  return #KNOWN + #PATTERNS + 1
end

-- stages in the order of the file: {name, rows, last, charts = {name -> curves}, order}
local function read(dir, objectives)
  local stages, by_name = {}, {}
  report_curves.each_row(fs.join(dir, "metrics.jsonl"), function(row)
    local name = type(row.stage) == "string" and row.stage or ""
    local stage = by_name[name]
    if not stage then
      stage = { name = name, charts = {}, order = {}, rows = 0 }
      by_name[name] = stage
      stages[#stages + 1] = stage
    end
    stage.rows = stage.rows + 1
    local x = svg.finite(row.step) and row.step or stage.rows
    stage.last = x
    for key, v in pairs(row) do
      if (is_number(v) or v == json.null) and not is_timing(key) then
        local chart, curve = chart_of(key, objectives)
        local c = stage.charts[chart]
        if not c then
          c = { constant = true }
          stage.charts[chart] = c
          stage.order[#stage.order + 1] = chart
        end
        local curves = c.curves or {}
        c.curves = curves
        curves[curve] = curves[curve] or { name = curve, gaps = 0, n = 0 }
        local list = curves[curve]
        list[#list + 1] = { x, is_number(v) and v or 0 / 0 }
        if svg.finite(v) then
          list.first = list.first or v
          list.n = list.n + 1
          c.constant = c.constant and v == list.first
        else
          list.gaps = list.gaps + 1
        end
      end
    end
  end)
  for _, stage in ipairs(stages) do
    table.sort(stage.order, function(a, b)
      local ra, rb = rank(a), rank(b)
      return ra < rb or ra == rb and a < b
    end)
  end
  return stages
end

local function curve_names(chart, objectives)
  local place, names = {}, {}
  for i, name in ipairs(objectives) do
    place[name] = i
  end
  for name in pairs(chart.curves) do
    names[#names + 1] = name
  end
  table.sort(names, function(a, b)
    local pa, pb = place[a] or a == "mean" and 0 or 1e9, place[b] or b == "mean" and 0 or 1e9
    return pa < pb or pa == pb and a < b
  end)
  return names
end

-- a chart that never changes, as text
local function constant_text(key, chart, names)
  local parts = {}
  for i, name in ipairs(names) do
    local v = ("%.4g"):format(chart.curves[name].first)
    parts[i] = name == key and v or name .. " " .. v
  end
  return key .. " = " .. table.concat(parts, ", ")
end

-- does a curve go up and down so much that its course is hard to see?
local function is_noisy(list)
  local way, lo, hi, before = 0, math.huge, -math.huge, nil
  for _, p in ipairs(list) do
    if svg.finite(p[2]) then
      way = way + math.abs(p[2] - (before or p[2]))
      lo, hi, before = math.min(lo, p[2]), math.max(hi, p[2]), p[2]
    end
  end
  return #list >= MIN_SMOOTH and lo < hi and way > 3 * (hi - lo)
end

local function draw(stage, key, names, title_head)
  local known = KNOWN[RANK[key]] or { key, key, "" }
  local chart, series, gaps, notes = stage.charts[key], {}, 0, {}
  for i = 1, math.min(#names, MAX_CURVES) do
    local list = chart.curves[names[i]]
    gaps = gaps + list.gaps
    local s = { name = names[i], points = svg.downsample(list, MAX_POINTS) }
    if is_noisy(list) then
      s.raw = #names <= MAX_RAW and s.points or nil
      s.points = svg.downsample(svg.smooth(list, #list / 40), MAX_POINTS)
    end
    series[i] = s
  end
  if known[2] ~= key then
    notes[1] = key
  end
  notes[#notes + 1] = known[4]
  if gaps > 0 then
    notes[#notes + 1] = gaps .. " values are no numbers"
  end
  if #names > MAX_CURVES then
    notes[#notes + 1] = ("%d more curves are in metrics.jsonl"):format(#names - MAX_CURVES)
  end
  return html.figure(title_head .. known[2], table.concat(notes, "; "),
    svg.lines { title = title_head .. known[2], xlabel = "step", whole = true, ylabel = known[3],
      series = series, width = 420, height = 260 })
end

local function charts_of(stage, objectives, title_head)
  local out, constants, left = {}, {}, {}
  for _, key in ipairs(stage.order) do
    local chart = stage.charts[key]
    local names = curve_names(chart, objectives)
    local points, numbers, gaps = 0, 0, 0
    for _, name in ipairs(names) do
      local list = chart.curves[name]
      points, numbers, gaps = math.max(points, #list), numbers + list.n, gaps + list.gaps
    end
    if chart.constant and points > 1 and numbers > 0 and gaps == 0 and #names <= MAX_CURVES
      and not RANK[key] or key == "ppo/first_ratio_error" and chart.constant then
      constants[#constants + 1] = constant_text(key, chart, names)
    elseif #out < MAX_CHARTS then
      out[#out + 1] = draw(stage, key, names, title_head)
    else
      left[#left + 1] = key
    end
  end
  return table.concat(out), constants, left
end

-- what is not a chart, as text
local function notes_text(constants, left)
  local out = ""
  for _, note in ipairs { { "Constant: ", constants, "; " }, { "Not drawn: ", left, ", " } } do
    if #note[2] > 0 then
      out = out .. '<p class="sub">' .. note[1] .. html.escape(table.concat(note[2], note[3]))
        .. ".</p>\n"
    end
  end
  return out
end

--- The section "Training" as HTML, the stage with the most charts first; and the last stage and step
-- that metrics.jsonl has, or nil.
function report_curves.section(dir, objectives)
  local stages = read(dir, objectives)
  local main = stages[1]
  for _, stage in ipairs(stages) do
    main = #stage.order > #main.order and stage or main
  end
  local out, rest, all_constants, all_left = {}, {}, {}, {}
  if main and #main.order > 0 then
    local charts, constants, left = charts_of(main, objectives, "")
    local title = main.name ~= "" and #stages > 1 and "Stage " .. main.name or nil
    out[1] = (title and "<h3>" .. html.escape(title) .. "</h3>\n" or "")
      .. '<div class="charts">\n' .. charts .. "</div>\n" .. notes_text(constants, left)
  end
  for _, stage in ipairs(stages) do
    if stage ~= main then
      local title = stage.name ~= "" and stage.name .. ": " or ""
      local charts, constants, left = charts_of(stage, objectives, title)
      rest[#rest + 1] = charts
      table.move(constants, 1, #constants, #all_constants + 1, all_constants)
      table.move(left, 1, #left, #all_left + 1, all_left)
    end
  end
  if #rest > 0 then
    out[#out + 1] = '<h3>Other stages</h3>\n<div class="charts">\n' .. table.concat(rest)
      .. "</div>\n" .. notes_text(all_constants, all_left)
  end
  if #out > 0 then
    table.insert(out, 1, '<p class="sub">From metrics.jsonl. A thick curve over a thin one is its '
      .. "moving average; of more than three noisy curves in a chart only the averages are drawn.</p>\n")
  end
  local last = stages[#stages]
  return html.section("training", "Training", table.concat(out)),
    last and { stage = last.name, step = last.last } or nil
end

return report_curves
