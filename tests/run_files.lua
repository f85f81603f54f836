--- run_files: what a run leaves behind, for tests that compare equal runs.

local fs = require "mocl.fs"

-- times, the command, and pages with both
local VARIES = { ["timing.json"] = true, ["stages.json"] = true, ["env.json"] = true, ["cmdline.txt"] = true, ["report.html"] = true }

--- The files below dir but those that differ between equal runs and those of the list `without`, as {["/name"] = hash}.
return function(dir, without)
  local found, left_out = {}, {}
  for _, name in ipairs(without) do
    left_out[name] = true
  end
  local function walk(prefix)
    for _, name in ipairs(assert(fs.list(dir .. prefix))) do
      local path = prefix .. "/" .. name
      if fs.exists(dir .. path) == "directory" then
        walk(path)
      elseif not VARIES[name] and not left_out[name] then
        found[path] = assert(fs.sha256(dir .. path))
      end
    end
  end
  walk ""
  return found
end
