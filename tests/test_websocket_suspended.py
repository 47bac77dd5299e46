"""WebSockets on httpd's event MPM, whose connections hold no thread."""

import contextlib
import os
import re
import signal
import socket
import struct
import time

import psutil
import pytest
from daemons import daemons, descriptors
from servers import Apache, Mount, grows_little, rests, thread_status, wait_for
from sockets import BINARY, TEXT, WebSocket, client_frame, opens

GROUP = "live"
#: Of threads, and of WebSockets that have room beside them.
THREADS, ROOM = 4, 9
#: The thread that drives all of them.
DRIVER = "burrow:sockets"
TIMED = 'LogFormat "%>s %b %D %I %O" timed\nCustomLog timed.log timed'


def start(server, process=None, main="", threads=THREADS):
    mounts = [Mount("/", "websocket_app.py", "%{GLOBAL}", process)]
    groups = {GROUP: "processes=1 threads=2"} if process else {}
    # mpm_event drops connections that are kept alive when no thread is idle.
    server.client.headers["connection"] = "close"
    return server.start(mounts=mounts, threads=threads, groups=groups, main=f"{TIMED}\n{main}")


@pytest.fixture(params=[None, GROUP], ids=["embedded", "daemon"])
def process(request):
    """Where the application runs."""
    return request.param


@pytest.fixture
def live(process, started, watch):
    """An httpd that runs for many tests."""
    if process not in started:
        # With room for what other tests have just closed.
        started[process] = start(Apache(), process, "AsyncRequestWorkerFactor 20")
        started[process].get("/")  # what imports take is not what sockets do
    return watch(started[process])


def is_crashed(server):
    return re.search("exit signal|Segmentation fault|AddressSanitizer", server.log())


def test_more_sockets_than_threads(live):
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(WebSocket(live, b"welcome", number % 2 == 0, client_frame(TEXT, b"early")))
            for number in range(ROOM - 1)
        ]
        for client in clients:
            assert client.receive() == (TEXT, b"welcome")
            assert client.receive() == (TEXT, b"early")
        for _ in range(2):
            assert live.get("/").status_code == 200
            for size, client in enumerate(clients):
                client.send(bytes(size), BINARY)
            for size, client in enumerate(clients):
                assert client.receive() == (BINARY, bytes(size))
        first, *_ = clients
        first.send(b"close 3000")
        first.closes(3000)


def test_there_is_a_limit(apache):
    start(apache)
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(WebSocket(apache, b"welcome")) for _ in range(ROOM)]
        with WebSocket(apache) as refused:
            assert refused.head[0].startswith(b"HTTP/1.1 503")
        apache.wait_log(f"{ROOM} WebSockets are open in this process already; AsyncRequestWorkerFactor")
        assert apache.get("/").status_code == 200
        first.send(b"close 1000")
        first.closes(1000)
        wait_for(lambda: opens(apache), "room for another one")


@pytest.mark.parametrize("factor", ["AsyncRequestWorkerFactor 1", 'AsyncRequestWorkerFactor "1.9"'])
def test_the_limit_follows_the_configuration(apache, factor):
    start(apache, main=f"<IfModule wsgi_module>\n{factor}\n</IfModule>")
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WebSocket(apache)) for _ in range(7)]
        assert [client.head[0][9:12] for client in clients] == [b"101"] * 6 + [b"503"]


def test_messages_both_ways_at_once(live):
    """Larger ones than any buffer."""
    with WebSocket(live) as client:
        for size in (16_000, 16_384, 20_000, 3_000_000):
            with client.sending(bytes(size)):
                assert client.receive() == (BINARY, bytes(size))


def processes(server):
    return [*server.workers(), *daemons(server, GROUP)]


def test_a_slow_client_holds_the_application_back(live, tls):
    with grows_little(*processes(live), mib=16), WebSocket(live, tls=tls, receive_buffer=65536) as client:
        client.send(b"pieces 6000")
        assert client.receive() == (BINARY, bytes(10_000))
        assert live.get("/").status_code == 200
        for _ in range(5999):
            assert client.receive() == (BINARY, bytes(10_000))
        client.send(b"still there")
        assert client.receive() == (TEXT, b"still there")


def test_a_slow_application_holds_the_client_back(live):
    with grows_little(*processes(live), mib=16), WebSocket(live) as client:
        client.send(b"sleep 0.2")
        with client.sending(bytes(10_000), 3000):
            for _ in range(3000):
                assert client.receive() == (BINARY, bytes(10_000))


def test_a_client_that_takes_nothing_is_cut(apache, process):
    start(apache, process, "Timeout 1")
    with WebSocket(apache, receive_buffer=65536) as client:
        client.send(b"pieces 10000")
        apache.wait_log("the client left before", 30)


def test_a_client_that_vanishes(live, tls):
    for resets in (True, False):
        live.mark()
        with WebSocket(live, tls=tls) as client:
            client.send(b"hello")
            assert client.receive() == (TEXT, b"hello")
            if resets:
                client.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        live.wait_log("websocket.disconnect 1006", 30)


