--- inputs: models and batches the benchmark's cases run on: texts of the embedded task under its own tokenizer, as
-- recipes/moc_hh.lua makes them at its defaults, and random token ids for the larger model.

local deck = require "mocl.deck"
local lm = require "mocl.lm.sft"
local preference = require "mocl.preference"
local rng = require "mocl.rng"
local sources = require "mocl.data.sources"
local tokenizer = require "mocl.tokenizer"

local inputs = {}

--- Sizes of every case; tiny ones run each line of the benchmark in a second and measure nothing.
function inputs.sizes(tiny)
  if tiny then
    return {
      documents = 60, vocab = 320, batch = 4, compared = 2, answers = 3, rollout = 8, new_tokens = 4, decode = 4, decode_batch = 3, hidden = 16,
      default = { hidden_size = 16, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 24, max_position_embeddings = 192 },
      llama = { vocab_size = 64, hidden_size = 24, num_hidden_layers = 2, num_attention_heads = 2, intermediate_size = 32,
        max_position_embeddings = 32, tie_word_embeddings = true },
      llama_batch = 2, llama_tokens = 8, mlp_batch = 4, gemm = { 8 },
    }
  end
  return {
    documents = 8000, vocab = 900, batch = 32, compared = 8, answers = 8, rollout = 128, new_tokens = 26, decode = 64, decode_batch = 64, hidden = 256,
    default = { hidden_size = 64, num_hidden_layers = 2, num_attention_heads = 4, intermediate_size = 176, max_position_embeddings = 96 },
    llama = { vocab_size = 32000, hidden_size = 288, num_hidden_layers = 6, num_attention_heads = 6, intermediate_size = 768,
      max_position_embeddings = 256, tie_word_embeddings = true },
    llama_batch = 4, llama_tokens = 256, mlp_batch = 64, gemm = { 64, 128, 256, 512, 1024 },
  }
end

local function deal(list, r, n, batches)
  local d, out = deck.new(r, list), {}
  for i = 1, batches do
    out[i] = d:deal(n)
  end
  return out
end

--- The embedded task, a tokenizer trained on its documents, and the default model's configuration.
function inputs.task(size)
  local source = sources.assistant { seed = 0, objectives = { "humor", "helpful" }, documents = size.documents, sft = 8,
    comparisons = 64 * size.compared, answers = size.answers, test_pairs = 8 }
  local documents = source.documents(rng.new(0, "documents"))
  local tok = tokenizer.train(documents, { vocab_size = size.vocab, special_tokens = { "<s>", "</s>" } })
  local config = { vocab_size = tok:vocab_size(), tie_word_embeddings = true }
  for key, v in pairs(size.default) do
    config[key] = v
  end
  return { source = source, documents = documents, tok = tok, config = config }
end

--- Batches of documents as the base model's training sees them: {prompts=, responses=} of token ids.
function inputs.documents(task, size, n)
  local rows = {}
  for i = 1, math.min(#task.documents, 40 * size.batch) do
    rows[i] = { response = task.documents[i] }
  end
  local out = {}
  for i, batch in ipairs(deal(rows, rng.new(0, "bench documents"), size.batch, n)) do
    local prompts, responses = lm.encode(task.tok, batch)
    out[i] = { prompts = prompts, responses = responses }
  end
  return out
end

--- Batches of comparisons as a reward model's training sees them (model:collate).
function inputs.comparisons(task, size, model, n)
  local list, out = task.source.pairs "humor", {}
  for i, rows in ipairs(deal(list, rng.new(0, "bench comparisons"), size.compared, n)) do
    out[i] = model:collate(rows)
  end
  return out
end

--- Batches of random ids for the 15M model: each row is one BOS and size.llama_tokens - 1 tokens.
function inputs.ids(size, n)
  local r, out = rng.new(0, "bench ids"), {}
  for i = 1, n do
    out[i] = { prompts = {}, responses = {} }
    for b = 1, size.llama_batch do
      local row = {}
      for k = 1, size.llama_tokens - 1 do
        row[k] = r:integer(3, size.llama.vocab_size - 1)
      end
      out[i].prompts[b], out[i].responses[b] = { 1 }, row
    end
  end
  return out
end

--- Iterations of MOC: what is drawn in lines 2 to 4 of Algorithm 1, with the ids of the texts.
function inputs.iterations(task, size, n)
  local grid = preference.grid(2)
  local prompts = deal(task.source.train_prompts, rng.new(0, "bench prompts"), size.rollout, n)
  local preferences = preference.deck(rng.new(0, "bench preferences"), grid)
  local out = {}
  for i = 1, n do
    local prefs, places = preferences:deal(size.rollout)
    out[i] = { plain = prompts[i], prefs = prefs, places = places, ids = {}, plain_ids = {} }
    for k, prompt in ipairs(prompts[i]) do
      out[i].ids[k] = task.tok:encode(preference.relabel(prompt, prefs[k]), { bos = true })
      out[i].plain_ids[k] = task.tok:encode(prompt, { bos = true })
    end
  end
  return out, grid
end

return inputs
