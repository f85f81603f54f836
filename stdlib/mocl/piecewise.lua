--- mocl.piecewise: gradients of a batch that is cut into 2^k pieces, which the ranks of a job share out (mocl.comm), with bytes that do not
-- depend on how many ranks there are.
--
-- What a loss is made of is one number, or a row of them, for each token or answer, and these have the same bits whoever computes
-- them (docs/numerics.md). Each rank runs its pieces forward; the numbers go round; every rank computes the loss of the whole batch
-- from them, and its gradients at the numbers; each rank runs its pieces backward from there. The gradients at the parameters are
-- summed as one binary tree over the pieces. So the loss is that of the whole batch, whatever is made of it, and of all sums over
-- tokens the last ones alone are in another order than with one piece.

local comm = require "mocl.comm"
local tensor = require "mocl.tensor"

local piecewise = {}

--- piecewise.check(option, n, rows): raises where n is no power of 2, there are more pieces than rows, or more ranks than pieces. option
-- is what it is called; rows may be nil.
function piecewise.check(option, n, rows)
  if n & (n - 1) ~= 0 then
    error(("%s=%d is no power of 2"):format(option, n), 0)
  elseif rows and rows < n then
    error(("%s=%d: a batch has %d rows; every piece needs one"):format(option, n, rows), 0)
  elseif n > 1 and comm.size() > n then
    error(("%d ranks, but the batch is cut into %d pieces: start at most %d ranks, or say %s=%d, with which the bytes are others"):format(comm.size(), n, n,
      option, 1 << math.ceil(math.log(comm.size(), 2))), 0)
  end
end

--- piecewise.gather(what, pieces, of) -> a leaf that requires grad: of(i), [m, ...] with history or not, of all pieces behind each other.
function piecewise.gather(what, pieces, of)
  local list = {}
  local first, last = comm.pieces(pieces)
  for i = first, last do
    list[#list + 1] = of(i):detach()
  end
  return comm.gather(what, #list == 1 and list[1] or tensor.no_grad(tensor.cat, list)):detach():requires_grad_()
end

--- piecewise.backward(what, pieces, named, backward): leaves the sum over the pieces of the gradients that backward(i) leaves at the
-- parameters, a list of {name, tensor}.
function piecewise.backward(what, pieces, named, backward)
  local sum = comm.sum(what, pieces, function(i)
    local flat = {}
    for _, pair in ipairs(named) do
      pair[2]:zero_grad()
    end
    backward(i)
    for k, pair in ipairs(named) do
      local p = pair[2]
      flat[k] = p.grad and p.grad:flatten() or tensor.zeros({ p:numel() }, { device = p.device })
    end
    return tensor.no_grad(tensor.cat, flat)
  end)
  local at = 1
  for _, pair in ipairs(named) do
    local p = pair[2]
    p:zero_grad()
    p:backward(sum:narrow(1, at, p:numel()):reshape(p.shape)) -- of a leaf: the gradient is what it is given
    at = at + p:numel()
  end
end

return piecewise
