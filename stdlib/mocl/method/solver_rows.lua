--- mocl.method.solver_rows: what a solver of mocl.method.solvers joins where it takes the place of algorithm 2
-- (control.solver), and the objectives that a step makes worse. docs/control.md has the definitions.
--
-- A unit is what shares one problem: the answers of a pool, or one token. Its rows are lists over its tokens of
-- I(A_jt), weighted by what each answer's preference says of objective j; with control.gradients=parameters they are
-- gradients, of which only inner products are known. Everything is in double precision.

local segments = require "mocl.segments"
local shown = require "mocl.options".shown
local solvers = require "mocl.method.solvers"
local tensor = require "mocl.tensor"

local solver_rows = {}

local ROUNDING = 1e-6 -- what a sum is of its terms where it is rounding: advantages are floats of 32 bits

local function choices()
  return { "minnorm", table.unpack(solvers.list()) }
end

--- Rows for a recipe's schema, a part of Control.OPTIONS.
solver_rows.OPTIONS = {
  { "solver", "minnorm", "what weighs the objectives: algorithm 2 on v and vbar, or a method of mocl.method.solvers", choices = choices() },
  { "rows", "objectives", "what such a method joins: the objectives, v and vbar (terms), or the objectives and vbar (constrained)",
    choices = { "objectives", "terms", "constrained" } },
  { "solver_scale", "own", "length of its step: its own, that of v (mean), or 1 (unit)", choices = { "own", "mean", "unit" } },
  { "norm_eps", 0.0, "upgrad, dualproj, cagrad: the squared length of all rows below which there is nothing to solve", min = 0 },
  { "reg_eps", 0.0, "upgrad, dualproj: this times the identity is added to the normalised Gram matrix", min = 0 },
  { "rtol", nil, "imtlg, config, alignedmtl: share of the greatest eigenvalue below which one counts as 0; unset: rounding", type = "number",
    min = 0 },
  { "max_norm", nil, "nashmtl: a longer step is shortened to this", type = "number", min = 0 },
  { "scale_mode", "min", "alignedmtl: the singular value that all rows get", choices = { "min", "median", "rmse" } },
  { "cagrad_c", 0.5, "cagrad: radius of its ball, in lengths of v", min = 0 },
  { "mu", 1.0, "stch: smoothing; towards 0 the worst objective has all the weight", min = 1e-6 },
  { "conflicts", false, "log which objectives a step makes worse with algorithm 2 too; with another solver it is always logged" },
}

-- options of the menu -> their names in mocl.method.solvers
local OF_SOLVERS = { norm_eps = "norm_eps", reg_eps = "reg_eps", rtol = "rtol", max_norm = "max_norm", scale_mode = "scale_mode",
  cagrad_c = "c", mu = "mu" }

local function takes(solver, option)
  for _, name in ipairs(solvers.describe(solver).options) do
    if name == option then
      return true
    end
  end
  return false
end

local function is_known(solver)
  for _, name in ipairs(solvers.list()) do
    if name == solver then
      return true
    end
  end
  return false
end

local function default_of(key)
  for _, row in ipairs(solver_rows.OPTIONS) do
    if row[1] == key then
      return row[2]
    end
  end
end

