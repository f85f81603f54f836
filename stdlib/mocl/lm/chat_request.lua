--- mocl.lm.chat_request: what a client of mocl serve asks for, read from the JSON of an OpenAI-style chat completion
-- and checked before anything is computed. Fields that nobody here knows are passed over; those that would change the
-- answer and cannot be honoured are refused.

local json = require "mocl.json"
local weight = require "mocl.preference".weight

local chat_request = {}

local MAX = { n = 16, stop = 16, top_logprobs = 20, temperature = 1e6 }
local MIN_TEMPERATURE = 1e-6 -- but 0: those of generate

-- ---- refusals ----

--- What is raised, and what read returns: an error as OpenAI's servers word it.
local Refusal = {}
Refusal.__index = Refusal

function Refusal:__tostring()
  return self.message
end

--- chat_request.refusal(status, message, param, code) -> e, with these fields.
function chat_request.refusal(status, message, param, code)
  return setmetatable({ status = status, message = message, param = param, code = code }, Refusal)
end

local function refuse(param, format, ...)
  error(chat_request.refusal(400, format:format(...), param), 0)
end

--- chat_request.error_body(e) -> JSON text, {"error": {...}}.
function chat_request.error_body(e)
  return json.encode({ error = { message = e.message, type = e.status >= 500 and "server_error" or "invalid_request_error",
    param = e.param or json.null, code = e.code or json.null } }, { replace_invalid = true })
end

-- The text of what a function of the library raised, without the place in the code.
local function words_of(e)
  return (tostring(e):gsub("^[^:%s]+%.lua:%d+: ", ""))
end

-- ---- fields ----

-- An object of JSON, where a list is expected: it has keys, and its entries would be passed over.
local function is_list(v)
  return type(v) == "table" and type(next(v)) ~= "string"
end

local function shown(v)
  if type(v) == "table" then
    return is_list(v) and "a list" or "an object"
  end
  local text = json.encode(v == v and math.abs(type(v) == "number" and v or 0) < math.huge and v or tostring(v), { replace_invalid = true })
  return #text > 60 and text:sub(1, 57) .. "..." or text
end

-- The value of a field; nil where it is not there or null.
local function field(t, name)
  local v = t[name]
  if v ~= json.null then
    return v
  end
end

local function flag(t, name)
  local v = field(t, name)
  if v ~= nil and type(v) ~= "boolean" then
    refuse(name, "%s: true or false expected, got %s", name, shown(v))
  end
  return v or false
end

local function number(t, name, lowest, highest)
  local v = field(t, name)
  if v ~= nil and not (type(v) == "number" and v >= lowest and v <= highest and math.abs(v) < math.huge) then
    refuse(name, "%s: a number from %g%s expected, got %s", name, lowest, highest < math.huge and (" to %g"):format(highest) or "", shown(v))
  end
  return v
end

local function integer(t, name, lowest, highest)
  local v = field(t, name)
  local i = type(v) == "number" and math.tointeger(v)
  if v ~= nil and not (i and i >= lowest and i <= highest) then
    refuse(name, "%s: a whole number%s expected, got %s", name, lowest == math.mininteger and ""
      or highest < math.maxinteger and (" from %d to %d"):format(lowest, highest) or (" from %d"):format(lowest), shown(v))
  end
  return i or nil
end

