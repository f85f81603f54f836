--- reward_model: trains a reward model on pairs of answers, or on texts with a label, and measures its accuracy on
-- those held out.
--
--   mocl recipes/reward_model.lua model=DIR data=PAIRS.jsonl                      from a language model, with an adapter
--   mocl recipes/reward_model.lua data=FILE.csv template=humor columns.label=humor    texts with a label; a small model
--   mocl recipes/moc_hh.lua model=DIR reward.helpful=runs/reward_model/default/reward_model ...    what comes out, as a reward
--
-- Pairs are learnt by the Bradley-Terry loss, labels by the cross entropy. How a text is put together is a template
-- of docs/reward.md, which the directory that comes out names. Stages: tokenizer, start, reward_model, evaluation.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local classifier = require "mocl.lm.classifier"
local classifier_files = require "mocl.lm.classifier_files"
local own_model = require "mocl.lm.own_model"
local parts = require "mocl.train.parts"
local reward_directory = require "mocl.lm.reward_directory"
local reward_training = require "mocl.lm.reward_training"
local rng = require "mocl.rng"
local stages = require "mocl.train.stages"
local templates = require "mocl.lm.reward_templates"

local NAMES = templates.list()

local schema = parts.schema({
  { "template", "helpful", "how prompt and answer are read; those with one label take pairs, those with two texts with a label", choices = NAMES },
  { "min_accuracy", 0.5, "held-out accuracy under which the run warns", min = 0, max = 1 },
}, "reward", { steps = 1000, batch_size = 16, lr = 1e-4 })

local function show(run)
  local a, o = run.result.accuracy, run.result.min_accuracy
  if a.accuracy < o then
    io.stderr:write(("warning: held-out accuracy %.3f is below min_accuracy=%g\n"):format(a.accuracy, o))
  end
  io.write(("held-out accuracy %.4f (95%%: %.4f to %.4f, %d rows)\nmodel: %s\n"):format(a.accuracy, a.low, a.high, a.n, run:path "reward_model"))
end

local ctx <close> = parts.open { recipe = "reward_model", doc = "a reward model from pairs of answers or texts with a label", schema = schema,
  presets = parts.presets "reward", arg = arg, main = "reward_model", show = show,
  kind = function(cfg) return templates.BY_NAME[cfg.template].labels == 1 and "pairs" or "labels" end,
  check = own_model.fill_any,
  text = function(row) return table.concat({ row.prompt, row.chosen or row.text, row.rejected }, "\n") end }
if ctx.complete then
  return
end
local cfg, run = ctx.cfg, ctx.run
local labels = templates.BY_NAME[cfg.template].labels

-- ---- the model that is trained: one with a head already, or a head of random numbers on another ----

local start = cfg.init
if cfg.init == "" or not classifier_files.has_head(cfg.init) then
  start = run:path "start"
  run:stage("start", function(stage)
    local from = cfg.init
    if from == "" then
      from = run:path "base"
      stages.new_model(ctx, from)
      stage:output "base"
    end
    assert(classifier_files.convert(from, start, { labels = labels, key = rng.key(cfg.seed, "head"), pad_id = ctx.tok:eos_id() }))
    stage:output "start"
  end)
end

-- ---- training ----

local function judge_of(dir)
  local c = assert(classifier.load(dir, { device = cfg.device, quantization = own_model.format(cfg) }))
  local judge, message = reward_directory.judge(c, ctx.tok, cfg.template, { dir = cfg.init ~= "" and run:path "tokenizer" or dir })
  return judge or error(message, 0)
end

run:stage("reward_model", function(stage)
  local judge, dir, adapter = judge_of(start), run:path "reward_model", parts.adapter(cfg)
  local model = judge.classifier.model
  if adapter then
    model:add_lora { r = adapter.r, alpha = adapter.alpha, key = rng.key(cfg.seed, "lora") }
  end
  local rows, same = reward_training.rows(judge, ctx.rows.train)
  local trainer <close> = reward_training.trainer(judge, { rows = rows, steps = cfg.reward.steps, batch_size = cfg.reward.batch_size,
    lr = cfg.reward.lr, weight_decay = cfg.reward.weight_decay, seed = cfg.seed, purpose = "reward model", lr_name = "reward.lr" })
  local loss = stages.steps(ctx, stage, "reward model", trainer, function(value, accuracy)
    return { ["loss/reward_model"] = value, ["accuracy/reward_model"] = accuracy }
  end, function(value, accuracy)
    return ("loss %.3f accuracy %.2f"):format(value, accuracy)
  end)
  model:merge_lora()
  if model:quantization() then
    model:dequantize() -- what the adapter was not on, if anything
  end
  assert(classifier_files.save(judge.classifier, dir))
  stages.save_tokenizer(ctx, dir)
  assert(reward_directory.note(dir, cfg.template))
  stage:clear()
  stage:output "reward_model"
  return { loss = loss, same = same }
end)

-- ---- held-out accuracy, of the directory as another run reads it ----

local accuracy = run:stage("evaluation", function()
  local judge = assert(reward_directory.load(run:path "reward_model", { device = cfg.device }))
  local rows = reward_training.rows(judge, ctx.rows.held_out)
  if #rows == 0 then
    error("the answers of all held-out pairs are the same once they are cut: there is nothing to test with", 0)
  end
  return reward_training.accuracy(judge, rows, cfg.reward.batch_size)
end)

parts.finish(ctx, { accuracy = accuracy, min_accuracy = cfg.min_accuracy, template = cfg.template, loss = run.stages.reward_model.result.loss }, show)
