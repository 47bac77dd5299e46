"""Every way in which `burrow serve` can end: nothing is left behind."""

import concurrent.futures
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import psutil
import pytest
from servers import free_port, wait_for
from serving import EVALUATE, HELLO, alive, needs_root, private_dirs, write


@contextlib.contextmanager
def in_progress(running, expression):
    """A request that the application works on."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(running.evaluate, f"print('in progress') or {expression}")
        wait_for(lambda: "in progress" in running.stderr(), "the request")
        yield request


def test_an_answer_in_progress_is_finished(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)
    with in_progress(running, "time.sleep(1) or 'whole'") as request:
        running.stop()
        assert request.result() == "whole"


def test_a_hanging_application_is_ended(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)
    with in_progress(running, "time.sleep(1000)") as request:
        running.stop()
        assert request.exception()


def test_a_second_ctrl_c_is_quicker(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)
    with in_progress(running, "time.sleep(1000)") as request:
        tree, directory, began = running.tree(), running.directory(), time.monotonic()
        for _ in range(3):
            running.process.send_signal(signal.SIGINT)
            time.sleep(0.2)  # or they would be one signal
        assert running.process.wait(30) == 0
        assert time.monotonic() - began < 5
        running.nothing_is_left(tree, directory)
        assert request.exception()


def test_exit_functions_run(serve, folder, server):
    note = folder / "note"
    note.mkdir()
    note.chmod(0o777)
    script = write(folder / "app.py", HELLO + f"import atexit; atexit.register(open, '{note}/ended', 'w')\n")
    running = serve(script, "--server", server, "--workers", "1")
    running.get()
    running.stop()
    assert (note / "ended").exists()


def test_children_of_the_application_end(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE + "import subprocess\n"), "--server", server)
    start = "subprocess.Popen(['sleep', '1000'], start_new_session={}).pid"
    children = [psutil.Process(int(running.evaluate(start.format(apart)))) for apart in (False, True)]
    running.stop()
    assert not alive(children)


@pytest.mark.parametrize("user", [None, pytest.param("nobody", marks=needs_root)])
def test_kill_9(serve, folder, server, user):
    running = serve(write(folder / "app.py", HELLO), "--server", server, user=user)
    tree, directory = running.tree(), running.directory()
    running.process.kill()
    running.process.wait()
    running.nothing_is_left(tree, directory, timeout=30)


def test_stop_while_it_starts(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    for pause in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25):
        options = ["--server", server, "--bind", f"127.0.0.1:{free_port()}", "--python", sys.prefix]
        process = subprocess.Popen([burrow, "serve", script, *options], stderr=subprocess.DEVNULL)
        time.sleep(pause)
        tree = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        assert process.wait(30) in ([0, -signal.SIGTERM] if pause == 0 else [0])
        # What a check has started may take a moment longer.
        wait_for(lambda: not alive(tree), "the end of all")  # noqa: B023
        assert not list(private_dirs(folder))


def test_kill_9_of_both_its_processes(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server)
    tree, directory = running.tree(), running.directory()
    for process in (running.process, next(p for p in tree if p.name() == "burrow")):
        process.kill()
    wait_for(lambda: not alive(tree), "the end of the server", 5)
    shutil.rmtree(directory)


def test_the_server_dies(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server)
    tree, directory = running.tree(), running.directory()
    running.server().kill()
    assert running.process.wait(10) == 128 + signal.SIGKILL
    running.nothing_is_left(tree, directory)
    assert re.search(r"^burrow: .* ended by itself, by signal SIGKILL$", running.stderr(), re.M)


def workers(process):
    """The server's own, by their pids."""
    server = next(p for p in psutil.Process(process.pid).children(recursive=True) if p.name() != "burrow")
    found = set()
    for child in server.children():
        with contextlib.suppress(psutil.NoSuchProcess):  # one that a reload has just ended
            if child.name() == server.name():
                found.add(child.pid)
    return found


@pytest.mark.parametrize("reader", ["has left", "has stopped reading"])
def test_nobody_reads_what_it_says(burrow, folder, server, reader):
    script = write(folder / "app.py", EVALUATE)
    port = free_port()
    read, out = os.pipe()
    command = [burrow, "serve", script, "--server", server, "--python", sys.prefix, "--access-log",
               "--reload", "--bind", f"127.0.0.1:{port}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=out, stderr=out)
    os.close(out)
    wait_for(lambda: b"Serving" in os.read(read, 4096), "the start")
    if reader == "has left":
        os.close(read)
        before = workers(process)
        write(script, EVALUATE + "# changed\n")
        wait_for(lambda: not before & workers(process), "other workers")
        for _ in range(20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/?print(1)") as answer:
                assert answer.read() == b"None"
    else:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/?print('x'*10**6)", timeout=1)
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(30) == 0
    assert not alive(tree)
    assert not list(private_dirs(folder))


def test_nohup(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    port = free_port()
    # nohup's disposition of SIGHUP, and that of SIGCHLD under some parents
    command = ["sh", "-c", 'trap "" HUP CHLD; exec "$0" "$@"', burrow, "serve", script, "--server", server,
               "--python", sys.prefix, "--bind", f"127.0.0.1:{port}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "Serving" in process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        assert answer.read() == b"hello"
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(30) == 0
    assert not alive(tree)
    process.stdout.close()


def test_hangup(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server)
    tree, directory = running.tree(), running.directory()
    running.process.send_signal(signal.SIGHUP)
    running.process.wait(5)
    running.nothing_is_left(tree, directory, timeout=30)
