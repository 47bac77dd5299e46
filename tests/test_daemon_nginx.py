"""nginx and the workers of its process groups: what it makes of all that they can do to it."""

import array
import concurrent.futures
import contextlib
import http.client
import os
import pathlib
import re
import signal
import socket
import struct
import threading
import time

import psutil
import pytest
import servers
import workers
from servers import PYTHON_HOME, Mount, wait_for
from standin import ANSWER, Group, body, head
from workers import ABORT, BODY, FILE, FLUSH, GOAWAY, HEAD, LAST, frame

REFUSED = {
    "wsgi_daemon_process shop threads;": "name=value",
    "wsgi_daemon_process shop threads=x;": "threads=x",
    "wsgi_daemon_process shop colour=blue;": "no option colour",
    "wsgi_daemon_process shop; wsgi_daemon_process shop;": "already",
    'wsgi_daemon_process "%{GLOBAL}";': "cannot name a process group",
    "wsgi_process_group shop;": "there is no wsgi_daemon_process shop",
    'wsgi_process_group "%{ENV:GROUP}";': "name of a process group",
    "wsgi_process_group a; wsgi_process_group b;": "duplicate",
    "wsgi_import_script hello process-group=shop;": "there is no wsgi_daemon_process shop",
    "wsgi_import_script hello colour=blue;": "process-group=NAME",
    "wsgi_import_script hello process-group=a process-group=b;": "once",
    "wsgi_buffers 1 4k;": "at least 2",
    "wsgi_buffering maybe;": '"on" or "off"',
}


@pytest.mark.parametrize("directive", REFUSED)
def test_refused_with_file_and_line(nginx, directive):
    code, said = nginx.configtest(http=directive)
    assert code != 0
    assert REFUSED[directive] in said and re.search(r"nginx\.conf:\d+", said), said


def start(server, options="", *, mounts=None, http="", **settings):
    """Starts it with a process group `shop` that all of it runs in."""
    group = f"wsgi_daemon_process shop python-home={PYTHON_HOME} python-path={server.apps} {options};"
    mounts = mounts or [
        Mount("/", "hello.py"),
        Mount("/unbuffered", "hello.py", nginx="wsgi_buffering off; wsgi_request_buffering off;"),
    ]
    return server.start(mounts=mounts, http=f"{group} wsgi_process_group shop; {http}", **settings)


@pytest.fixture(scope="module")
def running():
    server = start(servers.Nginx())
    with Group(server).listen() as group:
        yield server, group
    server.close()


@pytest.fixture
def group(running):
    """What nginx connects to, in the hands of the test."""
    running[1].forget()
    return running[1]


@pytest.fixture
def site(running, watch):
    return watch(running[0])


@pytest.fixture
def clients():
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def first(site, group, clients):
    """A connection that is idle, after its first request."""
    with first_of(site, group, clients) as worker:
        yield worker


def first_of(server, group, clients, path="/"):
    answer = clients.submit(server.get, path)
    worker = group.accept()
    worker.serve()
    assert answer.result().content == ANSWER
    return worker


PATHS = pytest.mark.parametrize("path", ["/", "/unbuffered"])

# ---- answers


@PATHS
def test_frames_that_are_cut_anywhere(site, group, clients, path):
    answer = clients.submit(site.get, path)
    frames = [head(headers=[(b"X-One", b"1")]), body(b"one ", 0), body(b"", 0), body(b"two ", FLUSH),
              frame(GOAWAY), body(b"three")]  # fmt: skip
    with group.accept() as worker:
        worker.request()
        for byte in b"".join(frames):
            worker.send(bytes([byte]))
        assert (answer.result().text, answer.result().headers["X-One"]) == ("one two three", "1")
        assert worker.ended(), "it was told that the worker goes away"


@PATHS
def test_what_is_flushed_reaches_the_client(site, group, path):
    with site.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with group.accept() as worker:
            worker.request()
            worker.send(head() + body(b"first", FLUSH))
            seen = b""
            while b"first" not in seen:
                seen += client.recv(4096)
            worker.send(body(b"last"))
            assert b"last" in client.recv(4096)


@PATHS
def test_long_heads(site, first, clients, path):
    for length in (3900, 4000, *range(4020, 4050), 4096, 20_000, 32_000):
        answer = clients.submit(site.request, path)
        first.serve(head(headers=[(b"X-Long", b"x" * length)]), body())
        assert (len(answer.result().header("X-Long")), answer.result().body) == (length, ANSWER)


