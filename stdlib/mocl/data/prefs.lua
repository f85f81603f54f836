--- mocl.data.prefs: preference data sets as rows {prompt, chosen, rejected}; part of mocl.data.
-- It reads, checks and strips; it does not tokenize or filter by length. Prompts have the form of
-- Rewards-in-Context, with whose reward models they are scored: everything before the last
-- "\n\nAssistant:", right-stripped, then " " and "\n\nAssistant:"; answers are stripped.

local core = require "mocl.data.core"
local fs = require "mocl.fs"
local json = require "mocl.json"
local options = require "mocl.options"
local sorted_keys = require "mocl.options".sorted_keys

local prefs = {}

local HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"

-- ---- shared with mocl.data ----

--- Raises unless each option is known and of its type. known: name -> type.
function prefs.check_options(name, opts, known)
  for key, value in pairs(options.check(name, opts or {}, {}, sorted_keys(known), 1)) do
    local want, got = known[key], math.type(value) or type(value)
    if got ~= want then
      error(("%s: bad option '%s' (%s expected, got %s)"):format(name, key, want, got), 3)
    end
    if key == "limit" and value < 0 then
      error(("%s: limit %d is negative"):format(name, value), 3)
    end
  end
end

--- open_jsonl(path) -> reader, step | fail; step() -> value, line | nil | fail
function prefs.open_jsonl(path)
  local reader, err, code = core.lines(path)
  if not reader then
    return nil, err, code
  end
  return reader, function()
    while true do
      local line, number, kind = reader:next()
      if line == nil then
        return nil, number, kind
      end
      if line:find("[^ \t\r]") then
        local value, why = json.decode(line)
        if value == nil then
          return nil, ("%s:%d: %s"):format(path, number, why:gsub("^line 1 ", "")), "FORMAT"
        end
        return value, number
      end
    end
  end
end

local UNEVEN = "%s:%d: %d fields, the first row has %d"

