--- known_run: runs of the recipes on the files of tiny.known, whose answer is known.

local T = require "t"
local child = require "child"
local json = require "mocl.json"
local run_files = require "run_files"
local tiny = require "tiny"

local known_run = {}

-- Options of a run that learns, and of one that goes through all stages in a moment.
local LEARN = { "quiet=true", "objectives=a,b", "ppo.max_new_tokens=" .. tiny.ANSWER, "lora.layers=0", "eval.answers=64",
  "eval.unseen_answers=0" }
local PPO = { "ppo.batch_size=88", "ppo.warmup=0", "ppo.lr=0.01" }
local SUPERVISED = { ric = true, metaaligner = true } -- recipes that have no such options
local SMOKE = { "preset=smoke", "quiet=true", "objectives=a,b", "lora.layers=0", "eval.answers=8", "eval.unseen_answers=0" }

local function arguments(recipe, dir, files, ...)
  local words = { "recipes/" .. recipe .. ".lua", "out=" .. dir, "init=" .. files, "prompts=" .. files .. "/prompts.txt",
    "rewards=" .. files .. "/rewards.lua" }
  for _, list in ipairs { ... } do
    table.move(list, 1, #list, #words + 1, words)
  end
  return words
end

local function run(...)
  local out, err, status = child.mocl(arguments(...))
  return out .. err, status
end

--- files(o) -> directory with the files of tiny.known.
function known_run.files(o)
  local files = T.tmpdir()
  tiny.known(files, o)
  return files
end

--- learn(recipe, files, ...) -> result.json, directory: a run with the options, which must end well.
function known_run.learn(recipe, files, ...)
  local dir = T.tmpdir() .. "/run"
  local said, status = run(recipe, dir, files, LEARN, SUPERVISED[recipe] and {} or PPO, { ... })
  T.eq(status, 0, said)
  return assert(json.load(dir .. "/result.json")), dir
end

--- shares(result) -> list: the share of `a` among the paid tokens for each preference.
function known_run.shares(result)
  local list = {}
  for i, row in ipairs(result.rewards_raw) do
    list[i] = row[1] + row[2] > 0 and row[1] / (row[1] + row[2]) or 0.5
  end
  return list
end

--- smoke(recipe, dir, files, ...) -> what it said, exit status.
function known_run.smoke(recipe, dir, files, ...)
  return run(recipe, dir, files, SMOKE, { ... })
end

--- refused(recipe, files, cases): each option of {option, text} ends the recipe with the text, before there is a run directory.
function known_run.refused(recipe, files, cases)
  for _, case in ipairs(cases) do
    local dir = T.tmpdir() .. "/run"
    local said, status = known_run.smoke(recipe, dir, files, case[1])
    T.ok(status ~= 0 and said:find(case[2], 1, true), said)
    T.ok(not io.open(dir .. "/config.lua"), case[1])
  end
end

--- same_after_redo(recipe, files, last, ...): a run whose stages from `last` on are done again ends with the same bytes.
function known_run.same_after_redo(recipe, files, last, ...)
  local dir = T.tmpdir() .. "/run"
  local said, status = known_run.smoke(recipe, dir, files, ...)
  T.eq(status, 0, said)
  local before = child.read(dir .. "/result.json")
  said, status = run(recipe, dir, files, SMOKE, { "resume=auto", "redo=" .. last }, { ... })
  T.eq(status, 0, said)
  T.ok(child.read(dir .. "/result.json") == before, recipe)
end

--- same_after_kill(recipe, files, stage, step, ...): a run that is killed behind that step of the stage and goes on from the checkpoint
-- before it leaves the files of one that was not.
function known_run.same_after_kill(recipe, files, stage, step, ...)
  local whole, dir, without = T.tmpdir() .. "/run", T.tmpdir() .. "/run", { "config.lua", "SHA256SUMS", "log" }
  local said, status = known_run.smoke(recipe, whole, files, ...)
  T.eq(status, 0, said)
  said, status = child.interrupted(arguments(recipe, dir, files, SMOKE, { ... }), ('"stage":"%s","step":%d'):format(stage, step),
    { file = dir .. "/metrics.jsonl", signal = "KILL" })
  T.eq(status, 137, said)
  said, status = run(recipe, dir, files, SMOKE, { "resume=auto" }, { ... })
  T.eq(status, 0, said)
  T.eq(run_files(dir, without), run_files(whole, without))
end

return known_run
