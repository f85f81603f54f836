-- control.solver: what a solver of the menu joins, against mocl.method.solvers on Jacobians made by hand, and what is
-- said of conflicts

local T = require "t"
local child = require "child"
local Control = require "mocl.method.control"
local control_log = require "mocl.method.control_log"
local fs = require "mocl.fs"
local json = require "mocl.json"
local rng = require "mocl.rng"
local ppo = require "mocl.method.ppo"
local solvers = require "mocl.method.solvers"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

-- three objectives, five answers of 3, 2, 4, 1, 3 tokens under preferences 1, 2, 1, 3, 2 of the grid
local N, T_ALL = 3, 13
local GRID = { { .2, .5, .3 }, { .6, .3, .1 }, { .1, .1, .8 } }
local PLACES = { 1, 2, 1, 3, 2 }
local FIRST, LAST = { 1, 4, 6, 10, 11 }, { 3, 5, 9, 10, 13 }
local RAW = { { 1, 2, 3 }, { 4, 0, 1 }, { 2, 2, 0 }, { 0, 1, 5 }, { 3, 3, 1 } }
local PREFS = {}
for i, place in ipairs(PLACES) do
  PREFS[i] = GRID[place]
end

local function batch()
  return transformer.pack({ { 1 }, { 1 }, { 1 }, { 1 }, { 1 } }, { { 1, 2, 3 }, { 4, 5 }, { 6, 7, 8, 9 }, { 1 }, { 2, 3, 4 } })
end

local function advantages(seed)
  local r, A = rng.new(seed or 1, "A"), {}
  for t = 1, T_ALL do
    A[t] = { r:normal(), r:normal() - .3, r:normal() }
  end
  return tensor.new(A), tensor.new(A):totable() -- as the tensor holds them
end

local PLAIN = { range = false, phi = 0, floor = 0, scale = 1, negative = true, interior = 0 }

local function new(options, more)
  local all = {}
  for _, list in ipairs { PLAIN, options } do
    for key, v in pairs(list) do
      all[key] = v
    end
  end
  return Control.new(all, N, GRID, nil, more)
end

local function problem_of(options, A, gram_of, more)
  local control = new(options, more)
  control:observe(RAW, PLACES)
  return control:problem(A or advantages(), batch(), PREFS, PLACES, gram_of), control
end

-- lists of answers that share a problem
local POOLS = { preference = { { 1, 3 }, { 2, 5 }, { 4 } }, batch = { { 1, 2, 3, 4, 5 } }, sample = { { 1 }, { 2 }, { 3 }, { 4 }, { 5 } } }

