-- NaN and infinity: generation, losses, steps of an optimiser, scores and files stop at the first one and say where

local T = require "t"
local agent = require "mocl.world.agent"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local optim = require "mocl.optim"
local value_heads = require "mocl.train.value_heads"
local optimizer = require "mocl.optim_files"
local reward = require "mocl.lm.reward"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local NAN, INF = 0 / 0, math.huge

-- writes one entry of a parameter, by its name and a flat place from 1
local function poison(model, name, place, value, lora)
  for _, pair in ipairs(model:named_parameters(lora)) do
    if pair[1] == name then
      local p = pair[2]
      local list = p:flatten():totable()
      list[place] = value
      tensor.no_grad(p.copy_, p, tensor.new(list):reshape(p.shape))
      return model
    end
  end
  error("no parameter " .. name)
end

for _, device in ipairs(T.devices) do
  T.test("nonfinite: the first place and its value, on " .. device, function()
    local x = tensor.zeros({ 2, 3, 4 }, { device = device })
    T.eq(x:nonfinite(), nil)
    x:select(1, 2):fill_(INF)
    T.eq({ x:nonfinite() }, { { 2, 1, 1 }, INF, 12 })
    T.eq({ x:transpose(1, 3):nonfinite() }, { { 1, 1, 2 }, INF, 12 })
    x:fill_(3e38) -- the squares are not finite in f32
    T.eq(x:nonfinite(), nil)
    local wide = tensor.zeros({ 300, 1000 }, { device = device })
    wide[251][7]:fill_(-INF)
    wide[300][1000]:fill_(NAN)
    T.eq({ wide:nonfinite() }, { { 251, 7 }, -INF, 2 })
    T.eq({ wide:t():to("f16"):nonfinite() }, { { 7, 251 }, -INF, 2 })
    local place, value = tensor.new(NAN, { device = device }):nonfinite()
    T.eq({ place, value ~= value }, { {}, true })
    T.eq(tensor.new({ 1, -INF }, { device = device }):to("bf16"):nonfinite(), { 2 })
    T.eq(tensor.new({ 1, 2 }, { device = device, dtype = "i32" }):nonfinite(), nil)
    T.eq(tensor.zeros({ 0, 3 }, { device = device }):nonfinite(), nil)
  end)

  T.test("generate names the prompt, the token and the weight, on " .. device, function()
    local prompts = { { 1, 5 }, { 2 }, { 7, 7, 3 } }
    local function told(text, options, change, lora)
      local model = small.model { device = device }
      if lora then
        small.adapter(model)
      end
      change(model)
      options.max_new_tokens = options.max_new_tokens or 20
      T.raises(text, model.generate, model, prompts, options)
      return model
    end
    local function head(value)
      return function(model) poison(model, "lm_head.weight", 20, value) end
    end
    for _, value in ipairs { NAN, INF, -INF } do
      for _, o in ipairs { { temperature = 0 }, { temperature = 1, key = 1 }, { temperature = 1, key = 1, top_k = 3 },
        { temperature = 0, max_new_tokens = 1 } } do
        told("generate: the logits of prompt 1 at token 1 are not finite: weight 'lm_head.weight' is %-?%a+ at %[2,8%]",
          o, head(value))
      end
    end
    -- a token whose state is NaN once it has been drawn: the row that draws it first, at the step behind it
    local model = small.model { device = device }
    local clean = model:generate(prompts, { max_new_tokens = 20, temperature = 1, key = 3 })
    local token, row, at = clean.tokens[2][6], nil, nil
    for i, ids in ipairs(clean.tokens) do
      for k, id in ipairs(ids) do
        if id == token and k < 20 and (not at or k < at) then
          row, at = i, k
        end
      end
    end
    for _, ids in ipairs(prompts) do
      for _, id in ipairs(ids) do
        T.ok(id ~= token, "no prompt has it")
      end
    end
    told(("prompt %d at token %d are not finite: weight 'model.embed_tokens.weight' is nan"):format(row, at + 1),
      { temperature = 1, key = 3 }, function(m) poison(m, "model.embed_tokens.weight", token * m:config().hidden_size + 1, NAN) end)
    -- the adapter, where it is used
    local name = "model.layers.0.self_attn.q_proj.lora_A.weight"
    local adapted = told("prompt 1 at token 1 are not finite: weight '" .. name:gsub("%.", "%%.") .. "'", { temperature = 0 },
      function(m) poison(m, name, 1, NAN, true) end, true)
    T.eq(#adapted:generate(prompts, { max_new_tokens = 3, temperature = 0, adapter = false }).tokens[1], 3)
    -- finite weights, logits that are not
    told("are not finite: all weights are, so they are too large", { temperature = 0 }, function(m)
      local w = m:head()
      tensor.no_grad(w.fill_, w, 3e38)
    end)
  end)

  T.test("an optimiser refuses a gradient that is not finite before it changes anything, on " .. device, function()
    for _, kind in ipairs { "adamw", "sgd" } do
      for _, value in ipairs { NAN, INF, -INF } do
        local a = tensor.new({ 1, 2 }, { device = device }):requires_grad_()
        local b = tensor.new({ { 3, 4 }, { 5, 6 } }, { device = device }):requires_grad_()
        local opt = optim[kind]({ { "first", a }, { "second", b } }, { lr = .1, [kind == "sgd" and "momentum" or "eps"] = .5 })
        a:backward(tensor.new({ 1, 1 }, { device = device }))
        b:backward(tensor.new({ { 1, 1 }, { 1, 1 } }, { device = device }))
        opt:step { max_grad_norm = 1 }
        local function state()
          local list = { a:totable(), b:totable(), opt:steps() }
          for _, part in pairs(opt:state()) do
            for _, t in ipairs(part) do
              list[#list + 1] = t:totable()
            end
          end
          return list
        end
        local before = state()
        b:zero_grad()
        b:backward(tensor.new({ { 1, 1 }, { value, 1 } }, { device = device }))
        for _, o in ipairs { {}, { max_grad_norm = 1 } } do
          T.raises("step: the gradient of second %(2,2%) is not finite %(%-?%a+ at %[2,1%]%); nothing was changed", opt.step, opt, o)
        end
        T.eq(state(), before)
      end
    end
    local p = tensor.new({ 1 }, { device = device }):requires_grad_()
    p:backward(tensor.new({ NAN }, { device = device }))
    local opt = optim.adamw { p }
    T.raises("the gradient of parameter 1 %(1%) is not finite %(nan at %[1%]%)", opt.step, opt)
  end)

  T.test("a step whose weights or moments would not be finite is refused, on " .. device, function()
    local function told(text, kind, gradient, o)
      local p = tensor.new({ 1 }, { device = device }):requires_grad_()
      local opt = optim[kind]({ p }, { lr = .1 })
      p:backward(tensor.new({ gradient }, { device = device }))
      T.raises(text, opt.step, opt, o)
      T.eq({ p:totable(), opt:steps() }, { { 1 }, 0 })
      opt:step { max_grad_norm = 1 }
      T.eq(p:nonfinite(), nil)
    end
    told("step: weights are not finite after a step of lr = 1e%+38", "adamw", 1, { lr = 1e38 }) -- the first is 10 lr
    told("step: weights are not finite after a step of lr = 1e%+39", "sgd", 1, { lr = 1e39 })
    told("step: the square of a gradient of norm 1e%+20 is not finite", "adamw", 1e20)
  end)
end

-- ---- losses ----

local function training(device, o)
  local model = small.model { device = device }
  transformer.train_base(model)
  local prompts, responses = {}, {}
  for i = 1, 12 do
    prompts[i], responses[i] = { 1, i }, { i + 1, i + 2, 3 }
  end
  local all = { model = model, parameters = model:named_parameters(), prompts = prompts, responses = responses, steps = 40, batch_size = 4,
    lr = 1e-2, seed = 1, purpose = "base" }
  for k, v in pairs(o or {}) do
    all[k] = v
  end
  return model, all
end

local function weights(model)
  local list = {}
  for i, pair in ipairs(model:named_parameters()) do
    list[i] = pair[2]:totable()
  end
  return list
end

for _, device in ipairs(T.devices) do
  T.test("lm.train stops at the first number that is not finite, on " .. device, function()
    local seen = 0
    local model, o = training(device, { lr = 1e10, on_step = function(step, loss)
      seen = step
      T.ok(loss == loss)
    end })
    local ok, err = pcall(lm.train, o)
    T.ok(not ok and err:find(("^base: step %d: .*not finite.*; lower lr, which is 1e%%+10$"):format(seen + 1)), err)
    T.eq(finite.tensors(model:named_parameters(), "w"), true, "the weights of the last good step")
    -- a NaN that is there before: the weights are as they were
    model, o = training(device, { lr_name = "base.lr" })
    poison(model, "model.layers.1.mlp.up_proj.weight", 5, NAN)
    local before = T.show(weights(model))
    T.raises("^base: step 1: the loss is not finite %(nan%); lower base.lr, which is 0.01$", lm.train, o)
    T.eq(T.show(weights(model)), before)
    T.raises("lm.evaluate: the loss of rows 1 to 4 is not finite %(nan%)", lm.evaluate, model, o.prompts, o.responses, 4)
  end)
end

T.test("a trainer that is saved after any step goes on with the same bits; a poisoned one is not saved", function()
  local model, o = training("cpu", { steps = 9 })
  local whole = lm.train(o)
  local want = weights(model)
  for _, at in ipairs { 1, 4, 8, 9 } do
    local dir = T.tmpdir()
    local _, first = training("cpu", { steps = 9 })
    local t <close> = lm.trainer(first)
    for _ = 1, at do
      t:step()
    end
    t:save(dir)
    local state = json.decode(json.encode(t:state()))
    local again, second = training("cpu", { steps = 9 })
    local u <close> = lm.trainer(second)
    u:load(dir, state)
    T.eq(u.done, at)
    for _ = u.done + 1, u.steps do
      u:step()
    end
    T.eq(u:finish(), whole)
    T.eq(weights(again), want)
  end
  model, o = training "cpu"
  local t <close> = lm.trainer(o)
  t:step()
  poison(model, "model.norm.weight", 3, INF)
  local dir = T.tmpdir()
  local text = "base: step 1: after the step: tensor 'model.norm.weight' is not finite: 1 of 12 values are nan or infinite, the first is inf at %[3%]; lower lr"
  T.raises(text, t.save, t, dir)
  T.raises(text, t.finish, t)
  T.eq(fs.list(dir), {})
end)

T.test("a reward model: training, scores, accuracy", function()
  local tok = tokenizer.train({ ("abcdefgh "):rep(20) }, { vocab_size = 270, special_tokens = { "<s>", "</s>" } })
  local function made()
    local trunk = small.model { config = { vocab_size = tok:vocab_size() } }
    return reward.model { trunk = trunk, tokenizer = tok }, trunk
  end
  local pairs_list = {}
  for i = 1, 8 do
    local a, b = ("c"):rep(i), ("d"):rep(i)
    pairs_list[i] = { prompt = "ab", chosen = i % 2 == 0 and a or b, rejected = i % 2 == 0 and b or a } -- nothing to learn
  end
  local o = { pairs = pairs_list, steps = 30, batch_size = 4, lr = 1e30, seed = 1, purpose = "reward kind", lr_name = "reward.lr" }
  T.raises("^reward kind: step %d+: .*not finite.*; lower reward.lr, which is 1e%+30$", made().train, (made()), o)
  local model, trunk = made()
  poison(trunk, "model.norm.weight", 1, NAN)
  T.raises("^reward model: the score of answer 1 is not finite %(nan%)$", model, { "a" }, { "b" })
  T.raises("not finite", model.accuracy, model, pairs_list)
  model = made()
  tensor.no_grad(model.head.fill_, model.head, INF)
  T.raises("the score of answer 1 is not finite", model, { "a" }, { "b" })
  local dir = T.tmpdir() .. "/model"
  local ok, message = model:save(dir)
  T.eq(ok, nil)
  T.ok(message:find("score_head.safetensors: tensor 'score.weight' is not finite: 12 of 12 values", 1, true), message)
  T.eq(fs.exists(dir), nil)
end)

-- ---- files ----

T.test("what is not finite is neither saved as a model, adapter, head, moment or agent, nor loaded as one", function()
  local dir = T.tmpdir()
  local function told(text, ok, message, code)
    T.eq({ ok, code }, { nil, "FORMAT" })
    T.ok(message:find(text .. ".* is not finite: 1 of %d+ values are nan or infinite"), message)
  end
  -- writes a NaN into a tensor of a file
  local function damage(path, name)
    local tensors, meta = assert(safetensors.load(path))
    local list = tensors[name]:flatten():totable()
    list[1] = NAN
    tensors[name] = tensor.new(list):reshape(tensors[name].shape)
    assert(safetensors.save(path, tensors, meta))
  end
  local model = small.adapter(small.model())
  assert(lora.save(model, dir .. "/adapter"))
  local name = "model.layers.0.self_attn.q_proj.lora_B.weight"
  damage(dir .. "/adapter/adapter_model.safetensors", "base_model.model." .. name)
  told("adapter_model.safetensors: tensor 'base_model.model." .. name, lora.load(small.model(), dir .. "/adapter"))
  poison(model, name, 1, NAN, true)
  told("tensor 'base_model.model." .. name, lora.save(model, dir .. "/none"))
  told("tensor 'model.norm.weight'", transformer.save(poison(small.model(), "model.norm.weight", 1, NAN), dir .. "/none"))
  T.eq(fs.exists(dir .. "/none"), nil)
  local heads = value_heads.new(1, 4, { key = 1 })
  assert(heads:save(dir .. "/heads"))
  damage(dir .. "/heads", "v_head.0.2.bias")
  told("heads: tensor 'v_head.0.2.bias'", heads:load(dir .. "/heads"))
  tensor.no_grad(heads:parameters()[4].fill_, heads:parameters()[4], NAN)
  told("heads: tensor 'v_head.0.2.bias'", heads:save(dir .. "/heads"))
  local p = tensor.ones({ 3 }, { requires_grad = true })
  local opt = optim.adamw { p }
  p:sum():backward()
  opt:step()
  assert(optimizer.save(opt, dir .. "/opt"))
  damage(dir .. "/opt", "second.00001")
  told("opt: tensor 'second.00001'", optimizer.load(opt, dir .. "/opt"))
  local moment = opt:state().first[1]
  moment:narrow(1, 1, 1):fill_(INF)
  told("opt2: tensor 'first.00001'", optimizer.save(opt, dir .. "/opt2"))
  T.eq(fs.exists(dir .. "/opt2"), nil)
  local a = agent.new { world = require("mocl.world.worlds.fishwood").new {}, hidden = { 4 }, key = 1 }
  assert(a:save(dir))
  damage(dir .. "/agent.safetensors", "actor.1.weight")
  told("agent.safetensors: tensor 'actor.1.weight'", a:load(dir))
  local w = a:parameters()[1]
  tensor.no_grad(function() w:narrow(1, 1, 1):narrow(2, 1, 1):fill_(NAN) end)
  told("agent.safetensors: tensor 'actor.1.weight'", a:save(dir))
end)

T.test("what is not finite is said in one way", function()
  T.eq(finite.number(1.5, "the loss"), 1.5)
  T.raises("^the loss is not finite %(nan%)$", finite.number, -NAN, "the loss")
  T.raises("^the loss is not finite %(%-inf%)$", finite.number, -INF, "the loss")
  local ok, message, code = finite.tensors({ b = tensor.new { 1, NAN }, a = tensor.zeros { 2 } }, "dir/file")
  T.eq({ ok, message, code }, { nil, "dir/file: tensor 'b' is not finite: 1 of 2 values are nan or infinite, the first is nan at [2]", "FORMAT" })
  T.eq(finite.tensors { { "a", tensor.zeros { 2 } } }, true)
  T.raises("^base: step 3: the loss is not finite %(nan%); lower base%.lr$", finite.within, "base: step 3", "lower base.lr",
    finite.number, NAN, "the loss")
  T.raises("^base: step 3: it is not finite; lower base%.lr$", finite.within, "base: step 3", "lower base.lr", error, "x/y.lua:12: it is not finite", 0)
  T.raises("^another$", finite.within, "base: step 3", "lower base.lr", error, "another", 0)
  T.eq({ finite.within("", "", function(a, b) return b, a end, 1, 2 ) }, { 2, 1 })
end)
