"""WebSocket echoes: on each connection the next message leaves when the last one is back.

What wrk is for requests. The frames are made beforehand, so that a message costs a client little more than
the system calls: it is the server that is to be measured.
"""

import argparse
import base64
import json
import os
import select
import socket
import time

TEXT = b'{"type": "message", "room": "lobby", "from": "somebody", "text": "What a nice day it is today."}'
MASK = os.urandom(4)
SENT = bytes([0x81, 0x80 | len(TEXT)]) + MASK + bytes(byte ^ MASK[i % 4] for i, byte in enumerate(TEXT))
ECHO = bytes([0x81, len(TEXT)]) + TEXT


def opened(port, path):
    connection = socket.create_connection(("127.0.0.1", port), 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    key = base64.b64encode(os.urandom(16)).decode()
    connection.sendall(
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += connection.recv(1) or b"closed\r\n\r\n"
    if b" 101 " not in head.partition(b"\r\n")[0]:
        raise RuntimeError(f"a handshake is answered {head!r}")
    return connection


def echoes(connections, seconds):
    """How long each echo took that came in this time, and on how many connections one was wrong."""
    clock, poll = time.perf_counter, select.epoll()
    open_ones = {connection.fileno(): connection for connection in connections}
    sent, parts, times = {}, {}, []
    for number, connection in open_ones.items():
        poll.register(number, select.EPOLLIN)
        sent[number] = clock()
        connection.sendall(SENT)
    end = clock() + seconds
    while open_ones and (now := clock()) < end:
        for number, _ in poll.poll(end - now):
            more = open_ones[number].recv(4096)
            echo = parts.pop(number, b"") + more
            if echo == ECHO:
                now = clock()
                times.append(now - sent[number])
                sent[number] = now
                open_ones[number].sendall(SENT)
            elif more and ECHO.startswith(echo):
                parts[number] = echo
            else:
                poll.unregister(number)
                del open_ones[number]
    return times, len(connections) - len(open_ones)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    options = parser.parse_args()
    connections = [opened(options.port, options.path) for _ in range(options.connections)]
    times, wrong = echoes(connections, options.seconds)
    for connection in connections:
        connection.close()
    p99 = sorted(times)[len(times) * 99 // 100] if times else options.seconds
    print(json.dumps({"count": len(times), "p99": p99 * 1000, "errors": wrong}))


if __name__ == "__main__":
    main()
