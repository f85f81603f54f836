--- run.lua [-k PATTERN] [-t TEXT] [-v] [--slow] [--device D] [--part K/N] - runs tests/test_*.lua; the last line counts
-- them. -k: of the files whose name contains PATTERN; -t: of the tests whose name contains TEXT.
-- With --device (cuda:0) the tests that run once for each device run on that one, and no others. --part 2/3 takes the
-- second of every three files, so that processes can share the tests. Exit status 1 if any failed or none ran. After each
-- test two collections must bring the number of live tensors back to where it was, and no guard bytes behind a block may
-- have been written (devices of the tests).

local dir = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = dir .. "/?.lua;" .. package.path
local T = require "t"

local pattern, text, verbose, device
local part, parts = 1, 1
T.slow = os.getenv("MOCL_SLOW") ~= nil
local i = 1
while arg[i] do
  if arg[i] == "-k" then
    pattern = arg[i + 1]
    i = i + 1
  elseif arg[i] == "-t" then
    text = arg[i + 1]
    i = i + 1
  elseif arg[i] == "-v" then
    verbose = true
  elseif arg[i] == "--slow" then
    T.slow = true
  elseif arg[i] == "--part" then
    part, parts = (arg[i + 1] or ""):match("^(%d+)/(%d+)$")
    part, parts = assert(math.tointeger(part), "--part wants K/N"), math.tointeger(parts)
    i = i + 1
  elseif arg[i] == "--device" then
    device = arg[i + 1]
    T.devices = { device }
    i = i + 1
  else
    io.stderr:write("run.lua: unknown argument " .. arg[i] .. "\n")
    os.exit(2)
  end
  i = i + 1
end

local files = {}
local ls = assert(io.popen("ls '" .. dir .. "'"))
for name in ls:lines() do
  if name:match("^test_.*%.lua$") and (not pattern or name:find(pattern, 1, true)) then
    files[#files + 1] = name
  end
end
ls:close()
for k = #files, 1, -1 do
  if (k - part) % parts ~= 0 then
    table.remove(files, k)
  end
end

local passed, failed, skipped = 0, 0, 0
for _, name in ipairs(files) do
  T.current_file = name
  local chunk, err = loadfile(dir .. "/" .. name)
  local ok = chunk ~= nil
  if ok then
    ok, err = xpcall(chunk, debug.traceback)
  end
  if not ok then
    failed = failed + 1
    print("FAIL " .. name .. " does not load: " .. tostring(err))
  end
end

local now = require("mocl.sys").now
local has_tensor, tensor = pcall(require, "mocl.tensor")
-- tensors that live, and blocks behind whose end a kernel wrote so far
local function live()
  collectgarbage()
  collectgarbage()
  local m = has_tensor and tensor.memory() or { tensors = 0, broken_guards = 0 }
  return m.tensors, m.broken_guards
end

for _, part_of_name in ipairs { device and " on " .. device or "", text or "" } do
  local list = {}
  for _, t in ipairs(T.list) do
    if t.name:find(part_of_name, 1, true) then
      list[#list + 1] = t
    end
  end
  T.list = list
end

for _, t in ipairs(T.list) do
  local before, broken_before = live()
  local start = now()
  local ok, e = xpcall(t.f, function(e)
    return T.is_skip(e) and e or debug.traceback(e, 2)
  end)
  local label = t.file:gsub("%.lua$", "") .. ": " .. t.name
  if ok then
    local after, broken = live()
    if after ~= before then
      ok, e = false, ("%d tensors were live before, %d after"):format(before, after)
    elseif broken ~= broken_before then
      ok, e = false, ("%d blocks were written behind their end"):format(broken - broken_before)
    end
  end
  if ok then
    passed = passed + 1
    if verbose then
      print(("ok   %s (%.2f s)"):format(label, now() - start))
    end
  elseif T.is_skip(e) then
    skipped = skipped + 1
    print("skip " .. label .. ": " .. e.reason)
  else
    failed = failed + 1
    print("FAIL " .. label .. "\n     " .. tostring(e):gsub("\n", "\n     "))
  end
end

if T.tmp_root then
  os.execute("rm -rf '" .. T.tmp_root .. "'")
end
print(("%d passed, %d failed, %d skipped"):format(passed, failed, skipped))
os.exit(failed == 0 and passed + skipped > 0, true)
