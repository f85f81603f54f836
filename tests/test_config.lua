-- test_config: mocl.run.config: types from defaults, order of overrides, and the text of every error

local T = require "t"
local config = require "mocl.run.config"
local json = require "mocl.json"
local options_of = require "mocl.options"

local schema = {
  { "seed", 0, "random seed", min = 0 },
  { "device", "cpu", "where tensors live", choices = { "cpu", "cuda" } },
  { "out", nil, "directory", type = "string" },
  { "limit", nil, "a limit", type = "integer" },
  { "grid", { 0, 0.5, 1 }, "preferences", min = 0, max = 1 },
  { "names", {}, "names", list_of = "string" },
  { "quiet", false, "no progress" },
  { "ppo.lr", 4e-3, "Adam step size", min = 0 },
  { "ppo.epochs", 4, "passes over a batch", min = 1, max = 100 },
  { "ppo.scale", 1, "a number whose default is whole", type = "number" },
  { "moc.control.phi", 0.02, "tolerance" },
}
local meta = {
  recipe = "demo",
  doc = [[
    A recipe for tests.
  ]],
  presets = {
    smoke = { ["ppo.epochs"] = 1, seed = 3 },
    paper = { ppo = { lr = 1e-5 }, grid = { 0, 1 } },
  },
}

local function parse(...)
  return config.parse(schema, { [0] = "demo.lua", ... }, meta)
end

-- The exact message, which has no position in front.
local function says(message, ...)
  local ok, e = pcall(parse, ...)
  T.ok(not ok, "no error for " .. table.concat({ ... }, " "))
  T.eq(e, message)
end

local function write_file(name, text)
  local path = T.tmpdir() .. "/" .. name
  local f = assert(io.open(path, "wb"))
  assert(f:write(text))
  assert(f:close())
  return path
end

T.test("defaults, nested", function()
  local cfg, info = parse()
  T.eq(cfg.ppo.lr, 4e-3)
  T.eq(cfg.moc.control.phi, 0.02)
  T.eq(cfg.grid, { 0, 0.5, 1 })
  T.eq(cfg.out, nil)
  T.eq(info.changed, {})
  T.eq(info.recipe, "demo")
  T.eq(info.script, "demo.lua")
end)

T.test("a schema's default lists stay as they are", function()
  local cfg = parse()
  cfg.grid[1] = 9
  T.eq(parse().grid[1], 0.0)
end)

