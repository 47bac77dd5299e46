"""Time limits and the like of a daemon worker, and what it says of itself when they are reached."""

import os
import pathlib
import re
import select
import signal
import time

import psutil
import pytest
from servers import wait_for
from workers import GOAWAY, TIMEOUT, app, request, text

#: What requests do, one way per path.
SLOW = """
import hashlib, re, threading, time
import mod_wsgi

seen = []
threading.Thread(target=threading.Event().wait, daemon=True).start()

def spin():
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        pass

@mod_wsgi.subscribe_shutdown
def stopping(name, **event):
    print(f"<{name} {event['shutdown_reason']}>")

def application(environ, start_response):
    what = environ["PATH_INFO"].strip("/")
    seen.append(what)
    try:
        if what == "python":
            spin()
        elif what == "c":
            time.sleep(20)
        elif what == "gil":
            re.match("(a+)+$", "a" * 40 + "b")
        elif what == "stubborn":
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                try:
                    spin()
                except mod_wsgi.RequestTimeout:
                    seen.append("ignored")
        elif what == "late":
            write = start_response("200 OK", [])
            write(b"begun")
            time.sleep(20)
        elif what == "memory":
            seen.append(bytearray(b"x" * (100 << 20)))
        elif what == "cpu":
            hashlib.pbkdf2_hmac("sha256", b"", b"", 2_000_000)
    except mod_wsgi.RequestTimeout:
        seen.append("interrupted")
        raise
    start_response("200 OK", [])
    return [repr([each for each in seen if isinstance(each, str)]).encode()]
"""


@pytest.fixture
def worker(worker):
    (worker.apps / "slow.py").write_text(SLOW)
    return worker


def start(worker, **settings):
    return worker.start(app(worker.apps / "slow.py"), **settings)


def took(connection):
    began = time.monotonic()
    return connection.answer(), time.monotonic() - began


# ---- a request that takes too long


@pytest.mark.parametrize("group", ["", "other"])
def test_an_interruption(worker, group):
    start(worker, threads=1, request_timeout=0.5, interrupt_timeout=5)
    with worker.connect() as connection:
        connection.send(request(worker.target("slow.py"), "/python", group=group))
        answer, seconds = took(connection)
        assert (answer.status, answer.abort) == (0, TIMEOUT)
        assert seconds > 0.4
        # the connection and the process serve on
        answer = connection.get(worker.target("slow.py"), "/", group=group)
        assert answer.body == b"['python', 'interrupted', '']"
    assert "Request interrupted by RequestTimeout; thread recovered" in worker.log()
    assert worker.replies("retire", 0.5) is None


def test_the_making_of_an_interpreter_is_no_part_of_a_request(worker):
    slow = worker.root / "slow"
    line = f"import os, time; os.path.exists({str(slow)!r}) and time.sleep(1)\n"
    (worker.root / "slow.pth").write_text(line)
    start(worker, threads=1, paths=[text(worker.root)], request_timeout=0.5, interrupt_timeout=5)
    slow.touch()
    with worker.connect() as connection:
        assert connection.get(worker.target("slow.py"), "/python", group="other").abort == TIMEOUT
        answer = connection.get(worker.target("slow.py"), "/", group="other")
        assert answer.body == b"['python', 'interrupted', '']"
    assert worker.replies("retire", 0.5) is None


def test_the_limit_grows_with_the_threads(worker):
    start(worker, threads=3, request_timeout=0.5, interrupt_timeout=5)
    with worker.connect() as connection:
        connection.send(request(worker.target("slow.py"), "/python"))
        assert took(connection)[1] > 1.0


def test_requests_that_are_quick_enough_are_not_interrupted(worker):
    start(worker, threads=2, request_timeout=1, interrupt_timeout=5)
    with worker.connect() as slow, worker.connect() as quick:
        slow.send(request(worker.target("slow.py"), "/python"))
        slow.fill(1)  # which is HELLO
        while not select.select([slow.socket], [], [], 0)[0]:
            assert quick.get(worker.target("slow.py")).status == 200
        assert slow.answer().abort == TIMEOUT
        for _ in range(100):
            answer = quick.get(worker.target("slow.py"))
            assert answer.status == 200
        assert answer.body.count(b"interrupted") == 1


