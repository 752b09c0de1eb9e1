#!/usr/bin/env bash
# Everything that is checked on a machine with a GPU, in one command, without a network:
#
#   scripts/gpu_checks.sh [--dry] [--parts FOLDER] [--only PART] [--out FOLDER]
#
# --parts FOLDER  wheels/*.whl are installed beside what the machine has, data/ is a data set that `prepare` made for
#                 `small` (length 128, 30,522 pieces), torch_electra_step.py is the peer; what is not there is left out
# --only PART     tests, steps or training alone: none of them should take ten minutes; what an earlier call wrote of the
#                 others into --out stays
# --out FOLDER    where results.json and results.md go (default: docs/results/gpu)
# --dry           the same from end to end at toy sizes, on the CPU too
set -euo pipefail
cd "$(dirname "$0")/.."
parts="" dry="" only="" out=docs/results/gpu
while [ $# -gt 0 ]; do
    case $1 in
    --dry) dry=--dry ;;
    --parts) parts=$2 && shift ;;
    --only) only=$2 && shift ;;
    --out) out=$2 && shift ;;
    *) echo "gpu_checks: unknown argument $1; see the head of $0" >&2 && exit 2 ;;
    esac
    shift
done
python=python3
[ -x .venv/bin/python ] && python=.venv/bin/python
if [ -n "$parts" ] && ls "$parts"/wheels/*.whl >/dev/null 2>&1; then
    site=$(mktemp -d)
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$parts"/wheels/*.whl
    export PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}"
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
exec "$python" scripts/gpu_checks.py $dry ${parts:+--parts "$parts"} ${only:+--only "$only"} --out "$out"
