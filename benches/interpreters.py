"""What interpreters with locks of their own and free threading are worth in one process, and what they cost.

On a machine that does other things, too, its processors are not the process's own. So beside the throughput
stands what it would be with processors to itself: requests for each second of processor time, times the
processors that the process would have used at once (its threads' time on a processor or waiting for one).
"""

import argparse
import contextlib
import http.client
import os
import pathlib
import statistics
import subprocess
import sys
import threading
import time

from load import descriptors, h2load, judge, summary
from servers import HERE, MODULES, Server, status_kib

#: About 20 ms of pure Python.
CPU = """
def application(environ, start_response):
    total = 0
    for number in range(400_000):
        total += number
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"%d" % total]
"""
#: So slow where it is asked to that each of many requests gets a copy.
HELLO = """
import time

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        time.sleep(0.2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
FLASK = """
import flask
application = flask.Flask(__name__)

@application.get("/hello")
def hello():
    return "hello"
"""


@contextlib.contextmanager
def nginx(options, home, locations, http=""):
    """An nginx of one process with these locations: {path: (script, directives)}."""
    server = Server("nginx", options.port)
    # What the server is asked for until it answers.
    lines = [] if "/" in locations else ["location = /hello { return 200 hello; }"]
    for path, (text, directives) in locations.items():
        script = server.folder / f"{path.strip('/')}.py"
        script.write_text(text)
        lines.append(f"location {path} {{ wsgi_pass {script}; wsgi_script_reloading off; {directives} }}")
    module = f"load_module {MODULES / 'ngx_http_burrow_module.so'};"
    with server.nginx("\n".join(lines), http=f"wsgi_python_home {home}; {http}", main=module):
        yield server


def threads_time(pid):
    """Seconds that the process's threads were on a processor, and that they were or waited for one."""
    run = wait = 0
    for file in pathlib.Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            running, waiting, _ = map(int, file.read_text().split())
            run, wait = run + running, wait + waiting
    return run / 1e9, (run + wait) / 1e9


class Throughput:
    """Requests from so many clients for each path, as long as `seconds`."""

    def __init__(self, server, paths, clients, seconds):
        self.counts = dict.fromkeys(paths, 0)
        (worker,) = server.workers()
        self.end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=self.ask, args=(server.port, path))
            for path in paths
            for _ in range(clients)
        ]
        run, wanted = threads_time(worker)
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        took = time.monotonic() - began
        after = threads_time(worker)
        run, wanted = after[0] - run, after[1] - wanted
        self.measured = sum(self.counts.values()) / took
        self.undisturbed = sum(self.counts.values()) / run * (wanted / took)

    def ask(self, port, path):
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while time.monotonic() < self.end:
            connection.request("GET", path)
            assert connection.getresponse().read()
            self.counts[path] += 1
        connection.close()


def compare(title, options, start, one, other, floor):
    """The second of two runs as a multiple of the first, taken in turns, each pair in a server of its own:
    where the interpreters' memory happens to lie is worth some percent."""
    rounds = []
    for _ in range(options.rounds):
        with start() as server:
            # Until all is imported, and then for what it is worth.
            for seconds in (1, options.seconds):
                pair = Throughput(server, *one, seconds), Throughput(server, *other, seconds)
            rounds.append(pair)
    measured = statistics.median(second.measured / first.measured for first, second in rounds)
    alone = statistics.median(second.undisturbed / first.undisturbed for first, second in rounds)
    print(f"{title}: {measured:.2f} times as measured, {alone:.2f} undisturbed (floor {floor})", flush=True)


def copies(options):
    locations = {f"/{number}": (CPU, f"wsgi_interpreters {number};") for number in (1, 2)}
    start = lambda: nginx(options, options.python_home, locations)  # noqa: E731
    # As many clients for each copy: who waits for a lock looks again and again, and counts as busy.
    compare("interpreters=2 against interpreters=1", options, start, (["/1"], 2), (["/2"], 4), 1.85)


def groups(options):
    locations = {f"/{name}": (CPU, f"wsgi_application_group {name};") for name in ("one", "two")}
    directive = "wsgi_per_interpreter_gil on;"
    start = lambda: nginx(options, options.python_home, locations, directive)  # noqa: E731
    compare("two groups against one of them alone", options, start, (["/one"], 2), (locations, 2), 1.9)


