--- mocl.nn: layers and losses over the fused operations of mocl.nn.core, which are its functions too.
-- A layer is a table that can be called; its tensors are leaves that require grad. There is no hidden
-- generator: whatever draws initial values takes key= (from mocl.rng.key) or seed=, and stream=.

local core = require "mocl.nn.core"
local options_of = require "mocl.options"
local tensor = require "mocl.tensor"

local check_options = options_of.check

local nn = {}
for name, f in pairs(core) do
  nn[name] = f
end

-- ---- what layers share: `own` lists the names of a layer's tensors, entries 1 .. #self its parts ----

local methods = {}

-- Parts that are functions, or objects with __call of somebody else's, have no tensors that the layer knows of.
local function is_layer(part)
  return type(part) == "table" and part.named_parameters ~= nil
end

--- Ordered list of {name, tensor}; a part's names begin with its number and a dot.
function methods:named_parameters(prefix)
  prefix = prefix or ""
  local list = {}
  for _, name in ipairs(self.own or {}) do
    if self[name] then
      list[#list + 1] = { prefix .. name, self[name] }
    end
  end
  for i, part in ipairs(self) do
    if is_layer(part) then
      for _, entry in ipairs(part:named_parameters(prefix .. i .. ".")) do
        list[#list + 1] = entry
      end
    end
  end
  return list
end

function methods:parameters()
  local list = {}
  for i, entry in ipairs(self:named_parameters()) do
    list[i] = entry[2]
  end
  return list
end

--- The live tensors by name.
function methods:state()
  local state = {}
  for _, entry in ipairs(self:named_parameters()) do
    state[entry[1]] = entry[2]
  end
  return state
end

local function same_shape(a, b)
  local equal = a.ndim == b.ndim
  for i, n in ipairs(a.shape) do
    equal = equal and n == b.shape[i]
  end
  return equal
end

--- Copies a table like that of state() into the layer; names and shapes must be the same, or nothing is
-- copied.
function methods:load(state)
  local own = self:named_parameters()
  local known = self:state()
  for name in pairs(state) do
    if not known[name] then
      error(("load: the layer has no tensor '%s'"):format(name), 2)
    end
  end
  for _, entry in ipairs(own) do
    local name, t = entry[1], entry[2]
    local given = state[name]
    if not given then
      error(("load: tensor '%s' is missing"):format(name), 2)
    elseif not same_shape(given, t) then
      error(("load: tensor '%s' is (%s), not (%s)"):format(name, table.concat(given.shape, ","),
        table.concat(t.shape, ",")), 2)
    end
  end
  tensor.no_grad(function()
    for _, entry in ipairs(own) do
      entry[2]:copy_(state[entry[1]])
    end
  end)
  return self
end

local function class(forward)
  local c = { __call = forward }
  for name, f in pairs(methods) do
    c[name] = f
  end
  c.__index = c
  return c
end

local function size(name, what, v)
  if math.type(v) ~= "integer" or v < 1 then
    error(("%s: %s must be a positive integer, got %s"):format(name, what, tostring(v)), 3)
  end
  return v
end

-- what tensor.rand and tensor.randn take, or an error naming the layer
local function source(name, options, stream)
  if not options.key and not options.seed then
    error(name .. ": give key=K from mocl.rng (or seed=N): there is no hidden generator", 3)
  end
  return { key = options.key, seed = options.seed, stream = stream, device = options.device }
end

local function with(t, more)
  for key, v in pairs(more) do
    t[key] = v
  end
  return t
end

-- ---- layers ----

local LINEAR = { "bias", "key", "seed", "stream", "device", "init" }
local Linear = class(function(self, x)
  return core.linear(x, self.weight, self.bias)
end)

--- weight [n_out, n_in] and bias [n_out], uniform in +-1 / sqrt(n_in) as PyTorch's; init = "zeros" or a
-- function (shape, {key|seed, stream, device}) -> tensor instead.
function nn.Linear(n_in, n_out, options)
  size("Linear", "the input size", n_in)
  size("Linear", "the output size", n_out)
  options = check_options("Linear", options or {}, {}, LINEAR)
  local init, stream = options.init or "uniform", options.stream or 0
  local function draw(shape, which)
    if init == "zeros" then
      return tensor.zeros(shape, { device = options.device })
    end
    local from = source("Linear", options, 2 * stream + which)
    if options_of.callable(init) then
      return init(shape, from)
    end
    local bound = 1 / math.sqrt(n_in)
    return tensor.rand(shape, with(from, { low = -bound, high = bound }))
  end
  if init ~= "uniform" and init ~= "zeros" and not options_of.callable(init) then
    error(("Linear: init must be 'uniform', 'zeros' or a function, got %s"):format(tostring(init)), 2)
  end
  return setmetatable({
    own = { "weight", "bias" },
    weight = draw({ n_out, n_in }, 0):requires_grad_(),
    bias = options.bias ~= false and draw({ n_out }, 1):requires_grad_() or nil,
  }, Linear)
end

local EMBEDDING = { "key", "seed", "stream", "device", "std" }
local Embedding = class(function(self, ids)
  return core.embedding(self.weight, ids)
end)

--- weight [n, dim], normal with standard deviation std (1, as PyTorch's).
function nn.Embedding(n, dim, options)
  size("Embedding", "the number of entries", n)
  size("Embedding", "the dimension", dim)
  options = check_options("Embedding", options or {}, {}, EMBEDDING)
  local from = source("Embedding", options, options.stream or 0)
  return setmetatable({
    own = { "weight" },
    weight = tensor.randn({ n, dim }, with(from, { std = options.std or 1 })):requires_grad_(),
  }, Embedding)
end

local RMS_NORM = { "eps", "device" }
local RMSNorm = class(function(self, x)
  return core.rms_norm(x, self.weight, self.eps)
end)

function nn.RMSNorm(dim, options)
  size("RMSNorm", "the dimension", dim)
  options = check_options("RMSNorm", options or {}, {}, RMS_NORM)
  return setmetatable({
    own = { "weight" },
    eps = options.eps or 1e-5,
    weight = tensor.ones({ dim }, { device = options.device, requires_grad = true }),
  }, RMSNorm)
end

local LAYER_NORM = { "eps", "device", "bias" }
local LayerNorm = class(function(self, x)
  return core.layer_norm(x, self.weight, self.bias, self.eps)
end)

function nn.LayerNorm(dim, options)
  size("LayerNorm", "the dimension", dim)
  options = check_options("LayerNorm", options or {}, {}, LAYER_NORM)
  local made = { device = options.device, requires_grad = true }
  return setmetatable({
    own = { "weight", "bias" },
    eps = options.eps or 1e-5,
    weight = tensor.ones({ dim }, made),
    bias = options.bias ~= false and tensor.zeros({ dim }, made) or nil,
  }, LayerNorm)
end

local Sequential = class(function(self, x)
  for _, part in ipairs(self) do
    x = part(x)
  end
  return x
end)

--- Parts are layers or functions of one tensor.
function nn.Sequential(...)
  local self = { ... }
  for i = 1, select("#", ...) do
    local part = self[i]
    if not options_of.callable(part) then
      error(("Sequential: part %d is a %s, not a layer or function"):format(i, type(part)), 2)
    end
  end
  return setmetatable(self, Sequential)
end

--- Activations as layers without tensors.
local activations = { relu = "ReLU", tanh = "Tanh", silu = "SiLU", gelu = "GELU", sigmoid = "Sigmoid" }
for name, title in pairs(activations) do
  local Activation = class(function(_, x)
    return x[name](x)
  end)
  nn[title] = function()
    return setmetatable({}, Activation)
  end
end

local MLP_OPTIONS = { "activation", "key", "seed", "stream", "device",
  "output_scale", "bias", "init" }

--- Linear layers of the given sizes with an activation between them; linear number i draws from
-- stream + i - 1. init is nn.Linear's; output_scale multiplies the initial tensors of the last one.
function nn.MLP(sizes, options)
  options = check_options("MLP", options or {}, {}, MLP_OPTIONS)
  if type(sizes) ~= "table" or #sizes < 2 then
    error("MLP: at least two sizes are needed, the input's and the output's", 2)
  end
  local make = nn[activations[options.activation or "relu"]]
  if not make then
    error(("MLP: unknown activation '%s' (relu, tanh, silu, gelu, sigmoid)"):format(tostring(options.activation)), 2)
  end
  local parts = {}
  for i = 1, #sizes - 1 do
    parts[#parts + 1] = nn.Linear(sizes[i], sizes[i + 1], {
      bias = options.bias, key = options.key, seed = options.seed, device = options.device,
      stream = (options.stream or 0) + i - 1, init = options.init,
    })
    if i < #sizes - 1 then
      parts[#parts + 1] = make()
    end
  end
  if options.output_scale then
    tensor.no_grad(function()
      for _, t in ipairs(parts[#parts]:parameters()) do
        t:copy_(t * options.output_scale)
      end
    end)
  end
  return nn.Sequential(table.unpack(parts))
end

-- ---- losses: means over all rows or entries ----

--- -log softmax(logits)[id], logits [..., C], ids from 0.
function nn.cross_entropy(logits, ids)
  return -nn.log_prob_of(logits, ids):mean()
end

function nn.mse_loss(x, y)
  return (x - y):square():mean()
end

--- Binary cross entropy of sigmoid(logits) against targets in [0, 1].
function nn.bce_with_logits(logits, targets)
  return (logits:softplus() - logits * targets):mean()
end

-- ---- categorical distributions given by logits [..., C] ----

--- log softmax(logits) of the actions (ids from 0), one per row.
function nn.log_prob_of(logits, actions)
  return logits:log_softmax():pick(actions)
end

function nn.entropy_of(logits)
  local logp = logits:log_softmax()
  return -(logp:exp() * logp):sum(-1)
end

--- KL(p || q) per row, both given by logits.
function nn.kl_of(logits, reference)
  local logp = logits:log_softmax()
  return (logp:exp() * (logp - reference:log_softmax())):sum(-1)
end

--- One id (from 0) per row, by the Gumbel-max trick on uniforms of (key, stream); i32, no gradient.
function nn.sample_of(logits, options)
  options = check_options("sample_of", options or {}, {}, { "key", "seed", "stream" })
  local from = source("sample_of", options, options.stream)
  from.device = logits.device
  return tensor.no_grad(function()
    local gumbel = -(-tensor.rand(logits.shape, from):log()):log()
    return (logits + gumbel):argmax(-1)
  end)
end

return nn
