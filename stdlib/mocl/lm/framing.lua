--- mocl.lm.framing: texts, and pairs of texts, as rows for a model that reads them whole: what the tokenizer puts
-- around them, the types of their tokens, and how they are cut to what the model holds.
--
--   local f = framing.new(tok, 512)
--   local ids, types = f:row("an answer", "a post")   -- [CLS] an answer [SEP] a post [SEP]

local fs = require "mocl.fs"
local json = require "mocl.json"
local keys = require "mocl.keys"

local framing = {}

local Framing = {}
Framing.__index = Framing

-- The place where the list `part` stands in `whole`, from `from` on.
local function find(whole, part, from)
  for at = from, #whole - #part + 1 do
    local same = true
    for i, id in ipairs(part) do
      same = same and whole[at + i - 1] == id
    end
    if same then
      return at
    end
  end
end

-- What stands around the texts of a row: lists of {id, type} before, between and behind them, and the texts' types.
-- It is seen on short texts, and not taken apart from each row, where a text may spell a token that goes around it.
local PROBES = { "a", "the", "0", "." }

local function seen_around(tok, pair)
  for _, probe in ipairs(PROBES) do
    local known, part = pcall(tok.encode, tok, probe)
    if known and #part > 0 then
      local whole, types = tok:encode(probe, { add_special_tokens = true, pair = pair and probe or nil, return_token_type_ids = true })
      local first = find(whole, part, 1)
      local second = first and pair and find(whole, part, first + #part)
      if first and (second or not pair) then
        local frame = { types = { types[first], second and types[second] } }
        local edges = { { 1, first - 1 }, { first + #part, (second or #whole + 1) - 1 }, second and { second + #part, #whole } or nil }
        for k, edge in ipairs(edges) do
          frame[k] = { ids = table.move(whole, edge[1], edge[2], 1, {}), types = table.move(types, edge[1], edge[2], 1, {}) }
        end
        return frame
      end
    end
  end
  error("the tokenizer knows none of the texts a, the, 0 and the full stop, by which what goes around a text is seen", 0)
end

--- framing.new(tok, limit) -> f. limit: the most tokens of a row.
function framing.new(tok, limit)
  return setmetatable({ tok = tok, limit = limit, [1] = seen_around(tok, false), [2] = seen_around(tok, true) }, Framing)
end

--- framing.lengths(n1, n2, room) -> n1, n2: how many tokens stay of two texts that together may have `room`: the
-- longer one loses its end until it is as long as the other, then both do. It is "longest_first" of Hugging Face's
-- tokenizers.
function framing.lengths(n1, n2, room)
  if n1 + n2 <= room then
    return n1, n2
  end
  local short, long = math.min(n1, n2), nil
  long = math.max(short, room - short)
  if short + long > room then
    short = room // 2
    long = room - short
  end
  if n1 > n2 then
    return long, short
  end
  return short, long
end

-- Bytes that are no UTF-8, which a policy may draw, as U+FFFD, which they are in Python's texts.
local function plain(text)
  return utf8.len(text) and text or json.decode(json.encode(text, { replace_invalid = true }))
end

--- f:row(text, pair) -> ids, types. Bytes that are no UTF-8 are read as U+FFFD. pair: nil, or a second text.
function Framing:row(text, pair)
  local frame = self[pair and 2 or 1]
  local parts, around = { (self.tok:encode(plain(text))), pair and (self.tok:encode(plain(pair))) or nil }, 0
  for _, edge in ipairs(frame) do
    around = around + #edge.ids
  end
  local n1, n2 = framing.lengths(#parts[1], pair and #parts[2] or 0, math.max(0, self.limit - around))
  local keep, ids, types = { n1, n2 }, {}, {}
  for k, edge in ipairs(frame) do
    table.move(edge.ids, 1, #edge.ids, #ids + 1, ids)
    table.move(edge.types, 1, #edge.types, #types + 1, types)
    if parts[k] then
      table.move(parts[k], 1, keep[k], #ids + 1, ids)
      for i = #types + 1, #ids do
        types[i] = frame.types[k]
      end
    end
  end
  return ids, types
end

--- framing.limit(dir, ...) -> the least of the given limits and the model_max_length of a directory's
-- tokenizer_config.json | fail. nil among the limits is none.
function framing.limit(dir, ...)
  local least, path = math.huge, fs.join(dir, "tokenizer_config.json")
  for _, n in pairs { ... } do
    least = math.min(least, n)
  end
  if fs.exists(path) then
    local all, message, code = keys.load(path)
    if not all then
      return nil, message, code
    end
    local n = all.model_max_length
    if keys.given(n) then
      if type(n) ~= "number" or n < 1 then
        return keys.refuse(path, "model_max_length", n, "a number of tokens")
      end
      least = math.min(least, n)
    end
  end
  return math.tointeger(least)
end

return framing
