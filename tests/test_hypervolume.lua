-- metrics.hypervolume and metrics.nondominated: against third-party cases, inclusion and exclusion, and slow definitions.
-- Literals marked moocore come from moocore 0.3.2 (moocore.hypervolume(points, ref=[0] * d, maximise=True)) on the lists below.

local T = require "t"
local metrics = require "mocl.metrics"
local rng = require "mocl.rng"

-- the C library's classic generator, the same in any language: integers in 0 .. 999
local function lcg(seed)
  local x = seed
  return function()
    x = (1103515245 * x + 12345) % (1 << 31)
    return (x >> 16) % 1000
  end
end

local function lcg_front(seed, n, d)
  local next, points = lcg(seed), {}
  for i = 1, n do
    points[i] = {}
    for k = 1, d do
      points[i][k] = next() / 1000
    end
  end
  return points
end

local function constant(d, value)
  local list = {}
  for k = 1, d do
    list[k] = value
  end
  return list
end

-- volume of a union of boxes [reference, p] by inclusion and exclusion over all subsets
local function inclusion_exclusion(points, reference)
  local n, d, sum = #points, #reference, 0
  for mask = 1, (1 << n) - 1 do
    local volume, sign = 1, -1
    for k = 1, d do
      local low = math.huge
      for i = 1, n do
        if mask >> (i - 1) & 1 == 1 then
          low = math.min(low, points[i][k] - reference[k])
        end
      end
      volume = volume * math.max(0, low)
    end
    for i = 1, n do
      if mask >> (i - 1) & 1 == 1 then
        sign = -sign
      end
    end
    sum = sum + sign * volume
  end
  return sum
end

-- fronts of a file of pagmo's: points, reference, answer. pagmo minimises.
local function pagmo_fronts(path)
  local f = assert(io.open(path))
  local fronts = {}
  for t = 1, f:read("n") do
    local d, n = f:read("n", "n")
    local front = { points = {}, reference = {} }
    for k = 1, d do
      front.reference[k] = f:read("n")
    end
    for i = 1, n do
      local p = {}
      for k = 1, d do
        p[k] = f:read("n")
      end
      front.points[i] = p
    end
    front.volume = f:read("n")
    fronts[t] = front
  end
  f:close()
  return fronts
end

local PAGMO = "conformance/hypervolume/pagmo2/testcases/"

