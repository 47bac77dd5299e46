"""An ASGI application without a framework: the path says what it does."""

import asyncio
import json
import os
import sys
import threading
import time
from urllib.parse import unquote

events = []


async def application(scope, receive, send):
    if scope["type"] == "lifespan":
        return await lifespan(scope, receive, send)
    name = scope["path"].removeprefix(scope["root_path"]).strip("/").partition("/")[0] or "hello"
    await globals()[name](scope, receive, send)


async def lifespan(scope, receive, send):
    event = await receive()
    events.append(event["type"])
    scope["state"]["pid"] = os.getpid()
    scope["state"]["seen"] = []
    await send({"type": "lifespan.startup.complete"})
    event = await receive()
    print("lifespan:", event["type"], flush=True)
    await send({"type": "lifespan.shutdown.complete"})


async def respond(send, body, status=200, headers=()):
    headers = [(b"content-type", b"text/plain"), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def respond_json(send, value):
    await respond(send, json.dumps(value, default=lambda x: x.decode("latin-1")).encode())


async def body_of(receive):
    body, count = b"", 0
    while True:
        event = await receive()
        assert event["type"] == "http.request", event
        body, count = body + event["body"], count + 1
        if not event["more_body"]:
            return body, count


async def hello(scope, receive, send):
    await respond(send, b"Hello, World!\n")


async def large(scope, receive, send):
    await respond(send, b"x" * int(scope["query_string"]))


async def echo(scope, receive, send):
    body, _ = await body_of(receive)
    await respond(send, body)


async def scope(scope, receive, send):
    kinds = {key: type(value).__name__ for key, value in scope.items()}
    await respond_json(send, {"scope": scope, "kinds": kinds})


async def stream(scope, receive, send):
    """Each piece of the body is answered as it comes."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    more = True
    while more:
        event = await receive()
        more = event["more_body"]
        await send({"type": "http.response.body", "body": event["body"], "more_body": True})
    await send({"type": "http.response.body"})


async def endless(scope, receive, send):
    """As fast as the client takes it; how far it got is in events."""
    sent = 0
    await send({"type": "http.response.start", "status": 200})
    try:
        while True:
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            sent += 65536
            events[:] = [sent]
    except OSError as error:
        events.append(type(error).__name__)
        raise


async def told(scope, receive, send):
    """What has happened before."""
    await respond_json(send, events)


async def forget(scope, receive, send):
    events.clear()
    await respond(send, b"")


async def waits(scope, receive, send):
    """Waits for the client to leave."""
    events.append("waits")
    event = await receive()
    while event["type"] == "http.request":
        event = await receive()
    events.append(event["type"])


async def stubborn(scope, receive, send):
    """Does not look at whether the client leaves."""
    events.append("begins")
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        events.append("cancelled")
        raise


async def behind(scope, receive, send):
    """Goes on behind its answer."""
    await respond(send, b"done\n")
    event = await receive()
    while event["type"] == "http.request":
        event = await receive()
    events.append(event["type"])
    try:
        await send({"type": "http.response.body", "body": b"more"})
        events.append("sent")
    except Exception as error:
        events.append(type(error).__name__)
    await asyncio.sleep(0.05)
    events.append("end")


async def kept(scope, receive, send):
    """send() of a request that is over."""
    global late
    if scope["query_string"] == b"late":
        try:
            await late({"type": "http.response.body", "body": b"more"})
        except OSError as error:
            return await respond(send, type(error).__name__.encode())
    late = send
    await respond(send, b"kept")


async def state(scope, receive, send):
    scope["state"]["seen"].append(1)
    scope["state"]["own"] = True
    await respond_json(send, {"pid": os.getpid(), **scope["state"]})


async def tasks(scope, receive, send):
    async def both():
        return await asyncio.gather(asyncio.create_task(receive()), asyncio.sleep(0))

    event, _ = await both()
    task = asyncio.current_task()
    async with asyncio.timeout(10) if sys.version_info >= (3, 11) else Nothing():
        pass
    try:
        await asyncio.wait_for(asyncio.sleep(10), 0.01)
        timed_out = False
    except asyncio.TimeoutError:
        timed_out = True
    await respond_json(send, [event["type"], task is not None, timed_out, task in asyncio.all_tasks()])


class Nothing:
    async def __aenter__(self): ...
    async def __aexit__(self, *exc): ...


async def status(scope, receive, send):
    await respond(send, b"body", status=int(scope["query_string"]))


async def file(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.pathsend", "path": scope["query_string"].decode()})


async def parts(scope, receive, send):
    """Of a file, as the query's expression has them; and where it is read next."""
    path, _, parts = unquote(scope["query_string"].decode()).partition("&")
    with open(path, "rb") as file:
        await send({"type": "http.response.start", "status": 200})
        for part in eval(parts):
            if isinstance(part, bytes):
                await send({"type": "http.response.body", "body": part, "more_body": True})
            else:
                part.setdefault("file", file)
                await send({"type": "http.response.zerocopysend", "more_body": True, **part})
        events[:] = [file.tell()]
        await send({"type": "http.response.body"})


async def hints(scope, receive, send):
    hint = {"type": "http.response.early_hint"}
    await send({**hint, "links": [b"</a.css>; rel=preload", b"</b.css>; rel=preload"]})
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-last", b"yes")]})
    await send({**hint, "links": iter([b"</c.css>; rel=preload"])})
    await send({"type": "http.response.body", "body": b"hinted", "more_body": True})
    await send({**hint, "links": [b"</late.css>"]})
    await send({"type": "http.response.body"})


async def many_hints(scope, receive, send):
    for number in range(20):
        await send({"type": "http.response.early_hint", "links": [b"</%d.css>" % number]})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"hinted"})


