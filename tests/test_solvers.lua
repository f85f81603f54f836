-- mocl.method.solvers: exact answers, TorchJD's, the optimality conditions, invariances, refusals

local T = require "t"
local json = require "mocl.json"
local rng = require "mocl.rng"
local solvers = require "mocl.method.solvers"

local function norm(a)
  local s = 0
  for i = 1, #a do
    s = s + a[i] ^ 2
  end
  return s ^ 0.5
end

local function sub(a, b)
  local d = {}
  for i = 1, #a do
    d[i] = a[i] - b[i]
  end
  return d
end

local function step_of(name, J, o)
  local _, info = solvers.solve(name, J, o)
  return info.step
end

local function rows_size(J)
  local s = 0
  for i = 1, #J do
    s = s + norm(J[i])
  end
  return s
end

-- |got - want| within tol of the length; a step of no length within tol of the shortest row's rounding
local function close(got, want, tol, msg, J)
  local room = math.max(tol * norm(want), norm(want) == 0 and 1e-14 * rows_size(J) or 0)
  T.ok(norm(sub(got, want)) <= room, ("%s: off by %g of %g: got %s, want %s"):format(msg, norm(sub(got, want)), norm(want),
    T.show(got), T.show(want)))
end

local REG = { norm_eps = 1e-4, reg_eps = 1e-4 }

T.test("shared Jacobians: the exact steps within 1e-9 of their length", function()
  local path = T.shared "metrics/jacobians.json"
  local all, n = json.load(path), 0
  for name, t in pairs(all) do
    local J = t.jacobian
    if J then
      for _, m in ipairs { { "mgda", "minnorm" }, { "upgrad", "upgrad" }, { "dualproj", "dualproj" }, { "nashmtl", "nash" },
        { "cagrad", "cagrad c=0.5, norm_eps=0" }, { "upgrad", "upgrad, reg_eps=1e-4 of the trace", REG },
        { "dualproj", "dualproj, reg_eps=1e-4 of the trace", REG } } do
        local want = t.exact[m[2]]
        if type(want) == "table" then
          close(step_of(m[1], J, m[3]), want.step, 1e-9, name .. " " .. m[2], J)
          n = n + 1
        end
      end
    end
  end
  T.ok(n >= 70, n)
end)

T.test("Nash-MTL where rows cancel but for rounding: no step, and said", function()
  -- advantages of six objectives of three episodes, less their mean, in a float of 32 bits, one column a step
  local columns = {
    { 42, 0.037701871246099472, -1.7929215431213379, -1.1980717182159424, 0.28902360796928406, 0.32851004600524902, 1.5220428705215454 },
    { 72, 0.049180980771780014, 0.92874336242675781, 0.85941451787948608, -0.25108608603477478, -0.26595222949981689, -0.8147585391998291 },
    { 6, -0.85408759117126465, 1.405530571937561, -1.9264726638793945, 0.98986786603927612, 0.89185690879821777, -0.87719905376434326 },
  }
  local J = { {}, {}, {}, {}, {}, {} }
  for _, c in ipairs(columns) do
    for _ = 1, c[1] do
      for j = 1, 6 do
        table.insert(J[j], c[j + 1])
      end
    end
  end
  local p = { 0.21302686779807, 0.015162078866745, 0.026453866946117, 0.41399475503284, 0.10558555383572, 0.22577687752051 }
  local w, info = solvers.solve("nashmtl", J, { preference = p })
  T.eq({ w, info.degenerate, info.norm }, { { 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 }, "stationary", 0.0 })
end)