-- without c_max_t1_d7_n64, whose answer is wrong
for _, name in ipairs {
  "c_max_t100_d2_n128", "c_max_t100_d3_n128", "c_max_t1_d3_n2048", "c_max_t1_d5_n1024",
} do
  T.test("hypervolume: pagmo " .. name, function()
    local fronts = pagmo_fronts(T.shared(PAGMO .. name))
    T.ok(#fronts >= 1)
    for t, front in ipairs(fronts) do
      local v, info = metrics.hypervolume(front.points, front.reference, { minimize = true })
      T.ok(math.abs(v - front.volume) <= 1e-9 * front.volume,
        ("front %d: got %.15g, want %.15g"):format(t, v, front.volume))
      T.eq(info.beyond, 0)
    end
  end)
end

T.test("hypervolume: moocore's values, 2 to 9 objectives", function()
  local want = {
    [2] = { 100, 0.9586210000000001 }, [3] = { 100, 0.803291746 },
    [4] = { 100, 0.7289456449129998 },
    [5] = { 80, 0.48126186460519194 }, [6] = { 60, 0.2807877371127843 },
    [7] = { 50, 0.1627146533779214 }, [8] = { 40, 0.05242136231160987 },
    [9] = { 30, 0.06057432264932757 },
  }
  for d = 2, 9 do
    local v = metrics.hypervolume(lcg_front(d, want[d][1], d), constant(d, 0))
    T.ok(math.abs(v - want[d][2]) <= 1e-12 * want[d][2], d .. " objectives")
  end
end)

T.test("hypervolume: inclusion and exclusion, coarse grids and ties", function()
  local r = rng.new(1, "hypervolume")
  for trial = 1, 240 do
    local d, n = 1 + trial % 9, r:integer(1, 8)
    local points, reference = {}, {}
    for k = 1, d do
      reference[k] = r:integer(-1, 1)
    end
    for i = 1, n do
      points[i] = {}
      for k = 1, d do
        points[i][k] = trial % 2 == 0 and r:integer(0, 3) or r:uniform() * 3
      end
    end
    local want = inclusion_exclusion(points, reference)
    local got = metrics.hypervolume(points, reference)
    T.ok(math.abs(got - want) <= 1e-12 * math.max(want, 1),
      ("trial %d, %d points, %d objectives: got %.15g, want %.15g"):format(trial, n, d, got, want))
  end
end)

-- volume that a list of points dominates above 0, by what each adds to those before it: its own box less that of the others cut
-- down to it. Points that another covers are taken out first, so that it takes some dozens.
local function by_limit_sets(points, d)
  local kept = {}
  for i, p in ipairs(points) do
    local covered = false
    for j, q in ipairs(points) do
      local as_good, equal = true, true
      for k = 1, d do
        as_good, equal = as_good and q[k] >= p[k], equal and q[k] == p[k]
      end
      covered = covered or as_good and i ~= j and (not equal or j < i)
    end
    kept[#kept + 1] = not covered and p or nil
  end
  local volume = 0
  for i, p in ipairs(kept) do
    local box, limited = 1, {}
    for k = 1, d do
      box = box * p[k]
    end
    for j = 1, i - 1 do
      local q = {}
      for k = 1, d do
        q[k] = math.min(p[k], kept[j][k])
      end
      limited[j] = q
    end
    volume = volume + box - (i > 1 and by_limit_sets(limited, d) or 0)
  end
  return volume, #kept
end

T.test("hypervolume: 3 to 10 objectives against limit sets, with ties, copies, dominated points and flat objectives", function()
  local r = rng.new(11, "limit sets")
  for trial = 1, 40 do
    local d, kind, n = 3 + trial % 8, trial // 8 % 4, nil
    n = (d <= 5 and 36 or d <= 7 and 24 or 16) + (kind == 0 and 20 or 0)
    local points = {}
    for i = 1, n do
      local p, square = {}, 0
      for k = 1, d do
        p[k] = kind == 0 and r:integer(1, 3) or kind == 1 and r:uniform() or math.abs(r:normal())
        square = square + p[k] ^ 2
      end
      for k = 1, d do
        p[k] = kind == 2 and p[k] / square ^ .5 or kind == 3 and 1.001 - p[k] / square ^ .5 or p[k]
      end
      points[i] = i > 4 and i % 7 == 0 and points[i - r:integer(1, 3)] or p -- copies
      if trial % 5 == 0 then
        points[i][trial % d + 1] = .5
      end
    end
    local want, kept = by_limit_sets(points, d)
    local got, info = metrics.hypervolume(points, constant(d, 0))
    T.near(got / want, 1, 1e-12, ("trial %d, %d objectives"):format(trial, d))
    T.eq(info.front, kept, ("trial %d, %d objectives"):format(trial, d))
    for _ = 1, 3 do
      T.eq(metrics.hypervolume(r:shuffle(points), constant(d, 0)), got, "the same bits in any order")
    end
  end
end)

-- `groups` pairs of objectives, each traded by its own n points while all else is 1: what is left undominated is the product of
-- what the pairs leave, and there are about n ^ groups zones
local function separate(groups, n, last)
  local points, staircase = {}, 0
  for i = 1, n do
    staircase = staircase + 1 / (n + 1) * (1 - i / (n + 1))
  end
  for g = 1, groups do
    for i = 1, n do
      local p = constant(2 * groups + 1, 1)
      p[2 * g - 1], p[2 * g], p[2 * groups + 1] = i / (n + 1), 1 - i / (n + 1), last
      points[#points + 1] = p
    end
  end
  return points, last * (1 - (1 - staircase) ^ groups)
end

T.test("hypervolume: zones by the thousand, and more than there is room for", function()
  for _, case in ipairs { { 2, 60 }, { 3, 20 }, { 3, 103 } } do -- the last has 104 ^ 3 of them
    local points, want = separate(case[1], case[2], 1.5)
    local got, info = metrics.hypervolume(points, constant(#points[1], 0))
    T.near(got / want, 1, 1e-12, case[2] .. " points of a pair")
    T.eq(info.front, #points)
  end
end)

T.test("hypervolume: dominated points change no bit, whether few or many", function()
  local r = rng.new(12, "dominated")
  for d = 3, 6 do
    local front, points = {}, {}
    for i = 1, 60 do
      front[i] = r:dirichlet(d)
      points[i] = front[i]
    end
    local want, first = metrics.hypervolume(front, constant(d, 0))
    for _, n in ipairs { 300, 3000 } do
      for i = 61, n do
        points[i] = {}
        for k = 1, d do
          points[i][k] = points[i % 60 + 1][k] * (1 - i % 3 / 4)
        end
      end
      local got, info = metrics.hypervolume(r:shuffle(table.move(points, 1, n, 1, {})), constant(d, 0))
      T.eq({ got, info.front }, { want, first.front }, ("%d objectives, %d points"):format(d, n))
    end
  end
end)

T.test("hypervolume: numbers that differ in their last bits only are told apart", function()
  local r = rng.new(13, "bits")
  for d = 3, 5 do
    local points, n = {}, 200
    for i = 1, n do
      points[i] = constant(d, 1)
      points[i][1], points[i][2] = 1 + i * 2.0 ^ -52, 1 + (n - i) * 2.0 ^ -52
    end
    points[n + 1] = constant(d, 4) -- so that the others have their leading bits in common
    points[n + 1][1] = 2.0 ^ -300
    local _, info = metrics.hypervolume(r:shuffle(points), constant(d, 0))
    T.eq(info.front, n + 1)
    local above = constant(d, 0) -- seen from 1 they are whole numbers
    above[1], above[2] = 1, 1
    local ulps = metrics.hypervolume(points, above) * 2.0 ^ 104
    T.eq(ulps, n * (n - 1) / 2)
  end
end)

T.test("hypervolume: order, direction, copies and scale do not matter", function()
  local r = rng.new(2, "invariance")
  for d = 2, 7 do
    local points, negated, scaled, twice = {}, {}, {}, {}
    for i = 1, 25 do
      points[i], negated[i], scaled[i] = {}, {}, {}
      for k = 1, d do
        points[i][k] = r:uniform()
        negated[i][k] = -points[i][k]
        scaled[i][k] = points[i][k] * 10.0 ^ (40 * k)
      end
      twice[i], twice[i + 25] = points[i], points[i]
    end
    local v = metrics.hypervolume(points, constant(d, -0.5))
    T.near(metrics.hypervolume(negated, constant(d, 0.5), { minimize = true }) / v, 1, 1e-14)
    local copies, info = metrics.hypervolume(twice, constant(d, -0.5))
    T.near(copies / v, 1, 1e-14)
    T.ok(info.front <= 25)
    T.near(metrics.hypervolume(r:shuffle(points), constant(d, -0.5)) / v, 1, 1e-14)
    if d <= 3 then
      local u = metrics.hypervolume(points, constant(d, 0))
      T.near(metrics.hypervolume(scaled, constant(d, 0)) / u / 10.0 ^ (20 * d * (d + 1)), 1, 1e-12)
    end
  end
  T.near(metrics.hypervolume({ constant(9, 1e-30) }, constant(9, 0)) / 1e-270, 1, 1e-12)
end)

T.test("hypervolume: the reference, and what lies beyond it", function()
  local v, info = metrics.hypervolume({ { 1, 3 }, { 2, 2 }, { 3, 1 } }, { 0, 0 })
  T.eq({ v, info.beyond, info.front }, { 6.0, 0, 3 })
  v, info = metrics.hypervolume({ { 1, 3 }, { 2, -1 }, { -5, 9 }, { 0.5, 0.5 } }, { 0, 0 })
  T.eq({ v, info.beyond, info.front }, { 3.0, 2, 1 })
  v, info = metrics.hypervolume({ { 0, 3 }, { 0, 0 } }, { 0, 0 })
  T.eq({ v, info.beyond, info.front }, { 0.0, 0, 0 }, "on its edge: no volume, not beyond")
  v, info = metrics.hypervolume({}, { 0, 0, 0 })
  T.eq({ v, info.beyond, info.front }, { 0.0, 0, 0 })
  T.eq(metrics.hypervolume({ { 4 }, { 7 } }, { 2 }), 5.0)
end)

T.test("hypervolume: the leaves of fruit-tree", function()
  local path = T.shared("fruit-tree/fruit_tree_d6.csv")
  local points = {}
  for line in io.lines(path) do
    local p = {}
    for x in line:gmatch("[^,%s]+") do
      p[#p + 1] = tonumber(x)
    end
    points[#points + 1] = #p == 6 and p or nil
  end
  T.eq(#points, 64)
  local v, info = metrics.hypervolume(points, constant(6, 0))
  T.near(v, 12575.8733, 1e-3 / 12575)
  T.eq(info.beyond, 0)
  T.eq(#metrics.nondominated(points), 64)
end)

T.test("hypervolume: a hundred points in nine objectives", function()
  local r = rng.new(3, "nine")
  local points, best = {}, 0
  for i = 1, 100 do
    points[i] = r:dirichlet(9)
    local box = 1.0
    for k = 1, 9 do
      box = box * points[i][k]
    end
    best = math.max(best, box)
  end
  local v, info = metrics.hypervolume(points, constant(9, 0))
  -- the simplex dominates 1 / 9! of the unit cube: a bound from above; the best box one from below
  T.ok(best < v and v < 1 / 362880, v)
  T.eq(info.front, 100)
end)

T.test("hypervolume: the case that upstream has wrong", function()
  -- moocore 0.3.2; the file says 4.43511924117e+18
  local front = pagmo_fronts(T.shared(PAGMO .. "c_max_t1_d7_n64"))[1]
  local v = metrics.hypervolume(front.points, front.reference, { minimize = true })
  T.near(v / 4.4361378971384934e+18, 1, 1e-13)
end)

T.test("hypervolume: mistakes are told", function()
  local hv = metrics.hypervolume
  T.raises("point 2, objective 1 is .*nan", hv, { { 1, 2 }, { 0 / 0, 1 } }, { 0, 0 })
  T.raises("point 1, objective 2 is inf", hv, { { 1, math.huge } }, { 0, 0 })
  T.raises("reference 2 is .*nan", hv, { { 1, 2 } }, { 0, 0 / 0 })
  T.raises("point 2 has 3 objectives, 2 expected", hv, { { 1, 2 }, { 1, 2, 3 } }, { 0, 0 })
  T.raises("point 1 is a number", hv, { 1 }, { 0 })
  T.raises("entry 2 is a boolean", hv, { { 1, true } }, { 0, 0 })
  T.raises("between 1 and 64", hv, { { 1 } }, {})
  T.raises("did you mean 'minimize'", hv, { { 1 } }, { 0 }, { minimise = true })
  T.eq(hv({ { 1, 2 }, { 2, 0 } }, { 0, 0 }, { strict = true }), 2.0) -- one on the edge is not beyond
  T.raises("in objective 2 the reference 0.5 is better than point 2, 0,", hv, { { 1, 2 }, { 2, 0 } }, { 0, .5 }, { strict = true })
  T.raises("in objective 1 the reference 1 is better than point 1, 2,", hv, { { 2, 0 } }, { 1, 1 }, { strict = true, minimize = true })
  T.raises("too far", hv, { { 1e308 } }, { -1e308 })
end)

T.test("nondominated: against the definition", function()
  local r = rng.new(4, "nondominated")
  for trial = 1, 200 do
    local d, n = 1 + trial % 5, r:integer(1, 40)
    local points = {}
    for i = 1, n do
      points[i] = {}
      for k = 1, d do
        points[i][k] = trial % 2 == 0 and r:integer(0, 5) or r:normal()
      end
    end
    for _, sign in ipairs { 1, -1 } do
      local want = {}
      for i = 1, n do
        local dominated = false
        for j = 1, n do
          local no_worse, better = true, false
          for k = 1, d do
            local gain = sign * (points[j][k] - points[i][k])
            no_worse, better = no_worse and gain >= 0, better or gain > 0
          end
          dominated = dominated or (no_worse and better)
        end
        if not dominated then
          want[#want + 1] = i
        end
      end
      T.eq(metrics.nondominated(points, { minimize = sign < 0 }), want)
    end
  end
  T.eq(metrics.nondominated {}, {})
  T.eq(metrics.nondominated { { 0.0, 1 }, { -0.0, 1 } }, { 1, 2 }, "copies both stay")
end)

T.test("nondominated: 200,000 points in the plane", function()
  local r = rng.new(5, "many")
  local points = {}
  for i = 1, 200000 do
    local x = r:uniform()
    points[i] = { x, i % 2 == 0 and 1 - x or r:uniform() * (1 - x) }
  end
  local list = metrics.nondominated(points)
  T.ok(#list >= 100000 - 100, "the line x + y = 1: " .. #list)
end)

T.test("three objectives: large sets against slow definitions, with ties, copies and flat objectives", function()
  local r = rng.new(9, "three")
  for trial = 1, 24 do
    local d, n, points = trial <= 16 and 3 or 4, trial % 8 == 0 and 700 or 150, {}
    local kind = trial % 4
    for i = 1, n do
      local p, square = {}, 0
      for k = 1, d do
        p[k] = kind == 0 and r:integer(1, 4) / 4 or kind == 1 and r:uniform() or math.abs(r:normal())
        square = square + p[k] ^ 2
      end
      for k = 1, d do
        p[k] = kind >= 2 and p[k] / square ^ .5 or p[k]
      end
      points[i] = kind == 3 and i > 20 and points[r:integer(1, i - 1)] or p -- copies
      if trial % 5 == 0 then
        points[i][1] = .5
      end
    end
    local want = {}
    for i, q in ipairs(points) do
      local dominated = false
      for _, p in ipairs(points) do
        local as_good, better = true, false
        for k = 1, d do
          as_good, better = as_good and p[k] >= q[k], better or p[k] > q[k]
        end
        dominated = dominated or as_good and better
      end
      want[#want + 1] = not dominated and i or nil
    end
    T.eq(metrics.nondominated(points), want, "trial " .. trial)
    -- volume: slices between neighbouring values of the last objective, each of one objective less
    local levels, volume = {}, 0
    for i, p in ipairs(points) do
      levels[i] = p[d]
    end
    table.sort(levels)
    for i, level in ipairs(levels) do
      local below = i > 1 and levels[i - 1] or 0
      if level > below and (d == 3 or n < 200) then
        local slice = {}
        for _, p in ipairs(points) do
          slice[#slice + 1] = p[d] >= level and { table.unpack(p, 1, d - 1) } or nil
        end
        volume = volume + (level - below) * metrics.hypervolume(slice, constant(d - 1, 0))
      end
    end
    if d == 3 or n < 200 then
      local got, info = metrics.hypervolume(points, constant(d, 0))
      T.near(got / volume, 1, 1e-12, "trial " .. trial)
      local distinct, seen = 0, {}
      for _, i in ipairs(want) do
        local key = table.concat(points[i], " ")
        distinct = distinct + (seen[key] and 0 or 1)
        seen[key] = true
      end
      T.eq(info.front, distinct)
    end
  end
end)

T.test("40,000 points on a sphere in three objectives: no square of their number", function()
  local r, points = rng.new(10, "sphere"), {}
  for i = 1, 40000 do
    local x, y, z = math.abs(r:normal()), math.abs(r:normal()), math.abs(r:normal())
    local length = (x * x + y * y + z * z) ^ .5
    points[i] = { x / length, y / length, z / length }
  end
  local volume, info = metrics.hypervolume(points, { 0, 0, 0 })
  T.ok(volume > .50 and volume < math.pi / 6, volume) -- an eighth of the ball
  T.ok(info.front > 39990)
  T.eq(#metrics.nondominated(points), info.front)
end)

T.test("no memory is told, and nothing is lost", function()
  local fail_after = require("mocl.tensor").fail_after
  local points, three, nine = lcg_front(5, 30, 5), lcg_front(6, 90, 3), lcg_front(7, 40, 9)
  local many = { constant(5, 0) } -- most of them are dominated; the rest have more zones than there is room for at first
  for i, p in ipairs(lcg_front(8, 2100, 5)) do
    many[i] = p
  end
  for name, f in pairs {
    ["in 3"] = function() return metrics.hypervolume(three, constant(3, 0)) end,
    ["in 5"] = function() return metrics.hypervolume(points, constant(5, 0)) end,
    ["in 5, many"] = function() return metrics.hypervolume(many, constant(5, 0)) end,
    ["in 9"] = function() return metrics.hypervolume(nine, constant(9, 0)) end,
    nondominated = function() return metrics.nondominated(points) end,
    kendall_tau = function() return metrics.kendall_tau({ 1, 2, 3 }, { 2, 1, 3 }) end,
  } do
    local ok, message
    for n = 0, 2000 do
      fail_after(n)
      ok, message = pcall(f)
      fail_after(-1)
      if ok then
        T.ok(n > 0, name .. ": at least one allocation was refused")
        break
      end
      T.ok(message:find("out of host memory: wanted %d+ bytes"), name .. ": " .. message)
    end
    T.ok(ok, name)
  end
end)
