-- a run that is stopped in each of its stages, one after the other, by a signal or by a step size with which a number is not
-- finite, ends with the bytes of one that was not; no stage that trains begins again, and no program shows a traceback

local T = require "t"
local run_files = require "run_files"
local child = require "child"
local fs = require "mocl.fs"

local SMALL = { "preset=smoke", "quiet=true", "model.layers=1", "documents=40", "reward.prompts=20", "sft.examples=20", "base.batch_size=4",
  "sft.batch_size=4", "reward.batch_size=4", "ppo.batch_size=8", "eval.answers=2", "eval.unseen_answers=0", "ppo.max_new_tokens=3" }

local function files(dir)
  return run_files(dir, { "config.lua", "adapter_config.json", "SHA256SUMS" }) -- these hold the directory's name
end

-- Code that sends the program a signal: at the start of a stage (step 0) or after a step of it. popen, since os.execute is
-- deaf to SIGINT while it waits. It also says at which step each stage that writes metrics begins.
local HOOK = [[
local Run = require "mocl.run"
local stage, metrics, begun = Run.stage, Run.metrics, {}
local function at(name, step)
  if name == "%s" and step == %d then
    io.popen("kill -%s $PPID"):close()
  end
end
function Run:stage(name, f)
  return stage(self, name, function(...)
    at(name, 0)
    return f(...)
  end)
end
function Run:metrics(row)
  metrics(self, row)
  if not begun[self.stage_name] then
    begun[self.stage_name] = true
    io.stderr:write(("<%%s from %%d>\n"):format(self.stage_name, row.step))
  end
  at(self.stage_name, row.step)
end]]

local function run(recipe, dir, stop, ...)
  local words = { "-e", HOOK:format(stop and stop[1] or "", stop and stop[2] or 0, stop and stop[3] or "0"), "recipes/" .. recipe .. ".lua",
    "out=" .. dir, ... }
  local _, err, status = child.mocl(words)
  T.ok(not err:find("traceback", 1, true), err)
  return err, status
end

local whole
local function uninterrupted()
  if not whole then
    whole = T.tmpdir() .. "/run"
    local err, status = run("moc_hh", whole, nil, table.unpack(SMALL))
    T.eq(status, 0, err)
  end
  return files(whole)
end

T.test("moc_hh stopped in every stage: finished steps are kept, and the bytes are those of an unbroken run", function()
  local dir, last = T.tmpdir() .. "/run", nil
  for _, stop in ipairs {
    { "tokenizer", 0, "INT" }, { "base", 1, "INT" }, { "base", 3, "TERM" }, { "sft", 3, "INT" }, { "reward-humor", 1, "INT" },
    { "reward-helpful", 3, "TERM" }, { "sft-answers", 0, "TERM" }, { "moc", 1, "INT" }, { "evaluation", 0, "INT" }, false,
  } do
    local err, status = run("moc_hh", dir, stop or nil, "resume=auto", table.unpack(SMALL))
    if last and last[2] > 0 then
      T.ok(err:find(("<%s from %d>"):format(last[1], last[2] + 1), 1, true), err)
    end
    if not stop then
      T.eq(status, 0, err)
    else
      local signal = "SIG" .. stop[3]
      T.eq(status, stop[3] == "INT" and 130 or 143, err)
      T.ok(err:find(stop[2] > 0 and ("%s after %s %d; continue with resume=auto"):format(signal, stop[1] == "moc" and "iteration" or "step",
        stop[2]) or ("%s in stage %s; continue with resume=auto"):format(signal, stop[1]), 1, true), err)
      T.eq(fs.exists(dir .. "/lock"), nil)
    end
    last = stop
  end
  T.eq(files(dir), uninterrupted())
end)

T.test("killed while a model trains: it goes on from the last checkpoint, of which there is one every save_every steps", function()
  local dir = T.tmpdir() .. "/run"
  local err, status = run("moc_hh", dir, { "base", 3, "KILL" }, table.unpack(SMALL))
  T.ok(status ~= 0, err)
  T.eq(fs.exists(dir .. "/base/checkpoint-000002"), "directory")
  err, status = run("moc_hh", dir, nil, "resume=auto", "save_every=1", table.unpack(SMALL))
  T.eq(status, 0, err)
  T.ok(err:find("<base from 3>", 1, true), err)
  T.eq(files(dir), uninterrupted())
  for _, name in ipairs { "base", "sft", "reward-humor" } do
    T.eq(fs.exists(dir .. "/" .. name .. "/checkpoint-000004"), nil, "the model takes its place")
    T.eq(fs.readlink(dir .. "/" .. name .. "/last"), nil)
  end
end)

