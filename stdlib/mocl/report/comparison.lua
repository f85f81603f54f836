--- mocl.report.comparison: methods side by side: the figures of each run in one unit, their mean and deviation over seeds, and the
-- tables of the paper (2, 3, 4, 8, 9 and 10) with them, as Markdown, LaTeX and the CSV of its listing 1.
--
-- A comparison is a table: budget (training samples of a method), seeds, settings; a setting is {name, objectives, trade_off,
-- methods}; a method {name, label, recipe, models, trained_parameters, training_samples, runs}, one run for each seed
-- (comparison.figures). docs/comparison.md has the file.

local metrics = require "mocl.metrics"
local policy = require "mocl.lm.policy"
local text_table = require "mocl.run.text_table"

local comparison = {}

--- What is compared: {field of a judge's figures, name, digits}; larger is better.
comparison.FIGURES = {
  { "kendall_tau", "Kendall's tau", 2 },
  { "hypervolume", "hypervolume", 3 },
  { "mean_pairwise_distance", "mean pairwise distance", 3 },
}

--- Who judges: {field of a run, name}.
comparison.JUDGES = { { "reward", "reward models" }, { "rule", "hidden rule" } }

local UNSEEN_REFERENCE = -3 -- of table 8, in each objective

local function is_number(x)
  return type(x) == "number" and x == x
end

-- The figures of the paper of mean rewards, with the reference points of hypervolume and tau.
local function judge(preferences, points, reference, tau_reference)
  local out = { hypervolume = metrics.hypervolume(points, reference),
    mean_pairwise_distance = metrics.mean_pairwise_distance(points) }
  local c = metrics.controllability(preferences, points, { reference = tau_reference })
  out.kendall_tau, out.kendall_p = c.kendall_tau, c.kendall_p
  return out
end

local function filled(n, x)
  local list = {}
  for j = 1, n do
    list[j] = x
  end
  return list
end

--- comparison.figures(result, statistics) -> what a run is compared by. result: a result.json with rewards_raw; statistics: those that
-- all runs of the seed are measured in (mean and deviation of the SFT model's answers), whatever the run's own unit was. Gives
-- preferences; rewards, in that unit; reward, the figures of the reward models; rule, those of the hidden rule, if it knows all
-- objectives, with its rewards and the share of malformed clauses; unseen, a list of {preferences, rewards, hypervolume, kendall_tau}
-- for each group, with the reference point -3 of the paper; curve.
function comparison.figures(result, statistics)
  local n, p = #result.objectives, result.preferences
  local measured, std = {}, filled(n, 0.0)
  for i, raw in ipairs(result.rewards_raw) do
    measured[i] = { raw = raw, std = std }
  end
  local f = policy.figures(p, measured, statistics)
  local out = { preferences = p, rewards = f.rewards, curve = result.curve, reward = {
    hypervolume = f.hypervolume, mean_pairwise_distance = f.mean_pairwise_distance, kendall_tau = f.kendall_tau, kendall_p = f.kendall_p } }
  local rule = result.rule and result.rule.rewards
  local known = rule ~= nil
  for j = 1, rule and n or 0 do
    known = known and is_number(rule[1][j])
  end
  if known then
    out.rule = judge(p, rule, filled(n, 0), filled(n, -2))
    out.rule.rewards, out.rule.malformed = rule, metrics.mean_std(result.rule.malformed)
  end
  local groups = result.unseen and result.unseen.groups or {}
  for g, group in ipairs(groups) do
    out.unseen = out.unseen or {}
    out.unseen[g] = judge(group.preferences, group.rewards, filled(n, UNSEEN_REFERENCE), f.tau_reference)
    out.unseen[g].preferences, out.unseen[g].rewards = group.preferences, group.rewards
  end
  return out
end

-- A figure of each run of a method, by its seed; nil where a run lacks it. get(run) -> number.
local function each(method, get)
  local list = {}
  for i, run in ipairs(method.runs) do
    local v = get(run)
    if not is_number(v) then
      return nil
    end
    list[i] = v
  end
  return #list > 0 and list or nil
end

--- comparison.of(method, judge, figure) -> the figure of each run, in the order of the seeds; nil where there is none.
function comparison.of(method, judge_name, figure)
  return each(method, function(run)
    return run[judge_name] and run[judge_name][figure]
  end)
end

-- mean and deviation as text
local function spread(list, digits)
  if not list then
    return ""
  end
  local mean, std = metrics.over_seeds(list)
  if std and std < 1e-12 * math.abs(mean) then
    std = 0.0 -- the rounding of a mean of equal numbers
  end
  return text_table.cell(mean + 0.0, digits) .. (std and " ± " .. text_table.cell(std, digits) or "")
end

-- Whether MOC's mean is above that of another method; nil where there is nothing to compare.
local function moc_is_above(moc, list)
  return moc and list and metrics.over_seeds(moc) > metrics.over_seeds(list)
end

-- The method called MOC in a setting, whom the others are compared with; nil where it is not among them.
local function moc_of(setting)
  for _, m in ipairs(setting.methods) do
    if m.name == "moc" then
      return m
    end
  end
end

local function method_of(setting, name)
  for _, m in ipairs(setting.methods) do
    if m.name == name then
      return m
    end
  end
end

local function names_of(data)
  local list, seen = {}, {}
  for _, s in ipairs(data.settings) do
    for _, m in ipairs(s.methods) do
      if not seen[m.name] then
        seen[m.name], list[#list + 1] = true, m
      end
    end
  end
  return list
end

-- One of tables 2, 3 and 4 by one judge: a row for each method, a column for each setting and their average. extra(method, judge) is
-- added to a cell, and said in the note. Nothing where the judge knows no figure.
local function figure_table(data, judge_row, title, figure, digits, extra, note)
  local header, rows, marked, any = { "method" }, {}, false, false
  for _, s in ipairs(data.settings) do
    header[#header + 1] = s.name
  end
  if #data.settings > 1 then
    header[#header + 1] = "average"
  end
  for i, m in ipairs(names_of(data)) do
    local averages = {}
    rows[i] = { m.label }
    for _, s in ipairs(data.settings) do
      local own, moc = method_of(s, m.name), moc_of(s)
      local list = own and comparison.of(own, judge_row[1], figure)
      local cell = spread(list, digits) .. (list and extra and extra(own, judge_row[1]) or "")
      if list and moc and m.name ~= "moc" and moc_is_above(comparison.of(moc, judge_row[1], figure), list) == false then
        cell, marked = cell .. " †", true
      end
      rows[i][#rows[i] + 1] = cell
      for k, v in ipairs(list or {}) do
        averages[k] = (averages[k] or 0) + v / #data.settings
      end
      averages.missing, any = averages.missing or not list, any or list ~= nil
    end
    if #data.settings > 1 then
      rows[i][#rows[i] + 1] = averages.missing and "" or spread(averages, digits)
    end
  end
  return { title = ("%s, by the %s"):format(title, judge_row[2]), header = header, rows = any and rows or {},
    note = marked and (note and note .. " " or "") .. "† MOC's mean is not above it." or note }
end

-- tables 8 and 9: groups of unseen preferences
local function unseen_table(data, title, figure, digits, note)
  local header, rows = { "setting", "method" }, {}
  for _, s in ipairs(data.settings) do
    for _, m in ipairs(s.methods) do
      local groups = m.runs[1] and m.runs[1].unseen
      if groups then
        local row = { s.name, m.label }
        for g = 1, #groups do
          header[g + 2] = "group " .. g
          row[g + 2] = spread(each(m, function(run)
            return run.unseen and run.unseen[g] and run.unseen[g][figure]
          end), digits)
        end
        rows[#rows + 1] = row
      end
    end
  end
  return { title = title, header = header, rows = rows, note = note }
end

-- On how many seeds MOC is above each method by one judge: above, equal, below.
local function wins_table(data, judge_row)
  local header, rows = { "setting", "method" }, {}
  for _, f in ipairs(comparison.FIGURES) do
    header[#header + 1] = f[2]
  end
  for _, s in ipairs(data.settings) do
    local moc = moc_of(s)
    for _, m in ipairs(moc and s.methods or {}) do
      local row, any = { s.name, m.label }, false
      for _, f in ipairs(comparison.FIGURES) do
        local a, b = comparison.of(moc, judge_row[1], f[1]), comparison.of(m, judge_row[1], f[1])
        local count = { 0, 0, 0 }
        for k = 1, a and b and #a or 0 do
          local place = a[k] > b[k] and 1 or a[k] == b[k] and 2 or 3
          count[place] = count[place] + 1
        end
        row[#row + 1], any = a and b and ("%d / %d / %d"):format(table.unpack(count)) or "", any or a and b
      end
      rows[#rows + 1] = m ~= moc and any and row or nil
    end
  end
  return { title = ("MOC above / equal / below, by the %s"):format(judge_row[2]), header = header, rows = rows,
    note = "The number of seeds on which MOC's figure is above, equal to and below the method's." }
end

-- MOC's figure less that of each method on the same seed: the mean, and its bootstrap interval over the seeds. Nothing of one seed.
local function differences_table(data, judge_row)
  local header, rows = { "setting", "method" }, {}
  for _, f in ipairs(comparison.FIGURES) do
    header[#header + 1] = f[2]
  end
  for _, s in ipairs(#data.seeds > 1 and data.settings or {}) do
    local moc = moc_of(s)
    for _, m in ipairs(moc and s.methods or {}) do
      local row, any = { s.name, m.label }, false
      for _, f in ipairs(comparison.FIGURES) do
        local a, b = comparison.of(moc, judge_row[1], f[1]), comparison.of(m, judge_row[1], f[1])
        local list = {}
        for k = 1, a and b and #a or 0 do
          list[k] = a[k] - b[k]
        end
        local cell = ""
        if #list > 0 then
          local low, high, info = metrics.bootstrap(list)
          local function text(v)
            return text_table.cell(v + 0.0, f[3])
          end
          cell, any = ("%s [%s, %s]"):format(text(info.estimate), text(low), text(high)), true
        end
        row[#row + 1] = cell
      end
      rows[#rows + 1] = m ~= moc and any and row or nil
    end
  end
  return { title = ("MOC less each method, by the %s"):format(judge_row[2]), header = header, rows = rows,
    note = "The mean over the seeds of the difference on the same models, and its 95 % percentile bootstrap interval over the seeds." }
end

-- The largest p-value of tau over the seeds, in brackets.
local function p_value(m, judge_name)
  local worst
  for _, run in ipairs(m.runs) do
    local p = run[judge_name].kendall_p
    worst = is_number(p) and math.max(worst or p, p) or worst
  end
  return worst and (" (%.1e)"):format(worst) or ""
end

-- The rank of each of a list of numbers, 1 for the greatest; equal ones share the mean of theirs.
local function ranks(list)
  local out = {}
  for i, x in ipairs(list) do
    local above, equal = 0, 0
    for _, y in ipairs(list) do
      above, equal = above + (y > x and 1 or 0), equal + (y == x and 1 or 0)
    end
    out[i] = above + (equal + 1) / 2
  end
  return out
end

-- The mean rank of each trial of a method over tau, hypervolume, distance and the seeds, by the reward models; nil where one lacks a figure.
local function trial_ranks(trials)
  local sums, n = {}, 0
  for _, f in ipairs(comparison.FIGURES) do
    local lists = {}
    for i, m in ipairs(trials) do
      lists[i] = comparison.of(m, "reward", f[1])
      if not lists[i] then
        return nil
      end
    end
    for k = 1, #lists[1] do
      local column = {}
      for i, list in ipairs(lists) do
        column[i] = list[k]
      end
      n = n + 1
      for i, rank in ipairs(ranks(column)) do
        sums[i] = (sums[i] or 0) + rank
      end
    end
  end
  for i, sum in ipairs(sums) do
    sums[i] = sum / n
  end
  return sums
end

-- The place of the least rank; of equal ones that with the greater hypervolume.
local function best_trial(trials, means)
  local best
  for i, m in ipairs(trials) do
    local h = metrics.over_seeds(comparison.of(m, "reward", "hypervolume"))
    if not best or means[i] < means[best[1]] or means[i] == means[best[1]] and h > best[2] then
      best = { i, h }
    end
  end
  return best[1]
end

--- comparison.trials(data) -> the trials of each method of a comparison with tune= as {title, header, rows, note}; no rows where there are
-- none. A trial's rank is its mean place among those of its method over tau, hypervolume, distance and the seeds, by the reward models
-- alone, so that the hidden rule stays unseen; the one with the least is chosen.
function comparison.trials(data)
  local rows = {}
  for _, s in ipairs(data.settings) do
    local by_method, order = {}, {}
    for _, m in ipairs(s.methods) do
      if m.of then
        order[#order + 1] = not by_method[m.of] and m.of or nil
        by_method[m.of] = by_method[m.of] or {}
        table.insert(by_method[m.of], m)
      end
    end
    for _, name in ipairs(order) do
      local trials = by_method[name]
      local means = trial_ranks(trials)
      local best = means and best_trial(trials, means)
      for i, m in ipairs(trials) do
        local row = { s.name, name, ("%g"):format(m.factor) }
        for j, f in ipairs(comparison.FIGURES) do
          row[j + 3] = spread(comparison.of(m, "reward", f[1]), f[3])
        end
        row[7], row[8] = means and ("%.2f"):format(means[i]) or "", i == best and "chosen" or ""
        rows[#rows + 1] = row
      end
    end
  end
  return { title = "Tuning: each method's step size times a factor, by the reward models", rows = rows, header = { "setting", "method", "factor",
    "Kendall's tau", "hypervolume", "mean pairwise distance", "mean rank", "" },
    note = "The rank among the trials of the method, a mean over the three figures and the seeds; of equal ranks the greater hypervolume is chosen." }
end

--- comparison.tables(data) -> list of {title, header, rows, note}: the paper's tables with a row for each method, by the reward models and
-- by the hidden rule, on how many seeds MOC is above each, and by how much. Means and sample deviations over the seeds.
function comparison.tables(data)
  local list, harmless = {}, nil
  for _, s in ipairs(data.settings) do
    harmless = s.name == "harmless+helpful" and s or harmless
  end
  local function add(t)
    list[#list + 1] = #t.rows > 0 and t or nil
  end
  local function each_judge(f)
    for _, judge_row in ipairs(comparison.JUDGES) do
      add(f(judge_row))
    end
  end
  add(comparison.trials(data))
  each_judge(function(j)
    return figure_table(data, j, "Table 2: Kendall's tau", "kendall_tau", 2, p_value, "In brackets the largest p-value over the seeds.")
  end)
  each_judge(function(j)
    return figure_table(data, j, "Table 3: hypervolume", "hypervolume", 3)
  end)
  each_judge(function(j)
    return figure_table(data, j, "Table 4: mean pairwise distance", "mean_pairwise_distance", 3)
  end)
  add(unseen_table(data, "Table 8: hypervolume, unseen preferences", "hypervolume", 3, "The reference point is -3 in each objective."))
  add(unseen_table(data, "Table 9: Kendall's tau, unseen preferences", "kendall_tau", 2))
  if harmless then
    each_judge(function(j)
      return figure_table({ settings = { harmless } }, j, "Table 10: hypervolume", "hypervolume", 3)
    end)
  end
  each_judge(function(j)
    return wins_table(data, j)
  end)
  each_judge(function(j)
    return differences_table(data, j)
  end)
  return list
end

--- comparison.costs(data, seconds) -> the same form: what each method took. seconds[setting][method] is {wall=, processor=}: lists of the
-- wall times of its training, one for each seed, and of the processor times of its whole runs, as far as they are known.
function comparison.costs(data, seconds)
  local header = { "setting", "method", "training samples", "wall time (s)", "processor time (s)", "trained parameters", "models" }
  local rows = {}
  for _, s in ipairs(data.settings) do
    for _, m in ipairs(s.methods) do
      local times = seconds[s.name] and seconds[s.name][m.name]
      rows[#rows + 1] = { s.name, m.label, m.training_samples, times and spread(times.wall, 1) or "",
        times and #times.processor > 0 and spread(times.processor, 1) or "", m.trained_parameters or "", m.models }
    end
  end
  return { title = "What each method takes", header = header, rows = rows,
    note = "Wall time is that of the training alone, without the models that all methods share and without the evaluation; processor time is "
      .. "that of all threads, with the evaluation, of runs that were not interrupted." }
end

--- Tables as one text in Markdown.
function comparison.markdown(tables)
  local out = {}
  for i, t in ipairs(tables) do
    out[i] = ("## %s\n\n%s%s"):format(t.title, text_table.markdown(t.header, t.rows), t.note and "\n" .. t.note .. "\n" or "")
  end
  return table.concat(out, "\n")
end

--- Tables as one text in LaTeX, for the package booktabs.
function comparison.latex(tables)
  local out = {}
  for i, t in ipairs(tables) do
    out[i] = text_table.latex(t.header, t.rows, { caption = t.title .. (t.note and ". " .. t.note or "") })
  end
  return table.concat(out, "\n")
end

--- Tables as plain text.
function comparison.plain(tables)
  local out = {}
  for i, t in ipairs(tables) do
    out[i] = ("%s\n%s%s"):format(t.title, text_table.plain(t.header, t.rows), t.note and t.note .. "\n" or "")
  end
  return table.concat(out, "\n")
end

-- The paper's names of columns begin with a capital.
local function capital(name)
  return (name:gsub("^%l", string.upper))
end

local function csv_cell(v)
  local s = type(v) == "number" and ("%.17g"):format(v) or tostring(v)
  return s:find '[",\n\r]' and '"' .. s:gsub('"', '""') .. '"' or s
end

--- comparison.csv(setting, k) -> the CSV that the paper's listing 1 reads: Algorithm, Preference (the first weight) and a column for
-- each objective, with the rewards of the k-th seed; without k their means over the seeds.
function comparison.csv(setting, k)
  local lines, head = {}, { "Algorithm", "Preference" }
  for j, name in ipairs(setting.objectives) do
    head[j + 2] = csv_cell(capital(name))
  end
  lines[1] = table.concat(head, ",")
  for _, m in ipairs(setting.methods) do
    for i, p in ipairs(m.runs[1].preferences) do
      local row = { csv_cell(m.label), csv_cell(p[1]) }
      for j in ipairs(setting.objectives) do
        row[j + 2] = csv_cell(k and m.runs[k].rewards[i][j] or comparison.mean_rewards(m)[i][j])
      end
      lines[#lines + 1] = table.concat(row, ",")
    end
  end
  return table.concat(lines, "\n") .. "\n"
end

--- comparison.mean_rewards(method, judge) -> the means over the seeds of its rewards, a row for each preference: in units of the SFT
-- model's answers, or with judge="rule" those of the hidden rule (nil where it does not know the objectives).
function comparison.mean_rewards(method, judge_name)
  local rows = {}
  for _, run in ipairs(method.runs) do
    local rewards = judge_name == "rule" and (run.rule and run.rule.rewards) or judge_name ~= "rule" and run.rewards
    if not rewards then
      return nil
    end
    for i, row in ipairs(rewards) do
      rows[i] = rows[i] or {}
      for j, r in ipairs(row) do
        rows[i][j] = (rows[i][j] or 0) + r / #method.runs
      end
    end
  end
  return rows
end

return comparison
