-- mocl export: merged models and adapters as other programs read them, from models, adapters and finished runs; what is there before
-- stays until the new files are whole

local T = require "t"
local child = require "child"
local export = require "mocl.lm.export"
local failures = require "failures"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local BATCH = transformer.batch { { 1, 5, 9, 28, 3, 14 } }

local function states(model)
  return model:forward(BATCH):totable()
end

-- a directory with a base, its tokenizer and an adapter beside it: paths of both, and the states with the adapter
local function made(config)
  local dir = T.tmpdir()
  local shape = { vocab_size = 257, hidden_size = 32, intermediate_size = 32, head_dim = 8 }
  for key, value in pairs(config or {}) do
    shape[key] = value
  end
  local model = small.model { config = shape }
  assert(transformer.save(model, dir .. "/base", { bos_token_id = 1, eos_token_id = 2 }))
  assert(tokenizer.train({ "hello" }, { vocab_size = 257, special_tokens = { "<s>" } }):save(dir .. "/base/tokenizer.json"))
  assert(fs.write(dir .. "/base/chat_template.jinja", "{{ x }}"))
  assert(fs.write(dir .. "/base/README.md", "not the tokenizer's"))
  small.adapter(model)
  assert(lora.save(model, dir .. "/adapter"))
  return dir, states(model)
end

local function names(dir)
  local list = assert(fs.list(dir))
  table.sort(list)
  return list
end

local function run(...)
  local out, err, status = child.mocl { "-e", "", "export", ... }
  T.ok(not err:find("traceback", 1, true), err)
  return out, err, status
end

-- the figure that the tool prints
local function told(out)
  return tonumber(T.ok(out:match "differ by at most (%S+) on"))
end

T.test("a merged directory is the model with its adapter, with the tokenizer's files and nothing else", function()
  local dir, want = made()
  local out, err, status = run("model=" .. dir .. "/base", "adapter=" .. dir .. "/adapter", "out=" .. dir .. "/out")
  T.eq({ status, err }, { 0, "" })
  T.ok(told(out) < 1e-5, out)
  T.eq(names(dir .. "/out"), { "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json" })
  local model, config = assert(transformer.load(dir .. "/out"))
  T.near(states(model), want, 1e-5)
  T.eq({ config.eos_token_id, config.torch_dtype }, { 2, "float32" })
  T.eq(fs.read(dir .. "/out/tokenizer.json"), fs.read(dir .. "/base/tokenizer.json"))
  T.eq(names(dir), { "adapter", "base", "out" })
end)

T.test("an adapter on a base in bf16 is merged in f32 into the numbers that this base has", function()
  local dir = made()
  local base = assert(transformer.load(dir .. "/base", { dtype = "bf16" }))
  small.adapter(base)
  assert(lora.save(base, dir .. "/on-bf16"))
  local out = dir .. "/out"
  T.fails("belongs to another base", export.write, { model = dir .. "/base", adapter = dir .. "/on-bf16", out = out })
  T.fails("belongs to another base", export.write, { model = dir .. "/base", adapter = dir .. "/adapter", out = out, computed = "bf16" })
  assert(export.write { model = dir .. "/base", adapter = dir .. "/on-bf16", out = out, computed = "bf16" })
  local want = assert(transformer.load(dir .. "/base"))
  for _, pair in ipairs(want:named_parameters()) do
    tensor.no_grad(pair[2].copy_, pair[2], pair[2]:to("bf16"):to "f32")
  end
  small.adapter(want)
  T.near(states(assert(transformer.load(out))), states(want), 1e-5)
end)

