--- mocl.world: environments with vector rewards: what one is, and copies of it that step together.
-- An environment is pure: its functions get the state and a random stream and keep nothing, so copies cannot
-- disturb each other and an episode is repeated by its stream. It refuses what would spoil a training run
-- silently: rewards of another length, numbers that are not finite, episodes without an end.
--
--   local walk = world.new { name = "walk", objectives = { "left", "right" }, actions = 2, states = 5, time_limit = 20,
--     reset = function() return 2 end,
--     step = function(s, a) ... return next_state, { 0, 1 }, done end }
--   local copies = world.batch(walk, 8, { seed = 0 })
--   local observations = copies:reset()
--   local observations, rewards, done = copies:step { 0, 1, 1, 0, 1, 0, 0, 1 }

local check = require "mocl.failure".ensure
local core = require "mocl.world.core"
local options = require "mocl.options"
local rng = require "mocl.rng"

local callable, check_options = options.callable, options.check

local world = {}

local Env = {}
Env.__index = Env

local is_row = core.is_row
local number_type = math.type -- nil for what is no number

local MAX_STEPS = 10000 -- an episode without time_limit that is longer has no end

local KNOWN = { "name", "objectives", "actions", "states", "observation", "time_limit", "max_steps", "reset", "step", "observe" }

local function is_count(v)
  return math.type(v) == "integer" and v >= 1
end

--- world.one_hot(states) -> function of a state that gives its one-hot row; all zeros for the state an episode ends in if that
-- is none of 0 .. states - 1.
function world.one_hot(states)
  return function(s)
    local row = {}
    for i = 1, states do
      row[i] = s == i - 1 and 1 or 0
    end
    return row
  end
end

--- world.new(spec) -> environment; docs/world.md lists the fields.
function world.new(spec)
  check(type(spec) == "table", 2, "world.new: a table expected, got %s", type(spec))
  check(type(spec.name) == "string" and spec.name ~= "", 2, "world.new: the environment needs a name")
  local e, name = setmetatable({}, Env), spec.name
  for key, v in pairs(check_options("environment " .. name, spec, {}, KNOWN)) do
    e[key] = v
  end
  check(type(e.objectives) == "table" and #e.objectives > 0, 2,
    "environment %s: objectives is a list of names, one for each entry of the reward", name)
  for j, objective in ipairs(e.objectives) do
    check(type(objective) == "string", 2, "environment %s: objective %d is a %s, a name expected", name, j, type(objective))
  end
  check(is_count(e.actions), 2, "environment %s: actions is their number, got %s", name, tostring(e.actions))
  for _, key in ipairs { "states", "observation", "time_limit", "max_steps" } do
    check(e[key] == nil or is_count(e[key]), 2, "environment %s: %s is a positive integer, got %s", name, key, tostring(e[key]))
  end
  for _, key in ipairs { "reset", "step" } do
    check(callable(e[key]), 2, "environment %s: %s is a function, got %s", name, key, type(e[key]))
  end
  check(e.observe == nil or callable(e.observe), 2, "environment %s: observe is a function, got %s", name, type(e.observe))
  if not e.observe then
    check(e.states, 2, "environment %s: give states=, their number where states are the integers from 0, or observe=", name)
    check(not e.observation or e.observation == e.states, 2, "environment %s: without observe= an observation has %d entries, not %d",
      name, e.states, e.observation or 0)
    e.observation, e.observe = e.states, world.one_hot(e.states)
  end
  check(e.observation, 2, "environment %s: give observation=, the length of what observe returns", name)
  e.n = #e.objectives
  e.max_steps = e.time_limit or e.max_steps or MAX_STEPS
  return e
end

--- Whether v is an environment made by world.new.
function world.is_world(v)
  return getmetatable(v) == Env
end

-- where a mistake was found
local function place(e, episode, t)
  return ("environment %s, episode %d, step %d"):format(e.name, episode, t)
end

