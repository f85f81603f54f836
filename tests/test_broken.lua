-- broken: readers of files, given files with bytes changed, cut, put in, taken out or moved. Each answers with a value
-- or with nil and "path: reason"; nothing else, and never with more memory than the file accounts for. The mutants are
-- the same in every run: SEED and their number give the i-th. A few hundred per reader; thousands with MOCL_SLOW.

local T = require "t"
local checkpoint = require "mocl.run.checkpoint"
local config = require "mocl.run.config"
local data = require "mocl.data"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local rng = require "mocl.rng"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local SEED = 1
local COUNT = T.slow and 4000 or 200

-- pieces that mean something to one format or another
local SPICE = { "\0", "\n", "\r\n", '"', "\\", "{", "}", "[", "]", ",", ":", "\\u0000", "\\ud800", "\xff", "\xc3", "-", "1e999", "-1",
  "18446744073709551616", "9223372036854775807", "4294967296", "null", "true", "{}", "[]", '""', "__metadata__", "data_offsets",
  "F32", "I64", ("["):rep(3000), ("x"):rep(5000) }

local function mutate(text, r)
  for _ = 1, r:integer(1, 3) do
    local n = #text
    local at, kind = r:integer(1, n + 1), r:integer(1, 8)
    local length = math.min(n - at + 1, 1 << r:integer(0, 6))
    if kind == 1 and at <= n then -- a bit
      text = text:sub(1, at - 1) .. string.char(text:byte(at) ~ (1 << r:integer(0, 7))) .. text:sub(at + 1)
    elseif kind == 2 and at <= n then -- a byte
      text = text:sub(1, at - 1) .. string.char(r:integer(0, 255)) .. text:sub(at + 1)
    elseif kind == 3 then -- cut
      text = text:sub(1, at - 1)
    elseif kind == 4 then -- taken out
      text = text:sub(1, at - 1) .. text:sub(at + length)
    elseif kind == 5 then -- there twice
      text = text:sub(1, at + length - 1) .. text:sub(at)
    elseif kind == 6 then -- from elsewhere
      local from = r:integer(1, n + 1)
      text = text:sub(1, at - 1) .. text:sub(from, from + length - 1) .. text:sub(at + length)
    elseif kind == 7 then -- a piece with a meaning
      text = text:sub(1, at - 1) .. SPICE[r:integer(1, #SPICE)] .. text:sub(at)
    else -- another number in place of one
      local from, to = text:find("%d+", at)
      if from then
        text = text:sub(1, from - 1) .. SPICE[r:integer(16, 21)] .. text:sub(to + 1)
      end
    end
    if text == "" then
      break
    end
  end
  return text
end

-- A message must be made for people and name the file, or the directory it is in. Options are a program in Lua, which
-- may tell its own errors.
local function check_message(message, path, label)
  T.eq(type(message), "string", label)
  for _, bad in ipairs { "internal", "attempt to", "bad argument", "stack overflow", "not enough memory", "assertion" } do
    T.ok(not message:find(bad, 1, true) or path:find "%.lua$", label .. ": " .. message)
  end
  T.ok(message:find(path, 1, true) or message:find(path:match "^(.*)/", 1, true), label .. " names no file: " .. message)
end

-- fs.write syncs the disk, thousands of times
local function write(path, text)
  local f <close> = assert(io.open(path, "wb"))
  assert(f:write(text))
end

-- read(path) -> value | nil, message; it may raise "path: reason" where raises is set
local function broken(name, path, read, raises)
  local whole = assert(fs.read(path))
  T.ok(read(path) ~= nil, "the file as it is")
  local refused, before = 0, tensor.memory().live
  for i = 1, COUNT do
    local r = rng.new(SEED, name .. " " .. i)
    local mutant = mutate(whole, r)
    write(path, mutant)
    local ok, value, message = pcall(read, path)
    local label = ("%s %d (%d bytes)"):format(name, i, #mutant)
    if not ok then
      T.ok(raises, label .. " raised " .. tostring(value))
      check_message(value, path, label)
      refused = refused + 1
    elseif value == nil or value == false then
      check_message(message, path, label)
      refused = refused + 1
    end
    value = nil
    if i % 50 == 0 then
      collectgarbage()
    end
    T.ok(tensor.memory().live - before < 64 << 20, label .. " took memory")
  end
  T.ok(refused > COUNT // 10, name .. ": " .. refused .. " refused")
  assert(fs.write(path, whole))
end

local function test(name, f)
  T.test(name .. ", broken", function()
    f(T.tmpdir())
  end)
end

test("safetensors", function(dir)
  local path = dir .. "/a.safetensors"
  assert(safetensors.save(path, { a = tensor.ones { 2, 3 }, b = tensor.zeros { 4 }, ["model.c"] = tensor.ones { 1, 1 } }, { k = "v" }))
  broken("safetensors", path, safetensors.load)
end)

test("a model's directory", function(dir)
  assert(transformer.save(small.model { config = { num_hidden_layers = 1 } }, dir))
  local function load()
    return transformer.load(dir)
  end
  broken("config.json", dir .. "/config.json", load)
end)

test("an adapter's directory", function(dir)
  local model = small.adapter(small.model { config = { num_hidden_layers = 1 } })
  assert(lora.save(model, dir))
  broken("adapter_config.json", dir .. "/adapter_config.json", function()
    return lora.load(model, dir)
  end)
end)

test("tokenizer.json", function(dir)
  local path = dir .. "/tokenizer.json"
  local tok = tokenizer.train({ "the cat sat on the mat, the mat sat on the cat; 1234 and more" }, { vocab_size = 300,
    special_tokens = { "<s>", "</s>" } })
  assert(tok:save(path))
  broken("tokenizer", path, function(p)
    local t, message = tokenizer.load(p)
    if not t then
      return nil, message
    end
    -- one that is accepted must work, or say what it lacks
    local ok, ids = pcall(t.encode, t, "the cat 12 \xff\xc3 sat", { bos = t:bos_id() ~= nil })
    if ok then
      t:decode(ids)
    else
      T.ok(ids:find "encode: the vocabulary has no token for ", ids)
    end
    t:release()
    return true
  end)
end)

test("the files beside a tokenizer", function(dir)
  assert(tokenizer.train({ "the cat sat" }, { vocab_size = 258 }):save(dir .. "/tokenizer.json"))
  local flags = '"lstrip": true, "rstrip": false, "normalized": false, "special": true'
  for name, text in pairs {
    ["tokenizer_config.json"] = ('{"added_tokens_decoder": {"0": {"content": "<s>", %s}, "258": {"content": "<p>", %s}}, ' ..
      '"bos_token": "<s>", "add_bos_token": true, "extra_special_tokens": ["<q>"], "model_max_length": 1e30}'):format(flags, flags),
    ["special_tokens_map.json"] = '{"bos_token": {"content": "<s>", "lstrip": false}, "additional_special_tokens": ["<p>", "<q>"]}',
    ["added_tokens.json"] = '{"<p>": 258, "<q>": 259}',
  } do
    assert(fs.write(dir .. "/" .. name, text))
    broken(name, dir .. "/" .. name, function()
      local t, message = tokenizer.load(dir)
      if t then
        t:decode(t:encode("the <p> cat<q>", { add_special_tokens = true }))
        t:release()
      end
      return t, message
    end)
    assert(fs.remove(dir .. "/" .. name))
  end
end)

test("JSON and the state of a checkpoint", function(dir)
  local path = checkpoint.write(dir, 3, function(d)
    return fs.write(d .. "/w", "1")
  end, { step = 3, offsets = { metrics = 1, samples = 2 }, prompts = { order = { 1, 2, 3 }, dealt = 1 }, x = -0.5e-7, s = "ä\u{1F600}" }, 2)
  broken("json", path .. "/state.json", json.load)
  local function newest(p)
    local state = select(2, checkpoint.newest(dir))
    return state, p
  end
  local function summed(p) -- as if it had been written so
    write(path .. "/SHA256SUMS", digest.text { ["state.json"] = fs.sha256(p) })
    return newest(p)
  end
  broken("state", path .. "/state.json", summed, true)
  summed(path .. "/state.json")
  broken("sums", path .. "/SHA256SUMS", newest, true)
end)

test("lines of JSON, plain and compressed", function(dir)
  local path, rows = dir .. "/a.jsonl", {}
  for i = 1, 30 do
    rows[i] = { n = i, text = ("line %d äöü\t\"quoted\""):format(i), list = { i, i / 3 } }
  end
  assert(data.write_jsonl(path, rows))
  broken("jsonl", path, data.read_jsonl)
  if not os.execute("gzip -k '" .. path .. "' 2>/dev/null") then
    T.skip("no gzip")
  end
  broken("jsonl.gz", path .. ".gz", data.read_jsonl)
end)

test("CSV", function(dir)
  local path = dir .. "/a.csv"
  assert(data.write_csv(path, { "a", "b", "c" }, { { "1", "x,y", "z" }, { "2", 'say "so"', "two\nlines" }, { "3", "", "ü" } }))
  broken("csv", path, data.read_csv)
end)

test("options", function(dir)
  local path = dir .. "/config.lua"
  assert(fs.write(path, config.dump { lr = 0.5, name = "x\ny", list = { 1, 2 }, ppo = { steps = 3, clip = true } }))
  broken("config.lua", path, config.load)
end)
