--- mocl.comm: the ranks of a job of MPI that run this program together, and what they exchange. Without mpirun there is one rank, and
-- every function gives what its own part is.
--
--   mpirun -np 4 mocl recipes/moc_hh.lua
--
--   local comm = require "mocl.comm"
--   local first, last = comm.range(#texts)          -- the rows of this rank
--   local all = comm.gather("scores", mine)         -- those of all ranks, in their order
--
-- All ranks must call these functions in the same order. Sums are made here, of gathered parts and in an order that is
-- written down, since what MPI itself makes of floats depends on the number of ranks, the library and the place in the message
-- (docs/guide/many-machines.md).

local check = require "mocl.failure".check
local core = require "mocl.comm.core"
local json = require "mocl.json"
local tensor = require "mocl.tensor"

local comm = {}

local job = core.job()
local apart = 0 -- calls of comm.alone that are open

--- The number of this rank, from 0, and how many there are; 0 and 1 without mpirun, and inside comm.alone.
function comm.rank()
  return apart > 0 and 0 or job.rank
end

function comm.size()
  return apart > 0 and 1 or job.size
end

--- The job as it is, inside comm.alone too: {rank=, size=, local_rank=, local_size=, host=, family="Open MPI", "MPICH" or nil}.
function comm.job()
  return core.job()
end

--- comm.alone(f, ...) -> what f returns; meanwhile this rank takes itself for the only one.
function comm.alone(f, ...)
  local _ <close> = setmetatable({}, { __close = function() apart = apart - 1 end })
  apart = apart + 1
  return f(...)
end

--- comm.exchange(what, text) -> list of the texts of all ranks, in their order. `what` names the exchange in errors and is the same on all ranks.
function comm.exchange(what, text)
  return comm.size() == 1 and { text } or check(core.exchange(what, text))
end

--- Waits for all ranks.
function comm.barrier(what)
  comm.exchange(what or "barrier", "")
end

--- comm.gather(what, t) -> the tensors of all ranks behind each other along dimension 1, of which each rank may have another number of
-- rows. Any dtype; of a tensor on a GPU through the memory of the host.
function comm.gather(what, t)
  return comm.size() == 1 and t or check(core.gather(what, t))
end

--- comm.allgather(t) -> [size, ...]: the tensors of all ranks, which have one shape.
function comm.allgather(t)
  return comm.gather("allgather", t:unsqueeze(1))
end

--- comm.integers(what, list) and comm.numbers(what, list) -> the lists of all ranks as one, with the bits that they had.
function comm.integers(what, list)
  return comm.packed(what, list, "<i8")
end

function comm.numbers(what, list)
  return comm.packed(what, list, "<d")
end

--- The same of a format of string.pack whose items are 8 bytes long.
function comm.packed(what, list, format)
  if comm.size() == 1 then
    return list
  end
  local parts, out = {}, {}
  for i, v in ipairs(list) do
    parts[i] = format:pack(v)
  end
  for _, bytes in ipairs(comm.exchange(what, table.concat(parts))) do
    for at = 1, #bytes, 8 do
      out[#out + 1] = format:unpack(bytes, at)
    end
  end
  return out
end

-- Sum of the nodes first .. first + n - 1, n a power of two: ((1 + 2) + (3 + 4)) + ..., left operand first.
local function fold(node, first, n)
  local whole = node(first, n)
  if whole then
    return whole
  end
  local left = fold(node, first, n // 2)
  return left + fold(node, first + n // 2, n // 2)
end

--- comm.allreduce(t) -> the sum of the tensors of all ranks, with the same bits on each: pairs of neighbours are added, then pairs of those.
-- With another number of ranks it is another sum; comm.sum is one that is not.
function comm.allreduce(t)
  local all, size, n = comm.allgather(t), comm.size(), 1
  while n < size do
    n = n * 2
  end
  return tensor.no_grad(function()
    local zero = tensor.zeros(t.shape, { device = t.device, dtype = t.dtype })
    return fold(function(i, k)
      return k == 1 and (i <= size and all:select(1, i) or zero)
    end, 1, n)
  end)
end

--- comm.broadcast(t, root=0) -> the tensor of the rank `root`; all ranks give one of that shape.
function comm.broadcast(t, root)
  local all = comm.gather("broadcast", comm.rank() == (root or 0) and t:unsqueeze(1) or t:unsqueeze(1):narrow(1, 1, 0))
  return comm.size() == 1 and t or all:select(1, 1)
end

--- comm.first(what, value) -> the value of rank 0, anything that JSON keeps.
function comm.first(what, value)
  if comm.size() == 1 then
    return value
  end
  local list = comm.exchange(what, comm.rank() == 0 and json.encode({ value = value }) or "")
  return comm.rank() == 0 and value or json.decode(list[1]).value
end

--- comm.lead(what, f, ...) -> what f returns on rank 0, where alone it is called (comm.alone); the others wait and get its values as JSON
-- keeps them.
function comm.lead(what, f, ...)
  if comm.size() == 1 then
    return f(...)
  end
  local values = comm.rank() == 0 and table.pack(comm.alone(f, ...)) or { n = 0 }
  local named = { n = values.n }
  for i = 1, values.n do
    named[tostring(i)] = values[i]
  end
  named = comm.first(what, named)
  for i = 1, comm.rank() == 0 and 0 or named.n do
    values[i] = named[tostring(i)]
  end
  return table.unpack(values, 1, named.n)
end

--- comm.agree(what, text): raises where a rank has another text; `cure` is what to do.
function comm.agree(what, text, cure)
  for r, other in ipairs(comm.exchange(what, text)) do
    if other ~= text then
      error(("rank %d has other %s than rank %d: '%s', here '%s'; %s"):format(r - 1, what, comm.rank(), other, text, cure), 0)
    end
  end
end

--- The first and last of n rows that belong to this rank; with pieces, those of its pieces (comm.pieces). last < first: none.
function comm.range(n, pieces, rank)
  local r, size = rank or comm.rank(), comm.size()
  if not pieces then
    return r * n // size + 1, (r + 1) * n // size
  end
  local from, to = comm.pieces(pieces, r)
  local first = comm.piece(n, pieces, from)
  return first, select(2, comm.piece(n, pieces, to))
end

--- The first and last row of piece i, from 1, of n rows that are cut into so many.
function comm.piece(n, pieces, i)
  return (i - 1) * n // pieces + 1, i * n // pieces
end

--- The first and last of 2^k pieces that belong to a rank (this one); raises where there are more ranks than pieces.
function comm.pieces(pieces, rank)
  local size, r = comm.size(), rank or comm.rank()
  if size > pieces then
    error(("comm.pieces: %d ranks, but %d pieces: every rank needs one"):format(size, pieces), 2)
  end
  return r * pieces // size + 1, (r + 1) * pieces // size
end

-- The largest aligned blocks of 2^k that the pieces first .. last consist of: a list of {first, n}.
local function blocks(first, last)
  local list = {}
  while first <= last do
    local n = 1
    while (first - 1) % (2 * n) == 0 and first + 2 * n - 1 <= last do
      n = n * 2
    end
    list[#list + 1] = { first, n }
    first = first + n
  end
  return list
end

--- comm.sum(what, pieces, part) -> the sum of part(1) .. part(pieces), flat tensors of one length, as one binary tree over the 2^k pieces,
-- left operand first. Each rank is asked for its own pieces, from the first on. The bits are the same with any number of ranks.
function comm.sum(what, pieces, part)
  local scope <close> = tensor.scope()
  local first, last = comm.pieces(pieces)
  local rows = {}
  for k, block in ipairs(blocks(first, last)) do
    rows[k] = fold(function(i, n)
      return n == 1 and part(i) or nil
    end, block[1], block[2])
  end
  if comm.size() == 1 then
    return scope:keep(rows[1])
  end
  local all, place, at = comm.gather(what, tensor.stack(rows)), {}, 0
  for r = 0, comm.size() - 1 do
    for _, block in ipairs(blocks(comm.pieces(pieces, r))) do
      at = at + 1
      place[block[1] .. " " .. block[2]] = at
    end
  end
  return scope:keep(fold(function(i, n)
    local row = place[i .. " " .. n]
    return row and all:select(1, row)
  end, 1, pieces))
end

--- comm.signal(name) -> the signal of the first rank that has one, nil where none has: so all end at the same place.
function comm.signal(name)
  for _, other in ipairs(comm.exchange("signals", name or "")) do
    if other ~= "" then
      return other
    end
  end
end

--- comm.place(text): what errors say of where the program is; comm.limit(seconds): of waiting for others.
comm.place, comm.limit = core.place, core.limit

--- comm.alive(): tells the ranks that wait for this one that it is at work; cheap.
function comm.alive()
  if job.size > 1 and apart > 0 then
    core.alive()
  end
end

--- comm.counts() -> {exchanges=, bytes=, sent by this rank, seconds=, in exchanges with waiting}.
comm.counts = core.counts

return comm
