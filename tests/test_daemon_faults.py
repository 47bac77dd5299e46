"""Faults around process groups: whose request fails, who says why, and how soon all is well again."""

import concurrent.futures
import contextlib
import http.client
import itertools
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile

import psutil
import pytest
from daemons import await_daemons, burrow, daemons, descriptors, socket_folder, sockets
from servers import IS_ROOT, Mount, wait_for
from test_manager import manager, successor
from test_reload import Load

as_root = pytest.mark.skipif(not IS_ROOT, reason="needs another user or a mount")
numbers = itertools.count()

#: What a worker dies of, and what the log says of it.
DEATHS = {
    "kill": "SIGKILL",
    "segfault": "SIGSEGV",
    "abort": "SIGABRT",
    "exit": "(status|code) 3",
    "exit-of-a-thread": "(status|code) 4",
    "close": "(status|code) 1",
    "stuck": "(status|code) 1",
    "fork-and-die": "SIGKILL",
}
#: What it writes to the server's connection.
LIES = ["garbage", "lie", "split"]
SHARED = [*DEATHS, *LIES]
CUT = (http.client.IncompleteRead, http.client.RemoteDisconnected, ConnectionResetError)


def start(server):
    server.crash = None
    mounts = [Mount("/other", "daemon.py", process="other")]
    for way in SHARED:
        mounts.append(Mount(f"/{way}", "wreck.py", "%{GLOBAL}", process=way))
        mounts.append(Mount(f"/{way}/app", "daemon.py", "%{GLOBAL}", process=way))
    groups = {way: "processes=2 threads=3 deadlock-timeout=1" for way in SHARED}
    server.start(mounts=mounts, groups={**groups, "other": "threads=4"}, threads=32)


@pytest.fixture
def wreck(shop):
    """Either server with two processes for each fault."""
    return shop


def children_of_applications(server):
    """What applications have forked and nobody waits for."""
    workers = {pid for path in sockets(server).values() for pid in daemons(server, path.stem)}
    others = [process for process in server.leftovers() if process.pid not in workers]
    return [process for process in others if is_python(process)]


def is_python(process):
    try:
        return "python" in os.readlink(f"/proc/{process.pid}/exe")
    except FileNotFoundError:  # It has just ended.
        return False


class Held:
    """A request that has begun its answer and goes on when it may."""

    def __init__(self, server, group):
        self.go = server.root / f"go{next(numbers)}"
        self.connection = server.connect()
        request = f"GET /{group}/app/stream?file={self.go} HTTP/1.1\r\nHost: x\r\n\r\n"
        self.connection.sendall(request.encode())
        self.answer = http.client.HTTPResponse(self.connection)
        self.answer.begin()
        assert self.answer.status == 200
        self.pid = int(self.answer.readline())

    def is_whole(self):
        self.go.touch()
        with self.connection:
            try:
                return self.answer.read() == b"whole\n"
            except CUT:
                return False


def hold_both(server, group):
    """Requests in progress in both processes of the group, with threads left in one of them at least."""
    await_daemons(server, group, 2)
    held = []
    while len({request.pid for request in held}) < 2:
        held.append(Held(server, group))
    return held


@pytest.mark.parametrize("when", ["", "late/"], ids=["before", "after"])
@pytest.mark.parametrize("way", DEATHS)
def test_a_worker_dies(wreck, way, when):
    """502 or a cut for what it was serving, nothing for anybody else, and another takes its place."""
    held = hold_both(wreck, way)
    before = {request.pid for request in held}
    with Load(wreck, "/other/pid", clients=1) as others:
        if when:
            with pytest.raises(CUT):
                wreck.request(f"/{way}/late/{way}")
        else:
            assert wreck.request(f"/{way}/{way}").status in (502, 504 if way == "stuck" else 502)
        whole = {request.pid: [] for request in held}
        for request in held:
            whole[request.pid].append(request.is_whole())
    assert not others.failures
    assert sorted(set(ends) == {True} for ends in whole.values()) == [False, True]
    (victim,) = [pid for pid, ends in whole.items() if False in ends]
    assert set(whole[victim]) == {False}
    assert before - {victim} < await_daemons(wreck, way, 2, without=[victim])
    line = wreck.wait_log(f"burrow manager: process group '{way}': process {victim} (was ended|ended)")
    assert re.search(DEATHS[way], line)
    # A request whose connection was closed ends before its process; where it is stuck the stacks tell.
    told = "in do_stuck" if way == "stuck" else "" if way == "close" else f"GET /{way}/{when}{way} for "
    assert told in wreck.log()
    assert wreck.get(f"/{way}/app/pid").status_code == 200
    wait_for(lambda: not children_of_applications(wreck), "the end of what it has forked")


