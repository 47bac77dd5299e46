"""Interpreters, application groups, threads, reloading, and which Python it is."""

import concurrent.futures
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest
from servers import IS_ROOT, PYTHON_HOME, WORKER, Mount

VERSION = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"{}"]
"""


def test_module_state_lasts(site):
    first = site.get("/state").json()
    second = site.get("/state").json()
    assert second["requests"] == first["requests"] + 1
    assert second["pid"] == first["pid"]


def test_thread_local_lasts(server):
    server.start("state.py", threads=1)
    for number in range(1, 6):
        assert json.loads(server.request("/").body)["thread_requests"] == number


def test_thread_local_in_two_interpreters(server):
    # Threads that serve two interpreters keep a state in each of them.
    server.start(
        mounts=[
            Mount("/a", "state.py", "a"),
            Mount("/b", "state.py", "b"),
            Mount("/m", "state.py", "%{GLOBAL}"),
        ],
        threads=1,
    )
    for number in range(1, 4):
        for mount in ("/a", "/b", "/m"):
            assert json.loads(server.request(mount).body)["thread_requests"] == number


@pytest.mark.parametrize(("first", "second", "shared"), [
    ("one", "two", False),
    ("one", "one", True),
    ("%{GLOBAL}", "%{GLOBAL}", True),
    ("%{GLOBAL}", "one", False),
    (None, None, False),
    (None, "%{GLOBAL}", False),
])  # fmt: skip
def test_groups(server, first, second, shared):
    (server.apps / "twin.py").write_text((server.apps / "state.py").read_text())
    server.start(mounts=[Mount("/first", "state.py", first), Mount("/second", "twin.py", second)])
    assert server.get("/first?count=x").json()["shared"] == 1
    assert server.get("/second?count=x").json()["shared"] == (2 if shared else 1)
    assert server.get("/first").json()["pid"] == server.get("/second").json()["pid"]


def check_isolation(site, mounts):
    """What is done at the first of these mounts is invisible at the others, the last of which are new."""
    for mount in mounts[:2]:
        assert not any(site.get(mount).json().values()), mount
    spoilt = site.get(f"{mounts[0]}/spoil").json()
    assert all(spoilt.values()), spoilt
    for mount in mounts[1:]:
        assert not any(site.get(mount).json().values()), mount


def test_groups_do_not_see_each_other(server):
    groups = {"/one": "one", "/two": "two", "/three": "three", "/main": "%{GLOBAL}"}
    server.start(mounts=[Mount(path, "isolation.py", group) for path, group in groups.items()])
    check_isolation(server, list(groups))


def test_one_script_at_two_mounts_by_default(server):
    # %{RESOURCE}: the mount decides.
    server.start(mounts=[Mount("/first", "state.py"), Mount("/second", "state.py")])
    assert [server.get(path).json()["requests"] for path in ("/first", "/second", "/first")] == [1, 1, 2]


def test_names(site):
    seen = site.get("/state").json()
    assert seen["name"].startswith("_mod_wsgi_")
    assert seen["in_modules"]
    assert seen["file"] == str(site.apps / "state.py")
    assert seen["main_module"] == "__main__"
    assert seen["argv"] == ["mod_wsgi"]
    assert seen["encoding"] == "utf-8"


@pytest.mark.skipif(not IS_ROOT, reason="only root's servers change their user")
def test_python_never_runs_as_root(site):
    assert site.get("/state").json()["uid"] == WORKER.pw_uid


def test_virtual_environment(site):
    for mount in ("/state", "/main/state"):
        seen = site.get(f"{mount}?import=flask,django,ssl,sqlite3").json()
        assert seen["prefix"] == PYTHON_HOME
        assert seen["base_prefix"] == sys.base_prefix
        assert seen["executable"].startswith(f"{PYTHON_HOME}/bin/python")
        assert seen["version"] == sys.version
        assert seen["modules"]["flask"].startswith(f"{PYTHON_HOME}/lib/")
        assert "Error" not in str(seen["modules"])
        assert str(site.apps) in seen["path"]


@pytest.fixture(scope="module")
def environment():
    """A virtual environment of its own with a module and a .pth file."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-venv-"))
    folder.chmod(0o755)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], check=True)
    (packages,) = (folder / "venv/lib").glob("python3*/site-packages")
    (packages / "only_here.py").write_text("")
    (folder / "elsewhere").mkdir()
    (folder / "elsewhere" / "by_pth.py").write_text("")
    (packages / "more.pth").write_text(f"{folder}/elsewhere\nimport sys; sys.pth_ran = True\n")
    yield folder / "venv"
    shutil.rmtree(folder)


