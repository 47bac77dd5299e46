"""Configurations for mod_wsgi as people have them (tests/real_world): only the LoadModule line changes."""

import os
import pathlib
import pwd
import re
import shutil
import site
import subprocess
import sys

import pytest
import servers
from servers import DIST, IS_ROOT, TESTS, WORKER

pytestmark = pytest.mark.skipif(not IS_ROOT, reason="httpd has to change its user")
EXAMPLES = TESTS.parent / "examples"


class RealWorld(servers.Apache):
    """httpd with one of the sites; its folder stands for /srv."""

    def prepare(self, name):
        shutil.copytree(TESTS / "real_world" / name, self.root, dirs_exist_ok=True)
        shutil.copy(TESTS / "real_world/base.conf", self.root / "httpd.conf")
        (self.root / "run").mkdir()
        for file in [self.root / "httpd.conf", *self.root.rglob("*.conf"), *self.root.rglob(".htaccess")]:
            text = file.read_text().replace("/srv", str(self.root))
            file.write_text(re.sub(r":80\b", f":{self.port}", text))
        return self

    def configure(self, _, **_settings):
        file = self.root / "httpd.conf"
        module = f"LoadModule wsgi_module {DIST}/lib/burrow/mod_burrow.so"
        file.write_text(re.sub(r"LoadModule wsgi_module .*", module, file.read_text()))

    def venv(self, folder):
        """A virtual environment with the packages that the tests have."""
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", self.root / folder], check=True)
        (packages,) = (self.root / folder).glob("lib/python3*/site-packages")
        (packages / "tests.pth").write_text("\n".join(site.getsitepackages()) + "\n")

    def run(self, *command):
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr

    def give(self, folder, user):
        account = pwd.getpwnam(user)
        for path in [self.root / folder, *(self.root / folder).rglob("*")]:
            os.chown(path, account.pw_uid, account.pw_gid)


@pytest.fixture
def srv(fresh):
    made = fresh(RealWorld)
    return made.prepare


def check_migrate(server):
    """What `burrow migrate` says has to be changed is that line."""
    command = [DIST / "bin/burrow", "migrate", server.root / "httpd.conf"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    (line,) = [line for line in said if re.search(": (change|not supported|problem): ", line)]
    assert "LoadModule wsgi_module" in line


def test_django(srv):
    server = srv("django")
    shutil.copytree(EXAMPLES / "django", server.root / "guestbook", ignore=shutil.ignore_patterns("data"))
    server.venv("guestbook/venv")
    python = server.root / "guestbook/venv/bin/python"
    for arguments in (["migrate"], ["collectstatic", "--noinput"]):
        server.run(python, server.root / "guestbook/manage.py", *arguments)
    server.give("guestbook/data", WORKER.pw_name)
    check_migrate(server)
    server.start()
    page = server.get("/")
    assert page.status_code == 200 and "csrfmiddlewaretoken" in page.text
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
    sent = {"csrfmiddlewaretoken": token, "name": "Ann", "message": "Hello from a form"}
    assert server.post("/", data=sent, follow_redirects=True).status_code == 200
    assert "Hello from a form" in server.get("/").text
    assert server.get("/static/entries/style.css").headers["content-type"].startswith("text/css")
    assert server.get("/admin/", follow_redirects=True).status_code == 200
    assert server.get("/nothing").status_code == 404


def test_users(srv):
    server = srv("users")
    server.give("alice", "games")
    server.give("bob", "news")
    check_migrate(server)
    server.start()

    def get(host, path):
        answer = server.get(path, headers={"Host": f"{host}.example.com"})
        assert answer.status_code == 200, server.log()
        return answer.text.split()

    assert get("alice", "/") == ["games", str(server.root / "alice"), "alice", "True"]
    news = str(pwd.getpwnam("news").pw_uid)
    shop, blog = get("bob", "/shop/x"), get("bob", "/blog")
    assert (shop[:2], shop[3:]) == (["/shop", news], ["bob"])  # the main interpreter has no name
    assert blog[2] == shop[2], "one process for both"
    assert blog[3:] == [f"bob.example.com:{server.port}|/blog", "bob"]
    (worker,) = server.workers()
    assert "libpython" not in pathlib.Path(f"/proc/{worker}/maps").read_text()


def test_hosting(srv):
    server = srv("hosting")
    check_migrate(server)
    server.start()
    assert server.get("/alice/").text == "Alice's page /alice/index.wsgi "
    assert server.get("/alice/index.wsgi/more").text == "Alice's page /alice/index.wsgi /more"
    lost = server.get("/alice/nothing")
    assert (lost.status_code, lost.text) == (404, "Alice's page /alice/index.wsgi /alice/nothing")
    assert server.get("/alice/friends.py").status_code == 403
    assert server.get("/alice/private.wsgi").status_code == 401
    assert server.get("/alice/private.wsgi", auth=("ann", "wrong")).status_code == 401
    assert server.get("/alice/private.wsgi", auth=("ann", "secret")).text.startswith("Hello Ann: Basic ")
    script = server.root / "htdocs/alice/index.wsgi"
    script.write_text(script.read_text().replace("Alice's", "Her"))
    os.utime(script, (1, 1))
    assert server.get("/alice/").text.startswith("Her page")


def test_auth(srv):
    server = srv("auth")
    check_migrate(server)
    server.start()
    assert server.get("/app").headers["www-authenticate"] == 'Basic realm="Staff only"'
    assert server.get("/app", auth=("ann", "secret")).text == "Hello ann by Basic"
    for login in (("ann", "wrong"), ("ben", "geheim"), ("eve", "secret")):
        assert server.get("/app", auth=login).status_code == 401
    assert server.get("/files/file.txt").status_code == 403
    assert server.get("/files/file.txt?token=good").text == "a file\n"


def test_trac(srv):
    server = srv("trac")
    server.venv("venv")
    python = server.root / "venv/bin/python"
    environment = str(server.root / "trac/env")
    server.run(python, "-m", "trac.admin.console", environment, "initenv", "The project", "sqlite:db/trac.db")
    server.run(python, "-m", "trac.admin.console", environment, "permission", "add", "ann", "TRAC_ADMIN")
    hashed = subprocess.check_output(["openssl", "passwd", "-apr1", "secret"], text=True)
    (server.root / "trac/users").write_text(f"ann:{hashed}")
    server.give("trac", WORKER.pw_name)
    check_migrate(server)
    server.start()
    start = server.get("/trac", follow_redirects=True)
    assert start.status_code == 200 and "Welcome to Trac" in start.text
    assert 'href="/trac/timeline"' in start.text
    assert server.get("/trac/chrome/common/css/trac.css").headers["content-type"].startswith("text/css")
    assert server.get("/trac/login").status_code == 401
    server.client.auth = ("ann", "secret")
    assert server.get("/trac/login", follow_redirects=True).status_code == 200
    form = server.get("/trac/newticket")
    assert "logged in as" in form.text
    token = re.search(r'name="__FORM_TOKEN" value="(\w+)"', form.text)[1]
    ticket = {"__FORM_TOKEN": token, "field_summary": "It works", "field_reporter": "ann", "submit": "Create"}
    made = server.post("/trac/newticket", data=ticket, follow_redirects=True)
    assert made.status_code == 200 and made.url.path == "/trac/ticket/1"
    assert "It works" in server.get("/trac/ticket/1").text
    assert server.get("/trac/nothing").status_code == 404
