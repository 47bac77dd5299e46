"""What every part of the soak uses: load, figures, and how they are judged."""

import collections
import contextlib
import http.client
import multiprocessing
import os
import pathlib
import re
import select
import subprocess
import threading
import time

from servers import DIST, executable, status_kib
from steady import ANSWERS, Steady

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
    """A table of the figures, if there are any, those that were not kept last. Whether all were."""
    if not figures:
        return True
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


def wait_for_end(pids, timeout=60):
    """Of processes; to look again and again would take the processor from servers that are measured."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            process = os.pidfd_open(pid)
            ended, _, _ = select.select([process], [], [], timeout)
            os.close(process)
            if not ended:
                raise RuntimeError(f"process {pid} has not ended within {timeout} s")


def get(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


class Clients:
    """They ask all the time, on a new connection each time."""

    def __init__(self, server):
        self.server = server
        self.errors = {}
        self.stopping = threading.Event()

    def run(self, link, other):
        """In a process of their own, until they are told to stop."""
        other.close()  # or it would outlive whoever asks
        threads = [threading.Thread(target=self.ask, args=(i,), daemon=True) for i in range(CLIENTS)]
        for thread in threads:
            thread.start()
        link.recv()
        self.stopping.set()
        for thread in threads:
            thread.join()
        link.send(([], self.errors))

    def ask(self, client):
        path = list(ANSWERS)[client % 2]
        number = client
        while not self.stopping.is_set():
            try:
                status, body = get(self.server, f"{path}?{number}.")
                if (status, body) != (200, ANSWERS[path]):
                    self.errors[number] = f"{path}: {status} {body[:80]}"
            except (OSError, http.client.HTTPException) as error:
                self.errors[number] = f"{path}: {error!r}"
            number += CLIENTS


class Load:
    """Clients that ask all the time, or `rate` times a second: none may notice a reload.

    Each request has a number of its own in its query, by which `errors` tells which ones failed. They have a
    process of their own: what else the soak does is not to hold them up.
    """

    def __init__(self, server, rate=None):
        context = multiprocessing.get_context("fork")
        self.link, theirs = context.Pipe()
        clients = Steady(server, rate) if rate else Clients(server)
        self.process = context.Process(target=clients.run, args=(theirs, self.link), daemon=True)

    def __enter__(self):
        self.process.start()
        return self

    def __exit__(self, *_):
        self.link.send("stop")
        #: When each request was due, and how long it has taken since; and what was wrong with which.
        self.times, self.errors = self.link.recv()
        self.process.join()
        for text, count in collections.Counter(self.errors.values()).most_common(5):
            print(f"       {count} times {text}")

    def within(self, spans):
        """How long the requests have taken that were due in these."""
        return [time for due, time in self.times if any(begin <= due < end for begin, end in spans)]


def p99(times):
    """In ms."""
    return round(sorted(times)[len(times) * 99 // 100] * 1000, 1)