T.test("UPGrad and DualProj where rows depend on each other but for a float of 32 bits", function()
  -- six rows of three columns that sum to 0 but for rounding: they span a plane and cancel in it
  local columns = {
    { 72, -0.76386725902557373, 0.45687383413314819, 0.50048369169235229, 0.29354342818260193, -0.035840339958667755, -0.32052299380302429 },
    { 24, 1.6145597696304321, -2.3665404319763184, -0.36784982681274414, -0.80870592594146729, -0.24235662817955017, 1.7419180870056152 },
    { 24, 0.67704188823699951, 0.99591928720474243, -1.1336010694503784, -0.071924366056919098, 0.34987711906433105, -0.78035026788711548 },
  }
  local J = {}
  for j = 1, 6 do
    J[j] = {}
    for k, c in ipairs(columns) do
      J[j][k] = c[j + 1] * c[1] ^ 0.5
    end
  end
  for _, name in ipairs { "upgrad", "dualproj" } do
    local p = { 0.09631580845387, 0.76901434199986, 0.0021159014899521, 0.030544805666926, 0.056816824212909, 0.04519231817648 }
    local _, info = solvers.solve(name, J, { preference = p })
    T.ok(info.norm <= 1e-6 * info.mean_norm, ("%s: %g of %g"):format(name, info.norm, info.mean_norm))
  end
  local r = rng.new(5, "planes")
  for k = 1, 200 do -- of any rank: no slope is negative by more than the rounding that the rows have
    local n, rank, base = r:integer(2, 6), r:integer(1, 3), {}
    for b = 1, rank do
      base[b] = {}
      for t = 1, 12 do
        base[b][t] = r:normal()
      end
    end
    local rows, terms = {}, 0
    for j = 1, n do
      rows[j] = {}
      for t = 1, 12 do
        rows[j][t] = 0
      end
      for b = 1, rank do
        local x = r:normal()
        for t = 1, 12 do
          rows[j][t] = rows[j][t] + x * base[b][t]
        end
      end
      for t = 1, 12 do
        rows[j][t] = string.unpack("f", string.pack("f", rows[j][t]))
      end
    end
    for _, name in ipairs { "upgrad", "dualproj" } do
      local w, info = solvers.solve(name, rows, { preference = r:dirichlet(n) })
      terms = 0
      for j = 1, n do
        terms = terms + math.abs(w[j]) * norm(rows[j])
      end
      for j, slope in ipairs(info.slopes) do
        T.ok(slope >= -1e-6 * terms * norm(rows[j]), ("%s, case %d: %g of %g"):format(name, k, slope, terms * norm(rows[j])))
      end
    end
  end
end)