@PATHS
def test_no_body(site, first, clients, path):
    for method, status in ("HEAD", 200), ("GET", 204), ("GET", 304):
        answer = clients.submit(site.client.request, method, path)
        first.serve(head(status, 10, flags=LAST))
        assert (answer.result().status_code, answer.result().content) == (status, b"")
    answer = clients.submit(site.client.head, path)
    first.serve(head(length=len(ANSWER)), body())
    assert answer.result().headers["Content-Length"] == str(len(ANSWER))


STATUSES = {
    workers.FAILED: 500,
    workers.ABORTED: 500,
    workers.UNAVAILABLE: 503,
    workers.DIED: 502,
    workers.TIMEOUT: 504,
}


@PATHS
def test_outcomes(site, first, clients, path):
    for outcome, status in STATUSES.items():
        answer = clients.submit(site.get, path)
        first.serve(frame(ABORT, bytes([outcome])))
        assert answer.result().status_code == status
    answer = clients.submit(site.request, path)
    first.serve(head(), body(b"begin", 0), frame(ABORT, bytes([workers.ABORTED])))
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.result()
    assert cut.value.partial == b"begin"


MALFORMED = {
    "garbage": b"HTTP/1.1 200 OK\r\n\r\n",
    "a body first": body(),
    "a request": frame(workers.REQUEST, flags=LAST),
    "a second HELLO": frame(workers.HELLO, struct.pack("<HHI", 1, 0, 0)),
    "an outcome that is none": frame(ABORT),
    "a long frame": struct.pack("<IBBH", (1 << 20) + 1, HEAD, 0, 0),
    "no head": frame(HEAD, b"x" * 30),
    "a head that is two": head(headers=[(b"X", b"1\r\nY: 2")], flags=LAST),
    "an early status": head(100, flags=LAST),
    "a short head": head(length=3, flags=LAST),
}
MALFORMED_LATER = {
    "garbage": b"HTTP/1.1 200 OK\r\n\r\n",
    "a second head": head(),
    "more than there should be": body(b"x" * 11, 0),
    "less than there should be": body(b"x" * 9),
    "a file without a descriptor": frame(FILE, struct.pack("<QQ", 0, 5)),
    "a strange file": frame(FILE, struct.pack("<QQ", 1 << 63, 5)),
    "a long body": struct.pack("<IBBH", 65537, BODY, 0, 0),
}


@PATHS
@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(site, group, clients, what, path):
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.serve(MALFORMED[what])
        if what == "a short head":
            with pytest.raises((http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError)):
                answer.result()
        else:
            assert answer.result().status == 502
        assert worker.ended()
    assert 'process group "shop": its process has sent' in site.log()


@PATHS
@pytest.mark.parametrize("what", MALFORMED_LATER)
def test_malformed_later(site, group, clients, what, path):
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.serve(head(length=10, headers=[(b"X-One", b"1")]), MALFORMED_LATER[what])
        with pytest.raises((http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError)):
            answer.result()
        assert worker.ended()
    assert 'process group "shop": its process has sent' in site.log()


def test_what_follows_an_answer_is_for_nobody(site, group, clients):
    answer = clients.submit(site.get)
    with group.accept() as worker:
        worker.serve(head(flags=LAST), head(flags=LAST))
        assert answer.result().content == b""
        assert worker.ended()


# ---- files


def pass_file(worker, descriptors, offset, length, flags=LAST):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    worker.socket.sendmsg([frame(FILE, struct.pack("<QQ", offset, length), flags)], rights)


def descriptors_of(server):
    (pid,) = server.workers()
    return len(os.listdir(f"/proc/{pid}/fd"))


@PATHS
@pytest.mark.parametrize("tls", [False, True])
def test_files(site, first, clients, tmp_path, path, tls):
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    before = descriptors_of(site)
    for _ in range(3):
        with site.http2() as client, (tmp_path / "data").open("rb") as file:
            answer = clients.submit((client if tls else site.client).get, path)
            first.request()
            first.send(head(length=len(data) - 10))
            pass_file(first, [file.fileno()], 10, len(data) - 1010, 0)
            first.send(body(data[-1000:]))
            assert answer.result().content == data[10:]
    wait_for(lambda: descriptors_of(site) == before, "closed descriptors")


