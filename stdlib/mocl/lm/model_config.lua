--- mocl.lm.model_config: config.json and generation_config.json of a model's directory. What would ask for another model
-- than mocl computes is refused by name, and so is what two living versions of transformers read as two models.

local core = require "mocl.transformer.core"
local fs = require "mocl.fs"
local json = require "mocl.json"
local keys = require "mocl.keys"
local model_keys = require "mocl.lm.model_keys"

local model_config = {}

local given, refuse, show = keys.given, keys.refuse, keys.show

local function contradiction(path, a, x, b, y, cure)
  return nil, ("%s: %s = %s contradicts %s = %s; %s"):format(path, a, show(x), b, show(y), cure), "FORMAT"
end

-- ---- rotary embedding ----

-- The base that a table of rotary parameters asks for, or nil where it names none; false, message, code where it asks
-- for another kind of embedding.
local function rope_table(path, key, t)
  if type(t) ~= "table" then
    return false, select(2, refuse(path, key, t, "an object or null")), "FORMAT"
  elseif next(t) == nil then
    return nil
  end
  local kind = given(t.rope_type) and t.rope_type or t.type
  if given(t.type) and given(t.rope_type) and t.type ~= t.rope_type then
    return false, select(2, contradiction(path, key .. ".type", t.type, key .. ".rope_type", t.rope_type,
      "transformers 4 takes the first and 5 the second; keep one")), "FORMAT"
  end
  if given(kind) and kind ~= "default" then
    return false, select(2, refuse(path, key .. ".rope_type", kind, "default")), "FORMAT"
  end
  local ok, message, code = keys.check(path, t, model_keys.ROPE, key .. ".")
  if not ok then
    return false, message, code
  end
  if not given(kind) then
    for name in pairs(t) do
      if name ~= "rope_theta" and given(t[name]) then
        return false, ("%s: %s has no rope_type, which %s needs; write \"rope_type\": \"default\" if it is the plain embedding")
          :format(path, key, name), "FORMAT"
      end
    end
  end
  if not given(t.rope_theta) then
    return nil
  elseif type(t.rope_theta) ~= "number" then
    return false, select(2, refuse(path, key .. ".rope_theta", t.rope_theta, "a number")), "FORMAT"
  end
  return t.rope_theta
end

-- The base of the rotary embedding. transformers 5 has rope_parameters with all in it; 4 has rope_theta at the top and
-- rope_scaling, of which 5 reads a rope_theta inside too and 4 does not.
local function rope_theta(path, all, default)
  local top = all.rope_theta
  local top_length = all.original_max_position_embeddings
  if given(top) and type(top) ~= "number" then
    return refuse(path, "rope_theta", top, "a number")
  end
  local theta, from = nil, nil
  for _, key in ipairs { "rope_parameters", "rope_scaling" } do
    if given(all[key]) then
      local inside, message, code = rope_table(path, key, all[key])
      if inside == false then
        return nil, message, code
      end
      local length = all[key].original_max_position_embeddings
      if given(length) and given(top_length) and length ~= top_length then
        return contradiction(path, "original_max_position_embeddings", top_length, key .. ".original_max_position_embeddings",
          length, "transformers 4 and 5 compute two models from it; keep the right one")
      end
      if inside and theta and inside ~= theta then
        return contradiction(path, from, theta, key .. ".rope_theta", inside, "keep the right one")
      elseif inside then
        theta, from = inside, key .. ".rope_theta"
      end
      if inside and given(top) and inside ~= top then
        return contradiction(path, key .. ".rope_theta", inside, "rope_theta", top,
          "transformers 4 and 5 compute two models from it; keep the right one")
      elseif inside and key == "rope_scaling" and not given(top) and not given(all.rope_parameters) and inside ~= default then
        return contradiction(path, key .. ".rope_theta", inside, "the rope_theta that is missing", default,
          "transformers 5 takes the first and 4 the second; write the right one as rope_theta")
      end
    end
  end
  return theta or given(top) and top or default
end

-- ---- windows and layers ----

-- A window at least as long as the context hides nothing.
local function check_window(path, all, config, default)
  local window, name = all.sliding_window, "sliding_window"
  if window == nil and default then
    window, name = default, "sliding_window, which is missing and means"
  end
  if given(window) and not (math.type(window) == "integer" and window >= config.max_position_embeddings) then
    return refuse(path, name, window, "null, or at least max_position_embeddings")
  end
  local types = all.layer_types
  if given(types) then
    local plain = type(types) == "table"
    for _, kind in pairs(plain and types or {}) do
      plain = plain and kind == "full_attention"
    end
    if not plain then
      return refuse(path, "layer_types", types, "full_attention in every layer")
    end
  end
  return true
