"""How many instructions one hello request takes in a server's process, under callgrind.

It is the same on every run, so that what grows is seen long before it can be measured in time. Compares with
instructions.json, or writes it.
"""

import argparse
import json
import pathlib
import re
import sys

from load import h2load
from servers import HERE, Server

BASELINE = HERE / "instructions.json"
#: Compilers, servers and Pythons of other machines differ a little.
TOLERANCE = 0.1
FEW, MANY = 100, 1100
CASES = {
    "nginx, WSGI": lambda server: server.burrow_nginx(),
    "nginx, ASGI": lambda server: server.asgi().burrow_nginx(),
    "httpd, WSGI": lambda server: server.burrow_httpd(),
    "httpd, ASGI": lambda server: server.asgi().burrow_httpd(),
}


def total(configure, requests, port):
    """Of the worker process's whole life."""
    server = configure(Server("callgrind", port))
    folder = pathlib.Path(server.folder)
    server.pin = ["valgrind", "-q", "--tool=callgrind", f"--callgrind-out-file={folder}/callgrind.%p"]
    # The worker writes its counts, and is not root.
    folder.chmod(0o777)
    with server:
        (worker,) = server.workers()
        if h2load(server, "/hello", requests, connections=1):
            sys.exit("requests have failed")
        server.stop()
        counts = (folder / f"callgrind.{worker}").read_text()
    return int(re.search(r"^totals: (\d+)", counts, re.M).group(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="make these the figures to compare with")
    parser.add_argument("--port", type=int, default=18082)
    parser.add_argument("only", nargs="*", help="count only the cases with this in their name")
    options = parser.parse_args()
    known = json.loads(BASELINE.read_text()) if BASELINE.exists() else {}
    counted, grown = {}, []
    for name, configure in CASES.items():
        if options.only and not any(word in name for word in options.only):
            continue
        few, many = (total(configure, requests, options.port) for requests in (FEW, MANY))
        counted[name] = (many - few) // (MANY - FEW)
        before = known.get(name, counted[name])
        change = counted[name] / before - 1
        print(f"{name:12} {counted[name]:>8,} instructions a request ({change:+.1%})", flush=True)
        if counted[name] > before * (1 + TOLERANCE):
            grown.append(name)
    if options.write:
        BASELINE.write_text(json.dumps({**known, **counted}, indent=1) + "\n")
    elif grown:
        sys.exit(f"more instructions than {BASELINE.name} says, by over {TOLERANCE:.0%}: {', '.join(grown)}. "
                 "If that is meant: benches/instructions.py --write")  # fmt: skip


if __name__ == "__main__":
    main()
