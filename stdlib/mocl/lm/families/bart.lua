--- mocl.lm.families.bart: BART, an encoder and a decoder that attends to its states: norms behind each sum, learned positions from the
-- third row of their table on, one embedding for both.

local json = require "mocl.json"
local model_keys = require "mocl.lm.model_keys"

local TRAINING = model_keys.TRAINING
local NO_ANSWERS = "nothing is generated"
local OWN = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" }
local ALL = table.move({ "encoder_attn.q_proj", "encoder_attn.k_proj", "encoder_attn.v_proj", "encoder_attn.o_proj" }, 1, 4, #OWN + 1,
  table.move(OWN, 1, #OWN, 1, {}))

-- the sizes of one side
local function shape(side)
  return {
    vocab_size = "vocab_size", hidden_size = "d_model", num_hidden_layers = side .. "_layers", num_attention_heads = side .. "_attention_heads",
    intermediate_size = side .. "_ffn_dim", max_position_embeddings = "max_position_embeddings",
  }
end

local function names(side)
  return {
    ["model.embed_tokens"] = { "shared" }, ["model.embed_positions"] = { side .. ".embed_positions" },
    ["model.embed_norm"] = { side .. ".layernorm_embedding" },
  }
end

local LAYER_NAMES = {
  input_layernorm = { "self_attn_layer_norm" }, encoder_attn_layernorm = { "encoder_attn_layer_norm" },
  ["mlp.up_proj"] = { "fc1" }, ["mlp.down_proj"] = { "fc2" }, post_attention_layernorm = { "final_layer_norm" },
}
for _, part in ipairs { "self_attn", "encoder_attn" } do
  for _, one in ipairs { "q", "k", "v", "o" } do
    LAYER_NAMES[("%s.%s_proj"):format(part, one)] = { ("%s.%s_proj"):format(part, one == "o" and "out" or one) }
  end
end

local HONOURED = { "vocab_size", "d_model", "max_position_embeddings", "activation_function", "scale_embedding", "pad_token_id",
  "decoder_start_token_id", "num_hidden_layers", "num_attention_heads", "hidden_size", "encoder_layers", "encoder_attention_heads",
  "encoder_ffn_dim", "decoder_layers", "decoder_attention_heads", "decoder_ffn_dim" }

local without_effect = {
  hidden_act = model_keys.NOT_READ, intermediate_size = model_keys.NOT_READ, dropout = TRAINING, activation_dropout = TRAINING, classif_dropout = TRAINING, encoder_layerdrop = TRAINING,
  decoder_layerdrop = TRAINING, init_std = "for random weights", forced_bos_token_id = NO_ANSWERS, forced_eos_token_id = NO_ANSWERS,
  output_past = "which results a call of transformers returns", _num_labels = "the rows of the head's weight say it",
}
for key in pairs(model_keys.GENERATION.neutral) do
  without_effect[key] = NO_ANSWERS
end

local bart = {
  model_type = "bart", shape = shape "encoder",
  defaults = {
    vocab_size = 50265, d_model = 1024, max_position_embeddings = 1024, encoder_layers = 12, encoder_attention_heads = 16, encoder_ffn_dim = 4096,
    decoder_layers = 12, decoder_attention_heads = 16, decoder_ffn_dim = 4096, activation_function = "gelu", scale_embedding = false,
    pad_token_id = 1, eos_token_id = 2, decoder_start_token_id = 2,
  },
  keys = model_keys.lists {
    honoured = HONOURED, without_effect = without_effect,
    -- the keys of fairseq's other kinds of BART, which transformers computes no more; the embedding is one in both versions while tied
    neutral = {
      is_encoder_decoder = { true }, is_decoder = { false }, tie_word_embeddings = { true }, normalize_before = { false },
      normalize_embedding = { true }, add_final_layer_norm = { false }, add_bias_logits = { false }, static_position_embeddings = { false },
    },
  },
  classes = {
    BartForSequenceClassification = {
      pool = "eos", layers = { { "classification_head.dense", act = "tanh" }, { "classification_head.out_proj" } },
    },
  },
  prefix = "model.", names = names "encoder", layer = "encoder.layers.%d.", layer_names = LAYER_NAMES,
  copies = { "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight" },
  generates = false,
  decoder = {
    model_type = "bart", shape = shape "decoder", prefix = "model.", names = names "decoder", layer = "decoder.layers.%d.",
    layer_names = LAYER_NAMES,
  },
}

-- What both sides have in common.
local function stack(r, config)
  config.norm, config.norm_place, config.embedding_norm, config.positions, config.mlp = "layer", "post", true, "learned", "plain"
  config.head, config.hidden_act, config.layer_norm_eps, config.position_offset = "none", r:act "activation_function", 1e-5, 2
  config.embedding_multiplier = r:boolean "scale_embedding" and config.hidden_size ^ .5 or nil
end

-- Keys that transformers 5 takes as other names of the encoder's, and 4 does not.
local SAME = { num_hidden_layers = "encoder_layers", num_attention_heads = "encoder_attention_heads", hidden_size = "d_model" }

function bart.spec(r, config)
  for key, own in pairs(SAME) do
    local value = r.all[key]
    if value ~= nil and value ~= json.null and value ~= r:value(own) then
      r:refuse(key, value, ("%s, as %s says"):format(tostring(r:value(own)), own))
    end
  end
  stack(r, config)
  config.causal, config.biases = false, OWN
end

function bart.decoder.spec(r, config)
  stack(r, config)
  config.causal, config.cross_attention, config.biases = true, true, ALL
  r:id "decoder_start_token_id"
  r:id "eos_token_id"
end

return { bart }
