#!/bin/sh
# Platypus-Opt 1.4.1: a maximised set that is better than the reference set everywhere has the hypervolume 0.
#
# Hypervolume scales by the range of the reference set. With Direction.MINIMIZE the scaled values are clipped to [0, 1],
# so that a better set gets up to 1.0. With Direction.MAXIMIZE nothing is clipped: a point above the range in any
# objective is left out, and a point below it in both objectives of two adds the product of two negative sides, which is
# positive. An optimiser that improves on its reference therefore falls to the worst score, and one that is worse than
# the lower bounds in every objective scores more than that.
#
# One would expect the value of a maximised set to be that of the same problem with all signs turned and minimised.
#
# Seen for the reference set (0,4) (3,3) (4,0), maximised, and the same with all signs turned, minimised:
#   set             maximised   minimised
#   (3,2)           0.3750      0.3750
#   (5,5)           0.0000      1.0000
#   (5,3)           0.0000      0.7500
#   (3,3) (5,5)     0.5625      1.0000
#   (-1,-1)         0.0625      0.0000
set -eu
set -- platypus-opt==1.4.1
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
"$python" - <<'PYTHON'
import sys

from platypus import Direction, Hypervolume, Problem, Real, Solution


def solutions(points, direction):
    problem = Problem(1, 2)
    problem.types[:] = Real(0, 1)
    problem.directions[:] = direction
    sign = 1 if direction == Direction.MAXIMIZE else -1
    made = []
    for point in points:
        solution = Solution(problem)
        solution.objectives[:] = [sign * value for value in point]
        solution.evaluated = True
        made.append(solution)
    return made


def value(points, direction):
    return Hypervolume(reference_set=solutions(REFERENCE, direction)).calculate(solutions(points, direction))


REFERENCE = [(0, 4), (3, 3), (4, 0)]
stated = {
    ((3, 2),): (0.375, 0.375),
    ((5, 5),): (0.0, 1.0),
    ((5, 3),): (0.0, 0.75),
    ((3, 3), (5, 5)): (0.5625, 1.0),
    ((-1, -1),): (0.0625, 0.0),
}
changed = []
for points, expected in stated.items():
    seen = value(points, Direction.MAXIMIZE), value(points, Direction.MINIMIZE)
    print(f"{points}: maximised {seen[0]:.4f}, minimised {seen[1]:.4f}")
    if max(abs(one - other) for one, other in zip(seen, expected)) > 1e-9:
        changed.append(str(points))
if changed:
    sys.exit("the behaviour has changed for " + ", ".join(changed))
print("as stated: the better set scores 0 when it is maximised")
PYTHON