local function stops(t)
  local v = field(t, "stop")
  local list = type(v) == "string" and { v } or v or {}
  if not is_list(list) then
    refuse("stop", "stop: a text or a list of texts expected, got %s", shown(v))
  elseif #list > MAX.stop then
    refuse("stop", "stop: at most %d texts, got %d", MAX.stop, #list)
  end
  for _, s in ipairs(list) do
    if type(s) ~= "string" or s == "" then
      refuse("stop", "stop: texts that are not empty expected, got %s", shown(s))
    end
  end
  return list
end

-- What is refused by name: a client that is told so once does not ask again for a text in a form that it never gets.
local function unsupported(t)
  for _, name in ipairs { "tools", "functions", "logit_bias" } do
    local v = field(t, name)
    if type(v) == "table" and next(v) ~= nil then
      refuse(name, "%s are not supported: the model is asked for text alone", name)
    end
  end
  for _, name in ipairs { "presence_penalty", "frequency_penalty" } do
    local v = field(t, name)
    if v ~= nil and v ~= 0 then
      refuse(name, "%s is not supported: leave it out, or say 0", name)
    end
  end
  local format = field(t, "response_format")
  local kind = type(format) == "table" and format.type or format
  if kind ~= nil and kind ~= "text" then
    refuse("response_format", "response_format %s is not supported: the model answers in text", shown(kind))
  end
end

-- ---- messages ----

local ROLES = { system = "system", developer = "system", user = "user", assistant = "assistant" }

local function content_text(m, where)
  local content = field(m, "content")
  if type(content) == "string" then
    return content
  elseif not is_list(content) then
    refuse("messages", "%s: content is to be a text or a list of parts, got %s", where, content == nil and "none" or shown(content))
  end
  local parts = {}
  for i, part in ipairs(content) do
    if type(part) ~= "table" or part.type ~= "text" or type(part.text) ~= "string" then
      refuse("messages", "%s: part %d is no {\"type\": \"text\", \"text\": ...}; others are not supported", where, i)
    end
    parts[i] = part.text
  end
  return table.concat(parts)
end

-- The messages but the last, and the text of the last, which is the user's.
local function messages(t)
  local list, out = field(t, "messages"), {}
  if type(list) ~= "table" or #list == 0 then
    refuse("messages", "messages: a list of {\"role\": ..., \"content\": ...} that is not empty expected")
  end
  for i, m in ipairs(list) do
    local where = ("messages[%d]"):format(i - 1)
    if type(m) ~= "table" then
      refuse("messages", "%s: an object with role and content expected, got %s", where, shown(m))
    elseif not ROLES[m.role] then
      refuse("messages", "%s: the role %s is none of system, developer, user, assistant", where, m.role == nil and "is missing and" or shown(m.role))
    end
    out[i] = { role = ROLES[m.role], content = content_text(m, where) }
  end
  local last = table.remove(out)
  if last.role ~= "user" then
    refuse("messages", "messages: the last one is to be the user's, it is of the role %s", last.role)
  end
  return out, last.content
end

-- ---- preferences ----

--- chat_request.weights(text, param) -> table. "humor=.7,helpful=.3"; raises a refusal that names `param`.
function chat_request.weights(text, param)
  local p = {}
  for word in text:gmatch "[^,]+" do
    local name, value = weight((word:gsub("%s*=%s*", "=", 1):match "^%s*(.-)%s*$"))
    if not name then
      refuse(param, "%s: %s", param, value)
    elseif p[name] then
      refuse(param, "%s: %s stands there twice", param, name)
    end
    p[name] = value
  end
  return next(p) and p or nil
end

-- The one place where the request says a preference.
local function preference(t, headers, suffix)
  local found, where = {}, {}
  local own, header = field(t, "preference"), headers["x-mocl-preference"]
  local function add(p, what)
    if p ~= nil then
      found[#found + 1], where[#where + 1] = p, what
    end
  end
  if type(own) == "string" then
    own = chat_request.weights(own, "preference")
  elseif own ~= nil and type(own) ~= "table" then
    refuse("preference", "preference: an object such as {\"humor\": 0.7}, a list of weights or a text expected, got %s", shown(own))
  end
  add(own, "the field preference")
  add(header and chat_request.weights(header, "x-mocl-preference"), "the header x-mocl-preference")
  add(suffix and chat_request.weights(suffix, "model"), "the name of the model")
  if #found > 1 then
    refuse("preference", "%s and %s both say a preference; leave one of the two out", where[1], where[2])
  end
  if found[1] and next(found[1]) == nil then
    return nil, where[1]
  end
  return found[1], where[1]
end

-- ---- a request ----

local function read(body, headers, m, name)
  local t, message = json.decode(body)
  if type(t) ~= "table" or t == json.null then
    refuse(nil, "the body is no JSON object: %s", message or "got " .. shown(t))
  end
  local q = { requested = field(t, "model") or name }
  if type(q.requested) ~= "string" then
    refuse("model", "model: a text expected, got %s", shown(q.requested))
  end
  local base, suffix = q.requested:match "^([^:]*):(.*)$"
  if (base or q.requested) ~= name then
    error(chat_request.refusal(404, ("the model '%s' is not here: this server has '%s'%s"):format(q.requested, name, m.objectives
      and (", and '%s:%s=.7' for a preference"):format(name, m.objectives[1]) or ""), "model", "model_not_found"), 0)
  end
  unsupported(t)
  local before
  before, q.text = messages(t)
  q.stream, q.logprobs, q.rewards = flag(t, "stream"), flag(t, "logprobs"), flag(t, "rewards")
  local stream_options = field(t, "stream_options")
  q.include_usage = type(stream_options) == "table" and flag(stream_options, "include_usage")
  q.temperature = number(t, "temperature", 0, MAX.temperature)
  if q.temperature and q.temperature > 0 and q.temperature < MIN_TEMPERATURE then
    refuse("temperature", "temperature: 0, for the likeliest token, or at least %g expected, got %s", MIN_TEMPERATURE, shown(q.temperature))
  end
  q.top_p = number(t, "top_p", 0, 1)
  q.top_p = q.top_p and math.max(q.top_p, 1e-6) -- 0 is the likeliest token alone
  q.top_k = integer(t, "top_k", 0, math.maxinteger)
  q.seed = integer(t, "seed", math.mininteger, math.maxinteger)
  q.n = integer(t, "n", 1, MAX.n) or 1
  q.top_logprobs = integer(t, "top_logprobs", 0, MAX.top_logprobs) or 0
  if q.top_logprobs > 0 and not q.logprobs then
    refuse("top_logprobs", "top_logprobs needs logprobs: true")
  end
  local most, other = integer(t, "max_completion_tokens", 1, math.maxinteger), integer(t, "max_tokens", 1, math.maxinteger)
  q.max_tokens = math.min(most or other or m.max_new_tokens, other or most or m.max_new_tokens)
  q.stop = stops(t)
  if q.rewards and #m.rewards == 0 then
    refuse("rewards", "rewards: %s has no reward models", m.path)
  end
  local wanted, where = preference(t, headers, suffix)
  local ok, p = pcall(m.preference, m, wanted)
  if not ok then
    refuse("preference", "%s: %s", where or "preference", words_of(p))
  end
  q.p = p
  local fine, ids = pcall(m.ids, m, q.text, p, before)
  if not fine then
    refuse("messages", "messages: %s", words_of(ids))
  end
  local context = m.model:config().max_position_embeddings
  if #ids == 0 then
    refuse("messages", "messages: the prompt has no tokens")
  elseif #ids >= context then
    error(chat_request.refusal(400, ("the prompt has %d tokens, and the context of %d must hold one more; shorten the messages"):format(#ids, context),
      "messages", "context_length_exceeded"), 0)
  end
  q.ids = ids
  return q
end

--- chat_request.read(body, headers, m, name) -> q | nil, e. body: the JSON; headers: names in lower case; m: a loaded
-- model; name: what it is called here. q has requested (the name as asked), text, ids, p, and stream, include_usage,
-- temperature, top_p, top_k, seed, n, max_tokens, stop, logprobs, top_logprobs, rewards.
function chat_request.read(body, headers, m, name)
  local ok, q = pcall(read, body, headers, m, name)
  if ok then
    return q
  elseif getmetatable(q) == Refusal then
    return nil, q
  end
  error(q, 0)
end

return chat_request
