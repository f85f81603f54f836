-- MORLHF, Rewarded Soups and MODPO: mixing of adapters against matrices, and runs whose answer is known

local T = require "t"
local child = require "child"
local dpo = require "mocl.method.dpo"
local json = require "mocl.json"
local known_run = require "known_run"
local lora = require "mocl.lm.lora"
local rng = require "mocl.rng"
local scalar = require "mocl.train.scalar"
local soup = require "mocl.lm.soup"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

-- A model with three adapters of random values.
local function model_with(opts)
  local model = transformer.new({ vocab_size = 20, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 12 },
    { key = 1 })
  for k, name in ipairs { "a", "b", "c" } do
    opts.key = k
    model:add_adapter(name, opts)
    for i, p in ipairs(lora.parameters(model, name)) do
      tensor.no_grad(p.copy_, p, tensor.randn(p.shape, { key = 100 * k + i }))
    end
  end
  return model
end

-- A and B of the query projection, as rows of numbers
local function matrices(model, name)
  local m = {}
  for _, pair in ipairs(model:named_parameters(name)) do
    if pair[1]:find "q_proj" then
      m[pair[1]:match "lora_(.)"] = pair[2]:totable()
    end
  end
  return m.A, m.B
end

-- B A times the scale of PEFT
local function product(model, name)
  local A, B = matrices(model, name)
  local info, rows = model:lora(name), {}
  for i, b in ipairs(B) do
    rows[i] = {}
    for d = 1, #A[1] do
      rows[i][d] = 0
      for k, x in ipairs(b) do
        rows[i][d] = rows[i][d] + x * A[k][d] * info.alpha / (info.use_rslora and info.r ^ 0.5 or info.r)
      end
    end
  end
  return rows
end

local WEIGHTS = { 0.2, 0.5, 0.3 }

T.test("products: the mixed adapter adds the weighted sum of what its parts add", function()
  for _, rslora in ipairs { false, true } do
    local model = model_with { r = 2, alpha = 6, use_rslora = rslora }
    soup.mix(model, { "a", "b", "c" }, WEIGHTS, { kind = "products" })
    T.eq(model:active_adapter(), "soup")
    T.eq(model:lora("soup").r, 6)
    local got, parts = product(model, "soup"), {}
    for k, name in ipairs { "a", "b", "c" } do
      parts[k] = product(model, name)
    end
    for i, row in ipairs(got) do
      for d, x in ipairs(row) do
        T.near(x, 0.2 * parts[1][i][d] + 0.5 * parts[2][i][d] + 0.3 * parts[3][i][d], 1e-5)
      end
    end
  end
end)

T.test("apart: A and B are averages, and the product is theirs", function()
  local model = model_with { r = 2, alpha = 6 }
  soup.mix(model, { "a", "b", "c" }, WEIGHTS, { name = "mixed" })
  T.eq(model:lora("mixed").r, 2)
  local A, B = matrices(model, "mixed")
  local parts = {}
  for k, name in ipairs { "a", "b", "c" } do
    parts[k] = { matrices(model, name) }
  end
  for which, rows in ipairs { A, B } do
    for i, row in ipairs(rows) do
      for d, x in ipairs(row) do
        T.near(x, 0.2 * parts[1][which][i][d] + 0.5 * parts[2][which][i][d] + 0.3 * parts[3][which][i][d], 1e-6)
      end
    end
  end
end)

T.test("all weight on one adapter is that adapter, with both kinds", function()
  local model = model_with { r = 2, alpha = 6 }
  local batch = transformer.batch { { 1, 5, 9, 3 } }
  local wanted = model:forward(batch, { adapter = "b" })
  for _, kind in ipairs(soup.KINDS) do
    soup.mix(model, { "a", "b", "c" }, { 0, 1, 0 }, { kind = kind })
    T.ok((model:forward(batch) - wanted):abs():max():item() < 1e-5, kind)
  end
end)

