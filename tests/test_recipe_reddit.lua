-- recipes/moc_reddit.lua: the loop of recipes/moc_hh.lua on posts with pairs of summaries

local T = require "t"
local child = require "child"
local data = require "mocl.data"
local fs = require "mocl.fs"
local json = require "mocl.json"
local reward_directory = require "mocl.lm.reward_directory"
local rewards = require "fixtures.rewards.rewards"
local rng = require "mocl.rng"
local small = require "fixtures.llama.small"
local sources = require "mocl.data.sources"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local golden = rewards.load()

local made = {}
local function judge(name)
  made[name] = made[name] or rewards.directory(golden, name, T.tmpdir() .. "/" .. name)
  return made[name]
end

local function post(i)
  return ("TIFU %d by telling my dog\nthat we would go to the sea today, and then it rained all day long and we stayed at home."):format(i)
end

local function comparison(i, change)
  local row = { info = { id = "t3_" .. i, post = post(i), title = "x", subreddit = "tifu" }, choice = i % 2,
    summaries = { { text = i % 2 == 0 and " A good\nsummary. " or "no", policy = "a" }, { text = i % 2 == 0 and "no" or " A good\nsummary. ", policy = "b" } } }
  for key, value in pairs(change or {}) do
    row[key] = value
  end
  return json.encode(row)
end

local function file(lines)
  local path = T.tmpdir() .. "/batch3.json"
  assert(fs.write(path, table.concat(lines, "\n") .. "\n"))
  return path
end

local posts_path
local function posts()
  if not posts_path then
    local lines = {}
    for i = 1, 80 do
      lines[i] = comparison(i)
    end
    posts_path = file(lines)
  end
  return posts_path
end

