"""What a daemon worker is told to be, and its log."""

import os
import re

import psutil
import pytest
from servers import wait_for
from workers import app


def test_its_name(worker):
    worker.start("hello.py", display_name="(wsgi:shop)")
    process = psutil.Process(worker.pid)
    assert process.name() == "(wsgi:shop)"
    assert "".join(process.cmdline()).strip() == "(wsgi:shop)"
    assert worker.get("process.py", "/subprocess-python").json() == {"ok": [0, True]}


def test_locale(worker):
    script = worker.apps / "locales.py"
    script.write_text("""
import locale

def application(environ, start_response):
    start_response("200 OK", [])
    return [repr(locale.setlocale(locale.LC_ALL)).encode()]
""")
    worker.start(locale="C.UTF-8")
    assert worker.get("locales.py").body == b"'C.UTF-8'"


def test_a_locale_that_is_not_there(worker):
    worker.start("hello.py", locale="xx_XX")
    assert "locale=xx_XX: unsupported locale setting" in worker.log()


def test_script_user(worker):
    for path in worker.apps, worker.apps / "hello.py", worker.apps / "environ.py":
        path.chmod(path.stat().st_mode & ~0o022)  # a checkout's may be more open
    worker.start(script_user=os.geteuid())
    assert worker.get("hello.py").status == 200
    (worker.apps / "environ.py").chmod(0o666)
    assert worker.get("environ.py").status == 403
    assert "environ.py': others than its owner may write to it" in worker.log()


def test_script_group(worker):
    worker.start("hello.py", script_group=os.getegid() + 1)
    answer = worker.get("hello.py")
    assert (answer.status, answer.abort) == (403, None)
    assert "it does not belong to script-group" in worker.log()
    assert worker.log().count("Loading WSGI script") == 0


def test_what_the_environ_says_of_the_process(worker):
    worker.start(threads=1, processes=4, multiprocess=True, run_once=True, switch_interval=0.25)
    seen = worker.get("environ.py").json()["reprs"]
    names = "multithread", "multiprocess", "run_once"
    assert [seen[f"wsgi.{name}"] for name in names] == ["False", "True", "True"]


def test_metrics_of_the_queue(worker):
    script = worker.apps / "metrics.py"
    script.write_text("""
import json, mod_wsgi
mod_wsgi.start_recording_metrics()

def application(environ, start_response):
    start_response("200 OK", [])
    return [json.dumps(mod_wsgi.request_metrics()).encode()]
""")
    worker.start(app(script))
    with worker.connect() as connection:
        connection.get(str(script))
        seen = connection.get(str(script)).json()
    assert seen["request_count"] == 1
    for name in "server_time", "queue_time", "daemon_time", "application_time":
        assert 0 <= seen[f"{name}_min_us"] <= seen["request_time_min_us"], name


# ---- its log


def test_log_lines_of_httpd(worker):
    worker.start("logs.py")
    worker.get("logs.py", "/print", QUERY_STRING="in-apache-style")
    line = next(line for line in worker.log().splitlines() if "in-apache-style" in line)
    assert re.fullmatch(
        r"\[\w{3} \w{3} \d\d \d\d:\d\d:\d\d\.\d{6} \d{4}\] \[wsgi:error\] "
        rf"\[pid {worker.pid}:tid \d+\] \[remote 192\.0\.2\.7:4711\] in-apache-style",
        line,
    )


def test_log_lines_of_nginx(worker):
    worker.start("logs.py", server="nginx")
    worker.get("logs.py", "/warning", QUERY_STRING="in-nginx-style", headers=[("Host", "shop.example")])
    line = next(line for line in worker.log().splitlines() if "in-nginx-style" in line)
    assert re.fullmatch(
        rf"\d{{4}}/\d\d/\d\d \d\d:\d\d:\d\d \[\w+\] {worker.pid}#\d+: \*12 .*in-nginx-style, "
        r'client: 192\.0\.2\.7, server: shop\.example, request: "GET /warning HTTP/1\.1", '
        r'host: "shop\.example"',
        line,
    )


BEGINNINGS = {
    "apache": r"\[.*\d{{4}}\] \[wsgi:error\] \[pid {pid}:tid {pid}\] ",
    "nginx": r"\d{{4}}/.* \[error\] {pid}#{pid}: ",
}


@pytest.mark.parametrize("server", BEGINNINGS)
def test_log_lines_before_there_is_a_worker(worker, server):
    with pytest.raises(EOFError):
        worker.start(server=server, version=99)
    assert worker.wait() == 1
    said = "burrow: a worker cannot start: the manager is of another release"
    assert re.search("^" + BEGINNINGS[server].format(pid=worker.pid) + said, worker.log(), re.M)


def test_the_log_is_replaced(worker):
    worker.start("logs.py")
    with (worker.root / "other.log").open("ab") as log:
        worker.order("log", [log.fileno()])
    wait_for(lambda: os.readlink(f"/proc/{worker.pid}/fd/2").endswith("other.log"), "the other log")
    worker.get("logs.py", "/print", QUERY_STRING="goes-there")
    assert "goes-there" in (worker.root / "other.log").read_text() and "goes-there" not in worker.log()


def test_levels(worker):
    worker.start("logs.py", log_level=4)
    assert "Loading WSGI script" not in worker.log()
    worker.get("logs.py", "/warning", QUERY_STRING="warned")
    assert "warned" in worker.log()
