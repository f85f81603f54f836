--- mocl.method.kl_controller: the weight of the KL penalty, fixed or adapted to a target as TRL does.
-- Adaptive (Ziegler et al. 2019): e = clip(kl / target - 1, -0.2, 0.2);
-- beta <- max(min, beta * max(1 + e * n_steps / horizon, 0.1)). kl is the mean over sequences of the
-- sum over tokens, n_steps the number of sequences. TRL lacks the inner max: with more than 5
-- horizons a step its factor is 0 or below, and a beta of 0 stays 0. It refuses a kl that is not finite.

local options = require "mocl.options"

local check_options, shown, sorted_keys = options.check, options.shown, options.sorted_keys

local kl_controller = {}

local Controller = {}
Controller.__index = Controller
Controller.__name = "mocl.method.kl_controller"

local DEFAULTS = {
  adaptive = { init_kl_coef = 0.2, target = 6.0, horizon = 10000.0, min = 0.0 },
  fixed = { init_kl_coef = 0.2 },
}

local LEAST_FACTOR = 0.1 -- of one update; below 4.5 horizons a step it is never reached

local function is_finite(x)
  return type(x) == "number" and x == x and x ~= math.huge and x ~= -math.huge
end

local function make(kind, options)
  local c = setmetatable({ kind = kind }, Controller)
  for key, value in pairs(check_options("kl_controller." .. kind, options or {}, {}, sorted_keys(DEFAULTS[kind]))) do
    local positive = key == "target" or key == "horizon"
    if not is_finite(value) or value < 0 or (positive and value == 0) then
      error(("kl_controller.%s: %s is a finite number %s 0, got %s"):format(kind, key,
        positive and "above" or "of at least", shown(value)), 3)
    end
  end
  for key, default in pairs(DEFAULTS[kind]) do
    c[key] = (options and options[key] or default) + 0.0
  end
  c.beta = math.max(c.init_kl_coef, c.min or 0.0)
  return c
end

--- adaptive{init_kl_coef=.2, target=6, horizon=10000, min=0}
function kl_controller.adaptive(options)
  return make("adaptive", options)
end

--- The adaptive controller of a recipe's options, as trainer.OPTIONS names them: init_kl_coef, target, horizon, min_kl_coef. Other
-- keys are left alone.
function kl_controller.from_options(o)
  return make("adaptive", { init_kl_coef = o.init_kl_coef, target = o.target, horizon = o.horizon, min = o.min_kl_coef })
end

--- fixed{init_kl_coef=.2}: update changes nothing
function kl_controller.fixed(options)
  return make("fixed", options)
end

function Controller:value()
  return self.beta
end

--- Returns the new value.
function Controller:update(kl, n_steps)
  if not is_finite(kl) then
    error("kl_controller: kl is " .. shown(kl), 2)
  end
  if not is_finite(n_steps) or n_steps < 0 then
    error("kl_controller: n_steps is a count, got " .. shown(n_steps), 2)
  end
  if self.kind == "adaptive" then
    local e = math.max(-0.2, math.min(0.2, kl / self.target - 1))
    local beta = math.max(self.min, self.beta * math.max(1 + e * n_steps / self.horizon, LEAST_FACTOR))
    if is_finite(beta) and beta > 0 then -- else it went beyond the range of numbers, from where it could not return
      self.beta = beta
    end
  end
  return self.beta
end

--- A plain table that kl_controller.restore takes; every float survives 17 digits of text.
function Controller:state()
  local state = { kind = self.kind, value = self.beta }
  for key in pairs(DEFAULTS[self.kind]) do
    state[key] = self[key]
  end
  return state
end

--- Takes a state back, with its kind and options.
function Controller:restore(state)
  for key, value in pairs(kl_controller.restore(state)) do
    self[key] = value
  end
end

function Controller:__tostring()
  return ("mocl.method.kl_controller (%s, %g)"):format(self.kind, self.beta)
end

function kl_controller.restore(state)
  if type(state) ~= "table" or not DEFAULTS[state.kind] then
    error("kl_controller.restore: a state of kind 'adaptive' or 'fixed' expected", 2)
  end
  if not is_finite(state.value) or state.value < 0 then
    error("kl_controller.restore: value is " .. tostring(state.value), 2)
  end
  local options = {}
  for key, value in pairs(state) do
    if key ~= "kind" and key ~= "value" then
      options[key] = value
    end
  end
  local c = make(state.kind, options)
  c.beta = state.value + 0.0
  return c
end

return kl_controller
