-- mocl.lm.probe: the states that heads on a frozen trunk judge by, the minimum of their loss, and what they share; mocl.lm.fluency;
-- the stage of a run that reads and fits

local T = require "t"
local fluency = require "mocl.lm.fluency"
local fs = require "mocl.fs"
local lm = require "mocl.lm.sft"
local probe = require "mocl.lm.probe"
local probe_stage = require "mocl.train.probe_stage"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local Run = require "mocl.run"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local tok = tokenizer.train({ "yes please no thanks never always tea cake soup" }, { vocab_size = 290, special_tokens = { "<s>", "</s>" } })

local function trunk(layers, key)
  return transformer.new({ vocab_size = tok:vocab_size(), hidden_size = 8, num_hidden_layers = layers or 2, num_attention_heads = 2,
    intermediate_size = 16, max_position_embeddings = 64 }, { key = key or 3 })
end

local function new(o)
  return probe.new { trunk = o and o.trunk or trunk(), tokenizer = tok, tokens = o and o.tokens or 16 }
end

T.test("depths: five of the blocks at equal distances, the last behind all of them", function()
  T.eq(probe.depths(30), { 6, 12, 18, 24, 30 })
  T.eq(probe.depths(7), { 2, 3, 5, 6, 7 })
  T.eq(probe.depths(2), { 1, 2 })
  T.eq(probe.depths(1), { 1 })
end)

