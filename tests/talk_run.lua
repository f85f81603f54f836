--- talk_run: the directory of a tiny finished run of recipes/moc_hh.lua, for the tests of what talks to a policy. One for the
-- process.

local T = require "t"
local child = require "child"

local dir

return function()
  if not dir then
    dir = T.tmpdir() .. "/run"
    local _, err, status = child.mocl { "recipes/moc_hh.lua", "preset=smoke", "quiet=true", "tokenizer.vocab_size=400", "model.hidden_size=16",
      "model.heads=2", "model.intermediate_size=32", "model.layers=1", "documents=40", "reward.prompts=20", "sft.examples=20", "base.steps=2",
      "sft.steps=2", "reward.steps=2", "base.batch_size=4", "sft.batch_size=4", "reward.batch_size=4", "ppo.batch_size=8", "moc.iterations=2",
      "eval.answers=2", "eval.unseen_answers=0", "ppo.max_new_tokens=6", "out=" .. dir }
    T.eq(status, 0, err)
  end
  return dir
end
