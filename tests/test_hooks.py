"""Scripts that are asked about a request: who may have it, and on httpd where it goes."""

import re
import threading
import time

import httpx
import pytest
from servers import Mount, wait_for

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


@pytest.fixture(scope="module")
def hook_sites():
    running = {}
    yield running
    for made in running.values():
        made.close()


@pytest.fixture(params=["nginx", "apache"])
def hook_site(request, hook_sites):
    from servers import KINDS

    made = hook_sites.get(request.param)
    if made is None:
        made = KINDS[request.param]()
        made.start(mounts=hooked(made), threads=4)
        hook_sites[request.param] = made
    request.node.servers = [made]
    made.mark()
    yield made
    made.check()


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


@pytest.mark.parametrize("password", ["wrong", "who"])
def test_user_refused(hook_site, password):
    response = hook_site.get("/user", auth=("me", password))
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == 'Basic realm="the realm"'


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


def test_no_python(server):
    """Where Python cannot start nobody is let in."""
    server.start(mounts=hooked(server), nginx="", python_home=None)
    assert server.get("/access?false").status_code == 403


def test_slow_hook_keeps_nobody(server):
    server.start(mounts=hooked(server), threads=4)
    assert server.get("/access").status_code == 200
    answers = []
    slow = threading.Thread(
        target=lambda: answers.append(httpx.get(f"{server.url}/access?sleep2", timeout=30))
    )
    slow.start()
    began = time.monotonic()
    for _ in range(20):
        assert server.get("/open").status_code == 200
        assert server.get("/static.txt").status_code == 200
        assert server.get("/access?true").status_code == 200
    assert time.monotonic() - began < 2
    slow.join()
    assert answers[0].status_code == 200


