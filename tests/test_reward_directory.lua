-- rewards from directories: published reward models by template and pooling rule, and encoders of sentences, against the code that is
-- published with them and sentence-transformers (fixtures/rewards/make_rewards.py)

local T = require "t"
local classifier = require "mocl.lm.classifier"
local families = require "mocl.lm.families"
local framing = require "mocl.lm.framing"
local fs = require "mocl.fs"
local json = require "mocl.json"
local reward_directory = require "mocl.lm.reward_directory"
local rewards = require "fixtures.rewards.rewards"
local sentence = require "mocl.lm.sentence"
local templates = require "mocl.lm.reward_templates"
local tokenizer = require "mocl.tokenizer"

local golden = rewards.load()

local made = {}
local function directory(name)
  made[name] = made[name] or rewards.directory(golden, name, T.tmpdir() .. "/" .. name)
  return made[name]
end

local prompts, responses = {}, {}
for i, pair in ipairs(golden.pairs) do
  prompts[i], responses[i] = pair[1], pair[2]
end

for _, case in ipairs(golden.cases) do
  T.test(("%s with %s: ids and scores of the published code"):format(case.template, case.model), function()
    if not families.by_type[case.model:match "^%a+%d?"] then
      T.skip("mocl does not load " .. case.model)
    end
    local dir = directory(case.model)
    local f = assert(reward_directory.load(dir, { template = case.template }))
    for i, want in ipairs(case.ids) do
      T.eq((f:row(prompts[i], responses[i])), want, "ids of pair " .. i)
    end
    T.near(f(prompts, responses), case.scores, 2e-5)
    T.eq(f({ "a plain post" }, { " \xff dog \xe3" }), f({ "a plain post" }, { " \u{FFFD} dog \u{FFFD}" }), "bytes that are no text")
    local rounded = assert(reward_directory.load(dir, { template = case.template, decimals = 1 }))
    T.near(rounded(prompts, responses), case.rounded, 1e-12)
  end)
end

T.test("scores are rounded as numpy.round does", function()
  local f = assert(reward_directory.load(directory "gpt2", { template = "helpful", decimals = 1 }))
  for want, got in pairs { [0.2] = 0.25, [0.4] = 0.35000001, [-0.2] = -0.25, [1.8] = 1.75, [0.0] = 0.04 } do
    f.forward = function()
      return require("mocl.tensor").new { got }
    end
    T.near(f({ "a" }, { "b" }), { want }, 1e-12, got .. " is rounded")
  end
end)

T.test("the rules of pooling", function()
  local ids = { 7, 8, 0, 9, 6 }
  T.eq(classifier.pooled(ids, "last", 0), 5)
  T.eq(classifier.pooled(ids, "before_pad", 0), 2)
  T.eq(classifier.pooled(ids, "counted", 0), 4)
  T.eq(classifier.pooled({ 0, 7, 8 }, "before_pad", 0), 3, "nothing in front of the first pad: the last, as a negative index is")
  T.eq(classifier.pooled({ 0, 0 }, "counted", 0), 2)
  for _, rule in ipairs { "last", "before_pad", "counted" } do
    T.eq(classifier.pooled({ 7, 8, 9 }, rule, 0), 3, rule)
    T.eq(classifier.pooled(ids, rule, nil), 5, rule)
  end
end)

T.test("the longer of two texts is cut first", function()
  local function lengths(...)
    return { framing.lengths(...) }
  end
  T.eq(lengths(3, 4, 10), { 3, 4 })
  T.eq(lengths(3, 20, 10), { 3, 7 })
  T.eq(lengths(20, 3, 10), { 7, 3 })
  T.eq(lengths(20, 30, 10), { 5, 5 })
  T.eq(lengths(20, 30, 11), { 5, 6 })
  T.eq(lengths(30, 20, 11), { 6, 5 })
  T.eq(lengths(12, 0, 10), { 10, 0 })
  T.eq(lengths(5, 5, 0), { 0, 0 })
end)

T.test("rows are those of the tokenizer where nothing is cut, with the types of its template", function()
  for _, name in ipairs { "gpt2", "bert", "bart" } do
    local tok = assert(tokenizer.load(directory(name)))
    local f = framing.new(tok, 1000)
    for i, prompt in ipairs(prompts) do
      local ids, types = f:row(responses[i], prompt)
      local want, kinds = tok:encode(responses[i], { add_special_tokens = true, pair = prompt, return_token_type_ids = true })
      T.eq({ ids, types }, { want, kinds }, name)
      T.eq((f:row(prompt)), tok:encode(prompt, { add_special_tokens = true }), name)
    end
  end
end)

