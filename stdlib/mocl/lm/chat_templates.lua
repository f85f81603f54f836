--- mocl.lm.chat_templates: the chat templates that mocl knows, as functions, and the hashes of the template texts of which
-- each is known to give what transformers gives.
--
-- A template is a function (messages, opts) -> text. mocl.lm.chat has checked the messages before it calls one of these:
-- a list of { role = "system"|"user"|"assistant", content = text }. opts: add_generation_prompt, bos_token, eos_token,
-- and date or enable_thinking where TAKES names them. A template raises where the text in Jinja raises.

local templates = {}

-- ---- what Python's and Jinja's functions do with text ----

-- What str.strip takes away: the code points that Unicode calls white space, and the separators U+001C to U+001F.
local SPACE = {}
for _, range in ipairs { { 0x09, 0x0d }, { 0x1c, 0x20 }, { 0x85, 0x85 }, { 0xa0, 0xa0 }, { 0x1680, 0x1680 },
  { 0x2000, 0x200a }, { 0x2028, 0x2029 }, { 0x202f, 0x202f }, { 0x205f, 0x205f }, { 0x3000, 0x3000 } } do
  for code = range[1], range[2] do
    SPACE[utf8.char(code)] = true
  end
end

local function rstrip(text)
  local last = #text
  while last > 0 do
    local first = last
    while first > 1 and last - first < 2 and text:byte(first) & 0xc0 == 0x80 do
      first = first - 1
    end
    if not SPACE[text:sub(first, last)] then
      break
    end
    last = first - 1
  end
  return text:sub(1, last)
end

local function strip(text)
  local first = 1
  while true do
    local length = text:byte(first) and (text:byte(first) < 0x80 and 1 or text:byte(first) < 0xe0 and 2 or 3)
    if not length or not SPACE[text:sub(first, first + length - 1)] then
      break
    end
    first = first + length
  end
  return rstrip(text:sub(first))
end

local function lstrip_lines(text)
  return (text:gsub("^\n+", ""))
end

local function rstrip_lines(text)
  local last = #text
  while text:byte(last) == 10 do
    last = last - 1
  end
  return text:sub(1, last)
end

-- What stands before the first, or after the last, of a word in a text; the whole text where it is not there.
local function before_first(text, word)
  local at = text:find(word, 1, true)
  return at and text:sub(1, at - 1) or text
end

local function after_last(text, word)
  local from = 1
  while true do
    local _, last = text:find(word, from, true)
    if not last then
      return text:sub(from)
    end
    from = last + 1
  end
end

-- ---- turns ----

local function is_system(message)
  return message ~= nil and message.role == "system"
end

local function token(opts, name)
  if type(opts[name]) ~= "string" then
    error(("%s is missing: give opts.%s, which this template puts into the text"):format(name, name), 0)
  end
  return opts[name]
end

-- Raises unless users and assistants take turns from messages[first] on. Other roles stand where an assistant may.
local function alternate(messages, first)
  for i = first, #messages do
    local due = (i - first) % 2 == 0
    if (messages[i].role == "user") ~= due then
      error(("message %d has the role '%s', but roles must alternate user, assistant%s"):format(i, messages[i].role,
        first == 2 and " after the system message" or ""), 0)
    end
  end
end

local function only_turns(message, i)
  if message.role == "system" then
    error(("message %d has the role 'system', which this template takes nowhere but before all others, if at all")
      :format(i), 0)
  end
end

-- ---- ChatML: chatml, qwen, smollm ----

local function im(role, content)
  return "<|im_start|>" .. role .. "\n" .. content .. "<|im_end|>\n"
end

local ASSISTANT = "<|im_start|>assistant\n"

