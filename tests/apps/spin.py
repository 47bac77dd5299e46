"""Keeps the processor busy for as long as it is told to, without ever waiting."""

import time


def application(environ, start_response):
    until = time.monotonic() + float(environ["QUERY_STRING"] or 0)
    turns = 0
    while time.monotonic() < until:
        turns += 1
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(turns).encode()]
