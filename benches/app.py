"""The application that is measured, and soaked."""

import os
import sys
import time

HELLO = b"Hello, World!\n"
BODY10K = b"0123456789abcdef" * 640
CHUNK = b"\0" * 65536
_made = {}


def answer(start_response, body):
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


def hello(environ, start_response):
    return answer(start_response, HELLO)


def body10k(environ, start_response):
    return answer(start_response, BODY10K)


def echo(environ, start_response):
    return answer(start_response, environ["wsgi.input"].read())


def flask_app():
    from flask import Flask, Response

    app = Flask(__name__)
    app.add_url_rule("/framework", view_func=lambda: Response(HELLO, mimetype="text/plain"), endpoint="hello")
    return app.wsgi_app


def django_app():
    sys.path.insert(0, os.path.dirname(__file__))
    import django_site

    return django_site.wsgi()


def made(make):
    """The application that `make` gives, imported when first asked for."""
    if make not in _made:
        _made[make] = make()
    return _made[make]


def framework(environ, start_response):
    return made(flask_app)(environ, start_response)


def django(environ, start_response):
    return made(django_app)(environ, start_response)


def pause(environ, start_response):
    time.sleep(0.01)
    return answer(start_response, HELLO)


def stream(environ, start_response):
    """1 MiB in chunks of 64 KiB."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (CHUNK for _ in range(16))


def pid(environ, start_response):
    return answer(start_response, str(os.getpid()).encode())


def slow(environ, start_response):
    """Lasts long enough to be in progress when the server reloads."""
    time.sleep(0.03)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(2 * len(HELLO)))])
    yield HELLO
    time.sleep(0.03)
    yield HELLO


def upload(environ, start_response):
    size = 0
    while chunk := environ["wsgi.input"].read(16384):
        size += len(chunk)
    return answer(start_response, str(size).encode())


def download(environ, start_response):
    """As many bytes as the query says, else 100 MiB, in chunks of 64 KiB."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return (CHUNK for _ in range(int(environ["QUERY_STRING"] or 100 << 20) // len(CHUNK)))


def file(environ, start_response):
    """The file of the query."""
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](open(environ["QUERY_STRING"], "rb"))


def mark(environ, start_response):
    """Where instructions.py has callgrind begin anew: nothing else calls this function of libc."""
    os.getloadavg()
    return answer(start_response, HELLO)


VIEWS = (
    hello, body10k, echo, framework, django, pause, stream, pid, slow, upload, download, file, mark,
)  # fmt: skip
ROUTES = {f"/{view.__name__}": view for view in VIEWS}


def application(environ, start_response):
    return ROUTES[environ["PATH_INFO"]](environ, start_response)
