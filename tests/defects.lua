--- defects.lua [-k TEXT] [--part K/N] [--page FILE] - puts the defects of defects_table.lua one at a time into a copy
-- of the Lua files and runs the test that is to catch it. A defect whose test passes is a failure; so is a test that
-- fails without a defect, and a text that does not stand in its file exactly once. The last line counts. -k: only the
-- defects whose file or words contain TEXT; --part 2/3: the second of every three. --page writes the table into FILE,
-- between its two marks, and runs nothing.

local dir = arg[0]:match("^(.*)/[^/]*$") or "."
package.path = dir .. "/?.lua;" .. package.path
local defects = require "defects_page"

local pattern, part, parts, page = "", 1, 1, nil
local i = 1
while arg[i] do
  if arg[i] == "-k" then
    pattern, i = arg[i + 1] or "", i + 1
  elseif arg[i] == "--part" then
    part, parts = (arg[i + 1] or ""):match("^(%d+)/(%d+)$")
    part, parts, i = assert(math.tointeger(part), "--part wants K/N"), math.tointeger(parts), i + 1
  elseif arg[i] == "--page" then
    page, i = assert(arg[i + 1], "--page wants a file"), i + 1
  else
    io.stderr:write("defects.lua: unknown argument " .. arg[i] .. "\n")
    os.exit(2)
  end
  i = i + 1
end
if page then
  defects.write(page)
  return
end

local function quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

local function output(command)
  local p = assert(io.popen(command))
  local text = p:read("a")
  return text, select(3, p:close())
end

-- A tree of links to everything here but the Lua files, which are copies.
local root = output("cd " .. quote(dir) .. "/.. && pwd"):gsub("\n$", "")
local tree = output("mktemp -d"):gsub("\n$", "")
assert(os.execute(("cd %s && for x in *; do case $x in recipes|stdlib) cp -r $x %s/ ;; *) ln -s %s/$x %s/$x ;; esac; done"):format(
  quote(root), tree, quote(root), tree)))
local program = output("realpath " .. quote(arg[-1])):gsub("\n$", "")
local shared = os.getenv "MOCL_SHARED" or root .. "/../shared"

-- Whether a test fails in the tree: "passes", "fails" or what else happened.
local function outcome(label)
  local file, name = label:match("^([%w_]+): (.*)$")
  local text = output(("cd %s && MOCL_STDLIB=stdlib MOCL_SHARED=%s timeout 120 %s tests/run.lua -k %s.lua -t %s 2>&1"):format(tree,
    quote(shared), quote(program), file, quote(name)))
  if ("\n" .. text):find("\nFAIL " .. label .. "\n", 1, true) then
    return "fails"
  elseif text:find "%f[%d][1-9]%d* passed, 0 failed, 0 skipped\n$" then
    return "passes"
  end
  return "ends with: " .. (text:match("([^\n]*)\n*$") or "")
end

local passed, failed, sound = 0, 0, {}
local function tell(ok, what)
  passed, failed = passed + (ok and 1 or 0), failed + (ok and 0 or 1)
  print((ok and "caught " or "MISSED ") .. what)
  io.stdout:flush()
end

local function try(row)
  local file, what = row.file, row.file .. ": " .. row.what
  local text, changed, why = defects.change(root, row)
  if not changed then
    return tell(false, what .. ": " .. why)
  end
  if sound[row.test] == nil then
    sound[row.test] = outcome(row.test)
  end
  if sound[row.test] ~= "passes" then
    return tell(false, ("%s: without the defect '%s' %s"):format(what, row.test, sound[row.test]))
  end
  defects.put(tree .. "/" .. file, changed)
  local got = outcome(row.test)
  defects.put(tree .. "/" .. file, text)
  tell(got == "fails", got == "fails" and what .. ": by " .. row.test or ("%s: '%s' %s"):format(what, row.test, got))
end

local n = 0
for _, row in ipairs(defects.rows) do
  if (row.file .. ": " .. row.what):find(pattern, 1, true) then
    n = n + 1
    if (n - part) % parts == 0 then
      try(row)
    end
  end
end
os.execute("rm -rf " .. tree)
print(("%d passed, %d failed"):format(passed, failed))
os.exit(failed == 0 and passed > 0, true)