-- raises for what is no list of n finite numbers, in words
local function check_reward(e, reward, episode, t)
  local at = place(e, episode, t)
  if type(reward) ~= "table" then
    error(("%s: the reward is a %s, a list of %d numbers expected (%s)"):format(at, type(reward), e.n,
      table.concat(e.objectives, ", ")), 0)
  elseif #reward ~= e.n then
    error(("%s: the reward has %d entries, %d expected (%s)"):format(at, #reward, e.n, table.concat(e.objectives, ", ")), 0)
  end
  for j, x in ipairs(reward) do
    if type(x) ~= "number" or x - x ~= 0 then
      error(("%s: the reward of %s is %s, a finite number expected"):format(at, e.objectives[j],
        x ~= x and "nan" or tostring(x)), 0)
    end
  end
end

local function check_state(e, s, episode, t)
  if number_type(s) ~= "integer" or s < 0 or s >= e.states then
    error(("%s: state %s is not one of 0 .. %d"):format(place(e, episode, t), tostring(s), e.states - 1), 0)
  end
end

--- The first state of an episode (a number for messages), checked.
function Env:start(stream, episode)
  local s = self.reset(stream)
  if self.states then
    check_state(self, s, episode, 0)
  elseif s == nil then
    error(("%s: reset returned no state"):format(place(self, episode, 0)), 0)
  end
  return s
end

--- Step t (from 1) of an episode -> state, reward, done, truncated; checked. At time_limit an episode is done and,
-- unless it ended by itself, truncated.
function Env:advance(s, action, stream, episode, t)
  local next_state, reward, done = self.step(s, action, stream)
  if not is_row(reward, self.n) then
    check_reward(self, reward, episode, t)
  end
  if done then
    return next_state, reward, true, false
  end
  if self.states then
    check_state(self, next_state, episode, t)
  elseif next_state == nil then
    error(("%s: step returned no state"):format(place(self, episode, t)), 0)
  end
  if t >= self.max_steps then
    if not self.time_limit then
      error(("environment %s: episode %d has not ended after %d steps: return true as third value of step at its end, "
        .. "give time_limit=, or a larger max_steps="):format(self.name, episode, t), 0)
    end
    return next_state, reward, true, true
  end
  return next_state, reward, false, false
end

--- The observation of a state, checked: a list of `observation` finite numbers.
function Env:look(s, episode, t)
  local row = self.observe(s)
  if type(row) ~= "table" or #row ~= self.observation then
    error(("%s: the observation has %s entries, %d expected"):format(place(self, episode, t),
      type(row) == "table" and #row or "no", self.observation), 0)
  end
  for k, x in ipairs(row) do
    if not math.type(x) or x - x ~= 0 then
      error(("%s: entry %d of the observation is %s"):format(place(self, episode, t), k, x ~= x and "nan" or tostring(x)), 0)
    end
  end
  return row
end

-- ---- copies that step together ----

local Batch = {}
Batch.__index = Batch

--- world.batch(e, n, {seed=, purpose="env", rng=}): n copies. Copy i draws from the stream (seed, "purpose i") alone;
-- rng, a function of i, gives other streams.
function world.batch(e, n, o)
  check(world.is_world(e), 2, "batch: an environment of world.new expected")
  check(is_count(n), 2, "batch: the number of copies is a positive integer, got %s", tostring(n))
  check(type(o) == "table" and (o.rng or math.type(o.seed)), 2, "batch: give seed=N: there is no hidden generator")
  local b = { world = e, n = n, streams = {}, states = {}, steps = {}, done = {}, truncated = {}, episodes = {} }
  for i = 1, n do
    b.streams[i] = o.rng and o.rng(i) or rng.new(o.seed, (o.purpose or "env") .. " " .. i)
    b.done[i], b.truncated[i], b.episodes[i], b.steps[i] = true, false, 0, 0
  end
  return setmetatable(b, Batch)
end

--- A new episode in copy i, or in every copy: the observation, or the list of them.
function Batch:reset(i)
  if not i then
    local observations = {}
    for k = 1, self.n do
      observations[k] = self:reset(k)
    end
    return observations
  end
  check(is_count(i) and i <= self.n, 2, "reset: copy %s of %d", tostring(i), self.n)
  local e, episode = self.world, self.episodes[i] + 1
  self.episodes[i], self.steps[i], self.done[i], self.truncated[i] = episode, 0, false, false
  self.states[i] = e:start(self.streams[i], episode)
  return e:look(self.states[i], episode, 0)
end

--- One action (from 0) per copy, false for a copy that is to wait -> observations, rewards, done: lists with false
-- for those. A copy that is done waits or is reset.
function Batch:step(actions)
  check(type(actions) == "table" and #actions == self.n, 2, "step: %s actions for %d copies",
    type(actions) == "table" and #actions or "no", self.n)
  local e, observations, rewards, done = self.world, {}, {}, {}
  for i = 1, self.n do
    local a = actions[i]
    observations[i], rewards[i] = false, false
    if a then
      local t = self.steps[i] + 1
      check(not self.done[i], 2, "environment %s: copy %d is done; reset it", e.name, i)
      check(math.type(a) == "integer" and a >= 0 and a < e.actions, 2, "%s: action %s is not one of 0 .. %d",
        place(e, self.episodes[i], t), tostring(a), e.actions - 1)
      self.steps[i] = t
      self.states[i], rewards[i], self.done[i], self.truncated[i] =
        e:advance(self.states[i], a, self.streams[i], self.episodes[i], t)
      if self.states[i] ~= nil then
        observations[i] = e:look(self.states[i], self.episodes[i], t)
      end
    end
    done[i] = self.done[i]
  end
  return observations, rewards, done
end

return world
