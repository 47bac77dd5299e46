"""The options of `burrow serve`."""

import os
import re
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from servers import free_port, wait_for
from serving import EVALUATE, HELLO, write


@pytest.mark.parametrize("bind", ["[::1]:{}", ":{}", "localhost:{}", "0.0.0.0:{}"])
def test_bind(serve, folder, server, bind):
    port = free_port()
    running = serve(
        write(folder / "app.py", HELLO), "--server", server, "--bind", bind.format(port), port=port
    )
    assert running.get(host="[::1]" if bind.startswith("[") else "127.0.0.1") == (200, "hello")
    running.stop()


def test_bind_to_any_free_port(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server, "--bind", "127.0.0.1:0")
    running.port = int(re.search(r"127\.0\.0\.1:(\d+)/", running.stdout())[1])
    assert running.get() == (200, "hello")
    running.stop()


SLOW_TO_CLOSE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static pid_t first;

__attribute__((constructor)) static void remember(void) { first = getpid(); }

int close(int fd)
{
    int listens = 0;
    socklen_t size = sizeof listens;
    getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &size);
    if (listens && getpid() == first && !strcmp(program_invocation_short_name, "burrow"))
        usleep(500000);
    return ((int (*)(int))dlsym(RTLD_NEXT, "close"))(fd);
}
"""


def test_the_port_is_nobodys_when_the_server_starts(serve, folder, server):
    """The first of burrow's two processes is slow to let go of it."""
    source, library = write(folder / "slow.c", SLOW_TO_CLOSE), folder / "slow.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    running = serve(write(folder / "app.py", HELLO), "--server", server, env={"LD_PRELOAD": str(library)})
    assert running.get() == (200, "hello")
    assert "ddress already in use" not in running.stderr()
    running.stop()


def test_workers_and_threads(serve, folder, server):
    script = write(folder / "app.py", EVALUATE)
    running = serve(script, "--server", server, "--workers", "3", "--threads", "2")
    name = running.server().name()
    assert len([p for p in running.server().children() if p.name() == name]) == 3
    assert running.evaluate("environ['wsgi.multithread'], environ['wsgi.multiprocess']") == "(True, True)"
    running.stop()


def test_threads_run_at_the_same_time(serve, folder, server):
    script = write(folder / "app.py", EVALUATE + "barrier = threading.Barrier(4)\n")
    running = serve(script, "--server", server, "--workers", "1", "--threads", "6")
    answers = []
    waiting = [
        threading.Thread(target=lambda: answers.append(running.evaluate("barrier.wait(5) >= 0")))
        for _ in range(4)
    ]  # fmt: skip
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert answers == ["True"] * 4
    running.stop()


def test_mount(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server, "--mount", "/shop/")
    assert f"http://127.0.0.1:{running.port}/shop/ " in running.stdout()
    names = urllib.request.quote("environ['SCRIPT_NAME'], environ['PATH_INFO']")
    assert running.get(f"/shop/a/b?{names}") == (200, "('/shop', '/a/b')")
    assert running.get(f"/shop?{names}") == (200, "('/shop', '')")
    assert running.get(f"/shopping?{names}")[0] == 404
    assert running.get(f"/?{names}")[0] == 404
    running.stop()


def test_static_files(serve, folder, server):
    write(folder / "css" / "site.css", "body {}\n")
    write(folder / "img" / "a.txt", "text\n")
    options = ["--static", "/static=css", "--static", f"/img/={folder}/img"]
    running = serve(write(folder / "app.py", HELLO), "--server", server, *options, cwd=folder)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/static/site.css") as answer:
        assert (answer.read(), answer.headers["Content-Type"].split(";")[0]) == (b"body {}\n", "text/css")
    assert running.get("/img/a.txt") == (200, "text\n")
    assert running.get("/static/none")[0] == 404
    assert running.get("/other") == (200, "hello")
    running.stop()


def test_access_log(serve, folder, server):
    script, log = write(folder / "app.py", HELLO), folder / "access.log"
    for options in (["--access-log"], ["--access-log", "-"], ["--access-log", log], []):
        running = serve(script, "--server", server, *map(str, options))
        running.get("/noted")
        running.stop()
        assert ("GET /noted" in running.stdout()) == (options[-1:] in (["--access-log"], ["-"]))
    assert log.read_text().count('"GET /noted HTTP/1.1" 200') == 1


def test_log_level(serve, folder, server):
    script = write(folder / "app.py", EVALUATE + "print('printed at import')\n")
    said = {}
    for level in ["debug", "error"]:
        running = serve(script, "--server", server, "--log-level", level, "--workers", "1")
        running.evaluate("print('printed', 'now')")
        running.stop()
        said[level] = running.stderr()
        assert "printed at import" in said[level]
        assert "printed now" in said[level]
    assert "[debug]" in said["debug"] or ":debug]" in said["debug"]
    assert "debug]" not in said["error"]


def test_tracebacks_are_shown(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)
    assert running.get("/?1/0")[0] == 500
    running.stop()
    assert running.stderr().count("ZeroDivisionError: division by zero") == 1


def test_environment_and_folder_are_the_callers(serve, folder, server):
    script = write(folder / "app.py", EVALUATE)
    running = serve(script, "--server", server, cwd="/usr", env={"SHOP_SETTING": 'it\'s $1 "so"'})
    assert running.evaluate("os.environ['SHOP_SETTING']") == 'it\'s $1 "so"'
    assert running.evaluate("os.environ['PATH']") == os.environ["PATH"]
    assert running.evaluate("os.getcwd()") == "/usr"
    running.stop()


@pytest.mark.parametrize("target", ["app.py", "app:application"])
def test_print_config(burrow, folder, server, target):
    write(folder / "app.py", HELLO)
    port = free_port()
    options = ["--server", server, "--bind", f"127.0.0.1:{port}", "--python", sys.prefix, "--mount", "/shop",
               "--access-log", "access.log"]  # fmt: skip
    command = [burrow, "serve", target, *options, "--print-config"]
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "access.log").exists()
    private = folder / "private"
    private.mkdir()
    configuration = write(private / "server.conf", done.stdout.replace("/tmp/burrow-serve", str(private)))
    check = {
        "nginx": ["nginx", "-t", "-c", configuration],
        "apache": ["apache2", "-t", "-d", private, "-f", configuration],
    }[server]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_import_is_not_left_to_the_first_request(serve, folder, server):
    script = write(folder / "app.py", HELLO + "print('imported in', __name__)\n")
    running = serve(script, "--server", server, "--workers", "2")
    wait_for(lambda: running.stderr().count("imported in _mod_wsgi_") == 2, "an import in each worker")
    running.get()
    running.stop()
    assert running.stderr().count("imported in") == 2
