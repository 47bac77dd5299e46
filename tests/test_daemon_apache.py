"""Process groups behind httpd: what is its own in them."""

import http.client
import re
import socket

import h2.connection
import h2.events
import psutil
import pytest
import servers
from servers import Mount, read_response, wait_for

MPMS = ["event", "worker", "prefork"]


def start(server, options="threads=4", *, group="%{GLOBAL}", location="", main="", **settings):
    """With `relayed.py` at the root, in a process group."""
    location = f"WSGIProcessGroup shop\n{location}"
    main = f"WSGIDaemonProcess shop {options} python-path={server.apps}\n{main}"
    mounts = [Mount("/", "relayed.py", group, apache=location)]
    return server.start(mounts=mounts, main=main, **{"threads": 8, **settings})


@pytest.fixture(scope="module", params=MPMS)
def running(request):
    server = servers.Apache()
    (server.htdocs / "error.html").write_text("httpd's page\n")
    server.write_app("chosen.py", (server.apps / "relayed.py").read_text())
    start(
        server,
        mpm=request.param,
        processes=4 if request.param == "prefork" else 1,
        main="<VirtualHost *:1>\nServerName elsewhere\nWSGIDaemonProcess theirs\n</VirtualHost>",
        apache=f"""
            ErrorDocument 404 /static.txt
            ErrorDocument 401 "httpd's page"
            <LocationMatch ^/(status|pid)>
                SetEnvIf Override on OVERRIDE
            </LocationMatch>
            WSGIScriptAlias /override {server.apps}/relayed.py process-group=shop
            <Location /override>
                WSGIErrorOverride On
            </Location>
            WSGIScriptAlias /chosen {server.apps}/chosen.py process-group=%{{ENV:GROUP}}
            SetEnvIf X-Group (.+) GROUP=$1
            <Location /chosen/restricted>
                WSGIRestrictProcess shop %{{GLOBAL}}
            </Location>
        """,
    )
    yield server
    server.close()


@pytest.mark.parametrize("group", [None, "one"])
def test_virtual_hosts_share_an_import(apache, group):
    """Of one script in one interpreter, whatever they call it."""
    apache.start(mounts=[Mount("/", "daemon.py", group, "shop")], groups={"shop": ""}, threads=8)
    for tls in (False, True):
        code, pid = apache.curl("/pid", tls=tls)
        assert code == 0 and pid.isdigit()
    assert apache.log().count("Loading WSGI script") == 1


@pytest.fixture
def site(running, watch):
    return watch(running)


# ---- answers


def test_error_pages(site):
    """Those of the application, or httpd's with WSGIErrorOverride; the connection stays either way."""
    pid = site.get("/pid").text
    assert site.get("/status?is=404+Gone+fishing").text == "the application's own page"
    overridden = site.get("/override/status?is=404+Gone+fishing")
    assert (overridden.status_code, overridden.text) == (404, "static\n")
    assert "X-Own" not in overridden.headers
    challenged = site.get("/override/status?is=401+No")
    assert (challenged.status_code, challenged.text) == (401, "httpd's page")
    assert challenged.headers["WWW-Authenticate"] == 'Basic realm="relayed"'
    assert site.get("/override/status?is=299+Fine").text == "the application's own page"
    assert site.get("/override/pid").text == pid


def test_a_location_of_this_server(site):
    """With status 200 it is httpd that goes there; a body is of no use then."""
    assert site.get("/location?to=/static.txt").text == "static\n"
    for _ in range(2):
        assert site.post("/location?to=/static.txt", content=b"x" * 100000).text == "static\n"
    elsewhere = site.get("/location?to=http://elsewhere/", follow_redirects=False)
    assert (elsewhere.status_code, elsewhere.text) == (200, "not for the client")
    moved = site.get("/location?to=/static.txt&status=302+Found", follow_redirects=False)
    assert (moved.status_code, moved.headers["Location"]) == (302, "/static.txt")


def test_a_long_header(site):
    """As long as header-buffer-size lets it be."""
    assert len(site.get("/header?bytes=32000").headers["X-Long"]) == 32000
    assert site.get("/header?bytes=33000").status_code == 502
    assert site.wait_log("header-buffer-size")


# ---- which process group


def test_a_group_that_the_request_chooses(site):
    assert site.get("/chosen/pid", headers={"X-Group": "shop"}).text == site.get("/pid").text
    for group, says in [
        ("ghost", "No WSGI daemon process called 'ghost' has been configured"),
        ("theirs", "Daemon process called 'theirs' cannot be accessed by this WSGI application"),
    ]:
        assert site.get("/chosen/pid", headers={"X-Group": group}).status_code == 500
        assert site.wait_log(re.escape(says))
    assert site.get("/chosen/restricted", headers={"X-Group": "theirs"}).status_code == 500
    assert site.wait_log("WSGIRestrictProcess")


def test_httpd_has_no_python(apache):
    """Where nothing runs in its own processes."""
    start(apache, threads=2)
    assert apache.get("/pid").status_code == 200
    for pid in apache.workers():
        maps = psutil.Process(pid).memory_maps()
        assert not [mapped.path for mapped in maps if "python" in mapped.path]


# ---- bodies


