-- recipes/moc_hh.lua with a model and reward models from directories: model=, reward.NAME=, template=, chat=

local T = require "t"
local child = require "child"
local config = require "mocl.run.config"
local data = require "mocl.data"
local fs = require "mocl.fs"
local hh = require "fixtures.hh"
local json = require "mocl.json"
local lm = require "mocl.lm.sft"
local own_model = require "mocl.lm.own_model"
local rewards = require "fixtures.rewards.rewards"
local safetensors = require "mocl.safetensors"
local small = require "fixtures.llama.small"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

local golden = rewards.load()

local made = {}
-- the directory of a reward model; "other": gpt2 with another head
local function judge(name)
  if not made[name] then
    made[name] = rewards.directory(golden, name == "other" and "gpt2" or name, T.tmpdir() .. "/" .. name)
    if name == "other" then
      local path = made[name] .. "/model.safetensors"
      local tensors = assert(safetensors.load(path))
      tensors["score.weight"] = tensors["score.weight"] * -2
      assert(safetensors.save(path, tensors))
    end
  end
  return made[name]
end

local hh_dir
local function hh_files()
  hh_dir = hh_dir or hh.write(T.tmpdir())
  return hh_dir
end

-- a small model with its tokenizer; template: the text of a chat template in its files
local function model(template)
  local dir = T.tmpdir() .. "/model"
  local tok = hh.tokenizer()
  local shape = { vocab_size = tok:vocab_size() + 3, max_position_embeddings = 256 }
  assert(transformer.save(small.model { config = shape }, dir, { eos_token_id = 2 }))
  assert(tok:save(dir))
  assert(fs.write(dir .. "/tokenizer_config.json", json.encode { bos_token = "<|endoftext|>", eos_token = "<|im_end|>", chat_template = template,
    tokenizer_class = "PreTrainedTokenizerFast" }))
  return dir
end

local CHATML = "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
  .. "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"

local function run(dir, ...)
  local list = { "recipes/moc_hh.lua", "preset=smoke", "quiet=true", "out=" .. dir, "sft.steps=1", "sft.batch_size=2", "ppo.batch_size=4",
    "ppo.ppo_epochs=2", "moc.iterations=2", "moc.save_every=1", "eval.answers=2", "eval.unseen_answers=0", "ppo.max_new_tokens=3" }
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return child.mocl(list)
end

local function must(dir, ...)
  local out, err, status = run(dir, ...)
  T.eq(status, 0, out .. err)
  return out, err
end

local function fresh()
  return T.tmpdir() .. "/run"
end

local function refused(text, ...)
  local dir = fresh()
  local out, err, status = run(dir, ...)
  T.eq(status, 1, out .. err)
  T.ok(err:find(text, 1, true), err)
  T.ok(not err:find("traceback", 1, true), err)
  T.eq(fs.exists(dir), nil, "no directory is left: " .. text)
end

T.test("the command of the paper's setting: a model, two reward models, data; the objectives are those that have one", function()
  local init, dir = model(), fresh()
  local words = { "model=" .. init, "reward.helpful=" .. judge "gpt2", "reward.harmless=" .. judge "other", "data=" .. hh_files() }
  must(dir, table.unpack(words))
  local cfg, result = assert(config.load(dir .. "/config.lua")), assert(json.load(dir .. "/result.json"))
  T.eq({ cfg.objectives, cfg.init, cfg.reward.helpful }, { { "helpful", "harmless" }, init, judge "gpt2" })
  T.eq(result.objectives, { "helpful", "harmless" })
  T.eq(fs.exists(dir .. "/reward-helpful"), nil, "no reward model is trained")
  T.ok(not result.reward_models.helpful)
  local inputs = assert(json.load(dir .. "/env.json")).inputs
  for _, path in ipairs { init .. "/model.safetensors", judge "gpt2" .. "/model.safetensors", judge "gpt2" .. "/tokenizer.json" } do
    T.eq(inputs[path], fs.sha256(path), path)
  end
  -- the rewards in samples.jsonl are those of the directories, for the plain prompts
  local f = assert(require("mocl.lm.reward_directory").load(judge "gpt2", { objective = "helpful" }))
  local statistics = assert(json.load(dir .. "/stages.json"))["sft-answers"].result.statistics
  local sample = data.read_jsonl(dir .. "/samples.jsonl")[1]
  local g = assert(require("mocl.lm.reward_directory").load(judge "other", { objective = "harmless" }))
  local raw = { f({ sample.prompt }, { sample.response })[1], g({ sample.prompt }, { sample.response })[1] }
  T.ok(raw[1] ~= raw[2])
  T.near(sample.rewards, require("mocl.lm.policy").normalize(raw, statistics), 1e-6)
  T.ok(must(dir, table.unpack(words)):find("holds this run, complete", 1, true))
  -- another reward model is another run
  table.insert(words, "resume=auto")
  words[2] = "reward.helpful=" .. judge "bert"
  local _, err, status = run(dir, table.unpack(words))
  T.eq(status, 1)
  T.ok(err:find("the head has 2", 1, true), err)
  words[2] = "reward.helpful=" .. judge "gpt2-pad"
  _, err, status = run(dir, table.unpack(words))
  T.eq(status, 1)
  T.ok(err:find("reward.helpful: " .. judge "gpt2" .. " there, " .. judge "gpt2-pad" .. " now", 1, true), err)
end)

