"""A daemon worker's life: its start, what its manager and signals make of it, and its end."""

import contextlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time

import pytest
from servers import find_thread, wait_for
from workers import GOAWAY, RELOADING, app, request


def test_it_registers(worker):
    worker.start("hello.py", settings="other")
    registered = worker.registered
    assert (registered["pid"], registered["group"], registered["settings"]) == (worker.pid, "shop", "other")
    assert abs(registered["started"] - time.time()) < 60
    assert (registered["ready"], registered["draining"]) == (False, False)
    listener, page = registered["descriptors"]
    assert socket.socket(fileno=listener).getsockname() == str(worker.path)
    os.close(page)


def test_what_does_not_import(worker):
    broken = app(worker.apps / "broken.py")
    (worker.apps / "broken.py").write_text("import nothing_like_this\n")
    worker.start("hello.py", broken, ready=False)
    assert worker.receive("broken")["app"] == broken
    assert worker.wait() == 1
    assert "No module named 'nothing_like_this'" in worker.log()


def test_what_is_imported_later_is_announced_once(worker):
    worker.start("hello.py")
    for _ in range(2):
        assert worker.get("hello.py").status == worker.get("environ.py", group="b").status == 200
    assert worker.receive("imported")["app"] == app(worker.apps / "environ.py", group="b")
    worker.order("stop", reason="shutdown_signal")
    worker.wait()
    with pytest.raises(EOFError):
        worker.receive("nothing")
    assert worker.messages == ["register", "ready", "imported"]


def test_a_changed_script_is_reported_and_not_imported(worker):
    script = worker.apps / "version.py"
    source = "def application(environ, start):\n    start('200 OK', [])\n    return [b'%d']\n"
    script.write_text(source % 1)
    worker.start(app(script))
    modified = script.stat().st_mtime_ns // 1000
    assert worker.get("version.py", flags=RELOADING, mtime=modified).body == b"1"
    script.write_text(source % 2)
    os.utime(script, (1, 1))
    for mtime in 1_000_000, 1_000_000, 0:
        assert worker.get("version.py", flags=RELOADING, mtime=mtime).body == b"1"
    assert worker.receive("changed")["app"] == app(script)
    os.utime(script, (2, 2))
    # Where the server has not looked, the worker does so once in a millisecond.
    assert worker.get("version.py", flags=RELOADING, mtime=2_000_000).body == b"1"
    worker.receive("changed")
    assert worker.messages == ["register", "ready", "changed", "changed"]


def test_draining(worker):
    worker.start("hello.py", "responses.py")
    idle, busy = worker.connect(), worker.connect()
    idle.get(worker.target("hello.py"))
    busy.send(request(worker.target("responses.py"), "/gated", QUERY_STRING="name=drain"))
    wait_for(lambda: idle.summary()[2] == 1, "the request being taken")
    worker.order("drain", reason="graceful_signal", timeout=10)
    assert idle.frame()[0] == GOAWAY
    assert idle.summary()[3] == 1 and idle.noticed() == "drains"
    # whoever connects now waits for another worker
    waiting = worker.connect()
    waiting.send(request(worker.target("hello.py")))
    # what is still sent on a connection is served
    idle.send(request(worker.target("responses.py"), "/open", QUERY_STRING="name=drain"))
    assert idle.answer().body == b"opened"
    assert busy.answer().body == b"first\nsecond\n"
    assert busy.frame()[0] == GOAWAY
    assert worker.process.poll() is None
    idle.close()
    busy.close()
    assert worker.wait() == 0
    with pytest.raises(TimeoutError):
        waiting.socket.settimeout(0.1)
        waiting.frame()


@contextlib.contextmanager
def held_back(thread):
    """The thread hardly gets a processor meanwhile."""
    processor = min(os.sched_getaffinity(0))
    os.sched_setaffinity(thread, {processor})
    os.sched_setscheduler(thread, os.SCHED_IDLE, os.sched_param(0))
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as hog:
        os.sched_setaffinity(hog.pid, {processor})
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(hog.pid, os.SCHED_FIFO, os.sched_param(1))
        try:
            yield
        finally:
            hog.kill()