async def trailers(scope, receive, send):
    """The query: the status."""
    start = {"type": "http.response.start", "status": int(scope["query_string"] or 200), "trailers": True}
    await send({**start, "headers": [(b"content-length", b"4"), (b"trailer", b"x-sum")]})
    await send({"type": "http.response.body", "body": b"bo", "more_body": True})
    await send({"type": "http.response.body", "body": b"dy"})
    trailers = {"type": "http.response.trailers"}
    await send({**trailers, "headers": [(b"x-sum", b"1")], "more_trailers": True})
    await send({**trailers, "headers": iter([(b"x-sum", b"2"), (b"x-end", b"yes")])})


async def trailers_alone(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "trailers": True})
    await send({"type": "http.response.body"})
    await send({"type": "http.response.trailers", "headers": [(b"x-end", b"yes")]})


async def without_trailers(scope, receive, send):
    """Promises some."""
    await send({"type": "http.response.start", "status": 200, "trailers": True})
    await send({"type": "http.response.body", "body": b"body"})


async def wrong_trailers(scope, receive, send):
    """What is raised for each goes out in a trailer."""
    trailers = {"type": "http.response.trailers"}
    raised = []

    async def refused(event):
        try:
            await send(event)
        except Exception as error:
            raised.append(f"{type(error).__name__}: {error}")

    await refused(trailers)
    await send({"type": "http.response.start", "status": 200, "trailers": True})
    await refused(trailers)
    await send({"type": "http.response.body", "body": b"body"})
    await refused({"type": "http.response.body"})
    for name, value in [
        (b"Content-Length", b"1"), (b"transfer-encoding", b"chunked"), (b"Trailer", b"a"), (b"a b", b"c"),
        (b"a", b"b\r\nc: d"), (b"a", b"\0"), ("a", b"b"),
    ]:  # fmt: skip
        await refused({**trailers, "headers": [(name, value)]})
    await send({**trailers, "headers": [(b"raised", "|".join(raised).encode())]})
    await refused(trailers)
    events[:] = [raised[-1]]


