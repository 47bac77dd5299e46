"""Flask, Django and wsgiref.validate, as their users use them."""

import io
import os
import pathlib
import re
import shutil
import subprocess
import sys

import httpx
import pytest
from servers import IS_ROOT, WORKER, Mount

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
FLASK = ["/flask_app", "/main/flask_app", "/validated/flask"]


@pytest.mark.parametrize("mount", FLASK)
def test_flask(site, mount):
    assert site.get(f"{mount}/?name=Burrow").text == "Hello, Burrow!"
    assert site.get(f"{mount}/missing").status_code == 404
    assert site.get(f"{mount}/form").json() == {}
    assert site.post(f"{mount}/form", data={"a": "1", "ü": "€"}).json() == {"a": "1", "ü": "€"}
    assert site.post(f"{mount}/json", json=[1, {"a": None}]).json() == [1, {"a": None}]
    files = {"small": b"x", "large": bytes(3_000_000)}
    assert site.post(f"{mount}/upload", files=files).json() == {"small": 1, "large": 3_000_000}
    assert site.get(f"{mount}/stream").text.splitlines()[-1] == "999 /stream"
    assert site.get(f"{mount}/url").text == f"{site.url}{mount}/"
    response = site.client.head(f"{mount}/")
    assert (response.status_code, response.headers["Content-Length"]) == (200, "13")


@pytest.mark.parametrize("mount", FLASK)
def test_flask_session(site, mount):
    with httpx.Client(base_url=site.url, trust_env=False) as client:
        for visits in ("1", "2", "3"):
            assert client.get(f"{mount}/session").text == visits


@pytest.mark.parametrize("mount", FLASK)
def test_flask_file(site, mount):
    source = (site.apps / "flask_app.py").read_bytes()
    response = site.get(f"{mount}/file")
    assert response.content == source
    etag = response.headers["ETag"]
    assert site.get(f"{mount}/file", headers={"If-None-Match": etag}).status_code == 304
    response = site.get(f"{mount}/file", headers={"Range": "bytes=10-19"})
    assert (response.status_code, response.content) == (206, source[10:20])


def test_flask_error(site):
    assert site.get("/flask_app/fail").status_code == 500
    site.wait_log("ValueError: raised in a view")
    assert site.log().count("Traceback (most recent call last)") == 1


def test_flask_http2(site):
    with site.http2() as client:
        assert client.post("/flask_app/json", json={"a": 1}).json() == {"a": 1}
        assert client.get("/flask_app/url").text == f"{site.tls_url}/flask_app/"


def test_validated(site):
    for method in ("GET", "HEAD", "POST", "DELETE"):
        response = site.client.request(method, "/validated/hello", headers={"X-Some": "header"})
        assert response.status_code == 200
        if method != "HEAD":
            assert response.text == "Hello, World!\n"
    assert site.get("/validated/nothing").status_code == 404
    assert "AssertionError" not in site.log()
    with site.http2() as client:
        assert client.post("/validated/hello", content=b"x").status_code == 200
    loud = [line for line in site.log_lines() if line.severity < 6]
    assert not loud, loud


def test_flask_example(server):
    server.start(mounts=[Mount("/", str(EXAMPLES / "flask" / "app.py"))])
    assert "Hello, World!" in server.get("/").text
    assert "Hello, Ann!" in server.post("/", data={"name": "Ann"}).text
    about = server.get("/about").json()
    assert server.kind in about["SERVER_SOFTWARE"].lower() and about["wsgi.multithread"] is True
    assert server.get("/count/1000").text.splitlines()[-1] == "1000"


# ---- Django

WRAPPED = """
import os
from wsgiref.validate import validator

from guestbook.wsgi import application

application = validator(application)
"""


@pytest.fixture(scope="module")
def managed(tmp_path_factory):
    """What the Django example's commands make: a folder, and the administrator's password."""
    data = tmp_path_factory.mktemp("guestbook")

    def manage(*command):
        return subprocess.run(
            [sys.executable, "manage.py", *command], cwd=EXAMPLES / "django", text=True, check=True,
            env={**os.environ, "GUESTBOOK_DATA": str(data)}, stdout=subprocess.PIPE,
        ).stdout.strip()  # fmt: skip

    manage("migrate")
    manage("collectstatic", "--noinput")
    return data, manage("demo_admin")


