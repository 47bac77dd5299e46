"""ASGI applications in a daemon worker, spoken to as a server does."""

import json
import os
import time

import pytest
from servers import wait_for
from sockets import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    PING,
    PONG,
    TEXT,
    client_frame,
    close_frame,
    code_of,
    server_frame,
)
from workers import (
    ABORTED,
    BODY,
    FAILED,
    GOAWAY,
    HEAD,
    LAST,
    NO_BODY,
    SETTINGS,
    TIMEOUT,
    Answer,
    Worker,
    frame,
    request,
)

UPGRADE = 8
APP = "asgi_socket.py"


@pytest.fixture(scope="module", params=["the loop takes requests", "threads take requests"])
def shared(request):
    """A worker with ASGI applications alone, or with others."""
    others = [] if request.param.startswith("the loop") else ["hello.py"]
    made = Worker(main_interpreter=True).start(APP, *others)
    yield made
    made.close()


@pytest.fixture
def worker():
    made = Worker(main_interpreter=True)
    yield made
    made.close()


class Socket:
    """A WebSocket in BODY frames."""

    def __init__(self, worker, path, headers=()):
        self.connection = worker.connect()
        self.bytes, self.ended = b"", False
        headers = [*HANDSHAKE, *headers]
        options = {"headers": headers, "body": "later", "flags": NO_BODY | UPGRADE}
        self.connection.send(request(worker.target(APP), path, **options))
        self.head = self.answer_head()

    def answer_head(self):
        kind, flags, payload = self.connection.frame()
        while kind != HEAD:
            kind, flags, payload = self.connection.frame()
        head = Answer()
        self.connection.read_head(head, payload)
        self.ended = flags & LAST
        return head

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.connection.close()

    def send(self, *frames):
        self.connection.send(frame(BODY, b"".join(frames)))

    def read(self, length):
        while len(self.bytes) < length:
            assert not self.ended
            kind, flags, payload = self.connection.frame()
            if kind == GOAWAY:
                self.connection.dismissed = True
                continue
            assert kind == BODY
            self.bytes += payload
            self.ended = flags & LAST
        taken, self.bytes = self.bytes[:length], self.bytes[length:]
        return taken

    def frame(self):
        return server_frame(self.read)

    def closed(self):
        """The code and reason that the server closes with."""
        opcode, payload = self.frame()
        assert opcode == CLOSE
        return code_of(payload)

    def end(self):
        """The server says no more."""
        while not self.ended:
            kind, flags, payload = self.connection.frame()
            assert (kind, payload) == (BODY, b"")
            self.ended = flags & LAST
        assert not self.bytes


def told(worker):
    return worker.get(APP, "/told").json()


# ---- HTTP


def test_requests(shared):
    with shared.connect() as connection:
        for number in 1, 2, 3:
            answer = connection.get(shared.target(APP))
            assert (answer.status, answer.body, answer.length) == (200, b"Hello, World!\n", 14)
            assert connection.taken == number
    assert shared.get(APP, "/nonsense").abort == FAILED


def test_bodies(shared):
    body = os.urandom(300_000)
    pieces = [body[at : at + 50_000] for at in range(0, len(body), 50_000)]
    with shared.connect() as connection:
        for _ in range(2):
            connection.send(request(shared.target(APP), "/body", method="POST", body="later"))
            answers = b""
            for piece in pieces:
                connection.send(frame(BODY, piece))
            connection.send(frame(BODY, b"", LAST))
            answers = connection.answer()
            assert answers.body == body and answers.abort is None


def test_a_body_that_is_left(shared):
    """The next request of the connection is found behind it."""
    with shared.connect() as connection:
        connection.send(request(shared.target(APP), "/hello", method="POST", body="later"))
        assert connection.answer().body == b"Hello, World!\n"
        connection.send(frame(BODY, b"x" * 60_000) + frame(BODY, b"", LAST) + request(shared.target(APP)))
        assert connection.answer().body == b"Hello, World!\n"


def test_a_server_that_reads_slowly(shared):
    with shared.connect() as slow, shared.connect() as other:
        slow.send(request(shared.target(APP), "/large", QUERY_STRING="20000000"))
        assert other.get(shared.target(APP)).status == 200
        assert len(slow.answer().body) == 20_000_000
        assert slow.get(shared.target(APP)).status == 200


