-- Patterns, normalizers and sets of characters against Hugging Face's tokenizers: see fixtures/unicode/.
local T = require "t"
local tokenizer = require "mocl.tokenizer"
local json = require "mocl.json"
local fs = require "mocl.fs"

local HERE = arg[0]:match("^(.*)/[^/]*$") or "."

local function read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read("a")
  f:close()
  return s
end

local fixture = assert(json.decode(read(HERE .. "/fixtures/unicode/patterns.json")))

local function load_parts(parts)
  local path = T.tmpdir() .. "/tokenizer.json"
  local f = assert(io.open(path, "wb"))
  f:write(json.encode(parts))
  f:close()
  return tokenizer.load(path)
end

local BYTE_TOKENS = {}
do
  local next_char = 256
  for b = 0, 255 do
    local prints = b >= 0x21 and b <= 0x7e or b >= 0xa1 and b <= 0xff and b ~= 0xad
    BYTE_TOKENS[utf8.char(prints and b or next_char)] = b
    next_char = next_char + (prints and 0 or 1)
  end
end

-- a tokenizer whose decoded ids are the text as the normalizer leaves it
local function normalizing(normalizer)
  return load_parts {
    normalizer = normalizer,
    pre_tokenizer = { type = "ByteLevel", add_prefix_space = false, use_regex = false },
    decoder = { type = "ByteLevel" },
    model = { type = "BPE", vocab = BYTE_TOKENS, merges = json.array {} },
  }
end

