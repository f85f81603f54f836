--- t: a small test library. Each file tests/test_<area>.lua registers tests; run.lua runs them.
-- Plain functions that raise on failure; a skip carries its reason and is counted.

local T = { list = {}, current_file = "?" }

local SKIP = {}

--- The devices that the tests of operations run on: the cpu, and the one whose memory only kernels may
-- touch. run.lua --device D makes it D alone.
T.devices = { "cpu", "fake" }

function T.test(name, f)
  T.list[#T.list + 1] = { file = T.current_file, name = name, f = f }
end

function T.skip(reason)
  error(setmetatable({ reason = reason }, SKIP), 0)
end

function T.is_skip(e)
  return getmetatable(e) == SKIP
end

local function show(v)
  if type(v) == "string" then
    return string.format("%q", #v > 200 and v:sub(1, 200) .. "..." or v)
  elseif type(v) == "table" then
    local parts, n = {}, 0
    for k, x in pairs(v) do
      n = n + 1
      if n > 12 then
        parts[#parts + 1] = "..."
        break
      end
      parts[#parts + 1] = (math.type(k) == "integer" and "" or tostring(k) .. "=") .. show(x)
    end
    return "{" .. table.concat(parts, ", ") .. "}"
  elseif math.type(v) == "float" then
    return string.format("%.9g", v)
  end
  return tostring(v)
end
T.show = show

local function same(a, b)
  if type(a) ~= "table" or type(b) ~= "table" then
    return a == b
  end
  for k, v in pairs(a) do
    if not same(v, b[k]) then
      return false
    end
  end
  for k in pairs(b) do
    if a[k] == nil then
      return false
    end
  end
  return true
end

local function fail(msg, text)
  error((msg and msg .. ": " or "") .. text, 3)
end

function T.ok(cond, msg)
  if not cond then
    fail(msg, "condition is " .. tostring(cond))
  end
  return cond
end

--- Deep equality.
function T.eq(got, want, msg)
  if not same(got, want) then
    fail(msg, "got " .. show(got) .. ", want " .. show(want))
  end
end

local function near(got, want, tol)
  if type(want) == "table" then
    if type(got) ~= "table" or #got ~= #want then
      return false
    end
    for i = 1, #want do
      if not near(got[i], want[i], tol) then
        return false, i
      end
    end
    return true
  end
  if got ~= got or want ~= want then
    return got ~= got and want ~= want
  end
  return got == want or math.abs(got - want) <= tol * math.max(1, math.abs(want))
end

--- |got - want| <= tol * max(1, |want|), also for nested arrays.
function T.near(got, want, tol, msg)
  local ok, at = near(got, want, tol)
  if not ok then
    fail(msg, string.format("got %s, want %s within %g%s", show(got), show(want), tol,
      at and " (first difference in entry " .. at .. ")" or ""))
  end
end

--- f(...) must raise an error whose text matches the pattern.
function T.raises(pattern, f, ...)
  local ok, e = pcall(f, ...)
  if ok then
    fail(nil, "no error, wanted one matching " .. show(pattern))
  end
  if T.is_skip(e) then
    error(e, 0)
  end
  if not tostring(e):find(pattern) then
    fail(nil, "error " .. show(tostring(e)) .. " does not match " .. show(pattern))
  end
end

--- f(...) must return nil, message with the message matching the pattern.
function T.fails(pattern, f, ...)
  local r, e = f(...)
  if r ~= nil then
    fail(nil, "no failure, wanted one matching " .. show(pattern))
  end
  if not tostring(e):find(pattern) then
    fail(nil, "failure " .. show(tostring(e)) .. " does not match " .. show(pattern))
  end
end

--- Path under ../shared/data; skips the test where it is absent.
function T.shared(path)
  local full = (os.getenv("MOCL_SHARED") or "../shared") .. "/data/" .. path
  local f = io.open(full, "rb")
  if not f then
    T.skip("no " .. full)
  end
  f:close()
  return full
end

--- The shared object of the host emulator that belongs to the program under test; skips where there is none.
function T.emulator()
  local dir = arg[-1]:match("^(.*)/[^/]*$") or "."
  for _, path in ipairs { dir .. "/emu/mocl_cuda.so", dir .. "/build/emu/mocl_cuda.so" } do
    local f = io.open(path, "rb")
    if f then
      f:close()
      return path
    end
  end
  T.skip("no emulator: make emulator builds it (a C++ compiler is needed)")
end

local tmp_count = 0
--- A fresh directory, removed by the runner.
function T.tmpdir()
  tmp_count = tmp_count + 1
  if not T.tmp_root then
    local p = assert(io.popen("mktemp -d"))
    T.tmp_root = p:read("l")
    p:close()
  end
  local dir = T.tmp_root .. "/" .. tmp_count
  assert(os.execute("mkdir -p '" .. dir .. "'"))
  return dir
end

return T
