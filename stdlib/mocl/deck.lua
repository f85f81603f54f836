--- mocl.deck: draws without replacement: a list is dealt in shuffled order, then shuffled again.
-- The deck is the only user of its rng, so that state and restore cover what it will deal.

local deck = {}

local Deck = {}
Deck.__index = Deck

--- deck.new(rng, list)
function deck.new(rng, list)
  if type(list) ~= "table" or #list == 0 then
    error("deck: a list of at least one entry expected", 2)
  end
  return setmetatable({ rng = rng, list = list, order = {}, dealt = 0 }, Deck)
end

--- d:deal(n) -> n entries, and their places in the list.
function Deck:deal(n)
  local out, places = {}, {}
  for i = 1, n do
    if self.dealt == #self.order then
      for k = 1, #self.list do
        self.order[k] = k
      end
      self.rng:shuffle(self.order)
      self.dealt = 0
    end
    self.dealt = self.dealt + 1
    places[i] = self.order[self.dealt]
    out[i] = self.list[places[i]]
  end
  return out, places
end

--- d:state() -> a table of numbers, for d:restore on a deck made from the same list.
function Deck:state()
  return {
    order = table.move(self.order, 1, #self.order, 1, {}),
    dealt = self.dealt,
    position = self.rng:position(),
  }
end

-- a list of all integers from 1 to n
local function is_order(list, n)
  local seen = {}
  for i = 1, n do
    local k = list[i]
    if math.type(k) ~= "integer" or k < 1 or k > n or seen[k] then
      return false
    end
    seen[k] = true
  end
  return true
end

function Deck:restore(state)
  if type(state) ~= "table" or type(state.order) ~= "table" or not is_order(state.order, #state.order)
    or math.type(state.dealt) ~= "integer" or state.dealt < 0 or state.dealt > #state.order
    or math.type(state.position) ~= "integer" then
    error("restore: the state is not one of a deck", 2)
  elseif #state.order ~= 0 and #state.order ~= #self.list then
    error(("restore: the state is of a deck of %d entries, this one has %d"):format(#state.order, #self.list), 2)
  end
  self.order = table.move(state.order, 1, #state.order, 1, {})
  self.dealt = state.dealt
  self.rng:seek(state.position)
end

return deck
