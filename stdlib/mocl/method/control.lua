--- mocl.method.control: the surrogate problem of MOC: what R is compared with p, the two vectors of equation 12, c by
-- algorithm 2, and the weight of each objective. docs/algorithm.md section 3 has the readings.
--
--   local control = Control.new(cfg.control, #objectives, grid)
--   control:observe(raw, places)                 -- line 6 of Algorithm 1: R, normalised by equation 18
--   local s = control:solve(adv, batch, prefs, places)   -- line 8: s.w [T, N], s.c [T]
--
-- Options (cfg.control): see Control.OPTIONS.

local metrics = require "mocl.metrics"
local minnorm = require "mocl.minnorm"
local nn = require "mocl.nn.core"
local ppo = require "mocl.train.ppo"
local running = require "mocl.train.running"
local target = require "mocl.method.control_target"
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
  { "phi", 0.001, "tolerated mean squared error, phi of equation 4", min = 0 },
  { "scale", 3.0, "factor on vbar (2/N is the exact derivative)", min = 0 },
  { "floor", 0.5, "smallest c where the indicator is on; without negative, no weight falls below this times p_j either", min = 0, max = 1 },
  { "interior", 0.05, "share of equal weights that is mixed into p where it weighs objectives, so that none has weight 0", min = 0, max = 1 },
  { "negative", false, "weights w_j may fall below 0, as equation 12 has them" },
  { "factor", 0.8, "memory of the mean reward per preference", min = 0, max = 1 },
  { "running", "ema", "equation 18's statistics: forgetting, or counting every answer alike", choices = { "ema", "count" } },
  { "statistics_factor", 0.95, "memory of the forgetting statistics", min = 0, max = 0.9999 },
  { "spread", "total", "the deviation in equation 18: of all answers, or within a preference", choices = { "total", "within" } },
  { "range", true, "map the mean rewards (or shares) of the grid to its range before the comparison" },
  { "least_range", 0.5, "with range: the width it has at least, in units of R", min = 1e-6 },
  { "share", false, "R: each objective's share of the raw rewards in place of equation 18; for rewards that are not negative" },
}

--- What needs a fixed grid; a recipe that draws its preferences anew for each batch leaves these out of its schema.
Control.OF_A_GRID = { "range", "least_range" }

--- Option values of the readings of docs/algorithm.md, section 3.
Control.READING_A = { ["control.range"] = false, ["control.phi"] = 0.02, ["control.floor"] = 0.0, ["control.scale"] = 1.0,
  ["control.negative"] = true, ["control.interior"] = 0.0 }
Control.READING_B = { ["control.scale"] = 1.0, ["control.spread"] = "within", ["control.range"] = true, ["control.least_range"] = 1.0,
  ["control.phi"] = 0.001, ["control.floor"] = 0.5, ["control.factor"] = 0.85, ["control.negative"] = true, ["control.interior"] = 0.0, ["ppo.horizon"] = 600.0,
  ["ppo.min_kl_coef"] = 0.15 }
Control.PAPER = { ["control.scale"] = 1.0, ["control.range"] = false, ["control.floor"] = 0.0, ["control.offset"] = "1",
  ["control.statistic"] = "sample", ["control.pool"] = "sample", ["control.phi"] = 0.1, ["control.running"] = "count",
  ["control.solve"] = "epoch", ["control.negative"] = true, ["control.interior"] = 0.0 }

local WITHIN_FACTOR = 0.97 -- memory of the variance within a preference

local function blank(n)
  local list = {}
  for k = 1, n do
    list[k] = false
  end
  return list
end

-- the options with their defaults, and the first key that is none
local function with_defaults(options)
  local o, unknown = {}, nil
  for _, row in ipairs(Control.OPTIONS) do
    local v = options[row[1]]
    if v == nil then
      v = row[2]
    end
    o[row[1]] = v
  end
  for key in pairs(options) do
    unknown = unknown or o[key] == nil and tostring(key) or nil
  end
  return o, unknown
end

--- Control.new(options, n objectives, grid, start): grid are the preferences that places mean, or their number where they
-- change from batch to batch; start are raw rewards of the SFT model's answers,
-- from which equation 18's statistics begin (nil: from the first batch). Options that are not given have their defaults.
function Control.new(options, n, grid, start)
  local o, unknown = with_defaults(options)
  if unknown then
    error(("Control.new: unknown option '%s'"):format(unknown), 2)
  end
  local n_grid = type(grid) == "table" and #grid or grid
  if n_grid == grid then
    if options.range then
      error("Control.new: the option range needs the grid's preferences, not their number", 2)
    end
    o.range = false
  end
  local self = setmetatable({ o = o, n = n, grid = grid, stats = running.new { n = n, kind = o.running, factor = o.statistics_factor },
    within = running.new { n = n, kind = "ema", factor = WITHIN_FACTOR }, raw_mean = blank(n_grid), mean = blank(n_grid) }, Control)
  if start then
    self.stats:start(start)
    self.within:start(start)
  end
  return self
end

