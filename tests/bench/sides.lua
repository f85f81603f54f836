--- sides: what the benchmarks share: processes that answer requests, and figures of lists.

local json = require "mocl.json"

local sides = {}

function sides.quote(s)
  return "'" .. s:gsub("'", "'\\''") .. "'"
end

--- The output of a command, or nil and it where it fails.
function sides.capture(command)
  local p = assert(io.popen(command))
  local text = p:read("a")
  return p:close() and text or nil, text
end

--- A directory for a run's files.
function sides.directory()
  return (assert(sides.capture("mktemp -d")):gsub("%s+$", ""))
end

function sides.median(list)
  local s = table.move(list, 1, #list, 1, {})
  table.sort(s)
  local n = #s
  return n % 2 == 1 and s[n // 2 + 1] or (s[n // 2] + s[n // 2 + 1]) / 2
end

function sides.spread(list)
  return { median = sides.median(list), min = math.min(table.unpack(list)), max = math.max(table.unpack(list)) }
end

--- A process that answers a line with a line of JSON; pipe: the path of its requests, for it alone.
function sides.serving(command, pipe)
  local path = sides.quote(pipe)
  assert(os.execute(("rm -f %s && mkfifo %s"):format(path, path)))
  local answers = assert(io.popen(("%s < %s"):format(command, path)))
  local requests = assert(io.open(pipe, "w"))
  local p = {}
  function p.receive()
    local line = answers:read("l")
    return line and assert(json.decode(line)) or error("the other process ended; its message is above", 0)
  end
  function p.ask(...)
    requests:write(table.concat({ ... }, " "), "\n")
    requests:flush()
    return p.receive()
  end
  function p.close(last)
    requests:write(last or "")
    requests:close()
    answers:close()
  end
  return p
end

return sides
