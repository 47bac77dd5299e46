"""Request bodies: wsgi.input."""

import json
import re
import urllib.parse

import pytest
from apps import body
from servers import read_response, wait_for

LINES = b"first\nsecond\r\n\nlast without end"
MEBIBYTE = bytes(range(256)) * 4096

OPERATIONS = [
    "read",
    "read;read;read,5",
    "read,-1;read,-1",
    "read,0;read,3;read,0;read",
    "read,1;read,1000000;read,1",
    "readline;readline;readline;readline;readline",
    "readline,3;readline,3;readline,0;readline,-1;readline,100;read",
    "readlines",
    "readlines;readlines;read",
    "list",
    "list;list;read",
    "readline;list",
    "next;next;read,2;readline",
    "read,7;readline;readlines",
    "next;next;next;next;next",
]


@pytest.mark.parametrize("mount", ["/body", "/stream"])
@pytest.mark.parametrize("framing", ["fixed", "chunked"])
@pytest.mark.parametrize("content", [b"", b"\n", LINES], ids=["empty", "newline", "lines"])
def test_operations(site, mount, framing, content):
    for operations in OPERATIONS:
        sent = content if framing == "fixed" else (content[i : i + 4] for i in range(0, len(content), 4))
        response = site.post(f"{mount}?do={urllib.parse.quote(operations)}", content=sent)
        assert response.status_code == 200, operations
        assert response.json() == body.expected(content, operations), operations


@pytest.mark.parametrize("mount", ["/body", "/stream"])
@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_large(site, mount, framing):
    def sent():
        if framing == "fixed":
            return MEBIBYTE
        return (MEBIBYTE[i : i + 50000] for i in range(0, len(MEBIBYTE), 50000))

    for operations in ("read", "read,1000000;read;read", "readline;readline;readlines", "read,70000;list"):
        response = site.post(f"{mount}?do={operations}", content=sent())
        assert response.json() == body.expected(MEBIBYTE, operations), operations
    for size in (1000, 65536, 3000000):
        assert site.post(f"{mount}/count?size={size}", content=sent()).json() == len(MEBIBYTE)


@pytest.mark.parametrize("mount", ["/body", "/stream"])
def test_large_http2(site, mount):
    with site.http2() as client:
        response = client.post(f"{mount}?do=read", content=MEBIBYTE)
        assert response.json() == [MEBIBYTE.decode("latin-1")]
        response = client.post(f"{mount}/count", content=(MEBIBYTE for _ in range(4)))
        assert response.json() == 4 * len(MEBIBYTE)


def test_get_without_body(site):
    assert site.get("/body?do=read;readline;readlines;list;next").json() == ["", "", [], [], None]


@pytest.mark.parametrize("mount", ["/body", "/stream"])
def test_body_that_nobody_reads(site, mount):
    # The connection is kept and the next request on it is understood. Where nginx has not received all of the
    # body by then, it closes the connection in its own time.
    headers = {"Connection": "close"} if mount == "/stream" else {}
    for _ in range(3):
        assert site.post(f"{mount}/unread", content=MEBIBYTE, headers=headers).json() == "not read"
        assert site.post(f"{mount}?do=read", content=b"x").json() == ["x"]


def test_what_was_read_ahead_is_freed(server):
    """A line is looked for in what is read ahead, and most of that the application never takes."""
    server.start("body.py", nginx="wsgi_request_buffering off;")

    def memory_after(requests):
        for _ in range(requests):
            assert server.post("/?do=readline", content=b"line\n" + bytes(16000)).json() == ["line\n"]
        return server.get("/memory").json()

    before = memory_after(100)
    assert memory_after(300) < before + 300 * 8000


@pytest.mark.parametrize("mount", ["/body", "/stream"])
def test_two_threads_read(site, mount):
    # PEP 3333 promises nothing here, but the server must survive it.
    response = site.post(f"{mount}/both", content=MEBIBYTE)
    assert response.status_code == 200 and response.json() <= len(MEBIBYTE)
    assert site.post(f"{mount}?do=read", content=b"x").json() == ["x"]


