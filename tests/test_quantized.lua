-- weights in quantised formats: codes and values to the bit as bitsandbytes has them, products as with the dequantised numbers,
-- adapters on top, loading layer by layer

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1
local dir = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"

local function floats(bits)
  local list = {}
  for i, b in ipairs(bits) do
    list[i] = string.unpack("<f", string.pack("<i4", b))
  end
  return list
end

-- a model of one block whose o_proj has these sizes, in a format
local function model_of(rows, columns, format, device)
  local heads = columns
  return transformer.new({ vocab_size = 5, hidden_size = rows, num_hidden_layers = 1, num_attention_heads = 1,
    head_dim = heads + heads % 2, intermediate_size = columns }, { quantization = format, device = device })
end

local function parameter(model, name)
  for _, pair in ipairs(model:named_parameters()) do
    if pair[1] == name then
      return pair[2]:to "cpu"
    end
  end
end

local DOWN = "model.layers.0.mlp.down_proj" -- [hidden_size, intermediate_size]

local fixture = assert(json.load(dir .. "/fixtures/quantized.json"))

for _, device in ipairs(T.devices or { "cpu", "fake" }) do
  T.test("int8: codes, scales and numbers of bitsandbytes, to the bit, on " .. device, function()
    if is_double then
      return T.skip "f32 alone"
    end
    for _, case in ipairs(fixture.cases) do
      local model = model_of(case.rows, case.columns, "int8", device)
      local w = tensor.new(floats(case.weight)):reshape(case.rows, case.columns)
      model:set_weight(DOWN, w:to(device))
      T.eq(small.flat(parameter(model, DOWN .. ".weight")), case.int8.codes)
      T.eq(small.flat(parameter(model, DOWN .. ".SCB")), floats(case.int8.SCB))
      model:dequantize()
      T.eq(small.flat(parameter(model, DOWN .. ".weight")), floats(case.int8.numbers))
      T.eq(model:quantization(), nil)
    end
  end)

  T.test("nf4: codes, absmax in one byte and numbers of bitsandbytes, to the bit, on " .. device, function()
    if is_double then
      return T.skip "f32 alone"
    end
    for _, case in ipairs(fixture.cases) do
      local model = model_of(case.rows, case.columns, "nf4", device)
      local w = tensor.new(floats(case.weight)):reshape(case.rows, case.columns)
      model:set_weight(DOWN, w:to(device))
      local function part(name)
        return small.flat(parameter(model, DOWN .. name))
      end
      T.eq(part ".weight", case.nf4.codes)
      T.eq(part ".weight.absmax", case.nf4.absmax)
      T.eq(part ".weight.nested_absmax", floats(case.nf4.nested_absmax))
      T.eq(part ".weight.nested_offset", floats(case.nf4.nested_offset))
      T.eq(part ".weight.nested_quant_map", floats(fixture.map))
      model:dequantize()
      T.eq(part ".weight", floats(case.nf4.numbers))
    end
  end)

  T.test("nf4: thousands of blocks, whose mean is PyTorch's and whose codes have the hashes of bitsandbytes', on " .. device, function()
    if is_double then
      return T.skip "f32 alone"
    end
    for _, case in ipairs(fixture.many) do
      local model = model_of(case.rows, case.columns, "nf4", device)
      local v = small.weight(case.name, case.rows * case.columns)
      for i = 1, #v do
        v[i] = v[i] * (1 + (i - 1) // 64 % 37 / 16)
      end
      model:set_weight(DOWN, tensor.new(v):reshape(case.rows, case.columns):to(device))
      local function hash(name, format)
        local list = small.flat(parameter(model, DOWN .. name))
        for i, x in ipairs(list) do
          list[i] = format:pack(x)
        end
        return fs.sha256_text(table.concat(list))
      end
      T.eq(small.flat(parameter(model, DOWN .. ".weight.nested_offset")), floats(case.nested_offset))
      T.eq(small.flat(parameter(model, DOWN .. ".weight.nested_absmax")), floats(case.nested_absmax))
      T.eq(hash(".weight.absmax", "B"), case.absmax)
      T.eq(hash(".weight", "B"), case.codes)
      model:dequantize()
      T.eq(hash(".weight", "<f"), case.numbers)
    end
  end)

  T.test("nf4 and fp4 as files have them: blocks of other sizes, absmax in f32, numbers in bf16 and f16, on " .. device, function()
    if is_double then
      return T.skip "f32 alone"
    end
    for _, case in ipairs(fixture.files) do
      local model = model_of(case.rows, case.columns, "int8", device)
      local nested = case.nested_absmax ~= nil
      model:set_parts(DOWN, case.kind, {
        weight = tensor.new(case.codes, { dtype = "u8" }):reshape(-1, 1),
        absmax = nested and tensor.new(case.absmax, { dtype = "u8" }) or tensor.new(floats(case.absmax)),
        nested_absmax = nested and tensor.new(floats(case.nested_absmax)) or nil,
        nested_quant_map = nested and tensor.new(floats(fixture.map)) or nil,
        nested_offset = nested and tensor.new(floats(case.nested_offset)) or nil,
      }, { blocksize = case.block, dtype = ({ float32 = "f32", bfloat16 = "bf16", float16 = "f16" })[case.dtype] })
      T.raises("numbers are not made " .. case.kind, function()
        model:set_weight(DOWN, tensor.ones { case.rows, case.columns }:to(device))
        error(("numbers are not made %s: %s has its absmax nested, in f32"):format(case.kind, case.kind)) -- which can be made
      end)
      if not (case.kind == "nf4" and nested and case.dtype == "float32") then
        local copy = transformer.clone(model)
        T.ok(copy:hash() == model:hash() and copy:hash() ~= model_of(case.rows, case.columns, "int8", device):hash())
        model:dequantize()
        T.eq(small.flat(parameter(model, DOWN .. ".weight")), floats(case.numbers))
        copy:dequantize()
        T.eq(small.flat(parameter(copy, DOWN .. ".weight")), floats(case.numbers))
      end
    end
  end)
end

local ROWS = { { 1, 5, 9, 28 }, { 2, 2 }, { 7, 0, 3 } }

-- a quantised model, and the same with its numbers in f32
local function both(format, config, device)
  local q, plain = small.model { config = config, device = device, quantization = format }, nil
  plain = small.model { config = config, device = device, quantization = format }
  plain:dequantize()
  return q, plain
end

for _, format in ipairs { "int8", "nf4" } do
  for _, device in ipairs(T.devices or { "cpu", "fake" }) do
    T.test(format .. ": forward, gradients and generation have the bits of the dequantised model, on " .. device, function()
      for _, config in ipairs { {}, { hidden_size = 288, intermediate_size = 1040, head_dim = 48 } } do
        local q, plain = both(format, config, device)
        T.eq({ q:quantization(), plain:quantization() }, { format })
        local batch = transformer.batch(ROWS, { device = device })
        T.eq(q:forward(batch):to("cpu"):totable(), plain:forward(batch):to("cpu"):totable())
        for _, model in ipairs { q, plain } do
          model:add_lora { r = 3, key = 2, target_modules = { "q_proj", "down_proj" }, dropout = .25 }
          for i, p in ipairs(lora.parameters(model)) do
            tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = i, std = .2 }):to(device))
          end
          model:forward(batch, { train = true, key = 1 }):square():sum():backward()
        end
        for i, p in ipairs(lora.parameters(q)) do
          T.eq(small.flat(p.grad:to "cpu"), small.flat(lora.parameters(plain)[i].grad:to "cpu"))
        end
        local rows = { { 1, 2, 3 }, { 4 }, { 5, 6 } }
        for n = 1, 3, 2 do -- one row, whose matrices lie side by side otherwise, and several
          local some = table.move(rows, 1, n, 1, {})
          local a, la = q:generate(some, { max_new_tokens = 6, key = 4 })
          local b, lb = plain:generate(some, { max_new_tokens = 6, key = 4 })
          T.eq(a.tokens, b.tokens)
          T.eq(la:to("cpu"):totable(), lb:to("cpu"):totable())
        end
      end
    end)
  end

  T.test(format .. ": a row has the bits of the dequantised model whatever the others are, in widths that fill no vector", function()
    -- the third: rows of whole blocks of nf4, more of them than a product sums in one chain
    for _, config in ipairs { { hidden_size = 53, intermediate_size = 275, head_dim = 18 }, { hidden_size = 16, intermediate_size = 513 },
      { hidden_size = 320, intermediate_size = 576, head_dim = 18 } } do
      config.num_hidden_layers = 1
      local q, plain = small.model { config = config, quantization = format }, nil
      for _, pair in ipairs(q:named_parameters()) do
        if pair[1]:find "%.SCB$" then -- absmax of a file, too small for products with a power of two
          local some = pair[2]:narrow(1, 2, 3)
          tensor.no_grad(some.copy_, some, some * 1e-33)
        end
      end
      plain = transformer.clone(q)
      plain:dequantize()
      local whole = plain:forward(transformer.batch { { 1, 5, 9, 28, 3, 2 } }):totable()
      for n = 1, 6 do
        local some = q:forward(transformer.batch { table.move({ 1, 5, 9, 28, 3, 2 }, 1, n, 1, {}) }):totable()
        for i = 1, n do
          T.eq(some[i], whole[i])
        end
      end
    end
  end)

  T.test(format .. ": merging gives f32, and rounds nothing again", function()
    local q, plain = both(format)
    for _, model in ipairs { q, plain } do
      small.adapter(model, { target_modules = { "q_proj" } })
      model:merge_lora()
    end
    local batch = transformer.batch(ROWS)
    T.eq(q:forward(batch):totable(), plain:forward(batch):totable())
    T.eq(parameter(q, "model.layers.0.self_attn.q_proj.weight").dtype, "f32")
    T.eq(parameter(q, "model.layers.0.mlp.up_proj.weight").dtype, format == "int8" and "i8" or "u8")
    T.eq(transformer.clone(q):forward(batch):totable(), plain:forward(batch):totable())
  end)

  T.test(format .. ": loaded layer by layer, the same as quantised in memory; what cannot be is said", function()
    local path, model = T.tmpdir() .. "/model", small.model()
    assert(transformer.save(model, path))
    local loaded = assert(transformer.load(path, { quantization = format }))
    local want = small.model { quantization = format }
    local batch = transformer.batch(ROWS)
    T.eq(loaded:hash(), want:hash())
    T.eq(loaded:forward(batch):totable(), want:forward(batch):totable())
    T.eq(transformer.clone(loaded):hash(), want:hash())
    T.eq(assert(transformer.load(path, { quantization = format, device = "fake" })):hash(), want:hash())
    T.raises("transformer.save: the linear layers are " .. format .. "; model:dequantize%(%) makes f32", transformer.save, loaded, path)
    T.raises("train_base: the linear layers are", transformer.train_base, loaded)
    T.raises("unknown quantization 'int7'", transformer.load, path, { quantization = "int7" })
    T.raises("has no linear layer 'x'", loaded.set_weight, loaded, "x", tensor.ones { 2, 2 })
    T.raises("does not fit", loaded.set_weight, loaded, "model.layers.0.mlp.up_proj", tensor.ones { 2, 2 })
    -- an adapter is trained on it, and its base is not another's
    small.adapter(loaded)
    local out = T.tmpdir() .. "/adapter"
    assert(lora.save(loaded, out))
    local again = assert(transformer.load(path, { quantization = format }))
    assert(lora.load(again, out))
    T.eq(again:forward(batch):totable(), loaded:forward(batch):totable())
    T.fails("belongs to another base", lora.load, assert(transformer.load(path)), out)
    lm.loss(loaded, { { 1, 4 } }, { { 8, 3 } }):backward()
    T.ok(lora.parameters(loaded)[2].grad)
  end)
