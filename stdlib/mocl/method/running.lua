--- mocl.method.running: running mean and variance of n numbers, and equation 18's normalisation by them.
-- Two laws. "count" weighs every row alike (Chan's parallel update, as openai/baselines'
-- RunningMeanStd). "ema" forgets: each batch takes the share 1 - factor. It refuses numbers that
-- are not finite, so that one bad reward cannot spoil the statistics.

local check_options = require "mocl.options".check
local check = require "mocl.failure".ensure
local shown = require "mocl.options".shown

local running = {}

local Running = {}
Running.__index = Running
Running.__name = "mocl.method.running"

local ROUNDING = 1e-9 -- a deviation below this share of the mean is what rounding leaves of a constant

local function is_finite(x)
  return type(x) == "number" and x == x and x ~= math.huge and x ~= -math.huge
end

local function check_law(t, what)
  check(math.type(t.n) == "integer" and t.n >= 1, 3, "%s: n is a count of numbers, got %s", what,
    tostring(t.n))
  check(t.kind == "count" or t.kind == "ema", 3, "%s: kind is 'count' or 'ema', got '%s'", what,
    tostring(t.kind))
  check(is_finite(t.factor) and t.factor >= 0 and t.factor < 1, 3,
    "%s: factor is in [0, 1), got %s", what, shown(t.factor))
end

--- running.unit(mean, std) -> what equation 18 divides by, 2 std, and true; or 1.0 and false for a reward that does not
-- vary: it has no deviation to be measured in, so that its own unit stays.
function running.unit(mean, std)
  if std > ROUNDING * math.abs(mean) then
    return 2 * std, true
  end
  return 1.0, false
end

--- Equation 18: (x - mean) / (2 std) + offset, and whether the reward varies; of one that does not, x - mean + offset.
function running.standardise(x, mean, std, offset)
  local unit, varies = running.unit(mean, std)
  return (x - mean) / unit + offset, varies
end

--- Running mean per group of rows of numbers: means[place] := factor means[place] + (1 - factor) mean of this
-- batch's rows of that place (the mean itself where the entry is false: nothing seen yet).
function running.update_means(means, places, rows, factor)
  local sums, counts = {}, {}
  for i, place in ipairs(places) do
    counts[place] = (counts[place] or 0) + 1
    sums[place] = sums[place] or {}
    for j, x in ipairs(rows[i]) do
      sums[place][j] = (sums[place][j] or 0) + x
    end
  end
  for place, sum in pairs(sums) do
    local before, now = means[place], {}
    for j, s in ipairs(sum) do
      local m = s / counts[place]
      now[j] = before and factor * before[j] + (1 - factor) * m or m
    end
    means[place] = now
  end
end

--- Equation 18 with fixed statistics {mean=, std=} per objective: 1 is the mean they were taken at. The figures of an
-- objective that did not vary then have no unit but their own, and stay as they are.
function running.normalize(row, statistics)
  local out = {}
  for j, x in ipairs(row) do
    local y, varies = running.standardise(x, statistics.mean[j], statistics.std[j], 1)
    out[j] = varies and y or x
  end
  return out
end

local OPTIONS = { "n", "kind", "factor" }

--- running.new{n=, kind="count"|"ema", factor=.95}
function running.new(options)
  check_options("running.new", options, {}, OPTIONS)
  local r = setmetatable({
    n = options.n,
    kind = options.kind or "count",
    factor = options.factor or 0.95,
    count = options.kind == "ema" and 0.0 or 1e-4, -- rows seen; baselines starts at 1e-4
    means = {},
    vars = {},
  }, Running)
  check_law(r, "running.new")
  for k = 1, r.n do
    r.means[k], r.vars[k] = 0.0, 1.0
  end
  return r
end

