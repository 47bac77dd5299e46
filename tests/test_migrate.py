"""`burrow migrate`: what it says of real-world configurations, and that httpd agrees.

The configurations in tests/migrate are written for mod_wsgi. Each is put into a folder that stands for
/srv and /etc/apache2.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import pytest
from servers import DIST, IS_ROOT, TESTS, free_port

CONFIGURATIONS = {
    "django": "django/apache2.conf",
    "groups": "groups.conf",
    "hosting": "hosting.conf",
    "auth": "auth.conf",
    "moin": "moin.conf",
}
APPLICATION = """\
import sys

def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [f"{environ['SCRIPT_NAME']} {sys.prefix}".encode()]

main = application
"""
USERS = """\
def check_password(environ, user, password):
    return (user, password) == ("ann", "secret")

def groups_for_user(environ, user):
    return ["staff"]
"""
HOSTS = """\
def allow_access(environ, host):
    return True
"""
SCRIPTS = [
    "shop/shop/wsgi.py", "sites/alice/app.wsgi", "sites/bob/app.wsgi", "www/site/index.wsgi",
    "auth/app.wsgi", "moin/wiki/server/moin.wsgi",
]  # fmt: skip
ATTENTION = {"change", "not-supported", "problem"}
needs_root = pytest.mark.skipif(not IS_ROOT, reason="httpd has to change its user")


class Place:
    """A machine's configuration and its applications, in a folder of their own."""

    def __init__(self):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-migrate-"))
        # The server's users have to enter it.
        self.folder.chmod(0o755)
        self.srv, self.port = self.folder / "srv", free_port()
        for script in SCRIPTS:
            path = self.srv / script
            path.parent.mkdir(parents=True)
            path.write_text(APPLICATION)
        (self.srv / "auth/users.py").write_text(USERS)
        (self.srv / "auth/hosts.py").write_text(HOSTS)
        for source in (TESTS / "migrate").rglob("*.*"):
            if source.is_file():
                self.write(source.relative_to(TESTS / "migrate"), source.read_text())
        shutil.move(self.folder / "hosting.htaccess", self.srv / "www/site/.htaccess")
        envvars = {"RUN_DIR": self.srv, "PID_FILE": self.srv / "httpd.pid", "LOG_DIR": self.srv,
                   "RUN_USER": "www-data", "RUN_GROUP": "www-data"}  # fmt: skip
        self.environment = {**os.environ, **{f"APACHE_{name}": str(value) for name, value in envvars.items()}}

    def write(self, name, text):
        replaced = {
            "/srv": self.srv,
            "/run/httpd": self.folder,
            ":80": f":{self.port}",
            "user=alice group=alice": "user=daemon group=daemon",
            "user=bob group=bob": "user=games group=games",
        }
        for written, here in replaced.items():
            text = text.replace(written, str(here))
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def venv(self, folder, python=sys.executable):
        subprocess.run([python, "-m", "venv", "--without-pip", self.srv / folder], check=True)

    def migrate(self, *files, text=False):
        command = [DIST / "bin/burrow", "migrate", *([] if text else ["--json"]), *files]
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done if text else Report(done)

    def httpd(self, file, *options):
        # The default is a folder that Debian makes when httpd is started as a service.
        runtime_dir = ["-C", f"DefaultRuntimeDir {self.folder}"]
        file = self.folder / file
        return ["/usr/sbin/apache2", *runtime_dir, "-d", file.parent, "-f", file, *options]

    def configtest(self, file):
        done = subprocess.run(
            self.httpd(file, "-t"), env=self.environment, capture_output=True, text=True, timeout=60
        )
        return done.returncode == 0, done.stderr

    def follow(self, file, report):
        """Does what the report says: lines that are to change, to be added, or that have to go."""
        added = []
        for finding in report.findings:
            if finding["verdict"] == "not-supported":
                self.replace(finding, "")
            elif finding["verdict"] == "change":
                line = finding["reason"].split(": ", 1)[1]
                if "file" in finding:
                    self.replace(finding, line)
                else:
                    added.append(line)
        with open(self.folder / file, "a") as end:
            end.write("\n".join(["", *added, ""]))

    def replace(self, finding, line):
        path = self.folder / finding["file"]
        lines = path.read_text().split("\n")
        at = finding["line"] - 1
        while lines[at].endswith("\\"):
            lines[at] = ""
            at += 1
        lines[at] = line
        path.write_text("\n".join(lines))

    @contextlib.contextmanager
    def running(self, file):
        process = subprocess.Popen(self.httpd(file, "-DFOREGROUND"), env=self.environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)

    def get(self, path, login=""):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}")
        request.add_header("Authorization", "Basic " + base64.b64encode(login.encode()).decode())
        deadline = time.monotonic() + 30
        while True:
            try:
                with urllib.request.urlopen(request, timeout=30) as response:
                    return response.read().decode()
            except urllib.error.HTTPError as error:
                log = (self.srv / "error.log").read_text()
                raise AssertionError(f"{path}: {error}\n{log}") from None
            except urllib.error.URLError:
                assert time.monotonic() < deadline
                time.sleep(0.05)