T.test("a checkpoint of a model that trains, damaged", function()
  local dir = T.tmpdir() .. "/run"
  run("moc_hh", dir, { "base", 3, "INT" }, table.unpack(SMALL))
  local path = dir .. "/base/checkpoint-000003/parameters.safetensors"
  local bytes = assert(fs.read(path))
  assert(fs.write(path, bytes:sub(1, -2) .. "x"))
  local err, status = run("moc_hh", dir, nil, "resume=auto", table.unpack(SMALL))
  T.ok(status == 1 and err:find("this checkpoint is damaged: delete " .. dir .. "/base/checkpoint-000003 to go on from the one before it", 1, true), err)
  assert(fs.remove_tree(dir .. "/base/checkpoint-000003"))
  err, status = run("moc_hh", dir, nil, "resume=auto", table.unpack(SMALL))
  T.ok(status == 0 and err:find("<base from 3>", 1, true), err)
  T.eq(files(dir), uninterrupted())
end)

T.test("a step size that is too large stops its stage, and a smaller one goes on", function()
  local dir = T.tmpdir() .. "/run"
  local function told(text, how, ...)
    local err, status = run("moc_hh", dir, nil, "resume=auto", table.unpack(table.move({ ... }, 1, select("#", ...), #SMALL + 1,
      table.move(SMALL, 1, #SMALL, 1, {}))))
    T.eq(status, 1, err)
    T.ok(err:find(text) and err:find(how, 1, true), err)
    T.eq(fs.exists(dir .. "/result.json"), nil)
  end
  local goes_on = "is not finished; with other options continue with resume=auto"
  told("base: step 1: step: weights are not finite after a step of lr = 1e%+38; nothing was changed; lower base.lr, which is 1e%+38\n", goes_on,
    "base.lr=1e38")
  told("base: step 2: .* not finite.*; lower base.lr, which is 1e%+30\n", goes_on, "base.lr=1e30")
  T.eq(fs.exists(dir .. "/base"), nil)
  told("sft: step 2: the loss is not finite %(nan%); lower sft.lr, which is 1e%+10\n", goes_on, "sft.lr=1e10")
  told("reward humor: step 3: .* not finite.*; lower reward.lr, which is 1e%+20\n",
    "stage 'reward-humor' is not finished; its last checkpoint stays; with other options it begins again: resume=auto redo=reward-humor",
    "reward.lr=1e20")
  T.eq(fs.exists(dir .. "/reward-humor/checkpoint-000002"), "directory")
  told("moc: iteration 1: .* not finite.*; lower ppo.lr, which is 1e%+38\n", "stage 'moc' " .. goes_on, "redo=reward-humor", "ppo.lr=1e38")
  local err, status = run("moc_hh", dir, nil, "resume=auto", table.unpack(SMALL))
  T.eq(status, 0, err)
  T.eq(files(dir), uninterrupted())
  for _, recipe in ipairs { "fishwood", "fruit_tree" } do
    dir = T.tmpdir() .. "/run"
    err, status = run(recipe, dir, nil, "preset=smoke", "quiet=true", "ppo.lr=1e38", "ppo.ppo_epochs=4")
    T.ok(status == 1 and err:find("update %d: .*not finite.*; lower ppo.lr, which is 1e%+38\nstage 'moc%-0' is not finished"), err)
    T.eq(fs.exists(dir .. "/checkpoint-000001"), nil)
    err, status = run(recipe, dir, nil, "preset=smoke", "quiet=true", "resume=auto", "ppo.ppo_epochs=4")
    T.eq(status, 0, err)
  end
end)

T.test("fishwood, fruit_tree and the short recipes: no traceback", function()
  for _, recipe in ipairs { "fishwood", "fruit_tree" } do
    local err, status = run(recipe, T.tmpdir() .. "/run", { "evaluation-moc-0", 0, "INT" }, "preset=smoke", "quiet=true")
    T.eq(status, 130, err)
    T.ok(err:find("SIGINT in stage evaluation-moc-0; continue with resume=auto", 1, true), err)
  end
  for _, name in ipairs { "report", "tokenize", "generate" } do
    -- the first thing that each of them does is to read its options
    local _, err, status = child.mocl { "-e", [[local config = require "mocl.run.config" function config.parse() io.popen("kill -INT $PPID"):close() end]],
      "recipes/" .. name .. ".lua" }
    T.eq({ status, err:match "[^/]*$" }, { 130, "mocl: interrupted!\n" })
  end
end)