T.test("the template: as asked, as the directory says, as the objective is called; others are refused with the list", function()
  local dir = rewards.directory(golden, "gpt2", T.tmpdir() .. "/model")
  local function name(opts)
    return assert(reward_directory.load(dir, opts)).name
  end
  T.eq(name { objective = "helpful" }, "helpful")
  T.eq(name { objective = "helpful", template = "summary" }, "summary")
  T.fails("how its model reads a prompt and an answer is not known; template= names one of faithful, harmless, helpful, humor, summary",
    reward_directory.load, dir, { objective = "mine" })
  T.fails("no template 'helpfull' %(did you mean 'helpful'%?%); known: faithful, harmless", reward_directory.load, dir, { template = "helpfull" })
  assert(fs.write(dir .. "/mocl_reward.json", '{"template": "harmless"}'))
  T.eq(name { objective = "mine" }, "harmless")
  T.eq(name { objective = "helpful" }, "harmless")
  T.eq(name { objective = "mine", template = "helpful" }, "helpful")
  assert(fs.write(dir .. "/mocl_reward.json", '{"template": "x"}'))
  T.fails("mocl_reward.json: template: no template 'x'", reward_directory.load, dir, { objective = "mine" })
end)

T.test("directories that are no reward models are refused", function()
  local load = reward_directory.load
  T.fails("/nowhere: No such file or directory", load, "/nowhere", { template = "helpful" })
  local file = T.tmpdir() .. "/model.gguf"
  assert(fs.write(file, "GGUF"))
  T.fails("model.gguf: is a file; the directory of a model with a head for classification", load, file, { template = "helpful" })
  T.fails("the template 'humor' takes the last label of 2, the head has 1", load, directory "gpt2", { template = "humor" })
  T.fails("the template 'helpful' takes the label of 1, the head has 2", load, directory "distilbert", { template = "helpful" })
  local function changed(name, changes)
    return rewards.directory(golden, name, T.tmpdir() .. "/model", changes)
  end
  T.fails("holds no tokenizer.json.*a reward model needs the files of its tokenizer in its directory", load,
    changed("gpt2", { ["tokenizer.json"] = false, ["tokenizer_config.json"] = false }), { template = "helpful" })
  T.fails("model_max_length = long is not supported %(a number of tokens%)", load,
    changed("gpt2", { ["tokenizer_config.json"] = '{"bos_token": "<|endoftext|>", "model_max_length": "long"}' }), { template = "helpful" })
  T.fails("has BOS between answer and post, and this tokenizer has none", load,
    changed("gpt2", { ["tokenizer_config.json"] = "{}" }), { template = "summary" })
  T.fails("holds a language model %(GPT2LMHeadModel%), which has no head for classification; recipes/reward_model.lua trains one", load,
    changed("gpt2", { ["config.json"] = (golden.models.gpt2.files["config.json"]:gsub("GPT2ForSequenceClassification", "GPT2LMHeadModel")) }),
    { template = "helpful" })
  T.fails("the tokenizer has %d+ ids, the model only %d+", load, changed("gpt2", { ["tokenizer.json"] = (golden.models.gpt2.files["tokenizer.json"]
    :gsub('"added_tokens": %[', '"added_tokens": [{"id": 999, "content": "<x>", "single_word": false, "lstrip": false, "rstrip": false, '
      .. '"normalized": false, "special": true},')) }), { template = "helpful" })
  T.fails("an encoder of sentences compares answer and prompt; it has no template", load, directory "encoder", { template = "helpful" })
end)

T.test("a post is what is between its marks", function()
  T.eq(templates.post "### Instruction: x ### Input:  a post  ### Response: ", "a post")
  T.eq(templates.post " all of it\n", "all of it")
  T.eq(templates.post "### Response: ### Input: b", "### Response: ### Input: b")
end)

-- ---- encoders of sentences ----

-- modules.json and the rest of sentence-transformers around the encoder of the fixture
local function st(files, model)
  local dir = T.tmpdir() .. "/st"
  rewards.directory(golden, "encoder", dir, model)
  for name, text in pairs(files) do
    assert(fs.mkdir(fs.dirname(fs.join(dir, name))))
    assert(fs.write(fs.join(dir, name), type(text) == "table" and json.encode(text) or text))
  end
  return dir
end

local function modules(...)
  local list = {}
  for i, kind in ipairs { ... } do
    list[i] = { idx = i - 1, name = tostring(i - 1), path = i > 1 and (i - 1) .. "_" .. kind or "", type = "sentence_transformers.models." .. kind }
  end
  return json.encode(list)
end

