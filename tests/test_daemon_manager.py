"""What the manager does about process groups when nobody looks: what it remembers, and what it costs."""

import os
import pathlib
import pwd
import re
import resource
import signal
import subprocess
import sys
import time

import psutil
import pytest
import servers
from daemons import await_daemons, burrow, daemons, socket_folder, sockets
from servers import IS_ROOT, Mount, wait_for
from test_manager import await_end, manager, ours, successor
from test_reload import Load
from workers import Connection

as_root = pytest.mark.skipif(not IS_ROOT, reason="only root's servers change their user")
GAMES = pwd.getpwnam("games")


def start(server, options="", app="daemon.py", **settings):
    server.write_app("shop.py", (server.apps / app).read_text())
    server.start(mounts=[Mount("/", "shop.py", process="shop")], groups={"shop": options}, **settings)
    return await_daemons(server, "shop", 1)


def wakeups(pids):
    """How often the threads of these processes have been waiting."""
    threads = [each for pid in pids for each in pathlib.Path(f"/proc/{pid}/task").iterdir()]
    lines = [line for each in threads for line in (each / "status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary"))


def test_idle_processes_sleep(server):
    found = start(server)
    assert server.get("/pid").status_code == 200
    server.client.close()
    server.wait_log("1 new processes serve")
    pids = [*found, *(process.pid for process in ours(server, "manager", "guardian"))]

    def sleep():
        before = wakeups(pids)
        time.sleep(1.5)
        return wakeups(pids) == before

    # The limits of a request are looked at for some time after it.
    wait_for(sleep, "a time in which no thread wakes up")


def test_a_replacement_imports_what_its_predecessor_had(apache):
    """Also what no line of the configuration names."""
    alias = f"WSGIScriptAliasMatch ^/(\\w+) {apache.apps}/$1.py"
    apache.start(mounts=[], groups={"shop": ""}, apache=f"{alias}\nWSGIProcessGroup shop")
    assert apache.get("/hello").status_code == 200
    (first,) = await_daemons(apache, "shop", 1)
    burrow(apache, "restart", "shop")
    (second,) = await_daemons(apache, "shop", 1, without=[first])
    apache.wait_log(rf"pid {second}:tid {second}\] Loading WSGI script '{apache.apps}/hello.py'")


def test_what_one_process_has_imported_all_have(apache):
    """Else the others would import what it has become by then."""
    alias = f"WSGIScriptAliasMatch ^/(\\w+) {apache.apps}/$1.py"
    source = "import os\nfrom hello import application\nprint(f'imported in {os.getpid()}')\n"
    apache.write_app("shop.py", source)
    apache.start(mounts=[], groups={"shop": "processes=2"}, apache=f"{alias}\nWSGIProcessGroup shop")
    both = await_daemons(apache, "shop", 2)
    assert apache.get("/shop").status_code == 200
    for pid in both:
        apache.wait_log(f"imported in {pid}")
    apache.write_app("shop.py", "import no_such_module_here\n")
    with Load(apache, "/shop") as load:
        apache.wait_log("the processes from before go on")
        answered = load.answered
        wait_for(lambda: load.answered > answered + 100, "requests")
    assert not load.failures, load.failures[:3]
    assert daemons(apache, "shop") == both


def test_a_change_is_not_forgotten_with_the_manager(server):
    """One that dies before it has read what a process has told it."""
    before = start(server)
    server.crash = None
    first = manager(server)
    first.suspend()
    server.write_app("shop.py", (server.apps / "hello.py").read_text())
    assert server.get("/version").text == "one"
    first.kill()
    await_daemons(server, "shop", 1, without=before)
    wait_for(lambda: server.get("/").text == "Hello, World!\n", "the new code")


def test_adopted_processes_are_replaced_when_they_die(server):
    server.start(mounts=[Mount("/", "daemon.py", process="shop")], groups={"shop": "processes=2"})
    before = await_daemons(server, "shop", 2)
    server.crash = None
    first = manager(server)
    first.kill()
    successor(server, first)
    wait_for(lambda: all(f"{pid} " in burrow(server, "status", check=False).stdout for pid in before), "both")
    os.kill(min(before), signal.SIGKILL)
    await_daemons(server, "shop", 2, without=[min(before)])