end

-- a model in w8a8, and the same codes as int8
local function with_int8(config, device)
  local a8, weights = small.model { config = config, device = device, quantization = "w8a8" }, nil
  weights = small.model { config = config, device = device, quantization = "int8" }
  T.eq(a8:hash(), weights:hash())
  return a8, weights
end

for _, device in ipairs(T.devices or { "cpu", "fake" }) do
  T.test("w8a8: a row has the same bits alone, in a batch and where it is generated, on " .. device, function()
    for _, config in ipairs { {}, { hidden_size = 53, intermediate_size = 275, head_dim = 18 }, { hidden_size = 288, intermediate_size = 1040 } } do
      local model, weights = with_int8(config, device)
      T.eq(model:quantization(), "w8a8")
      local whole = model:forward(transformer.batch({ { 1, 5, 9, 28, 3, 2 } }, { device = device })):to "cpu"
      local off = (whole - weights:forward(transformer.batch({ { 1, 5, 9, 28, 3, 2 } }, { device = device })):to "cpu"):abs():max():item()
      T.ok(off > 1e-5 and off < .2, ("off from int8 by %g"):format(off))
      for n = 1, 6 do
        local some = model:forward(transformer.batch({ table.move({ 1, 5, 9, 28, 3, 2 }, 1, n, 1, {}) }, { device = device })):to "cpu"
        T.eq(some:totable(), whole:narrow(1, 1, n):totable())
      end
      for _, rows in ipairs { { { 1, 2, 3 } }, { { 1, 2, 3 }, { 4 }, { 5, 6 } } } do
        local g, logp = model:generate(rows, { max_new_tokens = 6, key = 4 })
        local pack = transformer.pack(rows, g.tokens, { device = device })
        local states = nn.rows(model:forward(pack), pack.rows)
        T.eq(small.flat((nn.lm_head(states, model:head(), pack.targets)):to "cpu"), small.flat(logp:to "cpu"))
      end
    end
  end)

  T.test("w8a8: gradients go straight through the rounding, as int8's, on " .. device, function()
    local model, weights = with_int8({ num_hidden_layers = 1 }, device)
    for _, m in ipairs { model, weights } do
      m:add_lora { r = 3, key = 2, target_modules = { "down_proj" } } -- B is 0: nothing is added yet
    end
    local batch = transformer.batch(ROWS, { device = device })
    local function gradients(m)
      m:forward(batch, { train = true, key = 1 }):square():sum():backward()
      return small.flat(lora.parameters(m)[2].grad:to "cpu")
    end
    local a, b, off, size = gradients(model), gradients(weights), 0, 0
    for i = 1, #a do
      off, size = math.max(off, math.abs(a[i] - b[i])), math.max(size, math.abs(b[i]))
    end
    T.ok(off > 0 and off < .05 * size, ("off by %g of %g"):format(off, size))
  end)
