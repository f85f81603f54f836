-- memory: allocation failures anywhere in a training step, scopes, the soft limit

local T = require "t"
local child = require "child"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local optim = require "mocl.optim.core"
local ppo = require "mocl.method.ppo"
local segments = require "mocl.segments"
local value_heads = require "mocl.train.value_heads"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local function live()
  collectgarbage()
  collectgarbage()
  local m = tensor.memory()
  return m.tensors, m.live
end

local function zero_grad(parameters)
  for _, p in ipairs(parameters or {}) do
    p:zero_grad()
  end
end

-- Runs f with the n-th allocation failing, n = 0, 1, ... until it succeeds. Each failure must be told as one,
-- and leave nothing behind but gradients of the parameters. Returns the number of failures.
local function sweep(f, parameters)
  f() -- opens the device, so that what stays for good is there before counting
  zero_grad(parameters)
  local tensors, bytes = live()
  for n = 0, 1e5 do
    tensor.fail_after(n)
    local ok, e = pcall(f)
    tensor.fail_after(-1)
    zero_grad(parameters)
    local now, now_bytes = live()
    T.eq({ now, now_bytes }, { tensors, bytes }, ("tensors and bytes after failure %d: %s"):format(n, tostring(e)))
    T.ok(tensor.is_grad_enabled(), "gradients are still recorded")
    if ok then
      return n
    end
    T.ok(type(e) == "string" and e:find("out of [%a ]*memory"), ("failure %d: %s"):format(n, tostring(e)))
  end
end

for _, device in ipairs(T.devices) do
  T.test("each allocation of a training step may fail, on " .. device, function()
    local model = small.model { device = device, config = { num_hidden_layers = 1 } }
    model:add_lora { r = 2, alpha = 4, key = 1, dropout = .1 }
    local parameters = lora.parameters(model)
    local function step()
      local opt <close> = optim.adamw(parameters, { lr = 1e-3 })
      local scope <close> = tensor.scope()
      local loss = lm.loss(model, { { 1, 2 }, { 3 } }, { { 4, 5 }, { 6 } }, { train = true, key = 1 })
      loss:backward()
      opt:step { max_grad_norm = 1 }
      return loss:item()
    end
    local n = sweep(step, parameters)
    T.ok(n > 60, n .. " allocations")
  end)

  T.test("each allocation of generation may fail, on " .. device, function()
    local model = small.adapter(small.model { device = device, config = { num_hidden_layers = 1 } })
    local want = (model:generate({ { 1, 2 }, { 3 } }, { max_new_tokens = 3, key = 4, suppress_first = 1, eos = 2 })).tokens
    local n = sweep(function()
      local scope <close> = tensor.scope()
      local g = model:generate({ { 1, 2 }, { 3 } }, { max_new_tokens = 3, key = 4, suppress_first = 1, eos = 2 })
      T.eq(g.tokens, want)
    end)
    T.ok(n > 60, n .. " allocations")
  end)
end

T.test("each allocation of a session may fail", function()
  local model = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local function answer()
    local scope <close> = tensor.scope()
    local s <close> = model:session { rows = 3, max_tokens = 8 }
    s:append({ { 1, 2, 3 }, { 4 } }, { 3, 1 })
    s:fork(3, 2)
    s:rewind(3, 2)
    s:append { { 5 }, { 6 }, { 7 } }
    s:rewind(1, 1)
    return (s:sample { key = 4 })
  end
  local want = answer()
  local n = sweep(function()
    T.eq(answer(), want)
  end)
  T.ok(n > 60, n .. " allocations")
end)