@pytest.mark.parametrize("what", ["c", "stubborn"])
def test_what_cannot_be_interrupted_is_given_up(worker, what):
    start(worker, threads=2, request_timeout=0.3, interrupt_timeout=0.3)
    with worker.connect() as connection, worker.connect() as other:
        connection.send(request(worker.target("slow.py"), f"/{what}"))
        other.get(worker.target("slow.py"))
        connection.fill(1)
        answer, seconds = took(connection)
        assert answer.abort == TIMEOUT and seconds < 15
        assert connection.dismissed
        assert worker.receive("retire")["reason"] == "request_timeout"
        # others are served until it is replaced
        assert other.get(worker.target("slow.py")).status == 200
        log = worker.wait_log(", in application")
        assert f"GET /{what} is given up after" in log
        assert re.search(rf"Thread \d+ \(burrow:\d\), serving GET /{what} for [\d.]+ s:", log)
        worker.order("drain", reason="request_timeout", timeout=0.3)
    assert worker.wait() == 0


def test_without_interruption_it_is_given_up_at_once(worker):
    start(worker, threads=1, request_timeout=0.3)
    with worker.connect() as connection:
        connection.send(request(worker.target("slow.py"), "/python"))
        answer, seconds = took(connection)
        assert answer.abort == TIMEOUT and seconds < 15
    assert worker.receive("retire")["reason"] == "request_timeout"


def test_an_import_is_no_part_of_its_request(worker):
    start(worker, threads=2, request_timeout=0.2, interrupt_timeout=0.2, startup_timeout=30)
    (worker.apps / "heavy.py").write_text("import time\ntime.sleep(1.5)\n" + SLOW)
    with worker.connect() as first, worker.connect() as second:
        for connection in (first, second):
            connection.send(request(worker.target("heavy.py")))
        assert first.answer().status == second.answer().status == 200
        # The limit holds afterwards.
        first.send(request(worker.target("heavy.py"), "/python"))
        assert first.answer().abort == TIMEOUT
    assert worker.replies("retire", 0.1) is None


def test_an_import_that_does_not_end(worker):
    start(worker, threads=2, request_timeout=30, interrupt_timeout=30, startup_timeout=0.5)
    (worker.apps / "endless.py").write_text("import time\ntime.sleep(600)\n")
    with worker.connect() as connection, worker.connect() as other:
        connection.send(request(worker.target("endless.py")))
        assert connection.answer().abort == TIMEOUT
        assert worker.receive("retire")["reason"] == "startup_timeout"
        assert other.get(worker.target("slow.py")).status == 200
    worker.wait_log("endless.py\", line")


def test_an_answer_that_has_begun_is_not_ended_twice(worker):
    start(worker, threads=1, request_timeout=0.3)
    with worker.connect() as connection:
        connection.send(request(worker.target("slow.py"), "/late"))
        assert worker.receive("retire")["reason"] == "request_timeout"
        kinds = [connection.frame()[0] for _ in range(3)]
        assert GOAWAY not in kinds
        connection.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.frame()


# ---- the process


def test_a_deadlock(worker):
    start(worker, threads=2, deadlock_timeout=1)
    connection, waiting = worker.connect(), worker.connect()
    waiting.get(worker.target("slow.py"))
    connection.send(request(worker.target("slow.py"), "/gil"))
    wait_for(lambda: waiting.summary()[2], "the request")
    waiting.send(request(worker.target("slow.py")))
    assert connection.answer().abort == TIMEOUT
    assert waiting.answer().abort == TIMEOUT
    assert worker.receive("retire")["reason"] == "deadlock_timeout"
    assert worker.wait() == 1
    log = worker.log()
    assert "nobody can enter Python any more" in log
    assert re.search(r'serving GET /gil for .*(\n.*){1,5}File ".*/slow.py", line \d+ in application', log)


@pytest.mark.parametrize(
    "path, settings, reason",
    [
        ("/", {"maximum_requests": 3}, "maximum_requests"),
        ("/memory", {"max_memory": 100 << 20}, "max_memory"),
        ("/cpu", {"cpu_time_limit": 1.0}, "cpu_time_limit"),
        ("/", {"inactivity_timeout": 0.5}, "inactivity_timeout"),
        (None, {"restart_interval": 2.0}, "restart_interval"),
    ],
)
def test_what_makes_it_ask_to_be_replaced(worker, path, settings, reason):
    start(worker, **settings)
    assert worker.replies("retire", 0.3) is None
    with worker.connect() as connection:
        for _ in range(3 if path else 0):
            connection.get(worker.target("slow.py"), path)
        assert worker.receive("retire")["reason"] == reason
        assert connection.get(worker.target("slow.py")).status == 200
    # once
    assert worker.replies("retire", 1.2) is None
    worker.order("drain", reason=reason, timeout=5)
    assert worker.wait() == 0
    assert f"<process_stopping {reason}>" in worker.log()


