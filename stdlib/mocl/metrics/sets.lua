--- mocl.metrics.sets: figures of sets of points beside hypervolume, igd and epsilon; mocl.metrics exports them. Larger
-- is better unless minimize=true. docs/reference/metrics.md says which programs give the same numbers. No figure
-- filters or scales points unless its comment says so.

local check_options = require "mocl.options".check
local core = require "mocl.metrics.core"
local mean = require "mocl.metrics.bootstrap".mean
local preference = require "mocl.preference"

local sets = {}

local MAX_OBJECTIVES = 64
local INF = math.huge

-- Every check below raises at the caller of the public function that calls it: error's levels are 1 here, 2 the public
-- function, 3 its caller.
local check = require "mocl.failure".argument

-- the options, of which minimize, all and ignore_dominated are true or false
local function options_of(name, given, known)
  check_options(name, given or {}, {}, known, 1)
  for _, key in ipairs { "minimize", "all", "ignore_dominated" } do
    local v = given and given[key]
    if v ~= nil and type(v) ~= "boolean" then
      error(("%s: %s is a %s (true or false expected)"):format(name, key, type(v)), 3)
    end
  end
  return given or {}
end

local function shown(v)
  return v ~= v and "nan" or v == INF and "inf" or v == -INF and "-inf" or tostring(v)
end

