--- mocl.report.svg_front: a chart of two objectives: points with labels that do not collide, fronts, the
-- dominated area, rays from a reference point, a legend.

local svg = require "mocl.report.svg"

local svg_front = {}

local px, escape, finite = svg.px, svg.escape, svg.finite

local SHAPES = {
  circle = "M%s %sm-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
  square = "M%s %sm-4.5 -4.5h9v9h-9z",
  triangle = "M%s %sm0 -4.5l4.5 8h-9z",
  diamond = "M%s %sm0 -5.5l5.5 5.5l-5.5 5.5l-5.5 -5.5z",
  cross = "M%s %sm-4.5 -4.5l9 9m0 -9l-9 9",
}

-- class and style of a mark: a colour of its own, or one of the classes
local function paint(kind, mark)
  return ('class="%s s%d"%s'):format(kind, mark.series or 1,
    mark.color and (' style="--s:%s"'):format(escape(mark.color)) or "")
end

local function draw_mark(add, x, y, mark, title)
  add('<path %s d="' .. SHAPES[mark.shape or "circle"] .. '">%s</path>',
    paint((mark.hollow or mark.shape == "cross") and "hollow" or "dot", mark), px(x), px(y),
    title and "<title>" .. escape(title) .. "</title>" or "")
end

-- ---- labels ----

local FAR = 64 -- pixels between a point and its label at most
local DIRECTIONS = { { 1, -1 }, { -1, -1 }, { 1, 1 }, { -1, 1 }, { 0, -1 }, { 0, 1 }, { 1, 0 },
  { -1, 0 } }

local function overlap(a, b) -- of boxes {left, top, right, bottom}, in square pixels
  local w = math.min(a[3], b[3]) - math.max(a[1], b[1])
  local h = math.min(a[4], b[4]) - math.max(a[2], b[2])
  return w > 0 and h > 0 and w * h or 0
end

-- Boxes by the bands of 12 pixels, a label's height, that they reach into: those that may overlap a box lie in its bands.
local BAND = 12

