"""The modules mod_wsgi and apache, the events, the metrics and mod_wsgi's own keys of the environ."""

import os
import re
import signal
import time

import pytest
from servers import PYTHON_HOME, Mount, wait_for

REQUEST_EVENT = {"request_id", "request_data"}
STARTED = REQUEST_EVENT | {
    "thread_id", "server_pid", "request_start", "queue_start", "daemon_start", "daemon_connects",
    "daemon_restarts", "application_object", "callable_object", "request_environ", "application_start",
}  # fmt: skip
FINISHED = REQUEST_EVENT | {
    "thread_id", "server_pid", "request_start", "queue_start", "daemon_start", "application_start",
    "application_finish", "application_time", "input_reads", "input_length", "input_time", "output_writes",
    "output_length", "output_time", "cpu_user_time", "cpu_system_time", "cpu_time", "gil_wait_time",
    "gil_wait_count", "status",
}  # fmt: skip
#: In embedded mode.
KEYS = {
    "mod_wsgi.version": "(6, 1, 1)",
    "mod_wsgi.process_group": "''",
    "mod_wsgi.callable_object": "'application'",
    "mod_wsgi.request_handler": "'wsgi-script'",
    "mod_wsgi.handler_script": "''",
    "mod_wsgi.queue_start": "0.0",
    "mod_wsgi.daemon_start": "0.0",
}
ABSENT = {"PATH_TRANSLATED", "GATEWAY_INTERFACE", "SERVER_SIGNATURE", "REMOTE_HOST", "REMOTE_IDENT", "PATH",
          "LD_LIBRARY_PATH", "HTTPS", "HTTP_PROXY", "mod_wsgi.mount_point"}  # fmt: skip


@pytest.fixture
def api(server):
    """The same script in two application groups. httpd with one thread would close idle connections."""
    return start(server, threads=4)


def start(server, threads):
    mounts = [Mount("/api", "api.py", "one"), Mount("/other", "api.py", "two")]
    return server.start(mounts=[*mounts, Mount("/environ", "environ.py", "one")], threads=threads)


def ask(server, path, **options):
    response = server.get(path, **options)
    assert response.status_code == 200, server.log()
    return response.json()


def events(server):
    """What was kept since the last look, without this request's own."""
    return [(name, event) for name, event in ask(server, "/api/events")
            if event.get("request_data", {}).get("marked") != "/events"]  # fmt: skip


def events_of_a_request(server):
    """All of them: the client may have its answer before the last one."""
    seen = []
    wait_for(lambda: seen.extend(events(server)) or [name for name, _ in seen if name == "request_finished"],
             "the request's last event")  # fmt: skip
    return seen


# -- environ ------------------------------------------------------------------------------------------


def test_keys(api):
    before = time.time()
    seen = ask(api, "/environ/a?b")
    reprs, types, strings = seen["reprs"], seen["types"], seen["strings"]
    for key, value in KEYS.items():
        assert reprs.get(key, repr(strings.get(key))) == value, key
    assert not ABSENT & types.keys()
    assert strings["mod_wsgi.application_group"] == "one"
    assert strings["mod_wsgi.script_name"] == strings["SCRIPT_NAME"] == "/environ"
    assert strings["mod_wsgi.path_info"] == strings["PATH_INFO"] == "/a"
    assert strings["mod_wsgi.listener_host"] == "127.0.0.1"
    assert strings["mod_wsgi.listener_port"] == str(api.port)
    assert int(strings["mod_wsgi.server_pid"]) in api.workers()
    assert strings["mod_wsgi.request_id"] and strings["mod_wsgi.connection_id"]
    assert int(reprs["mod_wsgi.thread_id"]) in (1, 2)
    assert types["mod_wsgi.request_start"] == types["mod_wsgi.application_start"] == "float"
    start, called = (float(reprs[f"mod_wsgi.{name}_start"]) for name in ("request", "application"))
    # nginx's clock stands still while it works through its events
    assert before - 0.1 < start <= called + 0.001 < time.time() + 0.001
    if api.kind == "apache":
        assert re.fullmatch(r"\(2, 4, \d+\)", reprs["apache.version"])
    else:
        assert "apache.version" not in types


def test_ids(api):
    """A request has its own, a connection keeps its."""
    first, second = (ask(api, "/environ")["strings"] for _ in range(2))
    assert first["mod_wsgi.request_id"] != second["mod_wsgi.request_id"]
    assert first["mod_wsgi.connection_id"] == second["mod_wsgi.connection_id"]


