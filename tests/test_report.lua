-- test_report: mocl.report, mocl.svg, mocl.text_table: well-formed, escaped, the same bytes

local T = require "t"
local config = require "mocl.config"
local fs = require "mocl.fs"
local json = require "mocl.json"
local report = require "mocl.report"
local svg = require "mocl.svg"
local text_table = require "mocl.text_table"

local EVIL = '</script><b>"x"&\'y\'</pre><td>'

-- Raises unless the tags of an HTML text nest, attributes are quoted and text holds no raw & or <.
local function check_html(html)
  local stack, void, counts = {}, { meta = true }, {}
  local body = html:gsub("^<!DOCTYPE html>\n", "")
  assert(body ~= html, "no doctype")
  body = body:gsub("<style>.-</style>", function(css)
    assert(not css:sub(8, -9):find("<"), "< in the style")
    return ""
  end)
  local pos = 1
  while true do
    local s, e, close, name, rest = body:find("<(/?)(%w+)([^<>]*)>", pos)
    local text = body:sub(pos, (s or #body + 1) - 1)
    assert(not text:find("[<>]"), "stray < or >: " .. text:sub(1, 80))
    local bare = text:gsub("&%a+;", ""):gsub("&#%d+;", "")
    assert(not bare:find("&"), "stray &: " .. bare:sub(1, 80))
    if not s then
      break
    end
    if close == "/" then
      local open = table.remove(stack)
      assert(open == name, ("<%s> closed by </%s>"):format(tostring(open), name))
    else
      counts[name] = (counts[name] or 0) + 1
      local attributes = rest:gsub("/$", "")
      local left = attributes:gsub('%s+[%w-]+="[^"<>]*"', ""):gsub("%s+open", "")
      assert(left == "", "odd attribute in <" .. name .. rest .. ">")
      if not void[name] and rest:sub(-1) ~= "/" then
        stack[#stack + 1] = name
      end
    end
    pos = e + 1
  end
  assert(#stack == 0, "not closed: " .. tostring(stack[#stack]))
  return counts
end

T.test("the checker of this file can fail", function()
  local head = "<!DOCTYPE html>\n"
  check_html(head .. '<p class="x">a &amp; b<meta charset="u"><line x="1"/></p>')
  for _, bad in ipairs { "<p>", "</p>", "<p><b></p></b>", "a & b", "a < b", "<p class=x></p>" } do
    T.ok(not pcall(check_html, head .. bad), bad)
  end
end)

local function write(path, text)
  assert(fs.write(path, text))
end

local function result()
  local r = {
    recipe = "demo", method = "moc", seed = 3, device = "cpu", training_samples = 256,
    objectives = { "humor", "helpful" }, preferences = {}, rewards = {}, rewards_raw = {},
    rewards_std = {}, reference_point = { 0, 0 }, tau_reference = { -2, -2 }, hypervolume = 3.25,
    mean_pairwise_distance = 0.97, kendall_tau = 0.96, kendall_p = 1e-6,
    kendall_tau_per_objective = { 1.0, 0.9 },
    rule = { rewards = {}, hypervolume = 2.5, malformed = {} },
    unseen = { groups = { { preferences = { { 0.13, 0.87 }, { 0.55, 0.45 } },
      rewards = { { 0.9, 1.7 }, { 1.4, 1.3 } }, hypervolume = 2.0, kendall_tau = 1.0 } } },
    sft = { rewards = { 1.0, 1.0 }, mean_pairwise_distance = 0.02 }, kl = 4.5,
    c = { mean = 0.75, zero = 0.1, one = 0.6, indicator = 0.3, negative_w = 0.2 },
  }
  for i = 0, 10 do
    local p = i / 10
    r.preferences[i + 1] = { p, 1 - p }
    r.rewards[i + 1] = { 0.7 + p, 1.8 - p * p }
    r.rewards_raw[i + 1] = { p, 1.0 }
    r.rewards_std[i + 1] = { 0.5, 0.5 }
    r.rule.rewards[i + 1] = { p * 2, 2 - p }
    r.rule.malformed[i + 1] = 0.25
  end
  r.rewards[4] = { 0.8, 1.0 } -- dominated
  return r
end

-- A run's directory with everything in it.
local function full_run(evil)
  local dir = T.tmpdir()
  write(dir .. "/config.lua", config.dump { lr = 0.25, name = evil })
  write(dir .. "/cmdline.txt", "mocl demo.lua lr=0.25 name=" .. evil .. "\n")
  write(dir .. "/env.json", json.encode({ recipe = "demo", lua = "Lua 5.4", seed = 3,
    changed = { lr = { value = "0.25", default = "0.5" } }, inputs = { [evil] = "00ff" } }))
  local r = result()
  r.method = evil
  write(dir .. "/result.json", json.encode(r))
  local rows = {}
  for step = 1, 3000 do
    rows[step] = json.encode { step = step, stage = "train", time = step * 0.1,
      ["env/reward_mean/humor"] = step / 3000, ["env/reward_mean/helpful"] = 1 - step / 3000,
      ["objective/kl"] = step == 7 and json.null or 2.5, ["ppo/beta"] = 0.2, ["moc/c_mean"] = 0.75,
      ["moc/c_zero"] = 0.1, ["ppo/val/error/1"] = 0.5, ["ppo/val/error/2"] = 0.25, [evil] = 1,
      ["timing/step"] = 0.3 }
  end
  rows[#rows + 1] = '{"cut'
  write(dir .. "/metrics.jsonl", table.concat(rows, "\n"))
  rows = {}
  for i = 1, 40 do
    rows[#rows + 1] = json.encode { model = "sft", prompt = "prompt " .. i % 4,
      preference = { 0.5, 0.5 }, response = "before " .. i, rewards = { i / 40, 1 - i / 40 } }
  end
  rows[#rows + 1] = json.encode { stage = "train", step = 1, prompt = "old", preference = { 0, 1 },
    response = "an earlier evaluation", rewards = { 0, 0 } }
  for i = 0, 10 do
    rows[#rows + 1] = json.encode { stage = "eval", prompt = "prompt 1",
      preference = { 1 - i / 10, i / 10 }, response = "after " .. i .. evil, rewards = { i, -i } }
  end
  rows[#rows + 1] = json.encode { stage = "eval", prompt = "prompt " .. evil,
    preference = { 1, 0 }, response = "other", rewards = { 1, 2 } }
  write(dir .. "/samples.jsonl", table.concat(rows, "\n") .. "\n")
  return dir
end

T.test("everything a run holds is in its report", function()
  local dir = full_run("plain")
  T.eq(report.write(dir), dir .. "/report.html")
  local html = assert(fs.read(dir .. "/report.html"))
  local counts = check_html(html)
  T.eq(counts.svg, 1 + 6 + 2) -- front, curves, histograms
  T.eq(counts.details, 2)
  for _, want in ipairs {
    "<h1>demo</h1>", "method plain, seed 3, device cpu, training samples 256", "<h2>Front</h2>",
    "<title>reference point</title>", "<title>SFT model</title>", ">SFT</text>", 'class="ray"',
    "<title>unseen 0.13, 0.87</title>", 'class="area s1"', "<td>0.1, 0.9</td>",
    "<th class=\"n\">humor (raw)</th>", "<th class=\"n\">helpful (rule)</th>", "malformed",
    "<td>hypervolume</td><td class=\"n\">3.250</td>", "<td>c mean</td><td class=\"n\">0.750</td>",
    "<td>hypervolume (rule)</td><td class=\"n\">2.500</td>", "Kendall tau of helpful",
    "Unseen preferences, group 1", "<h2>Training: train</h2>",
    "<figcaption>env/reward_mean</figcaption>", "<figcaption>moc/c</figcaption>",
    "<figcaption>ppo/val/error</figcaption>", "<figcaption>objective/kl</figcaption>",
    "<h2>Rewards of answers</h2>", ">before</text>", "<summary>Prompt 1</summary>\n<pre>prompt 1",
    '<td class="text">after 10plain</td><td class="n">10.000</td>',
    '<td class="text">before 1</td>',
    '<tr class="mark"><td>lr</td><td>0.25</td><td>default 0.5</td></tr>',
    "<td>inputs.plain</td><td>00ff</td>",
    "<td>command</td><td>mocl demo.lua lr=0.25 name=plain</td>",
    "prefers-color-scheme:dark",
  } do
    T.ok(html:find(want, 1, true), want .. " is missing")
  end
  for _, unwanted in ipairs { "http", "<script", "<link", "<img", "an earlier evaluation",
    "timing/step", "Mnan", "Lnan", "\"nan", "\"-nan", ">nan", "\"inf" } do
    T.ok(not html:find(unwanted, 1, true), unwanted .. " is there")
  end
  -- preferences in order, the dominated point hollow, at most 1000 points a curve
  T.ok(html:find("after 10plain", 1, true) < html:find("after 9plain", 1, true))
  T.ok(html:find('class="hollow s1"', 1, true))
  T.ok(#html < 300000, #html)
end)

T.test("everything is escaped", function()
  local html = report.html(full_run(EVIL))
  local counts = check_html(html)
  T.eq(counts.b, nil)
  T.eq(counts.script, nil)
  T.ok(not html:find("</script>", 1, true))
  T.ok(html:find("&lt;/script&gt;&lt;b&gt;&quot;x&quot;&amp;&#39;y&#39;", 1, true))
  T.eq(svg.escape("a\0b\27c\255"), ("a?b?c?"):gsub("?", "\239\191\189"))
  T.eq(svg.escape("gr\195\188n"), "gr\195\188n")
end)

T.test("the same run gives the same bytes", function()
  local dir = full_run("plain")
  local first = report.html(dir)
  T.eq(report.html(dir) == first, true)
  T.eq(report.html(dir, { result = json.decode(fs.read(dir .. "/result.json")) }) == first, true)
  local again = report.html(full_run("plain"))
  T.eq(again == first, true)
end)

T.test("missing pieces are left out", function()
  local full = full_run("plain")
  for _, gone in ipairs { "config.lua", "cmdline.txt", "env.json", "result.json", "metrics.jsonl",
    "samples.jsonl" } do
    local dir = T.tmpdir()
    for _, name in ipairs(fs.list(full)) do
      if name ~= gone then
        write(dir .. "/" .. name, fs.read(full .. "/" .. name))
      end
    end
    check_html(assert(fs.read(assert(report.write(dir)))))
  end
  local empty = T.tmpdir()
  T.fails("holds no run$", report.write, empty)
  T.fails("nowhere: holds no run$", report.write, "/nowhere")
  write(empty .. "/result.json", "{")
  T.ok(report.html(empty):find("this run has no result yet", 1, true))
end)

T.test("odd results do not stop a report", function()
  local dir = T.tmpdir()
  for _, r in ipairs {
    {}, { rewards = {} }, { rewards = { { 1, 2 } } }, { recipe = json.null, rewards = { { 1 } } },
    { objectives = { "a", "b" }, rewards = { { 1 }, { 1, 2 } }, preferences = { 3, { 1, 0 } } },
    { objectives = { "a", "b" }, rewards = { { json.null, 1 } }, reference_point = { 1 },
      sft = { rewards = 3 }, unseen = { groups = { {} } }, c = json.null, rule = { rewards = 2 } },
    { objectives = { "a", "b", "c" }, rewards = { { 1, 2, 3 }, { 3, 2, 1 } } },
    { objectives = { "a", "b" }, rewards = { { 1, 1 }, { 1, 1 } }, reference_point = { 1, 1 } },
    { rewards = { { 1, 2, 3, 4, 5, 6 } }, hypervolume = { ["at 0"] = 1.5, worst = 2 } },
  } do
    check_html(report.html(dir, { result = r }))
    report.summary(r)
  end
  local r = { objectives = { "a", "b", "c" }, rewards = { { 1, 2, 3 }, { 3, 2, 1 } } }
  T.eq(check_html(report.html(dir, { result = r })).svg, 3) -- each pair of objectives
end)

T.test("other methods beside the run's own", function()
  local r = result()
  r.linear_ppo = { rewards = { { 1, 1 }, { 2, 2 } }, preferences = { { 0, 1 }, { 1, 0 } },
    hypervolume = 4.0 }
  local html = report.html(T.tmpdir(), { result = r })
  check_html(html)
  T.ok(html:find("<h3>linear_ppo</h3>", 1, true))
  T.ok(html:find("<title>linear_ppo (1, 0): 2.000, 2.000</title>", 1, true))
end)

T.test("summary for the terminal", function()
  local r = { method = "moc", objectives = { "humor", "helpful" }, hypervolume = 2.5,
    preferences = { { 0, 1 }, { 0.5, 0.5 } }, rewards = { { 1, 2 }, { 1.5, 1.25 } },
    sft = { rewards = { 1, 1 } } }
  T.eq(report.summary(r), [[
preference  humor  helpful
----------  -----  -------
SFT         1.000    1.000
0, 1        1.000    2.000
0.5, 0.5    1.500    1.250

figure       value
-----------  -----
hypervolume  2.500
]])
  T.ok(report.summary(r, { markdown = true }):find("| 0, 1       | 1.000 |   2.000 |\n", 1, true))
end)

T.test("text tables", function()
  local header = { "name", "n", "x" }
  local rows = { { "gr\195\188n", 10, 0.5 }, { "b|\nc", 9 }, { nil, 100, -1e-9 } }
  T.eq(text_table.plain(header, rows), "name    n       x\n----  ---  ------\n"
    .. "gr\195\188n   10   0.500\nb| c    9\n      100  -1e-09\n")
  T.eq(text_table.markdown({ "a|b", "n" }, { { "x|y", 1 } }),
    "| a\\|b |   n |\n| ---- | --: |\n| x\\|y |   1 |\n")
  T.eq(text_table.cell(1.23456, 2), "1.23")
  T.eq(text_table.cell(-0.0, 3), "0.000")
  T.eq(text_table.cell(1e9, 3), "1e+09")
  T.eq(text_table.cell(0 / 0, 3), "nan")
  T.eq(text_table.cell(nil, 3), "")
  T.eq(text_table.plain({ "a" }, {}), "a\n-\n")
end)

T.test("ticks are round and inside", function()
  T.near(svg.ticks(0, 1, 5), { 0, 0.2, 0.4, 0.6, 0.8, 1 }, 1e-12)
  T.near(svg.ticks(-0.13, 0.27, 4), { -0.1, 0, 0.1, 0.2 }, 1e-12)
  T.near(svg.ticks(0, 3000, 7), { 0, 500, 1000, 1500, 2000, 2500, 3000 }, 1e-9)
end)

T.test("downsampling keeps ends of each bucket, spikes and gaps", function()
  local points = {}
  for i = 1, 10000 do
    points[i] = { i, i == 5003 and 99 or i == 7001 and 0 / 0 or 0.0 }
  end
  local few = svg.downsample(points, 1000)
  T.ok(#few <= 1000)
  local spike, gap, last = false, false, 0
  for _, p in ipairs(few) do
    spike = spike or p[2] == 99
    gap = gap or p[2] ~= p[2]
    T.ok(p[1] > last)
    last = p[1]
  end
  T.ok(spike and gap)
  T.ok(svg.downsample(few, 1000) == few)
end)

T.test("a long legend takes more rows and stays inside", function()
  local series = {}
  for i = 1, 6 do
    series[i] = { name = "objective number " .. i, points = { { 0, i }, { 1, i } } }
  end
  local text, rows = svg.lines { series = series, width = 420, height = 260 }, {}
  for x, y, name in text:gmatch('<text x="([%d.]+)" y="(%d+)">([^<]+)<') do
    T.ok(tonumber(x) + 6.6 * #name < 420 and name:find("objective"))
    rows[y] = true
  end
  T.eq(rows, { ["16"] = true, ["32"] = true, ["48"] = true })
  T.ok(text:find('d="M58 58V218H406"', 1, true)) -- the axes begin below the legend
end)

T.test("charts of nothing and of one point", function()
  local head = "<!DOCTYPE html>\n"
  check_html(head .. svg.lines { series = {} })
  check_html(head .. svg.lines { series = { { name = EVIL, points = { { 1, 2 } } },
    { name = "b", points = { { 0 / 0, 1 }, { 2, math.huge } } } }, title = EVIL, xlabel = EVIL } )
  check_html(head .. svg.front { points = {} })
  check_html(head .. svg.histogram { series = { { name = "a", values = { 1, 1, 1 } } } })
  check_html(head .. svg.histogram { series = {} })
end)
