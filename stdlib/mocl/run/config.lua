--- mocl.run.config: a typed table of options at the top of a recipe, overridden by key=value arguments.
-- The type of an option is that of its default (or type=, list_of=), not the spelling of a value.
-- It refuses unknown keys, wrong types and values out of range: nothing is guessed or ignored.
--
--   local cfg, info = config.parse({
--     { "seed", 0, "random seed", min = 0 },
--     { "ppo.lr", 4e-3, "Adam step size", min = 0 },
--   }, arg, { recipe = "demo", presets = { smoke = { ["ppo.lr"] = 1e-2 } } })
--   print(cfg.ppo.lr)
--
-- Mistakes raise plain strings without position: they are the user's, not the recipe's.

local text = require "mocl.run.config_text"
local fs = require "mocl.fs"
local nearest = require "mocl.options".nearest
local on_error = require "mocl.on_error"

local config = {
  diff = text.diff,
  dump = text.dump,
  flatten = text.flatten,
  text = text.text,
}

local plain_text, same, sorted_keys = text.text, text.same, text.sorted_keys

local function fail(fmt, ...)
  error(fmt:format(...), 0)
end

local function hint(word, names, otherwise)
  local near = nearest(word, names)
  return near and (" (did you mean '%s'?)"):format(near) or otherwise
end

local EXPECTED = {
  number = "a number",
  integer = "an integer",
  string = "a string",
  boolean = "true or false",
  list = "a list",
}

-- What a value is, in words, for messages about values that came from a Lua or JSON file.
local function got_text(v)
  if type(v) == "string" then
    return "'" .. v .. "'"
  elseif type(v) == "table" then
    return "a table"
  elseif v ~= v then
    return "nan" -- its sign, which %g shows, depends on the machine
  elseif v == math.huge or v == -math.huge then
    return ("%g"):format(v)
  end
  return plain_text(v)
end

-- Text to a value of the type, or nil. NaN and infinities are no numbers here.
local function from_text(kind, word)
  if kind == "string" then
    return word
  elseif kind == "boolean" then
    if word == "true" or word == "false" then
      return word == "true"
    end
    return nil
  end
  return tonumber(word)
end

local function check_type(kind, v)
  if kind == "number" or kind == "integer" then
    if type(v) ~= "number" or v ~= v or v == math.huge or v == -math.huge then
      return nil
    end
    if kind == "integer" then
      return math.tointeger(v)
    end
    return v + 0.0 -- always a float, so that equal values have equal text
  elseif type(v) == kind then
    return v
  end
  return nil
end

local function check_value(option, kind, v, shown)
  local value = check_type(kind, v)
  if value == nil then
    fail("option %s: expected %s, got %s", option.key, EXPECTED[kind], shown)
  end
  if option.min and value < option.min then
    fail("option %s: %s is below the minimum %s", option.key, plain_text(value),
      plain_text(option.min))
  end
  if option.max and value > option.max then
    fail("option %s: %s is above the maximum %s", option.key, plain_text(value),
      plain_text(option.max))
  end
  if option.choices then
    local names = {}
    for i, choice in ipairs(option.choices) do
      if choice == value then
        return value
      end
      names[i] = plain_text(choice)
    end
    fail("option %s: expected one of %s, got %s%s", option.key, table.concat(names, ", "), shown,
      kind == "string" and hint(value, names, "") or "")
  end
  return value
end

-- An option that may be unset means something else where it is empty: nothing, by mistake.
local function check_filled(option, v)
  if v == "" and option.optional then
    fail("option %s: is empty; give it a value, or leave it out", option.key)
  end
end

