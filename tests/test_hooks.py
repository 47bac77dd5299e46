"""Scripts that are asked about a request: who may have it, and on httpd where it goes."""

import concurrent.futures
import contextlib
import re
import subprocess
import sys

import pytest
from servers import IS_ROOT, KINDS, Mount, wait_for

needs_root = pytest.mark.skipif(not IS_ROOT, reason="workers with less rights than the server")
TRACEBACK = "Traceback (most recent call last)"
#: What no hook may answer, and what does not come to an answer.
FAILURES = ["one", "zero", "bytes", "object", "list", "raise", "exit", "unknown"]
USER = ("käse".encode("latin-1"), b"geheim:1")


def hooked(server, name="hooks.py"):
    """Locations that ask a script of hooks."""
    path = server.apps / name
    basic = 'AuthType Basic\nAuthName "the realm"\nAuthBasicProvider wsgi\n'
    user = f"{basic}WSGIAuthUserScript {path}\n"
    return [
        Mount(
            "/access",
            "hooks.py",
            "%{GLOBAL}",
            nginx=f"wsgi_access_script {path}; wsgi_param SECRET 1;",
            apache=f"WSGIAccessScript {path}\nSetEnv SECRET 1",
        ),
        Mount(
            "/user",
            "hooks.py",
            "%{GLOBAL}",
            nginx=f'wsgi_auth_user_script {path} "realm=the realm";',
            apache=f"{user}Require valid-user",
        ),
        Mount(
            "/both",
            "hooks.py",
            "%{GLOBAL}",
            nginx=f"wsgi_access_script {path}; wsgi_auth_user_script {path};",
            apache=f"{user}WSGIAccessScript {path}\nRequire valid-user",
        ),
        Mount(
            "/elsewhere",
            "hooks.py",
            "%{GLOBAL}",
            nginx=f"wsgi_access_script {path} application-group=elsewhere;",
            apache=f"WSGIAccessScript {path} application-group=elsewhere",
        ),
        Mount("/open", "hooks.py", "%{GLOBAL}"),
    ]


@pytest.fixture(scope="module", params=list(KINDS))
def running(request):
    server = KINDS[request.param]()
    server.start(mounts=hooked(server), threads=4)
    yield server
    server.close()


@pytest.fixture
def hook_site(running, watch):
    return watch(running)


def check_told(server, directive):
    """The log names the directive's place and the cause, once."""
    failed = rf"{directive} in \S+:\d+: \w+\(\) of '\S+' failed"
    server.wait_log(failed)
    log = server.log()
    assert len(re.findall(failed, log)) == 1
    assert log.count(TRACEBACK) <= 1
    if server.kind == "apache":
        assert "httpd.conf" in log or "site.conf" in log or ".htaccess" in log
    else:
        assert "nginx.conf" in log


DIRECTIVE = {
    "access": {"nginx": "wsgi_access_script", "apache": "WSGIAccessScript"},
    "user": {"nginx": "wsgi_auth_user_script", "apache": "WSGIAuthUserScript"},
}


@pytest.mark.parametrize(("answer", "status"), [("true", 200), ("none", 200), ("false", 403)])
def test_access(hook_site, answer, status):
    assert hook_site.get(f"/access?{answer}").status_code == status
    assert TRACEBACK not in hook_site.log()
    if status == 403:
        told = {"nginx": 'access forbidden by ".*hooks.py"', "apache": "WSGI0057: Client denied"}
        hook_site.wait_log(told[hook_site.kind])


@pytest.mark.parametrize("answer", [*FAILURES, "text", "empty"])
def test_access_fails_closed(hook_site, answer):
    assert hook_site.get(f"/access?{answer}").status_code == 403
    check_told(hook_site, DIRECTIVE["access"][hook_site.kind])


def test_access_environ(hook_site):
    response = hook_site.get("/access/a?environ", auth=USER)
    assert response.status_code == 200
    line = hook_site.wait_log("keys .* host 127.0.0.1")
    for key in (
        "REQUEST_METHOD",
        "REQUEST_URI",
        "PATH_INFO",
        "REMOTE_ADDR",
        "mod_wsgi.version",
        "wsgi.errors",
    ):
        assert key in line
    assert "REMOTE_USER" not in line
    assert "SECRET" not in line


