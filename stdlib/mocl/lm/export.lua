--- mocl.lm.export: a model with an adapter as files for other programs: a directory or a GGUF file of the merged model, or the adapter
-- alone as a PEFT directory or a LoRA GGUF. What was written is read again before it takes its place, so that the old files or the
-- new ones are there, and a directory holds what was written and nothing else.

local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local gguf_tokenizer_of = require "mocl.lm.gguf_tokenizer"
local keys = require "mocl.keys"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local own_model = require "mocl.lm.own_model"
local rng = require "mocl.rng"
local run_config = require "mocl.run.config"
local sys = require "mocl.sys"
local tensor = require "mocl.tensor"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local export = {}

--- dtype= -> what save_gguf calls it
export.TYPES = { f32 = "F32", f16 = "F16", bf16 = "BF16", q8_0 = "Q8_0" }

-- Files of a tokenizer in a directory, and of a model; patterns.
local TOKENIZER = { "^tokenizer%.json$", "^tokenizer%.model$", "^tokenizer%.bin$", "^vocab%.json$", "^vocab%.txt$", "^merges%.txt$",
  "^tokenizer_config%.json$", "^added_tokens%.json$", "^special_tokens_map%.json$", "^chat_template%.jinja$" }
local MODEL = { "^config%.json$", "^generation_config%.json$", "^model%.safetensors$", "^model%.safetensors%.index%.json$",
  "^model%-%d+%-of%-%d+%.safetensors$", "^adapter_config%.json$", "^adapter_model%.safetensors$" }

local function is_one_of(name, patterns)
  for _, pattern in ipairs(patterns) do
    if name:find(pattern) then
      return true
    end
  end
  return false
end

-- ---- where things lie ----

--- export.run(dir) -> {model =, adapter =, tokenizer =, quantization =, computed =} | nil, reason: the base, the last adapter and the
-- tokenizer of a run that has ended, the format of the base that the adapter was trained on, nil of floats, and its dtype; nil alone where dir is no directory of a run.
function export.run(dir)
  if fs.exists(fs.join(dir, "stages.json")) ~= "file" then
    return nil
  elseif fs.exists(fs.join(dir, "result.json")) ~= "file" then
    return nil, dir .. ": has no result.json; its run has not ended"
  end
  local last = fs.realpath(fs.join(dir, "last"))
  local config = last and fs.exists(fs.join(last, "adapter_config.json")) and keys.load(fs.join(last, "adapter_config.json"))
  local base = config and config.base_model_name_or_path
  if type(base) ~= "string" then
    return nil, dir .. ": its last checkpoint has no adapter of a language model; give the model and the adapter by their own paths"
  end
  -- A run with a relative out= has the base as a path from where it was started; the run's own sft/ is that base wherever the run lies.
  local places, model = base:sub(1, 1) == "/" and { base } or { fs.join(last, base), fs.join(dir, "sft"), base }, nil
  for _, place in ipairs(places) do
    model = model or fs.exists(place) == "directory" and place or nil
  end
  if not model then
    return nil, ("%s: the base of its adapter is not there (%s)"):format(dir, places[1])
  end
  local cfg, message = run_config.load(fs.join(dir, "config.lua"))
  if not cfg then
    return nil, message
  end
  return { model = fs.realpath(model) or model, adapter = last, tokenizer = own_model.tokenizer_of(dir), quantization = own_model.format(cfg),
    computed = cfg.dtype }
end

