#!/bin/bash
# run.sh: the Django example on nginx and on httpd, until Ctrl-C or SIGTERM.
# NGINX and APACHE name other addresses to listen on.
set -eu
nginx=${NGINX:-127.0.0.1:8000} apache=${APACHE:-127.0.0.1:8001}
stage='' pids=()

stop() {
    trap '' INT TERM
    [ ${#pids[@]} = 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    [ -z "$stage" ] || rm -rf "$stage"
}
trap stop EXIT
trap 'exit 0' INT TERM

# Started by root, the servers' workers, and all application code, run as www-data.
as_worker() {
    if [ "$(id -u)" = 0 ]; then runuser -u www-data -- "$@"; else "$@"; fi
}

project=$PWD/examples/django venv=$PWD/target/demo dist=$PWD/target/dist
scripts/venv.sh "$venv" "$project/requirements.txt"
if ! as_worker test -r "$dist/bin/burrow" || ! as_worker test -r "$project/manage.py"; then
    # A checkout in a home directory that is closed to www-data, such as /root.
    stage=$(mktemp -d /var/tmp/burrow-run.XXXXXX)
    chmod 755 "$stage"
    cp -a "$dist" "$stage/dist"
    cp -a "$venv" "$stage/venv"
    cp -a "$project" "$stage/project"
    dist=$stage/dist venv=$stage/venv project=$stage/project
    echo "www-data cannot enter $PWD: serving a copy; the demo's data goes with it at the end"
fi
mkdir -p "$project/data"
[ "$(id -u)" != 0 ] || chown -R www-data: "$project/data"

manage() {
    as_worker "$venv/bin/python" "$project/manage.py" "$@"
}
manage migrate --verbosity 0
manage collectstatic --noinput --verbosity 0
password=$(manage demo_admin)

user=()
[ "$(id -u)" != 0 ] || user=(--user www-data)
serve() {
    "$dist/bin/burrow" serve --server "$1" --bind "$2" --python "$venv" "${user[@]}" \
        --static "/static=$project/data/static" "$project" &
    pids+=($!)
}
serve nginx "$nginx"
serve apache "$apache"
for server in 0 1; do
    address=$([ $server = 0 ] && echo "$nginx" || echo "$apache")
    until curl --silent --output /dev/null "http://$address/"; do
        kill -0 "${pids[$server]}" 2>/dev/null || { wait "${pids[$server]}"; exit 1; }
        sleep 0.1
    done
done
cat <<END

  nginx   http://$nginx/
  httpd   http://$apache/

  /admin/ lets in "admin" with the password $password
  Ctrl-C stops both servers.

END
wait -n || exit
