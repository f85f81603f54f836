--- mocl.run.ranks: the run of several ranks (mocl.comm). Rank 0 has the directory and is the only one that writes there; the others have an
-- object with the same methods, whose answers are those of rank 0. All ranks see the directory: it lies on a disk that they share.
--
-- A stage is rank 0's alone, and the others wait and read what it left, as a continued run does; where its function
-- shares out its work itself (run:stage(name, f, "spread")) all ranks call it.

local comm = require "mocl.comm"
local config = require "mocl.run.config"
local json = require "mocl.json"
local sorted_keys = require "mocl.options".sorted_keys
local sys = require "mocl.sys"

local ranks = {}

local STATE = { "stages", "env", "complete", "resumed", "result" } -- of a run, as all ranks know it
-- what rank 0 does alone while the others wait
local LED = { "adopt", "changed_input", "checkpoint", "clear", "hash_input", "latest", "note", "rewind", "steps" }

local function share(run, what)
  local state = {}
  for _, key in ipairs(STATE) do
    state[key] = run[key]
  end
  state = comm.first(what, state)
  for _, key in ipairs(comm.rank() > 0 and STATE or {}) do
    run[key] = state[key]
  end
end

-- Raises where this rank would make another run of it than the first one, with what differs.
local function compare(opts)
  local env = sys.env()
  local facts = { ["the version of mocl"] = env.mocl, ["the numbers of its build"] = env.real, ["its kernels"] = env.kernels, recipe = opts.recipe }
  for key, value in pairs(config.flatten(opts.cfg)) do
    facts[key] = config.text(value)
  end
  local first = json.decode(comm.exchange("options", json.encode(facts))[1])
  local lines, all = {}, {}
  for _, set in ipairs { facts, first } do
    for key in pairs(set) do
      all[key] = true
    end
  end
  for _, key in ipairs(sorted_keys(all)) do
    if facts[key] ~= first[key] then
      lines[#lines + 1] = ("%s: %s, on rank 0 %s"):format(key, tostring(facts[key]), tostring(first[key]))
    end
  end
  local bad = comm.exchange("comparison of options", table.concat(lines, "\n"))
  for r, text in ipairs(bad) do
    if text ~= "" then
      error(("rank %d (%s) was started with other options than rank 0:\n%s\nstart all ranks alike"):format(r - 1,
        comm.exchange("hosts", comm.job().host)[r], text), 0)
    end
  end
end

--- ranks.open(Run, run, opts, enter, follow): what Run.open returns where there are several ranks. enter() is the part that touches the
-- directory, follow(run, name, f) calls the function of a stage on a rank that writes nothing.
function ranks.open(Run, run, opts, enter, follow)
  local Shared = { __close = Run.__close, __gc = Run.__gc }
  local own = setmetatable({}, { __index = Run })
  Shared.__index = own

  local function led(self, name, ...)
    local what, results = "run: " .. name, table.pack(nil)
    if comm.rank() == 0 then
      results = table.pack(comm.alone(Run[name], self, ...))
    end
    local texts = {}
    for i = 1, 2 do
      texts[i] = comm.first(what, { value = results[i] }).value
    end
    share(self, what)
    return texts[1], texts[2]
  end

  for _, name in ipairs(LED) do
    own[name] = function(self, ...)
      if comm.size() == 1 then
        return Run[name](self, ...)
      end
      return led(self, name, ...)
    end
  end

  for _, name in ipairs { "metrics", "sample" } do
    own[name] = function(self, row)
      if comm.rank() == 0 then
        Run[name](self, row)
      end
    end
  end

  -- what a spread stage took this rank, and how much of it went by in exchanges: the rank that waits least is the slowest
  local phases = {}
  local function timed(name, f, ...)
    local began, before = sys.now(), comm.counts()
    local result = f(...)
    local after = comm.counts()
    phases[name] = { seconds = sys.now() - began, waiting = after.seconds - before.seconds, bytes = after.bytes - before.bytes }
    return result
  end

  function own:finish(result, timing, pages)
    if comm.size() == 1 then
      return Run.finish(self, result, timing, pages)
    end
    local job, all, of = comm.job(), {}, json.array()
    for r, text in ipairs(comm.exchange("times", json.encode { host = job.host, phases = next(phases) and phases or nil })) do
      of[r] = json.decode(text)
    end
    for key, v in pairs(timing or {}) do
      all[key] = v
    end
    all.ranks = of
    led(self, "finish", result, all, pages)
  end

  function own:stage(name, f, how)
    if comm.size() == 1 then
      return Run.stage(self, name, f)
    elseif self.stages[name] or how ~= "spread" then
      return led(self, "stage", name, f)
    end
    local result
    if comm.rank() == 0 then
      result = timed(name, Run.stage, self, name, f)
    else
      timed(name, follow, self, name, f)
    end
    share(self, "stage " .. name)
    return result or self.stages[name].result or {}
  end

  compare(opts)
  if comm.rank() == 0 then
    comm.alone(enter)
  end
  setmetatable(run, Shared)
  share(run, "run")
  return run
end

return ranks
