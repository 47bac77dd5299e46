"""ASGI applications: HTTP."""

import concurrent.futures
import dataclasses
import http.client
import importlib.util
import json
import os
import socket

import psutil
import pytest
from servers import KINDS, Mount, grows_little, read_response, wait_for

PLACES = ["nginx", "nginx-group", "apache", "apache-group"]
UNBUFFERED = "wsgi_request_buffering off; gzip off;"
#: Who is believed when it names the client.
FRONT = {
    "nginx": {"http": "set_real_ip_from 127.0.0.1; set_real_ip_from unix:; real_ip_header X-Front;"},
    "apache": {
        "main": "LoadModule remoteip_module /usr/lib/apache2/modules/mod_remoteip.so\n"
        "RemoteIPHeader X-Front\nRemoteIPInternalProxy 127.0.0.1"
    },
}


def start(server, process):
    mounts = [
        Mount("/", "asgi_app.py", group="asgi"),
        Mount("/live", "asgi_app.py", group="asgi", nginx=UNBUFFERED),
        Mount("/prefix", "asgi_app.py", group="other"),
        Mount("/wsgi", "environ.py", group="asgi"),
        Mount("/main", "asgi_app.py", group="%{GLOBAL}"),
    ]
    mounts = [dataclasses.replace(mount, process=process) for mount in mounts]
    groups = {process: "threads=4"} if process else None
    listen = f"listen unix:{server.root}/socket;"
    server.start(mounts=mounts, groups=groups, threads=4, nginx=listen, **FRONT[server.kind])


@pytest.fixture(params=PLACES)
def place(request, fresh):
    """A server, not started yet, and the process group that its applications are to be in, or None."""
    kind, _, process = request.param.partition("-")
    return fresh(KINDS[kind]), process or None


@pytest.fixture
def running(started, watch):
    """Gives the server of a place, running, with the applications in its own processes or in a group."""

    def give(place):
        kind, _, process = place.partition("-")
        if place not in started:
            started[place] = KINDS[kind]()
            start(started[place], process or None)
        return watch(started[place])

    return give


@pytest.fixture(params=PLACES)
def site(request, running):
    return running(request.param)


def told(site):
    return site.get("/told").json()


def errors(site):
    return [line.message for line in site.log_lines() if line.severity <= 3]


def test_whole_bodies(site):
    for _ in range(3):
        assert site.get("/hello").text == "Hello, World!\n"
    answer = site.get("/large?10240")
    assert answer.content == b"x" * 10240 and answer.headers["content-length"] == "10240"
    for size in (0, 1, 100_000, 3_000_000):
        body = os.urandom(size)
        assert site.post("/echo", content=body).content == body
    assert site.post("/echo", content=iter([b"a" * 70_000, b"b"])).content == b"a" * 70_000 + b"b"
    assert site.get("/wsgi").status_code == 200
    assert not errors(site)


def test_large_answers(site):
    assert len(site.get("/large?30000000").content) == 30_000_000


def test_scope(site):
    headers = ["X-Twice: 1", "X-Twice: \xe9", "Proxy: 4", "Cookie: a=b"]
    answer = site.request("/scope/a%2Fb%20%C3%A9%FF?q=%20&r", *headers)
    told = json.loads(answer.body)
    scope, kinds = told["scope"], told["kinds"]
    client, server = scope.pop("client"), scope.pop("server")
    assert client[0] == "127.0.0.1" and isinstance(client[1], int) and client[1] > 1024
    assert server == ["127.0.0.1", site.port]
    received = scope.pop("headers")
    # httpd itself makes one header of several
    twice = [["x-twice", "1, \xe9"]] if site.kind == "apache" else [["x-twice", "1"], ["x-twice", "\xe9"]]
    others = [["proxy", "4"], ["cookie", "a=b"]]
    assert received == [["host", "localhost"], ["connection", "close"], *twice, *others]
    state = scope.pop("state")
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/scope/a/b \xe9\ufffd",
        "raw_path": "/scope/a%2Fb%20%C3%A9%FF",
        "query_string": "q=%20&r",
        "root_path": "",
        "extensions": {
            f"http.response.{name}": {} for name in ("pathsend", "zerocopysend", "early_hint")
        },
    }
    assert {key for key, kind in kinds.items() if kind == "bytes"} == {"raw_path", "query_string"}
    assert psutil.pid_exists(state["pid"])


