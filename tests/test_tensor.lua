-- tensors as Lua values: making and looking at them, views, dtypes, errors, scopes, release, memory

local T = require "t"
local mocl = require "mocl"
local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"

local double = tensor.new(1 + 1e-12):item() ~= 1

-- ---- making ----

T.test("new: shapes of nested tables", function()
  for _, case in ipairs {
    { 5, {} }, { {}, { 0 } }, { { 1, 2, 3 }, { 3 } }, { { { 1, 2 }, { 3, 4 }, { 5, 6 } }, { 3, 2 } }, { { {},
      {} }, { 2, 0 } },
    { { { { { 7 } } } }, { 1, 1, 1, 1 } },
  } do
    local t = tensor.new(case[1])
    T.eq(t.shape, case[2])
    T.eq(t:totable(), case[1])
    T.eq(t.dtype, "f32")
    T.eq(t.device, "cpu")
    T.eq(t.requires_grad, false)
  end
end)

T.test("new: what is refused", function()
  T.raises("tensor: the table is ragged at level 2: 2 entries expected", tensor.new, { { 1, 2 }, { 3 } })
  T.raises("tensor: the table is ragged at level 2: 2 entries expected", tensor.new, { { 1, 2 }, 3 })
  T.raises("tensor: entry 2 is a string, not a number", tensor.new, { 1, "2" })
  T.raises("tensor: entry 2 is a table, not a number", tensor.new, { 1, { 2 } })
  T.raises("bad argument #1 to '.-' %(table expected, got no value%)", tensor.new)
  T.raises("unknown option 'devise' %(did you mean 'device'%?%)", tensor.new, { 1 }, { devise = "cpu" })
  T.raises("unknown dtype 'f64' %(f32, bf16, f16, i8, u8, i32, i64%)", tensor.new, { 1 }, { dtype = "f64" })
  T.raises("unknown device 'gpu' %(cpu, cuda or cuda:N%)", tensor.zeros, { 1 }, { device = "gpu" })
  T.raises("bad option 'dtype' %(string expected, got number%)", tensor.zeros, { 1 }, { dtype = 3 })
  local nested = 1
  for _ = 1, 9 do nested = { nested } end
  T.raises("more than 8 levels", tensor.new, nested)
end)

