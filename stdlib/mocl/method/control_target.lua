--- mocl.method.control_target: what R is compared with p: equation 18 or shares, and b = R - p of each answer with the indicator
-- of equation 5. The functions take a control (mocl.method.control), whose options and running means they use.

local metrics = require "mocl.metrics"
local ppo = require "mocl.train.ppo"
local running = require "mocl.train.running"

local target = {}

-- Rt_j = R_j / sum_m R_m: the same scale as a preference; equal shares where there is nothing to share
local function shares(R)
  local sum, rows = 0, {}
  for j, r in ipairs(R) do
    if not (r >= 0) then
      error(("control.share: the mean reward of objective %d is %g, and shares need rewards that are not negative"):format(j, r), 0)
    end
    sum = sum + r
  end
  for j, r in ipairs(R) do
    rows[j] = sum > 0 and r / sum or 1 / #R
  end
  return rows
end

local LEAST_WITHIN = 0.01 -- of the deviation of all answers: where each preference always gets the same reward

-- R by equation 18's running statistics. A reward that does not vary has R = offset for every answer.
function target.standardise(self, raw, places)
  local o, rows = self.o, {}
  self.stats:update(raw)
  local mean, std = self.stats:mean(), self.stats:std()
  if o.spread == "within" then
    local residuals = {}
    ppo.update_means(self.raw_mean, places, raw, o.factor)
    for i, row in ipairs(raw) do
      residuals[i] = {}
      for j, x in ipairs(row) do
        residuals[i][j] = x - self.raw_mean[places[i]][j]
      end
    end
    self.within:update(residuals)
    local within = self.within:std()
    for j, all in ipairs(std) do
      std[j] = math.max(within[j], LEAST_WITHIN * all)
    end
  end
  local offset = o.offset == "1" and 1 or 1 / self.n
  for i, row in ipairs(raw) do
    rows[i] = {}
    for j, x in ipairs(row) do
      rows[i][j] = (x - mean[j]) / running.unit(mean[j], std[j]) + offset
    end
  end
  return rows
end

-- b = R - p of answer i (equation 5). With the grid's range it is mapped; there, and where no weight may be negative, it
-- loses its mean over j, so that the weights sum to c.
local function difference(self, i, place, p, batch_mean, middle, half)
  local o, b, R = self.o, {}, nil
  if o.statistic == "group" then
    R = self.mean[place]
  else
    R = o.statistic == "batch" and batch_mean or self.R[i]
  end
  R = o.share and shares(R) or R
  local centre = 0
  for j = 1, self.n do
    local r = R[j]
    if o.range then
      r = (r - middle[j]) / (2 * half[j]) + 1 / self.n
    end
    b[j] = r - p[j]
    centre = centre + b[j] / self.n
  end
  if o.range or not o.negative then
    for j = 1, self.n do
      b[j] = b[j] - centre
    end
  end
  return b
end

-- Mean of Rbar_j over the preferences, among those that were dealt, where objective j has the greatest weight (sign 1) or the
-- least (sign -1)
local function mean_at_end(self, means, j, sign)
  local most, sum, n = -math.huge, 0, 0
  for place, m in ipairs(means) do
    if m then
      local w = sign * self.grid[place][j]
      if w > most then
        most, sum, n = w, 0, 0
      end
      if w == most then
        sum, n = sum + m[j], n + 1
      end
    end
  end
  return sum / n
end

-- What the grid reaches of each objective: from where it has the least weight to where it has the greatest. The least and the
-- greatest mean would do without noise, but of several means that are alike one is the least by chance, and the others
-- would seem to be above the end.
local function grid_range(self)
  local middle, half, means = {}, {}, self.mean
  if self.o.share then
    means = {}
    for place, m in ipairs(self.mean) do
      means[place] = m and shares(m)
    end
  end
  for j = 1, self.n do
    local lo, hi = mean_at_end(self, means, j, -1), mean_at_end(self, means, j, 1)
    middle[j], half[j] = (lo + hi) / 2, math.max(hi - lo, self.o.least_range) / 2
  end
  return middle, half
end

-- The smallest c with w_j = c p_j + (1 - c) minus_b_j >= floor p_j for every j. Where minus_b_j is negative that is
-- (floor p_j - minus_b_j) / (p_j - minus_b_j); it is at least floor, and 1 where p_j is 0.
local function least_c(floor, p, minus_b)
  local least = 0.0
  for j, x in ipairs(minus_b) do
    if x < 0 then
      least = math.max(least, (floor * p[j] - x) / (p[j] - x))
    end
  end
  return least
end

--- Per answer: -scale b, zeros where the indicator is off; whether it is on; and the smallest c that leaves no weight below
-- floor p_j (0 where negative weights are allowed). Answers to one preference have one b, unless each answer has its own R.
function target.differences(self, prefs, places, weights)
  local o, n = self.o, self.n
  local batch_mean = metrics.mean_rows(self.R)
  local middle, half
  if o.range then
    middle, half = grid_range(self)
  end
  local minus_b, violated, least, groups = {}, {}, {}, {}
  for i, p in ipairs(prefs) do
    local group = groups[p]
    if not group or group.place ~= places[i] or o.statistic == "sample" then
      local b, mse = difference(self, i, places[i], p, batch_mean, middle, half), 0
      for j = 1, n do
        mse = mse + b[j] ^ 2 / n -- equation 2
      end
      local on = mse > o.phi -- the indicator of equation 5
      for j = 1, n do
        b[j] = on and -o.scale * b[j] or 0.0
      end
      group = { place = places[i], b = b, violated = on, least = o.negative and 0.0 or least_c(o.floor, (weights or prefs)[i], b) }
      groups[p] = group
    end
    minus_b[i], violated[i], least[i] = group.b, group.violated, group.least
  end
  return minus_b, violated, least
end

return target