def test_a_server_that_goes(shared):
    told(shared)
    with shared.connect() as connection:
        connection.send(request(shared.target(APP), "/sleep"))
        wait_for(lambda: shared.get(APP).status == 200, "a hello beside it", 10)
    with Socket(shared, "/echo"):
        pass
    wait_for(lambda: told(shared) or None, "the disconnect", 10)
    assert shared.get(APP).status == 200


# ---- WebSockets


def test_a_socket(shared):
    with Socket(shared, "/echo", [("Sec-WebSocket-Protocol", "a, b")]) as socket:
        assert socket.head.status == 101 and socket.head.length == -1
        headers = dict(socket.head.headers)
        assert headers["Sec-WebSocket-Accept"] == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        assert (headers["Sec-WebSocket-Protocol"], headers["x-echo"]) == ("b", "yes")
        for sent in b"Hello", "ö".encode() * 1000, b"", b"x" * 200_000:
            message = client_frame(TEXT, sent)
            for at in range(0, len(message), 60_000):
                socket.send(message[at : at + 60_000])
            assert socket.frame() == (TEXT, sent)
        pieces = client_frame(BINARY, b"\0", final=False), client_frame(0, b"\xff")
        socket.send(pieces[0], client_frame(PING, b"!"), pieces[1])
        assert socket.frame() == (PONG, b"!")
        assert socket.frame() == (BINARY, b"\0\xff")
        told(shared)
        socket.send(close_frame(4000, b"bye"))
        assert socket.closed() == (4000, "")
        socket.end()
    last = {"type": "websocket.disconnect", "code": 4000, "reason": "bye"}
    assert wait_for(lambda: told(shared) or None, "the disconnect", 10)[0] == last


def test_what_breaks_the_protocol(shared):
    for code, sent in [
        (1002, client_frame(TEXT, b"", masked=False)),
        (1002, client_frame(3, b"")),
        (1002, client_frame(PING, b"", final=False)),
        (1002, close_frame(1005)),
        (1007, client_frame(TEXT, b"\xff")),
        (1009, client_frame(BINARY, b"")[:1] + b"\xff" + (1 << 30).to_bytes(8, "big") + bytes(4)),
    ]:
        with Socket(shared, "/echo") as socket:
            socket.send(sent)
            assert socket.closed()[0] == code
            socket.end()


def test_what_the_application_does(shared):
    for path, status in [("/forbidden", 403), ("/denied", 401)]:
        with Socket(shared, path) as socket:
            assert socket.head.status == status
    for path in "/unwilling", "/silent":
        with shared.connect() as connection:
            options = {"headers": HANDSHAKE, "body": "later", "flags": NO_BODY | UPGRADE}
            connection.send(request(shared.target(APP), path, **options))
            assert connection.answer().abort == FAILED
    for path, code in [("/raises", 1011), ("/returns", 1000)]:
        with Socket(shared, path) as socket:
            assert socket.closed() == (code, "")
            socket.send(close_frame(code))
            socket.end()
    told(shared)
    with Socket(shared, "/mistakes") as socket:
        raised = json.loads(socket.frame()[1])
        assert raised[:5] == ["RuntimeError", *["ValueError"] * 3, "RuntimeError"]
        assert raised[5:] == [
            "RuntimeError", "ValueError", "ValueError", "TypeError", "TypeError", "ValueError", "ValueError",
            "RuntimeError",
        ]  # fmt: skip
        assert socket.closed() == (1000, "")
        assert told(shared) == ["RuntimeError", "RuntimeError"]


def test_bad_handshakes(shared):
    for status, wrong in [
        (426, ("Sec-WebSocket-Version", "8")),
        (400, ("Sec-WebSocket-Key", "short")),
        (400, ("Sec-WebSocket-Extensions", "a; =")),
    ]:
        headers = [header for header in HANDSHAKE if header[0] != wrong[0]] + [wrong]
        with shared.connect() as connection:
            options = {"headers": headers, "body": "later", "flags": NO_BODY | UPGRADE}
            connection.send(request(shared.target(APP), "/echo", **options))
            answer = connection.answer()
        assert answer.status == status
        assert ("Sec-WebSocket-Version", "13") in answer.headers or status != 426


def test_a_client_that_reads_slowly(shared):
    told(shared)
    with Socket(shared, "/flood") as socket:
        for _ in range(100):
            assert socket.frame() == (BINARY, b"x" * 65536)
        before = wait_for(lambda: told(shared) or None, "how much was sent", 10)[0]
        # It waits for the client now.
        assert before < 102 * 65536 + 4_000_000
    wait_for(lambda: "gone" in told(shared) or None, "the end", 10)


