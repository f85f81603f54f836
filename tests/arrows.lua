--- arrows: which file names which, by the requires of Lua files and the includes of C files, and what must not be: an
-- arrow from a room up to one above it, and circles. Works on a table path -> text, so that a test can seed an arrow.

local M = {}

--- The rooms of stdlib/mocl from the ground up; a file may require its own room and those in front of it. The ground is
-- the files of stdlib/mocl itself and the modules in C; the scripts of lua/packaging stand above all.
M.ROOMS = { "ground", "metrics", "method", "run", "data", "lm", "world", "report", "train", "tools", "recipes", "packaging" }

--- The folders of C files, and those that each may include beside itself.
M.FOLDERS = {
  ["kernels"] = {},
  ["kernels/cpu"] = { "kernels" },
  ["kernels/cuda/emu"] = { "kernels" },
  ["kernels/cuda"] = { "kernels", "kernels/cuda/emu" },
  ["runtime"] = { "kernels", "kernels/cuda" },
  ["runtime/maths"] = { "runtime" },
  ["runtime/io"] = { "runtime", "kernels" },
  ["runtime/tok"] = { "runtime", "runtime/io" },
  ["runtime/lm"] = { "runtime", "runtime/io", "kernels" },
  ["lua"] = { "runtime", "runtime/maths", "runtime/io", "runtime/tok", "runtime/lm", "kernels" },
}

local PATH = { "", "runtime/", "kernels/", "kernels/cuda/", "lua/" } -- where an include is looked for, as the Makefile says

--- path -> text of the files below root that have arrows.
function M.files(root)
  local files = {}
  local list = assert(io.popen(("cd '%s' && find stdlib recipes runtime kernels lua -name '*.lua' -o -name '*.[ch]' -o -name '*.cu' "
    .. "-o -name '*.cuh' -o -name '*.cpp'"):format(root)))
  for path in list:lines() do
    local f = assert(io.open(root .. "/" .. path, "rb"))
    files[path] = f:read "a"
    f:close()
  end
  list:close()
  return files
end

local function is_lua(path)
  return path:find "%.lua$" ~= nil
end

local function module_of(path)
  return path:gsub("^stdlib/", ""):gsub("%.lua$", ""):gsub("/init$", ""):gsub("/", ".")
end

--- The room of a Lua file, the folder of a C file.
function M.room(path)
  if not is_lua(path) then
    return path:match "^(.*)/"
  end
  return path:match "^stdlib/mocl/([^/]*)/" or path:match "^(recipes)/" or path:match "^lua/(packaging)/" or "ground"
end

