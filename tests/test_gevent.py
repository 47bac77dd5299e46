"""async=gevent: a process serves each request in a greenlet."""

import re
import sys

import pytest
from daemons import await_daemons, burrow, daemons, file_name
from servers import Mount, read_response, wait_for
from test_daemon_reload import by_command, by_server
from test_reload import Load
from workers import Worker, request, text

#: Options of the groups, and their applications.
GROUPS = {
    "plain": ("", "greenlets.py"),
    "few": ("threads=2", "greenlets.py"),
    "flask": ("", "flask_app.py"),
    "limit": ("request-timeout=1 interrupt-timeout=20", "greenlets.py"),
    "stream": ("", "greenlets.py"),
}


def start(server):
    mounts = [Mount(f"/{name}", app, process=name, nginx="wsgi_request_buffering off;")
              for name, (_, app) in GROUPS.items()]  # fmt: skip
    groups = {name: f"async=gevent {options}" for name, (options, _) in GROUPS.items()}
    server.start(mounts=mounts, groups=groups, threads=32)


def test_what_a_process_is(shop):
    facts = shop.get("/plain/about").json()
    assert facts == {
        "multithread": True, "multiprocess": False, "threads": 1000, "patched": True, "group": "",
        "native": facts["native"],
    }  # fmt: skip
    # The hub's, the keeper's, that for errands, and gevent's own for names of hosts.
    assert facts["native"] < 10


def test_requests_wait_together(shop, clients):
    """All of them are in the application at once: none is answered before."""
    answers = list(clients.map(shop.get, ["/plain/meet?count=16"] * 16))
    assert {answer.text for answer in answers} == {"16"}


def test_as_many_as_were_asked_for(shop, clients):
    go = file_name(shop)
    held = [clients.submit(shop.request, f"/few/wait?file={go}") for _ in range(3)]
    wait_for(lambda: shop.log().count(f"waiting for {go}") == 2, "two of them")
    assert shop.log().count(f"waiting for {go}") == 2
    go.touch()
    assert [each.result().status for each in held] == [200] * 3
    assert shop.log().count(f"waiting for {go}") == 3


def test_flask(shop, clients):
    assert shop.get("/flask/?name=Burrow").text == "Hello, Burrow!"
    assert shop.post("/flask/json", json=[1, {"a": None}]).json() == [1, {"a": None}]
    files = {"small": b"x", "large": bytes(3_000_000)}
    answers = clients.map(lambda _: shop.post("/flask/upload", files=files).json(), range(8))
    assert list(answers) == [{"small": 1, "large": 3_000_000}] * 8
    assert shop.get("/flask/stream").text.splitlines()[-1] == "999 /stream"
    assert shop.get("/flask/file").content == (shop.apps / "flask_app.py").read_bytes()
    assert shop.get("/flask/fail").status_code == 500
    shop.wait_log("ValueError: raised in a view")


def upload(connection, path):
    """Begins to send a body in chunks; reads the answer's head once there is a line."""
    connection.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode())
    return connection.makefile("rb")


def send_line(connection, line):
    connection.sendall(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))


def read_head(reader):
    assert b"200" in reader.readline()
    while reader.readline() != b"\r\n":
        pass


def read_chunk(reader):
    chunk = reader.read(int(reader.readline(), 16))
    assert reader.readline() == b"\r\n"
    return chunk


@pytest.mark.parametrize("path", ["/stream/echo", "/stream/elsewhere"])
def test_streams_both_ways(shop, path):
    """The answer comes while the body is still being sent, and the others do not wait for it."""
    with shop.connect() as connection:
        reader = upload(connection, path)
        for number in range(3):
            send_line(connection, b"line%d" % number)
            if number == 0:
                read_head(reader)
            assert read_chunk(reader) == b"LINE%d\n" % number
            assert shop.get("/stream/pid").status_code == 200
        connection.sendall(b"0\r\n\r\n")
        assert read_chunk(reader) == b""


def test_time_limits_of_the_application(shop):
    """What gevent raises in a greenlet that reads is the application's to catch, and it reads on."""
    with shop.connect() as connection:
        reader = upload(connection, "/stream/impatient")
        send_line(connection, b"one")
        read_head(reader)
        assert read_chunk(reader) == b"one\ntoo late\n"
        send_line(connection, b"two")
        connection.sendall(b"0\r\n\r\n")
        assert read_chunk(reader) == b"two\n"


