-- every Lua file of examples/ runs, and shows what it promises

local T = require "t"
local child = require "child"
local metrics = require "mocl.metrics"

local run = {}

run["01_tensor.lua"] = function(out)
  T.ok(out:find("6.0\t9.0\t3.5", 1, true), out)
  T.ok(out:find("matmul: (2,3) x (4,2)", 1, true), out)
  T.near(tonumber(out:match("normal draws: ([%d.]+)")), 4.9, .1) -- 2e6 P(x > 4.89) = 1
end

run["02_regression.lua"] = function(out)
  T.ok(tonumber(out:match("step 400  mean squared error ([%d.]+)")) < .01, out)
  local n = 0
  for got, want in out:gmatch("network +(%-?[%d.]+)  sin%(3 x%) +(%-?[%d.]+)") do
    n = n + 1
    T.near(tonumber(got), tonumber(want), .15)
  end
  T.eq(n, 3)
end

run["03_generate.lua"] = function(out)
  T.ok(tonumber(out:match("trained: loss ([%d.]+)")) < .5, out)
  T.ok(out:find("\n1  the dog dug in the sand\n", 1, true), out)
  T.ok(out:find("\n2  the ", 1, true), out)
end

run["04_rewards.lua"] = function(out)
  T.eq(out, "") -- it only returns its functions
end

run["05_environment.lua"] = function(out)
  local preferences, parcels = {}, {}
  for p1, p2, p3, r1, r2, r3 in out:gmatch("preference ([%d.]+) ([%d.]+) ([%d.]+)   parcels +([%d.]+) +([%d.]+) +([%d.]+)") do
    local p, r = { tonumber(p1), tonumber(p2), tonumber(p3) }, { tonumber(r1), tonumber(r2), tonumber(r3) }
    preferences[#preferences + 1], parcels[#parcels + 1] = p, r
    for j = 1, 3 do
      T.ok(p[j] < 1 or r[j] > 0.9 * 18, "all the time in one town brings 18 parcels")
    end
  end
  T.eq(#parcels, 13)
  T.ok(not out:find "warning", out)
  local tau = metrics.controllability(preferences, parcels).kendall_tau
  T.ok(tau > 0.85, ("tau %.2f"):format(tau))
  T.ok(child.read("runs/05_environment.svg"):find("^<svg xmlns"))
end

run["07_goals.lua"] = function(out)
  local got = {}
  for words, x, y in out:gmatch("([%w%- ]-) +preference [%d.]+ [%d.]+ +fish +([%d.]+) logs +([%d.]+)") do
    local name = words:gsub("^%s+", "")
    got[name] = got[name] or {}
    table.insert(got[name], { tonumber(x), tonumber(y) })
  end
  -- x fish and y logs with x + y / .8 = 10
  T.near(got["weighted sum"], { { 10, 0 } }, .3)
  T.near(got["max-min"], { { 4.44, 4.44 } }, .5)
  T.near(got.threshold, { { 6.25, 3 } }, .5)
  T.ok(got.schedule[1][1] > 9 and got.schedule[2][2] > 6.5, "each end has what its preference asks for")
  T.near(got.hypervolume, { { 3, 5.6 }, { 5, 4 }, { 7, 2.4 } }, .5) -- of x^p y^(1 - p) the greatest
  T.ok(got.condition[1][1] > 4 and got.condition[1][2] > 3, "some fish, without which logs do not count")
end

run["08_hooks.lua"] = function(out)
  T.eq(out, "") -- it only returns its functions
end

-- what an example is called with; its two runs write into one directory after the other
local arguments = {}

arguments["06_method.lua"] = function()
  return { "preset=smoke", "quiet=true", "rewards=examples/04_rewards.lua", "objectives=brief,polite", "mine.iterations=40",
    "mine.beta=0", "ppo.max_new_tokens=8", "eval.answers=64", "eval.unseen_answers=0", "out=" .. T.tmpdir() .. "/run" }
end

-- The smoke model babbles: it learns to babble in shorter tokens, which is what brief pays for. With the sign of the
-- advantage turned its tokens get longer.
run["06_method.lua"] = function(out)
  local sft = tonumber(out:match "\nSFT +[%d.]+ +[%d.]+ +(%-?[%d.]+)")
  local brief = tonumber(out:match "\n1, 0 +[%d.]+ +[%d.]+ +(%-?[%d.]+)")
  T.ok(brief > 0.97 * sft, ("brief %.3f, before %.3f"):format(brief, sft))
end

local list = assert(io.popen("ls examples/*.lua"))
for path in list:lines() do
  local name = path:match("[^/]+$")
  T.test(name, function()
    T.ok(run[name], "a test of what it shows")
    local function start()
      local words = arguments[name] and arguments[name]() or {}
      local out, err, status = child.mocl { path, table.unpack(words) }
      return out:gsub("report: [^\n]*", ""), err, status
    end
    local out, err, status = start()
    T.eq(status, 0, err)
    T.eq(err, "")
    run[name](out)
    T.eq((start()), out, "the same output again")
    local lines = 0
    for _ in child.read(path):gmatch("\n") do
      lines = lines + 1
    end
    T.ok(lines <= 80, lines .. " lines")
  end)
end
list:close()

T.test("03_generate.lua with a model of one's own", function()
  local dir = T.shared("weights/stories260K/hf-derived/config.json"):match("^(.*)/")
  local out, err, status = child.mocl { "examples/03_generate.lua", dir, T.shared("weights/stories260K/tok512.bin") }
  T.eq(status, 0, err)
  T.ok(out:find("5 layers, width 64, 512 tokens", 1, true), out)
end)

T.test("04_rewards.lua in a run", function()
  local out, err, status = child.mocl { "recipes/moc_hh.lua", "rewards=examples/04_rewards.lua", "objectives=brief,polite",
    "preset=smoke", "quiet=true", "documents=40", "moc.iterations=1", "eval.unseen_answers=0", "out=" .. T.tmpdir() .. "/run" }
  T.eq(status, 0, err)
  T.ok(out:find("brief", 1, true) and out:find("polite", 1, true), out)
end)
