--- mocl.lm.loaded: a model to talk to: a Hugging Face directory, a GGUF file or the directory of a finished run, with its
-- tokenizer, its chat template and, of a run, its adapter, objectives and reward models. mocl.load, mocl.load_run and
-- mocl.compare are functions of this module.

local chat = require "mocl.lm.chat"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local open_device = require "mocl.run.device".open
local options = require "mocl.options"
local own_model = require "mocl.lm.own_model"
local preference = require "mocl.preference"
local probe = require "mocl.lm.probe"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local loaded = {}

local Loaded = {}
Loaded.__index = Loaded

local MAX_NEW_TOKENS = 200
local LOAD = { "device", "dtype", "adapter", "tokenizer", "quantization" }

-- ---- loading ----

local function new(o)
  o.temperature, o.top_p, o.seed, o.turns = 1, 1, 0, 0
  return setmetatable(o, Loaded)
end

-- Raises at the caller of `what` where a path is none.
local function check_paths(what, path, opts)
  if type(path) ~= "string" then
    error(("%s: the path of a directory or of a GGUF file expected, got a %s"):format(what, type(path)), 3)
  end
  for _, name in ipairs { "adapter", "tokenizer" } do
    if opts[name] ~= nil and type(opts[name]) ~= "string" then
      error(("%s: %s is a %s, not a path"):format(what, name, type(opts[name])), 3)
    end
  end
end

