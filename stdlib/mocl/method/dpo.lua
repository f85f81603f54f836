--- mocl.method.dpo: the losses of DPO (Rafailov et al. 2023) and MODPO (Zhou et al. 2024) on pairs of answers. Answers 2i - 1 and 2i of a
-- batch are a pair, two answers to prompt i.

local nn = require "mocl.nn.core"
local tensor = require "mocl.tensor"

local dpo = {}

--- dpo.label(stream, scores) -> list of 1 or -1: for each pair whether its first answer is the better one, drawn from the Bradley-Terry
-- model, P = sigmoid(score_1 - score_2). scores has a number for each answer, stream is of mocl.rng.
function dpo.label(stream, scores)
  local signs = {}
  for i = 1, #scores // 2 do
    signs[i] = stream:uniform() < 1 / (1 + math.exp(scores[2 * i] - scores[2 * i - 1])) and 1 or -1
  end
  return signs
end

--- dpo.loss(logp, logp_ref, batch, signs, {beta=, weight=1, margins=}) -> loss, accuracy, scalar tensors. logp and logp_ref [T] are the
-- log-probabilities of the batch's tokens under policy and reference, signs of dpo.label. The loss is the mean of -log sigmoid(sign
-- (beta (l_1 - l_2) - (m_1 - m_2)) / weight), l the sum of logp - logp_ref over an answer and m its margin. DPO has no margins and the
-- weight 1. MODPO's weight is that of the objective which labels the pairs, w_k, and its margin the sum of the other objectives'
-- rewards, sum_{j != k} w_j r_j. accuracy is the share of pairs in which the better answer has the higher margin of the policy.
function dpo.loss(logp, logp_ref, batch, signs, o)
  local n, device = #signs, logp.device
  local first = tensor.new({ 1, -1 }, { device = device })
  local sign = tensor.new(signs, { device = device })
  local d = (nn.segment_sum(logp - logp_ref, batch.response_offsets):reshape(n, 2) * first):sum(2) * o.beta
  if o.margins then
    d = d - (tensor.new(o.margins, { device = device }):reshape(n, 2) * first):sum(2)
  end
  local z = d * sign * (1 / (o.weight or 1))
  return -z:logsigmoid():mean(), z:detach():gt(0):mean()
end

return dpo
