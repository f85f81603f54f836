-- MetaAligner: what its editor is shown and learns, by hand, and a run whose answer is known

local T = require "t"
local child = require "child"
local data = require "mocl.data"
local json = require "mocl.json"
local known_run = require "known_run"
local metaaligner = require "mocl.method.metaaligner"
local rng = require "mocl.rng"

local TEMPLATE = "<{aspects}>{prompt}|{answer}|"

T.test("what the editor is shown", function()
  T.eq(metaaligner.text("improve {aspects}: {prompt} ->{answer} ->", { "humor", "help" }, "why {answer}? 100%", " so %1 "),
    "improve humor; help: why {answer}? 100% -> so %1  ->")
  metaaligner.check(TEMPLATE)
  T.raises("metaaligner.template: {answer} is not in '{aspects} {prompt}'", metaaligner.check, "{aspects} {prompt}")
end)

T.test("objectives with a weight are asked for; all subsets of them can be", function()
  T.eq(metaaligner.wanted({ 0.2, 0, 0.8 }, { "x", "y", "z" }), { "x", "z" })
  T.eq(metaaligner.subsets(2), { { 0, 1 }, { 0.5, 0.5 }, { 1, 0 } })
  local three = metaaligner.subsets(3)
  T.eq(#three, 7)
  T.eq({ three[1], three[2], three[4] }, { { 0, 0, 1 }, { 0, 0.5, 0.5 }, { 1 / 3, 1 / 3, 1 / 3 } })
end)

T.test("a pair of answers gives an edit towards what the better one is better in, both ways", function()
  local function row(prompt, response, ...)
    return { prompt = prompt, response = response, rewards = { ... } }
  end
  local rows = { row("p", "1", 2, 5), row("p", "2", 1, 7), row("q", "3", 4, 4), row("q", "4", 4, 4), row("r", "5", 0, 0), row("r", "6", 1, 1) }
  local list = metaaligner.examples(rng.new(0, "aspects"), rows, TEMPLATE, { "a", "b" })
  T.eq(#list, 3)
  T.eq(list[1], { prompt = "<a>p|2|", response = "1" })
  T.eq(list[2], { prompt = "<b>p|1|", response = "2" })
  T.eq(list[3].response, "6")
  T.ok(list[3].prompt == "<a; b>r|5|" or list[3].prompt == "<b; a>r|5|", list[3].prompt)
  local orders = {} -- the stream draws the order of aspects
  for seed = 1, 20 do
    orders[metaaligner.examples(rng.new(seed, "aspects"), { rows[5], rows[6] }, TEMPLATE, { "a", "b" })[1].prompt] = true
  end
  T.eq(orders, { ["<a; b>r|5|"] = true, ["<b; a>r|5|"] = true })
  T.raises("in none of 1 pairs of answers is one better in a reward", metaaligner.examples, rng.new(0, "aspects"), { rows[3], rows[4] }, TEMPLATE,
    { "a", "b" })
end)

-- ---- the recipe ----

local WORDS = { { "<a>", 4, 0 }, { "<b>", 0, 4 }, { "<a; b>", 4, 4 }, { "<b; a>", 4, 4 }, { "|", 0, 0 } }
local OWN = "metaaligner.template=" .. TEMPLATE
local LEARN = { OWN, "metaaligner.num_samples=4000", "metaaligner.training_steps=300", "metaaligner.learning_rate=0.01", "eval.answers=256" }

T.test("an edit towards a reward raises it, one towards both raises their sum", function()
  local result = known_run.learn("metaaligner", known_run.files { words = WORDS }, table.unpack(LEARN))
  T.eq({ result.method, result.policies, result.training_samples }, { "metaaligner", 2, 4000 })
  T.eq(result.preferences, { { 0, 1 }, { 0.5, 0.5 }, { 1, 0 } })
  local b, both, a = table.unpack(result.rewards_raw)
  -- the SFT model has 0.10 to 0.15 of each; seeds 0 to 3 give at least 0.42 of the one, at most 0.08 of the other, at least 0.66 of both
  T.ok(result.sft.rewards_raw[1] < 0.2 and result.sft.rewards_raw[2] < 0.2, T.show(result.sft.rewards_raw))
  T.ok(a[1] > 0.35 and a[2] < 0.12, T.show(a))
  T.ok(b[2] > 0.35 and b[1] < 0.12, T.show(b))
  T.ok(both[1] + both[2] > 0.55 and math.min(both[1], both[2]) > 0.2, T.show(both))
end)

T.test("one objective an edit: the last one is towards the last objective", function()
  local result = known_run.learn("metaaligner", known_run.files { words = WORDS }, "metaaligner.n_objectives=1", "preferences=0.5:0.5",
    table.unpack(LEARN))
  local both = result.rewards_raw[1]
  T.ok(both[2] > 0.33 and both[1] < 0.2, T.show(both)) -- seeds 0 to 3: at least 0.41 and at most 0.09
end)

T.test("the editor learns from pairs of answers to one prompt", function()
  local files, dir = known_run.files { words = WORDS }, T.tmpdir() .. "/run"
  local said, status = known_run.smoke("metaaligner", dir, files, OWN)
  T.eq(status, 0, said)
  local rows = assert(data.read_jsonl(dir .. "/metaaligner-data.jsonl"))
  T.eq(#rows, 64)
  local prompts = {}
  for i = 1, #rows, 2 do
    T.eq(rows[i].prompt, rows[i + 1].prompt)
    prompts[rows[i].prompt] = true
  end
  T.ok(next(prompts, (next(prompts))), "different prompts")
  local list = metaaligner.examples(rng.new(0, "aspects"), rows, TEMPLATE, { "a", "b" })
  local result = assert(json.load(dir .. "/stages.json")).metaaligner.result
  T.eq({ result.rows, result.example }, { #list, list[1] })
end)

T.test("a run that is killed, or whose last stages are done again, ends with the same bytes", function()
  local files = known_run.files { words = WORDS }
  known_run.same_after_kill("metaaligner", files, "metaaligner", 25, OWN, "metaaligner.training_steps=60", "save_every=10")
  known_run.same_after_redo("metaaligner", files, "metaaligner-data", OWN)
end)

T.test("bad input ends before there is a run directory", function()
  known_run.refused("metaaligner", known_run.files { words = WORDS }, { { "metaaligner.template={prompt} {answer}", "{aspects} is not in" },
    { "metaaligner.aspects=x", "metaaligner.aspects: 1 for 2 objectives" }, { "metaaligner.num_samples=3", "take an even number" },
    { "preferences=0.3:0.6", "sums to 0.9, not 1" }, { "metaaligner.n_objectives=-1", "below the minimum" } })
end)

T.test("answers that all earn the same end the run before it trains", function()
  local files, dir = known_run.files { words = WORDS }, T.tmpdir() .. "/run"
  local source = child.read(files .. "/rewards.lua"):gsub('share_of "[ab]"', 'share_of "z"')
  local f = assert(io.open(files .. "/rewards.lua", "w"))
  f:write(source)
  f:close()
  local said, status = known_run.smoke("metaaligner", dir, files, OWN)
  T.ok(status ~= 0 and said:find("in none of 32 pairs of answers is one better in a reward", 1, true), said)
end)
