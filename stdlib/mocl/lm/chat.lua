--- mocl.lm.chat: the prompts of instruct models, by the chat template of their own files. A template is a function
-- (messages, opts) -> text; those of the families that mocl loads are built in, and a user's own has the same form.
--
--   local template = assert(chat.of "SmolLM2-135M-Instruct")
--   local text = chat.apply(template, { { role = "user", content = "Hello" } }, { add_generation_prompt = true })
--   local ids = chat.encode(tok, text)
--
-- No Jinja is run. A text is recognised by its SHA-256, so that a changed template is never taken for the one before.

local failure = require "mocl.failure"
local fs = require "mocl.fs"
local gguf = require "mocl.lm.gguf"
local json = require "mocl.json"
local keys = require "mocl.keys"
local options = require "mocl.options"
local templates = require "mocl.lm.chat_templates"

local chat = {}

local ensure, given = failure.ensure, keys.given

local ROLES = { system = true, user = true, assistant = true }

local function sorted_names()
  return options.sorted_keys(templates.BY_NAME)
end

--- chat.names() -> the names of the built-in templates, sorted.
chat.names = sorted_names

-- ---- messages ----

-- What a message may say that changes its text in a template and that the built-in ones do not write.
local NOT_WRITTEN = { "tool_calls", "tool_call_id", "reasoning_content" }

-- The messages as the templates take them, or nil and what is wrong.
local function checked(messages)
  if type(messages) ~= "table" or #messages == 0 then
    return nil, ("a list of messages { role =, content = } expected, got %s"):format(
      type(messages) == "table" and "an empty one" or "a " .. type(messages))
  end
  local out = {}
  for i = 1, #messages do
    local m = messages[i]
    if type(m) ~= "table" then
      return nil, ("message %d is a %s, not { role =, content = }"):format(i, type(m))
    elseif not given(m.role) then
      return nil, ("message %d has no role"):format(i)
    elseif not ROLES[m.role] then
      return nil, ("message %d has the role '%s', which is none of system, user, assistant; for others write a "
        .. "template of your own as a Lua function"):format(i, tostring(m.role))
    elseif not given(m.content) then
      return nil, ("message %d (%s) has no content"):format(i, m.role)
    elseif type(m.content) ~= "string" then
      return nil, ("message %d (%s) has a %s as its content, a text expected"):format(i, m.role, type(m.content))
    end
    for _, key in ipairs(NOT_WRITTEN) do
      if given(m[key]) then
        return nil, ("message %d (%s) has %s, which the built-in templates do not write; write it into content, or a "
          .. "template of your own as a Lua function"):format(i, m.role, key)
      end
    end
    out[i] = { role = m.role, content = m.content }
  end
  return out
end

-- ---- templates ----

local COMMON = { "add_generation_prompt", "bos_token", "eos_token" }

local function is_flag(v)
  return v == nil or type(v) == "boolean"
end

