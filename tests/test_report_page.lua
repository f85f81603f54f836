-- The report of a real run as a reader sees it: its structure always, and in headless Chromium where there is
-- one: nothing is loaded, no script fails, no text lies on another, it fits a phone, it is not blank.

local T = require "t"
local browser = require "browser"
local child = require "child"
local fs = require "mocl.fs"
local html_check = require "html_check"
local json = require "mocl.json"

local SECTIONS = { "front", "samples", "control", "results", "training", "rewards", "configuration", "provenance" }

local runs = {}

-- the directory of a small run, made once for each number of objectives
local function run(objectives)
  if not runs[objectives] then
    local dir = T.tmpdir() .. "/run"
    local _, err, status = child.mocl { "recipes/moc_hh.lua", "preset=smoke", "quiet=true", "out=" .. dir,
      "objectives=" .. objectives }
    T.eq(status, 0, err)
    runs[objectives] = dir
  end
  return runs[objectives]
end

local function copy(dir)
  local to = T.tmpdir()
  for _, name in ipairs(assert(fs.list(dir))) do
    if fs.exists(dir .. "/" .. name) == "file" then
      assert(fs.write(to .. "/" .. name, child.read(dir .. "/" .. name)))
    end
  end
  return to
end

local function make_report(dir, ...)
  return child.mocl { "report", "run=" .. dir, ... }
end

