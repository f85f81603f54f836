-- mocl.rng: the generator against published vectors, streams against what they promise

local T = require "t"
local rng = require "mocl.rng"

T.test("philox4x32-10 known answers", function()
  local seen = 0
  for line in io.lines(T.shared("conformance/rng/random123/kat_vectors")) do
    local words = line:match("^philox4x32%s+10%s+(.*)$")
    if words then
      local w = {}
      for hex in words:gmatch("%x+") do
        w[#w + 1] = tonumber(hex, 16)
      end
      T.eq(#w, 10, line)
      local got = { rng.philox(w[1], w[2], w[3], w[4], w[5] | w[6] << 32) }
      T.eq(got, { w[7], w[8], w[9], w[10] }, line)
      seen = seen + 1
    end
  end
  T.ok(seen >= 3, "three or more vectors")
end)

T.test("a zero counter and key (no file needed)", function()
  T.eq({ rng.philox(0, 0, 0, 0, 0) }, { 0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8 })
end)

-- FNV-1a and splitmix64's finaliser, written again in Lua integers
local function key(seed, purpose)
  local hash = 0xCBF29CE484222325
  for i = 1, #purpose do
    hash = (hash ~ purpose:byte(i)) * 0x100000001B3
  end
  local x = seed + 0x9E3779B97F4A7C15 * (hash + 1)
  x = (x ~ x >> 30) * 0xBF58476D1CE4E5B9
  x = (x ~ x >> 27) * 0x94D049BB133111EB
  return x ~ x >> 31
end

T.test("keys and uniforms follow from the definition", function()
  for _, seed in ipairs { 0, 1, -1, 8888, math.maxinteger, math.mininteger } do
    for _, purpose in ipairs { "", "data", "dropout", "a\0b" } do
      T.eq(rng.key(seed, purpose), key(seed, purpose))
      local r = rng.new(seed, purpose)
      for position = 0, 3 do
        local w0, w1 = rng.philox(position, 0, 0, 1, key(seed, purpose))
        T.eq(r:uniform(), ((w1 << 32 | w0) >> 11) * 2.0 ^ -53)
      end
    end
  end
  T.ok(rng.key(1, "a\0b") ~= rng.key(1, "a"), "the whole text counts")
end)

local draws = {
  uniform = function(r) return r:uniform() end,
  normal = function(r) return r:normal() end,
  integer = function(r) return r:integer(-5, 1000) end,
  shuffle = function(r) return table.concat(r:shuffle { 1, 2, 3, 4, 5, 6, 7 }, " ") end,
  choice = function(r) return r:choice { "a", "b", "c", "d" } end,
  weighted = function(r) return r:weighted { 1, 2, 3.5 } end,
  dirichlet = function(r) return table.concat(r:dirichlet(4, 0.3), " ") end,
}

T.test("seek continues exactly", function()
  for name, draw in pairs(draws) do
    local r = rng.new(3, name)
    for _ = 1, 100 do
      draw(r)
    end
    local position = r:position()
    local want = {}
    for i = 1, 20 do
      want[i] = draw(r)
    end
    T.ok(r:position() >= position + 20, name .. ": at least one position each")
    local other = rng.new(3, name):seek(position)
    for i = 1, 20 do
      T.eq(draw(other), want[i], name)
    end
  end
  local far = rng.new(0, "far"):seek(1 << 40)
  local w0, w1 = rng.philox(0, 256, 0, 1, rng.key(0, "far"))
  T.eq(far:uniform(), ((w1 << 32 | w0) >> 11) * 2.0 ^ -53, "positions beyond 32 bits")
end)

T.test("streams of other seeds and purposes differ", function()
  local seen = {}
  for seed = 0, 9 do
    for _, purpose in ipairs { "data", "sampling", "init", "eval" } do
      local u = rng.new(seed, purpose):uniform()
      T.ok(not seen[u], "a first draw came twice")
      seen[u] = true
    end
  end
end)

T.test("moments of uniform and normal", function()
  local n, r = 200000, rng.new(1, "moments")
  local s1, s2, lo, hi = 0, 0, 1, 0
  for _ = 1, n do
    local u = r:uniform()
    s1, s2 = s1 + u, s2 + u * u
    lo, hi = math.min(lo, u), math.max(hi, u)
  end
  T.ok(lo >= 0 and hi < 1)
  T.near(s1 / n, 1 / 2, 4 * (1 / 12 / n) ^ 0.5, "mean, 4 standard errors")
  T.near(s2 / n, 1 / 3, 4 * (4 / 45 / n) ^ 0.5, "second moment")
  local m = { 0, 0, 0, 0 }
  for _ = 1, n do
    local x = r:normal()
    for k = 1, 4 do
      m[k] = m[k] + x ^ k
    end
  end
  T.near(m[1] / n, 0, 4 * (1 / n) ^ 0.5)
  T.near(m[2] / n, 1, 4 * (2 / n) ^ 0.5)
  T.near(m[3] / n, 0, 4 * (15 / n) ^ 0.5)
  T.near(m[4] / n, 3, 4 * (96 / n) ^ 0.5)
end)

-- chi-square statistic of counts against probabilities
local function chi2(counts, p, n)
  local s = 0
  for i = 1, #p do
    s = s + ((counts[i] or 0) - n * p[i]) ^ 2 / (n * p[i])
  end
  return s
end

T.test("integer, choice, weighted and shuffle are fair", function()
  local r, n = rng.new(2, "fair"), 60000
  local a, b, c, d = {}, {}, {}, {}
  for _ = 1, n do
    local i = r:integer(-2, 4)
    T.ok(i >= -2 and i <= 4)
    a[i + 3] = (a[i + 3] or 0) + 1
    i = r:choice { 1, 2, 3 }
    b[i] = (b[i] or 0) + 1
    i = r:weighted { 1, 0, 3, 6, 0 }
    c[i] = (c[i] or 0) + 1
    local s = table.concat(r:shuffle { 1, 2, 3 })
    d[s] = (d[s] or 0) + 1
  end
  -- limits: chi-square quantile .9999 of 6, 2, 2 and 5 degrees of freedom
  local p = 1 / 7
  T.ok(chi2(a, { p, p, p, p, p, p, p }, n) < 27.9, "integer")
  T.ok(chi2(b, { 1 / 3, 1 / 3, 1 / 3 }, n) < 18.5, "choice")
  T.eq({ c[2], c[5] }, {}, "weight 0 is never chosen")
  T.ok(chi2({ c[1], c[3], c[4] }, { 0.1, 0.3, 0.6 }, n) < 18.5, "weighted")
  local list = {}
  for _, s in ipairs { "123", "132", "213", "231", "312", "321" } do
    list[#list + 1] = d[s]
  end
  p = 1 / 6
  T.ok(chi2(list, { p, p, p, p, p, p }, n) < 25.8, "shuffle")
end)

T.test("integer without bias on a range that does not divide 2^64", function()
  -- 3/4 of 2^64: taking a word modulo the range would put 2/3 of the draws into the lowest third
  local r, n, low = rng.new(5, "bias"), 20000, 0
  local span = 3 << 62 -- as unsigned
  local lo = math.mininteger
  local hi = lo + (span - 1)
  for _ = 1, n do
    local offset = r:integer(lo, hi) - lo
    if math.ult(offset, 1 << 62) then
      low = low + 1
    end
  end
  T.near(low / n, 1 / 3, 4 * (2 / 9 / n) ^ 0.5)
  T.eq(r:integer(7, 7), 7)
  T.eq(math.type(r:integer(math.mininteger, math.maxinteger)), "integer")
end)

T.test("dirichlet: on the simplex, with its moments", function()
  local n, r = 40000, rng.new(4, "dirichlet")
  for _, alpha in ipairs { 0.3, 1, 7.5 } do
    local k, s1, s2 = 3, 0, 0
    for _ = 1, n do
      local x, sum = r:dirichlet(k, alpha), 0
      for i = 1, k do
        T.ok(x[i] >= 0 and x[i] <= 1)
        sum = sum + x[i]
      end
      T.near(sum, 1, 1e-12)
      s1, s2 = s1 + x[1], s2 + x[1] ^ 2
    end
    local variance = (k - 1) / k ^ 2 / (k * alpha + 1)
    T.near(s1 / n, 1 / k, 4 * (variance / n) ^ 0.5, "mean at alpha " .. alpha)
    T.near(s2 / n - (s1 / n) ^ 2, variance, 0.02 * variance + 5e-4, "variance at alpha " .. alpha)
  end
  T.eq(r:dirichlet(1), { 1.0 })
  for _, alpha in ipairs { 1e-300, 1e-5, 1e300 } do -- no underflow to 0/0
    local sum = 0
    for _, v in ipairs(r:dirichlet(5, alpha)) do
      sum = sum + v
    end
    T.near(sum, 1, 1e-12)
  end
end)

T.test("shuffle and choice return what they should", function()
  local r = rng.new(0, "list")
  local list = { "a", "b", "c" }
  T.ok(rawequal(r:shuffle(list), list), "in place")
  table.sort(list)
  T.eq(list, { "a", "b", "c" })
  T.eq(r:shuffle {}, {})
  T.eq(r:choice { "only" }, "only")
  T.eq(tostring(rng.new(0, "list")), "mocl.rng at position 0")
end)

T.test("mistakes are told", function()
  local r = rng.new(0, "errors")
  T.raises("range 3 %.%. 1 is empty", r.integer, r, 3, 1)
  T.raises("the list is empty", r.choice, r, {})
  T.raises("weight 2 is %-1", r.weighted, r, { 1, -1 })
  T.raises("weight 1 is .*nan", r.weighted, r, { 0 / 0 })
  T.raises("weight 1 is a string", r.weighted, r, { "x" })
  T.raises("2 weights sum to 0", r.weighted, r, { 0, 0 })
  T.raises("0 weights sum to 0", r.weighted, r, {})
  T.raises("alpha must be positive", r.dirichlet, r, 3, 0)
  T.raises("between 1 and", r.dirichlet, r, 0)
  T.raises("a position is at least 0", r.seek, r, -1)
  T.raises("number expected, got no value", rng.new)
  T.raises("string expected, got no value", rng.new, 1)
  T.raises("counter word", rng.philox, 1 << 32, 0, 0, 0, 0)
  T.raises("mocl.rng expected", r.uniform, {})
end)
