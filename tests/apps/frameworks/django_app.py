"""Django's own ASGI handler."""

import asyncio

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse, JsonResponse, StreamingHttpResponse
from django.urls import path, reverse
from django.views.decorators.csrf import csrf_exempt

if not settings.configured:
    settings.configure(
        ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="test",
        DATABASES={}, DATA_UPLOAD_MAX_MEMORY_SIZE=1 << 24,
    )  # fmt: skip


async def hello(request):
    return HttpResponse(f"Hello, {request.GET['name']}!", content_type="text/plain")


@csrf_exempt
async def echo(request):
    import json

    return JsonResponse(json.loads(request.body), safe=False)


@csrf_exempt
async def upload(request):
    return JsonResponse({name: len(file.read()) for name, file in request.FILES.items()})


async def events(request):
    async def produce():
        for number in range(int(request.GET["count"])):
            yield f"data: {number}\n\n"

    return StreamingHttpResponse(produce(), content_type="text/event-stream")


def sync(request):
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return HttpResponse("no loop")
    return HttpResponse("in the loop")


async def url(request):
    return HttpResponse(request.build_absolute_uri(reverse("hello")))


urlpatterns = [
    path("hello", hello, name="hello"), path("echo", echo), path("upload", upload), path("events", events),
    path("sync", sync), path("url", url),
]  # fmt: skip
application = get_asgi_application()
