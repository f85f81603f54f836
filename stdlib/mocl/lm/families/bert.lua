--- mocl.lm.families.bert: the encoders BERT, RoBERTa and DistilBERT: norms behind each sum, learned positions, attention in
-- both directions, no language-model head.

local model_keys = require "mocl.lm.model_keys"

local TRAINING = model_keys.TRAINING
local BIASES = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" }

local function encoder(r, config, act)
  config.norm, config.norm_place, config.embedding_norm, config.positions, config.mlp = "layer", "post", true, "learned", "plain"
  config.causal, config.head, config.biases, config.hidden_act = false, "none", BIASES, r:act(act)
end

-- ---- BERT and RoBERTa ----

local SHAPE = {
  vocab_size = "vocab_size", hidden_size = "hidden_size", num_hidden_layers = "num_hidden_layers",
  num_attention_heads = "num_attention_heads", intermediate_size = "intermediate_size",
  max_position_embeddings = "max_position_embeddings", layer_norm_eps = "layer_norm_eps", type_vocab_size = "type_vocab_size",
}

local KEYS = model_keys.lists {
  honoured = { "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "max_position_embeddings",
    "layer_norm_eps", "type_vocab_size", "pad_token_id" },
  neutral = { position_embedding_type = { "absolute" }, is_decoder = { false } },
  without_effect = {
    attention_probs_dropout_prob = TRAINING, hidden_dropout_prob = TRAINING, tie_word_embeddings = "there is no language-model head",
  },
}

local DEFAULTS = {
  vocab_size = 30522, hidden_size = 768, num_hidden_layers = 12, num_attention_heads = 12, intermediate_size = 3072,
  max_position_embeddings = 512, type_vocab_size = 2, layer_norm_eps = 1e-12, hidden_act = "gelu", pad_token_id = 0,
}

local NAMES = {
  ["model.embed_tokens"] = { "embeddings.word_embeddings" }, ["model.embed_positions"] = { "embeddings.position_embeddings" },
  ["model.embed_types"] = { "embeddings.token_type_embeddings" }, ["model.embed_norm"] = { "embeddings.LayerNorm" },
}

local LAYER_NAMES = {
  ["self_attn.q_proj"] = { "attention.self.query" }, ["self_attn.k_proj"] = { "attention.self.key" },
  ["self_attn.v_proj"] = { "attention.self.value" }, ["self_attn.o_proj"] = { "attention.output.dense" },
  input_layernorm = { "attention.output.LayerNorm" }, ["mlp.up_proj"] = { "intermediate.dense" }, ["mlp.down_proj"] = { "output.dense" },
  post_attention_layernorm = { "output.LayerNorm" },
}

local bert = {
  model_type = "bert", shape = SHAPE, defaults = DEFAULTS, keys = KEYS,
  classes = {
    BertModel = "encoder",
    BertForSequenceClassification = { pool = "first", layers = { { "pooler.dense", act = "tanh", inside = true }, { "classifier" } } },
  },
  written = { class = "BertModel", bare = true, keys = { hidden_act = "hidden_act" } },
  prefix = "bert.", names = NAMES, layer = "encoder.layer.%d.", layer_names = LAYER_NAMES,
  left_over = { "%.position_ids$", "^cls%." }, left_over_of_encoder = { "pooler%.dense%." }, old_norms = true,
}

function bert.spec(r, config)
  encoder(r, config, "hidden_act")
end

local roberta = {
  model_type = "roberta", shape = SHAPE, defaults = model_keys.merged(DEFAULTS, { vocab_size = 50265, pad_token_id = 1 }), keys = KEYS,
  classes = {
    RobertaModel = "encoder",
    RobertaForSequenceClassification = { pool = "first", layers = { { "classifier.dense", act = "tanh" }, { "classifier.out_proj" } } },
  },
  prefix = "roberta.", names = NAMES, layer = "encoder.layer.%d.", layer_names = LAYER_NAMES,
  left_over = { "%.position_ids$", "^lm_head%." }, left_over_of_encoder = { "pooler%.dense%." }, old_norms = true,
}

--- Positions count from behind the pad's, so that the table has that many rows more than the context has tokens.
function roberta.spec(r, config)
  encoder(r, config, "hidden_act")
  config.position_offset = r:integer("pad_token_id", 0) + 1
  config.max_position_embeddings = r:integer("max_position_embeddings", config.position_offset + 1) - config.position_offset
end

-- ---- DistilBERT ----

local distilbert = {
  model_type = "distilbert",
  shape = {
    vocab_size = "vocab_size", hidden_size = "dim", num_hidden_layers = "n_layers", num_attention_heads = "n_heads",
    intermediate_size = "hidden_dim", max_position_embeddings = "max_position_embeddings",
  },
  defaults = {
    vocab_size = 30522, dim = 768, n_layers = 6, n_heads = 12, hidden_dim = 3072, max_position_embeddings = 512, activation = "gelu",
    pad_token_id = 0,
  },
  keys = model_keys.lists {
    honoured = { "vocab_size", "dim", "n_layers", "n_heads", "hidden_dim", "max_position_embeddings", "activation", "pad_token_id" },
    without_effect = {
      hidden_act = model_keys.NOT_READ, dropout = TRAINING, qa_dropout = TRAINING, seq_classif_dropout = TRAINING,
      sinusoidal_pos_embds = "how the table of positions began; its values are in the file",
      tie_word_embeddings = "there is no language-model head", tie_weights_ = "there is no language-model head",
    },
  },
  classes = {
    DistilBertModel = "encoder",
    DistilBertForSequenceClassification = { pool = "first", layers = { { "pre_classifier", act = "relu" }, { "classifier" } } },
  },
  prefix = "distilbert.", names = NAMES, layer = "transformer.layer.%d.",
  layer_names = {
    ["self_attn.q_proj"] = { "attention.q_lin" }, ["self_attn.k_proj"] = { "attention.k_lin" }, ["self_attn.v_proj"] = { "attention.v_lin" },
    ["self_attn.o_proj"] = { "attention.out_lin" }, input_layernorm = { "sa_layer_norm" }, ["mlp.up_proj"] = { "ffn.lin1" },
    ["mlp.down_proj"] = { "ffn.lin2" }, post_attention_layernorm = { "output_layer_norm" },
  },
  left_over = { "%.position_ids$", "^vocab_" }, left_over_of_encoder = {}, old_norms = true,
}

function distilbert.spec(r, config)
  encoder(r, config, "activation")
  config.layer_norm_eps = 1e-12
end

return { bert, roberta, distilbert }
