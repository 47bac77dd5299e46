"""A worker of a process group that does what a test wants: it takes the place of the group's socket."""

import contextlib
import fcntl
import mmap
import os
import socket
import struct
import time

import pytest
from servers import WORKER, Mount, wait_for
from workers import BODY, HEAD, HELLO, LAST, REQUEST, Connection, frame

PAGE = 64 + 1024 * 128
ANSWER = b"an answer\n"

#: The ways from nginx to a process group.
MOUNTS = [
    Mount("/", "hello.py", process="shop"),
    Mount("/unbuffered", "hello.py", process="shop", nginx="wsgi_buffering off; wsgi_request_buffering off;"),
]
PATHS = pytest.mark.parametrize("path", [mount.path for mount in MOUNTS])


def head(status=200, length=-1, headers=(), flags=0):
    """A HEAD frame."""
    texts = [b"", *(part for pair in headers for part in pair)]
    payload = struct.pack("<qII", length, status, len(headers))
    payload += b"".join(struct.pack("<I", len(part)) for part in texts) + b"".join(texts)
    return frame(HEAD, payload, flags)


def body(data=ANSWER, flags=LAST):
    return frame(BODY, data, flags)


class Group:
    """The socket of a process group, whose workers get nothing any more."""

    def __init__(self, server, group="shop"):
        name = f"wsgi.*/{group}.sock"
        self.path = wait_for(lambda: next(server.root.glob(name), None), "the group's socket")
        self.path.unlink()
        self.listener = None

    def listen(self, backlog=100):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.settimeout(30)
        self.listener.bind(str(self.path))
        os.chown(self.path, WORKER.pw_uid, WORKER.pw_gid)
        self.listener.listen(backlog)
        return self

    def accept(self, greet=True):
        connection, _ = self.listener.accept()
        return StandIn(connection, greet)

    def forget(self):
        """Closes what a test that has failed has left in the queue."""
        self.listener.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self.listener.accept()[0].close()
        self.listener.settimeout(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.listener:
            self.listener.close()


class StandIn(Connection):
    """The worker's end of a connection."""

    def __init__(self, connection, greet):
        self.socket, self.buffer, self.descriptors = connection, b"", []
        self.socket.settimeout(30)
        page = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(page, PAGE)
        self.page, self.notice = mmap.mmap(page, PAGE), None
        fcntl.fcntl(page, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        struct.pack_into("<III", self.page, 0, 1, os.getpid(), 4)
        if greet:
            notice, self.notice = os.pipe()
            hello = frame(HELLO, struct.pack("<HHI", 2, 0, 0))
            socket.send_fds(self.socket, [hello], [page, notice])
            os.close(notice)
        os.close(page)

    def request(self):
        """Reads a request with its body, which is returned."""
        kind, flags, self.asked = self.frame()
        assert kind == REQUEST
        pieces = []
        while not flags & LAST:
            kind, flags, payload = self.frame()
            assert kind == BODY and len(payload) <= 65536
            pieces.append(payload)
        return b"".join(pieces)

    def take(self, number=1):
        """Says that a thread has taken so many requests of this connection."""
        struct.pack_into("<q", self.page, 64 + 8, time.monotonic_ns() // 1000)
        struct.pack_into("<I", self.page, 64, number)

    def serve(self, *frames):
        """Reads a request and answers it."""
        got = self.request()
        self.send(b"".join(frames or (head(length=len(ANSWER)), body())))
        return got

    def ended(self):
        """Whether the server closes the connection, and sends nothing before."""
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True


def first_of(server, group, clients, path="/"):
    """The connection of a request to which the answer has been given."""
    answer = clients.submit(server.get, path)
    worker = group.accept()
    worker.serve()
    assert answer.result().content == ANSWER
    return worker
