--- mocl.metrics: figures for fronts, controllability and accuracies.
-- Points and rewards are lists of lists, larger is better. It reads no files and prints nothing.
-- Loops over points are C (mocl.metrics.core); what is short is here.

local check_options = require "mocl.options".check
local core = require "mocl.metrics.core"
local bootstrap = require "mocl.metrics.bootstrap"
local sets = require "mocl.metrics.sets"

local metrics = {
  bootstrap = bootstrap.bootstrap,
  cardinality = sets.cardinality,
  epsilon = core.epsilon,
  eum = sets.eum,
  hypervolume = core.hypervolume,
  hypervolume_contributions = sets.hypervolume_contributions,
  igd = core.igd,
  igd_plus = sets.igd_plus,
  kendall_tau = core.kendall_tau,
  mean_pairwise_distance = core.mean_pairwise_distance,
  mul = sets.mul,
  nondominated = core.nondominated,
  over_seeds = bootstrap.over_seeds,
  r2 = sets.r2,
  sparsity = sets.sparsity,
  supported = sets.supported,
}

-- raises from the caller of the public function
local check = require "mocl.failure".argument

local function is_list(x)
  return type(x) == "table"
end

-- Kendall's tau needs finite numbers in every row of the same length
local function check_rows(rows, n, what)
  for i, row in ipairs(rows) do
    if not is_list(row) or #row ~= n then
      error(("%s %d has %s entries, %d expected"):format(what, i,
        is_list(row) and #row or "no", n), 3)
    end
  end
end

-- the number v as a float; an integer that floats do not hold would become another number, and is refused
local function exact(v, what, i, up)
  local level = 3 + (up or 0) -- the caller of the figure
  if math.type(v) == "integer" and math.tointeger(v + 0.0) ~= v then
    error(("%s %d is %d, an integer beyond 2^53 that is not exact as a float: shift or scale the values"):format(what, i, v), level)
  elseif type(v) ~= "number" then
    error(("%s %d is a %s, not a number"):format(what, i, type(v)), level)
  end
  return v + 0.0
end

-- exact, and no NaN, of which no figure can be made
local function number(v, what, i)
  v = exact(v, what, i, 1)
  if v ~= v then
    error(("%s %d is nan"):format(what, i), 3)
  end
  return v
end

-- a figure that a float does not hold is refused
local function in_range(v, name)
  if v - v ~= 0 then
    error(("%s: the result is beyond the range of a float (1.8e308): scale the objectives"):format(name), 3)
  end
  return v
end

--- Equation 24 as the angle from the second axis towards the first, seen from the reference:
-- atan2(r1 - ref1, r2 - ref2). The arctangent of the quotient is the same where r1 > ref1 and wraps
-- elsewhere.
function metrics.projection(points, reference)
  check(is_list(points), "projection: points must be a list, got %s", type(points))
  check(is_list(reference) and #reference == 2, "projection: the reference needs 2 numbers")
  local scores, beyond = {}, 0
  for i, r in ipairs(points) do
    check(is_list(r) and #r == 2, "projection: point %d needs 2 objectives", i)
    local a = number(r[1], "projection: first objective of point", i) - number(reference[1], "projection: reference", 1)
    local b = number(r[2], "projection: second objective of point", i) - number(reference[2], "projection: reference", 2)
    if a - a ~= 0 or b - b ~= 0 then -- the angle is that of halves, which a float holds
      a, b = r[1] / 2 - reference[1] / 2, r[2] / 2 - reference[2] / 2
    end
    scores[i] = math.atan(a, b)
    if a < 0 or b < 0 then
      beyond = beyond + 1
    end
  end
  return scores, beyond
end

--- column(rows, k) -> the list of entry k of each row.
function metrics.column(rows, k)
  local c = {}
  for i = 1, #rows do
    c[i] = rows[i][k]
  end
  return c
end

local column = metrics.column

-- of each column the greatest entry less the least, and the greatest size
local function ranges(rows, n)
  local width, size = {}, {}
  for j = 1, n do
    local lo, hi = math.huge, -math.huge
    for _, row in ipairs(rows) do
      lo, hi = math.min(lo, row[j]), math.max(hi, row[j])
    end
    width[j], size[j] = hi - lo, math.max(math.abs(lo), math.abs(hi))
  end
  return width, size
end

--- Points that another is better than by more than noise: no worse in any objective, and in at least one better by more than
-- margin times the range of that objective over all points, by more than a tenth of margin times its size (where nothing is
-- traded the range is noise) and, with standard errors, by more than three of the difference.
function metrics.dominated(points, options)
  local margin, errors = 0.1, nil
  check(is_list(points), "dominated: points must be a list, got %s", type(points))
  for key, value in pairs(check_options("dominated", options or {}, {}, { "margin", "errors" })) do
    margin, errors = key == "margin" and value or margin, key == "errors" and value or errors
  end
  check(type(margin) == "number" and margin >= 0, "dominated: margin is %s (a number from 0 expected)", tostring(margin))
  local n = is_list(points[1]) and #points[1] or 0
  check_rows(points, n, "dominated: point")
  check(not errors or is_list(errors) and #errors == #points, "dominated: errors needs a row for each of %d points", #points)
  check_rows(errors or {}, n, "dominated: row of errors")
  local rows = {}
  for i, p in ipairs(points) do
    rows[i] = {}
    for j = 1, n do
      check(type(p[j]) == "number" and p[j] - p[j] == 0, "dominated: point %d, objective %d is %s, not a finite number", i, j,
        tostring(p[j]))
      rows[i][j] = exact(p[j], ("dominated: objective %d of point"):format(j), i)
      local e = errors and errors[i][j] or 0
      check(type(e) == "number" and e >= 0 and e < math.huge, "dominated: the error of point %d, objective %d is %s (a number from 0 expected)",
        i, j, tostring(e))
    end
  end
  points = rows
  local list, width, size = {}, ranges(points, n)
  for j = 1, n do
    in_range(width[j] or 0, "dominated")
  end
  for i, p in ipairs(points) do
    local most, by = 0, nil -- how far ahead the best of those that dominate p is, in ranges
    for k, q in ipairs(points) do
      local behind, clear, ahead = false, false, 0
      for j = 1, n do
        local gap = q[j] - p[j]
        behind = behind or gap < 0
        if gap > margin * math.max(width[j], size[j] / 10) and (not errors or gap > 3 * (errors[i][j] ^ 2 + errors[k][j] ^ 2) ^ 0.5) then
          clear, ahead = true, ahead + gap / width[j]
        end
      end
      if clear and not behind and ahead > most then
        most, by = ahead, k
      end
    end
    list[#list + 1] = by and { index = i, by = by } or nil
  end
  return list
end

--- How well rewards follow preferences, by rank. Two objectives: tau of the first weight against
-- the projection. Otherwise: the mean over objectives of the tau of r_j against p_j.
function metrics.controllability(preferences, rewards, options)
  check(is_list(preferences) and is_list(rewards),
    "controllability: preferences and rewards must be lists")
  check(#preferences == #rewards and #rewards > 0,
    "controllability: %d preferences and %d rewards (equal and at least 1 expected)", #preferences,
    #rewards)
  local reference = check_options("controllability", options or {}, {}, { "reference" }).reference
  check(is_list(rewards[1]), "controllability: reward 1 is not a list")
  local n = #rewards[1]
  check_rows(rewards, n, "controllability: reward")
  check_rows(preferences, n, "controllability: preference")
  if not reference then
    reference = {}
    for j = 1, n do
      reference[j] = -2
    end
  end
  check(is_list(reference) and #reference == n,
    "controllability: the reference needs %d numbers", n)

  for i, r in ipairs(rewards) do -- here, where an error is raised at the caller
    for j = 1, n == 2 and 2 or 0 do
      number(r[j], ("controllability: objective %d of reward"):format(j), i)
    end
  end
  for j = 1, n do
    number(reference[j], "controllability: reference", j)
  end
  local result = { kendall_tau_per_objective = {}, beyond = 0 }
  local sum = 0
  for j = 1, n do
    local tau = core.kendall_tau(column(preferences, j), column(rewards, j))
    result.kendall_tau_per_objective[j] = tau
    sum = sum + tau
  end
  if n == 2 then
    local scores
    scores, result.beyond = metrics.projection(rewards, reference)
    result.kendall_tau, result.kendall_p = core.kendall_tau(column(preferences, 1), scores)
  else
    result.kendall_tau = sum / n
    for _, r in ipairs(rewards) do
      for j = 1, n do
        if r[j] < reference[j] then
          result.beyond = result.beyond + 1
          break
        end
      end
    end
  end
  return result
end

--- Equation 19: the squared distance of a normalised reward r from the preference p.
function metrics.amvs(r, p)
  check(is_list(r) and is_list(p) and #r == #p, "amvs: two lists of one length expected")
  local s = 0
  for j = 1, #r do
    s = s + (number(r[j], "amvs: reward", j) - number(p[j], "amvs: preference", j)) ^ 2
  end
  return in_range(s, "amvs")
end

-- a scaled to length 1, without overflow
local function unit(a, which)
  local largest, s = 0, 0
  for j = 1, #a do
    largest = math.max(largest, math.abs(number(a[j], "nvd: vector " .. which .. ", entry", j)))
  end
  if not (largest > 0 and largest < math.huge) then
    error(("nvd: vector %s has no direction"):format(which), 3)
  end
  local u = {}
  for j = 1, #a do
    u[j] = a[j] / largest
    s = s + u[j] ^ 2
  end
  for j = 1, #a do
    u[j] = u[j] / s ^ 0.5
  end
  return u
end

--- Equation 20: the distance between the directions of a and b, from 0 to 2.
function metrics.nvd(a, b)
  check(is_list(a) and is_list(b) and #a == #b, "nvd: two lists of one length expected")
  return metrics.amvs(unit(a, "a"), unit(b, "b")) ^ 0.5
end

--- mean_rows(rows) -> the mean of rows of numbers, entry by entry.
function metrics.mean_rows(rows)
  check(is_list(rows) and #rows > 0, "mean_rows: a list of rows that is not empty expected")
  check_rows(rows, #rows[1], "mean_rows: row")
  local mean = {}
  for j = 1, #rows[1] do
    mean[j] = 0
    for i, row in ipairs(rows) do
      mean[j] = mean[j] + exact(row[j], "mean_rows: an entry of row", i) / #rows
    end
  end
  return mean
end

--- Mean and population standard deviation.
function metrics.mean_std(list)
  check(is_list(list) and #list > 0, "mean_std: a list that is not empty expected")
  local n, sum, squares, largest = #list, 0.0, 0.0, 0.0
  for i = 1, n do
    local v = exact(list[i], "mean_std: entry", i)
    sum, largest = sum + v, math.max(largest, math.abs(v))
  end
  if largest > 1e150 and largest < math.huge or largest > 0 and largest < 1e-140 then -- squares would overflow, or vanish
    local scaled = {}
    for i = 1, n do
      scaled[i] = list[i] / largest
    end
    local mean, std = metrics.mean_std(scaled)
    return mean * largest, std * largest
  end
  local mean = sum / n
  for i = 1, n do
    squares = squares + (list[i] - mean) ^ 2
  end
  return mean, (squares / n) ^ 0.5
end

--- Counts of numbers in `bins` bins of one width over [low, high): a table with low, width, counts,
-- mean, n, and how many lay below and above.
function metrics.histogram(list, low, high, bins)
  check(is_list(list), "histogram: a list expected, got %s", type(list))
  check(math.type(bins) == "integer" and bins >= 1 and bins <= 100000,
    "histogram: bins is %s (1 to 100000 expected)", tostring(bins))
  exact(low, "histogram: end", 1)
  exact(high, "histogram: end", 2)
  check(low < high and high - low < math.huge,
    "histogram: the range %s to %s is empty", tostring(low), tostring(high))
  local h = { low = low + 0.0, width = (high - low) / bins, counts = {}, below = 0, above = 0, n = #list }
  for b = 1, bins do
    h.counts[b] = 0
  end
  local sum, part = 0.0, 0.0
  for i = 1, #list do
    local v = list[i]
    check(type(v) == "number" and v == v, "histogram: entry %d is %s", i, tostring(v))
    sum = sum + exact(v, "histogram: entry", i)
    part = part + v / #list
    if v < low then
      h.below = h.below + 1
    elseif v >= high then
      h.above = h.above + 1
    else
      local b = math.min(bins, math.floor((v - low) / h.width) + 1)
      h.counts[b] = h.counts[b] + 1
    end
  end
  h.mean = #list > 0 and (sum - sum == 0 and sum / #list or part) or nil -- a sum may overflow where the mean does not
  return h
end

--- Pearson's correlation; NaN where x or y is constant.
function metrics.pearson(x, y)
  check(is_list(x) and is_list(y), "pearson: two lists expected")
  check(#x == #y and #x > 0,
    "pearson: x has %d entries, y has %d (equal and at least 1 expected)", #x, #y)
  for i = 1, #x do
    exact(x[i], "pearson: entry of x", i)
    exact(y[i], "pearson: entry of y", i)
  end
  local mx, sx = metrics.mean_std(x)
  local my, sy = metrics.mean_std(y)
  if sx == 0 or sy == 0 then
    return math.abs(0 / 0) -- without a sign, which would be shown
  end
  local s = 0
  if math.max(sx, sy) > 1e150 or math.min(sx, sy) < 1e-140 then -- products would overflow, or vanish
    for i = 1, #x do
      s = s + (x[i] / sx - mx / sx) * (y[i] / sy - my / sy) / #x
    end
  else
    for i = 1, #x do
      s = s + (x[i] - mx) * (y[i] - my)
    end
    s = s / #x / sx / sy
  end
  return math.max(-1.0, math.min(1.0, s))
end

--- Wilson's score interval, 95 %, of a share of successes among n.
function metrics.wilson(successes, n)
  check(math.type(n) == "integer" and n >= 0, "wilson: n is a count, got %s", tostring(n))
  check(type(successes) == "number" and successes >= 0 and successes <= n,
    "wilson: %s successes among %d", tostring(successes), n)
  if n == 0 then
    return 0.0, 1.0
  end
  local z2 = 1.959963984540054 ^ 2 -- the normal quantile .975
  local share = successes / n
  local centre = (share + z2 / (2 * n)) / (1 + z2 / n)
  local half = (z2 * (share * (1 - share) / n + z2 / (4 * n * n))) ^ 0.5 / (1 + z2 / n)
  return math.max(0.0, centre - half), math.min(1.0, centre + half)
end

return metrics