-- mean and population variance of each column of a list of rows
local function batch(r, rows, what)
  check(type(rows) == "table" and #rows > 0, 3,
    "%s: a list of rows that is not empty expected", what)
  local mean, var = {}, {}
  for k = 1, r.n do
    mean[k], var[k] = 0.0, 0.0
  end
  for i, row in ipairs(rows) do
    check(type(row) == "table" and #row == r.n, 3, "%s: row %d has %s numbers, %d expected",
      what, i, type(row) == "table" and #row or "no", r.n)
    for k = 1, r.n do
      check(is_finite(row[k]), 3, "%s: row %d, number %d is %s", what, i, k, shown(row[k]))
      mean[k] = mean[k] + row[k]
    end
  end
  for k = 1, r.n do
    mean[k] = mean[k] / #rows
    for i = 1, #rows do
      var[k] = var[k] + (rows[i][k] - mean[k]) ^ 2
    end
    var[k] = var[k] / #rows
  end
  return mean, var
end

--- Mean and variance become those of these rows; what was seen before is forgotten.
function Running:start(rows)
  self.means, self.vars = batch(self, rows, "start")
  self.count = #rows + 0.0
  return self
end

--- Takes a batch in. Both laws mix two sets with shares 1 - w and w of the total weight:
--   mean <- mean + w d,   var <- (1 - w) var + w batch_var + w (1 - w) d^2,   d = batch_mean - mean
-- which is exact for the mixture. "count": w = rows / (count + rows); "ema": w = 1 - factor, and
-- the first batch of an object that was not started starts it.
function Running:update(rows)
  local mean, var = batch(self, rows, "update")
  local n, total = #rows, self.count + #rows
  if self.kind == "ema" and self.count == 0 then
    self.means, self.vars, self.count = mean, var, total
    return self
  end
  for k = 1, self.n do
    local d = mean[k] - self.means[k]
    if self.kind == "count" then
      -- baselines' order of operations, so that the digits agree
      local m2 = self.vars[k] * self.count + var[k] * n + d ^ 2 * self.count * n / total
      self.means[k] = self.means[k] + d * n / total
      self.vars[k] = m2 / total
    else
      local f = self.factor
      self.means[k] = f * self.means[k] + (1 - f) * mean[k]
      self.vars[k] = f * self.vars[k] + (1 - f) * var[k] + f * (1 - f) * d ^ 2
    end
  end
  self.count = total
  return self
end

local function copy(list)
  return table.move(list, 1, #list, 1, {})
end

function Running:mean()
  return copy(self.means)
end

function Running:var()
  return copy(self.vars)
end

function Running:std()
  local list = {}
  for k = 1, self.n do
    list[k] = self.vars[k] ^ 0.5
  end
  return list
end

--- Equation 18: (x - mean) / (2 std) + offset, offset 1 by default; a new list. Numbers that did not vary are not
-- divided: x - mean + offset.
function Running:normalize(row, options)
  local offset = 1.0
  if options then
    offset = check_options("normalize", options, {}, { "offset" }).offset or offset
    check(is_finite(offset), 2, "normalize: offset is a number, got %s", tostring(offset))
  end
  check(type(row) == "table" and #row == self.n, 2,
    "normalize: a list of %d numbers expected", self.n)
  local list = {}
  for k = 1, self.n do
    list[k] = running.standardise(row[k], self.means[k], self.vars[k] ^ 0.5, offset)
  end
  return list
end

--- A plain table that running.restore takes; every float survives 17 digits of text.
function Running:state()
  return {
    n = self.n, kind = self.kind, factor = self.factor, count = self.count, mean = copy(self.means),
    var = copy(self.vars),
  }
end

function Running:__tostring()
  return ("mocl.method.running (%s, %d numbers, %g rows)"):format(self.kind, self.n, self.count)
end

local STATE = { "n", "kind", "factor", "count", "mean", "var" }

function running.restore(state)
  check(type(state) == "table", 2, "running.restore: a table expected, got %s", type(state))
  check_options("running.restore", state, {}, STATE)
  check_law(state, "running.restore")
  check(is_finite(state.count) and state.count >= 0, 2, "running.restore: count is %s",
    tostring(state.count))
  for _, name in ipairs { "mean", "var" } do
    local list = state[name]
    check(type(list) == "table" and #list == state.n, 2,
      "running.restore: %s needs %d numbers", name, state.n)
    for k, x in ipairs(list) do
      check(is_finite(x) and (name == "mean" or x >= 0), 2, "running.restore: %s %d is %s", name, k,
        tostring(x))
    end
  end
  local r = running.new { n = state.n, kind = state.kind, factor = state.factor }
  r.count = state.count + 0.0
  for k = 1, r.n do
    r.means[k], r.vars[k] = state.mean[k] + 0.0, state.var[k] + 0.0
  end
  return r
end

return running
