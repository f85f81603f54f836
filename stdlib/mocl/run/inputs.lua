--- mocl.run.inputs: the files that a run reads, by the hashes of env.json: path -> SHA-256.

local digest = require "mocl.run.digest"
local fs = require "mocl.fs"

local run_inputs = {}

--- Those of the inputs that belong to a path: the file itself, or what lies below the directory.
function run_inputs.of(path, inputs)
  local list, below = {}, path:gsub("(.)/+$", "%1") .. "/"
  for file, hash in pairs(inputs) do
    if file == path or file:sub(1, #below) == below then
      list[file] = hash
    end
  end
  return list
end

--- The hashes of a file, or of the files of a directory, as they are now; second, those that `inputs` has of them. Files of which
-- later(path) is true are left out of both, which is noted in the set `late`; the next call for the path, without later, takes those
-- of which nothing was recorded yet as they are.
function run_inputs.hashes(path, inputs, late, later)
  local now, before = {}, run_inputs.of(path, inputs)
  for name, hash in pairs(digest.of(path, later)) do
    now[name == "" and path or fs.join(path, name)] = hash
  end
  if later then
    for file in pairs(before) do
      before[file] = not later(file) and before[file] or nil
    end
    late[path] = true
  elseif late[path] then
    for file, hash in pairs(now) do
      before[file] = before[file] or inputs[file] or hash
    end
  end
  return now, before
end

--- What has become of the first file that differs between two sets of hashes, in words; nil where none does.
function run_inputs.change(now, before)
  local file = digest.differing(now, before)
  if not file then
    return nil
  elseif not before[file] then
    return ("%s: was not there when this run began"):format(file)
  elseif not now[file] then
    return ("%s: is gone; this run began with it (sha256 %s)"):format(file, before[file])
  end
  return ("%s: is not the file this run began with (sha256 %s, was %s)"):format(file, now[file], before[file])
end

return run_inputs
