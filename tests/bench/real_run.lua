--- real_run.lua [key=value ...] - what a run of recipes/moc_hh.lua preset=smollm2 costs: each part is done once at the sizes of the
-- options, in CPU seconds of this process, which other work on the machine changes little, and counted up. The words are the recipe's:
--
--   ./mocl tests/bench/real_run.lua data=../shared/data
--
-- The last line divides by two: the hours on two cores that do nothing else, if both are kept busy all the time.

local lm = require "mocl.lm.sft"
local lm_actor = require "mocl.train.lm_actor"
local optim = require "mocl.optim"
local own_model = require "mocl.lm.own_model"
local fluency = require "mocl.lm.fluency"
local policy = require "mocl.lm.policy"
local preference = require "mocl.preference"
local probe = require "mocl.lm.probe"
local recipe = require "mocl.train.recipe"
local sources = require "mocl.data.sources"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"
local value_heads = require "mocl.train.value_heads"

local words = { "preset=smollm2", "objectives=humor,helpful", table.unpack(arg) }
local cfg = recipe.open("recipes/moc_hh.lua"):options(words)
local tok = own_model.tokenizer(cfg)
lm.write_as_chat(tok, own_model.chat(cfg, tok))
local model = assert(transformer.load(cfg.init, { device = cfg.device }))
local source = sources.hh_rlhf { path = cfg.data, seed = cfg.seed, objectives = cfg.objectives, prompt_chars = cfg.hh.prompt_chars, held_out = 0.1 }
local N, rows = #cfg.objectives, cfg.ppo.batch_size
local head = probe.new { trunk = model, tokenizer = tok, tokens = cfg.reward.tokens }

local total = 0
-- f() takes so many CPU seconds, and the run does it `times` times.
local function part(name, times, f)
  local before = os.clock()
  f()
  local seconds = os.clock() - before
  total = total + seconds * times
  print(("%-44s %8.2f s x %7.1f = %7.0f s"):format(name, seconds, times, seconds * times))
end

local SOME = 16
for _, name in ipairs(cfg.objectives) do
  local train, test = source.pairs(name)
  local n = math.min(#train, cfg.reward.prompts) + math.min(#test, math.max(10, cfg.reward.prompts // 3))
  part(("states of %d pairs for %s"):format(SOME, name), n / SOME, function()
    local prompts, texts = {}, {}
    for i = 1, SOME do
      prompts[i], prompts[SOME + i] = train[i].prompt, train[i].prompt
      texts[i], texts[SOME + i] = train[i].chosen, train[i].rejected
    end
    head:read(prompts, texts)
  end)
end

if cfg.dtype ~= "f32" then -- the trunk of the rewards stays f32
  model = assert(transformer.load(cfg.init, { device = cfg.device, dtype = cfg.dtype }))
end
model:add_lora { r = cfg.lora.r, alpha = cfg.lora.alpha, key = 1 }
local heads = value_heads.new(N, model:config().hidden_size, { key = 2, device = cfg.device })
local actor = lm_actor.new { policy = policy.new { model = model, tokenizer = tok, max_new_tokens = cfg.ppo.max_new_tokens,
  temperature = cfg.ppo.temperature }, heads = heads }
local plain = table.move(source.train_prompts, 1, rows, 1, {})
local iterations, grid = cfg.moc.iterations, preference.grid(N)
local unseen = cfg.eval.unseen_answers > 0 and 20 or 0
local measured = cfg.eval.statistics + 2 * #grid * cfg.eval.answers + unseen * cfg.eval.unseen_answers
local batch
part(("%d answers of %d tokens"):format(rows, cfg.ppo.max_new_tokens), iterations + measured / rows, function()
  batch = actor:rollout(preference.tagged(plain, grid[1]), { seed = 1, purpose = "answers" })
end)
part("one pass for all their rewards", iterations + measured / rows, function()
  head:read(plain, batch.responses)
end)
part("their perplexity", cfg.eval.fluency and 2 * #grid * cfg.eval.answers / rows or 0, function()
  fluency.losses(actor.policy, plain, batch.ids)
end)
part("reference, and states for the first epoch", iterations, function()
  actor:begin(batch)
end)
local parameters = actor:named_parameters()
local optimizer = optim.adamw(parameters, { lr = 1e-4 })
for epoch = 1, math.min(2, cfg.ppo.ppo_epochs) do
  part(epoch == 1 and "the first epoch" or "each further epoch", epoch == 1 and iterations or iterations * (cfg.ppo.ppo_epochs - 1), function()
    local x = actor:evaluate(batch, epoch)
    local loss = x.kl:mean() - x.logp:mean() + x.values:mean()
    optimizer:zero_grad()
    loss:backward()
    optimizer:step {}
  end)
end
print(("in all %.0f CPU seconds, %.1f hours on two cores; tensors took %.2f GiB at most"):format(total, total / 2 / 3600,
  tensor.memory().peak / 2 ^ 30))