T.test("what cannot be mixed is refused, and the adapters stay as they are", function()
  local model = model_with { r = 2, alpha = 6 }
  T.raises("2 adapters and 1 weights", soup.mix, model, { "a", "b" }, { 1 })
  T.raises("unknown kind 'sum' %(apart, products%)", soup.mix, model, { "a" }, { 1 }, { kind = "sum" })
  T.raises("the weight of 'b' is nan", soup.mix, model, { "a", "b" }, { 1, 0 / 0 })
  T.raises("'a' is one of the adapters", soup.mix, model, { "a" }, { 1 }, { name = "a" })
  T.raises("no adapter 'd'", soup.mix, model, { "a", "d" }, { 1, 0 })
  model:add_adapter("d", { r = 4, alpha = 6 })
  T.raises("'a' and 'd' differ in r, alpha or use_rslora", soup.mix, model, { "a", "d" }, { 1, 0 })
  model:add_adapter("d", { r = 2, alpha = 6, target_modules = { "q_proj" } })
  T.raises("'a' and 'd' are on different layers", soup.mix, model, { "a", "d" }, { 1, 0 })
  T.eq(model:adapters(), { "a", "b", "c", "d" })
end)

T.test("the sum of rewards weighted by the policy's weights", function()
  T.eq(scalar.sums({ { 1, 10 }, { 2, 20 } }, { 0.25, 0.75 }), { { 7.75 }, { 15.5 } })
end)

T.test("sums with weights of each answer", function()
  T.eq(scalar.sums({ { 1, 10 }, { 2, 20 } }, { { 0.25, 0.75 }, { 1, 0 } }), { { 7.75 }, { 2 } })
end)

