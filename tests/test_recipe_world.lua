-- recipes/fishwood.lua and recipes/fruit_tree.lua as a user runs them, at the size of preset=smoke

local T = require "t"
local child = require "child"
local fishwood = require "mocl.world.worlds.fishwood"
local fruit_tree = require "mocl.world.worlds.fruit_tree"
local fs = require "mocl.fs"
local json = require "mocl.json"
local run_files = require "run_files"

local function run(recipe, ...)
  return child.mocl { "recipes/" .. recipe .. ".lua", ... }
end

local function must(recipe, ...)
  local out, err, status = run(recipe, ...)
  T.eq(status, 0, err)
  return out
end

local made = {}
local function smoke(recipe)
  if not made[recipe] then
    local dir = T.tmpdir() .. "/run"
    made[recipe] = { dir = dir, out = must(recipe, "preset=smoke", "seeds=2", "quiet=true", "out=" .. dir) }
    made[recipe].result = assert(json.load(dir .. "/result.json"))
  end
  return made[recipe]
end

local function files(dir)
  return run_files(dir, { "config.lua" })
end

T.test("fishwood: result.json, the table, the report", function()
  local r = smoke "fishwood"
  local x = r.result
  T.eq({ x.recipe, x.method, x.seed, x.objectives, x.training_samples }, { "fishwood", "moc", 0, { "wood", "fish" }, 3600 })
  T.eq({ #x.preferences, #x.rewards, #x.rewards_sampled, #x.rewards_std }, { 9, 9, 9, 9 })
  T.eq({ x.preferences[1], x.preferences[9] }, { { 0.1, 0.9 }, { 0.9, 0.1 } })
  for _, part in ipairs { x, x.linear_ppo } do
    for k, row in ipairs(part.rewards) do
      T.near(row[1] + row[2], 100, 1e-9, "on the front, as every policy")
      T.ok(math.abs(part.rewards_sampled[k][1] - row[1]) < 40)
    end
    T.ok(part.share_error.max >= part.share_error.mean and part.share_error.mean > 0)
    T.eq({ type(part.monotone), part.reference_point, #part.unseen.groups[1].rewards }, { "boolean", { 0, 0 }, 8 })
    T.ok(math.abs(part.kendall_tau) <= 1 and part.hypervolume > 0)
    T.ok(part.c.mean >= 0 and part.c.mean <= 1)
  end
  T.eq(x.linear_ppo.c, { mean = 1.0, one = 1.0, zero = 0, indicator = x.linear_ppo.c.indicator, negative_w = 0 })
  T.ok(x.c.mean < 1)
  T.eq({ #x.seeds, x.seeds[1].seed, x.seeds[2].seed }, { 2, 0, 1 })
  T.eq(x.seeds[1].moc.rewards, x.rewards)
  T.ok(T.show(x.seeds[2].moc.rewards) ~= T.show(x.rewards), "another seed, another policy")
  T.eq(x.true_front, fishwood.front())
  T.ok(r.out:find("seed 1  share error: MOC ", 1, true) and r.out:find("report: " .. r.dir .. "/report.html", 1, true), r.out)
  local html = child.read(r.dir .. "/report.html")
  T.ok(html:find("Known front", 1, true) and html:find("stroke-dasharray=\"5 4\"", 1, true) and html:find("</html>", 1, true))
  local timing = assert(json.load(r.dir .. "/timing.json"))
  T.ok(timing.steps_per_second > 0 and timing.phases["moc-1"] and timing.peak_bytes > 0)
end)

T.test("fruit_tree: result.json, the table, the report", function()
  local r = smoke "fruit_tree"
  local x = r.result
  T.eq({ x.recipe, #x.objectives, x.training_samples, x.reference_point }, { "fruit_tree", 6, 3200, { 0, 0, 0, 0, 0, 0 } })
  T.near(x.front_hypervolume, 8808.4187, 1e-6)
  for _, part in ipairs { x, x.linear_ppo } do
    local h = part.hypervolume
    T.eq({ h.n, h.reference, h.episodes, part.large.hypervolume.n }, { 20, 0, 10, 30 })
    T.ok(h.greedy > 0 and h.greedy <= x.front_hypervolume and h.expected > 0 and h.sampled > 0)
    T.ok(math.type(part.greedy_leaves) == "integer" and part.greedy_leaves >= 1 and part.greedy_leaves <= 20)
    T.ok(part.mean_cosine > 0.5 and part.mean_cosine <= 1)
    T.ok(part.large.greedy_leaves >= part.greedy_leaves, "the first n preferences are among the larger number")
    T.eq({ #part.points, #part.points[1], #part.rewards, #part.preferences }, { 20, 6, 18, 18 })
  end
  T.eq(x.seeds[1].moc.hypervolume, x.hypervolume)
  T.eq(#x.seeds, 2)
  T.eq(#x.true_front, #fruit_tree.leaves(5))
  T.ok(r.out:find("linear_ppo", 1, true) and r.out:find("8808.4187", 1, true), r.out)
  local html = child.read(r.dir .. "/report.html")
  local _, charts = html:gsub('aria%-label="%a+ and %a+"', "")
  T.eq(charts, 3)
end)

T.test("fruit_tree: c is found by MOC and 1 in Linear PPO", function()
  local dir = T.tmpdir() .. "/run"
  must("fruit_tree", "preset=smoke", "control.scale=1", "quiet=true", "eval.n=4", "eval.n_large=0", "out=" .. dir)
  local x = assert(json.load(dir .. "/result.json"))
  T.eq({ x.linear_ppo.c.mean, x.linear_ppo.c.one, x.c.mean < 1, x.c.one < 1 }, { 1.0, 1.0, true, true })
end)

T.test("a complete run is shown, not run again; other options are refused", function()
  for _, recipe in ipairs { "fishwood", "fruit_tree" } do
    local r = smoke(recipe)
    local before = files(r.dir)
    T.eq(must(recipe, "preset=smoke", "seeds=2", "out=" .. r.dir), r.dir .. " holds this run, complete:\n\n" .. r.out)
    T.eq(files(r.dir), before)
    local _, err, status = run(recipe, "preset=smoke", "out=" .. r.dir)
    T.ok(status == 1 and err:find("seeds: 2 there, 1 now", 1, true), err)
  end
end)

-- a run that sends itself a signal after an update, then continued, against one that did not
local function interrupted(recipe, stage, step, signal, status)
  local words = { "preset=smoke", "quiet=true" }
  local whole, dir = T.tmpdir() .. "/run", T.tmpdir() .. "/run"
  must(recipe, "out=" .. whole, table.unpack(words))
  -- popen, since os.execute would be deaf to SIGINT while it waits
  local hook = ([[local Run = require "mocl.run"; local metrics = Run.metrics
    function Run:metrics(row)
      metrics(self, row)
      if self.stage_name == "%s" and row.step == %d then io.popen("kill -%s $PPID"):close() end
    end]]):format(stage, step, signal)
  local out, err, got = child.mocl { "-e", hook, "recipes/" .. recipe .. ".lua", "out=" .. dir, table.unpack(words) }
  T.eq(got, status, out .. err)
  T.eq(fs.exists(dir .. "/result.json"), nil)
  out, err = run(recipe, "out=" .. dir, table.unpack(words))
  T.ok(err:find("holds an interrupted run: continue it with resume=auto", 1, true), out .. err)
  must(recipe, "out=" .. dir, "resume=auto", table.unpack(words))
  T.eq(files(dir), files(whole))
end

T.test("fishwood: stopped while MOC trains, continued: the bytes of an unbroken run", function()
  interrupted("fishwood", "moc-0", 3, "INT", 130)
end)

T.test("fishwood: stopped while Linear PPO trains, the same", function()
  interrupted("fishwood", "linear_ppo-0", 2, "TERM", 143)
end)

T.test("fruit_tree: killed before a checkpoint, the same", function()
  interrupted("fruit_tree", "moc-0", 3, "KILL", 137)
end)

T.test("the results do not depend on the device's memory being readable, nor on threads", function()
  for _, recipe in ipairs { "fishwood", "fruit_tree" } do
    local dir = T.tmpdir() .. "/run"
    must(recipe, "preset=smoke", "seeds=2", "quiet=true", "device=fake", "out=" .. dir)
    local result = assert(json.load(dir .. "/result.json"))
    T.eq(result.device, "fake")
    result.device = "cpu"
    T.eq(result, smoke(recipe).result)
  end
end)

T.test("every preset runs and does what it says", function()
  for recipe, presets in pairs { fishwood = { "default", "paper" }, fruit_tree = { "strong", "weak", "paper" } } do
    for _, preset in ipairs(presets) do
      local dir = T.tmpdir() .. "/run"
      must(recipe, "preset=" .. preset, "steps=1000", "quiet=true", "out=" .. dir,
        recipe == "fruit_tree" and "eval.n=10" or "eval.episodes=1", recipe == "fruit_tree" and "eval.n_large=0" or "save_every=5")
      local result = assert(json.load(dir .. "/result.json"))
      T.ok(result.hypervolume and result.linear_ppo, preset)
      T.eq(result.large, nil)
    end
  end
end)

T.test("mistakes leave no directory behind", function()
  local dir = T.tmpdir() .. "/run"
  for _, case in ipairs {
    { "fishwood", "wood=2", "option wood: 2 is above the maximum 1" },
    { "fishwood", "control.range=true", "unknown option 'control.range'" },
    { "fruit_tree", "control.least_range=1", "unknown option 'control.least_range'" },
    { "fishwood", "ppo.epsiln=1", "unknown option 'ppo.epsiln' (did you mean 'ppo.epsilon'?)" },
    { "fishwood", "ppo.baseline=group", "baseline=group needs at least 2 episodes for each preference" },
    { "fishwood", "device=cuda:7", "cuda" },
    { "fruit_tree", "depth=8", "option depth: 8 is above the maximum 7" },
    { "fruit_tree", "agent.hidden=16,0", "a positive integer, got 0" },
    { "fruit_tree", "preset=strng", "unknown preset 'strng' (did you mean 'strong'?)" },
  } do
    local _, err, status = run(case[1], "out=" .. dir, case[2])
    T.eq(status, 1, err)
    T.ok(err:find(case[3], 1, true), err)
    T.eq(fs.exists(dir), nil, case[2])
  end
  local _, err = run("fishwood", "out=" .. dir, "target=value", "ppo.baseline=group", "ppo.episodes=2")
  T.ok(err:find("target=value needs ppo.baseline=critic", 1, true), err)
end)

T.test("the methods learn what they are to learn, at a tenth of the steps", function()
  local dir = T.tmpdir() .. "/run"
  must("fishwood", "steps=36000", "quiet=true", "seed=3", "out=" .. dir)
  local x = assert(json.load(dir .. "/result.json"))
  T.ok(x.share_error.mean < 0.08 and x.kendall_tau == 1, ("%.3f"):format(x.share_error.mean))
  T.ok(x.linear_ppo.share_error.max > 2 * x.share_error.max, "and Linear PPO does not")
end)

T.test("fruit_tree learns to go where the preference points, at a sixth of the steps", function()
  local dir = T.tmpdir() .. "/run"
  must("fruit_tree", "steps=48000", "quiet=true", "eval.n=60", "eval.n_large=0", "out=" .. dir)
  local x = assert(json.load(dir .. "/result.json"))
  for _, f in ipairs { x, x.linear_ppo } do
    T.ok(f.mean_cosine > 0.88 and f.greedy_leaves >= 12, ("%.3f %d"):format(f.mean_cosine, f.greedy_leaves))
  end
  T.ok(x.c.mean < 0.97 and x.c.mean > 0.5, "the constraint has something to say: " .. x.c.mean)
end)
