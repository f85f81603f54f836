--- mocl.lm.families.gpt2: GPT-2. Its matrices lie the other way round ([in, out], Conv1D), and q, k and v are one.

local model_keys = require "mocl.lm.model_keys"

local OUTPUT_HEAD = "for a head that the classes mocl loads do not have"

local gpt2 = {
  model_type = "gpt2",
  shape = {
    vocab_size = "vocab_size", hidden_size = "n_embd", num_hidden_layers = "n_layer", num_attention_heads = "n_head",
    intermediate_size = "n_inner", max_position_embeddings = "n_positions", layer_norm_eps = "layer_norm_epsilon",
    tie_word_embeddings = "tie_word_embeddings",
  },
  defaults = {
    vocab_size = 50257, n_embd = 768, n_layer = 12, n_head = 12, n_positions = 1024, layer_norm_epsilon = 1e-5,
    tie_word_embeddings = true, activation_function = "gelu_new", scale_attn_weights = true, scale_attn_by_inverse_layer_idx = false,
  },
  keys = model_keys.lists {
    honoured = { "vocab_size", "n_embd", "n_layer", "n_head", "n_inner", "n_positions", "layer_norm_epsilon", "tie_word_embeddings",
      "activation_function", "scale_attn_weights", "scale_attn_by_inverse_layer_idx" },
    without_effect = {
      n_ctx = model_keys.NOT_READ, hidden_act = model_keys.NOT_READ, attn_pdrop = model_keys.TRAINING, embd_pdrop = model_keys.TRAINING,
      resid_pdrop = model_keys.TRAINING, reorder_and_upcast_attn = "the order of operations in half precision", summary_type = OUTPUT_HEAD,
      summary_use_proj = OUTPUT_HEAD, summary_activation = OUTPUT_HEAD, summary_proj_to_labels = OUTPUT_HEAD,
      summary_first_dropout = OUTPUT_HEAD, gradient_checkpointing = model_keys.TRAINING,
    },
  },
  classes = { GPT2LMHeadModel = "lm", GPT2ForSequenceClassification = { pool = "last", layers = { { "score", bias = false } } } },
  written = { class = "GPT2LMHeadModel", keys = { activation_function = "hidden_act" } },
  lora_targets = { "c_attn" }, -- what PEFT takes where a configuration names none
  prefix = "transformer.",
  names = {
    ["model.embed_tokens"] = { "wte" }, ["model.embed_positions"] = { "wpe" }, ["model.norm"] = { "ln_f" }, ["lm_head"] = { "lm_head", plain = true },
  },
  layer = "h.%d.",
  layer_names = {
    input_layernorm = { "ln_1" }, post_attention_layernorm = { "ln_2" },
    ["self_attn.q_proj"] = { "attn.c_attn", part = 1, parts = 3, transposed = true },
    ["self_attn.k_proj"] = { "attn.c_attn", part = 2, parts = 3, transposed = true },
    ["self_attn.v_proj"] = { "attn.c_attn", part = 3, parts = 3, transposed = true },
    ["self_attn.o_proj"] = { "attn.c_proj", transposed = true },
    ["mlp.up_proj"] = { "mlp.c_fc", transposed = true }, ["mlp.down_proj"] = { "mlp.c_proj", transposed = true },
  },
  left_over = { "%.attn%.bias$", "%.attn%.masked_bias$" },
}

function gpt2.spec(r, config)
  config.intermediate_size = config.intermediate_size or 4 * config.hidden_size
  config.norm, config.positions, config.mlp = "layer", "learned", "plain"
  config.hidden_act = r:act "activation_function"
  config.biases = { "q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj" }
  local scaled, by_layer = r:boolean "scale_attn_weights", r:boolean "scale_attn_by_inverse_layer_idx"
  if scaled and not by_layer then
    return
  end
  config.attention_scales = {}
  for l = 1, config.num_hidden_layers do
    local scale = scaled and (config.hidden_size // config.num_attention_heads) ^ -.5 or 1.0
    config.attention_scales[l] = by_layer and scale / l or scale
  end
end

return { gpt2 }
