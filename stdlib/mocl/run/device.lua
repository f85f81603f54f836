--- mocl.run.device: the device of a run, before there is a directory of it.

local sys = require "mocl.sys"
local tensor = require "mocl.tensor"

local device = {}

--- Fails now, in words, where the device of the run is not there. Sets the number of threads (cfg.threads) and the cap on the
-- device's memory (cfg.memory_cap, GiB); 0 leaves either as it is.
function device.open(cfg)
  if cfg.threads and cfg.threads > 0 then
    sys.set_threads(cfg.threads)
  end
  local ok, message = pcall(tensor.zeros, { 1 }, { device = cfg.device })
  if not ok then
    error(message, 0)
  end
  if cfg.memory_cap and cfg.memory_cap > 0 then
    tensor.memory_cap(cfg.device, math.ceil(cfg.memory_cap * 2 ^ 30))
  end
end

return device
