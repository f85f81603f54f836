-- models and tokenizers in GGUF files, written here: what they become, and what is refused by name

local T = require "t"
local child = require "child"
local file = require "gguf_file"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local nn = require "mocl.nn.core"
local own_model = require "mocl.lm.own_model"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local function put(keys, tensors)
  local path = T.tmpdir() .. "/x.gguf"
  assert(fs.write(path, file.bytes(keys, tensors)))
  return path
end

-- The file of a small model after change(keys, tensors).
local function saved(change, options)
  local model = small.model(options)
  local keys, tensors = file.model(model)
  if change then
    change(keys, tensors)
  end
  return put(keys, tensors), model
end

local function find(tensors, name)
  for i, t in ipairs(tensors) do
    if t[1] == name then
      return t, i
    end
  end
end

local TEXTS = { "the cat sat on 12345 mats, don't you?", "the dog's 678 logs  and\n\nmore   cats",
  "I'LL see ½ the caté" }
local bpe = tokenizer.train(TEXTS, { vocab_size = 300, special_tokens = { "<s>", "</s>", "<u>", "<c>" } })

-- Keys of the tokenizer that was trained here: <u> is defined by the user, the others control tokens.
local function bpe_keys(change)
  local path = T.tmpdir() .. "/tokenizer.json"
  assert(bpe:save(path))
  local tokens, types = {}, {}
  for id = 0, #bpe - 1 do
    tokens[id + 1], types[id + 1] = bpe:id_to_token(id), id == 2 and 4 or id < 4 and 3 or 1
  end
  local keys = {
    { "tokenizer.ggml.model", "string", "gpt2" }, { "tokenizer.ggml.pre", "string", "smollm" },
      { "tokenizer.ggml.tokens", "[string]", tokens },
    { "tokenizer.ggml.token_type", "[i32]", types }, { "tokenizer.ggml.merges", "[string]",
      assert(json.load(path)).model.merges },
    { "tokenizer.ggml.bos_token_id", "u32", 0 }, { "tokenizer.ggml.eos_token_id", "u32", 1 },
    { "tokenizer.ggml.padding_token_id", "u32", 10 },
  }
  if change then
    change(keys, tokens, types)
  end
  return keys
end

-- ---- models ----

T.test("a model comes back with the same weights, tied and untied", function()
  for _, tied in ipairs { true, false } do
    local path, model = saved(nil, { tie_word_embeddings = tied })
    local again, config = assert(transformer.load(path))
    T.eq(again:config(), model:config())
    T.eq(again:hash(), model:hash())
    T.eq({ config.model_type, config.hidden_size, config.rms_norm_eps },
      { "llama", model:config().hidden_size, model:config().rms_norm_eps })
    T.eq(transformer.eos_ids(again), nil)
    local dir = T.tmpdir() .. "/saved"
    assert(transformer.save(again, dir))
    T.eq(assert(transformer.load(dir)):hash(), model:hash())
  end
end)

T.test("keys that may be missing mean what they mean in llama.cpp", function()
  local path, model = saved(function(keys)
    for _, name in ipairs { "attention.value_length", "rope.dimension_count", "vocab_size", "rope.freq_base" } do
      file.set(keys, "llama." .. name)
    end
  end)
  local c, want = assert(transformer.load(path)):config(), model:config()
  want.rope_theta = 10000.0
  T.eq(c, want)
  local wide = transformer.new { vocab_size = 8, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2,
    intermediate_size = 4 }
  local keys, tensors = file.model(wide)
  file.set(keys, "llama.attention.head_count_kv")
  file.set(keys, "llama.attention.key_length")
  T.eq(assert(transformer.load(put(keys, tensors))):config().num_key_value_heads, 2)
  file.set(keys, "llama.attention.head_count_kv", "[u32]", { 2 })
  T.eq(assert(transformer.load(put(keys, tensors))):hash(), wide:hash())
end)

T.test("weights in f16, bf16 and Q8_0 become f32", function()
  local model = transformer.new { vocab_size = 8, hidden_size = 32, num_hidden_layers = 1, num_attention_heads = 2,
    intermediate_size = 32 }
  local keys, tensors = file.model(model)
  local ones = { F16 = ("\0\x3c"):rep(1024), BF16 = ("\x80\x3f"):rep(1024),
    Q8_0 = ("\0\x3c" .. ("\1"):rep(32)):rep(32) }
  for kind, bytes in pairs(ones) do
    for _, name in ipairs { "attn_q", "ffn_down" } do
      local t = find(tensors, "blk.0." .. name .. ".weight")
      t[3], t[4] = kind, bytes
    end
    local again = assert(transformer.load(put(keys, tensors)))
    for _, pair in ipairs(again:named_parameters()) do
      if pair[1]:find "q_proj" or pair[1]:find "down_proj" then
        T.eq({ pair[2].dtype, pair[2]:min():item(), pair[2]:max():item() }, { "f32", 1, 1 }, kind)
      end
    end
  end
end)

