"""Deadlines and limits of process groups, and what replaces a process: each in a group of its own."""

import itertools
import os
import time

import pytest
from daemons import await_daemons, daemons
from servers import Mount, wait_for

#: Options of the group of each test, which is named after it.
GROUPS = {
    "queue": "threads=1 queue-timeout=1",
    "request": "threads=1 request-timeout=1",
    "interrupt": "threads=1 request-timeout=1 interrupt-timeout=5",
    "stubborn": "threads=2 request-timeout=1 interrupt-timeout=1",
    "deadlock": "deadlock-timeout=1",
    "inactivity": "inactivity-timeout=1",
    "interval": "restart-interval=3",
    "requests": "threads=2 maximum-requests=20",
    "jitter": "processes=3 threads=2 maximum-requests=20 maximum-requests-jitter=20",
    "cpu": "cpu-time-limit=1",
    "memory": "memory-limit=300000000",
    "max": "max-memory=200000000",
    "socket": "socket-timeout=1",
    "graceful": "threads=2 graceful-timeout=1 shutdown-timeout=1",
    "eviction": "threads=2 eviction-timeout=1 graceful-timeout=30 shutdown-timeout=1",
    "shutdown": "shutdown-timeout=1",
    "startup": "startup-timeout=1",
    "script-user": "script-user=daemon",
    "script-group": "script-group=daemon",
}
numbers = itertools.count()


def start(server):
    server.crash = None
    for name in ("startup", "script-user", "script-group"):
        server.write_app(f"{name}.py", (server.apps / "daemon.py").read_text())
    mounts = [Mount(f"/{name}", f"{name}.py" if (server.apps / f"{name}.py").exists() else "daemon.py",
                    process=name) for name in GROUPS]  # fmt: skip
    mounts += [Mount(f"/wreck/{name}", "wreck.py", process=name) for name in ("deadlock", "memory")]
    mounts.append(Mount("/lifecycle", "lifecycle.py", process="shutdown"))
    server.start(mounts=mounts, groups=GROUPS, threads=16)


def only(server, group):
    """The pid of a group's one worker, which has answered."""
    return int(server.get(f"/{group}/pid").text)


def replaced(server, group, pid):
    """The one that takes the place of another."""
    return wait_for(lambda: daemons(server, group) - {pid}, f"another worker of {group}")


def hold(server, clients, group, path="wait"):
    """A request that is being served until the file is there: (future, file)."""
    go = server.root / f"go{next(numbers)}"
    held = clients.submit(server.request, f"/{group}/{path}?file={go}")
    server.wait_log(f"waiting for {go}")
    return held, go


def test_queue_timeout(shop, clients):
    """Whoever waits too long for a thread is told so, when the time is over; the others are served."""
    held, go = hold(shop, clients, "queue")
    began = time.monotonic()
    assert shop.get("/queue/pid").status_code == 504
    assert 0.9 < time.monotonic() - began < 20
    shop.wait_log("queue")
    waiting = clients.submit(shop.get, "/queue/pid")
    go.touch()
    assert held.result().status == waiting.result().status_code == 200
    # The one that was given up is never run.
    assert shop.log().count("waiting for") == 1


def test_request_timeout(shop):
    """Without an interrupt the process goes, and the request with it."""
    pid = only(shop, "request")
    assert shop.get("/request/spin?seconds=60").status_code in (502, 504)
    replaced(shop, "request", pid)
    shop.wait_log("request.timeout")
    wait_for(lambda: only(shop, "request") != pid, "an answer of the next")


def test_interrupt(shop):
    """RequestTimeout is raised in the request, and the process goes on."""
    pid = only(shop, "interrupt")
    began = time.monotonic()
    assert shop.get("/interrupt/spin?seconds=60").status_code == 504
    assert time.monotonic() - began > 0.9
    shop.wait_log("interrupted")
    for _ in range(5):
        assert only(shop, "interrupt") == pid
    assert shop.get("/interrupt/spin?seconds=0.1").status_code == 200


def test_interrupt_of_what_cannot_be_interrupted(shop):
    pid = only(shop, "stubborn")
    go = shop.root / "never"
    # In C for most of the time: the exception comes between two turns of the loop.
    assert shop.get(f"/stubborn/wait?file={go}").status_code == 504
    assert only(shop, "stubborn") == pid
    assert shop.get("/stubborn/sleep?seconds=30").status_code in (502, 504)
    replaced(shop, "stubborn", pid)


def test_deadlock_timeout(shop):
    """Python's lock is not given back: the process ends, with the stacks of its threads in the log."""
    pid = only(shop, "deadlock")
    assert shop.get("/wreck/deadlock/stuck").status_code in (502, 504)
    replaced(shop, "deadlock", pid)
    shop.wait_log("deadlock")
    shop.wait_log("in do_stuck")
    wait_for(lambda: only(shop, "deadlock") != pid, "an answer of the next")