end

local function check_architectures(path, all)
  local list = all.architectures
  if not given(list) then
    return true
  end
  local known = type(list) == "table"
  for _, name in pairs(known and list or {}) do
    known = known and model_keys.ARCHITECTURES[name] or false
  end
  if not known then
    return refuse(path, "architectures", list, "LlamaForCausalLM, MistralForCausalLM")
  end
  return true
end

-- ---- ends of answers ----

-- The ids of eos_token_id, a number or a list of numbers; ids that the model does not have end nothing. nil where the
-- key is missing; false, message, code where it holds something else.
local function eos_ids(path, all, vocab)
  local value = all.eos_token_id
  if value == nil then
    return nil
  end
  local list, out = value == json.null and {} or type(value) == "table" and value or { value }, {}
  for key, id in pairs(list) do
    if math.type(key) ~= "integer" or math.type(id) ~= "integer" then
      return false, select(2, refuse(path, "eos_token_id", value, "an id or a list of ids")), "FORMAT"
    end
  end
  for _, id in ipairs(list) do
    if id >= 0 and id < vocab then
      out[#out + 1] = id
    end
  end
  return out
end

--- model_config.generation_path(dir) -> path
function model_config.generation_path(dir)
  return fs.join(dir, "generation_config.json")
end

-- ---- the files ----

--- model_config.check(path, all) -> {config =, all =, eos =} | fail: what config.json at `path`, decoded as `all`,
-- asks for. config: all keys of transformer.new; eos: list of the ids that end an answer, or nil where it does not
-- say.
function model_config.check(path, all)
  local lists, defaults = model_keys.CONFIG[all.model_type], model_keys.DEFAULTS[all.model_type]
  if not lists then
    return refuse(path, "model_type", all.model_type, "llama, mistral")
  end
  local ok, message, code = keys.check(path, all, lists)
  if not ok then
    return nil, message, code
  end
  local config = {}
  for _, key in ipairs(model_keys.SHAPE) do
    if given(all[key]) then
      config[key] = all[key]
    elseif all[key] == nil or key ~= "num_key_value_heads" then -- null: as many as there are heads
      config[key] = defaults[key]
    end
  end
  config.rope_theta, message, code = rope_theta(path, all, defaults.rope_theta)
  if not config.rope_theta then
    return nil, message, code
  end
  local fits, why = pcall(core.check, config)
  if not fits then
    return nil, path .. ": " .. why, "FORMAT"
  end
  config.num_key_value_heads = config.num_key_value_heads or config.num_attention_heads
  config.head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
  for _, check in ipairs { check_architectures, check_window } do
    ok, message, code = check(path, all, config, defaults.sliding_window)
    if not ok then
      return nil, message, code
    end
  end
  local eos
  eos, message, code = eos_ids(path, all, config.vocab_size)
  if eos == false then
    return nil, message, code
  end
  return { config = config, all = all, eos = eos }
end

--- model_config.generation(dir, vocab) -> {all =, eos =} or false where there is no generation_config.json | fail.
-- vocab: how many ids the model has.
function model_config.generation(dir, vocab)
  local path = model_config.generation_path(dir)
  if fs.exists(path) ~= "file" then
    return false
  end
  local all, message, code = keys.load(path)
  local ok = all
  if ok then
    ok, message, code = keys.check(path, all, model_keys.GENERATION)
  end
  if not ok then
    return nil, message, code
  end
  local eos
  eos, message, code = eos_ids(path, all, vocab)
  if eos == false then
    return nil, message, code
  end
  return { all = all, eos = eos or {} }
end

--- model_config.read(dir) -> {config =, all =, eos =} | fail, as model_config.check. generation_config.json, where it
-- exists, replaces what config.json says of the ends of answers, also where it names none, as in transformers.
function model_config.read(dir)
  local path = fs.join(dir, "config.json")
  local all, message, code = keys.load(path)
  local read = nil
  if all then
    read, message, code = model_config.check(path, all)
  end
  if not read then
    return nil, message, code
  end
  local generation
  generation, message, code = model_config.generation(dir, read.config.vocab_size)
  if generation == nil then
    return nil, message, code
  end
  read.eos = generation and generation.eos or read.eos
  return read
end

return model_config
