-- low-rank adapters: what they change and what not, merging, PEFT directories

local T = require "t"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim.core"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1
local NEAR = is_double and 1e-12 or 1e-5 -- sums of 20 products in another order, through two blocks

local function batch(device)
  return transformer.batch({ { 1, 5, 9, 28 }, { 2, 2 }, { 7, 0, 3 } }, { device = device })
end

local function states(model, options)
  return model:forward(batch(model:device()), options):totable()
end

T.test("an adapter with B = 0 is the base, to the bit", function()
  for _, device in ipairs { "cpu", "fake" } do
    local model = small.model { device = device }
    local base = states(model)
    model:add_lora { r = 4, alpha = 8, key = 3 }
    T.eq(states(model), base)
    T.eq(states(model, { adapter = false }), base)
    local g, logp = model:generate({ { 1, 2 } }, { key = 1, max_new_tokens = 5 })
    local h, other = model:generate({ { 1, 2 } }, { key = 1, max_new_tokens = 5, adapter = false })
    T.eq(g.tokens, h.tokens)
    T.eq(logp:totable(), other:totable())
  end
end)

T.test("adapter = false is the base with any adapter, to the bit", function()
  local model = small.model()
  local base = states(model)
  small.adapter(model)
  T.eq(states(model, { adapter = false }), base)
  T.ok(not pcall(T.near, states(model), base, .01), "the adapter does something")
end)

T.test("merged and unmerged agree", function()
  for _, targets in ipairs { { "q_proj", "v_proj" }, { "o_proj", "gate_proj", "up_proj", "down_proj", "k_proj" }, false } do
    local model = small.adapter(small.model(), { target_modules = targets or nil })
    local before = states(model)
    model:merge_lora()
    T.eq(model:lora(), nil)
    T.eq(model:named_parameters(true), {})
    T.near(states(model), before, NEAR)
    T.eq(states(model, { adapter = false }), states(model))
  end
end)

