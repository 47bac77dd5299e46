"""What every part of the soak uses: load, figures, and how they are judged."""

import collections
import contextlib
import http.client
import multiprocessing
import os
import pathlib
import re
import subprocess
import threading
import time

from servers import DIST, executable, status_kib

CONNECTIONS = 32
CLIENTS = 8
CRASH = re.compile(r"exit(?:ed on)? signal|core dumped|\[(?:alert|emerg|crit)\]")
#: Every figure that was judged: a line of the table at the end, and whether it was kept.
figures = []


def judge(name, what, figure, limit, unit=""):
    """Prints a figure and remembers whether it was within its limit."""
    line = f"{name:6} {what:52} {figure:>9,}{unit}  (at most {limit:,}{unit})"
    kept = figure <= limit
    figures.append((line, kept))
    print(line if kept else f"{line}  NOT KEPT", flush=True)


def summary():
    """A table of all figures, those that were not kept last. Whether there is none of these."""
    print()
    for line, kept in sorted(figures, key=lambda figure: not figure[1]):
        print(f"{'kept' if kept else 'NOT KEPT':10}{line}")
    missed = sum(not kept for _, kept in figures)
    print(f"{len(figures) - missed} figures were kept, {missed} were not")
    return missed == 0


def judge_log(server):
    crashes = [line for line in server.messages().splitlines() if CRASH.search(line)]
    for line in crashes[:5]:
        print(f"       {line}")
    judge(server.name, "crashes and alerts in the error log", len(crashes), 0)


def h2load(server, path, count, *options, connections=CONNECTIONS):
    """So many requests on kept-alive connections; how many of them failed."""
    command = ["h2load", "--h1", f"-n{count}", f"-c{connections}", *options, server.url(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return count - int(re.search(r"status codes: (\d+) 2xx", printed).group(1))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def managers():
    """The processes of Burrow's own that stand beside the servers."""
    burrow = str(DIST / "bin/burrow")
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if executable(pid) == burrow]


def reset_peak(pid):
    """Makes VmHWM start again from VmRSS, which is returned."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
    return status_kib(pid, "VmRSS")


def wait_for(condition, what, timeout=60):
    """The first true value of `condition()`."""
    end = time.monotonic() + timeout
    while not (value := condition()):
        if time.monotonic() > end:
            raise RuntimeError(f"{what}: not within {timeout} s")
        time.sleep(0.01)
    return value


def get(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Clients:
    """They ask all the time, on a new connection each time; with `rate`, so many times a second."""

    EXPECTED = {"/hello": b"Hello, World!\n", "/slow": b"Hello, World!\n" * 2}

    def __init__(self, server, rate):
        self.server = server
        self.pause = CLIENTS / rate if rate else 0
        self.errors = {}
        self.times = []
        self.stopping = threading.Event()

    def run(self, link, other):
        """In a process of their own: tells what there is whenever it is asked, and at the end."""
        other.close()  # or it would outlive whoever asks
        # Clients are elsewhere, and wait for no processor that the servers are using.
        with contextlib.suppress(PermissionError):
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        threads = [threading.Thread(target=self.ask, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        while link.recv():
            link.send(self.take())
        self.stopping.set()
        for thread in threads:
            thread.join()
        link.send(self.take())

    def take(self):
        times, self.times = self.times, []
        return times, dict(self.errors)

    def ask(self, client):
        path = list(self.EXPECTED)[client % 2]
        due = time.monotonic() + self.pause * client / CLIENTS
        number = client
        while not self.stopping.wait(max(0, due - time.monotonic())):
            began = time.monotonic()
            try:
                status, body = get(self.server, f"{path}?{number}.")
                if (status, body) != (200, self.EXPECTED[path]):
                    self.errors[number] = f"{path}: {status} {body[:80]}"
            except (OSError, http.client.HTTPException) as error:
                self.errors[number] = f"{path}: {error!r}"
            if path == "/hello":
                self.times.append(time.monotonic() - began)
            number += CLIENTS
            due = max(due + self.pause, began)


class Load:
    """Clients that ask all the time: none may notice a reload.

    Each request has a number of its own in its query, by which `errors` tells which ones failed. They have a
    process of their own: what else the soak does is not to hold them up.
    """

    def __init__(self, server, rate=None):
        context = multiprocessing.get_context("fork")
        self.link, theirs = context.Pipe()
        clients = Clients(server, rate)
        self.process = context.Process(target=clients.run, args=(theirs, self.link), daemon=True)
        self.errors = {}
        self.times = []

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.update(goes_on=False)
        self.process.join()
        for text, count in collections.Counter(self.errors.values()).most_common(5):
            print(f"       {count} times {text}")

    def update(self, goes_on=True):
        self.link.send(goes_on)
        times, self.errors = self.link.recv()
        self.times += times

    def take(self):
        """How long the requests since the last call have taken."""
        if self.process.is_alive():
            self.update()
        times, self.times = self.times, []
        return times


def p99(times):
    """In ms."""
    return round(sorted(times)[len(times) * 99 // 100] * 1000, 1)
