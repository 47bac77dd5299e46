"""An application that keeps the processor busy leaves the others their turns."""

import os
import threading
import time

import pytest
from servers import Mount

#: An application group waits at most this long for its turn beside a group that spins.
LIMIT = 0.050
#: But whoever holds the interpreters' lock may have to wait for a processor: one request in ten may take
#: longer, up to this many times; and all of it grows with the number of processes for each processor.
NOISE = 4
SPIN = 2
HELLO = Mount("/hello", "hello.py")


class Spin:
    """Requests that never wait, one for each path, in the background."""

    def __init__(self, server, *paths):
        self.statuses = []
        self.threads = [
            threading.Thread(target=lambda p=path: self.statuses.append(server.request(f"{p}?{SPIN}").status))
            for path in paths
        ]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for thread in self.threads:
            thread.join()
        assert self.statuses == [200] * len(self.threads)


class Client:
    """Asks on one connection and remembers how long each answer took."""

    def __init__(self, server, path, end):
        self.connection = server.connect()
        self.request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.end = end
        self.took = []

    def ask(self):
        began = time.monotonic()
        self.connection.sendall(self.request)
        answer = b""
        while not answer.endswith(self.end):
            received = self.connection.recv(65536)
            assert received, "the connection was cut"
            answer += received
        self.took.append(time.monotonic() - began)


def check_waits(server, spin, limit, path="/hello", end=b"Hello, World!\n"):
    """The waits of about fifty requests while the spin goes on."""
    client = Client(server, path, end)
    while not spin.statuses and len(client.took) < 60:
        client.ask()
        time.sleep(0.03)
    took = sorted(client.took)
    assert len(took) >= 20
    ninth = took[len(took) * 9 // 10]
    print(f"{path}: worst {took[-1] * 1000:.1f} ms of {len(took)}, nine in ten within {ninth * 1000:.1f} ms")
    limit *= max(1, os.getloadavg()[0] / os.cpu_count())
    assert ninth < limit
    assert took[-1] < NOISE * limit


@pytest.mark.parametrize(("busy", "other"), [("one", "two"), ("one", "%{GLOBAL}"), ("%{GLOBAL}", "one")])
def test_another_group(server, busy, other):
    server.start(mounts=[Mount("/spin", "spin.py", busy), Mount("/hello", "hello.py", other)])
    assert server.request("/hello").status == server.request("/spin").status == 200
    with Spin(server, "/spin") as spin:
        check_waits(server, spin, LIMIT)


def test_two_spinning_groups(server):
    server.start(mounts=[Mount("/a", "spin.py", "a"), Mount("/b", "spin.py", "b"), HELLO])
    for path in ("/a", "/b", "/hello"):
        assert server.request(path).status == 200
    with Spin(server, "/a", "/b") as spin:
        # Two others share the lock: twice as long.
        check_waits(server, spin, 2 * LIMIT)


def test_static_files_of_nginx(nginx):
    # Not even when every application thread is busy.
    server = nginx
    server.start(mounts=[Mount("/spin", "spin.py")], threads=2)
    assert server.request("/spin").status == 200
    with Spin(server, "/spin", "/spin") as spin:
        check_waits(server, spin, LIMIT, "/static.txt", b"static\n")