T.test("values from text", function()
  local cfg, info = parse("ppo.lr=1e-5", "seed=0x10", "ppo.epochs=1e1", "quiet=true",
    "grid=0,.25,1", "names=a,b c,", "out=a=b", "ppo.scale=2", "limit=7")
  T.eq(cfg.ppo.lr, 1e-5)
  T.eq(cfg.seed, 16)
  T.eq(math.type(cfg.ppo.epochs), "integer")
  T.eq(cfg.ppo.epochs, 10)
  T.eq(cfg.quiet, true)
  T.eq(cfg.grid, { 0, 0.25, 1 })
  T.eq(cfg.names, { "a", "b c", "" })
  T.eq(cfg.out, "a=b")
  T.eq(math.type(cfg.ppo.scale), "float")
  T.eq(cfg.limit, 7)
  T.eq(#info.changed, 9)
  T.eq(info.changed[1], { key = "seed", value = 16, default = 0 })
end)

T.test("lists may be empty, optional values unset again", function()
  local cfg = parse("grid=", "limit=3", "limit=nil", "out=x", "out=nil")
  T.eq(cfg.grid, {})
  T.eq(rawget(cfg, "limit"), nil)
  T.eq(rawget(cfg, "out"), nil)
  T.eq(parse("names=nil").names, { "nil" })
end)

T.test("preset first, then left to right, last wins", function()
  local cfg, info = parse("ppo.epochs=7", "preset=smoke", "seed=5", "seed=6")
  T.eq(cfg.ppo.epochs, 7)
  T.eq(cfg.seed, 6)
  T.eq(info.preset, "smoke")
  T.eq(parse("preset=smoke").seed, 3)
  cfg = parse("preset=smoke", "preset=paper")
  T.eq(cfg.seed, 0)
  T.eq(cfg.ppo.lr, 1e-5)
  T.eq(cfg.grid, { 0, 1 })
end)

-- The options of C functions and of Lua functions are looked up by one rule.
T.test("what a misspelt name may have meant", function()
  local nearest, names = options_of.nearest, { "device", "dtype", "indent", "ppo.lr", "n" }
  for word, want in pairs { devise = "device", devcie = "device", device = "device", dtyp = "dtype", dtpye = "dtype", indnt = "indent",
    lr = "ppo.lr", N = "n", ["ppo.l"] = "ppo.lr", [("x"):rep(70)] = false, dev = false, decive = "device",
    dixxce = false } do
    T.eq(nearest(word, names) or false, want, word)
  end
  T.eq(nearest("x", {}), nil)
  T.eq(nearest("bb", { "ab", "bb", "ba" }), "bb")
  T.eq(nearest("cb", { "ab", "bb" }), "ab", "the first of equals")
  T.raises("did you mean 'indent'", json.encode, 1, { idnent = 2 })
  T.raises("unknown option 'ident_by'$", json.encode, 1, { ident_by = 2 })
end)

T.test("unknown options name the nearest", function()
  says("unknown option 'pp.lr' (did you mean 'ppo.lr'?)", "pp.lr=1")
  says("unknown option 'ppo.rl' (did you mean 'ppo.lr'?)", "ppo.rl=1")
  says("unknown option 'lr' (did you mean 'ppo.lr'?)", "lr=1")
  says("unknown option 'phi' (did you mean 'moc.control.phi'?)", "phi=1")
  says("unknown option 'batch_size' (--help lists the options)", "batch_size=1")
  says("unknown option 'ppo' (--help lists the options)", "ppo=1")
end)

T.test("wrong types", function()
  says("option ppo.lr: expected a number, got 'fast'", "ppo.lr=fast")
  says("option ppo.lr: expected a number, got ''", "ppo.lr=")
  says("option ppo.lr: expected a number, got 'nan'", "ppo.lr=nan")
  says("option ppo.lr: expected a number, got 'inf'", "ppo.lr=inf")
  says("option ppo.lr: expected a number, got '1e999'", "ppo.lr=1e999")
  says("option ppo.lr: expected a number, got 'nil'", "ppo.lr=nil")
  says("option seed: expected an integer, got '1.5'", "seed=1.5")
  says("option seed: expected an integer, got '1e30'", "seed=1e30")
  says("option quiet: expected true or false, got '1'", "quiet=1")
  says("option grid: expected a number, got 'x'", "grid=0,x")
  says("option grid: expected a number, got '[0'", "grid=[0,1]")
end)

T.test("ranges and choices", function()
  says("option ppo.lr: -1 is below the minimum 0", "ppo.lr=-1")
  says("option ppo.epochs: 101 is above the maximum 100", "ppo.epochs=101")
  says("option grid: 1.5 is above the maximum 1", "grid=0,1.5")
  says("option device: expected one of cpu, cuda, got 'cud' (did you mean 'cuda'?)", "device=cud")
  says("option device: expected one of cpu, cuda, got 'tpu3000'", "device=tpu3000")
end)

T.test("presets and arguments that are none", function()
  says("unknown preset 'smok' (did you mean 'smoke'?)", "preset=smok")
  says("unknown preset 'large' (presets: paper, smoke)", "preset=large")
  local expected = "': expected key=value, preset=NAME, @file.lua, --help or --print-config"
  says("argument 'foo" .. expected, "foo")
  says("argument '=1" .. expected, "=1")
  says("argument '@x.txt': expected a .lua or .json file", "@x.txt")
  T.raises("^unknown preset 'x' %(this recipe has none%)$", config.parse, schema, { "preset=x" })
end)

T.test("files of options", function()
  local path = write_file("o.lua", 'return { seed = 9, ppo = { lr = 1 }, ["ppo.epochs"] = 2 }')
  local cfg = parse("ppo.epochs=50", "@" .. path, "seed=11")
  T.eq(cfg.ppo.lr, 1.0)
  T.eq(math.type(cfg.ppo.lr), "float")
  T.eq(cfg.ppo.epochs, 2)
  T.eq(cfg.seed, 11)

  path = write_file("o.json", '{"ppo": {"lr": 0.5, "epochs": 3}, "grid": [0, 1], "limit": null}')
  cfg = parse("limit=4", "@" .. path)
  T.eq(cfg.ppo.epochs, 3)
  T.eq(cfg.grid, { 0, 1 })
  T.eq(rawget(cfg, "limit"), nil)
end)

T.test("an alias, and what was given", function()
  local schema = { { "tok.path", "", "a path", alias = "tok" }, { "tok.size", 3, "entries" }, { "lr", 0.5, "step" } }
  local meta = { presets = { p = { lr = 1.0, tok = { size = 4 } } } }
  local cfg, info = config.parse(schema, { "tok=x", "preset=p" }, meta)
  T.eq({ cfg.tok.path, cfg.tok.size, cfg.lr, info.given }, { "x", 4, 1.0, { "tok.path" } })
  local path = T.tmpdir() .. "/o.lua"
  assert(require "mocl.fs".write(path, 'return { tok = { path = "y", size = 5 } }'))
  cfg, info = config.parse(schema, { "@" .. path, "lr=2" }, meta)
  T.eq({ cfg.tok.path, cfg.tok.size, info.given }, { "y", 5, { "lr", "tok.path", "tok.size" } })
  assert(require "mocl.fs".write(path, 'return { tok = "z" }'))
  T.eq(config.parse(schema, { "@" .. path }, meta).tok.path, "z")
  T.eq(load(config.dump(cfg))().tok, { path = "y", size = 5 })
  T.raises("unknown option 'to'", config.parse, schema, { "to=1" }, meta)
  T.raises("option tok.path has the alias lr, which is an option too", config.parse, { { "tok.path", "", "p", alias = "lr" }, { "lr", 1, "l" } })
end)

T.test("files of options: errors name the file", function()
  local function fails(pattern, name, text)
    local path = write_file(name, text)
    local ok, e = pcall(parse, "@" .. path)
    T.ok(not ok)
    T.ok(e:sub(1, #path + 1) == path .. ":", e)
    T.ok(e:find(pattern), e)
  end
  fails("unknown option 'pp.lr' %(did you mean 'ppo.lr'%?%)$", "a.lua", 'return { ["pp.lr"] = 1 }')
  fails("unknown option 'ppo.lrr' ", "b.lua", "return { ppo = { lrr = 1 } }")
  fails("option ppo.lr: expected a number, got '1e%-5'$", "c.json", '{"ppo.lr": "1e-5"}')
  fails("option seed: expected an integer, got 1.5$", "d.lua", "return { seed = 1.5 }")
  fails("option grid: expected a list, got a table with other keys$", "e.lua",
    "return { grid = { 0, x = 1 } }")
  fails("option grid: expected a list, got 1$", "f.lua", "return { grid = 1 }")
  fails("option quiet: expected true or false, got a table$", "g.lua", "return { quiet = {} }")
  fails("option seed: expected an integer, got nil$", "h.json", '{"seed": null}')
  fails("option ppo.lr: expected a number, got inf$", "i.lua", "return { ppo = { lr = 1e999 } }")
  fails("expected a table of options, got 3", "j.lua", "return 3")
  fails("1: .*expected", "k.lua", "return {")
  fails("%S", "l.json", "{")
  fails("attempt to index a nil value %(global 'os'%)", "m.lua", "return { seed = os.time() }")
  says("argument '@/nowhere/x.lua': No such file or directory", "@/nowhere/x.lua")
  says("argument '@/nowhere/x.json': No such file or directory", "@/nowhere/x.json")
  local dir = T.tmpdir() .. "/d.lua"
  assert(os.execute(("mkdir '%s'"):format(dir)))
  says(("argument '@%s': is a directory"):format(dir), "@" .. dir)
end)

T.test("--help", function()
  local text, code
  local m = { exit = function(c) code = c end, print = function(s) text = s end }
  for k, v in pairs(meta) do
    m[k] = v
  end
  config.parse(schema, { [0] = "demo.lua", "--help", "ppo.lr=1e-5" }, m)
  T.eq(code, 0)
  for _, want in ipairs {
    "^demo: A recipe for tests%.\n", "usage: mocl demo%.lua %[key=value %.%.%.%]",
    "\ngeneral\n  seed  +integer  0 +random seed\n",
    "  device  +string  +cpu +where tensors live %(cpu|cuda%)\n",
    "  grid  +numbers  +0,0%.5,1 +preferences\n", "  out  +string  +unset +directory\n",
    "\nppo\n  ppo%.lr  +number  +0%.004 +Adam step size %[now 1e%-05%]\n",
    "\npresets\n  paper +grid=0,1 ppo%.lr=1e%-05\n  smoke +ppo%.epochs=1 seed=3$",
  } do
    T.ok(text:find(want), want .. " in\n" .. text)
  end
end)

T.test("--print-config prints Lua that reads back", function()
  local text
  local m = { exit = function() end, print = function(s) text = s end, presets = meta.presets }
  local cfg = config.parse(schema, { "--print-config", "out=a \"b\"\n\1" .. "2", "ppo.lr=0.1" }, m)
  T.eq(load(text, "config", "t", {})(), cfg)
end)

T.test("dump is sorted and exact", function()
  local cfg = { b = 0.1, a = { c = 1.0, ["end"] = "x\\", list = { 1, 2.5 } }, n = 1e-5, e = {},
    x = 2 / 3, big = 1e300, i = 3 }
  local text = config.dump(cfg)
  T.eq(text, [[
return {
  a = {
    c = 1.0,
    ["end"] = "x\\",
    list = { 1, 2.5 },
  },
  b = 0.1,
  big = 1e+300,
  e = {},
  i = 3,
  n = 1e-05,
  x = 0.6666666666666666,
}
]])
  T.eq(load(text)(), cfg)
end)

T.test("load", function()
  local path = write_file("c.lua", config.dump { a = 1 })
  T.eq(config.load(path), { a = 1 })
  T.fails("nowhere.lua: No such file", config.load, "/nowhere.lua")
  T.fails("e.lua: expected a table of options, got 'text'$", config.load,
    write_file("e.lua", "return 'text'"))
end)

T.test("changed and diff", function()
  local cfg = parse("ppo.lr=1e-5", "grid=", "limit=2")
  T.eq(config.changed(cfg, schema), {
    { key = "limit", value = 2 },
    { key = "grid", value = {}, default = { 0, 0.5, 1 } },
    { key = "ppo.lr", value = 1e-5, default = 4e-3 },
  })
  T.eq(config.diff(cfg, cfg), {})
  T.eq(config.diff(cfg, parse()), {
    { key = "grid", b = { 0, 0.5, 1 } },
    { key = "limit", a = 2 },
    { key = "ppo.lr", a = 1e-5, b = 4e-3 },
  })
  -- a group without set options is no difference in itself
  T.eq(config.diff({ g = {} }, { g = { x = 1 } }), { { key = "g.x", b = 1 } })
  T.eq(config.diff({ g = {} }, {}), {})
end)

T.test("a row that stands for keys of any name", function()
  local schema = { { "reward.steps", 3, "steps" }, { "reward.NAME", nil, "directory", type = "string", named = true } }
  local cfg, info = config.parse(schema, { "reward.b=x", "reward.steps=4", "reward.a=y", "reward.b=z" })
  T.eq(cfg, { reward = { steps = 4, a = "y", b = "z" } })
  T.eq(info.named, { ["reward.NAME"] = { "b", "a" } })
  T.eq(info.given, { "reward.a", "reward.b", "reward.steps" })
  T.eq(config.changed(cfg, schema), { { key = "reward.steps", value = 4, default = 3 } })
  T.eq(info.changed[#info.changed], { key = "reward.a", value = "y" })
  local file = T.tmpdir() .. "/o.lua"
  local f = assert(io.open(file, "w"))
  f:write 'return { reward = { c = "file" } }'
  f:close()
  T.eq(config.parse(schema, { "@" .. file, "reward.d=nil" }), { reward = { steps = 3, c = "file" } })
  T.raises("unknown option 'reward.NAME'", config.parse, schema, { "reward.NAME=x" })
  T.raises("unknown option 'reward.a.b'", config.parse, schema, { "reward.a.b=x" })
  T.raises("option reward.a: is empty", config.parse, schema, { "reward.a=" })
  T.raises("row 1 has no valid key", config.parse, { { "reward.x", nil, "x", type = "string", named = true } }, {})
end)

T.test("common puts the rows of every recipe in front", function()
  local rows = config.common { { "seed", 7, "own seed" }, { "x", 1, "x" } }
  local cfg = config.parse(rows, {})
  T.eq(cfg.seed, 7)
  T.eq(cfg.device, "cpu")
  T.eq(cfg.x, 1)
  T.eq(rows[1][1], "out")
  T.eq(rows[#rows][1], "x")
  local seeds = 0
  for _, row in ipairs(rows) do
    seeds = seeds + (row[1] == "seed" and 1 or 0)
  end
  T.eq(seeds, 1)
end)

T.test("mistakes in a schema", function()
  local function bad(pattern, ...)
    T.raises(pattern, config.parse, { ... }, {})
  end
  bad("option a appears twice", { "a", 1, "x" }, { "a", 2, "x" })
  bad("a is an option and a group %(a%.b%)", { "a", 1, "x" }, { "a.b", 2, "x" })
  bad("row 1 has no valid key", { 1, 1, "x" })
  bad("row 1 has no valid key", { "a..b", 1, "x" })
  bad("row 1 has no valid key", { "a.", 1, "x" })
  bad("option a has no line of documentation", { "a", 1 })
  bad("option a needs type=", { "a", nil, "x" })
  bad("option a needs type=", { "a", 1, "x", type = "float" })
  bad("option a needs list_of=", { "a", {}, "x" })
  bad("option a needs list_of=", { "a", { 1, "b" }, "x" })
  bad("'preset' is reserved", { "preset", 1, "x" })
  bad("option a: 0 is below the minimum 1", { "a", 0, "x", min = 1 })
  bad("option a: expected a number, got nan", { "a", 0 / 0, "x" })
end)

T.test("the first argument of a tool may stand without its name", function()
  local function named(...)
    return config.named_first("model", { [0] = "chat", ... })
  end
  T.eq(named("dir", "seed=1"), { [0] = "chat", "model=dir", "seed=1" })
  for _, word in ipairs { "model=dir", "--help", "@file.lua" } do
    T.eq(named(word, "x"), { [0] = "chat", word, "x" })
  end
  T.eq(named(), { [0] = "chat" })
  local given = { "dir" }
  config.named_first("model", given)
  T.eq(given, { "dir" }, "the arguments stay as they are")
end)

T.test("checked_path: the option is the one whose path a message begins with", function()
  local paths = { model = "/a", adapter = "/a/last" }
  T.eq(config.checked_path("model", paths, 5, nil), 5)
  T.raises("^option adapter: /a/last/x: gone$", config.checked_path, "model", paths, nil, "/a/last/x: gone")
  T.raises("^option model: /a/x: gone$", config.checked_path, "adapter", paths, nil, "/a/x: gone")
  T.raises("^option model: all is gone$", config.checked_path, "model", paths, nil, "all is gone")
end)
