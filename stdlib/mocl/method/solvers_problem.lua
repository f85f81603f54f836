--- mocl.method.solvers_problem: what mocl.method.solvers is given, checked: a Jacobian or a Gram matrix as lengths and cosines of rows.

local M = {}

--- refuse(format, ...): raises a text without a position, which the public function adds.
function M.refuse(format, ...)
  error(format:format(...), 0)
end

--- finite(v) -> whether v is a finite number.
function M.finite(v)
  return type(v) == "number" and v - v == 0
end

--- numbers(list, n, what) -> the n finite numbers of a list, as floats.
function M.numbers(list, n, what)
  if type(list) ~= "table" or #list ~= n then
    M.refuse("%s has %s, %d numbers expected", what, type(list) == "table" and #list .. " entries" or "type " .. type(list), n)
  end
  for j = 1, n do
    if not M.finite(list[j]) then
      M.refuse("%s, entry %d is %s, not a finite number", what, j, tostring(list[j]))
    end
  end
  local floats = {}
  for j = 1, n do
    floats[j] = list[j] + 0.0
  end
  return floats
end

--- dot(a, b) -> the inner product of two lists.
function M.dot(a, b)
  local s = 0.0
  for k = 1, #a do
    s = s + a[k] * b[k]
  end
  return s
end

local function from_rows(J)
  if #J == 0 or type(J[1]) ~= "table" or #J[1] == 0 then
    M.refuse("the Jacobian is a list of rows of numbers, one for each objective, or { gram = G } is given in its place")
  end
  local rows, units, length, C = {}, {}, {}, {}
  for i = 1, #J do
    local row = M.numbers(J[i], #J[1], "row " .. i .. " of the Jacobian")
    local largest, s, unit = 0.0, 0.0, {}
    for k = 1, #row do
      largest = math.max(largest, math.abs(row[k]))
    end
    for k = 1, #row do
      unit[k] = largest > 0 and row[k] / largest or 0.0
      s = s + unit[k] ^ 2
    end
    rows[i], units[i], length[i] = row, unit, largest * s ^ 0.5
    for k = 1, #unit do
      unit[k] = s > 0 and unit[k] / s ^ 0.5 or 0.0
    end
    if length[i] == math.huge then
      M.refuse("row %d of the Jacobian is longer than a float holds", i)
    end
  end
  for i = 1, #J do
    C[i] = {}
    for j = 1, #J do
      C[i][j] = i == j and (length[i] > 0 and 1.0 or 0.0) or j < i and C[j][i] or M.dot(units[i], units[j])
    end
  end
  return { n = #J, length = length, cos = C, J = rows, units = units }
end

local function from_gram(given)
  if type(given) ~= "table" or #given == 0 then
    M.refuse("gram is a list of N rows of N inner products, got %s", type(given) == "table" and "an empty list" or type(given))
  end
  local n, G, length, C = #given, {}, {}, {}
  for i = 1, n do
    if type(given[i]) == "table" and #given[i] ~= n then
      M.refuse("the gram matrix is not square: it has %d rows, and row %d has %d entries", n, i, #given[i])
    end
    G[i] = M.numbers(given[i], n, "row " .. i .. " of the gram matrix")
    if G[i][i] < 0 then
      M.refuse("the gram matrix has %g on its diagonal, row %d: a square of a length is not negative", G[i][i], i)
    end
    length[i] = G[i][i] ^ 0.5
  end
  for i = 1, n do
    C[i] = {}
    for j = 1, n do
      local size = length[i] * length[j]
      if math.abs(G[i][j] - G[j][i]) > 1e-9 * size then
        M.refuse("the gram matrix is not symmetric: entry %d, %d is %g and entry %d, %d is %g", i, j, G[i][j], j, i, G[j][i])
      elseif math.abs(G[i][j]) > (1 + 1e-9) * size then
        M.refuse("the gram matrix has %g at %d, %d, beyond the product %g of the two lengths", G[i][j], i, j, size)
      end
      C[i][j] = size == 0 and 0.0 or i == j and 1.0 or (G[i][j] / length[i] + G[j][i] / length[i]) / 2 / length[j]
    end
  end
  return { n = n, length = length, cos = C }
end

--- problem(input) -> n; length of each row; cos; J and its unit rows where it was given; t: lengths over the greatest; present: rows that are not zero
function M.problem(input)
  if type(input) ~= "table" then
    M.refuse("a Jacobian (a list of rows) or { gram = G } expected, got %s", type(input))
  end
  for key in pairs(input) do
    if input.gram ~= nil and key ~= "gram" then
      M.refuse("{ gram = G } has the further entry '%s': give either rows or the Gram matrix", tostring(key))
    end
  end
  local p = input.gram ~= nil and from_gram(input.gram) or from_rows(input)
  p.largest, p.t, p.present = math.max(table.unpack(p.length)), {}, {}
  for i = 1, p.n do
    p.t[i] = p.largest > 0 and p.length[i] / p.largest or 0.0
    p.present[#p.present + 1] = p.length[i] > 0 and i or nil
  end
  return p
end

return M
