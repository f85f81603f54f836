-- what is released, changed or copied while a function of mocl works on it; calls that an error has ended

local T = require "t"
local child = require "child"
local lora = require "mocl.lm.lora"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"

local function live()
  collectgarbage()
  collectgarbage()
  return tensor.memory().tensors
end

for _, stress in ipairs { "0", "1" } do
  T.test("every function, each operand, each moment at which a script can run, MOCL_GC_STRESS=" .. stress, function()
    local all = (T.slow or arg[-1]:find "asan") and "all" or "" -- what is freed too early shows under the sanitizer
    local out, err, status = child.mocl({ "tests/release_check.lua", "", all }, "MOCL_GC_STRESS=" .. stress)
    T.eq(status, 0, out:sub(-2000) .. err:sub(1, 3000))
    local functions, calls = out:match "(%d+) functions, (%d+) calls, 0 failures"
    T.ok(tonumber(functions) > 180 and tonumber(calls) > 4000, out)
  end)
end

T.test("a finalizer that releases its tensor, at any operation", function()
  local source = [[
    local T = require "mocl.tensor"
    local Cache = { __gc = function(c) c.t:release() end }
    local ended, said = 0, 0
    for i = 1, 300 do
      for _, f in ipairs { T.exp, T.sum, T.clone, function(t) return t + t end, function(t) return T.cat { t, t } end } do
        local t = setmetatable({ t = T.full({ 8, 8 }, i / 100) }, Cache).t
        local ok, e = pcall(f, t)
        if ok then ended = ended + 1 elseif e:find "was released" then said = said + 1 else error(e) end
      end
    end
    collectgarbage() collectgarbage()
    print(ended + said, T.memory().tensors)]]
  T.eq({ child.lua(source, "MOCL_GC_STRESS=1") }, { "1500\t0\n", "", 0 })
end)

-- ---- models at work ----

T.test("on_token may release the model and its tensors: generation ends as without it", function()
  local before = live()
  local prompts = { { 1, 2 }, { 3 } }
  local o = { max_new_tokens = 6, key = 4 }
  local model = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local want = model:generate(prompts, o).tokens
  local parameters = model:named_parameters()
  o.on_token = function()
    for _, pair in ipairs(parameters) do
      pair[2]:release()
    end
    model:release()
  end
  T.eq(model:generate(prompts, o).tokens, want)
  T.raises("was released", model.generate, model, prompts, o)
  parameters = nil
  T.eq(live(), before)
end)

