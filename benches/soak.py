"""Memory, descriptors and processes over a long life, embedded and in daemon mode, on both servers."""

import argparse
import os
import subprocess
import sys
import tempfile
import time

import interpreters
import soak_daemon
import sockets
from load import Load, descriptors, get, h2load, judge, judge_log, managers, reset_peak, summary
from servers import Server, children, status_kib


def requests(server, count):
    """A worker's memory and descriptors stay what they were after a tenth of the requests."""
    (worker,) = server.workers()
    failed = h2load(server, "/hello", count // 10)
    memory, files = status_kib(worker, "VmRSS"), descriptors(worker)
    failed += h2load(server, "/hello", count - count // 10)
    (same,) = server.workers()
    judge(server.name, f"{count:,} requests: failed", failed, 0)
    judge(server.name, "workers that were replaced", int(same != worker), 0)
    judge(server.name, "growth of the worker's memory", status_kib(worker, "VmRSS") - memory, 2048, " KiB")
    judge(server.name, "more descriptors in the worker", descriptors(worker) - files, 0)


def bodies(server, count):
    """The peak of a worker's memory does not depend on the size of what passes through it."""
    (worker,) = server.workers()
    with tempfile.NamedTemporaryFile() as body:
        body.write(os.urandom(65536))
        body.flush()
        failed = h2load(server, "/upload", count // 10, "-d", body.name)
        memory = reset_peak(worker)
        failed += h2load(server, "/upload", count, "-d", body.name)
    judge(server.name, f"{count:,} uploads of 64 KiB: failed", failed, 0)
    growth = status_kib(worker, "VmHWM") - memory
    judge(server.name, "growth of the worker's peak memory", growth, 16384, " KiB")
    for rate in "1G", "50M":  # as fast as it goes, and a client that is slower than the application
        memory = reset_peak(worker)
        command = ["curl", "-sS", "--limit-rate", rate, "-o", "/dev/null", "-w", "%{size_download}"]
        size = subprocess.check_output([*command, server.url("/download")], text=True)
        judge(server.name, f"100 MiB download, {rate}/s: missing", 100 * 2**20 - int(size), 0, " bytes")
        growth = status_kib(worker, "VmHWM") - memory
        judge(server.name, "growth of the worker's peak memory", growth, 16384, " KiB")


def reload(server):
    """Asks for a new generation of workers and waits until one of them answers."""
    before = set(server.workers())
    server.reload()
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
    judge(server.name, f"{count} reloads under load: failed requests", len(load.errors), 0)
    growth = status_kib(server.master, "VmRSS") - memory
    judge(server.name, "growth of the master's memory", growth, 512, " KiB")
    judge(server.name, "more descriptors in the master", descriptors(server.master) - files, 0)
    judge(server.name, "processes left of old generations", len(children(server.master)) - server.members, 0)
    judge(server.name, "more managers", len(managers()) - beside, 0)
    judge_log(server)


def embedded(name, options):
    configure = {"nginx": Server.burrow_nginx, "httpd": Server.burrow_httpd}[name]
    with configure(Server(name, options.port), options.python_home) as server:
        requests(server, options.requests)
        bodies(server, options.uploads)
    size = {} if name == "nginx" else {"most_children": 16, "threads": 16}
    with configure(Server(name, options.port), options.python_home, **size) as server:
        reloads(server, options.reloads)


PARTS = {
    "embedded": embedded,
    **soak_daemon.PARTS,
    "interpreters": interpreters.soak_part,
    "sockets": sockets.soak_part,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=18081)
    parser.add_argument("--requests", type=int, default=500_000)
    parser.add_argument("--uploads", type=int, default=10_000)
    parser.add_argument("--reloads", type=int, default=200, help="of each kind")
    parser.add_argument("--rate", type=int, default=200, help="requests a second meanwhile, in daemon mode")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--megabytes", type=int, default=1024, help="of a body that passes through")
    parser.add_argument("--sockets", type=int, default=100_000, help="that come and go")
    parser.add_argument("--idle-sockets", type=int, default=10_000)
    parser.add_argument("--python-home", help="the Python of the application (the server's default)")
    parser.add_argument("--server", choices=["nginx", "httpd"], action="append")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all of them)")
    options = parser.parse_args()
    for unknown in set(options.parts) - set(PARTS):
        parser.error(f"there is no part {unknown}: {', '.join(PARTS)}")
    try:
        for name in options.server or ["nginx", "httpd"]:
            for part in options.parts or PARTS:
                beside = len(managers())
                PARTS[part](name, options)
                judge(name, f"managers after the end of {part}", len(managers()) - beside, 0)
    finally:
        kept = summary()
    sys.exit(not kept)


if __name__ == "__main__":
    main()
