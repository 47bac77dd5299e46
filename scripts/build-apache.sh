#!/bin/sh
# Builds httpd's module: build-apache.sh HOST_A OUT_SO, from the host's static library.
set -eu

host=$(realpath "$1") out=$(realpath -m "$2")
cd "$(dirname "$0")/.."
apxs=${APXS:-apxs}
if ! command -v "$apxs" >/dev/null; then
    echo "build-apache.sh: apxs not found; install apache2-dev (Fedora: httpd-devel) or set APXS" >&2
    exit 1
fi
objects=target/apache-build
mkdir -p "$objects" "$(dirname "$out")"

cc=$("$apxs" -q CC)
flags="$("$apxs" -q EXTRA_CPPFLAGS) $("$apxs" -q CFLAGS) -fPIC -fvisibility=hidden
       -ffunction-sections -Wall -Wextra -Werror -Wno-unused-parameter
       -I$("$apxs" -q INCLUDEDIR) -I$("$apxs" -q APR_INCLUDEDIR) -I$("$apxs" -q APU_INCLUDEDIR)"

remember() { # FILE TEXT: leaves the file's time alone when it says so already
    echo "$2" | cmp -s - "$1" || echo "$2" >"$1"
}
remember "$objects/flags" "$cc $flags"
remember "$objects/host" "$host"

is_stale() { # TARGET SOURCE...
    target=$1
    shift
    [ ! -e "$target" ] || [ -n "$(find "$@" -newer "$target")" ]
}

files=
for source in c/apache/*.c; do
    object=$objects/$(basename "$source" .c).o
    if is_stale "$object" "$source" c/apache/burrow_apache.h c/shim.h "$objects/flags"; then
        # shellcheck disable=SC2086 # a list of words
        $cc $flags -c "$source" -o "$object"
    fi
    files="$files $object"
done

# shellcheck disable=SC2086
if is_stale "$out" $files "$host" "$objects/host"; then
    $cc -shared -o "$out" $files "$host" -Wl,--exclude-libs,ALL -Wl,--gc-sections \
        -Wl,-z,nodelete -Wl,-z,relro -Wl,-z,now -lgcc_s -lpthread -ldl -lm
fi
