"""Well-formed answers of every shape."""

import io
import itertools

import pytest
from apps import responses
from servers import read_response, wait_for

names = itertools.count()


@pytest.fixture
def name(site):
    """A name that events of this test are filed under."""
    return f"n{next(names)}"


def events(site, name, mount="/responses"):
    return site.get(f"{mount}/events?name={name}").json()


def wait_closed(site, name):
    """The events of a request once its iterable was closed, which must happen once."""
    seen = wait_for(lambda: "close" in (seen := events(site, name)) and seen, "close()")
    assert seen.count("close") == 1
    return seen


BODIES = {
    "list-of-one": b"one",
    "list-of-many": b"".join(b"%d," % number for number in range(1000)),
    "list-with-empty": b"ab",
    "list-of-empty": b"",
    "empty-list": b"",
    "tuple": b"tuple",
    "tuple-of-one": b"one",
    "list-subclass": b"subclass",
    "bytes": b"whole",
    "generator": b"generator",
    "generator-function": b"late head",
    "empty-generator": b"",
    "first-chunk-empty": b"body",
    "getitem": b"getitem",
    "body": b"abcde",
    "large": responses.LINES,
    "large-chunks": responses.LINES * 20,
    "write": b"written twice and returned",
    "write-length": b"abcdef",
    "write-only": b"written",
    "no-type": b"untyped",
    "status-only-number": b"no reason",
    "length": b"abcde",
    "length-zero": b"",
    "file": responses.LINES,
    "file-block": responses.LINES,
    "file-offset": responses.LINES[-100:],
    "file-length": responses.LINES[10:60],
    "file-empty": b"",
    "file-buffered": responses.LINES.split(b"\n", 1)[1],
    "file-after-write": b"before file",
    "bytes-io": responses.LINES,
    "pipe": b"through a pipe",
    "file-wrapped": responses.LINES.upper(),
    "file-without-close": b"ab",
}


@pytest.mark.parametrize("shape", BODIES)
def test_body(site, shape):
    for options in ({}, {"headers": {"accept-encoding": "gzip"}}):
        response = site.get(f"/responses/{shape}", **options)
        assert response.status_code == 200
        assert response.content == BODIES[shape]
    with site.http2() as client:
        response = client.get(f"/responses/{shape}")
        assert response.status_code == 200
        assert response.content == BODIES[shape]


@pytest.mark.parametrize("shape", BODIES)
def test_http_1_0(site, shape):
    response = site.exchange(f"GET /responses/{shape} HTTP/1.0\r\n\r\n".encode())
    assert response.body == BODIES[shape]
    assert response.header("Transfer-Encoding") is None


