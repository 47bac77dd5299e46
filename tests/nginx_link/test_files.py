"""Files whose descriptors a worker passes to nginx."""

import array
import contextlib
import http.client
import os
import socket
import struct

import pytest
import servers
from servers import wait_for
from standin import ANSWER, PATHS, body, head
from workers import FILE, LAST, frame


def pass_file(worker, descriptors, offset, length, flags=LAST):
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
    worker.socket.sendmsg([frame(FILE, struct.pack("<QQ", offset, length), flags)], rights)


def descriptors_of(server):
    (pid,) = server.workers()
    return len(os.listdir(f"/proc/{pid}/fd"))


@PATHS
@pytest.mark.parametrize("tls", [False, True])
def test_files(site, first, clients, tmp_path, path, tls):
    data = os.urandom(3_000_000)
    (tmp_path / "data").write_bytes(data)
    before = descriptors_of(site)
    for _ in range(3):
        with site.http2() as client, (tmp_path / "data").open("rb") as file:
            answer = clients.submit((client if tls else site.client).get, path)
            first.request()
            first.send(head(length=len(data) - 10))
            pass_file(first, [file.fileno()], 10, len(data) - 1010, 0)
            first.send(body(data[-1000:]))
            assert answer.result().content == data[10:]
    wait_for(lambda: descriptors_of(site) == before, "closed descriptors")


def test_a_file_frees_the_worker(site, first, clients, tmp_path):
    (tmp_path / "data").write_bytes(bytes(8_000_000))
    with site.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first.request()
        first.send(head(length=8_000_000))
        with (tmp_path / "data").open("rb") as file:
            pass_file(first, [file.fileno()], 0, 8_000_000)
        answer = clients.submit(site.get)
        first.serve()
        assert answer.result().content == ANSWER
        assert servers.read_response(slow).body == bytes(8_000_000)


@PATHS
def test_a_file_that_has_become_shorter(site, first, clients, tmp_path, path):
    (tmp_path / "data").write_bytes(b"short")
    answer = clients.submit(site.request, path)
    first.request()
    first.send(head(length=1000))
    with (tmp_path / "data").open("rb") as file:
        pass_file(first, [file.fileno()], 0, 1000)
    with pytest.raises(http.client.IncompleteRead):
        answer.result()
    assert "[alert]" in site.log()
    os.truncate(site.error_log, 0)  # or it would count as a crash
    site.mark()


@PATHS
@pytest.mark.parametrize("kind", ["pipe", "folder", "write only", "many", "unasked"])
def test_bad_descriptors(site, group, clients, tmp_path, kind, path):
    pipe = os.pipe()
    given = {
        "pipe": [pipe[0]], "folder": [os.open(tmp_path, os.O_RDONLY)], "many": [pipe[0]] * 253,
        "write only": [os.open(tmp_path / "data", os.O_WRONLY | os.O_CREAT)], "unasked": [pipe[0]] * 19,
    }[kind]  # fmt: skip
    before = descriptors_of(site)
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.request()
        worker.send(head(length=5, headers=[(b"X-One", b"1")]))
        if kind == "unasked":
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", given))]
            worker.socket.sendmsg([body(b"x", 0)], rights)
        else:
            pass_file(worker, given, 0, 5)
        with contextlib.suppress(http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError):
            assert answer.result().status == 502  # where all of it came at once
        assert worker.ended()
    assert 'process group "shop": its process has sent' in site.log()
    # One is the pipe by which the last worker would say that it ends.
    wait_for(lambda: descriptors_of(site) <= before + 1, "closed descriptors")
    for descriptor in {*given, *pipe}:
        os.close(descriptor)


def test_many_files_are_refused(site, group, clients, tmp_path):
    (tmp_path / "data").write_bytes(b"x")
    answer = clients.submit(site.request, "/")
    with group.accept() as worker, (tmp_path / "data").open("rb") as file:
        worker.request()
        worker.send(head())
        # It may be cut off before the last one.
        with contextlib.suppress(BrokenPipeError):
            for _ in range(17):
                pass_file(worker, [file.fileno()], 0, 1, 0)
        with pytest.raises(http.client.IncompleteRead):
            answer.result()
        assert worker.ended()
