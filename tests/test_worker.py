"""A daemon worker, spoken to as servers and its manager do."""

import json
import os
import re
import signal
import socket
import stat
import time

import psutil
import pytest
from servers import WORKER, wait_for
from test_process import EXPECTED, FORKS
from workers import ABORTED, BODY, FAILED, GOAWAY, LAST, RELOADING, Worker, app, frame, request


@pytest.fixture
def worker():
    made = Worker()
    yield made
    made.close()


@pytest.fixture(scope="module")
def shared():
    made = Worker(main_interpreter=True).start("hello.py")
    yield made
    made.close()


# ---- requests


def test_a_connection_serves_one_request_after_another(shared):
    with shared.connect() as connection:
        for number in 1, 2, 3:
            answer = connection.get(shared.target("hello.py"))
            assert (answer.status, answer.reason, answer.abort) == (200, "OK", None)
            assert (answer.body, answer.length) == (b"Hello, World!\n", 14)
            assert connection.taken == number
        pid, threads, busy, draining, served = connection.summary()
        assert (pid, threads, busy, draining) == (shared.pid, 3, 0, 0)
        assert served >= 3


def test_environ(shared):
    headers = [("Host", "shop.example"), ("X-Long", "x" * 100_000)]
    answer = shared.get("environ.py", "/a", headers=headers, SCRIPT_NAME="/shop", REMOTE_USER="jane").json()
    strings = answer["strings"]
    assert strings["HTTP_X_LONG"] == "x" * 100_000
    expected = {
        "REQUEST_METHOD": "GET", "SCRIPT_NAME": "/shop", "PATH_INFO": "/a", "REMOTE_USER": "jane",
        "mod_wsgi.process_group": "shop", "mod_wsgi.application_group": "", "HTTP_HOST": "shop.example",
        "mod_wsgi.server_pid": str(shared.pid),
    }  # fmt: skip
    assert expected.items() <= strings.items()
    moments = [float(answer["reprs"][f"mod_wsgi.{name}_start"])
               for name in ("request", "queue", "daemon", "application")]  # fmt: skip
    assert moments == sorted(moments) and time.time() - moments[0] < 60
    assert answer["reprs"]["wsgi.multithread"] == "True"
    assert answer["reprs"]["wsgi.multiprocess"] == "False"


@pytest.mark.parametrize("how", ["at once", "in pieces", "byte by byte"])
def test_bodies(shared, how):
    body = os.urandom(200_000 if how != "byte by byte" else 2000)
    frames = [frame(BODY, body[at : at + 60_000]) for at in range(0, len(body), 60_000)]
    sent = request(shared.target("body.py"), "/count", method="POST", body="later")
    sent += b"".join(frames) + frame(BODY, flags=LAST)
    step = {"at once": len(sent), "in pieces": 70_001, "byte by byte": 1}[how]
    with shared.connect() as connection:
        for _ in range(2):
            for at in range(0, len(sent), step):
                connection.send(sent[at : at + step])
            assert connection.answer().json() == len(body)


def test_lines_of_a_body(shared):
    with shared.connect() as connection:
        query = "do=readline;read,3;readlines"
        connection.send(request(shared.target("body.py"), body="later", QUERY_STRING=query))
        for piece in b"one\ntw", b"", b"o three\nfour":
            connection.send(frame(BODY, piece))
        connection.send(frame(BODY, flags=LAST))
        assert connection.answer().json() == ["one\n", "two", [" three\n", "four"]]


def test_a_body_that_nobody_reads(shared):
    with shared.connect() as connection:
        connection.send(request(shared.target("body.py"), "/unread", body="later"))
        connection.send(frame(BODY, b"x" * 65536))
        assert connection.answer().json() == "not read"
        rest = frame(BODY, b"x" * 65536) * 4 + frame(BODY, b"x", LAST)
        connection.send(rest + request(shared.target("hello.py")))
        assert connection.answer().status == 200


def test_a_body_that_is_read_after_the_answer(shared):
    script = shared.apps / "reads_late.py"
    script.write_text("""
def application(environ, start_response):
    start_response("200 OK", [("Content-Length", "4")])
    yield b"done"
    while environ["wsgi.input"].read(10):
        pass
""")
    body = frame(BODY, b"x" * 1000) + frame(BODY, b"x" * 65536) + frame(BODY, b"x", LAST)
    with shared.connect() as connection:
        for _ in range(3):
            connection.send(request(str(script), body="later"))
            assert connection.answer().body == b"done"
            connection.send(body + request(shared.target("hello.py")))
            assert connection.answer().status == 200


def test_answers(shared):
    lines = b"".join(b"line %d\n" % number for number in range(20000))
    for path, body in {
        "large": lines, "large-chunks": lines * 20, "generator": b"generator", "empty-list": b"",
        "list-of-many": b"".join(b"%d," % number for number in range(1000)),
    }.items():  # fmt: skip
        answer = shared.get("responses.py", f"/{path}")
        assert (answer.status, answer.body, answer.abort) == (200, body, None), path