class Report:
    def __init__(self, done):
        self.status = done.returncode
        assert self.status in (0, 1), done.stderr
        said = json.loads(done.stdout)
        self.findings = said["findings"]
        attention = [finding for finding in self.findings if finding["verdict"] in ATTENTION]
        assert said["attention"] == len(attention)
        assert self.status == (1 if attention else 0)

    def of(self, subject):
        """The findings on a directive or option."""
        return [finding for finding in self.findings if finding["subject"] == subject]

    def verdict(self, subject):
        verdicts = {finding["verdict"] for finding in self.of(subject)}
        assert len(verdicts) == 1, f"{subject}: {verdicts}"
        return verdicts.pop()

    def problem(self, subject):
        (problem,) = [found["reason"] for found in self.of(subject) if found["verdict"] == "problem"]
        return problem


@pytest.fixture
def place():
    made = Place()
    yield made
    shutil.rmtree(made.folder)


def test_django_on_ubuntu(place):
    place.venv("shop/venv")
    report = place.migrate("django/apache2.conf")
    (load,) = report.of("LoadModule wsgi_module")
    assert (load["file"], load["line"]) == ("django/mods-enabled/wsgi.load", 1)
    assert load["reason"] == f"make it: LoadModule wsgi_module {DIST}/lib/burrow/mod_burrow.so"
    assert report.verdict("WSGIScriptAlias") == "same"
    assert report.verdict("WSGIPassAuthorization") == "same"
    (daemon,) = report.of("WSGIDaemonProcess")
    assert (daemon["file"], daemon["line"]) == ("django/sites-enabled/shop.conf", 17)
    assert daemon["verdict"] == "same"


def test_variables_of_debian(place):
    """The command that the document has for Debian."""
    document = (TESTS.parent / "docs/migrating-from-mod_wsgi.md").read_text()
    (command,) = re.findall(r"^    (.* burrow migrate .*)$", document, re.M)
    place.write("django/envvars", "export APACHE_LOG_DIR=/srv/logs\n")
    place.write("django/sites-enabled/x.conf", "WSGIScriptAlias /x ${APACHE_LOG_DIR}/x.wsgi a\n")
    command = command.replace("/etc/apache2", str(place.folder / "django"))
    path = f"{DIST}/bin:{os.environ['PATH']}"
    done = subprocess.run(["sh", "-c", command], env={"PATH": path}, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "")
    assert "x.conf:1: same: WSGIScriptAlias\n" in done.stdout


def test_groups_for_users(place):
    for name in ("alice", "bob"):
        place.venv(f"sites/{name}/venv")
    report = place.migrate("groups.conf")
    assert report.verdict("WSGIDaemonProcess user=") == "same"
    assert not [finding for finding in report.findings if finding["verdict"] == "problem"]


def test_htaccess_files(place):
    report = place.migrate("hosting.conf", "srv/www/site/.htaccess")
    assert report.verdict("LoadModule wsgi_module") == "change"
    for subject in ("AddHandler wsgi-script", "WSGICallableObject", "WSGIScriptReloading"):
        assert report.verdict(subject) == "same"
    alone = place.migrate("srv/www/site/.htaccess")
    assert alone.status == 0
    (place.srv / "www/site/.htaccess").write_text("WSGIApplicationGroup x\n")
    assert place.migrate("srv/www/site/.htaccess").verdict("WSGIApplicationGroup") == "not-supported"


def test_what_is_authenticated_by_scripts(place):
    report = place.migrate("auth.conf")
    assert report.verdict("AuthBasicProvider wsgi") == report.verdict("WSGIAuthUserScript")
    assert report.verdict("Require wsgi-group") == report.verdict("WSGIAuthGroupScript")
    assert report.verdict("WSGIAccessScript") == report.verdict("WSGIAuthUserScript")


def test_moin_behind_an_alias(place):
    report = place.migrate("moin.conf")
    assert report.verdict("WSGIScriptAlias") == "same"
    assert report.verdict("WSGIApplicationGroup") == "same"
    assert {finding["line"] for finding in report.of("WSGIDaemonProcess umask=")} == {10}