def test_http_versions(site):
    lines = "GET /scope HTTP/1.0\r\nHost: a\r\n\r\n"
    assert json.loads(site.exchange(lines.encode()).body)["scope"]["http_version"] == "1.0"
    with site.http2() as client:
        scope = client.get("/scope").json()["scope"]
    assert scope["http_version"] == "2" and scope["scheme"] == "https"
    assert scope["headers"][0] == ["host", f"127.0.0.1:{site.tls_port}"]
    assert scope["server"] == ["127.0.0.1", site.tls_port]


def test_the_client_that_a_front_names(site):
    scope = json.loads(site.request("/scope", "X-Front: 198.51.100.7").body)["scope"]
    host, port = scope["client"]
    assert host == "198.51.100.7" and isinstance(port, int)
    assert scope["server"] == ["127.0.0.1", site.port]


@pytest.mark.parametrize("site", ["nginx", "nginx-group"], indirect=True)
def test_peers_of_a_unix_socket(site):
    """Whom httpd cannot have."""
    path = str(site.root / "socket")
    for headers, client in (b"", None), (b"X-Front: 198.51.100.7\r\n", ["198.51.100.7", 0]):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(path)
            connection.sendall(b"GET /scope HTTP/1.1\r\nHost: a\r\n%s\r\n" % headers)
            scope = json.loads(read_response(connection).body)["scope"]
        assert (scope["client"], scope["server"]) == (client, [path, None])


def test_root_path(site):
    assert site.get("/prefix/path_of/x%20y").text == "/prefix|/prefix/path_of/x y"
    assert site.get("/path_of").text == "|/path_of"


def test_bodies_arrive_and_leave_in_pieces(site):
    with site.connect() as connection:
        connection.sendall(b"POST /live/stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        answer = http.client.HTTPResponse(connection)
        for number in range(3):
            piece = b"piece %d" % number
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
            if number == 0:
                answer.begin()
            assert answer.read(len(piece)) == piece
        connection.sendall(b"0\r\n\r\n")
        assert answer.read() == b""


def test_a_slow_client_holds_the_application_back(site):
    site.get("/forget")
    worker = site.get("/state").json()["pid"]
    with site.connect() as connection:
        with grows_little(worker):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            sent = wait_for(lambda: told(site), "the answer's begin")
            while (more := told(site)) != sent:
                sent = more
        # it goes on as the client does
        received = 0
        while received < 2 * sent[0]:
            received += len(connection.recv(65536))
    wait_for(lambda: told(site)[1:] == ["ConnectionResetError"], "the OSError of send()")
    assert not errors(site)
    site.wait_log("the client left before ASGI application")


def test_a_client_that_leaves_is_told_at_once(site):
    site.get("/forget")
    with site.connect() as connection:
        connection.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: told(site) == ["waits"], "the request")
    wait_for(lambda: told(site) == ["waits", "http.disconnect"], "http.disconnect")
    assert not errors(site)


def test_tasks_whose_clients_left_are_cancelled(running):
    """Everywhere at once, since that is after ten seconds."""
    sites = [running(place) for place in PLACES]
    for site in sites:
        site.get("/forget")
        with site.connect() as connection:
            connection.sendall(b"GET /stubborn HTTP/1.1\r\nHost: a\r\n\r\n")
            wait_for(lambda site=site: told(site) == ["begins"], "the request")
    for site in sites:
        wait_for(lambda site=site: told(site) == ["begins", "cancelled"], "the cancellation")
        assert not errors(site)


def test_tasks_go_on_behind_their_answer(site):
    site.get("/forget")
    assert site.get("/behind").text == "done\n"
    wait_for(lambda: told(site) == ["http.disconnect", "RuntimeError", "end"], "the task's end")


def test_send_of_a_request_that_is_over(site):
    assert site.get("/kept").text == "kept"
    assert site.get("/kept?late").text == "ConnectionResetError"


def test_state_is_copied(site):
    first, second = site.get("/state").json(), site.get("/state").json()
    assert first["own"] and second["seen"] == first["seen"] + [1]


