--- mocl.train.estimate: what a run of a language model will take, before it begins: memory counted from shapes, and
-- time from a few measured steps of a model of the same width. Nothing is trained and nothing is written.

local lm = require "mocl.lm.sft"
local memory_plan = require "mocl.lm.memory_plan"
local options = require "mocl.options"
local progress = require "mocl.run.progress"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local estimate = {}

-- A model that is measured: at most so many blocks and entries of the vocabulary, rows of a step, and tokens of a row.
local BLOCKS, VOCABULARY, ROWS, TOKENS = 2, 8192, 16, 128
local REWARD_ANSWERS = 8 -- at most, that a step of a reward model sees for a prompt

-- Seconds of f, the second time.
local function seconds(f)
  local took
  for _ = 1, 2 do
    local scope <close> = tensor.scope()
    local from = sys.now()
    f()
    took = sys.now() - from
  end
  return took
end

--- estimate.speed(shape, device) -> {train=, answer=}: seconds that a token takes in a training step and while
-- answers are generated, measured on a model with random weights. shape as for transformer.new.
function estimate.speed(shape, device)
  local small = {}
  for key, v in pairs(shape) do
    small[key] = v
  end
  small.num_hidden_layers, small.vocab_size = math.min(BLOCKS, shape.num_hidden_layers), math.min(VOCABULARY, shape.vocab_size)
  local scope <close> = tensor.scope()
  local model = transformer.new(small, { key = 1, device = device })
  transformer.train_base(model)
  local length = math.min(TOKENS, shape.max_position_embeddings) // 2
  local row, rows = {}, {}
  for i = 1, length do
    row[i] = i % small.vocab_size
  end
  for i = 1, ROWS do
    rows[i] = row
  end
  local times = (shape.num_hidden_layers / small.num_hidden_layers) / ROWS
  local trained = seconds(function()
    lm.loss(model, rows, rows):backward()
    tensor.zeros({ 1 }, { device = device }):item() -- the device has done what it was given
  end)
  local answered = seconds(function()
    model:generate(rows, { max_new_tokens = length, key = 1 })
  end)
  model:release()
  return { train = trained * times / (2 * length), answer = answered * times / length }
end

--- estimate.stages(cfg, o) -> list of {stage, seconds}. o: speed (of estimate.speed), models (names of reward models
-- that are trained), policies (1), grid and unseen (0): preferences that are evaluated, row (the full context): tokens of a prompt
-- with its answer, at most. A training step of the models is taken at the full context. Heads on a frozen trunk read their texts once
-- and share one pass.
function estimate.stages(cfg, o)
  options.check("estimate.stages", o, { "speed", "models", "grid" }, { "policies", "unseen", "iterations", "row" })
  local list, s, T, N = {}, o.speed, cfg.model.positions, #cfg.objectives
  local function add(stage, tokens, per_token)
    list[#list + 1] = { stage, tokens * per_token }
  end
  if cfg.init == "" then
    add("base", cfg.base.steps * cfg.base.batch_size * T, s.train)
  end
  if cfg.sft.steps > 0 then
    add("sft", cfg.sft.steps * cfg.sft.batch_size * T, s.train)
  end
  local frozen = cfg.reward.trunk == "frozen"
  for _, name in ipairs(frozen and o.models or {}) do
    add("reward-" .. name, cfg.reward.prompts * 4 / 3 * 2 * 2 * cfg.reward.tokens, s.train / 3) -- two texts, of a prompt and an answer
  end
  for _, name in ipairs(frozen and {} or o.models) do
    add("reward-" .. name, cfg.reward.steps * cfg.reward.batch_size * math.min(REWARD_ANSWERS, cfg.reward.answers) * T, s.train)
  end
  local answer, forward, row = cfg.ppo.max_new_tokens, s.train / 3, o.row or T -- a backward pass is two forward passes
  local measured = answer * s.answer + (frozen and 1 or N) * row * forward -- an answer and its rewards
  if o.iterations then
    add(("%d iterations"):format(o.iterations * (o.policies or 1)), o.iterations * (o.policies or 1) * cfg.ppo.batch_size,
      measured + (cfg.ppo.ppo_epochs or 1) * row * (s.train + forward))
  end
  add("evaluation", o.grid * cfg.eval.answers + (o.unseen or 0) * cfg.eval.unseen_answers, measured)
  return list
end

--- estimate.text(list, memory) -> lines of words. memory: what memory_plan.of returned, as a list {rows, total}.
function estimate.text(list, memory)
  local total, width, lines = 0, 5, {}
  for _, row in ipairs(list) do
    total, width = total + row[2], math.max(width, #row[1])
  end
  lines[1] = memory_plan.text(memory[1], memory[2])
  lines[2] = ("time: about %s on this machine as it is now"):format(progress.duration(total))
  for _, row in ipairs(list) do
    lines[#lines + 1] = ("  %-" .. width .. "s  %s"):format(row[1], progress.duration(row[2]))
  end
  return table.concat(lines, "\n")
end

return estimate
