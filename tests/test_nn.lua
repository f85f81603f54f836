-- mocl.nn: layers, initial values, losses; small problems are learnt, the same seed gives the same run

local T = require "t"
local ops = require "fixtures.ops"
local nn = require "mocl.nn"
local optim = require "mocl.optim"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"

local TOL = ops.is_double and 1e-12 or 2e-6

local function names(layer, prefix)
  local list = {}
  for i, entry in ipairs(layer:named_parameters(prefix)) do
    list[i] = entry[1]
  end
  return list
end

T.test("Linear: law of the initial values", function()
  local l = nn.Linear(100, 300, { key = rng.key(1, "init") })
  T.eq({ l.weight.shape, l.bias.shape }, { { 300, 100 }, { 300 } })
  T.eq({ l.weight.requires_grad, l.bias.requires_grad }, { true, true })
  for _, t in pairs(l:state()) do
    local n, bound = t:numel(), .1
    T.ok(t:abs():max():item() <= bound and t:abs():max():item() > bound * .98)
    T.ok(math.abs(t:mean():item()) < 4 * bound / math.sqrt(3 * n))
    T.near(t:square():mean():item(), bound ^ 2 / 3, bound ^ 2 * 4 / math.sqrt(n))
  end
  T.ok(l.weight[1][1]:item() ~= l.bias[1]:item(), "weight and bias come from different streams")
  local x = tensor.randn({ 2, 100 }, { seed = 3 })
  T.eq(ops.flat(l(x)), ops.flat(nn.linear(x, l.weight, l.bias)))
  local again = nn.Linear(100, 300, { key = rng.key(1, "init") })
  T.eq(ops.flat(again.weight), ops.flat(l.weight))
  T.ok(nn.Linear(2, 2, { seed = 1, stream = 1 }).weight[1][1]:item() ~= nn.Linear(2, 2,
    { seed = 1 }).weight[1][1]:item())
end)

T.test("Linear: options", function()
  T.eq(names(nn.Linear(2, 3, { seed = 1, bias = false })), { "weight" })
  T.eq(nn.Linear(2, 3, { init = "zeros" }).weight:abs():sum():item(), 0)
  local made = nn.Linear(2, 3, { seed = 4, init = function(shape, o)
    return tensor.randn(shape, { seed = o.seed, stream = o.stream, device = o.device, std = .02 })
  end })
  T.ok(made.weight:abs():max():item() < .1)
  T.eq(nn.Linear(2, 3, { seed = 1, device = "fake" }).weight.device, "fake")
  T.raises("Linear: give key=K from mocl.rng %(or seed=N%): there is no hidden generator", nn.Linear, 2, 3)
  T.raises("Linear: unknown option 'baias'", nn.Linear, 2, 3, { baias = false })
  T.raises("Linear: the input size must be a positive integer, got 0", nn.Linear, 0, 3, { seed = 1 })
  T.raises("Linear: the output size must be a positive integer, got nil", nn.Linear, 2)
  T.raises("Linear: init must be 'uniform', 'zeros' or a function, got ones", nn.Linear, 2, 3, { seed = 1,
    init = "ones" })
end)

T.test("Embedding, RMSNorm, LayerNorm", function()
  local e = nn.Embedding(50, 40, { seed = 2 })
  T.ok(math.abs(e.weight:square():mean():item() - 1) < 4 * math.sqrt(2 / 2000))
  T.eq(ops.flat(e { 3, 0 }), ops.flat(nn.embedding(e.weight, { 3, 0 })))
  T.near(nn.Embedding(50, 40, { seed = 2, std = .5 }).weight[1][1]:item(), e.weight[1][1]:item() / 2, 1e-6)
  local x = tensor.randn({ 3, 4 }, { seed = 1 })
  T.eq(ops.flat(nn.RMSNorm(4)(x)), ops.flat(nn.rms_norm(x)))
  T.eq(ops.flat(nn.LayerNorm(4, { eps = 1e-3 })(x)), ops.flat(nn.layer_norm(x, nil, nil, 1e-3)))
  T.eq(names(nn.LayerNorm(4)), { "weight", "bias" })
  T.eq(names(nn.LayerNorm(4, { bias = false })), { "weight" })
  T.eq(names(nn.RMSNorm(4)), { "weight" })
  T.raises("Embedding: give key=K", nn.Embedding, 2, 2)
  T.raises("RMSNorm: unknown option 'epsilon'", nn.RMSNorm, 2, { epsilon = 1 })
  T.raises("LayerNorm: the dimension must be", nn.LayerNorm, 2.5)
end)

