"""Two requests that meet while neither gives Python's lock back."""

import mmap
import os
import sys
import time

import mod_wsgi

#: In this interpreter.
served = 0


def meet(path, number):
    """Sets one of the two bytes of a file, the number says which, and waits for the other."""
    global served
    served += 1
    file = os.open(path, os.O_RDWR)
    shared = mmap.mmap(file, 2)
    interval = sys.getswitchinterval()
    # From here on nothing waits for anything, and nobody is let in.
    sys.setswitchinterval(1000)
    shared[number] = 1
    deadline = time.monotonic() + 20
    while not shared[1 - number] and time.monotonic() < deadline:
        pass
    met = shared[1 - number]
    sys.setswitchinterval(interval)
    os.close(file)
    return f"{met} {served} {mod_wsgi.application_group}"


def application(environ, start_response):
    answer = meet(environ["PATH_INFO"], int(environ["QUERY_STRING"]))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]
