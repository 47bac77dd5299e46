"""The application that is measured, over ASGI."""

import asyncio
import os
import sys

HELLO = b"Hello, World!\n"
BODY10K = b"0123456789abcdef" * 640
CHUNK = b"\0" * 65536
_made = {}


async def answer(send, body):
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def hello(scope, receive, send):
    await answer(send, HELLO)


async def body10k(scope, receive, send):
    await answer(send, BODY10K)


async def echo(scope, receive, send):
    parts = []
    more = True
    while more:
        message = await receive()
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    await answer(send, b"".join(parts))


def starlette_app():
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def view(request):
        return PlainTextResponse(HELLO)

    return Starlette(routes=[Route("/framework", view)])


def django_app():
    sys.path.insert(0, os.path.dirname(__file__))
    import django_site

    return django_site.asgi()


def made(make):
    """The application that `make` gives, imported when first asked for."""
    if make not in _made:
        _made[make] = make()
    return _made[make]


async def framework(scope, receive, send):
    await made(starlette_app)(scope, receive, send)


async def django(scope, receive, send):
    await made(django_app)(scope, receive, send)


async def pause(scope, receive, send):
    await asyncio.sleep(0.01)
    await answer(send, HELLO)


async def stream(scope, receive, send):
    """1 MiB in chunks of 64 KiB."""
    headers = [(b"content-type", b"application/octet-stream")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for _ in range(16):
        await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def mark(scope, receive, send):
    """As that of app.py."""
    os.getloadavg()
    await answer(send, HELLO)


async def websocket(scope, receive, send):
    """Echoes."""
    if scope["type"] != "websocket":
        raise NotImplementedError(scope["type"])
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        await send({**message, "type": "websocket.send"})


VIEWS = (hello, body10k, echo, framework, django, pause, stream, mark)
ROUTES = {f"/{view.__name__}": view for view in VIEWS}


async def application(scope, receive, send):
    if scope["type"] != "http":
        return await websocket(scope, receive, send)
    await ROUTES[scope["path"]](scope, receive, send)
