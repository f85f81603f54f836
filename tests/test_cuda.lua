-- device cuda: what it says where it cannot be used, faults, memory, and agreement with the cpu.
-- The kernels themselves are tested by the tables of operations, with run.lua --device cuda:0. Where there
-- is no GPU they run on the host emulator (kernels/cuda/emu/emu.h).

local T = require "t"
local child = require "child"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local ops = require "fixtures.ops"
local optim = require "mocl.optim.core"
local trainer = require "mocl.train.trainer"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

-- Runs Lua source with the emulator as device cuda; settings: MOCL_EMU_* variables as one string.
local function emulated(settings, source)
  local out, err, status = child.lua(source, ("env MOCL_CUDA=%s %s"):format(child.quote(T.emulator()), settings))
  T.eq(status, 0, err)
  return out
end

local OPEN = [[
local tensor = require "mocl.tensor"
print(pcall(tensor.zeros, { 1 }, { device = %q }))
print((tensor.ones({ 2 }) + 1):sum():item())
]]

-- opening fails with the reason, --env says the same, and the cpu goes on
local function unavailable(settings, device, reason)
  local out = emulated(settings, OPEN:format(device))
  local name = device == "cuda" and "cuda:0" or device
  T.ok(out:find(("device '%s' is not available: %s; use device=cpu\n4.0\n"):format(name, reason), 1, true), out)
  if device == "cuda" then
    local env = child.mocl({ "--env" }, ("env MOCL_CUDA=%s %s"):format(child.quote(T.emulator()), settings))
    T.ok(env:find("\ncuda +off: " .. reason:gsub("%p", "%%%0"):gsub("%%%%", "%%") .. "\n"), env)
    T.ok(env:find("\ndevices +cpu\n"), env)
  end
end

T.test("why cuda is off", function()
  unavailable("MOCL_EMU_DRIVER=0", "cuda", "no NVIDIA driver on this machine (libcuda.so.1 is not there)")
  unavailable("MOCL_EMU_DRIVER=12080", "cuda",
    "the NVIDIA driver supports CUDA 12.8, this build needs 13.0 or later: update the driver")
  unavailable("MOCL_EMU_DEVICES=0", "cuda", "no CUDA device: no CUDA-capable device is detected")
  unavailable("MOCL_EMU_SM=75", "cuda", "emulator has compute capability 7.5; mocl needs 8.0 or later")
  unavailable("", "cuda:7", "there is no device 7: this machine has cuda:0 alone")
  unavailable("MOCL_EMU_DEVICES=2", "cuda:7", "there is no device 7: this machine has cuda:0 to cuda:1")
end)

T.test("an object that is not there, or not one of ours", function()
  local out, _, status = child.lua(OPEN:format("cuda"), "env MOCL_CUDA=/nowhere/mocl_cuda.so")
  T.eq(status, 0)
  T.ok(out:find("device 'cuda:0' is not available: cannot load /nowhere/mocl_cuda.so", 1, true), out)
  out = child.lua(OPEN:format("cuda"), "env MOCL_CUDA=libm.so.6")
  T.ok(out:find("libm.so.6 is of another version of mocl", 1, true), out)
  T.ok(out:find("4.0\n", 1, true), out)
end)

T.test("names of devices", function()
  local out = emulated("MOCL_EMU_DEVICES=2", [[
local tensor = require "mocl.tensor"
for _, name in ipairs { "cuda:", "cuda:x", "cuda:-1", "cuda:+1", "cuda:0x", "cuda:1 ", "cuda: 1", "cuda:1234", "CUDA" } do
  print(select(2, pcall(tensor.zeros, { 1 }, { device = name })))
end
print(tensor.zeros({ 1 }, { device = "cuda:1" }))
print(tensor.zeros({ 1 }, { device = "cuda" }).device)
print(select(2, pcall(tensor.zeros, { 1 }, { device = "cuda:0" })))
]])
  local _, n = out:gsub("unknown device '[^\n]*' %(cpu, cuda or cuda:N%)\n", "")
  T.eq(n, 9, out)
  T.ok(out:find("tensor (1) f32 cuda:1\n{0}\ncuda:1\n", 1, true), out)
  T.ok(out:find("this state has opened cuda:1, and it uses one CUDA device", 1, true), out)
end)

