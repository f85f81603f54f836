--- mocl.method.control: the surrogate problem of MOC. This page has its equations with the paper's symbols; what R stands for, pools
-- and options follow below. docs/algorithm.md section 3 has the readings.
--
--   local control = Control.new(cfg.control, #objectives, grid)
--   local R = control:observe(raw, places)                        -- line 6 of Algorithm 1, equation 18
--   local problem = control:problem(A, batch, prefs, places)      -- line 8
--   local s = problem:solve(z, cliprange)                         -- s.advantage [T], s.c [T], s.w [T, N]
--
-- N objectives, n answers, T tokens or steps; p is the preference, A [T, N] the advantages, z [T] the ratio pi / pi_old.

local check_options = require "mocl.options".check
local metrics = require "mocl.metrics"
local minnorm = require "mocl.minnorm"
local hooks = require "mocl.method.hooks"
local pools = require "mocl.method.pools"
local ppo = require "mocl.method.ppo"
local rng = require "mocl.rng"
local running = require "mocl.method.running"
local segments = require "mocl.segments"
local solver_rows = require "mocl.method.solver_rows"
local tensor = require "mocl.tensor"

local Control = {}
Control.__index = Control

local Problem = {}
Problem.__index = Problem

-- ---- the equations ----

-- Equation 4: ReLU(MSE(R, p) - phi), by how much the constraint is violated; b = R - p.
local function violation(b, phi)
  local mse = 0 -- equation 2
  for j = 1, #b do
    mse = mse + b[j] ^ 2 / #b
  end
  return math.max(mse - phi, 0)
end

-- Equation 5: -1[MSE > phi] (R_j - p_j), the constraint's share of the weight of each objective; `scale` is control.scale.
-- Returns the list, and whether the indicator is 1.
local function minus_b_of(b, phi, scale)
  local on, minus_b = violation(b, phi) > 0, {}
  for j = 1, #b do
    minus_b[j] = on and -scale * b[j] or 0.0
  end
  return minus_b, on
end

-- Equations 11 and 12: the c in [floor, 1] that makes ||c v + (1 - c) vbar||^2 least, by algorithm 2, from the sums of v v,
-- v vbar and vbar vbar. 1 where no constraint is violated: vbar is 0 there, and algorithm 2 would choose it.
local function c_of(vv, vw, ww, violated, floor)
  return violated and math.max(floor, (minnorm.two(vv, vw, ww))) or 1.0
end

-- Equation 8: c from gradients of the parameters in place of advantages, the first of the weights that make the combination of N
-- vectors shortest, by their inner products: v = p' grad J and what the constraint adds.
local function c_of_gradients(gram, violated, floor)
  return violated and gram[2][2] > 0 and math.max(floor, minnorm.solve(gram)[1]) or 1.0
end

-- c of each pool from the gradients of its part of v and vbar.
local function by_gradients(self, v, vbar)
  local pools = self.pools
  return pools:each(self.n, function(k, violated)
    local part = violated and pools:part(k)
    return c_of_gradients(part and self.gram_of { v * part, vbar * part }, violated, self.o.floor)
  end)
end

-- The same with a solver of the menu in algorithm 2's place; answers are those of the log.
local function solve_menu(self, z, cliprange)
  local solved, answers = self.menu:solve(z and ppo.gate(self.A, self.A_up, z:unsqueeze(2), cliprange) or self.A) -- equation 10
  self.of_menu = answers
  return solved
end

-- The problem at the ratio z [T]; nil: z = 1, where I(A, z) = A.
local function solve(self, z, cliprange)
  if self.menu then
    return solve_menu(self, z, cliprange)
  end
  if not self.constrained then -- c = 1, w = p
    return self.plain
  end
  local V = z and ppo.gate(self.V, self.V_up, z, cliprange) or self.V -- equation 10
  local v, vbar = V[1], V[2] -- sum_j p_j I(A_j), -1[MSE > phi] sum_j (R_j - p_j) I(A_j)
  local c, C -- C: c in each column
  if self.gram_of then
    c, C = by_gradients(self, v, vbar)
  else
    local vv, vw, ww = self.pools:sums(v * v, v * vbar, vbar * vbar)
    c, C = self.pools:each(self.n, function(k, violated)
      return c_of(vv[k], vw[k], ww[k], violated, self.o.floor)
    end)
  end
  local w = self.p * C + self.minus_b * (1 - C) -- equation 7: what objective j weighs
  return { advantage = (self.A * w):sum(2), w = w, c = c }
end

-- ---- what R stands for in the comparison with p ----

local LEAST_WITHIN = 0.01 -- of the deviation of all answers: where each preference always gets the same reward

-- R of each answer by equation 18 with the running statistics. A reward that does not vary has R = offset for every answer.
local function standardised(self, raw, places)
  local o, rows = self.o, {}
  self.stats:update(raw)
  local mean, std = self.stats:mean(), self.stats:std()
  if o.spread == "within" then
    local residuals = {}
    running.update_means(self.raw_mean, places, raw, o.factor)
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
      rows[i][j] = running.standardise(x, mean[j], std[j], offset)
    end
  end
  return rows
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

-- b = R - p of answer i. With the grid's range R is mapped; there, and where no weight may be negative, b loses its mean
-- over j, so that the weights sum to c.
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

-- Per answer: minus b, zeros where the indicator is off; whether it is on; and the smallest c that leaves no weight below
-- floor p_j (0 where negative weights are allowed). Answers to one preference have one b, unless each answer has its own R.
local function constraints(self, prefs, places, weights)
  local o = self.o
  local batch_mean = metrics.mean_rows(self.R)
  local middle, half
  if o.range then
    middle, half = grid_range(self)
  end
  local minus_b, violated, least, groups = {}, {}, {}, {}
  for i, p in ipairs(prefs) do
    local group = groups[p]
    if not group or group.place ~= places[i] or o.statistic == "sample" then
      group = { place = places[i] }
      group.minus_b, group.violated = minus_b_of(difference(self, i, places[i], p, batch_mean, middle, half), o.phi, o.scale)
      group.least = o.negative and 0.0 or least_c(o.floor, weights[i], group.minus_b)
      groups[p] = group
    end
    minus_b[i], violated[i], least[i] = group.minus_b, group.violated, group.least
  end
  return minus_b, violated, least
end

-- ---- options ----

--- Rows for a recipe's schema; `prefix` is put in front of the keys.
Control.OPTIONS = {
  { "c", "minnorm", "how c is found: algorithm 2, or 1 always (linear scalarisation)", choices = { "minnorm", "one" } },
  { "offset", "1/N", "centre of equation 18 while training", choices = { "1/N", "1" } },
  { "statistic", "group", "R: mean per preference (running), of the batch, or each answer's", choices = { "group", "batch", "sample" } },
  { "pool", "preference", "answers that share one c", choices = { "preference", "batch", "sample", "token" } },
  { "solve", "iteration", "when c is solved: once at z = 1, or every epoch with the gate I(A)", choices = { "iteration", "epoch" } },
  { "gradients", "advantages", "what c is solved from: advantages (equation 12), or gradients of the parameters (equation 8), for small models",
    choices = { "advantages", "parameters" } },
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
  { "hooks", "", "Lua file that returns {weights = function(state), rewards = function(row, ...)}, either or both" },
}
table.move(solver_rows.OPTIONS, 1, #solver_rows.OPTIONS, #Control.OPTIONS + 1, Control.OPTIONS)

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

--- Control.variant(options, changes) -> options of another method: those given with the changes, and what the menu of solvers has at its
-- defaults unless it is among them. Linear PPO is { c = "one", gradients = "advantages" }.
function Control.variant(options, changes)
  local o = {}
  for key, v in pairs(options) do
    o[key] = v
  end
  for _, row in ipairs(solver_rows.OPTIONS) do
    o[row[1]] = row[2]
  end
  for key, v in pairs(changes) do
    o[key] = v
  end
  return o
end

--- Control.name(options) -> what results call the method: moc, conditioned_linear, or the solver's name, with moc_ in front where it joins vbar.
function Control.name(options)
  local o = with_defaults(options)
  if o.solver == "minnorm" then
    return o.c == "one" and "conditioned_linear" or "moc"
  end
  return (o.rows == "objectives" and "" or "moc_") .. o.solver
end

-- Raises where options do not go together.
local function check_together(o)
  if o.gradients == "parameters" and (o.c == "one" or o.solve ~= "iteration" or o.pool == "sample" or o.pool == "token") then
    local key, value, cure = "c", o.c, "there is no c to solve for: take minnorm"
    if o.solve ~= "iteration" then
      key, value, cure = "solve", o.solve, "it is solved once an iteration: take iteration"
    elseif o.c ~= "one" then
      key, value, cure = "pool", o.pool, "each pool costs two backward passes: take preference or batch"
    end
    error(("control.gradients=parameters does not go with control.%s=%s: %s"):format(key, value, cure), 0)
  end
  solver_rows.check(o)
end

--- Control.check(options, n, preferences) -> hooks. Raises for options that do not go together, and for hooks that cannot be read or
-- whose weights are none for one of the preferences: what a recipe asks before it has a directory. hooks: mocl.method.hooks.
function Control.check(options, n, preferences)
  local o = with_defaults(options)
  check_together(o)
  return hooks.open(o.hooks, n, preferences)
end

--- Control.new(options, n objectives, grid, start, more): grid are the preferences that places mean, or their number where they
-- change from batch to batch; start are raw rewards of the SFT model's answers,
-- from which equation 18's statistics begin (nil: from the first batch). Options that are not given have their defaults.
-- more: seed (0), of the orders of control.solver=pcgrad; weights, a function of the state in place of p in v (mocl.method.hooks);
-- total, the iterations that there will be, for its state.
function Control.new(options, n, grid, start, more)
  local o, unknown = with_defaults(options)
  if unknown then
    error(("Control.new: unknown option '%s'"):format(unknown), 2)
  end
  more = check_options("Control.new", more or {}, {}, { "seed", "total", "weights" })
  local n_grid = type(grid) == "table" and #grid or grid
  if n_grid == grid then
    if options.range then
      error("Control.new: the option range needs the grid's preferences, not their number", 2)
    end
    o.range = false
  end
  check_together(o)
  local self = setmetatable({ o = o, n = n, grid = grid, stats = running.new { n = n, kind = o.running, factor = o.statistics_factor },
    within = running.new { n = n, kind = "ema", factor = WITHIN_FACTOR }, raw_mean = blank(n_grid), mean = blank(n_grid),
    weights = more.weights, total = more.total, step = 0, seen = more.weights and blank(n_grid),
    rng = o.solver == "pcgrad" and rng.new(more.seed or 0, "pcgrad") or nil }, Control)
  self.solves_c = o.c == "minnorm" and o.solver == "minnorm" -- and not 1 always, or what another solver needs none for
  if start then
    self.stats:start(start)
    self.within:start(start)
  end
  return self
end

--- Takes in the raw rewards of a batch (answer i under preference places[i]) and returns R: per answer, normalised by
-- equation 18, or with `share` as they are (what is compared with p is then their share, equation 18's stand-in).
function Control:observe(raw, places)
  local o, rows = self.o, self.o.share and raw or standardised(self, raw, places)
  running.update_means(self.mean, places, rows, o.factor)
  self.R, self.step = rows, self.step + 1
  if self.seen then
    running.update_means(self.seen, places, raw, o.factor)
  end
  return rows
end

-- The weights of a hook for each answer; the same list for the same p and place
local function hooked(self, prefs, places)
  local list, known = {}, {}
  for i, p in ipairs(prefs) do
    local of = known[p] or {}
    known[p] = of
    of[places[i]] = of[places[i]] or hooks.weights(self.weights, { preference = p, place = places[i], mean = self.seen[places[i]],
      means = self.seen, iteration = self.step, total = self.total }, self.n)
    list[i] = of[places[i]]
  end
  return list
end

-- What weighs the objectives in v: p, or what a hook says, with a share of equal weights; the same list for the same p
local function inner(self, prefs, places)
  local share, list, known = self.o.interior, {}, {}
  prefs = self.weights and hooked(self, prefs, places) or prefs
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

--- control:problem(A, batch, prefs, places, gram_of) -> problem, after observe of the same batch: solved at z = 1. A [T, N] are the
-- advantages, prefs[i] the preference of answer i, places[i] its place in the grid. gram_of, which control.gradients = "parameters"
-- needs, gives the inner products of the gradients for a list of advantages [T] (t:gram_of of a trainer).
function Control:problem(A, batch, prefs, places, gram_of)
  if self.o.gradients == "parameters" and not gram_of then
    error("Control.problem: control.gradients=parameters needs gram_of, such as t:gram_of(batch)", 2)
  end
  local o, weights = self.o, inner(self, prefs, places)
  local minus_b, violated, least = constraints(self, prefs, places, weights)
  local any = false
  for _, on in ipairs(violated) do
    any = any or on
  end
  local p = segments.spread(weights, batch)
  local problem = setmetatable({ o = o, n = self.n, A = A, p = p, lists = { p = weights, minus_b = minus_b, violated = violated },
    constrained = any and o.c ~= "one" and self.n > 1, gram_of = o.gradients == "parameters" and gram_of or nil }, Problem)
  if o.solver ~= "minnorm" then
    problem.A_up = o.solve == "epoch" and A:relu() or nil
    problem.menu = solver_rows.new { options = o, n = self.n, p = weights, minus_b = minus_b, violated = violated, places = places,
      means = self.mean, pools = pools.new(o.pool, places, violated, least, batch), batch = batch, rng = self.rng,
      gram_of = problem.gram_of }
  elseif problem.constrained then
    local b, up = segments.spread(minus_b, batch), A:relu()
    problem.minus_b = b
    problem.V = tensor.stack { (A * p):sum(2), (A * b):sum(2) }
    problem.V_up = o.solve == "epoch" and tensor.stack { (up * p):sum(2), (up * b):sum(2) } or nil
    problem.pools = pools.new(o.pool, places, violated, least, batch)
  else
    problem.plain = { advantage = (A * p):sum(2), w = p, c = tensor.ones({ A.shape[1] }, { device = A.device }) }
  end
  problem.first = solve(problem)
  if o.solver == "minnorm" and o.conflicts then
    local units = solver_rows.units(problem.pools or pools.new(o.pool, places, violated, least, batch), batch)
    problem.conflicts = solver_rows.conflicts(units, A:totable(), weights, metrics.column(problem:answers(), "w"))
  end
  return problem
end

--- problem:solve(z, cliprange) -> {advantage = [T], sum_j w_j A_j, what is to be clipped; w = [T, N]; c = [T]}. With control.solve
-- "epoch" it is solved again for a ratio z [T], with the gate of equation 10; else, and without z, it is solved at z = 1.
function Problem:solve(z, cliprange)
  if z and self.o.solve == "epoch" then
    return solve(self, z, cliprange)
  end
  return self.first
end

--- Per answer {c =, w =, indicator =} as last solved, for the log; with control.conflicts, and with another solver than algorithm 2,
-- also conflicts, the set of objectives that the step makes worse, and degenerate, the solver's word for a case without an answer.
function Problem:answers()
  local list, l = {}, self.lists
  if self.of_menu then
    return self.of_menu
  end
  for i, p in ipairs(l.p) do
    local c, w = self.pools and self.pools.c[i] or 1.0, {}
    for j = 1, self.n do
      w[j] = c * p[j] + (1 - c) * l.minus_b[i][j]
    end
    list[i] = { c = c, w = w, indicator = l.violated[i], conflicts = self.conflicts and self.conflicts[i] }
  end
  return list
end

-- ---- reports and checkpoints ----

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
  if o.solver ~= "minnorm" and o.rows == "objectives" then
    cure = ("train longer, or join the constraint too, which asks for what p says: control.rows=constrained (control.solver=%s)"):format(o.solver)
  elseif o.solver ~= "minnorm" then
    cure = ("train longer, or lower control.scale (%g), which weighs the constraint"):format(o.scale)
  elseif o.c ~= "one" and o.negative then
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
  return { stats = self.stats:state(), within = self.within:state(), raw_mean = self.raw_mean, mean = self.mean,
    step = self.weights and self.step or nil, seen = self.seen or nil, rng = self.rng and self.rng:position() or nil }
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
  for key, needed in pairs { step = self.weights, rng = self.rng } do
    if needed and math.type(state[key]) ~= "integer" then
      error(("Control.restore: '%s' is no integer"):format(key), 2)
    end
  end
  if self.weights and not is_means(state.seen, #self.mean, self.n) then
    error("Control.restore: 'seen' has no means of raw rewards", 2)
  end
  self.step, self.seen = self.weights and state.step or self.step, self.weights and state.seen
  if self.rng then
    self.rng:seek(state.rng)
  end
end

return Control