def test_pieces_arrive_when_they_are_made(shared):
    with shared.connect() as connection:
        query = "name=pieces"
        connection.send(request(shared.target("responses.py"), "/gated", QUERY_STRING=query))
        connection.socket.settimeout(5)
        kinds = [connection.frame() for _ in range(3)]
        assert kinds[-1][2] == b"first\n" or connection.frame()[2] == b"first\n"
        shared.get("responses.py", "/open", QUERY_STRING=query)
        assert connection.frame()[2] == b"second\n"
        assert connection.frame()[1:] == (LAST, b"")


def test_files_are_passed_as_descriptors(shared):
    script = shared.apps / "file.py"
    script.write_text("""
def application(environ, start_response):
    start_response("200 OK", [])
    file = open(__file__, "rb")
    file.seek(3)
    return environ["wsgi.file_wrapper"](file)
""")
    content = script.read_bytes()
    with shared.connect() as connection:
        for _ in range(3):
            answer = connection.get(str(script))
            ((offset, length, descriptor),) = answer.files
            assert (answer.body, answer.length, offset) == (b"", length, 3)
            assert stat.S_ISREG(os.fstat(descriptor).st_mode)
            assert os.pread(descriptor, length, offset) == content[3:]
            os.close(descriptor)
    process = psutil.Process(shared.pid)
    wait_for(lambda: str(script) not in [file.path for file in process.open_files()], "the file being closed")


def test_faults_of_the_application(shared):
    with shared.connect() as connection:
        answer = connection.get(shared.target("faults.py"), "/raise-first")
        assert (answer.status, answer.abort) == (0, FAILED)
        answer = connection.get(shared.target("faults.py"), "/late-raise")
        assert (answer.status, answer.abort) == (200, ABORTED)
        assert connection.get(shared.target("hello.py")).status == 200


def test_a_request_that_has_waited_too_long_is_not_taken(shared):
    late = time.monotonic_ns() // 1000 - 1
    with shared.connect() as connection:
        connection.send(request(shared.target("hello.py"), deadline=late))
        connection.frame()
        with pytest.raises((EOFError, ConnectionResetError)):
            connection.frame()
    in_time = time.monotonic_ns() // 1000 + 10_000_000
    assert shared.get("hello.py", deadline=in_time).status == 200


def test_two_application_groups(worker):
    worker.start()
    seen = [worker.get("environ.py", group=group).json()["strings"] for group in ("", "a", "b")]
    assert [each["mod_wsgi.application_group"] for each in seen] == ["", "a", "b"]


# ---- the rest of Python


@pytest.mark.parametrize("what", {**FORKS, **EXPECTED})
def test_python(shared, what):
    expected = {**FORKS, **EXPECTED}[what]
    for _ in range(2):
        assert shared.get("process.py", f"/{what}").json() == {"ok": expected}


def test_children_do_not_hold_connections(worker):
    script = worker.apps / "forks.py"
    script.write_text("""
import os
children = []

def application(environ, start_response):
    pid = os.fork()
    if pid == 0:
        os.write(2, b"child sees " + " ".join(
            os.readlink(f"/proc/self/fd/{each}") for each in os.listdir("/proc/self/fd")
            if os.path.lexists(f"/proc/self/fd/{each}")
        ).encode() + b" .\\n")
        import time
        time.sleep(60)
        os._exit(0)
    start_response("200 OK", [])
    return [str(pid).encode()]
""")
    worker.start(app(script), main_interpreter=True)
    connection = worker.connect()
    child = psutil.Process(int(connection.get(str(script)).body))
    try:
        seen = re.search("child sees (.*) [.]", worker.wait_log("child sees")).group(1)
        assert "socket:" not in seen and "eventpoll" not in seen and "eventfd" not in seen
        worker.process.kill()
        assert connection.socket.recv(1) == worker.control.recv(1) == b""
        assert connection.noticed() == "dead"
    finally:
        child.kill()


# ---- whom it serves


def test_garbage(shared):
    for garbage in b"GET / HTTP/1.1\r\n\r\n", frame(BODY, b"x"), frame(2, b"no request"), b"\xff" * 100:
        with shared.connect() as connection:
            connection.send(garbage)
            connection.frame()
            with pytest.raises((EOFError, ConnectionResetError)):
                connection.frame()
    assert shared.log().count("a connection is closed, since its server has sent") == 4
    assert shared.get("hello.py").status == 200


def test_garbage_in_a_body(shared):
    with shared.connect() as connection:
        connection.send(request(shared.target("body.py"), "/count", body="later") + b"garbage!" * 10)
        with pytest.raises((EOFError, ConnectionResetError)):
            connection.answer()
    assert "a request cannot go on: no such frame" in shared.log()
    assert shared.get("hello.py").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user")