local function pieces_of(s)
  local list = {}
  for piece in s:gmatch("[^\x1f]+") do
    list[#list + 1] = piece
  end
  return list
end

-- What cuts a text into these pieces has them as tokens. A run of one-letter pieces joined by mistake
-- would fall into the letters again, so each join of such pieces is a token as well.
local function vocabulary_of(texts)
  local vocab, n = { ["<unk>"] = 0 }, 1
  local function add(s)
    if not vocab[s] then
      vocab[s] = n
      n = n + 1
    end
  end
  for _, pieces in ipairs(texts) do
    for i, piece in ipairs(pieces) do
      add(piece)
      local joined, k = piece, i
      while utf8.len(pieces[k]) == 1 and pieces[k + 1] and utf8.len(pieces[k + 1]) == 1 do
        k = k + 1
        joined = joined .. pieces[k]
        add(joined)
      end
    end
  end
  return vocab
end

local function check_pieces(pre_tokenizer, texts, want, what)
  local lists = {}
  for i, s in ipairs(want) do
    lists[i] = pieces_of(s)
  end
  local tok = assert(load_parts {
    pre_tokenizer = pre_tokenizer,
    model = { type = "BPE", vocab = vocabulary_of(lists), merges = json.array {}, unk_token = "<unk>",
      ignore_merges = true },
  })
  for i, text in ipairs(texts) do
    local got = tok:encode(text)
    for k, id in ipairs(got) do
      got[k] = tok:id_to_token(id)
    end
    T.eq(got, lists[i], what .. " on " .. T.show(text))
  end
  tok:release()
end

T.test("patterns cut texts as Oniguruma does", function()
  for _, case in ipairs(fixture.split) do
    check_pieces({ type = "Split", pattern = { Regex = case.pattern }, invert = case.invert,
      behavior = case.behavior:gsub("^%l", string.upper):gsub("_(%l)", string.upper) },
      fixture.texts[case.texts], case.pieces, case.pattern .. " " .. case.behavior)
  end
end)

T.test("digits are those of Unicode 17", function()
  check_pieces({ type = "Digits", individual_digits = true }, fixture.texts.real, fixture.digits,
    "Digits")
end)

T.test("replacing, also what is empty", function()
  for _, case in ipairs(fixture.replace) do
    local tok = assert(normalizing { type = "Replace", pattern = { Regex = case.pattern },
      content = "<>" })
    for i, text in ipairs(case.texts) do
      T.eq(tok:decode(tok:encode(text)), case.results[i], case.pattern .. " on " .. text)
    end
  end
end)

T.test("normal forms and lower case of the reference", function()
  for name, results in pairs(fixture.forms.results) do
    local tok = assert(normalizing { type = name })
    for i, text in ipairs(fixture.forms.texts) do
      T.eq(tok:decode(tok:encode(text)), results[i], name .. " of " .. T.show(text))
    end
  end
end)

T.test("NFC and NFKC keep U+11A7 behind every Hangul syllable", function()
  local all = {}
  for c = 0xac00, 0xd7a3 do
    all[#all + 1] = utf8.char(c, 0x11a7) .. "b"
  end
  local text = table.concat(all)
  for _, name in ipairs { "NFC", "NFKC" } do
    local tok = assert(normalizing { type = name })
    T.ok(tok:decode(tok:encode(text)) == text, name)
  end
end)

T.test("sets of characters are the reference's, up to U+1FFFF", function()
  for form, steps in pairs(fixture.sets) do
    -- each run of the set as one "<>", and around the runs the two characters beside
    local text, want, at = {}, {}, 0
    for i = 1, #steps, 2 do
      local first = at + steps[i]
      local last = first + steps[i + 1]
      local left = first > 0 and at < first - 1 and first - 1 ~= 0xdfff and utf8.char(first - 1) or ""
      local run = {}
      for c = first, math.min(last, first + 300) do
        run[#run + 1] = utf8.char(c)
      end
      text[#text + 1] = left .. table.concat(run)
      want[#want + 1] = left .. "<>"
      if i > 1 and left == "" then -- one character parts the two runs
        text[#text] = utf8.char(first - 1) .. text[#text]
        want[#want] = utf8.char(first - 1) .. want[#want]
      end
      at = last
    end
    local tok = assert(normalizing { type = "Replace", pattern = { Regex = "(?:" .. form .. ")+" },
      content = "<>" })
    local got = tok:decode(tok:encode(table.concat(text)))
    T.ok(got == table.concat(want), form)
  end
end)

T.test("patterns without an equal are refused with their place", function()
  local function refused(pattern, message)
    T.fails(message, load_parts, {
      pre_tokenizer = { type = "Split", pattern = { Regex = pattern }, behavior = "Isolated" },
      model = { type = "BPE", vocab = { a = 0 }, merges = json.array {} },
    })
  end
  refused([[éa\X]], "tokenizer.json: pre%-tokenizer Split: pattern uses \\X at character 3")
  refused([[a\K]], "\\K at character 2")
  refused([[\Ga]], "\\G at character 1")
  refused([[\p{Foo}]], "\\p{Foo} at character 1, which is no set of characters known here")
  refused([[\p{Word}]], "\\p{Word} at character 1")
  refused([[\p{[:alpha:]}]], "no set of characters known here")
  refused([[\p{L]], "\\p{ without }")
  refused("[[:foo:]]", "an unknown set %[:%.%.%.:%] at character 2")
  refused("(?i)ss", "%(%?i%) over characters that one matches at character 6")
  refused("(?i:ß)", "%(%?i%) over a character that matches two at character 5")
  refused("(?i)[ß-ü]", "matches two at character 6")
  refused("(?i)s(?:t)", "that one matches at character 9")
  refused("(?ix) f # one\n f", "that one matches")
  refused([[(?i)[\p{L}]+]], "%(%?i%) over a set in brackets")
  refused("(?i)[a[b]]", "%(%?i%) over brackets in brackets")
  refused([[(?i)(a)\1]], "a reference under %(%?i%)")
  refused([[\1(a)]], "a reference to a group that does not stand before")
  refused([[(a\1)]], "a reference to a group that does not stand before")
  refused("(?<n>a)(?<n>b)", "two groups of one name")
  refused([[(a)\g<1>]], "\\g at character 4")
  refused("(?~ab)", "a group or option %(%?%.%.%.%) at character 1")
  refused("(?s)a", "a group or option")
  refused("(?W:a)", "a group or option")
  refused("(a)?(?(1)b|c)", "a group or option %(%?%.%.%.%) at character 5")
  refused("(?{x})a", "a group or option")
  refused("(*FAIL)", "%(%* at character 1")
  refused("(?=a)*", "a repeated position at character 6")
  refused("^*a", "a repeated position at character 2")
  refused("a{3,1}", "{n,m} with n > m at character 2")
  refused("a{70000}", "a repetition above 65535")
  refused("(?:x?|ab){2}", "{n,m} behind what can match nothing at character 10")
  refused("a|*", "a repetition of nothing at character 3")
  refused("a)", "%) without %( at character 2")
  refused("(a", "%( without %) at character 1")
  refused("[a", "%[ without %]")
  refused("[b-a]", "an empty range at character 2")
  refused([[[a-\d]ä]], "a range to a set at character 2")
  refused([[[\d-a]ä]], "a range that begins with a set")
  refused([[\xe9]], "a byte of a character at character 1, which is to be written as \\x{%.%.%.}")
  refused([[\x{110000}]], "which is no code point")
  refused([[\101]], "an escape of several digits")
  refused([[\u12]], "which is no code point")
  refused([[a\]], "a lone backslash at its end at character 2")
  refused("(?<=a+)b", "pattern does not compile")
  refused(("(?:"):rep(200) .. (")"):rep(200), "too many groups inside each other")
  refused(("["):rep(200) .. "a" .. ("]"):rep(200), "too many groups inside each other")
end)

T.test("the tables are what their script writes", function()
  local root = HERE .. "/.."
  local sum = assert(fs.sha256(HERE .. "/fixtures/unicode/make_unicode.py"))
  T.ok(read(root .. "/runtime/tok/unicode_tables.h"):find(sum, 1, true),
    "run tests/fixtures/unicode/make_unicode.py, which has changed")
end)
