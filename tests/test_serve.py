"""`burrow serve`: every option, every refusal, and that nothing is left behind."""

import contextlib
import os
import pathlib
import pwd
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
import urllib.error
import urllib.request

import psutil
import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
DIST = pathlib.Path(os.environ.get("BURROW_DIST", ROOT / "target" / "dist")).resolve()
SERVERS = ["nginx", "apache"]
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="changes the user of processes")

HELLO = """\
def application(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"hello"]
"""
# Answers with a Python expression of the query string.
EVALUATE = """\
import os, sys, threading, time
from urllib.parse import unquote

def application(environ, start_response):
    value = str(eval(unquote(environ["QUERY_STRING"]))).encode()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [value]
"""
FLASK = """\
from flask import Flask
app = Flask(__name__)
app.add_url_rule("/", view_func=lambda: "flask")
"""


def free_port():
    for _ in range(900):
        free_port.last = (free_port.last + 1) % 900
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", 22100 + free_port.last))
            return 22100 + free_port.last
    raise AssertionError("no free port")


free_port.last = os.getpid() % 900


def wait_for(condition, what, timeout=10):
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout} s"
        time.sleep(0.02)
    return value


@pytest.fixture(scope="session")
def burrow():
    """The command, where every user can run it."""
    command = DIST / "bin" / "burrow"
    if all(os.stat(parent).st_mode & stat.S_IXOTH for parent in command.parents):
        yield command
        return
    copy = pathlib.Path(tempfile.mkdtemp(prefix="burrow-dist-"))
    copy.chmod(0o755)
    shutil.copytree(DIST, copy / "dist")
    yield copy / "dist" / "bin" / "burrow"
    shutil.rmtree(copy)


@pytest.fixture
def folder():
    """Unlike tmp_path, one that the workers can enter."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="burrow-app-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(text))
    return path


def private_dirs(application):
    """The private directories of whatever serves an application in this folder."""
    folders = [pathlib.Path("/tmp"), pathlib.Path(os.environ.get("XDG_RUNTIME_DIR", "/tmp"))]
    for configuration in (path for folder in folders for path in folder.glob("burrow-serve-*/server.conf")):
        with contextlib.suppress(OSError):
            if str(application) in configuration.read_text():
                yield configuration.parent


def alive(processes):
    def is_alive(process):
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    return [process for process in processes if is_alive(process)]


class Serve:
    """A running `burrow serve`."""

    def __init__(self, burrow, target, *options, port=None, user=None, cwd=None, env=None, python=True):
        self.port = port or free_port()
        if "--bind" not in options:
            options += ("--bind", f"127.0.0.1:{self.port}")
        if python:
            options += ("--python", sys.prefix)
        identity = {}
        if user:
            entry = pwd.getpwnam(user)
            identity = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [burrow, "serve", str(target), *options],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err,
            cwd=cwd, env={**os.environ, **(env or {})}, **identity,
        )  # fmt: skip
        wait_for(lambda: "Serving" in self.stdout() or self.process.poll() is not None, "the start")
        assert self.process.poll() is None, self.stderr()

    def stdout(self):
        return self.read(self.out)

    def stderr(self):
        return self.read(self.err)

    @staticmethod
    def read(file):
        return os.pread(file.fileno(), 1 << 20, 0).decode()

    def get(self, path="/", host="127.0.0.1"):
        try:
            with urllib.request.urlopen(f"http://{host}:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def evaluate(self, expression):
        status, body = self.get("/?" + urllib.request.quote(expression))
        assert status == 200, self.stderr()
        return body

    def tree(self):
        return psutil.Process(self.process.pid).children(recursive=True)

    def server(self):
        """The server's own process."""
        return next(p for p in self.tree() if p.name() in ("nginx", "apache2", "httpd"))

    def directory(self):
        arguments = self.server().cmdline()
        return next(pathlib.Path(a).parent for a in arguments if a.endswith("/server.conf"))

    def stop(self, how=signal.SIGTERM, code=0, timeout=12):
        tree, directory = self.tree(), self.directory()
        self.process.send_signal(how)
        assert self.process.wait(timeout) == code, self.stderr()
        self.nothing_is_left(tree, directory)

    @staticmethod
    def nothing_is_left(tree, directory, timeout=0):
        if timeout:
            wait_for(lambda: not alive(tree) and not directory.exists(), f"the end of {tree}", timeout)
        assert not alive(tree)
        assert not directory.exists()


