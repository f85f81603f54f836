--- moc_reddit: Multi-Objective Control on summaries of Reddit's posts (the paper's table 11): recipes/moc_hh.lua,
-- which is the loop, with the data, the prompts, the objectives and the presets of this task.
--
--   mocl recipes/moc_reddit.lua model=DIR reward.summary=DIR reward.faithful=DIR data=DIR     a model and reward models of your own
--   mocl recipes/moc_reddit.lua data=DIR reward.faithful=DIR        the models but this are trained on the comparisons, small
--   mocl recipes/moc_reddit.lua preset=smoke data=DIR rewards=FILE.lua out=/tmp/x     every stage, tiny
--
-- data is OpenAI's summarize_from_feedback, comparisons. The prompt is that of Rewards-in-Context: an instruction,
-- the post, "### Response:".

local sources = require "mocl.data.sources"

local loop = assert(loadfile((arg[0]:match "^(.*/)[^/]*$" or "") .. "moc_hh.lua"))

loop {
  recipe = "moc_reddit", doc = "Multi-Objective Control on summaries of Reddit's posts (docs/algorithm.md, table 11)",
  schema = sources.posts_schema, small = "reddit",
  source = function(cfg)
    return sources.posts { path = cfg.data, seed = cfg.seed, objectives = cfg.objectives, min_chars = cfg.reddit.min_chars,
      max_chars = cfg.reddit.max_chars, held_out = 0.1 }
  end,
  presets = {
    hh = false,
    smoke = { ["model.positions"] = 512 },
    reddit = { ["tokenizer.vocab_size"] = 2048, ["model.hidden_size"] = 128, ["model.layers"] = 4, ["model.heads"] = 4, ["lora.layers"] = 0,
      ["model.intermediate_size"] = 344, ["model.positions"] = 512, ["base.steps"] = 1200, ["base.batch_size"] = 16, ["base.lr"] = 3e-3,
      ["reward.steps"] = 200, ["reward.batch_size"] = 16, ["reward.lr"] = 3e-4, ["reward.min_accuracy"] = 0.55, ["sft.steps"] = 300,
      ["sft.batch_size"] = 16, ["sft.lr"] = 1e-3, ["ppo.batch_size"] = 64, ["ppo.max_new_tokens"] = 48, ["ppo.lr"] = 1e-3,
      ["ppo.lr_scheduler_type"] = "constant", ["ppo.min_kl_coef"] = 0.01, ["moc.iterations"] = 100, ["control.scale"] = 1.0,
      ["control.least_range"] = 1.0, ["eval.answers"] = 256, ["eval.unseen_answers"] = 128 },
    large = { ["ppo.max_new_tokens"] = 48 },
  },
}
