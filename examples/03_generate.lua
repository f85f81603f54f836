--- 03_generate: a language model from a directory goes on with a text.
--
--   mocl examples/03_generate.lua                       trains a tiny model first, in about a second
--   mocl examples/03_generate.lua DIR [TOKENIZER]       a Hugging Face directory of a Llama

local fs = require "mocl.fs"
local lm = require "mocl.lm.sft"
local rng = require "mocl.rng"
local tokenizer = require "mocl.tokenizer"
local transformer = require "mocl.lm.model"

-- a model that knows four sentences, saved as a directory
local function train(dir)
  local texts = { "the cat sat on the mat", "the dog dug in the sand", "the owl slept in the sun", "a fox ran by" }
  local tok = tokenizer.train(texts, { vocab_size = 300 })
  local model = transformer.new({
    vocab_size = tok:vocab_size(), hidden_size = 32, num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 64,
    max_position_embeddings = 64, tie_word_embeddings = true,
  }, { key = rng.key(0, "model") })
  local rows = {}
  for i, text in ipairs(texts) do
    rows[i] = { prompt = "", response = text } -- the loss is on responses
  end
  local prompts, responses = lm.encode(tok, rows)
  local loss = lm.train { model = model, parameters = transformer.train_base(model), prompts = prompts, responses = responses,
    steps = 150, batch_size = 4, lr = 1e-2, seed = 0, purpose = "example" }
  print(("trained: loss %.2f"):format(loss))
  assert(transformer.save(model, dir))
  assert(tok:save(dir .. "/tokenizer.json"))
end

local dir = arg[1]
if not dir then
  dir = os.tmpname() .. ".model"
  train(dir)
end

local model = assert(transformer.load(dir))
local tok = assert(tokenizer.load(arg[2] or dir))
local config = model:config()
print(("%d layers, width %d, %d tokens of vocabulary"):format(config.num_hidden_layers, config.hidden_size, config.vocab_size))

local prompts = { tok:encode("the dog", { bos = true }), tok:encode("the", { bos = true }), tok:encode("", { bos = true }) }
local made, logp = model:generate(prompts, { max_new_tokens = 20, temperature = 0.7, eos = tok:eos_id(), key = rng.key(1, "texts") })
for i, prompt in ipairs(prompts) do
  local ids = table.move(made.tokens[i], 1, #made.tokens[i], #prompt + 1, table.move(prompt, 1, #prompt, 1, {}))
  print(("%d  %s"):format(i, tok:decode(ids)))
end
print(("%d tokens, mean log-probability %.2f"):format(made.total, logp:mean():item()))

if not arg[1] then
  assert(fs.remove_tree(dir))
end
