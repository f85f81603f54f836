--- mocl.run.tensorboard: metrics as TensorBoard's event files. A file is a TFRecord of messages in protobuf, both
-- written by hand here: each record is its length, the masked CRC-32C of that, its bytes, and the masked CRC-32C of
-- these.
--
-- Each stage has a directory of its own, since a session that begins makes a reader forget later steps of all tags in
-- its directory. Each process opens a new file, which begins with the session's start at the step that it goes on
-- from: points of an interrupted process behind that step go, and no file that may be watched is changed.

local check = require "mocl.failure".check
local fs = require "mocl.fs"

local tensorboard = {}

-- ---- CRC-32C (Castagnoli), as RFC 3720 has it ----

local TABLE = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do
    c = c & 1 == 1 and c >> 1 ~ 0x82F63B78 or c >> 1
  end
  TABLE[i] = c
end

--- tensorboard.crc32c(text) -> integer.
function tensorboard.crc32c(text)
  local c = 0xFFFFFFFF
  for i = 1, #text do
    c = c >> 8 ~ TABLE[(c ~ text:byte(i)) & 0xFF]
  end
  return c ~ 0xFFFFFFFF
end

-- TensorFlow's masked one: a CRC of bytes that hold CRCs would be weak.
local function masked(text)
  local c = tensorboard.crc32c(text)
  return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF
end

--- tensorboard.record(bytes) -> the record of a TFRecord file.
function tensorboard.record(bytes)
  local length = string.pack("<I8", #bytes)
  return length .. string.pack("<I4", masked(length)) .. bytes .. string.pack("<I4", masked(bytes))
end

-- ---- protobuf ----

local function varint(n)
  local parts = {}
  repeat
    local low = n & 0x7F
    n = n >> 7
    parts[#parts + 1] = string.char(n ~= 0 and low | 0x80 or low)
  until n == 0
  return table.concat(parts)
end

local VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5

local function field(number, kind, bytes)
  return varint(number << 3 | kind) .. (kind == BYTES and varint(#bytes) or "") .. bytes
end

local function event(time, step, more)
  return tensorboard.record(field(1, FIXED64, string.pack("<d", time)) .. field(2, VARINT, varint(step)) .. more)
end

--- tensorboard.version(time) -> the record that a file begins with. time: seconds since 1970.
function tensorboard.version(time)
  return tensorboard.record(field(1, FIXED64, string.pack("<d", time)) .. field(3, BYTES, "brain.Event:2"))
end

--- tensorboard.start(time, step) -> the record of a session that begins at a step.
function tensorboard.start(time, step)
  return event(time, step, field(7, BYTES, field(1, VARINT, varint(1))))
end

--- tensorboard.scalars(time, step, values) -> the record of a table of numbers by tag, as float32, in the order of
-- the tags.
function tensorboard.scalars(time, step, values)
  local tags, parts = {}, {}
  for tag in pairs(values) do
    tags[#tags + 1] = tag
  end
  table.sort(tags)
  for i, tag in ipairs(tags) do
    parts[i] = field(1, BYTES, field(1, BYTES, tag) .. field(2, FIXED32, string.pack("<f", values[tag])))
  end
  return event(time, step, field(5, BYTES, table.concat(parts)))
end

-- ---- files ----

--- tensorboard.append(files, dir, stage, row): a row of metrics as an event in dir/STAGE/. files: a table in which
-- the open files are kept. Numbers are values, tagged by their keys; row.step is the step, and a row without one is
-- left out. Raises in words.
function tensorboard.append(files, dir, stage, row)
  local step, values = math.tointeger(row.step), {}
  for key, v in pairs(row) do
    values[key] = key ~= "step" and type(v) == "number" and v or nil
  end
  if not step or next(values) == nil then
    return
  end
  local time, f, text = os.time() + 0.0, files[stage], ""
  if not f then
    local place = fs.join(dir, stage)
    check(fs.mkdir(place))
    -- readers take files in the order of their names
    local path = fs.join(place, ("events.out.tfevents.%010d.mocl.%06d"):format(math.tointeger(time), #check(fs.list(place))))
    f = { path = path, handle = check(io.open(path, "wb")) }
    text = tensorboard.version(time) .. tensorboard.start(time, step)
    files[stage] = f
  end
  local ok, message = f.handle:write(text, tensorboard.scalars(time, step, values))
  if ok then
    ok, message = f.handle:flush()
  end
  if not ok then
    error(f.path .. ": " .. message, 0)
  end
end

--- tensorboard.close(files): closes what append has opened.
function tensorboard.close(files)
  for stage, f in pairs(files) do
    files[stage] = nil
    f.handle:close()
  end
end

return tensorboard
