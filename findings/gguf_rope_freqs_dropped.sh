#!/bin/sh
# transformers 5.24.0 reads a GGUF file of a Llama 3.1 model without its rotary scaling, and so computes another model.
#
# llama.cpp's converter stores Llama 3.1's frequency scaling (rope_type "llama3") in no key of the file but in a tensor,
# rope_freqs.weight: one divisor for each rotary frequency. from_pretrained(gguf_file=...) passes over this tensor
# without a warning and gives the model rope_type "default". Files of Llama 3.1, 3.2 and 3.3 are of this form.
#
# One would expect the scaling, which transformers knows under the name "llama3", or at least a report, such as the one
# that from_pretrained gives for a tensor that is left over in a safetensors file.
#
# Seen for a model of one layer (original context 16, so that 32 positions show it), written with gguf 0.19.0; logits
# reach 5.8369, and this is the largest |difference| of them:
#   read from GGUF against the model that was saved       6.3342
#   read from GGUF against that model without scaling     0
#   rope_parameters after reading                         {'rope_theta': 10000.0, 'rope_type': 'default'}
set -eu
set -- gguf==0.19.0 transformers==5.24.0 accelerate==1.15.0 torch==2.15.0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
python=${FINDINGS_PYTHON:-$work/venv/bin/python}
if [ -z "${FINDINGS_PYTHON:-}" ]; then
    python3 -m venv "$work/venv"
    "$python" -m pip install --quiet "$@"
else
    installed=$("$python" -m pip freeze | sed 's/+.*//')
    for pin in "$@"; do
        echo "$installed" | grep -iqxF "$pin" || { echo "$python does not have $pin" >&2; exit 1; }
    done
fi
cd "$work"
HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$python" - <<'PYTHON'
import logging
import sys

import gguf
import numpy
import torch
import transformers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

HEADS, DIM, CONTEXT, THETA = 2, 32, 128, 10000.0
SIZES = dict(vocab_size=32, hidden_size=DIM, intermediate_size=DIM, num_hidden_layers=1, num_attention_heads=HEADS,
             num_key_value_heads=HEADS, max_position_embeddings=CONTEXT, rms_norm_eps=1e-6)
DEFAULT = dict(rope_type="default", rope_theta=THETA)
LLAMA3 = dict(rope_type="llama3", rope_theta=THETA, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=16)
NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def model_with(rope_parameters):
    return LlamaForCausalLM(LlamaConfig(**SIZES, rope_parameters=rope_parameters)).eval()


def write_gguf(model, divisors, path):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(DIM)
    writer.add_block_count(1)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(THETA)
    writer.add_rope_dimension_count(DIM // HEADS)
    writer.add_vocab_size(32)
    writer.add_tokenizer_model("none")
    for name, tensor in model.state_dict().items():
        stem, value = name.removesuffix(".weight"), tensor.numpy()
        if stem.startswith("model.layers.0."):
            stem = "blk.0." + NAMES[stem.removeprefix("model.layers.0.")]
        else:
            stem = NAMES[stem]
        if stem.endswith(("attn_q", "attn_k")):  # llama.cpp rotates neighbours, transformers rotates halves
            value = value.reshape(HEADS, 2, -1, DIM).swapaxes(1, 2).reshape(DIM, DIM)
        writer.add_tensor(stem + ".weight", numpy.ascontiguousarray(value))
    writer.add_tensor("rope_freqs.weight", divisors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Kept(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


torch.manual_seed(0)
saved = model_with(LLAMA3)
for parameter in saved.parameters():
    if parameter.dim() == 2:
        torch.nn.init.normal_(parameter, std=0.3)
unscaled = model_with(DEFAULT)
unscaled.load_state_dict(saved.state_dict())
divisors = unscaled.model.rotary_emb.inv_freq / saved.model.rotary_emb.inv_freq
print("rope_freqs.weight:", " ".join("%.4f" % value for value in divisors))
write_gguf(saved, divisors.numpy(), "model.gguf")

warnings = Kept()
logging.getLogger("transformers").addHandler(warnings)
transformers.utils.logging.disable_progress_bar()
read = AutoModelForCausalLM.from_pretrained(".", gguf_file="model.gguf").eval()
tokens = torch.arange(32)[None]
with torch.no_grad():
    logits = saved(tokens).logits
    to_saved = (read(tokens).logits - logits).abs().max().item()
    to_unscaled = (read(tokens).logits - unscaled(tokens).logits).abs().max().item()
about = [line for line in warnings.lines if "rope" in line.lower()]
print("rope_parameters after reading:", read.config.rope_parameters, "warnings about it:", about)
print("logits reach %.4f" % logits.abs().max().item())
print("difference to the model that was saved: %.4f" % to_saved)
print("difference to that model without the scaling: %.2g" % to_unscaled)
if about or read.config.rope_parameters.get("rope_type") != "default" or to_saved < 1 or to_unscaled > 1e-4:
    sys.exit("the behaviour has changed: the scaling is read, or its loss is reported")
print("as stated: rope_freqs.weight is dropped without a word")
PYTHON
