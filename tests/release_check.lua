--- release_check.lua [NAME [all]] - whatever is released while a function runs, it ends on the old value or says so.
-- Every C function that mocl registers is called as release_samples.lua has it, once for each operand and each moment
-- at which a script can run inside it: a finalizer at the k-th collection (the collector is set to collect wherever it
-- may), a metamethod of an option table or list at the k-th access, a callback at the k-th call. Beside a release the
-- other things that such code may do to an operand are tried (acts in release_samples.lua). Alone in its process, as
-- the collector is slow where there is much to mark. An array has a moment for each entry, so that not all of them are
-- tried, but with `all` those of short calls. Prints what went wrong, and the number of functions and calls; exit
-- status 1 where something did. tests/test_release.lua runs it; under the address sanitizer what is used after it was
-- freed ends it.

local dir = arg[0]:match("^(.*)/[^/]*$")
package.path = dir .. "/?.lua"

local S = require "release_samples"
local only = arg[1] ~= "" and arg[1] or nil
local all = arg[2] == "all"
local scratch = assert(os.tmpname())
os.remove(scratch)

-- ---- the functions, from the tables they are registered in ----

local modules = {}
for name, opener in pairs(package.preload) do
  if name:find "^mocl" and debug.getinfo(opener, "S").what == "C" and not debug.getupvalue(opener, 1) then
    modules[#modules + 1] = name -- the openers of the modules in Lua have their text as an upvalue
  end
end
table.sort(modules)

local functions, names, seen = {}, {}, {}
local function collect(prefix, t)
  for key, v in pairs(t) do
    if type(v) == "function" and not seen[v] and debug.getinfo(v, "S").what == "C" then
      local name = (prefix .. tostring(key)):gsub(" ", "_")
      seen[v] = true
      functions[name] = v
      names[#names + 1] = name
    end
  end
end
for _, name in ipairs(modules) do
  collect(name .. ".", require(name))
end
for key, class in pairs(debug.getregistry()) do
  if type(key) == "string" and key:find "^mocl" and type(class) == "table" then
    collect(key .. ":", class)
    for _, t in pairs(class) do
      if type(t) == "table" then
        collect(key .. ":", t)
      end
    end
  end
end
table.sort(names)

-- ---- operands ----

local tensor, transformer = require "mocl.tensor", require "mocl.transformer.core"
local w = {
  T = tensor, transformer = transformer, optim = require "mocl.optim.core", data = require "mocl.data.core",
  safetensors = require "mocl.safetensors", rng = require "mocl.rng", dir = scratch,
}
local fs = require "mocl.fs"
assert(fs.mkdir(scratch))

function w.t(shape)
  w.seed = w.seed + 1
  return tensor.rand(shape, { seed = w.seed, low = .5, high = 1.5 })
end

function w.i(list)
  return tensor.new(list, { dtype = "i32" })
end

function w.copy(t)
  local new = {}
  for k, v in pairs(t) do
    new[k] = type(v) == "table" and w.copy(v) or v
  end
  return new
end

-- a string that is in no other place, so that it is collected when the list that holds it loses it
function w.text(s)
  return (s .. " "):rep(30)
end

function w.options(o)
  o.device = "cpu"
  return o
end

function w.model(adapted)
  local m = transformer.new(S.config, { key = 5 })
  if adapted then
    m:add_lora { r = 2, alpha = 4, key = 6 }
  end
  return m
end

local sorted_keys = require "mocl.options".sorted_keys
local tokenizer = require "mocl.tokenizer"
local trained = tokenizer.train({ "ab ab ab", "bab" }, { vocab_size = 262 })
assert(trained:save(scratch .. "/trained.json"))
local trained_text = assert(fs.read(scratch .. "/trained.json"))
trained:release()

function w.tokenizer_text()
  return trained_text
end

function w.tokenizer()
  return assert(tokenizer.load(scratch .. "/trained.json"))
end

function w.file(name, text)
  local path = scratch .. "/" .. name
  if not fs.exists(path) then
    assert(fs.write(path, text))
  end
  return path
end

local function release(object)
  local mt = getmetatable(object)
  local f = mt.release or mt.methods and mt.methods.release or mt.__close
  f(object)
end

-- a table is emptied
local function let_go(v)
  if type(v) == "table" then
    S.acts.table[1](v)
  else
    release(v)
  end
end

local function can_release(v)
  local mt = type(v) == "userdata" and getmetatable(v)
  return mt and (mt.release or mt.methods and mt.methods.release or mt.__close) and true
end

-- the objects among the arguments, in an order that is the same each time
local function operands(v, list, depth)
  if can_release(v) then
    list[#list + 1] = v
  elseif type(v) == "table" and depth < 4 then
    if depth > 0 then
      list[#list + 1] = v
    end
    for _, k in ipairs(sorted_keys(v)) do
      operands(v[k], list, depth + 1)
    end
  end
  return list
end

-- what a result says, without the objects: they may be released afterwards
local function shown(v, depth)
  if tensor.is_tensor(v) then
    return tostring(v):find "released" and "released" or { v.dtype, shown(v.shape), v.ndim == 0 and v:item() or v:totable() }
  elseif type(v) == "table" and (depth or 0) < 6 then
    local mt = getmetatable(v)
    v = mt and mt.inner or v
    local new = {}
    for k, x in pairs(v) do
      new[k] = shown(x, (depth or 0) + 1)
    end
    return new
  elseif type(v) == "userdata" or type(v) == "function" then
    return type(v)
  end
  return v
end

local function same(got, want)
  if got == "released" then -- an operand that is returned
    return true
  elseif type(got) ~= "table" or type(want) ~= "table" then
    return got == want
  end
  for k, v in pairs(want) do
    if not same(got[k], v) then
      return false
    end
  end
  for k in pairs(got) do
    if want[k] == nil then
      return false
    end
  end
  return true
end

-- ---- moments ----

local moment, at, act = 0, 0, nil -- moments so far in this call, the one at which `act` runs
local function now()
  moment = moment + 1
  if moment == at then
    act()
  end
end

local watching = false
local function watch() -- runs at each collection
  setmetatable({}, { __gc = function()
    if watching then
      now()
      watch()
    end
  end })
end

local function proxy(v)
  if type(v) ~= "table" then
    return v
  end
  local inner = {}
  for k, x in pairs(v) do
    inner[k] = proxy(x)
  end
  return setmetatable({}, {
    inner = inner,
    __index = function(_, k)
      now()
      return inner[k]
    end,
    __newindex = function(_, k, x)
      inner[k] = x
    end,
    __len = function()
      now()
      return #inner
    end,
  })
end

local ways = {}

function ways.finalizer(f, arguments)
  collectgarbage("incremental", 1, 1000, 50) -- a whole cycle at each place where the collector may run
  collectgarbage()
  watching = true
  watch()
  local result = table.pack(pcall(f, table.unpack(arguments)))
  watching = false
  collectgarbage("incremental", 200, 100, 13)
  return result
end

function ways.metamethod(f, arguments)
  for k, v in pairs(arguments) do
    arguments[k] = proxy(v)
  end
  return table.pack(pcall(f, table.unpack(arguments)))
end

function ways.callback(f, arguments)
  w.hook = now
  local result = table.pack(pcall(f, table.unpack(arguments)))
  w.hook = function() end
  return result
end

-- ---- the check ----

w.hook = function() end
local failures, calls = 0, 0
local function fail(name, text)
  failures = failures + 1
  io.write(name, ": ", text, "\n")
end

local function live()
  collectgarbage()
  collectgarbage()
  return tensor.memory().tensors
end

-- One call with operand `which` released at moment k, or the n-th of its other acts done; act 0: it is released, and
-- an error ends the call. Returns the number of moments, the result, the number of operands, and the number of other
-- acts.
local function try(name, way, which, k, want, n)
  w.seed = 0
  moment, at, act = 0, -1, nil
  local arguments = S[name](w)
  local list = operands(arguments, {}, 0)
  local object = list[which]
  local class = type(object) == "table" and "table" or object and getmetatable(object).__name
  local acts = S.acts[class] or {}
  act = object and function()
    (n and acts[n] or let_go)(object)
    if n == 0 then
      error "released on purpose"
    end
  end
  at = act and k or -1
  local result = ways[way](functions[name], arguments)
  at, act = -1, nil
  calls = calls + 1
  local label = ("%s, %s %d of operand %d"):format(name, way, k, which) .. (n and (", act %d"):format(n) or "")
  if result[1] then
    local got = shown(result)
    if want and not ((n or class == "table") and S.shows[class]) and not same(got, want) then
      fail(label, "another result than without a release")
    end
    want = want or got
  elseif not ((n or class == "table") and S.shows[class]) and not tostring(result[2]):find "released" then
    fail(label, tostring(result[2]))
  end
  for _, o in ipairs(list) do
    if type(o) == "userdata" then
      release(o)
    end
  end
  return moment, want, #list, #acts
end

local count = 0
for _, name in ipairs(names) do
  local sample = S[name]
  local general = false
  for _, method in ipairs(S.methods) do
    general = general or name:match ":(.*)$" == method
  end
  if sample and (not only or name:find(only, 1, true)) then
    count = count + 1
    local before = live()
    do
      local _, want, n = try(name, "callback", 0, 0)
      for way in pairs(ways) do
        if way ~= "metamethod" or not S.raw[name] then
          local moments = try(name, way, 0, 0, want) -- also: a proxy is as good as a table
          for which = 1, n do
            for k = 1, moments do
              if k <= 5 or k == moments or k % 9 == 0 and k < 60 or all and n < 9 and k < 25 then
                local _, _, _, n_acts = try(name, way, which, k, want)
                for i = way == "finalizer" and 1 or 0, (k <= 3 or k == moments or all and n < 9 and k < 25) and n_acts or 0 do
                  try(name, way, which, k, want, i)
                end
              end
            end
          end
        end
      end
    end
    local after = live()
    if after ~= before then
      fail(name, ("%d tensors were live before, %d after"):format(before, after))
    end
  elseif not sample and not S.none[name] and not general then
    fail(name, "no sample in release_samples.lua")
  end
end

for name in pairs(S) do
  if name:find "^mocl" and not functions[name] then
    fail(name, "there is no such function")
  end
end
for name in pairs(S.none) do
  if not functions[name] then
    fail(name, "there is no such function")
  end
end
assert(fs.remove_tree(scratch))
print(("%d functions, %d calls, %d failures"):format(count, calls, failures))
os.exit(failures == 0, true)
