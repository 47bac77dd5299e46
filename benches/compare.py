"""Burrow beside its peers: one core for the server, one for the load; writes results.md."""

import argparse
import collections
import os
import pathlib
import platform
import re
import resource
import shutil
import statistics
import subprocess
import sys
import time

from servers import HERE, Server, cpu_seconds

SERVER_CPU, LOAD_CPU = 0, 1
CONNECTIONS = 32
ENDPOINTS = {"hello": "hello", "body10k": "10 KiB", "echo": "echo 16 KiB", "flask": "Flask"}
BENCH = HERE.parent / "target/bench"
VENV = BENCH / "venv"

# foreign: cores that neither the server nor the load used
Result = collections.namedtuple("Result", "rate p99 cpu errors foreign")


def floor_module():
    """floor.c, compiled by apxs, which writes beside its source."""
    shutil.copy(HERE / "floor.c", BENCH)
    subprocess.run(["apxs", "-c", "floor.c"], cwd=BENCH, check=True, capture_output=True)
    return BENCH / ".libs/floor.so"


def mod_wsgi():
    return next(VENV.glob("lib/python3*/site-packages/mod_wsgi/server/mod_wsgi-py*.so"))


def uwsgi_location(server):
    return f"location / {{ include /etc/nginx/uwsgi_params; uwsgi_pass unix:{server.folder}/app.sock; }}"


def gunicorn_upstream(server):
    return f"upstream app {{ server unix:{server.folder}/app.sock; keepalive 64; }}"


def gunicorn_location():
    headers = {"Connection": '""', "Host": "$host", "X-Forwarded-For": "$remote_addr"}
    lines = " ".join(f"proxy_set_header {name} {value};" for name, value in headers.items())
    return f"location / {{ proxy_pass http://app; proxy_http_version 1.1; {lines} }}"


# The options of a process group: as many threads as the peers have.
DAEMON = "processes=1 threads=16"

# name -> (endpoints, what makes it out of a Server)
SERVERS = {
    "httpd, a C handler": (
        ["hello", "body10k", "echo"],
        lambda s: s.httpd(f"LoadModule floor_module {floor_module()}"),
    ),
    "Burrow in httpd": (list(ENDPOINTS), lambda s: s.burrow_httpd(VENV)),
    "mod_wsgi embedded": (list(ENDPOINTS), lambda s: s.wsgi_httpd(mod_wsgi(), VENV)),
    "nginx, return 200": (["hello"], lambda s: s.nginx('location / { return 200 "Hello, World!\\n"; }')),
    "Burrow in nginx": (list(ENDPOINTS), lambda s: s.burrow_nginx(VENV)),
    "nginx + uWSGI": (list(ENDPOINTS), lambda s: s.uwsgi(VENV).nginx(uwsgi_location(s))),
    "Burrow daemon, httpd": (list(ENDPOINTS), lambda s: s.burrow_httpd(VENV, daemon=DAEMON)),
    "mod_wsgi daemon": (list(ENDPOINTS), lambda s: s.wsgi_httpd(mod_wsgi(), VENV, daemon=DAEMON)),
    "Burrow daemon, nginx": (list(ENDPOINTS), lambda s: s.burrow_nginx(VENV, daemon=DAEMON)),
    "nginx + gunicorn": (
        list(ENDPOINTS),
        lambda s: s.gunicorn(VENV).nginx(gunicorn_location(), gunicorn_upstream(s)),
    ),
}
RATIOS = [
    ("Burrow in httpd", "mod_wsgi embedded"),
    ("Burrow in nginx", "nginx + uWSGI"),
    ("Burrow daemon, httpd", "mod_wsgi daemon"),
    ("Burrow daemon, nginx", "nginx + uWSGI"),
    ("Burrow daemon, nginx", "nginx + gunicorn"),
    ("Burrow in httpd", "httpd, a C handler"),
    ("Burrow in nginx", "nginx, return 200"),
]


def milliseconds(text):
    value, unit = re.fullmatch(r"([\d.]+)(us|ms|s)", text).groups()
    return float(value) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]


def load(url, seconds, script):
    """wrk's requests per second, p99 in ms, number of requests, number of errors."""
    command = ["taskset", "-c", str(LOAD_CPU), "wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency"]
    printed = subprocess.run([*command, *script, url], check=True, capture_output=True, text=True).stdout
    number = lambda pattern: re.search(pattern, printed).group(1)  # noqa: E731
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", printed)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", printed)
    return (
        float(number(r"Requests/sec:\s+([\d.]+)")),
        milliseconds(number(r"\n\s+99%\s+(\S+)")),
        int(number(r"(\d+) requests in")),
        sum(map(int, errors.groups() if errors else ())) + int(wrong.group(1) if wrong else 0),
    )


