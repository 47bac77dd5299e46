"""The httpd module among httpd's own features."""

import concurrent.futures
import json

import pytest
import servers
from apps import responses
from servers import Mount

MPMS = ["event", "worker", "prefork"]


def strings(response):
    return json.loads(response.content)["strings"]


@pytest.fixture(scope="module", params=MPMS)
def running(request):
    """One server for each MPM, with everything in it."""
    server = servers.Apache()
    apps = server.apps
    for name in ("one", "two"):
        server.write_app(f"{name}.wsgi", (apps / "environ.py").read_text())
    (apps / "plain.txt").write_text("a file beside them\n")
    (apps / "folder").mkdir()
    (apps / "folder" / "inner.wsgi").write_text((apps / "environ.py").read_text())
    (server.htdocs / "error.html").write_text("httpd's page\n")
    server.start(
        mpm=request.param,
        processes=1,
        threads=8,
        mounts=[
            Mount("/environ", "environ.py", "shared"),
            Mount("/hello", "hello.py"),
            Mount("/responses", "responses.py", "shared"),
            Mount("/faults", "faults.py", "shared"),
            Mount("/body", "body.py", "shared"),
            Mount("/main", "state.py", "%{GLOBAL}"),
            Mount("/process", "process.py", "shared"),
        ],
        apache=f"""
            WSGIScriptAliasMatch ^/match/([a-z]+) {apps}/$1.wsgi
            WSGIScriptAlias /options {apps}/state.py application-group=%{{GLOBAL}} callable-object=second
            WSGIScriptAlias /grouped {apps}/state.py process-group=%{{GLOBAL}} application-group=grouped
            WSGIScriptAlias /folder/ {apps}/folder/
            WSGIScriptAlias /env {apps}/state.py
            SetEnvIf X-Group (.*) GROUP=$1
            <Location /env>
                WSGIApplicationGroup %{{ENV:GROUP}}
            </Location>
            SetEnv FROM_CONFIGURATION "a value"
            SetEnvIf X-Mark (.+) MARK=$1

            Alias /files {apps}
            <Directory {apps}>
                Options ExecCGI
                AddHandler wsgi-script .wsgi
                AllowOverride FileInfo
            </Directory>
            Alias /nocgi {apps}
            <Location /nocgi>
                Options -ExecCGI
            </Location>
            Alias /sethandler {apps}/environ.py
            <Location /sethandler>
                SetHandler wsgi-script
                Options ExecCGI
            </Location>

            RewriteEngine on
            RewriteRule ^/rewritten/(.*)$ /environ/new/$1 [PT,QSA,E=REWRITTEN:yes]
            RewriteRule ^/redirected/(.*)$ /environ/$1 [R=302,L]
            ErrorDocument 404 /error.html
            ErrorDocument 500 /error.html
            <Location /environ/secret>
                Require all denied
            </Location>
            Header set X-Added httpd
        """,
    )
    yield server
    server.close()


@pytest.fixture
def site(running, watch):
    return watch(running)


def test_flags(site, request):
    mpm = request.node.callspec.params["running"]
    reprs = json.loads(site.get("/environ").content)["reprs"]
    assert reprs["wsgi.multithread"] == str(mpm != "prefork")
    assert reprs["wsgi.multiprocess"] == "False"


def test_answers(site):
    assert site.get("/hello").text == "Hello, World!\n"
    assert site.get("/responses/large-chunks").status_code == 200
    assert site.post("/body?do=read", content=b"x" * 100000).json() == ["x" * 100000]
    assert site.post("/body?do=read", content=iter([b"x", b"y"])).json() == ["xy"]
    assert site.get("/process/subprocess").json() == {"ok": [3, "out\n", "err\n"]}
    assert site.get("/process/threads").json() == {"ok": True}


@pytest.mark.parametrize("options", [["--http1.1"], ["--http1.1", "--compressed"], ["--http2"]], ids=" ".join)
@pytest.mark.parametrize("fault", ["late-raise", "late-raise-large", "short-generator"])
def test_client_can_tell(site, request, fault, options):
    if request.node.callspec.params["running"] == "prefork" and "--http2" in options:
        pytest.skip("mod_http2 does not work on prefork")
    code, out = site.curl(f"/faults/{fault}", *options, "--write-out", "%{http_code}")
    assert code in (18, 56, 61, 92) or out.endswith((b"500", b"502")), (code, out[:100])


def test_many_at_once(site):
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: site.request(f"/environ/{n}"), range(100)))
    answers = [json.loads(answer.body)["strings"]["PATH_INFO"] for answer in answers]
    assert answers == [f"/{n}" for n in range(100)]


