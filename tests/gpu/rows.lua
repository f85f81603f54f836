--- rows.lua device=cuda:0 shape=tiny|1b|7b - does a row of a product in bf16 have the same bits whatever the number of rows?
-- For each pair of sizes of the shape's weights a product of many rows is compared with products of some of them, and the
-- log-probabilities under a head likewise. Prints a verdict; the exit status is 1 where it is broken.

local nn = require "mocl.nn.core"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"

local o = dofile((arg[0]:gsub("[^/]*$", "arguments.lua"))) { device = "cuda:0", shape = "tiny" }

-- outputs x inputs of the linear layers; vocabulary x width of the head; most rows; rank of the adapters
local SHAPES = {
  tiny = { linear = { { 32, 32 }, { 48, 32 }, { 32, 48 }, { 24, 304 } }, head = { 96, 32 }, rows = 300, rank = 8 },
  ["1b"] = { linear = { { 2048, 2048 }, { 256, 2048 }, { 5632, 2048 }, { 2048, 5632 }, { 64, 2048 }, { 2048, 64 }, { 64, 5632 } },
    head = { 32000, 2048 }, rows = 4096, rank = 64 },
  ["7b"] = { linear = { { 4096, 4096 }, { 11008, 4096 }, { 4096, 11008 }, { 64, 4096 }, { 4096, 64 }, { 64, 11008 } },
    head = { 32000, 4096 }, rows = 4096, rank = 64 },
}
local shape = assert(SHAPES[o.shape], "shape: tiny, 1b or 7b")
local COUNTS = { 1, 2, 3, 7, 8, 16, 17, 31, 64, 65, 100, 128, 129, 255, 256, 1000, 2048, 4095 }

local broken, checked = {}, 0
-- f(first, n): the result for rows first .. first + n - 1, one row each
local function check(what, f)
  local all = f(1, shape.rows)
  for _, n in ipairs(COUNTS) do
    for _, first in ipairs { 1, shape.rows - n + 1 } do
      if n <= shape.rows then
        local scope <close> = tensor.scope()
        local d = (f(first, n) - all:narrow(1, first, n)):abs():max():item()
        checked = checked + 1
        if d ~= 0 then
          broken[#broken + 1] = ("%s: %d rows from %d on differ by up to %.3g"):format(what, n, first, d)
        end
      end
    end
  end
end

local function draw(rows, cols, key)
  local scope <close> = tensor.scope()
  return scope:keep(tensor.randn({ rows, cols }, { key = key, std = cols ^ -.5, device = o.device }):to "bf16")
end

for i, s in ipairs(shape.linear) do
  local scope <close> = tensor.scope()
  local x, w = draw(shape.rows, s[2], 2 * i), draw(s[1], s[2], 2 * i + 1)
  check(("%d x %d"):format(s[1], s[2]), function(first, n)
    return nn.linear(x:narrow(1, first, n), w):to "f32"
  end)
end
-- an adapter's product is added to the layer's (beta = 1), and [W; A] as one weight has other sizes than W
for i, s in ipairs(shape.linear) do
  if s[1] > shape.rank and s[2] > shape.rank then
    local scope <close> = tensor.scope()
    local x, w = draw(shape.rows, s[2], 200 + 4 * i), draw(s[1], s[2], 201 + 4 * i)
    local A = draw(shape.rank, s[2], 202 + 4 * i):to "f32"
    local B = draw(s[1], shape.rank, 203 + 4 * i):to "f32"
    check(("%d x %d with an adapter of rank %d"):format(s[1], s[2], shape.rank), function(first, n)
      return nn.lora_linear(x:narrow(1, first, n), w, A, B, { scale = 2 }):to "f32"
    end)
    local stacked = draw(s[1] + shape.rank, s[2], 300 + i)
    check(("%d + %d x %d"):format(s[1], shape.rank, s[2]), function(first, n)
      return nn.linear(x:narrow(1, first, n), stacked):to "f32"
    end)
  end
end
do
  local scope <close> = tensor.scope()
  local x, w = draw(shape.rows, shape.head[2], 98), draw(shape.head[1], shape.head[2], 99)
  local target = tensor.zeros({ shape.rows }, { dtype = "i32", device = o.device })
  check(("head %d x %d"):format(shape.head[1], shape.head[2]), function(first, n)
    return (nn.lm_head(x:narrow(1, first, n), w, target:narrow(1, first, n), {}))
  end)
end

for i = 1, math.min(#broken, 20) do
  print(broken[i])
end
local by = sys.env().cuda:match "bf16 products: (.*)$"
print(#broken == 0 and ("row invariance is kept: %d comparisons, %s"):format(checked, by)
  or ("row invariance is BROKEN in %d of %d comparisons with %s: use MOCL_BLAS=none"):format(#broken, checked, by))
os.exit(#broken == 0, true)