local function insert(bands, box)
  for k = box[2] // BAND, box[4] // BAND do
    local band = bands[k] or {}
    bands[k], band[#band + 1] = band, box
  end
end

local function remove(bands, box)
  for k = box[2] // BAND, box[4] // BAND do
    local band = bands[k]
    for i = #band, 1, -1 do
      if band[i] == box then
        table.remove(band, i)
      end
    end
  end
end

-- The sum of `each` + `area` * the overlap over the boxes that overlap this one; stops once it is above `enough`.
local function collisions(bands, box, each, area, enough)
  local sum, first = 0, box[2] // BAND
  for k = first, box[4] // BAND do
    for _, other in ipairs(bands[k] or {}) do
      local o = overlap(box, other)
      if o > 0 and k == math.max(first, other[2] // BAND) then -- the first band they share
        sum = sum + each + area * o
        if sum > enough then
          return sum
        end
      end
    end
  end
  return sum
end

-- The boxes where the label of a point could go, near ones first: {box, distance, cost: how badly it lies on marks, across
-- the fronts, far away}.
local function candidates(p, frame, marks, lines)
  local w, list = svg.text_width(p.label) + 4, {}
  for _, r in ipairs { 7, 14, 24, 36, 50, FAR } do
    for _, at in ipairs(DIRECTIONS) do
      local diagonal = at[1] ~= 0 and at[2] ~= 0
      local dx, dy = at[1] * r * (diagonal and 0.8 or 1), at[2] * r * (diagonal and 0.8 or 1)
      local cx = p.px + dx + at[1] * w / 2
      local cy = p.py + dy + at[2] * 6
      local box = { cx - w / 2, cy - 6, cx + w / 2, cy + 6 }
      if box[1] > frame[1] + 2 and box[3] < frame[3] and box[2] > frame[2]
        and box[4] < frame[4] - 1 then
        list[#list + 1] = { box = box, r = r, cost = r + collisions(marks, box, 60, 0, math.huge)
          + collisions(lines, box, 4, 0, math.huge) }
      end
    end
  end
  return list
end

-- The candidate with the least cost, on other labels above all
local function best_of(list, labels)
  local best, least = nil, math.huge
  for _, c in ipairs(list) do
    if c.cost < least then
      local cost = c.cost + collisions(labels, c.box, 10000, 1, least - c.cost)
      if cost < least then
        best, least = c, cost
      end
    end
  end
  return best
end

-- Chooses a box for each labelled point; one that would lie on another label is left out, its text
-- stays in the title of the point. `lines`: boxes by bands, which labels avoid.
local function place_labels(points, frame, lines)
  local marks, labels, placed, tries = {}, {}, {}, {}
  for _, p in ipairs(points) do
    insert(marks, { p.px - 5, p.py - 5, p.px + 5, p.py + 5 })
  end
  for i, p in ipairs(points) do
    tries[i] = p.label and candidates(p, frame, marks, lines) or {}
  end
  for _ = 1, 3 do -- the first pass is greedy, the others mend it
    for i, list in ipairs(tries) do
      if placed[i] then
        remove(labels, placed[i].box)
      end
      placed[i] = best_of(list, labels)
      if placed[i] then
        insert(labels, placed[i].box)
      end
    end
  end
  for i in ipairs(points) do
    local box = placed[i] and placed[i].box
    if box then
      remove(labels, box)
      if collisions(labels, box, 1, 0, 0) > 0 then
        placed[i] = nil
      else
        insert(labels, box)
      end
    end
  end
  return placed
end

-- ---- pieces of the chart ----

-- The part of the ray from (ax, ay) in direction (dx, dy) that lies in [x0, x1] x [y0, y1]: from and
-- to as multiples of the direction, or nil.
local function clip_ray(ax, ay, dx, dy, x0, x1, y0, y1)
  local from, to = 0, math.huge
  for _, c in ipairs { { ax, dx, x0, x1 }, { ay, dy, y0, y1 } } do
    local a, d, lo, hi = c[1], c[2], c[3], c[4]
    if d == 0 then
      if a < lo or a > hi then
        return nil
      end
    else
      local s, e = (lo - a) / d, (hi - a) / d
      from, to = math.max(from, math.min(s, e)), math.min(to, math.max(s, e))
    end
  end
  if from < to and to < math.huge then
    return from, to
  end
end

local function draw_rays(add, opts, map, window, box)
  local ref, ends = opts.reference, {}
  for _, ray in ipairs(opts.rays or {}) do
    local from, to = clip_ray(ref[1], ref[2], ray[1], ray[2], table.unpack(window))
    if from then
      local bx, by = map.x(ref[1] + to * ray[1]), map.y(ref[2] + to * ray[2])
      add('<line %s x1="%s" y1="%s" x2="%s" y2="%s"/>', paint("ray", ray),
        px(map.x(ref[1] + from * ray[1])), px(map.y(ref[2] + from * ray[2])), px(bx), px(by))
      if ray.label then
        local w, right = svg.text_width(ray.label), bx > box[3] - 0.5
        local at = right and { bx + 4, by - 6, bx + 4 + w, by + 6 }
          or { bx - w / 2, by - 16, bx + w / 2, by - 4 }
        local free = true
        for _, other in ipairs(ends) do
          free = free and overlap(at, other) == 0
        end
        if free then
          ends[#ends + 1] = at
          add('<text x="%s" y="%s"%s fill-opacity=".7">%s</text>', px(right and at[1] or bx),
            px(at[4] - 2), right and "" or ' text-anchor="middle"', escape(ray.label))
        end
      end
    end
  end
end

-- the area between the reference point and the front: stairs from left to right
local function draw_area(add, front, ref, map, window)
  local left, bottom = math.max(ref[1], window[1]), math.max(ref[2], window[3])
  local d, from = {}, left
  for _, p in ipairs(front) do
    if p[1] > left and p[2] > bottom then
      local level = px(map.y(math.min(p[2], window[4])))
      local to = math.min(p[1], window[2])
      d[#d + 1] = ("L%s %sL%s %s"):format(px(map.x(from)), level, px(map.x(to)), level)
      from = to
    end
  end
  if #d > 0 then
    add('<path class="area s1" d="M%s %s%sL%s %sz"/>', px(map.x(left)), px(map.y(bottom)),
      table.concat(d), px(map.x(from)), px(map.y(bottom)))
  end
end

local function draw_legend(add, entries, places)
  for i, at in ipairs(places) do
    local e, x, y = entries[i], at[1], at[2]
    if e.kind == "ray" then
      add('<line class="ray s7" x1="%s" y1="%d" x2="%s" y2="%d"/>', px(x), y, px(x + 22), y)
    elseif e.kind == "area" then
      add('<rect class="area s1" x="%s" y="%d" width="22" height="12"/>', px(x), y - 6)
    else
      if e.kind == "front" then
        add('<line %s x1="%s" y1="%d" x2="%s" y2="%d"/>', paint("line", e), px(x), y, px(x + 22), y)
      end
      draw_mark(add, x + 11, y, e)
    end
    add('<text x="%s" y="%d">%s</text>', px(x + 27), y + 4, escape(e.text))
  end
end

-- the box that holds all marks, and the reference point if it is to be seen
local function window_of(opts)
  local xs, ys = {}, {}
  for _, p in ipairs(opts.points) do
    xs[#xs + 1], ys[#ys + 1] = p.x, p.y
  end
  if opts.reference and not opts.enlarged then
    xs[#xs + 1], ys[#ys + 1] = opts.reference[1], opts.reference[2]
  end
  local x0, x1 = svg.range(xs)
  local y0, y1 = svg.range(ys)
  return { x0, x1, y0, y1 }
end

--- The chart. opts: title, xlabel, ylabel, width, height,
-- points = list of {x, y, label, title, shape, hollow, series, color}; shape is circle, square,
-- triangle, diamond or cross; color replaces that of the series,
-- fronts = list of {series, {x, y}...} sorted by x, reference = {x, y}, area = the front whose
-- dominated area is shaded, rays = list of directions {x, y, label, color} from the reference,
-- enlarged = true for the points alone: rays are cut, and the reference may lie outside,
-- legend = list of {text, shape, hollow, series, kind}; kind is nil for a mark, or front, ray, area.
function svg_front.draw(opts)
  local points = {}
  for _, p in ipairs(opts.points) do
    if finite(p.x) and finite(p.y) then
      points[#points + 1] = setmetatable({}, { __index = p })
    end
  end
  opts = setmetatable({ points = points, right = opts.rays and #opts.rays > 0 and 34 or nil },
    { __index = opts })
  local names, entries = {}, opts.legend or {}
  for i, e in ipairs(entries) do
    names[i] = e.text
  end
  local places, height = svg.lay_out_legend(names, (opts.width or 640) - 6)
  opts.legend_height = height + (opts.rays and 14 or 0)
  local window = window_of(opts)
  local out, add, x, y, box = svg.frame(opts, table.unpack(window))
  local map, ref = { x = x, y = y }, opts.reference
  local inside = ref and ref[1] >= window[1] and ref[1] <= window[2] and ref[2] >= window[3]
    and ref[2] <= window[4]
  if ref then
    draw_rays(add, opts, map, window, box)
    if opts.area then
      draw_area(add, opts.area, ref, map, window)
    end
  end
  local lines = {} -- small boxes along the fronts
  for _, front in ipairs(opts.fronts or {}) do
    local d = {}
    for i, p in ipairs(front) do
      d[i] = (i == 1 and "M" or "L") .. px(x(p[1])) .. " " .. px(y(p[2]))
      local q = front[i + 1]
      for k = 0, q and 11 or -1 do
        local cx = x(p[1] + (q[1] - p[1]) * k / 12)
        local cy = y(p[2] + (q[2] - p[2]) * k / 12)
        insert(lines, { cx - 1, cy - 1, cx + 1, cy + 1 })
      end
    end
    if #d > 1 then
      add('<path %s d="%s"/>', paint("line", front), table.concat(d))
    end
  end
  if inside then
    draw_mark(add, x(ref[1]), y(ref[2]), { shape = "cross", series = 7 }, "reference point")
  end
  for _, p in ipairs(points) do
    p.px, p.py = x(p.x), y(p.y)
  end
  local placed = place_labels(points, box, lines)
  for i, p in ipairs(points) do
    local c = placed[i]
    if c and c.r > 14 then
      local lx = math.max(c.box[1], math.min(c.box[3], p.px))
      local ly = math.max(c.box[2] + 2, math.min(c.box[4] - 2, p.py))
      add('<line class="lead" x1="%s" y1="%s" x2="%s" y2="%s"/>', px(p.px), px(p.py), px(lx), px(ly))
    end
  end
  for _, p in ipairs(points) do
    draw_mark(add, p.px, p.py, p, p.title or p.label or "")
  end
  for i, p in ipairs(points) do
    if placed[i] then
      local b = placed[i].box
      add('<text class="label" x="%s" y="%s" text-anchor="middle">%s</text>',
        px((b[1] + b[3]) / 2), px(b[4] - 2), escape(p.label))
    end
  end
  draw_legend(add, entries, places)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

return svg_front
