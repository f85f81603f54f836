--- mocl.report.front: the charts of a result: the Pareto front, and rewards against the weights that
-- were asked for.

local html = require "mocl.report.html"
local metrics = require "mocl.metrics"
local results = require "mocl.report.results"
local svg_front = require "mocl.report.svg_front"

local report_front = {}

local as_table, is_point = results.as_table, results.is_point
local preference_text, number_text = results.preference_text, results.number_text

local PHONE = 340 -- pixels of a chart there
local MAX_PANELS = 6 -- pairs of objectives that are drawn
local OTHERS = { "diamond", "square", "triangle", "circle" } -- marks of other methods

-- the ends of a weight's colours, and those of three weights: blue, vermilion, green
local MIX = { { 213, 94, 0 }, { 0, 114, 178 }, { 0, 158, 115 } }

--- The colour of a preference: between the colours of its objectives. Two ends that are mixed give
-- grey, so the middle is drawn towards purple.
local function color_of(p, n)
  if n < 2 or n > 3 or not is_point(p, n) then
    return nil
  end
  local sum, rgb = 0, { 0, 0, 0 }
  for j = 1, n do
    sum = sum + math.max(0, p[j])
  end
  if sum <= 0 then
    return nil
  end
  for j = 1, n do
    for k = 1, 3 do
      rgb[k] = rgb[k] + MIX[j][k] * math.max(0, p[j]) / sum
    end
  end
  if n == 2 then
    local middle, purple = 4 * math.max(0, p[1]) * math.max(0, p[2]) / sum ^ 2, { 150, 80, 160 }
    for k = 1, 3 do
      rgb[k] = rgb[k] + (purple[k] - rgb[k]) * middle
    end
  end
  return ("#%02x%02x%02x"):format(rgb[1] // 1 | 0, rgb[2] // 1 | 0, rgb[3] // 1 | 0)
end

--- The label of a preference: the weight of the first of two objectives, or all weights, short.
local function label_of(p, n)
  if not as_table(p) or #p ~= n then
    return nil
  elseif n == 2 then
    return preference_text { p[1] }
  end
  local parts = {}
  for j, v in ipairs(p) do
    parts[j] = results.is_number(v) and (("%.2g"):format(v):gsub("^0%.", ".")) or tostring(v)
  end
  return table.concat(parts, " ")
end

report_front.color_of, report_front.label_of, report_front.preference_text = color_of, label_of, preference_text

-- Rewards of a part of the result that are points: list of {r, p}.
local function points_of(part, preferences, n)
  local list = {}
  for i, r in ipairs(as_table(part.rewards) or {}) do
    if is_point(r, n) then
      list[#list + 1] = { r = r, p = as_table((as_table(preferences) or {})[i]) }
    end
  end
  return list
end

-- marks each point of the list that no other dominates, in all objectives
local function mark_free(list)
  local rewards = {}
  for i, m in ipairs(list) do
    rewards[i] = m.r
  end
  for _, i in ipairs(#rewards > 0 and metrics.nondominated(rewards) or {}) do
    list[i].free = true
  end
end

-- report_front.line(list, a, b, series) -> the marked ones in the objectives a and b, sorted, for svg_front.draw.
function report_front.line(list, a, b, series)
  local line = { series = series }
  for _, m in ipairs(list) do
    line[#line + 1] = m.free and { m.r[a], m.r[b] } or nil
  end
  table.sort(line, function(p, q)
    return p[1] < q[1] or p[1] == q[1] and p[2] > q[2]
  end)
  return line
end

-- what rewards are measured in, as far as the result says
local function unit_of(result)
  if type(result.reward_unit) == "string" then
    return result.reward_unit
  end
  local sft = as_table(result.sft)
  local ones = sft and as_table(sft.rewards) and #sft.rewards > 0
  for _, r in ipairs(ones and sft.rewards or {}) do
    ones = ones and results.is_number(r) and math.abs(r - 1) < 1e-6
  end
  return ones and "mean reward, SFT model = 1" or "mean reward"
end

local function unseen_groups(result)
  return as_table(result.unseen) and as_table(result.unseen.groups) or {}
end

-- Everything a chart of the result shows, before it is cut down to two objectives.
local function gather(result)
  local objectives = results.objectives(result)
  local n, all = #objectives, { objectives = objectives, methods = {}, unseen = {} }
  for k, m in ipairs(results.methods(result)) do
    local list = points_of(m.part, as_table(m.part.preferences) or result.preferences, n)
    mark_free(list)
    all.methods[k] = { name = m.name, list = list, series = (k - 1) % 6 + 1,
      shape = k == 1 and "circle" or OTHERS[(k - 2) % #OTHERS + 1] }
  end
  for _, group in ipairs(unseen_groups(result)) do
    for _, m in ipairs(as_table(group) and points_of(group, group.preferences, n) or {}) do
      table.insert(all.unseen, m)
    end
  end
  local sft = as_table(result.sft)
  all.sft = sft and is_point(sft.rewards, n) and sft.rewards or nil
  all.reference = is_point(result.reference_point, n) and result.reference_point or nil
  return all
end

local function title_of(name, m)
  local rewards = {}
  for j, v in ipairs(m.r) do
    rewards[j] = number_text(v + 0.0)
  end
  return ("%s (%s): %s"):format(name, preference_text(m.p), table.concat(rewards, ", "))
end

-- rays of the preferences in the plane of objectives a and b, each direction once
local function rays_of(list, n, a, b)
  local rays, seen = {}, {}
  for _, m in ipairs(list) do
    local p = m.p
    if is_point(p, n) and p[a] >= 0 and p[b] >= 0 and p[a] + p[b] > 0 then
      local key = ("%.3f"):format(p[a] / (p[a] + p[b]))
      if not seen[key] then
        seen[key] = true
        rays[#rays + 1] = { p[a], p[b], label = n == 2 and label_of(p, n) or nil,
          color = n == 2 and color_of(p, n) or nil, series = n > 2 and 8 or nil }
      end
    end
  end
  return rays
end

-- One chart of the objectives a and b. opts: width, height, enlarged, rays (are they the target?).
local function front_chart(result, all, a, b, opts)
  local n, objectives = #all.objectives, all.objectives
  local points, fronts, legend, hollow = {}, {}, {}, false
  for k, m in ipairs(all.methods) do
    for _, point in ipairs(m.list) do
      points[#points + 1] = { x = point.r[a], y = point.r[b], series = m.series, shape = m.shape,
        hollow = not point.free, color = k == 1 and color_of(point.p, n) or nil,
        label = k == 1 and label_of(point.p, n) or nil, title = title_of(m.name, point) }
      hollow = hollow or not point.free
    end
    if n == 2 and #m.list > 0 then
      fronts[#fronts + 1] = report_front.line(m.list, 1, 2, m.series)
    end
    legend[#legend + 1] = { text = m.name, series = m.series, shape = m.shape,
      kind = n == 2 and "front" or nil }
  end
  if hollow then
    legend[#legend + 1] = { text = "dominated", series = 1, hollow = true }
  end
  for _, m in ipairs(all.unseen) do
    points[#points + 1] = { x = m.r[a], y = m.r[b], shape = "triangle", hollow = true,
      series = 8, color = color_of(m.p, n), title = title_of("unseen", m) }
  end
  if #all.unseen > 0 then
    legend[#legend + 1] = { text = "unseen preference", shape = "triangle", hollow = true, series = 1 }
  end
  if all.sft then
    points[#points + 1] = { x = all.sft[a], y = all.sft[b], label = "SFT", title = "SFT model",
      shape = "square", series = 7 }
    legend[#legend + 1] = { text = "SFT model", shape = "square", series = 7 }
  end
  local reference = all.reference and { all.reference[a], all.reference[b] } or nil
  local rays = opts.rays and reference and all.methods[1] and rays_of(all.methods[1].list, n, a, b) or {}
  if #rays > 0 then
    legend[#legend + 1] = { text = "rays: reference + t·p", kind = "ray" }
  end
  if reference and not opts.enlarged then
    legend[#legend + 1] = { text = "reference point", shape = "cross", series = 7 }
    if n == 2 then
      legend[#legend + 1] = { text = "hypervolume", kind = "area" }
    end
  end
  local unit = unit_of(result)
  return svg_front.draw { title = ("front of %s and %s"):format(objectives[a], objectives[b]),
    xlabel = ("%s (%s)"):format(objectives[a], unit), width = opts.width, height = opts.height,
    ylabel = ("%s (%s)"):format(objectives[b], unit), points = points, fronts = fronts,
    rays = #rays > 0 and rays or nil, reference = reference, legend = legend,
    area = n == 2 and fronts[1] or nil, enlarged = opts.enlarged }
end

-- do the points fill the chart that begins at the reference point? Otherwise they are shown enlarged
local function is_squeezed(all, a, b)
  local ref = all.reference
  for _, j in ipairs(ref and { a, b } or {}) do
    local lo, hi = math.huge, -math.huge
    for _, m in ipairs(all.methods) do
      for _, point in ipairs(m.list) do
        lo, hi = math.min(lo, point.r[j]), math.max(hi, point.r[j])
      end
    end
    if lo < hi and (hi - lo) < 0.7 * (math.max(hi, ref[j]) - math.min(lo, ref[j])) then
      return true
    end
  end
  return false
end

local function drawable(result)
  local all = gather(result)
  local first = all.methods[1]
  return first and #first.list > 0 and #all.objectives >= 2 and all or nil
end

--- The chart of the first two objectives, whole, or nil where there is none. opts: width, height, rays.
function report_front.chart(result, opts)
  local all = drawable(result)
  return all and front_chart(result, all, 1, 2, opts or {})
end

--- The section "Front" as HTML; empty where there are fewer than two objectives. opts.rays: the method aims at the rays of the
-- preferences, so they are drawn.
function report_front.section(result, opts)
  local rays = opts and opts.rays
  local all = drawable(result)
  if not all then
    return ""
  end
  local out, n = { '<div class="charts">\n' }, #all.objectives
  local function put(...)
    out[#out + 1] = html.figure(...)
  end
  if n == 2 then
    local function both(title, enlarged)
      put(title, nil, front_chart(result, all, 1, 2, { width = 640, height = 500, rays = rays, enlarged = enlarged }), false,
        front_chart(result, all, 1, 2, { width = PHONE, height = 400, rays = rays, enlarged = enlarged }))
    end
    both("From the reference point")
    if is_squeezed(all, 1, 2) then
      both("The points, enlarged", true)
    end
  else
    local panels = 0
    for a = 1, n - 1 do
      for b = a + 1, n do
        panels = panels + 1
        if panels <= MAX_PANELS then
          put(all.objectives[a] .. " and " .. all.objectives[b], nil, front_chart(result, all, a, b,
            { width = 420, height = 420, rays = rays, enlarged = is_squeezed(all, a, b) }))
        end
      end
    end
  end
  out[#out + 1] = "</div>\n"
  local note = (n == 2 and "A label is the weight of " .. all.objectives[1] .. "; "
      or "A label is a preference, its weights in the order of the objectives; each chart is a "
      .. "projection on two of them, dominated is meant in all; ")
    .. "a point is the mean reward of the answers to one preference. "
    .. (not rays and "Control means here that the rewards stand in the order of their weights: a point goes along the front as its "
      .. "preference does. The method aims at no place on the front beyond that. " or "")
    .. (rays and all.reference and "A dotted ray holds the rewards r = reference + t·p, t > 0, whose excess "
      .. "over the reference point is in the proportions of the preference p; control in that sense "
      .. "puts the point of a preference on its ray, and better answers further out. " or "")
    .. (n > 2 and n * (n - 1) / 2 > MAX_PANELS
      and ("Only the first %d pairs of objectives are drawn."):format(MAX_PANELS) or "")
  out[#out + 1] = '<p class="sub">' .. html.escape(note) .. "</p>\n"
  return table.concat(out)
end

--- The section "Control" as HTML: for each objective the mean rewards against its weights.
function report_front.control(result)
  local all = gather(result)
  local n, first = #all.objectives, all.methods[1]
  if not first or #first.list < 2 or n < 2 then
    return ""
  end
  local out, any = { '<div class="charts">\n' }, false
  local before = as_table(result.sft) and as_table(result.sft.per_preference) or {}
  local taus = as_table(result.kendall_tau_per_objective) or {}
  for j = 1, n do
    local points, lines, legend = {}, {}, {}
    local line = n == 2 and "front" or nil -- with more objectives one weight has many rewards
    local function add(list, mark)
      local course = { series = mark.series }
      for _, m in ipairs(list) do
        if is_point(m.p, n) and is_point(m.r, n) then
          points[#points + 1] = setmetatable({ x = m.p[j], y = m.r[j],
            title = title_of(mark.text, m) }, { __index = mark })
          course[#course + 1] = { m.p[j], m.r[j] }
        end
      end
      if #course > 0 then
        any = true
        legend[#legend + 1] = mark
        if mark.kind then
          table.sort(course, function(p, q)
            return p[1] < q[1]
          end)
          lines[#lines + 1] = course
        end
      end
    end
    add(points_of({ rewards = before }, result.preferences, n),
      { text = "SFT model", shape = "square", hollow = true, series = 8, kind = line })
    for _, m in ipairs(all.methods) do
      add(m.list, { text = m.name, shape = m.shape, series = m.series, kind = line })
    end
    add(all.unseen, { text = "unseen preference", shape = "triangle", hollow = true, series = 2 })
    local tau = results.is_number(taus[j]) and ("Kendall's tau %.3f"):format(taus[j]) or nil
    local function draw(width)
      return svg_front.draw { width = width, height = 300, title = "reward of " .. all.objectives[j] .. " against its weight",
        xlabel = "weight of " .. all.objectives[j], ylabel = unit_of(result), points = points, fronts = lines, legend = legend }
    end
    out[#out + 1] = html.figure(all.objectives[j], tau, draw(n == 2 and 640 or 420), false, n == 2 and draw(PHONE) or nil)
  end
  out[#out + 1] = '</div>\n<p class="sub">A reward that rises with its weight is controlled; tau '
    .. "compares the two orders of the preferences.</p>\n"
  return any and table.concat(out) or ""
end

return report_front