T.test("the scale is alpha / r", function()
  local outs = {}
  for i, alpha in ipairs { 3, 6 } do
    local model = small.adapter(small.model(), { r = 3, alpha = alpha, target_modules = { "q_proj" } })
    local named = model:named_parameters(true)
    T.eq(#named, 4) -- A and B of two blocks
    if i == 1 then -- twice B and half of alpha
      for _, pair in ipairs(named) do
        if pair[1]:find("lora_B", 1, true) then
          tensor.no_grad(pair[2].copy_, pair[2], pair[2]:detach() * 2)
        end
      end
    end
    outs[i] = states(model)
  end
  T.near(outs[1], outs[2], NEAR)
end)

T.test("names, order and shapes of the parameters", function()
  local model = small.model()
  model:add_lora { r = 3, alpha = 6, dropout = .25, target_modules = { "down_proj", "q_proj" }, key = 1 }
  local names = {}
  for i, pair in ipairs(model:named_parameters(true)) do
    names[i] = pair[1] .. " " .. table.concat(pair[2].shape, ",")
  end
  T.eq(names, {
    "model.layers.0.self_attn.q_proj.lora_A.weight 3,12", "model.layers.0.self_attn.q_proj.lora_B.weight 16,3",
    "model.layers.0.mlp.down_proj.lora_A.weight 3,20", "model.layers.0.mlp.down_proj.lora_B.weight 12,3",
    "model.layers.1.self_attn.q_proj.lora_A.weight 3,12", "model.layers.1.self_attn.q_proj.lora_B.weight 16,3",
    "model.layers.1.mlp.down_proj.lora_A.weight 3,20", "model.layers.1.mlp.down_proj.lora_B.weight 12,3",
  })
  T.eq(model:lora(), { r = 3, alpha = 6.0, dropout = .25, target_modules = { "q_proj", "down_proj" } })
  model:drop_lora()
  T.eq(model:lora(), nil)
end)

T.test("an adapter on some layers", function()
  local model = small.model()
  local base = states(model)
  small.adapter(model, { layers_to_transform = { 1 } })
  for _, pair in ipairs(model:named_parameters(true)) do
    T.ok(pair[1]:find("model.layers.1.", 1, true), pair[1])
  end
  T.eq(#model:named_parameters(true), 14)
  T.eq(model:lora().layers_to_transform, { 1 })
  T.ok(not pcall(T.near, states(model), base, .01), "the adapter does something")
  T.eq(states(model, { adapter = false }), base)
  -- generation takes the same way as the training forward
  local g, logp = model:generate({ { 1, 2 } }, { key = 1, max_new_tokens = 5 })
  T.near(lm.loss(model, { { 1, 2 } }, { g.tokens[1] }):item(), -logp:mean():item(), 1e-6)
  local dir, other = T.tmpdir() .. "/adapter", small.model()
  assert(lora.save(model, dir, {}))
  T.eq(json.load(dir .. "/adapter_config.json").layers_to_transform, { 1 })
  assert(lora.load(other, dir))
  T.eq(other:lora(), model:lora())
  T.eq(states(other), states(model))
  -- PEFT writes one layer as a number too
  local text = fs.read(dir .. "/adapter_config.json")
  assert(fs.write(dir .. "/adapter_config.json", (text:gsub('("layers_to_transform": )%[%s*1%s*%]', "%11"))))
  T.eq(json.load(dir .. "/adapter_config.json").layers_to_transform, 1)
  local third = small.model()
  assert(lora.load(third, dir))
  T.eq(states(third), states(model))
  model:merge_lora()
  T.near(states(model), states(third), NEAR)
  T.eq(lora.last_layers(model, 1), { 1 })
  T.eq(lora.last_layers(model, 2), { 0, 1 })
  T.eq(lora.last_layers(model, 0), nil)
  T.raises("last 3 layers: the model has 2", lora.last_layers, model, 3)
  T.raises("'2' is no layer of this model %(0 to 1%)", model.add_lora, model, { layers_to_transform = { 0, 2 } })
  T.raises("'1.5' is no layer", model.add_lora, model, { layers_to_transform = { 1.5 } })
  T.raises("layers_to_transform is empty", model.add_lora, model, { layers_to_transform = {} })
end)

T.test("gradients go to the adapter alone, and are those of the merged weight", function()
  -- W' = W + s B A: dA = s B^T dW', dB = s dW' A^T
  local model, scale = small.adapter(small.model()), 6 / 3
  local prompts, responses = { { 1, 4 }, { 9 } }, { { 8, 8, 3, 28 }, { 0, 20, 5 } }
  lm.loss(model, prompts, responses):backward()
  for _, pair in ipairs(model:named_parameters()) do
    T.eq(pair[2].grad, nil, pair[1])
  end
  local got = {}
  for _, pair in ipairs(model:named_parameters(true)) do
    got[pair[1]] = { pair[2].grad, pair[2]:detach():clone() }
  end
  model:merge_lora()
  transformer.train_base(model)
  lm.loss(model, prompts, responses):backward()
  local count = 0
  for _, pair in ipairs(model:named_parameters()) do
    local layer = pair[1]:match("^(.*proj)%.weight$")
    if layer then
      local a, b = got[layer .. ".lora_A.weight"], got[layer .. ".lora_B.weight"]
      local dw = pair[2].grad
      T.near(small.flat(a[1]), small.flat(b[2]:t():matmul(dw) * scale), NEAR, layer)
      T.near(small.flat(b[1]), small.flat(dw:matmul(a[2]:t()) * scale), NEAR, layer)
      count = count + 1
    end
  end
  T.eq(count, 14)
end)

T.test("training changes the adapter and no byte of the base", function()
  local model = small.model()
  model:add_lora { r = 2, alpha = 4, key = 3 }
  local function base()
    local all = {}
    for i, pair in ipairs(model:named_parameters()) do
      all[i] = pair[2]:totable()
    end
    return all
  end
  local before, reference = base(), states(model, { adapter = false })
  local opt <close> = optim.adamw(lora.parameters(model), { lr = .02 })
  local first, last
  for _ = 1, 30 do
    local scope <close> = tensor.scope()
    local loss = lm.loss(model, { { 1 }, { 2 } }, { { 3, 4, 5 }, { 6, 7 } })
    opt:zero_grad()
    loss:backward()
    opt:step {}
    last = loss:item()
    first = first or last
  end
  T.ok(last < first / 2, ("loss %g to %g"):format(first, last))
  T.eq(base(), before)
  T.eq(states(model, { adapter = false }), reference)
end)

T.test("dropout acts in training alone, by key and stream", function()
  local model = small.adapter(small.model(), { dropout = .5 })
  local plain = states(model)
  T.eq(states(model), plain)
  T.eq(states(model, { key = 4, stream = 2 }), plain) -- not training
  local a = states(model, { train = true, key = 4, stream = 2 })
  T.ok(not pcall(T.near, a, plain, .01))
  T.eq(states(model, { train = true, key = 4, stream = 2 }), a)
  T.ok(not pcall(T.eq, states(model, { train = true, key = 4, stream = 3 }), a))
  T.ok(not pcall(T.eq, states(model, { train = true, key = 5, stream = 2 }), a))
  T.eq(states(model, { train = true, adapter = false, key = 4 }), states(model, { adapter = false }))
  local none = small.adapter(small.model())
  T.eq(states(none, { train = true, key = 4 }), states(none))
end)

T.test("the mean over dropout masks is the adapter without", function()
  -- a weak adapter, so that the norm after it is nearly linear; left undivided by 1 - p the mean would be half
  local model = small.adapter(small.model { config = { num_hidden_layers = 1 } },
    { dropout = .5, alpha = .3, target_modules = { "down_proj" } })
  local function change(options)
    return model:forward(batch(), options) - model:forward(batch(), { adapter = false })
  end
  local want, sum, n = change(), 0, 400
  for i = 1, n do
    sum = sum + change { train = true, key = 1, stream = i }
  end
  local off = (sum / n - want):square():sum():sqrt():item() / want:square():sum():sqrt():item()
  T.ok(off < .15, ("off by %.2f of the adapter's effect"):format(off))
end)

T.test("options that cannot be", function()
  local model = small.model()
  T.raises("r = 0 is outside 1", model.add_lora, model, { r = 0 })
  T.raises("dropout 1 is outside %[0, 1%)", model.add_lora, model, { dropout = 1 })
  T.raises("unknown target module 'q' %(q_proj,", model.add_lora, model, { target_modules = { "q" } })
  T.raises("no layer is named in target_modules", model.add_lora, model, { target_modules = {} })
  T.raises("unknown option 'rank'", model.add_lora, model, { rank = 2 })
  T.eq(model:lora(), nil)
  small.adapter(model)
  T.raises("r = %-1 is outside", model.add_lora, model, { r = -1 })
  T.eq(model:lora().r, 3) -- a refused call leaves the adapter
end)

-- ---- PEFT directories ----

local function saved(options)
  local dir, model = T.tmpdir() .. "/adapter", small.adapter(small.model(), options)
  assert(lora.save(model, dir, { base_model_name_or_path = "runs/x/sft" }))
  return dir, model
end

T.test("save and load give the same adapter, under PEFT's names", function()
  local dir, model = saved { dropout = .05, target_modules = { "v_proj", "q_proj" } }
  local config = assert(json.load(dir .. "/adapter_config.json"))
  T.eq({ config.peft_type, config.task_type, config.r, config.lora_alpha, config.lora_dropout, config.bias },
    { "LORA", "CAUSAL_LM", 3, 6.0, .05, "none" })
  T.eq(config.target_modules, { "q_proj", "v_proj" })
  T.eq(config.base_model_name_or_path, "runs/x/sft")
  local tensors = assert(safetensors.load(dir .. "/adapter_model.safetensors"))
  T.eq(tensors["base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"].shape, { 8, 3 })

  local other = small.model()
  T.eq(lora.load(other, dir), true)
  T.eq(other:lora(), model:lora())
  T.eq(states(other), states(model))
  local again = T.tmpdir() .. "/again"
  assert(lora.save(other, again, { base_model_name_or_path = "runs/x/sft" }))
  for _, name in ipairs { "adapter_config.json", "adapter_model.safetensors" } do
    T.eq(fs.sha256(again .. "/" .. name), fs.sha256(dir .. "/" .. name))
  end
  local on_fake = small.model { device = "fake" }
  assert(lora.load(on_fake, dir))
  T.eq(states(on_fake), states(model))
  for _, p in ipairs(lora.parameters(other)) do
    T.ok(p.requires_grad, "a loaded adapter can be trained on")
  end
end)

T.test("saving without an adapter", function()
  T.raises("the model has no adapter; call model:add_lora first", lora.save, small.model(), T.tmpdir())
end)

-- the adapter in dir with its tensors changed by f(tensors)
local function with_tensors(dir, f)
  local path = dir .. "/adapter_model.safetensors"
  local tensors = assert(safetensors.load(path))
  assert(safetensors.save(path, f(tensors) or tensors))
end

local A0 = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"

T.test("an adapter that matches in part, or not at all, is refused", function()
  local dir = saved()
  with_tensors(dir, function(t)
    t[A0] = nil
  end)
  local model = small.model()
  T.fails("1 of 28 tensors are missing, the first is 'model.layers.0.self_attn.q_proj.lora_A.weight'", lora.load, model, dir)
  T.eq(model:lora(), nil)

  dir = saved()
  with_tensors(dir, function(t)
    t["base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"] = t[A0]:clone()
  end)
  T.fails("layers.7.self_attn.q_proj.lora_A.weight' belongs to no layer", lora.load, small.model(), dir)

  dir = saved()
  with_tensors(dir, function()
    return {}
  end)
  T.fails("28 of 28 tensors are missing", lora.load, small.model(), dir)

  dir = saved()
  T.fails("belongs to no layer", lora.load, small.model { config = { num_hidden_layers = 1 } }, dir)
  T.fails("is %(3,12%), the model needs %(3,24%)", lora.load, small.model { config = { hidden_size = 24 } }, dir)
end)

T.test("foreign prefixes are refused by name", function()
  local dir = saved()
  with_tensors(dir, function(t)
    local out = {}
    for name, x in pairs(t) do
      out[name:gsub("^base_model%.model%.", "transformer.")] = x
    end
    return out
  end)
  T.fails("tensor 'transformer.model.layers.%d.*' does not begin with 'base_model.model.'", lora.load, small.model(), dir)
end)

T.test("configurations that are no LoRA, or ask for more", function()
  local function with(change)
    local dir = saved()
    local path = dir .. "/adapter_config.json"
    local config = assert(json.load(path))
    for k, v in pairs(change) do
      config[k] = v
    end
    assert(fs.write(path, json.encode(config)))
    return dir
  end
  T.fails("No such file", lora.load, small.model(), T.tmpdir())
  T.fails("not the configuration of a LoRA adapter", lora.load, small.model(), with { peft_type = "IA3" })
  T.fails("use_dora = true is not supported", lora.load, small.model(), with { use_dora = true })
  T.fails("it names lm_head", lora.load, small.model(), with { target_modules = { "lm_head" } })
  T.fails("r = \"16\" is not supported", lora.load, small.model(), with { r = "16" })
  T.fails("tensor '.*' is %(3,12%), the model needs %(5,12%)", lora.load, small.model(), with { r = 5 })
  T.fails("bias", lora.load, small.model(), with { bias = "all" })
  T.fails("modules_to_save", lora.load, small.model(), with { modules_to_save = { "lm_head" } })
  T.ok(lora.load(small.model(), with { rank_pattern = {}, alpha_pattern = {}, modules_to_save = json.null, use_rslora = false }))
end)

T.test("a failed load leaves the adapter that was there", function()
  local dir = saved { key = 30 }
  with_tensors(dir, function(t)
    t[A0] = nil
  end)
  local model = small.adapter(small.model())
  local before = states(model)
  T.fails("missing", lora.load, model, dir)
  T.eq(model:lora() and states(model), before)
end)
