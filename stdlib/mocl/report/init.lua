--- mocl.report: one self-contained HTML file for a run's directory, and its front as a picture.
-- No link outwards, no script, no date: it opens from disk, and the same run gives the same bytes.
-- What the directory lacks is left out; everything that comes from a file is escaped.

local comparison_page = require "mocl.report.comparison_page"
local conclusion = require "mocl.report.conclusion"
local config = require "mocl.run.config"
local curves = require "mocl.report.curves"
local fs = require "mocl.fs"
local html = require "mocl.report.html"
local json = require "mocl.json"
local report_env = require "mocl.report.worlds"
local report_front = require "mocl.report.front"
local results = require "mocl.report.results"
local samples = require "mocl.report.samples"
local sorted_keys = require "mocl.options".sorted_keys
local svg = require "mocl.report.svg"

local report = { summary = results.summary }

local escape = svg.escape
local as_table, is_number = results.as_table, results.is_number

-- ---- the parts ----

local function figures_table(part, caption)
  local rows, notes = results.figures(part), false
  for _, row in ipairs(rows) do
    row[3] = results.note(row[1])
    notes = notes or row[3]
  end
  local columns = { { "figure" }, { "value", "n" }, notes and { "meaning", "note" } or nil }
  return #rows > 0 and html.table(columns, rows, { caption = caption }) or ""
end

local function rewards_table(result, part, caption)
  local header, rows = results.rows(result, part)
  local columns = {}
  for j, name in ipairs(header) do
    columns[j] = { name, j > 1 and (name == results.MALFORMED and "n" or "tint") or nil }
  end
  return html.table(columns, rows, { caption = caption })
end

