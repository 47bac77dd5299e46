"""An ASGI application that subscribes to mod_wsgi's events and has metrics recorded."""

import asyncio
import json

import mod_wsgi

events = []
mod_wsgi.start_recording_metrics()
active = mod_wsgi.active_requests


@mod_wsgi.subscribe_events
def watch(name, **event):
    if name == "request_started":
        event["request_data"]["path"] = event["request_scope"]["path"]
        if event["request_scope"]["path"].endswith("/wrapped"):
            return {"application_object": wrapped}
    simple = (int, float, str, dict, list, tuple)
    events.append([name, {key: value for key, value in event.items() if isinstance(value, simple)}])


async def answer(send, value):
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    body = json.dumps(value, default=lambda x: x.decode() if isinstance(x, bytes) else repr(x)).encode()
    await send({"type": "http.response.body", "body": body[:10], "more_body": True})
    await send({"type": "http.response.body", "body": body[10:]})


async def wrapped(scope, receive, send):
    await answer(send, "wrapped")


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        raise NotImplementedError
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await send({"type": "websocket.send", "bytes": (await receive())["bytes"]})
        return await send({"type": "websocket.close"})
    name = scope["path"].removeprefix(scope["root_path"]).strip("/")
    if name == "raises":
        raise LookupError
    if name == "waits":
        await asyncio.wait_for(receive(), 60)
        return await receive()
    if name == "events":
        seen, events[:] = events[:], []
        return await answer(send, seen)
    if name == "metrics":
        return await answer(send, [mod_wsgi.request_metrics(), mod_wsgi.process_metrics()])
    if name == "active":
        return await answer(send, [data["path"] for data in active.values()])
    event = await receive()
    await answer(send, len(event["body"]))
