"""Memory, descriptors and processes over a long life: requests, reloads, big bodies; on both servers."""

import argparse
import collections
import http.client
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import threading
import time

from servers import DIST, Server, children, executable, status_kib

CONNECTIONS = 32
CLIENTS = 8
CRASH = re.compile(r"exit(?:ed on)? signal|core dumped|\[(?:alert|emerg|crit)\]")
failures = []


def judge(server, what, figure, limit, unit=""):
    """Prints a figure and remembers it when it is above its limit."""
    verdict = "" if figure <= limit else "  FAILED"
    print(f"{server.name:6} {what:48} {figure:>9,}{unit}  (at most {limit:,}{unit}){verdict}", flush=True)
    if verdict:
        failures.append(f"{server.name}: {what}")


def h2load(server, path, count, *options):
    """So many requests on kept-alive connections; how many of them failed."""
    command = ["h2load", "--h1", f"-n{count}", f"-c{CONNECTIONS}", *options, server.url(path)]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return count - int(re.search(r"status codes: (\d+) 2xx", printed).group(1))


def descriptors(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))


def managers():
    """The processes of Burrow's own that stand beside the servers."""
    burrow = str(DIST / "bin/burrow")
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if executable(pid) == burrow]


def requests(server, count):
    """A worker's memory and descriptors stay what they were after a tenth of the requests."""
    (worker,) = server.workers()
    failed = h2load(server, "/hello", count // 10)
    memory, files = status_kib(worker, "VmRSS"), descriptors(worker)
    failed += h2load(server, "/hello", count - count // 10)
    (same,) = server.workers()
    judge(server, f"{count:,} requests: failed", failed, 0)
    judge(server, "workers that were replaced", int(same != worker), 0)
    judge(server, "growth of the worker's memory", status_kib(worker, "VmRSS") - memory, 2048, " KiB")
    judge(server, "more descriptors in the worker", descriptors(worker) - files, 0)


def bodies(server, count):
    """The peak of a worker's memory does not depend on the size of what passes through it."""
    (worker,) = server.workers()
    with tempfile.NamedTemporaryFile() as body:
        body.write(os.urandom(65536))
        body.flush()
        failed = h2load(server, "/upload", count // 10, "-d", body.name)
        memory = reset_peak(worker)
        failed += h2load(server, "/upload", count, "-d", body.name)
    judge(server, f"{count:,} uploads of 64 KiB: failed", failed, 0)
    judge(server, "growth of the worker's peak memory", status_kib(worker, "VmHWM") - memory, 16384, " KiB")
    for rate in "1G", "50M":  # as fast as it goes, and a client that is slower than the application
        memory = reset_peak(worker)
        command = ["curl", "-sS", "--limit-rate", rate, "-o", "/dev/null", "-w", "%{size_download}"]
        size = subprocess.check_output([*command, server.url("/download")], text=True)
        judge(server, f"100 MiB download, {rate}/s: missing", 100 * 2**20 - int(size), 0, " bytes")
        growth = status_kib(worker, "VmHWM") - memory
        judge(server, "growth of the worker's peak memory", growth, 16384, " KiB")


def reset_peak(pid):
    """Makes VmHWM start again from VmRSS, which is returned."""
    pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")
    return status_kib(pid, "VmRSS")


class Load:
    """Clients that ask all the time, on a new connection each time: none may notice a reload."""

    def __init__(self, server):
        self.server = server
        self.count = collections.Counter()
        self.errors = []
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(i,)) for i in range(CLIENTS)]

    def ask(self, number):
        path, expected = [("/hello", b"Hello, World!\n"), ("/slow", b"Hello, World!\n" * 2)][number % 2]
        while not self.stopping.is_set():
            try:
                status, body = get(self.server, path)
                if (status, body) != (200, expected):
                    self.errors.append(f"{path}: {status} {body[:80]}")
            except (OSError, http.client.HTTPException) as error:
                self.errors.append(f"{path}: {error!r}")
            self.count[path] += 1

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.stopping.set()
        for thread in self.threads:
            thread.join()


def get(server, path):
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def reload(server):
    """Asks for a new generation of workers and waits until one of them answers."""
    before = set(server.workers())
    command = server.commands[-1]
    signal = {"nginx": ["-s", "reload"], "apache2": ["-k", "graceful"]}[command[0]]
    environment = {**os.environ, "PATH": os.environ["PATH"] + ":/usr/sbin"}
    arguments = [argument for argument in command if argument != "-DFOREGROUND"]
    subprocess.run([*arguments, *signal], check=True, env=environment, capture_output=True)
    while int(get(server, "/pid")[1]) in before:
        time.sleep(0.01)


def settle(server):
    """Waits until the last old worker is gone: as many children as are there without a reload."""
    end = time.monotonic() + 60
    while len(children(server.master)) > server.members and time.monotonic() < end:
        time.sleep(0.1)


def reloads(server, count):
    """Nobody is failed by a reload, and nothing is left of the old generations."""
    server.members = len(children(server.master))
    beside = len(managers())
    with Load(server) as load:
        for _ in range(count // 4):  # lets the allocator find its size
            reload(server)
        settle(server)
        memory, files = status_kib(server.master, "VmRSS"), descriptors(server.master)
        for _ in range(count - count // 4):
            reload(server)
    settle(server)
    for error in collections.Counter(load.errors).most_common(5):
        print(f"       {error[1]} times {error[0]}")
    judge(server, f"{count} reloads, {load.count.total():,} requests: failed", len(load.errors), 0)
    judge(server, "growth of the master's memory", status_kib(server.master, "VmRSS") - memory, 512, " KiB")
    judge(server, "more descriptors in the master", descriptors(server.master) - files, 0)
    judge(server, "processes left of old generations", len(children(server.master)) - server.members, 0)
    judge(server, "more managers", len(managers()) - beside, 0)
    crashes = [line for line in server.messages().splitlines() if CRASH.search(line)]
    for line in crashes[:5]:
        print(f"       {line}")
    judge(server, "crashes and alerts in the error log", len(crashes), 0)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=18081)
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--reloads", type=int, default=200)
    parser.add_argument("--python-home", help="the Python of the application (the server's default)")
    parser.add_argument("--server", choices=["nginx", "httpd"], action="append")
    options = parser.parse_args()
    for name in options.server or ["nginx", "httpd"]:
        configure = {"nginx": Server.burrow_nginx, "httpd": Server.burrow_httpd}[name]
        with configure(Server(name, options.port), options.python_home) as server:
            requests(server, options.requests)
            bodies(server, options.uploads)
        size = {} if name == "nginx" else {"most_children": 16, "threads": 16}
        beside = len(managers())
        with configure(Server(name, options.port), options.python_home, **size) as server:
            reloads(server, options.reloads)
        judge(server, "managers after the server's end", len(managers()) - beside, 0)
    if failures:
        sys.exit("failed: " + "; ".join(failures))


if __name__ == "__main__":
    main()
