--- mocl.method.group: advantages of answers within a group, without a critic: GRPO (Shao et al. 2024), RLOO (Ahmadian et al.
-- 2024) and GDPO (arXiv 2601.05242) for N objectives, each with the weights of its own prompt. Options and values are TRL's.
--
-- A group is the answers to one prompt under one preference p. What is returned has one number per objective, so that a method
-- may weigh them anew: sum_j p_j A_j is the advantage of GRPO, RLOO or GDPO, and mocl.method.control finds MOC's weights.

local options = require "mocl.options"

local group = {}

--- Rows for a recipe's schema.
group.OPTIONS = {
  { "method", "grpo", "the mean of the group is taken away (grpo), of its other answers (rloo), or of each reward apart (gdpo)",
    choices = { "grpo", "rloo", "gdpo" } },
  { "num_generations", 8, "answers to each prompt, which are a group", min = 1 },
  { "scale_rewards", nil, "what advantages are divided by: the deviation in the group, in the batch, or nothing; unset: group, with rloo none",
    type = "string", choices = { "group", "batch", "none" } },
  { "multi_objective_aggregation", nil, "unset: as method says; normalize_then_sum is GDPO, where each reward has its own deviation",
    type = "string", choices = { "sum_then_normalize", "normalize_then_sum" } },
}

local NAMES = { "method", "num_generations", "scale_rewards", "multi_objective_aggregation" }

local ROUNDING = 1e-9 -- a deviation below this share of the rewards' size is what rounding leaves of a constant

local function choice(o, name)
  for _, row in ipairs(group.OPTIONS) do
    if row[1] == name then
      for _, c in ipairs(row.choices) do
        if o[name] == c then
          return
        end
      end
      error(("group: unknown %s '%s' (%s)"):format(name, tostring(o[name]), table.concat(row.choices, ", ")), 0)
    end
  end
end

