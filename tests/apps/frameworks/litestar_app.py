"""Litestar."""

import asyncio
import contextlib
from typing import Annotated, Any

from litestar import Litestar, MediaType, Request, get, post, websocket_listener
from litestar.datastructures import UploadFile
from litestar.enums import RequestEncodingType
from litestar.params import Body
from litestar.response import ServerSentEvent


@contextlib.asynccontextmanager
async def lifespan(app):
    app.state.started = "in lifespan"
    yield


@get("/hello", media_type=MediaType.TEXT)
async def hello(name: str) -> str:
    return f"Hello, {name}!"


@post("/echo", status_code=200)
async def echo(request: Request) -> Any:
    return await request.json()


@post("/upload", status_code=200)
async def upload(
    data: Annotated[dict[str, UploadFile], Body(media_type=RequestEncodingType.MULTI_PART)],
) -> dict[str, int]:
    return {name: len(await file.read()) for name, file in data.items()}


@get("/events")
async def events(count: int) -> ServerSentEvent:
    async def produce():
        for number in range(count):
            yield str(number)

    return ServerSentEvent(produce())


@get("/started", media_type=MediaType.TEXT)
async def started(request: Request) -> str:
    return request.app.state.started


@get("/sync", media_type=MediaType.TEXT, sync_to_thread=True)
def sync() -> str:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "no loop"
    return "in the loop"


@websocket_listener("/talk")
async def talk(data: str) -> str:
    return data.upper()


application = Litestar(
    route_handlers=[hello, echo, upload, events, started, sync, talk],
    lifespan=[lifespan],
    openapi_config=None,
)
