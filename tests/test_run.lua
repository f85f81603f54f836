-- test_run: mocl.run and mocl.run.checkpoint (a run that is stopped and continued ends with the same
-- bytes as one that was not), mocl.run.progress

local T = require "t"
local checkpoint = require "mocl.run.checkpoint"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local progress = require "mocl.run.progress"
local report = require "mocl.report"
local Run = require "mocl.run"

local schema = config.common { { "steps", 6, "training steps" }, { "lr", 0.5, "step size" } }

local function options(...)
  return config.parse(schema, { [0] = "demo.lua", ... }, { recipe = "demo" })
end

local function read(...)
  return assert(fs.read(fs.join(...)))
end

local function write(path, text)
  assert(fs.write(path, text))
end

local function exists(...)
  return fs.exists(fs.join(...)) ~= nil
end

local function sorted(list)
  table.sort(list)
  return list
end

-- A recipe with three stages; training state is one number. stop = {stage, step} raises there, as
-- an interrupt would; calls are the stages that ran.
local function recipe(dir, stop, ...)
  local cfg, info = options("out=" .. dir, ...)
  local calls = {}
  local run <close> = Run.open { recipe = "demo", cfg = cfg, info = info, main = "train",
    platform = { blas = "none" } }
  if run.complete then
    return run, calls
  end
  local function at(stage, step)
    if stop and stop[1] == stage and stop[2] == step then
      error("interrupted!", 0)
    end
  end
  local function loop(stage, x, every)
    local first = 1
    calls[#calls + 1] = stage.name
    local latest, state = stage:latest()
    if latest then
      x, first = tonumber(read(latest, "weights")), state.step + 1
    end
    for step = first, cfg.steps do
      x = x * cfg.lr + step
      stage:metrics { step = step, ["env/x"] = x, nan = step == 2 and 0 / 0 or 0.5 }
      if step % 3 == 0 then
        stage:sample { step = step, preference = { 0, 1 }, prompt = "p", response = "r" .. x,
          rewards = { x, -x } }
      end
      at(stage.name, step)
      if step % every == 0 then
        stage:checkpoint(step, function(d)
          at(stage.name .. "/write", step)
          write(fs.join(d, "weights"), ("%.17g"):format(x))
          at(stage.name .. "/written", step)
        end, { kl = x / 3 })
      end
    end
    return { x = x }
  end
  local sft = run:stage("sft", function(stage) return loop(stage, 1, 2) end)
  local policy = run:stage("train", function(stage) return loop(stage, sft.x, 1) end)
  local eval = run:stage("eval", function(stage)
    calls[#calls + 1] = "eval"
    at("eval", 0)
    stage:sample { preference = { 1, 0 }, prompt = "q", response = "s", rewards = { policy.x, 2 } }
    return { n = 1 }
  end)
  run:finish({ recipe = "demo", x = policy.x, n = eval.n, objectives = { "a", "b" } }, nil, report.PAGES)
  return run, calls
end

local SAME = { "result.json", "metrics.jsonl", "samples.jsonl", "config.lua", "report.html",
  "last/weights", "last/state.json", "checkpoint-000005/weights", "sft/last/weights",
  "sft/last/state.json" }

local reference
local function uninterrupted()
  if not reference then
    local dir = T.tmpdir() .. "/full"
    recipe(dir)
    reference = {}
    for _, name in ipairs(SAME) do
      -- the report shows the command line, which names the directory
      reference[name] = read(dir, name):gsub(dir, "DIR")
    end
  end
  return reference
end

local function compare(dir)
  for name, text in pairs(uninterrupted()) do
    local got = read(dir, name):gsub(dir, "DIR"):gsub(" resume=auto", "")
    T.eq(got, text, name)
  end
end

T.test("what a run leaves", function()
  local dir = T.tmpdir() .. "/a"
  local run, calls = recipe(dir, nil, "lr=0.25")
  T.eq(calls, { "sft", "train", "eval" })
  T.ok(run.complete)
  T.eq(sorted(fs.list(dir)), { "checkpoint-000005", "checkpoint-000006", "cmdline.txt",
    "config.lua", "env.json", "last", "metrics", "metrics.jsonl", "report.html", "result.json",
    "samples.jsonl", "sft", "stages.json", "timing.json" })
  T.eq(sorted(fs.list(dir .. "/sft")), { "checkpoint-000004", "checkpoint-000006", "last" })
  T.eq(read(dir, "cmdline.txt"), "mocl demo.lua out=" .. dir .. " lr=0.25\n")
  T.eq(config.load(dir .. "/config.lua"), { device = "cpu", lr = 0.25, seed = 0, steps = 6 })
  local env = json.decode(read(dir, "env.json"))
  T.eq(env.recipe, "demo")
  T.eq(env.seed, 0)
  T.eq(env.device, "cpu")
  T.eq(env.lua, _VERSION)
  T.eq(env.mocl, require("mocl")._VERSION)
  T.eq(env.platform, { blas = "none" })
  T.eq(env.changed.lr, { value = "0.25", default = "0.5" })
  local state = json.decode(read(dir, "last", "state.json"))
  T.eq(state.step, 6)
  T.eq(state.offsets.metrics, #read(dir, "metrics.jsonl"))
  local timing = json.decode(read(dir, "timing.json"))
  T.ok(timing.seconds >= 0 and timing.phases.train >= 0)
  T.eq(json.decode(read(dir, "result.json")).recipe, "demo")
  T.ok(not read(dir, "result.json"):find("seconds"))
end)

T.test("a line of metrics: sorted keys, the stage, null for NaN", function()
  local dir = T.tmpdir() .. "/a"
  recipe(dir)
  local lines = {}
  for line in read(dir, "metrics.jsonl"):gmatch("[^\n]+") do
    lines[#lines + 1] = line
  end
  T.eq(#lines, 12)
  T.eq(lines[2], '{"env/x":2.75,"nan":null,"stage":"sft","step":2}')
  local sample = json.decode(read(dir, "samples.jsonl"):match("^[^\n]*"))
  T.eq(sample.stage, "sft")
  T.eq(#sample.rewards, 2)
end)

T.test("the directory is free whatever of closing fails, or where nothing closes the run", function()
  local function open(dir)
    local cfg, info = options("out=" .. dir)
    local run = Run.open { recipe = "demo", cfg = cfg, info = info }
    T.ok(exists(dir, "lock"))
    return run
  end
  local dir = T.tmpdir()
  local run = open(dir .. "/a")
  run.files.metrics = { close = function() error "not enough memory" end }
  T.raises("not enough memory", run.close, run)
  T.ok(not exists(dir .. "/a", "lock"))
  run = open(dir .. "/b")
  setmetatable(run, nil) -- as where its metamethods cannot be called, for want of memory
  run = nil
  collectgarbage()
  T.ok(not exists(dir .. "/b", "lock"))
end)

T.test("stopped anywhere and continued: the same bytes", function()
  local stops = { { "sft", 1 }, { "sft", 2 }, { "sft", 5 }, { "sft/write", 4 }, { "train", 1 },
    { "train", 4 }, { "train/write", 3 }, { "train/written", 6 }, { "eval", 0 } }
  for _, stop in ipairs(stops) do
    local dir = T.tmpdir() .. "/a"
    T.raises("^interrupted!$", recipe, dir, stop)
    T.ok(not exists(dir, "result.json"))
    T.ok(not exists(dir, "lock"), "the lock is free after an error")
    local run = recipe(dir, nil, "resume=auto")
    T.ok(run.complete and run.resumed)
    compare(dir)
  end
end)

T.test("stopped twice, and killed in the middle of writes", function()
  local dir = T.tmpdir() .. "/a"
  T.raises("interrupted", recipe, dir, { "sft", 5 })
  T.raises("interrupted", recipe, dir, { "train", 5 }, "resume=auto")
  -- what a killed process leaves: half a line, temporary files, a lock nobody holds
  local f = assert(io.open(dir .. "/metrics.jsonl", "ab"))
  f:write('{"env/x":1.')
  f:close()
  assert(fs.mkdir(dir .. "/.checkpoint-000005.tmp"))
  write(dir .. "/.checkpoint-000005.tmp/weights", "x")
  write(dir .. "/.mocl-1-1.tmp", "x")
  write(dir .. "/sft/.mocl-1-2.tmp", "x")
  write(dir .. "/lock", "999999999 1\n")
  local run, calls = recipe(dir, nil, "resume=auto")
  T.ok(run.complete)
  T.eq(calls, { "train", "eval" })
  compare(dir)
  T.ok(not exists(dir, ".checkpoint-000005.tmp"))
  T.ok(not exists(dir, ".mocl-1-1.tmp"))
  T.ok(not exists(dir, "sft/.mocl-1-2.tmp"))
end)

T.test("a directory that cannot be read is not taken for one without checkpoints", function()
  T.eq(checkpoint.newest(T.tmpdir() .. "/missing"), nil)
  T.raises("File name too long", checkpoint.newest, T.tmpdir() .. "/" .. ("x"):rep(300))
  local dir, list = T.tmpdir() .. "/a", fs.list
  T.raises("interrupted", recipe, dir, { "train", 5 })
  fs.list = function(path)
    if path == dir then
      return nil, path .. ": Cannot allocate memory"
    end
    return list(path)
  end
  local ok, err = pcall(recipe, dir, nil, "resume=auto")
  fs.list = list
  T.ok(not ok and err:find("a: Cannot allocate memory", 1, true), err)
  recipe(dir, nil, "resume=auto")
  compare(dir)
end)

T.test("a checkpoint that is not what was written is refused; without it the run goes on from the one before", function()
  local dir = T.tmpdir() .. "/a"
  T.raises("interrupted", recipe, dir, { "train", 5 })
  local path = fs.join(dir, "checkpoint-000004")
  T.eq(checkpoint.newest(dir), path)
  local whole = read(path, "state.json")
  local function told(text)
    local ok, e = pcall(recipe, dir, nil, "resume=auto")
    T.ok(not ok)
    T.ok(e:find(text, 1, true), e)
    T.ok(e:find("this checkpoint is damaged: delete " .. path .. " to go on from the one before it", 1, true), e)
  end
  write(path .. "/state.json", '{"step": 4, "off')
  told("state.json: is not the file that was written (sha256 ")
  write(path .. "/state.json", whole)
  write(path .. "/weights", "7")
  told("weights: is not the file that was written (sha256 ")
  assert(fs.remove(path .. "/weights"))
  told("weights: No such file or directory")
  local sums = read(path, "SHA256SUMS")
  for _, text in ipairs { "", "\n", sums:sub(1, -2), sums .. "x\n", sums:gsub("  ", " "), sums .. sums, sums:gsub("weights", "../weights"),
    sums:gsub("weights", "/weights"), sums:gsub("weights", "weights\0"), (sums:gsub("weights", ("w"):rep(256))) } do
    write(path .. "/SHA256SUMS", text)
    told("SHA256SUMS: is not a list of hashes")
  end
  assert(fs.remove(path .. "/SHA256SUMS"))
  told("SHA256SUMS: No such file or directory")
  assert(fs.remove_tree(path))
  local newest, state = checkpoint.newest(dir)
  T.eq(newest, fs.join(dir, "checkpoint-000003"))
  T.eq(state.step, 3)
  recipe(dir, nil, "resume=auto")
  compare(dir)
end)

T.test("on a complete run nothing runs, and volatile options may differ", function()
  local dir = T.tmpdir() .. "/a"
  recipe(dir)
  for _, more in ipairs { "threads=2", "resume=auto", "quiet=true", "keep=5" } do
    local run, calls = recipe(dir, nil, more)
    T.ok(run.complete)
    T.eq(calls, {})
    T.eq(run.result.x, json.decode(read(dir, "result.json")).x)
  end
end)

T.test("other options are refused with the difference", function()
  local dir = T.tmpdir() .. "/a"
  recipe(dir)
  local ok, e = pcall(recipe, dir, nil, "lr=0.25", "seed=2", "resume=auto")
  T.ok(not ok)
  T.eq(e, dir .. " holds a run with other options:\n  lr: 0.5 there, 0.25 now\n"
    .. "  seed: 0 there, 2 now\nchoose another directory with out=, or delete it")
  dir = T.tmpdir() .. "/b"
  T.raises("interrupted", recipe, dir, { "sft", 2 })
  T.raises("lr: 0.5 there, 0.25 now", recipe, dir, nil, "lr=0.25", "resume=auto")
  T.raises("^interrupted!$", recipe, dir, { "sft", 3 }, "resume=auto")
  local cfg = options("lr=0.25", "resume=auto", "out=" .. dir)
  local run <close> = Run.open { recipe = "demo", cfg = cfg, volatile_keys = { "lr" } }
  T.ok(run.resumed)
end)

T.test("an interrupted run wants resume=auto", function()
  local dir = T.tmpdir() .. "/a"
  T.raises("interrupted!", recipe, dir, { "sft", 2 })
  local ok, e = pcall(recipe, dir)
  T.ok(not ok)
  T.eq(e, dir
    .. " holds an interrupted run: continue it with resume=auto, or choose another out=")
end)

T.test("resume=auto on nothing starts, resume=DIR wants a run", function()
  local dir = T.tmpdir() .. "/a"
  local run = recipe(dir, nil, "resume=auto")
  T.ok(run.complete and not run.resumed)
  compare(dir)
  local other = T.tmpdir() .. "/b"
  T.raises("interrupted!", recipe, other, { "train", 2 })
  local cfg, info = options("resume=" .. other .. "/")
  local again <close> = Run.open { recipe = "demo", cfg = cfg, info = info }
  T.eq(again.out, other)
  T.ok(again.resumed)
  T.raises("nowhere holds no run to continue$", Run.open,
    { recipe = "demo", cfg = options("resume=/nowhere") })
  T.raises("resume=/a and out=/b name two directories", Run.open,
    { recipe = "demo", cfg = options("resume=/a", "out=/b") })
end)

T.test("directories that are not this recipe's", function()
  local dir = T.tmpdir()
  write(dir .. "/notes.txt", "mine") -- a log that the shell opened is no obstacle
  recipe(dir)
  T.eq(read(dir, "notes.txt"), "mine")
  T.raises("holds a run of demo, not of other: choose another out=, or delete it$", Run.open,
    { recipe = "other", cfg = options("out=" .. dir) })
  assert(fs.remove(dir .. "/config.lua"))
  T.raises("holds parts of a run %(.*%) but no config.lua: choose another out=, or delete it$",
    recipe, dir)
end)

T.test("two processes do not write one directory", function()
  local stat = io.open("/proc/1/stat", "rb")
  if not stat then
    T.skip("no /proc/1/stat")
  end
  local rest = stat:read("a"):match("^1 .*%) (.*)$")
  stat:close()
  local fields = {}
  for field in rest:gmatch("%S+") do
    fields[#fields + 1] = field
  end
  local dir = T.tmpdir()
  write(dir .. "/lock", "1 " .. fields[20] .. "\n") -- process 1 surely lives
  T.raises(": in use by process 1$", recipe, dir, nil, "resume=auto")
  write(dir .. "/lock", "1 12345678901\n") -- another process had this number
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir) }
  T.ok(exists(dir, "lock"))
  run:close()
  T.ok(not exists(dir, "lock"))
  run:close()
end)

T.test("a process that has ended and whose parent does not ask about it holds no directory", function()
  local dir = T.tmpdir()
  -- the program that the shell becomes knows nothing of the child; the child writes what /proc says of it and ends
  local sleeper = io.popen(("cat /proc/self/stat > %s/stat & exec sleep 2"):format(dir))
  local before = os.time()
  local pid, rest
  repeat
    pid, rest = (io.open(dir .. "/stat", "rb") or io.tmpfile()):read("a"):match "^(%d+) .*%) (.-)\n"
    local now = pid and io.open("/proc/" .. pid .. "/stat", "rb")
    local state = now and now:read("a"):match "%) (%a)"
  until state == "Z" or os.time() > before + 1
  if not pid then
    T.skip "no /proc"
  end
  local fields = {}
  for field in rest:gmatch "%S+" do
    fields[#fields + 1] = field
  end
  write(dir .. "/lock", pid .. " " .. fields[20] .. "\n")
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir), resume = "auto" }
  T.ok(exists(dir, "lock"))
  run:close()
  sleeper:close()
end)

T.test("killed at any moment in its own directory, with the link to the newest run", function()
  local exe = fs.exists("/proc/self/exe") and fs.realpath("/proc/self/exe")
  if not exe or not exe:find("mocl[^/]*$") then
    T.skip("this interpreter is not mocl")
  end
  local home = T.tmpdir()
  write(home .. "/demo.lua", [[
    local config, report, Run = require "mocl.run.config", require "mocl.report", require "mocl.run"
    local kill = os.getenv("KILL_AT")
    local cfg, info = config.parse(config.common {}, arg, { recipe = "demo" })
    local run <close> = Run.open { recipe = "demo", cfg = cfg, info = info, main = "train" }
    run:stage("train", function(stage)
      local _, state = stage:latest()
      for step = state and state.step + 1 or 1, 4 do
        stage:metrics { step = step }
        stage:checkpoint(step, function(dir)
          local f <close> = assert(io.open(dir .. "/w", "wb"))
          f:write(step)
          if kill == tostring(step) then
            f:flush()
            os.execute("kill -9 $PPID")
          end
        end)
      end
    end)
    run:finish({ recipe = "demo" }, nil, report.PAGES)
  ]])
  local function go(kill, args)
    return (os.execute(("cd '%s' && KILL_AT=%s '%s' demo.lua %s >>log 2>&1"):format(home, kill, exe,
      args)))
  end
  T.ok(not go(1, ""))
  T.ok(not go(0, ""), "an interrupted run does not start again")
  T.ok(read(home, "log"):find("runs/demo/default holds an interrupted run", 1, true))
  T.ok(not go(2, "resume=auto"))
  T.ok(not go(4, "resume=auto"))
  local dir = home .. "/runs/demo/default"
  T.ok(exists(dir, "lock") and exists(dir, ".checkpoint-000004.tmp/w"))
  T.ok(go(0, "resume=runs/demo/last"))
  T.eq(fs.readlink(home .. "/runs/demo/last"), "default")
  T.eq(sorted(fs.list(dir)), { "checkpoint-000003", "checkpoint-000004", "cmdline.txt",
    "config.lua", "env.json", "last", "metrics", "metrics.jsonl", "report.html", "result.json",
    "stages.json", "timing.json" })
  T.eq(read(dir, "metrics.jsonl"), '{"stage":"train","step":1}\n{"stage":"train","step":2}\n'
    .. '{"stage":"train","step":3}\n{"stage":"train","step":4}\n')
  T.eq(read(dir, "last", "w"), "4")
  T.ok(go(0, "out=runs/demo/other"))
  T.eq(fs.readlink(home .. "/runs/demo/last"), "other")
end)

T.test("pages are drawn before a run is complete; one that cannot be drawn costs it nothing", function()
  local dir = T.tmpdir() .. "/a"
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir), quiet = true }
  local stderr, said = io.stderr, {}
  io.stderr = { write = function(_, ...) said[#said + 1] = table.concat { ... } end } -- luacheck: ignore
  local ok, err = pcall(run.finish, run, { recipe = "demo", x = 3 }, nil, {
    { "a.txt", function(where, opts)
      return not exists(where, "result.json") and "x is " .. opts.result.x
    end },
    { "none.txt", function() end },
    { "bad.txt", function() error("cannot be drawn", 0) end },
    { "b.txt", function() return "b" end },
  })
  io.stderr = stderr -- luacheck: ignore
  T.ok(ok, err)
  T.eq({ read(dir, "a.txt"), read(dir, "b.txt"), exists(dir, "none.txt"), exists(dir, "bad.txt") }, { "x is 3", "b", false, false })
  T.eq(table.concat(said), dir .. "/bad.txt: cannot be drawn\n")
  T.ok(exists(dir, "result.json") and run.complete)
end)

T.test("a stage runs once and gives what JSON makes of its result", function()
  local dir = T.tmpdir() .. "/a"
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir) }
  local n = 0
  local function f()
    n = n + 1
    return { list = { 1, 2.5 }, name = "x" }
  end
  local first = run:stage("s", f)
  T.eq(first, { list = { 1, 2.5 }, name = "x" })
  T.eq(run:stage("s", f), first)
  T.eq(n, 1)
  T.eq(run:stage("empty", function() end), {})
  T.eq(run:stage("empty", error), {})
  T.eq(run:stage("undefined", function() return { a = 0 / 0, b = { 1, math.huge } } end), { a = json.null, b = { 1, json.null } })
  T.raises("stage: bad name 'a/b'", run.stage, run, "a/b", f)
  T.raises("stage: bad name 'last'", run.stage, run, "last", f)
  T.raises("stage t: stage s2 is still open", function()
    run:stage("s2", function()
      run:stage("t", f)
    end)
  end)
  T.raises("^failed$", run.stage, run, "s3", function() error("failed", 0) end)
  T.raises("metrics: 'x' is a table", run.metrics, run, { x = {} })
end)

T.test("checkpoint.write without keep, without a state", function()
  local base = T.tmpdir() .. "/base"
  local function write(step, state, keep)
    return checkpoint.write(base, step, function(dir)
      return fs.write(dir .. "/x", "text " .. step)
    end, state, keep)
  end
  for step = 1, 4 do -- all stay
    T.eq(write(step), base .. ("/checkpoint-%06d"):format(step))
    local path, state = checkpoint.newest(base)
    T.eq({ path, state.step, state.offsets }, { base .. ("/checkpoint-%06d"):format(step), step, {} })
  end
  T.eq(#checkpoint.entries(base), 5) -- and last
  T.eq(fs.readlink(base .. "/last"), "checkpoint-000004")
  write(4, { mine = 7 }) -- the same step again
  T.eq(select(2, checkpoint.newest(base)).mine, 7)
  for _, bad in ipairs { -1, 1.5, "2", false } do
    T.raises("checkpoint.write: keep = .* is no number of checkpoints", write, 5, nil, bad)
    T.raises("checkpoint.clean: keep = .* is no number of checkpoints", checkpoint.clean, base, bad)
  end
  T.raises("step = 1.5 is no whole number", write, 1.5)
  T.raises("state.step = 6, but the step is 5", write, 5, { step = 6 })
  T.eq(#checkpoint.entries(base), 5) -- nothing was written
  checkpoint.clean(base)
  T.eq(#checkpoint.entries(base), 5)
  write(5, { offsets = { metrics = 3 } }, 2)
  T.eq(checkpoint.entries(base), { "checkpoint-000004", "checkpoint-000005", "last" })
  T.eq(select(2, checkpoint.newest(base)).offsets, { metrics = 3 })
end)

T.test("checkpoints: a failed write leaves the last one, keep is kept", function()
  local dir = T.tmpdir() .. "/a"
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir), keep = 3 }
  local function save(d)
    write(d .. "/w", "1")
  end
  for step = 8, 12 do
    T.eq(run:checkpoint(step, save), fs.join(dir, ("checkpoint-%06d"):format(step)))
  end
  T.ok(not exists(dir, "checkpoint-000009"))
  T.ok(exists(dir, "checkpoint-000010"))
  T.raises("^disk is full$", run.checkpoint, run, 13, function(d)
    save(d)
    error("disk is full", 0)
  end)
  T.raises("^w: no space$", run.checkpoint, run, 13, function()
    return nil, "w: no space"
  end)
  T.ok(not exists(dir, ".checkpoint-000013.tmp"))
  local path, state = run:latest()
  T.eq(path, fs.join(dir, "checkpoint-000012"))
  T.eq(state.step, 12)
  T.ok(exists(dir, "checkpoint-000010"))
  -- written again, a checkpoint replaces itself
  run:checkpoint(12, function(d) write(d .. "/w", "2") end, { kl = 0.5 })
  T.eq(read(dir, "last", "w"), "2")
  T.eq(select(2, run:latest()).kl, 0.5)
end)

T.test("rewind cuts the logs back, and says when they are too short", function()
  local dir = T.tmpdir() .. "/a"
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir) }
  run:metrics { step = 1, x = 1 }
  run:checkpoint(1, function() end)
  local text = read(dir, "metrics.jsonl")
  run:metrics { step = 2, x = 2 }
  run:sample { prompt = "p" }
  local _, state = run:latest()
  run:rewind(state)
  T.eq(read(dir, "metrics.jsonl"), text)
  T.eq(read(dir, "samples.jsonl"), "")
  run:metrics { step = 2, x = 3 }
  T.eq(read(dir, "metrics.jsonl"), text .. '{"step":2,"x":3.0}\n')
  run:close()
  write(dir .. "/metrics.jsonl", "")
  T.raises("metrics.jsonl: has 0 bytes, had %d+ at the checkpoint: put it back", run.rewind, run, state)
end)

T.test("a full disk raises with the path", function()
  local full = io.open("/dev/full", "wb")
  if not full then
    T.skip("no /dev/full")
  end
  full:close()
  local dir = T.tmpdir() .. "/a"
  local run <close> = Run.open { recipe = "demo", cfg = options("out=" .. dir) }
  assert(fs.symlink_replace("/dev/full", dir .. "/metrics.jsonl"))
  T.raises("^" .. dir:gsub("%p", "%%%0") .. "/metrics.jsonl: No space left on device", run.metrics,
    run, { step = 1 })
end)

T.test("hashes of inputs, checked when a run is continued", function()
  local dir, data = T.tmpdir() .. "/a", T.tmpdir()
  write(data .. "/abc", "abc")
  assert(fs.mkdir(data .. "/d"))
  write(data .. "/d/empty", "")
  local cfg = options("out=" .. dir, "resume=auto")
  do
    local run <close> = Run.open { recipe = "demo", cfg = cfg }
    run:hash_input(data)
    run:hash_input(data .. "/abc")
  end
  local inputs = json.decode(read(dir, "env.json")).inputs
  T.eq(inputs, {
    [data .. "/abc"] = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    [data .. "/d/empty"] = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
  })
  write(data .. "/abc", "abd")
  local run <close> = Run.open { recipe = "demo", cfg = cfg }
  run:hash_input(data .. "/d")
  T.raises("abc: is not the file this run began with", run.hash_input, run, data .. "/abc")
  T.raises("nofile", run.hash_input, run, data .. "/nofile")
end)

T.test("a directory that is an input: files that are new or gone are told, runs in it are none of it", function()
  local data = T.tmpdir()
  local dir = data .. "/runs/a"
  local cfg = options("out=" .. dir, "resume=auto")
  local function open(path)
    local run <close> = Run.open { recipe = "demo", cfg = cfg }
    run:hash_input(path or data)
    return run
  end
  write(data .. "/one", "1")
  open()
  T.eq(open(data .. "/").env.inputs, { [data .. "/one"] = assert(fs.sha256(data .. "/one")) })
  write(data .. "/ahead", "2")
  T.raises("/ahead: was not there when this run began: put it back as it was, or start again with another out=$", open)
  assert(fs.remove(data .. "/ahead"))
  assert(fs.remove(data .. "/one"))
  write(data .. "/two", "1")
  T.raises("/one: is gone; this run began with it %(sha256 %x+%): put it back", open)
  -- of a complete run it is a line of text
  write(data .. "/one", "1")
  assert(fs.remove(data .. "/two"))
  local run = open()
  T.eq(run:changed_input(), nil)
  write(data .. "/one", "3")
  T.ok(run:changed_input():find("^" .. data .. "/one: is not the file this run began with %(sha256 %x+, was %x+%)$"))
end)

T.test("a bar on a terminal rewrites its line", function()
  local out, time = {}, 0
  local bar = progress.new { label = "moc", total = 4, terminal = true, columns = function() return 80 end,
    write = function(s) out[#out + 1] = s end, now = function() return time end }
  for step = 1, 4 do
    time = time + 30
    bar:update(step, "kl " .. step)
    bar:update(step, "too soon") -- within a tenth of a second
  end
  bar:done()
  bar:done()
  T.eq(out[1], "\rmoc [#####---------------] 1/4 0:30 eta 1:30 kl 1\27[K")
  T.eq(out[2], "\rmoc [##########----------] 2/4 1:00 eta 1:00 kl 2\27[K")
  T.eq(out[#out], "\n")
  for _, s in ipairs(out) do
    T.ok(#s < 90)
  end
end)

T.test("a bar is as wide as its terminal, also when that is resized", function()
  local out, time, columns = {}, 0, 120
  local bar = progress.new { label = "moc", total = 10, terminal = true, columns = function() return columns end,
    write = function(s) out[#out + 1] = s end, now = function() return time end }
  local function drawn(step)
    time = time + 1
    bar:update(step, ("é"):rep(300))
    return utf8.len(out[#out]:match "^\r(.*)\27%[K$")
  end
  T.eq(drawn(1), 119)
  columns = 200
  T.eq(drawn(2), 199)
  columns = 30
  T.eq(drawn(3), 29)
  columns = 1
  T.eq(drawn(4), 1)
end)

T.test("a bar elsewhere writes few lines", function()
  local out, time = {}, 0
  local function bar(total, start)
    out = {}
    return progress.new { label = "moc", total = total, start = start, terminal = false,
      write = function(s) out[#out + 1] = s end, now = function() return time end }
  end
  local b = bar(1000)
  for step = 1, 1000 do
    b:update(step, "x")
  end
  b:done()
  T.eq(#out, 11)
  T.eq(out[1], "moc 1/1000 0:00 eta 0:00 x\n")
  b = bar(1000)
  for step = 1, 20 do -- slow steps: a line every ten seconds
    time = time + 5
    b:update(step)
  end
  T.eq(#out, 10)
  b = bar(10, 5) -- continued: the steps before do not count for the speed
  time = time + 3700
  b:update(6)
  b:done("stopped\nhere")
  T.eq(out[1], "moc 6/10 1:01:40 eta 4:06:40\n")
  T.eq(out[2], "moc 6/10 1:01:40 eta 4:06:40 stopped here\n")
  local quiet = progress.new { total = 2, quiet = true, write = error }
  quiet:update(1)
  quiet:done()
end)
