--- generate.lua - prints a prompt and what a model makes of it.
--
--   mocl generate model=DIR|FILE.gguf [adapter=DIR] [tokenizer=PATH] [prompt=TEXT] [temperature=0.8] [n=4]
--
-- model: a Hugging Face directory, or a GGUF file; adapter: a PEFT directory; tokenizer: as in tokenize.lua, the
-- model's own directory or file if unset. What goes before the prompt is what the tokenizer's files say (add_special_tokens); an empty prompt is the
-- BOS token alone. With chat=auto the prompt is a user's turn of a chat (and system its system message), written by the
-- chat template of the model's files, or of the name given: docs/chat.md. Standard output gets the text and nothing
-- else, as its tokens come; with n > 1 the texts, when all are there, with a line --- between them. A text ends with one of the end tokens of the model's files (the
-- tokenizer's EOS token where they name none), a new BOS token, a stop text (which is part of it; it may be a special
-- token, which is not printed) or max_new_tokens. Same seed, same texts.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local chat = require "mocl.lm.chat"
local check = require "mocl.failure".check
local config = require "mocl.run.config"
local lm = require "mocl.lm.sft"
local lora = require "mocl.lm.lora"
local open_device = require "mocl.run.device".open
local rng = require "mocl.rng"
local sys = require "mocl.sys"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local cfg = config.parse({
  { "model", nil, "required: directory of the model, or a GGUF file; may stand first without its name", type = "string" },
  { "tokenizer", nil, "tokenizer file or directory, the model's own if unset", type = "string" },
  { "adapter", nil, "directory of a PEFT adapter", type = "string" },
  { "prompt", "", "text to go on from; empty is BOS alone" },
  { "chat", nil, "make the prompt a user's turn by a chat template: auto (the model's own) or a name", type = "string" },
  { "system", nil, "system message of the chat", type = "string" },
  { "date", nil, "today's date, for chat templates that hold one, such as '26 Jul 2024'", type = "string" },
  { "max_new_tokens", 200, "tokens after the prompt", min = 1 },
  { "temperature", 1.0, "sampling temperature, 0 = the likeliest token", min = 0 },
  { "top_k", 0, "draw from the k likeliest tokens, 0 = all", min = 0 },
  { "top_p", 1.0, "draw from the likeliest tokens that sum to p", min = 1e-6, max = 1 },
  { "stop", {}, "texts that end the answer; a special token may be one, and is not printed", list_of = "string" },
  { "n", 1, "texts", min = 1 },
  { "seed", 0, "seed of the samples", min = 0 },
  { "device", "cpu", "where tensors live" },
  { "dtype", "f32", "of the weights and activations", choices = { "f32", "bf16" } },
  { "quantization", nil, "keep the linear layers of blocks in 8 or 4 bits", choices = { "int8", "w8a8", "nf4" }, type = "string" },
  { "quiet", false, "no speed on stderr" },
}, config.named_first("model", arg), { recipe = "generate", doc = "print a prompt and what a model makes of it" })

check(cfg.model, "option model is missing (--help lists the options)")
for _, text in ipairs(cfg.stop) do
  check(text ~= "", "option stop: a stop text is empty")
end
check(cfg.chat or not (cfg.system or cfg.date), ("option %s needs chat="):format(cfg.system and "system" or "date"))
open_device { device = cfg.device }
local tok, reason = tokenizer.load(cfg.tokenizer or cfg.model)
config.checked(cfg.tokenizer and "tokenizer" or "model", tok, reason and not cfg.tokenizer and reason .. "; tokenizer= names one that lies elsewhere"
  or reason)
local model = config.checked("model", transformer.load(cfg.model, {
  device = cfg.device, dtype = cfg.dtype, quantization = cfg.quantization,
}))
if cfg.adapter then
  config.checked("adapter", lora.load(model, cfg.adapter))
end

local shape = model:config()
check(tok:vocab_size() <= shape.vocab_size, ("the tokenizer has %d ids, the model only %d: they do not belong together")
  :format(tok:vocab_size(), shape.vocab_size))
local bos, eos = tok:bos_id(), transformer.eos_ids(model) or tok:eos_id()

local function token_text(id)
  return id and tok:id_to_token(id)
end

-- The token ids of the chat.
local function chat_prompt()
  local template
  if cfg.chat == "auto" then
    template = config.checked("chat", chat.of(cfg.tokenizer or cfg.model))
  else
    template = chat.template(cfg.chat, { bos_token = token_text(tok:bos_id()), eos_token = token_text(tok:eos_id()) })
  end
  local messages = { cfg.system and { role = "system", content = cfg.system } }
  messages[#messages + 1] = { role = "user", content = cfg.prompt }
  return chat.encode(tok, chat.apply(template, messages, { add_generation_prompt = true, date = cfg.date }))
end

local prompt = cfg.chat and chat_prompt() or lm.prompt(tok, cfg.prompt)
check(#prompt <= shape.max_position_embeddings, ("the prompt has %d tokens, the context holds %d: shorten it")
  :format(#prompt, shape.max_position_embeddings))

local function out(text)
  local ok, message = io.write(text)
  if ok then
    ok, message = io.stdout:flush()
  end
  check(ok, ok or "standard output: " .. message)
end

local longest = 0
for _, text in ipairs(cfg.stop) do
  longest = math.max(longest, #text)
end

-- A text as it grows: with special tokens, or without them as it is printed. Stop texts are looked for in both.
local function growing(skip_special)
  local stream, pieces = tok:decode_stream { skip_special = skip_special }, {}
  for i, id in ipairs(prompt) do
    pieces[i] = stream:push(id)
  end
  local text = table.concat(pieces)
  return { stream = stream, text = text, from = #text } -- stop texts in the prompt do not count
end

local function add(t, piece)
  local before = #t.text
  t.text = t.text .. piece
  for _, text in ipairs(cfg.stop) do
    t.stopped = t.stopped or t.text:find(text, math.max(t.from, before - longest) + 1, true) ~= nil
  end
end

local printed, whole, prompts = {}, {}, {}
for row = 1, cfg.n do
  printed[row], whole[row], prompts[row] = growing(true), growing(false), prompt
end

local function print_piece(row, piece)
  add(printed[row], piece)
  if cfg.n == 1 then
    out(piece)
  end
end

local function on_token(row, id)
  if id == bos then
    return true
  end
  print_piece(row, printed[row].stream:push(id))
  add(whole[row], whole[row].stream:push(id))
  return printed[row].stopped or whole[row].stopped
end

if cfg.n == 1 then
  out(printed[1].text)
end
local started = sys.now()
local ok, made = pcall(model.generate, model, prompts, {
  max_new_tokens = cfg.max_new_tokens, temperature = cfg.temperature, top_k = cfg.top_k, top_p = cfg.top_p, eos = eos,
  vocab_size = tok:vocab_size(), key = rng.key(cfg.seed, "generate"), on_token = on_token,
})
if not ok then -- such as logits that are not finite; the place in the library says nothing to a reader
  error(type(made) == "string" and made:gsub("^[^\n:]+%.lua:%d+: ", "") or made, 0)
end
local seconds = sys.now() - started
for row = 1, cfg.n do
  print_piece(row, printed[row].stream:flush())
  if cfg.n > 1 then
    out((row > 1 and "\n---\n" or "") .. printed[row].text)
  end
end
if not cfg.quiet then
  io.stderr:write(("\n%d tokens in %.2f s, %.0f a second\n"):format(made.total, seconds, made.total / seconds))
end
