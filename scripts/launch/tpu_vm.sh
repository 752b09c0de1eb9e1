#!/usr/bin/env bash
# On a TPU VM, alone or one host of a slice: sets up, and runs an electra-jax command that outlives the connection.
#
#   scripts/launch/tpu_vm.sh pretrain --config configs/base.py --data DATA --workdir RUN
#   scripts/launch/tpu_vm.sh --stop
#
# The same command again follows the run where it still goes on, and resumes it where it has ended; Ctrl-C ends only
# the following. --stop sends SIGTERM, upon which the run saves and ends. Ends with the run's exit code.
# EXTRAS names other extras than tpu to install.
set -euo pipefail
. "$(dirname "$0")/../setup.sh"

fail() {
    echo "tpu_vm: $1" >&2
    exit 2
}

run() {
    local state=$1 code=0
    shift
    trap : TERM # the run gets it too, and says how it ended
    . scripts/setup.sh
    { setup "${EXTRAS-tpu}" && .venv/bin/electra-jax "$@"; } || code=$?
    echo "$code" >"$state/code"
}

[ $# -gt 0 ] || fail "say what to run, such as: scripts/launch/tpu_vm.sh pretrain --config configs/base.py --data ..."
state=${XDG_STATE_HOME:-$HOME/.local/state}/electra_jax/here
mkdir -p "$state"
# Held by the run, whoever follows it; the system lets go of it when the run ends, however it ends.
exec 9>>"$state/lock"
if [ "$1" = --stop ]; then
    ! flock --nonblock 9 || fail "nothing runs here"
    kill -TERM -- "-$(cat "$state/pid")"
elif flock --nonblock 9; then
    printf '%q ' "$@" >"$state/command"
    : >"$state/log"
    rm -f "$state/code"
    setsid bash -c "$(declare -f run); run \"\$@\"" run "$state" "$@" </dev/null >>"$state/log" 2>&1 &
    echo $! >"$state/pid"
    exec 9>&- 9>>"$state/lock" # what is waited for below is the run's hold, not this one
elif [ "$(cat "$state/command")" != "$(printf '%q ' "$@")" ]; then
    fail "here runs already: electra-jax $(cat "$state/command")(scripts/launch/tpu_vm.sh --stop ends it)"
fi
tail --lines=+1 --follow --pid="$(cat "$state/pid")" "$state/log"
flock 9
code=$(cat "$state/code" 2>/dev/null || echo 137)
echo "tpu_vm: the run on $(hostname) ended with exit code $code"
[ "$1" = --stop ] || exit "$code"
