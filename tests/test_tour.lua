-- docs/tour.md, typed on a terminal from the first line to the last: each command shows what the page says

local T = require "t"
local child = require "child"

-- The commands of the page's console blocks: list of { line =, prompt = "$" or ">", typed =, want = lines }.
local function commands()
  local list, at, inside = {}, 0, false
  for line in (child.read "docs/tour.md"):gmatch "(.-)\n" do
    at = at + 1
    if line:find "^```" then
      inside = line == "```console"
    elseif inside then
      local prompt, typed = line:match "^([$>]) (.*)"
      if prompt then
        list[#list + 1] = { line = at, prompt = prompt, typed = typed, want = {} }
      else
        table.insert(list[#list].want, line)
      end
    end
  end
  return list
end

-- Does a line show what the page has, in which "..." stands for anything?
local function agrees(got, want)
  local pattern = want:gsub("[%-%^$()%%.%[%]*+?]", "%%%0"):gsub("%%%.%%%.%%%.", ".*")
  return got:find("^" .. pattern .. "$") ~= nil
end

-- The same for lines, of which "..." stands for any number.
local function compare(got, want, i, j)
  i, j = i or 1, j or 1
  if j > #want then
    return i > #got
  elseif want[j] == "..." then
    return compare(got, want, i, j + 1) or i <= #got and compare(got, want, i + 1, j)
  end
  return i <= #got and agrees(got[i], want[j]) and compare(got, want, i + 1, j + 1)
end

T.test("the comparison can fail", function()
  T.ok(compare({ "a", "b.c", "d" }, { "a", "b.c", "d" }) and compare({ "a", "b", "c" }, { "...", "c" }) and compare({}, {}))
  T.ok(compare({ "x: told y" }, { "...told..." }) and compare({ "a" }, { "a", "..." }))
  T.ok(not compare({ "a" }, {}) and not compare({}, { "a" }) and not compare({ "a", "b" }, { "a" }) and not compare({ "bxc" }, { "b.c" }))
  T.ok(not compare({ "a", "b", "c" }, { "...", "b" }))
end)

T.test("docs/tour.md", function()
  local list, typed, dir = commands(), {}, T.tmpdir()
  T.ok(#list > 15, #list)
  for i, c in ipairs(list) do
    typed[i] = ("seen '^[$>] ' %d; printf '%%s\\n' %s\n"):format(i, child.quote(c.typed))
  end
  typed[#typed + 1] = ("seen '^[$>] ' %d; printf 'exit\\n'"):format(#list + 1)
  -- a shell on the terminal, which finds the program as mocl
  local mocl = io.popen('realpath "' .. arg[-1] .. '"'):read "l"
  local recipes = io.popen("pwd"):read "l" .. "/recipes"
  assert(os.execute(("mkdir -p %s/bin %s/work && ln -s %s %s/bin/mocl"):format(dir, dir, child.quote(mocl), dir)))
  local f = assert(io.open(dir .. "/shell.lua", "w"))
  f:write(("os.execute [[cd %s/work && PATH=%s/bin:$PATH MOCL_RECIPES=%s PS1='$ ' LC_ALL=C.UTF-8 sh -i]]"):format(dir, dir, recipes))
  f:close()
  local out = child.terminal(table.concat(typed), nil, dir .. "/shell.lua"):gsub("\r", "")
  local segments = {}
  for line in out:gmatch "([^\n]*)\n" do
    local prompt, rest = line:match "^([$>]) (.*)"
    if prompt then
      segments[#segments + 1] = { prompt = prompt, typed = rest, got = {} }
    elseif #segments > 0 then
      table.insert(segments[#segments].got, line)
    end
  end
  for i, c in ipairs(list) do
    local s = segments[i] or { got = {} }
    local where = ("docs/tour.md:%d: %s"):format(c.line, c.typed)
    T.eq({ s.prompt, s.typed }, { c.prompt, c.typed }, where .. "\n" .. out:sub(-3000))
    T.ok(compare(s.got, c.want), ("%s shows\n%s"):format(where, table.concat(s.got, "\n")))
  end
end)
