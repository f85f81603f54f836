--- tokenizer_speed: mocl's side of tests/bench/tokenizer_speed.py, which runs it.
-- arg: folder of the tokenizer, documents (JSON), rounds. Prints a line of JSON: the fastest CPU seconds of each measure,
-- and a sum over all ids, which must be the peer's.

local fs = require "mocl.fs"
local json = require "mocl.json"
local tokenizer = require "mocl.tokenizer"

local tok = assert(tokenizer.load(arg[1]))
local documents = assert(json.decode(assert(fs.read(arg[2]))))
local text, rounds = table.concat(documents), tonumber(arg[3])

local function fastest(f)
  local best = math.huge
  for _ = 1, rounds do
    collectgarbage()
    local start = os.clock()
    f()
    best = math.min(best, os.clock() - start)
  end
  return best
end

local ids, whole = tok:encode_batch(documents), tok:encode(text)
local sum, count = 0, 0
for _, list in ipairs(ids) do
  for i, id in ipairs(list) do
    sum = (sum * 31 + id + i) % 2147483647
  end
  count = count + #list
end
print(json.encode {
  count = count, sum = sum,
  encode = fastest(function() tok:encode_batch(documents) end),
  encode_whole = fastest(function() tok:encode(text) end),
  decode = fastest(function()
    for _, list in ipairs(ids) do
      tok:decode(list)
    end
  end),
  decode_whole = fastest(function() tok:decode(whole) end),
})
