#!/bin/sh
# setup.sh [test] [bench] [fresh]: install what building and running Burrow needs and this machine
# lacks; with a word also what that needs. Quick and silent when nothing is missing.
set -eu
rust=1.85

fail() {
    echo "setup: $*" >&2
    exit 1
}

missing_packages() {
    for package; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
        *' installed') ;;
        *) printf '%s ' "$package" ;;
        esac
    done
}

# apt's Python has its library in a package of its own, named after the version
libpython() {
    if [ -x /usr/bin/python3 ]; then
        /usr/bin/python3 -ISc 'import sys; print("libpython%d.%d" % sys.version_info[:2])'
    else
        apt-cache policy python3 | sed -n 's/^  Candidate: \([0-9]*\.[0-9]*\).*/libpython\1/p'
    fi
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# Installing a server starts it, on port 80, and again at each boot. Neither is wanted of a server
# that only Burrow asked for; one that was here before is left as it is.
guarded_install() {
    guard=/usr/sbin/policy-rc.d
    if [ ! -e $guard ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $guard >/dev/null
        trap 'as_root rm -f $guard' EXIT
        trap 'exit 130' INT TERM
        as_root chmod 755 $guard
    fi
    servers=
    for package; do
        case $package in nginx | apache2 | redis-server) servers="$servers $package" ;; esac
    done
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
    if [ -n "$servers" ] && command -v systemctl >/dev/null; then
        # shellcheck disable=SC2086 # a list of words
        as_root systemctl --quiet disable $servers || true
    fi
}

has_rust() {
    version=$(cargo --version 2>/dev/null) || return 1
    version=${version#cargo }
    [ "$(printf '%s\n' "$rust" "${version%% *}" | sort -V | head -n 1)" = "$rust" ]
}

# Debian 12's own cargo is too old; its cargo-web, kept current for browsers, is not.
rust_package() {
    for package in cargo cargo-web; do
        candidate=$(apt-cache policy "$package" | sed -n 's/^  Candidate: \([0-9].*\)/\1/p')
        # a cargo from before 1.75 calls itself 0.x here
        if [ -n "$candidate" ] && dpkg --compare-versions "$candidate" ge "$rust"; then
            echo "$package"
            return
        fi
    done
}

command -v apt-get >/dev/null ||
    fail "this machine has no apt-get: see 'What the build needs' in CONTRIBUTING.md"
PATH=$PATH:$HOME/.cargo/bin

packages="ca-certificates curl gcc libc6-dev make libclang-dev python3 python3-venv $(libpython)
    nginx nginx-dev apache2 apache2-dev"
for extra; do
    case $extra in
    test) packages="$packages chromium chromium-driver nghttp2-client openssl redis-server strace valgrind wrk" ;;
    bench) packages="$packages wrk libev-dev python3-dev uwsgi-core uwsgi-plugin-python3" ;;
    fresh) packages="$packages debootstrap" ;;
    *) fail "unknown argument: $extra" ;;
    esac
done
# shellcheck disable=SC2086 # a list of words
missing=$(missing_packages $packages)
if [ -n "$missing" ] || ! has_rust; then
    [ "$(id -u)" = 0 ] || command -v sudo >/dev/null ||
        fail "needs root to install: ${missing:-Rust} - run as root, or install sudo"
    as_root apt-get update -q
    # known only now where there was no package list yet
    # shellcheck disable=SC2046,SC2086 # lists of words
    missing=$(missing_packages $packages $(libpython))
    has_rust || missing="$missing $(rust_package)"
    # shellcheck disable=SC2086
    [ -z "${missing## }" ] || guarded_install $missing
fi
if ! has_rust; then
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
        sh -s -- -y --quiet --profile minimal --no-modify-path || true
    has_rust || fail "no Rust $rust or newer, and none could be installed: install it from https://rustup.rs, then run this again"
fi