T.test("comparisons: the chosen summary by choice, line ends as blanks, and what is left out", function()
  local list, counts = data.summary_comparisons(file { comparison(1), comparison(2), comparison(3, { info = { post = json.null, article = "CNN" } }),
    comparison(4, { info = { post = ("x"):rep(100) } }), comparison(5, { info = { post = ("x"):rep(1200) } }),
    comparison(6, { summaries = { { text = "same" }, { text = " same\n" } } }), comparison(7, { summaries = { { text = "" }, { text = "b" } } }),
    comparison(8, { info = { post = ("\u{E9}"):rep(101) } }) })
  T.eq(list[1], { post = post(1):gsub("\n", " "), chosen = "A good summary.", rejected = "no" })
  T.eq(list[2], { post = post(2):gsub("\n", " "), chosen = "A good summary.", rejected = "no" })
  T.eq(counts, { rows = 8, kept = 3, other_posts = 3, identical = 1, empty_answers = 1 })
  T.eq(#data.summary_comparisons(fs.dirname(posts()), { limit = 7 }), 7)
  local function bad(pattern, line)
    T.fails(pattern, data.summary_comparisons, file { comparison(1), line })
  end
  bad("batch3.json:2: choice is 2; 0 or 1 is expected", comparison(1, { choice = 2 }))
  bad("batch3.json:2: summary 2 has no text", comparison(1, { summaries = { { text = "a" } } }))
  bad("batch3.json:2: an object with info, summaries and choice is expected", "[]")
  bad("batch3.json:2: info.post is no text", comparison(1, { info = { post = 3 } }))
  bad("batch3.json:2: column ", "{")
  T.fails("/nowhere: No such file or directory", data.summary_comparisons, "/nowhere")
  T.fails("holds no .json or .jsonl file of comparisons", data.summary_comparisons, T.tmpdir())
end)

T.test("the source: Rewards-in-Context's prompt, held-out posts with all their pairs, SFT on the better summaries", function()
  local lines = {}
  for i = 1, 80 do
    lines[2 * i - 1], lines[2 * i] = comparison(i), comparison(i)
  end
  local source = sources.posts { path = file(lines), seed = 0, objectives = { "summary", "faithful" }, min_chars = 100, max_chars = 1200, held_out = 0.1 }
  T.eq({ #source.train_prompts, #source.test_prompts }, { 72, 8 })
  T.ok(source.train_prompts[1]:find "^### Instruction: Generate a one%-sentence summary of this post%. ### Input: TIFU %d+ .* at home%. ### Response:$")
  local train, test = source.pairs "summary"
  T.eq({ #train, #test }, { 144, 16 })
  for _, row in ipairs(train) do
    T.ok(not source.is_held_out(row.prompt))
    T.eq(row.chosen, " A good summary.")
  end
  local row = source.sft(rng.new(0, "x"))[1]
  T.ok(row.prompt:find "^<R1> %d%.%d%d <R2> %d%.%d%d ### Instruction", row.prompt)
  T.eq(row.response, " A good summary.")
  T.raises("objective 'faithful' has no pairs in .*; known there: summary", source.check, "faithful")
end)

local function run(dir, ...)
  local list = { "recipes/moc_reddit.lua", "preset=smoke", "quiet=true", "out=" .. dir, "sft.steps=1", "reward.steps=1", "sft.batch_size=2",
    "reward.batch_size=2", "ppo.batch_size=4", "ppo.ppo_epochs=1", "moc.iterations=2", "moc.save_every=1", "eval.answers=2",
    "eval.unseen_answers=0", "ppo.max_new_tokens=3" }
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return child.mocl(list)
end

local function must(...)
  local dir = T.tmpdir() .. "/run"
  local out, err, status = run(dir, ...)
  T.eq(status, 0, out .. err)
  return dir, assert(json.load(dir .. "/result.json")), out
end

T.test("a whole run with reward models in directories; the rewards see the plain prompts", function()
  local dir, texts = T.tmpdir() .. "/model", {}
  for i = 1, 40 do
    texts[i] = sources.summary_prompt(post(i):gsub("\n", " ")) .. " A good summary."
  end
  local tok = tokenizer.train(texts, { vocab_size = 400, special_tokens = { "<s>", "</s>" } })
  assert(transformer.save(small.model { config = { vocab_size = tok:vocab_size(), max_position_embeddings = 512 } }, dir))
  assert(tok:save(dir))
  local run_dir, result, out = must("model=" .. dir, "reward.summary=" .. judge "gpt2-pad", "reward.faithful=" .. judge "bert", "reward.on_topic=" .. judge "encoder",
    "data=" .. posts())
  T.eq({ result.recipe, result.objectives }, { "moc_reddit", { "summary", "faithful", "on_topic" } })
  T.eq(#result.preferences, 13)
  T.ok(out:find("### Response: ->", 1, true), out)
  local statistics = assert(json.load(run_dir .. "/stages.json"))["sft-answers"].result.statistics
  local sample, raw = data.read_jsonl(run_dir .. "/samples.jsonl")[1], {}
  for j, name in ipairs { "gpt2-pad", "bert", "encoder" } do
    local f = assert(reward_directory.load(judge(name), { objective = ({ "summary", "faithful" })[j] }))
    raw[j] = f({ sample.prompt }, { sample.response })[1]
  end
  T.near(sample.rewards, require("mocl.lm.policy").normalize(raw, statistics), 1e-6)
end)

T.test("a whole run whose small models are trained on the comparisons", function()
  local path = T.tmpdir() .. "/r.lua"
  assert(fs.write(path, "return { faithful = function(p, r) local s = {} for i, x in ipairs(r) do s[i] = -#x end return s end }"))
  local dir, result = must("data=" .. posts(), "rewards=" .. path)
  T.eq(result.objectives, { "summary", "faithful" })
  T.ok(result.reward_models.summary.n == 8)
  T.ok(fs.exists(dir .. "/reward-summary/score_head.safetensors"))
end)

T.test("what cannot be is refused before there is a directory", function()
  local function refused(text, ...)
    local dir = T.tmpdir() .. "/run"
    local out, err, status = run(dir, ...)
    T.eq(status, 1, out .. err)
    T.ok(err:find(text, 1, true), err)
    T.eq(fs.exists(dir), nil)
  end
  refused("data= names the comparisons of summaries")
  refused("objective 'faithful' has no pairs in " .. posts(), "data=" .. posts())
  refused("data=/nowhere: No such file or directory", "data=/nowhere")
  refused("only 0 prompts to train on and 0 to evaluate are of posts of the length that reddit.min_chars and reddit.max_chars allow",
    "data=" .. posts(), "reddit.max_chars=110", "reward.faithful=" .. judge "bert")
  refused("unknown option 'documents'", "data=" .. posts(), "documents=3")
  refused("unknown preset 'hh'", "data=" .. posts(), "preset=hh")
end)
