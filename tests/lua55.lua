--- lua55: what of a Lua 5.4 source Lua 5.5 refuses: the control variable of a for loop, the first one, that is assigned
-- to; and the name `global`, which is a reserved word where Lua is built without LUA_COMPAT_GLOBAL. The source must be
-- one that Lua 5.4 compiles.

local lua55 = {}

-- the tokens of a source: { text, line }, without comments; strings and numbers are tokens that say nothing more
local function tokens(source)
  local list, at, line = {}, 1, 1
  local function take(from, to, text)
    list[#list + 1] = text and { text, line } or nil
    local _, breaks = source:sub(from, to):gsub("\n", "")
    at, line = to + 1, line + breaks
  end
  if source:sub(1, 1) == "#" then
    take(1, #source:match "^[^\n]*", nil)
  end
  while at <= #source do
    local space = source:match("^%s+()", at)
    local comment = source:match("^%-%-()", at)
    local level = source:match("^%[(=*)%[", comment or at)
    if space then
      take(at, space - 1)
    elseif level then
      local _, last = source:find("]" .. level .. "]", at, true)
      take(at, last, not comment and "''" or nil)
    elseif comment then
      take(at, (source:find("\n", at, true) or #source + 1) - 1)
    elseif source:find("^[%a_]", at) then
      local name = source:match("^[%w_]+", at)
      take(at, at + #name - 1, name)
    elseif source:find("^%.?%d", at) then
      local _, last = source:find("^0[xX][%x.]*[pP]?[+-]?%x*", at)
      if not last then
        last = select(2, source:find("^[%d.]*[eE][+-]?%d+", at)) or select(2, source:find("^[%d.]+", at))
      end
      take(at, last, "0")
    elseif source:find("^[\"']", at) then
      local quote, last = source:sub(at, at), at + 1
      while source:sub(last, last) ~= quote do
        last = last + (source:sub(last, last) == "\\" and 2 or 1)
      end
      take(at, last, "''")
    else
      local sign = source:match("^%.%.%.?", at) or source:match("^[=~<>]=", at) or source:match("^[<>/:][<>/:]", at) or source:sub(at, at)
      take(at, at + #sign - 1, sign)
    end
  end
  return list
end

-- The places of the targets of the assignment whose sign is at i, those that are plain names.
local function targets(list, i)
  local places, k = {}, i - 1
  while true do
    local first, closing = k, 0
    while true do -- to the first token of the target
      local t = list[first][1]
      if t == "]" or t == ")" or t == "}" then
        closing = closing + 1
      elseif t == "[" or t == "(" or t == "{" then
        closing = closing - 1
      end
      local before, here = list[first - 1] and list[first - 1][1] or "", t
      if closing == 0 and (here:find "^[%a_]" or here == "(") and before ~= "." and before ~= ":" then
        break
      end
      first = first - 1
      if first < 1 then
        return places
      end
    end
    if first == k then
      places[#places + 1] = k
    end
    if not list[first - 1] or list[first - 1][1] ~= "," then
      return places
    end
    k = first - 2
  end
end

--- lua55.refused(source) -> list of "LINE: words"
function lua55.refused(source)
  local list, found = tokens(source), {}
  local blocks, brackets = { {} }, 0
  local pending -- the names of the next block that begins: of a function, of a loop
  local function say(i, words)
    found[#found + 1] = list[i][2] .. ": " .. words
  end
  local function is_loop_variable(name)
    for k = #blocks, 1, -1 do
      if blocks[k][name] ~= nil then
        return blocks[k][name]
      end
    end
  end
  local depth = {} -- of brackets where each block began
  local function open(names)
    blocks[#blocks + 1], depth[#blocks + 1] = names or {}, brackets
    brackets = 0
  end
  local function close()
    brackets = depth[#blocks] or 0
    blocks[#blocks] = nil
  end
  for i, token in ipairs(list) do
    if token[1] == "global" then
      say(i, "the name `global`")
    end
  end
  local i = 1
  while i <= #list do
    local t = list[i][1]
    if t == "for" then
      pending = { [list[i + 1][1]] = true }
      i = i + 2
      while list[i][1] == "," do
        pending[list[i + 1][1]] = false
        i = i + 2
      end
    elseif t == "function" then
      local names = {}
      while list[i][1] ~= "(" do
        i = i + 1
      end
      repeat
        i = i + 1
        names[list[i][1]] = false
      until list[i][1] == ")"
      open(names)
    elseif t == "local" and list[i + 1][1] ~= "function" then
      repeat
        i = i + 1
        blocks[#blocks][list[i][1]] = false
        if list[i + 1] and list[i + 1][1] == "<" then
          i = i + 3
        end
        i = i + 1
      until not list[i] or list[i][1] ~= ","
      i = list[i] and list[i][1] == "=" and i or i - 1
    elseif t == "local" then
      blocks[#blocks][list[i + 2][1]] = false
    elseif t == "do" then
      open(pending)
      pending = nil
    elseif t == "then" or t == "repeat" then
      open()
    elseif t == "else" then
      close()
      open()
    elseif t == "end" or t == "elseif" or t == "until" then
      close()
    elseif t == "(" or t == "{" or t == "[" then
      brackets = brackets + 1
    elseif t == ")" or t == "}" or t == "]" then
      brackets = brackets - 1
    elseif t == "=" and brackets == 0 and not pending then
      for _, k in ipairs(targets(list, i)) do
        if is_loop_variable(list[k][1]) then
          say(k, ("the loop variable '%s' is assigned to"):format(list[k][1]))
        end
      end
    end
    i = i + 1
  end
  return found
end

return lua55