def test_client_leaves_while_a_hook_works(nginx):
    nginx.start(mounts=hooked(nginx), threads=4)
    assert nginx.get("/access").status_code == 200
    for tls in (False, True):
        with nginx.connect(tls) as connection:
            connection.sendall(b"GET /access?sleep1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.2)
    wait_for(lambda: (nginx.root / "access.log").read_text().count(" 499 ") == 2, "two clients gone", 0.8)
    assert nginx.get("/access?true").status_code == 200


def test_worker_that_quits_waits_for_a_hook(nginx):
    nginx.start(mounts=hooked(nginx), threads=4)
    assert nginx.get("/access").status_code == 200
    answers = []
    slow = threading.Thread(
        target=lambda: answers.append(httpx.get(f"{nginx.url}/access?sleep1", timeout=30))
    )
    slow.start()
    time.sleep(0.3)
    nginx.reload()
    slow.join()
    assert answers[0].status_code == 200


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


@pytest.mark.parametrize(
    "line",
    [
        "wsgi_access_script app.py;",
        "wsgi_access_script /x group=1;",
        "wsgi_access_script a:b;",
        "wsgi_access_script /x realm=1;",
        "wsgi_auth_user_script /x 'realm=a\"b';",
        "wsgi_access_script off x=1;",
        "wsgi_access_script /x application-group=%{SERVER};",
        "wsgi_access_script /x; wsgi_access_script /y;",
    ],
)
def test_bad_nginx_configuration(nginx, line):
    code, said = nginx.configtest(mounts=[Mount("/", "hello.py", nginx=line)])
    assert code != 0
    assert "wsgi_" in said
    assert "nginx.conf:" in said


@pytest.mark.parametrize(
    "line",
    [
        "WSGIAccessScript hooks.py",
        "WSGIAccessScript",
        "WSGIAuthUserScript /x process-group=y",
        "WSGIAuthGroupScript /x application-group=%{NONE}",
        "WSGIHandlerScript name",
        "WSGIGroupAuthoritative perhaps",
        "WSGIHandlerScript name /x pass-authorization=perhaps",
        "WSGIDispatchScript relative.py",
    ],
)
def test_bad_httpd_configuration(apache, line):
    code, said = apache.configtest(apache=f"<Location />\n{line}\n</Location>")
    assert code != 0
    assert "Syntax error on line" in said


# ---- httpd alone

DIGEST = "LoadModule auth_digest_module /usr/lib/apache2/modules/mod_auth_digest.so"


def test_digest(apache):
    path = apache.apps / "hooks.py"
    digest = (
        f'AuthType Digest\nAuthName "the realm"\nAuthDigestProvider wsgi\nWSGIAuthUserScript {path}\n'
        "Require valid-user"
    )
    apache.start(mounts=[Mount("/", "hooks.py", apache=digest)], main=DIGEST)

    def status(user):
        _, out = apache.curl("/", "--digest", "-u", user, "-w", "%{http_code}", "-o", "/dev/null", tls=False)
        return int(out)

    assert status("me:geheim") == 200
    assert status("me:wrong") == 401
    assert status("nobody:geheim") == 401
    assert TRACEBACK not in apache.log()
    assert status("raise:geheim") == 500
    check_told(apache, "WSGIAuthUserScript")


def grouped(server, require):
    path = server.apps / "hooks.py"
    return Mount(
        "/",
        "hooks.py",
        "%{GLOBAL}",
        apache=(
            f"AuthType Basic\nAuthName x\nAuthBasicProvider wsgi\nWSGIAuthUserScript {path}\n"
            f"WSGIAuthGroupScript {path}\nWSGIGroupAuthoritative On\n{require}"
        ),
    )


def test_groups(apache):
    apache.start(mounts=[grouped(apache, "Require wsgi-group staff admins")])

    def status(query):
        apache.mark()
        return apache.get(f"/?{query}", auth=USER).status_code

    assert [status("true"), status("generator")] == [200, 200]
    assert status("false") == 401
    assert TRACEBACK not in apache.log()
    for query in ("late", "number", "admins", "raise", "none", "one", "euro"):
        assert status(query) == 500, query
        check_told(apache, "WSGIAuthGroupScript")


def test_groups_negated(apache):
    """A failure is no way around "not"."""
    require = "<RequireAll>\nRequire valid-user\nRequire not wsgi-group admins\n</RequireAll>"
    apache.start(mounts=[grouped(apache, require)])
    assert apache.get("/?true", auth=USER).status_code == 401
    assert apache.get("/?false", auth=USER).status_code == 200
    assert apache.get("/?raise", auth=USER).status_code == 500


def test_hooks_without_script(apache):
    auth = "AuthType Basic\nAuthName x\nAuthBasicProvider wsgi\nRequire valid-user"
    apache.start(mounts=[Mount("/", "hello.py", apache=auth)])
    assert apache.get("/", auth=USER).status_code == 500
    assert "WSGIAuthUserScript" in apache.log()


def test_htaccess(apache):
    folder = apache.htdocs / "private"
    folder.mkdir()
    (folder / "file.txt").write_text("private\n")
    allowed = f"<Directory {apache.htdocs}>\nAllowOverride AuthConfig\n</Directory>"
    (folder / ".htaccess").write_text(f"WSGIAccessScript {apache.apps}/hooks.py\n")
    apache.start(apache=f"{allowed}\nAlias /private {folder}")
    assert apache.get("/private/file.txt?true").text == "private\n"
    assert apache.get("/private/file.txt?false").status_code == 403
    apache.mark()
    assert apache.get("/private/file.txt?raise").status_code == 403
    check_told(apache, "WSGIAccessScript")
    assert ".htaccess:1" in apache.log()


DISPATCH = """
def application_group(environ):
    return {"main": "%{GLOBAL}", "none": None, "number": 1}.get(environ["QUERY_STRING"], "dispatched")

def callable_object(environ):
    return b"other" if environ["QUERY_STRING"] == "other" else None
"""
DISPATCHED = """
import mod_wsgi

def application(environ, start_response, name="application"):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{name} {mod_wsgi.application_group}".encode()]

def other(environ, start_response):
    return application(environ, start_response, "other")
"""


def test_dispatch(apache):
    apache.write_app("dispatch.py", DISPATCH)
    apache.write_app("dispatched.py", DISPATCHED)
    dispatch = f"WSGIDispatchScript {apache.apps}/dispatch.py"
    apache.start(mounts=[Mount("/", "dispatched.py", "configured", apache=dispatch)])
    assert apache.get("/").text == "application dispatched"
    assert apache.get("/?other").text == "other dispatched"
    assert apache.get("/?none").text == "application configured"
    assert apache.get("/?main").text == "application "
    assert TRACEBACK not in apache.log()
    assert apache.get("/?number").status_code == 500
    check_told(apache, "WSGIDispatchScript")


@pytest.mark.parametrize(("group", "status"), [("", 200), ("%{GLOBAL}", 200), ("shop", 500)])
def test_dispatch_to_a_process_group(apache, group, status):
    apache.write_app("dispatch.py", f"def process_group(environ):\n    return {group!r}\n")
    dispatch = f"WSGIDispatchScript {apache.apps}/dispatch.py"
    apache.start(mounts=[Mount("/", "hello.py", apache=dispatch)])
    assert apache.get("/").status_code == status
    assert status == 200 or "daemon mode" in apache.log()


def test_handler_script(apache):
    path = apache.apps / "hooks.py"
    (apache.htdocs / "page.bobo").write_text("page")
    apache.start(
        apache=f"""
        WSGIHandlerScript bobo {path} application-group=%{{GLOBAL}} pass-authorization=On
        WSGIHandlerScript plain {path}
        <Directory {apache.htdocs}>
            AddHandler bobo .bobo
        </Directory>
        <Location /set>
            SetHandler plain
        </Location>
        RewriteEngine on
        RewriteRule ^/rewritten - [H=plain]
        """,
        mounts=[],
    )
    sent = {"Authorization": "Bearer x"}
    assert apache.get("/page.bobo/more", headers=sent).text == f"{path} /page.bobo /more Bearer x page.bobo"
    assert apache.get("/set", headers=sent).text == f"{path} /set  - set"
    assert apache.get("/rewritten").text.startswith(str(path))
    assert apache.get("/static.txt").text == "static\n"


@pytest.mark.parametrize("mpm", ["prefork", "worker"])
def test_mpms(apache, mpm):
    apache.start(mounts=hooked(apache), mpm=mpm)
    assert apache.get("/access?true").status_code == 200
    assert apache.get("/access?false").status_code == 403
    assert apache.get("/user?text", auth=("me", "told")).text.split()[0] == "someone"
