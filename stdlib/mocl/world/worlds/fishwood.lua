--- mocl.world.worlds.fishwood: fishing or collecting wood, 200 steps. A state pays before the action moves: in the woods one
-- wood with probability `wood`, at the lake one fish with probability `fish`. Episodes start in the woods.
--
-- State and action 0 is the lake, 1 the woods. MO-Gymnasium's fishwood-v0 pays {fish, wood}; here it is {wood, fish}.

local world = require "mocl.world"

local fishwood = { STEPS = 200 }

local NOTHING, WOOD, FISH = { 0, 0 }, { 1, 0 }, { 0, 1 }

local function options(o)
  local wood, fish = o and o.wood or 0.5, o and o.fish or 0.5
  for name, p in pairs { wood = wood, fish = fish } do
    if type(p) ~= "number" or not (p >= 0 and p <= 1) then
      error(("fishwood: %s is a probability, got %s"):format(name, tostring(p)), 3)
    end
  end
  return wood, fish
end

--- fishwood.new{wood=.5, fish=.5} -> environment
function fishwood.new(o)
  local wood, fish = options(o)
  return world.new {
    name = "fishwood", objectives = { "wood", "fish" }, actions = 2, states = 2, observation = 1, time_limit = fishwood.STEPS,
    reset = function()
      return 1
    end,
    step = function(s, action, rng)
      local reward = NOTHING
      if rng:uniform() < (s == 1 and wood or fish) then
        reward = s == 1 and WOOD or FISH
      end
      return action, reward, false
    end,
    observe = function(s)
      return { s }
    end,
  }
end

--- Expected return {wood, fish} of a policy: probabilities[s + 1][a + 1], by the Markov chain, without sampling.
function fishwood.expected_return(probabilities, o)
  local wood, fish = options(o)
  local lake, woods, sum = 0.0, 1.0, { 0.0, 0.0 }
  for _ = 1, fishwood.STEPS do
    sum[1], sum[2] = sum[1] + woods * wood, sum[2] + lake * fish
    woods = lake * probabilities[1][2] + woods * probabilities[2][2]
    lake = 1 - woods
  end
  return sum
end

--- The end points of the front of expected returns, a straight line: k of 200 steps in the woods, k = 1 .. 200.
function fishwood.front(o)
  local wood, fish = options(o)
  return { { wood, (fishwood.STEPS - 1) * fish }, { fishwood.STEPS * wood, 0.0 } }
end

return fishwood
