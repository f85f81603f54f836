-- weights and rewards as functions of a user's own: where they go, what is refused, and that a run goes on with them

local T = require "t"
local child = require "child"
local Agent = require "mocl.world.agent"
local Control = require "mocl.method.control"
local fs = require "mocl.fs"
local fishwood = require "mocl.world.worlds.fishwood"
local functions = require "mocl.functions"
local hooks = require "mocl.method.hooks"
local json = require "mocl.json"
local tensor = require "mocl.tensor"
local trainer = require "mocl.train.trainer"
local transformer = require "mocl.lm.model"
local world_actor = require "mocl.train.world_actor"

local GRID = { { .2, .8 }, { .5, .5 }, { .9, .1 } }
local PLACES = { 1, 2, 1, 3 }
local PREFS = { GRID[1], GRID[2], GRID[1], GRID[3] }
local RAW = { { 1, 12 }, { 5, 10 }, { 0, 7 }, { 2, 9 } }
local A = {}
for t = 1, 9 do
  A[t] = { math.sin(3 * t), math.cos(5 * t) - .3 }
end

local function batch()
  return transformer.pack({ { 1 }, { 1 }, { 1 }, { 1 } }, { { 1, 2, 3 }, { 4, 5 }, { 6 }, { 7, 8, 9 } })
end

local function new(options, weights)
  local all = { range = false, phi = 0, floor = 0, scale = 1, negative = true, interior = 0, factor = .5 }
  for key, v in pairs(options) do
    all[key] = v
  end
  return Control.new(all, 2, GRID, nil, { weights = weights, total = 10 })
end

local function answers(control)
  control:observe(RAW, PLACES)
  return control:problem(tensor.new(A), batch(), PREFS, PLACES)
end

