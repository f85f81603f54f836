--- quantised.lua DIR FORMAT THREADS TOKENS - a side of quantised.py: loads the model of DIR in a format (f32, int8, w8a8, nf4), and for each line
-- that it reads generates after a prompt of 8 tokens and prints seconds for each of TOKENS tokens, of the processor and of the clock.
-- FORMAT gguf: writes DIR/q8_0.gguf, and ends.

local sys = require "mocl.sys"
local transformer = require "mocl.lm.model"

local dir, format, threads, tokens = arg[1], arg[2], math.tointeger(arg[3]), math.tointeger(arg[4])
if format == "gguf" then
  assert(transformer.save_gguf(assert(transformer.load(dir)), dir .. "/q8_0.gguf", { type = "Q8_0" }))
  return
end
sys.set_threads(threads)
local model = assert(transformer.load(dir, { quantization = format ~= "f32" and format or nil }))
local prompt, vocab = {}, model:config().vocab_size
for i = 1, 8 do
  prompt[i] = i * 100 % vocab
end

-- seconds of a call that generates n tokens
local function seconds(n)
  local cpu, clock = os.clock(), sys.now()
  model:generate({ prompt }, { max_new_tokens = n, temperature = 0 })
  return os.clock() - cpu, sys.now() - clock
end

seconds(2)
print(("ready %d"):format(sys.rss_bytes()))
io.stdout:flush()
for _ in io.lines() do
  -- what a call takes before its tokens, the prompt and copies of weights, is in both
  local cpu, clock = seconds(2)
  local cpu_all, clock_all = seconds(2 + tokens)
  print(("%.6f %.6f"):format((cpu_all - cpu) / tokens, (clock_all - clock) / tokens))
  io.stdout:flush()
end
