"""preload=on: the applications are imported once, and the processes of a group forked from there."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import pwd
import re
import signal

import psutil
import pytest
from daemons import await_daemons, burrow, daemons
from servers import IS_ROOT, Mount, wait_for
from test_manager import manager, successor
from test_pythons import INSTALLATIONS
from test_reload import Load

OTHER = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root's servers change their user")

#: Counts imports in a file, and says in which process it was imported.
COUNTED = """
import gc
with open({log!r}, "a") as log:
    log.write("%d\\n" % os.getpid())
IMPORTED_IN = os.getpid()
FORKS = []
os.register_at_fork(after_in_child=lambda: FORKS.append(os.getpid()))


def answer_import(environ, start_response, query):
    start_response("200 OK", PLAIN)
    frozen, forked = gc.get_freeze_count() > 1000, FORKS[-1] if FORKS else 0
    facts = IMPORTED_IN, frozen, forked, environ["mod_wsgi.server_pid"], os.getsid(0), os.getpid()
    return [" ".join(str(int(fact)) for fact in facts).encode()]
"""


def source(server, version="one", extra=""):
    text = (server.apps / "daemon.py").read_text().replace('VERSION = "one"', f'VERSION = "{version}"')
    text += COUNTED.format(log=str(server.data / "imports"))
    return server.write_app("shop.py", text + extra)


def start(server, options="processes=2", extra="", **settings):
    source(server, extra=extra)
    mounts = [Mount("/", "shop.py", process="shop")]
    server.start(mounts=mounts, groups={"shop": f"preload=on {options}"}, threads=16, **settings)
    count = int(options.split("processes=")[1].split()[0])
    server.wait_log(f"'shop': {count} new processes serve")
    return await_daemons(server, "shop", count)


def imports(server):
    """In which processes the application was imported."""
    return [int(pid) for pid in (server.data / "imports").read_text().split()]


def test_imported_once(server):
    """In a process that the others are forked from, and each of them is one like any other."""
    workers = start(server, "processes=3")
    (template,) = imports(server)
    assert template not in workers
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [answer.text for answer in clients.map(server.get, ["/import"] * 40)]
    for answer in answers:
        imported_in, frozen, *pids = map(int, answer.split())
        assert (imported_in, frozen) == (template, 1)
        assert len(set(pids)) == 1 and pids[0] in workers
    facts = server.get("/facts").json()
    assert int(facts["status"]["SigBlk"], 16) == 0 and facts["status"]["Threads"] != "1"
    told = burrow(server, "status").stdout
    assert re.search(rf"{template} +template", told) and told.count("ready") == 3
    assert f"Process {min(workers)} of process group" in burrow(server, "stacks", "shop").stdout


def test_one_that_dies_is_forked_again(server):
    workers = start(server)
    server.crash = None
    victim = min(workers)
    with Load(server, "/pid") as load:
        os.kill(victim, signal.SIGSEGV)
        after = await_daemons(server, "shop", 2, without=[victim])
    assert len(load.failures) <= 4  # what it was serving
    assert len(after & workers) == 1 and len(imports(server)) == 1
    server.wait_log(f"process {victim} was ended by SIGSEGV")


def test_the_one_that_others_are_forked_from_dies(server):
    """The next one that is missing is forked from another one."""
    workers = start(server)
    (template,) = imports(server)
    server.crash = None
    with Load(server, "/pid") as load:
        os.kill(template, signal.SIGKILL)
        server.wait_log(f"process {template} was ended by SIGKILL, from which the others are forked")
    assert not load.failures and daemons(server, "shop", serving=True) == workers
    os.kill(min(workers), signal.SIGUSR1)
    await_daemons(server, "shop", 2, without=[min(workers)])
    assert len(imports(server)) == 2


@pytest.mark.parametrize("how", ["touch", "command", "signal", "reload"])
def test_new_code(server, how):
    """It is imported once for all the processes, and nobody notices but for the new code."""
    options = "processes=2 restart-on-reload=on"
    before = start(server, options)
    (template,) = imports(server)
    source(server, "two")
    with Load(server, "/version") as load:
        if how == "command":
            burrow(server, "restart", "shop")
        elif how == "reload":
            server.kill(server.reload_signal)
        elif how == "signal":
            for pid in before:
                os.kill(pid, signal.SIGUSR1)
        await_daemons(server, "shop", 2, without=before)
        wait_for(lambda: server.get("/version").text == "two", "the new code")
    assert not load.failures, load.failures[:3]
    wait_for(lambda: not psutil.pid_exists(template) or is_zombie(template), "the end of the old one")
    # A replacement for a signal may come from the old one before the change is noticed, the others after it.
    assert len(imports(server)) <= (3 if how in ("reload", "command") else 2)


def is_zombie(pid):
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return True


def test_new_code_that_does_not_import(server):
    before = start(server)
    source(server, extra="\nimport no_such_module_here\n")
    with Load(server, "/version", clients=1) as load:
        server.wait_log("the processes from before go on")
        assert daemons(server, "shop", serving=True) == before
        source(server, "two")
        await_daemons(server, "shop", 2, without=before)
    assert not load.failures, load.failures[:3]
    assert server.get("/version").text == "two"


THREADS = {
    "python": ("import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), name='refresher', "
               "daemon=True).start()\n", "refresher"),
    "library": ("import ctypes\nlibc, thread = ctypes.CDLL(None), ctypes.c_ulong()\n"
                "libc.pthread_create(ctypes.byref(thread), None, libc.pause, None)\n",
                "one of a library written in C"),
}  # fmt: skip


@pytest.mark.parametrize("kind", THREADS)
def test_threads_stand_in_the_way(server, kind):
    """The log names them, and the processes are started as without it."""
    extra, name = THREADS[kind]
    start(server, extra=extra)
    line = server.wait_log("preload=on is not possible")
    assert "threads after the import" in line and name in line
    assert server.get("/pid").status_code == 200
    wait_for(lambda: len(imports(server)) == 3, "an import in vain and one in each process")
    template, *others = imports(server)
    workers = await_daemons(server, "shop", 2, without={template})
    assert workers == set(others)
    # The next code may be better.
    source(server, "two")
    server.get("/version")
    workers = await_daemons(server, "shop", 2, without=workers)
    wait_for(lambda: server.get("/version").text == "two", "the new code")
    assert len(imports(server)) == 4 and not workers & set(imports(server))


ASGI = """
import asyncio, json, os
IMPORTED_IN = os.getpid()

