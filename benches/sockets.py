"""The soak's part of WebSockets: many that are idle, beside other requests, and many that come and go."""

import contextlib
import itertools
import os
import resource
import selectors
import socket
import threading
import time

from load import descriptors, judge, judge_log, wait_for
from servers import Server, status_kib

HANDSHAKE = (
    b"GET /socket HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
PING = 0x89
#: Frames of a client, with a mask of zeroes.
PONG, CLOSE = b"\x8a\x80" + bytes(4), b"\x88\x82" + bytes(4) + b"\x03\xe8"
#: So many are open at once while they come and go.
BATCH = 100
#: KiB of a server's process for each idle one. httpd's pools and buckets alone are more than 20.
MOST = {"nginx": 20, "httpd": 64}
SECONDS = 5


def addresses():
    """Of this machine, so that its ports are enough for closed connections that the kernel remembers."""
    return itertools.cycle(f"127.0.0.{number}" for number in range(2, 34))


def connect(server, address):
    connection = socket.socket()
    connection.settimeout(60)
    connection.setsockopt(socket.IPPROTO_IP, getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24), 1)
    connection.bind((address, 0))
    connection.connect(("127.0.0.1", server.port))
    return connection


def opened(server, sources):
    """WebSockets, from each of these addresses; their handshakes are under way together."""
    sockets = [connect(server, address) for address in sources]
    for connection in sockets:
        connection.sendall(HANDSHAKE)
    for connection in sockets:
        head = b""
        while not head.endswith(b"\r\n\r\n") and (more := connection.recv(65536)):
            head += more
        if b" 101 " not in head.partition(b"\r\n")[0]:
            raise RuntimeError(f"{server.name} answers a handshake with {head!r}\n{server.messages()}")
    return sockets


class Idle:
    """WebSockets whose clients do nothing but answer pings."""

    def __init__(self, server, count):
        self.server, self.count = server, count
        self.selector = selectors.EpollSelector()
        self.lost = 0
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.answer_pings)

    def __enter__(self):
        self.thread.start()
        sources = addresses()
        for _ in range(self.count // BATCH):
            for connection in opened(self.server, itertools.islice(sources, BATCH)):
                self.selector.register(connection, selectors.EVENT_READ)
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()
        for key in list(self.selector.get_map().values()):
            key.fileobj.close()
        self.selector.close()

    def answer_pings(self):
        while not self.stopping.is_set():
            for key, _ in self.selector.select(0.1):
                data = key.fileobj.recv(4096)
                if data[:1] == bytes([PING]) and data[1] == len(data) - 2:
                    key.fileobj.sendall(PONG[:1] + bytes([0x80 | data[1]]) + PONG[2:] + data[2:])
                else:
                    self.selector.unregister(key.fileobj)
                    key.fileobj.close()
                    self.lost += 1


def p99(server):
    """Of hello, one request behind the other on one connection, in microseconds."""
    times = []
    with contextlib.closing(connect(server, "127.0.0.1")) as connection:
        until = time.monotonic() + SECONDS
        while (began := time.perf_counter()) and time.monotonic() < until:
            connection.sendall(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n")
            answer = b""
            while not answer.endswith(b"Hello, World!\n"):
                answer += connection.recv(65536)
            times.append(time.perf_counter() - began)
    return round(sorted(times)[len(times) * 99 // 100] * 1e6)


def idle(server, count):
    """What so many cost in memory, and what they cost other requests."""
    (worker,) = server.workers()
    without = p99(server)
    before, connections = status_kib(worker, "VmRSS"), open_sockets(worker)
    with Idle(server, count) as sockets:
        each = (status_kib(worker, "VmRSS") - before) * 10 // count / 10
        judge(server.name, f"{count:,} idle WebSockets: memory of each", each, MOST[server.name], " KiB")
        judge(server.name, "99th percentile of hello beside them", p99(server), 2 * without, " µs")
        judge(server.name, "of the WebSockets were lost", sockets.lost, 0)
    settle(worker, connections)


def come_and_go(server, count):
    """Half of them close in order, half vanish. A worker is what it was after a tenth of them."""
    (worker,) = server.workers()
    connections, sources = open_sockets(worker), addresses()
    for number in range(count // BATCH):
        if number == count // BATCH // 10:
            settle(worker, connections)
            memory, files = status_kib(worker, "VmRSS"), descriptors(worker)
        close(opened(server, itertools.islice(sources, BATCH)))
    settle(worker, connections)
    judge(server.name, f"{count:,} WebSockets: more descriptors", descriptors(worker) - files, 0)
    judge(server.name, "growth of the worker's memory", status_kib(worker, "VmRSS") - memory, 2048, " KiB")
    judge(server.name, "workers that were replaced", int(server.workers() != [worker]), 0)


def close(sockets):
    for connection in sockets[::2]:
        connection.sendall(CLOSE)
    for connection in sockets[::2]:
        while connection.recv(4096):
            pass
    for connection in sockets:
        connection.close()


def open_sockets(pid):
    count = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):
            count += os.readlink(entry).startswith("socket:")
    return count


def settle(worker, connections):
    """Waits for the end of connections that have been closed here."""
    wait_for(lambda: open_sockets(worker) <= connections, "the end of the connections")


def soak_part(name, options):
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = Server(name, options.port).asgi()
    count = options.idle_sockets
    if name == "nginx":
        server.burrow_nginx(options.python_home, connections=count + 1000)
    else:
        # Three quarters of the connections may be WebSockets.
        server.burrow_httpd(options.python_home, threads=25, factor=count * 4 // 3 // 25 + 10)
    with server:
        come_and_go(server, options.sockets)
        idle(server, count)
        judge_log(server)
