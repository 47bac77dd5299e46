"""`wsgi_threads 0`: the application runs on nginx's own event loop."""

import pathlib

from servers import Mount

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
