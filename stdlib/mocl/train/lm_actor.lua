--- mocl.train.lm_actor: a language model as an actor of mocl.train.trainer: the policy is the model with its adapter, the reference
-- the same model with the adapter off, and each objective has a value head, unless the method has no critic.

local check = require "mocl.failure".check
local fs = require "mocl.fs"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local lm_actor = {}

--- Rows for a recipe's schema, beside those of the trainer.
lm_actor.OPTIONS = {
  { "max_new_tokens", 26, "tokens of an answer", min = 1 },
  { "temperature", 1.0, "sampling temperature, also that of the log-probabilities", min = 1e-3 },
}

--- Rows beside those, for a recipe that trains in epochs over a batch: less memory, the same bytes.
lm_actor.MEMORY_OPTIONS = {
  { "microbatch", 0, "answers whose activations exist at a time, for less memory and the same bytes; 0: all", min = 0 },
  { "gradient_checkpointing", false, "activations inside blocks are made again for backward, for less memory and the same bytes" },
}

--- Rows of what the policy is made of.
lm_actor.MODEL_OPTIONS = {
  { "dtype", "f32", "of the policy's base and its activations while the policy is trained", choices = { "f32", "bf16" } },
  { "quantization", "none", "keep the linear layers of the policy's frozen base in 8 or 4 bits; adapter and value heads are f32",
    choices = { "none", "int8", "w8a8", "nf4" } },
  { "lora.r", 16, "rank of the adapter on all linear layers", min = 1 },
  { "lora.alpha", 32, "its scale is alpha / r", min = 0 },
  { "lora.layers", 1, "the last blocks, this many, get the adapter; 0: all", min = 0 },
}