def test_a_script_that_is_gone_holds_nothing_up(apache):
    alias = f"WSGIScriptAliasMatch ^/(\\w+) {apache.apps}/$1.py"
    apache.write_app("gone.py", "from hello import application\n")
    apache.start(mounts=[], groups={"shop": ""}, apache=f"{alias}\nWSGIProcessGroup shop")
    assert apache.get("/gone").status_code == apache.get("/hello").status_code == 200
    first = await_daemons(apache, "shop", 1)
    (apache.apps / "gone.py").unlink()
    burrow(apache, "restart", "shop")
    await_daemons(apache, "shop", 1, without=first)
    assert "does not import" not in apache.log()


def test_what_has_worked_is_tried_again(server):
    """A replacement that cannot start for a moment is no new code that is wrong."""
    (first,) = start(server)
    down = server.root / "down"
    check = f"\nif os.path.exists({str(down)!r}):\n    raise OSError('the database is down')\n"
    server.write_app("shop.py", (server.apps / "daemon.py").read_text() + check)
    burrow(server, "restart", "shop")
    (second,) = await_daemons(server, "shop", 1, without=[first])
    down.touch()
    os.kill(second, 10)
    server.wait_log("the database is down")
    assert int(server.get("/pid").text) == second
    down.unlink()
    await_daemons(server, "shop", 1, without=[first, second])


def test_one_application_of_several_does_not_import(server):
    """At the start it is better to have the others."""
    server.write_app("bad.py", "import no_such_module_here\n")
    mounts = [Mount("/good", "hello.py", process="shop"), Mount("/bad", "bad.py", process="shop")]
    server.start(mounts=mounts, groups={"shop": ""})
    assert server.get("/good", timeout=5).status_code == 200
    assert server.get("/bad", timeout=5).status_code == 500
    server.wait_log("burrow manager: .*bad.py' does not import")


def test_groups_come_and_go_with_reloads(server):
    # Longer than it takes httpd to tell that it has reloaded.
    before = start(server, "graceful-timeout=4")
    mounts = [Mount("/", "shop.py", process="other")]
    server.configure(mounts, groups={"other": ""})
    server.reload()
    await_daemons(server, "other", 1)
    assert server.get("/facts").json()["process_group"] == "other"
    # For servers that have not read it yet.
    assert daemons(server, "shop") == before
    wait_for(lambda: not daemons(server, "shop"), "the end of the old group", 20)

    def names():
        return {path.name for path in sockets(server).values()}

    wait_for(lambda: names() == {"control", "other.sock"}, "the end of its socket")


def test_a_socket_that_was_removed_is_made_again(server):
    before = start(server)
    (socket_folder(server) / "shop.sock").unlink()
    server.reload()
    await_daemons(server, "shop", 1, without=before)
    assert server.get("/pid").status_code == 200


