--- mocl.lora: adapters as PEFT directories (adapter_config.json, adapter_model.safetensors).
-- Attaching, merging and dropping are methods of the model (add_lora, merge_lora, drop_lora). An adapter
-- whose names match nothing, or only some layers, is refused: loaded silently it would change nothing.
--
--   model:add_lora { r = 16, alpha = 32, target_modules = { "q_proj", "v_proj" }, key = k }
--   assert(lora.save(model, "out/adapter", { base_model_name_or_path = "runs/x/sft" }))

local finite = require "mocl.finite"
local fs = require "mocl.fs"
local json = require "mocl.json"
local options = require "mocl.options"
local safetensors = require "mocl.safetensors"
local transformer = require "mocl.transformer"

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

--- lora.save(model, dir, {base_model_name_or_path=}) -> true | fail.
function lora.save(model, dir, opts)
  local info = model:lora()
  if not info then
    error("lora.save: the model has no adapter; call model:add_lora first", 2)
  end
  local config = {
    peft_type = "LORA", task_type = "CAUSAL_LM", bias = "none", fan_in_fan_out = false, inference_mode = true,
    r = info.r, lora_alpha = info.alpha, lora_dropout = info.dropout, target_modules = info.target_modules,
    layers_to_transform = info.layers_to_transform,
    base_model_name_or_path = opts and opts.base_model_name_or_path or json.null,
  }
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

-- keys of adapter_config.json that would change what the tensors mean, and the value that does not
local PLAIN = {
  use_rslora = false, use_dora = false, fan_in_fan_out = false, bias = "none", rank_pattern = false, alpha_pattern = false,
  modules_to_save = false,
}

--- lora.load(model, dir, {any_base=false}) -> true | fail: attaches the adapter of a PEFT directory to the model, in
-- place of one that is there; a directory that is refused leaves that one. One that mocl wrote for other base weights
-- is refused unless any_base.
function lora.load(model, dir, opts)
  options.check("lora.load", opts or {}, {}, { "any_base" })
  local path = fs.join(dir, "adapter_config.json")
  local text, message, code = fs.read(path)
  if not text then
    return nil, message, code
  end
  local config, bad = json.decode(text)
  if type(config) ~= "table" or config.peft_type ~= "LORA" or type(config.target_modules) ~= "table" then
    return nil, path .. ": " .. (bad or "not the configuration of a LoRA adapter with a list of target_modules"), "FORMAT"
  end
  for key, plain in pairs(PLAIN) do
    local value = config[key]
    if value ~= nil and value ~= json.null and value ~= plain and not (type(value) == "table" and next(value) == nil) then
      return nil, ("%s: %s = %s is not supported"):format(path, key, json.encode(value)), "FORMAT"
    end
  end
  local file = fs.join(dir, "adapter_model.safetensors")
  local tensors, why, kind = safetensors.load(file, { device = model:device() })
  if not tensors then
    return nil, why, kind
  end
  local sound, bad_tensor, format = finite.tensors(tensors, file)
  if not sound then
    return nil, bad_tensor, format
  end
  local plain = {}
  for name, t in pairs(tensors) do
    if name:sub(1, #PREFIX) ~= PREFIX then
      return nil, ("%s: tensor '%s' does not begin with '%s'"):format(file, name, PREFIX), "FORMAT"
    end
    plain[name:sub(#PREFIX + 1)] = t
  end
  local before, kept = model:lora(), {}
  for _, pair in ipairs(model:named_parameters(true)) do
    kept[pair[1]] = pair[2]
  end
  local layers = config.layers_to_transform
  if layers == json.null or type(layers) == "table" and next(layers) == nil then
    layers = nil -- PEFT writes null or [] for all layers, and one layer as a number
  end
  local ok, err = pcall(model.add_lora, model, {
    r = config.r, alpha = config.lora_alpha, dropout = config.lora_dropout or 0,
    target_modules = config.target_modules, layers_to_transform = type(layers) == "number" and { layers } or layers,
  })
  if not ok then
    return nil, path .. ": " .. tostring(err), "FORMAT"
  end
  local copied, reason, which = transformer.copy_parameters(model:named_parameters(true), plain, file)
  local base = why.base_sha256
  if copied and base and base ~= model:hash() and not (opts and opts.any_base) then
    local name = type(config.base_model_name_or_path) == "string" and config.base_model_name_or_path or "?"
    copied, which = nil, "FORMAT"
    reason = ("%s: belongs to another base (%s): its weights have sha256 %s, this model's %s; load that base"):format(file,
      name, base, model:hash())
  end
  if not copied then
    model:drop_lora()
    if before then
      model:add_lora(before)
      assert(transformer.copy_parameters(model:named_parameters(true), kept, "adapter"))
    end
    return nil, reason, which
  end
  return true
end

return lora