local ALL_OPTIONS = table.move(lm_actor.MEMORY_OPTIONS, 1, #lm_actor.MEMORY_OPTIONS, #lm_actor.OPTIONS + 1,
  table.move(lm_actor.OPTIONS, 1, #lm_actor.OPTIONS, 1, {}))

local Actor = {}
Actor.__index = Actor

-- The number of blocks in front of the first one with an adapter: policy and reference compute the same there.
local function blocks_in_front(model)
  local first = model:config().num_hidden_layers
  for _, pair in ipairs(model:named_parameters(true)) do
    first = math.min(first, math.tointeger(pair[1]:match "%.layers%.(%d+)%.") or 0)
  end
  return first
end

--- lm_actor.check(dtype, microbatch): raises where the sums of a model in this dtype cannot be had piece by piece with the same bytes.
function lm_actor.check(dtype, microbatch)
  if dtype ~= "f32" and (microbatch or 0) > 0 then
    error(("ppo.microbatch=%d: in %s the sums over tokens would be others; ppo.gradient_checkpointing=true saves memory there")
      :format(microbatch, dtype), 0)
  end
end

--- lm_actor.new{policy=, heads=, base=, microbatch=0, gradient_checkpointing=false}: policy is a mocl.lm.policy whose model has an
-- adapter, heads the value heads of
-- mocl.train.value_heads (nil: no critic), base what adapter_config.json says of the model (base_model_name_or_path). microbatch: the
-- most answers whose activations exist at a time (0: all); gradient_checkpointing: those inside blocks are made again for backward.
-- Losses, gradients and weights have the same bytes whatever these two are.
function lm_actor.new(o)
  options.check("lm_actor.new", o, { "policy" }, { "heads", "base", "microbatch", "gradient_checkpointing" })
  local model = o.policy.model
  if math.type(o.microbatch or 0) ~= "integer" or (o.microbatch or 0) < 0 then
    error(("lm_actor.new: microbatch is a number of answers from 0, got %s"):format(tostring(o.microbatch)), 2)
  end
  if not model:lora() then
    error("lm_actor.new: the policy's model has no adapter; call model:add_lora first", 2)
  end
  lm_actor.check(model:dtype(), o.microbatch)
  return setmetatable({ policy = o.policy, model = model, heads = o.heads, base = o.base, stop = blocks_in_front(model), layers = model:config().num_hidden_layers,
    microbatch = o.microbatch or 0, checkpointing = o.gradient_checkpointing or false,
    OPTIONS = ALL_OPTIONS, has_values = o.heads ~= nil,
    words = { value_loss = "the loss of the value heads" } }, Actor)
end

--- Answers to texts, packed as a batch: the fields of transformer.pack, responses (texts), ids (of the answers, an object of rows:
-- transformer.rows), old, the log-probabilities [T] of the tokens when they were drawn, and metrics.
function Actor:rollout(texts, o)
  local responses, ids, old = self.policy:answer(texts, { key = rng.key(o.seed, o.purpose), adapter = o.adapter, stem = self.stop })
  local batch = transformer.pack(ids.rows.prompts, ids.rows.tokens, { device = self.model:device() })
  batch.responses, batch.ids, batch.prompts, batch.old, batch.stem = responses, ids.rows.tokens, ids.rows.prompts, old, ids.stem
  batch.metrics = { ["tokens/responses_len_mean"] = batch.response_total / #texts }
  return batch
end

--- The batch of some rows of a batch, as the epochs need it; tokens_before of it are the response tokens of the rows in front of them.
function Actor:part(batch, first, last)
  local part = transformer.pack(batch.prompts:slice(first, last), batch.ids:slice(first, last), { device = self.model:device() })
  part.tokens_before = batch.response_offsets:narrow(1, first, 1):totable()[1]
  return part
end

-- Hidden states of the response tokens of a batch or of a part of it, with the adapter or without, from the blocks in front of it on.
local function states(self, part, adapter)
  return self.model:forward(part, { adapter = adapter, rows = part.rows, hidden = part.stem, start = self.stop,
    products = part.products })
end

-- ---- activations of a part of the batch at a time ----
--
-- The loss of a batch may be any function of its log-probabilities, and so wants all of them before there is a gradient. A first pass
-- without history makes the states of all response tokens, [T, D]; head, values and loss follow from these as from a leaf.
-- What arrives there goes back through the blocks by parts, whose activations are made once more, and are gone before the next
-- part's are made. Row by row nothing depends on the parts, and the sums over rows, the gradients of A and B, go
-- on from part to part (option more_rows of backward).

local function in_parts(self)
  return self.microbatch > 0 or self.checkpointing
end

-- A part of a batch: what forward reads, for sequences first .. last.
local function part_of(batch, first, last, offsets, answers)
  local base, total = offsets[first], offsets[last + 1] - offsets[first]
  local at, n = answers[first], answers[last + 1] - answers[first]
  local own, rows = {}, batch.rows:narrow(1, at + 1, n):totable()
  for i = first, last + 1 do
    own[#own + 1] = offsets[i] - base
  end
  for i, row in ipairs(rows) do
    rows[i] = row - base
  end
  local function integers(list)
    return tensor.new(list, { dtype = "i32", device = batch.tokens.device })
  end
  return { tokens = batch.tokens:narrow(1, base + 1, total), positions = batch.positions:narrow(1, base + 1, total),
    offsets = integers(own), rows = integers(rows), products = {}, at = at + 1, n = n,
    stem = batch.stem and batch.stem:narrow(1, base + 1, total) }
end

local function parts_of(self, batch)
  local list, offsets, answers = {}, batch.offsets:totable(), batch.response_offsets:totable()
  local size = self.microbatch > 0 and self.microbatch or batch.n
  for first = 1, batch.n, size do
    list[#list + 1] = part_of(batch, first, math.min(batch.n, first + size - 1), offsets, answers)
  end
  return list
end

-- One block of a part behind the stream x, or the last one with what follows it.
local function block(self, part, adapter, x, l)
  local last = l == self.layers - 1
  return self.model:forward(part, { adapter = adapter, hidden = x, start = l, stop = not last and l + 1 or nil, rows = last and part.rows or nil,
    products = l == self.stop and part.products or nil })
end

-- The states of a part without history. streams: a table, which gets the streams in front of its blocks, or nil.
local function apart(self, part, adapter, streams)
  if not streams then
    return states(self, part, adapter)
  end
  streams[self.stop] = part.stem
  for l = self.stop, self.layers - 2 do
    streams[l + 1] = block(self, part, adapter, streams[l], l)
  end
  return block(self, part, adapter, streams[self.layers - 1], self.layers - 1)
end

-- The states of all parts, and with checkpointing the policy's streams of each.
local function all_states(self, batch, adapter)
  local list, streams = {}, adapter and self.checkpointing and {} or nil
  for i, part in ipairs(batch.parts) do
    if streams then
      streams[i] = {}
    end
    list[i] = tensor.no_grad(apart, self, part, adapter, streams and streams[i])
  end
  return #list == 1 and list[1] or tensor.no_grad(tensor.cat, list), streams
end

-- Takes a gradient [n, D] at the states of a part back through its blocks; streams are used up.
local function part_backward(self, part, streams, gradient, more)
  local scope <close> = tensor.scope()
  if not streams then
    states(self, part, true):backward(gradient, { more_rows = more })
    return
  end
  local dtype = self.model:dtype()
  for l = self.layers - 1, self.stop, -1 do
    local inner <close> = tensor.scope()
    local leaf = (dtype == "f32" and streams[l] or streams[l]:to "f32"):detach()
    leaf:requires_grad_(l > self.stop)
    block(self, part, true, dtype == "f32" and leaf or leaf:to(dtype), l):backward(gradient, { more_rows = more })
    gradient:release()
    if l > self.stop then
      gradient = inner:keep(leaf.grad)
      streams[l]:release()
    end
    leaf:release() -- a scope leaves what requires grad
  end
end

--- The gradients of a loss that the trainer's epoch e gave, on the parameters.
function Actor:backward(batch, e, loss)
  loss:backward()
  if not e.states then
    return
  end
  local gradient = e.states.grad
  for i, part in ipairs(gradient and batch.parts or {}) do
    part_backward(self, part, e.streams and e.streams[i], gradient:narrow(1, part.at, part.n):contiguous(), i < #batch.parts)
  end
  e.states:release() -- a scope leaves what requires grad
end

--- What all epochs share, in the scope of the caller: the states behind the blocks in front of the adapter, the
-- products of the base with them, what the head makes of the
-- reference's states, and the policy's states, with which values and the first epoch begin.
function Actor:begin(batch)
  if batch.reference then
    return
  end
  local reference
  if in_parts(self) then
    batch.parts = parts_of(self, batch)
    for _, part in ipairs(batch.parts) do
      part.stem = part.stem or tensor.no_grad(self.model.forward, self.model, part, { stop = self.stop })
    end
    reference = all_states(self, batch, false)
    batch.first, batch.streams = all_states(self, batch, true)
  else
    batch.stem = batch.stem or tensor.no_grad(self.model.forward, self.model, batch, { stop = self.stop })
    batch.products = {}
    reference = tensor.no_grad(states, self, batch, false)
  end
  batch.reference = nn.lm_reference(reference, self.model:head(), batch.targets,
    { temperature = self.policy.temperature, keep_logits = not in_parts(self) })
  batch.first = batch.first or states(self, batch, true)
end

--- Values [T, N] of the tokens before the first epoch, without gradient; nil without heads.
function Actor:values(batch)
  if not self.heads then
    return nil
  end
  self:begin(batch)
  return self.heads:forward(batch.first:detach()):detach()
end

--- The reference's log-probabilities [T] of the tokens, at the sampling temperature.
function Actor:logp_ref(batch)
  self:begin(batch)
  return batch.reference.logp
end

--- What the trainer's epochs see: logp [T], entropy (a scalar), kl [T], exact and to the reference, values [T, N].
function Actor:evaluate(batch, epoch)
  local parts, hidden, streams = in_parts(self), batch.first, batch.streams
  if epoch > 1 then
    hidden, streams = (parts and all_states or states)(self, batch, true)
  end
  local leaf = parts and hidden:detach():requires_grad_() or nil
  local logp, entropy, kl = nn.lm_head(leaf or hidden, self.model:head(), batch.targets,
    { temperature = self.policy.temperature, reference = batch.reference, keep_logits = not parts })
  return { logp = logp, entropy = entropy:mean(), entropies = entropy, kl = kl, values = self.heads and self.heads:forward(leaf or hidden), states = leaf,
    streams = streams }
end

--- Called behind the epochs of an iteration; nothing is left to do.
function Actor:updated()
end

--- The adapter's parameters, then those of the heads, as {name, tensor}.
function Actor:named_parameters()
  local list, heads = self.model:named_parameters(true), self.heads and self.heads:named_parameters() or {}
  return table.move(heads, 1, #heads, #list + 1, list)
end

--- A PEFT directory with value_heads.safetensors beside it where there are heads, and back; failures raise.
function Actor:save(dir)
  check(lora.save(self.model, dir, { base_model_name_or_path = self.base }))
  if self.heads then
    check(self.heads:save(fs.join(dir, "value_heads.safetensors")))
  end
end

function Actor:load(dir)
  check(lora.load(self.model, dir))
  if self.heads then
    check(self.heads:load(fs.join(dir, "value_heads.safetensors")))
  end
end

return lm_actor
