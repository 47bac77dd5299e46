"""An ASGI application without a framework: a page, a WebSocket that echoes, and events of its life."""

PAGE = b"""<!doctype html>
<title>ASGI on Burrow</title>
<input id="say" placeholder="say something" autofocus>
<pre id="heard"></pre>
<script>
  const socket = new WebSocket(location.href.replace("http", "ws"));
  socket.onmessage = ({data}) => heard.append(data + "\\n");
  say.onchange = () => { socket.send(say.value); say.value = ""; };
</script>
"""


async def application(scope, receive, send):
    await {"http": page, "websocket": echo, "lifespan": lifespan}[scope["type"]](receive, send)


async def page(receive, send):
    headers = [(b"content-type", b"text/html; charset=utf-8"), (b"content-length", b"%d" % len(PAGE))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


async def echo(receive, send):
    while (event := await receive())["type"] != "websocket.disconnect":
        if event["type"] == "websocket.connect":
            await send({"type": "websocket.accept"})
        else:
            await send({"type": "websocket.send", "text": f"You said: {event.get('text')}"})


async def lifespan(receive, send):
    for step in "startup", "shutdown":
        await receive()
        print(f"{step} is complete")
        await send({"type": f"lifespan.{step}.complete"})
