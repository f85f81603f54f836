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
local open_device = require "mocl.run.device".open

local cfg = config.parse({
  { "model", nil, "required: a directory, a GGUF file or a run; may stand first without model=", type = "string" },
  { "tokenizer", nil, "tokenizer file or directory, the model's own if unset", type = "string" },
  { "adapter", nil, "directory of a PEFT adapter, or a LoRA GGUF; a run's last one if unset", type = "string" },
  { "preference", {}, "weights such as humor=.7,helpful=.3; the rest in equal parts", list_of = "string" },
  { "max_new_tokens", 0, "tokens of an answer, 0 = the run's, or 200", min = 0 },
  { "temperature", 1.0, "sampling temperature, 0 = the likeliest token", min = 0 },
  { "top_p", 1.0, "draw from the likeliest tokens that sum to p", min = 1e-6, max = 1 },
  { "seed", 0, "seed of the samples", min = 0 },
  { "device", "cpu", "where tensors live" },
  { "dtype", nil, "of the weights and activations; of a run as it was trained", choices = { "f32", "bf16" }, type = "string" },
  { "quantization", nil, "keep the linear layers of blocks in 8 or 4 bits; of a run as it was trained", choices = { "int8", "w8a8", "nf4" }, type = "string" },
}, config.named_first("model", arg), { recipe = "chat", doc = "talk to a model" })

check(cfg.model, "name a model: mocl chat DIR|FILE.gguf|RUN (--help lists the options)")
open_device { device = cfg.device }
local m = config.checked_path("model", { model = cfg.model, adapter = cfg.adapter, tokenizer = cfg.tokenizer }, loaded.load(cfg.model, {
  device = cfg.device, dtype = cfg.dtype, quantization = cfg.quantization, adapter = cfg.adapter, tokenizer = cfg.tokenizer,
}))
m.temperature, m.top_p, m.seed = cfg.temperature, cfg.top_p, cfg.seed
if cfg.max_new_tokens > 0 then
  m.max_new_tokens = cfg.max_new_tokens
end
local p
for _, word in ipairs(cfg.preference) do
  local name, value = word:match "^([^=]+)=(.+)$"
  check(tonumber(value), ("option preference: '%s' is no weight such as humor=.7"):format(word))
  p = p or {}
  p[name] = tonumber(value)
end
m:chat { p = p }
