"""Wrong answers: what the client gets, what the log says, and that the server goes on."""

import http.client
import re

import httpx
import pytest
from apps import faults

BEFORE = {
    "raise": "ValueError: raised",
    "raise-after-head": "ValueError: raised",
    "raise-first": "ValueError: raised",
    "raise-after-empty": "ValueError: raised",
    "system-exit": "SystemExit",
    "keyboard-interrupt": "KeyboardInterrupt",
    "generator-exit": "GeneratorExit",
    "chained": "ValueError: raised",
    "unprintable": "Unprintable",
    "surrogate": "ValueError: raised",
    "recursion": "RecursionError",
    "no-start": "start_response",
    "no-start-empty": "start_response",
    "no-start-generator": "start_response",
    "start-no-arguments": "TypeError",
    "write-str": "TypeError",
    **{f"status-{n}": "[Ss]tatus|latin-1" for n in range(len(faults.STATUS))},
    **{f"headers-{n}": "[Hh]eader|Content-Length|latin-1" for n in range(len(faults.HEADERS))},
    **{f"body-{n}": "bytes|iterable|iterate" for n in range(len(faults.BODY))},
}
TRACEBACK = "Traceback (most recent call last)"


def check_told(site, cause, chained=0):
    """The log names file and cause, with one traceback at most."""
    log = site.log()
    assert "faults.py" in log
    assert re.search(cause, log)
    assert log.count(TRACEBACK) <= 1 + chained
    assert not [line for line in site.log_lines() if line.severity < 3]


@pytest.mark.parametrize("fault", BEFORE)
def test_500(site, fault):
    response = site.request(f"/faults/{fault}")
    assert response.status == 500
    assert faults.SECRET.encode() not in response.body
    assert b"Traceback" not in response.body and b"faults.py" not in response.body
    assert not [header for header in response.headers if header[0].lower() == "x-evil"]
    check_told(site, BEFORE[fault], chained=fault == "chained")
    assert site.get("/hello").status_code == 200


@pytest.mark.parametrize("fault", ["raise", "raise-first", "status-0", "headers-0", "body-0"])
@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_500_other_methods(site, fault, method):
    with site.http2() as client:
        assert client.request(method, f"/faults/{fault}").status_code == 500
    assert site.client.request(method, f"/faults/{fault}").status_code == 500


@pytest.mark.parametrize("fault", ["raise", "raise-first", "no-start"])
def test_main_interpreter(site, fault):
    assert site.get(f"/main/faults/{fault}").status_code == 500
    check_told(site, BEFORE[fault])


LATE = {
    "late-raise": "ValueError: raised",
    "late-raise-with-length": "ValueError: raised",
    "late-raise-large": "ValueError: raised",
    "late-raise-after-write": "ValueError: raised",
    "late-str": "bytes",
    "late-str-in-list": "bytes",
    **{f"late-exc-info-{n}": "Error" for n in range(len(faults.EXC_INFO))},
    "late-head": "ValueError: raised",
    "late-system-exit": "SystemExit",
    "late-file": "ValueError: raised",
}
SHORT = {
    f"short-{kind}": "Content-Length|1000"
    for kind in ("list", "bytes", "many", "generator", "empty", "write", "file", "bytes-io")
}


EARLY = {*SHORT, "late-str-in-list"}


@pytest.mark.parametrize("encoding", ["none", "gzip"])
@pytest.mark.parametrize("protocol", ["HTTP/1.1", "TLS", "HTTP/2"])
@pytest.mark.parametrize("fault", [*LATE, *SHORT])
def test_client_can_tell(site, fault, protocol, encoding):
    options = ["--http2" if protocol == "HTTP/2" else "--http1.1", "--write-out", "%{http_code}"]
    if encoding == "gzip":
        options.append("--compressed")
    code, out = site.curl(f"/faults/{fault}", *options, tls=protocol != "HTTP/1.1")
    # 18: partial file, 56: receive error, 61: bad content encoding, 92: HTTP/2 stream error. Where nothing
    # has left yet the mistake may also end in an error page.
    if not (fault in EARLY and code == 0 and out[-3:] in (b"500", b"502")):
        assert code in (18, 56, 61, 92), (code, out[:200])
    assert faults.SECRET.encode() not in out
    cause = LATE.get(fault) or SHORT[fault]
    site.wait_log(cause)
    check_told(site, cause)
    assert site.get("/hello").status_code == 200


@pytest.mark.parametrize("fault", [*LATE, *SHORT])
def test_httpx_can_tell(site, fault):
    with site.http2() as client:
        for chosen in (client, site.client):
            try:
                response = chosen.get(f"/faults/{fault}")
            except httpx.RemoteProtocolError:
                continue
            assert response.status_code in (500, 502) and fault in EARLY


