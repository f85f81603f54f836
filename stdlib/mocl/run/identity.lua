--- mocl.run.identity: what repeats a run, in words: its command and its environment. opts are those of Run.open.

local config = require "mocl.run.config"

local run_identity = {}

local function shell_word(s)
  return s:find("[^%w_@%%+=:,./-]") and "'" .. s:gsub("'", "'\\''") .. "'" or s
end

--- The command line, as a shell takes it.
function run_identity.command(opts)
  local info = opts.info or {}
  local words = { "mocl", shell_word(info.script or opts.recipe) }
  for _, a in ipairs(info.arg or {}) do
    words[#words + 1] = shell_word(a)
  end
  return table.concat(words, " ")
end

--- The facts of env.json.
function run_identity.environment(opts)
  local cfg, info = opts.cfg, opts.info or {}
  local changed = {}
  for _, c in ipairs(info.changed or {}) do
    changed[c.key] = { value = config.text(c.value), default = config.text(c.default) }
  end
  return {
    recipe = opts.recipe,
    preset = info.preset,
    mocl = require("mocl")._VERSION,
    lua = _VERSION,
    device = cfg.device,
    seed = cfg.seed,
    threads = cfg.threads,
    platform = opts.platform,
    changed = next(changed) and changed or nil,
  }
end

return run_identity