def test_tasks_and_timeouts_in_several_interpreters_at_once(site):
    paths = ["/tasks", "/prefix/tasks", "/main/tasks"] * 8
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(lambda path: site.request(path).body, paths))
    assert [json.loads(answer) for answer in answers] == [["http.request", True, True, True]] * 24
    for path in ("/silent", "/prefix/silent"):  # what an application does wrong in one is no other's
        assert site.get(path).status_code == 500
    assert site.get("/main/tasks").json()[0] == "http.request"


@pytest.mark.parametrize(
    "event, raised",
    [
        ("kind", "RuntimeError: ASGI event 'http.response.nonsense' is not expected"),
        ("untyped", "ValueError: an ASGI event must have a type"),
        ("nothing", "TypeError: an ASGI event must be a dict, not NoneType"),
        ("body", "RuntimeError: ASGI event 'http.response.body' is not expected"),
        ("status", "TypeError: the status must be an int, not str"),
        ("low", "ValueError: the status must be from 200 to 999"),
        ("statusless", "ValueError: http.response.start must have a status"),
        ("text", "TypeError: a header's name must be bytes, not str"),
        ("three", "ValueError: each header must be an iterable of two"),
        ("newline", "ValueError: control character in the value of header a"),
        ("nul", "ValueError: control character in the value of header a"),
        ("name", "ValueError: not a header's name: 'a b'"),
        ("linkless", "ValueError: http.response.early_hint must have links"),
        ("link", "ValueError: control character in the value of header Link"),
        ("lengths", "ValueError: two different Content-Length headers"),
    ],
)
def test_wrong_events_raise(site, event, raised):
    answer = site.get(f"/wrong?{event}")
    assert answer.text.startswith(raised)


def test_answers(site):
    assert site.get("/status?404").text == "body"
    for status in (204, 304):
        answer = site.get(f"/status?{status}")
        assert answer.status_code == status and answer.content == b""
    head = site.client.head("/hello")
    assert head.status_code == 200 and head.content == b""
    answer = site.get("/kinds")
    assert answer.text == "array view" and answer.headers.get_list("x-a") == ["1", "2"]
    answer = site.get("/shrinking")
    assert answer.text == "one header" and "x-b" not in answer.headers
    assert site.get("/lengths?4-4").text == "xxxx"


def test_files(site):
    file = site.data / "file"
    for size in (0, 100, 3_000_000):
        file.write_bytes(os.urandom(size))
        answer = site.get(f"/file?{file}")
        assert answer.content == file.read_bytes() and answer.headers["content-length"] == str(size)
    assert site.client.head(f"/file?{file}").headers["content-length"] == str(size)
    for path in ("relative", str(site.data), f"{file}.absent"):
        assert site.get(f"/file?{path}").status_code == 500
    site.wait_log("FileNotFoundError: .*absent")
    worker = psutil.Process(site.get("/state").json()["pid"])
    wait_for(lambda: str(file) not in str(worker.open_files()), "the files are closed")


@pytest.mark.parametrize(
    "path, logged",
    [
        ("silent", "returned without a response"),
        ("half", "returned without completing its response"),
        ("raises", "KeyError: 'before'"),
        ("exits", "SystemExit: 3"),
        ("lengths?3-4", "RuntimeError: the response is longer than its Content-Length"),
        ("lengths?4-3", "RuntimeError: the response is shorter than its Content-Length"),
    ],
)
def test_failures_before_the_answer(site, path, logged):
    assert site.get(f"/{path}").status_code == 500
    assert len([line for line in errors(site) if logged in line]) == 1


@pytest.mark.parametrize(
    "path, logged", [("cut", "returned without completing"), ("raises_late", "KeyError")]
)
def test_failures_in_the_middle_of_the_answer(site, path, logged):
    with pytest.raises(http.client.IncompleteRead):
        site.request(f"/{path}")
    with site.http2() as client, pytest.raises(Exception, match="StreamReset|stream|peer closed"):
        client.get(f"/{path}")
    site.wait_log(logged)


@pytest.mark.parametrize(
    "path, logged", [("raises_behind", "KeyError: 'behind'"), ("twice", "RuntimeError: ")]
)
def test_failures_behind_the_answer(site, path, logged):
    assert site.get(f"/{path}").status_code == 200
    site.wait_log(logged)


def test_receive_and_send_are_the_loops(site):
    assert "event loop's thread" in site.get("/threaded").json()[0]


