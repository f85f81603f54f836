--- mocl.report.results: the tables and figures of a result.json, for the report and the terminal.
-- Reads the format of docs/report.md; what is missing or of another type is left out.

local json = require "mocl.json"
local sorted_keys = require "mocl.options".sorted_keys
local text_table = require "mocl.run.text_table"

local results = {}

local function is_number(v)
  return type(v) == "number"
end
results.is_number = is_number

--- A table of JSON, or nil for null and anything else.
local function as_table(v)
  return type(v) == "table" and v ~= json.null and v or nil
end
results.as_table = as_table

--- A number with three decimals; empty for anything else.
function results.number_text(v)
  return text_table.cell(is_number(v) and v or nil, 3)
end

--- A list of n finite numbers?
function results.is_point(list, n)
  for j = 1, n do
    local v = as_table(list) and list[j]
    if not is_number(v) or v ~= v or math.abs(v) == math.huge then
      return false
    end
  end
  return true
end

--- A preference as a short text: 0.3, 0.7. Weights have at most four digits.
function results.preference_text(p)
  local parts = {}
  for i, v in ipairs(as_table(p) or {}) do
    parts[i] = is_number(v) and ("%.4g"):format(v) or tostring(v)
  end
  return table.concat(parts, ", ")
end

--- The parts of a result that hold rewards per preference: the method's own and others that the
-- recipe compares with, such as linear_ppo. List of {name, part}.
function results.methods(result)
  local list = {}
  if as_table(result.rewards) and as_table(result.rewards[1]) then
    list[1] = { name = result.method or result.recipe or "method", part = result }
  end
  local names = {}
  for name, part in pairs(result) do
    if as_table(part) and name ~= "rule" and name ~= "sft" and as_table(part.rewards)
      and as_table(part.rewards[1]) then
      names[#names + 1] = name
    end
  end
  table.sort(names)
  for _, name in ipairs(names) do
    list[#list + 1] = { name = name, part = result[name] }
  end
  return list
end

--- The names of the objectives.
function results.objectives(result)
  local names = {}
  for i, name in ipairs(as_table(result.objectives) or {}) do
    names[i] = tostring(name)
  end
  if #names == 0 then
    local first = results.methods(result)[1]
    for i = 1, first and #first.part.rewards[1] or 0 do
      names[i] = "objective " .. i
    end
  end
  return names
end

results.MALFORMED = "malformed"
results.MALFORMED_NOTE = "Malformed counts the parts of an answer that are no sentence the task's rule knows, on average and of at most "
  .. "4; fewer are better."

--- The table of results: header and rows; a row is {preference, rewards..., raw..., rule...}.
function results.rows(result, part)
  local objectives = results.objectives(result)
  local rule = as_table(part.rule) or {}
  local raw, audit = as_table(part.rewards_raw), as_table(rule.rewards)
  local malformed = as_table(rule.malformed)
  local header, rows, constant, known = { "preference" }, {}, {}, {}
  for _, name in ipairs(as_table(result.constant) or {}) do
    constant[name] = true
  end
  for j = 1, #objectives do
    known[j] = audit ~= nil and as_table(audit[1]) ~= nil and is_number(audit[1][j]) or nil
  end
  local function columns(suffix, wanted)
    for j, name in ipairs(objectives) do
      if not wanted or wanted[j] then
        header[#header + 1] = name .. (suffix == "" and constant[name] and " (own unit)" or suffix)
      end
    end
  end
  columns("")
  if raw then
    columns(" (raw)")
  end
  columns(" (rule)", known) -- the rule does not know rewards of the user's own
  if malformed then
    header[#header + 1] = results.MALFORMED
  end
  local function add(label, rewards, raw_row, audit_row, bad)
    local row, at = { label }, 1
    local function fill(values, wanted)
      for j = 1, #objectives do
        if not wanted or wanted[j] then
          local v = as_table(values) and values[j]
          at = at + 1
          row[at] = is_number(v) and v + 0.0 or nil
        end
      end
    end
    fill(rewards)
    if raw then
      fill(raw_row)
    end
    fill(audit_row, known)
    if malformed then
      row[at + 1] = is_number(bad) and bad + 0.0 or nil
    end
    rows[#rows + 1] = row
  end
  local sft = part == result and as_table(result.sft)
  if sft then
    local sft_rule = as_table(sft.rule) or {}
    add("SFT", sft.rewards, sft.rewards_raw, sft_rule.rewards, sft_rule.malformed)
  end
  local preferences = as_table(part.preferences) or as_table(result.preferences) or {}
  for i, rewards in ipairs(part.rewards) do
    add(results.preference_text(preferences[i]), rewards, raw and raw[i], audit and audit[i],
      malformed and malformed[i])
  end
  return header, rows
end

local FIGURES = {
  { "hypervolume", "hypervolume" },
  { "mean_pairwise_distance", "mean pairwise distance" },
  { "kendall_tau", "Kendall tau" },
  { "kendall_p", "Kendall p-value" },
  { "kl", "KL to the SFT model" },
}

local FLUENCY = {
  { "perplexity", "perplexity" }, { "sft_perplexity", "perplexity of the SFT model's" },
  { "distinct_2", "distinct-2" }, { "sft_distinct_2", "distinct-2 of the SFT model's" },
}

local NOTES = {
  ["perplexity"] = "of the answers under the model that the policy starts from, without tags",
  ["blind check"] = "mean score of the answers by eval.blind, which nothing was trained on",
  ["distinct-2"] = "share of different pairs of words in the answers under one preference",
  ["hypervolume"] = "what the mean rewards dominate above the reference point; larger is better",
  ["mean pairwise distance"] = "between the mean rewards of two preferences; larger is more varied",
  ["Kendall tau"] = "rank correlation of preferences and rewards, 1 is full control",
  ["Kendall p-value"] = "chance of a tau as large without any control",
  ["KL to the SFT model"] = "nats per answer, mean over the iterations",
  ["c mean"] = "weight of the reward gradient against the constraint's, mean over the answers",
  ["c zero"] = "share of answers with c = 0: the constraint alone",
  ["c one"] = "share of answers with c = 1: the rewards alone",
  ["c indicator"] = "share of answers whose constraint was violated (equation 5)",
  ["c negative_w"] = "share of answers where an objective got a negative weight",
  ["hypervolume (rule)"] = "the same under the task's own rule, which training does not see",
}

--- What a figure of `figures` means, or nil.
function results.note(name)
  return NOTES[name] or name:find("^Kendall tau of ") and "of its rewards against its weights" or nil
end

--- The figures of a result or a part of it: list of {name, value}.
function results.figures(part)
  local list = {}
  local function add(name, v)
    if is_number(v) then
      list[#list + 1] = { name, v }
    elseif as_table(v) then
      for _, k in ipairs(sorted_keys(v)) do
        add(name .. " " .. tostring(k), v[k])
      end
    end
  end
  for _, f in ipairs(FIGURES) do
    add(f[2], part[f[1]])
  end
  for j, v in ipairs(as_table(part.kendall_tau_per_objective) or {}) do
    local name = as_table(part.objectives) and part.objectives[j] or tostring(j)
    add("Kendall tau of " .. tostring(name), v)
  end
  add("c", as_table(part.c))
  for _, f in ipairs(FLUENCY) do
    add(f[2], as_table(part.fluency) and part.fluency[f[1]])
  end
  add("blind check", part.blind)
  add("blind check of the SFT model's", part.sft_blind)
  local rule = as_table(part.rule)
  if rule then
    add("hypervolume (rule)", rule.hypervolume)
  end
  return list
end

--- The closing table of a result as plain text; opts.markdown gives Markdown.
function results.summary(result, opts)
  local draw = opts and opts.markdown and text_table.markdown or text_table.plain
  local out = {}
  local list = results.methods(result)
  for _, m in ipairs(list) do
    if #list > 1 then
      out[#out + 1] = m.name .. "\n"
    end
    out[#out + 1] = draw(results.rows(result, m.part))
    local rows = results.figures(m.part)
    if #rows > 0 then
      out[#out + 1] = draw({ "figure", "value" }, rows)
    end
    if type(m.part.unmeasured) == "string" then
      out[#out + 1] = "hypervolume: not measured: " .. m.part.unmeasured .. "\n"
    end
    if type(m.part.warning) == "string" then
      out[#out + 1] = "warning: " .. m.part.warning .. "\n"
    end
  end
  return table.concat(out, "\n")
end

return results