@pytest.mark.parametrize("when", ["", "late/"], ids=["before", "after"])
@pytest.mark.parametrize("way", LIES)
def test_a_worker_lies(wreck, way, when):
    """What is no answer makes none, whatever else it does; the next request is served."""
    await_daemons(wreck, way, 2)
    if when or way == "split":
        with pytest.raises(CUT):
            wreck.request(f"/{way}/late/{way}")
    else:
        assert wreck.request(f"/{way}/{way}").status == 502
    wreck.wait_log(f"(?i)process group.*{way}|{way}.*process")
    for _ in range(4):
        assert wreck.get(f"/{way}/app/pid").status_code == 200
    assert len(await_daemons(wreck, way, 2)) == 2


# ---- servers of their own


def start_one(server, options="", app="daemon.py", group=None, **settings):
    """With one group, `shop`, at the root; its one worker's pid."""
    server.crash = None
    server.start(mounts=[Mount("/", app, group, "shop")], groups={"shop": options}, threads=16, **settings)
    (pid,) = await_daemons(server, "shop", 1)
    return pid


def test_killed_while_idle(server):
    """Nobody notices: not even who would have taken its connection."""
    pid = start_one(server)
    assert int(server.get("/pid").text) == pid
    for _ in range(4):
        os.kill(pid, signal.SIGKILL)
        response = server.post("/pid", content=b"of a request that may not be lost")
        assert response.status_code == 200 and int(response.text) != pid
        pid = int(response.text)


def test_a_child_keeps_nothing_open(server):
    """A copy of the connection in a forked child holds up neither the client nor the next worker."""
    start_one(server, app="wreck.py", group="%{GLOBAL}")
    assert server.get("/fork").text == "survived"
    assert server.request("/kill").status == 502
    assert server.get("/fork").status_code == 200


def test_one_that_keeps_dying_is_started_ever_later(server):
    """And says so; the other groups do not suffer."""
    server.write_app("doomed.py", "import os\nos._exit(9)\n")
    server.crash = None
    mounts = [Mount("/", "daemon.py", process="shop"), Mount("/doomed", "doomed.py", process="doomed")]
    server.start(mounts=mounts, groups={"shop": "", "doomed": "queue-timeout=1"}, threads=16)
    delays = []
    while len(delays) < 3:
        assert server.get("/doomed", timeout=5).status_code in (500, 502, 503, 504)
        delays = re.findall(r"process group 'doomed'.* starts in ([\d.]+) s", server.log())
    assert delays == sorted(delays, key=float)
    assert server.get("/pid").status_code == 200


# ---- no worker can be had


def test_no_process_can_be_started(server):
    """503 soon, also for a body, whatever the deadlines are; and the first process that starts ends that."""
    home = server.root / "home"
    home.mkdir()
    pid = start_one(server, f"home={home} queue-timeout=600 connect-timeout=600")
    home.rmdir()
    os.kill(pid, signal.SIGKILL)
    for _ in range(2):
        assert server.get("/pid").status_code == 503
        assert server.post("/pid", content=bytes(1 << 20)).status_code == 503
    log = server.log()
    assert re.search(r"process group 'shop': cannot start a process: cannot enter '.*/home' \(home=\)", log)
    assert re.search(r"process group .shop.: none of its processes can be started", log)
    home.mkdir()
    wait_for(lambda: server.get("/pid").status_code == 200, "another process")


def test_does_not_import(server):
    """500 at once and the cause in the log, once; corrected, it serves without a reload."""
    server.write_app("broken.py", "import no_such_module_here\n")
    server.start(mounts=[Mount("/", "broken.py", process="shop")], groups={"shop": ""}, threads=16)
    for _ in range(2):
        response = server.get("/", timeout=5)
        assert response.status_code == 500
        assert "no_such_module" not in response.text
    server.wait_log("broken.py")
    assert server.log().count("Traceback (most recent call last)") <= 3  # at the start, and for each request
    server.write_app("broken.py", "from hello import application\n")
    wait_for(lambda: server.get("/", timeout=5).status_code == 200, "the corrected script")


