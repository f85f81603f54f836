-- sessions: what a row holds has the bits of a forward pass over its tokens, however they came in

local T = require "t"
local nn = require "mocl.nn.core"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local PROMPTS = { { 1, 5, 9 }, { 2 }, { 7, 7, 7, 0, 28, 3, 14, 9, 22, 4, 1 }, { 3, 3 }, { 11, 12, 13, 14 } }

-- States of the last tokens of rows, by a forward pass without a cache.
local function fresh(model, rows, adapter)
  local batch = transformer.batch(rows, { device = model:device() })
  local last = {}
  for i, n in ipairs(batch.offsets:totable()) do
    last[i - 1] = n - 1
  end
  last[0] = nil
  return tensor.no_grad(function()
    return model:forward(batch, { adapter = adapter, rows = tensor.new(last, { dtype = "i32", device = model:device() }) }):totable()
  end)
end

local function copy(rows)
  local out = {}
  for i, row in ipairs(rows) do
    out[i] = table.move(row, 1, #row, 1, {})
  end
  return out
end

for _, device in ipairs(T.devices) do
  T.test("append, rewind and fork give the bits of fresh passes, on " .. device, function()
    local model = small.adapter(small.model { device = device })
    for _, adapter in ipairs { true, false } do
      local s <close> = model:session { rows = #PROMPTS + 1, max_tokens = 20, adapter = adapter }
      local rows, all = copy(PROMPTS), { 1, 2, 3, 4, 5 }
      s:append(rows, all)
      T.eq(s:hidden(all):totable(), fresh(model, rows, adapter))
      s:append({ { 8 }, { 4, 19, 6 } }, { 4, 1 }) -- one token, and several, behind what is there
      rows[4][3] = 8
      table.move({ 4, 19, 6 }, 1, 3, 4, rows[1])
      T.eq(s:hidden(all):totable(), fresh(model, rows, adapter))
      s:rewind(3, 5)
      rows[3] = { 7, 7, 7, 0, 28 }
      T.eq(s:hidden(all):totable(), fresh(model, rows, adapter), "the last token is read once more")
      T.eq(s:tokens(3), rows[3])
      s:rewind(3, 4)
      s:append({ { 21, 2 } }, { 3 })
      rows[3] = { 7, 7, 7, 0, 21, 2 }
      T.eq(s:hidden(all):totable(), fresh(model, rows, adapter))
      s:fork(3, 6)
      s:append({ { 13 } }, { 6 })
      rows[6] = { 7, 7, 7, 0, 21, 2, 13 }
      T.eq(s:hidden():totable(), fresh(model, rows, adapter), "both sides of a fork go on")
      s:rewind(1, 2)
      s:fork(1, 2) -- of a row whose state is to be made again
      rows[1], rows[2] = { 1, 5 }, { 1, 5 }
      T.eq(s:hidden():totable(), fresh(model, rows, adapter))
      s:rewind(5, 0)
      s:append({ { 2, 2 } }, { 5 })
      rows[5] = { 2, 2 }
      T.eq(s:hidden():totable(), fresh(model, rows, adapter), "a row begins anew")
      T.eq({ s:size() }, { 6, 20 })
      T.eq(s:length(6), 7)
    end
  end)
end

for _, device in ipairs { "cpu", "fake" } do
  T.test("a session that samples and appends draws what generate draws, on " .. device, function()
    local model = small.adapter(small.model { device = device })
    for _, o in ipairs { { temperature = .7, key = 3 }, { temperature = 0 }, { temperature = 1, top_k = 5, top_p = .9, key = 8, vocab_size = 20 } } do
      o.max_new_tokens = 12
      local g, logp = model:generate(PROMPTS, o)
      local s <close> = model:session { rows = #PROMPTS }
      local tokens, scores, want = {}, {}, logp:totable()
      s:append(PROMPTS)
      for step = 0, 11 do
        local ids, lp = s:sample { temperature = o.temperature, top_k = o.top_k, top_p = o.top_p, key = o.key, step = step,
          vocab_size = o.vocab_size }
        local more = {}
        for i, id in ipairs(ids) do
          tokens[i] = tokens[i] or {}
          tokens[i][step + 1], more[i] = id, { id }
          scores[(i - 1) * 12 + step + 1] = lp[i]
        end
        s:append(more)
      end
      T.eq(tokens, g.tokens)
      T.eq(scores, want)
    end
  end)
end

T.test("logits are those of the head, and a key draws by the length of a row", function()
  local model = small.model()
  local s <close> = model:session { rows = 2 }
  s:append { { 1, 5, 9 }, { 2, 4 } }
  local states = tensor.new(fresh(model, { { 1, 5, 9 }, { 2, 4 } }))
  T.eq(s:logits():totable(), nn.linear(states, model:head()):totable())
  T.eq(s:logits({ 2 }):totable(), { s:logits():totable()[2] })
  local ids = s:sample { key = 4 }
  T.eq(ids[1], (s:sample { key = 4, step = 3, rows = { 1 } })[1])
  T.eq(ids[2], (s:sample { key = 4, step = 2, rows = { 2 } })[1])
  T.eq(s:sample { key = 4 }, ids, "nothing was appended")
end)

T.test("weights that change make a session stale, until it is empty", function()
  local model = small.adapter(small.model())
  local s <close> = model:session()
  s:append { { 1, 2 } }
  local b = transformer.parameters(model, true)[2]
  tensor.no_grad(b.copy_, b, tensor.ones(b.shape))
  local text = "session: weights or adapters of the model changed since its tokens were read; open another session, or rewind"
  T.raises(text, s.append, s, { { 3 } })
  T.raises(text, s.logits, s)
  s:rewind(1, 0)
  s:append { { 1, 2 } }
  T.eq(s:hidden():totable(), fresh(model, { { 1, 2 } }))
  model:drop_lora()
  T.raises(text, s.append, s, { { 3 } })
end)

T.test("mistakes are named, and change nothing", function()
  local model = small.model()
  local s = model:session { rows = 2, max_tokens = 4 }
  s:append { { 1, 2 }, { 3 } }
  local before = s:hidden():totable()
  T.raises("session: row 1 holds 2 tokens and has no room for 3 more %(max_tokens = 4%)", s.append, s, { { 1, 2, 3 }, { 4 } })
  T.raises("session: row 3 is outside 1 .. 2", s.append, s, { { 1 } }, { 3 })
  T.raises("session: row 2 is named twice", s.append, s, { { 1 }, { 2 } }, { 2, 2 })
  T.raises("session: row 2 gets no tokens", s.append, s, { { 1 }, {} })
  T.raises("session: 1 lists of tokens for 2 rows", s.append, s, { { 1 } }, { 1, 2 })
  T.raises("session: entry 1 of rows is no row", s.append, s, { { 1 } }, { 0 })
  T.raises("index_select: index 29 %(entry 1%) is outside 0 .. 28", s.append, s, { { 29 } }, { 1 })
  T.raises("session: row 2 holds 1 tokens and cannot be rewound to 2", s.rewind, s, 2, 2)
  T.raises("session: row 0 is outside 1 .. 2", s.fork, s, 0, 1)
  T.raises("session: row 9 is outside 1 .. 2", s.tokens, s, 9)
  T.raises("session: no rows are named", s.logits, s, {})
  T.raises("generate: top_p = 0 is outside", s.sample, s, { top_p = 0 })
  T.raises("session: step = %-2 is outside 0", s.sample, s, { step = -2 })
  T.raises("unknown option 'row'", s.sample, s, { row = 1 })
  T.eq(s:hidden():totable(), before)
  T.eq(s:length(1), 2)
  T.raises("session: rows = 0 must be at least 1", model.session, model, { rows = 0 })
  T.raises("session: max_tokens = 41 is outside 1 .. 40, the model's context", model.session, model, { max_tokens = 41 })
  T.raises("session: max_tokens = 0 is outside", model.session, model, { max_tokens = 0 })
  local empty <close> = model:session()
  T.raises("session: row 1 holds no tokens; append some first", empty.logits, empty)
  model:release()
  T.raises("session: its model was released", s.append, s, { { 1 }, { 1 } })
  s:release()
  T.raises("mocl.session was released", s.length, s)
end)