--- Takes in the raw rewards of a batch (answer i under preference places[i]) and returns R: per answer, normalised by
-- equation 18, or with `share` as they are (what is compared with p is then their share, equation 18's stand-in).
function Control:observe(raw, places)
  local o, rows = self.o, self.o.share and raw or target.standardise(self, raw, places)
  ppo.update_means(self.mean, places, rows, o.factor)
  self.R = rows
  return rows
end

-- What weighs the objectives in v: p, with a share of equal weights; the same list for the same p
local function inner(self, prefs)
  local share, list, known = self.o.interior, {}, {}
  if share == 0 then
    return prefs
  end
  for i, p in ipairs(prefs) do
    local q = known[p]
    if not q then
      q = {}
      for j, x in ipairs(p) do
        q[j] = (1 - share) * x + share / self.n
      end
      known[p] = q
    end
    list[i] = q
  end
  return list
end

-- c of one pool: algorithm 2 with the corners of docs/algorithm.md section 2; c = 1 where no constraint is
-- violated or where there is one objective, and never below the floor
local function c_of(o, n, vv, vw, ww, violated)
  if o.c == "one" or n == 1 or not violated then
    return 1.0
  end
  return math.max(o.floor, (minnorm.two(vv, vw, ww)))
end

-- {c} per answer, from the {c} of its pool and the least that its own weights allow; equal c share a table
local function at_least(row, least)
  if least <= row[1] then
    return row
  end
  row.raised = row.raised or {}
  row.raised[least] = row.raised[least] or { least }
  return row.raised[least]
end

-- c per answer, {c} each, from the sums of products over each answer's tokens
local function pooled(o, n, places, violated, least, vv, vw, ww)
  local pools, pool_of, rows = {}, {}, {}
  for i = 1, #places do
    local key = o.pool == "batch" and 0 or o.pool == "preference" and places[i] or -i
    local s = pools[key] or { vv = 0, vw = 0, ww = 0, violated = false }
    s.vv, s.vw, s.ww, s.violated = s.vv + vv[i], s.vw + vw[i], s.ww + ww[i], s.violated or violated[i]
    pools[key], pool_of[i] = s, s
  end
  for i, s in ipairs(pool_of) do
    s.row = s.row or { c_of(o, n, s.vv, s.vw, s.ww, s.violated) }
    rows[i] = at_least(s.row, least[i])
  end
  return rows
end

-- c of each token, one pool each
local function by_token(o, n, violated, least, offsets, vv, vw, ww)
  local list, rows = {}, {}
  for i = 1, #violated do
    for t = offsets[i] + 1, offsets[i + 1] do
      list[t] = math.max(least[i], c_of(o, n, vv[t], vw[t], ww[t], violated[i]))
    end
    rows[i] = { list[offsets[i] + 1] }
  end
  return list, rows
end

-- per answer {c=, indicator=, w=}; neighbours mostly share everything, and then the table
local function logged(n, prefs, minus_b, violated, rows)
  local answers = {}
  for i, p in ipairs(prefs) do
    local a = i > 1 and rows[i] == rows[i - 1] and p == prefs[i - 1] and minus_b[i] == minus_b[i - 1] and answers[i - 1]
    if not a then
      local c = rows[i][1]
      a = { c = c, indicator = violated[i], w = {} }
      for j = 1, n do
        a.w[j] = c * p[j] + (1 - c) * minus_b[i][j]
      end
    end
    answers[i] = a
  end
  return answers
end

--- control:solve(gated, batch, prefs, places) -> {w = [T, N] weight of each objective per token, c = [T],
-- answers = {{c=, indicator=, w=}} per answer, for the log (pool=token: of its first token)}.
-- gated [T, N]: I(A_jt) of equation 10. Equation 12's vectors over the tokens of a pool:
--   v_t = sum_j p_j I(A_jt),   vbar_t = -1[MSE > phi] sum_j b_j I(A_jt);   w_j = c p_j - (1 - c) 1[MSE > phi] b_j
function Control:solve(gated, batch, prefs, places)
  local o, n = self.o, self.n
  local weights = inner(self, prefs)
  local minus_b, violated, least = target.differences(self, prefs, places, weights)
  local p_tokens, b_tokens = ppo.spread(weights, batch), ppo.spread(minus_b, batch)
  local v, vbar = (gated * p_tokens):sum(2), (gated * b_tokens):sum(2)

  local c, rows
  if o.pool == "token" then
    local vt, wt, vv, vw, ww = v:totable(), vbar:totable(), {}, {}, {}
    for t, x in ipairs(vt) do
      vv[t], vw[t], ww[t] = x * x, x * wt[t], wt[t] * wt[t]
    end
    c, rows = by_token(o, n, violated, least, batch.response_offsets:totable(), vv, vw, ww)
    c = tensor.new(c, { device = batch.tokens.device })
  else
    rows = pooled(o, n, places, violated, least, ppo.per_answer(v * v, batch), ppo.per_answer(v * vbar, batch), ppo.per_answer(vbar * vbar, batch))
    c = ppo.spread(rows, batch):flatten()
  end
  local column = c:unsqueeze(2)
  return { w = p_tokens * column + b_tokens * (1 - column), c = c, answers = logged(n, weights, minus_b, violated, rows) }
end

-- ---- the same for many epochs over one batch ----

local Problem = {}
Problem.__index = Problem

-- v v, v vbar and vbar vbar of each step, [3, T]
local function products(v, vbar)
  return tensor.stack { v * v, v * vbar, vbar * vbar }
end

--- control:problem(adv, batch, prefs, places) -> problem, after observe of the same batch; problem:solve(ratio, cliprange)
-- is control:solve with the gate of equation 10 at that ratio [T] (nil: 1). The gate closes a step for the objectives with
-- A > 0, or for those with A < 0, or not at all, so that a step has one of three pairs (v, vbar), all known beforehand.
function Control:problem(adv, batch, prefs, places)
  local weights = inner(self, prefs)
  local minus_b, violated, least = target.differences(self, prefs, places, weights)
  local p_steps, any = ppo.spread(weights, batch), false
  for _, on in ipairs(violated) do
    any = any or on
  end
  local problem = setmetatable({ o = self.o, n = self.n, batch = batch, prefs = weights, places = places, minus_b = minus_b,
    violated = violated, least = least, constrained = any and self.o.c ~= "one" and self.n > 1, v = (adv * p_steps):sum(2) }, Problem)
  if problem.constrained then
    local b_steps, up = ppo.spread(minus_b, batch), adv:relu()
    local v_up, vbar_up = (up * p_steps):sum(2), (up * b_steps):sum(2)
    problem.vbar = (adv * b_steps):sum(2)
    problem.open, problem.no_down = products(problem.v, problem.vbar), products(v_up, vbar_up)
    problem.no_up = products(problem.v - v_up, problem.vbar - vbar_up)
  end
  return problem
end

--- problem:solve(ratio, cliprange) -> {advantage = [T], sum_j w_j A_j of each step, answers = as control:solve's}
function Problem:solve(ratio, cliprange)
  local o, n, batch, rows, c = self.o, self.n, self.batch, {}, nil
  if not self.constrained then -- c = 1
    local one = { 1.0 }
    for i = 1, #self.prefs do
      rows[i] = one
    end
    return { advantage = self.v, answers = logged(n, self.prefs, self.minus_b, self.violated, rows) }
  end
  local x = self.open
  if ratio then
    local above, below = ratio:gt(1 + cliprange), ratio:lt(1 - cliprange)
    x = x * (1 - above - below) + self.no_up * above + self.no_down * below
  end
  if o.pool == "batch" then
    local s = x:sum(2):totable()
    local row = { c_of(o, n, s[1], s[2], s[3], true) }
    for i = 1, #self.prefs do
      rows[i] = at_least(row, self.least[i])
    end
    c = row.raised and ppo.spread(rows, batch):flatten() or row[1] -- one number, or one per step
  else
    local s = (o.pool == "token" and x or nn.segment_sum(x:t():contiguous(), batch.response_offsets):t()):totable()
    local vv, vw, ww = s[1], s[2], s[3]
    if o.pool == "token" then
      c, rows = by_token(o, n, self.violated, self.least, batch.response_offsets:totable(), vv, vw, ww)
      c = tensor.new(c, { device = batch.tokens.device })
    else
      rows = pooled(o, n, self.places, self.violated, self.least, vv, vw, ww)
      c = ppo.spread(rows, batch):flatten()
    end
  end
  return { advantage = self.v * c + self.vbar * (1 - c), answers = logged(n, self.prefs, self.minus_b, self.violated, rows) }
end

-- a list of numbers as text
local function numbers(row)
  local parts = {}
  for j, x in ipairs(row) do
    parts[j] = ("%.4g"):format(x)
  end
  return table.concat(parts, ", ")
end

--- Control.warning(options, preferences, rewards, errors) -> text, or nil: whether the answers to one preference are worse
-- in everything than those to another (metrics.dominated; errors are standard errors of the mean rewards, or nil), and the
-- option that mends it.
function Control.warning(options, preferences, rewards, errors)
  local o, list, first = with_defaults(options), metrics.dominated(rewards, { errors = errors }), nil
  first = list[1]
  if not first then
    return nil
  end
  local cure = "train longer"
  if o.c ~= "one" and o.negative then
    cure = ("the constraint (control.scale=%g, control.floor=%g) pushed rewards down where it asks for what is out of reach: set "
      .. "control.negative=false, which keeps every weight above 0, or raise control.floor"):format(o.scale, o.floor)
  elseif o.c ~= "one" then
    cure = ("train longer, or raise control.floor (%g), which weighs the rewards more against the constraint"):format(o.floor)
  end
  return ("the rewards under preference %s (%s) are dominated by those under %s (%s)%s: %s"):format(numbers(preferences[first.index]),
    numbers(rewards[first.index]), numbers(preferences[first.by]), numbers(rewards[first.by]),
    #list > 1 and (", and under %d more preferences too"):format(#list - 1) or "", cure)
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
