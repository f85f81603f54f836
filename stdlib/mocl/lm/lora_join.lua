--- mocl.lm.lora_join: low-rank pairs of linear layers that are one matrix in other programs' files, as q, k and v of GPT-2 are: put
-- together where an adapter is written, taken apart where one is read.
--
-- With pairs (A_i, B_i, s_i) of the parts the whole has A = [A_1; A_2; ...] and B with B_i on its diagonal, at rank r_1 + r_2 + ...;
-- where all A are the same and all s, as in an adapter that was read from such a file, it has that A and B = [B_1; B_2; ...].

local tensor = require "mocl.tensor"

local lora_join = {}

local function same(a, b)
  if a.shape[1] ~= b.shape[1] or a.shape[2] ~= b.shape[2] then
    return false
  end
  return tensor.no_grad(function() return (a - b):abs():max():item() == 0 end)
end

-- Whether all parts are there with one A and one scale.
local function is_one(parts, n)
  for i = 1, n do
    local one = parts[i]
    if not one or one.scale ~= parts[1].scale or not same(one.A, parts[1].A) then
      return false
    end
  end
  return true
end

--- lora_join.join(parts, rows) -> {A =, B =, scale =, in_blocks =}: of one matrix; in_blocks: B has its parts on the diagonal. parts: by their place, {A =, B =, scale =} of those that have an
-- adapter; rows: list of the rows of each part of the matrix.
function lora_join.join(parts, rows)
  return tensor.no_grad(function()
    if is_one(parts, #rows) then
      local list = {}
      for i = 1, #rows do
        list[i] = parts[i].B
      end
      return { A = parts[1].A, B = #list > 1 and tensor.cat(list, 1) or list[1], scale = parts[1].scale, in_blocks = false }
    end
    local scale, even, rank, first = nil, true, 0, nil
    for i = 1, #rows do
      if parts[i] then
        first = first or parts[i]
        even = even and (scale == nil or parts[i].scale == scale)
        scale, rank = parts[i].scale, rank + parts[i].A.shape[1]
      end
    end
    local A, B, at = {}, {}, 0
    for i = 1, #rows do
      local one = parts[i]
      if one then
        local r, row = one.A.shape[1], {}
        A[#A + 1] = one.A
        if at > 0 then
          row[1] = tensor.zeros({ rows[i], at }, { device = first.A.device })
        end
        row[#row + 1] = even and one.B or one.B * one.scale
        if at + r < rank then
          row[#row + 1] = tensor.zeros({ rows[i], rank - at - r }, { device = first.A.device })
        end
        B[i], at = #row > 1 and tensor.cat(row, 2) or row[1], at + r
      else
        B[i] = tensor.zeros({ rows[i], rank }, { device = first.A.device })
      end
    end
    return { A = #A > 1 and tensor.cat(A, 1) or A[1], B = tensor.cat(B, 1), scale = even and scale or 1.0, in_blocks = true }
  end)
end

--- lora_join.pairs(model, adapter, whole) -> list of {name =, A =, B =, scale =, in_blocks =} | nil, name: the low-rank pairs of an adapter (true or
-- a name) under the names of other matrices, in the order of the model's parameters. whole(module) -> name, part, parts; parts above 1: the
-- linear layer is so many a part of that matrix. nil and the name of a tensor of the adapter that is none of a pair.
function lora_join.pairs(model, adapter, whole)
  local info, list, by_name, by_module, rows = model:lora(adapter ~= true and adapter or nil), {}, {}, {}, {}
  for _, pair in ipairs(model:named_parameters()) do
    rows[pair[1]] = pair[2].shape[1]
  end
  for _, pair in ipairs(model:named_parameters(adapter)) do
    local module, which = pair[1]:match "^(.*)%.lora_([AB])%.weight$"
    if not module then
      return nil, pair[1]
    end
    local name, part, parts = whole(module)
    local one, mine = by_name[name], by_module[module]
    if not one then
      one = { name = name, parts = {}, n = parts, rows = {} }
      by_name[name], list[#list + 1] = one, one
    end
    if not mine then
      mine = {}
      by_module[module], one.parts[part], one.module = mine, mine, module
    end
    mine[which] = pair[2]
    if which == "A" then
      local r, alpha = pair[2].shape[1], info.modules and info.modules[module].alpha or info.alpha
      mine.scale = alpha / (info.use_rslora and math.sqrt(r) or r)
    end
  end
  for i, one in ipairs(list) do
    if one.n == 1 then
      list[i] = { name = one.name, A = one.parts[1].A, B = one.parts[1].B, scale = one.parts[1].scale }
    else
      for k = 1, one.n do -- q, k and v of the same width, as the only such matrix has them
        one.rows[k] = rows[one.module .. ".weight"]
      end
      local joined = lora_join.join(one.parts, one.rows)
      joined.name, list[i] = one.name, joined
    end
  end
  return list
end

--- lora_join.plan(modules, joined, whole) -> place | nil, reason: how joined pairs come apart again, where mocl wrote them. modules: name ->
-- {r =, alpha =} of the linear layers they were made of, joined: the same of the matrices; place: name -> {first =, r =} of its rows of A
-- and columns of B, of matrices that were put together block by block.
function lora_join.plan(modules, joined, whole)
  local ranks, place, order = {}, {}, {}
  for name in pairs(modules) do
    order[#order + 1] = name
  end
  table.sort(order, function(a, b)
    local x, i = whole(a)
    local y, k = whole(b)
    return x < y or x == y and i < k
  end)
  for _, name in ipairs(order) do
    local theirs, r = whole(name), type(modules[name]) == "table" and modules[name].r
    if math.type(r) ~= "integer" or r < 1 or type(modules[name].alpha) ~= "number" then
      return nil, name .. " has no rank and alpha"
    elseif not joined[theirs] then
      return nil, theirs .. " has no adapter"
    end
    place[name] = { first = (ranks[theirs] or 0) + 1, r = r }
    ranks[theirs] = (ranks[theirs] or 0) + r
  end
  for theirs, one in pairs(joined) do
    if ranks[theirs] ~= one.r then
      return nil, ("%s has rank %d, and its parts %d"):format(theirs, one.r, ranks[theirs] or 0)
    end
  end
  return place
end

--- lora_join.part(B, part, parts) -> tensor: the rows of a part in the B of the whole.
function lora_join.part(B, part, parts)
  local rows = B.shape[1] // parts
  return parts == 1 and B or B:narrow(1, (part - 1) * rows + 1, rows)
end

return lora_join