@pytest.mark.parametrize("shape", BODIES)
def test_head(site, shape):
    # The connection stays in step: what follows a HEAD is the next answer.
    with site.connect() as connection:
        for method in ("HEAD", "GET"):
            connection.sendall(f"{method} /responses/{shape} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            response = read_response(connection, method)
            assert response.status == 200
            assert response.body == (BODIES[shape] if method == "GET" else b"")


ONE_PIECE = [
    "list-of-one", "list-of-empty", "tuple-of-one", "bytes", "large", "file", "file-offset", "file-buffered",
    "empty-list",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("shape", ONE_PIECE)
def test_content_length_is_supplied(site, shape, method):
    response = site.client.request(method, f"/responses/{shape}")
    if method == "HEAD" and not BODIES[shape]:
        assert response.headers.get("Content-Length", "0") == "0"
    else:
        assert response.headers["Content-Length"] == str(len(BODIES[shape]))
    assert "Transfer-Encoding" not in response.headers


@pytest.mark.parametrize("shape", ["generator", "write"])
def test_unknown_length_is_chunked(site, shape):
    response = site.get(f"/responses/{shape}")
    assert response.headers["Transfer-Encoding"] == "chunked"
    assert "Content-Length" not in response.headers


def test_status_and_headers(site):
    response = site.request("/responses/headers")
    assert (response.status, response.reason) == (299, "Strange Reason: yes")
    assert response.body == b"headers"
    assert response.header("Content-Type") == "text/x-mine; charset=latin-1"
    assert response.header("X-Latin") == "caf\xe9"
    assert response.header("X-Empty") == ""
    assert ("x-lower", "kept") in [(key.lower(), value) for key, value in response.headers]
    values = [value for key, value in response.headers if key == "X-Twice"]
    assert ", ".join(values) == "1, 2"
    cookies = [value for key, value in response.headers if key == "Set-Cookie"]
    assert cookies == ["a=1", "b=2; Path=/"]
    assert response.header("ETag") == '"tag"'
    assert response.header("Last-Modified") == "Thu, 01 Jan 1970 00:00:00 GMT"
    assert response.header("Location") == "/elsewhere"
    vary = ", ".join(value for key, value in response.headers if key == "Vary")
    assert "X-One" in vary and "X-Two" in vary
    for once in ("Date", "Server", "Content-Length", "Content-Type"):
        assert sum(key.lower() == once.lower() for key, _ in response.headers) == 1, once


def test_redirect_is_the_applications(site):
    response = site.get("/responses/redirect")
    assert (response.status_code, response.headers["Location"]) == (302, "/responses/list-of-one")


def test_own_error_pages(site):
    response = site.get("/responses/404")
    assert (response.status_code, response.content) == (404, b"my own 404")
    response = site.get("/responses/500")
    assert (response.status_code, response.content) == (500, b"my own 500")


@pytest.mark.parametrize("status", [204, 304])
def test_no_content(site, name, status):
    with site.connect() as connection:
        connection.sendall(f"GET /responses/{status}?name={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        response = read_response(connection)
        assert (response.status, response.body) == (status, b"")
        assert response.header("Transfer-Encoding") is None
        assert response.header("Content-Length") in (None, "0")
        connection.sendall(b"GET /responses/list-of-one HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(connection).body == b"one"
    wait_closed(site, name)


def test_204_never_has_a_body(site, name):
    with site.connect() as connection:
        connection.sendall(f"GET /responses/204-with-body?name={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert read_response(connection).status == 204
        connection.sendall(b"GET /responses/list-of-one HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_response(connection).body == b"one"
    wait_closed(site, name)


def test_replaced_head(site):
    response = site.get("/responses/replaced-head")
    assert (response.status_code, response.reason_phrase) == (503, "Replaced")
    assert "X-Old" not in response.headers and response.headers["X-New"] == "1"
    assert response.content == b"replaced"


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("shape", ["body", "length", "large-chunks", "file", "bytes-io", "file-length"])
def test_close_is_called(site, name, shape, method):
    assert site.client.request(method, f"/responses/{shape}?name={name}").status_code == 200
    assert wait_closed(site, name)[-1] == "close"


@pytest.mark.parametrize("shape", ["gated", "gated-write"])
@pytest.mark.parametrize("protocol", ["HTTP/1.1", "HTTP/2", "gzip"])
def test_chunks_leave_when_they_are_made(site, name, shape, protocol):
    path = f"/responses/{shape}?name={name}"
    headers = {"accept-encoding": "gzip" if protocol == "gzip" else "identity"}
    client = site.http2(headers=headers) if protocol == "HTTP/2" else site.client
    with client.stream("GET", path, headers=headers) as response:
        chunks = response.iter_bytes()
        assert next(chunks) == b"first\n"
        # The one interpreter that has the events is the one that the request runs in.
        client.get(f"/responses/open?name={name}")
        assert b"".join(chunks) == b"second\n"
    if client is not site.client:
        client.close()


def test_generators_are_lazy(site, name):
    with site.client.stream("GET", f"/responses/gated?name={name}") as response:
        assert next(response.iter_bytes()) == b"first\n"
        site.get(f"/responses/open?name={name}")


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
@pytest.mark.parametrize("shape", ["endless", "endless-write"])
def test_client_gone_during_download(site, name, shape, tls):
    with site.connect(tls) as connection:
        connection.sendall(f"GET /responses/{shape}?name={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert connection.recv(100)
    if shape == "endless":
        wait_closed(site, name)
    else:
        *_, last = wait_for(
            lambda: (seen := events(site, name)) and isinstance(seen[-1], list) and seen, "an exception"
        )
        assert "OSError" in last
    assert site.get("/hello").status_code == 200
    loud = [line for line in site.log_lines() if line.severity < 6]
    assert not loud, loud


def test_client_gone_http2(site, name):
    with site.http2() as client, client.stream("GET", f"/responses/endless?name={name}") as response:
        next(response.iter_bytes())
    wait_closed(site, name)
    loud = [line for line in site.log_lines() if line.severity < 6]
    assert not loud, loud


def test_client_gone_frees_the_thread(server):
    server.start("responses.py", group="%{GLOBAL}", threads=2)
    for number in range(6):
        with server.connect() as connection:
            connection.sendall(f"GET /endless?name=n{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert connection.recv(100)

    def seen(number):
        # httpd closes kept-alive connections where all its threads are busy.
        return server.get(f"/events?name=n{number}", headers={"Connection": "close"}).json()

    wait_for(lambda: all("close" in seen(number) for number in range(6)), "every close()")


def test_slow_reader(site, name):
    # A client that reads slowly neither loses bytes nor makes the server hold them all.
    with site.connect() as connection:
        connection.sendall(f"GET /responses/large-chunks?name={name} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        connection.recv(1)
        wait_for(lambda: len(seen := events(site, name)) > 2 and seen, "some chunks")
        response = read_response(Prefixed(connection, b"H"))
    assert response.body == BODIES["large-chunks"]
    wait_closed(site, name)


class Prefixed:
    """A connection whose first bytes were read already."""

    def __init__(self, connection, prefix):
        self.connection = connection
        self.prefix = prefix

    def makefile(self, mode):
        parts = [io.BytesIO(self.prefix), self.connection.makefile(mode)]

        class Both(io.RawIOBase):
            def readable(self):
                return True

            def readinto(self, buffer):
                data = parts[0].read(len(buffer)) or parts[1].read1(len(buffer))
                buffer[: len(data)] = data
                return len(data)

        return io.BufferedReader(Both())


def test_keep_alive_and_pipelining(site):
    with site.connect() as connection:
        connection.sendall(b"GET /responses/body HTTP/1.1\r\nHost: x\r\n\r\n" * 20)
        reader = connection.makefile("rb")

        class Shared:
            def makefile(self, mode):
                return Unclosed(reader)

        for _ in range(20):
            assert read_response(Shared()).body == b"abcde"


class Unclosed:
    """A reader that http.client may not close."""

    def __init__(self, reader):
        self.reader = reader

    def __getattr__(self, name):
        return getattr(self.reader, name)

    def close(self):
        pass

    def flush(self):
        pass
