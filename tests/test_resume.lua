-- what may change when a run is continued (mocl.run.options, Run.open{depends=}), and where its stages go on

local T = require "t"
local checkpoint = require "mocl.run.checkpoint"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local Run = require "mocl.run"
local run_options = require "mocl.run.options"

local schema = config.common { { "base.lr", 0.5, "" }, { "base.steps", 4, "" }, { "reward.lr", 0.5, "" }, { "moc.lr", 0.5, "" },
  { "file", "", "" } }
local DEPENDS = { base = { "base" }, ["reward-*"] = { "reward" }, moc = { "moc", "file" } }

-- Three stages, each of which says with which options it ran; stop raises in that stage, "moc/1" after a checkpoint.
local function run(dir, stop, ...)
  local cfg, info = config.parse(schema, { [0] = "demo.lua", "out=" .. dir, ... }, { recipe = "demo" })
  local r <close> = Run.open { recipe = "demo", cfg = cfg, info = info, main = "moc", depends = DEPENDS }
  if cfg.file ~= "" then
    r:hash_input(cfg.file, "file")
  end
  for _, name in ipairs { "base", "reward-a", "moc" } do
    r:stage(name, function(stage)
      if stop == name then
        error("stopped", 0)
      elseif stop == name .. "/1" then
        stage:checkpoint(1, function() end, {})
        error("stopped", 0)
      end
      return { base = cfg.base.lr, reward = cfg.reward.lr, moc = cfg.moc.lr }
    end)
  end
  r:finish { recipe = "demo" }
  return r
end

T.test("an option may change until a stage that depends on it has left something", function()
  local function told(stop, option, text)
    local dir = T.tmpdir() .. "/run"
    T.raises("^stopped$", run, dir, stop)
    local ok, got = pcall(run, dir, nil, "resume=auto", option)
    if not text then
      T.ok(ok, got)
      local key = option:match "^%a+"
      T.eq(got.stages.moc.result[key], 0.25)
      T.eq(assert(config.load(dir .. "/config.lua"))[key].lr, 0.25, "config.lua repeats the run")
      T.ok(assert(fs.read(dir .. "/cmdline.txt")):find(option, 1, true))
      return
    end
    T.ok(not ok and got:find(text, 1, true), got)
  end
  told("base", "base.lr=0.25")
  told("base", "moc.lr=0.25")
  told("reward-a", "base.lr=0.25", "base.lr: 0.5 there, 0.25 now (stage 'base' is finished with it)")
  told("reward-a", "reward.lr=0.25")
  told("moc", "reward.lr=0.25", "reward.lr: 0.5 there, 0.25 now (stage 'reward-a' is finished with it)")
  told("moc", "moc.lr=0.25")
  told("moc/1", "moc.lr=0.25", "moc.lr: 0.5 there, 0.25 now (stage 'moc' has checkpoints with it)")
  told("base", "seed=7", "seed: 0 there, 7 now\n")
end)

T.test("a complete run has the options that it has", function()
  local dir = T.tmpdir() .. "/run"
  run(dir)
  T.raises("moc.lr: 0.5 there, 0.25 now", run, dir, nil, "moc.lr=0.25", "resume=auto")
end)

T.test("an input that an option names may change: the stages that depend on the option run again", function()
  local path, other = T.tmpdir() .. "/a", T.tmpdir() .. "/b"
  assert(fs.write(other, "2"))
  for _, stop in ipairs { "moc", "moc/1" } do
    local dir = T.tmpdir() .. "/run"
    assert(fs.write(path, "1"))
    T.raises("^stopped$", run, dir, stop, "file=" .. path)
    assert(fs.write(path, "3"))
    local r = run(dir, nil, "resume=auto", "file=" .. path)
    T.eq(r.env.inputs, { [path] = assert(fs.sha256(path)) })
    T.eq(fs.exists(dir .. "/checkpoint-000001"), nil)
  end
  local dir = T.tmpdir() .. "/run"
  T.raises("^stopped$", run, dir, "moc", "file=" .. path)
  T.eq(run(dir, nil, "resume=auto", "file=" .. other).env.inputs, { [other] = assert(fs.sha256(other)) })
end)

