-- mocl.lm.policy: what ends an answer, the adapter; policy.normalize and policy.figures: the units of figures, rewards
-- that do not vary, and the audit of the rule

local T = require "t"
local Control = require "mocl.method.control"
local json = require "mocl.json"
local policy = require "mocl.lm.policy"
local results = require "mocl.report.results"
local small = require "fixtures.llama.small"
local tokenizer = require "mocl.tokenizer"

local GRID = { { 0, 1 }, { .5, .5 }, { 1, 0 } }

-- measurements as policy:measure gives them
local function measured(raw, o)
  local list = {}
  for i, row in ipairs(raw) do
    list[i] = { raw = row, std = o and o.std or { .5, 2 }, length = 5, rule = o and o.rule and o.rule[i], malformed = o and o.rule and .5 }
  end
  return list
end

local VARIES = { mean = { 1, 10 }, std = { .5, 2 } }

T.test("equation 18 with fixed statistics: 1 is the mean they were taken at", function()
  T.eq(policy.normalize({ 1, 10 }, VARIES), { 1, 1 })
  T.eq(policy.normalize({ 2, 6 }, VARIES), { 2, 0 })
  T.eq(policy.constant(VARIES), nil)
  local f = policy.figures(GRID, measured { { 1, 14 }, { 1.5, 12 }, { 2, 10 } }, VARIES)
  T.eq(f.rewards, { { 1, 2 }, { 1.5, 1.5 }, { 2, 1 } })
  T.eq(f.rewards_std, { { .5, .5 }, { .5, .5 }, { .5, .5 } })
  T.eq({ f.reference_point, f.tau_reference }, { { 0, 0 }, { -2, -2 } })
  T.near(f.hypervolume, 2 + .5 * 1.5 + .5 * 1, 1e-12)
  T.eq({ f.kendall_tau, f.rule }, { 1, nil })
end)

T.test("small units are units: nothing is cut off at an absolute size", function()
  T.near(policy.normalize({ 3e-9 }, { mean = { 1e-9 }, std = { 1e-9 } }), { 2 }, 1e-12)
  T.near(policy.normalize({ 3e12 }, { mean = { 1e12 }, std = { 1e12 } }), { 2 }, 1e-12)
end)

T.test("no reward that varied: there is no hypervolume, and the summary says so", function()
  local statistics = { mean = { 0, .1 }, std = { 0, 1.4e-17 } }
  local flat = measured({ { 0, .1 }, { 0, .1 }, { 0, .1 + 1e-12 } }, { std = { 0, 0 } })
  local f = policy.figures(GRID, flat, statistics)
  T.eq({ f.hypervolume, type(f.unmeasured), f.mean_pairwise_distance < 1e-9 }, { nil, "string", true })
  local text = results.summary { objectives = { "a", "b" }, preferences = GRID, rewards = f.rewards, unmeasured = f.unmeasured }
  T.ok(text:find("hypervolume: not measured: no reward of any answer differs", 1, true), text)
  -- one answer in ten that earned something is a measurement, and so is one that varies about the same mean
  flat[3].raw[1] = .1
  f = policy.figures(GRID, flat, statistics)
  T.eq(f.unmeasured, nil)
  T.near(f.hypervolume, 1.1, 1e-9)
  flat[3].raw[1], flat[3].std[1] = 0, .5
  T.near(policy.figures(GRID, flat, statistics).hypervolume, 1, 1e-9)
end)

T.test("a reward that did not vary: raw figures, and nothing is divided by next to nothing", function()
  for mean, std in pairs { [0] = 0, [-7] = 0, [.1] = 1.4e-17, [1e6] = 1e-10 } do -- what rounding leaves of a constant too
    local statistics = { mean = { mean, 10 }, std = { std, 2 } }
    T.eq(policy.constant(statistics), { true, false })
    T.eq(policy.normalize({ .75, 10 }, statistics), { .75, 1 })
    -- nothing was learnt: the hypervolume is that of the other objective
    local f = policy.figures(GRID, measured({ { mean, 14 }, { mean, 12 }, { mean, 10 } }, { std = { 0, 2 } }), statistics)
    T.near(f.hypervolume, 2, 1e-9)
    T.eq(f.rewards[1], { mean, 2 })
    -- the reward came to be earned: 9 of 10 times, in its own unit
    f = policy.figures(GRID, measured({ { mean, 14 }, { mean + .5, 12 }, { mean + .9, 10 } }, { std = { .3, 2 } }), statistics)
    T.eq({ f.rewards[3], f.rewards_std[3] }, { { mean + .9, 1 }, { .3, .5 } })
    T.near(f.hypervolume, 2 + .5 * 1.5 + .4, 1e-9)
    T.near({ f.reference_point[1], f.tau_reference[1] }, { mean - 1, mean - 3 }, 1e-12)
    T.eq({ f.kendall_tau, f.beyond_reference }, { 1, 0 })
  end
end)

T.test("rewards of one's own have no values under the rule", function()
  local null = json.null
  local f = policy.figures(GRID, measured({ { 1, 14 }, { 1, 12 }, { 1, 10 } },
    { rule = { { null, 2 }, { null, 1 }, { null, 0 } } }), VARIES)
  T.eq(f.rule, { rewards = { { null, 2 }, { null, 1 }, { null, 0 } }, malformed = { .5, .5, .5 }, hypervolume = 2 })
  local header, rows = results.rows({ objectives = { "brief", "humor" }, constant = { "brief" } }, f)
  T.eq(header, { "preference", "brief (own unit)", "humor", "brief (raw)", "humor (raw)", "humor (rule)", "malformed" })
  T.eq(rows[1], { "0, 1", 1, 2, 1, 14, 2, .5 })
  -- none that the rule knows
  f = policy.figures(GRID, measured({ { 1, 14 }, { 1, 12 }, { 1, 10 } }, { rule = { { null, null }, { null, null }, { null, null } } }), VARIES)
  T.eq(f.rule, { malformed = { .5, .5, .5 } })
  header = results.rows({ objectives = { "brief", "long" } }, f)
  T.eq(header, { "preference", "brief", "long", "brief (raw)", "long (raw)", "malformed" })
end)