T.test("types: what the weights lose is told, and f16 refuses what it does not hold", function()
  local dir, want = made()
  for kind, most in pairs { f16 = 2e-2, bf16 = .2 } do
    local path = dir .. "/" .. kind
    local out = run("model=" .. dir .. "/base", "adapter=" .. dir .. "/adapter", "out=" .. path, "dtype=" .. kind)
    T.ok(out:find("the weights were rounded to " .. kind, 1, true), out)
    local d = told(out)
    T.ok(d > 1e-4 and d < 10 * most, d)
    for name, t in pairs(assert(safetensors.load(path .. "/model.safetensors"))) do
      T.eq(t.dtype, kind, name)
    end
    local model, config = assert(transformer.load(path))
    T.eq(config.torch_dtype, kind == "f16" and "float16" or "bfloat16")
    T.near(states(model), want, 10 * most)
  end
  local model = assert(transformer.load(dir .. "/base"))
  tensor.no_grad(function() model:named_parameters()[1][2]:narrow(1, 1, 1):fill_(70000) end)
  T.fails("tensor 'model.embed_tokens.weight' has the value 70000, which f16 does not hold; use dtype = \"bf16\"", transformer.save, model,
    dir .. "/big", nil, { dtype = "f16" })
  T.ok(not fs.exists(dir .. "/big"))
  T.raises("dtype 'q8_0' is not one of f32, f16, bf16", transformer.save, model, dir .. "/big", nil, { dtype = "q8_0" })
end)

