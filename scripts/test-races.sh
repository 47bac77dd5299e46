#!/bin/bash
# test-races.sh [PYTHON...]: interpreters with locks of their own, or of a free-threaded Python, hot on threads of
# their own, under ThreadSanitizer: with these Pythons, or with the newest found. What is looked at is Rust's: the
# runtime, its crates and the standard library, all built for it; of CPython, which is not, only its locks are seen.
# Takes the sources of Rust's library.
# test-races.sh build VERSION: only builds for it. test-races.sh run FOLDER PYTHON: runs what was built there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=target/races
export TSAN_OPTIONS="ignore_noninstrumented_modules=1 ${TSAN_OPTIONS:-}"

# "<version> <library>", where interpreters can have a lock each, or none, and there is a library.
describe() {
    "$1" -ISc '
import os, sys
from sysconfig import get_config_var as var
if sys.version_info >= (3, 12) and var("Py_ENABLE_SHARED"):
    free_threaded = "t" if var("Py_GIL_DISABLED") else ""
    print("%d.%d" % sys.version_info[:2] + free_threaded, os.path.join(var("LIBDIR"), var("INSTSONAME")))'
}

newest() {
    for python in /usr/bin/python3 /usr/bin/python3.1? "${PYENV_ROOT:-$HOME/.pyenv}"/versions/*/bin/python3; do
        [ ! -x "$python" ] || echo "$(describe "$python" 2>/dev/null) $python"
    done | grep '^3' | sort -V | tail -n 1 | cut -d' ' -f3
}

# build VERSION: into target/races/VERSION. RUSTC_BOOTSTRAP, since sanitizers are no part of stable Rust.
build() {
    local version=$1 flags="" machine sources
    case $version in *t) flags=Py_GIL_DISABLED ;; esac
    machine=$(rustc -vV | sed -n 's/^host: //p')
    sources=$(rustc --print sysroot)/lib/rustlib/src/rust/library/std
    [ -d "$sources" ] || rustup component add rust-src ||
        { echo "test-races: there is no $sources: rustup component add rust-src" >&2; exit 1; }
    mkdir -p "$target/$version"
    printf '%s\n' implementation=CPython "version=${version%t}" shared=true pointer_width=64 \
        "build_flags=$flags" suppress_build_script_link_lines=true >"$target/$version/pyo3"
    # The runtime finds the sanitizer in the program. 3.13t is as build-runtimes.sh has it.
    UNSAFE_PYO3_SKIP_VERSION_CHECK=1 RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=thread -Clink-arg=-rdynamic" \
        PYO3_CONFIG_FILE=$PWD/$target/$version/pyo3 cargo build --quiet --locked --profile quick \
        -Zbuild-std=std,panic_abort --target "$machine" --target-dir "$target" -p burrow-races -p burrow-runtime
    cp "$target/$machine/quick"/{burrow-races,libburrow_runtime.so} "$target/$version/"
}

# run FOLDER PYTHON
run() {
    local version library
    read -r version library < <(describe "$2")
    "$1/burrow-races" "$version" "$library" "$PWD/$1/libburrow_runtime.so" "$2" "$PWD/tests/apps"
    echo "test-races: none with Python $version"
}

case ${1:-} in
build | run)
    "$@"
    exit
    ;;
esac
pythons=("$@")
[ $# != 0 ] || mapfile -t pythons < <(newest)
[ ${#pythons[@]} != 0 ] || { echo "test-races: there is no Python 3.12 or newer with a shared library" >&2; exit 1; }
for python in "${pythons[@]}"; do
    read -r version _ < <(describe "$python")
    build "$version"
    run "$target/$version" "$python"
done
