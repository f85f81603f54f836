--- report.lua - makes the report of a run again, from the files of its directory.
--
--   mocl report run=runs/moc_hh/default
--   mocl report run=runs/moc_hh/default front=docs/front.svg
--
-- Writes report.html and, where the result has two objectives or more, front.svg in the directory. A
-- run that is going on or was interrupted gets a report of what it has so far.

require("mocl.sys").on_interrupt "message" -- Ctrl-C ends the program without a traceback

local check = require "mocl.failure".check
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local report = require "mocl.report"

local cfg = config.parse({
  { "run", nil, "required: directory of a run; may stand first without its name", type = "string" },
  { "front", nil, "write the picture of the front to this file too", type = "string" },
}, config.named_first("run", arg), { recipe = "report", doc = "make the report of a run again (docs/report.md)" })

local dir = check(cfg.run, "option run is missing (--help lists the options)")
local front = cfg.front and config.checked("run", report.front(dir)) -- before anything is written
local html, picture = report.write(dir)
print(config.checked("run", html, picture))
if picture then
  print(picture)
end
if front then
  config.checked("front", fs.write(cfg.front, front))
  print(cfg.front)
end
