"""A daemon worker without a server: the test is its manager and its server, and speaks both protocols."""

import array
import fcntl
import functools
import json
import mmap
import os
import pathlib
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, field

from servers import DIST, TESTS, wait_for

RUNTIMES = DIST / "lib" / "burrow" / "runtime"

HELLO, REQUEST, BODY, HEAD, FILE, ABORT, GOAWAY = range(1, 8)
LAST, FLUSH = 1, 2
FAILED, UNAVAILABLE, ABORTED, GONE, DIED, TIMEOUT = range(1, 7)
RELOADING, NO_BODY = 1, 2
ABSENT = 0xFFFFFFFF

VARS = [
    "REQUEST_METHOD", "REQUEST_URI", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL",
    "REQUEST_SCHEME", "SERVER_NAME", "SERVER_PORT", "SERVER_ADDR", "REMOTE_ADDR", "REMOTE_PORT",
    "REMOTE_USER", "AUTH_TYPE", "DOCUMENT_ROOT", "SCRIPT_FILENAME", "SERVER_SOFTWARE", "REQUEST_HANDLER",
    "LISTENER_HOST", "LISTENER_PORT", "REQUEST_ID", "CONNECTION_ID",
]  # fmt: skip

#: As far as a test does not say otherwise.
SETTINGS = {
    "version": 2, "server": "apache", "group": "shop", "settings": "s1", "control": "", "threads": 3,
    "processes": 1, "socket_timeout": 10, "graceful_timeout": 15, "shutdown_timeout": 5,
}  # fmt: skip