def test_a_peer_that_is_not_the_server(worker):
    worker.start("hello.py")
    os.chmod(worker.path, 0o666)
    if (child := os.fork()) == 0:
        os.setuid(WORKER.pw_uid)
        connection = socket.socket(socket.AF_UNIX)
        connection.connect(str(worker.path))
        try:
            os._exit(len(connection.recv(100)))
        except ConnectionResetError:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert f"of user {WORKER.pw_uid}" in worker.log()
    assert worker.get("hello.py").status == 200


# ---- its life


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
    assert worker.get("version.py", flags=RELOADING).body == b"1"
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


def test_a_drain_ends_at_its_timeout(worker):
    worker.start("hello.py")
    connection = worker.connect()
    connection.get(worker.target("hello.py"))
    worker.order("drain", reason="graceful_signal", timeout=0.3)
    assert worker.wait(5) == 0


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
    assert worker.wait(3) == 0
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


def test_more_connections_than_there_are_places(worker):
    worker.start("hello.py")
    idle = []
    for _ in range(1024):
        connection = worker.connect()
        assert connection.get(worker.target("hello.py")).status == 200
        idle.append(connection)
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
    manager.settimeout(5)
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


def test_the_next_manager_hears_what_the_last_may_not_have(worker):
    """What was imported, what has changed, why it is to be replaced."""
    path = str(worker.root / "control")
    worker.start("hello.py", control=path)
    changed = worker.apps / "edited.py"
    assert worker.get(changed.name).status == 200
    worker.process.send_signal(signal.SIGUSR1)
    worker.receive("retire")
    os.utime(changed, (1, 1))
    assert worker.get(changed.name, flags=RELOADING, mtime=0).status == 200
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as manager:
        manager.bind(path)
        manager.settimeout(10)
        manager.listen()
        # Nothing of this was read.
        worker.control.close()
        worker.control = manager.accept()[0]
        worker.control.settimeout(10)
        assert "register" in json.loads(worker.control.recv(1 << 16))["worker"]
        hello, edited = (app(worker.apps / name) for name in ("hello.py", changed.name))
        told = [json.loads(worker.control.recv(1 << 16)) for _ in range(4)]
        assert told == [{"imported": {"app": hello}}, {"imported": {"app": edited}},
                        {"changed": {"app": edited}}, {"retire": {"reason": "eviction_signal"}}]  # fmt: skip


def test_what_another_process_has_imported(worker):
    worker.start("hello.py")
    worker.order("import", app=app(worker.apps / "edited.py"))
    worker.wait_log("edited.py' into")
    (worker.apps / "edited.py").write_text("1 / 0\n")
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
import signal
signal.signal(signal.SIGALRM, lambda number, frame: print("<alarmed>"))

def application(environ, start_response):
    start_response("200 OK", [])
    return []
""")
    interpreter = {
        "application_group": None, "paths": [], "restrict_stdin": False, "restrict_stdout": False,
        "restrict_signal": restricted,
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
    script.write_text("import time\nprint('<importing>')\ntime.sleep(60)\n")
    worker.start(app(script), ready=False)
    worker.wait_log("<importing>")
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait(3) == 0
    assert "Traceback" not in worker.log() and worker.messages == ["register"]


# ---- service scripts


SERVICE = """
import atexit, time
atexit.register(print, "<exit functions>")
try:
    print("<serving>")
    time.sleep(%s)
    print("<done>")
finally:
    print("<cleaned up>")
"""


@pytest.mark.parametrize("how", ["signal", "order"])
def test_a_service_script_is_ended_by_system_exit(worker, how):
    (worker.apps / "service.py").write_text(SERVICE % 60)
    worker.start("service.py", threads=0)
    worker.wait_log("<serving>")
    if how == "signal":
        worker.process.terminate()
    else:
        worker.order("stop", reason="shutdown_signal")
    assert worker.wait(3) == 0
    log = worker.log()
    assert "<done>" not in log and "<cleaned up>" in log and "<exit functions>" in log
    assert "Traceback" not in log


def test_a_service_script_is_left_in_peace_while_it_ends(worker):
    """Neither what the process itself does about the signal nor the next signal disturbs it."""
    (worker.apps / "service.py").write_text("""
import os, time
try:
    print("<serving>")
    time.sleep(60)
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
    (worker.apps / "service.py").write_text(SERVICE % 60)
    worker.start("service.py", threads=0, ready=False)
    if how == "signal":
        worker.process.terminate()
    else:
        worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    log = worker.log()
    assert ("<serving>" in log) == ("<cleaned up>" in log)
    assert "<done>" not in log and "Traceback" not in log and "any longer" not in log