async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        scope["state"].update(begun=os.getpid(), loop=id(asyncio.get_running_loop()))
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("shut down in", os.getpid(), flush=True)
        return await send({"type": "lifespan.shutdown.complete"})
    same = scope["state"]["loop"] == id(asyncio.get_running_loop())
    pids = [IMPORTED_IN, scope["state"]["begun"], os.getpid()]
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": json.dumps([same, *pids]).encode()})
"""


def test_event_loops_begin_behind_the_fork(server):
    """With a lifespan in each process, beside a WSGI application."""
    server.write_app("loop.py", ASGI)
    apps = {"/": "loop.py", "/wsgi": "hello.py"}
    mounts = [Mount(path, app, "%{GLOBAL}", "shop") for path, app in apps.items()]
    server.start(mounts=mounts, groups={"shop": "preload=on processes=2 threads=2"}, threads=16)
    workers = await_daemons(server, "shop", 2)
    with concurrent.futures.ThreadPoolExecutor(8) as clients:
        answers = [json.loads(answer.text) for answer in clients.map(server.get, ["/"] * 40)]
    (template,) = {imported_in for _, imported_in, *_ in answers}
    assert template not in workers
    for same, _, begun, pid in answers:
        assert same and begun == pid and pid in workers
    assert server.get("/wsgi").status_code == 200
    server.stop()
    for pid in {pid for *_, pid in answers}:
        server.wait_log(f"shut down in {pid}")


def test_a_thread_that_has_ended_is_no_hindrance(server):
    start(server, extra="import concurrent.futures\nwith concurrent.futures.ThreadPoolExecutor(8) as pool:\n"
                        "    list(pool.map(str, range(100)))\n")  # fmt: skip
    assert len(imports(server)) == 1


def test_several_interpreters_are_refused(server):
    mounts = [Mount("/a", "hello.py", process="shop"), Mount("/b", "daemon.py", process="shop")]
    if server.kind == "nginx":
        code, said = server.configtest(mounts=mounts, groups={"shop": "preload=on"})
        assert code != 0 and "preload=on needs one interpreter" in said and ".conf:" in said
        return
    # httpd knows them when it starts.
    server.start(mounts=mounts, groups={"shop": "preload=on"})
    server.wait_log("preload=on is not possible: its applications have several interpreters")
    assert server.get("/a").status_code == server.get("/b/pid").status_code == 200


def test_several_applications_in_one_interpreter(server):
    source(server)
    mounts = [Mount("/a", "hello.py", "%{GLOBAL}", "shop"), Mount("/b", "shop.py", "%{GLOBAL}", "shop")]
    server.start(mounts=mounts, groups={"shop": "preload=on processes=2"})
    await_daemons(server, "shop", 2)
    assert server.get("/a").status_code == server.get("/b/pid").status_code == 200
    assert len(imports(server)) == 1


def test_the_manager_is_killed(server):
    """The processes serve on; one that dies then is forked from a new one."""
    workers = start(server)
    server.crash = None
    (template,) = imports(server)
    first = manager(server)
    with Load(server, "/pid") as load:
        first.kill()
        successor(server, first)
        wait_for(lambda: is_zombie(template), "the end of the old one's")
    assert not load.failures and daemons(server, "shop", serving=True) == workers
    os.kill(min(workers), signal.SIGKILL)
    after = await_daemons(server, "shop", 2, without=[min(workers)])
    (forked,) = after - workers
    wait_for(lambda: len(imports(server)) == 2, "another import")
    assert psutil.Process(forked).ppid() == manager(server).pid


def test_nothing_is_left(server):
    start(server)
    server.reload()
    assert server.get("/pid").status_code == 200
    server.stop()


@as_root
def test_user_limits_and_the_like(server):
    home = server.root / "home"
    home.mkdir()
    options = f"user=nobody home={home} umask=0027 cpu-priority=5 memory-limit=4000000000 display-name=shop"
    server.data.chmod(0o777)
    start(server, f"processes=1 {options}")
    seen = server.get("/facts").json()
    assert (seen["uid"], seen["cwd"], seen["umask"], seen["nice"]) == (OTHER.pw_uid, str(home), 0o027, 5)
    assert seen["limits"]["RLIMIT_DATA"] == 4_000_000_000
    assert seen["command"].rstrip("\0 ") == "shop"


def test_memory_is_shared(server):
    """What is imported is there once."""
    extra = "\nDATA = [[number] for number in range(500_000)]\n"
    workers = start(server, "processes=3", extra=extra)
    for _ in range(30):
        assert server.get("/pid").status_code == 200

    def private(pid):
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        return sum(int(size) for size in re.findall(r"Private_\w+: +(\d+) kB", text))

    assert all(private(pid) < 20_000 for pid in workers), [private(pid) for pid in workers]


@pytest.mark.parametrize("version", INSTALLATIONS)
def test_in_each_python(nginx, version):
    workers = start(nginx, f"processes=2 python-home={INSTALLATIONS[version]}")
    (template,) = imports(nginx)
    imported_in, frozen, *pids = map(int, nginx.get("/import").text.split())
    assert (imported_in, frozen) == (template, 1)
    assert len(set(pids)) == 1 and pids[0] in workers
    os.kill(pids[0], signal.SIGTERM)
    await_daemons(nginx, "shop", 2, without=[pids[0]])
    assert len(imports(nginx)) == 1
