--- mocl.data.rows: rows to train a model on, from a .jsonl or .csv file (either may be gzip'd): prompts with answers,
-- pairs of answers, texts with a label. Columns have names; a row that is wrong ends the reading with its line.

local data = require "mocl.data"
local digest = require "mocl.run.digest"
local sorted_keys = require "mocl.options".sorted_keys

local rows = {}

--- Rows for a recipe's schema: the names of columns.
rows.OPTIONS = {
  { "columns.prompt", "prompt", "column of the prompts; where a row has none, a dialogue of HH-RLHF's form is cut at its last answer" },
  { "columns.response", "response", "column of the answers to train on" },
  { "columns.chosen", "chosen", "column of the better answers" },
  { "columns.rejected", "rejected", "column of the worse answers" },
  { "columns.text", "text", "column of the texts with a label" },
  { "columns.label", "label", "column of the labels: 0 or 1, false or true" },
}

local KINDS = { jsonl = data.jsonl, csv = data.csv }

local function fail(fmt, ...)
  error(fmt:format(...), 0)
end

-- Iterator of row, line.
local function open(path)
  local kind = path:gsub("%.gz$", ""):match "%.([^./]+)$"
  if not KINDS[kind] then
    fail("%s: the name of a file of rows ends in .jsonl or .csv, or one of them and .gz", path)
  end
  return KINDS[kind](path)
end

-- The names of a row's columns, in words.
local function has(row)
  local names = sorted_keys(row)
  return #names > 0 and table.concat(names, ", ") or "none"
end

-- A text of a row, or nil where it may be missing.
local function text_of(row, name, path, line, optional)
  local value = row[name]
  if value == nil and optional then
    return nil
  elseif value == nil then
    fail("%s:%d: no column '%s' (it has %s); columns.NAME=COLUMN names another", path, line, name, has(row))
  elseif type(value) ~= "string" then
    fail("%s:%d: '%s' is a %s, not a text", path, line, name, type(value))
  elseif not utf8.len(value) then
    fail("%s:%d: '%s' is not UTF-8", path, line, name)
  elseif not value:find "%S" then
    fail("%s:%d: '%s' is empty", path, line, name)
  end
  return value
end

-- The prompt and answers of a row: its own prompt, or that of dialogues. nil where the dialogues answer different
-- prompts, or one of them nothing, as a few of HH-RLHF do.
local function answers_of(row, columns, path, line, names)
  local prompt, out = text_of(row, columns.prompt, path, line, true), {}
  for i, name in ipairs(names) do
    out[i] = text_of(row, columns[name], path, line)
    if not prompt or out.prompt then
      local before, answer = data.split_dialogue(out[i])
      if not before then
        fail("%s:%d: there is no column '%s', and '%s' is no dialogue with \"\\n\\nAssistant:\"", path, line, columns.prompt, columns[name])
      elseif out.prompt and out.prompt ~= before or answer == "" then
        return nil
      end
      out[i], out.prompt, prompt = answer, before, before
    end
  end
  return prompt, table.unpack(out)
end

local LABELS = { ["0"] = 0, ["1"] = 1, ["false"] = 0, ["true"] = 1 }

-- What a row is, by the kind of rows that is asked for; nil where it holds nothing to learn.
local MAKE = {}

function MAKE.answers(row, columns, path, line)
  local prompt, response = answers_of(row, columns, path, line, { "response" })
  return prompt and { prompt = prompt, response = response } or nil
end

function MAKE.pairs(row, columns, path, line)
  local prompt, chosen, rejected = answers_of(row, columns, path, line, { "chosen", "rejected" })
  return prompt and chosen ~= rejected and { prompt = prompt, chosen = chosen, rejected = rejected } or nil
end

function MAKE.labels(row, columns, path, line)
  local value = row[columns.label]
  local label = LABELS[tostring(value):lower()]
  if value == nil then
    text_of(row, columns.label, path, line)
  elseif not label then
    fail("%s:%d: the label '%s' is %.40s; 0 or 1, false or true are expected", path, line, columns.label, tostring(value))
  end
  return { prompt = text_of(row, columns.prompt, path, line, true) or "", text = text_of(row, columns.text, path, line), label = label }
end

--- rows.read(path, kind, columns) -> list, left_out. kind: "answers", {prompt =, response =}; "pairs", {prompt =,
-- chosen =, rejected =}; or "labels", {prompt =, text =, label = 0 or 1}. columns: names by those of rows.OPTIONS.
-- left_out: pairs whose answers are the same, and dialogues that end with nothing or begin otherwise. Raises
-- "path:LINE: reason". The file is hashed as it is read.
function rows.read(path, kind, columns)
  local list, left_out, make = {}, 0, MAKE[kind]
  digest.in_passing(function()
    for row, line in open(path) do
      if type(row) ~= "table" or row[1] ~= nil then -- an array is no row
        fail("%s:%d: an object expected", path, line)
      end
      local made = make(row, columns, path, line)
      list[#list + 1] = made
      left_out = left_out + (made and 0 or 1)
    end
  end)
  return list, left_out
end

--- The text that two rows have in common which must not be on both sides of a split: the prompt, or without one the
-- text.
function rows.key(row)
  local text = row.prompt
  if not text or text == "" then
    text = row.text
  end
  return text and data.prompt_key(text)
end

return rows