T.test("weights stand in p's place in v, and p in the constraint's", function()
  local states = {}
  local control = new({ c = "one" }, function(s)
    states[#states + 1] = { s.preference, s.place, s.mean, s.iteration, s.total, #s.means }
    return { s.preference[2], s.preference[1] }
  end)
  local problem = answers(control)
  for i, a in ipairs(problem:answers()) do
    T.eq(a.w, { PREFS[i][2], PREFS[i][1] })
  end
  T.eq(#states, 3, "once for each preference")
  T.eq(states[1], { GRID[1], 1, { .5, 9.5 }, 1, 10, 3 })
  local plain = answers(new {})
  local turned = answers(new({}, function(s) return { s.preference[2], s.preference[1] } end))
  T.eq(turned.lists.minus_b, plain.lists.minus_b)
  T.eq(answers(new({}, function() return nil end)):answers(), plain:answers(), "nil is p")
  -- with a solver they are its preference
  local swapped = answers(new({ solver = "mean" }, function(s) return { s.preference[2], s.preference[1] } end))
  T.near(swapped:answers()[1].w, { .8, .2 }, 1e-12)
  local inner = answers(new({ c = "one", interior = .5 }, function() return { 1, 0 } end))
  T.near(inner:answers()[1].w, { .75, .25 }, 1e-12)
end)

T.test("weights that are none are refused with the preference and the iteration", function()
  for _, case in ipairs {
    { { .5, .6 }, "weights: returned {0.5, 0.6}, which sums to 1.1, not 1 (preference {0.2, 0.8}, iteration 1)" },
    { { 1.5, -.5 }, "weights: returned the negative weight -0.5 for objective 2" },
    { { 1 }, "weights: returned 1 numbers, 2 expected" },
    { { 0 / 0, 1 }, "as number 1, a finite number expected" },
    { "x", "weights: returned a string, a list of 2 numbers expected" },
  } do
    T.raises((case[2]:gsub("%p", "%%%0")), function() answers(new({}, function() return case[1] end)) end)
  end
end)

T.test("the state of the weights goes through a checkpoint", function()
  local function weights(s)
    local a = math.min(1, s.iteration / 10 + s.mean[1] / 100)
    return { a, 1 - a }
  end
  local function some(control, n)
    local list = {}
    for k = 1, n do
      list[k] = answers(control):answers()
    end
    return list
  end
  local whole = some(new({}, weights), 6)
  T.ok(T.show(whole[1]) ~= T.show(whole[2]))
  local half = new({}, weights)
  some(half, 3)
  local state = json.decode(json.encode(half:state()))
  local other = new({}, weights)
  other:restore(state)
  T.eq(some(other, 3), { table.unpack(whole, 4) })
  state.step = nil
  T.raises("'step' is no integer", function() new({}, weights):restore(state) end)
  state.step, state.seen = 3, nil
  T.raises("'seen' has no means", function() new({}, weights):restore(state) end)
  T.eq({ new({}):state().step, new({}):state().seen }, {}, "without a hook nothing is kept")
end)

T.test("a hook on rewards gets a copy of each row with its texts", function()
  local seen = {}
  local rows = hooks.rewards(function(row, prompt, response)
    seen[#seen + 1] = { prompt, response }
    row[2] = row[1] >= 1 and row[2] or 0
    return row
  end, RAW, { "a", "b", "c", "d" }, { "e", "f", "g", "h" })
  T.eq(rows, { { 1, 12 }, { 5, 10 }, { 0, 0 }, { 2, 9 } })
  T.eq(RAW[3], { 0, 7 })
  T.eq(seen[2], { "b", "f" })
  for _, case in ipairs { { function() end, "rewards: returned a nil, a list of 2 numbers expected (answer 1, whose rewards are {1, 12})" },
    { function() return { 1, 1 / 0 } end, "as number 2, a finite number expected (answer 1" } } do
    T.raises((case[2]:gsub("%p", "%%%0")), function() hooks.rewards(case[1], RAW) end)
  end
end)

T.test("t:score gives what the hook makes of the rewards, of episodes before the advantages", function()
  local function make(baseline)
    local actor = world_actor.new(Agent.new { world = fishwood.new(), hidden = { 4 }, key = 1 })
    return trainer.new { actor = actor, options = { baseline = baseline, episodes = 2 }, seed = 0, total = 1,
      rewards_hook = function(row) return { row[1], row[1] > 1 and row[2] or 0 } end }
  end
  local t <close> = make "group"
  local b = { returns = RAW }
  T.eq(t:score(b), { { 1, 0 }, { 5, 10 }, { 0, 0 }, { 2, 9 } })
  T.ok(b.raw == b.returns, "the returns that advantages are made of")
  T.raises("take baseline=group", make, "critic")
end)

local function file(text)
  local path = T.tmpdir() .. "/hooks.lua"
  assert(fs.write(path, text))
  return path
end

T.test("a file of hooks is read and tried before anything is trained", function()
  T.eq(hooks.open("", 2, GRID), {})
  local path = file "return { weights = function(s) return { s.mean[1], 1 } end }"
  T.eq(type(hooks.open(path, 2, GRID).weights), "function")
  for _, case in ipairs {
    { "return 1", "returns a number, not a table of functions" },
    { "return { weights = 1 }", "hook 'weights' is a number, not a function" },
    { "return { weigths = print }", "unknown hook 'weigths' (known: rewards, weights)" },
    { "return { weights = function() return { 1, 1 } end }", "which sums to 2, not 1 (preference {0.2, 0.8}, iteration 1); nothing has been trained yet" },
    { "return { weights = function(s) return s.x.y end }", "attempt to index a nil value" },
    { "return { rewards = function() return {} end }", "rewards: returned 0 numbers, 2 expected" },
    { "return {", "unexpected symbol" },
    { "error 'no'", "no" },
  } do
    local bad = file(case[1])
    T.raises((case[2]:gsub("%p", "%%%0")), function() hooks.open(bad, 2, GRID) end)
    T.raises("control%.hooks: ", function() hooks.open(bad, 2, GRID) end)
  end
  T.raises("control%.hooks: .*nowhere", function() Control.check({ hooks = "/nowhere/x.lua" }, 2, GRID) end)
  T.fails("what 'x' is a number", functions.load, file "return { x = 1 }", "what")
end)

T.test("a recipe with hooks: other weights, other rewards, a file that changed", function()
  local words = { "preset=smoke", "quiet=true", "documents=40", "moc.iterations=2", "eval.unseen_answers=0" }
  local plain, dir = T.tmpdir() .. "/plain", T.tmpdir() .. "/run"
  local own = file "return { rewards = function(row) return { row[1], 2 * row[2] + 1 } end, weights = function() return { 0, 1 } end }"
  local _, err, status = child.mocl { "recipes/moc_hh.lua", "out=" .. plain, table.unpack(words) }
  T.eq(status, 0, err)
  _, err, status = child.mocl { "recipes/moc_hh.lua", "out=" .. dir, "control.hooks=" .. own, table.unpack(words) }
  T.eq(status, 0, err)
  T.ok(Control.check({ hooks = "examples/08_hooks.lua" }, 2, GRID).weights, "the example's are taken too")
  local a, b = child.read(plain .. "/metrics.jsonl"), child.read(dir .. "/metrics.jsonl")
  local helpful = '"env/reward_mean/helpful":([^,]*),.-"stage":"moc"'
  T.ok(a:match(helpful) and b:match(helpful) and a:match(helpful) ~= b:match(helpful), "other rewards are trained on")
  local ok = false
  for path in pairs(assert(json.load(dir .. "/env.json")).inputs) do
    ok = ok or path == own
  end
  T.ok(ok, "the file is among the inputs")
  local bad = file "return { weights = function() return { 2, 3 } end }"
  local out = T.tmpdir() .. "/none"
  for _, recipe in ipairs { "moc_hh", "grpo", "fishwood" } do
    local _, err, status = child.mocl { "recipes/" .. recipe .. ".lua", "preset=smoke", "control.hooks=" .. bad, "out=" .. out }
    T.ok(status == 1 and err:find("which sums to 5, not 1", 1, true), err)
    T.eq(fs.exists(out), nil)
  end
end)

T.test("fishwood with hooks: a critic does not see conditions on returns, a group does", function()
  local path = file "return { rewards = function(row) return { row[1], row[1] >= 40 and row[2] or 0 } end }"
  local out = T.tmpdir() .. "/run"
  local words = { "recipes/fishwood.lua", "preset=smoke", "quiet=true", "control.hooks=" .. path, "out=" .. out }
  local _, err, status = child.mocl(words)
  T.ok(status == 1 and err:find("take ppo.baseline=group", 1, true), err)
  T.eq(fs.exists(out), nil)
  words[#words + 1], words[#words + 2] = "ppo.baseline=group", "ppo.episodes=2"
  _, err, status = child.mocl(words)
  T.eq(status, 0, err)
end)