@functools.cache
def soabi(python):
    command = [python, "-c", "import sysconfig; print(sysconfig.get_config_var('SOABI'))"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def text(value):
    return list(os.fsencode(value))


def app(target, callable="", group=""):
    return {"target": text(target), "callable": text(callable), "application_group": text(group)}


def frame(kind, payload=b"", flags=0):
    return struct.pack("<IBBH", len(payload), kind, flags, 0) + payload


def request(target, path="/", *, method="GET", headers=(), body=None, callable="", group="", deadline=0,
            mtime=0, flags=0, **variables):
    """A REQUEST frame. `body` None: there is none; "later": in BODY frames that the caller sends."""
    values = {
        "REQUEST_METHOD": method, "REQUEST_URI": path, "SCRIPT_NAME": "", "PATH_INFO": path,
        "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_SCHEME": "http",
        "SERVER_NAME": "shop.example", "SERVER_PORT": "80", "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_PORT": "4711", "CONNECTION_ID": "12", **variables,
    }  # fmt: skip
    texts = [target, callable, group, *(values.get(name) for name in VARS)]
    texts += [part for pair in headers for part in pair]
    texts = [None if part is None else os.fsencode(part) for part in texts]
    numbers = (-1 if body else 0, time.time_ns() // 1000, mtime, time.time_ns() // 1000, deadline)
    payload = struct.pack("<5q", *numbers)
    payload += struct.pack("<5I", flags | (0 if body else NO_BODY), len(headers), 0, 0, len(texts))
    payload += b"".join(struct.pack("<I", ABSENT if part is None else len(part)) for part in texts)
    return frame(REQUEST, payload + b"".join(filter(None, texts)), 0 if body else LAST)


def summary(page):
    """(pid, threads, busy, draining, connections, served) of the worker."""
    return struct.unpack_from("<4xIIIIIQ", page, 0)


@dataclass
class Answer:
    status: int = 0
    reason: str = ""
    headers: list = field(default_factory=list)
    length: int = -1
    body: bytearray = field(default_factory=bytearray)
    #: (offset, length, descriptor) of each piece that came as a file.
    files: list = field(default_factory=list)
    #: How an answer ended that is not whole.
    abort: int | None = None

    def json(self):
        return json.loads(self.body)


class Connection:
    """What a server has of a worker."""

    def __init__(self, path, timeout=30):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.buffer, self.descriptors, self.page, self.slot = b"", [], None, None
        self.notice, self.dismissed = None, False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()
        if self.notice is not None:
            os.close(self.notice)
            self.notice = None

    def noticed(self):
        """What the pipe beside the page says: None, "drains" or "dead"."""
        try:
            return "drains" if os.read(self.notice, 1) else "dead"
        except BlockingIOError:
            return None

    def send(self, data):
        self.socket.sendall(data)

    def fill(self, length):
        while len(self.buffer) < length:
            data, ancillary, _, _ = self.socket.recvmsg(1 << 17, socket.CMSG_SPACE(16))
            for _, _, rights in ancillary:
                self.descriptors += array.array("i", rights)
            if not data:
                raise EOFError
            self.buffer += data

    def frame(self):
        """(kind, flags, payload) of the next frame."""
        self.fill(8)
        length, kind, flags, zero = struct.unpack("<IBBH", self.buffer[:8])
        assert zero == 0
        self.fill(8 + length)
        payload, self.buffer = self.buffer[8 : 8 + length], self.buffer[8 + length :]
        return kind, flags, payload

    def answer(self):
        """The next answer."""
        answer, started = Answer(), False
        while True:
            kind, flags, payload = self.frame()
            if kind == HELLO:
                assert self.slot is None and not started
                version, zero, self.slot = struct.unpack("<HHI", payload)
                assert (version, zero) == (2, 0)
                page, self.notice = self.descriptors.pop(0), self.descriptors.pop(0)
                self.page = mmap.mmap(page, 0, prot=mmap.PROT_READ)
                os.close(page)
            elif kind == GOAWAY:
                self.dismissed = True
            elif kind == HEAD:
                assert self.slot is not None and not started
                self.read_head(answer, payload)
                started = True
            elif kind == BODY:
                assert started
                answer.body += payload
            elif kind == FILE:
                assert started
                answer.files.append((*struct.unpack("<QQ", payload), self.descriptors.pop(0)))
            elif kind == ABORT:
                answer.abort = payload[0]
                return answer
            if kind in (HEAD, BODY, FILE) and flags & LAST:
                return answer

    @staticmethod
    def read_head(answer, payload):
        answer.length, answer.status, count = struct.unpack("<qII", payload[:16])
        lengths = struct.unpack(f"<{1 + 2 * count}I", payload[16 : 16 + 4 * (1 + 2 * count)])
        at, texts = 16 + 4 * len(lengths), []
        for length in lengths:
            texts.append(payload[at : at + length].decode("latin-1"))
            at += length
        assert at == len(payload)
        answer.reason, answer.headers = texts[0], list(zip(texts[1::2], texts[2::2], strict=True))

    def get(self, target, path="/", **options):
        self.send(request(target, path, **options))
        return self.answer()

    @property
    def taken(self):
        """How many requests of this connection a thread has taken."""
        return struct.unpack_from("<I", self.page, 64 + 128 * self.slot)[0]

    def summary(self):
        return summary(self.page)


class Worker:
    """A worker process whose manager is the test."""

    def __init__(self, python=None, **settings):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="burrow-worker-"))
        self.root.chmod(0o755)
        self.apps = self.root / "apps"
        shutil.copytree(TESTS / "apps", self.apps)
        self.path = self.root / "shop.sock"
        self.error_log = self.root / "error.log"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen(100)
        self.listener.setblocking(False)
        self.python = python or "/usr/bin/python3"
        self.runtime = RUNTIMES / f"{soabi(self.python)}.so"
        self.settings = {**SETTINGS, "peers": [os.geteuid()], **settings}
        self.messages, self.process = [], None

    def start(self, *apps, ready=True, **settings):
        """Starts it with these applications: names of files in tests/apps, or what app() gives."""
        apps = [app(self.apps / each) if isinstance(each, str) else each for each in apps]
        settings = {**self.settings, "apps": apps, **settings}
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(30)
        memory = os.memfd_create("settings")
        os.write(memory, json.dumps(settings).encode())
        # bash's redirections reach 3 to 5, whatever Popen itself has there
        given = [fcntl.fcntl(each, fcntl.F_DUPFD, 20) for each in (self.listener, memory, theirs)]
        script = 'exec "$@" 3<&{0} 4<&{1} 5<&{2} {0}<&- {1}<&- {2}<&-'.format(*given)
        command = ["bash", "-c", script, "bash", self.python, RUNTIMES / "worker.py", self.runtime]
        with self.error_log.open("ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=given, cwd=self.root
            )
        theirs.close()
        for descriptor in (*given, memory):
            os.close(descriptor)
        self.registered = self.receive("register")
        self.shown = mmap.mmap(self.registered["descriptors"][1], 0, prot=mmap.PROT_READ)
        if ready:
            self.receive("ready")
            self.order("serve")
        return self

    @property
    def pid(self):
        return self.process.pid

    def target(self, name):
        return str(self.apps / name)

    def connect(self):
        return Connection(self.path)

    def get(self, name, path="/", **options):
        with self.connect() as connection:
            return connection.get(self.target(name), path, **options)

    # ---- as its manager

    def receive(self, kind):
        """The content of the next message of this kind; the others are dropped."""
        while True:
            packet, descriptors, _, _ = socket.recv_fds(self.control, 1 << 16, 4)
            if not packet:
                raise EOFError(f"the worker has gone without {kind}: {self.log()}")
            message = json.loads(packet)
            name, content = (message, {}) if isinstance(message, str) else next(iter(message.items()))
            self.messages.append(name)
            if name == kind:
                return {**content, "descriptors": descriptors}
            for each in descriptors:
                os.close(each)

    def page(self):
        return bytes(self.shown)

    def drains(self):
        return bool(summary(self.shown)[3])

    def replies(self, kind, timeout):
        """Whether such a message comes within this time."""
        self.control.settimeout(timeout)
        try:
            return self.receive(kind)
        except TimeoutError:
            return None
        finally:
            self.control.settimeout(30)

    def order(self, kind, descriptors=(), **content):
        message = json.dumps({kind: content} if content else kind).encode()
        socket.send_fds(self.control, [message], list(descriptors))

    # ---- the end

    def wait(self, timeout=30):
        """Its exit status."""
        return self.process.wait(timeout)

    def log(self):
        return self.error_log.read_text(errors="replace")

    def wait_log(self, part, timeout=30):
        return wait_for(lambda: self.log() if part in self.log() else None, f"{part!r} in the log", timeout)

    def close(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()
        self.listener.close()
        shutil.rmtree(self.root)
