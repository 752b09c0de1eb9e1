#!/usr/bin/env bash
# Trains on a slice of TPU hosts, asked for as a queued resource, and anew each time that it is taken away:
#
#   scripts/launch/tpu_slice.sh NAME --zone ZONE --type TYPE --version VERSION [OPTIONS] -- COMMAND...
#
# NAME               the queued resource's and the slice's; nothing that this script did not create is ever deleted
# --type TYPE        the slice, such as v5litepod-64 or v6e-256
# --version VERSION  the hosts' system, such as v2-alpha-tpuv5-lite or v2-alpha-tpuv6e
# --project PROJECT  where it is not gcloud's own
# --spot             cheaper, and taken away at any time
# --before COMMAND   what each host runs first, such as the mount of the folder that all of them see
# --create FLAG      one more flag of `gcloud compute tpus queued-resources create`; can be given several times
# --internal-ip      reaches the hosts by their internal addresses
# --keep             leaves the slice in the end
# --poll SECONDS     between two looks at the slice (30)
# --dry-run          prints what one round does, and does nothing
# COMMAND            of electra-jax, run on all hosts: pretrain --config configs/base.py --data DATA --workdir RUN
#
# Ends with 0 when the run has ended, and 2 when it says that the command must be mended. Ctrl-C leaves slice and run
# as they are; the same again finds and follows them.
set -euo pipefail
cd "$(dirname "$0")/../.."

fail() {
    echo "tpu_slice: $1" >&2
    exit "${2:-2}"
}

say() {
    echo "tpu_slice: $(date +%T) $1"
}

name="" zone="" type="" version="" before=: poll=30 keep="" dry="" everywhere=(--quiet) asked=() reached=(--worker=all)
while [ $# -gt 0 ] && [ "$1" != -- ]; do
    case $1 in
    --spot) asked+=(--spot) ;;
    --internal-ip) reached+=(--internal-ip) ;;
    --keep) keep=yes ;;
    --dry-run) dry=yes ;;
    --zone | --type | --version | --project | --before | --create | --poll)
        [ "${2:---}" != -- ] || fail "$1 needs a value"
        case $1 in
        --zone) zone=$2 ;;
        --type) type=$2 ;;
        --version) version=$2 ;;
        --project) everywhere+=("--project=$2") ;;
        --before) before=$2 ;;
        --create) asked+=("$2") ;;
        --poll) poll=$2 ;;
        esac
        shift
        ;;
    -*) fail "there is no option $1; see the head of scripts/launch/tpu_slice.sh" ;;
    *)
        [ -z "$name" ] || fail "one name is enough: $name or $1 (the command comes after --)"
        name=$1
        ;;
    esac
    shift
