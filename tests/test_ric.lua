-- Rewards-in-Context: maps, goals and selection against figures of the method's own program (numpy), and runs whose answer is known

local T = require "t"
local child = require "child"
local data = require "mocl.data"
local json = require "mocl.json"
local known_run = require "known_run"
local ric = require "mocl.method.ric"
local rng = require "mocl.rng"

T.test("from preferences to scores, as the method's program maps them", function()
  local range = { low = { -3.7, -2.0, -1.1 }, high = { 4.1, 2.6, 5.0 } }
  for map, wanted in pairs {
    l2 = { { -0.6, 2.2 }, { 4.1, -2 }, { 1.8, 1.3 }, { -1.2, 1.7, 1.9 } },
    linf = { { 1, 2.6 }, { 4.1, -2 }, { 4.1, 2.6 }, { 1, 2.6, 4.4 } },
    linear = { { -1.4, 1.2 }, { 4.1, -2 }, { 0.2, 0.3 }, { -2.1, 0.3, 0.7 } },
  } do
    for i, p in ipairs { { 0.3, 0.7 }, { 1, 0 }, { 0.5, 0.5 }, { 0.2, 0.5, 0.3 } } do
      for j, score in ipairs(ric.scores(p, range, map)) do
        T.near(score, wanted[i][j], 1e-9, map .. " of " .. T.show(p))
      end
    end
  end
  T.eq(ric.scores({ 1, 0 }, range), ric.scores({ 1, 0 }, range, "l2"))
  T.raises("unknown map 'max' %(l2, linf, linear%)", ric.scores, { 1, 0 }, range, "max")
end)

T.test("an answer is kept where one score reaches its objective's quantile", function()
  local scores = { { 1, 5 }, { 2, 4 }, { 3, 3 }, { 4, 2 }, { 5, 1 }, { 0.5, 0.5 } } -- both quantiles at 0.7 are 3.5
  T.eq(ric.select(scores, 0.7), { 1, 2, 4, 5 })
  T.eq(ric.select(scores, 1), { 1, 5 })
  T.eq(ric.select(scores, 0), { 1, 2, 3, 4, 5, 6 })
  T.eq(ric.select({}, 0.7), {})
end)

