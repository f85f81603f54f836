-- recipes/moc_hh.lua against iterations that PyTorch computed in float64 from docs/algorithm.md (fixtures/moc/make_moc.py):
-- what is dealt, sampled and written into the tags is that of the fixture, and every figure is within its bound.
-- MOCL_TEST_DISTANCES=1 prints the largest distance of each test as a share of the bounds.

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"
local safetensors = require "mocl.safetensors"
local tiny = require "tiny"

local fixture = assert(json.load("tests/fixtures/moc/moc.json"))

local files
-- a run with the options of a variant and more: its directory and what was recorded (fixtures/moc/record.lua)
local function run(options)
  if not files then
    files = T.tmpdir() .. "/files"
    tiny.golden(files)
  end
  local dir = T.tmpdir()
  local record, words = dir .. "/record.jsonl", nil
  words = { "-e", ('dofile("tests/fixtures/moc/record.lua")("%s")'):format(record), "recipes/moc_hh.lua", "quiet=true",
    "out=" .. dir .. "/run", "init=" .. files, "prompts=" .. files .. "/prompts.txt", "rewards=" .. files .. "/rewards.lua" }
  for _, part in ipairs { fixture.common, options } do
    for key, v in pairs(part) do
      words[#words + 1] = key .. "=" .. tostring(v)
    end
  end
  local out, err, status = child.mocl(words)
  T.eq(status, 0, out .. err)
  local calls = {}
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

local worst = 0 -- of the test that runs, as a share of a bound
local function within(got, want, bound, what)
  got, want = flat(got), flat(want)
  T.eq(#got, #want, what .. ": count")
  T.ok(bound, what .. " has a bound")
  local rounded = 1e-6 -- of 7 digits, as they stand in the file
  for i, x in ipairs(got) do
    local off = math.abs(x - want[i])
    if not (off <= bound + rounded * math.abs(want[i])) then
      error(("%s: entry %d is %.9g, PyTorch's %.9g, a difference of %.2g where %.2g is the bound"):format(what, i, x, want[i], off, bound), 2)
    end
    worst = math.max(worst, off / (bound + rounded * math.abs(want[i])))
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
  local options = {}
  for _, part in ipairs { variant.options, more or {} } do
    for key, v in pairs(part) do
      options[key] = v
    end
  end
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

T.test("PyTorch: each of ten epochs, its losses and the parameters after it", function()
  for epochs = 1, 9 do
    check(fixture.variants[1], { ["ppo.ppo_epochs"] = epochs })
    distances(("%d epochs"):format(epochs))
  end
end)
