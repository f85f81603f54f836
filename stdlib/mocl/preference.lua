--- mocl.preference: preference vectors, the text that carries them, the order they are dealt in.
-- A preference is a list of N numbers, none negative, that sum to 1; entry j weighs objective j.
-- Nothing is rescaled: a list that does not sum to 1 is refused, never normalised.

local deck = require "mocl.deck"
local shown = require "mocl.options".shown

local preference = {
  EDGE = 0.25, -- share of random's draws on the edge in texts that teach a model what tags look like
}

local SUM_TOLERANCE = 1e-6

local function show(p)
  local parts = {}
  for i, w in ipairs(p) do
    parts[i] = shown(w, "%.6g")
  end
  return "{" .. table.concat(parts, ", ") .. "}"
end

--- check(p) -> p. Raises where p is not a preference vector.
function preference.check(p, level)
  level = (level or 1) + 1
  if type(p) ~= "table" or #p == 0 then
    error(("a preference is a list of numbers such as {0.3, 0.7}, got %s"):format(
      type(p) == "table" and "an empty table" or type(p)), level)
  end
  local sum = 0
  for i, w in ipairs(p) do
    if type(w) ~= "number" then
      error(("preference %s: entry %d is a %s, not a number"):format(show(p), i, type(w)), level)
    end
    if w < 0 then
      error(("preference %s has a negative weight"):format(show(p)), level)
    end
    sum = sum + w
  end
  if not (math.abs(sum - 1) <= SUM_TOLERANCE) then -- written so that nan is refused too
    error(("preference %s sums to %s, not 1"):format(show(p), shown(sum, "%.7g")), level)
  end
  return p
end

--- tagged(prompts, preferences) -> the prompts with tags in front, as relabel writes them: preferences are a list of one for each
-- prompt, or one for all.
function preference.tagged(prompts, preferences)
  local texts, one = {}, type(preferences[1]) == "number"
  for i, prompt in ipairs(prompts) do
    texts[i] = preference.relabel(prompt, one and preferences or preferences[i])
  end
  return texts
end

