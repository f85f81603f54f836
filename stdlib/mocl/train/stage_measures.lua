--- mocl.train.stage_measures: the stages of a language-model run that measure a policy: the SFT model's answers and the
-- statistics of all figures, answers kept in a file, the evaluation under each preference and its curve over checkpoints.
-- `stages` is here the part of mocl.train.stages that this file has; mocl.train.stages exports what recipes use of it.

local data = require "mocl.data"
local fluency = require "mocl.lm.fluency"
local json = require "mocl.json"
local metrics = require "mocl.metrics"
local policy = require "mocl.lm.policy"
local preference = require "mocl.preference"
local reward = require "mocl.lm.reward"
local rng = require "mocl.rng"
local tensor = require "mocl.tensor"
local stage_models = require "mocl.train.stage_models"

local say = stage_models.say
local stages = {}

local JUDGED = { ["sft evaluation"] = true, evaluation = true } -- purposes of measure that eval.fluency and eval.blind are about

-- answers of the policy under each preference
local function measure(ctx, preferences, purpose, prompts, n, adapter, o)
  local line = stage_models.bar(ctx, purpose, #preferences)
  local list = ctx.policy:measure_all(preferences, {
    prompts = prompts, n = n, seed = ctx.cfg.seed, purpose = purpose, adapter = adapter, rewards = ctx.rewards,
    audit = ctx.source.audit, before = o and o.before, answer = o and o.answer, fluency = JUDGED[purpose] and ctx.cfg.eval.fluency,
    blind = JUDGED[purpose] and ctx.blind or nil,
    on_step = function(i)
      line:update(i)
    end,
  })
  line:done()
  return list
end

local function keep_samples(ctx, name, step, list)
  for i, m in ipairs(list) do
    for _, s in ipairs(m.sample) do
      ctx.run:sample { model = name, step = step, preference = ctx.grid[i],
        prompt = s.prompt, response = s.response, rewards = policy.normalize(s.rewards, ctx.sft.statistics) }
    end
  end
end

-- how the normalised rewards of raw rows are distributed, per objective; 12 deviations of the SFT model either way, or
-- as many units of a reward that did not vary
local function histograms(rows, statistics)
  local out, constant, normalized = {}, policy.constant(statistics), {}
  for i, row in ipairs(rows) do
    normalized[i] = policy.normalize(row, statistics)
  end
  for j = 1, #statistics.mean do
    local middle = constant and constant[j] and statistics.mean[j] or 1
    local half = math.max(6, 1e-6 * math.abs(middle)) -- 6 is nothing beside 1e17
    out[j] = metrics.histogram(metrics.column(normalized, j), middle - half, middle + half, 120)
  end
  return out
end

-- What eval.fluency says of answers under each preference, their mean; nil without it.
local function fluency_of(list)
  local all = {}
  for i, m in ipairs(list) do
    all[i] = m.fluency or nil
  end
  return #all > 0 and fluency.mean(all) or nil
end

-- The mean over the preferences of what eval.blind says; nil without it.
local function blind_of(list)
  local sum = list[1].blind and 0
  for _, m in ipairs(sum and list or {}) do
    sum = sum + m.blind / #list
  end
  return sum or nil
end

-- Means over the preferences, null where the rule does not know the objective.
local function rule_means(rows)
  local out = {}
  for j, first in ipairs(rows[1]) do
    out[j] = first
    if first ~= json.null then
      out[j] = 0
      for _, row in ipairs(rows) do
        out[j] = out[j] + row[j] / #rows
      end
    end
  end
  return out
end

-- The names of objectives whose reward was the same for every answer of the SFT model, which is said; nil where none
-- was.
local function constant_objectives(ctx, statistics)
  local names, flags = {}, policy.constant(statistics)
  for j, r in ipairs(flags and ctx.rewards or {}) do
    if flags[j] then
      names[#names + 1] = r.name
      say(ctx, ("warning: reward '%s' is %g for every answer of the SFT model: there is no deviation to normalise by, so its "
        .. "figures stay raw,\nand what no answer earns is hard to learn"):format(r.name, statistics.mean[j]))
    end
  end
  return #names > 0 and names or nil
end

--- The SFT model's own answers: the statistics that every figure is given in (equation 18, frozen; 1 = the SFT
-- mean), what the running statistics start from, and the SFT model's figures. Sets ctx.sft.
function stages.sft_answers(ctx)
  ctx.sft = ctx.run:stage("sft-answers", function()
    local start, all, stats = {}, {}, { mean = {}, std = {} }
    for _, m in ipairs(measure(ctx, ctx.grid, "sft statistics", ctx.source.train_prompts, math.ceil(ctx.cfg.eval.statistics / #ctx.grid), false)) do
      table.move(m.rows, 1, #m.rows, #start + 1, start)
    end
    local list = measure(ctx, ctx.grid, "sft evaluation", ctx.source.test_prompts, ctx.cfg.eval.answers, false)
    for _, m in ipairs(list) do
      table.move(m.rows, 1, #m.rows, #all + 1, all)
    end
    for j = 1, #ctx.rewards do
      stats.mean[j], stats.std[j] = metrics.mean_std(metrics.column(all, j))
    end
    ctx.sft = { statistics = stats }
    local constant = constant_objectives(ctx, stats)
    keep_samples(ctx, "sft", 0, list)
    local f = policy.figures(ctx.grid, list, stats)
    local figures = {
      rewards = metrics.mean_rows(f.rewards), rewards_raw = stats.mean, rewards_std = metrics.mean_rows(f.rewards_std), hypervolume = f.hypervolume,
      mean_pairwise_distance = f.mean_pairwise_distance, kendall_tau = f.kendall_tau, per_preference = f.rewards,
      fluency = fluency_of(list), blind = blind_of(list),
    }
    if f.rule then
      figures.rule = { rewards = f.rule.rewards and rule_means(f.rule.rewards), malformed = metrics.mean_std(f.rule.malformed),
        hypervolume = f.rule.hypervolume }
    end
    return { statistics = stats, constant = constant, start = start, figures = figures, histograms = histograms(all, stats) }
  end, "spread")
end

local BATCH = 256 -- answers generated at a time

--- Answers of the policy with their rewards, as a stage of the run that leaves the file NAME.jsonl: a list of {prompt=, response=,
-- rewards=}. o: n answers to prompts drawn from those to train on, with replacement; text(prompt, i), what the policy is shown for the
-- i-th answer; each (1), how many answers in a row are to one prompt; adapter false: answers of the SFT model.
function stages.answers(ctx, name, o)
  local path = ctx.run:path(name .. ".jsonl")
  ctx.run:stage(name, function(stage)
    local r, rows, line, prompt = rng.new(ctx.cfg.seed, name), {}, stage_models.bar(ctx, name, o.n), nil
    for first = 1, o.n, BATCH do
      local scope <close> = tensor.scope()
      local prompts, texts = {}, {}
      for i = first, math.min(o.n, first + BATCH - 1) do
        prompt = (i - 1) % (o.each or 1) == 0 and r:choice(ctx.source.train_prompts) or prompt
        prompts[#prompts + 1], texts[#texts + 1] = prompt, o.text(prompt, i)
      end
      local responses = ctx.policy:answer(texts, { key = rng.key(ctx.cfg.seed, name .. " " .. first), adapter = o.adapter })
      for i, rewards in ipairs(reward.table(ctx.rewards, prompts, responses)) do
        rows[#rows + 1] = { prompt = prompts[i], response = responses[i], rewards = rewards }
      end
      line:update(#rows)
    end
    line:done()
    assert(data.write_jsonl(path, rows, { replace_invalid = true }))
    stage:output(name .. ".jsonl")
  end)
  return assert(data.read_jsonl(path)) -- always from the file, where bytes that are no text have been replaced
end

-- The figures of each checkpoint that is left of the stages `trained`, which go forward together: a list of {samples, hypervolume,
-- kendall_tau, mean_pairwise_distance, rule_hypervolume}.
local function curve(ctx, trained, o)
  return ctx.run:stage("curve", function()
    local cfg, points = ctx.cfg, json.array()
    for _, step in ipairs(ctx.run:steps(trained[1])) do
      ctx.at = step
      o.load()
      local f = policy.figures(ctx.grid, measure(ctx, ctx.grid, "curve", ctx.source.test_prompts, cfg.eval.curve_answers, true, o),
        ctx.sft.statistics)
      points[#points + 1] = { samples = step * #trained * cfg.ppo.batch_size, hypervolume = f.hypervolume, kendall_tau = f.kendall_tau,
        mean_pairwise_distance = f.mean_pairwise_distance, rule_hypervolume = f.rule and f.rule.hypervolume }
    end
    ctx.at = nil
    return { points = points }
  end, "spread").points
end

--- The policy with the adapter of the method's last checkpoint, under the grid and under unseen preferences: the figures of
-- result.json, and one answer per preference in `shown`. steps is the number of steps that samples.jsonl gives its answers. o:
-- load(), which puts the policy of ctx.at's step, or the last one, into ctx.policy (the method's checkpoint; nothing, with before);
-- before(p, i), which makes the adapter of a preference the active one in place of that of the checkpoint, and may return a
-- preference that the tags show in place of p; answer(prompts, p, key), of a method that answers in its own way (Policy:measure); name, of
-- the policy in samples.jsonl; unseen=false, where only those of the grid have a policy; trained, the stages whose checkpoints together are
-- a policy (the method's), or false where there are no checkpoints of it to measure over samples (eval.curve_answers).
function stages.evaluation(ctx, steps, o)
  o = setmetatable({}, { __index = o })
  o.load = o.load or function()
    if not o.before and not o.answer then
      stage_models.load_policy(ctx, ctx.method)
    end
  end
  local trained = o.trained
  if trained == nil then
    trained = not o.before and not o.answer and { ctx.method }
  end
  local points = trained and ctx.cfg.eval.curve_answers > 0 and curve(ctx, trained, o) or nil
  o.load()
  return ctx.run:stage("evaluation", function()
    local cfg, n = ctx.cfg, #ctx.rewards
    local list = measure(ctx, ctx.grid, "evaluation", ctx.source.test_prompts, cfg.eval.answers, true, o)
    local figures = policy.figures(ctx.grid, list, ctx.sft.statistics)
    figures.curve = points
    figures.shown, figures.unseen = {}, { groups = {} }
    for i, m in ipairs(list) do
      figures.shown[i] = { prompt = m.sample[1].prompt, response = m.sample[1].response }
    end
    keep_samples(ctx, o.name or ctx.method, steps, list)
    local rows = {}
    for _, m in ipairs(list) do
      table.move(m.rows, 1, #m.rows, #rows + 1, rows)
    end
    figures.constant, figures.fluency = ctx.sft.constant, fluency_of(list)
    figures.blind, figures.sft_blind = blind_of(list), ctx.sft.figures.blind
    if figures.fluency then
      figures.fluency.sft_perplexity, figures.fluency.sft_distinct_2 = ctx.sft.figures.fluency.perplexity, ctx.sft.figures.fluency.distinct_2
    end
    figures.histograms = { before = ctx.sft.histograms, after = histograms(rows, ctx.sft.statistics) }
    for g, group in ipairs(cfg.eval.unseen_answers > 0 and o.unseen ~= false and n > 1 and preference.unseen_groups(n) or {}) do
      local unseen = measure(ctx, group, "unseen " .. g, ctx.source.test_prompts, cfg.eval.unseen_answers, true, o)
      local f = policy.figures(group, unseen, ctx.sft.statistics)
      figures.unseen.groups[g] = { preferences = group, rewards = f.rewards, hypervolume = f.hypervolume,
        kendall_tau = f.kendall_tau }
    end
    return figures
  end, "spread")
end

return stages