@pytest.fixture
def serve(burrow):
    running = []

    def start(*args, **options):
        running.append(Serve(burrow, *args, **options))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            tree = each.tree()
            each.process.send_signal(signal.SIGTERM)
            each.process.wait(20)
            assert not alive(tree)


@pytest.fixture(params=SERVERS)
def server(request):
    return request.param


# ---- targets


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("user", [None, pytest.param("nobody", marks=needs_root)])
def test_script(serve, folder, server, user, how):
    script = write(folder / "hello.wsgi", HELLO)
    running = serve(script, "--server", server, user=user)
    assert running.get("/some/path") == (200, "hello")
    address = f"http://127.0.0.1:{running.port}/"
    line = rf"Serving {script} on {address} with .*\d, Python 3\.\d+\.\S+ \(Ctrl-C stops\)\n"
    assert re.fullmatch(line, running.stdout())
    running.stop(how)
    assert "Traceback" not in running.stderr()


def test_relative_script_and_its_neighbours(serve, folder, server):
    write(folder / "shop" / "neighbour.py", "text = 'from beside'\n")
    write(folder / "shop" / "app.py", EVALUATE + "import neighbour\n")
    running = serve("shop/app.py", "--server", server, cwd=folder)
    assert running.evaluate("neighbour.text") == "from beside"
    running.stop()


def test_flask_app_is_found(serve, folder, server):
    running = serve(write(folder / "app.py", FLASK), "--server", server)
    assert running.get() == (200, "flask")
    running.stop()


def test_named_callable(serve, folder, server):
    script = write(folder / "app.py", HELLO.replace("application", "other"))
    running = serve(f"{script}:other", "--server", server)
    assert running.get() == (200, "hello")
    running.stop()


def test_module(serve, folder, server):
    write(folder / "shop" / "__init__.py", "")
    write(folder / "shop" / "web.py", HELLO + "\nclass Site:\n    app = staticmethod(application)\n")
    for target in ["shop.web:application", "shop.web:Site.app"]:
        running = serve(target, "--server", server, cwd=folder)
        assert running.get() == (200, "hello")
        running.stop()


def test_module_with_a_closed_umask(serve, folder, server):
    write(folder / "web.py", HELLO)
    before = os.umask(0o077)
    try:
        running = serve("web:application", "--server", server, cwd=folder)
    finally:
        os.umask(before)
    assert running.get() == (200, "hello")
    running.stop()


def test_django_project(serve, folder, server):
    write(
        folder / "manage.py",
        """\
        import os
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guests.settings")
        """,
    )
    write(
        folder / "guests" / "settings.py",
        """\
        SECRET_KEY = "-"
        ALLOWED_HOSTS = ["*"]
        ROOT_URLCONF = "guests.urls"
        """,
    )
    write(
        folder / "guests" / "urls.py",
        """\
        from django.http import HttpResponse
        from django.urls import path
        urlpatterns = [path("", lambda request: HttpResponse("django"))]
        """,
    )
    write(
        folder / "guests" / "wsgi.py",
        """\
        import os
        from django.core.wsgi import get_wsgi_application
        os.environ.setdefault("DJANGO_SETTINGS_MODULE", "guests.settings")
        application = get_wsgi_application()
        """,
    )
    running = serve(folder, "--server", server)
    assert running.get() == (200, "django")
    running.stop()


def test_directory_with_one_application(serve, folder):
    write(folder / "main.py", HELLO)
    write(folder / "models.py", "application = 1\n")
    running = serve(".", cwd=folder)
    assert running.get() == (200, "hello")
    running.stop()


