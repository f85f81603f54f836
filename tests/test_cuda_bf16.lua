-- dtype bf16 on cuda and on the cpu: each operation against the cpu's f32 within the bound that its roundings give, row invariance, models,
-- generation, training.
--
-- Inputs are numbers that bf16 holds, so that cpu and device begin with the same ones. U is the most that rounding to
-- bf16 changes a number, relative to it. What follows from it per operation is beside each case; all else is f32 and has the
-- tolerances of test_cuda. docs/cuda.md has the table.

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local ops = require "fixtures.ops"
local optim = require "mocl.optim.core"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local U = 2 ^ -8

-- numbers of bf16, as f32 on the cpu
local function draw(shape, key, std)
  return tensor.randn(shape, { key = key, std = std or 1 }):to("bf16"):to "f32"
end

local function abs_product(a, b) -- |a| |b|
  return a:abs():matmul(b:abs())
end

-- Each case: inputs (f32 on the cpu), the call, and the bounds by hand: value(want) and gradient(i, want) give tensors of the
-- absolute difference that bf16 explains, or 0. `plain` inputs stay f32 (weights of norms, adapters).
local CASES = {}
local function case(name, c)
  c.name = name
  CASES[#CASES + 1] = c
end

local function once(want) -- the output rounded once
  return want:abs() * U
end

for i, s in ipairs { { 5, 33, 19 }, { 70, 40, 24 }, { 3, 600, 48 } } do
  local m, k, n = table.unpack(s)
  local x, w, g = draw({ m, k }, 10 * i), draw({ n, k }, 10 * i + 1, .2), draw({ m, n }, 10 * i + 2)
  g = g + .001 -- a gradient is f32
  case(("linear of %d x %d x %d"):format(m, k, n), {
    op = "linear", inputs = { x, w }, call = function(a) return nn.linear(a[1], a[2]) end, seed = g, value = once,
    -- the gradient enters both products rounded
    gradient = function(at) return (at == 1 and abs_product(g, w) or abs_product(g:t(), x)) * U end,
  })
  case(("linear of %d x %d x %d with a bias"):format(m, k, n), { -- it is added before the output is rounded
    op = "linear", inputs = { x, w, draw({ n }, 10 * i + 5) }, plain = { [3] = true },
    call = function(a) return nn.linear(a[1], a[2], a[3]) end, seed = g, value = once,
    gradient = function(at) return at == 3 and 0 or (at == 1 and abs_product(g, w) or abs_product(g:t(), x)) * U end,
  })
  for _, r in ipairs { 3, 8 } do
    local a, b, scale = draw({ r, k }, 10 * i + 3, .2), draw({ n, r }, 10 * i + 4, .2), .5
    local base, inner = x:matmul(w:t()), x:matmul(a:t())
    local du = abs_product(g, b) * scale
    case(("lora_linear of %d x %d x %d, r = %d"):format(m, k, n, r), {
      op = "lora_linear", inputs = { x, w, a, b }, plain = { [3] = true, [4] = true },
      call = function(t) return nn.lora_linear(t[1], t[2], t[3], t[4], { scale = scale }) end, seed = g,
      -- x W^T, x A^T and the sum are rounded
      value = function(want) return (base:abs() + abs_product(inner, b:t()) * scale + want:abs()) * (U * 1.01) end,
      -- so are the gradient, x A^T and the gradient of that
      gradient = function(at)
        if at == 1 then
          return abs_product(g, w) * U + abs_product(du, a) * (2.01 * U)
        elseif at == 2 then
          return abs_product(g:t(), x) * U
        elseif at == 3 then
          return abs_product(du:t(), x) * (2.01 * U)
        end
        return abs_product(g:t(), abs_product(x, a:t())) * (2.01 * U * scale)
      end,
    })
  end
end
for i, s in ipairs { { 1, 1 }, { 3, 7 }, { 70, 300 }, { 2, 2100 } } do
  local x, y = draw(s, 100 + i), draw(s, 110 + i)
  local function none() return 0 end
  case("add " .. i, { op = "add", inputs = { x, y }, call = function(a) return a[1] + a[2] end, value = once, gradient = none })
  case("swiglu " .. i, { op = "swiglu", inputs = { x, y }, call = function(a) return nn.swiglu(a[1], a[2]) end, value = once,
    gradient = none })
  case("rms_norm " .. i, { op = "rms_norm", inputs = { x, draw({ s[2] }, 120 + i) }, plain = { [2] = true },
    call = function(a) return nn.rms_norm(a[1], a[2], 1e-5) end, value = once, gradient = none })
  local rows = { s[1] - 1, 0, 0 }
  case("rows by index " .. i, { op = "index_select", inputs = { x }, value = once, gradient = none,
    call = function(a) return nn.rows(a[1], tensor.new(rows, { dtype = "i32", device = a[1].device })) end })
end
for i, s in ipairs { { 9, 4, 2, 6 }, { 70, 2, 1, 64 }, { 40, 3, 3, 128 } } do
  local n, H, G, K = table.unpack(s)
  local q, k, v, g = draw({ n, H, K }, 130 + i), draw({ n, G, K }, 140 + i), draw({ n, G, K }, 150 + i), draw({ n, H, K }, 160 + i)
  local offsets = { 0, n // 3, n // 3, n }
  local positions = {}
  for t = 1, n do
    positions[t] = 3 * t
  end
  local function ints(list, d) return tensor.new(list, { dtype = "i32", device = d }) end
  case("rope " .. i, { op = "rope", inputs = { q }, value = once, gradient = function() return 0 end,
    call = function(a) return nn.rope(a[1], ints(positions, a[1].device), 10000) end })
  local scale = 1 / math.sqrt(K)
  local function attend(a, causal)
    return nn.attention(a[1], a[2], a[3], ints(offsets, a[1].device), { scale = scale, causal = causal })
  end
  local out = attend({ q, k, v }, true)
  local dot = (out:abs() * g:abs()):sum(3):max():item() -- most that out . dout can be, entry by entry
  case("attention " .. i, { op = "attention", inputs = { q, k, v }, seed = g, call = function(a) return attend(a, true) end,
    value = once,
    -- out . dout is made of the rounded output; a key has one such term for each query
    gradient = function(at)
      return at == 1 and U * dot * scale * k:abs():max():item() or at == 2 and U * dot * scale * q:abs():max():item() * n or 0
    end })
end
for i, s in ipairs { { 5, 12, 31 }, { 300, 40, 48 } } do
  local n, D, V = table.unpack(s)
  local h, w, ref = draw({ n, D }, 170 + i), draw({ V, D }, 180 + i, .3), draw({ n, D }, 190 + i)
  local targets = {}
  for t = 1, n do
    targets[t] = t * 7 % V
  end
  local function head(a)
    return nn.lm_head(a[1], a[2], tensor.new(targets, { dtype = "i32", device = a[1].device }),
      { hidden_ref = ref:to(a[1].device), temperature = .9 })
  end
  -- logits are f32 sums of exact products
  case("log-probability " .. i, { op = "lm_head", inputs = { h, w }, call = function(a) return (head(a)) end,
    value = function() return 0 end,
    -- the gradient of the logits, at most |g| / temperature at the target and as much over all others, is rounded
    gradient = function(at)
      if at == 1 then
        return U / .9 * 2 * w:abs():max():item()
      end
      return U / .9 * 2 * h:abs():max():item() * n
    end, seed = tensor.ones { n } })
  for at, name in ipairs { "entropy", "kl" } do
    case(name .. " " .. i, { op = "lm_head", inputs = { h, w }, call = function(a) return (select(at + 1, head(a))) end,
      value = function() return 0 end })
  end
end

-- output and gradients of a case, f32 on the cpu; 16: with the inputs in bf16 on the device
local function run(c, device, in16)
  local leaves, args = {}, {}
  for i, x in ipairs(c.inputs) do
    leaves[i] = x:clone():to(device)
    leaves[i]:requires_grad_(c.gradient ~= nil)
    args[i] = in16 and not (c.plain and c.plain[i]) and leaves[i]:to "bf16" or leaves[i]
  end
  local out = c.call(args)
  local dtype = out.dtype
  if in16 then
    out = out:to "f32"
  end
  local gradients = {}
  if c.gradient then
    out:backward((c.seed or tensor.ones(out.shape)):to(device))
    for i, leaf in ipairs(leaves) do
      gradients[i] = leaf.grad:to "cpu"
    end
  end
  return out:detach():to "cpu", gradients, dtype
end

-- largest share of the bound that is used; the bound is bf16's part and the tolerance of test_cuda
local function share(got, want, explained, tol)
  local bound = want:abs():clamp(1, 1e30) * tol + explained
  local s = ((got - want):abs() / bound):max():item()
  return s == s and s or 1 / 0
end

for _, device in ipairs(T.devices) do
  if device ~= "fake" then -- where protecting memory takes most of a step
    local on_cuda = device:find "^cuda" and T.test or function() end
    T.test("operations in bf16 stay within their roundings of the cpu's f32, on " .. device, function()
      local worst = {}
      for _, c in ipairs(CASES) do
        local want, dwant = run(c, "cpu")
        local got, dgot, dtype = run(c, device, true)
        T.eq(dtype, c.op == "lm_head" and "f32" or "bf16", c.name)
        local w = worst[c.op] or { 0, 0 }
        worst[c.op] = w
        local s = share(got, want, c.value(want), 2 * ops.rows[c.op].tol)
        T.ok(s <= 1, ("%s: the output is off by %.3g of its bound"):format(c.name, s))
        w[1] = math.max(w[1], s)
        for i, g in ipairs(dwant) do
          s = share(dgot[i], g, c.gradient(i), 2 * ops.rows[c.op].grad_tol)
          T.ok(s <= 1, ("%s: gradient %d is off by %.3g of its bound"):format(c.name, i, s))
          w[2] = math.max(w[2], s)
        end
      end
      if os.getenv "MOCL_TEST_DISTANCES" then
        for op, w in pairs(worst) do
          print(("%-14s bf16: %.2g of the bound of values, %.2g of gradients"):format(op, w[1], w[2]))
        end
      end
    end)

    T.test("a row's bits in bf16 do not depend on the rows beside it, on " .. device, function()
      for _, V in ipairs { 48, 47 } do -- the library's sizes, and our own kernel's
        local h, w = draw({ 600, 600 }, 201):to(device), draw({ V, 600 }, 202, .1):to(device):to "bf16"
        local function logp(first, n)
          return nn.lm_head(h:narrow(1, first, n), w, tensor.zeros({ n }, { dtype = "i32", device = device }), {}):totable()
        end
        T.near(nn.linear(h, w):to("cpu"):to("f32"):flatten():totable(),
          h:to("cpu"):to("bf16"):to("f32"):matmul(w:to("cpu"):to("f32"):t()):flatten():totable(), .1, "600 rows at once")
        local all = logp(1, 600)
        for _, n in ipairs { 1, 2, 16, 17, 64, 129, 256 } do
          for _, first in ipairs { 1, 301 } do
            T.eq(logp(first, n), table.move(all, first, first + n - 1, 1, {}), n .. " rows of V = " .. V)
          end
        end
      end
    end)

    T.test("a bf16 weight that does not begin at a multiple of 16 bytes, on " .. device, function()
      local h, flat = draw({ 5, 64 }, 203):to(device), draw({ 1 + 48 * 64 }, 204, .1):to(device):to "bf16"
      local w = flat:narrow(1, 2, 48 * 64):reshape { 48, 64 } -- the library reads from such multiples only
      T.near(nn.linear(h, w):to("cpu"):to("f32"):flatten():totable(),
        h:to("cpu"):to("bf16"):to("f32"):matmul(w:to("cpu"):to("f32"):t()):flatten():totable(), .05)
    end)

    local CONFIG = { vocab_size = 96, hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2,
      intermediate_size = 48, max_position_embeddings = 48 }
    local PROMPTS = { { 1 }, { 2, 3, 4 }, { 28, 0, 7, 7, 1 }, { 5, 6 } }
    local function model_of(dtype, config)
      local m = transformer.new(config or CONFIG, { device = device, dtype = dtype, key = 3 })
      m:add_lora { r = 8, alpha = 16, dropout = .1, key = 4 }
      for i, p in ipairs(lora.parameters(m)) do
        tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = i, std = .05 }))
      end
      return m
    end

    T.test("a bf16 model: log-probabilities of generation are the forward pass's to the bit, on " .. device, function()
      local odd = { vocab_size = 67, hidden_size = 36, num_hidden_layers = 2, num_attention_heads = 6, num_key_value_heads = 3,
        intermediate_size = 44, max_position_embeddings = 48 } -- no size of it is the library's
      for _, config in ipairs { CONFIG, odd } do
        local m = model_of("bf16", config)
        for _, o in ipairs { { temperature = 0 }, { temperature = 1.1, eos = 6 }, { top_k = 5, adapter = false } } do
          o.max_new_tokens, o.key = 21, 9
          local g, old = m:generate(PROMPTS, o)
          local b = transformer.pack(PROMPTS, g.tokens, { device = device })
          local h = m:forward(b, { adapter = o.adapter, rows = b.rows })
          T.eq(h.dtype, "f32")
          local logp = nn.lm_head(h, m:head(), b.targets, { temperature = o.temperature ~= 0 and o.temperature or 1 })
          T.eq(logp:totable(), old:totable(), json.encode(o))
          local stem = m:forward(b, { adapter = o.adapter, stop = 1 }) -- and in two parts
          T.eq(stem.dtype, "bf16")
          T.eq(m:forward(b, { adapter = o.adapter, rows = b.rows, hidden = stem, start = 1 }):flatten():totable(),
            h:flatten():totable())
          T.raises("hidden is f32, the model's stream bf16", m.forward, m, b, { hidden = stem:to "f32", start = 1 })
          -- and a row alone gives what it gives among others
          local alone = m:generate({ PROMPTS[1] }, o)
          T.eq(alone.tokens[1], g.tokens[1])
        end
      end
    end)

    T.test("ten steps of LoRA training in bf16 follow those in f32, on " .. device, function()
      local losses = {}
      for i, dtype in ipairs { "f32", "bf16" } do
        losses[i] = {}
        local m = model_of(dtype)
        local opt <close> = optim.adamw(lora.parameters(m), { lr = 1e-2 })
        for step = 1, 10 do
          local scope <close> = tensor.scope()
          local loss = lm.loss(m, { { 1, 2 }, { 3 }, { 9, 9, 9 } }, { { 4, 5, 6, 7 }, { 6 }, { 1, 2 } }, { train = true, key = step })
          opt:zero_grad()
          loss:backward()
          opt:step { max_grad_norm = 1 }
          losses[i][step] = loss:item()
        end
      end
      -- a loss near 4 carries roundings of 2^-8 from each of two blocks; they are random, and 4e-3 was seen
      T.near(losses[2], losses[1], 3e-2)
      T.ok(losses[2][10] < losses[2][1] - 1, "it learns")
    end)

    T.test("a bf16 model is saved, loaded, cloned, merged, on " .. device, function()
      local m = model_of "bf16"
      T.eq(m:dtype(), "bf16")
      T.eq(m:head().dtype, "bf16")
      local types = {}
      for _, pair in ipairs(m:named_parameters()) do
        types[pair[2].dtype .. (pair[1]:find "norm" and " norm" or "")] = true
      end
      T.eq(types, { bf16 = true, ["f32 norm"] = true })
      T.eq(m:named_parameters(true)[1][2].dtype, "f32")
      T.raises("only f32 tensors, not bf16", transformer.train_base, m)
      local dir = fs.join(T.tmpdir(), "m")
      assert(transformer.save(m, dir))
      T.eq(assert(json.load(fs.join(dir, "config.json"))).torch_dtype, "bfloat16")
      local again = assert(transformer.load(dir, { device = device, dtype = "bf16" }))
      T.eq(again:hash(), m:hash())
      T.eq(transformer.clone(m):hash(), m:hash())
      local batch = transformer.batch(PROMPTS, { device = device })
      local wide = assert(transformer.load(dir, { device = device })) -- the same numbers, computed in f32
      T.near(again:forward(batch):flatten():totable(), wide:forward(batch):flatten():totable(), 6e-2)
      local before = m:forward(batch):flatten():totable()
      m:merge_lora()
      T.near(m:forward(batch):flatten():totable(), before, 1e-1)
    end)

    on_cuda("generation waits for the device once for a group of steps, on " .. device, function()
      for _, dtype in ipairs { "f32", "bf16" } do
        local m = model_of(dtype)
        local function waits(n, f)
          local before = tensor.memory().waits
          m:generate(PROMPTS, { max_new_tokens = n, key = 1, on_token = f })
          return tensor.memory().waits - before
        end
        local prompt = waits(1)
        T.eq(waits(33) - prompt, 2 * 4, "two reads after each 8 tokens")
        T.eq(waits(33, function() end) - prompt, 2 * 32, "a callback hears of each token")
      end
    end)

    on_cuda("an adapter is rounded once, and again after a write into it, on " .. device, function()
      local function draw(dims, key)
        return tensor.randn(dims, { key = key, device = device })
      end
      local x, w, A, B = draw({ 3, 32 }, 1):to "bf16", draw({ 16, 32 }, 2):to "bf16", draw({ 4, 32 }, 3), draw({ 16, 4 }, 4)
      local function product()
        local before = tensor.memory().launches
        local y = nn.lora_linear(x, w, A, B)
        return y:to("f32"):totable(), tensor.memory().launches - before
      end
      local first, made = product()
      local again, kept = product()
      T.eq(again, first)
      T.eq(made - kept, 2, "one cast each of A and B")
      B:copy_(draw({ 16, 4 }, 5))
      local changed, one = product()
      T.eq(one - kept, 1, "B's alone")
      T.eq(changed, nn.lora_linear(x, w, A:clone(), B:clone()):to("f32"):totable())
      T.eq(nn.lora_linear(x, w, A:narrow(1, 1, 2), B:narrow(2, 1, 2)):to("f32"):totable(),
        nn.lora_linear(x, w, A:narrow(1, 1, 2):clone(), B:narrow(2, 1, 2):clone()):to("f32"):totable(), "parts of a tensor")
    end)

    T.test("what bf16 does not do is said, on " .. device, function()
      local x = tensor.ones({ 2, 3 }, { device = device }):to "bf16"
      T.raises("mul: expected an f32 tensor, got bf16", function() return x * x end)
      T.raises("add: expected an f32 tensor, got bf16", function() return x + tensor.ones({ 2, 3 }, { device = device }) end)
      T.raises("swiglu: operands are bf16 and f32", nn.swiglu, x, tensor.ones({ 2, 3 }, { device = device }))
      T.raises("dtype 'f16' is neither f32 nor bf16", transformer.new, CONFIG, { device = device, dtype = "f16" })
    end)
  end
