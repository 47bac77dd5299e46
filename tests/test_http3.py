"""HTTP/3, where nginx and curl speak it."""

import json
import os
import subprocess

import pytest
from servers import Mount, Nginx, wait_for
from test_asgi import UNBUFFERED, told
from test_asgi_extensions import HAS_EARLY_HINTS

HTTP3 = "--http3-only"


def says(command, word):
    done = subprocess.run([command, "-V"], capture_output=True, text=True)
    return word in done.stdout + done.stderr


pytestmark = pytest.mark.skipif(
    not (says("nginx", "--with-http_v3_module") and says("curl", "HTTP3")),
    reason="nginx or curl has no HTTP/3",
)


@pytest.fixture(params=[None, "group"], ids=["nginx", "nginx-group"])
def site(request, started, watch):
    """nginx, running, with the applications in its own processes or in a process group."""
    process = request.param
    if process not in started:
        started[process] = server = Nginx()
        mounts = [
            Mount("/", "asgi_app.py", process=process),
            Mount("/live", "asgi_app.py", process=process, nginx=UNBUFFERED),
            Mount("/wsgi", "environ.py", process=process),
            Mount("/body", "body.py", process=process, nginx=UNBUFFERED),
            Mount("/responses", "responses.py", process=process),
            Mount("/faults", "faults.py", process=process),
        ]
        groups = {process: "processes=1 threads=4"} if process else None
        server.start(
            mounts=mounts,
            groups=groups,
            threads=4,
            http="early_hints 1;" if HAS_EARLY_HINTS else "",
            nginx=f"listen 127.0.0.1:{server.tls_port} quic;",
        )
    return watch(started[process])


def get(site, path, *options):
    code, answer = site.curl(path, HTTP3, *options)
    assert code == 0, answer
    return answer


def test_scope(site):
    scope = json.loads(get(site, "/scope/a%20b?q", "-H", "X-Twice: 1", "-H", "X-Twice: 2"))["scope"]
    assert (scope["type"], scope["http_version"], scope["scheme"]) == ("http", "3", "https")
    assert (scope["path"], scope["query_string"]) == ("/scope/a b", "q")
    assert scope["server"] == ["127.0.0.1", site.tls_port] and scope["client"][0] == "127.0.0.1"
    assert scope["headers"][0] == ["host", f"127.0.0.1:{site.tls_port}"]
    assert [value for name, value in scope["headers"] if name == "x-twice"] == ["1", "2"]
    assert scope["extensions"]["tls"]["tls_version"] == 0x0304


def test_environ(site):
    environ = json.loads(get(site, "/wsgi/a%20b?q"))["strings"]
    assert environ["SERVER_PROTOCOL"] == "HTTP/3.0" and environ["wsgi.url_scheme"] == "https"
    assert environ["HTTP_HOST"] == f"127.0.0.1:{site.tls_port}"
    assert environ["SERVER_PORT"] == str(site.tls_port)


def test_bodies(site, tmp_path):
    file = tmp_path / "body"
    for size in (1, 100_000, 3_000_000):
        file.write_bytes(os.urandom(size))
        for path in ("/echo", "/live/echo"):
            assert get(site, path, "--data-binary", f"@{file}") == file.read_bytes()
        assert get(site, "/body/count", "--data-binary", f"@{file}") == str(size).encode()
    assert get(site, "/large?10000000") == b"x" * 10_000_000
    assert get(site, "/responses/generator") == b"generator"
    code, head = site.curl("/hello", HTTP3, "-I")
    assert code == 0 and head.startswith(b"HTTP/3 200") and b"Hello" not in head


def test_an_answer_begins_while_the_body_arrives(site, tmp_path):
    file = tmp_path / "body"
    file.write_bytes(os.urandom(3_000_000))
    upload = ["-T", str(file), "--limit-rate"]
    assert get(site, "/live/stream", *upload, "1G") == file.read_bytes()
    # So slow that it would take longer than anybody waits.
    command = ["curl", "-skN", HTTP3, "--max-time", "60", *upload, "20K", f"{site.tls_url}/live/stream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout.read(100) == file.read_bytes()[:100]
        curl.terminate()


def test_a_client_that_leaves_is_told_at_once(site):
    get(site, "/forget")
    with subprocess.Popen(["curl", "-sk", HTTP3, "--max-time", "1", f"{site.tls_url}/waits"]):
        wait_for(lambda: told(site) == ["waits"], "the request")
    wait_for(lambda: told(site) == ["waits", "http.disconnect"], "http.disconnect")


@pytest.mark.parametrize("path", ["/cut", "/raises_late", "/faults/late-raise"])
def test_an_answer_that_is_cut_does_not_look_whole(site, path):
    assert site.curl(path, HTTP3)[0] != 0


def test_trailers_and_early_hints(site):
    answer = get(site, "/trailers", "-i", "-H", "TE: trailers")
    assert b"\r\n\r\nbody" in answer and answer.count(b"x-sum: ") == 2 and b"x-end: yes" in answer
    answer = get(site, "/hints", "-i")
    assert answer.count(b"HTTP/3 103") == (2 if HAS_EARLY_HINTS else 0) and answer.endswith(b"hinted")
