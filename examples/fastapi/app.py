"""A FastAPI application: a list that all windows show alike. It is in the memory of the process that serves
it, so there is to be one: `burrow serve --workers 1`."""

import asyncio
from contextlib import suppress

from fastapi import FastAPI, HTTPException, WebSocket, WebSocketDisconnect
from fastapi.responses import HTMLResponse, StreamingResponse
from pydantic import BaseModel, Field

app = application = FastAPI(title="Errands")
errands: dict[int, str] = {}
windows: set[WebSocket] = set()

PAGE = """<!doctype html>
<title>FastAPI on Burrow</title>
<h1>Errands</h1>
<form id="form"><input name="text" required maxlength="80" autofocus> <button>Add</button></form>
<ul id="list"></ul>
<p><a href="docs">The interface</a>, <a href="ticks">a stream</a></p>
<script>
  const here = location.href.replace(/[^/]*$/, "");
  const socket = new WebSocket(here.replace("http", "ws") + "live");
  socket.onmessage = ({data}) => {
    list.replaceChildren(...Object.entries(JSON.parse(data)).map(([number, text]) => {
      const item = document.createElement("li");
      item.textContent = text;
      item.onclick = () => fetch(here + "errands/" + number, {method: "DELETE"});
      return item;
    }));
  };
  form.onsubmit = event => {
    event.preventDefault();
    const body = JSON.stringify({text: form.text.value});
    fetch(here + "errands", {method: "POST", body, headers: {"content-type": "application/json"}});
    form.reset();
  };
</script>
"""


class Errand(BaseModel):
    text: str = Field(min_length=1, max_length=80)


async def tell():
    for window in list(windows):
        with suppress(WebSocketDisconnect, RuntimeError):  # it has just left
            await window.send_json(errands)


@app.get("/", response_class=HTMLResponse)
async def page():
    return PAGE


@app.post("/errands", status_code=201)
async def add(errand: Errand) -> int:
    number = max(errands, default=0) + 1
    errands[number] = errand.text
    await tell()
    return number


@app.delete("/errands/{number}", status_code=204)
async def remove(number: int):
    if errands.pop(number, None) is None:
        raise HTTPException(404)
    await tell()


@app.get("/ticks")
async def ticks():
    async def count():
        for number in range(1, 11):
            yield f"{number}\n"
            await asyncio.sleep(0.1)

    return StreamingResponse(count(), media_type="text/plain")


@app.websocket("/live")
async def live(window: WebSocket):
    await window.accept()
    windows.add(window)
    try:
        await window.send_json(errands)
        async for _ in window.iter_text():
            pass
    finally:
        windows.discard(window)
