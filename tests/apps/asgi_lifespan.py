"""ASGI applications whose lifespans are of different kinds."""

import asyncio

log = []


async def answer(send, body=b"ok"):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": body})


async def refuses(scope, receive, send):
    assert scope["type"] == "http"
    await answer(send)


async def returns(scope, receive, send):
    if scope["type"] != "lifespan":
        await answer(send)


async def fails(scope, receive, send):
    """The first time."""
    if scope["type"] == "http":
        return await answer(send)
    await receive()
    log.append(1)
    if len(log) == 1:
        return await send({"type": "lifespan.startup.failed", "message": "no database\nat all"})
    await send({"type": "lifespan.startup.complete"})
    await receive()


async def slow(scope, receive, send):
    if scope["type"] == "http":
        return await answer(send, repr(log).encode())
    await receive()
    await asyncio.sleep(0.2)
    log.append("ready")
    await send({"type": "lifespan.startup.complete"})
    await receive()


async def shutdown_fails(scope, receive, send):
    if scope["type"] == "http":
        return await answer(send)
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "still busy"})


async def dies(scope, receive, send):
    if scope["type"] == "http":
        return await answer(send)
    await receive()
    await send({"type": "lifespan.startup.complete"})
    raise KeyError("lifespan")
