-- generation: the cache against the full forward pass, sampling options, callbacks, the recipe

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local nn = require "mocl.nn.core"
local policy = require "mocl.lm.policy"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local PROMPTS = { { 1, 5, 9 }, { 2 }, { 7, 7, 7, 0, 28, 3, 14, 9, 22, 4, 1 }, { 3, 3 }, { 11, 12, 13, 14 } }

local function head_logp(model, prompts, responses, options)
  local batch = transformer.pack(prompts, responses, { device = model:device() })
  local states = nn.rows(model:forward(batch, { adapter = options.adapter }), batch.rows)
  return (nn.lm_head(states, model:head(), batch.targets, { temperature = options.temperature }))
end

for _, device in ipairs(T.devices) do
  T.test("the log-probabilities of generation are those of the forward pass, to the bit, on " .. device, function()
    for _, tied in ipairs { true, false } do
      local model = small.adapter(small.model { device = device, config = { tie_word_embeddings = tied } })
      local prompts = {}
      for i = 1, 40 do -- more rows than a tile of the products, and rows that end at different times
        prompts[i] = PROMPTS[i % #PROMPTS + 1]
      end
      for _, adapter in ipairs { true, false } do
        local g, logp = model:generate(prompts, { max_new_tokens = 20, temperature = .7, key = 3, eos = 6, adapter = adapter })
        local n, lengths = 0, {}
        for _, ids in ipairs(g.tokens) do
          n = n + #ids
          lengths[#ids] = true
        end
        T.eq(g.total, n)
        T.eq(logp.shape, { n })
        T.eq(logp.device, device)
        T.ok(lengths[20] and next(lengths, next(lengths)), "rows of several lengths")
        T.eq(head_logp(model, prompts, g.tokens, { temperature = .7, adapter = adapter }):totable(), logp:totable())
      end
    end
  end)
end

T.test("the stem of generation is the stream of the forward pass behind the same blocks, to the bit", function()
  local stopped = 0
  for _, o in ipairs { { layers = 2, stem = 1, adapter = true }, { layers = 3, stem = 2, adapter = true }, { layers = 3, stem = 1, adapter = false },
    { layers = 2, stem = 1, adapter = true, hidden = 64, heads = 4 } } do -- the last with heads of 16, whose keys lie across
    local model = small.adapter(small.model { config = { num_hidden_layers = o.layers, hidden_size = o.hidden, num_attention_heads = o.heads,
      num_key_value_heads = o.heads } })
    local prompts = {}
    for i = 1, 37 do
      prompts[i] = PROMPTS[i % #PROMPTS + 1]
    end
    local options = { max_new_tokens = 18, temperature = .9, key = 3, eos = { 6, 11 }, adapter = o.adapter, stem = o.stem }
    local g, logp = model:generate(prompts, options)
    local batch = transformer.pack(prompts, g.tokens)
    local want = model:forward(batch, { adapter = o.adapter, stop = o.stem }):totable()
    local offsets = batch.offsets:totable()
    for b = 1, #prompts do
      for d = 1, #want[offsets[b + 1]] do
        want[offsets[b + 1]][d] = 0 -- the last token of an answer, which no block has seen
      end
      stopped = stopped + (#g.tokens[b] < 18 and 1 or 0)
    end
    T.eq(g.stem:totable(), want)
    options.stem = nil
    local plain, plain_logp = model:generate(prompts, options)
    T.eq({ plain.tokens, plain_logp:totable(), plain.stem }, { g.tokens, logp:totable(), nil })
    T.raises(("stem = %d is outside 0 %%.%%. %d"):format(o.layers, o.layers - 1), model.generate, model, prompts, { stem = o.layers })
    T.raises("stem = %-1 is outside", model.generate, model, prompts, { stem = -1 })
    T.raises("stem and on_token do not go together", model.generate, model, prompts, { stem = 1, on_token = function() end })
  end
  T.ok(stopped > 10, "rows end at different steps")
  T.eq(small.model({ device = "fake" }):generate(PROMPTS, { max_new_tokens = 4, stem = 1 }).stem, nil)
end)

T.test("period: a batch of two texts to each prompt has the answers of two batches, token by token and bit by bit", function()
  for _, device in ipairs { "cpu", "fake" } do
    local model = small.adapter(small.model { device = device })
    local first, second, both = {}, {}, {}
    for k = 1, 21 do
      first[k], second[k] = PROMPTS[k % #PROMPTS + 1], PROMPTS[(k + 1) % #PROMPTS + 1]
      both[k], both[21 + k] = first[k], second[k]
    end
    local o = { max_new_tokens = 12, temperature = 1, key = 9, eos = 6 }
    local a, a_logp = model:generate(first, o)
    local b, b_logp = model:generate(second, o)
    o.period = 21
    local g, logp = model:generate(both, o)
    T.eq(table.move(g.tokens, 1, 21, 1, {}), a.tokens)
    T.eq(table.move(g.tokens, 22, 42, 1, {}), b.tokens)
    local flat = a_logp:totable()
    T.eq(logp:totable(), table.move(b_logp:totable(), 1, b.total, #flat + 1, flat))
    o.period = nil
    local own, equal = model:generate(both, o).tokens, 0
    for k = 22, 42 do
      equal = equal + (table.concat(own[k], " ") == table.concat(g.tokens[k], " ") and 1 or 0)
    end
    T.ok(equal < 10, "without it each row has numbers of its own")
    o.period = -1
    T.raises("period = %-1 must be 0 %(none%) or more", model.generate, model, both, o)
  end
end)

T.test("steps over tensors (fake) and on the host (cpu) draw the same tokens with the same bits", function()
  for _, o in ipairs { { temperature = .7, key = 3, eos = 6 }, { temperature = 1, key = 4, top_k = 9, top_p = .8, eos = 6, suppress_first = 12 },
    { temperature = 0 }, { temperature = 1, key = 5, adapter = false } } do
    o.max_new_tokens = 18
    local answers = {}
    for i, device in ipairs { "cpu", "fake" } do
      local model = small.adapter(small.model { device = device })
      local prompts = {}
      for k = 1, 37 do -- pieces of unequal height
        prompts[k] = PROMPTS[k % #PROMPTS + 1]
      end
      local g, logp = model:generate(prompts, o)
      answers[i] = { g.tokens, g.finished, logp:totable() }
    end
    T.eq(answers[1], answers[2])
  end
end)

T.test("a row alone has the bits of steps over tensors: weights side by side, wide ones in panels", function()
  -- widths of q, k and v, of gate and up, and of the head: in one panel, in several, and with a rest
  for _, size in ipairs {
    { hidden_size = 24, num_attention_heads = 4, num_key_value_heads = 2, head_dim = 6, intermediate_size = 129, vocab_size = 257 },
    { hidden_size = 96, num_attention_heads = 6, num_key_value_heads = 6, intermediate_size = 130, vocab_size = 128 },
    { hidden_size = 40, num_attention_heads = 10, num_key_value_heads = 1, head_dim = 16, intermediate_size = 64, vocab_size = 300 },
    { hidden_size = 130, num_attention_heads = 2, num_key_value_heads = 1, head_dim = 64, intermediate_size = 513, vocab_size = 1030 },
  } do
    size.num_hidden_layers, size.max_position_embeddings = 2, 64
    for _, o in ipairs { { temperature = .9, key = 3 }, { temperature = 0 }, { temperature = .9, key = 3, adapter = false } } do
      o.max_new_tokens = 14
      local answers = {}
      for i, device in ipairs { "cpu", "fake" } do
        local model = small.adapter(small.model { device = device, config = size })
        local g, logp = model:generate({ { 5, 9, 1 } }, o)
        answers[i] = { g.tokens, logp:totable() }
      end
      T.eq(answers[1], answers[2])
    end
  end
end)

T.test("greedy log-probabilities are at temperature 1", function()
  local model = small.model()
  local g, logp = model:generate(PROMPTS, { max_new_tokens = 6, temperature = 0 })
  T.eq(head_logp(model, PROMPTS, g.tokens, { temperature = 1 }):totable(), logp:totable())
end)

T.test("greedy takes the likeliest token of the full forward pass", function()
  local model = small.adapter(small.model())
  for i, ids in ipairs((model:generate(PROMPTS, { max_new_tokens = 6, temperature = 0 })).tokens) do
    local row = table.move(PROMPTS[i], 1, #PROMPTS[i], 1, {})
    for _, id in ipairs(ids) do
      local logits = model:forward(transformer.batch { row }):matmul(model:head():t())
      T.eq(logits[-1]:argmax(1):item(), id)
      row[#row + 1] = id
    end
  end
end)

local function tokens(model, options, prompts)
  options.max_new_tokens = options.max_new_tokens or 12
  return (model:generate(prompts or PROMPTS, options)).tokens
end

T.test("a row's tokens depend on the key and its place, not on the other rows", function()
  local model = small.model()
  local all = tokens(model, { key = 9 })
  T.eq(tokens(model, { key = 9 }), all)
  T.ok(not pcall(T.eq, tokens(model, { key = 10 }), all))
  T.eq(tokens(model, { key = 9 }, { PROMPTS[1], PROMPTS[2] }), { all[1], all[2] })
  local same = tokens(model, { key = 9 }, { { 1, 2 }, { 1, 2 }, { 1, 2 } })
  T.ok(not pcall(T.eq, same[1], same[2]), "equal prompts in different rows get different draws")
end)

T.test("top_k = 1 and a small top_p are greedy", function()
  local model = small.adapter(small.model())
  local greedy = tokens(model, { temperature = 0 })
  T.eq(tokens(model, { top_k = 1, key = 4 }), greedy)
  T.eq(tokens(model, { top_p = 1e-6, key = 4 }), greedy)
  T.ok(not pcall(T.eq, tokens(model, { key = 4 }), greedy))
  T.eq(tokens(model, { top_k = 29, key = 4 }), tokens(model, { key = 4 }))
  T.eq(tokens(model, { top_k = 1000, key = 4 }), tokens(model, { key = 4 }))
  T.eq(tokens(model, { top_p = 1, key = 4 }), tokens(model, { key = 4 }))
end)

-- 3000 first tokens after one prompt, and the probabilities they are drawn from
local function draws(options)
  local model, prompts, count = small.model(), {}, {}
  tensor.no_grad(function()
    model:head():copy_(model:head() * 3) -- so that some tokens are likely
  end)
  for i = 1, 3000 do
    prompts[i] = { 4 }
  end
  for id = 0, 28 do
    count[id] = 0
  end
  options.max_new_tokens, options.key = 1, 21
  for _, ids in ipairs(tokens(model, options, prompts)) do
    count[ids[1]] = count[ids[1]] + 1
  end
  local logits = model:forward(transformer.batch { { 4 } }):matmul(model:head():t())[1]
  local list, order = (logits / (options.temperature or 1)):softmax(1):totable(), {}
  local p = {}
  for i, x in ipairs(list) do
    p[i - 1], order[i] = x, i - 1
  end
  table.sort(order, function(a, b)
    return p[a] > p[b]
  end)
  return count, p, order
end

-- shares of the draws among the tokens of `kept` (a list): p renormalised, within 5 standard deviations
local function check_shares(count, p, kept)
  local sum, seen = 0, {}
  for _, id in ipairs(kept) do
    sum, seen[id] = sum + p[id], true
  end
  for id = 0, 28 do
    local want = seen[id] and p[id] / sum or 0
    T.near(count[id] / 3000, want, 5 * math.sqrt(want * (1 - want) / 3000), "share of token " .. id)
  end
end

T.test("draws follow the distribution at the temperature", function()
  for _, temperature in ipairs { 1, .6, 1.7 } do
    local count, p, order = draws { temperature = temperature }
    check_shares(count, p, order)
  end
end)

T.test("top_k keeps the k likeliest, top_p the fewest that reach p", function()
  local count, p, order = draws { top_k = 4 }
  check_shares(count, p, { table.unpack(order, 1, 4) })
  count, p, order = draws { top_p = .7 }
  local sum, n = 0, 0
  while sum < .7 do
    n = n + 1
    sum = sum + p[order[n]]
  end
  T.ok(n > 2 and n < 15, "a case with something on both sides: " .. n)
  check_shares(count, p, { table.unpack(order, 1, n) })
end)

T.test("eos ends a row and is part of it", function()
  local model = small.model()
  local free = tokens(model, { temperature = 0, max_new_tokens = 16 })
  local eos = free[1][3]
  local g = model:generate(PROMPTS, { temperature = 0, max_new_tokens = 16, eos = eos })
  for i, ids in ipairs(free) do
    local at
    for j = #ids, 1, -1 do
      at = ids[j] == eos and j or at
    end
    T.eq(g.tokens[i], table.move(ids, 1, at or #ids, 1, {}))
    T.eq(g.finished[i], at ~= nil)
  end
  T.raises("eos 29 is outside the vocabulary of 29", model.generate, model, PROMPTS, { eos = 29 })
end)

for _, device in ipairs(T.devices) do
  T.test("each id of a list ends a row, on " .. device, function()
    local model = small.model { device = device }
    local free, options = tokens(model, { temperature = 0, max_new_tokens = 16 }), { temperature = 0, max_new_tokens = 16 }
    local ends = { free[1][5], free[2][3], 28 }
    local is_end = {}
    for _, id in ipairs(ends) do
      is_end[id] = true
    end
    options.eos = ends
    local g = model:generate(PROMPTS, options)
    for i, ids in ipairs(free) do
      local at
      for j = #ids, 1, -1 do
        at = is_end[ids[j]] and j or at
      end
      T.eq(g.tokens[i], table.move(ids, 1, at or #ids, 1, {}))
      T.eq(g.finished[i], at ~= nil)
    end
    options.eos = {}
    T.eq((model:generate(PROMPTS, options)).tokens, free)
    options.eos = { ends[1] }
    local one = model:generate(PROMPTS, options)
    options.eos = ends[1]
    T.eq(model:generate(PROMPTS, options), one)
    options.eos, options.suppress_first = ends, 16 -- none of them is drawn
    for _, ids in ipairs((model:generate(PROMPTS, options)).tokens) do
      T.eq(#ids, 16)
      for _, id in ipairs(ids) do
        T.ok(not is_end[id])
      end
    end
    T.raises("eos 29 is outside the vocabulary of 29", model.generate, model, PROMPTS, { eos = { 1, 29 } })
    T.raises("eos %-2 is outside the vocabulary of 29", model.generate, model, PROMPTS, { eos = { 1, -2 } })
    T.raises("bad option 'eos' %(a token id or a list of ids expected, got string%)", model.generate, model, PROMPTS, { eos = "1" })
    T.raises("bad option 'eos' %(a token id or a list of ids expected, got number%)", model.generate, model, PROMPTS, { eos = { 1.5 } })
    T.raises("bad option 'eos' %(a token id or a list of ids expected, got boolean%)", model.generate, model, PROMPTS, { eos = true })
    T.raises("eos 99999999999 is no token id", model.generate, model, PROMPTS, { eos = { 99999999999 } })
  end)
end

-- a model with more rows of the embedding and the head than `model` has, which are likelier than all others
local function padded(model, vocab)
  local config, from, was = model:config(), {}, model:config().vocab_size
  config.vocab_size = vocab
  local wide = transformer.new(config, { device = model:device(), key = 77 })
  for _, pair in ipairs(model:named_parameters()) do
    from[pair[1]] = pair[2]
  end
  tensor.no_grad(function()
    for _, pair in ipairs(wide:named_parameters()) do
      local to, t = pair[2], from[pair[1]]
      if to.shape[1] == vocab then
        to:copy_(to * 9)
        to:narrow(1, 1, was):copy_(t)
      else
        to:copy_(t)
      end
    end
  end)
  return wide
end

T.test("ids at and above vocab_size are never drawn, and the others as if the vocabulary ended there", function()
  local answers = {}
  for _, device in ipairs { "cpu", "fake" } do
    local model = small.model { device = device }
    local wide, prompts = padded(model, 41), {}
    for k = 1, 37 do
      prompts[k] = PROMPTS[k % #PROMPTS + 1]
    end
    for i, o in ipairs { { temperature = .7, key = 3, eos = 6 }, { temperature = 0 }, { key = 5, top_k = 9, top_p = .8 },
      { key = 4, top_k = 35 }, { key = 6, eos = { 3, 4 }, suppress_first = 12 } } do
      o.max_new_tokens = 12
      local free = (wide:generate(prompts, o)).tokens
      T.ok(not pcall(function()
        for _, ids in ipairs(free) do
          T.ok(math.max(table.unpack(ids)) < 29)
        end
      end), "without the limit they are drawn")
      local want = model:generate(prompts, o)
      o.vocab_size = 29
      T.eq((model:generate(prompts, o)).tokens, want.tokens) -- which is no limit here
      local g, logp = wide:generate(prompts, o)
      T.eq(g.tokens, want.tokens)
      if not o.suppress_first then -- log-probabilities stay those of the whole vocabulary, to the bit
        T.eq(head_logp(wide, prompts, g.tokens, { temperature = o.temperature ~= 0 and o.temperature or 1 }):totable(), logp:totable())
      end
      T.eq({ g.tokens, logp:totable() }, answers[i] or { g.tokens, logp:totable() })
      answers[i] = { g.tokens, logp:totable() }
      T.eq((wide:generate({ PROMPTS[1] }, o)).tokens[1], (model:generate({ PROMPTS[1] }, o)).tokens[1])
    end
    T.raises("vocab_size = 42 is outside 1 .. 41, the model's", wide.generate, wide, PROMPTS, { vocab_size = 42 })
    T.raises("vocab_size = %-1 is outside", wide.generate, wide, PROMPTS, { vocab_size = -1 })
  end
end)

T.test("suppress_first keeps eos out of the first tokens", function()
  local model = small.model()
  local first = tokens(model, { temperature = 0, max_new_tokens = 1 }, { PROMPTS[1] })[1][1]
  T.eq(tokens(model, { temperature = 0, eos = first }, { PROMPTS[1] }), { { first } })
  local held = tokens(model, { temperature = 0, eos = first, suppress_first = 1 }, { PROMPTS[1] })[1]
  T.ok(held[1] ~= first)
  for i = 1, 2 do
    held = tokens(model, { key = i, eos = first, suppress_first = 12, max_new_tokens = 12 }, PROMPTS)
    for _, ids in ipairs(held) do
      T.eq(#ids, 12)
    end
  end
end)

T.test("on_token sees each token in order and can end a row", function()
  local model, seen = small.model(), { {}, {}, {}, {}, {} }
  local g = model:generate(PROMPTS, { key = 2, max_new_tokens = 8, on_token = function(row, id)
    table.insert(seen[row], id)
    return row == 2 and #seen[row] == 3
  end })
  T.eq(seen, g.tokens)
  T.eq({ #g.tokens[1], #g.tokens[2], #g.tokens[5] }, { 8, 3, 8 })
  T.eq(g.finished, { false, true, false, false, false })
  T.eq(table.move(tokens(model, { key = 2, max_new_tokens = 8 })[2], 1, 3, 1, {}), g.tokens[2])
end)

T.test("an error in on_token comes out as it is, and the model goes on working", function()
  local model, tag = small.model(), {}
  local before = tensor.memory().tensors
  local ok, e = pcall(model.generate, model, PROMPTS, { on_token = function(row)
    if row == 3 then
      error(tag)
    end
  end })
  T.ok(not ok and e == tag)
  collectgarbage()
  T.eq(tensor.memory().tensors, before)
  T.raises("in on_token", model.generate, model, PROMPTS, { on_token = function()
    error("in on_token")
  end })
  T.ok(tensor.is_grad_enabled(), "gradients are on again")
  T.eq(#tokens(model, { key = 1 })[1], 12)
end)

T.test("on_token may use the model itself", function()
  local model, inner = small.model(), nil
  local outer = tokens(model, { key = 1, on_token = function(row)
    if row == 1 and not inner then
      inner = tokens(model, { key = 2 })
    end
  end })
  T.eq(inner, tokens(model, { key = 2 }))
  T.eq(outer, tokens(model, { key = 1 }))
end)

T.test("the context ends a row that is not finished", function()
  local model, prompt = small.model(), {}
  for i = 1, 38 do
    prompt[i] = i % 29
  end
  local g = model:generate({ prompt, { 1 } }, { max_new_tokens = 10 })
  T.eq({ #g.tokens[1], #g.tokens[2] }, { 3, 10 }) -- the third token is not fed any more
  T.eq(g.finished, { false, false })
  prompt[39], prompt[40] = 1, 2
  T.eq(#tokens(model, {}, { prompt })[1], 1)
  prompt[41] = 3
  T.raises("prompt 1 has 41 tokens, the context holds 40; shorten it", model.generate, model, { prompt }, {})
end)

T.test("options and prompts that cannot be", function()
  local model = small.model()
  local function fails(pattern, options, prompts)
    T.raises(pattern, model.generate, model, prompts or PROMPTS, options)
  end
  fails("max_new_tokens = 0 must be at least 1", { max_new_tokens = 0 })
  fails("temperature = %-1 must be 0 or more", { temperature = -1 })
  fails("temperature = 1e%-308 must be 0, for the likeliest token, or in 1e%-6 .. 1e6", { temperature = 1e-308 })
  fails("temperature = 1e%+308 must be 0, for the likeliest token, or in 1e%-6 .. 1e6", { temperature = 1e308 })
  fails("temperature = %-?nan must be", { temperature = 0 / 0 })
  fails("top_p = 0 is outside %(0, 1%]", { top_p = 0 })
  fails("top_p = 1.5 is outside", { top_p = 1.5 })
  fails("top_k = %-1 must be 0", { top_k = -1 })
  fails("unknown option 'max_tokens'", { max_tokens = 3 })
  fails("bad option 'top_k' %(integer expected, got number%)", { top_k = 1.5 })
  fails("prompt 2 has no tokens; give it at least the BOS token", {}, { { 1 }, {} })
  fails("at least one sequence", {}, {})
  fails("29", {}, { { 1, 29 } })
  fails("function expected", { on_token = 3 })
end)

T.test("one and two threads draw the same tokens", function()
  if not os.execute("taskset -c 0 true 2>/dev/null") then
    T.skip("no taskset")
  end
  local source = [[package.path = "tests/?.lua;" .. package.path
    local small = require "fixtures.llama.small"
    local m = small.adapter(small.model { config = { hidden_size = 64, vocab_size = 700, intermediate_size = 300 } })
    local prompts = {}
    for i = 1, 70 do prompts[i] = { i, 2 * i, 3 * i } end
    local g, logp = m:generate(prompts, { max_new_tokens = 12, key = 8, temperature = .9, top_p = .95 })
    for i, ids in ipairs(g.tokens) do print(table.concat(ids, " ")) end
    for _, x in ipairs(logp:totable()) do print(("%a"):format(x)) end]]
  local one, err, status = child.lua(source, "taskset -c 0")
  T.eq(status, 0, err)
  T.ok(#one > 10000)
  T.eq((child.lua(source)), one)
end)

T.test("SIGINT ends generation with status 130", function()
  local text, status = child.interrupted({ "-e", [[package.path = "tests/?.lua;" .. package.path
    local m = require("fixtures.llama.small").model { config = { max_position_embeddings = 1 << 20 } }
    local first = true
    m:generate({ { 1 } }, { max_new_tokens = 1 << 19, on_token = function()
      if first then io.stdout:write("begun\n"):flush() end
      first = false
    end })
    print "finished"]] }, "begun")
  T.ok(text:find("interrupted!", 1, true), text)
  T.ok(not text:find("finished", 1, true), text)
  T.eq(status, 130)
end)

T.test("SIGINT between polls of Lua: without a callback too", function()
  local text, status = child.interrupted({ "-e", [[package.path = "tests/?.lua;" .. package.path
    local m = require("fixtures.llama.small").model { config = { max_position_embeddings = 1 << 20 } }
    io.stdout:write("begun\n"):flush()
    m:generate({ { 1 } }, { max_new_tokens = 1 << 19 })
    print "finished"]] }, "begun")
  T.ok(text:find("interrupted!", 1, true), text)
  T.eq(status, 130)
end)

-- ---- mocl generate ----

local DATA = "weights/stories260K/"

local function stories(...)
  return child.mocl { "generate", "model=" .. T.shared(DATA .. "hf-derived/config.json"):match("^(.*)/"),
    "tokenizer=" .. T.shared(DATA .. "tok512.bin"), ... }
end

T.test("stories260K: 200 greedy tokens are llama2.c's, byte by byte", function()
  local want = child.read(T.shared(DATA .. "expected_greedy_200.txt"))
  local out, err, status = stories("prompt=", "temperature=0", "max_new_tokens=200")
  T.eq(status, 0, err)
  T.eq(out, want)
  T.ok(err:find("200 tokens in", 1, true), err)
  out, err = stories("prompt=Once upon a time,", "temperature=0", "max_new_tokens=40", "device=fake", "quiet=true")
  T.eq(out, want:sub(1, #out))
  T.ok(#out > 100 and err == "", err)
end)

T.test("stories260K: samples, stop texts and seeds", function()
  local out = stories("prompt=One day", "stop=.", "seed=4")
  T.ok(out:find("^One day[^.]+%.$"), out)
  T.eq(out, (stories("prompt=One day", "stop=.", "seed=4")))
  T.ok(out ~= stories("prompt=One day", "stop=.", "seed=5"))
  out = stories("prompt=A. B", "stop=.,!", "seed=4") -- the stop text in the prompt does not count
  T.ok(out:find("^A%. B[^.!]+[.!]$"), out)
  out = stories("prompt=One day", "stop=.", "seed=4", "n=3", "top_k=40", "top_p=0.9")
  local n = 0
  for text in (out .. "\n---\n"):gmatch("(.-)\n%-%-%-\n") do
    n = n + 1
    T.ok(text:find("^One day"), text)
  end
  T.eq(n, 3)
end)

T.test("mocl generate.lua: an adapter, and a text of whole characters from a byte vocabulary", function()
  local dir = T.tmpdir()
  local model = small.adapter(small.model { config = { vocab_size = 270 } })
  local tok = tokenizer.train({ "aä" }, { vocab_size = 258 })
  assert(transformer.save(model, dir))
  assert(tok:save(dir .. "/tokenizer.json"))
  assert(require("mocl.lm.lora").save(model, dir .. "/adapter"))
  local base = child.mocl { "generate", "model=" .. dir, "prompt=ä", "temperature=0", "max_new_tokens=30" }
  local with = child.mocl { "generate", "model=" .. dir, "adapter=" .. dir .. "/adapter", "prompt=ä",
    "temperature=0", "max_new_tokens=30" }
  T.ok(base ~= with)
  local prompt = tok:encode("ä", { bos = true })
  local g = model:generate({ prompt }, { max_new_tokens = 30, temperature = 0, eos = tok:eos_id() })
  local ids = table.move(g.tokens[1], 1, #g.tokens[1], #prompt + 1, prompt)
  for i, id in ipairs(ids) do -- a second BOS ends the text
    if i > 1 and id == tok:bos_id() then
      ids = table.move(ids, 1, i - 1, 1, {})
      break
    end
  end
  T.eq(with, tok:decode(ids))
end)

-- A directory with a model whose answers have many special tokens, its tokenizer, the model and its greedy ids.
local function chatty()
  local dir, special = T.tmpdir(), { "<s>", "</s>" }
  for i = 3, 40 do
    special[i] = ("<|%d|>"):format(i)
  end
  local tok = tokenizer.train({ "abc abd" }, { vocab_size = 296, special_tokens = special })
  local model = small.model { key = 7, config = { vocab_size = 296 } }
  tensor.no_grad(function()
    local head = model:head():narrow(1, 1, 40)
    head:copy_(head * 1.3)
  end)
  assert(transformer.save(model, dir))
  assert(tok:save(dir .. "/tokenizer.json"))
  local made = model:generate({ tok:encode("ab", { bos = tok:bos_id() ~= nil }) }, { temperature = 0, max_new_tokens = 30 })
  return dir, tok, model, made.tokens[1]
end

local function set(dir, file, change)
  local path = dir .. "/" .. file
  local all = fs.exists(path) and assert(json.load(path)) or {}
  for k, v in pairs(change) do
    all[k] = v
  end
  assert(fs.write(path, json.encode(all)))
end

T.test("mocl generate.lua: a text ends with any id of the files' eos_token_id, and with a stop text that is a special token", function()
  local dir, tok, _, ids = chatty()
  local function text(...)
    local out, err, status = child.mocl { "generate", "model=" .. dir, "prompt=ab", "temperature=0", "max_new_tokens=30",
      "quiet=true", ... }
    T.eq(status, 0, err)
    return out
  end
  -- the text up to and with the id at place `at`
  local function upto(at)
    local prompt = tok:encode("ab", { bos = tok:bos_id() ~= nil })
    return tok:decode(table.move(ids, 1, at, #prompt + 1, prompt))
  end
  local at -- of a special token that is there for the first time, behind some text
  for i, id in ipairs(ids) do
    local seen = false
    for j = 1, i - 1 do
      seen = seen or ids[j] == id
    end
    if not at and not seen and id > 2 and id < 40 and i > 3 and upto(i) ~= upto(2) then
      at = i
    end
  end
  T.ok(at and at < 30, "the fixture")
  local whole = text()
  T.ok(#whole > #upto(at))
  T.eq(text("stop=" .. tok:id_to_token(ids[at])), upto(at))
  T.eq(text("stop=nowhere," .. tok:id_to_token(ids[at])), upto(at))
  T.eq(text("stop=" .. tok:id_to_token(41)), whole) -- a token that does not come
  set(dir, "config.json", { eos_token_id = { 1, ids[at] } })
  T.eq(text(), upto(at))
  set(dir, "config.json", { eos_token_id = 1 })
  T.eq(text(), whole)
  set(dir, "generation_config.json", { eos_token_id = { 1, ids[at] } })
  T.eq(text(), upto(at))
  set(dir, "config.json", { eos_token_id = ids[at] })
  set(dir, "generation_config.json", { eos_token_id = 1 }) -- which replaces config.json's
  T.eq(text(), whole)
end)

T.test("mocl.lm.policy: answers end with each end token, and have no ids that the tokenizer lacks", function()
  local dir, tok, model, ids = chatty()
  local actor = policy.new { model = model, tokenizer = tok, max_new_tokens = 30, temperature = 0 }
  local function answer(m)
    actor.model = m
    local _, made = actor:answer({ "ab" }, { key = 1 })
    return made.tokens[1]
  end
  local whole, at = answer(model), nil
  for i = #whole, 2, -1 do
    at = whole[i] ~= tok:eos_id() and i or at
  end
  set(dir, "config.json", { eos_token_id = { 7, whole[at] } })
  local cut = answer((assert(transformer.load(dir))))
  T.eq(cut[#cut], whole[at])
  T.ok(#cut <= at)
  set(dir, "config.json", { eos_token_id = 7 }) -- the tokenizer's ends it all the same
  T.ok(#ids == 30)
  local wide = padded(model, 320)
  for key = 1, 3 do
    actor.model, actor.temperature = wide, 1
    local texts, made = actor:answer({ "ab", "b", "a" }, { key = key })
    T.eq(#texts, 3)
    for _, list in ipairs(made.tokens) do
      T.ok(math.max(table.unpack(list)) < 296)
    end
  end
end)

T.test("mocl generate.lua: a model with more rows than the tokenizer has ids", function()
  local dir, tok, model = chatty()
  assert(transformer.save(padded(model, 320), dir))
  local out, err, status = child.mocl { "generate", "model=" .. dir, "prompt=ab", "n=5", "max_new_tokens=30", "quiet=true" }
  T.eq(status, 0, err)
  T.eq(select(2, out:gsub("\n%-%-%-\n", "")), 4)
  T.eq(tok:vocab_size(), 296)
end)

T.test("mocl generate.lua: in front of the prompt goes what the tokenizer's files say", function()
  local dir = T.tmpdir()
  local vocab = {}
  for b = 0, 255 do -- GPT-2's characters of the bytes 0 to 255, as ids 0 to 255
    vocab[b + 1] = ("%s: %d"):format(json.encode(tokenizer.train({}, { vocab_size = 256, special_tokens = {} }):id_to_token(b)), b)
  end
  local file = [[{"added_tokens": [{"id": 256, "content": "<|endoftext|>", "special": true}], "normalizer": null, "pre_tokenizer":
    {"type": "ByteLevel", "add_prefix_space": false}, "post_processor": %s, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {%s}, "merges": []}}]]
  local template = [[{"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "x", "type_id": 0}},
    {"Sequence": {"id": "A", "type_id": 0}}], "pair": [], "special_tokens": {"x": {"id": "x", "ids": [256], "tokens": ["x"]}}}]]
  local model = small.model { config = { vocab_size = 257 } }
  assert(transformer.save(model, dir))
  assert(fs.write(dir .. "/tokenizer_config.json", '{"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}'))
  local seen = {}
  for i, case in ipairs { { "null", {} }, { '{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": false}', {} },
    { template, { 256 } } } do
    assert(fs.write(dir .. "/tokenizer.json", file:format(case[1], table.concat(vocab, ", "))))
    local tok = assert(tokenizer.load(dir))
    T.eq(tok:bos_id(), 256)
    local prompt = case[2]
    for _, id in ipairs(tok:encode("ab")) do
      prompt[#prompt + 1] = id
    end
    local g = model:generate({ prompt }, { max_new_tokens = 12, temperature = 0, eos = 256 })
    local out, err = child.mocl { "generate", "model=" .. dir, "prompt=ab", "temperature=0", "max_new_tokens=12",
      "quiet=true" }
    T.eq(out, "ab" .. tok:decode(g.tokens[1]), err)
    seen[i] = out
  end
  T.eq(seen[1], seen[2])
  T.ok(seen[1] ~= seen[3], "the beginning makes a difference")
end)

T.test("mocl generate.lua: mistakes", function()
  local function fails(text, ...)
    local out, err, status = child.mocl { "generate", ... }
    T.eq(status, 1, err)
    T.eq(out, "")
    T.ok(err:find(text, 1, true), err)
  end
  fails("option model is missing")
  fails("unknown option 'promt' (did you mean 'prompt'?)", "promt=x")
  fails("option temperature: -1 is below the minimum 0", "temperature=-1")
  fails("option stop: a stop text is empty", "model=x", "stop=a,,b")
  fails("nowhere", "model=nowhere")
  fails("option model: nowhere: No such file or directory; tokenizer= names one that lies elsewhere", "nowhere")
  local dir = T.tmpdir()
  local tok = tokenizer.train({ "abc" }, { vocab_size = 258 })
  assert(tok:save(dir .. "/tokenizer.json"))
  assert(transformer.save(small.model(), dir))
  fails("the tokenizer has 258 ids, the model only 29", "model=" .. dir)
  assert(transformer.save(small.model { config = { vocab_size = 258 } }, dir))
  fails("the prompt has 61 tokens, the context holds 40: shorten it", "model=" .. dir, "prompt=" .. ("x"):rep(60))
  fails("adapter_config.json: No such file", "model=" .. dir, "adapter=" .. dir .. "/none")
  fails("device 'cuda:9' is not available", "model=" .. dir, "device=cuda:9")
  fails("unknown device 'gpu'", "model=" .. dir, "device=gpu")
end)

T.test("ids as an object of rows: the same batches, answers and texts as lists", function()
  local tok = tokenizer.train({ "some text of a few words" }, { vocab_size = 262 })
  local model = small.model { config = { vocab_size = tok:vocab_size() } }
  local texts = { "a", "some words", "text" }
  local lists, rows = tok:encode_batch(texts, { bos = true }), tok:encode_batch(texts, { bos = true, ragged = true })
  T.eq(rows:totable(), lists)
  T.eq(transformer.rows(lists):totable(), lists)
  T.eq(transformer.rows(rows), rows)
  T.eq({ #rows, rows[2], rows[4], rows:lengths() }, { 3, lists[2], nil, { #lists[1], #lists[2], #lists[3] } })
  T.eq({ rows:slice(2, 3):totable(), rows:slice(4, 3):totable() }, { { lists[2], lists[3] }, {} })
  T.raises("there is no such row", rows.slice, rows, 2, 4)
  T.raises("there is no such row", rows.slice, rows, 0, 1)
  local function batch_of(b)
    return T.show { b.tokens:totable(), b.positions:totable(), b.offsets:totable(), b.n, b.total, b.rows and { b.rows:totable(),
      b.token_rows:totable(), b.targets:totable(), b.response_offsets:totable(), b.response_total } }
  end
  T.eq(batch_of(transformer.batch(rows)), batch_of(transformer.batch(lists)))
  local options = { max_new_tokens = 6, key = 4, eos = tok:eos_id() }
  local made, logp = model:generate(lists, options)
  options.ragged = true
  local same, again = model:generate(rows, options)
  T.eq({ same.tokens:totable(), same.finished, same.total, again:totable() }, { made.tokens, made.finished, made.total, logp:totable() })
  for _, pair in ipairs { { rows, same.tokens }, { lists, same.tokens }, { rows, made.tokens } } do
    T.eq(batch_of(transformer.pack(pair[1], pair[2])), batch_of(transformer.pack(lists, made.tokens)))
  end
  for i, text in ipairs(tok:decode_batch(same.tokens)) do
    T.eq(text, tok:decode(made.tokens[i]))
  end
  T.raises("2 rows, but 3 prompts", transformer.pack, rows, rows:slice(1, 2))
  T.raises("mocl.rows expected, got table", tok.decode_batch, tok, made.tokens)
end)
