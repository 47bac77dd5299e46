"""What an application finds in its environ (PEP 3333)."""

import base64
import hashlib
import json

import pytest
from servers import Mount


def environ(response):
    body = response.content if hasattr(response, "content") else response.body
    return json.loads(body)


def strings(response):
    return environ(response)["strings"]


def test_types(site):
    seen = environ(site.get("/environ/a?b=c", headers={"X-Thing": "1"}))
    assert seen["dict"]
    assert seen["key_types"] == ["str"]
    for key, kind in seen["types"].items():
        if "." not in key:
            assert kind == "str", key
    for key, value in seen["strings"].items():
        assert all(ord(char) < 256 for char in value), key


def test_wsgi_keys(site):
    seen = environ(site.get("/environ"))
    reprs, types = seen["reprs"], seen["types"]
    assert reprs["wsgi.version"] == "(1, 0)"
    assert reprs["wsgi.url_scheme"] == "'http'"
    assert reprs["wsgi.multithread"] == "True"
    assert reprs["wsgi.multiprocess"] == "False"
    assert reprs["wsgi.run_once"] == "False"
    assert reprs["wsgi.input_terminated"] == "True"
    assert {"wsgi.input", "wsgi.errors", "wsgi.file_wrapper"} <= types.keys()


def test_cgi_keys(site):
    seen = strings(site.get("/environ/one/two?x=1&y=%20"))
    assert seen["REQUEST_METHOD"] == "GET"
    assert seen["SCRIPT_NAME"] == "/environ"
    assert seen["PATH_INFO"] == "/one/two"
    assert seen["QUERY_STRING"] == "x=1&y=%20"
    assert seen["REQUEST_URI"] == "/environ/one/two?x=1&y=%20"
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert seen["SERVER_PORT"] == str(site.port)
    assert seen["SERVER_NAME"]
    assert seen["REMOTE_ADDR"] == "127.0.0.1"
    assert seen["REMOTE_PORT"].isdigit()
    assert site.kind in seen["SERVER_SOFTWARE"].lower()
    assert seen["HTTP_HOST"] == f"127.0.0.1:{site.port}"
    assert seen["DOCUMENT_ROOT"] == str(site.htdocs)
    assert seen["SCRIPT_FILENAME"] == str(site.apps / "environ.py")
    assert seen["REQUEST_SCHEME"] == "http"


def test_mount_without_slash(site):
    seen = strings(site.get("/environ"))
    assert seen["SCRIPT_NAME"] == "/environ"
    assert seen["PATH_INFO"] == ""
    assert seen["QUERY_STRING"] == ""


def test_root_mount(server):
    server.start("environ.py")
    seen = strings(server.get("/a"))
    assert seen["SCRIPT_NAME"] == ""
    assert seen["PATH_INFO"] == "/a"
    assert strings(server.get("/"))["PATH_INFO"] == "/"
    assert strings(server.get("?q"))["QUERY_STRING"] == "q"


