--- mocl.lm.model_keys: what the keys of config.json and generation_config.json mean in every family. The lists are those of
-- mocl.keys; docs/reference/compatibility.md has them as a table. What is a family's own: mocl.lm.families.

local keys = require "mocl.keys"

local model_keys = {}

local EMPTY = keys.EMPTY
local NOT_READ = "transformers does not read it for this family"
local OUTPUTS = "which results a call of transformers returns"
local SPEED = "how transformers computes, not what"
local HEAD = "for heads that this model does not have, or the names of what one says"
local SAMPLING = "a default of transformers' generate; mocl's options say how to sample"
local ASSISTANT = "assisted generation draws from the same distribution"
local BEAMS = "for beam search alone"
local TRAINING = "training in transformers alone; adapters have their own dropout here"
local NOTE = "a note of the program that wrote the file"

local function merged(...)
  local out = {}
  for _, t in ipairs { ... } do
    for k, v in pairs(t) do
      out[k] = v
    end
  end
  return out
end

-- Keys of generation that both files may hold. What would change the tokens of an answer and has no option here asks
-- for nothing with these values alone.
local GENERATION_NEUTRAL = {
  assistant_ensemble_weight = { 0, 1 }, bad_words_ids = { EMPTY }, begin_suppress_tokens = { EMPTY }, constraints = { EMPTY },
  encoder_no_repeat_ngram_size = { 0 }, encoder_repetition_penalty = { 1 }, epsilon_cutoff = { 0 }, eta_cutoff = { 0 },
  force_words_ids = { EMPTY }, forced_bos_token_id = {}, forced_eos_token_id = {}, exponential_decay_length_penalty = {}, dola_layers = {},
  watermarking_config = {}, guidance_scale = { 1 }, min_length = { 0 }, min_new_tokens = { 0 }, min_p = { 0 },
  no_repeat_ngram_size = { 0 }, num_beam_groups = { 1 }, num_beams = { 1 }, penalty_alpha = { 0 }, remove_invalid_values = { false },
  repetition_penalty = { 1 }, sequence_bias = { EMPTY }, stop_strings = { EMPTY }, suppress_tokens = { EMPTY },
  token_healing = { false }, typical_p = { 1 }, use_mtp = { false },
}

local GENERATION_WITHOUT_EFFECT = {
  assistant_confidence_threshold = ASSISTANT, assistant_early_exit = ASSISTANT, assistant_lookbehind = ASSISTANT,
  is_assistant = ASSISTANT, max_matching_ngram_size = ASSISTANT, num_assistant_tokens = ASSISTANT,
  num_assistant_tokens_schedule = ASSISTANT, prompt_lookup_num_tokens = ASSISTANT, target_lookbehind = ASSISTANT,
  do_sample = SAMPLING, max_length = SAMPLING, max_new_tokens = SAMPLING, num_return_sequences = SAMPLING,
  temperature = SAMPLING, top_k = SAMPLING, top_p = SAMPLING, top_h = SAMPLING, max_time = "a limit of transformers' generate in seconds",
  diversity_penalty = BEAMS, early_stopping = BEAMS, length_penalty = BEAMS,
  speculation_type = ASSISTANT, continuous_batching_config = SPEED,
  cache_config = SPEED, cache_implementation = SPEED, compile_config = SPEED, disable_compile = SPEED, low_memory = SPEED,
  max_cache_len = SPEED, prefill_chunk_size = SPEED, return_legacy_cache = SPEED, use_cache = SPEED,
  output_attentions = OUTPUTS, output_hidden_states = OUTPUTS, output_logits = OUTPUTS, output_scores = OUTPUTS,
  renormalize_logits = OUTPUTS, return_dict_in_generate = OUTPUTS,
  bos_token_id = "the tokenizer has it", pad_token_id = "rows are not padded", decoder_start_token_id = "for encoder-decoders",
  trust_remote_code = NOTE, transformers_version = NOTE, _from_model_config = NOTE, _commit_hash = NOTE, _name_or_path = NOTE,
}