def test_access_with_body(hook_site):
    """What the hook has not read the application has."""
    response = hook_site.post("/access?true", content=b"x" * 100_000)
    assert response.status_code == 200


def test_access_in_another_interpreter(hook_site):
    assert hook_site.get("/elsewhere?true").status_code == 200
    assert hook_site.get("/elsewhere?false").status_code == 403


def test_application_and_hooks_share_a_module(hook_site):
    before = int(hook_site.get("/open").text.split()[1])
    assert hook_site.get("/access?true").text.split()[1] == str(before + 1)


def test_user(hook_site):
    response = hook_site.get("/user", auth=USER)
    assert response.status_code == 200
    assert response.content.split()[0] == USER[0]


@pytest.mark.parametrize(
    ("password", "nginx_says", "apache_says"),
    [("wrong", 'user "me": password mismatch', "AH01617"), ("who", 'user "me" was not found in ', "AH01618")],
)
def test_user_refused(hook_site, password, nginx_says, apache_says):
    response = hook_site.get("/user", auth=("me", password))
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Basic realm="the realm"'
    # What watchers of logs look for.
    hook_site.wait_log({"nginx": nginx_says, "apache": apache_says}[hook_site.kind])


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer x"}, {"Authorization": "Basic !"}])
def test_user_not_said(hook_site, headers):
    response = hook_site.get("/user?raise", headers=headers)
    assert response.status_code == 401
    assert "the realm" in response.headers["www-authenticate"]
    assert TRACEBACK not in hook_site.log()


@pytest.mark.parametrize(
    ("answer", "status", "name"),
    [
        ("true", 200, "me"),
        ("text", 200, "someone"),
        ("euro", 200, "€"),
        ("false", 401, ""),
        ("none", 401, ""),
    ],
)
def test_user_told(hook_site, answer, status, name):
    response = hook_site.get(f"/user?{answer}", auth=("me", "told"))
    assert response.status_code == status
    if status == 200:
        assert response.content.split()[0].decode() == name


@pytest.mark.parametrize("answer", [*FAILURES, "empty", "nul"])
def test_user_fails_closed(hook_site, answer):
    assert hook_site.get(f"/user?{answer}", auth=("me", "told")).status_code == 500
    check_told(hook_site, DIRECTIVE["user"][hook_site.kind])


@pytest.mark.parametrize(
    ("answer", "status"), [("true", 200), ("false", 403), ("none", 401), ("raise", 403), ("zero", 403)]
)
def test_both(hook_site, answer, status):
    """Access, then a password that the same answer is for."""
    assert hook_site.get(f"/both?{answer}", auth=("me", "told")).status_code == status


def test_http2(hook_site):
    with hook_site.http2() as client:
        assert client.get("/access?true").status_code == 200
        assert client.get("/access?false").status_code == 403
        assert client.get("/access?raise").status_code == 403
        assert client.get("/user?text", auth=("me", "told")).text.split()[0] == "someone"


SCRIPT = "def allow_access(environ, host):\n    return {}\n"


def test_reload(server):
    script = server.write_app("edited_hook.py", SCRIPT.format("False"))
    server.start(mounts=hooked(server, script.name))
    assert server.get("/access").status_code == 403
    server.write_app(script.name, SCRIPT.format("True"))
    assert server.get("/access").status_code == 200
    server.write_app(script.name, "def allow_access(:\n")
    server.mark()
    assert server.get("/access").status_code == 403
    check_told(server, DIRECTIVE["access"][server.kind])
    server.write_app(script.name, SCRIPT.format("True"))
    assert server.get("/access").status_code == 200


@pytest.mark.parametrize("source", ["raise RuntimeError('at import')", "", "allow_access = True", None])
def test_script_of_no_use(server, source):
    script = server.apps / "of_no_use.py"
    if source is not None:
        server.write_app(script.name, source)
    server.start(mounts=hooked(server, script.name))
    assert server.get("/access").status_code == 403
    check_told(server, DIRECTIVE["access"][server.kind])
    server.mark()
    assert server.get("/user", auth=("me", "x")).status_code == 500
    check_told(server, DIRECTIVE["user"][server.kind])


