--- mocl.method.pools: which answers, or tokens, share one c of equation 12 (control.pool), and sums over them.

local nn = require "mocl.nn.core"
local segments = require "mocl.segments"
local tensor = require "mocl.tensor"

local pools = {}

local Pools = {}
Pools.__index = Pools

--- pools.new(kind, places, violated, least, batch): kind is "preference" (answers of one place), "batch", "sample" or "token";
-- violated and least are those of each answer: whether its constraint is violated, and the least c that it allows.
function pools.new(kind, places, violated, least, batch)
  local self = setmetatable({ kind = kind, batch = batch, least = least, of = {}, violated = {}, n = 0, c = {} }, Pools)
  local by_key = {}
  for i, place in ipairs(places) do
    local key = kind == "batch" and 0 or kind == "preference" and place or -i
    if not by_key[key] then
      self.n = self.n + 1
      by_key[key] = self.n
    end
    local k = by_key[key]
    self.of[i], self.violated[k] = k, self.violated[k] or violated[i]
  end
  return self
end

--- Sums of three [T] tensors over each pool, as lists; one read from the device. Of tokens the numbers as they are.
function Pools:sums(a, b, c)
  local all = tensor.stack { a, b, c }
  if self.kind == "token" then
    return table.unpack(all:totable())
  elseif self.kind == "batch" then
    local s = all:sum(2):totable()
    return { s[1] }, { s[2] }, { s[3] }
  end
  local sums = { {}, {}, {} }
  for i, row in ipairs(nn.segment_sum(all:t():contiguous(), self.batch.response_offsets):totable()) do
    local k = self.of[i]
    for l, sum in ipairs(sums) do
      sum[k] = (sum[k] or 0) + row[l]
    end
  end
  return table.unpack(sums)
end

--- 1 at the tokens of pool k and 0 at the others, [T]. Not of tokens.
function Pools:part(k)
  local list = {}
  for i, of in ipairs(self.of) do
    list[i] = of == k and 1 or 0
  end
  return segments.spread(list, self.batch)
end

--- c from f(k, violated) -> c of pool k (of token k), each answer's at least what it allows: as [T], and [T, n] with n equal
-- columns. The c of each answer, of its first token, stay in self.c.
function Pools:each(n, f)
  local c, known = {}, {}
  if self.kind == "token" then
    local tokens, offsets = {}, self.batch.response_offsets:totable()
    for i, k in ipairs(self.of) do
      for t = offsets[i] + 1, offsets[i + 1] do
        tokens[t] = math.max(self.least[i], f(t, self.violated[k]))
      end
      c[i] = tokens[offsets[i] + 1]
    end
    self.c = c
    local column = tensor.new(tokens, { device = self.batch.tokens.device })
    return column, column:unsqueeze(2):expand { #tokens, n }
  end
  local rows, row_of = {}, {}
  for i, k in ipairs(self.of) do
    known[k] = known[k] or f(k, self.violated[k])
    local x = math.max(self.least[i], known[k])
    if not row_of[x] then
      row_of[x] = {}
      for j = 1, n do
        row_of[x][j] = x
      end
    end
    c[i], rows[i] = x, row_of[x]
  end
  self.c = c
  return segments.spread(c, self.batch), segments.spread(rows, self.batch)
end

return pools
