"""The nginx module among nginx's own features."""

import asyncio
import concurrent.futures
import json
import re
import signal
import socket
import threading

import httpx
import psutil
import pytest
import servers
from servers import IS_ROOT, PYTHON_HOME, Mount, wait_for

ACCEL = """
def application(environ, start_response):
    headers = [("Content-Type", "text/plain"), ("X-Accel-Redirect", environ["QUERY_STRING"]),
               ("Set-Cookie", "kept=1"), ("Content-Length", "7")]
    start_response("200 OK", headers)
    return [b"unseen\\n"]
"""
STATUS = """
def application(environ, start_response):
    environ["wsgi.input"].read()
    status = environ["QUERY_STRING"] or "200"
    start_response(status + " Status", [("Content-Type", "text/plain"), ("X-From", "application")])
    return [b"own page " + status.encode()]
"""
AUTH = """
def application(environ, start_response):
    assert environ["wsgi.input"].read() == b""
    allowed = environ.get("HTTP_X_KEY") == "good"
    start_response("204 No Content" if allowed else "403 Forbidden", [("X-User", "ann")])
    return []
"""
RUNNING = """
import threading

running, changed = 0, threading.Condition()

def application(environ, start_response):
    \"\"\"How many requests run at once, looked at once there are three of them.\"\"\"
    global running
    with changed:
        running += 1
        changed.notify_all()
        changed.wait_for(lambda: running >= 3, 10)
        changed.wait(0.2)  # for one too many
        seen = running
    start_response("200 OK", [("Content-Type", "text/plain")])
    with changed:
        running -= 1
    return [str(seen).encode()]
"""


