"""Process groups behind nginx: what is its own in them."""

import pathlib
import re
import signal
import threading

import psutil
from servers import PYTHON_HOME, Mount, wait_for


def start(server, *, http="", **settings):
    """Starts it with a process group `shop` that all of it runs in."""
    group = f"wsgi_daemon_process shop python-home={PYTHON_HOME} python-path={server.apps};"
    return server.start(http=f"{group} wsgi_process_group shop; {http}", **settings)


def test_no_python_in_nginx(nginx):
    start(nginx)
    assert nginx.get().text == "Hello, World!\n"
    (pid,) = nginx.workers()
    assert "libpython" not in pathlib.Path(f"/proc/{pid}/maps").read_text()
    assert len(psutil.Process(pid).threads()) == 1


WHO = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(environ["mod_wsgi.process_group"]).encode()]
"""
ACCESS = """
def allow_access(environ, host):
    return "secret" not in environ["QUERY_STRING"]
"""


def test_embedded_and_daemon(nginx):
    who, access = nginx.write_app("who.py", WHO), nginx.write_app("access.py", ACCESS)
    inside = {
        "daemon": "",
        "embedded": 'wsgi_process_group "%{GLOBAL}";',
        "inherits": f"if ($arg_own) {{ wsgi_process_group other; wsgi_pass {who}; }}",
    }
    mounts = [Mount(f"/{name}", "who.py", "%{GLOBAL}", nginx=lines) for name, lines in inside.items()]
    other = f"wsgi_daemon_process other python-home={PYTHON_HOME};"
    start(nginx, mounts=mounts, http=other, nginx=f"wsgi_access_script {access};")
    assert nginx.get("/daemon").text == "'shop'"
    assert nginx.get("/embedded").text == "''"
    assert nginx.get("/inherits").text == "'shop'"
    assert nginx.get("/inherits?own=1").text == "'other'"
    assert nginx.get("/daemon?secret").status_code == 403


def test_imported_before_the_first_request(nginx):
    nginx.write_app("early.py", 'print("early", __import__("os").getpid())')
    http = f'wsgi_import_script {nginx.apps / "early.py"} process-group=shop "application-group=%{{GLOBAL}}";'
    start(nginx, http=http)
    pid = int(re.search(r"early (\d+)", nginx.wait_log(r"early \d"))[1])
    assert pid not in nginx.workers()
    assert nginx.get().status_code == 200


def test_access_log(nginx):
    seen = "$upstream_addr|$upstream_status|$upstream_response_time|$upstream_bytes_received"
    start(nginx, http=f"log_format link '{seen}'; access_log {nginx.root}/links.log link;")
    assert nginx.get().status_code == 200
    line = wait_for(lambda: (nginx.root / "links.log").read_text(), "a line")
    assert re.fullmatch(r"shop\|200\|0\.\d+\|\d+\n", line)


def test_a_quit_lets_requests_end(nginx, clients):
    start(nginx, mounts=[Mount("/", "lifecycle.py", "%{GLOBAL}")])
    nginx.get("/pid")
    sleeping = clients.submit(nginx.get, "/sleep?1")
    nginx.wait_log("falls asleep")
    nginx.stop(signal.SIGQUIT)
    assert sleeping.result().status_code == 200
    assert "open socket" not in nginx.log()


def test_reloads(nginx, clients):
    """No request is lost, whatever connections the worker processes that end have."""
    start(nginx)
    over = threading.Event()

    def ask():
        seen = set()
        while not over.is_set():
            seen.add(nginx.request("/").status)
        return seen

    asking = [clients.submit(ask) for _ in range(4)]
    for _ in range(3):
        nginx.reload()
    over.set()
    assert [each.result() for each in asking] == [{200}] * 4
