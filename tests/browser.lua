--- browser: loads pages in headless Chromium, without a network. MOCL_BROWSER names another program.

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local json = require "mocl.json"

local browser = {}

local function found()
  for _, name in ipairs { os.getenv "MOCL_BROWSER" or "chromium", "chromium-browser", "google-chrome" } do
    if os.execute("command -v " .. child.quote(name) .. " >/dev/null 2>&1") then
      return name
    end
  end
end

-- Runs it; every host name fails to resolve, and what is not a host name goes to a proxy that is not there.
local function start(arguments, url)
  local name = found()
  if not name then
    T.skip "no chromium in PATH, and MOCL_BROWSER does not name one (Debian's package: chromium)"
  end
  local words = { "timeout 1800", child.quote(name), "--headless", "--no-sandbox", "--disable-gpu",
    "--hide-scrollbars", "--disable-background-networking", "--disable-component-update", "--no-first-run",
    "--disable-sync", '--host-resolver-rules="MAP * ~NOTFOUND"', "--proxy-server=127.0.0.1:9",
    "--enable-logging=stderr", "--user-data-dir=" .. child.quote(T.tmpdir()) }
  for _, a in ipairs(arguments) do
    words[#words + 1] = child.quote(a)
  end
  words[#words + 1] = child.quote("file://" .. url)
  local out, err, status = child.shell(table.concat(words, " "))
  T.eq(status, 0, err:sub(-600))
  local console = {} -- script errors and refused loads
  for line in err:gmatch("[^\n]*CONSOLE[^\n]*") do
    console[#console + 1] = line
  end
  return out, console
end

--- The page's DOM after it was loaded and came to rest, and what it wrote to the console.
function browser.dom(path)
  return start({ "--dump-dom", "--virtual-time-budget=10000" }, path)
end

--- A picture of the page as PNG text, and the console.
function browser.picture(path, width, height, ...)
  local png = T.tmpdir() .. "/page.png"
  local _, console = start({ "--screenshot=" .. png, ("--window-size=%d,%d"):format(width, height), ... }, path)
  return child.read(png), console
end

-- Appended to a copy of the page, whose policy against scripts is taken out: what is loaded, and where it lies.
local MEASURE = [[
<script>
addEventListener('load', function () {
  var r = { page_name: location.pathname.match(/[^\/]*$/)[0], resources: performance.getEntriesByType('resource').map(function (e) { return e.name }),
    title: document.title, text: document.body.innerText.length, charts: 0, hidden: 0, cut: [], overlaps: [], outside: [],
    sections: [], width: innerWidth, page: document.documentElement.scrollWidth };
  document.querySelectorAll('section').forEach(function (s) {
    if (s.getBoundingClientRect().height > 60) r.sections.push(s.id);
  });
  document.querySelectorAll('svg').forEach(function (s) {
    var frame = s.getBoundingClientRect(), boxes = [];
    if (frame.width > 200 && frame.height > 100) r.charts++;
    if (frame.width === 0) { r.hidden++; return; }
    s.querySelectorAll('text').forEach(function (t) {
      var b = t.getBoundingClientRect();
      if (!t.textContent) return;
      if (b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 1 ||
          b.bottom > frame.bottom + 1) r.outside.push(s.getAttribute('aria-label') + ': ' + t.textContent);
      boxes.forEach(function (o) {
        var w = Math.min(o.b.right, b.right) - Math.max(o.b.left, b.left);
        var h = Math.min(o.b.bottom, b.bottom) - Math.max(o.b.top, b.top);
        var least = 0.3 * Math.min(o.b.height, b.height);
        if (w > 1 && h > least) r.overlaps.push(s.getAttribute('aria-label') + ': ' + o.t + ' | ' + t.textContent);
      });
      boxes.push({ b: b, t: t.textContent });
    });
  });
  document.querySelectorAll('figure').forEach(function (f) {
    if (f.scrollWidth > f.clientWidth + 1) r.cut.push(f.innerText.slice(0, 40));
  });
  parent.postMessage(JSON.stringify(r), '*');
});
</script>
]]

--- Loads pages, a list of {html, width}, each in a frame of its width: what each measured of itself, and the console.
function browser.measure(pages)
  local dir, frames = T.tmpdir(), {}
  for i, page in ipairs(pages) do
    local bare, n = page[1]:gsub("<meta http%-equiv[^>]*>\n", "", 1)
    T.eq(n, 1)
    assert(fs.write(("%s/%d.html"):format(dir, i), bare:gsub("</body>", function()
      return MEASURE .. "</body>"
    end)))
    frames[i] = ('<iframe src="%d.html" style="width:%dpx;height:900px"></iframe>'):format(i, page[2])
  end
  assert(fs.write(dir .. "/frames.html", [[<!DOCTYPE html><body><pre id="measured"></pre><script>
var list = [];
addEventListener('message', function (e) {
  list.push(JSON.parse(e.data));
  // as numbers, so that nothing needs to be unescaped
  document.getElementById('measured').textContent =
    JSON.stringify(Array.from(new TextEncoder().encode(JSON.stringify(list))));
})</script>
]] .. table.concat(frames, "\n") .. "</body>"))
  local dom, console = browser.dom(dir .. "/frames.html")
  local bytes = json.decode(dom:match('<pre id="measured">(.-)</pre>') or "")
  T.ok(type(bytes) == "table", "the pages measured nothing: " .. table.concat(console, "\n"))
  local parts, measured = {}, {}
  for i, b in ipairs(bytes) do
    parts[i] = string.char(b)
  end
  for _, m in ipairs(json.decode(table.concat(parts))) do
    measured[tonumber(m.page_name:match("%d+"))] = m
  end
  T.eq(#measured, #pages)
  return measured, console
end

return browser