T.test("shared Jacobians: TorchJD's steps within 1e-6 where it converges, with its thresholds as options", function()
  local all, n = json.load(T.shared "metrics/jacobians.json"), 0
  local far = { mgda = "orthogonal parallel four six", cagrad = "four near_parallel five_scales zero_row",
    nashmtl = "five_scales opposite2 zero_row", alignedmtl = "", config = "opposite2", upgrad = "", dualproj = "", imtlg = "" }
  for name, t in pairs(all) do
    if t.jacobian then
      local cut = { rtol = #t.jacobian * 2.0 ^ -52 }
      for _, m in ipairs { { "mgda", "MGDA" }, { "upgrad", "UPGrad", REG }, { "dualproj", "DualProj", REG },
        { "cagrad", "CAGrad c=0.5" }, { "imtlg", "IMTLG", cut }, { "alignedmtl", "AlignedMTL", cut },
        { "alignedmtl", "AlignedMTL median", { scale_mode = "median", rtol = cut.rtol } },
        { "alignedmtl", "AlignedMTL rmse", { scale_mode = "rmse", rtol = cut.rtol } }, { "config", "ConFIG" },
        { "nashmtl", "NashMTL", { max_norm = 1 } }, { "nashmtl", "FairGrad alpha=1" } } do
        if not (" " .. far[m[1]] .. " "):find(" " .. name .. " ", 1, true) then
          local want = t["torchjd float64"][m[2]]
          local got = step_of(m[1], t.jacobian, m[3])
          T.ok(norm(sub(got, want)) <= math.max(1e-6 * norm(want), 1e-14 * rows_size(t.jacobian)),
            ("%s %s: got %s, want %s"):format(name, m[2], T.show(got), T.show(want)))
          n = n + 1
        end
      end
    end
  end
  T.ok(n > 110, n)
end)

T.test("shared Jacobians: every step that PCGrad can take", function()
  local all = json.load(T.shared "metrics/jacobians.json")
  for name, t in pairs(all) do
    local J = t.jacobian
    if J then
      -- the step of torch.manual_seed(0) is a sum of one choice per row; with two rows there is one step
      if #J == 2 then
        close(step_of("pcgrad", J), t["PCGrad, torch.manual_seed(0)"], 1e-9, name, J)
      else
        -- row i alone: the difference of two steps whose orders differ for row i only is a difference of listed ones
        local r, listed = rng.new(1, name), t["PCGrad: steps that row i can become, by order"]
        for i = 1, #J do
          if type(listed[i][#listed[i]]) ~= "string" then
            local base, other = {}, {}
            for k = 1, #J do
              base[k] = r:shuffle(table.move({ 1, 2, 3, 4, 5, 6 }, 1, #J, 1, {}))
              other[k] = base[k]
            end
            other[i] = r:shuffle(table.move(base[i], 1, #J, 1, {}))
            local d = sub(step_of("pcgrad", J, { order = base }), step_of("pcgrad", J, { order = other }))
            local best = math.huge
            for _, x in ipairs(listed[i]) do
              for _, y in ipairs(listed[i]) do
                best = math.min(best, norm(sub(d, sub(x, y))))
              end
            end
            T.ok(best <= 1e-9 * rows_size(J), name .. " row " .. i .. " " .. best)
          end
        end
      end
    end
  end
end)

-- ---- known answers ----

T.test("known answers: two rows (-4, 1, 1), (6, 1, 1)", function()
  local J = { { -4, 1, 1 }, { 6, 1, 1 } }
  T.near(step_of("mean", J), { 1, 1, 1 }, 1e-15)
  T.near(step_of("mgda", J), { 0, 1, 1 }, 1e-15)
  T.near((solvers.solve("upgrad", J)), { 10 / 9, 15 / 19 }, 1e-14)
  T.near((solvers.solve("dualproj", J)), { 11 / 18, 1 / 2 }, 1e-14)
  T.near(step_of("pcgrad", J), { 100 / 171, 650 / 171, 650 / 171 }, 1e-14)
  -- one root of the first row's slope 0: |v| = .5 |g0|, v along the first row
  T.near((solvers.solve("cagrad", J)), { 0.5 + 0.5 * (3 / 18) ^ 0.5, 0.5 }, 1e-14)
  T.near((solvers.solve("cagrad", J, { c = 0 })), { 0.5, 0.5 }, 0)
  local w = solvers.solve("imtlg", J)
  local a, b = 18 ^ 0.5, 38 ^ 0.5
  local u1, u2 = (18 * w[1] - 22 * w[2]) / a, (-22 * w[1] + 38 * w[2]) / b
  T.near({ w[1] + w[2], u1 }, { 1, u2 }, 1e-14)
  T.eq((solvers.solve("pama", J, { values = { 1, 3 } })), { 1.0, 0.0 })
  T.near((solvers.solve("pama", J, { values = { -1, 3 } })), { 0.75, 0.25 }, 1e-15)
  T.near((solvers.solve("pama", { { 1 }, { 1 }, { 1 } }, { values = { 2, 2, 5 } })), { 0.5, 0.5, 0 }, 0)
  T.near((solvers.solve("pama", J, { values = { -2, -1 } })), { 0, 1 }, 0)
  local e = math.exp(0.5)
  T.near((solvers.solve("stch", J, { values = { 2, 1 } })), { e / (1 + e) / 2, 1 / (1 + e) / 2 }, 1e-15)
  T.near((solvers.solve("stch", J, { values = { 2, 1 }, ideal = { 1, 1 }, preference = { .25, .75 }, mu = 1e-4 })), { .25, 0 }, 1e-15)
end)

T.test("orthogonal rows have closed forms", function()
  local J = { { 1, 0, 0 }, { 0, 2, 0 }, { 0, 0, 4 } }
  local q = 1 + 1 / 4 + 1 / 16
  for name, want in pairs { mgda = { 1 / q, 1 / 2 / q, 1 / 4 / q }, upgrad = { 1 / 3, 2 / 3, 4 / 3 }, dualproj = { 1 / 3, 2 / 3, 4 / 3 },
    nashmtl = { 1, 1, 1 }, imtlg = { 4 / 7, 4 / 7, 4 / 7 }, config = { 7 / 3, 7 / 3, 7 / 3 }, alignedmtl = { 1 / 3, 1 / 3, 1 / 3 } } do
    T.near(step_of(name, J), want, 1e-14, name)
  end
  T.near(step_of("pcgrad", J, { order = { 1, 2, 3 } }), { 1, 2, 4 }, 1e-15)
  T.near(step_of("alignedmtl", J, { scale_mode = "median" }), { 2 / 3, 2 / 3, 2 / 3 }, 1e-14)
  T.near(step_of("alignedmtl", J, { scale_mode = "rmse" }), { 7 ^ 0.5 / 3, 7 ^ 0.5 / 3, 7 ^ 0.5 / 3 }, 1e-14)
  T.near(step_of("nashmtl", J, { preference = { .5, .25, .25 } }), { 1.5 ^ 0.5, .75 ^ 0.5, .75 ^ 0.5 }, 1e-14)
  T.near(step_of("upgrad", J, { preference = { .5, .25, .25 } }), { .5, .5, 1 }, 1e-15)
end)

T.test("degenerate rows: opposite, parallel, zero, one alone, all zero", function()
  local opposite, zero = { { 1, 2 }, { -2, -4 } }, { { 1, 2, -1 }, { 0, 0, 0 }, { -2, 1, 1 } }
  for name, want in pairs { mgda = 0, upgrad = 0, dualproj = 0, pcgrad = 0, config = 0, nashmtl = 0, cagrad = -.25, imtlg = -5,
    alignedmtl = -.5, mean = -.5 } do
    T.near(step_of(name, opposite), { want, 2 * want }, 1e-14, name)
  end
  T.near(step_of("imtlg", { { 1, 2 }, { -1, -2 } }), { 0, 0 }, 0)
  -- (-1, 3, 0) times what the method makes of the two rows that are left
  for name, want in pairs { mgda = 0, cagrad = 0, upgrad = 7 / 18, dualproj = 1 / 3, imtlg = 1 / 2, config = 1, alignedmtl = 1 / 3 } do
    T.near(step_of(name, zero), { -want, 3 * want, 0 }, 1e-14, name)
  end
  local _, info = solvers.solve("nashmtl", zero)
  T.near({ info.norm, info.step[1] * -3 }, { 2 ^ 0.5, info.step[2] }, 1e-14)
  T.eq(info.degenerate, "a zero row")
  T.eq(select(2, solvers.solve("nashmtl", opposite)).degenerate, "stationary")
  for _, name in ipairs { "mean", "mgda", "upgrad", "dualproj", "pcgrad", "imtlg", "config", "alignedmtl" } do
    T.near(step_of(name, { { 3, -4 } }), { 3, -4 }, 1e-15, name)
    T.eq(step_of(name, { { 0, 0 }, { 0, 0 } }), { 0.0, 0.0 }, name)
  end
  T.near(step_of("cagrad", { { 3, -4 } }), { 4.5, -6 }, 1e-14)
  T.near(step_of("nashmtl", { { 3, -4 } }), { .6, -.8 }, 1e-14)
  T.eq(step_of("cagrad", { { 0, 0 }, { 0, 0 } }), { 0.0, 0.0 })
  T.eq(step_of("nashmtl", { { 0, 0 }, { 0, 0 } }), { 0.0, 0.0 })
  -- copies of a row: the dual cone is the same, and so are projections of the mean
  local twice = { { 1, -1, 2 }, { 1, -1, 2 }, { -2, 1, 0 } }
  T.near(step_of("upgrad", twice), { -19 / 30, -.1, 5 / 3 }, 1e-14)
  T.near(step_of("mgda", twice), step_of("mgda", { twice[1], twice[3] }), 1e-14)
end)

T.test("rows that are opposite to rounding are stationary; rows that nearly are have their answer", function()
  local r = rng.new(1, "solvers opposite")
  for _ = 1, 50 do
    local a, b = {}, {}
    local factor = 1 + r:uniform()
    for k = 1, 5 do
      a[k] = r:normal()
      b[k] = -a[k] * factor
    end
    for _, name in ipairs { "upgrad", "dualproj", "mgda", "pcgrad", "nashmtl", "config" } do
      T.ok(norm(step_of(name, { a, b })) <= 1e-14 * norm(a), name)
    end
    for k = 1, 5 do
      b[k] = -a[k]
    end
    T.ok(norm(step_of("imtlg", { a, b })) <= 1e-14 * norm(a))
  end
  local near = { { 1, 1e-5 }, { -1, 1e-5 } }
  T.near(step_of("nashmtl", near), { 0, 2 ^ 0.5 }, 1e-5) -- equal weights, length the square root of 2
  T.near(step_of("upgrad", near)[2] / 1e-5, 2, 1e-4) -- each row ends on the other row's edge of the cone
  T.near(step_of("cagrad", near)[2] / 1e-5, 1.5, 1e-4)
  T.near(step_of("config", near)[2] / 2e-5, 1, 1e-4)
end)

T.test("rows that cancel but for 1e-8 of their length: the exact step 0 to rounding of its terms, 1e9", function()
  local J = { { 2000.0002365024, -999.99994940923, 999.99997378175 }, { 10.000142711757, -0.0001456976109665, 19.99997216998 },
    { 1999.9998832265, -1000.0000823886, 1000.000236508 }, { 1.0862234474819e-05, -100.00002166194, -100.00013538681 },
    { -99.999960066662, 200.00002165127, 199.99989213263 }, { 100.0000328147, -100.00009421972, -99.999930894629 } }
  local w, info = solvers.solve("upgrad", J)
  T.near(w[4] / 8383521.455584402, 1, 1e-6) -- fractions
  T.ok(norm(info.step) <= 1e-4, norm(info.step))
  T.eq(info.conflicts, {})
end)

-- ---- optimality conditions ----

-- rows with entries from -2 to 2, now and then a copy, an opposite, a zero row or another scale
local function random_rows(r, m, n, mixed)
  local J = {}
  for i = 1, m do
    J[i] = {}
    local kind = mixed and i > 1 and r:integer(1, 8) or 0
    local scale = mixed and 10.0 ^ r:integer(-3, 3) or 1.0
    for k = 1, n do
      J[i][k] = kind == 1 and J[1][k] or kind == 2 and -J[i - 1][k] * 2 or kind == 3 and 0.0 or scale * r:integer(-2, 2)
    end
  end
  return J
end

local function dot(a, b)
  local s = 0
  for k = 1, #a do
    s = s + a[k] * b[k]
  end
  return s
end

T.test("dual cone: no conflict, and what is added is orthogonal to the step; 2 to 12 objectives", function()
  local r = rng.new(1, "solvers cone")
  for case = 1, 120 do
    local m = case <= 100 and r:integer(2, 6) or r:integer(9, 12)
    local J = random_rows(r, m, r:integer(2, 9), case % 2 == 0)
    local w, info = solvers.solve("dualproj", J)
    local g0, size = step_of("mean", J), 0
    for i = 1, m do
      size = math.max(size, norm(J[i]))
    end
    for i = 1, m do
      T.ok(w[i] >= 1 / m, "weights are at least those of the mean")
      T.ok(dot(J[i], info.step) >= -1e-10 * norm(J[i]) * size, ("case %d row %d: %g"):format(case, i, dot(J[i], info.step)))
    end
    -- the projection d of g0 onto a cone: (d - g0).d = 0
    T.ok(math.abs(dot(sub(info.step, g0), info.step)) <= 1e-10 * size * size, "case " .. case)
    T.eq(info.conflicts, {})
    T.eq(#select(2, solvers.solve("upgrad", J)).conflicts, 0, "upgrad, case " .. case)
  end
end)

T.test("CAGrad: the least slope equals its bound from the dual; 2 to 10 objectives", function()
  local r = rng.new(1, "solvers cagrad")
  local seen = 0
  for case = 1, 150 do
    local m = case <= 130 and r:integer(2, 5) or r:integer(9, 10)
    local J, c = random_rows(r, m, r:integer(2, 8), case % 3 == 0), r:integer(1, 9) / 10
    local w, info = solvers.solve("cagrad", J, { c = c })
    if not info.degenerate and info.mean_norm > 1e-9 then
      seen = seen + 1
      local g0, size = step_of("mean", J), 0
      local v, least, sum = {}, math.huge, 0
      for i = 1, m do
        v[i], size = w[i] - 1 / m, math.max(size, norm(J[i]))
        T.ok(v[i] >= 0)
        sum = sum + v[i]
        least = math.min(least, dot(J[i], info.step))
      end
      T.near(norm(sub(info.step, g0)) / norm(g0), c, 1e-9, "the radius, case " .. case)
      local gw = sub(info.step, g0) -- sum times g_w
      local bound = (dot(gw, g0) + c * norm(g0) * norm(gw)) / sum
      T.ok(math.abs(bound - least) <= 1e-9 * size * norm(g0), ("case %d: bound %g, least slope %g"):format(case, bound, least))
    end
  end
  T.ok(seen > 90, seen)
end)

T.test("Nash, IMTL-G, ConFIG, AlignedMTL, min-norm: what defines each holds", function()
  local r = rng.new(1, "solvers rest")
  for case = 1, 60 do
    local m = r:integer(2, 6)
    local J = {}
    for i = 1, m do
      J[i] = {}
      for k = 1, m + 3 do
        J[i][k] = r:normal() * 10.0 ^ (case % 4 * (i - 2))
      end
    end
    local a, nash = solvers.solve("nashmtl", J)
    local w, imtl = solvers.solve("imtlg", J)
    local _, config = solvers.solve("config", J)
    local x, least = solvers.solve("mgda", J)
    local sum, along = 0, 0
    for i = 1, m do
      T.near(dot(J[i], nash.step) * a[i], 1, 1e-10, "nash")
      T.near(dot(J[i], imtl.step) / norm(J[i]) / imtl.norm, dot(J[1], imtl.step) / norm(J[1]) / imtl.norm, 1e-9, "imtlg")
      T.near(dot(J[i], config.step) / norm(J[i]) / config.norm, dot(J[1], config.step) / norm(J[1]) / config.norm, 1e-9, "config")
      T.ok(dot(J[i], least.step) >= least.norm ^ 2 - 1e-9 * least.norm * norm(J[i]) and x[i] >= 0, "mgda")
      sum, along = sum + w[i], along + dot(J[i], config.step) / config.norm
    end
    T.near(sum, 1, 1e-9)
    T.near(config.norm / along, 1, 1e-12)
    -- the aligned rows B J are orthogonal with one length: the mean of them with preferences e_1 and e_2
    local e1, e2 = {}, {}
    for i = 1, m do
      e1[i], e2[i] = i == 1 and 1 or 0, i == 2 and 1 or 0
    end
    local b1, b2 = step_of("alignedmtl", J, { preference = e1 }), step_of("alignedmtl", J, { preference = e2 })
    T.near(norm(b1) / norm(b2), 1, 1e-9, "alignedmtl")
    T.near(dot(b1, b2) / norm(b1) / norm(b2), 0, 1e-9, "alignedmtl")
  end
end)

-- ---- invariances, scales, inputs ----

local ALL = { "mean", "mgda", "upgrad", "dualproj", "cagrad", "nashmtl", "imtlg", "config", "alignedmtl", "pcgrad" }
local FOUR = { { 1, 0, 2, -1 }, { -1, 1, 0, 1 }, { 0, -2, 1, 0 }, { 2, 1, -1, 1 } }
local function options_of(name)
  return name == "pcgrad" and { order = { 1, 2, 3, 4 } } or nil
end

local function gram_of(J)
  local G = {}
  for i = 1, #J do
    G[i] = {}
    for j = 1, #J do
      G[i][j] = dot(J[i], J[j])
    end
  end
  return G
end

T.test("a Gram matrix gives the weights of its Jacobian; lengths from 1e-140 to 1e140 the same direction", function()
  for _, name in ipairs(ALL) do
    local w, info = solvers.solve(name, FOUR, options_of(name))
    local v, from_gram = solvers.solve(name, { gram = gram_of(FOUR) }, options_of(name))
    T.near(v, w, 1e-12, name)
    T.near({ from_gram.norm, from_gram.mean_norm }, { norm(info.step), norm(step_of("mean", FOUR)) }, 1e-12, name)
    T.eq(from_gram.step, nil)
    for i = 1, 4 do
      T.near(from_gram.slopes[i], dot(FOUR[i], info.step), 1e-12, name)
    end
    for _, factor in ipairs { 1e-140, 1e-3, 1e140 } do
      local J = {}
      for i = 1, 4 do
        J[i] = {}
        for k = 1, 4 do
          J[i][k] = FOUR[i][k] * factor
        end
      end
      local got = step_of(name, J, options_of(name))
      for k = 1, 4 do
        got[k] = got[k] / (name == "nashmtl" and 1 or factor) -- its length does not follow that of the rows
      end
      T.near(got, info.step, 1e-12, name .. " " .. factor)
    end
  end
end)

T.test("the order of objectives changes nothing but the order of weights", function()
  local p = { 3, 1, 4, 2 }
  local J = {}
  for i = 1, 4 do
    J[i] = FOUR[p[i]]
  end
  for _, name in ipairs(ALL) do
    local order
    if name == "pcgrad" then -- row p[i] is taken where row i was
      order = { order = { { 2, 4, 1, 3 }, { 2, 4, 1, 3 }, { 2, 4, 1, 3 }, { 2, 4, 1, 3 } } }
    end
    T.near(step_of(name, J, order), step_of(name, FOUR, options_of(name)), 1e-12, name)
  end
end)

T.test("scale = mean gives every method the mean gradient's length; unit 1; a step of none stays none", function()
  for _, name in ipairs(ALL) do
    local o = options_of(name) or {}
    local own = step_of(name, FOUR, o)
    for scale, want in pairs { mean = norm(step_of("mean", FOUR)), unit = 1 } do
      o.scale = scale
      local _, info = solvers.solve(name, FOUR, o)
      T.near({ norm(info.step), info.norm, dot(info.step, own) / norm(own) / want }, { want, want, 1 }, 1e-12, name)
      T.eq(info.scale, scale)
    end
  end
  T.near(step_of("upgrad", { { 1, 2 }, { -2, -4 } }, { scale = "mean" }), { 0, 0 }, 1e-14)
end)

T.test("conflicts names the objectives whose slope is negative", function()
  local J = { { -4, 1, 1 }, { 6, 1, 1 } }
  T.eq(solvers.conflicts(J, { 0.6, 0.4 }), {})
  local list = solvers.conflicts({ gram = gram_of(J) }, { 0.5, 0.5 })
  T.eq(#list, 1)
  T.eq(list[1].objective, 1)
  T.near({ list[1].slope, list[1].cosine }, { -2, -2 / 18 ^ 0.5 / 3 ^ 0.5 }, 1e-14)
  T.eq(select(2, solvers.solve("mean", J)).conflicts[1].objective, 1)
  T.eq(solvers.conflicts(J, { 0.5, 0.5 }, { tolerance = 0.2 }), {})
  -- thresholds that TorchJD has always: a short Jacobian is left to the mean, which conflicts
  local short = { { -4e-3, 1e-3, 1e-3 }, { 6e-3, 1e-3, 1e-3 } }
  T.near(step_of("upgrad", short, REG), { 1e-3, 1e-3, 1e-3 }, 1e-15)
  T.eq(#select(2, solvers.solve("upgrad", short, REG)).conflicts, 1)
  T.eq(select(2, solvers.solve("upgrad", short)).conflicts, {})
  T.eq(step_of("cagrad", short, { norm_eps = 1e-4 }), { 0.0, 0.0, 0.0 })
end)

T.test("pcgrad: orders, and the same key gives the same step", function()
  local function with(seed)
    return step_of("pcgrad", FOUR, { rng = rng.new(seed, "pcgrad") })
  end
  T.eq(with(3), with(3))
  local differ = false
  for seed = 1, 10 do
    differ = differ or norm(sub(with(seed), with(3))) > 1e-6
  end
  T.ok(differ)
  T.raises("order.*or rng", solvers.solve, "pcgrad", FOUR)
  T.raises("order 1 is no permutation of 1 to 4: it has 2 twice", solvers.solve, "pcgrad", FOUR, { order = { 1, 2, 2, 4 } })
  T.raises("order 2 has type nil", solvers.solve, "pcgrad", FOUR, { order = { { 1, 2, 3, 4 } } })
  T.raises("both given", solvers.solve, "pcgrad", FOUR, { order = { 1, 2, 3, 4 }, rng = rng.new(1, "x") })
  T.raises("rng is a number", solvers.solve, "pcgrad", FOUR, { rng = 3 })
end)

T.test("names in any spelling; refusals in words", function()
  local J = { { 1, 2 }, { 3, -1 } }
  local solve = solvers.solve
  for _, name in ipairs { "Nash-MTL", "nash_mtl", "NashMTL" } do
    T.eq(select(2, solve(name, J)).solver, "nashmtl")
  end
  T.eq(#solvers.list(), 12)
  T.raises("^tests/test_solvers.lua:%d+: solve: unknown solver 'upgrd' %(did you mean 'upgrad'%?%)", function() return (solve("upgrd", J)) end)
  T.raises("unknown solver 'x' %(known: alignedmtl, cagrad", solve, "x", J)
  T.raises("unknown solver 'nil'", solve, nil, J)
  T.raises("solve: cagrad: unknown option 'norm_ep' %(did you mean 'norm_eps'%?%)", solve, "cagrad", J, { norm_ep = 1 })
  T.raises("solve: mgda: unknown option 'preference'", solve, "mgda", J, { preference = { 1, 0 } })
  T.raises("row 2 of the Jacobian has 1 entries, 2 numbers expected", solve, "mgda", { { 1, 2 }, { 3 } })
  T.raises("row 1 of the Jacobian, entry 2 is %-?nan, not a finite number", solve, "mgda", { { 1, 0 / 0 }, { 3, 1 } })
  T.raises("entry 1 is inf", solve, "mgda", { { math.huge, 0 }, { 3, 1 } })
  T.raises("longer than a float holds", solve, "mgda", { { 1.7e308, 1.7e308 }, { 3, 1 } })
  T.raises("list of rows", solve, "mgda", {})
  T.raises("got number", solve, "mgda", 3)
  T.raises("not square: it has 2 rows, and row 1 has 3 entries", solve, "mgda", { gram = { { 1, 2, 3 }, { 4, 5, 6 } } })
  T.raises("row 1 of the gram matrix, entry 1 is %-?nan", solve, "mgda", { gram = { { 0 / 0 } } })
  T.raises("not symmetric: entry 1, 2 is 1 and entry 2, 1 is 2", solve, "mgda", { gram = { { 9, 1 }, { 2, 9 } } })
  T.raises("%-1 on its diagonal", solve, "mgda", { gram = { { -1 } } })
  T.raises("beyond the product", solve, "mgda", { gram = { { 1, 3 }, { 3, 1 } } })
  T.raises("further entry", solve, "mgda", { gram = { { 1 } }, rows = {} })
  T.raises("preference sums to 0.9, 1 expected", solve, "upgrad", J, { preference = { 0.5, 0.4 } })
  T.raises("preference 1 is %-1", solve, "upgrad", J, { preference = { -1, 2 } })
  T.raises("preference has 1 entries, 2 numbers expected", solve, "upgrad", J, { preference = { 1 } })
  T.raises("preference 2 is 0", solve, "nashmtl", J, { preference = { 1, 0 } })
  T.raises("c is %-1, a number from 0", solve, "cagrad", J, { c = -1 })
  T.raises("scale is 'sum' %(own, mean or unit", solve, "mgda", J, { scale = "sum" })
  T.raises("scale_mode is 'max'", solve, "alignedmtl", J, { scale_mode = "max" })
  T.raises("option 'values' is missing", solve, "stch", J)
  T.raises("option 'values' is missing", solve, "pama", J)
  T.raises("mu is 0", solve, "stch", J, { values = { 1, 2 }, mu = 0 })
  T.raises("tolerance is %-1", solvers.conflicts, J, { 1, 1 }, { tolerance = -1 })
  T.raises("^tests/test_solvers.lua:%d+: conflicts: weights has 1 entries", function() return (solvers.conflicts(J, { 1 })) end)
end)
