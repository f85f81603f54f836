--- corpus DIR - the inputs that fuzzing starts from: for each target a folder DIR/TARGET of small files, made from the
-- fixtures of the tests and by mocl's own writers. The same files come out every time. DIR/scratch is left over.
-- tests/fuzz/run.sh calls it.

package.path = "tests/?.lua;" .. package.path

local data = require "mocl.data"
local fs = require "mocl.fs"
local gguf_file = require "gguf_file"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local out = arg[1] or error "corpus: give the directory to write"
local scratch = out .. "/scratch"
local CUT = "<<FILE>>" -- as in fuzz.c
local counts = {}

local function add(target, bytes)
  counts[target] = (counts[target] or 0) + 1
  local dir = out .. "/" .. target
  assert(fs.mkdir(dir))
  local f <close> = assert(io.open(("%s/%03d"):format(dir, counts[target]), "wb"))
  assert(f:write(bytes))
end

local function read(name)
  return assert(fs.read(scratch .. "/" .. name))
end

local function gzipped(text)
  assert(fs.write(scratch .. "/a", text))
  local pipe <close> = assert(io.popen("gzip -nc '" .. scratch .. "/a' 2>/dev/null", "r"))
  local packed = pipe:read "a"
  return packed ~= "" and packed or nil
end

assert(fs.mkdir(scratch))

-- ---- safetensors ----

assert(safetensors.save(scratch .. "/a", { a = tensor.ones { 2, 3 }, ["model.b"] = tensor.zeros { 4 } }, { k = "v" }))
add("safetensors", read "a")
assert(safetensors.save(scratch .. "/a", { i = tensor.new({ 1, 2 }, { dtype = "i32" }), e = tensor.zeros { 0, 3 } }))
add("safetensors", read "a")
local function header(text, bytes)
  add("safetensors", string.pack("<s8", text) .. ("x"):rep(bytes))
end
header("{}", 0)
header('{"a":{"dtype":"F4","shape":[2],"data_offsets":[0,1]},"__metadata__":{"format":"pt"}}  ', 1)
header('{"a\\u0000b":{"dtype":"BOOL","shape":[],"data_offsets":[0,1]},"c":{"dtype":"F64","shape":[1,1],"data_offsets":[1,9]}}', 9)

-- ---- GGUF ----

local model = small.model { config = { num_hidden_layers = 1, vocab_size = 8, hidden_size = 4, num_attention_heads = 2,
  num_key_value_heads = 1, head_dim = 2, intermediate_size = 4 } }
local keys, tensors = gguf_file.model(model)
add("gguf", gguf_file.bytes(keys, tensors))
local metadata = gguf_file.bytes(keys)
local blocks = json.decode(assert(fs.read "tests/fixtures/gguf/blocks.json"))
local function hex(text)
  return (text:gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end))
