--- mocl.lm.supervised: gradient steps over rows that are dealt from a deck, as language models and reward models take them: AdamW,
-- a warm-up over the first twentieth of the steps and a straight line to 0. It can be saved after any step and goes on from
-- there with the same bits; the first loss, gradient or weight that is not finite ends it with an error.
--
--   local t <close> = trainer.new { name = "base", parameters = model:named_parameters(), rows = rows, steps = 100, ... }
--   for _ = t.done + 1, t.steps do
--     local loss = t:step()
--   end
--   t:finish()

local check = require "mocl.failure".check
local comm = require "mocl.comm"
local deck = require "mocl.deck"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local optim = require "mocl.optim"
local optimizer = require "mocl.optim_files"
local options = require "mocl.options"
local parameters = require "mocl.parameters"
local piecewise = require "mocl.piecewise"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

local trainer = {}

local Trainer = {}
Trainer.__index = Trainer

--- trainer.new{name=, parameters=, rows=, steps=, batch_size=, lr=, seed=, purpose=, loss=function(rows, step), weight_decay=0,
-- max_grad_norm=1, lr_name="lr", lr_scheduler_type="linear" (or "constant")} -> t. parameters: a list of {name, tensor} or of tensors that require grad. loss gives a
-- scalar tensor and, if there is one, a second that is reported beside it. name and lr_name are what errors call the
-- training and its step size. pieces (1): the batch goes by so many pieces (mocl.piecewise), in place of loss by outputs(rows, stream),
-- which gives a tensor [m, ...] of what the loss is made of, and loss_of(outputs, rows), of all of it. t.done are the steps taken, t.steps all.
function trainer.new(o)
  options.check("trainer.new", o, { "name", "parameters", "rows", "steps", "batch_size", "lr", "seed", "purpose", "loss" },
    { "weight_decay", "max_grad_norm", "lr_name", "lr_scheduler_type", "pieces", "outputs", "loss_of" })
  piecewise.check("pieces", o.pieces or 1, o.batch_size)
  local named = {}
  for i, p in ipairs(o.parameters) do
    named[i] = tensor.is_tensor(p) and { ("parameter.%05d"):format(i), p } or p
  end
  return setmetatable({
    o = o, named = named, done = 0, steps = o.steps, tail = 0, tail_n = 0,
    factor = optim.schedule[o.lr_scheduler_type or "linear"] { warmup = math.max(1, o.steps // 20), total = o.steps, from_zero = false },
    order = deck.new(rng.new(o.seed, o.purpose), o.rows),
    optimizer = optim.adamw(named, { lr = o.lr, weight_decay = o.weight_decay or 0, betas = { .9, .99 } }),
  }, Trainer)
end

-- f(self, ...) with the place and the cure in errors that something is not finite
local function within(self, step, f, ...)
  local o = self.o
  return finite.within(("%s: step %d"):format(o.name, step), ("lower %s, which is %g"):format(o.lr_name or "lr", o.lr), f, self, ...)
end

-- The loss of a batch, and its gradients at the parameters, by pieces.
local function by_pieces(self, rows, step)
  local o, outputs, before, at = self.o, {}, {}, 0
  local function of(i)
    if not outputs[i] then
      local first, last = comm.piece(#rows, o.pieces, i)
      outputs[i] = o.outputs(table.move(rows, first, last, 1, {}), (step - 1) * o.pieces + i)
    end
    return outputs[i]
  end
  local leaf, sizes = piecewise.gather("outputs", o.pieces, of), {}
  local from, to = comm.pieces(o.pieces)
  for i = from, to do
    sizes[#sizes + 1] = of(i).shape[1]
  end
  for i, n in ipairs(comm.integers("sizes", sizes)) do
    before[i], at = at, at + n
  end
  local loss, beside = o.loss_of(leaf, rows)
  loss:backward()
  piecewise.backward("gradients", o.pieces, self.named, function(i)
    of(i):backward(leaf.grad:narrow(1, before[i] + 1, of(i).shape[1]):contiguous())
  end)
  leaf:requires_grad_(false) -- a scope does not free what requires grad
  return loss, beside
end

-- The same of the whole batch at once.
local function at_once(self, rows, step)
  local loss, beside = self.o.loss(rows, step)
  self.optimizer:zero_grad()
  loss:backward()
  return loss, beside
end

local function take(self, step)
  local scope <close> = tensor.scope()
  local o = self.o
  comm.place(("%s: step %d"):format(o.name, step))
  local loss, beside = ((o.pieces or 1) > 1 and by_pieces or at_once)(self, self.order:deal(o.batch_size), step)
  local value = finite.number(loss:item(), "the loss")
  self.optimizer:step { lr = o.lr * self.factor(step - 1), max_grad_norm = o.max_grad_norm or 1 }
  self.done = step
  if step > o.steps * .9 then
    self.tail, self.tail_n = self.tail + value, self.tail_n + 1
  end
  return value, beside and beside:item()
end

--- One step: its loss, and the second figure of `loss`. An error leaves the weights as they were.
function Trainer:step()
  return within(self, self.done + 1, take, self.done + 1)
end

local function check_weights(self)
  check(finite.tensors(self.named, "after the step"))
end

--- Drops the gradients; a weight that is not finite raises. Returns the mean loss of the last tenth of the steps.
function Trainer:finish()
  self.optimizer:zero_grad()
  within(self, self.done, check_weights)
  return self.tail / math.max(1, self.tail_n)
end

--- What goes on from here: t:save(dir) writes weights and moments, t:state() is a table of numbers for state.json, and
-- t:load(dir, state) on a trainer that was made alike takes both back. Failures raise.
function Trainer:save(dir)
  local tensors = {}
  for _, pair in ipairs(self.named) do
    tensors[pair[1]] = pair[2]
  end
  within(self, self.done, check_weights)
  check(safetensors.save(fs.join(dir, "parameters.safetensors"), tensors))
  check(optimizer.save(self.optimizer, fs.join(dir, "optimizer.safetensors")))
end

function Trainer:state()
  return { done = self.done, order = self.order:state(), tail = self.tail, tail_n = self.tail_n }
end

function Trainer:load(dir, state)
  check(parameters.load(self.named, fs.join(dir, "parameters.safetensors")))
  check(optimizer.load(self.optimizer, fs.join(dir, "optimizer.safetensors")))
  self.order:restore(state.order)
  self.done, self.tail, self.tail_n = state.done, state.tail, state.tail_n
end

--- Frees the state of the optimiser; also <close>.
function Trainer:close()
  self.optimizer:release()
end

Trainer.__close = Trainer.close

return trainer
