--- mocl.method.solvers_linear: small dense problems of mocl.method.solvers, in double precision: a positive definite system, the
-- eigenvalues of a symmetric matrix, and the complementarity problem that the quadratic programmes come down to.
-- Matrices are lists of rows of a Gram matrix; no argument is changed.

local M = {}

local ENUMERATED = 8 -- up to this many unknowns all active sets are tried
local DEPENDENT = 1e-14 -- a pivot below this share of its diagonal is rounding: the row depends on those before it
local COARSER = { DEPENDENT, 1e-12, 1e-10 } -- tried in turn by the active-set method, until the conditions hold
local HOLDS = 1e-12 -- conditions missed by no more than this share hold

--- solve(A, b, set [, dependent]) -> x of A[set][set] x = b[set] by LDL', or nil where rows of the set are dependent to
-- rounding, or to the share given.
function M.solve(A, b, set, dependent)
  local n, L, d, x = #set, {}, {}, {}
  for i = 1, n do
    local row, ai, s, pivot = {}, A[set[i]], b[set[i]], A[set[i]][set[i]]
    for j = 1, i - 1 do
      local v, lj = ai[set[j]], L[j]
      for k = 1, j - 1 do
        v = v - row[k] * d[k] * lj[k]
      end
      row[j] = v / d[j]
      pivot = pivot - row[j] * v
      s = s - row[j] * x[j]
    end
    if not (pivot > (dependent or DEPENDENT) * ai[set[i]]) then
      return nil
    end
    L[i], d[i], x[i] = row, pivot, s
  end
  for i = n, 1, -1 do
    local s = x[i] / d[i]
    for k = i + 1, n do
      s = s - L[k][i] * x[k]
    end
    x[i] = s
  end
  return x
end

--- mul(A, x) -> A x.
function M.mul(A, x)
  local y = {}
  for i = 1, #A do
    local s, row = 0.0, A[i]
    for j = 1, #x do
      s = s + row[j] * x[j]
    end
    y[i] = s
  end
  return y
end

-- By how much x misses x >= 0 and A x + q >= 0, as a share of the terms that each is made of; 0 where it holds.
-- `free` is true for those whose (A x + q)_i is zero by construction.
local function miss(A, q, x, free)
  local size, worst = 0, 0
  for i = 1, #x do
    size = math.max(size, math.abs(x[i]))
  end
  for i = 1, #x do
    if free[i] then
      worst = math.max(worst, -x[i] / size)
    else
      local s, terms, row = q[i], math.abs(q[i]), A[i]
      for j = 1, #x do
        local v = row[j] * x[j]
        s, terms = s + v, terms + math.abs(v)
      end
      if s < 0 then
        worst = math.max(worst, -s / terms)
      end
    end
  end
  return worst
end

-- x with A x + q = 0 on `set` and x = 0 elsewhere, and the set as flags; nil where its rows are dependent
local function on_set(A, q, set, dependent)
  local minus, x, free = {}, {}, {}
  for i = 1, #q do
    minus[i], x[i] = -q[i], 0.0
  end
  local part = M.solve(A, minus, set, dependent)
  if not part then
    return nil
  end
  for k = 1, #set do
    x[set[k]], free[set[k]] = part[k], true
  end
  return x, free
end

