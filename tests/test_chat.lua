-- chat templates: what they give against transformers, how their texts are recognised, what is refused

local T = require "t"
local chat = require "mocl.chat"
local child = require "child"
local fs = require "mocl.fs"
local gguf = require "mocl.gguf"
local json = require "mocl.json"
local sha256 = require "mocl.sha256"
local templates = require "mocl.chat_templates"
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
