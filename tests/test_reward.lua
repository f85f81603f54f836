-- rewards: the Bradley-Terry loss, training, files, and rewards that are functions

local T = require "t"
local fs = require "mocl.fs"
local reward = require "mocl.lm.reward"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"

local function new(options)
  options = options or {}
  local tok = tokenizer.train({ "ab" }, { vocab_size = 258 })
  local trunk = small.model { config = { vocab_size = 258, max_position_embeddings = 24 }, device = options.device }
  local model = reward.model { trunk = trunk, tokenizer = tok, pool = options.pool, max_tokens = options.max_tokens }
  if options.head ~= false then
    model.head:copy_(tensor.randn(model.head.shape, { key = 3, std = .5, device = options.device }))
  end
  return model, tok
end

local PAIRS = {}
for i = 1, 24 do
  local s = string.char(96 + i)
  PAIRS[i] = { prompt = "q " .. s, chosen = " " .. s .. " yes", rejected = " " .. s .. " no!" }
end

T.test("a new head scores nothing", function()
  T.eq(new { head = false }:score({ "a", "b" }, { "c", "d e" }), { 0.0, 0.0 })
end)

T.test("several answers to a prompt: the loss is the mean over their comparisons, each answer computed once", function()
  local model = new()
  local rows = {
    { prompt = "q a", responses = { " x", " yes", " no!" }, comparisons = { { 1, 2 }, { 3, 1 }, { 3, 2 } } },
    { prompt = "q b", chosen = " z", rejected = " yes" },
    { prompt = "q c", responses = { " u", " v" }, comparisons = { { 2, 1 } } },
  }
  local s = model:score({ "q a", "q a", "q a", "q b", "q b", "q c", "q c" }, { " x", " yes", " no!", " z", " yes", " u", " v" })
  local margins = { s[1] - s[2], s[3] - s[1], s[3] - s[2], s[4] - s[5], s[7] - s[6] }
  local want = 0
  for _, m in ipairs(margins) do
    want = want + math.log(1 + math.exp(-m)) / #margins
  end
  local cache = {}
  local batch = model:collate(rows, cache)
  T.eq(#batch.responses, 7)
  T.eq(batch.chosen, { 1, 3, 3, 4, 7 })
  T.eq(batch.rejected, { 2, 1, 2, 5, 6 })
  T.eq(model:collate(rows, cache), batch)
  local loss, margin = model:loss(batch)
  T.near(loss:item(), want, 1e-5)
  for i, m in ipairs(margin:totable()) do
    T.near(m, margins[i], 1e-5)
  end
  local first
  model:train { pairs = rows, steps = 1, batch_size = 3, lr = 0, seed = 0, purpose = "t", on_step = function(_, l)
    first = l
  end }
  T.near(first, want, 1e-5)
end)

T.test("the loss of swapped pairs: -log sigmoid of the margin and of its negative", function()
  local model = new()
  local p, r = {}, {}
  for i, pair in ipairs(PAIRS) do
    p[i], r[i], p[#PAIRS + i], r[#PAIRS + i] = pair.prompt, pair.chosen, pair.prompt, pair.rejected
  end
  local s, want, swapped = model:score(p, r), 0, 0
  for i = 1, #PAIRS do
    local margin = s[i] - s[#PAIRS + i]
    want, swapped = want + math.log(1 + math.exp(-margin)) / #PAIRS, swapped + math.log(1 + math.exp(margin)) / #PAIRS
  end
  T.ok(math.abs(want - swapped) > 1e-3, "a case that tells them apart")
  local function first_loss(list) -- of a batch of all pairs, before any step
    local loss
    new():train { pairs = list, steps = 1, batch_size = #list, lr = 0, seed = 0, purpose = "t", on_step = function(_, l)
      loss = l
    end }
    return loss
  end
  local turned = {}
  for i, pair in ipairs(PAIRS) do
    turned[i] = { prompt = pair.prompt, chosen = pair.rejected, rejected = pair.chosen }
  end
  T.near(first_loss(PAIRS), want, 1e-5)
  T.near(first_loss(turned), swapped, 1e-5)
  local a, b = model:accuracy(PAIRS), model:accuracy(turned)
  T.near(a.accuracy + b.accuracy, 1, 1e-12) -- no ties here
  T.eq(a.n, 24)
end)

T.test("a tie counts as wrong", function()
  local same = { { prompt = "a", chosen = "x", rejected = "x" } }
  T.eq(new():accuracy(same).accuracy, 0.0)
end)

for _, pool in ipairs { "mean", "last" } do
  T.test("a preference that one word decides is learnt, pool = " .. pool, function()
    local model = new { head = false, pool = pool }
    local first, last
    local train, test = table.move(PAIRS, 1, 16, 1, {}), table.move(PAIRS, 17, 24, 1, {})
    model:train { pairs = train, steps = 60, batch_size = 8, lr = 1e-2, seed = 1, purpose = "t", on_step = function(step, loss)
      first, last = first or loss, loss
      T.ok(step <= 60)
    end }
    T.near(first, math.log(2), 1e-5) -- the head began at zero
    T.ok(last < .1, ("loss %g"):format(last))
    local held = model:accuracy(test)
    T.eq(held.accuracy, 1.0)
    T.ok(held.low > .6 and held.low < 1 and held.high == 1, "Wilson's interval")
    for _, pair in ipairs(model.trunk:named_parameters()) do
      T.ok(not pair[2].requires_grad and not pair[2].grad, pair[1] .. " is frozen again")
    end
    T.ok(not model.head.requires_grad)
  end)
end

T.test("same seed, same model; another purpose, another one", function()
  local function head(purpose)
    local model = new()
    model:train { pairs = PAIRS, steps = 5, batch_size = 4, lr = 1e-2, seed = 1, purpose = purpose }
    return model.head:totable()
  end
  T.eq(head "t", head "t")
  T.ok(not pcall(T.eq, head "t", head "u"))
end)

T.test("a score does not depend on the other answers or the batch size", function()
  local model = new()
  local p, r = {}, {}
  for i = 1, 7 do
    p[i], r[i] = ("p"):rep(i), ("r"):rep(8 - i)
  end
  local all = model:score(p, r)
  T.eq(model:score(p, r, 2), all)
  T.eq(model(p, r), all) -- called like a function
  T.eq(model:score({ p[3] }, { r[3] })[1], all[3])
end)

T.test("pooling: the mean over the answer's tokens, or the last one's", function()
  local mean, last = new { pool = "mean" }, new { pool = "last" }
  -- one token: the end token alone
  T.eq(mean:score({ "q" }, { "" }), last:score({ "q" }, { "" }))
  -- the mean is over prefixes' last scores: each token's state does not see what follows
  local p, r = mean:encode({ "q" }, { "xyz" })
  local sum = 0
  for i = 1, #r[1] do
    sum = sum + last:forward(p, { table.move(r[1], 1, i, 1, {}) }):item()
  end
  T.eq(#r[1], 4)
  T.near(mean:forward(p, r):item(), sum / 4, 1e-6)
end)

T.test("what does not fit is cut: prompts lose their beginning, answers their end", function()
  local model, tok = new { max_tokens = 10 }
  local p, r = model:encode({ "abcdefghijkl", "ab", "abc" }, { "xyz", "x", ("x"):rep(30) })
  T.eq(tok:decode(p[1]), "ghijkl")
  T.eq({ #p[1], #r[1] }, { 6, 4 })
  T.eq(r[1][4], tok:eos_id())
  T.eq(tok:decode(p[2]), "ab")
  T.eq({ #p[3], #r[3] }, { 1, 9 })
  for _, s in ipairs(model:score({ "abcdefghijkl", ("y"):rep(100) }, { ("x"):rep(100), "" })) do
    T.ok(s == s)
  end
end)

T.test("save and load give the same scores", function()
  for _, pool in ipairs { "mean", "last" } do
    local model, tok = new { pool = pool, max_tokens = 12 }
    local dir = T.tmpdir() .. "/reward"
    assert(model:save(dir))
    local again = assert(reward.load(dir, tok))
    T.eq({ again.pool, again.max_tokens }, { pool, 12 })
    T.eq(again:score({ "aaaaaaaaaaaaaaaaaaaa", "b" }, { "c", "d e f" }), model:score({ "aaaaaaaaaaaaaaaaaaaa", "b" }, { "c", "d e f" }))
    local on_fake = assert(reward.load(dir, tok, { device = "fake" }))
    T.eq(on_fake:score({ "a" }, { "b" }), model:score({ "a" }, { "b" }))
  end
end)

T.test("directories that hold no reward model", function()
  local model, tok = new()
  local dir = T.tmpdir() .. "/reward"
  assert(model:save(dir))
  T.fails("No such file", reward.load, dir .. "x", tok)
  local head = dir .. "/score_head.safetensors"
  assert(safetensors.save(head, { ["score.weight"] = tensor.zeros { 1, 5 } }, { pool = "mean", max_tokens = "24" }))
  T.fails("'score.weight' is %(1,5%), the model needs %(1,12%)", reward.load, dir, tok)
  assert(safetensors.save(head, { ["score.bias"] = tensor.zeros { 1 } }, { pool = "mean", max_tokens = "24" }))
  T.fails("1 of 1 tensors are missing, the first is 'score.weight'", reward.load, dir, tok)
  assert(safetensors.save(head, { ["score.weight"] = tensor.zeros { 1, 12 } }, { pool = "sum", max_tokens = "24" }))
  T.fails("no pool or max_tokens in its metadata", reward.load, dir, tok)
  assert(safetensors.save(head, { ["score.weight"] = tensor.zeros { 1, 12 } }, { pool = "mean" }))
  T.fails("no pool or max_tokens in its metadata", reward.load, dir, tok)
  T.raises("pool is 'mean' or 'last', got 'avg'", reward.model, { trunk = model.trunk, tokenizer = tok, pool = "avg" })
  assert(fs.remove(head))
  T.fails("score_head.safetensors: No such file", reward.load, dir, tok)
end)

-- ---- any function ----

T.test("reward.table has a row for each answer, and a number in it for each reward", function()
  local rewards = { { name = "length", f = function(_, r) return { #r[1], #r[2], #r[3] } end },
    { name = "place", f = function(p) return tensor.new { #p[1], #p[2], #p[3] } end } }
  T.eq(reward.table(rewards, { "a", "bb", "ccc" }, { "four", "six456", "" }), { { 4, 1.0 }, { 6, 2.0 }, { 0, 3.0 } })
  rewards[2].f = function() return { 1 } end
  T.raises("reward 'place' returned 1 values for 3 answers", reward.table, rewards, { "a", "b", "c" }, { "x", "y", "z" })
end)

T.test("reward.call checks what a function returns", function()
  local function call(result)
    return reward.call(function()
      return result
    end, "brief", { "p", "p" }, { "one", "two\xff" })
  end
  T.eq(call { 1, 2.5 }, { 1, 2.5 })
  T.eq(call(tensor.new { 3, 4 }), { 3.0, 4.0 })
  T.raises("^reward 'brief' returned 1 values for 2 answers; it must return a list with one number each$", call, { 1 })
  T.raises("^reward 'brief' returned a number for 2 answers", call, 7)
  T.raises("^reward 'brief' returned a nil for 2 answers", call, nil)
  T.raises("^reward 'brief' returned %-?nan for answer 1 %(\"one\"%)$", call, { 0 / 0, 1 })
  T.raises("^reward 'brief' returned inf for answer 1", call, { math.huge, 1 })
  T.raises("^reward 'brief' returned the string \"x\" for answer 2; it must return a number$", call, { 1, "x" })
  T.raises("in the reward", reward.call, function()
    error("in the reward")
  end, "brief", {}, {})
  T.eq(reward.call(function(prompts, responses)
    return { #prompts[1], #responses[2] }
  end, "lengths", { "abc", "" }, { "", "de" }), { 3, 2 })
end)

T.test("reward.call: whatever is not a number for each answer is told in words", function()
  local function told(text, result, answers)
    T.raises(text, reward.call, function()
      return result
    end, "x", { "p", "p" }, answers or { "one", "two\xff\"" })
  end
  local list = "; it must return a list with one number each$"
  told("^reward 'x' returned 0 values for 2 answers" .. list, {})
  told("^reward 'x' returned 3 values for 2 answers" .. list, { 1, 2, 3 })
  told("^reward 'x' returned a boolean for 2 answers" .. list, true)
  told("^reward 'x' returned a string for 2 answers" .. list, "0.5")
  told("^reward 'x' returned a thread for 2 answers" .. list, coroutine.create(print))
  told("^reward 'x' returned a tensor of shape %(2,1%) for 2 answers" .. list, tensor.new { { 1 }, { 2 } })
  told("^reward 'x' returned a tensor of shape %(3%) for 2 answers" .. list, tensor.new { 1, 2, 3 })
  told("^reward 'x' returned a tensor of shape %(%) for 2 answers" .. list, tensor.new({ 1 }):sum())
  local number = "; it must return a number$"
  told("^reward 'x' returned the string \"0.5\" for answer 1" .. number, { "0.5", 1 })
  told("^reward 'x' returned the string \"caf\u{FFFD}\" for answer 1" .. number, { "caf\xE9", 1 })
  told("^reward 'x' returned the string \"7+%.%.%.\" for answer 1" .. number, { ("7"):rep(1000), 1 })
  told("^reward 'x' returned the boolean false for answer 1" .. number, { false, true })
  told("^reward 'x' returned a table for answer 1" .. number, { { 1 }, { 2 } })
  told("^reward 'x' returned a tensor for answer 2" .. number, { 1, tensor.new { 2 } })
  told("^reward 'x' returned nil for answer 2" .. number, setmetatable({ 1 }, { __len = function() return 2 end }))
  told("^reward 'x' returned nan for answer 2 %(\"two\u{FFFD}\\\"\"%)$", { 1, -(0 / 0) })
  told("^reward 'x' returned nan for answer 1", tensor.new { 0 / 0, 1 })
  told("^reward 'x' returned %-inf for answer 1", { -math.huge, 1 })
  told("^reward 'x' returned 9007199254740993, an integer that no floating point number equals for answer 1", { 2 ^ 53 // 1 | 1, 1 })
  told("^reward 'x' returned 9223372036854775807, an integer", { math.maxinteger, 1 })
  told("^reward 'x' returned 1e%+200, whose square is above every", { 1e200, 1 })
  local function fine(result, want)
    T.eq(reward.call(function() return result end, "x", { "p", "p" }, { "one", "two" }), want or result)
  end
  fine { 2 ^ 53 // 1 | 0, math.mininteger }
  fine { 1 << 60, -1e150 }
  fine(table.pack(1, 2), { 1, 2 })
  fine(setmetatable({}, { __len = function() return 2 end, __index = function(_, i) return i / 2 end }), { .5, 1 })
  fine(tensor.new({ 1, 2 }, { dtype = "i32" }), { 1, 2 })
  T.eq(reward.call(function() return {} end, "x", {}, {}), {})
end)

T.test("reward.call: an error inside names the reward", function()
  T.raises("^reward 'x': .*test_reward.lua:%d+: attempt to index a nil value", reward.call, function(p)
    return p.x.y
  end, "x", { "p" }, { "r" })
  local ok, why = coroutine.resume(coroutine.create(function()
    return reward.call(function(_, r)
      coroutine.yield "in the middle" -- a host may run its own scheduler
      return { #r[1] }
    end, "x", { "p" }, { "r" })
  end))
  T.eq({ ok, why }, { true, "in the middle" })
  local object = setmetatable({}, { __tostring = function() return "an object" end })
  local _, got = pcall(reward.call, function() error(object) end, "x", { "p" }, { "r" })
  T.ok(rawequal(got, object), "as it was raised")
end)

T.test("reward.call: a reward changes nothing but its own lists", function()
  local prompts, responses, kept = { "p", "q" }, { "one", "two\xff" }, {}
  local function spoil(p, r)
    p[1], p[3], r[1], r[2] = "x", "y", nil, 7
    table.insert(kept, p)
    return { 1, 2 }
  end
  T.eq(reward.call(spoil, "spoil", prompts, responses), { 1, 2 })
  T.eq({ prompts, responses }, { { "p", "q" }, { "one", "two\xff" } })
  T.ok(not rawequal(kept[1], prompts))
  -- one table for all calls
  local buffer = {}
  local function reuse(_, r)
    for i = 1, #r do
      buffer[i] = #r[i]
    end
    return buffer
  end
  local first = reward.call(reuse, "reuse", prompts, responses)
  reward.call(reuse, "reuse", { "", "" }, { "longer", "longer" })
  T.eq(first, { 3, 4 })
end)

T.test("reward.try calls each reward that is used once, before anything is trained", function()
  local calls = {}
  local function counted(name, result)
    return function(p, r)
      calls[#calls + 1] = name .. " " .. #p .. " " .. #r
      return result
    end
  end
  reward.try({ a = counted("a", { 1, 2 }), b = counted("b", { 1, 2 }), c = counted("c") }, { "b", "a", "model" }, { "p", "q", "r" })
  T.eq(calls, { "b 2 2", "a 2 2" })
  reward.try({ a = counted("a", { 1, 2 }) }, { "a" }, { "p" })
  T.raises("^reward 'a' returned a nil for 2 answers.*\nfound by calling it on two answers before anything is trained$", reward.try,
    { a = counted "a" }, { "a" }, { "p", "q" })
  T.raises("returned nan for answer 2 %(\"\"%)", reward.try, { a = function(_, r) -- a mean over the words of an answer
    return { 1 / 1, #r[2] / select(2, r[2]:gsub("%S+", "")) }
  end }, { "a" }, { "p", "q" })
end)

T.test("comparisons that say nothing once they are cut are left out", function()
  local long = ("y"):rep(30)
  local model = new { max_tokens = 12 }
  local same = { prompt = "p", chosen = long .. "a", rejected = long .. "b" } -- the 11 bytes that are left are the same
  local short = { prompt = "p", chosen = "a", rejected = "b" }
  local several = { prompt = "p", responses = { long .. "a", "a", long .. "b" }, comparisons = { { 1, 2 }, { 3, 1 }, { 2, 3 } } }
  local rows, left_out = model:comparable { same, short, several, { prompt = "p", chosen = "a", rejected = "a" } }
  T.eq(left_out, 3)
  T.eq(#rows, 2)
  T.ok(rawequal(rows[1], short), "others are not touched")
  T.eq(rows[2], { prompt = "p", responses = several.responses, comparisons = { { 1, 2 }, { 2, 3 } } })
  local losses = {}
  T.eq(model:train { pairs = { same, short }, steps = 40, batch_size = 1, lr = 1e-2, seed = 0, purpose = "t", on_step = function(_, l)
    losses[#losses + 1] = l
  end }, 1)
  for step = 20, 40 do
    T.ok(losses[step] < .6, "none of them is log 2 for ever")
  end
  T.raises("trainer: none of 1 comparisons says anything: their answers are the same once cut to max_tokens=12", model.train,
    model, { pairs = { same }, steps = 1, batch_size = 1, lr = 1e-2, seed = 0, purpose = "t" })
end)

T.test("reward.functions: a file that returns them", function()
  local path = T.tmpdir() .. "/f.lua"
  assert(fs.write(path, "return { a = function() return { 1 } end, b = setmetatable({}, { __call = function() return { 2 } end }) }"))
  local list = assert(reward.functions(path))
  assert(fs.write(path, "\u{FEFF}return { a = print }"))
  T.eq(assert(reward.functions(path)).a, print)
  T.eq(reward.call(list.a, "a", { "p" }, { "r" }), { 1 })
  T.eq(reward.call(list.b, "b", { "p" }, { "r" }), { 2 })
  for source, text in pairs {
    ["\xFF\xFEr\0e\0t\0u\0r\0n\0"] = "f.lua: the text is UTF%-16, as its byte order mark says; convert it: iconv",
    ["return 3"] = "f.lua: returns a number, not a table of functions",
    [""] = "f.lua: returns a nil, not a table",
    ["return { short = 3 }"] = "f.lua: reward 'short' is a number, not a function",
    ["return { function() end }"] = "f.lua: reward '1' is a function",
    ["return {"] = "f.lua:1: unexpected symbol near <eof>",
    ["error 'not today'"] = "f.lua:1: not today",
  } do
    assert(fs.write(path, source))
    T.fails(text, reward.functions, path)
  end
  T.fails("cannot open", reward.functions, path .. "x")
end)
