-- recipes/compare_hh.lua and what it is made of: figures of runs in one unit, tables over seeds, budgets, and a comparison that is
-- killed, continued and extended

local T = require "t"
local browser = require "browser"
local child = require "child"
local compare = require "mocl.train.compare"
local comparison = require "mocl.report.comparison"
local fs = require "mocl.fs"
local html_check = require "html_check"
local json = require "mocl.json"
local metrics = require "mocl.metrics"
local page = require "mocl.report.comparison_page"
local run_files = require "run_files"
local text_table = require "mocl.run.text_table"

-- ---- figures and tables, by hand ----

T.test("mean and deviation over seeds: divided by n - 1, and none of one seed", function()
  local mean, std = metrics.over_seeds { 1, 2, 6 }
  T.near(mean, 3, 1e-15)
  T.near(std, 7 ^ 0.5, 1e-15) -- (4 + 1 + 9) / 2
  T.eq({ metrics.over_seeds { 5 } }, { 5.0 })
  T.raises("a list that is not empty", metrics.over_seeds, {})
  T.raises("entry 2 is nan", metrics.over_seeds, { 1, 0 / 0 })
end)

local P = { { 0, 1 }, { 0.5, 0.5 }, { 1, 0 } }

-- A result.json with raw rewards.
local function result_of(raw, rule)
  return { objectives = { "humor", "helpful" }, preferences = P, rewards_raw = raw,
    rule = rule and { rewards = rule, malformed = { 0, 0.3, 0.6 } },
    unseen = { groups = { { preferences = P, rewards = { { 0, 2 }, { 1, 1 }, { 2, 0 } } } } } }
end

T.test("figures of a run in the unit of its seed: by equation 18, with the paper's reference points", function()
  -- means 1 and 10, deviations 0.5 and 2: rewards (r - mean) / (2 std) + 1
  local f = comparison.figures(result_of({ { 1, 14 }, { 1.5, 12 }, { 2, 8 } }, { { 0, 3 }, { 1, 1 }, { 2, 0.5 } }),
    { mean = { 1, 10 }, std = { 0.5, 2 } })
  T.eq(f.rewards, { { 1.0, 2.0 }, { 1.5, 1.5 }, { 2.0, 0.5 } })
  T.near(f.reward.hypervolume, 1 * 2 + 0.5 * 1.5 + 0.5 * 0.5, 1e-12) -- above (0, 0)
  T.near(f.reward.mean_pairwise_distance, (0.5 ^ 0.5 + (1 + 2.25) ^ 0.5 + (0.25 + 1) ^ 0.5) / 3, 1e-12)
  T.eq(f.reward.kendall_tau, 1.0)
  T.near(f.rule.hypervolume, 1 * 1 + 1 * 0.5, 1e-12) -- (0, 3) adds nothing above (0, 0)
  T.near(f.rule.malformed, 0.3, 1e-12)
  T.eq(f.rule.kendall_tau, 1.0)
  -- above (-3, -3): points (3, 5), (4, 4), (5, 3)
  T.near(f.unseen[1].hypervolume, 3 * 5 + 4 + 3, 1e-12)
  T.eq(f.unseen[1].kendall_tau, 1.0)
  -- a reward that the rule does not know: no figures of the rule
  T.eq(comparison.figures(result_of({ { 1, 14 }, { 1.5, 12 }, { 2, 8 } }, { { 0, json.null }, { 1, json.null }, { 2, json.null } }),
    { mean = { 1, 10 }, std = { 0.5, 2 } }).rule, nil)
end)

-- A run with this tau, hypervolume and distance, and rewards that tell who it is.
local function run(seed, tau, hypervolume, distance, mark)
  local rewards = {}
  for i, p in ipairs(P) do
    rewards[i] = { p[1] + mark, p[2] + mark }
  end
  local f = { kendall_tau = tau, kendall_p = 0.25, hypervolume = hypervolume, mean_pairwise_distance = distance }
  return { seed = seed, preferences = P, rewards = rewards, reward = f, curve = { { samples = 100, hypervolume = hypervolume } } }
