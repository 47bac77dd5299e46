"""burrow doctor, and what the log says where an interpreter with a lock of its own refuses a module."""

import json
import pwd
import re
import subprocess
import sys

import pytest
from servers import DIST, IS_ROOT
from test_interpreters import HOMES, VERSIONS

PACKAGES = ["numpy", "pydantic-core", "MarkupSafe==3.0.2", "Flask==3.1.3"]
APPS = {
    "refused": "import numpy, pydantic_core, markupsafe\nfrom hello import application\n",
    "fine": "import flask\napplication = flask.Flask(__name__)\n",
    "pure": "import wsgiref.simple_server\nfrom hello import application\n",
    "broken": "import there_is_no_such_module\n",
    "user": "import os\nraise RuntimeError(f'imported by {os.getuid()}')\n",
}


@pytest.fixture(params=VERSIONS, scope="module")
def venv(request, open_folder):
    folder = open_folder / request.param
    python = HOMES[request.param] / "bin" / "python3"
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "pip", "install", "-q", *PACKAGES]
    installed = subprocess.run(pip, stderr=subprocess.PIPE, text=True)
    if installed.returncode != 0:
        pytest.skip(f"the packages cannot be had: {installed.stderr[-200:]}")
    return folder


def doctor(*arguments, folder):
    command = [DIST / "bin" / "burrow", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def apps(open_folder):
    folder = open_folder / "apps"
    folder.mkdir(exist_ok=True)
    for name, text in {**APPS, "hello": "def application(environ, start_response): pass\n"}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


def test_modules_that_are_refused(venv, apps):
    done = doctor("--python", venv, "--json", "refused.py", folder=apps)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    refused = {each["module"]: each for each in found["refused"]}
    assert found["imports"] is False and "numpy" in found["error"]
    assert {"markupsafe._speedups", "numpy._core._multiarray_umath"} <= refused.keys()
    assert "pydantic_core._pydantic_core" in refused
    speedups = refused["markupsafe._speedups"]
    assert (speedups["package"], speedups["version"], speedups["fixed"]) == ("MarkupSafe", "3.0.2", "3.0.3")
    assert speedups["file"].startswith(str(venv)) and speedups["file"].endswith(".so")


def test_an_application_that_does_without(venv, apps):
    done = doctor("--python", venv, "fine:application", folder=apps)
    assert done.returncode == 0
    assert "it does without the modules below" in done.stdout
    assert "markupsafe._speedups of MarkupSafe 3.0.2 is refused; version 3.0.3 is not" in done.stdout


def test_an_application_in_python_alone(venv, apps):
    done = doctor("--python", venv, "pure.py", folder=apps)
    assert done.returncode == 0 and "imports" in done.stdout


def test_an_application_that_imports_nowhere(venv, apps):
    done = doctor("--python", venv, "broken.py", folder=apps)
    assert done.returncode == 1
    assert "does not import in Python" in done.stdout and "there_is_no_such_module" in done.stdout


@pytest.mark.skipif(not IS_ROOT, reason="others import as themselves")
@pytest.mark.parametrize("version", VERSIONS)
def test_root_imports_as_another_user(apps, version):
    """As `burrow serve` does: an application is never root's."""
    for options, user in (((), "www-data"), (("--user", "games"), "games")):
        done = doctor("--python", HOMES[version], *options, "user.py", folder=apps)
        assert f"imported by {pwd.getpwnam(user).pw_uid} " in done.stdout, done.stderr
    assert "does not run as root" in doctor("--user", "root", "user.py", folder=apps).stderr
    private = apps / "private"
    private.mkdir(mode=0o700, exist_ok=True)
    (private / "app.py").write_text("")
    assert "the user www-data cannot use" in doctor("private/app.py", folder=apps).stderr


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="this Python is a new one")
def test_an_old_python(apps):
    done = doctor("--python", sys.executable, "pure.py", folder=apps)
    assert done.returncode == 1 and "Python 3.12 or newer is needed" in done.stdout


def test_a_target_that_is_not_there(apps):
    done = doctor("nothing.py", folder=apps)
    assert done.returncode == 2 and "there is no nothing.py" in done.stderr


def test_the_log_gives_the_advice(nginx, venv):
    nginx.write_app("refused.py", APPS["refused"])
    nginx.start("refused.py", "one", python_home=venv, http="wsgi_per_interpreter_gil on;")
    assert nginx.get("/").status_code == 500
    log = nginx.log()
    assert re.search(r"numpy\.\S+ of numpy [\d.]+ does not load in an interpreter with a lock of its", log)
    assert "`burrow doctor` names all such modules" in log
