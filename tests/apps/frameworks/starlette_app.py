"""Starlette."""

import asyncio
import contextlib

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute


@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"started": "in lifespan"}


async def hello(request):
    return PlainTextResponse(f"Hello, {request.query_params['name']}!")


async def echo(request):
    return JSONResponse(await request.json())


async def upload(request):
    async with request.form() as form:
        return JSONResponse({name: len(await file.read()) for name, file in form.items()})


async def events(request):
    async def produce():
        for number in range(int(request.query_params["count"])):
            yield f"data: {number}\n\n"
            if number % 100 == 0:
                await asyncio.sleep(0)

    return StreamingResponse(produce(), media_type="text/event-stream")


async def started(request):
    return PlainTextResponse(request.state.started)


def sync(request):
    """On a thread of the framework's own."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return PlainTextResponse("no loop")
    return PlainTextResponse("in the loop")


async def url(request):
    return PlainTextResponse(str(request.url_for("hello")))


async def talk(websocket):
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text.upper())


application = Starlette(
    lifespan=lifespan,
    routes=[
        Route("/hello", hello, name="hello"),
        Route("/echo", echo, methods=["POST"]),
        Route("/upload", upload, methods=["POST"]),
        Route("/events", events),
        Route("/started", started),
        Route("/sync", sync),
        Route("/url", url),
        WebSocketRoute("/talk", talk),
    ],
)