@pytest.fixture(scope="module", params=["embedded", "daemon"])
def features(request):
    """One server with everything in it; its applications in its own processes, or in a process group."""
    server = servers.Nginx()
    group = f"wsgi_daemon_process shop threads=4 python-home={PYTHON_HOME} python-path={server.apps};"
    daemon = request.param == "daemon"
    for name, source in {"accel.py": ACCEL, "status.py": STATUS, "auth.py": AUTH}.items():
        server.write_app(name, source)
    (server.htdocs / "protected").mkdir()
    (server.htdocs / "protected" / "file.txt").write_text("protected\n" * 10000)
    (server.htdocs / "50x.html").write_text("nginx's page\n")
    apps = server.apps
    server.start(
        mounts=[],
        threads=4,
        http=f"""
            {group if daemon else ""}
            limit_req_zone $binary_remote_addr zone=slow:1m rate=1r/m;
            limit_conn_zone $server_name zone=conns:1m;
            wsgi_param INHERITED http;
            wsgi_param FROM_HTTP yes;
            map $arg_empty $nothing {{ default ""; }}
        """,
        nginx=f"""
            wsgi_param INHERITED server;
            wsgi_application_group shared;
            {"wsgi_process_group shop;" if daemon else ""}

            location /plain {{ wsgi_pass {apps}/hello.py; }}
            location /environ {{ wsgi_pass {apps}/environ.py; }}
            location /params {{
                wsgi_pass {apps}/environ.py;
                wsgi_param INHERITED location;
                wsgi_param VARIABLE $request_method-$arg_x;
                wsgi_param EMPTY $nothing;
                wsgi_param SKIPPED $nothing if_not_empty;
                wsgi_param REMOTE_ADDR 192.0.2.1;
                wsgi_param CONTENT_TYPE set/here;
                wsgi_param mixed.Case "two words";
            }}
            location /nested {{
                wsgi_param INHERITED outer;
                location /nested/inner {{ wsgi_pass {apps}/environ.py; }}
            }}
            location /mounted/ {{ wsgi_pass {apps}/environ.py; }}
            location = /exact {{ wsgi_pass {apps}/environ.py; }}
            location ~ ^/regex/(?<name>[a-z]+) {{ wsgi_pass {apps}/environ.py; wsgi_param NAME $name; }}
            location /named {{ try_files $uri @application; }}
            location @application {{ wsgi_pass {apps}/environ.py; }}
            location /tried {{ try_files $uri $uri/index.html /environ$uri?$args; }}
            location /rewritten {{ rewrite ^/rewritten/(.*) /environ/new/$1?added=1 last; }}
            location /broken {{ rewrite ^/broken/(.*) /inside/$1 break; wsgi_pass {apps}/environ.py; }}
            location /if {{
                wsgi_param BRANCH none;
                if ($arg_branch = one) {{ wsgi_pass {apps}/environ.py; }}
                if ($arg_branch = set) {{ set $unused 1; }}
                if ($arg_branch = back) {{ return 418; }}
                wsgi_pass {apps}/environ.py;
            }}
            location /module {{ wsgi_pass hello:application; }}
            location /limited {{ limit_req zone=slow; wsgi_pass {apps}/hello.py; }}
            location /authorized {{ auth_request /auth; auth_request_set $user $sent_http_x_user;
                                    wsgi_param AUTH_USER $user; wsgi_pass {apps}/environ.py; }}
            location = /auth {{ internal; wsgi_pass {apps}/auth.py; }}
            location /accel {{ wsgi_pass {apps}/accel.py; }}
            location /protected/ {{ internal; }}
            location @elsewhere {{ return 200 "named location"; }}
            location /intercepted {{ wsgi_intercept_errors on; error_page 404 500 503 /50x.html;
                                     wsgi_pass {apps}/status.py; }}
            location /handled {{ wsgi_intercept_errors on; error_page 404 = @application;
                                 wsgi_pass {apps}/status.py; }}
            location /own {{ error_page 404 500 /50x.html; wsgi_pass {apps}/status.py; }}
            location /raising {{ error_page 500 /50x.html; wsgi_pass {apps}/faults.py; }}
            location /small {{ client_max_body_size 100; wsgi_pass {apps}/status.py; }}
            location /stream {{ client_max_body_size 100; wsgi_request_buffering off;
                                wsgi_pass {apps}/status.py; }}
            location /headers {{ add_header X-Added nginx; expires 1h; wsgi_pass {apps}/hello.py; }}
            location /ranges {{ wsgi_pass {apps}/responses.py; }}
            location /mirrored {{ mirror /mirror; wsgi_pass {apps}/status.py; }}
            location = /mirror {{ internal; wsgi_pass {apps}/logs.py; }}
            location /ssi {{ ssi on; ssi_types text/plain; wsgi_pass {apps}/included.py; }}
            location = /50x.html {{ }}
        """,
    )
    yield server
    server.close()


@pytest.fixture
def site(features, watch):
    return watch(features)


def strings(response):
    return json.loads(response.content)["strings"]


def test_plain_tls_and_http2(site):
    assert site.get("/plain").text == "Hello, World!\n"
    with site.http2() as client:
        assert client.get("/plain").http_version == "HTTP/2"
    assert site.curl("/plain", "--http1.1")[1] == b"Hello, World!\n"


def test_many_http2_streams(site):
    async def ask():
        async with site.http2(httpx.AsyncClient) as client:
            return await asyncio.gather(*(client.get(f"/environ/{n}") for n in range(64)))

    answers = asyncio.run(ask())
    assert [strings(answer)["PATH_INFO"] for answer in answers] == [f"/{n}" for n in range(64)]


