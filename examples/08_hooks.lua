--- 08_hooks: weights and rewards of one's own in a recipe; 07_goals.lua has more of them.
--
--   mocl recipes/moc_hh.lua control.hooks=examples/08_hooks.lua

return {
  -- the first half of the training goes from equal weights to the preference
  weights = function(state)
    local a, w = math.min(1, 2 * state.iteration / state.total), {}
    for j, p in ipairs(state.preference) do
      w[j] = (1 - a) / #state.preference + a * p
    end
    return w
  end,

  -- the second reward counts in full where the first is above 0, and else as far as it is bad
  rewards = function(row)
    row[2] = row[1] > 0 and row[2] or math.min(row[2], 0)
    return row
  end,
}
