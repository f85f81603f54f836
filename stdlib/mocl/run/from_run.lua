--- mocl.run.from_run: stages that another run has finished, taken over by a new one (from=RUN), of the same recipe or of another
-- one with the same stages. What is taken has the bytes that the new run would have made itself, so it is refused where an option
-- that these stages depend on, a file they read, or the version of mocl differs, and where the other run lacks one of them.

local check = require "mocl.failure".check
local config = require "mocl.run.config"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local json = require "mocl.json"
local run_options = require "mocl.run.options"
local sorted_keys = require "mocl.options".sorted_keys

local from_run = {}

local Source = {}
Source.__index = Source

-- The value of an option by its name with dots.
local function option(cfg, key)
  for part in key:gmatch "[^.]+" do
    cfg = type(cfg) == "table" and cfg[part] or nil
  end
  return cfg
end

-- Hashes of the files that a recorded input had, by name below it; nil where none were recorded.
local function recorded(inputs, path)
  local found, below = {}, path:gsub("(.)/+$", "%1") .. "/"
  for name, hash in pairs(inputs or {}) do
    if name == path then
      found[""] = hash
    elseif name:sub(1, #below) == below then
      found[name:sub(#below + 1)] = hash
    end
  end
  return next(found) and found or nil
end

-- The first of the files beside an input that is not as the other run found it, or nil. beside(path), or nil where no
-- such files are read, lists where they would lie; a was the other run's path, b is the new one.
local function differing_beside(source, beside, a, b)
  local there = beside and beside(a) or {}
  for i, file in ipairs(beside and beside(b) or {}) do
    local had = (recorded(source.env.inputs, there[i]) or {})[""]
    if had ~= (fs.exists(file) == "file" and check(fs.sha256(file)) or nil) then
      return file
    end
  end
end

-- Whether one of the stages depends on an option.
local function used(o, key)
  for _, stage in ipairs(o.stages) do
    if run_options.covers(run_options.of(o.depends, stage) or {}, key) then
      return true
    end
  end
  return false
end

-- Lines for the options and files that differ and that one of the stages, or the whole run, depends on.
local function differences(source, o)
  local lines, paths = {}, {}
  local same_recipe = source.env.recipe == o.recipe
  for _, key in ipairs(o.paths) do
    paths[key] = true
  end
  local function matters(key)
    for _, other in ipairs(o.neutral) do
      if other == key then
        return false
      end
    end
    if used(o, key) then
      return true
    elseif not same_recipe and (option(source.cfg, key) == nil or option(o.cfg, key) == nil) then
      return false -- of one recipe alone: such an option is its method's
    end
    for _, keys in pairs(o.depends) do
      if run_options.covers(keys, key) then
        return false
      end
    end
    return true
  end
  local old, new = run_options.without(source.cfg, o.volatile), run_options.without(o.cfg, o.volatile)
  for _, d in ipairs(run_options.diff(old, new, {}, o.set)) do
    if matters(d.key) and not paths[d.key] then
      lines[#lines + 1] = run_options.line(d)
    end
  end
  for _, key in ipairs(o.paths) do -- the same files may lie elsewhere, and others in the same place
    local a, b = option(old, key) or "", option(new, key) or ""
    if matters(key) and (a ~= "" or b ~= "") then
      local had = a ~= "" and recorded(source.env.inputs, a)
      if a == "" or b == "" or not had then
        if a ~= b then
          lines[#lines + 1] = run_options.line { key = key, a = a, b = b }
        end
      else
        local name = digest.differing(had, digest.of(b))
        local file = name and (name == "" and b or fs.join(b, name)) or differing_beside(source, o.beside and o.beside[key], a, b)
        if file then
          lines[#lines + 1] = ("  %s: %s is not the file that run read"):format(key, file)
        end
      end
    end
  end
  return lines
end

-- Whether the other run's recipe has options of each of the stages beside the seed, which every recipe has.
local function shares_stages(source, o)
  local flat = config.flatten(source.cfg)
  for _, stage in ipairs(o.stages) do
    local keys, any = run_options.of(o.depends, stage) or {}, false
    for key in pairs(flat) do
      any = any or key ~= "seed" and run_options.covers(keys, key)
    end
    if not any then
      return false
    end
  end
  return true
end

--- The run in a directory as one that gives stages away; raises in words, and before anything is written, where it
-- cannot. o: recipe, cfg (of the new run), depends (mocl.run.options), stages (names, in their order), volatile
-- (options that never matter), set (run_options.set of the new run), paths (options that name files, which are
-- compared by what is in them), beside (option -> function from its path to a list of files that are read with it) and neutral (options that a group above covers and no stage uses).
function from_run.open(path, o)
  local function fail(fmt, ...)
    error(("from=%s%s"):format(path, fmt:format(...)), 0)
  end
  local function read(name)
    local value, err = json.load(fs.join(path, name))
    if type(value) ~= "table" then
      fail(": %s", err or name .. " is not what a run writes there")
    end
    return value
  end
  if not fs.exists(fs.join(path, "config.lua")) then
    fail(": holds no run; name the directory of one, or leave from= out")
  end
  local source = setmetatable({ path = path, env = read "env.json", names = o.stages }, Source)
  source.cfg = check(config.load(fs.join(path, "config.lua")))
  if source.env.recipe ~= o.recipe and not shares_stages(source, o) then
    fail(" holds a run of %s, not of %s, and it has no stages in common with it", tostring(source.env.recipe), o.recipe)
  elseif source.env.mocl ~= require "mocl"._VERSION then
    fail(" was made by mocl %s, this is %s, which may make other models of the same options: leave from= out",
      tostring(source.env.mocl), require "mocl"._VERSION)
  end
  local lines = differences(source, o)
  if #lines > 0 then
    fail(" made stages %s with other options:\n%s\ngive them their values there, or leave from= out", table.concat(o.stages, ", "),
      table.concat(lines, "\n"))
  end
  source.stages = fs.exists(fs.join(path, "stages.json")) and read "stages.json" or {}
  for _, name in ipairs(o.stages) do
    if type(source.stages[name]) ~= "table" then
      fail(": stage '%s' is not finished there (finished: %s); %s", name, table.concat(sorted_keys(source.stages), ", "),
        fs.exists(fs.join(path, "result.json")) and "that run did not need it: leave from= out" or "finish it with resume=auto first")
    end
  end
  for _, name in ipairs(o.stages) do
    for output, hashes in pairs(source.stages[name].outputs or {}) do
      digest.verify(fs.join(path, output), hashes, ("what stage '%s' of the run of from= wrote, put it back or leave from= out"):format(name))
    end
  end
  return source
end

local function copy(from, to)
  check(fs.mkdir(fs.dirname(to)))
  check(fs.copy(from, to))
end

-- The lines of a log that a stage wrote.
local function rows_of(path, name)
  local lines = {}
  if fs.exists(path) then
    local f <close> = check(io.open(path, "rb"))
    for line in f:lines "L" do
      local row = json.decode(line)
      if type(row) == "table" and row.stage == name then
        lines[#lines + 1] = line
      end
    end
  end
  return lines
end

--- Copies the stages that the new run does not have yet: their files, their rows in the logs, their results. env.json
-- of the new run gets `from`: the directory, and the hashes of all that was taken.
function Source:give(run)
  local outputs, before = {}, run.env.from and run.env.from.stages or {}
  for _, name in ipairs(self.names) do
    outputs[name] = (before[name] or not run.stages[name]) and self.stages[name].outputs or nil -- what was made here stays so
  end
  if next(outputs) then
    run:note("from", { run = fs.realpath(self.path) or self.path, mocl = self.env.mocl, stages = outputs })
  end
  for _, name in ipairs(self.names) do
    if not run.stages[name] then
      run:adopt(name, self.stages[name], function()
        for output, hashes in pairs(self.stages[name].outputs or {}) do
          for file in pairs(hashes) do
            local from, to = fs.join(self.path, output), run:path(output)
            copy(file == "" and from or fs.join(from, file), file == "" and to or fs.join(to, file))
          end
        end
      end, { metrics = rows_of(fs.join(self.path, "metrics.jsonl"), name), samples = rows_of(fs.join(self.path, "samples.jsonl"), name) })
    end
  end
end

return from_run