def test_a_file_frees_the_worker(site, first, clients, tmp_path):
    (tmp_path / "data").write_bytes(bytes(8_000_000))
    with site.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first.request()
        first.send(head(length=8_000_000))
        with (tmp_path / "data").open("rb") as file:
            pass_file(first, [file.fileno()], 0, 8_000_000)
        answer = clients.submit(site.get)
        first.serve()
        assert answer.result().content == ANSWER
        assert servers.read_response(slow).body == bytes(8_000_000)


@PATHS
def test_a_file_that_has_become_shorter(site, first, clients, tmp_path, path):
    (tmp_path / "data").write_bytes(b"short")
    answer = clients.submit(site.request, path)
    first.request()
    first.send(head(length=1000))
    with (tmp_path / "data").open("rb") as file:
        pass_file(first, [file.fileno()], 0, 1000)
    with pytest.raises(http.client.IncompleteRead):
        answer.result()
    assert "[alert]" in site.log()
    os.truncate(site.error_log, 0)  # or it would count as a crash
    site.mark()


@PATHS
@pytest.mark.parametrize("kind", ["pipe", "folder", "write only", "many", "unasked"])
def test_bad_descriptors(site, group, clients, tmp_path, kind, path):
    pipe = os.pipe()
    given = {
        "pipe": [pipe[0]], "folder": [os.open(tmp_path, os.O_RDONLY)], "many": [pipe[0]] * 253,
        "write only": [os.open(tmp_path / "data", os.O_WRONLY | os.O_CREAT)], "unasked": [pipe[0]] * 5,
    }[kind]  # fmt: skip
    before = descriptors_of(site)
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.request()
        worker.send(head(length=5, headers=[(b"X-One", b"1")]))
        if kind == "unasked":
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))]
            worker.socket.sendmsg([body(b"x", 0)], rights)
        else:
            pass_file(worker, given, 0, 5)
        with contextlib.suppress(http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError):
            assert answer.result().status == 502  # where all of it came at once
        assert worker.ended()
    assert 'process group "shop": its process has sent' in site.log()
    # One is the pipe by which the last worker would say that it ends.
    wait_for(lambda: descriptors_of(site) <= before + 1, "closed descriptors")
    for descriptor in {*given, *pipe}:
        os.close(descriptor)


def test_many_files_are_refused(site, group, clients, tmp_path):
    (tmp_path / "data").write_bytes(b"x")
    answer = clients.submit(site.request, "/")
    with group.accept() as worker, (tmp_path / "data").open("rb") as file:
        worker.request()
        worker.send(head())
        # It may be cut off before the last one.
        with contextlib.suppress(BrokenPipeError):
            for _ in range(17):
                pass_file(worker, [file.fileno()], 0, 1, 0)
        with pytest.raises(http.client.IncompleteRead):
            answer.result()
        assert worker.ended()


# ---- connections


def test_a_connection_is_used_again(site, first, clients):
    for _ in range(3):
        answer = clients.submit(site.get)
        first.serve()
        assert answer.result().content == ANSWER
    with site.http2() as client:
        answer = clients.submit(client.get, "/")
        first.serve()
        assert answer.result().content == ANSWER
    first.send(frame(GOAWAY))
    assert first.ended()


def test_going_away_is_no_reason_not_to_answer(site, first, clients):
    answer = clients.submit(site.get)
    first.request()
    first.send(frame(GOAWAY) + head(length=len(ANSWER)) + body())
    assert answer.result().content == ANSWER
    assert first.ended()


UPLOADS = [("/", 0), ("/", 1000), ("/", 300_000), ("/unbuffered", 1000), ("/unbuffered", 300_000)]


@pytest.mark.parametrize(("path", "size"), UPLOADS)
@pytest.mark.parametrize("how", ["idle", "greeted", "not accepted"])
def test_what_nobody_has_taken_is_sent_again(site, group, clients, path, size, how):
    data = os.urandom(size)
    ask = lambda: site.post(path, content=data) if size else site.get(path)  # noqa: E731
    if how == "idle":
        with first_of(site, group, clients, path) as worker:
            answer = clients.submit(ask)
            worker.fill(1)
    else:
        answer = clients.submit(ask)
        with group.accept(greet=how == "greeted"):
            time.sleep(0.05)
    with group.accept() as worker:
        assert worker.serve() == data
        assert answer.result().content == ANSWER
    assert "sent again" in site.log() and "[error]" not in site.log()


