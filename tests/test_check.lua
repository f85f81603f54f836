-- mocl --recipes, and --check: what is said before a run begins

local T = require "t"
local child = require "child"
local estimate = require "mocl.train.estimate"
local fs = require "mocl.fs"
local recipes = require "mocl.run.recipes"

T.test("recipes are listed by name, with what their first line says", function()
  local a, b = T.tmpdir(), T.tmpdir()
  assert(fs.write(a .. "/mine.lua", "--- mine: what mine does\nprint 'ran'\n"))
  assert(fs.write(b .. "/mine.lua", "--- mine: another\n"))
  assert(fs.write(b .. "/bare.lua", "print 1\n"))
  assert(fs.write(b .. "/notes.txt", "no recipe"))
  local list = recipes.list(a .. ":" .. b .. ":/nowhere")
  T.eq({ #list, list[1].name, list[1].doc, list[2].name, list[2].doc }, { 2, "bare", "", "mine", "what mine does" })
  T.ok(recipes.text {}:find "MOCL_RECIPES")
  local out = child.shell("MOCL_RECIPES=" .. a .. ':recipes "$MOCL" --recipes; MOCL_RECIPES=' .. a .. ' "$MOCL" mine')
  T.ok(out:find("\nmine +what mine does\n") and out:find "\nmoc_hh +Multi%-Objective Control" and out:find "\nran\n$", out)
  for _, r in ipairs(recipes.list "recipes") do
    T.ok(r.doc ~= "", r.path)
  end
end)

T.test("an estimate is tokens of each stage times what one takes", function()
  local cfg = { init = "", objectives = { "a", "b" }, model = { positions = 10 }, base = { steps = 3, batch_size = 2 }, sft = { steps = 0 },
    reward = { steps = 5, batch_size = 2, answers = 4 }, ppo = { max_new_tokens = 6, batch_size = 8, ppo_epochs = 2 },
    eval = { answers = 7, unseen_answers = 1 } }
  local list = estimate.stages(cfg, { speed = { train = 3, answer = 1 }, models = { "b" }, grid = 11, unseen = 20, iterations = 4, policies = 2 })
  T.eq(list, { { "base", 180 }, { "reward-b", 1200 }, { "8 iterations", 64 * (6 + 20 + 2 * 10 * 4) }, { "evaluation", (77 + 20) * 26 } })
  -- heads on a frozen trunk: 4/3 of 9 pairs of two texts, each a prompt and an answer of 5 tokens, and one pass for all of an answer
  cfg.init, cfg.reward.trunk, cfg.reward.prompts, cfg.reward.tokens = "mine", "frozen", 9, 5
  T.eq(estimate.stages(cfg, { speed = { train = 3, answer = 1 }, models = { "b" }, grid = 11, iterations = 4, row = 9 }),
    { { "reward-b", 240 }, { "4 iterations", 32 * (6 + 9 + 2 * 9 * 4) }, { "evaluation", 77 * 15 } })
  local text = estimate.text(list, { { { "weights", 2 ^ 20 } }, 2 ^ 20 })
  T.ok(text:find "memory: about 1.0 MiB at most" and text:find "\n  base          3:00\n", text)
  local shape = { vocab_size = 50, hidden_size = 16, num_hidden_layers = 6, num_attention_heads = 2, intermediate_size = 16,
    max_position_embeddings = 32 }
  local s = estimate.speed(shape, "cpu")
  T.ok(s.train > 0 and s.answer > 0)
end)

T.test("--check says what a run will take, writes nothing, and refuses what the run would refuse", function()
  local dir = T.tmpdir() .. "/run"
  local out, err, status = child.mocl { "recipes/moc_hh.lua", "--check", "preset=smoke", "out=" .. dir }
  T.eq({ status, err }, { 0, "" })
  T.ok(out:find("moc_hh: the options go together; the run would be in " .. dir, 1, true) and out:find "memory: about" and out:find "reward%-humor  "
    and out:find "3 iterations  ", out)
  T.eq(fs.exists(dir), nil)
  for _, words in ipairs { { "ppo.batch_siz=3", "unknown option" }, { "model.heads=3", "does not divide" }, { "preferences=0.5:0.6", "preferences" },
    { "data=/nowhere", "nowhere" } } do
    out, err, status = child.mocl { "recipes/moc_hh.lua", "--check", words[1], "out=" .. dir }
    T.ok(status == 1 and out == "" and err:find(words[2], 1, true), words[1] .. ": " .. err)
  end
  T.eq(fs.exists(fs.dirname(dir) .. "/run"), nil)
  assert(fs.write(fs.dirname(dir) .. "/file", ""))
  for where, words in pairs { [fs.dirname(dir) .. "/file"] = "Not a directory", [fs.dirname(dir) .. "/file/deep/er"] = "Not a directory",
    ["/proc/nowhere"] = "/proc/nowhere cannot be written: choose another out=" } do
    out, err, status = child.mocl { "recipes/moc_hh.lua", "--check", "preset=smoke", "out=" .. where }
    T.ok(status == 1 and out == "" and err:find(words, 1, true), where .. ": " .. out .. err)
  end
  T.eq(fs.list(fs.dirname(dir)), { "file" })
  out, err, status = child.mocl { "recipes/fishwood.lua", "--check", "out=" .. dir }
  T.eq({ status, out }, { 0, ("fishwood: the options go together; the run would be in %s\n"):format(dir) }, err)
  out, err, status = child.mocl { "recipes/fishwood.lua", "preset=smoke", "quiet=true", "out=" .. dir }
  T.eq(status, 0, err)
  local whole = child.mocl { "recipes/fishwood.lua", "preset=smoke", "--check", "out=" .. dir }
  T.eq(whole, ("fishwood: the options go together; %s holds this run, complete\n"):format(dir))
  out, err, status = child.mocl { "recipes/fishwood.lua", "preset=smoke", "--check", "seed=9", "resume=" .. dir }
  T.ok(status == 1 and out == "" and err:find("holds a run with other options:\n  seed: 0 there, 9 now", 1, true), out .. err)
  assert(fs.remove(dir .. "/result.json"))
  out, err, status = child.mocl { "recipes/fishwood.lua", "preset=smoke", "--check", "out=" .. dir }
  T.ok(status == 1 and err:find("holds an interrupted run: continue it with resume=auto", 1, true), out .. err)
  out = child.mocl { "recipes/fishwood.lua", "preset=smoke", "--check", "resume=" .. dir }
  T.eq(out, ("fishwood: the options go together; %s holds this run, which goes on\n"):format(dir))
  out, err, status = child.mocl { "chat", "--check" }
  T.ok(status == 1 and out == "" and err:find("argument '--check'", 1, true), err)
  out = child.mocl { "recipes/moc_hh.lua", "--help" }
  T.ok(out:find("--check looks whether a run can begin", 1, true))
end)

T.test("every recipe that needs no data can be looked at", function()
  for _, name in ipairs { "clp", "compare_hh", "fishwood", "fruit_tree", "grpo", "metaaligner", "moc_hh", "mod", "models", "modpo", "morlhf",
    "rewarded_soups", "ric" } do
    local out, err, status = child.mocl { "recipes/" .. name .. ".lua", "--check", "preset=smoke", "out=" .. T.tmpdir() .. "/run" }
    T.eq(status, 0, err)
    T.ok(out:find("go together", 1, true) or out:find("memory", 1, true), out)
  end
end)

T.test("the memory that --check counts is that of the options of memory", function()
  local function mebibytes(...)
    local out, err, status = child.mocl { "recipes/moc_hh.lua", "--check", "preset=smoke", "out=" .. T.tmpdir() .. "/run", ... }
    T.eq(status, 0, err)
    return assert(tonumber(out:match "about ([%d.]+) MiB at most"), out)
  end
  local all = mebibytes()
  T.ok(mebibytes "ppo.microbatch=1" < all and mebibytes "ppo.gradient_checkpointing=true" < all)
end)