def test_as_many_files_as_the_server(server):
    """The manager may open more, for many groups; its processes what the server may."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1000, before[1]))
    try:
        found = start(server)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)

    def limits(pid):
        line = re.search(r"Max open files +(\d+) +(\d+)", pathlib.Path(f"/proc/{pid}/limits").read_text())
        return [int(number) for number in line.groups()]

    assert limits(manager(server).pid) == [before[1], before[1]]
    assert [limits(pid)[0] for pid in found] == [1000]


def copy_into(root, *paths):
    """These files and folders, with those that links lead to, at the same places below another root."""
    for path in map(pathlib.Path, paths):
        copy = root / path.relative_to("/")
        if os.path.lexists(copy):
            continue
        if path.is_symlink():
            # /lib may be one itself.
            copy_into(root, path.parent / os.readlink(path))
        copy.parent.mkdir(parents=True, exist_ok=True)
        if subprocess.run(["cp", "-al", path, copy], stderr=subprocess.DEVNULL).returncode:
            subprocess.run(["cp", "-a", path, copy], check=True)


def libraries(*files):
    listed = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    return sorted(set(re.findall(r"(?:=> |^\t)(/\S+) \(", listed, re.M)))


def fill_root(server):
    """A folder that has what the system's Python needs, Burrow's runtimes and the applications."""
    root = server.root / "another"
    python = pathlib.Path("/usr/bin/python3").resolve()
    standard = pathlib.Path("/usr/lib") / python.name
    runtimes = servers.DIST / "lib/burrow/runtime"
    needed = libraries(python, *runtimes.glob("*.so"), *standard.glob("lib-dynload/*.so"))
    copy_into(root, "/usr/bin/python3", standard, runtimes, server.apps, *needed)
    return root


@as_root
@pytest.mark.parametrize("preload", ["off", "on"])
def test_another_root(server, preload):
    """Nothing is there but what was put there: no /proc, no /dev, no users."""
    root = fill_root(server)
    (root / "only_here").write_text("")
    options = f'chroot={root} python-home=/usr user=nobody group=nogroup preload={preload} processes=2'
    server.start(mounts=[Mount("/", "daemon.py", "%{GLOBAL}", process="shop")], groups={"shop": options})
    uid = pwd.getpwnam("nobody").pw_uid
    for pid in await_daemons(server, "shop", 2):
        assert [os.readlink(f"/proc/{pid}/{name}") for name in ("root", "cwd")] == [str(root)] * 2
        assert psutil.Process(pid).uids() == (uid, uid, uid)
    assert server.get("/file?file=/only_here").status_code == 200
    pid = int(server.get("/pid").text)
    assert f"Process {pid} of process group 'shop'" in burrow(server, "stacks", "shop").stdout
    assert "preload=on is not possible" not in server.log()
    # The manager finds its scripts there.
    before = daemons(server, "shop", serving=True)
    script = root / server.apps.relative_to("/") / "daemon.py"
    text = script.read_text().replace('VERSION = "one"', 'VERSION = "two"')
    script.unlink()
    script.write_text(text)
    os.utime(server.apps / "daemon.py")
    wait_for(lambda: server.get("/version").text == "two", "the new code")
    await_daemons(server, "shop", 2, without=before)


@as_root
def test_who_may_connect(server):
    """The socket's user, who may be another one than that of the server's workers."""
    start(server, "socket-user=games connect-timeout=1")
    path = socket_folder(server) / "shop.sock"
    assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (GAMES.pw_uid, 0o600)
    assert server.get("/pid", timeout=10).status_code == 503
    server.wait_log("Permission denied")
    os.seteuid(GAMES.pw_uid)
    try:
        connection = Connection(path)
    finally:
        os.seteuid(0)
    with connection:
        assert connection.get(server.apps / "shop.py", "/version").body == b"one"
    assert "refused" not in server.log()


def test_children_of_processes_end_with_the_server(server):
    server.write_app("parent.py", "import subprocess\nchild = subprocess.Popen(['/bin/sleep', '1000'])\n"
                                  "from hello import application\n")  # fmt: skip
    server.start(mounts=[Mount("/", "parent.py", process="shop")], groups={"shop": ""})
    assert server.get("/").status_code == 200
    (worker,) = await_daemons(server, "shop", 1)
    (child,) = psutil.Process(worker).children()
    server.stop()
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


CHILDREN = """
import pathlib, subprocess
ignoring = "trap '' TERM; echo $$ > {data}/ignoring; while :; do sleep 1; done"
plain = subprocess.Popen(["/bin/sleep", "1000"])
subprocess.Popen(["/bin/sh", "-c", ignoring])
other = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
pathlib.Path("{data}/plain").write_text(str(plain.pid))
pathlib.Path("{data}/other").write_text(str(other.pid))
from hello import application
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_children_of_a_process_end_with_it(server, how):
    """Asked first, then killed; but for those that have a session of their own."""
    server.crash = None
    server.write_app("parent.py", CHILDREN.format(data=server.data))
    options = {"shop": "shutdown-timeout=1"}
    server.start(mounts=[Mount("/", "parent.py", "%{GLOBAL}", "shop")], groups=options)
    (worker,) = await_daemons(server, "shop", 1)
    files = [server.data / name for name in ("plain", "ignoring", "other")]
    wait_for(lambda: all(file.exists() and file.read_text() for file in files), "the children")
    plain, ignoring, other = (psutil.Process(int(file.read_text())) for file in files)
    os.kill(worker, how)
    for child in (plain, ignoring):
        await_end(child)
    assert other.status() == psutil.STATUS_SLEEPING
    other.kill()
    await_daemons(server, "shop", 1, without=[worker])
    os.kill(int((server.data / "other").read_text()), signal.SIGKILL)


