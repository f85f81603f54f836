--- mocl.method.ric: Rewards-in-Context (Yang et al. 2024, arXiv 2402.10207): prompts that show the rewards an answer earned, which a
-- model learns to answer by supervised training; at inference they show rewards that are asked for, by the preference.
-- Scores are rewards in deviations of the training answers', rounded to a tenth, as the method's program has them.

local metrics = require "mocl.metrics"

local ric = {}

--- From a preference to the scores that are asked for.
ric.MAPS = { "l2", "linf", "linear" }

local DRAWS = { scores = 50000, goals = 100000 } -- of N(0, 1), whose extremes stand for the range of scores

local function tenth(x)
  return math.floor(x * 10 + 0.5) / 10
end

--- ric.statistics(rows, names) -> {mean=, std=}: of the rewards of rows {rewards=}, population deviations. Raises where a reward does not vary: no score
-- could tell its answers apart.
function ric.statistics(rows, names)
  local s, raw = { mean = {}, std = {} }, {}
  for i, row in ipairs(rows) do
    raw[i] = row.rewards
  end
  for j, name in ipairs(names) do
    s.mean[j], s.std[j] = metrics.mean_std(metrics.column(raw, j))
    if s.std[j] <= 1e-12 * math.abs(s.mean[j]) then
      error(("reward '%s' is %g for all %d answers to train on: scores need one that varies"):format(name, s.mean[j], #rows), 0)
    end
  end
  return s
end

--- ric.normalize(rows, statistics) -> scores: (r - mean) / std, rounded to a tenth.
function ric.normalize(rows, statistics)
  local scores = {}
  for i, row in ipairs(rows) do
    scores[i] = {}
    for j, r in ipairs(row.rewards) do
      scores[i][j] = tenth((r - statistics.mean[j]) / statistics.std[j])
    end
  end
  return scores
end

--- ric.tagged(prompt, scores) -> the prompt with its scores: "<rm1_score> 0.3 <rm2_score> -1.2 " in front of the last "\n\nAssistant:" of a
-- prompt that ends with it, else of the prompt.
function ric.tagged(prompt, scores)
  local parts = {}
  for j, s in ipairs(scores) do
    parts[j] = ("<rm%d_score> %.1f "):format(j, s == 0 and 0 or s) -- no -0.0
  end
  local tags, before, mark = table.concat(parts), prompt:match "^(.-)%s*(\n\nAssistant:)$"
  return before and before .. " " .. tags .. mark or tags .. prompt
end

-- smallest and largest of n draws of N(0, 1)
local function extremes(r, n)
  local low, high = math.huge, -math.huge
  for _ = 1, n do
    local x = r:normal()
    low, high = math.min(low, x), math.max(high, x)
  end
  return low, high
end

--- ric.gaussian(r, n) -> {low=, high=}: for each of n objectives the extremes of 50,000 draws of N(0, 1) from the stream.
function ric.gaussian(r, n)
  local range = { low = {}, high = {} }
  for j = 1, n do
    range.low[j], range.high[j] = extremes(r, DRAWS.scores)
  end
  return range
end

--- ric.range(scores) -> {low=, high=}: the extremes of each objective's scores.
function ric.range(scores)
  local range = { low = {}, high = {} }
  for j = 1, #scores[1] do
    local column = metrics.column(scores, j)
    range.low[j], range.high[j] = math.min(table.unpack(column, 1, 1)), column[1]
    for _, s in ipairs(column) do
      range.low[j], range.high[j] = math.min(range.low[j], s), math.max(range.high[j], s)
    end
  end
  return range
end

--- ric.scores(p, range, map="l2") -> the scores that are asked for under preference p, rounded to a tenth. With low and high of each
-- objective's range, "l2" asks for low + (high - low) p_j / |p|, "linear" for low + (high - low) p_j, and "linf" for high of the
-- objective with the greatest weight (the first of equal ones) and low + (high - low) min(N p_j, 1) of the others.
function ric.scores(p, range, map)
  map = map or "l2"
  local norm, first, scores = 0, 1, {}
  for j, w in ipairs(p) do
    norm, first = norm + w * w, w > p[first] and j or first
  end
  for j, w in ipairs(p) do
    local share
    if map == "l2" then
      share = w / norm ^ 0.5
    elseif map == "linear" then
      share = w
    elseif map == "linf" then
      share = j == first and 1 or math.min(#p * w, 1)
    else
      error(("ric.scores: unknown map '%s' (%s)"):format(tostring(map), table.concat(ric.MAPS, ", ")), 2)
    end
    scores[j] = tenth(share * (range.high[j] - range.low[j]) + range.low[j])
  end
  return scores
end

--- ric.goals(r, n, count) -> count lists of n scores to ask for in the online stage: each is uniform between the extremes of 100,000
-- draws of N(0, 1), then all but the smallest are set to the upper one.
function ric.goals(r, n, count)
  local low, high = extremes(r, DRAWS.goals)
  low, high = tenth(low), tenth(high)
  local list = {}
  for i = 1, count do
    local goal, least = {}, 1
    for j = 1, n do
      goal[j] = tenth(r:uniform() * (high - low) + low)
      least = goal[j] < goal[least] and j or least
    end
    for j = 1, n do
      goal[j] = j == least and goal[j] or high
    end
    list[i] = goal
  end
  return list
end

--- ric.select(scores, threshold) -> list of places: multi-objective rejection sampling. An answer is kept where one of its scores at least
-- reaches that objective's quantile (between two, on the straight line from one to the other).
function ric.select(scores, threshold)
  local cuts, kept = {}, {}
  for j = 1, scores[1] and #scores[1] or 0 do
    local column = metrics.column(scores, j)
    table.sort(column)
    local place = 1 + (#column - 1) * threshold
    local below = math.floor(place)
    cuts[j] = column[below] + (place - below) * ((column[below + 1] or column[below]) - column[below])
  end
  for i, row in ipairs(scores) do
    local reached = false
    for j, s in ipairs(row) do
      reached = reached or s >= cuts[j]
    end
    kept[#kept + 1] = reached and i or nil
  end
  return kept
end

--- ric.examples(rows, scores, places) -> list of {prompt=, response=} to train on: those rows {prompt=, response=}, whose prompts show what
-- their answers earned. places: of rows; nil: all.
function ric.examples(rows, scores, places)
  local list = {}
  for k = 1, places and #places or #rows do
    local i = places and places[k] or k
    list[k] = { prompt = ric.tagged(rows[i].prompt, scores[i]), response = rows[i].response }
  end
  return list
end

return ric