local function enumerate(A, q, usable, dependent)
  local best, least, chosen = nil, math.huge, nil
  for mask = 0, (1 << #usable) - 1 do
    local set = {}
    for k = 1, #usable do
      if mask >> (k - 1) & 1 == 1 then
        set[#set + 1] = usable[k]
      end
    end
    local x, free = on_set(A, q, set, dependent)
    local by = x and miss(A, q, x, free)
    if by and by < least then
      best, least, chosen = x, by, set
      if by == 0 then
        break
      end
    end
  end
  return best, chosen, least
end

-- Moves x along d on the set as far as x >= 0 allows, less than `most`; the row that reaches zero leaves. False where
-- no row does, and then x is as it was.
local function until_zero(x, free, set, d, most)
  local far, leave = most, nil
  for _, i in ipairs(set) do
    if d[i] < 0 and -x[i] / d[i] < far then
      far, leave = -x[i] / d[i], i
    end
  end
  if not leave then
    return false
  end
  for _, i in ipairs(set) do
    x[i] = math.max(x[i] + far * d[i], 0.0)
  end
  x[leave], free[leave] = 0.0, nil
  return true
end

-- Lawson and Hanson's active-set method: take in the row that misses most, go to the solution on the set, and drop rows
-- whose x reaches zero on the way. A row that depends on the set is taken in along the direction that changes A x in
-- nothing, until another row leaves.
local function lawson_hanson(A, q, usable, dependent)
  local x, free, banned = {}, {}, {}
  for i = 1, #q do
    x[i] = 0.0
  end
  local function members()
    local set = {}
    for _, i in ipairs(usable) do
      set[#set + 1] = free[i] and i or nil
    end
    return set
  end
  for _ = 1, 50 * #q do
    local enter, most = nil, 1e-14
    for _, i in ipairs(usable) do
      if not free[i] and not banned[i] then
        local s, terms = q[i], math.abs(q[i])
        for j = 1, #q do
          s, terms = s + A[i][j] * x[j], terms + math.abs(A[i][j] * x[j])
        end
        if -s > most * terms then
          enter, most = i, -s / terms
        end
      end
    end
    if not enter then
      break
    end
    local set, column, d = members(), {}, {}
    for i = 1, #q do
      column[i] = A[i][enter]
    end
    free[enter] = true
    local whole = members()
    if not M.solve(A, q, whole, dependent) then
      local along = M.solve(A, column, set, dependent)
      for k, i in ipairs(set) do
        d[i] = -along[k]
      end
      d[enter] = 1.0
      -- the least value along d, were the change of A x not zero but rounding
      local slope, size = q[enter], 0.0
      for _, i in ipairs(whole) do
        slope, size = slope + column[i] * x[i], size + math.abs(d[i])
      end
      if not until_zero(x, free, whole, d, -slope / (1e-15 * size * size)) then
        free[enter], banned[enter] = nil, true
      end
    end
    while free[enter] do
      set = members()
      local y = on_set(A, q, set, dependent)
      if not y or x[enter] == 0 and y[enter] <= 0 then -- rounding: it cannot move
        x[enter], free[enter], banned[enter] = 0.0, nil, true
        break
      end
      for _, i in ipairs(set) do
        d[i] = y[i] - x[i]
      end
      if not until_zero(x, free, set, d, 1.0) then
        x, banned = y, {}
        break
      end
    end
  end
  return x, members(), miss(A, q, x, free)
end

local function active_set(A, q, usable, dependent)
  local best, chosen, least = nil, nil, math.huge
  for _, share in ipairs(dependent and { dependent } or COARSER) do
    local x, set, by = lawson_hanson(A, q, usable, share)
    if by < least then
      best, chosen, least = x, set, by
    end
    if least <= HOLDS then
      break
    end
  end
  return best, chosen, least
end

--- complementary(A, q [, dependent]) -> x, set, miss. x >= 0 with A x + q >= 0 and x'(A x + q) = 0, that is, the x >= 0 that makes
-- x'A x / 2 + q'x least. A is positive semidefinite with a unit diagonal, or zeros in rows that are left out. `set`
-- lists where x may differ from 0; `miss` is the share by which the conditions are missed, 0 or rounding. dependent: as for
-- solve.
function M.complementary(A, q, dependent)
  local usable = {}
  for i = 1, #q do
    usable[#usable + 1] = A[i][i] > 0 and i or nil
  end
  local x, set, by = (#usable <= ENUMERATED and enumerate or active_set)(A, q, usable, dependent)
  for i = 1, #q do
    x[i] = math.max(x[i], 0.0)
  end
  return x, set, by
end

--- eigen(A) -> values, vectors of a symmetric positive semidefinite matrix, largest first, by cyclic Jacobi rotations
-- that end where |a_ij| is rounding of sqrt(a_ii a_jj): small values of a graded matrix keep their digits.
function M.eigen(A)
  local n, a, v = #A, {}, {}
  for i = 1, n do
    a[i], v[i] = table.move(A[i], 1, n, 1, {}), {}
    for j = 1, n do
      v[i][j] = i == j and 1.0 or 0.0
    end
  end
  for _ = 1, 100 do
    local turned = false
    for p = 1, n - 1 do
      for r = p + 1, n do
        local off = a[p][r]
        if off ~= 0 and math.abs(off) > 1e-17 * (math.abs(a[p][p]) * math.abs(a[r][r])) ^ 0.5 then
          local theta = (a[r][r] - a[p][p]) / (2 * off)
          local t = (theta >= 0 and 1 or -1) / (math.abs(theta) + (theta * theta + 1) ^ 0.5)
          local c = 1 / (t * t + 1) ^ 0.5
          local s = t * c
          turned = turned or math.abs(off) > 1e-15 * (math.abs(a[p][p]) * math.abs(a[r][r])) ^ 0.5
          a[p][p], a[r][r] = a[p][p] - t * off, a[r][r] + t * off
          a[p][r], a[r][p] = 0.0, 0.0
          for k = 1, n do
            if k ~= p and k ~= r then
              local x, y = a[k][p], a[k][r]
              a[k][p], a[k][r] = c * x - s * y, s * x + c * y
              a[p][k], a[r][k] = a[k][p], a[k][r]
            end
            local x, y = v[k][p], v[k][r]
            v[k][p], v[k][r] = c * x - s * y, s * x + c * y
          end
        end
      end
    end
    if not turned then
      break
    end
  end
  local order, values, vectors = {}, {}, {}
  for i = 1, n do
    order[i] = i
  end
  table.sort(order, function(x, y)
    if a[x][x] ~= a[y][y] then
      return a[x][x] > a[y][y]
    end
    return x < y
  end)
  for k, i in ipairs(order) do
    values[k], vectors[k] = math.max(a[i][i], 0.0), {}
    for j = 1, n do
      vectors[k][j] = v[j][i]
    end
  end
  return values, vectors
end

return M
