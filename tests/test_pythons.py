"""The other Pythons that there is a runtime for, by their own installations."""

import concurrent.futures
import http.client
import json
import os
import pathlib
import re

import pytest
import test_lifecycle
from servers import DIST, KINDS, Mount, wait_for
from test_latency import LIMIT, Spin, check_waits
from test_process import CURE, EXPECTED, FORKS
from test_state import check_isolation

PYENV = pathlib.Path.home() / ".pyenv" / "versions"


def installations():
    """{"3.12": folder} of the newest of each version that has a runtime."""
    found = {}
    for runtime in sorted((DIST / "lib" / "burrow" / "runtime").glob("cpython-3*.so")):
        minor = re.match(r"cpython-3(\d+)-", runtime.name)
        if minor:
            for folder in sorted(PYENV.glob(f"3.{minor[1]}.*")):
                if list(folder.glob("lib/libpython3*.so.1.0")):
                    found[f"3.{minor[1]}"] = folder
    return found


INSTALLATIONS = installations()


@pytest.fixture(
    params=[(kind, version) for version in INSTALLATIONS for kind in KINDS], ids="-".join, scope="module"
)
def running(request):
    kind, version = request.param
    server = KINDS[kind]()
    server.version = version
    server.prefix = INSTALLATIONS[version]
    server.start(
        mounts=[
            Mount("/hello", "hello.py"),
            Mount("/state", "state.py", "one"),
            Mount("/state2", "state.py", "two"),
            Mount("/main", "state.py", "%{GLOBAL}"),
            Mount("/process", "process.py", "one"),
            Mount("/process2", "process.py", "two"),
            Mount("/main/process", "process.py", "%{GLOBAL}"),
            Mount("/spin", "spin.py", "spin"),
            Mount("/environ", "environ.py"),
            Mount("/responses", "responses.py"),
            Mount("/body", "body.py"),
            Mount("/faults", "faults.py"),
            Mount("/asgi", "asgi_app.py", "one"),
            Mount("/asgi2", "asgi_app.py", "two"),
            Mount("/main/asgi", "asgi_app.py", "%{GLOBAL}"),
            Mount("/isolation/one", "isolation.py", "one"),
            Mount("/isolation/two", "isolation.py", "two"),
            Mount("/isolation/three", "isolation.py", "three"),
            Mount("/isolation/main", "isolation.py", "%{GLOBAL}"),
        ],
        python_home=server.prefix,
        threads=8,
    )
    yield server
    server.close()


@pytest.fixture
def site(running, watch):
    return watch(running)


def test_version(site):
    for mount in ("/state", "/main"):
        seen = site.get(f"{mount}?import=ssl,sqlite3,ctypes,decimal").json()
        assert seen["version"].startswith(f"{site.version}.")
        assert seen["prefix"] == str(site.prefix)
        assert "Error" not in str(seen["modules"])


def test_groups(site):
    assert [site.get(f"{mount}?count=x").json()["shared"] for mount in ("/state", "/state2", "/main")] == [
        1,
        1,
        1,
    ]
    for mount in ("/state", "/state2", "/main"):
        before, after = (site.get(mount).json()["requests"] for _ in range(2))
        assert after == before + 1


def test_groups_do_not_see_each_other(site):
    check_isolation(site, [f"/isolation/{group}" for group in ("one", "two", "three", "main")])


def test_answers_and_bodies(site):
    for shape, body in {
        "generator": b"generator",
        "write": b"written twice and returned",
        "bytes": b"whole",
    }.items():
        assert site.get(f"/responses/{shape}").content == body
    assert len(site.get("/responses/file").content) == len(site.get("/responses/large").content)
    assert site.post("/body?do=readline;read,2;read", content=b"ab\ncdefg").json() == ["ab\n", "cd", "efg"]
    assert site.get("/environ/x").json()["strings"]["PATH_INFO"] == "/x"


def test_faults(site):
    for fault in ("raise", "raise-first", "status-3", "headers-6", "body-0", "recursion", "system-exit"):
        site.mark()
        assert site.get(f"/faults/{fault}").status_code == 500
        assert site.log().count("Traceback") <= 1 and "faults.py" in site.log()
    assert site.curl("/faults/late-raise", "--http1.1")[0] in (18, 56)


@pytest.mark.parametrize("mount", ["/asgi", "/asgi2", "/main/asgi"])
def test_asgi(site, mount):
    body = os.urandom(100_000)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        bodies = pool.map(lambda _: site.post(f"{mount}/echo", content=body).content, range(8))
        tasks = pool.map(lambda _: site.request(f"{mount}/tasks").body, range(8))
        assert set(bodies) == {body}
        assert [json.loads(task) for task in tasks] == [["http.request", True, True, True]] * 8
    for path, status in {"silent": 500, "raises": 500, "wrong?newline": 200, "raises_behind": 200}.items():
        assert site.get(f"{mount}/{path}").status_code == status
    assert site.get(f"{mount}/behind").text == "done\n"
    wait_for(lambda: site.get(f"{mount}/told").json()[-1] == "end", "the task's end")
    with site.connect() as connection:
        connection.sendall(b"GET %s/waits HTTP/1.1\r\nHost: a\r\n\r\n" % mount.encode())
        wait_for(lambda: site.get(f"{mount}/told").json()[-1] == "waits", "the request")
    wait_for(lambda: site.get(f"{mount}/told").json()[-1] == "http.disconnect", "http.disconnect")


def test_tasks_of_requests_begin_at_once(site):
    """Before the loop does anything else, where this Python has eager tasks."""

    def order():
        with site.connect() as first, site.connect() as second:
            first.sendall(b"GET /asgi/order HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = http.client.HTTPResponse(first)
            answer.begin()
            assert answer.read(1) == b" "
            second.sendall(b"GET /asgi/begins HTTP/1.1\r\nHost: a\r\n\r\n")
            return json.loads(answer.read())

    # Where the loop hears of something else before the request, it has to be asked once more.
    is_eager = site.version not in ("3.10", "3.11")
    expected = ["begins", "timer"] if is_eager else ["timer", "begins"]
    wait_for(lambda: order() == expected, "the request and the timer")


@pytest.mark.parametrize("mount", ["/process", "/process2", "/main/process"])
def test_the_rest_of_python(site, mount):
    failures = {}
    for what, expected in {**EXPECTED, **FORKS}.items():
        answer = site.get(f"{mount}/{what}", timeout=60).json()
        refused = what in FORKS and CURE.search(answer.get("error", ""))
        if answer != {"ok": expected} and not refused:
            failures[what] = answer
    assert not failures


@pytest.mark.alone
def test_a_spin_in_another_group(site):
    assert site.request("/hello").status == site.request("/spin").status == 200
    with Spin(site, "/spin") as spin:
        check_waits(site, spin, LIMIT)


@pytest.mark.parametrize("version", INSTALLATIONS)
def test_ends(server, version):
    server.start(mounts=test_lifecycle.MOUNTS, python_home=INSTALLATIONS[version])
    for mount in ("/sub", "/main"):
        server.get(f"{mount}/atexit")
        server.get(f"{mount}/thread")
        server.get(f"{mount}/daemon")
    assert server.stop() < 10
    assert test_lifecycle.marks(server) == {
        f"{name}-{mount}" for name in ("first", "second", "thread") for mount in ("sub", "main")
    }
