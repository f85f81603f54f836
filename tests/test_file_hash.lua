-- fs.sha256, and files that are hashed as they are read and written, so that none is read twice (runtime/io/file_hash.c)

local T = require "t"
local data = require "mocl.data"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"

-- Bytes that this process has asked of read calls; f is called in between.
local function bytes_read(f)
  local function total()
    local text = fs.read "/proc/self/io"
    return text and tonumber(text:match "rchar: (%d+)") or T.skip "no /proc/self/io"
  end
  local before = total()
  f()
  return total() - before
end

-- The files must be older than the tick of the clock in which they changed.
local function wait()
  os.execute "sleep 0.03"
end

local SIZE = 1 << 20

T.test("a file whose hash is known is not read again", function()
  local dir = T.tmpdir()
  local path, copy = dir .. "/x", dir .. "/copy"
  local text = ("a"):rep(SIZE)
  assert(fs.write(path, text))
  wait()
  local first
  T.ok(bytes_read(function() first = fs.sha256(path) end) >= SIZE)
  T.ok(bytes_read(function() T.eq(fs.sha256(path), first) end) < SIZE / 8)
  -- another file of the same size under this name
  assert(fs.write(copy, ("b"):rep(SIZE)))
  wait()
  local other = fs.sha256(copy)
  T.ok(first ~= other)
  assert(fs.rename(copy, path))
  T.eq(fs.sha256(path), other)
end)

T.test("a file that changes in place has another hash at once, whatever the step of the clock", function()
  local path = T.tmpdir() .. "/x"
  local wanted = { [0] = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb", -- "a"
    "3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d" } -- "b"
  assert(fs.write(path, "a"))
  wait()
  fs.hash_in_passing(true)
  for i = 0, 150 do
    if i % 3 == 0 then
      assert(fs.write(path, i % 2 == 0 and "a" or "b"))
    else
      local f <close> = assert(io.open(path, "r+b"))
      assert(f:write(i % 2 == 0 and "a" or "b"))
    end
    T.eq(fs.sha256(path), wanted[i % 2], i)
  end
  fs.hash_in_passing(false)
end)

T.test("files are hashed as they are read and written", function()
  local dir = T.tmpdir()
  local function known(path, f, size)
    fs.hash_in_passing(true)
    f(path)
    fs.hash_in_passing(false)
    local hash
    T.ok(bytes_read(function() hash = fs.sha256(path) end) < size / 8, path)
    os.execute(("cp %s %s/copy"):format(path, dir)) -- another file, which must be read
    T.eq(hash, fs.sha256(dir .. "/copy"), path)
  end
  local large = 9 << 20 -- so large that the writer waits for the clock
  known(dir .. "/written", function(path) assert(fs.write(path, ("0123456789abcdef"):rep(large // 16))) end, large)
  local t = tensor.zeros { large // 4 }
  known(dir .. "/written.safetensors", function(path) assert(safetensors.save(path, { t = t, u = t:clone() })) end, 2 * large)

  local function older(name, write)
    local path = dir .. "/" .. name
    write(path)
    wait()
    return path
  end
  known(older("text", function(path) assert(fs.write(path, ("line\n"):rep(SIZE // 5))) end), function(path)
    for _ in data.lines(path) do end
  end, SIZE)
  local bytes = rng.new(1, "bytes")
  known(older("text.gz", function(path)
    local list = {}
    for i = 1, 100000 do
      list[i] = bytes:integer(1, 1 << 40)
    end
    assert(fs.write(dir .. "/text", table.concat(list, "\n")))
    os.execute(("gzip -c %s/text > %s"):format(dir, path))
  end), function(path)
    for _ in data.lines(path) do end
  end, 400000)
  local both = older("x.safetensors", function(path)
    assert(safetensors.save(path, { a = tensor.zeros { SIZE // 8 }, b = tensor.zeros { SIZE // 8 } }))
  end)
  known(both, function(path) assert(safetensors.load(path, { only = function(name) return name == "b" end })) end, SIZE)
end)

T.test("what was not read or written whole is not taken for known", function()
  local dir = T.tmpdir()
  local path = dir .. "/text"
  assert(fs.write(path, ("line\n"):rep(SIZE // 5)))
  wait()
  local want = fs.sha256(path)
  os.execute(("cp %s %s.again"):format(path, path))
  wait()
  fs.hash_in_passing(true)
  for _ in data.lines(path .. ".again") do break end
  T.fails("not a safetensors file", safetensors.load, path .. ".again")
  fs.hash_in_passing(false)
  T.eq(fs.sha256(path .. ".again"), want)
  T.raises("boolean expected", fs.hash_in_passing)
end)

T.test("fs.copy: the bytes, hashed on both sides; a failure leaves nothing", function()
  local dir = T.tmpdir()
  local from, to = dir .. "/from", dir .. "/to"
  assert(fs.write(from, ("0123456789abcdef"):rep(9 << 16)))
  wait()
  digest.in_passing(function() assert(fs.copy(from, to)) end)
  local a, b
  T.ok(bytes_read(function() a, b = fs.sha256(from), fs.sha256(to) end) < SIZE)
  T.eq(a, b)
  T.ok(assert(fs.read(from)) == assert(fs.read(to)))
  T.fails("none: No such file or directory", fs.copy, dir .. "/none", dir .. "/new")
  T.fails("Is a directory", fs.copy, dir, dir .. "/new")
  T.fails("no/such: No such file or directory", fs.copy, from, dir .. "/no/such")
  T.eq(fs.list(dir), { "from", "to" })
end)

T.test("nothing is hashed in passing after a failure", function()
  local path = T.tmpdir() .. "/x"
  T.raises("^stopped$", digest.in_passing, error, "stopped", 0)
  T.eq({ digest.in_passing(function(...) return ..., nil, 3 end, 1) }, { 1, nil, 3 })
  local size = 9 << 20
  assert(fs.write(path, ("x"):rep(size)))
  T.ok(bytes_read(function() fs.sha256(path) end) >= size)
end)
