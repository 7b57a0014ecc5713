#!/bin/sh
# Builds @NAME@.wasm. Needs Python with venv, and pip gets the rest:
#
#   apt install python3-venv

set -eu
cd "$(dirname "$0")"

venv=.build/python
if [ ! -x "$venv/bin/componentize-py" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "componentize-py==@COMPONENTIZE_PY@"
fi
"$venv/bin/componentize-py" --quiet --wit-path wit --world service \
    componentize --python-path . app --output "@NAME@.wasm"