@as_root
def test_may_not_read_the_script(server):
    path = server.write_app("secret.py", "from hello import application\n")
    path.chmod(0o600)
    server.start(mounts=[Mount("/", "secret.py", process="shop")], groups={"shop": "user=nobody"}, threads=16)
    assert server.get("/", timeout=5).status_code in (403, 500)
    assert "secret.py" in server.wait_log("Permission denied|not readable|cannot read")
    path.chmod(0o644)
    server.write_app("secret.py", "from hello import application\n")
    wait_for(lambda: server.get("/", timeout=5).status_code == 200, "the readable script")


def test_a_group_that_is_not_there_is_refused(server):
    code, said = server.configtest(mounts=[Mount("/", "hello.py", process="nobody")])
    assert code != 0 and "nobody" in said and "not defined" in said


def prefix(server, path):
    """Settings that put the sockets there."""
    return {"main": f"WSGISocketPrefix {path}"} if server.kind == "apache" else (
        {"http": f"wsgi_socket_prefix {path};"})  # fmt: skip


@pytest.mark.parametrize(
    "why", ["missing", "too long", "open to all", pytest.param("of others", marks=as_root)]
)
def test_sockets_cannot_be_there(server, why):
    """Not where the kernel has no room for the name, and not where others could take the sockets' place."""
    folder = server.root / "run"
    if why != "missing":
        folder.mkdir()
    if why == "open to all":
        folder.chmod(0o777)
    if why == "of others":
        os.chown(folder, pwd.getpwnam("nobody").pw_uid, -1)
    mounts = [Mount("/", "hello.py", process="shop")]
    where = folder / ("x" * 108 if why == "too long" else "wsgi")
    code, said = server.configtest(mounts=mounts, groups={"shop": ""}, **prefix(server, where))
    assert code != 0 and str(folder) in said and re.search(r"\.conf:\d+", said), said


@as_root
def test_sockets_where_the_server_cannot_go(server):
    """503, and a line that names the folder."""
    folder = server.root / "closed"
    folder.mkdir(mode=0o700)
    start_one(server, "connect-timeout=1", **prefix(server, folder / "wsgi"))
    assert server.get("/pid", timeout=5).status_code == 503
    assert str(folder) in server.wait_log("Permission denied")
    folder.chmod(0o755)
    assert server.get("/pid").status_code == 200


def test_the_folder_of_the_sockets_is_removed(server):
    """As by something that tidies up: a reload makes it again."""
    start_one(server)
    folder = socket_folder(server)
    shutil.rmtree(folder)
    server.reload()
    wait_for(lambda: server.get("/pid", timeout=5).status_code == 200, "an answer")
    assert socket_folder(server) == folder


# ---- who may say what


def as_other(server, script):
    """Runs Python as a user of the machine who has nothing to do with the server."""
    other = pwd.getpwnam("nobody")
    return subprocess.run([sys._base_executable, "-c", script], user=other.pw_uid, group=other.pw_gid,
                          extra_groups=[], capture_output=True, text=True, timeout=30)  # fmt: skip


CONNECT = """
import socket
connection = socket.socket(socket.AF_UNIX, socket.{kind})
connection.settimeout(30)
connection.connect({path!r})
connection.sendall(bytes(8))
print(len(connection.recv(1000)))
"""


@as_root
def test_another_user_may_not_ask(server):
    start_one(server)
    path = socket_folder(server) / "shop.sock"
    script = CONNECT.format(kind="SOCK_STREAM", path=str(path))
    assert "PermissionError" in as_other(server, script).stderr
    # The worker looks for itself.
    path.chmod(0o666)
    seen = as_other(server, script)
    assert seen.stdout in ("0\n", "") and "timed out" not in seen.stderr, seen
    server.wait_log(f"uid {pwd.getpwnam('nobody').pw_uid}|{pwd.getpwnam('nobody').pw_uid}.*refused")
    assert server.get("/pid").status_code == 200


