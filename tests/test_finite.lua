-- NaN and infinity: generation, losses, steps of an optimiser, scores and files stop at the first one and say where

local T = require "t"
local finite = require "mocl.finite"
local optim = require "mocl.optim"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.transformer"

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
        told("generate: the logits of prompt 1 at token 1 are not finite: weight 'lm_head.weight' is %-?%a+ at %[%d,%d+%]", o, head(value))
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
    told("step: weights would not be finite after a step of lr = 1e%+38", "adamw", 1, { lr = 1e38 }) -- the first is 10 lr
    told("step: weights would not be finite after a step of lr = 1e%+39", "sgd", 1, { lr = 1e39 })
    told("step: the square of a gradient of norm 1e%+20 would not be finite", "adamw", 1e20)
  end)
end

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
