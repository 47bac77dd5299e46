"""nginx's connections to workers: which requests are sent again, and both directions."""

import contextlib
import http.client
import os
import time

import psutil
import pytest
import servers
from servers import wait_for
from standin import ANSWER, MOUNTS, PATHS, Group, body, first_of, head
from workers import BODY, FLUSH, GOAWAY, LAST, frame


def test_a_connection_is_used_again(site, first, clients):
    for _ in range(3):
        answer = clients.submit(site.get)
        first.serve()
        assert answer.result().content == ANSWER
    with site.http2() as client:
        answer = clients.submit(client.get, "/")
        first.serve()
        assert answer.result().content == ANSWER
    first.send(frame(GOAWAY))
    assert first.ended()


def test_going_away_is_no_reason_not_to_answer(site, first, clients):
    answer = clients.submit(site.get)
    first.request()
    first.send(frame(GOAWAY) + head(length=len(ANSWER)) + body())
    assert answer.result().content == ANSWER
    assert first.ended()


def test_idle_ones_make_room_for_clients(nginx):
    nginx.start(mounts=MOUNTS, groups={"shop": ""}, nginx="location = /status { stub_status; }")
    with Group(nginx).listen() as group, contextlib.ExitStack() as open_ones:
        for _ in range(100):
            open_ones.enter_context(client := nginx.connect())
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        for worker in [open_ones.enter_context(group.accept()) for _ in range(100)]:
            worker.serve()
        wait_for(lambda: "Waiting: 0" in nginx.get("/status").text, "no client that is idle")
        many = [open_ones.enter_context(nginx.connect()) for _ in range(450)]
        for client in many:
            client.sendall(b"GET /status HTTP/1.0\r\n")
        for client in many:
            client.sendall(b"\r\n")
            assert b"Active connections" in client.recv(4096)


UPLOADS = [("/", 0), ("/", 1000), ("/", 300_000), ("/unbuffered", 1000), ("/unbuffered", 300_000)]


@pytest.mark.parametrize(("path", "size"), UPLOADS)
@pytest.mark.parametrize("how", ["idle", "greeted", "not accepted"])
def test_what_nobody_has_taken_is_sent_again(site, group, clients, path, size, how):
    data = os.urandom(size)
    ask = lambda: site.post(path, content=data) if size else site.get(path)  # noqa: E731
    if how == "idle":
        with first_of(site, group, clients, path) as worker:
            answer = clients.submit(ask)
            worker.fill(1)
    else:
        answer = clients.submit(ask)
        with group.accept(greet=how == "greeted"):
            time.sleep(0.05)
    with group.accept() as worker:
        assert worker.serve() == data
        assert answer.result().content == ANSWER
    assert "sent again" in site.log() and "[error]" not in site.log()


@PATHS
def test_requests_that_come_at_once(site, group, path):
    """One of them cannot be sent, which is no concern of the others."""
    question = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with contextlib.ExitStack() as open_ones:
        clients = [open_ones.enter_context(site.connect()) for _ in range(3)]
        for client in clients:
            client.sendall(question)
        workers = [open_ones.enter_context(group.accept()) for _ in clients]
        for worker in workers:
            worker.serve()
        assert [servers.read_response(client).body for client in clients] == [ANSWER] * 3
        (pid,) = site.workers()
        nginx = psutil.Process(pid)
        nginx.suspend()
        try:
            for client in clients:
                client.sendall(question)
            workers[1].socket.close()
        finally:
            nginx.resume()
        for worker in workers[0], workers[2], open_ones.enter_context(group.accept()):
            assert worker.serve() == b""
        assert [servers.read_response(client).body for client in clients] == [ANSWER] * 3
    assert "sent again" in site.log() and "[error]" not in site.log()


@PATHS
@pytest.mark.parametrize("size", [0, 1000, 300_000])
def test_what_was_taken_is_not(site, group, clients, path, size):
    answer = clients.submit(site.post, path, content=bytes(size))
    with group.accept() as worker:
        worker.fill(1)
        worker.take()
    assert answer.result().status_code == 502
    assert 'process group "shop": its process has ended while it served the request' in site.log()


@PATHS
def test_a_worker_that_dies_in_an_answer(site, group, clients, path):
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.serve(head(), body(b"begin", FLUSH))
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.result()
    assert cut.value.partial == b"begin"
    with site.http2() as client:
        answer = clients.submit(client.get, path)
        with group.accept() as worker:
            worker.serve(head(), body(b"begin", FLUSH))
        with pytest.raises(Exception, match="(?i)reset|INTERNAL_ERROR"):
            answer.result()


@PATHS
def test_a_client_that_leaves(site, group, path):
    for sent in b"", head() + body(b"begin", FLUSH):
        with site.connect() as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            worker = group.accept()
            worker.request()
            worker.send(sent)
        with worker:
            assert worker.ended()


@PATHS
def test_an_answer_before_the_body_has_come(site, group, path):
    with site.connect() as client:
        client.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n\r\n".encode())
        if path == "/":
            client.sendall(bytes(9_000_000))
        with group.accept() as worker:
            worker.fill(1)
            worker.send(head(413, length=len(ANSWER)) + body())
            answer = servers.read_response(client)
            assert (answer.status, answer.body) == (413, ANSWER)
            with pytest.raises((EOFError, ConnectionError)):
                worker.request()


def test_both_directions_at_once(site, group):
    with site.connect() as client:
        client.sendall(b"POST /unbuffered HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"3\r\none\r\n")
        with group.accept() as worker:
            worker.frame()
            assert worker.frame() == (BODY, 0, b"one")
            worker.send(head() + body(b"eno", FLUSH))
            seen = b""
            while b"eno" not in seen:
                seen += client.recv(4096)
            client.sendall(b"3\r\ntwo\r\n")
            assert worker.frame() == (BODY, 0, b"two")
            client.sendall(b"0\r\n\r\n")
            assert worker.frame() == (BODY, LAST, b"")
            worker.send(body(b"owt"))
            assert b"owt" in client.recv(4096)


def test_a_large_upload_and_a_slow_worker(site, group, clients):
    data = os.urandom(8_000_000)
    for path in "/", "/unbuffered":
        answer = clients.submit(site.post, path, content=data)
        with group.accept() as worker:
            time.sleep(0.1)
            assert worker.serve() == data
            assert answer.result().content == ANSWER


def test_a_slow_client_does_not_hold_the_worker(site, first, clients):
    data = os.urandom(6_000_000)
    with site.connect() as slow:
        slow.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        first.request()
        first.send(head(length=len(data)))
        for at in range(0, len(data), 60_000):
            first.send(body(data[at : at + 60_000], LAST if at + 60_000 >= len(data) else 0))
        answer = clients.submit(site.get)
        first.serve()
        assert answer.result().content == ANSWER
        assert servers.read_response(slow).body == data
