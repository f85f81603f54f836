-- activations of some answers, or of one block, at a time: the same bytes, and less memory

local T = require "t"
local child = require "child"
local lm_actor = require "mocl.train.lm_actor"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local plan = require "mocl.lm.memory_plan"
local ppo = require "mocl.method.ppo"
local tensor = require "mocl.tensor"
local trainer = require "mocl.train.trainer"
local transformer = require "mocl.lm.model"
local value_heads = require "mocl.train.value_heads"

local CONFIG = { vocab_size = 300, hidden_size = 40, num_hidden_layers = 3, num_attention_heads = 4, num_key_value_heads = 2,
  intermediate_size = 76, max_position_embeddings = 160 }

-- prompts and answers of uneven lengths, 703 tokens of 11 answers: parts end anywhere in the blocks of 256 rows
local function texts()
  local prompts, answers = {}, {}
  for i = 1, 11 do
    prompts[i], answers[i] = {}, {}
    for t = 1, 11 + (i * 37) % 61 do
      prompts[i][t] = (i * 7 + t * t) % 300
    end
    for t = 1, 1 + (i * 53) % 40 do
      answers[i][t] = (i * 11 + t * t * t) % 300
    end
  end
  return prompts, answers
end

local function bits(list)
  local out = {}
  for i, t in ipairs(list) do
    out[i] = ("f"):rep(t:numel()):pack(table.unpack(t:flatten():totable()))
  end
  return table.concat(out)
end

-- an adapter whose B is not 0, on the last `layers` blocks
local function policy_model(layers)
  local model = transformer.new(CONFIG, { key = 1 })
  model:add_lora { r = 4, alpha = 6, key = 2, layers_to_transform = lora.last_layers(model, layers) }
  for i, p in ipairs(lora.parameters(model)) do
    tensor.no_grad(p.add_, p, tensor.randn(p.shape, { key = i, std = .1 }))
  end
  return model
end

