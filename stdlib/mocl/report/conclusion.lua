--- mocl.report.conclusion: what to conclude from a result, in sentences that its figures make.

local results = require "mocl.report.results"
local svg = require "mocl.report.svg"

local conclusion = {}

local as_table = results.as_table

local function number(v)
  return math.abs(v) >= 1000 and ("%.0f"):format(v) or ("%.3g"):format(v)
end

-- The rewards of objective j at its least and at its greatest weight, and these weights; nil where the weights do not differ.
local function ends(part, preferences, n, j)
  local least, most
  for i, r in ipairs(as_table(part.rewards) or {}) do
    local p = as_table((as_table(preferences) or {})[i])
    if results.is_point(r, n) and results.is_point(p, n) then
      if not least or p[j] < least.w then
        least = { w = p[j], r = r[j] }
      end
      if not most or p[j] > most.w then
        most = { w = p[j], r = r[j] }
      end
    end
  end
  return least and least.w < most.w and least or nil, most
end

-- how far the preference decides, in words
local function control(result)
  local tau, p = result.kendall_tau, result.kendall_p
  if not svg.finite(tau) then
    return nil
  end
  local figure = ("Kendall's tau %s"):format(("%.3f"):format(tau))
  if tau <= 0 or svg.finite(p) and p > 0.05 then
    return ("The preference does not steer the rewards: their order is no better than chance would make it (%s%s).")
      :format(figure, svg.finite(p) and (", p = %s"):format(number(p)) or "")
  elseif tau < 0.7 then
    return ("The preference steers the rewards in part (%s; 1 is full control)."):format(figure)
  elseif tau < 0.95 then
    return ("The preference steers the rewards, with exceptions (%s; 1 is full control)."):format(figure)
  end
  return ("The preference steers the rewards: they stand in its order (%s, where 1 is full control)."):format(figure)
end

-- "humor goes from 0.7 to 3.5 and helpful from ... as their weights go from 0 to 1"
local function spread(result, part, objectives)
  local words, from, to = {}, nil, nil
  for j, name in ipairs(objectives) do
    local low, high = ends(part, as_table(part.preferences) or result.preferences, #objectives, j)
    if not low then
      return nil
    end
    words[j] = ("%s%s from %s to %s"):format(name, j == 1 and " goes" or "", number(low.r), number(high.r))
    from, to = math.min(from or low.w, low.w), math.max(to or high.w, high.w)
  end
  local last = table.remove(words)
  local list = #words > 0 and table.concat(words, ", ") .. " and " .. last or last
  local text = ("The mean reward of %s as %s from %s to %s"):format(list, #objectives > 1 and "their weights go" or "its weight goes",
    number(from), number(to))
  local sft = as_table(result.sft)
  local ones = sft and results.is_point(sft.rewards, #objectives)
  for j = 1, ones and #objectives or 0 do
    ones = ones and math.abs(sft.rewards[j] - 1) < 1e-6
  end
  return text .. (ones and ", where the model before this training has 1." or ".")
end

-- the hypervolume beside the SFT model's, or else beside that of the best other method
local function volume(result, list)
  local own, sft = result.hypervolume, as_table(result.sft)
  if not svg.finite(own) then
    return nil
  end
  local other, name = sft and sft.hypervolume, "the model before it"
  for k = 2, svg.finite(other) and 0 or #list do
    local v = list[k].part.hypervolume
    if svg.finite(v) and (not svg.finite(other) or v > other) then
      other, name = v, list[k].name
    end
  end
  if not svg.finite(other) then
    return nil
  end
  return ("Its front dominates a hypervolume of %s, that of %s %s%s."):format(number(own), name, number(other),
    own <= other and ": this run has brought nothing" or "")
end

--- Two or three sentences on control, range and volume; "" where the result has no such figures.
function conclusion.text(result)
  local list, objectives = results.methods(result), results.objectives(result)
  local out = {}
  if list[1] and list[1].part == result and #objectives > 0 then
    out[#out + 1] = control(result)
    out[#out + 1] = spread(result, result, objectives)
    out[#out + 1] = volume(result, list)
  end
  return table.concat(out, " ")
end

return conclusion
