--- mocl.help: what the pages of docs/, which are in the program, say of a function, a module, an option or a word. The pages
-- are the one source: an entry is a heading with a signature and what stands below it, or a row of a table.

local core = require "mocl.help.core"
local options = require "mocl.options"
local places = require "mocl.help_places"

local help = {}

-- ---- reading the pages ----

local index -- { entries=, by_key= (name or "qualifier.name" -> list of entries), pages= (name -> page) }, made once

-- The names in a signature such as "a:add(b), tensor.sub(a, b) -> y": list of { qualifier or nil, name }.
local function names_of(signature)
  local list = {}
  local left = signature:gsub("%->[^,|]*", "")
  for chain, name in left:gmatch "([%a_][%w_.:]-)[.:]([%a_][%w_]*)%s*[%({]" do
    list[#list + 1] = { chain:match "[%a_][%w_]*$", name }
  end
  if #list == 0 then
    for name in left:gmatch "%f[%w_.:]([%a_][%w_]*)%s*%(" do
      list[#list + 1] = { nil, name }
    end
  end
  return list
end

local function put(by_key, key, entry)
  by_key[key] = by_key[key] or {}
  if by_key[key][#by_key[key]] ~= entry then
    table.insert(by_key[key], entry)
  end
end

local function plain(text) -- without the marks of links
  return (text:gsub("%[([^%]]*)%]%([^)]*%)", "%1"))
end

local function add_page(list, by_key, page)
  local section, entry, fenced = page.title, nil, false
  local body = {}
  local function finish()
    if entry then
      entry.text = plain(table.concat(body, "\n"):gsub("^%s+", ""):gsub("%s+$", ""))
    end
    body = {}
  end
  local function add(signature, is_row)
    local e = { page = page, section = section, signature = signature, names = names_of(signature), row = is_row }
    list[#list + 1] = e
    for _, n in ipairs(e.names) do
      put(by_key, n[2], e)
      if n[1] then
        put(by_key, n[1] .. "." .. n[2], e)
      end
    end
    return e
  end
  for line in (page.text .. "\n"):gmatch "(.-)\n" do
    if line:find "^```" then
      fenced = not fenced
    end
    local level, heading = line:match "^(#+) (.*)"
    if heading and not fenced then
      finish()
      entry = nil
      if #level <= 2 then
        section = heading
      end
      if #level > 1 then
        heading = heading:gsub("`", "")
        entry = add(heading)
        put(by_key, heading, entry)
      end
    else
      body[#body + 1] = line
      local first, rest = line:match "^|%s*(`.-`.-)%s*|%s*(.-)%s*|%s*$"
      if first and not fenced then
        local e = add(plain(first:gsub("`", "")), true)
        e.text = plain(rest)
        for span in first:gmatch "`([^`]+)`" do
          put(by_key, span, e)
        end
      end
    end
  end
  finish()
end

local function read()
  if index then
    return index
  end
  index = { entries = {}, by_key = {}, pages = {}, order = {} }
  for _, page in ipairs(core.pages()) do
    page.name = page.file:gsub("%.md$", ""):gsub("^docs/", "")
    page.title = page.text:match "^# ([^\n]*)" or page.name
    index.pages[page.name == "README" and "../README" or page.name] = page
    index.order[#index.order + 1] = page
    add_page(index.entries, index.by_key, page)
  end
  return index
end

local function list_of(pages)
  return type(pages) == "table" and pages or { pages }
end

-- ---- the entry of a function ----

local function last_of(module)
  return module:match "[^.]*$"
end

-- The pages of a module or a class, in the order in which they are looked at. A page may stand in a folder of docs/.
local function pages_of(module)
  local found, all = {}, read().pages
  for _, name in ipairs(list_of(places.pages[module] or places.classes[module] or last_of(module))) do
    for _, full in ipairs { name, "reference/" .. name } do
      found[#found + 1] = all[full]
    end
  end
  return found
end

-- The paragraph of a page that has the name in a code span.
local function paragraph(page, name)
  local prose = page.text:gsub("\n```.-\n```", "\n")
  for part in (prose .. "\n\n"):gmatch "(.-)\n\n" do
    for span in part:gmatch "`([^`]+)`" do
      if span:find("%f[%w_]" .. name .. "%f[^%w_]") then
        return { page = page, section = page.title, signature = span, names = {}, text = plain(part) }
      end
    end
  end
end

--- help.entry(module, name) -> entry | nil. The entry of a function of a module or of a method of a class ("mocl.tensor", "matmul"):
-- a table with `signature`, `text`, `section` and `page`.
function help.entry(module, name)
  if module == "mocl" then -- its own functions are those of a module
    local meta = debug.getmetatable(package.loaded.mocl)
    module = meta and meta.functions and meta.functions[name] or module
  end
  local best, best_rank
  local pages = pages_of(module)
  for place, page in ipairs(pages) do
    for _, e in ipairs(read().by_key[name] or {}) do
      if e.page == page then
        local rank = (e.section:find(module, 1, true) and 8 or 0) + (e.row and 0 or 4) - place / 8
        for _, n in ipairs(e.names) do
          if n[2] == name and n[1] == last_of(module) then
            rank = rank + 2
          end
        end
        if not best or rank > best_rank then
          best, best_rank = e, rank
        end
      end
    end
  end
  for _, page in ipairs(best and {} or pages) do
    best = best or paragraph(page, name)
  end
  return best
end

-- ---- which function is it? ----

local function modules()
  local list, seen = {}, {}
  for _, set in ipairs { package.loaded, package.preload } do
    for name in next, set do
      if type(name) == "string" and not seen[name] and (name == "mocl" or name:find "^mocl%.") and not name:find "%.core$" then
        seen[name], list[#list + 1] = true, name
      end
    end
  end
  table.sort(list)
  return list
end

local function methods_of(meta)
  local index_ = rawget(meta, "__index")
  return type(index_) == "table" and index_ or rawget(meta, "methods") or {}
end

-- The name of f in the methods of the Lua classes of a module: tables that are their own __index, upvalues of its functions.
local function find_method(f, from, seen)
  if seen[from] then
    return nil
  end
  seen[from] = true
  for i = 1, 255 do
    local name, v = debug.getupvalue(from, i)
    if not name then
      return nil
    elseif type(v) == "table" and rawget(v, "__index") == v then
      for key, value in next, v do
        if value == f then
          return key
        end
      end
    elseif type(v) == "function" and debug.getinfo(v, "S").source == debug.getinfo(from, "S").source then
      local found = find_method(f, v, seen)
      if found then
        return found
      end
    end
  end
end

local LIBRARIES = { "_G", "string", "table", "math", "io", "os", "coroutine", "utf8", "debug", "package" }

-- module or class, name of a function; for one of Lua's own libraries nil and its name
local function place_of(f)
  for _, module in ipairs(modules()) do
    local t = package.loaded[module]
    for key, v in next, type(t) == "table" and t or {} do
      if rawequal(v, f) and type(key) == "string" then
        return module, key
      end
    end
  end
  for class, meta in next, debug.getregistry() do
    if type(class) == "string" and class:find "^mocl%." and type(meta) == "table" and rawget(meta, "__name") == class then
      for key, v in next, methods_of(meta) do
        if rawequal(v, f) then
          return class, key
        end
      end
    end
  end
  for _, module in ipairs(modules()) do
    local t = package.loaded[module]
    for _, v in next, type(t) == "table" and t or {} do
      local key = type(v) == "function" and debug.getinfo(v, "S").what == "Lua" and find_method(f, v, {})
      if key then
        return module, key
      end
    end
  end
  for _, library in ipairs(LIBRARIES) do
    for key, v in next, package.loaded[library] do
      if rawequal(v, f) then
        return nil, library == "_G" and key or library .. "." .. key
      end
    end
  end
end

-- ---- as text ----

local function first_sentence(text)
  text = text:gsub("\n```.*", ""):gsub("%s+", " ")
  return text:match "^(.-%.)%s" or text
end

local function entry_text(e)
  local text = e.text ~= "" and "\n" .. e.text or ""
  return ("%s\n    %s, %s%s"):format(e.signature, e.page.file, e.section, text)
end

local function entry_line(e)
  local text = first_sentence(e.text or "")
  return ("%-44s %s"):format(e.signature, #text > 74 and text:sub(1, 71) .. "..." or text):gsub("%s+$", "")
end

local function public(t)
  local names = {}
  for key, v in next, t do
    if type(key) == "string" and not key:find "^_" and options.callable(v) then
      names[#names + 1] = key
    end
  end
  table.sort(names)
  return names
end

-- the functions of a module or the methods of a class, a line for each entry
local function list_text(module, names)
  local lines, seen = {}, {}
  for _, name in ipairs(names) do
    local e = help.entry(module, name)
    if not e then
      lines[#lines + 1] = name
    elseif not seen[e] then
      seen[e] = true
      lines[#lines + 1] = entry_line(e)
    end
  end
  return table.concat(lines, "\n")
end

local function intro(page)
  local text = page.text:match "^# [^\n]*\n+(.-)\n#" or page.text:match "^# [^\n]*\n+(.*)" or ""
  return plain(text:gsub("<!%-%-.-%-%->\n?", ""):gsub("\n```.-\n```", ""):gsub("%s+$", ""))
end

local function module_text(module)
  local ok, t = pcall(require, module)
  local page = pages_of(module)[1]
  local why = places.undocumented[module]
  local head = module .. (page and "\n    " .. page.file or "")
  if why then
    return module .. ": " .. why
  elseif page and (page.title:find(module, 1, true) or last_of(module) == page.name) then
    head = head .. "\n" .. intro(page)
  end
  local names = ok and type(t) == "table" and public(t) or {}
  return head .. (#names > 0 and "\n\n" .. list_text(module, names) or "")
end

local function object_text(v)
  local meta = debug.getmetatable(v)
  local class = type(meta) == "table" and rawget(meta, "__name")
  if type(class) == "string" and places.classes[class] then
    return ("an object of the class %s; its methods:\n\n%s"):format(class, list_text(class, public(methods_of(meta))))
  end
  local class_table = type(meta) == "table" and rawget(meta, "__index")
  for _, f in next, type(class_table) == "table" and class_table or {} do
    local module = type(f) == "function" and place_of(f)
    if module then
      return ("an object of %s; its methods:\n\n%s"):format(module, list_text(module, public(class_table)))
    end
  end
end

local function function_text(f)
  local module, name = place_of(f)
  local e = module and help.entry(module, name)
  if e then
    return entry_text(e)
  elseif module then
    return ("%s.%s has no entry in the documentation"):format(module, name)
  elseif name then
    return ("%s is of Lua's own library: https://www.lua.org/manual/5.4/manual.html#pdf-%s"):format(name, name)
  end
  local info = debug.getinfo(f, "S")
  return info.what ~= "C" and ("a function of yours: %s:%d"):format(info.short_src, info.linedefined) or nil
end

-- The value of a chain of names in the globals, without metamethods but those of mocl's rooms and objects.
local function value_of(chain)
  local v = _G
  for name in chain:gmatch "[^.:]+" do
    local t = type(v)
    if t == "table" then
      local raw = rawget(v, name)
      local meta = debug.getmetatable(v)
      local behind = type(meta) == "table" and rawget(meta, "__index")
      v = raw == nil and type(behind) == "table" and rawget(behind, name) or raw
    elseif t == "userdata" then
      local meta = debug.getmetatable(v)
      v = type(meta) == "table" and methods_of(meta)[name] or nil
    else
      return nil
    end
    if v == nil then
      return nil
    end
  end
  return v
end

local function module_named(name)
  local full, last = nil, nil
  for _, module in ipairs(modules()) do
    if module == name or module == "mocl." .. name then
      full = full or module
    elseif last_of(module) == name then
      last = last or module
    end
  end
  return full or last
end

local function by_value(v)
  if type(v) == "function" then
    return function_text(v)
  elseif type(v) == "table" or type(v) == "userdata" then
    for _, module in ipairs(modules()) do
      if rawequal(package.loaded[module], v) then
        return module_text(module)
      end
    end
    return object_text(v)
  end
end

local function by_name(name)
  local prefix, last = name:match "^(.*)[.:]([%a_][%w_]*)$"
  local module = prefix and module_named(prefix)
  local e = module and help.entry(module, last)
  if e then
    return entry_text(e)
  end
  module = module_named(name)
  if module then
    return module_text(module)
  end
  local by_key = read().by_key
  local list = by_key[name:gsub(":", ".")] or by_key[name] or last and by_key[last] or {} -- whatever a variable is called
  if #list == 0 then
    return nil
  end
  local lines = { entry_text(list[1]) }
  if #list > 1 then
    lines[2] = "\nother entries of that name:"
    for i = 2, math.min(#list, 9) do
      lines[#lines + 1] = ("    %s (%s, %s)"):format(list[i].signature, list[i].page.file, list[i].section)
    end
  end
  return table.concat(lines, "\n")
end

local GENERAL = [[
?matmul, help(x.matmul), help "mocl.tensor"   what the documentation says of a function, a module, an option
?                                             this text
apropos "kl"                                  where the documentation has a word
Tab                                           completes names, fields, methods, modules and files
Ctrl-C, Ctrl-D                                stops what runs or drops the line; leaves

The modules are fields of `mocl`, loaded on first use: mocl.tensor.randn({ 2, 3 }, { seed = 1 }).
m = mocl.load "DIR, FILE.gguf or RUN" opens a model, m "text" continues a text, m:chat() talks to it.
Pages: ]]

--- help.text(what) -> text | nil, message. `what`: the name of a function, a module, an option or another thing that a page has a
-- heading or a row for; or a function, a module or an object itself. Without it: how to ask.
function help.text(what)
  if what == nil then
    local files = {}
    for _, page in ipairs(read().order) do
      files[#files + 1] = page.file
    end
    return GENERAL .. table.concat(files, " ")
  elseif type(what) ~= "string" then
    local text = by_value(what)
    if text then
      return text
    end
    return nil, ("the documentation knows nothing of this %s"):format(type(what))
  end
  local name = what:gsub("^%s+", ""):gsub("%s+$", ""):gsub("%s*%(.*%)$", "")
  local v = name:find "^[%a_][%w_.:]*$" and value_of(name)
  local text = v ~= nil and v ~= false and by_value(v) or by_name(name)
  if text then
    return text
  end
  local near = options.nearest(name, options.sorted_keys(read().by_key))
  return nil, ("the documentation has no entry '%s'%s; apropos \"%s\" looks for the word"):format(name,
    near and (" (did you mean '%s'?)"):format(near) or "", name)
end

--- help.search(word) -> list of entries that have the word, in any case: in a name first, then in a signature, then in a text.
function help.search(word)
  local list, rank, place, seen = {}, {}, {}, {}
  word = word:lower()
  for i, e in ipairs(read().entries) do
    local r
    for _, n in ipairs(e.names) do
      r = r or n[2]:lower():find(word, 1, true) and 1
    end
    r = r or e.signature:lower():find(word, 1, true) and 2
      or ("\n" .. (e.text or "")):lower():find("%f[%w]" .. word:gsub("%p", "%%%0") .. "%f[%W]") and 3
    local whole = e.signature .. "\n" .. (e.text or "") -- recipes share rows of options
    if r and not seen[whole] then
      list[#list + 1], rank[e], place[e], seen[whole] = e, r, i, true
    end
  end
  table.sort(list, function(a, b)
    if rank[a] ~= rank[b] then
      return rank[a] < rank[b]
    end
    return place[a] < place[b]
  end)
  return list
end

--- help.apropos(word, most=20) -> text: a line for each of the first entries of help.search.
function help.apropos(word, most)
  if type(word) ~= "string" or word == "" then
    error("apropos: a word expected, as in apropos \"kl\"", 2)
  end
  local list = help.search(word)
  if #list == 0 then
    return ("the documentation has nothing with '%s'"):format(word)
  end
  local lines = {}
  for i = 1, math.min(#list, most or 20) do
    lines[i] = ("%s  [%s]"):format(entry_line(list[i]), list[i].page.name)
  end
  if #list > #lines then
    lines[#lines + 1] = ("and %d more: apropos(%q, %d)"):format(#list - #lines, word, #list)
  end
  return table.concat(lines, "\n")
end

return help
