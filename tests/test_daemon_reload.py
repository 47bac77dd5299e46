"""Replacing the processes of a group: nobody notices but for the new code."""

import contextlib
import itertools
import os
import pathlib
import re
import signal

import pytest
from daemons import await_daemons, burrow, daemons
from servers import Mount, wait_for
from test_reload import Load

TURNS = 3


def chosen_slice():
    """What the kernel chooses for a thread, in ns; None: it does not tell, since no other can be had."""
    found = re.search(r"se\.slice *: *(\d+)", pathlib.Path("/proc/self/sched").read_text())
    return found and int(found[1])


def may_choose_slices():
    priority = os.nice(0)
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, priority - 1)
        os.setpriority(os.PRIO_PROCESS, 0, priority)
        return chosen_slice() is not None
    return False


def start(server, options="processes=2", app="daemon.py"):
    server.write_app("shop.py", (server.apps / app).read_text())
    server.start(mounts=[Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups={"shop": options}, threads=16)
    count = int(options.split("processes=")[1].split()[0])
    # One that takes connections may not have told the manager yet, who would not miss it.
    server.wait_log(f"'shop': {count} new processes serve")
    return await_daemons(server, "shop", count)


def change(server, version, extra=""):
    text = (server.apps / "daemon.py").read_text()
    return server.write_app("shop.py", text.replace('VERSION = "one"', f'VERSION = "{version}"') + extra)


def by_server(server):
    server.kill(server.reload_signal)


def by_touch(server):
    change(server, "one")


def by_command(server):
    burrow(server, "restart", "shop")


def by_signal(server):
    for pid in daemons(server, "shop"):
        with contextlib.suppress(ProcessLookupError):  # one that has been replaced
            os.kill(pid, signal.SIGUSR1)


@pytest.mark.parametrize("how", [by_server, by_touch, by_command, by_signal])
def test_loses_nothing(server, how):
    """At constant load, on new connections and with bodies, time after time."""
    before = start(server, "processes=2 restart-on-reload=on")
    with Load(server, "/pid") as load, Posts(server, "/echo", clients=2) as posts:
        for _ in range(TURNS):
            how(server)
            before = await_daemons(server, "shop", 2, without=before, timeout=20)
            answered = load.answered
            wait_for(lambda answered=answered: load.answered > answered + 20, "requests")
    assert not load.failures, load.failures[:3]
    assert not posts.failures, posts.failures[:3]
    assert daemons(server, "shop", serving=True) == before


class Posts(Load):
    """Clients that send bodies, each on a connection of its own: a server that reloads may close a kept one
    just when the next request is on its way, and a client must not send a POST again."""

    def run(self):
        for number in itertools.count():
            if self.stop.is_set():
                return
            body = b"%d\n" % number * 10_000
            try:
                response = self.server.post(self.path, content=body, headers={"Connection": "close"})
                if (response.status_code, response.content) != (200, body):
                    self.failures.append(response)
            except Exception as error:
                self.failures.append(error)
            self.answered += 1


ALONE = """
import fcntl, time
with open({lock!r}, "w") as lock:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    time.sleep(0.1)
"""


def test_imports_leave_processors_to_those_who_serve(server):
    """Half of them, but one at least: of a machine that has one, new processes import one after the other."""
    all_of_them = os.sched_getaffinity(0)
    os.sched_setaffinity(0, [min(all_of_them)])
    try:
        before = start(server, "processes=3")
    finally:
        os.sched_setaffinity(0, all_of_them)
    change(server, "two", ALONE.format(lock=str(server.data / "lock")))
    assert server.get("/version").status_code == 200
    await_daemons(server, "shop", 3, without=before)
    assert "BlockingIOError" not in server.log()


PRIORITIES = """
import json, os, pathlib, re, signal, subprocess, threading

def of(thread):
    found = re.search(r"se\\.slice *: *(\\d+)", pathlib.Path(f"/proc/{thread}/sched").read_text())
    return int(found[1]), os.getpriority(os.PRIO_PROCESS, thread)

def session():
    try:
        return pathlib.Path("/proc/self/autogroup").read_text().split()[-1]
    except FileNotFoundError:
        return None

imported, session_then = of(os.getpid()), session()
children = [subprocess.Popen(["sleep", "60"], start_new_session=alone).pid for alone in (False, True)]
# A daemon's parent has ended, and it leads neither its session nor its group.
daemon = ["setsid", "sh", "-c", "sleep 60 >/dev/null & echo $!"]
children.append(int(subprocess.run(daemon, stdout=subprocess.PIPE, check=True).stdout))
threads = [threading.Thread(target=threading.Event().wait, daemon=True) for _ in range(3)]
for thread in threads:
    thread.start()

def application(environ, start_response):
    threads = map(int, os.listdir("/proc/self/task"))
    now = {of(thread) for thread in [*threads, *children]}
    for child in children[1:]:
        os.kill(child, signal.SIGKILL)
    start_response("200 OK", [])
    return [json.dumps([imported, session_then, sorted(now), session()]).encode()]
"""


@pytest.mark.skipif(not may_choose_slices(), reason="needs root and Linux 6.12")
def test_imports_give_way_to_those_who_serve(server):
    """With the least weight and the longest slices; nobody has these afterwards, nor what was started."""
    server.write_app("shop.py", PRIORITIES)
    server.start(mounts=[Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups={"shop": "processes=1"})
    before = await_daemons(server, "shop", 1)
    imported, session_then, now, session = server.get("/").json()
    assert imported == now[0] == [chosen_slice(), os.nice(0)], "where nobody serves there is a hurry"
    burrow(server, "restart", "shop")
    now = await_daemons(server, "shop", 1, without=before)
    wait_for(lambda: daemons(server, "shop") == now, "the end of the one before")
    imported, session_then, now, session = server.get("/").json()
    assert imported == [100_000_000, 19]
    assert now == [[chosen_slice(), os.nice(0)]]
    assert (session_then, session) in [("19", "0"), (None, None)]


HELPED = """
import subprocess, sys

helper = subprocess.Popen([sys.executable, "-c", '''
import os, signal
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
print(flush=True)
signal.sigwait([signal.SIGTERM])
open({told!r}, "w").write(str(os.nice(0)))
'''], stdout=subprocess.PIPE)
helper.stdout.readline()

def application(environ, start_response):
    start_response("200 OK", [])
    return []
"""


def test_who_ends_gives_way_to_those_who_serve(server):
    """It shows in what it has started, which ends with it."""
    told = server.data / "told"
    server.write_app("shop.py", HELPED.format(told=str(told)))
    server.start(mounts=[Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups={"shop": "processes=1"})
    (process,) = await_daemons(server, "shop", 1)
    os.kill(process, signal.SIGTERM)
    wait_for(lambda: told.exists() and told.read_text() == "19", "the helper's end")


STARVED = """
import os, time

while os.nice(0) == 19:
    time.sleep(0.02)

def application(environ, start_response):
    start_response("200 OK", [])
    return [b"in time"]
"""


@pytest.mark.skipif(not may_choose_slices(), reason="needs root and Linux 6.12")
def test_an_import_that_has_too_little_of_a_processor_gives_way_no_more(server):
    """It would never end where others need all there is."""
    server.write_app("shop.py", STARVED)
    server.start(mounts=[Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups={"shop": "processes=1"})
    before = await_daemons(server, "shop", 1)
    burrow(server, "restart", "shop")
    await_daemons(server, "shop", 1, without=before)


def test_the_first_request_after_the_change_has_the_old_code_at_most(server):
    """And soon everybody has the new code, which the requests in progress do not hold up."""
    before = start(server)
    go = server.root / "go"
    with server.client.stream("GET", f"/stream?file={go}") as slow:
        lines = slow.iter_lines()
        pid = int(next(lines))
        for version in ("two", "three", "four"):
            change(server, version)
            assert server.get("/version").status_code == 200

            def both(old=before):
                new = daemons(server, "shop") - old
                return len(new) == 2 and new

            now = wait_for(both, "two new ones")
            wait_for(lambda version=version: server.get("/version").text == version, f"version {version}")
            assert {server.get("/version").text for _ in range(10)} == {version}
            assert pid in daemons(server, "shop")
            before = before | now
        go.touch()
        assert next(lines) == "whole"
    wait_for(lambda: daemons(server, "shop") == now, "the end of the old ones")


BAD = {
    "import": ("import no_such_module_here\n", "no_such_module_here"),
    "syntax": ("def application(:\n", "SyntaxError"),
    "exit": ("import sys\nsys.exit(3)\n", "SystemExit"),
    "no callable": ("application = None\n", "application"),
}


@pytest.mark.parametrize("how", [by_touch, by_server, by_command])
@pytest.mark.parametrize("bad", BAD)
def test_code_that_does_not_import(server, bad, how):
    """The old processes go on serving and the log says why; the correction is taken."""
    if how is not by_touch and bad != "import":
        pytest.skip("the same as by touch")
    before = start(server, "processes=2 restart-on-reload=on")
    source, cause = BAD[bad]
    server.write_app("shop.py", source)
    if how is not by_touch:
        how(server)
        server.wait_log("the processes from before go on")
    with Load(server, "/version", clients=1) as load:
        server.wait_log("the processes from before go on")
        wait_for(lambda: daemons(server, "shop") == before, "the old ones alone")
        # It is not tried again and again, not even where it was a reload that has tried it.
        answered = load.answered
        wait_for(lambda: load.answered > answered + 200, "requests")
        assert daemons(server, "shop") == before
        log = server.log()
        assert cause in log and log.count("the processes from before go on") == 1
        assert log.count("has changed") == (how is by_touch)
        change(server, "two")
        wait_for(lambda: server.get("/version").text == "two", "the corrected code")
    assert not load.failures, load.failures[:3]
    await_daemons(server, "shop", 2, without=before)


@pytest.mark.parametrize("option", ["", "restart-on-reload=on", "restart-on-reload=off"])
def test_a_reload_of_the_server(server, option):
    """On by default on httpd, where code is deployed by reloading; off on nginx."""
    before = start(server, f"processes=2 {option}")
    rolls = server.kind == "apache" if not option else option.endswith("on")
    server.reload()
    assert server.get("/pid").status_code == 200
    if rolls:
        await_daemons(server, "shop", 2, without=before)
    else:
        assert '"generation": 2' in burrow(server, "status", "--json").stdout
        assert daemons(server, "shop") == before


def test_changed_settings(server):
    """Groups whose settings differ are replaced, others stay, new ones come, old ones go."""
    mounts = [Mount(f"/{name}", "daemon.py", "%{GLOBAL}", name) for name in ("same", "other", "old")]
    options = {"same": "", "other": "threads=2", "old": "graceful-timeout=1"}
    options = {name: f"restart-on-reload=off {text}" for name, text in options.items()}
    server.start(mounts=mounts, groups=options, threads=16)
    before = {name: await_daemons(server, name, 1) for name in options}
    options["other"] = "restart-on-reload=off threads=3"
    del options["old"]
    options["new"] = ""
    mounts[2] = Mount("/new", "daemon.py", "%{GLOBAL}", "new")
    server.configure(mounts, groups=options, threads=16)
    with Load(server, "/same/pid", clients=1) as same, Load(server, "/other/pid", clients=2) as other:
        server.reload()
        wait_for(lambda: server.get("/other").json()["threads_per_process"] == 3, "the new settings")
        await_daemons(server, "other", 1, without=before["other"])
    assert not same.failures and not other.failures
    assert daemons(server, "same") == before["same"]
    assert server.get("/new/pid").status_code == 200
    wait_for(lambda: not daemons(server, "old"), "the end of the old group")


def test_another_queue_for_code_that_does_not_import(server):
    """The socket stays the one that the old processes have."""
    before = start(server)
    server.write_app("shop.py", "import no_such_module_here\n")
    options = {"shop": "processes=2 listen-backlog=9"}
    server.configure([Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups=options)
    server.reload()
    server.wait_log("the processes from before go on")
    assert server.get("/version").text == "one"
    assert daemons(server, "shop", serving=True) == before


def test_more_and_fewer_processes(server):
    start(server, "processes=1")
    for count in (3, 2):
        server.configure([Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups={"shop": f"processes={count}"})
        with Load(server, "/pid", clients=2) as load:
            server.reload()
            await_daemons(server, "shop", count)
        assert not load.failures


def test_a_restart_of_httpd_restarts_all(apache):
    before = start(apache, "processes=2 restart-on-reload=off")
    apache.reload_signal = signal.SIGHUP
    apache.reload()
    await_daemons(apache, "shop", 2, without=before)
    assert apache.get("/pid").status_code == 200


def test_a_broken_configuration_changes_nothing(server):
    before = start(server)
    file = server.root / ("nginx.conf" if server.kind == "nginx" else "httpd.conf")
    good = file.read_text()
    file.write_text(good.replace("processes=2", "processes=none"))
    if server.kind == "nginx":
        server.kill(signal.SIGHUP)
        server.wait_log(r"\[emerg\].*processes")
        os.truncate(server.error_log, 0)  # or it would count as a crash
    assert server.get("/pid").status_code == 200
    assert daemons(server, "shop") == before
    file.write_text(good)


def test_a_file_of_a_module_is_no_reason(server):
    """The script alone is looked at, as mod_wsgi does."""
    before = start(server)
    server.write_app("shared.py", (server.apps / "shared.py").read_text())
    assert server.get("/pid").status_code == 200
    assert daemons(server, "shop") == before


def test_code_that_ends_the_process(server):
    """As one that does not import: the old processes serve on."""
    before = start(server)
    server.write_app("shop.py", "import os\nos._exit(3)\n")
    with Load(server, "/version", clients=1) as load:
        server.wait_log("status 3 before it was ready")
        assert daemons(server, "shop", serving=True) == before
        change(server, "two")
        wait_for(lambda: server.get("/version").text == "two", "the corrected code")
    assert not load.failures, load.failures[:3]


def test_reloading_off(server):
    server.write_app("shop.py", (server.apps / "daemon.py").read_text())
    server.start(mounts=[Mount("/", "shop.py", "%{GLOBAL}", "shop")], groups={"shop": ""}, reloading=False)
    before = await_daemons(server, "shop", 1)
    change(server, "two")
    assert {server.get("/version").text for _ in range(3)} == {"one"}
    assert daemons(server, "shop") == before
    burrow(server, "restart", "shop")
    wait_for(lambda: server.get("/version").text == "two", "the new code")


# ---- the command


def test_status(server):
    start(server)
    go = server.root / "go"
    with server.client.stream("GET", f"/stream?file={go}") as slow:
        pid = int(next(slow.iter_lines()))
        table = burrow(server, "status").stdout
        assert "shop" in table and all(str(pid) in table for pid in daemons(server, "shop"))
        assert f"GET /stream?file={go}" in table
        told = burrow(server, "status", "--json").stdout
        assert str(pid) in told and f"GET /stream?file={go}" in told
        stacks = burrow(server, "stacks", "shop").stdout
        assert "shop.py" in stacks and "await_file" in stacks
        go.touch()
    assert burrow(server, "restart", "nobody", check=False).returncode != 0
