--- sft: supervised fine-tuning of a language model on prompts with answers, and its perplexity on those that were
-- held out.
--
--   mocl recipes/sft.lua model=DIR data=FILE.jsonl                    an adapter, merged in the end
--   mocl recipes/sft.lua model=DIR data=FILE.csv lora.r=0             all weights
--   mocl recipes/sft.lua data=FILE.jsonl.gz columns.response=chosen   HH-RLHF's dialogues, a small model from random weights
--   mocl recipes/moc_hh.lua model=runs/sft/default/sft ...            what comes out, as a policy
--
-- The loss is on the answers alone. Stages: tokenizer, sft, evaluation.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local lm = require "mocl.lm.sft"
local own_model = require "mocl.lm.own_model"
local parts = require "mocl.train.parts"
local stages = require "mocl.train.stages"
local transformer = require "mocl.lm.model"

local schema = parts.schema({
  { "chat", "auto", "with model: prompts as chats by the template of the model's files, where they have one (auto), as they are (none), or by a "
    .. "template's name" },
}, "sft", { steps = 1000, batch_size = 16, lr = 2e-4 })

-- A figure of a result; one that was not finite is null there.
local function figure(x)
  return type(x) == "number" and ("%.4g"):format(x) or "infinite"
end

local function show(run)
  local p = run.result.perplexity
  io.write(("held-out perplexity %s (%s, %d rows, %d tokens)%s\nmodel: %s\n"):format(figure(p.perplexity), p.rows > 1
    and ("95%%: %s to %s"):format(figure(p.low), figure(p.high)) or "no interval of a single row", p.rows,
    p.tokens, run.result.before and ", before " .. figure(run.result.before.perplexity) or "", run:path "sft"))
end

local ctx <close> = parts.open { recipe = "sft", doc = "supervised fine-tuning of a language model", schema = schema,
  presets = parts.presets "sft", arg = arg, main = "sft", show = show,
  kind = function() return "answers" end,
  check = function(cfg, given)
    own_model.fill(setmetatable({ prompts = "", rewards = "", data = "" }, { __index = cfg }), given)
  end,
  text = function(row) return row.prompt .. own_model.seam(row.prompt, row.response) end }
if ctx.complete then
  return
end
local cfg = ctx.cfg

-- ---- rows: those whose prompt leaves no room for an answer are left out ----

local function examples(list)
  local kept = {}
  for _, row in ipairs(list) do
    if #lm.prompt(ctx.tok, row.prompt) < cfg.model.positions then
      kept[#kept + 1] = { prompt = row.prompt, response = own_model.seam(row.prompt, row.response) }
    end
  end
  ctx.rows.left_out = ctx.rows.left_out + #list - #kept
  return #kept > 0 and kept or error(("data=%s: no prompt leaves room for an answer in model.positions=%d tokens"):format(cfg.data,
    cfg.model.positions), 0)
end

local train, held_out = examples(ctx.rows.train), examples(ctx.rows.held_out)
ctx.rows.train, ctx.rows.held_out = train, held_out

-- ---- training ----

local base, format = cfg.init ~= "" and cfg.init or nil, own_model.format(cfg)
stages.language_model(ctx, "sft", base, cfg.sft, function()
  return train
end, { adapter = parts.adapter(cfg), quantization = format })

-- ---- held-out perplexity, of the answers' tokens: exp of the mean loss of a token, and its interval over the rows ----

local function perplexity(model)
  local prompts, responses = lm.encode(ctx.tok, held_out)
  for i, prompt in ipairs(prompts) do
    local room = cfg.model.positions - #prompt
    responses[i] = #responses[i] > room and table.move(responses[i], 1, room, 1, {}) or responses[i]
  end
  return lm.perplexity(lm.losses(model, prompts, responses, cfg.sft.batch_size))
end

local figures = ctx.run:stage("evaluation", function()
  local before = base and perplexity(assert(transformer.load(base, { device = cfg.device, quantization = format }))) or nil
  return { perplexity = perplexity(assert(transformer.load(ctx.run:path "sft", { device = cfg.device }))), before = before }
end)

parts.finish(ctx, { perplexity = figures.perplexity, before = figures.before, loss = ctx.run.stages.sft.result.loss }, show)