end

T.test("a dtype that is none is refused", function()
  T.raises("unknown dtype 'half'", transformer.new,
    { vocab_size = 8, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 1, intermediate_size = 8 }, { dtype = "half" })
end)

-- the gradient of a conversion
T.test("conversions between f32 and bf16 keep history", function()
  local x = tensor.new({ 1, 2.5, 3.001 }, { requires_grad = true })
  local y = x:to("bf16"):to("f32") * tensor.new { 1, 2, 3 }
  y:sum():backward()
  T.eq(x.grad:totable(), { 1, 2, 3 })
end)

T.test("MOCL_CUBLASLT_LOG says which algorithm each size got, once", function()
  local log = T.tmpdir() .. "/products"
  local _, err, status = child.lua([[
local nn, tensor = require "mocl.nn.core", require "mocl.tensor"
local w = tensor.zeros({ 16, 32 }, { dtype = "bf16", device = "cuda" })
for rows = 1, 3 do
  nn.linear(tensor.zeros({ rows, 32 }, { dtype = "bf16", device = "cuda" }), w)
end
nn.linear(tensor.zeros({ 1, 32 }, { dtype = "bf16", device = "cuda" }), tensor.zeros({ 24, 32 }, { dtype = "bf16", device = "cuda" }))
]], ("env MOCL_CUDA=%s MOCL_CUBLASLT_LOG=%s"):format(child.quote(T.emulator()), child.quote(log)))
  T.eq(status, 0, err)
  T.eq(fs.read(log), "rows x 16 x 32, ta=0 tb=1, bf16: algorithm 3, tile 0, stages 0, offer 2 of 2\n"
    .. "rows x 24 x 32, ta=0 tb=1, bf16: algorithm 3, tile 0, stages 0, offer 2 of 2\n")
end)

