"""Quart."""

import asyncio

from quart import Quart, jsonify, request, url_for, websocket

application = Quart(__name__)
state = {}


@application.before_serving
async def start():
    state["started"] = "in lifespan"


@application.get("/hello")
async def hello():
    return f"Hello, {request.args['name']}!"


@application.post("/echo")
async def echo():
    return jsonify(await request.get_json())


@application.post("/upload")
async def upload():
    files = await request.files
    return {name: len(file.read()) for name, file in files.items()}


@application.get("/events")
async def events():
    count = int(request.args["count"])

    async def produce():
        for number in range(count):
            yield f"data: {number}\n\n"

    return produce(), {"Content-Type": "text/event-stream"}


@application.get("/started")
async def started():
    return state["started"]


@application.get("/sync")
def sync():
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "no loop"
    return "in the loop"


@application.get("/url")
async def url():
    return url_for("hello", _external=True)


@application.websocket("/talk")
async def talk():
    while True:
        await websocket.send((await websocket.receive()).upper())
