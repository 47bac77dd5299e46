"""A file of wsgi.file_wrapper is sent by the kernel, unless the configuration says otherwise."""

import contextlib
import pathlib
import re
import shutil
import signal
import subprocess

import pytest
from servers import Mount, wait_for

SIZE = 300_000
APPLICATION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    return environ["wsgi.file_wrapper"](open(__file__ + ".data", "rb"))
"""
pytestmark = pytest.mark.skipif(not shutil.which("strace"), reason="apt install strace")


@contextlib.contextmanager
def traced(server, name):
    """Writes down the worker's calls of that name."""
    (pid,) = server.workers()
    out = server.root / "strace"
    command = ["strace", "-f", "-e", f"trace={name}", "-p", str(pid), "-o", out]
    tracer = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def attached():
        if tracer.poll() is not None:
            pytest.skip("processes may not be traced here")
        tasks = pathlib.Path(f"/proc/{pid}/task").glob("*/status")
        return all("TracerPid:\t0\n" not in task.read_text() for task in tasks)

    wait_for(attached, "strace")
    yield out
    tracer.send_signal(signal.SIGINT)
    tracer.wait(10)


@pytest.mark.parametrize("sent", [SIZE, 0], ids=["on", "off"])
def test_sendfile(server, sent):
    data = server.write_app("file.py", APPLICATION).with_name("file.py.data")
    data.write_bytes(b"0123456789" * (SIZE // 10))
    off = {} if sent else {"nginx": "sendfile off;", "apache": "WSGIEnableSendfile Off"}
    server.start(mounts=[Mount("/", "file.py", **off)])
    with traced(server, "sendfile") as calls:
        assert server.get("/").content == data.read_bytes()
    returned = re.findall(r"sendfile(?:\(| resumed).* = (\d+)$", calls.read_text(), re.M)
    assert sum(map(int, returned)) == sent


ASGI = """
async def application(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    name = __file__ + ".data"
    if scope["path"] == "/pathsend":
        return await send({"type": "http.response.pathsend", "path": name})
    with open(name, "rb") as file:
        await send({"type": "http.response.zerocopysend", "file": file})
"""


@pytest.mark.parametrize("process", [None, "group"], ids=["embedded", "daemon"])
def test_sendfile_of_asgi(server, process):
    data = server.write_app("file.py", ASGI).with_name("file.py.data")
    data.write_bytes(b"0123456789" * (SIZE // 10))
    groups = {process: "processes=1"} if process else None
    server.start(mounts=[Mount("/", "file.py", process=process)], groups=groups)
    with traced(server, "sendfile") as calls:
        for path in ("/pathsend", "/zerocopysend"):
            assert server.get(path).content == data.read_bytes()
    returned = re.findall(r"sendfile(?:\(| resumed).* = (\d+)$", calls.read_text(), re.M)
    assert sum(map(int, returned)) == 2 * SIZE
