--- mocl.show: values as the interactive mode prints them: tables in Lua's syntax within limits, objects by what they are.

local options = require "mocl.options"
local sys = require "mocl.sys"

local show = {}

local KEYWORDS = {}
for word in ([[and break do else elseif end false for function goto if in local nil not or repeat return then true until
while]]):gmatch "%a+" do
  KEYWORDS[word] = true
end

--- show.colour(fd=1) -> boolean: may what is written there have colours? On a terminal alone, one that is not "dumb", and where the
-- environment has no NO_COLOR (https://no-color.org: set, and not empty).
function show.colour(fd)
  local no = os.getenv "NO_COLOR"
  return sys.isatty(fd or 1) and (no == nil or no == "") and os.getenv "TERM" ~= "dumb" and os.getenv "TERM" ~= nil
end

local PAINT = { key = "\27[36m", text = "\27[32m", note = "\27[2m", bold = "\27[1m", bad = "\27[31m" }

--- show.paint(text, kind, on) -> text. kind: "key", "text", "note", "bold" or "bad"; unchanged where `on` is not true.
function show.paint(text, kind, on)
  return on and PAINT[kind] .. text .. "\27[0m" or text
end

-- In quotes; of a long one the first bytes, up to the end of a character. Returns also how many are left out, or nil.
local function quoted(s, most)
  local all = #s
  if all > most then
    while most > 0 and s:byte(most + 1) & 0xC0 == 0x80 do
      most = most - 1
    end
    s = s:sub(1, most)
  end
  local cut = #s < all and all - #s or nil
  s = s:gsub('[%c"\\]', function(c)
    local short = { ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r", ['"'] = '\\"', ["\\"] = "\\\\" }
    return short[c] or ("\\x%02x"):format(c:byte())
  end)
  if not utf8.len(s) then
    s = s:gsub("[\x80-\xff]", function(c) return ("\\x%02x"):format(c:byte()) end)
  end
  return '"' .. s .. '"', cut
end

local function number(v)
  if math.type(v) == "integer" then
    return tostring(v)
  elseif v ~= v then
    return "0/0"
  elseif v == math.huge or v == -math.huge then
    return v > 0 and "math.huge" or "-math.huge"
  end
  local short = ("%.14g"):format(v)
  return short:find "[.eE]" and short or short .. ".0"
end

local function is_name(key)
  return type(key) == "string" and key:find "^[%a_][%w_]*$" ~= nil and not KEYWORDS[key]
end

local function class_of(v)
  local meta = debug.getmetatable(v)
  local name = type(meta) == "table" and rawget(meta, "__name")
  return type(name) == "string" and name or nil, type(meta) == "table" and meta or nil
end

local function count(n, what)
  return ("%d %s%s"):format(n, what, n == 1 and "" or "s")
end

-- What is told of a language model: its sizes, numbers and adapters.
local function model_text(m)
  local c = m:config()
  local n = 0
  for _, p in ipairs(m:named_parameters()) do
    n = n + p[2]:numel()
  end
  local text = ("model %s, %d layers, hidden %d, vocabulary %d, %.4g million parameters, %s, %s"):format(c.model_type or "", c.num_hidden_layers
    or 0, c.hidden_size or 0, c.vocab_size or 0, n / 1e6, m:quantization() or m:dtype(), m:device())
  local names = m.lora_list and m:lora_list() or {}
  return #names > 0 and text .. ", adapters " .. table.concat(names, " ") or text
end

local DESCRIBE = { ["mocl.transformer"] = model_text }

-- The text of what is no table, or of a table that has a text of its own.
local function leaf(v, o)
  local t = type(v)
  if t == "string" then
    local text, cut = quoted(v, o.text)
    return show.paint(text, "text", o.colour) .. (cut and show.paint(" --[[ " .. count(cut, "more byte") .. " ]]", "note", o.colour) or "")
  elseif t == "number" then
    return number(v)
  elseif t == "nil" or t == "boolean" then
    return tostring(v)
  end
  local class, meta = class_of(v)
  if class and DESCRIBE[class] then
    local ok, text = pcall(DESCRIBE[class], v)
    if ok then
      return text
    end
  end
  if meta and rawget(meta, "__tostring") ~= nil then
    local ok, text = pcall(tostring, v)
    return ok and type(text) == "string" and text or ("<%s with a faulty __tostring>"):format(t)
  elseif t == "function" then
    local info = debug.getinfo(v, "S")
    return info.what == "C" and "<function in C>" or ("<function %s:%d>"):format(info.short_src, info.linedefined)
  end
  return class and ("<%s>"):format(class) or ("<%s>"):format(tostring(v):gsub(": .*", ""))
end

local render

-- a key in front of its value: "" in the sequence of a list
local function key_text(key, o)
  if is_name(key) then
    return show.paint(key, "key", o.colour) .. " = "
  end
  return "[" .. leaf(key, o) .. "] = "
end

local function width_of(text)
  text = text:gsub("\27%[[%d;]*m", "")
  return utf8.len(text) or #text
end

function render(v, o, level, indent, above)
  local meta = debug.getmetatable(v)
  if type(v) ~= "table" or type(meta) == "table" and rawget(meta, "__tostring") ~= nil then
    local text = leaf(v, o)
    return level > 0 and text:gsub("\n", "\n" .. indent) or text
  elseif above[v] then
    return show.paint("{ --[[ a table around it ]] }", "note", o.colour)
  elseif next(v) == nil then
    return "{}"
  elseif level >= o.depth then
    return show.paint("{ --[[ deeper ]] }", "note", o.colour)
  end
  above[v] = true
  local parts, left, n = {}, 0, rawlen(v)
  local inner = indent .. "  "
  for i = 1, n do
    if #parts >= o.items then
      left = n - i + 1
      break
    end
    parts[#parts + 1] = render(rawget(v, i), o, level + 1, inner, above)
  end
  local keys = {}
  for key in next, v do
    if not (math.type(key) == "integer" and key >= 1 and key <= n) then
      keys[#keys + 1] = key
    end
  end
  table.sort(keys, function(a, b)
    local first, second = type(a) == "number" and 1 or type(a) == "string" and 2 or 3, type(b) == "number" and 1 or type(b) == "string" and 2 or 3
    if first ~= second then
      return first < second
    elseif first == 3 then
      return type(a) < type(b)
    end
    return a < b
  end)
  local of_keys = 0
  for _, key in ipairs(keys) do
    if of_keys >= o.items then
      left = left + #keys - of_keys
      break
    end
    of_keys = of_keys + 1
    parts[#parts + 1] = key_text(key, o) .. render(rawget(v, key), o, level + 1, inner, above)
  end
  above[v] = nil
  local note = left > 0 and show.paint(("--[[ %d more ]]"):format(left), "note", o.colour)
  local line = table.concat(parts, ", ")
  if not line:find "\n" and width_of(line) + #indent + (note and 20 or 4) <= o.width then
    local space = #parts > 0 and parts[1]:find "^{" == nil and #keys > 0 and " " or ""
    return "{" .. space .. line .. (note and ", " .. note or "") .. space .. "}"
  end
  -- numbers and the like stand several in a line, as many as fit
  local lines, at = {}, 0
  for i, part in ipairs(parts) do
    local room = width_of(part) + 2
    if i > 1 and at + room + #inner <= o.width and i <= n and not part:find "[\n{]" and not parts[i - 1]:find "[\n{]" then
      lines[#lines] = lines[#lines] .. " " .. part .. ","
      at = at + room
    else
      lines[#lines + 1] = inner .. part .. ","
      at = room
    end
  end
  if note then
    lines[#lines + 1] = inner .. note
  end
  return "{\n" .. table.concat(lines, "\n") .. "\n" .. indent .. "}"
end

--- show.value(v, o) -> text. Tables in Lua's syntax, with sorted keys; what is left out is told in a comment. o: `depth` (3) of tables,
-- `items` (20) of a list and as many of other keys, `text` (1000) bytes of a string, `width` (80) of a line, `colour` (false).
function show.value(v, o)
  o = options.check("show.value", o or {}, {}, { "depth", "items", "text", "width", "colour" })
  return render(v, { depth = o.depth or 3, items = o.items or 20, text = o.text or 1000, width = o.width or 80, colour = o.colour or false }, 0,
    "", {})
end

--- show.results(...) -> what the interactive mode hands to print in place of these results: tables and objects as show.value has them, all
-- else unchanged.
function show.results(...)
  local list = table.pack(...)
  local o = { width = math.max(40, sys.columns(1) or 80), colour = show.colour(1) }
  for i = 1, list.n do
    local t = type(list[i])
    if t == "table" or t == "userdata" then
      list[i] = show.value(list[i], o)
    end
  end
  return table.unpack(list, 1, list.n)
end

return show
