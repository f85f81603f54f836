--- hypervolume.lua [rounds=5] [seconds=0.1] [n=1000] [only=PATTERN] - mocl's exact hypervolume beside moocore's on the same points,
-- in turns within one run. The peer is $MOCL_BENCH_PYTHON or python3, with moocore 0.3.2 and numpy; without it mocl is measured alone.
-- A figure is the median over the rounds of the processor time of one call (both sides run on one thread), as many calls as last
-- `seconds`; the ratio is the median of the rounds' ratios. mocl is given Lua lists and moocore a NumPy array. Both must find the
-- same volume within 1e-12. docs/benchmarks/hypervolume.md has the table.

local dir = arg[0]:match("^(.*)/[^/]*$") or "."
local fs = require "mocl.fs"
local json = require "mocl.json"
local metrics = require "mocl.metrics"
local rng = require "mocl.rng"

local o = { rounds = 5, seconds = 0.1, n = 1000, only = "" }
for _, word in ipairs(arg) do
  local key, value = word:match("^(%w+)=(.*)$")
  if o[key] == nil or type(o[key]) == "number" and not (tonumber(value) and tonumber(value) > 0) then
    io.stderr:write(("hypervolume: cannot use the argument '%s' (rounds=, seconds=, n=, only=)\n"):format(word))
    os.exit(2)
  end
  o[key] = type(o[key]) == "number" and tonumber(value) or value
end
local rounds, n = math.tointeger(o.rounds), math.tointeger(o.n)

-- ---- points, larger being better, reference 0 ----

-- a direction, as |normal| numbers of length 1
local function direction(r, d)
  local p, square = {}, 0
  for k = 1, d do
    p[k] = math.abs(r:normal())
    square = square + p[k] ^ 2
  end
  for k = 1, d do
    p[k] = p[k] / square ^ .5
  end
  return p
end

local shapes = {
  linear = function(r, d) return r:dirichlet(d) end,
  sphere = direction,
  convex = function(r, d) -- the same sphere, seen from the other side
    local p = direction(r, d)
    for k = 1, d do
      p[k] = 1 - p[k]
    end
    return p
  end,
  random = function(r, d) -- what is not dominated of points between two spheres
    local p, radius = direction(r, d), 1 - (d == 3 and .05 or .2) * r:uniform()
    for k = 1, d do
      p[k] = p[k] * radius
    end
    return p
  end,
}

local function front(shape, count, d)
  local r, points = rng.new(d, "hypervolume " .. shape), {}
  for i = 1, shape == "random" and 60 * count or count do
    points[i] = shapes[shape](r, d)
  end
  if shape == "random" then
    local kept = {}
    for i, k in ipairs(metrics.nondominated(points)) do
      kept[i] = i <= count and points[k] or nil
    end
    points = kept
  end
  assert(#points == count, shape)
  return points
end

-- ---- the peer ----

local function quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end
local function capture(command)
  local p = assert(io.popen(command))
  local text = p:read("a")
  return p:close() and text or nil
end
local work = assert(capture("mktemp -d")):gsub("%s+$", "")
local python, peer = os.getenv("MOCL_BENCH_PYTHON") or "python3", nil
if capture(quote(python) .. " -c 'import moocore' 2>/dev/null") then
  assert(os.execute("mkfifo " .. work .. "/requests"))
  local answers = assert(io.popen(("env OMP_NUM_THREADS=1 %s %s/hypervolume_peer.py < %s/requests"):format(quote(python), quote(dir), work)))
  local requests = assert(io.open(work .. "/requests", "w"))
  local function receive()
    local line = answers:read("l")
    return line and assert(json.decode(line)) or error("the peer ended; its message is above", 0)
  end
  peer = { about = receive() }
  function peer.ask(request)
    requests:write(request, "\n")
    requests:flush()
    return receive()
  end
  function peer.close()
    requests:write("quit\n")
    requests:close()
    answers:close()
  end
else
  io.stderr:write(python, " has no moocore: mocl is measured alone. To compare: python3 -m venv DIR && DIR/bin/pip install moocore==0.3.2, ",
    "and MOCL_BENCH_PYTHON=DIR/bin/python\n")
end

-- ---- measuring ----

local function median(list)
  local s = table.move(list, 1, #list, 1, {})
  table.sort(s)
  return #s % 2 == 1 and s[#s // 2 + 1] or (s[#s // 2] + s[#s // 2 + 1]) / 2
end

-- how many calls last as long as asked for, by the time of one
local function calls(seconds)
  return math.max(1, math.ceil(o.seconds / math.max(seconds, 1e-6)))
end

local function measure(shape, count, d)
  local points, reference = front(shape, count, d), {}
  for k = 1, d do
    reference[k] = 0
  end
  local function mine(times)
    local from = os.clock()
    for _ = 1, times do
      metrics.hypervolume(points, reference)
    end
    return (os.clock() - from) / times
  end
  local volume, ours, theirs, ratios, difference = metrics.hypervolume(points, reference), {}, {}, {}, nil
  local m, k = calls(mine(3)), nil
  if peer then
    local file = assert(io.open(work .. "/points", "wb"))
    file:write(("<dd"):pack(count, d))
    for _, p in ipairs(points) do
      file:write(("<" .. ("d"):rep(d)):pack(table.unpack(p)))
    end
    file:close()
    difference = math.abs(peer.ask("load " .. work .. "/points").volume / volume - 1)
    assert(difference <= 1e-12, ("%s, %d objectives: the volumes differ by %g of their size"):format(shape, d, difference))
    k = calls(peer.ask("run 1").seconds)
  end
  for i = 1, rounds do
    ours[i] = mine(m)
    if peer then
      theirs[i] = peer.ask("run " .. k).seconds
      ratios[i] = theirs[i] / ours[i]
    end
  end
  io.write(("| %d | %s | %d | %.3f |"):format(d, shape, count, 1e3 * median(ours)))
  if peer then
    io.write((" %.3f | %.1f (%.1f to %.1f) | %.0e |"):format(1e3 * median(theirs), median(ratios), math.min(table.unpack(ratios)),
      math.max(table.unpack(ratios)), difference))
  end
  io.write("\n")
  io.flush()
end

local ok, message = xpcall(function()
  io.write("| objectives | shape | points | mocl, ms |", peer and " moocore, ms | ratio (least to most) | relative difference |" or "", "\n")
  io.write("|---|---|---|---|", peer and "---|---|---|" or "", "\n")
  for d = 3, 5 do
    for _, shape in ipairs { "linear", "sphere", "convex", "random" } do
      if (d .. shape):find(o.only) then
        measure(shape, n, d)
      end
    end
  end
  for _, d in ipairs { 6, 8 } do
    if (d .. "sphere"):find(o.only) then
      measure("sphere", math.min(n, 200), d)
    end
  end
end, debug.traceback)
if peer then
  peer.close()
end
fs.remove_tree(work)
if not ok then
  io.stderr:write("hypervolume: ", message, "\n")
  os.exit(1)
end
