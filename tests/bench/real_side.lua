--- real_side.lua WHAT DIR FORMAT THREADS [BATCH] - mocl's side of a row of real.lua: loads the model of DIR and answers each line `run n` with
-- a line of JSON: seconds of the clock and of the processor for n units, and the most bytes that the process has held above those before
-- the first run. WHAT: update (a step on LoRA r 16 of all linear layers, 16 x 112 tokens), decode (a token of each of BATCH rows) or prompt
-- (512 tokens). FORMAT: f32, bf16 or int8. WHAT files: writes the adapter and the GGUF files that the peers read, and ends.

local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim"
local rng = require "mocl.rng"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local what, dir, format, threads, rows = arg[1], arg[2], arg[3], math.tointeger(arg[4] or 1), math.tointeger(arg[5] or 1)
sys.set_threads(threads)

-- ids that real_peer.py makes in the same way
local function ids(row, n, vocab)
  local list = {}
  for i = 1, n do
    list[i] = (row * 977 + i * i * 31 + 7) % vocab
  end
  return list
end

local function load_model()
  return assert(transformer.load(dir, { dtype = format == "bf16" and "bf16" or "f32", quantization = format == "int8" and "int8" or nil }))
end

local function with_adapter(model)
  model:add_lora { r = 16, alpha = 32, key = rng.key(0, "lora") }
  return model
end

if what == "files" then
  local model = assert(transformer.load(dir))
  for _, type in ipairs { "F32", "F16", "Q8_0" } do
    assert(transformer.save_gguf(model, ("%s/%s.gguf"):format(dir, type), { type = type }))
  end
  assert(lora.save(with_adapter(model), dir .. "/adapter", { base_model_name_or_path = dir }))
  return
end

local model = load_model()
local vocab = model:config().vocab_size
local run, check

if what == "update" then
  local prompts, answers = {}, {}
  for i = 1, 16 do
    prompts[i], answers[i] = ids(i, 64, vocab), ids(100 + i, 48, vocab)
  end
  assert(lora.load(with_adapter(model), dir .. "/adapter"))
  local opt = optim.adamw(model:named_parameters(true), { lr = 1e-4 })
  function run(n)
    local loss
    for _ = 1, n do
      local scope <close> = tensor.scope()
      local x = lm.loss(model, prompts, answers)
      opt:zero_grad()
      x:backward()
      opt:step {}
      loss = x:item()
    end
    return loss
  end
elseif what == "decode" then
  local prompts = {}
  for i = 1, rows do
    prompts[i] = ids(i, 8, vocab)
  end
  local function tokens(n)
    local clock, cpu = sys.now(), os.clock()
    local g = model:generate(prompts, { max_new_tokens = n, temperature = 0 })
    return sys.now() - clock, os.clock() - cpu, g
  end
  -- what a call takes before its tokens, the prompt and copies of weights, is in both
  function run(n)
    local clock, cpu = tokens(2)
    local clock_all, cpu_all, g = tokens(2 + n)
    return { seconds = clock_all - clock, cpu = cpu_all - cpu, check = g.tokens[1][1] }
  end
else
  local prompt = ids(1, 512, vocab)
  function run(n)
    local g
    for _ = 1, n do
      g = model:generate({ prompt }, { max_new_tokens = 1, temperature = 0 })
    end
    return g.tokens[1][1]
  end
end

local function highest() -- bytes that the process has held at the most
  local f = assert(io.open "/proc/self/status")
  local kib = f:read("a"):match "VmHWM:%s*(%d+)"
  f:close()
  return tonumber(kib) * 1024
end

local before = sys.rss_bytes()
print(json.encode { ready = true })
io.stdout:flush()
for line in io.lines() do
  if line == "quit" then
    break
  end
  local n = math.tointeger(tonumber(line:match "^run (%d+)"))
  local clock, cpu = sys.now(), os.clock()
  local answer = run(n)
  if type(answer) ~= "table" then
    answer = { seconds = sys.now() - clock, cpu = os.clock() - cpu, check = answer }
  end
  answer.bytes = math.max(0, highest() - before)
  print(json.encode(answer))
  io.stdout:flush()
end
