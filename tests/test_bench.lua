-- the benchmark runs: each case at tiny sizes, mocl's side alone; nothing is timed

local T = require "t"
local child = require "child"

local PAGE = "before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n"

local function bench(arguments, python)
  local words = {}
  for i, a in ipairs(arguments) do
    words[i] = child.quote(a)
  end
  return child.shell(('MOCL_BENCH_PYTHON=%s "$MOCL" tests/bench/run.lua tiny=true rounds=2 %s'):format(child.quote(python or "/nowhere/python"),
    table.concat(words, " ")))
end

T.test("every case runs, without a peer", function()
  local json = require "mocl.json"
  local dir = T.tmpdir()
  local path, page = dir .. "/cpu.json", dir .. "/page.md"
  local f = assert(io.open(page, "w"))
  f:write(PAGE)
  f:close()
  local out, err, status = bench { "json=" .. path, "page=" .. page }
  T.eq(status, 0, err)
  T.ok(err:find("/nowhere/python has no torch: mocl's own side is measured alone", 1, true), err)
  T.ok(err:find("pip install torch", 1, true), err)
  T.ok(err:find("page.md is left as it is: this run has no peer", 1, true), err)
  T.eq(child.read(page), PAGE)
  for _, title in ipairs { "training step, default model", "training step, reward model", "training step, 15M Llama", "training step, MLP",
    "one-token decode, default model", "decode of 3 rows", "one-token decode, 15M Llama", "forward of one row, MLP", "whole MOC iteration",
    "its rollout", "its update", "sgemm n = 8", "start, first line of Lua", "start and first training step" } do
    T.ok(out:find("| " .. title, 1, true), title .. " in\n" .. out)
  end
  local result = assert(json.load(path))
  T.eq(result.rounds, 2)
  T.eq(#result.cases, 12)
  for _, row in ipairs(result.cases) do
    T.ok(row.mocl.min > 0 and row.mocl.min <= row.mocl.median and row.mocl.median <= row.mocl.max, row.name)
    T.eq(row.peer, nil)
  end
end)

T.test("one case by its name", function()
  local out, err, status = bench { "only=forward_mlp" }
  T.eq(status, 0, err)
  local rows = select(2, out:gsub("\n| [^w%-]", "")) -- without the head
  T.eq(rows, 1, out)
end)

T.test("another checkout by turns: here this one beside itself", function()
  local dir = T.tmpdir()
  assert(require "mocl.fs".mkdir(dir .. "/tests"))
  local _, _, status = child.shell(('ln -s "$PWD/tests/bench" %s/tests/bench && ln -s "$(realpath "$MOCL")" %s/mocl'):format(dir, dir))
  T.eq(status, 0)
  local out, err
  out, err, status = bench { "only=moc", "threads=1", "clock=cpu", "against=" .. dir }
  T.eq(status, 0, err)
  T.ok(out:find("| the other checkout |", 1, true) and out:find("\n| whole MOC iteration | [^|]+ | [^|]+ | [^|]+ |  |\n"), out)
end)

T.test("a wrong argument", function()
  local out, err, status = bench { "round=3" }
  T.eq(out, "")
  T.eq(status, 2)
  T.ok(err:find("bench: unknown argument 'round=3' (rounds=, seconds=, threads=, only=, tiny=, against=, clock=, json=, page=)", 1, true), err)
  out, err, status = bench { "threads=0" }
  T.eq(out, "")
  T.eq(status, 2)
  T.eq(err, "bench: threads= is a number from 1, got '0'\n")
  out, err, status = bench { "against=/nowhere" }
  T.eq({ out, status }, { "", 2 })
  T.eq(err, "bench: against=/nowhere: there is no program mocl there; build that checkout first\n")
  out, err, status = bench { "clock=cpu" }
  T.eq({ out, status }, { "", 2 })
  T.eq(err, "bench: clock=cpu: clock=cpu it is, with against= and threads=1\n")
end)

T.test("the table goes between the marks of a page", function()
  package.path = "tests/bench/?.lua;" .. package.path
  local figures = require "figures"
  local path = T.tmpdir() .. "/page.md"
  local f = assert(io.open(path, "w"))
  f:write(PAGE)
  f:close()
  figures.replace(path, "new\n")
  T.eq(child.read(path), "before\n<!-- bench -->\nnew\n<!-- /bench -->\nafter\n")
  figures.replace(path, "newer\n")
  T.eq(child.read(path), "before\n<!-- bench -->\nnewer\n<!-- /bench -->\nafter\n")
  f = assert(io.open(path, "w"))
  f:write("no marks")
  f:close()
  T.raises("the marks <!%-%- bench", figures.replace, path, "x")
  T.eq(child.read(path), "no marks")
end)

T.test("the peers' sources compile", function()
  local out, err, status = child.shell("command -v python3 >/dev/null || { echo none; exit 0; }\nfor f in peer real_peer; do python3 -c \"compile(open('tests/bench/$f.py').read(), '$f.py', 'exec')\" || exit 1; done")
  if out == "none\n" then
    T.skip("no python3")
  end
  T.eq(status, 0, err)
end)

T.test("real: a tiny model without peers: no row holds, and what is asked for must be there", function()
  local out, err, status = child.shell(('"$MOCL" tests/bench/real.lua shape=tiny out=%s rounds=1 rows=_1_f32 python=/nowhere/python llama=/nowhere/python'):format(
    child.quote(T.tmpdir())))
  T.eq(status, 1, err)
  T.ok(out:find("| decode, 1 row, f32 | mocl f32: [%d.]+ tokens/s |  |  | 1 %(1.2%) | not run: llama decode F32: "), out .. err)
  out, err, status = child.shell '"$MOCL" tests/bench/real.lua rows=_1_f32 rounds=0'
  T.eq({ out, status, err }, { "", 2, "bench-real: rounds= is a number from 1, got '0'\n" })
  out, err, status = child.shell '"$MOCL" tests/bench/real.lua clock=cpu'
  T.eq(status, 2)
  T.ok(err:find("bench-real: clock=cpu: clock=cpu it is, with threads=1", 1, true), err)
  out, err, status = child.shell '"$MOCL" tests/bench/real.lua row=1'
  T.eq(status, 2)
  T.ok(err:find("bench-real: unknown argument 'row=1'", 1, true), err)
end)

T.test("hypervolume: the benchmark without a peer, and a wrong argument", function()
  local out, err, status = child.shell('MOCL_BENCH_PYTHON=/nowhere/python "$MOCL" tests/bench/hypervolume.lua n=40 rounds=2 seconds=0.001')
  T.eq(status, 0, err)
  T.ok(err:find("has no moocore: mocl is measured alone", 1, true), err)
  local rows = 0
  for d, shape, n, ms in out:gmatch("| (%d) | (%a+) | (%d+) | ([%d.]+) |\n") do
    T.ok(tonumber(d) >= 3 and #shape > 0 and n == "40" and tonumber(ms) > 0, out)
    rows = rows + 1
  end
  T.eq(rows, 14, out)
  out, err, status = child.shell('"$MOCL" tests/bench/hypervolume.lua rounds=none')
  T.eq(out, "")
  T.eq(status, 2)
  T.ok(err:find("cannot use the argument 'rounds=none'", 1, true), err)
end)
