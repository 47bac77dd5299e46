"""WebSockets over HTTP/2 (RFC 8441), which httpd's mod_http2 can carry."""

import json

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, StreamReset
from h2.settings import SettingCodes
from hyperframe.frame import GoAwayFrame
from servers import Apache, Mount, wait_for
from sockets import BINARY, CLOSE, PING, PONG, TEXT, client_frame, close_frame, code_of, server_frame


class Client:
    """One connection, whose streams are WebSockets."""

    def __init__(self, server):
        self.socket = server.connect(tls=["h2"])
        assert self.socket.selected_alpn_protocol() == "h2"
        self.http2 = H2Connection(H2Configuration(header_encoding="utf-8", validate_outbound_headers=False))
        # It takes a GOAWAY for the end of all streams, which go on.
        self.http2._frame_dispatch_table[GoAwayFrame] = lambda frame: ([], [])
        self.http2.initiate_connection()
        self.streams = {}
        self.push()
        while not self.http2.remote_settings.get(SettingCodes.ENABLE_CONNECT_PROTOCOL):
            self.pull()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def push(self):
        self.socket.sendall(self.http2.data_to_send())

    def pull(self):
        """Waits for something, and gives it to the streams."""
        data = self.socket.recv(65536)
        assert data
        for event in self.http2.receive_data(data):
            stream = self.streams.get(getattr(event, "stream_id", None))
            if isinstance(event, ResponseReceived):
                stream.head = dict(event.headers)
            elif isinstance(event, DataReceived):
                stream.received += event.data
                self.http2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded | StreamReset):
                # What a client may still want to say is refused behind the end.
                stream.end = stream.end or type(event)
        self.push()

    def open(self, path, **headers):
        stream = Stream(self, self.http2.get_next_available_stream_id())
        self.streams[stream.id] = stream
        pseudo = {"method": "CONNECT", "protocol": "websocket", "scheme": "https", "path": path,
                  "authority": "localhost"}  # fmt: skip
        own = {"sec-websocket-version": "13", **headers}
        self.http2.send_headers(stream.id, [(f":{name}", pseudo[name]) for name in pseudo] + [*own.items()])
        self.push()
        while stream.head is None:
            self.pull()
        return stream


class Stream:
    def __init__(self, client, number):
        self.client, self.id = client, number
        self.head = self.end = None
        self.received = b""

    def send(self, data, *, last=False):
        while data or last:
            room = min(self.client.http2.local_flow_control_window(self.id), 16384, len(data))
            if room or last and not data:
                self.client.http2.send_data(self.id, data[:room], end_stream=last and room == len(data))
                last = last and room < len(data)
                data = data[room:]
                self.client.push()
            else:
                self.client.pull()

    def read(self, count):
        while len(self.received) < count:
            assert not self.end
            self.client.pull()
        data, self.received = self.received[:count], self.received[count:]
        return data

    def receive(self):
        return server_frame(self.read)

    def ends(self):
        """Waits for the end of the stream; whether it is a proper one."""
        while not self.end:
            self.client.pull()
        return self.end is StreamEnded

    def closes(self, code):
        """Answers the server's Close, behind which there is nothing."""
        kind, payload = self.receive()
        assert kind == CLOSE and code_of(payload)[0] == code
        self.send(close_frame(code))
        assert self.ends() and not self.received


def codes(site, count):
    """Those that the application was told at the end of so many sockets."""
    told = []

    def look():
        told.extend(event["code"] for event in site.get("/socket/told").json() if isinstance(event, dict))
        return len(told) >= count

    wait_for(look, f"{count} disconnects")
    return told


@pytest.fixture(params=[None, "live"], ids=["embedded", "daemon"])
def site(request, started, watch):
    process = request.param
    if process not in started:
        mounts = [Mount("/", "websocket_app.py", "%{GLOBAL}", process), Mount("/socket", "asgi_socket.py")]
        mounts[1].group, mounts[1].process = "%{GLOBAL}", process
        groups = {process: "processes=1 threads=2"} if process else {}
        started[process] = Apache().start(mounts=mounts, groups=groups, main="H2WebSockets on", threads=8)
    return watch(started[process])


def test_messages(site):
    with Client(site) as client:
        streams = [client.open(path) for path in ("/", "/welcome", "/")]
        for stream in streams:
            assert stream.head[":status"] == "200" and "sec-websocket-accept" not in stream.head
        assert streams[1].receive() == (TEXT, b"welcome")
        for stream in streams:
            for size in (0, 125, 126, 70_000):
                stream.send(client_frame(BINARY, bytes(size)))
                assert stream.receive() == (BINARY, bytes(size))
        streams[0].send(client_frame(TEXT, b"pieces 50"))
        for _ in range(50):
            assert streams[0].receive() == (BINARY, bytes(10_000))
        for stream in streams:
            stream.send(client_frame(PING, b"there"))
            assert stream.receive() == (PONG, b"there")
            stream.send(client_frame(TEXT, b"close 3000"))
            stream.closes(3000)


def test_scope(site):
    with Client(site) as client:
        stream = client.open("/socket/describe?a=b", **{"sec-websocket-protocol": "one, two"})
        assert stream.head[":status"] == "200"
        scope = json.loads(stream.receive()[1])
        assert (scope["type"], scope["http_version"], scope["scheme"]) == ("websocket", "2", "wss")
        assert (scope["path"], scope["query_string"]) == ("/socket/describe", "a=b")
        assert scope["subprotocols"] == ["one", "two"] and "tls" in scope["extensions"]
        headers = dict(scope["headers"])
        assert headers["host"] == "localhost" and "transfer-encoding" not in headers
        stream.closes(4321)
        chosen = client.open("/socket/echo", **{"sec-websocket-protocol": "one, two"})
        assert chosen.head["sec-websocket-protocol"] == "two" and chosen.head["x-echo"] == "yes"
        chosen.send(close_frame(1000))
        assert code_of(chosen.receive()[1])[0] == 1000 and chosen.ends()
    assert codes(site, 2) == [4321, 1000]


def test_refusals(site):
    with Client(site) as client:
        for path, headers, status in [
            ("/socket/forbidden", {}, "403"),
            ("/socket/denied", {}, "401"),
            ("/socket/echo", {"sec-websocket-version": "12"}, "426"),
        ]:
            stream = client.open(path, **headers)
            assert stream.head[":status"] == status
            assert stream.ends()
    assert codes(site, 1) == [1006]


def test_clients_that_leave(site):
    with Client(site) as client:
        halves, resets, client_ends = (client.open("/socket/echo") for _ in range(3))
        halves.send(b"", last=True)
        client.http2.reset_stream(resets.id)
        client.push()
        client_ends.send(client_frame(TEXT, b"before"))
        assert client_ends.receive() == (TEXT, b"before")
    assert codes(site, 3) == [1006] * 3


def test_a_reload(site):
    with Client(site) as client:
        stream = client.open("/welcome")
        assert stream.receive() == (TEXT, b"welcome")
        site.kill(site.reload_signal)
        stream.closes(1012)
    wait_for(lambda: site.get("/").status_code == 200, "the new generation")
