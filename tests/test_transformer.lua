-- the decoder: values and gradients against transformers' Llama, ragged batches, files

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local nn = require "mocl.nn.core"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1
-- hidden states of size 3, sums of up to 40 products over two blocks; the fixture has 9 digits
local VALUE = is_double and 1e-8 or 1e-5
local GRADIENT = is_double and 1e-8 or 2e-5

local function split(case)
  local prompts, responses = {}, {}
  for i, ids in ipairs(case.tokens) do
    prompts[i] = table.move(ids, 1, case.prompt[i], 1, {})
    responses[i] = table.move(ids, case.prompt[i] + 1, #ids, 1, {})
  end
  return prompts, responses
end

for _, case in ipairs(small.cases()) do
  for _, device in ipairs(T.devices) do
    T.test(("%s on %s: as transformers' Llama"):format(case.name, device), function()
      local model = small.fixture_model(case, device)
      local prompts, responses = split(case)
      local hidden = model:forward(transformer.batch(case.tokens, { device = device }))
      T.near(small.flat(hidden), case.hidden, VALUE, "hidden")

      local batch = transformer.pack(prompts, responses, { device = device })
      local states = nn.rows(model:forward(batch), batch.rows)
      T.near(small.flat((nn.lm_head(states, model:head(), batch.targets))), case.logp, VALUE, "logp")
      T.near(small.flat((nn.lm_head(states, model:head(), batch.targets, { temperature = .7 }))), case.logp_07, VALUE, "at .7")

      transformer.train_base(model)
      local loss, n = lm.loss(model, prompts, responses)
      T.eq(n, #case.logp)
      T.near(loss:item(), case.loss, VALUE)
      loss:backward()
      local count = 0
      for _, pair in ipairs(model:named_parameters()) do
        T.ok(case.grads[pair[1]], pair[1])
        T.near(small.flat(pair[2].grad), case.grads[pair[1]], GRADIENT, pair[1])
        count = count + 1
      end
      for _ in pairs(case.grads) do
        count = count - 1
      end
      T.eq(count, 0, "parameters that one side lacks")
    end)
  end
end

T.test("the gradient of the loss is its slope", function()
  -- one number of each parameter, central differences; f32 loses 1e-7 / (2 h) of the slope
  local model = small.model()
  local h, tol = is_double and 1e-5 or 1e-2, is_double and 1e-8 or 3e-3
  local prompts, responses = { { 1, 4 }, { 1 } }, { { 8, 8, 3, 28 }, { 0, 20, 5 } }
  transformer.train_base(model)
  lm.loss(model, prompts, responses):backward()
  for i, pair in ipairs(model:named_parameters()) do
    local flat, at = pair[2]:detach():flatten(), i * 7 % pair[2]:numel() + 1
    local want = pair[2].grad:flatten()[at]:item()
    local cell, was = flat:narrow(1, at, 1), flat[at]:item()
    local function loss_at(x)
      cell:fill_(x)
      return tensor.no_grad(lm.loss, model, prompts, responses):item()
    end
    local up, down = loss_at(was + h), loss_at(was - h)
    cell:fill_(was)
    T.near((up - down) / (2 * h), want, tol, pair[1])
  end
end)

T.test("a ragged batch gives what each sequence gives alone, to the bit", function()
  local model = small.model()
  local rows = { { 1, 5, 9 }, { 2 }, { 7, 7, 7, 0, 28, 3, 14, 9, 22, 4, 1 }, { 3, 3 } }
  local got, want = model:forward(transformer.batch(rows)):totable(), {}
  for _, row in ipairs(rows) do
    for _, state in ipairs(model:forward(transformer.batch { row }):totable()) do
      want[#want + 1] = state
    end
  end
  T.eq(got, want)
end)

T.test("later tokens and other rows do not change a state", function()
  local model = small.model()
  local a = model:forward(transformer.batch { { 4, 9, 2, 6 }, { 1, 2 } }):totable()
  local b = model:forward(transformer.batch { { 4, 9, 2, 13 }, { 8, 8, 8 } }):totable()
  T.eq({ a[1], a[2], a[3] }, { b[1], b[2], b[3] })
  T.ok(a[4][1] ~= b[4][1], "the changed token's own state")
end)

-- what states() gives and the gradients of the sum of its squares
local function with_gradients(parameters, states)
  for _, p in ipairs(parameters) do
    p:zero_grad()
  end
  local h = states()
  h:square():sum():backward()
  local grads = {}
  for i, p in ipairs(parameters) do
    grads[i] = p.grad and p.grad:flatten():totable() or {}
  end
  return h:totable(), grads
end

T.test("a pass in two parts: the same bits, the same gradients, and none in front of a stream that has no history", function()
  local model = small.model()
  model:add_lora { r = 2, alpha = 4, key = 5 }
  local batch = transformer.pack({ { 4, 9, 2 }, { 1 }, { 6, 6 } }, { { 6, 3 }, {}, { 5, 1, 2 } })
  local parameters = transformer.train_base(model)
  for _, p in ipairs(transformer.parameters(model, true)) do
    tensor.no_grad(function() p:copy_(p + .1) end)
    parameters[#parameters + 1] = p
  end
  local layers = model:config().num_hidden_layers
  T.ok(layers > 1)
  for _, adapter in ipairs { true, false } do
    local want, want_grads = with_gradients(parameters, function() return model:forward(batch, { adapter = adapter, rows = batch.rows }) end)
    for k = 0, layers - 1 do
      local got, got_grads = with_gradients(parameters, function()
        local stem = model:forward(batch, { adapter = adapter, stop = k })
        T.eq(stem.shape, { batch.tokens.shape[1], model:config().hidden_size })
        return model:forward(batch, { adapter = adapter, rows = batch.rows, hidden = stem, start = k })
      end)
      T.eq(got, want)
      T.eq(got_grads, want_grads)
    end
  end
  local stem = tensor.no_grad(model.forward, model, batch, { stop = 1 })
  with_gradients(parameters, function() return model:forward(batch, { hidden = stem, start = 1 }) end)
  for _, pair in ipairs(model:named_parameters()) do
    local block = tonumber(pair[1]:match "layers%.(%d+)")
    T.eq(pair[2].grad ~= nil, block ~= 0 and pair[1]:find("norm.weight", 1, true) ~= nil or (block or 0) > 0, pair[1])
  end
  local half = model:forward(batch, { stop = 1 })
  for _, adapter in ipairs { true, false } do -- products that one pass has left are taken by the others, with any adapter
    local options = function(products) return { adapter = adapter, rows = batch.rows, hidden = stem, start = 1, products = products } end
    local want, want_grads = with_gradients(parameters, function() return model:forward(batch, options(nil)) end)
    local products = {}
    for i, first in ipairs { false, true } do
      if i == 2 then
        products = {}
      end
      model:forward(batch, { adapter = first, hidden = stem, start = 1, products = products })
      T.ok(products.q_proj and products.k_proj and products.v_proj and not products.q_proj.requires_grad)
      local got, got_grads = with_gradients(parameters, function() return model:forward(batch, options(products)) end)
      T.eq(got, want)
      T.eq(got_grads, want_grads)
    end
    local zero = { q_proj = products.q_proj, k_proj = products.k_proj, v_proj = tensor.zeros(products.v_proj.shape) }
    T.ok((model:forward(batch, options(zero)) - model:forward(batch, options(nil))):abs():max():item() > 1e-3, "they are used")
    T.raises("the known product is f32", model.forward, model, batch, options { v_proj = tensor.zeros { 2, 2 } })
    T.raises("products: 'k_proj' is a number, not a tensor", model.forward, model, batch, options { k_proj = 3 })
    T.raises("option 'products' is a number, not a table", model.forward, model, batch, options(3))
    T.raises("products are those of the block at start", model.forward, model, batch, { adapter = adapter, products = {} })
  end
  T.eq(model:forward(batch, { hidden = half, start = 1, stop = layers }):totable(), model:forward(batch, { stop = layers }):totable())
  T.raises("stop = 9 is outside 0 ..", model.forward, model, batch, { stop = 9 })
  T.raises("stop = %-1 is outside 0 ..", model.forward, model, batch, { stop = -1 })
  T.raises("stop = 0 is outside 1 ..", model.forward, model, batch, { hidden = half, start = 1, stop = 0 })
  T.raises("start = " .. layers .. " is outside 0 ..", model.forward, model, batch, { hidden = half, start = layers })
  T.raises("hidden and start go together", model.forward, model, batch, { start = 1 })
  T.raises("hidden and start go together", model.forward, model, batch, { hidden = half })
  T.raises("option 'hidden' is a table, not a tensor", model.forward, model, batch, { hidden = { 1 }, start = 1 })
  T.raises("does not fit", model.forward, model, batch, { hidden = nn.rows(half, batch.rows), start = 1 })
  T.raises("rows are taken in the last block", model.forward, model, batch, { stop = 1, rows = batch.rows })
end)

T.test("states of some rows alone: the same bits, the same gradients", function()
  local model = small.model()
  model:add_lora { r = 2, alpha = 4, key = 5 }
  local batch = transformer.pack({ { 4, 9, 2 }, { 1 }, { 6, 6 } }, { { 6, 3 }, {}, { 5, 1, 2 } })
  local parameters = transformer.train_base(model)
  for _, p in ipairs(transformer.parameters(model, true)) do
    tensor.no_grad(function() p:copy_(p + .1) end)
    parameters[#parameters + 1] = p
  end
  for _, rows in ipairs { batch.rows, batch.token_rows, tensor.new({ 7 }, { dtype = "i32" }), tensor.new({ 3, 0, 3 }, { dtype = "i32" }) } do
    local got, got_grads = with_gradients(parameters, function() return model:forward(batch, { rows = rows }) end)
    local want, want_grads = with_gradients(parameters, function() return nn.rows(model:forward(batch), rows) end)
    T.eq(got, want)
    T.near(got_grads, want_grads, 1e-5)
  end
  local none = transformer.pack({ { 4, 9 }, { 1 } }, { {}, {} })
  T.eq(model:forward(none, { rows = none.rows }).shape, { 0, model:config().hidden_size })
  T.raises("option 'rows' is a table, not a tensor", model.forward, model, batch, { rows = { 1 } })
  T.raises("index 40", model.forward, model, batch, { rows = tensor.new({ 40 }, { dtype = "i32" }) })
end)

T.test("pack marks the states that predict and those of the answers' tokens", function()
  local batch = transformer.pack({ { 5, 6 }, { 7 } }, { { 1, 2 }, { 3 } })
  T.eq(batch.tokens:totable(), { 5, 6, 1, 2, 7, 3 })
  T.eq(batch.positions:totable(), { 0, 1, 2, 3, 0, 1 })
  T.eq(batch.offsets:totable(), { 0, 4, 6 })
  T.eq(batch.rows:totable(), { 1, 2, 4 })
  T.eq(batch.token_rows:totable(), { 2, 3, 5 })
  T.eq(batch.targets:totable(), { 1, 2, 3 })
  T.eq(batch.response_offsets:totable(), { 0, 2, 3 })
  T.eq({ batch.n, batch.total, batch.response_total }, { 2, 6, 3 })
end)

T.test("batches that are none", function()
  local model = small.model()
  T.raises("at least one sequence", transformer.batch, {})
  T.raises("entry 2 is not a list of token ids", transformer.batch, { { 1 }, 3 })
  T.raises("entry 2 of row 1 is no token id", transformer.batch, { { 1, "x" } })
  T.raises("entry 1 of row 2 is no token id", transformer.batch, { { 1 }, { -1 } })
  T.raises("entry 1 of row 1 is no token id", transformer.batch, { { 1.5 } })
  T.raises("1 rows, but 2 prompts", transformer.pack, { { 1 }, { 2 } }, { { 3 } })
  T.raises("prompt 2 is empty", transformer.pack, { { 1 }, {} }, { { 3 }, { 4 } })
  T.raises("29", model.forward, model, transformer.batch { { 1, 29 } }) -- the vocabulary ends at 28
  T.raises("not a batch: field 'tokens'", model.forward, model, {})
  T.raises("the batch is on fake, the model on cpu", model.forward, model, transformer.batch({ { 1 } }, { device = "fake" }))
  T.raises("unknown option 'adaptor' %(did you mean 'adapter'", model.forward, model, transformer.batch { { 1 } },
    { adaptor = true })
end)

T.test("configurations that cannot be", function()
  local function new(change)
    return small.model { config = change }
  end
  T.raises("hidden_size = 0 is outside", new, { hidden_size = 0 })
  T.raises("num_attention_heads 4 is no multiple of num_key_value_heads 3", new, { num_key_value_heads = 3 })
  T.raises("head_dim 3 must be even", new, { head_dim = 3 })
  T.raises("rms_norm_eps and rope_theta must be positive", new, { rms_norm_eps = 0 })
  T.raises("unknown option 'hiden_size' %(did you mean 'hidden_size'", new, { hiden_size = 4 })
  T.raises("bad option 'vocab_size' %(integer expected, got string%)", new, { vocab_size = "29" })
end)

T.test("same key, same weights; released models say so", function()
  local a, b, c = small.model(), small.model(), small.model { key = 6 }
  local function head(m)
    return m:head():totable()
  end
  T.eq(head(a), head(b))
  T.ok(head(a)[1][1] ~= head(c)[1][1])
  a:release()
  a:release()
  T.raises("was released", a.config, a)
end)

-- ---- files ----

local function saved()
  local dir = T.tmpdir() .. "/model"
  assert(transformer.save(small.model(), dir, { bos_token_id = 1, eos_token_id = 2 }))
  return dir
end

local function edit_config(dir, change)
  local path = fs.join(dir, "config.json")
  local config = assert(json.load(path))
  for k, v in pairs(change) do
    config[k] = v
  end
  assert(fs.write(path, json.encode(config)))
end

T.test("save and load give the same model", function()
  for _, tied in ipairs { true, false } do
    local dir = T.tmpdir() .. "/model"
    local model = small.model { config = { tie_word_embeddings = tied } }
    assert(transformer.save(model, dir, { bos_token_id = 1, eos_token_id = 2 }))
    local again, all = assert(transformer.load(dir))
    T.eq(again:config(), model:config())
    T.eq({ all.model_type, all.bos_token_id, all.eos_token_id, all.architectures }, { "llama", 1, 2, { "LlamaForCausalLM" } })
    local batch = transformer.batch { { 1, 2, 3 }, { 4, 5 } }
    T.eq(again:forward(batch):totable(), model:forward(batch):totable())
    T.eq(again:head():totable(), model:head():totable())
    local names = {}
    for name in pairs((assert(safetensors.load(dir .. "/model.safetensors")))) do
      names[name] = true
    end
    T.eq(names["lm_head.weight"], not tied or nil)
    local on_fake = assert(transformer.load(dir, { device = "fake" }))
    T.eq(on_fake:forward(transformer.batch({ { 1, 2, 3 }, { 4, 5 } }, { device = "fake" })):totable(),
      model:forward(batch):totable())
  end
end)

T.test("a clone has the weights and not the adapter", function()
  local model = small.adapter(small.model())
  local copy, batch = transformer.clone(model), transformer.batch { { 1, 2, 3 } }
  T.eq(copy:lora(), nil)
  T.eq(copy:forward(batch):totable(), model:forward(batch, { adapter = false }):totable())
  tensor.no_grad(function()
    copy:head():fill_(0)
  end)
  T.ok(model:head()[1][1]:item() ~= 0, "the original keeps its weights")
end)

T.test("weights in bf16 and in several files", function()
  local dir, model = T.tmpdir(), small.model()
  local parts, map, want = { {}, {} }, {}, {}
  for i, pair in ipairs(model:named_parameters()) do
    local half = pair[2]:detach():to("bf16")
    local which = i % 2 + 1
    parts[which][pair[1]] = half
    map[pair[1]] = ("model-%05d-of-00002.safetensors"):format(which)
    want[pair[1]] = half:to("f32"):totable()
  end
  for which, part in ipairs(parts) do
    assert(safetensors.save(("%s/model-%05d-of-00002.safetensors"):format(dir, which), part))
  end
  assert(fs.write(dir .. "/model.safetensors.index.json", json.encode { weight_map = map }))
  local config = model:config()
  config.model_type = "llama"
  assert(fs.write(dir .. "/config.json", json.encode(config)))
  for _, pair in ipairs(assert(transformer.load(dir)):named_parameters()) do
    T.eq(pair[2]:totable(), want[pair[1]], pair[1])
  end
end)

T.test("configurations that mocl does not compute are refused by name", function()
  for _, case in ipairs {
    { { model_type = "gpt9" }, "config.json: model_type = gpt9 is not supported %(bart, bert, distilbert, gpt2, llama, mistral, qwen2, qwen3, roberta, smollm3%)" },
    { { model_type = "gpt2" }, "config.json: attention_bias = false is not supported %(mocl does not know this key" },
    { { hidden_act = "quick_gelu" }, "hidden_act = quick_gelu is not supported %(silu, swish, gelu" },
    { { attention_bias = true }, "8 of 29 tensors are missing, the first is 'model.layers.0.self_attn.q_proj.bias'" },
    { { mlp_bias = true }, "tensors are missing, the first is 'model.layers.0.mlp.gate_proj.bias'" },
    { { rope_scaling = { type = "dynamic", factor = 2 } }, "rope_scaling.rope_type = dynamic is not supported" },
  } do
    local dir = saved()
    edit_config(dir, case[1])
    T.fails(case[2], transformer.load, dir)
  end
  local dir = saved()
  edit_config(dir, { rope_scaling = json.null })
  T.ok(transformer.load(dir))
end)

T.test("files that are missing or no model", function()
  T.fails("nowhere/config.json: No such file", transformer.load, "nowhere")
  local dir = saved()
  assert(fs.write(dir .. "/config.json", "{"))
  T.fails("config.json: ", transformer.load, dir)
  assert(fs.write(dir .. "/config.json", "[1]"))
  T.fails("config.json: ", transformer.load, dir)
  dir = saved()
  assert(fs.remove(dir .. "/model.safetensors"))
  T.fails("model.safetensors: No such file", transformer.load, dir)
end)

T.test("config.json with values that cannot be is a failure, not an error", function()
  local dir = saved()
  edit_config(dir, { hidden_size = 0 })
  T.fails("hidden_size = 0 is outside", transformer.load, dir)
  dir = saved()
  edit_config(dir, { vocab_size = "many" })
  T.fails("vocab_size", transformer.load, dir)
  dir = saved()
  edit_config(dir, { num_hidden_layers = 1000 })
  T.fails("tensor 'model.layers.999.self_attn.q_proj.weight' is missing", transformer.load, dir)
end)

T.test("weights that do not fit the configuration", function()
  local dir = saved()
  local path = dir .. "/model.safetensors"
  local tensors = assert(safetensors.load(path))
  local norm = tensors["model.norm.weight"]
  tensors["model.norm.weight"] = nil
  assert(safetensors.save(path, tensors))
  T.fails("1 of 21 tensors are missing, the first is 'model.norm.weight'", transformer.load, dir)

  tensors["model.norm.weight"] = norm:narrow(1, 1, 11)
  assert(safetensors.save(path, tensors))
  T.fails("tensor 'model.norm.weight' is %(11%), the model needs %(12%)", transformer.load, dir)

  tensors["model.norm.weight"] = norm
  tensors["model.layers.2.self_attn.q_proj.weight"] = norm
  assert(safetensors.save(path, tensors))
  T.fails("tensor 'model.layers.2.self_attn.q_proj.weight' belongs to no layer", transformer.load, dir)

  tensors["model.layers.2.self_attn.q_proj.weight"] = nil
  tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = norm -- old checkpoints carry it
  assert(safetensors.save(path, tensors))
  T.ok(transformer.load(dir))
end)

T.test("a truncated or overwritten weight file", function()
  local dir = saved()
  local path = dir .. "/model.safetensors"
  local whole = child.read(path)
  for _, n in ipairs { 0, 4, 8, 100, #whole // 2, #whole - 1 } do
    assert(fs.write(path, whole:sub(1, n)))
    local model, message, code = transformer.load(dir)
    T.eq(model, nil, n .. " bytes")
    T.ok(message:find("model.safetensors: ", 1, true), message)
    T.eq(code, "FORMAT", message)
  end
  assert(fs.write(path, ("\xff"):rep(8) .. whole:sub(9)))
  T.fails("model.safetensors: ", transformer.load, dir)
  assert(fs.write(path, whole .. "x"))
  T.fails("model.safetensors: ", transformer.load, dir)
end)
