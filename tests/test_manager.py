"""The manager: one process beside each server, whatever becomes of it, of the server or of the log."""

import ctypes
import operator
import os
import pathlib
import re
import shutil
import signal
import subprocess

import psutil
import pytest
from daemons import await_daemons, burrow, descriptors
from servers import Mount, Nginx, machine, wait_for

SYS_PIDFD_GETFD = 438


def ours(server, *roles):
    """The server's own processes of these roles, by the log that they write to."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            command = process.cmdline()
            log = os.readlink(f"/proc/{process.pid}/fd/2")
        except (psutil.NoSuchProcess, FileNotFoundError):
            continue
        if command[:1] == ["burrow"] and command[1] in roles and log.startswith(f"{server.root}/"):
            found.append(process)
    return found


def manager(server):
    """Its one manager, once it has started. What it has forked looks the same until it is another program."""
    server.wait_log("burrow manager: started")

    def alone():
        found = ours(server, "manager")
        return found[0] if len(found) == 1 else None

    return wait_for(alone, "one manager")


def successor(server, old):
    """The manager that takes the place of another."""
    def look():
        return [process for process in ours(server, "manager") if process.pid != old.pid]

    return wait_for(look, "another manager")[0]


def links(pid):
    """The descriptors of a process that are links: sockets of the type SOCK_SEQPACKET."""
    rows = [line.split() for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]]
    inodes = {f"socket:[{row[6]}]" for row in rows if row[4] == "0005"}
    return [fd for fd, name in descriptors(pid).items() if name in inodes]


def hold_link(pid):
    """A copy of the master's end of its link, as a child has that another module forked."""
    (fd,) = links(pid)
    pidfd = os.pidfd_open(pid)
    copy = ctypes.CDLL(None, use_errno=True).syscall(SYS_PIDFD_GETFD, pidfd, fd, 0)
    os.close(pidfd)
    assert copy >= 0, os.strerror(ctypes.get_errno())
    return copy


def await_end(process):
    def ended():
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_for(ended, f"the end of {process}")


def test_starts_with_the_server_and_ends_with_it(server):
    server.start()
    process = manager(server)
    server.stop()
    assert not process.is_running()
    assert "burrow manager: ends at configuration 1: the server stops" in server.log()


def test_a_check_of_the_configuration_starts_nothing(server):
    assert server.configtest()[0] == 0
    assert not ours(server, "manager", "guardian")
    assert "burrow" not in server.log()


def test_keeps_no_descriptor_of_the_server(server):
    server.start()
    held = list(descriptors(manager(server).pid).values())
    assert held.count("/dev/null") == 2
    assert held.count(str(server.error_log)) == 1
    assert len([name for name in held if name.startswith("socket:")]) == 1
    own = ("/dev/null", str(server.error_log), "socket:", "anon_inode:", "/memfd:burrow")
    assert all(name.startswith(own) for name in held), held


def test_no_other_child_holds_the_link(server):
    cache = server.root / "cache"
    server.start(processes=2, http=f"proxy_cache_path {cache} keys_zone=cache:1m;")
    assert server.get("/static.txt").status_code == 200
    assert len(links(server.master_pid)) == 1
    ours_pids = [process.pid for process in ours(server, "manager", "guardian")]
    children = [child.pid for child in psutil.Process(server.master_pid).children()]
    wait_for(lambda: not any(links(pid) for pid in children if pid not in ours_pids), "their letting go")


def test_reloads_leave_one_manager_and_no_descriptor(server):
    server.start()
    process = manager(server)
    server.reload()

    def held():
        return [len(descriptors(pid)) for pid in (process.pid, server.master_pid)]

    before = held()
    for _ in range(3):
        server.reload()
    assert ours(server, "manager") == [process]
    assert len(ours(server, "guardian")) <= 1
    # nginx keeps a channel to a worker until it has noticed its end.
    wait_for(lambda: all(map(operator.le, held(), before)), "no more descriptors than before")
    server.stop()
    assert "ends at configuration 5" in server.log()


