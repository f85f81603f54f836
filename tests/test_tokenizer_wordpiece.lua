-- WordPiece, BERT's steps, vocab.txt, the classes of BERT, RoBERTa and BART, pairs of texts and their type ids

local T = require "t"
local cases = require "tokenizer_cases"
local file = require "gguf_file"
local fs = require "mocl.fs"
local json = require "mocl.json"
local tokenizer = require "mocl.tokenizer"

local function directory(files)
  local dir = T.tmpdir()
  for name, text in pairs(files) do
    assert(fs.write(dir .. "/" .. name, text))
  end
  return dir
end

local function load(files)
  return tokenizer.load(directory(files))
end

local function golden(name)
  return assert(json.decode(assert(fs.read("tests/fixtures/tokenizers/" .. name))))
end

local ENDS = { add_special_tokens = true, return_token_type_ids = true }

-- the ids and type ids of two texts
local function pair(tok, a, b, ends)
  local ids, types = tok:encode(a, { pair = b, add_special_tokens = ends, return_token_type_ids = true })
  return { ids, types }
end

local function check_case(tok, case, what)
  for i, text in ipairs(case.texts) do
    local where = ("%s, text %q"):format(what, text)
    T.eq(tok:encode(text, { add_special_tokens = true }), case.ids[i], where)
    T.eq(tok:encode(text), case.plain[i], where .. ", plain")
    if not case.full[i]:find "\u{fffd}" then
      T.eq(tok:decode(case.ids[i]), case.text[i], where .. ", decoded")
      T.eq(tok:decode(case.ids[i], { skip_special = false }), case.full[i], where .. ", decoded in full")
    end
    local want = case.pairs[i]
    if want then
      T.eq(pair(tok, text, case.texts[i + 1], true), { want[1], want[2] }, where .. ", pair")
      if want[3] then
        T.eq(pair(tok, text, case.texts[i + 1]), { want[3], want[4] }, where .. ", pair, plain")
      end
    end
  end
end

-- ---- against the originals ----

T.test("WordPiece with BERT's steps and others: as tokenizers 0.23.3", function()
  local all = golden "wordpiece.json"
  for i, case in ipairs(all.cases) do
    local tok = assert(load { ["tokenizer.json"] = (case.json:gsub('"VOCAB"', function() return all.vocab end)) })
    T.eq(tostring(tok):match "^tokenizer wordpiece, %d+ ids$", tostring(tok))
    check_case(tok, case, "tokenizer " .. i)
  end
end)

T.test("vocab.txt, vocab.json with merges.txt and keys that go before a tokenizer.json: as transformers 5.24 and 4.57", function()
  for i, case in ipairs(golden "classes.json".cases) do
    local tok = assert(load(case.files))
    check_case(tok, case, "directory " .. i)
    local dir = T.tmpdir()
    assert(tok:save(dir))
    check_case(assert(tokenizer.load(dir)), case, "directory " .. i .. ", saved")
  end
end)

local function shared_tokenizers(pattern)
  local function at(name)
    return T.shared("tokenizers/" .. name)
  end
  local dir = directory { ["vocab.txt"] = cases.read(at "bert-base-uncased/vocab.txt") }
  local llama3 = assert(tokenizer.load(at "llama3/hf-style/encoder.json", at "llama3/hf-style/vocab.bpe"))
  local path = T.tmpdir()
  assert(llama3:save(path))
  -- with the words of Llama 3 in place of GPT-2's
  local root = assert(json.decode(assert(fs.read(path .. "/tokenizer.json"))))
  root.model.ignore_merges = true
  root.pre_tokenizer = { type = "Sequence", pretokenizers = {
    { type = "Split", pattern = { Regex = pattern }, behavior = "Isolated", invert = false },
    { type = "ByteLevel", add_prefix_space = false, trim_offsets = true, use_regex = false } } }
  root.added_tokens = json.array {}
  assert(fs.write(path .. "/tokenizer.json", json.encode(root)))
  return { bert = { assert(tokenizer.load(at "bert-base-uncased/tokenizer.json")), assert(tokenizer.load(dir)) },
    bart = { assert(tokenizer.load(at "bart/tokenizer.json")) }, llama3 = { assert(tokenizer.load(path)) } }
end

T.test("real vocabularies of BERT, BART and Llama 3: as tokenizers 0.23.3", function()
  local all, texts = golden "shared.json", {}
  for i, case in ipairs(cases.gguf_cases "gpt-2") do
    texts[i] = case.text
  end
  local toks = shared_tokenizers(all.llama3_pattern)
  for _, case in ipairs(all.cases) do
    for _, tok in ipairs(toks[case.name]) do
      for i, text in ipairs(texts) do
        T.eq(tok:encode(text, { add_special_tokens = true }), case.ids[i], case.name .. " " .. T.show(text))
        if case.pairs[i] then
          T.eq(pair(tok, text, texts[i + 1], true), case.pairs[i], case.name .. " " .. T.show(text))
        end
      end
    end
  end
end)