def test_pth_files(server, environment):
    server.start("state.py", python_home=environment)
    seen = server.get("/?import=only_here,by_pth,flask").json()
    assert seen["prefix"] == str(environment)
    assert seen["modules"]["only_here"].startswith(str(environment))
    assert seen["modules"]["by_pth"].endswith("/elsewhere/by_pth.py")
    assert "ModuleNotFoundError" in seen["modules"]["flask"]


def test_system_python(server):
    server.start("state.py", python_home="/usr")
    seen = server.get("/").json()
    assert (seen["prefix"], seen["base_prefix"]) == ("/usr", "/usr")


def test_without_python_home(server):
    server.start("state.py", python_home=None)
    seen = server.get("/").json()
    assert seen["prefix"] == seen["base_prefix"]
    assert os.path.exists(seen["executable"])


def test_python_path(server):
    folders = [server.root / "one", server.root / "two"]
    for number, folder in enumerate(folders):
        folder.mkdir()
        (folder / "where.py").write_text("")
        (folder / f"only{number}.py").write_text("")
    (folders[1] / "more.pth").write_text(f"{server.root}/three\n")
    (server.root / "three").mkdir()
    (server.root / "three" / "only3.py").write_text("")
    server.write_app("shared.py", "def count(name):\n    return 0\n")
    server.start("state.py", python_path=f"{folders[0]}:{folders[1]}:{server.apps}")
    modules = server.get("/?import=where,only0,only1,only3").json()["modules"]
    assert modules["where"] == str(folders[0] / "where.py")
    assert "Error" not in str(modules)


def test_reloads_a_changed_script(site):
    for mount in ("/edited", "/main/edited"):
        for number in range(3):
            site.write_app("edited.py", VERSION.format(number))
            assert site.get(mount).text == str(number)
            assert site.get(mount).text == str(number)


def test_an_older_mtime_is_a_change_too(site):
    path = site.write_app("edited.py", VERSION.format("new"))
    assert site.get("/edited").text == "new"
    path.write_text(VERSION.format("old"))
    os.utime(path, (1e9, 1e9))
    assert site.get("/edited").text == "old"


def test_reload_under_load_loads_once(server):
    server.write_app("counting.py", "import shared\nshared.count('loads')\nimport time\ntime.sleep(0.2)\n"
                     "from state import application\n")  # fmt: skip
    server.start("counting.py", group="%{GLOBAL}", threads=8)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert {r.status_code for r in pool.map(lambda _: server.get("/"), range(16))} == {200}
        assert server.get("/?count=loads").json()["shared"] == 2
        server.write_app("counting.py", (server.apps / "counting.py").read_text())
        assert {r.status_code for r in pool.map(lambda _: server.get("/"), range(16))} == {200}
        assert server.get("/?count=loads").json()["shared"] == 4


def test_a_slow_import_holds_up_nobody_else(server):
    go = server.root / "go"
    wait = f"print('importing')\nwhile not os.path.exists({str(go)!r}):\n    time.sleep(0.01)\n"
    server.write_app("slow.py", f"import os, time\n{wait}from hello import application\n")
    server.start(mounts=[Mount("/slow", "slow.py", "slow"), Mount("/hello", "hello.py", "hello")])
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        slow = pool.submit(server.get, "/slow")
        server.wait_log("importing")
        for _ in range(20):
            assert server.get("/hello").status_code == 200
        assert not slow.done()
        go.touch()
        assert slow.result().status_code == 200


def test_reloading_off(server):
    server.write_app("version.py", VERSION.format("one"))
    server.start("version.py", reloading=False)
    assert server.get("/").text == "one"
    server.write_app("version.py", VERSION.format("two"))
    assert server.get("/").text == "one"
    server.reload()
    assert server.get("/").text == "two"


def test_graceful_reload_takes_a_new_configuration(server):
    server.start("hello.py")
    assert server.get("/").text == "Hello, World!\n"
    server.configure([Mount("/", "state.py")])
    server.reload()
    assert server.get("/").json()["requests"] == 1


def test_several_processes(server):
    server.start("state.py", processes=2)
    assert server.get("/").json()["pid"] in server.workers()
