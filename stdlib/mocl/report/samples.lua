--- mocl.report.samples: the distributions of rewards before and after training, and prompts answered
-- under all preferences, from samples.jsonl and result.json.

local each_row = require("mocl.report.curves").each_row
local fs = require "mocl.fs"
local html = require "mocl.report.html"
local results = require "mocl.report.results"
local svg = require "mocl.report.svg"

local report_samples = {}

local MAX_PROMPTS = 3 -- tables of answers
local MAX_ROWS = 66 -- answers in a table

local is_number, as_table = results.is_number, results.as_table
local preference_text = results.preference_text

-- equal preferences have equal keys, to the last bit
local function preference_key(p)
  local parts = {}
  for i, v in ipairs(as_table(p) or {}) do
    parts[i] = is_number(v) and ("%.17g"):format(v) or tostring(v)
  end
  return table.concat(parts, " ")
end

--- What samples.jsonl holds of the last evaluation and, before it, of the SFT model: rewards per
-- objective and the rows of the first prompts. A new stage or step begins a new evaluation.
function report_samples.read(dir)
  local function empty()
    return { rewards = {}, prompts = {}, order = {}, rows = 0 }
  end
  local before, after, current = empty(), empty(), nil
  each_row(fs.join(dir, "samples.jsonl"), function(row)
    local to = before
    if row.model ~= "sft" and row.stage ~= "sft" then
      local key = tostring(row.stage) .. "\0" .. tostring(row.step)
      if key ~= current then
        after, current = empty(), key
      end
      to = after
    end
    to.rows = to.rows + 1
    for j, r in ipairs(as_table(row.rewards) or {}) do
      to.rewards[j] = to.rewards[j] or {}
      if is_number(r) then
        table.insert(to.rewards[j], r)
      end
    end
    local prompt = row.prompt
    if type(prompt) == "string" then
      if not to.prompts[prompt] and #to.order < 500 then
        to.prompts[prompt] = { text = prompt, index = #to.order + 1, rows = {}, seen = {} }
        to.order[#to.order + 1] = to.prompts[prompt]
      end
      local p, key = to.prompts[prompt], preference_key(row.preference)
      if p and not p.seen[key] and #p.rows < MAX_ROWS then -- one answer for each preference
        p.seen[key] = true
        p.rows[#p.rows + 1] = row
      end
    end
  end)
  return before, after
end

-- ---- histograms ----

-- An objective's histogram as metrics.histogram made it for result.json, or nil.
local function counted(list, j)
  local h = as_table(list) and as_table(list[j])
  if not h or not svg.finite(h.low) or not svg.finite(h.width) or h.width <= 0
    or not as_table(h.counts) or #h.counts == 0 then
    return nil
  end
  for _, c in ipairs(h.counts) do
    if not svg.finite(c) or c < 0 then
      return nil
    end
  end
  return h
end

-- series over the bins that any of them uses, the left edge of the first of these, and a note
local function trim(parts)
  local first, last, beyond = math.huge, 0, 0
  for _, part in ipairs(parts) do
    for b, c in ipairs(part.h.counts) do
      if c > 0 then
        first, last = math.min(first, b), math.max(last, b)
      end
    end
    beyond = beyond + (is_number(part.h.below) and part.h.below or 0)
      + (is_number(part.h.above) and part.h.above or 0)
  end
  if last == 0 then
    return nil
  end
  local series = {}
  for i, part in ipairs(parts) do
    series[i] = { name = part.name, mean = part.h.mean, counts = {} }
    for b = first, last do
      series[i].counts[b - first + 1] = part.h.counts[b] or 0
    end
  end
  local low = parts[1].h.low + (first - 1) * parts[1].h.width
  return series, low, beyond > 0 and (" %d answers lie beyond the bins."):format(beyond) or ""
end

-- one chart from the counts of result.json
local function counted_chart(histograms, j, name)
  local parts = {}
  for _, which in ipairs { "before", "after" } do
    local h = counted(histograms[which], j)
    parts[#parts + 1] = h and { name = which, h = h } or nil
  end
  local h, last = parts[1] and parts[1].h, parts[1] and parts[#parts].h
  if not h or h.low ~= last.low or h.width ~= last.width then
    return nil
  end
  local series, low, beyond = trim(parts)
  return series and html.figure(name, "Lines are the means." .. beyond, svg.histogram {
    title = "rewards of " .. name, xlabel = "reward of an answer", ylabel = "share of answers",
    series = series, low = low, bin_width = h.width, width = 420, height = 260 })
end

local function mean(values)
  local sum = 0
  for _, v in ipairs(values) do
    sum = sum + v
  end
  return sum / #values
end

local function sampled_chart(before, after, j, name)
  local series = {}
  for _, s in ipairs { { "before", before.rewards[j] }, { "after", after.rewards[j] } } do
    if s[2] and #s[2] > 0 then
      series[#series + 1] = { name = s[1], values = s[2], mean = mean(s[2]) }
    end
  end
  return #series > 0 and html.figure(name,
    "Lines are the means. From the answers kept in samples.jsonl.", svg.histogram {
      title = "rewards of " .. name, xlabel = "reward of an answer", ylabel = "share of answers",
      series = series, width = 420, height = 260 }) or nil
end

--- The section "Rewards of answers" as HTML: from the counts of result.json, or else from samples.
function report_samples.histograms(result, before, after, objectives)
  local out = {}
  local histograms = result and as_table(result.histograms) or {}
  for j = 1, math.max(#objectives, #after.rewards, #before.rewards) do
    local name = objectives[j] or "objective " .. j
    out[#out + 1] = counted_chart(histograms, j, name) or sampled_chart(before, after, j, name)
  end
  return html.section("rewards", "Rewards of answers", #out > 0 and '<p class="sub">Before training '
    .. '(the SFT model) and after it, over all preferences.</p>\n<div class="charts">\n'
    .. table.concat(out) .. "</div>\n" or "")
end

-- ---- prompts ----

local function preference_less(a, b)
  local p, q = as_table(a.preference) or {}, as_table(b.preference) or {}
  for i = 1, math.min(#p, #q) do
    if p[i] ~= q[i] and is_number(p[i]) and is_number(q[i]) then
      return p[i] < q[i]
    end
  end
  return #p < #q
end

-- Prompts of HH-RLHF ask for harm too. Such a one is not the first that a reader meets.
local HARM = { "kill", "murder", "weapon", "bomb", "drug", "cocaine", "steal", "rape", "sex", "porn", "suicid", "hate", "racis", "nazi",
  "slur", "attack", "hurt", "poison", "shoot", "stab", "fuck", "shit", "bitch", "terroris", "hack", "fraud", "blackmail", "abuse" }

local function asks_for_harm(text)
  local words = " " .. text:lower():gsub("%A+", " ")
  for _, stem in ipairs(HARM) do
    if words:find(" " .. stem, 1, true) then
      return true
    end
  end
  return false
end

--- The section "Answers" as HTML: the prompts with the most preferences, harmless ones first, and the first one open.
function report_samples.section(before, after, objectives)
  local source = #after.order > 0 and after or before
  local prompts = table.move(source.order, 1, #source.order, 1, {})
  local rank = {}
  for _, p in ipairs(prompts) do
    rank[p] = (asks_for_harm(p.text) and 1 or 0) * #prompts + p.index
  end
  table.sort(prompts, function(a, b)
    return #a.rows > #b.rows or #a.rows == #b.rows and rank[a] < rank[b]
  end)
  local columns, out = { { "preference" }, { "answer", "text" } }, {}
  for j = 1, math.max(#objectives, #source.rewards) do
    columns[j + 2] = { objectives[j] or "objective " .. j, "tint" }
  end
  for i = 1, math.min(MAX_PROMPTS, #prompts) do
    local p, rows = prompts[i], {}
    local function add(label, row)
      local cells = { label, (tostring(row.response or ""):gsub("^ ", "")) }
      for j, r in ipairs(as_table(row.rewards) or {}) do
        cells[2 + j] = is_number(r) and r + 0.0 or nil
      end
      rows[#rows + 1] = cells
    end
    local sft = source == after and before.prompts[p.text]
    if sft and sft.rows[1] then
      add("SFT model", sft.rows[1])
    end
    table.sort(p.rows, preference_less)
    for _, row in ipairs(p.rows) do
      local label = preference_text(row.preference)
      add(source == before and "SFT model, " .. label or label, row)
    end
    out[i] = ('<details%s><summary>Prompt %d</summary>\n<pre dir="auto">%s</pre>\n%s</details>\n')
      :format(i == 1 and " open" or "", i, html.text(p.text), html.table(columns, rows))
  end
  return html.section("samples", "Answers", #out > 0 and '<p class="sub">One answer to each '
    .. "preference, whose weights are in the order " .. html.escape(table.concat(objectives, ", "))
    .. ". The numbers are the rewards of the answers, which training has seen.</p>\n" .. table.concat(out) or "")
end

return report_samples
