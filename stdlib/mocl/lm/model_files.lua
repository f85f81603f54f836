--- mocl.lm.model_files: the weight files of a model's directory: which are read, what is wrong with them, and how a save
-- replaces them.

local finite = require "mocl.finite"
local fs = require "mocl.fs"
local keys = require "mocl.keys"
local safetensors = require "mocl.safetensors"

local model_files = {}

local SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

-- A file that an index may name: inside the directory.
local function is_inside(name)
  if type(name) ~= "string" or name == "" or name:find "^/" or name:find "[\\\0]" then
    return false
  end
  for part in name:gmatch "[^/]*" do
    if part == ".." or part == "." then
      return false
    end
  end
  return true
end

local INDEX_KEYS = { honoured = { "weight_map" }, without_effect = { metadata = "sizes of the files" } }

-- name -> file of an index, and the sorted list of its files.
local function read_index(path)
  local index, message, code = keys.read(path, INDEX_KEYS)
  if not index then
    return nil, message, code
  end
  local map = index.weight_map
  if type(map) ~= "table" or next(map) == nil or map[1] ~= nil then
    return nil, path .. ": no weight_map", "FORMAT"
  end
  local seen, list = {}, {}
  for name, file in pairs(map) do
    if not is_inside(file) then
      return nil, ("%s: tensor '%s' is in %s, which is no file inside the directory"):format(path, name, keys.show(file)), "FORMAT"
    elseif not seen[file] then
      seen[file] = true
      list[#list + 1] = file
    end
  end
  table.sort(list)
  return map, list
end

-- safetensors.load, and a check of every value.
local function load_file(path, opts)
  local tensors, message, code = safetensors.load(path, { device = opts.device, map = true }) -- the model has copies of them
  if not tensors then
    return nil, message, code
  end
  local ok
  ok, message, code = finite.tensors(tensors, path)
  if not ok then
    return nil, message .. "; the file is damaged, or comes from a training that diverged", code
  end
  return tensors
end

--- model_files.load(dir, {device=, only=}) -> name -> tensor | fail; only(name): which are wanted. model.safetensors, or without it the shards of the
-- index, the order of transformers. Every value is checked.
function model_files.load(dir, opts)
  local single, index = fs.join(dir, SINGLE), fs.join(dir, INDEX)
  if fs.exists(single) or fs.exists(index) ~= "file" then
    return load_file(single, opts)
  end
  local map, list, code = read_index(index)
  if not map then
    return nil, list, code
  end
  local tensors, from = {}, {}
  for _, file in ipairs(list) do
    local part, message, kind = load_file(fs.join(dir, file), opts)
    if not part then
      return nil, message, kind
    end
    for name, t in pairs(part) do
      if from[name] then
        return nil, ("%s: tensor '%s' is in %s and in %s; keep one"):format(dir, name, from[name], file), "FORMAT"
      end
      tensors[name], from[name] = t, file
    end
  end
  for name, file in pairs(map) do
    if from[name] ~= file and not (opts and opts.only and not opts.only(name)) then
      return nil, ("%s: tensor '%s' is not in %s%s"):format(index, name, file, from[name] and " but in " .. from[name] or ""),
        "FORMAT"
    end
  end
  return tensors
end

--- model_files.names(dir) -> list | fail: the files of weights that load reads, an index first.
function model_files.names(dir)
  if fs.exists(fs.join(dir, SINGLE)) or fs.exists(fs.join(dir, INDEX)) ~= "file" then
    return { SINGLE }
  end
  local map, list, code = read_index(fs.join(dir, INDEX))
  if not map then
    return nil, list, code
  end
  return table.move(list, 1, #list, 2, { INDEX })
end

-- An index and its shards, which load does not read any more once model.safetensors is there.
local function remove_shards(dir)
  local index = fs.join(dir, INDEX)
  if not fs.exists(index) then
    return true
  end
  local _, list = read_index(index)
  local ok, message, code = fs.remove(index)
  for _, file in ipairs(ok and type(list) == "table" and list or {}) do
    local path = fs.join(dir, file)
    if ok and file ~= SINGLE and file:find "%.safetensors$" and fs.exists(path) == "file" then
      ok, message, code = fs.remove(path)
    end
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- model_files.save(dir, tensors, before) -> true | fail: writes model.safetensors, which from then on is what load
-- reads, and removes an index and its shards. Stopped at any point, the directory has the old weights or the new
-- ones. before, a function, is called when the new ones are on the disk and still under another name; its failure
-- ends the save.
function model_files.save(dir, tensors, before)
  local single = fs.join(dir, SINGLE)
  local path = before and (fs.realpath(single) or single) .. ".new" or single
  local ok, message, code = safetensors.save(path, tensors, { format = "pt" })
  if ok and before then
    ok, message, code = before()
    if ok then
      ok, message, code = fs.rename(path, (path:gsub("%.new$", "")))
    else
      fs.remove(path)
    end
  end
  if ok then
    ok, message, code = remove_shards(dir)
  end
  if not ok then
    return nil, message, code
  end
  return true
end

return model_files
