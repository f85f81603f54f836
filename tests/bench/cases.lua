--- cases: what the benchmark measures, mocl's side. Each case has
--   name, title; unit and scale (a time per run in that unit is seconds * scale); goal and stretch (times faster)
--   setup(dir) -> description, state: writes what the peer reads into dir; the description says what the peer builds
--   check(state) -> list of numbers that the peer must find too, to the bound case.bound
--   run(state, n): n runs, timed by the caller

local inputs = require "inputs"
local iteration = require "iteration"
local lm = require "mocl.lm.sft"
local nn = require "mocl.nn"
local optim = require "mocl.optim"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local BATCHES = 8 -- that a training case goes through in turn
local CHECKED = 3 -- steps whose losses are compared

local function save(path, list)
  local tensors = {}
  for _, pair in ipairs(list) do
    tensors[pair[1]] = pair[2]
  end
  assert(safetensors.save(path, tensors))
  return path
end

-- n steps over the batches in turn; state.step(batch, i) does one and returns its loss
local function steps(state, n)
  local loss
  for _ = 1, n do
    state.at = state.at % #state.batches + 1
    loss = state.step(state.batches[state.at])
  end
  return loss
end

local function losses(state)
  local list = {}
  for i = 1, CHECKED do
    list[i] = steps(state, 1)
  end
  return list
end

local function training(o)
  o.check, o.run, o.bound = losses, steps, 2e-3
  return o
end

-- one step of mocl.lm.sft.train
local function language_model(name, config, batches, lr)
  return function(dir)
    local model = transformer.new(config, { key = rng.key(0, name) })
    local weights = save(dir .. "/" .. name .. ".safetensors", model:named_parameters())
    local opt = optim.adamw(transformer.train_base(model), { lr = lr, betas = { .9, .99 } })
    return { kind = "language_model", config = model:config(), weights = weights, batches = batches, lr = lr }, {
      batches = batches, at = 0,
      step = function(batch)
        local scope <close> = tensor.scope()
        local loss = lm.loss(model, batch.prompts, batch.responses, { train = true })
        opt:zero_grad()
        loss:backward()
        opt:step { lr = lr, max_grad_norm = 1 }
        return loss:item()
      end,
    }
  end
end

