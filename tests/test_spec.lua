-- specifications: training, the cache and the fast step compute the same model whatever it says, its gradient is its
-- slope, and a specification that contradicts itself is refused

local T = require "t"
local lm = require "mocl.lm.sft"
local nn = require "mocl.nn.core"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1

local PROMPTS = { { 1, 5, 9 }, { 2 }, { 7, 7, 7, 0, 28, 3, 14, 9, 22, 4, 1 }, { 3, 3 }, { 11, 12, 13, 14 } }
local ALL = { "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj" }
local BUT_GATE = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" }

-- one of each kind that families have, and one with what none of them joins
local SPECS = {
  { "q, k, v with biases", { biases = { "q_proj", "k_proj", "v_proj" }, tie_word_embeddings = true } },
  { "a norm over heads", { qk_norm = true } },
  { "a layer without rotation, scaled frequencies", { rope_layers = { false, true }, rope_frequencies = { .5, .01 }, rope_factor = 1.25 } },
  { "layer norms, learned positions, a plain MLP", { norm = "layer", positions = "learned", position_offset = 2, mlp = "plain",
    hidden_act = "gelu_tanh", biases = BUT_GATE, attention_scales = { .5, .25 } } },
  { "a window in one layer", { attention_windows = { 3, 0 } } },
  { "gelu with a gate, all biases", { hidden_act = "gelu", biases = ALL } },
  { "norms behind each sum, types, no positions", { norm = "layer", norm_place = "post", embedding_norm = true, positions = "none",
    type_vocab_size = 2, mlp = "plain", hidden_act = "relu" } },
  { "a scaled embedding", { embedding_multiplier = 3.5, norm = "layer", positions = "learned", mlp = "plain", hidden_act = "gelu" } },
}

-- Biases and norms that a new model has as 0 and 1 are drawn.
local function model_of(config, device, dtype)
  local model = small.model { config = config, device = device }
  model = dtype and transformer.new(model:config(), { device = device, dtype = dtype, key = 5 }) or model
  for i, pair in ipairs(model:named_parameters()) do
    local name, p = pair[1], pair[2]
    if p.ndim == 1 then
      local draw = tensor.randn(p.shape, { key = 23, stream = i, std = .3, device = device })
      tensor.no_grad(p.copy_, p, name:find "weight$" and draw + 1 or draw)
    end
  end
  return model
end