--- generation_config.json
model_keys.GENERATION = {
  honoured = { "eos_token_id" }, neutral = GENERATION_NEUTRAL, without_effect = GENERATION_WITHOUT_EFFECT,
}

local CONFIG_NEUTRAL = merged(GENERATION_NEUTRAL, {
  add_cross_attention = { false }, cross_attention_hidden_size = {}, alibi = { false }, attention_multiplier = {}, compression_config = {},
  embedding_multiplier = { 1 }, is_encoder_decoder = { false }, logit_scale = { 1 },
  logits_scaling = { 1 }, no_rope_layers = { EMPTY }, num_experts = { 0 }, num_local_experts = { 0 }, partial_rotary_factor = { 1 },
  pruned_heads = { EMPTY }, qk_layernorm = { false }, residual_multiplier = { 1 },
  rotary_pct = { 1 }, tie_encoder_decoder = { false }, use_qk_norm = { false },
})

local CONFIG_WITHOUT_EFFECT = merged(GENERATION_WITHOUT_EFFECT, {
  attention_dropout = TRAINING,
  auto_map = "code of another program, which is not run", chunk_size_feed_forward = SPEED, classifier_dropout = HEAD,
  classifier_activation = HEAD, dtype = "the files say how weights are stored, the option dtype how they are held",
  torch_dtype = "the files say how weights are stored, the option dtype how they are held", finetuning_task = HEAD,
  gradient_checkpointing = SPEED, initializer_range = "for random weights", is_decoder = NOT_READ,
  is_llama_config = NOTE, label2id = HEAD, max_sequence_length = NOT_READ, max_window_layers = NOT_READ,
  model_max_length = "the tokenizer's", prefix = "for a pipeline of transformers",
  pretraining_tp = "the order of partial sums", problem_type = HEAD, return_dict = OUTPUTS, rope_interleaved = NOT_READ,
  sep_token_id = "the tokenizer has it", task_specific_params = "for a pipeline of transformers", tf_legacy_loss = SPEED,
  tokenizer_class = "the tokenizer's files say", torchscript = SPEED, unsloth_fixed = NOTE, unsloth_version = NOTE,
  use_bfloat16 = SPEED, use_return_dict = OUTPUTS, use_sliding_window = NOT_READ, ["transformers.js_config"] = "for a browser",
  _attn_implementation = SPEED, _attn_implementation_autoset = SPEED, attn_implementation = SPEED, _flash_attn_2_enabled = SPEED,
  _experts_implementation = SPEED, unk_token_id = "the tokenizer has it", use_flash_attention = SPEED, use_flash_attn = SPEED,
  transformers_weights = NOTE, mask_token_id = "the tokenizer has it", cls_token_id = "the tokenizer has it",
})

-- what the reader of config.json looks at itself, whatever the family
local HONOURED = { "architectures", "eos_token_id", "hidden_act", "id2label", "model_type", "num_labels", "quantization_config" }

--- model_keys.lists{honoured=, neutral=, without_effect=} -> the lists of a family: those of every family with its own
-- in place of theirs.
function model_keys.lists(own)
  local lists = { honoured = {}, neutral = merged(CONFIG_NEUTRAL), without_effect = merged(CONFIG_WITHOUT_EFFECT) }
  local function take(key, list, value)
    lists.neutral[key], lists.without_effect[key] = nil, nil
    list[key] = value
  end
  for key, values in pairs(own.neutral or {}) do
    take(key, lists.neutral, values)
  end
  for key, reason in pairs(own.without_effect or {}) do
    take(key, lists.without_effect, reason)
  end
  for _, list in ipairs { HONOURED, own.honoured } do
    for _, key in ipairs(list) do
      take(key, {}, nil)
      lists.honoured[#lists.honoured + 1] = key
    end
  end
  return lists
end

model_keys.merged, model_keys.NOT_READ, model_keys.TRAINING = merged, NOT_READ, TRAINING

return model_keys
