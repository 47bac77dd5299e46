"""Requests that compute and wait in turns: none is left behind by those that come after it."""

import concurrent.futures
import os

import pytest
from servers import Mount

APP = """\
import os
import time

ended = 0


def application(environ, start_response):
    global ended
    before = ended
    for _ in range(10):
        end = time.perf_counter() + 0.0001
        while time.perf_counter() < end:
            pass
        os.stat("/")  # lets others have the GIL
    ended += 1
    start_response("200 OK", [])
    return [str(ended - before).encode()]
"""
THREADS = 16


@pytest.mark.alone
def test_who_began_first_is_not_left_behind(nginx):
    nginx.write_app("turns.py", APP)
    nginx.start(mounts=[Mount("/", "turns.py")], threads=THREADS)
    (worker,) = nginx.workers()
    nginx.get("/")
    # CPython's lock goes from hand to hand on one processor: whoever gives it up has it again at once.
    for thread in os.listdir(f"/proc/{worker}/task"):
        os.sched_setaffinity(int(thread), {min(os.sched_getaffinity(0))})
    with concurrent.futures.ThreadPoolExecutor(2 * THREADS) as clients:
        overtaken = [int(answer.text) for answer in clients.map(nginx.get, ["/"] * 600)]
    assert sum(overtaken) / len(overtaken) < THREADS / 2