T.test("zeros, ones, full, arange: with and without options", function()
  T.eq(tensor.zeros({ 2, 3 }):totable(), { { 0, 0, 0 }, { 0, 0, 0 } })
  T.eq(tensor.ones({ 2 }):totable(), { 1, 1 })
  T.eq(tensor.full({ 2 }, -1.5):totable(), { -1.5, -1.5 })
  T.eq(tensor.full({}, 4):item(), 4)
  T.eq(tensor.zeros({ 0, 3 }).shape, { 0, 3 })
  T.eq(tensor.full({ 2 }, 7, { dtype = "i32" }):totable(), { 7, 7 })
  T.eq(tensor.ones({ 2 }, { requires_grad = true }).requires_grad, true)
  T.eq(tensor.arange(4):totable(), { 0, 1, 2, 3 })
  T.eq(tensor.arange(2, 5):totable(), { 2, 3, 4 })
  T.eq(tensor.arange(5, 2, -1):totable(), { 5, 4, 3 })
  T.eq(tensor.arange(0, 1, .25):totable(), { 0, .25, .5, .75 })
  T.eq(tensor.arange(3, 3):totable(), {})
  T.eq(tensor.arange(3, { dtype = "i64" }).dtype, "i64")
  T.eq(tensor.arange(1, 4, 2, { device = "fake" }):totable(), { 1, 3 })
  T.raises("arange: bad bounds or step", tensor.arange, 0, 1, 0)
  T.raises("size %-1 of dimension 2 is negative", tensor.zeros, { 2, -1 })
  T.raises("sizes must be integers", tensor.zeros, { 1.5 })
  T.raises("its size in bytes overflows", tensor.zeros, { 1 << 40, 1 << 40 })
  T.raises("out of memory: wanted %d+ bytes, live %d+, cached %d+", tensor.zeros, { (60 << 30) // (double and 8 or 4) },
    { device = "fake" })
  T.raises("at most 8 dimensions", tensor.zeros, { 1, 1, 1, 1, 1, 1, 1, 1, 1 })
end)

T.test("rand and randn: a seed is needed", function()
  T.raises("randn: give seed=N %(or key=K from mocl.rng%): there is no hidden generator", tensor.randn, { 2 })
  T.raises("rand: give seed=N", tensor.rand, { 2 }, { stream = 1 })
  T.eq(tensor.rand({ 3 }, { seed = 0 }).shape, { 3 })
  T.eq(tensor.rand({ 0 }, { seed = 0 }):totable(), {})
  T.eq(tensor.randn({ 3 }, { seed = 5 }):totable(), tensor.randn({ 3 }, { seed = 5 }):totable())
end)

-- ---- dtypes ----

T.test("conversions", function()
  local x = tensor.new { -1.75, -0.5, 0, 0.5, 1.75, 300, -300 }
  T.eq(x:to("i8"):totable(), { -1, 0, 0, 0, 1, 127, -128 })
  T.eq(x:to("u8"):totable(), { 0, 0, 0, 0, 1, 255, 0 })
  T.eq(x:to("i32"):totable(), { -1, 0, 0, 0, 1, 300, -300 })
  T.eq(x:to("i64"):to("f32"):totable(), { -1, 0, 0, 0, 1, 300, -300 })
  T.eq(math.type(x:to("i32")[1]:item()), "integer")
  T.eq(x:to("f32"):totable(), x:totable())
  T.eq(tensor.new({ 2 ^ 53 // 1 + 1 }, { dtype = "i64" }):item(), 2 ^ 53 // 1 + 1)
  -- halves: to nearest even
  T.eq(x:to("bf16"):totable(), { -1.75, -.5, 0, .5, 1.75, 300, -300 })
  T.eq(tensor.new({ 1 + 2 ^ -8, 1 + 3 * 2 ^ -8, 1 + 2 ^ -8 + 2 ^ -16 }):to("bf16"):totable(), { 1, 1 + 2 ^ -6,
    1 + 2 ^ -7 })
  T.eq(tensor.new({ 1 + 2 ^ -11, 1 + 3 * 2 ^ -11, 65504, 65520, 2 ^ -24, 2 ^ -26 }):to("f16"):totable(),
    { 1, 1 + 2 ^ -9, 65504, math.huge, 2 ^ -24, 0 })
  T.eq(tensor.new({ 0.1 }, { dtype = "bf16" }).dtype, "bf16")
  T.near(tensor.new({ 0.1 }, { dtype = "f16" }):item(), .1, 1e-4)
  T.eq(x:to { dtype = "i32", device = "fake" }.device, "fake")
  T.eq(x:to("fake"):to("cpu"):totable(), x:totable())
  T.raises("unknown dtype 'f64'", x.to, x, { dtype = "f64" })
  T.raises("unknown device 'f64'", x.to, x, "f64")
  T.raises("device 'cuda:99' is not available", x.to, x, "cuda:99")
end)

T.test("arithmetic is for f32 on one device", function()
  local x, i = tensor.new { 1, 2 }, tensor.new({ 1, 2 }, { dtype = "i32" })
  T.raises("add: expected an f32 tensor, got i32; convert with :to%('f32'%)", x.add, x, i)
  T.raises("elementwise operation: expected an f32 tensor, got bf16", tensor.exp, x:to("bf16"))
  T.raises("sum: expected an f32 tensor, got i32", i.sum, i)
  T.raises("mul: operands are on cpu and fake; move one with :to%(device%)", x.mul, x, x:to("fake"))
  T.raises("matmul: operands are on cpu and fake", tensor.matmul, tensor.zeros { 2, 2 }, tensor.zeros({ 2, 2 },
    { device = "fake" }))
  T.eq(tensor.cat({ i, i }):totable(), { 1, 2, 1, 2 })
  T.eq(i:reshape(2, 1):t():totable(), { { 1, 2 } })
  T.eq(i:clone():fill_(3):totable(), { 3, 3 })
end)

-- ---- looking ----

T.test("fields, length, index", function()
  local x = tensor.new { { 1, 2, 3 }, { 4, 5, 6 } }
  T.eq({ x.ndim, #x, x:numel(), x:stride(), x:is_contiguous() }, { 2, 2, 6, { 3, 1 }, true })
  T.eq({ x:t().shape, x:t():stride(), x:t():is_contiguous() }, { { 3, 2 }, { 1, 3 }, false })
  T.eq({ #tensor.new(3), tensor.new(3).ndim, tensor.new(3).shape }, { 0, 0, {} })
  T.eq(x[2]:totable(), { 4, 5, 6 })
  T.eq(x[-1]:totable(), { 4, 5, 6 })
  T.eq(x[2][3]:item(), 6)
  T.raises("index: 3 is outside 1 .. 2", function() return x[3] end)
  T.raises("index: 0 is outside 1 .. 2", function() return x[0] end)
  T.raises("index: a scalar has no entries; use :item%(%)", function() return tensor.new(1)[1] end)
  T.raises("a tensor has no field 'shpae'", function() return x.shpae end)
  T.raises("tensors are not assigned to by index; use narrow%(...%):copy_%(...%)", function() x[1] = 3 end)
  T.raises("tensors are not assigned to", function() x.shape = {} end)
  T.raises("item: the tensor has shape %(2,3%), not one element; use totable", x.item, x)
  T.eq(tensor.new({ { 5 } }):item(), 5)
  T.eq(tensor.is_tensor(x), true)
  T.eq(tensor.is_tensor({}), false)
end)

T.test("tostring", function()
  T.eq(tostring(tensor.new { { 1, 2.5 }, { -3, 4 } }), "tensor (2,2) f32 cpu\n{{1, 2.5},\n {-3, 4}}")
  T.eq(tostring(tensor.new(7)), "tensor () f32 cpu\n7")
  T.eq(tostring(tensor.arange(9, { dtype = "i32" })), "tensor (9) i32 cpu, 0 .. 8\n{0, 1, 2, ..., 6, 7, 8}")
  T.eq(tostring(tensor.zeros({ 0 }, { device = "fake" })), "tensor (0) f32 fake\n{}")
  T.eq(tostring(tensor.new({ 1.5 }, { dtype = "bf16" })), "tensor (1) bf16 cpu\n{1.5}")
  local x = tensor.new { 1 }
  x:release()
  T.eq(tostring(x), "tensor (released)")
end)

T.test("operators", function()
  local x, y = tensor.new { 1, 2 }, tensor.new { 3, 5 }
  T.eq((x + y):totable(), { 4, 7 })
  T.eq((x - y):totable(), { -2, -3 })
  T.eq((x * y):totable(), { 3, 10 })
  T.eq((y / x):totable(), { 3, 2.5 })
  T.eq((y ^ x):totable(), { 3, 25 })
  T.eq((-x):totable(), { -1, -2 })
  T.eq((2 + x):totable(), { 3, 4 })
  T.eq((2 - x):totable(), { 1, 0 })
  T.eq((2 * x):totable(), { 2, 4 })
  T.eq((2 / x):totable(), { 2, 1 })
  T.eq((2 ^ x):totable(), { 2, 4 })
  T.eq((x + 2):totable(), { 3, 4 })
  T.eq((x - 2):totable(), { -1, 0 })
  T.eq((x * 2):totable(), { 2, 4 })
  T.eq((x / 2):totable(), { .5, 1 })
  T.eq((x ^ 2):totable(), { 1, 4 })
  T.raises("bad argument #2 to '.-' %(mocl.tensor expected, got string%)", function() return x + "1" end)
  T.raises("mocl.tensor expected, got nil", function() return x + nil end)
end)

T.test("in place", function()
  local x = tensor.new { 1, 2, 3 }
  T.ok(rawequal(x:add_(tensor.new { 1, 1, 1 }), x))
  T.eq(x:totable(), { 2, 3, 4 })
  T.eq(x:add_(1):totable(), { 3, 4, 5 })
  T.eq(x:add_(tensor.new { 1, 2, 3 }, -2):totable(), { 1, 0, -1 })
  T.eq(x:add_(1, .5):totable(), { 1.5, .5, -.5 })
  T.eq(x:fill_(4):totable(), { 4, 4, 4 })
  T.eq(x:zero_():totable(), { 0, 0, 0 })
  T.eq(x:copy_(tensor.new({ 7, 8, 9 }, { dtype = "i32", device = "fake" })):totable(), { 7, 8, 9 })
  local m = tensor.zeros { 2, 3 }
  m:narrow(1, 2, 1):copy_(x:reshape(1, 3))
  m:t():narrow(1, 1, 1):copy_(tensor.new { { 5, 6 } }) -- a view that is not contiguous
  T.eq(m:totable(), { { 5, 0, 0 }, { 6, 8, 9 } })
  m:add_(x) -- broadcasts
  T.eq(m:totable(), { { 12, 8, 9 }, { 13, 16, 18 } })
  x:add_(x)
  T.eq(x:totable(), { 14, 16, 18 })
  local y = tensor.new { 1, 2, 3, 4 }
  y:narrow(1, 2, 3):add_(y:narrow(1, 1, 3)) -- overlapping: as if the right side were read first
  T.eq(y:totable(), { 1, 3, 5, 7 })
  T.raises("add_: a view that is not contiguous cannot be changed in place", tensor.add_, m:t(), 1)
  T.raises("fill_: a view that is not contiguous", tensor.fill_, m:t(), 1)
  T.raises("copy: cannot copy %(3%) into %(2,3%)", m.copy_, m, x)
  T.raises("expand: %(4%) does not expand to %(3%)", x.add_, x, y)
end)

-- ---- shapes ----

T.test("views share memory, copies do not", function()
  local x = tensor.new { { 1, 2 }, { 3, 4 } }
  local views = { x:t(), x:reshape(4), x:narrow(1, 1, 1), x:permute(2, 1), x:detach(), x[1], x:unsqueeze(1),
    x:expand(3, 2, 2) }
  local copies = { x:clone(), x:t():contiguous(), x:t():reshape(4), x:to("i32") }
  x:fill_(9)
  for _, v in ipairs(views) do T.eq(v:max():item(), 9) end
  for i, c in ipairs(copies) do T.eq(c:to("f32"):max():item(), 4, "copy " .. i) end
  T.ok(rawequal(x:contiguous(), x))
end)

T.test("dimensions count from 1 or from the end", function()
  local x = tensor.zeros { 2, 3, 4 }
  T.eq(x:sum(1).shape, { 3, 4 })
  T.eq(x:sum(-1).shape, { 2, 3 })
  T.eq(x:transpose(1, -1).shape, { 4, 3, 2 })
  T.eq(x:unsqueeze(-1).shape, { 2, 3, 4, 1 })
  T.raises("dimension 4 is outside 1 .. 3", x.sum, x, 4)
  T.raises("dimension 0 is outside 1 .. 3", x.sum, x, 0)
  T.raises("dimension %-4 is outside 1 .. 3", x.mean, x, -4)
  T.raises("dimension 2 is outside 1 .. 1", tensor.softmax, tensor.zeros { 3 }, 2)
  T.eq(x:reshape(6, -1).shape, { 6, 4 })
  T.eq(x:reshape({ 6, 4 }).shape, { 6, 4 })
  T.eq(x:expand(5, -1, -1, 4).shape, { 5, 2, 3, 4 })
end)

T.test("shape errors show both shapes", function()
  local x = tensor.zeros { 2, 3 }
  local function z(...) return tensor.zeros { ... } end
  for _, case in ipairs {
    { "add: %(2,3%) and %(2,4%) do not broadcast", tensor.add, x, z(2, 4) },
    { "gt: %(2,3%) and %(2%) do not broadcast", tensor.gt, x, z(2) },
    { "where: shapes %(2,3%) and %(3%) differ; expand one first", tensor.where, x, x, z(3) },
    { "reshape: %(2,3%) has 6 elements and does not fit %(4,2%)", tensor.reshape, x, 4, 2 },
    { "reshape: %(2,3%) has 6 elements and does not fit %(4,%-1%)", tensor.reshape, x, 4, -1 },
    { "reshape: %(2,3%) has 6 elements and does not fit %(%-2,%-3%)", tensor.reshape, x, -2, -3 },
    { "reshape: %(2,3%) has 6 elements and does not fit %(%-1,%-1%)", tensor.reshape, x, -1, -1 },
    { "reshape: %(0%) has 0 elements and does not fit %(4294967296,4294967296%)", tensor.reshape, z(0), 1 << 32,
      1 << 32 },
    { "expand: %(2,3%) does not expand to %(2,4%)", tensor.expand, x, 2, 4 },
    { "expand: %(1%) does not expand to %(%-5%)", tensor.expand, z(1), -5 },
    { "expand: %(2,3%) does not expand to %(3%)", tensor.expand, x, 3 },
    { "expand: %(1%) does not expand to %(4294967296,4294967296%)", tensor.expand, z(1), 1 << 32, 1 << 32 },
    { "permute: each of the 2 dimensions must be named once", tensor.permute, x, 1, 1 },
    { "permute: 3 dimensions named, the tensor has 2", tensor.permute, x, 1, 2, 3 },
    { "t: a matrix is needed, not 1 dimensions", tensor.t, z(3) },
    { "narrow: 2 to 4 is outside dimension 2 of size 3", tensor.narrow, x, 2, 2, 3 },
    { "narrow: 0 to 0 is outside dimension 1 of size 2", tensor.narrow, x, 1, 0, 1 },
    { "cat: tensor 2 of f32 %(2,3%) does not fit the first, f32 %(3,2%)", tensor.cat, { z(3, 2), x }, 1 },
    { "cat: tensor 2 of i32 %(2,3%) does not fit the first, f32 %(2,3%)", tensor.cat, { x, x:to("i32") }, 1 },
    { "a list of at least one tensor is needed", tensor.cat, {} },
    { "entry 2 is a number, not a tensor", tensor.cat, { x, 3 } },
    { "stack: tensor 2 differs in shape", tensor.stack, { x, z(3) } },
    { "matmul: %(2,3%) x %(4,5%): inner sizes 3 and 4 differ", tensor.matmul, x, z(4, 5) },
    { "matmul: %(2,3%) x %(3%): matrices are needed; reshape vectors first", tensor.matmul, x, z(3) },
    { "matmul: %(2,2,3%) x %(3,3,2%): batch dimensions differ", tensor.matmul, z(2, 2, 3), z(3, 3, 2) },
    { "index_select: index 3 %(entry 2%) is outside 1 .. 2", tensor.index_select, x, { 1, 3 } },
    { "index_select: index 0 %(entry 1%) is outside 1 .. 2", tensor.index_select, x, { 0 } },
    { "pick: index 3 %(entry 1%) is outside 0 .. 2", tensor.pick, x, { 3, 0 } },
    { "pick: indices %(3%) do not fit the rows of %(2,3%)", tensor.pick, x, { 0, 0, 0 } },
    { "expected i32 indices, got f32", tensor.pick, x, z(2) },
    { "entry 2 is not an integer", tensor.pick, x, { 0, 1.5 } },
    { "entry 1 does not fit i32", tensor.pick, x, { 1 << 40, 0 } },
    { "max: there are no elements along the dimension", tensor.max, z(0, 3), 1 },
    { "mean: there are no elements to average", tensor.mean, z(0) },
    { "argmax: there are no elements along the dimension", tensor.argmax, z(0) },
    { "softmax: a scalar has no dimension to normalise", tensor.softmax, tensor.new(1) },
    { "linear: input %(2,3%) does not fit weight %(4,5%) %(%[out, in%]%)", nn.linear, x, z(4, 5) },
    { "linear: bias %(3%) does not fit 4 outputs", nn.linear, x, z(4, 3), z(3) },
    { "lora_linear: A %(2,4%) and B %(5,2%) do not fit a weight of 5 x 3", nn.lora_linear, x, z(5, 3), z(2, 4),
      z(5, 2) },
    { "lora_linear: dropout 1.0 is outside %[0, 1%)", nn.lora_linear, x, z(5, 3), z(2, 3), z(5, 2), { dropout = 1 } },
    { "rmsnorm: weight %(2%) does not fit rows of %(2,3%)", nn.rms_norm, x, z(2) },
    { "layernorm: weight %(2%) does not fit rows of %(2,3%)", nn.layer_norm, x, z(3), z(2) },
    { "swiglu: gate %(2,3%) and up %(3,2%) differ", nn.swiglu, x, z(3, 2) },
    { "rope: needs %[T, H, even K%] and T positions, got %(2,3%) and %(2%)", nn.rope, x, { 0, 1 } },
    { "rope: needs %[T, H, even K%] and T positions, got %(2,1,3%) and %(2%)", nn.rope, z(2, 1, 3), { 0, 1 } },
    { "attention: needs q %[T, H, K%], k and v %[T, G, K%] with H a multiple of G, got %(2,3,4%), %(2,2,4%), %(2,2,4%)",
      nn.attention, z(2, 3, 4), z(2, 2, 4), z(2, 2, 4), { 0, 2 } },
    { "attention: offsets must rise from 0 to the number of rows, 2", nn.attention, z(2, 1, 4), z(2, 1, 4), z(2,
      1, 4), { 0, 3 } },
    { "segment: offsets must rise from 0 to the number of rows, 2", nn.segment_sum, x, { 0, 2, 1, 2 } },
    { "segment: offsets must be a contiguous vector of B %+ 1 entries", nn.segment_mean, x, {} },
    { "segment: needs %[T%] or %[T, n%]", nn.segment_sum, z(2, 1, 1), { 0, 2 } },
    { "index_select: index 7 %(entry 1%) is outside 0 .. 1", nn.embedding, x, { 7 } },
    { "lm_head: hidden %(2,3%) does not fit the head %(5,4%)", nn.lm_head, x, z(5, 4), { 0, 0 } },
    { "lm_head: %(1%) targets do not fit 2 rows", nn.lm_head, x, z(5, 3), { 0 } },
    { "lm_head: index 5 %(entry 2%) is outside 0 .. 4", nn.lm_head, x, z(5, 3), { 0, 5 } },
    { "lm_head: reference %(1,3%) differs from hidden %(2,3%)", nn.lm_head, x, z(5, 3), { 0, 0 },
      { hidden_ref = z(1, 3) } },
    { "lm_head: operands are on cpu and fake", nn.lm_head, x, z(5, 3), { 0, 0 }, { hidden_ref = x:to("fake") } },
    { "lm_head: expected an f32 tensor, got i32", nn.lm_head, x, z(5, 3), { 0, 0 }, { hidden_ref = x:to("i32") } },
    { "lm_head: temperature 0 must be positive", nn.lm_head, x, z(5, 3), { 0, 0 }, { temperature = 0 } },
    { "ppo_clip: shapes %(2,3%) and %(3%) differ", nn.ppo_clip, x, x, z(3), .2 },
    { "ppo_clip: cliprange 0 must be positive", nn.ppo_clip, x, x, x, 0 },
    { "gae: rewards %(2,3%) and values %(3,2%) must be %[T, n%] alike", nn.gae, x, z(3, 2), { 0, 2 } },
    { "gae: offsets must rise from 0 to the number of rows, 2", nn.gae, x, x, { 0, 1 } },
  } do
    T.raises(table.unpack(case))
  end
end)

T.test("lora_linear: an adapter elsewhere is refused", function()
  local x, w = tensor.zeros { 2, 3 }, tensor.zeros { 5, 3 }
  local a, b = tensor.zeros { 2, 3 }, tensor.zeros { 5, 2 }
  T.raises("lora_linear: operands are on cpu and fake", nn.lora_linear, x, w, a:to("fake"), b)
  T.raises("lora_linear: operands are on cpu and fake", nn.lora_linear, x, w, a, b:to("fake"))
end)

-- ---- life and memory ----

local function live()
  collectgarbage()
  collectgarbage()
  return tensor.memory().tensors
end

T.test("a released tensor raises, whatever is asked", function()
  local x, y = tensor.new { 1, 2 }, tensor.new { 3, 4 }
  local view = x:narrow(1, 1, 1)
  local start = tensor.memory().tensors
  x:release()
  x:release() -- twice is fine
  T.eq(tensor.memory().tensors, start - 1)
  T.eq(view:totable(), { 1 }, "a view keeps the memory")
  T.raises("bad argument #1 to '.-add' %(tensor was released%)", tensor.add, x, y)
  T.raises("bad argument #2 to '.-add' %(tensor was released%)", tensor.add, y, x)
  T.raises("tensor was released", function() return x.shape end)
  T.raises("tensor was released", function() return x + y end)
  T.raises("tensor was released", function() return #x end)
  T.raises("tensor was released", function() return x[1] end)
  T.raises("was released", tensor.cat, { y, x })
  T.raises("tensor was released", function() return x:totable() end)
  T.eq(tensor.is_tensor(x), true)
end)

T.test("<close> releases", function()
  local start, outer = live(), nil
  do
    local x <close> = tensor.new { 1 }
    outer = x
  end
  T.eq(tensor.memory().tensors, start)
  T.raises("tensor was released", function() return outer:item() end)
end)

T.test("a scope releases what was made in it", function()
  local start = live()
  local escaped, kept, weight
  do
    local s <close> = tensor.scope()
    local x = tensor.new { 1, 2 }
    escaped = x * 2
    weight = tensor.ones({ 2 }, { requires_grad = true })
    kept = s:keep(x + 1)
    T.eq({ s:keep(x, kept) }, { x, kept })
    s:keep(kept) -- twice is fine
    local y = x * weight
    T.eq(y:totable(), { 1, 2 })
    escaped = y
  end
  T.raises("tensor was released", escaped.totable, escaped)
  T.eq(kept:totable(), { 2, 3 })
  T.eq(weight:totable(), { 1, 1 }, "parameters stay")
  collectgarbage("stop")
  do
    local s <close> = tensor.scope()
    for _ = 1, 100 do
      kept = kept + 0
    end
    kept = s:keep(kept)
  end
  local now = tensor.memory().tensors
  collectgarbage("restart")
  T.ok(now - start < 10, "without any collection: " .. now - start)
  T.eq(kept:totable(), { 2, 3 })
end)

T.test("scopes nest and close in order", function()
  local inner_kept
  local outer = tensor.scope()
  do
    local inner <close> = tensor.scope()
    inner_kept = inner:keep(tensor.new { 1 }) -- to the outer scope
  end
  T.eq(inner_kept:item(), 1)
  local third = tensor.scope()
  T.raises("scope: close the scopes opened inside this one first", outer.close, outer)
  third:close()
  third:close() -- twice is fine
  outer:close()
  T.raises("tensor was released", inner_kept.item, inner_kept)
end)

T.test("a scope closes on errors", function()
  local start, escaped = live(), nil
  T.raises("boom", function()
    local s <close> = tensor.scope()
    escaped = tensor.new { 1 }
    error("boom")
  end)
  T.eq(tensor.memory().tensors, start)
  T.raises("tensor was released", escaped.item, escaped)
  local later = tensor.new { 2 } -- no scope is open any more
  collectgarbage()
  T.eq(later:item(), 2)
end)

T.test("a graph outlives the scope of its parts", function()
  local w = tensor.new({ 3 }, { requires_grad = true })
  local loss
  do
    local s <close> = tensor.scope()
    local x = tensor.new { 5 }
    loss = s:keep((w * x):sum())
  end
  loss:backward()
  T.eq(w.grad:item(), 5)
end)

T.test("memory() counts bytes and tensors", function()
  local start = live()
  local before = tensor.memory()
  local x = tensor.zeros { 1000, 256 }
  local after = tensor.memory()
  T.eq(after.tensors, start + 1)
  local bytes = 256000 * (double and 8 or 4)
  T.ok(after.live - before.live >= bytes and after.live - before.live <= bytes * 1.25)
  T.ok(after.peak >= after.live)
  local view = x:t()
  T.eq(tensor.memory().live, after.live, "a view takes none")
  x:release()
  view:release()
  T.eq(tensor.memory().live, before.live)
  T.ok(tensor.memory().cached >= bytes)
  tensor.flush()
  local flushed = tensor.memory()
  T.ok(flushed.cached < tensor.memory().cached + 1 and flushed.limit >= 1 << 30)
end)

T.test("memory runs out at every point of making a tensor", function()
  for _, f in ipairs {
    function() return tensor.new { { 1, 2 }, { 3, 4 } } end,
    function() return tensor.new({ 1, 2 }, { dtype = "bf16" }) end,
    function() return tensor.randn({ 3 }, { seed = 1 }):to("i32") end,
    function() return tensor.arange(5):reshape(5, 1):t() end,
    function() return tensor.stack { tensor.ones { 2 }, tensor.zeros { 2 } } end,
    function() return tensor.ones({ 2 }):to("fake"):to("cpu") end,
    function() return tostring(tensor.ones({ 2 }, { dtype = "f16" })) end,
  } do
    local start, n, done = live(), 0, false
    while not done do
      tensor.fail_after(n)
      local ok, e = pcall(f)
      tensor.fail_after(-1)
      T.ok(ok or tostring(e):find("out of", 1, true), e)
      e = nil
      T.eq(live(), start)
      done, n = ok, n + 1
    end
    T.ok(n > 1)
  end
end)

T.test("mocl.tensor is reached through mocl", function()
  T.ok(rawequal(mocl.tensor, tensor))
end)

for _, device in ipairs(T.devices) do
  T.test("multinomial: in proportion, seeded, without repetition on " .. device, function()
    local w = tensor.new({ { 1, 0, 3, 4 }, { 0, 0, 5, 0 } }, { device = device })
    local ids = w:multinomial(20000, { seed = 3, replacement = true })
    T.eq({ ids.shape, ids.dtype, ids.device }, { { 2, 20000 }, "i32", device })
    local rows, count = ids:totable(), { [0] = 0, 0, 0, 0 }
    for _, id in ipairs(rows[1]) do
      count[id] = count[id] + 1
    end
    T.eq(count[1], 0)
    for id, share in pairs { [0] = 1 / 8, [2] = 3 / 8, [3] = 4 / 8 } do -- 5 standard deviations
      T.ok(math.abs(count[id] / 20000 - share) < 5 * math.sqrt(share * (1 - share) / 20000), count[id])
    end
    T.eq(rows[2][1], 2)
    T.eq(w:multinomial(50, { seed = 3, replacement = true })[2]:totable(), tensor.full({ 50 }, 2, { dtype = "i32" }):totable())
    T.eq(w:multinomial(9, { seed = 4, replacement = true }):totable(), tensor.multinomial(w:to "cpu", 9, { seed = 4, replacement = true }):totable())
    T.ok(T.show(w:multinomial(9, { seed = 5, replacement = true }):totable()) ~= T.show(w:multinomial(9, { seed = 4, replacement = true }):totable()))
    T.ok(T.show(w:multinomial(9, { seed = 4, stream = 1, replacement = true }):totable())
      ~= T.show(w:multinomial(9, { seed = 4, replacement = true }):totable()))
    -- without repetition the first draw is in proportion, and all positive ones come
    local first, n = 0, 4000
    for seed = 1, n do
      local list = w[1]:multinomial(3, { seed = seed }):totable()
      first = first + (list[1] == 3 and 1 or 0)
      table.sort(list)
      T.eq(list, { 0, 2, 3 })
    end
    T.ok(math.abs(first / n - .5) < 5 * math.sqrt(.25 / n), first)
  end)
end

T.test("multinomial: what it refuses", function()
  local w = tensor.new { 1, -1 }
  T.raises("weight 2 of row 1 is %-1; they must be finite", w.multinomial, w, 1, { seed = 1 })
  T.raises("weight 1 of row 1 is nan", tensor.multinomial, tensor.new { 0 / 0 }, 1, { seed = 1 })
  T.raises("row 1 has 2 weights above 0, and 3 different ones", tensor.multinomial, tensor.new { 1, 2, 0 }, 3, { seed = 1 })
  T.raises("row 1 has 0 weights above 0", tensor.multinomial, tensor.zeros { 3 }, 1, { seed = 1, replacement = true })
  T.raises("give seed, or key", w.multinomial, w, 1, {})
  T.raises("one or two dimensions", tensor.multinomial, tensor.ones { 1, 1, 1 }, 1, { seed = 1 })
end)

T.test("sort and topk: NaN is the largest, many entries, what they refuse", function()
  local nan = 0 / 0
  local values, at = tensor.new({ 2, nan, 1, 1 / 0 }):sort()
  T.eq(at:totable(), { 2, 0, 3, 1 })
  T.ok(values[4]:item() ~= values[4]:item())
  T.eq(select(2, tensor.new({ 2, nan, 1, nan }):topk(3)):totable(), { 1, 3, 0 })
  local x = tensor.randn({ 5000 }, { seed = 1 })
  local list, sorted = x:totable(), x:sort():totable()
  table.sort(list)
  T.eq(sorted, list)
  T.raises("topk: 5001 of 5000 entries", x.topk, x, 5001)
  T.raises("number of entries expected", x.topk, x, -1)
  T.raises("sort: a tensor with dimensions", tensor.sort, tensor.new(1))
  T.raises("masked_select: the mask has shape %(2%), the tensor %(3%)", tensor.masked_select, tensor.ones { 3 }, tensor.ones { 2 })
end)

-- Under the address sanitizer an allocation whose size is no multiple of its alignment ends the program.
T.test("blocks about the size of huge pages, whole ones and others", function()
  for _, n in ipairs { 1 << 19, (1 << 19) + 1, 600001, (1 << 20) - 1, 2000003 } do
    local x = tensor.ones { n }
    T.eq(x:sum():item(), n + .0)
    x:release()
  end
end)
