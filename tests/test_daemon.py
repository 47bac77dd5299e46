"""Process groups: who runs there, with what, in which Python; and that requests get there and back."""

import contextlib
import grp
import json
import os
import pathlib
import pwd
import resource
import selectors
import threading
import time

import httpx
import psutil
import pytest
from daemons import await_daemons, daemons, file_name, socket_folder, unaccepted
from servers import IS_ROOT, PYTHON_HOME, WORKER, Mount, read_response, wait_for
from test_pythons import INSTALLATIONS

OTHER = pwd.getpwnam("nobody")
as_root = pytest.mark.skipif(not IS_ROOT, reason="only root's servers change their user")

ENV_FILE = """
# A comment, and an empty line.

FROM_FILE=green and blue
QUOTED="in quotes"
"""


def options(server):
    """One of each option that an application can see."""
    home = server.root / "home"
    home.mkdir()
    (home / "only_at_home.py").write_text("")
    env_file = server.root / "group.env"
    env_file.write_text(ENV_FILE)
    given = (
        f"processes=2 threads=3 umask=0027 home={home} lang=C.UTF-8 locale=C.UTF-8 display-name=%{{GROUP}} "
        f"env=COLOUR=red env=EMPTY= env-file={env_file} switch-interval=0.02 memory-limit=4000000000 "
        "virtual-memory-limit=8000000000 cpu-priority=5 send-buffer-size=20000 receive-buffer-size=30000"
    )
    if IS_ROOT:
        given += f" user={OTHER.pw_name} group=daemon supplementary-groups=mail,games"
    quoted = '"display-name=%{GROUP}"'  # since nginx takes { for the beginning of a block
    return given.replace("display-name=%{GROUP}", quoted) if server.kind == "nginx" else given


def start(server):
    unbuffered = "wsgi_request_buffering off;"
    groups = {
        "plain": "",
        "options": options(server),
        "several": "processes=1",
        "single": "threads=1",
        "queue": "threads=1",
        **{f"py{version}": f"python-home={home}" for version, home in INSTALLATIONS.items()},
    }
    mounts = [
        Mount("/plain", "daemon.py", process="plain", nginx=unbuffered),
        Mount("/options", "daemon.py", process="options"),
        Mount("/several/a", "daemon.py", process="several"),
        Mount("/several/b", "state.py", process="several"),
        Mount("/several/main", "daemon.py", "%{GLOBAL}", "several"),
        Mount("/single", "daemon.py", process="single"),
        Mount("/queue", "daemon.py", process="queue"),
        Mount("/several/environ", "environ.py", process="several"),
        Mount("/embedded", "environ.py"),
        *(Mount(f"/py{version}", "daemon.py", process=f"py{version}") for version in INSTALLATIONS),
    ]
    server.start(mounts=mounts, groups=groups, threads=8)


def facts(server, path):
    response = server.get(path)
    assert response.status_code == 200, response.text
    return response.json()


# ---- a process of its own


def test_a_process_of_its_own(shop):
    seen = facts(shop, "/plain")
    assert {seen["pid"]} == daemons(shop, "plain")
    assert seen["pid"] not in [shop.master_pid, *shop.workers()]
    assert facts(shop, "/plain")["pid"] == seen["pid"]
    assert (seen["process_group"], seen["maximum_processes"]) == ("plain", 1)


def test_nothing_of_the_server_is_in_it(shop):
    seen = facts(shop, "/plain")
    # No signal is blocked, none ignored but SIGPIPE and SIGXFSZ, which are Python's own doing; 32 and 33 are
    # the C library's.
    assert int(seen["status"]["SigBlk"], 16) == 0
    assert int(seen["status"]["SigIgn"], 16) & ~(1 << 12 | 1 << 24 | 1 << 31 | 1 << 32) == 0
    assert psutil.Process(seen["pid"]).exe() == os.path.realpath(f"{PYTHON_HOME}/bin/python3")
    maps = pathlib.Path(f"/proc/{seen['pid']}/maps").read_text()
    assert "mod_burrow" not in maps and "ngx_http_burrow" not in maps and "key.pem" not in maps
    folder = pathlib.Path(f"/proc/{seen['pid']}/fd")
    held = {int(entry.name): os.readlink(entry) for entry in folder.iterdir()}
    assert held[0] == "/dev/null" and held[1] == held[2] == str(shop.error_log)
    files = [name for fd, name in held.items() if fd > 2 and name.startswith("/")]
    assert not [name for name in files if not name.startswith(("/memfd:", "/dev/", "/anon_"))], files


