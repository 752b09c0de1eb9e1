#!/usr/bin/env bash
# Trains on several GPU nodes under SLURM, one task a GPU; submitted in the project's folder, where .venv is:
#
#   sbatch --nodes=4 --gpus-per-node=8 --ntasks-per-node=8 scripts/launch/slurm.sh \
#       pretrain --config configs/base.py --data DATA --workdir RUN
#
# Before the time is up and where the job is pre-empted, SLURM sends SIGTERM: the run saves, and the job goes back into
# the queue to resume. Any other end is the job's. What is given to sbatch goes before what stands here.
#SBATCH --job-name=electra-jax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail

fail() {
    echo "slurm: $1" >&2
    exit 2
}

[ -n "${SLURM_JOB_ID:-}" ] || fail "give this script to sbatch: sbatch scripts/launch/slurm.sh pretrain ..."
[ $# -gt 0 ] || fail "say what to run, such as: sbatch scripts/launch/slurm.sh pretrain --config configs/base.py ..."
cd "$SLURM_SUBMIT_DIR"
[ -x .venv/bin/electra-jax ] ||
    fail "there is no .venv in $PWD: make it on the login node with bash -c '. scripts/setup.sh; setup cuda'"

# JAX picks each task's GPU among all of the node's, so none may be hidden from it. No task is killed because another
# has ended: all save together, or end together within seconds.
code=0
srun --kill-on-bad-exit=0 --gpu-bind=none ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} \
    .venv/bin/electra-jax "$@" || code=$?
if [ "$code" = 143 ]; then # stopped by SIGTERM, with its step saved
    echo "slurm: job $SLURM_JOB_ID goes back into the queue"
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
