#!/usr/bin/env bash
# Sets up and runs everything that is checked: lint, format, types, tests, two files of tests at a time.
# Arguments go to pytest; -n 0 runs one at a time, as --pdb needs it. EXTRAS=dev leaves torch, Transformers and
# TensorFlow out: what is compared with them is then compared with answers of theirs that were kept.
. "$(dirname "$0")/setup.sh"
if ! setup "${EXTRAS:-dev,parity,tf}"; then
    [ -z "${EXTRAS:-}" ] || exit 1
    echo "test: torch, Transformers or TensorFlow cannot be installed here; kept answers of theirs stand in" >&2
    setup dev
fi
export JAX_PLATFORMS=${JAX_PLATFORMS:-cpu}
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder "$@"