--- relabel(prompt, p) -> the prompt with the tags in front, equation 3: "<R1> 0.30 <R2> 0.70 ...".
function preference.relabel(prompt, p)
  preference.check(p, 2)
  local parts = {}
  for j, w in ipairs(p) do
    parts[j] = ("<R%d> %.2f "):format(j, w)
  end
  parts[#parts + 1] = prompt
  return table.concat(parts)
end

--- strip(text) -> prompt, p. Takes the tags off again; p is nil where there were none.
function preference.strip(text)
  local p, rest = {}, text
  while true do
    local j, w, after = rest:match("^<R(%d+)> (%d%.%d%d) (.*)$")
    if tonumber(j) ~= #p + 1 then
      break
    end
    p[#p + 1], rest = tonumber(w), after
  end
  return rest, #p > 0 and p or nil
end

-- Thirteen vectors of the simplex of three objectives, those of Rewards-in-Context's evaluation.
local THREE = {
  { 0, 0, 1 }, { 0, 1, 0 }, { 0.1, 0.1, 0.8 }, { 0.1, 0.8, 0.1 }, { 0.2, 0.2, 0.6 },
  { 0.2, 0.4, 0.4 }, { 0.2, 0.6, 0.2 }, { 1 / 3, 1 / 3, 1 / 3 }, { 0.4, 0.4, 0.2 },
  { 0.4, 0.2, 0.4 }, { 0.6, 0.2, 0.2 }, { 0.8, 0.1, 0.1 }, { 1, 0, 0 },
}

local function copy(list)
  local out = {}
  for i, p in ipairs(list) do
    out[i] = table.move(p, 1, #p, 1, {})
  end
  return out
end

--- grid(n_objectives) -> the preferences that are trained and evaluated.
function preference.grid(n_objectives)
  if n_objectives == 1 then
    return { { 1 } }
  elseif n_objectives == 2 then
    local list = {}
    for i = 0, 10 do
      list[i + 1] = { i / 10, (10 - i) / 10 }
    end
    return list
  elseif n_objectives == 3 then
    return copy(THREE)
  end
  error(("grid: there is one for 1, 2 or 3 objectives, not for %s; list your preferences"):format(
    tostring(n_objectives)), 2)
end

--- weight(text) -> name, weight of a text such as "humor=.7", or nil and what is wrong.
function preference.weight(text)
  local name, value = text:match "^([^=]+)=(.+)$"
  value = tonumber(value)
  if not value then
    return nil, ("'%s' is no weight such as humor=.7"):format(text)
  end
  return name, value
end

--- list(texts, n_objectives) -> preferences from texts such as "0.3:0.7"; of an empty list the grid. Raises, for a user, where
-- one is none, has another number of weights, or stands there twice.
function preference.list(texts, n_objectives)
  if #texts == 0 then
    return preference.grid(n_objectives)
  end
  local list, seen = {}, {}
  for i, text in ipairs(texts) do
    local p = {}
    for word in (text .. ":"):gmatch "([^:]*):" do
      p[#p + 1] = tonumber(word) or error(("preferences: '%s' is no weight in '%s'; write them as 0.3:0.7"):format(word, text), 0)
    end
    local ok, message = pcall(preference.check, p, -1)
    if not ok then
      error("preferences: " .. message, 0)
    elseif #p ~= n_objectives then
      error(("preferences: '%s' has %d weights for %d objectives"):format(text, #p, n_objectives), 0)
    end
    local key = table.concat(p, ":")
    if seen[key] then
      error(("preferences: '%s' stands there twice"):format(text), 0)
    end
    list[i], seen[key] = p, true
  end
  return list
end

-- Hundredths of the first weight: no multiple of 10, at least 8 apart and each in tens of its own
-- within a group, so that neighbours differ in their first digit too.
local UNSEEN_TWO = {
  { 7, 23, 45, 68, 91 },
  { 12, 34, 56, 77, 98 },
  { 3, 26, 41, 64, 85 },
  { 15, 37, 53, 72, 94 },
}

-- Hundredths of the three weights, within a group at least 0.2 apart in the sum of differences.
local UNSEEN_THREE = {
  { { 72, 15, 13 }, { 14, 69, 17 }, { 12, 17, 71 }, { 43, 44, 13 }, { 26, 37, 37 } },
  { { 57, 31, 12 }, { 13, 56, 31 }, { 32, 13, 55 }, { 84, 7, 9 }, { 29, 34, 37 } },
  { { 47, 5, 48 }, { 6, 47, 47 }, { 51, 42, 7 }, { 36, 29, 35 }, { 8, 83, 9 } },
  { { 63, 14, 23 }, { 22, 64, 14 }, { 15, 23, 62 }, { 38, 36, 26 }, { 5, 6, 89 } },
}

--- unseen_groups(n_objectives) -> four groups of five preferences that no grid contains.
function preference.unseen_groups(n_objectives)
  local groups = {}
  if n_objectives == 2 then
    for g, weights in ipairs(UNSEEN_TWO) do
      groups[g] = {}
      for i, n in ipairs(weights) do
        groups[g][i] = { n / 100, (100 - n) / 100 }
      end
    end
  elseif n_objectives == 3 then
    for g, group in ipairs(UNSEEN_THREE) do
      groups[g] = {}
      for i, p in ipairs(group) do
        groups[g][i] = { p[1] / 100, p[2] / 100, p[3] / 100 }
      end
    end
  else
    error(("unseen_groups: there are groups for 2 or 3 objectives, not for %s"):format(
      tostring(n_objectives)), 2)
  end
  return groups
end

-- whole hundredths, each vector alike likely
local function inside(rng, n_objectives)
  -- n - 1 different bars among 100 + n - 1 places leave n gaps that sum to 100
  local bars, used = {}, {}
  while #bars < n_objectives - 1 do
    local bar = rng:integer(1, 99 + n_objectives)
    if not used[bar] then
      used[bar] = true
      bars[#bars + 1] = bar
    end
  end
  table.sort(bars)
  bars[n_objectives] = 100 + n_objectives
  local p, last = {}, 0
  for j, bar in ipairs(bars) do
    p[j] = (bar - last - 1) / 100
    last = bar
  end
  return p
end

--- random(rng, n_objectives, edge) -> a preference in whole hundredths, each of them alike likely. Of three weights
-- or more none is ever 0 to speak of, and a grid has such corners: there a share `edge` (0) of the draws leaves out one
-- objective or more, how many and which alike likely.
function preference.random(rng, n_objectives, edge)
  if n_objectives < 3 or not edge or rng:uniform() >= edge then
    return inside(rng, n_objectives)
  end
  local places, p = {}, {}
  for j = 1, n_objectives do
    places[j], p[j] = j, 0.0
  end
  rng:shuffle(places)
  for i, w in ipairs(inside(rng, rng:integer(1, n_objectives - 1))) do
    p[places[i]] = w
  end
  return p
end

local function hundredths(p)
  local h = {}
  for j, w in ipairs(p) do
    h[j] = math.floor(w * 100 + 0.5)
  end
  return h
end

local unseen -- set of the texts of the unseen preferences' hundredths
local function is_unseen(h)
  if not unseen then
    unseen = {}
    for n = 2, 3 do
      for _, group in ipairs(preference.unseen_groups(n)) do
        for _, p in ipairs(group) do
          unseen[table.concat(hundredths(p), " ")] = true
        end
      end
    end
  end
  return unseen[table.concat(h, " ")]
end

--- jitter(rng, p, range) -> a preference in whole hundredths no weight of which is further than `range` from p's,
-- never one of the unseen groups. Weights move by whole hundredths, all such moves alike likely. A corner (one weight
-- is 1) stays as it is: it could only move inward.
function preference.jitter(rng, p, range)
  preference.check(p, 2)
  local k, n, centre = math.floor(range * 100 + 0.5), #p, hundredths(p)
  if k < 1 or math.max(table.unpack(centre)) == 100 then
    return p
  end
  while true do
    local h, rest, near = {}, 100, true
    for j = 1, n do
      h[j] = j < n and centre[j] + rng:integer(-k, k) or rest
      rest = rest - h[j]
      near = near and h[j] >= 0 and math.abs(h[j] - centre[j]) <= k
    end
    if near and not is_unseen(h) then
      for j = 1, n do
        h[j] = h[j] / 100
      end
      return h
    end
  end
end

--- preference.deck(rng, list) -> a deck (mocl.deck) that deals these preferences, each checked.
function preference.deck(rng, list)
  if type(list) ~= "table" or #list == 0 then
    error("deck: a list of at least one preference expected", 2)
  end
  for _, p in ipairs(list) do
    preference.check(p, 2)
  end
  return deck.new(rng, copy(list))
end

return preference