end
for _, kind in ipairs { "F16", "Q4_0", "Q8_0", "BF16" } do
  local bytes, t = hex(blocks.unpack[kind].bytes), gguf_file.TYPES[kind]
  add("gguf", gguf_file.bytes({}, { { "t", { #bytes // t[2] * t[3] }, kind, bytes } }))
end
local tokens, types, scores = { "<unk>", "<s>", "</s>" }, { 2, 3, 3 }, { 0, 0, 0 }
for b = 0, 255 do
  tokens[#tokens + 1], types[#types + 1], scores[#scores + 1] = ("<0x%02X>"):format(b), 6, 0
end
for i, text in ipairs { "▁", "a", "b", "ab", "▁a" } do
  tokens[#tokens + 1], types[#types + 1], scores[#scores + 1] = text, 1, -i
end
add("gguf", gguf_file.bytes { { "tokenizer.ggml.model", "string", "llama" }, { "tokenizer.ggml.tokens", "[string]", tokens },
  { "tokenizer.ggml.token_type", "[i32]", types }, { "tokenizer.ggml.scores", "[f32]", scores } })
local bpe = tokenizer.train({ "the cat sat on the mat 12" }, { vocab_size = 264, special_tokens = { "<s>" } })
assert(bpe:save(scratch .. "/bpe.json"))
local spellings = {}
for id = 0, #bpe - 1 do
  spellings[id + 1] = bpe:id_to_token(id)
end
local merges = assert(json.load(scratch .. "/bpe.json")).model.merges
add("gguf", gguf_file.bytes { { "tokenizer.ggml.model", "string", "gpt2" }, { "tokenizer.ggml.pre", "string", "smollm" },
  { "tokenizer.ggml.tokens", "[string]", spellings }, { "tokenizer.ggml.merges", "[string]", merges },
  { "tokenizer.ggml.bos_token_id", "u32", 0 }, { "tokenizer.ggml.add_bos_token", "bool", true } })
add("gguf", gguf_file.bytes { { "general.alignment", "u32", 64 }, { "x", "[[u8]]", { { 1 }, {} } }, { "y", "f64", .5 },
  { "z", "i64", -1 }, { "w", "[bool]", { true, false } } })

-- ---- tokenizers ----

local SIDES = { "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json" }
local function joined(first, files, sides)
  local parts = { first }
  for i, name in ipairs(sides) do
    parts[i + 1] = files[name] or "{}"
  end
  return table.concat(parts, CUT)
end
local cases = json.decode(assert(fs.read "tests/fixtures/tokenizers/files.json")).cases
for _, case in ipairs(cases) do
  add("tokenizer_json", joined(case.files["tokenizer.json"], case.files, SIDES))
end
local spaces = json.decode(assert(fs.read "tests/fixtures/tokenizers/spaces.json"))
for i = 1, #spaces.cases, 4 do
  add("tokenizer_json", (spaces.cases[i].json:gsub('"VOCAB"', function() return spaces.vocab end)))
end
add("tokenizer_json", read "bpe.json")
local wordpiece = json.decode(assert(fs.read "tests/fixtures/tokenizers/wordpiece.json"))
for i = 1, 8 do
  add("tokenizer_json", (wordpiece.cases[i].json:gsub('"VOCAB"', function() return wordpiece.vocab end)))
end
for _, case in ipairs(json.decode(assert(fs.read "tests/fixtures/tokenizers/classes.json")).cases) do
  if case.files["vocab.txt"] then
    add("tokenizer_vocab", joined(case.files["vocab.txt"], case.files, { "tokenizer_config.json", "config.json" }))
  end
end
add("tokenizer_vocab", "\n") -- one token without a byte, which a pointer was once made from NULL for
add("gguf", gguf_file.bytes { { "tokenizer.ggml.model", "string", "bert" },
  { "tokenizer.ggml.tokens", "[string]", { "[PAD]", "[UNK]", "[CLS]", "[SEP]", "\u{2581}the", "s", "\u{2581}cat" } },
  { "tokenizer.ggml.token_type", "[i32]", { 3, 3, 3, 3, 1, 1, 1 } }, { "tokenizer.ggml.cls_token_id", "u32", 2 } })

-- protobuf, for a tokenizer.model
local function varint(n)
  local bytes = ""
  while n >= 128 do
    bytes, n = bytes .. string.char(n & 127 | 128), n >> 7
  end
  return bytes .. string.char(n)
end
local function field(number, value)
  return type(value) == "number" and varint(number << 3) .. varint(value) or varint(number << 3 | 2) .. varint(#value) .. value
end
local pieces = {}
for i, text in ipairs(tokens) do
  pieces[i] = field(1, field(1, text) .. varint(2 << 3 | 5) .. string.pack("<f", scores[i]) .. field(3, types[i]))
end
local spm = table.concat(pieces) .. field(2, field(3, 2) .. field(35, 1)) .. field(3, field(3, 0) .. field(4, 0))
add("tokenizer_model", spm)
local sentencepiece = json.decode(assert(fs.read "tests/fixtures/tokenizers/sentencepiece.json"))
add("tokenizer_model", (sentencepiece.cases[3].model:gsub("%x%x", function(x) return string.char(tonumber(x, 16)) end)))
local tiktoken = json.decode(assert(fs.read "tests/fixtures/tokenizers/tiktoken.json")).cases[1].files
add("tokenizer_model", joined(tiktoken["tokenizer.model"], tiktoken, SIDES))
add("tokenizer_model", joined(spm, { ["tokenizer_config.json"] = '{"eos_token": "</s>", "legacy": false, "add_bos_token": true}',
  ["added_tokens.json"] = ('{"[PAD]": %d}'):format(#tokens) }, SIDES))

local vocab = {}
for i, text in ipairs(spellings) do
  vocab[i] = json.encode(text) .. ": " .. i - 1
end
for _, config in ipairs { "{}", '{"tokenizer_class": "Qwen2Tokenizer"}' } do
  add("tokenizer_pair", joined("{" .. table.concat(vocab, ", ") .. "}", { ["merges.txt"] = "#version: 0.2\n"
    .. table.concat(merges, "\n") .. "\n", ["tokenizer_config.json"] = config }, { "merges.txt", "tokenizer_config.json" }))
end

-- ---- configurations ----

local dir = scratch .. "/model"
assert(transformer.save(model, dir))
local config = read "model/config.json"
model:add_lora { r = 2, alpha = 4, target_modules = { "q_proj", "down_proj" }, key = 5 }
assert(lora.save(model, dir))
local adapter = read "model/adapter_config.json"
add("config", table.concat({ config, '{"eos_token_id": [1, 2]}', adapter, metadata }, CUT))
add("config", table.concat({ '{"model_type": "llama", "rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}', "{}",
  '{"peft_type": "LORA", "target_modules": ".*\\\\.(q|k)_proj", "rank_pattern": {"q_proj": 4}, "exclude_modules": ["k"]}', "GGUF" }, CUT))
add("config", table.concat({ '{"model_type": "mistral", "sliding_window": 4096, "vocab_size": 8, "eos_token_id": null}', "{}",
  '{"peft_type": "LORA", "target_modules": "all-linear", "use_rslora": true, "layers_to_transform": [0]}', "GGUF" }, CUT))

-- ---- texts ----

for _, text in ipairs { config, adapter, '[1, -2.5e-3, 1e999, 123456789012345678901234567890, "\\ud83d\\ude00\\u0000", null, {}]',
  "\xef\xbb\xbf{\"a\": [[[[]]]]}", '"' .. ("x"):rep(50) .. '"', "-1e999", "[9e307, 1e400, -1e400]" } do
  add("json", text)
end
assert(data.write_jsonl(scratch .. "/a.jsonl", { { n = 1, text = "äöü\t\"quoted\"" }, { 1, 2.5 }, { x = { y = true } } }))
local lines = read "a.jsonl"
assert(data.write_csv(scratch .. "/a.csv", { "a", "b", "c" }, { { "1", "x,y", "z" }, { "2", 'say "so"', "two\nlines" }, { "3", "", "ü" } }))
local rows = read "a.csv"
for target, text in pairs { jsonl = lines, csv = rows } do
  add(target, text)
  add(target, (text:gsub("\n", "\r\n")))
  add(target, "\xef\xbb\xbf" .. text)
  add(target, "\xff\xfea\0b\0")
  local packed = gzipped(text)
  if packed then
    add(target, packed)
    add(target, packed .. packed .. "\0\0")
  end
end
add("gzip", "plain text")
for _, text in ipairs { "", "hello", lines, ("ab"):rep(40000) } do
  local packed = gzipped(text)
  if packed then
    add("gzip", packed)
    add("gzip", packed .. packed .. "\0\0\0")
    add("gzip", packed:sub(1, -5))
  end
end

local total = 0
for _, n in pairs(counts) do
  total = total + n
end
print(("%d inputs for %d targets"):format(total, (function() local n = 0 for _ in pairs(counts) do n = n + 1 end return n end)()))
