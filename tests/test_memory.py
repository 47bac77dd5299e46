"""Memory of answers: what has been sent makes room for what follows."""

import pathlib

import psutil
import pytest
from servers import Mount

APPS = {
    "wsgi": """\
def application(environ, start_response):
    start_response("200 OK", [])
    return (bytes(65536) for _ in range(16))
""",
    "asgi": """\
async def application(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200})
    for number in range(16):
        await send({"type": "http.response.body", "body": bytes(65536), "more_body": number < 15})
""",
}
ANSWERS = 20
PAGES = 256  # of an answer


def page_faults(server):
    """Those that took memory from the system, in all of the server's processes."""
    parent = psutil.Process(server.master_pid)
    stats = [pathlib.Path(f"/proc/{each.pid}/stat") for each in [parent, *parent.children(True)]]
    return sum(int(stat.read_text().rpartition(")")[2].split()[7]) for stat in stats)


@pytest.mark.parametrize("process", [None, "shop"], ids=["embedded", "group"])
@pytest.mark.parametrize("interface", APPS)
def test_it_is_used_again(server, interface, process):
    server.write_app("pieces.py", APPS[interface])
    groups = {process: "processes=1 threads=1"} if process else None
    server.start(mounts=[Mount("/", "pieces.py", process=process)], groups=groups)

    def ask():
        assert len(server.get("/").content) == 1 << 20

    for _ in range(ANSWERS):
        ask()
    before = page_faults(server)
    for _ in range(ANSWERS):
        ask()
    assert page_faults(server) - before < ANSWERS * PAGES / 2
