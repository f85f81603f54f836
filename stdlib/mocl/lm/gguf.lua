--- mocl.lm.gguf: files of llama.cpp: metadata, and tensors that are read when they are asked for. The reader is C
-- (mocl.gguf.core).
--
--   local file = assert(gguf.open "model.gguf")
--   print(file.metadata["general.architecture"], #file.tensors)
--   local t = assert(file:tensor "token_embd.weight")   -- f32, whatever it is stored as
--   file:close()

local core = require "mocl.gguf.core"
local options = require "mocl.options"

local gguf = {}

local File = {}
File.__index = File

--- gguf.is(path) -> boolean: whether the file begins as a GGUF file does.
gguf.is = core.is

--- gguf.dequantize(type, bytes) -> tensor: the values of some blocks ("Q8_0", ...), a string, as f32 [n].
gguf.dequantize = core.dequantize

-- The values by key: read when they are asked for, since a vocabulary is long.
local function metadata_of(raw)
  local function get(_, key)
    if type(key) ~= "string" then
      return nil
    end
    return (raw:value(key))
  end
  return setmetatable({}, {
    __index = function(t, key)
      local value = get(t, key)
      rawset(t, key, value)
      return value
    end,
    __pairs = function(t)
      local list, i = raw:keys(), 0
      return function()
        i = i + 1
        if list[i] then
          return list[i], t[list[i]]
        end
      end
    end,
  })
end

local function open_one(path)
  local raw, message, code = core.open(path)
  if not raw then
    return nil, message, code
  end
  local version, alignment = raw:header()
  return setmetatable({
    path = path, version = version, alignment = alignment, keys = raw:keys(), metadata = metadata_of(raw),
    tensors = raw:tensors(), parts = { raw }, part_of = {},
  }, File)
end

-- ---- split files ----

-- "x-00002-of-00003.gguf" for part 2
local function part_path(path, part, count)
  local stem = path:match "^(.*)%-%d%d%d%d%d%-of%-%d%d%d%d%d%.gguf$"
  return stem and ("%s-%05d-of-%05d.gguf"):format(stem, part, count)
end

-- The other parts of a file whose first part is `file`: their tensors join its own.
local function join(file, count)
  local path = file.path
  local total = file.metadata["split.tensors.count"]
  for part = 2, count do
    local name = part_path(path, part, count)
    if not name then
      return nil, ("%s: is part 1 of %d of a split file, whose parts are found by names like x-00001-of-%05d.gguf; "
        .. "give them such names again, or put them together with llama-gguf-split --merge"):format(path, count, count), "FORMAT"
    end
    local more, message, code = open_one(name)
    if not more then
      return nil, ("%s (part %d of %d of %s)"):format(message, part, count, path), code
    end
    local m = more.metadata
    if m["split.no"] ~= part - 1 or m["split.count"] ~= count then
      return nil, ("%s: split.no = %s, split.count = %s, where part %d of %d is expected"):format(name,
        tostring(m["split.no"]), tostring(m["split.count"]), part, count), "FORMAT"
    end
    file.parts[part] = more.parts[1]
    for _, t in ipairs(more.tensors) do
      if file.by_name[t.name] then
        return nil, ("%s: tensor '%s' is in another part too"):format(name, t.name), "FORMAT"
      end
      file.by_name[t.name], file.part_of[t.name] = t, part
      file.tensors[#file.tensors + 1] = t
    end
  end
  if total and total ~= #file.tensors then
    return nil, ("%s: split.tensors.count = %s, but the parts hold %d tensors"):format(path, tostring(total),
      #file.tensors), "FORMAT"
  end
  return true
end

--- gguf.open(path) -> file | fail. file.path, .version, .alignment; .keys, the list of keys in the order of the file,
-- and .metadata, their values by key (lists for arrays); .tensors, a list of {name =, type =, shape =, bytes =}. The
-- first part of a split file opens all of them.
function gguf.open(path)
  local file, message, code = open_one(path)
  if not file then
    return nil, message, code
  end
  file.by_name = {}
  for _, t in ipairs(file.tensors) do
    file.by_name[t.name] = t
  end
  local count, no = file.metadata["split.count"], file.metadata["split.no"] or 0
  local ok = true
  if count ~= nil and (math.type(count) ~= "integer" or count < 1 or count > 99999 or math.type(no) ~= "integer") then
    ok, message, code = nil, ("%s: split.no = %s, split.count = %s are no part of a split file"):format(path,
      tostring(no), tostring(count)), "FORMAT"
  elseif count and count > 1 and no ~= 0 then
    ok, message, code = nil, ("%s: is part %d of %d of a split file; open the first one%s"):format(path, no + 1, count,
      part_path(path, 1, count) and ", " .. part_path(path, 1, count) or ""), "FORMAT"
  elseif count and count > 1 then
    ok, message, code = join(file, count)
  end
  if not ok then
    file:close()
    return nil, message, code
  end
  return file
end

--- file:info(name) -> {name =, type =, shape =, bytes =} or nil
function File:info(name)
  return self.by_name[name]
end

--- file:type(key) -> "u32", "array of string", ... or nil: of a value in the metadata.
function File:type(key)
  local part = self.parts[1] or error("type: the file was closed", 2)
  return (select(2, part:value(key)))
end

--- file:tensor(name, {device="cpu", heads=0}) -> tensor | fail: f32, or the integer type it is stored in. heads: the
-- rows are those of so many attention heads in the order of llama.cpp, and become those of Hugging Face.
function File:tensor(name, opts)
  local part = self.parts[self.part_of[name] or 1]
  if not part then
    error("tensor: the file was closed", 2)
  end
  return part:tensor(self.path, name, opts)
end

--- file:close(): gives the memory map back; tensors that were read stay.
function File:close()
  for _, part in ipairs(self.parts) do
    part:release()
  end
  self.parts = {}
end

-- ---- writing ----

local TYPES = {
  u8 = { 0, "<I1" }, i8 = { 1, "<i1" }, u16 = { 2, "<I2" }, i16 = { 3, "<i2" }, u32 = { 4, "<I4" }, i32 = { 5, "<i4" },
  f32 = { 6, "<f" }, bool = { 7 }, string = { 8, "<s8" }, u64 = { 10, "<I8" }, i64 = { 11, "<i8" }, f64 = { 12, "<d" },
}
local ARRAY = 9

local function pack_value(kind, value)
  if kind == "bool" then
    assert(type(value) == "boolean", "a boolean is needed")
    return value and "\1" or "\0"
  end
  return string.pack(TYPES[kind][2], value)
end

-- A key as it stands in a file: {name, type, value}, type "u32" or "array of u32".
local function pack_key(key)
  local name, kind, value = key[1], key[2], key[3]
  local element = kind:match "^array of (.*)$"
  if not TYPES[element or kind] then
    error(("save: key '%s': type '%s' is unknown"):format(name, kind), 3)
  end
  local ok, text = pcall(function()
    if not element then
      return string.pack("<I4", TYPES[kind][1]) .. pack_value(kind, value)
    end
    local parts = { string.pack("<I4I4I8", ARRAY, TYPES[element][1], #value) }
    for i, v in ipairs(value) do
      parts[i + 1] = pack_value(element, v)
    end
    return table.concat(parts)
  end)
  if not ok then
    error(("save: key '%s' of type '%s': %s"):format(name, kind, text:gsub("^[^:]*:%d+: ", "")), 3)
  end
  return string.pack("<s8", name) .. text
end

-- Names that a reader would refuse.
local function check_names(what, list, field)
  local seen = {}
  for _, entry in ipairs(list) do
    local name = entry[field]
    if type(name) ~= "string" or name == "" or name:find("\0", 1, true) or not utf8.len(name) then
      error(("save: a %s has no name, or one that is not plain text"):format(what), 3)
    elseif seen[name] then
      error(("save: %s '%s' is there twice"):format(what, name), 3)
    end
    seen[name] = true
  end
end

--- gguf.save(path, {metadata =, tensors =}) -> true | fail: writes a file of version 3, whole or not at all. metadata:
-- a list of {name, type, value}, type "u32", "string", ... or "array of u32"; tensors: a list of {name =, tensor =,
-- type =, heads =}, type "F32" (the default), "F16", "BF16" or "Q8_0", heads as in file:tensor.
function gguf.save(path, what)
  options.check("save", what, {}, { "metadata", "tensors" })
  local metadata, tensors, keys, list = what.metadata or {}, what.tensors or {}, {}, {}
  check_names("key", metadata, 1)
  check_names("tensor", tensors, "name")
  for i, key in ipairs(metadata) do
    if key[1] == "general.alignment" and not (key[2] == "u32" and key[3] == 32) then
      error("save: general.alignment is 32 in files that mocl writes, of type u32", 2)
    end
    keys[i] = pack_key(key)
  end
  for i, t in ipairs(tensors) do
    options.check("save: a tensor", t, { "name", "tensor" }, { "type", "heads" })
    list[i] = { name = t.name, tensor = t.tensor, type = t.type or "F32", heads = t.heads or 0 }
  end
  return core.save(path, table.concat(keys), #keys, list)
end

return gguf