# ---- the command


def ask(*command, **options):
    done = subprocess.run([servers.DIST / "bin/burrow", *command], capture_output=True, text=True, **options)
    return done.returncode, done.stdout + done.stderr


@as_root
def test_a_groups_own_user_has_what_is_his(server):
    mounts = [Mount(f"/{name}", "daemon.py", process=name) for name in ("games", "shop")]
    server.start(mounts=mounts, groups={"games": "user=games group=games", "shop": ""})
    games, shop = (await_daemons(server, group, 1) for group in ("games", "shop"))
    folder = socket_folder(server)
    games_user = {"user": GAMES.pw_uid, "group": GAMES.pw_gid, "extra_groups": []}
    code, said = ask("status", "--socket", folder, **games_user)
    assert code == 0 and "games" in said and "shop" not in said
    assert ask("restart", "--socket", folder, "shop", **games_user)[0] == 2
    assert ask("restart", "--socket", folder, **games_user)[0] == 0
    await_daemons(server, "games", 1, without=games)
    assert daemons(server, "shop") == shop


REGISTER = """
import os, socket, sys
link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
link.settimeout(30)
link.connect(sys.argv[1])
fields = f'"pid": {os.getpid()}, "group": "games", "settings": "x-1", "ready": true, "draining": false'
message = '{"worker": {"register": {%s, "started": 1e19}}}' % fields
socket.send_fds(link, [message.encode()], [0, 0])
print(link.recv(1000), link.recv(1000))
"""


@as_root
def test_a_groups_own_user_does_not_end_the_manager(server):
    """By saying of a process that it was started when no clock can show it."""
    mounts, groups = [Mount("/", "daemon.py", process="games")], {"games": "user=games group=games"}
    server.start(mounts=mounts, groups=groups)
    await_daemons(server, "games", 1)
    first = manager(server)
    command = [sys._base_executable, "-c", REGISTER, socket_folder(server) / "control"]
    user = {"user": GAMES.pw_uid, "group": GAMES.pw_gid, "extra_groups": []}
    done = subprocess.run(command, **user, capture_output=True, text=True, timeout=60)
    assert "drain" in done.stdout, done.stderr
    assert "(manager" in burrow(server, "status").stdout
    assert ours(server, "manager") == [first]


def test_a_process_that_makes_the_queue_wait(server):
    """It belongs to all of the group's processes; the manager waits for none of them."""
    server.crash = None
    script = "import fcntl, os\nfcntl.fcntl(3, fcntl.F_SETFL, 0)\nos._exit(1)\n"
    server.write_app("blocking.py", script)
    server.start(mounts=[Mount("/", "blocking.py", process="shop")], groups={"shop": ""})
    for _ in range(2):
        assert server.get("/").status_code == 503
        assert "shop" in burrow(server, "status").stdout


@as_root
def test_servers_are_found(server):
    start(server)
    folder = socket_folder(server)
    assert f"{server.kind} {folder.suffix[1:]} (manager {manager(server).pid})" in ask("status")[1]
    code, said = ask("status", "--socket", folder.with_suffix(""))
    assert code == 0 and str(manager(server).pid) in said
    assert ask("status", "--socket", server.root)[0] == 2
