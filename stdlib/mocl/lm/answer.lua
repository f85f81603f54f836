--- mocl.lm.answer: an answer that is computed token by token, whenever its owner wants the next one: for a server
-- that has others to look after between two tokens. What it says is what m:ask says with the same settings.

local options = require "mocl.options"
local tensor = require "mocl.tensor"

local answer = {}

local Answer = {}
Answer.__index = Answer

local PIECE = 256 -- tokens of a prompt that are read in one step

--- answer.new(m, ids, o) -> a. m: a loaded model; ids: those of the prompt; o: max_new_tokens, seed, temperature,
-- top_p, top_k as for m:ask; n (1): answers to the prompt; stop: a list of texts that end an answer and are not part
-- of it; logprobs (false): whether the events have log-probabilities, with the top_logprobs (0) likeliest tokens of
-- each place.
function answer.new(m, ids, o)
  options.check("answer.new", o, { "max_new_tokens", "seed" }, { "temperature", "top_p", "top_k", "n", "stop", "logprobs", "top_logprobs" })
  local n, context = o.n or 1, m.model:config().max_position_embeddings
  if #ids < 1 or #ids >= context then
    error(("answer.new: the prompt has %d tokens, and the context of %d must hold one more"):format(#ids, context), 2)
  end
  local a = setmetatable({ m = m, ids = ids, o = o, key = m:key(o.seed), stop = o.stop or {}, read = 0, step_number = 0, n_tokens = 0,
    limit = math.min(o.max_new_tokens, context - #ids), choices = {}, active = {}, eos = {} }, Answer)
  for _, id in ipairs(m:ends()) do
    a.eos[id] = true
  end
  for i = 1, n do
    a.choices[i] = { stream = m.tokenizer:decode_stream { skip_special = true }, held = "", places = {} }
    a.active[i] = i
  end
  a.session = m.model:session { rows = n, max_tokens = #ids + a.limit }
  return a
end

-- ---- texts ----

-- The part of what is held that can be said: all of it at the end; else all but what may be the beginning of a stop
-- text. Second, whether a stop text was found.
local function release(c, stops, last)
  local at
  for _, s in ipairs(stops) do
    local from = c.held:find(s, 1, true)
    at = from and math.min(at or from, from) or at
  end
  if at then
    return c.held:sub(1, at - 1), true
  end
  local keep = 0
  for _, s in ipairs(last and {} or stops) do
    for n = math.min(#s - 1, #c.held), keep + 1, -1 do
      if c.held:sub(-n) == s:sub(1, n) then
        keep = n
        break
      end
    end
  end
  return c.held:sub(1, #c.held - keep), false
end

-- The bytes of a token inside a text: some tokenizers drop the space of one that begins a text.
function Answer:bytes(id)
  local once = self.m.tokenizer:decode({ id }, { skip_special = false })
  return self.m.tokenizer:decode({ id, id }, { skip_special = false }):sub(#once + 1)
end

-- Log-probabilities at temperature 1 of the drawn tokens, and of the likeliest ones, of the rows in their order.
local function places_of(a, rows, ids)
  local scope <close> = tensor.scope()
  local all, list = a.session:logits(rows):log_softmax(), {}
  local best, at
  if (a.o.top_logprobs or 0) > 0 then
    best, at = all:narrow(2, 1, a.m:vocab_size()):topk(math.min(a.o.top_logprobs, a.m:vocab_size()))
    best, at = best:totable(), at:totable()
  end
  for i, id in ipairs(ids) do
    local place = { id = id, bytes = a:bytes(id), logprob = all[i]:narrow(1, id + 1, 1):item(), top = {} }
    for j, value in ipairs(best and best[i] or {}) do
      place.top[j] = { id = at[i][j], bytes = a:bytes(at[i][j]), logprob = value }
    end
    list[i] = place
  end
  return list
end

-- ---- steps ----

-- One more token of choice i: an event, or nil where there is nothing to say yet. finish: "stop" at an end token,
-- "length".
local function push(a, i, id, finish, place)
  local c = a.choices[i]
  if finish ~= "stop" then
    if place then
      place.from = #c.held
      c.places[#c.places + 1] = place
    end
    c.held = c.held .. c.stream:push(id)
  end
  if finish then
    c.held = c.held .. c.stream:flush()
  end
  local text, stopped = release(c, a.stop, finish)
  if stopped then
    finish = "stop"
  end
  c.finish = finish
  if text == "" and not finish then
    return nil
  end
  -- the places that belong to the text; those of a stop text are gone with it
  local now, later = {}, {}
  for _, p in ipairs(c.places) do
    if p.from < #text or finish and not stopped then
      now[#now + 1] = p
    else
      p.from = p.from - #text
      later[#later + 1] = p
    end
  end
  c.held, c.places = c.held:sub(#text + 1), later
  return { choice = i, text = text, finish = finish, logprobs = a.o.logprobs and now or nil }
end

--- a:step() -> list of events. Reads a piece of the prompt, or draws one token for each answer that goes on. An event
-- has choice (from 1), text (whole characters), finish (nil, "stop" or "length"), and logprobs where they are wanted:
-- a list of {id=, bytes=, logprob=, top=}. a.done is true behind the last one.
function Answer:step()
  local s, o = self.session, self.o
  if self.read < #self.ids then
    local to = math.min(self.read + PIECE, #self.ids)
    s:append({ table.move(self.ids, self.read + 1, to, 1, {}) }, { 1 })
    self.read = to
    for i = 2, to == #self.ids and #self.choices or 0 do
      s:fork(1, i)
    end
    return {}
  end
  local rows, events, more, tokens = self.active, {}, {}, {}
  local drawn = s:sample { rows = rows, temperature = o.temperature or self.m.temperature, top_p = o.top_p or self.m.top_p, top_k = o.top_k or 0,
    vocab_size = self.m:vocab_size(), key = self.key, step = self.step_number }
  local places = o.logprobs and places_of(self, rows, drawn) or {}
  self.step_number = self.step_number + 1
  for k, i in ipairs(rows) do
    local ended = self.eos[drawn[k]]
    self.n_tokens = self.n_tokens + (ended and 0 or 1)
    events[#events + 1] = push(self, i, drawn[k], ended and "stop" or self.step_number >= self.limit and "length" or nil, places[k])
    if not self.choices[i].finish then
      more[#more + 1], tokens[#tokens + 1] = i, { drawn[k] }
    end
  end
  self.active = more
  if #more > 0 then
    s:append(tokens, more)
  else
    self:close()
  end
  return events
end

--- a:close(), local a <close>: frees the cache. Once the last token is there this has happened.
function Answer:close()
  self.done = true
  if self.session then
    self.session:release()
    self.session = nil
  end
end

Answer.__close = Answer.close

return answer
