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

--- sides.arguments(program, defaults) -> o, refuse, count. o: the key=value arguments of the command line over `defaults`, which is a text
-- such as "rounds=5 only="; refuse(format, ...) ends the program with a message; count(key) is that argument as a number from 1.
function sides.arguments(program, defaults)
  local o, keys = {}, {}
  for key, value in defaults:gmatch "(%w+)=(%S*)" do
    o[key], keys[#keys + 1] = value, key .. "="
  end
  local function refuse(text, ...)
    io.stderr:write(program, ": ", text:format(...), "\n")
    os.exit(2)
  end
  for _, word in ipairs(arg) do
    local key, value = word:match "^(%w+)=(.*)$"
    if not o[key] then
      refuse("unknown argument '%s' (%s)", word, table.concat(keys, ", "))
    end
    o[key] = value
  end
  return o, refuse, function(key)
    local n = math.tointeger(tonumber(o[key]))
    if not n or n < 1 then
      refuse("%s= is a number from 1, got '%s'", key, o[key])
    end
    return n
  end
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
