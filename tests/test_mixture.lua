-- Multi-Objective Decoding: what is drawn from several adapters against the probabilities of forward passes, and a run whose answer is known

local T = require "t"
local known_run = require "known_run"
local lora = require "mocl.lm.lora"
local mixture = require "mocl.lm.mixture"
local nn = require "mocl.nn"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local V = 6

-- A model with three adapters of random values, whose answers differ much.
local function model_with(spread)
  local model = transformer.new({ vocab_size = V, hidden_size = 8, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 12,
    max_position_embeddings = 12 }, { key = 1 })
  for k, name in ipairs { "a", "b", "c" } do
    model:add_adapter(name, { r = 2, alpha = 6, key = k })
    for i, p in ipairs(lora.parameters(model, name)) do
      tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = 100 * k + i }) * spread)
    end
  end
  return model
end

-- Log-probabilities of what follows each token of a row, a list of lists: of one adapter, by a forward pass and arithmetic of Lua.
local function log_probs(model, ids, adapter)
  local rows = model:forward(transformer.batch { ids }, { adapter = adapter }):matmul(model:head():t()):totable()
  for _, row in ipairs(rows) do
    local largest, sum = math.max(table.unpack(row)), 0
    for _, x in ipairs(row) do
      sum = sum + math.exp(x - largest)
    end
    for v, x in ipairs(row) do
      row[v] = x - largest - math.log(sum)
    end
  end
  return rows
end

-- The same of the mixture, at a temperature.
local function mixed(model, ids, weights, temperature)
  local parts, rows = {}, {}
  for k, name in ipairs { "a", "b", "c" } do
    parts[k] = log_probs(model, ids, name)
  end
  for t = 1, #ids do
    local row, sum = {}, 0
    for v = 1, V do
      row[v] = (weights[1] * parts[1][t][v] + weights[2] * parts[2][t][v] + weights[3] * parts[3][t][v])
    end
    for v = 1, V do -- normalised before it is divided by the temperature, which changes nothing
      sum = sum + math.exp(row[v] / (temperature or 1))
    end
    for v = 1, V do
      row[v] = row[v] / (temperature or 1) - math.log(sum)
    end
    rows[t] = row
  end
  return rows
end

local PROMPTS = { { 1, 5, 3 }, { 2 }, { 4, 4, 0, 2, 1 }, { 3, 1 } }
local WEIGHTS = { { 0, 1, 0 }, { 0.2, 0.5, 0.3 }, { 0.6, 0.4, 0 }, { 1 / 3, 1 / 3, 1 / 3 } }
local ALL = { "a", "b", "c" }

