local T = require "t"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local tokenizer = require "mocl.tokenizer"

T.test("values decode to Lua", function()
  T.eq(json.decode('{"a": [1, 2.5, "x", true, false], "b": {"c": -3}}'),
    { a = { 1, 2.5, "x", true, false }, b = { c = -3 } })
  T.eq(json.decode("null"), json.null)
  T.eq(json.decode("[null]")[1], json.null)
  T.eq(json.decode('"\\u00e9\\ud834\\udd1e\\u0000x"'), "é\u{1D11E}\0x")
  T.eq(json.decode('{"a":1,"a":2}'), { a = 2 }) -- the last one counts
end)

T.test("integers and floats are kept apart", function()
  T.eq(math.type(json.decode("1")), "integer")
  T.eq(math.type(json.decode("1.0")), "float")
  T.eq(math.type(json.decode("1e2")), "float")
  T.eq(json.decode("9223372036854775807"), math.maxinteger)
  T.eq(json.decode("-9223372036854775808"), math.mininteger)
  T.eq(json.encode { 1, 1.0, -0.0, 1e300, 2 ^ 53, math.mininteger },
    "[1,1.0,-0.0,1e+300,9007199254740992.0,-9223372036854775808]")
end)

T.test("integers beyond 64 bits are floats, as in Lua, and numbers beyond doubles are infinite", function()
  local function as_lua(text)
    local want = load("return " .. text)()
    for _, where in ipairs { "%s", "[%s]", '{"a": {"b": [1, %s, "x"]}, "c": -7}', '{"1e999 \\" 99999999999999999999": %s}' } do
      local got = json.decode((where:format(text)))
      while type(got) == "table" do
        got = got.a or got.b or got[2] or got[1] or select(2, next(got))
      end
      T.eq({ math.type(got), got }, { "float", want }, text)
    end
  end
  for _, digits in ipairs { "9223372036854775808", "9223372036854775809", "18446744073709551616", "12345678901234567890123",
    "1000000000000000019884624838656", "9007199254740993000000", "99999999999999999999", ("9"):rep(308), ("9"):rep(309),
    "1" .. ("0"):rep(400), "1e309", "1.5E+400", "123.4e99999", "1797693134862315800" .. ("0"):rep(290) } do
    as_lua(digits)
    if digits ~= "9223372036854775808" then -- whose negative has 64 bits
      as_lua("-" .. digits)
    end
  end
  local x = 1 -- a walk through many integers: rounded as strtod rounds, whatever their length
  for i = 1, 1000 do
    x = x * 6364136223846793005 + 1442695040888963407
    local digits = ("%d%d"):format(x >> 1, i * 7919) .. ("7"):rep(i % 9)
    T.eq(json.decode(digits), #digits < 19 and math.tointeger(digits) or tonumber(digits .. ".0"), digits)
  end
  T.eq(json.decode "[9223372036854775807, -9223372036854775808, 9223372036854775808]",
    { math.maxinteger, math.mininteger, 2.0 ^ 63 })
  -- what stands for infinity inside is no number that the text itself may hold
  T.eq(json.decode "[9e307, 1e999, 9.0e306, -1e999, 9e305]", { 9e307, 1 / 0, 9e306, -1 / 0, 9e305 })
  T.eq(json.decode '{"n": 1e-999}', { n = 0.0 })
  -- places in messages are those of the text
  T.fails("^line 2 column 41: ", json.decode, '{"a":\n  1000000000000000019884624838656, "b": x}')
  for _, bad in ipairs { "01111111111111111111111", "[1e999", "11111111111111111111111x", "1e999 1", "--99999999999999999999", "1e999e9",
    '{"a": 1e999, "b"}', "99999999999999999999.", ".99999999999999999999", "+99999999999999999999" } do
    T.fails("line 1", json.decode, bad)
  end
  T.raises("infinity cannot be written", json.encode, json.decode "[1e999]")
end)

T.test("a byte order mark is skipped, UTF-16 is named", function()
  T.eq(json.decode '\xEF\xBB\xBF{"a": 1}', { a = 1 })
  T.eq(json.decode "\xEF\xBB\xBF[99999999999999999999]", { 1e20 })
  T.fails("line 1", json.decode, "\xEF\xBB\xBF")
  T.fails("line 1", json.decode, "\xEF\xBB{}")
  T.fails("line 1", json.decode, "{\xEF\xBB\xBF}") -- in front alone
  T.fails("line 1", json.decode, "\xEF\xBB\xBF\xEF\xBB\xBF{}")
  local function wide(text, low, high)
    return (text:gsub(".", function(c) return low .. c .. high end))
  end
  for _, text in ipairs { "\xFF\xFE" .. wide("{}", "", "\0"), "\xFE\xFF" .. wide("{}", "\0", ""), wide("[12]", "", "\0"), wide("[12]", "\0", "") } do
    T.fails("^the text is UTF%-16.*convert it: iconv %-f UTF%-16.* %-t UTF%-8", json.decode, text)
  end
  T.fails("the text is UTF%-32", json.decode, "\xFF\xFE\0\0{\0\0\0}\0\0\0")
  local path = T.tmpdir() .. "/a.json" -- every reader of files goes the same way: options, tokenizers
  local spec = { { "steps", 1, "steps" } }
  assert(fs.write(path, "\xEF\xBB\xBF" .. '{"steps": 7}'))
  T.eq(config.parse(spec, { "@" .. path }, { recipe = "x" }).steps, 7)
  assert(tokenizer.train({}, { vocab_size = 258 }):save(path))
  assert(fs.write(path, "\xEF\xBB\xBF" .. fs.read(path)))
  T.eq(assert(tokenizer.load(path)):vocab_size(), 258)
  assert(fs.write(path, "\xFF\xFE{\0}\0"))
  T.fails("a.json: the text is UTF%-16", json.load, path)
  T.fails("a.json:.*the text is UTF%-16", tokenizer.load, path)
end)

T.test("floats are written short and read back equal", function()
  T.eq(json.encode { 0.1, 1 / 3, 1e-7, 123456.789 }, "[0.1,0.3333333333333333,1e-07,123456.789]")
  local x = 0.5
  for _ = 1, 2000 do -- a walk through many exponents and mantissas
    x = x * 1.37 % 1 + 1e-12
    for _, v in ipairs { x, x * 1e-300, x * 1e300, -x * 2 ^ 60, 1 / x, x * 5e-324 } do
      local back = json.decode(json.encode(v))
      T.ok(back == v and math.type(back) == "float", string.format("%.17g", v))
    end
  end
end)

T.test("errors say line and column", function()
  T.fails("^line 3 column 8: ", json.decode, '{\n  "a": 1,\n  "b": x\n}')
  T.fails("^line 1 column 1: ", json.decode, "]")
  T.fails("^line 2 column 2: zero byte", json.decode, "\n1\0")
  T.fails("end of file expected", json.decode, "[1] 2")
  T.fails("line 1", json.decode, "")
  T.raises("bad argument #1 to .*decode", json.decode, {})
end)

T.test("objects are sorted, arrays are recognized", function()
  T.eq(json.encode { b = 1, a = 2, ["a b"] = 3, B = 4 }, '{"B":4,"a":2,"a b":3,"b":1}')
  T.eq(json.encode {}, "{}")
  T.eq(json.encode(json.array {}), "[]")
  T.eq(json.encode(json.array()), "[]")
  T.eq(json.encode(json.decode('{"a":[],"b":{},"c":null}')), '{"a":[],"b":{},"c":null}')
  T.eq(json.encode { { 1, 2 }, { x = json.null } }, '[[1,2],{"x":null}]')
  local unsorted = json.decode(json.encode({ b = 1, a = 2 }, { sort_keys = false }))
  T.eq(unsorted, { a = 2, b = 1 })
  local shared = { 1 }
  T.eq(json.encode { shared, shared }, "[[1],[1]]") -- twice is no cycle
end)

T.test("indent keeps rows of numbers on one line", function()
  local value = { rewards = { { 0, 1.5 }, { 2, json.null } }, objectives = { "humor", "helpful" },
    empty = json.array {}, none = {}, sft = { rewards = { 1, 2 } } }
  T.eq(json.encode(value, { indent = 2 }), [[
{
  "empty": [],
  "none": {},
  "objectives": ["humor", "helpful"],
  "rewards": [
    [0, 1.5],
    [2, null]
  ],
  "sft": {
    "rewards": [1, 2]
  }
}]])
  local long = json.encode({ ("x"):rep(50), ("y"):rep(50) }, { indent = 2 })
  T.eq(select(2, long:gsub("\n", "")), 3)
  T.raises("indent 9 is not in 0..8", json.encode, 1, { indent = 9 })
end)

T.test("strings", function()
  T.eq(json.encode 'a"\\/\b\f\n\r\t\0\x1f\x7fé\u{10FFFF}',
    '"a\\"\\\\/\\b\\f\\n\\r\\t\\u0000\\u001f\x7fé\u{10FFFF}"')
  T.raises("json.encode: text: byte 3 of the string is not UTF%-8 .*replace_invalid",
    json.encode, { text = "ab\xFFc" })
  T.raises("byte 1 ", json.encode, "\xED\xA0\x80")
  T.eq(json.encode("ab\xFFc\xE2\x82", { replace_invalid = true }), '"ab\u{FFFD}c\u{FFFD}"')
  T.eq(json.decode(json.encode("\xF0\x9F\x98", { replace_invalid = true })), "\u{FFFD}")
end)

T.test("what JSON cannot hold raises and says where", function()
  T.raises("json.encode: kl: nan cannot be written", json.encode, { kl = 0 / 0 })
  T.raises("json.encode: rewards%[2%]%[1%]: infinity", json.encode, { rewards = { {}, { 1 / 0 } } })
  T.raises("json.encode: a.b: a function cannot be written", json.encode, { a = { b = print } })
  T.raises("json.encode: a thread cannot", json.encode, coroutine.create(print))
  T.raises("json.encode: a userdata cannot", json.encode, io.stdout)
  local cycle = { x = {} }
  cycle.x.y = cycle
  T.raises("json.encode: x.y: the table contains itself", json.encode, cycle)
  T.raises("mixes string and integer keys", json.encode, { 1, a = 2 })
  T.raises("list: the key 3 is neither", json.encode, { list = { [1] = 1, [3] = 3 } })
  T.raises("the key true is neither", json.encode, { [true] = 1 })
  T.raises("the key 1.5 is neither", json.encode, { [1.5] = 1 })
  T.raises("holes", json.encode, { 1, nil, 3 })
  T.raises("an array has string keys", json.encode, json.array { a = 1 })
  T.raises("unknown option 'indnt' %(did you mean 'indent'", json.encode, 1, { indnt = 2 })
  T.raises("bad argument #1", json.encode)
  -- the error has the position of the caller, and nothing is broken after it
  T.raises("^[^:]*test_json.lua:%d+: json.encode", function()
    return (json.encode(0 / 0))
  end)
  T.eq(json.encode(cycle.x.y == cycle), "true")
end)

T.test("deep nesting is refused, not fatal", function()
  local deep = {}
  local at = deep
  for _ = 1, 5000 do
    at[1] = {}
    at = at[1]
  end
  T.raises("json.encode: %.%.%.%[1%].* nested more than 1000 deep", json.encode, deep)
  T.fails("maximum parsing depth", json.decode, ("["):rep(100000))
  T.fails("maximum parsing depth", json.decode, ('{"a":'):rep(100000))
  local text = ("["):rep(2000) .. ("]"):rep(2000)
  T.ok(json.decode(text))
  text = ("["):rep(900) .. ("]"):rep(900)
  T.eq(json.encode(json.decode(text)), text)
  T.eq(coroutine.wrap(function()
    return json.encode(json.decode(text))
  end)(), text)
end)

T.test("load and save", function()
  local dir = T.tmpdir()
  local path = dir .. "/a.json"
  T.eq(json.save(path, { b = { 1, 2 }, a = "x" }, { indent = 2 }), true)
  T.eq(fs.read(path), '{\n  "a": "x",\n  "b": [1, 2]\n}\n')
  T.eq(json.load(path), { a = "x", b = { 1, 2 } })
  T.raises("nan", json.save, path, { 0 / 0 })
  T.eq(json.load(path).a, "x") -- the old file stays
  fs.write(path, '{"a": 1,\n"b"}')
  T.fails("a.json: line 2 column 4: ", json.load, path)
  T.eq(select(3, json.load(path)), "FORMAT")
  T.fails("none.json: No such file", json.load, dir .. "/none.json")
  T.eq(select(3, json.load(dir .. "/none.json")), "IO")
  T.fails("No such file", json.save, dir .. "/no/x.json", 1)
end)

-- Files jansson treats otherwise than the suite asks, and why that is accepted.
local EXCEPTIONS = {
  ["y_object_escaped_null_in_key.json"] = "a NUL in a key cannot be held by its objects",
}

T.test("JSONTestSuite", function()
  local dir = fs.dirname(T.shared "conformance/json/test_parsing/y_array_empty.json")
  local accepted, rejected, either = 0, 0, 0
  for _, name in ipairs(fs.list(dir)) do
    local kind = name:sub(1, 2)
    local value, err = json.decode(fs.read(fs.join(dir, name)))
    if EXCEPTIONS[name] then
      T.ok((value == nil) == (kind == "y_"), name .. " is an exception no more")
    elseif kind == "y_" then
      T.ok(value ~= nil, name .. ": " .. tostring(err))
      accepted = accepted + 1
      local again = json.decode(json.encode(value))
      T.eq(again, value, name)
    elseif kind == "n_" then
      T.ok(value == nil and type(err) == "string", name .. " was accepted")
      rejected = rejected + 1
    else
      either = either + 1 -- up to the parser: it must only return
    end
  end
  T.eq({ accepted, rejected, either }, { 94, 188, 35 })
end)
