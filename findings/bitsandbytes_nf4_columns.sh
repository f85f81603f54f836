#!/bin/sh
# bitsandbytes 0.50.2 on a processor with AVX-512: 4-bit weights come back as other numbers where the number of columns
# is a multiple of 16 and not of the block size.
#
# quantize_4bit cuts a matrix, row after row, into blocks of 64 numbers, each with its own absmax. With 80 columns a
# block goes on from one row into the next. The codes and absmax that it gives are right: their product by the formula
# in the documentation is as near to the weights as 4 bits allow. dequantize_4bit, which is what a 4-bit layer
# multiplies with, gives other numbers. 72 and 100 columns are right, and so is a matrix of one row. No warning is
# given.
#
# One would expect dequantize_4bit to be the inverse of quantize_4bit but for rounding, whatever the shape.
#
# Seen with 16 rows of normal numbers (seed 0), the largest error by the formula and by dequantize_4bit:
#   64 columns  0.36 0.36      96 columns  0.39 2.04      100 columns  0.39 0.39
#   80 columns  0.39 1.86      72 columns  0.39 0.39      128 columns  0.39 0.39
set -eu
set -- bitsandbytes==0.50.2 torch==2.15.0
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
"$python" -W ignore - <<'PYTHON'
import sys

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit

if torch.backends.cpu.get_cpu_capability() != "AVX512":
    sys.exit("this processor has no AVX-512, so the kernel that is shown here does not run")


def errors(rows, columns):
    """The largest distance from the weights: of code times absmax, and of what dequantize_4bit gives."""
    torch.manual_seed(0)
    weight = torch.randn(rows, columns)
    packed, state = quantize_4bit(weight, blocksize=64, quant_type="nf4")
    codes = torch.stack([packed.flatten() >> 4, packed.flatten() & 15], 1).flatten()[: weight.numel()].long()
    scale = state.absmax.repeat_interleave(64)[: weight.numel()]
    formula = (state.code[codes] * scale).reshape(rows, columns)
    back = dequantize_4bit(packed, state)
    return (formula - weight).abs().max().item(), (back - weight).abs().max().item()


changed = False
for rows, columns, wrong in [(16, 64, False), (16, 72, False), (16, 80, True), (16, 96, True), (16, 100, False),
                             (16, 128, False), (1, 80, False)]:
    formula, back = errors(rows, columns)
    print(f"{rows:2} x {columns:3}: by the formula {formula:.2f}, by dequantize_4bit {back:.2f}")
    changed |= formula > 0.5 or (back > 1.5 * formula) != wrong
if changed:
    sys.exit("bitsandbytes behaves otherwise now")
PYTHON