T.test("a fault is told by its kernel, sticks, and leaves the cpu alone", function()
  local out = emulated("MOCL_CUDA_SYNC=1 MOCL_EMU_FAULT=3", [[
local tensor = require "mocl.tensor"
local x = tensor.new({ 1, 2, 3 }, { device = "cuda" })
local y = x + 1
y = y * 2
print(pcall(function() return y:exp() end))
print(pcall(function() return x - x end))
print(pcall(x.totable, x))
print(pcall(tensor.zeros, { 4 }, { device = "cuda" }))
print(tensor.new { 1, 2 }:sum():item())
x:release()
]])
  local fault = "device cuda:0 has failed and cannot be used any more in this process; first fault: unary_kernel: "
    .. "unspecified launch failure in unary_kernel (injected)"
  for _, op in ipairs { "unary", "binary", "download", "fill" } do
    T.ok(out:find(op .. ": " .. fault, 1, true) or op == "fill" and out:find("alloc: " .. fault, 1, true), op .. " in " .. out)
  end
  T.ok(out:find("\n3.0\n", 1, true), out)
end)

T.test("a fault at each launch of a training step: an error, and nothing hangs", function()
  for n = 1, 400, 37 do
    local out = emulated("MOCL_CUDA_SYNC=1 MOCL_EMU_FAULT=" .. n, ([[
package.path = %q .. "/?.lua;" .. package.path
local lm, small, tensor = require "mocl.lm.sft", require "fixtures.llama.small", require "mocl.tensor"
local optim, lora = require "mocl.optim.core", require "mocl.lm.lora"
local ok, e = pcall(function()
  local model = small.adapter(small.model { device = "cuda", config = { num_hidden_layers = 1 } })
  local opt = optim.adamw(lora.parameters(model), { lr = 1e-3 })
  lm.loss(model, { { 1, 2 }, { 3 } }, { { 4, 5 }, { 6 } }, { train = true, key = 1 }):backward()
  opt:step { max_grad_norm = 1 }
end)
print(ok or e)
print((tensor.ones { 2 } + 1):sum():item())
]]):format(arg[0]:match("^(.*)/[^/]*$") or "."))
    T.ok(out:find("first fault: [%w_<>]+: unspecified launch failure in [%w_<>]+ %(injected%)\n4.0\n$") or out == "true\n4.0\n",
      n .. ": " .. out)
  end
end)

T.test("out of memory is told with the figures, and room that is made is used", function()
  local out = emulated("MOCL_EMU_MEMORY=1000000", [[
local tensor = require "mocl.tensor"
local x = tensor.zeros({ 100000 }, { device = "cuda" })
local y = tensor.zeros({ 100000 }, { device = "cuda" })
print(pcall(tensor.zeros, { 100000 }, { device = "cuda" }))
y:release()
print(tensor.zeros({ 100000 }, { device = "cuda" }):sum():item(), x:sum():item())
]])
  T.ok(out:find("device cuda:0 is out of memory: wanted 400000 bytes, live %d+, cached 0, free %d+ of 1000000; use smaller [^\n]+\n0.0\t0.0\n"), out)
end)

T.test("too little memory for a training step, of many sizes: told, nothing lost", function()
  local seen = {}
  for kib = 4, 180, 16 do
    local out = emulated("MOCL_EMU_MEMORY=" .. kib * 1024, ([[
package.path = %q .. "/?.lua;" .. package.path
local lm, small, tensor = require "mocl.lm.sft", require "fixtures.llama.small", require "mocl.tensor"
local optim, lora = require "mocl.optim.core", require "mocl.lm.lora"
local function step(device)
  local model = small.adapter(small.model { device = device, config = { num_hidden_layers = 1 } })
  local opt = optim.adamw(lora.parameters(model), { lr = 1e-3 })
  local loss = lm.loss(model, { { 1, 2 }, { 3 } }, { { 4, 5 }, { 6 } }, { train = true, key = 1 })
  loss:backward()
  opt:step { max_grad_norm = 1 }
  return loss:item()
end
print(pcall(step, "cuda"))
print(step "cpu")
]]):format(arg[0]:match("^(.*)/[^/]*$") or "."))
    local fine = out:find "^true\t%d"
    T.ok((fine or out:find "^false\t[^\n]*device cuda:0 is out of [%a ]*memory") and out:find "\n%d[%d.]+\n$", kib .. " KiB: " .. out)
    seen[fine and "fits" or "fails"] = true
  end
  T.eq(seen, { fits = true, fails = true })
end)

