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
local families = require "mocl.lm.families"
local lora_config = require "mocl.lm.lora_config"
local lora_join = require "mocl.lm.lora_join"
local options = require "mocl.options"
local parameters = require "mocl.parameters"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local lora = {}

local PREFIX = "base_model.model." -- PEFT's, in front of the model's own names

--- The tensors of an adapter, in a fixed order: of the active one, or of the one of that name.
function lora.parameters(model, name)
  return transformer.parameters(model, name or true)
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

-- The name of the adapter that is to be written; raises at the caller of `what` where there is none.
local function name_of(model, name, what)
  name = name or model:active_adapter()
  if not name then
    local names = model:adapters()
    error(what .. (names[1] and (": no adapter is active; name one (%s)"):format(table.concat(names, ", "))
      or ": the model has no adapter; call model:add_lora first"), 3)
  end
  return name
end

-- Where q, k and v are one matrix in the family's files, the ranks of an adapter's own layers stand in the metadata of the file under this
-- key, so that a run goes on with the adapter that it had.
local PARTS = "mocl_modules"

-- The options of add_lora with a rank and an alpha for each layer, of any adapter.
local function modules_of(model, name, info)
  local list = info.modules or {}
  for _, pair in ipairs(info.modules and {} or model:named_parameters(name)) do
    local module = pair[1]:match "^(.*)%.lora_A%.weight$"
    if module then
      list[module] = { r = info.r, alpha = info.alpha }
    end
  end
  return list
end

-- The tensors of an adapter as PEFT has them, the keys of its configuration, and what else its file notes.
local function for_peft(model, name)
  local info, tensors = model:lora(name), {}
  local family, bare = transformer.family(model)
  if not family then
    for _, pair in ipairs(model:named_parameters(name)) do
      tensors[PREFIX .. pair[1]] = pair[2]
    end
    return tensors, lora_config.write(info), info
  end
  local modules, in_blocks = {}, false
  for _, one in ipairs(assert(lora_join.pairs(model, name, function(module) return families.module(family, module, bare) end))) do
    local r = one.A.shape[1]
    modules[one.name] = { r = r, alpha = one.scale * (info.use_rslora and math.sqrt(r) or r) }
    in_blocks = in_blocks or one.in_blocks
    tensors[PREFIX .. one.name .. ".lora_A.weight"], tensors[PREFIX .. one.name .. ".lora_B.weight"] = one.A, one.B
  end
  local config = lora_config.write({ modules = modules, use_rslora = info.use_rslora }, family, model:config().num_hidden_layers)
  return tensors, config, info, family, in_blocks and json.encode(modules_of(model, name, info)) or nil
end

--- lora.save(model, dir, {base_model_name_or_path=, name=}) -> true | fail: the active adapter, or the one of that name.
function lora.save(model, dir, opts)
  opts = opts or {}
  options.check("lora.save", opts, {}, { "base_model_name_or_path", "name" })
  local name = name_of(model, opts.name, "lora.save")
  local tensors, config, info, family, parts = for_peft(model, name)
  config.peft_type, config.task_type, config.bias = "LORA", "CAUSAL_LM", "none"
  config.fan_in_fan_out, config.inference_mode, config.lora_dropout = lora_config.is_transposed(family), true, info.dropout
  config.task_type = model:config().head ~= "none" and config.task_type or nil -- PEFT's name for others depends on the class
  local meta = { format = "pt", base_sha256 = model:hash(), [PARTS] = parts }
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