def test_late_raise_delivers_what_was_made(site):
    # All that was sent before the mistake arrives, and then the cut.
    with site.connect() as connection:
        connection.sendall(b"GET /faults/late-raise-large HTTP/1.1\r\nHost: x\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        got = 0
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            while chunk := answer.read(65536):
                got += len(chunk)
        assert got + 65536 > 50 * 65536


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("kind", ["list", "many", "generator", "write", "bytes-io"])
def test_too_long_is_cut(site, kind, method):
    for _ in range(2):  # on one connection: the second answer shows that the first was framed right
        response = site.client.request(method, f"/faults/long-{kind}")
        assert response.status_code == 200
        assert response.headers["Content-Length"] == "5"
        assert response.content == (b"12345" if method == "GET" else b"")
    if method == "GET":
        site.wait_log("faults.py")
        check_told(site, "Content-Length")
    with site.http2() as client:
        assert client.get(f"/faults/long-{kind}").content == b"12345"


def test_length_without_body_is_right_for_head(site):
    response = site.client.head("/faults/short-empty")
    assert (response.status_code, response.headers["Content-Length"]) == (200, "1000")
    assert site.get("/hello").status_code == 200
    assert not [line for line in site.log_lines() if line.severity < 6]


def test_second_start_response_replaces_the_first(site):
    # PEP 3333 calls it an error; mod_wsgi takes it as long as nothing was sent, and so do we.
    response = site.get("/faults/start-twice")
    assert (response.status_code, response.text) == (201, "twice")


def test_close_that_raises(site):
    response = site.get("/faults/close")
    assert (response.status_code, response.content) == (200, b"whole")
    site.wait_log("ValueError: raised")
    check_told(site, "ValueError: raised")


def test_framing_headers_of_the_application(site):
    for _ in range(2):
        response = site.get("/faults/framing")
        assert response.status_code == 500 or response.content == b"framed"
    with site.http2() as client:
        response = client.get("/faults/framing")
        assert response.status_code == 500 or response.content == b"framed"


# ---- applications that do not load

GOOD = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"healed"]
"""
UNLOADABLE = {
    "syntax-error": ("def application(:\n", "SyntaxError"),
    "import-error": ("import no_such_module_here\n" + GOOD, "no_such_module_here"),
    "raises": ("1 / 0\n", "ZeroDivisionError"),
    "exits": ("import sys\nsys.exit(3)\n", "SystemExit"),
    "null-byte": ("a = 1\0\n", "null bytes|source code"),
    "wrong-encoding": ("# coding: no-such-codec\n" + GOOD, "no-such-codec"),
    "no-callable": ("nothing = 1\n", "application"),
    "not-callable": ("application = 42\n", "callable"),
    "empty": ("", "application"),
}


@pytest.mark.parametrize("mount", ["/edited", "/main/edited"])
@pytest.mark.parametrize("fault", UNLOADABLE)
def test_unloadable(site, fault, mount):
    source, cause = UNLOADABLE[fault]
    site.write_app("edited.py", source)
    response = site.request(mount)
    assert response.status == 500
    assert b"Traceback" not in response.body and b"edited.py" not in response.body
    assert "edited.py" in site.log()
    assert re.search(cause, site.log())
    assert site.log().count(TRACEBACK) <= 1
    assert site.get("/hello").status_code == 200
    assert site.request(mount).status == 500
    site.write_app("edited.py", GOOD)
    assert site.request(mount).body == b"healed"


@pytest.mark.parametrize("mount", ["/edited", "/main/edited"])
def test_missing_script(site, mount):
    path = site.write_app("edited.py", GOOD)
    assert site.request(mount).body == b"healed"
    path.rename(path.with_suffix(".away"))
    # An application that is loaded may go on while its file is away; what matters is that it heals.
    assert site.request(mount).status in (200, 404, 500)
    path.with_suffix(".away").rename(path)
    assert site.request(mount).body == b"healed"


def test_script_missing_from_the_start(server):
    server.start("not_there.py")
    assert server.request("/").status == (404 if server.kind == "apache" else 500)
    assert "not_there.py" in server.log()
    assert server.log().count(TRACEBACK) <= 1
    server.write_app("not_there.py", GOOD)
    assert server.request("/").body == b"healed"


def test_script_is_a_directory(server):
    (server.apps / "folder.py").mkdir()
    server.start("folder.py")
    assert server.request("/").status in (403, 500)
    assert "folder.py" in server.log()


def test_script_is_not_readable(server):
    path = server.write_app("secret.py", GOOD)
    path.chmod(0)
    server.start("secret.py")
    assert server.request("/").status in (403, 500)
    assert "secret.py" in server.log()
    path.chmod(0o644)
    assert server.request("/").body == b"healed"
