--- mocl.sources: where a language-model run gets its prompts, answers and preference pairs: the embedded
-- task, or files of HH-RLHF. Both give the same things:
--   train_prompts, test_prompts   plain prompts, without preference tags
--   documents(r)                  texts for the tokenizer and the base model
--   sft(r)                        rows {prompt, response}; prompts carry random preferences
--   pairs(objective)              rows {prompt, chosen, rejected} to train on, and held-out ones
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

--- The embedded task. o: seed, trade_off, objectives, documents, sft, pairs, test_pairs (counts).
function sources.assistant(o)
  local assistant = require "mocl.tasks.assistant"
  local task = assistant.new { seed = o.seed, trade_off = o.trade_off }
  local source = { train_prompts = task.train_prompts, test_prompts = task.test_prompts, known = { "humor", "helpful", "harmless" } }
  function source.documents(r)
    return task:pretrain_texts(r, o.documents)
  end
  function source.sft(r)
    return task:sft_examples(r, o.sft)
  end
  function source.pairs(objective)
    return task:pairs(rng.new(o.seed, "pairs " .. objective), objective, o.pairs),
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

-- rows whose text is within the limit of characters: a cheap bound before anything is tokenized
local function short(rows, prompt_chars)
  local kept = {}
  for _, row in ipairs(rows) do
    if #row.prompt <= prompt_chars then
      kept[#kept + 1] = row
    end
  end
  return kept
end

--- HH-RLHF files in a directory (harmless-base and helpful-base, test split). o: path, seed, objectives,
-- prompt_chars (longer prompts are left out), held_out (share of prompts kept for evaluation).
function sources.hh_rlhf(o)
  local all, train, test, prompts = {}, {}, {}, { train = {}, test = {} }
  local known = { "harmless", "helpful" }
  local source = { known = known, counts = {}, files = { o.path } }
  if not fs.exists(o.path) then
    error(o.path .. ": No such file or directory", 0)
  end
  for _, objective in ipairs(known) do
    local rows, counts = data.hh_rlhf(o.path, { objective = objective, split = "test" })
    if not rows then
      error(counts, 0)
    end
    local kept = short(rows, o.prompt_chars)
    if #kept < 50 then
      error(("%s: only %d usable %s pairs with prompts of at most %d characters"):format(o.path, #kept, objective,
        o.prompt_chars), 0)
    end
    source.counts[objective] = counts
    rng.new(o.seed, "split " .. objective):shuffle(kept)
    local cut = #kept - math.floor(#kept * o.held_out)
    train[objective], test[objective] = table.move(kept, 1, cut, 1, {}), table.move(kept, cut + 1, #kept, 1, {})
    for _, row in ipairs(rows) do
      all[#all + 1] = row
    end
    for i, row in ipairs(kept) do
      row.chosen, row.rejected = " " .. row.chosen, " " .. row.rejected
      table.insert(i <= cut and prompts.train or prompts.test, row.prompt)
    end
  end
  source.train_prompts, source.test_prompts = prompts.train, prompts.test
  function source.documents(r)
    local held = {}
    for _, list in pairs(test) do
      for _, row in ipairs(list) do
        held[row.prompt] = true
      end
    end
    local texts, n = {}, #o.objectives
    for i, row in ipairs(all) do
      if not held[row.prompt] then -- no held-out prompt is trained on
        local tagged = i % 2 == 0 and preference.relabel(row.prompt, preference.random(r, n)) or row.prompt
        texts[#texts + 1] = tagged .. (row.chosen:sub(1, 1) == " " and "" or " ") .. row.chosen
        texts[#texts + 1] = row.prompt .. (row.rejected:sub(1, 1) == " " and "" or " ") .. row.rejected
      end
    end
    r:shuffle(texts)
    return texts
  end
  function source.sft(r)
    local rows = {}
    for _, objective in ipairs(known) do
      for _, row in ipairs(train[objective]) do
        rows[#rows + 1] = { prompt = preference.relabel(row.prompt, preference.random(r, #o.objectives)), response = row.chosen }
      end
    end
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
