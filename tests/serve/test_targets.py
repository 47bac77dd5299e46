"""What `burrow serve` serves: scripts, modules, projects."""

import json
import os
import re
import signal

import httpx
import pytest
from servers import TESTS
from serving import EVALUATE, FLASK, HELLO, needs_root, write
from websockets.sync.client import connect


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


def test_django_project_without_wsgi(serve, folder):
    write(folder / "manage.py", 'os.environ.setdefault("DJANGO_SETTINGS_MODULE", "chat.settings")\n')
    write(folder / "chat" / "settings.py", "")
    write(
        folder / "chat" / "asgi.py",
        """\
        async def application(scope, receive, send):
            assert scope["type"] == "http"
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"asgi"})
        """,
    )
    running = serve(folder)
    assert running.get() == (200, "asgi")
    running.stop()


def test_asgi_example(serve, server):
    running = serve(TESTS.parent / "examples/hello/live.py", "--server", server)
    code, page = running.get()
    assert code == 200 and "<title>ASGI on Burrow</title>" in page
    with connect(f"ws://127.0.0.1:{running.port}/") as socket:
        socket.send("good day")
        assert socket.recv() == "You said: good day"
    running.stop()
    said = running.stderr()
    assert "startup is complete" in said and "shutdown is complete" in said


def test_fastapi_example(serve, server):
    # The list is in the memory of one process.
    options = ("--server", server, "--workers", "1", "--mount", "/list")
    running = serve(TESTS.parent / "examples/fastapi/app.py", *options)
    address = f"127.0.0.1:{running.port}/list"
    with (
        connect(f"ws://{address}/live") as one,
        connect(f"ws://{address}/live") as two,
        httpx.Client(base_url=f"http://{address}") as client,
    ):
        assert json.loads(one.recv()) == json.loads(two.recv()) == {}
        assert client.post("/errands", json={"text": "milk"}).json() == 1
        assert json.loads(one.recv()) == json.loads(two.recv()) == {"1": "milk"}
        assert client.post("/errands", json={"text": ""}).status_code == 422
        assert client.delete("/errands/1").status_code == 204
        assert json.loads(one.recv()) == json.loads(two.recv()) == {}
        assert client.delete("/errands/1").status_code == 404
        assert client.get("/ticks").text.split() == [str(number) for number in range(1, 11)]
        assert "Errands" in client.get("/openapi.json").text
        assert "Errands" in client.get("/").text
    running.stop()


def test_path_with_a_space(serve, folder, server):
    running = serve(write(folder / "my app" / "app.py", HELLO), "--server", server)
    assert running.get() == (200, "hello")
    running.stop()
