"""`wsgi_threads 0`: the application runs on nginx's own event loop."""

import contextlib
import pathlib
from functools import partial

from servers import Mount, wait_for

APP = Mount("/", "without_threads.py", nginx="wsgi_threads 0;")


def test_it_runs_on_the_process_own_thread(nginx):
    nginx.start(mounts=[APP])
    for _ in range(2):
        pid, thread, multithread = nginx.get("/where").text.split()
        assert pid == thread
        assert multithread == "False"


def test_bodies_answers_and_failures(nginx):
    nginx.start(mounts=[APP])
    for size in (0, 1, 16384, 3_000_000):
        body = b"0123456789abcdef"[: size % 16] + b"x" * (size - size % 16)
        assert nginx.post("/echo", content=body).content == body
    # Longer than what an application with a thread may be ahead of its client.
    assert nginx.get("/stream").content == b"x" * 65536 * 160
    source = pathlib.Path(nginx.apps / "without_threads.py").read_text()
    assert nginx.get("/file").text == source
    assert nginx.get("/fails").status_code == 500
    assert "ValueError: /fails" in nginx.wait_log("ValueError: /fails")
    assert nginx.get("/where").status_code == 200


def test_pipelined_requests_are_answered_in_order(nginx):
    nginx.start(mounts=[APP])
    nginx.get("/where")
    with nginx.connect() as connection:
        bodies = [f"{number:08}".encode() for number in range(50)]
        head = "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\n"
        connection.sendall(b"".join(head.encode() + body for body in bodies))
        received = b""
        while not received.endswith(bodies[-1]):
            part = connection.recv(65536)
            assert part, received[-200:]
            received += part
    positions = [received.index(b"\r\n\r\n" + body) for body in bodies]
    assert positions == sorted(positions)


def test_requests_that_come_together(nginx):
    """Of two interpreters, with imports and failures among them."""
    mounts = [Mount(prefix, "without_threads.py", nginx="wsgi_threads 0;") for prefix in ("/a", "/b")]
    nginx.start(mounts=mounts)
    with contextlib.ExitStack() as stack:
        paths = ["/a/echo", "/b/echo", "/b/fails", "/a/file"] * 10
        connections = [stack.enter_context(nginx.connect()) for _ in paths]
        headers = "Host: localhost\r\nConnection: close\r\nContent-Length: 4"
        for number, connection in enumerate(connections):
            head = f"POST {paths[number]} HTTP/1.1\r\n{headers}\r\n\r\n"
            connection.sendall(f"{head}{number:04}".encode())
        answers = [b"".join(iter(partial(connection.recv, 65536), b"")) for connection in connections]
    source = pathlib.Path(nginx.apps / "without_threads.py").read_bytes()
    for number, (path, answer) in enumerate(zip(paths, answers, strict=True)):
        head, body = answer.split(b"\r\n\r\n", 1)
        assert head.startswith(b"HTTP/1.1 500" if path.endswith("/fails") else b"HTTP/1.1 200"), path
        if path.endswith("/echo"):
            assert body == f"{number:04}".encode()
        elif path.endswith("/file"):
            assert body == source


def test_threads_of_the_application_run_between_requests(nginx):
    nginx.start(mounts=[APP])
    assert nginx.get("/count").text == "0"
    wait_for(lambda: int(nginx.get("/count").text) > 100, "a thread that counts")


def test_a_client_that_leaves_harms_nobody(nginx):
    nginx.start(mounts=[APP])
    nginx.get("/where")
    for _ in range(5):
        with nginx.connect() as connection:
            connection.sendall(b"GET /stream HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection.recv(1000)
    assert nginx.get("/where").status_code == 200


def test_scripts_have_a_thread(nginx):
    script = nginx.apps / "without_threads.py"
    mount = Mount("/", "without_threads.py", nginx=f"wsgi_threads 0; wsgi_access_script {script};")
    nginx.start(mounts=[mount])
    assert nginx.get("/where").status_code == 200
    assert nginx.get("/where?no").status_code == 403


def test_a_body_must_be_there_first(nginx):
    mount = Mount("/", "without_threads.py", nginx="wsgi_threads 0; wsgi_request_buffering off;")
    status, output = nginx.configtest(mounts=[mount])
    assert status
    assert "set wsgi_request_buffering on" in output
