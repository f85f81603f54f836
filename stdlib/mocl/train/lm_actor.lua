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

--- Rows of what the policy is made of.
lm_actor.MODEL_OPTIONS = {
  { "dtype", "f32", "of the policy's base and its activations while the policy is trained", choices = { "f32", "bf16" } },
  { "quantization", "none", "keep the linear layers of the policy's frozen base in 8 or 4 bits; adapter and value heads are f32",
    choices = { "none", "int8", "nf4" } },
  { "lora.r", 16, "rank of the adapter on all linear layers", min = 1 },
  { "lora.alpha", 32, "its scale is alpha / r", min = 0 },
  { "lora.layers", 1, "the last blocks, this many, get the adapter; 0: all", min = 0 },
}

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

--- lm_actor.new{policy=, heads=, base=}: policy is a mocl.lm.policy whose model has an adapter, heads the value heads of
-- mocl.train.value_heads (nil: no critic), base what adapter_config.json says of the model (base_model_name_or_path).
function lm_actor.new(o)
  options.check("lm_actor.new", o, { "policy" }, { "heads", "base" })
  local model = o.policy.model
  if not model:lora() then
    error("lm_actor.new: the policy's model has no adapter; call model:add_lora first", 2)
  end
  return setmetatable({ policy = o.policy, model = model, heads = o.heads, base = o.base, stop = blocks_in_front(model),
    OPTIONS = lm_actor.OPTIONS, has_values = o.heads ~= nil,
    words = { value_loss = "the loss of the value heads" } }, Actor)
end

--- Answers to texts, packed as a batch: the fields of transformer.pack, responses (texts), ids (of the answers, an object of rows:
-- transformer.rows), old, the log-probabilities [T] of the tokens when they were drawn, and metrics.
function Actor:rollout(texts, o)
  local responses, ids, old = self.policy:answer(texts, { key = rng.key(o.seed, o.purpose), adapter = o.adapter, stem = self.stop })
  local batch = transformer.pack(ids.rows.prompts, ids.rows.tokens, { device = self.model:device() })
  batch.responses, batch.ids, batch.old, batch.stem = responses, ids.rows.tokens, old, ids.stem
  batch.metrics = { ["tokens/responses_len_mean"] = batch.response_total / #texts }
  return batch
end

-- Hidden states of the batch's response tokens, with the adapter or without, from the blocks in front of it on.
local function states(self, batch, adapter)
  return self.model:forward(batch, { adapter = adapter, rows = batch.rows, hidden = batch.stem, start = self.stop,
    products = batch.products })
end

--- What all epochs share, in the scope of the caller: the states behind the blocks in front of the adapter, the
-- products of the base with them, what the head makes of the
-- reference's states, and the policy's states, with which values and the first epoch begin.
function Actor:begin(batch)
  if not batch.reference then
    batch.stem = batch.stem or tensor.no_grad(self.model.forward, self.model, batch, { stop = self.stop })
    batch.products = {}
    batch.reference = nn.lm_reference(tensor.no_grad(states, self, batch, false), self.model:head(), batch.targets,
      { temperature = self.policy.temperature })
    batch.first = states(self, batch, true)
  end
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
  local hidden = epoch == 1 and batch.first or states(self, batch, true)
  local logp, entropy, kl = nn.lm_head(hidden, self.model:head(), batch.targets,
    { temperature = self.policy.temperature, reference = batch.reference })
  return { logp = logp, entropy = entropy:mean(), kl = kl, values = self.heads and self.heads:forward(hidden) }
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