T.test("Bone Soups: the coefficients bring the backbone rewards back to the preference", function()
  for _, case in ipairs { { { 0.3, 0.7 }, 0.6 }, { { 1, 0 }, 0.8 }, { { 0.2, 0.5, 0.3 }, 0.7 }, { { 0, 0, 1 }, 1 } } do
    local p, beta = table.unpack(case)
    local rows, x = soup.backbone(#p, beta), soup.coefficients(p, beta)
    for j = 1, #p do
      local row, reward = 0, 0
      for i = 1, #p do
        row, reward = row + rows[j][i], reward + x[i] * rows[i][j]
      end
      T.eq(rows[j][j], beta)
      T.near(row, 1, 1e-12)
      T.near(reward, p[j], 1e-12)
    end
  end
  -- the figures of the method's program, which solves [.3 .7; .7 .3] x = (1, 0) for its two parts
  local x = soup.coefficients({ 1, 0 }, 0.7)
  T.near(x[1], 1.75, 1e-12)
  T.near(x[2], -0.75, 1e-12)
  T.eq(soup.coefficients({ 0.3, 0.7 }, 1), { 0.3, 0.7 })
  T.raises("above 1/3 and at most 1", soup.coefficients, { 0.2, 0.5, 0.3 }, 0.3)
  T.raises("above 1/2 and at most 1", soup.backbone, 2, 0 / 0)
end)

T.test("DPO and MODPO by hand", function()
  -- two pairs, answers of 2, 1, 1 and 2 tokens; sums of logp - logp_ref: 0.5, -1, 2, 0.25
  local batch = { response_offsets = { 0, 2, 3, 4, 6 } }
  local logp, ref = tensor.new { -1, -1, -2, -1, -1, -1 }, tensor.new { -1.25, -1.25, -1, -3, -1.25, -1 }
  local function log1pexp(x)
    return math.log(1 + math.exp(x))
  end
  local loss, accuracy = dpo.loss(logp, ref, batch, { 1, -1 }, { beta = 2 })
  -- 2 (0.5 + 1) = 3 for the better answer, 2 (2 - 0.25) = 3.5 against it
  T.near(loss:item(), (log1pexp(-3) + log1pexp(3.5)) / 2, 1e-5)
  T.eq(accuracy:item(), 0.5)
  -- less the margins 0.4 - 0.1 and 0.2 - 0.7, over the weight 0.5: 5.4, and 8 against it
  loss = dpo.loss(logp, ref, batch, { 1, -1 }, { beta = 2, weight = 0.5, margins = { 0.4, 0.1, 0.2, 0.7 } })
  T.near(loss:item(), (log1pexp(-5.4) + log1pexp(8)) / 2, 1e-5)
end)

T.test("labels are drawn from the Bradley-Terry model", function()
  local scores, first = {}, 0
  for i = 1, 4000 do
    scores[2 * i - 1], scores[2 * i] = 1.5, 0.5
  end
  for _, sign in ipairs(dpo.label(rng.new(0, "labels"), scores)) do
    first = first + (sign == 1 and 1 or 0) / 4000
  end
  T.near(first, 1 / (1 + math.exp(-1)), 0.025) -- three deviations are 0.021
  T.eq(dpo.label(rng.new(0, "labels"), { 1000, 0, 0, 1000 }), { 1, -1 })
end)

-- ---- the recipes ----

local function shares(recipe, ...)
  local kl = recipe ~= "modpo" and { "ppo.init_kl_coef=0.02", "ppo.min_kl_coef=0" } or {}
  table.move({ ... }, 1, select("#", ...), #kl + 1, kl)
  local result, dir = known_run.learn(recipe, known_run.files(), table.unpack(kl))
  return known_run.shares(result), result, dir
end

T.test("MORLHF: each policy finds the token that its own weights pay more for", function()
  local list, result = shares("morlhf", "morlhf.iterations=40", "preferences=1:0,0.3:0.7")
  T.eq({ result.method, result.policies, result.training_samples }, { "morlhf", 2, 2 * 40 * 88 })
  T.ok(list[1] > 0.8 and list[2] < 0.2, T.show(list))
end)

T.test("Rewarded Soups: the ends are the policies of one objective, the mixed policy lies between them", function()
  for _, kind in ipairs(soup.KINDS) do
    local list, result = shares("rewarded_soups", "soup.iterations=40", "soup.kind=" .. kind)
    T.eq({ result.method, result.soup, result.policies }, { "rewarded_soups", kind, 2 })
    T.ok(list[1] < 0.2 and list[11] > 0.8, T.show(list))
    T.ok(list[6] > list[1] + 0.1 and list[6] < list[11] - 0.1, "between: " .. T.show(list))
    for i = 2, 11 do
      T.ok(list[i] > list[i - 1] - 0.06, "it rises with the weight: " .. T.show(list))
    end
  end
end)

T.test("Bone Soups: parts of mixed rewards, whose soup reaches beyond them", function()
  for seed = 0, 1 do
    local list, result = shares("rewarded_soups", "soup.iterations=4", "soup.beta=0.6", "soup.kind=products", "seed=" .. seed)
    T.eq(result.method, "bone_soups")
    -- seeds 0 to 3: 0.77, 0.66, 0.71, 0.55; with the preference in place of the coefficients 0.40, 0.22, 0.34, 0.55
    T.ok(list[11] - list[1] > 0.55, ("seed %d: %s"):format(seed, T.show(list)))
    for i = 2, 11 do
      T.ok(list[i] > list[i - 1] - 0.06, "it rises with the weight: " .. T.show(list))
    end
  end
end)

T.test("CLP: the policy pays for the token that the prompt's preference pays more for", function()
  local list, result = shares("clp", "clp.iterations=60", "ppo.lr=0.02")
  T.eq({ result.method, result.policies, result.training_samples }, { "clp", 1, 60 * 88 })
  local off = 0 -- the linear optimum is `b` alone below a half, `a` alone above
  for i, share in ipairs(list) do
    off = off + math.abs(share - (i < 6 and 0 or i > 6 and 1 or share)) / 10
  end
  T.ok(off < 0.2, ("%.3f off: %s"):format(off, T.show(list)))
end)

T.test("Bone Soups: the parts weigh all rewards", function()
  -- the mean reward of the log is the weighted one: with half the weight on each of a and b at beta just above 1/2, and nothing
  -- trained to speak of, those of both parts are alike
  local _, _, dir = shares("rewarded_soups", "soup.iterations=1", "soup.beta=0.5000001", "soup.rewards=raw")
  local means = {}
  for line in io.lines(dir .. "/metrics.jsonl") do
    local row = json.decode(line)
    means[row.stage] = row["env/reward_mean"]
  end
  T.near(means["soup-a"], means["soup-b"], 1e-6)
end)

T.test("CLP: a run that is stopped and goes on has the bytes of one that was not", function()
  known_run.same_after_kill("clp", known_run.files(), "clp", 25, "clp.iterations=60", "clp.save_every=10")
end)

T.test("MODPO: DPO at the corner, and between the corners the share follows the weights", function()
  local list, result = shares("modpo", "modpo.iterations=40", "preferences=1:0,0.7:0.3,0.5:0.5,0.2:0.8")
  T.eq({ result.method, result.policies }, { "modpo", 4 })
  T.ok(list[1] > 0.75 and list[4] < 0.35, T.show(list))
  for i = 2, 4 do
    T.ok(list[i] < list[i - 1], T.show(list))
  end
end)

-- ---- the run directory, and what is refused ----

T.test("a run whose last stages are done again ends with the same bytes", function()
  local files = known_run.files()
  for recipe, last in pairs { grpo = "grpo", morlhf = "morlhf-2", rewarded_soups = "soup-b", modpo = "modpo-2", clp = "clp" } do
    known_run.same_after_redo(recipe, files, last)
  end
end)

T.test("a run that was killed between a policy's last checkpoint and the end of its stage goes on to the same bytes", function()
  local files, dir = known_run.files(), T.tmpdir() .. "/run"
  local said, status = known_run.smoke("morlhf", dir, files)
  T.eq(status, 0, said)
  local before, stages = child.read(dir .. "/result.json"), assert(json.load(dir .. "/stages.json"))
  stages["morlhf-2"], stages.evaluation = nil, nil
  local f = assert(io.open(dir .. "/stages.json", "w"))
  f:write(json.encode(stages))
  f:close()
  assert(os.remove(dir .. "/result.json"))
  said, status = known_run.smoke("morlhf", dir, files, "resume=auto")
  T.eq(status, 0, said)
  T.ok(child.read(dir .. "/result.json") == before)
end)

T.test("bad input ends before there is a run directory", function()
  local files = known_run.files()
  known_run.refused("morlhf", files, { { "preferences=0.3:0.6", "sums to 0.9, not 1" } })
  known_run.refused("clp", files, { { "preferences=0.3:0.6", "sums to 0.9, not 1" }, { "clp.rewards=rank", "expected one of normalized, raw" } })
  known_run.refused("rewarded_soups", files, { { "preferences=1:0:0", "has 3 weights for 2 objectives" },
    { "soup.kind=sum", "expected one of apart, products" }, { "soup.beta=0.5", "above 1/2 and at most 1" }, { "soup.beta=1.1", "at most 1" } })
  known_run.refused("modpo", files, { { "ppo.batch_size=15", "answers come in pairs" }, { "modpo.beta=0", "below the minimum" } })
end)

T.test("an actor without value heads has no critic: t:advantages says so, and its directory has none", function()
  local lm_actor, trainer = require "mocl.train.lm_actor", require "mocl.train.trainer"
  local model = transformer.new({ vocab_size = 20, hidden_size = 8, num_hidden_layers = 1, num_attention_heads = 2, intermediate_size = 12 },
    { key = 1 })
  model:add_lora { r = 2 }
  local actor = lm_actor.new { policy = { model = model, temperature = 1 } }
  local t <close> = trainer.new { seed = 0, total = 1, options = {}, actor = actor }
  T.raises("the actor has no critic", t.advantages, t, {})
  T.raises("baseline=critic needs an actor with a critic", trainer.options, { baseline = "critic" }, actor)
  T.eq(#actor:named_parameters(), #model:named_parameters(true))
  local dir = T.tmpdir()
  actor:save(dir)
  T.eq(io.open(dir .. "/value_heads.safetensors"), nil)
  actor:load(dir)
end)
