"""Which Python runs the application."""

import subprocess

import pytest
from serving import EVALUATE, write


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