def test_whoever_has_connected_before_a_drain_is_served(worker):
    """Also where the thread that was woken for the connection comes too late for it."""
    worker.start("hello.py", threads=1)
    thread = wait_for(lambda: find_thread(worker.pid, "burrow:1"), "the thread")
    with held_back(int(thread.name)):
        connection = worker.connect()
        worker.order("drain", reason="graceful_signal", timeout=10)
        wait_for(worker.drains, "the drain")
    with connection:
        assert connection.get(worker.target("hello.py")).status == 200
    assert worker.wait() == 0


def test_a_drain_ends_at_its_timeout(worker):
    worker.start("hello.py")
    connection = worker.connect()
    connection.get(worker.target("hello.py"))
    worker.order("drain", reason="graceful_signal", timeout=0.3)
    assert worker.wait() == 0


def test_a_stop_runs_the_exit_functions(worker):
    (worker.root / "data").mkdir()
    worker.start("lifecycle.py", "api.py")
    worker.get("lifecycle.py", "/atexit")
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    assert "printed at exit" in worker.log()


def test_a_stop_does_not_wait_for_ever(worker):
    worker.start("lifecycle.py", shutdown_timeout=0.5)
    worker.get("lifecycle.py", "/hangs")
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    assert "without waiting any longer" in worker.log()


def test_no_descriptors_left(worker):
    script = worker.apps / "leaks.py"
    script.write_text("""
import os, resource
kept = []

def application(environ, start_response):
    if environ["PATH_INFO"] == "/leak":
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (100, limit))
        try:
            while True:
                kept.append(os.open("/dev/null", os.O_RDONLY))
        except OSError:
            pass
    start_response("200 OK", [])
    return []
""")
    worker.start(app(script))
    with worker.connect() as connection:
        assert connection.get(str(script), "/leak").status == 200
        waiting = worker.connect()
        waiting.send(request(str(script)))
        assert worker.receive("retire")["reason"] == "resource_limit"
        assert "no further connection is accepted" in worker.log()
        # what it has it keeps serving
        assert connection.get(str(script)).status == 200
    waiting.close()