# ---- options


@pytest.mark.parametrize("bind", ["[::1]:{}", ":{}", "localhost:{}", "0.0.0.0:{}"])
def test_bind(serve, folder, server, bind):
    port = free_port()
    running = serve(
        write(folder / "app.py", HELLO), "--server", server, "--bind", bind.format(port), port=port
    )
    assert running.get(host="[::1]" if bind.startswith("[") else "127.0.0.1") == (200, "hello")
    running.stop()


def test_bind_to_any_free_port(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server, "--bind", "127.0.0.1:0")
    running.port = int(re.search(r"127\.0\.0\.1:(\d+)/", running.stdout())[1])
    assert running.get() == (200, "hello")
    running.stop()


def test_workers_and_threads(serve, folder, server):
    script = write(folder / "app.py", EVALUATE)
    running = serve(script, "--server", server, "--workers", "3", "--threads", "2")
    name = running.server().name()
    assert len([p for p in running.server().children() if p.name() == name]) == 3
    assert running.evaluate("environ['wsgi.multithread'], environ['wsgi.multiprocess']") == "(True, True)"
    running.stop()


def test_threads_run_at_the_same_time(serve, folder, server):
    script = write(folder / "app.py", EVALUATE + "barrier = threading.Barrier(4)\n")
    running = serve(script, "--server", server, "--workers", "1", "--threads", "6")
    answers = []
    waiting = [
        threading.Thread(target=lambda: answers.append(running.evaluate("barrier.wait(5) >= 0")))
        for _ in range(4)
    ]  # fmt: skip
    for thread in waiting:
        thread.start()
    for thread in waiting:
        thread.join()
    assert answers == ["True"] * 4
    running.stop()


def test_mount(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server, "--mount", "/shop/")
    assert f"http://127.0.0.1:{running.port}/shop/ " in running.stdout()
    names = urllib.request.quote("environ['SCRIPT_NAME'], environ['PATH_INFO']")
    assert running.get(f"/shop/a/b?{names}") == (200, "('/shop', '/a/b')")
    assert running.get(f"/shop?{names}") == (200, "('/shop', '')")
    assert running.get(f"/shopping?{names}")[0] == 404
    assert running.get(f"/?{names}")[0] == 404
    running.stop()


def test_static_files(serve, folder, server):
    write(folder / "css" / "site.css", "body {}\n")
    write(folder / "img" / "a.txt", "text\n")
    options = ["--static", "/static=css", "--static", f"/img/={folder}/img"]
    running = serve(write(folder / "app.py", HELLO), "--server", server, *options, cwd=folder)
    with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/static/site.css") as answer:
        assert (answer.read(), answer.headers["Content-Type"].split(";")[0]) == (b"body {}\n", "text/css")
    assert running.get("/img/a.txt") == (200, "text\n")
    assert running.get("/static/none")[0] == 404
    assert running.get("/other") == (200, "hello")
    running.stop()


def test_access_log(serve, folder, server):
    script, log = write(folder / "app.py", HELLO), folder / "access.log"
    for options in (["--access-log"], ["--access-log", "-"], ["--access-log", log], []):
        running = serve(script, "--server", server, *map(str, options))
        running.get("/noted")
        running.stop()
        assert ("GET /noted" in running.stdout()) == (options[-1:] in (["--access-log"], ["-"]))
    assert log.read_text().count('"GET /noted HTTP/1.1" 200') == 1


def test_log_level(serve, folder, server):
    script = write(folder / "app.py", EVALUATE + "print('printed at import')\n")
    said = {}
    for level in ["debug", "error"]:
        running = serve(script, "--server", server, "--log-level", level, "--workers", "1")
        running.evaluate("print('printed', 'now')")
        running.stop()
        said[level] = running.stderr()
        assert "printed at import" in said[level]
        assert "printed now" in said[level]
    assert "[debug]" in said["debug"] or ":debug]" in said["debug"]
    assert "debug]" not in said["error"]


