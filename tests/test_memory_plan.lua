-- the plan of a run's memory against what the run takes

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local plan = require "mocl.lm.memory_plan"
local stages = require "mocl.train.stages"
local transformer = require "mocl.lm.model"

local CONFIG = { vocab_size = 320, hidden_size = 64, num_hidden_layers = 3, num_attention_heads = 4, num_key_value_heads = 2,
  intermediate_size = 172, max_position_embeddings = 64 }

T.test("sums of a plan, counted by hand", function()
  local list, total = plan.of { config = { vocab_size = 10, hidden_size = 4, num_hidden_layers = 1, num_attention_heads = 2,
    intermediate_size = 6, tie_word_embeddings = true }, trained = 5, rank = 1, rows = 2, prompt = 3, answer = 2 }
  T.eq(list[1][2], 4 * (40 + 4 * 16 + 3 * 24 + 8 + 4))
  T.eq(list[2][2], 80)
  T.eq(list[3][2], 4 * 2 * 2 * 5 * 4)
  T.eq(list[4][2], 4 * (10 * (16 + 8 + 8 + 2 + 18 + 7 + 12) + 2 * 2 * 16))
  T.eq(list[5][2], 4 * 3 * 4 * 10)
  T.eq(total, list[1][2] + list[2][2] + list[4][2] + list[5][2])
  -- seven matrices of 136 numbers and 8 + 2 * 4 + 4 + 6 + 6 + 4 rows
  local function quantized(format)
    return plan.of { config = { vocab_size = 10, hidden_size = 4, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 6,
      tie_word_embeddings = true }, quantization = format, trained = 0, rows = 1, prompt = 1, answer = 1 }[1][2]
  end
  T.eq(quantized "int8", 4 * (40 + 8 + 4) + 4 * 16 + 3 * 24 + 4 * (4 + 2 * 4 + 4 + 6 + 6 + 4))
  T.eq(quantized "w8a8", quantized "int8")
  T.eq(quantized "nf4", 4 * (40 + 8 + 4) + 136 / 2 + 136 / 64 + 136 / 64 / 256 * 4 + 7 * 257 * 4)
  -- too many logits to wait for backward: 256 rows of each kind at a time
  list = plan.of { config = { vocab_size = 1e5, hidden_size = 4, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 6 },
    trained = 0, rows = 512, prompt = 1, answer = 1 }
  T.eq(list[5][2], 4 * 3 * 256 * 1e5)
  T.eq(plan.text({ { "weights", 3 << 20 }, { "cache", 5 << 29 } }, 7 << 29),
    "memory: about 3.5 GiB at most (weights 3.0 MiB, cache 2.5 GiB)")
end)

T.test("a plan that needs more than is free is refused with the plan; what is free is what Linux says", function()
  local list = { { "weights", 3 << 20 }, { "cache", 5 << 29 } }
  plan.refuse(list, 7 << 29, 7 << 29)
  plan.refuse(list, 7 << 29, nil)
  T.raises("^memory: about 3.5 GiB at most .*\nand only 3.0 GiB are free: lower ppo.batch_size", plan.refuse, list, 7 << 29, 6 << 29)
  local path = T.tmpdir() .. "/meminfo"
  assert(fs.write(path, "MemTotal:       24000000 kB\nMemFree:         1000000 kB\nMemAvailable:    3000000 kB\n"))
  T.eq(plan.available(path), 3000000 * 1024)
  assert(fs.write(path, "nothing\n"))
  T.eq({ plan.available(path) or "none", plan.available(path .. ".missing") or "none" }, { "none", "none" })
  local model <close> = transformer.new(CONFIG, { key = 1 })
  local ctx = { cfg = { device = "cpu", lora = { r = 8 }, ppo = { batch_size = 4, max_new_tokens = 8 } }, run = { quiet = true }, longest_prompt = 24 }
  stages.memory_plan(ctx, model)
  local available = plan.available
  plan.available = function() return 1000 end
  local ok, message = pcall(stages.memory_plan, ctx, model)
  plan.available = available
  T.ok(not ok and message:find "^memory: about .* MiB at most %(weights of the model" and message:find "MiB are free: lower", message)
end)