@pytest.mark.parametrize("operation", ["read,x", "read,1,2", "readline,1,2", "close"])
def test_wrong_use_is_an_exception(site, operation):
    # Wrong arguments are the application's mistake: an exception for it, not a crash for us.
    response = site.post(f"/faults/input?do={operation}", content=LINES)
    assert response.status_code in (200, 500)
    assert site.get("/hello").status_code == 200


def test_expect_100_continue(site):
    code, out = site.curl("/body?do=read", "-H", "Expect: 100-continue", "--data-binary", "abc", tls=False)
    assert (code, json.loads(out)) == (0, ["abc"])


def test_continue_is_sent_before_the_body(site):
    with site.connect() as connection:
        connection.sendall(
            b"POST /stream?do=read HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 3\r\n"
            b"Connection: close\r\n\r\n"
        )
        interim = b""
        while not interim.endswith(b"\r\n\r\n"):
            interim += connection.recv(1)
        assert interim.startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        assert json.loads(read_response(connection).body) == ["abc"]


def events(site, name):
    return site.get(f"/body/events?of={name}").json()


def slow_upload(site, mount, name):
    connection = site.connect()
    connection.sendall(
        f"POST {mount}/pieces?name={name} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n"
        "Connection: close\r\n\r\na".encode()
    )
    return connection


def test_slow_body_streams(site):
    name = f"slow-{site.kind}"
    with slow_upload(site, "/stream", name) as connection:
        wait_for(lambda: "a" in events(site, name), "'a' in the application")
        connection.sendall(b"b")
        wait_for(lambda: "b" in events(site, name), "'b' in the application")
        connection.sendall(b"c")
        assert json.loads(read_response(connection).body) == ["called", "a", "b", "c", "end"]


def test_slow_body_is_buffered_by_nginx(site):
    if site.kind != "nginx":
        pytest.skip("httpd never buffers")
    with slow_upload(site, "/body", "buffered") as connection:
        connection.sendall(b"b")
        assert events(site, "buffered") == []
        connection.sendall(b"c")
        assert json.loads(read_response(connection).body) == ["called", "a", "b", "c", "end"]


@pytest.mark.parametrize("framing", ["fixed", "chunked"])
def test_client_gone_during_upload(site, framing):
    name = f"gone-{site.kind}-{framing}"
    if framing == "fixed":
        connection = slow_upload(site, "/stream", name)
    else:
        connection = site.connect()
        connection.sendall(
            f"POST /stream/pieces?name={name} HTTP/1.1\r\nHost: x\r\n"
            "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n5\r\nb".encode()
        )
    wait_for(lambda: "a" in events(site, name), "the first byte in the application")
    connection.close()
    *_, last = wait_for(
        lambda: (seen := events(site, name)) and isinstance(seen[-1], list) and seen, "an exception"
    )
    assert "OSError" in last
    assert site.get("/hello").status_code == 200
    loud = [line for line in site.log_lines() if line.severity < 6]
    assert not loud, loud


def test_too_large(server):
    server.start("body.py", nginx="client_max_body_size 1k;", apache="LimitRequestBody 1024")
    assert server.post("/count", content=bytes(1024)).json() == 1024
    assert server.post("/count", content=bytes(1025)).status_code == 413
    assert server.post("/count", content=bytes(1024)).json() == 1024


def test_too_large_chunked(server):
    server.start(
        "body.py",
        nginx="client_max_body_size 1k; wsgi_request_buffering off;",
        apache="LimitRequestBody 1024",
    )
    response = server.post("/count", content=(bytes(1000) for _ in range(50)))
    assert response.status_code in (413, 500)
    assert not re.search(r"OSError(?s:.*)OSError", server.log())
    assert server.post("/count", content=bytes(1024)).json() == 1024


def test_too_large_is_not_the_clients_leaving(apache):
    apache.start("body.py", apache="LimitRequestBody 2")
    assert apache.post("/pieces?name=large", content=(b"a" for _ in range(5))).status_code in (413, 500)
    assert "body cannot be read" in apache.get("/events?of=large").json()[-1][-1]
    assert "the client left before" not in apache.log()


def test_malformed_chunk(site):
    response = site.exchange(
        b"POST /body?do=read HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n"
        b"Connection: close\r\n\r\nzz\r\nabc\r\n0\r\n\r\n"
    )
    assert response.status >= 400
    assert site.get("/hello").status_code == 200