def test_gzip(site):
    response = site.get("/plain", headers={"accept-encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip"
    assert response.text == "Hello, World!\n"


def test_params(site):
    seen = strings(site.get("/params?x=1"))
    assert seen["INHERITED"] == "location"
    assert seen["VARIABLE"] == "GET-1"
    assert seen["EMPTY"] == ""
    assert "SKIPPED" not in seen
    assert seen["REMOTE_ADDR"] == "192.0.2.1"
    assert seen["CONTENT_TYPE"] == "set/here"
    assert seen["mixed.Case"] == "two words"
    # As with other directives of its kind, a level that has some inherits none.
    assert "FROM_HTTP" not in seen


def test_inheritance(site):
    assert strings(site.get("/environ"))["INHERITED"] == "server"
    assert strings(site.get("/nested/inner"))["INHERITED"] == "outer"
    assert strings(site.get("/regex/abc"))["NAME"] == "abc"


@pytest.mark.parametrize(
    ("path", "script_name", "path_info"),
    [
        ("/mounted/x/y", "/mounted", "/x/y"),
        ("/mounted/", "/mounted", "/"),
        ("/exact", "/exact", ""),
        ("/regex/abc/d", "", "/regex/abc/d"),
        ("/named/a", "", "/named/a"),
        ("/tried/b?q=1", "/environ", "/tried/b"),
        ("/rewritten/c?q=1", "/environ", "/new/c"),
        ("/nested/inner/d", "/nested/inner", "/d"),
    ],
)
def test_script_name(site, path, script_name, path_info):
    seen = strings(site.get(path))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (script_name, path_info)
    assert seen["REQUEST_URI"] == path
    if path.startswith("/rewritten"):
        assert seen["QUERY_STRING"] == "added=1&q=1"


def test_rewrite_break(site):
    seen = strings(site.get("/broken/a"))
    assert seen["SCRIPT_NAME"] + seen["PATH_INFO"] == "/inside/a"


def test_redirect_to_the_slash(site):
    response = site.get("/mounted")
    assert response.status_code == 301
    assert response.headers["Location"].endswith("/mounted/")


@pytest.mark.parametrize("branch", ["", "one", "set"])
def test_if(site, branch):
    response = site.get(f"/if/x?branch={branch}")
    assert response.status_code == 200
    assert strings(response)["PATH_INFO"] == "/x"
    assert strings(response)["BRANCH"] == "none"


def test_if_return(site):
    assert site.get("/if/x?branch=back").status_code == 418


def test_module_target(site):
    assert site.get("/module").text == "Hello, World!\n"


def test_limit_req(site):
    assert [site.get("/limited").status_code for _ in range(3)] == [200, 503, 503]


def test_auth_request(site):
    assert site.post("/authorized", content=b"body").status_code == 403
    response = site.post("/authorized/x", content=b"body", headers={"X-Key": "good"})
    assert strings(response)["AUTH_USER"] == "ann"
    assert strings(response)["CONTENT_LENGTH"] == "4"


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_accel_redirect_to_a_file(site, method):
    # The file's answer in place of the application's, with the cookie of the latter.
    response = site.client.request(method, "/accel?/protected/file.txt")
    assert response.status_code == 200
    assert response.headers["Content-Length"] == str(len("protected\n") * 10000)
    assert "X-Accel-Redirect" not in response.headers
    assert response.content == (b"" if method == "HEAD" else b"protected\n" * 10000)
    assert response.headers["Set-Cookie"] == "kept=1"
    assert site.get("/protected/file.txt").status_code == 404


def test_accel_redirect_elsewhere(site):
    assert site.get("/accel?@elsewhere").text == "named location"
    assert strings(site.get("/accel?/environ/x?y=1"))["QUERY_STRING"] == "y=1"
    assert site.get("/accel?/protected/missing").status_code == 404
    assert site.get("/accel?@missing").status_code == 500
    assert site.get("/accel?/protected/../../etc/passwd").status_code in (400, 404, 500)
    response = site.get("/accel?/protected/file.txt", headers={"Range": "bytes=0-8"})
    assert (response.status_code, response.text) == (206, "protected")


def test_error_pages(site):
    for status in (404, 500, 503):
        response = site.get(f"/intercepted?{status}")
        assert (response.status_code, response.text) == (status, "nginx's page\n")
    assert site.get("/intercepted?200").text == "own page 200"
    assert site.get("/intercepted?410").text == "own page 410"
    assert strings(site.get("/handled?404"))["PATH_INFO"] == "/handled"
    assert site.get("/own?404").text == "own page 404"
    # What the application did not answer is nginx's to say.
    assert site.get("/raising/raise").text == "nginx's page\n"


@pytest.mark.parametrize("path", ["/small", "/stream"])
def test_413(site, path):
    assert site.post(path, content=bytes(100)).status_code == 200
    assert site.post(path, content=bytes(101)).status_code == 413
    assert site.post(path, content=iter([bytes(60), bytes(60)])).status_code in (413, 500)
    with site.http2() as client:
        assert client.post(path, content=bytes(101)).status_code == 413
    assert site.post(path, content=bytes(100)).status_code == 200


def test_other_modules_touch_the_answer(site):
    response = site.get("/headers")
    assert response.headers["X-Added"] == "nginx"
    assert "max-age=3600" in response.headers["Cache-Control"]
    response = site.get("/ranges/file", headers={"Range": "bytes=5-9"})
    assert response.status_code in (200, 206)
    if response.status_code == 206:
        assert len(response.content) == 5


def test_mirror(site):
    assert site.post("/mirrored", content=b"x" * 100000).text == "own page 200"
    assert site.get("/plain").status_code == 200


def test_includes(site):
    text = site.get("/ssi").text
    assert text.startswith("before Hello, World!\n and ") and text.endswith(" after")


# ---- the life of workers


def test_worker_shutdown_timeout(nginx):
    server = nginx
    server.start("lifecycle.py", main="worker_shutdown_timeout 1s;")
    server.get("/pid")
    (old,) = server.workers()
    answers = []

    def ask():
        try:
            answers.append(server.get("/sleep?20"))
        except Exception as error:
            answers.append(error)

    client = threading.Thread(target=ask)
    client.start()
    server.wait_log("falls asleep")
    server.kill(signal.SIGHUP)
    wait_for(lambda: not psutil.pid_exists(old), "the old worker's end", timeout=10)
    client.join(1)
    assert not client.is_alive()


def test_hold_during_quit(nginx):
    # A worker that quits waits for what its application threads still do.
    server = nginx
    server.start("lifecycle.py")
    server.get("/pid")
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        sleeping = [pool.submit(server.get, "/sleep?2") for _ in range(4)]
        wait_for(lambda: server.log().count("falls asleep") == 4, "four requests")
        server.stop(signal.SIGQUIT)
        assert [request.result().status_code for request in sleeping] == [200] * 4
    assert "open socket" not in server.log()


def test_master_process_off(nginx):
    nginx.start("hello.py", main="master_process off;", unprivileged=True)
    assert nginx.get("/").text == "Hello, World!\n"


@pytest.mark.skipif(not IS_ROOT, reason="about root")
def test_python_is_refused_in_a_root_process(nginx):
    nginx.start("hello.py", main="master_process off;")
    assert nginx.get("/").status_code == 500
    assert re.search("root", nginx.log())
    assert nginx.get("/static.txt").text == "static\n"


def test_unprivileged(server):
    server.start("hello.py", unprivileged=True)
    assert server.get("/").text == "Hello, World!\n"


def test_threads(nginx):
    """So many requests run at once, and no more."""
    nginx.write_app("running.py", RUNNING)
    nginx.start("running.py", threads=3)
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        seen = [int(answer.body) for answer in pool.map(lambda _: nginx.request("/"), range(6))]
    assert max(seen) == 3


def test_more_connections_than_threads(nginx):
    server = nginx
    server.start("hello.py", threads=2)
    connections = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(200)]
    for connection in connections:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    for connection in connections:
        assert servers.read_response(connection).status == 200
        connection.close()


def test_client_leaves_while_it_waits_for_a_thread(nginx):
    server = nginx
    server.start(mounts=[Mount("/", "lifecycle.py", "%{GLOBAL}")], threads=1)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        busy = pool.submit(server.get, "/sleep?2")
        server.wait_log("falls asleep")
        for _ in range(20):
            with server.connect() as connection:
                connection.sendall(b"GET /sleep?60 HTTP/1.1\r\nHost: x\r\n\r\n")
        # The abandoned ones never start: they would take twenty minutes.
        assert busy.result().status_code == 200
    assert server.get("/pid").status_code == 200
