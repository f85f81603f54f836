-- tokenizers as other programs write them: the files beside a tokenizer, their keys, and saving

local T = require "t"
local fs = require "mocl.fs"
local json = require "mocl.json"
local tokenizer = require "mocl.tokenizer"

local function write(path, s)
  assert(fs.write(path, s))
  return path
end

-- a new directory with these files
local function directory(files)
  local dir = T.tmpdir()
  for name, text in pairs(files) do
    write(dir .. "/" .. name, text)
  end
  return dir
end

local function load(files)
  return tokenizer.load(directory(files))
end

local function golden(name)
  return assert(json.decode(assert(fs.read("tests/fixtures/tokenizers/" .. name))))
end

local function streamed(tok, ids, options)
  local stream, pieces = tok:decode_stream(options), {}
  for i, id in ipairs(ids) do
    pieces[i] = stream:push(id)
  end
  return table.concat(pieces) .. stream:flush()
end

-- What tok does with the texts of a case. Where the original writes U+FFFD mocl keeps the bytes.
local function check_case(tok, case, texts, what)
  for i, text in ipairs(texts) do
    local where = ("%s, text %q"):format(what, text)
    T.eq(tok:encode(text, { add_special_tokens = true }), case.ids[i], where)
    T.eq(tok:encode(text), case.plain[i], where .. ", plain")
    if case.ordinary then
      T.eq(tok:encode(text, { special = false }), case.ordinary[i], where .. ", special = false")
    end
    if not case.full[i]:find "\u{fffd}" then
      T.eq(tok:decode(case.ids[i]), case.text[i], where .. ", decoded")
      T.eq(tok:decode(case.ids[i], { skip_special = false }), case.full[i], where .. ", decoded in full")
    end
  end
  if case.pair then
    T.eq(tok:encode("a b", { add_special_tokens = true, pair = "ab" }), case.pair, what .. ", pair")
  end
end

-- a tokenizer.json with GPT-2's steps and a few tokens; `change` replaces parts of it
local VOCAB = '{"a": 0, "b": 1, "ab": 2, "Ġ": 3, "Ġa": 4, "<s>": 5, "<": 6, ">": 7, "s": 8}'
local function byte_json(change)
  local parts = { added = "", pre = '{"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true}', post = "null",
    vocab = VOCAB, merges = '"a b", "Ġ a"', more = "", model = "" }
  for key, value in pairs(change or {}) do
    parts[key] = value
  end
  return ([[{"version": "1.0", %s "added_tokens": [%s], "pre_tokenizer": %s, "post_processor": %s, "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", %s "vocab": %s, "merges": [%s]}}]]):format(parts.more, parts.added, parts.pre, parts.post, parts.model,
    parts.vocab, parts.merges)
end

-- ---- against the originals ----

T.test("Metaspace, single_word and the key of a zero byte: as tokenizers 0.23.3", function()
  local all = golden "spaces.json"
  for i, case in ipairs(all.cases) do
    local tok = assert(load { ["tokenizer.json"] = (case.json:gsub('"VOCAB"', function() return all.vocab end)) })
    check_case(tok, case, case.texts, "tokenizer " .. i)
    if not case.json:find '"Strip"' then
      for _, ids in ipairs(case.ids) do
        T.eq(streamed(tok, ids), tok:decode(ids))
      end
    end
  end
end)

T.test("the files beside a tokenizer: as transformers 5.24", function()
  local all = golden "files.json"
  for _, case in ipairs(all.cases) do
    local tok = assert(load(case.files))
    T.eq(tok:vocab_size(), case.size, case.name)
    check_case(tok, case, all.texts, case.name)
  end
end)

