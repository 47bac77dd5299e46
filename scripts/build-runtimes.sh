#!/bin/sh
# build-runtimes.sh PROFILE OUT_DIR: one OUT_DIR/<SOABI>.so for each CPython >= 3.10 found, and worker.py.
# PYTHONS="/path/to/python3 ..." replaces the search; the system's own Python is always built for.
set -eu
profile=$1 out=$2
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac

candidates() {
    for python in /usr/bin/python3 ${PYTHONS:-/usr/bin/python3.1? /usr/bin/python3.1?t \
        /usr/local/bin/python3 /usr/local/bin/python3.1? /usr/local/bin/python3.1?t \
        "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3 \
        "${UV_PYTHON_INSTALL_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/uv/python}"/*/bin/python3}; do
        if [ -x "$python" ]; then
            echo "$python"
        elif [ -n "${PYTHONS:-}" ] && [ "$python" != /usr/bin/python3 ]; then
            echo "PYTHONS: no such python: $python" >&2
            exit 1
        fi
    done
}

# "<SOABI> <version> <pointer width> <build flag>...", nothing for a Python that Burrow does not support.
describe() {
    "$1" -ISc '
import struct, sys
from sysconfig import get_config_var as var
if sys.version_info >= (3, 10) and sys.implementation.name == "cpython":
    flags = ("Py_DEBUG", "Py_REF_DEBUG", "Py_TRACE_REFS", "Py_GIL_DISABLED")
    about = [var("SOABI"), "%d.%d" % sys.version_info[:2], str(struct.calcsize("P") * 8)]
    print(" ".join(about + [flag for flag in flags if var(flag)]))
' || echo "$1: does not run; no runtime for it" >&2
}

# Built from a description alone (no interpreter runs), each in a target folder of its own: a change
# of Python in a shared one would rebuild it each time. Temporary files are named after this process:
# another one may build the same.
build() {
    soabi=$1 version=$2 width=$3
    shift 3
    flags=$(echo "$*" | tr ' ' ,)
    target=target/runtime/$soabi
    mkdir -p "$target"
    # most of it is the same for every Python; whole, or not at all
    if [ -d "$seed" ] && [ ! -d "$target/$folder" ]; then
        cp -a "$seed" "$target/seed.$$"
        mv -T "$target/seed.$$" "$target/$folder" || rm -rf "$target/seed.$$"
    fi
    printf '%s\n' implementation=CPython "version=$version" shared=true "pointer_width=$width" \
        "build_flags=$flags" suppress_build_script_link_lines=true >"$target/pyo3.$$"
    # cargo goes by the file's time
    if cmp -s "$target/pyo3.$$" "$target/pyo3"; then rm "$target/pyo3.$$"; else mv "$target/pyo3.$$" "$target/pyo3"; fi
    # pyo3-ffi holds 3.13t back as a whole; its declarations of what the runtime uses are right there
    UNSAFE_PYO3_SKIP_VERSION_CHECK=1 PYO3_CONFIG_FILE=$PWD/$target/pyo3 \
        cargo build --quiet --locked --profile "$profile" -p burrow-runtime --target-dir "$target"
    built=$target/$folder/libburrow_runtime.so
    if ! cmp -s "$built" "$out/$soabi.so"; then
        # a new inode: a running server may have the old one mapped
        install -D -m 644 "$built" "$out/$soabi.so.$$"
        mv "$out/$soabi.so.$$" "$out/$soabi.so"
        echo "runtime $soabi"
    fi
}

if [ "${3:-}" = --one ]; then
    shift 3
    build "$@"
    exit
fi
# what a daemon process's python runs first
worker=runtime/src/worker/worker.py
cmp -s $worker "$out/worker.py" || install -D -m 644 $worker "$out/worker.py"
found=$(candidates)
found=$(echo "$found" | while read -r python; do describe "$python"; done | sort -u -k1,1)
export seed="target/runtime/${found%% *}/$folder"
[ -d "$seed" ] || echo "$found" | sed q | xargs -r -L 1 "$0" "$profile" "$out" --one
echo "$found" | xargs -r -P "$(nproc)" -L 1 "$0" "$profile" "$out" --one
