-- recipes/moc_hh.lua against iterations that PyTorch computed in float64 from docs/algorithm.md
-- (fixtures/moc/make_moc.py): what is dealt, sampled and written into the tags is that of the fixture, and every
-- figure is within its bound. MOCL_TEST_DISTANCES=1 prints the largest distance of each test as a share of the
-- bounds.

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local safetensors = require "mocl.safetensors"
local tiny = require "tiny"

local fixture = assert(json.load("tests/fixtures/moc/moc.json"))

local files
local function inputs()
  if not files then
    files = T.tmpdir() .. "/files"
    tiny.golden(files)
  end
  return files
end

-- options of several tables, the later ones first
local function joined(...)
  local all = {}
  for _, part in ipairs { ... } do
    for key, v in pairs(part) do
      all[key] = v
    end
  end
  return all
end

-- the recipe with options, as a process; what it records goes to dir/record.jsonl
local function start(dir, options)
  local words = { "-e", ('dofile("tests/fixtures/moc/record.lua")("%s/record.jsonl")'):format(dir), "recipes/moc_hh.lua" }
  for key, v in pairs(joined({ quiet = true, out = dir .. "/run", init = inputs(), prompts = inputs() .. "/prompts.txt",
    rewards = inputs() .. "/rewards.lua" }, fixture.common, options)) do
    words[#words + 1] = key .. "=" .. tostring(v)
  end
  return child.mocl(words)
end

-- a whole run: its directory, what was recorded (fixtures/moc/record.lua), the metrics of each iteration
local function run(options, dir)
  dir = dir or T.tmpdir()
  local out, err, status = start(dir, options)
  T.eq(status, 0, out .. err)
  local record, calls = dir .. "/record.jsonl", {}
  for line in child.read(record):gmatch "[^\n]+" do
    local row = assert(json.decode(line))
    calls[row.call] = calls[row.call] or {}
    table.insert(calls[row.call], row)
  end
  local metrics = {}
  for line in child.read(dir .. "/run/metrics.jsonl"):gmatch "[^\n]+" do
    local row = assert(json.decode(line))
    metrics[row.step] = row.stage == "moc" and row or nil
  end
  return dir .. "/run", calls, metrics
end

local function flat(x, into)
  into = into or {}
  for _, v in ipairs(type(x) == "table" and x or { x }) do
    if type(v) == "table" then
      flat(v, into)
    else
      into[#into + 1] = v
    end
  end
  return into
end

local ROUNDED = 1e-6 -- of a number with 7 digits, as they stand in the file
local worst = 0 -- of the test that runs, as a share of a bound
local function within(got, want, bound, what)
  got, want = flat(got), flat(want)
  T.eq(#got, #want, what .. ": count")
  T.ok(bound, what .. " has a bound")
  for i, x in ipairs(got) do
    local off = math.abs(x - want[i])
    if not (off <= bound + ROUNDED * math.abs(want[i])) then
      error(("%s: entry %d is %.9g, PyTorch's %.9g, a difference of %.2g where %.2g is the bound"):format(what, i, x, want[i], off, bound), 2)
    end
    worst = math.max(worst, off / (bound + ROUNDED * math.abs(want[i])))
  end
end

local METRICS = { policy = "ppo/loss/policy", value = "ppo/loss/value", kl = "objective/kl", entropy = "objective/entropy",
  clipfrac = "ppo/policy/clipfrac", approxkl = "ppo/policy/approxkl", grad_norm = "ppo/grad_norm" }

local function check_metrics(row, epoch, what)
  for name, key in pairs(METRICS) do
    within(row[key], epoch[name], epoch.bounds[name], what .. ", " .. key)
  end
end

local function check_parameters(dir, epoch, what)
  local got = {}
  for name, t in pairs(assert(safetensors.load(dir .. "/last/adapter_model.safetensors"))) do
    got[name:gsub("^base_model%.model%.", "")] = t
  end
  for name, t in pairs(assert(safetensors.load(dir .. "/last/value_heads.safetensors"))) do
    got[name] = t
  end
  for name, want in pairs(epoch.parameters) do
    within(T.ok(got[name], name):flatten():totable(), want, epoch.bounds[name], what .. ", " .. name)
    got[name] = nil
  end
  T.eq(next(got), nil, what .. ": a parameter that PyTorch does not have")
end

-- what an iteration began with: the same texts, answers and preferences, R, values, log-probabilities
local function check_start(calls, k, want, what)
  local answer, observe, gae = calls.answer[k], calls.observe[k], calls.gae[k]
  T.eq(observe.places, want.places, what .. ": the preferences that were dealt")
  T.eq(answer.texts, want.texts, what .. ": the texts with their tags")
  T.eq(answer.tokens, want.answers, what .. ": the answers")
  if want.R then
    within(observe.R, want.R, want.bounds.R, what .. ", R")
    within(answer.logp, want.old, want.bounds.old, what .. ", log-probabilities")
    within(gae.values, want.values, want.bounds.values, what .. ", values")
    within(gae.returns, want.returns, want.bounds.returns, what .. ", returns")
  end
end

-- the shares that metrics.jsonl has of a solved problem
local function check_shares(row, solved, answers, what)
  local at, c, one, zero, negative = 1, 0, 0, 0, 0
  for _, ids in ipairs(answers) do
    local w = solved.w[at]
    c, one, zero = c + solved.c[at] / #answers, one + (solved.c[at] == 1 and 1 or 0) / #answers, zero + (solved.c[at] == 0 and 1 or 0) / #answers
    negative = negative + (math.min(table.unpack(w)) < 0 and 1 or 0) / #answers
    at = at + #ids
  end
  T.near({ row["moc/c"], row["moc/share_one"], row["moc/share_zero"], row["moc/share_negative_w"] }, { c, one, zero, negative }, 1e-6, what)
end

-- c and w at the tokens that the fixture has them of: all, or the first of each answer
local function check_solved(solved, answers, epoch, what)
  local c, w = solved.c, solved.w
  if #epoch.c < #c then
    local at, some_c, some_w = 1, {}, {}
    for i, ids in ipairs(answers) do
      some_c[i], some_w[i] = c[at], w[at]
      for t = at, at + #ids - 1 do -- and the others share them
        T.eq({ c[t], w[t] }, { c[at], w[at] }, what .. ": one c per answer")
      end
      at = at + #ids
    end
    c, w = some_c, some_w
  end
  within(c, epoch.c, epoch.bounds.c, what .. ", c")
  within(w, epoch.w, epoch.bounds.w, what .. ", w")
end

local function check(variant, more)
  local options = joined(variant.options, more or {})
  local dir, calls, metrics = run(options)
  local epochs, solve = options["ppo.ppo_epochs"], 0
  local by_epoch = options["control.solve"] == "epoch" or options.preset == "paper"
  for k, want in ipairs(variant.iterations) do
    local what = ("iteration %d"):format(k)
    check_start(calls, k, want, what)
    within({ metrics[k]["ppo/learning_rate"], metrics[k]["objective/kl_coef"] }, { want.lr, want.beta }, want.bounds.beta, what .. ", lr and beta")
    for e = 1, epochs do
      local epoch, at = want.epochs[e], ("%s, epoch %d"):format(what, e)
      local clip = calls.clip[(k - 1) * epochs + e]
      solve = (e == 1 or by_epoch) and solve + 1 or solve
      if epoch.ratio then
        within(clip.ratio, epoch.ratio, epoch.bounds.ratio, at .. ", ratio")
      end
      if epoch.c then
        within(clip.combined, epoch.combined, epoch.bounds.combined, at .. ", combined advantage")
        check_solved(calls.solve[solve], want.answers, epoch, at)
      end
    end
    check_metrics(metrics[k], want.epochs[epochs], ("%s, epoch %d"):format(what, epochs))
    check_shares(metrics[k], calls.solve[solve], want.answers, what)
  end
  T.eq({ #metrics, solve, #calls.clip }, { #variant.iterations, #calls.solve, #variant.iterations * epochs })
  check_parameters(dir, variant.iterations[#variant.iterations].epochs[epochs], ("after epoch %d"):format(epochs))
end

local function distances(name)
  if os.getenv "MOCL_TEST_DISTANCES" then
    print(("%s: %.3f of the bounds"):format(name, worst))
  end
  worst = 0
end

for _, variant in ipairs(fixture.variants) do
  T.test("PyTorch: " .. variant.name, function()
    check(variant)
    distances(variant.name)
  end)
end

for _, device in ipairs(T.devices) do
  if device ~= "cpu" then
    T.test("PyTorch: ten epochs on " .. device, function()
      check(fixture.variants[1], { device = device })
      distances("on " .. device)
    end)
  end
end

T.test("PyTorch: each of ten epochs, its losses and the parameters after it", function()
  for epochs = 1, 9 do
    check(fixture.variants[1], { ["ppo.ppo_epochs"] = epochs })
    distances(("%d epochs"):format(epochs))
  end
end)

local function by_name(name)
  for _, variant in ipairs(fixture.variants) do
    if variant.name == name then
      return variant
    end
  end
end

T.test("PyTorch: three iterations, of which the third is computed by a process that goes on from the second's checkpoint", function()
  local variant, dir = by_name "three iterations", T.tmpdir()
  local rewards, stop = dir .. "/rewards.lua", dir .. "/stop"
  -- calls: one before the training, 3 + 1 batches of the SFT model's answers, then one an iteration
  assert(fs.write(rewards, ([[
local rewards, calls = dofile("%s/rewards.lua"), 0
local digits = rewards.digits
function rewards.digits(...)
  calls = calls + 1
  local file = calls > 7 and io.open("%s")
  if file then
    file:close()
    error("stopped")
  end
  return digits(...)
end
return rewards
]]):format(inputs(), stop)))
  assert(fs.write(stop, ""))
  local options = joined(variant.options, { rewards = rewards, ["moc.save_every"] = 1 })
  local _, err, status = start(dir, options)
  T.ok(status == 1 and err:find("reward 'digits': .*stopped"), err)
  T.eq(fs.readlink(dir .. "/run/last"), "checkpoint-000002")
  assert(fs.remove(stop))
  local _, calls, metrics = run(joined(options, { resume = "auto" }), dir)
  T.eq({ #calls.observe, #metrics }, { 1, 3 }, "iterations of the second process, and of both")
  local want, epochs = variant.iterations[3], options["ppo.ppo_epochs"]
  check_start(calls, 1, want, "iteration 3")
  within({ metrics[3]["ppo/learning_rate"], metrics[3]["objective/kl_coef"] }, { want.lr, want.beta }, want.bounds.beta, "lr and beta")
  for k, iteration in ipairs(variant.iterations) do
    check_metrics(metrics[k], iteration.epochs[epochs], ("iteration %d"):format(k))
  end
  check_parameters(dir .. "/run", want.epochs[epochs], "after the third iteration")
end)

T.test("figures: the SFT model's frozen statistics, held-out prompts, the preferences that they are of", function()
  local dir, calls, metrics = run(joined(by_name("linear scalarisation").options, { ["eval.answers"] = 3, ["eval.unseen_answers"] = 1 }))
  local result, stages = assert(json.load(dir .. "/result.json")), assert(json.load(dir .. "/stages.json"))
  local statistics = stages["sft-answers"].result.statistics
  for i, row in ipairs(result.rewards_raw) do
    for j, x in ipairs(row) do -- equation 18: 1 is the SFT model's mean
      T.near(result.rewards[i][j], (x - statistics.mean[j]) / (2 * statistics.std[j]) + 1, 1e-12)
      T.near(result.sft.rewards[j], 1, 1e-9)
    end
  end
  for k, row in ipairs(metrics) do
    for j, name in ipairs(result.objectives) do
      local mean, raw = 0, calls.observe[k].raw
      for _, rewards in ipairs(raw) do
        mean = mean + rewards[j] / #raw
      end
      T.near(row["env/reward_mean/" .. name], (mean - statistics.mean[j]) / (2 * statistics.std[j]) + 1, 1e-9)
    end
  end
  local held, trained = {}, {}
  for line in child.read(dir .. "/samples.jsonl"):gmatch "[^\n]+" do
    held[assert(json.decode(line)).prompt] = true
  end
  local iterations = #by_name("linear scalarisation").iterations
  for k = 1, iterations do
    for _, text in ipairs(calls.answer[k].texts) do
      trained[text:sub(-2)] = true
    end
  end
  local prompt = next(held)
  T.ok(prompt and not next(held, prompt) and not trained[prompt], "one held-out prompt, in no iteration")
  -- after the iterations: the grid, then the unseen preferences
  local tags, want = {}, {}
  for k = iterations + 1, #calls.answer do
    for _, text in ipairs(calls.answer[k].texts) do
      T.eq(text:sub(-2), prompt)
      tags[#tags + 1] = text:sub(1, -3)
    end
  end
  for _, part in ipairs { { result.preferences, 3 }, { result.unseen.groups[1].preferences, 1 }, { result.unseen.groups[2].preferences, 1 },
    { result.unseen.groups[3].preferences, 1 }, { result.unseen.groups[4].preferences, 1 } } do
    for _, p in ipairs(part[1]) do
      for _ = 1, part[2] do
        want[#want + 1] = ("<R1> %.2f <R2> %.2f "):format(p[1], p[2])
      end
    end
  end
  T.eq(tags, want)
end)

T.test("a prompt fits where its tokens and those of the answer are as many as the context has", function()
  local options = joined(by_name("linear scalarisation").options, { ["moc.iterations"] = 1 })
  run(joined(options, { ["model.positions"] = 27 })) -- 20 of the tags, 2 of the prompt, 5 of the answer
  local _, err, status = start(T.tmpdir(), joined(options, { ["model.positions"] = 26 }))
  T.ok(status == 1 and err:find("no prompt fits", 1, true), err)
end)