def test_inactivity_timeout(shop):
    pid = only(shop, "inactivity")
    (second,) = replaced(shop, "inactivity", pid)
    shop.wait_log("inactivity")
    wait_for(lambda: daemons(shop, "inactivity") == {second}, "the end of the first")


def test_restart_interval(shop):
    replaced(shop, "interval", only(shop, "interval"))
    shop.wait_log("restart.interval")
    assert shop.get("/interval/pid").status_code == 200


@pytest.mark.parametrize(("group", "processes"), [("requests", 1), ("jitter", 3)])
def test_maximum_requests(shop, clients, group, processes):
    """Others take over, and none of the requests fails."""
    pids = set()

    def ask(_):
        answer = shop.request(f"/{group}/pid")
        assert answer.status == 200
        pids.add(int(answer.body))

    def turn():
        list(clients.map(ask, range(50)))
        return len(pids) > processes + 1

    wait_for(turn, "other processes")
    shop.wait_log("maximum.requests")


def test_cpu_time_limit(shop):
    pid = only(shop, "cpu")
    assert shop.get("/cpu/burn?seconds=1").status_code == 200
    replaced(shop, "cpu", pid)
    shop.wait_log("cpu.time")


def test_memory_limit(shop):
    """The request fails, the process need not."""
    assert shop.get("/wreck/memory/memory").status_code == 500
    shop.wait_log("MemoryError")
    assert shop.get("/memory/pid").status_code == 200


def test_max_memory(shop):
    """Replaced before it grows further; the request that grew is answered."""
    pid = only(shop, "max")
    assert shop.get("/max/grow?bytes=250000000").status_code == 200
    replaced(shop, "max", pid)
    shop.wait_log("memory")
    wait_for(lambda: only(shop, "max") != pid, "an answer of the next")


def test_socket_timeout(shop, clients):
    """Nothing comes from the process for so long: 504, or a cut where there was something."""
    go = shop.root / f"go{next(numbers)}"
    began = time.monotonic()
    assert shop.get(f"/socket/wait?file={go}").status_code == 504
    assert time.monotonic() - began > 0.9
    code, out = shop.curl(f"/socket/stream?file={go}", "--http1.1", "-N", tls=False)
    assert code in (18, 56) and int(out) == only(shop, "socket")
    go.touch()


def evict(server, group):
    pid = only(server, group)
    os.kill(pid, 10)
    return pid


@pytest.mark.parametrize("group", ["graceful", "eviction"])
def test_requests_in_progress_have_their_time(shop, clients, group):
    """The next process serves meanwhile; when the time is over, the old one ends."""
    held, go = hold(shop, clients, group, "wait")
    pid = evict(shop, group)
    replaced(shop, group, pid)
    wait_for(lambda: only(shop, group) != pid, "an answer of the next")
    began = time.monotonic()
    assert held.result().status in (502, 504)
    assert time.monotonic() - began < 20
    wait_for(lambda: pid not in daemons(shop, group), "its end")

    held, go = hold(shop, clients, group, "wait")
    pid = evict(shop, group)
    go.touch()
    assert (held.result().status, int(held.result().body)) == (200, pid)


def test_shutdown_timeout(shop):
    """Exit functions have their time, too."""
    pid = int(shop.get("/lifecycle/hangs").text)
    shop.get("/lifecycle/atexit")  # which runs before that
    os.kill(pid, 15)
    await_daemons(shop, "shutdown", 1, without=[pid])
    marks = {path.name for path in shop.data.iterdir()}
    assert marks >= {f"first-lifecycle-{pid}", f"second-lifecycle-{pid}"}


def test_startup_timeout(shop):
    """An import that does not end leaves what there is in place."""
    pid = only(shop, "startup")
    good = (shop.apps / "startup.py").read_text()
    shop.write_app("startup.py", "while True:\n    pass\n")
    assert only(shop, "startup") == pid
    shop.wait_log("startup")
    wait_for(lambda: daemons(shop, "startup") == {pid}, "the end of the other")
    assert only(shop, "startup") == pid
    shop.write_app("startup.py", good.replace('"one"', '"two"'))
    wait_for(lambda: shop.get("/startup/version").text == "two", "the next version")


@pytest.mark.parametrize("who", ["user", "group"])
def test_owner_of_the_script(shop, who):
    """Script and folder belong to the one that is named, or nothing of it runs."""
    group = f"script-{who}"
    assert shop.get(f"/{group}/pid").status_code in (403, 500)
    line = shop.wait_log(group)
    assert f"{group}.py" in line