T.test("log-probabilities are those of the weighted sum of each adapter's, per row", function()
  local model = model_with(0.7)
  for _, temperature in ipairs { 1, 0.6 } do
    local g, logp = mixture.generate(model, PROMPTS, { adapters = ALL, weights = WEIGHTS, max_new_tokens = 5, key = 3, temperature = temperature })
    local tokens, list, at = g.tokens:totable(), logp:totable(), 0
    for i, answer in ipairs(tokens) do
      T.eq(#answer, 5)
      local ids = table.move(answer, 1, #answer, #PROMPTS[i] + 1, table.move(PROMPTS[i], 1, #PROMPTS[i], 1, {}))
      local rows = mixed(model, ids, WEIGHTS[i], temperature)
      for t, id in ipairs(answer) do
        at = at + 1
        T.near(list[at], rows[#PROMPTS[i] + t - 1][id + 1], 2e-5, ("answer %d, token %d"):format(i, t))
      end
    end
    T.eq(#list, at)
  end
end)

T.test("answers are drawn from the product of the policies", function()
  -- the probabilities of all answers of two tokens, and how often 8000 answers are each of them
  local model, w, n, prompts = model_with(0.7), { 0.5, 0.2, 0.3 }, 8000, {}
  for i = 1, n do
    prompts[i] = { 1, 5 }
  end
  local tokens = mixture.generate(model, prompts, { adapters = ALL, weights = w, max_new_tokens = 2, key = 11 }).tokens:totable()
  local count, off, mean_off, total = {}, 0, 0, 0
  for _, answer in ipairs(tokens) do
    local key = answer[1] * V + answer[2]
    count[key] = (count[key] or 0) + 1
  end
  for x = 0, V - 1 do
    local rows = mixed(model, { 1, 5, x }, w)
    local parts = {}
    for k, name in ipairs(ALL) do
      parts[k] = log_probs(model, { 1, 5, x }, name)
    end
    for y = 0, V - 1 do
      local p, mean = math.exp(rows[2][x + 1] + rows[3][y + 1]), 0
      for k = 1, 3 do
        mean = mean + w[k] * math.exp(parts[k][2][x + 1] + parts[k][3][y + 1])
      end
      local share = (count[x * V + y] or 0) / n
      off, mean_off, total = off + math.abs(share - p) / 2, mean_off + math.abs(share - mean) / 2, total + p
    end
  end
  T.near(total, 1, 1e-5)
  T.ok(off < 0.03, ("%.4f off"):format(off)) -- the mean of such a distance is 0.02 for 36 answers alike likely
  T.ok(mean_off > 0.08, ("the mean of the policies is another: %.4f off"):format(mean_off))
end)

T.test("all weight on one adapter: its own answers, with the same random numbers", function()
  local model = model_with(0.7)
  for _, o in ipairs { { temperature = 1 }, { temperature = 0 }, { temperature = 0.8, top_k = 3 }, { temperature = 1.3, top_p = 0.7 },
    { vocab_size = 4 }, { eos = { 2, 0 } } } do
    o.max_new_tokens, o.key = 6, 21
    local plain = { adapter = "b" }
    for k, v in pairs(o) do
      plain[k] = v
    end
    local wanted, wanted_logp = model:generate(PROMPTS, plain)
    o.adapters, o.weights = ALL, { 0, 1, 0 }
    local g, logp = mixture.generate(model, PROMPTS, o)
    T.eq(g.tokens:totable(), wanted.tokens, T.show(o))
    T.eq(g.finished, wanted.finished)
    T.ok((logp - wanted_logp):abs():max():item() < 1e-5)
  end
end)

T.test("an answer ends at an end token, at its limit and at the end of the context", function()
  local model = model_with(0.7)
  local g = mixture.generate(model, PROMPTS, { adapters = ALL, weights = WEIGHTS, max_new_tokens = 20, key = 5, eos = 3 })
  for i, answer in ipairs(g.tokens:totable()) do
    T.eq(g.finished[i], answer[#answer] == 3)
    for t = 1, #answer - 1 do
      T.ok(answer[t] ~= 3)
    end
    T.ok(g.finished[i] or #answer == 13 - #PROMPTS[i], #answer) -- the last token stands behind the context of 12
  end
  local h = model:generate(PROMPTS, { adapter = "a", max_new_tokens = 20, key = 5 })
  g = mixture.generate(model, PROMPTS, { adapters = { "a" }, weights = { 1 }, max_new_tokens = 20, key = 5 })
  T.eq(g.tokens:totable(), h.tokens)
end)

T.test("what cannot be mixed is refused", function()
  local model = model_with(0.7)
  local function try(pattern, weights, adapters)
    T.raises(pattern, mixture.generate, model, PROMPTS, { adapters = adapters or ALL, weights = weights, max_new_tokens = 2, key = 1 })
  end
  try("prompt 1: a list of 3 weights expected, one for each adapter", { 0.5, 0.5 })
  try("prompt 2: a list of 3 weights expected", { { 1, 0, 0 } })
  try("prompt 1: the weights sum to 0.9, not 1", { 0.5, 0.4, 0 })
  try("prompt 1: weight 2 is %-0.5; expected 0 to 1", { 1, -0.5, 0.5 })
  try("prompt 1: weight 1 is nan", { 0 / 0, 0.5, 0.5 })
  try("at least one adapter", {}, {})
  try("no adapter 'd'", { 0.5, 0.5 }, { "a", "d" })
  local weight = model:named_parameters("a")[1][2]
  local rows = weight:totable()
  rows[1][1] = 0 / 0
  tensor.no_grad(weight.copy_, weight, tensor.new(rows))
  try("not finite", { 0.5, 0.5, 0 })
end)

T.test("nn.sample draws as generation does", function()
  local logits = tensor.randn({ 5, 7 }, { key = 2 })
  local ids = nn.sample(logits, { rows = { 0, 1, 2, 3, 4 }, key = 9, step = 3 }):totable()
  T.eq(nn.sample(logits:narrow(1, 3, 2), { rows = { 2, 3 }, key = 9, step = 3 }):totable(), { ids[3], ids[4] })
  T.eq(nn.sample(logits, { rows = { 0, 1, 2, 3, 4 }, temperature = 0 }):totable(), logits:argmax(2):totable())
  local r, hits = rng.new(0, "rows"), 0
  for step = 0, 1999 do
    hits = hits + (nn.sample(tensor.new { { 0, math.log(3) } }, { rows = { r:integer(0, 9) }, key = 1, step = step }):totable()[1]) / 2000
  end
  T.near(hits, 0.75, 0.03)
  T.raises("must be %[n, V%] and rows", nn.sample, logits, { rows = { 0 } })
  T.raises("top_p = 0 is outside", nn.sample, logits, { rows = { 0, 1, 2, 3, 4 }, top_p = 0 })
  T.raises("temperature = nan must be 0 or more", nn.sample, logits, { rows = { 0, 1, 2, 3, 4 }, temperature = 0 / 0 })
  T.raises("step = %-1 is outside", nn.sample, logits, { rows = { 0, 1, 2, 3, 4 }, step = -1 })
end)

-- ---- the recipe ----

T.test("MOD: the ends are the policies of one objective, and the share rises with the weight", function()
  local result = known_run.learn("mod", known_run.files(), "mod.iterations=40", "ppo.init_kl_coef=0.02", "ppo.min_kl_coef=0")
  T.eq({ result.method, result.policies, result.training_samples }, { "mod", 2, 2 * 40 * 88 })
  local list = known_run.shares(result)
  T.ok(list[1] < 0.2 and list[11] > 0.8, T.show(list))
  T.ok(list[6] > list[1] + 0.1 and list[6] < list[11] - 0.1, "between: " .. T.show(list))
  for i = 2, 11 do
    T.ok(list[i] > list[i - 1] - 0.06, "it rises with the weight: " .. T.show(list))
  end
end)

T.test("a run that is killed, or whose last stages are done again, ends with the same bytes", function()
  known_run.same_after_kill("mod", known_run.files(), "mod-b", 25, "mod.iterations=60", "mod.save_every=10")
  known_run.same_after_redo("mod", known_run.files(), "mod-b")
end)

T.test("bad input ends before there is a run directory", function()
  known_run.refused("mod", known_run.files(), { { "preferences=0.3:0.6", "sums to 0.9, not 1" }, { "mod.rewards=rank", "expected one of normalized, raw" } })
end)
