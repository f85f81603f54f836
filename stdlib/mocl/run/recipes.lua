--- mocl.run.recipes: the recipes that `mocl NAME` finds, for `mocl --recipes`: NAME.lua in the directories that the
-- program looks into, each with what its first line says.

local fs = require "mocl.fs"
local sys = require "mocl.sys"

local recipes = {}

-- The first clause behind the name in the comment that a recipe begins with.
local function doc_of(path)
  local text = fs.read(path) or ""
  local block = text:match "^%-%-%-%s*[%w_.]+%s*[:-]%s*([^\n]*)" or ""
  for line in text:sub((text:find("\n", 1, true) or #text) + 1):gmatch "([^\n]*)\n" do
    local more = line:match "^%-%- ([^ ].*)$"
    if not more then
      break
    end
    block = block .. " " .. more
  end
  return (block:gsub("[.:;] .*$", ""):gsub("[.:;]$", ""))
end

--- recipes.list(path) -> list of {name=, doc=, path=}, by name. path: directories with ":" between them, those of the
-- program if nil. Of a name that is in two of them the first counts, as for `mocl NAME`. doc is what stands behind
-- "--- NAME: " or "--- NAME.lua - " in the first line, and empty where there is no such line.
function recipes.list(path)
  local list, seen = {}, {}
  for dir in (path or sys.env().recipes):gmatch "[^:]+" do
    for _, file in ipairs(fs.exists(dir) == "directory" and fs.list(dir) or {}) do
      local name = file:match "^([^.].*)%.lua$"
      local place = fs.join(dir, file)
      if name and not seen[name] and fs.exists(place) == "file" then
        seen[name] = true
        list[#list + 1] = { name = name, path = fs.realpath(place) or place, doc = doc_of(place) }
      end
    end
  end
  table.sort(list, function(a, b)
    return a.name < b.name
  end)
  return list
end

--- recipes.text(list) -> lines of names and words, or what to do where there are none.
function recipes.text(list)
  local width, lines = 0, {}
  for _, r in ipairs(list) do
    width = math.max(width, #r.name)
  end
  for i, r in ipairs(list) do
    lines[i] = ("%-" .. width .. "s  %s"):format(r.name, r.doc):gsub("%s+$", "")
  end
  return #list > 0 and table.concat(lines, "\n") .. "\n\nmocl NAME --help shows a recipe's options, mocl NAME --check what it would take\n"
    or "no recipes are found; MOCL_RECIPES names directories with some\n"
end

return recipes
