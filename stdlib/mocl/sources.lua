--- mocl.sources: where a language-model run gets its prompts, answers and preference pairs: the embedded
-- task, or files of HH-RLHF. Both give the same things:
--   train_prompts, test_prompts   plain prompts, without preference tags
--   documents(r)                  texts for the tokenizer and the base model
--   sft(r)                        rows {prompt, response}; prompts carry random preferences
--   pairs(objective)              rows to train a reward model on (mocl.reward), and held-out pairs
--   rule_correlation(objective, f)  agreement of a reward with the hidden rule; or nil
--   audit(prompt, response)       value per objective under the hidden rule and malformed clauses; or nil
-- Responses begin with a space, so that prompt .. response is the text.

local data = require "mocl.data"
local fs = require "mocl.fs"
local metrics = require "mocl.metrics"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local config_text = require "mocl.config_text"

local sources = {}

--- The objectives of a run: known names, or ones the reward file brings. Raises with the nearest name.
function sources.check_objectives(names, known, extra)
  local seen = {}
  if #names == 0 then
    error("objectives: at least one is needed; known here: " .. table.concat(known, ", "), 0)
  end
  for _, name in ipairs(names) do
    local ok = extra[name] ~= nil
    for _, k in ipairs(known) do
      ok = ok or k == name
    end
    if not ok then
      local near = config_text.nearest(name, known)
      error(("unknown objective '%s'%s; known here: %s"):format(name, near and (" (did you mean '%s'?)"):format(near) or "",
        table.concat(known, ", ")), 0)
    end
    if seen[name] then
      error(("objective '%s' is named twice"):format(name), 0)
    end
    seen[name] = true
  end
end

--- The embedded task. o: seed, trade_off, objectives, and counts: documents, sft, comparisons (prompts with answers
-- to compare), answers (to each of them), test_pairs.
function sources.assistant(o)
  local assistant = require "mocl.tasks.assistant"
  if #o.objectives > 3 then
    error(("objectives: the embedded task reads tags of at most 3 weights, got %d"):format(#o.objectives), 0)
  end
  local task = assistant.new { seed = o.seed, trade_off = o.trade_off, weights = math.max(1, #o.objectives) }
  local source = { train_prompts = task.train_prompts, test_prompts = task.test_prompts, known = { "humor", "helpful", "harmless" } }
  function source.documents(r)
    return task:pretrain_texts(r, o.documents)
  end
  function source.sft(r)
    return task:sft_examples(r, o.sft)
  end
  function source.pairs(objective)
    return task:comparisons(rng.new(o.seed, "comparisons " .. objective), objective, o.comparisons, o.answers),
      task:pairs(rng.new(o.seed, "test pairs " .. objective), objective, o.test_pairs, "test")
  end
  function source.audit(prompt, response)
    return task:score(prompt, response)
  end
  -- Pearson's correlation of a reward with the rule over fresh answers to held-out prompts
  function source.rule_correlation(objective, f)
    local prompts, answers, values = {}, {}, {}
    local rows = task:pairs(rng.new(o.seed, "correlation " .. objective), objective, math.max(100, o.test_pairs), "test")
    for i, row in ipairs(rows) do
      prompts[i], answers[i] = row.prompt, i % 2 == 0 and row.chosen or row.rejected
      values[i] = task:score(row.prompt, answers[i])[objective]
    end
    local r = metrics.pearson(f(prompts, answers), values)
    return r == r and r or nil
  end
  return source
end

--- HH-RLHF files in a directory (harmless-base and helpful-base, test split). o: path, seed, objectives,
-- prompt_chars (longer prompts are not answered or trained on; reward models see them, cut at the front),
-- held_out (share of the rows kept for evaluation).
function sources.hh_rlhf(o)
  local train, test, prompts = {}, {}, { train = {}, test = {} }
  local known = { "harmless", "helpful" }
  local source = { known = known, counts = {} }
  if not fs.exists(o.path) then
    error(o.path .. ": No such file or directory", 0)
  end
  for _, objective in ipairs(known) do
    local rows, counts = data.hh_rlhf(o.path, { objective = objective, split = "test" })
    if not rows then
      error(counts, 0)
    end
    source.counts[objective] = counts
    rng.new(o.seed, "split " .. objective):shuffle(rows)
    local cut = #rows - math.floor(#rows * o.held_out)
    for i, row in ipairs(rows) do
      row.chosen, row.rejected = " " .. row.chosen, " " .. row.rejected
      if #row.prompt <= o.prompt_chars then
        table.insert(i <= cut and prompts.train or prompts.test, row.prompt)
      end
    end
    train[objective], test[objective] = table.move(rows, 1, cut, 1, {}), table.move(rows, cut + 1, #rows, 1, {})
  end
  if #prompts.train < 50 or #prompts.test < 5 then
    error(("%s: only %d prompts to train on and %d to evaluate have at most hh.prompt_chars=%d characters"):format(o.path,
      #prompts.train, #prompts.test, o.prompt_chars), 0)
  end
  source.train_prompts, source.test_prompts = prompts.train, prompts.test
  local held = {} -- a held-out prompt may be another row's too: nothing trains on it
  for _, list in pairs(test) do
    for _, row in ipairs(list) do
      held[row.prompt] = true
    end
  end
  -- rows to train on, in a fixed order
  local function each(f)
    for _, objective in ipairs(known) do
      for _, row in ipairs(train[objective]) do
        if not held[row.prompt] then
          f(row)
        end
      end
    end
  end
  function source.documents(r)
    local texts = {}
    each(function(row)
      texts[#texts + 1] = preference.relabel(row.prompt, preference.random(r, #o.objectives, preference.EDGE)) .. row.chosen
      texts[#texts + 1] = row.prompt .. row.rejected
    end)
    r:shuffle(texts)
    return texts
  end
  function source.sft(r)
    local rows = {}
    each(function(row)
      if #row.prompt <= o.prompt_chars then
        rows[#rows + 1] = { prompt = preference.relabel(row.prompt, preference.random(r, #o.objectives, preference.EDGE)), response = row.chosen }
      end
    end)
    return rows
  end
  function source.pairs(objective)
    if not train[objective] then
      error(("objective '%s' has no pairs in %s; known there: harmless, helpful"):format(objective, o.path), 0)
    end
    return train[objective], test[objective]
  end
  function source.audit() end
  function source.rule_correlation() end
  return source
end

return sources