def test_the_server_has_no_python(server):
    server.start(mounts=[Mount("/", "hello.py", process="shop")], groups={"shop": ""})
    assert server.get("/").status_code == 200
    for pid in [server.master_pid, *server.workers()]:
        assert "libpython" not in pathlib.Path(f"/proc/{pid}/maps").read_text()


def test_the_other_applications_are_the_servers_own(shop):
    assert shop.get("/embedded").json()["reprs"]["mod_wsgi.process_group"] == "''"


@as_root
def test_who_may_connect(shop):
    folder = socket_folder(shop)
    status = (folder / "plain.sock").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (WORKER.pw_uid, 0o600)
    assert (folder.stat().st_uid, folder.stat().st_mode & 0o777) == (0, 0o711)


def test_the_folder_is_gone_afterwards(server):
    server.start(mounts=[Mount("/", "hello.py", process="shop")], groups={"shop": ""})
    folder = socket_folder(server)
    assert server.get("/").status_code == 200
    server.stop()
    assert not folder.exists()
    assert not list(server.root.glob("wsgi*"))


# ---- options


@as_root
def test_user_and_groups(shop):
    seen = facts(shop, "/options")
    group = grp.getgrnam("daemon").gr_gid
    assert (seen["uid"], seen["gid"]) == (OTHER.pw_uid, group)
    assert set(seen["groups"]) - {group} == {grp.getgrnam(name).gr_gid for name in ("mail", "games")}
    assert seen["at_import"]["uid"] == OTHER.pw_uid
    assert facts(shop, "/plain")["uid"] == WORKER.pw_uid


def test_home_umask_and_path(shop):
    seen = facts(shop, "/options")
    home = str(shop.root / "home")
    assert seen["cwd"] == seen["at_import"]["cwd"] == home
    assert seen["path"][0] == home and str(shop.apps) in seen["path"]
    assert seen["umask"] == 0o027


def test_environment(shop):
    seen = facts(shop, "/options")
    for environment in (seen["environ"], seen["at_import"]["environ"]):
        assert environment["COLOUR"] == "red"
        assert environment["EMPTY"] == ""
        assert environment["FROM_FILE"] == "green and blue"
        assert environment["QUOTED"] == "in quotes"
        assert environment["LANG"] == environment["LC_ALL"] == "C.UTF-8"
    # The process's own, so that libraries written in C see it too.
    with open(f"/proc/{seen['pid']}/environ", "rb") as real:
        assert b"COLOUR=red" in real.read().split(b"\0")
    assert seen["locale"] == "C.UTF-8"


def test_limits_and_priority(shop):
    seen = facts(shop, "/options")
    assert seen["limits"]["RLIMIT_DATA"] == 4_000_000_000
    assert seen["limits"]["RLIMIT_AS"] == 8_000_000_000
    assert seen["nice"] == 5
    assert seen["switch_interval"] == pytest.approx(0.02)
    plain = facts(shop, "/plain")
    assert plain["nice"] == os.nice(0) and plain["limits"]["RLIMIT_DATA"] == resource.RLIM_INFINITY


def test_buffers_of_the_sockets(shop):
    """The kernel doubles what it is told."""
    buffers = shop.get("/options/buffers").json()
    assert buffers and all(each == [40000, 60000] for each in buffers)
    assert [40000, 60000] not in shop.get("/plain/buffers").json()


def test_display_name(shop):
    assert facts(shop, "/options")["command"].rstrip("\0 ") == "(wsgi:options)"


def test_processes_and_threads(shop):
    seen = facts(shop, "/options")
    assert (seen["maximum_processes"], seen["threads_per_process"]) == (2, 3)
    assert len(await_daemons(shop, "options", 2)) == 2
    assert facts(shop, "/plain")["threads_per_process"] == 15


# ---- environ


def test_environ(shop):
    before = time.time()
    seen = shop.get("/several/environ").json()["reprs"]
    times = [float(seen[f"mod_wsgi.{name}_start"]) for name in ("request", "queue", "daemon", "application")]
    # Servers may know the time to the millisecond only.
    assert before - 0.01 <= times[0] and times == sorted(times) and times[-1] <= time.time()
    assert seen["mod_wsgi.process_group"] == "'several'"
    assert seen["mod_wsgi.server_pid"] == repr(str(*daemons(shop, "several")))
    # As mod_wsgi: several processes are possible where their number is written, even if it is 1.
    assert (seen["wsgi.multiprocess"], seen["wsgi.multithread"]) == ("True", "True")
    seen = shop.get("/plain/environ").json()["reprs"]
    assert (seen["wsgi.multiprocess"], seen["wsgi.multithread"]) == ("False", "True")
    seen = shop.get("/embedded").json()["reprs"]
    assert float(seen["mod_wsgi.queue_start"]) == float(seen["mod_wsgi.daemon_start"]) == 0


