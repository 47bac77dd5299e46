"""Hooks that httpd alone has: digests, groups, dispatch and handler scripts."""

import pytest
from servers import Mount
from test_hooks import TRACEBACK, USER, check_told, hooked

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


def test_dispatch_to_a_process_group(apache):
    apache.write_app("dispatch.py", "def process_group(environ):\n    return environ['QUERY_STRING']\n")
    apache.write_app("group.py", "import mod_wsgi\n\ndef application(environ, start_response):\n"
                                 "    start_response('200 OK', [])\n"
                                 "    return [mod_wsgi.process_group.encode()]\n")  # fmt: skip
    dispatch = f"WSGIDispatchScript {apache.apps}/dispatch.py"
    apache.start(mounts=[Mount("/", "group.py", apache=dispatch)], main="WSGIDaemonProcess shop")
    assert [apache.get(f"/?{group}").text for group in ("", "%{GLOBAL}", "shop")] == ["", "", "shop"]
    assert apache.get("/?none").status_code == 500
    apache.wait_log(r"WSGIDispatchScript in \S+site\.conf:\d+: No WSGI daemon process called 'none'")


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


INCLUDING = """
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/html")])
    for query in ("true", "false", "raise"):
        print("before", query)
        yield f'<!--#include virtual="/inner/static.txt?{query}" -->|'.encode()
    print("behind")
"""


@pytest.mark.parametrize("mpm", ["event", "prefork"])
def test_hook_inside_of_an_answer(apache, mpm):
    """A subrequest asks on the thread, and in the interpreter, of the answer that includes it."""
    apache.write_app("including.py", INCLUDING)
    included = "SetOutputFilter INCLUDES\nOptions +Includes"
    access = f"WSGIAccessScript {apache.apps}/hooks.py"
    inner = f"Alias /inner {apache.htdocs}\n<Location /inner>\n{access}\n</Location>"
    apache.start(
        mounts=[Mount("/", "including.py", "%{GLOBAL}", apache=included)],
        mpm=mpm,
        main="LoadModule include_module /usr/lib/apache2/modules/mod_include.so",
        apache=inner,
    )
    first, second, third, rest = apache.get("/").text.split("|")
    assert (first, rest) == ("static\n", "")
    assert "error" in second
    assert "error" in third
    check_told(apache, "WSGIAccessScript")
    assert "] behind" in apache.log()


ASKING = """
kept = []

def allow_access(environ, host):
    is_https, var_lookup = environ["mod_ssl.is_https"], environ["mod_ssl.var_lookup"]
    kept.append(var_lookup)
    told = [is_https(), var_lookup("SSL_PROTOCOL"), var_lookup(b"SSL_SERVER_S_DN_CN"), var_lookup("NONSENSE")]
    print("told", told)
    return True

def application(environ, start_response):
    assert "mod_ssl.is_https" not in environ
    start_response("200 OK", [])
    return [b"ok"]
"""


def test_variables_of_ssl(apache):
    script = apache.write_app("asking.py", ASKING)
    access = f"WSGIAccessScript {script}\nWSGIApplicationGroup %{{GLOBAL}}"
    apache.start(mounts=[Mount("/", "asking.py", apache=access)])
    assert apache.curl("/") == (0, b"ok")
    apache.wait_log(r"told \[1, 'TLSv1\.[23]', 'localhost', ''\]")
    assert apache.get("/").text == "ok"
    apache.wait_log(r"told \[0, '', '', ''\]")
