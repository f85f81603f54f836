-- the watchdog: each sickness on seeded metrics, and silence on healthy ones

local T = require "t"
local child = require "child"
local json = require "mocl.json"
local rng = require "mocl.rng"
local watchdog = require "mocl.train.watchdog"

local OPTIONS = { init_kl_coef = .2, target = 6, lr = 4e-3, entropy = 0, vf_coef = .25 }

-- n rows of a run that goes well, each changed by f(row, step), through a watchdog: the kinds that it found, and the texts
local function watch(n, f, o)
  local r, kinds, spreads = rng.new(7, "watchdog"), {}, nil
  local w = watchdog.new { total = o and o.total or n, options = o and o.options or OPTIONS, label = "moc", prefix = "ppo.", solves_c = true }
  for step = 1, n do
    local t = step / n
    local row = { step = step, ["objective/kl"] = 4 * t + .2 * r:uniform(), ["objective/entropy"] = .87 - .2 * t + .05 * r:uniform(), ["ppo/first_ratio_error"] = 0.0,
      ["ppo/loss/value"] = 1 - .5 * t, ["env/reward_mean/humor"] = 1 + t + .1 * r:uniform(), ["env/reward_mean/helpful"] = 1 + .2 * r:uniform(),
      ["moc/c"] = .4 + .3 * r:uniform(), ["moc/share_indicator"] = .6 + .4 * r:uniform() }
    spreads = step > 1 and { .3 * t, .1 } or { 0.0, 0.0 }
    if f then
      f(row, step, spreads)
    end
    for _, found in ipairs(w:see(row, spreads)) do
      kinds[#kinds + 1] = ("%s %d"):format(found.kind, found.step)
      T.ok(found.text:find("^moc: iteration " .. step .. ": "), found.text)
    end
  end
  T.eq(#w.found, #kinds)
  return kinds, w.found[1] and w.found[1].text or ""
end

T.test("a run that goes well is left alone, and so is a short one", function()
  T.eq(watch(60), {})
  T.eq(watch(400), {})
  T.eq(watch(2), {})
  T.eq(watch(60, function(row)
    for key in pairs(row) do
      row[key] = key == "step" and row.step or nil -- a method that logs nothing of this
    end
  end), {})
end)

T.test("the KL: negative, exploding, or free where beta is 0", function()
  local kinds, text = watch(30, function(row, step) row["objective/kl"] = step == 4 and -.01 or row["objective/kl"] end)
  T.eq(kinds, { "kl negative 4" })
  T.ok(text:find "a KL is never negative" and text:find "temperature", text)
  T.eq(watch(30, function(row) row["objective/kl"] = -1e-6 end), {}) -- rounding
  kinds, text = watch(40, function(row, step) row["objective/kl"] = step > 20 and 25 or row["objective/kl"] end)
  T.eq(kinds, { "kl exploding 25" })
  T.ok(text:find("lower ppo.lr, which is 0.004, or to raise ppo.init_kl_coef, which is 0.2", 1, true), text)
  T.eq(watch(40, function(row, step) row["objective/kl"] = step % 5 > 0 and 25 or 1 end), {}) -- never five in a row
  local free = { init_kl_coef = 0.0, target = 6 }
  T.eq(watch(40, function(row) row["objective/kl"] = 90 end, { options = free }), {})
  T.eq(watch(40, function(row) row["objective/kl"] = 110 end, { options = free }), { "kl exploding 5" })
end)

T.test("a ratio that is not 1 at first", function()
  local kinds, text = watch(10, function(row) row["ppo/first_ratio_error"] = .02 end)
  T.eq(kinds, { "ratio 1" })
  T.ok(text:find "between the rollout and the update", text)
  T.eq(watch(10, function(row) row["ppo/first_ratio_error"] = 1e-5 end), {})
end)

T.test("entropy that collapses, of a language model and of a world", function()
  local function collapse(share, from, world)
    return function(row, step)
      row["objective/entropy"] = step < from and .9 or .9 * share
      row["objective/kl"] = not world and row["objective/kl"] or nil
    end
  end
  T.eq(watch(60, collapse(.09, 20)), { "entropy 24" })
  T.eq(watch(60, collapse(.11, 20)), {})
  T.eq(watch(60, collapse(.09, 46)), {}) -- at the end a policy may be sure
  T.eq(watch(60, collapse(.05, 20, true)), {})
  T.eq(watch(60, collapse(.01, 20, true)), { "entropy 24" })
end)

T.test("a reward that is the same whatever is answered, by objective or alone", function()
  local kinds, text = watch(30, function(row, step) row["env/reward_mean/humor"] = step > 5 and .25 or row["env/reward_mean/humor"] end)
  T.eq(kinds, { "reward env/reward_mean/humor 15" })
  T.ok(text:find("the mean reward 'humor' has been 0.25 for 10 batches", 1, true), text)
  T.eq(watch(30, function(row) row["env/reward_mean"] = 0.0 end), { "reward env/reward_mean 10" })
  T.eq(watch(30, function(row, step) row["env/reward_mean/humor"] = step % 10 == 0 and 1.1 or 1 end), {})
end)

T.test("a value head that is dead", function()
  local kinds, text = watch(30, function(_, _, spread) spread[2] = 0.0 end)
  T.eq(kinds, { "value 2 15" })
  T.ok(text:find "value head 2 says the same for every token", text)
  T.eq(watch(30, function(_, step, spread) spread[2] = step % 5 == 0 and 1e-3 or 0.0 end), {})
end)

T.test("c in one place, a constraint that is never or always on", function()
  local function at(key, v, other)
    return function(row)
      row[key] = v
      row["moc/share_indicator"] = other or row["moc/share_indicator"]
    end
  end
  local kinds, text = watch(60, at("moc/c", 1.0))
  T.eq(kinds, { "c stuck 20" })
  T.ok(text:find "c has been 1 for 20 batches: the constraint is never worth a step", text)
  T.ok(select(2, watch(60, at("moc/c", .5))):find "at its floor")
  T.ok(select(2, watch(60, at("moc/c", 0.0))):find "only the constraint is followed")
  T.eq(watch(200, at("moc/c", 1.0)), { "c stuck 50" }) -- a quarter of all
  T.eq(watch(60, function(row, step) row["moc/c"] = step % 19 == 0 and .7 or 1.0 end), {})
  kinds, text = watch(60, at("moc/c", 1.0, 0.0)) -- c is 1 where nothing is violated: that is said, and not c
  T.eq(kinds, { "constraint never 20" })
  T.ok(text:find "Lower control.phi", text)
  kinds = watch(100, at("moc/share_indicator", 1.0))
  T.eq(kinds, { "constraint always 90" })
  T.eq(watch(100, function(row, step) row["moc/share_indicator"] = step % 80 == 0 and .9 or 1 end), {})
  local w = watchdog.new { total = 60, options = OPTIONS } -- linear scalarisation: c is 1, and meant so
  for step = 1, 60 do
    T.eq(w:see { step = step, ["moc/c"] = 1.0, ["moc/share_indicator"] = 1.0 }, {})
  end
end)

T.test("in a run: a healthy one says nothing, a sick one says what and leaves the metrics as they are", function()
  local dir = T.tmpdir()
  local _, err, status = child.mocl { "recipes/fishwood.lua", "preset=smoke", "steps=30000", "quiet=true", "out=" .. dir .. "/well" }
  T.eq({ status, err:find "warning" }, { 0, nil }, err)
  -- a hook that rewards everything alike
  local f = assert(io.open(dir .. "/hooks.lua", "w"))
  f:write "return { rewards = function() return { 1.0, 2.0 } end }\n"
  f:close()
  _, err, status = child.mocl { "recipes/fishwood.lua", "preset=smoke", "steps=30000", "quiet=true", "ppo.baseline=group", "ppo.episodes=2",
    "control.hooks=" .. dir .. "/hooks.lua", "out=" .. dir .. "/sick" }
  T.eq(status, 0, err)
  T.ok(err:find("warning: moc 0: update 10: the mean reward 'fish' has been 2 for 10 batches", 1, true)
    or err:find("warning: moc 0: update 10: the mean reward 'fish' has been 1 for 10 batches", 1, true), err)
  for _, place in ipairs { "well", "sick" } do
    T.eq(child.read(dir .. "/" .. place .. "/metrics.jsonl"):find("watchdog", 1, true), nil)
  end
end)

local agent, world = require "mocl.world.agent", require "mocl.world"
local trainer, world_actor = require "mocl.train.trainer", require "mocl.train.world_actor"

local function doors_actor()
  local doors = world.new { name = "doors", objectives = { "gold", "silver" }, actions = 2, states = 1, time_limit = 5,
    reset = function() return 0 end, step = function(state, action) return state, { action, 1 - action } end }
  return world_actor.new(agent.new { world = doors, hidden = { 4 }, key = 1 })
end

T.test("in a trainer: the values of each head are looked at", function()
  local actor = doors_actor()
  local values = actor.values
  function actor:values(batch) -- the second head is dead, the first one is not
    local v = values(self, batch)
    return require "mocl.tensor".cat({ v:narrow(2, 1, 1), v:narrow(2, 2, 1) * 0 }, 2)
  end
  local t <close> = trainer.new { actor = actor, seed = 1, total = 20, options = { episodes = 4, lr = 0.01, normalize = "rms" } }
  for _ in t:iterations() do
    local batch = t:rollout { { 1, 0 }, { 0, 1 } }
    local adv = t:advantages(batch)
    local m = t:update(batch, function(e)
      return (e.logp * adv:sum(2)):mean() * -1 + e.value_error
    end)
    T.eq(m["watchdog/value_spread/1"], nil)
  end
  T.eq(#t.watchdog.found, 1)
  T.ok(t.watchdog.found[1].text:find "^training: iteration 15: value head 2 says the same", t.watchdog.found[1].text)
end)

T.test("in a trainer: c is looked at where the run's control solves for it, and nowhere else", function()
  local function found(control)
    local t <close> = trainer.new { actor = doors_actor(), seed = 1, total = 30, options = { episodes = 4, lr = 0.01, normalize = "rms" },
      state = { control = control } }
    for _ in t:iterations() do
      local batch = t:rollout { { 1, 0 }, { 0, 1 } }
      local adv = t:advantages(batch)
      t:update(batch, function(e)
        return (e.logp * adv:sum(2)):mean() * -1 + e.value_error, { ["moc/c"] = e.logp:mean() * 0 + 0.4, ["moc/share_indicator"] = e.logp:mean() * 0 + 0.5 }
      end)
    end
    local kinds = {}
    for i, f in ipairs(t.watchdog.found) do
      kinds[i] = f.kind
    end
    return kinds
  end
  local function control(solves)
    return { solves_c = solves, state = function() return {} end, restore = function() end }
  end
  T.eq(found(control(true)), { "c stuck" })
  T.eq(found(control(false)), {})
  T.eq(found(nil), {})
end)
