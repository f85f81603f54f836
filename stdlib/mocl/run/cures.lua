--- mocl.run.cures: what to do about an error of the machine that stops a run.

local fs = require "mocl.fs"

local run_cures = {}

-- What to do about an error, by the reason that the system gives. %s: the run's directory.
local CURES = {
  ["No space left on device"] = "free some space, then continue with resume=auto",
  ["Disk quota exceeded"] = "free some space, then continue with resume=auto",
  ["File too large"] = "raise the limit (ulimit -f), then continue with resume=auto",
  ["Input/output error"] = "if the disk is sound again, continue with resume=auto",
  ["Permission denied"] = "make %s writable, then continue with resume=auto; or choose another out=",
  ["Operation not permitted"] = "make %s writable, then continue with resume=auto; or choose another out=",
  ["Read-only file system"] = "make %s writable, then continue with resume=auto; or choose another out=",
  ["Too many open files"] = "raise the limit (ulimit -n), then continue with resume=auto",
  ["File name too long"] = "choose another out=",
  ["Not a directory"] = "choose another out=",
}

--- The same error with what to do about it, where that is known, and true if that is all there is to say. out: the
-- directory of the run; new: the directory was not there before.
function run_cures.of(err, out, new)
  if type(err) ~= "string" or err:find("resume=", 1, true) or err:find("out=", 1, true) then
    return err
  end
  for reason, cure in pairs(CURES) do
    if err:sub(-#reason) == reason then
      local plain = err:gsub("^[^\n:]+%.lua:%d+: ", "") -- a matter of the machine, not of a place in the code
      return ("%s\n%s"):format(plain, cure:format(out)), true
    end
  end
  if err:find(": No such file or directory$") and not new and not fs.exists(out) then
    return ("%s\nthe run's directory is gone: start again"):format(err)
  elseif err:find "^reward '" then
    return err .. "\nonce the reward is right, continue with resume=auto"
  elseif err:find("memory", 1, true) and (err:find("out of ", 1, true) or err:find("not enough", 1, true)) then
    return err .. "\nwith more memory the run can be continued with resume=auto"
  end
  return err
end

return run_cures
