--- mocl.lm.encoder_decoder: an encoder, and a decoder that attends to its states, as one model that reads a text with both: the
-- decoder sees the text shifted by one token to the right, as BART's classifiers do.

local options = require "mocl.options"
local tensor = require "mocl.tensor"

local Model = {}
Model.__index = Model

local encoder_decoder = {}

--- encoder_decoder.new(encoder, decoder, start) -> m: two models of mocl.lm.model, of which the second has cross attention; start: the
-- id that the decoder's text begins with. The decoder's embedding becomes the encoder's, one tensor of both.
function encoder_decoder.new(encoder, decoder, start)
  decoder:share_embedding(encoder)
  return setmetatable({ encoder = encoder, decoder = decoder, start = start }, Model)
end

-- The tokens of a batch, each row shifted to the right: the start, then all but its last token.
local function shifted(batch, start)
  local ids, offsets, out = batch.tokens:totable(), batch.offsets:totable(), {}
  for row = 1, #offsets - 1 do
    local first, last = offsets[row] + 1, offsets[row + 1]
    if last >= first then
      out[first] = start
      table.move(ids, first, last - 1, first + 1, out)
    end
  end
  return tensor.new(out, { dtype = "i32", device = batch.tokens.device })
end

--- m:forward(batch, {rows=, adapter=}) -> states of the decoder [T, D], or [n, D] of the n tokens of rows, as model:forward.
-- Differentiable in both models' weights.
function Model:forward(batch, opts)
  opts = options.check("forward", opts or {}, {}, { "rows", "adapter" })
  local states = self.encoder:forward(batch)
  local text = { tokens = shifted(batch, self.start), positions = batch.positions, offsets = batch.offsets, n = batch.n, total = batch.total }
  return self.decoder:forward(text, { rows = opts.rows, encoder_hidden_states = states, encoder_offsets = batch.offsets })
end

function Model:device()
  return self.encoder:device()
end

function Model:dtype()
  return self.encoder:dtype()
end

--- m:config() -> the encoder's
function Model:config()
  return self.encoder:config()
end

--- m:adapters() -> {}: such a model has none
function Model:adapters()
  return {}
end

--- m:named_parameters() -> list of {name, tensor}: the encoder's, then the decoder's without the embedding they share, behind "encoder." and
-- "decoder."
function Model:named_parameters()
  local list = {}
  for _, side in ipairs { "encoder", "decoder" } do
    for _, pair in ipairs(self[side]:named_parameters()) do
      if side == "encoder" or pair[1] ~= "model.embed_tokens.weight" then
        list[#list + 1] = { side .. "." .. pair[1], pair[2] }
      end
    end
  end
  return list
end

return encoder_decoder
