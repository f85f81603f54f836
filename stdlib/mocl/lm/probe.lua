--- mocl.lm.probe: reward models on a trunk that stays as it is: a linear head on the states of a language model, which all objectives
-- share. The states of a text are read once, however many heads judge them, and a head is the minimum of a convex loss.
--
-- What a head sees of an answer: at several depths of the trunk the mean of the states of the answer's tokens, each entry divided
-- by its deviation over the texts it was fitted to. Where rows say which of two answers is better it is fitted by the
-- Bradley-Terry loss, where they say what a text is by that of logistic regression; either is a mean over rows, and l2 / 2 |w|^2 on top.
-- Such probes are Alain and Bengio's (2016, arXiv 1610.01644); the loss on pairs is L_RM of the paper's section 2.

local check = require "mocl.failure".check
local finite = require "mocl.finite"
local fs = require "mocl.fs"
local lm = require "mocl.lm.sft"
local metrics = require "mocl.metrics"
local nn = require "mocl.nn.core"
local options = require "mocl.options"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local probe = {}

local Probe = {}
Probe.__index = Probe

local DEPTHS = 5 -- places that states are taken from, at equal distances, the last behind all blocks
local ROWS = 32 -- texts of a batch

--- probe.depths(layers) -> the numbers of blocks behind which states are taken, rising; the last is all of them.
function probe.depths(layers)
  local list = {}
  for k = 1, DEPTHS do
    local depth = (layers * k + DEPTHS - 1) // DEPTHS
    list[#list + 1] = depth ~= list[#list] and depth or nil
  end
  return list
end

--- probe.new{trunk=, tokenizer=, tokens=} -> p, whose head is zero. tokens: so many of a prompt's last tokens, and of an answer's
-- first ones, are read.
function probe.new(o)
  options.check("probe.new", o, { "trunk", "tokenizer", "tokens" })
  local c = o.trunk:config()
  local depths = probe.depths(c.num_hidden_layers)
  local width = #depths * c.hidden_size
  return setmetatable({ trunk = o.trunk, tokenizer = o.tokenizer, tokens = o.tokens, depths = depths, width = width,
    head = tensor.zeros { 1, width }, bias = 0.0 }, Probe)
end

-- The last n, or the first n, of a list of ids.
local function last(ids, n)
  return #ids > n and table.move(ids, #ids - n + 1, #ids, 1, {}) or ids
end

local function first(ids, n)
  return #ids > n and table.move(ids, 1, n, 1, {}) or ids
end

-- Token ids of a prompt and an answer as they are read. An answer without tokens is its end.
local function encode(self, prompt, response)
  local ids = self.tokenizer:encode(lm.answer(self.tokenizer, response))
  if #ids == 0 then
    ids[1] = self.tokenizer:eos_id() or error("reward model: an answer has no tokens and this tokenizer no EOS", 0)
  end
  return last(lm.prompt(self.tokenizer, prompt), self.tokens), first(ids, self.tokens)
end

-- States [n, F] of a batch of transformer.pack.
local function states(self, batch)
  local parts, hidden, start = {}, nil, nil
  for i, depth in ipairs(self.depths) do
    local stop = i < #self.depths and depth or nil
    hidden = self.trunk:forward(batch, { adapter = false, hidden = hidden, start = start, stop = stop, rows = not stop and batch.token_rows or nil })
    local x = stop and nn.rows(hidden, batch.token_rows) or hidden
    parts[i], start = nn.segment_mean(x:to "f32", batch.response_offsets), stop
  end
  return tensor.cat(parts, 2):to "cpu"
end

--- p:read(prompts, responses) -> states [n, F] f32 on the cpu, what every head on this trunk judges answers by.
function Probe:read(prompts, responses)
  options.answers("reward model", prompts, responses)
  local list = {}
  for at = 1, #prompts, ROWS do
    local p, r = {}, {}
    for i = at, math.min(#prompts, at + ROWS - 1) do
      p[#p + 1], r[#r + 1] = encode(self, prompts[i], responses[i])
    end
    local scope <close> = tensor.scope()
    list[#list + 1] = scope:keep(tensor.no_grad(states, self, transformer.pack(p, r, { device = self.trunk:device() })))
  end
  return #list > 0 and tensor.no_grad(tensor.cat, list, 1) or tensor.zeros { 0, self.width }
end

--- Whether another reward reads texts to the same states, so that one reading is enough for both.
function Probe:reads_as(other)
  return getmetatable(other) == Probe and other.trunk == self.trunk and other.tokenizer == self.tokenizer and other.tokens == self.tokens
end

--- p:judge(states) -> list of n numbers.
function Probe:judge(x)
  local scope <close> = tensor.scope()
  local out = {}
  for i, row in ipairs(tensor.no_grad(nn.linear, x, self.head):totable()) do
    out[i] = finite.number(row[1] + self.bias, ("reward model: the score of answer %d"):format(i))
  end
  return out
end

--- Scores of texts, as numbers. Called like a function too: p(prompts, responses).
function Probe:score(prompts, responses)
  return #prompts > 0 and self:judge(self:read(prompts, responses)) or {}
end

Probe.__call = Probe.score

-- ---- the head ----

local function dot(a, b)
  return (a * b):sum():item()
end

-- The mean of log(1 + exp(-z w)) over the rows of z, and the penalty.
local function loss_of(z, w, l2)
  return -nn.linear(z, w):logsigmoid():mean():item() + l2 / 2 * dot(w, w)
end

local NEWTON, GRADIENTS, CLOSE = 30, 60, 1e-4

-- The direction in which the quadratic model of the loss has its minimum, by conjugate gradients: (z' D z / m + l2) d = -gradient.
local function newton_direction(z, weight, gradient, l2)
  local d, r = gradient * 0, -gradient
  local p, rr = r, dot(r, r)
  local enough = rr * CLOSE
  for _ = 1, GRADIENTS do
    local hp = (nn.linear(z, p) * weight):t():matmul(z) + p * l2
    local step = rr / dot(p, hp)
    d, r = d + p * step, r - hp * step
    local new = dot(r, r)
    if new <= enough then
      break
    end
    p, rr = r + p * (new / rr), new
  end
  return d
end

--- probe.minimum(z, l2, w) -> w [1, F], loss: where mean log(1 + exp(-z w)) + l2 / 2 |w|^2 is least, by Newton's method from w
-- ([1, F]; nil: zero). z [m, F] f32: rows times their sign. l2 > 0. The loss is strictly convex, so there is one such place; the
-- gradient there is below 1e-4 of the first one's length.
function probe.minimum(z, l2, w)
  return tensor.no_grad(function()
    local m = z.shape[1]
    w = w or tensor.zeros { 1, z.shape[2] }
    local loss, begin = loss_of(z, w, l2), nil
    for _ = 1, NEWTON do
      local p = (-nn.linear(z, w)):sigmoid() -- [m, 1]
      local gradient = p:t():matmul(z) * (-1 / m) + w * l2
      local size = dot(gradient, gradient) ^ 0.5
      begin = begin or size
      if size <= CLOSE * begin then
        break
      end
      local d = newton_direction(z, p * (p * -1 + 1) * (1 / m), gradient, l2)
      local step, slope = 1.0, dot(gradient, d)
      local new = loss_of(z, w + d, l2)
      while new > loss + 1e-4 * step * slope and step > 1e-3 do
        step = step / 2
        new = loss_of(z, w + d * step, l2)
      end
      if new >= loss then
        break -- as near as f32 comes
      end
      w, loss = w + d * step, new
    end
    return w, finite.number(loss, "the loss of a probe")
  end)
end

-- Rows [m, F] times their sign, of pairs (a row each: chosen minus rejected) or labelled texts (two rows each, and an entry of ones
-- for the bias).
local function signed(chosen, rejected, labelled)
  if not labelled then
    return chosen - rejected
  end
  local ones = tensor.ones { chosen.shape[1], 1 }
  return tensor.cat({ tensor.cat({ chosen, ones }, 2), -tensor.cat({ rejected, ones }, 2) }, 1)
end

local STRENGTHS = { 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 0.003 } -- of l2, from the strongest on

--- p:fit{chosen=, rejected=, labelled=false, held_out=0.2} -> l2, loss: sets the head. chosen, rejected: states [n, F] of the answers of
-- n pairs; labelled: each is a text of its own, of the first kind or of the second. The penalty is the one of STRENGTHS under which
-- the last share `held_out` of the rows has the least loss when the others alone are fitted.
function Probe:fit(o)
  options.check("fit", o, { "chosen", "rejected" }, { "labelled", "held_out" })
  local n = o.chosen.shape[1]
  local kept = math.max(1, n - math.floor(n * (o.held_out or 0.2)))
  return tensor.no_grad(function()
    local scope <close> = tensor.scope()
    local all = tensor.cat({ o.chosen, o.rejected }, 1)
    local mean = all:mean(1)
    local deviation = ((all - mean):square():mean(1) + 1e-12):sqrt()
    local function scaled(x, from, count)
      return (x:narrow(1, from, count) - mean) / deviation
    end
    local function part(from, count)
      return signed(scaled(o.chosen, from, count), scaled(o.rejected, from, count), o.labelled)
    end
    local best, best_loss = STRENGTHS[1], math.huge
    if kept < n then
      local train, test, w = part(1, kept), part(kept + 1, n - kept), nil
      for _, l2 in ipairs(STRENGTHS) do
        w = probe.minimum(train, l2, w)
        local loss = loss_of(test, w, 0)
        if loss < best_loss then
          best, best_loss = l2, loss
        end
      end
    end
    local w, loss = probe.minimum(part(1, n), best)
    local slope = w:narrow(2, 1, self.width) / deviation
    self.bias = (o.labelled and w:narrow(2, self.width + 1, 1):item() or 0.0) - dot(slope, mean:unsqueeze(1))
    self.head = scope:keep(slope:contiguous())
    return best, loss
  end)
end

--- p:accuracy{chosen=, rejected=, labelled=false} -> {accuracy, low, high, n}: the share of pairs whose chosen answer scores higher,
-- or of texts on their own side of 0, with Wilson's 95 % interval. A tie counts as wrong.
function Probe:accuracy(o)
  options.check("accuracy", o, { "chosen", "rejected" }, { "labelled" })
  local better, worse, right = self:judge(o.chosen), self:judge(o.rejected), 0
  local n = o.labelled and 2 * #better or #better
  for i, s in ipairs(better) do
    if o.labelled then
      right = right + (s > 0 and 1 or 0) + (worse[i] < 0 and 1 or 0)
    else
      right = right + (s > worse[i] and 1 or 0)
    end
  end
  local low, high = metrics.wilson(right, n)
  return { accuracy = right / n, low = low, high = high, n = n }
end

local FILE = "probe.safetensors"

--- p:save(dir) -> true | fail: the head and what it reads, without the trunk.
function Probe:save(dir)
  local path = fs.join(dir, FILE)
  local ok, message, code = finite.tensors({ { "score.weight", self.head } }, path)
  if ok then
    ok, message, code = fs.mkdir(dir)
  end
  if ok then
    ok, message, code = safetensors.save(path, { ["score.weight"] = self.head, ["score.bias"] = tensor.new { self.bias } },
      { tokens = tostring(self.tokens) })
  end
  if not ok then
    return nil, message, code
  end
  return true
end

--- Whether a directory holds what p:save wrote.
function probe.is(dir)
  return fs.exists(fs.join(dir, FILE)) == "file"
end

--- probe.load(dir, {trunk=, tokenizer=}) -> p | fail
function probe.load(dir, o)
  options.check("probe.load", o, { "trunk", "tokenizer" })
  local path = fs.join(dir, FILE)
  local tensors, meta, code = safetensors.load(path)
  if not tensors then
    return nil, meta, code
  end
  local tokens = math.tointeger(tonumber(meta.tokens))
  if not tokens or tokens < 1 then
    return nil, path .. ": no number of tokens in its metadata", "FORMAT"
  end
  local p = probe.new { trunk = o.trunk, tokenizer = o.tokenizer, tokens = tokens }
  local w, b = tensors["score.weight"], tensors["score.bias"]
  if not w or w.ndim ~= 2 or w.shape[1] ~= 1 or w.shape[2] ~= p.width or not b or b:numel() ~= 1 then
    return nil, ("%s: a head of another trunk; this one takes score.weight (1,%d) and score.bias (1)"):format(path, p.width), "FORMAT"
  end
  local ok, message, kind = finite.tensors({ { "score.weight", w }, { "score.bias", b } }, path)
  if not ok then
    return nil, message, kind
  end
  p.head, p.bias = w:to "f32":clone(), b:to "f32":item()
  return p
end

--- probe.save_states(path, {chosen=, rejected=}), probe.load_states(path) -> the same: states that were read so far; failures raise.
function probe.save_states(path, o)
  check(safetensors.save(path, { chosen = o.chosen, rejected = o.rejected }))
end

function probe.load_states(path)
  local tensors = check(safetensors.load(path))
  return { chosen = tensors.chosen:clone(), rejected = tensors.rejected:clone() }
end

return probe
