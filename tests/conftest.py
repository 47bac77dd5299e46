"""Fixtures: `server` is a fresh one for the test to start, `site` one that many tests share."""

import concurrent.futures
import contextlib
import pathlib
import resource
import shutil
import tempfile

import pytest
import servers
from servers import KINDS, Mount
from workers import Worker

#: What `site` serves. Every application has a group of its own, and /main/… is the main interpreter.
SITE = [
    "hello", "environ", "body", "responses", "faults", "logs", "process", "state", "edited", "flask_app",
    "validated", "spin",
]  # fmt: skip


def pytest_configure(config):
    servers.adopt_orphans()
    resource.setrlimit(resource.RLIMIT_CORE, (resource.getrlimit(resource.RLIMIT_CORE)[1],) * 2)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        for server in getattr(item, "servers", []):
            server.keep = True
            report.sections.extend(server.logs())
    return report


@pytest.fixture(scope="module")
def open_folder():
    """A folder that servers' workers can enter, unlike those of tmp_path."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-open-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fresh(request):
    """Makes a server of a class, for the test to start; it is closed behind the test."""
    request.node.servers = made = []

    def make(kind):
        made.append(kind())
        return made[-1]

    yield make
    with contextlib.ExitStack() as stack:
        for server in made:
            stack.callback(server.close)


@pytest.fixture(params=list(KINDS))
def server(request, fresh):
    """Either server, not started yet."""
    return fresh(KINDS[request.param])


@pytest.fixture
def nginx(fresh):
    return fresh(servers.Nginx)


@pytest.fixture
def apache(fresh):
    return fresh(servers.Apache)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def tls(request):
    """Whether the client's connection is one."""
    return request.param


@pytest.fixture
def watch(request):
    """Takes a server that runs for many tests: its log begins with this one, and is checked behind it."""
    request.node.servers = watched = []

    def take(server):
        watched.append(server)
        server.mark()
        return server

    yield take
    for server in watched:
        server.check_log()


def start_site(kind):
    mounts = []
    for name in SITE:
        unbuffered = "wsgi_request_buffering off;"
        mounts.append(Mount(f"/{name}", f"{name}.py", group=name))
        mounts.append(Mount(f"/main/{name}", f"{name}.py", group="%{GLOBAL}"))
        if name == "body":
            mounts.append(Mount("/stream", "body.py", group="body", nginx=unbuffered))
    return KINDS[kind]().start(mounts=mounts, threads=8)


@pytest.fixture(scope="session")
def sites():
    """The shared servers by kind, started when they are first asked for."""
    running = {}
    yield running
    for made in running.values():
        made.close()


@pytest.fixture(params=list(KINDS))
def site(request, sites, watch):
    """Either server, running, with the applications of SITE; its log begins with the test."""
    made = sites.get(request.param)
    if made is None or made.process.poll() is not None:
        made = sites[request.param] = start_site(request.param)
    return watch(made)


@pytest.fixture(scope="module")
def started():
    """The servers of a module by kind, see `shop`."""
    running = {}
    yield running
    with contextlib.ExitStack() as stack:
        for made in running.values():
            stack.callback(made.close)


@pytest.fixture(params=list(KINDS))
def shop(request, started, watch):
    """Either server, running, as the module's `start(server)` starts it; its log begins with the test."""
    if request.param not in started:
        started[request.param] = KINDS[request.param]()
        request.module.start(started[request.param])
    return watch(started[request.param])


@pytest.fixture
def clients():
    """Runs what waits for answers beside the test."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield pool


@pytest.fixture
def worker():
    """A daemon worker without a server, not started yet."""
    made = Worker()
    yield made
    made.close()
