--- real.lua [rows=PATTERN] [rounds=5] [threads=2] [clock=cpu] [python=PATH] [llama=PATH] [out=build/bench-real] [shape=SmolLM2] [json=PATH]
-- [page=PATH] - training and generation at SmolLM2-135M's shape beside transformers with PEFT and llama.cpp, and the rows of run.lua that
-- have a floor: make bench-real. Weights are random, which changes no time; the same file is read by all.
--
-- Each row is measured in rounds, in each of which every side runs once, one after the other. A ratio is the median over the rounds of
-- the peer's time by mocl's, above 1 where mocl is faster; where a row has several sides of a kind, the one with the least median
-- counts. The row holds where the ratio is at least its floor. Before, both must have found the same token or a loss within .5 %.
-- python= has torch, transformers and peft, llama= llama-cpp-python; without them both are installed once into out/venv, llama.cpp being
-- built for this processor, by clang where there is one. clock=cpu counts the processor's time in place of the clock's,
-- for a machine with other work, with threads=1. The exit status is 1 where a row is short, or could not be run.

local dir = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = ("%s/?.lua;%s/../?.lua;"):format(dir, dir) .. package.path

local figures = require "figures"
local fs = require "mocl.fs"
local json = require "mocl.json"
local sides = require "sides"
local sys = require "mocl.sys"
local venv = require "peers_venv"

local o, refuse, count = sides.arguments("bench-real",
  "rows= rounds=5 threads=2 clock= python= llama= out=build/bench-real shape=SmolLM2 json= page=")
local rounds, threads = count "rounds", count "threads"
if o.clock ~= "" and (o.clock ~= "cpu" or threads > 1) then
  refuse("clock=%s: clock=cpu it is, with threads=1: threads that wait for each other in a loop would count", o.clock)
end

-- ---- the rows: sides are {format, of mocl} and {program, what, format}; n units a turn ----

local LLAMA_FORMS = { "F32", "F16", "Q8_0" }

