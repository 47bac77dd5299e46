"""The smallest WSGI application: greets, and says which process and thread answered."""

import os
import threading


def application(environ, start_response):
    name = environ["PATH_INFO"].strip("/") or "World"
    # WSGI hands over the path's bytes as latin-1.
    name = name.encode("latin-1").decode("utf-8", "replace")
    body = (
        f"Hello, {name}!\n"
        f"{environ['SERVER_SOFTWARE']}, process {os.getpid()}, {threading.current_thread().name}\n"
    ).encode()
    start_response(
        "200 OK",
        [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(body)))],
    )
    return [body]