def measure(server, endpoint, seconds):
    script = ["-s", str(HERE / "echo.lua")] if endpoint == "echo" else []
    load(server.url("/" + endpoint), 1, script)
    family = server.family()
    server_before, load_before, all_before = cpu_seconds(family), load_seconds(), machine_seconds()
    rate, p99, requests, errors = load(server.url("/" + endpoint), seconds, script)
    used = cpu_seconds(family) - server_before
    foreign = machine_seconds() - all_before - used - (load_seconds() - load_before)
    return Result(rate, p99, used * 1e6 / requests, errors, foreign / seconds)


def load_seconds():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def machine_seconds():
    """What all cores worked since the machine's start."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, open("/proc/stat").readline().split()[1:8])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


def median(results):
    return Result(*(statistics.median(column) for column in zip(*results, strict=True)))


def version(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"[\d.]+\.\d+", done.stdout + done.stderr).group(0)


def setting(rounds, seconds):
    """What was measured with what, in a sentence."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    python = VENV / "bin/python"
    versions = {
        "nginx": version("nginx", "-v"),
        "httpd": version("apache2", "-v"),
        "Python": version(python, "--version"),
        "uWSGI": version("uwsgi", "--version"),
        "mod_wsgi": version(VENV / "bin/pip", "show", "mod_wsgi"),
        "gunicorn": version(VENV / "bin/pip", "show", "gunicorn"),
    }
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu.group(1) if cpu else platform.machine()}; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}. One core for the server, "
        f"{CONNECTIONS} connections from the other, {rounds} interleaved rounds of {seconds} s. "
        "Made by `make bench`; [how](README.md)."
    )


def report(results, rounds, seconds):
    """The tables, as Markdown."""
    heads = " | ".join(ENDPOINTS.values())
    rule = f"|---|{'---:|' * (len(ENDPOINTS) + 1)}"
    foreign = max(result.foreign for by in results.values() for rounds_ in by.values() for result in rounds_)
    lines = [
        "# Results",
        "",
        setting(rounds, seconds),
        f"Other processes used at most {foreign:.2f} cores meanwhile.",
        "",
        "Requests per second (p99 in ms) ± half the rounds' spread; the server's CPU per request, for hello:",
        "",
        f"| server | {heads} | CPU µs |",
        rule,
    ]
    medians = {(name, e): median(all_rounds) for name, by in results.items() for e, all_rounds in by.items()}
    for name in results:
        cells = [cell(results[name][e]) if (name, e) in medians else "" for e in ENDPOINTS]
        lines.append(f"| {name} | {' | '.join(cells)} | {medians[name, 'hello'].cpu:.1f} |")
    lines += ["", "Ratios of the rates, and of the CPU per request for hello:", ""]
    lines += [f"| | {heads} | CPU |", rule]
    for ours, theirs in RATIOS:
        pairs = [(medians.get((ours, e)), medians.get((theirs, e))) for e in ENDPOINTS]
        if all(pairs[0]):
            cells = [f"{our.rate / their.rate:.2f}" if our and their else "" for our, their in pairs]
            cells.append(f"{pairs[0][1].cpu / pairs[0][0].cpu:.2f}")
            lines.append(f"| {ours} / {theirs} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def cell(results):
    rates = [result.rate for result in results]
    middle = median(results)
    spread = (max(rates) - min(rates)) / middle.rate / 2
    failed = f", {middle.errors:.0f} errors" if middle.errors else ""
    return f"{middle.rate:,.0f} ({middle.p99:.1f}{failed}) ±{spread:.0%}"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--port", type=int, default=18080)
    parser.add_argument("--output", type=pathlib.Path, default=HERE / "results.md")
    parser.add_argument("only", nargs="*", help="measure only the servers with this in their name")
    options = parser.parse_args()
    chosen = [name for name in SERVERS if not options.only or any(word in name for word in options.only)]
    results = {name: collections.defaultdict(list) for name in chosen}
    for round_number in range(1, options.rounds + 1):
        for name in chosen:
            endpoints, configure = SERVERS[name]
            with configure(Server(name, options.port, SERVER_CPU)) as server:
                for endpoint in endpoints:
                    result = measure(server, endpoint, options.seconds)
                    results[name][endpoint].append(result)
                    print(
                        f"{round_number} {name:20} {endpoint:8} {result.rate:9,.0f}/s "
                        f"p99 {result.p99:6.1f} ms {result.cpu:6.1f} µs {result.errors} errors",
                        flush=True,
                    )
    text = report(results, options.rounds, options.seconds)
    options.output.write_text(text)
    print(f"\n{text}\nwritten to {options.output}")
    if any(result.errors for by in results.values() for all_rounds in by.values() for result in all_rounds):
        sys.exit("there were errors")


if __name__ == "__main__":
    main()
