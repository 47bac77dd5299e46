"""How long nginx waits for a process group."""

import contextlib
import http.client
import select
import time

import pytest
from servers import wait_for
from standin import ANSWER, MOUNTS, PATHS, Group, body, head
from workers import FLUSH, GOAWAY, LAST, frame


@pytest.fixture
def hasty(nginx):
    """A server with short times, and its process group's socket."""
    nginx.start(mounts=MOUNTS, groups={"shop": "queue-timeout=2 connect-timeout=1 socket-timeout=1"})
    with Group(nginx) as group:
        yield nginx, group


def timed(clients, function, *arguments):
    def call():
        began = time.monotonic()
        return function(*arguments).status_code, time.monotonic() - began

    return clients.submit(call)


@PATHS
def test_queue_timeout(hasty, clients, path):
    server, group = hasty
    group.listen()
    # Silence counts from when a thread has the request: socket-timeout is shorter.
    answer = timed(clients, server.get, path)
    with group.accept() as worker:
        status, took = answer.result()
        assert status == 504 and took > 1.9
        with pytest.raises(EOFError):
            worker.request()
            worker.frame()
    assert 'process group "shop": none of its threads was free within queue-timeout' in server.log()


@PATHS
def test_queue_timeout_of_what_is_sent_again(hasty, clients, path):
    server, group = hasty
    group.listen()
    answer = timed(clients, server.get, path)
    group.accept().close()
    with group.accept():
        status, took = answer.result()
    assert status == 504 and took > 1.9


@PATHS
def test_socket_timeout(hasty, clients, path):
    server, group = hasty
    group.listen()
    answer = timed(clients, server.get, path)
    with group.accept() as worker:
        time.sleep(0.7)
        worker.take()
        status, took = answer.result()
        assert status == 504 and took > 1.6
    answer = clients.submit(server.request, path)
    with group.accept() as worker:
        worker.take()
        worker.serve(head(), body(b"begin", FLUSH))
        with pytest.raises(http.client.IncompleteRead):
            answer.result()


def test_no_process_can_be_reached(hasty, clients):
    server, group = hasty
    status, took = timed(clients, server.get).result()
    assert status == 503 and took > 0.9
    assert "no processes that could be reached" in server.log()
    answers = [clients.submit(server.get) for _ in range(3)]
    time.sleep(0.2)
    group.listen()
    with contextlib.ExitStack() as stack:
        for _ in answers:
            stack.enter_context(group.accept()).serve()
    assert [answer.result().content for answer in answers] == [ANSWER] * 3


def test_a_full_queue(hasty, clients):
    server, group = hasty
    group.listen(backlog=0)
    answers = [timed(clients, server.get) for _ in range(4)]
    wait_for(lambda: sum(answer.done() for answer in answers) == 3, "three answers")
    for status, took in (answer.result() for answer in answers if answer.done()):
        assert status == 503 and took > 0.9
    assert "its queue has been full (listen-backlog)" in server.log()
    waiting = [timed(clients, server.get) for _ in range(3)]
    for _ in range(4):
        with group.accept() as worker:
            worker.serve(head(flags=LAST), frame(GOAWAY))
            assert worker.ended()
    assert [answer.result()[0] for answer in [*answers, *waiting]].count(200) == 4


def test_a_client_leaves_the_queue(nginx, clients):
    nginx.start(mounts=MOUNTS, groups={"shop": ""})
    with Group(nginx).listen(backlog=0) as group, nginx.connect() as client:
        first = clients.submit(nginx.get, "/first")
        select.select([group.listener], [], [])
        client.sendall(b"GET /left HTTP/1.1\r\nHost: x\r\n\r\n")
        client.close()
        wait_for(lambda: "GET /left" in (nginx.root / "access.log").read_text(), "its line")
        other = clients.submit(nginx.get, "/other")
        for path in b"/first", b"/other":
            with group.accept() as worker:
                worker.serve(head(flags=LAST), frame(GOAWAY))
                assert path in worker.asked and worker.ended()
    assert (first.result().status_code, other.result().status_code) == (200, 200)