T.test("a tokenizer that sentence-transformers saved", function()
  local want = assert(json.decode(cases.read(T.shared "families/bert-mean/sentences.json")))
  for _, version in ipairs { "4.57", "5.24" } do
    local folder = T.shared("families/bert-mean/" .. version .. "/tokenizer.json"):gsub("/tokenizer.json$", "")
    local tok = assert(tokenizer.load(folder))
    for i, text in ipairs(want.texts) do
      local ids = tok:encode(text, { add_special_tokens = true })
      if #ids > want.max_seq_length then -- cut there: the texts give the ids before [SEP]
        ids = table.move(ids, #ids, #ids, want.max_seq_length, table.move(ids, 1, want.max_seq_length - 1, 1, {}))
      end
      T.eq(ids, want.input_ids[i], text)
    end
  end
end)

-- ---- by hand ----

local LINES = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\nb\n##b\n##a\nthe\n##日\n日\n"

T.test("a vocabulary whose only token is empty", function()
  local tok = assert(load { ["vocab.txt"] = "\n" })
  T.eq(tok:decode { 0 }, "")
end)

T.test("words, their continuations, and what is unknown", function()
  local tok = assert(load { ["vocab.txt"] = LINES })
  T.eq(tok:encode "The aba, b", { 9, 5, 7, 8, 1, 6 })
  T.eq(tok:encode "abx", { 1 }) -- the whole word
  local long = { 5 }
  for i = 2, 100 do
    long[i] = 7
  end
  T.eq(tok:encode("a" .. ("b"):rep(99)), long)
  T.eq(tok:encode("a" .. ("b"):rep(100)), { 1 }) -- over 100 characters
  T.eq(tok:encode "a日b", { 5, 11, 6 })
  T.eq(tok:encode("a", ENDS), { 2, 5, 3 })
  T.eq(tok:encode "a\xffb a\xe6\x97", { 5, 7, 5 }) -- bytes that are no character count as U+FFFD, which goes
  T.eq(tok:encode "a\u{301}b", { 5, 7 })
  T.eq(tok:decode { 2, 9, 5, 7, 3 }, "the ab")
  local stream, pieces = tok:decode_stream(), {}
  for i, id in ipairs { 2, 9, 5, 7 } do
    pieces[i] = stream:push(id)
  end
  T.eq(pieces, { "", "the", " a", "b" })
end)

T.test("type ids: of one text, of two, with ends of one's own", function()
  local tok = assert(load { ["vocab.txt"] = LINES })
  local ids, types = tok:encode("a b", ENDS)
  T.eq({ ids, types }, { { 2, 5, 6, 3 }, { 0, 0, 0, 0 } })
  T.eq(pair(tok, "a b", "b", true), { { 2, 5, 6, 3, 6, 3 }, { 0, 0, 0, 0, 1, 1 } })
  T.eq(pair(tok, "a b", "b"), { { 5, 6, 6 }, { 0, 0, 1 } })
  T.eq(pair(tok, "", "", true), { { 2, 3, 3 }, { 0, 0, 1 } })
  T.eq({ tok:encode("a", { pair = "b", bos = true, eos = true, return_token_type_ids = true }) },
    { { 2, 5, 6, 3 }, { 0, 0, 1, 1 } })
  T.eq(select("#", tok:encode("a", { pair = "b" })), 1)
  T.raises("encode_batch: option 'return_token_type_ids' is for encode only", tok.encode_batch, tok, { "a" },
    { return_token_type_ids = true })
  T.raises("encode_batch: option 'pair' is for encode only", tok.encode_batch, tok, { "a" }, { pair = "b" })
  -- without a post-processor
  local plain = tokenizer.train({}, { vocab_size = 257, special_tokens = { "<x>" } })
  T.eq(pair(plain, "a", "bc"), { { 98, 99, 100 }, { 0, 1, 1 } })
end)

T.test("what is wrong with a vocabulary of BERT is told", function()
  local function refused(pattern, files)
    T.fails(pattern, load, files)
  end
  refused("vocab.txt: the file is empty", { ["vocab.txt"] = "" })
  refused("vocab.txt: byte 2 is not UTF%-8", { ["vocab.txt"] = "a\n\xff\n" })
  refused("vocab.txt:2: the token ends with white space, which transformers 5 takes off and 4 does not", { ["vocab.txt"] = "a\nb \n" })
  refused("vocab.txt: .*UTF%-16", { ["vocab.txt"] = "\xff\xfea\0" })
  refused("tokenizer_class = 'T5Tokenizer' is not supported with vocab.txt", {
    ["vocab.txt"] = LINES, ["tokenizer_config.json"] = '{"tokenizer_class": "T5Tokenizer"}' })
  refused("needs cls_token, which is null", { ["vocab.txt"] = LINES, ["tokenizer_config.json"] = '{"cls_token": null}' })
  refused('do_lower_case = 1 is not supported', { ["vocab.txt"] = LINES, ["tokenizer_config.json"] = '{"do_lower_case": 1}' })
  refused('tokenizer_class = 1 is not supported', { ["vocab.txt"] = LINES, ["tokenizer_config.json"] = '{"tokenizer_class": 1}' })
  refused("config.json:1:", { ["vocab.txt"] = LINES, ["config.json"] = "{" })
  refused("RoBERTa's sep_token and cls_token may not be null", { ["vocab.json"] = '{"a": 0}', ["merges.txt"] = "",
    ["tokenizer_config.json"] = '{"tokenizer_class": "RobertaTokenizer", "sep_token": null}' })
  local unknown = assert(load { ["vocab.txt"] = LINES:gsub("%[UNK%]", "u") })
  T.raises("the vocabulary has no tokens for 'x' and no unknown token", unknown.encode, unknown, "a x")
  -- a class that says nothing of its own, and a key that contradicts the file
  local file = json.decode(assert(fs.read("tests/fixtures/tokenizers/classes.json"))).cases
  local cased
  for _, case in ipairs(file) do
    cased = cased or case.files["tokenizer.json"]
  end
  refused("do_lower_case = true is not supported %(the tokenizer's file says the opposite", {
    ["tokenizer.json"] = cased, ["tokenizer_config.json"] = '{"do_lower_case": true}' })
  refused("tokenize_chinese_chars = true is not supported", {
    ["tokenizer.json"] = cased, ["tokenizer_config.json"] = '{"tokenize_chinese_chars": true}' })
  T.ok(load { ["tokenizer.json"] = cased, ["tokenizer_config.json"] = '{"do_lower_case": false}' })
  local function model(change)
    return { ["tokenizer.json"] = (cased:gsub('"max_input_chars_per_word": 100', change)) }
  end
  refused("'max_input_chars_per_word' is not a count", model '"max_input_chars_per_word": -1')
  refused("'max_input_chars_per_word' is not a count", model '"max_input_chars_per_word": null')
  refused("model WordPiece has a field 'x'", model '"max_input_chars_per_word": 1, "x": 1')
  refused("has no 'continuing_subword_prefix'", { ["tokenizer.json"] = (cased:gsub('"continuing_subword_prefix": "##",', "")) })
  refused("ByteLevel with a WordPiece model", { ["tokenizer.json"] = (cased:gsub('"BertPreTokenizer"', '"ByteLevel"')) })
  refused("the post%-processor has the type id %-1", { ["tokenizer.json"] = (cased:gsub('"type_id": 1', '"type_id": -1')) })
  refused("'type_id' is not a count", { ["tokenizer.json"] = (cased:gsub('"type_id": 1', '"type_id": "1"')) })
end)

T.test("damaged vocabularies", function()
  local next_number = cases.numbers(3)
  local whole = golden "wordpiece.json"
  local text = whole.cases[1].json:gsub('"VOCAB"', function() return whole.vocab end)
  for name, s in pairs { ["vocab.txt"] = LINES, ["tokenizer.json"] = text } do
    local path = T.tmpdir() .. "/" .. name
    for _ = 1, 300 do
      local at = 1 + next_number(#s)
      assert(fs.write(path, s:sub(1, at - 1) .. string.char(next_number(256)) .. s:sub(at + next_number(3))))
      local tok, message, code = tokenizer.load(path)
      if tok then
        pcall(tok.encode, tok, "Hello a\xff日 [CLS]", { pair = "b", add_special_tokens = true, return_token_type_ids = true })
        tok:release()
      else
        T.ok(code == "FORMAT" and message:find(name, 1, true), message)
      end
    end
  end
end)

T.test("without memory, at each place, loading and encoding fail and leave nothing behind", function()
  local tensor = require "mocl.tensor"
  local whole = golden "wordpiece.json"
  local files = { directory { ["vocab.txt"] = LINES },
    directory { ["vocab.json"] = '{"a": 0, "b": 1, "ab": 2}', ["merges.txt"] = "a b\n", ["config.json"] = '{"model_type": "bart"}' },
    directory { ["tokenizer.json"] = (whole.cases[2].json:gsub('"VOCAB"', function() return whole.vocab end)) } }
  local model = golden "sentencepiece.json".cases[3].model:gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end)
  files[4], files[5] = directory { ["tokenizer.model"] = model }, directory(golden "tiktoken.json".cases[1].files)
  for i, dir in ipairs(files) do
    local n, step, done = 0, 1, false
    repeat
      tensor.fail_after(n)
      local ok, got, message = pcall(function()
        local tok, message = tokenizer.load(dir)
        if not tok then
          return nil, message
        end
        return tok:encode(i == 2 and "ab" or "ab\xff é abba", { pair = "ab", add_special_tokens = true, return_token_type_ids = true })
      end)
      tensor.fail_after(-1)
      done = ok and got ~= nil
      T.ok(done or tostring(ok and message or got):find "memory", ("%d: %d: %s"):format(i, n, tostring(ok and message or got)))
      n = n + step
      step = n > 100 and n // 12 or 1
    until done
    T.ok(n > 30, n)
  end
end)

-- ---- GGUF ----

-- the tokenizer of a GGUF file for these lines of a vocab.txt, as llama.cpp's converter writes them
local function gguf(lines, change)
  local tokens, types, ids = {}, {}, {}
  for line in lines:gmatch "([^\n]*)\n" do
    local id, special = #tokens, line:match "^%[.*%]$"
    tokens[id + 1] = special or line:match "^##(.*)" or "\u{2581}" .. line
    types[id + 1] = special and 3 or 1
    ids[line] = id
  end
  local keys = { { "model", "string", "bert" }, { "pre", "string", "default" }, { "tokens", "[string]", tokens },
    { "token_type", "[i32]", types }, { "token_type_count", "u32", 2 } }
  for key, line in pairs { unknown = "[UNK]", seperator = "[SEP]", padding = "[PAD]", cls = "[CLS]", mask = "[MASK]" } do
    keys[#keys + 1] = ids[line] and { key .. "_token_id", "u32", ids[line] }
  end
  if change then
    change(keys)
  end
  local bytes = {}
  for _, k in ipairs(keys) do
    bytes[#bytes + 1] = file.key("tokenizer.ggml." .. k[1], k[2], k[3])
  end
  local path = T.tmpdir() .. "/x.gguf"
  assert(fs.write(path, file.raw(bytes, {}, "")))
  return tokenizer.load(path)
end

T.test("BERT's tokenizer from a GGUF file is the one of vocab.txt", function()
  local lines = cases.read(T.shared "tokenizers/bert-base-uncased/vocab.txt")
  local a, b = assert(gguf(lines)), assert(tokenizer.load(T.shared "tokenizers/bert-base-uncased/vocab.txt"))
  T.eq(#a, #b)
  for _, case in ipairs(cases.gguf_cases "gpt-2") do
    T.eq(pair(a, case.text, "a [SEP] B", true), pair(b, case.text, "a [SEP] B", true), T.show(case.text))
    T.eq(a:decode(a:encode(case.text)), b:decode(b:encode(case.text)))
  end
  local dir = T.tmpdir()
  assert(a:save(dir))
  T.eq(assert(tokenizer.load(dir)):encode("Hello", ENDS), { 101, 7592, 102 })
end)

T.test("a GGUF file's names of BERT's tokens, and what is refused", function()
  local function without(key)
    return function(keys)
      for i = #keys, 1, -1 do
        if keys[i][1] == key then
          table.remove(keys, i)
        end
      end
    end
  end
  T.eq(assert(gguf(LINES, without "cls_token_id")):encode("aB", ENDS), { 2, 5, 7, 3 })
  T.eq(assert(gguf(LINES, function(keys) -- as llama.cpp calls it
    without "cls_token_id"(keys)
    keys[#keys + 1] = { "bos_token_id", "u32", 0 }
    keys[#keys + 1] = { "add_sep_token", "bool", true }
  end)):encode("a", ENDS), { 0, 5, 3 })
  local lines = LINES:gsub("%[UNK%]", "u")
  T.fails("tokenizer.ggml.unknown_token_id is missing, and no token is spelled %[UNK%]", gguf, lines)
  T.fails("token 5 is '▁A', with a capital letter: .* use the tokenizer.json or vocab.txt", gguf, (LINES:gsub("\na\n", "\nA\n")))
  T.fails("add_bos_token is false, which is not supported for tokenizer.ggml.model = bert", gguf, LINES, function(keys)
    keys[#keys + 1] = { "add_bos_token", "bool", false }
  end)
end)
