"""Two requests that meet while neither gives Python's lock back."""

import mmap
import os
import sys
import time

import mod_wsgi

#: In this interpreter.
served = 0


def application(environ, start_response):
    """Query: the number of the one of two bytes that this request sets, then it waits for the other."""
    global served
    served += 1
    mine = int(environ["QUERY_STRING"])
    file = os.open(environ["PATH_INFO"], os.O_RDWR)
    shared = mmap.mmap(file, 2)
    interval = sys.getswitchinterval()
    # From here on nothing waits for anything, and nobody is let in.
    sys.setswitchinterval(1000)
    shared[mine] = 1
    deadline = time.monotonic() + 20
    while not shared[1 - mine] and time.monotonic() < deadline:
        pass
    met = shared[1 - mine]
    sys.setswitchinterval(interval)
    os.close(file)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{met} {served} {mod_wsgi.application_group}".encode()]
