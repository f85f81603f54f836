-- large matmuls, which OpenBLAS computes where it is there: against the kernels that models use, which it never
-- computes; and what --env says of it

local T = require "t"
local child = require "child"

-- also takes kernels that are slower, so that the tests do not depend on the user's OPENBLAS_CORETYPE
local OPENBLAS = "env -u OPENBLAS_NUM_THREADS MOCL_BLAS=openblas"

local function env(before)
  local out, err, status = child.mocl({ "--env" }, before)
  T.eq(status, 0, err)
  T.eq(err, "")
  return out:match("\nblas +([^\n]+)\n")
end

local function need_library()
  local text = env(OPENBLAS)
  if not text:find("^OpenBLAS") then
    T.skip(text)
  end
end

local setup = [[
local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"
local function far(a, b) return (a:detach() - b:detach()):abs():max():item() end
]]

-- Sums of small integers are exact in any order, so every form must equal nn.linear to the bit.
local integers = setup .. [[
local function whole(shape, key, device)
  return (tensor.rand(shape, { key = key, device = device }) * 7):floor() - 3
end
local a, b = whole({ 2100, 1030 }, 1), whole({ 1030, 2060 }, 2)
local want = nn.linear(a, b:t():contiguous())
local at, bt = a:t():contiguous():t(), b:t():contiguous():t() -- stored the other way round
print(far(a:matmul(b), want), far(at:matmul(b), want), far(a:matmul(bt), want), far(at:matmul(bt), want))
print(far(tensor.cat({ a, a }, 2):narrow(2, 1031, 1030):matmul(b), want)) -- rows further apart than long
print(far(tensor.stack { a, -a }:matmul(b)[2], -want))
print(table.concat(a:narrow(1, 1, 0):matmul(b).shape, "x"))
for _, device in ipairs { "cpu", "fake" } do
  -- the gradient of q is a large product itself
  local p, q = whole({ 1100, 2100 }, 4, device), whole({ 2100, 2060 }, 5, device):requires_grad_()
  local g = whole({ 1100, 2060 }, 6, device)
  p:matmul(q):backward(g)
  print(far(q.grad, nn.linear(p:t():contiguous(), g:t():contiguous())))
end
print(tensor.memory().broken_guards)
]]

T.test("large matmuls of integers by OpenBLAS are exact", function()
  need_library()
  local out, err, status = child.lua(integers, OPENBLAS)
  T.eq(status, 0, err)
  T.eq(out, "0.0\t0.0\t0.0\t0.0\n0.0\n0.0\n0x2060\n0.0\n0.0\n0\n")
end)

-- prints how far matmul is from nn.linear, and writes both
local reals = setup .. [[
local sys = require "mocl.sys"
local safetensors = require "mocl.safetensors"
sys.set_threads(%d)
local a, b = tensor.randn({ 2100, 1030 }, { key = 1 }), tensor.randn({ 1030, 2060 }, { key = 2 })
local w = b:t():contiguous()
local y, z = a:matmul(b), nn.linear(a, w)
print(far(y, z), far(z:narrow(1, 700, 1), nn.linear(a:narrow(1, 700, 1), w)))
assert(safetensors.save(%q, { y = y }))
]]

T.test("large matmuls by OpenBLAS: same bits for 1, 2 and 3 threads, near nn.linear, which does not use it", function()
  need_library()
  local dir, first = T.tmpdir(), nil
  for threads = 1, 3 do
    local path = dir .. "/" .. threads
    local out, err, status = child.lua(reals:format(threads, path), OPENBLAS)
    T.eq(status, 0, err)
    local far, rows = out:match("^(%S+)\t(%S+)\n$")
    T.ok(tonumber(far) > 0, "the library was not used") -- its sums have another order
    T.ok(tonumber(far) < 1e-3, far)
    T.eq(rows, "0.0", "a row of nn.linear alone")
    local bytes = child.read(path)
    first = first or bytes
    T.ok(bytes == first, "other bits with " .. threads .. " threads")
  end
end)

T.test("MOCL_BLAS=none: matmul is what nn.linear is", function()
  local out, err = child.lua(reals:format(2, T.tmpdir() .. "/y"), "env MOCL_BLAS=none")
  T.eq(out, "0.0\t0.0\n", err)
end)

T.test("--env says what computes matmul, and why it is not OpenBLAS", function()
  T.ok(env("env MOCL_BLAS=none"):find("^built%-in kernels %(%w+%): MOCL_BLAS=none$"))
  T.ok(env("env MOCL_BLAS=mkl"):find("; MOCL_BLAS=mkl is neither openblas nor none$"))
  -- a library that cannot be loaded
  local dir = T.tmpdir()
  assert(io.open(dir .. "/libopenblas.so.0", "w")):close()
  local before = "env MOCL_BLAS=openblas LD_LIBRARY_PATH=" .. child.quote(dir)
  local text = env(before)
  T.ok(text:find("^built%-in kernels %(%w+%): .*libopenblas%.so%.0: "), text)
  local out, err = child.lua(reals:format(2, dir .. "/y"), before)
  T.eq(out, "0.0\t0.0\n", err)
end)

T.test("--env with OpenBLAS: its kernels, the user's settings, -E", function()
  need_library()
  local clean = "env -u OPENBLAS_CORETYPE -u OPENBLAS_NUM_THREADS -u MOCL_BLAS"
  local text = env(clean)
  local rest = ", for matmul of 2048 x 1024 x 2048 and up; built%-in kernels %(%w+%) else$"
  T.ok(text:find("^OpenBLAS %d[%d.]* %w+" .. rest), text)
  local isa = text:match("%((%w+)%) else$")
  local core = ({ avx512 = "SkylakeX", avx2 = "Haswell" })[isa]
  if core then
    T.eq(text:match("^OpenBLAS %S+ (%w+)"):lower(), core:lower())
    text = env(clean .. " OPENBLAS_CORETYPE=Prescott")
    T.ok(text:find("Prescott (OPENBLAS_CORETYPE set by the user) is slower; MOCL_BLAS=openblas takes it", 1,
      true), text)
    text = env(clean .. " OPENBLAS_CORETYPE=Prescott MOCL_BLAS=openblas")
    T.ok(text:find("^OpenBLAS %S+ Prescott %(OPENBLAS_CORETYPE set by the user%)" .. rest), text)
  end
  if require("mocl.sys").cpu_count() > 1 then -- it starts no more threads than there are processors
    text = env(clean .. " OPENBLAS_NUM_THREADS=2")
    T.ok(text:find("has 2 threads, matmul needs 1 (OPENBLAS_NUM_THREADS)", 1, true), text)
  end
  -- the variables it was loaded with are gone
  local out = child.lua([[require("mocl.sys").env()
    print(os.getenv "OPENBLAS_CORETYPE", os.getenv "OPENBLAS_NUM_THREADS")]], clean)
  T.eq(out, "nil\tnil\n")
  local source = 'print(require("mocl.sys").env().blas:match("^%a+"))'
  T.eq((child.mocl({ "-E", "-e", source }, clean .. " MOCL_BLAS=none")), "OpenBLAS\n")
end)
