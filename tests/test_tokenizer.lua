-- text to ids and back: round trips, known ids, streams, wrong arguments, and the tool

local T = require "t"
local cases = require "tokenizer_cases"
local tokenizer = require "mocl.tokenizer"

local read, write, numbers = cases.read, cases.write, cases.numbers
local random_bytes, corpus_tokenizer, small_json = cases.random_bytes, cases.corpus_tokenizer, cases.small_json
local load_text, LLAMA, gguf_cases = cases.load_text, cases.LLAMA, cases.gguf_cases

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
  T.eq(tok:encode("Hello", { pair = "Hello" }), { 31414, 31414 })
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
