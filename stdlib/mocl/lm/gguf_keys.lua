--- mocl.lm.gguf_keys: what the metadata of a GGUF file means for a model: the lists of mocl.keys by architecture.
-- docs/gguf.md has them as a table.

local gguf_keys = {}

local ABOUT = "says where the file comes from"
local TOKENIZER = "the tokenizer reads it"
local OTHER_SCALING = "for scalings that are refused"
local COMPUTED = "follows from other keys"

--- Keys that begin so describe the file, or are the tokenizer's, however they go on.
gguf_keys.PREFIXES = {
  ["general.base_model."] = ABOUT, ["general.dataset."] = ABOUT, ["general.source."] = ABOUT,
  ["general.license."] = ABOUT,
  ["general.sampling."] = "mocl's options say how to sample", ["quantize.imatrix."] = ABOUT,
  ["split."] = "mocl.lm.gguf joins the parts",
  ["tokenizer."] = TOKENIZER, ["mradermacher."] = ABOUT, ["Model."] = ABOUT,
}

local WITHOUT_EFFECT = {
  ["general.name"] = ABOUT, ["general.author"] = ABOUT, ["general.version"] = ABOUT, ["general.organization"] = ABOUT,
  ["general.finetune"] = ABOUT, ["general.basename"] = ABOUT, ["general.description"] = ABOUT,
  ["general.quantized_by"] = ABOUT,
  ["general.size_label"] = ABOUT, ["general.license"] = ABOUT, ["general.url"] = ABOUT, ["general.doi"] = ABOUT,
  ["general.uuid"] = ABOUT, ["general.repo_url"] = ABOUT, ["general.tags"] = ABOUT, ["general.languages"] = ABOUT,
  ["general.datasets"] = ABOUT, ["general.base_models"] = ABOUT,
  ["general.file_type"] = "each tensor says its own type",
  ["general.imatrix.file"] = ABOUT,
}

local HONOURED = { "general.architecture", "general.alignment", "general.type", "general.quantization_version" }

local function with(architecture, names)
  local out = {}
  for key, value in pairs(names) do
    if type(key) == "number" then
      out[key] = architecture .. "." .. value
    else
      out[architecture .. "." .. key] = value
    end
  end
  return out
end

local function merged(a, b)
  local out = table.move(a, 1, #a, 1, {})
  for k, v in pairs(a) do
    out[k] = v
  end
  for k, v in pairs(b) do
    out[type(k) == "number" and #out + 1 or k] = v
  end
  return out
end

-- What the decoder of the Llama family reads itself, and what must ask for nothing that it lacks.
local LLAMA = {
  "context_length", "embedding_length", "block_count", "feed_forward_length", "attention.head_count",
  "attention.head_count_kv", "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length",
  "rope.dimension_count", "rope.freq_base", "vocab_size",
}
local LLAMA_NEUTRAL = {
  ["attention.causal"] = { true }, ["attention.clamp_kqv"] = { 0 }, ["attention.max_alibi_bias"] = { 0 },
  ["attention.scale"] = { 0 }, ["attention.sliding_window"] = { 0 }, ["embedding_scale"] = { 0, 1 },
  ["expert_count"] = { 0 },
  ["expert_used_count"] = { 0 }, ["logit_scale"] = { 0, 1 }, ["pooling_type"] = { 0 }, ["residual_scale"] = { 0, 1 },
  ["rope.scale_linear"] = { 0, 1 }, ["rope.scaling.attn_factor"] = { 0, 1 }, ["rope.scaling.factor"] = { 0, 1 },
  ["rope.scaling.type"] = { "none", "linear" }, ["tensor_data_layout"] = { "Meta AI original pth" },
  ["use_parallel_residual"] = { false },
}
local LLAMA_WITHOUT_EFFECT = {
  ["rope.scaling.finetuned"] = OTHER_SCALING, ["rope.scaling.original_context_length"] = OTHER_SCALING,
  ["rope.scaling.yarn_beta_fast"] = OTHER_SCALING, ["rope.scaling.yarn_beta_slow"] = OTHER_SCALING,
  ["attention.gqa"] = COMPUTED,
}

--- The lists of mocl.keys by general.architecture.
gguf_keys.ARCHITECTURES = {
  llama = {
    honoured = merged(HONOURED, with("llama", LLAMA)), neutral = with("llama", LLAMA_NEUTRAL),
    without_effect = merged(WITHOUT_EFFECT, with("llama", LLAMA_WITHOUT_EFFECT)),
  },
}
for _, architecture in ipairs { "qwen2", "qwen3" } do
  gguf_keys.ARCHITECTURES[architecture] = {
    honoured = merged(HONOURED, with(architecture, LLAMA)), neutral = with(architecture, LLAMA_NEUTRAL),
    without_effect = merged(WITHOUT_EFFECT, with(architecture, LLAMA_WITHOUT_EFFECT)),
  }
end
gguf_keys.ARCHITECTURES.gpt2 = {
  honoured = merged(HONOURED, with("gpt2", { "context_length", "embedding_length", "block_count", "feed_forward_length",
    "attention.head_count", "attention.layer_norm_epsilon", "vocab_size" })),
  neutral = with("gpt2", LLAMA_NEUTRAL),
  without_effect = merged(WITHOUT_EFFECT, with("gpt2", { ["attention.head_count_kv"] = COMPUTED, ["attention.key_length"] = COMPUTED,
    ["attention.value_length"] = COMPUTED })),
}

gguf_keys.ARCHITECTURES.bert = {
  honoured = merged(HONOURED, with("bert", { "context_length", "embedding_length", "block_count", "feed_forward_length",
    "attention.head_count", "attention.layer_norm_epsilon", "vocab_size" })),
  -- 1 to 3 say which states a sentence is made of, and whoever takes the states decides it; 4 is a head, which is refused
  neutral = merged(with("bert", LLAMA_NEUTRAL), with("bert", { ["attention.causal"] = { false }, ["pooling_type"] = { 0, 1, 2, 3 } })),
  without_effect = merged(WITHOUT_EFFECT, with("bert", { ["attention.head_count_kv"] = COMPUTED, ["attention.key_length"] = COMPUTED,
    ["attention.value_length"] = COMPUTED })),
}

--- The lists for an adapter. The name and the prefix of a task are what a server shows and puts before prompts.
gguf_keys.ADAPTER = {
  honoured = merged(HONOURED, { "adapter.type", "adapter.lora.alpha", "mocl.base_sha256" }),
  without_effect = merged(WITHOUT_EFFECT, { ["adapter.lora.task_name"] = ABOUT, ["adapter.lora.prompt_prefix"] = ABOUT }),
}

return gguf_keys