-- the same numbers whoever computes the products: the library's sums are in another order, so near and not equal
T.test("products by our own kernels, and where the library is not there", function()
  local SOURCE = [[
local transformer, tensor = require "mocl.lm.model", require "mocl.tensor"
local m = transformer.new({ vocab_size = 96, hidden_size = 64, num_hidden_layers = 1, num_attention_heads = 4, intermediate_size = 48 },
  { device = "cuda", dtype = "bf16", key = 3 })
local g, logp = m:generate({ { 1, 2 } }, { max_new_tokens = 9, temperature = 0 })
print(logp:sum():item())
]]
  local sums, said = {}, {}
  for i, settings in ipairs { "", "MOCL_BLAS=none", "MOCL_EMU_CUBLASLT=0" } do
    local prefix = ("env MOCL_CUDA=%s %s"):format(child.quote(T.emulator()), settings)
    local out, err, status = child.lua(SOURCE, prefix)
    T.eq(status, 0, err)
    sums[i] = tonumber(out)
    said[i] = child.mocl({ "--env" }, prefix):match "bf16 products: ([^\n]+)"
  end
  T.near(sums[2], sums[1], 1e-2)
  T.eq(sums[3], sums[2])
  T.eq(said, { "cuBLASLt 13.0.0", "own kernels (MOCL_BLAS=none)",
    "own kernels (libcublasLt.so.13 is not there; MOCL_CUBLASLT names the file)" })
end)
