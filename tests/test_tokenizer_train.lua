-- training of a byte-level vocabulary

local T = require "t"
local cases = require "tokenizer_cases"
local tokenizer = require "mocl.tokenizer"

local read, numbers, CORPUS = cases.read, cases.numbers, cases.CORPUS
local corpus_tokenizer = cases.corpus_tokenizer

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