done
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "the first argument is a name of a-z, 0-9 and -, not '$name'"
[[ -n $zone && -n $type && -n $version ]] || fail "--zone, --type and --version are needed"
[[ $poll =~ ^[0-9]+$ ]] || fail "--poll is a number of seconds, not '$poll'"
[ $# -gt 1 ] || fail "say after -- what to run, such as: -- pretrain --config configs/base.py --data ... --workdir ..."
shift
everywhere+=("--zone=$zone")
asked+=("--node-id=$name" "--accelerator-type=$type" "--runtime-version=$version")
command="cd electra-jax && scripts/launch/tpu_vm.sh$(printf ' %q' "$@")"

create() {
    gcloud compute tpus queued-resources create "$name" "${asked[@]}" "${everywhere[@]}"
}

delete() {
    gcloud compute tpus queued-resources delete "$name" --force "${everywhere[@]}"
}

copy() {
    gcloud compute tpus tpu-vm scp "$archive" "$name:electra-jax.tar.gz" "${reached[@]}" "${everywhere[@]}" &&
        on_all "mkdir -p electra-jax && tar -xzf electra-jax.tar.gz -C electra-jax && { $before; }"
}

on_all() {
    gcloud compute tpus tpu-vm ssh "$name" --command="$1" "${reached[@]}" "${everywhere[@]}"
}

archive=electra-jax.tar.gz
if [ -n "$dry" ]; then
    gcloud() {
        printf '%q ' gcloud "$@"
        echo
    }
    create
    echo "# … until it is ACTIVE"
    copy
    on_all "$command"
    echo "# … and where the slice was taken away meanwhile, or in the end:"
    delete
    exit
fi

command -v gcloud >/dev/null || fail "gcloud is not installed here" 1
folder=${XDG_STATE_HOME:-$HOME/.local/state}/electra_jax/slices
mkdir -p "$folder"
record=$folder/$zone.$name log=$folder/$zone.$name.log
packed=$(mktemp -d)
archive=$packed/electra-jax.tar.gz
trap 'rm -rf "$packed"' EXIT
trap 'echo; fail "left as it is: the same command again goes on; \
gcloud compute tpus queued-resources delete $name --force ${everywhere[*]} ends it" 130' INT TERM
COPYFILE_DISABLE=1 tar --exclude=__pycache__ -czf "$archive" \
    README.md LICENSE pyproject.toml constraints.txt configs scripts electra_jax

# What a mistake of the caller's makes fail is told at once; later it is the network or the service.
tries=1
attempt() {
    local try
    for ((try = 1; ; try++)); do
        "$@" && return
        [ "$try" -lt "$tries" ] || return 1
        sleep "$poll"
    done
}

# Sets `state` and `born`, both empty where there is no such queued resource.
look() {
    local found
    found=$(attempt gcloud compute tpus queued-resources list --filter="name~(^|/)$name\$" \
        --format="value(state.state,createTime)" "${everywhere[@]}") || fail "gcloud cannot list queued resources" 1
    IFS=$'\t' read -r state born <<<"$found"
    if [ -n "$state" ] && [ "$born" != "$(cat "$record" 2>/dev/null)" ]; then
        fail "a queued resource $name is in $zone already, and this script did not create it here: choose another name"
    fi
}

ask() {
    say "asking for $name, $type"
    rm -f "$record"
    attempt create || fail "gcloud cannot create $name" 1
    tries=5
    # When it was created tells it from one of the same name that somebody else creates later.
    attempt is_recorded || fail "$name was created but is not listed: look for it, it may cost" 1
}

is_recorded() {
    gcloud compute tpus queued-resources describe "$name" --format="value(createTime)" "${everywhere[@]}" >"$record"
}

give_back() {
    say "deleting $name, which is $state"
    attempt delete || fail "gcloud cannot delete $name: look after it, it may cost" 1
}

finish() {
    say "$2"
    if [ -z "$keep" ]; then
        look
        [ -z "$state" ] || give_back
    fi
    exit "$1"
}

train() {
    : >"$log"
    if [ "$copied" != "$born" ]; then
        say "$name is there: copying the project to its hosts"
        copy 2>&1 | tee "$log" || return
        copied=$born
    fi
    say "running electra-jax $*"
    on_all "$command" 2>&1 | tee -a "$log"
}

copied="" before_that="" refused=0 failed=0
while true; do
    look
    [ "$state" = "$before_that" ] || say "$name is ${state:-not there}"
    before_that=$state
    case $state in
    "") ask ;;
    ACTIVE)
        refused=0 began=$SECONDS code=0
        train "$@" || code=$?
        [ "$code" != 0 ] || finish 0 "the run has ended"
        # One host's mistake is the others' lost neighbour, and gcloud tells the exit code of only one of them.
        ! grep -q "ended with exit code 2\$" "$log" || finish 2 "the command must be mended; what it said is in $log"
        tries=5
        sleep "$poll"
        look
        if [ "$state" = ACTIVE ] && [ $((SECONDS - began)) -lt 600 ]; then failed=$((failed + 1)); else failed=0; fi
        [ "$failed" -lt 3 ] || finish "$code" "the run failed three times soon after its start; what it said is in $log"
        ;;
    FAILED | SUSPENDED)
        if [ "$state" = FAILED ]; then
            refused=$((refused + 1))
            gcloud compute tpus queued-resources describe "$name" "${everywhere[@]}" || true
        fi
        [ "$refused" -lt 3 ] || finish 1 "$name was refused three times, as shown above"
        give_back
        ;;
    *) sleep "$poll" ;;
    esac
done
