-- recipes/moc_hh.lua as a user runs it: whole runs in processes of their own, at the size of preset=smoke

local T = require "t"
local child = require "child"
local config = require "mocl.run.config"
local fs = require "mocl.fs"
local hh = require "fixtures.hh"
local json = require "mocl.json"
local run_files = require "run_files"
local preference = require "mocl.preference"
local safetensors = require "mocl.safetensors"

local RECIPE = "recipes/moc_hh.lua"
-- smaller still, for runs that need not be the preset's
local SMALL = {
  "preset=smoke", "quiet=true", "tokenizer.vocab_size=400", "model.hidden_size=16", "model.heads=2",
  "model.intermediate_size=32", "model.positions=256", "moc.save_every=2", "model.layers=1", "documents=40", "reward.prompts=20", "sft.examples=20", "base.steps=2",
  "sft.steps=2", "reward.steps=2", "base.batch_size=4", "sft.batch_size=4", "reward.batch_size=4", "ppo.batch_size=8",
  "moc.iterations=2", "eval.answers=2", "eval.unseen_answers=0", "ppo.max_new_tokens=3",
}

-- RECIPE and what is in the arguments, lists opened
local function arguments(...)
  local list = { RECIPE }
  local function add(part)
    if type(part) ~= "table" then
      list[#list + 1] = part
      return
    end
    for _, x in ipairs(part) do
      add(x)
    end
  end
  add { ... }
  return list
end

local function run(...)
  return child.mocl(arguments(...))
end

local function must(...)
  local out, err, status = run(...)
  T.eq(status, 0, err)
  return out, err
end

local function fails(text, ...)
  local out, err, status = run(...)
  T.eq(status, 1, out .. err)
  T.ok(err:find(text, 1, true), err)
  return err
end

local function rows(path)
  local list = {}
  for line in child.read(path):gmatch("[^\n]+") do
    list[#list + 1] = assert(json.decode(line))
  end
  return list
end

local function files(dir)
  return run_files(dir, { "config.lua", "SHA256SUMS", "log" })
end

local function same_files(a, b)
  local x, y = files(a), files(b)
  for _, name in ipairs { "/result.json", "/samples.jsonl", "/metrics.jsonl", "/tokenizer.json", "/last/adapter_model.safetensors",
    "/last/value_heads.safetensors", "/last/optimizer.safetensors", "/last/state.json", "/sft/model.safetensors" } do
    T.ok(x[name], name .. " is there")
  end
  T.eq(y, x)
end

-- Runs that several tests look at, made once.
local made = {}
local function once(name, ...)
  if not made[name] then
    local dir = T.tmpdir() .. "/run"
    local start = require("mocl.sys").now()
    local out = must("out=" .. dir, ...)
    made[name] = { dir = dir, out = out, seconds = require("mocl.sys").now() - start }
  end
  return made[name]
end

local function smoke()
  return once("smoke", "preset=smoke", "quiet=true")
end

-- ---- what a run leaves ----

T.test("smoke: under 30 seconds, the table, the report, the answers", function()
  local r = smoke()
  T.ok(r.seconds < 30, ("%.1f s"):format(r.seconds))
  T.ok(r.out:find("hypervolume", 1, true) and r.out:find("Kendall tau", 1, true), r.out)
  T.ok(r.out:find("<R1> 0.30 <R2> 0.70 ", 1, true), "an answer under each preference")
  T.ok(r.out:find("report: " .. r.dir .. "/report.html", 1, true), r.out)
  T.ok(child.read(r.dir .. "/report.html"):find("</html>", 1, true))
end)

T.test("result.json has the keys of the blueprint, with plausible values", function()
  local result = assert(json.load(smoke().dir .. "/result.json"))
  T.eq({ result.recipe, result.method, result.seed, result.device, result.training_samples },
    { "moc_hh", "moc", 0, "cpu", 3 * 16 })
  T.eq(result.objectives, { "humor", "helpful" })
  T.eq(#result.preferences, 11)
  T.eq({ result.preferences[1], result.preferences[11] }, { { 0.0, 1.0 }, { 1.0, 0.0 } })
  for _, key in ipairs { "rewards", "rewards_raw", "rewards_std" } do
    T.eq(#result[key], 11, key)
    for _, row in ipairs(result[key]) do
      T.eq(#row, 2, key)
    end
  end
  T.eq(result.reference_point, { 0, 0 })
  T.eq(result.tau_reference, { -2, -2 })
  T.ok(result.hypervolume > 0 and result.mean_pairwise_distance > 0)
  T.ok(math.abs(result.kendall_tau) <= 1 and result.kendall_p >= 0 and result.kendall_p <= 1)
  T.eq(#result.kendall_tau_per_objective, 2)
  T.eq({ #result.rule.rewards, #result.rule.malformed, type(result.rule.hypervolume) }, { 11, 11, "number" })
  T.eq(#result.unseen.groups, 4)
  for _, group in ipairs(result.unseen.groups) do
    T.eq({ #group.preferences, #group.rewards }, { 5, 5 })
    T.ok(group.hypervolume > 0 and math.abs(group.kendall_tau) <= 1)
  end
  T.eq(#result.sft.rewards, 2)
  T.ok(result.sft.mean_pairwise_distance > 0 and result.sft.rule)
  for j = 1, 2 do -- the units: 1 is the SFT model's own mean
    T.near(result.sft.rewards[j], 1, 1e-9)
  end
  T.ok(result.kl > 0)
  for _, key in ipairs { "mean", "zero", "one", "indicator", "negative_w" } do
    T.ok(result.c[key] >= 0 and result.c[key] <= 1, "c." .. key)
  end
  for _, name in ipairs(result.objectives) do
    local m = result.reward_models[name]
    T.ok(m.n >= 50 and m.low <= m.accuracy and m.accuracy <= m.high, name)
  end
  local timing = assert(json.load(smoke().dir .. "/timing.json"))
  T.ok(timing.seconds > 0 and timing.phases.moc and timing.peak_bytes > 0)
  T.ok(not child.read(smoke().dir .. "/result.json"):find("second", 1, true), "no times in result.json")
end)

T.test("the old log-probabilities are those of the first epoch: ratio 1 exactly, nothing clipped", function()
  local n = 0
  for _, row in ipairs(rows(smoke().dir .. "/metrics.jsonl")) do
    if row.stage == "moc" then
      n = n + 1
      T.eq(row.step, n)
      T.eq(row["ppo/first_ratio_error"], 0.0)
      T.ok(row["objective/kl"] > 0 and row["objective/entropy"] > 0 and row["ppo/grad_norm"] > 0)
      T.ok(row["moc/c"] >= 0 and row["moc/c"] <= 1)
    end
  end
  T.eq(n, 3)
end)

T.test("one epoch an iteration: nothing is ever clipped", function()
  local r = once("one epoch", SMALL, "ppo.ppo_epochs=1")
  for _, row in ipairs(rows(r.dir .. "/metrics.jsonl")) do
    if row.stage == "moc" then
      T.eq({ row["ppo/policy/clipfrac"], row["ppo/policy/approxkl"] }, { 0.0, 0.0 })
    end
  end
end)

T.test("checkpoints, samples and configuration can be read back", function()
  local dir = smoke().dir
  T.eq(fs.readlink(dir .. "/last"), "checkpoint-000003")
  local adapter = assert(safetensors.load(dir .. "/last/adapter_model.safetensors"))
  T.ok(adapter["base_model.model.model.layers.1.mlp.down_proj.lora_B.weight"])
  T.ok((assert(safetensors.load(dir .. "/last/value_heads.safetensors")))["v_head.1.2.bias"])
  local samples = rows(dir .. "/samples.jsonl")
  T.ok(#samples >= 22)
  for _, s in ipairs(samples) do
    T.ok(preference.check(s.preference) and #s.rewards == 2 and s.prompt and s.response)
  end
  T.eq(assert(config.load(dir .. "/config.lua")).moc.iterations, 3)
  T.ok(child.read(dir .. "/cmdline.txt"):find "^mocl recipes/moc_hh.lua .*preset=smoke") -- the file that was run
  T.eq(fs.exists(dir .. "/lock"), nil)
  -- the policy answers in mocl generate
  local out, err, status = child.mocl { "generate", "model=" .. dir .. "/sft", "adapter=" .. dir .. "/last",
    "tokenizer=" .. dir .. "/tokenizer.json", "prompt=<R1> 0.30 <R2> 0.70 hello", "max_new_tokens=4" }
  T.eq(status, 0, err)
  T.ok(out:find("^<R1> 0.30 <R2> 0.70 hello"), out)
end)

T.test("a complete run, run again: says so, prints the table, changes nothing", function()
  local r = smoke()
  local before = fs.sha256(r.dir .. "/timing.json")
  for _, resume in ipairs { {}, { "resume=auto" } } do
    local out = must("out=" .. r.dir, "preset=smoke", resume)
    T.eq(out, r.dir .. " holds this run, complete:\n" .. r.out) -- what it printed when it ended, answers and report too
  end
  T.eq(fs.sha256(r.dir .. "/timing.json"), before)
  local err = fails("holds a run with other options", "out=" .. r.dir, "preset=smoke", "ppo.lr=1e-3")
  T.ok(err:find("ppo.lr: 0.004 there, 0.001 now", 1, true), err)
end)

-- ---- same seed, same bytes ----

T.test("same seed, same bytes; another seed, another run", function()
  same_files(smoke().dir, once("again", "preset=smoke", "quiet=true").dir)
  local other = once("seed 1", "preset=smoke", "quiet=true", "seed=1")
  local a, b = files(smoke().dir), files(other.dir)
  for _, name in ipairs { "/result.json", "/samples.jsonl", "/last/adapter_model.safetensors", "/sft/model.safetensors" } do
    T.ok(a[name] ~= b[name], name)
  end
end)

T.test("one thread and all of them: the same bytes", function()
  if not os.execute("taskset -c 0 true 2>/dev/null") then
    T.skip("no taskset")
  end
  local r = once("small", SMALL)
  local dir = T.tmpdir() .. "/run"
  local _, err, status = child.mocl(arguments("out=" .. dir, SMALL), "taskset -c 0")
  T.eq(status, 0, err)
  same_files(r.dir, dir)
  dir = T.tmpdir() .. "/run"
  must("out=" .. dir, SMALL, "threads=3")
  same_files(r.dir, dir)
end)

T.test("device=fake, whose memory only kernels may touch, gives the cpu's results", function()
  local cpu = once("small", SMALL)
  local fake = once("fake", SMALL, "device=fake")
  local a, b = assert(json.load(cpu.dir .. "/result.json")), assert(json.load(fake.dir .. "/result.json"))
  T.eq(b.device, "fake")
  b.device = a.device
  T.eq(b, a)
  for _, name in ipairs { "last/adapter_model.safetensors", "last/value_heads.safetensors", "last/optimizer.safetensors",
    "samples.jsonl", "sft/model.safetensors", "reward-humor/model.safetensors" } do
    T.eq(fs.sha256(fake.dir .. "/" .. name), fs.sha256(cpu.dir .. "/" .. name), name)
  end
end)

-- ---- stopping and going on ----

-- long enough that a signal after its mark, which is looked for every hundredth of a second, comes in time
local LONGER = { SMALL, "ppo.batch_size=16", "moc.iterations=80", "moc.save_every=30", "base.steps=150" }

-- a run of LONGER that gets a signal when metrics.jsonl has the mark, then continued, against one that did not
local function interrupted(signal, status, mark, told)
  local whole = once("longer", LONGER)
  local dir = T.tmpdir() .. "/run"
  local text, got = child.interrupted(arguments("out=" .. dir, LONGER), mark, { file = dir .. "/metrics.jsonl", signal = signal })
  T.eq(got, status, text)
  T.ok(text:find(told), text)
  T.eq(fs.exists(dir .. "/result.json"), nil)
  if signal ~= "KILL" then
    T.eq(fs.exists(dir .. "/lock"), nil)
  end
  local err = fails("holds an interrupted run: continue it with resume=auto", "out=" .. dir, LONGER)
  T.ok(err:find(dir, 1, true), err)
  fails("holds a run with other options", "out=" .. dir, LONGER, "seed=7", "resume=auto")
  must("out=" .. dir, LONGER, "resume=auto")
  same_files(whole.dir, dir)
end

T.test("SIGINT during moc: saved, status 130; resume=auto ends with the bytes of an unbroken run", function()
  interrupted("INT", 130, '"stage":"moc","step":4,', "SIGINT after iteration %d+; continue with resume=auto")
end)

T.test("SIGTERM during moc: status 143, the same", function()
  interrupted("TERM", 143, '"stage":"moc","step":34,', "SIGTERM after iteration %d+; continue with resume=auto")
end)

T.test("SIGINT while the base model trains: status 130, the same", function()
  interrupted("INT", 130, '"stage":"base","step":5}', "SIGINT after step %d+; continue with resume=auto")
end)

T.test("SIGKILL between checkpoints: rewound to the last one, the same", function()
  interrupted("KILL", 137, '"stage":"moc","step":35,', "")
end)

T.test("resume=auto where nothing is starts; resume=DIR wants a run", function()
  local r = once("small", SMALL)
  local dir = T.tmpdir() .. "/run"
  must("out=" .. dir, SMALL, "resume=auto")
  same_files(r.dir, dir)
  fails("holds no run to continue", "resume=" .. T.tmpdir(), SMALL)
  T.ok(must("resume=" .. dir, SMALL):find("holds this run, complete", 1, true))
end)

-- ---- objectives, rewards, data ----

T.test("three objectives, one, and any pair", function()
  local three = once("three", SMALL, "objectives=harmless,humor,helpful", "eval.unseen_answers=1")
  local result = assert(json.load(three.dir .. "/result.json"))
  T.eq({ #result.preferences, #result.rewards[1], #result.rule.rewards[1] }, { 13, 3, 3 })
  T.eq({ #result.kendall_tau_per_objective, #result.unseen.groups }, { 3, 4 })
  local one = assert(json.load(once("one", SMALL, "objectives=helpful").dir .. "/result.json"))
  T.eq({ #one.preferences, one.c.mean, one.c.one }, { 1, 1.0, 1.0 })
  local pair = assert(json.load(once("pair", SMALL, "objectives=helpful,harmless", "trade_off=equal").dir .. "/result.json"))
  T.eq({ pair.objectives, pair.trade_off }, { { "helpful", "harmless" }, "equal" })
end)

T.test("control.c=one is linear scalarisation and says so", function()
  local result = assert(json.load(once("linear", SMALL, "control.c=one").dir .. "/result.json"))
  T.eq({ result.method, result.c.mean, result.c.one, result.c.negative_w }, { "conditioned_linear", 1.0, 1.0, 0.0 })
end)

T.test("control.solve: the gate I(A) acts from the second epoch with epoch, never with iteration", function()
  local far = { SMALL, "ppo.lr=0.3", "ppo.warmup=0", "control.phi=0", "control.floor=0" } -- so that clip and constraint act
  local function moc(name, ...)
    local list = {}
    for _, row in ipairs(rows(once(name, ...).dir .. "/metrics.jsonl")) do
      list[#list + 1] = row.stage == "moc" and row or nil
    end
    return list
  end
  local iteration, epoch = moc("far", far), moc("far, epoch", far, "control.solve=epoch")
  T.ok(iteration[1]["ppo/policy/clipfrac"] > .1, "clipped")
  T.eq(epoch[1]["ppo/first_ratio_error"], 0.0)
  T.ok(not pcall(T.eq, epoch[1], iteration[1]))
  -- with one epoch there is no second one to gate
  T.eq(moc("far, one", far, "ppo.ppo_epochs=1", "control.solve=epoch"), moc("far, one epoch", far, "ppo.ppo_epochs=1"))
end)

T.test("presets: the paper's values, readings A and B", function()
  for preset, want in pairs { paper = { "sample", 0.1, false }, reading_a = { "preference", 0.02, false }, reading_b = { "preference", 0.001, true } } do
    local dir = once(preset, "preset=" .. preset, { table.unpack(SMALL, 2) }).dir
    local cfg = assert(config.load(dir .. "/config.lua"))
    T.eq({ cfg.control.pool, cfg.control.phi, cfg.control.range }, want)
    local result = assert(json.load(dir .. "/result.json"))
    T.eq({ #result.rewards, result.method }, { 11, "moc" })
  end
end)

T.test("rewards from a Lua file", function()
  local path = T.tmpdir() .. "/rewards.lua"
  assert(fs.write(path, [[return {
    short = function(prompts, responses)
      local scores = {}
      for i, r in ipairs(responses) do scores[i] = -#r end
      return scores
    end,
    humor = function(prompts, responses)
      local scores = {}
      for i, r in ipairs(responses) do scores[i] = select(2, r:gsub("a", "")) end
      return scores
    end }]]))
  local dir = once("file", SMALL, "rewards=" .. path, "objectives=short,humor").dir
  local result = assert(json.load(dir .. "/result.json"))
  T.eq(fs.exists(dir .. "/reward-humor"), nil)
  T.ok(not result.reward_models or next(result.reward_models) == nil)
  for _, row in ipairs(result.rewards_raw) do
    T.ok(row[1] <= 0 and row[2] >= 0)
  end
  local function broken(source, text)
    assert(fs.write(path, source))
    fails(text, SMALL, "out=" .. T.tmpdir() .. "/run", "rewards=" .. path, "objectives=short,humor")
  end
  broken("return { short = function() return { 1 } end }", "reward 'short' returned 1 values for")
  broken("return { short = function() return 0 / 0 end }", "reward 'short' returned a number for")
  broken("return { short = ", "rewards.lua:1: unexpected symbol near <eof>")
  broken("return 3", "rewards.lua: returns a number, not a table of functions")
  broken("return { short = 3 }", "reward 'short' is a number, not a function")
  fails("cannot open " .. path .. "x", SMALL, "rewards=" .. path .. "x")
end)

-- a directory with 60 pairs per file; change(name, lines) may spoil some
local function hh_files(change)
  return hh.write(T.tmpdir(), { change = change })
end

local HH = { SMALL[1], "objectives=harmless,helpful", table.unpack(SMALL, 2) }

T.test("HH-RLHF files", function()
  local dir = hh_files()
  local r = once("hh", HH, "data=" .. dir)
  local result = assert(json.load(r.dir .. "/result.json"))
  T.eq({ result.objectives, result.rule, result.trade_off }, { { "harmless", "helpful" }, nil, nil })
  local inputs = assert(json.load(r.dir .. "/env.json")).inputs
  T.eq(inputs[dir .. "/helpful-base.test.jsonl"], fs.sha256(dir .. "/helpful-base.test.jsonl"))
end)

T.test("HH-RLHF as it is published", function()
  local dir = T.shared("prefs/hh-rlhf/LICENSE"):match("^(.*)/")
  local result = assert(json.load(once("published", HH, "data=" .. dir).dir .. "/result.json"))
  T.eq(#result.rewards, 11)
end)

T.test("HH-RLHF files that are broken are told with file and line", function()
  local function spoilt(name, line, text)
    return hh_files(function(this, lines)
      if this == name then
        lines[line] = text
      end
    end)
  end
  local function told(text, dir)
    return fails(text, HH, "data=" .. dir, "out=" .. T.tmpdir() .. "/run")
  end
  told("helpful-base.test.jsonl:17: column", spoilt("helpful-base", 17, '{"chosen": 3'))
  told("harmless-base.test.jsonl:60: the prompt is empty", spoilt("harmless-base", 60, hh.line("", "a", "b")))
  told("helpful-base.test.jsonl:2: ", spoilt("helpful-base", 2, '{"chosen": "no marks", "rejected": "no marks"}'))
  told("helpful-base.test.jsonl:3: ", spoilt("helpful-base", 3, '{"chosen": "\\n\\nHuman: a\\n\\nAssistant: b"}'))
  told("only 36 prompts to train on and 2 to evaluate have at most hh.prompt_chars=260 characters", hh_files(function(_, lines)
    for i = 20, 60 do
      lines[i] = nil
    end
  end))
  local empty = T.tmpdir()
  local err = told(empty, empty)
  T.ok(err:find("harmless", 1, true), err)
  told("/nowhere: No such file or directory", "/nowhere")
end)

T.test("inputs that changed under an interrupted run", function()
  local dir, out = hh_files(), T.tmpdir() .. "/run"
  local more = { "data=" .. dir, "out=" .. out, "base.steps=100000", "quiet=true" }
  local _, status = child.interrupted(arguments(HH, more), '"stage":"base"', { file = out .. "/metrics.jsonl" })
  T.eq(status, 130)
  assert(fs.write(dir .. "/helpful-base.test.jsonl", child.read(dir .. "/helpful-base.test.jsonl") .. hh.line("x", "y", "z") .. "\n"))
  fails("is not the file this run began with", HH, more, "resume=auto")
end)

-- ---- mistakes ----

T.test("mistakes on the command line cost nothing", function()
  local dir = T.tmpdir() .. "/run"
  local function told(text, ...)
    fails(text, "preset=smoke", "quiet=true", "out=" .. dir, ...)
    T.eq(fs.exists(dir), nil, "no directory is left behind: " .. text)
  end
  told("unknown option 'ppo.cliprang' (did you mean 'ppo.cliprange'?)", "ppo.cliprang=1")
  told("option ppo.lr: expected a number, got 'fast'", "ppo.lr=fast")
  told("option ppo.batch_size: expected an integer, got '1.5'", "ppo.batch_size=1.5")
  told("option lora.r: 0 is below the minimum 1", "lora.r=0")
  told("option trade_off: expected one of rising, equal, diminishing, got 'flat'", "trade_off=flat")
  told("unknown preset 'smok' (did you mean 'smoke'?)", "preset=smok")
  told("unknown objective 'humour' (did you mean 'humor'?); known here: humor, helpful, harmless", "objectives=humour,helpful")
  told("objective 'humor' is named twice", "objectives=humor,humor")
  told("objectives: at least one is needed", "objectives=")
  told("tags of at most 3 weights, got 4", "objectives=humor,helpful,harmless,kind")
  told("lora.layers=3: the model has model.layers=2", "lora.layers=3")
  told("device 'cuda:9' is not available", "device=cuda:9")
  told("unknown device 'gpu' (cpu, cuda or cuda:N)", "device=gpu")
  told("unknown objective 'humor'", "objectives=humor,helpful", "data=" .. hh_files())
  told("argument 'x': expected key=value", "x")
end)

T.test("prompts longer than the context", function()
  local function in_run(text, ...)
    return fails(text, SMALL, "out=" .. T.tmpdir() .. "/run", ...)
  end
  in_run("no prompt fits: tags, prompt and ppo.max_new_tokens=250 answer tokens need more than model.positions=256",
    "ppo.max_new_tokens=250")
  local long = hh_files(function(_, lines)
    for i = 41, 60 do -- each digit is a token
      lines[i] = hh.line(("7"):rep(100 + i), "a", "b")
    end
  end)
  local out, err, status = run(HH, "data=" .. long, "out=" .. T.tmpdir() .. "/run", "quiet=false", "model.positions=128")
  T.eq(status, 0, out .. err)
  T.ok(err:find("prompts are longer than the context allows and are left out", 1, true), err)
end)

T.test("--help and --print-config", function()
  local out = must("--help")
  T.ok(out:find("ppo.cliprange", 1, true) and out:find("smoke", 1, true), out)
  out = must("--print-config", "preset=smoke", "ppo.lr=1e-3")
  local path = T.tmpdir() .. "/c.lua"
  assert(fs.write(path, out))
  T.eq({ assert(config.load(path)).ppo.lr, assert(config.load(path)).moc.iterations }, { 1e-3, 3 })
end)

T.test("a copy of the recipe is what its help and its run directory name", function()
  local mine, dir = T.tmpdir() .. "/mine.lua", T.tmpdir() .. "/run"
  assert(fs.write(mine, assert(fs.read "recipes/moc_hh.lua")))
  local out, err, status = child.mocl { mine, "--help" }
  T.eq({ err, status }, { "", 0 })
  T.ok(out:find("usage: mocl " .. mine .. " [key=value", 1, true), out)
  out, err, status = child.mocl { mine, "preset=smoke", "quiet=true", "out=" .. dir }
  T.eq(status, 0, out .. err)
  T.eq(assert(fs.read(dir .. "/cmdline.txt")), ("mocl %s preset=smoke quiet=true out=%s\n"):format(mine, dir))
  -- a method of one's own without a loss
  local text = assert(fs.read(mine))
  local first, last = text:find("local m = t:update(batch, function(e)", 1, true), text:find("  return log:summary()", 1, true)
  assert(fs.write(mine, text:sub(1, first - 1) .. "end\n" .. text:sub(last)))
  out, err, status = child.mocl { mine, "preset=smoke", "quiet=true", "out=" .. T.tmpdir() .. "/run", "from=" .. dir }
  T.ok(status == 1 and err:find("moc: iteration 1 ended without t:update(batch, loss): a method needs a loss", 1, true), out .. err)
end)

T.test("a preference that does not sum to 1", function()
  T.raises("preference {0.3, 0.6} sums to 0.9, not 1", preference.check, { .3, .6 })
  T.raises("preference {%-0.1, 1.1} has a negative weight", preference.check, { -.1, 1.1 })
end)
