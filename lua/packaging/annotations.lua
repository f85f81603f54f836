--- annotations.lua DIR - writes the addon for lua-language-server: what an editor shows of mocl's functions. Each module gets a
-- file of declarations whose words are those of mocl.help, and so of the pages in docs/. As a module (no DIR) it returns
-- { files() -> name -> text, declared(text) -> set of "module.function" and "class:method" }.

local here = arg[0]:match "^(.*)/[^/]*$" or "."
package.path = here .. "/../../tests/?.lua;" .. package.path
local docs = require "docs_coverage"
local fs = require "mocl.fs"
local help = require "mocl.help"
local json = require "mocl.json"

local M = {}

local KEYWORDS = { ["end"] = true, ["function"] = true, ["in"] = true, ["or"] = true, ["and"] = true, ["not"] = true, ["repeat"] = true,
  ["until"] = true, ["local"] = true, ["return"] = true }

-- "(a, b, opts) -> y, n" of a signature for one of its names: the parameters as names, and what is returned, as it stands
local function parts(signature, name)
  local list, seen = {}, {}
  local call = signature:match("%f[%w_]" .. name .. "%s*(%b())") or ""
  for word in call:gsub("%b{}", " opts "):sub(2, -2):gmatch "[^,]+" do
    local p = word:match "%.%.%." or word:match "[%a_][%w_]*"
    if p and not seen[p] then
      seen[p], list[#list + 1] = true, KEYWORDS[p] and p .. "_" or p
    end
  end
  if call == "" and signature:find("%f[%w_]" .. name .. "%s*{") then
    list[1] = "opts"
  end
  for i = #list - 1, 1, -1 do -- "..." can only be last
    if list[i] == "..." then
      table.remove(list, i)
    end
  end
  return list, signature:match "%->%s*(.-)%s*$"
end

local function comment(lines, text)
  for line in (text .. "\n"):gmatch "(.-)\n" do
    lines[#lines + 1] = "--- " .. line
  end
end

local function declare(lines, owner, mark, qualified, name)
  local e = help.entry(qualified, name)
  if not e then
    return
  end
  local list, returned = parts(e.signature, name)
  lines[#lines + 1] = ""
  comment(lines, "`" .. e.signature .. "`\n\n" .. e.text .. "\n\n" .. e.page.file)
  for _, p in ipairs(list) do
    lines[#lines + 1] = ("---@param %s any"):format(p)
  end
  if returned then
    lines[#lines + 1] = "---@return any ... " .. returned:gsub("\n", " ")
  end
  lines[#lines + 1] = ("function %s%s%s(%s) end"):format(owner, mark, name, table.concat(list, ", "))
end

local function sorted(set)
  local list = {}
  for name in pairs(set) do
    list[#list + 1] = name
  end
  table.sort(list)
  return list
end

--- The files of the addon: name below its directory -> text.
function M.files()
  local files = {}
  for _, module in ipairs(docs.modules()) do
    local functions, methods = docs.names(module)
    if not docs.undocumented[module] and type(require(module)) == "table" then
      local lines = { "---@meta " .. module, "", ("---@class %s.module"):format(module), "local M = {}" }
      for _, name in ipairs(sorted(functions)) do
        declare(lines, "M", ".", module, name)
      end
      if next(methods) then
        lines[#lines + 1] = ("\n---@class %s.object\nlocal object = {}"):format(module)
        for _, name in ipairs(sorted(methods)) do
          declare(lines, "object", ":", module, name)
        end
      end
      lines[#lines + 1] = "\nreturn M"
      files[("library/%s.lua"):format(module:gsub("%.", "/"))] = table.concat(lines, "\n") .. "\n"
    end
  end
  for class, set in pairs(docs.c_classes()) do
    if not docs.hidden_classes[class] then
      local lines = { ("---@meta %s.methods"):format(class), "", "---@class " .. class, "local object = {}" }
      for _, name in ipairs(sorted(set)) do
        declare(lines, "object", ":", class, name)
      end
      files[("library/classes/%s.lua"):format(class)] = table.concat(lines, "\n") .. "\n"
    end
  end
  files["config.json"] = json.encode { name = "mocl", words = json.array { "require[%s%(\"']+mocl" },
    settings = { ["Lua.runtime.version"] = "Lua 5.4" } } .. "\n"
  return files
end

--- The names that a file of declarations declares, in order: "M.zeros" or "object:add".
function M.declared(text)
  local list = {}
  for name in text:gmatch "\nfunction ([%w_]+[.:][%w_]+)%(" do
    list[#list + 1] = name
  end
  return list
end

if arg[1] and arg[0]:find "annotations%.lua$" then
  for name, text in pairs(M.files()) do
    local path = arg[1] .. "/" .. name
    assert(fs.mkdir(path:match "^(.*)/"))
    assert(fs.write(path, text))
  end
end
return M
