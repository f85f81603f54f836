--- docs/guide/lua-libraries.md: each block of code marked `<!-- run NEEDS -->` is a program (Lua, or a shell command
-- with mocl on its path) that prints the ```text block behind it, in a directory with the section's blocks marked
-- `<!-- file NAME -->`. NEEDS are modules, programs ($busted), or `server`. And a run whose rewards use such libraries.

local T = require "t"
local child = require "child"
local docs = require "docs_coverage"
local fs = require "mocl.fs"

-- where it is not lua-MODULE
local PACKAGE = { ["luasql.sqlite3"] = "lua-sql-sqlite3", ["pl.pretty"] = "lua-penlight", luacheck = "lua-check",
  luaunit = "lua-unit", setsid = "util-linux" }

-- The server of the section on HTTP: three requests, or 20 seconds without one.
local SERVER = [[
local socket, json = require "socket", require "mocl.json"
local server = assert(socket.bind("127.0.0.1", 0))
server:settimeout(20)
io.open("port.tmp", "w"):write((select(2, server:getsockname()))):close()
os.rename("port.tmp", "port")
for _ = 1, 3 do
  local client = server:accept()
  if not client then break end
  client:settimeout(5)
  local path = client:receive "*l":match "^%u+ (%S+)"
  local length = 0
  for line in function() return client:receive "*l" end do
    if line == "" then break end
    length = tonumber(line:lower():match "^content%-length: (%d+)") or length
  end
  local status, answer = "200 OK", nil
  if path == "/prompts" then
    answer = "how do i knit?\nhow do i cook?\n"
  elseif path == "/score" then
    local scores = {}
    for i, text in ipairs(json.decode(client:receive(length)).responses) do scores[i] = #text end
    answer = json.encode(scores)
  else
    status, answer = "404 Not Found", ""
  end
  client:send(("HTTP/1.0 %s\r\nContent-Length: %d\r\n\r\n%s"):format(status, #answer, answer))
  client:close()
end
]]

-- The blocks of the page in their order: { section =, line =, kind = "file", "run" or "shown", words =, language =,
-- text =, want = }
local function blocks(page)
  local list, section, mark, open, line = {}, nil, nil, nil, 0
  for l in (page .. "\n"):gmatch "(.-)\n" do
    line = line + 1
    if open then
      if l == "```" then
        open.text, open = table.concat(open, "\n") .. "\n", nil
      else
        open[#open + 1] = l
      end
    elseif l:match "^```text$" and list[#list] and list[#list].kind == "run" and not list[#list].want then
      open = {}
      list[#list].want = open
    elseif l:match "^```%l+$" then
      open = { section = section, line = line, language = l:sub(4), kind = mark and mark.kind or "shown",
        words = mark and mark.words }
      list[#list + 1] = open
    elseif l:match "^## " then
      section = l:sub(4)
    end
    local kind, words = l:match "^<!%-%- (%l+) ?(.-) %-%->$"
    if kind then
      mark = { kind = kind, words = words }
    elseif l ~= "" then
      mark = nil
    end
  end
  return list
end

local there = {}
local function has(need)
  if there[need] == nil then
    local _, _, status
    if need:sub(1, 1) == "$" then
      _, _, status = child.shell(need:sub(2) .. " --version")
    else
      _, _, status = child.mocl { "-e", ("require %q"):format(need) }
    end
    there[need] = status == 0
  end
  return there[need]
end

local function require_all(words)
  local missing = {}
  for need in words:gmatch "%S+" do
    if need ~= "server" and not has(need) then
      local name = need:gsub("^%$", "")
      missing[#missing + 1] = ("%s (Debian: %s)"):format(name, PACKAGE[name] or "lua-" .. name)
    end
  end
  if #missing > 0 then
    T.skip("no " .. table.concat(missing, ", "))
  end
end

-- What changes from run to run.
local function steady(text)
  text = text:gsub("127%.0%.0%.1:%d+", "127.0.0.1:PORT"):gsub("(# Started on )[^\n]*", "%1DATE")
  return docs.trimmed(text:gsub("%d+%.%d+ seconds", "TIME seconds"))
end

local function run(block, files)
  local dir = T.tmpdir()
  for _, f in ipairs(files) do
    assert(fs.write(dir .. "/" .. f.words, f.text))
  end
  assert(fs.write(dir .. "/snippet." .. block.language, block.text))
  assert(fs.write(dir .. "/server.lua", SERVER))
  local server = block.words:find "server" and [[
timeout 60 mocl server.lua >server.log 2>&1 & pid=$!
await test -e port
REWARD_SERVER=http://127.0.0.1:$(cat port); export REWARD_SERVER
]] or ""
  local command = block.language == "sh" and "timeout 60 sh snippet.sh" or "timeout 60 mocl snippet.lua"
  local out, err, status = child.shell(([[
MOCL=$(readlink -f "$MOCL"); MOCL_DIR=$(dirname "$MOCL"); MOCL_RECIPES=$(readlink -f recipes); cd %s
mkdir bin; ln -s "$MOCL" bin/mocl; PATH=$PWD/bin:$PATH; export PATH MOCL_DIR MOCL_RECIPES
%s%s%s; status=$?
%s
exit $status]]):format(dir, child.AWAIT, server, command, server ~= "" and "wait $pid" or ""))
  T.eq(steady(out), docs.trimmed(table.concat(block.want or {}, "\n")), err)
  return err, status
end

local page = assert(docs.read "docs/guide/lua-libraries.md")
local list, ran = blocks(page), 0
for _, block in ipairs(list) do
  if block.kind == "run" then
    ran = ran + 1
    T.test(("%s (line %d)"):format(block.section, block.line), function()
      require_all(block.words)
      local files = {}
      for _, other in ipairs(list) do
        if other.kind == "file" and other.section == block.section then
          files[#files + 1] = other
        end
      end
      run(block, files)
    end)
  end
end

T.test("the blocks of the page are found, and a wrong one fails", function()
  T.ok(ran >= 12, "blocks: " .. ran)
  local found = blocks("## A\n<!-- file x.lua -->\n```lua\nreturn 5\n```\n\n"
    .. "<!-- run -->\n```lua\nprint(require 'x')\n```\n\n```text\n6\n```\n")
  T.eq({ #found, found[1].words, found[2].kind, found[2].want[1] }, { 2, "x.lua", "run", "6" })
  local ok, message = pcall(run, found[2], { found[1] })
  T.ok(not ok and message:find('got "5', 1, true), message)
end)

-- Each reward waits in a library; once it has been asked for the first update, it sends the program the signal.
local REWARDS = [[
local socket, uv, cqueues, fs = require "socket", require "luv", require "cqueues", require "mocl.fs"
local function lengths(wait)
  return function(_, responses)
    wait()
    local scores = {}
    for i, text in ipairs(responses) do scores[i] = #text end
    return scores
  end
end
return {
  humor = lengths(function()
    socket.sleep(0.001)
    local timer = uv.new_timer()
    timer:start(1, 0, function() timer:close() end)
    uv.run()
  end),
  helpful = lengths(function()
    local loop = cqueues.new()
    loop:wrap(function()
      if fs.exists "run/checkpoint-000002" and not fs.exists "sent" then
        fs.write("sent", "")
        io.popen("kill -SIGNAL $PPID"):close()
      end
      cqueues.sleep(0.001)
    end)
    assert(loop:loop())
  end),
}]]

T.test("a signal while rewards wait in libraries: a checkpoint, and the run goes on", function()
  require_all "socket luv cqueues"
  local results = {}
  for i, signal in ipairs { "0", "INT", "TERM" } do
    local dir = T.tmpdir()
    assert(fs.write(dir .. "/rewards.lua", (REWARDS:gsub("SIGNAL", signal))))
    local command = ([[MOCL=$(readlink -f "$MOCL"); RECIPE=$(readlink -f recipes/moc_hh.lua); cd %s
"$MOCL" "$RECIPE" preset=smoke quiet=true out=run rewards=rewards.lua documents=40 base.steps=4 sft.examples=20 \
  eval.answers=2 resume=auto]]):format(dir)
    local _, err, status = child.shell(command)
    if signal ~= "0" then
      T.eq(status, signal == "INT" and 130 or 143, err)
      T.ok(err:find(("SIG%s after iteration 3; continue with resume=auto"):format(signal), 1, true), err)
      T.eq(fs.exists(dir .. "/run/lock"), nil)
      _, err, status = child.shell(command)
    end
    T.eq(status, 0, err)
    results[i] = assert(fs.sha256(dir .. "/run/result.json"))
  end
  T.eq(results, { results[1], results[1], results[1] })
end)