T.test("a character of any Unicode version beside a single_word token", function()
  local tok = assert(load { ["tokenizer.json"] = byte_json {
    added = '{"id": 9, "content": "Xy", "single_word": true, "normalized": false, "special": false}', model = '"unk_token": "a",' } })
  local function alone(c)
    return tok:encode(utf8.char(c) .. "Xy")[#tok:encode(utf8.char(c) .. "Xy")] == 9
  end
  for _, c in ipairs { 0x41, 0xe9, 0x5f, 0x30, 0x200c, 0x200d, 0x24b6, 0x1f149, 0x345, 0x897, 0x13460, 0x143fa, 0x2ebf0, 0x2ee5d, 0x1e5fa } do
    T.ok(not alone(c), ("U+%04X is a word character"):format(c))
  end
  for _, c in ipairs { 0x20, 0x2d, 0xb2, 0x200b, 0x200e, 0x24b5, 0x24ea, 0x1f12f, 0x1345f, 0x2ee5e, 0x1f600 } do
    T.ok(alone(c), ("U+%04X is none"):format(c))
  end
end)

-- ---- what goes in front of a text ----

T.test("add_special_tokens: the post-processor, else add_bos_token, else nothing", function()
  local function ids(config, change)
    local tok = assert(load { ["tokenizer.json"] = byte_json(change), ["tokenizer_config.json"] = config })
    return tok:encode("ab", { add_special_tokens = true }), tok:encode("a", { add_special_tokens = true, pair = "b" })
  end
  local names = '"bos_token": "<s>", "eos_token": "<"'
  T.eq({ ids(("{%s}"):format(names)) }, { { 2 }, { 0, 1 } })
  T.eq({ ids(('{%s, "add_bos_token": true}'):format(names)) }, { { 5, 2 }, { 5, 0, 5, 1 } })
  T.eq({ ids(('{%s, "add_eos_token": true}'):format(names)) }, { { 2, 6 }, { 0, 6, 1, 6 } })
  T.eq({ ids(('{%s, "add_bos_token": true, "add_eos_token": true}'):format(names)) }, { { 5, 2, 6 }, { 5, 0, 6, 5, 1, 6 } })
  T.eq({ ids(('{%s, "add_bos_token": false, "add_eos_token": null}'):format(names)) }, { { 2 }, { 0, 1 } })
  T.eq({ ids '{"bos_token": null, "add_bos_token": true}' }, { { 2 }, { 0, 1 } })
  local bert = { post = '{"type": "BertProcessing", "sep": ["<", 6], "cls": ["<s>", 5]}' }
  T.eq({ ids(("{%s}"):format(names), bert) }, { { 5, 2, 6 }, { 5, 0, 6, 1, 6 } })
  T.eq({ ids(('{%s, "add_bos_token": false}'):format(names), bert) }, { { 5, 2, 6 }, { 5, 0, 6, 1, 6 } })
  -- what transformers 5 writes where nothing is added
  local none = { post = '{"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}], "pair": ' ..
    '[{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}], "special_tokens": {}}' }
  T.eq({ ids(("{%s}"):format(names), none) }, { { 2 }, { 0, 1 } })
  T.eq({ ids(('{%s, "add_bos_token": true}'):format(names), none) }, { { 5, 2 }, { 5, 0, 5, 1 } })
  -- the option's older name
  local tok = assert(load { ["tokenizer.json"] = byte_json(bert) })
  T.eq(tok:encode("ab", { template = true }), { 5, 2, 6 })
end)

T.test("add_special_tokens: BOS for a vocabulary of mocl's own training", function()
  local tok = tokenizer.train({ "ab" }, { vocab_size = 258 })
  local want = { 0, 2 + 97 }
  T.eq(tok:encode("a", { add_special_tokens = true }), want)
  local dir = T.tmpdir()
  assert(tok:save(dir .. "/tokenizer.json"))
  T.eq(assert(tokenizer.load(dir)):encode("a", { add_special_tokens = true }), want)
  assert(tok:save(dir))
  T.ok(assert(fs.read(dir .. "/tokenizer_config.json")):find('"add_bos_token": true', 1, true))
  T.eq(assert(tokenizer.load(dir)):encode("a", { add_special_tokens = true }), want)
  local plain = tokenizer.train({ "ab" }, { vocab_size = 256, special_tokens = {} })
  T.eq(plain:encode("a", { add_special_tokens = true }), { 97 })
end)

-- ---- keys ----

T.test("keys that change the ids and are not honoured are refused by name", function()
  local function config(text)
    return load { ["tokenizer.json"] = byte_json(), ["tokenizer_config.json"] = text }
  end
  T.fails("tokenizer_config.json: lower = true is not supported %(mocl does not know this key", config, '{"lower": true}')
  T.ok(config '{"lower": null}')
  T.fails("auto_map = .* is not supported %(the tokenizer is Python code", config, '{"auto_map": {"AutoTokenizer": ["a.B", null]}}')
  T.fails("fix_mistral_regex = true is not", config, '{"fix_mistral_regex": true}')
  T.ok(config '{"fix_mistral_regex": false, "auto_map": {}}')
  T.fails("even_though_it_will_corrupt_output = true is", config,
    '{"clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": true}')
  T.fails("add_prefix_space = true is not supported %(the tokenizer's file puts no space in front", config, '{"add_prefix_space": true}')
  T.fails('add_bos_token = "yes" is not supported %(true, false%)', config, '{"add_bos_token": "yes"}')
  T.fails('split_special_tokens = 1 is not supported', config, '{"split_special_tokens": 1}')
  T.fails('bos_token = 7 is not supported %(a token is a string', config, '{"bos_token": 7}')
  T.fails('extra_special_tokens = "x" is not supported %(a list', config, '{"extra_special_tokens": "x"}')
  T.fails('added_tokens_decoder = %[%] is not supported', config, '{"added_tokens_decoder": []}')
  T.fails('x = "<p>" is not supported %(an id is', config, '{"added_tokens_decoder": {"x": "<p>"}}')
  T.fails('odd = true is not supported %(a flag of an added token', config, '{"added_tokens_decoder": {"9": {"content": "<p>", "odd": true}}}')
  T.fails("the token '<p>' has the id 12 here and 9 in transformers", config, '{"added_tokens_decoder": {"12": "<p>"}}')
  T.fails("the token '<s>' has the id 9 here and 5 in the vocabulary", config, '{"added_tokens_decoder": {"9": "<s>"}}')
  T.fails("tokenizer_config.json: not a JSON object", config, "[]")
  T.fails("tokenizer_config.json:1:", config, "{")
  local function map(text)
    return load { ["tokenizer.json"] = byte_json(), ["special_tokens_map.json"] = text }
  end
  T.fails("special_tokens_map.json: model_max_length = 3 is not supported", map, '{"model_max_length": 3}')
  T.ok(map '{"bos_token": "<s>", "cls_token": null}')
  local function added(text)
    return load { ["tokenizer.json"] = byte_json(), ["added_tokens.json"] = text }
  end
  T.fails('added_tokens.json: <p> = "9" is not supported', added, '{"<p>": "9"}')
  T.fails("added_tokens.json: the token '<p>' has the id 11 here", added, '{"<p>": 11}')
  local function root(change)
    return load { ["tokenizer.json"] = byte_json(change) }
  end
  T.fails("version '2.0' is not supported", load, { ["tokenizer.json"] = (byte_json():gsub('"1.0"', '"2.0"')) })
  T.fails("the file has a field 'lower' that is not supported", root, { more = '"lower": true,' })
  T.ok(root { more = '"lower": null,' })
  T.fails("dropout is not supported", root, { model = '"dropout": 0.1,' })
  T.ok(root { model = '"dropout": 0.0, "end_of_word_suffix": "", "continuing_subword_prefix": null,' })
  T.fails("end_of_word_suffix '</w>' is not supported", root, { model = '"end_of_word_suffix": "</w>",' })
  T.fails("continuing_subword_prefix '##' is not", root, { model = '"continuing_subword_prefix": "##",' })
  local function space(fields)
    return root { pre = ('{"type": "Metaspace"%s}'):format(fields) }
  end
  T.fails("Metaspace has no 'replacement'", space, "")
  T.fails("'replacement' is not one character", space, ', "replacement": "ab"')
  T.fails("prepend_scheme of Metaspace 'last' is not supported", space, ', "replacement": "▁", "prepend_scheme": "last"')
  T.fails("add_prefix_space is false and prepend_scheme is 'first'", space,
    ', "replacement": "▁", "prepend_scheme": "first", "add_prefix_space": false')
  T.fails("add_prefix_space = false is not supported %(the tokenizer's file puts a space in front", load, {
    ["tokenizer.json"] = byte_json { pre = '{"type": "Metaspace", "replacement": "▁"}' },
    ["tokenizer_config.json"] = '{"add_prefix_space": false}' })
end)

T.test("byte order marks are read, UTF-16 is named", function()
  local mark = "\u{feff}"
  local vocab, merges = mark .. VOCAB, mark .. "#version: 0.2\na b\nĠ a\n"
  local dir = directory { ["tokenizer.json"] = mark .. byte_json(), ["tokenizer_config.json"] = mark .. '{"bos_token": "<s>"}' }
  T.eq(assert(tokenizer.load(dir)):bos_id(), 5)
  local pair = directory { ["vocab.json"] = vocab, ["merges.txt"] = merges }
  T.eq(assert(tokenizer.load(pair .. "/vocab.json", pair .. "/merges.txt")):encode("ab a"), { 2, 4 })
  T.eq(assert(tokenizer.load(pair)):encode("ab a"), { 2, 4 })
  local function wide(s)
    return "\xff\xfe" .. s:gsub("[\0-\x7f]", "%0\0")
  end
  for name, text in pairs { ["tokenizer.json"] = byte_json(), ["vocab.json"] = VOCAB, ["merges.txt"] = "a b\n" } do
    local files = { ["vocab.json"] = VOCAB, ["merges.txt"] = "a b\n" }
    files[name] = wide(text)
    T.fails(name .. ".*UTF%-16.*UTF%-8", load, files)
  end
  T.fails("tokenizer_config.json.*UTF%-16", load, { ["tokenizer.json"] = byte_json(), ["tokenizer_config.json"] = wide "{}" })
end)

T.test("vocab.json and merges.txt of a directory: the words of the class, the tokens beside", function()
  local files = { ["vocab.json"] = VOCAB, ["merges.txt"] = "a b\n", ["added_tokens.json"] = '{"<p>": 9}' }
  T.eq(assert(load(files)):encode("ab<p>b"), { 2, 9, 1 })
  files["tokenizer_config.json"] = '{"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<p>"}'
  local tok = assert(load(files))
  T.eq(tok:encode("ab<p>b"), { 2, 9, 1 })
  T.eq(tok:eos_id(), 9)
  files["tokenizer_config.json"] = '{"tokenizer_class": "T5Tokenizer"}'
  T.fails("tokenizer_config.json: tokenizer_class = 'T5Tokenizer' is not supported without a tokenizer.json", load, files)
  T.fails("holds no tokenizer.json, tokenizer.model, tokenizer.bin, vocab.json with merges.txt or vocab.txt", load, { ["vocab.json"] = VOCAB })
  T.fails("tokens 'ab' and 'cd' have the same id", load, { ["vocab.json"] = '{"ab": 0, "cd": 0}', ["merges.txt"] = "" })
end)

-- ---- SentencePiece ----

local function varint(n)
  local s = ""
  while n > 127 do
    s, n = s .. string.char(n & 127 | 128), n >> 7
  end
  return s .. string.char(n)
end

local function field(number, value)
  if type(value) == "number" then
    return varint(number << 3) .. varint(value)
  end
  return varint(number << 3 | 2) .. varint(#value) .. value
end

-- a .model: <unk> <s> </s>, the bytes from 3 on, then these pieces, the best first
local PIECES = { "▁a", "ab", "▁", "a", "b", "c", "▁▁" }
local function model()
  local out, score = {}, 0
  local function piece(text, kind)
    out[#out + 1] = field(1, field(1, text) .. varint(2 << 3 | 5) .. string.pack("<f", score) .. field(3, kind))
  end
  piece("<unk>", 2)
  piece("<s>", 3)
  piece("</s>", 3)
  for b = 0, 255 do
    piece(("<0x%02X>"):format(b), 6)
  end
  for i, text in ipairs(PIECES) do
    score = -i
    piece(text, 1)
  end
  return table.concat(out) .. field(2, field(3, 2) .. field(35, 1)) .. field(3, field(3, 1) .. field(4, 0))
end
local FIRST = 259 -- of PIECES
local A, AB, SPACE, B, SPACES, NEXT = FIRST, FIRST + 1, FIRST + 2, FIRST + 4, FIRST + 6, FIRST + 7

T.test("a SentencePiece model with the files of transformers", function()
  local function ids(text, config, beside)
    local files = beside or {}
    files["tokenizer.model"], files["tokenizer_config.json"] = model(), config
    return assert(load(files)):encode(text)
  end
  T.eq(ids "ab", { A, B })
  T.eq(ids "a</s>", { A, 3 + 60, 3 + 47, 3 + 115, 3 + 62 }) -- alone no text spells a special token
  T.eq(ids("a</s>b", '{"eos_token": "</s>"}'), { A, 2, SPACE, B })
  T.eq(ids("a</s>b", '{"eos_token": "</s>", "legacy": false}'), { A, 2, B })
  T.eq(ids("ab", '{"add_prefix_space": false}'), { AB })
  T.eq(ids("a[PAD]a", nil, { ["added_tokens.json"] = ('{"[PAD]": %d}'):format(NEXT) }), { A, NEXT, A })
  T.eq(ids("a[PAD]a", ('{"added_tokens_decoder": {"%d": {"content": "[PAD]", "special": false}}}'):format(NEXT)), { A, NEXT, A })
  local function tok(config)
    return load { ["tokenizer.model"] = model(), ["tokenizer_config.json"] = config }
  end
  T.eq(assert(tok()):encode("a", { add_special_tokens = true }), { 1, A })
  T.eq(assert(tok '{"bos_token": "<s>", "add_bos_token": false}'):encode("a", { add_special_tokens = true }), { A })
  T.eq(assert(tok '{"eos_token": "</s>", "add_eos_token": true}'):encode("a", { add_special_tokens = true }), { 1, A, 2 })
  T.fails("sp_model_kwargs is not supported", tok, '{"sp_model_kwargs": {"nbest_size": 3}}')
  T.ok(tok '{"sp_model_kwargs": {}}')
  T.fails("the token '<p>' has the id 270 here", tok, '{"added_tokens_decoder": {"270": "<p>"}}')
end)

T.test("models of SentencePiece with and without byte fallback and pieces of users: as SentencePiece 0.2.3", function()
  for i, case in ipairs(golden "sentencepiece.json".cases) do
    local bytes = case.model:gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end)
    local tok = assert(load { ["tokenizer.model"] = bytes })
    for k, text in ipairs(case.texts) do
      T.eq(tok:encode(text), case.ids[k], ("model %d, text %q"):format(i, text))
    end
  end
end)

T.test("a tokenizer.model of tiktoken: as transformers 5.24", function()
  local all = golden "tiktoken.json"
  local case = all.cases[1]
  local tok = assert(load(case.files))
  check_case(tok, case, all.texts, "tiktoken")
  T.eq({ tok:bos_id(), tok:eos_id(), #tok }, { 276, 277, 279 })
  local dir = T.tmpdir()
  T.ok(tok:save(dir))
  check_case(assert(tokenizer.load(dir)), case, all.texts, "tiktoken, saved")
  local function refused(pattern, text)
    T.fails("tokenizer.model" .. pattern, load, { ["tokenizer.model"] = text })
  end
  local model = case.files["tokenizer.model"]
  refused(": no token for the byte 0x02", "AA== 0\nAQ== 1\n")
  refused(":2: not a token in base64, a space and its rank", "AA== 0\nAQ= 1\n")
  refused(":2: not a token", "AA== 0\nAQ== \n")
  refused(":2: not a token", "AA== 0\nAQ== 1x\n")
  refused(":2: not a token", "AA== 0\nA=== 1\n")
  refused(": duplicate token", model .. "dGg= 276\n")
  refused(".*have the same id 0", model .. "eHg= 0\n")
  refused(".*ids are 0 to 4194303", model .. "eHg= 4194304\n")
end)

-- ---- any bytes ----

T.test("any bytes come back from every kind of vocabulary", function()
  local next_number = require "mocl.rng".new(7, "bytes")
  local metaspace = golden "spaces.json"
  local plain = [[{"version": "1.0", "added_tokens": [], "normalizer": %s, "pre_tokenizer": %s, "post_processor": null, "decoder": %s,
    "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true, "vocab": %s, "merges": ["a b", "▁ a", "▁ ▁"]}}]]
  local fuse = '{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, ' ..
    '{"type": "ByteFallback"}, {"type": "Fuse"}%s]}'
  local strip = ', {"type": "Strip", "content": " ", "start": 1, "stop": 0}'
  local space = '{"type": "Metaspace", "replacement": "▁", "prepend_scheme": "%s", "split": %s}'
  local llama = '{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, ' ..
    '{"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}'
  local kinds = {
    trained = tokenizer.train({ "ab ab" }, { vocab_size = 260 }),
    model = assert(load { ["tokenizer.model"] = model() }),
    bare = assert(load { ["tokenizer.model"] = model(), ["tokenizer_config.json"] = '{"add_prefix_space": false}' }),
    llama = assert(load { ["tokenizer.json"] = plain:format(llama, "null", fuse:format(strip), metaspace.vocab) }),
    never = assert(load { ["tokenizer.json"] = plain:format("null", space:format("never", "true"), fuse:format "", metaspace.vocab) }),
  }
  for name, path in pairs { bin = "weights/stories260K/tok512.bin", llama2 = "tokenizers/llama2/tokenizer.model" } do
    kinds[name] = fs.exists("../shared/data/" .. path) and assert(tokenizer.load("../shared/data/" .. path)) or nil
  end
  local parts = { "a", " ", "  ", "b", "\xbf", "\x80", "\xe2", "\x96", "\x81", "\xf0", "é", "日", "\0", "\xff", "\xc3", "<s>", "\n", "\xe2\x96" }
  for name, tok in pairs(kinds) do
    for round = 1, 400 do
      local t = {}
      for i = 1, round % 20 do
        t[i] = round % 2 == 0 and string.char(next_number:integer(0, 255)) or parts[next_number:integer(1, #parts)]
      end
      local text = table.concat(t)
      while text:find("\u{2581}", 1, true) do -- which is their space
        text = text:gsub("\u{2581}", "")
      end
      local ids = tok:encode(text, { bos = name == "bin" })
      T.eq(tok:decode(ids, { skip_special = name == "bin" }), text, ("%s, %q"):format(name, text))
    end
  end
  -- a byte that continues nothing stays apart from the character before it
  T.eq(kinds.model:encode "a\xbf", { A, 3 + 0xbf })
  T.eq(kinds.model:encode " \xbf", { SPACES, 3 + 0xbf })
  T.eq(kinds.model:decode(kinds.model:encode " \xbf"), " \xbf")
end)

-- ---- ids above the vocabulary ----

T.test("ids above the vocabulary are no text", function()
  local tok = assert(load { ["tokenizer.json"] = byte_json() })
  T.eq(tok:decode { 0, 9, 296, 1, 151935, 1 << 40 }, "ab")
  T.eq(streamed(tok, { 0, 9, 296, 1 }), "ab")
  T.eq(tok:id_to_token(296), nil)
  T.raises("decode: id %-1 is negative", tok.decode, tok, { -1 })
  -- where tokens are joined with a space, one that is none takes no space
  local joined = assert(load { ["tokenizer.json"] = (byte_json():gsub('"decoder": {"type": "ByteLevel"}', '"decoder": null')) })
  T.eq(joined:decode { 0, 296, 1 }, "a b")
end)

-- ---- saving ----

T.test("what is saved is what loads, with the files beside", function()
  local all = golden "files.json"
  for _, case in ipairs(all.cases) do
    local tok = assert(load(case.files))
    local dir = T.tmpdir()
    T.ok(tok:save(dir))
    local back = assert(tokenizer.load(dir))
    T.eq(back:vocab_size(), case.size, case.name)
    check_case(back, case, all.texts, case.name .. ", saved")
    T.eq({ back:bos_id(), back:eos_id() }, { tok:bos_id(), tok:eos_id() })
    T.ok(back:save(dir)) -- over itself
  end
  local beside = directory { ["tokenizer.model"] = model(), ["added_tokens.json"] = ('{"[PAD]": %d}'):format(NEXT) }
  local dir = T.tmpdir()
  T.ok(assert(tokenizer.load(beside)):save(dir .. "/tokenizer.model"))
  T.eq(assert(tokenizer.load(dir)):token_to_id "[PAD]", NEXT)
end)

T.test("a save is refused where a load would give something else", function()
  local byte, spm = byte_json(), model()
  local trained = tokenizer.train({ "ab" }, { vocab_size = 258 })
  local from_model = assert(load { ["tokenizer.model"] = spm })
  local function refused(pattern, tok, files, name)
    local dir = directory(files)
    T.fails(pattern, tok.save, tok, dir .. (name or ""))
    for file, text in pairs(files) do
      T.eq(assert(fs.read(dir .. "/" .. file)), text)
    end
    for _, file in ipairs(fs.list(dir)) do
      T.ok(files[file], file .. " is new")
    end
  end
  refused("tokenizer.json: would be loaded in place of what is saved; remove this file", from_model, { ["tokenizer.json"] = byte })
  refused("tokenizer_config.json: belongs to another tokenizer and would change this one", from_model, { ["tokenizer_config.json"] = "{}" })
  refused("added_tokens.json: belongs to another", trained, { ["added_tokens.json"] = '{"<p>": 258}' })
  refused("special_tokens_map.json: belongs to another", trained, { ["special_tokens_map.json"] = "{}" })
  refused("tokenizer_config.json: belongs to another", trained, { ["tokenizer_config.json"] = '{"bos_token": null}' }, "/tokenizer.json")
  refused("x.model: this tokenizer is a '.json'", trained, {}, "/x.model")
  refused("x.json: this tokenizer is a '.model'", from_model, {}, "/x.json")
  local bin = T.shared "weights/stories260K/tok512.bin"
  local from_bin = assert(tokenizer.load(bin))
  refused("tokenizer.model: would be loaded in place", from_bin, { ["tokenizer.model"] = spm })
  -- older files of lower rank do no harm, and an older configuration is replaced
  local dir = directory { ["tokenizer.model"] = spm, ["tokenizer.bin"] = "x", ["tokenizer_config.json"] = '{"bos_token": null}' }
  T.ok(trained:save(dir))
  T.eq(assert(tokenizer.load(dir)):bos_id(), 0)
end)
