--- serve.lua CASES NAME TINY - a case of the benchmark in a process of its own, for run.lua's against=: the program of another checkout
-- runs it with the cases in the folder CASES, also of that checkout. The first line it writes is {"runs": n}, how often it ran
-- the case to warm up; then for each line with a number of runs {"seconds": s, "cpu":
-- seconds of the processor, "phases": {...}}.

local cases, name, tiny = arg[1], arg[2], arg[3] == "true"
package.path = cases .. "/?.lua;" .. package.path

local json = require "mocl.json"
local sys = require "mocl.sys"

sys.set_threads(math.tointeger(arg[4]))
local case
for _, c in ipairs(require "cases"(tiny)) do
  case = c.name == name and c or case
end
if not case then
  error(("the other checkout has no case '%s'"):format(name), 0)
end
local _, state = case.setup(arg[5])
case.run(state, 1)
io.stdout:setvbuf "line"
print(json.encode { runs = 1 })
for line in io.lines() do
  local from, cpu = sys.now(), os.clock()
  case.run(state, math.tointeger(line))
  print(json.encode { seconds = sys.now() - from, cpu = os.clock() - cpu, phases = case.phases and case.phases(state) or {} })
end
