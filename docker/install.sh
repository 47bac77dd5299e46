#!/bin/sh
# The steps of the images, on a bare Debian 12:
#   install.sh build           compile the checkout in the current folder into /out
#   install.sh nginx|apache    all that the built files need there to run
set -eu
case ${1:-} in
build)
    scripts/setup.sh
    # make came with the set-up
    make build PYTHONS=/usr/bin/python3
    make install DESTDIR=/out
    exit
    ;;
nginx) server=nginx ;;
apache) server=apache2 ;;
*)
    echo "usage: install.sh build|nginx|apache" >&2
    exit 2
    ;;
esac
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -y -q --no-install-recommends "$server" python3 python3-venv libpython3.11
rm -rf /var/lib/apt/lists/*
useradd --system --create-home --shell /usr/sbin/nologin burrow
burrow --version