T.test("redo=STAGE runs that stage and the later ones again, with the options that are given now", function()
  local function told(stop, redo, ran, ...)
    local dir = T.tmpdir() .. "/run"
    if stop then
      T.raises("^stopped$", run, dir, stop)
    else
      run(dir)
    end
    local r = run(dir, nil, "resume=auto", "redo=" .. redo, "base.lr=0.25", "reward.lr=0.25", "moc.lr=0.25", ...)
    local got = {}
    for name, stage in pairs(r.stages) do
      got[name] = stage.result.moc == 0.25
    end
    T.eq(got, ran)
    T.eq(fs.exists(dir .. "/checkpoint-000001"), nil)
    T.ok(r.complete)
  end
  local all = { base = true, ["reward-a"] = true, moc = true }
  told("moc/1", "base", all)
  told(nil, "base", all) -- of a complete run too
  local dir = T.tmpdir() .. "/run"
  T.raises("^stopped$", run, dir, "moc/1")
  T.raises("choose another directory with out=, or delete it; or run stage 'reward%-a' and what follows it again: resume=auto redo=reward%-a$",
    run, dir, nil, "resume=auto", "moc.lr=0.25", "reward.lr=0.25")
  T.raises("with other options.*or delete it$", run, dir, nil, "resume=auto", "moc.lr=0.25", "seed=3")
  T.raises("base.lr: 0.5 there, 0.25 now %(stage 'base' is finished with it%)", run, dir, nil, "resume=auto", "redo=moc", "base.lr=0.25")
  T.raises("redo=mok: .* has no such stage; it has base, reward%-a, moc$", run, dir, nil, "resume=auto", "redo=mok")
  T.raises("redo=moc goes with resume=auto", run, dir, nil, "redo=moc")
  T.eq(fs.exists(dir .. "/checkpoint-000001"), "directory", "nothing was taken away")
  local r = run(dir, nil, "resume=auto", "redo=moc", "moc.lr=0.25")
  T.eq({ r.stages.base.result.moc, r.stages.moc.result.moc }, { 0.5, 0.25 })
  T.ok(run(T.tmpdir() .. "/run", nil, "resume=auto", "redo=moc").complete, "where nothing is, it starts")
end)

T.test("a run that is stopped while it forgets stages goes on with forgetting them", function()
  local write = fs.write
  for _, at in ipairs { "stages.json", "forgotten.json", "checkpoint", "config.lua" } do
    local dir = T.tmpdir() .. "/run"
    T.raises("^stopped$", run, dir, "moc/1")
    local before = assert(fs.read(dir .. "/stages.json"))
    local remove = checkpoint.remove
    fs.write = function(path, ...)
      if path == dir .. "/" .. at then
        error("killed", 0)
      end
      return write(path, ...)
    end
    checkpoint.remove = function(...)
      if at == "checkpoint" then
        error("killed", 0)
      end
      return remove(...)
    end
    local ok, err = pcall(run, dir, nil, "resume=auto", "redo=base", "moc.lr=0.25")
    fs.write, checkpoint.remove = write, remove
    T.ok(not ok and err:find("killed", 1, true), at .. ": " .. tostring(err))
    local begun = fs.exists(dir .. "/forgotten.json")
    T.eq(assert(fs.read(dir .. "/stages.json")) ~= before, at == "checkpoint" or at == "config.lua", at)
    if at ~= "forgotten.json" then -- stopped before it began, the checkpoint is still there, with the old option
      local r = run(dir, nil, "resume=auto", "moc.lr=0.25")
      T.eq({ r.stages.base.result.moc, r.stages.moc.result.moc }, { 0.25, 0.25 }, at)
      T.eq(fs.exists(dir .. "/checkpoint-000001"), nil, at)
    end
    T.eq(begun, (at == "stages.json" or at == "checkpoint") and "file" or nil, at)
    T.eq(fs.exists(dir .. "/forgotten.json"), nil, at)
  end
end)

T.test("what another run made is no longer said of a stage that ran again", function()
  local dir = T.tmpdir() .. "/run"
  run(dir)
  local env = assert(json.load(dir .. "/env.json"))
  env.from = { run = "/elsewhere", stages = { base = {}, ["reward-a"] = {} } }
  assert(fs.write(dir .. "/env.json", json.encode(env)))
  T.eq(run(dir, nil, "resume=auto", "redo=reward-a").env.from, { run = "/elsewhere", stages = { base = {} } })
  -- listed and not taken: the run was stopped between the two and went on without from=
  env.from = { run = "/elsewhere", stages = { base = {}, moc = {} } }
  assert(fs.write(dir .. "/env.json", json.encode(env)))
  assert(fs.remove(dir .. "/result.json"))
  local stages = assert(json.load(dir .. "/stages.json"))
  stages.moc = nil
  assert(fs.write(dir .. "/stages.json", json.encode(stages)))
  T.eq(run(dir, nil, "resume=auto").env.from, { run = "/elsewhere", stages = { base = {} } })
  T.eq(run(dir, nil, "resume=auto", "redo=base").env.from, nil)
  T.eq(assert(json.load(dir .. "/env.json")).from, nil)
end)

T.test("names of options, groups and stages", function()
  T.ok(run_options.covers({ "ppo" }, "ppo.lr") and run_options.covers({ "ppo.lr" }, "ppo.lr"))
  T.ok(not run_options.covers({ "ppo" }, "ppo_lr") and not run_options.covers({ "ppo.lr" }, "ppo"))
  T.eq(run_options.of(DEPENDS, "reward-humor"), { "reward" })
  T.eq(run_options.of(DEPENDS, "reward"), nil)
  T.eq(run_options.without({ a = 1, b = { c = 2, d = 3 } }, { "a", "b.c", "x.y" }), { b = { d = 3 } })
end)