-- ---- while training ----

local PLACES = { 1, 1, 2, 2 }

T.test("control: a reward that does not vary is the offset for every answer", function()
  for _, spread in ipairs { "total", "within" } do
    for _, kind in ipairs { "ema", "count" } do
      local control = Control.new({ spread = spread, running = kind }, 2, { { .2, .8 }, { .8, .2 } }, { { .1, 0 }, { .1, 4 }, { .1, 2 } })
      for step = 1, 50 do
        for _, row in ipairs(control:observe({ { .1, step % 2 }, { .1, 3 }, { .1, 2 }, { .1, 5 } }, PLACES)) do
          T.near(row[1], .5, 1e-9, spread)
          T.ok(math.abs(row[2]) < 10)
        end
      end
      -- and one answer that earns it at last
      local R = control:observe({ { 1.1, 1 }, { .1, 3 }, { .1, 2 }, { .1, 5 } }, PLACES)
      T.ok(R[1][1] > R[2][1] and R[1][1] < 10, R[1][1])
    end
  end
end)

T.test("control: a reward that varies between preferences alone", function()
  local control = Control.new({ spread = "within" }, 2, { { .2, .8 }, { .8, .2 } }, { { 0, 0 }, { 1, 4 }, { 0, 2 }, { 1, 1 } })
  for step = 1, 3000 do -- the deviation within a preference decays to nothing
    for _, row in ipairs(control:observe({ { 0, step % 2 }, { 0, 3 }, { 1, 2 }, { 1, 5 } }, PLACES)) do
      T.ok(math.abs(row[1]) < 101, ("%g in step %d"):format(row[1], step))
    end
  end
end)

-- an actor of a drawn model, whose files say nothing of what ends an answer, with an adapter that changes it
local function actor()
  local tok = tokenizer.train({ "some text" }, { vocab_size = 260 })
  local model = small.adapter(small.model { config = { vocab_size = tok:vocab_size() } }, { alpha = 60 })
  return policy.new { model = model, tokenizer = tok, max_new_tokens = 30, temperature = 3 }, model, tok
end

T.test("an answer ends behind the tokenizer's end token where the model's files do not say what ends it", function()
  local a, model, tok = actor()
  local texts, ended = {}, 0
  for i = 1, 200 do
    texts[i] = "text " .. i
  end
  local _, ids = a:answer(texts, { key = 1 })
  for i, tokens in ipairs(ids.tokens) do
    for t, id in ipairs(tokens) do
      T.eq(id == tok:eos_id(), t == #tokens and ids.finished[i], "the end is the last token")
    end
    ended = ended + (ids.finished[i] and 1 or 0)
  end
  T.ok(ended > 0 and ended < 200, ended)
  model:release()
  tok:release()
end)

T.test("an answer with the adapter off is the base's, its log-probabilities too", function()
  local a, model, tok = actor()
  local function answers(o)
    local responses, ids, logp = a:answer({ "one", "two" }, o)
    return { responses, ids.tokens, logp:totable() }
  end
  local off, on = answers { key = 1, adapter = false }, answers { key = 1 }
  T.ok(T.show(on) ~= T.show(off))
  model:drop_lora()
  T.eq(off, answers { key = 1 })
  model:release()
  tok:release()
end)

T.test("several preferences are measured as one batch, with the samples of each alone", function()
  local a, model, tok = actor()
  local prompts, calls = {}, {}
  for i = 1, 30 do
    prompts[i] = "text " .. i
  end
  local o = { prompts = prompts, n = 100, seed = 5, purpose = "test", rewards = { { name = "long", f = function(texts, responses)
    local list = {}
    for i, response in ipairs(responses) do
      T.ok(texts[i]:find "^text %d+$", "without tags")
      list[i] = #response + #texts[i] / 10
    end
    calls[#calls + 1] = #texts
    return list
  end } }, audit = function(_, response) return { long = #response % 7 }, #response % 3 end }
  local steps = {}
  o.on_step = function(i, n)
    steps[#steps + 1] = { i, n }
  end
  local list = a:measure_all({ { 1, 0 }, { 0.5, 0.5 }, { 0.2, 0.8 }, { 0, 1 }, { 0.7, 0.3 } }, o)
  T.eq(calls, { 200, 200, 100 }, "as many preferences as fit 256 answers")
  T.eq(steps, { { 2, 5 }, { 4, 5 }, { 5, 5 } })
  o.on_step = nil
  for i, p in ipairs { { 1, 0 }, { 0.5, 0.5 }, { 0.2, 0.8 }, { 0, 1 }, { 0.7, 0.3 } } do
    T.eq(list[i], a:measure(setmetatable({ p = p }, { __index = o })), "preference " .. i)
  end
  T.ok(list[1].raw[1] ~= list[4].raw[1], "which differ")
  -- more answers than a batch, and policies that change between preferences, go one by one
  calls, o.n = {}, 300
  a:measure_all({ { 1, 0 }, { 0, 1 } }, o)
  T.eq(calls, { 256, 44, 256, 44 })
  calls, o.n, o.before = {}, 100, function(p, i) return i == 2 and p or nil end
  T.eq(a:measure_all({ { 1, 0 }, { 0.5, 0.5 } }, o), { list[1], list[2] })
  T.eq(calls, { 100, 100 })
  model:release()
  tok:release()
end)
