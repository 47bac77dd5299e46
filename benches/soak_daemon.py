"""The soak's parts in daemon mode: requests, replacements of processes, kills, big bodies, idleness."""

import contextlib
import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import time

from load import Load, descriptors, get, h2load, judge, judge_log, p99, reset_peak, wait_for, wait_for_end
from servers import APP, DIST, Server, children, descendants, executable, status_kib
from steady import ANSWERS

GROUP = "processes=2 threads=4 restart-on-reload=on"
IDLE = 10
#: After so many replacements come so many seconds without any.
TURNS = 10
REST = 2
#: For the last requests of a replacement, before anything is looked for.
PAUSE = 0.02
#: A server that reloads has room for its new processes beside the old ones.
SIZE = {"nginx": {}, "httpd": {"children": 2, "most_children": 16, "threads": 25}}


@contextlib.contextmanager
def site(name, options, group=GROUP, **size):
    """A server whose application has a folder of its own, so that it can be changed."""
    server = Server(name, options.port)
    server.app = server.folder / "app.py"
    shutil.copy(APP, server.app)
    configure = {"nginx": Server.burrow_nginx, "httpd": Server.burrow_httpd}[name]
    with configure(server, options.python_home, daemon=group, **size):
        yield server


def workers(server):
    """The processes of the group: the manager's children that are no managers."""
    burrow = str(DIST / "bin/burrow")
    return {pid for parent in descendants(server.master) if executable(parent) == burrow
            for pid in children(parent) if executable(pid) not in (burrow, None)}  # fmt: skip


def replaced(server, before, count=2):
    """Waits until `count` others have taken the place of those."""
    wait_for(lambda: len(now := workers(server)) == count and not now & before, "other workers")
    return workers(server)


