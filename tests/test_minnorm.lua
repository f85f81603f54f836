-- mocl.minnorm: against brute force, the optimality conditions and closed forms

local T = require "t"
local minnorm = require "mocl.minnorm"
local rng = require "mocl.rng"

local function dot(a, b)
  local s = 0
  for i = 1, #a do
    s = s + a[i] * b[i]
  end
  return s
end

local function gram(vectors)
  local g = {}
  for i = 1, #vectors do
    g[i] = {}
    for j = 1, #vectors do
      g[i][j] = dot(vectors[i], vectors[j])
    end
  end
  return g
end

-- || sum_i w_i v_i ||^2 from the vectors themselves
local function norm2(vectors, w)
  local s = 0
  for k = 1, #vectors[1] do
    local x = 0
    for i = 1, #vectors do
      x = x + w[i] * vectors[i][k]
    end
    s = s + x * x
  end
  return s
end

-- x of a x = b by Gaussian elimination with pivoting, nil if singular
local function linear_solve(a, b)
  local n = #b
  for k = 1, n do
    local p = k
    for i = k + 1, n do
      if math.abs(a[i][k]) > math.abs(a[p][k]) then
        p = i
      end
    end
    if math.abs(a[p][k]) < 1e-12 then
      return nil
    end
    a[k], a[p], b[k], b[p] = a[p], a[k], b[p], b[k]
    for i = k + 1, n do
      local f = a[i][k] / a[k][k]
      for j = k, n do
        a[i][j] = a[i][j] - f * a[k][j]
      end
      b[i] = b[i] - f * b[k]
    end
  end
  local x = {}
  for k = n, 1, -1 do
    local s = b[k]
    for j = k + 1, n do
      s = s - a[k][j] * x[j]
    end
    x[k] = s / a[k][k]
  end
  return x
end

