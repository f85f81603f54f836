--- mocl.train.watchdog: what is known to go wrong in PPO and in MOC, read from the rows of metrics while a policy
-- trains, and said in words with what to try. It changes nothing and keeps nothing on disk. The bounds are far
-- outside of what healthy runs of the recipes show; docs/watchdog.md has them.

local options = require "mocl.options"

local watchdog = {}

local Watchdog = {}
Watchdog.__index = Watchdog

--- The bounds.
watchdog.BOUNDS = {
  kl_negative = -1e-3,    -- an exact KL is never negative; rounding is far smaller
  kl_times_target = 4,    -- so many times the target, for `row` rows
  kl_free = 100,          -- nats an answer where beta is 0
  ratio = 1e-3,           -- |ratio - 1| before the first step: generation and training compute the same
  entropy_lm = 0.1,       -- share of the first rows' entropy that is left, of a language model,
  entropy_world = 0.02,   -- and of a policy for a small world, whose best one may be deterministic
  row = 5,                -- rows in a row, where nothing else is said
  reward_rows = 10, reward = 1e-9, -- a mean reward that does not move by this share
  value_after = 10, value = 1e-12, -- the variance of a head's values over a batch, behind its first steps
  stuck_rows = 20, stuck_share = .25, stuck = 1e-9, -- c in one place: rows, or this share of all, whichever is more
  never_rows = 20, never_share = .25, -- the indicator of equation 5 is 0 for all answers
  always_rows = 40, always_share = .9, -- and 1 for all; many objectives are far from p for long
}
local B = watchdog.BOUNDS

--- watchdog.new(o) -> w. o: total, the iterations; options, of the trainer; label ("training") and unit ("iteration")
-- of messages; prefix ("") of the options' names; solves_c (false): c is solved for, so that it may be stuck; say
-- (nothing): a function that gets each message.
function watchdog.new(o)
  options.check("watchdog.new", o, { "total", "options" }, { "label", "unit", "prefix", "solves_c", "say" })
  return setmetatable({ o = o, n = 0, streak = {}, last = {}, said = {}, found = {}, entropy = {} }, Watchdog)
end

-- How many rows up to this one have had it.
local function streak(w, name, has)
  w.streak[name] = has and (w.streak[name] or 0) + 1 or 0
  return w.streak[name]
end

local function rows_of(w, rows, share)
  return math.max(rows, math.ceil(share * w.o.total))
end

-- The option's name and value, as in "ppo.lr, which is 0.004".
local function option(w, name)
  return ("%s%s, which is %g"):format(w.o.prefix or "", name, w.o.options[name] or 0)
end

