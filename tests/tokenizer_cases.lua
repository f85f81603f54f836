--- tokenizer_cases: what the tests of the tokenizer share: files, texts, small vocabularies.

local T = require "t"
local tokenizer = require "mocl.tokenizer"

local cases = {}

function cases.read(path)
  local f = assert(io.open(path, "rb"))
  local s = f:read("a")
  f:close()
  return s
end

function cases.write(path, s)
  local f = assert(io.open(path, "wb"))
  f:write(s)
  f:close()
  return path
end

--- A fixed sequence of numbers, below n.
function cases.numbers(seed)
  local x = seed
  return function(n)
    x = (x * 1103515245 + 12345) % 2147483648
    return (x >> 8) % n
  end
end

function cases.random_bytes(next_number, n)
  local t = {}
  for i = 1, n do
    t[i] = string.char(next_number(256))
  end
  return table.concat(t)
end

cases.CORPUS = {
  "the cat sat on the mat, the cat ate 12 rats in 2023.",
  "The hat of the cat that sat there is fat; that's that.",
  "naïve café, ünïcödé: 日本語 日本 日本語",
  "  indented\n\tlines\n\n  and spaces   ",
}

function cases.corpus_tokenizer(size)
  return tokenizer.train(cases.CORPUS, { vocab_size = size or 300, min_frequency = 2 })
end

--- The text of a tokenizer.json with a small character model: letters, a merge, and bytes where `bytes` is set
function cases.small_json(parts)
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

function cases.load_text(s)
  return tokenizer.load(cases.write(T.tmpdir() .. "/tokenizer.json", s))
end

cases.LLAMA = {
  bytes = true,
  normalizer = [[{"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
    {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}]],
  decoder = [[{"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"},
    "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"},
    {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}]],
}

--- The texts and ids beside a GGUF vocabulary of the shared data: a list of {text=, ids=}.
function cases.gguf_cases(name)
  local base = T.shared("tokenizers/gguf-vocab/ggml-vocab-" .. name .. ".gguf.inp"):sub(1, -5)
  local mark, list, at = "\n__ggml_vocab_test__\n", {}, 1
  local text = cases.read(base .. ".inp")
  for line in (cases.read(base .. ".out") .. "\n"):gmatch("([^\n]*)\n") do
    local from, to = text:find(mark, at, true)
    local ids = {}
    for id in line:gmatch("%d+") do
      ids[#ids + 1] = math.tointeger(id)
    end
    list[#list + 1] = { text = text:sub(at, (from or #text + 1) - 1), ids = ids }
    at = (to or #text) + 1
  end
  T.eq(#list, 47)
  return list
end

return cases
