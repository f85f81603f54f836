--- mocl.run: the directory of a run: what is needed to repeat, resume, inspect and serve it.
-- A run that is interrupted and continued ends with the same bytes as one that was not. It refuses
-- to write over a run with other options, and a failed write leaves the last checkpoint usable.
--
--   local run <close> = Run.open { recipe = "demo", cfg = cfg, info = info }
--   if run.complete then return end
--   local sft = run:stage("sft", function(stage) ... return { loss = 1.2 } end)
--   run:finish(result)

local check = require "mocl.failure".check
local checkpoint = require "mocl.run.checkpoint"
local comm = require "mocl.comm"
local config = require "mocl.run.config"
local digest = require "mocl.run.digest"
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local json = require "mocl.json"
local on_error = require "mocl.on_error"
local run_lock = require "mocl.run.lock"
local run_cures = require "mocl.run.cures"
local run_logs = require "mocl.run.logs"
local tensorboard = require "mocl.run.tensorboard"
local run_identity = require "mocl.run.identity"
local run_inputs = require "mocl.run.inputs"
local run_options = require "mocl.run.options"
local ranks = require "mocl.run.ranks"
local sys = require "mocl.sys"

local Run = {}
Run.__index = Run

local LOGS, sizes, truncate = run_logs.NAMES, run_logs.sizes, run_logs.truncate

local function read_json(path)
  local value, err = json.decode(check(fs.read(path)))
  if value == nil then
    error(path .. ": " .. tostring(err), 0)
  end
  return value
end

local function write_json(path, value)
  check(fs.write(path, json.encode(value, { indent = 2, replace_invalid = true }) .. "\n"))
end

-- A process that the run's own has forked must not write it: both would go on with the same files.
local function refuse_fork(run)
  if run.pid ~= sys.getpid() then
    error(("%s: this run belongs to process %d, which has forked this one; let that one write it"):format(run.out, run.pid), 0)
  end
end

-- Calls f(run, ...); an error leaves with its cure.
local function guarded(out, f, run, ...)
  refuse_fork(run)
  local words <close> = on_error.words(function(text)
    return run_cures.of(text, out)
  end)
  return f(run, ...)
end

-- The directory that holds the checkpoints of a stage: of the main stage it is the run's own.
local function base_of(run, stage)
  return stage and stage ~= run.main and fs.join(run.out, stage) or run.out
end