local function say(w, kind, format, ...)
  if w.said[kind] then
    return
  end
  w.said[kind] = true
  local text = ("%s: %s %d: %s"):format(w.o.label or "training", w.o.unit or "iteration", w.n, format:format(...))
  w.found[#w.found + 1] = { kind = kind, step = w.n, text = text }
  if w.o.say then
    w.o.say(text)
  end
end

local function look_at_kl(w, row)
  local kl, o = row["objective/kl"], w.o.options
  if not kl then
    return
  elseif kl < B.kl_negative then
    say(w, "kl negative", "the KL to the reference is %.4g an answer, and a KL is never negative. What generates and what is compared are not "
      .. "the same distribution: look for another temperature or top_p in one of them, or a reference that changed", kl)
  end
  local beta = o.init_kl_coef or 0
  local limit = beta > 0 and B.kl_times_target * (o.target or 6) or B.kl_free
  if streak(w, "kl", kl > limit) >= B.row then
    say(w, "kl exploding", "the KL to the reference is %.4g an answer, above %g for %d rows: the policy has left the model it came from, and rewards "
      .. "mean less and less there. Try to lower %s, or to raise %s; look at samples.jsonl for answers that please a reward model alone", kl, limit, B.row,
      option(w, "lr"), option(w, "init_kl_coef"))
  end
end

local function look_at_ratio(w, row)
  local off = row["ppo/first_ratio_error"]
  if off and off > B.ratio then
    say(w, "ratio", "before the first step of the batch a ratio is off 1 by %.3g: what was generated is not what is trained. Weights or an adapter "
      .. "changed between the rollout and the update, or batch.old is of another policy or temperature", off)
  end
end

local function look_at_entropy(w, row)
  local entropy = row["objective/entropy"]
  if not entropy then
    return
  elseif #w.entropy < B.row then
    w.entropy[#w.entropy + 1] = entropy
    return
  end
  local first = 0
  for _, v in ipairs(w.entropy) do
    first = first + v / #w.entropy
  end
  local share = row["objective/kl"] and B.entropy_lm or B.entropy_world
  local early = w.n <= 0.75 * w.o.total -- a policy that is sure at the end has learnt
  if streak(w, "entropy", early and entropy < share * first) >= B.row then
    say(w, "entropy", "the entropy has fallen to %.3g, from %.3g at first: the policy tries nothing else any more. Try to lower %s, or to raise "
      .. "%s or %s", entropy, first, option(w, "lr"), option(w, "entropy"), option(w, "init_kl_coef"))
  end
end

local function look_at_rewards(w, row)
  for key, v in pairs(row) do
    if type(key) == "string" and key:find "^env/reward_mean" and type(v) == "number" then
      local before = w.last[key]
      w.last[key] = v
      local same = before and math.abs(v - before) <= B.reward * math.max(math.abs(v), 1e-300)
      if streak(w, key, same) >= B.reward_rows - 1 then
        local name = key:match "^env/reward_mean/(.+)$"
        say(w, "reward " .. key, "the mean reward%s has been %.6g for %d batches: it is the same whatever is answered, and teaches nothing. Score "
          .. "two different answers by hand; a reward function that errs on the safe side, or a format that no answer has, looks like this",
          name and " '" .. name .. "'" or "", v, B.reward_rows)
      end
    end
  end
end

local function look_at_values(w, spread)
  for j, variance in ipairs(spread or {}) do
    local dead = w.n > B.value_after and variance <= B.value
    if streak(w, "value " .. j, dead) >= B.row then
      say(w, "value " .. j, "value head %d says the same for every token (variance %.2g over the batch): it is dead, and advantages are returns "
        .. "without a baseline. Look at %s, and lower %s if units have died of large steps", j, variance, option(w, "vf_coef"), option(w, "lr"))
    end
  end
end

local function look_at_control(w, row)
  local c, on = row["moc/c"], row["moc/share_indicator"]
  if not w.o.solves_c or not c or not on then
    return
  end
  local never = streak(w, "never", on <= 0)
  if never >= rows_of(w, B.never_rows, B.never_share) then
    say(w, "constraint never", "the constraint of equation 4 has held for all answers of %d batches: control has no part in the training, and "
      .. "preferences change little. Lower control.phi, set control.range=true, or look whether the rewards differ by preference at all", never)
  end
  local always = streak(w, "always", on >= 1)
  if always >= rows_of(w, B.always_rows, B.always_share) then
    say(w, "constraint always", "the constraint of equation 4 has been violated by all answers of %d batches, up to here: R does not come near p. Raise "
      .. "control.phi, train longer, or look at control.offset and control.range, which say what R is compared as", always)
  end
  local same = w.last.c and math.abs(c - w.last.c) <= B.stuck
  w.last.c = c
  local stuck = streak(w, "c", same and on > 0)
  if stuck >= rows_of(w, B.stuck_rows, B.stuck_share) - 1 then
    say(w, "c stuck", "c has been %.4g for %d batches: %s. Look at control.scale and control.floor, and at the sizes of the rewards", c, stuck + 1,
      c >= 1 and "the constraint is never worth a step, as in linear scalarisation" or c <= 0 and "only the constraint is followed, and no reward grows"
      or "it lies at its floor, so that the constraint would take more than it may")
  end
end

--- w:see(row, spread) -> list of what this row added: {kind=, step=, text=}. row: the metrics of an iteration, which
-- is row.step; spread: variances of the values over the batch, one for each head, or nil. Each kind is said once;
-- w.found has them all.
function Watchdog:see(row, spread)
  local before = #self.found
  self.n = row.step or self.n + 1
  look_at_kl(self, row)
  look_at_ratio(self, row)
  look_at_entropy(self, row)
  look_at_rewards(self, row)
  look_at_values(self, spread)
  look_at_control(self, row)
  return table.move(self.found, before + 1, #self.found, 1, {})
end

return watchdog