local function result_section(result)
  local out, objectives, list = {}, results.objectives(result), results.methods(result)
  if #list == 0 then
    return ""
  end
  out[1] = '<p class="sub">Preferences are the weights of ' .. escape(table.concat(objectives, ", "))
    .. "; the darker a number, the larger in its column."
    .. (as_table(result.rule) and as_table(result.rule.malformed) and " " .. escape(results.MALFORMED_NOTE) or "") .. "</p>\n"
  for _, m in ipairs(list) do
    if #list > 1 then
      out[#out + 1] = "<h3>" .. escape(m.name) .. "</h3>\n"
    end
    out[#out + 1] = '<div class="pair">\n' .. rewards_table(result, m.part) .. figures_table(m.part) .. "</div>\n"
    if type(m.part.unmeasured) == "string" then
      out[#out + 1] = '<p class="sub">Hypervolume: not measured: ' .. escape(m.part.unmeasured) .. "</p>\n"
    end
    if type(m.part.warning) == "string" then
      out[#out + 1] = '<p class="sub">Warning: ' .. escape(m.part.warning) .. "</p>\n"
    end
  end
  local groups = as_table(result.unseen) and as_table(result.unseen.groups) or {}
  if #groups > 0 then
    out[#out + 1] = '<h3>Unseen preferences</h3>\n<div class="charts">\n'
    for i, group in ipairs(groups) do
      if as_table(group) then
        local caption = { "group " .. i }
        for _, f in ipairs(results.figures(group)) do
          caption[#caption + 1] = f[1] .. " " .. results.number_text(f[2])
        end
        out[#out + 1] = rewards_table({ objectives = objectives },
          { rewards = as_table(group.rewards) or {}, preferences = group.preferences },
          table.concat(caption, ", "))
      end
    end
    out[#out + 1] = "</div>\n"
  end
  return html.section("results", "Results", table.concat(out))
end

-- the figures that are looked at first
local function tiles(result)
  local out = {}
  local function add(name, v, format)
    if svg.finite(v) then
      out[#out + 1] = ("<div><b>%s</b>%s</div>\n"):format(escape(format:format(v)), escape(name))
    end
  end
  add("hypervolume", result.hypervolume, "%.3f")
  local sft = as_table(result.sft)
  add("hypervolume of the SFT model", sft and sft.hypervolume, "%.3f")
  add("Kendall's tau", result.kendall_tau, "%.3f")
  local least = math.huge
  for _, group in ipairs(as_table(result.unseen) and as_table(result.unseen.groups) or {}) do
    least = math.min(least, as_table(group) and svg.finite(group.kendall_tau) and group.kendall_tau
      or math.huge)
  end
  add("least tau, unseen preferences", least, "%.3f")
  add("mean pairwise distance", result.mean_pairwise_distance, "%.3f")
  add("KL to the SFT model, nats", result.kl, "%.2f")
  return #out > 0 and '<div class="tiles">\n' .. table.concat(out) .. "</div>\n" or ""
end

local function decode_file(path)
  local text = fs.read(path)
  return text and as_table(json.decode(text)) or nil
end

local function configuration_section(cfg, env)
  local flat, rows, own = config.flatten(cfg), {}, {}
  local changed = env and as_table(env.changed) or {}
  for i, key in ipairs(sorted_keys(flat)) do
    local c = as_table(changed[key])
    rows[i] = { key, config.text(flat[key]), c and tostring(c.default) or "", marked = c ~= nil }
    own[#own + 1] = c and { key, rows[i][2], rows[i][3] } or nil
  end
  local columns = { { "option" }, { "value", "code" }, { "default, where it differs", "code" } }
  return html.section("configuration", "Configuration", (#own > 0
      and html.table({ { "option" }, { "value", "code" }, { "default", "code" } }, own, { caption = "Other than the default" })
      or '<p class="sub">Every option has its default.</p>\n')
    .. ("<details><summary>All %d options</summary>\n%s</details>\n"):format(#rows, html.table(columns, rows)))
end

local function provenance_section(dir, env)
  local rows = {}
  if env then
    local flat = config.flatten(env)
    for key, v in pairs(flat) do
      if not key:find("^changed%.") then
        rows[#rows + 1] = { key, config.text(v) }
      end
    end
    table.sort(rows, function(a, b)
      return a[1] < b[1]
    end)
  end
  local cmdline = fs.read(fs.join(dir, "cmdline.txt"))
  if cmdline then
    table.insert(rows, 1, { "command", (cmdline:gsub("%s+$", "")) })
  end
  return html.section("provenance", "Provenance", #rows > 0 and ("<details><summary>Command, machine, versions, inputs</summary>\n%s</details>\n")
    :format(html.table({ { "fact" }, { "value", "code" } }, rows)) or "")
end

-- ---- the page ----

local SECTIONS = { { "known", "Known front" }, { "front", "Front" }, { "samples", "Answers" }, { "control", "Control" }, { "results", "Results" },
  { "training", "Training" }, { "rewards", "Rewards of answers" },
  { "configuration", "Configuration" }, { "provenance", "Provenance" } }

-- what is said of a run that has no result: how far it is
local function banner(dir, last)
  local stages, done = decode_file(fs.join(dir, "stages.json")), {}
  for name in pairs(stages or {}) do
    done[#done + 1] = tostring(name)
  end
  table.sort(done)
  local text = "This run has no result yet."
    .. (last and (" The last entry of metrics.jsonl is step %s%s."):format(config.text(last.step),
      last.stage ~= "" and " of stage " .. last.stage or "") or "")
    .. (#done > 0 and " Finished stages: " .. table.concat(done, ", ") .. "." or "")
    .. " The same command with resume=auto continues it."
  return '<p class="banner">' .. escape(text) .. "</p>\n"
end

-- Do the rays of the preferences say where their points are to be? They do where the method compares shares, or rewards as they
-- are, with the preference; with the range of the grid it aims at an order alone.
local function aims_at_rays(cfg)
  local c = cfg and as_table(cfg.control)
  return c ~= nil and (c.share == true or c.range == false)
end

--- The report of a run's directory as HTML. opts.result is used in place of result.json.
function report.html(dir, opts)
  local result = opts and opts.result or decode_file(fs.join(dir, "result.json"))
  local env = decode_file(fs.join(dir, "env.json"))
  local cfg = config.load(fs.join(dir, "config.lua"))
  local title = tostring(result and result.recipe or env and env.recipe or "run")
  local sub = {}
  for _, key in ipairs { "method", "seed", "device", "training_samples" } do
    local v = (result or env or {})[key]
    if type(v) == "string" or is_number(v) then
      sub[#sub + 1] = key:gsub("_", " ") .. " " .. config.text(v)
    end
  end
  local objectives = result and results.objectives(result) or {}
  if #objectives == 0 then
    objectives = results.objectives { objectives = cfg and cfg.objectives }
  end
  local before, after = samples.read(dir)
  local training, last = curves.section(dir, objectives)
  local parts = {
    known = result and html.section("known", "Known front", report_env.section(result) or "") or "",
    front = result and html.section("front", "Front", report_front.section(result, { rays = aims_at_rays(cfg) })) or "",
    control = result and html.section("control", "Control", report_front.control(result)) or "",
    results = result and result_section(result) or "",
    training = training,
    rewards = samples.histograms(result, before, after, objectives),
    samples = samples.section(before, after, objectives),
    configuration = cfg and configuration_section(cfg, env) or "",
    provenance = provenance_section(dir, env),
  }
  local sections = {}
  for i, s in ipairs(SECTIONS) do
    sections[i] = { s[1], s[2], parts[s[1]] }
  end
  return html.page(title, table.concat(sub, ", "), result and tiles(result) or banner(dir, last), sections,
    result and conclusion.text(result))
end

--- The front of a run as an SVG file of its own, light on any page, or nil, message where there is
-- none. opts: result (in place of result.json), width (720), height (520).
function report.front(dir, opts)
  local result = opts and opts.result or decode_file(fs.join(dir, "result.json"))
  local w, h = opts and opts.width or 720, opts and opts.height or 520
  local rays = aims_at_rays(config.load(fs.join(dir, "config.lua")))
  local chart = result and report_front.chart(result, { width = w, height = h, rays = rays })
  if not chart then
    return nil, dir .. ": " .. (result and "its result has no front of two or more objectives"
      or "has no result.json; its run has not ended")
  end
  local css = svg.css:gsub("@media[^\n]*\n", "")
  return (chart:gsub("^<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    :gsub(">", function()
      return ('>\n<style>\nsvg{color:#1b1b1b}\n%s</style>\n<rect width="%d" height="%d" fill="#fff"/>')
        :format(css, w, h)
    end, 1))
end

--- The files of a report and what draws them, for run:finish.
report.PAGES = { { "report.html", report.html }, { "front.svg", report.front } }

--- Writes report.html and, where there is a front, front.svg in the directory of a run, or report.html in that of a comparison: the
-- paths, or nil, message, code.
function report.write(dir)
  local found = false
  for _, name in ipairs { "config.lua", "result.json", "metrics.jsonl", "samples.jsonl" } do
    found = found or fs.exists(fs.join(dir, name))
  end
  if not found then
    return nil, dir .. ": holds no run", "IO"
  end
  local paths, compared = { fs.join(dir, "report.html") }, fs.exists(fs.join(dir, "comparison.json"))
  local text, message = (compared and comparison_page.of or report.html)(dir)
  if not text then
    return nil, message, "FORMAT"
  end
  local ok, err, code = fs.write(paths[1], text)
  local front = ok and not compared and report.front(dir)
  if front then
    paths[2] = fs.join(dir, "front.svg")
    ok, err, code = fs.write(paths[2], front)
  end
  if not ok then
    return nil, err, code
  end
  return paths[1], paths[2]
end

return report
