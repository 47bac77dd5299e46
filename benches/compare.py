"""Burrow beside its peers: one core for the server, one for the load; writes results.md and results.svg."""

import argparse
import collections
import json
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass

import chart
import report
from peers import BENCH, ENDPOINTS, PEERS, VENV
from servers import HERE, WORKER, Server, cpu_seconds, pss_kib

SERVER_CPU, LOAD_CPU = 0, 1
#: 64 where the application sleeps, as many as wait at a time, and of WebSockets.
CONNECTIONS = collections.defaultdict(lambda: 32, pause=64, websocket=64)


@dataclass
class Result:
    """One run against one endpoint."""

    #: Requests a second.
    rate: float
    #: Milliseconds.
    p99: float
    #: The server's, in microseconds a request.
    cpu: float
    errors: int
    #: Cores that the load used.
    load: float
    #: Cores that neither the server nor the load used.
    foreign: float
    #: Of all of the server's processes, in KiB.
    memory: int


def milliseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def wrk(server, endpoint, seconds):
    """Requests per second, p99 in ms, number of requests, number of errors."""
    command = ["taskset", "-c", str(LOAD_CPU), "wrk", "--latency", "-t1"]
    command += [f"-c{CONNECTIONS[endpoint]}", f"-d{seconds}s", server.url("/" + endpoint)]
    if endpoint == "echo":
        command += ["-s", str(HERE / "echo.lua")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    number = lambda pattern: re.search(pattern, printed).group(1)  # noqa: E731
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    return (
        float(number(r"Requests/sec:\s+([\d.]+)")),
        milliseconds(number(r"\n\s+99%\s+(\S+)")),
        int(number(r"(\d+) requests in")),
        sum(map(int, errors.groups() if errors else ())) + int(wrong.group(1) if wrong else 0),
    )


def websocket(server, endpoint, seconds):
    """As wrk, of messages."""
    command = ["taskset", "-c", str(LOAD_CPU), sys.executable, str(HERE / "websocket.py")]
    command += [f"--connections={CONNECTIONS[endpoint]}", f"--seconds={seconds}", str(server.port), "/"]
    echoes = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return echoes["count"] / seconds, echoes["p99"], echoes["count"], echoes["errors"]


def measure(server, endpoint, seconds):
    ask = websocket if endpoint == "websocket" else wrk
    ask(server, endpoint, 1)
    family = server.family()
    server_before, load_before, all_before = cpu_seconds(family), load_seconds(), machine_seconds()
    rate, p99, requests, errors = ask(server, endpoint, seconds)
    used, load = cpu_seconds(family) - server_before, load_seconds() - load_before
    foreign = machine_seconds() - all_before - used - load
    cpu = used * 1e6 / max(requests, 1)
    return Result(rate, p99, cpu, errors, load / seconds, foreign / seconds, pss_kib(family))


def load_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def machine_seconds():
    """What all cores worked since the machine's start."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, open("/proc/stat").readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def prepare():
    """The database of the Django page, and a check that the servers' workers reach all they need."""
    BENCH.mkdir(parents=True, exist_ok=True)
    subprocess.run([VENV / "bin/python", HERE / "django_site.py"], check=True)
    if os.getuid() == 0:
        shutil.chown(BENCH / "django.sqlite3", WORKER)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=3, help="of each run, behind a second to warm up")
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--endpoints", nargs="+", choices=ENDPOINTS, default=list(ENDPOINTS))
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results.md", help="and .svg")
    parser.add_argument("only", nargs="*", help="measure only the servers with this in their name")
    options = parser.parse_args()
    chosen = [
        peer
        for peer in PEERS
        if set(peer.endpoints) & set(options.endpoints)
        and (not options.only or any(word in peer.name for word in options.only))
    ]
    prepare()
    results = {peer.name: collections.defaultdict(list) for peer in chosen}
    for number in range(1, options.rounds + 1):
        for peer in chosen:
            with peer.configure(Server(peer.name, options.port, SERVER_CPU)) as server:
                for endpoint in peer.endpoints:
                    if endpoint in options.endpoints:
                        result = measure(server, endpoint, options.seconds)
                        results[peer.name][endpoint].append(result)
                        show(number, peer.name, endpoint, result)
    keep(results)
    text = report.markdown(results, f"{options.rounds} interleaved rounds of {options.seconds} s")
    options.output.write_text(text)
    options.output.with_suffix(".svg").write_text(chart.svg(results))
    print(f"\n{text}\nwritten to {options.output}")
    if any(result.errors for by in results.values() for runs in by.values() for result in runs):
        sys.exit("there were errors")


def show(number, name, endpoint, result):
    print(
        f"{number} {name:30} {endpoint:10} {result.rate:9,.0f}/s p99 {result.p99:6.1f} ms "
        f"{result.cpu:6.1f} µs {result.errors} errors, load {result.load:.2f} cores",
        flush=True,
    )


def keep(results):
    """Every single run, for who wants to look closer."""
    text = json.dumps(results, indent=1, default=asdict)
    (BENCH / "results.json").write_text(text)


if __name__ == "__main__":
    main()
