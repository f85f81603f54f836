--- mocl.train.pieces: an actor whose batch is cut into 2^k pieces, so that the ranks of a job share out an update and its bytes do not
-- depend on how many there are.
--
-- What the loss is made of is one number, or a row of them, for each token, and these have the same bits whoever computes them
-- (docs/numerics.md). Each rank runs its pieces forward; the numbers go round; every rank computes the loss of the whole batch
-- from them, and its gradients at the tokens; each rank runs its pieces backward from there. The gradients at the parameters are
-- summed as one binary tree over the pieces (comm.sum). So the loss is that of the whole batch, whatever a recipe makes of it,
-- and of all sums over tokens the last ones alone are in another order than with one piece.

local comm = require "mocl.comm"
local tensor = require "mocl.tensor"

local pieces = {}

local Actor = {}
Actor.__index = Actor

-- what evaluate gives for each token
local OUTPUTS = { "logp", "entropies", "kl", "values" }

--- pieces.check(n, rows): raises where a batch of so many rows cannot be cut into n pieces, or there are too many ranks for them.
function pieces.check(n, rows)
  if n & (n - 1) ~= 0 then
    error(("ppo.pieces=%d is no power of 2"):format(n), 0)
  elseif rows and rows < n then
    error(("ppo.pieces=%d: a batch of %d answers has less; every piece needs one"):format(n, rows), 0)
  elseif n > 1 then
    comm.pieces(n)
  end
end

--- pieces.actor(actor, n) -> an actor of mocl.train.trainer whose update goes by n pieces; the actor itself where n is 1. It must have
-- part(batch, first, last), the batch of some of its rows, and evaluate must give entropies [T] too.
function pieces.actor(actor, n)
  pieces.check(n)
  if n == 1 then
    return actor
  elseif not actor.part then
    error(("pieces=%d: the batch of this policy cannot be cut; leave it at 1"):format(n), 0)
  end
  return setmetatable({ actor = actor, pieces = n, OPTIONS = actor.OPTIONS, has_values = actor.has_values, words = actor.words }, Actor)
end

for _, name in ipairs { "rollout", "updated", "named_parameters", "save", "load" } do
  Actor[name] = function(self, ...)
    return self.actor[name](self.actor, ...)
  end
end

--- The pieces of this rank, ready for their epochs.
function Actor:begin(batch)
  if batch.pieces then
    return
  end
  pieces.check(self.pieces, batch.n)
  batch.pieces = {}
  local first, last = comm.pieces(self.pieces)
  for i = first, last do
    local part = self.actor:part(batch, comm.piece(batch.n, self.pieces, i))
    self.actor:begin(part)
    batch.pieces[i] = part
  end
end

-- f(part, i) of the pieces of this rank -> the rows of all ranks
local function all(self, batch, what, f)
  local list = {}
  local first, last = comm.pieces(self.pieces)
  for i = first, last do
    list[#list + 1] = f(batch.pieces[i], i)
  end
  return comm.gather(what, tensor.no_grad(tensor.cat, list))
end

--- As those of the actor, of the whole batch.
function Actor:values(batch)
  self:begin(batch)
  return self.has_values and all(self, batch, "values", function(part)
    return self.actor:values(part)
  end) or nil
end

function Actor:logp_ref(batch)
  self:begin(batch)
  batch.logp_ref = batch.logp_ref or all(self, batch, "reference", function(part)
    return self.actor:logp_ref(part)
  end)
  return batch.logp_ref
end

-- The gradients of the parameters by piece i, as one flat tensor, from the gradients at its tokens.
local function gradient(self, batch, i, outputs, leaves)
  local part, before = batch.pieces[i], batch.pieces[i].tokens_before
  local loss
  for _, name in ipairs(OUTPUTS) do
    local leaf = leaves[name]
    if leaf and leaf.grad then -- the gradient of a product with it is it, to the bit
      local term = (outputs[name] * leaf.grad:narrow(1, before + 1, part.response_total)):sum()
      loss = loss and loss + term or term
    end
  end
  local named, flat = self:named_parameters(), {}
  for _, pair in ipairs(named) do
    pair[2]:zero_grad()
  end
  if loss and self.actor.backward then
    self.actor:backward(part, outputs, loss)
  elseif loss then
    loss:backward()
  end
  for k, pair in ipairs(named) do
    local p = pair[2]
    flat[k] = p.grad and p.grad:flatten() or tensor.zeros({ p:numel() }, { device = p.device })
  end
  return tensor.no_grad(tensor.cat, flat)
end

-- Leaves the parts of a flat tensor as the gradients of the parameters.
local function leave(self, sum)
  local at = 1
  for _, pair in ipairs(self:named_parameters()) do
    local p = pair[2]
    p:zero_grad()
    p:backward(sum:narrow(1, at, p:numel()):reshape(p.shape)) -- of a leaf: the gradient is what it is given
    at = at + p:numel()
  end
end

--- What the trainer's epochs see, for the whole batch.
function Actor:evaluate(batch, epoch)
  self:begin(batch)
  local outputs, leaves = {}, {}
  for i, piece in pairs(batch.pieces) do
    outputs[i] = self.actor:evaluate(piece, epoch)
  end
  for _, name in ipairs(OUTPUTS) do
    if outputs[comm.pieces(self.pieces)][name] then
      leaves[name] = all(self, batch, name, function(_, i)
        return outputs[i][name]:detach()
      end):detach():requires_grad_()
    end
  end
  return { logp = leaves.logp, entropy = leaves.entropies:mean(), kl = leaves.kl, values = leaves.values, outputs = outputs, leaves = leaves }
end

--- The gradients of a loss of evaluate's e at the parameters.
function Actor:backward(batch, e, loss)
  loss:backward()
  leave(self, comm.sum("gradients", self.pieces, function(i)
    return gradient(self, batch, i, e.outputs[i], e.leaves)
  end))
  for _, leaf in pairs(e.leaves) do
    leaf:requires_grad_(false) -- a scope does not free what requires grad
  end
end

return pieces
