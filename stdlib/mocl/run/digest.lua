--- mocl.run.digest: SHA-256 hashes of files, to notice later that one is not the same.

local check = require "mocl.failure".check
local fs = require "mocl.fs"
local sorted_keys = require "mocl.options".sorted_keys

local digest = {}

local OFF = setmetatable({}, { __close = function()
  fs.hash_in_passing(false)
end })

--- Calls fn(...) and returns what it returns. Files that it reads or writes as a whole (fs.write, fs.copy, safetensors, lines) are
-- hashed in passing, so that digest.of and fs.sha256 need not read them again.
function digest.in_passing(fn, ...)
  fs.hash_in_passing(true)
  local _ <close> = OFF
  return fn(...)
end

-- A directory that Run.open made: what is in it changes while the run goes on.
local function is_run(path)
  return fs.exists(fs.join(path, "config.lua")) and fs.exists(fs.join(path, "env.json")) and true or false
end

--- Hashes {name = hex} of a file (name "") or of the visible files of a directory and those below it (names relative
-- to it); directories of runs below it and files of which skip(path) is true are
-- left out. Raises "path: reason".
function digest.of(path, skip)
  local hashes = {}
  local function add(name)
    local full = name == "" and path or fs.join(path, name)
    if fs.exists(full) ~= "directory" then
      if not (skip and skip(full)) then
        hashes[name] = check(fs.sha256(full))
      end
      return
    end
    for _, entry in ipairs(check(fs.list(full))) do
      if not entry:match("^%.") and not is_run(fs.join(full, entry)) then
        add(name == "" and entry or fs.join(name, entry))
      end
    end
  end
  add ""
  return hashes
end

--- The first by name of the files by which two sets of hashes differ, or nil.
function digest.differing(a, b)
  local first
  for _, set in ipairs { a, b } do
    for name in pairs(set) do
      if a[name] ~= b[name] and (not first or name < first) then
        first = name
      end
    end
  end
  return first
end

--- Raises unless the files of `hashes` are below path as they were: "FILE: is not WHAT (sha256 A, was B)". Files that
-- are not in `hashes` do not matter.
function digest.verify(path, hashes, what)
  for _, name in ipairs(sorted_keys(hashes)) do
    local file = name == "" and path or fs.join(path, name)
    local now = check(fs.sha256(file))
    if now ~= hashes[name] then
      error(("%s: is not %s (sha256 %s, was %s)"):format(file, what, now, hashes[name]), 0)
    end
  end
end

--- The first by name of the files below a directory that `hashes` lacks and a loader would read: .json, .safetensors, .model, .bin,
-- .txt. Checkpoints are passed over. nil where there is none.
function digest.added(path, hashes)
  local first
  local function look(name)
    local full = name == "" and path or fs.join(path, name)
    if fs.exists(full) == "directory" then
      for _, entry in ipairs(check(fs.list(full))) do
        if not entry:match "^%." and not entry:match "^checkpoint%-%d+$" and entry ~= "last" then
          look(name == "" and entry or fs.join(name, entry))
        end
      end
    elseif not hashes[name] and not (first and first < name) and (name:match "%.json$" or name:match "%.safetensors$" or name:match "%.model$"
      or name:match "%.bin$" or name:match "%.txt$") then
      first = name
    end
  end
  if fs.exists(path) == "directory" then
    look ""
  end
  return first
end

--- The text that the program sha256sum -c reads, sorted by name.
function digest.text(hashes)
  local lines = {}
  for name, hash in pairs(hashes) do
    lines[#lines + 1] = { name, hash }
  end
  table.sort(lines, function(a, b)
    return a[1] < b[1]
  end)
  for i, line in ipairs(lines) do
    lines[i] = line[2] .. "  " .. line[1] .. "\n"
  end
  return table.concat(lines)
end

-- of a file in the directory or below it
local function is_name(name)
  return #name <= 255 and not name:find "^/" and not name:find("\0", 1, true) and not ("/" .. name .. "/"):find("/../", 1, true)
end

--- The hashes in such a text; nil, message for anything else.
function digest.parse(text)
  local hashes, n = {}, 0
  for line, ending in text:gmatch("([^\n]*)(\n?)") do
    local hash, name = line:match("^(%x+)  (.+)$")
    if hash and #hash == 64 and ending == "\n" and not hashes[name] and is_name(name) then
      hashes[name], n = hash, n + 1
    elseif line ~= "" or ending ~= "" then
      return nil, "not lines of hash and name"
    end
  end
  if n == 0 then
    return nil, "empty"
  end
  return hashes
end

return digest
