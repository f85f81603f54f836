-- event files for TensorBoard, read by a reader of its own; and the metrics of each stage as a table

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local Run = require "mocl.run"
local tensorboard = require "mocl.run.tensorboard"

-- ---- a reader, by other means than the writer ----

-- bit by bit
local function crc32c(text)
  local c = 0xFFFFFFFF
  for i = 1, #text do
    c = c ~ text:byte(i)
    for _ = 1, 8 do
      c = (c >> 1) ~ (0x82F63B78 * (c & 1))
    end
  end
  return ~c & 0xFFFFFFFF
end

local function unmasked(crc)
  local rotated = (crc - 0xA282EAD8) & 0xFFFFFFFF
  return (rotated >> 17 | rotated << 15) & 0xFFFFFFFF
end

-- The fields of a message: a list of {number, value}, the value an integer or bytes.
local function fields(text)
  local list, at = {}, 1
  local function varint()
    local n, shift = 0, 0
    repeat
      local b = text:byte(at)
      at, n, shift = at + 1, n | (b & 0x7F) << shift, shift + 7
    until b < 0x80
    return n
  end
  while at <= #text do
    local key, value = varint(), nil
    if key & 7 == 0 then
      value = varint()
    else
      local n = key & 7 == 1 and 8 or key & 7 == 5 and 4 or varint()
      value, at = text:sub(at, at + n - 1), at + n
      T.eq(#value, n)
    end
    list[#list + 1] = { key >> 3, value }
  end
  return list
end

-- The events of a file: {time=, step=, version=, start=, values = {tag = number}}
local function events(text)
  local list, at = {}, 1
  while at <= #text do
    local n, crc = string.unpack("<I8I4", text, at)
    T.eq(unmasked(crc), crc32c(text:sub(at, at + 7)), "the CRC of a length")
    local bytes = text:sub(at + 12, at + 11 + n)
    T.eq(#bytes, n)
    T.eq(unmasked((string.unpack("<I4", text, at + 12 + n))), crc32c(bytes), "the CRC of data")
    at = at + 16 + n
    local e = { values = {} }
    for _, f in ipairs(fields(bytes)) do
      if f[1] == 1 then
        e.time = string.unpack("<d", f[2])
      elseif f[1] == 2 then
        e.step = f[2]
      elseif f[1] == 3 then
        e.version = f[2]
      elseif f[1] == 7 then
        e.start = fields(f[2])[1][2] == 1
      elseif f[1] == 5 then
        for _, v in ipairs(fields(f[2])) do
          local value = {}
          for _, g in ipairs(fields(v[2])) do
            value[g[1]] = g[2]
          end
          e.values[value[1]] = string.unpack("<f", value[2])
        end
      end
    end
    list[#list + 1] = e
  end
  return list
end

T.test("CRC-32C, records and messages have the bytes that they are known by", function()
  T.eq(tensorboard.crc32c(("\0"):rep(32)), 0x8A9136AA) -- RFC 3720, appendix B.4
  T.eq(tensorboard.crc32c(("\xff"):rep(32)), 0x62A8AB43)
  T.eq(tensorboard.crc32c "123456789", 0xE3069283)
  local head = tensorboard.version(1700000000.5)
  T.eq(head:sub(1, 13), "\x18\0\0\0\0\0\0\0\xa3\x7fK\"\t") -- what each file of TensorFlow begins with
  T.eq(events(head), { { time = 1700000000.5, version = "brain.Event:2", values = {} } })
  T.eq(events(tensorboard.start(5.0, 300)), { { time = 5.0, step = 300, start = true, values = {} } })
  local got = events(tensorboard.scalars(5.0, 2 ^ 40 // 1, { b = .1, ["a/x"] = -1e30, zero = 0.0, nan = 0 / 0, inf = math.huge }))[1]
  T.eq({ got.step, got.values["a/x"], got.values.zero, got.values.inf }, { 2 ^ 40 // 1, (string.unpack("<f", string.pack("<f", -1e30))), 0.0, math.huge })
  T.near(got.values.b, .1, 1e-7)
  T.ok(got.values.nan ~= got.values.nan)
end)

local function open(dir, more)
  local cfg = { tensorboard = true, steps = 9 }
  return Run.open { recipe = "demo", cfg = cfg, out = dir, quiet = true, resume = more }
end

-- Steps of a stage up to `last`, with a checkpoint at step 4.
local function train(stage, last)
  local _, state = stage:latest()
  for step = (state and state.step or 0) + 1, last do
    stage:metrics { step = step, loss = 1.0 / step, n = step, share = step % 2 == 0 and 1 or 0 / 0, word = "x" }
    if step == 4 then
      stage:checkpoint(4, function() return true end)
    end
  end
end

-- The directory of a run with a stage that is finished, and one that stopped behind its checkpoint.
local function stopped_run()
  local dir = T.tmpdir() .. "/run"
  do
    local run <close> = open(dir)
    run:stage("base", function(stage) train(stage, 3) end)
    T.raises("stop", run.stage, run, "moc", function(stage)
      train(stage, 6)
      error("stop", 0)
    end)
  end
  return dir
end

T.test("a stage has files of its own; one that goes on begins a new one at its next step, and no file is changed", function()
  local dir = stopped_run()
  local place = dir .. "/tensorboard/moc"
  local first = fs.list(place)
  T.eq(#first, 1)
  T.ok(first[1]:find "^events%.out%.tfevents%.%d%d%d%d%d%d%d%d%d%d%.mocl%.000000$", first[1])
  local before = child.read(place .. "/" .. first[1])
  do
    local run <close> = open(dir, "auto")
    run:stage("base", function() error "again" end)
    run:stage("moc", function(stage) train(stage, 9) end)
  end
  local files = fs.list(place)
  table.sort(files)
  T.eq({ #files, files[1], child.read(place .. "/" .. files[1]) == before }, { 2, first[1], true })
  local function steps(file)
    local list = events(child.read(place .. "/" .. file))
    T.eq({ list[1].version, list[2].start }, { "brain.Event:2", true })
    local all = {}
    for i = 2, #list do
      all[i - 1] = list[i].step
    end
    return all, list
  end
  T.eq(steps(files[1]), { 1, 1, 2, 3, 4, 5, 6 })
  local all, list = steps(files[2])
  T.eq(all, { 5, 5, 6, 7, 8, 9 })
  T.eq({ list[3].values.n, list[3].values.word, list[3].values.step }, { 5.0, nil, nil })
  T.near(list[3].values.loss, .2, 1e-7)
  T.eq(#fs.list(dir .. "/tensorboard/base"), 1)
  T.eq(#events(child.read(dir .. "/tensorboard/base/" .. fs.list(dir .. "/tensorboard/base")[1])), 5)
end)

T.test("metrics of a stage are a table: all keys in each row, one type, and no row that is written again", function()
  local dir = stopped_run()
  T.eq(fs.list(dir .. "/metrics"), { "base.jsonl", "moc.jsonl" })
  assert(fs.write(dir .. "/metrics/gone.jsonl", "{}\n")) -- of a stage that no longer is
  local f = assert(io.open(dir .. "/metrics/base.jsonl", "ab")) -- what a kill leaves
  f:write '{"half'
  f:close()
  do
    local run <close> = open(dir, "auto")
    run:stage("moc", function(stage) train(stage, 9) end)
  end
  T.eq(fs.list(dir .. "/metrics"), { "base.jsonl", "moc.jsonl" })
  local by_stage = { base = "", moc = "" }
  for line in child.read(dir .. "/metrics.jsonl"):gmatch "[^\n]*\n" do
    local row = json.decode(line)
    by_stage[row.stage] = by_stage[row.stage] .. line
    T.eq({ math.type(row.step), math.type(row.n), math.type(row.share) }, { "integer", "float", row.step % 2 == 0 and "float" or nil })
  end
  for stage, text in pairs(by_stage) do
    T.eq(child.read(dir .. "/metrics/" .. stage .. ".jsonl"), text)
  end
  T.eq(select(2, by_stage.moc:gsub("\n", "")), 9)
end)

T.test("without the option there are none", function()
  local dir = T.tmpdir() .. "/run"
  do
    local run <close> = Run.open { recipe = "demo", cfg = {}, out = dir, quiet = true }
    run:stage("base", function(stage) train(stage, 3) end)
  end
  T.eq(fs.exists(dir .. "/tensorboard"), nil)
end)