def test_alias_match(site):
    seen = strings(site.get("/match/one/rest?q"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/match/one", "/rest")
    assert seen["SCRIPT_FILENAME"] == str(site.apps / "one.wsgi")
    assert strings(site.get("/match/two"))["SCRIPT_FILENAME"] == str(site.apps / "two.wsgi")
    assert site.get("/match/missing").status_code in (404, 500)


def test_alias_of_a_folder(site):
    seen = strings(site.get("/folder/inner.wsgi/rest"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/folder/inner.wsgi", "/rest")


def test_alias_options(site):
    pid = site.get("/main").json()["pid"]
    first = site.get("/options").json()
    assert first["pid"] == pid
    # The group is the main interpreter, where /main loaded the same script.
    assert site.get("/main").json()["requests"] == first["requests"] + 1
    assert site.get("/grouped").json()["requests"] == 1


def test_group_from_the_environment(site):
    groups = {group: site.get("/env", headers={"X-Group": group}).json()["requests"] for group in ("a", "b")}
    assert groups == {"a": 1, "b": 1}
    assert site.get("/env", headers={"X-Group": "a"}).json()["requests"] == 2


def test_setenv(site):
    seen = strings(site.get("/environ", headers={"X-Mark": "here"}))
    assert seen["FROM_CONFIGURATION"] == "a value"
    assert seen["MARK"] == "here"


def test_each_request_has_its_own_variables(site):
    asked = ["first", None, "second", "second", "", "first"]
    answers = [site.get("/environ", headers=None if mark is None else {"X-Mark": mark}) for mark in asked]
    assert [strings(answer).get("MARK") for answer in answers] == [mark or None for mark in asked]
    assert {strings(answer)["FROM_CONFIGURATION"] for answer in answers} == {"a value"}


def test_add_handler(site):
    seen = strings(site.get("/files/one.wsgi/path"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/files/one.wsgi", "/path")
    assert site.get("/files/plain.txt").text == "a file beside them\n"


def test_set_handler(site):
    assert strings(site.get("/sethandler"))["SCRIPT_FILENAME"] == str(site.apps / "environ.py")


def test_exec_cgi_is_asked_for(site):
    assert site.get("/nocgi/one.wsgi").status_code == 403
    assert "ExecCGI" in site.log()


def test_htaccess(site):
    (site.apps / ".htaccess").write_text("WSGIPassAuthorization On\nWSGIScriptReloading Off\n")
    try:
        seen = strings(site.get("/files/two.wsgi", headers={"Authorization": "Bearer x"}))
    finally:
        (site.apps / ".htaccess").unlink()
    assert seen["HTTP_AUTHORIZATION"] == "Bearer x"
    assert "HTTP_AUTHORIZATION" not in strings(
        site.get("/files/two.wsgi", headers={"Authorization": "Bearer x"})
    )


def test_rewrite(site):
    seen = strings(site.get("/rewritten/x?q=1"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/environ", "/new/x", "q=1")
    assert seen["REWRITTEN"] == "yes"
    response = site.get("/redirected/x")
    assert response.status_code == 302


def test_error_document(site):
    # httpd's page for what httpd has to say, the application's for its own.
    assert site.get("/faults/raise").text == "httpd's page\n"
    assert site.get("/responses/404").text == "my own 404"
    assert site.get("/responses/500").text == "my own 500"


def test_access_control(site):
    assert site.get("/environ/secret").status_code == 403
    assert site.get("/environ/public").status_code == 200


def test_other_modules_touch_the_answer(site):
    assert site.get("/hello").headers["X-Added"] == "httpd"
    response = site.get("/responses/large", headers={"accept-encoding": "gzip"})
    assert response.headers["Content-Encoding"] == "gzip" and response.content == responses.LINES


def test_compressed_head(site):
    for _ in range(2):
        response = site.client.head("/responses/large", headers={"accept-encoding": "gzip"})
        assert (response.status_code, response.content) == (200, b"")


def test_ranges(site):
    response = site.get("/responses/file", headers={"Range": "bytes=5-9"})
    assert (response.status_code, response.content) == (206, b"0\nlin")


def test_conditional(site):
    response = site.get("/responses/headers", headers={"If-None-Match": '"tag"'})
    assert response.status_code in (299, 304)


def test_the_script_itself_is_never_shown(site):
    for path in ("/hello", "/match/one", "/files/one.wsgi", "/nocgi/one.wsgi", "/files/one.wsgi/"):
        assert b"def application" not in site.get(path).content


@pytest.mark.parametrize("mpm", MPMS)
def test_graceful_and_stop(apache, mpm):
    apache.start("hello.py", mpm=mpm, processes=2, threads=4)
    for _ in range(3):
        assert apache.get("/", headers={"Connection": "close"}).status_code == 200
        apache.reload()
    assert apache.get("/", headers={"Connection": "close"}).status_code == 200
    assert apache.stop() < 10


def test_clients_make_no_interpreters(apache):
    """The default group is of the server's name, not of whatever a client calls it."""
    apache.start("state.py", apache="UseCanonicalName Off")
    for count, host in enumerate(("a.test", "a.test", "b.test"), 1):
        assert apache.get("/", headers={"Host": host}).json()["requests"] == count


def test_slashes_that_are_not_merged(apache):
    """Whatever there is between two names is one slash, and no part of the path becomes SCRIPT_NAME."""
    mounts = [Mount("/", "environ.py"), Mount("/app", "environ.py")]
    module = "WSGIScriptAlias /module environ:application"
    apache.start(mounts=mounts, main="MergeSlashes Off", apache=module)
    for path, name in (("//a//b", ""), ("//app//a//b", "/app"), ("//module//a//b", "/module")):
        environ = json.loads(apache.request(path).body)["strings"]
        assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == (name, "/a/b")
        assert environ["mod_wsgi.application_group"] == f"localhost:{apache.port}|{name}"


def test_loaded_as_mod_wsgi(apache):
    alias = f"WSGIScriptAlias /inside {apache.apps}/hello.py"
    apache.start(
        "state.py",
        main="<IfModule !mod_wsgi.c>\nNonsense\n</IfModule>",
        apache=f"<IfModule mod_wsgi.c>\n{alias}\n</IfModule>",
    )
    assert apache.get("/inside").text == "Hello, World!\n"