-- The value of an option from the text after '='. Unset (nil) is spelt nil where that is possible.
local function value_from_text(option, word)
  if option.optional and word == "nil" then
    return nil
  end
  check_filled(option, word)
  if option.kind ~= "list" then
    return check_value(option, option.kind, from_text(option.kind, word), "'" .. word .. "'")
  end
  local list = {}
  if word ~= "" then
    for item in (word .. ","):gmatch("([^,]*),") do
      list[#list + 1] =
        check_value(option, option.list_of, from_text(option.list_of, item), "'" .. item .. "'")
    end
  end
  return list
end

-- The value of an option from a value of Lua: a default, a preset, a file.
local function value_from_lua(option, v)
  if v == nil then
    if not option.optional then
      fail("option %s: expected %s, got nil", option.key, EXPECTED[option.kind])
    end
    return nil
  end
  check_filled(option, v)
  if option.kind ~= "list" then
    return check_value(option, option.kind, v, got_text(v))
  end
  if type(v) ~= "table" then
    fail("option %s: expected %s, got %s", option.key, EXPECTED.list, got_text(v))
  end
  local list, n = {}, 0
  for i, x in ipairs(v) do
    list[i] = check_value(option, option.list_of, x, got_text(x))
  end
  for _ in pairs(v) do
    n = n + 1
  end
  if n ~= #list then
    fail("option %s: expected a list, got a table with other keys", option.key)
  end
  return list
end

local function list_kind(list)
  local kind
  for _, v in ipairs(list) do
    local this = math.type(v) or type(v)
    if this == "float" then
      this = "number"
    end
    if kind == "integer" and this == "number" or kind == "number" and this == "integer" then
      this = "number"
    elseif kind and this ~= kind then
      return nil
    end
    kind = this
  end
  return kind
end

-- One schema row to an option {key, default, doc, kind, list_of, optional, min, max, choices, alias}.
local function compile_row(row, index)
  local key, default = row[1], row[2]
  if type(key) ~= "string" or ("." .. key):gsub("%.[%a_][%w_]*", "") ~= "" or row.named and not key:find "%.NAME$" then
    fail("config schema: row %d has no valid key", index)
  end
  if type(row[3]) ~= "string" then
    fail("config schema: option %s has no line of documentation", key)
  end
  if key == "preset" then
    fail("config schema: the key 'preset' is reserved")
  end
  local option = { key = key, doc = row[3], min = row.min, max = row.max, choices = row.choices, alias = row.alias,
    named = row.named, optional = default == nil }
  local kind = row.type
  if row.list_of or type(default) == "table" then
    kind = "list"
    option.list_of = row.list_of or list_kind(default)
    if not EXPECTED[option.list_of] or option.list_of == "list" then
      fail("config schema: option %s needs list_of=", key)
    end
  elseif not kind then
    kind = math.type(default) == "integer" and "integer" or type(default)
  end
  if not EXPECTED[kind] or kind == "list" and not option.list_of then
    fail("config schema: option %s needs type=", key)
  end
  option.kind = kind
  option.default = value_from_lua(option, default)
  return option
end

local function compile(schema)
  local options, by_key, names = {}, {}, {}
  for i, row in ipairs(schema) do
    local option = compile_row(row, i)
    if by_key[option.key] then
      fail("config schema: option %s appears twice", option.key)
    end
    options[i], names[i] = option, option.key
    by_key[option.key] = option
  end
  for _, option in ipairs(options) do
    if option.alias then
      if by_key[option.alias] then
        fail("config schema: option %s has the alias %s, which is an option too", option.key, option.alias)
      end
      by_key[option.alias] = option
    end
  end
  for _, key in ipairs(names) do
    local parent = key:match("^(.*)%.[^.]*$")
    while parent do
      if by_key[parent] and by_key[parent].key == parent then
        fail("config schema: %s is an option and a group (%s)", parent, key)
      end
      parent = parent:match("^(.*)%.[^.]*$")
    end
  end
  return options, by_key, names
end

-- An option that a row with named= stands for: reward.helpful of reward.NAME. It comes to be when it is set.
local function named_option(state, key)
  for _, row in ipairs(state.options) do
    local group = row.named and row.key:match "^(.*%.)NAME$"
    if group and key:sub(1, #group) == group and key:find("^[%a_][%w_]*$", #group + 1) and key ~= row.key then
      local option = setmetatable({ key = key, named = false, row = row.key }, { __index = row })
      state.options[#state.options + 1], state.by_key[key] = option, option
      return option
    end
  end
end

local function find(state, key)
  local option = state.by_key[key] or named_option(state, key)
  if not option or option.named then
    fail("unknown option '%s'%s", key, hint(key, state.names, " (--help lists the options)"))
  end
  return option
end

-- Sets options from a table, keys nested or with dots.
local function merge(state, t, prefix)
  for _, k in ipairs(sorted_keys(t)) do
    local key, v = prefix .. tostring(k), t[k]
    if type(v) == "table" and state.groups[key] then
      merge(state, v, key .. ".")
    else
      local option = find(state, key)
      if v == state.null then
        v = nil
      end
      state.values[option.key] = value_from_lua(option, v)
      state.given[option.key] = true
    end
  end
end

--- The table in a file of options, such as a run's config.lua; or nil, message.
function config.load(path)
  local f, err, code = io.open(path, "rb")
  if not f then
    return nil, err, code
  end
  local source
  source, err = f:read("a")
  f:close()
  if not source then
    return nil, path .. ": " .. err
  end
  local chunk, ok, t
  chunk, err = load(source, "@" .. path, "t", {}) -- no environment: options are data
  if not chunk then
    return nil, err
  end
  ok, t = pcall(chunk)
  if not ok then
    return nil, on_error.text(t)
  elseif type(t) ~= "table" then
    return nil, path .. ": expected a table of options, got " .. got_text(t)
  end
  return t
end

local function read_json(path, state)
  local json = require "mocl.json"
  local f, err = io.open(path, "rb")
  if not f then
    fail("%s", err)
  end
  local source
  source, err = f:read("a")
  f:close()
  if not source then
    fail("%s: %s", path, err)
  end
  local t
  t, err = json.decode(source)
  if t == nil then
    fail("%s: %s", path, err)
  end
  state.null = json.null
  return t
end

local function merge_file(state, path)
  local kind, reason = fs.exists(path)
  local t, err
  if not path:match "%.lua$" and not path:match "%.json$" then
    fail("argument '@%s': expected a .lua or .json file", path)
  elseif kind ~= "file" then
    fail("argument '@%s': %s", path, reason or kind and "is a directory" or "No such file or directory")
  elseif path:match("%.lua$") then
    t, err = config.load(path)
    if not t then
      fail("%s", err)
    end
  else
    t = read_json(path, state)
  end
  if type(t) ~= "table" then
    fail("%s: expected a table of options, got %s", path, got_text(t))
  end
  local words <close> = on_error.words(function(text)
    return path .. ": " .. text
  end)
  merge(state, t, "")
  state.null = nil
end

local function apply_preset(state, presets, name)
  local preset = presets[name]
  if not preset then
    local names = sorted_keys(presets)
    local list = #names == 0 and "this recipe has none" or "presets: " .. table.concat(names, ", ")
    fail("unknown preset '%s'%s", name, hint(name, names, " (" .. list .. ")"))
  end
  merge(state, preset, "")
end

-- Nested tables from values by key.
local function nest(state)
  local cfg = {}
  for _, option in ipairs(state.options) do
    local t = cfg
    for part in option.key:gmatch("([^.]+)%.") do
      t[part] = t[part] or {}
      t = t[part]
    end
    local v = state.values[option.key]
    if type(v) == "table" then
      v = table.move(v, 1, #v, 1, {}) -- a recipe may change its table; the schema's default stays
    end
    t[option.key:match("[^.]+$")] = v
  end
  return cfg
end

local function kind_text(option)
  return option.kind == "list" and option.list_of .. "s" or option.kind
end

local function help_text(state, meta, arg)
  local groups, order, widths = {}, {}, { 0, 0, 0 }
  for _, option in ipairs(state.options) do
    local group = option.key:match("^([^.]+)%.") or "general"
    if not groups[group] then
      groups[group] = {}
      order[#order + 1] = group
    end
    local doc = option.doc
    if option.choices then
      doc = doc .. " (" .. plain_text(option.choices):gsub(",", "|") .. ")"
    end
    local value = state.values[option.key]
    if not same(value, option.default) then
      doc = doc .. " [now " .. plain_text(value) .. "]"
    end
    local cells = { option.key, kind_text(option), plain_text(option.default), doc }
    table.insert(groups[group], cells)
    for i = 1, 3 do
      widths[i] = math.max(widths[i], math.min(#cells[i], 28))
    end
  end
  local out = {}
  local function add(fmt, ...)
    out[#out + 1] = select("#", ...) > 0 and fmt:format(...) or fmt
  end
  local recipe = meta.recipe or "recipe"
  add(meta.doc and recipe .. ": " .. meta.doc:match("^%s*(.-)%s*$") or recipe)
  add("")
  add("usage: mocl %s [key=value ...] [preset=NAME] [@file.lua|@file.json]",
    meta.script or arg and arg[0] or recipe .. ".lua")
  add("       --help and --print-config show the options and stop%s", state.by_key.resume and "; --check looks whether a run can begin" or "")
  for _, group in ipairs(order) do
    add("")
    add(group)
    for _, c in ipairs(groups[group]) do
      add("  %-" .. widths[1] .. "s  %-" .. widths[2] .. "s  %-" .. widths[3] .. "s  %s",
        c[1], c[2], c[3], c[4])
    end
  end
  local presets = meta.presets or {}
  if next(presets) then
    add("")
    add("presets")
    for _, name in ipairs(sorted_keys(presets)) do
      local parts = {}
      local flat = text.flatten(presets[name])
      for _, key in ipairs(sorted_keys(flat)) do
        parts[#parts + 1] = key .. "=" .. plain_text(flat[key])
      end
      add("  %-" .. widths[1] .. "s  %s", name, table.concat(parts, " "))
    end
  end
  return table.concat(out, "\n")
end

-- The names that options of rows with named= were set for: row -> list, in the order in which they were first set.
local function names_of(state)
  local list = {}
  for _, option in ipairs(state.options) do
    if option.row and state.values[option.key] ~= nil then
      list[option.row] = list[option.row] or {}
      table.insert(list[option.row], option.key:match "[^.]+$")
    end
  end
  return list
end

local function changed_from(options, value_of)
  local list = {}
  for _, option in ipairs(options) do
    local value = value_of(option.key)
    if not same(value, option.default) then
      list[#list + 1] = { key = option.key, value = value, default = option.default }
    end
  end
  return list
end

--- What a function made of an option's value, or, where that is nil or false, raises "option KEY: MESSAGE", without position.
function config.checked(key, value, message)
  return value or fail("option %s: %s", key, message)
end

--- The same for a function that reads several paths: the option is the one whose path the message begins with, the longest of them,
-- or else `key`. paths: option -> path.
function config.checked_path(key, paths, value, message)
  if not value and type(message) == "string" then
    local length = -1
    for name, path in pairs(paths) do
      if #path > length and message:sub(1, #path) == path then
        key, length = name, #path
      end
    end
  end
  return config.checked(key, value, message)
end

--- The arguments of a tool whose first one may stand without its name: key=FIRST in place of a word without "=".
function config.named_first(key, arguments)
  local list, first = table.move(arguments, 0, #arguments, 0, {}), arguments[1]
  if first and not first:find("=", 1, true) and not first:find "^[-@]" then
    list[1] = key .. "=" .. first
  end
  return list
end

--- The options of a run from a schema and the arguments; see docs/config.md.
-- meta (optional): recipe, doc, script, presets, exit and print (for tests).
function config.parse(schema, arg, meta)
  meta = meta or {}
  local options, by_key, names = compile(schema)
  local state = { options = options, by_key = by_key, names = names, values = {}, groups = {}, given = {} }
  for _, option in ipairs(options) do
    state.values[option.key] = option.default
    local group = option.key:match("^(.*)%.[^.]*$")
    while group do
      state.groups[group] = true
      group = group:match("^(.*)%.[^.]*$")
    end
  end

  local preset, action, check
  for _, a in ipairs(arg or {}) do
    local name = a:match("^preset=(.*)$")
    if name then
      preset = name
    elseif a == "--check" and by_key.resume then -- of a run, which Run.open looks at
      check = true
    elseif a == "--help" or a == "--print-config" then
      action = action or a
    elseif not a:match("^[^=@][^=]*=") and not a:match("^@.") then
      fail("argument '%s': expected key=value, preset=NAME, @file.lua, --help or --print-config", a)
    end
  end
  if preset then
    apply_preset(state, meta.presets or {}, preset)
    state.given = {}
  end
  for _, a in ipairs(arg or {}) do
    local key, word = a:match("^([^=]+)=(.*)$")
    if a:sub(1, 1) == "@" then
      merge_file(state, a:sub(2))
    elseif key and key ~= "preset" then
      local option = find(state, key)
      state.values[option.key] = value_from_text(option, word)
      state.given[option.key] = true
    end
  end

  local cfg = nest(state)
  if action then
    local out = action == "--help" and help_text(state, meta, arg) or config.dump(cfg);
    (meta.print or print)((out:gsub("\n$", "")));
    (meta.exit or os.exit)(0, true)
  end
  local info = {
    recipe = meta.recipe,
    script = meta.script or arg and arg[0],
    preset = preset,
    check = check,
    arg = table.move(arg or {}, 1, #(arg or {}), 1, {}),
    given = sorted_keys(state.given),
    named = names_of(state),
    changed = changed_from(options, function(key)
      return state.values[key]
    end),
  }
  return cfg, info
end

--- config.rows(rows, prefix, defaults, left_out) -> rows of a schema: those of a module (Control.OPTIONS, trainer.OPTIONS)
-- with prefix in front of the keys and the recipe's own defaults, without the list left_out (nil: none) of what the recipe has
-- no use for. A default without a row raises.
function config.rows(rows, prefix, defaults, left_out)
  local list, known, hidden = {}, {}, {}
  for _, key in ipairs(left_out or {}) do
    hidden[key] = true
  end
  for _, row in ipairs(rows) do
    local default = defaults[row[1]]
    known[row[1]] = true
    if default == nil then
      default = row[2]
    end
    list[#list + 1] = not hidden[row[1]] and { prefix .. row[1], default, row[3], min = row.min, max = row.max, choices = row.choices,
      type = row.type, alias = row.alias, named = row.named } or nil
  end
  for key in pairs(defaults) do
    if not known[key] then
      error(("config.rows: there is no option '%s%s'"):format(prefix, key), 2)
    end
  end
  return list
end

--- config.join(lists) -> one list of the rows of several.
function config.join(lists)
  local all = {}
  for _, rows in ipairs(lists) do
    table.move(rows, 1, #rows, #all + 1, all)
  end
  return all
end

--- The schema with the rows that every recipe has in front: out, seed, device, threads,
-- memory_cap, resume, keep, quiet. A row of the schema with one of these keys takes its place.
function config.common(schema)
  local rows = {
    { "out", nil, "directory of the run, runs/<recipe>/default if unset", type = "string" },
    { "resume", nil, "auto or a directory: continue an interrupted run", type = "string" },
    { "redo", nil, "with resume: this stage and those that ran after it run again", type = "string" },
    { "seed", 0, "seed of everything random", min = 0 },
    { "device", "cpu", "where tensors live: cpu, cuda or cuda:N" },
    { "threads", 0, "CPU threads, 0 = all; the results do not depend on it", min = 0, max = 256 },
    { "memory_cap", 0.0, "GiB of the device's memory that may be used, 0 = all", min = 0 },
    { "keep", 2, "checkpoints kept", min = 1 },
    { "quiet", false, "no progress on stderr" },
    { "comm.timeout", 600.0, "under mpirun: seconds that ranks wait for one that does not come", min = 0.1 },
    { "tensorboard", false, "metrics also as TensorBoard's event files, in tensorboard/STAGE of the run" },
  }
  local all, own = {}, {}
  for _, row in ipairs(schema) do
    own[row[1]] = row
  end
  local placed = {}
  for _, row in ipairs(rows) do
    all[#all + 1] = own[row[1]] or row
    placed[row[1]] = true
  end
  for _, row in ipairs(schema) do
    if not placed[row[1]] then
      all[#all + 1] = row
    end
  end
  return all
end

--- The options of cfg that differ from the schema's defaults: list of {key, value, default}, in the
-- order of the schema.
function config.changed(cfg, schema)
  local flat = config.flatten(cfg)
  return changed_from(compile(schema), function(key)
    return flat[key]
  end)
end

return config
