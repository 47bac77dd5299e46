"""How many instructions one request takes in Burrow and in Python, under callgrind.

It is the same on every run, so that what grows is seen long before it can be measured in time. The server's
own instructions are left out, as are those of libc, which has functions for each processor. Compares with
instructions.json, or writes it.
"""

import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import platform
import re
import socket
import subprocess
import sys

from load import get, h2load
from servers import HERE, Server

BASELINE = HERE / "instructions.json"
#: By how much it may be more than the baseline: with the same compiler and Python, and with others. Runs of
#: one build differ by up to 2 %, most where threads of httpd wait for an event loop.
TOLERANCE, ELSEWHERE = 0.05, 0.15
WARM_UP, REQUESTS = 100, 300
CASES = {
    "nginx, WSGI": lambda server: server.burrow_nginx(),
    "nginx, ASGI": lambda server: server.asgi().burrow_nginx(),
    "httpd, WSGI": lambda server: server.burrow_httpd(),
    "httpd, ASGI": lambda server: server.asgi().burrow_httpd(),
}
#: What is asked for: a path, and what h2load is told besides.
PARTS = {
    "hello": ("/hello", []),
    "16 more headers": ("/hello", [f"-HX-Header-{number}: some value of it" for number in range(16)]),
    "10 KiB": ("/body10k", []),
    "16 KiB echo": ("/echo", ["-d", "FILE"]),
}
OURS = re.compile(r"(mod_burrow|ngx_http_burrow_module|cpython-3\w+-[\w-]+)\.so$")
PYTHON = re.compile(r"libpython3")


def by_object(file):
    """Instructions in each library, of a file of callgrind's."""
    names, counts, library, is_call = {}, collections.Counter(), None, False
    for line in file.read_text().splitlines():
        if match := re.match(r"(c?ob)=\((\d+)\)(?: (.*))?", line):
            kind, number, name = match.groups()
            names.setdefault(number, name)
            if kind == "ob":
                library = names[number]
        elif line.startswith("calls="):
            is_call = True
        elif re.match(r"[\d+*-]", line):
            # The line behind a call has what was called.
            if not is_call:
                counts[library] += int(line.split()[1])
            is_call = False
    return counts


def count_all(cases):
    """{"case, part, where": instructions of a request}."""
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        counted = pool.map(count, cases)
        return {
            f"{case}, {part}, {where}": figure
            for case, parts in zip(cases, counted, strict=True)
            for part, figures in parts.items()
            for where, figure in figures.items()
        }


def count(case):
    """{part: instructions of a request by where they are}."""
    server = CASES[case](Server("callgrind", free_port()))
    folder = pathlib.Path(server.folder)
    (folder / "upload").write_bytes(bytes(16384))
    server.pin = ["valgrind", "-q", "--tool=callgrind", "--dump-before=getloadavg*",
                  f"--callgrind-out-file={folder}/callgrind.%p"]  # fmt: skip
    # The worker writes its counts, and is not root.
    folder.chmod(0o777)
    hash_alike(folder)
    with server:
        (worker,) = server.workers()
        failed = 0
        for path, options in PARTS.values():
            options = [option.replace("FILE", f"{folder}/upload") for option in options]
            failed += h2load(server, path, WARM_UP, *options, connections=1)
            get(server, "/mark")
            failed += h2load(server, path, REQUESTS, *options, connections=1)
            get(server, "/mark")
        if failed:
            sys.exit(f"{case}: {failed} requests have failed")
        server.stop()
        # A mark ends what was counted since the one before: warming up, the requests, warming up …
        dumps = [folder / f"callgrind.{worker}.{2 * part}" for part in range(1, len(PARTS) + 1)]
        return {part: shares(by_object(dump)) for part, dump in zip(PARTS, dumps, strict=True)}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def hash_alike(folder):
    """Python's dicts are the same in each run. nginx's workers get of its environment what it is told."""
    os.environ["PYTHONHASHSEED"] = "0"
    for configuration in folder.glob("nginx.conf"):
        configuration.write_text(f"env PYTHONHASHSEED;\n{configuration.read_text()}")


def shares(counts):
    def share(pattern):
        return sum(counts[name] for name in counts if pattern.search(name or "")) // REQUESTS

    return {"Burrow": share(OURS), "Python": share(PYTHON)}


def versions():
    """What the figures depend on besides the sources."""
    commands = ("rustc", "/usr/bin/python3")
    found = {each: subprocess.check_output([each, "--version"], text=True).split()[1] for each in commands}
    return {"machine": platform.machine(), **found}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="keep the largest of three runs to compare with")
    parser.add_argument("only", nargs="*", help="count only the cases with this in their name")
    options = parser.parse_args()
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    here = versions()
    if known and known["versions"]["machine"] != here["machine"]:
        known = {}
    tolerance = TOLERANCE if known.get("versions", here) == here else ELSEWHERE
    cases = [name for name in CASES if not options.only or any(word in name for word in options.only)]
    runs = [count_all(cases) for _ in range(3 if options.write else 1)]
    counted = {name: max(run[name] for run in runs) for name in runs[0]}
    grown = []
    for name, figure in counted.items():
        change = figure / known.get(name, figure) - 1
        verdict = "" if change <= tolerance else "  FAILED"
        print(f"{name:36} {figure:>8,}  ({change:+.1%}){verdict}", flush=True)
        if verdict:
            grown.append(name)
    if options.write:
        BASELINE.write_text(json.dumps({**known, **counted, "versions": here}, indent=1) + "\n")
    elif grown:
        sys.exit(
            f"more instructions a request than {BASELINE.name} says, by over {tolerance:.0%}: "
            f"{'; '.join(grown)}. If that is meant: benches/instructions.py --write"
        )


if __name__ == "__main__":
    main()
