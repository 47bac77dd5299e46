"""Says where it runs, echoes, streams and fails, for nginx's event loop to wait for."""

import os
import threading
import time

CHUNK = b"x" * 65536


counted = 0


def count():
    global counted
    while True:
        counted += 1
        time.sleep(0)


def application(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/count":
        start_response("200 OK", [("Content-Type", "text/plain")])
        body = str(counted).encode()
        if not counted:
            threading.Thread(target=count, daemon=True).start()
        return [body]
    if path == "/where":
        body = f"{os.getpid()} {threading.get_native_id()} {environ['wsgi.multithread']}"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body.encode()]
    if path == "/echo":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return [environ["wsgi.input"].read()]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "application/octet-stream")])
        return (CHUNK for _ in range(160))
    if path == "/file":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return environ["wsgi.file_wrapper"](open(__file__, "rb"))
    raise ValueError(path)


def allow_access(environ, host):
    return environ["PATH_INFO"] != "/where" or environ["QUERY_STRING"] != "no"
