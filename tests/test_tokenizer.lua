local T = require "t"
local tokenizer = require "mocl.tokenizer"

local function read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read("a")
  f:close()
  return s
end

local function write(path, s)
  local f = assert(io.open(path, "wb"))
  f:write(s)
  f:close()
  return path
end

-- a fixed sequence of numbers, below n
local function numbers(seed)
  local x = seed
  return function(n)
    x = (x * 1103515245 + 12345) % 2147483648
    return (x >> 8) % n
  end
end

local function random_bytes(next_number, n)
  local t = {}
  for i = 1, n do
    t[i] = string.char(next_number(256))
  end
  return table.concat(t)
end

local CORPUS = {
  "the cat sat on the mat, the cat ate 12 rats in 2023.",
  "The hat of the cat that sat there is fat; that's that.",
  "naïve café, ünïcödé: 日本語 日本 日本語",
  "  indented\n\tlines\n\n  and spaces   ",
}

local function corpus_tokenizer(size)
  return tokenizer.train(CORPUS, { vocab_size = size or 300, min_frequency = 2 })
end

-- ---- training ----

-- Our word pattern for ASCII without apostrophes, written by hand.
local function words_of(text)
  local list, i = {}, 1
  while i <= #text do
    local w = text:match("^ ?%a+", i) or text:match("^%d", i) or text:match("^ ?[^%s%w]+", i)
    if not w then
      w = text:match("^%s+", i)
      local after = text:sub(i + #w, i + #w)
      if after ~= "" and #w > 1 then
        w = w:sub(1, -2) -- the last one goes to the next word
      end
    end
    list[#list + 1] = w
    i = i + #w
  end
  return list
end

-- Training in the plainest way: count all pairs anew before each merge.
local function reference_merges(texts, n_special, vocab_size, min_frequency)
  local words, bytes, known = {}, {}, {}
  for b = 0, 255 do
    bytes[n_special + b] = string.char(b)
    known[string.char(b)] = n_special + b
  end
  for _, text in ipairs(texts) do
    for _, w in ipairs(words_of(text)) do
      local s = {}
      for i = 1, #w do
        s[i] = n_special + w:byte(i)
      end
      words[#words + 1] = s
    end
  end
  local next_id = n_special + 256
  while next_id < vocab_size do
    local counts = {}
    for _, s in ipairs(words) do
      for i = 1, #s - 1 do
        local key = s[i] << 32 | s[i + 1]
        counts[key] = (counts[key] or 0) + 1
      end
    end
    local best, best_count = nil, min_frequency - 1
    for key, count in pairs(counts) do
      if count > best_count or count == best_count and best and key < best then
        best, best_count = key, count
      end
    end
    if not best then
      break
    end
    local left, right = best >> 32, best & 0xffffffff
    local joined = bytes[left] .. bytes[right]
    local id = known[joined]
    if not id then
      id, next_id = next_id, next_id + 1
      known[joined], bytes[id] = id, joined
    end
    for _, s in ipairs(words) do
      local i = 1
      while i < #s do
        if s[i] == left and s[i + 1] == right then
          s[i] = id
          table.remove(s, i + 1)
        end
        i = i + 1
      end
    end
  end
  return bytes, next_id
end

T.test("training merges the pairs that plain counting finds, ties by ids", function()
  local next_number = numbers(11)
  for round = 1, 6 do
    local texts = {}
    for i = 1, 12 do
      local t = {}
      for k = 1, 60 do
        local c = next_number(14)
        t[k] = ("aabbcde  f1,\n."):sub(c + 1, c + 1)
      end
      texts[i] = table.concat(t)
    end
    local tok = tokenizer.train(texts, { vocab_size = 330, min_frequency = 1 + round % 3 })
    local bytes, size = reference_merges(texts, 2, 330, 1 + round % 3)
    T.eq(tok:vocab_size(), size)
    for id = 258, size - 1 do
      T.eq(tok:decode({ id }), bytes[id], "id " .. id)
    end
  end
end)

T.test("ids: special tokens, bytes in order, merges; digits stay alone", function()
  local tok = corpus_tokenizer(320)
  T.eq(tok:token_to_id("<s>"), 0)
  T.eq(tok:token_to_id("</s>"), 1)
  T.eq(tok:bos_id(), 0)
  T.eq(tok:eos_id(), 1)
  for b = 0, 255 do
    T.eq(tok:decode({ 2 + b }), string.char(b))
  end
  T.eq(tok:token_to_id("Ġ"), 2 + 32)
  T.eq(tok:id_to_token(2 + 32), "Ġ")
  for id = 258, #tok - 1 do
    local s = tok:decode({ id })
    T.ok(#s > 1 and not s:find("%d"), s)
  end
  T.eq(tok:encode("2023"), { 2 + 50, 2 + 48, 2 + 50, 2 + 51 })
  T.eq(#tok, tok:vocab_size())
  T.eq(tostring(tok), "tokenizer byte-level bpe, " .. #tok .. " ids")
end)

T.test("training again gives the same file, and the file the same ids", function()
  local dir = T.tmpdir()
  local a, b = corpus_tokenizer(), corpus_tokenizer()
  T.ok(a:save(dir .. "/a.json"))
  T.ok(b:save(dir .. "/b.json"))
  T.eq(read(dir .. "/a.json"), read(dir .. "/b.json"))
  local c = assert(tokenizer.load(dir .. "/a.json"))
  T.eq(#c, #a)
  T.eq(c:bos_id(), 0)
  for _, text in ipairs(CORPUS) do
    T.eq(c:encode(text), a:encode(text))
  end
  T.ok(a:save(dir))
  local d = assert(tokenizer.load(dir))
  T.eq(d:eos_id(), 1)
  T.ok(c:save(dir .. "/c.json"))
  T.eq(read(dir .. "/c.json"), read(dir .. "/a.json"))
end)

T.test("special tokens of one's own; those in the texts are not learnt", function()
  local texts = { "<R1> 0.50 <R2> 0.50 go", "<R1> 0.25 <R2> 0.75 go" }
  local tok = tokenizer.train(texts, { vocab_size = 270, special_tokens = { "<R1>", "<R2>" },
    min_frequency = 1 })
  T.eq(tok:bos_id(), nil)
  T.eq(tok:encode("<R2>x<R1>"), { 1, 2 + 120, 0 })
  T.eq(#tok:encode("<R2>", { special = false }), 4)
  T.eq(tok:decode({ 0, 2 + 120 }), "x")
  T.eq(tok:decode({ 0, 2 + 120 }, { skip_special = false }), "<R1>x")
  for id = 258, #tok - 1 do
    T.ok(not tok:decode({ id }):find("[<>R]"), tok:decode({ id }))
  end
  -- a merge that would be spelled like a special token is not made
  local odd = tokenizer.train({ "the the the" }, { vocab_size = 300, special_tokens = { "Ġt" } })
  T.eq(odd:token_to_id("Ġt"), 0)
  T.eq(odd:decode(odd:encode(" the the")), " the the")
end)

T.test("training stops where no pair is frequent enough, and with no text at all", function()
  T.eq(#tokenizer.train({ "abc" }, { vocab_size = 400, min_frequency = 2 }), 258)
  T.eq(#tokenizer.train({}, { vocab_size = 300 }), 258)
  T.eq(tokenizer.train({}, { vocab_size = 258 }):encode("a"), { 2 + 97 })
end)

T.test("training refuses what it cannot do", function()
  T.raises("vocab_size is 100, it must be 258 %(2 special tokens and 256 bytes%)", tokenizer.train,
    {}, { vocab_size = 100 })
  T.raises("min_frequency is 0", tokenizer.train, {}, { min_frequency = 0 })
  T.raises("unknown option 'vocabsize' %(did you mean 'vocab_size'", tokenizer.train, {},
    { vocabsize = 9 })
  T.raises("texts: entry 2 is a number", tokenizer.train, { "a", 2 })
  T.raises("special_tokens: entry 1 is a boolean", tokenizer.train, {},
    { special_tokens = { true } })
  T.raises("special token 'x%+' is there twice", tokenizer.train, {},
    { special_tokens = { "x+", "x+" } })
  T.raises("spelled like the byte 0x78", tokenizer.train, {}, { special_tokens = { "x" } })
  T.raises("special token 2 is empty", tokenizer.train, {}, { special_tokens = { "<s>", "" } })
  T.raises("special token 1 is not UTF%-8", tokenizer.train, {},
    { special_tokens = { "\xff\xff" } })
end)

-- ---- round trips ----

T.test("byte-level: any bytes come back", function()
  local tok, next_number = corpus_tokenizer(), numbers(3)
  for n = 0, 200 do
    local s = random_bytes(next_number, n)
    T.eq(tok:decode(tok:encode(s, { special = false })), s)
  end
  local all = {}
  for b = 0, 255 do
    all[#all + 1] = string.char(b)
  end
  T.eq(tok:decode(tok:encode(table.concat(all))), table.concat(all))
end)

T.test("real text comes back, in one piece and in a batch", function()
  local text = read(T.shared("prefs/llamafactory/dpo_en_demo.json"))
  local lines = {}
  for line in text:gmatch("[^\n]+") do
    lines[#lines + 1] = line
  end
  local tok = tokenizer.train(lines, { vocab_size = 800 })
  T.eq(#tok, 800)
  local ids = tok:encode(text)
  T.ok(#ids < #text / 2, "merges shorten the text")
  T.ok(tok:decode(ids) == text, "the text comes back")
  for i, line_ids in ipairs(tok:encode_batch(lines, { bos = true, eos = true })) do
    T.eq(line_ids[1], 0)
    T.eq(line_ids[#line_ids], 1)
    T.ok(tok:decode(line_ids) == lines[i])
  end
end)

T.test("long words are merged like short ones", function()
  local tok = tokenizer.train({ ("ab"):rep(40), "ab ab ab" },
    { vocab_size = 262, min_frequency = 1 })
  local long = ("ab"):rep(50000)
  T.ok(tok:decode(tok:encode(long)) == long)
  T.ok(tok:decode(tok:encode((" "):rep(100000))) == (" "):rep(100000))
end)

-- ---- known ids ----

local function gguf_cases(name)
  local base = T.shared("tokenizers/gguf-vocab/ggml-vocab-" .. name .. ".gguf.inp"):sub(1, -5)
  local mark, cases, at = "\n__ggml_vocab_test__\n", {}, 1
  local text = read(base .. ".inp")
  for line in (read(base .. ".out") .. "\n"):gmatch("([^\n]*)\n") do
    local from, to = text:find(mark, at, true)
    local ids = {}
    for id in line:gmatch("%d+") do
      ids[#ids + 1] = math.tointeger(id)
    end
    cases[#cases + 1] = { text = text:sub(at, (from or #text + 1) - 1), ids = ids }
    at = (to or #text) + 1
  end
  T.eq(#cases, 47)
  return cases
end

T.test("GPT-2: third-party ids", function()
  local folder = T.shared("tokenizers/gpt2/encoder.json"):gsub("encoder.json$", "")
  local tok = assert(tokenizer.load(folder .. "encoder.json", folder .. "vocab.bpe"))
  T.eq(#tok, 50257)
  T.eq(tok:eos_id(), 50256)
  for _, case in ipairs(gguf_cases("gpt-2")) do
    T.eq(tok:encode(case.text), case.ids, T.show(case.text))
    T.eq(tok:decode(case.ids), case.text)
  end
  local saved = T.tmpdir() .. "/gpt2.json"
  T.ok(tok:save(saved))
  T.eq(assert(tokenizer.load(saved)):encode("Hello<|endoftext|>"), { 15496, 50256 })
end)

T.test("Llama-2: third-party ids, from both file formats", function()
  local model = assert(tokenizer.load(T.shared("tokenizers/llama2/tokenizer.model")))
  local bin = assert(tokenizer.load(T.shared("tokenizers/llama2/tokenizer.bin")))
  T.eq({ #model, model:bos_id(), model:eos_id() }, { 32000, 1, 2 })
  T.eq({ #bin, bin:bos_id(), bin:eos_id() }, { 32000, 1, 2 })
  T.eq({ model:id_to_token(278), bin:id_to_token(278) }, { "▁the", " the" })
  for _, case in ipairs(gguf_cases("llama-spm")) do
    T.eq(model:encode(case.text), case.ids, T.show(case.text))
    T.eq(model:decode(case.ids), case.text)
    T.eq(bin:encode(case.text), case.ids, T.show(case.text))
    T.eq(bin:decode(bin:encode(case.text, { bos = true })), case.text)
  end
  T.eq(model:decode(model:encode("\xff\0x")), "\xff\0x")
end)

T.test("BART: what its post-processor adds", function()
  local tok = assert(tokenizer.load(T.shared("tokenizers/bart/tokenizer.json")))
  T.eq({ tok:bos_id(), tok:eos_id() }, { 0, 2 })
  T.eq(tok:encode("Hello world"), { 31414, 232 })
  T.eq(tok:encode("Hello world", { template = true }), { 0, 31414, 232, 2 })
  T.eq(tok:encode("Hello", { template = true, pair = "Hello" }), { 0, 31414, 2, 2, 31414, 2 })
  T.eq(tok:encode("Hello   <mask>"), { 31414, 50264 }) -- its lstrip takes the spaces
  T.eq(tok:decode({ 0, 31414, 2 }), "Hello")
  T.raises("a pair needs add_special_tokens = true", tok.encode, tok, "a", { pair = "b" })
end)

-- ---- llama2.c ----

-- run.c's encode, written from its description: best score first, all pairs looked at each time.
local function reference_encode(pieces, text)
  local ids = {}
  if text ~= "" then
    ids[1] = pieces.id[" "]
  end
  local i = 1
  while i <= #text do
    local n = 1
    while n < 4 and i + n <= #text and text:byte(i + n) & 0xc0 == 0x80 do
      n = n + 1
    end
    local c = text:sub(i, i + n - 1)
    if pieces.id[c] then
      ids[#ids + 1] = pieces.id[c]
    else
      for k = 1, n do
        ids[#ids + 1] = c:byte(k) + 3
      end
    end
    i = i + n
  end
  while true do
    local best, at, id = -1e10, nil, nil
    for k = 1, #ids - 1 do
      local joined = pieces.id[pieces.text[ids[k]] .. pieces.text[ids[k + 1]]]
      if joined and pieces.score[joined] > best then
        best, at, id = pieces.score[joined], k, joined
      end
    end
    if not at then
      return ids
    end
    ids[at] = id
    table.remove(ids, at + 1)
  end
end

local function read_pieces(path)
  local s = read(path)
  local pieces, at, id = { id = {}, text = {}, score = {} }, 5, 0
  while at <= #s do
    local score, text
    score, text, at = ("<fs4"):unpack(s, at)
    pieces.id[text], pieces.text[id], pieces.score[id] = id, text, score
    id = id + 1
  end
  return pieces
end

T.test("llama2.c vocabulary: as run.c encodes and decodes", function()
  local path = T.shared("weights/stories260K/tok512.bin")
  local tok, pieces = assert(tokenizer.load(path)), read_pieces(path)
  T.eq(#tok, 512)
  T.eq({ tok:bos_id(), tok:eos_id(), tok:token_to_id("<s>") }, { 1, 2, 1 })
  local story = read(T.shared("weights/stories260K/expected_greedy_200.txt"))
  local next_number = numbers(5)
  local texts = { "", "a", " ", "Once upon a time", "  two  spaces ", "\n\n", story,
    "ünï 日本 \xff\x80\x80", "<s> is text", "<0x41>", "\0" }
  for n = 1, 40 do
    texts[#texts + 1] = random_bytes(next_number, n)
    local from = next_number(#story - 50)
    texts[#texts + 1] = story:sub(from, from + n)
  end
  for _, text in ipairs(texts) do
    local ids = tok:encode(text)
    T.eq(ids, reference_encode(pieces, text), T.show(text))
    T.eq(tok:decode(tok:encode(text, { bos = true })), text)
  end
  T.eq(tok:encode("Once upon a time", { bos = true, eos = true }), { 1, 403, 407, 261, 378, 2 })
  T.eq(tok:decode({ 403, 407 }), " Once upon") -- no BOS: the space stays
  T.eq(tok:decode({ 1, 403, 3 + 10 }), "Once\n")
  local saved = T.tmpdir()
  T.ok(tok:save(saved))
  T.eq(read(saved .. "/tokenizer.bin"), read(path))
end)

-- ---- tokenizer.json ----

-- a small character model: letters, a merge, and bytes where `bytes` is set
local function small_json(parts)
  local vocab = { '"<unk>": 0, "a": 1, "b": 2, "ab": 3, "▁": 4, "▁a": 5, "1": 6, "c": 7' }
  if parts.bytes then
    for b = 0, 255 do
      vocab[#vocab + 1] = ('"<0x%02X>": %d'):format(b, 8 + b)
    end
  end
  return ([[{"version": "1.0", "added_tokens": [%s], "normalizer": %s, "pre_tokenizer": %s,
    "post_processor": %s, "decoder": %s, "model": {"type": "BPE", "unk_token": %s,
    "fuse_unk": %s, "byte_fallback": %s, "vocab": {%s}, "merges": [%s]}}]]):format(
    parts.added or "", parts.normalizer or "null", parts.pre or "null", parts.post or "null",
    parts.decoder or '{"type": "Fuse"}', parts.unk or '"<unk>"', parts.fuse or "false",
    parts.bytes and "true" or "false", table.concat(vocab, ", "),
    parts.merges or '"a b", ["▁", "a"]')
end

local function load_text(s)
  return tokenizer.load(write(T.tmpdir() .. "/tokenizer.json", s))
end

local LLAMA = {
  bytes = true,
  normalizer = [[{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}]],
  decoder = [[{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"},
    "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}]],
}

T.test("json: byte fallback and Llama's steps; merges as strings and as pairs", function()
  local tok = assert(load_text(small_json(LLAMA)))
  T.eq(tok:encode("ab a"), { 4, 3, 5 }) -- "a b" ranks before "▁ a"
  T.eq(tok:encode("é"), { 4, 8 + 0xc3, 8 + 0xa9 })
  T.eq(tok:decode(tok:encode("ab é\xff a")), "ab é\xff a")
  T.eq(tok:decode({ 5, 3 }), "aab")
  T.eq(tostring(tok), "tokenizer character bpe, 264 ids")
end)

T.test("json: unknown characters", function()
  T.eq(assert(load_text(small_json {})):encode("axyb"), { 1, 0, 0, 2 })
  T.eq(assert(load_text(small_json { fuse = "true" })):encode("axyb"), { 1, 0, 2 })
  local strict = assert(load_text(small_json { unk = "null" }))
  T.raises("no token for 'é'", strict.encode, strict, "aé")
  T.raises("no token for the byte 0xff", strict.encode, strict, "\xff")
end)

T.test("json: normalizers", function()
  local function ids(normalizer, text)
    return assert(load_text(small_json { normalizer = normalizer })):encode(text)
  end
  T.eq(ids('{"type": "Lowercase"}', "AB"), { 3 })
  T.eq(ids('{"type": "NFKC"}', "ⓐ①"), { 1, 6 })
  T.eq(ids('{"type": "NFKD"}', "ⓐ"), { 1 })
  T.eq(ids('{"type": "NFD"}', "á"), { 1, 0 })
  T.eq(ids('{"type": "NFC"}', "a\u{301}"), { 0 })
  T.eq(ids('{"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "1"}', "a987b"),
    { 1, 6, 2 })
end)

T.test("json: pre-tokenizers", function()
  local function ids(pre, text)
    return assert(load_text(small_json { pre = pre })):encode(text)
  end
  local split = '{"type": "Split", "pattern": %s, "behavior": "%s", "invert": false}'
  T.eq(ids("null", "ab1"), { 3, 6 })
  T.eq(ids(split:format('{"String": "b"}', "Isolated"), "abab"), { 1, 2, 1, 2 })
  T.eq(ids(split:format('{"String": "1"}', "Removed"), "ab1a"), { 3, 1 })
  T.eq(ids(split:format('{"Regex": "a"}', "MergedWithPrevious"), "1ab"), { 6, 1, 2 })
  T.eq(ids(split:format('{"Regex": "a"}', "MergedWithNext"), "1ab"), { 6, 3 })
  T.eq(ids(split:format('{"Regex": "[ab]"}', "Contiguous"), "1ab"), { 6, 3 })
  T.eq(ids('{"type": "Digits", "individual_digits": true}', "ab11"), { 3, 6, 6 })
end)

T.test("json: added tokens", function()
  local tok = assert(load_text(small_json { added = [[
    {"id": 8, "content": "cab", "special": true},
    {"id": 9, "content": "ca", "single_word": true, "special": false, "normalized": false},
    {"id": 10, "content": "<x>", "lstrip": true, "rstrip": true, "special": true}]] }))
  T.eq(tok:encode("acabb"), { 1, 8, 2 }) -- the longest
  T.eq(tok:encode("ca"), { 9 })
  T.eq(tok:encode("aca"), { 1, 7, 1 })
  T.eq(tok:encode("a <x>  b"), { 1, 10, 2 })
  T.eq(tok:encode("cab", { special = false }), { 7, 3 })
  T.eq(tok:decode({ 8, 1, 9 }), "aca")
  T.eq(tok:vocab_size(), 11)
end)

T.test("json: BOS and EOS from the template, then from tokenizer_config.json", function()
  local post = [[{"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "c", "type_id": 0}},
               {"Sequence": {"id": "A", "type_id": 0}}],
    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
    "special_tokens": {"c": {"id": "c", "ids": [7], "tokens": ["c"]}}}]]
  local dir = T.tmpdir()
  local path = write(dir .. "/tokenizer.json", small_json { post = post })
  local tok = assert(tokenizer.load(path))
  T.eq({ tok:bos_id() }, { 7 })
  T.eq(tok:eos_id(), nil)
  T.eq(tok:encode("ab", { template = true }), { 7, 3 })
  T.eq(tok:encode("ab", { template = true, pair = "b" }), { 3, 2 })
  T.raises("no EOS token", tok.encode, tok, "a", { eos = true })
  write(dir .. "/tokenizer_config.json", '{"bos_token": null, "eos_token": {"content": "ab"}}')
  tok = assert(tokenizer.load(dir))
  T.eq(tok:bos_id(), nil)
  T.eq(tok:eos_id(), 3)
  write(dir .. "/tokenizer_config.json", '{"bos_token": "nope"}')
  tok = assert(tokenizer.load(dir)) -- a new token, with the next id
  T.eq({ tok:bos_id(), tok:vocab_size() }, { 8, 9 })
end)

T.test("json: what is not known is refused by name", function()
  local function refused(pattern, parts)
    T.fails(pattern, load_text, small_json(parts))
  end
  refused("normalizer 'BertNormalizer' is not supported",
    { normalizer = '{"type": "BertNormalizer"}' })
  refused("pre%-tokenizer 'Whitespace' is not supported", { pre = '{"type": "Whitespace"}' })
  refused("decoder 'WordPiece' is not supported", { decoder = '{"type": "WordPiece"}' })
  refused("post%-processor 'Odd' is not supported", { post = '{"type": "Odd"}' })
  refused("BertProcessing: 'cls' is not %[token, id%]", { post = '{"type": "BertProcessing"}' })
  refused("NFC has a field 'x' that is not supported", { normalizer = '{"type": "NFC", "x": 1}' })
  refused("behavior of Split 'Odd' is not supported",
    { pre = '{"type": "Split", "pattern": {"String": "a"}, "behavior": "Odd", "invert": false}' })
  refused("pattern uses %( without %) at character 1", { normalizer =
    '{"type": "Replace", "pattern": {"Regex": "("}, "content": ""}' })
  refused("pattern uses \\X at character 2", { normalizer =
    [[{"type": "Replace", "pattern": {"Regex": "a\\X"}, "content": ""}]] })
  refused("'Digits' after ByteLevel", { pre = [[{"type": "Sequence", "pretokenizers":
    [{"type": "ByteLevel"}, {"type": "Digits"}]}]] })
  refused("merge 0: 'z' is not in the vocabulary", { merges = '"a z"' })
  refused("merge 0: 'ba' is not in the vocabulary", { merges = '"b a"' })
  refused("merge 1 is there twice", { merges = '"a b", "a b"' })
  refused("merge 0 is not a pair", { merges = '"ab"' })
  refused("unk_token 'q' is not in the vocabulary", { unk = '"q"' })
  refused("added token 'ab' has id 9, another one", { added = '{"id": 9, "content": "ab"}' })
  refused("added token 'zz' has the id 3 of another token",
    { added = '{"id": 3, "content": "zz"}' })
  refused("the post%-processor adds id 77", { post = [[{"type": "RobertaProcessing",
    "sep": ["x", 77], "cls": ["x", 1]}]] })
  T.fails("model 'Unigram' is not supported", load_text, '{"model": {"type": "Unigram"}}')
  T.fails("no 'model'", load_text, "{}")
  T.fails("duplicate", load_text,
    '{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}')
  T.fails("tokens 'a' and 'b' have the same id 0", load_text,
    '{"model": {"type": "BPE", "vocab": {"a": 0, "b": 0}, "merges": []}}')
  T.fails("id %-1", load_text, '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}')
  T.fails("tokenizer.json:1:", load_text, "{")
  local bert = T.shared("tokenizers/bert-base-uncased/tokenizer.json")
  T.fails("only BPE is supported", tokenizer.load, bert)
end)

-- ---- files that are broken ----

T.test("missing and foreign files", function()
  local dir = T.tmpdir()
  local _, message, code = tokenizer.load(dir .. "/none.json")
  T.eq({ message, code }, { dir .. "/none.json: No such file or directory", "IO" })
  T.fails("holds no tokenizer.json", tokenizer.load, dir)
  T.fails("not a tokenizer %(expected", tokenizer.load, write(dir .. "/x.txt", "hello"))
  _, message, code = tokenizer.load(write(dir .. "/x.bin", "\0\0\0\0"))
  T.eq(code, "FORMAT")
  T.ok(message:find("not a llama2.c tokenizer"), message)
  T.fails("longest piece", tokenizer.load, write(dir .. "/x.bin", ("<I4"):pack(1 << 30)))
  T.fails("not a SentencePiece model", tokenizer.load, write(dir .. "/x.model", "hello"))
  T.fails("expected two tokens", tokenizer.load, write(dir .. "/v.json", '{"a": 0}'),
    write(dir .. "/m.txt", "#version: 0.2\na b c\n"))
  T.fails("/nowhere/x.json: ", function()
    return corpus_tokenizer():save(dir .. "/nowhere/x.json")
  end)
end)

T.test("llama2.c files: each damage is told", function()
  local dir = T.tmpdir()
  local function file(change)
    local tokens = { "<unk>", "\n<s>\n", "\n</s>\n" }
    for b = 0, 255 do
      tokens[#tokens + 1] = ("<0x%02X>"):format(b)
    end
    tokens[#tokens + 1] = " "
    local out = { ("<i4"):pack(8) }
    for i, text in ipairs(tokens) do
      out[#out + 1] = ("<fs4"):pack(-i, text)
    end
    change(out)
    return write(dir .. "/x.bin", table.concat(out))
  end
  T.eq(#assert(tokenizer.load(file(function() end))), 260)
  T.fails("duplicate token", tokenizer.load, file(function(o)
    o[#o + 1] = ("<fs4"):pack(0, " ")
  end))
  T.fails("not finite", tokenizer.load, file(function(o) o[#o + 1] = ("<fs4"):pack(0 / 0, "a") end))
  T.fails("has 0 bytes", tokenizer.load, file(function(o) o[#o + 1] = ("<fs4"):pack(0, "") end))
  T.fails("has 99 bytes, the longest has 8", tokenizer.load, file(function(o)
    o[#o + 1] = ("<fI4"):pack(0, 99)
  end))
  T.fails("truncated: token 260 has 8 bytes, 1 are left", tokenizer.load, file(function(o)
    o[#o + 1] = ("<fI4"):pack(0, 8) .. "x"
  end))
  T.fails("truncated in the header", tokenizer.load, file(function(o) o[#o + 1] = "xyz" end))
  T.fails("expected '<0x00>'", tokenizer.load, file(function(o)
    o[5] = ("<fs4"):pack(0, "zero")
  end))
  T.fails("at least 259 are needed", tokenizer.load, file(function(o)
    for _ = 1, 20 do
      o[#o] = nil
    end
  end))
end)

-- Cuts and single wrong bytes: either a tokenizer that encodes, or a message; never anything else.
local function damage(name, whole, step, n_flips)
  local path, next_number = T.tmpdir() .. "/" .. name, numbers(9)
  local function try(s)
    local tok, message, code = tokenizer.load(write(path, s))
    if tok then
      pcall(tok.encode, tok, "Hello wörld 12 \xff", { template = true })
      tok:release()
    else
      T.ok(code == "FORMAT" and message:find(path, 1, true), message)
    end
  end
  for n = 0, #whole - 1, step do
    try(whole:sub(1, n))
  end
  for _ = 1, n_flips do
    local at = 1 + next_number(#whole)
    try(whole:sub(1, at - 1) .. string.char(next_number(256)) .. whole:sub(at + 1))
  end
end

T.test("damaged files of each format", function()
  local dir = T.tmpdir()
  assert(corpus_tokenizer():save(dir .. "/t.json"))
  damage("t.json", read(dir .. "/t.json"), 97, 100)
  damage("l.json", small_json(LLAMA), 97, 200)
  damage("t.bin", read(T.shared("weights/stories260K/tok512.bin")), 97, 200)
  damage("t.model", read(T.shared("tokenizers/llama2/tokenizer.model")):sub(1, 8000), 97, 200)
end)

-- ---- decoding ----

local function stream_pieces(tok, ids, options)
  local stream, pieces = tok:decode_stream(options), {}
  for i, id in ipairs(ids) do
    pieces[i] = stream:push(id)
  end
  pieces[#pieces + 1] = stream:flush()
  return pieces
end

T.test("decode_stream: whole characters only, together what decode gives", function()
  local tok = tokenizer.train({}, { vocab_size = 258 })
  local function ids(s)
    return tok:encode(s)
  end
  T.eq(stream_pieces(tok, ids("aé日🙂b")),
    { "a", "", "é", "", "", "日", "", "", "", "🙂", "b", "" })
  T.eq(stream_pieces(tok, ids("\xe6\x97")), { "", "", "\xe6\x97" }) -- unfinished: flush gives it
  T.eq(stream_pieces(tok, ids("\x80\xffa")), { "\x80", "\xff", "a", "" }) -- can never be one
  T.eq(stream_pieces(tok, ids("\xe6a")), { "", "\xe6a", "" })
  T.eq(stream_pieces(tok, ids("\xed\xa0\x80")), { "", "\xed\xa0", "\x80", "" }) -- a surrogate
  T.eq(stream_pieces(tok, { 0, 2 + 97, 1 }), { "", "a", "", "" })
  T.eq(stream_pieces(tok, { 0, 2 + 97 }, { skip_special = false }), { "<s>", "a", "" })
  local next_number = numbers(4)
  local llama = assert(load_text(small_json(LLAMA)))
  local bin = assert(tokenizer.load(T.shared("weights/stories260K/tok512.bin")))
  local model = assert(tokenizer.load(T.shared("tokenizers/llama2/tokenizer.model")))
  for n = 0, 60 do
    local s = n % 2 == 0 and random_bytes(next_number, n) or " ab\u{1f642}é a" .. n
    for _, t in ipairs { tok, llama, bin, model } do
      for _, bos in ipairs { false, t:bos_id() ~= nil } do
        local e = t:encode(s, { bos = bos })
        T.eq(table.concat(stream_pieces(t, e)), t:decode(e))
      end
    end
  end
end)

T.test("decode_stream outlives its tokenizer only with a message", function()
  local tok = corpus_tokenizer()
  local stream = tok:decode_stream()
  tok:release()
  T.raises("its tokenizer was released", stream.push, stream, 2)
  T.raises("mocl.tokenizer was released", tok.encode, tok, "a")
  T.eq(tostring(tok), "tokenizer (released)")
end)

T.test("wrong arguments raise", function()
  local tok = tokenizer.train({}, { vocab_size = 258 })
  T.raises("decode: id %-1 is negative", tok.decode, tok, { -1 })
  T.raises("decode: id %-99999999999 is negative", tok.decode, tok, { -99999999999 })
  T.raises("entry 2 is a string", tok.decode, tok, { 1, "2" })
  T.raises("decode: id %-3", function() tok:decode_stream():push(-3) end)
  T.raises("unknown option 'boss' %(did you mean 'bos'", tok.encode, tok, "a", { boss = true })
  T.raises("bad option 'bos' %(boolean expected, got number%)", tok.encode, tok, "a", { bos = 1 })
  T.raises("encode_batch: entry 1 is a table", tok.encode_batch, tok, { {} })
  T.eq(tok:id_to_token(258), nil)
  T.eq(tok:id_to_token(-5), nil)
  T.eq(tok:token_to_id("no such"), nil)
  T.eq(tok:decode({}), "")
  T.eq(tok:encode(""), {})
end)

-- ---- the recipe ----

T.test("mocl tokenize", function()
  local dir = T.tmpdir()
  assert(tokenizer.train({}, { vocab_size = 258 }):save(dir .. "/tokenizer.json"))
  write(dir .. "/text", "ab\n\nc")
  local mocl = (arg and arg[-1]) or "./mocl"
  local function run(args)
    local p = assert(io.popen(("'%s' tokenize %s 2>&1"):format(mocl, args)))
    local out = p:read("a")
    local _, _, status = p:close()
    return out, status
  end
  local base = ("tokenizer='%s' file='%s/text' "):format(dir, dir)
  T.eq({ run(base) }, { "0 99 100\n0\n0 101\n", 0 })
  T.eq({ run(base .. "bos=false") }, { "99 100\n\n101\n", 0 })
  T.eq({ run(base .. "whole=true") }, { "0 99 100 12 12 101\n", 0 })
  T.eq({ run(("tokenizer='%s' file=- < '%s/text'"):format(dir, dir)) },
    { "0 99 100\n0\n0 101\n", 0 })
  local out, status = run(base .. "hole=true")
  T.ok(status == 1 and out:find("unknown option 'hole' (did you mean 'whole'?)", 1, true), out)
  out, status = run("tokenizer='" .. dir .. "' file=/no/such")
  T.ok(status == 1 and out:find("/no/such: No such file or directory", 1, true), out)
  out, status = run("tokenizer=/no/such file=-")
  T.ok(status == 1 and out:find("/no/such: No such file or directory", 1, true), out)
end)
