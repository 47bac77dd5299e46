"""A daemon worker, spoken to as servers and its manager do."""

import os
import re
import socket
import stat
import time

import psutil
import pytest
from servers import WORKER, wait_for
from test_process import EXPECTED, FORKS
from workers import ABORTED, BODY, FAILED, HEAD, HELLO, LAST, Worker, app, frame, request


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
        pid, threads, busy, draining, _connections, served = connection.summary()
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


TOGETHER = """
import threading

barrier = threading.Barrier(4)

def application(environ, start_response):
    barrier.wait(30)
    start_response("200 OK", [])
    return []
"""


def test_all_threads_serve_at_once(worker):
    script = worker.apps / "together.py"
    script.write_text(TOGETHER)
    worker.start("hello.py", app(script), threads=4)
    connections = [worker.connect() for _ in range(4)]
    for _ in range(20):
        for target in worker.target("hello.py"), str(script):
            for connection in connections:
                connection.send(request(target))
            assert [connection.answer().status for connection in connections] == [200] * 4
    for connection in connections:
        connection.close()


def test_no_process_takes_more_connections_than_it_has_threads(worker):
    """Who has just connected is about to send a request, for which another process has a thread."""
    worker.start("responses.py", processes=2, threads=1)
    one = worker.process
    worker.start("responses.py", processes=2, threads=1)
    try:
        connections = [worker.connect() for _ in range(2)]
        for connection in connections:
            connection.send(request(worker.target("responses.py"), "/gated", QUERY_STRING="name=one"))
        for connection in connections:
            connection.socket.settimeout(8)  # after ten seconds the other one is served
            assert [connection.frame()[0] for _ in range(2)] == [HELLO, HEAD]
            connection.close()
    finally:
        one.kill()
        one.wait()


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