def test_inactivity_begins_with_the_first_request(worker):
    start(worker, inactivity_timeout=0.2)
    assert worker.replies("retire", 1.5) is None


def test_an_idle_worker_sleeps(worker):
    start(worker, request_timeout=60, interrupt_timeout=5, deadlock_timeout=300, max_memory=1 << 40)
    worker.get("slow.py")

    def wakeups():
        threads = pathlib.Path(f"/proc/{worker.pid}/task").iterdir()
        lines = [line for each in threads for line in (each / "status").read_text().splitlines()]
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    def sleeps():
        before = wakeups()
        time.sleep(1.5)
        return wakeups() == before

    # The limits of a request are looked at for some time after it.
    wait_for(sleeps, "a time in which no thread wakes up")
    assert worker.get("slow.py").status == 200


# ---- what it says of itself


def test_stacks(worker):
    start(worker, threads=3)
    with worker.connect() as connection, worker.connect() as other:
        connection.send(request(worker.target("slow.py"), "/c"))
        other.send(request(worker.target("slow.py"), "/python", group="other"))
        wait_for(lambda: stacks(worker).count("in application") == 2, "the application in two stacks")
        text = stacks(worker)
        assert text.startswith(f"Process {worker.pid} of process group 'shop'\n")
        for path in "/c", "/python":
            title = rf"\nThread \d+ \(burrow:\d\), serving GET {path} for [\d.]+ s:\n"
            assert re.search(title + r'  File ".*/slow.py", line \d+, in application\n', text), text
        assert re.search(r"\nThread \d+ \(Thread-\d.*\):\n(  .*\n)*.* in run\n", text), text


def test_stacks_where_nobody_can_enter_python(worker):
    start(worker)
    with worker.connect() as connection:
        connection.send(request(worker.target("slow.py"), "/gil"))
        wait_for(lambda: b"GET /gil" in worker.page(), "the request")
        frames = r'(\n  .*){1,3}\n  File ".*/slow.py", line \d+ in application\n'
        assert re.search("serving GET /gil for .*:\nStack .*" + frames, stacks(worker))


def stacks(worker):
    worker.order("stacks")
    (descriptor,) = worker.receive("stacks")["descriptors"]
    with os.fdopen(descriptor) as file:
        return file.read()


def test_a_crash_leaves_stacks_in_the_log(worker):
    (worker.apps / "crash.py").write_text("""
import ctypes

def application(environ, start_response):
    ctypes.string_at(0)
""")
    worker.start("crash.py")
    with worker.connect() as connection:
        connection.send(request(worker.target("crash.py")))
        assert worker.wait() == -signal.SIGSEGV
    log = worker.log()
    assert "Fatal Python error: Segmentation fault" in log and 'crash.py", line 5 in application' in log


def test_a_stack_that_is_used_up_leaves_stacks_in_the_log(worker):
    (worker.apps / "deep.py").write_text("""
import ctypes

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(one, other):
    return sort()

def sort():
    ctypes.CDLL(None).qsort((ctypes.c_int * 2)(1, 2), 2, 4, compare)
    return 0

def application(environ, start_response):
    import sys
    sys.setrecursionlimit(10**9)
    sort()
""")
    worker.start("deep.py", main_interpreter=True)
    with worker.connect() as connection:
        connection.send(request(worker.target("deep.py")))
        assert worker.wait() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in worker.log() and 'deep.py", line ' in worker.log()


def test_requests_leave_no_memory_behind(worker):
    worker.start("hello.py", "body.py", threads=4, request_timeout=60, interrupt_timeout=5)
    process = psutil.Process(worker.pid)

    def serve(count):
        for _ in range(count):
            with worker.connect() as connection:
                for _ in range(100):
                    connection.get(worker.target("hello.py"))

    serve(10)
    before, descriptors = process.memory_info().rss, process.num_fds()
    serve(50)
    assert process.memory_info().rss - before < 1 << 20
    wait_for(lambda: process.num_fds() <= descriptors, "as few descriptors as before")
