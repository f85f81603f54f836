--- run.lua [rounds=5] [seconds=0.3] [threads=2] [only=PATTERN] [tiny=true] [against=DIR] [clock=cpu] [json=PATH]
-- [page=PATH] - the benchmark: mocl and PyTorch eager side by
-- side in one run, A B A B, both on as many threads. make bench runs it; docs/benchmarks/cpu.md has its table.
--
-- The peer is $MOCL_BENCH_PYTHON or python3 with torch; without it mocl's own side is measured. Before a case is timed both
-- sides must find the same numbers from the same weights. Each figure is a median over the rounds; a ratio is the median of
-- the rounds' ratios. json= receives everything; page= is a Markdown file whose part between the marks is replaced.
-- against= names another built checkout of mocl, whose program then runs the same cases by turns in place of PyTorch
-- (serve.lua); pages are left as they are. There, clock=cpu with threads=1 counts the processor's time that a process used in
-- place of elapsed time, for a machine that has other work; the phases of a case are left out then.

local dir = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = dir .. "/?.lua;" .. package.path

local figures = require "figures"
local fs = require "mocl.fs"
local json = require "mocl.json"
local sides = require "sides"
local sys = require "mocl.sys"

local capture, median, quote, spread = sides.capture, sides.median, sides.quote, sides.spread

local o, refuse, count = sides.arguments("bench",
  "rounds=5 seconds= threads=2 only= tiny= against= clock= json= page=")
local rounds, THREADS = count "rounds", count "threads"
if o.clock ~= "" and (o.clock ~= "cpu" or o.against == "" or THREADS > 1) then
  refuse("clock=%s: clock=cpu it is, with against= and threads=1", o.clock)
end
local tiny = o.tiny == "true"
local LEAST = tonumber(o.seconds) or tiny and 0 or 1 -- seconds a timed stretch lasts at least
sys.set_threads(THREADS)

local work = sides.directory()

-- ---- the peer: a process that answers requests ----

local python = os.getenv("MOCL_BENCH_PYTHON") or "python3"
-- Debian's OpenBLAS falls back to SSE kernels on processors it does not know: name the kernels
local wide = (capture("grep -m1 -o avx512f /proc/cpuinfo 2>/dev/null") or "") ~= ""
local environment = ("env %s OMP_NUM_THREADS=%d "):format(wide and "OPENBLAS_CORETYPE=SkylakeX" or "-u OPENBLAS_CORETYPE", THREADS)

local function serving(command)
  return sides.serving(command, work .. "/requests")
end

local peer
if o.against ~= "" then
  if not fs.exists(o.against .. "/mocl") then
    io.stderr:write(("bench: against=%s: there is no program mocl there; build that checkout first\n"):format(o.against))
    os.exit(2)
  end
elseif capture(environment .. quote(python) .. " -c 'import torch' 2>/dev/null") then
  peer = serving(("%s%s %s %d"):format(environment, quote(python), quote(dir .. "/peer.py"), THREADS))
  peer.about = peer.receive()
else
  io.stderr:write(([[%s has no torch: mocl's own side is measured alone. To compare, give a Python that has it:
  python3 -m venv DIR && DIR/bin/pip install torch     (or, on Debian, apt-get install python3-torch)
  MOCL_BENCH_PYTHON=DIR/bin/python make bench
]]):format(python))
end

-- ---- one case ----

local function timed(case, state, n)
  local now = o.clock == "cpu" and os.clock or sys.now
  local from = now()
  case.run(state, n)
  return now() - from
end

-- how many runs last long enough
local function enough(once)
  local n = 1
  while n < 1 << 20 do
    local seconds = once(n)
    if seconds >= LEAST then
      return n
    end
    n = math.max(2 * n, seconds > 0 and math.ceil(n * LEAST / seconds * .9) or 0)
    if LEAST == 0 then
      return 1
    end
  end
  return n
end

