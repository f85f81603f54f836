--- mocl.report.svg: small charts as SVG text: curves and histograms; mocl.report.svg_front draws fronts.
-- Colours are the classes s1 to s8 of svg.css (Okabe-Ito), the rest is currentColor; dashes and
-- marker shapes tell series apart without colour. The same data give the same bytes.

local svg = {}

local LEFT, RIGHT, TOP, BOTTOM = 24, 16, 26, 44 -- margins in pixels; left, tick labels come on top
local EM = 7.2 -- pixels that a character of 12 px text takes at most, on average

svg.css = [[
svg{max-width:100%;height:auto;font:12px system-ui,sans-serif}
svg text{fill:currentColor}
svg .label{paint-order:stroke;stroke:var(--bg,#fff);stroke-width:3px;stroke-linejoin:round}
svg .axis{stroke:currentColor;stroke-opacity:.5;fill:none}
svg .grid{stroke:currentColor;stroke-opacity:.12}
svg .ray{stroke:var(--s);stroke-opacity:.7;stroke-dasharray:2 3}
svg .lead{stroke:currentColor;stroke-opacity:.4}
svg .line{fill:none;stroke:var(--s);stroke-width:1.8;stroke-linejoin:round}
svg .raw{fill:none;stroke:var(--s);stroke-width:1;stroke-opacity:.3}
svg .area{fill:var(--s);fill-opacity:.12}
svg .bar{fill:var(--s);fill-opacity:.3;stroke:var(--s);stroke-width:1.2}
svg .mean{stroke:var(--s);stroke-width:1.5}
svg .dot{fill:var(--s);stroke:var(--s);stroke-width:1.5}
svg .hollow{fill:none;stroke:var(--s);stroke-width:1.5}
.s1{--s:#0072b2}.s2{--s:#d55e00}.s3{--s:#009e73}.s4{--s:#cc79a7}.s5{--s:#e69f00}.s6{--s:#56b4e9}
.s7{--s:currentColor}.s8{--s:#888}
@media (prefers-color-scheme:dark){.s1{--s:#3b9fe0}.s2{--s:#f0803c}.s3{--s:#1fbf92}}
]]

svg.DASHES = { "", "7 3", "2 3", "9 3 2 3", "12 4", "4 4", "1 4" }
svg.COLORS = #svg.DASHES
local DASHES = svg.DASHES

local ESCAPES = { ["&"] = "&amp;", ["<"] = "&lt;", [">"] = "&gt;", ['"'] = "&quot;",
  ["'"] = "&#39;" }
local REPLACEMENT = "\239\191\189"

--- Text for HTML and for attributes; bytes that are not UTF-8 and control characters become U+FFFD.
function svg.escape(s)
  s = tostring(s)
  local _, bad = utf8.len(s)
  if bad then
    local parts, from = {}, 1
    while bad do
      parts[#parts + 1] = s:sub(from, bad - 1) .. REPLACEMENT
      from = bad + 1
      _, bad = utf8.len(s, from)
    end
    s = table.concat(parts) .. s:sub(from)
  end
  return (s:gsub("[%z\1-\8\11\12\14-\31\127]", REPLACEMENT):gsub("\194[\128-\159]", REPLACEMENT)
    :gsub("[&<>\"']", ESCAPES))
end

local escape = svg.escape

function svg.finite(v)
  return type(v) == "number" and v == v and v ~= math.huge and v ~= -math.huge
end

local finite = svg.finite

--- A coordinate: one decimal, no minus zero.
function svg.px(v)
  local s = ("%.1f"):format(v):gsub("%.0$", "")
  return s == "-0" and "0" or s
end

local px = svg.px

--- The pixels that a text takes at most.
function svg.text_width(s)
  return EM * (utf8.len(s) or #s)
end

--- Round tick values within [lo, hi], about n of them, and their step.
function svg.ticks(lo, hi, n)
  local raw = (hi - lo) / n
  local size = 10.0 ^ math.floor(math.log(raw, 10) + 1e-9)
  local ratio = raw / size
  local step = (ratio < 1.4 and 1 or ratio < 3.2 and 2 or ratio < 7.1 and 5 or 10) * size
  local ticks = {}
  for i = math.ceil(lo / step - 1e-9), math.floor(hi / step + 1e-9) do
    ticks[#ticks + 1] = i * step
  end
  return ticks, step
end

local function tick_text(v, step)
  if math.abs(v) < step * 1e-6 then
    return "0"
  elseif math.abs(v) >= 1e6 or math.abs(v) < 1e-4 then
    return ("%.3g"):format(v)
  end
  local digits = math.min(9, math.max(0, math.ceil(-math.log(step, 10) - 1e-9)))
  return ("%%.%df"):format(digits):format(v)
end

--- The interval of values with some air around them; never empty.
function svg.range(values)
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
  -- numbers near the largest there are must not overflow in a difference
  return math.max(lo - air, -1e300), math.min(hi + air, 1e300)
end

--- Axes, ticks and labels of a chart over [x0, x1] and [y0, y1]. opts: title, xlabel, ylabel, width,
-- height, right (margin), legend_height, whole (ticks of x are whole numbers). Returns the list of
-- pieces, a function that adds one, the maps from values to pixels, and the box {left, top, right,
-- bottom} of the plot.
function svg.frame(opts, x0, x1, y0, y1)
  local w, h = opts.width or 640, opts.height or 400
  local right, bottom = w - (opts.right or RIGHT), h - BOTTOM
  local top = TOP + (opts.legend_height or 0)
  local ticks, step = svg.ticks(y0, y1, math.max(2, (bottom - top) // 40))
  local labels, left = {}, 44
  for i, v in ipairs(ticks) do
    labels[i] = tick_text(v, step)
    left = math.max(left, LEFT + svg.text_width(labels[i]) + 6)
  end
  local function x(v)
    return left + (v - x0) / (x1 - x0) * (right - left)
  end
  local function y(v)
    return bottom - (v - y0) / (y1 - y0) * (bottom - top)
  end
  local out = { ('<svg viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">')
    :format(w, h, w, h, escape(opts.title or "")) }
  local function add(fmt, ...)
    out[#out + 1] = fmt:format(...)
  end
  for i, v in ipairs(ticks) do
    add('<line class="grid" x1="%s" y1="%s" x2="%d" y2="%s"/>', px(left), px(y(v)), right, px(y(v)))
    add('<text x="%s" y="%s" text-anchor="end">%s</text>', px(left - 6), px(y(v) + 4), labels[i])
  end
  local n = math.max(2, (right - left) // 70)
  ticks, step = svg.ticks(x0, x1, opts.whole and math.min(n, math.max(1, x1 - x0)) or n)
  for _, v in ipairs(ticks) do
    if not opts.whole or v == math.floor(v) then
      add('<line class="grid" x1="%s" y1="%d" x2="%s" y2="%d"/>', px(x(v)), top, px(x(v)), bottom)
      add('<text x="%s" y="%d" text-anchor="middle">%s</text>', px(x(v)), bottom + 16,
        tick_text(v, step))
    end
  end
  add('<path class="axis" d="M%s %dV%dH%d"/>', px(left), top, bottom, right)
  add('<text x="%s" y="%d" text-anchor="middle">%s</text>', px((left + right) / 2), h - 8,
    escape(opts.xlabel or ""))
  local middle = px((top + bottom) / 2)
  add('<text x="14" y="%s" text-anchor="middle" transform="rotate(-90 14 %s)">%s</text>', middle,
    middle, escape(opts.ylabel or ""))
  return out, add, x, y, { left, top, right, bottom }
end

--- Where the entries of a legend go, names in rows of `width` pixels: list of {x, y}, and the height
-- of the rows after the first.
function svg.lay_out_legend(names, width)
  local places, x, y = {}, LEFT, 12
  for i, name in ipairs(names) do
    local w = 27 + svg.text_width(name)
    if x > LEFT and x + w > width then
      x, y = LEFT, y + 16
    end
    places[i] = { x, y }
    x = x + w + 10
  end
  return places, math.max(0, y - 12)
end

local function color(i)
  return (i - 1) % svg.COLORS + 1
end

-- the dashes of series i: those of its colour, and others where a colour comes again
local function dash(i)
  return DASHES[(i - 1 + 3 * ((i - 1) // svg.COLORS)) % #DASHES + 1]
end

-- one name needs no legend
local function legend_of(series, width)
  local names = {}
  for i, s in ipairs(#series > 1 and series or {}) do
    names[i] = s.name
  end
  return svg.lay_out_legend(names, width)
end

local function draw_legend(add, series, places)
  for i, at in ipairs(places) do
    local k, x, y = color(i), at[1], at[2]
    add('<line class="line s%d" x1="%s" y1="%d" x2="%s" y2="%d" stroke-dasharray="%s"/>', k, px(x),
      y, px(x + 22), y, dash(i))
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

--- A moving average of points {x, y}: at each point the mean of all of them with weights that fall by the same factor
-- from point to point on both sides, as those of an exponential average with a window of w points do. It does not
-- lag, and at an end it is the average of one side, of which the last point has no more than its share. What is no
-- finite number is passed over.
function svg.smooth(points, w)
  local out, keep = {}, 1 - 2 / (w + 1)
  local sums, weights = {}, {}
  for i, p in ipairs(points) do
    out[i], sums[i], weights[i] = finite(p[2]) and { p[1], 0.0 } or p, 0.0, 0.0
  end
  for side, way in ipairs { { 1, #points, 1 }, { #points, 1, -1 } } do
    local sum, weight = 0, 0
    for i = way[1], way[2], way[3] do
      local v = points[i][2]
      if finite(v) then
        sum, weight = keep * sum + v, keep * weight + 1
        local own = side - 1 -- a point is in both sums and counts once
        sums[i], weights[i] = sums[i] + sum - own * v, weights[i] + weight - own
        out[i][2] = sums[i] / weights[i]
      end
    end
  end
  return out
end

-- The d of a path through points; a lone point between gaps gets a short stroke so that it shows.
local function path_of(points, x, y)
  local d, run = {}, 0
  local function close()
    if run == 1 then
      d[#d + 1] = "h.1"
    end
    run = 0
  end
  for _, p in ipairs(points) do
    if finite(p[1]) and finite(p[2]) then
      d[#d + 1] = (run == 0 and "M" or "L") .. px(x(p[1])) .. " " .. px(y(p[2]))
      run = run + 1
    else
      close()
    end
  end
  close()
  return table.concat(d)
end

--- Curves. opts: title, xlabel, ylabel, width, height, series = list of {name, points, raw}; a point
-- is {x, y}; a y that is no finite number leaves a gap; raw are the points of a fainter curve behind.
function svg.lines(opts)
  local xs, ys = {}, {}
  for _, s in ipairs(opts.series) do
    for _, points in ipairs { s.points, s.raw } do
      for _, p in ipairs(points) do
        if finite(p[1]) and finite(p[2]) then
          xs[#xs + 1], ys[#ys + 1] = p[1], p[2]
        end
      end
    end
  end
  local x0, x1 = svg.range(xs)
  local y0, y1 = svg.range(ys)
  local places, height = legend_of(opts.series, (opts.width or 640) - 6)
  local o = setmetatable({ legend_height = height }, { __index = opts })
  local out, add, x, y, box = svg.frame(o, x0, x1, y0, y1)
  for i, s in ipairs(opts.series) do
    if s.raw and #s.raw > 0 then
      add('<path class="raw s%d" d="%s"/>', color(i), path_of(s.raw, x, y))
    end
  end
  for i, s in ipairs(opts.series) do
    local k, d = color(i), path_of(s.points, x, y)
    if #d > 0 then
      add('<path class="line s%d" stroke-dasharray="%s" d="%s"/>', k, dash(i), d)
    end
  end
  if #ys == 0 then
    add('<text x="%s" y="%s" text-anchor="middle">no numbers</text>', px((box[1] + box[3]) / 2),
      px((box[2] + box[4]) / 2))
  end
  draw_legend(add, opts.series, places)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

-- The steps over bins of one width as a closed path; shares[b] is the height of bin b.
local function outline(shares, left, width, x, y)
  local d, open = {}, false
  for b = 1, #shares + 1 do
    local share = shares[b] or 0
    local at = px(x(left + (b - 1) * width))
    if share > 0 or open then
      if not open then
        d[#d + 1] = ("M%s %s"):format(at, px(y(0)))
      else
        d[#d + 1] = ("H%s"):format(at)
      end
      d[#d + 1] = ("V%s"):format(px(y(share)))
      open = share > 0
      if not open then
        d[#d + 1] = "Z"
      end
    end
  end
  return table.concat(d)
end

-- The bins of a series {values} over [x0, x1]: shares.
local function shares_of(values, x0, x1, bins)
  local shares, n = {}, 0
  for b = 1, bins do
    shares[b] = 0
  end
  for _, v in ipairs(values) do
    if finite(v) then
      local b = math.min(bins, math.floor((v - x0) / (x1 - x0) * bins) + 1)
      shares[b] = shares[b] + 1
      n = n + 1
    end
  end
  for b = 1, bins do
    shares[b] = n > 0 and shares[b] / n or 0
  end
  return shares
end

--- Histograms over common bins, each as a share of its series. opts: title, xlabel, ylabel, bins
-- (24), width, height, series = list of {name, values, mean}; or, counted already, opts.low and
-- opts.bin_width, the left edge of the first bin and the width of each, and series of {name, counts,
-- mean}. A mean is marked by a line.
function svg.histogram(opts)
  local x0, x1, bin, shares, top = nil, nil, opts.bin_width, {}, 0
  if bin then
    local most = 1
    for i, s in ipairs(opts.series) do
      local n = 0
      for _, c in ipairs(s.counts) do
        n = n + c
      end
      shares[i] = {}
      for b, c in ipairs(s.counts) do
        shares[i][b] = n > 0 and c / n or 0
      end
      most = math.max(most, #s.counts)
    end
    x0, x1 = opts.low, opts.low + most * bin
  else
    local all, bins = {}, opts.bins or 24
    for _, s in ipairs(opts.series) do
      for _, v in ipairs(s.values) do
        all[#all + 1] = finite(v) and v or nil
      end
    end
    x0, x1 = svg.range(all)
    bin = (x1 - x0) / bins
    for i, s in ipairs(opts.series) do
      shares[i] = shares_of(s.values, x0, x1, bins)
    end
  end
  for _, list in ipairs(shares) do
    for _, share in ipairs(list) do
      top = math.max(top, share)
    end
  end
  local places, height = legend_of(opts.series, (opts.width or 640) - 6)
  local o = setmetatable({ legend_height = height }, { __index = opts })
  local out, add, x, y, box = svg.frame(o, x0, x1, 0, top > 0 and top * 1.05 or 1)
  for i, s in ipairs(opts.series) do
    local k, d = color(i), outline(shares[i], x0, bin, x, y)
    if #d > 0 then
      add('<path class="bar s%d" stroke-dasharray="%s" d="%s"/>', k, dash(i), d)
    end
    if finite(s.mean) and s.mean >= x0 and s.mean <= x1 then
      add('<line class="mean s%d" x1="%s" y1="%d" x2="%s" y2="%d" stroke-dasharray="%s">'
        .. '<title>mean %.3f</title></line>', k, px(x(s.mean)), box[2], px(x(s.mean)), box[4],
        dash(i), s.mean)
    end
  end
  draw_legend(add, opts.series, places)
  out[#out + 1] = "</svg>\n"
  return table.concat(out, "\n")
end

return svg