def test_tracebacks_are_shown(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)
    assert running.get("/?1/0")[0] == 500
    running.stop()
    assert running.stderr().count("ZeroDivisionError: division by zero") == 1


@pytest.mark.parametrize("where", ["--python", "python", "VIRTUAL_ENV", ".venv", "venv"])
def test_python_of_a_virtual_environment(serve, folder, where):
    script = write(folder / "app.py", EVALUATE)
    venv = folder / (where if "venv" in where else "env")
    subprocess.run(["/usr/bin/python3", "-m", "venv", "--without-pip", venv], check=True)
    options = {"--python": ["--python", venv], "python": ["--python", venv / "bin" / "python"]}.get(where, [])
    env = {"VIRTUAL_ENV": str(venv) if where == "VIRTUAL_ENV" else ""}
    running = serve(script, *map(str, options), env=env, python=False)
    assert running.evaluate("sys.prefix") == str(venv)
    running.stop()


def test_system_python(serve, folder):
    env = {"VIRTUAL_ENV": "", "PATH": "/usr/sbin:/usr/bin:/bin"}
    running = serve(write(folder / "app.py", EVALUATE), env=env, python=False)
    assert running.evaluate("sys.prefix") == "/usr"
    running.stop()


def test_python_of_path_is_passed_over_when_it_does_not_work(serve, folder):
    write(folder / "bin" / "python3", "#!/bin/sh\nexit 1\n").chmod(0o755)
    env = {"VIRTUAL_ENV": "", "PATH": f"{folder}/bin:/usr/sbin:/usr/bin:/bin"}
    running = serve(write(folder / "app.py", EVALUATE), env=env, python=False)
    assert running.evaluate("sys.prefix") == "/usr"
    running.stop()


def test_environment_and_folder_are_the_callers(serve, folder, server):
    script = write(folder / "app.py", EVALUATE)
    running = serve(script, "--server", server, cwd="/usr", env={"SHOP_SETTING": 'it\'s $1 "so"'})
    assert running.evaluate("os.environ['SHOP_SETTING']") == 'it\'s $1 "so"'
    assert running.evaluate("os.environ['PATH']") == os.environ["PATH"]
    assert running.evaluate("os.getcwd()") == "/usr"
    running.stop()