def test_a_reload_with_a_broken_configuration_changes_nothing(server):
    server.start()
    process = manager(server)
    file = server.root / ("nginx.conf" if server.kind == "nginx" else "httpd.conf")
    good = file.read_text()
    file.write_text(good + "\nnonsense;\n")
    if server.kind == "nginx":
        server.kill(signal.SIGHUP)
        server.wait_log(r"\[emerg\].*nonsense")
        os.truncate(server.error_log, 0)  # or it would count as a crash
    else:
        # As apachectl does: a signal alone would end the server.
        assert subprocess.run(server.command("-k", "graceful"), capture_output=True).returncode != 0
    assert ours(server, "manager") == [process]
    assert server.get("/static.txt").status_code == 200
    file.write_text(good)
    server.reload()
    assert ours(server, "manager") == [process]


def test_outlives_a_restart_of_httpd(apache):
    apache.start()
    process = manager(apache)
    apache.reload_signal = signal.SIGHUP
    apache.reload()
    apache.reload()
    assert ours(apache, "manager") == [process]
    apache.stop()
    assert "ends at configuration 3: the server stops" in apache.log()


def test_a_manager_that_is_killed_is_replaced(server):
    server.start()
    first = manager(server)
    first.kill()
    second = successor(server, first)
    server.reload()
    assert ours(server, "manager") == [second]
    server.stop()
    assert "ends at configuration" in server.log()


def test_a_manager_that_is_asked_to_end_is_replaced(server):
    server.start()
    first = manager(server)
    first.terminate()
    server.wait_log("burrow manager: ends at configuration 1: a signal")
    successor(server, first)


@pytest.mark.parametrize("reloads", [0, 1])
@pytest.mark.parametrize("held", [False, True], ids=["", "held"])
def test_ends_when_the_master_is_killed(server, held, reloads):
    server.start()
    process = manager(server)
    for _ in range(reloads):
        server.reload()
    assert server.get("/static.txt").status_code == 200
    link = hold_link(server.master_pid) if held else None
    kill_master(server, process)
    if link is not None:
        os.close(link)
    assert "the server is gone" in server.log()


def test_ends_when_the_master_of_mod_cgid_is_killed(apache):
    """Its daemon is forked without an exec, and keeps whatever the master had open."""
    apache.start(main="LoadModule cgid_module /usr/lib/apache2/modules/mod_cgid.so")
    kill_master(apache, manager(apache))


def kill_master(server, process):
    """Kills it, awaits the end of the manager, and ends the workers, which go on serving."""
    workers = psutil.Process(server.master_pid).children()
    server.process.kill()
    server.process.wait()
    await_end(process)
    for worker in workers:
        if worker.is_running():
            worker.kill()


def test_a_server_without_the_command_serves(server, monkeypatch):
    library = server.root / "dist" / "lib" / "burrow"
    shutil.copytree(machine.DIST / "lib" / "burrow", library)
    monkeypatch.setattr(machine, "DIST", server.root / "dist")
    server.start()
    assert server.get("/static.txt").status_code == 200
    server.wait_log(f"cannot start {server.root}/dist/bin/burrow")


def test_a_second_server_beside_it_is_left_alone(server):
    server.start()
    process = manager(server)
    other = type(server)()
    other.start()
    assert manager(other).pid != process.pid
    other.close()
    assert ours(server, "manager") == [process]
    assert server.get("/static.txt").status_code == 200


# ---- the log


def test_says_no_more_than_the_level_of_nginx_allows(nginx):
    settings = {"mounts": [Mount("/", "daemon.py", process="shop")], "groups": {"shop": ""}}
    nginx.start(**settings)
    (pid,) = await_daemons(nginx, "shop", 1)
    nginx.configure(**settings, log_level="warn")
    nginx.kill(signal.SIGHUP)
    wait_for(lambda: '"generation": 2' in burrow(nginx, "status", "--json").stdout, "the configuration")
    nginx.mark()
    os.kill(pid, signal.SIGKILL)
    nginx.wait_log(f"process group 'shop': process {pid} was ended by SIGKILL")
    (pid,) = await_daemons(nginx, "shop", 1, without=[pid])
    burrow(nginx, "restart")
    await_daemons(nginx, "shop", 1, without=[pid])
    assert not re.search(r"\[notice\].*burrow manager", nginx.log())


