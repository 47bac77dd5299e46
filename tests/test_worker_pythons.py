"""Daemon workers of the other Pythons that there is a runtime for."""

import re

import pytest
from servers import wait_for
from test_process import EXPECTED, FORKS
from test_pythons import INSTALLATIONS
from test_worker_limits import SLOW, stacks
from workers import TIMEOUT, Worker, app, request


@pytest.fixture(params=INSTALLATIONS)
def worker(request):
    made = Worker(python=INSTALLATIONS[request.param] / "bin" / "python3")
    made.version = request.param
    yield made
    made.close()


def test_the_rest_of_python(worker):
    worker.start("process.py", main_interpreter=True)
    version = worker.apps / "version.py"
    version.write_text("""
import sys

def application(environ, start_response):
    start_response("200 OK", [])
    return [f"{sys.version_info.major}.{sys.version_info.minor}".encode()]
""")
    assert worker.get("version.py").body.decode() == worker.version
    for what, expected in {**FORKS, **EXPECTED}.items():
        assert worker.get("process.py", f"/{what}").json() == {"ok": expected}, what


@pytest.mark.parametrize("group", ["", "other"])
def test_interruption(worker, group):
    (worker.apps / "slow.py").write_text(SLOW)
    worker.start(threads=1, request_timeout=0.3, interrupt_timeout=5)
    with worker.connect() as connection:
        # The import may take longer than a request may.
        assert connection.get(worker.target("slow.py"), group=group).status == 200
        for _ in range(3):
            assert connection.get(worker.target("slow.py"), "/python", group=group).abort == TIMEOUT
        answer = connection.get(worker.target("slow.py"), "/", group=group)
        assert answer.body.count(b"interrupted") == 3
    worker.order("stop", reason="shutdown_signal")
    assert worker.wait() == 0


@pytest.mark.parametrize("how", ["gil", "python"])
def test_stacks(worker, how):
    script = worker.apps / "slow.py"
    script.write_text(SLOW)
    worker.start(app(script))
    with worker.connect() as connection:
        connection.send(request(str(script), f"/{how}"))
        title = rf"\nThread \d+ \(burrow:\d+\), serving GET /{how} for [\d.]+ s:\n"
        stack = re.compile(title + r'(.*\n){1,5}  File ".*/slow.py", line')
        wait_for(lambda: stack.search(stacks(worker)), "the stack")
