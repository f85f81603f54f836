--- mocl.data.sources: where a language-model run gets its prompts, answers and preference pairs: the embedded
-- task, or files of HH-RLHF. Both give the same things:
--   train_prompts, test_prompts   plain prompts, without preference tags
--   is_held_out(prompt)           whether nothing may train on this prompt, white space aside
--   documents(r)                  texts for the tokenizer and the base model
--   sft(r)                        rows {prompt, response}; prompts carry random preferences
--   pairs(objective)              rows to train a reward model on (mocl.lm.reward), and held-out pairs
--   check(objective)              raises where there are too few pairs to train and test a reward model
--   rule_correlation(objective, f)  agreement of a reward with the hidden rule; or nil
--   audit(prompt, response)       value per objective under the hidden rule and malformed clauses; or nil
-- Responses begin with a space, so that prompt .. response is the text.

local data = require "mocl.data"
local digest = require "mocl.run.digest"
local fs = require "mocl.fs"
local metrics = require "mocl.metrics"
local options = require "mocl.options"
local preference = require "mocl.preference"
local rng = require "mocl.rng"

local sources = {}

--- Rows for a recipe's schema.
sources.OPTIONS = {
  { "data", "", "directory of HH-RLHF files; empty: the embedded task" },
  { "objectives", { "humor", "helpful" }, "names of the rewards, in the order of the weights" },
  { "trade_off", "rising", "embedded task: worth of the k-th joke or tip", choices = { "rising", "equal", "diminishing" } },
  { "documents", 8000, "texts for tokenizer and base model (embedded task)", min = 10 },
  { "hh.prompt_chars", 260, "HH-RLHF: longer prompts are left out", min = 20 },
}

