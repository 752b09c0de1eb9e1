#!/usr/bin/env bash
# Sourced by the other scripts: makes sure that .venv holds the project with the extras named in $1 ("" for none).
# Nothing but Python 3.11 or 3.12 with pip is needed; a .venv that is up to date is used as it is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.12 python3.11 python; do
        if command -v "$candidate" >/dev/null &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: Python 3.11 or 3.12 is needed; name one with PYTHON=/path/to/python" >&2
    return 1
}

setup() {
    local extras=$1 python stamp wanted
    stamp=".venv/.installed${extras:+-$extras}"
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python) || return 1
        echo "setup: creating .venv with $("$python" --version)"
        # Some systems pack ensurepip, which venv takes pip from, apart from Python.
        "$python" -m venv .venv >/dev/null 2>&1 || "$python" -m venv --without-pip .venv || return 1
    fi
    # Made without pip, by another tool, or broken off: any other pip can put one there, and what is there stays.
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
        "$(find_python)" -m pip --python .venv/bin/python install --quiet --disable-pip-version-check pip || return 1
    fi
    wanted=$(cat pyproject.toml constraints.txt | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "setup: installing electra-jax${extras:+ with $extras} (about a minute the first time)"
        .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
            -e ".${extras:+[$extras]}" || return 1
        echo "$wanted" >"$stamp"
    fi
}