local function compare(case, ours, theirs)
  assert(#ours == #theirs, ("%s: mocl found %d numbers, the peer %d"):format(case.name, #ours, #theirs))
  for i, x in ipairs(ours) do
    if not (math.abs(x - theirs[i]) <= case.bound * math.max(1, math.abs(x))) then
      error(("%s: number %d is %.9g here and %.9g there: the two sides do not compute the same"):format(case.name, i, x, theirs[i]), 0)
    end
  end
end

local function phases_of(list)
  local out = {}
  for name in pairs(list[1]) do
    local one = {}
    for i, p in ipairs(list) do
      one[i] = p[name]
    end
    out[name] = median(one)
  end
  return out
end

local function measure(case)
  local description, state = case.setup(work)
  local ours = case.check(state)
  local before = o.against ~= "" and serving(("%s %s %s %s %s %d %s"):format(quote(o.against .. "/mocl"), quote(dir .. "/serve.lua"),
    quote(o.against .. "/tests/bench"), case.name, tostring(tiny), THREADS, quote(work)))
  if before then
    before.receive()
  elseif peer then
    local file = ("%s/%s.json"):format(work, case.name)
    assert(json.save(file, description))
    compare(case, ours, peer.ask("setup", file).check)
  end
  local function mine(n)
    return timed(case, state, n)
  end
  local function ask(n)
    if before then
      return before.ask(n)
    end
    return peer.ask("run", n)
  end
  local function seconds_of(answer)
    return o.clock == "cpu" and answer.cpu or answer.seconds
  end
  local function other(n)
    return seconds_of(ask(n))
  end
  mine(1)
  local n, m, a, b, ratio, phases, peer_phases = enough(mine), nil, {}, {}, {}, {}, {}
  if peer or before then
    other(1)
    m = enough(other)
  end
  for r = 1, rounds do
    a[r] = mine(n) / n * case.scale
    if case.phases and o.clock == "" then
      phases[r] = {}
      for name, seconds in pairs(case.phases(state)) do
        phases[r][name] = seconds / n * case.scale
      end
    end
    if m then
      local answer = ask(m)
      b[r] = seconds_of(answer) / m * case.scale
      ratio[r] = b[r] / a[r]
      peer_phases[r] = {}
      for name, seconds in pairs(answer.phases) do
        peer_phases[r][name] = seconds / m * case.scale
      end
    end
  end
  if before then
    before.close()
  end
  return { name = case.name, title = case.title, unit = case.unit, goal = case.goal, stretch = case.stretch, flops = case.flops,
    mocl = spread(a), peer = m and spread(b) or nil, ratio = m and spread(ratio) or nil,
    phases = phases[1] and phases_of(phases) or nil, peer_phases = phases[1] and m and phases_of(peer_phases) or nil }
end

-- ---- whole processes ----

local FIRST_STEP = [[local nn, optim, tensor = require "mocl.nn", require "mocl.optim", require "mocl.tensor"
local net = nn.MLP({ 2, 256, 256, 256, 2 }, { seed = 0 })
local opt = optim.adamw(net:parameters())
nn.mse_loss(net(tensor.randn({ 64, 2 }, { seed = 1 })), tensor.zeros { 64, 2 }):backward()
opt:step()]]
local PEER_FIRST_STEP = [[import torch
net = torch.nn.Sequential(torch.nn.Linear(2, 256), torch.nn.ReLU(), torch.nn.Linear(256, 256), torch.nn.ReLU(),
                          torch.nn.Linear(256, 256), torch.nn.ReLU(), torch.nn.Linear(256, 2))
opt = torch.optim.AdamW(net.parameters())
torch.nn.functional.mse_loss(net(torch.randn(64, 2)), torch.zeros(64, 2)).backward()
opt.step()]]

local function process(name, title, ours, theirs, goal)
  local function seconds(command)
    local from = sys.now()
    assert(os.execute(command .. " >/dev/null"), command)
    return sys.now() - from
  end
  local a, b, ratio = {}, {}, {}
  for r = 0, rounds do -- the first pair warms the page cache
    a[r] = seconds(ours) * 1e3
    if peer then
      b[r] = seconds(environment .. theirs) * 1e3
      ratio[r] = b[r] / a[r]
    end
  end
  return { name = name, title = title, unit = "ms", limit = goal, mocl = spread(a), peer = peer and spread(b) or nil,
    ratio = peer and spread(ratio) or nil }
end

-- ---- all of it ----

local result = { date = os.date("!%Y-%m-%d %H:%M UTC"), rounds = rounds, threads = THREADS, tiny = tiny or nil, cases = {}, load = fs.read("/proc/loadavg"),
  machine = sys.env(), peer = peer and peer.about or nil, against = o.against ~= "" and o.against or nil, clock = o.clock ~= "" and o.clock or nil, cpus = sys.cpu_count() }
local peak = dir .. "/../../build/tests/bench/peak"
if fs.exists(peak) then
  local highest, mean, n = 0, 0, tiny and 1 or 3
  for _ = 1, n do
    local name, best, average = capture(("%s %d"):format(peak, THREADS)):match("(%S+) (%S+) (%S+)")
    highest, mean, result.peak_isa = math.max(highest, tonumber(best)), mean + tonumber(average) / n, name
  end
  result.peak, result.peak_mean = highest, mean
end

local function show(row)
  result.cases[#result.cases + 1] = row
  io.stderr:write(("%-16s %10.4g %s"):format(row.name, row.mocl.median, row.unit))
  io.stderr:write(row.peer and ("   peer %10.4g   %.2f times\n"):format(row.peer.median, row.ratio.median) or "\n")
end
local ok, message = xpcall(function()
  for _, case in ipairs(require "cases"(tiny)) do
    if case.name:find(o.only) then
      show(measure(case))
      collectgarbage()
    end
  end
  local me = quote(arg[-1])
  if o.against == "" and ("start_line"):find(o.only) then
    show(process("start_line", "start, first line of Lua; import torch", me .. " -e 'print(1)'", quote(python) .. " -c 'import torch'", 20))
  end
  if o.against == "" and ("start_step"):find(o.only) then
    show(process("start_step", "start and first training step of the MLP", me .. " -e " .. quote(FIRST_STEP), quote(python) .. " -c " .. quote(PEER_FIRST_STEP),
      100))
  end
end, debug.traceback)
if peer then
  peer.close("quit\n")
end
fs.remove_tree(work)
if not ok then
  io.stderr:write("bench: ", message, "\n")
  os.exit(1)
end

local text = figures.markdown(result)
io.write(text)
if o.json ~= "" then
  assert(json.save(o.json, result, { indent = 1 }))
end
if o.page ~= "" and not peer then
  io.stderr:write(("%s is left as it is: this run has no peer\n"):format(o.page))
elseif o.page ~= "" then
  figures.replace(o.page, text)
end