T.test("goals: one score is drawn, the others are the largest there is", function()
  local goals, lowest, highest, at = ric.goals(rng.new(3, "goals"), 3, 3000), math.huge, -math.huge, { 0, 0, 0 }
  local high = -math.huge
  for _, g in ipairs(goals) do
    high = math.max(high, table.unpack(g))
  end
  T.ok(high > 3.8 and high < 5.5, high) -- the extreme of 100,000 draws of N(0, 1)
  for _, g in ipairs(goals) do
    local below = 0
    for j, s in ipairs(g) do
      if s < high then
        below, at[j], lowest, highest = below + 1, at[j] + 1, math.min(lowest, s), math.max(highest, s)
      end
      T.near(s * 10, math.floor(s * 10 + 0.5), 1e-9)
    end
    T.ok(below <= 1, T.show(g))
  end
  -- the smallest of three uniform draws: its mean is a quarter of the way up, and each objective has it as often
  T.ok(lowest < -3.5 and highest > 2, T.show { lowest, highest })
  for j = 1, 3 do
    T.near(at[j] / #goals, 1 / 3, 0.04)
  end
end)

T.test("scores are deviations of the training answers, in tenths; a reward that does not vary is refused", function()
  local rows = { { rewards = { 1, 10 } }, { rewards = { 3, 20 } }, { rewards = { 2, 60 } } }
  local s = ric.statistics(rows, { "a", "b" })
  T.near(s.mean[1], 2, 1e-12)
  T.near(s.std[1], (2 / 3) ^ 0.5, 1e-12)
  T.eq(ric.normalize(rows, s), { { -1.2, -0.9 }, { 1.2, -0.5 }, { 0, 1.4 } })
  T.eq(ric.range(ric.normalize(rows, s)), { low = { -1.2, -0.9 }, high = { 1.2, 1.4 } })
  T.raises("reward 'b' is 0.5 for all 2 answers to train on", ric.statistics, { { rewards = { 1, 0.5 } }, { rewards = { 2, 0.5 } } }, { "a", "b" })
  local range = ric.gaussian(rng.new(0, "reference"), 2)
  T.ok(range.low[1] < -3.5 and range.high[2] > 3.5 and range.high[1] ~= range.high[2], T.show(range))
end)

T.test("where the scores stand", function()
  T.eq(ric.tagged("what?", { 0.3, -1.25 }), "<rm1_score> 0.3 <rm2_score> -1.2 what?")
  T.eq(ric.tagged("\n\nHuman: what? \n\nAssistant:", { 2, -0.0 }), "\n\nHuman: what? <rm1_score> 2.0 <rm2_score> 0.0 \n\nAssistant:")
  T.eq(ric.examples({ { prompt = "p", response = " r" }, { prompt = "q", response = " s" } }, { { 1 }, { 2 } }, { 2 }),
    { { prompt = "<rm1_score> 2.0 q", response = " s" } })
end)

T.test("the step size of supervised training falls to 0, or stays", function()
  local lm, transformer = require "mocl.lm.sft", require "mocl.lm.model"
  local model = transformer.new({ vocab_size = 20, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 12 },
    { key = 1 })
  transformer.train_base(model)
  local last = {}
  for _, kind in ipairs { "linear", "constant" } do
    local t <close> = lm.trainer { model = model, parameters = model:named_parameters(), prompts = { { 1 } }, responses = { { 2 } }, steps = 40,
      batch_size = 1, lr = 1, seed = 0, purpose = "test", lr_scheduler_type = kind }
    last[kind] = t.factor(39)
    T.eq({ t.factor(0), t.factor(1), t.factor(2) }, { 0.5, 1, 1 })
  end
  T.eq(last.constant, 1)
  T.near(last.linear, 1 / 38, 1e-12)
end)

-- ---- the recipe ----

local LEARN = { "ric.num_samples=2000", "ric.num_generation_samples=1000", "ric.num_origin_samples=500", "ric.training_steps=400",
  "ric.online_training_steps=60", "ric.offline_learning_rate=0.01", "ric.learning_rate=0.003" }

T.test("the answers earn what is asked for: p of one reward and 1 - p of the other", function()
  -- Each reward is the share of a token in an answer of four, and with these options its range is 0 to 1: the scores that are asked for
  -- are those of shares p and 1 - p. A policy that ignores them is at least 3/11 off.
  local result, dir = known_run.learn("ric", known_run.files { scores = true }, "ric.method=linear", "ric.reference=data", table.unpack(LEARN))
  T.eq({ result.method, result.map, result.policies, result.training_samples }, { "ric", "linear", 1, 3000 })
  local off = 0
  for i, row in ipairs(result.rewards_raw) do
    local p = result.preferences[i][1]
    off = off + (math.abs(row[1] - p) + math.abs(row[2] - (1 - p))) / 22
  end
  T.ok(off < 0.2, ("%.3f off: %s"):format(off, T.show(result.rewards_raw))) -- seeds 0 to 3: .161, .152, .147, .153
  local shares = known_run.shares(result)
  T.ok(shares[1] < 0.25 and shares[11] > 0.75, T.show(shares))
  -- in the online stage one score is drawn and the other is to be the largest there is: more of the tokens are paid for
  local paid = {}
  for k = 0, 1 do
    local rows = assert(data.read_jsonl(("%s/ric-data-%d.jsonl"):format(dir, k)))
    paid[k] = 0
    for _, row in ipairs(rows) do
      paid[k] = paid[k] + (row.rewards[1] + row.rewards[2]) / #rows
    end
  end
  T.ok(paid[1] > paid[0] + 0.1, T.show(paid))
  -- it goes on from the offline stage
  local first = {}
  for line in io.lines(dir .. "/metrics.jsonl") do
    local row = json.decode(line)
    first[row.stage] = first[row.stage] or row["loss/" .. row.stage]
  end
  T.ok(first["ric-1"] < first["ric-0"] - 0.15, T.show(first))
end)

T.test("an online stage is trained on what was kept of both stages, with the scores that were earned", function()
  local files, dir = known_run.files { scores = true }, T.tmpdir() .. "/run"
  local said, status = known_run.smoke("ric", dir, files, "ric.num_online_iterations=2", "ric.num_origin_samples=5", "ric.num_samples=40")
  T.eq(status, 0, said)
  local stages, kept = assert(json.load(dir .. "/stages.json")), {}
  local offline = assert(data.read_jsonl(dir .. "/ric-data-0.jsonl"))
  T.eq(#offline, 40)
  local statistics = ric.statistics(offline, { "a", "b" })
  for k = 1, 2 do
    local rows = assert(data.read_jsonl(("%s/ric-data-%d.jsonl"):format(dir, k)))
    T.eq(#rows, 16)
    kept[k] = #ric.select(ric.normalize(rows, statistics), 0.7)
    T.ok(kept[k] < 16 and kept[k] > 4, kept[k])
  end
  T.eq({ stages["ric-0"].result.rows, stages["ric-1"].result.rows, stages["ric-2"].result.rows }, { 40, 5 + kept[1], 5 + kept[1] + kept[2] })
  local rows, last = 0, nil
  for line in io.lines(dir .. "/metrics.jsonl") do
    local row = json.decode(line)
    rows, last = rows + (row["loss/ric-2"] and 1 or 0), row
  end
  T.eq({ rows, last.stage }, { 2, "ric-2" })
end)

T.test("an online stage learns what was earned, not what was asked for", function()
  local files, dir = known_run.files { scores = true }, T.tmpdir() .. "/run"
  local said, status = known_run.smoke("ric", dir, files, "ric.num_origin_samples=0")
  T.eq(status, 0, said)
  local rows = assert(data.read_jsonl(dir .. "/ric-data-1.jsonl"))
  local scores = ric.normalize(rows, ric.statistics(assert(data.read_jsonl(dir .. "/ric-data-0.jsonl")), { "a", "b" }))
  local first = ric.select(scores, 0.7)[1]
  T.eq(assert(json.load(dir .. "/stages.json"))["ric-1"].result.example,
    { prompt = ric.tagged(rows[first].prompt, scores[first]), response = rows[first].response })
end)

T.test("a run that is killed, or whose last stages are done again, ends with the same bytes", function()
  local files = known_run.files { scores = true }
  known_run.same_after_kill("ric", files, "ric-0", 25, "ric.training_steps=60", "save_every=10")
  known_run.same_after_redo("ric", files, "ric-data-1")
end)

T.test("bad input ends before there is a run directory", function()
  known_run.refused("ric", known_run.files { scores = true }, { { "ric.method=max", "expected one of l2, linf, linear" },
    { "preferences=0.3:0.6", "sums to 0.9, not 1" }, { "ric.quantile_threshold=1.5", "above the maximum" }, { "ppo.lr=1", "unknown option 'ppo.lr'" },
    { "ric.num_samples=1", "below the minimum" } })
end)

T.test("a reward that is the same for all answers ends the run before it trains", function()
  local files, dir = known_run.files { scores = true }, T.tmpdir() .. "/run"
  local source = child.read(files .. "/rewards.lua"):gsub('b = share_of "b"', 'b = share_of "z"')
  local f = assert(io.open(files .. "/rewards.lua", "w"))
  f:write(source)
  f:close()
  local said, status = known_run.smoke("ric", dir, files)
  T.ok(status ~= 0 and said:find("reward 'b' is 0 for all 32 answers to train on", 1, true), said)
  T.ok(not io.open(dir .. "/ric-0"), "nothing was trained")
end)
