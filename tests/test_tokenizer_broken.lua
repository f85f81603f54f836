-- tokenizers that are missing, foreign or damaged, and the files of llama2.c

local T = require "t"
local cases = require "tokenizer_cases"
local tokenizer = require "mocl.tokenizer"

local read, write, numbers = cases.read, cases.write, cases.numbers
local random_bytes, corpus_tokenizer, small_json = cases.random_bytes, cases.corpus_tokenizer, cases.small_json
local LLAMA = cases.LLAMA

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
