-- mocl.keys: files of other programs, read key by key

local T = require "t"
local fs = require "mocl.fs"
local json = require "mocl.json"
local keys = require "mocl.keys"

local LISTS = {
  honoured = { "vocab_size", "rope_theta" },
  neutral = { mlp_bias = { false }, hidden_act = { "silu", "swish" }, scaling = { keys.EMPTY }, factor = { 1 }, quantized = {} },
  without_effect = { use_cache = "how generate works" },
}

T.test("honoured keys, keys without effect and neutral values pass", function()
  local function passes(text)
    T.eq(keys.check("c.json", json.decode(text), LISTS), true, text)
  end
  passes [[{"vocab_size": 3, "rope_theta": 1, "use_cache": false, "use_cache2": null}]]
  passes [[{"mlp_bias": false, "hidden_act": "swish", "scaling": {}, "factor": 1.0}]]
  passes [[{"mlp_bias": null, "hidden_act": "silu", "scaling": [], "factor": 1}]]
  passes "{}"
end)

T.test("any other value and any other key is refused by name", function()
  local function fails(text, pattern, prefix)
    T.fails(pattern, keys.check, "c.json", json.decode(text), LISTS, prefix)
    T.eq(select(3, keys.check("c.json", json.decode(text), LISTS, prefix)), "FORMAT")
  end
  fails('{"mlp_bias": true}', "^c.json: mlp_bias = true is not supported %(false%)")
  fails('{"hidden_act": "gelu"}', 'hidden_act = gelu is not supported %(silu, swish%)')
  fails('{"scaling": {"type": "x"}}', 'scaling = {"type":"x"} is not supported %(empty%)')
  fails('{"quantized": {}}', 'quantized = {} is not supported %(null%)')
  fails('{"factor": "1"}', 'factor = "1" is not supported %(1%)')
  fails('{"factor": 2}', "^c.json: a.factor = 2 is", "a.")
  fails('{"attention_multiplier": 0.5}', "attention_multiplier = 0.5 is not supported %(mocl does not know this key; take it out")
  fails('{"new_flag": false}', "new_flag = false is not supported")
  fails('{"z": 1, "b": 2, "k": 3}', "b = 2 is")
  fails(json.encode { long = ("x"):rep(200) }, 'long = x+%.%.%. is not')
end)

T.test("strings in messages have no quotes where they can be nothing else", function()
  for value, text in pairs { gelu = "gelu", ["1"] = '"1"', ["true"] = '"true"', [""] = '""', ["a\nb"] = "a\\nb", ["\xFF"] = "\xFF" } do
    T.eq(keys.show(value), text)
  end
  T.eq(keys.show(1 / 0), "inf")
  T.eq(keys.show { a = json.null }, '{"a":null}')
end)

T.test("load takes objects alone", function()
  local path = T.tmpdir() .. "/c.json"
  local function of(text)
    assert(fs.write(path, text))
    return keys.load(path)
  end
  T.eq(of '{"a": 1}', { a = 1 })
  for text, pattern in pairs { ["[]"] = "a list", ["[1]"] = "a list", ["1"] = "not a JSON object", ["null"] = "not a JSON object",
    ["{"] = "line 1 column", [""] = "line 1 column" } do
    T.fails("c.json: " .. pattern, of, text)
    T.eq(select(3, of(text)), "FORMAT")
  end
  T.fails("none.json: No such file", keys.load, "none.json")
  T.eq(select(3, keys.load "none.json"), "IO")
end)
