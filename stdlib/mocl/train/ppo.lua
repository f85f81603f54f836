--- mocl.train.ppo: the pieces of PPO that a multi-objective recipe puts together: value heads, GAE, the clipped
-- surrogate, pooled sums for the min-norm problem. Options and metrics have TRL's names.
--
-- Token-level tensors are flat over the response tokens of a batch packed by transformer.pack; with N
-- objectives they are [T, N].

local finite = require "mocl.finite"
local fs = require "mocl.fs"
local lora = require "mocl.lm.lora"
local nn = require "mocl.nn.core"
local safetensors = require "mocl.safetensors"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local ppo = { gae = nn.gae, clip = nn.ppo_clip }

--- ppo.whiten(x, {shift_mean=true}): (x - mean) / sqrt(var + 1e-8) over all entries, unbiased variance; with
-- shift_mean=false the mean is put back. TRL's whitening; no gradient should be wanted through it.
function ppo.whiten(x, opts)
  local n = x:numel()
  if n < 2 then
    error(("whiten: %d entries have no variance"):format(n), 2)
  end
  local mean = x:mean()
  local centred = x - mean
  local y = centred * (centred:square():sum() * (1 / (n - 1)) + 1e-8):rsqrt()
  return opts and opts.shift_mean == false and y + mean or y
end

--- ppo.value_loss(values, returns, {old_values=, cliprange_value=}) -> scalar, share of clipped entries: the mean
-- squared error; with old_values, TRL's max of it and of the error of values kept within cliprange_value of
-- old_values. Without TRL's factor 1/2.
function ppo.value_loss(values, returns, opts)
  local plain = (values - returns):square()
  if not (opts and opts.cliprange_value) then
    return plain:mean(), 0.0
  end
  local kept = opts.old_values + (values - opts.old_values):clamp(-opts.cliprange_value, opts.cliprange_value)
  local clipped = (kept - returns):square()
  return plain:maximum(clipped):mean(), clipped:gt(plain):mean():item()
end

--- ppo.kl_estimate(logp, logp_ref, kind): per token, kind "k1" = logp - logp_ref, "k2" = half its square, "k3" =
-- exp(-k1) - 1 + k1. Of these only k2's gradient estimates that of the KL on the policy's own samples.
function ppo.kl_estimate(logp, logp_ref, kind)
  local k1 = logp - logp_ref
  if kind == "k1" then
    return k1
  elseif kind == "k2" then
    return k1:square() * 0.5
  elseif kind == "k3" then
    return (-k1):exp() - 1 + k1
  end
  error(("kl_estimate: unknown kind '%s' (k1, k2, k3)"):format(tostring(kind)), 2)
end

-- ---- value heads ----

local Heads = {}
Heads.__index = Heads