-- one iteration in a process of its own: peak bytes of the device
local ITERATION = [[
local lora, nn, ppo = require "mocl.lm.lora", require "mocl.nn.core", require "mocl.method.ppo"
local value_heads = require "mocl.train.value_heads"
local optim, tensor, transformer = require "mocl.optim.core", require "mocl.tensor", require "mocl.lm.model"
local json = require "mocl.json"
local model = transformer.new(json.decode %q, { key = 1, device = DEVICE, dtype = DTYPE, quantization = QUANTIZATION })
model:add_lora { r = 8, alpha = 8, key = 2 }
local heads = value_heads.new(2, 64, { key = 3, device = DEVICE })
local parameters = lora.parameters(model)
table.move(heads:parameters(), 1, 8, #parameters + 1, parameters)
local opt = optim.adamw(parameters, { lr = 1e-3 })
local prompts, trained = {}, 0
for _, p in ipairs(parameters) do trained = trained + p:numel() end
for i = 1, %d do
  prompts[i] = {}
  for t = 1, 24 do prompts[i][t] = (i * 7 + t) %% 300 end
end
for step = 1, 2 do
  local scope <close> = tensor.scope()
  local g, old = model:generate(prompts, { max_new_tokens = 16, key = step })
  local batch = transformer.pack(prompts, g.tokens, { device = DEVICE })
  local function states(o) return nn.rows(model:forward(batch, o), batch.rows) end
  local reference = tensor.no_grad(states, { adapter = false })
  local hidden = states()
  local logp, entropy, kl = nn.lm_head(hidden, model:head(), batch.targets, { hidden_ref = reference })
  local loss = ppo.clip(logp, old, old * 0 + 1, .2):mean() + kl:mean() + heads:forward(hidden):square():mean()
  opt:zero_grad()
  loss:backward()
  opt:step { max_grad_norm = 1 }
end
print(trained, tensor.memory().peak)
]]

local function compare(rows, device, dtype, prefix, quantization)
  local source = ("DEVICE, DTYPE, QUANTIZATION = %q, %q, %s\n"):format(device, dtype, quantization and "'" .. quantization .. "'") .. ITERATION:format(require "mocl.json".encode(CONFIG), rows)
  local out, err = child.lua(source, prefix)
  local trained, peak = out:match("^(%d+)\t(%d+)")
  T.ok(trained, err)
  local _, total = plan.of { config = CONFIG, dtype = dtype, quantization = quantization, trained = tonumber(trained), rank = 8, rows = rows, prompt = 24,
    answer = 16 }
  -- blocks are rounded up to a class, by a fifth at most, and backward has a few buffers more
  T.ok(peak / total > .75 and peak / total < 1.3, ("%d rows in %s: planned %.0f, taken %d"):format(rows, quantization or dtype, total, peak))
end

T.test("the plan and the peak of an iteration agree", function()
  for _, rows in ipairs { 2, 16, 64 } do
    compare(rows, "cpu", "f32")
  end
end)

T.test("the plan and the peak of an iteration agree on a quantised base", function()
  for _, format in ipairs { "int8", "nf4" } do
    compare(2, "cpu", "f32", nil, format)
    compare(16, "cpu", "f32", nil, format)
  end
end)

T.test("the weights of quantised models are as large as the plan has them", function()
  local transformer = require "mocl.lm.model"
  local config = { vocab_size = 64, hidden_size = 256, num_hidden_layers = 2, num_attention_heads = 4, num_key_value_heads = 2,
    intermediate_size = 640 }
  for _, format in ipairs { "int8", "nf4" } do
    local model, bytes = transformer.new(config, { quantization = format }), 0
    for _, p in ipairs(transformer.parameters(model)) do
      bytes = bytes + p:numel() * (p.dtype == "f32" and 4 or 1)
    end
    local planned = plan.of { config = model:config(), quantization = model:quantization(), trained = 0, rows = 1, prompt = 1, answer = 1 }[1][2]
    T.near(planned / bytes, 1, 1e-3, format)
  end
end)

T.test("the plan and the peak agree in bf16 on the cpu", function()
  compare(2, "cpu", "bf16")
  compare(16, "cpu", "bf16")
end)

T.test("the plan and the peak agree in bf16", function()
  compare(16, "cuda", "bf16", "env MOCL_CUDA=" .. child.quote(T.emulator()))
end)
