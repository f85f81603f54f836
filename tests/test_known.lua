-- A language-model run whose answer is known: two rewards pay for one token each, so under preference (p, 1 - p) the
-- share of the first among the paid tokens is to be p. A policy whose share does not depend on p, or falls with it,
-- is at least 3/11 off on average over the 11 preferences of the grid, whatever its shares are.

local T = require "t"
local child = require "child"
local json = require "mocl.json"
local tiny = require "tiny"

local OPTIONS = { "quiet=true", "objectives=a,b", "ppo.max_new_tokens=" .. tiny.ANSWER, "ppo.batch_size=88", "ppo.warmup=0",
  "ppo.lr=0.01", "ppo.init_kl_coef=0.05", "ppo.min_kl_coef=0", "lora.layers=0", "moc.iterations=120", "moc.tag_noise=0",
  "eval.answers=64", "eval.unseen_answers=0" }

-- share of `a` among the paid tokens for each preference of the grid, and the share of tokens that are paid for
local function shares(...)
  local files, dir = T.tmpdir(), T.tmpdir() .. "/run"
  tiny.known(files)
  local words = { "recipes/moc_hh.lua", "out=" .. dir, "init=" .. files, "prompts=" .. files .. "/prompts.txt",
    "rewards=" .. files .. "/rewards.lua" }
  table.move(OPTIONS, 1, #OPTIONS, #words + 1, words)
  for _, option in ipairs { ... } do
    words[#words + 1] = option
  end
  local out, err, status = child.mocl(words)
  T.eq(status, 0, out .. err)
  local result, list, paid = assert(json.load(dir .. "/result.json")), {}, {}
  for i, row in ipairs(result.rewards_raw) do
    paid[i] = row[1] + row[2]
    list[i] = paid[i] > 0 and row[1] / paid[i] or 0.5
  end
  return list, paid, result
end

-- the largest step of the share between neighbours on the grid
local function largest_step(list)
  local largest = 0
  for i = 2, #list do
    largest = math.max(largest, math.abs(list[i] - list[i - 1]))
  end
  return largest
end

local function mean_error(list)
  local sum = 0
  for i, share in ipairs(list) do
    sum = sum + math.abs(share - (i - 1) / 10) / #list
  end
  return sum
end

T.test("the share of a token follows the preference", function()
  for _, seed in ipairs { 0, 1 } do
    local list, paid, result = shares("seed=" .. seed)
    T.eq(#list, 11)
    local off = mean_error(list)
    T.ok(off < 0.2, ("seed %d: the shares are %.3f off on average: %s"):format(seed, off, T.show(list)))
    T.ok(math.min(table.unpack(paid)) > 0.5, "half of the tokens are paid for: " .. T.show(paid))
    T.ok(result.kendall_tau > 0.8, result.kendall_tau)
    T.ok(list[1] < 0.3 and list[11] > 0.7, "the ends: " .. T.show(list))
    T.ok(largest_step(list) < 0.4, "graded: " .. T.show(list))
  end
end)

T.test("linear scalarisation goes from one token to the other in one step", function()
  local list = shares("control.c=one")
  T.ok(largest_step(list) > 0.4 and mean_error(list) > 0.1, T.show(list))
end)

T.test("what the thresholds are made of: a policy that ignores p, one that learns the opposite", function()
  local ignores, opposite = {}, {}
  for share = 0, 1, 0.01 do
    for i = 1, 11 do
      ignores[i] = share
    end
    T.ok(mean_error(ignores) >= 3 / 11 - 1e-9)
  end
  for i = 1, 11 do
    opposite[i] = (11 - i) / 10
  end
  T.ok(mean_error(opposite) > 3 / 11)
end)
