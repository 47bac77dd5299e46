"""The machine that the tests run on: its users, what was built, and ports that nobody else takes."""

import atexit
import contextlib
import ctypes
import functools
import grp
import os
import pathlib
import pwd
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import psutil

TESTS = pathlib.Path(__file__).resolve().parent.parent
DIST = pathlib.Path(os.environ.get("BURROW_DIST", TESTS.parent / "target" / "dist")).resolve()
APPS = TESTS / "apps"
#: The Python that runs the tests is the one whose packages the applications use.
PYTHON_HOME = sys.prefix

IS_ROOT = os.geteuid() == 0
WORKER = pwd.getpwnam("www-data") if IS_ROOT else pwd.getpwuid(os.geteuid())

PR_SET_CHILD_SUBREAPER = 36


def adopt_orphans():
    """Makes this process the parent of whatever a server leaves behind, so that it can be found."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def wait_for(condition, what, timeout=30):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {timeout} s")
        time.sleep(0.01)


@contextlib.contextmanager
def grows_little(*pids, mib=32):
    """The memory of these processes, meanwhile."""
    processes = [psutil.Process(pid) for pid in pids]
    before = [process.memory_info().rss for process in processes]
    yield
    for process, size in zip(processes, before, strict=True):
        assert process.memory_info().rss < size + mib * 2**20


def find_thread(pid, name):
    """Its folder in /proc; None where no thread has this name (yet)."""
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        # Another one may have ended.
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if (task / "comm").read_text().strip() == name:
                return task
    return None


def thread_status(pid, name):
    """What the system says of the thread of this name."""
    task = find_thread(pid, name)
    assert task, f"no thread {name}"
    return (task / "status").read_text()


def rests(pid, name, ask):
    """Whether that thread stays asleep while others serve some requests."""

    def waits():
        return re.search(r"^voluntary_ctxt_switches:\s+(\d+)", thread_status(pid, name), re.M).group(1)

    before = waits()
    for _ in range(3):
        assert ask().status_code == 200
    return waits() == before


@functools.cache
def certificate():
    """A self-signed certificate and its key, made once."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-cert-"))
    atexit.register(shutil.rmtree, folder)
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-keyout", folder / "key.pem", "-out", folder / "cert.pem", "-days", "2",
         "-subj", "/CN=localhost"],
        check=True, capture_output=True,
    )  # fmt: skip
    return folder / "cert.pem", folder / "key.pem"


@functools.cache
def port_block():
    """The first of a thousand ports that are this process's until it ends, and no outgoing connection's."""
    for first in range(20000, 32000, 1000):
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0burrow-tests-{first}")
        except OSError:
            continue
        return first, claim
    raise AssertionError("too many runs of the tests at once")


def free_port():
    """A port that nobody uses. It differs from call to call, as far as there are others."""
    first, _ = port_block()
    for _ in range(1000):
        free_port.last = (free_port.last + 1) % 1000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", first + free_port.last))
            except OSError:
                continue
            return first + free_port.last
    raise AssertionError("no free port")


free_port.last = 0


def group_name():
    """The group of the workers."""
    return grp.getgrgid(WORKER.pw_gid).gr_name
