"""Interpreters with locks of their own, and several of them for one application."""

import concurrent.futures
import json
import os
import pathlib
import re
import sys

import pytest
from servers import KINDS, Mount, wait_for
from test_pythons import INSTALLATIONS
from test_state import check_isolation
from test_worker_limits import SLOW, stacks
from workers import FAILED, TIMEOUT, Worker, request, text

#: The Pythons that there are, with the one that runs the tests.
HOMES = {f"3.{sys.version_info.minor}": pathlib.Path(sys.prefix), **INSTALLATIONS}
#: Those whose interpreters can have a lock each.
VERSIONS = [version for version in HOMES if version not in ("3.10", "3.11")]
#: One where they cannot, and what is said of it.
OLD = HOMES.get("3.11")
needs_an_old_python = pytest.mark.skipif(OLD is None, reason="no Python 3.11")
REFUSAL = "the interpreters of Python 3.11 share one lock"
#: The prefix of a build that can do without its lock.
FREE_THREADED = os.environ.get("BURROW_FREE_THREADED")
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
#: Application groups: with a lock of their own, and with the main interpreter's.
OWN, SHARED = ["one", "two", "three"], ["shared", "beside", "behind"]
OPTIONS = {
    "apache": "WSGIPerInterpreterGIL On\n" + "".join(
        f"<WSGIInterpreterOptions application-group={group}>\nWSGIPerInterpreterGIL Off\n"
        "</WSGIInterpreterOptions>\n" for group in SHARED
    ),
    "nginx": "wsgi_per_interpreter_gil on;" + "".join(
        f"wsgi_interpreter_options application-group={group} {{ wsgi_per_interpreter_gil off; }}"
        for group in SHARED
    ),
}  # fmt: skip


def copies(kind, count, apps):
    """The settings of a server with applications in several interpreters each at /copies and /loops."""
    scripts = {"copies": apps / "meet.py", "loops": apps / "asgi_meet.py"}
    if kind == "nginx":
        location = "location /{} {{ wsgi_pass {}; wsgi_interpreters {}; }}"
        return {"nginx": "".join(location.format(*pair, count) for pair in scripts.items())}
    alias = "WSGIScriptAlias /{} {} interpreters={}\n"
    return {"apache": "".join(alias.format(*pair, count) for pair in scripts.items())}


#: The same in a process group.
IN_A_GROUP = [
    Mount("/group/copies", "meet.py", process="copies"),
    Mount("/group/loops", "asgi_meet.py", process="copies"),
]


def in_groups(prefix, process=None):
    """Applications in application groups of the server's own process, or of a process group."""
    return [
        *(Mount(f"{prefix}/isolation/{group}", "isolation.py", group, process) for group in [*OWN, *SHARED]),
        Mount(f"{prefix}/isolation/main", "isolation.py", "%{GLOBAL}", process),
        *(Mount(f"{prefix}/meet/{group}", "meet.py", group, process) for group in OWN[:2]),
    ]


@pytest.fixture(
    params=[(kind, version) for version in VERSIONS for kind in KINDS], ids="-".join, scope="module"
)
def running(request):
    kind, version = request.param
    server = KINDS[kind]()
    server.start(
        mounts=[
            *in_groups(""),
            *in_groups("/process", "locks"),
            Mount("/faults", "faults.py", "one"),
            Mount("/body", "body.py", "two"),
            *IN_A_GROUP,
        ],
        python_home=HOMES[version],
        threads=8,
        groups={
            "copies": f"python-home={HOMES[version]} interpreters=2 threads=4",
            "locks": f"python-home={HOMES[version]} threads=4",
        },
        **copies(kind, 2, server.apps),
        **{"http" if kind == "nginx" else "main": OPTIONS[kind]},
    )
    yield server
    server.close()


@pytest.fixture
def site(running, watch):
    return watch(running)


