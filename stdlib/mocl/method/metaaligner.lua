--- mocl.method.metaaligner: MetaAligner (Yang et al. 2024, arXiv 2403.17141): a model that edits the answers of another towards objectives
-- which its prompt names, learnt from pairs of answers of which one is better in these. It has no weights.

local metaaligner = {}

--- metaaligner.text(template, aspects, prompt, answer) -> what the editor is shown: the template with the aspects, separated by "; ", the
-- prompt and the answer in the place of {aspects}, {prompt} and {answer}.
function metaaligner.text(template, aspects, prompt, answer)
  local with = { aspects = table.concat(aspects, "; "), prompt = prompt, answer = answer }
  return (template:gsub("{(%a+)}", with))
end

--- metaaligner.check(template): raises where one of the three is not in it.
function metaaligner.check(template)
  for _, name in ipairs { "aspects", "prompt", "answer" } do
    if not template:find("{" .. name .. "}", 1, true) then
      error(("metaaligner.template: {%s} is not in '%s'; the editor has to be shown it"):format(name, template), 0)
    end
  end
end

--- metaaligner.wanted(p, aspects) -> those of the objectives that have a weight in p.
function metaaligner.wanted(p, aspects)
  local list = {}
  for j, w in ipairs(p) do
    list[#list + 1] = w > 0 and aspects[j] or nil
  end
  return list
end

--- metaaligner.subsets(n) -> preferences of equal weights of one objective or more, all of them: what can be asked for. In
-- ascending order of the first weight, then of the others.
function metaaligner.subsets(n)
  local list = {}
  for mask = 1, 2 ^ n - 1 do
    local p, count = {}, 0
    for j = 1, n do
      count = count + (mask >> (j - 1) & 1)
    end
    for j = 1, n do
      p[j] = (mask >> (j - 1) & 1) / count
    end
    list[mask] = p
  end
  table.sort(list, function(p, q)
    for j = 1, n do
      if p[j] ~= q[j] then
        return p[j] < q[j]
      end
    end
    return false
  end)
  return list
end

--- metaaligner.examples(r, rows, template, aspects) -> list of {prompt=, response=} to train on. rows {prompt=, response=, rewards=}, of which
-- 2i - 1 and 2i answer one prompt. Where the first is better in some objectives, the editor learns to make it of the second with these
-- as aspects, in an order that the stream draws, and the other way round. Pairs that are equal in everything teach nothing.
function metaaligner.examples(r, rows, template, aspects)
  local list = {}
  for i = 1, #rows - 1, 2 do
    for _, pair in ipairs { { rows[i], rows[i + 1] }, { rows[i + 1], rows[i] } } do
      local better, worse, named = pair[1], pair[2], {}
      for j, aspect in ipairs(aspects) do
        named[#named + 1] = better.rewards[j] > worse.rewards[j] and aspect or nil
      end
      if #named > 0 then
        list[#list + 1] = { prompt = metaaligner.text(template, r:shuffle(named), worse.prompt, worse.response), response = better.response }
      end
    end
  end
  if #list == 0 then
    error(("in none of %d pairs of answers is one better in a reward: there is nothing to learn from"):format(#rows // 2), 0)
  end
  return list
end

return metaaligner
