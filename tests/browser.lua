--- browser: loads pages in headless Chromium, without a network. MOCL_BROWSER names another program.

local T = require "t"
local child = require "child"

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

return browser
