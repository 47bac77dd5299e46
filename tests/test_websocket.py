"""WebSockets of both servers, in their own processes and in process groups, with a client that people use."""

import contextlib
import json
import os
import signal
from socket import SHUT_RDWR

import pytest
from daemons import await_daemons, daemons
from servers import KINDS, Mount, read_response, wait_for
from sockets import (
    BINARY,
    CLOSE,
    HANDSHAKE,
    PING,
    TEXT,
    WebSocket,
    client_frame,
    close_frame,
    code_of,
)
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

GROUP = "live"


def start(server, process=None):
    mounts = [Mount(path, "asgi_socket.py", "%{GLOBAL}", process) for path in ("/", "/at/a")]
    return server.start(mounts=mounts, groups={GROUP: "processes=1 threads=2"} if process else {}, threads=8)


@pytest.fixture(params=[f"{kind} {mode}" for kind in KINDS for mode in ("embedded", "daemon")])
def site(request, started, watch):
    """A server that runs for many tests."""
    kind, mode = request.param.split()
    if request.param not in started:
        started[request.param] = start(KINDS[kind](), GROUP if mode == "daemon" else None)
    return watch(started[request.param])


def opened(server, path="/echo", **options):
    return connect(f"ws://127.0.0.1:{server.port}{path}", proxy=None, **options)


def told(server):
    return server.get("/told").json()


def test_messages(site):
    """Compressed ones: that client offers it by itself; and others."""
    for compression in "deflate", None:
        with opened(site, compression=compression, max_size=None) as socket:
            extensions = socket.response.headers.get("Sec-WebSocket-Extensions", "")
            assert extensions.startswith("permessage-deflate") == (compression is not None)
            assert socket.response.headers["x-echo"] == "yes"
            for message in ["", "hello", b"\0\xff", "ö" * 100_000, os.urandom(3_000_000)]:
                socket.send(message)
                assert socket.recv(timeout=30) == message
            socket.send(["in ", "pieces", ""])
            assert socket.recv(timeout=30) == "in pieces"
            assert socket.ping().wait(30)
        assert (socket.close_code, socket.close_reason) == (1000, "")
    assert wait_for(lambda: told(site) or None, "the disconnect", 10)[0]["code"] == 1000


def test_scope(site):
    with opened(site, "/at/a/describe?q=%20", subprotocols=["one", "two"]) as socket:
        scope = json.loads(socket.recv(timeout=30))
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
    assert (closed.value.rcvd.code, closed.value.rcvd.reason) == (4321, "döne")
    client, headers = scope.pop("client"), dict(scope.pop("headers"))
    assert client[0] == "127.0.0.1" and isinstance(client[1], int)
    assert headers["upgrade"] == "websocket" and scope.pop("state") == {}
    assert scope == {
        "type": "websocket", "asgi": {"version": "3.0", "spec_version": "2.5"}, "http_version": "1.1",
        "scheme": "ws", "path": "/at/a/describe", "raw_path": "/at/a/describe", "root_path": "/at/a",
        "query_string": "q=%20", "server": ["127.0.0.1", site.port], "subprotocols": ["one", "two"],
        "extensions": {"websocket.http.response": {}},
    }  # fmt: skip


def test_subprotocols(site):
    with opened(site, subprotocols=["one", "two"]) as socket:
        assert socket.subprotocol == "two"


def test_refusals(site):
    for path, status in [("/forbidden", 403), ("/denied", 401), ("/unwilling", 500), ("/silent", 500)]:
        with pytest.raises(InvalidStatus) as refused:
            opened(site, path)
        assert refused.value.response.status_code == status
        if status == 401:
            assert refused.value.response.body == b"who are you?"
            assert refused.value.response.headers["www-authenticate"] == "Basic"
    # The application is one of HTTP, too.
    assert site.get("/hello").text == "Hello, World!\n"


def test_an_application_that_raises(site):
    for path, code in [("/raises", 1011), ("/returns", 1000)]:
        with opened(site, path) as socket, pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd.code == code


def shaken(server, path, *changes, start="GET {} HTTP/1.1"):
    """A connection on which a handshake was sent."""
    headers = {**dict(HANDSHAKE), **dict(changes)}
    lines = [start.format(path), *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    connection = server.connect(timeout=120)
    connection.sendall("\r\n".join(lines).encode())
    return connection


def test_bad_handshakes(site):
    for status, wrong in [
        (426, ("Sec-WebSocket-Version", "8")),
        (400, ("Sec-WebSocket-Key", "short")),
        (400, ("Sec-WebSocket-Extensions", "a; =")),
        (400, ("Sec-WebSocket-Protocol", "a b")),
    ]:
        with shaken(site, "/echo", wrong) as connection:
            answer = read_response(connection)
        assert answer.status == status
        assert status != 426 or answer.header("Sec-WebSocket-Version") == "13"
    # These ask for none.
    for start, change in [
        ("POST {} HTTP/1.1", ("Content-Length", "0")),
        ("GET {} HTTP/1.1", ("Upgrade", "h2")),
        ("GET {} HTTP/1.1", ("Connection", "close")),
    ]:
        with shaken(site, "/hello", change, start=start) as connection:
            assert read_response(connection).status == 200


def test_what_breaks_the_protocol(site):
    """The last frame that the server sends says so; and an end without a code, which breaks nothing."""
    for code, sent in [
        (1002, client_frame(TEXT, b"", masked=False)),
        (1002, b"\xf1" + client_frame(TEXT, b"")[1:]),
        (1002, client_frame(3, b"")),
        (1002, client_frame(PING, b"", final=False)),
        (1002, client_frame(PING, b"x" * 126)),
        (1002, close_frame(1005)),
        (1007, client_frame(TEXT, b"\xff")),
        (1009, client_frame(BINARY, b"")[:1] + b"\xff" + (1 << 30).to_bytes(8, "big") + bytes(4)),
        (1005, client_frame(CLOSE, b"")),
    ]:
        told(site)
        with WebSocket(site, b"echo") as client:
            client.connection.sendall(sent)
            opcode, payload = client.receive()
            assert opcode == CLOSE and (code_of(payload)[0] if payload else 1005) == code
            assert client.receive() is None
        assert wait_for(lambda: told(site) or None, "the disconnect")[0]["code"] == code


def test_many_at_once(site):
    """As many as httpd has threads for."""
    count = 100 if site.kind == "nginx" else 6
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(opened(site, open_timeout=60)) for _ in range(count)]
        for number, socket in enumerate(sockets):
            socket.send(str(number))
        assert [socket.recv(timeout=60) for socket in sockets] == [str(number) for number in range(count)]
        assert site.get("/hello").status_code == 200