local function sorted(set)
  local list = {}
  for key in pairs(set) do
    list[#list + 1] = key
  end
  table.sort(list)
  return list
end

--- path -> list of the paths that it names.
function M.arrows(files)
  local by_module, out = {}, {}
  for path in pairs(files) do
    if path:find "^stdlib/" then
      by_module[module_of(path)] = path
    end
  end
  for path, text in pairs(files) do
    local named = {}
    if is_lua(path) then
      for name in text:gsub("%-%-[^\n]*", ""):gmatch "require%s*%(?%s*[\"']([%w_.]+)[\"']" do
        named[by_module[name] or ""] = true
      end
    else
      for name in ("\n" .. text):gmatch '\n%s*#%s*include%s*"([^"\n]+)"' do
        local found = files[path:match "^.*/" .. name] and path:match "^.*/" .. name
        for _, dir in ipairs(PATH) do
          found = found or files[dir .. name] and dir .. name
        end
        named[found or ""] = true
      end
    end
    named[""], named[path] = nil, nil
    out[path] = sorted(named)
  end
  return out
end

--- Groups of nodes that reach each other, by arrows (node -> list of nodes): Tarjan's algorithm.
function M.circles(arrows)
  local index, low, on, stack, n, found = {}, {}, {}, {}, 0, {}
  local function visit(v)
    n = n + 1
    index[v], low[v], on[v], stack[#stack + 1] = n, n, true, v
    for _, w in ipairs(arrows[v] or {}) do
      if not index[w] then
        visit(w)
        low[v] = math.min(low[v], low[w])
      elseif on[w] then
        low[v] = math.min(low[v], index[w])
      end
    end
    if low[v] == index[v] then
      local group = {}
      repeat
        local w = table.remove(stack)
        on[w], group[#group + 1] = nil, w
      until w == v
      if #group > 1 then
        table.sort(group)
        found[#found + 1] = table.concat(group, " ")
      end
    end
  end
  for _, v in ipairs(sorted(arrows)) do
    if not index[v] then
      visit(v)
    end
  end
  table.sort(found)
  return found
end

--- Arrows between files without their endings: of x.c and x.h alike, and what a header without a source names counts for
-- whoever includes it.
local function units(files, arrows)
  local function unit(path)
    return path:gsub("%.%w+$", "")
  end
  local has_source, out = {}, {}
  for path in pairs(files) do
    if not is_lua(path) and not path:find "%.c?u?h$" then
      has_source[unit(path)] = true
    end
  end
  local function collect(named, path, seen)
    for _, to in ipairs(arrows[path]) do
      if has_source[unit(to)] then
        named[unit(to)] = true
      elseif not seen[to] then
        seen[to] = true
        collect(named, to, seen)
      end
    end
  end
  for path in pairs(files) do
    local u = unit(path)
    if has_source[u] then
      out[u] = out[u] or {}
      collect(out[u], path, {})
      out[u][u] = nil
    end
  end
  for u, named in pairs(out) do
    out[u] = sorted(named)
  end
  return out
end

local function may(from, to)
  if from == to then
    return true
  end
  local above
  for i, room in ipairs(M.ROOMS) do
    if room == from then
      above = i
    elseif room == to then
      return above == nil and to ~= "tools" -- recipes are programs beside the tools
    end
  end
  for _, folder in ipairs(M.FOLDERS[from] or {}) do
    if folder == to then
      return true
    end
  end
  return false
end

--- What is wrong, a list of lines: arrows that no rule allows, rooms that no rule names, circles of files.
function M.check(files)
  local arrows, wrong, known, lua = M.arrows(files), {}, {}, {}
  for _, room in ipairs(M.ROOMS) do
    known[room] = true
  end
  for path, list in pairs(arrows) do
    local from = M.room(path)
    if not known[from] and not M.FOLDERS[from] then
      wrong[#wrong + 1] = ("%s: a room that tests/arrows.lua does not know"):format(path)
    end
    for _, to in ipairs(list) do
      if not may(from, M.room(to)) then
        wrong[#wrong + 1] = ("%s names %s: %s stands below %s"):format(path, to, from, M.room(to))
      end
    end
    lua[path] = is_lua(path) and list or nil
  end
  table.sort(wrong)
  for _, circle in ipairs(M.circles(lua)) do
    wrong[#wrong + 1] = "a circle of requires: " .. circle
  end
  for _, circle in ipairs(M.circles(units(files, arrows))) do
    wrong[#wrong + 1] = "a circle of includes: " .. circle
  end
  return wrong
end

--- Circles of C files that call each other, by the symbols of their objects in build/; nil where there
-- are none.
function M.calls(files, build)
  local owner, wanted, arrows = {}, {}, {}
  for path in pairs(files) do
    local object = path:match "^%l+/.*%.c$" and path:sub(1, -3)
    local nm = object and io.popen(("nm --extern-only '%s/%s.o' 2>/dev/null"):format(build, object))
    for line in nm and nm:lines() or function() end do
      local kind, name = line:match "(%a) ([%w_]+)$"
      if kind == "U" then
        wanted[object] = wanted[object] or {}
        wanted[object][name] = true
      elseif name then
        owner[name] = object
      end
    end
    if nm then
      nm:close()
    end
  end
  if not next(owner) then
    return nil
  end
  for object, names in pairs(wanted) do
    local named = {}
    for name in pairs(names) do
      named[owner[name] or object] = true
    end
    named[object] = nil
    arrows[object] = sorted(named)
  end
  return M.circles(arrows)
end

--- How many files, lines and arrows each room has: lines of text.
function M.picture(files)
  local arrows, rooms = M.arrows(files), {}
  for path, text in pairs(files) do
    local r = M.room(path)
    rooms[r] = rooms[r] or { files = 0, lines = 0, to = {} }
    rooms[r].files = rooms[r].files + 1
    rooms[r].lines = rooms[r].lines + select(2, text:gsub("\n", ""))
    for _, to in ipairs(arrows[path]) do
      local other = M.room(to)
      if other ~= r then
        rooms[r].to[other] = (rooms[r].to[other] or 0) + 1
      end
    end
  end
  local out = {}
  for _, name in ipairs(sorted(rooms)) do
    local parts = {}
    for _, to in ipairs(sorted(rooms[name].to)) do
      parts[#parts + 1] = ("%s %d"):format(to, rooms[name].to[to])
    end
    out[#out + 1] = ("%-18s %3d files %6d lines  -> %s"):format(name, rooms[name].files, rooms[name].lines, table.concat(parts, ", "))
  end
  return out
end

return M