-- Why a run's directory has no policy that answers under a preference.
local function without_policy(dir)
  local has_sft = fs.exists(fs.join(dir, "sft"))
  if not fs.exists(fs.join(dir, "result.json")) then
    return ("%s: the run has no %s yet: run its recipe to the end (resume=auto)"):format(dir, has_sft and "policy (last/)" or "supervised model (sft/)")
  elseif not has_sft then
    return dir .. ": a finished run without a policy of a language model"
  end
  local adapters, tokenizer_path = {}, own_model.tokenizer_of(dir)
  for _, name in ipairs(fs.list(dir) or {}) do
    for _, place in ipairs { name, fs.join(name, "last") } do
      adapters[#adapters + 1] = not name:find "%-adapter$" and fs.exists(fs.join(dir, place, "adapter_config.json")) and place or nil -- NAME-adapter is merged into NAME
    end
  end
  table.sort(adapters)
  return ("%s: a finished run without one policy for all preferences; its supervised model is %s%s%s"):format(dir, fs.join(dir, "sft"),
    tokenizer_path and ", with tokenizer=" .. tokenizer_path or "", #adapters > 0 and ", and adapter= may be " .. table.concat(adapters, ", ")
    .. " in the run's directory" or "")
end

--- loaded.load_run(dir, opts) -> m | fail. The policy of a run's directory: the supervised model, in the format that the
-- adapter was trained on, with the last adapter.
function loaded.load_run(dir, opts)
  opts = options.check("load_run", opts or {}, {}, LOAD)
  check_paths("load_run", dir, opts)
  local cfg, message = config.load(fs.join(dir, "config.lua"))
  if not cfg then
    return nil, ("%s is no directory of a run: %s"):format(dir, message), "IO"
  end
  local adapter = opts.adapter or fs.join(dir, "last")
  if not fs.exists(fs.join(dir, "sft")) or not opts.adapter and not fs.exists(adapter) then
    return nil, without_policy(dir), "IO"
  elseif cfg.metaaligner and not opts.adapter then
    return nil, dir .. ": the policy of this run edits the answers of another model, and takes no prompt of a user's", "IO"
  end
  local tok, bad, code = tokenizer.load(opts.tokenizer or own_model.tokenizer_of(dir) or fs.join(dir, "tokenizer.json"))
  if not tok then
    return nil, bad, code
  end
  local model
  model, bad, code = transformer.load(fs.join(dir, "sft"), { device = opts.device, dtype = opts.dtype or cfg.dtype,
    quantization = opts.quantization or own_model.format(cfg) })
  if not model then
    return nil, bad, code
  end
  local ok
  ok, bad, code = lora.load(model, adapter)
  if not ok then
    return nil, bad, code
  end
  local names, rewards = cfg.objectives or {}, {}
  for _, name in ipairs(names) do
    local place = fs.join(dir, "reward-" .. name)
    if fs.exists(place) then
      local r
      if probe.is(place) then
        r, bad, code = probe.load(place, { trunk = model, tokenizer = tok })
      else
        r, bad, code = reward.load(place, tok, { device = opts.device })
      end
      if not r then
        return nil, bad, code
      end
      rewards[#rewards + 1] = { name = name, model = r }
    end
  end
  return new { path = dir, model = model, tokenizer = tok, objectives = #names > 0 and names or nil, rewards = rewards,
    max_new_tokens = cfg.ppo and cfg.ppo.max_new_tokens or MAX_NEW_TOKENS }
end

--- loaded.load(path, opts) -> m | fail. path: a Hugging Face directory, a GGUF file or a run's directory. opts: device,
-- dtype, quantization as transformer.load has them; adapter (a PEFT directory or a LoRA GGUF); tokenizer (a path, the model's own if unset).
function loaded.load(path, opts)
  opts = options.check("load", opts or {}, {}, LOAD)
  check_paths("load", path, opts)
  if fs.exists(fs.join(path, "config.lua")) then
    return loaded.load_run(path, opts)
  elseif not fs.exists(path) then
    return nil, path .. ": no such file or directory", "IO"
  end
  local tok, message, code = tokenizer.load(opts.tokenizer or path)
  if not tok then
    return nil, opts.tokenizer and message or message .. "; tokenizer= names one that lies elsewhere", code
  end
  local model
  model, message, code = transformer.load(path, { device = opts.device, dtype = opts.dtype, quantization = opts.quantization })
  if not model then
    return nil, message, code
  end
  if opts.adapter then
    local ok, bad, kind = lora.load(model, opts.adapter)
    if not ok then
      return nil, bad, kind
    end
  end
  return new { path = path, model = model, tokenizer = tok, template = chat.of(opts.tokenizer or path) or nil, rewards = {},
    max_new_tokens = MAX_NEW_TOKENS }
end

-- ---- tools ----

--- The options of a tool that opens a model and draws answers from it; config.named_first gives the first one its name.
loaded.OPTIONS = {
  { "model", nil, "required: a directory, a GGUF file or a run; may stand first without model=", type = "string" },
  { "tokenizer", nil, "tokenizer file or directory, the model's own if unset", type = "string" },
  { "adapter", nil, "directory of a PEFT adapter, or a LoRA GGUF; a run's last one if unset", type = "string" },
  { "max_new_tokens", 0, "tokens of an answer, 0 = the run's, or 200", min = 0 },
  { "temperature", 1.0, "sampling temperature, 0 = the likeliest token", min = 0 },
  { "top_p", 1.0, "draw from the likeliest tokens that sum to p", min = 1e-6, max = 1 },
  { "seed", 0, "seed of the samples", min = 0 },
  { "device", "cpu", "where tensors live" },
  { "dtype", nil, "of the weights and activations; of a run as it was trained", choices = { "f32", "bf16" }, type = "string" },
  { "quantization", nil, "keep the linear layers of blocks in 8 or 4 bits; of a run as it was trained", choices = { "int8", "w8a8", "nf4" }, type = "string" },
}

--- loaded.from_options(cfg, tool) -> m. The model of these options; raises in words, for the user of `mocl TOOL`.
function loaded.from_options(cfg, tool)
  if not cfg.model then
    error(("name a model: mocl %s DIR|FILE.gguf|RUN (--help lists the options)"):format(tool), 0)
  end
  open_device { device = cfg.device }
  local m = config.checked_path("model", { model = cfg.model, adapter = cfg.adapter, tokenizer = cfg.tokenizer }, loaded.load(cfg.model, {
    device = cfg.device, dtype = cfg.dtype, quantization = cfg.quantization, adapter = cfg.adapter, tokenizer = cfg.tokenizer,
  }))
  m.temperature, m.top_p, m.seed = cfg.temperature, cfg.top_p, cfg.seed
  if cfg.max_new_tokens > 0 then
    m.max_new_tokens = cfg.max_new_tokens
  end
  return m
end

-- ---- preferences ----

--- m:preference(p) -> list. p: a list of weights, or a table from names of objectives to weights; what is left to 1 goes
-- to the others in equal parts. nil: equal parts. Raises for a model without objectives, unless p is nil: then nil.
function Loaded:preference(p)
  local names = self.objectives
  if not names then
    if p ~= nil then
      error(("%s has no objectives that a preference could weigh: only the policy of a run has"):format(self.path), 0)
    end
    return nil
  end
  local list, left, open = {}, 1, {}
  if p ~= nil and type(p) ~= "table" then
    error(("a preference such as { %s = .7 } or a list of %d weights expected, got a %s"):format(names[1], #names, type(p)), 0)
  elseif p and #p > 0 then
    if #p ~= #names then
      error(("a preference over %s has %d weights, got %d"):format(table.concat(names, ", "), #names, #p), 0)
    end
    return preference.check(p, 2)
  end
  for key in pairs(p or {}) do
    local known = false
    for _, name in ipairs(names) do
      known = known or name == key
    end
    if not known then
      local near = type(key) == "string" and options.nearest(key, names)
      error(("no objective '%s'%s (there are %s)"):format(tostring(key), near and (", did you mean '%s'?"):format(near) or "",
        table.concat(names, ", ")), 0)
    end
  end
  for j, name in ipairs(names) do
    list[j] = p and p[name]
    if list[j] == nil then
      open[#open + 1] = j
    elseif type(list[j]) ~= "number" or not (list[j] >= 0 and list[j] <= 1) then
      error(("the weight of %s is to be in 0 .. 1, got %s"):format(name,
        options.shown(list[j])), 0)
    else
      left = left - list[j]
    end
  end
  if left < -1e-9 or #open == 0 and left > 1e-9 then
    error(("the weights sum to %.6g, not 1"):format(1 - left), 0)
  end
  for _, j in ipairs(open) do
    list[j] = math.max(0, left) / #open
  end
  return preference.check(list, 2)
end

-- ---- answers ----

--- m:ends() -> list of the ids that end an answer: those of the model's files, and the tokenizer's EOS.
function Loaded:ends()
  local list, eos = {}, self.tokenizer:eos_id()
  for _, id in ipairs(transformer.eos_ids(self.model) or {}) do
    list[#list + 1] = id
    eos = eos ~= id and eos or nil
  end
  list[#list + 1] = eos
  return list
end

--- m:vocab_size() -> how many ids may be drawn: those that both the model and the tokenizer have.
function Loaded:vocab_size()
  return math.min(self.tokenizer:vocab_size(), self.model:config().vocab_size)
end

--- m:ids(text, p, messages) -> token ids of a prompt: of a run's with the tags of the preference; of a chat model's as a
-- user's turn behind `messages`; of any other the text alone.
function Loaded:ids(text, p, messages)
  if self.objectives then
    return lm.prompt(self.tokenizer, preference.relabel(text, self:preference(p)))
  end
  self:preference(p)
  if not self.template then
    return lm.prompt(self.tokenizer, text)
  end
  local list = { table.unpack(messages or {}) }
  list[#list + 1] = { role = "user", content = text }
  return chat.encode(self.tokenizer, chat.apply(self.template, list, { add_generation_prompt = true }))
end

local ANSWER = { "seed", "temperature", "top_p", "top_k", "max_new_tokens", "on_text", "messages" }

-- The settings of a call apart from the weights in it: those are its other keys.
local function split(what, o)
  if o ~= nil and type(o) ~= "table" then
    error(("%s: a table of weights and settings expected, got a %s"):format(what, type(o)), 3)
  end
  local settings, p, by_name = {}, nil, nil
  for key, value in pairs(o or {}) do
    local setting = false
    for _, name in ipairs(ANSWER) do
      setting = setting or name == key
    end
    if setting then
      settings[key] = value
    elseif key == "p" then
      p = value
    else
      by_name = by_name or {}
      by_name[key] = value
    end
  end
  if p ~= nil and by_name then
    error(("%s: p has the weights, and '%s' is one more; leave one of the two out"):format(what, tostring(next(by_name))), 3)
  elseif settings.on_text ~= nil and type(settings.on_text) ~= "function" then
    error(("%s: on_text is a %s, not a function"):format(what, type(settings.on_text)), 3)
  elseif settings.messages ~= nil and type(settings.messages) ~= "table" then
    error(("%s: messages is a %s, not a list"):format(what, type(settings.messages)), 3)
  end
  return settings, p or by_name
end

--- m:key(seed) -> the key that the answers of m:ask with this seed are drawn with.
function Loaded:key(seed)
  return rng.key(seed, "ask")
end

--- m:ask(text, o) -> answer. o: weights by objective ({humor = .9}), or p, a list of them; and seed, temperature, top_p,
-- top_k, max_new_tokens, on_text (called with each piece of the answer as it comes), messages (of a chat before it).
function Loaded:ask(text, o)
  if type(text) ~= "string" then
    error(("ask: a text expected, got a %s"):format(type(text)), 2)
  end
  local settings, p = split("ask", o)
  local prompt = self:ids(text, p, settings.messages)
  local stream, parts = self.tokenizer:decode_stream { skip_special = true }, {}
  local eos, ends = {}, self:ends()
  for _, id in ipairs(ends) do
    eos[id] = true
  end
  local function say(piece)
    parts[#parts + 1] = piece
    if settings.on_text and piece ~= "" then
      settings.on_text(piece)
    end
  end
  self.model:generate({ prompt }, {
    max_new_tokens = settings.max_new_tokens or self.max_new_tokens, temperature = settings.temperature or self.temperature,
    top_p = settings.top_p or self.top_p, top_k = settings.top_k, eos = ends, key = self:key(settings.seed or self.seed),
    vocab_size = self:vocab_size(),
    on_token = function(_, id)
      if not eos[id] then
        say(stream:push(id))
      end
    end,
  })
  say(stream:flush())
  return table.concat(parts)
end

Loaded.__call = Loaded.ask

--- m:score(prompt, answer) -> {objective = reward}, by the reward models of the run; empty without them.
function Loaded:score(prompt, answer)
  local values = {}
  for _, r in ipairs(self.rewards) do
    values[r.name] = r.model:score({ prompt }, { answer })[1]
  end
  return values
end

-- ---- looking inside ----

--- m:top(text, n=10, p) -> list of {id=, token=, p=}: the likeliest next tokens behind a prompt, at temperature 1.
function Loaded:top(text, n, p)
  if n ~= nil and not (math.type(n) == "integer" and n >= 1) then
    error(("top: a number of tokens of at least 1 expected, got %s"):format(tostring(n)), 2)
  end
  local scope <close> = tensor.scope()
  local ids = self:ids(text, p)
  local s <close> = self.model:session { rows = 1, max_tokens = #ids }
  s:append({ ids }, { 1 })
  local logp = s:logits():log_softmax()[1]
  local best, at = logp:topk(math.min(n or 10, logp:numel()))
  local list, places = {}, at:totable()
  for i, value in ipairs(best:totable()) do
    list[i] = { id = places[i], token = self.tokenizer:decode { places[i] }, p = math.exp(value) }
  end
  return list
end

--- m:norms() -> list of {layer=, norm=}: the Frobenius norm of what the active adapter adds to each layer, scale B A,
-- largest first.
function Loaded:norms()
  local scope <close> = tensor.scope()
  local pairs_of, order, list = {}, {}, {}
  for _, named in ipairs(self.model:named_parameters(true)) do
    local layer, part = named[1]:match "^(.*)%.lora_([AB])"
    if layer then
      if not pairs_of[layer] then
        pairs_of[layer], order[#order + 1] = {}, layer
      end
      pairs_of[layer][part] = named[2]:detach()
    end
  end
  local how = self.model:lora() or {}
  for _, layer in ipairs(order) do
    local ab = pairs_of[layer]
    if ab.A and ab.B then
      local product, r = ab.B:matmul(ab.A), ab.A.shape[1]
      local alpha = how.modules and how.modules[layer] and how.modules[layer].alpha or how.alpha or r
      local scale = how.use_rslora and alpha / math.sqrt(r) or alpha / r
      list[#list + 1] = { layer = layer, norm = scale * math.sqrt((product * product):sum():item()) }
    end
  end
  table.sort(list, function(a, b)
    return a.norm > b.norm
  end)
  return list
end

--- m:hidden(text, where, p) -> tensor [T, D]: states of a prompt's tokens. where: "embedding", "layers.K" (behind block
-- K, from 1), or "final" (after the last norm, the default).
function Loaded:hidden(text, where, p)
  local ids, config_of = self:ids(text, p), self.model:config()
  local layers, context = config_of.num_hidden_layers, config_of.max_position_embeddings
  if #ids > context then
    error(("hidden: the text has %d tokens, the context holds %d; shorten it"):format(#ids, context), 2)
  end
  local batch = transformer.batch({ ids }, { device = self.model:device() })
  where = tostring(where or "final")
  local k = where == "embedding" and 0 or tonumber(where:match "^layers%.(%d+)$")
  if where ~= "final" and not (k and k <= layers) then
    error(("hidden: '%s' is none of embedding, layers.1 .. layers.%d, final"):format(where, layers), 2)
  end
  return tensor.no_grad(function()
    return self.model:forward(batch, where ~= "final" and { stop = math.tointeger(k) } or nil)
  end)
end

-- ---- side by side ----

-- "humor .90, helpful .10"
function Loaded:preference_text(p)
  local parts = {}
  for j, name in ipairs(self.objectives) do
    parts[j] = ("%s %.2f"):format(name, p[j])
  end
  return table.concat(parts, ", ")
end

--- m:compare(prompt, list, o) -> list of {p=, answer=, rewards=}: one prompt under several preferences, with the same seed.
-- list: of preferences; nil is the grid that the recipes evaluate.
function Loaded:compare(prompt, list, o)
  if not self.objectives then
    self:preference {}
  end
  local found = {}
  local settings, weights = split("compare", o)
  if weights then
    error(("compare: '%s' is no setting of answers; the list has the preferences"):format(tostring(type(weights) == "table" and next(weights) or "p")), 2)
  elseif list ~= nil and type(list) ~= "table" then
    error(("compare: a list of preferences expected, got a %s"):format(type(list)), 2)
  end
  for i, p in ipairs(list or preference.grid(#self.objectives)) do
    settings.p = self:preference(p)
    local answer = self:ask(prompt, settings)
    found[i] = { p = settings.p, answer = answer, rewards = self:score(prompt, answer) }
  end
  return setmetatable(found, { __tostring = function(rows)
    local lines = {}
    for _, row in ipairs(rows) do
      local values = {}
      for _, r in ipairs(self.rewards) do
        values[#values + 1] = ("%s %.3f"):format(r.name, row.rewards[r.name])
      end
      lines[#lines + 1] = ("[%s]%s\n%s"):format(self:preference_text(row.p), #values > 0 and "  rewards: " .. table.concat(values, ", ")
        or "", row.answer)
    end
    return table.concat(lines, "\n\n")
  end })
end

--- loaded.compare(m, prompt, list, o) -> m:compare(prompt, list, o)
function loaded.compare(m, prompt, list, o)
  return m:compare(prompt, list, o)
end

--- m:chat(o) -> nothing: a conversation on the terminal (mocl.lm.talk).
function Loaded:chat(o)
  return require "mocl.lm.talk".run(self, o)
end

--- m:serve(o) -> nothing: answers over HTTP until it is interrupted (mocl.lm.serve).
function Loaded:serve(o)
  local s <close> = require "mocl.failure".check(require "mocl.lm.serve".new(self, o))
  s:run()
end

function Loaded:__tostring()
  local c = self.model:config()
  return ("%s: %d layers, hidden %d, %s%s%s; m \"text\", m:ask(text, o), m:compare(text), m:top(text), m:chat()"):format(self.path,
    c.num_hidden_layers, c.hidden_size, self.model:device(), self.template and ", a chat model" or "",
    self.objectives and ", objectives " .. table.concat(self.objectives, " ") or "")
end

return loaded