local function by_name(path, names, row, line)
  if #row ~= #names then
    return nil, UNEVEN:format(path, line, #row, #names), "FORMAT"
  end
  local out = {}
  for i, name in ipairs(names) do
    out[name] = row[i]
  end
  return out, line
end

--- open_csv(path, {header=true, separator=","}) -> reader, step | fail; step as above
function prefs.open_csv(path, opts)
  local reader, err, code = core.csv(path, opts and opts.separator)
  if not reader then
    return nil, err, code
  end
  if opts and opts.header == false then
    local n
    return reader, function()
      local row, line, kind = reader:next()
      n = n or (row and #row)
      if row and #row ~= n then
        return nil, UNEVEN:format(path, line, #row, n), "FORMAT"
      end
      return row, line, kind
    end
  end
  local names, line, kind = reader:next()
  if not names then
    reader:release()
    return nil, line or path .. ":1: no header row", kind or "FORMAT"
  end
  local seen = {}
  for _, name in ipairs(names) do
    if seen[name] then
      reader:release()
      return nil, ("%s:%d: the column '%s' is there twice"):format(path, line, name), "FORMAT"
    end
    seen[name] = true
  end
  return reader, function()
    local row, at, why = reader:next()
    if row == nil then
      return nil, at, why
    end
    return by_name(path, names, row, at)
  end, names
end

--- collect(limit, reader, step) -> list | fail. Takes the results of an open_ function.
function prefs.collect(limit, reader, step, code)
  if not reader then
    return nil, step, code
  end
  local close <close> = reader
  local rows = {}
  while not limit or #rows < limit do
    local value, line, kind = step()
    if value == nil then
      if line then
        return nil, line, kind
      end
      break
    end
    rows[#rows + 1] = value
  end
  return rows
end

-- ---- text ----

-- what Python's str.strip removes: the data sets were prepared with it
local SPACE = {}
for _, s in ipairs { "\t", "\n", "\v", "\f", "\r", "\x1c", "\x1d", "\x1e", "\x1f", " ", "\u{85}",
  "\u{A0}", "\u{1680}", "\u{2028}", "\u{2029}", "\u{202F}", "\u{205F}", "\u{3000}" } do
  SPACE[s] = true
end
for c = 0x2000, 0x200A do
  SPACE[utf8.char(c)] = true
end

local function rstrip(s)
  local n = #s
  while n > 0 do
    local size = (SPACE[s:sub(n, n)] and 1) or (SPACE[s:sub(n - 1, n)] and 2)
      or (n >= 3 and SPACE[s:sub(n - 2, n)] and 3)
    if not size then
      break
    end
    n = n - size
  end
  return s:sub(1, n)
end

local function strip(s)
  local at = 1
  while at <= #s do
    local size = (SPACE[s:sub(at, at)] and 1) or (SPACE[s:sub(at, at + 1)] and 2)
      or (SPACE[s:sub(at, at + 2)] and 3)
    if not size then
      break
    end
    at = at + size
  end
  return rstrip(s:sub(at))
end

--- strip(text) -> the text without white space at its ends, as Python's str.strip has it.
prefs.strip = strip

--- prompt_key(text) -> the text that counts when it is asked whether two prompts are the same: without white space at its
-- ends and behind the marks of the speakers, and with one blank for each run of white space in between.
function prefs.prompt_key(text)
  local plain = text:gsub("[\xC2\xE1\xE2\xE3][\x80-\xBF][\x80-\xBF]?", function(c)
    return SPACE[c] and " " or SPACE[c:sub(1, 2)] and " " .. c:sub(3) or nil
  end)
  plain = plain:gsub("[%s\x1c-\x1f]+", " "):gsub("^ ", ""):gsub(" $", "")
  return (plain:gsub("%f[%w](Human:) ", "%1"):gsub("%f[%w](Assistant:) ", "%1"))
end

--- one_of(prompts) -> function(prompt) -> boolean: whether it is the same as one of them (prompt_key).
function prefs.one_of(prompts)
  local keys = {}
  for _, prompt in ipairs(prompts) do
    keys[prefs.prompt_key(prompt)] = true
  end
  return function(prompt)
    return keys[prefs.prompt_key(prompt)] == true
  end
end

-- start of the last `mark` in `s`, or nil
local function find_last(s, mark)
  local last
  local at = s:find(mark, 1, true)
  while at do
    last = at
    at = s:find(mark, at + 1, true)
  end
  return last
end

-- dialogue -> prompt, answer; nil without an answer mark
local function split_dialogue(text)
  local at = find_last(text, ASSISTANT)
  if not at then
    return nil
  end
  return rstrip(text:sub(1, at - 1)) .. " " .. ASSISTANT, strip(text:sub(at + #ASSISTANT))
end

--- split_dialogue(text) -> prompt, answer: of a whole dialogue, cut at its last "\n\nAssistant:"; nil without one.
prefs.split_dialogue = split_dialogue

-- Has a prompt any text besides the marks of the speakers?
local function says_something(prompt)
  return strip(prompt:gsub(HUMAN, " "):gsub(ASSISTANT, " ")) ~= ""
end

local MARKS = { user = HUMAN .. " ", assistant = ASSISTANT .. " ", system = "" }

--- dialogue(messages) -> prompt. messages: list of {role=, content=}, the last one by the user.
-- Roles: user, assistant, and system, which has no mark and can only come first.
function prefs.dialogue(messages)
  local out = {}
  for i, m in ipairs(messages) do
    local mark = MARKS[m.role]
    if not mark or (m.role == "system" and i > 1) then
      error(("dialogue: message %d has the role %s; 'user' or 'assistant' expected"):format(i,
        tostring(m.role)), 2)
    end
    out[i] = mark .. strip(m.content)
  end
  local last = messages[#messages]
  if not last or last.role ~= "user" then
    error("dialogue: the last message is not the user's", 2)
  end
  return table.concat(out) .. " " .. ASSISTANT
end

--- messages(prompt) -> list of {role=, content=}: what dialogue made a prompt of. Turns of one speaker that follow
-- each other are one, and what stands in front of the first mark is the system's. A text that does not end with the
-- mark of an answer is one message of the user's, as it is.
function prefs.messages(prompt)
  local text = rstrip(prompt)
  if text:sub(-#ASSISTANT) ~= ASSISTANT or not text:find(HUMAN, 1, true) then
    return { { role = "user", content = prompt } }
  end
  local list, at, role = {}, 1, "system"
  text = text:sub(1, -#ASSISTANT - 1)
  while at <= #text + 1 do
    local human, answer = text:find(HUMAN, at, true), text:find(ASSISTANT, at, true)
    local next_mark = math.min(human or #text + 1, answer or #text + 1)
    local content = strip(text:sub(at, next_mark - 1))
    local last = list[#list]
    if last and last.role == role then
      last.content = last.content .. "\n\n" .. content
    elseif content ~= "" then
      list[#list + 1] = { role = role, content = content }
    end
    role = next_mark == human and "user" or "assistant"
    at = next_mark + (next_mark == human and #HUMAN or #ASSISTANT)
  end
  return #list > 0 and list[#list].role == "user" and list or { { role = "user", content = prompt } }
end

-- ---- HH-RLHF ----

local FOLDERS = {
  harmless = { "harmless-base" },
  helpful = { "helpful-base" },
  all = { "harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled" },
}

-- What every reader of preference pairs leaves out: nil, or the count to raise. Stripped answers.
local function no_preference(chosen, rejected)
  if chosen == "" or rejected == "" then
    return "empty_answers"
  elseif chosen == rejected then
    return "identical"
  end
end

local function new_counts()
  return { rows = 0, kept = 0, different_prompts = 0, identical = 0, empty_answers = 0 }
end

local HH_OPTIONS = { split = "string", objective = "string", limit = "integer" }

-- The files to read, in order, or fail.
local function hh_files(path, opts)
  local kind, err, code = fs.exists(path)
  if kind == "file" then
    if opts.objective or opts.split then
      error("hh_rlhf: the options split and objective choose a file in a directory, but "
        .. path .. " is a file", 3)
    end
    return { path }
  elseif not kind then
    return nil, err or path .. ": No such file or directory", code or "IO"
  end
  local folders = FOLDERS[opts.objective]
  if not folders then
    error(("hh_rlhf: objective is %s, expected 'harmless', 'helpful' or 'all'"):format(
      opts.objective and "'" .. opts.objective .. "'" or "missing"), 3)
  elseif not opts.split then
    error("hh_rlhf: split is missing: 'train' or 'test'", 3)
  end
  local files = {}
  for _, folder in ipairs(folders) do
    local found
    for _, form in ipairs { "%s/%s.jsonl.gz", "%s/%s.jsonl", "%s.%s.jsonl.gz", "%s.%s.jsonl" } do
      local name = fs.join(path, form:format(folder, opts.split))
      found = found or (fs.exists(name) == "file" and name)
    end
    if not found then
      return nil, ("%s: neither %s/%s.jsonl.gz nor %s.%s.jsonl.gz is there"):format(path, folder,
        opts.split, folder, opts.split), "IO"
    end
    files[#files + 1] = found
  end
  return files
end

-- {prompt, chosen, rejected} or nil, why it cannot be used, or false, the count to raise
local function hh_row(row)
  if type(row) ~= "table" then
    return nil, "the line is not an object"
  end
  for _, field in ipairs { "chosen", "rejected" } do
    if type(row[field]) ~= "string" then
      return nil, ("the field '%s' is missing or not a string"):format(field)
    end
  end
  local prompt, chosen = split_dialogue(row.chosen)
  local other, rejected = split_dialogue(row.rejected)
  if not prompt or not other then
    return nil, ("'%s' has no answer mark \"\\n\\nAssistant:\""):format(
      prompt and "rejected" or "chosen")
  elseif not says_something(prompt) then
    return nil, "the prompt is empty"
  elseif prompt ~= other then
    return false, "different_prompts"
  end
  local reason = no_preference(chosen, rejected)
  if reason then
    return false, reason
  end
  return { prompt = prompt, chosen = chosen, rejected = rejected }
end

--- hh_rlhf(path, {split=, objective=, limit=}) -> list of {prompt=, chosen=, rejected=}, counts
-- or fail. path: a .jsonl or .jsonl.gz file, or the directory of the data set (then split "train" or
-- "test" and objective "harmless", "helpful" (each the -base part) or "all" choose the files).
-- Malformed JSON, missing fields and empty prompts fail. Pairs whose prompts differ, whose answers
-- are identical and pairs with an empty answer are left out: counts = {rows, kept,
-- different_prompts, identical, empty_answers}. limit counts kept rows.
function prefs.hh_rlhf(path, opts)
  prefs.check_options("hh_rlhf", opts, HH_OPTIONS)
  opts = opts or {}
  local files, err, code = hh_files(path, opts)
  if not files then
    return nil, err, code
  end
  local out, counts = {}, new_counts()
  for _, file in ipairs(files) do
    local reader, step, kind = prefs.open_jsonl(file)
    if not reader then
      return nil, step, kind
    end
    local close <close> = reader
    while not opts.limit or #out < opts.limit do
      local row, line, why = step()
      if row == nil then
        if line then
          return nil, line, why
        end
        break
      end
      local pair, reason = hh_row(row)
      if pair == nil then
        return nil, ("%s:%d: %s"):format(file, line, reason), "FORMAT"
      end
      counts.rows = counts.rows + 1
      reason = reason or "kept"
      counts[reason] = counts[reason] + 1
      out[#out + 1] = pair or nil
    end
  end
  return out, counts
end

-- ---- other sets ----

-- collect() with each CSV row turned into another one by convert(row) -> new | nil, reason
local function converted(path, limit, convert, reader, step, code)
  if not reader then
    return nil, step, code
  end
  return prefs.collect(limit, reader, function()
    local row, line, kind = step()
    if row == nil then
      return nil, line, kind
    end
    local new, reason = convert(row)
    for column, text in pairs(row) do
      if core.bad_utf8(text) then
        new, reason = nil, ("the column '%s' is not UTF-8"):format(column)
      end
    end
    if not new then
      return nil, ("%s:%d: %s"):format(path, line, reason), "FORMAT"
    end
    return new, line
  end)
end

--- humor_csv(path, {limit=}) -> list of {text=, humor=boolean} | fail
-- The ColBERT humour set: columns text and humor, the latter True or False.
function prefs.humor_csv(path, opts)
  prefs.check_options("humor_csv", opts, { limit = "integer" })
  return converted(path, opts and opts.limit, function(row)
    if not row.text or not row.humor then
      return nil, "the columns text and humor are expected"
    elseif row.humor ~= "True" and row.humor ~= "False" then
      return nil, ("humor is '%s', not True or False"):format(row.humor)
    end
    return { text = row.text, humor = row.humor == "True" }
  end, prefs.open_csv(path))
end

--- metaaligner_csv(path, {limit=}) -> list of {prompt=, reference=, response=} | fail
-- Answers of one policy to HH prompts: columns query, goldens, generated_text.
function prefs.metaaligner_csv(path, opts)
  prefs.check_options("metaaligner_csv", opts, { limit = "integer" })
  return converted(path, opts and opts.limit, function(row)
    if not (row.query and row.goldens and row.generated_text) then
      return nil, "the columns query, goldens and generated_text are expected"
    end
    local prompt = split_dialogue(row.query)
    if not prompt then
      return nil, "the query has no answer mark \"\\n\\nAssistant:\""
    end
    return { prompt = prompt, reference = strip(row.goldens), response = strip(row.generated_text) }
  end, prefs.open_csv(path))
end

local ROLES = { human = "user", gpt = "assistant", system = "system" }

-- one entry of a ShareGPT-style list -> row, or nil, reason, or false, the count to raise
local function dpo_row(entry)
  local turns = type(entry) == "table" and entry.conversations
  if type(turns) ~= "table" then
    return nil, "'conversations' is missing or not a list"
  end
  local messages = {}
  for i, turn in ipairs(turns) do
    local role = type(turn) == "table" and ROLES[turn.from]
    if not role or type(turn.value) ~= "string" or (role == "system" and i > 1) then
      return nil, ("turn %d is not by human or gpt with a 'value'"):format(i)
    end
    messages[i] = { role = role, content = turn.value }
  end
  if #messages == 0 or messages[#messages].role ~= "user" then
    return nil, "the last turn is not the human's"
  end
  local row = { messages = messages, prompt = prefs.dialogue(messages) }
  for _, side in ipairs { "chosen", "rejected" } do
    local answer = entry[side]
    if type(answer) ~= "table" or type(answer.value) ~= "string" then
      return nil, ("'%s' is missing or has no 'value'"):format(side)
    end
    row[side] = strip(answer.value)
  end
  if not says_something(row.prompt) then
    return nil, "the prompt is empty"
  end
  local reason = no_preference(row.chosen, row.rejected)
  if reason then
    return false, reason
  end
  return row
end

--- dpo_json(path, {limit=}) -> list of {prompt=, chosen=, rejected=, messages=}, counts | fail
-- A ShareGPT-style list of {conversations, chosen, rejected}, as LLaMA-Factory has it. Pairs that hold no preference
-- are left out and counted as hh_rlhf does; limit counts kept rows.
function prefs.dpo_json(path, opts)
  prefs.check_options("dpo_json", opts, { limit = "integer" })
  local list, err, code = json.load(path)
  if not list then
    return nil, err or path .. ": not a list", code or "FORMAT"
  elseif type(list) ~= "table" then
    return nil, path .. ": not a list", "FORMAT"
  end
  local out, counts = {}, new_counts()
  for i = 1, #list do
    if opts and opts.limit and #out >= opts.limit then
      break
    end
    local row, reason = dpo_row(list[i])
    if row == nil then
      return nil, ("%s: entry %d: %s"):format(path, i, reason), "FORMAT"
    end
    counts.rows = counts.rows + 1
    reason = reason or "kept"
    counts[reason] = counts[reason] + 1
    out[#out + 1] = row or nil
  end
  return out, counts
end

-- ---- summaries of Reddit's posts ----

local function one_line(text)
  return strip((text:gsub("\n", " ")))
end

-- one comparison -> row, or nil, reason, or false, the count to raise
local function summary_row(row, opts)
  if type(row) ~= "table" or type(row.info) ~= "table" or type(row.summaries) ~= "table" then
    return nil, "an object with info, summaries and choice is expected"
  end
  local post, choice, texts = row.info.post, row.choice, {}
  if post ~= nil and post ~= json.null and type(post) ~= "string" then
    return nil, "info.post is no text"
  elseif choice ~= 0 and choice ~= 1 then
    return nil, ("choice is %s; 0 or 1 is expected"):format(tostring(choice))
  end
  for i = 1, 2 do
    local s = row.summaries[i]
    if type(s) ~= "table" or type(s.text) ~= "string" then
      return nil, ("summary %d has no text"):format(i)
    end
    texts[i] = one_line(s.text)
  end
  local n = type(post) == "string" and (utf8.len(post) or #post)
  if not n or n <= opts.min_chars or n >= opts.max_chars then
    return false, "other_posts"
  end
  local chosen, rejected = texts[choice + 1], texts[2 - choice]
  local reason = no_preference(chosen, rejected)
  if reason then
    return false, reason
  end
  return { post = one_line(post), chosen = chosen, rejected = rejected }
end

-- The files of a path, sorted.
local function comparison_files(path)
  local kind, message, code = fs.exists(path)
  if kind == "file" then
    return { path }
  elseif not kind then
    return nil, message or path .. ": No such file or directory", code or "IO"
  end
  local names
  names, message, code = fs.list(path)
  local files = {}
  for _, name in ipairs(names or {}) do
    files[#files + 1] = name:gsub("%.gz$", ""):find "%.jsonl?$" and fs.join(path, name) or nil
  end
  if names and #files == 0 then
    return nil, path .. ": holds no .json or .jsonl file of comparisons", "FORMAT"
  end
  return names and files, message, code
end

--- summary_comparisons(path, {min_chars=100, max_chars=1200, limit=}) -> list of {post=, chosen=, rejected=}, counts
-- | fail: OpenAI's summarize_from_feedback, comparisons: a file, or the .json and .jsonl files of a directory, one
-- object a line: info.post, summaries[1..2].text, choice 0 or 1. Line ends become blanks. Posts that are null, as
-- those of CNN/DM, or not of more than min_chars and fewer than max_chars characters are left out, and so are pairs
-- with an empty or the same summary: counts = {rows, kept, other_posts, identical, empty_answers}.
function prefs.summary_comparisons(path, opts)
  prefs.check_options("summary_comparisons", opts, { limit = "integer", min_chars = "integer", max_chars = "integer" })
  local limits = { min_chars = opts and opts.min_chars or 100, max_chars = opts and opts.max_chars or 1200 }
  local files, message, code = comparison_files(path)
  if not files then
    return nil, message, code
  end
  local list, counts = {}, { rows = 0, kept = 0, other_posts = 0, identical = 0, empty_answers = 0 }
  for _, file in ipairs(files) do
    local reader, step, kind = prefs.open_jsonl(file)
    if not reader then
      return nil, step, kind
    end
    local close <close> = reader
    while not (opts and opts.limit) or counts.kept < opts.limit do
      local value, line, why = step()
      if value == nil and line then
        return nil, line, why
      elseif value == nil then
        break
      end
      local row, reason = summary_row(value, limits)
      if row == nil then
        return nil, ("%s:%d: %s"):format(file, line, reason), "FORMAT"
      end
      counts.rows = counts.rows + 1
      counts[row and "kept" or reason] = counts[row and "kept" or reason] + 1
      list[#list + 1] = row or nil
    end
  end
  return list, counts
end

return prefs
