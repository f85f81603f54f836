--- mocl.metrics.bootstrap: bootstrap intervals over seeds; mocl.metrics exports it.

local check = require "mocl.failure".argument
local check_options = require "mocl.options".check
local rng = require "mocl.rng"

local M = {}

local OPTIONS = { "figure", "statistic", "confidence_level", "n_resamples", "seed" }

--- Mean of a list, also where only its sum is beyond the range of floats.
function M.mean(list)
  local n, sum, parts = #list, 0.0, 0.0
  for i = 1, n do
    sum, parts = sum + list[i], parts + list[i] / n
  end
  return sum - sum == 0 and sum / n or parts
end

-- v as a float; what is not a finite number is an error at the caller of bootstrap
local function number(v, what, i)
  if type(v) ~= "number" then
    error(("bootstrap: %s%s is a %s, not a number"):format(what, i and " " .. i or "", type(v)), 3)
  elseif v - v ~= 0 then
    error(("bootstrap: %s%s is %s, not finite"):format(what, i and " " .. i or "",
      v ~= v and "nan" or v > 0 and "inf" or "-inf"), 3)
  elseif math.type(v) == "integer" and math.tointeger(v + 0.0) ~= v then
    error(("bootstrap: %s%s is %d, an integer beyond 2^53 that is not exact as a float: shift or scale the values")
      :format(what, i and " " .. i or "", v), 3)
  end
  return v + 0.0
end

--- over_seeds(list) -> mean, std: std is the sample standard deviation (divided by n - 1), nil of one entry.
function M.over_seeds(list)
  check(type(list) == "table" and #list > 0, "over_seeds: a list that is not empty expected")
  local values, sum = {}, 0.0
  for i = 1, #list do
    values[i] = number(list[i], "entry", i)
  end
  local mean = M.mean(values)
  for _, v in ipairs(values) do
    sum = sum + (v - mean) ^ 2
  end
  return mean, #values > 1 and (sum / (#values - 1)) ^ 0.5 or nil
end

-- the number of multisets of n among n, or nil beyond limit
local function multisets(n, limit)
  local c = 1
  for k = 1, n - 1 do
    c = c * (n + k) // k -- exact: the product of k neighbours over k!
    if c > limit then
      return nil
    end
  end
  return c
end

-- Calls visit(counts, chance) for every way to draw n of n with replacement, order aside.
local function every_resample(n, visit)
  local counts = {}
  local function place(i, left, ways)
    if i == n then
      counts[n] = left
      for k = 2, left do
        ways = ways / k
      end
      visit(counts, ways)
      return
    end
    for c = 0, left do
      counts[i] = c
      place(i + 1, left - c, ways)
      ways = ways / (c + 1) -- one over the product of the factorials of the counts
    end
  end
  local whole = 1.0
  for k = 1, n do
    whole = whole * k / n -- n! / n^n
  end
  place(1, n, whole)
end

-- the least value that at least `share` of the chance lies at or below
local function quantile(results, share)
  local sum = 0.0
  for _, r in ipairs(results) do
    sum = sum + r[2]
    if sum >= share * (1 - 1e-12) then -- a share of equal parts is reached in spite of rounding
      return r[1]
    end
  end
  return results[#results][1]
end

--- Percentile bootstrap over seeds: the interval, at confidence_level, of a statistic (the mean) of a figure of each
-- entry. Where all resamples are at most n_resamples, order aside, every one is taken with its chance; else n_resamples
-- are drawn.
function M.bootstrap(samples, options)
  local o = check_options("bootstrap", options or {}, {}, OPTIONS)
  local level, resamples, seed = o.confidence_level or 0.95, o.n_resamples or 9999, o.seed or 0
  check(type(samples) == "table", "bootstrap: a list with one entry for each seed expected, got a %s", type(samples))
  check(#samples >= 2, "bootstrap: %d entries say nothing of how a figure varies over seeds (at least 2 expected)",
    #samples)
  check(type(level) == "number" and level > 0 and level < 1,
    "bootstrap: confidence_level is %s (above 0 and below 1 expected)", tostring(level))
  check(math.type(resamples) == "integer" and resamples >= 1 and resamples <= 10000000,
    "bootstrap: n_resamples is %s (1 to 10000000 expected)", tostring(resamples))
  check(math.type(seed) == "integer", "bootstrap: seed is %s (an integer expected)", tostring(seed))
  for _, key in ipairs { "figure", "statistic" } do
    check(o[key] == nil or type(o[key]) == "function", "bootstrap: %s is a %s (a function expected)", key, type(o[key]))
  end

  local n, values, statistic = #samples, {}, o.statistic or M.mean
  for i = 1, n do
    local v = samples[i]
    if o.figure then
      v = o.figure(v) -- once for each seed, not for each resample; what it returns beside the figure is dropped
    end
    values[i] = (o.figure or not o.statistic) and number(v, o.figure and "the figure of entry" or "entry", i) or v
  end
  local estimate = number(statistic(table.move(values, 1, n, 1, {})), "the statistic")
  local result, results = { n = n, estimate = estimate }, {}
  result.exact = multisets(n, resamples) ~= nil
  if result.exact then
    every_resample(n, function(counts, chance)
      local list = {}
      for i = 1, n do
        for _ = 1, counts[i] do
          list[#list + 1] = values[i]
        end
      end
      results[#results + 1] = { statistic(list), chance }
    end)
  else
    local r = rng.new(seed, "bootstrap")
    for b = 1, resamples do
      local list = {}
      for i = 1, n do
        list[i] = values[r:integer(1, n)]
      end
      results[b] = { statistic(list), 1 / resamples }
    end
  end
  for _, r in ipairs(results) do
    r[1] = number(r[1], "the statistic of a resample")
  end
  table.sort(results, function(x, y)
    return x[1] < y[1]
  end)
  result.resamples = #results
  local tail = (1 - level) / 2
  local low = quantile(results, tail)
  for i = 1, #results // 2 do -- the upper end is the lower end from the other side
    results[i], results[#results + 1 - i] = results[#results + 1 - i], results[i]
  end
  return low, quantile(results, tail), result
end

return M
