"""Leaves marks in the folder `data` when its process ends."""

import atexit
import os
import threading
import time

DATA = os.path.join(os.path.dirname(os.path.dirname(__file__)), "data")


def mark(name):
    with open(os.path.join(DATA, f"{name}-{os.getpid()}"), "w"):
        pass


def application(environ, start_response):
    name = environ["SCRIPT_NAME"].strip("/") or "root"
    what = environ["PATH_INFO"].strip("/")
    if what == "atexit":
        atexit.register(mark, f"first-{name}")
        atexit.register(mark, f"second-{name}")
        atexit.register(print, "printed at exit")
    elif what == "raises":
        atexit.register(mark, f"after-{name}")
        atexit.register(lambda: 1 / 0)
    elif what == "hangs":
        atexit.register(time.sleep, 600)
    elif what == "thread":
        # Not a daemon: the end of the process waits for it.
        def work():
            time.sleep(0.5)
            mark(f"thread-{name}")

        threading.Thread(target=work).start()
    elif what == "thread-hangs":
        threading.Thread(target=time.sleep, args=(600,)).start()
    elif what == "daemon":
        threading.Thread(target=time.sleep, args=(600,), daemon=True).start()
    elif what == "sleep":
        print("falls asleep")
        time.sleep(float(environ["QUERY_STRING"]))
        mark(f"slept-{name}")
    elif what == "spin":
        threading.Thread(target=spin, daemon=True).start()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def spin():
    while True:
        pass
