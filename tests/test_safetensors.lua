-- safetensors files as other programs write them, at the level of Lua: what loads, what is refused and how

local T = require "t"
local fs = require "mocl.fs"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

local function file(header, data)
  local path = T.tmpdir() .. "/x.safetensors"
  assert(fs.write(path, string.pack("<s8", header) .. (data or "")))
  return path
end

local function entry(name, dtype, shape, from, to)
  return ('"%s":{"dtype":"%s","shape":[%s],"data_offsets":[%d,%d]}'):format(name, dtype, shape, from, to)
end

T.test("names with a zero byte, null metadata and blanks in front load as in the format's library", function()
  local header = ' \n{"__metadata__":null,'
    .. entry("a\\u0000b", "U8", "1", 0, 1) .. "," .. entry("a\\u0000c", "U8", "1", 1, 2) .. "}"
  local tensors, meta = assert(safetensors.load(file(header, "\5\6")))
  T.eq({ tensors["a\0b"]:totable(), tensors["a\0c"]:totable(), tensors.a == nil }, { { 5 }, { 6 }, true })
  T.eq(meta, {})
  local seen = {}
  assert(safetensors.load(file(header, "\5\6"), { only = function(name)
    seen[#seen + 1] = name
    return false
  end }))
  T.eq(seen, { "a\0b", "a\0c" })
  local _, pairs_of = assert(safetensors.load(file '{"__metadata__":{"k\\u0000":"v\\u0000w","a":"1","a":"2"}}'))
  T.eq(pairs_of, { ["k\0"] = "v\0w", a = "2" })
end)

T.test("what would be cut behind a zero byte is not written", function()
  local path = T.tmpdir() .. "/x.safetensors"
  T.raises("save: 'a' goes on behind a zero byte", safetensors.save, path, { ["a\0b"] = tensor.zeros { 1 } })
  T.raises("save: 'k' goes on behind a zero byte", safetensors.save, path, {}, { ["k\0b"] = "1" })
  T.raises("save: 'v' goes on behind a zero byte", safetensors.save, path, {}, { k = "v\0" })
  T.eq(fs.exists(path), nil)
end)

T.test("a name that is there twice", function()
  local one = entry("a", "U8", "1", 0, 1)
  T.eq(assert(safetensors.load(file("{" .. one .. "," .. one .. "}", "\7"))).a:totable(), { 7 })
  T.fails("tensor 'a': a duplicate name, whose two descriptions differ", safetensors.load,
    file("{" .. one .. "," .. entry("a", "I8", "1", 0, 1) .. "}", "\255"))
end)

T.test("a shape that no tensor can have is a failure, not an error", function()
  for _, shape in ipairs { "4611686018427387904,4,0", "0,4611686018427387904,4", "0,9223372036854775807" } do
    T.fails("x.safetensors: tensor 'a': the product of its shape overflows", safetensors.load,
      file("{" .. entry("a", "F16", shape, 0, 0) .. "}"))
  end
  T.fails("is F16 with 9 dimensions, which mocl does not hold", safetensors.load,
    file("{" .. entry("a", "F16", "0,1,1,1,1,1,1,1,1", 0, 0) .. "}"))
  T.fails("not a size", safetensors.load, file("{" .. entry("a", "F32", "0,9223372036854775808", 0, 0) .. "}"))
  T.eq(assert(safetensors.load(file("{" .. entry("a", "F16", "2,0,3", 0, 0) .. "}"))).a.shape, { 2, 0, 3 })
  T.raises("too large", tensor.zeros, { 0, 1 << 62, 4 })
  T.raises("too large", tensor.zeros, { 1 << 62, 4, 0 })
end)

T.test("dtypes that mocl does not hold are refused by name, unless they are left out", function()
  for name, bytes in pairs { BOOL = 2, F4 = 1, F8_E5M2 = 2, F8_E4M3 = 2, F8_E8M0 = 2, F8_E4M3FNUZ = 2, F8_E5M2FNUZ = 2, I16 = 4,
    U16 = 4,
    U32 = 8, C64 = 16, U64 = 16 } do
    local path = file("{" .. entry("a", name, "2", 0, bytes) .. "}", ("\0"):rep(bytes))
    T.fails("tensor 'a' is " .. name .. " with 1 dimensions, which mocl does not hold", safetensors.load, path)
    T.eq(safetensors.load(path, { only = function() return false end }), {})
  end
  T.fails("unknown dtype 'F8_E4M3FN'", safetensors.load, file("{" .. entry("a", "F8_E4M3FN", "1", 0, 1) .. "}", "\0"))
end)

T.test("map: tensors are the file's pages, a write stays in the tensor, and what is not aligned is copied", function()
  local path, big = T.tmpdir() .. "/x.safetensors", tensor.rand({ 300, 128 }, { seed = 1 })
  assert(safetensors.save(path, { big = big, small = tensor.new { 1, 2, 3 }, none = tensor.zeros { 0, 2 } }))
  local bytes, before = assert(fs.read(path)), tensor.memory().live
  local t = assert(safetensors.load(path, { map = true }))
  T.ok(tensor.memory().live - before < 4096, "no copy was made")
  T.eq({ t.big:totable(), t.small:totable(), t.none.shape }, { big:totable(), { 1, 2, 3 }, { 0, 2 } })
  local copy = tensor.zeros { 300, 128 }
  copy:copy_(t.big) -- the pages go, and come again
  T.eq({ copy:totable(), t.big:totable() }, { big:totable(), big:totable() })
  t.big:fill_(7)
  copy:copy_(t.big) -- a page that was written to stays
  T.eq({ copy:min():item(), t.big:min():item(), t.big:max():item() }, { 7, 7, 7 })
  T.eq(assert(fs.read(path)), bytes)
  local kept = t.small
  for _, one in pairs { t.big, t.none } do
    one:release()
  end
  T.eq(kept:totable(), { 1, 2, 3 })
  local odd = assert(safetensors.load(file("{" .. entry("u", "U8", "1", 0, 1) .. "," .. entry("f", "F32", "2", 1, 9) .. "}",
    "\9" .. string.pack("<ff", 1.5, -2)), { map = true }))
  T.eq({ odd.u:totable(), odd.f:totable() }, { { 9 }, { 1.5, -2 } })
  if T.devices[2] == "fake" then
    T.eq(assert(safetensors.load(path, { map = true, device = "fake" })).small:totable(), { 1, 2, 3 })
  end
end)
