--- mocl.report.worlds: the pictures of runs in environments whose front is known: two objectives as points, preference rays and
-- the true front (figure 1 of the paper); more as densities of the expected returns over pairs of three objectives (figure 8).
-- Reads result.json: true_front, points, rewards, and the same under the name of each method beside MOC, which has pictures of its own.
-- What is missing is left out.

local results = require "mocl.report.results"
local svg = require "mocl.report.svg"

local report_env = {}

local as_table, is_number = results.as_table, results.is_number

local SIZE, LEFT, RIGHT, TOP, BOTTOM = 430, 52, 10, 26, 42 -- pixels: a square chart and its margins
local BINS, LEVELS = 28, 5 -- cells along an axis, shades of a cell
local WARM, COOL, SOFT = "#d55e00", "#0072b2", "#777" -- MOC, Linear PPO, the true front

local function px(v)
  return (("%.1f"):format(v):gsub("%.0$", ""))
end

-- An empty chart over [0, x1] x [0, y1]: the pieces so far, and the maps to pixels.
local function frame(title, xlabel, ylabel, x1, y1)
  local w, h = SIZE - LEFT - RIGHT, SIZE - TOP - BOTTOM
  local function x(v)
    return LEFT + v / x1 * w
  end
  local function y(v)
    return SIZE - BOTTOM - v / y1 * h
  end
  local out = { ('<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">'):format(SIZE, SIZE, SIZE, SIZE,
    svg.escape(title)) }
  for _, v in ipairs((svg.ticks(0, x1, 5))) do
    out[#out + 1] = ('<line class="grid" x1="%s" y1="%d" x2="%s" y2="%d"/><text x="%s" y="%d" text-anchor="middle">%s</text>')
      :format(px(x(v)), TOP, px(x(v)), SIZE - BOTTOM, px(x(v)), SIZE - BOTTOM + 16, ("%g"):format(v))
  end
  for _, v in ipairs((svg.ticks(0, y1, 5))) do
    out[#out + 1] = ('<line class="grid" x1="%d" y1="%s" x2="%d" y2="%s"/><text x="%d" y="%s" text-anchor="end">%s</text>')
      :format(LEFT, px(y(v)), SIZE - RIGHT, px(y(v)), LEFT - 6, px(y(v) + 4), ("%g"):format(v))
  end
  out[#out + 1] = ('<path class="axis" d="M%d %dV%dH%d"/>'):format(LEFT, TOP, SIZE - BOTTOM, SIZE - RIGHT)
  out[#out + 1] = ('<text x="%d" y="%d" text-anchor="middle">%s</text>'):format((LEFT + SIZE) // 2, SIZE - 8, svg.escape(xlabel))
  out[#out + 1] = ('<text x="14" y="%d" text-anchor="middle" transform="rotate(-90 14 %d)">%s</text>'):format(SIZE // 2, SIZE // 2,
    svg.escape(ylabel))
  return out, x, y
end

-- Two names with their colours above the chart.
local function legend(out, names, colors)
  local x = LEFT
  for i, name in ipairs(names) do
    out[#out + 1] = ('<rect x="%d" y="7" width="10" height="10" fill="%s"/><text x="%d" y="16">%s</text>'):format(x, colors[i], x + 15,
      svg.escape(name))
    x = x + 32 + 7 * #name
  end
end

local function largest(j, ...)
  local most = 0
  for _, list in ipairs { ... } do
    for _, row in ipairs(list) do
      if is_number(row[j]) then
        most = math.max(most, row[j])
      end
    end
  end
  return most > 0 and most * 1.05 or 1
end

-- Figure 1.
local function rays(result, other, label)
  local objectives, front = results.objectives(result), result.true_front
  local x1, y1 = largest(1, result.rewards, other.rewards or {}, front), largest(2, result.rewards, other.rewards or {}, front)
  local out, x, y = frame("solutions, preferences and the true front", objectives[1], objectives[2], x1, y1)
  for i, p in ipairs(as_table(result.preferences) or {}) do
    local t = math.min(p[1] > 0 and x1 / p[1] or math.huge, p[2] > 0 and y1 / p[2] or math.huge)
    out[#out + 1] = ('<line x1="%s" y1="%s" x2="%s" y2="%s" stroke="hsl(%d 70%% 50%%)" stroke-dasharray="5 4"/>'):format(px(x(0)), px(y(0)),
      px(x(t * p[1])), px(y(t * p[2])), 36 * i % 360)
  end
  local d = {}
  for i, r in ipairs(front) do
    d[i] = (i == 1 and "M" or "L") .. px(x(r[1])) .. " " .. px(y(r[2]))
  end
  out[#out + 1] = ('<path d="%s" fill="none" stroke="currentColor" stroke-width="1.5"/>'):format(table.concat(d))
  for i, r in ipairs(other.rewards or {}) do
    out[#out + 1] = ('<rect x="%s" y="%s" width="9" height="9" fill="%s"><title>%s (%s): %.2f, %.2f</title></rect>'):format(
      px(x(r[1]) - 4.5), px(y(r[2]) - 4.5), COOL, svg.escape(label), results.preference_text((as_table(other.preferences) or {})[i]), r[1], r[2])
  end
  for i, r in ipairs(result.rewards) do
    out[#out + 1] = ('<circle cx="%s" cy="%s" r="5" fill="hsl(%d 70%% 50%%)" stroke="%s"><title>MOC (%s): %.2f, %.2f</title></circle>')
      :format(px(x(r[1])), px(y(r[2])), 36 * i % 360, WARM, results.preference_text((as_table(result.preferences) or {})[i]), r[1], r[2])
  end
  legend(out, { "MOC (circles)", label .. " (squares)" }, { WARM, COOL })
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

-- Cells that hold points of a list, as one path for each shade: darker with the logarithm of their number.
local function cells(out, points, a, b, x1, y1, x, y, color)
  local counts, most = {}, 0
  for _, r in ipairs(points) do
    local i, j = math.min(BINS - 1, r[a] / x1 * BINS // 1), math.min(BINS - 1, r[b] / y1 * BINS // 1)
    local cell = math.tointeger(i * BINS + j)
    counts[cell] = (counts[cell] or 0) + 1
    most = math.max(most, counts[cell])
  end
  local paths = {}
  for cell = 0, BINS * BINS - 1 do
    if counts[cell] then
      local level = math.ceil(LEVELS * math.log(1 + counts[cell]) / math.log(1 + most))
      local i, j = cell // BINS, cell % BINS
      paths[level] = (paths[level] or "") .. ("M%s %sH%sV%sH%sz"):format(px(x(i * x1 / BINS)), px(y(j * y1 / BINS)),
        px(x((i + 1) * x1 / BINS)), px(y((j + 1) * y1 / BINS)), px(x(i * x1 / BINS)))
    end
  end
  for level = 1, LEVELS do
    if paths[level] then
      out[#out + 1] = ('<path d="%s" fill="%s" fill-opacity="%.2f"/>'):format(paths[level], color, 0.75 * level / LEVELS)
    end
  end
end

-- Figure 8, one pair of objectives.
local function density(result, other, label, a, b)
  local objectives, front = results.objectives(result), as_table(result.true_front) or {}
  local x1 = largest(a, result.points, other.points or {}, front)
  local y1 = largest(b, result.points, other.points or {}, front)
  local out, x, y = frame(objectives[a] .. " and " .. objectives[b], objectives[a], objectives[b], x1, y1)
  cells(out, other.points or {}, a, b, x1, y1, x, y, COOL)
  cells(out, result.points, a, b, x1, y1, x, y, WARM)
  for _, r in ipairs(front) do
    out[#out + 1] = ('<circle cx="%s" cy="%s" r="2.5" fill="none" stroke="%s"/>'):format(px(x(r[a])), px(y(r[b])), SOFT)
  end
  legend(out, { "MOC", label, "leaves" }, { WARM, COOL, SOFT })
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

-- The methods beside MOC that have figures: list of {part, what it is called}; Linear PPO without any where there are none, whose name
-- then stands in a legend alone.
local function others(result)
  local list = {}
  for _, m in ipairs(results.methods(result)) do
    if m.part ~= result then
      list[#list + 1] = { m.part, type(m.part.label) == "string" and m.part.label or m.name == "linear_ppo" and "Linear PPO" or m.name }
    end
  end
  list[1] = list[1] or { {}, "Linear PPO" }
  return list
end

--- The section of a report for a result, or "".
function report_env.section(result)
  local front, points = as_table(result.true_front), as_table(result.points)
  local charts, note = {}, nil
  if points and #points > 0 and #points[1] >= 3 then
    for _, other in ipairs(others(result)) do
      for _, pair in ipairs { { 1, 2 }, { 1, 3 }, { 2, 3 } } do
        charts[#charts + 1] = density(result, other[1], other[2], pair[1], pair[2])
      end
    end
    note = "Expected returns under " .. #points .. " preferences, over pairs of the first three objectives: the more in a cell, the darker."
  elseif front and as_table(result.rewards) and #results.objectives(result) == 2 then
    for i, other in ipairs(others(result)) do
      charts[i] = rays(result, other[1], other[2])
    end
    note = "Points are expected returns; dashed rays are their preferences, a point of the same colour belongs on it; the line is the true front."
  end
  if #charts == 0 then
    return ""
  end
  for i, chart in ipairs(charts) do
    charts[i] = "<figure>\n" .. chart .. "</figure>\n"
  end
  return '<div class="charts">\n' .. table.concat(charts) .. '</div>\n<p class="sub">' .. note .. "</p>\n"
end

return report_env
