-- mocl.lm.supervised and mocl.lm.sft against the same steps by hand: AdamW, schedule, clip, batches; what a loss of texts is a
-- mean of

local T = require "t"
local lm = require "mocl.lm.sft"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local trainer = require "mocl.lm.supervised"
local transformer = require "mocl.lm.model"

local ROWS = { { 1, 2, 3 }, { -2, 0.5, 1 }, { 0.25, -1, 2 }, { 3, 1, -4 }, { 0.1, 0.2, 0.3 } } -- {a, b, y} of the residuals w1 a + w2 b - y

T.test("forty steps of a trainer are those of AdamW with warm-up, decay and clip by hand", function()
  local STEPS, LR, BETA1, BETA2 = 40, 0.05, 0.9, 0.99
  local w, batches, counts = tensor.new({ 1, -2 }, { requires_grad = true }), {}, {}
  local t <close> = trainer.new { name = "test", parameters = { w }, rows = ROWS, steps = STEPS, batch_size = 2, lr = LR, seed = 1,
    purpose = "test", loss = function(rows, step)
      batches[step] = rows
      local sum = nil
      for _, row in ipairs(rows) do
        counts[row] = (counts[row] or 0) + 1
        local r = (w * tensor.new { row[1], row[2] }):sum() - row[3]
        sum = sum and sum + r:square() or r:square()
      end
      return sum * (1 / #rows)
    end }
  local x, m, v, clipped, tail = { 1, -2 }, { 0, 0 }, { 0, 0 }, 0, 0
  for step = 1, STEPS do
    local got = t:step()
    local g, loss = { 0, 0 }, 0
    for _, row in ipairs(batches[step]) do
      local r = x[1] * row[1] + x[2] * row[2] - row[3]
      loss = loss + r ^ 2 / 2
      for j = 1, 2 do
        g[j] = g[j] + r * row[j]
      end
    end
    T.near(got, loss, 1e-4, "the loss of step " .. step)
    local norm = (g[1] ^ 2 + g[2] ^ 2) ^ 0.5
    clipped = clipped + (norm > 1 and 1 or 0)
    local factor = step <= 2 and step / 2 or (STEPS - step + 1) / (STEPS - 2) -- the first twentieth, then a straight line to 0
    for j = 1, 2 do
      local gj = g[j] * math.min(1, 1 / (norm + 1e-6))
      m[j], v[j] = BETA1 * m[j] + (1 - BETA1) * gj, BETA2 * v[j] + (1 - BETA2) * gj ^ 2
      x[j] = x[j] - LR * factor * (m[j] / (1 - BETA1 ^ step)) / ((v[j] / (1 - BETA2 ^ step)) ^ 0.5 + 1e-8)
    end
    T.near(w:totable(), x, 1e-4, "the weights after step " .. step)
    tail = tail + (step > 36 and loss / 4 or 0)
  end
  T.ok(clipped > 0 and clipped < STEPS, "some steps are clipped: " .. clipped)
  for _, row in ipairs(ROWS) do -- 80 rows dealt from a deck of 5
    T.eq(counts[row], 16)
  end
  T.near(t:finish(), tail, 1e-4, "the mean loss of the last tenth")
end)

local PROMPTS, RESPONSES = { { 1, 5 }, { 1, 7, 3 }, { 1 } }, { { 4, 9, 2 }, { 8 }, { 6, 5, 11, 12, 2 } }

T.test("lm.evaluate is the mean over all tokens, whatever the batches", function()
  local model <close> = small.model()
  local all = lm.loss(model, PROMPTS, RESPONSES):item()
  for size = 1, 3 do
    T.near(lm.evaluate(model, PROMPTS, RESPONSES, size), all, 1e-5, "batches of " .. size)
  end
end)

T.test("lm.trainer: what is too long loses the end of its response", function()
  local model <close> = small.model()
  transformer.train_base(model)
  local cut = { { 4, 9 }, { 8 }, { 6, 5, 11 } } -- to 4 tokens with their prompts
  local want = lm.loss(model, PROMPTS, cut):item()
  local t <close> = lm.trainer { model = model, parameters = model:named_parameters(), prompts = PROMPTS, responses = RESPONSES, steps = 2,
    batch_size = 3, lr = 1e-3, seed = 0, purpose = "test", max_tokens = 4 }
  T.near(t:step(), want, 1e-6)
  local before = lm.loss(model, PROMPTS, cut):item()
  T.ok(before < want, "and is trained on")
  t:finish()
end)

T.test("lm.encode: BOS in front of a prompt, EOS behind a response", function()
  local tok <close> = tokenizer.train({ "some text" }, { vocab_size = 260 })
  local prompts, responses = lm.encode(tok, { { prompt = "a", response = "b" }, { response = "c" } })
  local function id(byte)
    return tok:encode(byte)[1]
  end
  T.eq(prompts, { { tok:bos_id(), id "a" }, { tok:bos_id() } })
  T.eq(responses, { { id "b", tok:eos_id() }, { id "c", tok:eos_id() } })
end)