for _, spec in ipairs(SPECS) do
  local what, config = spec[1], spec[2]

  for _, device in ipairs(T.devices) do
    local function same_bits(dtype)
      local model = small.adapter(model_of(config, device, dtype))
      local g, logp = model:generate(PROMPTS, { max_new_tokens = 9, temperature = .8, key = 3 })
      local batch = transformer.pack(PROMPTS, g.tokens, { device = device })
      local states = nn.rows(model:forward(batch), batch.rows)
      T.eq(nn.lm_head(states, model:head(), batch.targets, { temperature = .8 }):totable(), logp:totable())
      local s <close> = model:session { rows = 1 }
      for _, id in ipairs(PROMPTS[3]) do
        s:append { { id } }
      end
      local alone = model:forward(transformer.batch({ PROMPTS[3] }, { device = device })):totable()
      T.eq(s:hidden():totable()[1], alone[#alone], "token by token")
    end
    T.test(("%s: the cache has the bits of the forward pass, on %s"):format(what, device), same_bits)
    if device ~= "fake" and config.norm ~= "layer" and not config.hidden_act then -- what bf16 is computed for
      T.test(("%s: the same in bf16, on %s"):format(what, device), function()
        same_bits "bf16"
      end)
    end
  end

  T.test(what .. ": steps over tensors (fake) and on the host (cpu) draw the same tokens with the same bits", function()
    local answers = {}
    for _, rows in ipairs { PROMPTS, { PROMPTS[1] } } do -- a row alone has its matrices side by side
      for i, device in ipairs { "cpu", "fake" } do
        local model = small.adapter(model_of(config, device))
        local g, logp = model:generate(rows, { max_new_tokens = 14, temperature = .9, key = 3 })
        answers[i] = { g.tokens, logp:totable() }
      end
      T.eq(answers[1], answers[2])
    end
  end)

  T.test(what .. ": the gradient of the loss is its slope", function()
    local model = model_of(config)
    local h, tol = is_double and 1e-5 or 3e-3, is_double and 1e-8 or 3e-3
    local prompts, responses = { { 1, 4 }, { 1 } }, { { 8, 8, 3, 28 }, { 0, 20, 5 } }
    transformer.train_base(model)
    lm.loss(model, prompts, responses):backward()
    local n = 0
    for i, pair in ipairs(model:named_parameters()) do
      local flat, at = pair[2]:detach():flatten(), i * 7 % pair[2]:numel() + 1
      local want = pair[2].grad:flatten()[at]:item()
      local cell, was = flat:narrow(1, at, 1), flat[at]:item()
      local function loss_at(x)
        cell:fill_(x)
        return tensor.no_grad(lm.loss, model, prompts, responses):item()
      end
      local up, down = loss_at(was + h), loss_at(was - h)
      cell:fill_(was)
      T.near((up - down) / (2 * h), want, tol, pair[1])
      n = n + (want ~= 0 and 1 or 0)
    end
    T.ok(n > 12, n .. " gradients")
  end)

  T.test(what .. ": a specification comes back as it was given", function()
    local model = model_of(config)
    local again = transformer.new(model:config())
    T.eq(again:config(), model:config())
    T.eq(transformer.check(model:config()), model:config())
    for key, value in pairs(config) do
      T.eq(model:config()[key], value, key)
    end
    T.eq(transformer.clone(model):forward(transformer.batch { { 1, 2 } }):totable(), model:forward(transformer.batch { { 1, 2 } }):totable())
  end)
end

for _, device in ipairs(T.devices) do
  T.test("gradients through a window are the cpu's, and what is outside it gets none, on " .. device, function()
    local n, grads = 70, {} -- more than a block of keys
    for i, where in ipairs { "cpu", device } do
      local x = {}
      for k = 1, 3 do
        x[k] = tensor.randn({ n, k == 1 and 4 or 2, 8 }, { key = 9, stream = k }):to(where):requires_grad_()
      end
      local y = nn.attention(x[1], x[2], x[3], { 0, n }, { window = 5 })
      y:narrow(1, 60, 2):square():sum():backward()
      grads[i] = { small.flat(x[1].grad), small.flat(x[2].grad), small.flat(x[3].grad), small.flat(y) }
      local seen = x[3].grad:square():sum(3):sum(2):totable()
      for t = 1, n do
        T.eq(seen[t] ~= 0, t >= 56 and t <= 61, t)
      end
    end
    for k = 1, 4 do
      T.near(grads[2][k], grads[1][k], is_double and 1e-9 or 1e-5, k)
    end
  end)
end

T.test("a window that cannot be", function()
  local q = tensor.ones { 3, 1, 2 }
  for _, o in ipairs { { window = -1 }, { window = 2, causal = false } } do
    T.raises("attention: window = .* must be 0 %(none%) or more, and stands with causal = true alone", nn.attention, q, q, q, { 0, 3 }, o)
  end
end)

T.test("an encoder looks both ways", function()
  local config = { norm = "layer", norm_place = "post", embedding_norm = true, positions = "learned", causal = false, head = "none",
    mlp = "plain", hidden_act = "gelu", biases = BUT_GATE, type_vocab_size = 2 }
  for _, device in ipairs(T.devices) do
    local model = model_of(config, device)
    local function first(ids, types)
      local batch = transformer.batch({ ids }, { device = device })
      batch.types = types and tensor.new(types, { dtype = "i32", device = device })
      return model:forward(batch):totable()[1]
    end
    T.ok(first { 1, 2, 3 }[1] ~= first { 1, 2, 4 }[1])
    T.eq(first({ 1, 2, 3 }, { 0, 0, 0 }), first { 1, 2, 3 })
    T.ok(first({ 1, 2, 3 }, { 0, 0, 1 })[1] ~= first { 1, 2, 3 }[1])
    T.raises("forward: 2 types for 3 tokens", first, { 1, 2, 3 }, { 0, 0 })
    T.raises("index 2 %(entry 3%) is outside 0 .. 1", first, { 1, 2, 3 }, { 0, 0, 2 })
  end
end)

-- a decoder that attends to an encoder's states, and what it needs of them
local CROSS = { norm = "layer", norm_place = "post", embedding_norm = true, positions = "learned", position_offset = 2, head = "none",
  mlp = "plain", hidden_act = "gelu", cross_attention = true,
  biases = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj", "encoder_attn.q_proj", "encoder_attn.k_proj",
    "encoder_attn.v_proj", "encoder_attn.o_proj" } }

local function cross_config(change)
  local config = small.model({ config = CROSS }):config()
  for key, value in pairs(change or {}) do
    config[key] = value
  end
  return config
end

local function memory_of(lengths, device)
  local offsets = { 0 }
  for i, n in ipairs(lengths) do
    offsets[i + 1] = offsets[i] + n
  end
  local states = tensor.randn({ offsets[#offsets], 12 }, { key = 31 }):to(device or "cpu")
  return states, tensor.new(offsets, { dtype = "i32", device = device or "cpu" })
end

for _, device in ipairs(T.devices) do
  T.test("attention to other tokens is a softmax over all of them, and its gradients, on " .. device, function()
    local offsets, keys = { 0, 3, 3, 8, 28 }, { 0, 5, 6, 76, 78 } -- fewer and more, one without a query, more than a block of keys
    local grads = {}
    for i, where in ipairs { "cpu", device } do
      local q = tensor.randn({ 28, 4, 6 }, { key = 9, stream = 1 }):to(where):requires_grad_()
      local k = tensor.randn({ 78, 2, 6 }, { key = 9, stream = 2 }):to(where):requires_grad_()
      local v = tensor.randn({ 78, 2, 6 }, { key = 9, stream = 3 }):to(where):requires_grad_()
      local y
      if i == 1 then -- by hand
        local parts = {}
        for _, s in ipairs { 1, 3, 4 } do
          local rows = {}
          for h = 1, 4 do
            local g, n = (h + 1) // 2, keys[s + 1] - keys[s]
            local qs = q:narrow(1, offsets[s] + 1, offsets[s + 1] - offsets[s]):narrow(2, h, 1):reshape { -1, 6 }
            local ks = k:narrow(1, keys[s] + 1, n):narrow(2, g, 1):reshape { n, 6 }
            local vs = v:narrow(1, keys[s] + 1, n):narrow(2, g, 1):reshape { n, 6 }
            rows[h] = (qs:matmul(ks:t()) * .25):softmax(2):matmul(vs):reshape { -1, 1, 6 }
          end
          parts[#parts + 1] = tensor.cat(rows, 2)
        end
        y = tensor.cat(parts, 1)
      else
        y = nn.attention(q, k, v, offsets, { causal = false, scale = .25, key_offsets = keys })
      end
      (y * tensor.randn({ 28, 4, 6 }, { key = 9, stream = 4 }):to(where)):sum():backward()
      grads[i] = { small.flat(y), small.flat(q.grad), small.flat(k.grad), small.flat(v.grad) }
    end
    for what = 1, 4 do
      T.near(grads[2][what], grads[1][what], is_double and 1e-9 or 1e-5, what)
    end
  end)

  T.test("cross attention: a row's states depend on its own memory alone, and rows ask for the same bits, on " .. device, function()
    local model = model_of(CROSS, device)
    local lengths = { 4, 1, 9, 2, 7 }
    local states, offsets = memory_of(lengths, device)
    local batch = transformer.batch(PROMPTS, { device = device })
    local all = model:forward(batch, { encoder_hidden_states = states, encoder_offsets = offsets })
    local picked = tensor.new({ 2, 0, 14, 4, 18 }, { dtype = "i32", device = device })
    T.eq(model:forward(batch, { encoder_hidden_states = states, encoder_offsets = offsets, rows = picked }):totable(),
      nn.rows(all, picked):totable())
    local ends, at = offsets:totable(), batch.offsets:totable()
    for row, ids in ipairs(PROMPTS) do
      local own = states:narrow(1, ends[row] + 1, lengths[row])
      local alone = model:forward(transformer.batch({ ids }, { device = device }), { encoder_hidden_states = own,
        encoder_offsets = tensor.new({ 0, lengths[row] }, { dtype = "i32", device = device }) }):totable()
      T.eq(alone, all:narrow(1, at[row] + 1, #ids):totable(), row)
      local other = model:forward(transformer.batch({ ids }, { device = device }), { encoder_hidden_states = own * 2,
        encoder_offsets = tensor.new({ 0, lengths[row] }, { dtype = "i32", device = device }) }):totable()
      T.ok(other[1][1] ~= alone[1][1], "the memory counts")
    end
  end)
end

T.test("cross attention: gradients of the weights and of the memory are the slope", function()
  local model = model_of(CROSS)
  local states, offsets = memory_of { 3, 5 }
  states:requires_grad_()
  local batch, weigh = transformer.batch { { 1, 4, 8 }, { 2, 2 } }, tensor.randn({ 5, 12 }, { key = 3 })
  transformer.train_base(model)
  local function loss()
    return (model:forward(batch, { encoder_hidden_states = states, encoder_offsets = offsets }) * weigh):sum()
  end
  loss():backward()
  local h, tol, named = is_double and 1e-5 or 3e-3, is_double and 1e-7 or 2e-2, model:named_parameters()
  named[#named + 1] = { "memory", states }
  T.eq(#named, 4 + 2 * 26 + 1)
  for i, pair in ipairs(named) do
    local flat, at = pair[2]:detach():flatten(), i * 7 % pair[2]:numel() + 1
    local want, cell, was = pair[2].grad:flatten()[at]:item(), flat:narrow(1, at, 1), flat[at]:item()
    local function loss_at(x)
      cell:fill_(x)
      return tensor.no_grad(loss):item()
    end
    local up, down = loss_at(was + h), loss_at(was - h)
    cell:fill_(was)
    T.near((up - down) / (2 * h), want, tol * (1 + math.abs(want)), pair[1])
  end
end)

T.test("cross attention: what it needs, and what it does not do", function()
  local model, plain = model_of(CROSS), small.model()
  local states, offsets = memory_of { 2, 3 }
  local batch = transformer.batch { { 1, 2 }, { 3 } }
  local function forward(o)
    return model:forward(batch, o)
  end
  T.raises("give encoder_hidden_states and encoder_offsets", forward)
  T.raises("give encoder_hidden_states and encoder_offsets", forward, { encoder_hidden_states = states })
  T.raises("encoder_offsets are of 1 sequences, the batch has 2", forward, { encoder_hidden_states = states,
    encoder_offsets = tensor.new({ 0, 5 }, { dtype = "i32" }) })
  T.raises("sequence 1 has no token to look at", forward, { encoder_hidden_states = states, encoder_offsets = tensor.new({ 0, 0, 5 }, { dtype = "i32" }) })
  T.raises("offsets must rise from 0 to the number of rows, 5", forward, { encoder_hidden_states = states,
    encoder_offsets = tensor.new({ 0, 2, 6 }, { dtype = "i32" }) })
  T.raises("encoder_hidden_states %(5,11%) do not have the width 12", forward, { encoder_hidden_states = tensor.ones { 5, 11 }, encoder_offsets = offsets })
  T.raises("option 'encoder_offsets' is a table", forward, { encoder_hidden_states = states, encoder_offsets = { 0, 2, 5 } })
  T.raises("this model has no cross_attention", plain.forward, plain, batch, { encoder_hidden_states = states, encoder_offsets = offsets })
  T.raises("session: this model attends to an encoder's states", model.session, model)
  T.raises("lora: adapters on a model with cross_attention are not supported", model.add_lora, model, { r = 2 })
  T.raises("generate: this model has no language%-model head", model.generate, model, { { 1 } })
  local q, k = tensor.ones { 3, 1, 2 }, tensor.ones { 4, 1, 2 }
  T.raises("key_offsets go with causal = false", nn.attention, q, k, k, { 0, 3 }, { key_offsets = { 0, 4 } })
  T.raises("as many sequences as offsets has", nn.attention, q, k, k, { 0, 3 }, { key_offsets = { 0, 2, 4 }, causal = false })
  T.raises("sequence 2 has no token to look at", nn.attention, q, k, k, { 0, 1, 3 }, { key_offsets = { 0, 4, 4 }, causal = false })
  T.eq(nn.attention(q, q, q, tensor.new({ 0, 3 }, { dtype = "i32" })).shape, { 3, 1, 2 }, "offsets alone")
  T.raises("needs q %[T, H, K%], k and v %[T, G, K%]", nn.attention, q, k, k, { 0, 3 }, { causal = false })
  local base, other = transformer.new(cross_config()), transformer.new(cross_config { vocab_size = 30 })
  model:share_embedding(base)
  local tied = model:named_parameters()[1][2]
  tied:narrow(1, 1, 1):fill_(.5)
  T.eq(base:named_parameters()[1][2]:totable()[1][1], .5, "one tensor of both")
  T.raises("share_embedding: the models must have embeddings of one shape", model.share_embedding, model, other)
  T.raises("and the first no head", plain.share_embedding, plain, base)
  T.eq(model:config().cross_attention, true)
  T.eq(transformer.check(model:config()), model:config())
  T.fails("no architecture of llama.cpp's", transformer.save_gguf, small.model { config = { embedding_multiplier = 2 } }, T.tmpdir() .. "/m.gguf")
  T.raises("no family of Hugging Face's is known", transformer.save, small.model { config = { embedding_multiplier = 2 } }, T.tmpdir() .. "/m")
end)

T.test("what contradicts itself is refused in words", function()
  local function new(change)
    return small.model { config = change }
  end
  for text, change in pairs {
    ["rms_norm_eps contradicts norm = 'layer'; say layer_norm_eps"] = { norm = "layer", rms_norm_eps = 1e-5 },
    ["layer_norm_eps contradicts norm = 'rms'; say rms_norm_eps"] = { layer_norm_eps = 1e-5 },
    ["norm = 'batch' is none of rms, layer"] = { norm = "batch" },
    ["final_norm contradicts norms of place \"post\""] = { norm_place = "post", final_norm = true },
    ["rope_frequencies, rope_factor and rope_layers contradict positions"] = { positions = "learned", rope_factor = 2 },
    ["position_offset contradicts positions"] = { position_offset = 2 },
    ["position_offset = %-1 is outside"] = { positions = "learned", position_offset = -1 },
    ["a bias for gate_proj contradicts a plain MLP"] = { mlp = "plain", biases = { "gate_proj" } },
    ["a language%-model head contradicts attention that is not causal"] = { causal = false },
    ["tie_word_embeddings contradicts head = 'none'"] = { head = "none", tie_word_embeddings = true },
    ["biases: 'lm_head' is no linear layer"] = { biases = { "lm_head" } },
    ["rope_frequencies has 1 entries, 2 are needed"] = { rope_frequencies = { 1 } },
    ["entry 2 of rope_frequencies, %-1, must be 0 or more"] = { rope_frequencies = { 1, -1 } },
    ["entry 1 of rope_layers is no boolean"] = { rope_layers = { 1, 0 } },
    ["entry 2 of attention_scales, 0, must be positive"] = { attention_scales = { 1, 0 } },
    ["entry 1 of attention_windows, %-1, must be 0"] = { attention_windows = { -1, 0 } },
    ["entry 2 of attention_windows is no integer"] = { attention_windows = { 1, .5 } },
    ["attention_windows contradicts attention that is not causal"] = { attention_windows = { 1, 0 }, causal = false, head = "none" },
    ["rope_factor = 0 must be positive"] = { rope_factor = 0 },
    ["a language%-model head contradicts cross_attention"] = { cross_attention = true },
    ["a bias for encoder_attn contradicts blocks without cross_attention"] = { biases = { "encoder_attn.q_proj" } },
    ["embedding_multiplier = 0 must be positive and finite"] = { embedding_multiplier = 0 },
    ["type_vocab_size = %-1 is outside"] = { type_vocab_size = -1 },
    ["hidden_act = 'quick' is none of silu, gelu, gelu_tanh, relu"] = { hidden_act = "quick" },
  } do
    T.raises("model config: " .. text, new, change)
  end
  local plain = new { mlp = "plain", hidden_act = "gelu" }
  T.raises("lora: the blocks of this model have no mlp.gate_proj", plain.add_lora, plain, { target_modules = { "gate_proj" } })
  plain:add_lora { r = 2 } -- on what there is
  T.eq(#transformer.parameters(plain, true), 2 * 2 * 6)
  T.raises("save: the model has an adapter", transformer.save_gguf, small.adapter(new {}), T.tmpdir() .. "/m.gguf")
  plain:drop_lora()
  T.fails("m.gguf: no architecture of llama.cpp's that mocl writes has this specification", transformer.save_gguf, plain, T.tmpdir() .. "/m.gguf")
  for _, config in ipairs { { attention_windows = { 3, 0 } }, { mlp = "plain", hidden_act = "gelu" }, { rope_factor = 2 } } do
    T.fails("no architecture of llama.cpp's that mocl writes has this specification", transformer.save_gguf, new(config), T.tmpdir() .. "/m.gguf")
  end
  T.raises("transformer.save: no family of Hugging Face's is known", transformer.save, plain, T.tmpdir() .. "/m")
end)
