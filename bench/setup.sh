#!/usr/bin/env bash
# Makes the Python environment of the peers, bench/.venv, from the pinned list
# bench/requirements.txt. Needs Python 3.11 or newer and a few gigabytes; the
# program itself needs none of it. torch.compile also wants a C++ compiler.
#
#   bench/setup.sh              with python3
#   PYTHON=python3.12 bench/setup.sh
set -euo pipefail
cd "$(dirname "$0")"

"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
    printf 'error: %s is older than 3.11; name a newer one: PYTHON=python3.12 bench/setup.sh\n' "${PYTHON:-python3}" >&2
    exit 1
}
"${PYTHON:-python3}" -m venv .venv
.venv/bin/python -m pip install --quiet --upgrade pip
.venv/bin/python -m pip install --requirement requirements.txt
.venv/bin/python peer.py versions