-- A list of points as rows of floats, negated where minimize is set, and their number of objectives. d is the number
-- expected, nil for that of the first point. some=true refuses a list without points, which would have a perfect score
-- in most figures.
local function points_of(name, list, what, d, minimize, some)
  if type(list) ~= "table" then
    error(("%s: a list of %ss expected, got a %s"):format(name, what, type(list)), 3)
  elseif some and #list < 1 then
    error(("%s: there are no %ss"):format(name, what), 3)
  end
  local rows = {}
  for i = 1, #list do
    local p = list[i]
    if type(p) ~= "table" then
      error(("%s: %s %d is a %s, not a list of numbers"):format(name, what, i, type(p)), 3)
    elseif #p ~= (d or #p) or #p < 1 or #p > MAX_OBJECTIVES then
      error(("%s: %s %d has %d objectives, %s expected"):format(name, what, i, #p, d or "1 to " .. MAX_OBJECTIVES), 3)
    end
    d = #p
    rows[i] = {}
    for j = 1, d do
      local v = p[j]
      if type(v) ~= "number" then
        error(("%s: %s %d, objective %d is a %s, not a number"):format(name, what, i, j, type(v)), 3)
      elseif math.type(v) == "integer" and math.tointeger(v + 0.0) ~= v then
        error(("%s: %s %d, objective %d is %d, an integer beyond 2^53 that is not exact as a float: shift or scale "
          .. "the values"):format(name, what, i, j, v), 3)
      elseif v - v ~= 0 then
        error(("%s: %s %d, objective %d is %s, not finite"):format(name, what, i, j, shown(v)), 3)
      end
      rows[i][j] = minimize and -(v + 0.0) or v + 0.0
    end
  end
  return rows, d
end

-- weight vectors of d entries each, none negative, that sum to 1
local function weights_of(name, list, d)
  if type(list) ~= "table" or #list < 1 then
    error(("%s: a list of weight vectors that is not empty expected, got %s"):format(name,
      type(list) == "table" and "none" or "a " .. type(list)), 3)
  end
  for i = 1, #list do
    local ok, reason = pcall(preference.check, list[i])
    if not ok then -- without the place in a file, and without its word for weights
      error(("%s: weight vector %d: %s"):format(name, i, (reason:gsub("^%S+:%d+: ", ""):gsub("^preference ", ""))), 3)
    elseif #list[i] ~= d then
      error(("%s: weight vector %d has %d entries, %d objectives expected"):format(name, i, #list[i], d), 3)
    end
  end
  return list
end

-- a result of finite points; one that a float does not hold is an error
local function finite(name, v)
  if v - v ~= 0 then
    error(("%s: the result is beyond the range of a float (1.8e308): scale the objectives"):format(name), 3)
  end
  return v
end

local function dot(w, p)
  local s = 0.0
  for j = 1, #w do
    s = s + w[j] * p[j]
  end
  return s
end

-- indices of the points that no other dominates, of copies the first
local function distinct_front(points, minimize)
  local list, tree = {}, {}
  for _, i in ipairs(core.nondominated(points, { minimize = minimize or nil })) do
    local node, new = tree, false
    for _, v in ipairs(points[i]) do
      if not node[v] then
        node[v], new = {}, true
      end
      node = node[v]
    end
    list[#list + 1] = new and i or nil
  end
  return list
end

-- ---- distances to a known front ----

-- length of max(k - p, 0), scaled where squares would not be floats
local function shortfall(k, p)
  local largest, s = 0.0, 0.0
  for j = 1, #k do
    largest = math.max(largest, k[j] - p[j])
  end
  local unit = (largest > 1e150 or largest < 1e-150) and largest or 1.0
  if largest == 0 or largest == INF then
    return largest
  end
  for j = 1, #k do
    s = s + (math.max(k[j] - p[j], 0.0) / unit) ^ 2
  end
  return s ^ 0.5 * unit
end

--- Modified inverted generational distance (Ishibuchi and others, 2015): the mean over front of the least length of
-- max(k - p, 0). Unlike igd it never rewards a point for being worse.
function sets.igd_plus(points, front, options)
  local o = options_of("igd_plus", options, { "minimize" })
  local rows, d = points_of("igd_plus", points, "point", nil, o.minimize, true)
  local known, list = points_of("igd_plus", front, "front point", d, o.minimize, true), {}
  for i, k in ipairs(known) do
    list[i] = INF
    for _, p in ipairs(rows) do
      list[i] = math.min(list[i], shortfall(k, p))
    end
  end
  local result = finite("igd_plus", mean(list))
  return result
end

-- ---- R2 ----

-- The integral over w in [0, 1] of the least max(w a, (1 - w) b) of the distances (a, b) of two objectives. Sorted by
-- a, the pairs that count have falling b; each is the least between the crossings with its neighbours, and turns at
-- b / (a + b).
local function r2_of_two(distances)
  local unit = 0.0
  for _, r in ipairs(distances) do
    unit = math.max(unit, r[1], r[2])
  end
  if unit == 0 or unit == INF then
    return unit
  end
  table.sort(distances, function(x, y)
    return x[1] < y[1] or x[1] == y[1] and x[2] < y[2]
  end)
  local kept = {}
  for _, r in ipairs(distances) do
    if #kept == 0 or r[2] / unit < kept[#kept][2] then
      kept[#kept + 1] = { r[1] / unit, r[2] / unit }
    end
  end
  local s, high = 0.0, 1.0
  for i, r in ipairs(kept) do
    local a, b = r[1], r[2]
    local low = kept[i + 1] and b / (kept[i + 1][1] + b) or 0.0
    if a + b > 0 then
      local turn = b / (a + b)
      s = s + b * (turn - low) * (2 - low - turn) / 2 + a * (high - turn) * (high + turn) / 2
    end
    high = low
  end
  return s * unit
end

--- R2 with weighted Tchebycheff distances from the ideal point: the mean over weights of the least
-- max_j w_j |ideal_j - p_j|; less is better. Without weights the exact integral over all of them, for two objectives.
function sets.r2(points, ideal, options)
  local o = options_of("r2", options, { "weights", "minimize" })
  local rows, d = points_of("r2", points, "point", nil, false, true)
  check(type(ideal) == "table", "r2: the ideal is a %s (a list of %d numbers expected)", type(ideal), d)
  local z = points_of("r2", { ideal }, "ideal", d)[1]
  check(o.weights ~= nil or d == 2,
    "r2: %d objectives need weights, a list of weight vectors: without them R2 is exact for two only", d)
  for _, p in ipairs(rows) do
    for j = 1, d do
      p[j] = math.abs(z[j] - p[j])
    end
  end
  local list = {}
  for i, w in ipairs(o.weights ~= nil and weights_of("r2", o.weights, d) or {}) do
    list[i] = INF
    for _, p in ipairs(rows) do
      local far = 0.0
      for j = 1, d do
        far = math.max(far, w[j] > 0 and w[j] * p[j] or 0.0) -- not 0 times an infinity
      end
      list[i] = math.min(list[i], far)
    end
  end
  local result = finite("r2", #list > 0 and mean(list) or r2_of_two(rows))
  return result
end

-- ---- utilities ----

local function best(rows, w)
  local most = -INF
  for _, p in ipairs(rows) do
    most = math.max(most, dot(w, p))
  end
  return most
end

--- Expected utility metric: the mean over weights of the greatest w . p.
function sets.eum(points, weights, options)
  local o = options_of("eum", options, { "minimize" })
  local rows, d = points_of("eum", points, "point", nil, o.minimize, true)
  local list = {}
  for i, w in ipairs(weights_of("eum", weights, d)) do
    list[i] = best(rows, w)
  end
  local result = finite("eum", mean(list))
  return result
end

--- Maximum utility loss: over weights the greatest of what the best of front has more than the best of points; negative
-- where points are better everywhere.
function sets.mul(points, front, weights, options)
  local o = options_of("mul", options, { "minimize" })
  local rows, d = points_of("mul", points, "point", nil, o.minimize, true)
  local known = points_of("mul", front, "front point", d, o.minimize, true)
  local loss = -INF
  for _, w in ipairs(weights_of("mul", weights, d)) do
    loss = math.max(loss, best(known, w) - best(rows, w))
  end
  local result = finite("mul", loss)
  return result
end

-- ---- what a front consists of ----

-- the rows that count: all, or of those that are not dominated one each
local function counted(points, rows, o)
  if o.all then
    return rows
  end
  local list = {}
  for k, i in ipairs(distinct_front(points, o.minimize)) do
    list[k] = rows[i]
  end
  return list
end

--- Sum over objectives of the squared gaps between neighbours, over n - 1; less is denser. Of the distinct points that
-- are not dominated, or with all=true of all rows. Returns the number of points beside it: one alone has no gaps and 0.
function sets.sparsity(points, options)
  local o = options_of("sparsity", options, { "all", "minimize" })
  local rows, d = points_of("sparsity", points, "point", nil, false, true)
  rows = counted(points, rows, o)
  local gaps, largest, s = {}, 0.0, 0.0
  for j = 1, d do
    local column = {}
    for i, p in ipairs(rows) do
      column[i] = p[j]
    end
    table.sort(column)
    for i = 2, #column do
      gaps[#gaps + 1] = column[i] - column[i - 1]
      largest = math.max(largest, gaps[#gaps])
    end
  end
  local unit = (largest > 1e150 or largest < 1e-150) and largest > 0 and largest or 1.0
  for _, gap in ipairs(gaps) do
    s = s + (gap / unit) ^ 2
  end
  local result = #rows > 1 and s / (#rows - 1) * unit * unit or 0.0
  check(result > 0 or largest == 0, "sparsity: the result is below the range of a float: scale the objectives")
  finite("sparsity", result)
  return result, #rows
end

--- How many distinct points are not dominated, or with all=true how many rows there are.
function sets.cardinality(points, options)
  local o = options_of("cardinality", options, { "all", "minimize" })
  local rows = points_of("cardinality", points, "point", nil, false)
  return #counted(points, rows, o)
end

--- What the volume loses without each point, hv(points) - hv(points without p), and info.beyond. ignore_dominated=true
-- takes away dominated points first, so that they do not lessen what is left of others.
function sets.hypervolume_contributions(points, reference, options)
  local name = "hypervolume_contributions"
  local o = options_of(name, options, { "ignore_dominated", "minimize" })
  check(type(reference) == "table", "%s: the reference is a %s (a list of numbers expected)", name, type(reference))
  local z, d = points_of(name, { reference }, "reference")
  z = z[1]
  local rows = points_of(name, points, "point", d, false)
  local worse = o.minimize and math.max or math.min
  local inside, beyond, front = {}, 0, nil -- indices of points that are worse than the reference nowhere
  for i, p in ipairs(rows) do
    local out = false
    for j = 1, d do
      out = out or worse(p[j], z[j]) ~= z[j]
      check(math.abs(p[j] - z[j]) < INF, "%s: point %d is too far from the reference", name, i)
    end
    if out then
      beyond = beyond + 1
    else
      inside[#inside + 1] = i
    end
  end
  if o.ignore_dominated then
    front = {}
    for _, i in ipairs(core.nondominated(points, { minimize = o.minimize })) do
      front[i] = true
    end
  end
  local list, minimize = {}, { minimize = o.minimize }
  local function volume(points, reference)
    local ok, v = pcall(core.hypervolume, points, reference, minimize)
    if not ok then
      error(v, 3)
    end
    return v
  end
  for i = 1, #rows do
    list[i] = 0.0
  end
  for _, i in ipairs(inside) do
    if not front or front[i] then
      -- the box of p less what others cover of it: the difference of two whole volumes would cancel
      local covered = {}
      for _, k in ipairs(inside) do
        if k ~= i and (not front or front[k]) then
          local corner = {}
          for j = 1, d do
            corner[j] = worse(rows[i][j], rows[k][j])
          end
          covered[#covered + 1] = corner
        end
      end
      list[i] = math.max(0.0, volume({ rows[i] }, z) - volume(covered, z))
    end
  end
  return list, { beyond = beyond }
end

-- ---- supported points ----

-- Weights w, none negative, sum 1, with the greatest least w . gain over the rows of gains, all within -1 to 1: the
-- value of a matrix game, by the simplex method on its dual (d rows, one column a gain). nil as soon as the value is
-- known not to exceed floor.
local function best_weights(gains, d, floor)
  local n = #gains
  local tableau, basis, cost = {}, {}, {} -- columns: gains, slacks, right-hand side; gains are shifted to 1 to 3
  for j = 1, d do
    local row = {}
    for q = 1, n do
      row[q] = gains[q][j] + 2
    end
    for k = 1, d do
      row[n + k] = k == j and 1.0 or 0.0
    end
    row[n + d + 1] = 1.0
    tableau[j], basis[j] = row, n + j
  end
  for c = 1, n + d + 1 do
    cost[c] = c <= n and 1.0 or 0.0 -- what a unit of column c adds; the last is minus the sum reached
  end
  local stuck = false
  while true do
    if cost[n + d + 1] < 0 and -1 / cost[n + d + 1] - 2 <= floor then
      return nil
    end
    local enter, most = nil, 1e-13
    for c = 1, n + d do
      if cost[c] > most then
        enter, most = c, stuck and INF or cost[c] -- after a step of length 0 Bland's rule, which cannot cycle
      end
    end
    if not enter then
      break
    end
    local leave, least = nil, INF
    for j = 1, d do
      local a = tableau[j][enter]
      if a > 1e-13 then
        local ratio = tableau[j][n + d + 1] / a
        if ratio < least or ratio == least and basis[j] < basis[leave] then
          leave, least = j, ratio
        end
      end
    end
    if not leave then
      break
    end
    stuck = least == 0
    local pivot = tableau[leave]
    local a = pivot[enter]
    for c = 1, n + d + 1 do
      pivot[c] = pivot[c] / a
    end
    basis[leave] = enter
    for j = 0, d do
      local row = j == 0 and cost or tableau[j]
      local f = row[enter]
      if j ~= leave and f ~= 0 then
        for c = 1, n + d + 1 do
          row[c] = row[c] - f * pivot[c]
        end
        row[enter] = 0.0
      end
    end
  end
  local w, sum = {}, 0.0
  for j = 1, d do
    w[j] = math.max(0.0, -cost[n + j])
    sum = sum + w[j]
  end
  for j = 1, d do
    w[j] = w[j] / sum
  end
  return w
end

--- The supported (convex) set: 1-based indices, ascending, of the points that are the only best for some weights (none
-- negative, sum 1), of copies the first. A point counts where it is ahead by more than tolerance times
-- max(1, the greatest size of an entry).
function sets.supported(points, options)
  local o = options_of("supported", options, { "minimize", "tolerance" })
  local tolerance = o.tolerance or 1e-9
  check(type(tolerance) == "number" and tolerance >= 0 and tolerance < INF,
    "supported: tolerance is %s (a number from 0 expected)", tostring(tolerance))
  local rows, d = points_of("supported", points, "point", nil, o.minimize)
  if #rows == 0 then
    return {}
  end
  local size, unit, scale = 1.0, 0.0, {}
  for j = 1, d do
    local low, high = INF, -INF
    for _, p in ipairs(rows) do
      low, high = math.min(low, p[j]), math.max(high, p[j])
      size = math.max(size, math.abs(p[j]))
    end
    scale[j] = finite("supported", high - low)
    unit = math.max(unit, scale[j])
  end
  for j = 1, d do -- who is best for some weights does not depend on scales, by how much does
    scale[j] = tolerance == 0 and scale[j] > 0 and scale[j] or unit > 0 and unit or 1.0
  end
  -- in units of scale, and at least what rounding makes
  local floor = math.max((d + 2) * 2.0 ^ -52, unit > 0 and tolerance * size / unit or 0.0)
  local front, list = distinct_front(points, o.minimize), {}
  for _, i in ipairs(front) do
    local gains = {}
    for _, k in ipairs(front) do
      if k ~= i then
        local gain = {}
        for j = 1, d do
          gain[j] = (rows[i][j] - rows[k][j]) / scale[j]
        end
        gains[#gains + 1] = gain
      end
    end
    local w = #gains > 0 and best_weights(gains, d, floor)
    local ahead = #gains == 0 and INF or w and INF or -INF
    for _, gain in ipairs(w and gains or {}) do
      ahead = math.min(ahead, dot(w, gain))
    end
    list[#list + 1] = ahead > floor and i or nil
  end
  return list
end

return sets