-- default: the system prompt of a chat that begins with another role.
local function chatml(default)
  return function(messages, opts)
    local out = {}
    if default and not is_system(messages[1]) then
      out[1] = im("system", default)
    end
    for _, message in ipairs(messages) do
      out[#out + 1] = im(message.role, message.content)
    end
    out[#out + 1] = opts.add_generation_prompt and ASSISTANT or ""
    return table.concat(out)
  end
end

-- The last turn stays open unless an answer is asked for.
local function qwen1_5(messages, opts)
  local out = { is_system(messages[1]) and "" or im("system", "You are a helpful assistant") }
  for i, message in ipairs(messages) do
    local closed = i < #messages or opts.add_generation_prompt
    out[#out + 1] = "<|im_start|>" .. message.role .. "\n" .. message.content .. (closed and "<|im_end|>\n" or "")
  end
  if opts.add_generation_prompt and messages[#messages].role ~= "assistant" then
    out[#out + 1] = ASSISTANT
  end
  return table.concat(out)
end

-- As LLaMA-Factory writes it: a user's turn always begins the answer, and a system message in the middle is dropped.
local function qwen2_factory(messages)
  local out = { im("system", is_system(messages[1]) and messages[1].content or "You are a helpful assistant.") }
  for _, message in ipairs(messages) do
    if message.role == "user" then
      out[#out + 1] = im("user", message.content) .. ASSISTANT
    elseif message.role == "assistant" then
      out[#out + 1] = message.content .. "<|im_end|>\n"
    end
  end
  return table.concat(out)
end

-- Thoughts, what stands before </think> in an answer, are kept after the last user's message only, and the last answer
-- there always has a block for them.
local function qwen3(messages, opts)
  local query, out = #messages, {}
  for i = #messages, 1, -1 do
    local content = messages[i].content
    if messages[i].role == "user"
      and not (content:find("<tool_response>", 1, true) == 1 and content:sub(-16) == "</tool_response>") then
      query = i
      break
    end
  end
  for i, message in ipairs(messages) do
    local content, thought = message.content, ""
    if message.role == "assistant" then
      if content:find("</think>", 1, true) then
        thought = rstrip_lines(before_first(content, "</think>"))
        thought = lstrip_lines(after_last(thought, "<think>"))
        content = lstrip_lines(after_last(content, "</think>"))
      end
      if i > query and (i == #messages or thought ~= "") then
        content = "<think>\n" .. rstrip_lines(lstrip_lines(thought)) .. "\n</think>\n\n" .. lstrip_lines(content)
      end
    end
    out[i] = im(message.role, content)
  end
  if opts.add_generation_prompt then
    out[#out + 1] = ASSISTANT .. (opts.enable_thinking == false and "<think>\n\n</think>\n\n" or "")
  end
  return table.concat(out)
end

-- An answer that is not the last loses its thoughts; the next one begins with them.
local function qwq(messages, opts)
  local out = {}
  for i, message in ipairs(messages) do
    local content = message.content
    if message.role == "assistant" and i < #messages then
      content = lstrip_lines(after_last(content, "</think>"))
    end
    out[i] = im(message.role, content)
  end
  out[#out + 1] = opts.add_generation_prompt and ASSISTANT .. "<think>\n" or ""
  return table.concat(out)
end

-- ---- Llama 3 ----

local function header(role)
  return "<|start_header_id|>" .. role .. "<|end_header_id|>\n\n"
end

-- always: the answer is begun even where it is not asked for, as the first texts of Llama 3 do.
local function llama3(always)
  return function(messages, opts)
    local out = { token(opts, "bos_token") }
    for _, message in ipairs(messages) do
      out[#out + 1] = header(message.role) .. strip(message.content) .. "<|eot_id|>"
    end
    out[#out + 1] = (always or opts.add_generation_prompt) and header "assistant" or ""
    return table.concat(out)
  end
end

-- default_date: the date where none is given; nil where the text asks the clock.
local function llama3_dated(default_date)
  return function(messages, opts)
    local date = opts.date or default_date
    if not date then
      error("the text holds the day of the call: give opts.date, such as '26 Jul 2024', for the same text tomorrow", 0)
    end
    local first = is_system(messages[1]) and 2 or 1
    local out = { token(opts, "bos_token"), header "system", "Cutting Knowledge Date: December 2023\nToday Date: ",
      date, "\n\n", first == 2 and strip(messages[1].content) or "", "<|eot_id|>" }
    for i = first, #messages do
      out[#out + 1] = header(messages[i].role) .. strip(messages[i].content) .. "<|eot_id|>"
    end
    out[#out + 1] = opts.add_generation_prompt and header "assistant" or ""
    return table.concat(out)
  end
end

-- ---- [INST]: llama-2, mistral ----

local function llama2(messages, opts)
  local first = is_system(messages[1]) and 2 or 1
  local out = {}
  alternate(messages, first)
  for i = first, #messages do
    local message = messages[i]
    local content = message.content
    if i == 2 and first == 2 then
      content = "<<SYS>>\n" .. messages[1].content .. "\n<</SYS>>\n\n" .. content
    end
    if message.role == "user" then
      out[#out + 1] = token(opts, "bos_token") .. "[INST] " .. strip(content) .. " [/INST]"
    elseif message.role == "assistant" then
      out[#out + 1] = " " .. strip(content) .. " " .. token(opts, "eos_token")
    end
  end
  return table.concat(out)
end

-- open, close: around a user's message; before, after: around an answer, whose end token comes between; trim: whether
-- the answer is stripped; system: the user's message that takes the system prompt, "first" or "last" (where the chat
-- ends with a user's message), nil where no system message is taken.
local function mistral(t)
  return function(messages, opts)
    local first = t.system and is_system(messages[1]) and 2 or 1
    local out = { token(opts, "bos_token") }
    alternate(messages, first)
    for i = first, #messages do
      local message = messages[i]
      only_turns(message, i)
      local content = message.content
      if message.role == "user" then
        if first == 2 and i == (t.system == "first" and 2 or #messages) then
          content = messages[1].content .. "\n\n" .. content
        end
        out[#out + 1] = t.open .. content .. t.close
      else
        out[#out + 1] = t.before .. (t.trim and strip(content) or content) .. token(opts, "eos_token") .. t.after
      end
    end
    return table.concat(out)
  end
end

local function mistral_v7(messages, opts)
  local out = { token(opts, "bos_token") }
  for _, message in ipairs(messages) do
    out[#out + 1] = message.role == "user" and "[INST] " .. message.content .. "[/INST]"
      or message.role == "system" and "[SYSTEM_PROMPT] " .. message.content .. "[/SYSTEM_PROMPT]"
      or " " .. message.content .. token(opts, "eos_token")
  end
  return table.concat(out)
end

--- The templates by name.
templates.BY_NAME = {
  ["chatml"] = chatml(),
  ["llama-2"] = llama2,
  ["llama-3"] = llama3(false),
  ["llama-3-always"] = llama3(true),
  ["llama-3.1"] = llama3_dated "26 Jul 2024",
  ["llama-3.2"] = llama3_dated(nil),
  ["mistral-v0.1"] = mistral { open = "[INST] ", close = " [/INST]", before = "", after = " " },
  ["mistral-v0.2"] = mistral { open = "[INST] ", close = " [/INST]", before = "", after = "" },
  ["mistral-v1"] = mistral { open = " [INST] ", close = " [/INST]", before = " ", after = "", system = "first" },
  ["mistral-v3"] = mistral { open = "[INST] ", close = "[/INST]", before = " ", after = "", system = "last",
    trim = true },
  ["mistral-v3-tekken"] = mistral { open = "[INST]", close = "[/INST]", before = "", after = "", system = "last" },
  ["mistral-v7"] = mistral_v7,
  ["qwen1.5"] = qwen1_5,
  ["qwen2"] = chatml "You are a helpful assistant.",
  ["qwen2-factory"] = qwen2_factory,
  ["qwen2.5"] = chatml "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
  ["qwen3"] = qwen3,
  ["qwen3-2507"] = chatml(),
  ["qwq"] = qwq,
  ["smollm2"] = chatml "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
}

--- Short names for the version of a family that most of its models have.
templates.ALIAS = { mistral = "mistral-v3", qwen = "qwen2.5", smollm = "smollm2" }

--- The options beyond those of every template, by name.
templates.TAKES = {
  ["llama-3.1"] = { "date" },
  ["llama-3.2"] = { "date" },
  ["qwen3"] = { "enable_thinking" },
}

--- The names by the SHA-256 of a template text, its lines ended by "\n" and without the last "\n", where the text gives
-- what the function of that name gives.
templates.BY_HASH = {
  ["153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3"] = "chatml",
  ["58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7"] = "chatml",
  ["d7b5b8c7b58f7a6bf868aa46a5f73ee976d7292f40fcb9c3e7a1defd8d235cfb"] = "chatml",
  ["fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e"] = "chatml",
  ["1623de5159d584da0b6c78f86ae57b2328746122f2c58446ab7f84bce8c7c57f"] = "llama-2",
  ["17b9854f459dd1e767c9a01a117f61fc1ddf30ca7e5fdd450e4ea20933f7933c"] = "llama-2",
  ["9780fae5bfea3cfd7be37d328c6edfd296a8869be8131495bbe7eb37e780c88c"] = "llama-2",
  ["e8d5b5a546d3f19df16a5320c614fab05bdc4edd50e850f1afd947b503ea41cf"] = "llama-2",
  ["4f46ecd43418f216df8c26936c60e5d04bcc81db47db5d86fbe889f64212dd4c"] = "llama-3",
  ["ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122"] = "llama-3",
  ["b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2"] = "llama-3-always",
  ["b75e17085cfc511ead6d4fab84b86ab3c168ec7a332568a91d0889cdcba94394"] = "llama-3-always",
  ["93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7"] = "llama-3.1",
  ["d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f"] = "llama-3.2",
  ["7e995b379ec01747807246483647cd99030abf331653f1119e16d7ac041a3495"] = "mistral-v0.1",
  ["26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7"] = "mistral-v0.2",
  ["bbc58aad99454df60138be9530c9601a0adfe3d8932cda975e1f10b2410ddc51"] = "mistral-v1",
  ["cafb64e0e9e5fd2503054b3479593fae39cbdfd52338ce8af9bb4664a8eb05bd"] = "mistral-v3",
  ["c7a94f505398612940c13ee95070d0d152bcb7b4afbd74a06ff148a82a02851c"] = "mistral-v3-tekken",
  ["e7deee034838db2bfc7487788a3013d8a307ab69f72f3c54a85f06fd76007d4e"] = "mistral-v3-tekken",
  ["3c4ad5fa60dd8c7ccdf82fa4225864c903e107728fcaf859fa6052cb80c92ee9"] = "mistral-v7",
  ["7a2fad4301dcce93b13747dfd6ee5fa696dc12de86b85b86344bea8f649022b3"] = "qwen1.5",
  ["9161685725c9f49b4f36d8f446bcdb801a68ba70f91764dffccafcddcb69cfe9"] = "qwen1.5",
  ["4039eed0f28b7aaa337e70c76cfedba3271ee32505835a095a8c92e536b3c355"] = "qwen2",
  ["793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb"] = "qwen2",
  ["f0206845c9ebc3abb4735d44f286eb81ce99238ad2accc710c6fc60e6cb8ccc8"] = "qwen2",
  ["356ec41aea6f0edb7fdd0d057a7d0b6bc80053f18c3650e5d6f20e85871e91e6"] = "qwen2-factory",
  ["f431c1010d0ec91c07fce4f82a14e4910f8e133e8891422848c8d3d5785d81ea"] = "qwen2-factory",
  ["55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a"] = "qwen2.5",
  ["87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5"] = "qwen3",
  ["a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8"] = "qwen3",
  ["64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326"] = "qwen3-2507",
  ["cb2d7aa140bed098f4ac8ab1a403980e6768d58ec95ef701668fc7dd017e0762"] = "qwq",
  ["872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788"] = "smollm2",
  ["de9cde7d1b0ca0cc87459a6673e0d12fb89c070bdb24e4a30b6e4d187b226221"] = "smollm2",
}

return templates
