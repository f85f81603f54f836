--- mocl.checkpoint: directories checkpoint-%06d that are either complete or not there.
-- A checkpoint is written under a temporary name, synced and renamed, and only then are older ones
-- deleted: whatever fails in between, the one before stays usable.

local fs = require "mocl.fs"
local json = require "mocl.json"

local checkpoint = {}

local function check(ok, err)
  if not ok then
    error(err, 0)
  end
  return ok
end

--- The step of a directory name checkpoint-NNNNNN; nil for other names.
function checkpoint.step_of(name)
  return math.tointeger(tonumber(name:match("^checkpoint%-(%d+)$")))
end

-- Names of checkpoints, oldest first.
local function names_in(base)
  local names = {}
  for _, name in ipairs(fs.list(base) or {}) do
    if checkpoint.step_of(name) then
      names[#names + 1] = name
    end
  end
  table.sort(names, function(a, b)
    return checkpoint.step_of(a) < checkpoint.step_of(b)
  end)
  return names
end

--- The newest complete checkpoint below base: path and state, or nil.
function checkpoint.newest(base)
  local names = names_in(base)
  for i = #names, 1, -1 do
    local path = fs.join(base, names[i])
    local text = fs.read(fs.join(path, "state.json"))
    local state = text and json.decode(text)
    if type(state) == "table" and state.offsets then
      return path, state
    end
  end
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

--- Writes base/checkpoint-%06d: write(dir) puts files into it, state (a table) becomes state.json.
-- `last` then points to it, and all but the newest `keep` are deleted. Returns the path; a failure
-- raises "path: reason" (or what write raised) and leaves the older checkpoints as they were.
function checkpoint.write(base, step, write, state, keep)
  local name = ("checkpoint-%06d"):format(step)
  local dir, tmp = fs.join(base, name), fs.join(base, "." .. name .. ".tmp")
  local ok, err = pcall(function()
    check(fs.mkdir(base))
    if fs.exists(tmp) then
      check(fs.remove_tree(tmp))
    end
    check(fs.mkdir(tmp))
    local done, reason = write(tmp)
    if done == nil and reason or done == false then
      error(reason or tmp .. ": not written", 0)
    end
    local text = json.encode(state, { indent = 2 }) .. "\n"
    check(fs.write(fs.join(tmp, "state.json"), text))
    sync_tree(tmp)
    if fs.exists(dir) then
      check(fs.remove_tree(dir))
    end
    check(fs.rename(tmp, dir))
  end)
  if not ok then
    fs.remove_tree(tmp)
    error(err, 0)
  end
  check(fs.symlink_replace(name, fs.join(base, "last")))
  check(fs.sync(base))
  local names = names_in(base)
  for i = 1, #names - keep do
    if names[i] ~= name then
      check(fs.remove_tree(fs.join(base, names[i])))
    end
  end
  return dir
end

--- Removes what a killed process left below base: unfinished checkpoints and files.
function checkpoint.clean(base)
  for _, name in ipairs(check(fs.list(base))) do
    if name:match("^%.checkpoint%-%d+%.tmp$") or name:match("^%.mocl%-%d+%-%d+%.tmp$") then
      check(fs.remove_tree(fs.join(base, name)))
    end
  end
end

return checkpoint
