#!/bin/bash
# build-nginx.sh HOST_A OUT_SO: the nginx module, for the installed nginx (Debian's nginx-dev has its
# headers) or for the source tree in NGX_SRC. HOST_A is libburrow_host.a. Compiles what has changed.
set -eu
host=$(realpath "$1") out=$2
addon=$(realpath "$(dirname "$0")/../c/nginx")
build=$PWD/target/nginx-build
source=${NGX_SRC:-/usr/share/nginx/src}

fail() {
    echo "build-nginx: $*" >&2
    exit 1
}

if [ ! -x "$source/configure" ]; then
    [ -z "${NGX_SRC:-}" ] || fail "NGX_SRC=$source is no nginx source tree: it has no configure"
    fail "nginx's headers are missing: apt install nginx-dev"
fi
source=$(realpath "$source")

# A module loads only where it agrees with nginx about what is compiled in: so, nginx's own flags, but
# without the modules that it loads itself.
if [ -f "$source/conf_flags" ]; then
    # shellcheck source=/dev/null
    . "$source/conf_flags"
else
    nginx=$(PATH=$PATH:/usr/sbin:/usr/local/sbin:/usr/local/nginx/sbin command -v nginx || true)
    flags=$([ -z "$nginx" ] || "$nginx" -V 2>&1 | sed -nE \
        's/--(with-[a-z_]+=dynamic|add-(dynamic-)?module=[^ ]+)//g; s/^configure arguments: //p')
    eval "NGX_CONF_FLAGS=(--with-compat $flags)"
fi

configure=("$source/configure" "${NGX_CONF_FLAGS[@]}" "--builddir=$build" "--add-dynamic-module=$addon"
    "--with-cc-opt=-O2 -g -Wall -Wextra -Wno-unused-parameter -Werror")
configured="$host ${configure[*]} $(cat "$addon/config" "$source/src/core/nginx.h" | cksum)"
if [ "$configured" != "$(cat "$build/configured" 2>/dev/null)" ]; then
    rm -rf "$build"
    mkdir -p "$build"
    (cd "$source" && BURROW_HOST=$host "${configure[@]}") >"$build/configure.log" 2>&1 || {
        cat "$build/configure.log" >&2
        fail "nginx's configure failed"
    }
    echo "$configured" >"$build/configured"
fi

module=$build/ngx_http_burrow_module.so
if [ "$host" -nt "$module" ]; then
    rm -f "$module" # make does not know that it is made of the host, too
fi
make -C "$source" -f "$build/Makefile" --silent "$module"
# A new inode: a running nginx may have the old one mapped.
install -D -m 644 "$module" "$out.$$"
mv "$out.$$" "$out"
