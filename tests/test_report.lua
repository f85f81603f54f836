-- test_report: mocl.report, mocl.report.svg, mocl.run.text_table: well-formed, escaped, the same bytes

local T = require "t"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local html_check = require "html_check"
local json = require "mocl.json"
local report = require "mocl.report"
local svg = require "mocl.report.svg"
local svg_front = require "mocl.report.svg_front"
local text_table = require "mocl.run.text_table"

local check_html = html_check.check
local EVIL = '</script><b>"x"&\'y\'</pre><td>'

T.test("the checker can fail", function()
  local head = "<!DOCTYPE html>\n"
  check_html(head .. '<p class="x">a &amp; b<meta charset="u"><line x="1"/></p>')
  check_html(head .. '<p id="a"></p><a href="#a">a</a>')
  for _, bad in ipairs { "<p>", "</p>", "<p><b></p></b>", "a & b", "a < b", "<p class=x></p>", "http://a.b",
    '<p id="a"></p><p id="a"></p>', '<a href="#b"></a>', '<p onclick="x"></p>', '<img src="a"/>', "<script></script>",
    '<line x1="nan"/>', '<path d="M1 2L-inf 3"/>', '<path d="M1e9 2"/>', "a\27b", "\255",
    "<style>@import 'x';</style>", "<style>p{background:url(x)}</style>" } do
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
  write(dir .. "/config.lua", config.dump { lr = 0.25, name = evil, control = { range = false } })
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
  T.eq(counts.svg, 2 * 2 + 2 * 2 + 5 + 2) -- front and enlarged, control, each also for a phone, curves, histograms
  T.eq(counts.details, 4) -- prompts, options, provenance
  for _, want in ipairs {
    "<h1>demo</h1>", "method plain, seed 3, device cpu, training samples 256", "<h2>Front</h2>",
    "<title>reference point</title>", "<title>SFT model</title>", ">SFT</text>", 'class="ray s1"',
    "<title>unseen (0.13, 0.87): 0.900, 1.700</title>", 'class="area s1"', "<td>0.1, 0.9</td>",
    "<span>Kendall&#39;s tau 0.900</span>", ">rays: reference + t·p</text>", "<b>3.250</b>hypervolume",
    "<b>1.000</b>least tau, unseen preferences",
    "<th class=\"n\">humor (raw)</th>", "<th class=\"n\">helpful (rule)</th>", "malformed",
    "<td>hypervolume</td><td class=\"n\">3.250</td>", "<td>c mean</td><td class=\"n\">0.750</td>",
    "<td>hypervolume (rule)</td><td class=\"n\">2.500</td>", "Kendall tau of helpful",
    "<caption>group 1, hypervolume 2.000, Kendall tau 1.000</caption>", "<h2>Training</h2>",
    "<figcaption>Rewards<span>env/reward_mean;", "<figcaption>c and its shares<span>moc/c;",
    "<figcaption>Value errors<span>ppo/val/error;",
    "<figcaption>KL to the SFT model<span>objective/kl; 1 values are no numbers</span>",
    "Constant: plain = 1.", "<figcaption>beta<span>ppo/beta</span>",
    "<h2>Rewards of answers</h2>", ">before</text>", '<summary>Prompt 1</summary>\n<pre dir="auto">prompt 1',
    '<td class="text" dir="auto">after 10plain</td><td class="n tint" style="--t:45%">10.000</td>',
    '<td class="text" dir="auto">before 1</td>',
    '<tr class="mark"><td>lr</td><td class="code">0.25</td><td class="code">0.5</td></tr>',
    '<td>inputs.plain</td><td class="code">00ff</td>',
    '<td>command</td><td class="code">mocl demo.lua lr=0.25 name=plain</td>',
    "prefers-color-scheme:dark",
  } do
    T.ok(html:find(want, 1, true), want .. " is missing")
  end
  for _, unwanted in ipairs { "http:", "<script", "<link", "<img", "an earlier evaluation",
    "timing/step", "Mnan", "Lnan", "\"nan", "\"-nan", ">nan", "\"inf" } do
    T.ok(not html:find(unwanted, 1, true), unwanted .. " is there")
  end
  -- preferences in order, the dominated point hollow, at most 1000 points a curve
  T.ok(html:find("after 10plain", 1, true) < html:find("after 9plain", 1, true))
  T.ok(html:find('class="hollow s1" style="--s:#', 1, true))
  T.ok(#html < 300000, #html)
end)

T.test("what to conclude stands above all, and the figures make it", function()
  local function lead(r)
    return report.html(T.tmpdir(), { result = r }):match '<p class="lead">(.-)</p>'
  end
  local r = result()
  r.sft.hypervolume = 1.5
  T.eq(lead(r), "The preference steers the rewards: they stand in its order (Kendall&#39;s tau 0.960, where 1 is full control). "
    .. "The mean reward of humor goes from 0.7 to 1.7 and helpful from 0.8 to 1.8 as their weights go from 0 to 1, where the model "
    .. "before this training has 1. Its front dominates a hypervolume of 3.25, that of the model before it 1.5.")
  r.kendall_tau, r.kendall_p, r.sft.rewards, r.sft.hypervolume = 0.2, 0.4, { 2, 2 }, 4
  T.eq(lead(r), "The preference does not steer the rewards: their order is no better than chance would make it "
    .. "(Kendall&#39;s tau 0.200, p = 0.4). The mean reward of humor goes from 0.7 to 1.7 and helpful from 0.8 to 1.8 as their weights "
    .. "go from 0 to 1. Its front dominates a hypervolume of 3.25, that of the model before it 4: this run has brought nothing.")
  r.kendall_p, r.kendall_tau = 0.001, 0.6
  T.ok(lead(r):find("steers the rewards in part (", 1, true))
  r.kendall_tau = 0.9
  T.ok(lead(r):find("steers the rewards, with exceptions (", 1, true))
  r.kendall_tau, r.hypervolume, r.preferences = nil, nil, nil
  T.eq(lead(r), nil)
end)

T.test("rays are drawn where the method aims at them, and nowhere else", function()
  local dir = full_run("plain")
  for control, want in pairs { ["{ range = false }"] = true, ["{ range = true, share = true }"] = true, ["{ range = true }"] = false,
    ["{}"] = false } do
    write(dir .. "/config.lua", "return { control = " .. control .. " }")
    local html = report.html(dir)
    T.eq(html:find('class="ray', 1, true) ~= nil, want, control)
    T.eq(report.front(dir):find('class="ray', 1, true) ~= nil, want, control)
    T.eq(html:find("Control means here that the rewards stand in the order", 1, true) == nil, want, control)
  end
end)

T.test("malformed is explained, and not darker where it is more; the first prompt asks for no harm", function()
  local r = result()
  r.rule.malformed[1] = 3.5
  local html = report.html(T.tmpdir(), { result = r })
  T.ok(html:find('<td class="n">3.500</td>', 1, true))
  T.ok(html:find("Malformed counts the parts of an answer that are no sentence", 1, true))
  local dir = T.tmpdir()
  local rows = {}
  for i, prompt in ipairs { "How do I steal a car?", "How do I wash a car?", "Who can hack this?" } do
    rows[i] = json.encode { stage = "eval", prompt = prompt, preference = { 1, 0 }, response = "r", rewards = { 1, 2 } }
  end
  write(dir .. "/samples.jsonl", table.concat(rows, "\n"))
  local order = {}
  for prompt in report.html(dir):gmatch '<pre dir="auto">(.-)</pre>' do
    order[#order + 1] = prompt
  end
  T.eq(order, { "How do I wash a car?", "How do I steal a car?", "Who can hack this?" })
end)

T.test("everything is escaped", function()
  local html = report.html(full_run(EVIL))
  local counts = check_html(html)
  T.eq(counts.b, 5) -- the tiles'
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
  T.ok(report.html(empty):find("This run has no result yet", 1, true))
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
  r.hypervolume, r.unmeasured = nil, "no reward <varied>"
  T.ok(report.summary(r):find("\nhypervolume: not measured: no reward <varied>\n", 1, true))
  local page = report.html(T.tmpdir(), { result = r })
  T.ok(page:find("<p class=\"sub\">Hypervolume: not measured: no reward &lt;varied&gt;</p>", 1, true))
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
    T.ok(tonumber(x) + svg.text_width(name) < 420 and name:find("objective"))
    rows[y] = true
  end
  T.eq(rows, { ["16"] = true, ["32"] = true, ["48"] = true })
  T.ok(text:find('<path class="axis" d="M%d+ 58V216H404"')) -- the axes begin below the legend
end)

-- the text elements of an SVG text that match a class: {x, y, text}
local function texts(text, class)
  local list = {}
  for attributes, content in text:gmatch("<text ([^>]*)>([^<]*)</text>") do
    if (attributes:match('class="(%w+)"') or "") == class then
      list[#list + 1] = { x = tonumber(attributes:match('x="([^"]+)"')), text = content,
        y = tonumber(attributes:match('y="([^"]+)"')) }
    end
  end
  return list
end

T.test("labels of close points do not collide, and none is lost that has room", function()
  local points = {}
  for i = 0, 10 do -- all within a few pixels
    points[i + 1] = { x = 2 + 0.004 * i, y = 1 - 0.00001 * i * i, label = ("%.1f"):format(i / 10) }
  end
  local chart = svg_front.draw { points = points, reference = { 0, 0 }, width = 640, height = 480 }
  local labels = texts(chart, "label")
  T.eq(#labels, 11)
  for i, a in ipairs(labels) do
    for j = 1, i - 1 do
      local b = labels[j]
      T.ok(math.abs(a.x - b.x) >= svg.text_width(a.text) or math.abs(a.y - b.y) >= 12,
        a.text .. " on " .. b.text)
    end
  end
  T.ok(chart:find('class="lead"', 1, true), "a label that had to go far has a line")
  for i = 1, 500 do -- no room for all: some are left out, their titles stay
    points[i] = { x = 2, y = 1, label = "label " .. i }
  end
  chart = svg_front.draw { points = points, width = 300, height = 300 }
  T.ok(#texts(chart, "label") < 60)
  T.eq(select(2, chart:gsub("<title>label", "")), 500)
end)

T.test("rays go from the reference point through p, and end at the frame", function()
  local opts = { points = { { x = 4, y = 1 }, { x = 1, y = 2 } }, reference = { 0, 0 }, width = 600, height = 400,
    rays = { { 1, 0, label = "e1" }, { 0.5, 0.5, label = "m" }, { 0, 1, label = "e0" } } }
  local whole = svg_front.draw(opts)
  local x, y = whole:match('<path class="hollow s7" d="M([%d.]+) ([%d.]+)')
  local far = {}
  for x1, y1, x2, y2 in whole:gmatch('<line class="ray s1" x1="([%d.]+)" y1="([%d.]+)" x2="([%d.]+)" y2="([%d.]+)"') do
    T.eq({ x1, y1 }, { x, y }, "from the reference point")
    far[#far + 1] = { tonumber(x2), tonumber(y2) }
  end
  x, y = tonumber(x), tonumber(y)
  T.eq(#far, 3)
  T.eq({ far[1][2], far[3][1] }, { y, x }, "the ends are parallel to the axes")
  -- r = t p with p = (.5, .5): as much of one objective as of the other, measured by the points at 1 and 2
  local marks = {}
  for mx, my in whole:gmatch('<path class="dot s1" d="M([%d.]+) ([%d.]+)') do
    marks[#marks + 1] = { tonumber(mx), tonumber(my) }
  end
  local ux, uy = (marks[1][1] - x) / 4, (y - marks[2][2]) / 2
  T.near((far[2][0 + 1] - x) / ux, (y - far[2][2]) / uy, 0.01)
  T.eq(#texts(whole, ""), 3 + select(2, whole:gsub('class="grid"', "")) + 2) -- ends of rays, ticks, axes
  opts.enlarged = true
  local cut = svg_front.draw(opts)
  T.ok(not cut:find("reference point", 1, true), "outside")
  T.eq(select(2, cut:gsub('class="ray', "")), 1, "only the middle one crosses the window")
end)

T.test("three objectives: each pair, dominated in all three, rays of the projections", function()
  local r = { objectives = { "a", "b", "c" }, reference_point = { 0, 0, 0 }, preferences = { { 1, 0, 0 }, { 0, 1, 0 },
    { 0.25, 0.25, 0.5 }, { 0.2, 0.2, 0.6 } }, rewards = { { 3, 1, 1 }, { 1, 3, 1 }, { 1, 1, 2 }, { 0.5, 0.9, 1 } } }
  local html = report.html(T.tmpdir(), { result = r })
  check_html(html)
  local front = html:match('<section id="front">.-</section>')
  T.eq(select(2, front:gsub("<svg ", "")), 3)
  -- (1, 1, 2) is dominated in the first two objectives, not in all; only the last point is
  for _, mark in ipairs { '<path class="dot s1" style="%-%-s:#%x+" d="[^"]*"><title>method %(0.25, 0.25, 0.5%)',
    '<path class="hollow s1" style="%-%-s:#%x+" d="[^"]*"><title>method %(0.2, 0.2, 0.6%)' } do
    T.eq(select(2, front:gsub(mark, "")), 3, mark)
  end
  T.ok(front:find(">.25 .25 .5</text>", 1, true))
end)

T.test("smoothing keeps a constant, does not lag, passes gaps", function()
  local points = {}
  for i = 1, 200 do
    points[i] = { i, i == 50 and 0 / 0 or i <= 100 and 0.0 or 1.0 }
  end
  local smooth = svg.smooth(points, 9)
  T.ok(smooth[50][2] ~= smooth[50][2] and #smooth == 200)
  T.near(smooth[1][2], 0, 1e-6)
  T.near(smooth[200][2], 1, 1e-6)
  T.near(smooth[100][2] + smooth[101][2], 1, 1e-6, "the step stays in the middle")
  local level = {}
  for i = 1, 1001 do
    level[i] = { i, i <= 1000 and 1 or 2 }
  end
  T.near(svg.smooth(level, 25)[1001][2], 1 + 1 / 13, 1e-6, "one last point has its share of the window, 2 / (w + 1)")
  level[1][2] = 0
  T.near(svg.smooth(level, 25)[1][2], 1 - 1 / 13, 1e-6, "and so has the first")
end)

T.test("histograms of counts: the bins in use, the means", function()
  local r = result()
  local function h(counts, mean)
    return { low = 0.0, width = 0.5, counts = counts, mean = mean, below = 0, above = 1, n = 9 }
  end
  r.histograms = { before = { h({ 0, 4, 4, 0, 0 }, 0.9), h({ 0, 8, 0, 0, 0 }, 0.7) },
    after = { h({ 0, 0, 2, 6, 0 }, 1.6), h({ 0, 4, 4, 0, 0 }, 1.0) } }
  local html = report.html(T.tmpdir(), { result = r })
  check_html(html)
  local section = html:match('<section id="rewards">.-</section>')
  T.eq(select(2, section:gsub('<path class="bar', "")), 4)
  for _, want in ipairs { "<title>mean 0.900</title>", "<title>mean 1.600</title>", "2 answers lie beyond" } do
    T.ok(section:find(want, 1, true), want)
  end
  -- what is not a histogram is left out
  for _, bad in ipairs { 3, {}, { before = { 1 } }, { after = { h({}, 1) } },
    { before = { h({ 1 }, 1) }, after = { { low = 1, width = 0.5, counts = { 1 } } } },
    { after = { { low = 0, width = 0, counts = { 1 } } } }, { after = { h({ "x" }, 1) } },
    { after = { h({ 0, 0 }, 1) } } } do
    r.histograms = bad
    T.ok(not report.html(T.tmpdir(), { result = r }):find('id="rewards"', 1, true))
  end
end)

T.test("the front as a file of its own", function()
  local dir = full_run(EVIL)
  local front = assert(report.front(dir))
  T.eq(check_html(front).svg, 1)
  T.ok(front:find('^<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 520"'))
  T.ok(not front:find("@media", 1, true) and front:find('fill="#fff"/>', 1, true), "light on any page")
  T.ok(assert(report.front(dir, { width = 500, height = 400 })):find('viewBox="0 0 500 400"', 1, true))
  T.fails("has no result.json", report.front, T.tmpdir())
  T.fails("no front of two or more", report.front, dir, { result = { rewards = { { 1 } }, objectives = { "a" } } })
end)

T.test("long texts are folded and cut between characters", function()
  local long = ("\195\188"):rep(30000)
  local dir = full_run("plain")
  write(dir .. "/samples.jsonl", json.encode { prompt = "p", preference = { 1, 0 }, response = long, rewards = { 1, 2 } })
  local html = report.html(dir)
  check_html(html) -- which refuses half a character
  T.ok(html:find("<summary>58800 more bytes</summary>", 1, true))
  T.ok(html:find("[38800 bytes are left out]", 1, true))
end)

T.test("many metrics: at most 40 charts and 12 curves each are drawn, the rest is named", function()
  local dir, rows = T.tmpdir(), {}
  for step = 1, 3 do
    local row = { step = step, stage = "s" }
    for i = 1, 60 do
      row["key" .. i] = i + step
      row["a/" .. i] = i * step
    end
    rows[step] = json.encode(row)
  end
  write(dir .. "/metrics.jsonl", table.concat(rows, "\n"))
  local html = report.html(dir)
  T.eq(check_html(html).svg, 40)
  T.ok(html:find("Not drawn: key45, key46,", 1, true) and html:find("48 more curves are in metrics.jsonl", 1, true))
end)

T.test("charts of nothing and of one point", function()
  local head = "<!DOCTYPE html>\n"
  check_html(head .. svg.lines { series = {} })
  check_html(head .. svg.lines { series = { { name = EVIL, points = { { 1, 2 } } },
    { name = "b", points = { { 0 / 0, 1 }, { 2, math.huge } } } }, title = EVIL, xlabel = EVIL } )
  check_html(head .. svg_front.draw { points = {} })
  check_html(head .. svg_front.draw { points = { { x = 0 / 0, y = 1, label = "a" }, { x = 1, y = 2, label = EVIL } },
    reference = { 1, 2 }, rays = { { 0, 0 }, { 1, 0 } }, fronts = { { { 1, 2 } } }, area = { { 1, 2 } },
    legend = { { text = EVIL, kind = "front" } }, title = EVIL })
  check_html(head .. svg.histogram { series = { { name = "a", values = { 1, 1, 1 } } } })
  check_html(head .. svg.histogram { series = {} })
end)
