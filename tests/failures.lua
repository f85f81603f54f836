--- failures: what tests/c/test_failures.c asks of a state in which something failed.

local failures = {}

--- The arguments of a run of recipes/moc_hh.lua that is as small as it can be and still has every stage.
function failures.arguments(dir, resume)
  return {
    [0] = "moc_hh.lua", "preset=smoke", "quiet=true", "tokenizer.vocab_size=300", "model.hidden_size=8", "model.heads=2",
    "model.intermediate_size=8", "model.layers=1", "model.positions=256", "documents=20", "reward.prompts=20", "sft.examples=20",
    "base.steps=1", "sft.steps=1", "reward.steps=1", "base.batch_size=2", "sft.batch_size=2", "reward.batch_size=2",
    "ppo.batch_size=4", "ppo.ppo_epochs=2", "moc.iterations=2", "moc.save_every=1", "eval.answers=1", "eval.unseen_answers=0",
    "ppo.max_new_tokens=3", "out=" .. dir, resume and "resume=auto" or nil,
  }
end

-- one training step of a small model; its loss and what the step made of a weight
local function step()
  local lm, optim, tensor = require "mocl.lm.sft", require "mocl.optim.core", require "mocl.tensor"
  local transformer = require "mocl.lm.model"
  local model <close> = transformer.new({ vocab_size = 11, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2,
    intermediate_size = 8, max_position_embeddings = 8 }, { key = 5 })
  local parameters = transformer.train_base(model)
  local opt <close> = optim.adamw(parameters, { lr = .1 })
  local scope <close> = tensor.scope()
  local loss = lm.loss(model, { { 1, 2 } }, { { 3, 4 } })
  loss:backward()
  opt:step {}
  return ("%.9g %.9g"):format(loss:item(), parameters[1]:sum():item())
end

--- Raises unless the state is as good as new: nothing held, and it can train. kind: was the fault "lasting" or "short"?
function failures.alive(dir, kind)
  local fs, tensor = require "mocl.fs", require "mocl.tensor"
  collectgarbage()
  collectgarbage()
  local m = tensor.memory()
  assert(m.tensors == 0 and m.live == 0, ("%d tensors and %d bytes are held"):format(m.tensors, m.live))
  assert(tensor.is_grad_enabled(), "gradients are not recorded")
  local got = step()
  assert(got == failures.STEP, "the training step gave " .. got)
  collectgarbage()
  collectgarbage()
  assert(tensor.memory().tensors == 0, "the training step left tensors")
  -- a lasting fault may keep a finished step from being undone, and a checkpoint that is given up from being deleted; the next
  -- run does it
  local function allowed(name)
    return kind == "lasting" and (name:find "^%.checkpoint%-%d+%.tmp$" or name:find "^%.checkpoint%-%d+%.old%.tmp$")
  end
  local function look(path)
    for _, name in ipairs(fs.list(path) or {}) do
      assert(not name:find "%.tmp$" or allowed(name), path .. "/" .. name .. " was left behind")
      assert(name ~= "lock", path .. " is still locked")
      if fs.exists(path .. "/" .. name) == "directory" and name ~= "last" then
        look(path .. "/" .. name)
      end
    end
  end
  look(dir)
end
failures.STEP = "2.8228302 1.07065344"

-- files that differ between equal runs: times, the command, and hashes of a file with the path of its run
local VARIES = { ["timing.json"] = true, ["stages.json"] = true, ["env.json"] = true, ["cmdline.txt"] = true,
  ["report.html"] = true, SHA256SUMS = true }

local function contents(dir)
  local fs = require "mocl.fs"
  local found = {}
  local function walk(prefix)
    for _, name in ipairs(assert(fs.list(dir .. prefix))) do
      local path = prefix .. "/" .. name
      if fs.exists(dir .. path) == "directory" then
        walk(path)
      elseif not VARIES[name] then
        found[path] = assert(fs.read(dir .. path))
      end
    end
  end
  walk ""
  return found
end

--- Raises unless two runs have the same files with the same bytes.
function failures.same(a, b)
  local x, y = contents(a), contents(b)
  for name, text in pairs(y) do
    assert(x[name] == text, name .. (x[name] and " differs" or " is missing"))
  end
  for name in pairs(x) do
    assert(y[name], name .. " is there too")
  end
end

function failures.remove(dir)
  require("mocl.fs").remove_tree(dir)
end

return failures