def test_an_application_that_listens_slowly(shared):
    """What it does not take waits at the server's end."""
    with Socket(shared, "/deaf") as socket:
        message = client_frame(BINARY, b"x" * 60_000)
        socket.connection.socket.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 2000:
                socket.connection.socket.sendall(frame(BODY, message))
                sent += 1
        assert 0 < sent < 100
        assert shared.get(APP, "/listen").status == 200
        socket.connection.socket.settimeout(30)
        for number in range(1, sent + 1):
            assert socket.frame() == (TEXT, str(60_000 * number).encode())


# ---- a worker's life


def test_a_drain_closes_sockets(worker):
    worker.start(APP)
    with Socket(worker, "/echo") as socket, worker.connect() as idle:
        assert idle.get(worker.target(APP)).status == 200
        worker.order("drain", reason="shutdown_signal", timeout=10)
        assert socket.closed()[0] == 1012
        socket.send(close_frame(1012))
        socket.end()
        assert idle.frame()[0] == GOAWAY
        assert idle.get(worker.target(APP)).status == 200
    assert worker.wait() == 0
    assert worker.log().count("<shut down>") == 1 and "Traceback" not in worker.log()


def test_a_stop_closes_sockets(worker):
    worker.start(APP)
    with Socket(worker, "/echo") as socket:
        worker.order("stop", reason="shutdown_signal")
        assert socket.closed()[0] == 1012
        socket.send(close_frame(1012))
        assert worker.wait() == 0
    assert worker.log().count("<shut down>") == 1


def test_a_request_that_takes_too_long(worker):
    worker.start(APP, request_timeout=0.5, interrupt_timeout=10)
    with worker.connect() as connection, Socket(worker, "/echo") as socket:
        connection.send(request(worker.target(APP), "/sleep"))
        assert connection.answer().abort == TIMEOUT
        assert told(worker) == ["cancelled"]
        time.sleep(0.6)
        socket.send(client_frame(TEXT, b"still here"))
        assert socket.frame() == (TEXT, b"still here")
        assert connection.get(worker.target(APP)).status == 200


def test_a_loop_that_is_blocked(worker):
    """The server is told that the time is up nevertheless."""
    (worker.apps / "blocks.py").write_text("""
import time
async def application(scope, receive, send):
    time.sleep(3)
""")
    worker.start("blocks.py", request_timeout=0.5, interrupt_timeout=0.5)
    with worker.connect() as connection:
        assert connection.get(worker.target("blocks.py")).abort == TIMEOUT


def test_maximum_requests(worker):
    worker.start(APP, maximum_requests=2)
    with worker.connect() as connection:
        for _ in range(3):
            assert connection.get(worker.target(APP)).status == 200
    assert worker.receive("retire")["reason"] == "maximum_requests"


def test_what_is_not_for_the_loop_is_for_threads(worker):
    """The loop took the requests, until there was one for a WSGI application."""
    worker.start(APP)
    with Socket(worker, "/echo") as socket, worker.connect() as idle:
        assert idle.get(worker.target(APP)).status == 200
        assert worker.get("hello.py").body == b"Hello, World!\n"
        for _ in range(3):
            assert idle.get(worker.target(APP)).status == 200
            assert idle.get(worker.target("hello.py")).status == 200
        socket.send(client_frame(TEXT, b"still here"))
        assert socket.frame() == (TEXT, b"still here")


def test_the_loop_takes_over_what_threads_have_imported(worker):
    """Nothing is imported at the start. The page says 1,024 threads where the loop takes requests."""
    worker.start()
    (worker.apps / "other.py").write_text("""
async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"other"})
""")
    with worker.connect() as connection:

        def taken_by(threads, name):
            """They are, some requests later: a thread that waits takes one more."""

            def served():
                assert connection.get(worker.target(name)).status == 200
                return connection.summary()[1] == threads

            wait_for(served, f"{threads} threads")

        taken_by(1024, APP)
        taken_by(1024, "other.py")
        taken_by(SETTINGS["threads"], "hello.py")
        for name in 2 * [APP, "other.py", "hello.py"]:
            assert connection.get(worker.target(name)).status == 200


def test_an_answer_that_is_cut(worker):
    (worker.apps / "cut.py").write_text("""
async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"half", "more_body": True})
    raise KeyError("<cut>")
""")
    worker.start("cut.py")
    answer = worker.get("cut.py")
    assert (answer.body, answer.abort) == (b"half", ABORTED)
    assert worker.log().count("Traceback") == 1