def test_follows_a_rotated_log(server):
    server.start()
    process = manager(server)
    writers = [process, *ours(server, "guardian")]
    server.error_log.rename(server.root / "error.log.1")
    server.kill(signal.SIGUSR1)

    def logs():
        return {os.readlink(f"/proc/{writer.pid}/fd/2") for writer in writers}

    wait_for(lambda: logs() == {str(server.error_log)}, "all writing to the new log")
    server.stop()
    assert "burrow manager: ends" in server.error_log.read_text()


def test_writes_to_the_logger_of_the_last_graceful_restart(apache):
    """Each one starts another logger, and the old one ends."""
    piped = apache.error_log
    piped.touch()
    start = apache.command
    apache.command = lambda *options: [*start(*options), "-c", f'ErrorLog "|$/bin/cat >>{piped}"']
    apache.start()
    wait_for(lambda: "burrow manager: started" in piped.read_text(), "the first line")
    (process,) = [child for child in psutil.Process(apache.master_pid).children()
                  if child.cmdline()[:2] == ["burrow", "manager"]]  # fmt: skip
    before = os.readlink(f"/proc/{process.pid}/fd/2")
    apache.reload()
    now = os.readlink(f"/proc/{apache.master_pid}/fd/2")
    assert now != before
    wait_for(lambda: os.readlink(f"/proc/{process.pid}/fd/2") == now, "the manager's new log")
    apache.stop()
    assert "burrow manager: ends at configuration 2" in piped.read_text()


# ---- nginx in the background: its master gets its final pid after it has started the manager


class Daemon(Nginx):
    """nginx as distributions run it."""

    def configure(self, mounts, **settings):
        super().configure(mounts, **settings)
        file = self.root / "nginx.conf"
        file.write_text(file.read_text().replace("daemon off;", ""))

    def command(self, *options):
        # A binary upgrade runs the name that nginx was started by.
        return [shutil.which("nginx"), *super().command(*options)[1:]]

    def start(self):
        self.configure([Mount("/", "hello.py")])
        # Comes back when nobody holds the pipes any more.
        subprocess.run(self.command(), capture_output=True, timeout=30, check=True)
        self.process = self.master()
        return self

    def master(self):
        return Master(int(wait_for((self.root / "server.pid").read_text, "the pid file")))


class Master(psutil.Process):
    """With what a Popen has, too."""

    def poll(self):
        return None if self.is_running() else 0


@pytest.fixture
def daemon(fresh):
    return fresh(Daemon)


def test_lives_with_nginx_in_the_background(daemon):
    daemon.start()
    first = manager(daemon)
    first.kill()
    second = successor(daemon, first)
    daemon.stop()
    assert not second.is_running()


@pytest.mark.parametrize("held", [False, True], ids=["", "held"])
@pytest.mark.parametrize("reloads", [0, 1])
def test_ends_when_the_master_in_the_background_is_killed(daemon, held, reloads):
    test_ends_when_the_master_is_killed(daemon, held, reloads)


def test_a_binary_upgrade_runs_two_for_its_time(daemon):
    daemon.start()
    old, old_master = manager(daemon), daemon.process
    daemon.kill(signal.SIGUSR2)
    new = successor(daemon, old)
    assert {process.pid for process in ours(daemon, "manager")} == {old.pid, new.pid}

    daemon.process = wait_for(lambda: (now := daemon.master()) != old_master and now, "the new master")
    old_master.send_signal(signal.SIGQUIT)
    await_end(old)
    await_end(old_master)
    assert ours(daemon, "manager") == [new]
    assert len(ours(daemon, "guardian")) == 1
    assert daemon.get("/static.txt").status_code == 200