@needs_root
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_httpd_agrees(place, name):
    """What is said to be refused is refused by the module, and the rest is taken."""
    for folder in ("shop/venv", "sites/alice/venv", "sites/bob/venv"):
        place.venv(folder)
    file = CONFIGURATIONS[name]
    report = place.migrate(file)
    (load,) = report.of("LoadModule wsgi_module")
    place.replace(load, load["reason"].split(": ", 1)[1])
    refused = any(finding["verdict"] == "not-supported" for finding in report.findings)
    taken, said = place.configtest(file)
    assert taken is not refused, said
    place.follow(file, report)
    taken, said = place.configtest(file)
    assert taken, said
    if not any(finding["verdict"] == "problem" for finding in report.findings):
        assert place.migrate(file).status == 0


@needs_root
@pytest.mark.parametrize(
    "name, path, answer",
    [
        ("django", "/", " {srv}/shop/venv"),
        ("hosting", "/site/index.wsgi", "/site/index.wsgi /usr"),
        ("moin", "/mywiki/FrontPage", "/mywiki /usr"),
    ],
)
def test_what_it_says_works(place, name, path, answer):
    place.venv("shop/venv", "/usr/bin/python3")
    file = CONFIGURATIONS[name]
    place.follow(file, place.migrate(file))
    with place.running(file):
        assert place.get(path) == answer.format(srv=place.srv)


@needs_root
def test_staff_gets_in(place):
    place.follow("auth.conf", place.migrate("auth.conf"))
    with place.running("auth.conf"):
        assert place.get("/app", "ann:secret") == "/app /usr"
        with pytest.raises(AssertionError, match="HTTP Error 401"):
            place.get("/app", "ann:wrong")


def test_text_is_for_people(place):
    place.write("one.conf", "LoadModule wsgi_module a.so\nWSGIScriptAlias / /srv/app.wsgi\nWSGIFoo On\n")
    done = place.migrate("one.conf", text=True)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[1] == "one.conf:2: same: WSGIScriptAlias"
    assert lines[2] == "one.conf:3: not supported: WSGIFoo: mod_wsgi 6 has no such directive; remove it"
    assert lines[-1] == "2 of these need attention."


def test_nothing_to_do(place):
    text = f"LoadModule wsgi_module {DIST}/lib/burrow/mod_burrow.so\nWSGIScriptAlias / /srv/app.wsgi\n"
    place.write("done.conf", text)
    done = place.migrate("done.conf", text=True)
    assert done.returncode == 0
    assert done.stdout.endswith("\nNothing needs attention.\n")


def test_pythons_that_cannot_be_used(place):
    place.write("old.conf", "WSGIPythonHome /srv/none\nWSGIScriptAlias / /srv/app.wsgi\n")
    assert f"'{place.srv}/none' does not exist" in place.migrate("old.conf").problem("WSGIPythonHome")
    place.venv("stale")
    config = place.srv / "stale/pyvenv.cfg"
    config.write_text(re.sub(r"^version = .*", "version = 3.9.2", config.read_text(), flags=re.M))
    place.write("stale.conf", "WSGIPythonHome /srv/stale\n")
    problem = place.migrate("stale.conf").problem("WSGIPythonHome")
    assert "was made with Python 3.9 but its python is now" in problem


def test_another_python_than_mod_wsgi_was_compiled_for(place):
    place.venv("shop/venv", "/usr/bin/python3")
    load = "LoadModule wsgi_module /x/mod_wsgi-py39.cpython-39-x86_64-linux-gnu.so"
    place.write("pip.conf", f"{load}\nWSGIPythonHome /srv/shop/venv\n")
    said = [finding["reason"] for finding in place.migrate("pip.conf").of("WSGIPythonHome")]
    assert any("mod_wsgi was compiled for 3.9: Burrow runs 3." in reason for reason in said)


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "bad.conf: No such file or directory (os error 2)"),
        ("<Location />\nWSGIFoo", "bad.conf:1: <location> has no </location>"),
        ("</Location>", "bad.conf:1: </location> without <location>"),
        ("A\n\nInclude none.conf", "bad.conf:3: none.conf does not exist; name the server's main file, which "
         "says what such a path is relative to"),
        ("Include bad.conf", "bad.conf:1: 20 files include each other; is there a circle?"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_read(place, text, message):
    if text is not None:
        place.write("bad.conf", text)
    done = place.migrate("bad.conf", text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"burrow: {message}\n"


def test_no_file(place):
    done = place.migrate(text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("burrow: the following required arguments were not provided: <FILE>...")
