--- mocl.train.world_methods: the methods that are trained side by side on a small environment: MOC, Linear PPO, MOC on
-- advantages within groups, and the solvers of mocl.method.solvers in algorithm 2's place.

local Control = require "mocl.method.control"
local group = require "mocl.method.group"
local segments = require "mocl.segments"
local solvers = require "mocl.method.solvers"
local trainer = require "mocl.train.trainer"

local world_methods = {}

--- Rows for a recipe's schema; those of mocl.method.group, whose num_generations and method moc_grpo takes, come beside
-- it.
world_methods.OPTIONS = {
  { "methods", { "linear_ppo" }, "what is trained beside MOC: linear_ppo, moc_grpo (MOC on advantages within groups), solvers of docs/solvers.md",
    choices = { "linear_ppo", "moc_grpo", table.unpack(solvers.list()) } },
}

local LABELS = { moc = "MOC", linear_ppo = "Linear PPO", moc_grpo = "MOC on groups" } -- solvers have their own

local function changes(name)
  if name == "linear_ppo" then
    return { c = "one", gradients = "advantages" }
  end
  -- each preference has a problem of its own, solved once an iteration; steps have the length of v, so that methods
  -- differ in directions alone
  return { solver = name, c = "minnorm", pool = "preference", rows = "objectives", solve = "iteration", solver_scale = "mean" }
end

local Method = {}
Method.__index = Method

local function new(name, cfg, limit)
  local self = setmetatable({ name = name, label = LABELS[name] or solvers.label(name), ppo = cfg.ppo, control = cfg.control, preferences = cfg.ppo.preferences,
    hooks = {} }, Method)
  if name == "moc_grpo" then -- as many episodes an update as the others have
    self.group = group.options(cfg.grpo)
    local size = self.group.num_generations
    self.ppo, self.preferences = {}, math.max(1, cfg.ppo.preferences * cfg.ppo.episodes // size)
    for key, v in pairs(cfg.ppo) do
      self.ppo[key] = v
    end
    self.ppo.episodes, self.ppo.preferences, self.ppo.baseline = size, self.preferences, nil
  elseif name ~= "moc" then
    self.control = Control.variant(cfg.control, changes(name))
  end
  self.critic = not self.group
  self.samples = self.preferences * self.ppo.episodes * limit -- environment steps of an update
  self.updates = math.max(1, cfg.steps // self.samples)
  return self
end

--- world_methods.open(cfg, n, limit, preferences, actor) -> list of methods, of which MOC is the first. cfg has
-- methods, control, grpo, ppo and steps; limit is the steps of an episode, preferences some that hooks are tried with,
-- and actor(method) makes an actor. What does not go together raises. A method has name, label, control and ppo (its
-- options), preferences (of an update), updates, samples (environment steps of an update), critic (false: its agent
-- needs none), group (nil, or options of mocl.method.group) and hooks.
function world_methods.open(cfg, n, limit, preferences, actor)
  local list, known = { new("moc", cfg, limit) }, { moc = true }
  for _, name in ipairs(cfg.methods) do
    if known[name] then
      error(("methods: '%s' stands there twice"):format(name), 0)
    end
    known[name] = true
    list[#list + 1] = new(name, cfg, limit)
  end
  for _, m in ipairs(list) do
    local hooks = Control.check(m.control, n, preferences)
    m.hooks = { rewards = hooks.rewards, weights = m.name ~= "linear_ppo" and hooks.weights or nil }
    trainer.options(m.ppo, actor(m))
    if hooks.rewards and m.ppo.baseline == "critic" then
      error("a hook on rewards makes new returns of whole episodes, which a critic does not see: take ppo.baseline=group", 0)
    end
  end
  return list
end

--- world_methods.others(cfg) -> what result.json lists as methods: nil where Linear PPO alone is trained beside MOC.
function world_methods.others(cfg)
  return (#cfg.methods ~= 1 or cfg.methods[1] ~= "linear_ppo") and cfg.methods or nil
end

--- world_methods.add(result, methods, figures): what result.json has of the methods beside MOC, by their names; figures[name] are those of
-- a method. Those that are not Linear PPO have a label, what reports call them.
function world_methods.add(result, methods, figures)
  for i = 2, #methods do
    local m, part = methods[i], {}
    for key, v in pairs(figures[m.name]) do
      part[key] = v
    end
    part.label = m.name ~= "linear_ppo" and m.label or nil
    result[m.name] = part
  end
end

--- world_methods.samples(methods) -> environment steps of all of them with one seed.
function world_methods.samples(methods)
  local sum = 0
  for _, m in ipairs(methods) do
    sum = sum + m.updates * m.samples
  end
  return sum
end

--- method:advantages(t, batch) -> [T, N], share of groups whose rewards are all alike (nil without groups). After
-- t:score.
function Method:advantages(t, batch)
  if not self.group then
    return t:advantages(batch)
  end
  local rows, alike = group.advantages(batch.raw, batch.prefs, self.group)
  return segments.spread(rows, batch), alike
end

return world_methods
