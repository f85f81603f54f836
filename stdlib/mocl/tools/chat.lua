--- chat.lua - a conversation with a model on the terminal; answers come as their tokens do.
--
--   mocl chat DIR|FILE.gguf|RUN [adapter=DIR] [tokenizer=PATH] [preference=humor=.7] [temperature=0.8] [seed=0]
--
-- DIR: a Hugging Face directory; RUN: the directory of a finished run, whose policy answers under a preference. /help
-- lists the commands: docs/talk.md. Without a terminal each line of standard input is a message or a command.

require("mocl.sys").on_interrupt "message"

local check = require "mocl.failure".check
local config = require "mocl.run.config"
local loaded = require "mocl.lm.loaded"
local preference = require "mocl.preference"

local cfg = config.parse(config.join { loaded.OPTIONS, {
  { "preference", {}, "weights such as humor=.7,helpful=.3; the rest in equal parts", list_of = "string" },
} }, config.named_first("model", arg), { recipe = "chat", doc = "talk to a model" })

local m = loaded.from_options(cfg, "chat")
local p
for _, word in ipairs(cfg.preference) do
  local name, value = preference.weight(word)
  check(name, "option preference: " .. value)
  p = p or {}
  p[name] = value
end
m:chat { p = p }