def test_a_service_script_that_returns(worker):
    (worker.apps / "service.py").write_text(SERVICE % 0.1)
    worker.start("service.py", threads=0)
    assert worker.wait(3) == 0
    assert "<done>" in worker.log() and "<exit functions>" in worker.log()


def test_a_service_script_that_fails(worker):
    (worker.apps / "service.py").write_text("1 / 0\n")
    worker.start("service.py", threads=0)
    assert worker.wait(3) == 1
    assert "ZeroDivisionError" in worker.log()


# ---- settings


def test_its_name(worker):
    worker.start("hello.py", display_name="(wsgi:shop)")
    process = psutil.Process(worker.pid)
    assert process.name() == "(wsgi:shop)"
    assert "".join(process.cmdline()).strip() == "(wsgi:shop)"
    assert worker.get("process.py", "/subprocess-python").json() == {"ok": [0, True]}


def test_locale(worker):
    script = worker.apps / "locales.py"
    script.write_text("""
import locale

def application(environ, start_response):
    start_response("200 OK", [])
    return [repr(locale.setlocale(locale.LC_ALL)).encode()]
""")
    worker.start(locale="C.UTF-8")
    assert worker.get("locales.py").body == b"'C.UTF-8'"


def test_a_locale_that_is_not_there(worker):
    worker.start("hello.py", locale="xx_XX")
    assert "locale=xx_XX: unsupported locale setting" in worker.log()


def test_script_user(worker):
    worker.start(script_user=os.geteuid())
    assert worker.get("hello.py").status == 200
    (worker.apps / "environ.py").chmod(0o666)
    assert worker.get("environ.py").status == 403
    assert "environ.py': others than its owner may write to it" in worker.log()


def test_script_group(worker):
    worker.start("hello.py", script_group=os.getegid() + 1)
    answer = worker.get("hello.py")
    assert (answer.status, answer.abort) == (403, None)
    assert "it does not belong to script-group" in worker.log()
    assert worker.log().count("Loading WSGI script") == 0


def test_what_the_environ_says_of_the_process(worker):
    worker.start(threads=1, processes=4, multiprocess=True, run_once=True, switch_interval=0.25)
    seen = worker.get("environ.py").json()["reprs"]
    names = "multithread", "multiprocess", "run_once"
    assert [seen[f"wsgi.{name}"] for name in names] == ["False", "True", "True"]


def test_metrics_of_the_queue(worker):
    script = worker.apps / "metrics.py"
    script.write_text("""
import json, mod_wsgi
mod_wsgi.start_recording_metrics()

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps(mod_wsgi.request_metrics()).encode()]
""")
    worker.start(app(script))
    with worker.connect() as connection:
        connection.get(str(script))
        seen = connection.get(str(script)).json()
    assert seen["request_count"] == 1
    for name in "server_time", "queue_time", "daemon_time", "application_time":
        assert 0 <= seen[f"{name}_min_us"] <= seen["request_time_min_us"], name


# ---- its log


def test_log_lines_of_httpd(shared):
    shared.get("logs.py", "/print", QUERY_STRING="in-apache-style")
    line = next(line for line in shared.log().splitlines() if "in-apache-style" in line)
    assert re.fullmatch(
        r"\[\w{3} \w{3} \d\d \d\d:\d\d:\d\d\.\d{6} \d{4}\] \[wsgi:error\] "
        rf"\[pid {shared.pid}:tid \d+\] \[remote 192\.0\.2\.7:4711\] in-apache-style",
        line,
    )


def test_log_lines_of_nginx(worker):
    worker.start("logs.py", server="nginx")
    worker.get("logs.py", "/warning", QUERY_STRING="in-nginx-style", headers=[("Host", "shop.example")])
    line = next(line for line in worker.log().splitlines() if "in-nginx-style" in line)
    assert re.fullmatch(
        rf"\d{{4}}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] {worker.pid}#\d+: \*12 .*in-nginx-style, "
        r'client: 192\.0\.2\.7, server: shop\.example, request: "GET /warning HTTP/1\.1", '
        r'host: "shop\.example"',
        line,
    )


def test_the_log_is_replaced(worker):
    worker.start("logs.py")
    with (worker.root / "other.log").open("ab") as log:
        worker.order("log", [log.fileno()])
    wait_for(lambda: os.readlink(f"/proc/{worker.pid}/fd/2").endswith("other.log"), "the other log")
    worker.get("logs.py", "/print", QUERY_STRING="goes-there")
    assert "goes-there" in (worker.root / "other.log").read_text() and "goes-there" not in worker.log()


def test_levels(worker):
    worker.start("logs.py", log_level=4)
    assert "Loading WSGI script" not in worker.log()
    worker.get("logs.py", "/warning", QUERY_STRING="warned")
    assert "warned" in worker.log()
