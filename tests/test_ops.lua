-- every tensor operation: values and gradients against PyTorch (tests/fixtures), on the cpu and on the
-- device whose memory only kernels may touch. The table of operations, tolerances and reasons is
-- fixtures/ops.lua; shapes and views are those of the cases in fixtures/make_ops.py.

local T = require "t"
local ops = require "fixtures.ops"
local json = require "mocl.json"
local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"

local cases, order = {}, {}
for _, name in ipairs(ops.files) do
  for _, case in ipairs(ops.load("ops_" .. name)) do
    if not cases[case.op] then
      cases[case.op] = {}
      order[#order + 1] = case.op
    end
    table.insert(cases[case.op], case)
  end
end

-- raises at the caller's caller with the case that is off
local function compare(got, want, tol, case, what)
  if #got ~= #want then
    error(("%s: %s has %d entries, not %d"):format(ops.describe(case), what, #got, #want), 0)
  end
  local d, at = ops.distance(got, want)
  if not (d <= tol) then
    error(("%s: %s entry %d is %.9g, not %.9g; off by %.2g, allowed %.2g (%s)"):format(ops.describe(case), what, at,
      got[at], want[at], d, tol, ops.rows[case.op].why), 0)
  end
  return d
end

local worst = {} -- op -> largest distance of values and of gradients

local function check(case, device)
  local tol, grad_tol = ops.tolerances(case.op)
  local args, leaves = ops.arguments(case, device)
  local outs = ops.rows[case.op].call(args, case.p)
  local w = worst[case.op] or { 0, 0 }
  worst[case.op] = w
  T.eq(#outs, #case.out, ops.describe(case) .. ": outputs")
  for i, want in ipairs(case.out) do
    T.eq(outs[i].shape, want.shape, ops.describe(case) .. ": shape")
    T.eq(outs[i].device, device)
    w[1] = math.max(w[1], compare(ops.flat(outs[i]), want.data, tol, case, "output " .. i))
  end
  local loss, wants_grad = ops.loss(outs), false
  for _, g in ipairs(case.grads) do
    wants_grad = wants_grad or g ~= json.null
  end
  T.eq(loss ~= nil, wants_grad, ops.describe(case) .. ": recorded")
  if not loss then
    return
  end
  loss:backward()
  for i, want in ipairs(case.grads) do
    if leaves[i] then
      local grad = leaves[i].grad
      T.ok(grad, ops.describe(case) .. ": a gradient for argument " .. i)
      T.eq(grad.shape, leaves[i].shape)
      w[2] = math.max(w[2], compare(ops.flat(grad), want, grad_tol, case, "gradient " .. i))
    end
  end
end

for _, device in ipairs(T.devices) do
  for _, op in ipairs(order) do
    T.test(("%s on %s (%d cases)"):format(op, device, #cases[op]), function()
      local broken = tensor.memory().broken_guards
      T.ok(ops.rows[op], "a row in fixtures/ops.lua")
      for _, case in ipairs(cases[op]) do
        check(case, device)
      end
      collectgarbage()
      collectgarbage()
      T.eq(tensor.memory().broken_guards - broken, 0, "writes behind a block")
    end)
  end
end

T.test("every row of the table has cases", function()
  for op in pairs(ops.rows) do
    T.ok(cases[op], op)
  end
  if os.getenv("MOCL_TEST_DISTANCES") then -- to set tolerances by
    for _, op in ipairs(order) do
      print(("%-14s values %.1e gradients %.1e"):format(op, worst[op][1], worst[op][2]))
    end
  end
end)

-- what is not an operation with values to compare, and where it is tested
local elsewhere = {
  tensor = "arange full new ones rand randn zeros add_ copy_ fill_ zero_ detach to is_contiguous numel stride gelu nonfinite multinomial "
    .. "backward is_grad_enabled is_tensor memory memory_cap no_grad scope fail_after flush",
  nn = "dropout lm_reference sample",
}

T.test("every operation of mocl.tensor and mocl.nn.core has a row", function()
  for module, name in pairs { [tensor] = "tensor", [nn] = "nn" } do
    local other = {}
    for word in elsewhere[name]:gmatch("%S+") do
      other[word] = true
    end
    for f in pairs(module) do
      T.ok(ops.rows[f] or other[f], name .. "." .. f .. " is neither in fixtures/ops.lua nor tested elsewhere")
    end
  end
end)