def test_a_later_request_shows_nothing_of_the_first(api):
    """The first request of an application is what others are made from."""
    first = ask(api, "/environ/first?secret=1", headers={"X-First": "1", "Content-Type": "a/b"})["strings"]
    assert first["HTTP_X_FIRST"] and first["CONTENT_TYPE"]
    second = ask(api, "/environ")["strings"]
    assert not {"HTTP_X_FIRST", "CONTENT_TYPE"} & second.keys()
    assert (second["PATH_INFO"], second["QUERY_STRING"], second["REQUEST_URI"]) == ("", "", "/environ")
    assert second["mod_wsgi.path_info"] == ""


def test_repeated_short_headers(api):
    response = api.request("/environ", "X-Short: 1", "X-Short: 1", "X-Empty:", "X-Empty:")
    assert b'"HTTP_X_SHORT": "1, 1"' in response.body


# -- modules ------------------------------------------------------------------------------------------


def test_module(api):
    found = ask(api, "/api/module")
    assert found["version"] == [6, 1, 1]
    assert (found["process_group"], found["application_group"]) == ("", "one")
    assert (found["maximum_processes"], found["threads_per_process"] >= 0) == (1, True)
    assert found["types"] == {
        "FileWrapper": "<class 'mod_wsgi.FileWrapper'>",
        "RequestTimeout": ["RequestTimeout", "BaseException", "object"],
        "LogHandler": True,
    }
    assert not [name for name in found["names"] if name.startswith("_")]
    assert found["none"] == [None, None, None]
    assert ask(api, "/other/module")["application_group"] == "two"


def test_apache(api):
    module, version = ask(api, "/api/apache")
    if api.kind == "nginx":
        assert module is None and version is None
        return
    assert module["version"] == version and version[:2] == [2, 4]
    assert module["description"].startswith("Apache/2.4.")
    assert module["mpm_name"] == "event"
    assert module["build_date"]
    assert (module["maximum_processes"], module["threads_per_process"]) == (1, 4)


def test_apache_in_a_process_group(apache):
    group = f"WSGIDaemonProcess shop python-home={PYTHON_HOME} python-path={apache.apps}"
    apache.start(mounts=[Mount("/api", "api.py", "%{GLOBAL}")], main=f"{group}\nWSGIProcessGroup shop")
    module, version = ask(apache, "/api/apache")
    assert module["version"] == version and version[:2] == [2, 4]
    assert module["description"].startswith("Apache/2.4.") and module["mpm_name"] == "event"


def test_packages_of_the_same_name(server):
    """mod_wsgi-express is a package; its modules stay importable under ours."""
    package = server.apps / "mod_wsgi"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('the server has one of its own')")
    (package / "extra.py").write_text("answer = b'found'")
    server.write_app("package.py", "from mod_wsgi import extra, version\n"
                                   "def application(environ, start_response):\n"
                                   "    start_response('200 OK', [])\n"
                                   "    return [extra.answer]\n")  # fmt: skip
    server.start("package.py")
    assert server.get("/").content == b"found"


def test_streams(api):
    found = ask(api, "/api/streams")
    assert found["types"] == [
        "<class '_io.TextIOWrapper'>", "<class 'mod_wsgi.Log'>", "<class 'mod_wsgi.Input'>",
        "<class 'mod_wsgi.FileWrapper'>",
    ]  # fmt: skip
    assert found["is_text"] and "no file descriptor" in found["fileno"]
    for line in ("through the buffer", "first", "second"):
        api.wait_log(rf"\b{line}\b")


def test_signals_are_the_servers(api):
    assert ask(api, "/api/signals") == [True, True]
    api.wait_log("Ignoring Python signal handler registration for signal 15 in WSGI process")
    assert "in signals" in api.log()


# -- events -------------------------------------------------------------------------------------------


