"""Fixtures: `serve` starts a `burrow serve` that the test talks to, `server` names either server."""

import os
import pathlib
import shutil
import signal
import stat
import tempfile

import pytest
from servers import DIST, KINDS
from serving import Serve, alive


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


@pytest.fixture(params=list(KINDS))
def server(request):
    return request.param
