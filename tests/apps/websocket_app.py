"""WebSockets that a test drives by what it sends."""

import asyncio
import os
import signal
import threading


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    if scope["type"] == "http":
        return await http(scope, receive, send)
    assert (await receive())["type"] == "websocket.connect"
    if scope["path"].endswith("/denied"):
        return await send({"type": "websocket.close", "code": 1000})
    await send({"type": "websocket.accept"})
    if scope["path"].endswith("/welcome"):
        await send({"type": "websocket.send", "text": "welcome"})
    while (event := await receive())["type"] == "websocket.receive":
        word, _, argument = (event.get("text") or "").partition(" ")
        if word == "pieces":  # as fast as they can be sent
            for _ in range(int(argument)):
                await send({"type": "websocket.send", "bytes": bytes(10_000)})
        elif word == "sleep":
            await asyncio.sleep(float(argument))
        elif word == "fork":
            child = os.fork()
            if child == 0:
                signal.pause()
            await send({"type": "websocket.send", "text": str(child)})
        elif word == "close":
            return await send({"type": "websocket.close", "code": int(argument)})
        else:
            await send({**event, "type": "websocket.send"})
    print("websocket.disconnect", event["code"], flush=True)


async def http(scope, receive, send):
    text = f"{os.getpid()} {threading.active_count()}"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": text.encode()})
