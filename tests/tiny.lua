--- tiny: language models of some hundred weights, with tokenizer, prompts and rewards, for runs of recipes/moc_hh.lua
-- whose answer is known (test_known.lua) or was computed elsewhere (test_golden.lua).

local fs = require "mocl.fs"
local json = require "mocl.json"
local small = require "fixtures.llama.small"
local tensor = require "mocl.tensor"
local transformer = require "mocl.lm.model"

local tiny = {}

-- A tokenizer.json whose ids are the places of the tokens in a list, from 0. The first two are `<s>` and `</s>`; those
-- of more than one character are added tokens, which are found in a text before anything else.
local function tokenizer(tokens)
  local vocab, added = {}, {}
  for i, token in ipairs(tokens) do
    vocab[token] = i - 1
    if i <= 2 or #token > 1 then
      added[#added + 1] = { id = i - 1, content = token, special = i <= 2, single_word = false, lstrip = false, rstrip = false,
        normalized = false }
    end
  end
  return json.encode { version = "1.0", added_tokens = added, model = { type = "BPE", vocab = vocab, merges = json.array {} },
    decoder = { type = "Fuse" } }
end

-- The files of a run: Hugging Face's of the model, a tokenizer and twelve prompts of two letters.
local function write(dir, model, tokens)
  assert(transformer.save(model, dir, { bos_token_id = 0, eos_token_id = 1 }))
  assert(fs.write(dir .. "/tokenizer.json", tokenizer(tokens)))
  local prompts = {}
  for x in ("uvw"):gmatch "." do
    for y in ("uvwc"):gmatch "." do
      prompts[#prompts + 1] = x .. y
    end
  end
  assert(fs.write(dir .. "/prompts.txt", table.concat(prompts, "\n") .. "\n"))
end

-- ---- a run whose answer is known ----

tiny.ANSWER = 4 -- tokens of an answer

local TAGS = 11 -- weights that a tag can show: 0.00, 0.10 ... 1.00

--- Files in dir for a run, in which two rewards pay for one token each, `a` and `b`, by the share of the answer's
-- tokens that they are. A tag is one token, whose embedding grows along a direction of its own with the weight it
-- shows, and attention begins as the mean over all tokens: the policy sees p and has to learn what to make of it. o.scores: the
-- tags of scores that recipes/ric.lua shows are tokens too; o.words: these texts are, {text, a, b} with embeddings that are a and b
-- along the two directions.
function tiny.known(dir, o)
  local tokens, width = { "<s>", "</s>", "a", "b", "c", "u", "v", "w" }, 16
  local letters, constant = #tokens, 3 -- the place of an entry of the residual stream that nothing writes to
  local along = {} -- what embeddings are along the two directions
  local function word(text, x, y)
    tokens[#tokens + 1] = text
    along[#tokens] = { x, y }
  end
  for j = 1, 2 do
    for i = 0, TAGS - 1 do
      word(("<R%d> %.2f "):format(j, i / 10), j == 1 and 4 * i / 10 or 0, j == 2 and 4 * i / 10 or 0)
    end
    for i = -99, o and o.scores and 99 or -100 do
      word(("<rm%d_score> %.1f "):format(j, i / 10), j == 1 and i / 5 or 0, j == 2 and i / 5 or 0)
    end
  end
  for _, w in ipairs(o and o.words or {}) do
    word(table.unpack(w))
  end
  local model = transformer.new({ vocab_size = #tokens, hidden_size = width, num_hidden_layers = 1, num_attention_heads = 2,
    intermediate_size = 2 * width, max_position_embeddings = 64 }, { key = 1 })
  local function change(name, f)
    for _, pair in ipairs(model:named_parameters()) do
      if pair[1]:find(name, 1, true) then
        local rows = pair[2]:totable()
        for i, row in ipairs(rows) do
          f(i, row)
        end
        tensor.no_grad(pair[2].copy_, pair[2], tensor.new(rows))
      end
    end
  end
  local drawn = tensor.randn({ #tokens, width }, { key = 1, stream = 1 }):totable()
  change("embed_tokens", function(i, row)
    for d = 1, width do
      row[d] = i <= letters and d > constant and drawn[i][d] or 0
    end
    row[constant] = 3
    if along[i] then
      row[1], row[2] = along[i][1], along[i][2]
    end
  end)
  change("q_proj", function(_, row)
    for d = 1, width do
      row[d] = 0
    end
  end)
  for _, name in ipairs { "o_proj", "down_proj" } do
    change(name, function(i, row)
      for d = 1, i == constant and #row or 0 do
        row[d] = 0
      end
    end)
  end
  change("lm_head", function(i, row) -- of the answers: letters a, b, c and the end, hardly anything else
    local answers = i > 1 and i <= 5
    for d = 1, width do
      row[d] = answers and d ~= constant and row[d] or 0
    end
    row[constant] = answers and 0 or -3
  end)
  write(dir, model, tokens)
  assert(fs.write(dir .. "/rewards.lua", ([[
local function share_of(letter)
  return function(prompts, responses)
    local scores = {}
    for i, text in ipairs(responses) do
      scores[i] = select(2, text:gsub(letter, "")) / %d
    end
    return scores
  end
end
return { a = share_of "a", b = share_of "b" }
]]):format(tiny.ANSWER)))
end

-- ---- a run that PyTorch computes too ----

local CHARACTERS = { "<s>", "</s>", "<", "R", ">", " ", ".", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "a", "b", "c", "u",
  "v", "w" }

--- Files in dir for tests/fixtures/moc: two blocks, grouped queries, weights that are hashed from their names, a token
-- a character. The rewards count digits, letters and characters; that of letters needs the prompts too, which have
-- two.
function tiny.golden(dir)
  local model = small.fixture_model { config = { vocab_size = #CHARACTERS, hidden_size = 8, num_hidden_layers = 2,
    num_attention_heads = 2, num_key_value_heads = 1, intermediate_size = 12, max_position_embeddings = 40 } }
  write(dir, model, CHARACTERS)
  assert(fs.write(dir .. "/rewards.lua", [[
local function each(f)
  return function(prompts, responses)
    local scores = {}
    for i, text in ipairs(responses) do
      scores[i] = f(text, prompts[i])
    end
    return scores
  end
end
return {
  digits = each(function(text) return select(2, text:gsub("%d", "")) end),
  letters = each(function(text, prompt) return 3 * select(2, text:gsub("%l", "")) - #text / #prompt end),
  length = each(function(text) return -#text end),
}
]]))
end

return tiny
