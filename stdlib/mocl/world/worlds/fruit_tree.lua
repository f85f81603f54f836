--- mocl.world.worlds.fruit_tree: a full binary tree of depth 5, 6 or 7; every leaf holds a fruit with six nutrients, of which
-- none is dominated by another. An episode is one way from the root down; it pays at the leaf. Deterministic.
--
-- Nodes are numbered by rows from 0, the root; a leaf's index from 0 has the actions as bits, the first one highest.

local world = require "mocl.world"
local tables = require "mocl.world.worlds.fruit_tree_leaves"

local fruit_tree = { OBJECTIVES = { "protein", "carbs", "fats", "vitamins", "minerals", "water" } }

local ZERO = { 0, 0, 0, 0, 0, 0 }

--- The rewards of the leaves: a list of 2^depth lists of six numbers.
function fruit_tree.leaves(depth)
  return tables[depth] or error(("fruit_tree: depth is 5, 6 or 7, got %s"):format(tostring(depth)), 2)
end

--- fruit_tree.new(depth) -> environment; depth 6 by default
function fruit_tree.new(depth)
  depth = depth or 6
  local leaves = fruit_tree.leaves(depth)
  local inner = (1 << depth) - 1
  return world.new {
    name = "fruit_tree", objectives = fruit_tree.OBJECTIVES, actions = 2, states = inner, observation = 2, max_steps = depth,
    reset = function()
      return 0
    end,
    step = function(node, action)
      local child = 2 * node + 1 + action
      if child < inner then
        return child, ZERO, false
      end
      return child, leaves[child - inner + 1], true
    end,
    observe = function(node) -- row and place in the row, both from 0
      local row = 0
      while (2 << row) - 1 <= node do
        row = row + 1
      end
      return { row, node - (1 << row) + 1 }
    end,
  }
end

--- The probability of each leaf under a policy: probabilities[node + 1][action + 1].
function fruit_tree.leaf_probabilities(depth, probabilities)
  local reach, inner = { 1.0 }, (1 << depth) - 1
  for node = 1, inner do
    reach[2 * node] = reach[node] * probabilities[node][1]
    reach[2 * node + 1] = reach[node] * probabilities[node][2]
  end
  return table.move(reach, inner + 1, 2 * inner + 1, 1, {})
end

--- Expected return of a policy: the sum over all leaves, without sampling.
function fruit_tree.expected_return(depth, probabilities)
  local leaves, sum = fruit_tree.leaves(depth), { 0.0, 0.0, 0.0, 0.0, 0.0, 0.0 }
  for i, p in ipairs(fruit_tree.leaf_probabilities(depth, probabilities)) do
    for j = 1, 6 do
      sum[j] = sum[j] + p * leaves[i][j]
    end
  end
  return sum
end

--- The index (from 1) of the leaf that the likeliest actions lead to.
function fruit_tree.greedy_leaf(depth, probabilities)
  local node = 0
  for _ = 1, depth do
    local p = probabilities[node + 1]
    node = 2 * node + (p[2] > p[1] and 2 or 1)
  end
  return node - (1 << depth) + 2
end

return fruit_tree