@as_root
def test_another_user_may_not_command(server):
    pid = start_one(server)
    other = pwd.getpwnam("nobody")
    for command in (["restart", "shop"], ["restart"], ["stacks", "shop"], ["status"]):
        done = burrow(server, *command, check=False, user=other.pw_uid, group=other.pw_gid, extra_groups=[])
        assert done.returncode != 0, command
        assert done.stderr
    assert daemons(server, "shop") == {pid}


@as_root
def test_garbage_for_a_worker(server):
    """From whom it has to believe."""
    pid = start_one(server)
    path = str(socket_folder(server) / "shop.sock")
    no_request = (100).to_bytes(4, "little") + b"\2\0\0\0" + bytes(100)
    for sent in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 8, bytes(8), no_request):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(path)
            connection.sendall(sent)
            try:
                while connection.recv(1000):
                    pass
            except ConnectionResetError:
                pass
        assert int(server.get("/pid").text) == pid
    server.wait_log("frame|request")


@as_root
def test_who_says_nothing_holds_up_nobody(server):
    """More connections than there are threads, and none of them has a request."""
    start_one(server, "threads=2")
    path = str(socket_folder(server) / "shop.sock")
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for connection in silent:
        connection.connect(path)
    for _ in range(5):
        assert server.get("/pid", timeout=5).status_code == 200
    for connection in silent:
        connection.close()


# ---- manager and master


def test_the_manager_is_killed(server):
    """No request fails, no worker is replaced, and the next manager has them all."""
    server.crash = None
    server.start(mounts=[Mount("/", "daemon.py", process="shop")], groups={"shop": "processes=2"}, threads=16)
    first = manager(server)
    before = await_daemons(server, "shop", 2)
    assert server.get("/pid").status_code == 200
    with Load(server, "/pid") as load:
        first.kill()
        second = successor(server, first)
        wait_for(lambda: "shop" in burrow(server, "status", check=False).stdout, "the next one's status")
    assert not load.failures, load.failures[:3]
    assert daemons(server, "shop") == before
    # It has what it needs to replace them.
    burrow(server, "restart", "shop")
    after = await_daemons(server, "shop", 2, without=before)
    os.kill(min(after), signal.SIGKILL)
    await_daemons(server, "shop", 2, without=[min(after)])
    assert successor(server, first) == second


def test_a_worker_dies_while_there_is_no_manager(server):
    pid = start_one(server)
    manager(server).kill()
    os.kill(pid, signal.SIGKILL)
    assert server.get("/pid").status_code == 200


def test_the_manager_is_stopped_for_a_while(server):
    """Requests need it for nothing."""
    start_one(server)
    process = manager(server)
    process.suspend()
    try:
        with Load(server, "/pid") as load:
            wait_for(lambda: load.answered > 50, "requests")
        assert not load.failures
    finally:
        process.resume()


def test_the_master_is_killed(server):
    """Workers and sockets go; what serves on without a master says 503 of the application."""
    start_one(server, "connect-timeout=60")  # which nobody waits for
    folder = socket_folder(server)
    workers = psutil.Process(server.master_pid).children()
    server.process.kill()
    server.process.wait()
    wait_for(lambda: not daemons(server, "shop"), "the end of the workers", 10)
    wait_for(lambda: not folder.exists(), "the end of the folder", 10)
    assert server.get("/pid", timeout=20).status_code == 503
    assert server.get("/static.txt").status_code == 200
    for worker in workers:
        if worker.is_running():
            worker.kill()
    wait_for(lambda: not server.leftovers(), "the end of all")


def test_a_folder_that_was_left_behind_is_removed(server):
    """Of a manager that was killed together with its master."""
    left = server.root / "wsgi.0123456789abcdef"
    left.mkdir()
    for name in ("control", "shop.sock"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if name == "control" else 1) as bound:
            bound.bind(str(left / name))
    os.utime(left, (1e9, 1e9))  # a new one could be a server's that is just starting
    start_one(server)
    wait_for(lambda: not left.exists(), "its removal")
    assert server.get("/pid").status_code == 200


# ---- the log and the disk