def test_mount_with_slash(server):
    server.start(mounts=[Mount("/app/", "environ.py")])
    if server.kind == "apache":
        # httpd's alias eats the slash that both sides end in; the mount point never ends in one.
        pytest.skip("WSGIScriptAlias /app/ is for folders of scripts")
    seen = strings(server.get("/app/x"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == ("/app", "/x")


@pytest.mark.parametrize(
    ("sent", "path_info"),
    [
        ("/environ/a%20b", "/a b"),
        ("/environ/a+b", "/a+b"),
        ("/environ/%E2%82%AC", "/\xe2\x82\xac"),
        ("/environ/%FF", "/\xff"),
        ("/environ/%25", "/%"),
        ("/environ/%3F", "/?"),
        ("/environ/a%2Fb", "/a/b"),
        ("/environ//a//b", "/a/b"),
        ("/environ/a/./b/../c", "/a/c"),
        ("/environ/a;p=1", "/a;p=1"),
        ("/environ/", "/"),
    ],
)
def test_path(site, sent, path_info):
    seen = strings(site.request(sent))
    assert seen["SCRIPT_NAME"] == "/environ"
    assert seen["PATH_INFO"] == path_info
    assert seen["REQUEST_URI"] == sent


def test_raw_utf8_path(site):
    response = site.request("/environ/" + "é".encode().decode("latin-1"))
    if response.status == 200:
        assert strings(response)["PATH_INFO"] == "/\xc3\xa9"
    else:
        assert response.status == 400


def test_absolute_target(site):
    seen = strings(site.request("http://example.test/environ/x?y"))
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"], seen["QUERY_STRING"]) == ("/environ", "/x", "y")


def test_query_is_raw(site):
    assert strings(site.request("/environ?a=%E9&b=\xe9&c=a+b"))["QUERY_STRING"] == "a=%E9&b=\xe9&c=a+b"


def test_headers(site):
    seen = strings(
        site.request(
            "/environ", "X-Plain: 1", "x-mixed-CASE: two", "X-Empty:", "X-Latin: caf\xe9",
            "X-UTF8: \xc3\xa9", "X-Spaces:   around   ", "X-Twice: one", "X-Twice: two", "X_Under: no",
            "Proxy: http://evil/", "Cookie: a=1",
        )
    )  # fmt: skip
    assert seen["HTTP_X_PLAIN"] == "1"
    assert seen["HTTP_X_MIXED_CASE"] == "two"
    assert seen["HTTP_X_EMPTY"] == ""
    assert seen["HTTP_X_LATIN"] == "caf\xe9"
    assert seen["HTTP_X_UTF8"] == "\xc3\xa9"
    assert seen["HTTP_X_SPACES"] == "around"
    assert seen["HTTP_X_TWICE"].replace(" ", "") == "one,two"
    assert "HTTP_X_UNDER" not in seen
    assert "HTTP_PROXY" not in seen
    assert seen["HTTP_COOKIE"] == "a=1"


def test_underscore_cannot_shadow(site):
    seen = strings(site.request("/environ", "X-Forwarded-For: real", "X_Forwarded_For: forged"))
    assert seen["HTTP_X_FORWARDED_FOR"] == "real"


def test_many_headers(site):
    seen = strings(site.request("/environ", *(f"X-Many-{n}: {n}" for n in range(80))))
    assert all(seen[f"HTTP_X_MANY_{n}"] == str(n) for n in range(80))


def test_content_keys_without_body(site):
    seen = strings(site.get("/environ"))
    assert seen.get("CONTENT_TYPE", "") == ""
    assert seen.get("CONTENT_LENGTH", "") == ""
    assert "HTTP_CONTENT_TYPE" not in seen
    assert "HTTP_CONTENT_LENGTH" not in seen


def test_content_keys(site):
    seen = strings(site.post("/environ", content=b"abc", headers={"Content-Type": "text/x"}))
    assert seen["REQUEST_METHOD"] == "POST"
    assert seen["CONTENT_TYPE"] == "text/x"
    assert seen["CONTENT_LENGTH"] == "3"
    assert "HTTP_CONTENT_TYPE" not in seen
    assert "HTTP_CONTENT_LENGTH" not in seen


def test_content_keys_chunked(site):
    seen = strings(site.post("/environ", content=iter([b"abc"])))
    assert seen.get("CONTENT_LENGTH", "") in ("", "3")


def test_unusual_method(site):
    seen = strings(site.request("/environ", method="PROPFIND"))
    assert seen["REQUEST_METHOD"] == "PROPFIND"


def test_http_1_0(site):
    response = site.exchange(b"GET /environ HTTP/1.0\r\n\r\n")
    seen = strings(response)
    assert seen["SERVER_PROTOCOL"] == "HTTP/1.0"
    assert seen["SERVER_NAME"]
    assert seen["SERVER_PORT"].isdigit()


def test_tls_and_http2(site):
    with site.http2() as client:
        response = client.get(
            "/environ/x", headers=[("cookie", "a=1"), ("cookie", "b=2"), ("x-twice", "1"), ("x-twice", "2")]
        )
        assert response.http_version == "HTTP/2"
    seen = strings(response)
    assert seen["wsgi.url_scheme"] == "https"
    assert seen["REQUEST_SCHEME"] == "https"
    assert seen["SERVER_PROTOCOL"] in ("HTTP/2.0", "HTTP/2")
    assert seen["SERVER_PORT"] == str(site.tls_port)
    assert seen["HTTP_HOST"] == f"127.0.0.1:{site.tls_port}"
    assert seen["HTTP_COOKIE"] == "a=1; b=2"
    assert seen["HTTP_X_TWICE"].replace(" ", "") == "1,2"


def test_environ_is_fresh_each_time(site):
    # The application empties its environ; the next request must not notice.
    first, second = (environ(site.get("/environ")) for _ in range(2))
    assert first["types"] == second["types"]


def credentials(name, password):
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


def test_remote_user(server):
    users = server.root / "users"
    digest = base64.b64encode(hashlib.sha1(b"secret").digest()).decode()
    users.write_text(f"ann:{{SHA}}{digest}\n")
    server.start(
        "environ.py",
        nginx=f'auth_basic "x"; auth_basic_user_file {users};',
        apache="<Location />\nAuthType Basic\nAuthName x\n"
        f"AuthUserFile {users}\nRequire valid-user\n</Location>",
    )
    assert server.get("/").status_code == 401
    seen = strings(server.get("/", headers={"Authorization": credentials("ann", "secret")}))
    assert seen["REMOTE_USER"] == "ann"
    if server.kind == "apache":
        assert seen["AUTH_TYPE"] == "Basic"
        assert "HTTP_AUTHORIZATION" not in seen


@pytest.mark.parametrize(
    "early", ['if ($remote_user = "x") { return 400; }', "satisfy any; allow all; auth_basic x;"]
)
def test_unchecked_user_is_none(nginx, early):
    users = nginx.root / "users"
    users.write_text("ann:{PLAIN}secret\n")
    nginx.start("environ.py", nginx=f"auth_basic_user_file {users}; {early}")
    seen = strings(nginx.get("/", headers={"Authorization": credentials("ann", "wrong")}))
    assert "REMOTE_USER" not in seen and "AUTH_TYPE" not in seen


def test_authorization_is_passed(server):
    server.start("environ.py", apache="WSGIPassAuthorization On")
    sent = credentials("ann", "secret")
    assert strings(server.get("/", headers={"Authorization": sent}))["HTTP_AUTHORIZATION"] == sent


def test_authorization_is_not_passed_by_httpd(apache):
    apache.start("environ.py")
    assert "HTTP_AUTHORIZATION" not in strings(apache.get("/", headers={"Authorization": "Bearer x"}))
