"""Callables of every kind that an ASGI or WSGI application can be."""

import asyncio
import functools


async def function(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"asgi"})


async def looped(scope, receive, send):
    if scope["type"] == "lifespan":
        return
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": type(asyncio.get_running_loop()).__module__.encode()})


class Instance:
    async def __call__(self, scope, receive, send):
        await function(scope, receive, send)


instance = Instance()
method = instance.__call__


async def configured(color, scope, receive, send):
    await function(scope, receive, send)


partial = functools.partial(configured, "green")


@functools.wraps(function)
def wrapped(*args):
    return function(*args)


class Awaitable:
    """An object of it is what is awaited."""

    def __init__(self, scope, receive, send):
        self.arguments = scope, receive, send

    def __await__(self):
        return function(*self.arguments).__await__()


def factory():
    return function


def undeclared(*args):
    return function(*args) if len(args) == 3 else wsgi(*args)


def wsgi(environ, start_response):
    start_response("200 OK", [])
    return [b"wsgi"]


class WsgiInstance:
    def __call__(self, environ, start_response, more=None):
        return wsgi(environ, start_response)


wsgi_instance = WsgiInstance()


class WsgiClass:
    def __init__(self, environ, start_response):
        self.answer = wsgi(environ, start_response)

    def __iter__(self):
        return iter(self.answer)


def wsgi_factory():
    return wsgi


def bad_factory():
    return "no callable"