@pytest.mark.parametrize("target", ["app.py", "app:application"])
def test_print_config(burrow, folder, server, target):
    write(folder / "app.py", HELLO)
    port = free_port()
    options = ["--server", server, "--bind", f"127.0.0.1:{port}", "--python", sys.prefix, "--mount", "/shop",
               "--access-log", "access.log"]  # fmt: skip
    command = [burrow, "serve", target, *options, "--print-config"]
    with socket.create_server(("127.0.0.1", port)):
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (folder / "access.log").exists()
    private = folder / "private"
    private.mkdir()
    configuration = write(private / "server.conf", done.stdout.replace("/tmp/burrow-serve", str(private)))
    check = {
        "nginx": ["nginx", "-t", "-c", configuration],
        "apache": ["apache2", "-t", "-d", private, "-f", configuration],
    }[server]
    checked = subprocess.run(check, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


def test_import_is_not_left_to_the_first_request(serve, folder, server):
    script = write(folder / "app.py", HELLO + "print('imported in', __name__)\n")
    running = serve(script, "--server", server, "--workers", "2")
    wait_for(lambda: running.stderr().count("imported in _mod_wsgi_") == 2, "an import in each worker")
    running.get()
    running.stop()
    assert running.stderr().count("imported in") == 2


@pytest.mark.parametrize("start", ["good", "SyntaxError"])
def test_reload(serve, folder, server, start):
    write(folder / "package" / "__init__.py", "")
    script = write(folder / "app.py", EVALUATE + "from package.module import value\n")
    module = write(folder / "package" / "module.py", "value = 'first'\n" if start == "good" else "value = \n")
    running = serve(script, "--server", server, "--reload")
    path = "/?value"
    assert running.get(path) == (200, "first") if start == "good" else running.get(path)[0] == 500
    write(module, "value = 'second one'\n")
    wait_for(lambda: running.get(path) == (200, "second one"), "the second version")
    write(module, "value = 'third' +\n")
    wait_for(lambda: running.get(path)[0] == 500, "the broken version")
    wait_for(lambda: "SyntaxError" in running.stderr(), "a word about it")
    write(module, "value = 'the fourth one'\n")
    wait_for(lambda: running.get(path) == (200, "the fourth one"), "the fourth version")
    wait_for(lambda: f"burrow: {module} changed, reloading" in running.stderr(), "a word about it")
    running.stop()


def test_reload_of_a_named_callable_that_does_not_import(serve, folder):
    script = write(folder / "app.py", "app = 1 +\n")
    running = serve(f"{script}:other", "--reload")
    write(script, HELLO.replace("application", "other"))
    wait_for(lambda: running.get() == (200, "hello"), "the application")
    running.stop()


def test_reload_says_what_does_not_import(serve, folder):
    running = serve(write(folder / "app.py", "app = 1 +\n"), "--reload")
    assert re.match(r"burrow: .* does not import: SyntaxError: .*app.py:1", running.stderr())
    write(folder / "app.py", HELLO.replace("application", "app"))
    wait_for(lambda: running.get() == (200, "hello"), "the application")
    running.stop()


# ---- who the workers are


@needs_root
def test_workers_are_never_root(serve, folder, server):
    script = write(folder / "app.py", EVALUATE)
    who = "os.getresuid(), os.getresgid(), os.getgroups(), os.environ['HOME'], os.environ['USER']"

    def runs_as(name, *options):
        entry = pwd.getpwnam(name)
        running = serve(script, "--server", server, *options)
        groups = sorted(os.getgrouplist(name, entry.pw_gid))
        expected = ((entry.pw_uid,) * 3, (entry.pw_gid,) * 3, groups, entry.pw_dir, name)
        assert running.evaluate(who.replace("os.getgroups()", "sorted(os.getgroups())")) == str(expected)
        running.stop()

    runs_as("www-data")
    runs_as("games", "--user", "games")
    os.chown(script, pwd.getpwnam("games").pw_uid, -1)
    runs_as("games")


@needs_root
def test_import_check_is_not_root_either(serve, folder):
    shared = folder / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    script = write(folder / "app.py", HELLO + f"import os; open('{shared}/%d' % os.getuid(), 'w')\n")
    running = serve(script)
    assert running.get() == (200, "hello")
    running.stop()
    assert [path.name for path in shared.iterdir()] == [str(pwd.getpwnam("www-data").pw_uid)]


@needs_root
@pytest.mark.parametrize("closed, mode, cure", [
    ("app.py", 0o600, "o+r"), (".", 0o700, "o+rx"), ("lib", 0o711, "o+rx"), ("..", 0o700, "o+x"),
])  # fmt: skip
def test_what_the_workers_cannot_reach(burrow, folder, closed, mode, cure):
    inner = folder / "inner"
    write(inner / "lib" / "a.txt", "")
    script = write(inner / "app.py", HELLO)
    (inner / closed).chmod(mode)
    options = ["--static", f"/lib={inner}/lib"]
    path = re.escape(str((inner / closed).resolve()))
    refused(burrow, [script, *options], rf"www-data cannot .*: chmod {re.escape(cure)} {path}, or .* --user")


@needs_root
def test_what_the_application_may_not_do(burrow, folder):
    script = write(folder / "app.py", HELLO + f"import os; os.mkdir('{folder}/data')\n")
    refused(burrow, [script], r"PermissionError: .*/app.py:4\); allow it to the user www-data, or .* --user")


# ---- the end


def test_an_answer_in_progress_is_finished(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)
    answers = []
    slow = threading.Thread(target=lambda: answers.append(running.evaluate("time.sleep(1.5) or 'whole'")))
    slow.start()
    time.sleep(0.5)
    running.stop()
    slow.join()
    assert answers == ["whole"]


def test_a_hanging_application_is_ended(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)

    def hang():
        with contextlib.suppress(Exception):
            running.evaluate("time.sleep(1000)")

    slow = threading.Thread(target=hang)
    slow.start()
    time.sleep(0.5)
    running.stop(timeout=12)
    slow.join()


def test_a_second_ctrl_c_is_quicker(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE), "--server", server)

    def hang():
        with contextlib.suppress(Exception):
            running.evaluate("time.sleep(1000)")

    slow = threading.Thread(target=hang)
    slow.start()
    time.sleep(0.3)
    began, tree, directory = time.monotonic(), running.tree(), running.directory()
    for _ in range(3):
        running.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    assert running.process.wait(5) == 0
    assert time.monotonic() - began < 3
    running.nothing_is_left(tree, directory)
    slow.join()


