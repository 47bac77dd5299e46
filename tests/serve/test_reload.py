"""`burrow serve --reload`."""

import re

import pytest
from servers import wait_for
from serving import EVALUATE, HELLO, write


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
