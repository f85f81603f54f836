--- mocl.lm.lora_config: what an adapter_config.json of PEFT asks for: which linear layers have an adapter, of which rank and
-- alpha. Each key is honoured, or changes nothing, or is refused where its value asks for more than low-rank adapters.

local core = require "mocl.lora.core"
local families = require "mocl.lm.families"
local fs = require "mocl.fs"
local json = require "mocl.json"
local keys = require "mocl.keys"

local lora_config = {}

-- PEFT's defaults, for keys that the file leaves out
local DEFAULTS = { r = 8, lora_alpha = 8, lora_dropout = 0, use_rslora = false, target_modules = { "q_proj", "v_proj" } }

local LISTS = {
  honoured = {
    "peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "init_lora_weights", "target_modules", "exclude_modules",
    "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern", "base_model_name_or_path",
  },
  neutral = {
    task_type = { "CAUSAL_LM" }, bias = { "none" }, fan_in_fan_out = { false }, modules_to_save = { keys.EMPTY },
    use_dora = { false }, use_qalora = { false }, lora_bias = { false }, use_bdlora = { false },
    layer_replication = { keys.EMPTY },
    trainable_token_indices = { keys.EMPTY }, target_parameters = { keys.EMPTY }, megatron_config = { keys.EMPTY },
    alora_invocation_tokens = { false }, arrow_config = { false }, kasa_config = { false }, monteclora_config = { false },
    velora_config = { false },
  },
  without_effect = {
    auto_mapping = "how PEFT finds the class of the base", peft_version = "a note", revision = "of the base's name",
    inference_mode = "whether PEFT trains it", megatron_core = "used with megatron_config",
    qalora_group_size = "used with use_qalora", runtime_config = "PEFT ignores it in files",
    -- each is read by one init_lora_weights, where PEFT makes the adapter; what does more than that is refused there
    eva_config = "first values", corda_config = "first values", loftq_config = "first values", lora_ga_config = "first values",
    ensure_weight_tying = "for embedding and head, which have no adapter here",
  },
}

-- init_lora_weights that give A and B their first values and leave the base as it is
local PLAIN_STARTS = { gaussian = true, eva = true, orthogonal = true, mica = true }
local MOVED = "it takes a part out of the base weights: save it in PEFT with path_initial_model_for_weight_conversion, "
  .. "which writes a plain adapter"
local STARTS = { pissa = MOVED, olora = MOVED, corda = MOVED, lora_ga = MOVED,
  loftq = "it belongs to a base of quantised weights: merge it in PEFT and load the merged model" }

local function check_start(path, value)
  if not keys.given(value) or type(value) == "boolean" then
    return true
  end
  local name = type(value) == "string" and value:lower() or ""
  if PLAIN_STARTS[name] then
    return true
  end
  local cure = STARTS[name:match "^[%a]+_?ga$" or name:match "^%a*"]
  return keys.refuse(path, "init_lora_weights", value, cure or "true, false, gaussian, eva, orthogonal, mica")
end

local function is_size(v)
  return math.type(v) == "integer" and v >= 1
end

local function is_finite(v)
  return type(v) == "number" and v == v and math.abs(v) ~= math.huge
end

-- what the honoured keys may hold: key -> test, in words
local function all_of(test)
  return function(v)
    if type(v) ~= "table" then
      return false
    end
    for _, one in pairs(v) do
      if not test(one) then
        return false
      end
    end
    return true
  end
end

local function is_text(v)
  return type(v) == "string"
end

local function either(a, b)
  return function(v)
    return a(v) or b(v)
  end
end

local function is_layer(v)
  return math.type(v) == "integer"
end

local KINDS = {
  r = { is_size, "a whole number from 1" }, lora_alpha = { is_finite, "a number" },
  lora_dropout = { function(v) return is_finite(v) and v >= 0 and v < 1 end, "a number in [0, 1)" },
  use_rslora = { function(v) return type(v) == "boolean" end, "true or false" },
  target_modules = { either(is_text, all_of(is_text)), "names in a list, or a regular expression" },
  exclude_modules = { either(is_text, all_of(is_text)), "names in a list, or a regular expression" },
  layers_to_transform = { either(is_layer, all_of(is_layer)), "a layer or a list of layers, counted from 0" },
  layers_pattern = { either(is_text, all_of(is_text)), "a text or a list of texts" },
  rank_pattern = { all_of(is_size), "whole numbers from 1 by name" }, alpha_pattern = { all_of(is_finite), "numbers by name" },
}

local function is_empty(v)
  return not keys.given(v) or v == "" or type(v) == "table" and next(v) == nil
end

