#!/bin/bash
# test-fresh.sh: the README's two commands, then the images' install steps, each in a Debian 12 tree
# that has nothing of this machine but its way to the package registries. Commits count, edits do not.
set -euo pipefail
if [ "$(id -u)" != 0 ]; then exec sudo -E "$0" "$@"; fi
scripts/setup.sh fresh

suite=bookworm
# the first two blocks of the README
# shellcheck disable=SC2016 # Markdown, not an expansion
mapfile -t commands < <(sed -n '/^```sh$/,/^```$/{/^```/!p}' README.md | head -2)
mirror=${MIRROR:-http://deb.debian.org}
base=${XDG_CACHE_HOME:-$HOME/.cache}/burrow/$suite.tar
work=$(mktemp -d /var/tmp/burrow-fresh.XXXXXX)
chmod 755 "$work"
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM

step() {
    printf '\n== %s\n' "$*"
}

# What stands between this machine and the registries, if anything.
network_variables() {
    env | grep -E '^(https?_proxy|no_proxy|HTTPS?_PROXY|NO_PROXY|PIP_|CARGO_HTTP_|SSL_CERT_FILE=)' || true
}
network_files() {
    ls /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/ssl/certs/ca-certificates.crt \
        "$HOME/.cargo/config.toml" 2>/dev/null || true
    grep -ls 'Acquire::' /etc/apt/apt.conf.d/* || true
}

new_tree() {
    mkdir "$1"
    tar -xf "$base" -C "$1"
    network_files | tar -chf - --files-from - --absolute-names | tar -xf - -C "$1" --absolute-names \
        --transform "s,^,$1,"
}

# in_tree TREE USER COMMAND...: in namespaces of its own, so nothing of it can outlive it.
in_tree() {
    local tree=$1 user=$2 home
    shift 2
    home=$([ "$user" = root ] && echo /root || echo "/home/$user")
    mapfile -t network < <(network_variables)
    # The inner shell stays: as process 1 it has to reap what is orphaned.
    # shellcheck disable=SC2016 # expanded there
    unshare --mount --pid --fork --kill-child sh -c '
        tree=$1 user=$2
        shift 2
        mount --rbind /dev "$tree/dev"
        mount -t proc proc "$tree/proc"
        chroot "$tree" runuser -u "$user" -- "$@"
        exit $?' sh "$tree" "$user" \
        env -i HOME="$home" LANG=C.UTF-8 TERM=dumb "${network[@]}" \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# What runs in a tree starts a command, waits until addresses answer, stops it as Ctrl-C does, and
# looks for what it left.
with_serves() {
    cat <<'END'
set -eum
serves() {
    local addresses=$1 address left
    shift
    "$@" </dev/null &
    for address in $addresses; do
        until curl --silent --fail --output /tmp/page "http://$address/"; do
            kill -0 $! 2>/dev/null || { echo "$* ended before http://$address/ answered" >&2; exit 1; }
            sleep 0.5
        done
        echo "http://$address/ answers with $(wc -c </tmp/page) bytes"
    done
    kill -INT -- -$!
    wait $! || true
    left=$(grep -lsE '^(nginx|apache2|burrow|python)' /proc/[0-9]*/comm || true)
    [ -z "$left" ] || { echo "left behind: $(cat $left)" >&2; exit 1; }
}
END
    cat
}

if [ ! -e "$base" ]; then
    step "a new $suite tree, kept in $base"
    mkdir -p "${base%/*}"
    debootstrap --variant=minbase --include=ca-certificates,make,sudo "$suite" "$work/base" "$mirror/debian"
    printf 'deb %s/debian %s main\n' "$mirror" "$suite" "$mirror" "$suite-updates" >"$work/base/etc/apt/sources.list"
    printf 'deb %s/debian-security %s-security main\n' "$mirror" "$suite" >>"$work/base/etc/apt/sources.list"
    tar -cf "$base.new" -C "$work/base" .
    mv "$base.new" "$base"
fi

step "${commands[0]}, as a user with sudo"
tree=$work/tree
new_tree "$tree"
chroot "$tree" useradd --create-home --shell /bin/bash dev
echo 'dev ALL=(ALL) NOPASSWD: ALL' >"$tree/etc/sudoers.d/dev"
mkdir "$tree/srv/burrow"
git archive HEAD | tar -xf - -C "$tree/srv/burrow"
chroot "$tree" chown -R dev: /srv/burrow
with_serves <<END | in_tree "$tree" dev bash
cd /srv/burrow
serves '127.0.0.1:8000 127.0.0.1:8001' ${commands[0]}
END

step "${commands[1]}"
in_tree "$tree" root sh -c "cd /srv/burrow && CI=true ${commands[1]}" </dev/null

step "docker/install.sh build"
new_tree "$work/build"
mkdir "$work/build/src"
git archive HEAD | tar -xf - -C "$work/build/src"
in_tree "$work/build" root sh -c 'cd /src && docker/install.sh build'

for server in nginx apache; do
    step "docker/install.sh $server"
    image=$work/$server
    new_tree "$image"
    cp -a "$work/build/out/." "$image/"
    mkdir "$image/app"
    git archive HEAD docker/install.sh examples/hello | tar -xf - -C "$image/tmp"
    cp "$image/tmp/examples/hello/app.wsgi" "$image/app/"
    in_tree "$image" root /tmp/docker/install.sh "$server"
    in_tree "$image" root apt-get update -q
    in_tree "$image" root apt-get install -y -q --no-install-recommends curl
    with_serves <<END | in_tree "$image" burrow bash
cd /app
serves 127.0.0.1:8000 burrow serve --server $server --bind 127.0.0.1:8000 app.wsgi
END
done
step "all of it works in a new $suite"
