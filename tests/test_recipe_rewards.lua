-- recipes/moc_hh.lua with rewards and data as people bring them: mistakes that show before anything is trained, rewards
-- that do not vary, that change what they are given, and pairs that say nothing

local T = require "t"
local child = require "child"
local data = require "mocl.data"
local failures = require "failures"
local fs = require "mocl.fs"
local json = require "mocl.json"

-- a Lua file of rewards: name -> body of a function of p, r and the list of scores s
local function rewards_file(bodies, path)
  local parts = { "return {" }
  for name, body in pairs(bodies) do
    parts[#parts + 1] = ("%s = function(p, r) local s = {} for i, x in ipairs(r) do %s end return s end,"):format(name, body)
  end
  parts[#parts + 1] = "}"
  path = path or T.tmpdir() .. "/rewards.lua"
  assert(fs.write(path, table.concat(parts, "\n")))
  return path
end

local function start(dir, ...)
  local list = failures.arguments(dir, true)
  table.insert(list, 1, "recipes/moc_hh.lua")
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return child.mocl(list)
end

local function must(dir, ...)
  local out, err, status = start(dir, ...)
  T.eq(status, 0, out .. err)
  return out, err
end

-- fails without leaving a directory, so that the corrected command can have it; without a traceback
local function refused(text, ...)
  local dir = T.tmpdir() .. "/run"
  local out, err, status = start(dir, ...)
  T.eq(status, 1, out .. err)
  T.ok(err:find(text, 1, true), err)
  T.eq(fs.exists(dir), nil, "no directory is left: " .. text)
  return err
end

local function rows(path)
  return assert(data.read_jsonl(path))
end

local function hh_files(answers)
  local dir = T.tmpdir()
  for _, name in ipairs { "harmless-base", "helpful-base" } do
    local lines = {}
    for i = 1, 60 do
      local at = ("\n\nHuman: %s question %d\n\nAssistant: "):format(name, i)
      local a, b = answers(name, i)
      lines[i] = json.encode { chosen = at .. a, rejected = at .. b }
    end
    assert(fs.write(("%s/%s.test.jsonl"):format(dir, name), table.concat(lines, "\n") .. "\n"))
  end
  return dir
end

T.test("mistakes in data and rewards leave no directory behind", function()
  local four = rewards_file { a = "s[i] = 1", b = "s[i] = 1", c = "s[i] = 1", d = "s[i] = 1" }
  local files = hh_files(function(_, i)
    return "good " .. i, "bad"
  end)
  refused("objectives: there are grids of preferences and tags of at most 3 weights, got 4 (a,b,c,d)", "rewards=" .. four, "objectives=a,b,c,d")
  refused("tags of at most 3 weights, got 4", "rewards=" .. four, "objectives=a,b,c,d", "data=" .. files)
  refused("unknown objective 'lengthy'; known here: humor, helpful, harmless, a, b, c, d", "rewards=" .. four, "objectives=a,lengthy")
  refused("rewards.lua: has no function for humor, helpful (it has a, b, c, d); objectives= names the rewards of a run", "rewards=" .. four)
  local err = refused("rewards: cannot open /nope.lua: No such file or directory", "rewards=/nope.lua", "objectives=a")
  T.ok(not err:find("traceback", 1, true), err)
  refused("rewards: cannot read /tmp: Is a directory", "rewards=/tmp", "objectives=a")
  err = refused("data=/nope: No such file or directory", "data=/nope", "objectives=harmless")
  T.ok(not err:find("traceback", 1, true), err)
  refused("data=" .. four .. ": is a file", "data=" .. four, "objectives=harmless")
  refused("lora.layers=2: the model has model.layers=1", "lora.layers=2")
  local wide = hh_files(function() return "good", "bad" end)
  local helpful = wide .. "/helpful-base.test.jsonl"
  assert(fs.write(helpful, "\xFF\xFE" .. assert(fs.read(helpful)):gsub(".", "%0\0")))
  refused("data=" .. helpful .. ":1: the text is UTF-16, as its byte order mark says; convert it: iconv", "data=" .. wide, "objectives=harmless")
  assert(fs.write(helpful, ""))
  refused("objective 'helpful' has only 0 pairs to train a reward model on and 0 to test it with", "data=" .. wide, "objectives=helpful,harmless")
  must(T.tmpdir() .. "/run", "data=" .. wide, "objectives=harmless") -- the other file is enough for the other objective
end)

T.test("a reward is called on two answers before anything is trained", function()
  local function told(text, body)
    local err = refused(text, "rewards=" .. rewards_file { brief = body }, "objectives=brief,humor")
    T.ok(err:find("found by calling it on two answers before anything is trained", 1, true), err)
  end
  told([[reward 'brief' returned the string "0.5" for answer 1; it must return a number]], [[s[i] = "0.5"]])
  told("reward 'brief' returned nan for answer 2 (\"\")", "s[i] = #x / select(2, x:gsub('%S+', ''))")
  told("reward 'brief' returned 1 values for 2 answers", "s[1] = 1")
  told("attempt to index a nil value (global 'nosuch')", "s[i] = nosuch.x")
  -- not the ones that no objective uses
  must(T.tmpdir() .. "/run", "rewards=" .. rewards_file { brief = "s[i] = -#x", broken = "s[i] = nil" }, "objectives=brief,humor")
end)

T.test("a reward that does not vary is said after the SFT model's answers; its figures are raw", function()
  local dir = T.tmpdir() .. "/run"
  local file = rewards_file { never = "s[i] = 0", seven = "s[i] = -7", brief = "s[i] = -#x" }
  local _, err = must(dir, "rewards=" .. file, "objectives=never,seven,brief", "quiet=false", "eval.unseen_answers=1", "eval.answers=3")
  T.ok(err:find("warning: reward 'never' is 0 for every answer of the SFT model: there is no deviation to normalise by", 1, true), err)
  T.ok(err:find("warning: reward 'seven' is -7 for every answer", 1, true) and not err:find("reward 'brief' is", 1, true), err)
  local result = assert(json.load(dir .. "/result.json"))
  T.eq(result.constant, { "never", "seven" })
  for i, row in ipairs(result.rewards) do
    T.eq({ row[1], row[2] }, { result.rewards_raw[i][1], result.rewards_raw[i][2] })
    T.ok(math.abs(row[3]) < 100)
  end
  T.near({ result.sft.rewards[1], result.sft.rewards[2] }, { 0, -7 }, 1e-9)
  T.ok(result.hypervolume < 100 and result.sft.hypervolume < 100, result.hypervolume)
  for _, h in ipairs { "before", "after" } do -- no answer lies beyond the bins
    for j = 1, 2 do
      T.eq({ result.histograms[h][j].below, result.histograms[h][j].above }, { 0, 0 })
    end
  end
  for _, sample in ipairs(rows(dir .. "/samples.jsonl")) do
    T.eq({ sample.rewards[1], sample.rewards[2] }, { 0, -7 })
  end
  for _, row in ipairs(rows(dir .. "/metrics.jsonl")) do
    T.near({ row["env/reward_mean/never"] or 0, row["env/reward_mean/seven"] or -7 }, { 0, -7 }, 1e-9)
  end
  local page = child.read(dir .. "/report.html")
  T.ok(page:find("never (own unit)", 1, true) and page:find("</html>", 1, true))
  -- one of a size beside which a bin's width is nothing, and a file that has changed under a complete run
  dir = T.tmpdir() .. "/run"
  file = rewards_file { huge = "s[i] = 1e17", brief = "s[i] = -#x" }
  _, err = must(dir, "rewards=" .. file, "objectives=huge,brief")
  T.ok(not err:find("warning", 1, true), err)
  rewards_file({ huge = "s[i] = 1e17", brief = "s[i] = #x" }, file)
  local out
  out, err = must(dir, "rewards=" .. file, "objectives=huge,brief")
  T.ok(out:find("holds this run, complete", 1, true), out)
  T.ok(err:find("warning: " .. file .. ": is not the file this run began with", 1, true), err)
  -- an ordinary run says nothing of the kind
  dir = T.tmpdir() .. "/run"
  _, err = must(dir, "quiet=false", "eval.answers=4")
  T.ok(not err:find("for every answer", 1, true), err)
  T.eq(assert(json.load(dir .. "/result.json")).constant, nil)
end)

T.test("rewards of one's own have no columns under the rule", function()
  local file = rewards_file { brief = "s[i] = -#x", long = "s[i] = #x" }
  local out = must(T.tmpdir() .. "/run", "rewards=" .. file, "objectives=brief,long")
  T.ok(not out:find("(rule)", 1, true) and out:find("malformed", 1, true), out)
  out = must(T.tmpdir() .. "/run", "rewards=" .. file, "objectives=brief,humor")
  T.ok(out:find("humor (rule)", 1, true) and not out:find("brief (rule)", 1, true), out)
end)

T.test("a reward that changes its arguments changes nothing else", function()
  local function samples(body)
    local dir = T.tmpdir() .. "/run"
    must(dir, "rewards=" .. rewards_file { brief = body, long = "s[i] = #x + #p[i]" }, "objectives=brief,long")
    return child.read(dir .. "/samples.jsonl"), child.read(dir .. "/metrics.jsonl")
  end
  local plain, metrics = samples "s[i] = -#x"
  local spoilt, other = samples "s[i] = -#x r[i] = 'changed' p[i] = 'changed'"
  T.eq(spoilt, plain)
  T.eq(other, metrics)
  T.ok(not spoilt:find("changed", 1, true))
end)

T.test("pairs whose answers are the same once they are cut are left out and counted", function()
  local long = ("7 "):rep(300) -- each of them is a token at least
  local dir = hh_files(function(_, i)
    return i % 3 == 0 and long .. "a" or "good " .. i, i % 3 == 0 and long .. "b" or "bad"
  end)
  local run = T.tmpdir() .. "/run"
  local _, err = must(run, "data=" .. dir, "objectives=harmless,helpful", "quiet=false", "model.positions=128")
  local train, test = err:match("reward model 'harmless': (%d+) comparisons to train on and (%d+) held%-out ones are left out")
  T.eq(tonumber(train) + tonumber(test), 20, err)
  T.ok(err:find("reward model 'helpful': ", 1, true), err)
  local held = assert(json.load(run .. "/result.json")).reward_models.harmless
  T.eq(held.n, 6 - tonumber(test))
end)

-- a reward that is right for `calls` calls and then is not
local function breaks_after(calls, wrong)
  return ([[n = (n or 0) + (i == 1 and 1 or 0) s[i] = #x if n > %d then %s end]]):format(calls, wrong)
end

T.test("a corrected file of rewards goes on from the stages in which it was not used", function()
  local right = "s[i] = #x"
  local file = rewards_file { brief = right }
  local fresh = T.tmpdir() .. "/run"
  must(fresh, "rewards=" .. file, "objectives=brief,humor")
  -- calls: one before the training, 3 + 1 batches of the SFT model's answers, one an iteration, one at the end
  for calls, dropped in pairs { [3] = false, [5] = "sft-answers", [6] = "sft-answers, moc", [7] = "sft-answers, moc" } do
    local dir = T.tmpdir() .. "/run"
    rewards_file({ brief = breaks_after(calls, "s[i] = 0 / 0") }, file)
    local out, err, status = start(dir, "rewards=" .. file, "objectives=brief,humor")
    T.eq(status, 1, out .. err)
    T.ok(err:find("reward 'brief' returned nan for answer 1", 1, true), err)
    T.ok(err:find("\nonce the reward is right, continue with resume=auto\n", 1, true), err)
    local before = {}
    for _, name in ipairs { "tokenizer.json", "base/model.safetensors", "sft/model.safetensors", "reward-humor/model.safetensors" } do
      before[name] = io.popen(("stat -c '%%i %%y' '%s/%s'"):format(dir, name)):read("a")
    end
    rewards_file({ brief = right }, file)
    local _, told_err = must(dir, "rewards=" .. file, "objectives=brief,humor")
    for name, stat in pairs(before) do
      T.eq(io.popen(("stat -c '%%i %%y' '%s/%s'"):format(dir, name)):read("a"), stat, name .. " is kept")
    end
    local told = told_err:match("rewards.lua has changed since this run used it: ([^\n]*)\n")
    T.eq(told, dropped and ((dropped:find(",") and "the stages %s are" or "stage '%s' is"):format(dropped) .. " run again, the others are kept") or nil, err)
    for _, name in ipairs { "result.json", "samples.jsonl", "metrics.jsonl" } do
      T.eq(child.read(dir .. "/" .. name), child.read(fresh .. "/" .. name), name)
    end
    T.eq(assert(json.load(dir .. "/env.json")).inputs[file], assert(fs.sha256(file)))
  end
end)

T.test("data that changed under an interrupted run are refused as before", function()
  local dir = hh_files(function(_, i)
    return "good " .. i, "bad"
  end)
  local run = T.tmpdir() .. "/run"
  local file = rewards_file { brief = breaks_after(5, "error('here')") }
  local _, err, status = start(run, "data=" .. dir, "rewards=" .. file, "objectives=brief,harmless")
  T.ok(status == 1 and err:find("reward 'brief': ", 1, true) and err:find(": here", 1, true), err)
  local path = dir .. "/helpful-base.test.jsonl"
  assert(fs.write(path, assert(fs.read(path)) .. "\n"))
  _, err, status = start(run, "data=" .. dir, "rewards=" .. file, "objectives=brief,harmless")
  T.ok(status == 1 and err:find(path .. ": is not the file this run began with", 1, true), err)
end)