def test_a_client_that_does_not_read(shop):
    """Its greenlet waits, and no other one does; then it gets everything."""
    with shop.connect() as connection:
        connection.sendall(b"GET /stream/large?count=40 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        (pid,) = daemons(shop, "stream")
        for _ in range(5):
            assert int(shop.get("/stream/pid").text) == pid
        assert len(read_response(connection).body) == 40 << 20


def test_an_error_behind_a_piece(shop):
    code, _ = shop.curl("/plain/break", tls=False)
    assert code != 0
    shop.wait_log("ValueError: raised behind a piece")
    assert shop.get("/plain/pid").status_code == 200


def test_the_client_leaves(shop):
    with shop.connect() as connection:
        connection.sendall(b"GET /plain/left HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"200" in connection.recv(100)
    shop.wait_log("a greenlet was told")


def test_what_the_application_starts(shop):
    """Programs, and threads, of which gevent makes greenlets."""
    assert shop.get("/plain/start").text == "a program and a thread"


def test_a_greenlet_of_the_application_exits(shop):
    """The process goes on."""
    pid = shop.get("/plain/pid").text
    shop.get("/plain/exit")
    shop.wait_log("SystemExit: 3")
    assert shop.get("/plain/pid").text == pid


def test_lines_of_the_log(shop, clients):
    """Each is whole, though requests take turns in the middle of one, and names its own request."""
    go, names = file_name(shop), [f"n{number}" for number in range(6)]
    held = [clients.submit(shop.request, f"/plain/say?name={name}&file={go}") for name in names]
    wait_for(lambda: " 6/1000 " in burrow(shop, "status").stdout, "all of them")
    assert "plain: 1 process of 1000 greenlets, as user" in burrow(shop, "status").stdout
    go.touch()
    assert {each.result().status for each in held} == {200}
    for name in names:
        (line,) = re.findall(rf".*request {name} from port .*", shop.log())
        port = re.search(rf"request {name} from port (\d+) goes on as {name}\b", line)[1]
        (other,) = re.findall(rf".*errors of {name}\b.*", shop.log())
        if shop.kind == "nginx":
            assert f"/plain/say?name={name}&" in line and f"/plain/say?name={name}&" in other
        else:
            assert f":{port}] " in line and f":{port}] " in other


def test_stacks(shop, clients):
    """Each request's, under its name."""
    go = file_name(shop)
    held = [clients.submit(shop.request, f"/plain/wait?file={go}&n={n}") for n in range(3)]
    wait_for(lambda: shop.log().count(f"waiting for {go}") == 3, "the requests")
    stacks = burrow(shop, "stacks", "plain").stdout
    go.touch()
    assert [each.result().status for each in held] == [200] * 3
    for n in range(3):
        # One may just run.
        who = r"(Greenlet|Thread \d+ \(\S+\))"
        assert re.search(rf"\n{who}, serving GET /plain/wait\?file={go}&n={n} for .*:\n", stacks), stacks
    assert stacks.count("in await_file") == 3 and re.search(r"\nThread \d+ \(\S+\)", stacks)


def test_a_greenlet_that_yields_to_nobody(shop, clients):
    """The log says where it is."""
    go = file_name(shop)
    held = clients.submit(shop.request, f"/plain/block?file={go}")
    shop.wait_log("wait for code that does not yield")
    shop.wait_log("in answer_block")
    go.touch()
    assert held.result().status == 200


def test_request_timeout(shop, clients):
    """It is raised in the request that waits, and in one that computes, and in no other."""
    pid = shop.get("/limit/pid").text
    late = clients.submit(shop.request, "/limit/late")
    assert late.result().status == 504
    shop.wait_log("interrupted")
    assert shop.get("/limit/spin?seconds=60").status_code == 504
    assert shop.get("/limit/pid").text == pid


def start_shop(server, options=""):
    """Two processes, which a change of the script replaces."""
    server.write_app("shop.py", (server.apps / "greenlets.py").read_text())
    mounts = [Mount("/", "shop.py", "%{GLOBAL}", "shop")]
    server.start(mounts=mounts, groups={"shop": f"async=gevent processes=2 {options}"}, threads=16)
    server.wait_log("'shop': 2 new processes serve")
    return await_daemons(server, "shop", 2)


def test_loses_nothing(server):
    """Whatever replaces the processes under load."""
    before = start_shop(server, "restart-on-reload=on")
    with Load(server, "/pid") as load:
        for how in (by_server, touch):
            how(server)
            before = await_daemons(server, "shop", 2, without=before, timeout=30)
            answered = load.answered
            wait_for(lambda answered=answered: load.answered > answered + 20, "requests")
    assert not load.failures, load.failures[:3]


def touch(server):
    server.write_app("shop.py", (server.apps / "greenlets.py").read_text())


def test_finishes_what_it_serves(server, clients):
    """A process that is replaced; a new one serves meanwhile."""
    before = start_shop(server)
    go = server.root / "go"
    held = [clients.submit(server.request, f"/wait?file={go}") for _ in range(6)]
    wait_for(lambda: server.log().count(f"waiting for {go}") == 6, "the requests")
    by_command(server)
    after = await_daemons(server, "shop", 2, without=before)
    assert int(server.get("/pid").text) in after
    go.touch()
    assert {int(each.result().body) for each in held} <= before
    wait_for(lambda: not daemons(server, "shop") & before, "the end of the old ones")


@pytest.mark.parametrize(
    "options, says",
    [
        ("preload=on", "preload"),
        ("interpreters=2", "interpreters="),
        ("interface=asgi", "WSGI"),
        ("threads=0", "threads="),
        ("threads=1001", "from 1 to 1000"),
    ],
)
def test_refused(server, options, says):
    code, said = server.configtest(
        mounts=[Mount("/", "hello.py", process="shop")], groups={"shop": f"async=gevent {options}"}
    )
    assert code != 0 and "async=gevent" in said and says in said, said


def test_several_applications_have_one_interpreter(server):
    mounts = [Mount("/a", "hello.py", process="shop"), Mount("/b", "greenlets.py", process="shop")]
    if server.kind == "nginx":
        code, said = server.configtest(mounts=mounts, groups={"shop": "async=gevent"})
        assert code != 0 and "async=gevent needs one interpreter" in said, said
        return
    # httpd knows them when it starts.
    server.start(mounts=mounts, groups={"shop": "async=gevent"})
    assert server.get("/a").status_code == 200 and server.get("/b/about").json()["group"] == ""
    server.wait_log("has the main interpreter, since async=gevent needs that")


def test_no_gevent(server):
    """One line says what to do."""
    server.crash = None
    mounts = [Mount("/", "hello.py", process="shop")]
    options = "python-home=/usr queue-timeout=1 connect-timeout=1"
    server.start(mounts=mounts, groups={"shop": f"async=gevent {options}"})
    server.wait_log("python3 -m pip install gevent' installs it")
    assert "Traceback" not in server.log()
    assert server.get("/").status_code in (500, 503, 504)


def test_not_for_asgi(server):
    server.crash = None
    mounts = [Mount("/", "asgi_app.py", process="shop")]
    server.start(mounts=mounts, groups={"shop": "async=gevent"})
    server.wait_log("is an ASGI application, and async=gevent is for WSGI")


# ---- without a server


def test_imports_on_demand():
    """Two requests for what is not imported yet: one imports it, the other waits, and others are served."""
    worker = Worker(python=sys.executable, greenlets=True, threads=10)
    try:
        (worker.apps / "slow.py").write_text(
            "import time\nfrom greenlets import await_file\nprint('imports')\n"
            f"await_file({str(worker.root / 'go')!r})\nfrom hello import application\n"
        )
        worker.start("hello.py", paths=[text(worker.apps)])
        with worker.connect() as first, worker.connect() as second:
            for each in (first, second):
                each.send(request(worker.target("slow.py")))
            worker.wait_log("imports")
            assert worker.get("hello.py").status == 200
            (worker.root / "go").touch()
            assert [first.answer().status, second.answer().status] == [200, 200]
        assert worker.log().count("imports") == 1
    finally:
        worker.close()


def test_ends_while_it_serves():
    """What is left when its time is up."""
    worker = Worker(python=sys.executable, greenlets=True, threads=10, shutdown_timeout=2)
    try:
        worker.start("greenlets.py", paths=[text(worker.apps)])
        with worker.connect() as connection:
            connection.send(request(worker.target("greenlets.py"), "/wait", QUERY_STRING="file=/never"))
            worker.wait_log("waiting for /never")
            worker.order("stop", reason="shutdown_signal")
            assert worker.wait() == 0
        assert "without waiting any longer for 1 requests" in worker.log()
    finally:
        worker.close()
