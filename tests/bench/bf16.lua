--- bf16.lua [rounds=5] [threads=2] [rows=16] [tokens=8] - a model of SmolLM2-135M's sizes with random weights on the cpu, in f32 and in
-- bf16: seconds of a LoRA update (rank 16 on all linear layers, `rows` answers of 112 tokens with their prompts) and of a token of
-- generation at batches of 1, 16 and 64. Both take turns; medians of the processor's time and of the clock's. The table of
-- docs/benchmarks/bf16.md.

local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim.core"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local o = { rounds = 5, threads = 2, rows = 16, tokens = 8 }
for _, word in ipairs(arg) do
  local name, value = word:match "^(%w+)=(%d+)$"
  if not o[name] then
    io.stderr:write("bf16.lua: unknown argument " .. word .. "\n")
    os.exit(2)
  end
  o[name] = math.tointeger(value)
end
sys.set_threads(o.threads)

local CONFIG = { vocab_size = 49152, hidden_size = 576, num_hidden_layers = 30, num_attention_heads = 9, num_key_value_heads = 3,
  intermediate_size = 1536, max_position_embeddings = 512, tie_word_embeddings = true }

local function tokens_of(n, salt)
  local list = {}
  for i = 1, n do
    list[i] = (i * 7919 + salt * 104729) % CONFIG.vocab_size
  end
  return list
end

local sides = {}
for _, dtype in ipairs { "f32", "bf16" } do
  local model = transformer.new(CONFIG, { dtype = dtype, key = 1 })
  model:add_lora { r = 16, alpha = 32, key = 2 }
  sides[#sides + 1] = { dtype = dtype, model = model, opt = optim.adamw(lora.parameters(model), { lr = 1e-4 }), seconds = {} }
end

local prompts, answers = {}, {}
for i = 1, o.rows do
  prompts[i], answers[i] = tokens_of(56, i), tokens_of(56, i + 1000)
end

local function update(side)
  local scope <close> = tensor.scope()
  local loss = lm.loss(side.model, prompts, answers, { train = true, key = 1 })
  side.opt:zero_grad()
  loss:backward()
  side.opt:step()
  return loss:item()
end

local function generate(side, rows, n)
  local list = {}
  for i = 1, rows do
    list[i] = tokens_of(4, i)
  end
  side.model:generate(list, { max_new_tokens = n, temperature = 0 })
end

-- processor, clock
local function timed(f, ...)
  local cpu, clock = os.clock(), sys.now()
  f(...)
  return { os.clock() - cpu, sys.now() - clock }
end

local function token(side, rows) -- what a call takes before its steps is in both
  local few, all = timed(generate, side, rows, 2), timed(generate, side, rows, 2 + o.tokens)
  return { (all[1] - few[1]) / o.tokens, (all[2] - few[2]) / o.tokens }
end

local ROWS = { { "LoRA update", function(side)
  return timed(update, side)
end } }
for _, rows in ipairs { 1, 16, 64 } do
  ROWS[#ROWS + 1] = { ("a step of generation, batch %d"):format(rows), function(side)
    return token(side, rows)
  end }
end

local function median(list, which)
  local v = {}
  for i, pair in ipairs(list) do
    v[i] = pair[which]
  end
  table.sort(v)
  return v[(#v + 1) // 2]
end

print(sys.env().cpu .. ", " .. o.threads .. " threads; bf16: " .. sys.env().bf16)
print "| | f32: processor, s | clock, s | bf16: processor, s | clock, s | times as fast, processor | clock |\n|---|---|---|---|---|---|---|"
for _, row in ipairs(ROWS) do
  for round = 0, o.rounds do -- the first is not counted
    for _, side in ipairs(sides) do
      local pair = row[2](side)
      side.seconds[row[1]] = side.seconds[row[1]] or {}
      if round > 0 then
        table.insert(side.seconds[row[1]], pair)
      end
    end
  end
  local t = {}
  for i, side in ipairs(sides) do
    t[i] = { median(side.seconds[row[1]], 1), median(side.seconds[row[1]], 2) }
  end
  print(("| %s | %.4f | %.4f | %.4f | %.4f | %.2f | %.2f |"):format(row[1], t[1][1], t[1][2], t[2][1], t[2][2], t[1][1] / t[2][1],
    t[1][2] / t[2][2]))
  io.stdout:flush()
end