-- What a language model, a diverged run and a hostile prompt can leave in the files.
local function hostile(dir)
  local to = copy(dir)
  local rows = {}
  for line in child.read(dir .. "/samples.jsonl"):gmatch("[^\n]+") do
    local row = json.decode(line)
    if #rows % 3 == 0 then
      row.prompt = "</pre></section><script>document.title='broken'</script>" .. ("long"):rep(4000)
      row.response = "\0\27[31m\u{202E}<img src=x onerror=\"document.title='broken'\">&lt;\u{FFFD} "
        .. ("one very long answer "):rep(2000)
    end
    row.rewards[1] = #rows % 2 == 0 and json.null or row.rewards[1]
    rows[#rows + 1] = json.encode(row)
  end
  -- raw bytes that are neither UTF-8 nor JSON's business
  rows[#rows + 1] = '{"prompt":"\255\254 bad","response":"\192","preference":[0,1],"rewards":[1,2]}'
  assert(fs.write(to .. "/samples.jsonl", table.concat(rows, "\n")))
  rows = {}
  for step = 1, 700 do
    rows[step] = json.encode { stage = "moc", step = step, ["objective/kl"] = step % 9 == 0 and json.null or step,
      ["env/reward_mean/humor"] = (-1) ^ step * 1e300, ["moc/c"] = json.null, ["<b>x</b>/y"] = 1e-300 * step,
      ["one/point"] = step == 5 and 1 or nil }
  end
  assert(fs.write(to .. "/metrics.jsonl", table.concat(rows, "\n")))
  return to
end

-- ---- structure ----

T.test("a run leaves a report with every section, and its front as a picture", function()
  for _, objectives in ipairs { "humor,helpful", "humor,helpful,harmless" } do
    local dir = run(objectives)
    local html = child.read(dir .. "/report.html")
    local counts = html_check.check(html)
    for _, id in ipairs(SECTIONS) do
      T.ok(html:find('<section id="' .. id .. '">', 1, true), id .. " is there")
      T.ok(html:find('<a href="#' .. id .. '">', 1, true), id .. " is linked")
    end
    T.eq(counts.section, #SECTIONS)
    T.ok(counts.svg > 20 and #html < 1e6, counts.svg .. " charts, " .. #html .. " bytes")
    local picture = child.read(dir .. "/front.svg")
    T.eq(html_check.check(picture).svg, 1)
    T.ok(picture:find('^<svg xmlns="http://www.w3.org/2000/svg"'))
  end
end)

T.test("mocl report makes the same files again", function()
  local dir = copy(run "humor,helpful")
  local want, front = child.read(dir .. "/report.html"), child.read(dir .. "/front.svg")
  assert(fs.remove(dir .. "/report.html"))
  assert(fs.remove(dir .. "/front.svg"))
  local out, err, status = make_report(dir, "front=" .. dir .. "/picture.svg")
  T.eq({ out, err, status },
    { dir .. "/report.html\n" .. dir .. "/front.svg\n" .. dir .. "/picture.svg\n", "", 0 })
  T.ok(child.read(dir .. "/report.html") == want and child.read(dir .. "/front.svg") == front)
  T.ok(child.read(dir .. "/picture.svg") == front)
end)

T.test("mocl report: a run without a result, and mistakes", function()
  local dir = copy(run "humor,helpful")
  assert(fs.remove(dir .. "/result.json"))
  assert(fs.remove(dir .. "/front.svg"))
  local out, err, status = make_report(dir)
  T.eq({ out, status }, { dir .. "/report.html\n", 0 }, err)
  local html = child.read(dir .. "/report.html")
  html_check.check(html)
  for _, want in ipairs { "no result yet", "step 3 of stage moc", "resume=auto", 'id="training"',
    "<th class=\"n\">helpful</th>" } do
    T.ok(html:find(want, 1, true), want)
  end
  for _, id in ipairs { "front", "control", "results" } do
    T.ok(not html:find('id="' .. id, 1, true), id)
  end
  for _, c in ipairs {
    { "holds no run", "/nowhere" },
    { "has no result.json; its run has not ended", dir, "front=" .. dir .. "/picture.svg" },
    { "unknown option 'fornt'", dir, "fornt=x" },
  } do
    out, err, status = make_report(table.unpack(c, 2))
    T.eq(status, 1)
    T.ok(err:find(c[1], 1, true), err)
  end
  out, err, status = child.mocl { "report" }
  T.eq(status, 1)
  T.ok(err:find("option run is missing", 1, true), err)
end)

T.test("hostile samples and odd metrics are text, and the file stays small", function()
  local dir = hostile(run "humor,helpful")
  local _, err, status = make_report(dir)
  T.eq(status, 0, err)
  local html = child.read(dir .. "/report.html")
  html_check.check(html)
  T.ok(#html < 2e6, #html)
  for _, want in ipairs { "&lt;script&gt;", "more bytes</summary>", "bytes are left out]", "values are no numbers",
    "no numbers</text>", "&lt;b&gt;x&lt;/b&gt;", "default-src &#39;none&#39;" } do
    want = want:gsub("&#39;", "'")
    T.ok(html:find(want, 1, true), want)
  end
end)

-- ---- in a browser ----

T.test("in a browser: the measurements can fail", function()
  local list, console = browser.measure { { [[<!DOCTYPE html><html><head><title>t</title>
<meta http-equiv="x">
</head><body style="width:1000px"><img src="http://127.0.0.1:1/x.png"><svg width="300" height="200" aria-label="c">
<text x="10" y="50">one</text><text x="12" y="52">two</text><text x="290" y="90">three</text></svg>
<script>nosuch()</script></body></html>]], 400 } }
  local m = list[1]
  T.eq({ m.resources, m.overlaps, m.outside, m.charts }, { { "http://127.0.0.1:1/x.png" }, { "c: one | two" },
    { "c: three" }, 1 })
  T.ok(m.page > m.width and #console >= 1, "too wide, and a script failed")
end)

T.test("in a browser: nothing is loaded, all is there, no label lies on another", function()
  local reports = { run "humor,helpful", run "humor,helpful,harmless", hostile(run "humor,helpful") }
  T.eq(select(3, make_report(reports[3])), 0)
  local pages = {}
  for _, dir in ipairs(reports) do
    for _, width in ipairs { 360, 1300 } do
      pages[#pages + 1] = { child.read(dir .. "/report.html"), width }
    end
  end
  local measured, console = browser.measure(pages)
  T.eq(console, {})
  for i, m in ipairs(measured) do
    local html, at = pages[i][1], ("report %d at %d pixels"):format((i + 1) // 2, pages[i][2])
    T.eq(m.width, pages[i][2], at)
    T.eq(m.resources, {}, at)
    T.eq(m.sections, SECTIONS, at)
    T.eq(m.title, "moc_hh", at)
    T.eq(m.overlaps, {}, at)
    T.eq(m.outside, {}, at)
    T.eq(m.charts + m.hidden, select(2, html:gsub("<svg ", "")), at)
    T.eq(m.hidden, select(2, html:gsub('<div class="phone">', "")), at .. ": a front is drawn for the desk and for a phone, and one is shown")
    T.eq(m.cut, {}, at .. ": no chart is wider than the page")
    T.ok(m.text > 5000, at)
    T.ok(m.page <= m.width, at .. ": the page is " .. m.page .. " wide")
  end
end)

local function base64(s)
  local alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
  local out = {}
  for i = 1, #s, 3 do
    local a, b, c = s:byte(i, i + 2)
    local v = a << 16 | (b or 0) << 8 | (c or 0)
    for k = 0, 3 do
      local at = (v >> (18 - 6 * k) & 63) + 1
      out[#out + 1] = i + k - 1 <= #s and alphabet:sub(at, at) or "="
    end
  end
  return table.concat(out)
end

-- The browser decodes its own pictures: for each its distinct colours and mean brightness, 0 to 255.
local function colors(pictures)
  local path, images = T.tmpdir() .. "/colors.html", {}
  for i, png in ipairs(pictures) do
    images[i] = '<img src="data:image/png;base64,' .. base64(png) .. '">'
  end
  assert(fs.write(path, '<!DOCTYPE html><body><pre id="measured"></pre>' .. table.concat(images)
    .. [[<script>addEventListener('load', function () {
  var out = [];
  document.querySelectorAll('img').forEach(function (i) {
    var c = document.createElement('canvas'), seen = new Set(), sum = 0;
    c.width = i.naturalWidth; c.height = i.naturalHeight;
    var g = c.getContext('2d'); g.drawImage(i, 0, 0);
    var d = g.getImageData(0, 0, c.width, c.height).data;
    for (var k = 0; k < d.length; k += 4) {
      seen.add(d[k] << 16 | d[k + 1] << 8 | d[k + 2]); sum += (d[k] + d[k + 1] + d[k + 2]) / 3;
    }
    out.push([seen.size, sum / (d.length / 4)]);
  });
  document.getElementById('measured').textContent = JSON.stringify(out);
})</script></body>]]))
  return json.decode(browser.dom(path):match('<pre id="measured">(.-)</pre>') or "")
end

T.test("in a browser: pictures are not blank, light or dark, the same without scripts", function()
  local dir = copy(run "humor,helpful")
  local function page(name, body)
    assert(fs.write(dir .. "/" .. name, "<!DOCTYPE html><body>" .. body .. "</body>"))
    return dir .. "/" .. name
  end
  local html = child.read(dir .. "/report.html")
  local light, console = browser.picture(dir .. "/report.html", 1300, 1000)
  T.eq(console, {}, "the page as it is, with its policy")
  local dark = browser.picture(dir .. "/report.html", 1300, 1000, "--blink-settings=preferredColorScheme=0")
  local front = browser.picture(dir .. "/front.svg", 720, 520)
  local blank = browser.picture(page("blank.html", ""), 1300, 1000)
  local c = colors { light, dark, front, blank }
  T.ok(c[1][1] > 300 and c[1][2] > 200, "light: " .. T.show(c[1]))
  T.ok(c[2][1] > 300 and c[2][2] < 80, "dark: " .. T.show(c[2]))
  T.ok(c[3][1] > 200 and c[3][2] > 200, "front.svg: " .. T.show(c[3]))
  T.eq(c[4], { 1, 255 }, "a blank page has one colour")

  -- the policy of the page forbids all scripts: what was seen above is what is seen without them
  local policy = assert(html:match("<meta http%-equiv[^>]*>\n"))
  assert(fs.write(dir .. "/free.html", (html:gsub("<meta http%-equiv[^>]*>\n", "", 1))))
  T.ok(browser.picture(dir .. "/free.html", 1300, 1000) == light, "and with them")
  assert(fs.write(dir .. "/policy.html", "<!DOCTYPE html><html><head>" .. policy
    .. "</head><body><p>text</p><script>document.body.textContent = 'changed'</script></body></html>"))
  local dom, refused = browser.dom(dir .. "/policy.html")
  T.ok(dom:find("<p>text</p>", 1, true) and not dom:find("<body>changed", 1, true) and #refused > 0, dom)
end)