@pytest.fixture(params=["plain", "main", "validated"])
def guestbook(request, server, managed):
    """The Django example, served with its static files."""
    project, data = EXAMPLES / "django", server.data
    made, server.password = managed
    shutil.copytree(made, data, dirs_exist_ok=True)
    if IS_ROOT:
        for path in [data, *data.rglob("*")]:
            os.chown(path, WORKER.pw_uid, WORKER.pw_gid)
    # A server's workers have hardly any environment: the script sets what the settings look for.
    script = f"import os\nos.environ['GUESTBOOK_DATA'] = {str(data)!r}\n"
    script += WRAPPED if request.param == "validated" else "from guestbook.wsgi import application\n"
    server.write_app("guestbook_site.py", script)
    server.start(
        mounts=[Mount("/", "guestbook_site.py", "%{GLOBAL}" if request.param == "main" else None)],
        python_path=project,
        nginx=f"location /static/ {{ alias {data}/static/; }}",
        apache=f"Alias /static/ {data}/static/",
    )
    return server


def token(response):
    return re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', response.text)[1]


def test_django(guestbook):
    server = guestbook
    with httpx.Client(base_url=server.url, follow_redirects=True, trust_env=False, timeout=30) as client:
        page = client.get("/")
        assert page.status_code == 200
        style = re.search(r'href="(/static/[^"]+\.css)"', page.text)[1]
        assert client.get(style).status_code == 200

        # An entry with a file of 3 MB.
        form = {"csrfmiddlewaretoken": token(page), "name": "Ann ü", "message": "Hello from a test €"}
        upload = {"file": ("notes.txt", io.BytesIO(b"x" * 3_000_000), "text/plain")}
        page = client.post("/", data=form, files=upload, headers={"Referer": server.url})
        assert page.status_code == 200
        assert "Hello from a test €" in page.text and "Thank you, Ann ü!" in page.text
        assert "Visit 3 " in page.text
        assert len(client.get("/files/1/").content) == 3_000_000
        stored = [path for path in (server.data / "uploads").rglob("*") if path.is_file()]
        assert [path.stat().st_size for path in stored] == [3_000_000]

        # Without the token it is refused.
        assert client.post("/", data={"name": "Eve", "message": "no"}).status_code == 403

        # The admin: log in, list, log out; the session is in a cookie and in sqlite.
        login = client.get("/admin/")
        assert "/admin/login/" in str(login.url)
        form = {"csrfmiddlewaretoken": token(login), "username": "admin", "password": server.password}
        page = client.post("/admin/login/?next=/admin/", data=form, headers={"Referer": server.url})
        assert "Site administration" in page.text
        assert "Ann ü" in client.get("/admin/entries/entry/").text
        page = client.post("/admin/logout/", data={"csrfmiddlewaretoken": token(page)},
                           headers={"Referer": server.url})  # fmt: skip
        assert "/admin/login/" in str(client.get("/admin/").url)
    assert "AssertionError" not in server.log()


RELOADED = """
import pathlib

loads = pathlib.Path(__file__).parents[1] / "data" / "loads"
loads.touch()
loads.write_text(loads.read_text() + "x")
wish = loads.with_name("wish")

def reload_required(path):
    assert path == __file__
    if wish.exists() and wish.read_text() == "raise":
        raise LookupError("cannot tell")
    return wish.exists()

def application(environ, start_response):
    wish.unlink(missing_ok=True)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [loads.read_bytes()]
"""


def test_reload_required(server):
    """A script can ask by itself to be loaded again, though its file is the same."""
    server.write_app("reloaded.py", RELOADED)
    server.start("reloaded.py")
    assert [server.get("/").text for _ in range(2)] == ["x", "x"]
    (server.data / "wish").write_text("")
    assert [server.get("/").text for _ in range(2)] == ["xx", "xx"]
    (server.data / "wish").write_text("raise")
    assert server.get("/").text == "xx"
    server.wait_log("LookupError: cannot tell")
