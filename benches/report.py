"""The tables of a comparison, as Markdown."""

import pathlib
import platform
import re
import statistics
import subprocess
import time

from peers import ENDPOINTS, MESSAGE_RATIOS, RATIOS, REQUESTS, VENV

#: The endpoints whose processor time is told, and what the table calls them.
COSTS = {"hello": "hello", "websocket": "message"}


def markdown(results, how):
    foreign = max(run.foreign for by in results.values() for runs in by.values() for run in runs)
    endpoints = [name for name in ENDPOINTS if any(name in by for by in results.values())]
    requests = [name for name in endpoints if name in REQUESTS]
    tables = [rates(results, endpoints)]
    if requests:
        tables.append(ratios("Ratios of the rates:", "hello", results, requests, RATIOS))
    if "websocket" in endpoints:
        title = "Ratios of the rates of WebSocket messages:"
        tables.append(ratios(title, "messages", results, ["websocket"], MESSAGE_RATIOS))
    tables.append(latencies(results, endpoints))
    return "\n\n".join([
        "# Results",
        f"{setting(how)}\nOther processes used at most {foreign:.2f} cores meanwhile.",
        "![Ratios](results.svg)",
        *tables,
    ]) + "\n"  # fmt: skip


def median(runs, field):
    return statistics.median(getattr(run, field) for run in runs)


def table(title, heads, rows):
    lines = [f"| {' | '.join(cells)} |" for cells in (["", *heads], *rows)]
    lines.insert(1, f"|---|{'---:|' * len(heads)}")
    return "\n".join([title, "", *lines])


def rates(results, endpoints):
    def cell(runs):
        rates = [run.rate for run in runs]
        middle = statistics.median(rates)
        errors = sum(run.errors for run in runs)
        failed = f", {errors} errors" if errors else ""
        return f"{middle:,.0f} ±{(max(rates) - min(rates)) / middle / 2:.0%}{failed}"

    costs = [name for name in COSTS if name in endpoints]
    rows = [
        [
            name,
            *(cell(by[e]) if by.get(e) else "" for e in endpoints),
            *(f"{median(by[e], 'cpu'):.1f}" if by.get(e) else "" for e in costs),
            f"{max(run.memory for runs in by.values() for run in runs) / 1024:.0f}",
        ]
        for name, by in results.items()
    ]
    title = (
        "Requests, or messages, per second ± half the rounds' spread; the server's CPU for each; the most "
        "memory that its processes used, what they share counted once:"
    )
    heads = [*(ENDPOINTS[e] for e in endpoints), *(f"CPU µs, {COSTS[e]}" for e in costs), "MiB"]
    return table(title, heads, rows)


def ratios(title, aimed_at, results, endpoints, pairs):
    rows = []
    for ours, theirs, aim in pairs:
        if ours in results and theirs in results:
            cells = [ratio(results[ours].get(e), results[theirs].get(e)) for e in endpoints]
            rows.append([f"{ours} / {theirs}", *cells, str(aim)])
    return table(title, [*(ENDPOINTS[e] for e in endpoints), f"aim for {aimed_at}"], rows)


def ratio(ours, theirs):
    return f"{median(ours, 'rate') / median(theirs, 'rate'):.2f}" if ours and theirs else ""


def latencies(results, endpoints):
    rows = [
        [name, *(f"{median(by[e], 'p99'):.1f}" if by.get(e) else "" for e in endpoints)]
        for name, by in results.items()
    ]
    return table("p99 in ms:", [ENDPOINTS[e] for e in endpoints], rows)


def setting(how):
    """What was measured with what, in a sentence."""
    cpu = re.search(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    versions = {
        "nginx": version("nginx", "-v"),
        "httpd": version("apache2", "-v"),
        "Python": version(VENV / "bin/python", "--version"),
        "uWSGI": version("uwsgi", "--version"),
    }
    for package in "mod_wsgi", "gunicorn", "granian", "bjoern", "uvicorn":
        versions[package] = version(VENV / "bin/pip", "show", package)
    return (
        f"{time.strftime('%Y-%m-%d')}, {cpu.group(1) if cpu else platform.machine()}; "
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}. One core for the server, 32 "
        f"connections (64 for the sleep, and WebSockets) from the other, {how}. Made by `make bench`; "
        "[how](README.md)."
    )


def version(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    return re.search(r"[\d.]+\.\d+", done.stdout + done.stderr).group(0)
