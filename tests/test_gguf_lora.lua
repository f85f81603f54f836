-- adapters as LoRA GGUF files: what is written, against sums done here and files that llama.cpp computed with; what is read; and
-- what is refused

local T = require "t"
local file = require "gguf_file"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local BATCH = transformer.batch { { 3, 7, 1, 20, 11 }, { 5, 28 } }

-- an adapter with a rank, an alpha and a layer for itself here and there, under rsLoRA
local function adapted(options)
  local model = small.model { config = { hidden_size = 32, intermediate_size = 32, head_dim = 8, num_key_value_heads = 2 } }
  options = options or { use_rslora = true, modules = {
    ["model.layers.0.self_attn.q_proj"] = { r = 4, alpha = 8 }, ["model.layers.1.self_attn.q_proj"] = { r = 2, alpha = 32 },
    ["model.layers.0.self_attn.k_proj"] = { r = 4, alpha = 3 }, ["model.layers.1.mlp.down_proj"] = { r = 3, alpha = .5 },
  } }
  options.key = 5
  model:add_lora(options)
  for i, pair in ipairs(model:named_parameters(true)) do
    tensor.no_grad(pair[2].copy_, pair[2], tensor.randn(pair[2].shape, { key = 17, stream = i, std = .3 }))
  end
  return model
end

local function difference(a, b)
  return tensor.no_grad(function() return (a:forward(BATCH) - b:forward(BATCH)):abs():max():item() end)
end

-- ---- writing ----

