"""What `burrow serve` refuses, in one line with the cure."""

import shutil
import socket

import pytest
from servers import IS_ROOT
from serving import HELLO, needs_root, refused, write


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
    ("django", "no wsgi.py or asgi.py"),
])  # fmt: skip
def test_targets_that_are_not(burrow, folder, target, expected):
    (folder / "empty").mkdir()
    write(folder / "package" / "__init__.py", "")
    write(folder / "two" / "app.py", HELLO)
    write(folder / "two" / "main.py", HELLO)
    write(folder / "django" / "manage.py", "setdefault('DJANGO_SETTINGS_MODULE', 'none.settings')\n")
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
    shutil.copytree(burrow.parent.parent, copy, ignore=shutil.ignore_patterns("cpython-*"))
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


@pytest.mark.skipif(IS_ROOT, reason="root may do this")
def test_low_port(burrow, folder):
    refused(burrow, [write(folder / "app.py", HELLO), "--bind", "127.0.0.1:79"], "above 1023")
