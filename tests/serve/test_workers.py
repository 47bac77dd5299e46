"""Who the workers of `burrow serve` are: never root."""

import os
import pwd
import re

import pytest
from serving import EVALUATE, HELLO, needs_root, refused, write


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
