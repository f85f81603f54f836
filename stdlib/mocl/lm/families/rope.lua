--- mocl.lm.families.rope: the rotary embedding that config.json asks for: a base, and scalings of its frequencies.
-- transformers 5 has rope_parameters with all in it; 4 has rope_theta at the top and rope_scaling, of which 5 reads a
-- rope_theta inside too and 4 does not. What the two read as two models is refused.

local keys = require "mocl.keys"

local rope = {}

local given, refuse, show = keys.given, keys.refuse, keys.show

local OTHER_TYPE = "for other types"

-- What each type reads of its table, besides the base.
local READS = {
  default = {},
  linear = { "factor" },
  llama3 = { "factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings" },
  yarn = { "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim",
    "truncate" },
}
local TYPES = "default, linear, llama3, yarn"

-- The keys of a table of one type, as mocl.keys wants them.
local function lists_of(kind)
  local lists = { honoured = { "rope_theta", "rope_type", "type" }, neutral = { partial_rotary_factor = { 1 } }, without_effect = {} }
  for _, list in pairs(READS) do
    for _, key in ipairs(list) do
      lists.without_effect[key] = OTHER_TYPE
    end
  end
  for _, key in ipairs(READS[kind]) do
    lists.honoured[#lists.honoured + 1] = key
    lists.without_effect[key] = nil
  end
  if kind == "default" then -- a table that scales by 1
    lists.neutral.factor, lists.neutral.attention_factor = { 1 }, { 1 }
    lists.without_effect.factor, lists.without_effect.attention_factor = nil, nil
  end
  return lists
end

local function contradiction(path, a, x, b, y, cure)
  return nil, ("%s: %s = %s contradicts %s = %s; %s"):format(path, a, show(x), b, show(y), cure), "FORMAT"
end

-- ---- frequencies: the scalings of transformers' modeling_rope_utils ----

local function plain(theta, half)
  local list = {}
  for i = 0, half - 1 do
    list[i + 1] = theta ^ (-2 * i / (2 * half))
  end
  return list
end

local scale = {}

function scale.linear(t, list)
  for i, f in ipairs(list) do
    list[i] = f / t.factor
  end
  return 1
end

-- Three bands by wavelength: short ones stay, long ones are divided, between them both are mixed.
function scale.llama3(t, list)
  local old, low, high = t.original, t.low_freq_factor, t.high_freq_factor
  for i, f in ipairs(list) do
    local wavelength = 2 * math.pi / f
    if wavelength > old / low then
      list[i] = f / t.factor
    elseif wavelength >= old / high then
      local smooth = (old / wavelength - low) / (high - low)
      list[i] = (1 - smooth) * f / t.factor + smooth * f
    end
  end
  return 1
end

local function magnitude(factor, m)
  return factor <= 1 and 1 or 0.1 * m * math.log(factor) + 1
end

-- A ramp over the index of the frequency, between those that turn beta_fast and beta_slow times within the old context.
function scale.yarn(t, list)
  local half, theta, old = #list, t.theta, t.original
  local function index(turns)
    return 2 * half * math.log(old / (turns * 2 * math.pi)) / (2 * math.log(theta))
  end
  local low, high = index(t.beta_fast or 32), index(t.beta_slow or 1)
  if t.truncate ~= false then
    low, high = math.floor(low), math.ceil(high)
  end
  low, high = math.max(low, 0), math.min(high, 2 * half - 1)
  high = low == high and high + 0.001 or high
  for i, f in ipairs(list) do
    local ramp = math.min(math.max((i - 1 - low) / (high - low), 0), 1)
    list[i] = f / t.factor * ramp + f * (1 - ramp)
  end
  if t.attention_factor then
    return t.attention_factor
  elseif t.mscale and t.mscale_all_dim then
    return magnitude(t.factor, t.mscale) / magnitude(t.factor, t.mscale_all_dim)
  end
  return magnitude(t.factor, 1)
end

-- ---- tables ----

local NEEDED = { linear = { "factor" }, llama3 = { "factor", "low_freq_factor", "high_freq_factor" }, yarn = {} }

-- The values of a table of a type that scales: positive numbers, and what may be missing filled in as transformers 5
-- does. nil, message, code where they are none.
local function read_scaling(path, key, t, kind, positions)
  local out = { kind = kind }
  for _, name in ipairs(READS[kind]) do
    local value = t[name]
    if not given(value) then
      value = nil
    elseif name == "truncate" then
      if type(value) ~= "boolean" then
        return refuse(path, key .. "." .. name, value, "true or false")
      end
    elseif type(value) ~= "number" or not (value > 0 and value < math.huge) then
      return refuse(path, key .. "." .. name, value, "a positive number")
    end
    out[name] = value
  end
  for _, name in ipairs(NEEDED[kind]) do
    if out[name] == nil then
      return nil, ("%s: %s.%s is missing, which rope_type = %s needs"):format(path, key, name, kind), "FORMAT"
    end
  end
  out.original = out.original_max_position_embeddings or positions
  out.factor = out.factor or positions / out.original
  if kind == "llama3" and out.low_freq_factor >= out.high_freq_factor then
    return contradiction(path, key .. ".low_freq_factor", out.low_freq_factor, key .. ".high_freq_factor", out.high_freq_factor,
      "it must be the smaller one")
  end
  return out
end

-- The base that a table asks for, or nil where it names none, and the scaling; false, message, code where it asks for
-- another kind of embedding.
local function read_table(path, key, t, positions)
  local function fail(...)
    return false, select(2, ...), "FORMAT"
  end
  if type(t) ~= "table" then
    return fail(refuse(path, key, t, "an object or null"))
  elseif next(t) == nil then
    return nil
  end
  local kind = given(t.rope_type) and t.rope_type or t.type
  if given(t.type) and given(t.rope_type) and t.type ~= t.rope_type then
    return fail(contradiction(path, key .. ".type", t.type, key .. ".rope_type", t.rope_type,
      "transformers 4 takes the first and 5 the second; keep one"))
  elseif kind == "dynamic" then
    return fail(refuse(path, key .. ".rope_type", kind,
      TYPES .. "; the base of dynamic grows with the longest text of a call, so that a cache and a batch change the results"))
  elseif given(kind) and not READS[kind] then
    return fail(refuse(path, key .. ".rope_type", kind, TYPES))
  end
  local ok, message = keys.check(path, t, lists_of(given(kind) and kind or "default"), key .. ".")
  if not ok then
    return false, message, "FORMAT"
  end
  for name in pairs(given(kind) and {} or t) do
    if name ~= "rope_theta" and given(t[name]) then
      return false, ("%s: %s has no rope_type, which %s needs; write \"rope_type\": \"default\" if it is the plain embedding")
        :format(path, key, name), "FORMAT"
    end
  end
  local theta = given(t.rope_theta) and t.rope_theta or nil
  if theta and type(theta) ~= "number" then
    return fail(refuse(path, key .. ".rope_theta", theta, "a number"))
  end
  if not given(kind) or kind == "default" then
    return theta
  end
  local scaling
  scaling, message = read_scaling(path, key, t, kind, positions)
  if not scaling then
    return false, message, "FORMAT"
  end
  return theta, scaling
end

local function same_scaling(a, b)
  for _, key in ipairs { "kind", "factor", "original", "low_freq_factor", "high_freq_factor", "attention_factor", "beta_fast", "beta_slow",
    "mscale", "mscale_all_dim", "truncate" } do
    if (a or {})[key] ~= (b or {})[key] then
      return false
    end
  end
  return true
end

--- rope.read(path, all, default, positions) -> theta, scaling or nil | fail: the base, and what scales its frequencies.
-- positions: the context.
function rope.read(path, all, default, positions)
  local top, top_length = all.rope_theta, all.original_max_position_embeddings
  if given(top) and type(top) ~= "number" then
    return refuse(path, "rope_theta", top, "a number")
  end
  local theta, from, scaling, scaled = nil, nil, nil, nil
  for _, key in ipairs { "rope_parameters", "rope_scaling" } do
    if given(all[key]) then
      local inside, found, code = read_table(path, key, all[key], positions)
      if inside == false then
        return nil, found, code
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
      if scaled and not same_scaling(scaling, found) then
        return contradiction(path, "rope_parameters", all.rope_parameters, "rope_scaling", all.rope_scaling,
          "transformers 4 takes the second and 5 the first; keep the right one")
      end
      scaling, scaled = found, true
    end
  end
  if scaling and given(top_length) and not given((all.rope_parameters or all.rope_scaling).original_max_position_embeddings)
    and top_length ~= scaling.original then
    return contradiction(path, "original_max_position_embeddings", top_length, "max_position_embeddings", positions,
      "transformers 4 takes the second and 5 the first; write it into the table of the rotary embedding")
  end
  return theta or given(top) and top or default, scaling
end

--- rope.apply(config, scaling): rope_frequencies and rope_factor of transformer.new for a scaling of rope.read.
function rope.apply(config, scaling)
  local head = config.head_dim or config.hidden_size // config.num_attention_heads
  local list = plain(config.rope_theta, head // 2)
  scaling.theta = config.rope_theta
  local factor = scale[scaling.kind](scaling, list)
  config.rope_frequencies, config.rope_factor = list, factor ~= 1 and factor or nil
end

return rope
