--- mocl.method.hooks: functions of a user's own in a method: weights of the objectives as a function of the state
-- (schedules, hypervolume-guided weights, max-min goals, thresholds), and rewards that depend on each other.
-- docs/hooks.md has examples.
--
-- A file of hooks returns { weights = function(state) -> list or nil, rewards = function(row, prompt, response) ->
-- list }, either or both. The state has preference (the list p), place (of p in the grid, or in the batch), mean
-- (running, of the raw rewards of the answers to p, a number for each objective), means (the same of every place,
-- false where nothing was seen), iteration (from 1), total (nil where unknown).

local functions = require "mocl.functions"

local hooks = {}

local KINDS = { rewards = true, weights = true }

local function shown(list)
  local words = {}
  for k, x in ipairs(list) do
    words[k] = tostring(x)
  end
  return "{" .. table.concat(words, ", ") .. "}"
end

-- a list of n finite numbers, or the reason why it is none
local function numbers(list, n)
  if type(list) ~= "table" then
    return ("returned a %s, a list of %d numbers expected"):format(type(list), n)
  elseif #list ~= n then
    return ("returned %d numbers, %d expected"):format(#list, n)
  end
  for j = 1, n do
    if type(list[j]) ~= "number" or list[j] - list[j] ~= 0 then
      return ("returned %s as number %d, a finite number expected"):format(tostring(list[j]), j)
    end
  end
end

--- hooks.weights(f, state, n) -> n weights, none negative, of sum 1: what f returns for the state, or the preference
-- where it returns nil.
function hooks.weights(f, state, n)
  local list = f(state)
  if list == nil then
    return state.preference
  end
  local why, sum = numbers(list, n), 0.0
  for j = 1, why and 0 or n do
    sum = sum + list[j]
    why = why or list[j] < 0 and ("returned the negative weight %g for objective %d"):format(list[j], j) or nil
  end
  if not why and math.abs(sum - 1) > 1e-6 then
    why = ("returned %s, which sums to %.9g, not 1"):format(shown(list), sum)
  end
  if why then
    error(("weights: %s (preference %s, iteration %d)"):format(why, shown(state.preference), state.iteration), 0)
  end
  return list
end

--- hooks.rewards(f, rows, prompts, responses) -> rows of as many numbers: f(row, prompt, response) of each; the latter
-- two are nil where there are no texts. f gets a copy of the row.
function hooks.rewards(f, rows, prompts, responses)
  local list = {}
  for i, row in ipairs(rows) do
    local new = f(table.move(row, 1, #row, 1, {}), prompts and prompts[i], responses and responses[i])
    local why = numbers(new, #row)
    if why then
      error(("rewards: %s (answer %d, whose rewards are %s)"):format(why, i, shown(row)), 0)
    end
    list[i] = new
  end
  return list
end

--- hooks.open(path, n, preferences) -> {weights =, rewards =}. Of an empty path an empty table. What the file holds is
-- tried once: weights with each of the preferences and means of 0, rewards with a row of zeros. Raises with the file's
-- name.
function hooks.open(path, n, preferences)
  if path == "" then
    return {}
  end
  local found, message = functions.load(path, "hook")
  if not found then
    error("control.hooks: " .. message, 0)
  end
  for name in pairs(found) do
    if not KINDS[name] then
      error(("control.hooks: %s: unknown hook '%s' (known: rewards, weights)"):format(path, name), 0)
    end
  end
  local zeros, means = {}, {}
  for j = 1, n do
    zeros[j] = 0.0
  end
  for place in ipairs(preferences) do
    means[place] = zeros
  end
  local ok, err = pcall(function()
    for place, p in ipairs(found.weights and preferences or {}) do
      hooks.weights(found.weights, { preference = p, place = place, mean = zeros, means = means, iteration = 1, total = 1 }, n)
    end
    if found.rewards then
      hooks.rewards(found.rewards, { zeros }, { "" }, { "" })
    end
  end)
  if not ok then
    error(type(err) == "string" and ("control.hooks: %s: %s; nothing has been trained yet"):format(path, err) or err, 0)
  end
  return found
end

return hooks
