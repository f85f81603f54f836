--- serve.lua - a model that chat programs talk to: OpenAI-style chat completions over HTTP on this machine, with a preference.
--
--   mocl serve DIR|FILE.gguf|RUN [port=8080] [adapter=DIR] [tokenizer=PATH] [temperature=0.8] [seed=0]
--
-- The model is called mocl there, and mocl:humor=.7 is the same with a preference: docs/serve.md. Ctrl-C ends it.

local sys = require "mocl.sys"
sys.on_interrupt "message"

local config = require "mocl.run.config"
local loaded = require "mocl.lm.loaded"
local serve = require "mocl.lm.serve"

local cfg = config.parse(config.join { loaded.OPTIONS, {
  { "port", 8080, "port on 127.0.0.1, 0 = any that is free", min = 0, max = 65535 },
  { "parallel", 4, "answers that are computed at once; others wait", min = 1, max = 256 },
  { "quiet", false, "no line on each answer on stderr" },
} }, config.named_first("model", arg), { recipe = "serve", doc = "answer chat programs over HTTP" })

local m = loaded.from_options(cfg, "serve")
local s <close> = config.checked("port", serve.new(m, { port = cfg.port, parallel = cfg.parallel, log = not cfg.quiet and function(line)
  io.stderr:write(line, "\n")
end or nil }))
print(("%s is on http://127.0.0.1:%d/v1 as the model mocl%s; Ctrl-C ends it"):format(cfg.model, s:port(), m.objectives
  and ("; %s=.7 behind its name, as in mocl:%s=.7, is a preference"):format(m.objectives[1], m.objectives[1]) or ""))
io.stdout:flush()
sys.on_interrupt "flag" -- an answer under way is told to its client before the end
s:run()