def test_an_idle_socket_costs_nothing(live, tls):
    with WebSocket(live, tls=tls) as client:
        client.send(b"hello")
        assert client.receive() == (TEXT, b"hello")
        (worker,) = live.workers()
        wait_for(lambda: rests(worker, DRIVER, lambda: live.get("/")), "a loop at rest")


def test_a_child_that_has_the_socket_too(apache):
    """One that the application has forked, and that outlives the WebSocket."""
    start(apache)
    (worker,) = apache.workers()
    with WebSocket(apache) as client:
        client.send(b"fork")
        child = int(client.receive()[1])
    try:
        wait_for(lambda: apache.connections() == 0, "the end of the connection")
        wait_for(lambda: "State:\tS" in thread_status(worker, DRIVER), "a loop at rest")
    finally:
        os.kill(child, signal.SIGKILL)


def test_the_access_log(live, tls):
    log = live.root / "timed.log"
    before = len(log.read_text().splitlines())
    with WebSocket(live, tls=tls) as client:
        opened = time.monotonic()
        for _ in range(3):
            client.send(bytes(1000), BINARY)
            assert client.receive() == (BINARY, bytes(1000))
        held = time.monotonic() - opened
    line = wait_for(lambda: log.read_text().splitlines()[before:], "a line")[0]
    status, size, duration, received, sent = map(int, line.split())
    assert status == 101 and 3000 < size < 3100 and duration >= held * 1e6
    assert received > 3000 and sent > size


def test_many_come_and_go(apache, process, tls):
    count = 10 if tls else 200
    start(apache, process, "AsyncRequestWorkerFactor 100")
    assert opens(apache)
    (worker,) = apache.workers()
    wait_for(lambda: apache.connections() == 0, "the end of the connection")
    before = len(descriptors(worker))
    for turn in range(2):
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(WebSocket(apache, tls=tls)) for _ in range(count)]
            for number, client in enumerate(clients):
                client.send(b"%d" % number)
            for number, client in enumerate(clients):
                assert client.receive() == (TEXT, b"%d" % number)
            for client in clients[: count // 2 * turn]:
                client.send(b"close 1000")
            for client in clients[: count // 2 * turn]:
                client.closes(1000)
        assert apache.get("/").status_code == 200
        wait_for(lambda: len(descriptors(worker)) <= before + 4, "the end of the connections")
    assert apache.workers() == [worker] and not is_crashed(apache)


@pytest.mark.parametrize("how", ["reload", "stop"])
def test_sockets_of_a_group_are_closed_in_order_when_httpd_ends(apache, tls, how):
    start(apache, GROUP)
    (worker,) = apache.workers()
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WebSocket(apache, tls=tls)) for _ in range(6)]
        apache.kill(apache.reload_signal if how == "reload" else signal.SIGWINCH)
        for client in clients:
            client.closes(1012)
    wait_for(lambda: not psutil.pid_exists(worker), "the end of the process", 60)
    assert not is_crashed(apache)


def test_a_process_that_has_served_enough_closes_its_sockets(apache):
    """Which are those of another process, that lives on."""
    start(apache, GROUP, "MaxConnectionsPerChild 9")
    with WebSocket(apache) as client:
        client.send(b"hello")
        assert client.receive() == (TEXT, b"hello")
        before = daemons(apache, GROUP)
        for _ in range(9):
            apache.connect().close()
        client.closes(1012)
    assert daemons(apache, GROUP) == before


@pytest.mark.parametrize(("process", "tls"), [(None, True), (GROUP, False)])
def test_a_stop_does_not_wait_for_sockets(apache, process, tls):
    start(apache, process)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WebSocket(apache, tls=tls)) for _ in range(6)]
        for client in clients:
            client.send(b"hello")
            assert client.receive() == (TEXT, b"hello")
        apache.kill(signal.SIGTERM)
        assert apache.process.wait(30) == 0
    assert not is_crashed(apache)


def test_with_a_small_threshold_sockets_keep_their_threads(apache, process, tls):
    """httpd's own buffer is full: whoever writes to it waits."""
    start(apache, process, "FlushMaxThreshold 100")
    with WebSocket(apache, tls=tls, receive_buffer=65536) as slow, WebSocket(apache, tls=tls) as other:
        slow.send(b"pieces 3000")
        for _ in range(1000):
            other.send(b"hello")
            assert other.receive() == (TEXT, b"hello")
        for _ in range(3000):
            assert slow.receive() == (BINARY, bytes(10_000))


def test_behind_an_internal_redirect_a_socket_keeps_its_thread(apache):
    start(apache, main="<Location /old>\nRewriteEngine On\nRewriteRule .* /welcome\n</Location>")
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(WebSocket(apache, b"old")) for _ in range(THREADS - 1)]
        assert first.receive() == (TEXT, b"welcome")
        with WebSocket(apache, b"old") as refused:
            assert refused.head[0].startswith(b"HTTP/1.1 503")
        apache.wait_log("3 WebSockets hold threads of this process already")
        first.send(b"close 1000")
        first.closes(1000)