def test_the_log_is_rotated(server):
    """What an application prints next is in the new file."""
    pid = start_one(server)
    server.error_log.rename(server.root / "error.log.1")
    server.kill(signal.SIGUSR1)
    wait_for(server.error_log.exists, "the new file")

    def logs():
        return {descriptors(worker).get(2) for worker in daemons(server, "shop")}

    wait_for(lambda: logs() == {str(server.error_log)}, "all writing to it")
    go = server.root / "go"
    go.touch()
    assert server.get(f"/wait?file={go}").status_code == 200
    server.wait_log("waiting for")
    assert server.kind == "apache" or daemons(server, "shop") == {pid}


def test_a_piped_log(apache):
    """Each graceful restart has a logger of its own; a worker that stays writes to that."""
    piped = apache.error_log
    start = apache.command
    apache.command = lambda *options: [*start(*options), "-c", f'ErrorLog "|$/bin/cat >>{piped}"']
    pid = start_one(apache, "restart-on-reload=off")
    before = os.readlink(f"/proc/{pid}/fd/2")
    apache.reload()
    wait_for(lambda: os.readlink(f"/proc/{pid}/fd/2") != before, "the new logger")
    assert os.readlink(f"/proc/{pid}/fd/2") == os.readlink(f"/proc/{apache.master_pid}/fd/2")
    go = apache.root / "go"
    go.touch()
    assert apache.get(f"/wait?file={go}").status_code == 200
    apache.wait_log("waiting for")
    assert daemons(apache, "shop") == {pid}


def test_a_file_is_truncated_while_it_is_sent(server):
    """A cut, for HTTP/2 too; neither the server nor the worker crashes."""
    pid = start_one(server)
    workers = set(server.workers())
    for round_number in range(2):
        path = server.root / f"file{round_number}"
        path.write_bytes(bytes(50_000_000))
        with server.connect() as connection:
            connection.sendall(f"GET /file?file={path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            answer.read(100_000)
            os.truncate(path, 200_000)
            with pytest.raises(CUT):
                answer.read()
    assert int(server.get("/pid").text) == pid
    assert set(server.workers()) == workers


def test_a_file_that_is_none(server):
    """What is no regular file is read by the worker."""
    start_one(server)
    assert server.get("/file?file=/dev/null").content == b""
    path = server.root / "fifo"
    os.mkfifo(path)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        asked = pool.submit(server.get, f"/file?file={path}")
        path.write_bytes(b"through a pipe")
        assert asked.result().content == b"through a pipe"


@pytest.fixture
def small():
    """A disk of 64 KiB and 20 names."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-disk-"))
    options = "size=64k,nr_inodes=20,mode=755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
    folder.rmdir()


def fill(folder):
    """Leaves no room at all, neither for bytes nor for names."""
    free = os.statvfs(folder)
    (folder / "filler").write_bytes(bytes(free.f_bavail * free.f_frsize))
    with contextlib.suppress(OSError):
        for number in range(free.f_ffree):
            (folder / f"name{number}").touch()


@as_root
def test_the_disk_of_the_log_is_full(small, server):
    """Nobody waits for it, and new workers start."""
    server.error_log = small / "error.log"
    server.error_log.touch()
    pid = start_one(server)
    fill(small)
    go = server.root / "go"
    go.touch()
    for _ in range(20):
        assert server.get(f"/wait?file={go}").status_code == 200
    os.kill(pid, signal.SIGKILL)
    await_daemons(server, "shop", 1, without=[pid])
    assert server.get("/pid").status_code == 200
    os.truncate(small / "filler", 0)
    assert server.get(f"/wait?file={go}").status_code == 200
    server.wait_log("waiting for")


@as_root
def test_the_disk_of_the_sockets_is_full(small, server):
    """Starting a group is then impossible, and said; it happens when there is room."""
    fill(small)
    server.crash = None
    mounts, groups = [Mount("/", "daemon.py", process="shop")], {"shop": "connect-timeout=1"}
    server.start(mounts=mounts, groups=groups, threads=16, **prefix(server, small / "wsgi"))
    server.wait_log("No space left")
    assert server.get("/static.txt").status_code == 200
    assert server.get("/pid", timeout=20).status_code == 503
    for file in small.iterdir():
        file.unlink()
    server.reload()
    wait_for(lambda: server.get("/pid", timeout=20).status_code == 200, "an answer")
