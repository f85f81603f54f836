-- operations on more than one block of work: truths computed here in Lua, exact where the numbers are
-- small integers; and row invariance: a row has the same bits alone as among others.

local T = require "t"
local ops = require "fixtures.ops"
local nn = require "mocl.nn.core"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"

local TOL = ops.is_double and 1e-12 or 2e-6

-- repeatable small integers in -k .. k
local function integers(n, k, salt)
  local list = {}
  for i = 1, n do
    list[i] = (i * 7919 + salt * 104729 + (i * i) % 1013) % (2 * k + 1) - k
  end
  return list
end

local function make(device, list, ...)
  return tensor.new(list, { device = device }):reshape(...)
end

local function on_both(name, f)
  for _, device in ipairs(T.devices) do
    T.test(name .. " on " .. device, function()
      local broken = tensor.memory().broken_guards
      f(device)
      collectgarbage()
      collectgarbage()
      T.eq(tensor.memory().broken_guards - broken, 0, "writes behind a block")
    end)
  end
end

-- both flat; names the entry that is off
local function same(got, want, tol, what)
  T.eq(#got, #want, what)
  local d, at = ops.distance(got, want)
  T.ok(d <= tol, ("%s: entry %d is %.9g, not %.9g"):format(what, at, got[at] or 0, want[at] or 0))
end

local function map(list, f)
  local out = {}
  for i, v in ipairs(list) do
    out[i] = f(v, i)
  end
  return out
end

-- ---- elementwise ----

local function sigmoid(x)
  return 1 / (1 + math.exp(-x))
end

local truths = {
  exp = math.exp,
  tanh = function(x) return 1 - 2 / (math.exp(2 * x) + 1) end,
  sigmoid = sigmoid,
  silu = function(x) return x * sigmoid(x) end,
  softplus = function(x) return math.log(1 + math.exp(-math.abs(x))) + math.max(x, 0) end,
  relu = function(x) return math.max(x, 0) end,
  square = function(x) return x * x end,
  neg = function(x) return -x end,
  abs = math.abs,
  sin = math.sin,
  cos = math.cos,
}

on_both("elementwise, 20011 entries", function(device)
  local list = map(integers(20011, 256, 1), function(v) return v / 64 end)
  local x = make(device, list, 20011)
  for name, f in pairs(truths) do
    same(ops.flat(x[name](x)), map(list, f), TOL, name)
  end
  local positive = map(list, function(v) return math.abs(v) + 1 / 64 end)
  local p = make(device, positive, 20011)
  same(ops.flat(p:log()), map(positive, function(v) return math.log(v) end), TOL, "log")
  same(ops.flat(p:sqrt()), map(positive, math.sqrt), TOL, "sqrt")
  same(ops.flat(p:rsqrt()), map(positive, function(v) return v ^ -.5 end), TOL, "rsqrt")
  same(ops.flat(p ^ x), map(positive, function(v, i) return v ^ list[i] end), ops.is_double and 1e-11 or 4e-6, "pow")
  same(ops.flat(x / p), map(list, function(v, i) return v / positive[i] end), TOL, "div")
end)

on_both("broadcasting over 67 x 513", function(device)
  local a, row, column = integers(67 * 513, 50, 1), integers(513, 50, 2), integers(67, 50, 3)
  local x = make(device, a, 67, 513)
  local function want(f, other)
    return map(a, function(v, i) return f(v, other((i - 1) // 513 + 1, (i - 1) % 513 + 1)) end)
  end
  local function by_row(_, c) return row[c] end
  local function by_column(r) return column[r] end
  local function add(p, q) return p + q end
  local function mul(p, q) return p * q end
  local function gt(p, q) return p > q and 1 or 0 end
  local r, c = make(device, row, 513), make(device, column, 67, 1)
  same(ops.flat(x + r), want(add, by_row), 0, "add a row")
  same(ops.flat(x * c), want(mul, by_column), 0, "mul by a column")
  same(ops.flat(c * x), want(mul, by_column), 0, "a column first")
  same(ops.flat(x:gt(r)), want(gt, by_row), 0, "gt")
  same(ops.flat(x:t() + c:t()), ops.flat((x + c):t()), 0, "transposed")
end)

on_both("copies of views of 257 x 131", function(device)
  local a = integers(257 * 131, 1000, 1)
  local x = make(device, a, 257, 131)
  local turned = {}
  for c = 1, 131 do
    for r = 1, 257 do
      turned[#turned + 1] = a[(r - 1) * 131 + c]
    end
  end
  same(ops.flat(x:t()), turned, 0, "transpose")
  same(ops.flat(x:t():contiguous():t()), a, 0, "and back")
  same(ops.flat(tensor.cat({ x:narrow(2, 1, 64), x:narrow(2, 65, 67) }, 2)), a, 0, "cat of halves")
  same(ops.flat(x:reshape(1, 257, 131):expand(2, 257, 131)[2]), a, 0, "expand")
end)

-- ---- reductions ----

on_both("sums and extremes of 61 x 67 x 33", function(device)
  local n1, n2, n3 = 61, 67, 33
  local a = integers(n1 * n2 * n3, 100, 1)
  local x = make(device, a, n1, n2, n3)
  local function at(i, j, k) return a[((i - 1) * n2 + j - 1) * n3 + k] end
  local total, high, high_at = 0, -1000, 0
  for i, v in ipairs(a) do
    total = total + v
    if v > high then high, high_at = v, i - 1 end
  end
  T.eq(x:sum():item(), total)
  T.eq(x:max():item(), high)
  T.eq(x:argmax():item(), high_at)
  local sum1, max2, arg2, sum3 = {}, {}, {}, {}
  for j = 1, n2 do
    for k = 1, n3 do
      local s = 0
      for i = 1, n1 do s = s + at(i, j, k) end
      sum1[#sum1 + 1] = s
    end
  end
  for i = 1, n1 do
    for k = 1, n3 do
      local m, where = -1000, 0
      for j = 1, n2 do
        if at(i, j, k) > m then m, where = at(i, j, k), j - 1 end
      end
      max2[#max2 + 1], arg2[#arg2 + 1] = m, where
    end
    for j = 1, n2 do
      local s = 0
      for k = 1, n3 do s = s + at(i, j, k) end
      sum3[#sum3 + 1] = s
    end
  end
  same(ops.flat(x:sum(1)), sum1, 0, "sum over 1")
  same(ops.flat(x:max(2)), max2, 0, "max over 2")
  same(ops.flat(x:argmax(2)), arg2, 0, "argmax over 2")
  same(ops.flat(x:sum(3)), sum3, 0, "sum over 3")
end)

on_both("a sum and a running sum of 100003", function(device)
  local a = integers(100003, 3, 1)
  local x = make(device, a, 100003)
  local run, s = {}, 0
  for i, v in ipairs(a) do
    s = s + v
    run[i] = s
  end
  T.eq(x:sum():item(), s)
  same(ops.flat(x:cumsum(1)), run, 0, "cumsum")
end)

T.test("sums keep double precision inside", function()
  local n = 2 ^ 20 // 1
  T.near((tensor.full({ n }, .1):sum() / n):item(), tensor.full({}, .1):item(), ops.is_double and 1e-12 or 0)
  T.eq(tensor.cat({ tensor.full({ 1 }, 2 ^ 24), tensor.ones { 2 ^ 16 // 1 } }):sum():item(), 2 ^ 24 + 2 ^ 16)
end)

on_both("softmax of 300 rows of 515", function(device)
  local a = map(integers(300 * 515, 320, 1), function(v) return v / 64 end)
  local x = make(device, a, 300, 515)
  local p, lp = ops.flat(x:softmax()), ops.flat(x:log_softmax())
  for _, r in ipairs { 1, 2, 150, 299, 300 } do
    local s = 0
    for c = 1, 515 do s = s + math.exp(a[(r - 1) * 515 + c]) end
    for c = 1, 515, 17 do
      local i = (r - 1) * 515 + c
      T.near(p[i], math.exp(a[i]) / s, TOL)
      T.near(lp[i], a[i] - math.log(s), TOL)
    end
  end
end)

-- ---- products ----

local function product(a, b, m, k, n)
  local c = {}
  for i = 0, m - 1 do
    for j = 0, n - 1 do
      local s = 0
      for p = 0, k - 1 do s = s + a[i * k + p + 1] * b[p * n + j + 1] end
      c[#c + 1] = s
    end
  end
  return c
end

on_both("matmul of integers is exact", function(device)
  for _, size in ipairs { { 1, 300, 1 }, { 3, 130, 70 }, { 65, 17, 129 }, { 130, 64, 31 }, { 17, 257, 5 }, { 128,
    1, 64 } } do
    local m, k, n = table.unpack(size)
    local a, b = integers(m * k, 4, 1), integers(k * n, 4, 2)
    local want = product(a, b, m, k, n)
    local x, y = make(device, a, m, k), make(device, b, k, n)
    local xt, yt = x:t():contiguous():t(), y:t():contiguous():t() -- stored the other way round
    for i, pair in ipairs { { x, y }, { xt, y }, { x, yt }, { xt, yt } } do
      same(ops.flat(pair[1]:matmul(pair[2])), want, 0, ("%d x %d x %d, form %d"):format(m, k, n, i))
    end
    same(ops.flat(nn.linear(x, yt:t())), want, 0, "linear")
    same(ops.flat(nn.linear(x, yt:t(), tensor.full({ n }, 7, { device = device }))),
      map(want, function(v) return v + 7 end), 0, "linear with bias")
    local gx, gy = make(device, a, m, k):requires_grad_(), make(device, b, k, n):requires_grad_()
    local g = integers(m * n, 2, 3)
    gx:matmul(gy):backward(make(device, g, m, n))
    same(ops.flat(gx.grad), product(g, ops.flat(y:t()), m, n, k), 0, "gradient of a")
    same(ops.flat(gy.grad), product(ops.flat(x:t()), g, k, m, n), 0, "gradient of b")
  end
end)

-- ---- rows by index ----

on_both("1000 rows picked from 37 and added back", function(device)
  local x = make(device, integers(37 * 33, 9, 1), 37, 33):requires_grad_()
  local ids, want = {}, {}
  for i = 1, 37 * 33 do want[i] = 0 end
  for i = 1, 1000 do
    ids[i] = (i * i) % 37
    for c = 1, 33 do
      want[ids[i] * 33 + c] = want[ids[i] * 33 + c] + (i % 5)
    end
  end
  local y = nn.embedding(x, ids)
  local flat, out = ops.flat(x), ops.flat(y)
  for i = 1, 1000, 7 do
    for c = 1, 33 do T.eq(out[(i - 1) * 33 + c], flat[ids[i] * 33 + c]) end
  end
  local g = {}
  for i = 1, 1000 do
    for _ = 1, 33 do g[#g + 1] = i % 5 end
  end
  y:backward(make(device, g, 1000, 33))
  same(ops.flat(x.grad), want, 0, "gradient")
end)

-- ---- sequences ----

on_both("attention over 300 keys", function(device)
  local t, k = 300, 3
  local q = map(integers(t * k, 64, 1), function(v) return v / 16 end)
  local key = map(integers(t * k, 64, 2), function(v) return v / 16 end)
  local v = map(integers(t * k, 64, 3), function(x) return x / 16 end)
  local function tensor3(list) return make(device, list, t, 1, k) end
  for _, causal in ipairs { true, false } do
    local out = ops.flat(nn.attention(tensor3(q), tensor3(key), tensor3(v), { 0, 7, t }, { causal = causal }))
    for _, row in ipairs { 0, 6, 7, 134, 135, 136, 262, 263, 299 } do
      local first = row < 7 and 0 or 7
      local last = causal and row or (row < 7 and 6 or t - 1)
      local top, sum, want = -math.huge, 0, { 0, 0, 0 }
      local function score(j)
        local s = 0
        for c = 1, k do s = s + q[row * k + c] * key[j * k + c] end
        return s / math.sqrt(k)
      end
      for j = first, last do top = math.max(top, score(j)) end
      for j = first, last do
        local p = math.exp(score(j) - top)
        sum = sum + p
        for c = 1, k do want[c] = want[c] + p * v[j * k + c] end
      end
      for c = 1, k do
        T.near(out[row * k + c], want[c] / sum, ops.is_double and 1e-12 or 2e-5, "row " .. row)
      end
    end
  end
end)

on_both("segments of 3001 rows", function(device)
  local x = integers(3001 * 5, 9, 1)
  local offsets, want = { 0 }, {}
  while offsets[#offsets] < 3001 do
    offsets[#offsets + 1] = math.min(3001, offsets[#offsets] + (#offsets * 31) % 97)
  end
  for s = 1, #offsets - 1 do
    for c = 1, 5 do
      local sum = 0
      for t = offsets[s], offsets[s + 1] - 1 do sum = sum + x[t * 5 + c] end
      want[#want + 1] = sum
    end
  end
  same(ops.flat(nn.segment_sum(make(device, x, 3001, 5), offsets)), want, 0, "sums")
end)

on_both("norms of 700 rows: the gradient of the weights", function(device)
  local x = map(integers(700 * 7, 100, 1), function(v) return v / 64 end)
  local w = tensor.ones({ 7 }, { device = device, requires_grad = true })
  local b = tensor.zeros({ 7 }, { device = device, requires_grad = true })
  nn.layer_norm(make(device, x, 700, 7), w, b):sum():backward()
  local want = { 0, 0, 0, 0, 0, 0, 0 }
  for r = 0, 699 do
    local mean, var = 0, 0
    for c = 1, 7 do mean = mean + x[r * 7 + c] / 7 end
    for c = 1, 7 do var = var + (x[r * 7 + c] - mean) ^ 2 / 7 end
    for c = 1, 7 do want[c] = want[c] + (x[r * 7 + c] - mean) / math.sqrt(var + 1e-5) end
  end
  T.near(w.grad:totable(), want, ops.is_double and 1e-11 or 1e-4)
  T.eq(b.grad:totable(), { 700, 700, 700, 700, 700, 700, 700 })
end)

-- ---- row invariance ----

-- f of all rows, then of each row alone and of pieces: the same bits
local function invariant(what, n, f)
  local whole = f(0, n)
  local width = #whole // n
  for _, cut in ipairs { { 0, 1 }, { 1, 1 }, { n - 1, 1 }, { 2, 5 }, { n // 2, n - n // 2 }, { 0, n - 1 } } do
    local part = f(cut[1], cut[2])
    for i, v in ipairs(part) do
      if v ~= whole[cut[1] * width + i] then
        error(("%s: rows %d to %d: entry %d is %.17g, among %d rows %.17g"):format(what, cut[1] + 1,
          cut[1] + cut[2], i, v,
          n, whole[cut[1] * width + i]), 0)
      end
    end
  end
end

T.test("a row has the same bits alone as among others", function()
  local n = 83
  for _, width in ipairs { 1, 13, 64, 67, 130 } do
    local x = tensor.randn({ n, width }, { seed = 1 })
    local u = tensor.randn({ n, width }, { seed = 2 })
    local w = tensor.randn({ 70, width }, { seed = 3 })
    local a, b = tensor.randn({ 4, width }, { seed = 4 }), tensor.randn({ 70, 4 }, { seed = 5 })
    local g, bias = tensor.randn({ width }, { seed = 6 }), tensor.randn({ 70 }, { seed = 7 })
    local function rows(f)
      return function(first, count)
        return ops.flat(f(x:narrow(1, first + 1, count), u:narrow(1, first + 1, count)))
      end
    end
    for name, f in pairs {
      linear = function(v) return nn.linear(v, w, bias) end,
      matmul = function(v) return v:matmul(w:t()) end,
      lora_linear = function(v) return nn.lora_linear(v, w, a, b, { scale = 2 }) end,
      softmax = function(v) return v:softmax() end,
      log_softmax = function(v) return v:log_softmax() end,
      rms_norm = function(v) return nn.rms_norm(v, g) end,
      layer_norm = function(v) return nn.layer_norm(v, g, g) end,
      swiglu = function(v, z) return nn.swiglu(v, z) end,
      gelu = function(v) return v:gelu() end,
      exp = function(v) return v:exp() end,
      tanh = function(v) return v:tanh() end,
      silu = function(v) return v:silu() end,
      add = function(v, z) return v + z end,
      sum = function(v) return v:sum(2) end,
      logsumexp = function(v) return v:logsumexp(2) end,
    } do
      invariant(name .. " of width " .. width, n, rows(f))
    end
    for column = 1, 3 do
      invariant("lm_head of width " .. width, n, function(first, count)
        local target = {}
        for i = 1, count do target[i] = (first + i) % 70 end
        return ops.flat((select(column, nn.lm_head(x:narrow(1, first + 1, count), w, target,
          { hidden_ref = u:narrow(1, first + 1, count), temperature = .7 }))))
      end)
    end
  end
end)

T.test("lm_head: rows beyond a chunk of 256 or 1024 have the bits they have alone", function()
  local h, w = tensor.randn({ 2100, 5 }, { seed = 1 }), tensor.randn({ 11, 5 }, { seed = 2 })
  local ids = {}
  for i = 1, 2100 do ids[i] = i % 11 end
  local all = ops.flat((nn.lm_head(h, w, ids)))
  local kept = ops.flat((nn.lm_head(h:clone():requires_grad_(), w, ids)))
  local reference = ops.flat(nn.lm_reference(h, w, ids).logp)
  for _, i in ipairs { 1, 255, 256, 257, 512, 513, 1024, 1025, 2048, 2049, 2100 } do
    local alone = nn.lm_head(h:narrow(1, i, 1), w, { i % 11 }):item()
    T.eq({ all[i], kept[i], reference[i] }, { alone, alone, alone })
  end
end)

T.test("a sequence has the same bits alone as in a batch", function()
  local offsets = { 0, 1, 5, 5, 145, 160 }
  local heads, groups, k, t = 4, 2, 12, 160
  local q, key, v = tensor.randn({ t, heads, k }, { seed = 1 }), tensor.randn({ t, groups, k }, { seed = 2 }),
    tensor.randn({ t, groups, k }, { seed = 3 })
  for _, causal in ipairs { true, false } do
    local all = nn.attention(q, key, v, offsets, { causal = causal })
    for s = 1, #offsets - 1 do
      local first, n = offsets[s] + 1, offsets[s + 1] - offsets[s]
      local alone = nn.attention(q:narrow(1, first, n), key:narrow(1, first, n), v:narrow(1, first, n), { 0, n },
        { causal = causal })
      T.ok(ops.distance(ops.flat(alone), ops.flat(all:narrow(1, first, n))) == 0, "sequence " .. s)
    end
  end
  -- causal: a longer sequence does not change its beginning
  local long = nn.attention(q, key, v, { 0, t })
  local short = nn.attention(q:narrow(1, 1, 140), key:narrow(1, 1, 140), v:narrow(1, 1, 140), { 0, 140 })
  T.ok(ops.distance(ops.flat(short), ops.flat(long:narrow(1, 1, 140))) == 0, "prefix")
  local pos = {}
  for i = 1, t do pos[i] = i - 1 end
  local turned = nn.rope(q, pos)
  for _, i in ipairs { 1, 2, 100, 160 } do
    T.ok(ops.distance(ops.flat(nn.rope(q:narrow(1, i, 1), { i - 1 })), ops.flat(turned:narrow(1, i, 1))) == 0, "rope")
  end
end)

-- ---- what is not a number ----

T.test("NaN and infinity go through", function()
  local nan, inf = 0 / 0, math.huge
  local x = tensor.new { 1, nan, -inf, inf }
  local function is_nan(v) return v ~= v end
  for _, op in ipairs { "relu", "exp", "abs", "neg", "sigmoid", "tanh", "square", "floor", "sign", "clamp" } do
    T.ok(is_nan(x[op](x)[2]:item()), op .. " of NaN")
  end
  T.eq(x:relu():narrow(1, 3, 2):totable(), { 0, inf })
  T.eq(x:exp():narrow(1, 3, 2):totable(), { 0, inf })
  T.eq(x:sigmoid():narrow(1, 3, 2):totable(), { 0, 1 })
  T.ok(is_nan(x:max():item()) and is_nan(x:min():item()) and is_nan(x:sum():item()))
  T.ok(is_nan(tensor.maximum(x, 5)[2]:item()) and is_nan(tensor.minimum(tensor.new { 5, 5, 5, 5 }, x)[2]:item()))
  T.eq(x:argmax():item(), 1, "NaN is found first, as in PyTorch")
  T.eq(x:eq(x):totable(), { 1, 0, 1, 1 })
  T.eq(x:ne(x):totable(), { 0, 1, 0, 0 })
  T.eq(tensor.new({ -inf, 0 }):softmax():totable(), { 0, 1 })
  T.eq(tensor.new({ -inf, -inf }):logsumexp():item(), -inf)
  T.eq(tensor.new({ inf, 0 }):logsumexp():item(), inf)
end)

-- ---- random numbers ----

T.test("rand is the Philox stream of its key", function()
  local key, stream, n = rng.key(3, "test"), 5 + (7 << 32), 4003
  local got = tensor.rand({ n }, { key = key, stream = stream }):totable()
  for i = 0, n - 1, 37 do
    local words = { rng.philox(i // 4, 0, 5, 7, key) }
    T.eq(got[i + 1], (words[i % 4 + 1] >> 8) / 2 ^ 24, "entry " .. i + 1)
  end
  local scaled = tensor.rand({ n }, { key = key, stream = stream, low = -3, high = 5 }):totable()
  for i = 1, n do
    T.near(scaled[i], got[i] * 8 - 3, 1e-6)
    T.ok(scaled[i] >= -3 and scaled[i] < 5)
  end
end)

T.test("randn: moments and independence of the size", function()
  local n = 40000
  local x = tensor.randn({ n }, { seed = 11 })
  local mean, square = x:mean():item(), x:square():mean():item()
  T.ok(math.abs(mean) < 4 / math.sqrt(n), "mean " .. mean)
  T.ok(math.abs(square - 1) < 4 * math.sqrt(2 / n), "variance " .. square)
  local beyond = x:abs():gt(1.959964):sum():item() / n
  T.ok(math.abs(beyond - .05) < 4 * math.sqrt(.05 * .95 / n), "share beyond 1.96: " .. beyond)
  T.eq(tensor.randn({ 7 }, { seed = 11 }):totable(), x:narrow(1, 1, 7):totable())
  T.eq(tensor.randn({ 2, 3 }, { seed = 11, device = "fake" }):flatten():totable(), x:narrow(1, 1, 6):totable())
  T.ok(tensor.randn({ 1 }, { seed = 12 }):item() ~= x[1]:item())
  T.ok(tensor.randn({ 1 }, { seed = 11, stream = 1 }):item() ~= x[1]:item())
  local moved = tensor.randn({ n }, { seed = 11, mean = 3, std = .5 })
  T.near(moved:totable(), (x * .5 + 3):totable(), 1e-6)
end)

on_both("the gradients of A and B over rows that come in pieces have the bits of one pass", function(device)
  local function random(rows, columns, key)
    return tensor.randn({ rows, columns }, { key = key, device = device })
  end
  local n = 800
  local x, w, seed = random(n, 40, 1), random(24, 40, 2), random(n, 24, 3)
  local a, b = random(5, 40, 4):requires_grad_(), random(24, 5, 5):requires_grad_()
  local function gradients(sizes)
    local at = 1
    for i, size in ipairs(sizes) do
      nn.lora_linear(x:narrow(1, at, size), w, a, b, { scale = 1.5 }):backward(seed:narrow(1, at, size):contiguous(), { more_rows = i < #sizes })
      at = at + size
    end
    local found = { a.grad:totable(), b.grad:totable() }
    a:zero_grad()
    b:zero_grad()
    return found
  end
  local all = gradients { n }
  for _, sizes in ipairs { { 100, 156, 256, 288 }, { 300, 500 }, { 1, 799 }, { 90, 90, 90, 90, 90, 350 } } do
    T.eq(gradients(sizes), all, table.concat(sizes, ", "))
  end
end)

T.test("dropout follows the uniform stream", function()
  local n, p = 4003, .3
  local u = tensor.rand({ n }, { key = 77, stream = 2 })
  local y = nn.dropout(tensor.ones { n }, p, { key = 77, stream = 2 }):totable()
  local kept = 0
  for i = 1, n do
    T.ok(y[i] == 0 or math.abs(y[i] - 1 / (1 - p)) < 1e-6)
    T.eq(y[i] ~= 0, u[i]:item() >= p, "entry " .. i)
    kept = kept + (y[i] ~= 0 and 1 or 0)
  end
  T.ok(math.abs(kept / n - .7) < 4 * math.sqrt(.21 / n))
  T.eq(nn.dropout(u, 0):totable(), u:totable())
  T.raises("dropout: p = 1 is outside %[0, 1%)", nn.dropout, u, 1)
  T.raises("dropout: p = %-0.1 is outside", nn.dropout, u, -.1)
end)