local function decode(name, rows, mocl, peers, floor, goal, n)
  return { name = name, title = ("decode, %d row%s, %s"):format(rows, rows > 1 and "s" or "", #mocl == 1 and mocl[1] or "the best format"), unit = "tokens/s",
    per = rows * n, what = "decode", rows = rows, mocl = mocl, peers = peers, floor = floor, goal = goal, n = n }
end

local function llama(what, forms)
  local list = {}
  for i, form in ipairs(forms) do
    list[i] = { "llama", what, form }
  end
  return list
end

local ROWS = {
  { name = "update_f32", title = "LoRA update, 16 x 112 tokens, f32", unit = "s", what = "update", mocl = { "f32" }, n = 1, floor = 1.3, goal = 2,
    peers = { { "python", "update", "f32" } }, bytes = .5 },
  { name = "update_bf16", title = "LoRA update, 16 x 112 tokens, bf16", unit = "s", what = "update", mocl = { "bf16" }, n = 1, floor = 3, goal = 5,
    peers = { { "python", "update", "autocast" }, { "python", "update", "bf16" } } },
  decode("decode_1_f32", 1, { "f32" }, llama("decode", { "F32" }), 1, 1.2, 32),
  decode("decode_1_bf16", 1, { "bf16" }, llama("decode", { "F16" }), 1, 1.2, 32),
  decode("decode_1_int8", 1, { "int8" }, llama("decode", { "Q8_0" }), 1, 1.2, 32),
  decode("decode_16", 16, { "f32", "bf16", "int8" }, llama("decode", LLAMA_FORMS), 2, 4, 16),
  decode("decode_64", 64, { "f32", "bf16", "int8" }, llama("decode", LLAMA_FORMS), 3, 5, 8),
  decode("decode_16_generate", 16, { "f32", "bf16", "int8" }, { { "python", "generate", "f32" }, { "python", "generate", "bf16" } }, 5, 8, 16),
  decode("decode_64_generate", 64, { "f32", "bf16", "int8" }, { { "python", "generate", "f32" }, { "python", "generate", "bf16" } }, 5, 8, 8),
  { name = "prompt_f32", title = "prompt of 512 tokens, f32", unit = "s", what = "prompt", mocl = { "f32" }, n = 1, floor = 1, goal = 1.5,
    peers = llama("prompt", { "F32" }) },
  { name = "prompt_bf16", title = "prompt of 512 tokens, bf16", unit = "s", what = "prompt", mocl = { "bf16" }, n = 1, floor = 1, goal = 1.5,
    peers = llama("prompt", { "F16" }) },
}
-- rows of run.lua
local SMALL = { train_default = { 4, 6 }, train_reward = { 4, 6 }, train_mlp = { 4, 6 }, moc = { 4, 6 }, gemm_128 = { 1 }, gemm_256 = { 1 },
  gemm_512 = { 1 }, gemm_1024 = { 1 } }
local SMALL_ORDER = { "train_default", "train_reward", "train_mlp", "moc", "gemm_128", "gemm_256", "gemm_512", "gemm_1024" }

local function wanted(name)
  return name:find(o.rows) ~= nil
end

-- ---- peers and files ----

local PACKAGES = { "torch==2.15.0", "transformers==5.24.0", "peft==0.21.2", "numpy", "llama-cpp-python==0.3.36" }

local function peers()
  if o.python ~= "" or o.llama ~= "" then
    return { python = o.python, llama = o.llama }
  end
  local compiler = sides.capture "command -v clang 2>/dev/null" and "CC=clang CXX=clang++ " or ""
  local python = venv(o.out, PACKAGES, { who = "bench-real", words = "torch, transformers, peft and llama.cpp, which is built here (some 2 GB, minutes)",
    environment = compiler .. "CMAKE_ARGS='-DGGML_NATIVE=ON'" })
  return { python = python, llama = python }
end

local me, model = sides.quote(arg[-1]), o.out .. "/" .. o.shape
local function run(command)
  if not os.execute(command) then
    error("this failed: " .. command, 0)
  end
end
local function files()
  if fs.exists(model .. "/adapter/adapter_config.json") then
    return
  end
  run(("%s %s/random_model.lua %s %s dtype=f32"):format(me, sides.quote(dir), sides.quote(model), o.shape))
  run(("%s %s/real_side.lua files %s f32"):format(me, sides.quote(dir), sides.quote(model)))
end

-- ---- one row ----

local program, work = nil, sides.directory()
local pipes = 0

local function start(command)
  pipes = pipes + 1
  local p = sides.serving(("env OMP_NUM_THREADS=%d %s 2> %s/log"):format(threads, command, work), ("%s/pipe%d"):format(work, pipes))
  local ok = pcall(p.receive)
  if not ok then
    local log = fs.read(work .. "/log") or ""
    p.close()
    return nil, log:match "([^\n]*)\n*$"
  end
  return p
end

local function side_of(row, peer)
  local command
  if peer then
    if program[peer[1]] == "" then
      return nil, ("no %s= was given"):format(peer[1])
    end
    command = ("%s %s/real_peer.py %s %s %s"):format(sides.quote(program[peer[1]]), sides.quote(dir), peer[2], sides.quote(model), peer[3])
  else
    command = ("%s %s/real_side.lua %s %s %s"):format(me, sides.quote(dir), row.what, sides.quote(model), row.format)
  end
  return start(("%s %d %d"):format(command, threads, row.rows or 1))
end

-- All sides of a row with their seconds in each round, or why there is none.
local function measure(row)
  local list, why = {}, {}
  for _, format in ipairs(row.mocl) do
    local p, reason = side_of { what = row.what, rows = row.rows, format = format }
    list[#list + 1] = p and { process = p, mine = true, name = "mocl " .. format } or nil
    why[#why + 1] = not p and ("mocl %s: %s"):format(format, reason) or nil
  end
  for _, peer in ipairs(row.peers) do
    local p, reason = side_of(row, peer)
    list[#list + 1] = p and { process = p, name = peer[1] == "llama" and "llama.cpp " .. peer[3] or "transformers " .. peer[3] } or nil
    why[#why + 1] = not p and ("%s: %s"):format(table.concat(peer, " "), reason) or nil
  end
  for _, s in ipairs(list) do
    local answer = s.process.ask("run", row.n) -- the first is slower, and its result is looked at
    s.check, s.seconds = answer.check, {}
  end
  for r = 1, rounds do
    for _, s in ipairs(list) do
      local answer = s.process.ask("run", row.n)
      s.seconds[r], s.bytes = o.clock == "cpu" and answer.cpu or answer.seconds, answer.bytes
    end
  end
  for _, s in ipairs(list) do
    s.process.close "quit\n" -- processes that were started later hold its pipe open too
    s.median = sides.median(s.seconds)
  end
  return list, table.concat(why, "; ")
end

local function best(list, mine)
  local found
  for _, s in ipairs(list) do
    if (s.mine or false) == mine and (not found or s.median < found.median) then
      found = s
    end
  end
  return found
end

-- Formats round differently, and then two near logits change places: f32 against f32 alone must agree.
local function compare(row, a, b)
  if a.name:find "f32" and b.name:lower():find "f32" then
    local near = row.what == "update" and math.abs(a.check - b.check) <= 5e-3 * math.abs(b.check) or a.check == b.check
    assert(near, ("%s: %s found %s, %s %s"):format(row.name, a.name, a.check, b.name, b.check))
  end
end

local results, short = {}, 0

local function add(name, title, mocl, peer, ratio, floor, goal, why)
  local verdict = ratio and (ratio >= floor and "holds" or "short") or ("not run: " .. why)
  short = short + (verdict == "holds" and 0 or 1)
  results[#results + 1] = { name = name, title = title, mocl = mocl, peer = peer, ratio = ratio, floor = floor, goal = goal, verdict = verdict }
  print(("%-18s %-28s %-36s %-6s %-5g %s"):format(name, mocl or "", peer or "", ratio and ("%.2f"):format(ratio) or "", floor, verdict))
  io.stdout:flush()
end

local function shown(row, s)
  local x = row.per and row.per / s.median or s.median
  return ("%s: %s %s"):format(s.name, x >= 100 and ("%.0f"):format(x) or ("%.3g"):format(x), row.unit)
end

local function real(row)
  local list, why = measure(row)
  local a, b = best(list, true), best(list, false)
  if not a or not b then
    add(row.name, row.title, a and shown(row, a), b and shown(row, b), nil, row.floor, row.goal, why)
    return
  end
  compare(row, a, b)
  local ratio = {}
  for r = 1, rounds do
    ratio[r] = b.seconds[r] / a.seconds[r]
  end
  add(row.name, row.title, shown(row, a), shown(row, b), sides.median(ratio), row.floor, row.goal)
  if row.bytes then
    local function mib(s)
      return ("%s: %.0f MiB"):format(s.name, s.bytes / 2 ^ 20)
    end
    add(row.name .. "_bytes", "bytes at its peak, above those before", mib(a), mib(b), b.bytes / a.bytes, 1 / row.bytes)
  end
end

local function small(name)
  local path = work .. "/small.json"
  if program.python == "" then
    add(name, name, nil, nil, nil, SMALL[name][1], SMALL[name][2], "no python= was given")
    return
  end
  run(("env MOCL_BENCH_PYTHON=%s %s %s/run.lua only=^%s$ rounds=%d threads=%d json=%s > /dev/null 2>&1"):format(sides.quote(program.python), me, sides.quote(dir),
    name, rounds, threads, path))
  local row = assert(json.load(path)).cases[1]
  local function text(s)
    return s and ("%.4g %s"):format(s.median, row.unit)
  end
  add(name, row.title, text(row.mocl), text(row.peer), row.ratio and row.ratio.median, SMALL[name][1], SMALL[name][2], "no torch")
end

-- ---- all of it ----

local date, load = os.date "!%Y-%m-%d %H:%M UTC", (fs.read "/proc/loadavg" or "unknown"):match "^%S+ %S+ %S+"
local ok, message = xpcall(function()
  assert(fs.mkdir(o.out))
  program = peers()
  files()
  for _, row in ipairs(ROWS) do
    if wanted(row.name) then
      real(row)
    end
  end
  for _, name in ipairs(SMALL_ORDER) do
    if wanted(name) then
      small(name)
    end
  end
end, debug.traceback)
fs.remove_tree(work)
if not ok then
  io.stderr:write("bench-real: ", message, "\n")
  os.exit(1)
end
if #results == 0 then
  refuse("rows=%s: there is no such row", o.rows)
end

local env = sys.env()
local out = { ("%s; `make bench-real`, %d rounds, %d threads a side, load average before: %s%s."):format(date, rounds, threads, load,
  o.clock == "cpu" and "; times are the processor's" or ""), ("%s, %d processors, bf16 by %s; mocl %s (compiler %s)."):format(env.cpu, sys.cpu_count(),
  env.bf16 or "nothing", env.mocl, env.compiler), "", "| row | mocl | peer | ratio | floor (goal) | |", "|---|---|---|---|---|---|" }
for _, r in ipairs(results) do
  out[#out + 1] = ("| %s | %s | %s | %s | %g%s | %s |"):format(r.title, r.mocl or "", r.peer or "", r.ratio and ("%.2f"):format(r.ratio) or "", r.floor,
    r.goal and (" (%g)"):format(r.goal) or "", r.verdict)
end
local text = table.concat(out, "\n") .. "\n"
io.write("\n", text)
if o.json ~= "" then
  assert(json.save(o.json, { date = date, machine = env, rounds = rounds, threads = threads, rows = results }, { indent = 1 }))
end
if o.page ~= "" then
  figures.replace(o.page, text)
end
os.exit(short > 0 and 1 or 0)
