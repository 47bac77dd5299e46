"""A WebSocket's client that is spoken to in frames, right or wrong, over any stream of bytes."""

import os
import struct

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HANDSHAKE = [
    ("Host", "shop.example"), ("Connection", "Upgrade"), ("Upgrade", "websocket"),
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
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))


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
