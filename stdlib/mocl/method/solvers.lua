--- mocl.method.solvers: one interface to the ways of joining N objectives' gradients into one step.
-- solve(name, J or { gram = G }, options) gives the weights of the objectives. Everything works on inner products, in
-- double precision, and no solver has a threshold unless an option asks for one.

local check_options = require "mocl.options".check
local linear = require "mocl.method.solvers_linear"
local minnorm = require "mocl.minnorm"
local given = require "mocl.method.solvers_problem"
local nearest = require "mocl.options".nearest
local sorted_keys = require "mocl.options".sorted_keys

local solvers = {}

local EPS = 2.0 ^ -52
local dot, finite, numbers, problem, refuse = given.dot, given.finite, given.numbers, given.problem, given.refuse

-- the Gram matrix of rows divided by the greatest length
local function gram(p)
  local G = {}
  for i = 1, p.n do
    G[i] = {}
    for j = 1, p.n do
      G[i][j] = p.t[i] * p.t[j] * p.cos[i][j]
    end
  end
  return G
end

local function constant(n, value)
  local list = {}
  for i = 1, n do
    list[i] = value
  end
  return list
end

local function each(n, f)
  local list = {}
  for i = 1, n do
    list[i] = f(i)
  end
  return list
end

-- weights of rows as coordinates of unit rows, in units of the greatest length, and back; zero rows stay at 0
local function to_unit(p, w)
  return each(p.n, function(i) return w[i] * p.t[i] end)
end
local function from_unit(p, x)
  return each(p.n, function(i) return p.t[i] > 0 and x[i] / p.t[i] or 0.0 end)
end

-- x'C x, the squared length of a combination of unit rows
local function square(p, x)
  return math.max(0.0, dot(x, linear.mul(p.cos, x)))
end

-- whether a combination of unit rows with weights from 0 vanishes, to rounding: then no step improves all of these rows
local function balanced(C)
  local _, hull = minnorm.solve(C, { tolerance = 1e-15 })
  return hull.norm2 <= 8 * #C * EPS
end

-- ---- eigenvalues, the rank and the pseudo-inverse ----

-- eigenvalues and vectors of the Gram matrix of unit rows (or, `graded`, of all rows) that are not rounding. The rank is
-- that of unit rows, whatever their lengths; rtol cuts at a share of the greatest eigenvalue of that matrix instead.
local function spectrum(p, rtol, graded)
  local values, vectors = linear.eigen(p.cos)
  local function count(cut)
    local r = 0
    while r < p.n and values[r + 1] > cut do
      r = r + 1
    end
    return r
  end
  local rank = count(4 * p.n * EPS * values[1])
  if graded then
    values, vectors = linear.eigen(gram(p))
  end
  return values, vectors, rtol and count(rtol * values[1]) or rank
end