def meet(site, *mounts):
    """(has met, requests of its interpreter, group) of requests that run at once."""
    flags = site.data / "flags"
    flags.write_bytes(b"\0\0")
    flags.chmod(0o666)
    urls = [f"{mount}{flags}?{number}" for number, mount in enumerate(mounts)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        answers = [answer.body.decode().split(" ") for answer in pool.map(site.request, urls)]
    return [(int(met), int(served), group) for met, served, group in answers]


@pytest.mark.parametrize("prefix", ["", "/process"])
def test_groups_run_in_parallel(site, prefix):
    (first, _, one), (second, _, two) = meet(site, f"{prefix}/meet/one", f"{prefix}/meet/two")
    assert (first, second, one, two) == (1, 1, "one", "two")


@pytest.mark.parametrize("mount", ["/copies", "/loops", "/group/copies", "/group/loops"])
def test_each_request_goes_to_the_least_busy_copy(site, mount):
    if mount.endswith("/loops"):
        # Whoever imports the copies enters each of them: not while one gives its lock to nobody.
        assert site.get(mount).text == "alone"
    for round in range(1, 4):
        (first, served, _), (second, also_served, _) = meet(site, mount, mount)
        assert (first, second) == (1, 1)
        # One at a time they may all go to one.
        assert served == also_served == round
    log = site.log()
    if site.kind == "nginx" and mount == "/copies":
        assert "(1 of 2) in embedded mode" in log and "(2 of 2) in embedded mode" in log


@pytest.mark.parametrize("prefix", ["", "/process"])
@pytest.mark.parametrize("groups", [OWN, SHARED], ids=["own", "shared"])
def test_groups_do_not_see_each_other(site, groups, prefix):
    check_isolation(site, [f"{prefix}/isolation/{group}" for group in [*groups, "main"]])


@pytest.mark.skipif(not VERSIONS, reason="no Python 3.12 or newer")
@pytest.mark.parametrize("kind", KINDS)
def test_each_copy_has_its_lifespan(fresh, kind):
    server, home = fresh(KINDS[kind]), HOMES[VERSIONS[-1]]
    group = {"copies": f"python-home={home} interpreters=3"}
    server.start(mounts=IN_A_GROUP, groups=group, python_home=home, **copies(kind, 3, server.apps))
    for mount in ("/loops", "/group/loops"):
        assert server.get(mount).text == "alone"
    # httpd's other virtual host may have as many of its own in the process group.
    wait_for(lambda: server.log().count("startup of a copy") >= 6, "six lifespans")
    server.stop()
    assert server.log().count("shutdown of a copy") == server.log().count("startup of a copy")


def test_answers_bodies_and_faults(site):
    assert site.post("/body?do=readline;read", content=b"ab\ncdefg").json() == ["ab\n", "cdefg"]
    assert site.get("/faults/raise").status_code == 500
    assert site.log().count("Traceback") == 1


@needs_an_old_python
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", ["directive", "copies"])
def test_an_old_python_is_refused(fresh, kind, how):
    server = fresh(KINDS[kind])
    directive = {"nginx": "wsgi_per_interpreter_gil on;", "apache": "WSGIPerInterpreterGIL On"}[kind]
    if how == "directive":
        settings = {"http" if kind == "nginx" else "main": directive}
    else:
        settings = copies(kind, "auto", server.apps)
    code, said = server.configtest(python_home=OLD, **settings)
    assert code != 0
    assert re.search(rf"\.conf:\d+: {REFUSAL}: Python 3.12 or newer", said), said


@needs_an_old_python
@pytest.mark.parametrize("kind", KINDS)
def test_an_old_python_of_a_process_group_is_refused(fresh, kind):
    groups = {"shop": f"python-home={OLD} interpreters=2"}
    code, said = fresh(KINDS[kind]).configtest(groups=groups)
    assert code != 0
    assert re.search(rf"\.conf:\d+: .*shop: interpreters=: {REFUSAL}", said), said


def test_copies_are_not_of_the_main_interpreter(nginx):
    code, said = nginx.configtest(
        group="%{GLOBAL}", http="wsgi_interpreters 2;", python_home=sys.prefix
    )
    assert code != 0 and "there is one main interpreter" in said
    code, said = nginx.configtest(group="%{GLOBAL}", http="wsgi_interpreters off;")
    assert code == 0, said


def test_copies_of_a_process_group_are_its_own_option(apache):
    line = "WSGIScriptAlias /x /srv/x.py process-group=shop application-group=x interpreters=2"
    code, said = apache.configtest(groups={"shop": ""}, apache=line)
    assert code != 0 and "write it at the process group's WSGIDaemonProcess" in said


# ---- free threading


@pytest.fixture(params=KINDS, scope="module")
def free_threaded(request):
    if not FREE_THREADED:
        pytest.skip("no free-threaded Python: set BURROW_FREE_THREADED")
    server = KINDS[request.param]()
    directive = {"nginx": "wsgi_free_threading on;", "apache": "WSGIFreeThreading On"}[server.kind]
    server.start(
        mounts=[
            Mount("/meet", "meet.py", "one"),
            Mount("/main", "meet.py", "%{GLOBAL}"),
            Mount("/process", "meet.py", "one", "shop"),
            Mount("/loops/one", "asgi_meet.py", "one"),
            Mount("/loops/two", "asgi_meet.py", "two"),
            Mount("/body", "body.py", "one"),
            Mount("/responses", "responses.py", "one"),
            Mount("/faults", "faults.py", "%{GLOBAL}"),
            Mount("/state", "state.py", "one"),
        ],
        python_home=FREE_THREADED,
        threads=8,
        groups={"shop": f"python-home={FREE_THREADED} threads=4"},
        **{"http" if server.kind == "nginx" else "main": directive},
    )
    yield server
    server.close()


@pytest.mark.parametrize("mount", ["/meet", "/main", "/process"])
def test_threads_of_one_interpreter_run_in_parallel(free_threaded, watch, mount):
    (first, *_), (second, *_) = meet(watch(free_threaded), mount, mount)
    assert (first, second) == (1, 1)


def test_event_loops_of_several_groups_run_in_parallel(free_threaded, watch):
    site = watch(free_threaded)
    for mount in ("/loops/one", "/loops/two"):
        # While an extension module is imported, CPython turns its lock on.
        assert site.get(mount).text == "alone"
    (first, _, one), (second, _, two) = meet(site, "/loops/one", "/loops/two")
    assert (first, second, one, two) == (1, 1, "one", "two")


def test_requests_without_a_lock(free_threaded, watch):
    """Many at once, which share everything but their requests."""
    site = watch(free_threaded)

    def ask(number):
        shape = ("generator", "write", "bytes", "large")[number % 4]
        body = b"ab\n" + b"c" * number
        head = "POST /body?do=readline;read HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        upload = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
        return (
            site.request(f"/responses/{shape}").status,
            json.loads(site.exchange(upload, "POST").body),
            site.request("/faults/raise").status,
        )

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for number, answer in enumerate(pool.map(ask, range(200))):
            assert answer == (200, ["ab\n", "c" * number], 500)


def test_a_threads_state_stays(free_threaded, watch):
    site = watch(free_threaded)
    seen = [site.get("/state").json() for _ in range(8)]
    assert [each["requests"] for each in seen] == list(range(1, 9))
    assert "free-threading build" in seen[0]["version"]


# ---- daemon mode


@pytest.fixture(params=VERSIONS)
def worker(request):
    if (HOMES[request.param] / "lib" / f"python{request.param}t").exists() or not GIL:
        pytest.skip("the manager starts copies with their locks, and here there is none")
    made = Worker(python=HOMES[request.param] / "bin" / "python3")
    made.version = request.param
    (made.apps / "slow.py").write_text(SLOW)
    yield made
    made.close()


def test_copies_in_a_process_group(worker):
    worker.start("meet.py", threads=4, copies=2)
    flags = worker.root / "flags"
    flags.write_bytes(b"\0\0")
    with worker.connect() as one, worker.connect() as other:
        for number, connection in enumerate((one, other)):
            connection.send(request(worker.target("meet.py"), str(flags), QUERY_STRING=str(number)))
        assert [connection.answer().body for connection in (one, other)] == [b"1 1 "] * 2
    assert worker.log().count("Python 3.12 cannot import parts") == (2 if worker.version == "3.12" else 0)


def test_interruption_and_stacks_of_copies(worker):
    worker.start("slow.py", threads=3, copies=2, request_timeout=1, interrupt_timeout=5)
    with worker.connect() as one, worker.connect() as other:
        for connection in (one, other):
            connection.send(request(worker.target("slow.py"), "/python"))
        title = r"\nThread \d+ \(burrow:\d\), serving GET /python for [\d.]+ s:\n"
        stack = re.compile(title + r'(  .*\n)*  File ".*/slow.py", line \d+, in application\n')
        wait_for(lambda: len(stack.findall(stacks(worker))) == 2, "both requests in the stacks")
        assert [connection.answer().abort for connection in (one, other)] == [TIMEOUT] * 2
    for _ in range(2):
        assert b"interrupted" in worker.get("slow.py").body


def test_a_copy_whose_lock_is_not_given_back_ends_the_process(worker):
    worker.start("slow.py", threads=3, copies=2, deadlock_timeout=1)
    with worker.connect() as connection:
        connection.send(request(worker.target("slow.py"), "/gil"))
        assert worker.wait() == 1
    assert "nobody can enter Python any more" in worker.log()


def test_copies_end(worker):
    worker.start("slow.py", copies=3)
    worker.get("slow.py")
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0
    assert worker.log().count("<process_stopping shutdown_signal>") == 3


#: How many interpreters there are.
COUNT = """
try:
    from _interpreters import list_all
except ImportError:
    from _xxsubinterpreters import list_all

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % len(list_all())]
"""


@pytest.mark.parametrize("own_gil", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("version", HOMES)
def test_an_interpreter_that_cannot_be_set_up_is_ended(version, own_gil):
    if own_gil and (version not in VERSIONS or not GIL):
        pytest.skip(f"Python {version} has but one lock, or none")
    worker = Worker(python=HOMES[version] / "bin" / "python3")
    try:
        broken = worker.root / "broken"
        broken.touch()
        line = f"import os, sys; os.path.exists({str(broken)!r}) and sys.exit('not yet')\n"
        (worker.root / "check.pth").write_text(line)
        (worker.apps / "count.py").write_text(COUNT)
        options = {"application_group": text("other"), "paths": [text(worker.root)], "own_gil": own_gil}
        worker.start("count.py", interpreters=[options])
        assert worker.get("count.py").body == b"1"
        for _ in range(10):
            assert worker.get("count.py", group="other").abort == FAILED
        assert worker.log().count("not yet") == 10
        assert worker.get("count.py").body == b"1"
        broken.unlink()
        assert worker.get("count.py", group="other").body == worker.get("count.py").body == b"2"
    finally:
        worker.close()
