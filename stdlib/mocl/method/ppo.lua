--- mocl.method.ppo: the maths of PPO with several objectives: GAE, the clipped surrogate and its gate, losses and estimates.
-- Options and metrics have TRL's names.
--
-- Token-level tensors are flat over the response tokens of a batch packed by transformer.pack; with N
-- objectives they are [T, N].

local nn = require "mocl.nn.core"

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

--- Equation 10: I(A, z) for the ratio z, zero where PPO's clip is active: where A > 0 and z > 1 + cliprange, or A < 0 and
-- z < 1 - cliprange. x is A, or what is linear in A, such as sum_j p_j A_j; up is the same of max(A, 0), and z has a shape that
-- broadcasts to theirs. Gives the same of I(A, z).
function ppo.gate(x, up, z, cliprange)
  return x - up * z:gt(1 + cliprange) - (x - up) * z:lt(1 - cliprange)
end

return ppo