def test_single_threaded(shop):
    assert shop.get("/single/environ").json()["reprs"]["wsgi.multithread"] == "False"


# ---- interpreters


def test_one_application_has_the_main_interpreter(shop):
    for path in ("/plain", "/options", "/single"):
        assert facts(shop, path)["interpreter"] == 0


def test_several_applications_have_their_own(shop):
    first, main = facts(shop, "/several/a"), facts(shop, "/several/main")
    assert first["interpreter"] != 0 and main["interpreter"] == 0
    assert first["pid"] == main["pid"]
    assert first["application_group"].endswith("/several/a") and main["application_group"] == ""


# ---- Pythons


@pytest.mark.parametrize("version", INSTALLATIONS)
def test_any_python(shop, version):
    seen = facts(shop, f"/py{version}")
    assert seen["version"].startswith(f"{version}.")
    assert seen["prefix"] == str(INSTALLATIONS[version])


def test_python_itself(server):
    """python= names the interpreter; a static build would do too, since no libpython is needed."""
    python = f"{PYTHON_HOME}/bin/python3"
    server.start(mounts=[Mount("/", "daemon.py", process="shop")],
                 groups={"shop": f"python={python}"})  # fmt: skip
    seen = facts(server, "/")
    assert seen["prefix"] == PYTHON_HOME
    assert "libpython" not in pathlib.Path(f"/proc/{seen['pid']}/maps").read_text() or (
        "libpython" in pathlib.Path("/proc/self/maps").read_text()
    )


# ---- requests


def test_streams_out(shop):
    go = file_name(shop)
    with shop.client.stream("GET", f"/plain/stream?file={go}") as response:
        chunks = response.iter_bytes()
        assert int(next(chunks)) in daemons(shop, "plain")
        go.touch()
        assert b"".join(chunks) == b"whole\n"


