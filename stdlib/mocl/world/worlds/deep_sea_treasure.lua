--- mocl.world.worlds.deep_sea_treasure: a submarine in a grid of 11 rows and 11 columns. Treasures lie on the sea floor, the
-- more valuable the deeper and the farther; each step costs one unit of time. Deterministic.
--
-- The values are those of Yang et al. 2019 ("convex") and of Vamplew et al. 2011 ("concave").

local world = require "mocl.world"

local treasure = {}

local SIZE = 11
local FLOOR = { 1, 2, 3, 4, 4, 4, 7, 7, 9, 10 } -- row (from 0) of the treasure in each column but the last, which has none
local VALUES = {
  convex = { 0.7, 8.2, 11.5, 14.0, 15.1, 16.1, 19.6, 20.3, 22.4, 23.7 },
  concave = { 1, 2, 3, 5, 8, 16, 24, 50, 74, 124 },
}
local MOVES = { [0] = { -1, 0 }, { 1, 0 }, { 0, -1 }, { 0, 1 } } -- up, down, left, right

local function values(map)
  return VALUES[map or "convex"] or error(("deep_sea_treasure: map is 'convex' or 'concave', got '%s'"):format(tostring(map)), 3)
end

--- deep_sea_treasure.new{map="convex", time_limit=100} -> environment
function treasure.new(o)
  local worth = values(o and o.map)
  return world.new {
    name = "deep_sea_treasure", objectives = { "treasure", "time" }, actions = 4, states = SIZE * SIZE, observation = 2,
    time_limit = o and o.time_limit or 100,
    reset = function()
      return 0
    end,
    step = function(s, action)
      local row, column = s // SIZE + MOVES[action][1], s % SIZE + MOVES[action][2]
      local floor = FLOOR[column + 1] or SIZE - 1
      if row < 0 or row >= SIZE or column < 0 or column >= SIZE or row > floor then
        return s, { 0, -1 }, false -- the wall or the rock below the treasures
      end
      local found = FLOOR[column + 1] == row
      return row * SIZE + column, { found and worth[column + 1] or 0, -1 }, found
    end,
    observe = function(s)
      return { s // SIZE, s % SIZE }
    end,
  }
end

--- The undiscounted front: {treasure, time} for each treasure, by the shortest way.
function treasure.front(map)
  local front = {}
  for c, v in ipairs(values(map)) do
    front[c] = { v, -(FLOOR[c] + c - 1) }
  end
  return front
end

return treasure