local function tokens_of(answers)
  local list = {}
  for _, i in ipairs(answers) do
    for t = FIRST[i], LAST[i] do
      list[#list + 1] = { t, i }
    end
  end
  return list
end

-- row j of coef(i)[j] A_jt, and d of w
local function row_of(answers, A, coef)
  local row = {}
  for n, ti in ipairs(tokens_of(answers)) do
    row[n] = 0.0
    for j, x in ipairs(coef(ti[2])) do
      row[n] = row[n] + x * A[ti[1]][j]
    end
  end
  return row
end

local function dot(a, b)
  local s = 0.0
  for k = 1, #a do
    s = s + a[k] * b[k]
  end
  return s
end

local function weights_of(problem)
  local w = {}
  for i, a in ipairs(problem:answers()) do
    w[i] = a.w
  end
  return w
end

-- what the loss gets is what the answers say
local function check_tensors(problem, A, msg)
  local s, w = problem:solve(), weights_of(problem)
  local got, advantage = s.w:totable(), s.advantage:totable()
  for i = 1, #PREFS do
    for t = FIRST[i], LAST[i] do
      local want = 0.0
      for j = 1, N do
        T.near(got[t][j], w[i][j], 1e-5 * math.max(1, math.abs(w[i][j])), msg)
        want = want + w[i][j] * A[t][j]
      end
      T.near(advantage[t], want, 1e-5 * math.max(1, math.abs(want)), msg)
    end
  end
end

T.test("the mean by preference is linear scalarisation, in every pool", function()
  local A, list = advantages()
  local plain = problem_of({ c = "one" }, A)
  for _, pool in ipairs { "preference", "batch", "sample", "token" } do
    local problem = problem_of({ solver = "mean", pool = pool }, A)
    for i, a in ipairs(problem:answers()) do
      T.near(a.w, PREFS[i], 1e-12, pool)
      T.eq(a.c, 1.0)
    end
    T.near(problem:solve().advantage:totable(), plain:solve().advantage:totable(), 1e-6, pool)
    if pool ~= "token" then
      check_tensors(problem, list, pool)
    end
  end
end)

local TAKES_PREFERENCE = { "upgrad", "dualproj", "cagrad", "nashmtl", "config", "alignedmtl" }

T.test("solvers with a preference join the objectives' rows and get p", function()
  for seed = 1, 4 do
    local A, list = advantages(seed)
    for _, name in ipairs(TAKES_PREFERENCE) do
      for _, pool in ipairs { "preference", "sample" } do
        local problem = problem_of({ solver = name, pool = pool }, A)
        for _, answers in ipairs(POOLS[pool]) do
          local J = {}
          for j = 1, N do
            J[j] = row_of(answers, list, function() return { j == 1 and 1 or 0, j == 2 and 1 or 0, j == 3 and 1 or 0 } end)
          end
          local want = solvers.solve(name, J, { preference = PREFS[answers[1]] })
          for _, i in ipairs(answers) do
            T.near(problem:answers()[i].w, want, 1e-12, name .. " " .. pool)
          end
        end
        check_tensors(problem, list, name .. " " .. pool)
      end
    end
  end
end)

T.test("the others join rows times p, in a batch those of all preferences", function()
  local A, list = advantages()
  for _, pool in ipairs { "preference", "batch" } do
    for _, name in ipairs { "mgda", "imtlg", "pama" } do
      local problem = problem_of({ solver = name, pool = pool }, A)
      for _, answers in ipairs(POOLS[pool]) do
        local J, values = {}, {}
        for j = 1, N do
          J[j] = row_of(answers, list, function(i)
            local row = { 0, 0, 0 }
            row[j] = PREFS[i][j]
            return row
          end)
          values[j] = 0.0
          for _, x in ipairs(J[j]) do
            values[j] = values[j] + math.max(x, 0) / #J[j]
          end
        end
        local a = solvers.solve(name, J, name == "pama" and { values = values } or nil)
        for _, i in ipairs(answers) do
          for j = 1, N do
            T.near(problem:answers()[i].w[j], a[j] * PREFS[i][j], 1e-12, name .. " " .. pool)
          end
        end
      end
    end
  end
end)

T.test("a batch of several preferences: rows are weighed by each answer's share of the mean preference", function()
  local A, list = advantages(3)
  local q = { 0, 0, 0 }
  for _, p in ipairs(PREFS) do
    for j = 1, N do
      q[j] = q[j] + p[j] / #PREFS
    end
  end
  local J = {}
  for j = 1, N do
    J[j] = row_of(POOLS.batch[1], list, function(i)
      local row = { 0, 0, 0 }
      row[j] = PREFS[i][j] / q[j]
      return row
    end)
  end
  local a = solvers.solve("upgrad", J, { preference = q })
  for i, answer in ipairs(problem_of({ solver = "upgrad", pool = "batch" }, A):answers()) do
    for j = 1, N do
      T.near(answer.w[j], a[j] * PREFS[i][j] / q[j], 1e-12)
    end
  end
end)

T.test("rows=terms with MGDA is algorithm 2: c, weights and advantage", function()
  for seed = 1, 3 do
    local A = advantages(seed)
    for _, pool in ipairs { "preference", "batch", "sample", "token" } do
      local moc, menu = problem_of({ pool = pool }, A), problem_of({ pool = pool, solver = "mgda", rows = "terms" }, A)
      T.near(menu:solve().c:totable(), moc:solve().c:totable(), 2e-5, pool)
      T.near(menu:solve().advantage:totable(), moc:solve().advantage:totable(), 5e-5, pool)
      for i, a in ipairs(moc:answers()) do
        T.near(menu:answers()[i].w, a.w, 5e-5, pool)
        T.eq(menu:answers()[i].indicator, a.indicator)
      end
    end
  end
  -- where the constraint holds v is alone, and its weight is 1
  for _, a in ipairs(problem_of({ phi = 100, solver = "mgda", rows = "terms" }):answers()) do
    T.near({ a.c, a.w[1] }, { 1, a.w[1] }, 0)
    T.eq(a.indicator, false)
  end
end)

T.test("rows=constrained has vbar as a further row", function()
  local A, list = advantages(2)
  local problem = problem_of({ solver = "upgrad", rows = "constrained" }, A)
  local minus_b = problem.lists.minus_b
  for _, answers in ipairs(POOLS.preference) do
    local p, J, u = PREFS[answers[1]], {}, {}
    for j = 1, N do
      J[j], u[j] = row_of(answers, list, function() return { j == 1 and 1 or 0, j == 2 and 1 or 0, j == 3 and 1 or 0 } end), p[j] / 2
    end
    J[N + 1], u[N + 1] = row_of(answers, list, function(i) return minus_b[i] end), 1 / 2
    local a = solvers.solve("upgrad", J, { preference = u })
    for _, i in ipairs(answers) do
      for j = 1, N do
        T.near(problem:answers()[i].w[j], 2 * (a[j] + a[N + 1] * minus_b[i][j]), 1e-11)
      end
    end
  end
  local sum = problem_of({ solver = "mean", rows = "constrained" }, A) -- v + vbar
  for i, a in ipairs(sum:answers()) do
    for j = 1, N do
      T.near(a.w[j], PREFS[i][j] + sum.lists.minus_b[i][j], 1e-12)
    end
  end
end)

T.test("solver_scale: the length of v, or 1, of the step over the tokens of a pool", function()
  local A, list = advantages(5)
  for _, name in ipairs(solvers.list()) do
    for _, pool in ipairs { "preference", "batch" } do
      local own = weights_of(problem_of({ solver = name, pool = pool }, A, nil, { seed = 3 }))
      local mean = problem_of({ solver = name, pool = pool, solver_scale = "mean" }, A, nil, { seed = 3 })
      local unit = weights_of(problem_of({ solver = name, pool = pool, solver_scale = "unit" }, A, nil, { seed = 3 }))
      for _, answers in ipairs(POOLS[pool]) do
        local function step(w)
          return row_of(answers, list, function(i) return w[i] end)
        end
        local v, d, e, f = step(PREFS), step(own), step(weights_of(mean)), step(unit)
        T.near(dot(e, e) ^ 0.5, dot(v, v) ^ 0.5, 1e-10, name)
        T.near(dot(f, f) ^ 0.5, 1, 1e-10, name)
        T.near(dot(d, e), (dot(d, d) * dot(e, e)) ^ 0.5, 1e-9 * dot(e, e) ^ 0.5 * dot(d, d) ^ 0.5, name .. ": the same direction")
      end
      check_tensors(mean, list, name)
    end
  end
end)

T.test("conflicts: the objectives whose inner product with the step is negative, by hand", function()
  local found = 0
  for seed = 1, 6 do
    local A, list = advantages(seed)
    for _, o in ipairs { { solver = "mean" }, { solver = "cagrad", cagrad_c = 0.1 }, { solver = "upgrad" }, { solver = "mgda" },
      { conflicts = true }, { c = "one", conflicts = true }, { solver = "mgda", rows = "terms" }, { solver = "mean", rows = "constrained" } } do
      for _, pool in ipairs { "preference", "sample", "batch" } do
        o.pool = pool
        local problem = problem_of(o, A)
        local w = weights_of(problem)
        for _, answers in ipairs(POOLS[pool]) do
          local d = row_of(answers, list, function(i) return w[i] end)
          for j = 1, N do
            local g = row_of(answers, list, function(i)
              local row = { 0, 0, 0 }
              row[j] = PREFS[i][j]
              return row
            end)
            local slope, size = dot(g, d), 0.0 -- size: of the terms, since d may be rounding of them
            for k = 1, N do
              local part = row_of(answers, list, function(i) return { k == 1 and w[i][1] or 0, k == 2 and w[i][2] or 0, k == 3 and w[i][3] or 0 } end)
              size = size + (dot(g, g) * dot(part, part)) ^ 0.5
            end
            if math.abs(slope) > 1e-5 * size or math.abs(slope) < 1e-8 * size then
              T.eq(problem:answers()[answers[1]].conflicts[j] or false, slope < -1e-6 * size, T.show(o))
              found = found + (slope < 0 and 1 or 0)
            end
          end
          if o.solver == "upgrad" or o.solver == "mgda" and not o.rows then
            T.eq(problem:answers()[answers[1]].conflicts, {}, o.solver .. " conflicts with nothing")
          end
        end
      end
    end
  end
  T.ok(found > 20, found)
  T.eq(problem_of({}):answers()[1].conflicts, nil, "algorithm 2 without the option")
end)

T.test("with gradients=parameters the inner products of the gradients decide", function()
  local A, list = advantages(4)
  local calls = 0
  -- gradients that are the advantages themselves: the answers must be those of the advantages
  local function gram_of(rows)
    local G, all = {}, {}
    calls = calls + 1
    for i, x in ipairs(rows) do
      all[i] = x:totable()
    end
    for i = 1, #all do
      G[i] = {}
      for k = 1, #all do
        G[i][k] = dot(all[i], all[k])
      end
    end
    return G
  end
  for _, o in ipairs { { solver = "upgrad" }, { solver = "mgda" }, { solver = "cagrad", rows = "constrained" }, { solver = "mgda", rows = "terms" },
    { solver = "nashmtl", solver_scale = "mean" } } do
    local want = problem_of(o, A)
    o.gradients, calls = "parameters", 0
    local got = problem_of(o, A, gram_of)
    T.eq(calls, 3, "one for each pool")
    for _, i in ipairs { 1, 2, 3, 5 } do -- answer 4 has one token, where several weights give the same step
      T.near(got:answers()[i].w, want:answers()[i].w, 1e-5, T.show(o))
      T.eq(got:answers()[i].conflicts, want:answers()[i].conflicts, T.show(o))
    end
    check_tensors(got, list, T.show(o))
  end
  T.raises("needs gram_of", function() problem_of({ solver = "upgrad", gradients = "parameters" }, A) end)
end)

T.test("solve=epoch joins I(A, z)", function()
  local A = advantages(2)
  local z, r = {}, rng.new(3, "z")
  for t = 1, T_ALL do
    z[t] = math.exp(r:normal() / 3)
  end
  z = tensor.new(z)
  local problem = problem_of({ solver = "upgrad", solve = "epoch" }, A)
  problem:solve(z, .2)
  local want = problem_of({ solver = "upgrad" }, ppo.gate(A, A:relu(), z:unsqueeze(2), .2))
  for i, a in ipairs(want:answers()) do
    T.near(problem:answers()[i].w, a.w, 1e-6)
  end
  T.ok(T.show(want:answers()) ~= T.show(problem_of({ solver = "upgrad" }, A):answers()), "the gate changes something")
end)

T.test("what nobody weighs, and what is zero, is no row", function()
  local A = advantages()
  local grid = { { 1, 0, 0 }, { 0, .5, .5 } }
  local control = Control.new({ range = false, interior = 0, solver = "mgda" }, N, grid)
  local prefs, places = { grid[1], grid[2], grid[1], grid[2], grid[2] }, { 1, 2, 1, 2, 2 }
  control:observe(RAW, places)
  local answers = control:problem(A, batch(), prefs, places):answers()
  T.eq(answers[1].w, { 1.0, 0.0, 0.0 })
  T.ok(answers[2].w[1] == 0 and answers[2].w[2] > 0, T.show(answers[2].w))
  local rows = A:totable()
  for t = 1, T_ALL do
    rows[t][2] = 0
  end
  local problem = problem_of({ solver = "mgda" }, tensor.new(rows))
  T.ok(problem:answers()[1].w[1] > 0 and problem:answers()[1].w[2] == 0, T.show(problem:answers()[1].w))
  problem = problem_of({ solver = "mgda" }, tensor.zeros { T_ALL, N }) -- no step either way
  T.eq(problem:answers()[1].w, PREFS[1])
end)

T.test("smooth Tchebycheff goes by the mean rewards of each preference", function()
  local A, list = advantages()
  local problem, control = problem_of({ solver = "stch", mu = 0.5 }, A)
  local ideal = { -math.huge, -math.huge, -math.huge }
  for _, m in ipairs(control.mean) do
    for j = 1, N do
      ideal[j] = math.max(ideal[j], m[j])
    end
  end
  for _, answers in ipairs(POOLS.preference) do
    local p, e, sum = PREFS[answers[1]], {}, 0
    for j = 1, N do
      e[j] = math.exp(p[j] * (ideal[j] - control.mean[PLACES[answers[1]]][j]) / 0.5)
      sum = sum + e[j]
    end
    for j = 1, N do
      T.near(problem:answers()[answers[1]].w[j], p[j] * e[j] / sum, 1e-12)
    end
  end
  check_tensors(problem, list, "stch")
end)

T.test("PCGrad draws its orders from the seed, and goes on after a checkpoint", function()
  local A = advantages(6)
  local function some(control, n)
    local list = {}
    for k = 1, n do
      control:observe(RAW, PLACES)
      list[k] = weights_of(control:problem(A, batch(), PREFS, PLACES))
    end
    return list
  end
  local function fresh(seed)
    return new({ solver = "pcgrad" }, { seed = seed })
  end
  local whole = some(fresh(7), 6)
  T.eq(some(fresh(7), 6), whole)
  T.ok(T.show(some(fresh(8), 6)) ~= T.show(whole), "another seed, other orders")
  local half = fresh(7)
  some(half, 3)
  local state = json.decode(json.encode(half:state()))
  local other = fresh(7)
  other:restore(state)
  T.eq(some(other, 3), { table.unpack(whole, 4) })
  state.rng = "x"
  T.raises("'rng' is no integer", function() fresh(7):restore(state) end)
  T.eq(new({ solver = "upgrad" }):state().rng, nil)
end)

T.test("the log: shares of answers whose step makes an objective worse", function()
  local log = control_log.new { "a", "b" }
  local function answer(conflicts, degenerate)
    return { c = 1, w = { .5, .5 }, indicator = false, conflicts = conflicts, degenerate = degenerate }
  end
  local row = log:row({}, { answer { [2] = true }, answer {}, answer({}, "stationary"), answer { [1] = true, [2] = true } },
    { { 0, 0 }, { 0, 0 }, { 0, 0 }, { 0, 0 } })
  T.eq({ row["moc/share_conflict"], row["moc/share_conflict/a"], row["moc/share_conflict/b"], row["moc/share_degenerate"] }, { .5, .25, .5, .25 })
  log:row({}, { answer {} }, { { 0, 0 } })
  local again = control_log.new { "a", "b" }
  again:restore(json.decode(json.encode(log:state())))
  T.eq(again:summary().c.conflicts, { a = .125, b = .25 })
  T.eq({ again:summary().c.conflict, again:summary().c.degenerate }, { .25, .125 })
  local plain = control_log.new { "a", "b" }
  row = plain:row({}, { { c = 1, w = { 1, 0 }, indicator = true } }, { { 0, 0 } })
  T.eq({ row["moc/share_conflict"], plain:summary().c.conflict, plain:state().conflict }, {})
end)

T.test("what does not go together is refused by name", function()
  for _, case in ipairs {
    { { solver = "upgrd" }, "control.solver: there is no solver 'upgrd'; there are minnorm, alignedmtl, cagrad, " },
    { { solver = "upgrad", mu = 0.5 }, "control.mu is an option of stch, not of control.solver=upgrad" },
    { { norm_eps = 1e-4 }, "control.norm_eps is an option of cagrad, dualproj, upgrad, not of control.solver=minnorm" },
    { { solver = "upgrad", c = "one" }, "control.solver=upgrad does not go with control.c=one" },
    { { rows = "terms" }, "control.rows=terms does not go with control.solver=minnorm: take control.solver=mgda" },
    { { solver_scale = "mean" }, "control.solver_scale=mean does not go with control.solver=minnorm" },
    { { solver = "pama", rows = "terms" }, "control.solver=pama does not go with control.rows=terms" },
    { { solver = "upgrad", gradients = "parameters", pool = "token" }, "does not go with control.pool=token" },
  } do
    for _, f in ipairs { function() new(case[1]) end, function() Control.check(case[1], N, GRID) end } do
      T.raises((case[2]:gsub("%p", "%%%0")), f)
    end
  end
  T.raises("unknown option 'sede'", function() Control.new({}, N, GRID, nil, { sede = 1 }) end)
  local rows = advantages():totable()
  rows[5][2] = 0 / 0
  T.raises("the advantage of objective 2 at token 5 is nan, not finite", function() problem_of({ solver = "upgrad" }, tensor.new(rows)) end)
end)

T.test("the warning of a dominated preference names what the solver's step depends on", function()
  local prefs, rewards = { { 0, 1 }, { 1, 0 } }, { { 9, 9 }, { 1, 1 } }
  T.ok(Control.warning({ solver = "upgrad" }, prefs, rewards):find("control.rows=constrained (control.solver=upgrad)", 1, true))
  T.ok(Control.warning({ solver = "upgrad", rows = "terms" }, prefs, rewards):find("lower control.scale (3)", 1, true))
  T.ok(Control.warning({}, prefs, rewards):find("raise control.floor", 1, true))
end)

-- ---- recipes ----

local function run(recipe, ...)
  return child.mocl { "recipes/" .. recipe .. ".lua", "preset=smoke", "quiet=true", ... }
end

T.test("recipes refuse before there is a directory, with the list", function()
  local dir = T.tmpdir() .. "/run"
  for _, case in ipairs {
    { "control.solver=upgrd", "option control.solver: expected one of minnorm, alignedmtl, cagrad,", "(did you mean 'upgrad'?)" },
    { "control.rtol=1", "control.rtol is an option of alignedmtl, config, imtlg, not of control.solver=minnorm" },
  } do
    for _, recipe in ipairs { "moc_hh", "grpo", "fishwood", "fruit_tree" } do
      local _, err, status = run(recipe, case[1], "out=" .. dir)
      T.eq(status, 1, err)
      T.ok(err:find(case[2], 1, true) and err:find(case[3] or "", 1, true), err)
      T.eq(fs.exists(dir), nil)
    end
  end
  for _, case in ipairs { { "methods=upgrad,upgrad", "methods: 'upgrad' stands there twice" }, { "methods=upgrd", "option methods: expected one of" } } do
    local _, err, status = run("fishwood", case[1], "out=" .. dir)
    T.ok(status == 1 and err:find(case[2], 1, true), err)
  end
end)

T.test("a language model with another solver: result and log say so", function()
  for recipe, words in pairs { moc_hh = { "control.solver=cagrad" }, grpo = { "control.c=minnorm", "control.solver=upgrad", "control.rows=constrained" } } do
    local dir = T.tmpdir() .. "/run"
    local _, err, status = run(recipe, "documents=60", "eval.unseen_answers=0", "out=" .. dir, table.unpack(words))
    T.eq(status, 0, err)
    local result = assert(json.load(dir .. "/result.json"))
    T.eq(result.method, recipe == "grpo" and "moc_upgrad_grpo" or "cagrad")
    T.ok(result.c.conflicts.humor and result.c.conflict <= 1)
    T.ok(child.read(dir .. "/metrics.jsonl"):find('"moc/share_conflict/humor":', 1, true))
  end
end)

T.test("fruit_tree with five methods: the table has them, and a run that was stopped gives the same bytes", function()
  local words = { "preset=smoke", "quiet=true", "steps=1600", "methods=linear_ppo,moc_grpo,pcgrad,cagrad,upgrad" }
  local whole, dir = T.tmpdir() .. "/run", T.tmpdir() .. "/run"
  local out, err, status = child.mocl { "recipes/fruit_tree.lua", "out=" .. whole, table.unpack(words) }
  T.eq(status, 0, err)
  local result = assert(json.load(whole .. "/result.json"))
  for _, name in ipairs { "moc", "linear_ppo", "moc_grpo", "pcgrad", "cagrad", "upgrad" } do
    T.ok(result.seeds[1][name].hypervolume.expected > 0 and out:find(name, 1, true), name)
  end
  T.eq(result.methods, { "linear_ppo", "moc_grpo", "pcgrad", "cagrad", "upgrad" })
  T.eq(result.seeds[1].upgrad.c.conflict, 0.0)
  T.ok(result.seeds[1].pcgrad.c.conflict >= 0)
  local html = child.read(whole .. "/report.html")
  T.eq(select(2, html:gsub('aria%-label="%a+ and %a+"', "")), 15, "three pictures of each method beside MOC")
  for _, label in ipairs { "Linear PPO", "MOC on groups", "PCGrad", "CAGrad", "UPGrad" } do
    T.eq(select(2, html:gsub('y="16">' .. label .. "</text>", "")), 3, label)
  end
  T.ok(T.show(result.pcgrad.points) ~= T.show(result.points) and #result.pcgrad.points == #result.points)
  local hook = [[local Run = require "mocl.run"; local metrics = Run.metrics
    function Run:metrics(row)
      metrics(self, row)
      if self.stage_name == "pcgrad-0" and row.step == 1 then io.popen("kill -KILL $PPID"):close() end
    end]]
  out, err, status = child.mocl { "-e", hook, "recipes/fruit_tree.lua", "out=" .. dir, table.unpack(words) }
  T.eq(status, 137, err)
  out, err, status = child.mocl { "recipes/fruit_tree.lua", "out=" .. dir, "resume=auto", table.unpack(words) }
  T.eq(status, 0, err)
  T.eq(child.read(dir .. "/result.json"), child.read(whole .. "/result.json"))
end)

T.test("fishwood: MOC on groups has no critic and as many episodes", function()
  local dir = T.tmpdir() .. "/run"
  local out, err, status = run("fishwood", "methods=moc_grpo,upgrad", "out=" .. dir)
  T.eq(status, 0, err)
  local result = assert(json.load(dir .. "/result.json"))
  T.eq(result.linear_ppo, nil)
  T.eq({ result.upgrad.rewards, result.moc_grpo.label, result.upgrad.label }, { result.seeds[1].upgrad.rewards, "MOC on groups", "UPGrad" })
  local html, first = child.read(dir .. "/report.html"), result.upgrad.rewards[1]
  T.ok(html:find(("<title>UPGrad (0.1, 0.9): %.2f, %.2f</title>"):format(first[1], first[2]), 1, true) and html:find("MOC on groups (squares)", 1, true))
  T.ok(not html:find("Linear PPO", 1, true))
  T.ok(result.seeds[1].moc_grpo.share_error.max > 0 and out:find("MOC on groups 0.", 1, true), out)
  T.ok(not child.read(dir .. "/metrics.jsonl"):find('"stage":"moc_grpo%-0"[^\n]*loss/value'), "no critic")
  T.ok(child.read(dir .. "/metrics.jsonl"):find("frac_reward_zero_std", 1, true))
end)