--- ppo.value_heads(n, width, {key=, device="cpu"}): n separate two-layer ReLU networks, width -> width -> 1, on
-- the policy's last hidden states (the paper's Table 7). The last layer starts at zero.
function ppo.value_heads(n, width, opts)
  local heads, bound = { n = n, named = {} }, 1 / math.sqrt(width)
  local device = opts.device or "cpu"
  for i = 1, n do
    local function add(name, t)
      heads.named[#heads.named + 1] = { ("v_head.%d.%s"):format(i - 1, name), t:requires_grad_() }
    end
    add("0.weight", tensor.rand({ width, width }, { key = opts.key, stream = i, low = -bound, high = bound, device = device }))
    add("0.bias", tensor.zeros({ width }, { device = device }))
    add("2.weight", tensor.zeros({ 1, width }, { device = device }))
    add("2.bias", tensor.zeros({ 1 }, { device = device }))
  end
  return setmetatable(heads, Heads)
end

function Heads:parameters()
  local list = {}
  for i, pair in ipairs(self.named) do
    list[i] = pair[2]
  end
  return list
end

--- The same as {name, tensor}, under the names they are saved with.
function Heads:named_parameters()
  return table.move(self.named, 1, #self.named, 1, {})
end

--- values [T, n] of hidden states [T, width]
function Heads:forward(hidden)
  local columns = {}
  for i = 1, self.n do
    local p = function(j)
      return self.named[(i - 1) * 4 + j][2]
    end
    columns[i] = nn.linear(nn.linear(hidden, p(1), p(2)):relu(), p(3), p(4))
  end
  return tensor.cat(columns, 2)
end

-- as safetensors.save and load, for tensors that must be finite
local function save(path, tensors, meta)
  local ok, message, code = finite.tensors(tensors, path)
  if not ok then
    return nil, message, code
  end
  return safetensors.save(path, tensors, meta)
end

local function load(path)
  local tensors, meta, code = safetensors.load(path)
  local ok, message, kind = tensors ~= nil, meta, code
  if ok then
    ok, message, kind = finite.tensors(tensors, path)
  end
  if not ok then
    return nil, message, kind
  end
  return tensors, meta
end

function Heads:save(path)
  local tensors = {}
  for _, pair in ipairs(self.named) do
    tensors[pair[1]] = pair[2]
  end
  return save(path, tensors)
end

function Heads:load(path)
  local tensors, message, code = load(path)
  if not tensors then
    return nil, message, code
  end
  return transformer.copy_parameters(self.named, tensors, path)
end

-- ---- optimiser state in a checkpoint ----

--- Moments and step count of an optimiser as optimizer.safetensors; ppo.load_optimizer puts them back.
function ppo.save_optimizer(opt, path)
  local tensors = {}
  for which, list in pairs(opt:state()) do
    for i, t in ipairs(list) do
      tensors[("%s.%05d"):format(which, i)] = t
    end
  end
  return save(path, tensors, { steps = tostring(opt:steps()) })
end

function ppo.load_optimizer(opt, path)
  local tensors, meta, code = load(path)
  if not tensors then
    return nil, meta, code
  end
  local named = {}
  for which, list in pairs(opt:state()) do
    for i, t in ipairs(list) do
      named[#named + 1] = { ("%s.%05d"):format(which, i), t }
    end
  end
  table.sort(named, function(a, b)
    return a[1] < b[1]
  end)
  local ok, message, why = transformer.copy_parameters(named, tensors, path)
  if not ok then
    return nil, message, why
  end
  local steps = math.tointeger(tonumber(meta.steps))
  if not steps or steps < 0 then
    return nil, path .. ": no count of steps", "FORMAT"
  end
  opt:steps(steps)
  return true
end

local function check(ok, message)
  if not ok then
    error(message, 0)
  end
end

--- A PEFT directory with value_heads.safetensors and optimizer.safetensors beside it; failures raise.
function ppo.save(dir, o)
  check(lora.save(o.model, dir, { base_model_name_or_path = o.base }))
  check(o.heads:save(fs.join(dir, "value_heads.safetensors")))
  check(ppo.save_optimizer(o.optimizer, fs.join(dir, "optimizer.safetensors")))
end

-- ---- tensors from rows of numbers ----

--- One row of numbers per answer -> rewards [T, N] with the row at the answer's last token (a terminal reward).
function ppo.terminal(rows, batch)
  return nn.segment_last(tensor.new(rows, { device = batch.tokens.device }), batch.response_offsets)
end

--- One row of numbers per answer -> [T, N], the row at each of its tokens.
function ppo.spread(rows, batch)
  return nn.segment_expand(tensor.new(rows, { device = batch.tokens.device }), batch.response_offsets)
end

--- Sum over the tokens of each answer of a [T] tensor, as a Lua list.
function ppo.per_answer(x, batch)
  return nn.segment_sum(x, batch.response_offsets):totable()
end

--- Running mean per group of rows of numbers: means[place] := factor means[place] + (1 - factor) mean of this
-- batch's rows of that place (the mean itself where the entry is false: nothing seen yet).
function ppo.update_means(means, places, rows, factor)
  local sums, counts = {}, {}
  for i, place in ipairs(places) do
    counts[place] = (counts[place] or 0) + 1
    sums[place] = sums[place] or {}
    for j, x in ipairs(rows[i]) do
      sums[place][j] = (sums[place][j] or 0) + x
    end
  end
  for place, sum in pairs(sums) do
    local before, now = means[place], {}
    for j, s in ipairs(sum) do
      local m = s / counts[place]
      now[j] = before and factor * before[j] + (1 - factor) * m or m
    end
    means[place] = now
  end
end

--- Equation 10: I(A, z), A [T, N] with zeros where PPO's clip is active for the ratio z [T].
function ppo.gate(adv, ratio, cliprange)
  local z = ratio:unsqueeze(2):expand(adv.shape)
  local above = z:gt(1 + cliprange) * adv:gt(0)
  local below = z:lt(1 - cliprange) * adv:lt(0)
  return adv * (1 - above - below)
end

return ppo