-- one step of a reward model's training
local function reward_model(task, size, lr)
  return function(dir)
    local model = reward.model { trunk = transformer.new(task.config, { key = rng.key(0, "reward") }), tokenizer = task.tok }
    local batches = inputs.comparisons(task, size, model, BATCHES)
    local named = model.trunk:named_parameters()
    local weights = save(dir .. "/reward.safetensors", named)
    local parameters = transformer.train_base(model.trunk)
    parameters[#parameters + 1] = model.head:requires_grad_()
    local opt = optim.adamw(parameters, { lr = lr, betas = { .9, .99 } })
    return { kind = "reward_model", config = model.trunk:config(), weights = weights, batches = batches, lr = lr }, {
      batches = batches, at = 0,
      step = function(batch)
        local scope <close> = tensor.scope()
        local loss = model:loss(batch)
        opt:zero_grad()
        loss:backward()
        opt:step { lr = lr, max_grad_norm = 1 }
        return loss:item()
      end,
    }
  end
end

-- greedy tokens from a cache, rows prompts at a time; one run is `new` tokens of each row
local function decode(name, config, prompts, new)
  return function(dir)
    local model = transformer.new(config, { key = rng.key(0, name) })
    local weights = save(dir .. "/" .. name .. ".safetensors", model:named_parameters())
    local options = { max_new_tokens = new, temperature = 0 }
    local g, logp = model:generate(prompts, options)
    return { kind = "decode", config = model:config(), weights = weights, prompts = prompts, tokens = g.tokens },
      { model = model, prompts = prompts, options = options, logp = logp:totable() }
  end
end
local function decode_run(s, n)
  for _ = 1, n do
    local _, logp = s.model:generate(s.prompts, s.options)
    logp:release()
  end
end
local function decoding(o)
  o.check, o.run, o.bound = function(s) return s.logp end, decode_run, 1e-3
  return o
end

local MLP = { 2, 256, 256, 256, 2 }

local function mlp(size, kind)
  return function(dir)
    local net = nn.MLP(MLP, { key = rng.key(0, "mlp") })
    local x, y = tensor.randn({ size.mlp_batch, 2 }, { seed = 1 }), tensor.randn({ size.mlp_batch, 2 }, { seed = 2 })
    local list = net:named_parameters()
    local one = tensor.randn({ 1, 2 }, { seed = 3 })
    local named = { { "x", x }, { "y", y }, { "one", one } }
    for i, pair in ipairs(list) do
      named[#named + 1] = { ("%03d.%s"):format(i, pair[1]:match("[a-z]+$")), pair[2] }
    end
    local opt = optim.adamw(net:parameters(), { lr = 1e-3 })
    return { kind = kind, weights = save(("%s/%s.safetensors"):format(dir, kind), named), lr = 1e-3 }, {
      batches = { 0 }, at = 0,
      step = function()
        local scope <close> = tensor.scope()
        local loss = nn.mse_loss(net(x), y)
        opt:zero_grad()
        loss:backward()
        opt:step()
        return loss:item()
      end,
      forward = function()
        local scope <close> = tensor.scope()
        return net(one):totable()[1]
      end,
    }
  end
end

local function product(n)
  return function(dir)
    local a, b = tensor.randn({ n, n }, { seed = 1 }), tensor.randn({ n, n }, { seed = 2 })
    return { kind = "gemm", weights = save(("%s/gemm%d.safetensors"):format(dir, n), { { "a", a }, { "b", b } }) }, { a = a, b = b }
  end
end

--- The cases at their sizes; tiny = true for a test of the benchmark itself.
return function(tiny)
  local size = inputs.sizes(tiny)
  local task = inputs.task(size)
  local documents = inputs.documents(task, size, BATCHES)
  local prompt = { documents[1].prompts[1][1], table.unpack(documents[1].responses[1], 1, 9) }
  local many = {}
  for i = 1, size.decode_batch do
    many[i] = { 0, table.unpack(documents[i % BATCHES + 1].responses[i % size.batch + 1], 1, 5 + i % 9) }
  end
  local long = { table.unpack(inputs.ids(size, 1)[1].responses[1], 1, size.llama_tokens // 2) }
  local cases = {
    training { name = "train_default", title = "training step, default model", unit = "ms", scale = 1e3, goal = 5, stretch = 8,
      setup = language_model("train_default", task.config, documents, 6e-3) },
    training { name = "train_reward", title = "training step, reward model of that size", unit = "ms", scale = 1e3, goal = 5, stretch = 8,
      setup = reward_model(task, size, 1.5e-3) },
    training { name = "train_15m", title = "training step, 15M Llama", unit = "ms", scale = 1e3, goal = 1.3,
      setup = language_model("train_15m", size.llama, inputs.ids(size, BATCHES), 1e-4) },
    training { name = "train_mlp", title = "training step, MLP", unit = "us", scale = 1e6, goal = 5, stretch = 8, setup = mlp(size, "mlp") },
    decoding { name = "decode_default", title = "one-token decode, default model", unit = "us/token", scale = 1e6 / size.decode, goal = 20,
      stretch = 40, setup = decode("decode_default", task.config, { prompt }, size.decode) },
    decoding { name = "decode_batch", title = ("decode of %d rows, default model"):format(size.decode_batch), unit = "us/step",
      scale = 1e6 / size.new_tokens, setup = decode("decode_batch", task.config, many, size.new_tokens) },
    decoding { name = "decode_15m", title = "one-token decode, 15M Llama", unit = "us/token", scale = 1e6 / size.decode, goal = 1.3,
      setup = decode("decode_15m", size.llama, { tiny and { 1, 2 } or long }, size.decode) },
    { name = "forward_mlp", title = "forward of one row, MLP", unit = "us", scale = 1e6, goal = 20, stretch = 40, bound = 1e-4, setup = mlp(size, "mlp_forward"),
      check = function(s) return tensor.no_grad(s.forward) end,
      run = function(s, n)
        tensor.no_grad(function()
          for _ = 1, n do
            s.forward()
          end
        end)
      end },
    { name = "moc", title = "whole MOC iteration", unit = "ms", scale = 1e3, goal = 5, bound = 2e-3, setup = iteration.setup(task, size),
      check = iteration.check, run = iteration.run, phases = iteration.phases },
  }
  for _, n in ipairs(size.gemm) do
    cases[#cases + 1] = { name = "gemm_" .. n, title = ("sgemm n = %d"):format(n), unit = "us", scale = 1e6, bound = 1e-3, flops = 2 * n ^ 3,
      setup = product(n),
      check = function(s)
        local c = s.a:matmul(s.b)
        return { c[1][1]:item(), c[n][n]:item(), c:square():mean():sqrt():item() }
      end,
      run = function(s, times)
        for _ = 1, times do
          s.a:matmul(s.b):release()
        end
      end }
  end
  return cases
end
