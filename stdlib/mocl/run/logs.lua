--- mocl.run.logs: the logs of a run, metrics.jsonl and samples.jsonl: one object a line. Rows of metrics are in metrics/STAGE.jsonl
-- too, where all have the same keys: readers of tables ask for that. A run keeps their open files in
-- run.files; where they ended at a finished stage or a checkpoint is a table of bytes by name, to which they can be cut back.

local check = require "mocl.failure".check
local fs = require "mocl.fs"
local json = require "mocl.json"
local sorted_keys = require "mocl.options".sorted_keys

local run_logs = { NAMES = { "metrics", "samples" } } -- files NAME.jsonl

--- A copy with null for NaN and infinities, for which JSON has no word: a figure that is not defined (the correlation
-- of a constant) must not cost a run its end.
function run_logs.null_for_nan(v)
  if type(v) == "number" and (v ~= v or v == math.huge or v == -math.huge) then
    return json.null
  elseif type(v) ~= "table" then
    return v
  end
  local copy = setmetatable({}, getmetatable(v)) -- json.array's
  for k, x in pairs(v) do
    copy[k] = run_logs.null_for_nan(x)
  end
  return copy
end

local BY_STAGE = "metrics" -- the directory of these

-- metrics/STAGE.jsonl as metrics.jsonl has it, for all stages.
local function split(run)
  local dir, by_stage, order = fs.join(run.out, BY_STAGE), {}, {}
  for name, f in pairs(run.files) do
    if name:find("^" .. BY_STAGE .. "/") then
      f:close()
      run.files[name] = nil
    end
  end
  local path = fs.join(run.out, "metrics.jsonl")
  for line in (fs.exists(path) and check(fs.read(path)) or ""):gmatch "[^\n]*\n" do
    local stage = line:match '"stage":"([%w_-]+)"' -- inside a text the quotes have backslashes
    if stage and not by_stage[stage] then
      by_stage[stage], order[#order + 1] = {}, stage
    end
    table.insert(by_stage[stage] or {}, line)
  end
  for _, file in ipairs(fs.exists(dir) == "directory" and check(fs.list(dir)) or {}) do
    if not by_stage[file:match "^(.*)%.jsonl$"] then
      check(fs.remove(fs.join(dir, file)))
    end
  end
  for _, stage in ipairs(order) do
    local place, text = fs.join(dir, stage .. ".jsonl"), table.concat(by_stage[stage])
    check(fs.mkdir(dir))
    if not fs.exists(place) or fs.read(place) ~= text then
      check(fs.write(place, text))
    end
  end
end

--- Where the logs end now.
function run_logs.sizes(run)
  local offsets = {}
  for _, name in ipairs(run_logs.NAMES) do
    local f = run.files[name]
    if f then
      offsets[name] = f:seek("end")
    else
      local path = fs.join(run.out, name .. ".jsonl")
      offsets[name] = fs.exists(path) and check(fs.size(path)) or 0
    end
  end
  return offsets
end

--- Cuts the logs back to where they ended.
function run_logs.truncate(run, offsets)
  for _, name in ipairs(run_logs.NAMES) do
    local path, want = fs.join(run.out, name .. ".jsonl"), offsets[name] or 0
    if run.files[name] then
      run.files[name]:close()
      run.files[name] = nil
    end
    local size = fs.exists(path) and check(fs.size(path)) or 0
    if size < want then
      error(("%s: has %d bytes, had %d at the checkpoint: put it back, or start again with another out="):format(path, size,
        want), 0)
    elseif size > want then
      check(fs.truncate(path, want))
    end
  end
  split(run)
end

-- One line of JSON with sorted keys. NaN and infinities become null: JSON has no word for them.
local function line_of(row)
  local parts = {}
  for i, k in ipairs(sorted_keys(row)) do
    local v = row[k]
    if type(v) == "number" and (v ~= v or v == math.huge or v == -math.huge) then
      v = json.null
    end
    -- models answer bytes that need not be UTF-8
    parts[i] = json.encode(k) .. ":" .. json.encode(v, { replace_invalid = true })
  end
  return "{" .. table.concat(parts, ",") .. "}\n"
end

local function write(run, name, line)
  local path = run:path(name .. ".jsonl")
  local f = run.files[name]
  if not f then
    f = check(io.open(path, "ab"))
    run.files[name] = f
  end
  local ok, err = f:write(line)
  if ok then
    ok, err = f:flush()
  end
  if not ok then
    error(path .. ": " .. err, 0)
  end
end

--- Appends a row to a log: a table, or the text of a line.
function run_logs.append(run, name, row)
  local line = type(row) == "string" and row or line_of(row)
  local stage = name == "metrics" and line:match '"stage":"([%w_-]+)"'
  write(run, name, line)
  if stage then
    local log = BY_STAGE .. "/" .. stage
    if not run.files[log] then -- once: a run's directory that is taken away is not made again
      check(fs.mkdir(fs.join(run.out, BY_STAGE)))
    end
    write(run, log, line)
  end
end

return run_logs