T.test("a run with reward models in directories goes on after an interruption, with the same bytes", function()
  local init, first, dir = model(), fresh(), fresh()
  local words = { "model=" .. init, "reward.helpful=" .. judge "gpt2", "reward.on_topic=" .. judge "encoder", "data=" .. hh_files(), "sft.steps=0" }
  must(first, table.unpack(words))
  T.eq(transformer.load(first .. "/sft"):hash(), transformer.load(init):hash(), "sft.steps=0: the model as it is")
  assert(os.execute(("cp -a '%s' '%s'"):format(first, dir)))
  for _, name in ipairs { "result.json", "timing.json", "report.html", "front.svg" } do
    fs.remove(dir .. "/" .. name)
  end
  table.insert(words, "resume=auto")
  must(dir, table.unpack(words))
  for _, name in ipairs { "result.json", "samples.jsonl", "last/adapter_model.safetensors" } do
    T.eq(fs.sha256(dir .. "/" .. name), fs.sha256(first .. "/" .. name), name)
  end
end)

T.test("template=: for one reward model, or for all that nothing is said for; decimals", function()
  local init, dir = model(), fresh()
  must(dir, "model=" .. init, "reward.mine=" .. judge "gpt2", "reward.humor=" .. judge "distilbert", "template=mine:helpful", "data=" .. hh_files(),
    "sft.steps=0", "reward.decimals=1")
  local list = assert(json.load(dir .. "/stages.json"))["sft-answers"].result.start
  for _, row in ipairs(list) do
    T.near(row[1] * 10, math.floor(row[1] * 10 + .5), 1e-9)
  end
  must(fresh(), "model=" .. init, "reward.helpful=" .. judge "gpt2", "template=helpful", "data=" .. hh_files(), "sft.steps=0")
end)

T.test("what cannot be is refused before there is a directory", function()
  local init = model()
  local function no(text, ...)
    refused(text, "model=" .. init, "data=" .. hh_files(), ...)
  end
  no("reward.helpful=/nowhere: No such file or directory", "reward.helpful=/nowhere")
  no("reward.helpful=" .. init .. ": holds a language model (LlamaForCausalLM), which has no head for classification", "reward.helpful=" .. init)
  no("the template 'helpful' takes the label of 1, the head has 2", "reward.helpful=" .. judge "distilbert")
  no("how its model reads a prompt and an answer is not known; template= names one of faithful", "reward.mine=" .. judge "gpt2")
  no("template: no template 'helpfull' (did you mean 'helpful'?)", "reward.mine=" .. judge "gpt2", "template=mine:helpfull")
  no("template=other:helpful: there is no reward.other=DIR", "reward.helpful=" .. judge "gpt2", "template=other:helpful")
  no("template=helpful: there is no reward.NAME=DIR that it could be for; leave it out", "template=helpful")
  no("template=helpful,summary: two for all reward models", "reward.helpful=" .. judge "gpt2", "template=helpful,summary")
  no("reward.stpes=3: there is no objective 'stpes' (did you mean 'reward.steps'?)", "reward.stpes=3", "objectives=helpful,harmless")
  no("reward.helpful=" .. judge "gpt2" .. ": there is no objective 'helpful'", "reward.helpful=" .. judge "gpt2", "objectives=harmless")
  no("option reward.helpful: is empty", "reward.helpful=")
  no("an encoder of sentences compares answer and prompt; it has no template", "reward.helpful=" .. judge "encoder", "template=helpful")
  refused("chat= needs model=", "chat=none")
  no("no template 'chatlm' (did you mean 'chatml'?)", "chat=chatlm", "reward.helpful=" .. judge "gpt2")
  local functions = T.tmpdir() .. "/r.lua"
  assert(fs.write(functions, "return { helpful = function(p, r) return {} end }"))
  no("rewards=" .. functions .. " has a function 'helpful' too", "reward.helpful=" .. judge "gpt2", "rewards=" .. functions)
  no("rewards=" .. functions, "reward.helpful=" .. judge "gpt2", "rewards=" .. functions)
  -- a model for chats whose template nobody knows
  refused("chat=auto: ", "model=" .. model "{{ something }}", "reward.helpful=" .. judge "gpt2", "data=" .. hh_files())
end)

