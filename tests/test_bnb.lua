-- directories that transformers saved of models quantised by bitsandbytes: numbers to the bit as its dequantize gives them, logits of
-- the dequantised model, what is refused

local T = require "t"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local is_double = tensor.new(1 + 1e-12):item() ~= 1
local dir = debug.getinfo(1, "S").source:match "^@(.*)/[^/]*$"
local SHARED = (os.getenv "MOCL_SHARED" or dir .. "/../../shared") .. "/data/gguf/bnb/"
local fixture = assert(json.load(dir .. "/fixtures/bnb/bnb.json"))

local READ = { float32 = "<f", int8 = "b", uint8 = "B", float16 = "<H", bfloat16 = "<H" }
local NAMES = { float32 = "f32", int8 = "i8", uint8 = "u8" }

local function from_half(h, bf16)
  if bf16 then
    return (string.unpack("<f", string.pack("<I4", h << 16)))
  end
  local e, frac, sign = h >> 10 & 31, h & 1023, h >> 15 == 1 and -1 or 1
  return e == 0 and sign * frac * 2 ^ -24 or sign * (1 + frac / 1024) * 2 ^ (e - 15)
end

-- a tensor of the fixture
local function restore(t)
  local bytes, list, at = fixture.bytes[t.bytes + 1]:gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end), {}, 1
  while at <= #bytes do
    list[#list + 1], at = string.unpack(READ[t.dtype], bytes, at)
  end
  if not NAMES[t.dtype] then
    for i, h in ipairs(list) do
      list[i] = from_half(h, t.dtype == "bfloat16")
    end
  end
  local out = tensor.new(list, { dtype = NAMES[t.dtype] }):reshape(#t.shape > 0 and t.shape or { 1 })
  return NAMES[t.dtype] and out or out:to(t.dtype == "bfloat16" and "bf16" or "f16")
end

-- Writes a case's directory; change(config, tensors) may change it before.
local function written(case, change)
  local path, tensors = T.tmpdir() .. "/model", {}
  for name, t in pairs(case.tensors) do
    tensors[name] = restore(t)
  end
  local config = json.decode(json.encode(case.config))
  if change then
    change(config, tensors)
  end
  assert(fs.mkdir(path))
  assert(fs.write(path .. "/config.json", json.encode(config)))
  assert(safetensors.save(path .. "/model.safetensors", tensors))
  return path
end

local function hash(t)
  local list = t:flatten():totable()
  for i, x in ipairs(list) do
    list[i] = string.pack("<f", x)
  end
  return fs.sha256_text(table.concat(list))
end

local function logits(model, tokens)
  return (model:forward(transformer.batch { tokens }):matmul(model:head():t()))
end

for _, case in ipairs(fixture.cases) do
  T.test("a directory of transformers, " .. case.name .. ": numbers to the bit, logits of the dequantised model", function()
    if is_double then
      return T.skip "f32 alone"
    end
    local model = assert(transformer.load(written(case)))
    local kind = case.name:match "^%w+"
    T.eq(model:quantization(), kind)
    local before = logits(model, case.tokens)
    T.ok((before - tensor.new(case.logits)):abs():max():item() < 2e-5)
    model:add_lora { r = 2 }
    logits(model, case.tokens):square():sum():backward()
    T.ok(lora.parameters(model)[2].grad:abs():max():item() > 0)
    model:drop_lora()
    model:dequantize()
    T.eq(logits(model, case.tokens):totable(), before:totable())
    local n = 0
    for _, pair in ipairs(model:named_parameters()) do
      if pair[2].ndim == 2 then
        n = n + 1
        T.eq(hash(pair[2]), case.numbers[pair[1]], pair[1])
      end
    end
    T.ok(n >= 8)
    local out = T.tmpdir() .. "/plain"
    assert(transformer.save(model, out))
    T.eq(logits(assert(transformer.load(out)), case.tokens):totable(), before:totable())
  end)
end

local function case_of(name)
  for _, case in ipairs(fixture.cases) do
    if case.name == name then
      return case
    end
  end
end

local DOWN = "model.layers.0.mlp.down_proj"

-- What a change of a directory is refused with.
local REFUSED = {
  { "nf4", "quant_method = gptq is not supported %(bitsandbytes%)", function(c) c.quantization_config.quant_method = "gptq" end },
  { "nf4", "bnb_4bit_quant_storage = bfloat16 is not supported", function(c) c.quantization_config.bnb_4bit_quant_storage = "bfloat16" end },
  { "int8", "llm_int8_has_fp16_weight = true is not supported", function(c) c.quantization_config.llm_int8_has_fp16_weight = true end },
  { "nf4", "bnb_4bit_quant_type = af4 is not supported %(nf4, fp4%)", function(c) c.quantization_config.bnb_4bit_quant_type = "af4" end },
  { "nf4", "quantization_config.bnb_5bit = true is not supported %(mocl does not know this key",
    function(c) c.quantization_config.bnb_5bit = true end },
  { "nf4", "one of load_in_4bit and load_in_8bit", function(c) c.quantization_config.load_in_8bit = true end },
  { "nf4", "regular expressions are not read", function(c) c.quantization_config.llm_int8_skip_modules = { "mlp.*" } end },
  { "int8", "down_proj.weight': it is f32; quantization_config asks for int8, unless llm_int8_skip_modules", function(_, t)
    t[DOWN .. ".weight"], t[DOWN .. ".SCB"], t[DOWN .. ".weight_format"] = tensor.ones { 64, 64 }, nil, nil
  end },
  { "int8", "down_proj.weight': weight: '.SCB' is missing", function(_, t) t[DOWN .. ".SCB"] = nil end },
  { "int8", "'.SCB' is %(32%), 64 x 64 numbers need %(64%)", function(_, t) t[DOWN .. ".SCB"] = tensor.ones { 32 } end },
  { "int8", "down_proj.weight_format' is not 0", function(_, t) t[DOWN .. ".weight_format"] = tensor.new({ 1 }, { dtype = "u8" }) end },
  { "int8", "up_proj.weight.absmax' belongs to no weight of int8", function(_, t)
    t["model.layers.0.mlp.up_proj.weight.absmax"] = tensor.ones { 64 }
  end },
  { "int8", "down_proj.SCB' is not finite", function(_, t) t[DOWN .. ".SCB"] = tensor.ones { 64 } / 0 end },
  { "nf4", "down_proj.weight.absmax' is bf16 %(1,64%), f32 %(64%) is needed; bitsandbytes writes bf16 in another order after an inference",
    function(_, t) t[DOWN .. ".weight.absmax"] = t[DOWN .. ".weight.absmax"]:reshape(1, 64):to "bf16" end },
  { "nf4", "absmax' is f32 %(32%), f32 %(64%) is needed", function(_, t) t[DOWN .. ".weight.absmax"] = tensor.ones { 32 } end },
  { "nf4", "absmax' is missing", function(_, t) t[DOWN .. ".weight.absmax"] = nil end },
  { "nf4", "quant_map' is not the table of nf4", function(_, t) t[DOWN .. ".weight.quant_map"] = tensor.zeros { 16 } end },
  { "nf4", "'" .. DOWN .. ".weight' is %(1024,1%), 64 x 64 numbers of four bits need %(2048,1%)", function(_, t)
    t[DOWN .. ".weight"] = t[DOWN .. ".weight"]:narrow(1, 1, 1024)
  end },
  { "fp4 double", "nested_absmax' goes with nested_quant_map", function(_, t) t[DOWN .. ".weight.nested_quant_map"] = nil end },
  { "fp4 double", "nested_absmax' is %(2%)", function(_, t) t[DOWN .. ".weight.nested_absmax"] = tensor.ones { 2 } end },
  { "fp4 double", "fp4' is missing", function(_, t) t[DOWN .. ".weight.quant_state.bitsandbytes__fp4"] = nil end },
}

-- the JSON text of a quant_state
local STATES = {
  { "no JSON object", "nonsense" },
  { "quant_type = fp4 is not supported %(nf4%)", '{"quant_type":"fp4","blocksize":64,"dtype":"float32","shape":[64,64]}' },
  { "blocksize = 48 is not supported", '{"quant_type":"nf4","blocksize":48,"dtype":"float32","shape":[64,64]}' },
  { "blocksize = 64.5 is not supported", '{"quant_type":"nf4","blocksize":64.5,"dtype":"float32","shape":[64,64]}' },
  { "dtype = float64 is not supported", '{"quant_type":"nf4","blocksize":64,"dtype":"float64","shape":[64,64]}' },
  { "shape = %[64%] is not supported", '{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[64]}' },
  { "shape = %[64,1099511627776%] is not supported", '{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[64,1099511627776]}' },
  { "shape = %[0,64%] is not supported", '{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[0,64]}' },
  { "down_proj.weight' is %(32,128%), the model needs %(64,64%)",
    '{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[32,128]}' },
  { "order = 2 is not supported %(mocl does not know", '{"quant_type":"nf4","blocksize":64,"dtype":"float32","shape":[64,64],"order":2}' },
}

T.test("what is no such directory is refused with the tensor or the key", function()
  for _, row in ipairs(REFUSED) do
    T.fails(row[2], transformer.load, written(case_of(row[1]), row[3]))
  end
  for _, row in ipairs(STATES) do
    local path = written(case_of "nf4", function(_, t)
      t[DOWN .. ".weight.quant_state.bitsandbytes__nf4"] = tensor.new({ row[2]:byte(1, -1) }, { dtype = "u8" })
    end)
    T.fails(row[1], transformer.load, path)
  end
  T.fails("its weights are nf4; leave out quantization = 'int8'", transformer.load, written(case_of "nf4"), { quantization = "int8" })
  T.eq(assert(transformer.load(written(case_of "nf4"), { quantization = "nf4" })):quantization(), "nf4")
  T.fails("its weights are nf4; leave out quantization = 'w8a8'", transformer.load, written(case_of "nf4"), { quantization = "w8a8" })
  local both, alone = assert(transformer.load(written(case_of "int8"), { quantization = "w8a8" })), assert(transformer.load(written(case_of "int8")))
  T.eq({ both:quantization(), alone:quantization() }, { "w8a8", "int8" })
  T.eq(both:hash(), alone:hash())
  T.ok((logits(both, { 1, 2, 3 }) - logits(alone, { 1, 2, 3 })):abs():max():item() > 0)
end)

for _, name in ipairs { "nf4", "nf4-double", "int8", "nf4-spoilt-after-forward" } do
  T.test("the golden directory bnb/" .. name, function()
    local path = SHARED .. name
    if is_double or not fs.exists(path) then
      return T.skip(path .. " is not there, or numbers are f64")
    end
    if name:find "spoilt" then
      return T.fails("absmax' is bf16", transformer.load, path)
    end
    local model, golden = assert(transformer.load(path)), assert(json.load(path .. "/logits.json"))
    T.ok((logits(model, golden.tokens) - tensor.new(golden.logits)):abs():max():item() < 5e-5)
    local want, n = assert(safetensors.load(path .. "/dequantised.safetensors")), 0
    model:dequantize()
    for _, pair in ipairs(model:named_parameters()) do
      if want[pair[1]] then
        n = n + 1
        T.eq(pair[2]:totable(), want[pair[1]]:totable(), pair[1])
      end
    end
    T.eq(n, 7)
  end)
end
