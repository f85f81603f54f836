--- mocl.lm.families.reader: values of a config.json for the tables of families. A value that cannot be ends the reading: it
-- raises an object that model_config.check turns into nil, message, code.

local keys = require "mocl.keys"

local reader = {}
reader.__index = reader

-- the class of what is raised
local Refusal = {}

--- reader.new(path, all, defaults) -> r, which has path, all and defaults
function reader.new(path, all, defaults)
  return setmetatable({ path = path, all = all, defaults = defaults }, reader)
end

--- Raises what keys.refuse returns, or any nil, message, code.
function reader.fail(_, message, code)
  error(setmetatable({ message, code or "FORMAT" }, Refusal), 0)
end

--- reader.try(f, ...) -> what f returns, or nil, message, code of a value that was refused.
function reader.try(f, ...)
  local result = table.pack(pcall(f, ...))
  if result[1] then
    return table.unpack(result, 2, result.n)
  elseif getmetatable(result[2]) == Refusal then
    return nil, result[2][1], result[2][2]
  end
  error(result[2], 0)
end

--- The value of a key, or the default of the family.
function reader:value(key)
  local value = self.all[key]
  if keys.given(value) then
    return value
  end
  return self.defaults[key]
end

function reader:refuse(key, value, cure)
  reader.fail(keys.refuse(self.path, key, value, cure))
end

function reader:boolean(key)
  local value = self:value(key)
  if type(value) ~= "boolean" then
    self:refuse(key, value, "true or false")
  end
  return value
end

function reader:integer(key, low)
  local value = self:value(key)
  if math.type(value) ~= "integer" or value < low then
    self:refuse(key, value, ("an integer of at least %d"):format(low))
  end
  return value
end

--- An id of the vocabulary; null is none.
function reader:id(key)
  local value, vocab = self.all[key], self:value "vocab_size"
  if value == nil then
    value = self.defaults[key]
  end
  if math.type(value) ~= "integer" or value < 0 or math.type(vocab) ~= "integer" or value >= vocab then
    self:refuse(key, value, "an id of the vocabulary")
  end
  return value
end

-- transformers' names of activations, and mocl's
local ACTS = {
  silu = "silu", swish = "silu", gelu = "gelu", relu = "relu", gelu_new = "gelu_tanh", gelu_pytorch_tanh = "gelu_tanh",
  gelu_fast = "gelu_tanh",
}

--- hidden_act, or what the family calls it, as transformer.new wants it.
function reader:act(key)
  local value = self:value(key)
  if not ACTS[value] then
    self:refuse(key, value, "silu, swish, gelu, gelu_new, gelu_pytorch_tanh, gelu_fast, relu")
  end
  return ACTS[value]
end

return reader
