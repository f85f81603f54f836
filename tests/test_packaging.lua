-- what is installed and what editors, shells and readers of manual pages get

local T = require "t"
local child = require "child"
local docs = require "docs_coverage"
local fs = require "mocl.fs"

local function load_annotations()
  local known = arg
  _G.arg = { [-1] = known[-1], [0] = "lua/packaging/none" }
  local M = assert(loadfile "lua/packaging/annotations.lua")()
  _G.arg = known
  return M
end

T.test("declarations for editors: every function has one, and every one is of a function", function()
  local annotations = load_annotations()
  local files, declared = annotations.files(), 0
  local function compare(file, mark, set, what)
    local have = {}
    for _, name in ipairs(annotations.declared(files[file] or "")) do
      local owner, f = name:match "^(%w+[.:])(.*)$"
      if owner == mark then
        declared, have[f] = declared + 1, true
        T.ok(set[f], ("%s declares %s, which %s has not"):format(file, name, what))
      end
    end
    for f in pairs(set) do
      T.ok(have[f] or docs.exceptions[what .. "." .. f], ("%s.%s has no declaration"):format(what, f))
    end
  end
  for _, module in ipairs(docs.modules()) do
    if not docs.undocumented[module] and type(require(module)) == "table" then
      local functions, methods = docs.names(module)
      local file = ("library/%s.lua"):format(module:gsub("%.", "/"))
      compare(file, "M.", functions, module)
      compare(file, "object:", methods, module)
    end
  end
  for class, set in pairs(docs.c_classes()) do
    if not docs.hidden_classes[class] then
      compare(("library/classes/%s.lua"):format(class), "object:", set, class)
    end
  end
  T.ok(declared > 400, declared)
  for name, text in pairs(files) do
    T.ok(name == "config.json" or load(text, name), name)
  end
  local text = files["library/mocl/minnorm.lua"]
  T.ok(text:find("---@param gram any\n---@param options any\n---@return any ... weights, info\nfunction M.solve(gram, options) end", 1, true), text)
  T.ok(text:find("--- weights w on the simplex", 1, true), text)
end)

local function manual(dir)
  assert(fs.mkdir(dir))
  local out, err, status = child.mocl { "lua/packaging/man.lua", dir }
  T.eq({ err, status }, { "", 0 }, out)
end

T.test("manual pages: the program, each tool, each of its options", function()
  local dir = T.tmpdir() .. "/man"
  manual(dir)
  local text = child.read(dir .. "/mocl.1")
  T.ok(text:find('\n.It "-e stat"', 1, true) or text:find('\n.It "\\-e stat"', 1, true), text)
  T.ok(text:find("\n.It Ev MOCL_RECIPES\n", 1, true), text)
  for _, name in ipairs(assert(fs.list "stdlib/mocl/tools")) do
    local tool = name:match "^(.*)%.lua$"
    local page = child.read(("%s/mocl-%s.1"):format(dir, tool))
    local shown, n = child.mocl { tool, "--help" }, 0
    for key in shown:gmatch "\n  ([%a_][%w_.]*) +%a+ " do
      n = n + 1
      T.ok(page:find('\n.It "' .. key .. "=", 1, true), tool .. ": " .. key)
    end
    T.ok(n > 0, shown)
  end
end)

T.test("manual pages: mandoc -Tlint has nothing to say", function()
  if not os.execute "command -v mandoc >/dev/null 2>&1" then
    T.skip "no mandoc"
  end
  local dir = T.tmpdir() .. "/man"
  manual(dir)
  local out = child.shell(("mandoc -Tlint %s/*.1"):format(dir))
  for line in out:gmatch "[^\n]+" do -- it looks for other pages among those that are installed
    local other = line:match "referenced manual not found: Xr (%S+) 1"
    T.ok(other and io.open(("%s/%s.1"):format(dir, other)), line)
  end
end)

