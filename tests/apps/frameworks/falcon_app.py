"""Falcon's ASGI applications."""

import falcon.asgi
from falcon.asgi import SSEvent

state = {}


class Lifespan:
    async def process_startup(self, scope, event):
        state["started"] = "in lifespan"


class Hello:
    async def on_get(self, request, response):
        response.content_type = falcon.MEDIA_TEXT
        response.text = f"Hello, {request.get_param('name')}!"


class Echo:
    async def on_post(self, request, response):
        response.media = await request.get_media()


class Upload:
    async def on_post(self, request, response):
        form = await request.get_media()
        response.media = {part.name: len(await part.stream.read()) async for part in form}


class Events:
    async def on_get(self, request, response):
        count = request.get_param_as_int("count")

        async def produce():
            for number in range(count):
                yield SSEvent(data=str(number).encode())

        response.sse = produce()


class Started:
    async def on_get(self, request, response):
        response.content_type = falcon.MEDIA_TEXT
        response.text = state["started"]


class Talk:
    async def on_websocket(self, request, websocket):
        await websocket.accept()
        try:
            while True:
                await websocket.send_text((await websocket.receive_text()).upper())
        except falcon.WebSocketDisconnected:
            pass


application = falcon.asgi.App(middleware=[Lifespan()])
multipart = application.req_options.media_handlers[falcon.MEDIA_MULTIPART]
multipart.parse_options.max_body_part_buffer_size = 1 << 24
for path, resource in {
    "/hello": Hello(), "/echo": Echo(), "/upload": Upload(), "/events": Events(), "/started": Started(),
    "/talk": Talk(),
}.items():  # fmt: skip
    # Falcon routes by the whole path, with the mount.
    application.add_route("/falcon" + path, resource)
