--- export.lua - writes a model, with an adapter merged into it, for other programs.
--
--   mocl export model=DIR|FILE.gguf|RUN [adapter=PATH] out=DIR|FILE.gguf [dtype=f32|f16|bf16|q8_0]
--   mocl export runs/moc_hh/default out=policy
--
-- model: a Hugging Face directory, a GGUF file, or the directory of a finished run, whose base and last adapter are taken. out: a directory
-- for transformers with the tokenizer's files, or a file for llama.cpp where the name ends with .gguf. merge=false writes the
-- adapter alone, as a PEFT directory or a LoRA GGUF. What was written is loaded again, and the largest difference of its logits on
-- a few prompts is printed. The old files or the new ones are there, whatever happens on the way.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local check = require "mocl.failure".check
local config = require "mocl.run.config"
local export = require "mocl.lm.export"
local fs = require "mocl.fs"
local open_device = require "mocl.run.device".open

local cfg = config.parse({
  { "model", nil, "required: directory of a model, a GGUF file, or the directory of a finished run; may stand first without its name", type = "string" },
  { "adapter", nil, "PEFT directory or LoRA GGUF; of a run its last one if unset", type = "string" },
  { "out", nil, "required: directory, or a file whose name ends with .gguf", type = "string" },
  { "dtype", "f32", "of the weights in out; q8_0 in GGUF files alone", choices = { "f32", "f16", "bf16", "q8_0" } },
  { "merge", true, "false: write the adapter alone" },
  { "tokenizer", nil, "tokenizer file or directory, the model's own if unset", type = "string" },
  { "prompts", export.TEXTS, "texts that the logits are compared on", list_of = "string" },
  { "quantization", nil, "format of the linear layers that the adapter was trained on; of a run its own", choices = { "int8", "w8a8", "nf4" },
    type = "string" },
  { "device", "cpu", "where tensors live" },
}, config.named_first("model", arg), { recipe = "export", doc = "write a model, with an adapter merged into it, for other programs" })

for _, key in ipairs { "model", "out" } do
  check(cfg[key] and cfg[key] ~= "", ("option %s is missing (--help lists the options)"):format(key))
end
check(#cfg.prompts > 0, "option prompts: is empty; give at least one text")

local model, adapter, tok, quantization, computed = cfg.model, cfg.adapter, cfg.tokenizer, cfg.quantization, nil
check(not quantization or fs.exists(model) ~= "file", "option quantization: is for directories; the numbers of a GGUF file have their own types")
local run, reason = export.run(cfg.model)
check(run or not reason, reason and "option model: " .. reason)
if run then
  model, adapter, tok = run.model, adapter or run.adapter, tok or run.tokenizer
  quantization, computed = quantization or run.quantization, run.computed
end
check(cfg.merge or adapter, "option merge: false writes the adapter alone, and there is none; name one with adapter=")
check(cfg.dtype ~= "q8_0" or cfg.out:find "%.gguf$", "option dtype: q8_0 is for GGUF files; a directory has f32, f16 or bf16")
check(cfg.merge or cfg.dtype == "f32" or cfg.out:find "%.gguf$", "option dtype: the adapter of a PEFT directory is f32")

open_device { device = cfg.device }
config.checked("out", export.check(cfg.out))
local done = config.checked_path("model", { model = model, adapter = adapter, out = cfg.out, tokenizer = tok }, export.write {
  model = model, adapter = adapter, out = cfg.out, tokenizer = tok, dtype = cfg.dtype, merge = cfg.merge, texts = cfg.prompts, device = cfg.device,
  quantization = quantization, computed = computed,
})

print(("%s: read again, its %s differ by at most %.2g on %d prompts%s"):format(cfg.out, done.what, done.difference, #done.rows,
  cfg.dtype == "f32" and "" or "; the weights were rounded to " .. cfg.dtype))
if done.unread then
  io.stderr:write(("mocl export: the tokenizer is handed on unread, and the logits are compared on drawn ids: %s\n"):format(done.unread))
end
if cfg.merge and not done.tokenizer then
  io.stderr:write(cfg.out:find "%.gguf$" and ("mocl export: the file has no tokenizer (%s); tokenizer=FILE.gguf takes that of another file\n")
    :format(done.without) or "mocl export: the directory has no tokenizer: the model has none; tokenizer= names one\n")
end