T.test("each allocation of a PPO step may fail", function()
  local model = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local heads = value_heads.new(2, 12, { key = 4 })
  local parameters = lora.parameters(model)
  table.move(heads:parameters(), 1, 8, #parameters + 1, parameters)
  local g, old = model:generate({ { 1, 2 }, { 3 } }, { max_new_tokens = 3, key = 4 })
  local n = sweep(function()
    local scope <close> = tensor.scope()
    local batch = transformer.pack({ { 1, 2 }, { 3 } }, g.tokens)
    local reference = tensor.no_grad(function()
      return nn.rows(model:forward(batch, { adapter = false }), batch.rows)
    end)
    local values = tensor.no_grad(heads.forward, heads, reference)
    local adv, returns = ppo.gae(segments.terminal({ { 1, 0 }, { 0, 1 } }, batch), values, batch.response_offsets)
    local combined = (adv * segments.spread({ { .5, .5 }, { 1, 0 } }, batch)):sum(2)
    local hidden = nn.rows(model:forward(batch), batch.rows)
    local logp, _, kl = nn.lm_head(hidden, model:head(), batch.targets, { hidden_ref = reference })
    local loss = ppo.clip(logp, old, combined, .2):mean() + kl:mean() + ppo.value_loss(heads:forward(hidden), returns)
    loss:backward()
  end, parameters)
  T.ok(n > 100, n .. " allocations")
end)

T.test("each allocation of making, adapting and merging a model may fail", function()
  local n = sweep(function()
    local model <close> = small.model { config = { num_hidden_layers = 2 } }
    model:add_lora { r = 2, key = 1 }
    model:merge_lora()
  end)
  T.ok(n > 40, n .. " allocations")
end)

T.test("each allocation of saving and loading may fail", function()
  local dir, model = T.tmpdir() .. "/model", small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local n = sweep(function()
    local ok, message = transformer.save(model, dir)
    if not ok then
      error(message, 0)
    end
    assert(lora.save(model, dir .. "/adapter"))
    local again <close> = assert(transformer.load(dir))
    assert(lora.load(again, dir .. "/adapter"))
  end)
  T.ok(n > 40, n .. " allocations")
end)

T.test("a model whose adapter could not be allocated has none, and works", function()
  local model = small.model()
  local batch = transformer.batch { { 1, 2, 3 } }
  local before = model:forward(batch):totable()
  for n = 0, 20, 4 do
    tensor.fail_after(n)
    local ok, e = pcall(model.add_lora, model, { r = 2, key = 1 })
    tensor.fail_after(-1)
    T.ok(not ok and e:find("out of [%a ]*memory"), tostring(e))
    T.eq(model:lora(), nil)
    T.eq(model:forward(batch):totable(), before)
  end
end)

-- ---- scopes ----

T.test("a scope releases what was made in it, also on errors", function()
  local before = live()
  local kept
  do
    local scope <close> = tensor.scope()
    local a = tensor.ones { 3 }
    local b = a + 1
    kept = scope:keep(b * 2)
    T.eq(tensor.memory().tensors, before + 3)
  end
  T.eq(tensor.memory().tensors, before + 1) -- at once, no collection
  T.eq(kept:totable(), { 4.0, 4.0, 4.0 })
  kept:release()
  local caught
  T.raises("on purpose", function()
    local scope <close> = tensor.scope()
    caught = tensor.ones { 3 }
    error "on purpose"
  end)
  T.eq(tensor.memory().tensors, before)
  T.raises("released", caught.totable, caught)
end)

T.test("scopes nest, and a kept tensor moves one out", function()
  local before = live()
  local x
  do
    local outer <close> = tensor.scope()
    do
      local inner <close> = tensor.scope()
      x = inner:keep(tensor.ones { 2 })
      local _ = tensor.ones { 2 }
    end
    T.eq(x:totable(), { 1.0, 1.0 })
    T.eq(tensor.memory().tensors, before + 1)
  end
  T.eq(tensor.memory().tensors, before)
  T.raises("released", x.totable, x)
end)

T.test("scopes that nobody closed: what is made later is neither held nor released", function()
  local function abandon()
    tensor.scope()
  end
  local before = live()
  for _, nested in ipairs { false, true } do
    abandon()
    local x = tensor.ones { 3 }
    do
      local inner <close> = nested and tensor.scope() or nil
      collectgarbage()
      tensor.ones { 2 }
    end
    local y = tensor.ones { 4 }
    T.eq({ x:totable(), y:totable() }, { { 1, 1, 1 }, { 1, 1, 1, 1 } })
    x, y = nil, nil
    collectgarbage()
    collectgarbage()
    T.eq(live(), before)
  end
end)

T.test("an error that leaves a scope open inside another is the one that is seen", function()
  local before = live()
  local x, left
  local _, message = pcall(function()
    local outer <close> = tensor.scope()
    x = tensor.ones { 2 }
    left = tensor.scope()
    error("stopped", 0)
  end)
  T.eq(message, "stopped")
  T.raises("released", x.totable, x)
  local y = tensor.ones { 3 }
  left:close()
  T.raises("released", y.totable, y)
  T.eq(live(), before)
end)

T.test("parameters and gradients live on after the scope of a step", function()
  local w = tensor.ones({ 3 }, { requires_grad = true })
  local loss
  do
    local scope <close> = tensor.scope()
    loss = (w * 2):sum()
    loss:backward()
  end
  T.eq(w.grad:totable(), { 2.0, 2.0, 2.0 })
  T.eq(w:totable(), { 1.0, 1.0, 1.0 })
  T.raises("released", loss.item, loss)
end)

T.test("a training loop under scopes holds its memory, also with the collector stopped", function()
  local model = small.model()
  local parameters = transformer.train_base(model)
  local opt <close> = optim.adamw(parameters, { lr = 1e-3 })
  local tensors, bytes
  collectgarbage "stop"
  local ok, e = pcall(function()
    for step = 1, 30 do
      do
        local scope <close> = tensor.scope()
        local loss = lm.loss(model, { { 1, 2 }, { 3 } }, { { 4, 5, step % 29 }, { 6 } })
        opt:zero_grad()
        loss:backward()
        opt:step {}
      end
      local m = tensor.memory()
      tensors, bytes = tensors or m.tensors, bytes or m.live
      T.eq({ m.tensors, m.live }, { tensors, bytes }, "after step " .. step)
    end
  end)
  collectgarbage "restart"
  T.ok(ok, e)
  opt:zero_grad()
end)

-- ---- the collector ----

T.test("the soft limit collects: many temporaries do not pile up", function()
  for _, mode in ipairs { "incremental", "generational" } do
    local was = collectgarbage(mode)
    live()
    tensor.flush()
    local limit = tensor.memory().limit
    local start, size, highest = tensor.memory().live, 4 << 20, 0
    local n = limit // size * 2 + 8 -- twice what the limit allows
    for _ = 1, n do
      local _ = tensor.zeros { size // 4 }
      highest = math.max(highest, tensor.memory().live)
    end
    collectgarbage(was)
    T.ok(highest <= math.max(limit, start) + 2 * size, ("%s: %d bytes were live, the limit was %d"):format(mode, highest, limit))
    T.ok(n * size > 1.5 * (highest - start), "more was made than was ever live")
    live()
    tensor.flush()
  end
end)

T.test("MOCL_GC_STRESS collects: with the collector stopped, what nobody holds is gone", function()
  local source = [[collectgarbage "stop"
    local weak, finalized = setmetatable({}, { __mode = "v" }), false
    weak.table = {}
    setmetatable({}, { __gc = function() finalized = true end })
    %s
    print(weak.table == nil, finalized)]]
  local by_tensor, by_object = source:format 'require("mocl.tensor").zeros { 1 }', source:format "for _ = 1, 64 do local _ = {} end"
  T.eq((child.lua(by_tensor)), "false\tfalse\n")
  T.eq((child.lua(by_tensor, "MOCL_GC_STRESS=1")), "true\ttrue\n")
  T.eq((child.lua(by_object)), "false\tfalse\n")
  T.eq((child.lua(by_object, "MOCL_GC_STRESS=1")), "true\tfalse\n") -- such a collection runs no finalizers
end)

T.test("memory() counts tensors and bytes, release and flush give back", function()
  live()
  tensor.flush()
  local before = tensor.memory()
  local x = tensor.zeros { 1000, 1000 }
  local now = tensor.memory()
  T.eq(now.tensors, before.tensors + 1)
  T.ok(now.live - before.live >= 4e6 and now.live - before.live < 9e6, "the bytes of one tensor")
  T.ok(now.peak >= now.live)
  x:release()
  x:release()
  now = tensor.memory()
  T.eq({ now.tensors, now.live }, { before.tensors, before.live })
  T.ok(now.cached >= 4e6, "kept for the next of its size")
  tensor.flush()
  T.eq(tensor.memory().cached, before.cached) -- what device fake holds
  T.raises("released", x.sum, x)
end)

T.test("a tensor that no machine can hold", function()
  T.raises("too large: its size in bytes overflows", tensor.zeros, { 1 << 40, 1 << 40 })
  T.raises("bytes are more than any machine here has", tensor.zeros, { 1 << 45 })
end)

for _, device in ipairs(T.devices) do
  T.test("a cap holds, counts what is cached, and ends, on " .. device, function()
    collectgarbage()
    collectgarbage()
    tensor.flush()
    local before = tensor.memory()
    local cap = before.live + (5 << 19)
    T.eq(tensor.memory_cap(device, cap), 0)
    local ok, e = pcall(function()
      local x <close> = tensor.zeros({ 1 << 18 }, { device = device }) -- 1 MiB; with a guard a class of 1.25 MiB
      local y = tensor.zeros({ 1 << 18 }, { device = device })
      T.raises("device " .. device .. " is out of memory: wanted 1048576 bytes, live %d+, cached %d+.*, cap " .. cap,
        tensor.zeros, { 1 << 18 }, { device = device })
      y:release() -- to the cache, of another class than what follows
      local z <close> = tensor.zeros({ 1 << 16 }, { device = device })
      T.eq(z:sum():item(), 0)
    end)
    T.eq(tensor.memory_cap(device, 0), cap)
    T.ok(ok, e)
    tensor.zeros({ 1 << 20 }, { device = device }):release()
  end)
end

T.test("a cap is bytes of a device", function()
  T.raises("bytes expected, 0 = no cap", tensor.memory_cap, "cpu", -1)
  T.raises("unknown device 'gpu'", tensor.memory_cap, "gpu", 1)
end)