-- The template of a name, with the tokens that a model's files name, as a function for others.
local function built_in(name, tokens)
  local fn = templates.BY_NAME[name]
  local known = table.move(COMMON, 1, #COMMON, 1, {})
  table.move(templates.TAKES[name] or {}, 1, #(templates.TAKES[name] or {}), #known + 1, known)
  return function(messages, opts)
    local list, wrong = checked(messages)
    opts = options.check("chat: template " .. name, opts or {}, {}, known)
    for _, key in ipairs { "add_generation_prompt", "enable_thinking" } do
      wrong = wrong or not is_flag(opts[key]) and ("%s is true or false, got a %s"):format(key, type(opts[key]))
    end
    for _, key in ipairs { "bos_token", "eos_token", "date" } do
      wrong = wrong or opts[key] ~= nil and type(opts[key]) ~= "string"
        and ("%s is a text, got a %s"):format(key, type(opts[key]))
    end
    local ok, text = not wrong, wrong
    if ok then
      local with = { bos_token = tokens.bos_token, eos_token = tokens.eos_token }
      for key, value in pairs(opts) do
        with[key] = value
      end
      ok, text = pcall(fn, list, with)
    end
    if not ok then
      error(("chat: template %s: %s"):format(name, text), 0)
    end
    return text
  end
end

local OWN = "give a template of your own, a Lua function (messages, opts) -> text, to chat.apply, or the name of a "
  .. "built-in one if you know that it is the same"

--- chat.template(name, tokens) -> template. The built-in one of a name. tokens { bos_token =, eos_token = } are the
-- texts that stand for these tokens. Raises for an unknown name.
function chat.template(name, tokens)
  local full = templates.ALIAS[name] or name
  if not templates.BY_NAME[full] then
    local names = sorted_names()
    local near = type(name) == "string" and options.nearest(name, names)
    error(("chat: no template '%s'%s"):format(tostring(name), near and (" (did you mean '%s'?)"):format(near)
      or " (known: " .. table.concat(names, ", ") .. ", mistral, qwen, smollm)"), 0)
  end
  return built_in(full, options.check("chat.template", tokens or {}, {}, { "bos_token", "eos_token" }))
end

--- chat.apply(template, messages, opts) -> text. template: a function, or the name of a built-in one.
function chat.apply(template, messages, opts)
  if type(template) == "string" then
    template = chat.template(template)
  end
  ensure(options.callable(template), 2, "chat.apply: a template is a function or a name, got a %s", type(template))
  local text = template(messages, opts or {})
  ensure(type(text) == "string", 2, "chat.apply: the template returned a %s, not a text", type(text))
  return text
end

--- chat.encode(tok, text) -> ids. The tokens of a prompt that a template made: its special tokens are found in the text
-- and none is added.
function chat.encode(tok, text)
  local ids, bos = tok:encode(text, { special = true }), tok:bos_id()
  local spelled = bos and tok:id_to_token(bos)
  if spelled and text:sub(1, #spelled) == spelled and ids[1] ~= bos then
    error(("chat.encode: the text begins with %s, which is no special token in texts for this tokenizer; load it from "
      .. "a directory whose tokenizer_config.json names its special tokens"):format(spelled), 2)
  end
  return ids
end

--- chat.recognise(text) -> name | nil. The name of the built-in template that gives what a template text gives.
-- The ends of lines, and one at the end of the text, do not matter to Jinja and not here.
function chat.recognise(text)
  text = text:gsub("\r\n?", "\n")
  return templates.BY_HASH[fs.sha256_text((text:gsub("\n$", "")))]
end

-- ---- files ----

local function token_text(value)
  if type(value) == "table" then
    value = value.content
  end
  return type(value) == "string" and value or nil
end

-- The texts in files of their own by name; where there are any, transformers does not look at the key.
local function of_jinja_files(path)
  local files, by_name = { default = fs.join(path, "chat_template.jinja") }, {}
  local more = fs.join(path, "additional_chat_templates")
  if fs.exists(more) == "directory" then
    local names, message, code = fs.list(more)
    if not names then
      return nil, message, code
    end
    for _, name in ipairs(names) do
      files[name:match "^(.+)%.jinja$" or ""] = fs.join(more, name)
    end
    files[""] = nil
  end
  for name, file in pairs(files) do
    if fs.exists(file) then
      local text, message, code = fs.read(file)
      if not text then
        return nil, message, code
      end
      by_name[name] = text
    end
  end
  return by_name
end

-- A directory's texts by name, where they are, and the tokens.
local function of_directory(path)
  local file, all = fs.join(path, "tokenizer_config.json"), {}
  if fs.exists(file) then
    local message, code
    all, message, code = keys.load(file)
    if not all then
      return nil, message, code
    end
  end
  local tokens = { bos_token = token_text(all.bos_token), eos_token = token_text(all.eos_token) }
  local map = fs.join(path, "special_tokens_map.json")
  if fs.exists(map) and not (tokens.bos_token and tokens.eos_token) then
    local special, message, code = keys.load(map)
    if not special then
      return nil, message, code
    end
    for _, name in ipairs { "bos_token", "eos_token" } do
      if all[name] == nil then
        tokens[name] = token_text(special[name])
      end
    end
  end
  local by_name, message, code = of_jinja_files(path)
  if not by_name then
    return nil, message, code
  elseif next(by_name) then
    return by_name, path, tokens
  end
  local value = all.chat_template
  if type(value) == "string" then
    by_name.default = value
  elseif given(value) then
    if type(value) ~= "table" then
      return nil, ("%s: chat_template = %s, a text or a list of { name, template } expected"):format(file,
        keys.show(value)), "FORMAT"
    end
    for i, one in ipairs(value) do
      if type(one) ~= "table" or type(one.name) ~= "string" or type(one.template) ~= "string" then
        return nil, ("%s: chat_template: entry %d is not { name, template } with texts"):format(file, i), "FORMAT"
      end
      by_name[one.name] = one.template
    end
  end
  return by_name, file, tokens
end

local function of_gguf(path)
  local file, message, code = gguf.open(path)
  if not file then
    return nil, message, code
  end
  local m = file.metadata
  local list, tokens = m["tokenizer.ggml.tokens"] or {}, {}
  for _, name in ipairs { "bos", "eos" } do
    local id = m["tokenizer.ggml." .. name .. "_token_id"]
    tokens[name .. "_token"] = math.type(id) == "integer" and list[id + 1] or nil
  end
  local by_name = { default = m["tokenizer.chat_template"] }
  for _, name in ipairs(m["tokenizer.chat_templates"] or {}) do
    by_name[name] = m["tokenizer.chat_template." .. name]
  end
  file:close()
  return by_name, path, tokens
end

-- The texts of a directory or GGUF file by name, where they are, and the tokens.
local function texts_of(path)
  local kind = fs.exists(path)
  if not kind then
    return nil, path .. ": no such file or directory", "IO"
  elseif kind == "directory" then
    return of_directory(path)
  elseif gguf.is(path) then
    return of_gguf(path)
  end
  return nil, path .. ": neither a directory nor a GGUF file; chat templates are read from these", "FORMAT"
end

--- chat.has(path) -> boolean | fail. Whether a model's directory or GGUF file holds a chat template, known or not.
function chat.has(path)
  local by_name, message, code = texts_of(path)
  if not by_name then
    return nil, message, code
  end
  return next(by_name) ~= nil
end

--- chat.of(path, opts) -> template, name | fail. The template of a model's directory or GGUF file. opts.name
-- ("default"): which one, where there are several.
function chat.of(path, opts)
  opts = options.check("chat.of", opts or {}, {}, { "name" })
  ensure(type(path) == "string", 2, "chat.of: the path of a directory or of a GGUF file expected, got a %s", type(path))
  local by_name, where, tokens = texts_of(path)
  if not by_name then
    return nil, where, tokens
  end
  local wanted, has = opts.name or "default", {}
  for name in pairs(by_name) do
    has[#has + 1] = name
  end
  table.sort(has)
  local text = by_name[wanted]
  if #has == 0 then
    return nil, ("%s: no chat template: the model may not be one for chats; %s"):format(path, OWN), "FORMAT"
  elseif not text then
    return nil, ("%s: no chat template '%s' (it has %s)"):format(where, wanted, table.concat(has, ", ")), "FORMAT"
  end
  local name = chat.recognise(text)
  if not name then
    local head = json.encode(text:sub(1, 60))
    return nil, ("%s: the chat template that begins with %s is not one that mocl knows; %s"):format(where, head,
      OWN), "FORMAT"
  end
  return built_in(name, tokens), name
end

return chat
