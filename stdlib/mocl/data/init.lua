--- mocl.data: data files as rows: lines, jsonl, CSV (each plain or gzip'd), pairs, splits.
-- Iterators raise "path:LINE: reason" for a bad file; functions that load a whole file return nil,
-- "path:LINE: reason", code. A UTF-8 byte order mark is skipped; text is handed on as it is.
--
--   for row, line in data.jsonl("train.jsonl.gz") do ... end
--   local pairs_, counts = data.hh_rlhf("hh-rlhf", { split = "test", objective = "harmless" })

local core = require "mocl.data.core"
local fs = require "mocl.fs"
local json = require "mocl.json"
local prefs = require "mocl.data.prefs"

local data = {
  dialogue = prefs.dialogue,
  dpo_json = prefs.dpo_json,
  hh_rlhf = prefs.hh_rlhf,
  humor_csv = prefs.humor_csv,
  messages = prefs.messages,
  metaaligner_csv = prefs.metaaligner_csv,
  one_of = prefs.one_of,
  prompt_key = prefs.prompt_key,
  split_dialogue = prefs.split_dialogue,
  summary_comparisons = prefs.summary_comparisons,
}

local check_options, open_csv = prefs.check_options, prefs.open_csv
local open_jsonl, collect = prefs.open_jsonl, prefs.collect

-- A generic `for` over step() -> value, line | nil | nil, message, code. The reader is closed at
-- the end, on `break` and when the body raises.
local function iterate(reader, step)
  return function()
    local value, line = step()
    if value == nil then
      if line then
        error(line, 0)
      end
      reader:release()
    end
    return value, line
  end, nil, nil, reader
end

local function opened(reader, step_or_message)
  if not reader then
    error(step_or_message, 0)
  end
  return iterate(reader, step_or_message)
end

--- lines(path) -> iterator of line, number. Without "\n" or "\r\n"; raises.
function data.lines(path)
  local reader, err = core.lines(path)
  return opened(reader, reader and function()
    return reader:next()
  end or err)
end

--- jsonl(path) -> iterator of value, line number; blank lines are skipped; raises.
function data.jsonl(path)
  return opened(open_jsonl(path))
end

--- read_jsonl(path, {limit=}) -> list of values | fail
function data.read_jsonl(path, opts)
  check_options("read_jsonl", opts, { limit = "integer" })
  return collect(opts and opts.limit, open_jsonl(path))
end

--- csv(path, {header=true, separator=","}) -> iterator of row, line number; raises.
-- With a header a row is a table by its names, else a list. Each row has as many fields as the
-- first.
function data.csv(path, opts)
  check_options("csv", opts, { header = "boolean", separator = "string" })
  return opened(open_csv(path, opts))
end

--- read_csv(path, {header=, separator=, limit=}) -> list of rows | fail
function data.read_csv(path, opts)
  check_options("read_csv", opts, { header = "boolean", separator = "string", limit = "integer" })
  return collect(opts and opts.limit, open_csv(path, opts))
end

local function csv_field(v, alone)
  if math.type(v) == "float" and v == v and v ~= math.huge and v ~= -math.huge then
    return json.encode(v)
  end
  local s = v == nil and "" or tostring(v)
  if s:find('[,"\r\n]') or (alone and s == "") then
    return '"' .. s:gsub('"', '""') .. '"'
  end
  return s
end

--- write_csv(path, header, rows) -> true | fail. Rows are lists, or tables by the names in the
-- header. Written atomically; lines end with "\n"; floats read back equal.
function data.write_csv(path, header, rows)
  local alone = #header == 1
  local out, fields = {}, {}
  local function add(get)
    for i = 1, #header do
      fields[i] = csv_field(get(i), alone)
    end
    out[#out + 1] = table.concat(fields, ",")
  end
  add(function(i)
    return header[i]
  end)
  for n, row in ipairs(rows) do
    local is_list = #row > 0
    if #row > #header then
      error(("write_csv: row %d has %d fields, the header has %d"):format(n, #row, #header), 2)
    end
    add(function(i)
      return row[is_list and i or header[i]]
    end)
  end
  out[#out + 1] = ""
  return fs.write(path, table.concat(out, "\n"))
end

--- write_jsonl(path, rows, encode_options) -> true | fail. One value per line, written atomically.
function data.write_jsonl(path, rows, opts)
  if opts and (opts.indent or 0) ~= 0 then
    error("write_jsonl: indent would break the lines", 2)
  end
  local out = {}
  for i, row in ipairs(rows) do
    out[i] = json.encode(row, opts)
  end
  out[#out + 1] = ""
  return fs.write(path, table.concat(out, "\n"))
end

--- shuffle(list, rng) -> a new list; every order is equally likely. The list is left as it is.
function data.shuffle(list, rng)
  local out = table.move(list, 1, #list, 1, {})
  for i = #out, 2, -1 do
    local j = rng:integer(1, i)
    out[i], out[j] = out[j], out[i]
  end
  return out
end

-- What entries of a list have in common that must not be on both sides of a split: their text, or the prompt.
local function text_of(v)
  if type(v) == "table" then
    v = v.prompt or v.text
  end
  if type(v) == "table" and type(v[1]) == "table" and v[1].role then -- a prompt as a list of messages
    local parts = {}
    for i, m in ipairs(v) do
      parts[i] = ("%s: %s"):format(m.role, prefs.prompt_key(tostring(m.content)))
    end
    v = table.concat(parts, "\n\n")
  end
  return type(v) == "string" and prefs.prompt_key(v) or nil
end

--- split(list, fraction, rng [, key]) -> two new lists: a random share of the entries, the others.
-- Entries with the same text (a string, or the field prompt or text of a row; mocl.data.prompt_key says which texts are
-- the same) come to the same side: round(fraction * n) of the n different ones are chosen. key(entry) says instead
-- what must stay together (nil: the entry alone). Both lists keep the order of the list, so the same rng gives the same
-- split whatever is done with it.
function data.split(list, fraction, rng, key)
  if not (fraction >= 0 and fraction <= 1) then
    error(("split: fraction %s is not in 0..1"):format(fraction), 2)
  end
  local order, group_of, seen = {}, {}, {}
  for i, v in ipairs(list) do
    local k = (key or text_of)(v)
    group_of[i] = k ~= nil and seen[k] or #order + 1
    if k ~= nil then
      seen[k] = group_of[i]
    end
    order[group_of[i]] = group_of[i]
  end
  order = data.shuffle(order, rng)
  local chosen = {}
  for i = 1, math.floor(fraction * #order + 0.5) do
    chosen[order[i]] = true
  end
  local first, rest = {}, {}
  for i, v in ipairs(list) do
    local to = chosen[group_of[i]] and first or rest
    to[#to + 1] = v
  end
  return first, rest
end

--- batches(list, size) -> iterator of batch (a list of at most size entries), index of its first.
function data.batches(list, size)
  if math.type(size) ~= "integer" or size < 1 then
    error(("batches: size %s is not a positive integer"):format(size), 2)
  end
  local at = 1 - size
  return function()
    at = at + size
    if at <= #list then
      return table.move(list, at, math.min(at + size - 1, #list), 1, {}), at
    end
  end
end

return data
