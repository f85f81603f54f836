#!/bin/sh
# PEFT 0.21.2: saving an adapter puts the keys of alpha_pattern and rank_pattern in another order, and order decides.
#
# Several keys of such a pattern may match one module. The first match wins, so a user writes the special key in front
# of the general one. save_pretrained sorts all keys of adapter_config.json, those of the patterns too, so that after a
# load the general key may stand first. For rank_pattern the load then fails, since the tensors have another shape. For
# alpha_pattern it succeeds without a warning, and the adapter is applied with another scale.
#
# One would expect a dictionary whose order has a meaning to be written in that order, or the order not to matter.
#
# Seen, for {"layers.1.q_proj": 64, ".*_proj": 16} on a module "layers.1.q_proj", with r = 8:
#   alpha_pattern: alpha 64, scale 8.0 before; alpha 16, scale 2.0 after saving and loading
#   rank_pattern: rank 64 before; the load raises RuntimeError with "size mismatch"
set -eu
set -- peft==0.21.2 transformers==5.24.0 torch==2.15.0
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
HF_HUB_OFFLINE=1 "$python" -W ignore - <<'PYTHON'
import json
import sys

import torch
from peft import LoraConfig, PeftModel, get_peft_model


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.q_proj = torch.nn.Linear(8, 8)
        self.v_proj = torch.nn.Linear(8, 8)

    def forward(self, x):
        return self.v_proj(self.q_proj(x))


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = torch.nn.Sequential(Layer(), Layer())

    def forward(self, x):
        return self.layers(x)


def q_proj(model):
    layer = model.base_model.model.layers[1].q_proj
    return layer.r["default"], layer.lora_alpha["default"], layer.scaling["default"]


pattern = {"layers.1.q_proj": 64, ".*_proj": 16}
inputs = torch.eye(8)
changed = []

config = LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False,
                    alpha_pattern=pattern)
model = get_peft_model(Net(), config)
model.save_pretrained("alpha")
loaded = PeftModel.from_pretrained(Net(), "alpha")
difference = (model(inputs) - loaded(inputs)).abs().max().item()
print("alpha_pattern as given:", json.dumps(pattern))
print("alpha_pattern in the file:", json.dumps(json.load(open("alpha/adapter_config.json"))["alpha_pattern"]))
print("before: rank %d, alpha %g, scale %g" % q_proj(model))
print("after:  rank %d, alpha %g, scale %g" % q_proj(loaded), "and outputs that differ by up to %.4f" % difference)
if (q_proj(model), q_proj(loaded)) != ((8, 64, 8.0), (8, 16, 2.0)) or difference < 1e-3:
    changed.append("alpha_pattern")

config = LoraConfig(r=8, lora_alpha=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False,
                    rank_pattern=pattern)
model = get_peft_model(Net(), config)
model.save_pretrained("rank")
print("rank_pattern before: rank %d" % q_proj(model)[0])
try:
    PeftModel.from_pretrained(Net(), "rank")
    print("rank_pattern after: the adapter loads")
    changed.append("rank_pattern")
except RuntimeError as error:
    mismatch = [line.strip() for line in str(error).splitlines() if "size mismatch" in line]
    print("rank_pattern after:", mismatch[0] if mismatch else error)
    if not mismatch or q_proj(model)[0] != 64:
        changed.append("rank_pattern")
if changed:
    sys.exit("the behaviour has changed for " + " and ".join(changed))
print("as stated: the order of the keys is lost by saving, and with it the scale or the shape")
PYTHON
