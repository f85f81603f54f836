--- 01_tensor: tensors, gradients and memory.     mocl examples/01_tensor.lua

local tensor = require "mocl.tensor"

-- axes and indices count from 1, -1 is the last
local x = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }
print(x)
print(x[2][-1]:item(), x:sum(1):totable()[3], x:mean():item())

-- pure operations; shapes broadcast as in NumPy
local y = (x - x:mean(1, true)) * tensor.new { 1, 10, 100 }
print(y)

-- gradients: leaves that require them, and one backward pass
local w = tensor.new({ 0.5, -1, 2 }, { requires_grad = true })
local loss = (x * w):sum(2):square():mean()
loss:backward()
print(("loss %.3f"):format(loss:item()))
print(w.grad)

-- mistakes raise, with both shapes
print(pcall(function()
  return x:matmul(tensor.ones { 4, 2 })
end))

-- a scope releases what was made in it, at once; keep takes a tensor out
local kept
do
  local scope <close> = tensor.scope()
  kept = scope:keep(tensor.randn({ 1000, 1000 }, { seed = 1 }):abs():max())
end
print(("the largest of a million normal draws: %.2f"):format(kept:item()))