-- ---- agreement with the cpu ----

local NEAR = {
  -- both build the same sums of f32 products in another order, or call another exp; twice a test's
  -- tolerance against PyTorch is the most that two right answers can differ
  values = function(op) return 2 * ops.rows[op].tol end,
  gradients = function(op) return 2 * ops.rows[op].grad_tol end,
}

local function outcome(case, device)
  local args, leaves = ops.arguments(case, device)
  local outs = ops.rows[case.op].call(args, case.p)
  local loss = ops.loss(outs)
  if loss then
    loss:backward()
  end
  local values, gradients = {}, {}
  for i, o in ipairs(outs) do
    values[i] = ops.flat(o)
  end
  for _, leaf in ipairs(leaves) do
    gradients[#gradients + 1] = leaf and leaf.grad and ops.flat(leaf.grad) or nil
  end
  return values, gradients
end

for _, device in ipairs(T.devices) do
  if device:find "^cuda" then
    T.test("rotary embedding of heads that are wider than a block's angles, on " .. device, function()
      local x = tensor.randn({ 5, 3, 300 }, { key = 1 })
      local function turned(d)
        local t = x:to(d):requires_grad_()
        local y = nn.rope(t, tensor.new({ 0, 9, 2, 70, 5 }, { dtype = "i32", device = d }), 10000)
        local squares = y * y
        squares:sum():backward()
        return y:flatten():totable(), t.grad:flatten():totable()
      end
      local want, slope = turned "cpu"
      local got, got_slope = turned(device)
      T.near(got, want, 1e-6)
      T.near(got_slope, slope, 1e-5)
    end)

    T.test("every operation agrees with the cpu, on " .. device, function()
      local worst, order = {}, {}
      for _, name in ipairs(ops.files) do
        for _, case in ipairs(ops.load("ops_" .. name)) do
          local a, da = outcome(case, "cpu")
          local b, db = outcome(case, device)
          local w = worst[case.op]
          if not w then
            w = { 0, 0 }
            worst[case.op] = w
            order[#order + 1] = case.op
          end
          for k, pair in ipairs { { a, b }, { da, db } } do
            T.eq(#pair[1], #pair[2])
            local bound = (k == 1 and NEAR.values or NEAR.gradients)(case.op)
            for i = 1, #pair[1] do
              local d, at = ops.distance(pair[2][i], pair[1][i])
              T.ok(d <= bound, ("%s: %s %d entry %d is off by %.2g, allowed %.2g"):format(ops.describe(case),
                k == 1 and "output" or "gradient", i, at, d, bound))
              w[k] = math.max(w[k], d)
            end
          end
        end
      end
      if os.getenv("MOCL_TEST_DISTANCES") then
        for _, op in ipairs(order) do
          print(("%-14s values %.1e gradients %.1e"):format(op, worst[op][1], worst[op][2]))
        end
      end
    end)

    T.test("conversions and fills are the cpu's to the bit, on " .. device, function()
      local list = { 0, -0.0, 1, -1.5, 2.5, 1e-8, 6e-8, 5.97e-8, 3e-5, 65503, 65519, 65520, 1e6, -1e30, 1 / 0, -1 / 0, 127.5,
        128, 255.9, 256, -129, 3e9, -3e9, 1e19 }
      for i = 0, 40 do -- ties of bf16 and f16, and their neighbours
        list[#list + 1] = 1 + i / 2 ^ 8
        list[#list + 1] = 1 + i / 2 ^ 11
        list[#list + 1] = (1 + i / 2 ^ 11) * (1 + 2 ^ -23)
      end
      local all = { "f32", "bf16", "f16", "i8", "u8", "i32", "i64" }
      for _, from in ipairs(all) do
        for _, to in ipairs(all) do
          local x = tensor.new(list):to(from)
          T.eq(x:to(device):to(to):totable(), x:to(to):totable(), from .. " to " .. to)
        end
        T.eq(tensor.full({ 70 }, -2.75, { dtype = from, device = device }):totable(),
          tensor.full({ 70 }, -2.75, { dtype = from }):totable(), "fill " .. from)
      end
    end)

    T.test("random numbers are the cpu's, on " .. device, function()
      local function both(f)
        return f("cpu"):flatten():totable(), f(device):flatten():totable()
      end
      local a, b = both(function(d) return tensor.rand({ 1003 }, { key = 5, stream = 1 << 33, low = -2, high = 3, device = d }) end)
      T.eq(b, a, "uniform: to the bit")
      a, b = both(function(d) return nn.dropout(tensor.ones({ 1003 }, { device = d }), .3, { key = 9, stream = 2 }) end)
      T.eq(b, a, "dropout masks")
      a, b = both(function(d) return tensor.randn({ 1003 }, { key = 5, stream = 7, std = 2, device = d }) end)
      T.near(b, a, 1e-6, "normal: sine and logarithm in double, rounded once")
    end)

    T.test("the same tokens and log-probabilities as the cpu, on " .. device, function()
      for _, o in ipairs { { temperature = 0 }, { temperature = 1 }, { temperature = .7, top_k = 5 },
        { temperature = 1.2, top_p = .8 }, { top_k = 9, top_p = .6 } } do
        local tokens, logps = {}, {}
        for i, d in ipairs { "cpu", device } do
          local model = small.adapter(small.model { device = d })
          o.key, o.max_new_tokens, o.eos = 4, 12, 6
          local g, logp = model:generate({ { 1 }, { 2, 3, 4 }, { 28, 0, 7, 7, 1 }, { 5, 6 } }, o)
          tokens[i], logps[i] = g.tokens, logp:totable()
        end
        T.eq(tokens[2], tokens[1], json.encode(o))
        T.near(logps[2], logps[1], 2e-5, json.encode(o))
      end
    end)

    T.test("ties at the edge of a cut: the first ids, as on the cpu, on " .. device, function()
      for _, o in ipairs { { top_k = 5 }, { top_p = .4 }, { top_k = 20, top_p = .31 }, { temperature = 0 } } do
        local tokens = {}
        for i, d in ipairs { "cpu", device } do
          local model = small.model { device = d }
          model:head():zero_() -- every logit is 0
          o.key, o.max_new_tokens = 4, 30
          tokens[i] = model:generate({ { 1 }, { 2, 3, 4 } }, o).tokens
        end
        T.eq(tokens[2], tokens[1], json.encode(o))
      end
    end)

    T.test("rows with one entry far above the others, on " .. device, function()
      for _, n in ipairs { 7, 300, 3001 } do
        for at = 1, n, (n + 3) // 4 do
          local list = {}
          for i = 1, n do
            list[i] = i == at and 400.5 or math.sin(i) * 3
          end
          local x = tensor.new { list }
          local y = x:to(device)
          for _, op in ipairs { "softmax", "log_softmax", "logsumexp" } do
            T.near(y[op](y, 2):flatten():totable(), x[op](x, 2):flatten():totable(), 1e-6, op .. " of " .. n)
          end
          local function head(t)
            local d = t.device
            local logp, entropy = nn.lm_head(tensor.ones({ 1, 1 }, { device = d }), t:reshape { n, 1 }, tensor.new({ at - 1 },
              { device = d, dtype = "i32" }), {})
            return { logp:item(), entropy:item() }
          end
          T.near(head(y), head(x), 1e-6, "lm_head of " .. n)
        end
      end
    end)

    T.test("ten steps of LoRA training as on the cpu, on " .. device, function()
      local losses = {}
      for i, d in ipairs { "cpu", device } do
        losses[i] = {}
        local model = small.adapter(small.model { device = d }, { dropout = .1 })
        local opt <close> = optim.adamw(lora.parameters(model), { lr = 1e-2, weight_decay = .01 })
        for step = 1, 10 do
          local scope <close> = tensor.scope()
          local loss = lm.loss(model, { { 1, 2 }, { 3 }, { 9, 9, 9 } }, { { 4, 5, 6, 7 }, { 6 }, { 1, 2 } },
            { train = true, key = step })
          opt:zero_grad()
          loss:backward()
          opt:step { max_grad_norm = 1 }
          losses[i][step] = loss:item()
        end
      end
      T.near(losses[2], losses[1], 1e-4) -- roundings of 1e-7 grow with each step through Adam's division
      T.ok(losses[1][10] < losses[1][1] - .1, "it learns")
    end)

    T.test("a step ahead does not wait, is the same step, and changes nothing where a gradient is not finite, on " .. device, function()
      local function steps(ahead, kind)
        local list, norm = {}, nil
        for i = 1, 40 do -- more than one launch takes
          list[i] = { "p" .. i, tensor.randn({ 30, 7 }, { key = i, device = device }):requires_grad_() }
        end
        local opt = optim[kind](list, { lr = .1 })
        local waited = 0
        for n = 1, 4 do
          for i, pair in ipairs(list) do
            pair[2]:zero_grad()
            pair[2]:backward(tensor.randn({ 30, 7 }, { key = 100 * n + i, device = device }))
          end
          local before = tensor.memory().waits
          norm = opt:step { max_grad_norm = n < 3 and 2 or 0, ahead = ahead }
          waited = waited + tensor.memory().waits - before
        end
        local values = {}
        for i, pair in ipairs(list) do
          values[i] = pair[2]:totable()
        end
        return values, norm, waited, opt, list
      end
      local want, norm, waited = steps(false, "adamw")
      local got, parts, none, opt, list = steps(true, "adamw")
      local a, b, c = table.unpack(parts:totable())
      T.eq({ got, a + b + c, waited, none }, { want, norm, 4, 0 })
      T.eq(#steps(true, "sgd"), 40)
      for _, bad in ipairs { 0 / 0, 1 / 0, 1e25 } do -- the last one's square is no f32
        local moments = opt:state().second[7]:totable()
        list[33][2]:zero_grad()
        list[33][2]:backward(tensor.full({ 30, 7 }, bad, { device = device }))
        local x, y, z = table.unpack(opt:step({ ahead = true }):totable())
        for i, pair in ipairs(list) do
          T.eq(pair[2]:totable(), got[i])
        end
        T.eq(opt:state().second[7]:totable(), moments)
        T.raises(bad == 1e25 and "step: the square of a gradient of norm 1%.4%d*e%+26 is not finite" or
          "step: the gradient of p33 %(30,7%) is not finite %(%-?%a+ at %[1,1%]%); nothing was changed", opt.check, opt, x + y + z)
      end
    end)

    T.test("epochs of the trainer do not wait for the device: metrics are read once an iteration, on " .. device, function()
      local w = tensor.new({ 1, -1 }, { device = device }):requires_grad_()
      local x = tensor.new({ { 1, 2 }, { 3, 4 } }, { device = device })
      local actor = { OPTIONS = {}, has_values = false, words = { value_loss = "none" }, begin = function() end, updated = function() end,
        named_parameters = function() return { { "w", w } } end,
        evaluate = function() return { logp = (x * w):sum(2), entropy = w:square():mean() } end }
      local function waits(epochs, poison)
        local t <close> = trainer.new { actor = actor, seed = 0, total = 10, label = "policy", options = { ppo_epochs = epochs, warmup = 0 } }
        for _ in t:iterations(1) do
          local before = tensor.memory().waits
          local m = t:update({ n = 2 }, function(e)
            local loss = e.logp:sum()
            return poison and e.epoch == 2 and loss * tensor.new({ 0 / 0 }, { device = device }):sum() or loss
          end)
          return tensor.memory().waits - before, m
        end
      end
      local one, m = waits(1)
      local many, m4 = waits(4)
      T.eq({ many, m["ppo/grad_norm"], m4["ppo/grad_norm"] }, { one, (4 ^ 2 + 6 ^ 2) ^ .5, (4 ^ 2 + 6 ^ 2) ^ .5 })
      local before = w:totable()
      T.raises("^policy: iteration 1: step: .*gradient.* not finite.*; lower lr, which is", waits, 2, true)
      T.ok(w:nonfinite() == nil and before, "the weights stay finite")
    end)

    T.test("heads of more than 128 entries are refused by name, on " .. device, function()
      local x = tensor.zeros({ 3, 1, 129 }, { device = device })
      T.raises("attention: sizes beyond what device cuda:0 computes", nn.attention, x, x, x,
        tensor.new({ 0, 3 }, { device = device, dtype = "i32" }))
    end)

    T.test("a batch of tensors of no entries, on " .. device, function()
      local x = tensor.zeros({ 0, 4 }, { device = device })
      T.eq((x + 1):sum():item(), 0)
      T.eq(x:matmul(tensor.ones({ 4, 2 }, { device = device })).shape, { 0, 2 })
      T.eq(transformer.batch({ { 1, 2 } }, { device = device }).tokens.device, device)
    end)
  end
end
