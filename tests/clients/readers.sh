#!/bin/sh
# readers.sh [PYTHON] - what a run writes, read by real readers: TensorBoard with both of its loaders, pandas, polars and duckdb, in a
# virtual environment below build/readers that is made once, from PyPI. The run is killed in the middle and goes on. No part of
# make test: it needs the network. readers.py has what is asked.
set -eu
cd "$(dirname "$0")/../.."
if [ ! -e build/readers/done ]; then
    "${1:-python3}" -m venv build/readers
    build/readers/bin/pip install -q tensorboard==2.21.0 'setuptools<81' pandas==3.1.1 polars==2.1.0 duckdb==2.0.1
    touch build/readers/done
fi
NO_PROXY=127.0.0.1,localhost build/readers/bin/python tests/clients/readers.py
