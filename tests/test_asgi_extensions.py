"""Extensions of ASGI."""

import functools
import json
import os
import re
import subprocess
from urllib.parse import quote

import psutil
import pytest
from servers import KINDS, Mount, wait_for
from servers.clients import read_response
from sockets import WebSocket

#: nginx sends them over HTTP/2 as well, where it is told to.
NGINX = subprocess.run(["nginx", "-v"], capture_output=True, check=True, text=True).stderr
HAS_EARLY_HINTS = re.search(r"/1\.(\d+)", NGINX).group(1) >= "29"
FOR_APACHE = "SSLVerifyClient optional_no_ca\nH2EarlyHints on"
PROTOCOLS = "ssl_protocols TLSv1.2 TLSv1.3;"
PLACES = ["nginx", "nginx-group", "apache", "apache-group"]


@pytest.fixture(scope="module")
def identity(tmp_path_factory):
    """A client's certificate, that of its issuer, and both with the key in one file."""
    folder = tmp_path_factory.mktemp("identity")
    new = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split()
    run = functools.partial(subprocess.run, check=True, capture_output=True, cwd=folder)
    run([*new, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=Issuer"])
    run([*new, "-keyout", "key.pem", "-out", "cert.pem", "-subj", "/O=Shop, Inc./CN=Zo\xeb",
         "-utf8", "-CA", "ca.pem", "-CAkey", "ca.key"])  # fmt: skip
    files = ("cert.pem", "ca.pem", "key.pem")
    (folder / "all.pem").write_text("".join((folder / name).read_text() for name in files))
    return folder


@pytest.fixture(params=PLACES)
def site(request, started, watch, identity):
    """The server, running, with the application in its own processes or in a process group."""
    kind, _, process = request.param.partition("-")
    if request.param not in started:
        server = started[request.param] = KINDS[kind]()
        issuer = server.root / "issuer.pem"
        issuer.write_text((identity / "ca.pem").read_text())
        mounts = [Mount("/", "asgi_app.py"), Mount("/socket", "asgi_socket.py")]
        for mount in mounts:
            mount.group, mount.process = "asgi", process or None
            mount.nginx = "gzip off; early_hints 1;" if HAS_EARLY_HINTS else "gzip off;"
        server.start(
            mounts=mounts,
            groups={process: "threads=4"} if process else None,
            http=f"ssl_client_certificate {issuer}; ssl_verify_client optional_no_ca; {PROTOCOLS}",
            main=f"{FOR_APACHE}\nSSLCACertificateFile {issuer}" if kind == "apache" else "",
        )
    return watch(started[request.param])


def certificates(text):
    return [f"{pem}-----END CERTIFICATE-----\n" for pem in text.split("-----END CERTIFICATE-----\n")[:-1]]


def seen(site, *options, path="/scope"):
    """The scope of a request that curl makes with these options."""
    code, answer = site.curl(path, *options)
    assert code == 0
    return json.loads(answer)["scope"]


def test_tls(site):
    server = (site.root / "cert.pem").read_text()
    suites = "--tls-max 1.2 --ciphers ECDHE-ECDSA-AES128-GCM-SHA256".split()
    for options, version, suite in [
        (["--tls13-ciphers", "TLS_AES_128_GCM_SHA256"], 0x0304, 0x1301),
        (["--http1.1", *suites], 0x0303, 0xC02B),
    ]:
        scope = seen(site, *options)
        assert scope["scheme"] == "https"
        assert scope["extensions"]["tls"] == {
            "server_cert": server,
            "client_cert_chain": [],
            "client_cert_name": None,
            "client_cert_error": None,
            "tls_version": version,
            "cipher_suite": suite,
        }
    with site.connect(tls=True) as connection:  # its second request is as its first
        for _ in range(2):
            connection.sendall(b"GET /scope HTTP/1.1\r\nHost: a\r\n\r\n")
            scope = json.loads(read_response(connection).body)["scope"]
            assert scope["extensions"]["tls"]["server_cert"] == server
    assert "tls" not in site.get("/scope").json()["scope"]["extensions"]


def test_certificates_of_clients(site, identity):
    tls = seen(site, "--cert", str(identity / "all.pem"))["extensions"]["tls"]
    assert tls["client_cert_chain"] == certificates((identity / "all.pem").read_text())
    assert tls["client_cert_name"].replace(r"\C3\AB", "\xeb") == "CN=Zo\xeb,O=Shop\\, Inc."
    assert tls["client_cert_error"] is None
    stranger = ["--cert", str(site.root / "cert.pem"), "--key", str(site.root / "key.pem")]
    tls = seen(site, *stranger)["extensions"]["tls"]
    assert tls["client_cert_chain"] == [(site.root / "cert.pem").read_text()]
    assert tls["client_cert_name"] == "CN=localhost" and tls["client_cert_error"]


def test_tls_of_sockets(site):
    # One thread: in Python's ssl another one that reads gets in the way of one that writes.
    with WebSocket(site, b"socket/describe", tls=True) as client:
        scope = json.loads(client.receive()[1])
    assert scope["scheme"] == "wss" and set(scope["extensions"]) == {"websocket.http.response", "tls"}
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304


HINTED = """\
HTTP/1.1 103 Early Hints
Link: </a.css>; rel=preload
Link: </b.css>; rel=preload

HTTP/1.1 103 Early Hints
Link: </c.css>; rel=preload

HTTP/1.1 200 OK
"""


def test_early_hints(site):
    for tls in (False, True):
        with site.connect(tls) as connection:
            connection.sendall(b"GET /hints HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        assert answer.startswith(HINTED.replace("\n", "\r\n")) and "x-last: yes" in answer.lower()
        assert answer.count("103") == 2 and "late.css" not in answer
    old = site.exchange(b"GET /hints HTTP/1.0\r\nHost: a\r\n\r\n")
    assert old.status == 200 and old.body == b"hinted" and old.header("x-last") == "yes"
    scope = json.loads(site.exchange(b"GET /scope HTTP/1.0\r\nHost: a\r\n\r\n").body)["scope"]
    assert "http.response.early_hint" not in scope["extensions"]
    is_offered = "http.response.early_hint" in seen(site)["extensions"]
    assert is_offered == (site.kind == "apache" or HAS_EARLY_HINTS)
    code, answer = site.curl("/hints", "-i")
    assert code == 0 and answer.count(b"HTTP/2 103") == (2 if is_offered else 0)
    assert answer.count(b".css>; rel=preload") == (3 if is_offered else 0)
    assert answer.endswith(b"hinted")
    many = answered(site, "/many_hints")
    assert many.count("103 early hints") == 16 and many.endswith("hinted")


def answered(site, path, headers="TE: trailers\r\n", start="GET {} HTTP/1.1", tls=False):
    """All bytes of the answer, as text."""
    with site.connect(tls) as connection:
        request = f"{start.format(path)}\r\nHost: a\r\n{headers}Connection: close\r\n\r\n"
        connection.sendall(request.encode())
        return b"".join(iter(lambda: connection.recv(65536), b"")).decode().lower()


def test_trailers(site):
    for accepting in ("TE: trailers\r\n", "TE: gzip;q=0.5 , Trailers\r\nX-Other: 1\r\n"):
        for tls in (False, True):
            answer = answered(site, "/trailers", accepting, tls=tls)
            head, _, body = answer.partition("\r\n\r\n")
            assert "trailer: x-sum" in head and "content-length" not in head
            assert body.endswith("\r\n0\r\nx-sum: 1\r\nx-sum: 2\r\nx-end: yes\r\n\r\n")
    assert (
        json.loads(site.exchange(b"GET /scope HTTP/1.1\r\nHost: a\r\nTE: trailers\r\n\r\n").body)["scope"][
            "extensions"
        ]["http.response.trailers"]
        == {}
    )
    for _ in range(20):
        assert answered(site, "/trailers_alone").endswith("\r\n\r\n0\r\nx-end: yes\r\n\r\n")
    code, answer = site.curl("/trailers", "-i", "-H", "TE: trailers")
    assert code == 0 and answer.startswith(b"HTTP/2 200")
    assert b"\r\n\r\nbody" in answer and answer.count(b"x-sum: ") == 2 and b"x-end: yes" in answer
    assert "http.response.trailers" in seen(site, "-H", "TE: trailers")["extensions"]
    assert site.client.get(f"{site.url}/trailers", headers={"TE": "trailers"}).content == b"body"


def test_trailers_that_nobody_wants(site):
    for headers, start in [
        ("", "GET {} HTTP/1.1"),
        ("TE: trailers\r\n", "GET {} HTTP/1.0"),
        ("TE: gzip\r\n", "GET {} HTTP/1.1"),
    ]:
        answer = answered(site, "/trailers", headers, start)
        assert "content-length: 4\r\n" in answer and answer.endswith("\r\n\r\nbody")
        assert "http.response.trailers" not in answered(site, "/scope", headers, start)
    for path, start in [("/trailers", "HEAD {} HTTP/1.1"), ("/trailers?204", "GET {} HTTP/1.1"),
                        ("/trailers?304", "GET {} HTTP/1.1")]:  # fmt: skip
        answer = answered(site, path, start=start)
        assert answer.endswith("\r\n\r\n") and answer.count("\r\n\r\n") == 1 and "x-end" not in answer


def test_trailers_that_are_wrong(site):
    raised = answered(site, "/wrong_trailers").partition("raised: ")[2].strip().split("|")
    assert raised == [
        "runtimeerror: asgi event 'http.response.trailers' is not expected before http.response.start",
        "runtimeerror: asgi event 'http.response.trailers' is not expected while the response's body is",
        "runtimeerror: asgi event 'http.response.body' is not expected while the response's trailers are",
        "valueerror: content-length must not be a trailer",
        "valueerror: transfer-encoding must not be a trailer",
        "valueerror: trailer must not be a trailer",
        "valueerror: not a header's name: 'a b'",
        "valueerror: control character in the value of header a",
        "valueerror: control character in the value of header a",
        "typeerror: a header's name must be bytes, not str",
    ]
    assert "after the response is complete" in site.get("/told").json()[0]
    answer = answered(site, "/without_trailers")
    assert "4\r\nbody\r\n" in answer and not answer.endswith("0\r\n\r\n")
    site.wait_log("returned without the trailers of its response")


def test_parts_of_files(site):
    path = site.data / "parts"
    data = os.urandom(3_000_000)
    path.write_bytes(data)

    def parts(expression):
        return site.get(f"/parts?{quote(f'{path}&{expression}')}")

    assert parts("[{}]").content == data
    assert site.get("/told").json()[0] == len(data)
    assert parts("[b'a', {'offset': 5, 'count': 100_000}, b'b', {'offset': 2_999_999}]").content == (
        b"a" + data[5:100_005] + b"b" + data[-1:]
    )
    # each goes on where the one before has ended, whether it was small, large or one too many
    assert parts("[{'count': 10}, {'count': 70_000}] * 21").content == data[: 21 * 70_010]
    assert parts("[{'file': file.fileno(), 'count': 3}, {'file': file.fileno()}]").content == data
    assert parts("[{'offset': 4_000_000}, {'count': 0}, b'end']").content == b"end"
    assert site.client.head(f"/parts?{quote(f'{path}&[{{}}]')}").status_code == 200
    processes = [psutil.Process(pid) for pid in {site.get("/state").json()["pid"], *site.workers()}]
    for process in processes:
        wait_for(lambda of=process: str(path) not in str(of.open_files()), "the files are closed")


@pytest.mark.parametrize(
    "part, raised",
    [
        ("{'file': 'name'}", "AttributeError: 'str' object has no attribute 'fileno'"),
        ("{'file': os.pipe()[0]}", "ValueError: what is to be sent is not a regular file"),
        ("{'offset': -1}", "ValueError: offset and count of http.response.zerocopysend must not be negative"),
        ("{'offset': 0.5}", "TypeError: 'float' object cannot be interpreted as an integer"),
        ("{'offset': 2**64}", "OverflowError: int too big to convert"),
    ],
)
def test_parts_that_are_none(site, part, raised):
    query = quote(f"{site.root / 'cert.pem'}&[{part}]")
    assert site.get(f"/parts?{query}").status_code == 500
    site.wait_log(raised)