def requests(name, options):
    """Memory and descriptors of worker and server stay what they were after a tenth of the requests."""
    with site(name, options, "processes=1 threads=16") as server:
        (worker,) = workers(server)
        watched = [worker, *server.workers()]
        failed = h2load(server, "/hello", options.requests // 10)
        before = [(status_kib(pid, "VmRSS"), descriptors(pid)) for pid in watched]
        failed += h2load(server, "/hello", options.requests - options.requests // 10)
        judge(server.name, f"daemon: {options.requests:,} requests: failed", failed, 0)
        judge(server.name, "workers that were replaced", len({worker} ^ workers(server)), 0)
        for pid, (memory, files) in zip(watched, before, strict=True):
            what = "worker" if pid == worker else "server's process"
            judge(server.name, f"growth of the {what}", status_kib(pid, "VmRSS") - memory, 2048, " KiB")
            judge(server.name, f"more descriptors in the {what}", descriptors(pid) - files, 0)


def reload(server, _workers):
    """Until the server's own processes are others, too."""
    before = own_processes(server)
    server.reload()
    wait_for_end(before)
    wait_for(lambda: own_processes(server) - before, "other processes of the server")


def own_processes(server):
    """But for its master. A look at all processes would take milliseconds from those who serve."""
    master = server.master
    found = pathlib.Path(f"/proc/{master}/task/{master}/children").read_text()
    return {pid for pid in map(int, found.split()) if executable(pid) == executable(master)}


def touch(server, _workers):
    now = server.app.stat().st_mtime + 1
    os.utime(server.app, (now, now))


def restart(server, _workers):
    subprocess.run([DIST / "bin/burrow", "restart", "--socket", server.folder / "wsgi", "bench"], check=True,
                   capture_output=True)  # fmt: skip


def evict(_server, workers):
    for pid in workers:
        os.kill(pid, signal.SIGUSR1)


def span(action):
    """When it began, and when it had ended."""
    began = time.monotonic()
    action()
    return began, time.monotonic()


def replace(server, workers, how):
    """Until the last one has ended. To look for new ones would take time from those who serve."""

    def action():
        how(server, workers)
        wait_for_end(workers)

    replaced_within = span(action)
    time.sleep(PAUSE)
    return replaced_within


def httpd_alone(options):
    """The p99 of files that httpd without any module of ours serves while it is restarted gracefully."""
    server = Server("httpd", options.port)
    for path, content in ANSWERS.items():
        (server.folder / path[1:]).write_bytes(content)
    with server.httpd("", **SIZE["httpd"]), Load(server, options.rate) as load:
        meanwhile = [replace(server, set(), reload) for _ in range(options.reloads)]
    return p99(load.within(meanwhile))


def reloads(name, options):
    """Replacing the processes in any way, time after time, fails no request and makes few of them wait."""
    for how in reload, touch, restart, evict:
        with site(name, options, **SIZE[name]) as server, Load(server, options.rate) as load:
            rest, meanwhile = [], []
            now = workers(server)
            for turn in range(options.reloads):
                if turn % TURNS == 0:  # machines drift
                    rest.append(span(lambda: time.sleep(REST)))
                meanwhile.append(replace(server, now, how))
                now = replaced(server, now)
        rest, meanwhile = p99(load.within(rest)), p99(load.within(meanwhile))
        limit = 3 * rest
        if name == "httpd" and how is reload:
            # It starts no process before an old one has ended, which it may notice a second later.
            limit = max(limit, 1.2 * httpd_alone(options))
        judge(server.name, f"{options.reloads} times {how.__name__}: failed requests", len(load.errors), 0)
        judge(server.name, f"p99 meanwhile ({rest} at rest)", meanwhile, round(limit, 1), " ms")
        judge_log(server)


def kills(name, options):
    """Every request that fails was being served by a worker that was killed: the log names it."""
    with site(name, options, "processes=3 threads=4") as server:
        with Load(server, options.rate) as load:
            for _ in range(options.kills):
                os.kill(random.choice(sorted(workers(server))), signal.SIGKILL)
                # Those that are killed while they import are tried more and more seldom.
                wait_for(lambda: sum(map(serves, workers(server))) == 3, "the next worker")
        log = server.log.read_text(errors="replace").splitlines()
        told = " ".join(line for line in log if "while it served GET" in line)
        served = {int(number) for number in re.findall(r"GET /(?:hello|slow)\?(\d+)\.", told)}
        judge(server.name, f"{options.kills} kills: failures of others", len(load.errors.keys() - served), 0)
        judge(server.name, "failures", len(load.errors), 4 * options.kills)
        judge(server.name, "p99", p99([time for _, time in load.times]), 1000, " ms")


def serves(pid):
    """Whether it takes connections: the listening socket is a worker's descriptor 3."""
    with contextlib.suppress(OSError):
        for each in pathlib.Path(f"/proc/{pid}/fdinfo").iterdir():
            if re.search(r"^tfd:\s+3 ", each.read_text(), re.M):
                return True
    return False


def bodies(name, options):
    """A big body passes through server and worker, which do not grow with it."""
    size = options.megabytes << 20
    unbuffered = {"location": "wsgi_request_buffering off;"} if name == "nginx" else {}
    with site(name, options, "processes=1 threads=4", **unbuffered) as server:
        big = server.folder / "big"
        with big.open("wb") as file:
            file.truncate(size)
        (worker,) = workers(server)
        watched = {"worker": worker, "server": server.workers()[0]}
        curl = ["curl", "-sS", "--max-time", "600"]
        for what, command in {
            "upload": [*curl, "-H", "Expect:", "-T", str(big), server.url("/upload")],
            "download": [*curl, "-o", "/dev/null", "-w", "%{size_download}", server.url(f"/download?{size}")],
            "file": [*curl, "-o", "/dev/null", "-w", "%{size_download}", server.url(f"/file?{big}")],
        }.items():
            get(server, "/hello")
            memory = {of: reset_peak(pid) for of, pid in watched.items()}
            copied = bytes_of(worker)
            passed = int(subprocess.check_output(command, text=True))
            judge(server.name, f"{options.megabytes} MiB {what}: missing", size - passed, 0, " bytes")
            for of, pid in watched.items():
                growth = status_kib(pid, "VmHWM") - memory[of]
                judge(server.name, f"growth of the {of}'s peak memory", growth, 16384, " KiB")
            if what == "file":
                judge(server.name, "bytes through the worker", bytes_of(worker) - copied, 65536, " bytes")


def bytes_of(pid):
    """What a process has read and written."""
    counters = dict(line.split(": ") for line in pathlib.Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(counters["rchar"]) + int(counters["wchar"])


def idle(name, options):
    """Nobody wakes up when there is nothing to do."""
    with site(name, options) as server:
        for _ in range(20):
            get(server, "/hello")
        burrow = str(DIST / "bin/burrow")
        watched = workers(server) | {
            pid for pid in descendants(server.master) if executable(pid) == burrow
        }
        time.sleep(2)  # for what is closed or trimmed a moment after the last request
        before = {pid: switches(pid) for pid in watched}
        time.sleep(IDLE)
        woken = {pid: switches(pid) - before[pid] for pid in watched}
        judge(server.name, f"{IDLE} s idle: wake-ups of worker or manager", max(woken.values()), 0)


def switches(pid):
    """How often a process's threads have been given the processor."""
    tasks = [task.read_text() for task in pathlib.Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(count) for task in tasks for count in re.findall(r"ctxt_switches:\s+(\d+)", task))


PARTS = {
    "daemon-requests": requests,
    "daemon-reloads": reloads,
    "daemon-kills": kills,
    "daemon-bodies": bodies,
    "daemon-idle": idle,
}
