-- chat templates: what they give against transformers, how their texts are recognised, what is refused

local T = require "t"
local chat = require "mocl.lm.chat"
local child = require "child"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local templates = require "mocl.lm.chat_templates"
local tokenizer = require "mocl.tokenizer"

local FIXTURE = assert(json.load "tests/fixtures/chat/chat.json")
local HELLO = { { role = "user", content = "Hello" } }

local function conversation(number)
  local messages = {}
  for i, turn in ipairs(FIXTURE.conversations[number]) do
    messages[i] = { role = turn[1], content = turn[2] }
  end
  return messages
end

T.test("each template gives the text of transformers' apply_chat_template, or raises where that does", function()
  local names = {}
  for name, entry in pairs(FIXTURE.templates) do
    names[#names + 1] = name
    local template = chat.template(name, { bos_token = FIXTURE.bos_token, eos_token = FIXTURE.eos_token })
    local texts, raised = 0, 0
    for _, case in ipairs(entry.cases) do
      local number, prompt, more, expected = table.unpack(case, 1, 4)
      local ok, text = pcall(chat.apply, template, conversation(number),
        { add_generation_prompt = prompt, date = more.date_string, enable_thinking = more.enable_thinking })
      local what = ("%s, conversation %d, add_generation_prompt %s"):format(name, number, prompt)
      if expected == json.null then
        raised = raised + 1
        T.ok(not ok, what .. ": transformers raises")
        T.ok(tostring(text):find "^chat: template %S+: message %d+ has the role '%a+'", text)
      else
        texts = texts + 1
        T.ok(ok, what .. ": " .. tostring(text))
        T.eq(text, expected, what)
      end
    end
    T.ok(texts >= 10, name .. ": enough texts")
    T.eq(raised > 0, name:find "^mistral%-v[013]" ~= nil or name == "llama-2", name .. ": roles must alternate")
  end
  table.sort(names)
  T.eq(names, chat.names())
end)

T.test("a template text is known by its hash, and the same hashes are those that transformers was run on", function()
  local seen = {}
  for name, entry in pairs(FIXTURE.templates) do
    for _, hash in ipairs(entry.sha256) do
      seen[hash] = name
    end
  end
  T.eq(templates.BY_HASH, seen)
  local path = T.tmpdir() .. "/x"
  for n = 0, 130 do -- one, two and three blocks, and the lengths at which the padding needs one more
    local text = ("%c"):rep(n):format(table.unpack({ ("aé\0\xff zyx"):rep(20):byte(1, n) }))
    assert(fs.write(path, text))
    T.eq(fs.sha256_text(text), assert(fs.sha256(path)), n .. " bytes")
  end
end)

-- Runs f with a text that is taken for one of a built-in template's.
local function known(text, name, f)
  local hash = fs.sha256_text(text)
  templates.BY_HASH[hash] = name
  local ok, message = xpcall(f, debug.traceback)
  templates.BY_HASH[hash] = nil
  T.ok(ok, message)
end

local function directory(files)
  local dir = T.tmpdir()
  for name, value in pairs(files) do
    if name:find "/" then
      assert(fs.mkdir(dir .. "/" .. name:match "^(.*)/"))
    end
    assert(fs.write(dir .. "/" .. name, type(value) == "table" and json.encode(value) or value))
  end
  return dir
end

local TEXT = "{{ bos_token }}\n{% own %}"

local function hello_of(path, opts)
  local template, name = chat.of(path, opts)
  T.ok(template, name)
  return chat.apply(template, HELLO), name
end

T.test("chat.of: the text from the key, the list, the files, GGUF; the tokens from the files that name them", function()
  known(TEXT, "llama-3", function()
    local CONFIG = { chat_template = TEXT, bos_token = "<b>" }
    local WANT = "<b><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    local text, name = hello_of(directory { ["tokenizer_config.json"] = CONFIG })
    T.eq({ text, name }, { WANT, "llama-3" })
    CONFIG.bos_token = { content = "<b>", lstrip = false }
    T.eq(hello_of(directory { ["tokenizer_config.json"] = CONFIG }), WANT)
    CONFIG.bos_token = nil
    T.eq(hello_of(directory { ["tokenizer_config.json"] = CONFIG,
      ["special_tokens_map.json"] = { bos_token = "<b>" } }), WANT)
    local list = { bos_token = "<b>", chat_template = { { name = "tool_use", template = "x" },
      { name = "default", template = TEXT } } }
    T.eq(hello_of(directory { ["tokenizer_config.json"] = list }), WANT)
    list.chat_template[2].name = "short"
    local dir = directory { ["tokenizer_config.json"] = list }
    T.eq(hello_of(dir, { name = "short" }), WANT)
    T.fails("no chat template 'default' %(it has short, tool_use%)", chat.of, dir)
    for _, ends in ipairs { "", "\n", "\r\n" } do -- what Jinja drops or turns into \n
      T.eq(hello_of(directory { ["chat_template.jinja"] = TEXT:gsub("\n", ends == "\r\n" and ends or "\n") .. ends,
        ["tokenizer_config.json"] = { chat_template = "another", bos_token = "<b>" } }), WANT)
    end
    T.eq(hello_of(directory { ["additional_chat_templates/rag.jinja"] = TEXT, ["chat_template.jinja"] = "x",
      ["tokenizer_config.json"] = { bos_token = "<b>" } }, { name = "rag" }), WANT)
    local path = T.tmpdir() .. "/m.gguf"
    assert(gguf.save(path, { metadata = { { "tokenizer.chat_template", "string", TEXT },
      { "tokenizer.ggml.tokens", "array of string", { "a", "<b>" } }, { "tokenizer.ggml.bos_token_id", "u32", 1 } } }))
    T.eq(hello_of(path), WANT)
  end)
end)

T.test("chat.of: a text that is not known is refused, be it one byte off", function()
  known(TEXT, "chatml", function()
    for _, text in ipairs { TEXT .. " ", TEXT .. "\n\n", TEXT:gsub("own", "Own"), "" } do
      T.fails("tokenizer_config.json: the chat template that begins with .* is not one that mocl knows; "
        .. "give a template of your own, a Lua function %(messages, opts%) %-> text", chat.of,
        directory { ["tokenizer_config.json"] = { chat_template = text } })
    end
  end)
  T.fails("no chat template: the model may not be one for chats", chat.of, directory {})
  T.fails("no chat template: ", chat.of, directory { ["tokenizer_config.json"] = { chat_template = json.null } })
  T.fails("tokenizer_config.json: chat_template = 5, a text or a list", chat.of,
    directory { ["tokenizer_config.json"] = { chat_template = 5 } })
  T.fails("entry 1 is not { name, template } with texts", chat.of,
    directory { ["tokenizer_config.json"] = { chat_template = { { name = "default" } } } })
  T.fails("tokenizer_config.json: ", chat.of, directory { ["tokenizer_config.json"] = "{" })
  T.fails("nowhere: no such file or directory", chat.of, "nowhere")
  T.fails("x: neither a directory nor a GGUF file", chat.of, directory { x = "text" } .. "/x")
  T.raises("chat.of: the path of a directory", chat.of, 5)
end)

T.test("chat.of: the directories of shared/data", function()
  local template, name = chat.of(T.shared("tokenizers/llama3/tokenizer_config.json"):match "^(.*)/")
  T.eq(name, "llama-3")
  T.eq(chat.apply(template, HELLO, { add_generation_prompt = true }),
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    .. "<|start_header_id|>assistant<|end_header_id|>\n\n")
  name = select(2, chat.of(T.shared("tokenizers/qwen2/tokenizer_config.json"):match "^(.*)/"))
  T.eq(name, "qwen2-factory")
end)

T.test("messages and options: what is refused", function()
  local function fails(pattern, messages, opts, name)
    name = name or "chatml"
    T.raises("^[^\n]*chat: template " .. name:gsub("%p", "%%%0") .. ": " .. pattern, chat.apply, name, messages, opts)
  end
  fails("a list of messages .* expected, got an empty one", {})
  fails("a list of messages .* expected, got a string", "Hello")
  fails("message 1 is a string", { "Hello" })
  fails("message 1 has no role", { { content = "x" } })
  fails("message 2 has the role 'tool', which is none of", { HELLO[1], { role = "tool", content = "x" } })
  fails("message 1 %(user%) has no content", { { role = "user" } })
  fails("message 1 %(user%) has no content", { { role = "user", content = json.null } })
  fails("message 1 %(user%) has a table as its content", { { role = "user", content = { { type = "text" } } } })
  fails("message 1 %(assistant%) has tool_calls", { { role = "assistant", content = "", tool_calls = {} } })
  fails("unknown option 'add_generation_promt' %(did you mean 'add_generation_prompt'", HELLO,
    { add_generation_promt = true })
  fails("unknown option 'date'", HELLO, { date = "x" })
  fails("add_generation_prompt is true or false, got a string", HELLO, { add_generation_prompt = "true" })
  fails("date is a text, got a number", HELLO, { date = 5 }, "llama-3.1")
  fails("bos_token is missing", HELLO, nil, "llama-3")
  fails("the text holds the day of the call: give opts.date", HELLO, { bos_token = "" }, "llama-3.2")
  T.raises("chat: no template 'qwen4'", chat.apply, "qwen4", HELLO)
  T.raises("did you mean 'llama%-3'", chat.template, "lama-3")
  T.raises("a template is a function or a name, got a table", chat.apply, {}, HELLO)
  T.raises("the template returned a nil, not a text", chat.apply, function() end, HELLO)
  T.eq(chat.apply("qwen", HELLO), chat.apply("qwen2.5", HELLO))
end)

T.test("a template of one's own has the same form, and decides for itself what messages are", function()
  local seen = {}
  local text = chat.apply(function(messages, opts)
    seen = { messages, opts }
    return "x"
  end, { { role = "narrator" } }, { mood = 1 })
  T.eq({ text, seen }, { "x", { { { role = "narrator" } }, { mood = 1 } } })
end)

T.test("chat.encode: special tokens are found in the text, and none is added", function()
  local tok = tokenizer.train({ "user assistant" }, { vocab_size = 300,
    special_tokens = { "<s>", "</s>", "<|im_start|>" } })
  local ids = chat.encode(tok, "<s><|im_start|>user</s>")
  T.eq({ ids[1], ids[2], ids[#ids] }, { 0, 2, 1 })
  T.eq(tok:decode(ids, { skip_special = false }), "<s><|im_start|>user</s>")
  T.eq(chat.encode(tok, "user"), tok:encode "user")
end)

T.test("mocl generate.lua: chat=, system= and date=", function()
  local small, transformer = require "fixtures.llama.small", require "mocl.lm.model"
  local dir = T.tmpdir()
  local tok = tokenizer.train({ "abc" }, { vocab_size = 259, special_tokens = { "<s>", "</s>", "<|im_start|>" } })
  assert(tok:save(dir .. "/tokenizer.json"))
  local model = small.model { config = { vocab_size = 259, max_position_embeddings = 400 } }
  assert(transformer.save(model, dir))
  local function run(...)
    return child.mocl { "generate", "model=" .. dir, "prompt=ab", "temperature=0", "max_new_tokens=5",
      "quiet=true", ... }
  end
  local function wanted(name, messages, opts)
    local prompt = chat.encode(tok, chat.apply(chat.template(name, { bos_token = "<s>", eos_token = "</s>" }), messages,
      opts))
    local made = model:generate({ prompt }, { temperature = 0, max_new_tokens = 5, eos = tok:eos_id() })
    for _, id in ipairs(made.tokens[1]) do
      prompt[#prompt + 1] = id
    end
    return tok:decode(prompt)
  end
  local user, prompt = { role = "user", content = "ab" }, { add_generation_prompt = true }
  local out, err = run "chat=chatml"
  T.eq({ out, err }, { wanted("chatml", { user }, prompt), "" })
  out, err = run("chat=llama-3.2", "system=be", "date=1 Jan 2026")
  T.eq({ out, err }, { wanted("llama-3.2", { { role = "system", content = "be" }, user },
    { add_generation_prompt = true, date = "1 Jan 2026" }), "" })
  local function fails(text, ...)
    local o, e, status = run(...)
    T.eq({ o, status }, { "", 1 })
    T.ok(e:find(text, 1, true), e)
  end
  fails("no chat template: the model may not be one for chats", "chat=auto")
  fails("no template 'chatlm' (did you mean 'chatml'?)", "chat=chatlm")
  fails("option system needs chat=", "system=x")
  fails("unknown option 'date'", "chat=chatml", "date=x")
end)
