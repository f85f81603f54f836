-- GGUF files: what is read, to the bit, and what is refused

local T = require "t"
local file = require "gguf_file"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local safetensors = require "mocl.safetensors"
local lora = require "mocl.lm.lora"
local mocl_tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local function put(bytes)
  local path = T.tmpdir() .. "/x.gguf"
  assert(fs.write(path, bytes))
  return path
end

local function hex(t)
  local out = {}
  for i, v in ipairs(t:totable()) do
    out[i] = string.pack("<f", v):gsub(".", function(c)
      return ("%02x"):format(c:byte())
    end)
  end
  return table.concat(out)
end

local function unhex(s)
  return (s:gsub("%x%x", function(c)
    return string.char(tonumber(c, 16))
  end))
end

-- ---- formats ----

T.test("blocks of random bytes become the values of gguf 0.19, to the bit", function()
  local cases, n = assert(json.load "tests/fixtures/gguf/blocks.json").unpack, 0
  for name, case in pairs(cases) do
    T.ok(hex(gguf.dequantize(name, unhex(case.bytes))) == case.values, name)
    n = n + 1
  end
  T.eq(n, 18)
end)

T.test("blocks as llama.cpp quantises them become its own values, to the bit", function()
  local t = assert(safetensors.load(T.shared "gguf/blocks.safetensors"))
  local n = 0
  for name, blocks in pairs(t) do
    local kind = name:match "^(.*)%.bytes$"
    if kind then
      local bytes = blocks:flatten():totable()
      for i, b in ipairs(bytes) do
        bytes[i] = string.char(b)
      end
      T.ok(hex(gguf.dequantize(kind, table.concat(bytes))) == hex(t[kind .. ".f32"]:flatten()), kind)
      n = n + 1
    end
  end
  T.eq(n, 16)
end)

T.test("halves, brain floats and doubles at their edges", function()
  local function values(kind, format, ...)
    local parts = {}
    for i, v in ipairs { ... } do
      parts[i] = string.pack(format, v)
    end
    return gguf.dequantize(kind, table.concat(parts)):totable()
  end
  T.eq(values("F16", "<I2", 0, 1, 0x3ff, 0x400, 0x7bff, 0xfc00, 0x8001),
    { 0.0, 2.0 ^ -24, 1023 * 2.0 ^ -24, 2.0 ^ -14, 65504.0,
    -math.huge, -2.0 ^ -24 })
  T.eq(1 / values("F16", "<I2", 0x8000)[1], -math.huge)
  local nan = values("F16", "<I2", 0x7e01)[1]
  T.ok(nan ~= nan)
  T.eq(values("BF16", "<I2", 0x3f80, 0xc000, 0x0001), { 1.0, -2.0, 2.0 ^ -133 })
  T.eq(values("F64", "<d", 0.5, 1e300, 1 + 2.0 ^ -30), { 0.5, math.huge, 1.0 })
  T.raises("17 bytes are not a number of blocks of 18 bytes %(Q4_0%)", gguf.dequantize, "Q4_0", ("\0"):rep(17))
  T.raises("type 'IQ2_XXS' is unknown or not read by mocl", gguf.dequantize, "IQ2_XXS", ("\0"):rep(66))
  T.raises("type 'Q4_9' is unknown", gguf.dequantize, "Q4_9", "\0")
end)

-- ---- metadata ----