-- The files of a tokenizer at a path: list of {from, name}, or of a GGUF file its path alone.
local function tokenizer_files(path)
  if fs.exists(path) ~= "directory" then
    local dir, name = fs.dirname(path), fs.basename(path)
    local list = { { path, is_one_of(name, TOKENIZER) and name or "tokenizer" .. (name:match "%.[^.]*$" or "") } }
    for _, beside in ipairs { "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json" } do
      list[#list + 1] = fs.exists(fs.join(dir, beside)) == "file" and { fs.join(dir, beside), beside } or nil
    end
    return list
  end
  local list = {}
  for _, name in ipairs(assert(fs.list(path))) do
    list[#list + 1] = is_one_of(name, TOKENIZER) and { fs.join(path, name), name } or nil
  end
  return list
end

-- Whether there is a tokenizer at a path, of whatever kind.
local function has_tokenizer(path)
  if fs.exists(path) == "directory" then
    return #tokenizer_files(path) > 0
  elseif not gguf.is(path) then
    return true
  end
  local file = gguf.open(path)
  local kind = file and file.metadata["tokenizer.ggml.model"]
  if file then
    file:close()
  end
  return kind ~= nil and kind ~= "none"
end

-- ---- whole or not at all ----

-- What a directory holds beside the files of a model: the first name, or nil.
local function stranger_in(dir)
  local names = assert(fs.list(dir))
  table.sort(names)
  for _, name in ipairs(names) do
    if fs.exists(fs.join(dir, name)) ~= "file" or not (is_one_of(name, MODEL) or is_one_of(name, TOKENIZER)) then
      return name
    end
  end
end

--- export.check(out) -> true | fail: whether something may be written there: nothing, a file for a .gguf, a directory with the files of a
-- model and no others. Nothing of a run's directory, which the run and all that begins from it read.
function export.check(out)
  local kind = fs.exists(out)
  if out:find "%.gguf$" then
    if kind == "directory" then
      return nil, out .. ": is a directory; a name that ends with .gguf is a file's", "IO"
    end
  elseif kind == "file" then
    return nil, out .. ": is a file; a model goes into a directory, or into a file whose name ends with .gguf", "IO"
  end
  local stranger = kind == "directory" and stranger_in(out)
  if stranger then
    return nil, ("%s: holds '%s', which is no file of a model, and all in the directory is replaced; choose another one"):format(out, stranger), "IO"
  end
  local around = kind == "directory" and fs.dirname(fs.realpath(out))
  if around and fs.exists(fs.join(around, "stages.json")) == "file" then
    return nil, ("%s: belongs to the run in %s, which reads it; choose another place"):format(out, around), "IO"
  end
  return true
end

-- The new files take the place of the old ones. A signal waits until they have.
local function swap(new, out)
  local mode = sys.on_interrupt "flag"
  local old, ok, message, code = nil, true, nil, nil
  if fs.exists(out) == "directory" then
    old = new .. ".old"
    ok, message, code = fs.rename(out, old)
  end
  if ok then
    ok, message, code = fs.rename(new, out)
    if not ok and old then
      fs.rename(old, out)
    elseif old then
      fs.remove_tree(old)
    end
  end
  sys.on_interrupt(mode, true)
  return ok, message, code
end

local function remove(path)
  local kind = fs.exists(path)
  if kind == "directory" then
    fs.remove_tree(path)
  elseif kind then
    fs.remove(path)
  end
end

-- ---- reading again ----

-- Rows of ids to compare two models on: the texts, or without a tokenizer ids that are drawn.
local function rows_of(texts, tok, config)
  local rows, longest = {}, config.max_position_embeddings
  for i, text in ipairs(texts) do
    local encoded, ids = pcall(function() return tok:encode(text, { add_special_tokens = true }) end) -- not all have a token for each byte
    if not encoded or #ids == 0 then
      ids = {}
      local draw = rng.new(i, "export")
      for k = 1, 16 do
        ids[k] = math.floor(draw:uniform() * config.vocab_size)
      end
    end
    rows[i] = table.move(ids, 1, math.min(#ids, longest), 1, {})
  end
  return rows
end

-- The logits of a model on rows, or the states where it has no head.
local function outputs(model, rows)
  return tensor.no_grad(function()
    local hidden = model:forward(transformer.batch(rows, { device = model:device() }))
    return model:config().head == "none" and hidden or nn.linear(hidden, model:head())
  end)
end

local function largest(a, b)
  return tensor.no_grad(function() return (a - b):abs():max():item() end)
end

-- ---- writing ----

local function load_model(path, device, quantization, dtype)
  local model, message, code = transformer.load(path, { device = device, quantization = quantization, dtype = dtype })
  if not model then
    return nil, message, code
  end
  return model
end

-- The base with its adapter, in f32. An adapter that was trained on a base in bf16 belongs to that one: its numbers are taken, as f32.
local function load_both(o)
  local model, message, code = load_model(o.model, o.device, o.quantization, o.adapter and o.computed or nil)
  if not model or not o.adapter then
    return model, message, code
  end
  local ok
  ok, message, code = lora.load(model, o.adapter)
  if ok and model:dtype() ~= "f32" then
    model = transformer.widen(model)
    ok, message, code = lora.load(model, o.adapter, { any_base = true }) -- which it has been found to be
  end
  if not ok then
    return nil, message, code
  end
  return model
end

-- The keys of the tokenizer at a path, as gguf.save takes them: those of a GGUF file as they are, or made; an empty list and why where
-- there are none. Ends of answers are the model's, where it has any.
local function tokenizer_keys(path, tok, model)
  local list = {}
  local function takes(key)
    return not (transformer.eos_ids(model) and key:find "^tokenizer%.ggml%.eo[stm]_token_id$")
  end
  if not path or not gguf.is(path) then
    local made, why = nil, "there is none"
    if tok then
      made, why = gguf_tokenizer_of.keys(tok, path, model:config().vocab_size)
    end
    for _, key in ipairs(made or {}) do
      list[#list + 1] = takes(key[1]) and key or nil
    end
    return list, why
  end
  local file, message, code = gguf.open(path)
  if not file then
    return nil, message, code
  end
  for _, key in ipairs(file.keys) do
    if key:find "^tokenizer%." and takes(key) then
      list[#list + 1] = { key, file:type(key), file.metadata[key] }
    end
  end
  local tokens, rows = #(file.metadata["tokenizer.ggml.tokens"] or {}), model:config().vocab_size
  file:close()
  if tokens > 0 and tokens ~= rows then
    return nil, ("%s: its tokenizer has %d tokens, the model %d rows of embeddings, and llama.cpp wants as many; take another tokenizer=")
      :format(path, tokens, rows), "FORMAT"
  end
  return list
end

-- Files beside the weights; a tokenizer inside a GGUF file becomes files.
local function write_tokenizer(path, dir)
  if gguf.is(path) then
    local tok, message, code = tokenizer.load(path)
    if not tok then
      return nil, message, code
    end
    return tok:save(dir)
  end
  for _, one in ipairs(tokenizer_files(path)) do
    local ok, message, code = fs.copy(one[1], fs.join(dir, one[2]))
    if not ok then
      return nil, message, code
    end
  end
  return true
end

-- Writes what o asks for to `new`. note: gets why a GGUF file has no tokenizer.
local function write(model, new, o, is_gguf, tok_path, tok, note)
  local kind = export.TYPES[o.dtype]
  if not o.merge then
    if is_gguf then
      return lora.save_gguf(model, new, { type = kind })
    end
    return lora.save(model, new, { base_model_name_or_path = fs.realpath(o.model) or o.model })
  end
  if is_gguf then
    local own, message, code = tokenizer_keys(tok_path, tok, model)
    if not own then
      return nil, message, code
    end
    note.without = not own[1] and message or nil
    return transformer.save_gguf(model, new, { type = kind, metadata = own })
  end
  local ok, message, code = transformer.save(model, new, nil, { dtype = o.dtype })
  if ok and tok_path then
    ok, message, code = write_tokenizer(tok_path, new)
  end
  return ok, message, code
end

local function read_again(new, o)
  local model, message, code = load_model(o.merge and new or o.model, o.device, not o.merge and o.quantization or nil)
  local ok = model
  if ok and not o.merge then
    ok, message, code = lora.load(model, new)
  end
  if not ok then
    return nil, message, code
  end
  return model
end

--- export.write(o) -> {difference =, rows =, what =, tokenizer =, unread =, without =} | fail: writes o.out and reads it again. difference: the largest between the
-- logits (of an encoder the states) of the model with its adapter and of what was written, on o.texts, or without a tokenizer on ids that
-- are drawn; tokenizer: whether what was written has one; unread: why mocl does not read it; without: why a GGUF file has none. o: model, out, and optionally adapter, tokenizer (path; the model's own), dtype ("f32"), merge (true; false: the
-- adapter alone), texts, device, quantization (of transformer.load: what the adapter was trained on; merged it is the numbers that the
-- codes stand for), computed ("f32"; "bf16": the dtype of the base that the adapter was trained on).
function export.write(o)
  options.check("export.write", o, { "model", "out" }, { "adapter", "tokenizer", "dtype", "merge", "texts", "device", "quantization",
    "computed" })
  o = setmetatable({ dtype = o.dtype or "f32", merge = o.merge ~= false, texts = o.texts or export.TEXTS }, { __index = o })
  local is_gguf = o.out:find "%.gguf$" ~= nil
  if not export.TYPES[o.dtype] then
    error(("export: dtype '%s' is not one of f32, f16, bf16, q8_0"):format(tostring(o.dtype)), 2)
  elseif o.dtype == "q8_0" and not is_gguf then
    error("export: q8_0 is for GGUF files; a directory has f32, f16 or bf16", 2)
  elseif not o.merge and not o.adapter then
    error("export: there is no adapter to write; say which, or leave merge=false out", 2)
  elseif not o.merge and not is_gguf and o.dtype ~= "f32" then
    error("export: the adapter of a PEFT directory is f32; another dtype is for GGUF files and merged models", 2)
  end
  local ok, message, code = export.check(o.out)
  local model = nil
  if ok then
    model, message, code = load_both(o)
    ok = model
  end
  if not ok then
    return nil, message, code
  end
  local tok_path = o.tokenizer or o.model
  local tok, unread = tokenizer.load(tok_path)
  if not tok and o.tokenizer then
    return nil, unread, "FORMAT"
  elseif not has_tokenizer(tok_path) then
    tok_path, unread = nil, nil
  end
  local rows = rows_of(o.texts, tok, model:config())
  local want = outputs(model, rows)
  if o.merge and o.adapter then
    model:merge_lora()
    model:drop_lora()
  end
  if o.merge and model:quantization() then
    model:dequantize() -- what the adapter was not on
  end
  local new = ("%s.new-%d%s"):format(o.out:gsub("/+$", ""), sys.getpid(), is_gguf and ".gguf" or "")
  local guard <close> = setmetatable({}, { __close = function() remove(new) end })
  local note = {}
  ok, message, code = write(model, new, o, is_gguf, tok_path, tok, note)
  local again = nil
  if ok then
    again, message, code = read_again(new, o)
    ok = again
  end
  if not ok then
    message = message and message:gsub(new:gsub("%p", "%%%0"), (o.out:gsub("%%", "%%%%")))
    message = message and message:gsub('use type = "(%w+)"', function(kind) return "use dtype=" .. kind:lower() end)
    return nil, message, code
  end
  local difference = largest(want, outputs(again, rows))
  if difference ~= difference then
    return nil, o.out .. ": what was written gives logits that are not finite", "FORMAT"
  end
  ok, message, code = swap(new, o.out)
  if not ok then
    return nil, message, code
  end
  local kept = tok_path ~= nil and o.merge and not note.without
  return { difference = difference, rows = rows, tokenizer = kept, unread = not tok and unread or nil, without = note.without, what = model:config().head == "none" and "states" or "logits" }
end

--- Texts that two models are compared on.
export.TEXTS = { "Once upon a time there was a little house in a wood.", "What is the capital of France?", "one two three four five" }

return export
