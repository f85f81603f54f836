--- 04_rewards: rewards as functions, for a run that trades them off. Each gets lists of prompts and answers (plain
-- text, without preference tags) and returns one number per answer.
--
--   mocl recipes/moc_hh.lua rewards=examples/04_rewards.lua objectives=brief,polite

local POLITE = { "please", "thank", "sorry", "help" }

return {
  brief = function(_, responses)
    local scores = {}
    for i, text in ipairs(responses) do
      scores[i] = -#text / 100
    end
    return scores
  end,

  polite = function(_, responses)
    local scores = {}
    for i, text in ipairs(responses) do
      scores[i] = 0
      for _, word in ipairs(POLITE) do
        local _, n = text:lower():gsub(word, "")
        scores[i] = scores[i] + n
      end
    end
    return scores
  end,
}