T.test("B holds each layer's scale, in llama.cpp's order of rows, and there is no key for it", function()
  local model, path = adapted(), T.tmpdir() .. "/a.gguf"
  assert(lora.save_gguf(model, path))
  local f = assert(gguf.open(path))
  local seen = {}
  for key, value in pairs(f.metadata) do
    seen[key] = value
  end
  T.eq(seen, { ["general.architecture"] = "llama", ["general.type"] = "adapter", ["adapter.type"] = "lora", ["general.alignment"] = 32,
    ["general.file_type"] = 0, ["general.quantization_version"] = 2, ["mocl.base_sha256"] = model:hash() })
  -- scale = alpha / sqrt(r); the rows of a head alternate between its halves
  local rows = { [0] = 1, 5, 2, 6, 3, 7, 4, 8 } -- of a head of 8, in the order of the file
  local wanted = {
    { "blk.0.attn_q", "model.layers.0.self_attn.q_proj", 8 / 2, 4 }, { "blk.1.attn_q", "model.layers.1.self_attn.q_proj", 32 / math.sqrt(2), 4 },
    { "blk.0.attn_k", "model.layers.0.self_attn.k_proj", 3 / 2, 2 }, { "blk.1.ffn_down", "model.layers.1.mlp.down_proj", .5 / math.sqrt(3) },
  }
  T.eq(#f.tensors, 2 * #wanted)
  local named = {}
  for _, pair in ipairs(model:named_parameters(true)) do
    named[pair[1]] = pair[2]:totable()
  end
  for _, w in ipairs(wanted) do
    local A, B = named[w[2] .. ".lora_A.weight"], named[w[2] .. ".lora_B.weight"]
    T.eq(f:tensor(w[1] .. ".weight.lora_a"):totable(), A, w[1])
    local got = f:tensor(w[1] .. ".weight.lora_b"):totable()
    T.eq(#got, #B)
    for i, row in ipairs(got) do
      local from = w[4] and (i - 1) // 8 * 8 + rows[(i - 1) % 8] or i
      for k, v in ipairs(row) do
        T.near(v, B[from][k] * w[3], 1e-6 * math.max(1, math.abs(v)), ("%s row %d"):format(w[1], i))
      end
    end
  end
  f:close()
end)

for _, name in ipairs { "plain", "patterns-rslora" } do
  T.test("gpt2: the logits of PEFT from its directory and from llama.cpp's file, in and out: " .. name, function()
    local function shared(file)
      return T.shared("gguf/gpt2/" .. file)
    end
    local golden = assert(json.load(shared(name .. ".logits.json")))
    local function check(path)
      local model = assert(transformer.load(shared "base-f32.gguf"))
      assert(lora.load(model, path))
      T.near(nn.linear(model:forward(transformer.batch { golden.tokens }), model:head()):totable(), golden.logits, 2e-5)
      return model
    end
    local dir = fs.dirname(shared(name .. "/adapter_config.json"))
    for _, path in ipairs { dir, shared(name .. ".lora.gguf") } do
      local model, out = check(path), T.tmpdir()
      assert(lora.save(model, out .. "/peft"))
      check(out .. "/peft")
      assert(lora.save_gguf(model, out .. "/a.gguf"))
      check(out .. "/a.gguf")
      -- the file is the one that llama.cpp computed with, tensor by tensor
      local mine, theirs = assert(gguf.open(out .. "/a.gguf")), assert(gguf.open(shared(name .. ".lora.gguf")))
      T.eq(#mine.tensors, #theirs.tensors)
      for _, t in ipairs(theirs.tensors) do
        T.near(mine:tensor(t.name):totable(), theirs:tensor(t.name):totable(), 1e-6, t.name)
      end
      mine:close()
      theirs:close()
    end
  end)
end

T.test("what was written is read as the same model, in all types", function()
  local model, dir = adapted(), T.tmpdir()
  local even = adapted { r = 32, alpha = 16 }
  for kind, most in pairs { F32 = 1e-5, F16 = 2e-2, BF16 = .2 } do
    local path, other = dir .. "/" .. kind, transformer.clone(model)
    assert(lora.save_gguf(model, path, { type = kind }))
    assert(lora.load(other, path))
    local d = difference(model, other)
    T.ok(d < most, kind .. ": " .. d)
    T.ok(kind == "F32" or d > 0, kind .. " rounds")
    T.eq(assert(gguf.open(path)):info "blk.0.attn_q.weight.lora_b".type, kind)
  end
  local other = transformer.clone(even)
  assert(lora.save_gguf(even, dir .. "/q8.gguf", { type = "Q8_0" }))
  assert(lora.load(other, dir .. "/q8.gguf"))
  T.ok(difference(even, other) < 1)
  T.eq(#other:named_parameters(true), 2 * 2 * 7)
  T.fails("tensor 'blk.0.attn_q.weight.lora_b' has rows of 4 values, and Q8_0 needs a multiple of 32", lora.save_gguf, model, dir .. "/x",
    { type = "Q8_0" })
  T.ok(not fs.exists(dir .. "/x"))
  T.raises("save_gguf: type 'Q4_0' is not one of F32, F16, BF16, Q8_0", lora.save_gguf, model, dir .. "/x", { type = "Q4_0" })
  T.raises("lora.save_gguf: the model has no adapter", lora.save_gguf, small.model(), dir .. "/x")
end)

T.test("what the file cannot hold is refused", function()
  local model, path = adapted(), T.tmpdir() .. "/x.gguf"
  -- a model that trains more than pairs: nothing in mocl makes one today
  local more = setmetatable({ named_parameters = function(self, lora_only)
    local list = model:named_parameters(lora_only)
    list[#list + 1] = { "model.norm.modules_to_save.weight", tensor.ones { 32 } }
    return list
  end }, { __index = function(_, name)
    return function(_, ...)
      return model[name](model, ...)
    end
  end })
  T.fails("x.gguf: the adapter trains 'model.norm.modules_to_save.weight', and a LoRA GGUF holds low%-rank pairs alone; merge it",
    lora.save_gguf, more, path)
  local B = model:named_parameters(true)[2][2]
  T.eq(model:named_parameters(true)[2][1], "model.layers.0.self_attn.q_proj.lora_B.weight")
  tensor.no_grad(B.fill_, B, 3e38)
  T.fails("x.gguf: tensor 'blk.0.attn_q.weight.lora_b'", lora.save_gguf, model, path) -- times 4
  tensor.no_grad(B.fill_, B, 3e4)
  T.fails("has the value 120000, which f16 does not hold", lora.save_gguf, model, path, { type = "F16" })
  T.ok(not fs.exists(path))
end)

-- ---- reading ----

-- keys and tensors of a file with one pair, on the value of the first layer, after change(keys, tensors)
local function put(change)
  local keys = { { "general.architecture", "string", "llama" }, { "general.type", "string", "adapter" }, { "adapter.type", "string", "lora" } }
  local function floats(n)
    local list = {}
    for i = 1, n do
      list[i] = (i % 7 - 3) / 8
    end
    return file.floats(list)
  end
  local tensors = { { "blk.0.attn_v.weight.lora_a", { 2, 12 }, "F32", floats(24) }, { "blk.0.attn_v.weight.lora_b", { 8, 2 }, "F32", floats(16) } }
  if change then
    change(keys, tensors)
  end
  local path = T.tmpdir() .. "/x.gguf"
  assert(fs.write(path, file.bytes(keys, tensors)))
  return path
end

T.test("adapter.lora.alpha is divided by each layer's rank; without it, or with 0, the scale is 1", function()
  local one = small.model()
  for alpha, want in pairs { [0] = 2, [8] = 8, [-3] = -3 } do
    assert(lora.load(one, put(function(keys) file.set(keys, "adapter.lora.alpha", "f32", alpha) end)))
    T.eq(one:lora().alpha, want * 1.0)
  end
  assert(lora.load(one, put()))
  T.eq(one:lora(), { r = 2, alpha = 2.0, dropout = 0.0, target_modules = { "v_proj" }, layers_to_transform = { 0 } })
  local v = one:named_parameters(true)[2]
  T.eq(v[1], "model.layers.0.self_attn.v_proj.lora_B.weight")
  T.eq(v[2]:totable()[2], { 0, .125 })
end)

T.test("files that are no adapter of this model are refused, and the model keeps the one it had", function()
  local model = small.adapter(small.model())
  local before = model:forward(BATCH)
  local function refused(reason, change)
    T.fails("x.gguf: " .. reason, lora.load, model, put(change))
  end
  refused("general.type = model is not supported %(adapter%)", function(keys) file.set(keys, "general.type", "string", "model") end)
  refused("general.type is missing", function(keys) file.set(keys, "general.type") end)
  refused("adapter.type = alora is not supported %(lora%)", function(keys) file.set(keys, "adapter.type", "string", "alora") end)
  refused("general.architecture = gpt2 is not supported %(the adapter is of a base like this model, llama%)", function(keys)
    file.set(keys, "general.architecture", "string", "gpt2")
  end)
  refused("adapter.lora.alpha = 8 is not supported %(a number of type f32%)", function(keys) file.set(keys, "adapter.lora.alpha", "u32", 8) end)
  refused("adapter.lora.alpha = .*nan.* is not supported", function(keys) file.set(keys, "adapter.lora.alpha", "f32", 0 / 0) end)
  refused("adapter.alora.invocation_tokens = %[1%] is not supported", function(keys)
    file.set(keys, "adapter.alora.invocation_tokens", "[u32]", { 1 })
  end)
  refused("it holds no adapter: there are no tensors", function(_, t) t[1], t[2] = nil, nil end)
  refused("tensor 'blk.0.attn_v.weight.lora_a' has no .lora_b beside it", function(_, t) t[2] = nil end)
  refused("tensor 'blk.0.attn_v.weight.lora_b' has no .lora_a beside it", function(_, t) table.remove(t, 1) end)
  refused("tensor 'blk.0.attn_v.weight' is no .lora_a or .lora_b of a tensor of this model", function(_, t) t[1][1] = "blk.0.attn_v.weight" end)
  refused("tensor 'blk.2.attn_v.weight.lora_a' is no .lora_a", function(_, t) t[1][1] = "blk.2.attn_v.weight.lora_a" end)
  refused("tensor 'blk.0.attn_v.weight.lora_b' has not two dimensions", function(_, t) t[2][2] = { 16 } end)
  refused("tensors 'blk.0.attn_v.weight.lora_a' %(2,12%) and 'blk.0.attn_v.weight.lora_b' %(4,4%) are of different ranks",
    function(_, t) t[2][2] = { 4, 4 } end)
  refused("tensor 'model.layers.0.self_attn.v_proj.lora_A.weight' is %(2,4%), the model needs %(2,12%)", function(_, t) t[1][2] = { 2, 4 } end)
  refused("tensor 'blk.0.attn_q.weight.lora_b' has 6 rows, which are not those of 4 heads", function(_, t)
    for _, one in ipairs(t) do
      one[1] = one[1]:gsub("attn_v", "attn_q")
    end
    t[2][2], t[2][4] = { 6, 2 }, t[2][4]:sub(1, 48)
  end)
  refused("modules: 'lm_head' is no linear layer of a block", function(_, t)
    for _, one in ipairs(t) do
      one[1] = one[1]:gsub("blk.0.attn_v", "output")
    end
  end)
  refused("tensor 'blk.0.attn_v.weight.lora_a'", function(_, t) t[1][4] = t[1][4]:sub(5) .. string.pack("<f", 0 / 0) end)
  T.eq((model:forward(BATCH) - before):abs():max():item(), 0)
  T.fails("No such file", lora.load, model, T.tmpdir() .. "/none.gguf")
end)

T.test("a file that mocl wrote for another base is refused unless any_base", function()
  local model, path = adapted(), T.tmpdir() .. "/a.gguf"
  assert(lora.save_gguf(model, path))
  local other = transformer.clone(model)
  local weight = transformer.parameters(other)[1]
  tensor.no_grad(weight.fill_, weight, 0)
  T.fails("a.gguf: belongs to another base %(%?%): its weights have sha256 " .. model:hash() .. ", this model's " .. other:hash(), lora.load, other,
    path)
  T.eq(other:lora(), nil)
  T.ok(lora.load(other, path, { any_base = true }))
end)

-- ---- against PEFT and llama.cpp ----

T.test("adapters of PEFT become the files that llama.cpp was seen to agree with, and these compute PEFT's logits", function()
  for _, name in ipairs { "plain", "patterns-rslora" } do
    local model = assert(transformer.load(T.shared "gguf/llama/base/config.json":match "^(.*)/"))
    local want, path = assert(json.load(T.shared("gguf/llama/" .. name .. ".logits.json"))), T.tmpdir() .. "/a.gguf"
    assert(lora.load(model, T.shared("gguf/llama/" .. name .. "/adapter_config.json"):match "^(.*)/"))
    assert(lora.save_gguf(model, path))
    local a, b = assert(gguf.open(path)), assert(gguf.open(T.shared("gguf/llama/" .. name .. ".lora.gguf")))
    T.eq(#a.tensors, #b.tensors)
    for _, t in ipairs(b.tensors) do
      T.eq(a:tensor(t.name):totable(), b:tensor(t.name):totable(), name .. " " .. t.name)
    end
    model:drop_lora()
    assert(lora.load(model, b.path))
    T.near(model:forward(transformer.batch { want.tokens }):matmul(model:head():t()):totable(), want.logits, 2e-5, name)
    a:close()
    b:close()
  end
end)
