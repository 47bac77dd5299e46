"""What httpd and nginx have in common: their folder, their life and their processes."""

import contextlib
import dataclasses
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import psutil

from . import machine
from .clients import Clients
from .log import ErrorLog
from .machine import IS_ROOT, certificate, free_port, wait_for


@dataclasses.dataclass
class Mount:
    """An application at a path of the site."""

    path: str
    #: A file in tests/apps, an absolute path or "module:callable".
    target: str
    #: Application group; None leaves the server's default.
    group: str | None = None
    #: Process group; None is the server's own processes.
    process: str | None = None
    #: Directives of the location, by server.
    nginx: str = ""
    apache: str = ""


class Server(Clients, ErrorLog):
    """An httpd or nginx."""

    kind: str
    #: What it logs when it has started.
    ready: str
    reload_signal: signal.Signals

    def __init__(self):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix=f"burrow-{self.kind}-"))
        self.root.chmod(0o755)
        self.apps = self.root / "apps"
        shutil.copytree(machine.APPS, self.apps, ignore=shutil.ignore_patterns("__pycache__"))
        #: Folders that the workers may write to: for applications, and for what is left of a crash.
        self.data = self.root / "data"
        self.cores = self.root / "cores"
        for folder in (self.data, self.cores):
            folder.mkdir()
            os.chown(folder, machine.WORKER.pw_uid, machine.WORKER.pw_gid)
        self.htdocs = self.root / "htdocs"
        self.htdocs.mkdir()
        (self.htdocs / "static.txt").write_text("static\n")
        for file in certificate():
            shutil.copy(file, self.root)
        self.port = free_port()
        self.tls_port = free_port()
        self.process = None
        #: Leave the directory behind, for whoever looks into a failure.
        self.keep = False
        Clients.__init__(self)
        ErrorLog.__init__(self)

    # ---- life

    def start(self, app=None, group=None, *, mounts=None, unprivileged=False, **settings):
        """Starts the server with `app` at its root, or with several mounts."""
        if mounts is None:
            mounts = [Mount("/", app or "hello.py", group)]
        self.configure(mounts, **settings)
        identity = {}
        if unprivileged and IS_ROOT:
            worker = machine.WORKER
            identity = {"user": worker.pw_uid, "group": worker.pw_gid, "extra_groups": []}
            for path in [self.root, *self.root.rglob("*")]:
                os.chown(path, worker.pw_uid, worker.pw_gid)
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.root / "stderr.log").open("ab"),
            start_new_session=True,
            **identity,
        )
        wait_for(self.accepts, f"{self.kind} listening on {self.port}")
        if "master_process off" not in settings.get("main", ""):
            # Only now does it heed signals.
            self.wait_log(self.ready)
            processes = settings.get("processes", 1)
            wait_for(lambda: len(self.workers()) >= processes, f"{processes} worker processes")
        return self

    def process_groups(self, groups):
        """Name and options of each of the groups {name: options}, with the tests' Python and folder."""
        for name, options in (groups or {}).items():
            home = "" if re.search(r"\bpython(-home)?=", options) else f"python-home={machine.PYTHON_HOME}"
            yield f"{name} {home} python-path={self.apps} {options}"

    def target(self, mount):
        return mount.target if ":" in mount.target else self.apps / mount.target

    def accepts(self):
        assert self.process.poll() is None, f"{self.kind} ended at once: {self.logs()}"
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def configtest(self, app=None, group=None, *, mounts=None, **settings):
        """The server's own check of a configuration: (exit code, what it said)."""
        self.configure(mounts or [Mount("/", app or "hello.py", group)], **settings)
        done = subprocess.run(self.command("-t"), capture_output=True, text=True, timeout=30)
        self.error_log.write_text("")  # nginx says it there once more
        return done.returncode, done.stdout + done.stderr

    @property
    def master_pid(self):
        return self.process.pid

    def kill(self, number):
        os.kill(self.process.pid, number)

    def stop(self, how=signal.SIGTERM, timeout=20):
        """Ends the server and sees to it that nothing is left of it. How long it took."""
        if self.process is None:
            return 0
        began = time.monotonic()
        process, self.process = self.process, None
        if process.poll() is None:
            os.kill(process.pid, how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            stuck = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(True))]
            for pid in stuck:
                os.kill(pid, signal.SIGKILL)
            process.wait()
            raise AssertionError(f"{self.kind} did not stop within {timeout} s; killed {stuck}") from None
        took = time.monotonic() - began
        left = self.leftovers()
        deadline = time.monotonic() + 10
        while left and time.monotonic() < deadline:
            time.sleep(0.01)
            left = self.leftovers()
        for survivor in left:
            survivor.kill()
        assert not left, f"{self.kind} left processes behind: {left}"
        return took

    def leftovers(self):
        """Processes that have a file of this server open."""
        left = []
        for process in psutil.Process().children(recursive=True):
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                files = {os.readlink(f"/proc/{process.pid}/fd/{fd}")
                         for fd in os.listdir(f"/proc/{process.pid}/fd")}  # fmt: skip
            except (psutil.NoSuchProcess, FileNotFoundError):
                continue
            if any(name.startswith(f"{self.root}/") for name in files):
                left.append(process)
        return left

    def close(self):
        """Stops, checks and removes everything; keeps the directory when something was wrong."""
        try:
            # Before the client: httpd's event MPM may crash in a SIGTERM while a connection is being closed.
            self.stop()
        finally:
            self.client.close()
            self.log_start = 0
            self.check_log()
        if not self.keep:
            shutil.rmtree(self.root)

    def workers(self):
        """The pids of the worker processes that take requests."""
        found = []
        for child in psutil.Process(self.process.pid).children():
            try:
                if self.is_worker(child):
                    found.append(child.pid)
            except psutil.NoSuchProcess:
                continue
        return found

    def connections(self):
        """How many connections of clients the workers have open."""
        count = 0
        for pid in self.workers():
            with contextlib.suppress(psutil.NoSuchProcess):
                count += sum(
                    connection.status not in (psutil.CONN_LISTEN, psutil.CONN_NONE)
                    and connection.laddr.port in (self.port, self.tls_port)
                    for connection in psutil.Process(pid).net_connections("tcp")
                )
        return count

    def reload(self, timeout=20):
        """A graceful reload, until new workers have taken the place of all old ones."""
        old = set(self.workers())
        self.kill(self.reload_signal)
        wait_for(lambda: (new := set(self.workers())) and not new & old, "new workers", timeout)

    def logs(self):
        """(title, text) of what there is to read after a failure."""
        stderr = self.root / "stderr.log"
        texts = {
            f"error log in {self.root}": self.log() if self.error_log.exists() else "",
            "stderr": stderr.read_text(errors="backslashreplace") if stderr.exists() else "",
        }
        return [(title, text[-3000:]) for title, text in texts.items() if text]

    # ---- files

    def write_app(self, name, source):
        """Writes an application so that its mtime differs from any it had."""
        path = self.apps / name
        before = path.stat().st_mtime_ns if path.exists() else time.time_ns() - 10**12
        path.write_text(source)
        os.utime(path, ns=(before + 10**9, before + 10**9))
        return path
