"""`burrow serve` as a process, and what is made for it to serve."""

import contextlib
import os
import pathlib
import pwd
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import urllib.error
import urllib.request

import psutil
import pytest
from servers import IS_ROOT, free_port, wait_for

needs_root = pytest.mark.skipif(not IS_ROOT, reason="changes the user of processes")

HELLO = """\
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
# Answers with a Python expression of the query string.
EVALUATE = """\
import os, sys, threading, time
from urllib.parse import unquote

def application(environ, start_response):
    value = str(eval(unquote(environ["QUERY_STRING"]))).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [value]
"""
FLASK = """\
from flask import Flask
app = Flask(__name__)
app.add_url_rule("/", view_func=lambda: "flask")
"""


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def private_dirs(application):
    """The private directories of whatever serves an application in this folder."""
    folders = [pathlib.Path("/tmp"), pathlib.Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))]
    for configuration in (path for folder in folders for path in folder.glob("burrow-serve-*/server.conf")):
        with contextlib.suppress(OSError):
            if str(application) in configuration.read_text():
                yield configuration.parent


def alive(processes):
    def is_alive(process):
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if is_alive(process)]


class Serve:
    """A running `burrow serve`."""

    def __init__(self, burrow, target, *options, port=None, user=None, cwd=None, env=None, python=True):
        self.port = port or free_port()
        if "--bind" not in options:
            options += ("--bind", f"127.0.0.1:{self.port}")
        if python:
            options += ("--python", sys.prefix)
        identity = {}
        if user:
            entry = pwd.getpwnam(user)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [burrow, "serve", str(target), *options],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err,
            cwd=cwd, env={**os.environ, **(env or {})}, **identity,
        )  # fmt: skip
        wait_for(lambda: "Serving" in self.stdout() or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.stderr()

    def stdout(self):
        return self.read(self.out)

    def stderr(self):
        return self.read(self.err)

    @staticmethod
    def read(file):
        return os.pread(file.fileno(), 1 << 20, 0).decode()

    def get(self, path="/", host="127.0.0.1"):
        try:
            with urllib.request.urlopen(f"http://{host}:{self.port}{path}", timeout=30) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def evaluate(self, expression):
        status, body = self.get("/?" + urllib.request.quote(expression))
        assert status == 200, self.stderr()
        return body

    def tree(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def server(self):
        """The server's own process."""
        return next(p for p in self.tree() if p.name() in ("nginx", "apache2", "httpd"))

    def directory(self):
        arguments = self.server().cmdline()
        return next(pathlib.Path(a).parent for a in arguments if a.endswith("/server.conf"))

    def stop(self, how=signal.SIGTERM, code=0, timeout=30):
        tree, directory = self.tree(), self.directory()
        self.process.send_signal(how)
        assert self.process.wait(timeout) == code, self.stderr()
        self.nothing_is_left(tree, directory)

    @staticmethod
    def nothing_is_left(tree, directory, timeout=0):
        if timeout:
            wait_for(lambda: not alive(tree) and not directory.exists(), f"the end of {tree}", timeout)
        assert not alive(tree)
        assert not directory.exists()


def refused(burrow, arguments, expected, env=None, cwd=None):
    """Exit code 2, one line, nothing left."""
    command = [burrow, "serve", *map(str, arguments)]
    if "--python" not in arguments:
        command += ["--python", sys.prefix]
    if "--bind" not in arguments:
        command += ["--bind", f"127.0.0.1:{free_port()}"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=20
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.match(f"burrow: .*{expected}", done.stderr), done.stderr
    folder = cwd or pathlib.Path(arguments[0]).parent
    assert not list(private_dirs(folder))
