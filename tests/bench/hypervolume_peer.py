"""hypervolume_peer.py - moocore's side of tests/bench/hypervolume.lua. It answers one request per line of standard input with
one line of JSON on standard output:

  load FILE   a file of float64 rows, [n, d] its first two numbers; {"volume": v}
  run N       N computations; {"seconds": processor time of one}
  quit
"""
import json
import sys
import time

import moocore
import numpy as np


def main():
    points = reference = None

    def volume():
        return float(moocore.hypervolume(points, ref=reference, maximise=True))

    print(json.dumps({"moocore": moocore.__version__, "numpy": np.__version__}), flush=True)
    for line in sys.stdin:
        words = line.split(None, 1)
        if words[0] == "quit":
            break
        elif words[0] == "load":
            numbers = np.fromfile(words[1].strip())
            n, d = int(numbers[0]), int(numbers[1])
            points, reference = np.ascontiguousarray(numbers[2:].reshape(n, d)), np.zeros(d)
            print(json.dumps({"volume": volume()}), flush=True)
        elif words[0] == "run":
            n, start = int(words[1]), time.process_time()
            for _ in range(n):
                volume()
            print(json.dumps({"seconds": (time.process_time() - start) / n}), flush=True)


main()
