"""Connections that WebSockets take over: their bytes on both servers, plain and over TLS."""

import contextlib
import signal

import psutil
import pytest
from servers import KINDS, Mount, grows_little, wait_for
from sockets import BINARY, TEXT, WebSocket, client_frame, handshake, opens


def start(server, threads=8, **options):
    mounts = [Mount("/", "websocket_app.py", group="%{GLOBAL}")]
    return server.start(mounts=mounts, threads=threads, **options)


def test_messages_both_ways(shop, tls):
    with WebSocket(shop, tls=tls) as client:
        assert client.head[0] == b"HTTP/1.1 101 Switching Protocols"
        assert b"connection: upgrade" in [line.lower() for line in client.head]
        assert b"sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=" in [line.lower() for line in client.head]
        for size in (0, 1, 125, 126, 70_000, 1_000_000):
            client.send(bytes(size), BINARY)
            assert client.receive() == (BINARY, bytes(size))
        client.send(b"close 3000")
        client.closes(3000)


def test_what_comes_right_behind_the_handshake_is_not_lost(shop, tls):
    early = b"".join(client_frame(TEXT, b"%d" % number) for number in range(50))
    with WebSocket(shop, b"welcome", tls, early) as client:
        assert client.receive() == (TEXT, b"welcome")
        for number in range(50):
            assert client.receive() == (TEXT, b"%d" % number)


def test_a_handshake_behind_another_request(shop, tls):
    with shop.connect(tls) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" + handshake() + client_frame(TEXT, b"hello"))
        received = b""
        while b"\x81\x05hello" not in received:
            more = connection.recv(65536)
            assert more, received
            received += more


def test_a_refused_handshake_is_an_answer(shop):
    with WebSocket(shop, b"denied") as client:
        assert client.head[0].startswith(b"HTTP/1.1 403")


def test_a_client_that_goes_away(shop, tls):
    with WebSocket(shop, tls=tls) as client:
        client.send(b"hello")
        assert client.receive() == (TEXT, b"hello")
    shop.wait_log("websocket.disconnect 100[56]", 30)


def test_a_slow_client_holds_the_application_back(shop):
    with grows_little(*shop.workers()), WebSocket(shop, receive_buffer=65536) as client:
        client.send(b"pieces 10000")
        assert client.receive() == (BINARY, bytes(10_000))
        # others are served meanwhile
        for _ in range(3):
            assert shop.get("/").status_code == 200
        for _ in range(9999):
            assert client.receive() == (BINARY, bytes(10_000))


def test_a_slow_application_holds_the_client_back(shop):
    with grows_little(*shop.workers()), WebSocket(shop) as client:
        client.send(b"sleep 0.5")
        with client.sending(bytes(10_000), 5000):
            for _ in range(5000):
                assert client.receive() == (BINARY, bytes(10_000))


def test_many_sockets(fresh):
    """On nginx they cost no threads."""
    server = start(fresh(KINDS["nginx"]))
    (worker,) = server.workers()
    threads = server.get("/").text.split()[1]
    count = 200
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(WebSocket(server)) for _ in range(count)]
        for number, client in enumerate(clients):
            client.send(b"%d" % number)
        for number, client in enumerate(clients):
            assert client.receive() == (TEXT, b"%d" % number)
        assert server.get("/").text.split() == [str(worker), threads]


def test_where_they_hold_threads_some_are_left_for_others(apache):
    start(apache, threads=4, mpm="worker")
    with contextlib.ExitStack() as stack:
        first, *_ = [stack.enter_context(WebSocket(apache, b"welcome")) for _ in range(3)]
        with WebSocket(apache) as refused:
            assert refused.head[0].startswith(b"HTTP/1.1 503")
        apache.wait_log("3 WebSockets hold threads of this process already")
        assert apache.get("/").status_code == 200
        first.send(b"close 1000")
        first.closes(1000)
        wait_for(lambda: opens(apache), "a thread for another one")


@pytest.mark.parametrize("how", ["reload", "stop"])
def test_sockets_are_closed_in_order_when_their_process_ends(server, tls, how):
    start(server)
    (worker,) = server.workers()
    with WebSocket(server, tls=tls) as client:
        client.send(b"hello")
        assert client.receive() == (TEXT, b"hello")
        stop = signal.SIGQUIT if server.kind == "nginx" else signal.SIGWINCH
        server.process.send_signal(server.reload_signal if how == "reload" else stop)
        client.closes(1012)
    wait_for(lambda: not psutil.pid_exists(worker), "the end of the process", 60)


@pytest.mark.parametrize("mpm", ["worker", "prefork"])
def test_other_mpms(apache, mpm):
    start(apache, mpm=mpm)
    for tls in (False, True):
        with WebSocket(apache, b"welcome", tls, client_frame(TEXT, b"early")) as client:
            assert client.receive() == (TEXT, b"welcome")
            assert client.receive() == (TEXT, b"early")
            client.send(b"close 1000")
            client.closes(1000)


def test_prefork_ends_behind_its_sockets(apache):
    start(apache, mpm="prefork")
    with WebSocket(apache) as client:
        apache.process.send_signal(signal.SIGTERM)
        client.closes(1012)
    apache.process.wait(60)
