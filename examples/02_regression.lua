--- 02_regression: a small network learns a curve.     mocl examples/02_regression.lua
-- 64 noisy points of sin(3 x); two hidden layers; AdamW; under a second.

local nn = require "mocl.nn"
local optim = require "mocl.optim"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"

local r, xs, ys = rng.new(0, "points"), {}, {}
for i = 1, 64 do
  local x = -1 + 2 * (i - 1) / 63
  xs[i], ys[i] = { x }, { math.sin(3 * x) + 0.05 * r:normal() }
end
local x, y = tensor.new(xs), tensor.new(ys)

local net = nn.MLP({ 1, 32, 32, 1 }, { activation = "tanh", key = rng.key(0, "network") })
local opt <close> = optim.adamw(net:parameters(), { lr = 1e-2 })

for step = 1, 400 do
  local scope <close> = tensor.scope() -- all that a step makes goes when it ends
  local loss = nn.mse_loss(net(x), y)
  opt:zero_grad()
  loss:backward()
  opt:step { max_grad_norm = 1 }
  if step == 1 or step % 100 == 0 then
    print(("step %3d  mean squared error %.4f"):format(step, loss:item()))
  end
end

tensor.no_grad(function()
  for _, at in ipairs { -0.8, 0, 0.8 } do
    print(("x %5.2f  network %6.3f  sin(3 x) %6.3f"):format(at, net(tensor.new { { at } }):item(), math.sin(3 * at)))
  end
end)