@PATHS
@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_what_was_taken_is_not(site, group, clients, path, size):
    answer = clients.submit(site.post, path, content=bytes(size))
    with group.accept() as worker:
        worker.fill(1)
        worker.take()
    assert answer.result().status_code == 502
    assert 'process group "shop": its process has ended while it served the request' in site.log()


@PATHS
def test_a_worker_that_dies_in_an_answer(site, group, clients, path):
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.serve(head(), body(b"begin", FLUSH))
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.result()
    assert cut.value.partial == b"begin"
    with site.http2() as client:
        answer = clients.submit(client.get, path)
        with group.accept() as worker:
            worker.serve(head(), body(b"begin", FLUSH))
        with pytest.raises(Exception, match="(?i)reset|INTERNAL_ERROR"):
            answer.result()


@PATHS
def test_a_client_that_leaves(site, group, path):
    for sent in b"", head() + body(b"begin", FLUSH):
        with site.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            worker = group.accept()
            worker.request()
            worker.send(sent)
        with worker:
            assert worker.ended()


@PATHS
def test_an_answer_before_the_body_has_come(site, group, path):
    with site.connect() as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n".encode())
        if path == "/":
            client.sendall(bytes(9_000_000))
        with group.accept() as worker:
            worker.fill(1)
            worker.send(head(413, length=len(ANSWER)) + body())
            answer = servers.read_response(client)
            assert (answer.status, answer.body) == (413, ANSWER)
            with pytest.raises((EOFError, ConnectionError)):
                worker.request()


def test_both_directions_at_once(site, group):
    with site.connect() as client:
        client.sendall(b"POST /unbuffered HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"3\r\none\r\n")
        with group.accept() as worker:
            worker.frame()
            assert worker.frame() == (BODY, 0, b"one")
            worker.send(head() + body(b"eno", FLUSH))
            seen = b""
            while b"eno" not in seen:
                seen += client.recv(4096)
            client.sendall(b"3\r\ntwo\r\n")
            assert worker.frame() == (BODY, 0, b"two")
            client.sendall(b"0\r\n\r\n")
            assert worker.frame() == (BODY, LAST, b"")
            worker.send(body(b"owt"))
            assert b"owt" in client.recv(4096)


def test_a_large_upload_and_a_slow_worker(site, group, clients):
    data = os.urandom(8_000_000)
    for path in "/", "/unbuffered":
        answer = clients.submit(site.post, path, content=data)
        with group.accept() as worker:
            time.sleep(0.1)
            assert worker.serve() == data
            assert answer.result().content == ANSWER


def test_a_slow_client_does_not_hold_the_worker(site, first, clients):
    data = os.urandom(6_000_000)
    with site.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first.request()
        first.send(head(length=len(data)))
        for at in range(0, len(data), 60_000):
            first.send(body(data[at : at + 60_000], LAST if at + 60_000 >= len(data) else 0))
        answer = clients.submit(site.get)
        first.serve()
        assert answer.result().content == ANSWER
        assert servers.read_response(slow).body == data


# ---- time


@pytest.fixture
def hasty(nginx):
    """A server with short times, and its process group's socket."""
    start(nginx, "queue-timeout=2 connect-timeout=1 socket-timeout=1")
    with Group(nginx) as group:
        yield nginx, group


def timed(clients, function, *arguments):
    def call():
        began = time.monotonic()
        return function(*arguments).status_code, time.monotonic() - began

    return clients.submit(call)


@PATHS
def test_queue_timeout(hasty, clients, path):
    server, group = hasty
    group.listen()
    # Silence counts from when a thread has the request: socket-timeout is shorter.
    answer = timed(clients, server.get, path)
    with group.accept() as worker:
        status, took = answer.result()
        assert status == 504 and 1.9 < took < 2.5
        with pytest.raises(EOFError):
            worker.request()
            worker.frame()
    assert 'process group "shop": none of its threads was free within queue-timeout' in server.log()


@PATHS
def test_socket_timeout(hasty, clients, path):
    server, group = hasty
    group.listen()
    answer = timed(clients, server.get, path)
    with group.accept() as worker:
        time.sleep(0.7)
        worker.take()
        status, took = answer.result()
        assert status == 504 and 1.6 < took < 2.2
    answer = clients.submit(server.request, path)
    with group.accept() as worker:
        worker.take()
        worker.serve(head(), body(b"begin", FLUSH))
        with pytest.raises(http.client.IncompleteRead):
            answer.result()


def test_no_process_can_be_reached(hasty, clients):
    server, group = hasty
    status, took = timed(clients, server.get).result()
    assert status == 503 and 0.9 < took < 1.5
    assert "no processes that could be reached" in server.log()
    answers = [clients.submit(server.get) for _ in range(3)]
    time.sleep(0.2)
    group.listen()
    with contextlib.ExitStack() as stack:
        for _ in answers:
            stack.enter_context(group.accept()).serve()
    assert [answer.result().content for answer in answers] == [ANSWER] * 3


def test_a_full_queue(hasty, clients):
    server, group = hasty
    group.listen(backlog=0)
    answers = [timed(clients, server.get) for _ in range(4)]
    wait_for(lambda: sum(answer.done() for answer in answers) == 3, "three answers")
    for status, took in (answer.result() for answer in answers if answer.done()):
        assert status == 503 and 0.9 < took < 1.5
    assert "its queue has been full (listen-backlog)" in server.log()
    waiting = [timed(clients, server.get) for _ in range(3)]
    for _ in range(4):
        with group.accept() as worker:
            worker.serve(head(flags=LAST), frame(GOAWAY))
            assert worker.ended()
    assert [answer.result()[0] for answer in [*answers, *waiting]].count(200) == 4


# ---- real workers


def test_no_python_in_nginx(nginx):
    start(nginx)
    assert nginx.get().text == "Hello, World!\n"
    (pid,) = nginx.workers()
    assert "libpython" not in pathlib.Path(f"/proc/{pid}/maps").read_text()
    assert len(psutil.Process(pid).threads()) == 1


WHO = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(environ["mod_wsgi.process_group"]).encode()]
"""
ACCESS = """
def allow_access(environ, host):
    return "secret" not in environ["QUERY_STRING"]