-- least norm2 over all faces of the simplex: on each, the point where the gradients are equal
local function brute_force(vectors)
  local n, g = #vectors, gram(vectors)
  local best = math.huge
  for mask = 1, (1 << n) - 1 do
    local set = {}
    for i = 1, n do
      if mask >> (i - 1) & 1 == 1 then
        set[#set + 1] = i
      end
    end
    local a, b, m = {}, {}, #set -- unknowns: the weights and minus the multiplier
    for r = 1, m do
      a[r] = {}
      for c = 1, m do
        a[r][c] = g[set[r]][set[c]]
      end
      a[r][m + 1] = 1
      b[r] = 0
    end
    a[m + 1] = {}
    for c = 1, m do
      a[m + 1][c] = 1
    end
    a[m + 1][m + 1] = 0
    b[m + 1] = 1
    local x = linear_solve(a, b)
    local w = {}
    for i = 1, n do
      w[i] = 0
    end
    for r = 1, m do
      if not x or x[r] < -1e-12 then
        w = nil
        break
      end
      w[set[r]] = x[r]
    end
    if w then
      best = math.min(best, norm2(vectors, w))
    end
  end
  return best
end

-- weights on the simplex, norm2 as reported, no gradient below it: relative to the lengths
local function check(vectors, w, info, tol, msg)
  local g, sum, mean_length = gram(vectors), 0, 0
  T.eq(#w, #vectors, msg)
  for i = 1, #w do
    T.ok(w[i] >= 0, msg)
    sum = sum + w[i]
    mean_length = mean_length + w[i] * g[i][i] ^ 0.5
  end
  T.near(sum, 1, 1e-14, msg)
  T.ok(info.converged, msg)
  local n2 = norm2(vectors, w)
  T.ok(math.abs(n2 - info.norm2) <= tol * mean_length ^ 2 + 1e-300, msg)
  for i = 1, #w do
    local gw = dot(g[i], w)
    T.ok(gw >= n2 - tol * (g[i][i] ^ 0.5 + mean_length) * mean_length,
      ("%s: gradient %d is %g, norm2 %g"):format(msg, i, gw, n2))
  end
end

local function random_vectors(r, n, dim)
  local vectors = {}
  for i = 1, n do
    vectors[i] = {}
    for k = 1, dim do
      vectors[i][k] = r:normal()
    end
  end
  return vectors
end

T.test("two: the corners", function()
  local two = minnorm.two
  T.eq({ two(4, 0, 0) }, { 1.0, "zero" }, "vbar = 0: the constraint holds, plain PPO")
  T.eq({ two(0, 0, 0) }, { 1.0, "zero" })
  T.eq({ two(0, 0, 9) }, { 1.0, "zero" })
  T.eq({ two(1, 2, 9) }, { 1.0, "c1" })
  T.eq({ two(1, 1, 9) }, { 1.0, "c1" }, "v.vbar = v.v")
  T.eq({ two(9, 2, 1) }, { 0.0, "c0" })
  T.eq({ two(9, 1, 1) }, { 0.0, "c0" }, "v.vbar = vbar.vbar")
  T.eq({ two(1, 1, 1) }, { 1.0, "c1" }, "v = vbar")
  T.eq({ two(1, 0, 1) }, { 0.5, "interior" })
  T.eq({ two(1, -3, 9) }, { 0.75, "interior" }, "opposed: the combination is zero")
  T.eq({ two(1e308, -1e308, 1e308) }, { 0.5, "interior" }, "no overflow")
  T.eq({ two(5e-324, -5e-324, 5e-324) }, { 0.5, "interior" }, "no underflow")
end)

T.test("two: grid search and solve", function()
  local r = rng.new(1, "minnorm two")
  for trial = 1, 300 do
    local dim = r:integer(1, 4)
    local v = random_vectors(r, 2, dim)
    if trial % 3 == 0 then -- nearly parallel, so that both ends are optimal often
      for k = 1, dim do
        v[2][k] = v[1][k] * r:uniform() * 2 + 0.1 * v[2][k]
      end
    end
    local vv, vw, ww = dot(v[1], v[1]), dot(v[1], v[2]), dot(v[2], v[2])
    local c, case = minnorm.two(vv, vw, ww)
    local best, at = math.huge, nil
    for i = 0, 2000 do
      local x = norm2(v, { i / 2000, 1 - i / 2000 })
      if x < best then
        best, at = x, i / 2000
      end
    end
    T.ok(norm2(v, { c, 1 - c }) <= best + 1e-14 * (vv + ww))
    T.ok(math.abs(c - at) <= 0.5001 / 2000, "c against the grid")
    T.eq(case, c == 1 and "c1" or c == 0 and "c0" or "interior")
    local w = minnorm.solve { { vv, vw }, { vw, ww } }
    T.near(w[1], c, 1e-9, "closed form against the general solver")
  end
end)

T.test("two: sums that cannot be", function()
  T.raises("not finite", minnorm.two, 0 / 0, 0, 1)
  T.raises("not finite", minnorm.two, 1, math.huge, 1)
  T.raises("cannot be negative", minnorm.two, -1, 0, 1)
  T.raises("beyond |v| |vbar| = 2", minnorm.two, 1, 4, 4)
  T.raises("number expected", minnorm.two, 1, 2)
end)

T.test("solve: a fine grid for three vectors", function()
  local r = rng.new(2, "minnorm grid")
  for _ = 1, 20 do
    local v = random_vectors(r, 3, 3)
    local w, info = minnorm.solve(gram(v))
    check(v, w, info, 1e-12, "three")
    local best, n = math.huge, 100
    for i = 0, n do
      for j = 0, n - i do
        best = math.min(best, norm2(v, { i / n, j / n, (n - i - j) / n }))
      end
    end
    T.ok(info.norm2 <= best + 1e-14)
    T.ok(info.norm2 >= best - 0.01 * 6 ^ 2, "not below what the grid can miss")
  end
end)

T.test("solve: all faces of the simplex, up to six vectors", function()
  local r = rng.new(3, "minnorm faces")
  for trial = 1, 400 do
    local n, dim = r:integer(1, 6), r:integer(1, 7)
    local v = random_vectors(r, n, dim)
    if trial % 4 == 0 then -- a common direction, so that the optimum is not zero
      for i = 1, n do
        v[i][1] = v[i][1] + 2
      end
    end
    local w, info = minnorm.solve(gram(v))
    check(v, w, info, 1e-12, "trial " .. trial)
    T.near(info.norm2, brute_force(v), 1e-11, "trial " .. trial)
    T.ok(info.gap >= 0 and info.norm2 - info.gap <= brute_force(v) + 1e-12, "the gap is a bound")
  end
end)

T.test("solve: duplicates, zeros, opposed, rank-deficient", function()
  local function solve(v)
    local w, info = minnorm.solve(gram(v))
    check(v, w, info, 1e-12, "degenerate")
    return w, info
  end
  local w, info = solve { { 3, 4 } }
  T.eq(w, { 1.0 })
  T.near(info.norm2, 25, 1e-15)
  w, info = solve { { 1, 0 }, { 1, 0 }, { 0, 1 }, { 0, 1 } }
  T.near(w[1] + w[2], 0.5, 1e-14)
  T.near(info.norm2, 0.5, 1e-14)
  w, info = solve { { 1, 2 }, { 0, 0 }, { 3, 1 } }
  T.eq(w, { 0.0, 1.0, 0.0 })
  T.eq(info.norm2, 0.0)
  T.eq(solve { { 0, 0 }, { 0, 0 } }, { 1.0, 0.0 }, "all zero: the first")
  w, info = solve { { 1, 2, 3 }, { -2, -4, -6 } }
  T.near(w, { 2 / 3, 1 / 3 }, 1e-14)
  T.near(info.norm2, 0, 1e-14)
  w, info = solve { { 1, 1 }, { 2, 2 }, { 3, 3 }, { 1, 1 } }
  T.near(info.norm2, 2, 1e-14)
  local r = rng.new(4, "minnorm rank")
  for trial = 1, 100 do -- 30 vectors in 2 to 5 dimensions, some of them equal
    local v = random_vectors(r, 30, 2 + trial % 4)
    for i = 1, 30 do
      v[i][1] = v[i][1] + trial % 7
    end
    for i = 21, 30 do
      v[i] = v[i - 20]
    end
    solve(v)
  end
end)

T.test("solve: lengths from 1e-12 to 1e12", function()
  local r = rng.new(5, "minnorm scale")
  for trial = 1, 200 do
    local n = r:integer(2, 6)
    local v = random_vectors(r, n, 8)
    for i = 1, n do
      local s = 10.0 ^ r:integer(-12, 12)
      for k = 1, 8 do
        v[i][k] = v[i][k] * s
      end
    end
    local w, info = minnorm.solve(gram(v))
    check(v, w, info, 1e-11, "trial " .. trial)
  end
  local w, info = minnorm.solve { { 1e8, 0 }, { 0, 1e-8 } }
  T.near(w[1] * 1e16, 1, 1e-12, "orthogonal: inverse squares")
  T.near(info.norm2 * 1e8, 1, 1e-12)
  w, info = minnorm.solve { { 1e24, 0 }, { 0, 1e-24 } }
  T.near(w[2], 1, 1e-15)
  T.near(info.norm2 * 1e24, 1, 1e-12)
end)

T.test("solve: a hundred vectors converge to 1e-12", function()
  local r = rng.new(6, "minnorm hundred")
  for _ = 1, 5 do
    local v = random_vectors(r, 100, 60)
    for i = 1, 100 do
      v[i][1] = v[i][1] + 1.5
    end
    local w, info = minnorm.solve(gram(v))
    check(v, w, info, 1e-12, "hundred")
    T.ok(info.iterations < 300, "iterations: " .. info.iterations)
  end
end)

T.test("solve: nearly dependent vectors", function()
  local r = rng.new(7, "minnorm near")
  for trial = 1, 200 do
    local n = r:integer(3, 8)
    local v = random_vectors(r, n, 6)
    local eps = 10.0 ^ r:integer(-14, -3)
    for i = 2, n do
      for k = 1, 6 do
        v[i][k] = v[1][k] + eps * v[i][k]
      end
    end
    local w, info = minnorm.solve(gram(v))
    T.ok(info.norm2 - info.gap <= norm2(v, w) + 1e-12)
    T.ok(info.gap <= 1e-10 * dot(v[1], v[1]), ("trial %d: gap %g"):format(trial, info.gap))
  end
end)

T.test("solve: running out of iterations is no error", function()
  local v = random_vectors(rng.new(8, "minnorm stop"), 40, 30)
  for i = 1, 40 do
    v[i][1] = v[i][1] + 3
  end
  local w, info = minnorm.solve(gram(v), { max_iterations = 1 })
  T.eq(info.converged, false)
  T.eq(info.iterations, 1)
  T.ok(info.gap > 0)
  local sum = 0
  for i = 1, #w do
    sum = sum + w[i]
  end
  T.near(sum, 1, 1e-14)
  local _, loose = minnorm.solve(gram(v), { tolerance = 0.5 })
  local _, tight = minnorm.solve(gram(v))
  T.ok(loose.iterations <= tight.iterations and loose.norm2 >= tight.norm2)
end)

T.test("solve: bad input is told", function()
  T.raises("between 1 and 4096 rows", minnorm.solve, {})
  T.raises("row 2 of the gram matrix has 1 entries, there are 2", minnorm.solve,
    { { 1, 0 }, { 0 } })
  T.raises("row 1 of the gram matrix is a number", minnorm.solve, { 1 })
  T.raises("entry %(1,2%) of the gram matrix is a boolean", minnorm.solve,
    { { 1, true }, { 0, 1 } })
  T.raises("entry %(2,1%) of the gram matrix is .*nan", minnorm.solve, { { 1, 0 }, { 0 / 0, 1 } })
  T.raises("not symmetric: entry %(1,2%) is 0.5, %(2,1%) is 0.25", minnorm.solve,
    { { 1, 0.5 }, { 0.25, 1 } })
  T.raises("entry %(2,2%) of the gram matrix is %-1", minnorm.solve, { { 1, 0 }, { 0, -1 } })
  T.raises("not a gram matrix", minnorm.solve, { { 1, 2 }, { 2, 1 } })
  T.raises("did you mean 'tolerance'", minnorm.solve, { { 1 } }, { tolerence = 1 })
  T.raises("max_iterations is 0", minnorm.solve, { { 1 } }, { max_iterations = 0 })
  T.raises("tolerance is 2", minnorm.solve, { { 1 } }, { tolerance = 2 })
  T.near(minnorm.solve({ { 1, 1e-12 }, { 0, 1 } })[1], 0.5, 1e-11, "asymmetry of rounding is fine")
end)

T.test("solve: no memory is told, and nothing is lost", function()
  local fail_after = require("mocl.tensor").fail_after
  fail_after(0)
  local ok, message = pcall(minnorm.solve, { { 1, 0 }, { 0, 1 } })
  fail_after(-1)
  T.ok(not ok and message:find("out of host memory: wanted %d+ bytes"), message)
  T.near(minnorm.solve { { 1, 0 }, { 0, 1 } }, { 0.5, 0.5 }, 1e-15)
end)