def test_exit_functions_run(serve, folder, server):
    note = folder / "note"
    note.mkdir()
    note.chmod(0o777)
    script = write(folder / "app.py", HELLO + f"import atexit; atexit.register(open, '{note}/ended', 'w')\n")
    running = serve(script, "--server", server, "--workers", "1")
    running.get()
    running.stop()
    assert (note / "ended").exists()


def test_children_of_the_application_end(serve, folder, server):
    running = serve(write(folder / "app.py", EVALUATE + "import subprocess\n"), "--server", server)
    start = "subprocess.Popen(['sleep', '1000'], start_new_session={}).pid"
    children = [psutil.Process(int(running.evaluate(start.format(apart)))) for apart in (False, True)]
    running.stop()
    assert not alive(children)


@pytest.mark.parametrize("user", [None, pytest.param("nobody", marks=needs_root)])
def test_kill_9(serve, folder, server, user):
    running = serve(write(folder / "app.py", HELLO), "--server", server, user=user)
    tree, directory = running.tree(), running.directory()
    running.process.kill()
    running.process.wait()
    running.nothing_is_left(tree, directory, timeout=5)


def test_stop_while_it_starts(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    for pause in (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.25):
        options = ["--server", server, "--bind", f"127.0.0.1:{free_port()}", "--python", sys.prefix]
        process = subprocess.Popen([burrow, "serve", script, *options], stderr=subprocess.DEVNULL)
        time.sleep(pause)
        tree = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        began = time.monotonic()
        assert process.wait(12) in ([0, -signal.SIGTERM] if pause == 0 else [0])
        assert time.monotonic() - began < 3
        # What a check has started may take a moment longer.
        wait_for(lambda: not alive(tree), "the end of all", 1)  # noqa: B023
        assert not list(private_dirs(folder))


def test_kill_9_of_both_its_processes(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server)
    tree, directory = running.tree(), running.directory()
    for process in (running.process, next(p for p in tree if p.name() == "burrow")):
        process.kill()
    wait_for(lambda: not alive(tree), "the end of the server", 5)
    shutil.rmtree(directory)


def test_the_server_dies(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server)
    tree, directory = running.tree(), running.directory()
    running.server().kill()
    assert running.process.wait(10) == 128 + signal.SIGKILL
    running.nothing_is_left(tree, directory)
    assert re.search(r"^burrow: .* ended by itself, by signal SIGKILL$", running.stderr(), re.M)


@pytest.mark.parametrize("reader", ["has left", "has stopped reading"])
def test_nobody_reads_what_it_says(burrow, folder, server, reader):
    script = write(folder / "app.py", EVALUATE)
    port = free_port()
    read, out = os.pipe()
    command = [burrow, "serve", script, "--server", server, "--python", sys.prefix, "--access-log",
               "--reload", "--bind", f"127.0.0.1:{port}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=out, stderr=out)
    os.close(out)
    wait_for(lambda: b"Serving" in os.read(read, 4096), "the start")
    if reader == "has left":
        os.close(read)
        write(script, EVALUATE + "# changed\n")
        time.sleep(0.7)
        for _ in range(20):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/?print(1)") as answer:
                assert answer.read() == b"None"
    else:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/?print('x'*10**6)", timeout=1)
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(12) == 0
    assert not alive(tree)
    assert not list(private_dirs(folder))


def test_nohup(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    port = free_port()
    # nohup's disposition of SIGHUP, and that of SIGCHLD under some parents
    command = ["sh", "-c", 'trap "" HUP CHLD; exec "$0" "$@"', burrow, "serve", script, "--server", server,
               "--python", sys.prefix, "--bind", f"127.0.0.1:{port}"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert "Serving" in process.stdout.readline()
    process.send_signal(signal.SIGHUP)
    time.sleep(0.2)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
        assert answer.read() == b"hello"
    tree = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    assert process.wait(12) == 0
    assert not alive(tree)
    process.stdout.close()


def test_hangup(serve, folder, server):
    running = serve(write(folder / "app.py", HELLO), "--server", server)
    tree, directory = running.tree(), running.directory()
    running.process.send_signal(signal.SIGHUP)
    running.process.wait(5)
    running.nothing_is_left(tree, directory, timeout=5)


# ---- refusals


def refused(burrow, arguments, expected, env=None, cwd=None):
    """Exit code 2 within two seconds, one line, nothing left."""
    began = time.monotonic()
    command = [burrow, "serve", *map(str, arguments)]
    if "--python" not in arguments:
        command += ["--python", sys.prefix]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=cwd, env={**os.environ, **(env or {})}, timeout=20
    )
    took = time.monotonic() - began
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert re.match(f"burrow: .*{expected}", done.stderr), done.stderr
    assert took < 2
    folder = cwd or pathlib.Path(arguments[0]).parent
    assert not list(private_dirs(folder))


def test_port_in_use(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    with socket.create_server(("127.0.0.1", 0)) as busy:
        address = f"127.0.0.1:{busy.getsockname()[1]}"
        refused(burrow, [script, "--server", server, "--bind", address], f"{address} is in use.*--bind")


@pytest.mark.parametrize("option, value, expected", [
    ("--bind", "8000", "ADDR:PORT"),
    ("--bind", "127.0.0.1:99999", "ADDR:PORT"),
    ("--bind", "192.0.2.1:8000", "not an address of this machine"),
    ("--server", "lighttpd", "nginx, apache"),
    ("--workers", "0", "--workers"),
    ("--workers", "many", "--workers"),
    ("--threads", "0", "--threads"),
    ("--threads", "-1", "--threads"),
    ("--mount", "shop", "starting with a slash"),
    ("--mount", "/a b", "starting with a slash"),
    ("--static", "/static", "URL=DIR"),
    ("--static", "static=/usr", "starting with a slash"),
    ("--static", "/static=/no/such", "no directory /no/such"),
    ("--log-level", "loud", "debug, info, notice, warn, error"),
    ("--access-log", "/no/such/access.log", "cannot write /no/such/access.log.*--access-log"),
    ("--python", "/no/such/python", "no Python at /no/such/python.*--python"),
    ("--python", "/usr/bin/yes", "/usr/bin/yes is not a working Python 3.*--python"),
    ("--python", "/usr/bin/true", "/usr/bin/true is not a working Python 3.*--python"),
    ("--user", "no-such-user", "--user"),
    ("--frobnicate", "1", "--frobnicate"),
])  # fmt: skip
def test_bad_options(burrow, folder, option, value, expected):
    refused(burrow, [write(folder / "app.py", HELLO), option, value], expected)


@needs_root
def test_root_is_refused(burrow, folder):
    refused(
        burrow, [write(folder / "app.py", HELLO), "--user", "root"], "application code does not run as root"
    )


@pytest.mark.parametrize("target, expected", [
    ("no-such.py", "no no-such.py"),
    ("no-such.py:app", "no script .*/no-such.py"),
    ("module", "no module"),
    ("no_such_module:app", "there is no module no_such_module for no_such_module:app in /.*; correct"),
    ("package.missing:app", "there is no module package.missing"),
    ("a-b:app", "not a module's name"),
    ("empty", "neither a manage.py nor"),
    ("two", r"several applications \(app.py, main.py\)"),
    ("django", "no wsgi.py"),
    ("asgi.py", "ASGI"),
])  # fmt: skip
def test_targets_that_are_not(burrow, folder, target, expected):
    (folder / "empty").mkdir()
    write(folder / "package" / "__init__.py", "")
    write(folder / "two" / "app.py", HELLO)
    write(folder / "two" / "main.py", HELLO)
    write(folder / "django" / "manage.py", "setdefault('DJANGO_SETTINGS_MODULE', 'none.settings')\n")
    write(folder / "asgi.py", "async def app(scope, receive, send): pass\n")
    refused(burrow, [target], expected, cwd=folder)


@pytest.mark.parametrize("text, expected", [
    ("import os\nx = (\n", r"does not import: SyntaxError: .*\(.*/app.py:2\); .*--reload"),
    ("\nimport no_such\n", r"ModuleNotFoundError: No module named 'no_such' \(.*/app.py:2\); install it"),
    ("import broken\n", r"ZeroDivisionError: division by zero \(.*/broken.py:1\)"),
    ("raise ValueError('two\\nlines')\n", r"ValueError: two lines \(.*/app.py:1\)"),
    ("raise SystemExit(3)\n", "SystemExit: 3"),
    ("import os; os._exit(3)\n", "does not import: Python ended with exit status: 3"),
    ("import os; os.kill(os.getpid(), 11)\n", "does not import: Python ended with signal: 11"),
    ("x = 1\n", "has no application nor app; name the callable like .*/app.py:NAME"),
    ("application = 1\n", "application of .* is not callable but of type int"),
])  # fmt: skip
def test_targets_that_do_not_import(burrow, folder, text, expected):
    write(folder / "broken.py", "1/0\n")
    refused(burrow, [write(folder / "app.py", text)], expected)


def test_callable_is_missing(burrow, folder):
    script = write(folder / "app.py", HELLO)
    refused(burrow, [f"{script}:other"], "has no other; name the callable")


def test_server_is_missing(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    options = ["--server", server, "--server-binary", "/no/such/server"]
    refused(burrow, [script, *options], "cannot run /no/such/server")


def test_python_without_a_runtime(burrow, folder):
    script = write(folder / "app.py", HELLO)
    copy = folder / "copy"
    shutil.copytree(burrow.parent.parent, copy, ignore=shutil.ignore_patterns("runtime"))
    refused(copy / "bin" / "burrow", [script], r"make build PYTHONS=")


def test_server_module_is_missing(burrow, folder, server):
    script = write(folder / "app.py", HELLO)
    copy = folder / "copy"
    shutil.copytree(burrow.parent.parent, copy, ignore=shutil.ignore_patterns("*burrow*.so"))
    refused(copy / "bin" / "burrow", [script, "--server", server], r"\.so is missing: make build")


def test_characters_that_a_configuration_cannot_hold(burrow, folder, server):
    script = write(folder / 'a"b' / "app.py", HELLO)
    refused(burrow, [script, "--server", server], "special characters")
    script = write(folder / "a:b" / "app.py", HELLO)
    refused(burrow, [script, "--server", server], "colon")


def test_path_with_a_space(serve, folder, server):
    running = serve(write(folder / "my app" / "app.py", HELLO), "--server", server)
    assert running.get() == (200, "hello")
    running.stop()


@pytest.mark.skipif(IS_ROOT, reason="root may do this")
def test_low_port(burrow, folder):
    refused(burrow, [write(folder / "app.py", HELLO), "--bind", "127.0.0.1:79"], "above 1023")
