"""A chat of Django Channels, with Redis between processes, and its page."""

import os

from channels.generic.websocket import AsyncWebsocketConsumer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

PAGE = """<!doctype html><title>Chat</title><input id=text><ul id=log></ul><script>
const socket = new WebSocket(location.href.replace("http", "ws").replace(/[^/]*$/, "socket"));
socket.onopen = () => document.body.dataset.state = "open";
socket.onclose = (event) => document.body.dataset.state = "closed " + event.code;
socket.onmessage = (event) => {
  const line = document.createElement("li");
  line.textContent = event.data;
  document.getElementById("log").append(line);
};
document.getElementById("text").onchange = (event) => socket.send(event.target.value);
</script>"""

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="test", DATABASES={},
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {"hosts": [os.environ["CHAT_REDIS"]]},
        }
    },
)  # fmt: skip


class Chat(AsyncWebsocketConsumer):
    async def connect(self):
        await self.channel_layer.group_add("room", self.channel_name)
        await self.accept()
        await self.send(text_data=f"process {os.getpid()}")

    async def disconnect(self, code):
        await self.channel_layer.group_discard("room", self.channel_name)

    async def receive(self, text_data):
        await self.channel_layer.group_send("room", {"type": "said", "text": text_data})

    async def said(self, event):
        await self.send(text_data=event["text"])


urlpatterns = [path("page", lambda request: HttpResponse(PAGE))]
application = ProtocolTypeRouter({
    "http": get_asgi_application(),
    "websocket": URLRouter([path("socket", Chat.as_asgi())]),
})
