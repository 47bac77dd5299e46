"""An application that keeps the processor busy leaves the others their turns.

What counts is how long the others hold Python's lock, not how busy the machine is. So each wait is counted
without the time that a thread of the server or of the client could have run, but other processes did: the
kernel counts that (schedstat). Where several threads lost time, which may have been the same, the one that
lost the most counts.
"""

import contextlib
import os
import pathlib
import threading
import time

import pytest
from servers import Mount

pytestmark = pytest.mark.alone
#: An application group waits at most this long for its turn beside a group that spins.
LIMIT = 0.050
SPIN = 2
HELLO = Mount("/hello", "hello.py")
#: Spins in a thread of its own from its first request on.
THREAD = """
import threading

def spin():
    while True:
        pass

threading.Thread(target=spin, daemon=True).start()
from hello import application
"""


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
    """Asks on one connection and remembers how long each answer took, but for waits for a processor."""

    def __init__(self, server, path, end):
        self.connection = server.connect()
        self.request = f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
        self.end = end
        self.pids = [*server.workers(), os.getpid()]
        self.took = []

    def ask(self):
        delayed = self.delayed()
        began = time.monotonic()
        self.connection.sendall(self.request)
        answer = b""
        while not answer.endswith(self.end):
            received = self.connection.recv(65536)
            assert received, "the connection was cut"
            answer += received
        took = time.monotonic() - began
        lost = max(now - delayed.get(thread, 0) for thread, now in self.delayed().items())
        self.took.append(took - lost)

    def delayed(self):
        """How long each thread of the server and of this process could have run so far, but others did."""
        delays = {}
        for pid in self.pids:
            for file in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
                # The thread may have ended since.
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    delays[file] = int(file.read_text().split()[1]) / 1e9
        return delays

    def check(self, limit):
        took = sorted(self.took)
        assert len(took) >= 5
        median = took[len(took) // 2]
        print(f"worst {took[-1] * 1000:.1f} ms of {len(took)}, half within {median * 1000:.1f} ms")
        assert took[-1] < limit


def check_waits(server, spin, limit, path="/hello", end=b"Hello, World!\n"):
    """The waits of about fifty requests while the spin goes on."""
    client = Client(server, path, end)
    while not spin.statuses and len(client.took) < 60:
        client.ask()
        time.sleep(0.03)
    client.check(limit)


@pytest.mark.parametrize(("busy", "other"), [("one", "two"), ("one", "%{GLOBAL}"), ("%{GLOBAL}", "one")])
def test_another_group(server, busy, other):
    # However many interpreters have nothing to do.
    idle = [Mount(f"/idle{number}", "hello.py", f"idle{number}") for number in range(8)]
    server.start(mounts=[Mount("/spin", "spin.py", busy), Mount("/hello", "hello.py", other), *idle])
    for path in ("/hello", "/spin", *(mount.path for mount in idle)):
        assert server.request(path).status == 200
    with Spin(server, "/spin") as spin:
        check_waits(server, spin, LIMIT)


def test_two_spins_in_a_group(server):
    server.start(mounts=[Mount("/spin", "spin.py", "one"), HELLO])
    assert server.request("/hello").status == server.request("/spin").status == 200
    with Spin(server, "/spin", "/spin") as spin:
        check_waits(server, spin, 2 * LIMIT)


def test_a_spin_without_a_request(server):
    server.start(mounts=[Mount("/spin", "thread.py", "one"), HELLO])
    (server.apps / "thread.py").write_text(THREAD)
    assert server.request("/hello").status == server.request("/spin").status == 200
    client = Client(server, "/hello", b"Hello, World!\n")
    for _ in range(20):
        client.ask()
    client.check(LIMIT)


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
