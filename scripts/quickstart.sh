#!/usr/bin/env bash
# From nothing to a model that detects replaced words, in at most 12 minutes on two CPU cores: sets up, makes a data
# set of the docstrings that came with Python, pre-trains `tiny` on it, and shows what was learned.
# Arguments go to `electra-jax pretrain`. The run lies in runs/quickstart; the same command goes on where it stopped.
. "$(dirname "$0")/setup.sh"
setup ""
data=data/docstrings run=runs/quickstart
if [ ! -f "$data/meta.json" ]; then
    .venv/bin/electra-jax prepare --corpus docstrings --length 64 --vocab-size 4096 --out "$data"
fi
.venv/bin/electra-jax pretrain --config configs/tiny.py --data "$data" --workdir "$run" "$@"
.venv/bin/electra-jax evaluate --run "$run" --data "$data" --table
echo
echo "A sentence with a planted wrong word: \"return\" became \"number\"."
.venv/bin/electra-jax detect --run "$run" \
    "If the file does not exist, number an empty list of the names of the files in the directory."
echo
echo "The curves are in $run/curves.png. Next: the five-minute tour in README.md."
