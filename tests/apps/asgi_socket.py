"""WebSockets without a framework: the path says what becomes of one."""

import asyncio
import json

events = []


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(receive, send)
    name = scope["path"].removeprefix(scope["root_path"]).strip("/") or "hello"
    await globals()[name](scope, receive, send)


async def lifespan(receive, send):
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    print("<shut down>", flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def respond(send, body):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


async def hello(scope, receive, send):
    await respond(send, b"Hello, World!\n")


async def told(scope, receive, send):
    """What has happened since somebody asked last."""
    await respond(send, json.dumps(events).encode())
    events.clear()


async def body(scope, receive, send):
    """Each piece as it comes."""
    await send({"type": "http.response.start", "status": 200})
    more = True
    while more:
        event = await receive()
        more = event["more_body"]
        await send({"type": "http.response.body", "body": event["body"], "more_body": more})


async def large(scope, receive, send):
    await respond(send, b"x" * int(scope["query_string"]))


async def sleep(scope, receive, send):
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        events.append("cancelled")
        raise


async def accept(receive, send, **event):
    assert await receive() == {"type": "websocket.connect"}
    await send({"type": "websocket.accept", **event})


async def echo(scope, receive, send):
    """Until the client goes; what it said last is told."""
    subprotocol = scope["subprotocols"][-1] if scope["subprotocols"] else None
    await accept(receive, send, subprotocol=subprotocol, headers=[(b"x-echo", b"yes")])
    event = await receive()
    while event["type"] == "websocket.receive":
        await send({**event, "type": "websocket.send"})
        event = await receive()
    events.append(event)
    assert event == await receive()
    try:
        await send({"type": "websocket.send", "text": "too late"})
    except OSError as error:
        events.append(type(error).__name__)


async def describe(scope, receive, send):
    await accept(receive, send)
    await send({"type": "websocket.send", "text": json.dumps(scope, default=lambda x: x.decode("latin-1"))})
    await send({"type": "websocket.close", "code": 4321, "reason": "döne"})
    events.append(await receive())


async def flood(scope, receive, send):
    """As fast as the client takes it; how far it got is told."""
    await accept(receive, send)
    sent = 0
    try:
        while True:
            await send({"type": "websocket.send", "bytes": b"x" * 65536})
            sent += 65536
            events[:] = [sent]
    except OSError:
        events.append("gone")


async def deaf(scope, receive, send):
    """Listens once somebody has asked for it."""
    await accept(receive, send)
    deaf.ear = asyncio.Event()
    await deaf.ear.wait()
    count = 0
    while (event := await receive())["type"] == "websocket.receive":
        count += len(event["bytes"])
        await send({"type": "websocket.send", "text": str(count)})


async def listen(scope, receive, send):
    deaf.ear.set()
    await respond(send, b"")


async def forbidden(scope, receive, send):
    await receive()
    await send({"type": "websocket.close", "code": 4000})
    events.append(await receive())


async def denied(scope, receive, send):
    assert "websocket.http.response" in scope["extensions"]
    await receive()
    headers = [(b"content-type", b"text/plain"), (b"www-authenticate", b"Basic")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": b"who ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"are you?"})


async def raises(scope, receive, send):
    await accept(receive, send)
    raise KeyError("<raised behind accept>")


async def returns(scope, receive, send):
    await accept(receive, send)


async def unwilling(scope, receive, send):
    raise KeyError("<raised before accept>")


async def silent(scope, receive, send):
    pass


async def mistakes(scope, receive, send):
    """What is raised for events that are wrong."""
    raised = []

    async def attempt(**event):
        try:
            await send(event)
            raised.append(None)
        except Exception as error:
            raised.append(type(error).__name__)

    await receive()
    await attempt(type="websocket.send", text="too early")
    await attempt(type="websocket.accept", subprotocol="not a token")
    await attempt(type="websocket.accept", headers=[(b"sec-websocket-protocol", b"x")])
    await attempt(type="websocket.accept", headers=[(b"x-bad", b"a\r\nb: c")])
    await attempt(type="http.response.start", status=200)
    await send({"type": "websocket.accept"})
    await attempt(type="websocket.accept")
    await attempt(type="websocket.send")
    await attempt(type="websocket.send", text="a", bytes=b"b")
    await attempt(type="websocket.send", text=b"bytes")
    await attempt(type="websocket.send", bytes="text")
    await attempt(type="websocket.close", code=1005)
    await attempt(type="websocket.close", reason="x" * 124)
    await attempt(type="websocket.nonsense")
    await send({"type": "websocket.send", "text": json.dumps(raised), "bytes": None})
    await send({"type": "websocket.close"})
    raised.clear()
    await attempt(type="websocket.send", text="too late")
    await attempt(type="websocket.close")
    events.extend(raised)
