--- mocl.control: the surrogate problem of MOC: what R is compared with p, the two vectors of equation 12, c by
-- algorithm 2, and the weight of each objective. docs/algorithm.md section 3 has the readings.
--
--   local control = Control.new(cfg.control, #objectives, #grid)
--   control:observe(raw, places)                 -- line 6 of Algorithm 1: R, normalised by equation 18
--   local s = control:solve(adv, batch, prefs, places)   -- line 8: s.w [T, N], s.c [T]
--
-- Options (cfg.control): see Control.OPTIONS.

local minnorm = require "mocl.minnorm"
local ppo = require "mocl.ppo"
local running = require "mocl.running"
local tensor = require "mocl.tensor"

local Control = {}
Control.__index = Control

--- Rows for a recipe's schema; `prefix` is put in front of the keys.
Control.OPTIONS = {
  { "c", "minnorm", "how c is found: algorithm 2, or 1 always (linear scalarisation)", choices = { "minnorm", "one" } },
  { "offset", "1/N", "centre of equation 18 while training", choices = { "1/N", "1" } },
  { "statistic", "group", "R: mean per preference (running), of the batch, or each answer's", choices = { "group", "batch", "sample" } },
  { "pool", "preference", "answers that share one c", choices = { "preference", "batch", "sample", "token" } },
  { "solve", "iteration", "when c is solved: once at z = 1, or every epoch with the gate I(A)", choices = { "iteration", "epoch" } },
  { "phi", 0.02, "tolerated mean squared error, phi of equation 4", min = 0 },
  { "scale", 1.0, "factor on vbar (2/N is the exact derivative)", min = 0 },
  { "floor", 0.0, "smallest c where the indicator is on", min = 0, max = 1 },
  { "factor", 0.8, "memory of the mean reward per preference", min = 0, max = 1 },
  { "running", "ema", "equation 18's statistics: forgetting, or counting every answer alike", choices = { "ema", "count" } },
  { "statistics_factor", 0.95, "memory of the forgetting statistics", min = 0, max = 0.9999 },
  { "spread", "total", "the deviation in equation 18: of all answers, or within a preference", choices = { "total", "within" } },
  { "range", false, "map the mean rewards of the grid to its range before the comparison (reading B)" },
  { "share", false, "R: each objective's share of the raw rewards in place of equation 18; for rewards that are not negative" },
}

--- Option values of the readings of docs/algorithm.md, section 3. The defaults above are A's.
Control.READING_A = { ["control.range"] = false, ["control.phi"] = 0.02, ["control.floor"] = 0.0 }
Control.READING_B = { ["control.spread"] = "within", ["control.range"] = true, ["control.phi"] = 0.001, ["control.floor"] = 0.5,
  ["control.factor"] = 0.85, ["ppo.horizon"] = 600.0, ["ppo.min_kl_coef"] = 0.05 }
Control.PAPER = { ["control.range"] = false, ["control.floor"] = 0.0, ["control.offset"] = "1", ["control.statistic"] = "sample", ["control.pool"] = "sample", ["control.phi"] = 0.1,
  ["control.running"] = "count", ["control.solve"] = "epoch" }

local WITHIN_FACTOR = 0.97 -- memory of the variance within a preference
local LEAST_HALF_RANGE = 0.5 -- of the mean rewards over the grid, in units of R

local function mean_rows(rows)
  local mean = {}
  for j = 1, #rows[1] do
    mean[j] = 0
    for _, row in ipairs(rows) do
      mean[j] = mean[j] + row[j] / #rows
    end
  end
  return mean
end

local function blank(n)
  local list = {}
  for k = 1, n do
    list[k] = false
  end
  return list
end

--- Control.new(options, n objectives, n preferences, start): start are raw rewards of the SFT model's answers,
-- from which equation 18's statistics begin (nil: from the first batch). Options that are not given have their defaults.
function Control.new(options, n, n_grid, start)
  local o = {}
  for _, row in ipairs(Control.OPTIONS) do
    local v = options[row[1]]
    if v == nil then
      v = row[2]
    end
    o[row[1]] = v
  end
  for key in pairs(options) do
    if o[key] == nil then
      error(("Control.new: unknown option '%s'"):format(tostring(key)), 2)
    end
  end
  local self = setmetatable({ o = o, n = n, stats = running.new { n = n, kind = o.running, factor = o.statistics_factor },
    within = running.new { n = n, kind = "ema", factor = WITHIN_FACTOR }, raw_mean = blank(n_grid), mean = blank(n_grid) }, Control)
  if start then
    self.stats:start(start)
    self.within:start(start)
  end
  return self
end

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

-- R by equation 18's running statistics
local function standardise(self, raw, places)
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
    std = self.within:std()
  end
  local offset = o.offset == "1" and 1 or 1 / self.n
  for i, row in ipairs(raw) do
    rows[i] = {}
    for j, x in ipairs(row) do
      rows[i][j] = (x - mean[j]) / (2 * math.max(std[j], 1e-6)) + offset
    end
  end
  return rows
end

--- Takes in the raw rewards of a batch (answer i under preference places[i]) and returns R: per answer, normalised by
-- equation 18, or with `share` as they are (what is compared with p is then their share, equation 18's stand-in).
function Control:observe(raw, places)
  local o, rows = self.o, self.o.share and raw or standardise(self, raw, places)
  ppo.update_means(self.mean, places, rows, o.factor)
  self.R = rows
  return rows
end

-- b = R - p of answer i (equation 5), or its reading with the grid's range mapped and the mean over j removed
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
  if o.range then
    for j = 1, self.n do
      b[j] = b[j] - centre
    end
  end
  return b
end

local function grid_range(self)
  local middle, half = {}, {}
  for j = 1, self.n do
    local lo, hi = math.huge, -math.huge
    for _, m in ipairs(self.mean) do
      if m then
        lo, hi = math.min(lo, m[j]), math.max(hi, m[j])
      end
    end
    middle[j], half[j] = (lo + hi) / 2, math.max((hi - lo) / 2, LEAST_HALF_RANGE)
  end
  return middle, half
end

-- c of one pool: algorithm 2 with the corners of docs/algorithm.md section 2; c = 1 where no constraint is
-- violated or where there is one objective, and never below the floor
local function c_of(o, n, vv, vw, ww, violated)
  if o.c == "one" or n == 1 or not violated then
    return 1.0
  end
  return math.max(o.floor, (minnorm.two(vv, vw, ww)))
end

--- control:solve(gated, batch, prefs, places) -> {w = [T, N] weight of each objective per token, c = [T],
-- answers = {{c=, indicator=, w=}} per answer, for the log (pool=token: of its first token)}.
-- gated [T, N]: I(A_jt) of equation 10. Equation 12's vectors over the tokens of a pool:
--   v_t = sum_j p_j I(A_jt),   vbar_t = -1[MSE > phi] sum_j b_j I(A_jt);   w_j = c p_j - (1 - c) 1[MSE > phi] b_j
function Control:solve(gated, batch, prefs, places)
  local o, n = self.o, self.n
  local batch_mean = mean_rows(self.R)
  local middle, half
  if o.range then
    middle, half = grid_range(self)
  end
  local minus_b, violated, groups = {}, {}, {}
  for i, p in ipairs(prefs) do
    local group = groups[p] -- answers to one preference have one b, unless each answer has its own R
    if not group or group.place ~= places[i] or o.statistic == "sample" then
      local b, mse = difference(self, i, places[i], p, batch_mean, middle, half), 0
      for j = 1, n do
        mse = mse + b[j] ^ 2 / n -- equation 2
      end
      local on = mse > o.phi -- the indicator of equation 5
      for j = 1, n do
        b[j] = on and -o.scale * b[j] or 0.0
      end
      group = { place = places[i], b = b, violated = on }
      groups[p] = group
    end
    minus_b[i], violated[i] = group.b, group.violated
  end
  local p_tokens, b_tokens = ppo.spread(prefs, batch), ppo.spread(minus_b, batch)
  local v, vbar = (gated * p_tokens):sum(2), (gated * b_tokens):sum(2)

  local c, answers = nil, {}
  if o.pool == "token" then
    local vt, wt, list, offsets = v:totable(), vbar:totable(), {}, batch.response_offsets:totable()
    for i = 1, #prefs do
      for t = offsets[i] + 1, offsets[i + 1] do
        list[t] = c_of(o, n, vt[t] * vt[t], vt[t] * wt[t], wt[t] * wt[t], violated[i])
      end
      answers[i] = { c = list[offsets[i] + 1], indicator = violated[i], w = false }
    end
    c = tensor.new(list, { device = batch.tokens.device })
  else
    local vv, vw, ww = ppo.per_answer(v * v, batch), ppo.per_answer(v * vbar, batch), ppo.per_answer(vbar * vbar, batch)
    local pools, pool_of, rows = {}, {}, {}
    for i = 1, #prefs do
      local key = o.pool == "batch" and 0 or o.pool == "preference" and places[i] or -i
      local s = pools[key] or { vv = 0, vw = 0, ww = 0, violated = false }
      s.vv, s.vw, s.ww, s.violated = s.vv + vv[i], s.vw + vw[i], s.ww + ww[i], s.violated or violated[i]
      pools[key], pool_of[i] = s, s
    end
    for i, s in ipairs(pool_of) do
      s.row = s.row or { c_of(o, n, s.vv, s.vw, s.ww, s.violated) }
      rows[i] = s.row
      -- neighbours mostly share everything
      local same = i > 1 and s == pool_of[i - 1] and prefs[i] == prefs[i - 1] and minus_b[i] == minus_b[i - 1]
      answers[i] = same and answers[i - 1] or { c = s.row[1], indicator = violated[i], w = false }
    end
    c = ppo.spread(rows, batch):flatten()
  end
  for i, a in ipairs(answers) do
    if not a.w then
      a.w = {}
      for j = 1, n do
        a.w[j] = a.c * prefs[i][j] + (1 - a.c) * minus_b[i][j]
      end
    end
  end
  local column = c:unsqueeze(2)
  return { w = p_tokens * column + b_tokens * (1 - column), c = c, answers = answers }
end

--- What a checkpoint needs; Control:restore puts it back.
function Control:state()
  return { stats = self.stats:state(), within = self.within:state(), raw_mean = self.raw_mean, mean = self.mean }
end

-- per preference of the grid: false (nothing seen), or n numbers
local function is_means(list, n_grid, n)
  local ok = type(list) == "table" and #list == n_grid
  for k = 1, ok and n_grid or 0 do
    local row = list[k]
    ok = ok and (row == false or type(row) == "table" and #row == n)
    for j = 1, ok and row and n or 0 do
      ok = ok and type(row[j]) == "number"
    end
  end
  return ok
end

function Control:restore(state)
  if type(state) ~= "table" or not is_means(state.raw_mean, #self.mean, self.n) or not is_means(state.mean, #self.mean, self.n) then
    error(("Control.restore: means of %d preferences and %d objectives expected"):format(#self.mean, self.n), 2)
  end
  self.stats, self.within = running.restore(state.stats), running.restore(state.within)
  self.raw_mean, self.mean = state.raw_mean, state.mean
end

return Control
