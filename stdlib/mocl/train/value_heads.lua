--- mocl.train.value_heads: one value network per objective on the last hidden states of a language model.

local nn = require "mocl.nn.core"
local parameters = require "mocl.parameters"
local tensor = require "mocl.tensor"

local value_heads = {}

local Heads = {}
Heads.__index = Heads

--- value_heads.new(n, width, {key=, device="cpu"}): n separate two-layer ReLU networks, width -> width -> 1, on
-- the policy's last hidden states (the paper's Table 7). The last layer starts at zero.
function value_heads.new(n, width, opts)
  local heads, bound = { n = n, named = {} }, 1 / math.sqrt(width)
  local device = opts.device or "cpu"
  for i = 1, n do
    local function add(name, t)
      heads.named[#heads.named + 1] = { ("v_head.%d.%s"):format(i - 1, name), t:requires_grad_() }
    end
    add("0.weight", tensor.rand({ width, width }, { key = opts.key, stream = i, low = -bound, high = bound, device = device }))
    add("0.bias", tensor.zeros({ width }, { device = device }))
    add("2.weight", tensor.zeros({ 1, width }, { device = device }))
    add("2.bias", tensor.zeros({ 1 }, { device = device }))
  end
  return setmetatable(heads, Heads)
end

function Heads:parameters()
  local list = {}
  for i, pair in ipairs(self.named) do
    list[i] = pair[2]
  end
  return list
end

--- The same as {name, tensor}, under the names they are saved with.
function Heads:named_parameters()
  return table.move(self.named, 1, #self.named, 1, {})
end

--- values [T, n] of hidden states [T, width]
function Heads:forward(hidden)
  local columns = {}
  for i = 1, self.n do
    local p = function(j)
      return self.named[(i - 1) * 4 + j][2]
    end
    columns[i] = nn.linear(nn.linear(hidden, p(1), p(2)):relu(), p(3), p(4))
  end
  return tensor.cat(columns, 2)
end

--- A safetensors file, and back; values that are not finite are neither saved nor loaded.
function Heads:save(path)
  return parameters.save(self.named, path)
end

function Heads:load(path)
  return parameters.load(self.named, path)
end

return value_heads
