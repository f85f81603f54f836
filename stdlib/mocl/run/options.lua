--- mocl.run.options: which options of a run may differ when it is continued.
-- An option is fixed once a stage has used it. A table says what each stage depends on, in names of options or of their
-- groups; a name that ends in * stands for all stages that begin so:
--
--   { tokenizer = { "tokenizer", "documents" }, base = { "base", "model" }, ["reward-*"] = { "reward" } }
--
-- An option that no stage names belongs to the whole run and stays as it was.

local config = require "mocl.run.config"

local run_options = {
  -- options that may always differ between the two halves of one run: the results do not depend on them
  VOLATILE = { "comm", "keep", "memory_cap", "out", "quiet", "redo", "resume", "tensorboard", "threads" },
}

--- A copy of nested options without some keys ("threads", "ppo.lr").
function run_options.without(cfg, keys)
  local copy = {}
  for k, v in pairs(cfg) do
    copy[k] = type(v) == "table" and run_options.without(v, {}) or v
  end
  for _, key in ipairs(keys) do
    local t = copy
    for part in key:gmatch("([^.]+)%.") do
      t = type(t) == "table" and t[part] or {}
    end
    t[key:match("[^.]+$")] = nil
  end
  return copy
end

--- What a stage depends on: its entry in the table, or that of the pattern which fits it; nil where there is none.
function run_options.of(depends, stage)
  for name, keys in pairs(depends) do
    if name == stage or name:sub(-1) == "*" and stage:sub(1, #name - 1) == name:sub(1, -2) then
      return keys
    end
  end
end

--- Whether a list of options and groups names an option.
function run_options.covers(keys, key)
  for _, k in ipairs(keys) do
    if k == key or key:sub(1, #k + 1) == k .. "." then
      return true
    end
  end
  return false
end

--- Whether an option may change: a stage depends on it, and no stage that does is among the used ones, a list of
-- {stage, how} in the order they ran. Otherwise false, the reason in words that follow the option (empty for one of
-- the whole run), and the first stage that used it.
function run_options.may_change(key, depends, used)
  local named = false
  for _, keys in pairs(depends) do
    named = named or run_options.covers(keys, key)
  end
  if not named then
    return false, ""
  end
  for _, u in ipairs(used) do
    local keys = run_options.of(depends, u[1])
    if not keys or run_options.covers(keys, key) then
      return false, (" (stage '%s' %s with it)"):format(u[1], u[2]), u[1]
    end
  end
  return true
end

--- The names of those of the used stages that depend on an option, in their order.
function run_options.users(key, depends, used)
  local names = {}
  for _, u in ipairs(used) do
    local keys = run_options.of(depends, u[1])
    if not keys or run_options.covers(keys, key) then
      names[#names + 1] = u[1]
    end
  end
  return names
end

--- The options that differ, a list of {key, a, b}. set: the keys that are not at their defaults now, a set, or nil.
-- An option that the old ones do not have, and that is at its default now, came with a later version and does what
-- was done without it.
function run_options.diff(old, new, volatile, set)
  local list = {}
  for _, d in ipairs(config.diff(run_options.without(old, volatile), run_options.without(new, volatile))) do
    if d.a ~= nil or not set or set[d.key] then
      list[#list + 1] = d
    end
  end
  return list
end

--- The keys that info.changed of config.parse lists, as a set; nil where there is no info.
function run_options.set(info)
  if info and info.changed then
    local set = {}
    for _, c in ipairs(info.changed) do
      set[c.key] = true
    end
    return set
  end
end

local function said(v)
  local text = config.text(v)
  return text == "" and "empty" or text
end

--- A line on an option that differs.
function run_options.line(d, reason)
  return ("  %s: %s there, %s now%s"):format(d.key, said(d.a), said(d.b), reason or "")
end

-- which of two stages ran first
local function earlier(used, a, b)
  for _, u in ipairs(used) do
    if u[1] == a or u[1] == b then
      return u[1]
    end
  end
end

--- The options that differ (run_options.diff): those that may, and lines of text for those that may not. used nil:
-- none may. Third, the stage to run again with all that follow if the options are to be as they are now; nil where
-- that does not help.
function run_options.compare(old, new, volatile, depends, used, set)
  local changed, fixed, again = {}, {}, nil
  for _, d in ipairs(run_options.diff(old, new, volatile, set)) do
    local may, reason, stage = false, "", nil
    if used then
      may, reason, stage = run_options.may_change(d.key, depends, used)
    end
    if not may and again ~= false then
      again = stage and earlier(used, again or stage, stage) or false
    end
    if may then
      changed[#changed + 1] = d
    else
      fixed[#fixed + 1] = run_options.line(d, reason)
    end
  end
  return changed, fixed, again or nil
end

return run_options