def test_an_application_that_never_accepts(fresh):
    """It has a minute, everywhere at once, where the process has no other socket."""
    connections = []
    for kind in KINDS:
        mounts = [Mount("/", "asgi_socket.py", "own"), Mount("/group", "asgi_socket.py", "own", GROUP)]
        groups = {GROUP: "processes=1 threads=2 socket-timeout=300"}
        server = fresh(KINDS[kind]).start(mounts=mounts, groups=groups)
        connections += [(server, path, shaken(server, f"{path}/sleep")) for path in ("", "/group")]
    for server, path, connection in connections:
        with connection:
            assert read_response(connection).status == 504
        assert server.get(f"{path}/told").json() == ["cancelled"]


def test_a_client_that_vanishes(site):
    told(site)
    with opened(site) as socket:
        socket.socket.shutdown(SHUT_RDWR)
    last = wait_for(lambda: told(site) or None, "the disconnect", 20)
    assert (last[0]["type"], last[0]["code"]) == ("websocket.disconnect", 1006)


LIMITS = {
    "nginx": """
        wsgi_websocket_max_message 1000;
        wsgi_interpreter_options application-group=idle { wsgi_websocket_idle_timeout 1; }
        wsgi_interpreter_options application-group=pinged { wsgi_websocket_ping_interval 1; }
    """,
    "apache": """
        WSGIWebSocketMaxMessage 1000
        <WSGIInterpreterOptions application-group=idle>
            WSGIWebSocketIdleTimeout 1
        </WSGIInterpreterOptions>
        <WSGIInterpreterOptions application-group=pinged>
            WSGIWebSocketPingInterval 1
        </WSGIInterpreterOptions>
    """,
}
GROUP_LIMITS = {"idle": "websocket-idle-timeout=1", "pinged": "websocket-ping-interval=1"}


@pytest.mark.parametrize("mode", ["embedded", "daemon"])
def test_limits(server, mode):
    """Directives for all interpreters and for some, and options of process groups."""
    in_groups = mode == "daemon"
    mounts = [Mount(f"/{name}", "asgi_socket.py", name, name if in_groups else None) for name in GROUP_LIMITS]
    groups = {name: f"threads=2 websocket-max-message=1000 {limit}" for name, limit in GROUP_LIMITS.items()}
    of_kind = {"nginx": "http", "apache": "main"}[server.kind]
    settings = {"groups": groups} if in_groups else {of_kind: LIMITS[server.kind]}
    server.start(mounts=mounts, threads=8, **settings)
    with opened(server, "/pinged/echo") as socket:
        socket.send(b"x" * 1000)
        assert socket.recv(timeout=30) == b"x" * 1000
        socket.send(os.urandom(1001))
        assert closed_with(socket) == 1009
    with opened(server, "/idle/echo") as socket:
        assert closed_with(socket) == 1001
    last = wait_for(lambda: server.get("/idle/told").json() or None, "the disconnect")
    assert last[0]["code"] == 1001
    # one that answers stays, one that does not is given up
    with opened(server, "/pinged/echo") as socket, WebSocket(server, b"pinged/echo") as deaf:
        assert deaf.receive() == (PING, b"")
        opcode, payload = deaf.receive()
        assert (opcode, code_of(payload)[0]) == (CLOSE, 1011)
        socket.send("here")
        assert socket.recv(timeout=30) == "here"


def closed_with(socket):
    with pytest.raises(ConnectionClosed) as closed:
        socket.recv(timeout=30)
    return closed.value.rcvd.code


# ---- the life of the processes


@pytest.mark.parametrize("what", ["server", "server of groups", "group"])
def test_a_reload_closes_sockets(server, what):
    start(server, None if what == "server" else GROUP)
    with opened(server) as socket:
        if what == "group":
            before = daemons(server, GROUP)
            for pid in before:
                os.kill(pid, signal.SIGUSR1)
        else:
            server.kill(server.reload_signal)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd.code == 1012
    if what == "group":
        await_daemons(server, GROUP, 1, without=before)
    with opened(server, open_timeout=30) as socket:
        socket.send("again")
        assert socket.recv(timeout=30) == "again"


def test_a_process_that_dies(server):
    start(server, GROUP)
    with opened(server) as socket:
        before = daemons(server, GROUP)
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(ConnectionClosed) as closed:
            socket.recv(timeout=30)
        assert closed.value.rcvd is None
    await_daemons(server, GROUP, 1, without=before)
    with opened(server) as socket:
        socket.send("again")
        assert socket.recv(timeout=30) == "again"
