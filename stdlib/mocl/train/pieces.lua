--- mocl.train.pieces: an actor whose updates go by pieces of the batch (mocl.piecewise), so that the ranks of a job share them out.

local comm = require "mocl.comm"
local piecewise = require "mocl.piecewise"

local pieces = {}

local Actor = {}
Actor.__index = Actor

-- what evaluate gives for each token
local OUTPUTS = { "logp", "entropies", "kl", "values" }

--- pieces.actor(actor, n) -> an actor of mocl.train.trainer whose update goes by n pieces; the actor itself where n is 1. It must have
-- part(batch, first, last), the batch of some of its rows, and evaluate must give entropies [T] too.
function pieces.actor(actor, n)
  piecewise.check("ppo.pieces", n)
  if n == 1 then
    return actor
  elseif not actor.part then
    error(("ppo.pieces=%d: the batch of this policy cannot be cut; leave it at 1"):format(n), 0)
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
  piecewise.check("ppo.pieces", self.pieces, batch.n)
  batch.pieces = {}
  local first, last = comm.pieces(self.pieces)
  for i = first, last do
    local piece = self.actor:part(batch, comm.piece(batch.n, self.pieces, i))
    self.actor:begin(piece)
    batch.pieces[i] = piece
  end
end

--- As those of the actor, of the whole batch.
function Actor:values(batch)
  self:begin(batch)
  return self.has_values and piecewise.gather("values", self.pieces, function(i)
    return self.actor:values(batch.pieces[i])
  end):requires_grad_(false) or nil
end

function Actor:logp_ref(batch)
  self:begin(batch)
  batch.logp_ref = batch.logp_ref or piecewise.gather("reference", self.pieces, function(i)
    return self.actor:logp_ref(batch.pieces[i])
  end):requires_grad_(false)
  return batch.logp_ref
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
      leaves[name] = piecewise.gather(name, self.pieces, function(i)
        return outputs[i][name]
      end)
    end
  end
  return { logp = leaves.logp, entropy = leaves.entropies:mean(), kl = leaves.kl, values = leaves.values, outputs = outputs, leaves = leaves }
end

-- What has the gradients of the loss at the tokens of a piece as its own: nil where there are none.
local function loss_of(piece, outputs, leaves)
  local loss
  for _, name in ipairs(OUTPUTS) do
    local leaf = leaves[name]
    if leaf and leaf.grad then -- the gradient of a product with it is it, to the bit
      local term = (outputs[name] * leaf.grad:narrow(1, piece.tokens_before + 1, piece.response_total)):sum()
      loss = loss and loss + term or term
    end
  end
  return loss
end

--- The gradients of a loss of evaluate's e at the parameters.
function Actor:backward(batch, e, loss)
  loss:backward()
  piecewise.backward("gradients", self.pieces, self:named_parameters(), function(i)
    local piece, outputs = batch.pieces[i], e.outputs[i]
    local own = loss_of(piece, outputs, e.leaves)
    if own and self.actor.backward then
      self.actor:backward(piece, outputs, own)
    elseif own then
      own:backward()
    end
  end)
  for _, leaf in pairs(e.leaves) do
    leaf:requires_grad_(false) -- a scope does not free what requires grad
  end
end

return pieces
