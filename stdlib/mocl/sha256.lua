--- mocl.sha256: the SHA-256 hash (FIPS 180-4) of a text in memory, for short texts; mocl.fs has that of files.

-- The first 32 bits of the fractional parts of the cube roots of the first 64 primes, and of the square roots of the
-- first 8. They are computed with integers, since doubles have no bits to spare: r = floor(root * 2^32) by bisection,
-- where r^3 is compared with p * 2^96 in pieces of 24 bits.
local function digits(n) -- of a non-negative integer, base 2^24, lowest first
  local d = {}
  repeat
    d[#d + 1], n = n & 0xffffff, n >> 24
  until n == 0
  return d
end

local function product(a, b)
  local out = {}
  for i = 1, #a + #b do
    out[i] = 0
  end
  for i = 1, #a do
    local carry = 0
    for j = 1, #b do
      local sum = out[i + j - 1] + a[i] * b[j] + carry
      out[i + j - 1], carry = sum & 0xffffff, sum >> 24
    end
    out[i + #b] = out[i + #b] + carry
  end
  return out
end

local function above(a, b) -- whether a > b
  for i = math.max(#a, #b), 1, -1 do
    local x, y = a[i] or 0, b[i] or 0
    if x ~= y then
      return x > y
    end
  end
  return false
end

local function fraction(prime, power)
  local bound, shift = digits(prime), 32 * power
  for _ = 1, shift do
    bound = product(bound, { 2 })
  end
  local low, high = 0, 32 << 32
  while high - low > 1 do
    local middle = (low + high) // 2
    local value = { 1 }
    for _ = 1, power do
      value = product(value, digits(middle))
    end
    if above(value, bound) then
      high = middle
    else
      low = middle
    end
  end
  return low & 0xffffffff
end

local K, START

local function constants()
  K, START = {}, {}
  local candidate = 2
  while #K < 64 do
    local prime = true
    for d = 2, candidate - 1 do
      prime = prime and candidate % d ~= 0
    end
    if prime then
      K[#K + 1] = fraction(candidate, 3)
      if #START < 8 then
        START[#START + 1] = fraction(candidate, 2)
      end
    end
    candidate = candidate + 1
  end
end

local function turned(x, n)
  return (x >> n | x << (32 - n)) & 0xffffffff
end

--- sha256(text) -> 64 hexadecimal digits.
return function(text)
  if not K then
    constants()
  end
  local state, w = table.move(START, 1, 8, 1, {}), {}
  local padded = text .. "\x80" .. ("\0"):rep((55 - #text) % 64) .. (">I8"):pack(#text * 8)
  for at = 1, #padded, 64 do
    for i = 1, 16 do
      w[i] = (">I4"):unpack(padded, at + 4 * i - 4)
    end
    for i = 17, 64 do
      local x, y = w[i - 15], w[i - 2]
      local s0 = turned(x, 7) ~ turned(x, 18) ~ x >> 3
      local s1 = turned(y, 17) ~ turned(y, 19) ~ y >> 10
      w[i] = (w[i - 16] + s0 + w[i - 7] + s1) & 0xffffffff
    end
    local a, b, c, d, e, f, g, h = table.unpack(state)
    for i = 1, 64 do
      local s1 = turned(e, 6) ~ turned(e, 11) ~ turned(e, 25)
      local t1 = h + s1 + (e & f ~ ~e & g) + K[i] + w[i]
      local s0 = turned(a, 2) ~ turned(a, 13) ~ turned(a, 22)
      local t2 = s0 + (a & b ~ a & c ~ b & c)
      h, g, f, e, d, c, b, a = g, f, e, (d + t1) & 0xffffffff, c, b, a, (t1 + t2) & 0xffffffff
    end
    for i, v in ipairs { a, b, c, d, e, f, g, h } do
      state[i] = (state[i] + v) & 0xffffffff
    end
  end
  return ("%08x"):rep(8):format(table.unpack(state))
end