-- Two iterations of two epochs with value heads: the bytes of gradients, weights and moments, and the metrics as text.
local function train(layers, o)
  local scope <close> = tensor.scope()
  local model = policy_model(layers)
  local heads = value_heads.new(2, CONFIG.hidden_size, { key = 3 })
  local actor = lm_actor.new { policy = { model = model, temperature = .8 }, heads = heads, microbatch = o.microbatch,
    gradient_checkpointing = o.gradient_checkpointing }
  local t <close> = trainer.new { actor = actor, seed = 0, total = 2, options = { ppo_epochs = 2, lr = .01, warmup = 0 } }
  local seen, prompts, answers = {}, texts()
  for _ in t:iterations() do
    local batch = transformer.pack(prompts, answers)
    local adv = t:advantages(batch, tensor.randn({ batch.response_total, 2 }, { key = 5 }))
    local G = o.gram and t:gram_of(batch) { adv:sum(2), adv:narrow(2, 1, 1):flatten() }
    local m = t:update(batch, function(e)
      local surrogate = ppo.clip(e.logp, batch.old, adv:sum(2) * (e.ratio and e.ratio:mean() or 1), .2)
      return surrogate:mean() + e.value_error + e.kl:mean() * .2 - e.entropy * .01, { ["ppo/loss/policy"] = surrogate:mean() }
    end)
    local grads = {}
    for i, pair in ipairs(actor:named_parameters()) do
      grads[i] = pair[2].grad
    end
    seen[#seen + 1] = bits(grads)
    for _, key in ipairs { "ppo/grad_norm", "objective/kl", "ppo/loss/value", "ppo/loss/policy", "objective/entropy" } do
      seen[#seen + 1] = ("%s %.17g"):format(key, m[key])
    end
    seen[#seen + 1] = G and ("%.17g %.17g"):format(G[1][2], G[2][2]) or ""
    for _, which in ipairs { "first", "second" } do
      seen[#seen + 1] = bits(t.optimizer:state()[which])
    end
  end
  local weights = {}
  for i, pair in ipairs(actor:named_parameters()) do
    weights[i] = pair[2]
  end
  seen[#seen + 1] = bits(weights)
  return seen
end

T.test("weights, gradients, moments and metrics have the same bytes for every microbatch", function()
  for _, layers in ipairs { 0, 2 } do
    local all = train(layers, {})
    for _, o in ipairs { { microbatch = 1 }, { microbatch = 2 }, { microbatch = 3 }, { microbatch = 11 }, { microbatch = 50 },
      { gradient_checkpointing = true }, { microbatch = 4, gradient_checkpointing = true } } do
      local parts = train(layers, o)
      for i, text in ipairs(all) do
        T.ok(parts[i] == text, ("microbatch=%s gradient_checkpointing=%s layers=%d: what is seen %d. differs"):format(o.microbatch,
          o.gradient_checkpointing, layers, i))
      end
    end
  end
end)

T.test("gradients of several advantages in parts, before the first epoch", function()
  local all, parts = train(0, { gram = true }), train(0, { gram = true, microbatch = 3, gradient_checkpointing = true })
  T.eq(parts, all)
end)

-- Gradients of the adapter where sequences come in pieces: sum of hidden * seed over all of them.
local GRADIENTS = [[
local lora, tensor, transformer = require "mocl.lm.lora", require "mocl.tensor", require "mocl.lm.model"
local model = transformer.new({ vocab_size = 64, hidden_size = 20, num_hidden_layers = 1, num_attention_heads = 2, num_key_value_heads = 1,
  intermediate_size = 36, max_position_embeddings = 200 }, { key = 1, device = DEVICE })
model:add_lora { r = 3, alpha = 5, key = 2 }
for i, p in ipairs(lora.parameters(model)) do
  tensor.no_grad(p.add_, p, tensor.randn(p.shape, { key = i, std = .1, device = DEVICE }))
end
local sequences, total = {}, 0
for i, n in ipairs { 100, 156, 1, 150, 106, 33, 190, 66, 60 } do -- two ends lie on those of blocks of rows
  sequences[i] = {}
  for t = 1, n do sequences[i][t] = (i * 7 + t * t) % 64 end
  total = total + n
end
local seed = tensor.randn({ total, 20 }, { key = 9, device = DEVICE })
local function gradients(size)
  local at, out = 1, {}
  for first = 1, #sequences, size do
    local last = math.min(#sequences, first + size - 1)
    local h = model:forward(transformer.batch(table.move(sequences, first, last, 1, {}), { device = DEVICE }))
    local n = #h
    h:backward(seed:narrow(1, at, n):contiguous(), size < #sequences and { more_rows = last < #sequences } or nil)
    at = at + n
  end
  for i, p in ipairs(lora.parameters(model)) do
    local x = p.grad:to { device = "cpu" }
    out[i] = ("f"):rep(x:numel()):pack(table.unpack(x:flatten():totable()))
    p:zero_grad()
  end
  return table.concat(out)
end
local all = gradients(#sequences)
for size = 1, #sequences - 1 do
  if gradients(size) ~= all then print("pieces of " .. size) end
end
print "done"
]]

local function pieces(device, prefix)
  local out, err = child.lua(("local DEVICE = %q\n"):format(device) .. GRADIENTS, prefix)
  T.eq(out, "done\n", err)
end

T.test("gradients over rows that come in pieces have the bits of one pass, on every instruction set", function()
  for _, isa in ipairs { "base", "avx2", "avx512" } do
    pieces("cpu", "env MOCL_ISA=" .. isa)
  end
  pieces "fake"
end)

T.test("gradients over rows that come in pieces have the bits of one pass on cuda", function()
  pieces("cuda", "env MOCL_CUDA=" .. child.quote(T.emulator()))
end)

T.test("an open sum goes with the gradient, and an adapter in pieces is close to what is computed by hand", function()
  local model = policy_model(0)
  local a = lora.parameters(model)[1]
  local batch = transformer.batch { { 1, 2, 3 }, { 4, 5 } }
  model:forward(batch):sum():backward { more_rows = true }
  T.eq(a.grad, nil)
  a:zero_grad()
  model:forward(batch):sum():backward()
  local one = a.grad:totable()
  for _, p in ipairs(lora.parameters(model)) do
    p:zero_grad()
  end
  model:forward(batch):sum():backward { more_rows = true }
  model:forward(batch):sum():backward() -- the same rows twice: twice the gradient
  T.near(a.grad:totable()[1][1], 2 * one[1][1], 1e-4)
end)

-- Peak bytes above those before the update, counted by the device, of one update in a process of its own.
local PEAK = [[
local lm_actor, ppo, tensor = require "mocl.train.lm_actor", require "mocl.method.ppo", require "mocl.tensor"
local trainer, transformer = require "mocl.train.trainer", require "mocl.lm.model"
local value_heads = require "mocl.train.value_heads"
local model = transformer.new(require("mocl.json").decode %q, { key = 1 })
model:add_lora { r = 8, alpha = 8, key = 2 }
local prompts, answers = {}, {}
for i = 1, ROWS do
  prompts[i], answers[i] = {}, {}
  for t = 1, 24 do prompts[i][t] = (i * 7 + t) %% 300 end
  for t = 1, 16 do answers[i][t] = (i * 5 + t * t) %% 300 end
end
local actor = lm_actor.new { policy = { model = model, temperature = 1 }, heads = value_heads.new(2, 64, { key = 3 }),
  microbatch = MICROBATCH, gradient_checkpointing = CHECKPOINTING }
local t = trainer.new { actor = actor, seed = 0, total = 2, options = { ppo_epochs = 2 } }
local trained = 0
for _, pair in ipairs(actor:named_parameters()) do trained = trained + pair[2]:numel() end
for _ in t:iterations() do
  local batch = transformer.pack(prompts, answers)
  local adv = t:advantages(batch, tensor.ones { batch.response_total, 2 }):sum(2)
  t:update(batch, function(e)
    local s = ppo.clip(e.logp, batch.old, adv, .2):mean()
    return s + e.value_error + e.kl:mean(), { ["ppo/loss/policy"] = s }
  end)
end
print(trained, tensor.memory().peak)
]]

local DEEP = { vocab_size = 320, hidden_size = 64, num_hidden_layers = 6, num_attention_heads = 4, num_key_value_heads = 2,
  intermediate_size = 172, max_position_embeddings = 64 }

local function peak(config, rows, microbatch, checkpointing)
  local out, err = child.lua(("local ROWS, MICROBATCH, CHECKPOINTING = %d, %d, %s\n"):format(rows, microbatch, checkpointing)
    .. PEAK:format(require "mocl.json".encode(config)))
  local trained, bytes = out:match "^(%d+)\t(%d+)"
  T.ok(trained, err)
  local _, planned = plan.of { config = config, trained = tonumber(trained), rank = 8, rows = rows, prompt = 24, answer = 16,
    microbatch = microbatch, gradient_checkpointing = checkpointing }
  T.ok(bytes / planned > .7 and bytes / planned < 1.35, ("microbatch %d, checkpointing %s: planned %.0f, taken %d"):format(microbatch,
    checkpointing, planned, bytes))
  return tonumber(bytes)
end

T.test("memory is a choice: the peak that the device counts, and the plan's", function()
  local all = peak(DEEP, 48, 0, false)
  local eight, one = peak(DEEP, 48, 8, false), peak(DEEP, 48, 1, false)
  local blocks, both = peak(DEEP, 48, 0, true), peak(DEEP, 48, 8, true)
  T.ok(eight < .4 * all and one < .3 * all and one < eight, ("all %d, eight %d, one %d"):format(all, eight, one))
  T.ok(blocks < .5 * all and both < .8 * blocks, ("all %d, by blocks %d, and by eight %d"):format(all, blocks, both))
end)

T.test("no logits wait for backward where the batch comes in parts", function()
  local wide = setmetatable({ vocab_size = 20000, num_hidden_layers = 1 }, { __index = DEEP })
  local config = {}
  for key in pairs(DEEP) do
    config[key] = wide[key]
  end
  -- 640 rows of the policy and of the reference, 49 MiB each, against chunks of 256
  local kept, chunks = peak(config, 40, 0, false), peak(config, 40, 8, false)
  T.ok(kept - chunks > 2 * 384 * 20000 * 4 * .8, ("%d with them, %d without"):format(kept, chunks))
  local h, w, ids = tensor.randn({ 300, 8 }, { key = 1 }), tensor.randn({ 500, 8 }, { key = 2 }), {}
  for i = 1, 300 do
    ids[i] = i
  end
  local function bytes(o)
    h:zero_grad()
    h:requires_grad_()
    local scope <close> = tensor.scope()
    local before = tensor.memory().live
    o.reference = nn.lm_reference(h:detach() * 2, w, ids, { keep_logits = o.keep_logits })
    local logp, _, kl = nn.lm_head(h, w, ids, o)
    local live = tensor.memory().live - before
    ;(logp:sum() + kl:sum()):backward()
    return live, bits { h.grad, logp, kl }
  end
  local many, all = bytes {}
  local few, same = bytes { keep_logits = false }
  T.eq(same, all)
  T.ok(many - few > 2 * 300 * 500 * 4 * .9, ("%d bytes live with the logits, %d without"):format(many, few))
end)

T.test("what microbatch is not", function()
  local model = policy_model(0)
  for _, bad in ipairs { -1, 1.5, "2" } do
    T.raises("lm_actor.new: microbatch is a number of answers from 0, got " .. tostring(bad):gsub("%p", "%%%0"), lm_actor.new,
      { policy = { model = model }, microbatch = bad })
  end
  T.raises("ppo.microbatch=4: in bf16 the sums over tokens would be others; ppo.gradient_checkpointing=true saves memory there",
    lm_actor.check, "bf16", 4)
end)
