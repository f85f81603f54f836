#!/bin/sh
# transformers 5.24.0: a BART classifier with two labels cannot be loaded from the directory that it was saved in.
#
# The number of labels is stored as the table id2label, and a table that is the default one is left out of config.json.
# That of most families has two labels, so two labels are not written. BART's own default is three, and it is the one
# that counts at loading: the saved head of two rows meets a model of three. With four labels the table is written, and
# with three the default is right, so two is the only number that fails, and it is the most common one.
#
# One would expect from_pretrained to load what save_pretrained of the same version wrote.
#
# Seen: keys of config.json with "label" in their names, and what loading gives.
#   2 labels: []                        RuntimeError (head of 2 rows, model of 3)
#   3 labels: ['id2label', 'label2id']  3 labels
#   4 labels: ['id2label', 'label2id']  4 labels
set -eu
set -- transformers==5.24.0 torch==2.15.0
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
HF_HUB_OFFLINE=1 "$python" -W ignore - 2> "$work/log" <<'PYTHON' || { cat "$work/log" >&2; exit 1; }
import json
import sys

from transformers import BartConfig, BartForSequenceClassification


def outcome(labels):
    """The keys about labels in config.json, and the number of labels of the model that is loaded again."""
    config = BartConfig(vocab_size=40, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
                        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32,
                        num_labels=labels)
    folder = f"bart-{labels}"
    BartForSequenceClassification(config).save_pretrained(folder)
    with open(f"{folder}/config.json") as file:
        keys = sorted(key for key in json.load(file) if "label" in key)
    try:
        return keys, BartForSequenceClassification.from_pretrained(folder).config.num_labels
    except RuntimeError:
        return keys, "RuntimeError"


seen = {labels: outcome(labels) for labels in (2, 3, 4)}
for labels, (keys, loaded) in seen.items():
    print(f"{labels} labels: {keys} {loaded}")
if [loaded for _, loaded in seen.values()] != ["RuntimeError", 3, 4] or seen[2][0]:
    sys.exit("transformers behaves otherwise now")
PYTHON
