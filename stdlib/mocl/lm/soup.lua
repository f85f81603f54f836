--- mocl.lm.soup: one adapter from several, Rewarded Soups (Rame et al. 2023): the weighted sum of what adapters of one model, each
-- trained on its own reward, add to it. With "apart" A and B are averaged apart, as the paper's program and RiC's do for LoRA, and
-- what is added is the product of averages, (sum_j w_j B_j)(sum_j w_j A_j). With "products" it is sum_j w_j B_j A_j, exact,
-- of rank N r.

local options = require "mocl.options"
local parameters = require "mocl.parameters"
local tensor = require "mocl.tensor"

local soup = {}

soup.KINDS = { "apart", "products" }

--- soup.backbone(n, beta) -> rows: the weights of the rewards that the parts of a Bone Soup are trained on (Xie et al. 2025): part j has
-- beta on objective j, the others share the rest alike. beta is above 1/n, where all parts would be one, and at most 1,
-- where they are those of Rewarded Soups.
function soup.backbone(n, beta)
  if type(beta) ~= "number" or not (beta > 1 / n and beta <= 1) then
    error(("soup.backbone: beta=%s: a number above 1/%d and at most 1 expected; at 1/%d all parts have one reward, at 1 each has its own")
      :format(options.shown(beta, "%g"), n, n), 2)
  end
  local rows = {}
  for i = 1, n do
    rows[i] = {}
    for j = 1, n do
      rows[i][j] = i == j and beta or (1 - beta) / (n - 1)
    end
  end
  return rows
end

--- soup.coefficients(p, beta) -> list: the weights of such parts under the preference p, with which the rewards they were trained on sum
-- to sum_j p_j r_j: what solves rows^T x = p for the rows of soup.backbone. They sum to 1 and some are negative near the corners.
function soup.coefficients(p, beta)
  local rows, x = soup.backbone(#p, beta), {}
  local rest = #p > 1 and rows[1][2] or 0
  for j, w in ipairs(p) do
    x[j] = (w - rest) / (beta - rest) -- the matrix is (beta - rest) I + rest 1 1^T, and the sum of x is 1
  end
  return x
end

-- The options of add_lora of adapters that can be mixed: one rank and alpha on the same layers.
local function alike(model, names)
  local first, tensors = model:lora(names[1]), {}
  for k, name in ipairs(names) do
    local info = model:lora(name)
    if info.modules then
      error(("soup.mix: the adapter '%s' has layers of different rank or alpha; train all with one"):format(name), 3)
    elseif info.r ~= first.r or info.alpha ~= first.alpha or (info.use_rslora or false) ~= (first.use_rslora or false) then
      error(("soup.mix: the adapters '%s' and '%s' differ in r, alpha or use_rslora"):format(names[1], name), 3)
    end
    local list = model:named_parameters(name)
    for i, pair in ipairs(list) do
      tensors[i] = tensors[i] or { name = pair[1] }
      if #list ~= #(tensors[0] or list) or tensors[i].name ~= pair[1] then
        error(("soup.mix: the adapters '%s' and '%s' are on different layers"):format(names[1], name), 3)
      end
      tensors[i][k] = pair[2]
    end
    tensors[0] = list
  end
  return first, tensors
end

--- soup.mix(model, names, weights, {kind="apart", name="soup"}): gives the model the adapter `name`, mixed of those of the names with one
-- weight each, in place of one that has this name, and makes it the active one. Raises where the adapters differ in rank,
-- alpha or layers, and where weights are not one finite number for each name.
function soup.mix(model, names, weights, opts)
  opts = options.check("soup.mix", opts or {}, {}, { "kind", "name" })
  local kind, name = opts.kind or "apart", opts.name or "soup"
  if kind ~= "apart" and kind ~= "products" then
    error(("soup.mix: unknown kind '%s' (%s)"):format(tostring(kind), table.concat(soup.KINDS, ", ")), 2)
  elseif #names == 0 or #weights ~= #names then
    error(("soup.mix: %d adapters and %d weights; one weight for each adapter, of which there is at least one"):format(#names, #weights), 2)
  end
  for k, w in ipairs(weights) do
    if type(w) ~= "number" or w ~= w or math.abs(w) == math.huge then
      error(("soup.mix: the weight of '%s' is %s, not a finite number"):format(names[k], options.shown(w, "%g")), 2)
    elseif names[k] == name then
      error(("soup.mix: '%s' is one of the adapters that are mixed; choose another name"):format(name), 2)
    end
  end
  local info, tensors = alike(model, names)
  local exact, mixed, n = kind == "products", {}, #names
  for _, t in ipairs(tensors) do
    local of_B, parts = t.name:find("lora_B", 1, true), {}
    for k = 1, n do
      parts[k] = t[k]:detach() * ((of_B or not exact) and weights[k] or 1.0) -- B A w: the weight once
    end
    if exact then
      mixed[t.name] = tensor.cat(parts, of_B and 2 or 1)
    else
      mixed[t.name] = parts[1]
      for k = 2, n do
        mixed[t.name] = mixed[t.name] + parts[k]
      end
    end
  end
  if exact then -- the scale, alpha / r or alpha / sqrt(r), stays
    info.r, info.alpha = info.r * n, info.alpha * (info.use_rslora and n ^ 0.5 or n)
  end
  info.name = nil
  model:add_adapter(name, info)
  assert(parameters.copy(model:named_parameters(name), mixed, "soup.mix"))
  model:set_adapter(name)
end

return soup