-- The tensors of an adapter's file under the names of the model, each of which must be one that the adapter has. whole(module) -> the
-- module's name in the file, part, parts.
local function adapter_tensors(file, tensors, model, adapter, whole)
  local wanted, plain = {}, {}
  for _, pair in ipairs(model:named_parameters(adapter)) do
    local module, which = pair[1]:match "^(.*)(%.lora_[AB]%.weight)$"
    local name, part, parts = whole(module)
    wanted[name .. which] = wanted[name .. which] or {}
    table.insert(wanted[name .. which], { pair[1], part, which:find "B" and parts or 1 })
  end
  for _, name in ipairs(options.sorted_keys(tensors)) do
    if name:sub(1, #PREFIX) ~= PREFIX then
      return nil, ("%s: tensor '%s' does not begin with '%s'"):format(file, name, PREFIX), "FORMAT"
    elseif not wanted[name:sub(#PREFIX + 1)] then
      return nil, ("%s: tensor '%s' belongs to no layer that has an adapter by adapter_config.json"):format(file, name), "FORMAT"
    end
    local t = tensors[name]
    for _, one in ipairs(wanted[name:sub(#PREFIX + 1)]) do
      if t.ndim ~= 2 or t.shape[1] % one[3] ~= 0 then
        return nil, ("%s: tensor '%s' is (%s), which is not that of %d layers"):format(file, name, table.concat(t.shape, ","), one[3]), "FORMAT"
      end
      plain[one[1]] = lora_join.part(t, one[2], one[3])
    end
  end
  return plain
end

-- Takes joined pairs apart, as the metadata of the file say: modules and place of lora_join.plan, tensors of adapter_tensors. In place.
local function take_apart(plain, place, modules, joined, whole, is_rslora)
  local function scale(one)
    return one.alpha / (is_rslora and math.sqrt(one.r) or one.r)
  end
  for name, at in pairs(place) do
    local a, b, factor = name .. ".lora_A.weight", name .. ".lora_B.weight", scale(joined[whole(name)]) / scale(modules[name])
    plain[a] = plain[a] and plain[a]:narrow(1, at.first, at.r)
    plain[b] = plain[b] and plain[b]:narrow(2, at.first, at.r)
    if plain[b] and math.abs(factor - 1) > 1e-12 then -- else it is 1 but for the rounding of alpha
      plain[b] = tensor.no_grad(function() return plain[b] * factor end)
    end
  end
end

-- The modules of a configuration, under the family's names, as add_lora takes them: those of the model's linear layers.
local function own_modules(model, modules, whole)
  local out = {}
  for _, pair in ipairs(model:named_parameters()) do
    local module = pair[1]:match "^(model%.layers%..*_proj)%.weight$"
    out[module or ""] = module and modules[whole(module)] or nil
  end
  return out
end

-- nil, message, code where the file says that the adapter belongs to other base weights than the model's.
local function check_base(model, file, sha256, name)
  if sha256 and sha256 ~= model:hash() then
    return nil, ("%s: belongs to another base (%s): its weights have sha256 %s, this model's %s; load that base"):format(file,
      name or "?", sha256, model:hash()), "FORMAT"
  end
  return true
end

local function has(model, name)
  for _, one in ipairs(model:adapters()) do
    if one == name then
      return true
    end
  end
  return false
end

-- Gives the model the adapter of these options of add_lora and lets fill() give it its values; where either fails, the model has
-- the adapter of that name that it had.
local function attach(model, path, options_of, fill)
  local name = options_of.name
  local before, kept = has(model, name) and model:lora(name), {}
  for _, pair in ipairs(before and model:named_parameters(name) or {}) do
    kept[pair[1]] = pair[2]
  end
  local ok, err = pcall(model.add_lora, model, options_of)
  if not ok then
    return nil, path .. ": " .. tostring(err), "FORMAT"
  end
  local filled, reason, which = fill()
  if not filled then
    if before then
      model:add_lora(before)
      assert(parameters.copy(model:named_parameters(name), kept, "adapter"))
    else
      model:delete_adapter(name)
    end
    return nil, reason, which
  end
  return true
end

local function load_gguf(model, path, any_base, name)
  local read, message, code = gguf_lora.read(path, model)
  local ok = read
  if ok and not any_base then
    ok, message, code = check_base(model, path, read.base_sha256)
  end
  if not ok then
    return nil, message, code
  end
  return attach(model, path, { modules = read.modules, name = name }, function()
    return parameters.copy(model:named_parameters(name), read.tensors, path)
  end)
end

--- lora.load(model, path, {any_base=false, name="default"}) -> true | fail: attaches the adapter of a PEFT directory or a LoRA
-- GGUF to the model, in place of one that has this name; files that are refused leave that one. Where no adapter is active
-- it becomes the active one. One that mocl wrote for other base weights is refused unless any_base.
function lora.load(model, dir, opts)
  opts = options.check("lora.load", opts or {}, {}, { "any_base", "name" })
  local any_base, name = opts.any_base, opts.name or "default"
  if gguf_model.names(dir) then
    return load_gguf(model, dir, any_base, name)
  end
  local path = fs.join(dir, "adapter_config.json")
  local family, bare = transformer.family(model)
  local config, message, code = lora_config.read(path, family)
  if not config then
    return nil, message, code
  end
  local modules, bad, why = lora_config.modules(path, config, model:config().num_hidden_layers, family, bare)
  if not modules then
    return nil, bad, why
  end
  local function whole(module)
    if family then
      return families.module(family, module, bare)
    end
    return module, 1, 1
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
  local own, place = family and own_modules(model, modules, whole) or modules, nil
  if family and meta[PARTS] then
    local noted, reason = json.decode(meta[PARTS]), "it is no table"
    if type(noted) == "table" then
      for name in pairs(noted) do
        if type(name) ~= "string" or not own[name] then
          noted, reason = nil, tostring(name) .. " is no layer that has an adapter by adapter_config.json"
          break
        end
      end
      if noted then
        place, reason = lora_join.plan(noted, modules, whole)
      end
    end
    if not place then
      return nil, ("%s: %s in its metadata does not fit the adapter: %s"):format(file, PARTS, reason), "FORMAT"
    end
    own = noted
  end
  return attach(model, path, {
    modules = own, dropout = config.lora_dropout, use_rslora = config.use_rslora, name = name,
  }, function()
    local plain, reason, which = adapter_tensors(file, tensors, model, name, whole)
    local ok = plain
    if ok and place then
      take_apart(plain, place, own, modules, whole, config.use_rslora)
    end
    if ok then
      ok, reason, which = parameters.copy(model:named_parameters(name), plain, file)
    end
    if ok and not any_base then
      ok, reason, which = check_base(model, file, meta.base_sha256, config.base_model_name_or_path)
    end
    return ok, reason, which
  end)
end

--- lora.save_all(model, dir, {base_model_name_or_path=}) -> true | fail: all adapters as PEFT lays them out, the one named
-- "default" in dir itself and each other in dir/NAME.
function lora.save_all(model, dir, opts)
  opts = options.check("lora.save_all", opts or {}, {}, { "base_model_name_or_path" })
  name_of(model, model:adapters()[1], "lora.save_all")
  for _, name in ipairs(model:adapters()) do
    local ok, message, code = lora.save(model, name == "default" and dir or fs.join(dir, name), {
      base_model_name_or_path = opts.base_model_name_or_path, name = name,
    })
    if not ok then
      return nil, message, code
    end
  end
  return true
end

--- lora.load_all(model, dir, {any_base=false}) -> names | fail: the adapters of a directory as lora.save_all and PEFT write it. A
-- directory without any is refused; those that were loaded before one is refused stay.
function lora.load_all(model, dir, opts)
  opts = options.check("lora.load_all", opts or {}, {}, { "any_base" })
  local entries, message, code = fs.list(dir)
  if not entries then
    return nil, message, code
  end
  local names = {}
  if fs.exists(fs.join(dir, "adapter_config.json")) then
    names[1] = "default"
  end
  table.sort(entries)
  for _, entry in ipairs(entries) do
    if fs.exists(fs.join(dir, entry, "adapter_config.json")) then
      names[#names + 1] = entry
    end
  end
  if not names[1] then
    return nil, ("%s: no adapter_config.json in it, or in a directory below it"):format(dir), "FORMAT"
  end
  for i, name in ipairs(names) do
    local from = i == 1 and name == "default" and fs.exists(fs.join(dir, "adapter_config.json")) and dir or fs.join(dir, name)
    local ok, why, which = lora.load(model, from, { any_base = opts.any_base, name = name })
    if not ok then
      return nil, why, which
    end
  end
  return names
end

--- lora.save_gguf(model, path, {type="F32", name=}) -> true | fail: the adapter as a LoRA GGUF, which llama.cpp loads beside the base.
-- type: "F32", "F16", "BF16" or "Q8_0". B holds each layer's scale, so that ranks and alphas that differ and rsLoRA come out
-- right.
function lora.save_gguf(model, path, opts)
  opts = options.check("lora.save_gguf", opts or {}, {}, { "type", "name" })
  return gguf_lora.save(model, path, { type = opts.type, name = name_of(model, opts.name, "lora.save_gguf") })
end

return lora
