--- mocl.svg: small charts as inline SVG text for HTML5: lines, a front with rays, histograms.
-- Colours come from the classes s1 to s7 of svg.css (Okabe-Ito), the rest from currentColor; line
-- dashes and marker shapes tell series apart without colour. The same data give the same bytes.

local svg = {}

local LEFT, RIGHT, TOP, BOTTOM = 58, 14, 26, 42 -- margins in pixels

svg.css = [[
svg{max-width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:currentColor}
svg .axis{stroke:currentColor;stroke-opacity:.5;fill:none}
svg .grid{stroke:currentColor;stroke-opacity:.12}
svg .ray{stroke:currentColor;stroke-opacity:.35;stroke-dasharray:3 4}
svg .line{fill:none;stroke:var(--s);stroke-width:1.7}
svg .area{fill:var(--s);fill-opacity:.1}
svg .bar{fill:var(--s);fill-opacity:.45;stroke:var(--s)}
svg .dot{fill:var(--s);stroke:var(--s);stroke-width:1.5}
svg .hollow{fill:none;stroke:var(--s);stroke-width:1.5}
.s1{--s:#0072b2}.s2{--s:#d55e00}.s3{--s:#009e73}.s4{--s:#cc79a7}.s5{--s:#e69f00}.s6{--s:#56b4e9}
.s7{--s:currentColor}
]]

local DASHES = { "", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 4" }

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
  ["'"] = "&#39;" }

--- Text for HTML and for attributes; bytes that are not UTF-8 and control characters become U+FFFD.
function svg.escape(s)
  s = tostring(s)
  if not utf8.len(s) then
    s = s:gsub("[\128-\255]", "\239\191\189")
  end
  return (s:gsub("[%z\1-\8\11\12\14-\31\127]", "\239\191\189"):gsub("[&<>\"']", ESCAPES))
end

local escape = svg.escape

local function finite(v)
  return type(v) == "number" and v == v and v ~= math.huge and v ~= -math.huge
end

-- A coordinate: one decimal, no minus zero.
local function px(v)
  local s = ("%.1f"):format(v):gsub("%.0$", "")
  return s == "-0" and "0" or s
end

--- Round tick values within [lo, hi], about n of them, and their step.
function svg.ticks(lo, hi, n)
  local raw = (hi - lo) / n
  local size = 10.0 ^ math.floor(math.log(raw, 10) + 1e-9)
  local ratio = raw / size
  local step = (ratio <= 1 and 1 or ratio <= 2 and 2 or ratio <= 5 and 5 or 10) * size
  local ticks = {}
  for i = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9) do
    ticks[#ticks + 1] = i * step
  end
  return ticks, step
end

local function tick_text(v, step)
  if math.abs(v) < step * 1e-6 then
    return "0"
  elseif step < 1e-3 or math.abs(v) >= 1e6 then
    return ("%.3g"):format(v)
  end
  local digits = math.max(0, math.ceil(-math.log(step, 10) - 1e-9))
  return ("%%.%df"):format(digits):format(v)
end

-- The smallest interval with some air around values; never empty.
local function range(values)
  local lo, hi = math.huge, -math.huge
  for _, v in ipairs(values) do
    lo, hi = math.min(lo, v), math.max(hi, v)
  end
  if lo > hi then
    return 0.0, 1.0
  end
  local air = (hi - lo) * 0.05
  if hi - lo < 1e-12 * math.max(1, math.abs(lo)) then
    air = math.max(0.5, math.abs(lo) * 0.1)
  end
  return lo - air, hi + air
end

-- Axes, ticks and labels; returns the list of pieces and the maps from values to pixels.
local function frame(opts, x0, x1, y0, y1, legend_height)
  local w, h = opts.width or 640, opts.height or 400
  local right, bottom, top = w - RIGHT, h - BOTTOM, TOP + (legend_height or 0)
  local function x(v)
    return LEFT + (v - x0) / (x1 - x0) * (right - LEFT)
  end
  local function y(v)
    return bottom - (v - y0) / (y1 - y0) * (bottom - top)
  end
  local out = { ('<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">')
    :format(w, h, w, h, escape(opts.title or "")) }
  local function add(fmt, ...)
    out[#out + 1] = fmt:format(...)
  end
  local ticks, step = svg.ticks(x0, x1, 7)
  for _, v in ipairs(ticks) do
    add('<line class="grid" x1="%s" y1="%d" x2="%s" y2="%d"/>', px(x(v)), top, px(x(v)), bottom)
    add('<text x="%s" y="%d" text-anchor="middle">%s</text>', px(x(v)), bottom + 16,
      tick_text(v, step))
  end
  ticks, step = svg.ticks(y0, y1, 5)
  for _, v in ipairs(ticks) do
    add('<line class="grid" x1="%d" y1="%s" x2="%d" y2="%s"/>', LEFT, px(y(v)), right, px(y(v)))
    add('<text x="%d" y="%s" text-anchor="end">%s</text>', LEFT - 6, px(y(v) + 4),
      tick_text(v, step))
  end
  add('<path class="axis" d="M%d %dV%dH%d"/>', LEFT, top, bottom, right)
  add('<text x="%s" y="%d" text-anchor="middle">%s</text>', px((LEFT + right) / 2), h - 8,
    escape(opts.xlabel or ""))
  local middle = px((top + bottom) / 2)
  add('<text x="14" y="%s" text-anchor="middle" transform="rotate(-90 14 %s)">%s</text>', middle,
    middle, escape(opts.ylabel or ""))
  return out, add, x, y
end

-- Where the entries of a legend go: list of {x, y}, and the height of the rows after the first. One
-- name needs no legend.
local function lay_out_legend(series, width)
  local places, x, y = {}, LEFT, 12
  for i, s in ipairs(#series > 1 and series or {}) do
    local w = 45 + 6.6 * (utf8.len(s.name) or #s.name)
    if x > LEFT and x + w > width then
      x, y = LEFT, y + 16
    end
    places[i] = { x, y }
    x = x + w
  end
  return places, y - 12
end

local function draw_legend(add, series, places)
  for i, at in ipairs(places) do
    local k, x, y = (i - 1) % 7 + 1, at[1], at[2]
    add('<line class="line s%d" x1="%s" y1="%d" x2="%s" y2="%d" stroke-dasharray="%s"/>', k, px(x),
      y, px(x + 22), y, DASHES[k])
    add('<text x="%s" y="%d">%s</text>', px(x + 27), y + 4, escape(series[i].name))
  end
end

--- At most n points {x, y}: the lowest and the highest of each bucket, so that spikes stay.
function svg.downsample(points, n)
  if #points <= n then
    return points
  end
  local out, buckets = {}, n // 2
  for b = 0, buckets - 1 do
    local first, last = #points * b // buckets + 1, #points * (b + 1) // buckets
    local lo, hi = first, first
    for i = first, last do
      -- a point without a value (NaN) stands for its bucket, so that the gap shows
      if not finite(points[i][2]) then
        lo, hi = i, i
        break
      end
      lo = points[i][2] < points[lo][2] and i or lo
      hi = points[i][2] > points[hi][2] and i or hi
    end
    out[#out + 1] = points[math.min(lo, hi)]
    if lo ~= hi then
      out[#out + 1] = points[math.max(lo, hi)]
    end
  end
  return out
end

--- Curves. opts: title, xlabel, ylabel, width, height, series = list of {name, points}; a point is
-- {x, y}; a y that is no finite number leaves a gap.
function svg.lines(opts)
  local xs, ys = {}, {}
  for _, s in ipairs(opts.series) do
    for _, p in ipairs(s.points) do
      if finite(p[1]) and finite(p[2]) then
        xs[#xs + 1], ys[#ys + 1] = p[1], p[2]
      end
    end
  end
  local x0, x1 = range(xs)
  local y0, y1 = range(ys)
  local places, height = lay_out_legend(opts.series, opts.width or 640)
  local out, add, x, y = frame(opts, x0, x1, y0, y1, height)
  for i, s in ipairs(opts.series) do
    local d, pen, k = {}, "M", (i - 1) % 7 + 1
    for _, p in ipairs(s.points) do
      if finite(p[1]) and finite(p[2]) then
        d[#d + 1] = pen .. px(x(p[1])) .. " " .. px(y(p[2]))
        pen = "L"
      else
        pen = "M"
      end
    end
    add('<path class="line s%d" stroke-dasharray="%s" d="%s"/>', k, DASHES[k], table.concat(d))
  end
  draw_legend(add, opts.series, places)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

local SHAPES = {
  circle = "M%s %sm-4 0a4 4 0 1 0 8 0a4 4 0 1 0 -8 0",
  square = "M%s %sm-5 -5h10v10h-10z",
  triangle = "M%s %sm0 -5l5 9h-10z",
  cross = "M%s %sm-5 -5l10 10m0 -10l-10 10",
}

-- Places a label beside a point where it hits no earlier label, as far as four tries go.
local function place(boxes, cx, cy, text)
  local w = 6.8 * (utf8.len(text) or #text)
  local best
  for _, try in ipairs { { 8, -5, 0 }, { -8, -5, 1 }, { 8, 15, 0 }, { -8, 15, 1 } } do
    local box = { cx + try[1] - try[3] * w, cy + try[2] - 10, w, 12 }
    local free = box[1] > LEFT
    for _, b in ipairs(boxes) do
      free = free and (box[1] + box[3] < b[1] or b[1] + b[3] < box[1] or box[2] + box[4] < b[2]
        or b[2] + b[4] < box[2])
    end
    best = best or box
    if free then
      best = box
      break
    end
  end
  boxes[#boxes + 1] = best
  return best[1], best[2] + 10
end

--- A front of two objectives. opts: title, xlabel, ylabel, points = list of {x, y, label, title,
-- shape (circle, square, triangle, cross), hollow, series}, front = list of {x, y} sorted by x,
-- rays = list of directions {x, y} from reference = {x, y}; the dominated area is shaded.
function svg.front(opts)
  local xs, ys = {}, {}
  for _, p in ipairs(opts.points) do
    xs[#xs + 1], ys[#ys + 1] = p.x, p.y
  end
  local ref = opts.reference
  if ref then
    xs[#xs + 1], ys[#ys + 1] = ref[1], ref[2]
  end
  local x0, x1 = range(xs)
  local y0, y1 = range(ys)
  local out, add, x, y = frame(opts, x0, x1, y0, y1)
  local front = opts.front or {}
  if ref then
    for _, d in ipairs(opts.rays or {}) do
      local t = math.huge
      if d[1] > 0 then
        t = math.min(t, (x1 - ref[1]) / d[1])
      end
      if d[2] > 0 then
        t = math.min(t, (y1 - ref[2]) / d[2])
      end
      if t < math.huge then
        add('<line class="ray" x1="%s" y1="%s" x2="%s" y2="%s"/>', px(x(ref[1])), px(y(ref[2])),
          px(x(ref[1] + t * d[1])), px(y(ref[2] + t * d[2])))
      end
    end
    -- the area between the reference point and the front: stairs from left to right
    local d, from = {}, ref[1]
    for _, p in ipairs(front) do
      if p[1] > ref[1] and p[2] > ref[2] then
        d[#d + 1] = ("L%s %sL%s %s"):format(px(x(from)), px(y(p[2])), px(x(p[1])), px(y(p[2])))
        from = p[1]
      end
    end
    if #d > 0 then
      add('<path class="area s1" d="M%s %s%sL%s %sz"/>', px(x(ref[1])), px(y(ref[2])),
        table.concat(d), px(x(from)), px(y(ref[2])))
    end
    add('<path class="hollow s7" d="' .. SHAPES.cross .. '"><title>reference point</title></path>',
      px(x(ref[1])), px(y(ref[2])))
  end
  local d = {}
  for i, p in ipairs(front) do
    d[i] = (i == 1 and "M" or "L") .. px(x(p[1])) .. " " .. px(y(p[2]))
  end
  if #d > 1 then
    add('<path class="line s1" d="%s"/>', table.concat(d))
  end
  local boxes = {}
  for _, p in ipairs(opts.points) do
    add('<path class="%s s%d" d="' .. SHAPES[p.shape or "circle"] .. '"><title>%s</title></path>',
      p.hollow and "hollow" or "dot", p.series or 1, px(x(p.x)), px(y(p.y)),
      escape(p.title or p.label or ""))
  end
  for _, p in ipairs(opts.points) do
    if p.label then
      local lx, ly = place(boxes, x(p.x), y(p.y), p.label)
      add('<text x="%s" y="%s">%s</text>', px(lx), px(ly), escape(p.label))
    end
  end
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

--- Histograms over common bins, each as a share of its series. opts: title, xlabel, ylabel, bins
-- (24), series = list of {name, values}.
function svg.histogram(opts)
  local all, bins = {}, opts.bins or 24
  for _, s in ipairs(opts.series) do
    for _, v in ipairs(s.values) do
      if finite(v) then
        all[#all + 1] = v
      end
    end
  end
  local x0, x1 = range(all)
  local shares, top = {}, 0
  for i, s in ipairs(opts.series) do
    local counts, n = {}, 0
    for b = 1, bins do
      counts[b] = 0
    end
    for _, v in ipairs(s.values) do
      if finite(v) then
        local b = math.min(bins, math.floor((v - x0) / (x1 - x0) * bins) + 1)
        counts[b] = counts[b] + 1
        n = n + 1
      end
    end
    for b = 1, bins do
      counts[b] = n > 0 and counts[b] / n or 0
      top = math.max(top, counts[b])
    end
    shares[i] = counts
  end
  local places, height = lay_out_legend(opts.series, opts.width or 640)
  local out, add, x, y = frame(opts, x0, x1, 0, top > 0 and top * 1.05 or 1, height)
  for i = 1, #opts.series do
    local edge = (x1 - x0) / bins
    for b, share in ipairs(shares[i]) do
      if share > 0 then
        local left, right = x(x0 + (b - 1) * edge), x(x0 + b * edge)
        add('<rect class="bar s%d" x="%s" y="%s" width="%s" height="%s"/>', (i - 1) % 7 + 1,
          px(left), px(y(share)), px(right - left), px(y(0) - y(share)))
      end
    end
  end
  draw_legend(add, opts.series, places)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

return svg
