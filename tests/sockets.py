"""A WebSocket's client that speaks in frames, right or wrong, over any stream of bytes."""

import contextlib
import os
import socket
import struct
import threading

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    ("Host", "shop.example"), ("Connection", "keep-alive, Upgrade"), ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"), ("Sec-WebSocket-Key", KEY),
]  # fmt: skip

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10


def client_frame(opcode, payload, *, final=True, masked=True):
    length = len(payload)
    short = length if length < 126 else 126 if length < 65536 else 127
    head = struct.pack(">BB", opcode | (0x80 if final else 0), short | (0x80 if masked else 0))
    if short > 125:
        head += length.to_bytes(2 if short == 126 else 8, "big")
    if not masked:
        return head + payload
    mask = os.urandom(4)
    masks = (mask * (length // 4 + 1))[:length]
    hidden = int.from_bytes(payload, "big") ^ int.from_bytes(masks, "big")
    return head + mask + hidden.to_bytes(length, "big")


def close_frame(code, reason=b""):
    return client_frame(CLOSE, struct.pack(">H", code) + reason)


def server_frame(read):
    """(opcode, payload) of the next frame of a server; `read(n)` gives n bytes."""
    first, length = read(2)
    assert first & 0x70 == 0 and length < 128
    if length > 125:
        length = int.from_bytes(read(2 if length == 126 else 8), "big")
    return first & 0xF, read(length)


def code_of(payload):
    """(code, reason) of a CLOSE."""
    return struct.unpack(">H", payload[:2])[0], payload[2:].decode()


def handshake(path=b""):
    """The request for a WebSocket."""
    lines = [f"{name}: {value}\r\n" for name, value in HANDSHAKE]
    return b"GET /%b HTTP/1.1\r\n%b\r\n" % (path, "".join(lines).encode())


class WebSocket:
    """A client of a server's that does nothing by itself."""

    def __init__(self, server, path=b"", tls=False, early=b"", receive_buffer=None):
        self.connection = server.connect(tls)
        if receive_buffer:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.connection.sendall(handshake(path) + early)
        self.file = self.connection.makefile("rb")
        self.head = list(iter(lambda: self.file.readline().strip(), b""))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.connection.close()

    def send(self, data, kind=TEXT):
        self.connection.sendall(client_frame(kind, data))

    @contextlib.contextmanager
    def sending(self, data, count=1):
        """Sends so many messages meanwhile. Not with TLS: OpenSSL does not read and write on two threads."""
        thread = threading.Thread(target=lambda: [self.send(data, BINARY) for _ in range(count)], daemon=True)
        thread.start()
        yield
        thread.join()

    def receive(self):
        """The kind of the next frame and its bytes; None at the end."""
        return server_frame(self.file.read) if self.file.peek(1) else None

    def closes(self, code):
        """Answers the server's Close, behind which there is nothing."""
        while (received := self.receive())[0] != CLOSE:
            pass
        assert code_of(received[1])[0] == code
        self.send(received[1][:2], CLOSE)
        assert self.receive() is None


def opens(server):
    """Whether the server takes another one."""
    with WebSocket(server) as client:
        return client.head[0].startswith(b"HTTP/1.1 101")
