--- tokenize.lua - prints the token ids of a text, one line of ids for each line of it.
--
--   mocl tokenize tokenizer=PATH file=TEXT [whole=true] [bos=false]
--
-- tokenizer: tokenizer.json, a llama2.c .bin, a SentencePiece .model, a GGUF file, or a directory with one.
-- file=- reads standard input. Each line of ids starts with the BOS id if the tokenizer has one and
-- bos is true. Needs a second per 10 MB of text.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local check = require "mocl.failure".check
local config = require "mocl.run.config"
local tokenizer = require "mocl.tokenizer"

local cfg = config.parse({
  { "tokenizer", nil, "required: tokenizer file or directory", type = "string" },
  { "file", nil, "required: text to encode, - for standard input", type = "string" },
  { "whole", false, "the whole file is one text instead of one per line" },
  { "bos", true, "put the BOS id first, if there is one" },
  { "special", true, "recognise special tokens spelled in the text" },
}, arg, { recipe = "tokenize", doc = "print the token ids of a text" })

for _, key in ipairs { "tokenizer", "file" } do
  if not cfg[key] then
    error(("option %s is missing (--help lists the options)"):format(key), 0)
  end
end

local text_marks = require "mocl.data.core"

local tok = config.checked("tokenizer", tokenizer.load(cfg.tokenizer))
local input = cfg.file == "-" and io.stdin or config.checked("file", io.open(cfg.file, "rb"))
local options = { bos = cfg.bos and tok:bos_id() ~= nil, special = cfg.special }

local function read(what)
  local text, err = input:read(what)
  if err then
    error(("option file: %s: %s"):format(cfg.file, err), 0)
  end
  return text
end

local function written(ok, message)
  check(ok, ok or "standard output: " .. message)
end

local first = true

local function show(text)
  if first then
    first = false
    local mark, why = text_marks.mark(text)
    if not mark then
      error(("%s: %s"):format(cfg.file, why), 0)
    end
    text = text:sub(mark + 1)
  end
  written(io.write(table.concat(tok:encode(text, options), " "), "\n"))
end

if cfg.whole then
  show(read("a"))
else
  for line in read, "l" do
    show(line)
  end
end
written(io.stdout:flush())
