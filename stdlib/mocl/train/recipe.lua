--- mocl.train.recipe: a recipe of a language model (one that calls stages.open) as a part of another program: what it says of
-- itself, its options for a list of words, and its run, in this process.

local stages = require "mocl.train.stages"

local recipe = {}

local Recipe = {}
Recipe.__index = Recipe

-- The recipe's chunk, with the program's arguments and stages.open in place of its own.
local function load_chunk(path, words, open)
  local args = table.move(words, 1, #words, 1, { [0] = path })
  local own = setmetatable({ open = open }, { __index = stages })
  local function require_own(name)
    return name == "mocl.train.stages" and own or require(name)
  end
  local chunk, message = loadfile(path, "t", setmetatable({ arg = args, require = require_own }, { __index = _G }))
  return chunk or error(message, 0)
end

--- recipe.open(path) -> r with r.name and what else the recipe gives stages.open: schema, presets, method, check. Raises where the
-- file cannot be read or does not call stages.open.
function recipe.open(path)
  local said = {}
  local ok, message = pcall(load_chunk(path, {}, function(o)
    said.o = o
    error(said, 0)
  end))
  if ok or message ~= said then
    error(("%s: is no recipe of a language model: %s"):format(path, ok and "it does not call stages.open" or tostring(message)), 0)
  end
  return setmetatable({ path = path, name = said.o.recipe, said = said.o }, Recipe)
end

--- r:options(words) -> cfg, info: the options that these words make; raises as the recipe would before it has a directory.
function Recipe:options(words)
  return stages.options(setmetatable({ arg = table.move(words, 1, #words, 1, { [0] = self.path }) }, { __index = self.said }))
end

--- r:check_data(words): raises where there are no data for these options, as the recipe would.
function Recipe:check_data(words)
  stages.check_data((self:options(words)))
end

--- r:run(words): runs the recipe with these words to its end; it prints no tables. Raises what the recipe raises. A signal ends the
-- process where it would end the recipe.
function Recipe:run(words)
  stages.without_tables(load_chunk(self.path, words, stages.open))
end

return recipe
