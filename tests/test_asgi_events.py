"""mod_wsgi's events and metrics of ASGI applications."""

import pytest
from servers import KINDS, Mount, wait_for
from websockets.sync.client import connect

REQUEST = {"request_id", "request_data"}
ABOUT = {"thread_id", "server_pid", "request_start", "queue_start", "daemon_start"}
FINISHED = REQUEST | ABOUT | {
    "input_reads", "input_length", "input_time", "output_writes", "output_length", "output_time",
    "cpu_user_time", "cpu_system_time", "cpu_time", "application_start", "application_finish",
    "application_time", "status", "gil_wait_time", "gil_wait_count",
}  # fmt: skip


@pytest.fixture(params=["nginx", "nginx-group", "apache", "apache-group"])
def site(request, started, watch):
    """The server, running, with the application in its own processes or in a process group."""
    kind, _, process = request.param.partition("-")
    if request.param not in started:
        server = started[request.param] = KINDS[kind]()
        mounts = [Mount("/", "asgi_watched.py", group="asgi", process=process or None)]
        server.start(mounts=mounts, groups={process: "threads=4"} if process else None)
    watched = watch(started[request.param])
    finished(watched)
    return watched


def finished(site):
    """The events until now, once the last request but ours has finished."""
    seen = []

    def look():
        seen.extend(site.get("/events").json())
        begun, ended = (
            {event["request_id"] for name, event in seen if name == kind}
            for kind in ("request_started", "request_finished")
        )
        return len(begun - ended) == 1

    wait_for(look, "the last event")
    return [(name, event) for name, event in seen if event["request_data"]["path"] != "/events"]


def test_events(site):
    assert site.post("/body", content=b"0123456789").json() == 10
    (_, started), (_, responded), (_, ended) = seen = finished(site)
    assert [name for name, _ in seen] == ["request_started", "response_started", "request_finished"]
    assert started.keys() >= REQUEST | ABOUT | {"request_scope", "application_start"}
    assert started["request_scope"]["method"] == "POST"
    assert (started["daemon_start"] > 0) == bool(site.get("/metrics").json()[0]["daemon_time_max_us"])
    assert responded["response_status"] == 200
    assert responded["response_headers"] == [["content-type", "application/json"]]
    assert ended.keys() == FINISHED
    assert ended["request_data"] == {"path": "/body"} and ended["status"] == 200
    assert (ended["input_length"], ended["output_writes"], ended["output_length"]) == (10, 2, 2)
    assert ended["application_finish"] >= ended["application_start"] == started["application_start"]
    assert 0 <= ended["cpu_time"] < 5


def test_an_exception(site):
    assert site.get("/raises").status_code == 500
    seen = finished(site)
    assert [name for name, _ in seen] == ["request_started", "request_exception", "request_finished"]
    assert seen[-1][1]["status"] == 0


def test_another_application(site):
    assert site.get("/wrapped").json() == "wrapped"
    assert [name for name, _ in finished(site)] == ["response_started", "request_finished"]


def test_sockets(site):
    with connect(f"ws://127.0.0.1:{site.port}/socket", proxy=None, open_timeout=30) as socket:
        socket.send(b"12345")
        assert socket.recv(timeout=30) == b"12345"
    (_, started), (_, ended) = finished(site)
    assert started["request_scope"]["type"] == "websocket" and ended["status"] == 101
    assert ended["input_length"] > 5 and ended["output_length"] > 5


def test_metrics(site):
    site.get("/metrics")
    for _ in range(3):
        site.post("/body", content=b"0123456789")
    site.get("/raises")
    with site.connect() as connection:
        connection.sendall(b"GET /waits HTTP/1.1\r\nHost: a\r\n\r\n")
        wait_for(lambda: "/waits" in site.get("/active").json(), "the request that waits")
        request, process = site.get("/metrics").json()
    assert request["input_bytes"] >= 30 and request["status_2xx"] >= 4 and request["status_5xx"] == 1
    assert request["request_count"] >= 5 and request["application_time_max_us"] > 0
    assert process["active_requests"] == 2 and process["request_count"] >= request["request_count"]
    wait_for(lambda: "/waits" not in site.get("/active").json(), "its end")
