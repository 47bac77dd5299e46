"""Frameworks that speak ASGI, as their users use them, all in one process."""

import dataclasses

import pytest
import websockets.sync.client
from servers import KINDS, Mount

#: What is measured against each; what a framework does not offer it lacks.
FRAMEWORKS = {
    "starlette": set(),
    "fastapi": set(),
    "quart": set(),
    "litestar": {"url"},
    "falcon": {"url", "sync"},
    "django": {"started", "talk"},
}


def mounts(process):
    # The main interpreter: extension modules like pydantic's core refuse others.
    made = [Mount(f"/{name}", f"frameworks/{name}_app.py", group="%{GLOBAL}") for name in FRAMEWORKS]
    return [dataclasses.replace(mount, process=process) for mount in made] if process else made


@pytest.fixture(params=["nginx", "nginx-group", "apache", "apache-group"])
def site(request, started, watch):
    """The server, running, with the applications in its own processes or in a process group."""
    kind, _, process = request.param.partition("-")
    key = f"{request.param} frameworks"
    if key not in started:
        started[key] = KINDS[kind]()
        groups = {process: "threads=4"} if process else None
        started[key].start(mounts=mounts(process), groups=groups, threads=4)
    return watch(started[key])


def those_with(feature):
    names = [name for name, lacks in FRAMEWORKS.items() if feature not in lacks]
    return pytest.mark.parametrize("name", names)


@those_with("pages")
def test_pages(site, name):
    assert site.get(f"/{name}/hello?name=Burrow").text == "Hello, Burrow!"
    assert site.get(f"/{name}/missing").status_code == 404
    assert site.client.head(f"/{name}/hello?name=x").content == b""
    assert site.post(f"/{name}/echo", json=[1, {"ü": None}]).json() == [1, {"ü": None}]


@those_with("uploads")
def test_uploads(site, name):
    files = {"small": ("a", b"x"), "large": ("b", bytes(3_000_000))}
    response = site.post(f"/{name}/upload", files=files)
    assert response.json() == {"small": 1, "large": 3_000_000}, response.text


@those_with("events")
def test_an_hours_worth_of_events(site, name):
    response = site.get(f"/{name}/events?count=3600")
    assert response.headers["Content-Type"].startswith("text/event-stream")
    sent = [line.partition(":")[2].strip() for line in response.text.splitlines() if line.startswith("data:")]
    assert sent == [str(number) for number in range(3600)]


@those_with("started")
def test_lifespan(site, name):
    assert site.get(f"/{name}/started").text == "in lifespan"


@those_with("sync")
def test_what_blocks_runs_on_the_frameworks_own_threads(site, name):
    assert site.get(f"/{name}/sync").text == "no loop"


@those_with("url")
def test_urls_have_the_mount(site, name):
    assert site.get(f"/{name}/url").text == f"{site.url}/{name}/hello"


@those_with("talk")
def test_websockets(site, name):
    with websockets.sync.client.connect(f"ws://127.0.0.1:{site.port}/{name}/talk") as socket:
        for text in ("hello", "ü" * 1000, "x" * 100_000):
            socket.send(text)
            assert socket.recv(timeout=30) == text.upper()


def test_models_are_checked(site):
    made = site.post("/fastapi/items", json={"name": "a", "price": "1.5"})
    assert made.json() == {"name": "a", "price": 1.5}
    assert site.post("/fastapi/items", json={"name": "a"}).status_code == 422
    assert "/fastapi/openapi.json" in site.get("/fastapi/docs").text
