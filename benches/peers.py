"""Who is measured: Burrow, its peers, and floors that run no Python."""

import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass

from servers import HERE, Server

BENCH = HERE.parent / "target/bench"
VENV = BENCH / "venv"
THREADS = 16
#: The options of a process group: as many threads as the peers have.
DAEMON = f"processes=1 threads={THREADS}"

#: What is asked for, and what the tables call it.
ENDPOINTS = {
    "hello": "hello",
    "body10k": "10 KiB",
    "echo": "echo 16 KiB",
    "framework": "Flask or Starlette",
    "pause": "10 ms sleep",
    "stream": "1 MiB stream",
    "django": "Django",
    "websocket": "WebSocket echo",
}
FLOOR = ("hello", "body10k", "echo")
REQUESTS = tuple(name for name in ENDPOINTS if name != "websocket")


@dataclass
class Peer:
    name: str
    #: Adds its commands and configuration to a Server.
    configure: Callable[[Server], Server]
    endpoints: tuple[str, ...] = REQUESTS


def floor_module():
    """floor.c, compiled by apxs, which writes beside its source."""
    shutil.copy(HERE / "floor.c", BENCH)
    subprocess.run(["apxs", "-c", "floor.c"], cwd=BENCH, check=True, capture_output=True)
    return BENCH / ".libs/floor.so"


def mod_wsgi():
    return next(VENV.glob("lib/python3*/site-packages/mod_wsgi/server/mod_wsgi-py*.so"))


def uwsgi_location(server):
    return f"location / {{ include /etc/nginx/uwsgi_params; uwsgi_pass unix:{server.socket}; }}"


def proxy_upstream(server):
    return (
        f"upstream app {{ server unix:{server.socket}; keepalive 64; keepalive_requests 1000000000; }} "
        'map $http_upgrade $upgrade_or_none { default upgrade; "" ""; }'
    )


def proxy_location():
    headers = {
        "Upgrade": "$http_upgrade",
        "Connection": "$upgrade_or_none",
        "Host": "$host",
        "X-Forwarded-For": "$remote_addr",
        "X-Forwarded-Proto": "$scheme",
    }
    lines = " ".join(f"proxy_set_header {name} {value};" for name, value in headers.items())
    return f"location / {{ proxy_pass http://app; proxy_http_version 1.1; {lines} }}"


def behind_nginx(server):
    return server.nginx(proxy_location(), proxy_upstream(server))


WSGI_IN_HTTPD = "Burrow in httpd"
WSGI_IN_NGINX = "Burrow in nginx"
WSGI_ON_LOOP = "Burrow in nginx, wsgi_threads 0"
WSGI_HTTPD_DAEMON = "Burrow daemon, httpd"
WSGI_NGINX_DAEMON = "Burrow daemon, nginx"
ASGI_IN_HTTPD = "Burrow in httpd, ASGI"
ASGI_IN_NGINX = "Burrow in nginx, ASGI"
ASGI_HTTPD_DAEMON = "Burrow daemon, httpd, ASGI"
ASGI_NGINX_DAEMON = "Burrow daemon, nginx, ASGI"

#: One request at a time: what sleeps keeps all others waiting.
without_pause = tuple(name for name in REQUESTS if name != "pause")

PEERS = [
    Peer("httpd, a C handler", lambda s: s.httpd(f"LoadModule floor_module {floor_module()}"), FLOOR),
    Peer("nginx, return 200", lambda s: s.nginx('location / { return 200 "Hello, World!\\n"; }'), ("hello",)),
    Peer(WSGI_IN_HTTPD, lambda s: s.burrow_httpd(VENV)),
    Peer("mod_wsgi embedded", lambda s: s.wsgi_httpd(mod_wsgi(), VENV)),
    Peer(WSGI_HTTPD_DAEMON, lambda s: s.burrow_httpd(VENV, daemon=DAEMON)),
    Peer("mod_wsgi daemon", lambda s: s.wsgi_httpd(mod_wsgi(), VENV, daemon=DAEMON)),
    Peer(WSGI_IN_NGINX, lambda s: s.burrow_nginx(VENV, location=f"wsgi_threads {THREADS};")),
    Peer(WSGI_ON_LOOP, lambda s: s.burrow_nginx(VENV, location="wsgi_threads 0;"), without_pause),
    Peer(WSGI_NGINX_DAEMON, lambda s: s.burrow_nginx(VENV, daemon=DAEMON)),
    Peer("nginx + uWSGI", lambda s: s.uwsgi(VENV, THREADS).nginx(uwsgi_location(s))),
    Peer("nginx + gunicorn gthread", lambda s: behind_nginx(s.gunicorn(VENV, THREADS))),
    Peer("granian WSGI", lambda s: s.granian(VENV, "wsgi", THREADS)),
    Peer("bjoern", lambda s: s.bjoern(VENV), without_pause),
    Peer(ASGI_IN_HTTPD, lambda s: s.asgi().burrow_httpd(VENV), tuple(ENDPOINTS)),
    Peer(ASGI_HTTPD_DAEMON, lambda s: s.asgi().burrow_httpd(VENV, daemon=DAEMON), tuple(ENDPOINTS)),
    Peer(ASGI_IN_NGINX, lambda s: s.asgi().burrow_nginx(VENV), tuple(ENDPOINTS)),
    Peer(ASGI_NGINX_DAEMON, lambda s: s.asgi().burrow_nginx(VENV, daemon=DAEMON), tuple(ENDPOINTS)),
    Peer("nginx + uvicorn", lambda s: behind_nginx(s.uvicorn(VENV, f"--uds={s.socket}")), tuple(ENDPOINTS)),
    Peer("uvicorn", lambda s: s.uvicorn(VENV, f"--port={s.port}"), tuple(ENDPOINTS)),
    Peer("granian ASGI", lambda s: s.granian(VENV, "asgi", 1)),
]

#: Ours, theirs, and what the rates for hello should at least be apart.
RATIOS = [
    (WSGI_IN_HTTPD, "mod_wsgi embedded", 3),
    (WSGI_IN_HTTPD, "httpd, a C handler", 0.72),
    (WSGI_HTTPD_DAEMON, "mod_wsgi daemon", 4.5),
    (WSGI_IN_NGINX, "nginx + uWSGI", 3.2),
    (WSGI_IN_NGINX, "nginx + gunicorn gthread", 9),
    (WSGI_IN_NGINX, "granian WSGI", 0.85),
    (WSGI_ON_LOOP, "nginx + uWSGI", 4.3),
    (WSGI_ON_LOOP, "bjoern", 0.8),
    (WSGI_NGINX_DAEMON, "nginx + uWSGI", 2),
    (WSGI_NGINX_DAEMON, "nginx + gunicorn gthread", 5),
    (ASGI_IN_NGINX, "nginx + uvicorn", 2),
    (ASGI_IN_NGINX, "uvicorn", 1.35),
    (ASGI_NGINX_DAEMON, "nginx + uvicorn", 1.4),
    (ASGI_IN_HTTPD, "mod_wsgi embedded", 2),
]

#: The same for WebSocket messages.
MESSAGE_RATIOS = [
    (ours, theirs, 1)
    for ours in (ASGI_IN_NGINX, ASGI_NGINX_DAEMON, ASGI_IN_HTTPD, ASGI_HTTPD_DAEMON)
    for theirs in ("uvicorn", "nginx + uvicorn")
]
