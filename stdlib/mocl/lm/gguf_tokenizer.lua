--- mocl.lm.gguf_tokenizer: the tokenizer of a directory as keys of a GGUF file, for byte-level BPE. The file names how words are cut in place
-- of saying it, so each of the rules that llama.cpp has is tried, and the keys are read again: a rule counts where it gives the
-- ids of the tokenizer on texts on which the rules differ.

local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local tokenizer = require "mocl.tokenizer"

local gguf_tokenizer = {}

local NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5

-- One name of each rule in runtime/tok/tokenizer_pre.c; those with a beginning of text of their own last.
local RULES = { "gpt-2", "smollm", "qwen2", "dbrx", "llama-bpe", "gpt-4o", "tekken", "deepseek-v3", "falcon", "default" }

local TEXTS = {
  "Hello world", " hello  world ", "don't DON'T I'LL we've'RE", "a 1 22 333 4444 55555 6666666", "3.14 1,000,000 2nd x86_64", "a  5  66 b",
  "½ ² ٣ Ⅷ ①②", "tabs\tand\n\nlines\r\n \n  end \n", "   ", "  leading", "trailing  ", "camelCase HTTPServer iPhone XMLHttpRequest2Go", "naïve café Ñandú ß İ",
  "日本語のテキスト。中文字符，标点！ 한국어", "Привет, мир! Γειά σου", "emoji 👍🏽👩‍👩‍👧 ✨", "!!! ... --- (#$%&'()*+,-./:;<=>?@[\\]^_`{|}~)", "$100 <tag> a|b ~x ^y `z`",
  "https://a.b/c?d=e&f=1#g", "func(x,y)\n\treturn x//y\n", "\u{a0}nbsp\u{2003}em", "مرحبا 123 עברית", "'s 't ''ll s' 'M", "1a2b3c 4 d5", "/path/to /x\n/y",
}

-- A text that form NFC changes. llama.cpp puts no text into it, also where the tokenizer does, and its converter writes such a tokenizer.
local DECOMPOSED = "a\u{301} e\u{301}"

local function composes(normalizer)
  for _, one in ipairs(type(normalizer) == "table" and (normalizer.normalizers or { normalizer }) or {}) do
    if one.type == "NFC" then
      return true
    end
  end
  return false
end

-- Tokens by their place, and their types; rows: how many the model has.
local function vocabulary(all, rows)
  local tokens, types = {}, {}
  for text, id in pairs(all.model.vocab) do
    tokens[id + 1], types[id + 1] = text, NORMAL
  end
  for _, one in ipairs(all.added_tokens or {}) do
    tokens[one.id + 1], types[one.id + 1] = one.content, one.special and CONTROL or USER_DEFINED
  end
  for i = 1, rows do
    if not tokens[i] then
      tokens[i], types[i] = ("[PAD%d]"):format(i - 1), UNUSED
    end
  end
  return tokens, types
end

local function merges_of(all)
  local list = {}
  for i, one in ipairs(all.model.merges) do
    list[i] = type(one) == "table" and one[1] .. " " .. one[2] or one
  end
  return list
end

-- The text of a chat template beside a tokenizer, or nil.
local function chat_template(dir)
  local path = fs.join(dir, "chat_template.jinja")
  if fs.exists(path) == "file" then
    return fs.read(path)
  end
  local config = fs.exists(fs.join(dir, "tokenizer_config.json")) == "file" and json.load(fs.join(dir, "tokenizer_config.json"))
  return config and type(config.chat_template) == "string" and config.chat_template or nil
end

local function same_ids(a, b, texts)
  for _, text in ipairs(texts) do
    for _, options in ipairs { {}, { add_special_tokens = true } } do
      local fits, ids = pcall(b.encode, b, text, options)
      if not fits or table.concat(ids, " ") ~= table.concat(a:encode(text, options), " ") then
        return false
      end
    end
  end
  return true
end

--- gguf_tokenizer.keys(tok, path, rows) -> keys | nil, reason: as gguf.save takes them, of a tokenizer that was loaded from `path`, for a model
-- with so many rows of embeddings.
function gguf_tokenizer.keys(tok, path, rows)
  local dir = os.tmpname()
  assert(fs.remove(dir))
  assert(fs.mkdir(dir))
  local guard <close> = setmetatable({}, { __close = function() fs.remove_tree(dir) end })
  local ok, why = tok:save(dir)
  local all = ok and fs.exists(dir .. "/tokenizer.json") and json.load(dir .. "/tokenizer.json")
  if not ok then
    return nil, why
  elseif not all or all.model.type ~= "BPE" or all.model.byte_fallback then
    return nil, "only byte-level BPE is written into a GGUF file"
  elseif tok:vocab_size() > rows then
    return nil, ("the tokenizer has %d ids, the model only %d"):format(tok:vocab_size(), rows)
  end
  local tokens, types = vocabulary(all, rows)
  local texts = table.move(TEXTS, 1, #TEXTS, 1, {})
  texts[#texts + 1] = not composes(all.normalizer) and DECOMPOSED or nil
  local plain, whole = tok:encode("a", {}), tok:encode("a", { add_special_tokens = true })
  local keys = {
    { "tokenizer.ggml.model", "string", "gpt2" }, { "tokenizer.ggml.pre", "string", "" }, { "tokenizer.ggml.tokens", "array of string", tokens },
    { "tokenizer.ggml.token_type", "array of i32", types }, { "tokenizer.ggml.merges", "array of string", merges_of(all) },
    { "tokenizer.ggml.add_bos_token", "bool", #whole > #plain and whole[1] == tok:bos_id() },
    { "tokenizer.ggml.add_eos_token", "bool", #whole > #plain and whole[#whole] == tok:eos_id() },
  }
  for name, id in pairs { bos_token_id = tok:bos_id(), eos_token_id = tok:eos_id() } do
    keys[#keys + 1] = { "tokenizer.ggml." .. name, "u32", id }
  end
  local template = chat_template(fs.exists(path) == "directory" and path or fs.dirname(path))
  keys[#keys + 1] = template and { "tokenizer.chat_template", "string", template } or nil
  for _, rule in ipairs(RULES) do
    keys[2][3] = rule
    local file = dir .. "/x.gguf"
    assert(gguf.save(file, { metadata = keys, tensors = {} }))
    local again = tokenizer.load(file)
    if again and same_ids(tok, again, texts) then
      return keys
    end
  end
  return nil, "no rule that llama.cpp has for cutting words gives its ids"
end

return gguf_tokenizer
