-- recipes/sft.lua and recipes/reward_model.lua: the parts of a run trained from files of rows, and recipes/moc_hh.lua with what comes out

local T = require "t"
local child = require "child"
local classifier = require "mocl.lm.classifier"
local classifier_files = require "mocl.lm.classifier_files"
local data_rows = require "mocl.data.rows"
local fs = require "mocl.fs"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local reward_directory = require "mocl.lm.reward_directory"
local rewards = require "fixtures.rewards.rewards"
local run_files = require "run_files"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"


-- ---- rows ----

local COLUMNS = { prompt = "prompt", response = "response", chosen = "chosen", rejected = "rejected", text = "text", label = "label" }

local function file(name, text)
  local path = T.tmpdir() .. "/" .. name
  assert(fs.write(path, text))
  return path
end

local function read(path, kind, columns)
  return data_rows.read(path, kind, setmetatable(columns or {}, { __index = COLUMNS }))
end

T.test("rows: pairs, answers and labels from jsonl and csv; RFC 4180's quotes, line ends inside fields, CRLF", function()
  local list, same = read(file("a.jsonl", '{"prompt": "a?", "chosen": "b", "rejected": "c"}\n\n{"prompt": "a?", "chosen": "b", "rejected": "b"}\n'), "pairs")
  T.eq({ list, same }, { { { prompt = "a?", chosen = "b", rejected = "c" } }, 1 })
  list = read(file("a.csv", 'prompt,response,x\r\n"two\r\nlines, and ""quotes""",yes,1\r\nb,"",2\r\n'):gsub("$", ""), "answers", { response = "prompt" })
  T.eq(list[1], { prompt = 'two\r\nlines, and "quotes"', response = 'two\r\nlines, and "quotes"' })
  list = read(file("a.csv", 'text,humor\n"a ""joke""\nin two lines",True\nnews,False\nmore,1\n'), "labels", { label = "humor" })
  T.eq(list, { { prompt = "", text = 'a "joke"\nin two lines', label = 1 }, { prompt = "", text = "news", label = 0 }, { prompt = "", text = "more", label = 1 } })
  list = read(file("a.jsonl", '{"text": "x", "label": 1}\n{"text": "y", "label": false}\n'), "labels")
  T.eq({ list[1].label, list[2].label }, { 1, 0 })
  -- dialogues of HH-RLHF
  local line = json.encode { chosen = "\n\nHuman: a?\n\nAssistant: yes ", rejected = "\n\nHuman: a?\n\nAssistant: no" }
  T.eq(read(file("a.jsonl", line), "pairs"), { { prompt = "\n\nHuman: a? \n\nAssistant:", chosen = "yes", rejected = "no" } })
  list, same = read(file("a.jsonl", line .. "\n" .. line:gsub("yes ", "") .. "\n" .. line:gsub("a%?", "b?", 1)), "pairs")
  T.eq({ #list, same }, { 1, 2 }, "an answer that is nothing, another prompt")
  T.eq(read(file("a.jsonl", line), "answers", { response = "chosen" }), { { prompt = "\n\nHuman: a? \n\nAssistant:", response = "yes" } })
  local gz = file("b.jsonl", line .. "\n")
  assert(os.execute("gzip -f " .. child.quote(gz)))
  T.eq(#read(gz .. ".gz", "pairs"), 1)
end)

T.test("rows that are wrong are named by their line", function()
  local function bad(pattern, name, text, kind, columns)
    T.raises(pattern, read, file(name, text), kind, columns)
  end
  bad("a.csv:3: no column 'chosen' %(it has prompt, rejected%); columns.NAME=COLUMN names another", "a.csv", "prompt,rejected\n\na,b\n", "pairs")
  bad("a.csv:4: 3 fields, the first row has 2", "a.csv", 'text,label\n"a\nb",1\nc,0,x\n', "labels")
  bad("a.csv:2: unterminated quote", "a.csv", 'text,label\n"a,1\n', "labels")
  bad("a.csv:3: the label 'label' is maybe; 0 or 1, false or true are expected", "a.csv", "text,label\na,1\nb,maybe\n", "labels")
  bad("a.csv:2: 'text' is empty", "a.csv", "text,label\n ,1\n", "labels")
  bad("a.jsonl:2: column 7: ", "a.jsonl", '{"text": "a", "label": 1}\n{"text"\n', "labels")
  bad("a.jsonl:1: 'text' is a number, not a text", "a.jsonl", '{"text": 3, "label": 1}', "labels")
  bad("a.jsonl:1: no column 'label'", "a.jsonl", '{"text": "a"}', "labels")
  bad("a.jsonl:1: an object expected", "a.jsonl", "3", "labels")
  bad("a.jsonl:1: an object expected", "a.jsonl", '["a", "b"]', "labels")
  bad("a.csv:2: 'text' is not UTF%-8", "a.csv", "text,label\na\xff,1\n", "labels")
  bad("a.jsonl:1: there is no column 'prompt', and 'chosen' is no dialogue", "a.jsonl", '{"chosen": "a", "rejected": "b"}', "pairs")
  bad("a.txt: the name of a file of rows ends in .jsonl or .csv", "a.txt", "x", "pairs")
end)

-- ---- figures ----

T.test("perplexity: of a model that gives all tokens alike it is their number, and the interval is that of a ratio", function()
  local model = small.model {}
  for _, pair in ipairs(model:named_parameters()) do
    if pair[1] == "lm_head.weight" then
      pair[2]:copy_(pair[2] * 0)
    end
  end
  local losses = lm.losses(model, { { 1, 2 }, { 3 }, { 4 } }, { { 5, 6, 7 }, { 8 }, { 9, 10 } }, 2)
  T.eq({ losses[1][2], losses[2][2], losses[3][2] }, { 3, 1, 2 })
  local p = lm.perplexity(losses)
  T.near({ p.perplexity, p.low, p.high }, { 29, 29, 29 }, 1e-5)
  T.eq({ p.rows, p.tokens }, { 3, 6 })
  local other, prompts, responses = small.model { key = 3 }, { { 1, 2 }, { 3 }, { 4 } }, { { 5, 6, 7 }, { 8 }, { 9, 10 } }
  T.near(math.log(lm.perplexity(lm.losses(other, prompts, responses, 2)).perplexity), lm.evaluate(other, prompts, responses, 3), 1e-6)
  -- by hand: mean 10 / 5 = 2, residuals -1 and 1, so that the error is sqrt(2 / 1 * 2) / 5
  p = lm.perplexity { { 3, 2 }, { 7, 3 } }
  local half = 1.959963984540054 * 2 / 5
  T.near({ p.perplexity, p.low, p.high }, { math.exp(2), math.exp(2 - half), math.exp(2 + half) }, 1e-12)
  p = lm.perplexity { { 3, 2 } }
  T.eq(p, { perplexity = math.exp(1.5), rows = 1, tokens = 2 }, "one row has no interval")
end)

-- ---- runs ----

local function run(recipe, dir, ...)
  local list = { "recipes/" .. recipe .. ".lua", "preset=smoke", "quiet=true", "out=" .. dir }
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return child.mocl(list)
end

local function must(recipe, dir, ...)
  local out, err, status = run(recipe, dir, ...)
  T.eq(status, 0, out .. err)
  return out, assert(json.load(dir .. "/result.json")), err
end

local function fresh()
  return T.tmpdir() .. "/run"
end

local function refused(recipe, text, ...)
  local dir = fresh()
  local out, err, status = run(recipe, dir, ...)
  T.eq(status, 1, out .. err)
  T.ok(err:find(text, 1, true), err)
  T.ok(not err:find("traceback", 1, true), err)
  T.eq(fs.exists(dir), nil, "no directory is left: " .. text)
end

local function rows_file(name, f, n)
  local lines = {}
  for i = 1, n or 80 do
    lines[i] = json.encode(f(i))
  end
  return file(name, table.concat(lines, "\n") .. "\n")
end

local pairs_file, humor_file
local function pairs_of()
  pairs_file = pairs_file or rows_file("pairs.jsonl", function(i)
    return { prompt = ("question %d?"):format(i), chosen = "a good answer " .. i % 9, rejected = "no " .. i % 5, response = "a good answer " .. i % 9 }
  end)
  return pairs_file
end

local function humor_of()
  if not humor_file then
    local lines = { "text,humor" }
    for i = 1, 80 do
      lines[#lines + 1] = i % 2 == 0 and ('"a joke, ""%d""\nhaha",True'):format(i) or ("plain news %d,False"):format(i)
    end
    humor_file = file("humor.csv", table.concat(lines, "\r\n") .. "\r\n")
  end
  return humor_file
end

-- a small language model with its tokenizer, in a directory
local function model()
  local dir, texts = T.tmpdir() .. "/model", {}
  for i = 1, 40 do
    texts[i] = ("question %d? a good answer %d no"):format(i, i)
  end
  local tok = tokenizer.train(texts, { vocab_size = 300, special_tokens = { "<s>", "</s>" } })
  assert(transformer.save(small.model { config = { vocab_size = tok:vocab_size(), max_position_embeddings = 256 } }, dir, { eos_token_id = tok:eos_id() }))
  assert(tok:save(dir))
  return dir
end

local LEARN = { "reward.steps=60", "reward.lr=1e-2", "reward.batch_size=8", "save_every=1000" }

T.test("reward_model: a small model learns pairs by Bradley-Terry; its accuracy is that of its directory as a reward", function()
  local dir = fresh()
  local out, result = must("reward_model", dir, "data=" .. pairs_of(), table.unpack(LEARN))
  T.ok(out:find "held%-out accuracy 1.0000 %(95%%: 0.67%d+ to 1.0000, 8 rows%)", out)
  T.eq({ result.accuracy.accuracy, result.accuracy.n, result.rows.train, result.template }, { 1, 8, 72, "helpful" })
  local f = assert(reward_directory.load(dir .. "/reward_model"))
  T.eq(f.name, "helpful")
  local s = f({ "question 500?", "question 500?" }, { " a good answer 3", " no 3" })
  T.ok(s[1] > s[2] + 1, "the rule is learnt")
  T.ok(must("reward_model", dir, "data=" .. pairs_of(), table.unpack(LEARN)):find("holds this run, complete", 1, true))
end)

T.test("reward_model: texts with a label from csv, as humour is", function()
  local dir = fresh()
  local _, result = must("reward_model", dir, "data=" .. humor_of(), "template=humor", "columns.label=humor", table.unpack(LEARN))
  T.eq({ result.accuracy.accuracy, result.template }, { 1, "humor" })
  local f = assert(reward_directory.load(dir .. "/reward_model"))
  local s = f({ "x", "x" }, { 'a joke, "9"\nhaha', "plain news 7" })
  T.ok(s[1] > s[2], "a joke is worth more")
  local config = assert(json.load(dir .. "/reward_model/config.json"))
  T.eq({ config.architectures, config.id2label["1"] }, { { "LlamaForSequenceClassification" }, "LABEL_1" })
end)

T.test("reward_model: from a language model, an encoder and a model with a head; with an adapter the weights move, merged", function()
  local golden, lm_dir = rewards.load(), model()
  local from = { [lm_dir] = "LlamaForSequenceClassification" }
  from[rewards.directory(golden, "encoder", T.tmpdir() .. "/encoder")] = "BertForSequenceClassification"
  from[rewards.directory(golden, "gpt2", T.tmpdir() .. "/gpt2")] = "GPT2ForSequenceClassification"
  for init, class in pairs(from) do
    for _, r in ipairs { 0, 2 } do
      local dir = fresh()
      must("reward_model", dir, "model=" .. init, "data=" .. pairs_of(), "lora.r=" .. r, "min_accuracy=0")
      T.eq(assert(json.load(dir .. "/reward_model/config.json")).architectures, { class })
      local before = assert(classifier.load(fs.exists(dir .. "/start") and dir .. "/start" or init))
      local after = assert(classifier.load(dir .. "/reward_model"))
      local moved = { head = false, block = false, embedding = false }
      for i, pair in ipairs(after.model:named_parameters()) do
        local same = fs.sha256_text(json.encode(pair[2]:totable())) == fs.sha256_text(json.encode(before.model:named_parameters()[i][2]:totable()))
        local part = pair[1]:find "embed" and "embedding" or pair[1]:find "q_proj.weight" and "block" or "none"
        moved[part] = moved[part] or not same
      end
      moved.head = after.layers[#after.layers].weight:totable()[1][1] ~= before.layers[#before.layers].weight:totable()[1][1]
      T.eq({ moved.head, moved.block, moved.embedding }, { true, true, r == 0 }, class .. ", lora.r=" .. r)
      for _, name in ipairs { "tokenizer.json", "mocl_reward.json" } do
        T.eq(fs.exists(dir .. "/reward_model/" .. name), "file", name)
      end
    end
  end
end)

T.test("sft: the perplexity falls, with an adapter and without, from a directory and from a GGUF file", function()
  local init = model()
  local gguf = T.tmpdir() .. "/model.gguf"
  local plain = assert(transformer.load(init))
  assert(transformer.save_gguf(plain, gguf))
  for _, words in ipairs { { "model=" .. init, "lora.r=4" }, { "model=" .. init, "lora.r=0" }, { "model=" .. gguf, "tokenizer=" .. init .. "/tokenizer.json" } } do
    local dir = fresh()
    local out, result = must("sft", dir, "data=" .. pairs_of(), "sft.steps=30", "sft.lr=1e-2", "chat=none", table.unpack(words))
    T.ok(out:find("held%-out perplexity %S+ %(95%%: %S+ to %S+, 8 rows, %d+ tokens%), before "), out)
    T.ok(result.perplexity.perplexity < .7 * result.before.perplexity, out)
    T.ok(result.perplexity.low < result.perplexity.perplexity and result.perplexity.perplexity < result.perplexity.high)
    T.eq(fs.exists(dir .. "/sft-adapter/adapter_config.json"), words[2] ~= "lora.r=0" and "file" or nil)
    T.ok(tokenizer.load(dir .. "/sft"))
    if words[2] == "lora.r=4" then -- base and adapter are the merged model
      local lora = require "mocl.lm.lora"
      local both = assert(transformer.load(init))
      assert(lora.load(both, dir .. "/sft-adapter"))
      both:merge_lora()
      T.eq(both:hash(), transformer.load(dir .. "/sft"):hash())
    end
  end
  local dir = fresh()
  local _, result = must("sft", dir, "data=" .. pairs_of())
  T.eq(result.before, nil)
  T.eq({ result.rows.train, result.rows.held_out, result.rows.left_out }, { 72, 8, 0 })
end)

T.test("sft: a single row that is held out has a perplexity and no interval", function()
  local dir = fresh()
  local out, result = must("sft", dir, "data=" .. rows_file("five.jsonl", function(i)
    return { prompt = "question " .. i, response = "answer " .. i }
  end, 5))
  T.ok(out:find("^held%-out perplexity %S+ %(no interval of a single row, 1 rows, %d+ tokens%)\n"), out)
  T.eq({ result.perplexity.low, result.perplexity.rows }, { nil, 1 })
end)

T.test("a run that was interrupted and continued has the bytes of one that was not", function()
  for recipe, words in pairs { sft = { "data=" .. pairs_of(), "model=" .. model() }, reward_model = { "data=" .. humor_of(), "template=humor",
    "columns.label=humor", "min_accuracy=0" } } do
    local first, dir, main = fresh(), fresh(), recipe == "sft" and "sft" or "reward_model"
    must(recipe, first, table.unpack(words))
    local hook = ([[local s = require "mocl.lm.supervised"; local step, n = getmetatable(setmetatable({}, {})), 0
      local new = s.new; s.new = function(o) local t = new(o); local take = t.step; t.step = function(self) n = n + 1
        if n == 3 then os.exit(9) end return take(self) end return t end]])
    local list = { "-e", hook, "recipes/" .. recipe .. ".lua", "preset=smoke", "quiet=true", "out=" .. dir }
    table.move(words, 1, #words, #list + 1, list)
    local _, err, status = child.mocl(list)
    T.eq(status, 9, err)
    must(recipe, dir, "resume=auto", table.unpack(words))
    local a, b = run_files(first, { "/config.lua" }), run_files(dir, { "/config.lua" })
    T.ok(a["/" .. main .. "/model.safetensors"])
    for name, hash in pairs(a) do
      T.eq(b[name], hash, recipe .. name)
    end
  end
end)

T.test("test=: rows of another file, whose prompts are not trained on", function()
  local test = rows_file("test.jsonl", function(i)
    return { prompt = (" question  %d?"):format(i), chosen = "a good answer", rejected = "no" }
  end, 10)
  local _, result = must("reward_model", fresh(), "data=" .. pairs_of(), "test=" .. test, "min_accuracy=0")
  T.eq(result.rows, { train = 70, held_out = 10, left_out = 10 })
end)

T.test("what cannot be is refused before there is a directory", function()
  refused("sft", "data= names the file of rows to train on", "seed=1")
  refused("sft", "data=/nope.jsonl: ", "data=/nope.jsonl")
  refused("sft", "ends in .jsonl or .csv", "data=/nope.txt")
  refused("sft", "model.hidden_size=18 / model.heads=6 = 3 must be even", "data=" .. pairs_of(), "model.hidden_size=18", "model.heads=6")
  refused("sft", "init=/nope/config.json: ", "data=" .. pairs_of(), "model=/nope")
  refused("sft", "model.layers: with init= there is no base model", "data=" .. pairs_of(), "model=" .. model(), "model.layers=2")
  refused("sft", "chat= needs model=", "data=" .. pairs_of(), "chat=chatml")
  refused("reward_model", "no column 'label'", "data=" .. humor_of(), "template=humor")
  refused("reward_model", "the label 'chosen' is a good answer 1; 0 or 1", "data=" .. pairs_of(), "template=faithful", "columns.label=chosen")
  refused("reward_model", "option template: expected one of", "data=" .. pairs_of(), "template=x")
  refused("reward_model", "all 5 rows to train on have the label 1; a model learns nothing from one label alone", "template=humor",
    "data=" .. rows_file("one.jsonl", function(i) return { text = "t" .. i, label = 1 } end, 6))
  refused("sft", "0 rows are left to train on and 80 to test with (test=" .. pairs_of() .. ")", "data=" .. pairs_of(), "test=" .. pairs_of(),
    "columns.response=chosen")
  refused("reward_model", "a GGUF file; the directory of a model is expected", "data=" .. pairs_of(), "model=/x.gguf")
  refused("reward_model", "1 rows are left to train on and 1 to test with", "data=" .. rows_file("few.jsonl", function(i)
    return { prompt = "p" .. i, chosen = "a", rejected = "b" }
  end, 2), "held_out=0.5")
end)

T.test("weights that are not finite are named, without a traceback", function()
  local dir, name = T.tmpdir() .. "/nan", "model.norm.weight"
  assert(os.execute(("cp -a '%s' '%s'"):format(model(), dir)))
  local tensors = assert(safetensors.load(dir .. "/model.safetensors"))
  for key, t in pairs(tensors) do
    tensors[key] = t:clone()
  end
  tensors[name] = tensors[name] * (0 / 0)
  assert(safetensors.save(dir .. "/model.safetensors", tensors))
  local out, err, status = run("sft", fresh(), "data=" .. pairs_of(), "columns.response=chosen", "model=" .. dir)
  T.eq({ out, status }, { "", 1 })
  T.ok(err:find(("init=%s/model.safetensors: tensor '%s' is not finite"):format(dir, name), 1, true) and not err:find "traceback", err)
end)

T.test("classifier_files: a head that is drawn, and what is left of a language model", function()
  local dir, init = T.tmpdir() .. "/c", model()
  assert(classifier_files.convert(init, dir, { labels = 2, key = 7, pad_id = 1 }))
  T.eq({ classifier_files.has_head(dir), classifier_files.has_head(init) }, { true, false })
  local tensors, before = assert(safetensors.load(dir .. "/model.safetensors")), assert(safetensors.load(init .. "/model.safetensors"))
  T.eq(tensors["lm_head.weight"], nil)
  T.eq(tensors["score.weight"].shape, { 2, 12 })
  for name, t in pairs(before) do
    T.eq(name == "lm_head.weight" or tensors[name]:totable()[1], name == "lm_head.weight" or t:totable()[1], name)
  end
  T.eq(assert(json.load(dir .. "/config.json")).pad_token_id, 1)
  local c = assert(classifier.load(dir))
  c.model:add_lora { r = 2 }
  T.raises("has an adapter; merge it first", classifier_files.save, c, dir)
end)

T.test("moc_hh takes what the two recipes make", function()
  local sft, reward, humor, dir = fresh(), fresh(), fresh(), fresh()
  must("sft", sft, "data=" .. pairs_of(), "model=" .. model())
  must("reward_model", reward, "data=" .. pairs_of(), "min_accuracy=0")
  must("reward_model", humor, "data=" .. humor_of(), "template=humor", "columns.label=humor", "min_accuracy=0")
  local lines = {}
  for i = 1, 20 do
    lines[i] = ("question %d?"):format(i)
  end
  local out = must("moc_hh", dir, "model=" .. sft .. "/sft", "reward.mine=" .. reward .. "/reward_model", "reward.funny=" .. humor .. "/reward_model",
    "prompts=" .. file("prompts.txt", table.concat(lines, "\n")), "ppo.batch_size=4", "ppo.ppo_epochs=1", "moc.iterations=2", "eval.answers=2",
    "eval.unseen_answers=0", "ppo.max_new_tokens=3")
  T.ok(out:find("report: ", 1, true), out)
  T.eq(assert(json.load(dir .. "/result.json")).objectives, { "mine", "funny" })
end)