@needs_root
def test_no_python(nginx):
    """Where there is no Python nobody is let in: here since the workers cannot enter its folder."""
    closed = nginx.root / "closed"
    closed.mkdir(mode=0o700)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", closed / "venv"], check=True)
    nginx.start(mounts=hooked(nginx), python_home=closed / "venv")
    assert nginx.get("/access?true").status_code == 403
    assert nginx.get("/user", auth=USER).status_code == 500
    assert nginx.get("/user").status_code == 401


def test_module_of_hooks(nginx):
    nginx.start(nginx="wsgi_access_script hooks;")
    assert nginx.get("/static.txt?true").status_code == 200
    assert nginx.get("/static.txt?false").status_code == 403


def go(server):
    """Lets hooks that wait go on."""
    (server.data / "go").touch()


@contextlib.contextmanager
def waiting_hook(server):
    """While a hook works on a request, which is then let in."""
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        request = pool.submit(server.request, "/access?wait")
        try:
            server.wait_log("a hook waits")
            yield
            assert not request.done()
        finally:
            go(server)
        assert request.result().status == 200


def test_slow_hook_keeps_nobody(server):
    server.start(mounts=hooked(server), threads=4)
    assert server.get("/access").status_code == 200
    with waiting_hook(server):
        for _ in range(20):
            assert server.get("/open").status_code == 200
            assert server.get("/static.txt").status_code == 200
            assert server.get("/access?true").status_code == 200


def test_client_leaves_while_a_hook_works(nginx):
    nginx.start(mounts=hooked(nginx), threads=4)
    assert nginx.get("/access").status_code == 200
    for tls in (False, True):
        with nginx.connect(tls) as connection:
            connection.sendall(b"GET /access?wait HTTP/1.1\r\nHost: localhost\r\n\r\n")
            nginx.wait_log("a hook waits")
            nginx.mark()
    wait_for(lambda: (nginx.root / "access.log").read_text().count(" 499 ") == 2, "two clients gone")
    go(nginx)
    assert nginx.get("/access?true").status_code == 200


def test_worker_that_quits_waits_for_a_hook(nginx):
    nginx.start(mounts=hooked(nginx), threads=4)
    assert nginx.get("/access").status_code == 200
    with waiting_hook(nginx):
        nginx.reload()


def test_satisfy_any(server):
    path = server.apps / "hooks.py"
    mount = Mount(
        "/any",
        "hooks.py",
        "%{GLOBAL}",
        nginx=f"satisfy any; wsgi_access_script {path}; wsgi_auth_user_script {path};",
        apache=(
            f"AuthType Basic\nAuthName x\nAuthBasicProvider wsgi\nWSGIAuthUserScript {path}\n"
            f"WSGIAccessScript {path}\nSatisfy any\nRequire valid-user"
        ),
    )
    compat = "LoadModule access_compat_module /usr/lib/apache2/modules/mod_access_compat.so"
    server.start(mounts=[mount], main=compat if server.kind == "apache" else "")
    if server.kind == "nginx":
        assert server.get("/any?true").status_code == 200
        assert server.get("/any?true", auth=("me", "wrong")).text.split()[0] == "None"
    assert server.get("/any?false").status_code == 401
    assert server.get("/any?false", auth=("me", "wrong")).status_code == 401
    assert server.get("/any?raise", auth=("me", "told")).status_code in (401, 403, 500)


def test_off_and_static_files(nginx):
    path = nginx.apps / "hooks.py"
    nginx.start(
        nginx=f"""
        wsgi_access_script {path};
        location = /file {{ alias {nginx.htdocs}/static.txt; }}
        location = /free {{ wsgi_access_script off; alias {nginx.htdocs}/static.txt; }}
        location = /inside {{ auth_request /sub; alias {nginx.htdocs}/static.txt; }}
        """,
        mounts=[],
    )
    assert nginx.get("/file?true").text == "static\n"
    assert nginx.get("/file?false").status_code == 403
    assert nginx.get("/free?false").text == "static\n"