end

local function data_of()
  return { budget = 160, seeds = { 3, 4 }, settings = { { name = "humor+helpful", objectives = { "humor", "helpful" }, methods = {
    { name = "moc", label = "MOC", models = 1, training_samples = 160, trained_parameters = 10,
      runs = { run(3, 1.0, 3.0, 0.5, 10), run(4, 0.8, 4.0, 0.7, 20) } },
    { name = "other", label = "Other, R&D_1", models = 5, training_samples = 160, trained_parameters = 50,
      runs = { run(3, 1.0, 2.0, 0.6, 30), run(4, 0.9, 4.5, 0.8, 40) } },
  }, shown = { seed = 3, prompt = "why <b>?", preferences = P, methods = {
    moc = { { preference = P[1], response = "<i>one" }, { preference = P[3], response = "three" } }, other = {} } } } } }
end

local function table_called(data, start)
  for _, t in ipairs(comparison.tables(data)) do
    if t.title:sub(1, #start) == start then
      return t
    end
  end
  error("no table " .. start)
end

T.test("tables: equal figures deviate by 0.00, whatever the rounding of their mean", function()
  local data = data_of()
  for _, method in ipairs(data.settings[1].methods) do
    method.runs = { run(3, 53 / 55, 3.0, 0.5, 10), run(4, 53 / 55, 4.0, 0.7, 20), run(5, 53 / 55, 4.0, 0.7, 20) }
  end
  T.eq(table_called(data, "Table 2").rows[1], { "MOC", "0.96 ± 0.00 (2.5e-01)" })
end)

T.test("tables: mean and deviation over the seeds, what MOC is not above is marked, and on how many seeds it is", function()
  local data = data_of()
  T.eq(table_called(data, "Table 2").rows, { { "MOC", "0.90 ± 0.14 (2.5e-01)" }, { "Other, R&D_1", "0.95 ± 0.07 (2.5e-01) †" } })
  local t = table_called(data, "Table 3")
  T.eq(t.rows, { { "MOC", "3.500 ± 0.707" }, { "Other, R&D_1", "3.250 ± 1.768" } })
  T.eq({ t.header, tostring(t.note), t.title }, { { "method", "humor+helpful" }, "nil", "Table 3: hypervolume, by the reward models" })
  t = table_called(data, "Table 4")
  T.eq({ t.rows[2][2], t.note }, { "0.700 ± 0.141 †", "† MOC's mean is not above it." })
  -- 0 and -.1 in tau, 1 and -.5 in hypervolume, -.1 twice in distance; of two seeds the interval goes from one to the other
  T.eq(table_called(data, "MOC less").rows, { { "humor+helpful", "Other, R&D_1", "-0.05 [-0.10, 0.00]", "0.250 [-0.500, 1.000]", "-0.100 [-0.100, -0.100]" } })
  T.eq(table_called(data, "MOC above").rows, { { "humor+helpful", "Other, R&D_1", "0 / 1 / 1", "1 / 0 / 1", "0 / 0 / 2" } })
  -- two settings have an average, which is that of each seed
  data.settings[2] = data_of().settings[1]
  data.settings[2].name = "harmless+helpful"
  for _, m in ipairs(data.settings[2].methods) do
    for _, r in ipairs(m.runs) do
      r.reward.hypervolume = 2 - r.reward.hypervolume -- goes the other way from seed to seed
    end
  end
  t = table_called(data, "Table 3")
  T.eq(t.header, { "method", "humor+helpful", "harmless+helpful", "average" })
  T.eq(t.rows[1], { "MOC", "3.500 ± 0.707", "-1.500 ± 0.707", "1.000 ± 0.000" })
  T.eq(#table_called(data, "Table 10").rows, 2)
end)

T.test("trials: the one with the least mean rank over the figures and seeds is chosen, by the reward models", function()
  local function trial(of, factor, ...)
    local runs = {}
    for k, f in ipairs { ... } do
      runs[k] = run(k, f[1], f[2], f[3], 0)
      runs[k].rule = { kendall_tau = -f[1], hypervolume = -f[2], mean_pairwise_distance = -f[3] } -- wants the opposite, and is not asked
    end
    return { name = ("%s_x%g"):format(of, factor), label = of, of = of, factor = factor, models = 1, training_samples = 160, runs = runs }
  end
  local data = { budget = 160, seeds = { 1, 2 }, settings = { { name = "humor+helpful", objectives = { "humor", "helpful" }, methods = {
    trial("a", 0.5, { 1.0, 2.0, 0.5 }, { 0.9, 4.0, 0.6 }), -- ranks 1.5 2 1, 2 1 2 of two
    trial("a", 1, { 1.0, 3.0, 0.4 }, { 1.0, 3.0, 0.9 }), -- 1.5 1 2, 1 2 1
    trial("b", 0.5, { 0.5, 1.0, 0.1 }, { 0.5, 1.0, 0.1 }), -- equal in all: the greater hypervolume, of equal ones the first
    trial("b", 1, { 0.5, 1.0, 0.1 }, { 0.5, 1.0, 0.1 }) } } } }
  T.eq(comparison.trials(data).rows, {
    { "humor+helpful", "a", "0.5", "0.95 ± 0.07", "3.000 ± 1.414", "0.550 ± 0.071", "1.58", "" },
    { "humor+helpful", "a", "1", "1.00 ± 0.00", "3.000 ± 0.000", "0.650 ± 0.354", "1.42", "chosen" },
    { "humor+helpful", "b", "0.5", "0.50 ± 0.00", "1.000 ± 0.000", "0.100 ± 0.000", "1.50", "chosen" },
    { "humor+helpful", "b", "1", "0.50 ± 0.00", "1.000 ± 0.000", "0.100 ± 0.000", "1.50", "" } })
  data.settings[1].methods[3].runs[1].reward.hypervolume, data.settings[1].methods[4].runs[2].reward.hypervolume = 3.0, 5.0
  T.eq(comparison.trials(data).rows[4][8], "chosen", "1.5 each, and 3 above 2 in hypervolume")
  T.eq(comparison.trials(data_of()).rows, {})
end)

T.test("entries: a method with a solver, and the trials of methods", function()
  local methods = { { name = "moc", label = "MOC", recipe = "moc_hh", solvers = { "control.solver=%s", "a=b" } },
    { name = "moc_gdpo", label = "MOC on GDPO's groups", solvers = { "control.solver=%s" }, words = { "grpo.method=gdpo" } }, { name = "clp" } }
  local rows = compare.chosen(methods, { "moc", "moc:upgrad", "moc_gdpo:pcgrad" })
  T.eq({ rows[2].name, rows[2].label, rows[2].base, rows[2].recipe, rows[2].words }, { "moc_upgrad", "UPGrad", "moc", "moc_hh", { "control.solver=upgrad", "a=b" } })
  T.eq({ rows[3].name, rows[3].label, rows[3].words }, { "moc_gdpo_pcgrad", "PCGrad on GDPO's groups", { "grpo.method=gdpo", "control.solver=pcgrad" } })
  T.eq(methods[2].words, { "grpo.method=gdpo" })
  T.eq(compare.trials(rows, {}), rows)
  local trials, names = compare.trials({ rows[1], rows[2] }, { 0.5, 2 }), {}
  for i, row in ipairs(trials) do
    names[i] = row.name
  end
  T.eq(names, { "trial-moc-0_5", "trial-moc-2", "trial-moc_upgrad-0_5", "trial-moc_upgrad-2" })
  T.eq({ trials[3].base, trials[3].of, trials[3].factor, trials[3].words }, { "moc", "moc_upgrad", 0.5, { "control.solver=upgrad", "a=b" } })
end)

T.test("costs: samples, wall time, trained parameters and number of models of each method", function()
  local t = comparison.costs(data_of(), { ["humor+helpful"] = { moc = { wall = { 10, 12 }, processor = { 30 } },
    other = { wall = { 20, 26 }, processor = {} } } })
  T.eq(t.header, { "setting", "method", "training samples", "wall time (s)", "processor time (s)", "trained parameters", "models" })
  T.eq(t.rows, { { "humor+helpful", "MOC", 160, "11.0 ± 1.4", "30.0", 10, 1 }, { "humor+helpful", "Other, R&D_1", 160, "23.0 ± 4.2", "", 50, 5 } })
end)

T.test("a table in LaTeX", function()
  T.eq(text_table.latex({ "method", "a_b" }, { { "R&D ± 1 †", 2.5 }, { "50% {x} ~^\\", 1 } }, { caption = "A #1", label = "t" }), [[
\begin{table}
\centering
\caption{A \#1}
\label{t}
\begin{tabular}{lr}
\toprule
method & a\_b \\
\midrule
R\&D $\pm$ 1 $^{\dagger}$ & 2.500 \\
50\% \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{} & 1 \\
\bottomrule
\end{tabular}
\end{table}
]])
  T.ok(comparison.latex(comparison.tables(data_of())):find("Other, R\\&D\\_1 & 3.250 $\\pm$ 1.768", 1, true))
  T.ok(comparison.markdown(comparison.tables(data_of())):find("| Other, R&D_1 | 3.250 ± 1.768 |", 1, true))
end)

-- Rows of a CSV without quotes inside cells.
local function read_csv(text)
  local rows, head = {}, nil
  for whole_line in text:gmatch "[^\n]+" do
    local cells, row = {}, {}
    local line = whole_line:gsub('"([^"]*)"', function(s) return (s:gsub(",", ";")) end)
    for cell in (line .. ","):gmatch "([^,]*)," do
      cells[#cells + 1] = cell
    end
    for i, name in ipairs(head or {}) do
      row[name] = cells[i]
    end
    rows[#rows + 1], head = head and row, head or cells
  end
  return rows, head
end

T.test("the CSV of listing 1: a row for each algorithm and preference, whose tau by the listing is the comparison's", function()
  local setting = data_of().settings[1]
  local rows, head = read_csv(comparison.csv(setting, 2))
  T.eq(head, { "Algorithm", "Preference", "Humor", "Helpful" })
  T.eq(#rows, 6)
  T.eq(rows[4], { Algorithm = "Other; R&D_1", Preference = "0", Humor = "40", Helpful = "41" })
  T.eq(tonumber(read_csv(comparison.csv(setting))[1].Humor), 15.0, "without a seed the mean over the seeds")
  -- the listing's formula: pi / 2 - arctan((r2 + 2) / (r1 + 2)) against the first weight
  local raw = { { 1, 14 }, { 2, 8 }, { 1.5, 12 } }
  local f = comparison.figures(result_of(raw), { mean = { 1, 10 }, std = { 0.5, 2 } })
  setting.methods = { { label = "A", runs = { f } } }
  local x, y = {}, {}
  for i, row in ipairs(read_csv(comparison.csv(setting, 1))) do
    x[i] = tonumber(row.Preference)
    y[i] = math.pi / 2 - math.atan((row.Helpful + 2) / (row.Humor + 2))
  end
  T.eq({ (metrics.kendall_tau(x, y)) }, { f.reward.kendall_tau })
end)

T.test("the page: sections, what comes from files is escaped, all methods in the charts", function()
  local data = data_of()
  local html = page.html(data, comparison.costs(data, {}))
  local counts = html_check.check(html)
  T.eq(counts.section, 5)
  T.ok(counts.svg >= 6, counts.svg)
  for _, text in ipairs { "why &lt;b&gt;?", "&lt;i&gt;one", "Other, R&amp;D_1 (0.5, 0.5): 35.500, 35.500", "MOC (1, 0): 16.000, 15.000", "rays: reference",
    "hypervolume over training samples", "humor against its weight" } do
    T.ok(html:find(text, 1, true), text)
  end
  T.ok(page.html(data) == page.html(data))
end)

-- ---- the recipe ----

local SMALL = { "recipes/compare_hh.lua", "preset=smoke", "quiet=true", "settings=humor+helpful", "methods=moc,morlhf,gdpo", "eval.answers=4",
  "eval.unseen_answers=2", "documents=60", "reward.prompts=20", "sft.examples=20", "base.steps=2", "sft.steps=2", "reward.steps=2", "curve_answers=2" }

local function words(dir, ...)
  local list = table.move(SMALL, 1, #SMALL, 1, {})
  list[#list + 1] = "out=" .. dir
  for _, w in ipairs { ... } do
    list[#list + 1] = w
  end
  return list
end

local function start(dir, ...)
  local out, err, status = child.mocl(words(dir, ...))
  return out .. err, status
end

local function must(dir, ...)
  local said, status = start(dir, ...)
  T.eq(status, 0, said)
  return said
end

local function fresh()
  return T.tmpdir() .. "/comparison"
end

local whole_dir
local function whole()
  if not whole_dir then
    whole_dir = fresh()
    must(whole_dir, "seeds=0,1")
  end
  return whole_dir
end

-- The files of a comparison that equal ones have alike.
local function files(dir)
  local found = run_files(dir, { "costs.md", "costs.tex" })
  for path in pairs(found) do
    if path:find "SHA256SUMS" then
      found[path] = nil
    end
  end
  return found
end

T.test("a comparison: the front of each method and seed is its run's own, in the unit of its seed", function()
  local dir = whole()
  local data = assert(json.load(dir .. "/comparison.json"))
  T.eq({ data.budget, data.seeds, #data.settings }, { 160, { 0, 1 }, 1 })
  local names = {}
  for _, m in ipairs(data.settings[1].methods) do
    names[#names + 1] = m.name
    for k, seed in ipairs(data.seeds) do
      local at = ("%s/humor_helpful/seed-%d/"):format(dir, seed)
      local result, models = assert(json.load(at .. m.name .. "/result.json")), assert(json.load(at .. "models/result.json"))
      T.eq({ result.seed, m.runs[k].seed }, { seed, seed })
      T.eq(result.training_samples, 160)
      T.eq(m.runs[k].preferences, result.preferences)
      for i, row in ipairs(result.rewards_raw) do
        for j, raw in ipairs(row) do
          T.near(m.runs[k].rewards[i][j], (raw - models.statistics.mean[j]) / (2 * models.statistics.std[j]) + 1, 1e-9)
        end
      end
      T.eq(assert(json.load(at .. m.name .. "/env.json")).from.run, fs.realpath(at .. "models"))
    end
    T.eq(m.training_samples, 160)
  end
  T.eq(names, { "moc", "morlhf", "gdpo" })
  T.eq(data.settings[1].methods[2].models, 5)
  -- the curves: two checkpoints, the last of which has drawn all samples
  for _, m in ipairs(data.settings[1].methods) do
    T.eq({ m.runs[1].curve[1].samples, m.runs[1].curve[2].samples, #m.runs[1].curve }, { 80, 160, 2 }, m.name)
    T.ok(m.runs[1].curve[1].hypervolume ~= m.runs[1].curve[2].hypervolume, m.name .. ": two policies")
  end
  -- files
  for _, name in ipairs { "tables.md", "tables.tex", "costs.md", "costs.tex", "humor_helpful.csv", "humor_helpful-seed-1.csv", "report.html" } do
    T.eq(fs.exists(dir .. "/" .. name), "file", name)
  end
  local html = child.read(dir .. "/report.html")
  html_check.check(html)
  local again = fresh()
  assert(fs.mkdir(again))
  for _, name in ipairs { "comparison.json", "timing.json", "config.lua" } do
    assert(fs.write(again .. "/" .. name, child.read(dir .. "/" .. name)))
  end
  T.eq({ child.mocl { "report", "run=" .. again } }, { again .. "/report.html\n", "", 0 })
  T.ok(child.read(again .. "/report.html") == html, "mocl report makes the same page")
  assert(fs.write(again .. "/comparison.json", '{"settings": 3}'))
  local _, err, status = child.mocl { "report", "run=" .. again }
  T.ok(status == 1 and err:find("comparison.json: is not what a comparison writes there", 1, true), err)
  -- the comparison's policies are those that their recipes train alone
  local rows = read_csv(child.read(dir .. "/humor_helpful-seed-1.csv"))
  T.eq(#rows, 11 + 5 + 11)
  T.eq(tonumber(rows[12].Humor), data.settings[1].methods[2].runs[2].rewards[1][1])
end)

T.test("a method of a comparison has the bytes of its recipe alone with these options", function()
  local at, alone = whole() .. "/humor_helpful/seed-1/gdpo", fresh()
  local list = { "recipes/grpo.lua" }
  for word in child.read(at .. "/cmdline.txt"):gmatch "%S+" do
    if word:find "=" and not word:find "^out=" and not word:find "^from=" then
      list[#list + 1] = word
    end
  end
  list[#list + 1] = "out=" .. alone
  local out, err, status = child.mocl(list)
  T.eq(status, 0, out .. err)
  local a, b = run_files(at, {}), run_files(alone, {})
  for path in pairs(a) do
    T.ok(path:find "SHA256SUMS" or a[path] == b[path], path)
  end
end)

T.test("equal seeds give equal bytes; stopped at any place and continued, and extended by seeds and methods, too", function()
  local want = files(whole())
  -- stopped while the models are made, while a method is trained, and between methods
  for _, at in ipairs { "seed-0/models/metrics.jsonl", "seed-0/morlhf/stages.json", "seed-1/gdpo/metrics.jsonl" } do
    for _, signal in ipairs { "KILL", "INT" } do
      local dir = fresh()
      local _, status = child.interrupted(words(dir, "seeds=0,1"), "sta", { file = dir .. "/humor_helpful/" .. at, signal = signal })
      T.ok(status == 137 or status == 130 or status == 0, status)
      must(dir, "seeds=0,1", "resume=auto")
      T.eq(files(dir), want, at .. " " .. signal)
    end
  end
  -- fewer seeds and methods first; a comparison that has ended is extended without resume
  local dir = fresh()
  must(dir, "methods=gdpo")
  must(dir, "methods=gdpo,moc")
  must(dir, "seeds=0,1")
  T.eq(files(dir), want, "extended")
  local before = child.read(dir .. "/humor_helpful/seed-0/moc/timing.json")
  T.ok(must(dir, "seeds=0,1"):find("Table 3: hypervolume, by the reward models", 1, true))
  T.eq(child.read(dir .. "/humor_helpful/seed-0/moc/timing.json"), before, "nothing ran again")
  -- a subset shows its own
  must(dir, "methods=moc", "seeds=1")
  T.eq(assert(json.load(dir .. "/comparison.json")).seeds, { 1 })
end)

-- Refused before there is a directory, without a traceback.
local function refused(text, ...)
  local dir = fresh()
  local said, status = start(dir, ...)
  T.eq(status, 1, said)
  T.ok(said:find(text, 1, true), text .. ":\n" .. said)
  T.ok(not said:find("traceback", 1, true) and not said:find(".lua:", 1, true), said)
  T.eq(fs.exists(dir), nil, text)
end

T.test("bad input ends before anything is written", function()
  refused("methods: unknown method 'moch' (did you mean 'moc'?)", "methods=moch")
  refused("methods: 'moc' stands there twice", "methods=moc,moc")
  refused("methods: 'moc:upgrid': unknown solver 'upgrid' (did you mean 'upgrad'?)", "methods=moc:upgrid")
  refused("methods: 'clp:upgrad': clp joins no gradients that a solver could weigh", "methods=clp:upgrad")
  refused("methods: 'moc:upgrad' stands there twice", "methods=moc:upgrad,moc:upgrad")
  refused("tune: 0 is no factor of a step size; take numbers above 0", "tune=1,0")
  refused("tune: 2 stands there twice", "tune=2,2")
  refused("tune: 0.5 stands there twice", "tune=0.5,0.50000000001") -- both would be in one directory
  refused("trial-moc-2: option control.floor: 3 is above the maximum 1", "methods=moc", "tune=2", "options.moc=control.floor=3")
  refused("seeds: the list is empty", "seeds=")
  refused("seeds: 1 stands there twice", "seeds=0,1,1")
  refused("seeds: -1 is negative", "seeds=-1")
  refused("seed=3: a comparison has a list, seeds=3", "seed=3")
  refused("settings: 'humor' has one objective", "settings=humor")
  refused("settings: 'humor+' names no objectives", "settings=humor+")
  refused("unknown objective 'humour'", "settings=humour+helpful")
  refused("option trade_off: expected one of rising, equal, diminishing, got 'fallin'", "settings=humor+helpful/fallin")
  refused("settings: 'humor+helpful' stands there twice", "settings=humor+helpful,humor+helpful")
  refused("settings: the list is empty", "settings=")
  refused("budget: morlhf trains 5 policies, which do not share iterations=12 equally: 32 samples would be left over; take iterations=10 or 15, "
    .. "or budget=policy", "iterations=12")
  refused("preferences: preference {0.3, 0.6} sums to 0.9, not 1", "policies=0.3:0.6")
  refused("moc: unknown option 'grpo.method'", "options.moc=grpo.method=rloo")
  refused("options.moc: 'seed=3' is for the comparison to say", "options.moc=seed=3")
  refused("options.moc: 'moc.iterations=9' is for the comparison to say", "options.moc=moc.iterations=9")
  refused("gdpo: num_generations=3 does not divide", "options.gdpo=grpo.num_generations=3")
  refused("unknown option 'objectives'", "objectives=humor,helpful")
end)

T.test("a comparison of another configuration is refused, with names, and so is a run below it that is not its own", function()
  local dir = fresh()
  must(dir, "methods=moc")
  local said, status = start(dir, "methods=moc", "base.steps=3", "resume=auto")
  T.eq(status, 1)
  T.ok(said:find("holds a run with other options", 1, true) and said:find("base.steps: 2 there, 3 now", 1, true), said)
  said, status = start(dir, "methods=moc", "options.moc=moc.tag_noise=0.1")
  T.eq(status, 1)
  T.ok(said:find("options.moc: empty there, moc.tag_noise=0.1 now (stage 'moc-humor_helpful-0' is finished with it)", 1, true), said)
  must(dir, "methods=moc,gdpo", "options.gdpo=grpo.num_generations=8") -- a method that has not run yet
  must(dir, "methods=moc,gdpo", "options.moc=moc.tag_noise=0.1", "resume=auto", "redo=moc-humor_helpful-0")
  T.ok(child.read(dir .. "/humor_helpful/seed-0/moc/config.lua"):find("tag_noise = 0.1", 1, true))
  -- reward models of other objectives
  said, status = start(fresh(), "methods=moc", "settings=harmless+helpful")
  T.eq(status, 0, said)
  local other = fresh()
  assert(fs.mkdir(other .. "/humor_helpful"))
  assert(os.execute(("cp -a '%s/humor_helpful/seed-0' '%s/humor_helpful/'"):format(dir, other)))
  local path = other .. "/humor_helpful/seed-0/models/config.lua"
  assert(fs.write(path, (child.read(path):gsub('objectives = { "humor", "helpful" }', 'objectives = { "harmless", "helpful" }'))))
  said, status = start(other, "methods=moc")
  T.eq(status, 1)
  T.ok(said:find("objectives: harmless,helpful there, humor,helpful now", 1, true), said)
end)

T.test("every method that there is runs, and each has drawn the same training samples", function()
  local dir = fresh()
  must(dir, "methods=", "points=1")
  local data = assert(json.load(dir .. "/comparison.json"))
  local names = {}
  for _, m in ipairs(data.settings[1].methods) do
    names[#names + 1] = m.name
    T.eq(m.training_samples, 160, m.name)
    T.ok(type(m.trained_parameters) == "number" and m.trained_parameters > 0, m.name)
    T.ok(#m.runs[1].rewards >= 3, m.name)
  end
  T.eq(names, { "moc", "linear", "morlhf", "rewarded_soups", "bone_soups", "mod", "modpo", "ric", "metaaligner", "clp", "grpo", "rloo", "gdpo",
    "moc_gdpo" })
  html_check.check(child.read(dir .. "/report.html"))
end)

T.test("other solvers, and trials of step sizes: runs with these options, the trials in the tables, the chosen one named", function()
  local dir = fresh()
  local said = must(dir, "methods=moc:upgrad,ric", "tune=0.5,2", "points=0", "options.moc=ppo.lr=0.01")
  local function wants(name, text)
    local line = child.read(("%s/humor_helpful/seed-0/%s/cmdline.txt"):format(dir, name))
    T.ok(line:find(text, 1, true), name .. ": " .. line)
  end
  wants("trial-moc_upgrad-0_5", "control.solver=upgrad control.solver_scale=mean ppo.lr=0.01 ppo.lr=0.005")
  wants("trial-moc_upgrad-2", "ppo.lr=0.02")
  wants("trial-ric-2", "ric.offline_learning_rate=0.01 ric.learning_rate=0.004")
  T.eq(assert(json.load(dir .. "/humor_helpful/seed-0/trial-moc_upgrad-2/result.json")).method, "upgrad")
  local data = assert(json.load(dir .. "/comparison.json"))
  T.eq({ data.settings[1].methods[2].of, data.settings[1].methods[2].factor }, { "moc_upgrad", 2.0 })
  T.eq(select(2, said:gsub("chosen\n", "")), 2)
  T.ok(child.read(dir .. "/tables.md"):find("## Tuning: each method's step size times a factor", 1, true))
  html_check.check(child.read(dir .. "/report.html"))
  -- an option that no trial has used may change, and one of trials may not
  must(dir, "methods=gdpo", "points=0", "options.moc=ppo.lr=0.01", "options.gdpo=ppo.lr=0.001", "resume=auto")
  local refusal, status = start(dir, "methods=gdpo", "points=0", "options.moc=ppo.lr=0.02", "options.gdpo=ppo.lr=0.001", "resume=auto")
  T.eq(status, 1)
  T.ok(refusal:find("(stage 'trial-moc_upgrad-0_5-humor_helpful-0' is finished with it)", 1, true), refusal)
end)

T.test("unequal budgets when told: each policy draws the whole budget, and the costs say so", function()
  local dir = fresh()
  must(dir, "methods=moc,rewarded_soups", "budget=policy", "iterations=3", "points=0")
  local data = assert(json.load(dir .. "/comparison.json"))
  local m = data.settings[1].methods
  T.eq({ data.unequal, m[1].training_samples, m[2].training_samples }, { true, 48, 96 })
  T.eq(m[1].runs[1].curve, nil, "points=0")
  T.ok(child.read(dir .. "/report.html"):find("48 training samples for each method, or for each of its policies", 1, true))
end)

T.test("three objectives have the 13 vectors, and other shapes of the trade-off directories of their own", function()
  local dir = fresh()
  must(dir, "methods=moc,modpo", "settings=harmless+humor+helpful,humor+helpful/diminishing")
  local data = assert(json.load(dir .. "/comparison.json"))
  T.eq({ #data.settings[1].methods[1].runs[1].preferences, #data.settings[1].methods[2].runs[1].preferences, data.settings[2].trade_off },
    { 13, 5, "diminishing" })
  T.eq(assert(json.load(dir .. "/humor_helpful_diminishing/seed-0/moc/result.json")).trade_off, "diminishing")
  html_check.check(child.read(dir .. "/report.html"))
end)

T.test("in a browser: at the width of a desk and of a phone nothing is loaded, no label lies on another, all sections are there", function()
  local html = child.read(whole() .. "/report.html")
  local measured, console = browser.measure { { html, 360 }, { html, 1300 } }
  T.eq(console, {})
  for i, m in ipairs(measured) do
    T.eq({ m.resources, m.overlaps, m.outside }, { {}, {}, {} }, ("width %d"):format(i == 1 and 360 or 1300))
    T.eq(m.sections, { "tables", "fronts", "control", "samples", "answers" })
    T.eq(m.charts, select(2, html:gsub("<svg ", "")))
    T.ok(m.page <= m.width, "the page is " .. m.page .. " wide")
  end
end)
