#!/bin/sh
# venv.sh DIR REQUIREMENTS: a virtual environment of the system's Python with the pinned packages in it.
set -eu
venv=$1 requirements=$2
[ -x "$venv/bin/python" ] || /usr/bin/python3 -m venv "$venv"
if ! cmp -s "$requirements" "$venv/installed.txt"; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$venv/installed.txt"
fi