--- group.options(given, n) -> the options with what is unset filled in; method is the name of what they make together. n: the
-- answers of an iteration, if known. Raises for a group of one answer, for groups that n is no multiple of, and for options that
-- contradict each other.
function group.options(given, n)
  options.check("group.options", given, {}, NAMES)
  local o = { method = given.method or "grpo", num_generations = given.num_generations or 8 }
  choice(o, "method")
  local size = o.num_generations
  if math.type(size) ~= "integer" or size < 2 then
    error(("num_generations=%s: an answer is compared with the others of its group, which needs at least 2"):format(tostring(size)), 0)
  elseif n and n % size ~= 0 then
    error(("num_generations=%d does not divide the %d answers of an iteration; take ppo.batch_size=%d"):format(size, n,
      math.max(1, n // size) * size), 0)
  end
  o.multi_objective_aggregation = given.multi_objective_aggregation
    or o.method == "gdpo" and "normalize_then_sum" or "sum_then_normalize"
  choice(o, "multi_objective_aggregation")
  local apart = o.multi_objective_aggregation == "normalize_then_sum"
  o.scale_rewards = given.scale_rewards or o.method == "rloo" and "none" or "group"
  choice(o, "scale_rewards")
  if o.method == "gdpo" and not apart then
    error("method=gdpo is multi_objective_aggregation=normalize_then_sum; leave the latter out, or take method=grpo", 0)
  elseif o.method == "rloo" and apart then
    error("method=rloo takes multi_objective_aggregation=sum_then_normalize; normalize_then_sum is method=gdpo", 0)
  elseif o.method == "rloo" and o.scale_rewards == "group" then
    error("method=rloo takes scale_rewards=none, or batch; with group it would be method=grpo times a constant", 0)
  elseif apart and o.scale_rewards ~= "group" then
    error(("multi_objective_aggregation=normalize_then_sum divides by deviations in the group: scale_rewards=%s has no meaning there")
      :format(o.scale_rewards), 0)
  end
  o.method = apart and "gdpo" or o.method
  return o
end

-- The unbiased deviation of a list from a mean, and whether it is more than rounding; `size` is what the numbers were made of.
local function deviation(list, mean, size)
  local sum = 0
  for _, x in ipairs(list) do
    sum = sum + (x - mean) ^ 2
  end
  local std = (sum / (#list - 1)) ^ 0.5
  return std, std > ROUNDING * size
end

local function mean_of(list)
  local sum = 0
  for _, x in ipairs(list) do
    sum = sum + x
  end
  return sum / #list
end

local function largest(list)
  local most = 0
  for _, x in ipairs(list) do
    most = math.max(most, math.abs(x))
  end
  return most
end

local function check_rows(raw, prefs, size)
  if type(raw) ~= "table" or #raw == 0 or #raw % size ~= 0 or #prefs ~= #raw then
    error(("group.advantages: rewards and preferences of whole groups of %d answers expected"):format(size), 3)
  end
  for i, p in ipairs(prefs) do
    local first = prefs[i - (i - 1) % size]
    for j, x in ipairs(p) do
      if x ~= first[j] then
        error(("group.advantages: the answers of group %d have different preferences"):format((i - 1) // size + 1), 3)
      end
    end
    if #raw[i] ~= #p then
      error(("group.advantages: answer %d has %d rewards and %d weights"):format(i, #raw[i], #p), 3)
    end
  end
end

-- sum_j p_j x_j of some answers
local function weighted(rows, prefs, first, last)
  local list = {}
  for i = first, last do
    local sum = 0
    for j, x in ipairs(rows[i]) do
      sum = sum + prefs[i][j] * x
    end
    list[#list + 1] = sum
  end
  return list
end

-- The rewards of one group without their means, and the deviation of each objective, 0 where all answers have the same.
local function centred(raw, first, last, factor)
  local rows, stds = {}, {}
  for j = 1, #raw[first] do
    local column = {}
    for i = first, last do
      column[#column + 1] = raw[i][j]
    end
    local mean = mean_of(column)
    local std, varies = deviation(column, mean, largest(column))
    stds[j] = varies and std or 0
    for k, x in ipairs(column) do
      rows[k] = rows[k] or {}
      rows[k][j] = varies and (x - mean) * factor or 0.0
    end
  end
  return rows, stds
end

-- Divides by one deviation for all answers, if there is one.
local function divide(rows, std, varies)
  for _, row in ipairs(rows) do
    for j, x in ipairs(row) do
      row[j] = varies and x / std or 0.0
    end
  end
end

--- group.advantages(raw, prefs, o) -> rows, alike. raw[i][j] is reward j of answer i, prefs[i] the weights of its prompt, the same for all
-- of a group, whose answers stand together; o is of group.options. rows[i][j] is what objective j brings to answer i: sum_j p_j
-- rows[i][j] is TRL's advantage without the 1e-4 that TRL adds to each deviation. A group in which nothing that is weighed varies
-- has zeros; alike is the share of such groups (TRL's frac_reward_zero_std).
function group.advantages(raw, prefs, o)
  local size, rows, alike, groups = o.num_generations, {}, 0, 0
  check_rows(raw, prefs, size)
  local apart, loo = o.multi_objective_aggregation == "normalize_then_sum", o.method == "rloo"
  for first = 1, #raw, size do
    local last = first + size - 1
    local part, stds = centred(raw, first, last, loo and size / (size - 1) or 1) -- RLOO: r - mean of the others
    table.move(part, 1, size, first, rows)
    for _, row in ipairs(apart and part or {}) do
      for j, x in ipairs(row) do
        row[j] = stds[j] > 0 and x / stds[j] or 0.0
      end
    end
    local sums = weighted(rows, prefs, first, last)
    local parts = apart and sums or weighted(raw, prefs, first, last)
    local std, varies = deviation(sums, 0.0, math.max(largest(parts), apart and 1 or 0))
    groups, alike = groups + 1, alike + (varies and 0 or 1)
    if o.scale_rewards == "group" and not apart then
      divide(part, std, varies)
    end
  end
  if apart or o.scale_rewards == "batch" then -- GDPO's last step; TRL takes the rewards' deviation for GRPO, the advantages' for RLOO
    local sums = weighted((apart or loo) and rows or raw, prefs, 1, #raw)
    divide(rows, deviation(sums, mean_of(sums), largest(sums)))
  end
  return rows, alike / groups
end

--- group.repeated(list, size) -> each entry size times in a row: the prompts of groups.
function group.repeated(list, size)
  local all = {}
  for i = 1, #list * size do
    all[i] = list[(i - 1) // size + 1]
  end
  return all
end

-- ---- groups whose rewards are all alike, over a run ----

local Alike = {}
Alike.__index = Alike

--- group.alike() -> a count of such groups, a piece of a trainer's state.
function group.alike()
  return setmetatable({ n = 0, sum = 0.0 }, Alike)
end

--- a:add(share) -> share; a:share(), the mean of the shares so far, 0 before the first.
function Alike:add(share)
  self.n, self.sum = self.n + 1, self.sum + share
  return share
end

function Alike:share()
  return self.n > 0 and self.sum / self.n or 0.0
end

--- What a checkpoint needs, and back.
function Alike:state()
  return { n = self.n, sum = self.sum }
end

function Alike:restore(state)
  if type(state) ~= "table" or math.type(state.n) ~= "integer" or type(state.sum) ~= "number" then
    error("group.alike: the state is not one of a count of groups", 2)
  end
  self.n, self.sum = state.n, state.sum
end

--- group.warning(share) -> text, or nil where less than half of the groups were alike.
function group.warning(share)
  if share < 0.5 then
    return nil
  end
  return ("in %.0f %% of the groups all answers had the same reward, so that they taught nothing: "
    .. "raise grpo.num_generations or ppo.temperature"):format(100 * share)
end

return group
