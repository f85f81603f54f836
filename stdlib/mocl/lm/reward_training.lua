--- mocl.lm.reward_training: training of a model with a head for classification as a reward: on pairs of answers by
-- the Bradley-Terry loss -log sigmoid(score(chosen) - score(rejected)) where it has one label, on texts with a label
-- by the cross entropy where it has two. Texts are read by the template that scores them later
-- (mocl.lm.reward_directory).

local metrics = require "mocl.metrics"
local nn = require "mocl.nn"
local options = require "mocl.options"
local tensor = require "mocl.tensor"
local trainer = require "mocl.lm.supervised"
local transformer = require "mocl.lm.model"

local reward_training = {}

-- Token ids and types of a row's texts: of both answers of a pair, or of the text with a label.
local function encode(judge, row)
  local out = { ids = {}, types = {} }
  for i, answer in ipairs(row.chosen and { row.chosen, row.rejected } or { row.text }) do
    out.ids[i], out.types[i] = judge:row(row.prompt, answer)
  end
  return out
end

--- reward_training.rows(judge, rows) -> list, left_out: the rows as token ids. Pairs whose two answers are the same
-- once they are cut are left out, since nothing can be learnt from them.
function reward_training.rows(judge, rows)
  local list, left_out = {}, 0
  for _, row in ipairs(rows) do
    local e = encode(judge, row)
    e.label = row.label
    if row.chosen and table.concat(e.ids[1], " ") == table.concat(e.ids[2], " ") then
      left_out = left_out + 1
    else
      list[#list + 1] = e
    end
  end
  return list, left_out
end

-- What the head gives for all texts of encoded rows.
local function logits(judge, rows)
  local ids, types = {}, {}
  for _, row in ipairs(rows) do
    table.move(row.ids, 1, #row.ids, #ids + 1, ids)
    table.move(row.types, 1, #row.types, #types + 1, types)
  end
  return judge:logits(ids, types)
end

-- Which of the rows are right, a list of 0 and 1 as a tensor, and the loss.
local function judged(judge, rows)
  local x = logits(judge, rows)
  if rows[1].label then
    local labels = {}
    for i, row in ipairs(rows) do
      labels[i] = row.label
    end
    local difference = (x:narrow(2, 2, 1) - x:narrow(2, 1, 1)):flatten()
    local sign = tensor.new(labels, { device = x.device }) * 2 - 1
    return nn.cross_entropy(x, labels), (difference * sign):gt(0)
  end
  local pairs_ = x:reshape { #rows, 2 }
  local margin = (pairs_:narrow(2, 1, 1) - pairs_:narrow(2, 2, 1)):flatten()
  return -margin:logsigmoid():mean(), margin:gt(0)
end

local NEEDED = { "rows", "steps", "batch_size", "lr", "seed", "purpose" }

--- reward_training.trainer(judge, o) -> a mocl.lm.supervised; its second figure is the accuracy on the batch. o: rows
-- (of reward_training.rows), steps, batch_size, lr, seed, purpose, and optionally weight_decay and lr_name. Trained
-- are the head and, where the model has an adapter, that alone, else all weights.
function reward_training.trainer(judge, o)
  options.check("reward_training.trainer", o, NEEDED, { "weight_decay", "lr_name" })
  local c = judge.classifier
  local adapted = #c.model:adapters() > 0
  if not adapted then
    transformer.train_base(c.model)
  end
  local parameters = c.model:named_parameters(adapted or nil)
  for _, pair in ipairs(c:parameters()) do
    pair[2]:requires_grad_()
    parameters[#parameters + 1] = pair
  end
  return trainer.new {
    name = o.purpose, parameters = parameters, rows = o.rows, steps = o.steps, batch_size = o.batch_size, lr = o.lr, seed = o.seed,
    purpose = o.purpose, weight_decay = o.weight_decay, lr_name = o.lr_name,
    loss = function(batch)
      local loss, right = judged(judge, batch)
      return loss, right:mean()
    end,
  }
end

--- reward_training.accuracy(judge, rows, batch_size) -> {accuracy, low, high, n}: the share of encoded pairs whose
-- chosen answer scores higher, or of texts whose label does, with Wilson's 95 % interval. A tie counts as wrong.
function reward_training.accuracy(judge, rows, batch_size)
  local right = 0
  for first = 1, #rows, batch_size do
    local scope <close> = tensor.scope()
    local _, list = tensor.no_grad(judged, judge, table.move(rows, first, math.min(#rows, first + batch_size - 1), 1, {}))
    right = right + math.tointeger(list:sum():item())
  end
  local low, high = metrics.wilson(right, #rows)
  return { accuracy = right / #rows, low = low, high = high, n = #rows }
end

return reward_training
