"""The ends of worker processes: exit functions, threads, requests in progress; all of them bounded."""

import signal
import threading

import pytest
from servers import Mount, wait_for

#: How long a worker may take that waits for something that never ends.
BOUND = 20
MOUNTS = [Mount("/sub", "lifecycle.py", "sub"), Mount("/main", "lifecycle.py", "%{GLOBAL}")]
GRACEFUL = {"nginx": signal.SIGQUIT, "apache": signal.SIGWINCH}


def marks(server):
    return {path.name.rsplit("-", 1)[0] for path in server.data.iterdir()}


@pytest.mark.parametrize("how", ["stop", "graceful stop", "reload"])
def test_exit_functions(server, how):
    server.start(mounts=MOUNTS)
    for mount in ("/sub", "/main"):
        assert server.get(f"{mount}/atexit").status_code == 200
        assert server.get(f"{mount}/raises").status_code == 200
    if how == "reload":
        server.reload()
    else:
        assert server.stop(GRACEFUL[server.kind] if how == "graceful stop" else signal.SIGTERM) < BOUND
    expected = {f"{n}-{mount}" for n in ("first", "second", "after") for mount in ("sub", "main")}
    wait_for(lambda: marks(server) == expected, f"{expected} in {server.data}")
    for told in ("printed at exit", "ZeroDivisionError"):
        wait_for(lambda told=told: server.log().count(told) == 2, f"{told!r} from both in the log")


def test_threads_are_waited_for(server):
    server.start(mounts=MOUNTS)
    for mount in ("/sub", "/main"):
        server.get(f"{mount}/thread")
        server.get(f"{mount}/daemon")
    assert server.stop() < BOUND
    assert marks(server) == {"thread-sub", "thread-main"}


@pytest.mark.parametrize("what", ["hangs", "thread-hangs", "spin"])
def test_the_wait_is_bounded(server, what):
    server.start(mounts=MOUNTS)
    for mount in ("/sub", "/main"):
        server.get(f"{mount}/{what}")
    assert server.stop() < BOUND


@pytest.mark.parametrize("how", ["graceful stop", "reload"])
def test_requests_in_progress_are_finished(server, how):
    server.start(mounts=MOUNTS)
    assert server.get("/sub/pid").status_code == 200
    answers = []
    threads = [
        threading.Thread(target=lambda m=mount: answers.append(server.get(f"{m}/sleep?2").status_code))
        for mount in ("/sub", "/main")
    ]
    for thread in threads:
        thread.start()
    wait_for(lambda: server.log().count("falls asleep") == 2, "two requests")
    if how == "reload":
        server.reload()
        assert server.get("/sub/pid").status_code == 200
    else:
        assert server.stop(GRACEFUL[server.kind]) < BOUND
    for thread in threads:
        thread.join()
    assert answers == [200, 200]
    wait_for(lambda: {"slept-sub", "slept-main"} <= marks(server), "both were finished")


def test_stop_before_python_is_up(server):
    server.start("lifecycle.py")
    assert server.stop() < BOUND


def test_stop_during_an_import(server):
    server.write_app("slow.py", "import time\ntime.sleep(3)\nfrom hello import application\n")
    server.start("slow.py")
    with server.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        server.wait_log("Loading")
        assert server.stop() < BOUND


def test_exit_functions_run_once_each(server):
    server.start(mounts=MOUNTS, processes=2)
    pids = set()

    def visit():
        response = server.request("/sub/atexit")
        pids.add(int(response.body))
        return len(pids) == 2 or len(pids) == 1 and server.kind == "nginx"

    wait_for(visit, "both processes", timeout=20)
    server.stop()
    assert {path.name for path in server.data.iterdir()} == {
        f"{n}-sub-{pid}" for n in ("first", "second") for pid in pids
    }