T.test("an encoder of sentences: the cosine of PyTorch, from a plain directory and from sentence-transformers' files", function()
  local f = assert(reward_directory.load(directory "encoder", { objective = "on_topic" }))
  T.eq({ f.pool, f.normalize, f.limit }, { "mean", false, 32 })
  T.near(f(prompts, responses), golden.cosines.mean, 2e-5)
  for _, pool in ipairs { "mean", "cls" } do
    local five = { pooling_mode_mean_tokens = pool == "mean", pooling_mode_cls_token = pool == "cls", pooling_mode_max_tokens = false,
      word_embedding_dimension = 16, include_prompt = true }
    for _, config in ipairs { five, { pooling_mode = pool, embedding_dimension = 16, include_prompt = true } } do
      f = assert(reward_directory.load(st { ["modules.json"] = modules("Transformer", "Pooling", "Normalize"), ["1_Pooling/config.json"] = config }, {}))
      T.eq({ f.pool, f.normalize }, { pool, true })
      T.near(f(prompts, responses), golden.cosines[pool], 2e-5, pool)
      local v = f:embed { "a dog", "the sea" }
      T.near((v * v):sum(2):totable(), { 1, 1 }, 1e-6)
    end
  end
  -- what is cut, and by which file
  f = assert(sentence.load(st { ["modules.json"] = modules("Transformer", "Pooling"), ["1_Pooling/config.json"] = { pooling_mode = "mean" },
    ["sentence_bert_config.json"] = { max_seq_length = 6, do_lower_case = false } }))
  T.eq({ f.limit, #f.framing:row "a long post about a dog that ran away" }, { 6, 6 })
  T.near(f({ "a long post about a dog" }, { "a long post about the sea" }), { 1 }, 1e-6)
end)

T.test("an encoder as sentence-transformers 5.1 and 6.2 save it: their vectors", function()
  for _, version in ipairs { "4.57", "5.24" } do
    local dir = fs.dirname(T.shared("families/bert-mean/" .. version .. "/modules.json"))
    local want = assert(json.load(T.shared "families/bert-mean/sentences.json"))
    local encoder = assert(sentence.load(dir))
    for i, text in ipairs(want.texts) do
      T.eq((encoder.framing:row(text)), want.input_ids[i], text)
    end
    T.near(encoder:embed(want.texts):totable(), want.embeddings, 5e-5)
  end
end)

T.test("what sentence-transformers would compute otherwise is refused by name", function()
  local function fails(pattern, files)
    local all = { ["modules.json"] = modules("Transformer", "Pooling"), ["1_Pooling/config.json"] = { pooling_mode = "mean" } }
    for name, text in pairs(files) do
      all[name] = text
    end
    T.fails(pattern, sentence.load, st(all))
  end
  fails("pooling_mode = max is not supported %(mean or cls, one of them%)", { ["1_Pooling/config.json"] = { pooling_mode = "max" } })
  fails("pooling_mode = cls%+mean is not supported",
    { ["1_Pooling/config.json"] = { pooling_mode_mean_tokens = true, pooling_mode_cls_token = true } })
  fails("pooling_mode = weightedmean is not", { ["1_Pooling/config.json"] = { pooling_mode_weightedmean_tokens = true } })
  fails('pooling_mode = "" is not', { ["1_Pooling/config.json"] = {} })
  fails("word_embedding_dimension = 9 is not supported %(the model's states have 16%)",
    { ["1_Pooling/config.json"] = { pooling_mode = "mean", word_embedding_dimension = 9 } })
  fails("pooling_mode_new = true is not supported", { ["1_Pooling/config.json"] = { pooling_mode = "mean", pooling_mode_new = true } })
  fails("type = sentence_transformers.models.Dense is not supported %(Transformer, then Pooling, then perhaps Normalize%)",
    { ["modules.json"] = modules("Transformer", "Pooling", "Dense") })
  fails("type = sentence_transformers.models.Pooling is not", { ["modules.json"] = modules("Pooling") })
  fails("modules.json: no Pooling among the modules", { ["modules.json"] = modules("Transformer") })
  fails("modules.json: ", { ["modules.json"] = "[" })
  fails("path = \"../x\" is not supported %(a directory below this one%)",
    { ["modules.json"] = '[{"idx": 0, "path": "../x", "type": "Transformer"}]' })
  fails("do_lower_case = true is not supported", { ["sentence_bert_config.json"] = { do_lower_case = true } })
  fails("max_seq_length = 0 is not supported", { ["sentence_bert_config.json"] = { max_seq_length = 0 } })
  fails("default_prompt_name = query is not supported",
    { ["config_sentence_transformers.json"] = { default_prompt_name = "query", prompts = { query = "query: " } } })
  local f = assert(sentence.load(directory "encoder"))
  T.raises("embed: the list of texts is empty", f.embed, f, {})
end)