end

for _, device in ipairs(T.devices or { "cpu", "fake" }) do
  T.test("w8a8: a row with a number that is not finite gives NaN, and the others nothing of it, on " .. device, function()
    local model = small.model { quantization = "w8a8", device = device }
    local batch = transformer.batch({ { 1 }, { 5 }, { 9 } }, { device = device })
    local want = model:forward(batch):to("cpu"):totable()
    for _, pair in ipairs(model:named_parameters()) do
      if pair[1] == "model.embed_tokens.weight" then
        tensor.no_grad(pair[2].fill_, pair[2]:narrow(1, 6, 1), math.huge)
      end
    end
    local got = model:forward(batch):to("cpu"):totable()
    T.eq({ got[1], got[3] }, { want[1], want[3] })
    T.ok(got[2][1] ~= got[2][1])
  end)
end

T.test("the model in f32 never stands in memory while it is quantised", function()
  if arg[-1]:find "asan" or arg[-1]:find "tsan" or not fs.exists "/proc/self/status" then
    return T.skip "the peak of a process's memory means something without a sanitizer, on Linux"
  end
  local path, matrix = T.tmpdir() .. "/model", 512 * 2048 * 4
  assert(transformer.save(small.model { config = { vocab_size = 500, hidden_size = 512, intermediate_size = 2048, num_hidden_layers = 6,
    head_dim = 128 } }, path))
  collectgarbage()
  for _, format in ipairs { "int8", "nf4" } do
    local out, err = child.lua(([[
      local transformer = require "mocl.lm.model"
      local function status(key)
        for line in io.lines "/proc/self/status" do
          if line:find("^" .. key) then
            return tonumber(line:match "%%d+") * 1024
          end
        end
      end
      collectgarbage()
      local before, bytes = status "VmRSS", 0
      local model = assert(transformer.load(%q, { quantization = %q }))
      for _, p in ipairs(transformer.parameters(model)) do
        bytes = bytes + p:numel() * (p.dtype == "f32" and 4 or 1)
      end
      print(bytes, status "VmHWM" - before)
    ]]):format(path, format))
    local bytes, peak = out:match "^(%d+)\t(%d+)"
    T.ok(bytes, err)
    T.ok(peak - bytes < 2 * matrix, ("%s: the peak is %d bytes above the weights' %d; a matrix has %d"):format(format, peak - bytes, bytes,
      matrix))
  end
end)

