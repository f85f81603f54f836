#!/bin/sh
# llama.cpp's convert_lora_to_gguf.py turns three PEFT adapters of different effects into one and the same file.
#
# PEFT scales an adapter by alpha / r, with use_rslora=True by alpha / sqrt(r), and alpha_pattern gives single modules
# an alpha of their own. The GGUF form of an adapter has one key for all of this, adapter.lora.alpha, and llama.cpp
# scales by alpha / r. The converter writes lora_alpha into that key and reads neither use_rslora nor alpha_pattern: the
# exit status is 0 and nothing is said. It could have multiplied the scale into lora_b, where the form has room for it.
#
# One would expect the converted adapter to have the effect of the one that was trained, or the converter to refuse it.
#
# Seen with the converter of llama-cpp-python 0.3.36's source and PEFT 0.21.2, for q_proj and v_proj, r 4, lora_alpha 8:
#   plain                            scale of q_proj 2, of v_proj 2
#   use_rslora=True                  scale of q_proj 4, of v_proj 4
#   alpha_pattern={"q_proj": 160}    scale of q_proj 40, of v_proj 2
# and three GGUF files that are equal to the last byte, with adapter.lora.alpha = 8.
set -eu
set -- peft==0.21.2 transformers==5.24.0 torch==2.15.0
converter=llama-cpp-python==0.3.36
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
# No wheel holds the converter, so its source distribution (77 MB) is fetched and unpacked, and not built.
"$python" -m pip download --quiet --no-deps --no-binary :all: "$converter"
mkdir source
tar -xzf llama_cpp_python-*.tar.gz -C source --strip-components=1
HF_HUB_OFFLINE=1 HF_HUB_DISABLE_PROGRESS_BARS=1 "$python" -W ignore - <<'PYTHON'
import copy
import hashlib
import subprocess
import sys

import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(0)
base = LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                                    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=64)).eval()
base.save_pretrained("base")
variants = {"plain": {}, "use_rslora": {"use_rslora": True}, "alpha_pattern": {"alpha_pattern": {"q_proj": 160}}}
scales, logits, digests, alphas = {}, {}, {}, {}
for variant, options in variants.items():
    torch.manual_seed(1)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    model = get_peft_model(copy.deepcopy(base), config).eval()
    attention = model.base_model.model.model.layers[0].self_attn
    scales[variant] = attention.q_proj.scaling["default"], attention.v_proj.scaling["default"]
    with torch.no_grad():
        logits[variant] = model(torch.arange(32)[None]).logits
    # The folder's last name goes into the file as general.name, so all three have the same.
    folder, file = f"{variant}/adapter", f"{variant}/adapter.gguf"
    model.save_pretrained(folder)
    done = subprocess.run([sys.executable, "source/vendor/llama.cpp/convert_lora_to_gguf.py", "--base", "base",
                           "--outtype", "f32", "--outfile", file, folder], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the behaviour has changed: the converter refuses {variant}: {done.stderr[-2000:]}")
    told = [line for line in done.stderr.splitlines() if line.startswith(("WARNING", "ERROR"))]
    digests[variant] = hashlib.sha256(open(file, "rb").read()).hexdigest()
    away = (logits[variant] - logits["plain"]).abs().max().item()
    print(f"{variant}: scales {scales[variant]}, logits differ from plain's by up to {away:.4f}, "
          f"sha256 of the GGUF {digests[variant][:16]}, warnings {told}")
    if variant != "plain" and away < 1e-3:
        sys.exit("this script is wrong: the adapters should have different effects")
if scales != {"plain": (2.0, 2.0), "use_rslora": (4.0, 4.0), "alpha_pattern": (40.0, 2.0)}:
    sys.exit("the behaviour has changed: PEFT scales in another way")
if len(set(digests.values())) != 1:
    sys.exit("the behaviour has changed: the three files differ")

sys.path.insert(0, "source/vendor/llama.cpp/gguf-py")
import gguf  # noqa: E402, the copy that the converter used

alpha = gguf.GGUFReader("use_rslora/adapter.gguf").get_field("adapter.lora.alpha").contents()
print("adapter.lora.alpha:", alpha)
if alpha != 8:
    sys.exit("the behaviour has changed: another alpha is written")
print("as stated: three adapters of different scales are converted into one and the same file")
PYTHON
