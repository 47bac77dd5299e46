#!/bin/bash
# test-matrix.sh [NAME...]: a part of the end-to-end tests with servers and Pythons that this machine lacks, in Debian
# trees of their own: trixie and forky. "free-threaded" builds Python 3.13 without its lock and tests it in trixie.
# Host and runtimes are built here, the server modules there. Needs root.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then exec sudo -E "$0" "$@"; fi
scripts/setup.sh test fresh

names=("${@:-trixie free-threaded forky}")
read -ra names <<<"${names[*]}"
mirror=${MIRROR:-http://deb.debian.org}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/burrow/matrix
profile=${PROFILE:-release}
work=$(mktemp -d /var/tmp/burrow-matrix.XXXXXX)
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

# What shows whether servers, Python and Burrow get along; each takes seconds.
selection=(tests/test_environ.py tests/test_responses.py tests/test_body.py tests/test_faults.py tests/test_state.py
    tests/test_process.py tests/test_asgi.py tests/test_http3.py tests/test_interpreters.py
    tests/test_daemon.py)

step() {
    printf '\n== %s\n' "$*"
}

# in_tree TREE COMMAND...: with its own processes and mounts, and this machine's way to the registries.
in_tree() {
    local tree=$1
    shift
    mapfile -t network < <(env | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|PIP_|SSL_CERT_FILE=)' || true)
    # shellcheck disable=SC2016 # expanded there
    unshare --mount --pid --fork --kill-child sh -c '
        tree=$1
        shift
        mount --rbind /dev "$tree/dev"
        mount -t proc proc "$tree/proc"
        if [ -d /opt/wheels ]; then mkdir -p "$tree/opt/wheels" && mount --bind /opt/wheels "$tree/opt/wheels"; fi
        chroot "$tree" "$@"' sh "$tree" env -i HOME=/root LANG=C.UTF-8 TERM=dumb DEBIAN_FRONTEND=noninteractive \
        "${network[@]}" PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# The tree of a suite with what the tests need, kept from run to run.
tree_of() {
    local suite=$1 tree=$cache/$1 script=$1
    [ -e "/usr/share/debootstrap/scripts/$suite" ] || script=sid
    if [ ! -e "$tree/ready" ]; then
        step "a tree of Debian $suite, kept in $tree" >&2
        rm -rf --one-file-system "$tree"
        mkdir -p "$cache"
        debootstrap --variant=minbase --include=ca-certificates "$suite" "$tree" "$mirror/debian" \
            "/usr/share/debootstrap/scripts/$script" >&2
        echo "deb-src $mirror/debian $suite main" >>"$tree/etc/apt/sources.list"
        { ls /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt 2>/dev/null || true
            grep -ls 'Acquire::' /etc/apt/apt.conf.d/* || true; } |
            tar -chf - --files-from - --absolute-names | tar -xf - -C "$tree" --absolute-names --transform "s,^,$tree,"
        # A server that is installed is not to be started.
        printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
        chmod 755 "$tree/usr/sbin/policy-rc.d"
        # shellcheck disable=SC2016 # expanded there
        in_tree "$tree" sh -euc '
            apt-get update -q -o Acquire::Check-Valid-Until=false
            pythons=$(apt-cache search --names-only "^python3\.[0-9]+$" | cut -d" " -f1)
            for python in $pythons; do packages="${packages:-} $python $python-venv lib$python"; done
            apt-get install -y -q --no-install-recommends gcc libc6-dev make nginx nginx-dev apache2 apache2-dev \
                python3 curl openssl nghttp2-client strace procps $packages' >&2
        touch "$tree/ready"
    fi
    echo "$tree"
}

# Python 3.13 without its lock, from Debian's source: no package has it.
build_free_threaded() {
    local tree=$1
    [ ! -x "$tree/opt/python3.13t/bin/python3" ] || return 0
    step "Python 3.13 without its lock"
    in_tree "$tree" sh -euc '
        apt-get install -y -q --no-install-recommends dpkg-dev libssl-dev zlib1g-dev libffi-dev libsqlite3-dev
        mkdir -p /usr/src/python && cd /usr/src/python
        apt-get source -q --download-only python3.13
        tar -xf python3.13_*.orig.tar.xz --strip-components=1
        ./configure -q --disable-gil --enable-shared --prefix=/opt/python3.13t LDFLAGS=-Wl,-rpath,/opt/python3.13t/lib
        make -s -j"$(nproc)"
        make -s install
        rm -rf /usr/src/python'
}

# Python 3.14 without its lock is only built for; its headers are those of the one with a lock.
check_layouts() {
    local tree=$1 build=target/runtime/cpython-314t-$machine
    step "layouts of Python 3.14 without its lock"
    in_tree "$tree" apt-get install -y -q --no-install-recommends libpython3.14-dev
    UNSAFE_PYO3_SKIP_VERSION_CHECK=1 PYO3_CONFIG_FILE=$PWD/$build/pyo3 \
        cargo run --quiet --locked --profile "$profile" -p burrow-runtime --example layouts --target-dir "$build" |
        in_tree "$tree" gcc -fsyntax-only -DPy_GIL_DISABLED=1 -I/usr/include/python3.14 -x c - ||
        failed+=("layouts of 3.14t")
}

# run_races NAME TREE PYTHON: what scripts/test-races.sh does, built here.
run_races() {
    local name=$1 tree=$2 python=$3 folder
    folder=target/races/${python##*python}
    scripts/test-races.sh build "${python##*python}"
    mkdir -p "$tree/srv/burrow/$folder"
    cp "$folder"/{burrow-races,libburrow_runtime.so} "$tree/srv/burrow/$folder/"
    in_tree "$tree" "/srv/burrow/scripts/test-races.sh" run "$folder" "$python" || failed+=("$name: races")
}

# run_tests NAME TREE PYTHON: builds the server modules for the tree and runs the selection with that python.
run_tests() {
    local name=$1 tree=$2 python=$3 source=$2/srv/burrow
    local dist=$source/target/dist
    mkdir -p "$source" "$dist/lib/burrow" "$dist/bin" "$source/target/$profile"
    # With the time of now: what a tree keeps may have been built from another checkout.
    git ls-files -z --cached --others --exclude-standard | tar --null -T - -cf - | tar -xmf - -C "$source"
    cp -u "$out/libburrow_host.a" "$source/target/$profile/"
    cp "$out/burrow" "$dist/bin/"
    cp -r "$work/runtime" "$dist/lib/burrow/"
    # shellcheck disable=SC2016 # expanded there
    in_tree "$tree" sh -euc '
        cd /srv/burrow
        nginx -v && apache2 -v && $2 -V
        scripts/build-apache.sh "target/$1/libburrow_host.a" target/dist/lib/burrow/mod_burrow.so
        scripts/build-nginx.sh "target/$1/libburrow_host.a" target/dist/lib/burrow/ngx_http_burrow_module.so
        venv=target/venv-$(basename "$2")
        [ -x "$venv/bin/python" ] || "$2" -m venv "$venv"
        if ! cmp -s tests/requirements.txt "$venv/installed.txt"; then
            # What the selection needs: not all of them are to be had for each of these Pythons.
            grep -E "^(Django|Flask|httpx|psutil|pytest|uvloop|websockets)" tests/requirements.txt |
                "$venv/bin/pip" install -q -r /dev/stdin
            cp tests/requirements.txt "$venv/installed.txt"
        fi
        case $2 in *t) free_threaded=${2%/bin/*} ;; *) free_threaded= ;; esac
        shift 2
        export BURROW_FREE_THREADED="$free_threaded"
        exec "$venv/bin/python" -m pytest -q -p no:cacheprovider -n 4 --dist loadfile "$@"
    ' sh "$profile" "$python" "${selection[@]}" ||
        failed+=("$name")
}

# Those of this machine are built by the search as well.
step "host and runtimes"
make --no-print-directory build PROFILE="$profile"
out=target/$profile
mkdir "$work/runtime"
cp target/dist/lib/burrow/runtime/* "$work/runtime/"
machine=$(uname -m)-linux-gnu
for version in 3.13 3.14 3.15 "3.13 t" "3.14 t"; do
    read -r version t <<<"$version"
    seed="" scripts/build-runtimes.sh "$profile" "$work/runtime" --one "cpython-${version/./}$t-$machine" "$version" 64 \
        ${t:+Py_GIL_DISABLED}
done

failed=()
for name in "${names[@]}"; do
    case $name in
    trixie | forky)
        tree=$(tree_of "$name")
        [ "$name" != forky ] || check_layouts "$tree"
        for python in "$tree"/usr/bin/python3.[0-9][0-9]; do
            step "$name, $(basename "$python")"
            run_tests "$name $(basename "$python")" "$tree" "${python#"$tree"}"
            run_races "$name $(basename "$python")" "$tree" "${python#"$tree"}"
        done
        ;;
    free-threaded)
        tree=$(tree_of trixie)
        build_free_threaded "$tree"
        step "trixie, free-threaded"
        run_tests free-threaded "$tree" /opt/python3.13t/bin/python3.13t
        run_races free-threaded "$tree" /opt/python3.13t/bin/python3.13t
        ;;
    *)
        echo "test-matrix: there is no $name; there is trixie, forky and free-threaded" >&2
        exit 2
        ;;
    esac
done
[ ${#failed[@]} = 0 ] || { echo "test-matrix: failed: ${failed[*]}" >&2; exit 1; }
step "all of it works"
