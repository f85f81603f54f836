-- advantages within groups of answers: numbers by hand, TRL's rules, and runs of recipes/grpo.lua whose answer is known

local T = require "t"
local child = require "child"
local group = require "mocl.method.group"
local json = require "mocl.json"
local tiny = require "tiny"

-- one prompt under (0.25, 0.75): the rewards vary by 2 and by 8, their deviations are 1 and 4
local RAW = { { 1, 0 }, { 2, 8 }, { 3, 4 } }
local P = { 0.25, 0.75 }
local PREFS = { P, P, P }

local function close(got, wanted)
  T.eq(#got, #wanted)
  for i, row in ipairs(wanted) do
    for j, x in ipairs(row) do
      T.near(got[i][j], x, 1e-12)
    end
  end
end

local function options(o)
  o.num_generations = o.num_generations or 3
  return group.options(o)
end

-- sum_j p_j A_j
local function sums(rows, prefs)
  local list = {}
  for i, row in ipairs(rows) do
    list[i] = 0
    for j, x in ipairs(row) do
      list[i] = list[i] + prefs[i][j] * x
    end
  end
  return list
end

T.test("GRPO, RLOO and GDPO by hand", function()
  -- sums: 0.25, 6.5, 3.75; their mean 3.5, squares 10.5625 + 9 + 0.0625 = 19.625, variance 9.8125
  local std = 9.8125 ^ 0.5
  local rows, alike = group.advantages(RAW, PREFS, options {})
  close(rows, { { -1 / std, -4 / std }, { 0, 4 / std }, { 1 / std, 0 } })
  T.eq(alike, 0.0)
  for i, x in ipairs { -3.25, 3, 0.25 } do
    T.near(sums(rows, PREFS)[i], x / std, 1e-12)
  end
  close(group.advantages(RAW, PREFS, options { scale_rewards = "none" }), { { -1, -4 }, { 0, 4 }, { 1, 0 } })
  -- RLOO: the reward minus the mean of the other two
  close(group.advantages(RAW, PREFS, options { method = "rloo" }), { { -1.5, -6 }, { 0, 6 }, { 1.5, 0 } })
  -- GDPO: (-1, 0, 1) and (-1, 1, 0), their weighted sums -1, 0.75, 0.25 with variance 1.625 / 2
  local whole = (1.625 / 2) ^ 0.5
  close(group.advantages(RAW, PREFS, options { method = "gdpo" }), { { -1 / whole, -1 / whole }, { 0, 1 / whole }, { 1 / whole, 0 } })
end)

T.test("each prompt is weighed by its own preference, and compared with its own group", function()
  local a, b = { 1, 0 }, { 0, 1 }
  local raw = { { 0, 9 }, { 2, 5 }, { 70, 1 }, { 90, 7 } }
  local prefs = { a, a, b, b }
  local rows = group.advantages(raw, prefs, options { num_generations = 2, scale_rewards = "none" })
  close(rows, { { -1, 2 }, { 1, -2 }, { -10, -3 }, { 10, 3 } })
  T.eq(sums(rows, prefs), { -1.0, 1.0, -3.0, 3.0 })
  -- in the group each weighted sum is (-1, 1) and (-3, 3), over deviations of 2^0.5 and 18^0.5
  local scaled = sums(group.advantages(raw, prefs, options { num_generations = 2 }), prefs)
  for i, x in ipairs { -1, 1, -1, 1 } do
    T.near(scaled[i], x / 2 ^ 0.5, 1e-12)
  end
  -- in the batch: rewards 0, 2, 1, 7 have the mean 2.5 and the variance 29 / 3; of the advantages of RLOO, -2, 2, -6, 6, 80 / 3
  local batch = group.advantages(raw, prefs, options { num_generations = 2, scale_rewards = "batch" })
  T.near(sums(batch, prefs)[4], 3 / (29 / 3) ^ 0.5, 1e-12)
  batch = group.advantages(raw, prefs, options { num_generations = 2, scale_rewards = "batch", method = "rloo" })
  T.near(sums(batch, prefs)[4], 6 / (80 / 3) ^ 0.5, 1e-12)
end)

T.test("GDPO does not change with the scale of a reward, GRPO does", function()
  local far = { { 1, 0 }, { 2, 8e6 }, { 3, 4e6 } }
  close(group.advantages(far, PREFS, options { method = "gdpo" }), group.advantages(RAW, PREFS, options { method = "gdpo" }))
  local rows = group.advantages(far, PREFS, options {})
  T.ok(math.abs(rows[1][1]) < 1e-6, rows[1][1])
end)

T.test("a group whose rewards are all alike has zeros and is counted", function()
  local raw = { { 0.1, 3 }, { 0.1, 3 }, { 0.1, 3 }, { 1, 0 }, { 2, 8 }, { 3, 4 } }
  local prefs = { P, P, P, P, P, P }
  for _, o in ipairs { { method = "grpo" }, { method = "rloo" }, { method = "gdpo" }, { scale_rewards = "none" }, { scale_rewards = "batch" } } do
    local rows, alike = group.advantages(raw, prefs, options(o))
    close({ rows[1], rows[2], rows[3] }, { { 0, 0 }, { 0, 0 }, { 0, 0 } })
    T.eq(alike, 0.5)
    T.ok(rows[5][2] > 0, T.show(rows))
  end
  -- what varies, but is not weighed, does not count; nor do rewards that cancel
  local zero, half = { 0, 1 }, { 0.5, 0.5 }
  local _, alike = group.advantages({ { 1, 3 }, { 2, 3 }, { 3, 3 } }, { zero, zero, zero }, options { method = "gdpo" })
  T.eq(alike, 1.0)
  local rows
  rows, alike = group.advantages({ { 1, 3 }, { 2, 2 }, { 3, 1 } }, { half, half, half }, options {})
  T.eq({ rows, alike }, { { { 0.0, 0.0 }, { 0.0, 0.0 }, { 0.0, 0.0 } }, 1.0 })
  local count = group.alike()
  T.eq(count:share(), 0.0)
  count:add(0.5)
  local other = group.alike()
  other:restore(count:state())
  other:add(1.0)
  T.eq(other:share(), 0.75)
  T.raises("not one of a count of groups", other.restore, other, {})
  T.ok(group.warning(0.75):find("75 %% of the groups") and not group.warning(0.49))
end)

T.test("what does not go together is refused", function()
  for _, case in ipairs {
    { { num_generations = 1 }, "num_generations=1: an answer is compared with the others of its group, which needs at least 2" },
    { { num_generations = 3 }, "num_generations=3 does not divide the 128 answers of an iteration; take ppo.batch_size=126" },
    { { method = "gspo" }, "unknown method 'gspo' %(grpo, rloo, gdpo%)" },
    { { scale_rewards = "token" }, "unknown scale_rewards 'token'" },
    { { method = "gdpo", multi_objective_aggregation = "sum_then_normalize" }, "method=gdpo is multi_objective_aggregation=normalize_then_sum" },
    { { method = "rloo", multi_objective_aggregation = "normalize_then_sum" }, "method=rloo takes" },
    { { method = "rloo", scale_rewards = "group" }, "method=rloo takes scale_rewards=none" },
    { { method = "gdpo", scale_rewards = "none" }, "scale_rewards=none has no meaning there" },
    { { generations = 4 }, "unknown option 'generations'" },
  } do
    T.raises(case[2], group.options, case[1], 128)
  end
  T.eq(group.options({ multi_objective_aggregation = "normalize_then_sum" }).method, "gdpo")
  T.eq(group.options({ method = "rloo" }).scale_rewards, "none")
  local o = options {}
  T.raises("whole groups of 3 answers", group.advantages, { { 1, 2 } }, { P }, o)
  T.raises("answers of group 1 have different preferences", group.advantages, RAW, { P, { 0.5, 0.5 }, P }, o)
  T.raises("answer 2 has 1 rewards and 2 weights", group.advantages, { { 1, 0 }, { 2 }, { 3, 4 } }, PREFS, o)
end)

-- ---- the recipe ----

local OPTIONS = { "quiet=true", "objectives=a,b", "ppo.max_new_tokens=" .. tiny.ANSWER, "ppo.batch_size=88", "ppo.warmup=0", "ppo.lr=0.01",
  "ppo.init_kl_coef=0.02", "ppo.min_kl_coef=0", "lora.layers=0", "grpo.iterations=60", "eval.answers=64", "eval.unseen_answers=0" }

local function run(...)
  local files, dir = T.tmpdir(), T.tmpdir() .. "/run"
  tiny.known(files)
  local words = { "recipes/grpo.lua", "out=" .. dir, "init=" .. files, "prompts=" .. files .. "/prompts.txt", "rewards=" .. files .. "/rewards.lua" }
  for _, list in ipairs { OPTIONS, { ... } } do
    table.move(list, 1, #list, #words + 1, words)
  end
  local out, err, status = child.mocl(words)
  return dir, out .. err, status
end

-- share of `a` among the paid tokens for each preference
local function shares(...)
  local dir, said, status = run(...)
  T.eq(status, 0, said)
  local result, list = assert(json.load(dir .. "/result.json")), {}
  for i, row in ipairs(result.rewards_raw) do
    list[i] = row[1] + row[2] > 0 and row[1] / (row[1] + row[2]) or 0.5
  end
  return list, result
end

T.test("linear group advantages find the token that the prompt's preference pays more for", function()
  for _, method in ipairs { "grpo", "rloo", "gdpo" } do
    local list, result = shares("grpo.method=" .. method, method == "rloo" and "ppo.lr=0.02" or nil)
    T.eq(result.method, method)
    local off = 0 -- the linear optimum is `b` alone below a half, `a` alone above
    for i, share in ipairs(list) do
      off = off + math.abs(share - (i < 6 and 0 or i > 6 and 1 or share)) / 10
    end
    T.ok(off < 0.2, ("%s: %.3f off: %s"):format(method, off, T.show(list)))
    T.ok(result.frac_reward_zero_std < 0.5, result.frac_reward_zero_std)
  end
end)

T.test("with MOC's weights on group advantages the share follows the preference", function()
  for seed = 0, 1 do
    local list, result = shares("control.c=minnorm", "grpo.method=gdpo", "grpo.iterations=120", "control.scale=6", "ppo.init_kl_coef=0.05",
      "seed=" .. seed)
    T.eq(result.method, "moc_gdpo")
    local off, largest = 0, 0
    for i, share in ipairs(list) do
      off = off + math.abs(share - (i - 1) / 10) / 11
      largest = math.max(largest, math.abs(share - (list[i - 1] or share)))
    end
    -- seeds 0 to 3: 0.063 to 0.106 and 0.11 to 0.18; the linear advantages of GDPO, seeds 0 and 1: 0.118, 0.125 and 0.35, 0.51
    T.ok(off < 0.15 and largest < 0.27, ("seed %d: %.3f off, steps up to %.2f: %s"):format(seed, off, largest, T.show(list)))
  end
end)

T.test("bad input ends before there is a run directory", function()
  for _, case in ipairs {
    { "grpo.num_generations=1", "needs at least 2" },
    { "grpo.num_generations=5", "does not divide the 88 answers" },
    { "grpo.method=ppo", "expected one of grpo, rloo, gdpo" },
    { "preferences=0.3:0.6,1:0", "sums to 0.9, not 1" },
    { "preferences=1:0:0", "has 3 weights for 2 objectives" },
    { "preferences=1:0,1:0", "stands there twice" },
    { "preferences=a:b", "'a' is no weight in 'a:b'" },
  } do
    local dir, said, status = run(case[1])
    T.ok(status ~= 0 and said:find(case[2], 1, true), said)
    T.ok(not io.open(dir .. "/config.lua"), case[1])
  end
end)