local DIALOGUE = "\n\nHuman: a question? \n\nAssistant: an answer\n\nHuman: another? \n\nAssistant:"

T.test("messages of a dialogue", function()
  T.eq(data.messages(DIALOGUE), { { role = "user", content = "a question?" }, { role = "assistant", content = "an answer" },
    { role = "user", content = "another?" } })
  T.eq(data.dialogue(data.messages(DIALOGUE)):gsub("%s+", " "), DIALOGUE:gsub("%s+", " "))
  T.eq(data.messages "no dialogue", { { role = "user", content = "no dialogue" } })
  T.eq(data.messages "\n\nHuman: without an end", { { role = "user", content = "\n\nHuman: without an end" } })
  T.eq(data.messages "be kind\n\nHuman: a\n\nHuman: b\n\nAssistant:", { { role = "system", content = "be kind" },
    { role = "user", content = "a\n\nb" } })
  T.eq(data.messages "\n\nHuman: a\n\nAssistant: b \n\nAssistant:", { { role = "user", content = "\n\nHuman: a\n\nAssistant: b \n\nAssistant:" } })
end)

T.test("chat: the prompts of an instruct model are chats by its template, with the tags in the user's first message", function()
  local dir = model(CHATML)
  local tok = assert(tokenizer.load(dir))
  local function prompt(text, word)
    lm.write_as_chat(tok, own_model.chat({ init = dir, chat = word or "auto", tokenizer = { path = "" } }, tok))
    local ids = lm.prompt(tok, text)
    T.eq(lm.prompts(tok, { text }):totable(), { ids })
    return tok:decode(ids, { skip_special = false })
  end
  T.eq(prompt("<R1> 0.30 <R2> 0.70 " .. DIALOGUE), "<|im_start|>user\n<R1> 0.30 <R2> 0.70 a question?<|im_end|>\n<|im_start|>assistant\nan answer<|im_end|>\n"
    .. "<|im_start|>user\nanother?<|im_end|>\n<|im_start|>assistant\n")
  T.eq(prompt "hello", "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n")
  T.eq(prompt("hello", "chatml"), prompt "hello")
  local _, responses = lm.encode(tok, { { prompt = "hello", response = " good" } })
  T.eq(tok:decode(responses[1]), "good")
  T.eq(prompt("hello", "none"):find "im_start", nil)
  _, responses = lm.encode(tok, { { prompt = "hello", response = " good" } })
  T.eq(tok:decode(responses[1]), " good")
  -- Llama 3.2's template holds the day: it is the same every day
  T.raises("day of the call", function()
    return require("mocl.lm.chat").apply("llama-3.2", { { role = "user", content = "a" } })
  end)
  local template = own_model.chat({ init = dir, chat = "llama-3.2", tokenizer = { path = "" } }, tok)
  T.ok(template({ { role = "user", content = "a" } }, { add_generation_prompt = true }):find("Today Date: 26 Jul 2024", 1, true))
end)

T.test("chat: a run's SFT model and policy are trained on the chats", function()
  local init = model(CHATML)
  local hashes = {}
  for _, word in ipairs { "auto", "chatml", "none" } do
    local dir = fresh()
    must(dir, "model=" .. init, "reward.helpful=" .. judge "gpt2", "data=" .. hh_files(), "chat=" .. word)
    hashes[word] = fs.sha256(dir .. "/sft/model.safetensors")
  end
  T.eq(hashes.auto, hashes.chatml)
  T.ok(hashes.auto ~= hashes.none)
end)
