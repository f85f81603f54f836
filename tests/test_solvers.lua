-- mocl.solvers: exact answers, TorchJD's, the optimality conditions, invariances, refusals

local T = require "t"
local json = require "mocl.json"
local rng = require "mocl.rng"
local solvers = require "mocl.solvers"

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
return nil