def test_streams_both_ways(shop):
    """The answer comes while the body is still being sent."""
    with shop.connect() as connection:
        connection.sendall(b"POST /plain/echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        reader = connection.makefile("rb")
        for number in range(5):
            connection.sendall(b"6\r\nline%d\n\r\n" % number)
            if number == 0:
                assert b"200" in reader.readline()
                while reader.readline() != b"\r\n":
                    pass
            assert int(reader.readline(), 16) == 6
            assert reader.readline() == b"LINE%d\n" % number
            assert reader.readline() == b"\r\n"
        connection.sendall(b"0\r\n\r\n")
        assert reader.readline() == b"0\r\n"


@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_ten_megabytes_there_and_back(shop, framing):
    body = b"".join(b"%09d\n" % number for number in range(2**20))
    sent = body if framing == "fixed" else (body[at : at + 100_000] for at in range(0, len(body), 100_000))
    response = shop.post("/single/upper", content=sent)
    assert response.content == body.upper()


def test_an_answer_before_the_body_is_sent(shop):
    """What is left of a body that nobody reads holds up neither answer nor process."""
    with shop.connect() as connection:
        connection.sendall(b"POST /plain/pid HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\nabc")
        assert int(read_response(connection).body) in daemons(shop, "plain")
    for _ in range(3):
        assert shop.post("/single/pid", content=bytes(3_000_000)).status_code == 200


def test_a_file_is_passed_not_copied(shop):
    content = os.urandom(3_000_000)
    path = file_name(shop)
    path.write_bytes(content)
    (pid,) = daemons(shop, "single")
    assert shop.get(f"/single/file?file={path}").content == content

    def written():
        with open(f"/proc/{pid}/io") as counters:
            return int(dict(line.split(": ") for line in counters)["wchar"])

    before = written()
    assert shop.get(f"/single/file?file={path}").content == content
    assert written() - before < 10_000
    with shop.http2() as client:
        assert client.get(f"/single/file?file={path}").content == content


def test_the_client_leaves(shop):
    """Its thread is free again: the group has one alone."""
    for _ in range(3):
        with shop.connect() as connection:
            connection.sendall(b"GET /single/endless HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(10)
    assert shop.get("/single/pid").status_code == 200


def test_requests_at_once(shop):
    """As many as there are threads, in both processes."""
    go = file_name(shop)
    with httpx.Client(base_url=shop.url, timeout=30, trust_env=False) as client:
        answers = []

        def ask():
            with client.stream("GET", f"/options/stream?file={go}") as response:
                answers.append(int(next(response.iter_lines())))
                go_on.wait(20)

        go_on = threading.Event()
        threads = [threading.Thread(target=ask) for _ in range(6)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(answers) == 6, "six requests in progress")
        go.touch()
        go_on.set()
        for thread in threads:
            thread.join()
    assert sorted(answers.count(pid) for pid in daemons(shop, "options")) == [3, 3]


def test_who_has_waited_longest_is_next(shop):
    """Whoever has got an answer and asks again is behind all others, new connections or not."""
    go = file_name(shop)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        first, *others = (stack.enter_context(shop.connect()) for _ in range(6))
        ask(first, f"/queue/wait?file={go}")
        shop.wait_log(f"waiting for {go}")
        for connection in others:
            selector.register(connection, selectors.EVENT_READ)
            ask(connection, "/queue/turn")
        wait_for(lambda: unaccepted(shop, "queue") == len(others), "all requests in the queue")
        go.touch()
        turns = {}
        while len(turns) < len(others):
            for key, _ in selector.select(20):
                turns.setdefault(key.fileobj, int(read_response(key.fileobj).body))
                ask(key.fileobj, "/queue/turn")
        assert sorted(turns.values()) == list(range(len(others)))


def ask(connection, target):
    connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


def test_connections_are_kept(shop):
    """A request takes the connection of an earlier one."""
    shop.get("/single/pid")
    (pid,) = daemons(shop, "single")

    def links():
        folder = pathlib.Path(f"/proc/{pid}/fd")
        return sorted(os.readlink(entry) for entry in folder.iterdir())

    before = links()
    for _ in range(50):
        assert shop.get("/single/pid").status_code == 200
    assert links() == before


# ---- service scripts, imports


SERVICE = """
import os, sys, time
log = os.path.join({data!r}, "service-%d" % os.getpid())
try:
    while True:
        with open(log, "a") as file:
            file.write("turn\\n")
        time.sleep(0.01)
except SystemExit:
    with open(log, "a") as file:
        file.write("told to end\\n")
    raise
"""


def import_script(server, path, group):
    if server.kind == "apache":
        return {"main": f"WSGIImportScript {path} process-group={group} application-group=%{{GLOBAL}}"}
    return {"http": f'wsgi_import_script {path} process-group={group} "application-group=%{{GLOBAL}}";'}


def test_service_script(server):
    path = server.write_app("service.py", SERVICE.format(data=str(server.data)))
    server.start(groups={"service": "threads=0"}, **import_script(server, path, "service"))
    (pid,) = wait_for(lambda: daemons(server, "service"), "the service")
    log = server.data / f"service-{pid}"
    wait_for(log.exists, "the script's file")
    os.kill(pid, 15)
    wait_for(lambda: "told to end" in log.read_text(), "its end")
    (second,) = wait_for(lambda: daemons(server, "service") - {pid}, "the next service")
    wait_for((server.data / f"service-{second}").exists, "the file of the next")
    server.stop()
    assert (server.data / f"service-{second}").read_text().endswith("told to end\n")


def test_import_script(server):
    """One that is no application."""
    source = "import shared\nshared.count('early')\nprint('imported early')\n"
    path = server.write_app("early.py", source)
    server.start(mounts=[Mount("/", "state.py", "%{GLOBAL}", "shop")], groups={"shop": ""},
                 **import_script(server, path, "shop"))  # fmt: skip
    server.wait_log("imported early")
    assert server.get("/?count=early").json()["shared"] == 2


def test_restrict_process(apache):
    choice = "\n".join(f"SetEnvIf Request_URI {name} GROUP={name}" for name in ("shop", "other"))
    inside = f"WSGIRestrictProcess shop\n{choice}"
    apache.start(mounts=[Mount("/", "environ.py", process="%{ENV:GROUP}", apache=inside)],
                 groups={"shop": "", "other": ""})  # fmt: skip
    assert json.loads(apache.request("/shop").body)["strings"]["mod_wsgi.process_group"] == "shop"
    assert apache.request("/other").status == 500
    apache.wait_log("WSGIRestrictProcess")


# ---- the rest of Python


@pytest.mark.parametrize("version", INSTALLATIONS)
def test_processes_of_the_application(server, version):
    server.start(mounts=[Mount("/", "process.py", process="shop")],
                 groups={"shop": f"python-home={INSTALLATIONS[version]}"})  # fmt: skip
    for what, expected in {
        "fork": ["from the child", 7], "multiprocessing": 5, "multiprocessing-fork": 5,
        "multiprocessing-spawn": 5, "multiprocessing-pool": [1, 2, 3], "process-executor": 4,
        "subprocess": [3, "out\n", "err\n"], "subprocess-preexec": 0, "terminate": -15,
        "signal-mask": [0, []], "descriptors": False, "asyncio": [0, 1, 2, 3, 4], "os-system": 4,
    }.items():  # fmt: skip
        assert server.get(f"/{what}", timeout=60).json() == {"ok": expected}, what
