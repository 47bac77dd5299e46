"""What nginx makes of the answers of a worker."""

import http.client
import struct

import pytest
import workers
from standin import ANSWER, PATHS, body, head
from workers import ABORT, BODY, FILE, FLUSH, GOAWAY, HEAD, LAST, frame


@PATHS
def test_frames_that_are_cut_anywhere(site, group, clients, path):
    answer = clients.submit(site.get, path)
    frames = [head(headers=[(b"X-One", b"1")]), body(b"one ", 0), body(b"", 0), body(b"two ", FLUSH),
              frame(GOAWAY), body(b"three")]  # fmt: skip
    with group.accept() as worker:
        worker.request()
        for byte in b"".join(frames):
            worker.send(bytes([byte]))
        assert (answer.result().text, answer.result().headers["X-One"]) == ("one two three", "1")
        assert worker.ended(), "it was told that the worker goes away"


@PATHS
def test_what_is_flushed_reaches_the_client(site, group, path):
    with site.connect() as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        with group.accept() as worker:
            worker.request()
            worker.send(head() + body(b"first", FLUSH))
            seen = b""
            while b"first" not in seen:
                seen += client.recv(4096)
            worker.send(body(b"last"))
            assert b"last" in client.recv(4096)


@PATHS
def test_long_heads(site, first, clients, path):
    for length in (3900, 4000, *range(4020, 4050), 4096, 20_000, 32_000):
        answer = clients.submit(site.request, path)
        first.serve(head(headers=[(b"X-Long", b"x" * length)]), body())
        assert (len(answer.result().header("X-Long")), answer.result().body) == (length, ANSWER)


@PATHS
def test_no_body(site, first, clients, path):
    for method, status in ("HEAD", 200), ("GET", 204), ("GET", 304):
        answer = clients.submit(site.client.request, method, path)
        first.serve(head(status, 10, flags=LAST))
        assert (answer.result().status_code, answer.result().content) == (status, b"")
    answer = clients.submit(site.client.head, path)
    first.serve(head(length=len(ANSWER)), body())
    assert answer.result().headers["Content-Length"] == str(len(ANSWER))


STATUSES = {
    workers.FAILED: 500,
    workers.ABORTED: 500,
    workers.UNAVAILABLE: 503,
    workers.DIED: 502,
    workers.TIMEOUT: 504,
}


@PATHS
def test_outcomes(site, first, clients, path):
    for outcome, status in STATUSES.items():
        answer = clients.submit(site.get, path)
        first.serve(frame(ABORT, bytes([outcome])))
        assert answer.result().status_code == status
    answer = clients.submit(site.request, path)
    first.serve(head(), body(b"begin", 0), frame(ABORT, bytes([workers.ABORTED])))
    with pytest.raises(http.client.IncompleteRead) as cut:
        answer.result()
    assert cut.value.partial == b"begin"


MALFORMED = {
    "garbage": b"HTTP/1.1 200 OK\r\n\r\n",
    "a body first": body(),
    "a request": frame(workers.REQUEST, flags=LAST),
    "a second HELLO": frame(workers.HELLO, struct.pack("<HHI", 1, 0, 0)),
    "an outcome that is none": frame(ABORT),
    "a long frame": struct.pack("<IBBH", (1 << 20) + 1, HEAD, 0, 0),
    "no head": frame(HEAD, b"x" * 30),
    "a head that is two": head(headers=[(b"X", b"1\r\nY: 2")], flags=LAST),
    "an early status": head(100, flags=LAST),
    "a short head": head(length=3, flags=LAST),
}
MALFORMED_LATER = {
    "garbage": b"HTTP/1.1 200 OK\r\n\r\n",
    "a second head": head(),
    "more than there should be": body(b"x" * 11, 0),
    "less than there should be": body(b"x" * 9),
    "a file without a descriptor": frame(FILE, struct.pack("<QQ", 0, 5)),
    "a strange file": frame(FILE, struct.pack("<QQ", 1 << 63, 5)),
    "a long body": struct.pack("<IBBH", 65537, BODY, 0, 0),
}


@PATHS
@pytest.mark.parametrize("what", MALFORMED)
def test_malformed(site, group, clients, what, path):
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.serve(MALFORMED[what])
        if what == "a short head":
            with pytest.raises((http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError)):
                answer.result()
        else:
            assert answer.result().status == 502
        assert worker.ended()
    assert 'process group "shop": its process has sent' in site.log()


@PATHS
@pytest.mark.parametrize("what", MALFORMED_LATER)
def test_malformed_later(site, group, clients, what, path):
    answer = clients.submit(site.request, path)
    with group.accept() as worker:
        worker.serve(head(length=10, headers=[(b"X-One", b"1")]), MALFORMED_LATER[what])
        with pytest.raises((http.client.IncompleteRead, http.client.BadStatusLine, ConnectionError)):
            answer.result()
        assert worker.ended()
    assert 'process group "shop": its process has sent' in site.log()


def test_what_follows_an_answer_is_for_nobody(site, group, clients):
    answer = clients.submit(site.get)
    with group.accept() as worker:
        worker.serve(head(flags=LAST), head(flags=LAST))
        assert answer.result().content == b""
        assert worker.ended()
