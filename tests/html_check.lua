--- html_check: is a text well-formed HTML or SVG that loads nothing? Not a parser of HTML: it accepts
-- what mocl.report writes and little else.

local html_check = {}

local VOID = { meta = true }

-- attributes that hold coordinates: all their numbers must be finite
local NUMBERS = { d = true, x = true, y = true, x1 = true, x2 = true, y1 = true, y2 = true, width = true,
  height = true, viewBox = true, transform = true }

local function check_numbers(name, value)
  if NUMBERS[name] then
    assert(not value:lower():find("nan") and not value:lower():find("inf"), name .. "=" .. value)
    for number in value:gmatch("%-?[%d.]+[eE]?[+-]?%d*") do
      assert(math.abs(tonumber(number) or math.huge) < 1e6, name .. "=" .. value)
    end
  end
end

--- Raises unless the tags nest, attributes are quoted, text holds no raw & or <, ids are unique, links lead to
-- them, coordinates are numbers, and nothing is loaded or run. Returns how often each tag occurs.
function html_check.check(html)
  local stack, counts, ids, links = {}, {}, {}, {}
  local body = html:gsub("^<!DOCTYPE html>\n", "")
  assert(body ~= html or html:find("^<svg xmlns="), "no doctype")
  body = body:gsub("<style>(.-)</style>", function(css)
    assert(not css:find("[<@]i") and not css:find("url(", 1, true), "a link in the style")
    assert(not css:find("<"), "< in the style")
    return ""
  end)
  local bare_links = body:gsub('xmlns="http://www%.w3%.org/2000/svg"', "", 1)
  assert(not bare_links:find("https?://"), "a link outwards")
  local pos = 1
  while true do
    local s, e, close, name, rest = body:find("<(/?)(%w+)([^<>]*)>", pos)
    local text = body:sub(pos, (s or #body + 1) - 1)
    assert(not text:find("[<>]"), "stray < or >: " .. text:sub(1, 80))
    local bare = text:gsub("&%a+;", ""):gsub("&#%d+;", "")
    assert(not bare:find("&"), "stray &: " .. bare:sub(1, 80))
    assert(utf8.len(text) and not text:find("[%z\1-\8\11\12\14-\31\127]"), "odd bytes: " .. text:sub(1, 80))
    if not s then
      break
    end
    if close == "/" then
      local open = table.remove(stack)
      assert(open == name, ("<%s> closed by </%s>"):format(tostring(open), name))
    else
      counts[name] = (counts[name] or 0) + 1
      local left = rest:gsub("/$", ""):gsub('%s+([%w:-]+)="([^"<>]*)"', function(key, value)
        assert(not key:find("^on") and key ~= "src" and key ~= "srcset", "a script or a link: " .. key)
        check_numbers(key, value)
        if key == "id" then
          assert(not ids[value], "id twice: " .. value)
          ids[value] = true
        elseif key == "href" then
          links[#links + 1] = value
        end
        return ""
      end):gsub("%s+open", "")
      assert(left == "", "odd attribute in <" .. name .. rest .. ">")
      if not VOID[name] and rest:sub(-1) ~= "/" then
        stack[#stack + 1] = name
      end
    end
    pos = e + 1
  end
  assert(#stack == 0, "not closed: " .. tostring(stack[#stack]))
  for _, link in ipairs(links) do
    assert(ids[link:match("^#(.+)$")], "a link to nowhere: " .. link)
  end
  for _, name in ipairs { "script", "link", "img", "iframe", "object", "image", "use", "foreignObject" } do
    assert(not counts[name], "<" .. name .. ">")
  end
  return counts
end

return html_check