T.test("completion of bash: tools, recipes, keys, choices", function()
  if not os.execute "command -v bash >/dev/null 2>&1" then
    T.skip "no bash"
  end
  local function complete(...)
    local words = {}
    for i, w in ipairs { ... } do
      words[i] = child.quote(w)
    end
    local out, err = child.shell(([[
mkdir -p %s; ln -sf "$(realpath "$MOCL")" %s/mocl; PATH=%s:$PATH MOCL_RECIPES=$PWD/recipes bash -c '
. lua/packaging/mocl.bash; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _mocl; printf "%%s\n" "${COMPREPLY[@]}"' bash %s]])
      :format(T.tmp_root .. "/bin", T.tmp_root .. "/bin", T.tmp_root .. "/bin", table.concat(words, " ")))
    T.eq(err, "")
    return out
  end
  T.tmpdir()
  T.eq(complete("mocl", "tok"), "tokenize\n")
  T.ok(complete("mocl", "moc_"):find("moc_hh\n", 1, true))
  T.eq(complete("mocl", "--he"), "--help\n")
  T.eq(complete("mocl", "chat", "temp"), "temperature=\n")
  T.eq(complete("mocl", "chat", "dtype", "=", "b"), "bf16\n")
  T.eq(complete("mocl", "chat", "dtype", "="), "f32\nbf16\n")
end)

T.test("make install, a program built with pkg-config, make uninstall", function()
  if arg[-1]:find "build/" then
    T.skip "the plain build is the one that is installed"
  end
  local prefix = T.tmpdir() .. "/prefix"
  local make = ("make -s -o all -o mocl PREFIX=%s "):format(prefix)
  local out, err, status = child.shell(make .. "install")
  T.eq({ out, err, status }, { "", "", 0 })
  local function there(path)
    local f = io.open(prefix .. "/" .. path)
    return f and f:close()
  end
  for _, path in ipairs { "bin/mocl", "lib/lua/5.4/mocl.so", "include/mocl.h", "share/mocl/recipes/moc_hh.lua", "share/mocl/luals/config.json",
    "share/mocl/luals/library/mocl/tensor.lua", "share/man/man1/mocl.1", "share/man/man1/mocl-chat.1",
    "share/bash-completion/completions/mocl", "share/doc/mocl/docs/embedding.md", "share/doc/mocl/examples/reward.c", "share/doc/mocl/LICENSE" } do
    T.ok(there(path), path)
  end
  local flags = ("export PKG_CONFIG_PATH=%s/lib/pkgconfig; cd %s; "):format(prefix, prefix)
  out, err, status = child.shell(flags .. "cc -o shared share/doc/mocl/examples/minimal.c $(pkg-config --cflags --libs mocl) && ./shared")
  T.eq({ out, err, status }, { "weight 0.10\n", "", 0 }, "rpath")
  out, err, status = child.shell(flags .. "mv lib/libmocl.so lib/away; cc -o static share/doc/mocl/examples/minimal.c " ..
    "$(pkg-config --static --cflags --libs mocl) && ./static; mv lib/away lib/libmocl.so")
  T.eq({ out, err, status }, { "weight 0.10\n", "", 0 }, "Libs.private")
  out, err, status = child.shell(("cd %s && env -i LUA_CPATH='%s/lib/lua/5.4/?.so' lua5.4 -e 'print(require %q.zeros {1})'")
    :format(prefix, prefix, "mocl.tensor"))
  if status ~= 127 then
    T.eq({ out, err, status }, { "tensor (1) f32 cpu\n{0}\n", "", 0 })
  end
  out, err, status = child.shell(("cd %s && rm shared static && cd - >/dev/null && %suninstall && find %s -type f -o -type l"):format(prefix, make, prefix))
  T.eq({ out, err, status }, { "", "", 0 })
end)

T.test("the rockspec names what is there", function()
  local env = {}
  assert(loadfile("mocl-dev-1.rockspec", "t", env))()
  T.eq(env.package, "mocl")
  T.eq(env.build.type, "make")
  T.eq(env.build.install.lib.mocl, "mocl.so")
  for _, directory in ipairs(env.build.copy_directories) do
    T.ok(fs.list(directory), directory)
  end
end)