T.test("adapters are not changed while their model is at work, also not from a coroutine", function()
  local model <close> = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local refused = {}
  local function try(name, ...)
    local ok, message = pcall(model[name], model, ...)
    refused[#refused + 1] = not ok and message:match "^[%w_]+: the model is at work in a call" and name or tostring(message)
  end
  model:generate({ { 1 } }, {
    max_new_tokens = 1,
    on_token = function()
      try "drop_lora"
      try "merge_lora"
      coroutine.wrap(try)("add_lora", { r = 2 })
    end,
  })
  T.eq(refused, { "drop_lora", "merge_lora", "add_lora" })
  model:merge_lora()
  model:add_lora { r = 2 }
  model:drop_lora()
end)

T.test("a tensor with its gradient, an optimiser and its parameters, released by the options of a step", function()
  local before = live()
  local p = tensor.ones({ 3 }, { requires_grad = true })
  p:sum():backward()
  local o = require("mocl.optim.core").sgd({ p }, { lr = 1 })
  local options = setmetatable({}, {
    __index = function(_, k)
      o:release()
      p:zero_grad()
      return k == "lr" and .5 or nil
    end,
  })
  o:step(options)
  T.eq(p:totable(), { 1.0, 1.0, 1.0 }) -- no gradient was left
  T.raises("was released", o.step, o)
  p:release()
  T.eq(live(), before)
end)

T.test("what the debug library finds on the stack of a running function is released: the function goes on", function()
  local safetensors, find_names = require "mocl.safetensors", require("mocl.lora.core").find_names
  local model <close> = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local before = live()
  local path = T.tmpdir() .. "/x.safetensors"
  do
    local x <close> = tensor.ones { 2 }
    assert(safetensors.save(path, { x = x, y = x }))
  end
  local released
  local function release_all()
    for level = 2, 6 do
      for i = 1, debug.getinfo(level) and 50 or 0 do
        local name, v = debug.getlocal(level, i)
        local class = name and type(v) == "userdata" and v ~= model and getmetatable(v)
        if class and type(class.release) == "function" then
          class.release(v)
          released[class.__name] = true
        end
      end
    end
  end
  local function try(class, f)
    released = {}
    local got = f(release_all)
    T.eq(released[class], true)
    T.eq(got, f(function() end))
  end
  try("mocl.generation", function(hook)
    return model:generate({ { 1, 2 } }, { max_new_tokens = 3, key = 1, on_token = hook }).tokens
  end)
  try("mocl.safetensors.file", function(hook)
    local tensors = assert(safetensors.load(path, { only = function()
      hook()
      return true
    end }))
    local got = { tensors.x:totable(), tensors.y:totable() }
    tensors.x:release()
    tensors.y:release()
    return got
  end)
  try("mocl.lora.regex", function(hook)
    return find_names("a.", setmetatable({}, {
      __len = function() return 2 end,
      __index = function(_, i)
        hook()
        return "a" .. i
      end,
    }), true)
  end)
  T.eq(live(), before)
end)

T.test("a callback that yields: the error names the call that cannot, and leaves nothing", function()
  local safetensors = require "mocl.safetensors"
  local model <close> = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local before = live()
  local path = T.tmpdir() .. "/x.safetensors"
  local x <close> = tensor.ones { 2 }
  assert(safetensors.save(path, { x = x }))
  local function generate(f)
    return model:generate({ { 1 } }, { max_new_tokens = 2, on_token = f })
  end
  for _, call in ipairs { coroutine.wrap, function(f) return f end } do
    T.raises("on_token of generate cannot yield: C code waits for it", call(generate), coroutine.yield)
    T.raises("only of safetensors.load cannot yield: C code waits for it", call(safetensors.load), path, { only = coroutine.yield })
  end
  T.raises("^[^\n]*: mine$", generate, function() error "mine" end)
  x:release()
  T.eq(live(), before)
end)

-- ---- calls that ended by an error ----

-- f one pcall, one metamethod or one coroutine deeper than where it is called
local deeper = {
  function(f)
    return f()
  end,
  function(f)
    return select(2, assert(pcall(f)))
  end,
  function(f)
    return ("x"):gsub("x", f)
  end,
  function(f)
    return coroutine.wrap(function()
      return f()
    end)()
  end,
  function(f)
    table.sort({ 1, 2 }, function()
      f()
      return false
    end)
  end,
}

T.test("a call that an error ended keeps nothing: its operands are freed, and its model can be changed", function()
  for i, failing in ipairs(deeper) do
    for j, later in ipairs(deeper) do
      local label = ("error at depth %d, use at depth %d"):format(i, j)
      local model <close> = small.model { config = { num_hidden_layers = 1 } }
      local x = tensor.zeros { 100, 100 }
      pcall(failing, function()
        pcall(model.generate, model, { { 1 } }, { nope = true })
        tensor.matmul(x, "no tensor")
      end)
      later(function()
        model:add_lora { r = 2 }
        local bytes = tensor.memory().live
        x:release()
        T.eq(bytes - tensor.memory().live >= 40000, true, label)
        return nil
      end)
    end
  end
end)

T.test("a call of a dead, closed or collected coroutine keeps nothing", function()
  local before = live()
  local model <close> = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  for _, ending in ipairs { "error", "close", "collect" } do
    local x = tensor.zeros { 100, 100 }
    local co = coroutine.create(function()
      pcall(model.generate, model, { { 1 } }, { on_token = function() error "stop" end })
      pcall(tensor.add, x, "no tensor")
      if ending == "error" then
        model:generate({ { 1 } }, { on_token = function() error "stop" end })
      end
      coroutine.yield()
    end)
    coroutine.resume(co)
    if ending == "close" then
      coroutine.close(co)
    elseif ending == "collect" then
      co = nil
      collectgarbage()
    end
    deeper[2](function()
      model:drop_lora()
      local bytes = tensor.memory().live
      x:release()
      T.ok(bytes - tensor.memory().live >= 40000, ending)
    end)
    small.adapter(model)
  end
  model:release()
  T.eq(live(), before)
end)

T.test("a call inside a callback, a deep recursion and a message handler work on what they were given", function()
  local model <close> = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  local function down(n, f)
    if n == 0 then
      return f()
    end
    return (down(n - 1, f))
  end
  local seen = 0
  model:generate({ { 1 } }, {
    max_new_tokens = 1,
    on_token = function()
      down(1000, function()
        pcall(tensor.add, tensor.ones { 2 }, "no tensor")
        T.raises("at work", model.drop_lora, model)
        xpcall(tensor.add, function()
          T.raises("at work", model.drop_lora, model)
          seen = seen + 1
        end, tensor.ones { 2 }, "no tensor")
      end)
    end,
  })
  T.eq(seen, 1)
  T.ok(#lora.parameters(model) > 0)
  model:drop_lora()
end)

T.test("any number of calls may fail in a deep recursion, and keep nothing", function()
  local function down(n, f)
    if n == 0 then
      return f()
    end
    return (down(n - 1, f))
  end
  local model <close> = small.model { config = { num_hidden_layers = 1 } }
  local options = { max_new_tokens = 1, on_token = function() error "mine" end }
  for _, depth in ipairs { 100, 300, 5000 } do
    down(depth, function()
      local x = tensor.zeros { 100, 100 }
      for i = 1, 300 do -- more than there is room for
        T.eq(pcall(tensor.matmul, x, "no tensor"), false, i)
        T.raises("mine", model.generate, model, { { 1 } }, options)
      end
      local bytes = tensor.memory().live
      x:release()
      T.ok(bytes - tensor.memory().live >= 40000, depth)
      model:add_lora { r = 2 }
      model:drop_lora()
    end)
  end
end)

-- ---- lists ----

T.test("a list that changes while it is read: its length is asked for once, each entry once", function()
  local transformer = require "mocl.transformer.core"
  local model <close> = transformer.new({
    vocab_size = 29, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 8 }, { key = 1 })
  local function growing(first)
    local n = 0
    return setmetatable({}, {
      __len = function()
        n = n + 1
        return n + first
      end,
      __index = function(_, i)
        return i
      end,
    })
  end
  T.eq(transformer.batch({ growing(1) }).tokens:totable(), { 1, 2 })
  T.eq(#model:generate({ growing(0) }, { max_new_tokens = 2, eos = growing(1) }).tokens, 1)
  T.eq(transformer.pack({ growing(0) }, { growing(2) }).targets:totable(), { 1, 2, 3 })
  T.eq(tensor.new(setmetatable({}, { __len = function() return 2 end, __index = function(_, i) return i end })):totable(), { 1, 2 })
  T.raises("ragged", tensor.new, growing(1))
end)

T.test("a length that is none, or larger than anything that could be read", function()
  local function list(n)
    return setmetatable({}, {
      __len = function()
        return n
      end,
      __index = function(t)
        return t
      end,
    })
  end
  T.raises("a list with %-1 entries", tensor.new, list(-1))
  T.raises("a list with %-1 entries", tensor.zeros, list(-1))
  T.raises("more than 8 levels", tensor.new, list((1 << 31) - 2))
  local huge = 1
  for _ = 1, 3 do
    local inner = huge
    huge = setmetatable({}, {
      __len = function()
        return 1 << 30
      end,
      __index = function()
        return inner
      end,
    })
  end
  T.raises("the table has too many entries", tensor.new, huge)
  T.raises("a list with %d+ entries", tensor.new, list(math.maxinteger))
  T.raises("object length is not an integer", tensor.new, list "x")
  T.raises("a list with %-3 entries", require("mocl.optim.core").sgd, list(-3))
  T.raises("a list with %-3 entries", require("mocl.metrics.core").igd, list(-3), list(-3))
end)
