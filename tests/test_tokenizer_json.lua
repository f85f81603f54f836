-- tokenizer.json with BPE models, part by part

local T = require "t"
local cases = require "tokenizer_cases"
local tokenizer = require "mocl.tokenizer"

local write, small_json, load_text = cases.write, cases.small_json, cases.load_text
local LLAMA = cases.LLAMA

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
  refused("normalizer 'Nmt' is not supported", { normalizer = '{"type": "Nmt"}' })
  refused("BertNormalizer has a field 'x'", { normalizer = '{"type": "BertNormalizer", "x": 1}' })
  refused("BertNormalizer: 'strip_accents' is not true or false", { normalizer = '{"type": "BertNormalizer", "strip_accents": 1}' })
  refused("pre%-tokenizer 'UnicodeScripts' is not supported", { pre = '{"type": "UnicodeScripts"}' })
  refused("BertPreTokenizer has a field 'x'", { pre = '{"type": "BertPreTokenizer", "x": 1}' })
  refused("behavior of Punctuation 'Removed' is not supported", { pre = '{"type": "Punctuation", "behavior": "Removed"}' })
  refused("CharDelimiterSplit: 'delimiter' is not one character", { pre = '{"type": "CharDelimiterSplit", "delimiter": "ab"}' })
  refused("decoder 'CTC' is not supported", { decoder = '{"type": "CTC"}' })
  refused("decoder WordPiece has no 'prefix'", { decoder = '{"type": "WordPiece"}' })
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
  T.fails("no type and no merges: only BPE and WordPiece", load_text, '{"model": {"vocab": {"a": 0}, "unk_token": "a"}}')
end)
