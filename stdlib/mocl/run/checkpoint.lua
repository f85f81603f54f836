--- mocl.run.checkpoint: directories checkpoint-%06d that are either complete or not there.
-- A checkpoint is written under a temporary name, synced and renamed, and only then are older ones
-- deleted: whatever fails in between, the one before stays usable. SHA256SUMS in it (as sha256sum -c reads it) tells
-- later whether it is still what was written.

local check = require "mocl.failure".check
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local json = require "mocl.json"
local on_error = require "mocl.on_error"
local sys = require "mocl.sys"

local checkpoint = {}

--- The step of a directory name checkpoint-NNNNNN; nil for other names.
function checkpoint.step_of(name)
  return math.tointeger(tonumber(name:match("^checkpoint%-(%d+)$")))
end

local SUMS, STATE = "SHA256SUMS", "state.json"

--- Names in a directory: none where it does not exist. Raises where it cannot be read, which is not the same: a run that
-- took it for empty would start again from nothing.
function checkpoint.entries(path)
  local kind, err = fs.exists(path)
  check(not err, err)
  return kind and check(fs.list(path)) or {}
end

-- Names of checkpoints, oldest first. Other programs have directories of such names too.
local function names_in(base)
  local names = {}
  for _, name in ipairs(checkpoint.entries(base)) do
    if checkpoint.step_of(name) and (fs.exists(fs.join(base, name, STATE)) or fs.exists(fs.join(base, name, SUMS))) then
      names[#names + 1] = name
    end
  end
  table.sort(names, function(a, b)
    return checkpoint.step_of(a) < checkpoint.step_of(b)
  end)
  return names
end

--- Whether there is a checkpoint below base, complete or damaged.
function checkpoint.any(base)
  return names_in(base)[1] ~= nil
end

-- The state of a checkpoint, whose files must be as they were written.
local function read(path, step)
  local file = fs.join(path, SUMS)
  local hashes, err = digest.parse(check(fs.read(file)))
  if not hashes then
    error(("%s: is not a list of hashes (%s)"):format(file, err), 0)
  end
  digest.verify(path, hashes, "the file that was written")
  file = fs.join(path, STATE)
  local state, bad = json.decode(check(fs.read(file)))
  if type(state) ~= "table" or type(state.offsets) ~= "table" or state.step ~= step then
    error(("%s: is not the state of step %d%s"):format(file, step, bad and " (" .. bad .. ")" or ""), 0)
  end
  return state
end

--- checkpoint.steps(base) -> the steps of the checkpoints below base, complete or damaged, from the first on.
function checkpoint.steps(base)
  local steps = {}
  for i, name in ipairs(names_in(base)) do
    steps[i] = checkpoint.step_of(name)
  end
  return steps
end

--- The newest checkpoint below base, or that of a step: path and state, or nil. Raises where it is not what was written: a part is
-- missing, cut or changed.
function checkpoint.newest(base, step)
  local names = names_in(base)
  while step and names[1] and checkpoint.step_of(names[#names]) ~= step do
    names[#names] = nil
  end
  local name = names[#names]
  if not name then
    return nil
  end
  local path = fs.join(base, name)
  local words <close> = on_error.words(function(text) -- but not of memory, or a disk that cannot be read now
    return (text:find(": is not ", 1, true) or text:find(": No such file", 1, true))
      and ("%s\nthis checkpoint is damaged: delete %s to go on from %s"):format(text, path,
        names[2] and "the one before it" or "the last finished stage") or text
  end)
  return path, read(path, checkpoint.step_of(name))
end

local function sync_tree(dir)
  for _, name in ipairs(check(fs.list(dir))) do
    local path = fs.join(dir, name)
    if fs.exists(path) == "directory" then
      sync_tree(path)
    else
      check(fs.sync(path))
    end
  end
  check(fs.sync(dir))
end

-- Takes a name away at once, so that what has such a name is always complete, then the files.
local function discard(base, name)
  local dying = fs.join(base, "." .. name .. ".old.tmp")
  if fs.exists(dying) then
    check(fs.remove_tree(dying))
  end
  local ok, err = fs.rename(fs.join(base, name), dying)
  if not ok and fs.exists(dying) then -- renamed, but the disk did not confirm it
    fs.remove_tree(dying)
  end
  check(ok, err)
  check(fs.remove_tree(dying))
end

--- Removes all checkpoints below base, and `last`.
function checkpoint.remove(base)
  local names = names_in(base)
  if names[1] and fs.readlink(fs.join(base, "last")) then
    check(fs.remove(fs.join(base, "last")))
  end
  for _, name in ipairs(names) do
    discard(base, name)
  end
end

-- Raises unless keep is a number of checkpoints, or nil: all of them.
local function check_keep(name, keep)
  if keep ~= nil and (math.type(keep) ~= "integer" or keep < 0) then
    error(("%s: keep = %s is no number of checkpoints; give a whole number, or leave it out to keep all"):format(name,
      tostring(keep)), 3)
  end
end

-- `last` points to `name`, and all but it and the newest `keep` go; none where keep is nil.
local function settle(base, keep, name)
  local last = fs.join(base, "last")
  if fs.readlink(last) ~= name then
    check(fs.symlink_replace(name, last))
  end
  local names = names_in(base)
  for i = 1, keep and #names - keep or 0 do
    if names[i] ~= name then
      discard(base, names[i])
    end
  end
end

-- Writes base/NAME by way of a directory beside it, which goes whatever fails. Returns its path. A process that `write`
-- forks leaves both to its parent, whether it returns, fails or exits.
local function fill(base, name, write, full)
  local dir, tmp, pid = fs.join(base, name), fs.join(base, "." .. name .. ".tmp"), sys.getpid()
  local tidy <close> = setmetatable({}, { __close = function()
    if tmp and pid == sys.getpid() then
      fs.remove_tree(tmp)
    end
  end })
  check(fs.mkdir(base))
  if fs.exists(tmp) then
    check(fs.remove_tree(tmp))
  end
  check(fs.mkdir(tmp))
  local done, reason = digest.in_passing(write, tmp)
  if pid ~= sys.getpid() then
    error(("%s: this checkpoint belongs to process %d, which has forked this one; let that one write it"):format(dir, pid), 0)
  elseif done == nil and reason or done == false then
    error(reason or tmp .. ": not written", 0)
  end
  local text = json.encode(full, { indent = 2 }) .. "\n"
  check(fs.write(fs.join(tmp, STATE), text))
  check(fs.write(fs.join(tmp, SUMS), digest.text(digest.of(tmp))))
  sync_tree(tmp)
  if fs.exists(dir) then
    discard(base, name)
  end
  check(fs.rename(tmp, dir))
  tmp = nil
  return dir
end

--- Writes base/checkpoint-%06d: write(dir) puts files into it, state (a table) becomes state.json.
-- `last` then points to it, and all but the newest `keep` are deleted; without keep all stay. Returns the path; a failure
-- raises "path: reason" (or what write raised) and leaves the older checkpoints as they were. What newest needs of a state
-- is added where it is missing: step, and offsets without an entry.
function checkpoint.write(base, step, write, state, keep)
  check_keep("checkpoint.write", keep)
  if math.type(step) ~= "integer" or step < 0 then
    error(("checkpoint.write: step = %s is no whole number from 0"):format(tostring(step)), 2)
  elseif state and state.step ~= nil and state.step ~= step then
    error(("checkpoint.write: state.step = %s, but the step is %d"):format(tostring(state.step), step), 2)
  end
  local full = { step = step, offsets = {} }
  for k, v in pairs(state or {}) do
    full[k] = v
  end
  local name = ("checkpoint-%06d"):format(step)
  local dir = fill(base, name, write, full)
  settle(base, keep, name)
  return dir
end

--- Removes what a killed process left below base: unfinished checkpoints and files. With keep, `last` points to the
-- newest checkpoint then, and all but the newest `keep` are deleted.
function checkpoint.clean(base, keep)
  check_keep("checkpoint.clean", keep)
  for _, name in ipairs(check(fs.list(base))) do
    if name:match("^%.checkpoint%-%d+%.tmp$") or name:match("^%.checkpoint%-%d+%.old%.tmp$")
      or name:match("^%.mocl%-%d+%-%d+%.tmp$") then
      check(fs.remove_tree(fs.join(base, name)))
    end
  end
  local names = keep and names_in(base) or {}
  if names[1] then
    settle(base, keep, names[#names])
  end
end

return checkpoint