def test_events_of_a_request(api):
    ask(api, "/api/subscribe")
    assert events(api) == []
    assert api.post("/api/body", content=b"0123456789").json() == 7
    seen = events_of_a_request(api)
    assert [name for name, _ in seen] == ["request_started", "response_started", "request_finished"]
    (_, started), (_, responded), (_, finished) = seen
    assert started.keys() == STARTED
    assert started["application_object"] == "function"
    assert started["request_environ"]["PATH_INFO"] == "/body"
    assert started["request_environ"]["mod_wsgi.request_id"] == started["request_id"]
    assert started["server_pid"] in api.workers()
    assert (started["queue_start"], started["daemon_start"]) == (0.0, 0.0)
    assert responded.keys() == REQUEST_EVENT | {"response_status", "response_headers", "exception_info"}
    assert responded["response_status"] == "200 OK"
    assert responded["response_headers"] == [["Content-Type", "application/json"]]
    assert responded["exception_info"] is None
    assert finished.keys() == FINISHED
    assert started["request_id"] == responded["request_id"] == finished["request_id"]
    assert finished["request_data"] == {"marked": "/body"}
    assert finished["status"] == 200
    assert (finished["input_reads"], finished["input_length"]) == (2, 10)
    assert (finished["output_writes"], finished["output_length"]) == (1, 1)
    assert 0 <= finished["application_time"] < 5
    assert finished["application_finish"] >= finished["application_start"] == started["application_start"]
    assert finished["cpu_time"] == pytest.approx(finished["cpu_user_time"] + finished["cpu_system_time"])
    assert finished["gil_wait_count"] >= 1 and finished["gil_wait_time"] >= 0


def test_events_are_of_an_interpreter(api):
    ask(api, "/api/subscribe")
    ask(api, "/other/data")
    assert events(api) == []


@pytest.mark.parametrize("path, status", [("/raise", 0), ("/late", 200)])
def test_event_of_an_exception(api, path, status):
    ask(api, "/api/subscribe")
    answer = api.curl(f"/api{path}", tls=False)
    assert answer[0] == (18 if path == "/late" else 0)
    seen = events_of_a_request(api)
    assert [name for name, _ in seen][-2:] == ["request_exception", "request_finished"]
    assert seen[-2][1].keys() == REQUEST_EVENT | {"exception_info"}
    assert seen[-2][1]["exception_info"] == ["type", "LookupError", "traceback"]
    assert seen[-1][1]["status"] == status


def test_another_application_is_called(api):
    ask(api, "/api/subscribe")
    assert ask(api, "/api/data?wrap") == "wrapped"
    (_, started), *_ = events_of_a_request(api)
    # what one subscriber returns, the next one sees
    assert started["extra"] == "seen by those that follow"
    assert ask(api, "/api/interval") > 0


def test_a_subscriber_that_raises(api):
    ask(api, "/api/bad_subscriber")
    assert ask(api, "/api/interval") > 0
    api.wait_log("WSGI0112: ValueError exception raised by event callback for 'request_started'.")
    assert api.log().count("from the subscriber") == 2  # in the traceback: the code and the message


def test_request_data(api):
    assert ask(api, "/api/data") == [{"seen": 1}, True, ["no active request for thread"]]
    assert ask(api, "/api/data")[0] == {"seen": 1}


def test_active_requests(api):
    for _ in range(2):
        found = ask(api, "/api/active")
        assert found["type"] == "dict"
        assert found["ids"] == [found["own"]]
        assert found["same"] and found["lasting"]


def test_process_stopping(server):
    server.start(mounts=[Mount("/api", "api.py", "one"), Mount("/main", "api.py", "%{GLOBAL}")])
    ask(server, "/api/subscribe")
    ask(server, "/main/subscribe")
    server.stop(signal.SIGTERM)
    assert server.log().count("told of process_stopping {'shutdown_reason': ''}") == 2


def test_signals_are_for_daemons(api):
    assert ask(api, "/api/subscribe_signals") is True
    api.wait_log(r"mod_wsgi.subscribe_signals\(\) called outside daemon mode")
    assert "<burrow>" not in api.log()


# -- metrics ------------------------------------------------------------------------------------------