T.test("Sequential and MLP: parts and names in order", function()
  local m = nn.MLP({ 3, 5, 4, 2 }, { activation = "tanh", seed = 1 })
  T.eq(names(m), { "1.weight", "1.bias", "3.weight", "3.bias", "5.weight", "5.bias" })
  T.eq(names(m, "policy."), { "policy.1.weight", "policy.1.bias", "policy.3.weight", "policy.3.bias", "policy.5.weight",
    "policy.5.bias" })
  T.eq(#m:parameters(), 6)
  T.ok(rawequal(m:parameters()[3], m[3].weight) and rawequal(m:state()["3.weight"], m[3].weight))
  local x = tensor.randn({ 7, 3 }, { seed = 9 })
  local want = m[5](m[3](m[1](x):tanh()):tanh())
  T.eq(ops.flat(m(x)), ops.flat(want))
  local nested = nn.Sequential(nn.Sequential(nn.Linear(2, 2, { seed = 1 })), nn.ReLU(), function(t) return t * 2 end)
  T.eq(names(nested), { "1.1.weight", "1.1.bias" })
  T.eq(nested(tensor.zeros { 1, 2 }).shape, { 1, 2 })
  for name, layer in pairs { relu = nn.ReLU, tanh = nn.Tanh, silu = nn.SiLU, gelu = nn.GELU, sigmoid = nn.Sigmoid } do
    T.eq(ops.flat(layer()(x)), ops.flat(x[name](x)), name)
    T.eq(layer():parameters(), {})
  end
  local scaled = nn.MLP({ 3, 5, 2 }, { seed = 1, output_scale = .01 })
  local plain = nn.MLP({ 3, 5, 2 }, { seed = 1 })
  T.eq(ops.flat(scaled[1].weight), ops.flat(plain[1].weight))
  T.near(ops.flat(scaled[3].weight), ops.flat(plain[3].weight * .01), 1e-9)
  T.eq(scaled[3].weight.requires_grad, true)
  T.eq(#nn.MLP({ 3, 2 }, { seed = 1, bias = false }):parameters(), 1)
  T.raises("MLP: at least two sizes are needed", nn.MLP, { 3 }, { seed = 1 })
  T.raises("MLP: unknown activation 'elu' %(relu, tanh, silu, gelu, sigmoid%)", nn.MLP, { 3, 2 }, { seed = 1,
    activation = "elu" })
  T.raises("Sequential: part 2 is a number, not a layer or function", nn.Sequential, nn.ReLU(), 3)
end)

T.test("load copies a state, all of it or nothing", function()
  local a, b = nn.MLP({ 2, 3, 1 }, { seed = 1 }), nn.MLP({ 2, 3, 1 }, { seed = 2 })
  T.ok(rawequal(b:load(a:state()), b))
  local x = tensor.randn({ 4, 2 }, { seed = 1 })
  T.eq(ops.flat(b(x)), ops.flat(a(x)))
  T.eq(b[1].weight.requires_grad, true)
  local state = a:state()
  state["1.bias"] = nil
  T.raises("load: tensor '1.bias' is missing", b.load, b, state)
  state = a:state()
  state["9.bias"] = x
  T.raises("load: the layer has no tensor '9.bias'", b.load, b, state)
  T.raises("load: tensor '1.weight' is %(5,2%), not %(3,2%)", b.load, b, nn.MLP({ 2, 5, 1 }, { seed = 1 }):state())
  T.raises("load: tensor '3.weight' is %(2,3%), not %(1,3%)", b.load, b, nn.MLP({ 2, 3, 2 }, { seed = 7 }):state())
  T.eq(ops.flat(b(x)), ops.flat(a(x)), "nothing was copied")
end)

T.test("losses by hand", function()
  local logits = tensor.new { { 1, 2, 3 }, { 0, 0, 0 } }
  local z = math.exp(1) + math.exp(2) + math.exp(3)
  T.near(nn.cross_entropy(logits, { 2, 1 }):item(), (math.log(z) - 3 + math.log(3)) / 2, TOL)
  T.near(nn.mse_loss(tensor.new { 1, 2 }, tensor.new { 3, 5 }):item(), 6.5, TOL)
  local function bce(x, y)
    local p = 1 / (1 + math.exp(-x))
    return -y * math.log(p) - (1 - y) * math.log(1 - p)
  end
  T.near(nn.bce_with_logits(tensor.new { 2, -1, .5 }, tensor.new { 1, 0, .25 }):item(),
    (bce(2, 1) + bce(-1, 0) + bce(.5, .25)) / 3, TOL)
  T.near(nn.bce_with_logits(tensor.new { 100, -100 }, tensor.new { 1, 0 }):item(), 0, TOL)
  T.near(nn.log_prob_of(logits, { 0, 2 }):totable(), { 1 - math.log(z), -math.log(3) }, TOL)
  T.near(nn.entropy_of(logits)[2]:item(), math.log(3), TOL)
  T.near(nn.kl_of(logits, logits):totable(), { 0, 0 }, TOL)
  T.near(nn.kl_of(tensor.new { { 0, 0 } }, tensor.new { { 0, math.log(3) } }):item(),
    .5 * math.log(.5 / .25) + .5 * math.log(.5 / .75), TOL)
  local x = tensor.new({ { 1, 2, 3 } }, { requires_grad = true })
  nn.cross_entropy(x, { 0 }):backward()
  T.near(x.grad[1]:totable(), { math.exp(1) / z - 1, math.exp(2) / z, math.exp(3) / z }, TOL)
end)

T.test("sample_of draws from the softmax", function()
  local n, p = 20000, { .1, .2, .7 }
  local logits = tensor.new({ math.log(.1), math.log(.2), math.log(.7) }):reshape(1, 3):expand(n, 3)
  local ids = nn.sample_of(logits, { key = rng.key(1, "actions"), stream = 4 })
  T.eq({ ids.dtype, ids.shape }, { "i32", { n } })
  local count = { 0, 0, 0 }
  for _, id in ipairs(ids:totable()) do count[id + 1] = count[id + 1] + 1 end
  for i = 1, 3 do
    T.ok(math.abs(count[i] / n - p[i]) < 4 * math.sqrt(p[i] * (1 - p[i]) / n), "share of " .. i - 1)
  end
  T.eq(nn.sample_of(logits, { key = rng.key(1, "actions"), stream = 4 }):totable(), ids:totable())
  T.raises("sample_of: give key=K", nn.sample_of, logits)
  T.eq(nn.sample_of(tensor.new { { 0, -math.huge } }, { seed = 1 }):totable(), { 0 }, "what is impossible is not drawn")
end)

-- losses of a training run
local function xor(seed)
  local x = tensor.new { { 0, 0 }, { 0, 1 }, { 1, 0 }, { 1, 1 } }
  local y = tensor.new { { 0 }, { 1 }, { 1 }, { 0 } }
  local model = nn.MLP({ 2, 8, 1 }, { activation = "tanh", key = rng.key(seed, "init") })
  local opt = optim.adamw(model:parameters(), { lr = .05 })
  local losses = {}
  for step = 1, 300 do
    local scope <close> = tensor.scope()
    local loss = nn.bce_with_logits(model(x), y)
    opt:zero_grad()
    loss:backward()
    opt:step { max_grad_norm = 1 }
    losses[step] = loss:item()
  end
  return losses, model(x):sigmoid():totable()
end

T.test("XOR is learnt; the same seed gives the same losses", function()
  local losses, p = xor(3)
  T.ok(losses[1] > .5 and losses[300] < .02, ("%g to %g"):format(losses[1], losses[300]))
  T.near(p, { { 0 }, { 1 }, { 1 }, { 0 } }, .05)
  T.eq((xor(3)), losses, "bit for bit")
  T.ok(xor(4)[1] ~= losses[1])
end)

T.test("a linear regression finds its coefficients", function()
  local x = tensor.randn({ 64, 3 }, { seed = 1 })
  local y = nn.linear(x, tensor.new { { 1, -2, .5 } }, tensor.new { 3 })
  local model = nn.Linear(3, 1, { seed = 2 })
  local opt = optim.sgd(model:parameters(), { lr = .1, momentum = .9 })
  local factor = optim.schedule.cosine { warmup = 10, total = 200 }
  for _ = 1, 200 do
    local scope <close> = tensor.scope()
    opt:zero_grad()
    nn.mse_loss(model(x), y):backward()
    opt:step { lr = .1 * factor(opt:steps()) }
  end
  T.near(ops.flat(model.weight), { 1, -2, .5 }, 1e-3)
  T.near(ops.flat(model.bias), { 3 }, 1e-3)
end)

T.test("a classifier is learnt with cross entropy", function()
  local x = tensor.randn({ 90, 2 }, { seed = 5 })
  local ids = {}
  for i, row in ipairs(x:totable()) do
    ids[i] = row[1] > 0 and 0 or row[2] > 0 and 1 or 2
  end
  local model = nn.MLP({ 2, 16, 3 }, { activation = "silu", seed = 1 })
  local opt = optim.adamw(model:parameters(), { lr = .03 })
  for _ = 1, 200 do
    local scope <close> = tensor.scope()
    opt:zero_grad()
    nn.cross_entropy(model(x), ids):backward()
    opt:step()
  end
  local right = 0
  for i, id in ipairs(model(x):argmax(2):totable()) do
    right = right + (id == ids[i] and 1 or 0)
  end
  T.ok(right >= 88, right .. " of 90")
end)