--- The objectives of a run: known names, or ones of the table `extra`, which the rewards file brings. Raises with the
-- nearest name.
function sources.check_objectives(names, known, extra)
  local seen, all, own = {}, table.move(known, 1, #known, 1, {}), {}
  for name in pairs(extra) do
    own[#own + 1] = name
  end
  table.sort(own)
  for _, name in ipairs(own) do
    all[#all + 1] = name
  end
  known = all
  if #names == 0 then
    error("objectives: at least one is needed; known here: " .. table.concat(known, ", "), 0)
  end
  for _, name in ipairs(names) do
    local ok = false
    for _, k in ipairs(known) do
      ok = ok or k == name
    end
    if not ok then
      local near = options.nearest(name, known)
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
  local assistant = require "mocl.data.tasks.assistant"
  if #o.objectives > 3 then
    error(("objectives: the embedded task reads tags of at most 3 weights, got %d"):format(#o.objectives), 0)
  end
  local task = assistant.new { seed = o.seed, trade_off = o.trade_off, weights = math.max(1, #o.objectives) }
  local source = { train_prompts = task.train_prompts, test_prompts = task.test_prompts, known = { "humor", "helpful", "harmless" } }
  source.is_held_out = data.one_of(task.test_prompts)
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
  function source.check() end
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

-- Bytes are no measure of a text in another script than Latin.
local function characters(text)
  return utf8.len(text) or #text
end

-- ---- pairs of answers from files ----

-- HH-RLHF's rows by objective, shuffled; sets source.counts.
local function hh_rows(source, o)
  local rows = {}
  if fs.exists(o.path) ~= "directory" then
    error(("data=%s: %s"):format(o.path, fs.exists(o.path) and "is a file; the directory of HH-RLHF's files is expected"
      or "No such file or directory"), 0)
  end
  for _, objective in ipairs(source.known) do
    local list, counts = digest.in_passing(data.hh_rlhf, o.path, { objective = objective, split = "test" })
    if not list then
      error("data=" .. counts, 0)
    end
    source.counts[objective] = counts
    rng.new(o.seed, "split " .. objective):shuffle(list)
    for _, row in ipairs(list) do
      row.chosen, row.rejected = " " .. row.chosen, " " .. row.rejected
      row.key = data.prompt_key(row.prompt)
    end
    rows[objective] = list
  end
  return rows
end

-- The set of prompts (keys) that are held out: of each file's different prompts a share, the last ones. It is one set
-- for all files, so that nothing trains on a prompt that an objective holds out, whichever file has it too.
local function held_out(rows, known, share)
  local held = {}
  for _, objective in ipairs(known) do
    local keys, seen, missing = {}, {}, 0
    for _, row in ipairs(rows[objective] or {}) do
      if not seen[row.key] then
        seen[row.key] = true
        keys[#keys + 1] = row.key
        missing = missing - (held[row.key] and 1 or 0)
      end
    end
    missing = missing + math.floor(#keys * share)
    for k = #keys, 1, -1 do
      if missing > 0 and not held[keys[k]] then
        held[keys[k]] = true
        missing = missing - 1
      end
    end
  end
  return held
end

-- A source of pairs: rows by objective, {prompt, chosen, rejected, key}, shuffled. o: path, objectives, held_out,
-- fits(prompt), whether a prompt is answered, and limit, what fits means in words.
local function of_pairs(source, rows, o)
  local known = source.known
  local held = held_out(rows, known, o.held_out)
  local train, test, seen = {}, {}, {}
  function source.is_held_out(prompt)
    return held[data.prompt_key(prompt)] == true
  end
  source.train_prompts, source.test_prompts = {}, {}
  for _, objective in ipairs(known) do
    train[objective], test[objective] = {}, {}
    for _, row in ipairs(rows[objective] or {}) do
      local out = held[row.key]
      table.insert((out and test or train)[objective], row)
      if not seen[row.key] and o.fits(row.prompt) then
        seen[row.key] = true -- a prompt is answered alike often however many pairs it has
        table.insert(out and source.test_prompts or source.train_prompts, row.prompt)
      end
    end
  end
  if #source.train_prompts < 50 or #source.test_prompts < 5 then
    error(("data=%s: only %d prompts to train on and %d to evaluate %s; "
      .. "at least 50 and 5 different ones are needed"):format(o.path, #source.train_prompts, #source.test_prompts, o.limit), 0)
  end
  -- rows to train on, in a fixed order
  local function each(f)
    for _, objective in ipairs(known) do
      for _, row in ipairs(train[objective]) do
        f(row)
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
    local list = {}
    each(function(row)
      if o.fits(row.prompt) then
        list[#list + 1] = { prompt = preference.relabel(row.prompt, preference.random(r, #o.objectives, preference.EDGE)), response = row.chosen }
      end
    end)
    return list
  end
  function source.check(objective)
    if not train[objective] or not rows[objective] then
      error(("objective '%s' has no pairs in %s; known there: %s"):format(objective, o.path, table.concat(source.with_pairs or known, ", ")), 0)
    elseif #train[objective] < 10 or #test[objective] < 1 then
      error(("data=%s: objective '%s' has only %d pairs to train a reward model on and %d to test it with; "
        .. "at least 10 and 1 are needed"):format(o.path, objective, #train[objective], #test[objective]), 0)
    end
  end
  function source.pairs(objective)
    source.check(objective)
    return train[objective], test[objective]
  end
  function source.audit() end
  function source.rule_correlation() end
  return source
end

-- ---- texts with a label ----

-- The first of the files named *.csv in a folder and, up to three folders down, below it, whose first line names the columns
-- text and humor.
local function humor_file(dir, depth)
  for _, name in ipairs(fs.list(dir) or {}) do
    local path = fs.join(dir, name)
    local kind = not name:find "^%." and fs.exists(path)
    if kind == "directory" and depth > 0 then
      local found = humor_file(path, depth - 1)
      if found then
        return found
      end
    elseif kind == "file" and name:find "%.csv$" then
      local ok, header = pcall(function()
        for line in data.lines(path) do
          return line
        end
      end)
      if ok and header == "text,humor" then
        return path
      end
    end
  end
end

-- Pairs of a funny text and a plain one from a file of labels (mocl.data.humor_csv), each behind a prompt, and held-out ones: rows
-- {prompt, chosen, rejected, labelled = true}. Prompts are those of the pairs of answers, on the same side of the split.
local function humor_pairs(source, path, o)
  local list, message = digest.in_passing(data.humor_csv, path)
  if not list then
    error("data=" .. message, 0)
  end
  local funny, plain = {}, {}
  for _, row in ipairs(list) do
    table.insert(row.humor and funny or plain, row.text)
  end
  local r = rng.new(o.seed, "split humor")
  r:shuffle(funny)
  r:shuffle(plain)
  local n = math.min(#funny, #plain)
  local test = math.min(math.floor(n * o.held_out), 300) -- 600 texts, enough for an interval of two hundredths
  local sides = { {}, {} }
  for i = 1, n do
    local held = i <= test
    local prompts = held and source.test_prompts or source.train_prompts
    table.insert(sides[held and 2 or 1], { prompt = prompts[i % #prompts + 1], chosen = " " .. funny[i], rejected = " " .. plain[i], labelled = true })
  end
  return sides[1], sides[2]
end

-- Adds the objective humor to a source of pairs, where a file of labels lies below the directory of the data.
local function with_humor(source, o)
  local path = humor_file(o.path, 3)
  if not path then
    return source
  end
  local pairs_of, check, train, test = source.pairs, source.check, nil, nil
  source.known = table.move(source.known, 1, #source.known, 1, {}) -- a list of its own: that of the pairs of answers stays as it is
  table.insert(source.known, "humor")
  function source.check(objective)
    if objective ~= "humor" then
      return check(objective)
    end
    if not train then
      train, test = humor_pairs(source, path, o)
    end
    if #train < 10 or #test < 1 then
      error(("data=%s: %s has only %d funny and plain texts to train on and %d to test with; at least 10 and 1 are needed"):format(o.path, path,
        #train, #test), 0)
    end
  end
  function source.pairs(objective)
    source.check(objective)
    if objective == "humor" then
      return train, test
    end
    return pairs_of(objective)
  end
  return source
end

-- The folder with the files of HH-RLHF: the directory itself, or one of those names in it.
local function hh_folder(path)
  for _, below in ipairs { "hh-rlhf", fs.join("prefs", "hh-rlhf") } do
    if fs.exists(fs.join(path, below)) == "directory" then
      return fs.join(path, below)
    end
  end
  return path
end

--- HH-RLHF files in a directory, or in the folder hh-rlhf or prefs/hh-rlhf of it (harmless-base and helpful-base, test split). o: path,
-- seed, objectives, prompt_chars (prompts of more characters are not answered or trained on; reward models see them, cut at the front),
-- held_out (share of each file's prompts kept for evaluation, with all their pairs in both files). Where a .csv of texts with the label
-- humor lies in the directory or up to three folders below it, there is the objective humor too.
function sources.hh_rlhf(o)
  local source = { known = { "harmless", "helpful" }, counts = {} }
  local rows = hh_rows(source, setmetatable({ path = hh_folder(o.path) }, { __index = o }))
  return with_humor(of_pairs(source, rows, { path = o.path, objectives = o.objectives, held_out = o.held_out,
    fits = function(prompt) return characters(prompt) <= o.prompt_chars end,
    limit = ("have at most hh.prompt_chars=%d characters"):format(o.prompt_chars) }), o)
end

-- ---- posts of Reddit with summaries ----

--- The prompt of a post, as Rewards-in-Context has it; its summary follows behind a blank.
function sources.summary_prompt(post)
  return ("### Instruction: Generate a one-sentence summary of this post. ### Input: %s ### Response:"):format(post)
end

-- Options of the embedded task and of HH-RLHF, which have no meaning for posts.
local NOT_OF_POSTS = { "data", "objectives", "trade_off", "documents", "hh.prompt_chars", "reward.prompts", "reward.answers",
  "reward.min_correlation", "sft.examples" }

local POSTS = {
  { "data", "", "file or directory of comparisons of summaries, .json, .jsonl, either may be gzip'd" },
  { "objectives", { "summary", "faithful" }, "names of the rewards, in the order of the weights" },
  { "reddit.min_chars", 100, "posts of so many characters or fewer are left out", min = 0 },
  { "reddit.max_chars", 1200, "posts of so many characters or more are left out", min = 20 },
}

--- The rows of a schema for a run on posts in place of HH-RLHF and the embedded task.
function sources.posts_schema(rows)
  local list, out = table.move(POSTS, 1, #POSTS, 1, {}), {}
  for _, key in ipairs(NOT_OF_POSTS) do
    out[key] = true
  end
  for _, row in ipairs(rows) do
    list[#list + 1] = not out[row[1]] and row or nil
  end
  return list
end

--- Posts of Reddit with pairs of summaries (mocl.data.summary_comparisons). o: path, seed, objectives, min_chars,
-- max_chars, held_out. The pairs are of the objective summary.
function sources.posts(o)
  if o.path == "" then
    error("data= names the comparisons of summaries, a file or a directory (docs/recipes.md); prompts=FILE with model= gives prompts alone", 0)
  end
  local list, counts = digest.in_passing(data.summary_comparisons, o.path, { min_chars = o.min_chars, max_chars = o.max_chars })
  if not list then
    error("data=" .. counts, 0)
  end
  for _, row in ipairs(list) do
    row.prompt = sources.summary_prompt(row.post)
    row.chosen, row.rejected, row.key = " " .. row.chosen, " " .. row.rejected, data.prompt_key(row.prompt)
  end
  rng.new(o.seed, "split summary"):shuffle(list)
  local source = { known = { "summary", "faithful" }, with_pairs = { "summary" }, counts = { summary = counts } }
  return of_pairs(source, { summary = list }, { path = o.path, objectives = o.objectives, held_out = o.held_out,
    fits = function() return true end, limit = "are of posts of the length that reddit.min_chars and reddit.max_chars allow" })
end

return sources