-- the mean over the answer's tokens of what one forward pass over one text gives behind each depth
local function by_hand(p, prompt, answer)
  local all = table.move(answer, 1, #answer, #prompt + 1, table.move(prompt, 1, #prompt, 1, {}))
  local out = {}
  for i, depth in ipairs(p.depths) do
    local x = tensor.no_grad(p.trunk.forward, p.trunk, transformer.batch { all }, { adapter = false, stop = i < #p.depths and depth or nil }):totable()
    for k = 1, #x[1] do
      local sum = 0
      for t = #prompt + 1, #all do
        sum = sum + x[t][k]
      end
      out[#out + 1] = sum / #answer
    end
  end
  return out
end

T.test("states: means over the tokens of the answer at each depth, of the prompt's last tokens and the answer's first ones", function()
  local model = trunk(3)
  local p = new { trunk = model, tokens = 4 }
  T.eq(p.width, 24)
  local prompts, answers = { "tea?", "cake please, always cake", "no" }, { " yes please", " never never never no", "" }
  local got = p:read(prompts, answers):totable()
  for i, prompt in ipairs(prompts) do
    local a, b = lm.prompt(tok, prompt), tok:encode(answers[i])
    if #b == 0 then
      b = { tok:eos_id() }
    end
    a, b = table.move(a, math.max(1, #a - 3), #a, 1, {}), table.move(b, 1, math.min(4, #b), 1, {})
    for k, v in ipairs(by_hand(p, a, b)) do
      T.near(got[i][k], v, 1e-5)
    end
  end
  model:add_lora { r = 2, alpha = 64, key = 5 }
  for _, pair in ipairs(model:named_parameters(true)) do
    tensor.no_grad(pair[2].fill_, pair[2], .3)
  end
  T.eq(p:read(prompts, answers):totable(), got, "an adapter of the trunk is not seen")
  T.raises("1 prompts, but 2 responses", function() p:read({ "a" }, { "b", "c" }) end)
end)

T.test("minimum: of one row where its derivative is zero, of many rows where the gradient is, in double precision", function()
  for _, l2 in ipairs { 3, .1, .003 } do
    local w = probe.minimum(tensor.new { { 2.0 } }, l2):item()
    local low, high = 0.0, 100.0 -- 2 sigmoid(-2 w) = l2 w
    for _ = 1, 100 do
      local middle = (low + high) / 2
      if 2 / (1 + math.exp(2 * middle)) > l2 * middle then
        low = middle
      else
        high = middle
      end
    end
    T.near(w, low, 1e-3 * low)
  end
  local z = tensor.randn({ 40, 6 }, { key = 7 })
  local w, loss = probe.minimum(z, .05)
  local rows, at = z:totable(), w:totable()[1]
  local gradient, value = {}, 0
  for k = 1, 6 do
    gradient[k] = .05 * at[k]
    value = value + .05 / 2 * at[k] ^ 2
  end
  for _, row in ipairs(rows) do
    local margin = 0
    for k = 1, 6 do
      margin = margin + row[k] * at[k]
    end
    value = value + math.log(1 + math.exp(-margin)) / 40
    for k = 1, 6 do
      gradient[k] = gradient[k] - row[k] / (1 + math.exp(margin)) / 40
    end
  end
  T.near(loss, value, 1e-5)
  for k = 1, 6 do
    T.near(gradient[k], 0, 1e-4)
  end
end)

-- n states of width F, of which the k-th entry is larger by `by` in the first of two tables
local function shifted(n, width, by)
  local a, b = tensor.randn({ n, width }, { key = 1 }), tensor.randn({ n, width }, { key = 2 })
  local push = {}
  for k = 1, width do
    push[k] = k == 3 and by or 0.0
  end
  return a + tensor.new { push }, b
end

T.test("fit: the head finds what sets the first answers apart; of labelled texts 0 lies between the two kinds", function()
  local p = new()
  local chosen, rejected = shifted(300, p.width, 6.0)
  chosen, rejected = chosen + 5, rejected + 5
  for _, labelled in ipairs { false, true } do
    local l2, loss = p:fit { chosen = chosen, rejected = rejected, labelled = labelled }
    T.ok(l2 < 3 and loss < .3, l2 .. " " .. loss)
    local head = p.head:totable()[1]
    for k, v in ipairs(head) do
      T.ok(k == 3 or math.abs(v) < math.abs(head[3]) / 2, "entry " .. k)
    end
    T.ok(p:accuracy({ chosen = chosen, rejected = rejected, labelled = labelled }).accuracy > .98)
  end
  local up = 0
  for _, s in ipairs(p:judge(chosen)) do
    up = up + (s > 0 and 1 or 0)
  end
  T.ok(up > 290, up)
  T.eq(p:accuracy({ chosen = chosen, rejected = rejected, labelled = true }).n, 600)
  -- what says nothing gets the strongest penalty
  local noise, more = shifted(60, p.width, 0.0)
  T.ok(p:fit { chosen = noise, rejected = more } >= 1)
end)

T.test("accuracy: a tie counts as wrong, and both kinds of labelled texts count", function()
  local p = new()
  T.eq(p:accuracy({ chosen = tensor.zeros { 2, p.width }, rejected = tensor.zeros { 2, p.width } }).accuracy, 0.0)
  p.bias = 1.0 -- all are of the first kind
  T.eq(p:accuracy({ chosen = tensor.zeros { 2, p.width }, rejected = tensor.zeros { 2, p.width }, labelled = true }).accuracy, .5)
end)

T.test("heads on one trunk share a reading; another trunk, tokenizer or cut is read anew", function()
  local model = trunk()
  local a, b, cut, other = new { trunk = model }, new { trunk = model }, new { trunk = model, tokens = 2 }, new()
  a.head, b.head = tensor.randn({ 1, a.width }, { key = 8 }), tensor.randn({ 1, a.width }, { key = 9 })
  T.eq({ a:reads_as(b), a:reads_as(cut), a:reads_as(other), a:reads_as(print) }, { true, false, false, false })
  local class, calls = getmetatable(a), 0
  local read = class.read
  function class.read(...)
    calls = calls + 1
    return read(...)
  end
  local prompts, answers = { "tea?", "cake?" }, { " yes please", " no" }
  local raw = reward.table({ { name = "a", f = a }, { name = "b", f = b }, { name = "cut", f = cut } }, prompts, answers)
  class.read = read
  T.eq(calls, 2)
  local sa, sb = a:score(prompts, answers), b:score(prompts, answers)
  T.eq({ { raw[1][1], raw[1][2] }, { raw[2][1], raw[2][2] } }, { { sa[1], sb[1] }, { sa[2], sb[2] } })
  T.eq(a(prompts, answers), sa)
  T.eq(a:score({}, {}), {})
end)

T.test("save and load: the same scores; a head of another trunk, a broken file and no file are refused", function()
  local model, dir = trunk(), T.tmpdir() .. "/head"
  local p = new { trunk = model }
  p.head, p.bias = tensor.randn({ 1, p.width }, { key = 4 }), -.25
  assert(p:save(dir))
  T.ok(probe.is(dir) and not probe.is(T.tmpdir()))
  local q = assert(probe.load(dir, { trunk = model, tokenizer = tok }))
  T.eq(q:score({ "tea?" }, { " no" }), p:score({ "tea?" }, { " no" }))
  T.eq(q.tokens, 16)
  local function refused(text, how)
    local f, message, code = probe.load(dir, how or { trunk = model, tokenizer = tok })
    T.eq({ f, code }, { nil, "FORMAT" })
    T.ok(message:find(text, 1, true), message)
  end
  refused("a head of another trunk; this one takes score.weight (1,24)", { trunk = trunk(3), tokenizer = tok })
  local path = dir .. "/probe.safetensors"
  local function write(weight, meta)
    assert(safetensors.save(path, { ["score.weight"] = weight, ["score.bias"] = tensor.new { 0.0 } }, meta))
  end
  write(p.head, {})
  refused "no number of tokens in its metadata"
  write(p.head * (0 / 0), { tokens = "16" })
  refused "'score.weight' is not finite"
  p.head = p.head * (0 / 0)
  T.eq(select(3, p:save(dir)), "FORMAT")
  T.raises("the score of answer 1 is not finite", function() p:judge(tensor.zeros { 1, p.width }) end)
  assert(fs.remove(path))
  T.eq(select(3, probe.load(dir, { trunk = model, tokenizer = tok })), "IO")
end)

-- ---- the stage ----

-- A head whose states come from the texts alone: numbers drawn from them, and whether it is a chosen one; stop: the reading that fails.
local function stub(stop)
  local p, n = new(), 0
  return setmetatable({ read = function(_, prompts, texts)
    n = n + 1
    if n == stop then
      error("stopped", 0)
    end
    local rows = {}
    for i, text in ipairs(texts) do
      local r, row = rng.new(0, prompts[i] .. text), {}
      for k = 1, p.width do
        row[k] = r:uniform() + (k == 2 and text:find "good" and .5 or 0)
      end
      rows[i] = row
    end
    return tensor.new(rows)
  end }, { __index = p, __newindex = p })
end

local function rows(n, word)
  local list = {}
  for i = 1, n do
    list[i] = { prompt = word .. i, chosen = " good", rejected = " bad" }
  end
  return list
end

T.test("the stage: held-out pairs are not fitted, and one that is stopped goes on to the same head", function()
  local function whole(dir, stop, n_test)
    local model = stub(stop)
    local run <close> = Run.open { recipe = "demo", cfg = { out = dir, resume = "auto", quiet = true, seed = 0 }, main = "reward" }
    local ok, held = pcall(run.stage, run, "reward", function(stage)
      return probe_stage.train(run, stage, "x", model, rows(420, "a"), rows(n_test or 30, "b"))
    end)
    return held, ok and model.head:totable(), ok and model.bias
  end
  local dir = T.tmpdir() .. "/run"
  T.ok(tostring((whole(dir, 28))):find "stopped")
  T.ok(fs.exists(dir .. "/checkpoint-000025/states.safetensors") or fs.exists(dir .. "/reward/checkpoint-000025/states.safetensors"),
    "25 readings are kept")
  local held, head, bias = whole(dir)
  T.eq({ held.n, held.n_train }, { 30, 420 })
  local again, same, b = whole(T.tmpdir() .. "/run")
  T.eq({ held.accuracy, head, bias }, { again.accuracy, same, b })
  T.ok(held.accuracy > .7, held.accuracy)
  local fewer, unseen = whole(T.tmpdir() .. "/run", nil, 7)
  T.eq({ fewer.n, unseen }, { 7, head }, "the head does not know the pairs that test it")
end)

-- ---- fluency ----

T.test("fluency: different pairs of words among all, and the likelihood under the model without its adapter", function()
  T.eq(fluency.distinct({ "a b a b", "b a" }, 2), 2 / 4)
  T.eq(fluency.distinct({ "a b c", "d" }, 2), 1.0)
  local nothing = fluency.distinct({ "a" }, 2)
  T.ok(nothing ~= nothing)
  local model = trunk()
  local policy = { model = model, tokenizer = tok }
  local tokens = transformer.rows { tok:encode(" yes please", { eos = true }), tok:encode(" no") }
  local plain = lm.losses(model, { lm.prompt(tok, "tea?"), lm.prompt(tok, "cake?") }, tokens:totable(), 1)
  model:add_lora { r = 2, alpha = 64, key = 5 }
  for _, pair in ipairs(model:named_parameters(true)) do
    tensor.no_grad(pair[2].fill_, pair[2], .3)
  end
  local got = fluency.losses(policy, { "tea?", "cake?" }, tokens)
  for i, row in ipairs(plain) do
    T.near(got[i][1], row[1], 1e-4)
    T.eq(got[i][2], row[2])
  end
  local f = fluency.of(got, { "a b", "a b" })
  T.near(f.perplexity, math.exp((plain[1][1] + plain[2][1]) / (plain[1][2] + plain[2][2])), 1e-3)
  T.eq(f.distinct_2, .5)
  local mean = fluency.mean { { perplexity = 4, distinct_2 = .2 }, { perplexity = 9, distinct_2 = .4 } }
  T.near(mean.perplexity, 6, 1e-9)
  T.near(mean.distinct_2, .3, 1e-12)
end)
