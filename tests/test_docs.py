"""What the documents tell the reader to do works.

A comment before a fenced block says what happens with it, in the document's order:
    <!-- test: file PATH -->   the block is written there
    <!-- test: serve -->       a command that stays in the foreground; it ends before the next one
    <!-- test: run -->         a command that has to succeed
    <!-- test: output -->      what the last command printed
"as root" after it skips the block for other users.
"""

import contextlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

import pytest
from servers import free_port, wait_for

ROOT = pathlib.Path(__file__).resolve().parent.parent
BLOCK = re.compile(r"<!-- test: (\w+)(?: (\S*))?( ?as root)? -->\n```\w*\n(.*?)^```$", re.M | re.S)
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


class Reader:
    """Does what a document says, with a folder for /srv/hello and /usr/local, and a port of its own."""

    def __init__(self, folder):
        # The packages that a document's reader has installed.
        (folder / "venv").symlink_to(sys.prefix)
        self.folder, self.address = folder, f"127.0.0.1:{free_port()}"
        self.process = None
        self.printed = ""

    def adapt(self, text):
        text = text.replace("/usr/local", f"{self.folder}/usr/local")
        text = text.replace("/srv/hello", str(self.folder)).replace("127.0.0.1:8000", self.address)
        text = text.replace("burrow serve", f"burrow serve --bind {self.address}")
        return text.replace("sudo ", "")

    @property
    def environment(self):
        path = f"{self.folder}/usr/local/bin:{os.environ['PATH']}:/usr/sbin"
        return {**os.environ, "DESTDIR": str(self.folder), "PATH": path}

    def file(self, path, text):
        pathlib.Path(self.adapt(path)).write_text(self.adapt(text))

    def run(self, _, command):
        done = subprocess.run(
            ["bash", "-euc", self.adapt(command)],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        self.printed = done.stdout

    def output(self, _, text):
        assert self.printed == self.adapt(text)

    def serve(self, _, command):
        self.stop()
        command = ["bash", "-euc", "exec " + self.adapt(command)]
        self.process = subprocess.Popen(command, cwd=ROOT, env=self.environment)

        def answers():
            assert self.process.poll() is None, f"{command} ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://{self.address}/", timeout=30).close()
                return True

        wait_for(answers, f"an answer of {command}", timeout=30)

    def stop(self):
        if self.process:
            self.process.terminate()
            self.process.wait(30)
            self.process = None


@pytest.fixture
def reader():
    # A folder that the servers' users can enter, unlike tmp_path.
    folder = pathlib.Path(tempfile.mkdtemp(prefix="burrow-docs-"))
    folder.chmod(0o755)
    reader = Reader(folder)
    yield reader
    reader.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_document(document, reader):
    for action, argument, as_root, text in BLOCK.findall(document.read_text()):
        if not as_root or os.getuid() == 0:
            getattr(reader, action)(argument, text)