T.test("a model that is written loads again: the same weights in F32, near ones in the other types", function()
  local model = transformer.new { vocab_size = 64, hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4,
    num_key_value_heads = 2,
    intermediate_size = 64, max_position_embeddings = 48, rms_norm_eps = 1e-6, rope_theta = 5e5 }
  local batch = transformer.batch { { 1, 5, 9, 28, 3, 14 } }
  local want, path = model:forward(batch), T.tmpdir() .. "/y.gguf"
  for kind, far in pairs { F32 = 0, F16 = 2e-3, BF16 = 2e-2, Q8_0 = 5e-2 } do
    T.eq(transformer.save_gguf(model, path, { type = kind }), true)
    local again = assert(transformer.load(path))
    T.eq(again:config(), model:config())
    T.eq(again:hash() == model:hash(), kind == "F32")
    local d = (again:forward(batch) - want):abs():max():item()
    T.ok(d <= far and (d > 0) == (far > 0), kind .. " " .. d)
  end
  -- a tokenizer beside it, and the ends of answers
  local from = put(bpe_keys())
  local keys = {}
  local f = assert(gguf.open(from))
  for _, key in ipairs(f.keys) do
    keys[#keys + 1] = { key, f:type(key), f.metadata[key] }
  end
  assert(transformer.save_gguf(model, path, { metadata = keys }))
  T.eq(assert(tokenizer.load(path)):encode(TEXTS[1]), bpe:encode(TEXTS[1]))
  local again = assert(transformer.load(path))
  T.eq(transformer.eos_ids(again), { 1 })
  assert(transformer.save_gguf(again, path))
  T.eq(transformer.eos_ids(assert(transformer.load(path))), { 1 })
end)

T.test("a model that the file would not be is not written", function()
  local path = T.tmpdir() .. "/y.gguf"
  local model = small.model()
  T.raises("type 'Q4_0' is not one of F32, F16, BF16, Q8_0", transformer.save_gguf, model, path, { type = "Q4_0" })
  T.raises("unknown option 'dtype'", transformer.save_gguf, model, path, { dtype = "F16" })
  T.fails("y.gguf: tensor 'token_embd.weight' has rows of 12 values, and Q8_0 needs a multiple of 32; use type = \"F16\"", transformer.save_gguf,
    model, path, { type = "Q8_0" })
  local w = model:named_parameters()[1][2]
  tensor.no_grad(w.copy_, w, w * 0 + 70000)
  T.fails("tensor 'token_embd.weight' has the value 70000, which f16 does not hold; use type = \"BF16\"",
    transformer.save_gguf, model, path,
    { type = "F16" })
  tensor.no_grad(w.copy_, w, w * 0 / 0)
  T.fails("is not finite", transformer.save_gguf, model, path)
  T.raises("the model has an adapter.*merge_lora", transformer.save_gguf, small.adapter(small.model()), path)
  T.eq(fs.exists(path), nil)
end)

T.test("ends of answers are those of the metadata, each once", function()
  local path = saved(function(keys)
    file.set(keys, "tokenizer.ggml.eos_token_id", "u32", 2)
    file.set(keys, "tokenizer.ggml.eot_token_id", "u32", 5)
    file.set(keys, "tokenizer.ggml.eom_token_id", "u32", 2)
    file.set(keys, "tokenizer.ggml.bos_token_id", "u32", 1)
  end)
  local model, config = assert(transformer.load(path))
  T.eq(transformer.eos_ids(model), { 2, 5 })
  T.eq({ config.eos_token_id, config.bos_token_id }, { { 2, 5 }, 1 })
  T.fails("x.gguf: tokenizer.ggml.eos_token_id = 4096 is not supported %(an id below", transformer.load,
    (saved(function(keys)
    file.set(keys, "tokenizer.ggml.eos_token_id", "u32", 4096)
  end)))
end)

T.test("every key is honoured, changes nothing, or is refused by name", function()
  local harmless = { { "general.name", "string", "x" }, { "general.file_type", "u32", 1 },
    { "general.base_model.0.name", "string", "x" }, { "general.license.link", "string", "x" },
    { "general.tags", "[string]", { "a" } }, { "general.quantization_version", "u32", 1 },
      { "llama.rope.scaling.type", "string", "none" },
    { "llama.rope.scaling.factor", "f32", 1 }, { "llama.expert_count", "u32", 0 },
      { "llama.attention.causal", "bool", true },
    { "llama.rope.scaling.original_context_length", "u32", 64 }, { "tokenizer.chat_template", "string", "{{ x }}" },
    { "general.type", "string", "model" }, { "quantize.imatrix.file", "string", "x" },
      { "general.sampling.top_k", "i32", 4 } }
  local path, model = saved(function(keys)
    for _, key in ipairs(harmless) do
      keys[#keys + 1] = key
    end
  end)
  T.eq(assert(transformer.load(path)):hash(), model:hash())
  local refused = {
    { "general.architecture", "string", "gemma3", "general.architecture = gemma3 is not supported %(llama, qwen2, qwen3, gpt2, bert%)" },
    { "general.architecture", "u32", 7, "general.architecture = 7 is not supported" },
    { "general.type", "string", "adapter",
      "general.type = adapter is not supported %(model; this file is not a whole one%)" },
    { "llama.rope.scaling.type", "string", "yarn", "llama.rope.scaling.type = yarn is not supported %(none, linear%)" },
    { "llama.rope.scaling.factor", "f32", 8, "llama.rope.scaling.factor = 8" },
    { "llama.rope.scale_linear", "f32", 2, "llama.rope.scale_linear = 2" },
    { "llama.rope.scaling.attn_factor", "f32", 0.5, "llama.rope.scaling.attn_factor = 0.5" },
    { "llama.expert_count", "u32", 8, "llama.expert_count = 8 is not supported %(0%)" },
    { "llama.attention.sliding_window", "u32", 4, "llama.attention.sliding_window = 4" },
    { "llama.attention.causal", "bool", false, "llama.attention.causal = false" },
    { "llama.logit_scale", "f32", 0.5, "llama.logit_scale = 0.5" },
    { "llama.new_thing", "u32", 1, "llama.new_thing = 1 is not supported %(mocl does not know this key" },
    { "qwen2.block_count", "u32", 1, "qwen2.block_count = 1 is not supported" },
    { "llama.attention.key_length", "u32", 6,
      "llama.attention.value_length = 4 is not supported %(6, the size of a head%)" },
    { "llama.rope.dimension_count", "u32", 2,
      "llama.rope.dimension_count = 2 is not supported %(%d+, the size of a head%)" },
    { "llama.vocab_size", "u32", 5, "llama.vocab_size = 5 is not supported %(%d+, the rows of token_embd.weight%)" },
    { "llama.attention.head_count", "u32", 0, "head_count = 0 is not supported %(at least 1%)" },
    { "llama.attention.head_count", "i32", -1, "head_count = %-1 is not supported %(at least 1%)" },
    { "llama.attention.head_count", "string", "4", "head_count = \"?4\"? is not supported %(an integer%)" },
    { "llama.attention.head_count_kv", "[u32]", { 1, 2 },
      "head_count_kv = %[1,2%] is not supported %(the same number in all layers%)" },
    { "llama.attention.head_count_kv", "[u32]", {},
      "head_count_kv = .* is not supported %(a number, or one for each layer%)" },
    { "llama.attention.layer_norm_rms_epsilon", "u32", 1,
      "layer_norm_rms_epsilon = 1 is not supported %(a number of type f32%)" },
    { "llama.attention.layer_norm_rms_epsilon", "f32", 0 / 0, "x.gguf: " },
    { "llama.embedding_length", "u32", 4294967295, "x.gguf: model config: hidden_size = 4294967295 is outside" },
    { "llama.embedding_length", nil, nil, "llama.embedding_length is missing" },
    { "general.architecture", nil, nil, "general.architecture is missing" },
  }
  for _, case in ipairs(refused) do
    local _, message, code = transformer.load((saved(function(keys)
      file.set(keys, case[1], case[2], case[3])
    end)))
    T.ok(tostring(message):find(case[4]), ("%s: %s"):format(case[1], message))
    T.eq(code, "FORMAT")
  end
  T.fails("general.quantization_version = 1 is not supported %(2;", transformer.load, (saved(function(keys, tensors)
    file.set(keys, "general.quantization_version", "u32", 1)
    local t = find(tensors, "output_norm.weight")
    t[2], t[3], t[4] = { 32 }, "Q8_0", ("\0"):rep(34)
  end)))
end)

T.test("missing, left-over, misshapen and damaged tensors are told by llama.cpp's names", function()
  local function without(name)
    return (saved(function(_, tensors)
      table.remove(tensors, select(2, find(tensors, name)))
    end, { tie_word_embeddings = false }))
  end
  T.fails("x.gguf: 1 tensors are missing, the first is 'blk.0.ffn_up.weight'", transformer.load,
    without "blk.0.ffn_up.weight")
  T.fails("x.gguf: tensor 'token_embd.weight' is missing", transformer.load, without "token_embd.weight")
  T.eq(assert(transformer.load(without "output.weight")):config().tie_word_embeddings, true)
  local function with(t)
    return (saved(function(_, tensors)
      tensors[#tensors + 1] = t
    end))
  end
  T.fails("tensor 'blk.0.attn_q.bias' belongs to no layer of this model", transformer.load,
    with { "blk.0.attn_q.bias", { 1 }, "F32", "\0\0\0\0" })
  for _, bad in ipairs { 0, -1, 1 / 0, 0 / 0 } do
    T.fails("tensor 'rope_freqs.weight' is .* at %[2%], and divides a frequency; the file is damaged", transformer.load,
      with { "rope_freqs.weight", { 2 }, "F32", file.floats { 1, bad } })
  end
  T.fails("tensor 'rope_freqs.weight' is %(1%), the model needs %(2%)", transformer.load, with { "rope_freqs.weight", { 1 }, "F32", file.floats { 1 } })
  T.fails("tensor 'output_norm.weight' is %(%d+,1%), the model needs %(%d+%)", transformer.load,
    (saved(function(_, tensors)
    local t = find(tensors, "output_norm.weight")
    t[2] = { t[2][1], 1 }
  end)))
  T.fails("tensor 'output_norm.weight' is not finite: 1 of %d+ values are nan or infinite.*; the file is damaged",
    transformer.load,
    (saved(function(_, tensors)
      local t = find(tensors, "output_norm.weight")
      t[4] = t[4]:sub(1, -5) .. string.pack("<f", 1 / 0)
    end)))
  local keys, tensors = file.model(transformer.new { vocab_size = 4, hidden_size = 256, num_hidden_layers = 1,
    num_attention_heads = 2,
    head_dim = 2, intermediate_size = 4 })
  local t = find(tensors, "output_norm.weight")
  t[3], t[4] = "IQ2_XXS", ("\0"):rep(66)
  T.fails("tensor 'output_norm.weight' is stored as IQ2_XXS, which mocl does not read", transformer.load,
    put(keys, tensors))
  T.fails("^/nowhere/x.gguf: No such file or directory", transformer.load, "/nowhere/x.gguf")
  T.fails("x.bin: not a GGUF file: it does not begin with GGUF", function()
    local path = T.tmpdir() .. "/x.bin"
    assert(fs.write(path, "weights"))
    return transformer.load(path)
  end)
end)

-- ---- byte-level BPE ----

local function bpe_file(change)
  return put(bpe_keys(change))
end

local function with_key(name, kind, value)
  return bpe_file(function(keys)
    file.set(keys, "tokenizer.ggml." .. name, kind, value)
  end)
end

T.test("kind gpt2: ids, special tokens, names, and what is saved", function()
  local tok = assert(tokenizer.load(bpe_file()))
  T.eq({ #tok, tok:bos_id(), tok:eos_id() }, { #bpe, 0, 1 })
  for _, text in ipairs(TEXTS) do
    T.eq(tok:encode(text), bpe:encode(text), text)
    T.eq(tok:decode(tok:encode(text)), text)
  end
  T.eq(tok:encode("<s>a<u>b<c>", { special = true }), { 0, bpe:token_to_id "a", 2, bpe:token_to_id "b", 3 })
  T.eq(tok:decode { 0, 2, 3 }, "<u>") -- what users defined is text
  T.eq(tok:encode("<s><u>", { special = false })[4], 2)
  T.eq(tok:encode "a!", { bpe:token_to_id "a", bpe:token_to_id "!" }) -- padding that is an ordinary token is one
  local dir = T.tmpdir()
  assert(tok:save(dir))
  local again = assert(tokenizer.load(dir))
  T.eq({ again:encode(TEXTS[1] .. "<u><c>"), again:bos_id(), again:decode { 0, 2 } },
    { tok:encode(TEXTS[1] .. "<u><c>"), 0, "<u>" })
end)

T.test("kind gpt2: what add_special_tokens adds", function()
  local function added(path, pair)
    local tok = assert(tokenizer.load(path))
    local dir = T.tmpdir()
    assert(tok:save(dir))
    local ids = tok:encode("a", { add_special_tokens = true, pair = pair })
    T.eq(assert(tokenizer.load(dir)):encode("a", { add_special_tokens = true, pair = pair }), ids)
    for i, id in ipairs(ids) do
      ids[i] = bpe:id_to_token(id)
    end
    return table.concat(ids, " ")
  end
  T.eq(added(bpe_file()), "a")
  T.eq(added(with_key("add_bos_token", "bool", true)), "<s> a")
  T.eq(added(with_key("add_eos_token", "bool", true)), "a </s>")
  T.eq(added(with_key("pre", "string", "llama-bpe")), "<s> a") -- the default of this name
  local both = bpe_file(function(keys)
    file.set(keys, "tokenizer.ggml.add_bos_token", "bool", true)
    file.set(keys, "tokenizer.ggml.add_eos_token", "bool", true)
  end)
  T.eq({ added(both), added(both, "b") }, { "<s> a </s>", "<s> a </s> <s> b </s>" })
  T.eq(added(bpe_file(function(keys)
    file.set(keys, "tokenizer.ggml.pre", "string", "llama-bpe")
    file.set(keys, "tokenizer.ggml.add_bos_token", "bool", false)
  end)), "a")
  local none = assert(tokenizer.load(bpe_file(function(keys)
    file.set(keys, "tokenizer.ggml.bos_token_id")
    file.set(keys, "tokenizer.ggml.eos_token_id")
    file.set(keys, "tokenizer.ggml.add_bos_token", "bool", true)
  end)))
  T.eq({ none:bos_id(), none:eos_id(), #none:encode("a", { add_special_tokens = true }) }, { nil, nil, 1 })
end)

T.test("kind gpt2: words are cut as the name in pre says", function()
  -- every digit run a token, so that the cuts show
  local function words(pre, text)
    local path = bpe_file(function(keys, tokens, types)
      local merges = {}
      for _, word in ipairs { "12", "123", "1234", "34", "don", "'t", "'T", "Ġ1", "ab", "aB" } do
        tokens[#tokens + 1], types[#types + 1] = word, 1
      end
      for _, m in ipairs { "1 2", "12 3", "123 4", "3 4", "' t", "' T", "a b", "a B" } do
        merges[#merges + 1] = m
      end
      file.set(keys, "tokenizer.ggml.merges", "[string]", merges)
      file.set(keys, "tokenizer.ggml.pre", pre and "string", pre)
    end)
    local tok = assert(tokenizer.load(path))
    local out = tok:encode(text)
    for i, id in ipairs(out) do
      out[i] = tok:id_to_token(id)
    end
    return table.concat(out, "|")
  end
  T.eq(words("gpt-2", "1234"), "1234")
  T.eq(words("smollm", "1234"), "1|2|3|4")
  T.eq(words("qwen2", "1234"), "1|2|3|4")
  T.eq(words("llama-bpe", "1234"), "123|4")
  T.eq(words("default", "1234"), "123|4")
  T.eq(words(nil, "1234"), "123|4")
  T.eq(words("tekken", "1234"), "1|2|3|4")
  T.eq(words("gpt-4o", "1234"), "123|4")
  T.eq(words("deepseek-v3", "1234"), "123|4")
  T.eq(words("falcon", "1234"), "123|4")
  T.eq({ words("gpt-2", "'T"), words("llama-bpe", "'T"), words("qwen2", "'t") }, { "'|T", "'T", "'t" })
  T.eq({ words("tekken", "aB"), words("qwen2", "aB"), words("gpt-4o", "ab") }, { "a|B", "aB", "ab" })
  for _, pre in ipairs { "unheard-of", "kimi-k2", "", "gpt-2 phi-2", "gpt", "\0" } do
    local path = with_key("pre", "string", pre)
    if pre == "" then
      T.ok(tokenizer.load(path))
    else
      T.fails("x.gguf: tokenizer.ggml.pre = .* is not supported", tokenizer.load, path)
    end
  end
end)

T.test("rows of padding at the end are no tokens, unused ones inside stay", function()
  local tok = assert(tokenizer.load(bpe_file(function(_, tokens, types)
    types[200] = 5
    for i = 1, 5 do
      tokens[#tokens + 1], types[#types + 1] = ("[PAD%d]"):format(i), 5
    end
  end)))
  T.eq({ #tok, tok:decode { 1, #bpe, #bpe + 4 }, tok:id_to_token(#bpe) }, { #bpe, "", nil })
  local named = assert(tokenizer.load(bpe_file(function(keys, tokens, types)
    for i = 1, 5 do
      tokens[#tokens + 1], types[#types + 1] = ("[PAD%d]"):format(i), 5
    end
    file.set(keys, "tokenizer.ggml.eos_token_id", "u32", #bpe + 1)
  end)))
  T.eq({ #named, named:eos_id() }, { #bpe + 2, #bpe + 1 })
end)

T.test("an empty token is an id without a spelling", function()
  local tok = assert(tokenizer.load(bpe_file(function(_, tokens, types)
    tokens[#tokens + 1], types[#types + 1] = "", 1
    tokens[#tokens + 1], types[#types + 1] = "zz", 1
  end)))
  T.eq({ #tok, tok:id_to_token(#bpe), tok:id_to_token(#bpe + 1) }, { #bpe + 2, nil, "zz" })
end)

-- ---- SentencePiece ----

-- A piece for each byte, and some words; "<u>" is defined by the user.
local function spm_keys(change)
  local tokens, types, scores = { "<unk>", "<s>", "</s>" }, { 2, 3, 3 }, { 0, 0, 0 }
  local function add(text, kind, score)
    tokens[#tokens + 1], types[#types + 1], scores[#scores + 1] = text, kind, score
  end
  for b = 0, 255 do
    add(("<0x%02X>"):format(b), 6, 0)
  end
  for i, text in ipairs { "▁", "a", "b", "c", "ab", "▁a", "▁ab", "bc", "▁abc" } do
    add(text, 1, -i)
  end
  add("<u>", 4, 0)
  local keys = { { "tokenizer.ggml.model", "string", "llama" }, { "tokenizer.ggml.pre", "string", "default" },
    { "tokenizer.ggml.tokens", "[string]", tokens }, { "tokenizer.ggml.token_type", "[i32]", types },
      { "tokenizer.ggml.scores", "[f32]", scores } }
  if change then
    change(keys, tokens, types, scores)
  end
  return keys
end

local function spelled(tok, text, options)
  local ids = tok:encode(text, options)
  for i, id in ipairs(ids) do
    ids[i] = tok:id_to_token(id)
  end
  return table.concat(ids, " ")
end

T.test("kind llama: pieces by score, bytes, special tokens, the space in front, and what is saved", function()
  local tok = assert(tokenizer.load(put(spm_keys())))
  T.eq({ #tok, tok:bos_id(), tok:eos_id() }, { 269, 1, 2 })
  local dir = T.tmpdir()
  assert(tok:save(dir))
  for _, t in ipairs { tok, assert(tokenizer.load(dir)) } do
    T.eq(spelled(t, "ab bc"), "▁ab ▁ bc")
    T.eq(spelled(t, "ab", { add_special_tokens = true }), "<s> ▁ab")
    T.eq(spelled(t, "é"), "▁ <0xC3> <0xA9>")
    T.eq(spelled(t, "a<u>a</s>a"), "▁a <u> ▁a </s> ▁a") -- llama.cpp puts a space behind each such token
    T.eq(spelled(t, "<s>", { special = false }), "▁ <0x3C> <0x73> <0x3E>")
    T.eq(t:decode(t:encode "ab bc"), "ab bc")
    T.eq(t:decode { 1, 268, 2 }, "<u>")
  end
  local plain = assert(tokenizer.load(put(spm_keys(function(keys)
    file.set(keys, "tokenizer.ggml.add_space_prefix", "bool", false)
    file.set(keys, "tokenizer.ggml.add_bos_token", "bool", false)
    file.set(keys, "tokenizer.ggml.add_eos_token", "bool", true)
    file.set(keys, "tokenizer.ggml.eos_token_id", "u32", 1)
  end))))
  T.eq(spelled(plain, "ab a", { add_special_tokens = true }), "ab ▁a <s>")
end)

T.test("vocabularies of llama.cpp give its ids", function()
  for _, name in ipairs { "gpt-2", "llama-spm" } do
    local base = T.shared("tokenizers/gguf-vocab/ggml-vocab-" .. name .. ".gguf")
    local tok = assert(tokenizer.load(base))
    local mark, texts, n = "\n__ggml_vocab_test__\n", assert(fs.read(base .. ".inp")), 0
    local at = 1
    for line in assert(fs.read(base .. ".out")):gmatch "([^\n]*)\n" do
      local from, to = texts:find(mark, at, true)
      local text, ids = texts:sub(at, (from or #texts + 1) - 1), {}
      for id in line:gmatch "%d+" do
        ids[#ids + 1] = math.tointeger(id)
      end
      T.eq(tok:encode(text), ids, T.show(text))
      T.eq(tok:decode(ids), text)
      at, n = (to or #texts) + 1, n + 1
    end
    T.ok(n >= 46, n)
  end
end)

-- ---- what tokenizers are refused for ----

T.test("mistakes in a tokenizer are told by key", function()
  local function ggml(name, kind, value, pattern)
    T.fails("x.gguf: " .. pattern, tokenizer.load, with_key(name, kind, value))
  end
  ggml("model", nil, nil, "tokenizer.ggml.model is missing: the file holds no tokenizer; load one from elsewhere")
  ggml("model", "string", "none", "tokenizer.ggml.model is none: the file holds no tokenizer")
  ggml("model", "string", "t5", "tokenizer.ggml.model = t5 is not supported %(gpt2, llama, bert%)")
  ggml("model", "string", "gpt2\0", "tokenizer.ggml.model = gpt2")
  ggml("model", "u32", 1, "tokenizer.ggml.model is of type u32, and must be of type string")
  ggml("model", "string", "llama", "tokenizer.ggml.scores is missing")
  ggml("tokens", nil, nil, "tokenizer.ggml.tokens is missing or empty")
  ggml("tokens", "[string]", {}, "tokenizer.ggml.tokens is missing or empty")
  ggml("tokens", "[u32]", { 1 }, "tokenizer.ggml.tokens is an array of type u32, and must be one of string")
  ggml("tokens", "[string]", { "a", "a" }, "tokenizer.ggml.token_type has %d+ values, tokenizer.ggml.tokens has 2")
  ggml("token_type", "[i32]", { 1 }, "tokenizer.ggml.token_type has 1 values, tokenizer.ggml.tokens has")
  ggml("token_type", "[f32]", { 1 }, "tokenizer.ggml.token_type is an array of type f32")
  ggml("merges", nil, nil, "tokenizer.ggml.merges is missing")
  ggml("merges", "[string]", { "ab" }, "merge 0 is not two tokens in UTF%-8 and a space between")
  ggml("merges", "[string]", { " b" }, "merge 0 is not two tokens")
  ggml("merges", "[string]", { "a zz9" }, "merge 0: 'zz9' is not in the vocabulary")
  ggml("merges", "[string]", { "a \255" }, "merge 0 is not two tokens in UTF%-8")
  ggml("bos_token_id", "u32", 99999, "tokenizer.ggml.bos_token_id = 99999 is no token: the vocabulary has %d+")
  ggml("bos_token_id", "i32", -1, "tokenizer.ggml.bos_token_id = %-1 is no token")
  ggml("eos_token_id", "f32", 1, "tokenizer.ggml.eos_token_id is of type f32, and must be an integer")
  ggml("add_bos_token", "u32", 1, "tokenizer.ggml.add_bos_token is of type u32, and must be of type bool")
  ggml("add_sep_token", "bool", true, "tokenizer.ggml.add_sep_token is not false, which is not supported")
  ggml("add_space_prefix", "bool", true, "tokenizer.ggml.add_space_prefix is true")
  ggml("remove_extra_whitespaces", "bool", true, "tokenizer.ggml.remove_extra_whitespaces is not false")
  ggml("escape_whitespaces", "bool", false, "tokenizer.ggml.escape_whitespaces is not true")
  ggml("precompiled_charsmap", "[u8]", { 1 },
    "tokenizer.ggml.precompiled_charsmap is not supported %(mocl does not know this key%)")
  local function broken(pattern, change)
    T.fails("x.gguf: " .. pattern, tokenizer.load, bpe_file(change))
  end
  broken("tokens %d+ and %d+ are both 'a'", function(_, tokens, types)
    tokens[#tokens + 1], types[#types + 1] = "a", 1
  end)
  broken("token %d+ is not UTF%-8", function(_, tokens, types)
    tokens[#tokens + 1], types[#types + 1] = "\255", 1
  end)
  broken("token 5 has type 9, and 0 to 6 are known", function(_, _, types)
    types[6] = 9
  end)
  local function spm(pattern, change)
    T.fails("x.gguf: " .. pattern, tokenizer.load, put(spm_keys(change)))
  end
  spm("no piece for the byte 0x07", function(_, tokens, types)
    tokens[3 + 8], types[3 + 8] = "seven", 1
  end)
  spm("token 9 is a byte by its type and is spelled 'seven', not like <0x0A>", function(_, tokens)
    tokens[10] = "seven"
  end)
  spm("tokenizer.ggml.scores has 3 values", function(keys)
    file.set(keys, "tokenizer.ggml.scores", "[f32]", { 1, 2, 3 })
  end)
  spm("the score of token 263 is not finite", function(_, _, _, scores)
    scores[264] = 0 / 0
  end)
  spm("token 267 is not UTF%-8", function(_, tokens, types)
    tokens[268], types[268] = "\255", 3
  end)
end)

-- ---- both ----

T.test("without memory, at each place, loading fails and leaves nothing behind", function()
  local keys, tensors = file.model(small.model { config = { vocab_size = #bpe } })
  for _, key in ipairs(bpe_keys()) do
    keys[#keys + 1] = key
  end
  local both, pieces = put(keys, tensors), put(spm_keys())
  for name, f in pairs { model = function() return transformer.load(both) end,
    bpe = function() return tokenizer.load(both) end,
    pieces = function() return tokenizer.load(pieces) end } do
    local n, step, done = 0, 1, false
    repeat
      tensor.fail_after(n)
      local ok, got, message = pcall(f)
      tensor.fail_after(-1)
      done = ok and got ~= nil
      T.ok(done or tostring(ok and message or got):find "memory", ("%s: %d: %s"):format(name, n,
        tostring(ok and message or got)))
      n = n + step
      step = n > 100 and n // 12 or 1 -- the places of a loop are alike
    until done
    T.ok(n > 8, name)
  end
end)

T.test("init= takes a GGUF file: its sizes, and a tokenizer of its own", function()
  local keys, tensors = file.model(small.model { config = { vocab_size = #bpe + 3 } })
  for _, key in ipairs(bpe_keys()) do
    keys[#keys + 1] = key
  end
  local path = put(keys, tensors)
  local cfg = { init = path, prompts = "", data = "", rewards = "", tokenizer = { path = "" }, model = {} }
  own_model.fill(cfg, {})
  T.eq(cfg.model, { hidden_size = 12, layers = 2, heads = 4, intermediate_size = 20, positions = 40 })
  T.eq(cfg.tokenizer.vocab_size, #bpe + 3)
  local dir = T.tmpdir() .. "/tokenizer"
  own_model.copy_tokenizer(cfg, dir)
  T.eq(assert(tokenizer.load(dir)):encode(TEXTS[1]), bpe:encode(TEXTS[1]))
  file.set(keys, "llama.expert_count", "u32", 8)
  cfg.init = put(keys, tensors)
  T.raises("^init=.*x.gguf: llama.expert_count = 8 is not supported", own_model.fill, cfg, {})
end)

T.test("the recipe generates from one file", function()
  local model = transformer.new { vocab_size = #bpe + 4, hidden_size = 16, num_hidden_layers = 1,
    num_attention_heads = 2, intermediate_size = 16,
    max_position_embeddings = 64, tie_word_embeddings = true }
  local prompts, responses = lm.encode(bpe, { { response = "the cat sat" } })
  lm.train { model = model, parameters = transformer.train_base(model), prompts = prompts, responses = responses,
    steps = 60, batch_size = 1,
    lr = 1e-2, seed = 0, purpose = "test" }
  local keys, tensors = file.model(model)
  for _, key in ipairs(bpe_keys(function(k)
    file.set(k, "tokenizer.ggml.add_bos_token", "bool", true)
  end)) do
    keys[#keys + 1] = key
  end
  local path = put(keys, tensors)
  local out, err, status = child.mocl { "generate", "model=" .. path, "prompt=the", "temperature=0",
    "quiet=true" }
  T.eq({ out, err, status }, { "the cat sat", "", 0 })
  file.set(keys, "tokenizer.ggml.model", "string", "none")
  out, err, status = child.mocl { "generate", "model=" .. put(keys, tensors) }
  T.ok(status == 1 and err:find "option model: .*x.gguf: tokenizer.ggml.model is none: the file holds no tokenizer",
    err)
end)

-- ---- what another architecture, or rope_freqs.weight, makes of the tensors ----

T.test("rope_freqs.weight divides the rotary frequencies, and is written", function()
  local path, plain = saved(function(_, tensors)
    tensors[#tensors + 1] = { "rope_freqs.weight", { 2 }, "F32", file.floats { 1, 8 } }
  end)
  local model, batch = assert(transformer.load(path)), transformer.batch { { 3, 7, 1, 20, 11, 2, 5, 9 } }
  local config = plain:config()
  config.rope_frequencies = { 1.0, config.rope_theta ^ -.5 / 8 }
  T.eq(model:config().rope_frequencies, config.rope_frequencies)
  local same = transformer.new(config, { init = false })
  for i, p in ipairs(transformer.parameters(same)) do
    tensor.no_grad(p.copy_, p, transformer.parameters(plain)[i])
  end
  T.eq(model:forward(batch):totable(), same:forward(batch):totable())
  T.ok((model:forward(batch) - plain:forward(batch)):abs():max():item() > 1e-3, "the tensor changes the model")
  T.raises("its rotary frequencies are a list of their own, as a GGUF file has them in rope_freqs.weight", transformer.save, model, T.tmpdir() .. "/d")
  local out = T.tmpdir() .. "/y.gguf"
  assert(transformer.save_gguf(model, out))
  local again = assert(transformer.load(out))
  T.near(again:forward(batch):totable(), model:forward(batch):totable(), 1e-6)
  T.eq(assert(gguf.open(out)):tensor("rope_freqs.weight"):totable(), { 1, 8 })
  local ones = assert(transformer.load((saved(function(_, tensors)
    tensors[#tensors + 1] = { "rope_freqs.weight", { 2 }, "F32", file.floats { 1, 1 } }
  end))))
  T.eq(ones:config().rope_frequencies, nil)
end)

T.test("qwen2, qwen3 and gpt2 are written and read as the same model", function()
  local batch = transformer.batch { { 3, 7, 1, 20, 11, 2, 5, 9 } }
  local specs = {
    qwen2 = { biases = { "q_proj", "k_proj", "v_proj" } }, qwen3 = { qk_norm = true },
    gpt2 = { norm = "layer", positions = "learned", mlp = "plain", hidden_act = "gelu_tanh", num_key_value_heads = 4, head_dim = 3,
      biases = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" } },
  }
  for architecture, spec in pairs(specs) do
    local model, path = small.model { config = spec }, T.tmpdir() .. "/x.gguf"
    for i, p in ipairs(transformer.parameters(model)) do
      if p.ndim == 1 then
        tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = 3, stream = i, std = .5 }))
      end
    end
    assert(transformer.save_gguf(model, path))
    local f = assert(gguf.open(path))
    T.eq(f.metadata["general.architecture"], architecture)
    T.eq(f:info "blk.0.attn_qkv.weight" ~= nil, architecture == "gpt2")
    f:close()
    local again, config = assert(transformer.load(path))
    T.eq(again:hash(), model:hash(), architecture)
    T.eq(config.model_type, architecture)
    T.eq(again:forward(batch):totable(), model:forward(batch):totable(), architecture)
    -- and out into a directory of its family
    local dir = T.tmpdir() .. "/hf"
    assert(transformer.save(again, dir, { bos_token_id = 1 }))
    local all = assert(json.load(dir .. "/config.json"))
    T.eq({ all.model_type, all.architectures, all.bos_token_id },
      { architecture, { ({ qwen2 = "Qwen2ForCausalLM", qwen3 = "Qwen3ForCausalLM", gpt2 = "GPT2LMHeadModel" })[architecture] }, 1 })
    local out, read = assert(transformer.load(dir))
    T.eq(read.model_type, architecture)
    T.eq(out:hash(), model:hash(), architecture)
    T.eq(out:forward(batch):totable(), model:forward(batch):totable(), architecture)
    assert(transformer.save(out, dir)) -- once more, from the files
    T.eq(assert(transformer.load(dir)):hash(), model:hash())
  end
end)

for _, case in ipairs { "llama", "llama-tied", "qwen2", "gpt2" } do
  T.test(case .. ": a GGUF file that becomes a directory has the logits of the directory that the file was made from", function()
    local of = { ["llama-tied"] = "base-own-head-f32.gguf" }
    local path = T.shared(("gguf/%s/%s"):format(case, of[case] or "base-f32.gguf"))
    local model, dir = assert(transformer.load(path)), T.tmpdir() .. "/hf"
    assert(transformer.save(model, dir))
    local again, config = assert(transformer.load(dir))
    local first = assert(json.load(T.shared(("gguf/%s/base/config.json"):format(case))))
    T.eq({ config.model_type, config.architectures }, { first.model_type, first.architectures })
    local golden = assert(json.load(T.shared(("gguf/%s/base.logits.json"):format(case))))
    local hidden = again:forward(transformer.batch { golden.tokens })
    T.near(nn.linear(hidden, again:head()):totable(), golden.logits, 5e-5)
  end)
end

-- ---- bert ----

local bert = assert(json.load(fs.dirname(debug.getinfo(1, "S").source:sub(2)) .. "/fixtures/gguf/bert.json"))

-- The file that llama.cpp's converter would make, with matrices of a type, after change(keys, tensors by name).
local function bert_file(kind, change)
  local keys, tensors, list, path = {}, {}, {}, T.tmpdir() .. "/bert.gguf"
  for i, key in ipairs(bert.keys) do
    keys[i] = { table.unpack(key) }
  end
  keys[#keys + 1] = { "general.alignment", "u32", 32 }
  for name, shape in pairs(bert.tensors) do
    local n = shape[1] * (shape[2] or 1)
    local values = small.weight(name, n)
    for i, x in ipairs(values) do
      values[i] = name:find "Norm.weight$" and 1 + x / 2 or x
    end
    local theirs = bert.names[name]
    tensors[theirs] = { name = theirs, tensor = tensor.new(values):reshape(shape),
      type = shape[2] and theirs ~= "position_embd.weight" and theirs ~= "token_types.weight" and kind or "F32" }
  end
  if change then
    change(keys, tensors)
  end
  for _, t in pairs(tensors) do
    list[#list + 1] = t
  end
  table.sort(list, function(a, b) return a.name < b.name end)
  assert(gguf.save(path, { metadata = keys, tensors = list }))
  return path
end

local function bert_states(model, i)
  local batch = transformer.batch { bert.rows[i] }
  batch.types = tensor.new(bert.types[i], { dtype = "i32" })
  return model:forward(batch):totable()
end

T.test("bert: the states of transformers on the weights of the file, and they are the file's to the bit", function()
  for kind, states in pairs { F32 = bert.states, Q8_0 = bert.states_q8_0 } do
    local path = bert_file(kind)
    local model, config = assert(transformer.load(path))
    T.eq({ config.model_type, config.type_vocab_size, model:config().causal }, { "bert", 2, false })
    for i, want in ipairs(states) do
      T.near(bert_states(model, i), want, 1e-4, kind .. " " .. i)
    end
    local f, named, n = assert(gguf.open(path)), {}, 0
    for _, pair in ipairs(model:named_parameters()) do
      named[pair[1]] = pair[2]
    end
    for ours, theirs in pairs { ["model.embed_tokens.weight"] = "token_embd.weight", ["model.embed_types.weight"] = "token_types.weight",
      ["model.embed_positions.weight"] = "position_embd.weight", ["model.embed_norm.bias"] = "token_embd_norm.bias",
      ["model.layers.1.self_attn.q_proj.weight"] = "blk.1.attn_q.weight", ["model.layers.0.mlp.down_proj.weight"] = "blk.0.ffn_down.weight",
      ["model.layers.1.input_layernorm.weight"] = "blk.1.attn_output_norm.weight",
      ["model.layers.1.post_attention_layernorm.weight"] = "blk.1.layer_output_norm.weight" } do
      T.eq(named[ours]:totable(), f:tensor(theirs):totable(), ours)
      n = n + 1
    end
    f:close()
    T.eq(n, 8)
    T.raises("generate: this model has no language%-model head", model.generate, model, { { 1 } })
    -- and out into a directory of its family
    local dir = T.tmpdir() .. "/hf"
    assert(transformer.save(model, dir))
    local names = assert(safetensors.load(dir .. "/model.safetensors"))
    for name in pairs(bert.tensors) do
      T.ok(names[name], name)
    end
    T.eq(bert_states(assert(transformer.load(dir)), 1), bert_states(model, 1))
    T.fails("no architecture of llama.cpp's that mocl writes", transformer.save_gguf, model, T.tmpdir() .. "/y.gguf")
  end
end)

T.test("bert: what it lacks, and what another model would be, is refused by name", function()
  local function refused(text, change)
    T.fails("bert.gguf: " .. text, transformer.load, bert_file("F32", change))
  end
  local function key(name, value)
    return function(keys)
      for _, k in ipairs(keys) do
        if k[1] == name then
          k[3] = value
        end
      end
    end
  end
  local function without(name)
    return function(_, tensors)
      tensors[name] = nil
    end
  end
  refused("bert.attention.causal = true is not supported %(false%)", key("bert.attention.causal", true))
  refused("bert.pooling_type = 4 is not supported", key("bert.pooling_type", 4))
  refused("tokenizer.ggml.token_type_count = 3 is not supported %(2, the rows of token_types.weight%)", key("tokenizer.ggml.token_type_count", 3))
  refused("1 tensors are missing, the first is 'blk.1.attn_q.bias'", without "blk.1.attn_q.bias")
  refused("1 tensors are missing, the first is 'token_embd_norm.weight'", without "token_embd_norm.weight")
  refused("tokenizer.ggml.token_type_count = 2 is not supported %(0,", without "token_types.weight")
  refused("tensor 'blk.1.[%a_.]+' belongs to no layer", key("bert.block_count", 1))
  refused("tensor 'position_embd.weight' is %(24,32%), the model needs %(25,32%)", key("bert.context_length", 25))
  refused("tensor 'cls.weight' belongs to no layer", function(_, tensors)
    tensors["cls.weight"] = { name = "cls.weight", tensor = tensor.ones { 32, 32 } }
  end)
  refused("bert.expert_count = 8 is not supported %(0%)", function(keys)
    keys[#keys + 1] = { "bert.expert_count", "u32", 8 }
  end)
  refused("bert.attention.layer_norm_rms_epsilon = .* is not supported", function(keys)
    keys[#keys + 1] = { "bert.attention.layer_norm_rms_epsilon", "f32", 1e-5 }
  end)
  refused("tensor 'blk.0.ffn_up.weight' is not finite", function(_, tensors)
    local t = tensors["blk.0.ffn_up.weight"].tensor
    t:flatten():narrow(1, 5, 1):fill_(0 / 0)
  end)
  -- one type of tokens without a table, as of a model that has none
  local path = bert_file("F32", function(keys, tensors)
    tensors["token_types.weight"] = nil
    keys[#keys] = nil
    key("tokenizer.ggml.token_type_count", 1)(keys)
  end)
  T.eq(assert(transformer.load(path)):config().type_vocab_size, nil)
end)

T.test("a specification that llama.cpp has no name for is not written", function()
  local path = T.tmpdir() .. "/x.gguf"
  for _, spec in ipairs { { biases = { "o_proj" } }, { hidden_act = "gelu" }, { rope_layers = { true, false } }, { attention_scales = { 1, 2 } },
    { qk_norm = true, rope_frequencies = { 1, .5 } } } do
    T.fails("x.gguf: no architecture of llama.cpp's that mocl writes has this specification %(llama, qwen2, qwen3, gpt2%)", transformer.save_gguf,
      small.model { config = spec }, path)
  end
  T.ok(not fs.exists(path))
end)