@pytest.fixture
def many_descriptors():
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (before[1], before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_connections_than_there_are_places(many_descriptors, worker):
    worker.start("hello.py")
    idle = []
    for _ in range(1024):
        connection = worker.connect()
        assert connection.get(worker.target("hello.py")).status == 200
        idle.append(connection)
    assert idle[0].summary()[4] == 1024
    one_more = worker.connect()
    one_more.send(request(worker.target("hello.py")))
    # one of those that are told to close does
    assert idle[0].frame()[0] == idle[500].frame()[0] == GOAWAY
    idle[500].close()
    assert one_more.answer().status == 200
    for connection in idle:
        connection.close()
    one_more.close()


def test_closing_every_descriptor_harms_nobody_else(worker):
    script = worker.apps / "closes.py"
    script.write_text("""
import os

def application(environ, start_response):
    os.closerange(3, 4096)
    start_response("200 OK", [])
    return []
""")
    worker.start(app(script))
    with worker.connect() as connection:
        connection.send(request(str(script)))
        assert worker.wait() == 1
    assert "cannot serve" in worker.log()


def test_the_next_manager_is_found(worker):
    path = str(worker.root / "control")
    worker.start("hello.py", control=path)
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    manager.bind(path)
    manager.settimeout(30)
    worker.control.close()
    assert worker.get("hello.py").status == 200
    manager.listen()
    worker.control = manager.accept()[0]
    packet, descriptors, _, _ = socket.recv_fds(worker.control, 1 << 16, 4)
    registered = json.loads(packet)["worker"]["register"]
    assert registered["ready"] and registered["pid"] == worker.pid and len(descriptors) == 2
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    manager.close()


def test_a_manager_of_a_later_release(worker):
    """What it asks for that this one does not know changes nothing."""
    worker.start("hello.py")
    worker.order("dance", tempo=120)
    worker.wait_log("a message of the manager is not understood")
    assert worker.get("hello.py").status == 200
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0


def test_the_next_manager_hears_what_the_last_may_not_have(worker):
    """What was imported, what has changed, why it is to be replaced."""
    path = str(worker.root / "control")
    worker.start("hello.py", control=path)
    changed = worker.apps / "edited.py"
    assert worker.get(changed.name).status == 200
    worker.receive("imported")
    worker.process.send_signal(signal.SIGUSR1)
    worker.receive("retire")
    os.utime(changed, (1, 1))
    assert worker.get(changed.name, flags=RELOADING, mtime=0).status == 200
    # On its way, and whether the manager has read it is nothing that a worker knows.
    worker.receive("changed")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as manager:
        manager.bind(path)
        manager.settimeout(30)
        manager.listen()
        worker.control.close()
        worker.control = manager.accept()[0]
        worker.control.settimeout(30)
        assert "register" in json.loads(worker.control.recv(1 << 16))["worker"]
        hello, edited = (app(worker.apps / name) for name in ("hello.py", changed.name))
        told = [json.loads(worker.control.recv(1 << 16)) for _ in range(4)]
        assert told == [{"imported": {"app": hello}}, {"imported": {"app": edited}},
                        {"changed": {"app": edited}}, {"retire": {"reason": "eviction_signal"}}]  # fmt: skip


def test_what_another_process_has_imported(worker):
    worker.start("hello.py")
    edited = worker.apps / "edited.py"
    edited.write_text(edited.read_text() + "\nprint('all of it is imported')\n")
    worker.order("import", app=app(edited))
    worker.wait_log("all of it is imported")
    edited.write_text("1 / 0\n")
    assert worker.get("edited.py").status == 200
    worker.order("import", app=app(worker.apps / "broken.py"))
    worker.wait_log("broken.py")
    assert worker.get("hello.py").status == 200


# ---- signals


def subscriber(worker):
    """An application that records events in the log."""
    script = worker.apps / "subscriber.py"
    script.write_text("""
import mod_wsgi

@mod_wsgi.subscribe_shutdown
def stopping(name, **event):
    print(f"<{name} {event['shutdown_reason']}>")

@mod_wsgi.subscribe_signals
def signalled(name, **event):
    print(f"<{name} {event['signame']} {event['signum']}>")

def application(environ, start_response):
    start_response("200 OK", [])
    return []
""")
    return app(script)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_that_end_it(worker, number):
    worker.start(subscriber(worker))
    worker.process.send_signal(number)
    assert worker.wait() == 0
    assert "<process_stopping shutdown_signal>" in worker.log()


@pytest.mark.parametrize(
    "number, reason", [(signal.SIGUSR1, "eviction_signal"), (signal.SIGXCPU, "cpu_time_limit")]
)
def test_signals_that_ask_for_another_worker(worker, number, reason):
    worker.start(subscriber(worker))
    worker.process.send_signal(number)
    assert worker.receive("retire") == {"reason": reason, "descriptors": []}
    assert worker.get("subscriber.py").status == 200
    worker.order("drain", reason=reason, timeout=5)
    assert worker.wait() == 0
    assert f"<process_stopping {reason}>" in worker.log()


def test_signals_for_the_application(worker):
    worker.start(subscriber(worker))
    worker.process.send_signal(signal.SIGHUP)
    worker.wait_log("<process_signal SIGHUP 1>")
    worker.process.send_signal(signal.SIGUSR2)
    worker.wait_log("<process_signal SIGUSR2 12>")
    assert worker.get("subscriber.py").status == 200


@pytest.mark.parametrize("restricted", [True, False])
def test_handlers_of_the_application(worker, restricted):
    script = worker.apps / "handler.py"
    script.write_text("""
import resource
import signal
signal.signal(signal.SIGALRM, lambda number, frame: print("<alarmed>"))

def application(environ, start_response):
    start_response("200 OK", [])
    return []
""")
    interpreter = {
        "application_group": None, "paths": [], "restrict_stdin": False, "restrict_stdout": False,
        "restrict_signal": restricted, "own_gil": False,
    }  # fmt: skip
    worker.start(app(script), interpreters=[interpreter], main_interpreter=True)
    if restricted:
        assert "Ignoring Python signal handler registration for signal 14" in worker.log()
    else:
        worker.process.send_signal(signal.SIGALRM)
        worker.wait_log("<alarmed>")
        assert worker.get("handler.py").status == 200


def test_forked_children_keep_the_applications_handlers_and_lose_ours(worker):
    script = worker.apps / "handler.py"
    script.write_text("""
import os, signal
signal.signal(signal.SIGALRM, lambda number, frame: os._exit(3))

def application(environ, start_response):
    number = int(environ["QUERY_STRING"])
    pid = os.fork()
    if pid == 0:
        os.kill(os.getpid(), number)
        os._exit(4)
    start_response("200 OK", [])
    return [str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode()]
""")
    worker.start(app(script), main_interpreter=True)
    for number, status in (signal.SIGALRM, 3), (signal.SIGTERM, -15), (signal.SIGUSR1, -10):
        assert worker.get("handler.py", QUERY_STRING=str(int(number))).body == str(status).encode()


def test_a_stop_during_an_import(worker):
    script = worker.apps / "slow.py"
    script.write_text("import time\nprint('<importing>')\nwhile True:\n    time.sleep(0.01)\n")
    worker.start(app(script), ready=False)
    worker.wait_log("<importing>")
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    assert "Traceback" not in worker.log() and "any longer" not in worker.log()
    assert worker.messages == ["register"]


# ---- service scripts


#: A signal that comes just before a long sleep would not end that.
SERVICE = """
import atexit, time
atexit.register(print, "<exit functions>")
try:
    print("<serving>")
    for _ in range(%s):
        time.sleep(0.01)
    print("<done>")
finally:
    print("<cleaned up>")
"""


@pytest.mark.parametrize("how", ["signal", "order"])
def test_a_service_script_is_ended_by_system_exit(worker, how):
    (worker.apps / "service.py").write_text(SERVICE % 6000)
    worker.start("service.py", threads=0)
    worker.wait_log("<serving>")
    if how == "signal":
        worker.process.terminate()
    else:
        worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    log = worker.log()
    assert "<done>" not in log and "<cleaned up>" in log and "<exit functions>" in log
    assert "Traceback" not in log and "any longer" not in log


def test_a_service_script_is_left_in_peace_while_it_ends(worker):
    """Neither what the process itself does about the signal nor the next signal disturbs it."""
    (worker.apps / "service.py").write_text("""
import os, time
try:
    print("<serving>")
    while True:
        time.sleep(0.01)
finally:
    print("<ending>")
    while not os.path.exists(__file__ + ".go"):
        time.sleep(0.001)
    print("<ended>")
""")
    worker.start("service.py", threads=0)
    worker.wait_log("<serving>")
    worker.process.terminate()
    worker.wait_log("<ending>")
    worker.process.terminate()
    worker.order("stop", reason="shutdown_signal")
    (worker.apps / "service.py.go").touch()
    assert worker.wait() == 0
    assert "<ended>" in worker.log() and "Traceback" not in worker.log()


@pytest.mark.parametrize("how", ["signal", "order"])
def test_a_service_script_is_ended_at_once(worker, how):
    """It was not begun, or it gets its SystemExit."""
    (worker.apps / "service.py").write_text(SERVICE % 6000)
    worker.start("service.py", threads=0, ready=False)
    if how == "signal":
        worker.process.terminate()
    else:
        worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    log = worker.log()
    assert "<serving>" not in log or "<cleaned up>" in log
    assert "<done>" not in log and "Traceback" not in log and "any longer" not in log


def test_a_service_script_that_returns(worker):
    (worker.apps / "service.py").write_text(SERVICE % 10)
    worker.start("service.py", threads=0)
    assert worker.wait() == 0
    assert "<done>" in worker.log() and "<exit functions>" in worker.log()


def test_a_service_script_that_fails(worker):
    (worker.apps / "service.py").write_text("1 / 0\n")
    worker.start("service.py", threads=0)
    assert worker.wait() == 1
    assert "ZeroDivisionError" in worker.log()
