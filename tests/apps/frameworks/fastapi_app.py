"""FastAPI, with pydantic's models."""

import asyncio
import contextlib
from typing import Annotated, Any

from fastapi import Body, FastAPI, Request, UploadFile, WebSocket, WebSocketDisconnect
from fastapi.responses import PlainTextResponse, StreamingResponse
from pydantic import BaseModel


@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"started": "in lifespan"}


application = FastAPI(lifespan=lifespan)


class Item(BaseModel):
    name: str
    price: float


@application.get("/hello", response_class=PlainTextResponse)
async def hello(name: str):
    return f"Hello, {name}!"


@application.post("/echo")
async def echo(body: Annotated[Any, Body()]):
    return body


@application.post("/items")
async def create(item: Item) -> Item:
    return item


@application.post("/upload")
async def upload(small: UploadFile, large: UploadFile):
    return {"small": len(await small.read()), "large": len(await large.read())}


@application.get("/events")
async def events(count: int):
    async def produce():
        for number in range(count):
            yield f"data: {number}\n\n"

    return StreamingResponse(produce(), media_type="text/event-stream")


@application.get("/started", response_class=PlainTextResponse)
async def started(request: Request):
    return request.state.started


@application.get("/sync", response_class=PlainTextResponse)
def sync():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "no loop"
    return "in the loop"


@application.get("/url", response_class=PlainTextResponse)
async def url(request: Request):
    return str(request.url_for("hello"))


@application.websocket("/talk")
async def talk(websocket: WebSocket):
    await websocket.accept()
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await websocket.send_text((await websocket.receive_text()).upper())