T.test("GGUF: merged in three types, the adapter alone, and the tokenizer of a GGUF file", function()
  local dir, want = made()
  for kind, most in pairs { f32 = 1e-5, bf16 = 1, q8_0 = 1 } do
    local path = ("%s/%s.gguf"):format(dir, kind)
    local out, err, status = run("model=" .. dir .. "/base", "adapter=" .. dir .. "/adapter", "out=" .. path, "dtype=" .. kind)
    T.eq(status, 0, err)
    T.eq(err, "")
    T.ok(told(out) < 10 * most)
    T.near(states(assert(transformer.load(path))), want, 10 * most)
    local file = assert(gguf.open(path))
    T.eq({ file:info "blk.0.attn_q.weight".type, file.metadata["tokenizer.ggml.eos_token_id"] }, { kind:upper(), 2 })
    T.eq({ file.metadata["tokenizer.chat_template"], #file.metadata["tokenizer.ggml.tokens"] }, { "{{ x }}", 257 })
    file:close()
    local own, made = assert(tokenizer.load(dir .. "/base")), assert(tokenizer.load(path))
    for _, text in ipairs { "hello  world 12 345", "<s>don't", "日本 \n\n x" } do
      T.eq(made:encode(text), own:encode(text))
    end
  end
  local alone = dir .. "/alone.gguf"
  T.ok(told((run("model=" .. dir .. "/base", "adapter=" .. dir .. "/adapter", "out=" .. alone, "merge=false"))) < 1e-5)
  local model = assert(transformer.load(dir .. "/base"))
  assert(lora.load(model, alone))
  T.near(states(model), want, 1e-5)
  -- from a GGUF file with a tokenizer, and with one, into a directory
  local keys, tokens = { { "tokenizer.ggml.model", "string", "gpt2" }, { "tokenizer.ggml.pre", "string", "gpt-2" } }, {}
  for i = 1, 257 do
    tokens[i] = ("t%d"):format(i)
  end
  tokens[1], tokens[2], tokens[3] = "t", "1", "t1"
  keys[3] = { "tokenizer.ggml.tokens", "array of string", tokens }
  keys[4] = { "tokenizer.ggml.merges", "array of string", { "t 1" } }
  local source = dir .. "/source.gguf"
  assert(transformer.save_gguf(assert(transformer.load(dir .. "/base")), source, { metadata = keys }))
  local done = assert(export.write { model = source, adapter = dir .. "/adapter", out = dir .. "/again.gguf" })
  T.eq(done.tokenizer, true)
  T.ok(done.difference < 1e-5)
  local file = assert(gguf.open(dir .. "/again.gguf"))
  T.eq({ #file.metadata["tokenizer.ggml.tokens"], file.metadata["tokenizer.ggml.eos_token_id"] }, { 257, 2 })
  file:close()
  keys[5] = { "tokenizer.ggml.bos_token_id", "u32", 7 }
  assert(transformer.save_gguf(assert(transformer.load(dir .. "/base")), source, { metadata = keys }))
  assert(export.write { model = source, out = dir .. "/files" })
  T.eq(assert(json.load(dir .. "/files/config.json")).bos_token_id, 7)
  T.eq(names(dir .. "/files"), { "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json" })
  T.ok(tokenizer.load(dir .. "/files"))
  T.eq(done.unread, nil)
  keys[2][3] = "a rule of the future" -- which mocl does not read, and hands on as it is
  assert(transformer.save_gguf(assert(transformer.load(dir .. "/base")), source, { metadata = keys }))
  local out, err, status = run("model=" .. source, "out=" .. dir .. "/again.gguf")
  T.eq(status, 0, out .. err)
  T.ok(err:find("the tokenizer is handed on unread, and the logits are compared on drawn ids: .*a rule of the future"), err)
  T.fails("tokenizer.ggml.pre = a rule of the future is not supported", export.write, { model = source, out = dir .. "/files" })
  T.ok(tokenizer.load(dir .. "/files"), "the old files are still there")
  tokens[257] = nil
  assert(transformer.save_gguf(assert(transformer.load(dir .. "/base")), source, { metadata = keys }))
  T.fails("its tokenizer has 256 tokens, the model 257 rows", export.write, { model = source, out = dir .. "/again.gguf" })
end)

T.test("an adapter alone as a PEFT directory, of GPT-2 too", function()
  local gpt2 = { norm = "layer", positions = "learned", mlp = "plain", hidden_act = "gelu_tanh", num_key_value_heads = 4, head_dim = 8,
    biases = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" } }
  for _, config in ipairs { {}, gpt2 } do
    local dir, want = made(config)
    for _, name in ipairs { "peft", "lora.gguf" } do
      local done = assert(export.write { model = dir .. "/base", adapter = dir .. "/adapter", out = dir .. "/" .. name, merge = false })
      T.ok(done.difference < 1e-5)
      local model = assert(transformer.load(dir .. "/base"))
      assert(lora.load(model, dir .. "/" .. name))
      T.near(states(model), want, 1e-5)
    end
    T.eq(names(dir .. "/peft"), { "adapter_config.json", "adapter_model.safetensors" })
    T.eq(assert(json.load(dir .. "/peft/adapter_config.json")).base_model_name_or_path, "../base")
    local merged = assert(export.write { model = dir .. "/base", adapter = dir .. "/adapter", out = dir .. "/merged" })
    T.ok(merged.difference < 1e-5)
    T.near(states(assert(transformer.load(dir .. "/merged"))), want, 1e-5)
  end
end)

T.test("tokenizers of directories in GGUF files: the rule that gives their ids, padding, and those that have none", function()
  local dir, keys = T.tmpdir(), require "mocl.lm.gguf_tokenizer".keys
  local function of(path, rows)
    local tok = assert(tokenizer.load(path))
    local list, why = keys(tok, path, rows or tok:vocab_size())
    local all = {}
    for _, key in ipairs(list or {}) do
      all[key[1]] = key[3]
    end
    return list and all, why
  end
  local path = dir .. "/tokenizer.json"
  assert(tokenizer.train({ "hello hello" }, { vocab_size = 260, special_tokens = { "<s>", "</s>" } }):save(path))
  local all = assert(of(path, 263))
  local n = #all["tokenizer.ggml.tokens"]
  T.eq({ n, all["tokenizer.ggml.tokens"][1], all["tokenizer.ggml.token_type"][1], all["tokenizer.ggml.token_type"][263] }, { 263, "<s>", 3, 5 })
  T.eq(all["tokenizer.ggml.tokens"][263], "[PAD262]")
  T.eq(select(2, of(path, 200)), "the tokenizer has 260 ids, the model only 200")
  -- words cut as no rule of llama.cpp's cuts them
  local text = assert(fs.read(path))
  local json_of = json.decode(text)
  json_of.pre_tokenizer.pretokenizers[1].pattern.Regex = "[a-e]+|[^a-e]+"
  assert(fs.write(path, json.encode(json_of)))
  local merged = json_of.model.merges
  T.ok(#merged > 0)
  T.eq(select(2, of(path)), "no rule that llama.cpp has for cutting words gives its ids")
  for name, rule in pairs { qwen2 = "qwen2", bart = "gpt-2" } do
    T.eq(assert(of(fs.dirname(T.shared("tokenizers/" .. name .. "/vocab.json"))))["tokenizer.ggml.pre"], rule)
  end
  T.eq(select(2, of(T.shared "tokenizers/bert-base-uncased/tokenizer.json")), "only byte-level BPE is written into a GGUF file")
end)

T.test("a GGUF file without a tokenizer says so", function()
  local dir = made()
  assert(fs.remove(dir .. "/base/tokenizer.json"))
  assert(fs.write(dir .. "/base/vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n"))
  local out, err, status = run("model=" .. dir .. "/base", "out=" .. dir .. "/x.gguf")
  T.eq(status, 0, out .. err)
  T.ok(err:find("the file has no tokenizer (only byte-level BPE is written into a GGUF file); tokenizer=FILE.gguf takes", 1, true), err)
  local file = assert(gguf.open(dir .. "/x.gguf"))
  T.eq(file.metadata["tokenizer.ggml.model"], "none")
  file:close()
end)

local finished
local function finished_run()
  if not finished then
    finished = T.tmpdir() .. "/run"
    local list = failures.arguments(finished)
    table.insert(list, 1, "recipes/moc_hh.lua")
    local out, err, status = child.mocl(list)
    T.eq(status, 0, out .. err)
  end
  return finished
end

T.test("a finished run is exported with its base, its last adapter and its tokenizer", function()
  local dir, out = finished_run(), T.tmpdir() .. "/out"
  local text, err, status = run(dir, "out=" .. out)
  T.eq({ status, err }, { 0, "" })
  T.ok(told(text) < 1e-5, text)
  local base = assert(transformer.load(dir .. "/sft"))
  local before = states(base)
  assert(lora.load(base, dir .. "/last"))
  local model = assert(transformer.load(out))
  T.near(states(model), states(base), 1e-5)
  T.ok(states(model)[6][1] ~= before[6][1], "the adapter changed something")
  T.eq(names(out), { "config.json", "model.safetensors", "tokenizer.json" })
  T.eq(assert(tokenizer.load(out)):encode "hello", assert(tokenizer.load(dir .. "/tokenizer.json")):encode "hello")
  -- one that has not ended
  local copy = T.tmpdir() .. "/copy"
  assert(os.execute(("cp -a '%s' '%s'; rm '%s/result.json'"):format(dir, copy, copy)))
  text, err, status = run(copy, "out=" .. out .. "2")
  T.eq({ status, text }, { 1, "" })
  T.ok(err:find("option model: " .. copy .. ": has no result.json; its run has not ended", 1, true), err)
  -- without its base, and without an adapter
  assert(os.execute(("cp '%s/result.json' '%s/'; mv '%s/sft' '%s/gone'"):format(dir, copy, copy, copy)))
  T.ok(select(2, run(copy, "out=" .. out .. "2")):find("the base of its adapter is not there", 1, true))
  assert(fs.remove(copy .. "/last"))
  T.ok(select(2, run(copy, "out=" .. out .. "2")):find("its last checkpoint has no adapter of a language model", 1, true))
  T.ok(not fs.exists(out .. "2"))
end)

T.test("a run whose out= is relative is exported from anywhere, after a move too", function()
  local at = T.tmpdir()
  assert(os.execute(("cp -a '%s' '%s/run'"):format(finished_run(), at)))
  for _, base in ipairs { "runs/a/b/sft", "sft" } do
    local config = assert(json.load(at .. "/run/last/adapter_config.json"))
    config.base_model_name_or_path = base
    assert(fs.write(at .. "/run/last/adapter_config.json", json.encode(config)))
    local text, err, status = run(at .. "/run", "out=" .. at .. "/out")
    T.eq({ status, err }, { 0, "" })
    T.ok(told(text) < 1e-5, text)
  end
end)

T.test("a directory of bitsandbytes is exported as the weights that its codes stand for", function()
  local dir = T.tmpdir()
  local from = T.shared "gguf/bnb/nf4"
  for _, out in ipairs { dir .. "/out", dir .. "/out.gguf" } do
    local text, err, status = run(from, "out=" .. out)
    T.eq({ status, told(text) }, { 0, 0 }, err)
    local again, quantised = assert(transformer.load(out)), assert(transformer.load(from))
    T.eq({ again:quantization(), quantised:quantization() }, { nil, "nf4" })
    quantised:dequantize()
    T.eq(states(again), states(quantised))
  end
end)

T.test("Q8_0 names the tool's own option where rows are no blocks", function()
  local dir = made { intermediate_size = 48 }
  local out, err, status = run("model=" .. dir .. "/base", "out=" .. dir .. "/x.gguf", "dtype=q8_0")
  T.eq({ status, out }, { 1, "" })
  T.ok(err:find("has rows of 48 values, and Q8_0 needs a multiple of 32; use dtype=f16\n", 1, true), err)
  T.ok(not fs.exists(dir .. "/x.gguf"))
end)

-- ---- what is there before ----

local function sharded(dir)
  local all, map, k = assert(safetensors.load(dir .. "/model.safetensors")), {}, 0
  for name, t in pairs(all) do
    k = k % 2 + 1
    local file = ("model-0000%d-of-00002.safetensors"):format(k)
    map[name] = file
    local part = fs.exists(fs.join(dir, file)) and assert(safetensors.load(fs.join(dir, file))) or {}
    part[name] = t:clone()
    for key, one in pairs(part) do
      part[key] = one:clone()
    end
    assert(safetensors.save(fs.join(dir, file), part))
  end
  assert(fs.write(dir .. "/model.safetensors.index.json", json.encode { weight_map = map }))
  assert(fs.remove(dir .. "/model.safetensors"))
end

T.test("over a sharded directory what was saved is left, and nothing else", function()
  local dir, want = made()
  local out = dir .. "/out"
  assert(export.write { model = dir .. "/base", out = out })
  sharded(out)
  assert(fs.write(out .. "/generation_config.json", '{"eos_token_id": 7}'))
  assert(fs.write(out .. "/vocab.txt", "old"))
  T.ok(transformer.load(out))
  assert(export.write { model = dir .. "/base", adapter = dir .. "/adapter", out = out })
  T.eq(names(out), { "chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json" })
  local model = assert(transformer.load(out))
  T.near(states(model), want, 1e-5)
  T.eq(transformer.eos_ids(model), { 2 })
  -- over the base itself, from itself
  assert(fs.remove(dir .. "/base/README.md"))
  assert(export.write { model = dir .. "/base", adapter = dir .. "/adapter", out = dir .. "/base" })
  T.near(states(assert(transformer.load(dir .. "/base"))), want, 1e-5)
  T.eq(names(dir), { "adapter", "base", "out" })
end)

T.test("a directory with other files, and names that do not fit, are refused before anything is read", function()
  local dir = made()
  local function refused(text, ...)
    local out, err, status = run(...)
    T.eq({ status, out }, { 1, "" })
    T.ok(err:find(text, 1, true), err)
  end
  local model = "model=" .. dir .. "/base"
  refused("option out: " .. dir .. ": holds 'adapter', which is no file of a model", model, "out=" .. dir)
  refused("option out: " .. dir .. "/base: holds 'README.md', which is no file of a model", model, "out=" .. dir .. "/base")
  refused("base/config.json: is a file; a model goes into a directory", model, "out=" .. dir .. "/base/config.json")
  assert(fs.mkdir(dir .. "/x.gguf"))
  refused("x.gguf: is a directory; a name that ends with .gguf is a file's", model, "out=" .. dir .. "/x.gguf")
  refused("option model is missing", "out=" .. dir .. "/out")
  refused("option out is missing", model)
  refused("option merge: false writes the adapter alone, and there is none", model, "out=" .. dir .. "/out", "merge=false")
  refused("option dtype: q8_0 is for GGUF files", model, "out=" .. dir .. "/out", "dtype=q8_0")
  refused("option dtype: the adapter of a PEFT directory is f32", model, "adapter=" .. dir .. "/adapter", "out=" .. dir .. "/out", "merge=false", "dtype=f16")
  refused("option dtype: expected one of f32, f16, bf16, q8_0, got 'int4'", model, "out=" .. dir .. "/out", "dtype=int4")
  refused("option model: " .. dir .. "/nowhere/config.json: No such file or directory", "model=" .. dir .. "/nowhere", "out=" .. dir .. "/out")
  refused("option adapter: " .. dir .. "/nowhere/adapter_config.json", model, "adapter=" .. dir .. "/nowhere", "out=" .. dir .. "/out")
  refused("option tokenizer: " .. dir .. "/nowhere: No such file or directory", model, "tokenizer=" .. dir .. "/nowhere", "out=" .. dir .. "/out")
  refused("option out: /dev/null/x.gguf: Not a directory", model, "out=/dev/null/x.gguf")
  refused("unknown device 'x' (cpu, cuda or cuda:N)", model, "out=" .. dir .. "/out", "device=x")
  T.eq(names(dir), { "adapter", "base", "x.gguf" })
end)

T.test("what belongs to a run is not written over", function()
  local dir, at = made(), finished_run()
  for _, model in ipairs { at, at .. "/sft", dir .. "/base" } do
    local out, err, status = run(model, "out=" .. at .. "/sft/")
    T.eq({ status, out }, { 1, "" })
    T.ok(err:find(("option out: %s/sft/: belongs to the run in %s, which reads it; choose another place"):format(at, fs.realpath(at)), 1, true), err)
  end
  T.fails("belongs to the run", export.write, { model = dir .. "/base", out = at .. "/base" })
end)

-- the hashes of the files of a directory, or of a file
local function picture(path)
  local list = {}
  for _, name in ipairs(fs.exists(path) == "directory" and names(path) or { "" }) do
    local file = name == "" and path or fs.join(path, name)
    list[name] = fs.exists(file) and assert(fs.sha256(file)) or "none"
  end
  return list
end

T.test("a disk that is full leaves the old files", function()
  local dir = made { hidden_size = 64, intermediate_size = 256 }
  assert(fs.remove(dir .. "/base/README.md"))
  for _, out in ipairs { dir .. "/out", dir .. "/out.gguf" } do
    assert(export.write { model = dir .. "/base", out = out })
    local before = picture(out)
    for _, blocks in ipairs { 1, 40, 200 } do -- of 1024 bytes
      local _, err, status = child.shell(('ulimit -f %d; "$MOCL" export model=%s/base adapter=%s/adapter out=%s'):format(blocks, dir, dir, out))
      T.eq(status, 1, err)
      T.ok(err:find("File too large", 1, true), err)
      T.eq(picture(out), before)
      T.eq(names(dir), fs.exists(dir .. "/out.gguf") and { "adapter", "base", "out", "out.gguf" } or { "adapter", "base", "out" })
    end
  end
end)

T.test("Ctrl-C leaves the old files or the new ones", function()
  local dir, want = made()
  local out = dir .. "/out"
  assert(export.write { model = dir .. "/base", out = out })
  local before = picture(out)
  -- at each function that writes, at its start and at its end
  local ends = { old = 0, new = 0 }
  for _, name in ipairs { "write", "copy", "rename", "mkdir", "remove_tree" } do
    for _, at in ipairs { "before", "after" } do
      local hook = ([[local fs = require "mocl.fs"
        local own, done = fs.%s, false
        local function stop() if not done then done = true io.popen("kill -INT $PPID"):close() end end
        fs.%s = function(...)
          if "%s" == "before" then stop() end
          local a, b, c = own(...)
          if "%s" == "after" then stop() end
          return a, b, c
        end]]):format(name, name, at, at)
      local _, err, status = child.mocl { "-e", hook, "export", "model=" .. dir .. "/base", "adapter=" .. dir .. "/adapter", "out=" .. out }
      T.ok(not err:find("traceback", 1, true), err)
      T.eq(names(dir), { "adapter", "base", "out" }, name .. " " .. at)
      local is_old = before["model.safetensors"] == picture(out)["model.safetensors"]
      ends[is_old and "old" or "new"] = ends[is_old and "old" or "new"] + 1
      T.ok(status == 130 or status == 0 and not is_old, name .. " " .. at .. ": " .. err) -- one during the exchange comes too late
      if is_old then
        T.eq(picture(out), before)
      else
        T.near(states(assert(transformer.load(out))), want, 1e-5)
        assert(export.write { model = dir .. "/base", out = out })
      end
    end
  end
  T.ok(ends.old > 0 and ends.new > 0, "both were seen")
end)

T.test("export.write: options that contradict each other", function()
  T.raises("dtype 'f64' is not one of f32, f16, bf16, q8_0", export.write, { model = "m", out = "o", dtype = "f64" })
  T.raises("q8_0 is for GGUF files", export.write, { model = "m", out = "o", dtype = "q8_0" })
  T.raises("there is no adapter to write", export.write, { model = "m", out = "o", merge = false })
  T.raises("the adapter of a PEFT directory is f32", export.write, { model = "m", out = "o", adapter = "a", merge = false, dtype = "bf16" })
  T.raises("unknown option 'adaptor'", export.write, { model = "m", out = "o", adaptor = "a" })
end)
