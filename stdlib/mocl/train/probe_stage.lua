--- mocl.train.probe_stage: the stage of a run that fits a reward to the states of the frozen model (mocl.lm.probe): the states of all
-- texts are read once, and kept with the checkpoints of the stage, so that an interruption costs no more than the batch it comes in.

local loop = require "mocl.train.loop"
local probe = require "mocl.lm.probe"
local fs = require "mocl.fs"
local tensor = require "mocl.tensor"

local probe_stage = {}

local PAIRS, SAVE_EVERY = 16, 25 -- pairs that are read at a time, and batches between checkpoints
local FILE = "states.safetensors"

local SIDES = { "chosen", "rejected" }

-- The states of the first n of some pairs.
local function narrow(states, from, n)
  local out = {}
  for _, side in ipairs(SIDES) do
    out[side] = states[side]:narrow(1, from, n)
  end
  return out
end

-- The states of pairs i to j.
local function read(model, rows, i, j)
  local prompts, texts = {}, {}
  for _, side in ipairs(SIDES) do
    for k = i, j do
      prompts[#prompts + 1], texts[#texts + 1] = rows[k].prompt, rows[k][side]
    end
  end
  local scope <close> = tensor.scope()
  local x, n = model:read(prompts, texts), j - i + 1
  return { chosen = scope:keep(x:narrow(1, 1, n):clone()), rejected = scope:keep(x:narrow(1, n + 1, n):clone()) }
end

--- probe_stage.train(run, stage, name, model, train, test) -> what model:accuracy gives for the pairs `test`, with l2, the strength of
-- the penalty, and n_train. Sets the model's head.
function probe_stage.train(run, stage, name, model, train, test)
  local rows = table.move(test, 1, #test, #train + 1, table.move(train, 1, #train, 1, {}))
  local batches, parts = (#rows + PAIRS - 1) // PAIRS, {}
  local function all()
    local out = {}
    for _, side in ipairs(SIDES) do
      local list = {}
      for k, part in ipairs(parts) do
        list[k] = part[side]
      end
      out[side] = tensor.no_grad(tensor.cat, list, 1)
    end
    return out
  end
  local t <close> = loop.new { run = run, stage = stage, label = "reward " .. name, unit = "batch", total = batches, save_every = SAVE_EVERY,
    save = function(dir) probe.save_states(fs.join(dir, FILE), all()) end, state = function() return {} end }
  if t.dir then
    parts[1] = probe.load_states(fs.join(t.dir, FILE))
  end
  for batch = t.done + 1, batches do
    parts[#parts + 1] = read(model, rows, (batch - 1) * PAIRS + 1, math.min(#rows, batch * PAIRS))
    t:step(batch, {}, ("%d of %d pairs read"):format(math.min(#rows, batch * PAIRS), #rows))
  end
  t:finish()
  local scope <close> = tensor.scope()
  local states, labelled = all(), train[1].labelled or false
  local own = narrow(states, 1, #train)
  local l2 = model:fit { chosen = own.chosen, rejected = own.rejected, labelled = labelled }
  scope:keep(model.head)
  local held = narrow(states, #train + 1, #test)
  local figures = model:accuracy { chosen = held.chosen, rejected = held.rejected, labelled = labelled }
  figures.l2, figures.n_train = l2, #train
  return figures
end

return probe_stage
