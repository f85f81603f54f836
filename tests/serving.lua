--- serving: a server in this process and a client of raw sockets (tests/http/client.c) in another one, for the tests
-- of what answers over HTTP.

local T = require "t"
local child = require "child"
local fs = require "mocl.fs"
local httpd = require "mocl.httpd"
local json = require "mocl.json"
local sys = require "mocl.sys"

local serving = {}

--- The program of tests/http/client.c; skips where it is not built, or where there is no libmicrohttpd.
function serving.client()
  local path = (arg[0]:match "^(.*)/[^/]*$" or ".") .. "/../build/tests/http/client"
  if not fs.exists(path) then
    T.skip "no build/tests/http/client: make programs builds it"
  end
  local s, message = httpd.open { port = 0 }
  if not s then
    T.skip(message)
  end
  s:release()
  return path
end

--- Starts it with a script, the lines of client.c, beside this process. Returns a function that says whether it is
-- still there, and one that waits for its end and returns what it has read: a list of {connection, bytes}.
function serving.start(port, script)
  local dir = T.tmpdir()
  assert(fs.write(dir .. "/script", script))
  local program = serving.client()
  assert(os.execute(("{ %s %d < %s/script > %s/out 2> %s/err; echo $? > %s/s; mv %s/s %s/status; } &"):format(child.quote(program), port,
    dir, dir, dir, dir, dir, dir)))
  local function there()
    return not fs.exists(dir .. "/status")
  end
  local function read()
    T.eq(child.read(dir .. "/status"), "0\n", child.read(dir .. "/err"))
    local list, text, at = {}, child.read(dir .. "/out"), 1
    while at <= #text do
      local c, n, from = text:match("^(%d) (%d+)\n()", at)
      list[#list + 1] = { tonumber(c), text:sub(from, from + n - 1) }
      at = from + n
    end
    return list
  end
  return there, read
end

--- The same beside a server, whose round() runs until the client has ended.
function serving.talk(server, script)
  local there, read = serving.start(server:port(), script)
  local until_time = sys.now() + 60
  while there() do
    T.ok(sys.now() < until_time, "the client did not end")
    server:round(.01)
  end
  return read()
end

--- "send N\n" and the bytes of a request.
function serving.request(method, path, body, headers, how)
  local lines = { ("%s %s HTTP/1.1"):format(method, path), "Host: 127.0.0.1" }
  for name, value in pairs(headers or {}) do
    lines[#lines + 1] = name .. ": " .. value
  end
  if body then
    lines[#lines + 1] = "Content-Length: " .. #body
  end
  local text = table.concat(lines, "\r\n") .. "\r\n\r\n" .. (body or "")
  return ("%s %d\n%s\n"):format(how or "send", #text, text)
end

--- The same as the last one of its connection.
function serving.last(request)
  return (request:gsub("^(%a+) (%d+)\n(.-\r\n)", function(how, n, first)
    return ("%s %d\n%sConnection: close\r\n"):format(how, n + 19, first)
  end))
end

function serving.chat(fields, headers, how)
  local t = { model = "mocl", messages = { { role = "user", content = "how do i knit?" } } }
  for name, value in pairs(fields) do
    t[name] = value
  end
  return serving.request("POST", "/v1/chat/completions", json.encode(t), headers, how)
end

--- The first response in a text: {status=, headers=, body=, chunks=, whole=}, and what is behind it. A body in chunks
-- is taken apart, strictly; whole is false where it was cut off.
function serving.response(text)
  local head, rest = text:match "^(.-\r\n)\r\n(.*)$"
  T.ok(head, "no response: " .. text)
  local r = { status = tonumber(head:match "^HTTP/1%.1 (%d%d%d) "), headers = {}, whole = true }
  for name, value in head:gmatch "\n([^:\r\n]+): ([^\r\n]*)" do
    r.headers[name:lower()] = value
  end
  if r.headers["transfer-encoding"] ~= "chunked" then
    local n = tonumber(r.headers["content-length"]) or 0
    r.body, r.whole = rest:sub(1, n), #rest >= n
    return r, rest:sub(n + 1)
  end
  r.chunks = {}
  while true do
    local size, from = rest:match "^(%x+)\r\n()"
    local n = tonumber(size or "", 16)
    if not n or #rest < from + n + 1 then
      r.whole = false
      break
    end
    T.eq(rest:sub(from + n, from + n + 1), "\r\n", "the end of a chunk")
    if n == 0 then
      rest = rest:sub(from + 2)
      break
    end
    r.chunks[#r.chunks + 1], rest = rest:sub(from, from + n - 1), rest:sub(from + n + 2)
  end
  r.body = table.concat(r.chunks)
  return r, rest
end

--- The responses that stand one after the other in a text.
function serving.responses(text)
  local list = {}
  while text ~= "" do
    list[#list + 1], text = serving.response(text)
  end
  return list
end

--- The values of the events of a stream, the last of which is "[DONE]"; comments are passed over and counted.
function serving.events(body)
  local list, comments = {}, 0
  while body ~= "" do
    local comment, rest = body:match "^(:[^\n]*\n)(.*)$"
    if comment then
      comments, body = comments + 1, rest
    else
      local line
      line, body = body:match "^data: ([^\n]*)\n\n(.*)$"
      T.ok(line, "no event")
      list[#list + 1] = line == "[DONE]" and line or assert(json.decode(line))
    end
  end
  return list, comments
end

--- The text of a stream by choice, its finish_reasons, and how many roles it names.
function serving.joined(events)
  local texts, finish, roles = {}, {}, 0
  for _, e in ipairs(events) do
    for _, c in ipairs(e ~= "[DONE]" and e.choices or {}) do
      local i = c.index + 1
      texts[i] = (texts[i] or "") .. (c.delta.content or "")
      roles = roles + (c.delta.role and 1 or 0)
      finish[i] = c.finish_reason ~= json.null and c.finish_reason or finish[i]
    end
  end
  return texts, finish, roles
end

return serving
