--- mocl.world.agent: a policy and a critic for a small environment that see the preference beside the state: one network for
-- every trade-off. Where states are numbered (world.states) the networks run once for each pair of preference and state, and
-- what is per step is looked up: the same sums at a fraction of the work.
--
-- Two layouts. "concat": [observation, seen preference] -> A logits (and N values). "heads": seen preference -> A logits
-- for each state, a head per state; it needs numbered states.

local fs = require "mocl.fs"
local nn = require "mocl.nn"
local options = require "mocl.options"
local parameters = require "mocl.parameters"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

local agent = {}

local Agent = {}
Agent.__index = Agent

-- Normal weights of variance 2 / n_in, zero biases (He et al. 2015): the preference counts from the start.
local function he(shape, from)
  if #shape == 1 then
    return tensor.zeros(shape, { device = from.device })
  end
  from.std = math.sqrt(2 / shape[2])
  return tensor.randn(shape, from)
end

local function network(o, n_in, n_out, stream, output_scale)
  local sizes, hidden = { n_in }, o.hidden or { 64, 64 }
  table.move(hidden, 1, #hidden, 2, sizes)
  sizes[#sizes + 1] = n_out
  return nn.MLP(sizes, { activation = o.activation or "tanh", key = o.key, stream = stream, device = o.device,
    init = o.init == "he" and he or nil, output_scale = output_scale })
end

--- agent.new{world=, hidden={64,64}, activation="tanh", layout="concat", see=function(p) -> list, observe=function(state) ->
-- list, critic=true, init="pytorch", output_scale=1, key=, device="cpu"}: see is what the networks see of a preference
-- (default: all of it), observe what they see of a state (default: the environment's observation). init "pytorch" (that of
-- nn.MLP) or "he" draws the weights, output_scale multiplies those of the actor's last layer.
function agent.new(o)
  options.check("agent.new", o, { "world" }, { "hidden", "activation", "layout", "see", "observe", "critic", "init", "output_scale", "key",
    "device" })
  local e, layout = o.world, o.layout or "concat"
  local see = o.see or function(p)
    return p
  end
  if layout == "heads" and not e.states then
    error(("agent: layout=heads needs states that are numbered, and environment %s has none"):format(e.name), 2)
  elseif layout ~= "heads" and layout ~= "concat" then
    error(("agent: layout is 'concat' or 'heads', got '%s'"):format(tostring(layout)), 2)
  elseif o.init and o.init ~= "he" and o.init ~= "pytorch" then
    error(("agent: init is 'he' or 'pytorch', got '%s'"):format(tostring(o.init)), 2)
  end
  local uniform = {}
  for j = 1, e.n do
    uniform[j] = 1 / e.n
  end
  local self = setmetatable({ world = e, layout = layout, see = see, device = o.device or "cpu" }, Agent)
  local width, per_state = #see(uniform), layout == "heads" and e.states or 1
  if layout == "concat" then
    self.rows = {} -- of the states, if they are numbered
    self.observe = o.observe
    for s = 0, (e.states or 0) - 1 do
      self.rows[s + 1] = o.observe and o.observe(s) or e:look(s, 0, 0)
    end
    width = width + (self.rows[1] and #self.rows[1] or e.observation)
  end
  local scale = o.output_scale or 1
  self.actor = network(o, width, per_state * e.actions, 0, scale)
  self.mean = network(o, width, per_state * e.actions, 0, scale) -- the average of the actor's weights
  self.critic = o.critic ~= false and network(o, width, per_state * e.n, 100) or nil
  return self
end

local function named(self, parts)
  local list = {}
  for _, part in ipairs(parts) do
    for _, entry in ipairs(self[part] and self[part]:named_parameters(part .. ".") or {}) do
      list[#list + 1] = entry
    end
  end
  return list
end

--- What is trained as {name, tensor}: the actor's parameters, then the critic's.
function Agent:named_parameters()
  return named(self, { "actor", "critic" })
end

--- The same without names.
function Agent:parameters()
  local list = self:named_parameters()
  for i, entry in ipairs(list) do
    list[i] = entry[2]
  end
  return list
end

local function joined(a, b)
  return table.move(b, 1, #b, #a + 1, table.move(a, 1, #a, 1, {}))
end

--- Network input for preferences: one row each, or one for each pair with a state (preferences outermost), or, where
-- states are not numbered, one for each step of the batch.
function Agent:input(preferences, batch)
  local rows = {}
  for _, p in ipairs(self.layout == "heads" and preferences or {}) do
    rows[#rows + 1] = self.see(p)
  end
  if self.layout == "concat" and self.world.states then
    for _, p in ipairs(preferences) do
      local seen = self.see(p)
      for _, row in ipairs(self.rows) do
        rows[#rows + 1] = joined(row, seen)
      end
    end
  elseif self.layout == "concat" then
    for i, p in ipairs(batch.prefs) do
      local seen = self.see(p)
      for t = batch.offsets[i] + 1, batch.offsets[i + 1] do
        rows[t] = joined(batch.observations[t], seen)
      end
    end
  end
  return tensor.new(rows, { device = self.device })
end

--- The rows of the networks' output that a batch visits (from 0, in the order of its steps), and for each step which
-- of them it is (from 0). Where states are not numbered each step has its own.
function Agent:visited(batch)
  local rows, steps, states, seen = {}, {}, self.world.states, {}
  for i, k in ipairs(batch.places) do
    local first = (k - 1) * (states or 0)
    for t = batch.offsets[i] + 1, batch.offsets[i + 1] do
      local row = states and first + batch.states[t] or t - 1
      local place = seen[row]
      if not place then
        place = #rows
        seen[row], rows[place + 1] = place, row
      end
      steps[t] = place
    end
  end
  return rows, steps
end

--- Logits [M, A] of an input; averaged: by the mean of the actor's weights.
function Agent:logits(input, averaged)
  return (averaged and self.mean or self.actor)(input):reshape(-1, self.world.actions)
end

--- Values [M, N] of an input.
function Agent:values(input)
  return self.critic(input):reshape(-1, self.world.n)
end

--- Logits of observations under preferences, one each, without gradient; for states that are not numbered.
function Agent:logits_of(observations, preferences, averaged)
  local rows = {}
  for i, row in ipairs(observations) do
    rows[i] = joined(row, self.see(preferences[i]))
  end
  return tensor.no_grad(function()
    return self:logits(tensor.new(rows, { device = self.device }), averaged)
  end)
end

local function probabilities(self, preferences, averaged)
  return tensor.no_grad(function()
    return self:logits(self:input(preferences), averaged):softmax()
  end)
end

--- Probabilities [preference][state + 1][action + 1] as nested lists, for numbered states.
function Agent:probabilities(preferences, averaged)
  local scope <close> = tensor.scope()
  return probabilities(self, preferences, averaged):reshape(#preferences, self.world.states, self.world.actions):totable()
end

--- The same as one list.
function Agent:flat_probabilities(preferences, averaged)
  local scope <close> = tensor.scope()
  return probabilities(self, preferences, averaged):flatten():totable()
end

--- Moves the averaged weights: mean = factor mean + (1 - factor) actor. A factor of 0 copies the actor.
function Agent:average(factor)
  tensor.no_grad(function()
    local now = self.actor:parameters()
    for i, m in ipairs(self.mean:parameters()) do
      m:copy_(m * factor + now[i] * (1 - factor))
    end
  end)
end

local ALL = { "actor", "mean", "critic" }

--- All weights as dir/agent.safetensors, and back.
function Agent:save(dir)
  return parameters.save(named(self, ALL), fs.join(dir, "agent.safetensors"))
end

function Agent:load(dir)
  return parameters.load(named(self, ALL), fs.join(dir, "agent.safetensors"))
end

return agent