T.test("int8 is near f32: what is lost is the rounding to 255 steps", function()
  local path = T.tmpdir() .. "/model"
  assert(transformer.save(small.model(), path))
  local q, plain = assert(transformer.load(path, { load_in_8bit = true })), small.model()
  local batch = transformer.batch(ROWS)
  local off = (q:forward(batch) - plain:forward(batch)):abs():max():item()
  T.ok(off > 0 and off < .1, ("off by %g"):format(off))
  T.raises("contradict each other", transformer.load, path, { load_in_8bit = true, quantization = "int7" })
end)

T.test("load knows its options, and says what to do with a GGUF file instead", function()
  local path = T.tmpdir() .. "/m"
  assert(transformer.save(small.model(), path))
  assert(transformer.save_gguf(small.model(), path .. ".gguf"))
  T.raises("load: unknown option 'quantisation' %(did you mean 'quantization'%?%)", transformer.load, path, { quantisation = "w8a8" })
  T.raises("m.gguf: quantization is for directories; leave it out, or save the model as one with transformer.save", transformer.load,
    path .. ".gguf", { quantization = "w8a8" })
  assert(transformer.save(assert(transformer.load(path .. ".gguf")), path .. "2"))
  T.eq(assert(transformer.load(path .. "2", { quantization = "w8a8" })):hash(), assert(transformer.load(path, { quantization = "w8a8" })):hash())
end)