T.test("every type of value, arrays in arrays, and tensors in PyTorch's order of sizes", function()
  for version = 2, 3 do
    local keys = {
      { "a.u8", "u8", 255 }, { "a.i8", "i8", -128 }, { "a.u16", "u16", 65535 }, { "a.i16", "i16", -2 },
        { "a.u32", "u32", 4294967295 },
      { "a.i32", "i32", -3 }, { "a.u64", "u64", math.maxinteger }, { "a.i64", "i64", math.mininteger },
        { "a.f32", "f32", 0.5 },
      { "a.f64", "f64", 0.1 }, { "a.yes", "bool", true }, { "a.no", "bool", false }, { "a.text", "string", "x\0y" },
      { "a.empty", "[u32]", {} }, { "a.texts", "[string]", { "", "b" } },
        { "a.deep", "[[i8]]", { { 1, -1 }, {}, { 3 } } },
    }
    local bytes = file.bytes(keys, { { "w", { 2, 3 }, "F32", file.floats { 1, 2, 3, 4, 5, 6 } },
      { "i", { 2 }, "I64", string.pack("<i8i8", 7, -8) } })
    local f = assert(gguf.open(put(bytes:sub(1, 4) .. string.pack("<I4", version) .. bytes:sub(9))))
    T.eq({ f.version, f.alignment, #f.keys }, { version, 32, #keys })
    for i, key in ipairs(keys) do
      T.eq(f.keys[i], key[1])
      T.eq(f.metadata[key[1]], key[3], key[1])
      T.eq(math.type(f.metadata[key[1]]), math.type(key[3]), key[1])
    end
    local n = 0
    for key, value in pairs(f.metadata) do
      n = n + 1
      T.eq(value, f.metadata[key])
    end
    T.eq({ n, f.metadata["a.none"] == nil, f.metadata[1] == nil, f.metadata["a.u8\0"] == nil },
      { #keys, true, true, true })
    T.eq(f.tensors, { { name = "w", type = "F32", shape = { 2, 3 }, bytes = 24 },
      { name = "i", type = "I64", shape = { 2 }, bytes = 16 } })
    T.eq(assert(f:tensor "w"):totable(), { { 1, 2, 3 }, { 4, 5, 6 } })
    T.eq({ f:tensor("i").dtype, f:tensor("i"):totable() }, { "i64", { 7, -8 } })
    T.fails("x.gguf: tensor 'v' is missing", f.tensor, f, "v")
    T.fails("is missing", f.tensor, f, "w\0")
    f:close()
    f:close()
    T.raises("the file was closed", f.tensor, f, "w")
  end
end)

T.test("rows of heads come back in Hugging Face's order, on every device", function()
  local f = assert(gguf.open(put(file.bytes({}, { { "q", { 8, 1 }, "F32", file.floats { 0, 1, 2, 3, 4, 5, 6, 7 } } }))))
  for _, device in ipairs(T.devices) do
    T.eq(assert(f:tensor("q", { heads = 2, device = device })):flatten():totable(), { 0, 2, 1, 3, 4, 6, 5, 7 })
    T.eq(assert(f:tensor("q", { heads = 1, device = device })):flatten():totable(), { 0, 2, 4, 6, 1, 3, 5, 7 })
  end
  T.fails("tensor 'q' has 8 rows, which are not 3 heads of an even size", f.tensor, f, "q", { heads = 3 })
  T.fails("not 8 heads of an even size", f.tensor, f, "q", { heads = 8 })
  T.raises("heads", f.tensor, f, "q", { heads = -1 })
end)

-- ---- malformed files ----

local key, tensor = file.key, file.tensor
local FOUR = file.floats { 1, 2, 3, 4 }

T.test("what is wrong with a file is said with its path, reason and cure", function()
  local big = 1 << 61
  local cases = {
    { "", "not a GGUF file: it does not begin with GGUF" },
    { "ggjt" .. ("\0"):rep(40), "does not begin with GGUF" },
    { "GGUF", "ends in the middle: it is cut" },
    { "GGUF" .. string.pack(">I4I8I8", 3, 0, 0), "a big%-endian file.*gguf%-convert%-endian" },
    { file.raw({}, {}, nil, nil, { 1 }), "GGUF version 1 is not supported %(2 and 3 are%); write the file anew" },
    { file.raw({}, {}, nil, nil, { 4 }), "GGUF version 4 is not supported" },
    { file.raw({}, {}, nil, nil, { 3, 0, big }), "2305843009213693952 keys do not fit into the 0 bytes that are left" },
    { file.raw({}, {}, nil, nil, { 3, -1, 0 }), "18446744073709551615 tensors do not fit" },
    { file.raw({ key("a", "u8", 1) }, {}, nil, nil, { 3, 1, 1 }), "1 tensors do not fit" },
    { file.raw({ key("a", "u8", 1), key("b", "u8", 1), key("a", "u16", 2) }, {}), "key 'a' is there twice" },
    { file.raw({ key("", "u8", 1) .. "   " }, {}), "key number 1: its name is empty" },
    { file.raw({ key("a\0b", "u8", 1) }, {}), "key number 1: its name contains a zero byte" },
    { file.raw({ key("a\255", "u8", 1) }, {}), "key number 1: its name is not UTF%-8" },
    { file.raw({ string.pack("<I8", big) .. ("x"):rep(40) }, {}),
      "key number 1: 2305843009213693952 bytes of a string do not fit" },
    { file.raw({ string.pack("<s8I4", "a", 13) .. "    " }, {}), "key 'a': type 13 is unknown %(0 to 12 are known%)" },
    { file.raw({ string.pack("<s8I4I4I8", "a", 9, 99, 0) }, {}), "key 'a': type 99 is unknown" },
    { file.raw({ string.pack("<s8I4I4I8", "a", 9, 10, big) }, {}),
      "key 'a': 2305843009213693952 values of an array do not fit" },
    { file.raw({ string.pack("<s8I4I4I8", "a", 9, 8, 2) .. ("x"):rep(15) }, {}),
      "key 'a': 2 values of an array do not fit" },
    { file.raw({ string.pack("<s8I4I4I8I8", "a", 9, 8, 1, 9) }, {}), "key 'a': 9 bytes of a string do not fit" },
    { file.raw({ string.pack("<s8I4B", "a", 7, 2) }, {}), "key 'a': a truth value is neither 0 nor 1" },
    { file.raw({ string.pack("<s8I4I8", "a", 10, math.mininteger) }, {}),
      "key 'a': a value is above 9223372036854775807" },
    { file.raw({ key("a", "[[[[[u8]]]]]", { { { { { 1 } } } } }) }, {}),
      "key 'a': arrays are nested more than 4 deep" },
    { file.raw({}, { tensor("a", {}, "F32", 0) .. ("\0"):rep(9) }, FOUR), "tensor 'a': it has no dimensions" },
    { file.raw({}, { tensor("a", { 1, 1, 1, 1, 4 }, "F32", 0) }, FOUR),
      "tensor 'a': it has 5 dimensions, the format has at most 4" },
    { file.raw({}, { tensor("a", { 4, 0 }, "F32", 0) }, FOUR), "tensor 'a': one of its sizes is 0" },
    { file.raw({}, { tensor("a", { 1 << 31, 1 << 31, 2 }, "F32", 0) }, FOUR),
      "tensor 'a': the product of its sizes overflows" },
    { file.raw({}, { tensor("a", { math.mininteger }, "F32", 0) }, FOUR),
      "tensor 'a': the product of its sizes overflows" },
    { file.raw({}, { tensor("a", { 1 << 62 }, "F32", 0) }, FOUR), "tensor 'a'.* overflows" },
    { file.raw({}, { tensor("a", { 4 }, 4, 0) }, FOUR), "tensor 'a': its type 4 is unknown.*write the file anew" },
    { file.raw({}, { tensor("a", { 4 }, 4000000000, 0) }, FOUR), "tensor 'a': its type 4000000000 is unknown" },
    { file.raw({}, { tensor("a", { 2, 16 }, "Q8_0", 0) }, ("\0"):rep(34)),
      "tensor 'a': its rows have 16 values, which do not fill blocks of 32 %(Q8_0%)" },
    { file.raw({}, { tensor("a", { 4 }, "F32", 0), tensor("a", { 4 }, "F32", 32) }, FOUR .. FOUR .. FOUR .. FOUR),
      "tensor 'a' is there twice" },
    { file.raw({}, { tensor("a", { 4 }, "F32", 0), tensor("b", { 4 }, "F32", 0) }, FOUR),
      "tensor 'b' overlaps tensor 'a'" },
    { file.raw({}, { tensor("b", { 12 }, "F32", 0), tensor("a", { 4 }, "F32", 32) }, FOUR .. FOUR .. FOUR),
      "tensor 'a' overlaps tensor 'b'" },
    { file.raw({}, { tensor("a", { 4 }, "F32", 16) }, FOUR .. FOUR),
      "tensor 'a' begins at byte 16 of the data, which is no multiple of the alignment 32" },
    { file.raw({}, { tensor("a", { 4 }, "F32", 32) }, FOUR .. FOUR),
      "tensor 'a' has 16 bytes from byte 32 of the data, which ends at byte 32: the file is cut" },
    { file.raw({}, { tensor("a", { 4 }, "F32", -32) }, FOUR),
      "tensor 'a' has 16 bytes from byte 18446744073709551584" },
    { file.raw({}, { tensor("a", { 5 }, "F32", 0) }, FOUR),
      "tensor 'a' has 20 bytes from byte 0 of the data, which ends at byte 16" },
    { file.raw({ key("general.alignment", "u32", 0) }, {}),
      "general.alignment %(u32%) is 0, and must be a power of two" },
    { file.raw({ key("general.alignment", "u32", 24) }, {}),
      "general.alignment %(u32%) is 24, and must be a power of two" },
    { file.raw({ key("general.alignment", "string", "32") }, {}), "general.alignment %(string%)" },
  }
  for i, case in ipairs(cases) do
    T.fails("x.gguf: .*" .. case[2], gguf.open, put(case[1]))
    local _, _, code = gguf.open(put(case[1]))
    T.eq(code, "FORMAT", "case " .. i)
  end
  T.fails("No such file", gguf.open, "/nonexistent/x.gguf")
  T.fails("is a directory", gguf.open, T.tmpdir())
  T.fails("not a regular file", gguf.open, "/dev/null")
end)

T.test("another alignment, gaps and tensors in any order are read", function()
  local path = put(file.raw({ key("general.alignment", "u32", 8) },
    { tensor("b", { 2 }, "F32", 24), tensor("a", { 2 }, "F32", 0) },
    file.floats { 1, 2, 9, 9, 9, 9, 3, 4 }, 8))
  local f = assert(gguf.open(path))
  T.eq({ f.alignment, f:tensor("a"):totable(), f:tensor("b"):totable() }, { 8, { 1, 2 }, { 3, 4 } })
end)

local function whole()
  return file.bytes({ { "general.architecture", "string", "llama" }, { "a.list", "[string]", { "x", "yy" } },
    { "a.deep", "[[u16]]", { { 1 }, { 2, 3 } } },
    { "a.f", "f64", 1 }, { "a.flag", "bool", true } }, { { "w", { 2, 2 }, "F32", FOUR },
      { "q", { 1, 32 }, "Q8_0", ("\1"):rep(34) } })
end

T.test("a file that is cut at any byte is refused", function()
  local bytes = whole()
  bytes = bytes:sub(1, #bytes - 30) -- the padding behind the last tensor may be missing
  local path = put(bytes)
  assert(gguf.open(path)):close()
  for n = 0, #bytes - 1 do
    assert(fs.write(path, bytes:sub(1, n)))
    local f, message = gguf.open(path)
    T.ok(f == nil and message:find("x.gguf: ", 1, true), n)
  end
end)

T.test("a file with any byte changed is read or refused, and no more than that", function()
  local bytes, path, read = whole(), put "", 0
  for i = 1, #bytes do
    for _, change in ipairs { 1, 128, 255 } do
      assert(fs.write(path, bytes:sub(1, i - 1) .. string.char(bytes:byte(i) ~ change) .. bytes:sub(i + 1)))
      local f, message = gguf.open(path)
      if f then
        for _ in pairs(f.metadata) do
        end
        for _, t in ipairs(f.tensors) do
          T.ok(f:tensor(t.name) or select(2, f:tensor(t.name)):find "which mocl does not read")
        end
        f:close()
        read = read + 1
      else
        T.ok(message:find("x.gguf: ", 1, true), message)
      end
    end
  end
  T.ok(read > 0)
end)

T.test("types that mocl does not read are told when a tensor is asked for", function()
  local f = assert(gguf.open(put(file.bytes({}, { { "a", { 256 }, "IQ2_XXS", ("\0"):rep(66) },
    { "b", { 2 }, "I16", "abcd" } }))))
  T.fails("x.gguf: tensor 'a' is stored as IQ2_XXS, which mocl does not read; llama%-quantize makes another type",
    f.tensor, f, "a")
  T.fails("tensor 'b' is stored as I16", f.tensor, f, "b")
end)

-- ---- writing ----

T.test("what is written has the bytes of the test's own writer, and comes back", function()
  local list = { { "a.u8", "u8", 200 }, { "a.i64", "i64", -5 }, { "a.f", "f32", 0.25 }, { "a.t", "string", "x\0y" },
    { "a.b", "bool", true },
    { "a.l", "array of string", { "p", "" } }, { "a.e", "array of u16", {} }, { "general.alignment", "u32", 32 } }
  local path = T.tmpdir() .. "/y.gguf"
  local data = mocl_tensor.new { { 1, 2 }, { 3, 4 } }
  for _, device in ipairs(T.devices) do
    assert(gguf.save(path, { metadata = list, tensors = { { name = "w", tensor = data:to(device) },
      { name = "v", tensor = data:t():to(device), type = "F32" } } }))
    local plain = {}
    for i, k in ipairs(list) do
      plain[i] = { k[1], k[2]:gsub("^array of (.*)$", "[%1]"), k[3] }
    end
    for i, k in ipairs(plain) do
      plain[i] = { k[1], k[2], list[i][3] }
    end
    T.ok(assert(fs.read(path)) == file.bytes(plain, { { "w", { 2, 2 }, "F32", file.floats { 1, 2, 3, 4 } },
      { "v", { 2, 2 }, "F32", file.floats { 1, 3, 2, 4 } } }))
  end
  local f = assert(gguf.open(path))
  for _, key in ipairs(list) do
    T.eq({ f.metadata[key[1]], f:type(key[1]) }, { key[3], key[2] })
  end
  T.eq(f:type "a.none", nil)
  f:close()
  assert(gguf.save(path, {}))
  T.eq(#assert(gguf.open(path)).keys, 0)
end)

T.test("heads are put into llama.cpp's order and come back", function()
  local path, rows = T.tmpdir() .. "/y.gguf", mocl_tensor.arange(0, 16):reshape(8, 2)
  assert(gguf.save(path, { tensors = { { name = "q", tensor = rows, heads = 2 }, { name = "p", tensor = rows } } }))
  local f = assert(gguf.open(path))
  T.eq(f:tensor("q"):select(2, 1):totable(), { 0, 4, 2, 6, 8, 12, 10, 14 })
  T.eq(f:tensor("q", { heads = 2 }):totable(), rows:totable())
  T.eq(f:tensor("p"):totable(), rows:totable())
end)

T.test("values are rounded as llama.cpp rounds them", function()
  local path = T.tmpdir() .. "/y.gguf"
  local function stored(kind, values)
    assert(gguf.save(path, { tensors = { { name = "w", tensor = mocl_tensor.new { values }, type = kind } } }))
    return assert(gguf.open(path)):tensor("w"):flatten():totable()
  end
  T.eq(stored("F16", { 1 + 2.0 ^ -11, 1 + 3 * 2.0 ^ -11, 2.0 ^ -24, 2.0 ^ -25, 65504, 65519, -65520 }),
    { 1, 1 + 2.0 ^ -9, 2.0 ^ -24, 0, 65504, 65504, -math.huge })
  T.eq(stored("BF16", { 1 + 2.0 ^ -8, 1 + 3 * 2.0 ^ -8, -3 }), { 1, 1 + 2.0 ^ -6, -3 })
  local values = {}
  for i = 1, 32 do
    values[i] = i == 5 and -127 or i - 10.5 -- halves go away from zero
  end
  local got = stored("Q8_0", values)
  T.eq({ got[1], got[5], got[10], got[11], got[32] }, { -10, -127, -1, 1, 22 })
  T.eq(stored("Q8_0", mocl_tensor.zeros({ 32 }):totable()), mocl_tensor.zeros({ 32 }):totable())
  for kind, case in pairs(assert(json.load "tests/fixtures/gguf/blocks.json").pack) do
    local list, bytes = {}, unhex(case.bytes)
    for at = 1, #case.values, 8 do
      list[#list + 1] = (string.unpack("<f", unhex(case.values:sub(at, at + 7))))
    end
    stored(kind, list)
    T.ok(assert(fs.read(path)):sub(-#bytes - -#bytes % 32, -1):sub(1, #bytes) == bytes, kind)
  end
end)

T.test("what cannot be written raises before there is a file", function()
  local path = T.tmpdir() .. "/y.gguf"
  local function metadata(pattern, ...)
    T.raises(pattern, gguf.save, path, { metadata = { ... } })
  end
  metadata("key 'a': type 'u128' is unknown", { "a", "u128", 1 })
  metadata("key 'a': type 'array of array of u8' is unknown", { "a", "array of array of u8", {} })
  metadata("key 'a' of type 'u8': .*overflow", { "a", "u8", 256 })
  metadata("key 'a' of type 'u32': .*overflow", { "a", "u32", -1 })
  metadata("key 'a' of type 'bool': a boolean is needed", { "a", "bool", 1 })
  metadata("key 'a' of type 'array of string': ", { "a", "array of string", { {} } })
  metadata("key 'a' is there twice", { "a", "u8", 1 }, { "a", "u8", 1 })
  metadata("a key has no name", { "", "u8", 1 })
  metadata("a key has no name, or one that is not plain text", { "a\0b", "u8", 1 })
  metadata("general.alignment is 32", { "general.alignment", "u32", 64 })
  local function tensors(pattern, ...)
    T.raises(pattern, gguf.save, path, { tensors = { ... } })
  end
  local row = mocl_tensor.zeros { 2, 16 }
  tensors("tensor 'a' is there twice", { name = "a", tensor = row }, { name = "a", tensor = row })
  tensors("a tensor has no name", { name = "\255", tensor = row })
  tensors("rows of 16 values, which do not fill blocks of 32 %(Q8_0%); write it as F16",
    { name = "a", tensor = row, type = "Q8_0" })
  tensors("mocl does not write type Q4_K", { name = "a", tensor = row, type = "Q4_K" })
  tensors("type 'Q4' is unknown", { name = "a", tensor = row, type = "Q4" })
  tensors("must have 1 to 4 dimensions, values, and the dtype f32 or bf16", { name = "a", tensor = row:to "i32" })
  tensors("must have 1 to 4 dimensions", { name = "a", tensor = mocl_tensor.zeros { 2, 0 } })
  tensors("2 rows, which are not 2 heads of an even size", { name = "a", tensor = row, heads = 2 })
  tensors("unknown option 'kind'", { name = "a", tensor = row, kind = "F16" })
  tensors("'a' is no tensor", { name = "a", tensor = 1 })
  T.raises("unknown option 'tensor'", gguf.save, path, { tensor = {} })
  T.eq(fs.exists(path), nil)
  T.fails("No such file", gguf.save, "/nonexistent/y.gguf", {})
end)

-- ---- split files ----

local function split(dir, change)
  local parts = {
    { { { "general.name", "string", "whole" }, { "split.no", "u16", 0 }, { "split.count", "u16", 2 },
      { "split.tensors.count", "i32", 2 } },
      { { "a", { 4 }, "F32", FOUR } } },
    { { { "split.no", "u16", 1 }, { "split.count", "u16", 2 }, { "split.tensors.count", "i32", 2 } },
      { { "b", { 2 }, "F32", file.floats { 5, 6 } } } },
  }
  if change then
    change(parts)
  end
  for i, part in ipairs(parts) do
    assert(fs.write(("%s/m-%05d-of-00002.gguf"):format(dir, i), file.bytes(part[1], part[2])))
  end
  return dir .. "/m-00001-of-00002.gguf"
end

T.test("a split file is opened by its first part", function()
  local dir = T.tmpdir()
  local f = assert(gguf.open(split(dir)))
  T.eq({ #f.tensors, f:tensor("a"):totable(), f:tensor("b"):totable(), f.metadata["general.name"] },
    { 2, { 1, 2, 3, 4 }, { 5, 6 }, "whole" })
  f:close()
  T.fails("m%-00002%-of%-00002.gguf: is part 2 of 2 of a split file; open the first one, .*m%-00001%-of%-00002.gguf",
    gguf.open,
    dir .. "/m-00002-of-00002.gguf")
  assert(fs.write(dir .. "/other.gguf", assert(fs.read(dir .. "/m-00001-of-00002.gguf"))))
  T.fails("other.gguf: is part 1 of 2 of a split file, whose parts are found by names", gguf.open, dir .. "/other.gguf")
  T.fails("tensor 'a' is in another part too", gguf.open, split(dir, function(p) p[2][2][1][1] = "a" end))
  T.fails("00002.gguf: split.no = 0, split.count = 2, where part 2 of 2 is expected", gguf.open,
    split(dir, function(p) p[2][1][1][3] = 0 end))
  T.fails("split.tensors.count = 3, but the parts hold 2 tensors", gguf.open,
    split(dir, function(p) p[1][1][4][3] = 3 end))
  T.fails("split.count = 0 are no part of a split file", gguf.open, split(dir, function(p) p[1][1][3][3] = 0 end))
  local path = split(dir)
  assert(fs.remove(dir .. "/m-00002-of-00002.gguf"))
  T.fails("m%-00002%-of%-00002.gguf: No such file.*%(part 2 of 2 of .*m%-00001%-of%-00002.gguf%)", gguf.open, path)
end)

-- ---- models of llama.cpp's writers ----

T.test("golden models compute transformers' logits within 1e-4", function()
  for _, name in ipairs { "llama/base-f32", "llama-tied/base-own-head-f32", "qwen2/base-f32", "gpt2/base-f32" } do
    local model = assert(transformer.load(T.shared("gguf/" .. name .. ".gguf")))
    local want = assert(json.load(T.shared("gguf/" .. name:match "^[^/]*" .. "/base.logits.json")))
    local logits = model:forward(transformer.batch { want.tokens }):matmul(model:head():t())
    T.near(logits:totable(), want.logits, 1e-4, name)
  end
end)

T.test("adapters of PEFT on a golden model compute PEFT's logits within 1e-4", function()
  for _, name in ipairs { "plain", "patterns-rslora" } do
    local model = assert(transformer.load(T.shared "gguf/llama/base-f32.gguf"))
    assert(lora.load(model, T.shared("gguf/llama/" .. name .. "/adapter_config.json"):match "^(.*)/"))
    local want = assert(json.load(T.shared("gguf/llama/" .. name .. ".logits.json")))
    local hidden = model:forward(transformer.batch { want.tokens })
    T.near(hidden:matmul(model:head():t()):totable(), want.logits, 1e-4, name)
  end
end)

T.test("an adapter's file is no model", function()
  T.fails("general.type = adapter is not supported", transformer.load, T.shared "gguf/llama/plain.lora.gguf")
end)