-- pinv(A) b from eigenvalues; parts of b along a vector that are rounding of their terms are zero
local function pseudo_solve(values, vectors, rank, b)
  local x = constant(#b, 0.0)
  for k = 1, rank do
    local s, terms = 0.0, 0.0
    for i = 1, #b do
      s, terms = s + vectors[k][i] * b[i], terms + math.abs(vectors[k][i] * b[i])
    end
    if math.abs(s) > 1e-13 * terms then
      for i = 1, #b do
        x[i] = x[i] + vectors[k][i] * s / values[k]
      end
    end
  end
  return x
end

-- ---- the methods: f(problem, options, preference) -> weights and, for degenerate problems, a word for it ----

local methods = {}

local function add(name, scale, known, f)
  methods[name] = { scale = scale, options = known, f = f }
end

add("mean", "mean", { "preference" }, function(_, _, u)
  return u
end)

add("mgda", "convex", {}, function(p)
  local w = minnorm.solve(gram(p), { tolerance = 1e-15 })
  return w, #p.present < p.n and "a zero row" or balanced(p.cos) and "stationary" or nil
end)

-- Corrects x, the solution of the rows `set` in unit coordinates, by residuals from the rows themselves, which know a
-- combination of them to rounding where the Gram matrix knows its square: set rows are to be orthogonal to y + x.
local function refine(p, y, x, set)
  local left = math.huge
  for _ = 1, 60 do
    local d, minus, worst = constant(#p.units[1], 0.0), constant(p.n, 0.0), 0.0
    for i, unit in ipairs(p.units) do
      local share = y[i] + x[i]
      for k = 1, #d do
        d[k] = d[k] + share * unit[k]
      end
    end
    for _, i in ipairs(set) do
      minus[i] = -dot(p.units[i], d)
      worst = math.max(worst, math.abs(minus[i]))
    end
    local change = worst < left * 0.9 and linear.solve(p.cos, minus, set)
    if not change then
      return x
    end
    left = worst
    local nearer = table.move(x, 1, p.n, 1, {})
    for k, i in ipairs(set) do
      nearer[i] = math.max(x[i] + change[k], 0.0)
    end
    x = nearer
  end
  return x
end

-- By how much y + x of unit rows, x the weights that a projection adds, misses its conditions, as a share of the terms, by the rows
-- themselves: no slope is negative, and that of a row whose x is not 0 is 0.
local function missed(p, y, x)
  local d, terms, worst = constant(#p.units[1], 0.0), 0.0, 0.0
  for i, unit in ipairs(p.units) do
    local share = y[i] + x[i]
    terms = terms + math.abs(share)
    for k = 1, #d do
      d[k] = d[k] + share * unit[k]
    end
  end
  for i = 1, p.n do
    local slope = dot(p.units[i], d)
    worst = math.max(worst, x[i] > 0 and math.abs(slope) or -slope)
  end
  return terms > 0 and worst / terms or 0.0
end

-- Rows that depend on each other to about 1e-7, as gradients in floats of 32 bits do, have pivots that are rounding although
-- they are above the share where a pivot counts as none. The rows themselves tell which of these shares serves.
local SHARES = { 1e-14, 1e-12, 1e-10, 1e-8 }

-- v >= u with J'v the projection of J'u onto the cone of steps that conflict with no objective
local function project(p, o, u)
  local reg = o.reg_eps or 0
  local trace = dot(p.t, p.t)
  if trace == 0 or p.largest ^ 2 * trace < (o.norm_eps or 0) then
    return u
  end
  -- G / trace + reg I, scaled to a unit diagonal
  local d = each(p.n, function(i) return (p.t[i] ^ 2 / trace + reg) ^ 0.5 end)
  local H = each(p.n, function(i)
    return each(p.n, function(j)
      return i == j and (d[i] > 0 and 1.0 or 0.0)
        or d[i] > 0 and d[j] > 0 and p.cos[i][j] * (p.t[i] / d[i]) * (p.t[j] / d[j]) / trace or 0.0
    end)
  end)
  local y = each(p.n, function(i) return u[i] * d[i] end)
  local q, x = linear.mul(H, y), nil
  if p.units and reg == 0 then
    local root, least = trace ^ 0.5, math.huge
    local yr = each(p.n, function(i) return y[i] * root end)
    for _, share in ipairs(SHARES) do
      local some, set = linear.complementary(H, q, share)
      some = refine(p, yr, each(p.n, function(i) return some[i] * root end), set)
      local by = missed(p, yr, some)
      if by < least then
        x, least = some, by
      end
      if by <= 1e-12 then
        break
      end
    end
    x = each(p.n, function(i) return x[i] / root end)
  else
    x = linear.complementary(H, q)
  end
  return each(p.n, function(i) return d[i] > 0 and u[i] + x[i] / d[i] or u[i] end)
end

add("dualproj", "mean", { "preference", "norm_eps", "reg_eps" }, project)

add("upgrad", "mean", { "preference", "norm_eps", "reg_eps" }, function(p, o, u)
  local w = constant(p.n, 0.0)
  for i = 1, p.n do
    local v = project(p, o, each(p.n, function(j) return i == j and u[i] or 0.0 end))
    for j = 1, p.n do
      w[j] = w[j] + v[j]
    end
  end
  return w
end)

local function orders(p, o)
  if o.order and o.rng then
    refuse("pcgrad: order and rng are both given; one of them says in which order rows are taken")
  elseif o.rng then
    if type(o.rng) ~= "userdata" then
      refuse("pcgrad: rng is a %s, a stream of mocl.rng expected", type(o.rng))
    end
    return each(p.n, function() return o.rng:shuffle(each(p.n, function(j) return j end)) end)
  elseif not o.order and p.n > 2 then
    refuse("pcgrad: the step of %d objectives depends on the order in which rows are taken: give order (a list of 1 to %d, "
      .. "or one such list for each row) or rng (a stream of mocl.rng)", p.n, p.n)
  end
  local list = o.order or each(p.n, function(j) return j end)
  list = type(list) == "table" and type(list[1]) == "table" and list or constant(p.n, list)
  for i = 1, math.max(p.n, #list) do
    numbers(list[i], p.n, "pcgrad: order " .. i)
    local seen = {}
    for _, j in ipairs(list[i]) do
      if math.type(j) ~= "integer" or j < 1 or j > p.n or seen[j] then
        refuse("pcgrad: order %d is no permutation of 1 to %d: it has %s%s", i, p.n, tostring(j), seen[j] and " twice" or "")
      end
      seen[j] = true
    end
  end
  if #list > p.n then
    refuse("pcgrad: %d orders for %d objectives", #list, p.n)
  end
  return list
end

add("pcgrad", "sum", { "order", "rng" }, function(p, o)
  local total = constant(p.n, 0.0)
  for i, order in ipairs(orders(p, o)) do
    local x = each(p.n, function(j) return i == j and p.t[i] or 0.0 end)
    for _, j in ipairs(order) do
      local inner = dot(p.cos[j], x)
      if j ~= i and inner < 0 then
        x[j] = x[j] - inner
      end
    end
    for j = 1, p.n do
      total[j] = total[j] + (p.t[j] > 0 and x[j] / p.t[j] or j == i and 1.0 or 0.0)
    end
  end
  return total
end)

-- The step d of the ball |d - g0| <= c |g0| whose least g_i.d is greatest is g0 + J'v with v >= 0, |J'v| = c |g0| and
-- g_i.d >= lambda, equal where v_i > 0. For a given lambda v is a complementarity problem, and |J'v| grows with
-- lambda; on a set of rows with v > 0 lambda is the root of a quadratic. lambda is sought over these sets.
add("cagrad", "mean times up to 1 + c", { "preference", "c", "norm_eps" }, function(p, o, u)
  local c, norm_eps = o.c or 0.5, o.norm_eps or 0
  local y = to_unit(p, u)
  local radius2 = c * c * square(p, y)
  local trace = dot(p.t, p.t)
  local none = constant(p.n, 0.0)
  if p.largest == 0 or p.largest ^ 2 * trace < norm_eps then
    return none, "short"
  elseif #p.present < p.n then
    return none, "a zero row"
  elseif radius2 <= EPS ^ 2 then
    return u
  end
  local slope = linear.mul(p.cos, y)
  local function at(lambda)
    local x, set = linear.complementary(p.cos, each(p.n, function(i) return slope[i] - lambda / p.t[i] end))
    return x, set, square(p, x)
  end
  local low, high = math.huge, math.huge
  for i = 1, p.n do
    low = math.min(low, slope[i] * p.t[i])
    high = math.min(high, (slope[i] + radius2 ^ 0.5) * p.t[i])
  end
  if high >= 0 and balanced(p.cos) then -- lambda cannot be positive
    high = 0.0
    local _, _, reached = at(high)
    if reached <= radius2 * (1 + 1e-12) then
      return none, "stationary"
    end
  end
  local lambda, x, before = high, nil, nil
  for _ = 1, 200 do
    local found, set, size2 = at(lambda)
    x = found
    local name = table.concat(set, " ")
    if name == before and math.abs(size2 - radius2) <= 1e-9 * radius2 then
      break
    end
    before = name
    if size2 > radius2 then
      high = lambda
    else
      low = lambda
    end
    local a = linear.solve(p.cos, each(p.n, function(i) return 1 / p.t[i] end), set)
    local b = linear.solve(p.cos, slope, set)
    local aa, ab, bb = 0.0, 0.0, 0.0
    for k, i in ipairs(set) do
      aa, ab, bb = aa + a[k] / p.t[i], ab + b[k] / p.t[i], bb + b[k] * slope[i]
    end
    local under = ab * ab - aa * (bb - radius2)
    local root = #set > 0 and under >= 0 and (ab + under ^ 0.5) / aa
    lambda = root and root >= low and root <= high and root or low + (high - low) / 2
  end
  local v, sum = from_unit(p, x), 0.0
  for i = 1, p.n do
    sum = sum + v[i]
  end
  if radius2 ^ 0.5 < norm_eps * sum * trace ^ 0.5 then
    return none, "short"
  end
  return each(p.n, function(i) return u[i] + v[i] end)
end)

-- b > 0 with C b = q / b, or nil where the rows cancel to rounding: the minimum of b'C b / 2 - sum q log b by Newton's method with a line search
local function nash(C, q)
  local n = #C
  local function value(b)
    local s = dot(b, linear.mul(C, b)) / 2
    for i = 1, n do
      if b[i] <= 0 then
        return math.huge
      end
      s = s - q[i] * math.log(b[i])
    end
    return s
  end
  local function residual(b)
    local worst = 0.0
    for i, s in ipairs(linear.mul(C, b)) do
      worst = math.max(worst, math.abs(b[i] * s - q[i]))
    end
    return worst
  end
  local all, b = each(n, function(i) return i end), each(n, function(i) return q[i] ^ 0.5 end)
  local here = residual(b)
  for _ = 1, 500 do
    local Cb = linear.mul(C, b)
    -- in the coordinates d_i / b_i, which keeps the diagonal near one
    local A = each(n, function(i)
      return each(n, function(j) return b[i] * C[i][j] * b[j] + (i == j and q[i] or 0.0) end)
    end)
    local d = linear.solve(A, each(n, function(i) return q[i] - b[i] * Cb[i] end), all)
    if not d then -- b grows beyond what the Gram matrix knows: the rows cancel but for rounding
      return nil
    end
    local f, t, nearer, left = value(b), 1.0, nil, nil
    repeat
      nearer = each(n, function(i) return b[i] * (1 + t * d[i]) end)
      left = residual(nearer)
      t = t / 2
    until value(nearer) < f or left < here and value(nearer) < math.huge or t < 1e-12
    if t < 1e-12 or here < 1e-9 and left >= here then
      break
    end
    b, here = nearer, left
  end
  return b
end

add("nashmtl", "fixed: the square root of the number of rows that are not zero, or max_norm", { "preference", "max_norm" }, function(p, o, u)
  local n, w = #p.present, constant(p.n, 0.0)
  if n == 0 then
    return w, "a zero row"
  end
  local C = each(n, function(i) return each(n, function(j) return p.cos[p.present[i]][p.present[j]] end) end)
  if balanced(C) then
    return w, "stationary"
  end
  local sum = 0.0
  for _, i in ipairs(p.present) do
    if u[i] == 0 then
      refuse("nashmtl: preference %d is 0: the logarithm of its share has no weight, leave the objective out", i)
    end
    sum = sum + u[i]
  end
  local b = nash(C, each(n, function(k) return u[p.present[k]] / sum * n end))
  if not b then
    return w, "stationary"
  end
  local shrink = o.max_norm and math.min(1.0, o.max_norm / n ^ 0.5) or 1.0
  for k, i in ipairs(p.present) do
    w[i] = shrink * b[k] / p.length[i]
  end
  return w, n < p.n and "a zero row" or nil
end)

add("imtlg", "affine: the weights sum to 1 and may be negative", { "rtol" }, function(p, o)
  local w = not o.rtol and linear.solve(p.cos, constant(p.n, 1.0), each(p.n, function(i) return i end))
  if w then
    w = from_unit(p, w)
  else
    local values, vectors, rank = spectrum(p, o.rtol, true)
    w = pseudo_solve(values, vectors, rank, p.t)
  end
  local sum, size = 0.0, 0.0
  for i = 1, p.n do
    sum, size = sum + w[i], size + math.abs(w[i])
  end
  if math.abs(sum) <= 1e-12 * size then
    return constant(p.n, 0.0), "stationary"
  end
  return each(p.n, function(i) return w[i] / sum end), #p.present < p.n and "a zero row" or nil
end)

add("config", "sum: the length is the sum of the rows' projections on the step", { "preference", "rtol" }, function(p, o, u)
  local values, vectors, rank = spectrum(p, o.rtol)
  local x = pseudo_solve(values, vectors, rank, each(p.n, function(i) return p.t[i] > 0 and u[i] * p.n or 0.0 end))
  local norm = square(p, x) ^ 0.5
  if norm == 0 then
    return constant(p.n, 0.0), "stationary"
  end
  local along = dot(p.t, linear.mul(p.cos, x)) / norm
  return from_unit(p, each(p.n, function(i) return x[i] / norm * along end)), #p.present < p.n and "a zero row" or nil
end)

add("alignedmtl", "mean times the least singular value", { "preference", "rtol", "scale_mode" }, function(p, o, u)
  local mode = o.scale_mode or "min"
  local values, vectors, rank = spectrum(p, o.rtol, true)
  local w, chosen = constant(p.n, 0.0), nil
  if rank == 0 then
    return w, "a zero row"
  elseif mode == "min" then
    chosen = values[rank]
  elseif mode == "median" then
    chosen = values[rank // 2 + 1] -- of an even number the lesser of the two in the middle
  elseif mode == "rmse" then
    chosen = 0.0
    for k = 1, rank do
      chosen = chosen + values[k] / rank
    end
  else
    refuse("alignedmtl: scale_mode is '%s' (min, median or rmse expected)", tostring(mode))
  end
  for k = 1, rank do
    local s = dot(vectors[k], u) * (chosen / values[k]) ^ 0.5
    for i = 1, p.n do
      w[i] = w[i] + vectors[k][i] * s
    end
  end
  return w, rank < p.n and "dependent rows" or nil
end)

-- of mu log sum exp(p_i (f_i - ideal_i) / mu) the derivative by f_i; f is to become small
add("stch", "convex of preference-weighted rows", { "preference", "values", "ideal", "mu" }, function(p, o, u)
  local mu = o.mu or 1.0
  if o.values == nil then
    refuse("stch: option 'values' is missing: the losses of the objectives, less is better")
  end
  numbers(o.values, p.n, "stch: values")
  local ideal = o.ideal or constant(p.n, 0.0)
  numbers(ideal, p.n, "stch: ideal")
  if not (finite(mu) and mu > 0) then
    refuse("stch: mu is %s, a number above 0 expected", tostring(mu))
  end
  local most, sum = -math.huge, 0.0
  local e = each(p.n, function(i)
    local v = u[i] * (o.values[i] - ideal[i])
    most = math.max(most, v)
    return v
  end)
  e = each(p.n, function(i) return math.exp((e[i] - most) / mu) end)
  for i = 1, p.n do
    sum = sum + e[i]
  end
  return each(p.n, function(i) return u[i] * e[i] / sum end)
end)

-- the least (sum c_i a_i)^2 over the simplex, a_i being one number for each objective
add("pama", "convex", { "values" }, function(p, o)
  if o.values == nil then
    refuse("pama: option 'values' is missing: the objectives' mean positive advantages (or objective values), one number each")
  end
  local values = numbers(o.values, p.n, "pama: values")
  local low, high = math.min(table.unpack(values)), math.max(table.unpack(values))
  local share_low = 1.0
  if low < 0 and high > 0 then
    share_low = (high / 2) / (high / 2 - low / 2)
  elseif low < 0 then
    share_low = 0.0
  end
  local n_low, n_high = 0, 0
  for i = 1, p.n do
    n_low, n_high = n_low + (values[i] == low and 1 or 0), n_high + (values[i] == high and 1 or 0)
  end
  return each(p.n, function(i) -- equal values share alike
    local v = values[i]
    return (v == low and share_low / n_low or 0.0) + (v == high and (1 - share_low) / n_high or 0.0)
  end)
end)

-- ---- the interface ----

local function find(name)
  local list = solvers.list()
  local plain = type(name) == "string" and name:lower():gsub("[-_ ]", "")
  if not methods[plain] then
    local near = plain and nearest(plain, list)
    refuse("unknown solver '%s'%s", tostring(name), near and (" (did you mean '%s'?)"):format(near)
      or " (known: " .. table.concat(list, ", ") .. ")")
  end
  return plain, methods[plain]
end

--- The names of the solvers, sorted.
function solvers.list()
  return sorted_keys(methods)
end

local LABELS = { mean = "Mean", mgda = "MGDA", upgrad = "UPGrad", dualproj = "DualProj", pcgrad = "PCGrad", cagrad = "CAGrad",
  nashmtl = "Nash-MTL", imtlg = "IMTL-G", config = "ConFIG", alignedmtl = "Aligned-MTL", stch = "STCH", pama = "PAMA" }

--- solvers.label(name) -> what tables call the solver of a plain name, as its authors write it; the name itself of another.
function solvers.label(name)
  return LABELS[name] or name
end

-- f(...) with its refusals raised at the caller of the public function
local function guarded(what, f, ...)
  local result = table.pack(pcall(f, ...))
  if not result[1] then
    error(type(result[2]) == "string" and what .. ": " .. result[2] or result[2], 3)
  end
  return table.unpack(result, 2, result.n)
end

--- describe(name) -> { solver = its plain name, scale = what the length of its step is, options = names of its options beside scale }.
function solvers.describe(name)
  local plain, method = guarded("describe", find, name)
  return { solver = plain, scale = method.scale, options = table.move(method.options, 1, #method.options, 1, {}) }
end

local function preference_of(p, o, name)
  if o.preference == nil then
    return constant(p.n, 1 / p.n)
  end
  numbers(o.preference, p.n, name .. ": preference")
  local sum = 0.0
  for i, v in ipairs(o.preference) do
    if v < 0 then
      refuse("%s: preference %d is %g, a number from 0 expected", name, i, v)
    end
    sum = sum + v
  end
  if math.abs(sum - 1) > 1e-6 then
    refuse("%s: the preference sums to %.9g, 1 expected", name, sum)
  end
  return each(p.n, function(i) return o.preference[i] / sum end)
end

-- slopes g_i.d of the step d with weights w, those below -tolerance times the terms they are made of, and the length of d
local function slopes(p, w, tolerance)
  local list, x = {}, to_unit(p, w)
  local slope = linear.mul(p.cos, x)
  local norm = square(p, x) ^ 0.5
  local size = 0.0
  for i = 1, p.n do
    size = size + math.abs(x[i])
  end
  for i = 1, p.n do
    if slope[i] < -tolerance * size then
      list[#list + 1] = { objective = i, slope = slope[i] * p.length[i] * p.largest, cosine = math.max(-1.0, slope[i] / norm) }
    end
  end
  return each(p.n, function(i) return slope[i] * p.length[i] * p.largest end), list, norm * p.largest
end

local function step(J, w)
  return each(#J[1], function(k)
    local s = 0.0
    for i = 1, #J do
      s = s + w[i] * J[i][k]
    end
    return s
  end)
end

--- solve(name, J or { gram = G }, options) -> weights, info. docs/solvers.md has the names, scales and options.
function solvers.solve(name, input, options)
  local plain, method = guarded("solve", find, name)
  local o = options == nil and {} or options
  local known = table.move(method.options, 1, #method.options, 2, { "scale" })
  check_options("solve: " .. plain, o, {}, known)
  local w, info = guarded("solve", function()
    for _, key in ipairs { "norm_eps", "reg_eps", "rtol", "c", "max_norm" } do
      if o[key] ~= nil and not (finite(o[key]) and o[key] >= 0) then
        refuse("%s: %s is %s, a number from 0 expected", plain, key, tostring(o[key]))
      end
    end
    local scale = o.scale or "own"
    if scale ~= "own" and scale ~= "mean" and scale ~= "unit" then
      refuse("%s: scale is '%s' (own, mean or unit expected)", plain, tostring(scale))
    end
    local p = problem(input)
    local u = preference_of(p, o, plain)
    local w, degenerate = method.f(p, o, u)
    local mean = square(p, to_unit(p, constant(p.n, 1 / p.n))) ^ 0.5 * p.largest
    if scale ~= "own" then
      local x, size = to_unit(p, w), 0.0
      for i = 1, p.n do
        size = size + math.abs(x[i])
      end
      local norm = square(p, x) ^ 0.5
      -- a length that is rounding of its terms stays what it is: it has no direction
      local factor = norm > 1e-7 * size and (scale == "mean" and mean or 1.0) / (norm * p.largest) or size > 0 and 0.0 or 1.0
      w = each(p.n, function(i) return w[i] * factor end)
    end
    local slope, conflicts, norm = slopes(p, w, 1e-12)
    return w, {
      solver = plain, scale = scale == "own" and method.scale or scale, norm = norm, mean_norm = mean, slopes = slope,
      conflicts = conflicts, degenerate = degenerate, step = p.J and step(p.J, w) or nil,
    }
  end)
  return w, info -- no tail call: the level of errors counts this function
end

--- conflicts(J or { gram = G }, weights [, { tolerance = 1e-12 }]) -> list of { objective, slope, cosine }.
function solvers.conflicts(input, weights, options)
  local o = check_options("conflicts", options or {}, {}, { "tolerance" })
  local list = guarded("conflicts", function()
    local tolerance = o.tolerance or 1e-12
    if not (finite(tolerance) and tolerance >= 0) then
      refuse("tolerance is %s, a number from 0 expected", tostring(tolerance))
    end
    local p = problem(input)
    numbers(weights, p.n, "weights")
    local _, found = slopes(p, weights, tolerance)
    return found
  end)
  return list
end

return solvers