async def silent(scope, receive, send):
    pass


async def half(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})


async def cut(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"x" * 100, "more_body": True})


async def raises(scope, receive, send):
    raise KeyError("before")


async def raises_late(scope, receive, send):
    await cut(scope, receive, send)
    raise KeyError("late")


async def raises_behind(scope, receive, send):
    await respond(send, b"whole\n")
    raise KeyError("behind")


async def exits(scope, receive, send):
    sys.exit(3)


async def wrong(scope, receive, send):
    """Sends what the query names, and answers with what was raised."""
    start = {"type": "http.response.start", "status": 200}
    wrong = {
        "kind": {"type": "http.response.nonsense"},
        "untyped": {"status": 200},
        "nothing": None,
        "body": {"type": "http.response.body", "body": b""},
        "status": {"type": "http.response.start", "status": "200"},
        "low": {"type": "http.response.start", "status": 99},
        "statusless": {"type": "http.response.start"},
        "text": {**start, "headers": [("a", "b")]},
        "three": {**start, "headers": [(b"a", b"b", b"c")]},
        "newline": {**start, "headers": [(b"a", b"b\r\nc: d")]},
        "nul": {**start, "headers": [(b"a", b"b\0")]},
        "name": {**start, "headers": [(b"a b", b"c")]},
        "linkless": {"type": "http.response.early_hint"},
        "link": {"type": "http.response.early_hint", "links": [b"a\r\nb: c"]},
        "lengths": {**start, "headers": [(b"content-length", b"1"), (b"content-length", b"2")]},
    }[scope["query_string"].decode()]
    try:
        await send(wrong)
    except Exception as error:
        return await respond(send, f"{type(error).__name__}: {error}".encode())
    await respond(send, b"nothing was raised")


async def lengths(scope, receive, send):
    length, sent = scope["query_string"].split(b"-")
    headers = [(b"content-length", length)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"x" * int(sent)})


async def twice(scope, receive, send):
    await respond(send, b"once")
    await send({"type": "http.response.start", "status": 200})


async def kinds(scope, receive, send):
    """What is like bytes is a body, too."""
    headers = iter([[b"X-A", b"1"], (b"x-a", b"2")])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": bytearray(b"array "), "more_body": True})
    await send({"type": "http.response.body", "body": memoryview(b"view")})


async def shrinking(scope, receive, send):
    """The list of headers loses most of them while it is read."""
    headers = []

    def header():
        del headers[1:]
        yield from (b"x-a", b"1")

    headers += [header(), *((b"x-b", b"%d" % number) for number in range(10_000))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b"one header"})


async def blocked(scope, receive, send):
    """Keeps the loop's thread until there is a file of this name; behind the first pieces, while there is."""
    while not os.path.exists(scope["query_string"]):
        time.sleep(0.01)
    await send({"type": "http.response.start", "status": 200})
    for piece in b"un", b"blocked":
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    while os.path.exists(scope["query_string"]):
        time.sleep(0.01)
    await send({"type": "http.response.body", "body": b"\n"})


async def order(scope, receive, send):
    """Behind a first byte: what comes first, the next request or what was due before the loop heard of it."""
    loop = asyncio.get_running_loop()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b" ", "more_body": True})
    while loop._ready:
        await asyncio.sleep(0)
    events.clear()
    loop.call_later(0, events.append, "timer")
    loop._selector.select(1)  # until there is something to hear
    for _ in range(3):
        await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": json.dumps(events).encode()})


async def begins(scope, receive, send):
    events.append("begins")
    await respond(send, b"")


async def path_of(scope, receive, send):
    await respond(send, f"{scope['root_path']}|{scope['path']}".encode())


async def threaded(scope, receive, send):
    """send() is the loop's."""

    def call():
        try:
            send({"type": "http.response.start", "status": 200})
        except RuntimeError as error:
            failures.append(str(error))

    failures = []
    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    await respond_json(send, failures)
