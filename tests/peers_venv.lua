--- peers_venv: a Python environment with the packages that mocl is compared with, built once.

local fs = require "mocl.fs"
local quote = require "bench.sides".quote

--- venv(out, packages, o) -> the path of its Python. Installs the packages (lines of pip's requirements) into out/venv unless that was
-- done for the same list. o: who says so, words (what is installed, and how large it is), environment (of pip, in front of its command).
return function(out, packages, o)
  local python, list = out .. "/venv/bin/python", table.concat(packages, "\n") .. "\n"
  if fs.read(out .. "/venv/installed.txt") == list then
    return python
  end
  local function run(command)
    if not os.execute(command) then
      error(("%s: this failed: %s"):format(o.who, command), 0)
    end
  end
  print(("%s: installing %s into %s/venv"):format(o.who, o.words, out))
  run(("python3 -m venv %s/venv"):format(quote(out)))
  assert(fs.write(out .. "/requirements.txt", list))
  run(("%s %s -m pip install --quiet -r %s/requirements.txt"):format(o.environment or "", quote(python), quote(out)))
  assert(fs.write(out .. "/venv/installed.txt", list))
  return python
end