def free_threading(options):
    if not options.free_threaded:
        return
    location = {"/cpu": (CPU, "wsgi_threads 8;")}
    start = lambda: nginx(options, options.free_threaded, location, "wsgi_free_threading on;")  # noqa: E731
    compare("free-threaded, 8 clients against 1", options, start, (location, 1), (location, 8), 1.7)


def with_flask(home):
    """A virtual environment of this Python's that has Flask, made if there is none yet."""
    python = max(pathlib.Path(home, "bin").glob("python3.1[0-9]"))
    folder = HERE.parent / "target/bench" / f"flask-{python.name}"
    if not list(folder.glob("lib/python3*/site-packages/flask")):
        subprocess.run([python, "-m", "venv", folder], check=True)
        versions = ["--constraint", HERE / "requirements.txt"]
        subprocess.run([folder / "bin/pip", "install", "--quiet", *versions, "Flask"], check=True)
    return folder


def memory(options):
    """What one more interpreter with Flask takes, and what one more process does, of its own."""

    def private(server):
        """KiB that only this process has."""
        (worker,) = server.workers()
        lines = pathlib.Path(f"/proc/{worker}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Private"))

    home = options.flask_home or with_flask(options.python_home)
    taken = {}
    for number in (1, 5):
        with nginx(options, home, {"/": (FLASK, f"wsgi_interpreters {number};")}) as server:
            Throughput(server, ["/hello"], 1, 0.1)
            with contextlib.ExitStack() as stack:
                # All copies at once, so that each has to be made.
                for _ in range(number):
                    thread = threading.Thread(target=Throughput, args=(server, ["/hello"], 4, 2))
                    thread.start()
                    stack.callback(thread.join)
            taken[number] = private(server)
    each = (taken[5] - taken[1]) / 4
    print(f"Flask: one more interpreter: {each / 1024:.1f} MiB, one more process: {taken[1] / 1024:.1f} MiB")


def newest():
    """The prefix of a Python whose interpreters can have locks of their own, and that has a runtime."""
    runtimes = {path.name.split("-")[1] for path in (MODULES / "runtime").glob("cpython-*.so")}
    homes = [pathlib.Path("/usr"), *pathlib.Path.home().glob(".pyenv/versions/3.*")]
    found = []
    for home in homes:
        for library in (home / "lib").glob("python3.1[2-9]"):
            if library.name.replace("python", "").replace(".", "") in runtimes:
                found.append((library.name, home))
    return max(found)[1] if found else None


def soak(options):
    """Requests spread over 8 interpreters: none fails, and memory stays."""
    locations = {"/": (HELLO, "wsgi_interpreters 8; wsgi_threads 16;")}
    with nginx(options, options.python_home, locations) as server:
        (worker,) = server.workers()
        Throughput(server, ["/slow"], 16, 5)
        failed = h2load(server, "/hello", options.requests // 10)
        memory, files = status_kib(worker, "VmRSS"), descriptors(worker)
        failed += h2load(server, "/hello", options.requests - options.requests // 10)
        judge(server.name, f"{options.requests:,} requests over 8 interpreters: failed", failed, 0)
        judge(server.name, "workers that were replaced", int(server.workers() != [worker]), 0)
        growth = status_kib(worker, "VmRSS") - memory
        judge(server.name, "growth of the worker's memory", growth, 4096, " KiB")
        judge(server.name, "more descriptors in the worker", descriptors(worker) - files, 0)


def soak_part(name, options):
    """As a part of the soak, which knows no Python but the system's."""
    home = options.python_home or newest()
    if name == "nginx" and home is None:
        print("several interpreters: left out, there is no Python 3.12 or newer")
    elif name == "nginx":
        requests = 2 * options.requests
        soak(argparse.Namespace(port=options.port, python_home=home, requests=requests))


PARTS = {
    "copies": copies,
    "groups": groups,
    "free-threading": free_threading,
    "memory": memory,
    "soak": soak,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=18091)
    parser.add_argument("--python-home", default=newest(), help="a Python 3.13 or newer")
    parser.add_argument("--flask-home", help="one that has Flask (a virtual environment is made)")
    parser.add_argument(
        "--free-threaded",
        default=os.environ.get("BURROW_FREE_THREADED"),
        help="a free-threaded Python (BURROW_FREE_THREADED; without, that part is left out)",
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)} (all of them)")
    options = parser.parse_args()
    for part in options.parts or PARTS:
        PARTS[part](options)
    sys.exit(not summary())


if __name__ == "__main__":
    main()
