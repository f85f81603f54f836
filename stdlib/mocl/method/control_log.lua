--- mocl.method.control_log: the metrics of one MOC iteration under TRL's names, and totals over a run: mean c, how often
-- c is 0 or 1, how often the indicator of equation 5 is on, how often an objective's weight is negative, how often a step makes an
-- objective worse, KL.

local running = require "mocl.method.running"

local control_log = {}

local Log = {}
Log.__index = Log

local SHARES = { "c", "indicator", "negative_w", "one", "zero" }
local OF_STEPS = { "conflict", "degenerate" } -- shares that are there where conflicts are followed

--- control_log.new(objectives, statistics): statistics are the SFT model's (nil: rewards are logged as they are).
function control_log.new(objectives, statistics)
  local totals = { n = 0, kl = 0 }
  for _, k in ipairs(SHARES) do
    totals[k] = 0
  end
  return setmetatable({ objectives = objectives, statistics = statistics, totals = totals }, Log)
end

--- The totals so far as a table of numbers, and back.
function Log:state()
  return self.totals
end

function Log:restore(totals)
  for _, k in ipairs { "n", "kl", table.unpack(SHARES) } do
    if type(totals) ~= "table" or type(totals[k] or 0) ~= "number" then
      error(("control_log: the total '%s' is not a number"):format(k), 2)
    end
    self.totals[k] = totals[k] or 0
  end
  for k, v in pairs(totals) do
    if type(v) == "number" then
      self.totals[k] = v -- those of conflicts
    end
  end
end

-- Shares of the answers whose step makes an objective worse, each and any, and whose solver had no answer.
local function conflicts(self, row, answers)
  local share = { conflict = 0, degenerate = 0 }
  for _, name in ipairs(self.objectives) do
    share["conflict/" .. name] = 0
  end
  for _, g in ipairs(answers) do
    for j, name in ipairs(self.objectives) do
      share["conflict/" .. name] = share["conflict/" .. name] + (g.conflicts[j] and 1 or 0) / #answers
    end
    share.conflict = share.conflict + (next(g.conflicts) and 1 or 0) / #answers
    share.degenerate = share.degenerate + (g.degenerate and 1 or 0) / #answers
  end
  for k, v in pairs(share) do
    row["moc/share_" .. k] = v
    self.totals[k] = (self.totals[k] or 0) + v
  end
end

--- log:row(m, answers, raw) -> row for metrics.jsonl, text for the status line. m: the named numbers of the
-- iteration (they are kept; m["objective/kl"] if there is one); answers: per answer {c=, indicator=, w=}; raw: its
-- raw rewards.
function Log:row(m, answers, raw)
  local row, share = {}, {}
  for k, v in pairs(m) do
    row[k] = v
  end
  for _, k in ipairs(SHARES) do
    share[k] = 0
  end
  for _, g in ipairs(answers) do
    share.c = share.c + g.c
    share.zero = share.zero + (g.c == 0 and 1 or 0)
    share.one = share.one + (g.c == 1 and 1 or 0)
    share.indicator = share.indicator + (g.indicator and 1 or 0)
    share.negative_w = share.negative_w + (math.min(table.unpack(g.w)) < 0 and 1 or 0)
  end
  for _, k in ipairs(SHARES) do
    row["moc/" .. (k == "c" and "c" or "share_" .. k)] = share[k] / #answers
    self.totals[k] = self.totals[k] + share[k] / #answers
  end
  if answers[1].conflicts then
    conflicts(self, row, answers)
  end
  local kl = m["objective/kl"]
  self.totals.n, self.totals.kl = self.totals.n + 1, self.totals.kl + (kl or 0)
  local text = {}
  for j, name in ipairs(self.objectives) do
    local mean = 0
    for i = 1, #raw do
      mean = mean + (self.statistics and running.normalize(raw[i], self.statistics) or raw[i])[j] / #raw
    end
    row["env/reward_mean/" .. name] = mean
    text[j] = ("%s %.2f"):format(name, mean)
  end
  text[#text + 1] = (kl and "kl %.2f " or ""):format(kl) .. ("c %.2f"):format(row["moc/c"])
  return row, table.concat(text, " ")
end

--- {kl=, c={mean=, zero=, one=, indicator=, negative_w=}} over the run, for result.json; where conflicts were followed c has conflict, degenerate
-- and conflicts = {objective = share} too.
function Log:summary()
  local t, c = self.totals, {}
  for _, k in ipairs(SHARES) do
    c[k == "c" and "mean" or k] = t[k] / t.n
  end
  if t.conflict then
    c.conflicts = {}
    for _, k in ipairs(OF_STEPS) do
      c[k] = t[k] / t.n
    end
    for _, name in ipairs(self.objectives) do
      c.conflicts[name] = t["conflict/" .. name] / t.n
    end
  end
  return { kl = t.kl / t.n, c = c }
end

return control_log
