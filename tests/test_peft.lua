-- adapters beside PEFT: which layers, ranks and scales its files ask for, what is refused, and what mocl writes
-- (fixtures/peft/make_peft.py runs PEFT on the same files)

local T = require "t"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local peft = require "fixtures.peft.peft"
local parameters = require "mocl.parameters"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local golden = peft.load()
local NEAR = 3e-5 -- transformers' rotary angles and norms are f32

local function last_hidden(model)
  local rows = model:forward(transformer.batch { golden.tokens }):totable()
  return rows[#rows]
end

local function directory(config, tensors)
  local dir = T.tmpdir() .. "/adapter"
  assert(fs.mkdir(dir))
  assert(fs.write(dir .. "/adapter_config.json", type(config) == "string" and config or json.encode(config)))
  assert(safetensors.save(dir .. "/adapter_model.safetensors", tensors))
  return dir
end

-- {name = {rank, scale}} of a model's adapter
local function scales(model)
  local info, found = model:lora(), {}
  for _, pair in ipairs(model:named_parameters(true)) do
    local name = pair[1]:match "^(.*)%.lora_A%.weight$"
    if name then
      local one = info.modules and info.modules[name] or info
      T.eq(one.r, pair[2].shape[1], name)
      found[name] = { one.r, one.alpha / (info.use_rslora and math.sqrt(one.r) or one.r) }
    end
  end
  return found
end

local function check_scales(model, modules)
  local got, names = scales(model), {}
  for name, m in pairs(modules) do
    T.ok(got[name], name .. " has an adapter")
    T.eq(got[name][1], m[1], name)
    T.near(got[name][2], m[2], 1e-8, name)
    names[name] = true
  end
  for name in pairs(got) do
    T.ok(names[name], name .. " has none in PEFT")
  end
end

for _, case in ipairs(golden.cases) do
  T.test("as PEFT loads it: " .. case.name, function()
    local model = peft.base()
    local dir = directory(case.config, peft.tensors(model, case.modules))
    assert(lora.load(model, dir))
    check_scales(model, case.modules)
    T.near(last_hidden(model), case.hidden, NEAR)
    -- saved, loaded and merged it is the same
    local again = T.tmpdir() .. "/again"
    local other, third = peft.base(), peft.base()
    assert(lora.save(model, again))
    assert(lora.load(other, again))
    T.eq(other:lora(), model:lora())
    T.eq(last_hidden(other), last_hidden(model))
    third:add_lora(model:lora())
    T.eq(third:lora(), model:lora())
    other:merge_lora()
    T.near(last_hidden(other), case.hidden, NEAR)
  end)
end

for _, case in ipairs(golden.written) do
  T.test("as mocl writes it for PEFT: " .. case.name, function()
    local model = peft.adapter(assert(load("return " .. case.options))())
    local dir = T.tmpdir() .. "/adapter"
    assert(lora.save(model, dir))
    T.eq(fs.read(dir .. "/adapter_config.json"), case.config)
    check_scales(model, case.modules)
    T.near(last_hidden(model), case.hidden, NEAR)
    -- both ways of generation take each layer's own rank and scale: one row, and several
    for _, prompts in ipairs { { golden.tokens }, { golden.tokens, { 3, 9 } } } do
      local g, logp = model:generate(prompts, { key = 1, max_new_tokens = 4 })
      T.near(lm.loss(model, prompts, g.tokens):item(), -logp:mean():item(), 1e-4)
    end
  end)
end

-- ---- GPT-2, whose matrices lie the other way round and whose q, k and v are one ----

local gpt2 = peft.load "gpt2"

-- {name = {rank, scale}} of what is saved of a model's adapter
local function saved_scales(dir)
  local config, found = assert(json.load(dir .. "/adapter_config.json")), {}
  for name, t in pairs(assert(safetensors.load(dir .. "/adapter_model.safetensors"))) do
    local module = name:match "^base_model%.model%.(.*)%.lora_A%.weight$"
    if module then
      local r = (config.rank_pattern or {})[module] or config.r
      T.eq(t.shape[1], r, module)
      found[module] = { r, ((config.alpha_pattern or {})[module] or config.lora_alpha) / (config.use_rslora and math.sqrt(r) or r) }
    end
  end
  return found
end

local function check_saved(dir, modules)
  local got = saved_scales(dir)
  for name, m in pairs(modules) do
    T.ok(got[name], name .. " is saved")
    T.eq(got[name][1], m[1], name)
    T.near(got[name][2], m[2], 1e-8, name)
    got[name] = nil
  end
  T.eq(next(got), nil, "no more than PEFT has")
end

for _, case in ipairs(gpt2.cases) do
  T.test("as PEFT loads it onto GPT-2: " .. case.name, function()
    local model, tensors = peft.base "gpt2", {}
    for name, m in pairs(case.modules) do
      for part, size in pairs { lora_A = { m[1], m[3] }, lora_B = { m[4], m[1] } } do
        local full = ("%s.%s.weight"):format(name, part)
        tensors["base_model.model." .. full] = tensor.new(small.weight(full, size[1] * size[2])):reshape(size)
      end
    end
    assert(lora.load(model, directory(case.config, tensors)))
    T.near(last_hidden(model), case.hidden, NEAR)
    -- saved it has PEFT's ranks again, as a directory and as a LoRA GGUF
    local dir = T.tmpdir() .. "/again"
    assert(lora.save(model, dir))
    check_saved(dir, case.modules)
    local meta = select(2, assert(safetensors.load(dir .. "/adapter_model.safetensors")))
    T.eq(meta.mocl_modules, nil, "nothing had to be put together")
    assert(lora.save_gguf(model, dir .. "/a.gguf"))
    for _, path in ipairs { dir, dir .. "/a.gguf" } do
      local other = peft.base "gpt2"
      assert(lora.load(other, path))
      T.near(last_hidden(other), case.hidden, NEAR)
      other:merge_lora()
      T.near(last_hidden(other), case.hidden, NEAR)
    end
  end)
end

for _, case in ipairs(gpt2.written) do
  T.test("as mocl writes it for PEFT, on GPT-2: " .. case.name, function()
    local model = peft.adapter(assert(load("return " .. case.options))(), "gpt2")
    local dir = T.tmpdir() .. "/adapter"
    assert(lora.save(model, dir))
    T.eq(fs.read(dir .. "/adapter_config.json"), case.config)
    check_saved(dir, case.modules)
    T.near(last_hidden(model), case.hidden, NEAR)
    -- a run goes on with the adapter that it had, layer by layer
    local again = peft.base "gpt2"
    assert(lora.load(again, dir))
    T.eq(again:lora(), model:lora())
    local tensors, close = again:named_parameters(true), case.name == "each for itself"
    for i, pair in ipairs(model:named_parameters(true)) do
      T.eq(tensors[i][1], pair[1])
      if close then -- one rounding, where scales differ
        T.near(tensors[i][2]:totable(), pair[2]:totable(), 1e-6, pair[1])
      else
        T.eq(tensors[i][2]:totable(), pair[2]:totable(), pair[1])
      end
    end
    -- a program that keeps no metadata has the same adapter in one piece
    local all = assert(safetensors.load(dir .. "/adapter_model.safetensors"))
    local other = peft.base "gpt2"
    assert(lora.load(other, directory(case.config, all)))
    T.near(last_hidden(other), case.hidden, NEAR)
    assert(lora.save_gguf(model, dir .. "/a.gguf"))
    other = peft.base "gpt2"
    assert(lora.load(other, dir .. "/a.gguf"))
    T.near(last_hidden(other), case.hidden, NEAR)
  end)
end

T.test("adapters of GPT-2 that do not fit are refused by name", function()
  local case = gpt2.written[1]
  local model, dir = peft.adapter({ r = 4 }, "gpt2"), T.tmpdir() .. "/adapter"
  assert(lora.save(model, dir))
  local all, meta = assert(safetensors.load(dir .. "/adapter_model.safetensors"))
  local base = peft.base "gpt2"
  local function with(modules, tensors)
    assert(safetensors.save(dir .. "/adapter_model.safetensors", tensors or all, { format = "pt", mocl_modules = modules }))
    return dir
  end
  T.fails("mocl_modules in its metadata does not fit the adapter: it is no table", lora.load, base, with "3")
  T.fails("does not fit the adapter: x is no layer that has an adapter", lora.load, base, with '{"x": {"r": 4, "alpha": 8}}')
  T.fails("does not fit the adapter: transformer.h.%d.[%a._]+ has rank %d+, and its parts %d+", lora.load, base,
    with '{"model.layers.0.self_attn.q_proj": {"r": 4, "alpha": 8}}')
  T.fails("q_proj has no rank and alpha", lora.load, base, with '{"model.layers.0.self_attn.q_proj": {"r": 4.5, "alpha": 8}}')
  T.fails("q_proj has no rank and alpha", lora.load, base, with '{"model.layers.0.self_attn.q_proj": 4}')
  T.eq(base:adapters(), {}, "nothing is left behind")
  local name = "base_model.model.transformer.h.1.attn.c_attn.lora_B.weight"
  local changed = {}
  for key, t in pairs(all) do
    changed[key] = key == name and tensor.zeros { 47, 12 } or t
  end
  T.fails("tensor '" .. name .. "' is %(47,12%), which is not that of 3 layers", lora.load, base, with(nil, changed))
  changed[name] = nil
  T.fails("lora_B.weight", lora.load, base, with(nil, changed))
  assert(lora.load(base, with(meta.mocl_modules)))
  T.fails("target_modules = %[\"wte\"%] is not supported %(it names transformer.wte; adapters are on the linear layers of the "
    .. "blocks: c_attn, c_proj, c_fc%)", lora.load, base, directory('{"peft_type": "LORA", "target_modules": ["wte"]}', all))
  T.fails("names no linear layer of a model of 3 layers", lora.load, base, directory('{"peft_type": "LORA", "target_modules": ["q_proj"]}', all))
  T.fails("h.2.attn.c_attn.lora_A.weight' belongs to no layer that has an adapter", lora.load, base,
    directory((case.config:gsub('"transformer.h.2.attn.c_attn",', "")), all))
  -- a Llama's matrices lie as PEFT expects them
  T.fails("fan_in_fan_out = true is not supported", lora.load, peft.base(), directory('{"peft_type": "LORA", "fan_in_fan_out": true}', all))
end)

T.test("an adapter that is even has the same bits, however its layers are named", function()
  local a, b = peft.base(), peft.base()
  local modules = {}
  for l = 0, 2 do
    for _, name in ipairs { "self_attn.q_proj", "mlp.up_proj" } do
      modules["model.layers." .. l .. "." .. name] = { r = 4, alpha = 6 }
    end
  end
  a:add_lora { r = 4, alpha = 6, target_modules = { "q_proj", "up_proj" }, key = 9 }
  b:add_lora { modules = modules, key = 9 }
  T.eq(b:lora(), a:lora())
  local x, y = a:named_parameters(true), b:named_parameters(true)
  T.eq(#x, 12)
  for i, pair in ipairs(x) do
    T.eq({ pair[1], pair[2]:totable() }, { y[i][1], y[i][2]:totable() })
  end
end)

T.test("options of add_lora for single layers", function()
  local model = peft.base()
  local q = "model.layers.1.self_attn.q_proj"
  T.raises("modules: 'q_proj' is no linear layer of a block", model.add_lora, model, { modules = { q_proj = { r = 2 } } })
  T.raises("modules: 'model.layers.3.self_attn.q_proj' is no", model.add_lora, model,
    { modules = { ["model.layers.3.self_attn.q_proj"] = { r = 2 } } })
  T.raises("r = 0 is outside 1", model.add_lora, model, { modules = { [q] = { alpha = 2 } } })
  T.raises("unknown option 'rank'", model.add_lora, model, { modules = { [q] = { rank = 2 } } })
  T.raises("no layer is named", model.add_lora, model, { modules = {} })
  T.raises("alpha = nan is no finite number", model.add_lora, model, { alpha = 0 / 0 })
  for name, value in pairs { r = 4, alpha = 2, target_modules = { "q_proj" }, layers_to_transform = { 0 } } do
    T.raises("^" .. name .. ": leave it out where modules", model.add_lora, model,
      { modules = { [q] = { r = 2 } }, [name] = value })
  end
  T.eq(model:lora(), nil)
end)

-- ---- refusals ----

local PLAIN = { peft_type = "LORA", task_type = "CAUSAL_LM", r = 4, lora_alpha = 8, target_modules = { "q_proj" } }

local function with(change)
  local config, model = {}, peft.base()
  for _, from in ipairs { PLAIN, change } do
    for k, v in pairs(from) do
      config[k] = v
    end
  end
  local modules = {}
  for l = 0, 2 do
    modules["model.layers." .. l .. ".self_attn.q_proj"] = { 4 }
  end
  return model, directory(config, peft.tensors(model, modules))
end

T.test("every key of PEFT 0.21.2 that asks for more is refused by name, and leaves the model as it was", function()
  local some = { a = 1 }
  local asks = {
    { "use_dora", true }, { "use_qalora", true }, { "alora_invocation_tokens", { 1, 2 } }, { "arrow_config", some },
    { "lora_bias", true }, { "bias", "all" }, { "bias", "lora_only" }, { "modules_to_save", { "lm_head" } },
    { "trainable_token_indices", { 1 } }, { "trainable_token_indices", { embed_tokens = { 1 } } },
    { "layer_replication", { { 0, 2 }, { 1, 3 } } }, { "target_parameters", { "mlp.experts.gate_up_proj" } },
    { "megatron_config", some }, { "use_bdlora", some }, { "kasa_config", some }, { "monteclora_config", some },
    { "velora_config", some }, { "fan_in_fan_out", true }, { "task_type", "SEQ_CLS" }, { "task_type", "FEATURE_EXTRACTION" },
    { "peft_type", "IA3" }, { "peft_type", "ADALORA" }, { "peft_type", json.null }, { "use_new_maths", true }, { "new_scale", 2 },
    { "new_list", { "x" } }, { "enable_lora", { true, false } },
    -- of another kind than PEFT writes
    { "r", 0 }, { "r", 2.5 }, { "r", "4" }, { "lora_alpha", "8" }, { "lora_dropout", 1 }, { "use_rslora", "yes" },
    { "target_modules", 3 },
    { "target_modules", { 1 } }, { "rank_pattern", { q_proj = 0 } }, { "rank_pattern", { q_proj = "4" } },
    { "alpha_pattern", { q_proj = "4" } }, { "layers_to_transform", { "1" } }, { "layers_pattern", "layers" },
    { "exclude_modules", { 1 } },
  }
  for _, init in ipairs { "pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "lora_ga", "something", 3 } do
    asks[#asks + 1] = { "init_lora_weights", init }
  end
  for _, ask in ipairs(asks) do
    local model, dir = with { [ask[1]] = ask[2] }
    T.fails("adapter_config.json: " .. ask[1] .. " = .*", lora.load, model, dir)
    T.eq(model:lora(), nil, ask[1])
  end
  local model, dir = with { init_lora_weights = "pissa" }
  T.fails("takes a part out of the base weights: save it in PEFT with path_initial_model_for_weight_conversion", lora.load,
    model, dir)
end)

T.test("keys that change nothing load, and so do unknown ones that are off", function()
  local plain = peft.base()
  local _, dir = with {}
  assert(lora.load(plain, dir))
  local same = {
    auto_mapping = { base_model_class = "LlamaForCausalLM" }, peft_version = "0.99.0", revision = "main", inference_mode = false,
    megatron_core = "megatron.core", qalora_group_size = 32, runtime_config = { ephemeral_gpu_offload = true },
    eva_config = { rho = 1 }, corda_config = { corda_method = "kpm" }, loftq_config = { loftq_bits = 4 },
    lora_ga_config = { scale = "unit" }, ensure_weight_tying = true, base_model_name_or_path = "x/y", task_type = json.null,
    use_dora = false, bias = "none", modules_to_save = json.null, trainable_token_indices = json.array(),
    rank_pattern = json.null,
    new_flag = false, new_table = {}, new_text = "", new_null = json.null, init_lora_weights = json.null,
  }
  for name, value in pairs(same) do
    local model, other = with { [name] = value }
    assert(lora.load(model, other))
    T.eq(last_hidden(model), last_hidden(plain), name)
  end
end)

T.test("target_modules and patterns that mocl cannot follow", function()
  local function refused(pattern, change)
    local model, dir = with(change)
    T.fails(pattern, lora.load, model, dir)
    T.eq(model:lora(), nil)
  end
  refused("it names lm_head; adapters are on the linear layers", { target_modules = { "q_proj", "lm_head" } })
  refused("it names model.embed_tokens;", { target_modules = ".*(q_proj|embed_tokens)" })
  refused("it names model;", { target_modules = ".*" })
  refused("names no linear layer of a model of 3 layers", { target_modules = { "c_attn" } })
  refused("names no linear layer", { target_modules = { "q_proj" }, layers_to_transform = { 3 } })
  refused("names no linear layer", { exclude_modules = "model.*" })
  refused("layers_to_transform = 1 is not supported %(only beside a list",
    { target_modules = ".*q_proj", layers_to_transform = 1 })
  refused("layers_pattern = .?layers.? is not supported %(only beside layers_to_transform", { layers_pattern = "layers" })
  refused("not a regular expression: missing closing paren", { target_modules = "(.*q_proj" })
  refused("rank_pattern = .?%(.? is not supported", { rank_pattern = { ["("] = 2 } })
  -- Python reads each otherwise, or not at all
  for _, pattern in ipairs { "\\p{L}*q_proj", ".*\\Kq_proj", "(*F)|.*q_proj", "(?|.*q_proj)", ".*(?R)?q_proj",
    "[[:alpha:].0-9_]*q_proj",
    ".{,99}q_proj", ".*\\v*q_proj", "\\Q.*\\Eq_proj", "(?<x>.*)q_proj", ".*\\x{71}_proj", ".*\\hq_proj" } do
    refused("in a regular expression is not", { target_modules = pattern })
  end
  for _, pattern in ipairs { ".*\\x71_proj", "(?P<a>model).*\\.q_proj", "(?:.*)q_proj", "[^]]*q_proj",
    ".*[\\w]_proj(?<!v_proj)(?<=q_proj)",
    "(model)\\.(l).*\\2f_attn\\.q_proj|.*q_proj" } do
    local model, dir = with { target_modules = pattern }
    assert(lora.load(model, dir))
  end
end)

T.test("a tensor that no adapter uses, and one that is missing, are refused by name", function()
  local modules = { ["model.layers.0.self_attn.q_proj"] = { 4 } }
  local config = { peft_type = "LORA", r = 4, target_modules = { "layers.0.self_attn.q_proj" } }
  for _, name in ipairs { "lm_head.weight", "model.embed_tokens.weight", "model.rotary_emb.inv_freq", "lm_head.lora_A.weight",
    "model.layers.0.self_attn.q_proj.lora_magnitude_vector", "model.layers.0.self_attn.q_proj.lora_B.bias",
    "model.layers.1.self_attn.q_proj.lora_A.weight", "model.layers.0.self_attn.q_proj.lora_A.default.weight" } do
    local model = peft.base()
    local tensors = peft.tensors(model, modules)
    tensors["base_model.model." .. name] = tensor.zeros { 4, 16 }
    T.fails("tensor 'base_model.model." .. name:gsub("%p", "%%%0") .. "' belongs to no layer that has an adapter", lora.load,
      model, directory(config, tensors))
    T.eq(model:lora(), nil)
  end
  local model = peft.base()
  local tensors = peft.tensors(model, modules)
  tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] = nil
  T.fails("missing, the first is 'model.layers.0.self_attn.q_proj.lora_B.weight'", lora.load, model, directory(config, tensors))
  T.fails("is %(4,16%), the model needs %(5,16%)", lora.load, model, directory({ peft_type = "LORA", r = 5,
    target_modules = config.target_modules }, peft.tensors(model, modules)))
  T.eq(model:lora(), nil)
end)

T.test("tensors in other dtypes, numbers that are none, and no safetensors file", function()
  local modules = { ["model.layers.0.self_attn.q_proj"] = { 4 } }
  local config = { peft_type = "LORA", r = 4, target_modules = { "layers.0.self_attn.q_proj" } }
  local model, plain = peft.base(), peft.base()
  local tensors = peft.tensors(model, modules)
  assert(lora.load(plain, directory(config, tensors)))
  local half = {}
  for name, t in pairs(tensors) do
    half[name] = t:to "bf16"
  end
  assert(lora.load(model, directory(config, half)))
  T.near(last_hidden(model), last_hidden(plain), .05)
  local info, before = model:lora(), last_hidden(model)
  for _, bad in ipairs { 0 / 0, math.huge, -math.huge } do
    local name = "base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"
    tensors[name]:fill_(0)
    tensors[name]:narrow(1, 3, 1):fill_(bad)
    T.fails("adapter_model.safetensors: tensor '" .. name:gsub("%p", "%%%0") .. "' is not finite: 4 of 64", lora.load, model,
      directory(config, tensors))
    T.eq(model:lora(), info)
    T.eq(last_hidden(model), before)
  end
  local dir = directory(config, tensors)
  assert(fs.rename(dir .. "/adapter_model.safetensors", dir .. "/adapter_model.bin"))
  T.fails("No such file or directory %(adapter_model.bin is not read: save the adapter in PEFT as safetensors%)", lora.load, model,
    dir)
end)

T.test("a failed load leaves an adapter whose layers differ", function()
  local model = peft.adapter(assert(load("return " .. golden.written[4].options))())
  local before, info = last_hidden(model), model:lora()
  local _, dir = with {}
  assert(safetensors.save(dir .. "/adapter_model.safetensors", {}))
  T.fails("6 of 6 tensors are missing", lora.load, model, dir)
  T.eq(model:lora(), info)
  T.eq(last_hidden(model), before)
end)

T.test("the base's path in a saved adapter leads to no other run", function()
  local root = T.tmpdir()
  local function written(dir, base)
    assert(lora.save(peft.adapter { r = 2 }, dir, { base_model_name_or_path = base }))
    return json.load(dir .. "/adapter_config.json").base_model_name_or_path
  end
  assert(fs.mkdir(root .. "/run/sft"))
  T.eq(written(root .. "/run/moc/policy", root .. "/run/sft"), "../../sft")
  T.eq(written(root .. "/run/sft/policy", root .. "/run/sft"), "..")
  T.eq(written(root .. "/run/sft", root .. "/run/sft"), ".")
  T.eq(written(root .. "/run/sf", root .. "/run/sft"), "../sft")
  T.eq(written(root .. "/a", "/nowhere/base"):match "^[./]+/nowhere/base$" ~= nil, true)
  T.eq(written(root .. "/b", "org/name"), "org/name")
  T.eq(written(root .. "/c", "../sft"), "../sft")
  T.eq(written(root .. "/d", nil), json.null)
  -- mocl itself goes by the hash of the weights
  local dir, other = root .. "/run/moc/policy", peft.base()
  tensor.no_grad(other:head().fill_, other:head(), 1)
  T.fails("belongs to another base %(../../sft%): its weights have sha256 %x+, this model's %x+; load that base",
    lora.load, other, dir)
end)

T.test("a merged adapter saved in place of its base loads as what was merged", function()
  local dir = T.tmpdir() .. "/base"
  local model = peft.adapter(assert(load("return " .. golden.written[4].options))())
  assert(transformer.save(peft.base(), dir))
  local loaded = assert(transformer.load(dir))
  loaded:add_lora(model:lora())
  assert(parameters.copy(loaded:named_parameters(true), (function()
    local from = {}
    for _, pair in ipairs(model:named_parameters(true)) do
      from[pair[1]] = pair[2]
    end
    return from
  end)(), "adapter"))
  loaded:merge_lora()
  assert(transformer.save(loaded, dir))
  T.near(last_hidden(assert(transformer.load(dir))), golden.written[4].hidden, NEAR)
end)

-- the small decoder of other tests has a head size of its own: names and shapes do not come from the width
T.test("all-linear on a decoder with its own head size", function()
  local model = small.adapter(small.model())
  local dir = T.tmpdir() .. "/adapter"
  assert(lora.save(model, dir))
  local config = json.load(dir .. "/adapter_config.json")
  config.target_modules = "all-linear"
  assert(fs.write(dir .. "/adapter_config.json", json.encode(config)))
  local other = small.model()
  assert(lora.load(other, dir))
  T.eq(other:lora(), model:lora())
end)