def test_a_blocked_loop_is_named_and_what_was_sent_before_has_left(site):
    unblock = site.data / "unblock"
    with site.connect() as connection:
        connection.sendall(b"GET /blocked?%s HTTP/1.1\r\nHost: a\r\n\r\n" % bytes(unblock))
        try:
            site.wait_log(r"in blocked$|in blocked, ")
        finally:
            unblock.touch()
        answer = http.client.HTTPResponse(connection)
        try:
            answer.begin()
            assert answer.read(9) == b"unblocked"
        finally:
            unblock.unlink()
        assert answer.read() == b"\n"
    site.wait_log("is blocked by code that does not await")


def test_pipelined_requests(site):
    with site.connect() as connection:
        connection.sendall(b"GET /hello HTTP/1.1\r\nHost: a\r\n\r\n" * 5)
        received = b""
        while received.count(b"Hello, World!\n") < 5:
            more = connection.recv(65536)
            assert more, received
            received += more


def test_a_touched_script_is_imported_again(place):
    server, process = place
    source = """
async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        print("ends:", VERSION, flush=True)
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": str(VERSION).encode()})
"""
    server.write_app("asgi_edited.py", f"VERSION = 1\n{source}")
    mounts = [Mount("/", "asgi_edited.py", process=process)]
    server.start(mounts=mounts, groups={process: "processes=1"} if process else None, reloading=True)
    assert server.get("/").text == "1"
    server.write_app("asgi_edited.py", f"VERSION = 2\n{source}")
    # The processes of a group serve until others can.
    assert process or server.get("/").text == "2"
    wait_for(lambda: server.get("/").text == "2", "the new version")
    server.wait_log("ends: 1")
    server.stop()
    server.wait_log("ends: 2")


def test_kinds_of_callables(place):
    server, process = place
    asgi = ["function", "instance", "method", "partial", "wrapped", "Awaitable", "factory"]
    wsgi = ["wsgi", "wsgi_instance", "WsgiClass", "wsgi_factory", "undeclared"]
    names = [*asgi, *wsgi, "bad_factory"]
    mounts = [Mount(f"/{name}", f"asgi_kinds:{name}", "one", process) for name in names]
    server.start(mounts=mounts, groups={process: "threads=4"} if process else None)
    assert [server.get(f"/{name}").text for name in asgi] == ["asgi"] * len(asgi)
    assert [server.get(f"/{name}").text for name in wsgi] == ["wsgi"] * len(wsgi)
    assert server.get("/bad_factory").status_code == 500
    server.wait_log("the factory has returned no callable but str")


@pytest.mark.parametrize("loop", ["asyncio", "uvloop", "auto"])
def test_what_the_configuration_states(place, loop):
    """The main interpreter: uvloop is for one of a process."""
    server, process = place
    state = {
        "nginx": f"wsgi_interface asgi; wsgi_loop {loop};",
        "apache": f"WSGIInterface asgi\nWSGILoop {loop}",
    }[server.kind]
    names = ("undeclared", "looped")
    mounts = [Mount(f"/{name}", f"asgi_kinds:{name}", "%{GLOBAL}", process) for name in names]
    if process:
        server.start(mounts=mounts, groups={process: f"interface=asgi loop={loop}"})
    else:
        server.start(mounts=mounts, **{"nginx": {"http": state}, "apache": {"main": state}}[server.kind])
    assert server.get("/undeclared").text == "asgi"
    expected = "uvloop" if loop != "asyncio" and importlib.util.find_spec("uvloop") else "asyncio"
    assert server.get("/looped").text.partition(".")[0] == expected


def test_lifespans(place):
    server, process = place
    names = ["refuses", "returns", "fails", "slow", "shutdown_fails", "dies"]
    mounts = [Mount(f"/{name}", f"asgi_lifespan:{name}", name, process) for name in names]
    server.start(mounts=mounts, groups={process: "processes=1 threads=4"} if process else None)
    for name in ("refuses", "returns", "shutdown_fails", "dies"):
        assert server.get(f"/{name}").text == "ok"
    server.wait_log("does without lifespan events .AssertionError")
    server.wait_log("KeyError: 'lifespan'")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        assert {answer.body for answer in pool.map(server.request, ["/slow"] * 4)} == {b"['ready']"}
    assert server.get("/fails").status_code == 500
    server.wait_log("has failed to start")
    server.wait_log("at all")
    assert server.get("/fails").text == "ok"  # it is started again
    server.stop()
    server.wait_log("still busy")
