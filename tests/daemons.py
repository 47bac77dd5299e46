"""What daemon mode adds to a server: workers, sockets, the command."""

import contextlib
import itertools
import os
import pathlib
import re
import subprocess

import psutil
import servers
from servers import wait_for

numbers = itertools.count()


def file_name(server):
    """Of a file that is not there yet, for an application to wait for or to write to."""
    return server.root / f"file{next(numbers)}"


def sockets(server):
    """{inode: path} of the process groups' listening sockets."""
    found = {}
    for line in pathlib.Path("/proc/net/unix").read_text().splitlines()[1:]:
        _, _, _, flags, _, _, inode, *path = line.split(maxsplit=7)
        if int(flags, 16) and path and path[0].startswith(f"{server.root}/"):
            found[inode] = pathlib.Path(path[0])
    return found


def unaccepted(server, group):
    """How many connections to a process group wait until a process accepts them."""
    rows = [line.split() for line in pathlib.Path("/proc/net/unix").read_text().splitlines()]
    name = str(socket_folder(server) / f"{group}.sock")
    return sum(row[5] == "02" and row[-1] == name for row in rows)


def descriptors(pid):
    """What a process has open, by number."""
    found = {}
    # It may have ended.
    with contextlib.suppress(FileNotFoundError):
        for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
            # It may have been closed since.
            with contextlib.suppress(FileNotFoundError):
                found[int(entry.name)] = os.readlink(entry)
    return found


def waits_for(pid, descriptor):
    """Whether a thread of the process is woken when there is something at this descriptor."""
    polls = [fd for fd, name in descriptors(pid).items() if name == "anon_inode:[eventpoll]"]
    return any(
        re.search(rf"^tfd:\s+{descriptor} ", pathlib.Path(f"/proc/{pid}/fdinfo/{fd}").read_text(), re.M)
        for fd in polls
    )


def daemons(server, group, serving=False):
    """The pids of a group's processes, without what they have forked; or of those that take connections."""
    own = {f"socket:[{inode}]" for inode, path in sockets(server).items() if path.name == f"{group}.sock"}
    found = {}
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, FileNotFoundError):
            listeners = [fd for fd, name in descriptors(process.pid).items() if name in own]
            if process.name() == "burrow" or not listeners:
                continue
            if not serving or waits_for(process.pid, listeners[0]):
                found[process.pid] = process.ppid()
    return {pid for pid, parent in found.items() if parent not in found}


def await_daemons(server, group, count, *, without=(), timeout=30):
    """The processes of a group that take connections once there are so many, none of them of `without`."""
    def look():
        now = daemons(server, group, serving=True)
        return now if len(now) == count and not now & set(without) else None

    return wait_for(look, f"{count} processes of {group} that serve", timeout)


def socket_folder(server):
    """Where the sockets of this server are."""
    (folder,) = wait_for(lambda: {path.parent for path in sockets(server).values()}, "the sockets")
    return folder


def burrow(server, *arguments, check=True, **options):
    """What the command says to an administrator of this server."""
    command = [servers.DIST / "bin" / "burrow", arguments[0], "--socket", socket_folder(server)]
    done = subprocess.run([*command, *arguments[1:]], capture_output=True, text=True, timeout=30, **options)
    assert done.returncode == 0 or not check, done.stderr
    return done
