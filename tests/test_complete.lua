-- mocl.complete: the words that Tab offers

local T = require "t"
local complete = require "mocl.complete"
local tensor = require "mocl.tensor"

local function words(text, globals)
  local list = complete.words(text, globals)
  return list and table.concat(list, " ")
end

T.test("globals and keywords; a leading underscore is asked for", function()
  local globals = { tensor = 1, text = 2, ["not a name"] = 3, [1] = 4, _own = 5 }
  T.eq(words("te", globals), "tensor text")
  T.eq(words("print(#te", globals), "tensor text")
  T.eq(words("a = b..te", globals), "tensor text")
  T.eq(words("t", globals), "tensor text then true")
  T.eq(words("_", globals), "_own")
  T.ok(not words("", globals):find "_own")
  T.eq(words("wh"), "while")
  T.eq(words("12", globals), "")
  T.eq(words("x -- te", globals), "")
end)

T.test("fields, also behind tables that __index names", function()
  local base = { shape = 1, shadow = 2, ["end"] = 3 }
  local g = { o = setmetatable({ shadow = 4, inner = { deep = { er = 1 } } }, { __index = base }), s = "text" }
  T.eq(words("o.sh", g), "shadow shape")
  T.eq(words("o.inner.deep.", g), "er")
  T.eq(words("o.e", g), "", "a keyword is no field after a dot")
  T.eq(words("o.shape.x", g), "")
  T.eq(words("no.such", g), "")
  T.eq(words("s:up", g), "upper")
  T.eq(words("string.re"), "rep reverse")
end)

T.test("methods after a colon: what can be called", function()
  local g = { o = setmetatable({ name = "n", near = function() end, new = setmetatable({}, { __call = print }) }, {}) }
  T.eq(words("o:n", g), "near new")
  T.eq(words("o.n", g), "name near new")
end)

T.test("tensors: methods and what they compute", function()
  local x <close> = tensor.ones { 2 }
  T.eq(words("x:ma", { x = x }), "masked_select matmul max maximum")
  T.eq(words("x.dev", { x = x }), "device")
  T.eq(words("x.sha", { x = x }), "shape")
  for name in words("x.", { x = x }):gmatch "%S+" do -- each of them is there
    T.ok(name == "grad" or x[name] ~= nil, name)
  end
end)

T.test("modules: in require, and as fields of mocl", function()
  T.eq(words 'require "mocl.rn', "mocl.rng")
  T.eq(words "local r = require('mocl.data.tasks.assistant.w", "mocl.data.tasks.assistant.words")
  local g = { mocl = require "mocl" }
  T.eq(words("mocl.tens", g), "tensor")
  T.eq(words("mocl.tensor.randn", g), "randn")
  T.eq(words("mocl.preference.rel", g), "relabel")
  T.eq(words("mocl.meth", g), "method")
  T.eq(words("mocl.method.kl", g), "kl_controller")
  T.eq(words("mocl.control", g), "")
  T.eq(words("mocl.transf", g), "")
end)

T.test("files in other strings, nothing where nothing is known", function()
  T.eq(complete.words 'io.open("/tm', nil)
  T.eq(complete.words [[x = 'it\'s ]], nil)
  T.eq(words [[x = "closed" .. str]], "string")
  T.eq(words "f().x", "")
  T.eq(words "t[1]:x", "")
  T.eq(words "('x'):re", "")
end)

T.test("nothing of the program runs", function()
  local function never()
    error "ran"
  end
  local o = setmetatable({}, { __index = never, __pairs = never, __eq = never, __len = never, __tostring = never, __metatable = "own" })
  local loop = setmetatable({}, {})
  getmetatable(loop).__index = loop -- its own
  T.eq(words("o.x", { o = o }), "")
  T.eq(words("o.x.y", { o = o }), "")
  T.eq(words("loop.x", { loop = loop }), "")
end)
