--- mocl.optim: optimisers (those of mocl.optim.core), gradient clipping and learning-rate schedules.
-- A schedule is a function of the number of steps taken so far that returns a factor for the learning
-- rate: opt:step { lr = base * factor(opt:steps()) }. The formulas are those of Hugging Face's
-- transformers.

local check_options = require "mocl.options".check
local core = require "mocl.optim.core"
local tensor = require "mocl.tensor"

local optim = { adamw = core.adamw, sgd = core.sgd }

--- Scales the gradients of the parameters so that their common Euclidean norm is at most max_norm;
-- returns the norm before. opt:step { max_grad_norm = } does the same without changing the gradients.
function optim.clip_grad_norm(parameters, max_norm)
  if type(max_norm) ~= "number" or not (max_norm > 0) then
    error(("clip_grad_norm: max_norm must be positive, got %s"):format(tostring(max_norm)), 2)
  end
  local total = 0
  for _, p in ipairs(parameters) do
    local g <close> = p.grad
    if g then
      local squares <close> = g:square()
      local sum <close> = squares:sum()
      total = total + sum:item()
    end
  end
  local norm = math.sqrt(total)
  if norm > max_norm then
    for _, p in ipairs(parameters) do
      local g <close> = p.grad
      if g then
        local scaled <close> = g * (max_norm / (norm + 1e-6))
        g:copy_(scaled)
      end
    end
  end
  return norm
end

-- ---- schedules ----

local function check(name, options, required)
  options = check_options("schedule." .. name, options or {}, {}, { "warmup", "total", "final", "from_zero" }, 1)
  for key, v in pairs(options) do
    if key ~= "from_zero" and (type(v) ~= "number" or v < 0) then
      error(("schedule.%s: %s must be a number, 0 or more"):format(name, key), 3)
    end
  end
  local warmup, total, final = options.warmup or 0, options.total, options.final or 0
  if required and not total then
    error(("schedule.%s: give total=, the number of steps"):format(name), 3)
  end
  if total and total < warmup then
    error(("schedule.%s: warmup %g is longer than the total %g"):format(name, warmup, total), 3)
  end
  return warmup, total, final, options.from_zero == false and 1 or 0
end

-- From 0 at step 0 to 1 at step warmup, or with first = 1 from 1 / warmup at step 0; then `after` of the share that is left.
local function schedule(warmup, total, first, after)
  return function(step)
    if step < warmup then
      return (step + first) / warmup
    end
    return after(total and math.max(0, (total - step) / math.max(1, total - warmup)) or 1)
  end
end

optim.schedule = {}

--- 1, after a linear warm-up. from_zero = false: the first step has 1 / warmup in place of 0, and each later one that much more.
function optim.schedule.constant(options)
  local warmup, _, _, first = check("constant", options)
  return schedule(warmup, nil, first, function()
    return 1
  end)
end

--- From 1 down to final at step total on a straight line.
function optim.schedule.linear(options)
  local warmup, total, final, first = check("linear", options, true)
  return schedule(warmup, total, first, function(left)
    return final + (1 - final) * left
  end)
end

--- From 1 down to final at step total along half a cosine.
function optim.schedule.cosine(options)
  local warmup, total, final, first = check("cosine", options, true)
  return schedule(warmup, total, first, function(left)
    return final + (1 - final) * (1 + math.cos(math.pi * (1 - left))) / 2
  end)
end

return optim
