local T = require "t"
local core = require "mocl.data.core"
local data = require "mocl.data"
local fs = require "mocl.fs"
local json = require "mocl.json"

local function file(name, text)
  local path = fs.join(T.tmpdir(), name)
  assert(fs.write(path, text))
  return path
end

-- the same bytes through gzip(1)
local function gz(name, text)
  local path = file(name, text)
  if not os.execute("gzip -n '" .. path .. "' 2>/dev/null") then
    T.skip "no gzip program"
  end
  return path .. ".gz"
end

local function all(...)
  local out = {}
  for value, line in ... do
    out[#out + 1] = { line, value }
  end
  return out
end

local function drain(...)
  for _ in ... do -- for the errors on the way
  end
end

local function hash(text)
  return fs.sha256(file("hash", text))
end

local ANSWER = "\n\nAssistant:"

T.test("lines of plain and gzip'd files", function()
  local text = "\xEF\xBB\xBFone\r\n\nthree\0\xFF\nlast"
  local want = { { 1, "one" }, { 2, "" }, { 3, "three\0\xFF" }, { 4, "last" } }
  T.eq(all(data.lines(file("a", text))), want)
  T.eq(all(data.lines(gz("a.txt", text))), want)
  -- the name does not count, the bytes do
  local renamed = fs.join(T.tmpdir(), "plain")
  assert(fs.rename(gz("a", text), renamed))
  T.eq(all(data.lines(renamed)), want)
  T.eq(all(data.lines(file("empty", ""))), {})
  T.eq(all(data.lines(file("a", "\n"))), { { 1, "" } })
  local two = file("two.gz", fs.read(gz("a", "1\n2")) .. fs.read(gz("b", "3\n")))
  T.eq(all(data.lines(two)), { { 1, "1" }, { 2, "23" } }) -- two members are one text
  T.raises("none: No such file", data.lines, "/tmp/none")
  T.raises("^/tmp: Is a directory", data.lines, "/tmp")
end)

-- text in units of `size` bytes
local function wide(text, size, order)
  local out = {}
  for _, c in utf8.codes(text) do
    out[#out + 1] = (order .. "I" .. size):pack(c)
  end
  return table.concat(out)
end

T.test("UTF-16 and UTF-32 are told by name, with and without a mark, plain and gzip'd; the mark of UTF-8 is skipped", function()
  local text = '[{"a": 1}]\n{"a": "\u{E9}"}\n'
  for _, case in ipairs { { 2, "<", "UTF-16", "LE" }, { 2, ">", "UTF-16", "BE" }, { 4, "<", "UTF-32", "LE" }, { 4, ">", "UTF-32", "BE" } } do
    local size, order, name, end_ = table.unpack(case)
    for mark, told in pairs {
      ["\u{FEFF}"] = ("the text is %s, as its byte order mark says; convert it: iconv -f %s -t UTF-8"):format(name, name),
      [""] = ("the text is %s without a mark; convert it: iconv -f %s%s -t UTF-8"):format(name, name, end_),
    } do
      local bytes = wide(mark .. text, size, order)
      local path, packed = file("w.txt", bytes), gz("z.txt", bytes)
      for _, p in ipairs { path, packed } do
        local want = p .. ":1: " .. told
        for _, read in ipairs { data.read_jsonl, data.read_csv, data.hh_rlhf, data.humor_csv, data.metaaligner_csv } do
          T.eq({ read(p) }, { nil, want, "FORMAT" })
        end
        T.eq(select(2, pcall(function()
          drain(data.lines(p))
        end)), want)
      end
      T.eq({ json.load(path) }, { nil, path .. ": " .. told, "FORMAT" })
      T.eq({ data.dpo_json(path) }, { nil, path .. ": " .. told, "FORMAT" })
      T.eq({ json.decode(bytes) }, { nil, told })
      T.eq({ core.mark(bytes) }, { nil, told })
    end
  end
  -- the marks alone
  for _, mark in ipairs { "\xFF\xFE", "\xFE\xFF" } do
    T.raises("x:1: the text is UTF%-16, as", function() drain(data.lines(file("x", mark))) end)
  end
  T.raises("x:1: the text is UTF%-32, as", function() drain(data.lines(file("x", "\xFF\xFE\0\0"))) end)
  -- UTF-8 with its mark
  T.eq(data.read_jsonl(file("a", "\u{FEFF}[1]\n[2]")), { { 1 }, { 2 } })
  T.eq(data.read_csv(gz("a", "\u{FEFF}a,b\n1,2\n")), { { a = "1", b = "2" } })
  T.eq(data.read_csv(file("a", '\u{FEFF}"a",b\n1,2\n')), { { a = "1", b = "2" } })
  T.eq(json.load(file("a", "\u{FEFF}[1]")), { 1 })
  T.eq(all(data.lines(file("a", "\u{FEFF}"))), {})
  T.eq({ core.mark "\u{FEFF}x", core.mark "x", core.mark "" }, { 3, 0, 0 })
  -- bytes that are no such text are handed on as before
  for _, bytes in ipairs { "a\0bcdefgh", "\0abcdefgh", "\xFFab", "a\0\0b\0\0c\0\0d\0\0", "\xE9\0\xE9\0\xE9\0\xE9\0" } do
    T.eq(all(data.lines(file("a", bytes))), { { 1, bytes } })
  end
end)

T.test("mocl tokenize skips the mark of UTF-8 and tells UTF-16", function()
  local child, tokenizer = require "child", require "mocl.tokenizer"
  local tok = T.tmpdir() .. "/tokenizer.json"
  assert(tokenizer.train({ "one two" }, { vocab_size = 260 }):save(tok))
  local function ids(text, whole)
    return child.mocl { "tokenize", "tokenizer=" .. tok, "file=" .. file("t.txt", text), "whole=" .. whole }
  end
  for _, whole in ipairs { "true", "false" } do
    T.eq(ids("\u{FEFF}one\ntwo\n", whole), (ids("one\ntwo\n", whole)))
    local out, err, status = ids(wide("\u{FEFF}one\n", 2, "<"), whole)
    T.eq({ out, status }, { "", 1 })
    T.ok(err:find("t.txt: the text is UTF-16, as its byte order mark says; convert it: iconv", 1, true), err)
  end
end)

T.test("a damaged gzip file names file and line", function()
  local parts = {}
  for i = 1, 20000 do
    parts[i] = ("%d %d"):format(i, i * i % 7919)
  end
  local whole = fs.read(gz("a", table.concat(parts, "\n") .. "\n"))
  for _, share in ipairs { 0.5, 0.9, 0.9999 } do
    local cut = file("cut.gz", whole:sub(1, math.floor(#whole * share)))
    local seen = 0
    local ok, err = pcall(function()
      for line, n in data.lines(cut) do
        T.eq(line, parts[n])
        seen = n
      end
    end)
    T.ok(not ok)
    T.eq(err, ("%s:%d: gzip data ends too early: the file is cut"):format(cut, seen + 1))
  end
  T.raises("cut.gz:1: gzip data ends too early", function()
    drain(data.lines(file("cut.gz", whole:sub(1, 5))))
  end)
  local bad = file("bad.gz", whole:sub(1, 5000) .. ("\0"):rep(200) .. whole:sub(5201))
  T.raises("bad.gz:%d+: gzip data is damaged", function()
    drain(data.lines(bad))
  end)
  T.fails("bad.gz:%d+: gzip data is damaged", data.read_jsonl, file("bad.gz",
    fs.read(gz("a", '{"a":1}\n')):gsub("...........$", "xxxxxxxxxxx")))
end)

T.test("jsonl", function()
  local path = file("a.jsonl", '{"a":1}\n\n  \r\n[2]\nfalse\n')
  T.eq(all(data.jsonl(path)), { { 1, { a = 1 } }, { 4, { 2 } }, { 5, false } })
  T.eq(data.read_jsonl(path), { { a = 1 }, { 2 }, false })
  T.eq(data.read_jsonl(path, { limit = 1 }), { { a = 1 } })
  T.eq(data.read_jsonl(path, { limit = 0 }), {})
  T.raises("unknown option 'limt'", data.read_jsonl, path, { limt = 1 })
  T.raises("bad option 'limit' %(integer expected, got string%)", data.read_jsonl, path,
    { limit = "1" })
  local bad = file("bad.jsonl", '{"a":1}\n{"a":2}\n{"a":\n{"a":4}\n')
  T.raises("^/.*/bad.jsonl:3: column 5: ", function()
    drain(data.jsonl(bad))
  end)
  T.fails("bad.jsonl:3: column 5: ", data.read_jsonl, bad)
  T.eq(select(3, data.read_jsonl(bad)), "FORMAT")
  T.eq(data.read_jsonl(bad, { limit = 2 }), { { a = 1 }, { a = 2 } })
  T.fails("latin.jsonl:2: column %d+: unable to decode byte 0xe9", data.read_jsonl,
    file("latin.jsonl", '{"a":1}\n{"a":"caf\xE9"}\n'))
  T.fails("No such file", data.read_jsonl, "/tmp/none.jsonl")
  T.eq(select(3, data.read_jsonl "/tmp/none.jsonl"), "IO")
  -- leaving the loop early closes the file
  local reader
  for _ = 1, 3 do
    local step, _, _, closer = data.jsonl(path)
    for row in step, nil, nil, closer do
      reader = closer
      T.eq(row, { a = 1 })
      break
    end
    T.raises("released", reader.next, reader)
  end
end)

T.test("write_jsonl", function()
  local path = fs.join(T.tmpdir(), "a.jsonl")
  local rows = { { b = 1, a = "x\ny" }, { 1.0, 2 } }
  T.eq(data.write_jsonl(path, rows), true)
  T.eq(fs.read(path), '{"a":"x\\ny","b":1}\n[1.0,2]\n')
  T.eq(data.read_jsonl(path), rows)
  T.eq(data.write_jsonl(path, {}), true)
  T.eq(fs.read(path), "")
  T.raises("json.encode: t: byte 1", data.write_jsonl, path, { { t = "\xFF" } })
  T.eq(data.write_jsonl(path, { { t = "\xFF" } }, { replace_invalid = true }), true)
  T.raises("indent", data.write_jsonl, path, {}, { indent = 2 })
end)

T.test("csv", function()
  local path = file("a.csv", 'id,"the text"\r\n1,"a ""b""\n\nc, d"\r\n\r\n2,é\r\n3,')
  T.eq(all(data.csv(path)), {
    { 2, { id = "1", ["the text"] = 'a "b"\n\nc, d' } },
    { 6, { id = "2", ["the text"] = "é" } },
    { 7, { id = "3", ["the text"] = "" } },
  })
  T.eq(data.read_csv(path, { header = false, limit = 1 }), { { "id", "the text" } })
  T.eq(data.read_csv(gz("a.csv", "a;b\n1;2\n"), { separator = ";" }), { { a = "1", b = "2" } })
  T.eq(data.read_csv(file("a.csv", "a\n")), {})
  T.fails("empty.csv:1: no header row", data.read_csv, file("empty.csv", "\n"))
  T.eq(data.read_csv(file("empty.csv", ""), { header = false }), {})
  T.fails("a.csv:1: the column 'a' is there twice", data.read_csv, file("a.csv", "a,b,a\n"))
  T.fails("a.csv:3: 1 fields, the first row has 2", data.read_csv, file("a.csv", "a,b\n1,2\n3\n"))
  T.fails("a.csv:2: 3 fields, the first row has 2", data.read_csv, file("a.csv", "a,b\n1,2,3\n"),
    { header = false })
  T.fails("a.csv:2: unterminated quote", data.read_csv, file("a.csv", 'a\n"b\nc\n'))
  T.fails("a.csv:1: text after a closing quote", data.read_csv, file("a.csv", '"a"b\n'))
  T.raises("a.csv:3: quote inside", function()
    drain(data.csv(file("a.csv", 'a\nb\nc"d\n')))
  end)
  T.raises("separator is one byte", data.csv, path, { separator = "::" })
  T.raises("No such file", data.csv, "/tmp/none.csv")
end)

T.test("write_csv reads back", function()
  local path = fs.join(T.tmpdir(), "a.csv")
  local odd = { "", ",", '"', "\n", "\r\n", " x ", "é", 'a"b,c\nd' }
  local rows, want = {}, {}
  for i, s in ipairs(odd) do
    rows[i] = { n = i, s = s }
    want[i] = { n = tostring(i), s = s }
  end
  T.eq(data.write_csv(path, { "n", "s" }, rows), true)
  T.eq(data.read_csv(path), want)
  T.eq(data.write_csv(path, { "s" }, { { "" }, { "x" }, { "" } }), true)
  T.eq(data.read_csv(path), { { s = "" }, { s = "x" }, { s = "" } })
  T.eq(data.write_csv(path, { "a", "b", "c" }, { { 0.1, 1, true }, { 2.0, nil, -1e-20 } }), true)
  T.eq(fs.read(path), "a,b,c\n0.1,1,true\n2.0,,-1e-20\n")
  T.raises("row 1 has 2 fields, the header has 1", data.write_csv, path, { "a" }, { { 1, 2 } })
end)

-- ---- preference pairs ----

local function pair(chosen, rejected)
  return json.encode { chosen = chosen, rejected = rejected } .. "\n"
end

local Q = "\n\nHuman: hi" -- a question

T.test("hh_rlhf splits at the last answer mark", function()
  local text = Q .. ANSWER .. " a" .. Q .. " again \u{A0}\n" .. ANSWER
  local path = file("a.jsonl", pair(text .. " yes \u{3000}\n", text .. "\n\nno")
    .. pair(Q .. ANSWER .. " 1", Q .. ANSWER .. " 2"))
  local rows, counts = data.hh_rlhf(path)
  T.eq(rows, {
    { prompt = Q .. ANSWER .. " a" .. Q .. " again " .. ANSWER, chosen = "yes", rejected = "no" },
    { prompt = Q .. " " .. ANSWER, chosen = "1", rejected = "2" },
  })
  T.eq(counts, { rows = 2, kept = 2, different_prompts = 0, identical = 0, empty_answers = 0 })
  T.eq(#data.hh_rlhf(path, { limit = 1 }), 1)
end)

T.test("hh_rlhf leaves out what cannot be compared and counts it", function()
  local path = file("a.jsonl", pair(Q .. ANSWER .. " 1", Q .. "x" .. ANSWER .. " 2")
    .. pair(Q .. ANSWER .. " 1", Q .. ANSWER .. "1 ")
    .. pair(Q .. ANSWER .. " 1", Q .. ANSWER .. " ")
    .. pair(Q .. ANSWER .. " 1", Q .. ANSWER .. " 2"))
  local rows, counts = data.hh_rlhf(path)
  T.eq(#rows, 1)
  T.eq(counts, { rows = 4, kept = 1, different_prompts = 1, identical = 1, empty_answers = 1 })
end)

T.test("hh_rlhf names file and line of what is malformed", function()
  local good = pair(Q .. ANSWER .. " 1", Q .. ANSWER .. " 2")
  local function bad(line)
    return file("bad.jsonl", good .. good .. line .. "\n" .. good)
  end
  local cases = {
    ['{"chosen": '] = "bad.jsonl:3: column ",
    ['["chosen"]'] = "bad.jsonl:3: the field 'chosen' is missing",
    ["7"] = "bad.jsonl:3: the line is not an object",
    ['{"chosen": "x"}'] = "bad.jsonl:3: the field 'rejected' is missing",
    ['{"chosen": "x", "rejected": 1}'] = "3: the field 'rejected' is missing or not a string",
    [pair("x", "y")] = "bad.jsonl:3: 'chosen' has no answer mark",
    [pair(Q .. ANSWER .. " 1", "y")] = "bad.jsonl:3: 'rejected' has no answer mark",
    [pair(ANSWER .. " 1", ANSWER .. " 2")] = "bad.jsonl:3: the prompt is empty",
    [pair("\n\nHuman: \n" .. ANSWER .. " 1", "\n\nHuman:" .. ANSWER .. " 2")] =
      "bad.jsonl:3: the prompt is empty",
    ['{"chosen": "\xE9"}'] = "bad.jsonl:3: column %d+: unable to decode byte 0xe9",
  }
  for line, message in pairs(cases) do
    T.fails(message, data.hh_rlhf, bad(line))
    T.eq(select(3, data.hh_rlhf(bad(line))), "FORMAT")
  end
  local cut = gz("a.jsonl", (good:rep(1000)))
  fs.write(cut, fs.read(cut):sub(1, -9))
  T.fails("a.jsonl.gz:%d+: gzip data ends too early", data.hh_rlhf, cut)
end)

T.test("hh_rlhf finds files in a directory", function()
  local dir = T.tmpdir()
  local function put(name, answer)
    fs.mkdir(fs.dirname(fs.join(dir, name)))
    fs.write(fs.join(dir, name), pair(Q .. ANSWER .. answer, Q .. ANSWER .. "no"))
  end
  put("harmless-base/test.jsonl", "upstream")
  put("helpful-base.test.jsonl", "flat")
  local function first(objective)
    return assert(data.hh_rlhf(dir, { split = "test", objective = objective }))[1].chosen
  end
  T.eq({ first "harmless", first "helpful" }, { "upstream", "flat" })
  T.fails("neither helpful%-online/test.jsonl.gz nor ", data.hh_rlhf, dir,
    { split = "test", objective = "all" })
  T.fails("neither harmless%-base/train.jsonl.gz", data.hh_rlhf, dir,
    { split = "train", objective = "harmless" })
  T.raises("split is missing", data.hh_rlhf, dir, { objective = "harmless" })
  T.raises("objective is missing", data.hh_rlhf, dir, { split = "test" })
  T.raises("objective is 'humor'", data.hh_rlhf, dir, { split = "test", objective = "humor" })
  T.raises("choose a file in a directory", data.hh_rlhf, dir .. "/helpful-base.test.jsonl",
    { split = "test" })
  T.fails("none: No such file", data.hh_rlhf, dir .. "/none")
end)

-- Counts and hashes of "prompt\0chosen\0rejected\0"... from a program in another language that
-- reads the files with its own JSON parser and strips with its own strip.
local HH = {
  harmless = { 2312, 2303, 5, 0, 4,
    "87205e38cd9552885ccc44685dbd0e5d4f6c6aa3efade64a57cf133aed4af58a" },
  helpful = { 2354, 2339, 9, 2, 4,
    "23d09c721ad86dde1d8fca6f2c8169943fab697e44eaa65a46e06355dd7af3f5" },
}

for objective, want in pairs(HH) do
  T.test("hh_rlhf: the real " .. objective .. " test split", function()
    local dir = fs.dirname(T.shared("prefs/hh-rlhf/" .. objective .. "-base.test.jsonl.gz"))
    local rows, n = assert(data.hh_rlhf(dir, { split = "test", objective = objective }))
    local parts = {}
    for i, r in ipairs(rows) do
      parts[i] = r.prompt .. "\0" .. r.chosen .. "\0" .. r.rejected .. "\0"
      T.ok(r.prompt:sub(1, 8) == "\n\nHuman:" and r.prompt:sub(-13) == " " .. ANSWER)
    end
    T.eq({ n.rows, n.kept, n.different_prompts, n.identical, n.empty_answers,
      hash(table.concat(parts)) }, want)
  end)
end

T.test("the real CSV files", function()
  local humor = assert(data.humor_csv(T.shared "humor/colbert/dev_first30000.csv"))
  local texts, funny = {}, 0
  for i, r in ipairs(humor) do
    texts[i] = r.text .. "\0"
    funny = funny + (r.humor and 1 or 0)
  end
  T.eq({ #humor, funny, hash(table.concat(texts)) },
    { 30000, 15051, "61e86b654883d96438b41785fdce66d2c096561660a442cd9155ebc748b06e43" })
  local path = T.shared "prefs/metaaligner/HH-RLHF_Claude-3.csv"
  local parts = {}
  for row in data.csv(path, { header = false }) do
    parts[#parts + 1] = table.concat(row, "\0") .. "\0"
  end
  T.eq({ #parts, hash(table.concat(parts)) },
    { 1201, "95c58b242a7dc202a3c75e0e972e3bfdcfe760f5d04f5a48c22509e9c72e60cd" })
  local answers = assert(data.metaaligner_csv(path, { limit = 20 }))
  T.eq(#answers, 20)
  T.ok(answers[1].response:find "^Upon further reflection")
end)

T.test("humor_csv and metaaligner_csv refuse other columns", function()
  T.fails("a.csv:2: the columns text and humor", data.humor_csv, file("a.csv", "a,b\n1,2\n"))
  T.fails("a.csv:2: the column 'text' is not UTF%-8", data.humor_csv,
    file("a.csv", "text,humor\ncaf\xE9,True\n"))
  T.fails("a.csv:3: humor is 'yes'", data.humor_csv, file("a.csv", "text,humor\nx,True\ny,yes\n"))
  T.fails("a.csv:2: the columns query", data.metaaligner_csv, file("a.csv", "a,b\n1,2\n"))
  T.fails("a.csv:2: the query has no", data.metaaligner_csv,
    file("a.csv", "query,goldens,generated_text\n1,2,3\n"))
end)

T.test("dpo_json", function()
  local rows = assert(data.dpo_json(T.shared "prefs/llamafactory/dpo_en_demo.json"))
  local turns = 0
  for _, r in ipairs(rows) do
    turns = turns + #r.messages
    T.ok(r.prompt:sub(-13) == " " .. ANSWER and r.chosen ~= "" and r.rejected ~= "")
  end
  T.eq({ #rows, turns }, { 300, 906 })
  T.eq(#data.dpo_json(T.shared "prefs/llamafactory/dpo_en_demo.json", { limit = 7 }), 7)
end)

T.test("dpo_json leaves out what hh_rlhf leaves out, and counts it", function()
  local function entry(chosen, rejected)
    return json.encode { conversations = { { from = "human", value = "hi" } }, chosen = { from = "gpt", value = chosen },
      rejected = { from = "gpt", value = rejected } }
  end
  local path = file("d.json", "[" .. table.concat({ entry("1", "2"), entry("1", " 1\n"), entry("", "2"), entry("1", " \u{3000}"),
    entry("", ""), entry("3", "4") }, ",") .. "]")
  local rows, counts = data.dpo_json(path)
  T.eq({ #rows, rows[1].chosen, rows[2].chosen }, { 2, "1", "3" })
  T.eq(counts, { rows = 6, kept = 2, different_prompts = 0, identical = 1, empty_answers = 3 })
  T.eq(#data.dpo_json(path, { limit = 2 }), 2)
  T.eq(select(2, data.dpo_json(path, { limit = 1 })).rows, 1)
  T.eq(data.dpo_json(path, { limit = 0 }), {})
  T.fails("d.json: entry 1: the prompt is empty", data.dpo_json,
    file("d.json", '[{"conversations":[{"from":"human","value":" "}],"chosen":{"value":"a"},"rejected":{"value":"b"}}]'))
end)

T.test("dpo_json names the entry that is malformed", function()
  local function try(entry)
    return data.dpo_json(file("d.json", "[" .. entry .. "]"))
  end
  T.fails("d.json: entry 1: 'conversations' is missing", try, "{}")
  T.fails("d.json: entry 1: turn 1 is not by", try, '{"conversations":[{"from":"x","value":"y"}]}')
  T.fails("the last turn is not the human's", try, '{"conversations":[]}')
  T.fails("'chosen' is missing", try, '{"conversations":[{"from":"human","value":"y"}]}')
  T.fails("d.json: not a list", data.dpo_json, file("d.json", "7"))
  T.fails("d.json: line 1 column", data.dpo_json, file("d.json", "[7"))
end)

T.test("dialogue", function()
  local user, reply = { role = "user", content = " hi " }, { role = "assistant", content = "yes" }
  T.eq(data.dialogue { user, reply, user }, Q .. ANSWER .. " yes" .. Q .. " " .. ANSWER)
  T.eq(data.dialogue { { role = "system", content = "Be brief." }, user },
    "Be brief." .. Q .. " " .. ANSWER)
  T.raises("message 1 has the role bot", data.dialogue, { { role = "bot", content = "" } })
  local system = { role = "system", content = "" }
  T.raises("message 2 has the role system", data.dialogue, { user, system })
  T.raises("the last message is not the user's", data.dialogue, { user, reply })
end)

-- ---- lists ----

-- a generator with the interface of mocl.rng, enough to test what is drawn from it
local function fake_rng(state)
  return {
    integer = function(_, low, high)
      state = (state * 6364136223846793005 + 1442695040888963407)
      return low + (state >> 33) % (high - low + 1)
    end,
  }
end

T.test("shuffle and split", function()
  local list = {}
  for i = 1, 101 do
    list[i] = i
  end
  local mixed = data.shuffle(list, fake_rng(1))
  T.eq(#mixed, 101)
  T.eq(list[50], 50) -- untouched
  T.eq(mixed, data.shuffle(list, fake_rng(1)))
  local sorted = table.move(mixed, 1, #mixed, 1, {})
  table.sort(sorted)
  T.eq(sorted, list)
  local seen = {} -- all 6 orders of 3, about equally often
  local rng = fake_rng(2)
  for _ = 1, 6000 do
    local order = table.concat(data.shuffle({ 1, 2, 3 }, rng))
    seen[order] = (seen[order] or 0) + 1
  end
  local n = 0
  for _, count in pairs(seen) do
    n = n + 1
    T.ok(math.abs(count - 1000) < 150, count)
  end
  T.eq(n, 6)
  local first, rest = data.split(list, 0.8, fake_rng(3))
  T.eq({ #first, #rest }, { 81, 20 })
  local both = table.move(rest, 1, #rest, #first + 1, table.move(first, 1, #first, 1, {}))
  table.sort(both)
  T.eq(both, list)
  T.eq({ #data.split(list, 0, fake_rng(1)), #data.split(list, 1, fake_rng(1)) }, { 0, 101 })
  T.raises("fraction 1.5 is not in 0..1", data.split, list, 1.5, fake_rng(1))
end)

T.test("batches", function()
  local out = {}
  for batch, at in data.batches({ 1, 2, 3, 4, 5 }, 2) do
    out[#out + 1] = { at, batch }
  end
  T.eq(out, { { 1, { 1, 2 } }, { 3, { 3, 4 } }, { 5, { 5 } } })
  T.eq(all(data.batches({}, 3)), {})
  T.raises("size 0 is not a positive integer", data.batches, {}, 0)
end)

T.test("bad_utf8", function()
  T.eq(core.bad_utf8 "é", nil)
  T.eq(core.bad_utf8 "é\xFF", 3)
end)
