"""Two requests that meet on the event loops of two interpreters; each loop has one lifespan."""

import asyncio

from meet import meet

loops = []


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    assert scope["state"] == {"loop": id(asyncio.get_running_loop())} and len(loops) == 1
    path, number = scope["path"].removeprefix(scope["root_path"]), scope["query_string"]
    answer = meet(path, int(number)) if number else "alone"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": answer.encode()})


async def lifespan(scope, receive, send):
    loops.append(asyncio.get_running_loop())
    scope["state"]["loop"] = id(loops[0])
    for event in ("startup", "shutdown"):
        assert await receive() == {"type": f"lifespan.{event}"}
        print(f"{event} of a copy")
        await send({"type": f"lifespan.{event}.complete"})
