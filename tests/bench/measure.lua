--- measure.lua RUN [ROUNDS] - what it brings to measure a policy under all preferences of the grid as batches over preferences, in place
-- of one preference after the other: processor time of generation and scoring with the models of RUN, a directory of moc_hh or grpo on the
-- embedded task, by turns. The samples of both are compared. A row for each number of answers to a preference.

local json = require "mocl.json"
local lora = require "mocl.lm.lora"
local policy = require "mocl.lm.policy"
local preference = require "mocl.preference"
local reward = require "mocl.lm.reward"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local dir, rounds = arg[1] or error("measure.lua RUN [ROUNDS]", 0), tonumber(arg[2] or 7)
local result = assert(json.load(dir .. "/result.json"))
local tok, model = assert(tokenizer.load(dir .. "/tokenizer.json")), assert(transformer.load(dir .. "/sft"))
assert(lora.load(model, dir .. "/last"))
local a, rewards, prompts = policy.new { model = model, tokenizer = tok, max_new_tokens = 26 }, {}, {}
for j, name in ipairs(result.objectives) do
  local judge = assert(reward.load(dir .. "/reward-" .. name, tok))
  rewards[j] = { name = name, f = function(...) return judge:score(...) end }
end
for line in io.lines(dir .. "/samples.jsonl") do
  prompts[#prompts + 1] = json.decode(line).prompt
end
local grid = preference.grid(#result.objectives)

local function seconds(f)
  local started = os.clock()
  local list = f()
  return os.clock() - started, list
end

local function text(list)
  table.sort(list)
  return ("%8.4f (%.4f to %.4f)"):format(list[#list // 2 + 1], list[1], list[#list])
end

print("answers each   one after the other, s        batches over preferences, s   median of the ratios")
for _, n in ipairs { 4, 16, 64, 128, 256 } do
  local o, one, all, ratios = { prompts = prompts, n = n, seed = 0, purpose = "measure", rewards = rewards }, {}, {}, {}
  for round = 1, rounds do
    local want, got
    one[round], want = seconds(function()
      local list = {}
      for i, p in ipairs(grid) do
        list[i] = a:measure(setmetatable({ p = p }, { __index = o }))
      end
      return list
    end)
    all[round], got = seconds(function()
      return a:measure_all(grid, o)
    end)
    ratios[round] = one[round] / all[round]
    assert(json.encode(want) == json.encode(got), "other samples")
  end
  table.sort(ratios)
  print(("%-14d %s   %s   %.2f"):format(n, text(one), text(all), ratios[#ratios // 2 + 1]))
end