-- Where matrices lie the other way round, PEFT notes it; what is computed follows from the layer's class, whatever the key says.
local TRANSPOSED = { honoured = table.move(LISTS.honoured, 1, #LISTS.honoured, 1, {}), neutral = {}, without_effect = LISTS.without_effect }
for key, values in pairs(LISTS.neutral) do
  TRANSPOSED.neutral[key] = key == "fan_in_fan_out" and { false, true } or values
end

--- lora_config.is_transposed(family) -> boolean: whether matrices of the family lie the other way round (fan_in_fan_out)
function lora_config.is_transposed(family)
  for _, entry in pairs(family and family.layer_names or {}) do
    if entry.transposed then
      return true
    end
  end
  return false
end

--- lora_config.read(path, family) -> config | fail: the keys that mocl honours, with PEFT's defaults; rank_order and alpha_order are
-- the names in rank_pattern and alpha_pattern in the order of the file. family: as transformer.family gives it, or nil.
function lora_config.read(path, family)
  local all, message, code = keys.load(path)
  if not all then
    return nil, message, code
  end
  if all.peft_type ~= "LORA" then
    return nil, ("%s: peft_type = %s: not the configuration of a LoRA adapter"):format(path, keys.show(all.peft_type)), "FORMAT"
  end
  local asked, known = {}, {}
  for _, name in ipairs(LISTS.honoured) do
    known[name] = true
  end
  for name, value in pairs(all) do -- a key of another version that is off asks for nothing
    if known[name] or LISTS.neutral[name] or LISTS.without_effect[name] or not (value == false or is_empty(value)) then
      asked[name] = value
    end
  end
  local ok, bad, kind = keys.check(path, asked, lora_config.is_transposed(family) and TRANSPOSED or LISTS)
  if ok then
    ok, bad, kind = check_start(path, all.init_lora_weights)
  end
  if not ok then
    return nil, bad, kind
  end
  local config = {}
  for name in pairs(KINDS) do
    local value = all[name]
    if keys.given(value) then
      if not KINDS[name][1](value) then
        return keys.refuse(path, name, value, KINDS[name][2])
      end
      config[name] = value
    else
      config[name] = name == "target_modules" and family and family.lora_targets or DEFAULTS[name]
    end
  end
  config.base_model_name_or_path = type(all.base_model_name_or_path) == "string" and all.base_model_name_or_path or nil
  local text = fs.read(path) or ""
  config.rank_order, config.alpha_order = json.keys(text, "rank_pattern"), json.keys(text, "alpha_pattern")
  return config
end

-- ---- names ----

local LINEARS = { "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
  "mlp.down_proj" }

--- The names of all modules of a decoder of that many layers, as PEFT sees them, and the set of those that can have adapters.
local function own_names(layers)
  local names, linear = { "model", "model.embed_tokens", "model.layers", "model.norm", "model.rotary_emb", "lm_head" }, {}
  for l = 0, layers - 1 do
    local block = "model.layers." .. l
    for _, part in ipairs { "", ".self_attn", ".mlp", ".mlp.act_fn", ".input_layernorm", ".post_attention_layernorm" } do
      names[#names + 1] = block .. part
    end
    for _, part in ipairs(LINEARS) do
      names[#names + 1] = block .. "." .. part
      linear[names[#names]] = true
    end
  end
  return names, linear
end

-- The same for a family with names of its own: the modules that its tensors name, and those around them.
local function family_names(layers, family, bare)
  local names, linear, seen = {}, {}, {}
  local function add(name)
    if not seen[name] then
      seen[name], names[#names + 1] = true, name
    end
  end
  local function add_with_parents(name)
    for at in name:gmatch "()%." do
      add(name:sub(1, at - 1))
    end
    add(name)
  end
  for ours in pairs(family.names) do
    add_with_parents((families.module(family, ours, bare)))
  end
  for l = 0, layers - 1 do
    for ours in pairs(family.layer_names) do
      local name = families.module(family, ("model.layers.%d.%s"):format(l, ours), bare)
      add_with_parents(name)
      linear[name] = ours:find "_proj$" and true or nil
    end
  end
  table.sort(names)
  return names, linear
end

local function module_names(layers, family, bare)
  if family then
    return family_names(layers, family, bare)
  end
  return own_names(layers)
end

-- What a group of a regular expression may begin with, and escapes that are the same for Python and PCRE2.
local GROUPS = { "^%?[:=!>]", "^%?<[=!]", "^%?P<[%w_]+>", "^%?P=[%w_]+%)", "^%?#", "^%?%-?[ims]+:", "^%?[ims]+%-[ims]+:" }
local ESCAPES = "[AbBdDsSwWZafnrt]"

-- A reason why PCRE2 would read a regular expression of Python's otherwise, or nil.
local function differs(pattern)
  local i, class = 1, false
  if pattern:find "^%(%?[ims]+%)" then
    i = pattern:find(")", 1, true) + 1
  end
  while i <= #pattern do
    local c, rest = pattern:sub(i, i), pattern:sub(i + 1)
    local skip = 1
    if c == "\\" then
      skip = 2
      local plain = rest:find("^" .. ESCAPES) or rest:find "^[1-9]%D" or rest:find "^[1-9]$" or rest:find "^[^%w]"
      if rest:find "^x%x%x" then
        skip = 4
      elseif not plain then
        return "\\" .. rest:sub(1, 1)
      end
    elseif class then
      class = c ~= "]"
      if c == "[" and rest:find "^[:.=]" then
        return "[" .. rest:sub(1, 1)
      end
    elseif c == "[" then
      class = true
      skip = 1 + #rest:match "^%^?%]?"
    elseif c == "(" and rest:find "^[?*]" then
      local same = false
      for _, group in ipairs(GROUPS) do
        same = same or rest:find(group) ~= nil
      end
      if not same then
        return "(" .. rest:sub(1, 2)
      end
      skip = rest:find "^%?#" and #pattern or 2
    elseif c == "{" and rest:find "^[%s,]" then
      return "{" .. rest:sub(1, 1)
    end
    i = i + skip
  end
end

-- The names that a regular expression of a key matches: name -> true, or the text of its group idx | fail
local function matching(path, key, pattern, wrapped, names, whole)
  local other = differs(pattern)
  local found, why
  if not other then
    found, why = core.find_names(wrapped or pattern, names, whole)
  end
  if not found then
    return keys.refuse(path, key, pattern, other and ("%s in a regular expression is not"):format(other)
      or "not a regular expression: " .. why)
  end
  local set = {}
  for i, value in pairs(found) do
    set[names[i]] = value
  end
  return set
end

local function ends_with(name, list)
  for _, one in ipairs(list) do
    if name:sub(-#one - 1) == "." .. one then
      return true
    end
  end
  return false
end

local function contains(list, value)
  for _, one in ipairs(list) do
    if one == value then
      return true
    end
  end
  return false
end

-- name -> true for the modules that a list or a regular expression names | fail; exact: those named in full
local function named(path, key, value, names)
  if type(value) == "string" then
    return matching(path, key, value, nil, names, true)
  end
  local set, exact = {}, {}
  for _, name in ipairs(names) do
    exact[name] = contains(value, name) or nil
    set[name] = exact[name] or ends_with(name, value) or nil
  end
  return set, exact
end

-- name -> number of its layer, as layers_pattern finds it | fail
local function layer_numbers(path, config, names)
  local numbers, patterns = {}, config.layers_pattern
  if is_empty(patterns) then
    for _, name in ipairs(names) do
      numbers[name] = math.tointeger(tonumber(name:match "^.*%.[^.]*%.(%d+)%."))
    end
    return numbers
  end
  local decided = {}
  for _, pattern in ipairs(type(patterns) == "string" and { patterns } or patterns) do
    local wrapped = "(?:^|.*?\\.)" .. pattern .. "\\.(?P<idx>\\d+)\\."
    local set, message, code = matching(path, "layers_pattern", pattern, wrapped, names, false)
    if not set then
      return nil, message, code
    end
    for name, idx in pairs(set) do
      if not decided[name] then
        decided[name], numbers[name] = true, math.tointeger(tonumber(idx))
      end
    end
  end
  return numbers
end

-- The modules that PEFT gives an adapter: name -> true | fail
local function chosen(path, config, names, linear)
  local targets, layers = config.target_modules, config.layers_to_transform
  local is_pattern = type(targets) == "string"
  if is_pattern and (layers ~= nil or config.layers_pattern ~= nil) then
    local key = layers ~= nil and "layers_to_transform" or "layers_pattern"
    return keys.refuse(path, key, config[key], "only beside a list of target_modules")
  elseif not is_empty(config.layers_pattern) and layers == nil then
    return keys.refuse(path, "layers_pattern", config.layers_pattern, "only beside layers_to_transform")
  end
  local set, exact, code
  if is_pattern and targets:lower() == "all-linear" then
    set = {}
    for name in pairs(linear) do
      set[name] = true
    end
  else
    set, exact, code = named(path, "target_modules", targets, names)
    if not set then
      return nil, exact, code
    end
  end
  if not is_pattern and layers ~= nil and not is_empty(layers) then
    local numbers, message, kind = layer_numbers(path, config, names)
    if not numbers then
      return nil, message, kind
    end
    local list = type(layers) == "table" and layers or { layers }
    for name in pairs(set) do
      if not exact[name] and not contains(list, numbers[name]) then
        set[name] = nil
      end
    end
  end
  if not is_empty(config.exclude_modules) then
    local out, message, kind = named(path, "exclude_modules", config.exclude_modules, names)
    if not out then
      return nil, message, kind
    end
    for name in pairs(out) do
      set[name] = nil
    end
  end
  return set
end

-- name -> value of the first pattern of the file that matches the end of the name | fail
local function by_pattern(path, key, values, order, names)
  local result = {}
  for _, pattern in ipairs(values and order or {}) do
    local set, message, code = matching(path, key, pattern, "(.*\\.)?(" .. pattern .. ")$", names, false)
    if not set then
      return nil, message, code
    end
    for name in pairs(set) do
      result[name] = result[name] or values[pattern]
    end
  end
  return result
end

-- the linear layers, as they are called there, in words
local function linear_words(family)
  local list, seen = {}, {}
  for _, ours in ipairs(family and LINEARS or {}) do
    local entry = family.layer_names[ours]
    local name = entry and entry[1]:match "[^.]*$"
    list[#list + 1] = name and not seen[name] and name or nil
    seen[name or ""] = true
  end
  return family and table.concat(list, ", ") or "q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj"
end

--- lora_config.modules(path, config, layers, family, bare) -> {name = {r=, alpha=}} | fail: the linear layers of a decoder of that many
-- layers that config, from lora_config.read, gives an adapter, under the family's names (transformer.family). path is for messages.
function lora_config.modules(path, config, layers, family, bare)
  local names, linear = module_names(layers, family, bare)
  local set, message, code = chosen(path, config, names, linear)
  if not set then
    return nil, message, code
  end
  local list = {}
  for _, name in ipairs(names) do
    if set[name] and not linear[name] then
      return keys.refuse(path, "target_modules", config.target_modules, ("it names %s; adapters are on the linear layers of the "
        .. "blocks: %s"):format(name, linear_words(family)))
    elseif set[name] then
      list[#list + 1] = name
    end
  end
  if not list[1] then
    return keys.refuse(path, "target_modules", config.target_modules, ("with the keys beside it, it names no linear layer of a "
      .. "model of %d layers"):format(layers))
  end
  local ranks, bad, kind = by_pattern(path, "rank_pattern", config.rank_pattern, config.rank_order, list)
  if not ranks then
    return nil, bad, kind
  end
  local alphas, why, which = by_pattern(path, "alpha_pattern", config.alpha_pattern, config.alpha_order, list)
  if not alphas then
    return nil, why, which
  end
  local modules = {}
  for _, name in ipairs(list) do
    modules[name] = { r = ranks[name] or config.r, alpha = alphas[name] or config.lora_alpha }
  end
  return modules
end

-- The ends of the names behind the layers' numbers, where each layer has the same modules of one rank and one alpha; nil where not.
local function even_suffixes(info, layers, family)
  local count, list, first = {}, {}, nil
  for name, one in pairs(info.modules) do
    first = first or one
    local inner = name:match(family.layer:gsub("%%d%.$", "%%d+%%."):gsub("^", ".*") .. "(.*)$")
    if not inner or one.r ~= first.r or one.alpha ~= first.alpha then
      return nil
    elseif not count[inner] then
      list[#list + 1] = inner
    end
    count[inner] = (count[inner] or 0) + 1
  end
  for _, n in pairs(count) do
    if n ~= layers then
      return nil
    end
  end
  table.sort(list)
  return list, first
end

--- The keys of adapter_config.json for an adapter as model:lora() gives it: the inverse of modules. Of a family with names of its own
-- info.modules has these names; layers: how many the model has.
function lora_config.write(info, family, layers)
  local suffixes, one = nil, nil
  if family then
    suffixes, one = even_suffixes(info, layers, family)
  end
  if suffixes then
    return { r = one.r, lora_alpha = one.alpha, target_modules = suffixes, use_rslora = info.use_rslora }
  end
  if not info.modules then
    return { r = info.r, lora_alpha = info.alpha, target_modules = info.target_modules,
      layers_to_transform = info.layers_to_transform, use_rslora = info.use_rslora }
  end
  local names = {}
  for name in pairs(info.modules) do
    names[#names + 1] = name
  end
  table.sort(names)
  local first = info.modules[names[1]]
  local config = { r = first.r, lora_alpha = first.alpha, target_modules = names, use_rslora = info.use_rslora, rank_pattern = {},
    alpha_pattern = {} }
  for _, name in ipairs(names) do
    local one = info.modules[name]
    config.rank_pattern[name] = one.r ~= first.r and one.r or nil
    config.alpha_pattern[name] = one.alpha ~= first.alpha and one.alpha or nil
  end
  return config
end

return lora_config