@pytest.mark.parametrize("client", ["plain", "tls", "http2"])
def test_bodies(site, request, client):
    """Megabytes there, known in length or not, and back."""
    if client == "http2" and request.node.callspec.params["running"] == "prefork":
        pytest.skip("mod_http2 does not work on prefork")
    options = {"plain": [], "tls": ["--http1.1"], "http2": ["--http2"]}[client]
    tls = client != "plain"
    data = site.root / "body"
    data.write_bytes(bytes(5_000_000))
    for framing in ([], ["-H", "Transfer-Encoding: chunked"]):
        code, out = site.curl("/count", *options, *framing, "--data-binary", f"@{data}", tls=tls)
        assert code == 0 and out.split()[0] == b"5000000", out
    code, out = site.curl(f"/zeros?bytes={80 << 16}", *options, tls=tls)
    assert code == 0 and out == bytes(80 << 16)


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "tls"])
def test_both_ways_at_once(site, tls):
    with site.connect(tls) as connection:
        connection.sendall(b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = None
        for line in (b"one\n", b"two\n", b"three\n"):
            connection.sendall(b"%x\r\n%s\r\n" % (len(line), line))
            if answer is None:
                answer = http.client.HTTPResponse(connection)
                answer.begin()
            assert answer.readline() == line.upper()
        connection.sendall(b"0\r\n\r\n")
        assert answer.read() == b""


def test_both_ways_at_once_over_http2(site, request):
    if request.node.callspec.params["running"] == "prefork":
        pytest.skip("mod_http2 does not work on prefork")
    with site.connect(tls=["h2"]) as connection:
        speaker = h2.connection.H2Connection()
        speaker.initiate_connection()
        target = [(":method", "POST"), (":path", "/echo"), (":authority", "x"), (":scheme", "https")]
        speaker.send_headers(1, target)

        def receive():
            connection.sendall(speaker.data_to_send())
            events = speaker.receive_data(connection.recv(65536))
            return b"".join(event.data for event in events if isinstance(event, h2.events.DataReceived))

        for line in (b"one\n", b"two\n", b"three\n"):
            speaker.send_data(1, line)
            answer = b""
            while len(answer) < len(line):
                answer += receive()
            assert answer == line.upper()


def test_expect_continue(site):
    with site.connect() as connection:
        connection.sendall(
            b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.sendall(b"abc")
        assert read_response(connection).body.startswith(b"3 ")


def resident(pids):
    return sum(psutil.Process(pid).memory_info().rss for pid in pids)


def test_memory_stays_flat(apache):
    """Whatever goes through, in whichever direction."""
    start(apache)
    (worker,) = {int(apache.get("/pid").text)}
    pids = [worker, *apache.workers()]
    # What every process needs for its first bodies.
    apache.post("/count", content=iter([bytes(1 << 20)] * 16))
    apache.get(f"/zeros?bytes={16 << 20}")
    before = resident(pids)
    size = 256 << 20
    sent = apache.post("/count", content=iter([bytes(1 << 20)] * 256))
    assert sent.text == f"{size} {worker}"
    with apache.client.stream("GET", f"/zeros?bytes={size}") as answer:
        assert sum(len(piece) for piece in answer.iter_raw()) == size
    assert resident(pids) - before < 16 << 20


# ---- clients and their time


def test_a_client_leaves_while_the_application_is_silent(site):
    """httpd's thread does not wait for what nobody wants."""
    go = site.root / "go"
    with site.connect() as connection:
        connection.sendall(f"GET /wait?file={go} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        site.wait_log("waiting")
    wait_for(lambda: " 499 " in (site.root / "access.log").read_text(), "the access log", 5)
    go.touch()
    site.wait_log("over")
    go.unlink()


def test_a_client_stalls(apache):
    """In the middle of its body: 408, and the application is told."""
    start(apache, apache="Timeout 1")
    with apache.connect() as connection:
        connection.sendall(b"POST /count HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab")
        assert read_response(connection).status == 408
    assert apache.post("/count", content=b"abc").text.startswith("3 ")


def test_a_client_does_not_read(apache):
    """response-socket-timeout ends it; others are served meanwhile."""
    start(apache, "threads=2 response-socket-timeout=1")
    with apache.connect() as connection:
        connection.sendall(b"GET /zeros?bytes=%d HTTP/1.1\r\nHost: x\r\n\r\n" % (64 << 20))
        assert apache.get("/pid").status_code == 200
        apache.wait_log("over", timeout=20)


# ---- reloads


def test_idle_connections_are_let_go(apache):
    """A process that is replaced does not wait for an idle httpd."""
    start(apache, "threads=4 graceful-timeout=60")
    first = int(apache.get("/pid").text)
    apache.write_app("relayed.py", (apache.apps / "relayed.py").read_text() + "\n")
    wait_for(lambda: int(apache.get("/pid").text) != first, "a new process")
    wait_for(lambda: not psutil.pid_exists(first), "the end of the first")


def links(pid):
    """Connections to process groups."""
    connections = psutil.Process(pid).net_connections("unix")
    return sum(connection.type is socket.SOCK_STREAM for connection in connections)


def test_a_process_of_httpds_that_ends_keeps_no_idle_connection(apache):
    """Although a request is in progress there."""
    start(apache, "threads=4 restart-on-reload=off")
    (old,) = apache.workers()
    go = [apache.root / name for name in ("first", "second")]
    with apache.connect() as first, apache.connect() as second:
        for connection, file in zip((first, second), go, strict=True):
            connection.sendall(f"GET /wait?file={file} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: links(old) == 2, "two requests in progress")
        go[0].touch()
        assert read_response(first).body == b"whole"
        assert links(old) == 2
        apache.kill(apache.reload_signal)
        wait_for(lambda: links(old) == 1, "the idle one is closed")
        go[1].touch()
        assert read_response(second).body == b"whole"
