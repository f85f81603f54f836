-- the operations of PPO: known truths beyond the fixtures

local T = require "t"
local ops = require "fixtures.ops"
local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"

local TOL = ops.is_double and 1e-12 or 2e-6

T.test("gae: lambda 1 and gamma 1 is the reward to come less the value", function()
  local r = tensor.randn({ 11, 3 }, { seed = 1 })
  local v = tensor.randn({ 11, 3 }, { seed = 2 })
  local offsets = { 0, 4, 4, 5, 11 }
  local adv, ret = nn.gae(r, v, offsets, { gamma = 1, lam = 1 })
  for s = 1, #offsets - 1 do
    for c = 1, 3 do
      local to_come = 0
      for t = offsets[s + 1], offsets[s] + 1, -1 do
        to_come = to_come + r[t][c]:item()
        T.near(ret[t][c]:item(), to_come, TOL)
        T.near(adv[t][c]:item(), to_come - v[t][c]:item(), TOL)
      end
    end
  end
end)

T.test("gae: lambda 0 is the one-step error; constant values cancel", function()
  local r, v = tensor.randn({ 5, 1 }, { seed = 1 }), tensor.randn({ 5, 1 }, { seed = 2 })
  local adv = nn.gae(r, v, { 0, 5 }, { gamma = .9, lam = 0 })
  for t = 1, 5 do
    local after = t < 5 and v[t + 1][1]:item() or 0
    T.near(adv[t][1]:item(), r[t][1]:item() + .9 * after - v[t][1]:item(), TOL)
  end
  -- a perfect critic: V_t = sum of the rewards to come, all advantages are 0
  local perfect = { 4, 3, 2, 1 }
  local zero, back = nn.gae(tensor.ones { 4, 1 }, tensor.new(perfect):reshape(4, 1), { 0, 4 })
  T.eq(ops.flat(zero), { 0, 0, 0, 0 })
  T.eq(ops.flat(back), perfect)
end)

T.test("gae: columns and sequences do not touch each other", function()
  local r, v = tensor.randn({ 9, 2 }, { seed = 3 }), tensor.randn({ 9, 2 }, { seed = 4 })
  local both = nn.gae(r, v, { 0, 2, 9 })
  local second = nn.gae(r:narrow(1, 3, 7), v:narrow(1, 3, 7), { 0, 7 })
  T.eq(ops.flat(both:narrow(1, 3, 7)), ops.flat(second))
  local column = nn.gae(r:narrow(2, 2, 1), v:narrow(2, 2, 1), { 0, 2, 9 })
  T.eq(ops.flat(both:narrow(2, 2, 1)), ops.flat(column))
  T.eq(both.requires_grad, false)
end)

T.test("ppo_clip at ratio 1 is the policy gradient", function()
  local logp = tensor.randn({ 7 }, { seed = 1, requires_grad = true })
  local adv = tensor.randn({ 7 }, { seed = 2 })
  local loss, ratio, clipped = nn.ppo_clip(logp, logp:detach(), adv, .2)
  T.eq(ratio:totable(), { 1, 1, 1, 1, 1, 1, 1 })
  T.eq(clipped:totable(), { 0, 0, 0, 0, 0, 0, 0 })
  T.eq(loss:totable(), (-adv):totable())
  loss:sum():backward()
  T.eq(logp.grad:totable(), (-adv):totable())
  T.eq({ ratio.requires_grad, clipped.requires_grad }, { false, false })
end)

T.test("ppo_clip: the pessimistic bound, branch by branch", function()
  -- ratio e^step; the gradient is 0 exactly where clipping makes the loss worse
  local function at(step, a)
    local logp = tensor.new({ step }, { requires_grad = true })
    local loss, ratio, clipped = nn.ppo_clip(logp, tensor.new { 0 }, tensor.new { a }, .2)
    loss:sum():backward()
    return { loss:item(), ratio:item(), clipped:item(), logp.grad:item() }
  end
  for _, a in ipairs { 2, -2 } do
    for _, step in ipairs { -.5, -.1, 0, .1, .5 } do
      local z = math.exp(step)
      local over = a > 0 and z > 1.2 or a < 0 and z < .8
      local bound = z > 1.2 and 1.2 or .8
      T.near(at(step, a), { over and -bound * a or -z * a, z, over and 1 or 0, over and 0 or -z * a }, TOL,
        ("ratio %g, advantage %g"):format(z, a))
    end
  end
  T.eq(at(5, 0)[4], 0)
end)

T.test("lm_head agrees with softmax over the whole array", function()
  local h = tensor.randn({ 20, 6 }, { seed = 1 })
  local w = tensor.randn({ 30, 6 }, { seed = 2 })
  local ref = tensor.randn({ 20, 6 }, { seed = 3 })
  local ids = {}
  for i = 1, 20 do ids[i] = i * 7 % 30 end
  local logp, entropy, kl = nn.lm_head(h, w, ids, { hidden_ref = ref, temperature = .7 })
  local p = (nn.linear(h, w) / .7):log_softmax()
  local q = (nn.linear(ref, w) / .7):log_softmax()
  T.near(logp:totable(), p:pick(ids):totable(), 10 * TOL)
  T.near(entropy:totable(), (-(p:exp() * p):sum(2)):totable(), 10 * TOL)
  T.near(kl:totable(), (p:exp() * (p - q)):sum(2):totable(), 10 * TOL)
  for _, v in ipairs(kl:totable()) do T.ok(v > 0) end
  local same = select(3, nn.lm_head(h, w, ids, { hidden_ref = h }))
  T.near(same:abs():max():item(), 0, 0)
  local again = nn.lm_reference(ref, w, ids, { temperature = .7 })
  T.near(again.logp:totable(), q:pick(ids):totable(), 10 * TOL)
  T.eq(select(3, nn.lm_head(h, w, ids, { reference = again, temperature = .7 })):totable(), kl:totable())
  T.raises("the reference is of another temperature", nn.lm_head, h, w, ids, { reference = again })
  T.raises("lse %(20%) of the reference, where %(3%) are needed", nn.lm_head, h:narrow(1, 1, 3), w, { 1, 2, 3 },
    { reference = { hidden = ref:narrow(1, 1, 3), lse = again.lse, temperature = 1 } })
  T.raises("field 'lse' of the reference", nn.lm_head, h, w, ids, { reference = { hidden = ref, temperature = 1 } })
  T.raises("hidden_ref or reference, not both", nn.lm_head, h, w, ids, { reference = again, hidden_ref = ref, temperature = .7 })
  -- a target below 0 counts for nothing
  local masked = nn.lm_head(h, w, tensor.full({ 20 }, -100, { dtype = "i32" }))
  T.eq(masked:abs():max():item(), 0)
end)
