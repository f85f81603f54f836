--- mocl.lm.lora: adapters as PEFT directories (adapter_config.json, adapter_model.safetensors) and as LoRA GGUF files.
-- Attaching, merging and dropping are methods of the model (add_lora, merge_lora, drop_lora). An adapter
-- whose names match nothing, or only some layers, is refused: loaded silently it would change nothing.
--
--   model:add_lora { r = 16, alpha = 32, target_modules = { "q_proj", "v_proj" }, key = k }
--   assert(lora.save(model, "out/adapter", { base_model_name_or_path = "runs/x/sft" }))

local finite = require "mocl.finite"
local fs = require "mocl.fs"
local gguf_lora = require "mocl.lm.gguf_lora"
local gguf_model = require "mocl.lm.gguf_model"
local json = require "mocl.json"
local lora_config = require "mocl.lm.lora_config"
local options = require "mocl.options"
local safetensors = require "mocl.safetensors"
local transformer = require "mocl.lm.model"

local lora = {}

local PREFIX = "base_model.model." -- PEFT's, in front of the model's own names

--- The adapter's tensors, in a fixed order.
function lora.parameters(model)
  return transformer.parameters(model, true)
end

--- The numbers of the last n layers of a model, for layers_to_transform; nil, all layers, for n = 0.
function lora.last_layers(model, n)
  local layers, list = model:config().num_hidden_layers, {}
  if n > layers then
    error(("an adapter on the last %d layers: the model has %d"):format(n, layers), 2)
  end
  for l = layers - n, layers - 1 do
    list[#list + 1] = l
  end
  return n > 0 and list or nil
end

-- The path of a base as it stands in adapter_config.json. PEFT would load another run's base for a copied adapter if the path
-- were absolute: such a one is written from the adapter's directory on, where it is found from that directory and is an error
-- elsewhere. Names of the hub and relative paths stay as they are.
local function base_path(dir, base)
  local from = base and base:sub(1, 1) == "/" and fs.realpath(dir)
  if not from then
    return base or json.null
  end
  local to, ups = fs.realpath(base) or base, {}
  while from ~= "/" and to ~= from and to:sub(1, #from + 1) ~= from .. "/" do
    from, ups[#ups + 1] = fs.dirname(from), ".."
  end
  local rest = to:sub(from == "/" and 2 or #from + 2)
  ups[#ups + 1] = rest ~= "" and rest or nil
  return ups[1] and table.concat(ups, "/") or "."
end

--- lora.save(model, dir, {base_model_name_or_path=}) -> true | fail.
function lora.save(model, dir, opts)
  opts = opts or {}
  options.check("lora.save", opts, {}, { "base_model_name_or_path" })
  local info = model:lora()
  if not info then
    error("lora.save: the model has no adapter; call model:add_lora first", 2)
  end
  local config = lora_config.write(info)
  config.peft_type, config.task_type, config.bias = "LORA", "CAUSAL_LM", "none"
  config.fan_in_fan_out, config.inference_mode, config.lora_dropout = false, true, info.dropout
  local tensors = {}
  for _, pair in ipairs(model:named_parameters(true)) do
    tensors[PREFIX .. pair[1]] = pair[2]
  end
  local meta = { format = "pt", base_sha256 = model:hash() }
  local ok, message, code = finite.tensors(tensors, dir)
  if ok then
    ok, message, code = fs.mkdir(dir)
  end
  if ok then
    config.base_model_name_or_path = base_path(dir, opts.base_model_name_or_path)
    ok, message, code = safetensors.save(fs.join(dir, "adapter_model.safetensors"), tensors, meta)
  end
  if ok then
    ok, message, code = fs.write(fs.join(dir, "adapter_config.json"), json.encode(config, { indent = 2 }) .. "\n")
  end
  if not ok then
    return nil, message, code
  end
  return true
end

-- The tensors of an adapter's file under the names of the model, each of which must be one that the adapter has.
local function adapter_tensors(file, tensors, model)
  local wanted, plain, names = {}, {}, {}
  for _, pair in ipairs(model:named_parameters(true)) do
    wanted[pair[1]] = true
  end
  for name in pairs(tensors) do
    names[#names + 1] = name
  end
  table.sort(names)
  for _, name in ipairs(names) do
    if name:sub(1, #PREFIX) ~= PREFIX then
      return nil, ("%s: tensor '%s' does not begin with '%s'"):format(file, name, PREFIX), "FORMAT"
    elseif not wanted[name:sub(#PREFIX + 1)] then
      return nil, ("%s: tensor '%s' belongs to no layer that has an adapter by adapter_config.json"):format(file, name), "FORMAT"
    end
    plain[name:sub(#PREFIX + 1)] = tensors[name]
  end
  return plain
end

-- nil, message, code where the file says that the adapter belongs to other base weights than the model's.
local function check_base(model, file, sha256, name)
  if sha256 and sha256 ~= model:hash() then
    return nil, ("%s: belongs to another base (%s): its weights have sha256 %s, this model's %s; load that base"):format(file,
      name or "?", sha256, model:hash()), "FORMAT"
  end
  return true
end

-- Gives the model the adapter of these options of add_lora and lets fill() give it its values; where either fails, the model has
-- the adapter that it had.
local function attach(model, path, options_of, fill)
  local before, kept = model:lora(), {}
  for _, pair in ipairs(model:named_parameters(true)) do
    kept[pair[1]] = pair[2]
  end
  local ok, err = pcall(model.add_lora, model, options_of)
  if not ok then
    return nil, path .. ": " .. tostring(err), "FORMAT"
  end
  local filled, reason, which = fill()
  if not filled then
    model:drop_lora()
    if before then
      model:add_lora(before)
      assert(transformer.copy_parameters(model:named_parameters(true), kept, "adapter"))
    end
    return nil, reason, which
  end
  return true
end

local function load_gguf(model, path, any_base)
  local read, message, code = gguf_lora.read(path, model)
  local ok = read
  if ok and not any_base then
    ok, message, code = check_base(model, path, read.base_sha256)
  end
  if not ok then
    return nil, message, code
  end
  return attach(model, path, { modules = read.modules }, function()
    return transformer.copy_parameters(model:named_parameters(true), read.tensors, path)
  end)
end

--- lora.load(model, path, {any_base=false}) -> true | fail: attaches the adapter of a PEFT directory or a LoRA GGUF to the
-- model, in place of one that is there; files that are refused leave that one. One that mocl wrote for other base weights
-- is refused unless any_base.
function lora.load(model, dir, opts)
  options.check("lora.load", opts or {}, {}, { "any_base" })
  local any_base = opts and opts.any_base
  if gguf_model.names(dir) then
    return load_gguf(model, dir, any_base)
  end
  local path = fs.join(dir, "adapter_config.json")
  local config, message, code = lora_config.read(path)
  if not config then
    return nil, message, code
  end
  local modules, bad, why = lora_config.modules(path, config, model:config().num_hidden_layers)
  if not modules then
    return nil, bad, why
  end
  local file = fs.join(dir, "adapter_model.safetensors")
  local tensors, meta, kind = safetensors.load(file, { device = model:device() })
  if not tensors then
    local pickled = not fs.exists(file) and fs.exists(fs.join(dir, "adapter_model.bin"))
    return nil, pickled and meta .. " (adapter_model.bin is not read: save the adapter in PEFT as safetensors)" or meta, kind
  end
  local sound, bad_tensor, format = finite.tensors(tensors, file)
  if not sound then
    return nil, bad_tensor, format
  end
  return attach(model, path, { modules = modules, dropout = config.lora_dropout, use_rslora = config.use_rslora }, function()
    local plain, reason, which = adapter_tensors(file, tensors, model)
    local ok = plain
    if ok then
      ok, reason, which = transformer.copy_parameters(model:named_parameters(true), plain, file)
    end
    if ok and not any_base then
      ok, reason, which = check_base(model, file, meta.base_sha256, config.base_model_name_or_path)
    end
    return ok, reason, which
  end)
end

--- lora.save_gguf(model, path, {type="F32"}) -> true | fail: the adapter as a LoRA GGUF, which llama.cpp loads beside the base.
-- type: "F32", "F16", "BF16" or "Q8_0". B holds each layer's scale, so that ranks and alphas that differ and rsLoRA come out
-- right.
function lora.save_gguf(model, path, opts)
  opts = options.check("lora.save_gguf", opts or {}, {}, { "type" })
  if not model:lora() then
    error("lora.save_gguf: the model has no adapter; call model:add_lora first", 2)
  end
  return gguf_lora.save(model, path, opts)
end

return lora
