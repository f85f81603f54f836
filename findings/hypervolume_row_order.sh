#!/bin/sh
# botorch 0.18.1 and pymoo 0.6.1.5: the hypervolume of three points with five objectives depends on the order of rows.
#
# botorch's Hypervolume and pymoo's HV (up to 0.6.1.5; 0.6.2 calls moocore) both compute the dimension sweep of Fonseca,
# Paquete and Lopez-Ibanez. No point dominates another here, all are better than the reference point, and all values
# are small integers. Some values are equal, as they are in every environment with discrete rewards. Three of the six
# orders of the rows give 12.0 and three give 14.0. The two packages are wrong in the same orders, so that their
# agreement proves nothing. botorch's own DominatedPartitioning gives 14.0 in all six orders.
#
# One would expect the volume of a union of boxes not to depend on the order in which the boxes are listed.
#
# Seen for the points a = (1,2,2,1,2), b = (1,2,2,2,1), c = (2,1,1,1,2), maximised, with the reference point 0:
#   order                  abc  acb  bac  bca  cab  cba
#   Hypervolume, HV        12   12   14   14   12   14
#   DominatedPartitioning  14   14   14   14   14   14      by inclusion and exclusion: 14
set -eu
set -- botorch==0.18.1 pymoo==0.6.1.5 torch==2.15.0
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
import itertools
import math
import sys

import numpy
import torch
from botorch.utils.multi_objective.box_decompositions.dominated import DominatedPartitioning
from botorch.utils.multi_objective.hypervolume import Hypervolume
from pymoo.indicators.hv import HV

ZERO = torch.zeros(5, dtype=torch.float64)


def by_sweep(points):
    return Hypervolume(ref_point=ZERO).compute(torch.tensor(points, dtype=torch.float64))


def by_boxes(points):
    boxes = DominatedPartitioning(ref_point=ZERO, Y=torch.tensor(points, dtype=torch.float64))
    return boxes.compute_hypervolume().item()


def by_pymoo(points):
    return float(HV(ref_point=numpy.zeros(5))(-numpy.array(points, dtype=float)))  # pymoo minimises


def by_inclusion_and_exclusion(points):
    return sum(
        (-1) ** (size + 1) * math.prod(min(column) for column in zip(*chosen))
        for size in range(1, len(points) + 1)
        for chosen in itertools.combinations(points, size)
    )


points = {"a": (1, 2, 2, 1, 2), "b": (1, 2, 2, 2, 1), "c": (2, 1, 1, 1, 2)}
orders = ["".join(order) for order in itertools.permutations("abc")]
print("order".ljust(30), *(order.rjust(5) for order in orders))
seen = {}
for what in (by_sweep, by_pymoo, by_boxes, by_inclusion_and_exclusion):
    seen[what] = [what([points[letter] for letter in order]) for order in orders]
    print(what.__name__.ljust(30), *("%5g" % value for value in seen[what]))
swept = [12.0, 12.0, 14.0, 14.0, 12.0, 14.0]
if seen[by_inclusion_and_exclusion] != [14] * 6:
    sys.exit("this script is wrong: the volume is 14")
changed = [what.__name__ for what, stated in ((by_sweep, swept), (by_pymoo, swept), (by_boxes, [14.0] * 6))
           if seen[what] != stated]
if changed:
    sys.exit("the behaviour has changed: " + ", ".join(changed))
print("as stated: Hypervolume and HV give 12 or 14 by the order of the rows")
PYTHON