"""


def test_embedded_and_daemon(nginx):
    who, access = nginx.write_app("who.py", WHO), nginx.write_app("access.py", ACCESS)
    inside = {
        "daemon": "",
        "embedded": 'wsgi_process_group "%{GLOBAL}";',
        "inherits": f"if ($arg_own) {{ wsgi_process_group other; wsgi_pass {who}; }}",
    }
    mounts = [Mount(f"/{name}", "who.py", "%{GLOBAL}", nginx=lines) for name, lines in inside.items()]
    other = f"wsgi_daemon_process other python-home={PYTHON_HOME};"
    start(nginx, mounts=mounts, http=other, nginx=f"wsgi_access_script {access};")
    assert nginx.get("/daemon").text == "'shop'"
    assert nginx.get("/embedded").text == "''"
    assert nginx.get("/inherits").text == "'shop'"
    assert nginx.get("/inherits?own=1").text == "'other'"
    assert nginx.get("/daemon?secret").status_code == 403


def test_imported_before_the_first_request(nginx):
    nginx.write_app("early.py", 'print("early", __import__("os").getpid())')
    http = f'wsgi_import_script {nginx.apps / "early.py"} process-group=shop "application-group=%{{GLOBAL}}";'
    start(nginx, http=http)
    pid = int(re.search(r"early (\d+)", nginx.wait_log(r"early \d"))[1])
    assert pid not in nginx.workers()
    assert nginx.get().status_code == 200


def test_access_log(nginx):
    seen = "$upstream_addr|$upstream_status|$upstream_response_time|$upstream_bytes_received"
    start(nginx, http=f"log_format link '{seen}'; access_log {nginx.root}/links.log link;")
    assert nginx.get().status_code == 200
    line = wait_for(lambda: (nginx.root / "links.log").read_text(), "a line")
    assert re.fullmatch(r"shop\|200\|0\.\d+\|\d+\n", line)


def test_a_quit_lets_requests_end(nginx, clients):
    start(nginx, mounts=[Mount("/", "lifecycle.py", "%{GLOBAL}")])
    nginx.get("/pid")
    sleeping = clients.submit(nginx.get, "/sleep?1")
    nginx.wait_log("falls asleep")
    nginx.stop(signal.SIGQUIT)
    assert sleeping.result().status_code == 200
    assert "open socket" not in nginx.log()


def test_reloads(nginx, clients):
    """No request is lost, whatever connections the worker processes that end have."""
    start(nginx)
    over = threading.Event()

    def ask():
        seen = set()
        while not over.is_set():
            seen.add(nginx.request("/").status)
        return seen

    asking = [clients.submit(ask) for _ in range(4)]
    for _ in range(3):
        nginx.reload()
    over.set()
    assert [each.result() for each in asking] == [{200}] * 4