-- The run's directory and those directly below it, where stages keep their checkpoints.
local function bases(run)
  local list = { run.out }
  for _, name in ipairs(check(fs.list(run.out))) do
    local path = fs.join(run.out, name)
    if name ~= "last" and not name:find("checkpoint-", 1, true)
      and fs.exists(path) == "directory" then
      list[#list + 1] = path
    end
  end
  return list
end

-- What the stages have left so far: a list of {stage, "is finished" or "has checkpoints"} in the order they ran.
local function used_stages(run)
  local list = {}
  for name, stage in pairs(run.stages) do
    list[#list + 1] = { name, "is finished", stage.order or 0 }
  end
  for _, base in ipairs(bases(run)) do
    local name = base == run.out and run.main or base:match "[^/]+$"
    if name and not run.stages[name] and not run.forgotten[name] and checkpoint.any(base) then
      list[#list + 1] = { name, "has checkpoints", math.huge }
    end
  end
  table.sort(list, function(a, b)
    return a[3] < b[3] or a[3] == b[3] and a[1] < b[1]
  end)
  return list
end

-- Raises where the options in `path` (a config.lua) are not those of this run but for ones that may change
-- (mocl.run.options); `what` holds them. Returns what has changed: a list of {key, a, b}.
local function compare_options(run, path, what, cure)
  local used = not run.complete and used_stages(run) or nil
  local changed, fixed, again = run_options.compare(check(config.load(path)), run.cfg, run.volatile, run.depends, used, run.set)
  if #fixed > 0 then
    error(("%s with other options:\n%s\n%s%s"):format(what, table.concat(fixed, "\n"), cure,
      again and ("; or run stage '%s' and what follows it again: resume=auto redo=%s"):format(again, again) or ""), 0)
  end
  return changed
end

-- redo=STAGE: that stage and those that ran after it are forgotten, as if they had not run.
local function forget(run, name)
  local used, from = used_stages(run), nil
  local names = {}
  for i, u in ipairs(used) do
    names[i] = u[1]
    from = from or u[1] == name and i or nil
  end
  if not from and not run_options.of(run.depends, name) then
    error(("redo=%s: %s has no such stage; it has %s"):format(name, run.out, #names > 0 and table.concat(names, ", ") or "none yet"), 0)
  end
  for i = from or #used + 1, #used do
    run.stages[names[i]], run.forgotten[names[i]] = nil, true
  end
end

-- While stages are being forgotten this file lists them: a run that is stopped meanwhile goes on with forgetting them.
local FORGOTTEN = "forgotten.json"

-- Stages that were being forgotten when the run was stopped are forgotten; true where there were some.
local function read_forgotten(run)
  local path = fs.join(run.out, FORGOTTEN)
  if not fs.exists(path) then
    return false
  end
  for _, name in ipairs(read_json(path)) do
    run.stages[name], run.forgotten[name] = nil, true
  end
  return true
end

-- stages.json: {name = {result =, order =, offsets = {log = bytes}, seconds =, outputs = {path = {name = hash}}}}
local function read_stages(path)
  local stages = read_json(path)
  local function refuse(name)
    error(("%s: %s is not what a run writes there: put the file back, or start again with another out="):format(path, name), 0)
  end
  if type(stages) ~= "table" then
    refuse "the whole"
  end
  for name, stage in pairs(stages) do
    local ok = type(name) == "string" and type(stage) == "table" and type(stage.offsets) == "table"
    for _, log in ipairs(LOGS) do
      ok = ok and math.type(stage.offsets[log]) == "integer"
    end
    if not ok or type(stage.seconds) ~= "number" or type(stage.outputs or {}) ~= "table" then
      refuse(("'%s'"):format(name))
    end
  end
  return stages
end

-- Refuses a directory whose run is not this one; returns "fresh", "interrupted" or "complete", and the options of an
-- interrupted run that have changed.
local function inspect(run, opts, resume)
  local out, path = run.out, fs.join(run.out, "config.lua")
  if not fs.exists(path) then
    for _, name in ipairs(checkpoint.entries(out)) do
      if name == "result.json" or name == "metrics.jsonl" or name == "stages.json"
        or checkpoint.step_of(name) then
        error(("%s holds parts of a run (%s) but no config.lua: choose another out=, or delete it")
          :format(out, name), 0)
      end
    end
    return "fresh"
  end
  local env = read_json(fs.join(out, "env.json"))
  if type(env) ~= "table" or env.recipe ~= opts.recipe then
    error(("%s holds a run of %s, not of %s: choose another out=, or delete it"):format(out,
      tostring(type(env) == "table" and env.recipe or nil), opts.recipe), 0)
  end
  local redo, stages = opts.cfg.redo, fs.join(out, "stages.json")
  if redo and not resume then
    error(("redo=%s goes with resume=auto"):format(redo), 0)
  end
  run.stages = fs.exists(stages) and read_stages(stages) or {}
  local half = read_forgotten(run)
  run.complete = fs.exists(fs.join(out, "result.json")) ~= nil and not redo and not half
  if redo then
    forget(run, redo)
  end
  local changed = compare_options(run, path, out .. " holds a run", "choose another directory with out=, or delete it")
  if run.complete then
    return "complete"
  end
  if not resume then
    error(out .. " holds an interrupted run: continue it with resume=auto, or choose another out=",
      0)
  end
  return "interrupted", changed
end

local function options_text(run)
  return config.dump(run_options.without(run.cfg, run.volatile))
end

-- What repeats the run: its command, environment and options. Inputs that are recorded stay.
local function write_identity(run, opts)
  check(fs.write(fs.join(run.out, "cmdline.txt"), run_identity.command(opts) .. "\n"))
  local before = run.env or {}
  run.env = run_identity.environment(opts)
  run.env.inputs, run.env.from = before.inputs, before.from
  write_json(fs.join(run.out, "env.json"), run.env)
  -- last: this file says that the directory holds a run
  check(fs.write(fs.join(run.out, "config.lua"), options_text(run)))
end

-- The newest checkpoint, or that of a step, which must be one of this run.
local function newest(run, base, step)
  local path, state = checkpoint.newest(base, step)
  if not path then
    return nil
  end
  local cure = ("delete it if it does not belong to %s"):format(run.out)
  if state.recipe ~= run.recipe then
    error(("%s is a checkpoint of %s, not of %s: %s"):format(path, tostring(state.recipe), run.recipe, cure), 0)
  end
  compare_options(run, fs.join(path, "config.lua"), path .. " is a checkpoint of a run", cure)
  return path, state
end

-- Rows after the newest mark (a finished stage or a checkpoint) will be written again.
local function rewind_to_newest(run)
  local offsets = { metrics = 0, samples = 0 }
  local function mark(at)
    for _, name in ipairs(LOGS) do
      offsets[name] = math.max(offsets[name], at[name])
    end
  end
  for _, stage in pairs(run.stages) do
    mark(stage.offsets)
  end
  for _, base in ipairs(bases(run)) do
    local _, state = newest(run, base)
    if state then
      mark(state.offsets)
      checkpoint.clean(base, run.keep)
    end
  end
  truncate(run, offsets)
end

-- env.json no longer says of stages that are forgotten or run here that another run made them (Run:adopt).
local function forget_source(run, names)
  local from = run.env and run.env.from
  if type(from) ~= "table" or type(from.stages) ~= "table" then
    return
  end
  local any = false
  for _, name in ipairs(names) do
    any = any or from.stages[name] ~= nil
    from.stages[name] = nil
  end
  if any then
    run.env.from = next(from.stages) and from or nil
    write_json(run:path "env.json", run.env)
  end
end

-- Takes away what the forgotten stages left, so that a run that is stopped meanwhile is still one without them.
local function clear_forgotten(run)
  local names = json.array()
  for name in pairs(run.forgotten) do
    names[#names + 1] = name
  end
  if #names == 0 then
    return
  end
  table.sort(names)
  write_json(run:path(FORGOTTEN), names)
  if fs.exists(run:path "result.json") then
    check(fs.remove(run:path "result.json"))
  end
  write_json(run:path "stages.json", run.stages)
  for _, name in ipairs(names) do
    checkpoint.remove(base_of(run, name))
  end
  forget_source(run, names)
  check(fs.remove(run:path(FORGOTTEN)))
  run.forgotten = {}
end

-- The part of Run.open that touches the directory.
local function enter(run, opts, resume, home)
  local out = run.out
  run_lock.check(out)
  local found, changed = inspect(run, opts, resume)
  if found == "complete" then
    run.env = read_json(fs.join(out, "env.json"))
    run.result = read_json(fs.join(out, "result.json"))
    return run
  end
  local made, reason = fs.mkdir(out)
  if not made then
    reason = run_cures.of(reason, out, true)
    error(reason:find("out=", 1, true) and reason or ("%s\n%s cannot be made: choose another out="):format(reason, out), 0)
  end
  run.lock = run_lock.take(out)
  for _, base in ipairs(bases(run)) do
    checkpoint.clean(base)
  end
  if found == "fresh" then
    write_identity(run, opts)
  else
    run.resumed = true
    run.env = read_json(fs.join(out, "env.json"))
    clear_forgotten(run)
    rewind_to_newest(run)
    for _, d in ipairs(changed) do -- a file that another one has replaced
      for file in pairs(run.env.inputs and type(d.a) == "string" and run_inputs.of(d.a, run.env.inputs) or {}) do
        run.env.inputs[file] = nil
      end
    end
    if #changed > 0 then
      write_identity(run, opts)
    end
    for file, hash in pairs(run.env.inputs or {}) do
      run.recorded[file] = hash
    end
  end
  if fs.dirname(out) == home and out ~= fs.join(home, "last") then
    check(fs.symlink_replace(out:match("[^/]+$"), fs.join(home, "last")))
  end
  return run
end

local follow -- below, with the stages

-- --check: everything that can be said before a run begins has been said by here.
local function only_check(opts, out)
  local there = fs.exists(fs.join(out, "config.lua"))
  print(("%s: the options go together%s"):format(opts.recipe, there and ("; %s holds a run already, which resume=auto continues"):format(out)
    or ("; the run would be in %s"):format(out)))
  if opts.estimate then
    print(opts.estimate())
  end
  os.exit(0, true)
end

--- Opens or creates the directory of a run; see docs/run.md.
-- opts: recipe, cfg, and optionally info (second result of config.parse), out, resume, quiet, keep,
-- volatile_keys, platform (a table of facts for env.json), main (the stage whose checkpoints lie in
-- the run's own directory), depends (the options that each stage depends on: mocl.run.options), estimate (a function that
-- returns what --check says of memory and time).
function Run.open(opts)
  local cfg, resume = opts.cfg, opts.resume or opts.cfg.resume
  local home = fs.join("runs", opts.recipe)
  local out = opts.out or cfg.out
  if resume and resume ~= "auto" then
    if out and out ~= resume then
      error(("resume=%s and out=%s name two directories"):format(resume, out), 0)
    end
    out = resume
    if not fs.exists(fs.join(out, "config.lua")) then
      error(("resume=%s holds no run to continue"):format(out), 0)
    end
  end
  out = (out or fs.join(home, "default")):gsub("(.)/+$", "%1")
  if opts.info and opts.info.check then
    only_check(opts, out)
  end
  local quiet, keep = opts.quiet, opts.keep or cfg.keep or 2
  if quiet == nil then
    quiet = cfg.quiet or false
  end
  local run = setmetatable({
    out = out, recipe = opts.recipe, cfg = cfg, quiet = quiet, keep = keep, main = opts.main, depends = opts.depends or {},
    set = run_options.set(opts.info),
    complete = false, resumed = false, volatile = table.move(run_options.VOLATILE, 1, #run_options.VOLATILE, 1, {}),
    files = {}, events = {}, stages = {}, forgotten = {}, recorded = {}, late = {}, started = sys.now(), pid = sys.getpid(),
  }, Run)
  for _, key in ipairs(opts.volatile_keys or {}) do
    table.insert(run.volatile, key)
  end
  if cfg.comm and cfg.comm.timeout then
    comm.limit(cfg.comm.timeout)
  end
  if comm.size() > 1 then
    return ranks.open(Run, run, opts, function() return guarded(out, enter, run, opts, resume, home) end, follow)
  end
  return guarded(out, enter, run, opts, resume, home)
end

--- A path in the run's directory.
function Run:path(...)
  return fs.join(self.out, ...)
end

--- Seconds since the run was opened, by this process.
function Run:seconds()
  return sys.now() - self.started
end

-- Takes back what stages made with an input that has changed since, so that they run again, and says which. Files that such
-- a stage wrote are written over.
local function drop_stages(self, path, names)
  for _, name in ipairs(names) do
    self.stages[name], self.forgotten[name] = nil, true
  end
  clear_forgotten(self)
  rewind_to_newest(self)
  io.stderr:write(("%s has changed since this run used it: %s run again, the others are kept\n"):format(path,
    #names == 1 and ("stage '%s' is"):format(names[1]) or ("the stages %s are"):format(table.concat(names, ", "))))
end

local function hash_input(self, path, option, later)
  local now, before = run_inputs.hashes(path, self.recorded, self.late, later)
  local change = next(before) and run_inputs.change(now, before)
  if change and not option then
    error(change .. ": put it back as it was, or start again with another out=", 0)
  elseif change then
    local users = run_options.users(option, self.depends, used_stages(self))
    if #users > 0 then
      drop_stages(self, path, users)
    end
  end
  local inputs = self.env.inputs or {}
  for _, set in ipairs { before, now } do
    for name in pairs(set) do
      inputs[name] = now[name]
    end
  end
  self.env.inputs = inputs -- last: if this process is killed above, the next one does it again
  write_json(self:path("env.json"), self.env)
  return now[path]
end

--- Of a complete run: a line on the first of the recorded inputs that is no longer as it was, or nil.
function Run:changed_input()
  local before, now = self.env.inputs or {}, {}
  for file in pairs(before) do
    now[file] = fs.sha256(file)
  end
  return run_inputs.change(now, before)
end

--- Records the SHA-256 of a file, or of each file of a directory, in env.json. On a continued run
-- an input that is no longer the same raises, as does a file that is new in a directory or gone from it; if it is the value of
-- an option, the stages that depend on this option (mocl.run.options) are run again, and the others are kept. later, a function
-- of a path, may leave files out until they are read in any case.
function Run:hash_input(path, option, later)
  return guarded(self.out, hash_input, self, path, option, later)
end

local function append(run, name, row)
  refuse_fork(run)
  run_logs.append(run, name, row)
end

--- Appends one flat object to metrics.jsonl and to metrics/STAGE.jsonl: numbers by name, step, and time in seconds if the
-- caller measures it. The name of the stage is added. All numbers but the step are written as floats, so that a key has one
-- type. With the option tensorboard they are an event too.
function Run:metrics(row)
  local copy = { stage = self.stage_name }
  for k, v in pairs(row) do
    if type(v) == "table" then
      error(("metrics: '%s' is a table, want a number"):format(tostring(k)), 2)
    end
    copy[k] = math.type(v) == "integer" and k ~= "step" and v + 0.0 or v
  end
  append(self, "metrics", copy)
  if self.cfg.tensorboard and self.stage_name then
    tensorboard.append(self.events, self:path "tensorboard", self.stage_name, row)
  end
end

--- Appends one object to samples.jsonl: preference, prompt, response, rewards, and what else the
-- recipe wants to keep. The name of the stage is added.
function Run:sample(row)
  local copy = { stage = self.stage_name }
  for k, v in pairs(row) do
    copy[k] = v
  end
  append(self, "samples", copy)
end

local Stage = {}
Stage.__index = Stage

function Stage:path(...)
  return self.run:path(self.name, ...)
end

function Stage:checkpoint(step, write, state)
  return self.run:checkpoint(step, write, state, self.name)
end

function Stage:latest()
  return self.run:latest(self.name)
end

--- Removes the checkpoints of the stage, where what it leaves takes their place.
function Stage:clear()
  self.run:clear(self.name)
end

--- Files or a directory that the stage wrote, relative to the run's directory: they must be the same when a continued
-- run goes on from them.
function Stage:output(path)
  self.outputs[#self.outputs + 1] = path
end

function Stage:metrics(row)
  return self.run:metrics(row)
end

function Stage:sample(row)
  return self.run:sample(row)
end

-- A stage that ran before: its outputs must be as it left them, with no file of another's among them.
local function reuse(run, name)
  local done = run.stages[name]
  for path, hashes in pairs(done.outputs or {}) do
    digest.verify(run:path(path), hashes, ("what stage '%s' of this run wrote, put it back or start again with another out=")
      :format(name))
    local added = digest.added(run:path(path), hashes)
    if added then
      error(("%s: is beside what stage '%s' of this run wrote, and would be read with it: take it away, or start again with another out=")
        :format(run:path(path, added), name), 0)
    end
  end
  return done.result or {}
end

-- Marks a stage as finished.
local function record(run, name, result, outputs, seconds)
  local order = 1
  for _, stage in pairs(run.stages) do
    order = math.max(order, (stage.order or 0) + 1)
  end
  run.stages[name] = { result = run_logs.null_for_nan(result), order = order, offsets = sizes(run), seconds = seconds, outputs = outputs }
  write_json(run:path("stages.json"), run.stages)
  run.stages = read_json(run:path("stages.json"))
  return run.stages[name].result or {}
end

-- fn(stage), while the stage is open
local function attempt(run, name, fn, stage)
  local words <close> = on_error.words(function(text)
    return finite.is_error(text) and ("%s\nstage '%s' is not finished; %s"):format(text, name, checkpoint.any(base_of(run, name))
      and ("its last checkpoint stays; with other options it begins again: resume=auto redo=%s"):format(name)
      or "with other options continue with resume=auto") or text
  end)
  local open <close> = setmetatable({}, { __close = function(open)
    if run.open_stage == open then -- not one that another coroutine has opened since
      run.open_stage, run.stage_name = nil, nil
    end
  end })
  open.thread = coroutine.running()
  run.open_stage, run.stage_name, run.failed_stage = open, name, name
  local result = fn(stage)
  refuse_fork(run) -- a process that fn has forked does not finish the stage
  run.failed_stage = nil
  return result
end

-- The function of a stage on a rank that writes nothing (mocl.run.ranks).
function follow(run, name, fn)
  attempt(run, name, fn, setmetatable({ run = run, name = name, outputs = {} }, Stage))
end

local function execute(run, name, fn)
  local started, stage = sys.now(), setmetatable({ run = run, name = name, outputs = {} }, Stage)
  forget_source(run, { name })
  local result = attempt(run, name, fn, stage)
  if type(result) == "table" and next(result) == nil then
    result = nil
  end
  local outputs = {}
  for _, path in ipairs(stage.outputs) do
    outputs[path] = digest.of(run:path(path))
  end
  return record(run, name, result, next(outputs) and outputs or nil, sys.now() - started)
end

local function adopt(run, name, done, copy, logs)
  local started = sys.now()
  checkpoint.remove(base_of(run, name)) -- of a stage that had begun here, and its rows
  rewind_to_newest(run)
  digest.in_passing(copy)
  refuse_fork(run)
  for path, hashes in pairs(done.outputs or {}) do
    digest.verify(run:path(path), hashes, "what was copied")
  end
  for _, log in ipairs(LOGS) do
    for _, line in ipairs(logs[log]) do
      append(run, log, line)
    end
  end
  record(run, name, done.result, done.outputs, sys.now() - started)
end

--- Makes a stage that another run finished one of this run, so that it will not run here (mocl.run.from_run). done: its entry in
-- stages.json; copy() puts its outputs into this directory; logs: {metrics =, samples =} lists of lines.
function Run:adopt(name, done, copy, logs)
  guarded(self.out, adopt, self, name, done, copy, logs)
end

local function note(run, key, value)
  run.env[key] = value
  write_json(run:path("env.json"), run.env)
end

--- Sets a field of env.json.
function Run:note(key, value)
  guarded(self.out, note, self, key, value)
end

--- Runs fn(stage) once in the life of the run: its table of results is kept in stages.json, and a
-- continued run that has it does not call fn. The result is what JSON makes of it, both times. Of several ranks (mocl.comm) the
-- first one calls fn; with a third argument "spread" all do, which share out the work.
-- Write metrics and samples inside stages: code between them runs again when a run is continued.
function Run:stage(name, fn, _)
  if type(name) ~= "string" or not name:match("^[%w_-]+$") or name == "last"
    or checkpoint.step_of(name) then
    error(("stage: bad name '%s', want letters, digits, _ and -"):format(tostring(name)), 2)
  elseif self.open_stage and coroutine.status(self.open_stage.thread) ~= "dead" then
    error(("stage %s: stage %s is still open"):format(name, self.stage_name), 2)
  end
  return guarded(self.out, self.stages[name] and reuse or execute, self, name, fn)
end

--- Writes checkpoint-%06d: write(dir) puts its files there, then state.json with the state, the
-- step and the sizes of the logs. Older ones beyond `keep` are deleted.
-- stage: name of a stage with its own checkpoints, or nil for the run's.
function Run:checkpoint(step, write, state, stage)
  refuse_fork(self)
  local full = {}
  for k, v in pairs(state or {}) do
    full[k] = v
  end
  full.step, full.offsets, full.recipe = step, sizes(self), self.recipe
  for name in pairs(self.files) do -- the sizes are a promise about what is on disk
    check(fs.sync(self:path(name .. ".jsonl")))
  end
  return checkpoint.write(base_of(self, stage), step, function(dir)
    local ok, err = write(dir)
    refuse_fork(self)
    check(fs.write(fs.join(dir, "config.lua"), options_text(self)))
    return ok, err
  end, full, self.keep)
end

--- The newest complete checkpoint, or that of a step: directory and state, or nil.
function Run:latest(stage, step)
  return newest(self, base_of(self, stage), step)
end

--- Removes the checkpoints of a stage.
function Run:clear(stage)
  checkpoint.remove(base_of(self, stage))
end

--- The steps of a stage's checkpoints, from the first on.
function Run:steps(stage)
  return checkpoint.steps(base_of(self, stage))
end

--- Cuts metrics.jsonl and samples.jsonl back to where they were at a checkpoint, so that a
-- continued run writes the same files as an uninterrupted one. Run.open does so by itself for the
-- newest mark; this is for a recipe that goes back to an older one.
function Run:rewind(state)
  refuse_fork(self)
  truncate(self, state.offsets)
end

local function finish(run, result, timing, pages)
  local text = json.encode(run_logs.null_for_nan(result), { indent = 2 }) .. "\n"
  local all = { seconds = 0, phases = {} }
  for name, s in pairs(run.stages) do
    all.phases[name] = s.seconds
    all.seconds = all.seconds + s.seconds
  end
  if next(all.phases) == nil then
    all.phases = nil
    all.seconds = run:seconds()
  end
  for k, v in pairs(timing or {}) do
    all[k] = v
  end
  write_json(run:path("timing.json"), all)
  run.result = json.decode(text)
  -- a page that cannot be drawn must not cost the run its result
  for _, page in ipairs(pages or {}) do
    local ok, drawn = pcall(page[2], run.out, { result = run.result })
    if ok and drawn then
      check(fs.write(run:path(page[1]), drawn))
    elseif not ok and tostring(drawn):find "interrupted!$" then
      error(drawn, 0)
    elseif not ok then
      io.stderr:write(run:path(page[1]), ": ", on_error.text(drawn), "\n")
    end
  end
  check(fs.write(run:path("result.json"), text))
  run.complete = true
  run:close()
end

--- Ends the run: timing.json, the pages and, last, result.json, which marks it complete.
-- timing (optional) adds to or replaces seconds and phases, which are measured here. pages (optional): a list of {file name,
-- function(dir, {result=}) -> text, or nil where there is nothing to draw}, such as mocl.report's PAGES.
function Run:finish(result, timing, pages)
  return guarded(self.out, finish, self, result, timing, pages)
end

--- Closes the files and gives the directory free; an unfinished run can be continued later. Twice
-- is fine. In a process forked from the run's own the directory stays taken.
function Run:close()
  local lock <close> = self.lock -- whatever fails below; and where this cannot even begin, the collector takes the lock
  self.lock = nil
  tensorboard.close(self.events)
  for name, f in pairs(self.files) do
    self.files[name] = nil
    f:close()
  end
end

-- The error of a signal leaves with what to do next. It has its traceback by now, where it is to be shown with one.
Run.__close = function(run, err)
  local signal = sys.interrupted()
  if signal and type(err) == "string" and (err .. "\n"):find "interrupted!\n" and not run.complete then
    io.stderr:write(("\n%s%s; continue with resume=auto\n"):format(signal, run.failed_stage and " in stage " .. run.failed_stage or ""))
  end
  run:close()
end
Run.__gc = Run.close

return Run