def test_metrics(server):
    # With one thread on nginx a request is over, and counted, before the next begins.
    api = start(server, threads=4 if server.kind == "apache" else 1)
    ask(api, "/api/record")
    ask(api, "/api/metrics")
    for _ in range(3):
        ask(api, "/api/data")
    assert ask(api, "/other/metrics")[0] is None  # each interpreter asks for itself
    api.post("/api/body", content=b"x" * 100)
    assert api.get("/api/raise").status_code == 500
    request, process = ask(api, "/api/metrics")
    # the request that asked first ended after it had asked; another interpreter's counts as well
    assert request["request_count"] == 7
    assert (request["status_2xx"], request["status_5xx"], request["status_4xx"]) == (6, 1, 0)
    assert (request["input_bytes"], request["input_reads"]) == (100, 2)
    assert request["output_bytes"] > 0 and request["output_writes"] == 6
    for name in ("server_time", "application_time", "request_time", "gil_wait_time", "input_read_time",
                 "output_write_time"):  # fmt: skip
        assert request[f"{name}_min_us"] <= request[name] * 1e6 + 1 <= request[f"{name}_max_us"] + 2, name
        assert len(request[f"{name}_buckets"]) == 65
        assert sum(request[f"{name}_buckets"]) == 7
    for name in ("queue_time", "daemon_time"):
        assert request[name] is request[f"{name}_min_us"] is request[f"{name}_max_us"] is None
    assert request["request_time"] == pytest.approx(request["server_time"] + request["application_time"])
    assert request["sample_period"] == pytest.approx(request["stop_time"] - request["start_time"])
    assert request["request_throughput"] == pytest.approx(7 / request["sample_period"])
    assert 0 < request["capacity_utilization"] <= 1.5
    assert sum(request["request_threads_completed"]) == 7
    assert len(request["request_threads_busy_time"]) == request["request_threads_maximum"]
    assert request["memory_rss"] > 1 << 20 and request["memory_max_rss"] >= request["memory_rss"] // 2
    assert process["pid"] == request["pid"] and process["pid"] in api.workers()
    assert process["request_count"] == 7
    assert process["active_requests"] == 1
    assert sum(thread["request_count"] for thread in process["threads"]) == 7
    assert process["running_time"] >= 0 and process["restart_time"] < process["current_time"]
    # a new sample has begun
    assert ask(api, "/api/metrics")[0]["request_count"] <= 1  # the last one may not have ended


# -- the log ------------------------------------------------------------------------------------------


def test_log_lines(server):
    """mod_wsgi 6's words, which monitors look for."""
    server.start("api.py", group="one")
    script = server.apps / "api.py"
    ask(server, "/interval")
    server.wait_log(f"Loading WSGI script '{script}' into sub-interpreter 'one' in embedded mode.")
    assert server.get("/raise").status_code == 500
    server.wait_log(re.escape(f"WSGI0174: [script {script}] LookupError exception raised processing "
                              f"WSGI script '{script}' for sub-interpreter 'one' in embedded mode."))
    assert server.get("/exit").status_code == 500
    server.wait_log(re.escape(f"WSGI0175: [script {script}] SystemExit exception raised by "
                              f"WSGI script '{script}' for sub-interpreter 'one' in embedded mode; ignored."))
    os.utime(script, (1, 1))
    ask(server, "/interval")
    server.wait_log(f"Reloading WSGI script '{script}' into sub-interpreter 'one' in embedded mode.")
    server.write_app("api.py", "1 / 0")
    assert server.get("/").status_code == 500
    server.wait_log(re.escape(f"WSGI0109: Unable to execute Python script file '{script}'."))
    assert server.log().count("ZeroDivisionError: division by zero") == 1


SCRIPTS = {
    "": "WSGI0089: Target WSGI script '{}' does not contain WSGI application 'application'.",
    "def (": "WSGI0105: Could not read or compile WSGI script '{}' for main interpreter in embedded mode.",
    "raise SystemExit": "WSGI0107: SystemExit exception raised when doing exec of Python script file '{}'.",
    "import broken": "WSGI0109: Unable to execute Python script file '{}'.",
}


@pytest.mark.parametrize("source", SCRIPTS)
def test_log_of_a_script_that_does_not_load(server, source):
    server.write_app("broken.py", "def (")
    script = server.write_app("script.py", source)
    server.start("script.py", "%{GLOBAL}")
    assert server.get("/").status_code == 500
    server.wait_log(re.escape(f"[script {script}] " + SCRIPTS[source].format(script)))
    assert server.log().count("Error: " if source else "Error") <= 1


TIMEOUT = """
import mod_wsgi

def application(environ, start_response):
    if environ["PATH_INFO"] == "/late":
        start_response("200 OK", [])
        yield b"first"
    raise mod_wsgi.RequestTimeout
"""


def test_request_timeout(server):
    script = server.write_app("timeout.py", TIMEOUT)
    server.start("timeout.py")
    assert server.get("/").status_code == 504
    told = f"[script {script}] Request interrupted by RequestTimeout"
    server.wait_log(re.escape(f"{told}; thread recovered."))
    assert server.curl("/late", tls=False) == (18, b"first")
    server.wait_log(re.escape(f"{told} after headers sent; response truncated."))
    assert "Traceback" not in server.log()