--- Raises where options do not go together: o has all of Control.OPTIONS.
function solver_rows.check(o)
  local menu = o.solver ~= "minnorm"
  if menu and not is_known(o.solver) then
    error(("control.solver: there is no solver '%s'; there are minnorm, %s"):format(tostring(o.solver), table.concat(solvers.list(), ", ")), 0)
  end
  for key, name in pairs(OF_SOLVERS) do
    if o[key] ~= default_of(key) and not (menu and takes(o.solver, name)) then
      local who = {}
      for _, solver in ipairs(solvers.list()) do
        who[#who + 1] = takes(solver, name) and solver or nil
      end
      error(("control.%s is an option of %s, not of control.solver=%s: leave it out"):format(key, table.concat(who, ", "), o.solver), 0)
    end
  end
  for _, key in ipairs(menu and {} or { "rows", "solver_scale" }) do
    if o[key] ~= default_of(key) then
      error(("control.%s=%s does not go with control.solver=minnorm: take control.solver=mgda control.rows=terms, which is algorithm 2 without "
        .. "control.floor, or another solver"):format(key, o[key]), 0)
    end
  end
  if menu and o.c == "one" then
    error(("control.solver=%s does not go with control.c=one, where the weights are the preference: take control.c=minnorm, or "
      .. "control.solver=mean for the same steps"):format(o.solver), 0)
  elseif menu and o.rows ~= "objectives" and takes(o.solver, "values") then
    error(("control.solver=%s does not go with control.rows=%s: vbar has no value beside the objectives'; take control.rows=objectives")
      :format(o.solver, o.rows), 0)
  end
end

-- ---- units ----

--- units(pools, batch) -> list of {answers, tokens = numbers from 1, of = the answer of each token}, what each problem
-- covers.
function solver_rows.units(pools, batch)
  local offsets, list, by_pool = batch.response_offsets:totable(), {}, {}
  local function new(i)
    list[#list + 1] = { answers = { i }, tokens = {}, of = {} }
    return list[#list]
  end
  for i, k in ipairs(pools.of) do
    local unit = by_pool[k]
    if unit then
      unit.answers[#unit.answers + 1] = i
    elseif pools.kind ~= "token" then
      unit = new(i)
      by_pool[k] = unit
    end
    for t = offsets[i] + 1, offsets[i + 1] do
      local one = unit or new(i)
      one.tokens[#one.tokens + 1], one.of[#one.of + 1] = t, i
    end
  end
  return list
end

-- sum_j coef[i][j] A_jt over the unit's tokens; coef(i) is the row of an answer
local function combined(unit, A, coef)
  local row = {}
  for n, t in ipairs(unit.tokens) do
    local s = 0.0
    for j, x in ipairs(coef(unit.of[n])) do
      s = s + x * A[t][j]
    end
    row[n] = s
  end
  return row
end

local function is_zero(row)
  for _, x in ipairs(row) do
    if x ~= 0 then
      return false
    end
  end
  return true
end

-- row i of nothing but x at j
local function only(n, j, x)
  local row = {}
  for k = 1, n do
    row[k] = k == j and x or 0.0
  end
  return row
end

-- mean over the unit's answers of their weights
local function mean_weights(unit, p, n)
  local q = only(n, 0, 0.0)
  local first, alike = p[unit.answers[1]], true
  for _, i in ipairs(unit.answers) do
    alike = alike and p[i] == first
    for j = 1, n do
      q[j] = q[j] + p[i][j] / #unit.answers
    end
  end
  return alike and first or q
end

-- The vectors of a unit: objectives j = 1 .. n as their answers weigh them, v and vbar. Each is {coef =
-- function(answer) -> n weights, row = list over tokens}, vbar nil where no constraint is violated. q: what the
-- preference of the unit is, by objective.
local function vectors_of(unit, A, p, minus_b, n, by_preference)
  local q, v = mean_weights(unit, p, n), {}
  local function add(name, coef, row)
    v[name] = not is_zero(row) and { coef = coef, row = row } or nil
  end
  for j = 1, n do
    if q[j] > 0 then -- what no answer weighs is none of the unit's objectives
      local known, row = {}, {}
      for k, t in ipairs(unit.tokens) do
        local i = unit.of[k]
        known[i] = known[i] or only(n, j, by_preference and p[i][j] / q[j] or p[i][j])
        row[k] = known[i][j] * A[t][j]
      end
      add(j, function(i) return known[i] or only(n, 0, 0.0) end, row)
    end
  end
  local function of_v(i) return p[i] end
  add("v", of_v, combined(unit, A, of_v))
  if minus_b then
    local function of_vbar(i) return minus_b[i] end
    add("vbar", of_vbar, combined(unit, A, of_vbar))
  end
  return v, q
end

-- the length of a combination of vectors, 0 where it is rounding of its terms
local function length_of(input, weights)
  local sum2, size = 0.0, 0.0
  if input.gram then
    for i, x in ipairs(weights) do
      for k, y in ipairs(weights) do
        sum2 = sum2 + x * y * input.gram[i][k]
      end
      size = size + math.abs(x) * input.gram[i][i] ^ 0.5
    end
  else
    for t = 1, #input[1] do
      local s = 0.0
      for i, x in ipairs(weights) do
        s = s + x * input[i][t]
      end
      sum2 = sum2 + s * s
    end
    for i, x in ipairs(weights) do
      local own = 0.0
      for _, y in ipairs(input[i]) do
        own = own + y * y
      end
      size = size + math.abs(x) * own ^ 0.5
    end
  end
  local length = math.max(sum2, 0.0) ^ 0.5
  return length > ROUNDING * size and length or 0.0
end

-- vectors by their places in a list: rows, or the inner products of the gradients that they stand for
local function inputs(list, gram_of, unit, total, device)
  local rows = {}
  for i, vector in ipairs(list) do
    rows[i] = vector.row
  end
  if not gram_of then
    return rows
  end
  local all = {}
  for i, row in ipairs(rows) do
    local whole = only(total, 0, 0.0)
    for n, t in ipairs(unit.tokens) do
      whole[t] = row[n]
    end
    all[i] = tensor.new(whole, { device = device })
  end
  return { gram = gram_of(all) }
end

local function part(input, n)
  local list = {}
  for i = 1, n do
    list[i] = input.gram and table.move(input.gram[i], 1, n, 1, {}) or input[i]
  end
  return input.gram and { gram = list } or list
end

-- ---- which objectives a step makes worse ----

-- The objectives that a combination conflicts with, as a set; names[k] is the objective of vector k, or a word where
-- it is none.
local function conflicts_of(input, weights, names)
  local set = {}
  for _, c in ipairs(solvers.conflicts(input, weights, { tolerance = ROUNDING })) do
    local name = names[c.objective]
    set[name] = math.type(name) and true or nil
  end
  return set
end

--- conflicts(units, A, p, w) -> per answer the set of objectives j whose gradient, as the unit's answers weigh it, has
-- a negative inner product with the step. A[t][j], p[i] and w[i] are lists: advantages, preferences, weights of the
-- step.
function solver_rows.conflicts(units, A, p, w)
  local of = {}
  for _, unit in ipairs(units) do
    local vectors = vectors_of(unit, A, p, nil, #p[1], false)
    local input, names, weights = {}, {}, {}
    for j = 1, #p[1] do
      if vectors[j] then
        input[#input + 1], names[#names + 1], weights[#weights + 1] = vectors[j].row, j, 0.0
      end
    end
    input[#input + 1], names[#names + 1], weights[#weights + 1] = combined(unit, A, function(i) return w[i] end), "step", 1.0
    local set = #input > 1 and conflicts_of(input, weights, names) or {}
    for _, i in ipairs(unit.answers) do
      of[i] = of[i] or set
    end
  end
  return of
end

-- ---- the weights ----

-- The options of the solver for a problem.
local function options_for(self, problem)
  local o, given, vectors, order = self.o, {}, problem.vectors, problem.order
  for key, name in pairs(OF_SOLVERS) do
    if takes(o.solver, name) then
      given[name] = o[key]
    end
  end
  if takes(o.solver, "preference") then
    given.preference = table.move(problem.u, 1, problem.rows, 1, {})
  end
  if o.solver == "pcgrad" and problem.rows > 2 then
    given.rng = self.rng
  elseif o.solver == "pama" then -- the mean positive advantage of each objective, as it is weighed
    given.values = {}
    for n, j in ipairs(order) do
      local sum = 0.0
      for _, x in ipairs(vectors[j].row) do
        sum = sum + math.max(x, 0.0) / #vectors[j].row
      end
      given.values[n] = sum
    end
  elseif o.solver == "stch" then
    given.values, given.ideal = {}, {}
    for n, j in ipairs(order) do
      given.values[n], given.ideal[n] = -vectors.mean[j], -vectors.best[j]
    end
  end
  return given
end

-- mean of R over the unit's answers by objective, and the best mean of R that a preference has
local function means_of(unit, means, places, n)
  local mean, best = only(n, 0, 0.0), {}
  for j = 1, n do
    for _, i in ipairs(unit.answers) do
      mean[j] = mean[j] + means[places[i]][j] / #unit.answers
    end
    for _, m in ipairs(means) do
      best[j] = m and math.max(best[j] or m[j], m[j]) or best[j]
    end
  end
  return mean, best
end

-- What a unit's solver joins: list of vectors, of which the first `rows` are its rows and the others only objectives
-- whose slopes are wanted; order, their names; u, what they are weighed by, and its sum; linear, the weights that make
-- v of them.
local function problem_of(self, unit, A)
  local rows_are, n, by_preference = self.o.rows, self.n, takes(self.o.solver, "preference")
  local vectors, q = vectors_of(unit, A, self.p, rows_are ~= "objectives" and self.minus_b, n, by_preference)
  vectors.mean, vectors.best = means_of(unit, self.means, self.places, n)
  local problem = { vectors = vectors, list = {}, order = {}, u = {}, linear = {}, rows = 0, sum = 0.0 }
  local function take(name, weight, in_v)
    local k = #problem.list + 1
    if vectors[name] then
      problem.list[k], problem.order[k], problem.u[k], problem.linear[k] = vectors[name], name, weight, in_v
    end
  end
  local function take_objectives(joined)
    for j = 1, n do
      take(j, joined and q[j], joined and (by_preference and q[j] or 1.0) or 0.0)
    end
  end
  if rows_are == "terms" then
    take("v", 1.0, 1.0)
  else
    take_objectives(true)
  end
  if rows_are ~= "objectives" then
    take("vbar", 1.0, 0.0)
  end
  problem.rows = #problem.list
  for _, x in ipairs(problem.u) do
    problem.sum = problem.sum + x
  end
  for k, x in ipairs(problem.u) do
    problem.u[k] = x / problem.sum
  end
  if rows_are == "terms" then
    take_objectives(false)
  end
  return problem
end

-- The weights of a problem's vectors, the set of objectives that the step conflicts with, and the word for a
-- degenerate case.
local function weights_of(self, unit, problem)
  local o, a, rows = self.o, {}, problem.rows
  local input = inputs(problem.list, self.gram_of, unit, self.total, self.device)
  local w, info = solvers.solve(o.solver, part(input, rows), options_for(self, problem))
  local unit_of = takes(o.solver, "preference") and problem.sum or 1.0 -- a preference of the rows sums to 1 whatever the rows are
  for k = 1, #problem.list do
    a[k] = k <= rows and w[k] * unit_of or 0.0
  end
  if o.solver_scale ~= "own" then
    local length, want = length_of(input, a), o.solver_scale == "mean" and length_of(input, problem.linear) or 1.0
    for k, x in ipairs(a) do
      a[k] = length > 0 and x * want / length or 0.0
    end
  end
  return a, conflicts_of(input, a, problem.order), info.degenerate
end

-- What the weights of a problem's vectors make of the objectives' weights in answer i.
local function weights_in(self, problem, a, i)
  local w = only(self.n, 0, 0.0)
  for k = 1, problem.rows do
    for j, x in ipairs(problem.list[k].coef(i)) do
      w[j] = w[j] + a[k] * x
    end
  end
  return w
end

-- One unit: {c =, w =, indicator =, conflicts =, degenerate =} of each of its answers, by answer. c weighs the KL:
-- with rows=terms, where the KL belongs to v, it is the weight of v.
local function solve_unit(self, unit, A)
  local problem, of = problem_of(self, unit, A), {}
  local a, conflicts, degenerate = {}, {}, nil
  if problem.rows > 0 then
    a, conflicts, degenerate = weights_of(self, unit, problem)
  end
  local c = self.o.rows == "terms" and problem.rows > 0 and (problem.order[1] == "v" and math.max(a[1], 0.0) or 0.0) or 1.0
  for _, i in ipairs(unit.answers) do
    local w = problem.rows > 0 and weights_in(self, problem, a, i) or self.p[i] -- nothing to join: no step either way
    of[i] = { c = c, w = w, indicator = self.violated[i], conflicts = conflicts, degenerate = degenerate }
  end
  return of
end

local Menu = {}
Menu.__index = Menu

--- solver_rows.new(o) -> menu. o: options (Control.OPTIONS), n, p and minus_b (lists per answer), violated, places,
-- means (of R, by place), pools, batch, rng (a stream, for pcgrad), gram_of (with control.gradients=parameters).
function solver_rows.new(o)
  return setmetatable({ o = o.options, n = o.n, p = o.p, minus_b = o.minus_b, violated = o.violated, places = o.places, means = o.means,
    pools = o.pools, batch = o.batch, rng = o.rng, gram_of = o.gram_of, units = solver_rows.units(o.pools, o.batch),
    device = o.batch.tokens.device }, Menu)
end

--- menu:solve(A) -> {advantage [T], w [T, N], c [T]}, answers. A [T, N]: advantages, or I(A, z). With pool=token
-- answers are as at their first tokens.
function Menu:solve(A)
  local rows, answers, by_token = A:totable(), {}, {}
  for t, row in ipairs(rows) do
    for j, x in ipairs(row) do
      if x - x ~= 0 then
        error(("control.solver=%s: the advantage of objective %d at token %d is %s, not finite"):format(self.o.solver, j, t, shown(x)), 0)
      end
    end
  end
  self.total = #rows
  for _, unit in ipairs(self.units) do
    for i, answer in pairs(solve_unit(self, unit, rows)) do
      answers[i] = answers[i] or answer
      by_token[unit.tokens[1] or 0] = answer
    end
  end
  local w, c = {}, {}
  if self.pools.kind == "token" then
    for t, answer in ipairs(by_token) do
      w[t], c[t] = answer.w, answer.c
    end
    w, c = tensor.new(w, { device = self.device }), tensor.new(c, { device = self.device })
  else
    for i, answer in ipairs(answers) do
      w[i], c[i] = answer.w, answer.c
    end
    w, c = segments.spread(w, self.batch), segments.spread(c, self.batch)
  end
  return { advantage = (A * w):sum(2), w = w, c = c }, answers
end

return solver_rows
